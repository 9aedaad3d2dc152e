# SPDX-License-Identifier: PostgreSQL
"""Moves with pgbouncers: several shards in one file, included files, what the drain policies do
there; and what resume and status make of their entries."""
import glob
import os
import re
import signal
import socket
import threading
import time

import psycopg
import pytest

from pgwire import wait_for
from scene import DONE, FORWARD, REFUSED, UNDONE
from servers import OWNER, SLOW, PgBouncer


def entry(name, cluster, tail=""):
    return "%s = host=127.0.0.1 port=%d%s\n" % (name, cluster.port, tail)


@pytest.fixture
def make_bouncer():
    made = []

    def make(scene, **kwargs):
        bouncer = PgBouncer(scene.folder, "pgbouncer", [], **kwargs)
        made.append(bouncer)
        scene.configure(pgbouncers={"web": {
            "host": "127.0.0.1", "port": bouncer.port, "ini": [bouncer.ini],
            "unix_socket_directories": [bouncer.folder]}})
        return bouncer
    yield make
    for bouncer in made:
        bouncer.stop()


def connect(bouncer, dbname="p2", **kwargs):
    return psycopg.connect(host="127.0.0.1", port=bouncer.port, dbname=dbname, user="app",
                           autocommit=True, prepare_threshold=None, **kwargs)


def where(bouncer, dbname):
    with connect(bouncer, dbname) as conn:
        return conn.execute("SHOW cluster_name").fetchone()[0]


def read(path):
    with open(path) as file:
        return file.read()


def test_several_shards_in_one_file(make_scene, make_bouncer):
    """All entries of both, two names of one shard among them, change at once; nothing else does."""
    scene = make_scene(alone=True)
    scene.pg1.sql("CREATE DATABASE other")
    bouncer = make_bouncer(scene, entries=entry("p1", scene.pg1) + entry("other", scene.pg1) +
                           entry("p2", scene.pg1, " pool_size=3") + entry("again", scene.pg1, " dbname=p2"))
    before = read(bouncer.ini)
    with connect(bouncer, "p1") as one, connect(bouncer, "p2") as two:
        one.execute("INSERT INTO items VALUES (1, 'one')")
        two.execute("INSERT INTO items VALUES (2, 'two')")
        result = scene.run("move", "p1", "p2", "--to", "pg2")
        assert result.returncode == DONE
        assert one.execute("SELECT id FROM items").fetchall() == [(1,)]
        assert two.execute("SELECT id FROM items").fetchall() == [(2,)]
    assert [where(bouncer, name) for name in ("p1", "p2", "again", "other")] == ["pg2"] * 3 + ["pg1"]
    changed = [line for line, new in zip(before.splitlines(), read(bouncer.ini).splitlines()) if line != new]
    assert [line.split()[0] for line in changed] == ["p1", "p2", "again"]
    assert [row["paused"] for row in bouncer.admin("SHOW DATABASES")] == [0] * 5
    assert scene.open_databases(scene.pg1) == set()


