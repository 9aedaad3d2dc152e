# SPDX-License-Identifier: PostgreSQL
"""Who reads the shard on the standby: such a session would survive the promotion and could write
before the shard is opened, or to a copy that nobody has looked at."""
import json
import os
import threading

import psycopg
import pytest

from pgwire import wait_for
from scene import DONE, REFUSED, UNDONE
from servers import SLOW


def reader(scene, **kwargs):
    conn = scene.pg2.connect("p2", "app", application_name="reports", **kwargs)
    assert conn.execute("SELECT pg_is_in_recovery()").fetchone()[0] is True
    return conn


def catch_up(result):
    events = [json.loads(line) for line in result.stdout.splitlines()]
    return [event for event in events if event.get("phase") == "catch_up"][0]["data"]


def test_readers_are_ended_before_the_promotion(make_scene):
    """Idle, in a transaction, in a query: none of them is left when the request is sent, and the
    sessions that the proxy has prepared are."""
    scene = make_scene()
    scene.pg2.sql("ALTER SYSTEM SET hot_standby_feedback = on")
    scene.pg2.sql("SELECT pg_reload_conf()")
    wait_for(lambda: scene.pg1.value("SELECT count(xmin) FROM pg_replication_slots") == 1, 20 * SLOW,
             "no replay that waits for a reader")
    scene.load()
    idle, within, asleep = (reader(scene) for _ in range(3))
    within.execute("BEGIN")
    failed = []

    def sleep():
        try:
            asleep.execute("SELECT pg_sleep(60)")
        except psycopg.Error as error:
            failed.append(error)
    thread = threading.Thread(target=sleep)
    thread.start()
    result = scene.move()
    thread.join(30)
    assert failed and "administrator command" in str(failed[0])
    for conn in (idle, within):
        with pytest.raises(psycopg.OperationalError):
            conn.execute("INSERT INTO items VALUES (99, 'by a reader')")
    assert "readers_ended 3" in result.stdout and "reports" in result.stdout
    # Those of the proxy were spared: its clients have seen nothing.
    account = scene.account()
    assert all(group["errors"] == 0 for group in account["groups"].values()), account
    assert scene.pg2.value("SELECT count(*) FROM items WHERE id = 99", "p2") == 0


@pytest.mark.parametrize("point,code", [("hold.outcome", UNDONE), ("catch_up.outcome", DONE)])
def test_a_query_elsewhere_delays_the_replay(make_scene, point, code):
    """In a database that stays. Before the promotion it is named; after its request it is ended, as it
    would be a moment later, and the clients do not wait for max_standby_streaming_delay."""
    scene = make_scene(mover={"lease": "20s", "catch_up_timeout": "2s"})
    scene.pg1.sql("CREATE TABLE old AS SELECT generate_series(1, 1000) g", "p1")
    lsn = scene.pg1.value("SELECT pg_current_wal_lsn()")
    wait_for(lambda: scene.pg2.value("SELECT pg_last_wal_replay_lsn() >= '%s'" % lsn), 10 * SLOW, "the replay")
    mark = os.path.join(scene.folder, "stands")
    with scene.proxy.wire("p2") as client:
        client.value("SELECT 1")
        conn = scene.pg2.connect("p1", "app2", application_name="reports")
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        conn.execute("SELECT 1")
        mover = scene.background("move", "p2", "--to", "pg2", fault="journal.%s=wait:%s" % (point, mark))
        wait_for(lambda: os.path.exists(mark), 60 * SLOW, point)
        scene.pg1.sql("DELETE FROM old", "p1")
        scene.pg1.sql("VACUUM old", "p1")
        wait_for(lambda: scene.pg2.value("SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'")
                 == "RecoveryConflictSnapshot", 10 * SLOW, "the conflict")
        os.unlink(mark)
        assert mover.wait(20 * SLOW) == code
        assert client.value("SHOW cluster_name") == ("pg1" if code == UNDONE else "pg2")
        if code == UNDONE:
            conn.execute("SELECT 1")
        conn.close()
    with open(os.path.join(scene.folder, "mover.log")) as log:
        text = log.read()
    who = "app2 from 127.0.0.1 (reports) in database p1"
    assert ("its replay waits for " if code == UNDONE else "delayed the replay, and were ended: ") + who in text, text


def test_readers_are_refused_if_they_shall_not_be_ended(make_scene):
    scene = make_scene(mover={"end_readers": False})
    with reader(scene) as conn:
        assert "reports" in scene.move(REFUSED).stdout
        assert conn.execute("SELECT 1").fetchone() == (1,)
    # One who comes after the checks: undone, and it goes on reading.
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.prepare.outcome=sleep:2000")
    wait_for(lambda: scene.proxy.held()["target"] == "pg2", 60 * SLOW, "the preparation")
    with reader(scene) as conn:
        assert mover.wait(90 * SLOW) == UNDONE
        assert conn.execute("SELECT 1").fetchone() == (1,)
    scene.check_on_pg1()
    scene.move()
    scene.check_on_pg2()


def test_a_name_that_leads_to_the_standby(make_scene):
    """A read-only name of the shard is no reason to refuse; its clients go on after the move."""
    scene = make_scene()
    proxy = scene.proxy
    proxy.databases["p2_ro"] = {"server": "pg2", "dbname": "p2"}
    proxy.write()
    proxy.command("RELOAD")
    with proxy.wire("p2_ro") as conn:
        assert conn.value("SHOW transaction_read_only") == "on"
        result = scene.move()
        assert "p2_ro" in result.stdout + result.stderr and "readers_ended 1" in result.stdout
        assert proxy.route()["server"] == "pg2"
        # The same client, or one that comes anew.
        with proxy.wire("p2_ro") as new:
            assert new.value("SHOW transaction_read_only") == "off"
    scene.check_on_pg2()
    assert scene.run("validate").returncode == DONE


def test_two_proxies_that_disagree(make_scene):
    """The same name in two places: refused, and said how to bring them together."""
    scene = make_scene(proxies=2)
    proxy = scene.proxies[1]
    proxy.databases["p2"] = {"server": "pg2"}
    proxy.write()
    proxy.command("RELOAD")
    result = scene.move(REFUSED)
    assert "proxy a sends database p2 to server pg1, but proxy b" in result.stderr
    assert "SWAP p2 TO" in result.stderr
