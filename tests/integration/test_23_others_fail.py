# SPDX-License-Identifier: PostgreSQL
"""Proxies, servers, disks and other people fail, die or interfere in the middle of a move."""
import contextlib
import os
import signal
import subprocess
import threading
import time

import psycopg
import pytest

from pgwire import errors, wait_for
from scene import DONE, ERROR, FORWARD, REFUSED, UNDONE, UNDO_INCOMPLETE
from servers import SLOW, stopped
from test_23_move_faults import killed
from test_74_watch import last, said


# --- proxies ------------------------------------------------------------------------------------

@pytest.mark.parametrize("record, code", [("hold.intent", UNDONE), ("hold.outcome", UNDONE),
                                          ("fence.outcome", FORWARD), ("catch_up.outcome", FORWARD)])
def test_proxy_dies_in_the_hold(make_scene, record, code):
    """Until the mover asks that its hold last, the move is undone: nobody is held there, or until the
    lease ends. When it has confirmed that, its death is no reason to stop."""
    scene = make_scene(proxies=2, mover={"lease": "10s"})
    mark = os.path.join(scene.folder, "waits")
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.%s=wait:%s" % (record, mark))
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, record)
    if record == "fence.outcome":  # it is asked in that phase
        wait_for(lambda: scene.proxies[1].held()["lease_left_ms"] is None, 10 * SLOW, "the hold to last")
    scene.proxies[1].kill()
    os.unlink(mark)
    ended = mover.wait(90 * SLOW)
    with open(os.path.join(scene.folder, "mover.log")) as log:
        assert ended == code, log.read()
    scene.proxies[1].start()
    if code == FORWARD:
        assert scene.run("resume").returncode == DONE
        scene.check_on_pg2()
        return
    scene.check_on_pg1()


def test_proxy_dies_as_its_hold_begins_to_last(make_scene):
    """It has written that down, perhaps, and not said so: the move is undone when it is back."""
    scene = make_scene(proxies=2)
    mark = os.path.join(scene.folder, "waits")
    writes = os.path.join(scene.folder, "writes")
    held = threading.Event()

    def let_write():
        while not held.is_set():
            if os.path.exists(writes):
                os.unlink(writes)
            time.sleep(0.01)
    thread = threading.Thread(target=let_write)
    thread.start()
    scene.proxies[1].kill()
    scene.proxies[1].start(fault="state_write=wait:" + writes)
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.hold.outcome=wait:" + mark)
    try:
        wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the hold")
    finally:
        held.set()
        thread.join()
    os.unlink(mark)
    wait_for(lambda: os.path.exists(writes), 10 * SLOW, "the write of LEASE NONE")
    scene.proxies[1].kill()
    os.unlink(writes)
    assert mover.wait(90 * SLOW) == UNDO_INCOMPLETE
    scene.proxies[1].start()
    assert scene.run("abort").returncode == DONE
    scene.check_on_pg1()


def test_proxy_and_target_die_after_the_promotion(make_scene):
    """The proxy comes back held, the target perhaps with closed shards; the move is completed."""
    scene = make_scene(proxies=2)
    mark = os.path.join(scene.folder, "waits")
    mover = scene.background("move", "p2", "--to", "pg2",
                             fault="journal.open.outcome=wait:" + mark)
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the promotion")
    scene.proxies[1].kill()
    scene.pg2.crash()
    os.unlink(mark)
    time.sleep(0.5)
    scene.proxies[1].start()
    assert scene.proxies[1].held()["state"] == "held"
    scene.pg2.start()
    code = mover.wait(90 * SLOW)
    with open(os.path.join(scene.folder, "mover.log")) as log:
        text = log.read()
    assert code == DONE, text
    assert "the shards are opened once more" in text
    scene.check_on_pg2()


