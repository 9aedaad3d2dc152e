# SPDX-License-Identifier: PostgreSQL
"""Clients of session pools on their way to another server: held at their safe point, given what they
had, compared, and linked with the new server; or left exactly where they were."""
import contextlib
import threading

import pytest

from pgwire import SYNC, bind, errors, execute, parse, query, rows, wait_for
from proxy import ConsoleError
from servers import SCHEMA, stopped

pytestmark = pytest.mark.threads


@pytest.fixture
def proxy(make_proxy, pg, other):
    return make_proxy({"pg": pg, "other": other}, pool_mode="session", pool_size=40)


def sessions(proxy, dbname="p2"):
    return proxy.command("SHOW SESSIONS " + dbname)


def swap(proxy, server, dbname="p2", prepare=True):
    with proxy.console() as console:
        if prepare:
            console("PREPARE SWAP %s TO %s" % (dbname, server))
        epoch = console("HOLD %s LEASE 60s DRAIN 20s" % dbname)[0]["epoch"]
        console("SWAP %s TO %s EPOCH %s FORCE" % (dbname, server, epoch))
        console("RELEASE %s EPOCH %s" % (dbname, epoch))


def where(conn):
    return conn.value("SHOW cluster_name"), conn.value("SELECT pg_backend_pid()")


@pytest.mark.parametrize("prepare", [True, False], ids=["prepared", "unprepared"])
def test_settings_go_along(proxy, prepare):
    with proxy.wire("p2", application_name="traveller", TimeZone="Asia/Tokyo") as conn, \
            proxy.wire("p2") as plain, proxy.wire("p1") as bystander:
        conn.query("SET work_mem = '7MB'; SET statement_timeout = '61s'; SET TimeZone = 'UTC'")
        key = conn.key
        before = [where(each) for each in (conn, plain, bystander)]
        assert [each[0] for each in before] == ["pg", "pg", "pg"]
        swap(proxy, "other", prepare=prepare)
        after = [where(each) for each in (conn, plain, bystander)]
        assert [each[0] for each in after] == ["other", "other", "pg"]
        assert before[2] == after[2]
        for name, value in (("work_mem", "7MB"), ("statement_timeout", "61s"), ("TimeZone", "UTC"),
                            ("application_name", "traveller")):
            assert conn.value("SHOW " + name) == value
        assert conn.key == key
        listed = {row["application_name"]: row for row in sessions(proxy)}["traveller"]
        assert listed["class"] == "movable" and listed["moved_to"] == "other"
        assert len(listed["digest_before"]) == 64
        assert listed["digest_before"] == listed["digest_after"]


@pytest.mark.parametrize("prepare", [True, False], ids=["prepared", "unprepared"])
@pytest.mark.parametrize("role", ["app", "none"])
def test_a_superusers_setting_beside_a_role_of_the_start(proxy, prepare, role):
    """The new connection has that role from its login on, too, which may not set it."""
    with proxy.wire("p2", user="postgres", options="-c role=app") as conn:
        conn.query("SET ROLE none")
        assert not errors(conn.query("SET log_min_duration_statement = '1h'"))
        conn.query("SET ROLE " + role)
        swap(proxy, "other", prepare=prepare)
        assert where(conn)[0] == "other"
        assert conn.value("SHOW log_min_duration_statement") == "1h"
        assert conn.value("SHOW role") == role
        conn.query("RESET ROLE")
        assert conn.value("SHOW role") == "app"


def test_statements_and_channels_go_along(proxy):
    """Prepared by the protocol (named and not) and by SQL; LISTEN; the role; all used afterwards."""
    with proxy.wire("p2", application_name="traveller") as conn, proxy.wire("p2") as sender:
        conn.query("PREPARE twice(int) AS SELECT $1 * 2")
        conn.query("LISTEN news")
        conn.query("SET ROLE app")
        conn.send(parse("SELECT $1::int + 1", "named") + SYNC)
        conn.until("Z")
        conn.send(parse("SELECT 'the unnamed one'") + SYNC)
        conn.until("Z")
        swap(proxy, "other")
        conn.send(bind() + execute() + SYNC)
        assert rows(conn.until("Z")) == [["the unnamed one"]]
        conn.send(bind(["41"], "named") + execute() + SYNC)
        assert rows(conn.until("Z")) == [["42"]]
        assert conn.value("EXECUTE twice(21)") == "42"
        assert conn.value("SELECT current_user") == "app"
        sender.query("NOTIFY news, 'after the move'")
        note = conn.until("A")[-1]
        assert note.body[4:] == b"news\0after the move\0"
        assert where(conn)[0] == "other"


