# SPDX-License-Identifier: PostgreSQL
"""PL/Proxy in a move: clusters made of functions, old sessions, statement and inverse."""
import glob
import json
import os
import threading
import time

import psycopg
import pytest

from pgwire import wait_for
from scene import DONE, FORWARD, REFUSED
from servers import SLOW, PgBouncer, subfolder

FUNCTIONS = """
CREATE EXTENSION IF NOT EXISTS plproxy;
CREATE SCHEMA IF NOT EXISTS plproxy;
CREATE TABLE parts (n int, conn text);
CREATE TABLE version (v int);
INSERT INTO version VALUES (7);
INSERT INTO parts SELECT n, format('dbname=p%%s host=127.0.0.1 port=%(port)d user=app', n / 2 + 1)
    FROM generate_series(0, 3) n;
CREATE FUNCTION plproxy.get_cluster_version(cluster_name text) RETURNS int LANGUAGE sql
    AS 'SELECT v FROM public.version';
CREATE FUNCTION plproxy.get_cluster_partitions(cluster_name text) RETURNS SETOF text LANGUAGE sql
    AS 'SELECT conn FROM public.parts ORDER BY n';
CREATE FUNCTION plproxy.get_cluster_config(cluster_name text, OUT key text, OUT val text)
    RETURNS SETOF record LANGUAGE sql AS $$ SELECT 'connection_lifetime'::text, '1800'::text $$;
CREATE FUNCTION where_am_i(shard int) RETURNS text LANGUAGE plproxy
    AS $$ CLUSTER 'hq'; RUN ON shard; $$;
"""


def functions(scene, pg, dbname, **settings):
    pg.sql("CREATE DATABASE " + dbname)
    pg.sql(FUNCTIONS % {"port": scene.pg1.port}, dbname)
    scene.configure(plproxy={"hq": {"host": "127.0.0.1", "port": pg.port, "dbname": dbname,
                                    "cluster": "hq", "user": "postgres", **settings}})


def test_functions(make_scene, pg):
    """What only the operator can change is explained first, then done and checked."""
    scene = make_scene()
    functions(scene, pg, "hq_functions")
    with pg.connect("hq_functions", autocommit=True) as conn:
        assert conn.execute("SELECT where_am_i(2)").fetchone() == ("pg1 p2",)
        assert "database p2: to pg1 (127.0.0.1:%d): 2 partitions, p2 to p3\n" % scene.pg1.port in \
            scene.run("status").stdout
        result = scene.move(REFUSED)
        old = "dbname=p2 host=127.0.0.1 port=%d user=app" % scene.pg1.port
        new = "dbname=p2 host=127.0.0.1 port=%d user=app" % scene.pg2.port
        update = "UPDATE public.parts SET conn = '%s' WHERE conn = '%s';" % (new, old)
        assert update in result.stderr and "another number than 7" in result.stderr
        scene.configure(plproxy={"hq": {**scene.mover["plproxy"]["hq"],
                                        "change_sql": update + " UPDATE version SET v = v + 1"}})
        scene.move()
        for shard, place in enumerate(("pg1 p1", "pg1 p1", "pg2 p2", "pg2 p2")):
            assert conn.execute("SELECT where_am_i(%s)", (shard,)).fetchone() == (place,)
    scene.check_on_pg2()


@pytest.mark.parametrize("change, why", [
    ("", "give SQL that does it"),
    ("UPDATE version SET v = 8", "change_sql did not make the partitions lead to the target"),
    ("UPDATE parts SET n = n WHERE false", "change_sql did not make the partitions lead to the target"),
    ("UPDATE version SET v = 8; COMMIT", "transaction commands"),
    ("UPDATE versions SET v = 8", 'relation "versions" does not exist')])
def test_functions_that_are_not_changed(make_scene, pg, change, why):
    """change_sql that does not do it is refused before the move, and what it did is taken back."""
    scene = make_scene()
    name = "hq_wrong%d" % len(change)
    functions(scene, pg, name, change_sql=change)
    assert why in scene.move(REFUSED).stderr
    assert pg.value("SELECT v FROM version", name) == 7
    scene.check_on_pg1()


