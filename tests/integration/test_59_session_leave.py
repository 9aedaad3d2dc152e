# SPDX-License-Identifier: PostgreSQL
"""Sessions that do nothing leave their servers before the hold: they go on at the new one, at the old
one if they are asked for before that or the swap is given up, and notice nothing of it."""
import glob
import json
import os
import signal

import pytest

from pgwire import (SYNC, bind, close, describe, errors, execute, kinds, parse, query, rows,
                    wait_for)
from proxy import ConsoleError
from scene import DONE, UNDONE
from servers import SLOW, stopped
from sessiontool import open_session

pytestmark = pytest.mark.threads


@pytest.fixture
def make(make_proxy, pg, other):
    def make(**settings):
        return make_proxy({"pg": pg, "other": other}, {"p2": "pg"}, pool_mode="session",
                          session_leave_after=settings.pop("leave", "50ms"), **settings)
    return make


def sessions(proxy):
    return {row["application_name"]: row for row in proxy.command("SHOW SESSIONS p2")}


def begin(proxy, name="traveller", **startup):
    """With state that no server keeps alone."""
    conn = proxy.wire("p2", application_name=name, **startup)
    conn.query("SET work_mem = '7MB'; SET my.own = 'mine'")
    conn.send(parse("SELECT $1::int + 1", "plus") + SYNC)
    conn.ready("I")
    leave_unnamed(conn)
    return conn


def leave_unnamed(conn):
    conn.send(parse("SELECT $1::int - 1") + SYNC)
    conn.ready("I")


def check(conn, server):
    conn.send(bind(["7"]) + execute() + SYNC)
    assert rows(conn.ready("I")) == [["6"]]
    conn.send(bind(["7"], "plus") + execute() + SYNC)
    assert rows(conn.ready("I")) == [["8"]]
    assert conn.value("SHOW cluster_name") == server
    assert conn.value("SHOW work_mem") == "7MB" and conn.value("SHOW my.own") == "mine"
    leave_unnamed(conn)  # a simple Query ends it


def await_state(proxy, state, *names):
    wait_for(lambda: [sessions(proxy)[name]["state"] for name in names] == [state] * len(names),
             20 * SLOW, "%s to be %s" % (names, state))


def test_before_the_hold(make, pg, other):
    proxy = make()
    conn, plain = begin(proxy, TimeZone="Asia/Tokyo"), proxy.wire("p2", application_name="plain")
    listens, busy = (proxy.wire("p2", application_name=name) for name in ("listens", "busy"))
    pids = {int(each.value("SELECT pg_backend_pid()")) for each in (plain, listens, busy)}
    listens.query("LISTEN news")
    busy.query("BEGIN")
    proxy.command("PREPARE SWAP p2 TO other LEAVE")
    await_state(proxy, "left", "traveller", "plain")
    wait_for(lambda: len(pg.sessions("p2", "app")) == 2, 20 * SLOW, "the end of their servers")
    assert pg.sessions("p2", "app") < pids
    there = other.sessions("p2", "app")
    assert sessions(proxy)["listens"]["state"] == sessions(proxy)["busy"]["state"] == "linked"
    busy.query("COMMIT")
    epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
    plain.send(query("SHOW cluster_name"))
    proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)
    proxy.command("RELEASE p2 EPOCH %s" % epoch)
    assert rows(plain.ready("I")) == [["other"]]
    check(conn, "other")
    assert conn.value("SHOW TimeZone") == "Asia/Tokyo"
    assert listens.value("SELECT pg_listening_channels()") == "news"
    for row in sessions(proxy).values():
        assert row["state"] == "linked" and row["moved_to"] == "other", row
        assert row["digest_before"] == row["digest_after"], row
    assert {int(row["server_pid"]) for row in sessions(proxy).values()} <= there


def test_asked_for_before_the_swap(make, pg):
    """It goes on where it was, at once, and along with the others afterwards; more than once."""
    proxy = make()
    with begin(proxy) as conn:
        for _ in range(2):
            proxy.command("PREPARE SWAP p2 TO other LEAVE")
            await_state(proxy, "left", "traveller")
            wait_for(lambda: not pg.sessions("p2", "app"), 20 * SLOW, "the end of its server")
            check(conn, "pg")
        await_state(proxy, "left", "traveller")
        epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        proxy.command("RELEASE p2 EPOCH %s" % epoch)
        check(conn, "pg")
        epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)
        proxy.command("RELEASE p2 EPOCH %s" % epoch)
        check(conn, "other")


