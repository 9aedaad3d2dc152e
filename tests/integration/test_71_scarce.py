# SPDX-License-Identifier: PostgreSQL
"""Too few file descriptors, a full disk: whoever can be served is, and what fails says so."""
import errno
import os
import re
import resource
import signal
import time

import pytest

import pgwire
from pgwire import LoginError, query, rows, wait_for
from proxy import ConsoleError
from servers import SLOW, start, subfolder


def limit(proxy, what, soft):
    """Of the running process; the hard limit stays."""
    hard = resource.prlimit(proxy.process.pid, what)[1]
    resource.prlimit(proxy.process.pid, what, (hard if soft is None else soft, hard))


def descriptors(proxy):
    return len(os.listdir("/proc/%d/fd" % proxy.process.pid))


def cpu(proxy):
    with open("/proc/%d/stat" % proxy.process.pid) as stat:
        words = stat.read().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def lowest_free(proxy):
    """The number that the next descriptor would have."""
    numbers = {int(name) for name in os.listdir("/proc/%d/fd" % proxy.process.pid)}
    return min(set(range(len(numbers) + 1)) - numbers)


@pytest.fixture
def few(make_proxy, monkeypatch):
    """A proxy that may have so many descriptors, and cannot raise that."""
    def make(count, **settings):
        monkeypatch.setattr("proxy.start", lambda argv, *args, **kwargs: start(
            ["prlimit", "--nofile=%d:%d" % (count, count), *argv], *args, **kwargs))
        return make_proxy(pool_size=2, log_level="info", **settings)
    return make


# --- file descriptors -----------------------------------------------------------------------------

def test_logins_leave_descriptors_for_servers_and_the_console(few):
    """Who is in is served, who comes is told, the operator gets in; later there is room again."""
    proxy = few(100)
    conns = []
    with pytest.raises(LoginError) as error:
        while len(conns) < 200:
            conns.append(proxy.wire("p1"))
    assert error.value.sqlstate == "53300" and "descriptors" in str(error.value) and len(conns) > 20
    # Two databases with two server connections each, none of which was open yet.
    other = conns.pop()
    other.close()
    wait_for(lambda: ending(proxy) is None, 20 * SLOW, "room for one")
    for conn in conns[:2]:
        conn.query("BEGIN")
    for conn in conns[:2]:
        assert conn.value("SELECT 1") == "1"
        conn.query("COMMIT")
    assert [row for row in proxy.command("SHOW POOLS") if row["database"] == "p1"]
    for conn in conns:
        conn.close()
    wait_for(lambda: descriptors(proxy) < 50, 20 * SLOW, "closed descriptors")
    with proxy.wire("p2") as conn:
        assert conn.value("SELECT 2") == "2"


def ending(proxy):
    try:
        proxy.wire("p1").close()
    except LoginError as failed:
        return failed.sqlstate
    return None


def test_no_descriptor_is_left(few):
    """Connections that say nothing take all: who comes is told at once, nothing spins, and those who
    are in do not notice."""
    proxy = few(70)
    with proxy.wire("p1") as conn:
        conn.value("SELECT 1")
        silent, refused = [], []
        while len(refused) < 5 and len(silent) < 100:
            silent.append(pgwire.Conn(proxy.host, proxy.port))
            if not silent[-1].silent(0.02):
                refused.append(silent.pop())
        for told in refused:
            message = told.recv()
            assert message.fields()["C"] == "53300" and "descriptors" in message.fields()["M"]
            assert told.rest() == []
            told.close()
        before = cpu(proxy)
        time.sleep(1)
        assert cpu(proxy) - before < 0.5
        assert conn.value("SELECT 2") == "2"
        for one in silent:
            one.close()
        wait_for(lambda: ending(proxy) is None, 20 * SLOW, "room")
        assert conn.value("SELECT 3") == "3"
    lines = re.findall("ERROR cannot accept connections: Too many open files", proxy.log())
    assert 1 <= len(lines) < 20


def test_no_descriptor_for_a_server(make_proxy):
    """Its client waits, or is told why; the next one is served when there are some again."""
    proxy = make_proxy(connect_timeout="1s", server_login_retry="100ms", server_idle_timeout="200ms")
    with proxy.wire("p1") as conn, proxy.wire("p1") as other:
        conn.query("BEGIN")
        wait_for(lambda: len([row for row in proxy.command("SHOW SERVERS") if row["database"] == "p1"]) == 1,
                 20 * SLOW, "the end of unused servers")
        wait_for(lambda: proxy.log().count(" left\n") == proxy.log().count('logged in to "pgshunt"'),
                 20 * SLOW, "the end of the console")
        time.sleep(0.1)
        limit(proxy, resource.RLIMIT_NOFILE, lowest_free(proxy))
        other.send(query("SELECT 1"))
        failed = pgwire.errors(other.ready("I"))[0]
        assert "Too many open files" in failed["M"], failed
        assert conn.value("SELECT 2") == "2"
        limit(proxy, resource.RLIMIT_NOFILE, None)
        assert other.value("SELECT 3") == "3"
        conn.query("COMMIT")