def test_proxy_stays_away_after_the_promotion(make_scene):
    """The others go on; it is told when it is back."""
    scene = make_scene(proxies=2)
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.open.outcome=sleep:1000")
    wait_for(lambda: scene.pg2.value("SELECT pg_is_in_recovery()") is False, 30 * SLOW,
             "the promotion")
    scene.proxies[1].kill()
    code = mover.wait(120 * SLOW)
    assert code == FORWARD
    with scene.proxy.wire("p2") as conn:
        assert conn.value("SHOW cluster_name") == "pg2"
    scene.proxies[1].start()
    assert scene.run("resume").returncode == DONE
    scene.check_on_pg2()


def test_proxy_whose_configuration_has_lost_the_database(make_scene):
    """Somebody has taken it out in the middle: it is said what is to be done, and resume does the rest."""
    scene = make_scene()
    mark = os.path.join(scene.folder, "stands")
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.promote.outcome=wait:" + mark)
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the promotion")
    entry = scene.proxy.databases.pop("p2")
    scene.proxy.write()
    with scene.proxy.console() as console:
        console("RELOAD")
    scene.proxy.databases["p2"] = entry
    scene.proxy.write()
    os.unlink(mark)
    assert mover.wait(90 * SLOW) == FORWARD
    with open(os.path.join(scene.folder, "mover.log")) as log:
        assert "its configuration has no such database, put it back and RELOAD" in log.read()
    with scene.proxy.console() as console:
        console("RELOAD")
    assert scene.run("resume").returncode == DONE
    scene.check_on_pg2()


@pytest.mark.parametrize("story", ["renamed", "dropped", "standby", "stranger"])
def test_resume_when_the_source_has_changed(make_scene, story):
    """A proxy stayed away, and until it is told, pg1 is something else: the fence that cannot be set
    once more is in nobody's way."""
    scene = make_scene(proxies=2)
    mark = os.path.join(scene.folder, "waits")
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.open.outcome=wait:" + mark)
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the promotion")
    scene.proxies[1].kill()
    os.unlink(mark)
    assert mover.wait(120 * SLOW) == FORWARD
    scene.proxies[1].start()
    if story == "renamed":
        scene.pg1.sql("ALTER DATABASE p2 RENAME TO p2_old")
    elif story == "dropped":
        scene.pg1.sql("DROP DATABASE p2")
    elif story == "standby":
        scene.pg1.stop()
        scene.pg1 = scene.make_cluster.standby(scene.pg2, "pg1b", slot="back")
        scene.proxy.servers["pg1"]["port"] = scene.pg1.port
    else:
        scene.pg1.stop()
        scene.pg1 = scene.make_cluster("pg1c")
        scene.pg1.sql("CREATE DATABASE p2")
        scene.proxy.servers["pg1"]["port"] = scene.pg1.port
    scene.proxy.write()
    result = scene.run("resume")
    assert result.returncode == DONE
    for proxy in scene.proxies:
        assert proxy.held()["state"] == "open" and proxy.route()["server"] == "pg2"
        scene.check_writes(proxy, "p2", "pg2")
    if story == "stranger":
        assert "another database system" in result.stdout and not scene.refuses(scene.pg1, "p2")
    if story == "standby":
        assert "is a standby by now" in result.stdout
        assert scene.run("validate").returncode == DONE


# --- servers ------------------------------------------------------------------------------------

def test_target_dies_in_the_hold(make_scene):
    scene = make_scene()
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.hold.outcome=sleep:1000")
    wait_for(lambda: scene.proxy.held()["state"] == "held", 30 * SLOW, "the hold")
    scene.pg2.crash()
    assert mover.wait(90 * SLOW) == UNDONE
    with open(os.path.join(scene.folder, "mover.log")) as log:
        text = log.read()
    assert "pg2 has to be reached once more" in text and "everything is as it was" not in text, text
    scene.configure(journal_directory=os.path.join(scene.folder, "others"))  # nothing for its watch
    scene.pg2.start()
    # What the move had set on a server that was not there any more, the next one takes back.
    assert scene.left_over(scene.pg2) == [("default_transaction_read_only",), ("p2",)]
    assert "left over by a move" in scene.run("check", "p2", "--to", "pg2").stdout
    scene.move()
    scene.check_on_pg2()


