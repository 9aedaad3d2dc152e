# SPDX-License-Identifier: PostgreSQL
"""A mover that died between fence and promotion: the hold ends with its lease, the server is closed,
and clients wait until somebody has undone or completed the move; so it is if it could not undo it."""
import os
import signal
import time

import pytest

from pgwire import errors, query, rows, wait_for
from scene import DONE, FORWARD, UNDO_INCOMPLETE, UNDONE
from servers import SLOW
from test_27_sealed import heard


def fence(cluster, allow):
    cluster.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS %s" % allow)
    if allow == "false":
        cluster.sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                    "WHERE datname = 'p2'")


@pytest.fixture
def fenced(pg):
    yield lambda: fence(pg, "false")
    fence(pg, "true")


def lapse(proxy, fenced):
    proxy.hold(options="LEASE 1s")
    fenced()
    wait_for(lambda: proxy.held()["state"] == "open", 10 * SLOW, "the end of the lease")


def test_clients_wait_for_the_fence_to_be_lifted(make_proxy, pg, fenced):
    """Longer than they would wait for a server that is down; nobody sees an error, who was there
    and who comes meanwhile."""
    proxy = make_proxy(connect_timeout="500ms")
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        lapse(proxy, fenced)
        conn.send(query("SELECT 'went on'"))
        with proxy.wire("p2") as late:
            late.send(query("SELECT 'came late'"))
            time.sleep(2 * SLOW)
            assert conn.silent() and late.silent()
            fence(pg, "true")
            assert rows(conn.ready("I")) == [["went on"]]
            assert rows(late.ready("I")) == [["came late"]]


def test_sessions_of_a_hold_that_ends_before_a_fence(make_proxy, pg, other, fenced):
    """Sealed, and behind the fence: nobody takes the locks of another one, or speaks to those who listen,
    before they have them again, how long ever it stands."""
    proxy = make_proxy({"pg": pg, "other": other}, {"p2": "pg"}, pool_mode="session", pool_size=12)
    with proxy.wire("p2") as listener, proxy.wire("p2") as locker, proxy.wire("p2") as rival:
        listener.query("LISTEN news")
        locker.query("SELECT pg_advisory_lock(7), pg_advisory_lock(7), pg_advisory_lock_shared(8)")
        rival.query("SELECT 1")
        proxy.command("PREPARE SWAP p2 TO other SEAL")
        epoch = proxy.hold("p2", "LEASE 2s")["epoch"]
        assert len(proxy.command("SEAL p2 EPOCH " + epoch)) >= 3
        fenced()
        wait_for(lambda: proxy.held()["state"] == "open", 10 * SLOW, "the end of the lease")
        rival.send(query("SELECT pg_try_advisory_lock(7), pg_try_advisory_lock(8); NOTIFY news, 'first'"))
        with proxy.wire("p2") as late:
            late.send(query("SELECT pg_try_advisory_lock(7); NOTIFY news, 'first'"))
            time.sleep(3)
            assert rival.silent() and late.silent()
            fence(pg, "true")
            assert rows(rival.ready("I"))[0] == ["f", "f"]
            assert rows(late.ready("I"))[0] == ["f"]
        assert heard(listener, "first") == ["first"]
        assert [locker.value("SELECT pg_advisory_unlock(7)") for _ in "123"] == ["t", "t", "f"]
        assert locker.value("SELECT pg_advisory_unlock_shared(8)") == "t"


def test_the_wait_ends_with_a_reason(make_proxy, pg, fenced):
    """The connection lives, and the next request can succeed."""
    proxy = make_proxy(connect_timeout="500ms", query_wait_timeout="1500ms")
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        lapse(proxy, fenced)
        conn.send(query("SELECT 1"))
        error = errors(conn.ready("I"))[0]
        assert error["C"] == "57P03" and "not currently accepting connections" in error["M"]
        assert error["S"] == "ERROR" and error["H"]
        fence(pg, "true")
        wait_for(lambda: not errors(conn.query("SELECT 1")), 10 * SLOW, "the server")


def test_a_database_that_was_closed_otherwise(make_proxy, fenced):
    """Closed by somebody, or after a hold that was released: clients are told soon."""
    proxy = make_proxy(connect_timeout="500ms")
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        fenced()
        assert errors(conn.query("SELECT 1"))[0]["C"] == "55000"
        proxy.hold()
        proxy.command("RELEASE p2")
        assert errors(conn.query("SELECT 1"))[0]["C"] == "55000"