@pytest.mark.parametrize("swapped", [True, False])
def test_asked_for_as_the_hold_begins(make, pg, swapped):
    """On its way back it is caught by the hold, or just not."""
    proxy = make()
    here, there = "pg", "other"
    with begin(proxy) as conn:
        for _ in range(6):
            proxy.command("PREPARE SWAP p2 TO %s LEAVE" % there)
            await_state(proxy, "left", "traveller")
            conn.send(query("SHOW cluster_name"))
            epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
            if swapped:
                proxy.command("SWAP p2 TO %s EPOCH %s FORCE" % (there, epoch))
            proxy.command("RELEASE p2 EPOCH %s" % epoch)
            assert rows(conn.ready("I")) in ([[here]], [[there]])
            leave_unnamed(conn)
            if swapped:
                here, there = there, here
            check(conn, here)


def test_given_up(make, pg):
    """It comes back by itself; as it was, after all that happened to its server."""
    proxy = make()
    with begin(proxy) as conn, begin(proxy, "asks") as asks:
        for hold in (False, True):
            proxy.command("PREPARE SWAP p2 TO other LEAVE")
            await_state(proxy, "left", "traveller", "asks")
            if hold:
                epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
                asks.send(query("SHOW cluster_name"))
                proxy.command("RELEASE p2 EPOCH %s" % epoch)
                assert rows(asks.ready("I")) == [["pg"]]
                leave_unnamed(asks)
            proxy.command("CANCEL SWAP p2")
            await_state(proxy, "linked", "traveller", "asks")
            wait_for(lambda: len(pg.sessions("p2", "app")) == 2, 20 * SLOW, "two servers again")
            check(conn, "pg")
            check(asks, "pg")


# --- what was set up for it at the new server ends ----------------------------------------------------

@pytest.mark.parametrize("when", ["before", "as the hold begins", "in the hold"])
def test_its_new_server_ends(make, pg, other, when):
    """Another one has all before the swap, and a hold that begins meanwhile waits for it."""
    proxy = make()
    with begin(proxy, TimeZone="Asia/Tokyo") as conn:
        leave(proxy)
        old, = other.sessions("p2", "app")
        if when == "in the hold":
            epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        with stopped(other.process.pid):
            os.kill(old, signal.SIGTERM)
            wait_for(lambda: "pid %d: closing" % old in proxy.log(), 20 * SLOW, "its end")
            if when == "as the hold begins":
                proxy.command("HOLD p2 LEASE 60s DRAIN 20s NOWAIT")
                wait_for(lambda: [row["state"] for row in proxy.command("SHOW BLOCKERS p2")] ==
                         ["left, being set up at the new server"], 20 * SLOW, "the blocker")
                assert proxy.held()["state"] == "draining"
        if when == "as the hold begins":
            epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
            # Nothing but the unnamed statement may be missing yet.
            assert len(other.sessions("p2", "app") - {old}) == 1
        wait_for(lambda: conn_for(other, "SELECT $1::int - 1") - {old}, 20 * SLOW, "another one")
        if when == "before":
            epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        fresh, = conn_for(other, "SELECT $1::int - 1")
        assert fresh != old
        proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)
        proxy.command("RELEASE p2 EPOCH %s" % epoch)
        check(conn, "other")
        assert conn.value("SHOW TimeZone") == "Asia/Tokyo"
        assert int(conn.value("SELECT pg_backend_pid()")) == fresh


def conn_for(cluster, text):
    """Who has been asked last to prepare this: all else was there before."""
    return {row[0] for row in cluster.sql("SELECT pid FROM pg_stat_activity WHERE datname = 'p2' AND "
                                          "usename = 'app' AND query = '%s'" % text)}


