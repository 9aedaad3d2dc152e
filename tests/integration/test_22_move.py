# SPDX-License-Identifier: PostgreSQL
"""pgshunt: the whole move, and everything that makes it refuse or undo."""
import json
import os
import threading
import time

import psycopg
import pytest

import pgwire
from certs import Authority, TlsConn
from pgwire import SYNC, bind, errors, execute, parse, query, rows, tags, wait_for
from scene import DONE, REFUSED, UNDONE, USAGE
from servers import SLOW, stopped, subfolder


def test_plan_changes_nothing(make_scene):
    scene = make_scene()
    result = scene.run("plan", "p2", "--to", "pg2")
    assert result.returncode == DONE
    for word in ("p2", "pg1", "pg2"):
        assert word in result.stdout
    scene.check_on_pg1()
    assert scene.proxy.route()["epoch"] in ("0", None)


def test_move_without_clients(make_scene):
    scene = make_scene()
    result = scene.move()
    assert "pg2" in result.stdout
    scene.check_on_pg2()
    # Both fences hold against everybody, superusers included.
    assert scene.refuses(scene.pg1, "p2") and scene.refuses(scene.pg2, "p1")


def test_clients_notice_nothing(make_scene):
    """One in each state; a transaction that is open when the hold begins ends on pg1."""
    scene = make_scene()
    idle, busy, zoned = (scene.proxy.wire("p2", TimeZone="Asia/Tokyo") for _ in range(3))
    idle.value("SELECT 1")
    busy.query("BEGIN")
    busy.query("INSERT INTO items VALUES (1, 'before')")

    def commit():
        wait_for(lambda: scene.proxy.held()["state"] != "open", 30 * SLOW, "the hold")
        time.sleep(0.2)
        assert busy.value("SHOW cluster_name") == "pg1"
        assert busy.query("COMMIT")[-1].body == b"I"
    thread = threading.Thread(target=commit)
    thread.start()
    scene.move()
    thread.join(30)
    for conn in (idle, busy, zoned):
        assert conn.value("SHOW cluster_name") == "pg2"
        assert conn.value("SHOW TimeZone") == "Asia/Tokyo"
        assert conn.value("SELECT note FROM items WHERE id = 1") == "before"
        conn.close()
    scene.check_on_pg2()


@pytest.mark.parametrize("how", ["clear", "direct TLS"])
def test_transactions_that_do_not_end_are_kept(make_scene, folder, how):
    """drain_policy keep: the transactions end on pg1, their clients hear of it when they go on, and do so on
    pg2; who asks while the move is under way is answered at once."""
    authority = Authority(subfolder(folder), "move-ca")
    cert, key = authority.issue("proxy", "/CN=localhost", "DNS:localhost")
    scene = make_scene(mover={"drain_policy": "keep", "hold_timeout": "500ms"}, proxy={
        "client_tls_sslmode": "allow", "client_tls_cert_file": cert, "client_tls_key_file": key})

    def client():
        conn = (TlsConn(scene.proxy.host, scene.proxy.port, direct=True) if how == "direct TLS" else
                pgwire.Conn(scene.proxy.host, scene.proxy.port))
        conn.login("app", "p2", TimeZone="Asia/Tokyo")
        conn.send(parse("INSERT INTO items VALUES ($1, 'written') RETURNING current_setting('cluster_name')",
                        "insert"), SYNC)
        conn.ready("I")
        conn.query("BEGIN")
        conn.query("SAVEPOINT s")
        return conn

    def insert(conn, number):
        conn.send(bind([number], "insert"), execute(), SYNC)
        return conn.ready()

    conns = [client() for _ in range(4)]
    for number, conn in enumerate(conns):
        assert rows(insert(conn, number)) == [["pg1"]]
    asked = []

    def ask():
        """The last one goes on all the time."""
        wait_for(lambda: "the client is kept" in scene.proxy.log(), 60 * SLOW, "the end of the transactions")
        while not asked or asked[-1] == "25P02":
            asked.append(errors(conns[3].query("SELECT 1"))[0]["C"])
            if scene.proxy.route()["server"] == "pg2":
                break
    thread = threading.Thread(target=ask)
    thread.start()
    scene.move()
    thread.join(60 * SLOW)
    assert set(asked) == {"25P02"}
    assert scene.proxy.log().count("the client is kept") == 4
    for number, conn in enumerate(conns):
        assert errors(insert(conn, 10 + number))[0]["C"] == "25P02"
        if number == 0:
            assert tags(conn.query("COMMIT")) == ["ROLLBACK"]
        elif number == 1:
            conn.send(parse("COMMIT"), bind(), execute(), SYNC)
            assert tags(conn.ready("I")) == ["ROLLBACK"]
        elif number == 2:
            assert errors(conn.query("ROLLBACK TO s"))[0]["C"] == "3B001"
            assert tags(conn.query("ROLLBACK")) == ["ROLLBACK"]
        else:  # all in one pipeline
            conn.send(parse("COMMIT"), bind(), execute(), SYNC, bind([23], "insert"), execute(), SYNC)
            assert tags(conn.ready("I")) == ["ROLLBACK"]
            assert rows(conn.ready("I")) == [["pg2"]]
        assert rows(insert(conn, 30 + number)) == [["pg2"]]
        assert conn.value("SHOW TimeZone") == "Asia/Tokyo"
        conn.close()
    assert scene.pg2.sql("SELECT id FROM items ORDER BY id", "p2") == [(n,) for n in (23, 30, 31, 32, 33)]
    scene.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS true")
    assert scene.pg1.sql("SELECT id FROM items", "p2") == []
    scene.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS false")
    scene.check_on_pg2()


