# SPDX-License-Identifier: PostgreSQL
"""SEAL: in a hold the proxy puts its idle server connections out of use; their server processes need
not end before the barrier, but must not do anything."""
import ctypes
import glob
import json
import os
import struct
import threading

import psycopg
import pytest

from certs import Authority, give_to_server
from proxy import ConsoleError
from pgwire import query, rows, wait_for
from scene import DONE, FORWARD, UNDONE
from servers import SLOW, stopped

PIDFD_OPEN, PIDFD_GETFD = 434, 438


def evidence(scene, phase):
    """What the journal says at the end of a phase."""
    path, = glob.glob(os.path.join(scene.folder, "moves", "*", "journal.jsonl"))
    with open(path) as lines:
        records = [json.loads(line) for line in lines]
    return [record for record in records
            if record["phase"] == phase and record["kind"] == "outcome"][-1]["data"]


def pids(cluster):
    return {row[0] for row in cluster.sql("SELECT pid FROM pg_stat_activity WHERE datname = 'p2'")}


def await_closed(scene, sealed):
    wait_for(lambda: not pids(scene.pg1) & sealed, 10 * SLOW, "the end of the sealed ones")
    assert not scene.proxy.command("SHOW SEALED")


def use_three(proxy, **params):
    """Three clients at once, so that all connections of a pool of three are there."""
    clients = [proxy.wire("p2", **params) for _ in range(3)]
    for client in clients:
        client.query("BEGIN")
    for client in clients:
        client.query("COMMIT")
    return clients


@pytest.mark.parametrize("tls", [False, True])
def test_sealed_servers_are_not_waited_for(make_scene, folder, tls):
    """… and the server sees their connections closed as they should be."""
    scene = make_scene(proxy={"pool_size": 3, **({"server_tls_sslmode": "require"} if tls else {})})
    if tls:
        ca = Authority(folder, "sealed-ca")
        for cluster in (scene.pg1, scene.pg2):
            give_to_server(cluster, *ca.issue("server", "/CN=localhost", "IP:127.0.0.1"), ca.cert)
    clients = use_three(scene.proxy)
    sealed = pids(scene.pg1)
    scene.move()
    seen = evidence(scene, "terminate")
    assert seen["sealed"] == 3 and seen["terminated"] == 0, seen
    assert evidence(scene, "catch_up")["sealed_idle"] == 3
    assert evidence(scene, "proof")["sealed_idle"] == 3
    for client in clients:
        assert client.value("SHOW cluster_name") == "pg2"
    await_closed(scene, sealed)
    scene.check_on_pg2()
    with open(scene.pg1.log) as log:
        text = log.read()
    assert "SSL error" not in text and "unexpected EOF" not in text


def test_others_are_ended(make_scene):
    """Who is not a proxy's, or is not idle, is ended as ever."""
    scene = make_scene(proxy={"pool_size": 3})
    clients = use_three(scene.proxy)
    with scene.pg1.connect("p2", "app", autocommit=True) as idle, \
            scene.pg1.connect("p2", "app") as writing:
        idle.execute("SELECT 1")
        writing.execute("INSERT INTO items VALUES (1, 'never')")
        scene.move()
        for conn in (idle, writing):
            with pytest.raises(psycopg.OperationalError):
                conn.execute("SELECT 1")
    seen = evidence(scene, "terminate")
    assert (seen["sealed"], seen["terminated"]) == (3, 2)
    assert clients[0].value("SELECT count(*) FROM items") == "0"
    scene.check_on_pg2()