def test_its_new_server_ends_before_all_are_drained(make, other):
    """The hold, which its worker has called drained already, waits for another one."""
    proxy = make(workers=2)
    with begin(proxy) as conn, proxy.wire("p2", application_name="busy") as busy:
        busy.query("BEGIN")
        listed = sessions(proxy)
        assert listed["busy"]["worker"] != listed["traveller"]["worker"]
        leave(proxy)
        proxy.command("HOLD p2 LEASE 60s DRAIN 20s NOWAIT")
        wait_for(lambda: sessions(proxy)["traveller"]["state"] == "parked", 20 * SLOW, "the gate")
        wait_for(lambda: conn_for(other, "SELECT $1::int - 1"), 20 * SLOW, "its new server")
        old, = conn_for(other, "SELECT $1::int - 1")
        with stopped(other.process.pid):
            os.kill(old, signal.SIGTERM)
            wait_for(lambda: "pid %d: closing" % old in proxy.log(), 20 * SLOW, "its end")
            busy.query("COMMIT")
            wait_for(lambda: [row["state"] for row in proxy.command("SHOW BLOCKERS p2")] ==
                     ["left, being set up at the new server"], 20 * SLOW, "the blocker")
            assert proxy.held()["state"] == "draining"
        epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        there = other.sessions("p2", "app")
        proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)
        proxy.command("RELEASE p2 EPOCH %s" % epoch)
        check(conn, "other")
        assert int(conn.value("SELECT pg_backend_pid()")) in there


def test_caught_on_its_way_back(make, pg, other):
    """All but its unnamed statement is at its old server again when the hold begins: whether the new one
    would take it is to be known, too."""
    for cluster in (pg, other):
        cluster.sql(GOING + GOING.replace("going", "locked"), "p2")
    proxy = make(session_pinned="abort")
    with begin(proxy) as conn, open_session(pg, dbname="p2", user="postgres") as locker:
        for text, name in (("SELECT a FROM going", "named"), ("SELECT a FROM locked", "")):
            conn.send(parse(text, name) + SYNC)
            assert not errors(conn.ready("I"))
        leave(proxy)
        locker.query("BEGIN; LOCK TABLE locked")
        conn.send(bind() + execute() + SYNC)
        wait_for(lambda: pg.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND "
                                  "wait_event_type = 'Lock'") == 1, 20 * SLOW, "its last question")
        other.sql("DROP TABLE going", "p2")
        with pytest.raises(ConsoleError) as refused:
            proxy.hold("p2", "LEASE 60s DRAIN 20s")
        assert refused.value.sqlstate == "55P03" and '"going"' in refused.value.fields["D"]
        locker.query("COMMIT")
        assert rows(conn.ready("I")) == [["1"]]
        conn.send(bind([], "named") + execute() + SYNC)
        assert rows(conn.ready("I")) == [["1"]]
        assert conn.value("SHOW cluster_name") == "pg"


def test_a_refusal_stays_one_while_it_is_tried_again(make, pg, other):
    """SHOW SESSIONS does not say that it is movable before that was seen."""
    for cluster in (pg, other):
        cluster.sql(GOING, "p2")
    other.sql("DROP TABLE going", "p2")
    proxy = make(leave="0")
    with begin(proxy) as conn:
        conn.send(parse("SELECT a FROM going", "named") + SYNC)
        assert not errors(conn.ready("I"))
        proxy.command("PREPARE SWAP p2 TO other")
        row = sessions(proxy)["traveller"]
        assert row["class"] == "pinned"
        age = int(row["class_age_ms"])
        with stopped(other.process.pid):
            wait_for(lambda: [row for row in proxy.command("SHOW SERVERS") if row["state"] == "login"],
                     20 * SLOW, "another try")
            row = sessions(proxy)["traveller"]
            assert row["class"] == "pinned" and '"going"' in row["why"], row
            assert int(row["class_age_ms"]) >= age
        other.sql(GOING, "p2")
        wait_for(lambda: sessions(proxy)["traveller"]["class"] == "movable", 30 * SLOW, "another verdict")


