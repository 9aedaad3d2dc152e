# SPDX-License-Identifier: PostgreSQL
"""Malformed, oversized, truncated and out-of-order bytes from clients, before and after login.
Each gets the error PostgreSQL gives, or is just closed; nobody else is disturbed."""
import os
import random
import struct
import time

import pytest

import pgwire
from endpoint import Endpoint
from pgwire import (COPY_DONE, FLUSH, SYNC, TERMINATE, bind, errors, execute, kinds, message, parse,
                    query, rows, startup)

pytestmark = pytest.mark.once

BEFORE = {
    "nothing": b"",
    "one byte": b"\0",
    "length 0": b"\0\0\0\0" + b"x" * 20,
    "length 3": b"\0\0\0\3" + b"x" * 20,
    "length 4": b"\0\0\0\4" + b"x" * 20,
    "length 7": b"\0\0\0\7" + b"x" * 20,
    "negative length": b"\xff\xff\xff\xff" + b"x" * 20,
    "2 GB": b"\x7f\xff\xff\xff" + struct.pack("!i", 196608) + b"user\0app\0\0",
    "10001 bytes": struct.pack("!ii", 10005, 196608) + b"user\0app\0" + b"x" * 9988,
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 506,
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "no end of the list": struct.pack("!ii", 8 + 9, 196608) + b"user\0app\0",
    "no end of the value": struct.pack("!ii", 8 + 8, 196608) + b"user\0app",
    "bytes after the list": struct.pack("!ii", 8 + 14, 196608) + b"user\0app\0\0more",
    "name without value": struct.pack("!ii", 8 + 15, 196608) + b"user\0app\0data\0\0",
    "empty name": struct.pack("!ii", 8 + 12, 196608) + b"\0x\0user\0app\0\0",
    "query": query("SELECT 1"),
    "zeros": b"\0" * 4000,
    "ones": b"\xff" * 4000,
    "truncated": pgwire.startup({"user": "app", "database": "p1"})[:-3],
}


def closed_without_login(conn, data):
    try:
        conn.send(data)
        conn.sock.shutdown(1)
    except OSError:
        pass
    messages = conn.rest()
    assert "Z" not in kinds(messages), messages
    assert not rows(messages)


@pytest.mark.parametrize("case", BEFORE)
def test_before_login(endpoint, case):
    with endpoint.raw() as conn:
        closed_without_login(conn, BEFORE[case])
    with endpoint.wire() as conn:
        assert conn.value("SELECT 1") == "1"


def test_random_bytes_before_login(endpoint):
    random.seed(1)
    for n in range(100):
        with endpoint.raw() as conn:
            closed_without_login(conn, random.randbytes(random.randrange(1, 3000)))
    with endpoint.wire() as conn:
        assert conn.value("SELECT 1") == "1"


def test_random_changes_of_a_startup_packet(endpoint):
    random.seed(2)
    good = pgwire.startup({"user": "app", "database": "p1", "options": "-c timezone=UTC",
                           "application_name": "x"})
    for n in range(150):
        bad = bytearray(good)
        for _ in range(random.randrange(1, 4)):
            bad[random.randrange(len(bad))] = random.randrange(256)
        with endpoint.raw() as conn:
            try:
                conn.send(bytes(bad))
                conn.sock.shutdown(1)
            except OSError:
                pass
            conn.rest()
    with endpoint.wire() as conn:
        assert conn.value("SELECT 1") == "1"


def test_many_parameters_at_login(endpoint):
    """All that fits into 10000 bytes."""
    with endpoint.raw() as conn:
        conn.send(pgwire.startup({"user": "app", "database": "p1",
                                  **{"x.name%d" % n: "v" * 20 for n in range(250)}}))
        messages = conn.until("Z", "E")
        assert kinds(messages)[-1] in "ZE"
    with endpoint.wire() as conn:
        assert conn.value("SELECT 1") == "1"


# --- after login: what PostgreSQL answers -------------------------------------------------------

FATAL = {
    "unknown type": message("y"),
    "type zero": message("\0"),
    "password": message("p", b"secret\0"),
    "length 0": b"Q\0\0\0\0",
    "length 3": b"Q\0\0\0\3",
    "negative length": b"Q\xff\xff\xff\xff",
    "sync of 2 GB": b"S\x7f\xff\xff\xff",
    "terminate of 2 GB": b"X\x7f\xff\xff\xff",
    "close of 2 GB": b"C\x7f\xff\xff\xff",
}


@pytest.mark.parametrize("case", FATAL)
def test_fatal_after_login(endpoint, case):
    with endpoint.wire() as conn:
        try:
            conn.send(FATAL[case])
        except OSError:
            pass
        messages = conn.rest()
        failed = errors(messages)
        if failed:
            assert failed[-1]["S"] == "FATAL" and failed[-1]["C"] == "08P01"
        assert "Z" not in kinds(messages)
    with endpoint.wire() as conn:
        assert conn.value("SELECT 1") == "1"


