# SPDX-License-Identifier: PostgreSQL
"""Restart without dropping: a new pgshuntd takes over from the one that runs."""
import os
import select
import signal
import socket
import stat
import subprocess
import threading

import pytest

import pgwire
from proxy import ConsoleError, program
from pgwire import errors, query, rows, wait_for
from servers import SLOW
from service import Manager, listen_tcp, listen_unix, start

pytestmark = pytest.mark.threads


def ended(process, code=0):
    assert process.wait(30 * SLOW) == code


class Load:
    """Clients that connect again and again, and some that stay; what went wrong."""

    def __init__(self, proxy, comers=3, stayers=2):
        self.proxy, self.stop, self.failed, self.logins = proxy, threading.Event(), [], 0
        self.threads = [threading.Thread(target=self.guard, args=(work,))
                        for work, count in ((self.come, comers), (self.stay, stayers))
                        for _ in range(count)]

    def guard(self, work):
        try:
            while not self.stop.is_set():
                work()
        except BaseException as error:  # shown at the end
            self.failed.append(error)

    def come(self):
        with self.proxy.wire() as conn:
            assert conn.value("SELECT 42") == "42"
        self.logins += 1

    def stay(self):
        with self.proxy.wire() as conn:
            for n in range(200):
                if self.stop.is_set():
                    break
                assert conn.value("SELECT %d" % n) == str(n)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def more(self, count=20):
        wanted = self.logins + count
        wait_for(lambda: self.failed or self.logins >= wanted, 60 * SLOW, "logins")
        assert not self.failed, self.failed

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(60 * SLOW)


def test_under_load_several_times(make_proxy):
    """No connection is refused, no request fails; every process ends when its clients have."""
    proxy = make_proxy(pool_size=5, log_level="info", pid_file="pid", start=False)
    proxy.settings["unix_socket_directory"] = proxy.folder
    proxy.write()
    proxy.start()
    pid_file = os.path.join(proxy.folder, "pid")
    path = os.path.join(proxy.folder, ".s.PGSQL.%d" % proxy.port)
    with Load(proxy) as load:
        load.more()
        for _ in range(3):
            former = proxy.takeover()
            assert former.pid != proxy.process.pid
            load.more()
            ended(former)
            with open(pid_file) as file:
                assert int(file.read()) == proxy.process.pid
            with pgwire.Conn(proxy.folder, proxy.port) as conn:
                conn.login("app", "p1")
                assert conn.value("SELECT 1") == "1"
    assert not load.failed, load.failed
    assert proxy.log().count("took over from pid") == 3
    proxy.stop()
    assert not os.path.exists(pid_file) and not os.path.exists(path)
    assert not os.path.exists(os.path.join(proxy.state, "takeover"))


def test_clients_stay_as_long_as_they_want(make_proxy):
    """In their transactions and sessions, and their cancel requests find them, over two takeovers."""
    proxy = make_proxy(workers=1)
    with proxy.wire() as old:
        old.query("BEGIN")
        assert old.query("CREATE TEMP TABLE mine AS SELECT 1 AS a")
        first = proxy.takeover()
        with proxy.wire() as middle:
            second = proxy.takeover()
            # Each of them has the same slot in its process, and its own key.
            with proxy.wire() as new:
                assert len({conn.key for conn in (old, middle, new)}) == 3
                for conn in (old, middle, new):
                    conn.send(query("SELECT pg_sleep(120)"))
                    # A request that comes before the query has begun has no effect.
                    while conn.silent(0.2):
                        conn.cancel()
                    assert errors(conn.ready())[0]["C"] == "57014"
                pgwire.cancel(proxy.host, proxy.port, old.key[0], b"none")
                assert middle.value("SELECT 1") == new.value("SELECT 1") == "1"
        assert first.poll() is None
        # Its own clients have gone, but cancel requests go through it.
        assert second.poll() is None
    ended(first)
    ended(second)


def test_time_limit(make_proxy):
    proxy = make_proxy(takeover_timeout="1s", shutdown_timeout="1s")
    with proxy.wire() as idle, proxy.wire() as busy:
        busy.query("BEGIN")
        former = proxy.takeover()
        assert idle.value("SELECT 1") == "1"
        assert errors(idle.until("E"))[0]["C"] == "57P01"
        assert errors(busy.until("E"))[0]["C"] == "57P01"
    ended(former)


