# SPDX-License-Identifier: PostgreSQL
"""A pgbouncer on the way to the proxy: what the proxy does stays invisible behind it too."""
import threading

import psycopg
import pytest

from pgwire import rows, wait_for
from servers import SLOW, PgBouncer, subfolder


@pytest.fixture
def chain(make_proxy, folder):
    """pgbouncer -> pgshuntd -> PostgreSQL."""
    proxy = make_proxy(pool_size=3)
    bouncer = PgBouncer(subfolder(folder), "pgbouncer",
                        [("p1", proxy.host, proxy.port, "p1"), ("p2", proxy.host, proxy.port, "p2")],
                        "default_pool_size=6")
    yield proxy, bouncer
    bouncer.stop()


def connect(bouncer, dbname="p2"):
    return psycopg.connect(host="127.0.0.1", port=bouncer.port, dbname=dbname, user="app",
                           autocommit=True, prepare_threshold=None, connect_timeout=20)


def test_queries(chain):
    _, bouncer = chain
    conns = [connect(bouncer) for _ in range(8)]
    for n in range(10):
        for m, conn in enumerate(conns):
            assert conn.execute("SELECT %s::int, %s::int", (n, m)).fetchone() == (n, m)
    for conn in conns:
        with conn.transaction():
            conn.execute("INSERT INTO items VALUES (950001, 'x')")
            conn.execute("DELETE FROM items WHERE id = 950001")
        conn.close()


def test_settings(chain):
    """pgbouncer sets its clients' parameters by SET; the proxy follows."""
    _, bouncer = chain
    with connect(bouncer) as one, connect(bouncer) as two:
        one.execute("SET TimeZone = 'Asia/Tokyo'")
        for _ in range(3):
            assert one.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)
            assert two.execute("SHOW TimeZone").fetchone() != ("Asia/Tokyo",)


def test_hold(chain):
    proxy, bouncer = chain
    stop = threading.Event()
    failed = []
    counts = [0] * 6

    def work(me):
        try:
            with connect(bouncer) as conn:
                while not stop.is_set():
                    counts[me] += 1
                    row = conn.execute("SELECT %s::int", (counts[me],)).fetchone()
                    assert row == (counts[me],)
        except BaseException as error:
            failed.append(error)
    threads = [threading.Thread(target=work, args=(me,)) for me in range(6)]
    for thread in threads:
        thread.start()
    wait_for(lambda: min(counts) > 5 or failed, 20 * SLOW, "the load")
    for _ in range(3):
        assert proxy.hold("p2", "DRAIN 10s")["state"] == "held"
        with connect(bouncer, "p1") as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
        proxy.command("RELEASE p2")
        before = min(counts)
        wait_for(lambda: min(counts) > before or failed, 20 * SLOW, "progress")
    stop.set()
    for thread in threads:
        thread.join(20 * SLOW)
    assert not failed, failed


def test_cancel(chain, pg):
    proxy, bouncer = chain
    with connect(bouncer) as conn:
        def cancel():
            wait_for(lambda: pg.value("SELECT count(*) > 0 FROM pg_stat_activity WHERE state = 'active' "
                                      "AND query = 'SELECT pg_sleep(60)'"), 20 * SLOW, "the query")
            conn.cancel()
        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(psycopg.errors.QueryCanceled, match="canceling statement due to user request"):
            conn.execute("SELECT pg_sleep(60)")
        thread.join()
    with proxy.wire("p2") as wire:
        assert rows(wire.query("SELECT 1")) == [["1"]]