@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_target_is_away_when_the_move_is_undone(make_scene, how):
    """What the move had set there its watch takes back as soon as it answers."""
    scene = make_scene(mover={"connect_timeout": "1s", "catch_up_timeout": "1s"})
    mark = os.path.join(scene.folder, "waits")
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.hold.outcome=wait:" + mark)
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the hold")
    (scene.pg2.crash if how == "dies" else scene.pg2.freeze)()
    try:
        os.unlink(mark)
        assert mover.wait(90 * SLOW) == UNDONE
    finally:
        (scene.pg2.start if how == "dies" else scene.pg2.thaw)()
    wait_for(lambda: "the move is undone\n" in said(scene), 60 * SLOW, "the watch")
    scene.check_on_pg1()
    # Nothing is left to be done; what somebody sets there by now is his.
    scene.pg2.sql("ALTER SYSTEM SET default_transaction_read_only = off")
    assert scene.run("abort", last(scene)).returncode == DONE
    assert "default_transaction_read_only" in open(scene.pg2.data + "/postgresql.auto.conf").read()
    scene.move()
    scene.check_writes(scene.proxy, "p2", "pg2")


@pytest.mark.parametrize("most", [24, 60])
def test_room_on_the_target_for_many_shards(make_scene, most):
    """A proxy needs one session there for all of them; the mover's sessions in the shards take none from those
    who come after the release."""
    scene = make_scene()
    names = ["s%d" % n for n in range(30)]
    for cluster in (scene.pg2, scene.pg1):
        cluster.stop()
        cluster.settings["max_connections"] = most
    for cluster in (scene.pg1, scene.pg2):
        if cluster is scene.pg2:  # what it has replayed of the old one counts until then
            cluster.settings["max_connections"] = 150
        cluster.start()
    for name in names:
        scene.pg1.sql("CREATE DATABASE %s STRATEGY file_copy" % name)
        scene.proxy.databases[name] = {"server": "pg1"}
    scene.proxy.write()
    with scene.proxy.console() as console:
        console("RELOAD")
    wait_for(lambda: scene.pg2.value("SELECT count(*) FROM pg_database WHERE datname LIKE 's%'") == len(names),
             60 * SLOW, "the replay")
    scene.pg2.stop()
    scene.pg2.settings["max_connections"] = most
    scene.pg2.start()
    mark = os.path.join(scene.folder, "waits")
    mover = scene.background("move", *names, "--to", "pg2", fault="journal.release.outcome=wait:" + mark)
    wait_for(lambda: os.path.exists(mark) or mover.poll() is not None, 90 * SLOW, "the release")
    with open(os.path.join(scene.folder, "mover.log")) as log:
        assert mover.poll() is None, log.read()
    conns = [scene.pg2.connect(name, "app") for name in names[:6]]
    os.unlink(mark)
    ended = mover.wait(90 * SLOW)
    with open(os.path.join(scene.folder, "mover.log")) as log:
        text = log.read()
    assert ended == DONE, text
    assert "of 30 shards are looked at once more in the hold" in text
    for conn in conns:
        conn.close()


def test_target_without_room(make_scene):
    """Where others have filled it since the checks, that is said."""
    scene = make_scene()
    mark = os.path.join(scene.folder, "waits")
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.prepare.intent=wait:" + mark)
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the preparation")
    with contextlib.ExitStack() as stack:
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            while True:
                stack.enter_context(scene.pg2.connect())
        os.unlink(mark)
        ended = mover.wait(90 * SLOW)
    with open(os.path.join(scene.folder, "mover.log")) as log:
        text = log.read()
    assert ended == UNDONE and "pg2 has no room for more sessions" in text, text
    scene.check_on_pg1()