@pytest.mark.parametrize("policy", ["wait", "drop", "move_anyway"])
@pytest.mark.parametrize("held", [False, True])
def test_its_new_server_does_not_take_it_again(make, pg, other, policy, held):
    """It is told before the swap, and comes back: nothing has happened to it."""
    for cluster in (pg, other):
        cluster.sql(GOING, "p2")
    proxy = make(session_pinned=policy)
    busy = proxy.wire("p2", application_name="busy")
    with begin(proxy) as conn:
        conn.send(parse("SELECT a FROM going", "named") + SYNC)
        assert not errors(conn.ready("I"))
        leave_unnamed(conn)
        busy.query("BEGIN")
        leave(proxy)
        if held:
            proxy.command("HOLD p2 LEASE 60s DRAIN 20s NOWAIT")
        other.sql("DROP TABLE going", "p2")
        for pid in other.sessions("p2", "app"):
            other.sql("SELECT pg_terminate_backend(%d)" % pid)
        if not held:
            await_state(proxy, "linked", "traveller")
        wait_for(lambda: sessions(proxy)["traveller"]["class"] == "pinned", 20 * SLOW, "the refusal")
        assert '"going"' in sessions(proxy)["traveller"]["why"]
        busy.query("COMMIT")
        if held:
            if policy == "wait":
                wait_for(lambda: proxy.held()["state"] == "open", 20 * SLOW, "the end of the hold")
            else:
                wait_for(lambda: proxy.held()["state"] == "held", 20 * SLOW, "the hold")
                proxy.command("RELEASE p2")
            await_state(proxy, "linked", "traveller")
        check(conn, "pg")
        conn.send(bind([], "named") + execute() + SYNC)
        assert rows(conn.ready("I")) == [["1"]]


@pytest.mark.parametrize("leave", ["", " LEAVE"])
def test_reconnect_while_a_swap_is_prepared(make, pg, leave):
    """It leads to a fresh connection to the server that the database has, not to that of the swap."""
    proxy = make(leave="30s")
    conn = begin(proxy)
    old = conn.value("SELECT pg_backend_pid()")
    leave_unnamed(conn)
    proxy.command("PREPARE SWAP p2 TO other" + leave)
    proxy.command("RECONNECT p2")
    wait_for(lambda: int(old) not in pg.sessions("p2", "app"), 20 * SLOW, "the end of its server")
    check(conn, "pg")
    epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
    proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)
    proxy.command("RELEASE p2 EPOCH %s" % epoch)
    check(conn, "other")


def test_its_place_is_kept(make):
    """Who waits in a full pool gets the place of one that has gone, not of one that has left."""
    proxy = make(pool_size=2)
    first, second = begin(proxy, "first"), begin(proxy, "second")
    proxy.command("PREPARE SWAP p2 TO other LEAVE")
    await_state(proxy, "left", "first", "second")
    third = proxy.wire("p2", application_name="third")
    third.send(query("SHOW cluster_name"))
    wait_for(lambda: [row["cl_waiting"] for row in proxy.command("SHOW POOLS") if row["database"] == "p2"] == ["1"],
             20 * SLOW, "the third to wait")
    check(first, "pg")
    check(second, "pg")
    await_state(proxy, "left", "first", "second")
    assert not third.buffer and [row["cl_waiting"] for row in proxy.command("SHOW POOLS")
                                 if row["database"] == "p2"] == ["1"]
    first.close()
    assert rows(third.ready("I")) == [["pg"]]
    check(second, "pg")


def test_who_stays(make):
    """Pinned ones, those with something of their server alone, and all where that is switched off
    or not asked for."""
    off = make(leave="0")
    stays = begin(off, "stays")
    off.command("PREPARE SWAP p2 TO other LEAVE")
    plain = make()
    asks = begin(plain, "asks")
    plain.command("PREPARE SWAP p2 TO other")
    proxy = make(session_pin_applications=["declared"], pool_size=8)
    names = {"declared": "SELECT 1", "locks": "SELECT pg_advisory_lock(1)", "listens": "LISTEN news",
             "tables": "CREATE TEMP TABLE t (a int)",
             "prepares": "PREPARE twice(int) AS SELECT $1 * 2", "last": "SELECT 1",
             "cursors": "DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT 1"}
    conns = {name: proxy.wire("p2", application_name=name) for name in names}
    for name, text in names.items():
        conns[name].query(text)
    proxy.command("PREPARE SWAP p2 TO other LEAVE")
    await_state(proxy, "left", "last")
    assert {row["state"] for name, row in sessions(proxy).items() if name != "last"} == {"linked"}
    assert sessions(off)["stays"]["state"] == sessions(plain)["asks"]["state"] == "linked"
    check(stays, "pg")
    check(asks, "pg")


