# SPDX-License-Identifier: PostgreSQL
"""A hold that its clients hardly notice: those in a transaction may be kept, bounds that keep the
connection, order at the release, and nothing left of those who leave."""
import os
import threading
import time

import pytest

import pgwire
from certs import Authority, TlsConn
from proxy import ConsoleError
from pgwire import (FLUSH, SYNC, bind, close, copy_data, describe, errors, execute, function_call,
                    kinds, parse, query, rows, wait_for)
from servers import SLOW, start


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
    assert "proxy ended this transaction" in open(pg.log, errors="replace").read() or how == "while held"


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


# More of them, whose blocks have done something before: savepoints, a cursor, a COPY that comes too late.
USED_ENDINGS = {
    "savepoint before": [query("ROLLBACK TO s"), query("RELEASE s"), query("SELECT 1"), query("COMMIT")],
    "savepoint, extended": [parse("ROLLBACK TO s"), bind(), execute(), SYNC, parse("SAVEPOINT s"), bind(),
                            execute(), SYNC, parse("COMMIT"), bind(), execute(), SYNC],
    "cursor": [query("FETCH 1 FROM c"), parse("FETCH 1 FROM c"), bind(), execute(), SYNC, query("END")],
    "copy in": [query("COPY items FROM STDIN"), copy_data(b"920003\tx\n"), pgwire.COPY_DONE,
                query("COMMIT"), query("SELECT 1")],
    "copy out": [query("COPY items TO STDOUT"), query("COMMIT")],
    "copy, extended": [parse("COPY items FROM STDIN"), bind(), execute(), copy_data(b"920003\tx\n"),
                       pgwire.COPY_DONE, SYNC, query("COMMIT")],
    "copy that fails": [query("COPY items FROM STDIN"), copy_data(b"920003\tx\n"),
                        pgwire.copy_fail("no more"), query("COMMIT")],
}


@pytest.fixture(scope="module")
def ca(folder):
    authority = Authority(folder, "civil-ca")
    authority.server = authority.issue("proxy", "/CN=localhost", "DNS:localhost,IP:127.0.0.1")
    return authority


def tls(ca):
    return {"client_tls_sslmode": "allow", "client_tls_cert_file": ca.server[0],
            "client_tls_key_file": ca.server[1]}


def connect(how, host, port, user, dbname, password=None):
    """In the clear, over TLS, or over TLS from the first byte."""
    conn = pgwire.Conn(host, port) if how == "clear" else TlsConn(host, port, direct=how == "direct TLS")
    conn.login(user, dbname, password)
    return conn


def swap(proxy, epoch):
    assert proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)[0]["server"] == "other"


def prepare_block(conn, name):
    conn.send(parse("SELECT 'before'", "before"), parse("SELECT 'after'", "after"),
              parse("ROLLBACK", "rollback"), SYNC, query("BEGIN"))
    conn.ready()
    conn.ready()
    if name in USED_ENDINGS:
        conn.query("SAVEPOINT s")
        conn.query("DECLARE c CURSOR FOR SELECT generate_series(1, 9)")
    conn.query("INSERT INTO items VALUES (920003, 'never')")


