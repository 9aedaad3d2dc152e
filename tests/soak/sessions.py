#!/usr/bin/python3
# SPDX-License-Identifier: PostgreSQL
"""Clients of a session pool, with state of all kinds, during a move: what each costs of the hold,
how long they wait, whether anybody sees an error, and whether each still has what it had."""
import argparse
import glob
import json
import os
import random
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))

from pgwire import SYNC, bind, errors, execute, parse, query, rows
from proxy import ADMIN, ADMIN_PASSWORD, Proxy, program
from servers import SCHEMA, SLOW, Cluster, subfolder

STATEMENTS = 20
FEW = 10  # sessions of the move that the others are compared with
ROLES = "CREATE ROLE dropped LOGIN; "


# --- kinds of clients: what each does first, and how it sees afterwards that it still has it --------

class Client:
    kind, user = "clean", "app"
    home = "pg2"  # where all are to be at the end

    def __init__(self, proxy, number):
        self.number = number
        self.conn = proxy.wire("p2", user=self.user, application_name=self.kind)
        self.asked = None
        self.longest = 0.0
        self.failure = None
        self.begin()

    def begin(self):
        assert self.conn.value("SELECT 1") == "1"

    def check(self):
        assert self.conn.value("SHOW cluster_name") == self.home

    def ask(self):
        """A transaction, whose answer is taken by hear()."""
        self.asked = time.monotonic()
        self.conn.send(query("SELECT count(*) FROM items WHERE id < 10"))

    def hear(self):
        """Called when something is there to be read."""
        try:
            messages = self.conn.ready("I")
            assert not errors(messages), errors(messages)
        except Exception as failure:  # counted by the caller
            self.failure = failure
            return
        self.longest = max(self.longest, time.monotonic() - self.asked)
        self.asked = None


class Settings(Client):
    kind = "settings"

    def begin(self):
        self.conn.query("SET work_mem = '7MB'; SET app.tenant = 't%d'" % self.number)
        self.conn.query("SET statement_timeout = '61s'; SET search_path = public, pg_catalog")

    def check(self):
        super().check()
        for name, value in (("work_mem", "7MB"), ("app.tenant", "t%d" % self.number),
                            ("statement_timeout", "61s"), ("search_path", "public, pg_catalog")):
            assert self.conn.value("SHOW " + name) == value


class Statements(Client):
    kind = "statements"

    def begin(self):
        for n in range(STATEMENTS):
            self.conn.send(parse("SELECT id + %d FROM items WHERE id = $1" % n, "s%d" % n) + SYNC)
            assert not errors(self.conn.ready())

    def check(self):
        super().check()
        for n in range(STATEMENTS):
            self.conn.send(bind(["7"], "s%d" % n) + execute() + SYNC)
            assert rows(self.conn.ready("I")) == [[str(7 + n)]]


class Listening(Client):
    kind = "listening"

    def begin(self):
        self.conn.query("LISTEN news")

    def check(self):
        super().check()
        assert self.conn.value("SELECT pg_listening_channels()") == "news"


class Locking(Client):
    kind = "locking"

    def begin(self):
        self.conn.query("SELECT pg_advisory_lock(%d), pg_advisory_lock(%d)"
                        % (self.number, self.number))

    def check(self):
        super().check()
        unlock = "SELECT pg_advisory_unlock(%d)" % self.number
        assert [self.conn.value(unlock) for _ in range(3)] == ["t", "t", "f"]


class Cursors(Client):
    kind = "cursors"

    def begin(self):
        self.conn.query("DECLARE held SCROLL CURSOR WITH HOLD FOR SELECT g, md5(g::text) FROM "
                        "generate_series(1, 100) g; MOVE 50 IN held")

    def check(self):
        super().check()
        assert self.conn.value("FETCH FROM held") == "51"


class Tables(Client):
    kind = "tables"

    def begin(self):
        self.conn.query("CREATE TEMP TABLE mine AS SELECT g, md5(g::text) FROM "
                        "generate_series(1, 100) g")

    def check(self):
        super().check()
        assert self.conn.value("SELECT sum(g) FROM mine") == "5050"


class Pinned(Client):
    """Of a user whose pinned sessions are dropped."""
    kind, user = "pinned", "dropped"

    def begin(self):
        self.conn.query("SELECT 1; PREPARE twice(int) AS SELECT $1 * 2")

    def check(self):
        if self.home == "pg1":
            super().check()
            assert self.conn.value("EXECUTE twice(21)") == "42"
            return
        seen = errors(self.conn.rest())
        assert [each["C"] for each in seen] == ["57P01"], seen
        assert '"twice"' in seen[0]["D"], seen[0]


