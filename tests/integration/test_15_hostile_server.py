# SPDX-License-Identifier: PostgreSQL
"""A server that answers nonsense: its client gets a clear error, nobody else notices."""
import base64
import random
import struct
import threading
import time

import pytest

import pgwire
from fakeserver import DONE, KEY, PARAMETERS, READY, ROW, WELCOME, FakeServer, auth
from pgwire import SYNC, bind, errors, execute, kinds, message, parse, query, rows
from servers import SANITIZED, SLOW

pytestmark = [pytest.mark.once, pytest.mark.figures]

MB = 1 << 20


@pytest.fixture
def fake(make_proxy, pg):
    """fake(script, …) makes a proxy whose database q is on such a server and p1 on a real one."""
    servers = []

    def make(script, **settings):
        server = FakeServer(script)
        servers.append(server)
        settings = {"login_timeout": "1s", "query_wait_timeout": "2s", "workers": 1,
                    "connect_timeout": "1s",
                    "pool_size": 2, "log_level": "info", **settings}
        proxy = make_proxy({"pg": pg, "fake": server.check}, {"p1": "pg", "q": "fake"}, **settings)
        proxy.fake = server
        return proxy
    yield make
    for server in servers:
        server.__exit__()


def others_are_fine(proxy):
    proxy.check_alive()
    with proxy.wire("p1") as conn:
        assert conn.value("SELECT 1") == "1"
    assert proxy.memory() < (2000 * MB if SANITIZED else 100 * MB)


def test_fake_server_works(fake):
    """The stage itself: a sane script serves a client."""
    def script(peer):
        assert peer.startup()[b"user"] == b"app"
        peer.send(WELCOME)
        peer.serve()
    proxy = fake(script)
    with proxy.wire("q") as conn:
        for _ in range(3):
            assert rows(conn.query("SELECT 1")) == [["1"]]
    others_are_fine(proxy)


def test_login_that_fails_when_the_database_has_another_server(fake):
    tried, go = threading.Event(), threading.Event()

    def script(peer):
        peer.startup()
        tried.set()
        go.wait(20)
        peer.send(message("E", b"SFATAL\0C28000\0Mgo away\0\0"))
    proxy = fake(script, login_timeout="20s", connect_timeout="20s", query_wait_timeout="20s")
    with pgwire.Conn(proxy.host, proxy.port) as conn:
        conn.send(pgwire.startup({"user": "app", "database": "q"}))
        assert tried.wait(20)
        proxy.databases["q"] = {"server": "pg", "dbname": "p1"}
        proxy.write()
        proxy.command("RELOAD")
        go.set()
        assert not errors(conn.until("Z"))
        assert conn.value("SELECT 1") == "1"


SCRAM_FIRST = auth(10, b"SCRAM-SHA-256\0\0")
LOGIN = {
    "end at once": b"",
    "garbage": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "zeros": b"\0" * 100,
    "length 3": b"R\0\0\0\3",
    "negative length": b"R\xff\xff\xff\xff",
    "2 GB": b"R\x7f\xff\xff\xff" + b"x" * 1000,
    "authentication without code": message("R"),
    "unknown authentication": auth(99),
    "kerberos": auth(2),
    "gss": auth(7),
    "md5 with a short salt": auth(5, b"ab"),
    "sasl without mechanism": auth(10, b"\0"),
    "sasl without end": auth(10, b"SCRAM-SHA-256"),
    "sasl of another kind": auth(10, b"SCRAM-SHA-1\0\0"),
    "sasl continue too early": auth(11, b"r=x,s=eA==,i=4096"),
    "sasl final too early": auth(12, b"v=x"),
    "ok then garbage": auth(0) + b"\0" * 50,
    "ready without ok": READY,
    "rows at login": auth(0) + ROW,
    "copy at login": auth(0) + message("G", b"\0\0\0"),
    "error without fields": message("E", b"\0"),
    "error without anything": message("E"),
    "error without end": message("E", b"SFATAL\0Mno end"),
    "error with one field": message("E", b"Mjust text\0\0"),
    "error of many fields": message("E", b"SFATAL\0C28000\0M" + b"x" * 200000 + b"\0\0"),
    "parameter without value": auth(0) + message("S", b"TimeZone\0") + KEY + READY,
    "parameter without end": auth(0) + message("S", b"TimeZone\0UTC") + KEY + READY,
    "ready with a long body": auth(0) + PARAMETERS + KEY + message("Z", b"II"),
    "ready in a transaction": auth(0) + PARAMETERS + KEY + message("Z", b"T"),
    "ready in an unknown state": auth(0) + PARAMETERS + KEY + message("Z", b"?"),
    "negotiation nobody asked for": message("v", b"\0\3\0\0" + b"\x7f\xff\xff\xff"),
}


