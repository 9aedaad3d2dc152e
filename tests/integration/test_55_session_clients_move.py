# SPDX-License-Identifier: PostgreSQL
"""pgshunt move with clients of session pools: counted before, taken along, compared, reported."""
import glob
import json
import os
import signal

import pytest

from pgwire import wait_for
from scene import UNDONE
from servers import SLOW

pytestmark = pytest.mark.threads


@pytest.fixture
def scene(make_scene):
    return make_scene(proxies=2, proxy={"pool_mode": "session"})


def session(proxy, name):
    conn = proxy.wire("p2", application_name=name)
    conn.query("SET work_mem = '7MB'")
    conn.query("PREPARE twice(int) AS SELECT $1 * 2")
    conn.query("LISTEN news")
    conn.query("SELECT pg_advisory_lock(hashtext('%s'))" % name)
    return conn


def report_of(scene):
    path, = glob.glob(os.path.join(scene.folder, "moves", "*", "report.json"))
    with open(path) as file:
        return json.load(file)


def test_sessions_are_moved(scene):
    conns = {name: session(proxy, name)
             for proxy, name in zip(scene.proxies * 2, ("one", "two", "three", "four"))}
    plain = scene.proxy.wire("p2", application_name="plain")
    plain.query("SELECT 1")
    checked = scene.run("check", "p2", "--to", "pg2")
    assert "1 clean, 4 movable, 0 pinned, 0 unknown" in checked.stdout
    rehearsed = scene.run("rehearse", "p2", "--to", "pg2")
    assert "1 clean, 4 movable" in rehearsed.stdout
    moved = scene.move()
    assert "5 sessions of session pools went along" in moved.stdout
    reported = report_of(scene)["sessions"]
    assert sorted(each["application_name"] for each in reported) == sorted([*conns, "plain"])
    for each in reported:
        assert each["moved_from"] == "pg1" and each["moved_to"] == "pg2"
        assert len(each["digest_before"]) == 64
        assert each["digest_before"] == each["digest_after"] and each["lost"] is None
    for name, conn in conns.items():
        assert conn.value("SHOW cluster_name") == "pg2"
        assert conn.value("SHOW work_mem") == "7MB"
        assert conn.value("EXECUTE twice(21)") == "42"
        assert conn.value("SELECT pg_advisory_unlock(hashtext('%s'))" % name) == "t"
    scene.pg2.sql("NOTIFY news, 'hello'", "p2")
    for conn in conns.values():
        assert conn.until("A")[-1].body[4:] == b"news\0hello\0"
    for conn in (plain, *conns.values()):
        conn.close()


def test_undone_for_a_pinned_one(scene):
    """It is named by the plan; the move is undone, and every session is where it was."""
    scene.configure(hold_timeout="3s")
    conn = session(scene.proxy, "movable")
    pinned = scene.proxies[1].wire("p2", application_name="pinned")
    pinned.query("CREATE TEMP VIEW basket AS SELECT 0 AS a")
    before = [each.value("SELECT pg_backend_pid()") for each in (conn, pinned)]
    planned = scene.run("plan", "p2", "--to", "pg2")
    assert "sessions of session pools: 0 clean, 1 movable, 1 pinned" in planned.stdout
    assert "basket" in planned.stdout + planned.stderr
    undone = scene.move(UNDONE)
    assert "basket" in undone.stdout + undone.stderr
    assert [each.value("SELECT pg_backend_pid()") for each in (conn, pinned)] == before
    assert conn.value("EXECUTE twice(21)") == "42"
    assert pinned.value("SELECT a FROM basket") == "0"
    conn.close()
    pinned.close()


def test_undone_after_the_fence(scene):
    """Their servers were sealed for it: what the sessions had is set up anew on pg1."""
    scene.configure(hold_timeout="5s")
    conn = session(scene.proxy, "movable")
    pid = conn.value("SELECT pg_backend_pid()")
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.terminate.outcome=sleep:1500")
    wait_for(lambda: scene.proxy.command("SHOW SEALED p2"), 30 * SLOW, "the fence")
    mover.send_signal(signal.SIGINT)
    assert mover.wait(60 * SLOW) == UNDONE
    assert conn.value("SHOW cluster_name") == "pg1"
    assert conn.value("SELECT pg_backend_pid()") != pid
    assert conn.value("SHOW work_mem") == "7MB"
    assert conn.value("EXECUTE twice(21)") == "42"
    assert conn.value("SELECT pg_advisory_unlock(hashtext('movable'))") == "t"
    conn.close()