def test_end_of_the_new_one_ends_the_former(make_proxy):
    proxy = make_proxy()
    with proxy.wire() as conn:
        former = proxy.takeover()
        proxy.process.send_signal(signal.SIGTERM)
        assert errors(conn.until("E"))[0]["C"] == "57P01"
        ended(proxy.process)
        proxy.process = None
    ended(former)


@pytest.mark.parametrize("point", ["hello", "offered", "ready"])
def test_killed_while_it_takes_over(make_proxy, point):
    """The one that runs goes on, and another one can try."""
    proxy = make_proxy(log_level="info")
    running = proxy.process
    with Load(proxy, comers=1, stayers=1) as load:
        proxy.takeover(fault="takeover.%s=kill" % point, wait=False)
        ended(proxy.process, -signal.SIGKILL)
        load.more(5)
        proxy.process = running
        with proxy.console() as console:
            console("HOLD p2")
            console("RELEASE p2")
        former = proxy.takeover()
        assert former is running
        assert "took over from pid %d" % running.pid in proxy.log()
        load.more(5)
        ended(former)
    assert not load.failed, load.failed


def test_the_running_one_dies_meanwhile(make_proxy, tmp_path):
    """The new one has all it needs."""
    proxy = make_proxy(log_level="info")
    pause = str(tmp_path / "pause")
    former = proxy.takeover(fault="takeover.ready=wait:" + pause, wait=False)
    wait_for(lambda: os.path.exists(pause), 20 * SLOW, "the new process")
    former.kill()
    former.wait()
    os.unlink(pause)
    wait_for(lambda: proxy.log().count("is ready") == 2, 20 * SLOW, "the new process to serve")
    with proxy.wire() as conn:
        assert conn.value("SELECT 1") == "1"


def refused(proxy):
    """What a process says that may not take over."""
    count = len(proxy.log())
    running = proxy.takeover(wait=False)
    ended(proxy.process, 1)
    proxy.process = running
    return proxy.log()[count:]


def test_not_in_a_hold(make_proxy):
    proxy = make_proxy()
    with proxy.wire("p2") as conn, proxy.console() as console:
        console("HOLD p2 LEASE NONE")
        conn.send(query("SELECT 7"))
        assert 'database "p2" is held' in refused(proxy)
        assert proxy.held()["state"] == "held"
        console("RELEASE p2")
        assert rows(conn.ready()) == [["7"]]
        console("PAUSE p1")
        assert 'database "p1" is paused' in refused(proxy)
        console("RESUME p1")
        former = proxy.takeover()
        # The two consoles: that of the former process decides nothing any more …
        with pytest.raises(ConsoleError) as error:
            console("HOLD p2")
        assert error.value.sqlstate == "55006"
        assert console("SHOW VERSION")
        # … and the new one not yet.
        with pytest.raises(ConsoleError) as error:
            proxy.hold()
        assert error.value.sqlstate == "55006"
        assert str(former.pid) in error.value.fields["H"]
        proxy.command("RELEASE p2")
    ended(former)
    wait_for(lambda: "(pid %d) has ended" % former.pid in proxy.log(), what="the news")
    assert proxy.hold()["state"] == "held"
    proxy.command("RELEASE p2")


def test_state_goes_over(make_cluster, make_proxy):
    """A route that a swap has made, and the epochs."""
    one, two = make_cluster("one"), make_cluster("two")
    for cluster in (one, two):
        cluster.sql("CREATE DATABASE p2")
    proxy = make_proxy({"one": one, "two": two}, {"p2": "one"})
    proxy.command("HOLD p2 EPOCH 7")
    proxy.command("SWAP p2 TO two FORCE")
    proxy.command("RELEASE p2")
    former = proxy.takeover()
    ended(former)
    assert proxy.route()["server"] == "two"
    assert int(proxy.route()["epoch"]) == 7
    with proxy.wire("p2") as conn:
        assert conn.value("SHOW cluster_name") == "two"


