# SPDX-License-Identifier: PostgreSQL
"""pgshunt status: one screen at any time, and what nobody may overlook."""
import json
import os
import signal
import time

import psycopg

from pgwire import wait_for
from scene import DONE, REFUSED, USAGE
from servers import SLOW, PgBouncer, subfolder


def events(scene, code, *args):
    result = scene.run("status", *args, "--json")
    assert result.returncode == code, result.stdout + result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def of(found, kind, **members):
    return [event for event in found if event["event"] == kind and
            all(event.get(key) == value for key, value in members.items())]


def test_status(make_scene, pg):
    scene = make_scene(proxies=2)
    scene.plproxy(pg, "hq_status", direct=True)
    with scene.proxy.wire("p2", "app") as conn:
        conn.value("SELECT 1")
        found = events(scene, DONE)
        assert of(found, "server", server="pg1", state="primary")
        assert of(found, "server", server="pg2", state="standby", receiver="streaming")
        assert of(found, "slot", server="pg1", slot="standby1", active=True)
        assert "1 of app from 127.0.0.1" == of(found, "database", server="pg1",
                                                database="p2")[0]["sessions"]
        assert of(found, "route", proxy="a", database="p2", server="pg1", state="open")
        assert of(found, "route", proxy="b", database="p1", server="pg1", state="open")
        assert of(found, "partitions", database="p2", to="pg1")
        assert not of(found, "alarm")
        # Only what was asked for.
        text = scene.run("status", "p2").stdout
        assert "database p2" in text and "database p1" not in text
        assert scene.run("status", "p9").returncode == USAGE
        # A template is a database like others.
        scene.pg1.sql("ALTER DATABASE p1 IS_TEMPLATE true")
        text = scene.run("status").stdout
        assert "database p1: open, a template" in text and "where p1 is" not in text
        scene.pg1.sql("ALTER DATABASE p1 IS_TEMPLATE false")
        scene.proxy.hold("p2", "LEASE 60s")
        assert "HELD" in scene.run("status").stdout
        scene.proxy.command("RELEASE p2")
        scene.proxy.hold("p2", "LEASE NONE")
        assert "held without end" in of(events(scene, REFUSED), "alarm")[0]["text"]
        scene.proxy.command("RELEASE p2")
    # What cannot be reached is named with the reason, and the rest is shown.
    scene.proxies[1].stop()
    text = scene.run("status").stdout
    assert "proxy b" in text and "Connection refused" in text and "to p2 on pg1" in text
    scene.pg2.stop()
    text = scene.run("status").stdout
    assert "server pg2" in text and "UNREACHABLE" in text and "server pg1" in text
    scene.pg2.start()
    scene.proxies[1].start()
    wait_for(lambda: scene.pg1.sql("SELECT 1 FROM pg_stat_replication"), 20 * SLOW, "streaming")

    scene.move()
    found = events(scene, DONE)
    assert of(found, "move", result="done")
    assert of(found, "route", proxy="a", database="p2", server="pg2")
    assert of(found, "database", server="pg1", database="p2", open=False)
    assert of(found, "database", server="pg2", database="p1", open=False)
    # Somebody lifts a fence, on either side.
    scene.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS true")
    result = scene.run("status")
    assert result.returncode == REFUSED
    assert result.stdout.startswith("!!!") and "fence of database p2 on pg1" in result.stdout
    assert scene.run("status", "p1").returncode == DONE
    scene.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS false")
    scene.pg2.sql("ALTER DATABASE p1 ALLOW_CONNECTIONS true")
    assert "database p1 is open for writing on pg1 and on pg2" in \
        of(events(scene, REFUSED), "alarm")[0]["text"]
    scene.pg2.sql("ALTER DATABASE p1 ALLOW_CONNECTIONS false")
    # A route that leads to a closed database.
    scene.proxy.hold("p2", "LEASE 60s")
    scene.proxy.command("SWAP p2 TO pg1 FORCE")
    scene.proxy.command("RELEASE p2")
    assert "proxy a sends database p2 to pg1" in of(events(scene, REFUSED), "alarm")[0]["text"]


def test_watch_and_a_move_under_way(make_scene):
    scene = make_scene(mover={"lease": "60s"})
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.hold.outcome=kill")
    mover.wait(60 * SLOW)
    found = events(scene, DONE)
    assert of(found, "move", result=None, last_phase="hold")
    log = os.path.join(scene.folder, "mover.log")
    os.unlink(log)
    watch = scene.background("status", "--watch")
    wait_for(lambda: open(log).read().count("pgshunt status, ") >= 2, 20 * SLOW, "two rounds")
    assert "UNFINISHED" in open(log).read()
    watch.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert watch.wait(20 * SLOW) == DONE and time.monotonic() - began < 10 * SLOW
    assert scene.run("resume").returncode != DONE
    scene.check_on_pg1()


def test_pgbouncers(make_scene, folder):
    scene = make_scene(alone=True)
    bouncer = PgBouncer(subfolder(folder), "web1", [("p1", "127.0.0.1", scene.pg1.port, "p1"),
                                                    ("p2", "127.0.0.1", scene.pg1.port, "p2")])
    try:
        scene.configure(pgbouncers={"web1": {"host": "127.0.0.1", "port": bouncer.port}})
        assert of(events(scene, DONE), "entry", pgbouncer="pgbouncer web1", database="p2",
                  to="pg1", paused=False)

        def console(command):
            with psycopg.connect(host="127.0.0.1", port=bouncer.port, user="postgres",
                                 dbname="pgbouncer", autocommit=True) as conn:
                conn.pgconn.exec_(command.encode())
        # A pause that nobody will end.
        console("PAUSE p2")
        found = events(scene, REFUSED)
        assert of(found, "entry", database="p2", paused=True)
        assert "p2 is paused" in of(found, "alarm")[0]["text"]
        console("RESUME p2")
        assert events(scene, DONE)
    finally:
        bouncer.stop()
    text = scene.run("status").stdout
    assert "pgbouncer web1" in text and "UNREACHABLE" in text and "refused" in text