@pytest.mark.once
@pytest.mark.parametrize("how", ["clear", "TLS", "direct TLS"])
@pytest.mark.parametrize("name", [*ENDINGS, *USED_ENDINGS])
def test_ending_at_another_server(make_proxy, pg, other, ca, name, how):
    """A transaction that was ended at the deadline, and then the database is swapped: the answers are
    those of an aborted block without savepoints, and its client goes on at the new server."""
    messages = {**ENDINGS, **USED_ENDINGS}[name]
    count = sum(m[0] in b"QS" for m in messages)
    proxy = make_proxy({"pg": pg, "other": other}, pool_size=2, **tls(ca))
    with pgwire.Conn(pg.host, pg.port) as direct:
        direct.login("app", "p2")
        prepare_block(direct, "")
        direct.query("ROLLBACK TO none")
        direct.send(*messages)
        expected = answers(direct, count)
    for when in ("one packet", "in pieces", "held"):
        with connect(how, proxy.host, proxy.port, "app", "p2") as conn:
            prepare_block(conn, name)
            assert proxy.route()["server"] == "pg"
            held = keep(proxy)
            assert held["state"] == "held"
            wait_for(lambda: not pg.sessions("p2", "app"), 20 * SLOW, "the end of its server")
            if when == "held":
                conn.send(*messages)
                time.sleep(0.05)
            swap(proxy, held["epoch"])
            if when == "held":
                time.sleep(0.05)
            proxy.command("RELEASE p2")
            if when != "held":
                for part in messages if when == "in pieces" else [b"".join(messages)]:
                    conn.send(part)
                    time.sleep(0.002)
            got, want = answers(conn, count), expected
            if when == "held":  # a text is not parsed before it is refused
                got, want = (text.replace("E42601", "E25P02").replace("E3B001", "E25P02")
                             for text in (got, want))
            assert got == want, when
            conn.query("ROLLBACK")
            assert conn.value("SHOW cluster_name") == "other"
            conn.send(bind([], "after"), execute(), SYNC)
            assert rows(conn.ready("I")) == [["after"]]
            assert conn.value("SELECT count(*) FROM items WHERE id = 920003") == "0"
        assert pg.value("SELECT count(*) FROM items WHERE id = 920003", "p2") == 0
        proxy.hold("p2", "LEASE 60s")
        proxy.command("SWAP p2 TO pg FORCE")
        proxy.command("RELEASE p2")


@pytest.mark.parametrize("how", ["clear", "TLS", "direct TLS"])
def test_many_are_kept_in_a_swap(make_proxy, pg, other, ca, how):
    """More of them than server connections, who end their blocks whenever they like; meanwhile others
    work at the new server, for a client in an aborted block that does nothing needs no connection."""
    proxy = make_proxy({"pg": pg, "other": other}, pool_size=6, **tls(ca))
    kept = [connect(how, proxy.host, proxy.port, "app", "p2") for _ in range(6)]
    for n, conn in enumerate(kept):
        conn.query("BEGIN")
        assert conn.value("SHOW cluster_name") == "pg"
    others = [connect(how, proxy.host, proxy.port, "app", "p2") for _ in range(6)]
    held = keep(proxy)
    for conn in others:
        conn.send(query("SHOW cluster_name"))
    kept[0].send(query("COMMIT"))
    assert pgwire.tags(kept[0].ready("I")) == ["ROLLBACK"]
    swap(proxy, held["epoch"])
    kept[1].send(query("COMMIT"))
    assert pgwire.tags(kept[1].ready("I")) == ["ROLLBACK"]
    proxy.command("RELEASE p2")
    for conn in others:
        assert rows(conn.ready("I")) == [["other"]]
    for n, conn in enumerate(kept[2:]):
        assert conn.silent(0.02)
        assert answers_of(conn, "SELECT 1") == "E25P02ZE"
        for busy in others:
            assert busy.value("SHOW cluster_name") == "other"
        conn.send(*([query("COMMIT")] if n % 2 else [parse("COMMIT"), bind(), execute(), SYNC]))
        assert pgwire.tags(conn.ready("I")) == ["ROLLBACK"]
    for conn in kept + others:
        assert conn.value("SHOW cluster_name") == "other"
        conn.close()


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
        # It waits, as whatever is asked of a held database.
        release = threading.Timer(0.3, proxy.command, ("RELEASE p2",))
        release.start()
        conn.rollback()
        release.join()
        assert conn.execute("SELECT count(*) FROM items WHERE id = 920002").fetchone() == (0,)
        conn.commit()


# --- bounds ---------------------------------------------------------------------------------------

SIMPLE = query("SELECT 'done'")
EXTENDED = parse("SELECT 'done'") + bind() + execute() + SYNC


def held_requests(proxy, count):
    wait_for(lambda: proxy.held()["held"] == str(count), 20 * SLOW, "%d held requests" % count)


