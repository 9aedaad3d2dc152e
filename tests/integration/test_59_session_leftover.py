# SPDX-License-Identifier: PostgreSQL
"""What pg2 has of temporary tables of the old sessions is dropped after the release: whoever comes upon
the same meanwhile sees nothing of it, and whether it succeeds is nothing to the move."""
import os
import signal
import threading
import time

import psycopg
import pytest

from pgwire import wait_for
from scene import DONE
from servers import SLOW

MINE = "SELECT oid, relnamespace::regnamespace::text, oid::regclass::text FROM pg_class " \
       "WHERE relpersistence = 't' AND relkind IN ('r', 'S')"
# The sequence, which the mover comes to first, is what a session comes to last.
MAKE = "CREATE TEMP TABLE mine (v int); ALTER TABLE mine ADD n serial; INSERT INTO mine VALUES (9)"


class Left:
    """A move that has released its clients; what is left of their old sessions is in schemas of which
    none of them has made use on pg2."""

    def __init__(self, make_scene, prepare=""):
        self.scene = scene = make_scene(
            proxy={"pool_mode": "session", "pool_size": 20, "session_leave_after": 0},
            standby={"settings": {"deadlock_timeout": "1ms"}})
        # As they lie on the disk.
        scene.pg1.sql("ALTER DATABASE p2 SET enable_indexscan = off; "
                      "ALTER DATABASE p2 SET enable_bitmapscan = off")
        if prepare:
            scene.pg1.sql(prepare, "p2")
        others = [scene.pg1.connect("p2") for _ in range(30)]
        self.clients = [scene.proxy.wire("p2") for _ in range(3)]
        for client in self.clients:
            client.query(MAKE)
        for other in others:
            other.close()
        before = {row[0] for row in scene.pg1.sql(MINE, "p2")}
        assert len(before) == 6
        self.mark = os.path.join(scene.folder, "mark")
        self.mover = scene.background("move", "p2", "--to", "pg2",
                                      fault="journal.release.outcome=wait:%s" % self.mark)
        wait_for(lambda: os.path.exists(self.mark), 90 * SLOW, "the mover to wait")
        wait_for(lambda: {row["state"] for row in scene.proxy.command("SHOW SESSIONS p2")} == {"linked"},
                 30 * SLOW, "all to go on")
        self.look = scene.pg2.connect("p2", autocommit=True)
        mine = set(self.look.execute(MINE))
        self.left = {row for row in mine if row[0] in before}
        self.own = mine - self.left  # of the live ones
        assert len(self.left) == 6 and len(self.own) == 6
        self.others = []
        self.heirs = self.find_heirs()

    def find_heirs(self):
        """Sessions whose temporary schemas are those."""
        schemas = {row[1] for row in self.left}
        heirs = {}
        while len(heirs) < len(schemas):
            conn = self.scene.pg2.connect("p2")
            self.others.append(conn)
            number, = conn.execute("SELECT split_part(virtualtransaction, '/', 1) FROM pg_locks "
                                   "WHERE pid = pg_backend_pid()").fetchone()
            conn.rollback()
            if "pg_temp_" + number in schemas:
                heirs["pg_temp_" + number] = conn
        return list(heirs.values())

    def lock(self):
        """Somebody who lets nobody drop the tables."""
        conn = self.scene.pg2.connect("p2")
        for _, _, name in self.left:
            if not name.endswith("_seq"):
                conn.execute("LOCK TABLE %s IN ACCESS SHARE MODE" % name)
        self.others.append(conn)
        return conn

    def dropping(self):
        """The mover's server process, as soon as it waits for a lock, which it does not for long."""
        deadline = time.monotonic() + 20 * SLOW
        while time.monotonic() < deadline:
            found = self.look.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'pgshunt' "
                                      "AND query LIKE 'DO %' AND wait_event_type = 'Lock'").fetchone()
            if found:
                return found[0]
        raise AssertionError("the mover does not wait for a lock")

    def go_on(self):
        os.unlink(self.mark)

    def end(self):
        """What the mover has said; the move is done, whatever became of it."""
        code = self.mover.wait(90 * SLOW)
        with open(os.path.join(self.scene.folder, "mover.log")) as log:
            text = log.read()
        assert code == DONE, text
        return text

    def check(self):
        """The live ones have what they had."""
        for client in self.clients:
            assert client.value("SELECT string_agg(v || ' ' || n, ',') FROM mine") == "9 1"
            assert client.value("INSERT INTO mine VALUES (1) RETURNING n") == "2"
        self.scene.check_on_pg2()

    def close(self):
        for conn in (*self.others, self.look):
            conn.close()


