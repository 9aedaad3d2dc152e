# SPDX-License-Identifier: PostgreSQL
"""Corners of a hold: encrypted clients, COPY, pipelines that stop half way, the bounds and their errors
in both protocols, and nothing left of those who go.  And what was wrong in pgbouncer, by its numbers."""
import os
import socket
import struct
import threading
import time

import pytest

import pgwire
from certs import Authority, TlsConn
from fakeserver import KEY, PARAMETERS, READY, FakeServer, auth
from pgwire import (COPY_DONE, FLUSH, SYNC, bind, copy_data, describe, errors, execute, kinds, message,
                    parse, query, rows, tags, wait_for)
from proxy import STATS, STATS_PASSWORD, ConsoleError
from servers import SANITIZED, SLOW, start

SIMPLE = query("SELECT 'done'")
EXTENDED = parse("SELECT 'done'") + bind() + describe() + execute() + SYNC


@pytest.fixture(scope="module")
def ca(folder):
    authority = Authority(folder, "held-ca")
    authority.server = authority.issue("proxy", "/CN=localhost", "DNS:localhost,IP:127.0.0.1")
    return authority


def encrypted(ca):
    cert, key = ca.server
    return {"client_tls_sslmode": "allow", "client_tls_cert_file": cert, "client_tls_key_file": key}


@pytest.fixture(params=["plain", "tls"])
def connect(request, ca):
    """connect(proxy, dbname): a client, in the clear or not."""
    def make(proxy, dbname="p2", user="app"):
        conn = (TlsConn if request.param == "tls" else pgwire.Conn)(proxy.host, proxy.port)
        conn.login(user, dbname)
        return conn
    return make


def held(proxy, count):
    wait_for(lambda: proxy.held()["held"] == str(count), 20 * SLOW, "%d held requests" % count)


def descriptors(proxy):
    return len(os.listdir("/proc/%d/fd" % proxy.process.pid))


def answers(conn, count):
    text = ""
    for _ in range(count):
        text += "".join(m.kind + (m.fields()["C"] if m.kind == "E" else
                                  m.body.decode() if m.kind == "Z" else "")
                        for m in conn.ready() if m.kind not in "NSAT") + " "
    return text.strip()


# --- bounds, encrypted or not ---------------------------------------------------------------------

BOUNDS = {  # settings, how many requests fit, SQLSTATE of the next
    "requests": ({"hold_max_requests": 2}, 2, "53300"),
    "bytes": ({"hold_max_bytes": "1kB"}, 1, "53400"),
    "descriptors": ({"hold_max_descriptors": 1}, 0, "53000"),
    "time": ({"hold_wait_timeout": "300ms"}, 3, "57P03"),
}


@pytest.mark.parametrize("bound", BOUNDS)
def test_bound_in_both_protocols(make_proxy, ca, connect, bound, monkeypatch):
    """Its own SQLSTATE, and the connection goes on: in a simple query, an extended one and a pipeline."""
    settings, fit, sqlstate = BOUNDS[bound]
    if bound == "descriptors":
        monkeypatch.setattr("proxy.start", lambda argv, *args, **kwargs: start(
            ["prlimit", "--nofile=200:200", *argv], *args, **kwargs))
    proxy = make_proxy(**encrypted(ca), **settings)
    filler = "x" * (700 if bound == "bytes" else 10)
    requests = [query("SELECT 'done', '%s'" % filler),
                parse("SELECT 'done', '%s'" % filler) + bind() + execute() + SYNC]
    conns = [connect(proxy) for _ in range(4)]
    proxy.hold("p2", "LEASE 60s")
    for n in range(fit):
        conns[n].send(requests[n % 2])
        if bound != "time":
            held(proxy, n + 1)
    if bound == "time":
        for conn in conns[:fit]:
            assert answers(conn, 1) == "E57P03ZI"
    else:
        for request_bytes in requests:
            conns[3].send(request_bytes)
            assert answers(conns[3], 1) == "E%sZI" % sqlstate
        conns[3].send(requests[1] + requests[0])
        assert answers(conns[3], 2) == "E%sZI E%sZI" % (sqlstate, sqlstate)
    proxy.command("RELEASE p2")
    for conn in conns:
        conn.send(query("SELECT 'after'"))
        wait_for(lambda: [["after"]] == rows(conn.ready("I")), what="an answer")
        conn.close()
    assert proxy.held()["held"] == "0" and proxy.held()["held_bytes"] == "0"


# --- who leaves -----------------------------------------------------------------------------------