# --- what happens to it meanwhile ---------------------------------------------------------------------

GOING = """
DROP TABLE IF EXISTS going;
CREATE TABLE going AS SELECT 1 AS a;
GRANT ALL ON going TO PUBLIC;
"""


def told(conn, data):
    """The kinds of the answers, without what differs between a connection and a pooled one; and the
    error."""
    conn.send(data)
    messages = conn.ready()
    return kinds(messages), [(each["C"], each["M"]) for each in errors(messages)]


def leave(proxy, *names):
    proxy.command("PREPARE SWAP p2 TO other LEAVE")
    await_state(proxy, "left", *(names or ("traveller",)))


def test_a_table_is_dropped_meanwhile(make, pg, other):
    """Its statements give the errors that they would have given; the session goes on."""
    for cluster in (pg, other):
        cluster.sql(GOING, "p2")
    proxy = make()
    with begin(proxy) as conn, open_session(pg, dbname="p2") as twin:
        for each in (conn, twin):
            for name in ("plus", "named", "closed", "again", "once", "twice", "piped", "writes", ""):
                text = {"plus": "SELECT $1::int + 1", "writes": "INSERT INTO going VALUES ($1)"}.get(
                    name, "SELECT a FROM going")
                each.send(parse(text, name) + SYNC if (each, name) != (conn, "plus") else SYNC)
                assert not errors(each.ready("I"))
        leave(proxy)
        pg.sql("DROP TABLE going", "p2")

        def both(data):
            answers = [told(each, data) for each in (conn, twin)]
            assert answers[0] == answers[1]
            return answers[0]
        gone = [("42P01", 'relation "going" does not exist')]
        assert both(bind() + execute() + SYNC)[1] == gone
        assert both(bind([], "named") + execute() + SYNC)[1] == gone
        # Its parameters are known without looking at what it is about; more is not asked of one without rows.
        assert both(describe("S", "named") + SYNC) == ("tEZ", gone)
        assert both(describe("S", "writes") + SYNC) == ("tnZ", [])
        assert both(bind(["1"], "writes") + execute() + SYNC)[1] == gone
        assert both(bind(["1"], "plus") + execute() + bind([], "named") + execute() +
                    bind(["2"], "plus") + execute() + SYNC)[1] == gone
        assert conn.value("SHOW work_mem") == "7MB" and conn.value("SHOW my.own") == "mine"
        assert conn.value("SHOW cluster_name") == "pg"
        twin.query("SELECT 1")
        assert both(bind() + execute() + SYNC)[1][0][0] == "26000"
        assert both(query("BEGIN")) and both(bind([], "named") + execute() + SYNC)[0][-1] == "Z"
        assert both(bind([], "again") + execute() + SYNC)[1][0][0] == "25P02"
        both(query("ROLLBACK"))
        assert both(close("S", "closed") + SYNC) == ("3Z", [])
        assert both(bind([], "closed") + execute() + SYNC)[1][0][0] == "26000"
        # It is there: its name is taken, and it can be ended in any way.
        assert both(parse("SELECT 1", "named") + SYNC)[1][0][0] == "42P05"
        assert both(parse("SELECT wrong", "named") + SYNC)[1][0][0] == "42703"
        assert both(bind([], "named") + execute() + SYNC)[1] == gone
        assert both(query("DEALLOCATE once")) == ("CZ", [])
        assert both(bind([], "once") + execute() + SYNC)[1][0][0] == "26000"
        assert both(query("DEALLOCATE once"))[1][0][0] == "26000"
        for each in (conn, twin):
            each.send(query("BEGIN") + query("SELECT wrong") + query("DEALLOCATE piped") + query("ROLLBACK") +
                      query("DEALLOCATE piped") + query("DEALLOCATE piped"))
            assert "".join(kinds(each.ready()) for _ in range(6)) == "CZEZEZCZCZEZ"
        assert both(parse("DEALLOCATE PREPARE twice") + bind() + execute() + SYNC) == ("12CZ", [])
        assert both(parse("SELECT 1", "twice") + SYNC) == ("1Z", [])
        leave(proxy)  # what stands for it is not taken for one
        assert conn.value("SHOW cluster_name") == "pg"
        pg.sql(GOING, "p2")
        for _ in range(2):
            assert both(bind([], "named") + execute() + bind([], "named") + execute() + SYNC
                        ) == ("2DC2DCZ", [])
        assert both(describe("S", "again") + bind([], "again") + execute() + SYNC)[0] == "tT2DCZ"
        both(query("DEALLOCATE ALL"))
        assert both(bind([], "again") + execute() + SYNC)[1][0][0] == "26000"


