# SPDX-License-Identifier: PostgreSQL
"""A hold that its clients hardly notice: those in a transaction may be kept, bounds that keep the
connection, order at the release, and nothing left of those who leave."""
import threading
import time

import pytest

import pgwire
from proxy import ConsoleError
from pgwire import (FLUSH, SYNC, bind, close, copy_data, describe, errors, execute, function_call,
                    kinds, parse, query, rows, wait_for)
from servers import SLOW


def answers(conn, count):
    """The kinds of messages, SQLSTATEs and states up to the count-th ReadyForQuery."""
    text = ""
    for _ in range(count):
        text += "".join(m.kind + (m.fields()["C"] if m.kind == "E" else
                                  m.body.decode() if m.kind == "Z" else "")
                        for m in conn.ready() if m.kind not in "NSA") + " "
    return text.strip()


# --- kept in a transaction ------------------------------------------------------------------------

def keep(proxy):
    """Holds p2, whose clients in transactions are kept."""
    return proxy.hold("p2", "LEASE 60s DRAIN 100ms POLICY keep")


@pytest.mark.parametrize("how", ["while held", "after the release"])
def test_kept_in_a_transaction(make_proxy, pg, how):
    proxy = make_proxy(pool_size=2)
    with proxy.wire("p2") as conn, proxy.wire("p2") as other:
        conn.query("BEGIN")
        conn.query("INSERT INTO items VALUES (920001, 'never')")
        old = conn.value("SELECT pg_backend_pid()")
        assert keep(proxy)["state"] == "held"
        wait_for(lambda: not pg.sql("SELECT 1 FROM pg_stat_activity WHERE pid = " + old), what="its end")
        assert conn.silent(0.1)
        if how == "after the release":
            proxy.command("RELEASE p2")
        for _ in range(2):
            conn.send(query("SELECT 1"), parse("SELECT 2"), bind(), execute(), SYNC)
            assert answers(conn, 2) == "E25P02ZE E25P02ZE"
        conn.send(SYNC, function_call(177, [b"1", b"2"]))
        assert answers(conn, 2) == "ZE E25P02ZE"
        conn.send(query("COMMIT"))
        ended = conn.ready("I")
        assert pgwire.tags(ended) == ["ROLLBACK"]
        if how == "while held":
            conn.send(query("SELECT 3"))
            assert conn.silent(0.1) and proxy.held()["held"] == "1"
            proxy.command("RELEASE p2")
            assert rows(conn.ready("I")) == [["3"]]
        assert conn.value("SELECT count(*) FROM items WHERE id = 920001") == "0"
        assert other.value("SELECT 4") == "4"
    assert "proxy ended this transaction" in open(pg.log).read() or how == "while held"


# What clients do in a block that has failed; the answers are PostgreSQL's.
ENDINGS = {
    "rollback": [query("ROLLBACK"), query("SELECT 1")],
    "commit": [query(" commit work ; "), query("SELECT 1")],
    "end in the extended protocol": [parse("END"), bind(), execute(), SYNC, query("SELECT 1")],
    "prepared": [parse("SELECT 1", "s"), bind([], "s"), execute(), SYNC, bind([], "before"), execute(),
                 SYNC, bind([], "rollback"), execute(), SYNC, bind([], "before"), execute(), SYNC],
    "and chain": [query("COMMIT AND CHAIN"), query("SELECT 1"), query("ROLLBACK"), query("SELECT 2")],
    "rollback and chain, extended": [parse("ROLLBACK AND CHAIN"), bind(), execute(), SYNC,
                                     query("SELECT 1; COMMIT")],
    "several statements": [query("SELECT 1; ROLLBACK"), query("ROLLBACK; SELECT 2"), query("SELECT 3")],
    "pipeline": [parse("SELECT 1"), bind(), execute(), parse("ROLLBACK"), bind(), execute(), SYNC,
                 parse("ROLLBACK"), bind(), execute(), parse("SELECT 2"), bind(), execute(), SYNC,
                 query("SELECT 3")],
    "savepoint that is gone": [query("ROLLBACK TO a"), query("RELEASE a"), query("SAVEPOINT a"),
                               query("ABORT"), query("SELECT 1")],
    "syntax error": [query("SELEKT"), query(""), query("/* nothing */"), query("ROLLBACK")],
    "prepare transaction": [query("PREPARE TRANSACTION 'x'"), query("SELECT 1")],
    "copy": [query("COPY items FROM STDIN"), copy_data(b"1"), query("ROLLBACK"), query("SELECT 1")],
    "flush": [parse("SELECT 1"), FLUSH, bind(), SYNC, close("S", "before"), SYNC, query("ROLLBACK")],
    "describe": [describe("S", "before"), SYNC, describe("S", "rollback"), SYNC, query("ROLLBACK"),
                 describe("S", "before"), SYNC],
    "unknown": [bind([], "unknown"), SYNC, execute("unknown"), SYNC, query("ROLLBACK")],
}