@pytest.mark.threads
def test_move_under_load(make_scene):
    """Every acknowledged row exactly once on pg2, none lost, no error."""
    scene = make_scene()
    scene.load()
    time.sleep(1)
    scene.move()
    time.sleep(1)
    account = scene.account()
    for group in account["groups"].values():
        assert group["acked"] > 0
        for broken in ("lost", "duplicated", "errors", "old_only"):
            assert group[broken] == 0, account


@pytest.mark.threads
def test_move_through_two_proxies(make_scene):
    scene = make_scene(proxies=2)
    scene.load()
    time.sleep(0.5)
    scene.move()
    time.sleep(0.5)
    account = scene.account()
    assert all(group["errors"] == 0 for group in account["groups"].values()), account
    scene.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS false")
    scene.check_on_pg2()


def test_json(make_scene):
    scene = make_scene()
    result = scene.run("move", "p2", "--to", "pg2", "--json")
    assert result.returncode == DONE
    events = [json.loads(line) for line in result.stdout.splitlines() if line.strip()]
    phases = [event["phase"] for event in events if event.get("event") == "phase"]
    for phase in ("hold", "fence", "barrier", "catch_up", "promote", "swap", "release"):
        assert phase in phases
    assert phases.index("fence") < phases.index("barrier") < phases.index("promote") < \
        phases.index("swap") < phases.index("release")
    journal = [os.path.join(path, name) for path, _, names in
               os.walk(scene.mover["journal_directory"]) for name in names]
    assert any(name.endswith("journal.jsonl") for name in journal)
    assert any(name.endswith("report.json") for name in journal)


def test_second_move_is_refused(make_scene):
    scene = make_scene()
    scene.move()
    result = scene.run("move", "p2", "--to", "pg2")
    assert result.returncode in (DONE, REFUSED)
    scene.check_on_pg2()
    result = scene.run("move", "p1", "--to", "pg2")
    assert result.returncode == REFUSED
    scene.check_on_pg2()


def test_both_shards_at_once(make_scene):
    scene = make_scene()
    with scene.proxy.wire("p1") as one, scene.proxy.wire("p2") as two:
        one.value("SELECT 1")
        two.value("SELECT 1")
        assert scene.run("move", "p1", "p2", "--to", "pg2").returncode == DONE
        assert one.value("SHOW cluster_name") == two.value("SHOW cluster_name") == "pg2"
    assert scene.open_databases(scene.pg1) == set()
    assert scene.open_databases(scene.pg2) == {"p1", "p2"}


