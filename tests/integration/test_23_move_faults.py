# SPDX-License-Identifier: PostgreSQL
"""kill -9 of the mover in the middle of a move: a second run completes it or undoes it, and there is
exactly one writable p2 at every end."""
import glob
import json
import os
import signal
import subprocess
import time

import pytest

from pgwire import wait_for
from scene import DONE, FORWARD, REFUSED, UNDONE
from servers import SLOW

BEFORE = ["command.outcome", "prepare.outcome", "hold.intent", "hold.outcome", "fence.intent", "fence.outcome",
          "barrier.outcome", "catch_up.outcome"]
AFTER = ["promote.outcome", "proof.outcome", "open.intent", "open.outcome", "swap.intent",
         "swap.outcome", "release.intent", "release.outcome"]


def killed(scene, point, lease="60s"):
    """With a long lease, nobody but the test deals with what is left."""
    scene.configure(lease=lease)
    result = scene.run("move", "p2", "--to", "pg2", fault="journal.%s=kill" % point)
    assert result.returncode == -signal.SIGKILL, result.stdout + result.stderr


@pytest.mark.parametrize("point", BEFORE)
def test_mover_killed_before_the_promotion_and_aborted(make_scene, point):
    scene = make_scene()
    killed(scene, point)
    assert scene.run("abort").returncode == DONE
    scene.check_on_pg1()
    # Nothing is in the way of another try.
    scene.move()
    scene.check_on_pg2()


@pytest.mark.parametrize("point", BEFORE[2::2])
def test_mover_killed_before_the_promotion_and_resumed(make_scene, point):
    """Whatever resume decides, it says so, and the end is one of the two."""
    scene = make_scene()
    killed(scene, point)
    result = scene.run("resume")
    assert result.returncode in (DONE, UNDONE), result.stdout + result.stderr
    if scene.pg2.value("SELECT pg_is_in_recovery()"):
        scene.check_on_pg1()
    else:
        scene.check_on_pg2()


@pytest.mark.parametrize("point", AFTER)
def test_mover_killed_after_the_promotion_and_resumed(make_scene, point):
    scene = make_scene()
    with scene.proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        killed(scene, point)
        # The hold has no lease any more: clients wait rather than write to the old server.
        time.sleep(0.3)
        assert scene.open_databases(scene.pg1) == {"p1"}
        assert scene.run("resume").returncode == DONE
        assert conn.value("SHOW cluster_name") == "pg2"
    scene.check_on_pg2()


def test_abort_after_the_promotion_is_refused(make_scene):
    scene = make_scene()
    killed(scene, "promote.outcome")
    result = scene.run("abort")
    assert result.returncode in (REFUSED, FORWARD), result.stdout + result.stderr
    assert scene.refuses(scene.pg1, "p2")
    assert scene.run("resume").returncode == DONE
    scene.check_on_pg2()


def test_mover_killed_at_the_request_to_promote(make_scene):
    """Its intent is on disk, the request was never sent: nobody but pg2 knows, and it is asked."""
    scene = make_scene()
    killed(scene, "promote.intent")
    result = scene.run("resume")
    assert result.returncode in (DONE, UNDONE), result.stdout + result.stderr
    if scene.pg2.value("SELECT pg_is_in_recovery()"):
        scene.check_on_pg1()
    else:
        scene.check_on_pg2()


def cut_journal(scene, phase, kind):
    """The records after that one are not there: they were not on disk when the machine lost power."""
    path, = glob.glob(os.path.join(scene.folder, "moves", "*", "journal.jsonl"))
    with open(path) as text:
        lines = text.readlines()
    at = [n for n, line in enumerate(lines)
          if (json.loads(line)["phase"], json.loads(line)["kind"]) == (phase, kind)]
    with open(path, "w") as out:
        out.writelines(lines[:at[0] + 1])