def test_target_dies_after_its_promotion(make_scene):
    """Nobody writes anywhere until it is back; pg1 stays fenced."""
    scene = make_scene(mover={"promote_timeout": "4s"})
    mover = scene.background("move", "p2", "--to", "pg2",
                             fault="journal.promote.outcome=sleep:1000")
    wait_for(lambda: scene.pg2.value("SELECT pg_is_in_recovery()") is False, 30 * SLOW,
             "the promotion")
    scene.pg2.crash()
    code = mover.wait(120 * SLOW)
    assert code == FORWARD
    assert scene.refuses(scene.pg1, "p2")
    scene.pg2.start()
    assert scene.run("resume").returncode == DONE
    scene.check_on_pg2()


def test_target_ends_the_session_of_the_mover_at_its_end(make_scene):
    """What it has set there is taken back by another one."""
    scene = make_scene()
    mark = os.path.join(scene.folder, "waits")
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.validate.outcome=wait:" + mark)
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the last look")
    with scene.pg2.connect("postgres", options="-c default_transaction_read_only=off") as conn, \
            scene.pg2.connect("postgres", autocommit=True) as look:
        conn.execute("ALTER DATABASE p2 SET work_mem = '5MB'")
        os.unlink(mark)
        waits = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pgshunt%' AND wait_event_type = 'Lock'"
        wait_for(lambda: look.execute(waits).fetchall(), 20 * SLOW, "the mover's ALTER DATABASE")
        look.execute("SELECT pg_terminate_backend(pid) FROM (%s) w" % waits)
        conn.rollback()
    assert mover.wait(60 * SLOW) == DONE
    scene.check_on_pg2()


def test_target_cannot_be_asked(make_scene):
    """Whether it was promoted only it can say: pg1 stays fenced and the clients held, whatever is
    tried; their requests fail in time, with an error that keeps the connection."""
    scene = make_scene(mover={"promote_timeout": "4s"}, proxy={"hold_wait_timeout": "1s"})
    with scene.proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        killed(scene, "promote.outcome")
        scene.pg2.crash()
        for command in ("resume", "abort"):
            result = scene.run(command)
            assert result.returncode == FORWARD, result.stdout + result.stderr
            assert "cannot be reached" in result.stderr
            assert scene.refuses(scene.pg1, "p2")
            row = scene.proxy.held()
            assert row["state"] == "held" and row["lease_left_ms"] is None
        failed = errors(conn.query("SELECT 1"))
        assert failed[0]["C"] == "57P03" and failed[0]["S"] == "ERROR"
        scene.pg2.start()
        assert scene.run("resume").returncode == DONE
        assert conn.value("SHOW cluster_name") == "pg2"
    scene.check_on_pg2()


@pytest.mark.parametrize("point, code", [("barrier.outcome", UNDONE), ("promote.outcome", FORWARD)])
def test_fence_that_somebody_lifts(make_scene, point, code):
    """Noticed at once; after the promotion resume closes it again."""
    scene = make_scene()
    mark = os.path.join(scene.folder, "waits")
    mover = scene.background("move", "p2", "--to", "pg2",
                             fault="journal.%s=wait:%s" % (point, mark))
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, point)
    scene.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS true")
    if code == UNDONE:  # it is looked for on the target
        wait_for(lambda: scene.pg2.value("SELECT datallowconn FROM pg_database "
                                         "WHERE datname = 'p2'"), 30 * SLOW, "its replay")
    os.unlink(mark)
    assert mover.wait(60 * SLOW) == code
    with open(os.path.join(scene.folder, "mover.log")) as log:
        assert "somebody lifted the fence" in log.read()
    if code == FORWARD:
        assert scene.run("resume").returncode == DONE
        scene.check_on_pg2()
    else:
        scene.check_on_pg1()