STATES = {
    "clean": "SELECT 1",
    "set": "SET work_mem = '7MB'",
    "locked": "SELECT pg_advisory_lock(42)",
    "listening": "LISTEN news",
    "temporary": "CREATE TEMP TABLE mine AS SELECT 7 AS seven",
    "both": "LISTEN news; CREATE TEMP TABLE mine (n) ON COMMIT PRESERVE ROWS AS SELECT 8; "
            "SET default_transaction_read_only = on",
    "sequences": "CREATE TEMP SEQUENCE steps START 5; CREATE TEMP TABLE mine (n serial, s text); "
                 "CREATE TEMP TABLE yours (n int); INSERT INTO mine (s) VALUES ('a'), ('b')",
}
TABLES = ("temporary", "both", "sequences")
TEMPORARY = "SELECT count(*) FROM pg_class WHERE relpersistence = 't' OR relnamespace IN " \
            "(SELECT oid FROM pg_namespace WHERE nspname LIKE 'pg\\_temp\\_%%' AND oid <> pg_my_temp_schema())"


def make_sessions(make_scene, proxies=1, **proxy):
    """The scene, and a client with each state, by name."""
    scene = make_scene(proxies=proxies, proxy={"pool_mode": "session", "pool_size": 20,
                                               "session_leave_after": 0, **proxy})
    clients = {name: scene.proxy.wire("p2", application_name=name) for name in STATES}
    for name, state in STATES.items():
        clients[name].query(state)
    return scene, clients


def await_refusal(proxy):
    """It has learned that the server is closed, as by a fence."""
    wait_for(lambda: "not currently accepting connections" in proxy.log(), 10 * SLOW, "a refusal")


def heard(client, last):
    """The payloads of its notifications up to the last one."""
    payloads = []
    while not payloads or payloads[-1] != last:
        payloads.append(client.until("A")[-1].body[4:].split(b"\0")[1].decode())
    return payloads


def check_sessions(scene, clients, server, left=False):
    """Each has what it had; nothing is left of where it was (`left`: or PostgreSQL has yet to drop it)."""
    for client in clients.values():
        assert client.value("SHOW cluster_name") == server
    assert clients["set"].value("SHOW work_mem") == "7MB"
    assert clients["temporary"].value("SELECT seven FROM mine") == "7"
    assert clients["both"].value("SELECT n FROM mine") == "8"
    assert clients["sequences"].value("SELECT string_agg(n || s, ',') FROM mine") == "1a,2b"
    assert clients["sequences"].value("INSERT INTO mine VALUES (DEFAULT, 'c') RETURNING n") == "3"
    assert clients["sequences"].value("SELECT nextval('steps')") == "5"
    assert clients["sequences"].value("SELECT count(*) FROM yours") == "0"
    assert [clients["locked"].value("SELECT pg_advisory_unlock(42)") for _ in "12"] == ["t", "f"]
    clients["clean"].query("NOTIFY news, 'of %s'" % server)
    for name in ("listening", "both"):
        assert heard(clients[name], "of " + server) == ["of " + server]
    for name in TABLES:
        clients[name].query("DISCARD TEMP")
    assert left or clients["clean"].value(TEMPORARY) == "0"


def test_sessions(make_scene):
    """Sealed are the old servers of sessions, whatever they have."""
    scene, clients = make_sessions(make_scene)
    scene.move()
    seen = evidence(scene, "terminate")
    assert (seen["sealed"], seen["terminated"]) == (len(STATES), 0), seen
    assert evidence(scene, "proof")["sealed_idle"] == len(STATES)
    check_sessions(scene, clients, "pg2")
    wait_for(lambda: not pids(scene.pg1), 10 * SLOW, "the end of the sealed ones")
    assert not scene.proxy.command("SHOW SEALED")
    scene.check_on_pg2()


MINE = "SELECT oid, relnamespace::regnamespace::text FROM pg_class WHERE relpersistence = 't' " \
       "AND relkind IN ('r', 'S')"


