# SPDX-License-Identifier: PostgreSQL
"""Clients that use PREPARE TRANSACTION: what is prepared when the shard moves goes along, to be ended on
pg2 by whoever wants to; in the copies out of use nothing is left of it."""
import glob
import json
import os
import random
import signal
import threading
import time

import psycopg
import pytest

from scene import DONE, FORWARD, UNDONE
from servers import SLOW

TABLE = "CREATE TABLE pairs (id text PRIMARY KEY); GRANT ALL ON pairs TO PUBLIC"
LIST = "SELECT gid, owner::text FROM pg_prepared_xacts WHERE database = '%s' ORDER BY 1"


def prepared(cluster, dbname):
    return cluster.sql(LIST % dbname)


def prepare(scene, dbname, gid, user="app"):
    """By the proxy, as an application would."""
    with scene.proxy.wire(dbname, user) as conn:
        conn.query("BEGIN")
        conn.query("INSERT INTO pairs VALUES ('%s')" % gid)
        answer = conn.query("PREPARE TRANSACTION '%s'" % gid)
        assert answer[0].kind == "C" and answer[0].body == b"PREPARE TRANSACTION\0", answer


def finish(scene, dbname, gid, how="COMMIT", user="app"):
    with scene.proxy.wire(dbname, user) as conn:
        answer = conn.query("%s PREPARED '%s'" % (how, gid))
        assert answer[0].kind == "C", answer


def rows(cluster, dbname):
    return [row[0] for row in cluster.sql("SELECT id FROM pairs ORDER BY 1", dbname)]


def make(make_scene, **kwargs):
    scene = make_scene(**kwargs)
    for dbname in ("p1", "p2"):
        scene.pg1.sql(TABLE, dbname)
    return scene


def look_at_old_copy(scene):
    """What is in pg1's p2, which is closed."""
    scene.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS true")
    try:
        return rows(scene.pg1, "p2")
    finally:
        scene.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS false")


def nothing_left_over(scene):
    """Neither of transactions nor of the way into closed copies."""
    assert prepared(scene.pg1, "p2") == [] and prepared(scene.pg2, "p1") == []
    for cluster in (scene.pg1, scene.pg2):
        assert cluster.sql("SELECT * FROM pg_db_role_setting WHERE setconfig::text LIKE "
                           "'%preload%'") == []


class Clients(threading.Thread):
    """One client of two-phase commit: prepares, waits, ends it in another session; some it leaves."""

    def __init__(self, scene, dbname, number):
        super().__init__()
        self.scene, self.dbname, self.number = scene, dbname, number
        self.random = random.Random("%s %d" % (dbname, number))
        self.stop = False
        self.error = None
        self.committed, self.rolled_back, self.left = set(), set(), set()
        self.start()

    def run(self):
        try:
            for count in range(100000):
                if self.stop:
                    return
                gid = "%s_%d_%d" % (self.dbname, self.number, count)
                prepare(self.scene, self.dbname, gid)
                self.left.add(gid)
                time.sleep(self.random.random() * 0.15)
                choice = self.random.random() if count > 0 else 1
                if choice < 0.75:
                    finish(self.scene, self.dbname, gid)
                    self.committed.add(gid)
                elif choice < 0.95 or count > 40:
                    finish(self.scene, self.dbname, gid, "ROLLBACK")
                    self.rolled_back.add(gid)
                else:
                    continue  # left prepared
                self.left.discard(gid)
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def end(self):
        self.stop = True
        self.join(60 * SLOW)
        assert not self.is_alive() and self.error is None, self.error


def union(clients, what):
    return sorted(set().union(*(getattr(client, what) for client in clients)))


def room(cluster):
    cluster.settings["max_prepared_transactions"] = 300
    cluster.stop()
    cluster.start()


