# SPDX-License-Identifier: PostgreSQL
"""JDBC and node-postgres: as test_58_drivers.py, but run by tests/suites/drivers.sh only, for they
need more than what the other tests install."""
import os

import pytest

from driver_runs import FOLDER, Mover, run
from test_58_drivers import items, other

PROGRAMS = {
    "jdbc": ["java", "-cp", "/usr/share/java/postgresql.jar", os.path.join(FOLDER, "JdbcSession.java")],
    "node": ["node", os.path.join(FOLDER, "node_session.js")],
}


@pytest.mark.parametrize("driver", PROGRAMS)
@pytest.mark.parametrize("place", ["direct", "transaction", "session"])
def test_ordinary_work(pg, make_proxy, items, driver, place):
    at = pg if place == "direct" else make_proxy(pool_mode=place, pool_size=8, log_level="info")
    mode = "transaction" if place == "transaction" else "session"
    assert run(PROGRAMS[driver], at, "p1", mode) == 3


@pytest.mark.parametrize("driver", PROGRAMS)
def test_moved_sessions(pg, make_proxy, items, other, driver):
    proxy = make_proxy({"pg": pg, "other": other}, pool_mode="session", pool_size=8,
                       log_level="info")
    assert run(PROGRAMS[driver], proxy, "p1", "movable", Mover(proxy)) == 3
