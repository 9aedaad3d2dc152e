# SPDX-License-Identifier: PostgreSQL
"""Settings, options and signals that pgbouncer has too and no other test looks at."""
import ctypes
import os
import re
import signal
import socket
import subprocess
import time

import pytest

import pgwire
from fakeserver import DONE, KEY, PARAMETERS, READY, ROW, FakeServer, auth
from pgwire import errors, query, rows, wait_for
from proxy import program
from servers import SLOW, start


@pytest.mark.parametrize("fast", [False, True])
def test_server_fast_close(make_proxy, fast):
    """Idle sessions that cannot have another server end at RECONNECT at once, or stay until they leave;
    transactions are left alone."""
    proxy = make_proxy(pool_mode="session", server_fast_close=fast)
    with proxy.wire("p1") as idle, proxy.wire("p1") as busy:
        idle.query("CREATE TEMP VIEW mine AS SELECT 1")  # which does not go along to another server
        old = idle.value("SELECT pg_backend_pid()")
        busy.query("BEGIN")
        proxy.command("RECONNECT p1")
        if fast:
            assert errors(idle.rest())[0]["C"] == "57P01"
        else:
            assert idle.silent(0.5) and idle.value("SELECT pg_backend_pid()") == old
        assert busy.value("SELECT 1") == "1"
        busy.send(query("COMMIT"))
        assert pgwire.tags(busy.ready("I")) == ["COMMIT"]


def test_server_fast_close_leaves_time_to_move(make_proxy, make_cluster):
    """A new server that takes longer than the proxy's looks at the clock."""
    own = make_cluster()
    proxy = make_proxy({"own": own}, {"postgres": "own"}, pool_mode="session", server_fast_close=True)
    with proxy.wire("postgres") as conn:
        conn.query("SET work_mem = '3MB'")
        old = conn.value("SELECT pg_backend_pid()")
        own.sql("ALTER SYSTEM SET post_auth_delay = 1")
        own.sql("SELECT pg_reload_conf()")
        wait_for(lambda: own.value("SHOW post_auth_delay") == "1s", what="the delay")
        proxy.command("RECONNECT postgres")
        wait_for(lambda: conn.silent(0.2) and conn.value("SELECT pg_backend_pid()") != old, 20 * SLOW,
                 "another server")
        assert conn.value("SHOW work_mem") == "3MB"


def test_log_stats(make_proxy):
    """A line every stats_period, on demand, in pgbouncer's words."""
    proxy = make_proxy(log_stats=True, stats_period="1s", log_level="info")
    with proxy.wire("p1") as conn:
        def counted():
            conn.query("SELECT 1")
            found = re.findall(r"stats: (\d+) xacts/s, (\d+) queries/s, 0 client parses/s, 0 "
                               r"server parses/s, 0 binds/s, in (\d+) B/s, out (\d+) B/s, xact (\d+) us, query (\d+) us, wait (\d+) us", proxy.log())
            return [line for line in found if int(line[0]) > 0 and int(line[1]) > 0 and int(line[3]) > 0]
        wait_for(counted, 20 * SLOW, "a line with figures")
        proxy.command("SET log_stats = 0")
        time.sleep(0.1)
        before = proxy.log().count("stats: ")
        time.sleep(1.5)
        assert proxy.log().count("stats: ") == before


@pytest.mark.parametrize("patience", ["300ms", "1h"])
def test_cancel_wait_timeout(make_proxy, pg, patience):
    """A server that never closes the connection of a cancel request blocks the one that it was for as
    long as that, and no longer."""
    def script(peer):
        peer.startup()
        if peer.version == pgwire.CANCEL_REQUEST:
            peer.file.read(1)
            return
        peer.send(auth(0), PARAMETERS, KEY, READY)
        while peer.request():
            time.sleep(0.3)
            peer.send(ROW, DONE, READY)
    with FakeServer(script) as server:
        proxy = make_proxy({"pg": pg, "fake": server.check}, {"p1": "pg", "q": "fake"}, workers=1,
                           pool_size=1, cancel_wait_timeout=patience)
        with proxy.wire("q") as conn, proxy.wire("q") as other:
            conn.send(query("SELECT 1"))
            time.sleep(0.1)
            with pgwire.Conn(proxy.host, proxy.port) as cancel:
                cancel.send(pgwire.untyped(pgwire.struct.pack("!i", pgwire.CANCEL_REQUEST) +
                                           b"".join(conn.key)))
                assert rows(conn.ready("I")) == [["1"]]
                other.send(query("SELECT 2"))
                if patience == "1h":
                    assert other.silent(0.8)
                else:
                    assert rows(other.ready("I")) == [["1"]]
        proxy.stop()


# --- signals --------------------------------------------------------------------------------------

def test_signals_that_pause_and_resume(make_proxy):
    """SIGUSR1 is PAUSE of all databases, SIGUSR2 is RESUME; a hold of the mover's is neither's."""
    proxy = make_proxy()
    with proxy.wire("p1") as one, proxy.wire("p2") as two:
        one.value("SELECT 1")
        proxy.hold("p2", "LEASE 60s")
        proxy.process.send_signal(signal.SIGUSR1)
        wait_for(lambda: {row["name"]: row["paused"] for row in proxy.command("SHOW DATABASES")}["p1"] == "1",
                 20 * SLOW, "the pause")
        one.send(query("SELECT 'one'"))
        two.send(query("SELECT 'two'"))
        assert one.silent(0.2) and two.silent(0.1)
        proxy.process.send_signal(signal.SIGUSR2)
        assert rows(one.ready("I")) == [["one"]]
        assert two.silent(0.2)
        proxy.command("RELEASE p2")
        assert rows(two.ready("I")) == [["two"]]