@pytest.fixture
def leave(make_scene):
    made = []

    def make(**kwargs):
        made.append(Left(make_scene, **kwargs))
        return made[-1]
    yield make
    for left in made:
        left.close()


def make_own(conn, errors):
    """The first temporary table of a session: it drops what is in its schema."""
    try:
        conn.execute(MAKE)
        conn.commit()
    except psycopg.Error as error:
        errors.append(error)


def test_sessions_that_drop_the_same(leave):
    """At that moment, in another order: they are waited for, and see no deadlock."""
    left = leave()
    locks = left.lock()
    errors = []
    threads = [threading.Thread(target=make_own, args=(heir, errors)) for heir in left.heirs]
    for thread in threads:
        thread.start()
    wait_for(lambda: left.look.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE TEMP %' AND "
        "wait_event_type = 'Lock'").fetchone()[0] == len(threads), 30 * SLOW, "all to wait")
    left.go_on()
    left.dropping()
    locks.rollback()
    for thread in threads:
        thread.join(60 * SLOW)
    assert errors == []
    assert "temporary tables" not in left.end()
    mine = set(left.look.execute(MINE))
    assert not mine & left.left and left.own < mine and len(mine) == 6 + 2 * len(threads)
    for heir in left.heirs:
        assert heir.execute("SELECT v, n FROM mine").fetchall() == [(9, 1)]
        heir.rollback()
    left.check()


def test_a_session_that_has_dropped_the_same_and_not_committed(leave):
    """What it has made under the same names stays; what it gives up is PostgreSQL's to drop."""
    left = leave()
    one, two, three = left.heirs
    for conn in (one, two):
        conn.execute(MAKE)
    left.go_on()
    assert "database p2: PostgreSQL will drop 4 temporary tables that were left" in left.end()
    one.commit()
    two.rollback()
    assert one.execute("SELECT v, n FROM mine").fetchall() == [(9, 1)]
    one.commit()
    assert len(set(left.look.execute(MINE)) & left.left) == 2
    for conn in (two, three):
        conn.execute(MAKE)
        conn.commit()
    mine = set(left.look.execute(MINE))
    assert not mine & left.left and left.own < mine and len(mine) == 6 + 6
    left.check()


REFUSING = """
CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('DROP TABLE', 'DROP SEQUENCE')
    EXECUTE FUNCTION refuse();
ALTER EVENT TRIGGER refuse ENABLE ALWAYS;
"""
NOT_YET = "database p2: temporary tables that were left are not dropped yet, PostgreSQL does that: "
WILL = "database p2: PostgreSQL will drop 6 temporary tables that were left"


@pytest.mark.parametrize("why, says", [
    ("locked", WILL),
    ("trigger", WILL),
    ("language", NOT_YET + 'language "plpgsql" does not exist'),
    ("refused", NOT_YET + "connection to server at"),
    ("ended", NOT_YET + "terminating connection due to administrator command"),
    ("crash", NOT_YET),
])
def test_it_fails(leave, why, says):
    """The mover says so, and the move is done."""
    left = leave(prepare={"trigger": REFUSING, "language": "DROP EXTENSION plpgsql"}.get(why, ""))
    scene = left.scene
    if why in ("locked", "ended", "crash"):
        left.lock()
    path = os.path.join(scene.pg2.data, "pg_hba.conf")
    with open(path) as text:
        hba = text.read()
    if why == "refused":
        with open(path, "w") as out:
            out.write("host p2 postgres 127.0.0.1/32 reject\n" + hba)
        scene.pg2.sql("SELECT pg_reload_conf()")
        wait_for(lambda: scene.refuses(scene.pg2, "p2"), 30 * SLOW, "the new pg_hba.conf")
    left.go_on()
    if why in ("ended", "crash"):
        os.kill(left.dropping(), signal.SIGTERM if why == "ended" else signal.SIGKILL)
    said = left.end()
    assert says in said and "result: done (exit code 0)" in said, said
    if why == "crash":  # which takes all sessions with it
        wait_for(scene.pg2.answers, 60 * SLOW, "pg2")
        scene.check_on_pg2()
        return
    if why == "refused":
        with open(path, "w") as out:
            out.write(hba)
        scene.pg2.sql("SELECT pg_reload_conf()")
    assert left.left | left.own == set(left.look.execute(MINE))
    left.check()