@pytest.mark.parametrize("case", FATAL)
def test_fatal_within_a_transaction(endpoint, pg, case):
    with endpoint.wire() as conn:
        conn.query("BEGIN")
        conn.query("INSERT INTO items VALUES (810001, 'never')")
        try:
            conn.send(FATAL[case])
        except OSError:
            pass
        assert "Z" not in kinds(conn.rest())
    with endpoint.wire() as conn:
        assert conn.value("SELECT count(*) FROM items WHERE id = 810001") == "0"


ERROR = {
    "query without end": message("Q", b"SELECT 1"),
    "query with a zero inside": message("Q", b"SELECT 1\0, 2\0"),
    "empty query message": message("Q"),
    "parse without end": message("P", b"name"),
    "parse with a wrong count": message("P", b"\0SELECT 1\0\0\5"),
    "parse with more bytes": message("P", b"\0SELECT 1\0\0\0more"),
    "bind without end": message("B", b"portal"),
    "bind with a wrong count": message("B", b"\0\0\0\0\0\7"),
    "bind with a wrong length": message("B", b"\0\0\0\0\0\1\0\0\1\0"),
    "bind with a negative length": message("B", b"\0\0\0\0\0\1\xff\xff\xff\0"),
    "describe of nothing": message("D"),
    "describe of an unknown kind": message("D", b"Qname\0"),
    "close of an unknown kind": message("C", b"Qname\0"),
    "execute without rows": message("E", b"\0"),
    "execute with more bytes": message("E", b"\0\0\0\0\0more"),
    "function call without arguments": message("F", b"\0\0\0\1"),
}


@pytest.mark.parametrize("case", ERROR)
def test_error_after_login(endpoint, case):
    """PostgreSQL answers ERROR and goes on, or FATAL and closes; either is the proxy's right, a
    wrong answer or silence is not."""
    with endpoint.wire() as conn:
        conn.send(ERROR[case], SYNC, SYNC)
        try:
            messages = conn.until("Z") + conn.until("Z")
            failed = errors(messages)
            assert failed and failed[0]["C"] in ("08P01", "26000", "34000", "42601", "22P03",
                                             "42883"), failed
            conn.send(SYNC, query("SELECT 5"))
            while True:
                messages = conn.ready()
                if rows(messages) == [["5"]]:
                    break
        except pgwire.Closed:
            pass
    with endpoint.wire() as conn:
        assert conn.value("SELECT 1") == "1"


# Before and behind a broken message.
AROUND = {
    "alone": ([], [SYNC]),
    "in a transaction": ([query("BEGIN")], [SYNC, query("ROLLBACK")]),
    "in a batch": ([parse("SELECT 1"), bind(), execute()], [execute(), SYNC]),
    "behind an error": ([parse("SELEKT")], [parse("SELECT 1"), SYNC]),
    "with a statement": ([parse("SELECT 1", "name"), SYNC], [bind(name="name"), execute(), SYNC]),
    "before a Query": ([], [query("SELECT 2"), SYNC]),
}
BROKEN = {**ERROR, "Sync with more bytes": message("S", b"more"),
          "Flush with more bytes": message("H", b"more"),
          "close with more bytes": message("C", b"Sname\0more"),
          "describe with more bytes": message("D", b"Sname\0more"),
          "bind with more bytes": message("B", b"\0name\0\0\0\0\0\0\0more"),
          "copy messages with more bytes": message("c", b"more") + message("f", b"a\0more")}


@pytest.mark.parametrize("around", AROUND)
def test_broken_messages_are_answered_as_by_postgresql(proxied, pg, around):
    before, behind = AROUND[around]
    direct = Endpoint("direct", pg.host, pg.port)

    def answers(place, broken):
        with place.wire() as conn:
            conn.send(*before, broken, *behind, query("SELECT 'last'"), TERMINATE)
            return [(m.kind, m.fields().get("C"), m.fields().get("M")) if m.kind == "E"
                    else (m.kind, m.body) for m in conn.rest() if m.kind not in "NSA"]
    for case, broken in BROKEN.items():
        assert (case, answers(proxied, broken)) == (case, answers(direct, broken))


def test_copy_messages_without_copy_are_ignored(endpoint):
    with endpoint.wire() as conn:
        conn.send(pgwire.copy_data(b"1\n"), COPY_DONE, pgwire.copy_fail("x"), query("SELECT 3"))
        assert rows(conn.ready("I")) == [["3"]]


