# SPDX-License-Identifier: PostgreSQL
"""A mover that died between fence and promotion: the hold ends with its lease, the server is closed,
and clients wait until somebody has undone or completed the move."""
import time

import pytest

from pgwire import errors, query, rows, wait_for
from servers import SLOW


def fence(cluster, allow):
    cluster.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS %s" % allow)
    if allow == "false":
        cluster.sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                    "WHERE datname = 'p2'")


@pytest.fixture
def fenced(pg):
    yield lambda: fence(pg, "false")
    fence(pg, "true")


def lapse(proxy, fenced):
    proxy.hold(options="LEASE 1s")
    fenced()
    wait_for(lambda: proxy.held()["state"] == "open", 10 * SLOW, "the end of the lease")


def test_clients_wait_for_the_fence_to_be_lifted(make_proxy, pg, fenced):
    """Longer than they would wait for a server that is down; nobody sees an error, who was there
    and who comes meanwhile."""
    proxy = make_proxy(connect_timeout="500ms")
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        lapse(proxy, fenced)
        conn.send(query("SELECT 'went on'"))
        with proxy.wire("p2") as late:
            late.send(query("SELECT 'came late'"))
            time.sleep(2 * SLOW)
            assert conn.silent() and late.silent()
            fence(pg, "true")
            assert rows(conn.ready("I")) == [["went on"]]
            assert rows(late.ready("I")) == [["came late"]]


def test_the_wait_ends_with_a_reason(make_proxy, pg, fenced):
    """The connection lives, and the next request can succeed."""
    proxy = make_proxy(connect_timeout="500ms", query_wait_timeout="1500ms")
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        lapse(proxy, fenced)
        conn.send(query("SELECT 1"))
        error = errors(conn.ready("I"))[0]
        assert error["C"] == "57P03" and "not currently accepting connections" in error["M"]
        assert error["S"] == "ERROR" and error["H"]
        fence(pg, "true")
        wait_for(lambda: not errors(conn.query("SELECT 1")), 10 * SLOW, "the server")


def test_a_database_that_was_closed_otherwise(make_proxy, fenced):
    """Closed by somebody, or after a hold that was released: clients are told soon."""
    proxy = make_proxy(connect_timeout="500ms")
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        fenced()
        assert errors(conn.query("SELECT 1"))[0]["C"] == "55000"
        proxy.hold()
        proxy.command("RELEASE p2")
        assert errors(conn.query("SELECT 1"))[0]["C"] == "55000"