def test_clients_of_two_phase_commit(make_scene):
    scene = make(make_scene)
    room(scene.pg1)
    room(scene.pg2)
    clients = {name: [Clients(scene, name, n) for n in range(4)] for name in ("p1", "p2")}
    time.sleep(1)
    result = scene.move()
    time.sleep(1)
    for client in clients["p1"] + clients["p2"]:
        client.end()
    left = {name: union(clients[name], "left") for name in clients}
    assert len(left["p1"]) >= 4 and len(left["p2"]) >= 4
    assert "prepared transactions of the shards" in result.stdout
    # Each where its database is, and there alone.
    assert prepared(scene.pg2, "p2") == [(gid, "app") for gid in left["p2"]]
    assert prepared(scene.pg1, "p1") == [(gid, "app") for gid in left["p1"]]
    nothing_left_over(scene)
    assert rows(scene.pg2, "p2") == union(clients["p2"], "committed")
    assert rows(scene.pg1, "p1") == union(clients["p1"], "committed")
    for name in left:
        for n, gid in enumerate(left[name]):
            finish(scene, name, gid, ("COMMIT", "ROLLBACK")[n % 2])
    assert rows(scene.pg2, "p2") == sorted(union(clients["p2"], "committed") + left["p2"][::2])
    assert rows(scene.pg1, "p1") == sorted(union(clients["p1"], "committed") + left["p1"][::2])
    # Of what was prepared before the hold and committed after it, pg1 has nothing.
    assert set(look_at_old_copy(scene)) <= set(union(clients["p2"], "committed"))
    assert not set(look_at_old_copy(scene)) & set(left["p2"])
    scene.check_on_pg2()
    # Each of those that were there in the hold is named.
    path, = glob.glob(os.path.join(scene.folder, "moves", "*", "report.json"))
    with open(path) as report:
        named = {entry["gid"]: entry for entry in json.load(report)["prepared"]}
    early = {gid for gid in left["p2"] if gid.endswith("_0")}
    assert len(early) == 4 and early <= set(named)
    assert {(entry["owner"], entry["database"]) for entry in named.values()} == {("app", "p2")}
    with open(path.replace(".json", ".html")) as page:
        assert min(early) + " of app" in page.read()
    scene.configure(cleanup_wait="0")
    for _ in range(2):
        assert scene.run("cleanup", "--idle", "--unverified").returncode == DONE
    for cluster, name in ((scene.pg1, "p1"), (scene.pg2, "p2")):
        assert [row[0] for row in cluster.sql("SELECT datname FROM pg_database WHERE datname LIKE "
                                              "'p_%'") if row[0] != "postgres"] == [name]


def test_held_commit_prepared(make_scene):
    """It was prepared on pg1, and its end comes while p2 is held."""
    scene = make(make_scene)
    prepare(scene, "p2", "one")
    mark = os.path.join(scene.folder, "stands")
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.hold.outcome=wait:" + mark)
    while not os.path.exists(mark):
        assert mover.poll() is None
        time.sleep(0.01)
    ends = threading.Thread(target=finish, args=(scene, "p2", "one"))
    ends.start()
    time.sleep(0.2)
    assert ends.is_alive() and prepared(scene.pg1, "p2") == [("one", "app")]
    os.unlink(mark)
    assert mover.wait(60 * SLOW) == DONE
    ends.join(20 * SLOW)
    assert rows(scene.pg2, "p2") == ["one"] and prepared(scene.pg2, "p2") == []
    assert look_at_old_copy(scene) == []
    nothing_left_over(scene)
    scene.check_on_pg2()


def test_plan_and_check_say_what_will_be(make_scene):
    scene = make(make_scene)
    for dbname, gid in (("p2", "a"), ("p2", "b"), ("p1", "it''s c")):
        prepare(scene, dbname, gid)
    result = scene.run("plan", "p2", "--to", "pg2")
    assert result.returncode == DONE
    assert "prepared transactions: 2, which go along, to be ended on pg2" in result.stdout
    assert "pg2: prepared transactions in these copies: 1, rolled back there alone" in result.stdout
    result = scene.run("check", "p2", "--to", "pg2")
    assert "database p2 has 2 prepared transactions, which go along: a, b" in result.stdout
    assert "database p1, which does not move, has 1, which are rolled back in its copy" in result.stdout
    scene.move()
    assert prepared(scene.pg1, "p1") == [("it's c", "app")]
    assert prepared(scene.pg2, "p2") == [("a", "app"), ("b", "app")]
    nothing_left_over(scene)
    # Their locks go along as well.
    with scene.proxy.wire("p2") as conn:
        conn.query("SET lock_timeout = '50ms'")
        assert conn.query("LOCK TABLE pairs")[0].kind == "E"
    finish(scene, "p1", "it''s c")