def test_what_is_left_of_temporary_tables(make_scene):
    """Those of the old servers are on pg2, too, when it is promoted; what sessions have made again,
    some of it under the same names in schemas of the same name, stays when the others are dropped.  The
    comparison does not take them for a difference."""
    scene = make_scene(proxy={"pool_mode": "session", "pool_size": 20, "session_leave_after": 0})

    def make(count):
        clients = [scene.proxy.wire("p2") for _ in range(count)]
        for client in clients:
            client.query("CREATE TEMP TABLE mine AS SELECT 9 AS nine; CREATE TEMP SEQUENCE steps")
        return clients

    clients = make(6)
    # The schemas of those who come now have numbers that nobody has on pg2.
    others = [scene.pg1.connect("p2") for _ in range(30)]
    clients += make(5)
    for other in others:
        other.close()
    before = set(scene.pg1.sql(MINE, "p2"))
    mark = os.path.join(scene.folder, "mark")
    mover = scene.background("move", "p2", "--to", "pg2", "--verify",
                             fault="journal.release.outcome=wait:%s" % mark)
    wait_for(lambda: os.path.exists(mark), 90 * SLOW, "the mover to wait")
    wait_for(lambda: {row["state"] for row in scene.proxy.command("SHOW SESSIONS p2")} == {"linked"},
             30 * SLOW, "all to go on")
    with scene.pg2.connect("p2", autocommit=True) as conn:
        both = set(conn.execute(MINE))
        again = both - before
        assert len(again) == len(before)
        assert {row[1] for row in before} & {row[1] for row in again}, "no schema of the same name"
    assert both & before, "nothing is left to be dropped"
    os.unlink(mark)
    assert mover.wait(60 * SLOW) == DONE
    with scene.pg2.connect("p2", autocommit=True) as conn:
        assert set(conn.execute(MINE)) == again
    for client in clients:
        assert client.value("SELECT nine FROM mine") == "9"
        assert client.value("SELECT nextval('steps')") == "1"
    wait_for(lambda: not pids(scene.pg1), 10 * SLOW, "the end of the sealed ones")
    scene.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS true")
    assert scene.pg1.sql("SELECT relname FROM pg_class WHERE relpersistence = 't'", "p2") == []


@pytest.mark.parametrize("proxies", [1, 2])
def test_a_notification_after_the_seal(make_scene, proxies):
    """Who is not a proxy's may send one until the fence has ended him; it comes before those of pg2."""
    scene, clients = make_sessions(make_scene, proxies)
    mark = os.path.join(scene.folder, "mark")
    with scene.pg1.connect("p2", "app", autocommit=True) as sender:
        mover = scene.background("move", "p2", "--to", "pg2",
                                 fault="journal.fence.outcome=wait:%s" % mark)
        wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the mover to wait")
        assert len(scene.proxy.command("SHOW SEALED p2")) == len(STATES)
        for n in range(5):
            sender.execute("NOTIFY news, '%d'" % n)
        os.unlink(mark)
        assert mover.wait(60 * SLOW) == DONE
    with scene.proxies[-1].wire("p2") as other:
        other.query("NOTIFY news, 'last'")
    for name in ("listening", "both"):
        assert heard(clients[name], "last") == ["0", "1", "2", "3", "4", "last"]
    check_sessions(scene, clients, "pg2")


@pytest.mark.parametrize("at", ["fence", "terminate", "barrier", "catch_up"])
def test_sessions_of_an_undone_move(make_scene, at):
    """Sealed is for good: each goes on with what it had on a new server."""
    scene, clients = make_sessions(make_scene)
    before = pids(scene.pg1)
    scene.move(UNDONE, fault="journal.%s.outcome=fail" % at)
    check_sessions(scene, clients, "pg1")
    await_closed(scene, before)
    scene.check_on_pg1()