def test_status_afterwards(make_scene):
    scene = make_scene()
    assert scene.run("status").returncode == DONE
    scene.move()
    result = scene.run("status")
    assert result.returncode == DONE and "pg2" in result.stdout
    assert scene.run("resume").returncode in (DONE, REFUSED)
    assert scene.run("abort").returncode in (DONE, REFUSED)
    scene.check_on_pg2()


# --- PL/Proxy -----------------------------------------------------------------------------------

def plproxy_options(cluster, dbname):
    options = cluster.value("SELECT srvoptions FROM pg_foreign_server WHERE srvname = 'hq'", dbname)
    return dict(option.split("=", 1) for option in options)


def test_plproxy_through_the_proxy(make_scene, pg):
    """Its strings name the proxy: nothing to alter, calls land on pg2."""
    scene = make_scene()
    scene.plproxy(pg, "hq_through", direct=False)
    before = plproxy_options(pg, "hq_through")
    with pg.connect("hq_through", "app", autocommit=True) as conn:
        assert conn.execute("SELECT where_am_i(2)").fetchone() == ("pg1 p2",)
        scene.move()
        assert conn.execute("SELECT where_am_i(2)").fetchone() == ("pg2 p2",)
        assert conn.execute("SELECT where_am_i(0)").fetchone() == ("pg1 p1",)
    assert plproxy_options(pg, "hq_through") == before
    scene.check_on_pg2()


def test_plproxy_directly(make_scene, pg):
    """Exactly the options of the shard change."""
    scene = make_scene()
    scene.plproxy(pg, "hq_direct", direct=True)
    before = plproxy_options(pg, "hq_direct")
    with pg.connect("hq_direct", "app", autocommit=True) as conn:
        assert conn.execute("SELECT where_am_i(3)").fetchone() == ("pg1 p2",)
    scene.move()
    after = plproxy_options(pg, "hq_direct")
    for name in ("p0", "p1", "connection_lifetime"):
        assert after[name] == before[name]
    for name in ("p2", "p3"):
        assert "port=%d" % scene.pg2.port in after[name] and "dbname=p2" in after[name]
    with pg.connect("hq_direct", "app", autocommit=True) as conn:
        for shard, place in enumerate(("pg1 p1", "pg1 p1", "pg2 p2", "pg2 p2")):
            assert conn.execute("SELECT where_am_i(%s)", (shard,)).fetchone() == (place,)
    scene.check_on_pg2()


def test_plproxy_database_that_does_not_answer(make_scene):
    scene = make_scene()
    scene.configure(plproxy={"hq": {"host": "127.0.0.1", "port": 1, "dbname": "x", "cluster": "hq"}})
    scene.move(REFUSED)
    scene.check_on_pg1()


# --- refused ------------------------------------------------------------------------------------

def test_wrong_command_line(make_scene):
    scene = make_scene()
    for args in ([], ["mvoe", "p2", "--to", "pg2"], ["move"], ["move", "p2"],
                 ["move", "--to", "pg2"], ["move", "p9", "--to", "pg2"],
                 ["move", "p2", "--to", "pg9"], ["move", "p2", "--to"],
                 ["move", "p2", "--to", "pg2", "--fast"]):
        result = scene.run(*args)
        assert result.returncode == USAGE and result.stderr, args
    scene.check_on_pg1()


def refused(scene, *words):
    result = scene.move(REFUSED)
    text = (result.stdout + result.stderr).lower()
    assert any(word in text for word in words), text
    scene.check_on_pg1()


def test_target_is_down(make_scene):
    scene = make_scene()
    scene.pg2.stop()
    result = scene.move(REFUSED)
    assert "pg2" in result.stdout + result.stderr
    scene.pg2.start()
    scene.check_on_pg1()


def test_target_is_no_standby(make_scene, make_cluster):
    scene = make_scene()
    alone = make_cluster("alone")
    for proxy in scene.proxies:
        proxy.servers["alone"] = proxy.server(alone)
        proxy.write()
    result = scene.run("move", "p2", "--to", "alone")
    assert result.returncode == REFUSED
    # The cause is not lost among what could not be looked at for it.
    assert "refused  the target is a standby: alone is not in recovery" in result.stdout
    assert "not checked" not in result.stdout and "checks could not be made" in result.stdout
    assert "not checked" in scene.run("check", "p2", "--to", "alone").stdout
    scene.check_on_pg1()