def test_requests_wait_and_go_on(proxy):
    """What a parked client asks is a held request like others: counted, cancelled, answered."""
    with proxy.wire("p2") as conn, proxy.wire("p2") as second, proxy.console() as console:
        for each in (conn, second):
            each.query("SET work_mem = '7MB'")
        console("PREPARE SWAP p2 TO other")
        epoch = console("HOLD p2 LEASE 60s")[0]["epoch"]
        conn.send(query("SHOW work_mem") + parse("SHOW cluster_name") + bind() + execute() + SYNC)
        second.send(query("SELECT 'never'"))
        wait_for(lambda: proxy.held()["held"] == "2", what="both requests")
        second.cancel()
        assert errors(second.until("Z"))[0]["C"] == "57014"
        console("SWAP p2 TO other EPOCH %s FORCE" % epoch)
        assert proxy.held()["held"] == "1"
        console("RELEASE p2 EPOCH %s" % epoch)
        answers = conn.until("Z") + conn.until("Z")
        assert rows(answers) == [["7MB"], ["other"]]
        assert second.value("SHOW work_mem") == "7MB"


@pytest.mark.parametrize("ends", ["parked", "goes on"])
@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_cancelled_while_it_is_asked(proxy, ends, protocol):
    """What the client has sent waits for the answer of its server about the session: it is what a cancel
    request is for then.  One that comes when nothing was sent is for nothing, whatever follows."""
    asleep = "SELECT pg_sleep(60)"
    request = query(asleep) if protocol == "simple" else parse(asleep) + bind() + execute() + SYNC
    with proxy.wire("p2") as conn, proxy.wire("p2") as idle:
        pids = [int(each.value("SELECT pg_backend_pid()")) for each in (conn, idle)]
        with stopped(pids[0]), stopped(pids[1]):
            proxy.command("HOLD p2 LEASE 60s DRAIN 20s NOWAIT")
            wait_for(lambda: len(proxy.command("SHOW BLOCKERS p2")) == 2, what="both to be asked")
            conn.send(request)
            conn.cancel()
            idle.cancel()
            idle.send(query("SELECT pg_sleep(0.5), 'not cancelled'"))
            if ends == "goes on":
                proxy.command("RELEASE p2")
        assert errors(conn.ready("I"))[0]["C"] == "57014"
        if ends == "parked":
            wait_for(lambda: proxy.held()["held"] == "1", what="the other request")
            proxy.command("RELEASE p2")
        assert rows(idle.ready("I"))[0][1] == "not cancelled"
        assert [int(each.value("SELECT pg_backend_pid()")) for each in (conn, idle)] == pids


@pytest.mark.parametrize("when", ["before it is asked", "while it is asked"])
def test_cancelled_after_a_cancel_request(proxy, pg, when):
    """The server is asked as soon as the first request is over, which is too late for its statement.  The
    second one is for what was sent meanwhile."""
    with proxy.wire("p2") as conn:
        pid = int(conn.value("SELECT pg_backend_pid()"))
        conn.send(query("SELECT pg_sleep(0.5)"))
        with stopped(pg.process.pid):
            conn.cancel()
            conn.ready("I")
            proxy.command("HOLD p2 LEASE 60s DRAIN 20s NOWAIT")
            if when == "before it is asked":
                conn.send(query("SELECT pg_sleep(60)"))
                conn.cancel()
                proxy.command("SHOW BLOCKERS p2")  # its worker has heard of it
        if when == "while it is asked":
            with stopped(pid):
                conn.send(query("SELECT pg_sleep(60)"))
                conn.cancel()
                proxy.command("SHOW BLOCKERS p2")
        assert errors(conn.ready("I"))[0]["C"] == "57014"
        proxy.command("RELEASE p2")
        assert conn.value("SELECT pg_backend_pid()") == str(pid)