@pytest.mark.parametrize("request_bytes", [SIMPLE, EXTENDED], ids=["simple", "extended"])
@pytest.mark.parametrize("who", ["newest", "oldest"])
def test_too_many_requests(make_proxy, who, request_bytes):
    """The newest or the oldest gets the error, in whatever worker it is, and goes on."""
    proxy = make_proxy(hold_max_requests=3, hold_overflow=who)
    conns = [proxy.wire("p2") for _ in range(6)]
    proxy.hold("p2", "LEASE 60s")
    for n, conn in enumerate(conns):
        conn.send(request_bytes)
        held_requests(proxy, min(n + 1, 3))
        if who == "oldest" and n >= 3:
            assert answers(conns[n - 3], 1) == "E53300ZI"
    refused = conns[3:] if who == "newest" else conns[:3]
    if who == "newest":
        for conn in refused:
            assert answers(conn, 1) == "E53300ZI"
    proxy.command("RELEASE p2")
    for conn in conns:
        if conn not in refused:
            assert rows(conn.ready("I")) == [["done"]]
    for conn in conns:
        assert conn.value("SELECT 6") == "6"
        conn.close()
    assert proxy.held()["held_bytes"] == "0"


@pytest.mark.parametrize("who", ["newest", "oldest"])
def test_too_many_bytes(make_proxy, who):
    """One large request in the place of several small ones."""
    proxy = make_proxy(hold_max_bytes="30kB", hold_overflow=who, hold_client_bytes="64kB")
    conns = [proxy.wire("p2") for _ in range(4)]
    proxy.hold("p2", "LEASE 60s")
    for n, size in enumerate((9000, 9000, 9000, 20000)):
        conns[n].send(query("SELECT length('%s')" % ("x" * size)))
        if n < 3:
            held_requests(proxy, n + 1)
    for conn in conns[3:] if who == "newest" else conns[:2]:
        assert answers(conn, 1) == "E53400ZI"
    proxy.command("RELEASE p2")
    for conn in conns[:3] if who == "newest" else conns[2:]:
        assert not errors(conn.ready("I"))
    for conn in conns:
        assert conn.value("SELECT 6") == "6"
        conn.close()


@pytest.mark.parametrize("who", ["newest", "oldest"])
def test_pipelines_beyond_the_bound(make_proxy, who):
    """Every request of the pipeline has its own answer, in order."""
    proxy = make_proxy(hold_max_requests=1, hold_overflow=who)
    with proxy.wire("p2") as first, proxy.wire("p2") as second:
        proxy.hold("p2", "LEASE 60s")
        first.send(SIMPLE, EXTENDED, SIMPLE)
        held_requests(proxy, 1)
        second.send(EXTENDED, SIMPLE, EXTENDED)
        if who == "newest":
            assert answers(second, 3) == "E53300ZI E53300ZI E53300ZI"
        else:
            wait_for(lambda: first.sock.recv(1, pgwire.socket.MSG_PEEK), what="an answer")
        proxy.command("RELEASE p2")
        for conn in (first, second) if who == "oldest" else (first,):
            for _ in range(3):
                messages = conn.ready("I")
                assert [e["C"] for e in errors(messages)] in ([], ["53300"])
        assert first.value("SELECT 6") == "6" and second.value("SELECT 7") == "7"


def test_file_descriptors(make_proxy, monkeypatch):
    """When they are short no more requests are held, and the connections go on."""
    monkeypatch.setattr("proxy.start", lambda argv, *args, **kwargs: start(
        ["prlimit", "--nofile=120:120", *argv], *args, **kwargs))
    proxy = make_proxy(hold_max_descriptors=50, pool_size=2)
    few = [proxy.wire("p2") for _ in range(30)]
    proxy.hold("p2", "LEASE 60s")
    few[0].send(SIMPLE)
    held_requests(proxy, 1)
    many = [proxy.wire("p2") for _ in range(40)]
    for n, conn in enumerate((few[1], many[0], many[1])):
        conn.send(EXTENDED if n == 1 else SIMPLE)
        assert answers(conn, 1) == "E53000ZI"
    for conn in many:
        conn.close()
    held_requests(proxy, 1)
    wait_for(lambda: len(descriptors(proxy)) < 60, what="closed descriptors")
    few[1].send(SIMPLE)
    held_requests(proxy, 2)
    proxy.command("RELEASE p2")
    for conn in few[:2]:
        assert rows(conn.ready("I")) == [["done"]]
    for conn in few:
        conn.close()


# --- manners --------------------------------------------------------------------------------------