@pytest.mark.parametrize("case", LOGIN)
def test_nonsense_at_login(fake, case):
    def script(peer):
        peer.startup()
        peer.send(LOGIN[case])
        peer.recv()
    proxy = fake(script)
    began = time.monotonic()
    with pytest.raises(pgwire.LoginError) as error:
        proxy.wire("q")
    assert error.value.fields["S"] == "FATAL"
    assert time.monotonic() - began < 15 * SLOW
    others_are_fine(proxy)


def test_server_key_data_of_another_length(fake):
    """3.2 has longer keys; a short one is no reason to fail either."""
    def script(peer):
        peer.startup()
        peer.send(auth(0), PARAMETERS, message("K", b"\0\0\0\1"), READY)
        peer.serve()
    proxy = fake(script)
    try:
        with proxy.wire("q") as conn:
            assert rows(conn.query("SELECT 1")) == [["1"]]
            conn.cancel()
    except pgwire.LoginError:
        pass
    others_are_fine(proxy)


def numbered(value):
    """A test's name that fits on a line."""
    return repr(value)[2:22]


SALT = base64.b64encode(b"0123456789abcdef")


@pytest.mark.parametrize("first", [
    b"", b"r=", b"r=other,s=" + SALT + b",i=4096", b"r=%s,s=" + SALT + b",i=4096",
    b"r=%sserver,s=,i=4096", b"r=%sserver,s=!!!!,i=4096", b"r=%sserver,s=" + SALT + b",i=0",
    b"r=%sserver,s=" + SALT + b",i=-5", b"r=%sserver,s=" + SALT + b",i=99999999999999999999",
    b"r=%sserver,s=" + SALT + b",i=2147483647", b"r=%sserver,s=" + SALT, b"m=ext,r=%sx,s=eA==,i=1",
    b"r=%s" + b"n" * 100000 + b",s=" + SALT + b",i=4096",
    b"r=%sserver,s=" + base64.b64encode(b"s" * 60000) + b",i=4096", b"\0" * 1000, b"\xff" * 1000],
    ids=numbered)
def test_hostile_scram_of_the_server(fake, first):
    """Among them an iteration count that would keep a worker busy for an hour."""
    def script(peer):
        peer.startup()
        peer.send(SCRAM_FIRST)
        nonce = peer.recv()[1].split(b"r=")[1]
        peer.send(auth(11, first.replace(b"%s", nonce)))
        peer.recv()
        peer.send(auth(12, b"v=" + base64.b64encode(b"x" * 32)), WELCOME)
        peer.serve()
    proxy = fake(script)
    with pytest.raises(pgwire.LoginError):
        proxy.wire("q", "u_scram")
    others_are_fine(proxy)


@pytest.mark.parametrize("final", [
    auth(12, b""), auth(12, b"v="), auth(12, b"e=other-error"),
    auth(12, b"v=" + base64.b64encode(b"x" * 32)), auth(12, b"v=" + b"A" * 100000), auth(0)],
    ids=numbered)
def test_server_that_cannot_prove_itself(fake, final):
    """Also one that skips its proof."""
    def script(peer):
        peer.startup()
        peer.send(SCRAM_FIRST)
        nonce = peer.recv()[1].split(b"r=")[1]
        peer.send(auth(11, b"r=" + nonce + b"server,s=" + SALT + b",i=4096"))
        peer.recv()
        peer.send(final, WELCOME)
        peer.serve()
    proxy = fake(script)
    with pytest.raises(pgwire.LoginError):
        proxy.wire("q", "u_scram")
    others_are_fine(proxy)