def test_undone_move_leaves_them(make_scene):
    scene = make(make_scene)
    prepare(scene, "p2", "mine")
    prepare(scene, "p1", "other")
    before = scene.pg1.sql("SELECT * FROM pg_prepared_xacts ORDER BY gid")
    for point in ("terminate.outcome", "catch_up.outcome"):
        scene.configure(lease="60s")
        assert scene.run("move", "p2", "--to", "pg2",
                         fault="journal.%s=kill" % point).returncode == -signal.SIGKILL
        assert scene.run("abort").returncode == DONE
        scene.check_on_pg1()
    scene.move(UNDONE, fault="journal.promote.intent=fail")
    assert scene.pg1.sql("SELECT * FROM pg_prepared_xacts ORDER BY gid") == before
    finish(scene, "p2", "mine")
    scene.move()
    assert rows(scene.pg2, "p2") == ["mine"]
    nothing_left_over(scene)


@pytest.mark.parametrize("point", ["promote.outcome", "open.outcome", "release.outcome", "validate.intent",
                                   "roll_back.intent", "roll_back.outcome"])
def test_mover_killed_with_prepared_transactions(make_scene, point):
    scene = make(make_scene)
    prepare(scene, "p2", "mine")
    prepare(scene, "p1", "other")
    scene.configure(lease="60s")
    assert scene.run("move", "p2", "--to", "pg2",
                     fault="journal.%s=kill" % point).returncode == -signal.SIGKILL
    if point == "roll_back.intent":
        # As it is when it dies a moment later, while its session logs in.
        scene.pg1.sql("ALTER DATABASE p2 SET local_preload_libraries = 'pgshunt_closed'")
        scene.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS true")
        for user in ("postgres", "app"):
            with pytest.raises(psycopg.OperationalError, match="pgshunt_closed"):
                scene.pg1.connect("p2", user)
    assert scene.run("resume").returncode == DONE
    nothing_left_over(scene)
    assert prepared(scene.pg2, "p2") == [("mine", "app")]
    assert prepared(scene.pg1, "p1") == [("other", "app")]
    finish(scene, "p2", "mine")
    finish(scene, "p1", "other")
    assert rows(scene.pg2, "p2") == ["mine"] and rows(scene.pg1, "p1") == ["other"]
    scene.check_on_pg2()


def test_without_a_record_nothing_is_rolled_back(make_scene):
    """Nobody would close the copy again if the mover died meanwhile."""
    scene = make(make_scene)
    prepare(scene, "p2", "mine")
    prepare(scene, "p1", "other")
    result = scene.run("move", "p2", "--to", "pg2", fault="journal.roll_back.intent=fail")
    assert result.returncode == FORWARD
    for name in ("pg1", "pg2"):
        assert name + ": prepared transactions are not rolled back: the journal could not be written" in result.stderr
    assert prepared(scene.pg1, "p2") == [("mine", "app")] and prepared(scene.pg2, "p1") == [("other", "app")]
    for cluster, name in ((scene.pg1, "p2"), (scene.pg2, "p1")):
        with open(cluster.log, errors="replace") as log:
            assert "pgshunt_closed" not in log.read()
        assert scene.refuses(cluster, name)
    assert scene.run("resume").returncode == DONE
    nothing_left_over(scene)
    finish(scene, "p2", "mine")
    finish(scene, "p1", "other")
    scene.check_on_pg2()


def test_later_comparison(make_scene):
    """What was prepared before the move and committed after it is no difference, nor what its
    subtransactions have written."""
    scene = make(make_scene)
    scene.pg1.sql("INSERT INTO pairs SELECT 'old ' || g FROM generate_series(1, 100) g", "p2")
    with scene.proxy.wire("p2") as conn:
        for sql in ("BEGIN", "INSERT INTO pairs VALUES ('top')", "SAVEPOINT s",
                    "INSERT INTO pairs VALUES ('sub')", "UPDATE pairs SET id = 'new 7' WHERE id = 'old 7'",
                    "PREPARE TRANSACTION 'one'"):
            conn.query(sql)
    scene.move()
    finish(scene, "p2", "one")
    assert scene.run("verify").returncode == DONE