def test_functions_that_change_no_more(make_scene, pg):
    """What could be done before the hold fails after the promotion: it is taken back, whole, and named."""
    scene = make_scene()
    name = "hq_rule"
    functions(scene, pg, name, change_sql="UPDATE parts SET conn = replace(conn, '%d', '%d') WHERE n > 1; "
              "UPDATE version SET v = 8" % (scene.pg1.port, scene.pg2.port))
    mover, mark = at_record(scene, "hold.outcome")
    pg.sql("CREATE RULE keep AS ON UPDATE TO version DO INSTEAD NOTHING", name)
    os.unlink(mark)
    assert mover.wait(60 * SLOW) == FORWARD
    with open(os.path.join(scene.folder, "mover.log")) as log:
        assert "change_sql did not change plproxy.get_cluster_version()" in log.read()
    assert pg.value("SELECT count(*) FROM parts WHERE conn LIKE '%%%d%%'" % scene.pg2.port, name) == 0
    pg.sql("DROP RULE keep ON version", name)
    pg.sql("UPDATE version SET v = 8; UPDATE parts SET conn = replace(conn, '%d', '%d') "
           "WHERE n > 1" % (scene.pg1.port, scene.pg2.port), name)
    assert scene.run("resume").returncode == DONE
    scene.check_on_pg2()


NO_DDL = """CREATE FUNCTION no_ddl() RETURNS event_trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'no DDL here'; END $$;
CREATE EVENT TRIGGER no_ddl ON ddl_command_start EXECUTE FUNCTION no_ddl();"""


def test_event_trigger_that_forbids_ddl(make_scene, pg):
    """That the options cannot be changed is known before the move; the look where calls land is none of
    its business."""
    scene = make_scene()
    for name, direct in (("hq_event", True), ("hq_event_through", False)):
        scene.plproxy(pg, name, direct=direct)
        pg.sql(NO_DDL, name)
        if direct:
            result = scene.move(REFUSED)
            assert "the options of cluster hq cannot be changed: no DDL here" in result.stderr
            scene.check_on_pg1()
    result = scene.move()
    assert "plproxy_calls 1" in result.stdout
    scene.check_on_pg2()


def test_database_of_the_cluster_is_moved_along(make_scene):
    """The mover would change the old copy, or cannot any more; by a proxy it reaches the new one."""
    scene = make_scene()
    scene.plproxy(scene.pg1, "hq", direct=True)
    scene.proxy.databases["hq"] = {"server": "pg1"}
    scene.proxy.write()
    with scene.proxy.console() as console:
        console("RELOAD")
    result = scene.run("plan", "p2", "hq", "--to", "pg2")
    assert result.returncode == REFUSED
    assert "database hq is moved itself, but mover.plproxy.hq leads to the old server" in result.stderr
    assert scene.run("plan", "p2", "--to", "pg2").returncode == DONE
    scene.mover["plproxy"]["hq"]["port"] = scene.proxy.port
    scene.configure()
    assert scene.run("move", "p2", "hq", "--to", "pg2").returncode == DONE
    with scene.proxy.wire("hq") as conn:
        assert conn.value("SELECT where_am_i(2)") == "pg2 p2"


def at_record(scene, record):
    """The mover in the background, once it stands at that record; removing the file lets it go on."""
    mark = os.path.join(scene.folder, "waits")
    mover = scene.background("move", "p2", "--to", "pg2",
                             fault="journal.%s=wait:%s" % (record, mark))
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the record " + record)
    return mover, mark


def end_of(scene, mover):
    code = mover.wait(60 * SLOW)
    with open(os.path.join(scene.folder, "mover.log")) as log:
        text = log.read()
    assert code == DONE, text
    return text