@pytest.mark.parametrize("at", ["fence", "barrier"])
def test_a_notification_that_waits_for_an_undone_move(make_scene, at):
    """Nobody is let go on before those who listen do so again."""
    scene, clients = make_sessions(make_scene)
    mark = os.path.join(scene.folder, "mark")
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.hold.outcome=wait:%s,"
                             "journal.%s.outcome=fail" % (mark, at))
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the mover to wait")
    clients["clean"].send(query("NOTIFY news, 'waited'"))
    os.unlink(mark)
    assert mover.wait(60 * SLOW) == UNDONE
    clients["clean"].ready("I")
    wait_for(lambda: {row["state"] for row in scene.proxy.command("SHOW SESSIONS p2")} == {"linked"},
             30 * SLOW, "all to go on")
    clients["clean"].query("NOTIFY news, 'last'")
    for name in ("listening", "both"):
        assert heard(clients[name], "last") == ["waited", "last"]


def test_a_notification_at_another_proxy_of_an_undone_move(make_scene):
    """It waits until who listens at the other one does so again, which takes him a while."""
    scene = make_scene(proxies=2, proxy={"pool_mode": "session"})
    mark = os.path.join(scene.folder, "mark")
    with scene.proxies[0].wire("p2") as sender, scene.proxies[1].wire("p2") as listener, \
            scene.pg1.connect("postgres") as slow, \
            scene.pg1.connect("postgres", autocommit=True) as look:
        sender.query("SELECT 1")
        listener.query("LISTEN news")
        listener.query("PREPARE slow AS SELECT count(*) FROM pg_shdescription")
        mover = scene.background("move", "p2", "--to", "pg2", fault="journal.hold.outcome=wait:%s,"
                                 "journal.barrier.outcome=fail" % mark)
        wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the mover to wait")
        sender.send(query("NOTIFY news, 'waited'"))
        slow.execute("LOCK TABLE pg_shdescription")
        os.unlink(mark)
        wait_for(lambda: look.execute("SELECT FROM pg_stat_activity WHERE query LIKE 'PREPARE slow%' "
                                      "AND wait_event_type = 'Lock'").fetchall(),
                 60 * SLOW, "its return")
        assert sender.silent(0.15)  # he is waited for no longer than three seconds
        slow.rollback()
        assert mover.wait(60 * SLOW) == UNDONE
        sender.ready("I")
        sender.query("NOTIFY news, 'last'")
        assert heard(listener, "last") == ["waited", "last"]


def test_a_fence_that_fails(make_scene):
    """Nothing is sealed before it stands: each goes on at the server process that it had."""
    scene, clients = make_sessions(make_scene)
    before = {name: client.value("SELECT pg_backend_pid()") for name, client in clients.items()}
    mark = os.path.join(scene.folder, "mark")
    mover = scene.background("move", "p2", "--to", "pg2",
                             fault="journal.hold.outcome=wait:%s" % mark)
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the mover to wait")
    with scene.pg1.connect("postgres") as conn:
        conn.execute("ALTER DATABASE p2 CONNECTION LIMIT 77")
        os.unlink(mark)
        assert mover.wait(60 * SLOW) == UNDONE
    assert {name: client.value("SELECT pg_backend_pid()") for name, client in clients.items()} == before
    check_sessions(scene, clients, "pg1")
    scene.check_on_pg1()