@pytest.mark.parametrize("how", ["hold", "crash"])
def test_a_table_is_dropped_as_its_server_ends(make, pg, other, how):
    """The same for one that stays, and whose server ends in a hold that is given up, or by itself."""
    for cluster in (pg, other):
        cluster.sql(GOING, "p2")
    proxy = make(leave="0", **({"session_recover_after": "100ms"} if how == "crash" else {}))
    with begin(proxy) as conn:
        conn.send(parse("SELECT a FROM going", "named") + SYNC)
        assert not errors(conn.ready("I"))
        if how == "hold":
            epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        else:
            wait_for(lambda: sessions(proxy)["traveller"]["recovers"] == "yes", 20 * SLOW, "its state")
        pg.sql("DROP TABLE going", "p2")
        old, = pg.sessions("p2", "app")
        pg.sql("SELECT pg_terminate_backend(%d)" % old)
        wait_for(lambda: old not in pg.sessions("p2", "app"), 20 * SLOW, "its end")
        if how == "hold":
            proxy.command("RELEASE p2 EPOCH %s" % epoch)
        conn.send(bind([], "named") + execute() + SYNC)
        assert [each["C"] for each in errors(conn.ready("I"))] == ["42P01"]
        check(conn, "pg")


def test_a_setting_is_refused_meanwhile(make, pg, other):
    """Its client is told, and keeps the others."""
    for cluster in (pg, other):
        cluster.sql("CREATE TEXT SEARCH CONFIGURATION going (COPY = simple)", "p2")
    proxy = make()
    with begin(proxy) as conn:
        before = conn.value("SHOW default_text_search_config")
        conn.query("SET default_text_search_config = going; SET lock_timeout = '9s'")
        leave_unnamed(conn)
        leave(proxy)
        for cluster in (pg, other):
            cluster.sql("DROP TEXT SEARCH CONFIGURATION going", "p2")
        conn.send(query("SHOW lock_timeout"))
        messages = conn.ready("I")
        notice, = [each.fields() for each in messages if each.kind == "N"]
        assert notice["S"] == "WARNING" and "default_text_search_config" in notice["D"]
        assert kinds(messages, "") == "NTDCZ" and rows(messages) == [["9s"]]
        assert conn.value("SHOW default_text_search_config") == before
        leave_unnamed(conn)
        check(conn, "pg")
        assert "without the setting" in proxy.log()


def test_a_setting_of_the_role_changes_meanwhile(make, pg):
    proxy = make()
    with begin(proxy) as conn:
        leave(proxy)
        pg.sql("ALTER ROLE app SET maintenance_work_mem = '99MB'")
        try:
            conn.send(bind(["7"], "plus") + execute() + SYNC)
            messages = conn.ready("I")
            notice, = [each.fields() for each in messages if each.kind == "N"]
            assert "maintenance_work_mem" in notice["D"] and rows(messages) == [["8"]]
            check(conn, "pg")
        finally:
            pg.sql("ALTER ROLE app RESET maintenance_work_mem")


def test_its_role_is_taken_away_meanwhile(make, pg, other):
    """It does not go on as somebody else."""
    for cluster in (pg, other):
        cluster.sql("DROP ROLE IF EXISTS going; CREATE ROLE going; GRANT going TO app")
    proxy = make()
    with begin(proxy) as conn:
        conn.query("SET ROLE going")
        leave(proxy)
        pg.sql("REVOKE going FROM app")
        conn.send(query("SELECT current_user"))
        error, = errors(conn.rest())
        assert error["C"] == "57P01" and "permission denied to set role" in error["D"]
        assert error["D"].startswith("The server process of this session has ended, and the session "
                                     "could not be set up on the server anew: ")


