# SPDX-License-Identifier: PostgreSQL
"""Random sessions: one that is moved to another server connection sees what one sees that is left
alone.

Each round plays random commands that change the state of a session on pairs of sessions, moves one
of each pair between two steps, and compares every answer and everything visible.  A failure names its
seed: PGSHUNT_SESSION_SEED=… plays it again.  PGSHUNT_SESSION_ROUNDS=… plays more, by default few, and
PGSHUNT_SESSION_PAIRS=… with more sessions in each, which takes less time than as many rounds:

    PGSHUNT_BIN=… PGSHUNT_SESSION_ROUNDS=40 PGSHUNT_SESSION_PAIRS=30 \
        pytest -k random_sessions_moved tests/integration/test_56_random_sessions.py
"""
import os
import random

import pytest

from pgwire import query, wait_for
from servers import SLOW, Cluster, subfolder
from session_pairs import CHANNELS, ROLES, SCHEMA, Difference, Pair, Plan, login

SEED = os.environ.get("PGSHUNT_SESSION_SEED")
ROUNDS = int(os.environ.get("PGSHUNT_SESSION_ROUNDS", "1"))
PAIRS = int(os.environ.get("PGSHUNT_SESSION_PAIRS", "6"))
MOVES, STEPS = 2, 10

STARTUP = [{}, {}, {"TimeZone": "Asia/Tokyo", "DateStyle": "German, DMY"},
           {"options": "-c work_mem=3MB -c my.own=startup", "client_encoding": "LATIN1"}]


# Taken away from a session that cannot be moved because of it.
RELIEF = ["CLOSE ALL; SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP",
          "RESET SESSION AUTHORIZATION; RESET ROLE", "DISCARD ALL"]


class World:
    """The server of those who are left alone, and the proxy with those who are moved."""

    def __init__(self, alone, proxy, servers):
        self.alone = alone
        self.proxy = proxy
        self.servers = servers
        self.pairs = []
        self.pinned = []

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

    def listed(self):
        """Pair -> its row of SHOW SESSIONS; those that have not asked anything yet are in none."""
        rows = {row["client_port"]: row for row in self.proxy.command("SHOW SESSIONS pair")}
        ports = {str(pair.moved.sock.getsockname()[1]): pair for pair in self.pairs}
        return {ports[port]: row for port, row in rows.items() if port in ports}

    def relieve(self, turn):
        """Takes from those who are pinned what they are pinned by; the number of them."""
        pinned = {pair: row for pair, row in self.listed().items() if row["class"] == "pinned"}
        for pair, row in pinned.items():
            assert row["why"], row
            self.pinned.append(row["why"])
            pair.history.append("relieved of " + row["why"])
            pair.both([query(RELIEF[turn])], "relief")
        return len(pinned)


# --- ways of moving all sessions ------------------------------------------------------------------

def not_at_all(world):
    pass


def by_connecting_anew(world):
    """What becomes of a session that is just connected again: the state is lost."""
    for pair in world.pairs:
        pair.moved.close()
        pair.moved = world.new_moved(pair.plan)


def by_swap(world):
    """To the other of two servers, as by a move."""
    target = "other" if world.proxy.route("pair")["server"] == "pg" else "pg"
    with world.proxy.console() as console:
        console("PREPARE SWAP pair TO " + target)
        for turn in range(len(RELIEF)):
            if world.relieve(turn) == 0:
                break
            console("PREPARE SWAP pair TO " + target)
        epoch = console("HOLD pair LEASE 60s DRAIN 30s POLICY abort")[0]["epoch"]
        console("SWAP pair TO %s EPOCH %s FORCE" % (target, epoch))
        console("RELEASE pair EPOCH %s" % epoch)
    # Whose new server was not ready at the release comes after it, and waits for it.
    wait_for(lambda: all(row["state"] == "linked" for row in world.listed().values()), 30 * SLOW,
             "all sessions to be moved")
    pids = world.servers[target].sessions("pair_moved")
    for pair, row in world.listed().items():
        assert row["moved_to"] == target and int(row["server_pid"]) in pids, str(row)
        assert row["digest_before"] == row["digest_after"], str(row)


def by_reconnect(world):
    """To fresh connections of the same server; who is pinned, or has locks, stays where it is."""
    def pids():
        return {pair: row["server_pid"] for pair, row in world.listed().items()}

    def moved():
        rows = world.listed()
        return all(row["state"] == "linked" and
                   (row["class"] == "pinned" or "lock" in (row["what"] or "") or
                    row["server_pid"] != before[pair])
                   for pair, row in rows.items())
    before = pids()
    world.proxy.command("RECONNECT pair")
    wait_for(moved, 30 * SLOW, "all sessions on new connections")


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
            pair.read_cursors()
            pair.count_locks()
    except Difference as error:
        raise Difference("PGSHUNT_SESSION_SEED=%d: %s" % (seed, error)) from None
    finally:
        world.close()


@pytest.fixture(scope="module")
def servers(pg, folder):
    other = Cluster(subfolder(folder), "other").create()
    pg.sql("CREATE DATABASE pair")
    pg.sql(SCHEMA, "pair")
    for cluster in (pg, other):
        cluster.sql(ROLES)
        cluster.sql("CREATE DATABASE pair_moved")
        cluster.sql(SCHEMA, "pair_moved")
    yield {"pg": pg, "other": other}
    other.stop()


@pytest.fixture
def world(servers, make_proxy):
    proxy = make_proxy(servers, {"pair": {"server": "pg", "dbname": "pair_moved"}},
                       pool_mode="session", pool_size=PAIRS + 4, log_level="info",
                       secrets={"pair_user": "", "pair_super": "", "pgshunt_admin": "admin secret"})
    world = World(servers["pg"], proxy, servers)
    yield world
    print("pinned: %s" % sorted(set(world.pinned)))
    world.close()


@pytest.mark.parametrize("round_number", range(ROUNDS))
@pytest.mark.parametrize("move", [by_swap, by_reconnect])
def test_random_sessions_moved(world, move, round_number):
    play(world, int(SEED) if SEED else random.randrange(1 << 30), move)


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