def test_one_of_two_shards_is_gone(make_scene, make_bouncer):
    """Somebody has renamed it behind the last look: its clients wait, those of the other one go on."""
    scene = make_scene(alone=True)
    bouncer = make_bouncer(scene, entries=entry("p1", scene.pg1) + entry("p2", scene.pg1))
    mark = os.path.join(scene.folder, "stands")
    with connect(bouncer, "p1") as waits, connect(bouncer, "p2") as goes_on:
        for conn in (waits, goes_on):
            conn.execute("SELECT 1")
        mover = scene.background("move", "p1", "p2", "--to", "pg2", fault="journal.catch_up.outcome=wait:" + mark)
        wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the last look")
        scene.pg1.sql("ALTER DATABASE p1 RENAME TO renamed")
        wait_for(lambda: scene.pg2.value("SELECT count(*) FROM pg_database WHERE datname = 'p1'") == 0, 20 * SLOW,
                 "the replay")
        found = []
        asker = threading.Thread(target=lambda: found.append(waits.execute("SHOW cluster_name").fetchone()[0]))
        asker.start()
        os.unlink(mark)
        assert goes_on.execute("SHOW cluster_name").fetchone()[0] == "pg2"
        code = mover.wait(90 * SLOW)
        text = read(os.path.join(scene.folder, "mover.log"))
        assert code == FORWARD and "pg2 has no database p1: somebody has renamed or dropped it on pg1" in text, text
        assert bouncer.database("p1")["paused"] == 1 and bouncer.database("p2")["paused"] == 0
        result = scene.run("resume")
        assert result.returncode == FORWARD and "pg2 has no database p1" in result.stderr
        assert found == [] and asker.is_alive() and bouncer.database("p1")["paused"] == 1
        scene.pg2.sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'renamed'")
        scene.pg2.sql("BEGIN READ WRITE; ALTER DATABASE renamed RENAME TO p1; COMMIT")
        assert scene.run("resume").returncode == DONE
        asker.join(30 * SLOW)
        assert found == ["pg2"] and where(bouncer, "p2") == "pg2"
    assert [row["paused"] for row in bouncer.admin("SHOW DATABASES")] == [0] * 3


def test_entry_in_an_included_file(make_scene, make_bouncer):
    """The line is changed where it stands, the main file is not touched; undone, neither is."""
    scene = make_scene(alone=True)
    bouncer = make_bouncer(scene, entries=entry("p1", scene.pg1) + entry("p2", scene.pg1))
    included = os.path.join(bouncer.folder, "shards.ini")
    text = "[databases]\n; shards\n" + entry("p2", scene.pg1)
    with open(included, "w") as out:
        out.write(text)
    if OWNER:
        os.chown(included, OWNER.pw_uid, OWNER.pw_gid)
    main = read(bouncer.ini).replace(entry("p2", scene.pg1), "") + "%%include %s\n" % included
    with open(bouncer.ini, "w") as out:
        out.write(main)
    bouncer.admin("RELOAD")
    assert where(bouncer, "p2") == "pg1"
    assert scene.run("move", "p2", "--to", "pg2", fault="journal.barrier.outcome=fail").returncode == UNDONE
    assert read(included) == text and read(bouncer.ini) == main and where(bouncer, "p2") == "pg1"
    scene.move()
    assert where(bouncer, "p2") == "pg2" and where(bouncer, "p1") == "pg1"
    assert read(bouncer.ini) == main
    assert read(included) == text.replace(str(scene.pg1.port), str(scene.pg2.port))
    assert [read(path) for path in glob.glob(included + ".*.bak")] == [text]


@pytest.mark.parametrize("policy", ["cancel", "keep"])
@pytest.mark.threads
def test_policies_that_cancel(make_scene, make_bouncer, policy):
    """A statement that runs is cancelled, its client stays connected and goes on on pg2.  One that
    idles in a transaction cannot be cancelled: then nothing is moved."""
    scene = make_scene(alone=True, mover={"drain_policy": policy, "hold_timeout": "700ms"})
    bouncer = make_bouncer(scene, entries=entry("p1", scene.pg1) + entry("p2", scene.pg1))
    with connect(bouncer) as busy:
        busy.execute("BEGIN")
        assert scene.run("move", "p2", "--to", "pg2").returncode == UNDONE
        busy.execute("COMMIT")
        assert busy.execute("SHOW cluster_name").fetchone() == ("pg1",)
        failed = []

        def sleep():
            try:
                busy.execute("SELECT pg_sleep(60)")
            except psycopg.Error as error:
                failed.append(error.sqlstate)
        thread = threading.Thread(target=sleep)
        thread.start()
        wait_for(lambda: scene.pg1.value("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' "
                                         "AND state = 'active' AND pid <> pg_backend_pid()"), 20 * SLOW, "the query")
        scene.move()
        thread.join(60)
        assert failed == ["57014"]
        assert busy.execute("SHOW cluster_name").fetchone() == ("pg2",)
    assert bouncer.database("p2")["paused"] == 0


