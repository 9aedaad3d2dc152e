# SPDX-License-Identifier: PostgreSQL
"""What needs a server of one's own: session pooling."""
import threading

import psycopg2
import psycopg2.extensions
import pytest

from pgwire import SYNC, bind, execute, kinds, parse, rows, tags, wait_for


@pytest.fixture
def conn(session_endpoint):
    with session_endpoint.wire() as conn:
        yield conn


def test_session_keeps_its_server(conn):
    pid = conn.value("SELECT pg_backend_pid()")
    conn.query("CREATE TEMP TABLE t (a int); INSERT INTO t VALUES (1)")
    conn.query("SET work_mem = '7MB'")
    conn.query("SELECT pg_advisory_lock(77)")
    assert conn.value("SELECT count(*) FROM t") == "1"
    assert conn.value("SHOW work_mem") == "7MB"
    assert conn.value("SELECT pg_backend_pid()") == pid
    assert conn.value("SELECT pg_advisory_unlock(77)") == "t"


def test_listen_and_notify(session_endpoint):
    with session_endpoint.wire() as listener, session_endpoint.wire() as sender:
        assert tags(listener.query("LISTEN news")) == ["LISTEN"]
        sender.query("NOTIFY news, 'hello'")
        note = listener.until("A")[-1]
        assert note.body[4:] == b"news\0hello\0"
        # Between transactions, without the client asking.
        sender.query("SELECT pg_notify('news', repeat('n', 7000))")
        assert b"n" * 7000 in listener.until("A")[-1].body
        # One's own is recognised by the process that one was told at the login.
        assert note.body[:4] != listener.key[0]
        own = [m for m in listener.query("NOTIFY news") if m.kind == "A"]
        assert [m.body[:4] for m in own] == [listener.key[0]]


def test_listen_of_a_driver(session_endpoint):
    conn = psycopg2.connect(host=session_endpoint.host, port=session_endpoint.port, dbname="p1",
                            user="app")
    conn.set_isolation_level(psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT)
    cursor = conn.cursor()
    cursor.execute("LISTEN driver")
    with session_endpoint.wire() as sender:
        sender.query("NOTIFY driver, 'x'")

    def polled():
        conn.poll()
        return conn.notifies
    assert wait_for(polled)[0].payload == "x"
    conn.close()


def test_sql_prepare(conn):
    conn.query("PREPARE double(int) AS SELECT $1 * 2")
    assert conn.value("EXECUTE double(21)") == "42"
    assert tags(conn.query("DEALLOCATE double")) == ["DEALLOCATE"]


def test_named_statements_and_deallocate_all(conn):
    conn.send(parse("SELECT 1", "s1"), bind(name="s1"), execute(), SYNC)
    assert kinds(conn.ready("I")) == "12DCZ"
    conn.query("DEALLOCATE ALL")
    conn.send(bind(name="s1"), execute(), SYNC)
    assert kinds(conn.ready("I")) == "EZ"


def test_cursor_with_hold(conn):
    conn.query("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT id FROM items ORDER BY id; COMMIT")
    assert rows(conn.query("FETCH 2 FROM c")) == [["1"], ["2"]]
    conn.query("CLOSE c")


def test_next_client_gets_a_clean_session(make_proxy):
    """The reset query runs between two clients of one server connection."""
    proxy = make_proxy(pool_mode="session", pool_size=1)
    with proxy.wire() as first:
        pid = first.value("SELECT pg_backend_pid()")
        first.query("SET work_mem = '7MB'; CREATE TEMP TABLE t (a int); LISTEN ch; "
                    "SELECT pg_advisory_lock(5); PREPARE q AS SELECT 1")
        first.send(parse("SELECT 1", "named"), SYNC)
        first.ready("I")
    with proxy.wire() as second:
        assert second.value("SELECT pg_backend_pid()") == pid
        assert second.value("SHOW work_mem") == "4MB"
        assert second.value("SELECT to_regclass('pg_temp.t') IS NULL") == "t"
        assert second.value("SELECT count(*) FROM pg_listening_channels()") == "0"
        assert second.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' "
                            "AND pid = pg_backend_pid()") == "0"
        assert second.value("SELECT count(*) FROM pg_prepared_statements") == "0"
        second.send(parse("SELECT 2", "named"), bind(name="named"), execute(), SYNC)
        assert rows(second.ready("I")) == [["2"]]


def test_client_that_leaves_a_transaction_open(make_proxy):
    proxy = make_proxy(pool_mode="session", pool_size=1)
    first = proxy.wire()
    first.query("BEGIN; INSERT INTO items VALUES (300001, 'open')")
    first.close()
    with proxy.wire() as second:
        assert second.query("SELECT 1")[-1].body == b"I"
        assert second.value("SELECT count(*) FROM items WHERE id = 300001") == "0"


def test_reset_query_of_ones_own(make_proxy):
    proxy = make_proxy(pool_mode="session", pool_size=1,
                       server_reset_query="RESET work_mem; SET statement_timeout = '77s'")
    with proxy.wire() as first:
        pid = first.value("SELECT pg_backend_pid()")
    with proxy.wire() as second:
        assert second.value("SELECT pg_backend_pid()") == pid
        assert second.value("SHOW statement_timeout") == "77s"


def test_session_pool_limit_makes_the_next_client_wait(make_proxy):
    proxy = make_proxy(pool_mode="session", pool_size=2)
    one, two, three = proxy.wire(), proxy.wire(), proxy.wire()
    one.value("SELECT 1")
    two.value("SELECT 1")
    answers = []
    waiter = threading.Thread(target=lambda: answers.append(three.value("SELECT 3")))
    waiter.start()
    waiter.join(0.5)
    assert not answers
    one.close()
    waiter.join(20)
    assert answers == ["3"]
    two.close()
    three.close()


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_pool_mode_of_database_and_user(make_proxy, mode):
    """The most particular setting wins: user, then database, then proxy."""
    other = "session" if mode == "transaction" else "transaction"
    proxy = make_proxy(databases={"p1": {"server": "pg", "pool_mode": mode},
                                  "p2": {"server": "pg"}},
                       users={"app2": {"pool_mode": other}}, pool_mode=other)
    for dbname, user in (("p1", "app"), ("p1", "app2"), ("p2", "app")):
        with proxy.wire(dbname, user) as conn:
            conn.value("SELECT 1")
    modes = {(row["database"], row["user"]): row["pool_mode"]
             for row in proxy.command("SHOW POOLS") if row["user"] in ("app", "app2")}
    assert modes == {("p1", "app"): mode, ("p1", "app2"): other, ("p2", "app"): other}