def lock_out(scene):
    """pg1 lets the mover in no more, and ends its sessions; what lets it in again."""
    path = os.path.join(scene.pg1.data, "pg_hba.conf")
    with open(path) as text:
        before = text.read()
    with scene.pg1.connect("p1", autocommit=True) as conn:
        with open(path, "w") as out:
            out.write("host postgres postgres 127.0.0.1/32 reject\n" + before)
        conn.execute("SELECT pg_reload_conf()")
        wait_for(lambda: scene.refuses(scene.pg1, "postgres"), 30 * SLOW, "the new pg_hba.conf")
        conn.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                     "WHERE application_name LIKE 'pgshunt%'")

    def let_in():
        with open(path, "w") as out:
            out.write(before)
        os.kill(scene.pg1.process.pid, signal.SIGHUP)
    return let_in


@pytest.mark.parametrize("record", ["fence.outcome", "terminate.outcome", "catch_up.intent"])
def test_fence_that_cannot_be_lifted(make_scene, record):
    """pg1 is away for longer than the mover tries to undo: it gives up, but lets no client into the
    fence, and its watch lifts it when pg1 is back."""
    scene = make_scene(mover={"lease": "5s"})
    mark = os.path.join(scene.folder, "waits")
    scene.load()
    with scene.proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        mover = scene.background("move", "p2", "--to", "pg2", fault="journal.%s=wait:%s" % (record, mark))
        wait_for(lambda: os.path.exists(mark), 60 * SLOW, record)
        let_in = lock_out(scene)
        if record == "catch_up.intent":  # nothing else is wrong with that one
            mover.send_signal(signal.SIGINT)
        os.unlink(mark)
        conn.send(query("SHOW cluster_name"))
        assert mover.wait(90 * SLOW) == UNDO_INCOMPLETE
        with open(os.path.join(scene.folder, "mover.log")) as log:
            text = log.read()
        assert "the clients were not released" in text and "watch.log" in text, text
        time.sleep(7)  # longer than the lease
        assert conn.silent() and scene.refuses(scene.pg1, "p2")
        let_in()
        assert rows(conn.ready("I")) == [["pg1"]]
    wait_for(lambda: "no move is unfinished" in scene.run("resume").stdout, 30 * SLOW, "the end of abort")
    account = scene.account("pg1")
    assert all(group["errors"] == 0 for group in account["groups"].values()), account
    scene.check_on_pg1()
    scene.move()
    scene.check_on_pg2()


# --- somebody is in the way --------------------------------------------------------------------

def said(scene):
    with open(os.path.join(scene.folder, "mover.log")) as log:
        return log.read()


def test_row_of_the_database_is_locked(make_scene):
    """By an ALTER DATABASE in a transaction that is open: it is undone soon, and says who it is."""
    scene = make_scene()
    with scene.pg1.connect("postgres", application_name="idler") as conn, scene.proxy.wire("p2") as client:
        conn.execute("ALTER DATABASE p2 CONNECTION LIMIT 100")
        client.value("SELECT 1")
        result = scene.run("move", "p2", "--to", "pg2")
        assert result.returncode == UNDONE, result.stderr
        assert "process %d (user postgres, application idler" % conn.info.backend_pid in result.stderr
        assert "ALTER DATABASE p2 CONNECTION LIMIT 100" in result.stderr
        assert client.value("SHOW cluster_name") == "pg1"
        conn.rollback()
    scene.check_on_pg1()
    scene.move()


@pytest.mark.parametrize("server, point", [("pg1", "hold.outcome"), ("pg2", "proof.outcome")])
def test_row_of_the_database_is_changed_meanwhile(make_scene, server, point):
    """An ALTER DATABASE that waited for another one fails when that is committed ("tuple concurrently
    updated"): it is made once more."""
    scene = make_scene(mover={"promote_timeout": "300s"})
    mark = os.path.join(scene.folder, "waits")
    waits = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'pgshunt%' AND wait_event_type = 'Lock'"
    with scene.proxy.wire("p2") as client:
        client.value("SELECT 1")
        mover = scene.background("move", "p2", "--to", "pg2", fault="journal.%s=wait:%s" % (point, mark))
        wait_for(lambda: os.path.exists(mark), 60 * SLOW, point)
        with getattr(scene, server).connect("postgres") as conn:
            conn.execute("SET TRANSACTION READ WRITE")
            conn.execute("ALTER DATABASE p2 CONNECTION LIMIT 100")
            os.unlink(mark)
            wait_for(lambda: getattr(scene, server).sql(waits), 20 * SLOW, "the mover's ALTER DATABASE")
        assert mover.wait(60 * SLOW) == DONE, said(scene)
        assert client.value("SHOW cluster_name") == "pg2"
    assert getattr(scene, server).value("SELECT datconnlimit FROM pg_database WHERE datname = 'p2'") == 100
    scene.check_on_pg2()