def test_journal_that_lost_the_barrier(make_scene):
    """It says that the promotion may have been requested, and no more: where the last writes are, the
    WAL of pg1 knows."""
    scene = make_scene()
    with scene.proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        killed(scene, "promote.outcome")
        cut_journal(scene, "promote", "intent")
        scene.pg1.stop()
        result = scene.run("resume")
        assert result.returncode == FORWARD
        assert "it is not known whether" in result.stderr and "lacks" not in result.stderr
        assert scene.open_databases(scene.pg2) == {"p1"}
        scene.pg1.start()
        scene.pg1.sql("INSERT INTO items SELECT generate_series(1, 5000)", "p1")
        assert scene.run("abort").returncode == REFUSED
        result = scene.run("resume")
        assert result.returncode == DONE and "it is in the WAL of pg1" in result.stdout
        assert conn.value("SHOW cluster_name") == "pg2"
    assert scene.pg1.value("SELECT count(*) FROM pg_extension WHERE extname = 'pg_walinspect'") == 0
    scene.check_on_pg2()


def test_no_barrier_anywhere(make_scene):
    """Somebody else has promoted pg2 before there was one: that is not taken for ours."""
    scene = make_scene()
    killed(scene, "promote.intent")
    cut_journal(scene, "promote", "intent")
    path, = glob.glob(os.path.join(scene.folder, "moves", "*-p2"))
    moved = path + "x"  # the barrier that is in the WAL has another name
    os.rename(path, moved)
    scene.pg1.sql("SELECT pg_logical_emit_message(true, 'test', '')")  # a commit: what is before it is on disk
    written = scene.pg1.value("SELECT pg_current_wal_flush_lsn()")
    wait_for(lambda: scene.pg2.value("SELECT pg_last_wal_replay_lsn() >= '%s'" % written), what="the replay")
    scene.pg2.sql("SELECT pg_promote()")
    result = scene.run("resume")
    assert result.returncode == FORWARD
    assert "has none of this move" in result.stderr and "it is not known whether" in result.stderr
    assert scene.open_databases(scene.pg1) == {"p1"}
    os.rename(moved, path)
    assert scene.run("resume").returncode == DONE
    scene.check_on_pg2()


def test_barrier_is_on_disk_before_the_request(make_scene):
    """A power loss of the mover's machine right after the request leaves a journal that knows it."""
    scene = make_scene()
    trace = os.path.join(scene.folder, "trace")
    result = subprocess.run(["strace", "-f", "-s", "4096", "-e", "trace=write,fdatasync,sendto", "-o", trace,
                             *scene.argv("move", "p2", "--to", "pg2", "--yes")],
                            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=90 * SLOW,
                            # which cannot look for leaks in a process that is traced
                            env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
    assert result.returncode == DONE, result.stdout + result.stderr
    with open(trace) as text:
        calls = text.read()
    request = calls.index("SELECT pg_promote(false)")
    record = calls.index(r'\"kind\":\"outcome\",\"phase\":\"barrier\"')
    assert record < calls.index("fdatasync(", record) < request
    scene.check_on_pg2()


def test_another_move_is_refused_while_one_is_unfinished(make_scene):
    scene = make_scene()
    killed(scene, "fence.outcome")
    result = scene.run("move", "p2", "--to", "pg2")
    assert result.returncode not in (DONE, UNDONE), result.stdout + result.stderr
    assert scene.run("status").stdout
    assert scene.run("abort").returncode == DONE
    scene.check_on_pg1()


def test_mover_killed_in_the_hold_under_load(make_scene):
    """Before the fence the lease alone frees the clients, without an error."""
    scene = make_scene()
    scene.load()
    killed(scene, "hold.outcome", lease="3s")
    wait_for(lambda: scene.proxy.held()["state"] == "open", 20 * SLOW, "the end of the lease")
    time.sleep(0.5)
    account = scene.account("pg1")
    assert all(group["errors"] == 0 for group in account["groups"].values()), account
    assert scene.run("abort").returncode == DONE
    scene.check_on_pg1()


def test_mover_killed_after_the_promotion_under_load(make_scene):
    scene = make_scene()
    scene.load()
    killed(scene, "promote.outcome")
    time.sleep(1)
    assert scene.run("resume").returncode == DONE
    time.sleep(0.5)
    account = scene.account("pg2")
    assert all(group["errors"] == 0 for group in account["groups"].values()), account
