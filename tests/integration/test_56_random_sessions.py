# SPDX-License-Identifier: PostgreSQL
"""Random sessions: one that is moved to another server connection sees what one sees that is left
alone.

Each round plays random commands that change the state of a session on pairs of sessions, moves one
of each pair between two steps, and compares every answer and everything visible.  A failure names its
seed: PGSHUNT_SESSION_SEED=… plays it again.  PGSHUNT_SESSION_ROUNDS=… plays more, by default few:

    PGSHUNT_BIN=… PGSHUNT_SESSION_ROUNDS=500 pytest -k random tests/integration/test_56_random_sessions.py
"""
import os
import random

import pytest

from session_pairs import CHANNELS, ROLES, SCHEMA, Difference, Pair, Plan, login

SEED = os.environ.get("PGSHUNT_SESSION_SEED")
ROUNDS = int(os.environ.get("PGSHUNT_SESSION_ROUNDS", "2"))
PAIRS, MOVES, STEPS = 8, 3, 10

STARTUP = [{}, {}, {"TimeZone": "Asia/Tokyo", "DateStyle": "German, DMY"},
           {"options": "-c work_mem=3MB -c my.own=startup", "client_encoding": "LATIN1"}]


class World:
    """The server of those who are left alone, and the proxy with those who are moved."""

    def __init__(self, alone, proxy):
        self.alone = alone
        self.proxy = proxy
        self.pairs = []

    def fill(self, seed, kinds=None):
        self.close()
        for number in range(PAIRS):
            plan = Plan(random.Random("%d %d" % (seed, number)), number, number % 4 == 3, kinds)
            plan.startup = plan.rng.choice(STARTUP)
            self.pairs.append(Pair(number, plan, self.new_alone(plan), self.new_moved(plan)))

    def new_alone(self, plan):
        return login(self.alone.host, self.alone.port, "pair", plan)

    def new_moved(self, plan):
        return login(self.proxy.host, self.proxy.port, "pair", plan)

    def notify(self, number):
        for conn in (self.alone, self.proxy):
            with conn.connect("pair", "pair_user", autocommit=True) as sender:
                for channel in CHANNELS:
                    sender.execute("NOTIFY %s, '%d'" % (channel, number))

    def close(self):
        for pair in self.pairs:
            pair.close()
        self.pairs = []


# --- ways of moving all sessions ------------------------------------------------------------------

def not_at_all(world):
    pass


def by_connecting_anew(world):
    """What becomes of a session that is just connected again: the state is lost."""
    for pair in world.pairs:
        pair.moved.close()
        pair.moved = world.new_moved(pair.plan)


# --- rounds ---------------------------------------------------------------------------------------

def play(world, seed, move, moves=MOVES, kinds=None):
    print("PGSHUNT_SESSION_SEED=%d" % seed)
    world.fill(seed, kinds)
    try:
        for _ in range(moves):
            for pair in world.pairs:
                for _ in range(STEPS):
                    pair.step()
            move(world)
            for pair in world.pairs:
                pair.compare()
            for pair in world.pairs:
                pair.hear(world.notify)
        for pair in world.pairs:
            pair.count_locks()
    except Difference as error:
        raise Difference("PGSHUNT_SESSION_SEED=%d: %s" % (seed, error)) from None
    finally:
        world.close()


@pytest.fixture(scope="module")
def servers(pg, folder):
    pg.sql(ROLES)
    pg.sql("CREATE DATABASE pair")
    pg.sql(SCHEMA, "pair")
    pg.sql("CREATE DATABASE pair_moved")
    pg.sql(SCHEMA, "pair_moved")
    return pg


@pytest.fixture
def world(servers, make_proxy):
    proxy = make_proxy(databases={"pair": {"server": "pg", "dbname": "pair_moved"}},
                       pool_mode="session", pool_size=PAIRS + 4, log_level="info",
                       secrets={"pair_user": "", "pair_super": "", "pgshunt_admin": "admin secret"})
    world = World(servers, proxy)
    yield world
    world.close()


@pytest.mark.parametrize("round_number", range(ROUNDS))
def test_random_sessions_left_alone(world, round_number):
    """The comparison itself, and session pooling: through the proxy everything is as directly."""
    play(world, int(SEED) if SEED else random.randrange(1 << 30), not_at_all)


LOSSES = {"settings": ["set"], "custom": ["set_custom"], "statements": ["parse_named"],
          "unnamed": ["parse_unnamed"], "prepare": ["prepare"], "listen": ["listen"],
          "locks": ["lock"], "temp": ["temp_table"], "cursors": ["declare"], "role": ["role"]}


class CustomPlan(Plan):
    def set_custom(self):
        return self.sql("SET my.own TO '%d'" % self.rng.randrange(1000))


@pytest.mark.parametrize("kind", LOSSES)
def test_the_comparison_finds_every_loss(world, kind, monkeypatch):
    """A session that was connected anew, and not moved, is told from one left alone."""
    monkeypatch.setattr("test_56_random_sessions.Plan", CustomPlan)
    with pytest.raises(Difference):
        play(world, random.randrange(1 << 30), by_connecting_anew, 1, LOSSES[kind])