def bouncer_query(bouncer, dbname):
    with psycopg.connect(host="127.0.0.1", port=bouncer.port, dbname=dbname, user="app",
                         connect_timeout=20) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_statement_and_inverse(make_scene, pg, folder):
    """Kept next to the journal; the inverse takes the change back.  A pgbouncer before the PL/Proxy
    database gets new sessions, but not while it logs in, upon which it would refuse its clients."""
    scene = make_scene()
    scene.plproxy(pg, "hq_kept", direct=True)
    before = pg.value("SELECT srvoptions FROM pg_foreign_server WHERE srvname = 'hq'", "hq_kept")
    entry = "%%s = host=127.0.0.1 port=%d dbname=hq_kept%%s\n" % pg.port
    # The login of "slow" ends when the lock is there.
    slow = " connect_query='SELECT pg_advisory_lock_shared(1)'"
    bouncer = PgBouncer(subfolder(folder), "front", [],
                        entries=entry % ("hq", "") + entry % ("slow", slow))
    client = threading.Thread(target=bouncer_query, args=(bouncer, "slow"))
    try:
        scene.configure(pgbouncers={"front": {
            "host": "127.0.0.1", "port": bouncer.port,
            "unix_socket_directories": [bouncer.folder]}})
        events = [json.loads(line) for line in
                  scene.run("plan", "p2", "--to", "pg2", "--json").stdout.splitlines()]
        plan = [event for event in events if event["event"] == "plan"][0]["plproxy"][0]
        assert plan["style"] == "foreign server" and plan["statement"].startswith("ALTER SERVER")
        with pg.connect("hq_kept", autocommit=True) as conn:
            conn.execute("SELECT pg_advisory_lock(1)")
            client.start()
            wait_for(lambda: any(row["sv_login"] for row in bouncer.admin("SHOW POOLS")),
                     what="the login")
            result = scene.move()
        bouncer_query(bouncer, "slow")
        client.join(20 * SLOW)
        assert not client.is_alive()
        assert "plproxy_recycled 1" in result.stdout and "plproxy_calls 1" in result.stdout
        assert "connections of database slow are not replaced" in result.stdout
    finally:
        bouncer.stop()
    moved = glob.glob(os.path.join(scene.mover["journal_directory"], "*", "plproxy-hq*.sql"))
    texts = {os.path.basename(path): open(path).read() for path in moved}
    assert texts["plproxy-hq.sql"].rstrip(";\n") == plan["statement"]
    assert texts["plproxy-hq.undo.sql"].rstrip(";\n") == plan["inverse"]
    pg.sql(plan["inverse"], "hq_kept")
    assert pg.value("SELECT srvoptions FROM pg_foreign_server WHERE srvname = 'hq'",
                    "hq_kept") == before


def test_all_start_again_meanwhile(make_scene, make_cluster, folder):
    """Of PL/Proxy sessions from before nothing is left that could be wrong; and that the target or a
    router cannot be reached for a moment is no reason for a second run."""
    scene = make_scene(proxies=2)
    hq = make_cluster("hq")
    scene.plproxy(hq, "hq", direct=True)
    bouncer = PgBouncer(subfolder(folder), "beside", [("p2", "127.0.0.1", scene.pg1.port, "p2")])
    scene.configure(pgbouncers={"beside": {
        "host": "127.0.0.1", "port": bouncer.port, "ini": [bouncer.ini],
        "unix_socket_directories": [bouncer.folder]}})
    try:
        mover, mark = at_record(scene, "release.outcome")
        hq.crash()
        scene.pg2.crash()
        scene.proxies[1].kill()
        bouncer.stop()
        os.unlink(mark)
        time.sleep(0.5)
        for what in (hq, scene.pg2, scene.proxies[1], bouncer):
            what.start()
        text = end_of(scene, mover)
        assert "the session from before the move has ended" in text
        assert "problems met" in text and "proxy b" in text and "pgbouncer beside" in text
        assert int(bouncer.database("p2")["port"]) == scene.pg2.port
    finally:
        bouncer.stop()
    assert hq.sql("SELECT where_am_i(2)", "hq", "app") == [("pg2 p2",)]
    scene.check_on_pg2()