def test_the_source_hangs_before_the_hold(make_scene):
    """It is connected, but answers nothing: nobody has been held, and the move soon says so."""
    scene = make_scene(mover={"connect_timeout": "1s"})
    mark = os.path.join(scene.folder, "waits")
    mover = scene.background("move", "p2", "--to", "pg2",
                             fault="journal.prepare.intent=wait:" + mark)
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "prepare")
    scene.pg1.freeze()
    try:
        os.unlink(mark)
        assert mover.wait(60 * SLOW) == UNDONE
    finally:
        scene.pg1.thaw()
    with open(os.path.join(scene.folder, "mover.log")) as log:
        text = log.read()
    assert "pg1: no answer in time" in text and "hold clients" not in text, text
    scene.check_on_pg1()


def test_the_target_follows_no_more_before_the_hold(make_scene):
    """It has stopped replaying when all else is prepared: nobody is held for it."""
    scene = make_scene(mover={"catch_up_timeout": "1s"},
                       proxy={"swap_warm_query": "SELECT pg_sleep(%d)" % (2 * SLOW)})
    startup = scene.pg2.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'")
    client = scene.proxy.wire("p2")
    client.query("SELECT 1")
    mover = scene.background("move", "p2", "--to", "pg2")
    wait_for(lambda: scene.pg2.sql("SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(%'"),
             60 * SLOW, "prepare")
    with stopped(startup):
        scene.pg1.sql("INSERT INTO items VALUES (40, 'x')", "p2")
        assert mover.wait(60 * SLOW) == UNDONE
    with open(os.path.join(scene.folder, "mover.log")) as log:
        text = log.read()
    assert "pg2 does not follow pg1" in text and "hold clients" not in text, text
    scene.check_on_pg1()


@pytest.mark.parametrize("story", ["lost", "dropped", "away"])
def test_the_stream_ends_before_the_hold(make_scene, story):
    """max_slot_wal_keep_size and a moment without a receiver, a slot that somebody has dropped, or a
    receiver that cannot connect: pg2 will not catch up.  It is said why, and nobody waits for it until
    catch_up_timeout."""
    scene = make_scene(mover={"catch_up_timeout": "60s"})
    scene.pg1.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    scene.pg1.sql("SELECT pg_reload_conf()")
    mark = os.path.join(scene.folder, "waits")
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.prepare.outcome=wait:" + mark)
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "prepare")
    with scene.pg2.connect(autocommit=True) as conn:
        conn.execute("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'")
        conn.execute("SELECT pg_reload_conf()")
    wait_for(lambda: not scene.pg1.sql("SELECT 1 FROM pg_stat_replication"), 20 * SLOW, "the receiver's end")
    if story == "dropped":
        scene.pg1.sql("SELECT pg_drop_replication_slot('standby1')")
    elif story == "lost":
        for _ in range(4):
            scene.pg1.sql("SELECT pg_logical_emit_message(false, 'fill', 'x'); SELECT pg_switch_wal()")
        scene.pg1.sql("CHECKPOINT")
        assert scene.pg1.value("SELECT wal_status FROM pg_replication_slots") == "lost"
    os.unlink(mark)
    assert mover.wait(90 * SLOW) == UNDONE
    with open(os.path.join(scene.folder, "mover.log")) as log:
        text = log.read()
    assert "pg2 streams no more" in text, text
    assert {"lost": "its slot standby1 has lost its WAL on pg1", "dropped": "its slot standby1 is not there "
            "any more on pg1", "away": "has not begun again"}[story] in text, text
    assert scene.left_over(scene.pg1) == []
    scene.check_writes(scene.proxy, "p2", "pg1")


def test_a_receiver_that_starts_again_is_waited_for(make_scene):
    """The connection of the replication ends just when pg2 is to catch up: that is no reason to stop."""
    scene = make_scene()
    fenced, marked = (os.path.join(scene.folder, name) for name in ("fenced", "marked"))
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.fence.outcome=wait:%s,"
                             "journal.barrier.outcome=wait:%s" % (fenced, marked))
    wait_for(lambda: os.path.exists(fenced), 60 * SLOW, "the fence")
    with scene.pg2.connect(autocommit=True) as conn:
        with stopped(conn.execute("SELECT pid FROM pg_stat_wal_receiver").fetchone()[0]):
            os.unlink(fenced)
            wait_for(lambda: os.path.exists(marked), 20 * SLOW, "the barrier")
            conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_wal_receiver")
        os.unlink(marked)
    assert mover.wait(60 * SLOW) == DONE
    scene.check_on_pg2()


