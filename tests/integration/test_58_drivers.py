# SPDX-License-Identifier: PostgreSQL
"""Drivers do their ordinary work, and sessions of theirs keep what they have."""
import os

import pytest

from driver_runs import FOLDER, TABLE, run


@pytest.fixture(scope="module")
def items(pg):
    pg.sql(TABLE, "p1")


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("place", ["direct", "transaction", "session"])
def test_ordinary_work(pg, make_proxy, items, driver, place):
    program = ["/usr/bin/python3", os.path.join(FOLDER, driver + "_session.py")]
    at = pg if place == "direct" else make_proxy(pool_mode=place, pool_size=8, log_level="info")
    mode = "transaction" if place == "transaction" else "session"
    assert run(program, at, "p1", mode) == 3
