# SPDX-License-Identifier: PostgreSQL
"""Random sessions: one that is moved to another server connection sees what one sees that is left
alone.

Each round plays random commands that change the state of a session on pairs of sessions, moves one
of each pair between two steps, and compares every answer and everything visible.  A failure names its
seed: PGSHUNT_SESSION_SEED=… plays it again (with as many pairs).  PGSHUNT_SESSION_ROUNDS=… plays more,
by default few, and PGSHUNT_SESSION_PAIRS=… with more sessions in each, which takes less time than as
many rounds:

    PGSHUNT_BIN=… PGSHUNT_SESSION_ROUNDS=40 PGSHUNT_SESSION_PAIRS=50 \
        pytest -k random_sessions_moved tests/integration/test_56_random_sessions.py
"""
import os
import random
import time

import pytest

from pgwire import query, wait_for
from servers import SLOW, Cluster, subfolder
from session_pairs import (CHANNELS, DATABASE_SETTINGS, ROLES, SCHEMA, USERS, Difference, Pair, Plan,
                           login)

pytestmark = pytest.mark.once

SEED = os.environ.get("PGSHUNT_SESSION_SEED")
ROUNDS = int(os.environ.get("PGSHUNT_SESSION_ROUNDS", "1"))
PAIRS = int(os.environ.get("PGSHUNT_SESSION_PAIRS", "6"))
MOVES, STEPS = 2, 10

STARTUP = [{}, {}, {"TimeZone": "Asia/Tokyo", "DateStyle": "German, DMY"},
           {"options": "-c work_mem=3MB -c my.own=startup", "client_encoding": "LATIN1"},
           {"options": "-c search_path=other,public -c role=pair_member"},
           {"options": "-c default_transaction_isolation=serializable -c statement_timeout=66s -c temp_buffers=2MB "
                       "-c DateStyle=SQL -c quote_all_identifiers=on"}]


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
        self.left = 0

    def fill(self, seed, kinds=None):
        self.close()
        for number in range(PAIRS):
            plan = Plan(random.Random("%d %d" % (seed, number)), number, kinds)
            plan.startup = plan.rng.choice(STARTUP)
            self.pairs.append(Pair(number, plan, self.new_alone(plan), self.new_moved(plan)))

    def new_alone(self, plan):
        return login(self.alone.host, self.alone.port, "pair", plan)

    def new_moved(self, plan):
        return login(self.proxy.host, self.proxy.port, "pair", plan)

    def notify(self, text):
        for conn in (self.alone, self.proxy):
            with conn.connect("pair", "pair_user", autocommit=True) as sender:
                for channel in CHANNELS:
                    sender.execute("NOTIFY %s, '%s'" % (channel, text))

    def all(self, act):
        """Of all pairs at the same time."""
        for pair in self.pairs:
            act(pair)
        for pair in self.pairs:
            pair.take()

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


def await_linked(world):
    # Whose new server was not ready at the release comes after it, and waits for it.
    wait_for(lambda: all(row["state"] == "linked" for row in world.listed().values()), 30 * SLOW,
             "all sessions to be moved")


def prepare(world, console, target, leave=False):
    """Until nobody is pinned any more."""
    command = "PREPARE SWAP pair TO %s%s" % (target, " LEAVE" if leave else "")
    console(command)
    for turn in range(len(RELIEF)):
        if world.relieve(turn) == 0:
            break
        console(command)


def other_server(world):
    return "there" if world.proxy.route("pair")["server"] == "here" else "here"


def await_left(world):
    """Until no more of them leave their servers before the hold.  Every other one is then asked for."""
    before = None
    for _ in range(200):
        left = {pair.number for pair, row in world.listed().items() if row["state"] == "left"}
        if left == before:
            break
        before = left
        time.sleep(0.1)
    world.left += len(before)
    for pair in world.pairs[::2]:
        pair.step()
    for pair in world.pairs:
        pair.take()


def by_swap(world, prepared=True, leave=False):
    """To the other of two servers, as by a move.  In the hold each client has asked something."""
    target = other_server(world)
    with world.proxy.console() as console:
        prepare(world, console, target, leave)
        if leave:
            await_left(world)
            # What it has done now may be what pins it.
            prepare(world, console, target, leave)
        if not prepared:
            console("CANCEL SWAP pair")
        epoch = console("HOLD pair LEASE 60s DRAIN 30s POLICY abort")[0]["epoch"]
        for pair in world.pairs:
            pair.step()
        console("SWAP pair TO %s EPOCH %s FORCE" % (target, epoch))
        console("RELEASE pair EPOCH %s" % epoch)
        for pair in world.pairs:
            pair.take()
    await_linked(world)
    pids = world.servers[target].sessions("pair_moved")
    for pair, row in world.listed().items():
        assert row["moved_to"] == target and int(row["server_pid"]) in pids, str(row)
        assert row["digest_before"] == row["digest_after"], str(row)