ANSWER = {
    "garbage": b"\0" * 100,
    "unknown type": message("y", b"abc"),
    "length 3": b"D\0\0\0\3",
    "negative length": b"D\xff\xff\xff\xff" + b"x" * 100,
    "ready in an unknown state": ROW + DONE + message("Z", b"?"),
    "ready without body": ROW + DONE + message("Z"),
    "ready of 2 GB": b"Z\x7f\xff\xff\xff",
    "authentication": auth(0),
    "copy both": message("W", b"\0\0\0"),
    "parameter without value": message("S", b"TimeZone\0") + DONE + READY,
    "parameter of 2 GB": b"S\x7f\xff\xff\xff" + b"x" * 1000,
    "parameter with an empty name": message("S", b"\0x\0") + DONE + READY,
    "parse complete for a query": message("1") + READY,
    "function result for a query": message("V", b"\xff\xff\xff\xff") + READY,
    "error without fields": message("E", b"\0") + READY,
    "error without anything": message("E") + READY,
    "error without end": message("E", b"SERROR\0Mno end") + READY,
    "end in a message": b"D\0\0\1\0abc",
    "end without answer": b"",
    "tag without end": ROW + message("C", b"SELECT") + READY,
    "tag of nothing": ROW + message("C") + READY,
}


@pytest.mark.parametrize("case", ANSWER)
def test_nonsense_as_an_answer(fake, case):
    """The client gets what is well-formed in it, or a FATAL; the connection never goes to
    another client in a wrong state."""
    def script(peer):
        peer.startup()
        peer.send(WELCOME)
        peer.request()
        peer.send(ANSWER[case])
    proxy = fake(script)
    with proxy.wire("q") as conn:
        conn.send(query("SELECT 1"))
        try:
            conn.until("Z", "E")
        except (pgwire.Closed, AssertionError):
            pass
    others_are_fine(proxy)


@pytest.mark.parametrize("extra", [
    ROW + DONE + READY, READY, DONE, ROW, message("1"), message("E", b"SERROR\0C57014\0Mx\0\0"),
    message("G", b"\0\0\0"), b"\0\0\0\0\0\0"], ids=numbered)
def test_answers_nobody_asked_for(fake, extra):
    """After the answer, between transactions: such a server is closed, and the next request is
    answered by a new one with its own answer."""
    def script(peer):
        peer.startup()
        peer.send(WELCOME)
        while peer.request():
            peer.send(ROW, DONE, READY)
            time.sleep(0.1)
            peer.send(extra)
    proxy = fake(script)
    with proxy.wire("q") as conn:
        for _ in range(3):
            assert kinds(conn.query("SELECT 1")) == "TDCZ"
            assert conn.silent(0.3)
    others_are_fine(proxy)


def test_too_many_answers_at_once(fake):
    """Two ReadyForQuery for one query in one packet must not answer the next client's query."""
    def script(peer):
        peer.startup()
        peer.send(WELCOME)
        if peer.request():
            peer.send(ROW, DONE, READY, ROW, DONE, READY)
            peer.recv()
    proxy = fake(script)
    with proxy.wire("q") as conn:
        conn.send(query("SELECT 1"))
        try:
            conn.until("Z")
            assert "Z" not in kinds(conn.rest())
        except pgwire.Closed:
            pass
    others_are_fine(proxy)


def test_flood_of_parameters(fake):
    """Bounded in number and size."""
    def script(peer):
        peer.startup()
        peer.send(auth(0), PARAMETERS)
        peer.send(*[message("S", b"name%d\0" % n + b"v" * 1000 + b"\0") for n in range(20000)])
        peer.send(KEY, READY)
        peer.serve()
    proxy = fake(script)
    try:
        with proxy.wire("q") as conn:
            assert rows(conn.query("SELECT 1")) == [["1"]]
    except pgwire.LoginError:
        pass
    others_are_fine(proxy)