def test_notice(make_proxy):
    """Once for a request, and only if asked for."""
    proxy = make_proxy(hold_notice_after="200ms")
    with proxy.wire("p2") as conn, proxy.wire("p1") as other:
        proxy.hold("p2", "LEASE 60s")
        for request_bytes in (SIMPLE, EXTENDED):
            conn.send(request_bytes)
            notice = conn.recv()
            assert notice.kind == "N" and "being moved" in notice.fields()["M"]
            assert conn.silent(0.3)
            conn.cancel()
            assert answers(conn, 1) == "E57014ZI"
        conn.send(SIMPLE)
        assert conn.recv().kind == "N"
        proxy.command("RELEASE p2")
        assert rows(conn.ready("I")) == [["done"]]
        assert other.value("SELECT 1") == "1"


def test_order_of_arrival_at_the_release(make_proxy, pg):
    """Whatever worker they are in, and although there is one server only."""
    pg.sql("CREATE TABLE IF NOT EXISTS arrivals (place serial, who int); TRUNCATE arrivals; "
           "GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC; "
           "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC", "p2")
    proxy = make_proxy(workers=2, pool_size=1)
    conns = [proxy.wire("p2") for _ in range(12)]
    conns[0].value("SELECT 1")
    proxy.hold("p2", "LEASE 60s")
    for n, conn in enumerate(conns):
        conn.send(query("INSERT INTO arrivals (who) SELECT %d FROM pg_sleep(0.005)" % n))
        held_requests(proxy, n + 1)
        time.sleep(0.01)
    proxy.command("RELEASE p2")
    for conn in conns:
        assert kinds(conn.ready("I")) == "CZ"
        conn.close()
    assert [row[0] for row in pg.sql("SELECT who FROM arrivals ORDER BY place", "p2")] == list(range(12))


@pytest.mark.parametrize("how", ["close", "terminate", "half a message", "in login"])
def test_client_that_leaves_while_held(make_proxy, pg, how):
    """It leaves no trace: nothing of it runs, its bytes and its place are free, no descriptor is kept."""
    proxy = make_proxy(hold_max_requests=1, hold_max_bytes="100kB")
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        proxy.hold("p2", "LEASE 60s")
        before = len(descriptors(proxy))
        for n in range(4):
            gone = pgwire.Conn(proxy.host, proxy.port)
            if how != "in login":
                gone.login("app", "p2")
                data = query("INSERT INTO items VALUES (%d, '%s')" % (920100 + n, "x" * 60000))
                gone.send(data[:-10] if how == "half a message" else data)
                held_requests(proxy, 1)
            else:
                gone.send(pgwire.startup({"user": "app", "database": "p2"})[:-4])
            if how == "terminate":
                gone.send(pgwire.TERMINATE)
            gone.close()
            held_requests(proxy, 0)
        assert proxy.held()["held_bytes"] == "0"
        wait_for(lambda: len(descriptors(proxy)) <= before, what="closed descriptors")
        conn.send(SIMPLE)
        held_requests(proxy, 1)
        proxy.command("RELEASE p2")
        assert rows(conn.ready("I")) == [["done"]]
        assert conn.value("SELECT count(*) FROM items WHERE id >= 920100") == "0"


def descriptors(proxy):
    return [name for name in os.listdir("/proc/%d/fd" % proxy.process.pid)]


def test_logins_and_cancels_while_held(make_proxy):
    """New clients log in, are held, can cancel, and log in as users the proxy has not seen yet."""
    proxy = make_proxy()
    proxy.wire("p2").close()
    proxy.hold("p2", "LEASE 60s")
    with proxy.wire("p2") as conn, proxy.wire("p2", user="app2", application_name="fresh") as other:
        assert other.params["application_name"] == "fresh"
        for client in (conn, other):
            client.send(EXTENDED)
        held_requests(proxy, 2)
        other.cancel()
        assert answers(other, 1) == "E57014ZI"
        other.send(SIMPLE)
        held_requests(proxy, 2)
        proxy.command("RELEASE p2")
        for client in (conn, other):
            assert rows(client.ready("I")) == [["done"]]
        assert other.value("SELECT current_user") == "app2"
        assert other.value("SHOW application_name") == "fresh"