# --- a full disk ----------------------------------------------------------------------------------

@pytest.fixture
def full(make_proxy, tmp_path):
    """A proxy whose files may not grow, which is what a full disk does to it; stderr is a file, too."""
    proxy = make_proxy(log_file=str(tmp_path / "proxy.log"), log_level="info")
    proxy.own_log = str(tmp_path / "proxy.log")
    yield proxy
    if proxy.process is not None and proxy.process.poll() is None:
        limit(proxy, resource.RLIMIT_FSIZE, None)


def read(path):
    with open(path, errors="replace") as file:
        return file.read()


def test_log_that_cannot_be_written(full):
    """Clients do not notice; what is missing is told in its place."""
    full.wire("p1").close()
    size = os.path.getsize(full.own_log)
    limit(full, resource.RLIMIT_FSIZE, size + 100)  # the end of a line falls off
    for _ in range(5):
        with full.wire("p1") as conn:
            assert conn.value("SELECT 1") == "1"
    assert os.path.getsize(full.own_log) <= size + 100
    limit(full, resource.RLIMIT_FSIZE, None)
    full.wire("p1").close()
    wait_for(lambda: "lines are missing here" in read(full.own_log), 20 * SLOW, "the line about it")
    assert int(re.search(r"written: (\d+) lines", read(full.own_log)).group(1)) >= 5
    lines = read(full.own_log).splitlines()
    while "missing here" not in lines[0]:
        lines.pop(0)
    for line in lines:
        assert re.match(r"\d{4}-\d\d-\d\dT", line)


def test_state_that_does_not_fit(full):
    """No hold, no swap that a restart would forget; what was held stays held, and can be released."""
    with full.wire("p1") as one, full.wire("p2") as two:
        full.hold("p1", "LEASE 60s")
        limit(full, resource.RLIMIT_FSIZE, 0)
        with pytest.raises(ConsoleError) as error:
            full.hold("p2", "LEASE 60s")
        assert error.value.sqlstate == "58030" and full.state in error.value.fields["D"]
        assert two.value("SELECT 1") == "1"
        assert full.held("p2")["state"] == "open" and full.held("p1")["state"] == "held"
        one.send(query("SELECT 'waited'"))
        assert one.silent(0.2)
        # The gate opens, and the answer says that the file is behind.
        with pytest.raises(ConsoleError) as error:
            full.command("RELEASE p1")
        assert error.value.sqlstate == "58030"
        assert rows(one.ready("I")) == [["waited"]]
        limit(full, resource.RLIMIT_FSIZE, None)
        full.command("RELEASE p1")
        full.hold("p2", "LEASE 60s")
        full.kill()
        full.start()
        assert full.held("p2")["state"] == "held" and full.held("p1")["state"] == "open"
        full.command("RELEASE p2")


def test_state_is_written_when_there_is_room(full):
    """Nobody repeats the RELEASE that could not be written: a crash does not come back held for ever."""
    full.hold("p1", "LEASE NONE")
    limit(full, resource.RLIMIT_FSIZE, 0)
    with pytest.raises(ConsoleError):
        full.command("RELEASE p1")
    limit(full, resource.RLIMIT_FSIZE, None)
    wait_for(lambda: "the state directory can be written again" in read(full.own_log), 20 * SLOW, "another write")
    full.kill()
    full.start()
    assert full.held("p1")["state"] == "open"


def test_files_at_their_limit_end_nothing(full):
    """Not a signal either: RELOAD and the end of the process work without room for a line."""
    limit(full, resource.RLIMIT_FSIZE, 0)
    full.process.send_signal(signal.SIGHUP)
    with full.wire("p1") as conn:
        assert conn.value("SELECT 1") == "1"
    full.stop(signal.SIGTERM)