def test_a_hold_without_a_swap_changes_nothing(proxy, pg):
    with proxy.wire("p2") as conn, proxy.wire("p2") as asking:
        conn.query("SET work_mem = '7MB'")
        before = [where(conn), where(asking)]
        proxy.command("PREPARE SWAP p2 TO other")
        epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        asking.send(query("SELECT 1"))
        wait_for(lambda: proxy.held()["held"] == "1", what="the request")
        proxy.command("RELEASE p2 EPOCH %s" % epoch)
        asking.until("Z")
        assert [where(conn), where(asking)] == before
        proxy.command("CANCEL SWAP p2")
        assert conn.value("SHOW work_mem") == "7MB"
        assert [where(conn), where(asking)] == before


def test_the_old_server_ends_in_the_hold(proxy, pg):
    """As by the fence; then the move is given up: the session is set up anew on the same server."""
    with proxy.wire("p2", application_name="traveller") as conn:
        conn.query("SET work_mem = '7MB'; LISTEN news")
        conn.query("PREPARE twice(int) AS SELECT $1 * 2")
        server, pid = where(conn)
        epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        pg.sql("SELECT pg_terminate_backend(%s)" % pid)
        wait_for(lambda: sessions(proxy)[0]["server_pid"] is None, what="the end of the server")
        proxy.command("RELEASE p2 EPOCH %s" % epoch)
        assert conn.value("SHOW work_mem") == "7MB"
        assert conn.value("EXECUTE twice(21)") == "42"
        assert conn.value("SELECT pg_listening_channels()") == "news"
        now = where(conn)
        assert now[0] == server and now[1] != pid
        listed = sessions(proxy)[0]
        assert listed["moved_from"] == listed["moved_to"] == "pg"


def test_clients_that_leave(proxy, pg, other):
    with proxy.console() as console:
        early, parked, late = (proxy.wire("p2", application_name="leaving") for _ in range(3))
        for conn in (early, parked, late):
            conn.query("SET work_mem = '7MB'")
        console("PREPARE SWAP p2 TO other")
        early.close()
        epoch = console("HOLD p2 LEASE 60s")[0]["epoch"]
        parked.close()
        console("SWAP p2 TO other EPOCH %s FORCE" % epoch)
        late.close()
        console("RELEASE p2 EPOCH %s" % epoch)
        wait_for(lambda: not sessions(proxy), what="their end")
        with proxy.wire("p2") as conn:
            assert conn.value("SHOW cluster_name") == "other"
            assert conn.value("SHOW work_mem") == "4MB"
        wait_for(lambda: not pg.sessions("p2", "app"), what="the old servers' end")


def test_reconnect(proxy, pg):
    """A fresh connection to the same server, at the next safe point of each; pinned ones stay."""
    with proxy.wire("p2", application_name="idle") as idle, \
            proxy.wire("p2", application_name="busy") as busy, \
            proxy.wire("p2", application_name="pinned") as pinned:
        for conn in (idle, busy, pinned):
            conn.query("SET work_mem = '7MB'")
        idle.query("LISTEN news")
        busy.query("BEGIN")
        pinned.query("SELECT 1; PREPARE twice(int) AS SELECT $1 * 2")
        pids = [where(conn)[1] for conn in (idle, busy, pinned)]
        proxy.command("RECONNECT p2")

        def moved():
            return {row["application_name"]: row["moved_to"] for row in sessions(proxy)}
        wait_for(lambda: moved()["idle"] == "pg", what="the idle one")
        assert moved() == {"idle": "pg", "busy": None, "pinned": None}
        assert where(busy)[1] == pids[1]
        busy.query("COMMIT")
        wait_for(lambda: moved()["busy"] == "pg", what="the busy one")
        now = [where(conn)[1] for conn in (idle, busy, pinned)]
        assert [old == new for old, new in zip(pids, now)] == [False, False, True]
        assert pinned.value("EXECUTE twice(21)") == "42"
        pg.sql("NOTIFY news, 'still'", "p2")
        assert idle.until("A")[-1].body[4:] == b"news\0still\0"
        for conn in (idle, busy, pinned):
            assert conn.value("SHOW work_mem") == "7MB"


