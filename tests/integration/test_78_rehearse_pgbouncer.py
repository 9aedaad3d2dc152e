# SPDX-License-Identifier: PostgreSQL
"""A rehearsal with pgbouncers in the path: paused for a moment, never left paused."""
import json
import signal

import psycopg
import pytest

from pgwire import wait_for
from scene import DONE, REFUSED
from servers import SLOW, PgBouncer


@pytest.fixture
def alone(make_scene):
    scene = make_scene(alone=True)
    bouncer = PgBouncer(scene.folder, "pgbouncer", [(name, "127.0.0.1", scene.pg1.port, name)
                                                    for name in ("p1", "p2")])
    scene.configure(rehearse_samples=3, rehearse_limit="1h", rehearse_hold="5s", pgbouncers={"web": {
        "host": "127.0.0.1", "port": bouncer.port, "ini": [bouncer.ini],
        "unix_socket_directories": [bouncer.folder]}})
    yield scene, bouncer
    bouncer.stop()


def connect(bouncer):
    return psycopg.connect(host="127.0.0.1", port=bouncer.port, dbname="p2", user="app",
                           autocommit=True, prepare_threshold=None)


def rehearse(scene, code):
    result = scene.run("rehearse", "p2", "--to", "pg2", "--json")
    assert result.returncode == code, result.stdout + result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    return [event for event in events if event["event"] == "rehearsal"][0]


def test_paused_for_a_moment(alone):
    scene, bouncer = alone
    with connect(bouncer) as conn:
        conn.execute("SELECT 1")
        found = rehearse(scene, DONE)
        assert found["go"] and found["held"] and found["undrained"] == 0
        assert found["drain"]["samples"] == 3 and found["drain"]["p50_ms"] > 0
        assert bouncer.database("p2")["paused"] == 0
        assert conn.execute("SHOW cluster_name").fetchone() == ("pg1",)
        # A transaction in the way: no-go, and its client does not notice.
        scene.configure(rehearse_hold="50ms")
        conn.execute("BEGIN")
        conn.execute("SELECT 1")
        found = rehearse(scene, REFUSED)
        assert not found["go"] and found["undrained"] == 3
        assert bouncer.database("p2")["paused"] == 0
        conn.execute("COMMIT")
        # Nobody is paused with a hold of nothing; transactions are watched.
        scene.configure(rehearse_hold="0", hold_timeout="300ms")
        assert rehearse(scene, DONE)["held"] is False
        conn.execute("BEGIN")
        conn.execute("SELECT 1")
        assert rehearse(scene, REFUSED)["undrained"] == 3
        conn.execute("COMMIT")
    scene.check_on_pg1()
    scene.move()


def test_killed_while_it_is_paused(alone):
    scene, bouncer = alone
    scene.configure(rehearse_hold="10s", lease="1s")
    with connect(bouncer) as conn:
        conn.execute("BEGIN")
        conn.execute("SELECT 1")
        process = scene.background("rehearse", "p2", "--to", "pg2")
        wait_for(lambda: bouncer.database("p2")["paused"] == 1, 30 * SLOW, "the pause")
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        conn.execute("COMMIT")
        wait_for(lambda: bouncer.database("p2")["paused"] == 0, 30 * SLOW, "the guard")
        assert conn.execute("SHOW cluster_name").fetchone() == ("pg1",)