def test_target_is_a_standby_of_another_server(make_scene, make_cluster):
    scene = make_scene()
    stranger = make_cluster("stranger")
    standby = make_cluster.standby(stranger, "pg3")
    for proxy in scene.proxies:
        proxy.servers["pg3"] = proxy.server(standby)
        proxy.write()
    result = scene.run("move", "p2", "--to", "pg3")
    assert result.returncode == REFUSED
    assert "system" in result.stdout + result.stderr
    scene.check_on_pg1()


def test_target_is_a_standby_of_the_standby(make_scene, make_cluster):
    """A cascade: promoting it would lose what the middle one has not sent."""
    scene = make_scene()
    cascade = make_cluster.standby(scene.pg2, "pg3", slot="cascade")
    for proxy in scene.proxies:
        proxy.servers["pg3"] = proxy.server(cascade)
        proxy.write()
    result = scene.run("move", "p2", "--to", "pg3")
    assert result.returncode == REFUSED
    scene.check_on_pg1()


def test_replay_is_delayed(make_scene):
    scene = make_scene()
    scene.pg2.sql("ALTER SYSTEM SET recovery_min_apply_delay = '1h'")
    scene.pg2.sql("SELECT pg_reload_conf()")
    wait_for(lambda: scene.pg2.value("SHOW recovery_min_apply_delay") == "1h", what="the reload")
    refused(scene, "delay")


def test_replay_is_paused(make_scene):
    scene = make_scene()
    scene.pg2.sql("SELECT pg_wal_replay_pause()")
    refused(scene, "paus")


def test_target_is_far_behind(make_scene):
    scene = make_scene()
    scene.configure(max_lag="64kB")
    receiver = scene.pg2.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'")
    with stopped(receiver):
        scene.pg1.sql("CREATE TABLE bulk AS SELECT repeat('x', 1000) FROM "
                      "generate_series(1, 3000)", "p1")
        refused(scene, "lag", "behind", "streaming")


def test_shard_with_an_unlogged_table(make_scene):
    scene = make_scene()
    scene.pg1.sql("CREATE UNLOGGED TABLE fast (a int)", "p2")
    refused(scene, "unlogged")


def test_route_that_is_elsewhere(make_scene):
    """A proxy that does not send the shard to pg1 at all."""
    scene = make_scene()
    scene.proxy.hold("p2", "LEASE 60s")
    scene.proxy.command("SWAP p2 TO pg2 FORCE")
    scene.proxy.command("RELEASE p2")
    result = scene.run("move", "p2", "--to", "pg2")
    assert result.returncode == REFUSED
    assert scene.pg2.value("SELECT pg_is_in_recovery()") is True


def test_database_that_somebody_holds(make_scene):
    scene = make_scene()
    scene.proxy.hold("p2", "LEASE 60s")
    scene.move(REFUSED)
    assert scene.proxy.held()["state"] == "held"
    scene.proxy.command("RELEASE p2")
    scene.check_on_pg1()


def test_proxy_that_is_down(make_scene):
    scene = make_scene(proxies=2)
    scene.proxies[1].stop()
    scene.move(REFUSED)
    scene.proxies[1].start()
    scene.check_on_pg1()


def test_wrong_console_password(make_scene):
    scene = make_scene(proxy={"auth_type": "scram-sha-256"})
    path = scene.file("wrong.password", "not it\n")
    scene.mover["proxies"]["a"]["password_file"] = path
    scene.configure()
    result = scene.move(REFUSED)
    assert "not it" not in result.stdout + result.stderr


def test_two_movers_at_once(make_scene):
    """The second one is kept out while the first works."""
    scene = make_scene()
    first = scene.background("move", "p2", "--to", "pg2", fault="journal.prepare.intent=sleep:3000")
    wait_for(lambda: os.path.isdir(scene.mover["journal_directory"]) and
             any(name != "lock" for name in os.listdir(scene.mover["journal_directory"])),
             20 * SLOW, "the first mover")
    second = scene.run("move", "p2", "--to", "pg2")
    assert second.returncode not in (DONE, UNDONE)
    assert first.wait(60 * SLOW) == DONE
    scene.check_on_pg2()