def test_to_a_promoted_standby(make_cluster, make_proxy):
    """As the mover does it: set up on the standby, the fence ends the old servers, promotion, swap.
    psycopg with server-side statements, a pipeline, and notifications."""
    pg1 = make_cluster("pg1")
    for name in ("p1", "p2"):
        pg1.sql("CREATE DATABASE " + name)
        pg1.sql(SCHEMA, name)
    pg2 = make_cluster.standby(pg1, "pg2", slot="standby1")
    proxy = make_proxy({"pg1": pg1, "pg2": pg2}, {"p1": "pg1", "p2": "pg1"}, pool_mode="session")
    with proxy.connect("p2", autocommit=True, application_name="driver") as conn, \
            proxy.wire("p2", options="-c statement_timeout=77s") as wire, \
            proxy.wire("p2", application_name="early", options="-c statement_timeout=78s") as early, \
            proxy.console() as console:
        # Nothing of this one has to wait for the promotion: it has all before the hold.
        early.query("SET work_mem = '9MB'; SET lock_timeout = '5s'")
        early.query("DECLARE held CURSOR WITH HOLD FOR SELECT g FROM generate_series(1, 9) g")
        early.query("FETCH 4 FROM held")
        last_asked = "SELECT query_start FROM pg_stat_activity WHERE application_name = 'early'"
        for _ in range(6):
            assert conn.execute("SELECT %s::int", [5], prepare=True).fetchone() == (5,)
        conn.execute("LISTEN news")
        conn.execute("CREATE TEMP TABLE basket (id serial PRIMARY KEY, what text)")
        conn.execute("INSERT INTO basket (what) SELECT 'fruit' || g FROM generate_series(1, 500) g")
        conn.execute("CREATE TEMP TABLE emptied (v int) ON COMMIT DELETE ROWS")
        for _ in range(6):
            assert conn.execute("SELECT count(*) FROM basket", prepare=True).fetchone() == (500,)
        conn.execute("SET default_transaction_isolation = 'serializable'")
        wire.query("SELECT set_config('work_mem', '7MB', false)")
        wire.query("SELECT pg_advisory_lock(5), pg_advisory_lock(5)")
        wait_for(lambda: pg2.value("SELECT pg_last_wal_replay_lsn() >= '%s'::pg_lsn"
                                   % pg1.value("SELECT pg_current_wal_flush_lsn()")))
        console("PREPARE SWAP p2 TO pg2")
        before = pg2.value(last_asked)
        epoch = console("HOLD p2 LEASE 60s")[0]["epoch"]
        wire.send(query("SELECT count(*) FROM items"))
        pg1.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'p2'")
        pg2.sql("SELECT pg_promote(true, 60)")
        console("SWAP p2 TO pg2 EPOCH %s" % epoch)
        console("RELEASE p2 EPOCH %s" % epoch)
        assert pg2.value(last_asked) == before
        for name, value in (("cluster_name", "pg2"), ("work_mem", "9MB"), ("lock_timeout", "5s"),
                            ("statement_timeout", "78s"), ("in_hot_standby", "off")):
            assert early.value("SHOW " + name) == value
        assert early.params["in_hot_standby"] == "off"
        assert early.value("FETCH FROM held") == "5"
        assert not errors(wire.until("Z"))
        assert wire.value("SHOW cluster_name") == "pg2"
        assert wire.value("SHOW work_mem") == "7MB"
        assert not conn.execute("SELECT pg_try_advisory_lock(5)").fetchone()[0]
        assert [wire.value("SELECT pg_advisory_unlock(5)") for _ in range(3)] == ["t", "t", "f"]
        assert wire.value("SHOW statement_timeout") == "77s"
        wire.query("RESET statement_timeout")
        assert wire.value("SHOW statement_timeout") == "77s"
        assert conn.execute("SELECT %s::int", [6], prepare=True).fetchone() == (6,)
        assert conn.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
        assert conn.execute("SELECT count(*) FROM basket", prepare=True).fetchone() == (500,)
        assert conn.execute("INSERT INTO basket (what) VALUES ('fig') RETURNING id").fetchone() == (501,)
        with conn.transaction():
            conn.execute("INSERT INTO emptied VALUES (1)")
        assert conn.execute("SELECT count(*) FROM emptied").fetchone() == (0,)
        with conn.pipeline():
            answers = [conn.execute("SELECT %s::int", [n], prepare=True) for n in range(5)]
        assert [each.fetchone()[0] for each in answers] == list(range(5))
        pg2.sql("NOTIFY news, 'there'", "p2")
        assert next(conn.notifies()).payload == "there"
        assert {row["moved_to"] for row in sessions(proxy)} == {"pg2"}