@pytest.mark.parametrize("most, code", [(0, ERROR), (2000, UNDONE)])
def test_journal_that_may_not_grow(make_scene, most, code):
    """A limit for files is an error like a full disk, not the end of the mover by a signal."""
    scene = make_scene()
    result = subprocess.run(["prlimit", "--fsize=%d" % most, *scene.argv("move", "p2", "--to", "pg2")],
                            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=90 * SLOW)
    assert result.returncode == code, result.stdout + result.stderr
    assert "journal" in result.stderr
    scene.check_on_pg1()


@pytest.mark.parametrize("command, point", [("abort", "fence.outcome"), ("resume", "promote.outcome")])
def test_unfinished_move_whose_journal_cannot_grow(make_scene, command, point):
    """Clients do not wait until somebody has made room: what is to be done was written down before."""
    scene = make_scene()
    killed(scene, point)
    result = scene.run(command, fault="journal.%s.intent=fail" % command)
    assert result.returncode == DONE and "the journal could not be written" in result.stderr
    (scene.check_on_pg1 if command == "abort" else scene.check_on_pg2)()


# --- databases that are open on both ------------------------------------------------------------

def test_promoted_by_somebody_else(make_scene):
    """Before the fence came there: everything is there twice, and that is what the operator is told."""
    scene = make_scene()
    mark = os.path.join(scene.folder, "waits")
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.hold.outcome=wait:" + mark)
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the hold")
    scene.pg2.sql("SELECT pg_promote()")
    os.unlink(mark)
    assert mover.wait(60 * SLOW) == UNDONE
    with open(os.path.join(scene.folder, "mover.log")) as log:
        text = log.read()
    assert "open for writing on both are p1, p2" in text and "everything is as it was" not in text, text
    assert "on pg1 as before, but pg2 is no standby any more" in text
    scene.check_writes(scene.proxy, "p2", "pg1")
    assert "database p2 is open for writing on pg1 and on pg2" in scene.run("status").stdout


def test_database_that_was_made_while_a_killed_move_ran(make_scene):
    """Its copy on pg2 is closed by resume, as by a move that goes through; what was made on pg2 alone, or
    is on both of them by chance, is not. Then status finds what somebody opens again."""
    scene = make_scene()
    scene.configure(lease="60s")
    mark = os.path.join(scene.folder, "waits")
    mover = scene.background("move", "p2", "--to", "pg2",
                             fault="journal.prepare.intent=wait:%s,journal.promote.outcome=kill" % mark)
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "prepare")
    scene.pg1.sql("CREATE DATABASE p7")
    wait_for(lambda: scene.pg2.sql("SELECT 1 FROM pg_database WHERE datname = 'p7'"), 30 * SLOW, "its copy")
    os.unlink(mark)
    assert mover.wait(60 * SLOW) == -signal.SIGKILL
    with scene.pg2.connect(autocommit=True) as conn:
        conn.execute("SET default_transaction_read_only = off")  # the move lasts
        conn.execute("CREATE DATABASE p8")
        conn.execute("CREATE DATABASE p9")
    scene.pg1.sql("CREATE DATABASE p9")
    assert scene.run("resume").returncode == DONE
    assert scene.open_databases(scene.pg2) == {"p2", "p8", "p9"}
    assert scene.run("status").returncode == DONE
    scene.pg2.sql("ALTER DATABASE p7 ALLOW_CONNECTIONS true")
    result = scene.run("status")
    assert result.returncode == REFUSED
    assert "database p7 is open for writing on pg1 and on pg2" in result.stdout and "p9 is open" not in result.stdout