KINDS = {each.kind: each for each in (Client, Settings, Statements, Listening, Locking, Cursors, Tables,
                                      Pinned)}
MIX = {"clean": 45, "settings": 10, "statements": 15, "listening": 10, "locking": 8, "cursors": 5,
       "tables": 5, "pinned": 2}


class Activity(threading.Thread):
    """So many transactions a second, each of another client."""

    def __init__(self, clients, rate):
        super().__init__(daemon=True)
        self.clients, self.rate = clients, rate
        self.selector = selectors.DefaultSelector()
        for client in clients:
            self.selector.register(client.conn.sock, selectors.EVENT_READ, client)
        self.going = True
        self.count = 0

    def run(self):
        due = time.monotonic()
        while self.going or any(each.asked and not each.failure for each in self.clients):
            for key, _ in self.selector.select(max(due - time.monotonic(), 0)):
                key.data.hear()
                if key.data.failure:
                    self.selector.unregister(key.data.conn.sock)
            if self.going and time.monotonic() >= due:
                due += 1 / self.rate
                client = random.choice(self.clients)
                if client.asked is None and client.failure is None:
                    client.ask()
                    self.count += 1

    def end(self):
        self.going = False
        self.join(60 * SLOW)
        assert not self.is_alive(), "somebody was never answered"