# --- undone -------------------------------------------------------------------------------------

def test_transaction_that_does_not_end(make_scene):
    """The drain deadline: everything is as before, and nobody saw an error."""
    scene = make_scene()
    scene.configure(hold_timeout="1s")
    with scene.proxy.wire("p2", application_name="obstinate") as busy, \
            scene.proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        busy.query("BEGIN")
        busy.query("INSERT INTO items VALUES (5, 'mine')")
        result = scene.move(UNDONE)
        assert "obstinate" in result.stdout + result.stderr or \
            "app" in result.stdout + result.stderr
        assert conn.value("SHOW cluster_name") == "pg1"
        assert busy.query("COMMIT")[-1].body == b"I"
    scene.check_on_pg1()
    # With a policy the same move gets through.
    with scene.proxy.wire("p2") as busy:
        busy.query("BEGIN")
        scene.configure(drain_policy="terminate")
        scene.move()
    scene.check_on_pg2()


def test_replay_stops_in_the_middle(make_scene):
    """The standby cannot catch up with the barrier: undone, under load, without an error."""
    scene = make_scene()
    scene.configure(catch_up_timeout="1s")
    scene.load()
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.hold.outcome=sleep:1000")
    wait_for(lambda: scene.proxy.held()["state"] == "held", 30 * SLOW, "the hold")
    scene.pg2.sql("SELECT pg_wal_replay_pause()")
    assert mover.wait(60 * SLOW) == UNDONE
    scene.pg2.sql("SELECT pg_wal_replay_resume()")
    time.sleep(0.5)
    account = scene.account("pg1")
    assert all(group["errors"] == 0 for group in account["groups"].values()), account
    scene.check_on_pg1()
    scene.move()
    scene.check_on_pg2()


@pytest.mark.parametrize("phase", ["prepare", "hold", "fence", "terminate", "barrier", "catch_up"])
def test_failure_before_the_promotion_is_undone(make_scene, phase):
    """The journal cannot be written any more: a failure at every phase."""
    scene = make_scene()
    with scene.proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        result = scene.run("move", "p2", "--to", "pg2", fault="journal.%s.outcome=fail" % phase)
        assert result.returncode == UNDONE
        assert conn.value("SHOW cluster_name") == "pg1"
    scene.check_on_pg1()


def test_sessions_past_the_proxy(make_scene):
    """Somebody is connected to pg1 directly: ended by the fence, and it never writes to p2 again."""
    scene = make_scene()
    direct = scene.pg1.connect("p2", "app", autocommit=True)
    scene.move()
    with pytest.raises(psycopg.OperationalError):
        direct.execute("INSERT INTO items VALUES (6, 'too late')")
    assert scene.refuses(scene.pg1, "p2")
    scene.check_on_pg2()


def test_a_session_that_does_not_end(make_scene):
    """Its process hangs: the move is undone, and says that."""
    scene = make_scene()
    with scene.pg1.connect("p2", "app", autocommit=True) as direct, scene.proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        with stopped(direct.execute("SELECT pg_backend_pid()").fetchone()[0]):
            result = scene.move(UNDONE)
        assert "1 sessions did not end" in result.stdout + result.stderr
        assert conn.value("SHOW cluster_name") == "pg1"
    scene.check_on_pg1()


def test_held_request_of_a_move(make_scene):
    """A request that arrives in the middle of the hold waits and lands on pg2."""
    scene = make_scene()
    with scene.proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        mover = scene.background("move", "p2", "--to", "pg2",
                                 fault="journal.barrier.outcome=sleep:500")
        wait_for(lambda: scene.proxy.held()["state"] == "held", 30 * SLOW, "the hold")
        conn.send(query("SHOW cluster_name"))
        assert rows(conn.ready("I")) == [["pg2"]]
        assert mover.wait(60 * SLOW) == DONE
    scene.check_on_pg2()