@pytest.mark.parametrize("name", ENDINGS)
def test_ending_a_transaction_that_was_ended(make_proxy, pg, name):
    """In one packet and message by message, while held and afterwards: as after any other error."""
    messages = ENDINGS[name]
    count = sum(m[0] in b"QS" for m in messages)
    prepare = [parse("SELECT 'before'", "before"), parse("ROLLBACK", "rollback"), SYNC, query("BEGIN")]
    proxy = make_proxy(pool_size=2)
    with pgwire.Conn(pg.host, pg.port) as direct:
        direct.login("app", "p2")
        direct.send(*prepare)
        direct.ready()
        direct.ready()
        direct.query("ROLLBACK TO none")
        direct.send(*messages)
        expected = answers(direct, count)
    for how in ("one packet", "in pieces", "held"):
        with proxy.wire("p2") as conn:
            conn.send(*prepare)
            conn.ready()
            conn.ready()
            keep(proxy)
            if how != "held":
                proxy.command("RELEASE p2")
            for part in messages if how == "in pieces" else [b"".join(messages)]:
                conn.send(part)
                time.sleep(0.002)
            if how == "held":
                time.sleep(0.05)
                proxy.command("RELEASE p2")
            got = answers(conn, count)
            if how == "held":  # a text is not parsed before it is refused
                got, want = (text.replace("E42601", "E25P02").replace("E3B001", "E25P02")
                             for text in (got, expected))
                assert got == want
            else:
                assert got == expected, how
            conn.query("ROLLBACK")
            assert conn.value("SELECT 5") == "5"


def test_kept_while_a_statement_runs(make_proxy, pg):
    """It is cancelled, and then its client is kept."""
    proxy = make_proxy()
    with proxy.wire("p2") as conn, proxy.wire("p2") as outside:
        conn.query("BEGIN")
        conn.send(query("SELECT pg_sleep(60)"))
        outside.send(query("SELECT pg_sleep(60)"))
        wait_for(lambda: len(pg.sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)' AND "
                                    "state = 'active'")) == 2, what="the statements")
        assert keep(proxy)["state"] == "held"
        assert errors(conn.ready("E"))[0]["C"] == "57014"
        assert errors(outside.ready("I"))[0]["C"] == "57014"
        conn.send(query("SELECT 1"))
        assert answers(conn, 1) == "E25P02ZE"
        conn.send(query("ROLLBACK"))
        assert answers(conn, 1) == "CZI"
        proxy.command("RELEASE p2")
        assert conn.value("SELECT 1") == "1" and outside.value("SELECT 2") == "2"


@pytest.mark.parametrize("block", [False, True])
def test_kept_in_the_middle_of_a_request(make_proxy, block):
    """Without its Sync it is a transaction, too: it fails, and all is skipped up to there."""
    proxy = make_proxy()
    with proxy.wire("p2") as conn:
        if block:
            conn.query("BEGIN")
        conn.send(parse("SELECT 1"), bind(), execute(), FLUSH)
        assert kinds(conn.until("C")) == "12DC"
        assert keep(proxy)["state"] == "held"
        failed = conn.recv()
        assert failed.kind == "E" and failed.fields()["C"] == "57014"
        conn.send(bind(), execute(), SYNC)
        assert answers(conn, 1) == ("ZE" if block else "ZI")
        proxy.command("RELEASE p2")
        if block:
            conn.query("ROLLBACK")
        assert conn.value("SELECT 2") == "2"


def test_parameters_of_a_transaction_that_was_ended(make_proxy):
    """They are rolled back, and the client is told."""
    proxy = make_proxy()
    with proxy.wire("p2", application_name="before") as conn:
        conn.query("BEGIN")
        conn.query("SET application_name = 'within'")
        assert conn.params["application_name"] == "within"
        keep(proxy)
        proxy.command("RELEASE p2")
        conn.query("ROLLBACK")
        assert conn.params["application_name"] == "before"
        assert conn.value("SHOW application_name") == "before"


def test_kept_twice(make_proxy):
    proxy = make_proxy()
    with proxy.wire("p2") as conn:
        conn.query("BEGIN")
        keep(proxy)
        proxy.command("RELEASE p2")
        assert answers_of(conn, "SELECT 1") == "E25P02ZE"
        assert keep(proxy)["state"] == "held"
        proxy.command("RELEASE p2")
        assert answers_of(conn, "SELECT 1") == "E25P02ZE"
        assert answers_of(conn, "ROLLBACK") == "CZI"
        assert conn.value("SELECT 1") == "1"


def answers_of(conn, text):
    conn.send(query(text))
    return answers(conn, 1)


def test_sessions_are_not_kept(make_proxy):
    """Nothing can stand in for what they have: the hold fails and names them."""
    proxy = make_proxy(pool_mode="session")
    with proxy.wire("p2") as conn:
        conn.query("BEGIN")
        with pytest.raises(ConsoleError) as error:
            keep(proxy)
        assert error.value.sqlstate == "55P03"
        assert conn.value("SELECT 1") == "1"


def test_driver_that_is_kept(make_proxy):
    """psycopg sees an error in its transaction and goes on after the rollback."""
    proxy = make_proxy()
    with proxy.connect("p2") as conn:
        conn.execute("INSERT INTO items VALUES (920002, 'never')")
        keep(proxy)
        with pytest.raises(Exception, match="current transaction is aborted"):
            conn.execute("SELECT %s::int", (1,))
        conn.rollback()
        proxy.command("RELEASE p2")
        assert conn.execute("SELECT count(*) FROM items WHERE id = 920002").fetchone() == (0,)
        conn.commit()