class World:
    """pg1 with p2, its standby pg2, a proxy with session pools, and what the mover needs."""

    def __init__(self, folder, clients, workers, leave):
        room = {"max_connections": clients + 60, "shared_buffers": "128MB", "fsync": "on"}
        self.folder = folder
        self.pg1 = Cluster(subfolder(folder), "pg1", settings=room).create()
        self.pg1.sql(ROLES)
        self.pg1.sql("CREATE DATABASE p2")
        self.pg1.sql(SCHEMA, "p2")
        self.pg2 = self.pg1.clone(subfolder(folder), "pg2", "standby1", settings=room)
        password = os.path.join(folder, "admin.password")
        with open(password, "w") as out:
            out.write(ADMIN_PASSWORD + "\n")
        self.proxy = Proxy(
            subfolder(folder), {"pg1": self.pg1, "pg2": self.pg2}, {"p2": "pg1"},
            secrets={"app": "", "dropped": "", ADMIN: ADMIN_PASSWORD},
            users={"dropped": {"session_pinned": "drop"}}, pool_mode="session",
            pool_size=clients, workers=workers, log_level="info", client_login_timeout="60s",
            session_leave_after="%dms" % (1000 * leave))
        self.proxy.extra["mover"] = {
            "journal_directory": os.path.join(folder, "moves"), "validate_seconds": 0,
            "proxies": {"a": {"host": "127.0.0.1", "port": self.proxy.port, "user": ADMIN,
                              "password_file": password}}}
        self.proxy.write()
        self.proxy.start()

    def move(self):
        """The report of the mover."""
        done = subprocess.run([program("pgshunt"), "--config", self.proxy.config_path, "move", "p2",
                               "--to", "pg2"], capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        path, = glob.glob(os.path.join(self.folder, "moves", "*", "report.json"))
        with open(path) as report:
            return json.load(report)

    def end(self):
        self.proxy.stop()
        self.pg2.stop()
        self.pg1.stop()


def play(world, counts, active, rate, leave):
    """One move; the figures."""
    clients = [KINDS[kind](world.proxy, n) for n, kind in
               enumerate(kind for kind, count in counts.items() for _ in range(count))]
    random.shuffle(clients)
    busy = [each for each in clients if each.kind != "pinned"]
    busy = random.sample(busy, len(busy) * active // 100)
    activity = Activity(busy, rate) if busy else None
    if activity:
        activity.start()
        time.sleep(2)
    time.sleep(leave)
    report = world.move()
    if activity:
        time.sleep(2)
        activity.end()
    failed = [each for each in clients if each.failure]
    for each in failed[:5]:
        print("%s client %d: %s" % (each.kind, each.number, each.failure))
    for each in clients:
        if not each.failure:
            each.check()
    listed = world.proxy.command("SHOW SESSIONS p2")
    assert len(listed) == len(clients) - counts.get("pinned", 0)
    assert all(row["digest_before"] == row["digest_after"] for row in listed)
    for each in clients:
        each.conn.close()
    took = {phase["name"]: phase["ms"] for phase in report["phases"]}
    return {"hold": report["hold_ms"], "promotion": report["promote_ms"], "ended": took["terminate"],
            "swap": took["swap"], "moved": len(listed),
            "dropped": counts.get("pinned", 0), "errors": len(failed),
            "transactions": activity.count if activity else 0,
            "longest": max((1000 * each.longest for each in busy), default=0.0)}


def give_up(world, counts, active, rate, leave):
    """The swap is prepared and given up, and then all who did nothing ask at once; the figures."""
    Client.home = "pg1"
    clients = [KINDS[kind](world.proxy, n) for n, kind in
               enumerate(kind for kind, count in counts.items() for _ in range(count))]
    busy = random.sample(clients, len(clients) * active // 100)
    others = [each for each in clients if each not in busy]
    activity = Activity(busy, rate)
    activity.start()
    time.sleep(leave)
    world.proxy.command("PREPARE SWAP p2 TO pg2 LEAVE")
    time.sleep(4)
    left = [row["state"] for row in world.proxy.command("SHOW SESSIONS p2")].count("left")
    began = time.monotonic()
    world.proxy.command("CANCEL SWAP p2")
    for each in others:
        each.ask()
    for each in others:
        each.hear()
    took = 1000 * (time.monotonic() - began)
    activity.end()
    failed = [each for each in clients if each.failure]
    for each in failed[:5]:
        print("%s client %d: %s" % (each.kind, each.number, each.failure))
    for each in clients:
        if not each.failure:
            each.check()
        each.conn.close()
    print("given up     %d of %d had left; all who then asked at once were answered after %.0f ms, those that "
          "worked after %.0f ms at most; errors %d"
          % (left, len(clients), took, max((1000 * each.longest for each in busy), default=0.0),
             len(failed)), flush=True)
    return {"errors": len(failed)}


def once(counts, active, rate, workers, leave, act=play):
    folder = tempfile.mkdtemp(prefix="pgshunt-sessions.")
    os.chmod(folder, 0o755)
    world = None
    try:
        world = World(folder, sum(counts.values()), workers, leave)
        return act(world, counts, active, rate, leave)
    finally:
        if world is not None:
            world.end()
        shutil.rmtree(folder, ignore_errors=True)


def counts_of(kind, sessions):
    if kind == "mixed":
        return {name: sessions * share // 100 for name, share in MIX.items()}
    return {kind: sessions}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=["clean", "statements", "mixed"],
                        help="mixed or " + ", ".join(KINDS))
    parser.add_argument("--sessions", type=int, default=500)
    parser.add_argument("--active", type=int, default=40,
                        help="per cent of the mixed ones that work during the move")
    parser.add_argument("--rate", type=int, default=200, help="their transactions a second")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--leave", type=float, default=5,
                        help="seconds after which those that do nothing leave their servers before "
                        "the hold (session_leave_after); 0: they stay")
    parser.add_argument("--give-up", action="store_true",
                        help="no move: mixed ones leave for a swap that is given up")
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if options.give_up:
        seen = once(counts_of("mixed", options.sessions), options.active, options.rate,
                    options.workers, options.leave, give_up)
        return 1 if seen["errors"] else 0
    few = once({"clean": FEW}, 0, options.rate, options.workers, options.leave)
    print("%-12s hold %4.0f ms, promotion %4.0f ms, end of the old servers %4.0f ms"
          % ("%d clean" % FEW, few["hold"], few["promotion"], few["ended"]), flush=True)
    errors_seen = 0
    for kind in options.kinds:
        active = options.active if kind == "mixed" else 0
        seen = once(counts_of(kind, options.sessions), active, options.rate, options.workers,
                    options.leave)
        more = max(options.sessions - FEW, 1)
        each = (seen["hold"] - few["hold"]) / more
        # What PostgreSQL needs to end its processes is not the state's doing.
        own = each - (seen["ended"] - few["ended"]) / more
        print("%-12s hold %4.0f ms, promotion %4.0f ms, end of the old servers %4.0f ms, locks and "
              "channels %4.0f ms: %.2f ms a session, %.2f without that end; %d moved, %d dropped, "
              "%d transactions, longest answer %.0f ms, errors %d" %
              (kind, seen["hold"], seen["promotion"], seen["ended"], seen["swap"], each, own, seen["moved"],
               seen["dropped"], seen["transactions"], seen["longest"], seen["errors"]), flush=True)
        errors_seen += seen["errors"]
    return 1 if errors_seen else 0


if __name__ == "__main__":
    sys.exit(main())