class Disk:
    """A small file system, which processes see that are started with its prefix."""

    def __init__(self, path, size="256k"):
        os.mkdir(path)
        self.path = path
        self.holder = start(["unshare", "--mount", "sh", "-c",
                             'mount -t tmpfs -o size=%s,mode=755 tmpfs "$0" && exec sleep 10000' % size, path],
                            path + ".log")
        self.outside = "/proc/%d/root%s" % (self.holder.pid, path)
        wait_for(lambda: os.path.ismount(self.outside) or self.holder.poll() is not None, 20 * SLOW, "the mount")
        self.prefix = ["nsenter", "--mount", "-t", str(self.holder.pid)]

    def fill(self):
        """To the last byte."""
        with open(os.path.join(self.outside, "ballast"), "ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                while True:
                    try:
                        file.write(b"x" * size)
                    except OSError as error:
                        assert error.errno == errno.ENOSPC
                        break

    def make_room(self):
        os.unlink(os.path.join(self.outside, "ballast"))

    def read(self, name):
        return read(os.path.join(self.outside, name))

    def close(self):
        self.holder.kill()
        self.holder.wait(10)


@pytest.fixture
def disk(folder):
    made = Disk(os.path.join(subfolder(folder), "disk"))  # short: sockets are named in it
    assert made.holder.poll() is None, read(made.path + ".log")
    yield made
    made.close()


@pytest.fixture
def on_disk(make_proxy, pg, other, disk, monkeypatch):
    monkeypatch.setattr("proxy.start", lambda argv, *args, **kwargs: start([*disk.prefix, *argv], *args, **kwargs))
    return make_proxy({"pg": pg, "other": other}, log_level="info", log_file=disk.path + "/proxy.log",
                      state_directory=disk.path + "/state")


@pytest.mark.root
def test_log_on_a_full_disk(on_disk, disk):
    """Nobody notices; it is told on standard error, and in the log when there is room again.  Once, but that
    a short line may still find room in the last block after a long one has not."""
    proxy, log = on_disk, "proxy.log"
    told = written = 0
    for _ in range(2):
        disk.fill()
        size = len(disk.read(log))
        with proxy.wire("p2") as stays:
            for n in range(60):
                with proxy.wire("p1") as conn:
                    assert conn.value("SELECT 'client %d'" % n) == "client %d" % n
                assert stays.value("SELECT 2") == "2"
        proxy.process.send_signal(signal.SIGHUP)  # opens the file anew
        with proxy.console() as console:
            assert console("SHOW POOLS")
        assert len(disk.read(log)) - size < 4096  # what was left of its last block
        told, before = proxy.log().count("No space left on device"), told
        assert 1 <= told - before <= 5, proxy.log()
        disk.make_room()
        with proxy.wire("p1") as conn:
            assert conn.value("SELECT 3") == "3"
        wait_for(lambda: disk.read(log).count("lines are missing here") == told, 20 * SLOW, "the line about it")
        missing = [int(count) for count in re.findall(r"written: (\d+) lines", disk.read(log))]
        assert sum(missing[written:]) >= 30
        written = len(missing)
        wait_for(lambda: "closing because" in disk.read(log).rsplit("missing here", 1)[1], 20 * SLOW, "new lines")
    # Those of which the end fell off end where they end.
    assert all(re.match(r"\d{4}-\d\d-\d\dT|[\d-]{0,10}$", line) for line in disk.read(log).splitlines())


def no_space(command, *args):
    with pytest.raises(ConsoleError) as error:
        command(*args)
    assert error.value.sqlstate == "58030", error.value
    assert "No space left on device" in error.value.fields["D"], error.value
    assert "/disk/state/state" in error.value.fields["D"], error.value


@pytest.mark.root
def test_state_on_a_full_disk(on_disk, disk):
    """HOLD and SWAP refuse and change nothing; what was acknowledged before is there after a crash."""
    proxy = on_disk
    with proxy.wire("p1") as one, proxy.wire("p2") as two:
        assert two.value("SHOW cluster_name") == "pg" and one.value("SELECT 1") == "1"
        proxy.hold("p1", "LEASE NONE")
        disk.fill()
        with proxy.console() as console:
            no_space(console, "HOLD p2")
            no_space(console, "HOLD p2 LEASE NONE NOWAIT")
            no_space(console, "SWAP p1 TO other FORCE")
        assert proxy.held("p2")["state"] == "open" and two.value("SELECT 1") == "1"
        assert proxy.held("p1")["state"] == "held" and proxy.route("p1")["server"] == "pg"
        one.send(query("SHOW cluster_name"))
        assert one.silent(0.2)
        disk.make_room()
        proxy.command("SWAP p1 TO other FORCE")
        disk.fill()
        with proxy.console() as console:
            no_space(console, "RELEASE p1")  # the gate opens, and it says that a restart would not know
        assert rows(one.ready("I")) == [["other"]]
        proxy.kill()
        proxy.start()  # on the full disk
        assert proxy.route("p1")["server"] == "other" and proxy.held("p1")["state"] == "held"
        with proxy.wire("p2") as conn:
            assert conn.value("SELECT 2") == "2"
        disk.make_room()
        proxy.command("RELEASE p1")
        proxy.hold("p2", "LEASE NONE")
        disk.fill()
        proxy.kill()
        proxy.start()
        assert proxy.held("p2")["state"] == "held" and proxy.held("p1")["state"] == "open"
        assert proxy.route("p1")["server"] == "other"
        disk.make_room()
        proxy.command("RELEASE p2")


@pytest.mark.root
def test_takeover_on_a_full_disk(on_disk, disk):
    """With nothing held: the running process cannot write its state, says so, and goes on."""
    proxy = on_disk
    proxy.command("HOLD p2")
    disk.fill()
    with proxy.console() as console:
        no_space(console, "RELEASE p2")
    running, count = proxy.process, len(proxy.log())
    with proxy.wire("p2") as conn:
        assert conn.value("SELECT 1") == "1"
        proxy.start(wait=False, options=("--takeover",))
        assert proxy.process.wait(60 * SLOW) == 1
        proxy.process = running
        assert "refuses to hand over: its state is not written: could not write" in proxy.log()[count:]
        assert conn.value("SELECT 2") == "2"
        disk.make_room()
        proxy.command("RELEASE p2")
        assert proxy.hold("p2")["state"] == "held"
        proxy.command("RELEASE p2")
