# SPDX-License-Identifier: PostgreSQL
"""Protocol 3.2 on both sides: negotiation, long cancel keys, servers that know only 3.0."""
import struct
import threading

import pytest

import pgwire
from fakeserver import PARAMETERS, READY, WELCOME, FakeServer, auth
from pgwire import PROTOCOL_3_0, PROTOCOL_3_2, LoginError, wait_for
from proxy import ADMIN, ADMIN_PASSWORD
from servers import PgBouncer

CANCELLED = pgwire.message("E", b"SERROR\0VERROR\0C57014\0Mcancelled\0\0")


def fake(make_proxy, script, **settings):
    server = FakeServer(script)
    return server, make_proxy({"pg": {"host": server.host, "port": server.port,
                                      "sslmode": "disable", **settings}}, {"p1": "pg"},
                              connect_timeout="500ms")


# --- clients -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("dbname, user, password", [
    ("p1", "app", None), ("pgshunt", ADMIN, ADMIN_PASSWORD)])
def test_keys_are_sized_by_version(make_proxy, dbname, user, password):
    proxy = make_proxy()
    keys = set()
    for version, length in [(PROTOCOL_3_0, 4), (PROTOCOL_3_2, 32), (PROTOCOL_3_2, 32),
                            (PROTOCOL_3_0 + 1, 4), (PROTOCOL_3_0 + 9999, 32)]:
        with pgwire.Conn(proxy.host, proxy.port) as conn:
            conn.login(user, dbname, password, version)
            assert len(conn.key[1]) == length
            keys.add(conn.key[1])
    assert len(keys) == 5


def test_a_version_above_is_negotiated(make_proxy):
    proxy = make_proxy()
    for minor, spoken in [(1, 0), (3, 2), (9999, 2)]:
        with pgwire.Conn(proxy.host, proxy.port) as conn:
            first = conn.login("app", "p1", version=PROTOCOL_3_0 + minor)[0]
            assert (first.kind, first.body) == ("v", struct.pack("!ii", PROTOCOL_3_0 + spoken, 0))
    with pgwire.Conn(proxy.host, proxy.port) as conn:
        first = conn.login("app", "p1", version=PROTOCOL_3_2, **{"_pq_.grease": "x"})[0]
        assert first.body == struct.pack("!ii", PROTOCOL_3_2, 1) + b"_pq_.grease\0"
    with pgwire.Conn(proxy.host, proxy.port) as conn:
        messages = conn.login("app", "p1", version=PROTOCOL_3_2)
        assert messages[0].kind == "R"


def test_long_key_cancels(make_proxy, pg):
    proxy = make_proxy()
    with pgwire.Conn(proxy.host, proxy.port) as conn:
        conn.login("app", "p1", version=PROTOCOL_3_2)
        conn.send(pgwire.query("SELECT pg_sleep(60)"))
        wait_for(lambda: pg.value("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' "
                                  "AND query = 'SELECT pg_sleep(60)'"))
        pid, key = conn.key
        for wrong in (key[:4], key[:31], key + b"x", bytes(32), b"y" * 256,
                      key[:-1] + bytes([key[-1] ^ 1])):
            pgwire.cancel(proxy.host, proxy.port, pid, wrong)
        assert conn.silent(0.3)
        conn.cancel()
        assert pgwire.errors(conn.ready())[0]["C"] == "57014"


# --- servers -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("length", [4, 32, 256])
def test_server_with_long_keys(make_proxy, length):
    seen, running = [], threading.Event()
    key = bytes(range(256))[:length]

    def script(peer):
        code, body = peer.packet()
        if code == pgwire.CANCEL_REQUEST:
            seen.append(body)
            return
        assert code == PROTOCOL_3_2
        peer.send(auth(0), PARAMETERS, pgwire.message("K", struct.pack("!i", 77) + key), READY)
        peer.request()
        running.set()
        wait_for(lambda: seen)
        peer.send(CANCELLED, READY)
        peer.serve()
    server, proxy = fake(make_proxy, script)
    with server, proxy.wire() as conn:
        conn.send(pgwire.query("SELECT wait"))
        assert running.wait(20)
        conn.cancel()
        assert pgwire.errors(conn.ready())[0]["C"] == "57014"
        assert seen == [struct.pack("!i", 77) + key]


def test_server_that_negotiates_down(make_proxy):
    versions = []

    def script(peer):
        peer.startup()
        versions.append(peer.version)
        peer.send(pgwire.message("v", struct.pack("!ii", PROTOCOL_3_0, 0)), WELCOME)
        peer.serve()
    server, proxy = fake(make_proxy, script)
    with server, proxy.wire() as conn:
        assert conn.value("SELECT 1") == "1"
    assert versions == [PROTOCOL_3_2]


@pytest.mark.parametrize("answer", [
    pgwire.message("E", b"SFATAL\0C0A000\0Munsupported frontend protocol 3.2\0\0"),
    pgwire.message("E", b"SFATAL\0C08P01\0Munsupported protocol version\0\0"), b""])
def test_server_that_refuses_is_asked_for_3_0(make_proxy, answer):
    versions = []

    def script(peer):
        peer.startup()
        versions.append(peer.version)
        if peer.version != PROTOCOL_3_0:
            peer.send(answer)
            return
        peer.send(WELCOME)
        peer.serve()
    server, proxy = fake(make_proxy, script)
    with server, proxy.wire() as conn:
        assert conn.value("SELECT 1") == "1"
        assert versions[0] == PROTOCOL_3_2 and PROTOCOL_3_0 in versions
        before = len(versions)
        with proxy.wire() as other:
            # It is remembered where the server has said so.
            for each in (conn, other):
                each.send(pgwire.query("BEGIN"))
            for each in (conn, other):
                each.ready()
            if answer:
                assert PROTOCOL_3_2 not in versions[before:]


@pytest.mark.parametrize("body", [
    struct.pack("!ii", PROTOCOL_3_2, 0), struct.pack("!ii", PROTOCOL_3_0 + 3, 0),
    struct.pack("!ii", 131072, 0), struct.pack("!ii", PROTOCOL_3_0, 1) + b"_pq_.x\0",
    struct.pack("!ii", PROTOCOL_3_0, -1), b"\0\3"])
def test_malformed_negotiation_is_refused(make_proxy, body):
    def script(peer):
        peer.startup()
        peer.send(pgwire.message("v", body), WELCOME)
        peer.serve()
    server, proxy = fake(make_proxy, script)
    with server, pytest.raises(LoginError) as error:
        proxy.wire()
    assert error.value.sqlstate == "08P01"


def test_max_protocol_version(make_proxy):
    versions = []

    def script(peer):
        peer.startup()
        versions.append(peer.version)
        peer.send(WELCOME)
        peer.serve()
    server, proxy = fake(make_proxy, script, max_protocol_version="3.0")
    with server, proxy.wire() as conn:
        assert conn.value("SELECT 1") == "1"
    assert versions == [PROTOCOL_3_0]


def test_pgbouncer_as_the_server(make_proxy, pg, folder):
    bouncer = PgBouncer(folder, "bouncer32", [("p1", pg.host, pg.port, "p1")])
    try:
        proxy = make_proxy({"pg": {"host": "127.0.0.1", "port": bouncer.port}}, {"p1": "pg"})
        with proxy.wire() as conn:
            for n in range(3):
                assert conn.value("SELECT %d" % n) == str(n)
    finally:
        bouncer.stop()