def test_many_at_once(proxy):
    """More sessions than questions go out at a time, on two workers, with state of their own."""
    conns = [proxy.wire("p2", application_name="many%d" % n) for n in range(30)]
    for n, conn in enumerate(conns):
        conn.query("SET work_mem = '%dMB'" % (n + 1))
    swap(proxy, "other")
    for n, conn in enumerate(conns):
        assert conn.value("SHOW work_mem") == "%dMB" % (n + 1)
        assert conn.value("SHOW cluster_name") == "other"
    shown = sessions(proxy)
    assert len(shown) == 30
    assert all(row["digest_before"] == row["digest_after"] for row in shown)
    for conn in conns:
        conn.close()


def test_nobody_is_let_go_on_before_locks_and_channels_are_there(proxy, pg, other):
    """The server process of a session that has some is slow at taking them."""
    with proxy.wire("p2", application_name="slow") as slow, proxy.wire("p2") as rival:
        slow.query("SELECT pg_advisory_lock(7)")
        slow.query("LISTEN news")
        rival.query("SELECT 1")
        proxy.command("PREPARE SWAP p2 TO other")
        epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        pid = other.value("SELECT pid FROM pg_stat_activity WHERE application_name = 'slow'")
        rival.send(query("SELECT pg_try_advisory_lock(7); NOTIFY news, 'first'"))
        with stopped(pid):
            proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)
            release = threading.Thread(target=proxy.command,
                                       args=("RELEASE p2 EPOCH %s" % epoch,))
            release.start()
            assert rival.silent()
        release.join()
        assert rows(rival.ready("I"))[0] == ["f"]
        assert slow.until("A")[-1].body[4:] == b"news\0first\0"
        assert slow.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == "1"
    assert "have yet to get" not in proxy.log()


def test_locks_come_before_what_others_have(proxy, pg, other):
    """The new server has no time for temporary tables before those with locks have them, and others go
    on."""
    def arrived():
        return other.value("SELECT count(*) FROM pg_class WHERE relname = 'basket'", "p2")
    with proxy.wire("p2", application_name="slow") as slow, proxy.wire("p2") as rich:
        slow.query("SELECT pg_advisory_lock(7)")
        rich.query("CREATE TEMP TABLE basket AS SELECT 1 AS what")
        proxy.command("PREPARE SWAP p2 TO other")
        epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        pid = other.value("SELECT pid FROM pg_stat_activity WHERE application_name = 'slow'")
        with stopped(pid):
            proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)
            assert slow.silent() and arrived() == 0
        proxy.command("RELEASE p2 EPOCH %s" % epoch)
        wait_for(lambda: arrived() == 1, what="the table")
        assert rich.value("SELECT what FROM basket") == "1"


def test_advisory_locks_go_along(proxy, pg, other):
    """As often as they were taken, shared and not; in a hold that ends without a swap nothing is
    lost, and nobody else can have them."""
    with proxy.wire("p2") as conn, proxy.wire("p2") as rival:
        conn.query("SELECT pg_advisory_lock(7), pg_advisory_lock(7), pg_advisory_lock_shared(8)")
        proxy.command("PREPARE SWAP p2 TO other")
        proxy.hold("p2", "LEASE 60s")
        proxy.command("RELEASE p2")
        assert rival.value("SELECT pg_try_advisory_lock(7)") == "f"
        swap(proxy, "other")
        assert where(conn)[0] == "other"
        assert rival.value("SELECT pg_try_advisory_lock(7)") == "f"
        assert rival.value("SELECT pg_try_advisory_lock(8)") == "f"
        assert rival.value("SELECT pg_try_advisory_lock_shared(8)") == "t"
        assert [conn.value("SELECT pg_advisory_unlock(7)") for _ in range(3)] == ["t", "t", "f"]
        assert conn.value("SELECT pg_advisory_unlock_shared(8)") == "t"
        assert rival.value("SELECT pg_try_advisory_lock(7)") == "t"