@pytest.mark.figures
@pytest.mark.parametrize("how", ["close", "reset", "half a message", "before the key"])
def test_nothing_is_left_of_who_leaves(make_proxy, pg, ca, connect, how):
    """No descriptor, no place, no byte, no memory; and nothing of it runs."""
    proxy = make_proxy(hold_max_requests=3, **encrypted(ca))
    pg.sql("DELETE FROM items WHERE id > 920200", "p2")
    connect(proxy).close()
    proxy.hold("p2", "LEASE 60s")

    def leave(n):
        conn = connect(proxy)
        data = query("INSERT INTO items VALUES (%d, '%s')" % (920200 + n, "x" * 20000))
        conn.send(data[:-9] if how == "half a message" else data)
        if how != "before the key":
            held(proxy, 1)
        if how == "reset":
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        conn.close()
        held(proxy, 0)
    for n in range(3):
        leave(n)
    wait_for(lambda: proxy.held()["held_bytes"] == "0", what="no bytes held")
    count, memory = descriptors(proxy), proxy.memory()
    for n in range(12):
        leave(n)
    wait_for(lambda: descriptors(proxy) <= count, 20 * SLOW, "closed descriptors")
    # A sanitizer keeps what was freed for a while.
    assert proxy.memory() - memory < (64 << 20 if SANITIZED else 4 << 20)
    proxy.command("RELEASE p2")
    shown = [row for row in proxy.command("SHOW POOLS") if row["database"] == "p2"]
    assert all(row["cl_active"] == row["cl_waiting"] == "0" for row in shown)
    assert pg.value("SELECT count(*) FROM items WHERE id > 920200", "p2") == 0


# --- COPY, pipelines ------------------------------------------------------------------------------

def test_copy_that_begins_under_a_hold(make_proxy, pg, ca, connect):
    """Data that is sent before the server asked for it waits as well."""
    proxy = make_proxy(**encrypted(ca))
    pg.sql("DELETE FROM items WHERE id BETWEEN 920300 AND 920399", "p2")
    with connect(proxy) as conn:
        proxy.hold("p2", "LEASE 60s")
        data = b"".join(b"9203%02d\tcopied\n" % n for n in range(50))
        conn.send(query("COPY items FROM STDIN"), copy_data(data[:300]))
        held(proxy, 1)
        conn.send(copy_data(data[300:]), COPY_DONE, query("COPY items TO STDOUT"))
        assert conn.silent(0.1)
        proxy.command("RELEASE p2")
        assert tags(conn.ready("I")) == ["COPY 50"]
        assert kinds(conn.ready("I")).count("d") >= 50
    assert pg.value("SELECT count(*) FROM items WHERE id BETWEEN 920300 AND 920399", "p2") == 50


def test_copy_under_way_is_finished_first(make_proxy, pg, ca, connect):
    proxy = make_proxy(**encrypted(ca))
    pg.sql("DELETE FROM items WHERE id BETWEEN 920400 AND 920499", "p2")
    with connect(proxy) as conn, proxy.console() as console:
        conn.send(query("COPY items FROM STDIN"))
        conn.until("G")
        conn.send(copy_data(b"920400\tone\n"))
        console.send("HOLD p2 LEASE 60s DRAIN 20s")
        wait_for(lambda: proxy.held()["state"] == "draining", what="the hold")
        conn.send(copy_data(b"920401\ttwo\n"), COPY_DONE, query("SELECT 'next'"))
        assert tags(conn.ready("I")) == ["COPY 2"]
        assert console.result()[0]["state"] == "held"
        assert conn.silent(0.1)
        proxy.command("RELEASE p2")
        assert rows(conn.ready("I")) == [["next"]]


def test_pipeline_is_stopped_at_a_sync(make_proxy, ca, connect):
    """What was sent goes on to its end, the rest waits, in order, and cancel hits the first of it."""
    proxy = make_proxy(**encrypted(ca))
    with connect(proxy) as conn, proxy.console() as console:
        conn.send(parse("SELECT pg_sleep(0.5), 'first'"), bind(), execute(), SYNC,
                  *[EXTENDED for _ in range(5)], SIMPLE)
        time.sleep(0.1)
        console.send("HOLD p2 LEASE 60s DRAIN 20s")
        assert console.result()[0]["state"] == "held"
        seen = []

        def read():
            seen.append(rows(conn.ready("I")))
            return seen[-1]
        assert read() == [["", "first"]]
        # Those that were with the server already have been answered, too.
        while not conn.silent(0.3):
            read()
        proxy.command("RELEASE p2")
        while len(seen) < 7:
            read()
        assert seen[1:] == [[["done"]]] * 6


def test_flush_under_a_hold_waits(make_proxy, ca, connect):
    """Half a pipeline without a Sync is held as a whole; its client may cancel it and go on."""
    proxy = make_proxy(**encrypted(ca))
    with connect(proxy) as conn:
        proxy.hold("p2", "LEASE 60s")
        conn.send(parse("SELECT 'held'"), bind(), execute(), FLUSH)
        held(proxy, 1)
        assert conn.silent(0.1)
        proxy.command("RELEASE p2")
        assert kinds(conn.until("C")) == "12DC"
        conn.send(SYNC)
        conn.ready("I")


# --- what was wrong in pgbouncer ------------------------------------------------------------------
# Elsewhere: CVE-2025-2291 and CVE-2025-12819 with auth_query, CVE-2026-107348 to -107350 with the
# cost of logins.

def alive(proxy):
    proxy.check_alive()
    with proxy.wire("p1", "app", "mine") as conn:
        assert conn.value("SELECT 1") == "1"