def slow_console(port, text, seconds):
    """A port that leads to a console, where whoever asks `text` waits for his answer."""
    listener = socket.create_server(("127.0.0.1", 0))

    def forward(source, sink):
        try:
            while data := source.recv(65536):
                if text in data:
                    time.sleep(seconds)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def accept():
        while True:
            try:
                near = listener.accept()[0]
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            for ends in ((near, far), (far, near)):
                threading.Thread(target=forward, args=ends, daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()
    return listener


def test_deadline_while_it_is_asked(make_scene, make_bouncer):
    """The answer that is still awaited at the deadline is not taken for "no connection is in use"."""
    scene = make_scene(alone=True, mover={"drain_policy": "keep", "hold_timeout": "700ms"})
    bouncer = make_bouncer(scene, entries=entry("p1", scene.pg1) + entry("p2", scene.pg1))
    with slow_console(bouncer.port, b"SHOW SERVERS", 0.5) as listener, connect(bouncer) as busy:
        scene.configure(pgbouncers={"web": {"host": "127.0.0.1", "port": listener.getsockname()[1],
                                            "processes": 1, "ini": [bouncer.ini]}})
        busy.execute("BEGIN")
        assert scene.run("move", "p2", "--to", "pg2").returncode == UNDONE
        busy.execute("COMMIT")
        assert busy.execute("SHOW cluster_name").fetchone() == ("pg1",)
    assert bouncer.database("p2")["paused"] == 0


def test_somebody_else_has_moved_it(make_scene, make_bouncer):
    """The mover died before the promotion; then somebody promoted pg2 and led the pgbouncer there:
    to open pg1 again would make two."""
    scene = make_scene(alone=True, mover={"lease": "60s"})
    bouncer = make_bouncer(scene, entries=entry("p1", scene.pg1) + entry("p2", scene.pg1))
    result = scene.run("move", "p2", "--to", "pg2", fault="journal.fence.outcome=kill")
    assert result.returncode == -signal.SIGKILL
    wait_for(lambda: not scene.pg2.value("SELECT datallowconn FROM pg_database WHERE datname = 'p2'"),
             20 * SLOW, "the fence on pg2")
    scene.pg2.sql("SELECT pg_promote()")
    scene.pg2.sql("ALTER SYSTEM RESET default_transaction_read_only")  # of a move that has not ended
    scene.pg2.sql("SELECT pg_reload_conf()")
    wait_for(lambda: scene.pg2.value("SHOW default_transaction_read_only") == "off", 20 * SLOW, "the reload")
    scene.pg2.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS true")
    text = read(bouncer.ini)
    with open(bouncer.ini, "w") as out:
        out.write(re.sub(r"(?m)^(p2 = .*port=)\d+", r"\g<1>%d" % scene.pg2.port, text))
    bouncer.admin("RELOAD")
    bouncer.admin("RESUME p2")
    assert where(bouncer, "p2") == "pg2"
    result = scene.run("resume")
    assert result.returncode == REFUSED and "two copies" in result.stdout + result.stderr
    assert scene.open_databases(scene.pg1) == {"p1"} and where(bouncer, "p2") == "pg2"


def test_status_knows_what_a_cluster_leads_to(make_scene, make_bouncer):
    scene = make_scene(alone=True)
    bouncer = make_bouncer(scene, entries=entry("p1", scene.pg1) + entry("p2", scene.pg1))
    scene.pg1.sql("CREATE DATABASE hq")
    scene.pg1.sql("CREATE EXTENSION plproxy; CREATE SERVER hq FOREIGN DATA WRAPPER plproxy OPTIONS ("
                  "p0 'dbname=p1 host=127.0.0.1 port=%d', p1 'dbname=p2 host=127.0.0.1 port=%d')"
                  % (bouncer.port, bouncer.port), "hq")
    scene.configure(plproxy={"hq": {"host": "127.0.0.1", "port": scene.pg1.port, "dbname": "hq",
                                    "cluster": "hq", "user": "postgres"}})
    assert "database p2: to pgbouncer web" in scene.run("status").stdout
