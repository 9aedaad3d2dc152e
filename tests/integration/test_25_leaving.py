# SPDX-License-Identifier: PostgreSQL
"""Connections to the old server while a prepared move drains: closed, and opened again if need be."""
import pytest

from pgwire import wait_for
from servers import SCHEMA, Cluster, subfolder

pytestmark = pytest.mark.threads


@pytest.fixture(scope="module")
def other(folder, templates):
    cluster = Cluster(subfolder(folder), "leaving").create(templates.get("other"))
    cluster.sql("CREATE DATABASE p2")
    cluster.sql(SCHEMA, "p2")
    yield cluster
    cluster.stop()


@pytest.fixture
def proxy(make_proxy, pg, other):
    return make_proxy({"pg": pg, "other": other})


def old_sessions(proxy):
    return [row for row in proxy.command("SHOW SERVERS")
            if row["database"] == "p2" and row["server"] == "pg"]


def test_old_connections_leave_under_a_prepared_hold(proxy):
    with proxy.wire("p2") as idle, proxy.wire("p2") as busy:
        idle.value("SELECT 1")
        busy.query("BEGIN")
        proxy.command("PREPARE SWAP p2 TO other")
        proxy.hold("p2", "NOWAIT DRAIN 30s")
        # The idle one goes at once, the busy one with the end of its transaction.
        wait_for(lambda: len(old_sessions(proxy)) == 1, what="the idle connection to be closed")
        busy.query("COMMIT")
        wait_for(lambda: not old_sessions(proxy), what="the last connection to be closed")
        proxy.command("SWAP p2 TO other FORCE")
        proxy.command("RELEASE p2")
        assert idle.value("SELECT 2") == "2" and busy.value("SELECT 3") == "3"


def test_a_move_that_is_called_off_opens_them_again(proxy, pg):
    with proxy.wire("p2") as client:
        client.value("SELECT 1")
        proxy.command("PREPARE SWAP p2 TO other")
        proxy.hold("p2")
        wait_for(lambda: not old_sessions(proxy), what="the connection to be closed")
        proxy.command("CANCEL SWAP p2")
        proxy.command("RELEASE p2")
        assert client.value("SELECT current_setting('port')::int") == str(pg.port)
        assert len(old_sessions(proxy)) == 1


def test_without_a_prepared_swap_they_stay(proxy):
    with proxy.wire("p2") as client:
        pid = client.value("SELECT pg_backend_pid()")
        proxy.hold("p2")
        proxy.command("RELEASE p2")
        assert client.value("SELECT pg_backend_pid()") == pid