def test_truncated_message_and_end(endpoint, pg):
    for part in (b"Q", b"Q\0\0", query("SELECT 1")[:-1], parse("INSERT INTO items VALUES "
                 "(810002, 'x')") + bind() + execute(), query("INSERT INTO items VALUES (810003, "
                 "'x')")[:-2]):
        with endpoint.wire() as conn:
            conn.send(part)
            conn.sock.shutdown(1)
            assert "Z" not in kinds(conn.rest())
    with endpoint.wire() as conn:
        assert conn.value("SELECT count(*) FROM items WHERE id > 810000") == "0"


LONG = "SELECT repeat('x', 1000) FROM generate_series(1, 4000)"

# What is sent at once, the end behind it, and what PostgreSQL answers before it ends.
LAST_REQUESTS = {
    "Query": ([query("SELECT 4")], "TDCZ"),
    "two": ([query("SELECT 4"), query("SELECT 1/0")], "TDCZEZ"),
    "extended": ([parse("SELECT 4"), bind(), execute(), SYNC], "12DCZ"),
    "pipeline": ([parse("SELECT 4", "s"), bind(name="s"), execute(), SYNC] +
                 [bind(name="s"), execute(), SYNC] * 3, "12DCZ" + "2DCZ" * 3),
    "long": ([query(LONG), query("SELECT 5")], "T" + "D" * 4000 + "CZTDCZ"),
    "in a transaction": ([query("BEGIN"), query("INSERT INTO items VALUES (810004, 'x')")], "CZCZ"),
    "flushed": ([parse("SELECT 4"), bind(), execute(), FLUSH], "12DC"),
    "not flushed": ([query("SELECT 4"), parse("SELECT 5"), bind(), execute()], "TDCZ"),
}
ENDS = {"Terminate": ([TERMINATE], False), "half-close": ([], True), "both": ([TERMINATE], True)}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", LAST_REQUESTS)
def test_answers_come_before_the_end(endpoint, pg, name, end):
    requests, expected = LAST_REQUESTS[name]
    last, shut = ENDS[end]
    with endpoint.wire() as conn:
        conn.send(*requests, *last)
        if shut:
            conn.sock.shutdown(1)
        assert kinds(conn.rest()) == expected
    assert pg.value("SELECT count(*) FROM items WHERE id = 810004", "p1") == 0


@pytest.mark.parametrize("end", ENDS)
def test_answers_of_a_session_in_one_packet(endpoint, end):
    last, shut = ENDS[end]
    with endpoint.raw() as conn:
        conn.send(startup({"user": "app", "database": "p1"}), query("SELECT 4"), *last)
        if shut:
            conn.sock.shutdown(1)
        assert kinds(conn.rest())[-6:] == "KZTDCZ"[-6:]


@pytest.mark.parametrize("end", ENDS)
def test_who_waits_for_a_server_is_answered_before_the_end(make_proxy, end):
    """For one that others have, and under a hold."""
    last, shut = ENDS[end]
    proxy = make_proxy(pool_size=1)
    with proxy.wire() as other:
        for wait, go_on in ((lambda: other.query("BEGIN"), lambda: other.query("COMMIT")),
                            (lambda: proxy.hold("p1", "LEASE 60s"),
                             lambda: proxy.command("RELEASE p1"))):
            with proxy.wire() as conn:
                wait()
                conn.send(query("SELECT 4"), *last)
                if shut:
                    conn.sock.shutdown(1)
                time.sleep(0.25)  # it is looked for twice
                go_on()
                assert rows(conn.rest()) == [["4"]]


@pytest.mark.parametrize("end", ENDS)
def test_whose_server_is_being_opened_is_answered_before_the_end(make_proxy, end):
    last, shut = ENDS[end]
    proxy = make_proxy(pool_size=2, workers=1)
    with proxy.wire() as other, proxy.wire() as conn:
        other.query("BEGIN")
        conn.send(query("SELECT 4"), *last)
        if shut:
            conn.sock.shutdown(1)
        assert rows(conn.rest()) == [["4"]]


def test_large_message_that_never_ends(endpoint):
    """Its bytes are passed on or thrown away, not kept."""
    with endpoint.wire() as conn:
        conn.send(b"Q" + struct.pack("!i", 50 << 20) + b"SELECT '" + b"x" * (1 << 20))
    with endpoint.wire() as conn:
        assert conn.value("SELECT 1") == "1"


def test_random_bytes_after_login(endpoint):
    random.seed(3)
    for n in range(100):
        with endpoint.wire() as conn:
            try:
                conn.send(random.randbytes(random.randrange(1, 2000)))
                conn.sock.shutdown(1)
            except OSError:
                pass
            conn.rest()
    with endpoint.wire() as conn:
        assert conn.value("SELECT 1") == "1"