@pytest.mark.parametrize("end", ["LEASE 2s", "RELEASE", "another"])
def test_sessions_of_a_hold_that_ends_after_the_seal(make_proxy, pg, other, door, end):
    """By its lease, too, if the fence stands then: who has locks and channels has them again before others
    go on."""
    proxy = make_proxy({"pg": pg, "other": other}, {"p2": "pg"}, pool_mode="session", pool_size=12)
    with proxy.wire("p2") as listener, proxy.wire("p2") as locker, proxy.wire("p2") as rival, \
            pg.connect("p2") as slow, pg.connect("postgres", autocommit=True) as look:
        for client in (listener, locker):
            client.query("PREPARE p AS SELECT count(*) FROM items")
        listener.query("LISTEN news")
        locker.query("SELECT pg_advisory_lock(7), pg_advisory_lock(7), pg_advisory_lock_shared(8)")
        rival.query("SELECT 1")
        if end != "RELEASE":
            door("false")
        proxy.command("PREPARE SWAP p2 TO other SEAL")
        epoch = proxy.hold("p2", end if end == "LEASE 2s" else "LEASE 60s")["epoch"]
        assert len(proxy.command("SEAL p2 EPOCH " + epoch)) >= 3
        if end == "another":
            proxy.hold("p2", "EPOCH %d LEASE 2s" % (int(epoch) + 1))
        slow.execute("LOCK TABLE items")
        rival.send(query("SELECT pg_try_advisory_lock(7), pg_try_advisory_lock(8); NOTIFY news, 'first'"))
        release = threading.Thread(target=proxy.command, args=("RELEASE p2 EPOCH " + epoch,))
        if end == "RELEASE":
            release.start()
        else:
            await_refusal(proxy)
            door("true")
        wait_for(lambda: look.execute("SELECT FROM pg_stat_activity WHERE query LIKE 'PREPARE p%' "
                                      "AND wait_event_type = 'Lock'").fetchall(),
                 20 * SLOW, "one to come back")
        assert rival.silent(0.15)  # they are waited for no longer than three seconds
        slow.rollback()
        assert rows(rival.ready("I"))[0] == ["f", "f"]
        assert heard(listener, "first") == ["first"]
        assert [locker.value("SELECT pg_advisory_unlock(7)") for _ in "123"] == ["t", "t", "f"]
        assert locker.value("SELECT pg_advisory_unlock_shared(8)") == "t"
        if end == "RELEASE":
            release.join()


def test_locks_that_the_old_process_has_still(make_proxy, pg, other):
    """It is slow at ending: its session gets them when it has, as often as it had them."""
    proxy = make_proxy({"pg": pg, "other": other}, {"p2": "pg"}, pool_mode="session", pool_size=12)
    with proxy.wire("p2") as locker, proxy.wire("p2") as rival:
        locker.query("SELECT pg_advisory_lock(6), pg_advisory_lock(7), pg_advisory_lock(7)")
        pid = int(locker.value("SELECT pg_backend_pid()"))
        rival.query("SELECT 1")
        proxy.command("PREPARE SWAP p2 TO other SEAL")
        epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        proxy.command("SEAL p2 EPOCH " + epoch)
        with stopped(pid):
            release = threading.Thread(target=proxy.command, args=("RELEASE p2 EPOCH " + epoch,))
            release.start()
            wait_for(lambda: "RELEASE p2 by" in proxy.log(), what="the release")
            rival.send(query("SELECT pg_try_advisory_lock(7)"))
            assert locker.silent() and rival.silent()
        release.join()
        assert rows(rival.ready("I")) == [["f"]]
        assert [locker.value("SELECT pg_advisory_unlock(%d)" % key) for key in (6, 6, 7, 7, 7)] == \
            ["t", "f", "t", "t", "f"]


@pytest.mark.parametrize("at", ["fence", "terminate", "barrier", "catch_up", "promote"])
def test_sessions_of_a_killed_mover(make_scene, at):
    scene, clients = make_sessions(make_scene)
    before = pids(scene.pg1)
    forward = at == "promote"
    assert scene.run("move", "p2", "--to", "pg2",
                     fault="journal.%s.outcome=kill" % at).returncode == -9
    assert scene.run("resume" if forward else "abort").returncode == DONE
    check_sessions(scene, clients, "pg2" if forward else "pg1", left=forward)
    await_closed(scene, before)
    (scene.check_on_pg2 if forward else scene.check_on_pg1)()


