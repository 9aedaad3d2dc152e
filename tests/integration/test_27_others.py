# SPDX-License-Identifier: PostgreSQL
"""Databases that do not move: their copies on the target are closed behind the promotion, whatever
has become of them since the checks, and nobody's write to them counts as committed before."""
import os
import threading
import time

import psycopg
import pytest

from pgwire import wait_for
from scene import DONE, UNDONE
from servers import SLOW


@pytest.fixture
def stopped_at(make_scene):
    """A move that stands at a record of its journal while something is done."""
    def run(scene, point, what):
        mark = os.path.join(scene.folder, "stands")
        mover = scene.background("move", "p2", "--to", "pg2",
                                 fault="journal.%s=wait:%s" % (point, mark))
        wait_for(lambda: os.path.exists(mark), 60 * SLOW, point)
        what()
        os.unlink(mark)
        return mover.wait(60 * SLOW)
    return run


def database(scene, sql):
    scene.pg1.sql(sql)
    lsn = scene.pg1.value("SELECT pg_current_wal_lsn()")
    wait_for(lambda: scene.pg2.value("SELECT pg_last_wal_replay_lsn() >= '%s'" % lsn), 10 * SLOW,
             "the replay")


@pytest.mark.parametrize("point,sql", [
    ("prepare.intent", "DROP DATABASE other"),
    ("prepare.intent", "ALTER DATABASE other RENAME TO renamed"),
    ("prepare.intent", "CREATE DATABASE another"),
    ("hold.outcome", "DROP DATABASE other"),
    ("hold.outcome", "ALTER DATABASE other RENAME TO renamed"),
    ("fence.outcome", "DROP DATABASE other"),
    ("prepare.intent", "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'other'"),
])
def test_another_database_changes_meanwhile(make_scene, stopped_at, point, sql):
    """The move goes on, and no copy stays open."""
    scene = make_scene()
    database(scene, "CREATE DATABASE other")
    assert stopped_at(scene, point, lambda: database(scene, sql)) == DONE
    scene.check_on_pg2()
    assert scene.pg2.sql("SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate "
                         "AND datconnlimit <> -2 ORDER BY 1") == [("p2",), ("postgres",)]


def test_a_copy_that_cannot_be_closed_keeps_no_shard_closed(make_scene, stopped_at):
    """It is named, and resume closes it."""
    scene = make_scene()
    conns = []

    def lock():
        wait_for(lambda: scene.pg2.value("SELECT NOT pg_is_in_recovery()"), 10 * SLOW, "promotion")
        conn = psycopg.connect("host=127.0.0.1 port=%d user=postgres dbname=postgres"
                               % scene.pg2.port)
        conn.execute("SET transaction_read_only = off")
        conn.execute("ALTER DATABASE p1 CONNECTION LIMIT 50")
        conns.append(conn)
    mark = os.path.join(scene.folder, "stands")
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.open.intent=sleep:1500")
    lock()
    code = mover.wait(60 * SLOW)
    log = open(os.path.join(scene.folder, "mover.log")).read()
    assert not os.path.exists(mark) and code == 5, log
    assert "copy of database p1 is not closed" in log
    scene.check_writes(scene.proxy, "p2", "pg2")
    conns[0].close()
    assert scene.run("resume").returncode == DONE
    scene.check_on_pg2()


# --- who writes to them in the milliseconds before they are closed -----------------------------------

class Writers:
    """Clients of p1 that connect anew for each row, to a server that takes writes as they are told."""

    def __init__(self, scene, count=4):
        self.conninfo = ("host=127.0.0.1,127.0.0.1 port=%d,%d dbname=p1 user=app "
                         "target_session_attrs=read-write" % (scene.pg2.port, scene.pg1.port))
        self.acknowledged = []
        self.stop = False
        self.threads = [threading.Thread(target=self.write, args=(1000000 * (n + 1),))
                        for n in range(count)]
        for thread in self.threads:
            thread.start()
        wait_for(lambda: len(self.acknowledged) > 10 * count, 20 * SLOW, "the writers")

    def write(self, number):
        while not self.stop:
            number += 1
            try:
                with psycopg.connect(self.conninfo, autocommit=True) as conn:
                    conn.execute("INSERT INTO items VALUES (%d, 'x')" % number)
                    self.acknowledged.append(number)
            except psycopg.Error:
                pass

    def end(self):
        self.stop = True
        for thread in self.threads:
            thread.join()
        return set(self.acknowledged)


@pytest.mark.scene
def test_clients_that_look_for_a_server_that_takes_writes(make_scene):
    """The promoted server is none for them: each acknowledged row is in the database that counts."""
    scene = make_scene()
    writers = Writers(scene)
    scene.move(fault="journal.open.intent=sleep:300")  # promoted, and open to everybody for so long
    time.sleep(0.2)
    written = writers.end()
    assert written - {row[0] for row in scene.pg1.sql("SELECT id FROM items", "p1")} == set()
    scene.check_on_pg2()


def test_clients_that_write_to_the_standby(make_scene):
    """Sessions that were there before the move: an error, as before."""
    scene = make_scene()
    with psycopg.connect("host=127.0.0.1 port=%d dbname=p1 user=app" % scene.pg2.port,
                         autocommit=True) as conn:
        mover = scene.background("move", "p2", "--to", "pg2", fault="journal.open.intent=sleep:500")
        seen = set()
        while mover.poll() is None:
            try:
                conn.execute("INSERT INTO items VALUES (1, 'x')")
                seen.add("written")
            except psycopg.Error as error:
                seen.add(error.sqlstate)
                if conn.closed:
                    break
        assert mover.wait(60 * SLOW) == DONE
    assert "written" not in seen and "25006" in seen


def test_nothing_is_left_over(make_scene):
    """Whether the move is undone, by itself or by abort, or the mover was killed at its beginning; and
    what was set before stays."""
    scene = make_scene()
    scene.move(code=UNDONE, fault="journal.hold.outcome=fail")
    scene.check_on_pg1()
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.prepare.outcome=kill")
    assert mover.wait(60 * SLOW) != DONE
    assert scene.left_over(scene.pg2) != []
    assert scene.run("abort").returncode == DONE
    scene.check_on_pg1()
    scene.pg1.sql("ALTER DATABASE p2 SET default_transaction_read_only = off")
    scene.pg2.sql("ALTER SYSTEM SET default_transaction_read_only = off")
    scene.move()
    assert scene.pg2.value("SELECT setting FROM pg_file_settings WHERE name = "
                           "'default_transaction_read_only'") == "off"
    assert scene.left_over(scene.pg2) == [("default_transaction_read_only",), ("p2",)]


def test_setting_that_somebody_makes_meanwhile(make_scene, stopped_at):
    """It is not ours to take back."""
    scene = make_scene()
    sql = "ALTER DATABASE p2 SET default_transaction_read_only = on"
    assert stopped_at(scene, "prepare.outcome", lambda: database(scene, sql)) == DONE
    assert scene.pg2.value("SHOW default_transaction_read_only", "p2") == "on"
    assert scene.pg2.value("SHOW default_transaction_read_only", "postgres") == "off"