# Requests and parts of requests, by the name that a failure shows.
PIECES = {
    "Q": query("SELECT 1"), "Q(1/0)": query("SELECT 1/0"), "BEGIN": query("BEGIN"),
    "ROLLBACK": query("ROLLBACK"), "Q()": query(""), "P": parse("SELECT 1"),
    "P(s)": parse("SELECT $1::int", "s"), "P(t)": parse("SELECT 'text'", "t"),
    "P(s)other": parse("SELECT $1::text", "s"), "P(bad)": parse("SELEKT"),
    "P(u)bad": parse("SELECT nothing", "u"), "B": bind(), "B(s)": bind([1], "s"),
    "B(s)2": bind([1, 2], "s"), "B(t)": bind(name="t"), "D(s)": pgwire.describe("S", "s"),
    "D(t)": pgwire.describe("S", "t"), "D": pgwire.describe(), "E": execute(), "E1": execute(rows=1),
    "C(s)": pgwire.close("S", "s"), "C(t)": pgwire.close("S", "t"), "Cportal": pgwire.close("P"),
    "S": SYNC, "H": pgwire.FLUSH, "d": pgwire.copy_data(b"1\n"), "c": COPY_DONE,
    "f": pgwire.copy_fail("no"),
    "COPYIN": query("COPY items FROM STDIN") + pgwire.copy_fail("no"),
    "COPYIN1": query("COPY items FROM STDIN") + pgwire.copy_data(b"1\tthere is one\n") + COPY_DONE,
    "COPYIN0": query("COPY items FROM STDIN") + COPY_DONE,
    "COPYOUT": query("COPY (SELECT 1) TO STDOUT"),
    "P(copy)E": parse("COPY items FROM STDIN") + bind() + execute() + COPY_DONE,
    "DEALLOCATE": query("DEALLOCATE ALL"), "DEALLOCATE s": query("DEALLOCATE s"),
    "DEALLOCATE t": query("DEALLOCATE PREPARE t;"), "C()": pgwire.close("S"),
    "XDEALLOCATE": parse("DEALLOCATE ALL") + bind() + execute(),
    "XDEALLOCATE s": parse("DEALLOCATE s") + bind() + pgwire.describe() + execute(),
    "B(c,s)": bind([1], "s", "c"), "E(c)": execute("c"), "D(c)": pgwire.describe("P", "c"),
    "F": pgwire.function_call(177, [b"1", b"2"], [0, 0]),
}


def conversation(place, pieces):
    """All of it in one packet; what came back, without what may differ."""
    data = b"".join(PIECES[name] for name in pieces) + SYNC + query("ROLLBACK") + \
        query("SELECT 'the end'")
    with place.wire() as conn:
        messages = []
        try:
            conn.send(data)
            while ["the end"] not in rows(messages[-4:]):
                messages += conn.until("Z")
        except (pgwire.Closed, ConnectionError):
            return "closed"
        return "".join(m.kind + (m.fields()["C"] if m.kind == "E" else
                                 m.body.decode() if m.kind == "Z" else "")
                       for m in messages if m.kind not in "NSA")


@pytest.mark.parametrize("seed", range(10))
def test_messages_in_any_order(proxied, seed, pg):
    """The same nonsense gives the same answers through the proxy as from PostgreSQL itself."""
    generator = random.Random(seed)
    direct = Endpoint("direct", pg.host, pg.port)
    for _ in range(60):
        pieces = generator.choices(list(PIECES), k=generator.randrange(2, 25))
        assert conversation(proxied, pieces) == conversation(direct, pieces), " ".join(pieces)


def test_sync_after_copy_that_has_failed(endpoint):
    """Whether the first Sync still falls into the COPY only the server knows; nothing hangs."""
    with endpoint.wire() as conn:
        conn.send(query("COPY items FROM STDIN"), pgwire.copy_data(b"1\n"), SYNC,
                  pgwire.copy_fail("x"), SYNC, query("SELECT 5"))
        try:
            messages = conn.ready()
            while not rows(messages):
                messages = conn.ready()
            assert rows(messages) == [["5"]]
        except pgwire.Closed:
            pass
    with endpoint.wire() as conn:
        assert conn.value("SELECT 1") == "1"


def test_descriptors_are_given_back(proxied, shared_proxies):
    proxy = shared_proxies(proxied.kind)
    folder = "/proc/%d/fd" % proxy.process.pid
    with proxied.wire() as conn:
        conn.value("SELECT 1")
    before = len(os.listdir(folder))
    for n in range(50):
        with proxied.raw() as conn:
            conn.send(list(BEFORE.values())[n % len(BEFORE)])
    for n in range(50):
        with proxied.wire() as conn:
            conn.send(list(FATAL.values())[n % len(FATAL)])
    pgwire.wait_for(lambda: len(os.listdir(folder)) <= before + 12, what="closed descriptors")