def test_row_is_locked_when_the_fence_is_to_be_lifted(make_scene):
    """The clients wait for that, too, and the operator is told for whom."""
    scene = make_scene(mover={"lease": "5s"})
    mark = os.path.join(scene.folder, "waits")
    with scene.pg1.connect("postgres", application_name="idler") as conn, scene.proxy.wire("p2") as client:
        client.value("SELECT 1")
        mover = scene.background("move", "p2", "--to", "pg2", fault="journal.fence.outcome=wait:" + mark)
        wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the fence")
        conn.execute("ALTER DATABASE p2 CONNECTION LIMIT 100")
        mover.send_signal(signal.SIGINT)
        os.unlink(mark)
        assert mover.wait(90 * SLOW) == UNDO_INCOMPLETE
        assert "who has the lock: process %d (user postgres, application idler" % conn.info.backend_pid in said(scene)
        client.send(query("SHOW cluster_name"))
        time.sleep(1)
        assert client.silent()
        conn.rollback()
        assert rows(client.ready("I")) == [["pg1"]]
    wait_for(lambda: "no move is unfinished" in scene.run("resume").stdout, 30 * SLOW, "the end of abort")
    scene.check_on_pg1()


@pytest.mark.parametrize("point", ["hold.outcome", "barrier.outcome"])
def test_shard_that_somebody_renames(make_scene, point):
    """Nobody is connected, so it can be done: no promotion without it, and the undo comes to its end."""
    scene = make_scene()
    mark = os.path.join(scene.folder, "stands")
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.%s=wait:%s" % (point, mark))
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, point)
    scene.pg1.sql("ALTER DATABASE p2 RENAME TO renamed")
    wait_for(lambda: scene.pg2.value("SELECT count(*) FROM pg_database WHERE datname = 'p2'") == 0, 20 * SLOW,
             "the replay")
    os.unlink(mark)
    assert mover.wait(90 * SLOW) == UNDONE, said(scene)
    assert "no move is unfinished" in scene.run("resume").stdout
    scene.pg1.sql("ALTER DATABASE renamed RENAME TO p2")
    if point == "barrier.outcome":
        assert "somebody has renamed or dropped a database of the shards on pg1" in said(scene)
        assert "pg1 has no database p2 any more; if somebody has renamed it, its fence still stands" in said(scene)
        scene.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS true")
    scene.pg1.sql("ALTER DATABASE p2 RESET default_transaction_read_only")
    scene.check_on_pg1()


def end_sealed(scene, dbname):
    """With a session in it a database is not renamed or dropped."""
    scene.pg1.sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '%s'" % dbname)


def test_shard_that_is_renamed_behind_the_last_look(make_scene):
    """And replayed before the promotion: no time is lost by waiting for it, and it is said what to do."""
    scene = make_scene(mover={"promote_timeout": "300s"})
    mark = os.path.join(scene.folder, "stands")
    with scene.proxy.wire("p2") as client:
        client.value("SELECT 1")
        mover = scene.background("move", "p2", "--to", "pg2", fault="journal.catch_up.outcome=wait:" + mark)
        wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the last look")
        end_sealed(scene, "p2")
        scene.pg1.sql("ALTER DATABASE p2 RENAME TO renamed")
        wait_for(lambda: scene.pg2.value("SELECT count(*) FROM pg_database WHERE datname = 'p2'") == 0, 20 * SLOW,
                 "the replay")
        os.unlink(mark)
        assert mover.wait(60 * SLOW) == FORWARD, said(scene)
        assert "pg2 has no database p2: somebody has renamed or dropped it on pg1" in said(scene)
        assert scene.open_databases(scene.pg2) == set()
        result = scene.run("resume")
        assert result.returncode == FORWARD and "pg2 has no database p2" in result.stderr
        scene.pg2.sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'renamed'")
        scene.pg2.sql("BEGIN READ WRITE; ALTER DATABASE renamed RENAME TO p2; COMMIT")
        assert scene.run("resume").returncode == DONE
        assert client.value("SHOW cluster_name") == "pg2"
    scene.check_on_pg2()


