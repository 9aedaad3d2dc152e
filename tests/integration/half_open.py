# SPDX-License-Identifier: PostgreSQL
"""Peers behind a link that drops every packet: no word of their end ever comes.  They are noticed by
keepalive probes, or by what they do not acknowledge; their places are free then, and nobody else notices.

Not a part of tests/run.sh: on a loaded machine the kernel's timers let some of them wait for minutes.

    cd tests/integration && PGSHUNT_BIN=BUILD /usr/bin/python3 -m pytest half_open.py
"""
import ctypes
import os
import shutil
import subprocess
import threading
import time

import pytest

import pgwire
from certs import Authority, TlsConn
from pgwire import query, rows, wait_for
from servers import SCHEMA, SLOW, subfolder

NFT = shutil.which("nft", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
CLONE_NEWNET = 0x40000000

pytestmark = pytest.mark.root

# Probes begin after a second, two without an answer are the end; so is what nobody acknowledges for two seconds.
QUICK = {"tcp_keepalive_idle": "1s", "tcp_keepalive_interval": "1s", "tcp_keepalive_count": 2,
         "tcp_user_timeout": "2s", "log_level": "info"}
PROBES_ONLY = {**QUICK, "tcp_user_timeout": 0}

GONE, THERE = "127.0.9.1", "127.0.9.2"  # addresses of clients, or of servers


class Link:
    """A network of this test alone, whose addresses can be cut off."""

    def __init__(self):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        if self.libc.unshare(CLONE_NEWNET) != 0:
            os.close(self.own)
            raise OSError(ctypes.get_errno(), "unshare")

    def run(self, *argv):
        subprocess.run(argv, check=True, capture_output=True)

    def cut(self, address):
        self.run(NFT, "add rule inet cut in ip daddr %s drop; add rule inet cut in ip saddr %s drop"
                 % (address, address))

    def heal(self):
        self.run(NFT, "flush chain inet cut in")

    def close(self):
        self.libc.setns(self.own, CLONE_NEWNET)
        os.close(self.own)


@pytest.fixture
def link():
    """Whatever this thread, and the processes that it starts, connect to from now on is in there."""
    made = Link()
    try:
        made.run("ip", "link", "set", "lo", "up")
        made.run(NFT, "add table inet cut; add chain inet cut in { type filter hook input priority 0; }")
        yield made
    finally:
        made.close()


@pytest.fixture
def cluster(link, make_cluster):
    made = make_cluster("behind", settings={"listen_addresses": "*"})
    for name in ("p1", "p2"):
        made.sql("CREATE DATABASE " + name)
        made.sql(SCHEMA, name)
    return made


class Bystander:
    """Somebody else, who works all the time; what went wrong, and the longest that a request took."""

    def __init__(self, proxy, dbname="p1"):
        self.conn = pgwire.Conn(proxy.host, proxy.port, source=THERE)
        self.conn.login("app2", dbname)
        self.stop, self.failed, self.longest, self.count = threading.Event(), None, 0, 0
        self.thread = threading.Thread(target=self.work)

    def work(self):
        try:
            while not self.stop.is_set():
                began = time.monotonic()
                assert self.conn.value("SELECT 42") == "42"
                self.longest = max(self.longest, time.monotonic() - began)
                self.count += 1
                time.sleep(0.01)
        except BaseException as error:
            self.failed = error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(30 * SLOW)
        self.conn.close()
        assert self.failed is None and self.count > 50, (self.failed, self.count)


def clients(proxy, user="app"):
    return [row for row in proxy.command("SHOW CLIENTS") if row["user"] == user]


def left(proxy, count=0):
    wait_for(lambda: len(clients(proxy)) == count, 30 * SLOW, "the end of a client")


@pytest.fixture
def proxied(cluster, make_proxy):
    def make(**settings):
        return make_proxy({"pg": {"host": "127.0.0.1", "port": cluster.port, "check_user": "postgres"}},
                          {"p1": "pg", "p2": "pg"}, **{**QUICK, **settings})
    return make


# --- clients ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("how", ["clear", "TLS"])
def test_client_that_does_nothing(link, cluster, proxied, folder, mode, how):
    """Idle, and inside a transaction with a lock and the only server: its place, its server and its lock
    are free a few seconds later, and who waited goes on."""
    authority = Authority(subfolder(folder), "gone-ca")
    cert, key = authority.issue("proxy", "/CN=localhost", "DNS:localhost")
    proxy = proxied(pool_mode=mode, pool_size=1, max_user_client_connections=3, client_tls_sslmode="allow",
                    client_tls_cert_file=cert, client_tls_key_file=key,
                    # What was sent last and not acknowledged keeps the probes from being sent.
                    **(PROBES_ONLY if mode == "session" else QUICK))

    def client(source):
        conn = (pgwire.Conn if how == "clear" else TlsConn)(proxy.host, proxy.port, source=source)
        conn.login("app", "p2")
        return conn
    idle, busy = client(GONE), client(GONE)
    waits = client(THERE)
    with Bystander(proxy):
        if mode == "transaction":
            idle.value("SELECT 1")
        busy.query("BEGIN")
        busy.query("LOCK TABLE items")
        waits.send(query("SELECT count(*) FROM items"))
        assert waits.silent(0.2)
        with pytest.raises(pgwire.LoginError):  # its users may have three clients
            client(THERE)
        link.cut(GONE)
        assert rows(waits.ready("I")) == [["100"]]
        left(proxy, 1)
        with client(THERE) as another:
            if mode == "transaction":
                assert another.value("SELECT 2") == "2"
        link.heal()
        assert proxy.log().count("closing because: connection lost") >= 2
        assert waits.value("SELECT 3") == "3"
    # They learn of it when they say something.
    for conn in (idle, busy):
        try:
            conn.send(query("SELECT 1"))
            assert not [msg for msg in conn.rest() if msg.kind == "D"]
        except OSError:
            pass
        conn.close()
    waits.close()


@pytest.mark.parametrize("how", ["clear", "TLS"])
def test_client_that_takes_no_more_of_its_answer(link, proxied, folder, how):
    """What is on its way to it is not acknowledged: no probe is sent then, tcp_user_timeout counts."""
    authority = Authority(subfolder(folder), "answer-ca")
    cert, key = authority.issue("proxy", "/CN=localhost", "DNS:localhost")
    proxy = proxied(pool_size=1, client_tls_sslmode="allow", client_tls_cert_file=cert,
                    client_tls_key_file=key)
    conn = (pgwire.Conn if how == "clear" else TlsConn)(proxy.host, proxy.port, source=GONE)
    conn.login("app", "p2")
    with Bystander(proxy), pgwire.Conn(proxy.host, proxy.port, source=THERE) as waits:
        waits.login("app", "p2")
        conn.send(query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"))
        conn.until("D")
        link.cut(GONE)
        waits.send(query("SELECT 1"))
        assert rows(waits.ready("I")) == [["1"]]
        left(proxy, 1)
        link.heal()
    conn.close()


def test_held_client(link, proxied):
    """Its request, which nobody has executed, and its bytes are forgotten."""
    proxy = proxied(hold_max_requests=1)
    conn = pgwire.Conn(proxy.host, proxy.port, source=GONE)
    conn.login("app", "p2")
    proxy.hold("p2", "LEASE NONE")
    conn.send(query("INSERT INTO items VALUES (930001, '%s')" % ("x" * 5000)))
    wait_for(lambda: proxy.held()["held"] == "1", 20 * SLOW, "the held request")
    with Bystander(proxy):
        link.cut(GONE)
        wait_for(lambda: proxy.held()["held"] == "0", 30 * SLOW, "its end")
        assert proxy.held()["held_bytes"] == "0"
        with pgwire.Conn(proxy.host, proxy.port, source=THERE) as other:
            other.login("app", "p2")
            other.send(query("SELECT count(*) FROM items WHERE id = 930001"))
            wait_for(lambda: proxy.held()["held"] == "1", 20 * SLOW, "the next one")
            link.heal()
            proxy.command("RELEASE p2")
            assert rows(other.ready("I")) == [["0"]]
    conn.close()


def test_console_that_is_gone(link, proxied):
    """A PAUSE that is to last as long as its console ends with it."""
    proxy = proxied()
    proxy.wire("p2").close()  # what a login tells is known from now on
    console = pgwire.Conn(proxy.host, proxy.port, source=GONE)
    console.login("pgshunt_admin", "pgshunt", "admin secret")
    console.query("PAUSE p2 ATTACHED")
    with Bystander(proxy), pgwire.Conn(proxy.host, proxy.port, source=THERE) as conn:
        conn.login("app", "p2")
        conn.send(query("SELECT 1"))
        assert conn.silent(0.3)
        link.cut(GONE)
        assert rows(conn.ready("I")) == [["1"]]
        link.heal()
    console.close()


# --- servers ----------------------------------------------------------------------------------------

@pytest.fixture
def two_ways(cluster, make_proxy):
    """p2 over a link that will be cut, p1 over another one."""
    def make(**settings):
        where = {"port": cluster.port, "check_user": "postgres"}
        return make_proxy({"far": {"host": GONE, **where}, "near": {"host": THERE, **where}},
                          {"p1": "near", "p2": "far"}, **{**QUICK, "connect_timeout": "1s", **settings})
    return make


def servers(proxy, dbname="p2"):
    return [row for row in proxy.command("SHOW SERVERS") if row["database"] == dbname]


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_idle_server_that_is_gone(link, two_ways, mode):
    """It is closed before anybody is given it; whoever comes when the link is there again is served."""
    proxy = two_ways(pool_mode=mode, **PROBES_ONLY)
    with pgwire.Conn(proxy.host, proxy.port, source=THERE) as conn:
        conn.login("app", "p2")
        conn.value("SELECT 1")
    wait_for(lambda: [row["state"] for row in servers(proxy)] == ["idle"], 20 * SLOW, "an idle server")
    pid = servers(proxy)[0]["remote_pid"]
    with Bystander(proxy):
        link.cut(GONE)
        wait_for(lambda: not servers(proxy), 30 * SLOW, "its end")
        link.heal()
        with pgwire.Conn(proxy.host, proxy.port, source=THERE) as conn:
            conn.login("app", "p2")
            assert conn.value("SELECT pg_backend_pid()") != pid


@pytest.mark.parametrize("settings", [QUICK, PROBES_ONLY], ids=["tcp_user_timeout", "probes"])
def test_server_that_is_gone_in_a_query(link, two_ways, cluster, settings):
    """A client that waits for an answer is told; one whose query was never acknowledged, too."""
    proxy = two_ways(pool_size=2, **settings)
    conns = [pgwire.Conn(proxy.host, proxy.port, source=THERE) for _ in range(2)]
    for conn in conns:
        conn.login("app", "p2")
        conn.query("BEGIN")
    conns[0].send(query("SELECT pg_sleep(100)"))
    wait_for(lambda: cluster.value("SELECT count(*) FROM pg_stat_activity WHERE query = "
                                   "'SELECT pg_sleep(100)' AND state = 'active'"), what="the query")
    with Bystander(proxy):
        time.sleep(0.3)  # by then all is acknowledged; what is not, is sent again for a long time
        link.cut(GONE)
        if settings is QUICK:
            conns[1].send(query("SELECT 1"))
        for conn in conns:
            failed = pgwire.errors(conn.rest())
            assert [fields["C"] for fields in failed] == ["08006"], failed
            conn.close()
        wait_for(lambda: not [row for row in servers(proxy) if row["state"] == "active"], 20 * SLOW, "their end")
        # Who comes now is told that it cannot be reached, and is served when it can.
        with pgwire.Conn(proxy.host, proxy.port, source=THERE) as conn:
            conn.login("app", "p2")
            failed = pgwire.errors(conn.query("SELECT 1"))
            assert [fields["C"] for fields in failed] == ["08006"], failed
            link.heal()
            wait_for(lambda: not pgwire.errors(conn.query("SELECT 1")), 30 * SLOW, "an answer")


def test_cancel_request_to_a_server_that_is_gone(link, two_ways, cluster):
    """It cannot be sent: it is given up, and its client is told of the lost server."""
    proxy = two_ways(pool_size=1, cancel_wait_timeout="2s")
    with Bystander(proxy), pgwire.Conn(proxy.host, proxy.port, source=THERE) as conn:
        conn.login("app", "p2")
        conn.send(query("SELECT pg_sleep(100)"))
        wait_for(lambda: cluster.value("SELECT count(*) FROM pg_stat_activity WHERE query = "
                                       "'SELECT pg_sleep(100)' AND state = 'active'"), what="the query")
        link.cut(GONE)
        with pgwire.Conn(proxy.host, proxy.port, source=THERE) as other:
            other.send(pgwire.untyped(pgwire.CANCEL_REQUEST.to_bytes(4, "big") + b"".join(conn.key)))
            assert other.rest() == []
        failed = pgwire.errors(conn.rest())
        assert [fields["C"] for fields in failed] in (["08006"], ["57014"]), failed
        link.heal()
