# SPDX-License-Identifier: PostgreSQL
"""Drivers do their ordinary work, and sessions of theirs keep what they have."""
import os

import pytest

from driver_runs import FOLDER, TABLE, Mover, run
from servers import Cluster, subfolder
from test_67_drivers import JDBC, NODE_PATH


@pytest.fixture(scope="module")
def items(pg):
    pg.sql(TABLE, "p1")


@pytest.fixture(scope="module")
def other(folder, templates):
    cluster = Cluster(subfolder(folder), "other").create(templates.get("other"))
    cluster.sql("CREATE DATABASE p1")
    cluster.sql(TABLE, "p1")
    # What the programs find where they are moved to.
    cluster.sql("INSERT INTO driver_items SELECT g, 'item ' || g FROM generate_series(0, 49) g", "p1")
    yield cluster
    cluster.stop()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("place", ["direct", "transaction", "session"])
def test_ordinary_work(pg, make_proxy, items, driver, place):
    program = ["/usr/bin/python3", os.path.join(FOLDER, driver + "_session.py")]
    at = pg if place == "direct" else make_proxy(pool_mode=place, pool_size=8, log_level="info")
    mode = "transaction" if place == "transaction" else "session"
    assert run(program, at, "p1", mode) == 3


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_moved_sessions(pg, make_proxy, items, other, driver):
    """They go on where they are moved to, between any two of their commands."""
    proxy = make_proxy({"pg": pg, "other": other}, pool_mode="session", pool_size=8,
                       log_level="info")
    program = ["/usr/bin/python3", os.path.join(FOLDER, driver + "_session.py")]
    assert run(program, proxy, "p1", "movable", Mover(proxy)) == 3


PROGRAMS = {
    "psycopg": ["/usr/bin/python3", os.path.join(FOLDER, "psycopg_session.py")],
    "asyncpg": ["/usr/bin/python3", os.path.join(FOLDER, "asyncpg_session.py")],
    "jdbc": ["java", "-XX:TieredStopAtLevel=1", "-cp", JDBC, os.path.join(FOLDER, "JdbcSession.java")],
    "node": ["node", os.path.join(FOLDER, "node_session.js")],
}


@pytest.mark.parametrize("driver", PROGRAMS)
def test_moved_sessions_with_all_they_have(pg, make_proxy, items, other, driver):
    """Advisory locks, temporary tables, channels, and of psycopg a cursor WITH HOLD, three times to
    another server."""
    proxy = make_proxy({"pg": pg, "other": other}, pool_mode="session", pool_size=8,
                       log_level="info")
    assert run(PROGRAMS[driver], proxy, "p1", "session", Mover(proxy, reconnect=False),
               {"NODE_PATH": NODE_PATH}) == 3