@pytest.mark.parametrize("how, back, sqlstate", [
    ("NOLOGIN", "LOGIN", "28000"), ("CONNECTION LIMIT 0", "CONNECTION LIMIT -1", "53300")])
def test_it_may_not_log_in_meanwhile(make, pg, how, back, sqlstate):
    """Its requests get the server's error; it is there still when it may again."""
    proxy = make(connect_timeout="1s")
    with begin(proxy) as conn:
        leave(proxy)
        pg.sql("ALTER ROLE app " + how)
        try:
            for _ in range(2):
                conn.send(query("SELECT 1"))
                assert [each["C"] for each in errors(conn.ready("I"))] == [sqlstate]
        finally:
            pg.sql("ALTER ROLE app " + back)
        assert conn.value("SHOW work_mem") == "7MB" and conn.value("SHOW my.own") == "mine"
        conn.send(bind(["7"], "plus") + execute() + SYNC)
        assert rows(conn.ready("I")) == [["8"]]


def test_many_come_back_at_once(make, pg):
    """The server is not asked to start them all at a time."""
    proxy = make(pool_size=60, workers=1)
    conns = [begin(proxy, "c%d" % n) for n in range(50)]
    leave(proxy, *("c%d" % n for n in range(50)))
    wait_for(lambda: not pg.sessions("p2", "app"), 20 * SLOW, "the end of their servers")
    for conn in conns:
        conn.send(query("SHOW work_mem"))
    waiting, most = 50, 0
    while waiting > 0:
        pool, = [row for row in proxy.command("SHOW POOLS") if row["database"] == "p2"]
        waiting, most = int(pool["cl_waiting"]), max(most, int(pool["sv_login"]))
    assert 0 < most < 40  # 16, and those that are opened at the new server for them
    for conn in conns:
        assert rows(conn.ready("I")) == [["7MB"]]


@pytest.fixture
def scene(make_scene):
    return make_scene(proxies=2, proxy={"pool_mode": "session", "session_leave_after": "50ms"})


def ended(scene):
    path, = glob.glob(os.path.join(scene.folder, "moves", "*", "report.json"))
    with open(path) as file:
        phases = {each["name"]: each for each in json.load(file)["phases"]}
    return phases["terminate"]


def test_a_hold_that_may_not_come(scene):
    """With a transaction that is open for long nobody leaves: the move is undone, and all are where
    they were."""
    scene.configure(hold_timeout="500ms")
    conns = [begin(proxy, "c%d" % n) for n, proxy in enumerate(scene.proxies * 2)]
    pids = []
    for conn in conns:
        pids.append(conn.value("SELECT pg_backend_pid()"))
        leave_unnamed(conn)
    with scene.proxies[0].wire("p2", application_name="busy") as busy:
        busy.query("BEGIN")
        wait_for(lambda: scene.pg1.value("SELECT clock_timestamp() - xact_start > interval '1 second' FROM "
                                         "pg_stat_activity WHERE application_name = 'busy'"),
                 20 * SLOW, "a second")
        scene.move(code=UNDONE)
        assert "before the hold" not in "".join(proxy.log() for proxy in scene.proxies)
        for conn, pid in zip(conns, pids):
            check(conn, "pg1")
            assert conn.value("SELECT pg_backend_pid()") == pid
            leave_unnamed(conn)
        busy.query("COMMIT")
    scene.move()
    for conn in conns:
        check(conn, "pg2")