@pytest.mark.parametrize("at", ["fence", "terminate", "promote"])
def test_sessions_of_a_killed_proxy(make_scene, at):
    """They are gone with it; their server processes end, and nobody takes that for a write."""
    scene, _ = make_sessions(make_scene)
    mark = os.path.join(scene.folder, "mark")
    mover = scene.background("move", "p2", "--to", "pg2",
                             fault="journal.%s.outcome=wait:%s" % (at, mark))
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the mover to wait")
    scene.proxy.process.kill()
    scene.proxy.process.wait()
    wait_for(lambda: not pids(scene.pg1), 10 * SLOW, "the end of the server processes")
    scene.proxy.start()
    os.unlink(mark)
    code = mover.wait(90 * SLOW)
    if at == "promote":
        assert code in (DONE, FORWARD)
        if code == FORWARD:
            assert scene.run("resume").returncode == DONE
        scene.check_on_pg2()
    else:
        assert code in (DONE, UNDONE)
        (scene.check_on_pg2 if code == DONE else scene.check_on_pg1)()


def test_a_server_process_that_does_nothing(make_scene):
    """… need not do anything in the hold, whatever its session has."""
    scene, clients = make_sessions(make_scene)
    pid = int(clients["temporary"].value("SELECT pg_backend_pid()"))
    mark = os.path.join(scene.folder, "mark")
    mover = scene.background("move", "p2", "--to", "pg2",
                             fault="journal.hold.outcome=wait:%s" % mark)
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the mover to wait")
    with stopped(pid):
        os.unlink(mark)
        assert clients["temporary"].value("SELECT seven FROM mine") == "7"
        assert clients["temporary"].value("SHOW cluster_name") == "pg2"
    assert mover.wait(60 * SLOW) == DONE
    seen = evidence(scene, "terminate")
    assert (seen["sealed"], seen["terminated"]) == (len(STATES), 0), seen
    check_sessions(scene, clients, "pg2")


def test_undo(make_scene):
    """Sealed is for good: clients that go on at pg1 get other connections there, and have room."""
    scene = make_scene(proxy={"pool_size": 3})
    clients = use_three(scene.proxy)
    sealed = pids(scene.pg1)
    scene.pg1.sql("ALTER DATABASE p2 CONNECTION LIMIT 5")
    scene.move(UNDONE, fault="journal.barrier.outcome=fail")
    assert evidence(scene, "terminate")["sealed"] == 3
    use_three(scene.proxy)
    for client in clients:
        assert client.value("SHOW cluster_name") == "pg1"
    await_closed(scene, sealed)
    assert not pids(scene.pg1) & sealed
    scene.check_on_pg1()


def steal(pid, port):
    """A copy of the socket of another process that comes from the port."""
    libc = ctypes.CDLL(None, use_errno=True)
    inodes = set()
    with open("/proc/net/tcp") as lines:
        for line in lines:
            fields = line.split()
            if fields[1].endswith(":%04X" % port):
                inodes.add("socket:[%s]" % fields[9])
    fd, = [int(name) for name in os.listdir("/proc/%d/fd" % pid)
           if os.readlink("/proc/%d/fd/%s" % (pid, name)) in inodes]
    pidfd = libc.syscall(PIDFD_OPEN, pid, 0)
    assert pidfd >= 0, os.strerror(ctypes.get_errno())
    stolen = libc.syscall(PIDFD_GETFD, pidfd, fd, 0)
    assert stolen >= 0, os.strerror(ctypes.get_errno())
    os.close(pidfd)
    return stolen