def test_a_notification_of_the_last_moment(proxy):
    """What was committed before the hold reaches the listener, though its server is never asked for
    anything by itself again."""
    with proxy.wire("p2") as listener, proxy.wire("p2") as sender:
        listener.query("LISTEN news")
        proxy.command("PREPARE SWAP p2 TO other")
        for n in range(5):
            sender.query("NOTIFY news, '%d'" % n)
        swap(proxy, "other", prepare=False)
        sender.query("NOTIFY news, 'last'")
        payloads = []
        while not payloads or payloads[-1] != b"last":
            payloads.append(listener.until("A")[-1].body[4:].split(b"\0")[1])
        assert payloads == [b"0", b"1", b"2", b"3", b"4", b"last"]


def test_an_unnamed_statement_that_failed(proxy):
    """It is gone on the old server, and must not be there on the new one."""
    with proxy.wire("p2") as conn:
        conn.send(parse("SELECT 1") + SYNC + parse("SELECT wrong") + SYNC)
        conn.until("Z")
        conn.until("Z")
        swap(proxy, "other")
        conn.send(bind() + execute() + SYNC)
        assert errors(conn.until("Z"))[0]["C"] == "26000"


def test_a_hold_that_ends_while_locks_are_counted(proxy):
    """The answer that comes after it is no obstacle to anything."""
    with proxy.wire("p2") as conn:
        conn.query("SELECT pg_advisory_lock(7), pg_advisory_lock(7)")
        pid = int(conn.value("SELECT pg_backend_pid()"))
        assert sessions(proxy)[0]["class"] == "movable"  # all is known but their number
        with stopped(pid), pytest.raises(ConsoleError):
            proxy.hold("p2", "LEASE 60s DRAIN 300ms POLICY abort")
        assert conn.value("SHOW cluster_name") == "pg"
        swap(proxy, "other")
        assert conn.value("SHOW cluster_name") == "other"
        assert [conn.value("SELECT pg_advisory_unlock(7)") for _ in range(3)] == ["t", "t", "f"]


def test_asked_again_before_the_hold(proxy, pg):
    """A session that was active since the swap was prepared: when it rests, not when it is held."""
    with proxy.wire("p2") as conn:
        pid = conn.value("SELECT pg_backend_pid()")
        proxy.command("PREPARE SWAP p2 TO other")
        conn.query("SET work_mem = '7MB'")
        wait_for(lambda: pg.value("SELECT query FROM pg_stat_activity WHERE pid = " + pid)
                 .startswith("WITH conf"), what="the question")
        swap(proxy, "other", prepare=False)
        assert conn.value("SHOW work_mem") == "7MB"


@pytest.mark.parametrize("before, after", [
    ("SET work_mem = '5MB'", "RESET work_mem"), ("RESET ALL", "SET work_mem = '5MB'"),
    ("SET work_mem = '5MB'", "SET work_mem = '6MB'")])
@pytest.mark.parametrize("of", ["ROLE app", "ROLE ALL", "DATABASE p2", "ROLE app IN DATABASE p2"])
def test_what_role_and_database_set_has_changed_since_the_login(proxy, pg, other, of, before, after):
    """The session goes on with what it was given, which a new one would not get: it is pinned."""
    def change(how):
        for cluster in (pg, other):
            cluster.sql("ALTER %s %s" % (of, how))
    try:
        change(before)
        with proxy.wire("p2") as conn:
            value = conn.value("SHOW work_mem")
            change(after)
            assert conn.value("SHOW work_mem") == value
            proxy.command("PREPARE SWAP p2 TO other")
            row, = sessions(proxy)
            assert row["class"] == "pinned" and "work_mem" in row["why"], row
            proxy.command("CANCEL SWAP p2")
            change(before)
            assert conn.value("SHOW work_mem") == value
            swap(proxy, "other")
            assert where(conn)[0] == "other" and conn.value("SHOW work_mem") == value
    finally:
        change("RESET ALL")


def test_who_asks_does_not_wait_for_those_who_do_not(proxy):
    """After the release sessions are set up one after the other: first those whose clients wait for it."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(proxy.wire("p2")) for _ in range(40)]
        for number, conn in enumerate(clients):
            conn.query("CREATE TEMP TABLE mine AS SELECT %d" % number)
        swap(proxy, "other")
        assert clients[-1].value("SHOW cluster_name") == "other"
        others = [row["state"] for row in proxy.command("SHOW SESSIONS")]
        assert len(others) == 40 and sum(state != "linked" for state in others) > 10
        assert all(conn.value("SHOW cluster_name") == "other" for conn in clients)