def test_a_move(scene):
    conns = [begin(proxy, "c%d" % n) for n, proxy in enumerate(scene.proxies * 4)]
    moved = scene.move()
    assert "8 sessions of session pools went along" in moved.stdout
    for conn in conns:
        check(conn, "pg2")
    log = "".join(open(proxy.log_path).read() for proxy in scene.proxies)
    assert log.count("before the hold") == 8


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_move_that_ends_after_the_fence(scene, how):
    if how == signal.SIGKILL:  # it is the test that aborts, and not the watch over the move
        scene.configure(lease="60s")
    conns = [begin(proxy, "c%d" % n) for n, proxy in enumerate(scene.proxies * 2)]
    mover = scene.background("move", "p2", "--to", "pg2",
                             fault="journal.terminate.outcome=sleep:1500")
    wait_for(lambda: scene.proxy.held()["state"] == "held", 30 * SLOW, "the hold")
    conns[0].send(query("SHOW cluster_name"))
    mover.send_signal(how)
    code = mover.wait(60 * SLOW)
    if how == signal.SIGINT:
        assert code == UNDONE
    else:
        assert scene.run("abort").returncode == DONE
    assert rows(conns[0].ready("I")) == [["pg1"]]
    leave_unnamed(conns[0])
    for conn in conns:
        check(conn, "pg1")
    scene.move()
    for conn in conns:
        check(conn, "pg2")


@pytest.mark.parametrize("locks", [False, True])
@pytest.mark.parametrize("leave", ["0", "50ms"])
def test_unnamed_statement_that_the_new_server_does_not_take(make, pg, other, leave, locks):
    """Nobody is ended, and no hold, for a statement that may never be used: its error comes when it is,
    and it works if its table is there by then."""
    proxy = make(leave=leave)
    pg.sql("CREATE TABLE IF NOT EXISTS only_here (k int); GRANT ALL ON only_here TO PUBLIC", "p2")
    other.sql("DROP TABLE IF EXISTS only_here", "p2")
    try:
        with proxy.wire("p2", application_name="traveller") as conn, \
                proxy.wire("p2", application_name="plain") as plain:
            plain.value("SELECT 1")
            if locks:
                conn.query("SELECT pg_advisory_lock(4711)")
            conn.send(parse("SELECT count(*) FROM only_here") + SYNC)
            conn.ready("I")
            proxy.command("PREPARE SWAP p2 TO other LEAVE")
            if leave != "0" and not locks:
                await_state(proxy, "left", "traveller")
            epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
            wait_for(lambda: proxy.held()["state"] == "held", 10 * SLOW, "the hold")
            proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)
            proxy.command("RELEASE p2 EPOCH %s" % epoch)
            assert plain.value("SHOW cluster_name") == "other"
            conn.send(bind() + execute() + SYNC)
            assert errors(conn.ready("I"))[0]["C"] == "42P01"
            other.sql("CREATE TABLE only_here (k int); GRANT ALL ON only_here TO PUBLIC", "p2")
            conn.send(bind() + execute() + SYNC)
            assert rows(conn.ready("I")) == [["0"]]
            assert conn.value("SHOW cluster_name") == "other"
            if locks:
                assert conn.value("SELECT pg_advisory_unlock(4711)") == "t"
    finally:
        pg.sql("DROP TABLE IF EXISTS only_here", "p2")
        other.sql("DROP TABLE IF EXISTS only_here", "p2")


def test_a_hold_for_the_promotion_is_ended_by_no_session(make, pg, other):
    """Its mover has been told of it, and may have promoted: the one that cannot go along is ended."""
    for cluster in (pg, other):
        cluster.sql(GOING, "p2")
    proxy = make(session_pinned="abort")
    with begin(proxy) as conn, proxy.wire("p2", application_name="plain") as plain:
        plain.query("SELECT 1")
        conn.send(parse("SELECT a FROM going", "named") + SYNC)
        conn.ready("I")
        leave(proxy)
        epoch = proxy.hold("p2", "LEASE NONE")["epoch"]
        other.sql("DROP TABLE going", "p2")
        for pid in other.sessions("p2", "app"):
            other.sql("SELECT pg_terminate_backend(%d)" % pid)
        wait_for(lambda: sessions(proxy)["traveller"]["class"] == "pinned", 20 * SLOW, "the refusal")
        wait_for(lambda: "too late to end the hold" in proxy.log(), 20 * SLOW, "the verdict")
        assert proxy.held()["state"] == "held"
        proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)
        proxy.command("RELEASE p2 EPOCH %s" % epoch)
        assert plain.value("SHOW cluster_name") == "other"
        error, = errors(conn.rest())
        assert error["C"] == "57P01" and '"going"' in error["D"]