@pytest.mark.parametrize("renamed", [True, False])
def test_one_of_two_shards_is_gone_behind_the_last_look(make_scene, renamed):
    """The other one does not wait for it: it is moved, and its clients go on there."""
    scene = make_scene(mover={"promote_timeout": "300s"})
    mark = os.path.join(scene.folder, "stands")
    with scene.proxy.wire("p1") as waits, scene.proxy.wire("p2") as goes_on:
        waits.value("SELECT 1")
        mover = scene.background("move", "p1", "p2", "--to", "pg2", fault="journal.catch_up.outcome=wait:" + mark)
        wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the last look")
        end_sealed(scene, "p1")
        scene.pg1.sql("ALTER DATABASE p1 RENAME TO renamed" if renamed else "DROP DATABASE p1")
        wait_for(lambda: scene.pg2.value("SELECT count(*) FROM pg_database WHERE datname = 'p1'") == 0, 20 * SLOW,
                 "the replay")
        waits.send(query("SHOW cluster_name"))
        os.unlink(mark)
        assert goes_on.value("SHOW cluster_name") == "pg2"
        assert mover.wait(60 * SLOW) == FORWARD, said(scene)
        assert "pg2 has no database p1: somebody has renamed or dropped it on pg1" in said(scene)
        assert scene.open_databases(scene.pg2) == {"p2"} and scene.open_databases(scene.pg1) == set()
        result = scene.run("resume")
        assert result.returncode == FORWARD and "pg2 has no database p1" in result.stderr
        assert goes_on.value("SHOW cluster_name") == "pg2" and waits.silent()
        if renamed:
            scene.pg2.sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'renamed'")
            scene.pg2.sql("BEGIN READ WRITE; ALTER DATABASE renamed RENAME TO p1; COMMIT")
        else:
            scene.pg2.sql("CREATE DATABASE p1")
        assert scene.run("resume").returncode == DONE
        assert rows(waits.ready("I")) == [["pg2"]]
    assert scene.open_databases(scene.pg2) == {"p1", "p2"}
    assert scene.left_over(scene.pg2) == []


def test_a_lock_on_the_other_one_when_a_shard_is_gone(make_scene):
    """Each is waited for, or not, for itself: what is gone is named once, and the other one opened late."""
    scene = make_scene(mover={"promote_timeout": "300s"})
    gone, promoted = (os.path.join(scene.folder, name) for name in ("gone", "promoted"))
    mover = scene.background("move", "p1", "p2", "--to", "pg2", fault="journal.catch_up.outcome=wait:%s,"
                             "journal.promote.outcome=wait:%s" % (gone, promoted))
    wait_for(lambda: os.path.exists(gone), 60 * SLOW, "the last look")
    scene.pg1.sql("ALTER DATABASE p1 RENAME TO renamed")
    wait_for(lambda: scene.pg2.value("SELECT count(*) FROM pg_database WHERE datname = 'p1'") == 0, 20 * SLOW,
             "the replay")
    os.unlink(gone)
    wait_for(lambda: os.path.exists(promoted), 60 * SLOW, "the promotion")
    with scene.pg2.connect("postgres", options="-c default_transaction_read_only=off") as conn:
        conn.execute("ALTER DATABASE p2 CONNECTION LIMIT 50")
        os.unlink(promoted)
        with scene.pg2.connect("postgres", autocommit=True) as look:
            waiting = set()

            def tried_twice():
                waiting.update(look.execute("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
                return len(waiting) > 1
            wait_for(tried_twice, 60 * SLOW, "another attempt")
        conn.rollback()
    assert mover.wait(90 * SLOW) == FORWARD, said(scene)
    assert "opened 1, others_fenced 0" in said(scene)
    assert said(scene).count("pgshunt: open shards: pg2 has no database p1") == 1, said(scene)
    scene.check_writes(scene.proxy, "p2", "pg2")
    scene.pg2.sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'renamed'")
    scene.pg2.sql("BEGIN READ WRITE; ALTER DATABASE renamed RENAME TO p1; COMMIT")
    assert scene.run("resume").returncode == DONE
    assert scene.open_databases(scene.pg2) == {"p1", "p2"}


def test_sessions_that_take_long_to_end(make_scene):
    """A machine under load ends one after the other: as long as it does, that is no reason to give up."""
    scene = make_scene(mover={"lease": "10s"})
    conns = [scene.pg1.connect("p2") for _ in range(9)]
    pids = [conn.info.backend_pid for conn in conns]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        mover = scene.background("move", "p2", "--to", "pg2")
        wait_for(lambda: not scene.pg1.value("SELECT datallowconn FROM pg_database WHERE datname = 'p2'"),
                 60 * SLOW, "the fence")
        while pids:
            time.sleep(1)
            os.kill(pids.pop(), signal.SIGCONT)
        assert mover.wait(60 * SLOW) == DONE, said(scene)
        assert "9 sessions ended on pg1" in said(scene)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        for conn in conns:
            conn.close()
    scene.check_on_pg2()


def test_lock_on_the_database_from_elsewhere(make_scene):
    """A session in another database cannot be ended with those in the shard; it is named."""
    scene = make_scene()
    with scene.pg1.connect("postgres", application_name="commenter") as conn:
        conn.execute("COMMENT ON DATABASE p2 IS 'x'")
        result = scene.run("move", "p2", "--to", "pg2")
        assert result.returncode == UNDONE, result.stderr
        assert ("1 sessions did not end: process %d (user postgres, application commenter, database postgres"
                % conn.info.backend_pid) in result.stderr
        assert "COMMENT ON DATABASE p2 IS 'x'" in result.stderr
        conn.rollback()
    scene.check_on_pg1()
