# SPDX-License-Identifier: PostgreSQL
"""Corners of the proxy's core in which something was once wrong."""
import signal
import threading
import time

import pytest

from fakeserver import WELCOME, FakeServer
from pgwire import (COPY_DONE, SYNC, Closed, bind, close, copy_data, describe, errors, execute,
                    kinds, message, parse, query, rows, wait_for)
from proxy import Console
from servers import SLOW


def run(conn, *parts):
    conn.send(*parts, SYNC)
    return conn.ready()


def in_thread(function):
    result = []
    thread = threading.Thread(target=lambda: result.append(function()), daemon=True)
    thread.start()
    return thread, result


def test_half_message_in_a_draining_transaction(make_proxy):
    """The rest of it is read, so that the transaction can end."""
    proxy = make_proxy()
    with proxy.wire() as conn:
        conn.query("BEGIN")
        conn.send(query("SELECT 1")[:3])
        time.sleep(0.1)
        thread, held = in_thread(lambda: proxy.hold("p1", "DRAIN 10s"))
        wait_for(lambda: proxy.held("p1")["state"] == "draining", 5 * SLOW, "the drain")
        conn.send(query("SELECT 1")[3:])
        assert rows(conn.ready("T")) == [["1"]]
        conn.send(parse("SELECT 2", "half")[:12])
        time.sleep(0.1)
        conn.send(parse("SELECT 2", "half")[12:], bind(name="half"), execute(), SYNC)
        assert rows(conn.ready("T")) == [["2"]]
        conn.query("COMMIT")
        thread.join(10 * SLOW)
        assert held and held[0]["state"] == "held"
        proxy.command("RELEASE p1")
        assert conn.value("SELECT 3") == "3"


def test_answers_of_the_proxy_behind_a_long_message(make_proxy):
    """CloseComplete waits for the end of a RowDescription that comes in pieces."""
    columns = ", ".join("%d AS %s_%04d" % (i, "c" * 55, i) for i in range(1600))
    proxy = make_proxy(workers=1)
    with proxy.wire() as conn:
        assert kinds(run(conn, parse("SELECT " + columns, "wide"), parse("SELECT 1", "s"))) == "11Z"
        for _ in range(20):
            messages = run(conn, describe("S", "wide"), close("S", "s"), parse("SELECT 1", "s"))
            assert kinds(messages) == "tT31Z"
            assert len(messages[1].columns()) == 1600


def test_eviction_that_an_error_skipped(make_proxy):
    """What was not closed because of an error is still there, and is not prepared again."""
    proxy = make_proxy(workers=1, pool_size=1, max_prepared_statements=1)
    with proxy.wire() as conn:
        assert kinds(run(conn, parse("SELECT 'a'", "a"))) == "1Z"
        for _ in range(5):
            messages = run(conn, parse("SELEKT"), parse("SELECT 'b'", "b"), bind(name="b"))
            assert kinds(messages) == "EZ"
            assert rows(run(conn, bind(name="a"), execute())) == [["a"]]
        assert kinds(run(conn, parse("SELECT 'b'", "b"), close("S", "a"))) == "13Z"
        assert rows(run(conn, bind(name="b"), execute())) == [["b"]]


def test_close_of_a_statement_that_failed(make_proxy):
    """Parse fails, and the Close behind it is skipped: the name is free."""
    proxy = make_proxy()
    with proxy.wire() as conn:
        assert kinds(run(conn, parse("SELEKT", "x"), close("S", "x"))) == "EZ"
        assert errors(run(conn, bind(name="x"), execute()))[0]["C"] == "26000"
        assert kinds(run(conn, parse("SELECT 1", "x"))) == "1Z"
        assert rows(run(conn, bind(name="x"), execute())) == [["1"]]


def test_unnamed_statement_of_somebody_else(make_proxy):
    """A pipelined Bind behind a batch that failed never runs what another client left there."""
    proxy = make_proxy(workers=1, pool_size=1)
    with proxy.wire() as conn, proxy.wire() as other:
        for _ in range(20):
            assert kinds(run(other, parse("SELECT 'secret'"))) == "1Z"
            conn.send(parse("SELEKT", "bad"), parse("SELECT 'mine'"), SYNC, bind(), execute(), SYNC)
            assert kinds(conn.ready()) == "EZ"
            assert errors(conn.ready())[0]["C"] == "26000"


@pytest.mark.parametrize("between", [b"", SYNC])
def test_copy_sent_all_at_once(make_proxy, pg, between):
    pg.sql("CREATE TABLE IF NOT EXISTS copied_ahead (a int); TRUNCATE copied_ahead; "
           "GRANT ALL ON copied_ahead TO app", "p1")
    proxy = make_proxy(workers=1, pool_size=1)
    with proxy.wire() as conn:
        conn.send(parse("COPY copied_ahead FROM STDIN"), bind(), execute(), between,
                  copy_data(b"1\n2\n"), COPY_DONE, SYNC, query("SELECT count(*) FROM copied_ahead"))
        assert kinds(conn.ready("I")) == "12GCZ"
        assert rows(conn.ready("I")) == [["2"]]
        conn.send(query("COPY copied_ahead FROM STDIN"), copy_data(b"x\n"), COPY_DONE,
                  query("COPY copied_ahead FROM STDIN"), copy_data(b"3\n"), COPY_DONE)
        assert kinds(conn.ready("I")) == "GEZ"
        assert kinds(conn.ready("I")) == "GCZ"