def test_without_anybody_to_take_over_from(make_proxy):
    proxy = make_proxy(start=False)
    proxy.start(options=("--takeover",))
    with proxy.wire() as conn:
        assert conn.value("SELECT 1") == "1"
    assert "no pgshuntd runs" in proxy.log()


def test_two_at_once(make_proxy, tmp_path):
    proxy = make_proxy()
    pause = str(tmp_path / "pause")
    running = proxy.takeover(fault="takeover.ready=wait:" + pause, wait=False)
    first = proxy.process
    wait_for(lambda: os.path.exists(pause), 20 * SLOW, "the first")
    assert "another process is taking over" in refused(proxy)
    os.unlink(pause)
    ended(running)
    assert first.poll() is None
    assert proxy.process is first


def test_strangers_at_the_control_socket(make_proxy):
    """Other versions and nonsense get an answer, and change nothing."""
    proxy = make_proxy()
    path = os.path.join(proxy.state, "takeover")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    for text, answer in ((b"HELLO\nprotocol 99 120\n", b"another version"),
                         (b"HELLO\n", b"another version"),
                         (b"READY\n", b"unexpected"), (b"\0" * 100, b"unexpected")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(10 * SLOW)
            sock.connect(path)
            sock.send(text)
            reply = sock.recv(8192)
            assert reply.startswith(b"REFUSE\n") and answer in reply
            assert sock.recv(8192) == b""
    # One that knows later versions, too, is offered ours; if it leaves, all goes on.
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(10 * SLOW)
        sock.connect(path)
        sock.send(b"HELLO\nprotocol 1 7\nversion 99.0\nwhatever else\n")
        assert sock.recv(8192).startswith(b"OFFER\nprotocol 1\n")
    wait_for(lambda: "this process goes on" in proxy.log().split("HELLO")[-1], what="the end")
    ended(proxy.takeover())


def test_sockets_of_a_service_manager(make_proxy, tmp_path):
    """They go on from process to process, and it learns which is the main one."""
    manager = Manager(str(tmp_path))
    tcp, unix = listen_tcp(), listen_unix(str(tmp_path / ".s.PGSQL.1"))
    proxy = start(make_proxy(start=False), [("tcp", tcp), ("unix", unix)], env=manager.env)
    manager.wait("READY=1")
    former = proxy.process
    proxy.port = tcp.getsockname()[1]
    for sock in (tcp, unix):
        sock.close()
    for count in (2, 3):
        start(proxy, env=manager.env, options=("--takeover",))
        manager.wait("READY=1", count)
        assert manager.count("MAINPID=%d" % proxy.process.pid) == 1
        ended(former)
        former = proxy.process
        with proxy.wire() as conn, pgwire.Conn(str(tmp_path), 1) as local:
            assert conn.value("SELECT 1") == "1"
            local.login("app", "p1")
    # The end of a former process is not that of the service.
    assert manager.count("STOPPING=1") == 0
    assert os.path.exists(tmp_path / ".s.PGSQL.1")


def test_addresses_may_change(make_proxy):
    """What is new is opened, what is no longer wanted is closed; what cannot be opened is an error
    that leaves things as they are."""
    proxy = make_proxy(listen_addresses=["127.0.0.1", "127.0.0.2"])
    proxy.settings["listen_addresses"] = ["127.0.0.1", "127.0.0.3"]
    proxy.write()
    former = proxy.takeover()
    ended(former)
    for host in ("127.0.0.1", "127.0.0.3"):
        with pgwire.Conn(host, proxy.port) as conn:
            conn.login("app", "p1")
    with pytest.raises(OSError):
        pgwire.Conn("127.0.0.2", proxy.port)
    proxy.settings["listen_addresses"] = ["127.0.0.1", "192.0.2.1"]
    proxy.write()
    assert "cannot listen on 192.0.2.1" in refused(proxy)
    with proxy.wire() as conn:
        assert conn.value("SELECT 1") == "1"


# --- another version --------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def another(tmp_path_factory):
    """The same program as version 9.8.7: in a copy of it, every mention of its version is another one."""
    version = subprocess.check_output([program("pgshuntd"), "--version"], text=True).split()[1]
    with open(program("pgshuntd"), "rb") as file:
        binary = file.read()
    assert binary.count(version.encode()) > 2 and len(version) == 5
    path = str(tmp_path_factory.mktemp("another") / "pgshuntd")
    with open(path, "wb") as file:
        file.write(binary.replace(version.encode(), b"9.8.7"))
    os.chmod(path, 0o755)
    assert subprocess.check_output([path, "--version"], text=True) == "pgshuntd 9.8.7\n"
    return version, path


def test_to_another_version_and_back(make_proxy, pg, other, another):
    """Upgrade and downgrade under load: no connection fails, state and cancel requests go over."""
    version, path = another
    proxy = make_proxy({"pg": pg, "other": other}, pool_size=5, log_level="info")

    def run(binary, name):
        count = len(proxy.log())
        was = proxy.command("SHOW VERSION")[0]["version"].split()[1]
        proxy.binary = binary
        former = proxy.takeover()
        text = proxy.log()[count:]
        assert "(pgshuntd %s) asks to take over" % name in text
        assert "took over from pid %d (pgshuntd %s)" % (former.pid, was) in text, text
        assert proxy.command("SHOW VERSION")[0]["version"] == "pgshuntd " + name
        return former
    with Load(proxy) as load, proxy.wire("p2") as stays:
        load.more()
        stays.query("BEGIN")
        former = run(path, "9.8.7")
        load.more()
        stays.send(query("SELECT pg_sleep(120)"))  # through the link of the two
        while stays.silent(0.2):
            stays.cancel()
        assert errors(stays.ready())[0]["C"] == "57014"
        stays.query("ROLLBACK")
        stays.close()
        ended(former)
        wait_for(lambda: "(pid %d) has ended" % former.pid in proxy.log(), what="the news")
        epoch = proxy.hold("p2", "EPOCH 7")["epoch"]
        proxy.command("SWAP p2 TO other FORCE EPOCH " + epoch)
        proxy.command("RELEASE p2")
        former = run(None, version)
        assert proxy.route()["server"] == "other" and proxy.route()["epoch"] == epoch
        load.more()
        ended(former)
        ended(run(path, "9.8.7"))
        assert proxy.route()["server"] == "other"
        with proxy.wire("p2") as conn:
            assert conn.value("SHOW cluster_name") == "other"
        load.more()
    assert not load.failed, load.failed


class Between(threading.Thread):
    """At the control socket between two processes; edit(text) says what becomes of a message."""

    def __init__(self, path, real, edit):
        super().__init__(daemon=True)
        self.real, self.edit, self.heard = real, edit, []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(path)
        self.listener.listen(1)
        self.start()

    def run(self):
        new, _ = self.listener.accept()
        self.listener.close()
        running = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        running.connect(self.real)
        ends = {new: running, running: new}
        try:
            while True:
                for sock in select.select(list(ends), [], [])[0]:
                    data, fds, _, _ = socket.recv_fds(sock, 16384, 64)
                    if not data:
                        return
                    self.heard.append(data.decode())
                    socket.send_fds(ends[sock], [self.edit(data.decode()).encode()], fds)
                    for fd in fds:
                        os.close(fd)
        except OSError:
            pass
        finally:
            new.close()
            running.close()


def insert(text, *lines):
    """More lines behind the first one, and at the end."""
    first, rest = text.split("\n", 1)
    return first + "\n" + "".join(lines) + rest + "".join(lines)


def edit_state(proxy, change):
    """What the running process has written by the time of its offer is that of another version."""
    def edit(text):
        if text.startswith("OFFER"):
            path = os.path.join(proxy.state, "state")
            with open(path) as file:
                state = file.read()
            assert change(state) != state
            with open(path, "w") as file:
                file.write(change(state))
        return text
    return edit


# What one of the two says that is another version: who is, the change, and why it cannot be (None: it can).
FORMATS = {
    "new one knows more": ("HELLO", lambda text: insert(
        text.replace("protocol 1 1", "protocol 1 4"), "feature of later 1 2\n"), None),
    "new one tells no version": ("HELLO", lambda text: text.split("version")[0], None),
    "new one knows only later ones": ("HELLO", lambda text: text.replace("protocol 1 1", "protocol 2 3"),
                                      "it speaks another version of the handover than pgshuntd"),
    "new one tells no protocol": ("HELLO", lambda text: text.replace("protocol", "language"),
                                  "it speaks another version of the handover than pgshuntd"),
    "running one tells more": ("OFFER", lambda text: insert(text, "feature of later 1 2\n"), None),
    "running one offers a later protocol": ("OFFER", lambda text: text.replace("protocol 1", "protocol 2"),
                                            "speaks another version of the handover"),
    "running one tells no protocol": ("OFFER", lambda text: text.replace("protocol", "language"),
                                      "speaks another version of the handover"),
    "running one tells no version": ("OFFER", lambda text: text.replace("version", "edition"),
                                     "speaks another version of the handover"),
    "running one tells of no sockets": ("OFFER", lambda text: text.split("socket ")[0],
                                        "speaks another version of the handover"),
    "running one answers something else": ("OFFER", lambda text: "BARGAIN\n", "another version of the handover"),
    "running one is done otherwise": ("DONE", lambda text: insert(text, "with more words\n"), None),
}


@pytest.mark.parametrize("name", FORMATS)
def test_other_versions_of_the_handover(make_proxy, tmp_path, name):
    """Two real processes, of which one speaks as another version would: it works, or is refused in plain
    words, and the one that runs goes on; in no case does a client notice."""
    who, change, why = FORMATS[name]
    proxy = make_proxy(log_level="info")
    between = Between(str(tmp_path / "between"), os.path.join(proxy.state, "takeover"),
                      lambda text: change(text) if text.startswith(who) else text)
    judge(proxy, str(tmp_path / "between"), why)
    assert [text for text in between.heard if text.startswith(who)] and \
        all(change(text) != text for text in between.heard if text.startswith(who))
    assert not [text for text in between.heard if text.startswith("OFFER") and "\nprotocol 1\n" not in text]


STATES = {
    "later version": (lambda text: text.replace("pgshunt-state 1", "pgshunt-state 2"),
                      "was written by a later pgshuntd"),
    "a field more": (lambda text: text.replace("epoch 7", "epoch 7 colour \"red\""), "unexpected text"),
    "a kind of line more": (lambda text: text.replace("end 1", "colour \"p2\"\nend 2"), "expected database"),
    "a field less": (lambda text: text.replace(" epoch 7", ""), "expected epoch"),
    "a line less": (lambda text: text.replace("end 1", ""), "not complete"),
}


@pytest.mark.parametrize("name", STATES)
def test_state_of_another_version(make_proxy, tmp_path, name):
    change, why = STATES[name]
    proxy = make_proxy(databases={"p1": "pg", "p2": "pg"}, log_level="info")
    proxy.command("HOLD p2 EPOCH 7")
    proxy.command("RELEASE p2")
    Between(str(tmp_path / "between"), os.path.join(proxy.state, "takeover"), edit_state(proxy, change))
    judge(proxy, str(tmp_path / "between"), why)
    assert proxy.route()["epoch"] == "9"


def judge(proxy, path, why):
    """A takeover over this path: it fails for this reason, or works."""
    running = proxy.process
    real = os.path.join(proxy.state, "takeover")
    with Load(proxy, comers=2, stayers=1) as load:
        load.more(5)
        count = len(proxy.log())
        proxy.settings["takeover_socket"] = path
        proxy.write()
        if why is None:
            former = proxy.takeover()
            assert former is running and "took over from" in proxy.log()[count:]
            load.more(5)
            ended(former)
        else:
            proxy.takeover(wait=False)
            ended(proxy.process, 1)
            proxy.process = running
            assert why in proxy.log()[count:], proxy.log()[count:]
            wait_for(lambda: "this process goes on" in proxy.log()[count:], 20 * SLOW, "the running one's word")
            load.more(5)
            # It still decides, and an honest one may take over from it.
            assert proxy.hold("p2", "EPOCH 8")["state"] == "held"
            proxy.command("RELEASE p2")
            proxy.settings["takeover_socket"] = real
            proxy.write()
            ended(proxy.takeover())
            load.more(5)
            proxy.hold("p2", "EPOCH 9")
            proxy.command("RELEASE p2")
    assert not load.failed, load.failed