# --- the command line -----------------------------------------------------------------------------

def run(proxy, *options, timeout=20):
    return subprocess.run([program("pgshuntd"), *options, "--config", proxy.config_path],
                          capture_output=True, text=True, timeout=timeout * SLOW)


def ready(path, count=1):
    wait_for(lambda: os.path.exists(path) and open(path).read().count(" is ready: ") >= count,
             20 * SLOW, "the proxy")


def test_in_the_background(make_proxy, tmp_path):
    """-d comes back at once, with the process on its own; without a log to go to it is refused."""
    proxy = make_proxy(start=False)
    refused = run(proxy, "-d")
    assert refused.returncode == 1 and "log_file" in refused.stderr
    log, pid_file = str(tmp_path / "log"), str(tmp_path / "pid")
    proxy.settings.update(log_file=log, pid_file=pid_file)
    proxy.write()
    assert run(proxy, "-d").returncode == 0
    ready(log)
    with open(pid_file) as file:
        pid = int(file.read())
    try:
        assert os.getsid(pid) != os.getsid(0)
        with proxy.wire("p1") as conn:
            assert conn.value("SELECT 1") == "1"
    finally:
        os.kill(pid, signal.SIGQUIT)
    wait_for(lambda: not os.path.exists(pid_file), 20 * SLOW, "its end")


@pytest.mark.parametrize("option,level", [("-q", None), ("-v", "DEBUG"), (None, "INFO")])
def test_quiet_and_verbose(make_proxy, tmp_path, option, level):
    """-q: nothing on stderr, all of it in the file; -v: what log_level keeps out."""
    proxy = make_proxy(start=False, log_level="info",
                       **({"log_file": str(tmp_path / "own")} if option == "-q" else {}))
    process = start([program("pgshuntd"), *([option] if option else []), "--config", proxy.config_path],
                    proxy.log_path)
    try:
        wait_for(lambda: proxy_answers(proxy), 20 * SLOW, "the proxy")
        proxy.wire("p1").close()
        log = proxy.log()
        if option == "-q":
            assert log == "" and " is ready: " in open(tmp_path / "own").read()
        else:
            wait_for(lambda: "logged in as" in proxy.log(), 20 * SLOW, "a login in the log")
            assert (" DEBUG " in proxy.log()) == (level == "DEBUG")
    finally:
        process.send_signal(signal.SIGQUIT)
        assert process.wait(20 * SLOW) == 0


def proxy_answers(proxy):
    try:
        pgwire.Conn(proxy.host, proxy.port).close()
        return True
    except OSError:
        return False


def test_import_is_in_the_help(tmp_path):
    everything = subprocess.run([program("pgshunt"), "--help"], capture_output=True, text=True, check=True)
    assert re.search(r"^  import-pgbouncer FILE\n +\S", everything.stdout, re.MULTILINE)
    alone = subprocess.run([program("pgshunt"), "import-pgbouncer", "--help"], capture_output=True, text=True,
                           check=True)
    assert alone.stdout.startswith("Usage: pgshunt import-pgbouncer FILE")
    wrong = subprocess.run([program("pgshunt"), "import-pgbouncer"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "import-pgbouncer FILE" in wrong.stderr


SYS_pidfd_getfd = 438


def options(proxy, addr, port):
    """Options of the process' own socket that leads there."""
    fd = [int(row["fd"]) for row in proxy.command("SHOW FDS")
          if row["addr"] == addr and row["port"] == str(port)][0]
    process = os.pidfd_open(proxy.process.pid)
    copy = ctypes.CDLL(None, use_errno=True).syscall(SYS_pidfd_getfd, process, fd, 0)
    os.close(process)
    assert copy >= 0, os.strerror(ctypes.get_errno())
    with socket.socket(fileno=copy) as sock:
        return (sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                *(sock.getsockopt(socket.IPPROTO_TCP, option) for option in
                  (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT,
                   socket.TCP_USER_TIMEOUT)))


def test_tcp_options(make_proxy, pg):
    """Of clients and servers; a RELOAD changes those of the connections to come."""
    with socket.socket() as fresh:
        system = tuple(fresh.getsockopt(socket.IPPROTO_TCP, option) for option in
                       (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT))
    proxy = make_proxy(tcp_keepalive_idle="1000s", tcp_keepalive_interval="7s",
                       tcp_keepalive_count=3, tcp_user_timeout="9s", workers=1)
    for settings, wanted in (({}, (1, 1000, 7, 3, 9000)),
                             ({"tcp_keepalive_idle": "20s", "tcp_user_timeout": 0}, (1, 20, 7, 3, 0)),
                             ({"tcp_keepalive_idle": 0, "tcp_keepalive_interval": 0,
                               "tcp_keepalive_count": 0}, (1, *system, 0)),
                             ({"tcp_keepalive": False}, (0, *system, 0))):
        proxy.settings.update(settings)
        proxy.write()
        proxy.command("RELOAD")  # answers when it counts
        proxy.command("RECONNECT")
        with proxy.wire() as conn:
            conn.send(query("BEGIN"))
            conn.ready("T")
            assert options(proxy, *conn.sock.getsockname()) == wanted
            assert options(proxy, pg.host, pg.port) == wanted