@pytest.mark.parametrize("at,code", [("barrier", UNDONE), ("catch_up", FORWARD)])
def test_one_that_does_something(make_scene, at, code):
    """Nobody can use a sealed connection, but a debugger: that does not go unnoticed."""
    scene = make_scene(proxy={"pool_size": 3})
    use_three(scene.proxy)
    mark = os.path.join(scene.folder, "mark")
    mover = scene.background("move", "p2", "--to", "pg2",
                             fault="journal.%s.outcome=wait:%s" % (at, mark))
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the mover to wait")
    row = scene.proxy.command("SHOW SEALED p2")[0]
    stolen = steal(scene.proxy.process.pid, int(row["local_port"]))
    text = b"INSERT INTO items VALUES (99, 'late')\0"
    os.write(stolen, b"Q" + struct.pack("!i", len(text) + 4) + text)
    wait_for(lambda: scene.pg1.sql("SELECT query LIKE 'INSERT%%99%%' AND state = 'idle' FROM "
                                   "pg_stat_activity WHERE pid = %s" % row["server_pid"])
             == [(True,)], 10 * SLOW, "the statement")
    os.close(stolen)
    os.unlink(mark)
    assert mover.wait(60 * SLOW) == code
    with open(os.path.join(scene.folder, "mover.log")) as log:
        said = log.read()
    assert "that nobody could use any more have done something" in said
    assert "processes %s" % row["server_pid"] in said
    if code == UNDONE:
        scene.check_on_pg1()
        assert scene.proxy.wire("p2").value("SELECT note FROM items WHERE id = 99") == "late"


def test_notifications_while_sessions_go_on(make_proxy, pg, other):
    """What has been sent on a sealed connection is read first, though more comes meanwhile."""
    proxy = make_proxy({"pg": pg, "other": other}, {"p2": "pg"}, pool_mode="session",
                       pool_size=12, session_leave_after=0)
    clients = [proxy.wire("p2") for _ in range(8)]
    for client in clients:
        client.query("LISTEN news")
    over = threading.Event()

    def send():
        with pg.connect("p2", autocommit=True) as sender:
            while not over.is_set():
                sender.execute("NOTIFY news")

    sender = threading.Thread(target=send)
    try:
        for target in ("other", "pg") * 4:
            proxy.command("PREPARE SWAP p2 TO %s SEAL" % target)
            epoch = proxy.command("HOLD p2")[0]["epoch"]
            assert len(proxy.command("SEAL p2 EPOCH " + epoch)) >= len(clients)
            if target == "other":
                sender.start()
            proxy.command("SWAP p2 TO %s EPOCH %s FORCE" % (target, epoch))
            proxy.command("RELEASE p2")
            if target == "other":
                over.set()
                sender.join()
                sender = threading.Thread(target=send)
                over.clear()
            for client in clients:
                assert client.value("SHOW cluster_name") == target
    finally:
        over.set()
        if sender.is_alive():
            sender.join()


def test_command(make_proxy, pg, other):
    proxy = make_proxy({"pg": pg, "other": other}, {"p2": "pg"}, pool_size=3)
    clients = use_three(proxy)
    with proxy.console() as console:
        for text, sqlstate in (("SEAL p2", "42601"), ("SEAL p2 EPOCH 1", "55000"),
                               ("SEAL nowhere EPOCH 1", "3D000")):
            with pytest.raises(ConsoleError) as caught:
                console(text)
            assert caught.value.sqlstate == sqlstate
        console("PREPARE SWAP p2 TO other SEAL")
        epoch = console("HOLD p2")[0]["epoch"]
        assert not console("SHOW SEALED")
        with pytest.raises(ConsoleError) as caught:
            console("SEAL p2 EPOCH %d" % (int(epoch) + 1))
        assert caught.value.sqlstate == "55000"
        rows = console("SEAL p2 EPOCH " + epoch)
        assert len(rows) == 3 and len(console("SHOW SEALED p2")) == 3
        found = pg.sql("SELECT pid::text, host(client_addr), client_port::text FROM "
                       "pg_stat_activity WHERE datname = 'p2'")
        assert sorted(found) == sorted((row["server_pid"], row["local_addr"], row["local_port"])
                                       for row in rows)
        # Once more it is the same answer.
        assert len(console("SEAL p2 EPOCH " + epoch)) == 3
        assert {row["server"] for row in console("SHOW SERVERS")} <= {"other"}
        console("RELEASE p2")
        for client in clients:
            assert client.value("SHOW cluster_name") == "pg"
        wait_for(lambda: not console("SHOW SEALED"), 10 * SLOW, "the end of the sealed ones")