def by_unprepared_swap(world):
    by_swap(world, False)


def by_swap_of_those_who_left(world):
    by_swap(world, leave=True)


def by_swap_given_up(world):
    """They have left their servers, and come back."""
    with world.proxy.console() as console:
        prepare(world, console, other_server(world), True)
        await_left(world)
        console("CANCEL SWAP pair")
    await_linked(world)


def by_undone_swap(world):
    """The fence has ended the old servers when the move is undone: new ones of the same server."""
    with world.proxy.console() as console:
        prepare(world, console, other_server(world))
        epoch = console("HOLD pair LEASE 60s DRAIN 30s POLICY abort")[0]["epoch"]
        pids = [int(row["server_pid"] or 0) for row in world.listed().values()]
        server = world.servers[world.proxy.route("pair")["server"]]
        server.sql("SELECT pg_terminate_backend(pid) FROM unnest(%s) pid" % literal(pids))
        for pair in world.pairs:
            pair.step()
        wait_for(lambda: not server.sessions("pair_moved") & set(pids), 30 * SLOW, "their end")
        console("RELEASE pair EPOCH %s" % epoch)
        for pair in world.pairs:
            pair.take()
        console("CANCEL SWAP pair")
    await_linked(world)
    for pair, row in world.listed().items():
        assert int(row["server_pid"]) not in pids, str(row)


def literal(numbers):
    return "ARRAY[%s]::int[]" % ",".join(map(str, numbers))


def by_reconnect(world):
    """To fresh connections of the same server; who is pinned, or has locks, stays where it is."""
    def pids():
        return {pair: row["server_pid"] for pair, row in world.listed().items()}

    def left():
        return {pair: row for pair, row in world.listed().items()
                if row["state"] != "linked" or
                (row["class"] != "pinned" and "lock" not in (row["what"] or "") and
                 row["server_pid"] == before[pair])}
    before = pids()
    world.proxy.command("RECONNECT pair")
    until = time.monotonic() + 30 * SLOW
    while left():
        if time.monotonic() > until:
            pair, row = left().popitem()
            pair.fail("not on another connection", before[pair], row)
        time.sleep(0.05)


# --- rounds ---------------------------------------------------------------------------------------

def play(world, seed, move, moves=MOVES, kinds=None):
    print("PGSHUNT_SESSION_SEED=%d" % seed)
    world.fill(seed, kinds)
    try:
        for number in range(moves):
            for _ in range(STEPS):
                world.all(Pair.step)
            move(world)
            world.all(Pair.compare)
            for pair in world.pairs:
                pair.compare_parameters()
            world.notify("move %d" % number)
            world.all(Pair.hear)
            for pair in world.pairs:
                pair.compare_heard()
        world.all(Pair.read_cursors)
        world.all(Pair.count_locks)
    except Difference as error:
        raise Difference("PGSHUNT_SESSION_SEED=%d: %s" % (seed, error)) from None
    finally:
        world.close()


@pytest.fixture(scope="module")
def servers(folder):
    """Two that are one and the same, as after a move, down to the numbers of types."""
    room = {"max_connections": 4 * PAIRS + 60, "jit": "off"}
    here = Cluster(subfolder(folder), "here", settings=room).create()
    here.sql(ROLES)
    here.sql("CREATE DATABASE pair_moved")
    here.sql(SCHEMA, "pair_moved")
    here.sql("CREATE DATABASE pair TEMPLATE pair_moved")
    for name in ("pair", "pair_moved"):
        here.sql(DATABASE_SETTINGS.format(name))
    here.stop()
    there = Cluster(subfolder(folder), "there", settings=room).create(here.data)
    here.start()
    yield {"here": here, "there": there}
    here.stop()
    there.stop()


@pytest.fixture
def world(servers, make_proxy):
    proxy = make_proxy(servers, {"pair": {"server": "here", "dbname": "pair_moved"}},
                       pool_mode="session", pool_size=PAIRS + 4, log_level="info",
                       session_leave_after="1ms",
                       session_custom_settings="my.inside",  # which only functions set
                       secrets={"pgshunt_admin": "admin secret", **{user: "" for user in USERS}})
    world = World(servers["here"], proxy, servers)
    yield world
    print("left %d, pinned: %s" % (world.left, sorted(set(world.pinned))))
    world.close()


@pytest.mark.parametrize("round_number", range(ROUNDS))
@pytest.mark.parametrize("move", [by_swap, by_unprepared_swap, by_undone_swap,
                                  by_swap_of_those_who_left, by_swap_given_up, by_reconnect])
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