@pytest.mark.parametrize("length", [0xffffffff, 0xfffffffe, 0x80000000, 0x7fffffff, 5])
def test_length_within_a_sasl_message(make_proxy, length):
    """CVE-2026-6664: the length of the SASL response, in a message that is much shorter."""
    proxy = make_proxy(auth_type="scram-sha-256", secrets={"app": "mine", "postgres": ""})
    with pgwire.Conn(proxy.host, proxy.port) as conn:
        conn.send(pgwire.startup({"user": "app", "database": "p1"}))
        assert conn.recv().kind == "R"
        conn.send(message("p", b"SCRAM-SHA-256\0" + struct.pack("!I", length) + b"n,,n"))
        refused = conn.rest()
        assert errors(refused) and "Z" not in kinds(refused)
    alive(proxy)


@pytest.fixture
def hostile(make_proxy, pg):
    """hostile(script): a proxy with a database q on such a server, and p1 on a real one."""
    made = []

    def make(script, **settings):
        made.append(FakeServer(script))
        return make_proxy({"pg": pg, "fake": made[-1].check}, {"p1": "pg", "q": "fake"}, workers=1,
                          login_timeout="2s", connect_timeout="1s", query_wait_timeout="3s", **settings)
    yield make
    for server in made:
        server.__exit__()


@pytest.mark.parametrize("size", [900, 1000, 1024, 2000, 8000])
def test_long_nonce_of_the_server(hostile, size):
    """CVE-2026-6665: it becomes a part of what the proxy answers."""
    def script(peer):
        peer.startup()
        peer.send(auth(10, b"SCRAM-SHA-256\0\0"))
        nonce = peer.recv()[1].split(b"r=")[1]
        peer.send(auth(11, b"r=" + nonce + b"n" * size + b",s=MDEyMzQ1Njc4OWFiY2RlZg==,i=4096"))
        peer.recv()
        peer.serve()
    proxy = hostile(script)
    with pytest.raises(pgwire.LoginError):
        proxy.wire("q", "u_scram")
    alive(proxy)


@pytest.mark.parametrize("when", ["login", "query"])
def test_error_without_sqlstate(hostile, when):
    """CVE-2026-6666."""
    def script(peer):
        peer.startup()
        if when == "login":
            peer.send(message("E", b"SFATAL\0Mno code\0\0"))
            return
        peer.send(auth(0), PARAMETERS, KEY, READY)
        while peer.request():
            peer.send(message("E", b"SERROR\0Mno code\0\0"), READY)
    proxy = hostile(script)
    if when == "login":
        with pytest.raises(pgwire.LoginError):
            proxy.wire("q")
    else:
        with proxy.wire("q") as conn:
            assert errors(conn.query("SELECT 1"))[0]["M"] == "no code"
    alive(proxy)


def test_watchers_end_nobody(make_proxy):
    """CVE-2026-6667: KILL_CLIENT and the like are for administrators."""
    proxy = make_proxy()
    with proxy.wire("p1") as conn:
        number = [row for row in proxy.command("SHOW CLIENTS") if row["user"] == "app"][0]["id"]
        for text in ("KILL_CLIENT " + number, "KILL p1", "PAUSE p1", "HOLD p1", "SHUTDOWN", "RECONNECT",
                     "SET query_timeout = 1", "SUSPEND", "DISABLE p1", "WAIT_CLOSE p1"):
            with proxy.console(user=STATS, password=STATS_PASSWORD) as console:
                with pytest.raises(ConsoleError) as error:
                    console(text)
                assert error.value.sqlstate == "42501", text
        assert conn.value("SELECT 1") == "1"


@pytest.mark.figures
def test_large_declared_lengths_cost_nothing(make_proxy):
    """CVE-2026-6668: what is announced is not room that is made, before and after the login."""
    proxy = make_proxy()
    proxy.wire("p1").close()
    before = proxy.memory()
    conns = []
    for kind in (b"Q", b"P", b"B", b"d"):
        for length in (0x3fffffff, 0x20000000, 0x10000000):
            conn = proxy.wire("p1")
            conn.send(kind + struct.pack("!I", length) + b"x" * 3000)
            conns.append(conn)
    alive(proxy)
    assert proxy.memory() - before < (96 << 20 if SANITIZED else 32 << 20)
    for conn in conns:
        conn.close()
    alive(proxy)


def test_iterations_without_bound(hostile):
    """CVE-2026-6669: a server that asks for more than anybody needs keeps nobody else waiting."""
    def script(peer):
        peer.startup()
        peer.send(auth(10, b"SCRAM-SHA-256\0\0"))
        nonce = peer.recv()[1].split(b"r=")[1]
        peer.send(auth(11, b"r=" + nonce + b"x,s=MDEyMzQ1Njc4OWFiY2RlZg==,i=2000000000"))
        peer.serve()
    proxy = hostile(script)
    failed = []

    def login():
        try:
            proxy.wire("q", "u_scram")
        except pgwire.LoginError as error:
            failed.append(error)
    threads = [threading.Thread(target=login) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        alive(proxy)
    for thread in threads:
        thread.join(60 * SLOW)
    assert len(failed) == 4