def test_rest_of_a_failed_copy_does_not_keep_the_server(make_proxy, pg):
    """The last part of a long CopyData comes when all has been answered: then others may go on."""
    pg.sql("CREATE TABLE IF NOT EXISTS copied_late (a int); GRANT ALL ON copied_late TO app", "p1")
    proxy = make_proxy(workers=1, pool_size=1)
    with proxy.wire() as conn, proxy.wire() as other:
        conn.send(query("COPY copied_late FROM STDIN"))
        conn.until("G")
        long_data = copy_data(b"z" * 100000)
        conn.send(copy_data(b"not a number\n") * 3000, long_data[:50000])
        assert kinds(conn.ready("I"))[-2:] == "EZ"
        conn.send(long_data[50000:])
        assert other.value("SELECT 1") == "1"
        assert proxy.hold("p1", "DRAIN 5s")["state"] == "held"
        proxy.command("RELEASE p1")
        conn.send(COPY_DONE)
        assert conn.value("SELECT 2") == "2"


def test_thousands_refused_at_once(make_proxy):
    """Every request of a pipeline is refused, one after the other."""
    proxy = make_proxy(workers=1, hold_max_requests=1)
    with proxy.wire() as first, proxy.wire() as conn:
        conn.query("SELECT 1")
        proxy.hold("p1")
        first.send(query("SELECT 1"))
        wait_for(lambda: proxy.held("p1")["held"] == "1", 5 * SLOW, "the held request")
        count = 9000
        sender, _ = in_thread(lambda: conn.send(query("") * count))
        for _ in range(count):
            assert kinds(conn.ready("I")) == "EZ"
        sender.join(5)
        proxy.command("RELEASE p1")
        assert kinds(first.ready("I")) == "TDCZ"
        assert conn.value("SELECT 1") == "1"


def test_nothing_is_said_inside_a_message(make_proxy):
    """A server that dies in the middle of a row leaves half a row, not a row of other text."""
    half = message("D", b"\0\1\0\0\x10\0" + b"r" * 4096)[:2000]

    def script(peer):
        peer.startup()
        peer.send(WELCOME)
        peer.request()
        peer.send(half)
        time.sleep(0.3)

    with FakeServer(script) as server:
        proxy = make_proxy(servers={"pg": server.check}, databases={"p1": "pg"})
        with proxy.wire() as conn:
            conn.send(query("SELECT 1"))
            with pytest.raises(Closed):
                conn.recv()
            assert b"FATAL" not in conn.buffer and len(conn.buffer) <= len(half)


@pytest.mark.figures
def test_who_does_not_read_is_not_served(make_proxy):
    """Answers of a pipeline stay with the server, not in the proxy's memory."""
    proxy = make_proxy(workers=1, pool_size=1)
    with proxy.wire() as conn:
        conn.query("SELECT repeat('x', 100000)")
        before = proxy.memory()
        conn.send(query("SELECT repeat('x', 100000)") * 2000)
        time.sleep(1)
        assert proxy.memory() - before < 60_000_000
        for _ in range(2000):
            assert kinds(conn.ready("I")) == "TDCZ"


def test_parameters_after_the_reset_of_a_session(make_proxy):
    """What the server does not report is set again for the next session that asked for it."""
    proxy = make_proxy(workers=1, pool_size=1, pool_mode="session")
    for _ in range(3):
        with proxy.connect(options="-c statement_timeout=54321ms", autocommit=True) as conn:
            assert conn.execute("SHOW statement_timeout").fetchone() == ("54321ms",)


def test_parameters_after_discard_all(make_proxy):
    proxy = make_proxy(workers=1, pool_size=1)
    with proxy.connect(options="-c statement_timeout=54321ms", autocommit=True) as conn:
        for _ in range(3):
            conn.execute("DISCARD ALL")
            assert conn.execute("SHOW statement_timeout").fetchone() == ("54321ms",)


def test_idle_sessions_leave_at_a_shutdown(make_proxy):
    proxy = make_proxy(pool_mode="session", shutdown_timeout="30s")
    with proxy.wire() as idle, proxy.wire() as busy:
        idle.query("SELECT 1")
        busy.query("BEGIN")
        proxy.process.send_signal(signal.SIGTERM)
        assert errors(idle.rest())[0]["C"] == "57P01"
        assert busy.value("SELECT 1") == "1"
        busy.send(query("COMMIT"))
        assert kinds(busy.rest()).startswith("CZE")
        proxy.process.wait(10 * SLOW)
    assert proxy.process.returncode == 0
    proxy.process = None


def test_database_that_a_reload_removes(make_proxy):
    proxy = make_proxy()
    with proxy.wire("p2") as conn:
        conn.query("SELECT 1")
        del proxy.databases["p2"]
        proxy.write()
        with Console(proxy, "pgshunt", "pgshunt_admin", "admin secret") as console:
            console("RELOAD")
        time.sleep(0.3)
        conn.send(query("SELECT 1"))
        assert errors(conn.rest())[0]["C"] == "3D000"


def test_sync_inside_copy_data_that_was_not_asked_for(make_proxy):
    """A Query behind such a Sync: how often the server will be ready cannot be known.  Others never get
    such a server."""
    proxy = make_proxy(workers=1, pool_size=1)
    for _ in range(5):
        with proxy.wire() as conn, proxy.wire() as other:
            conn.send(parse("COPY items FROM STDIN"), bind(), execute(), copy_data(b"bad\n"), SYNC,
                      query("SELECT 'mine'"))
            assert errors(conn.rest())[-1]["C"] == "08006"
            for n in range(5):
                assert other.value("SELECT %d" % n) == str(n)