def test_flood_of_notices_between_transactions(fake):
    def script(peer):
        peer.startup()
        peer.send(WELCOME)
        while peer.request():
            peer.send(ROW, DONE, READY)
            time.sleep(0.05)
            peer.send(*[message("N", b"SNOTICE\0C00000\0M" + b"n" * 1000 + b"\0\0")] * 5000)
    proxy = fake(script)
    with proxy.wire("q") as conn:
        for _ in range(3):
            messages = conn.query("SELECT 1")
            assert kinds(messages) == "TDCZ"
            time.sleep(0.2)
    others_are_fine(proxy)


@pytest.mark.parametrize("asked", ["application_name", "work_mem"])
def test_timeout_that_a_former_client_left(fake, asked):
    """Its statement_timeout ends what the proxy sets for the next one: that gets another connection."""
    peers = []

    def script(peer):
        peers.append(peer)
        peer.startup()
        peer.send(WELCOME)
        while msg := peer.recv():
            if peer is peers[0] and b"set_config" in msg[1]:
                peer.send(message("E", b"SERROR\0C57014\0Mtoo late\0\0"), READY)
            else:
                peer.send(ROW, DONE, READY)
    proxy = fake(script, pool_size=1)
    with proxy.wire("q") as one:
        assert rows(one.query("SET statement_timeout = 1")) == [["1"]]
        with proxy.wire("q", **{asked: "64kB"}) as two:
            assert rows(two.query("SELECT 1")) == [["1"]]
        assert rows(one.query("SELECT 1")) == [["1"]]
    assert len(peers) == 2
    others_are_fine(proxy)


def test_server_that_dies_while_reading_a_large_query(fake):
    def script(peer):
        peer.startup()
        peer.send(WELCOME)
        peer.file.read(1000)
    proxy = fake(script)
    with proxy.wire("q") as conn:
        try:
            conn.send(query("SELECT '" + "x" * (20 * MB) + "'"))
        except OSError:
            pass
        messages = conn.rest()
        assert not messages or errors(messages)
    others_are_fine(proxy)


def test_server_that_answers_before_the_end_of_the_request(fake):
    """An error while the client still sends a large message, as PostgreSQL may do."""
    def script(peer):
        peer.startup()
        peer.send(WELCOME)
        while True:
            peer.file.read(5)
            peer.send(message("E", b"SFATAL\0C57P01\0Mgoing\0\0"))
            return
    proxy = fake(script)
    with proxy.wire("q") as conn:
        try:
            conn.send(query("SELECT '" + "x" * (5 * MB) + "'"))
        except OSError:
            pass
        conn.rest()
    others_are_fine(proxy)


def test_wrong_answers_to_the_extended_protocol(fake):
    random.seed(4)
    pieces = [message("1"), message("2"), message("3"), message("n"), ROW, DONE, message("I"),
              message("s"), READY, message("E", b"SERROR\0C42601\0Mx\0\0"), message("t", b"\0\0"),
              message("N", b"SNOTICE\0Mx\0\0"), message("A", b"\0\0\0\1c\0p\0"),
              message("S", b"TimeZone\0UTC\0"), message("G", b"\0\0\0"), message("H", b"\0\0\0"),
              message("d", b"x"), message("c"), message("V", b"\xff\xff\xff\xff")]

    def script(peer):
        peer.startup()
        peer.send(WELCOME)
        while peer.request():
            peer.send(*[random.choice(pieces) for _ in range(6)])
            peer.send(READY)
    proxy = fake(script)
    for n in range(40):
        with proxy.wire("q") as conn:
            conn.send(parse("SELECT %d" % (n % 5), "s"), pgwire.describe("S", "s"), bind(name="s"),
                      execute(), SYNC)
            try:
                conn.until("Z")
            except (pgwire.Closed, AssertionError):
                pass
    others_are_fine(proxy)


def test_server_of_an_older_protocol_negotiates(fake):
    """A server may negotiate down whatever we offered."""
    def script(peer):
        peer.startup()
        peer.send(message("v", struct.pack("!ii", 196608, 0)), WELCOME)
        peer.serve()
    proxy = fake(script)
    with proxy.wire("q") as conn:
        assert rows(conn.query("SELECT 1")) == [["1"]]
    others_are_fine(proxy)
