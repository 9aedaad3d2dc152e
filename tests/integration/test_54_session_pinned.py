# SPDX-License-Identifier: PostgreSQL
"""Sessions that cannot be moved: named before anything has happened, and what is done about them."""
import time

import pytest

from pgwire import SYNC, bind, close, errors, execute, parse, query, rows, wait_for
from proxy import ConsoleError
from servers import SLOW

pytestmark = pytest.mark.threads


@pytest.fixture
def make(make_proxy, pg, other):
    def make(policy, user=None):
        return make_proxy({"pg": pg, "other": other},
                          {"p2": {"server": "pg", "session_pinned": policy}},
                          users={"app": {"session_pinned": user}} if user else None,
                          pool_mode="session")
    return make


def pin(conn):
    """A prepared statement of which the server knows only a text with other commands in it."""
    conn.query("SET work_mem = '7MB'")
    conn.query("SELECT 1; PREPARE twice(int) AS SELECT $1 * 2")


def swap(proxy, server="other"):
    epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
    proxy.command("SWAP p2 TO %s EPOCH %s FORCE" % (server, epoch))
    proxy.command("RELEASE p2 EPOCH %s" % epoch)


def listed(proxy):
    return {row["application_name"]: row for row in proxy.command("SHOW SESSIONS p2")}


def test_shown_before_any_hold(make):
    proxy = make("abort")
    with proxy.wire("p2", application_name="pinned") as pinned, \
            proxy.wire("p2", application_name="movable") as movable, \
            proxy.wire("p2", application_name="clean") as clean, \
            proxy.wire("p2", application_name="busy") as busy:
        began = time.monotonic()
        pin(pinned)
        movable.query("SET work_mem = '7MB'")
        clean.query("SELECT 1")
        busy.query("BEGIN")
        proxy.command("PREPARE SWAP p2 TO other")
        shown = listed(proxy)
        assert {name: row["class"] for name, row in shown.items()} == {
            "pinned": "pinned", "movable": "movable", "clean": "clean", "busy": "unknown"}
        assert "twice" in shown["pinned"]["why"] and shown["pinned"]["policy"] == "abort"
        assert "setting" in shown["movable"]["what"]
        age = int(shown["pinned"]["class_age_ms"])
        assert 0 <= age <= (time.monotonic() - began) * 1000
        wait_for(lambda: int(listed(proxy)["pinned"]["class_age_ms"]) > age, what="its age to grow")
        busy.query("COMMIT")
        wait_for(lambda: listed(proxy)["busy"]["class"] == "clean", what="its safe point")


def test_what_is_pinned(make):
    proxy = make("abort")
    for command, word in (("CREATE TEMP VIEW basket AS SELECT 1", "basket"),
                          ("DECLARE browse CURSOR WITH HOLD FOR SELECT 1", "browse")):
        with proxy.wire("p2") as conn:
            conn.query(command)
            with pytest.raises(ConsoleError) as error:
                proxy.hold("p2")
            assert error.value.sqlstate == "55P03" and word in error.value.fields["D"]
            conn.query("DISCARD ALL")
            proxy.hold("p2", "LEASE 60s")
            proxy.command("RELEASE p2")


def test_a_temporary_replication_slot_stays(make):
    """With its session at its server.  Every error would end it: nothing is tried that makes one."""
    proxy = make("abort")
    with proxy.wire("p2", user="postgres") as conn:
        conn.query("CREATE TEMP TABLE basket (a int) ON COMMIT DELETE ROWS")
        conn.query("SELECT pg_create_physical_replication_slot('mine', false, true)")
        conn.send(parse("SELECT 1 FROM basket") + SYNC)
        conn.ready()
        proxy.command("PREPARE SWAP p2 TO other")
        with pytest.raises(ConsoleError) as error:
            proxy.hold("p2")
        assert error.value.sqlstate == "55P03" and "slot" in error.value.fields["D"]
        proxy.command("CANCEL SWAP p2")
        proxy.command("RECONNECT p2")
        assert conn.value("SELECT slot_name FROM pg_replication_slots") == "mine"
        conn.query("SELECT pg_drop_replication_slot('mine')")
        proxy.hold("p2", "LEASE 60s")
        proxy.command("RELEASE p2")


def hide(conn, name):
    """A statement that could not be prepared now: the session does not find its table any more."""
    conn.send(parse("SELECT count(*) FROM items", name) + SYNC)
    assert not errors(conn.ready())
    conn.send(parse("SELECT set_config('search_path', 'pg_catalog', false)", "elsewhere") +
              bind([], "elsewhere") + execute() + close("S", "elsewhere") + SYNC)
    assert rows(conn.ready()) == [["pg_catalog"]]


@pytest.mark.parametrize("name", ["", "named"])
def test_a_statement_that_no_server_takes_any_more(make, name):
    """Found out before the swap, also of a session that came when connections had been opened for it."""
    proxy = make("abort")
    proxy.command("PREPARE SWAP p2 TO other")
    with proxy.wire("p2") as conn:
        hide(conn, name)
        with pytest.raises(ConsoleError) as error:
            proxy.hold("p2")
        assert error.value.sqlstate == "55P03" and '"items"' in error.value.fields["D"]
        if name == "":
            assert "unnamed statement" in listed(proxy)[""]["why"]
        conn.query("SET search_path TO public")
        if name == "":  # which that query has ended
            hide(conn, name)
            conn.send(parse("SELECT 1") + SYNC)
            conn.ready()
        proxy.hold("p2", "LEASE 60s")
        proxy.command("SWAP p2 TO other FORCE")
        proxy.command("RELEASE p2")
        conn.send(bind([], name) + execute() + SYNC)
        assert not errors(conn.ready())
        assert conn.value("SHOW cluster_name") == "other"


def test_wait(make):
    """It goes on until what pins it has gone; then the hold is drained."""
    proxy = make("wait")
    with proxy.wire("p2") as conn:
        pin(conn)
        proxy.command("PREPARE SWAP p2 TO other")
        proxy.hold("p2", "NOWAIT DRAIN 60s")
        wait_for(lambda: [row["state"][:6] for row in proxy.command("SHOW BLOCKERS p2")]
                 == ["pinned"], what="the blocker")
        assert conn.value("EXECUTE twice(21)") == "42"
        assert proxy.held()["state"] == "draining"
        conn.query("DEALLOCATE twice")
        wait_for(lambda: proxy.held()["state"] == "held", 10 * SLOW, "the drain")
        proxy.command("SWAP p2 TO other FORCE")
        proxy.command("RELEASE p2")
        assert conn.value("SHOW cluster_name") == "other"
        assert conn.value("SHOW work_mem") == "7MB"


def test_wait_until_the_deadline(make):
    proxy = make("wait")
    with proxy.wire("p2") as conn:
        pin(conn)
        with pytest.raises(ConsoleError) as error:
            proxy.hold("p2", "DRAIN 500ms")
        assert error.value.sqlstate == "55P03" and "twice" in error.value.fields["D"]
        assert conn.value("EXECUTE twice(21)") == "42"


def test_abort(make):
    """At once, and the reason is named; nobody has lost anything."""
    proxy = make("wait", user="abort")
    with proxy.wire("p2") as conn, proxy.wire("p2") as free:
        pin(conn)
        free.query("SELECT 1")
        with pytest.raises(ConsoleError) as error:
            proxy.hold("p2", "DRAIN 600s")
        assert error.value.sqlstate == "55P03" and "twice" in error.value.fields["D"]
        assert proxy.held()["state"] == "open"
        assert conn.value("EXECUTE twice(21)") == "42"
        assert free.value("SHOW cluster_name") == "pg"


def swap_or_not(proxy, swap):
    proxy.command("PREPARE SWAP p2 TO other")
    proxy.hold("p2", "LEASE 60s")
    if swap:
        proxy.command("SWAP p2 TO other FORCE")
    proxy.command("RELEASE p2")


def test_drop(make):
    """Only when the database has really been moved."""
    proxy = make("drop")
    with proxy.wire("p2") as conn, proxy.wire("p2") as free:
        pin(conn)
        free.query("SET work_mem = '9MB'")
        swap_or_not(proxy, False)
        assert conn.value("EXECUTE twice(21)") == "42"
        swap_or_not(proxy, True)
        failed = errors(conn.rest())
        assert failed[-1]["S"] == "FATAL" and failed[-1]["C"] == "57P01"
        assert "twice" in failed[-1]["D"]
        assert free.value("SHOW work_mem") == "9MB"
        assert free.value("SHOW cluster_name") == "other"


def test_move_anyway(make):
    proxy = make("move_anyway")
    with proxy.wire("p2", application_name="lossy") as conn:
        pin(conn)
        swap_or_not(proxy, False)
        assert conn.value("EXECUTE twice(21)") == "42"
        swap_or_not(proxy, True)
        conn.send(query("SHOW work_mem"))
        answer = conn.until("Z")
        warned = [message.fields() for message in answer if message.kind == "N"]
        assert [each["S"] for each in warned] == ["WARNING"] and "twice" in warned[0]["D"]
        assert rows(answer) == [["7MB"]]
        assert errors(conn.query("EXECUTE twice(21)"))[0]["C"] == "26000"
        assert conn.value("SHOW cluster_name") == "other"
        assert "twice" in listed(proxy)["lossy"]["lost"]


def test_declared_as_pinned(make_proxy, pg, other):
    """By the configuration, for what no server tells: a user, a database, an application, which may
    take its name later; and not any more when the configuration says so."""
    def why():
        proxy.command("PREPARE SWAP p2 TO other")
        return {name: row["why"] for name, row in listed(proxy).items()}
    proxy = make_proxy({"pg": pg, "other": other}, {"p1": "pg", "p2": "pg"},
                       users={"app2": {"session_pin": True}}, pool_mode="session",
                       session_pin_applications=["Reports", "dblinker"])
    with proxy.wire("p2", user="app2", application_name="by user") as first, \
            proxy.wire("p2", application_name="Reports") as second, \
            proxy.wire("p2", application_name="other") as renamed:
        for conn in (first, second, renamed):
            conn.query("SELECT 1")
        assert {name: each for name, each in why().items() if each} == {
            "by user": 'session_pin of the user "app2"',
            "Reports": 'session_pin_applications names "Reports"'}
        renamed.query("SET application_name = 'dblinker'")
        assert why()["dblinker"] == 'session_pin_applications names "dblinker"'
        with pytest.raises(ConsoleError) as error:
            proxy.hold("p2", "LEASE 60s DRAIN 300ms POLICY abort")
        assert error.value.sqlstate == "55006" or "pin" in str(error.value.fields)
        proxy.users = {}
        proxy.databases["p2"] = {"server": "pg", "session_pin": True}
        proxy.settings["session_pin_applications"] = []
        proxy.write()
        proxy.command("RELOAD")
        wait_for(lambda: set(why().values()) == {'session_pin of the database "p2"'},
                 what="the new configuration")


# A setting, a statement of which the server keeps what it meant under it, and what is set then.
MEANINGS = {
    "date": ("DateStyle = 'SQL, DMY'", "SELECT date '01/02/2026'", "DateStyle = 'ISO, MDY'"),
    "zone": ("TimeZone = 'Asia/Tokyo'", "SELECT timestamptz '2026-01-01 00:00'", "TimeZone = 'UTC'"),
    "interval": ("IntervalStyle = sql_standard", "SELECT interval '-1 2:03'", "IntervalStyle = postgres"),
    "null": ("transform_null_equals = on", "SELECT 1 WHERE NULL::int = NULL", "transform_null_equals = off"),
    "array": ("array_nulls = off", "SELECT '{NULL}'::text[]", "array_nulls = on"),
    "xml": ("xmloption = document", "SELECT xml '<a/>'", "xmloption = content"),
}


@pytest.mark.parametrize("how", ["named", "unnamed", "prepare"])
@pytest.mark.parametrize("meaning", MEANINGS)
def test_a_statement_that_would_mean_something_else(make, meaning, how):
    before, text, then = MEANINGS[meaning]
    name = "x" if how == "named" else ""
    proxy = make("abort")
    with proxy.wire("p2") as conn:
        def use():
            if how == "prepare":
                return rows(conn.query("EXECUTE x"))
            conn.send(bind([], name) + execute() + SYNC)
            return rows(conn.ready())
        conn.query("SET " + before)
        if how == "prepare":
            conn.query("PREPARE x AS " + text)
        else:
            conn.send(parse(text, name) + SYNC)
            assert not errors(conn.ready())
        meant = use()
        conn.send(parse("SET " + then, "set") + bind([], "set") + execute() + close("S", "set") + SYNC)
        assert not errors(conn.ready())
        with pytest.raises(ConsoleError) as error:
            proxy.hold("p2")
        assert error.value.sqlstate == "55P03" and "prepared statement" in error.value.fields["D"]
        assert use() == meant or meaning in ("date", "zone", "interval")  # it is only written in another way


@pytest.mark.parametrize("how", ["named", "unnamed", "named as before", "local", "do", "prepare"])
@pytest.mark.parametrize("meaning", MEANINGS)
def test_a_statement_that_would_mean_something_else_without_a_report(make, meaning, how):
    """Set and set back before the server tells anybody."""
    before, text, then = ("SET " + part if "SELECT" not in part else part for part in MEANINGS[meaning])
    reported = meaning in ("date", "zone", "interval")
    name = "" if how == "unnamed" else "x"
    proxy = make("abort")
    with proxy.wire("p2") as conn:
        def extended(sql):
            return parse(sql, "s") + bind([], "s") + execute() + close("S", "s")

        def use():
            if how in ("do", "prepare"):
                return rows(conn.query("EXECUTE x"))
            conn.send(bind([], name) + execute() + SYNC)
            return rows(conn.ready())
        if reported:
            conn.query(then)
        else:
            then = then.replace("SET", "RESET").partition(" = ")[0]
        if how == "do":
            conn.query("DO $$ BEGIN %s; EXECUTE $p$PREPARE x AS %s$p$; %s; END $$" % (before, text, then))
        elif how == "local":
            conn.send(parse("SELECT set_config('%s', '%s', true)" % tuple(before[4:].replace("'", "").split(" = ")), "s"),
                      bind([], "s"), execute(), parse(text, name), SYNC)
        elif how == "prepare":
            conn.send(extended(before), extended("PREPARE x AS " + text), extended(then), SYNC)
        elif how == "named as before":
            conn.send(parse(before, "p"), parse(then, "q"), SYNC)
            assert not errors(conn.ready())
            conn.send(bind([], "p"), execute(), parse(text, name), bind([], "q"), execute(), SYNC)
        else:
            conn.send(extended(before), parse(text, name), extended(then), SYNC)
        if how != "do":
            assert not errors(conn.ready())
        meant = use()
        with pytest.raises(ConsoleError) as error:
            proxy.hold("p2")
        assert error.value.sqlstate == "55P03" and "prepared statement" in error.value.fields["D"]
        assert use() == meant


def test_strings_that_would_mean_something_else_without_a_report(make):
    proxy = make("abort")
    with proxy.wire("p2") as conn:
        conn.send(parse("SET standard_conforming_strings = off", "s"), bind([], "s"), execute(),
                  parse("SELECT 'a\\\\b'"), parse("RESET standard_conforming_strings", "t"), bind([], "t"), execute(),
                  SYNC)
        assert not errors(conn.ready())
        with pytest.raises(ConsoleError) as error:
            proxy.hold("p2")
        assert error.value.sqlstate == "55P03" and "backslash" in error.value.fields["D"]
        conn.send(bind() + execute() + SYNC)
        assert rows(conn.ready()) == [["a\\b"]]


def test_a_statement_that_means_what_it_did(make):
    """Set before it was prepared, or back; nothing of what depends on it; or there were others then."""
    proxy = make("abort")
    with proxy.wire("p2") as conn:
        conn.query("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'SQL, DMY'")
        conn.send(parse("SELECT date '01/02/2026', 'x1'", "x") + SYNC)
        conn.ready()
        swap(proxy)
        conn.query("DEALLOCATE ALL; SET DateStyle = 'ISO, MDY'")
        conn.send(parse("SELECT date '01/02/2026', 'x1'", "x") + parse("SELECT date '01/02/2026'") + SYNC)
        conn.ready()
        swap(proxy, "pg")
        conn.query("DEALLOCATE ALL")
        conn.send(parse("SELECT 'x1', 2026", "x") + SYNC)
        conn.ready()
        conn.query("SET DateStyle = 'SQL, DMY'")
        swap(proxy)
        assert conn.value("SHOW cluster_name") == "other" and conn.value("SHOW DateStyle") == "SQL, DMY"
        # Set before it was prepared, by a message that the server had ended.
        conn.query("DEALLOCATE ALL")
        conn.send(parse("SET DateStyle = 'ISO, MDY'") + bind() + execute() + SYNC)
        conn.ready()
        conn.send(parse("SELECT date '01/02/2026'", "x") + parse("SELECT date '01/02/2026'") + SYNC)
        conn.ready()
        swap(proxy, "pg")
        assert conn.value("SHOW DateStyle") == "ISO, MDY"


@pytest.fixture
def given(pg, other):
    """ALTER ROLE on both servers; taken back at the end."""
    names = set()

    def give(name, value=None):
        names.add(name)
        for cluster in (pg, other):
            cluster.sql("ALTER ROLE app RESET %s" % name if value is None else
                        "ALTER ROLE app SET %s = '%s'" % (name, value))
    yield give
    for name in names:
        give(name)


@pytest.mark.parametrize("name,own,now", [
    (name, own, now) for name in ("lock_timeout", "statement_timeout", "wal_sender_timeout", "my.own")
    for own in (None, "44s") for now in (None, "33s") if (name, own, now) != ("my.own", None, None)])
def test_a_setting_that_the_role_had_at_the_login(make, given, name, own, now):
    """… and has not any more: RESET would lead elsewhere, which is known before anything has happened.
    (Of "my.own" nobody tells any more, unless the session has set it.)"""
    proxy = make("abort")
    given(name, "22s")
    with proxy.wire("p2", application_name="given") as conn:
        if own:
            conn.query("SET %s = '%s'" % (name, own))
        before = conn.value("SHOW " + name)
        given(name, now)
        proxy.command("PREPARE SWAP p2 TO other")
        shown = listed(proxy)["given"]
        assert shown["class"] == "pinned" and name in shown["why"], shown
        with pytest.raises(ConsoleError):
            proxy.hold("p2")
        assert conn.value("SHOW " + name) == before
        conn.query("RESET " + name)
        assert conn.value("SHOW " + name) == "22s"


@pytest.mark.parametrize("own", [None, "app"])
def test_a_role_that_it_had_at_the_login(make, pg, other, given, own):
    """RESET ROLE would lead to more than it did."""
    for cluster in (pg, other):
        cluster.sql("GRANT app2 TO app")
    proxy = make("abort")
    given("role", "app2")
    with proxy.wire("p2", application_name="given") as conn:
        conn.query("SET ROLE " + own if own else "SELECT 1")
        given("role")
        proxy.command("PREPARE SWAP p2 TO other")
        shown = listed(proxy)["given"]
        assert shown["class"] == "pinned" and '"role"' in shown["why"], shown
        assert conn.value("SELECT current_user") == (own or "app2")
        conn.query("RESET ROLE")
        assert conn.value("SELECT current_user") == "app2"
    for cluster in (pg, other):
        cluster.sql("REVOKE app2 FROM app")


def test_a_setting_that_the_role_has_still(make, given):
    """What RESET leads to goes along."""
    proxy = make("abort")
    for name in ("lock_timeout", "statement_timeout", "my.own"):
        given(name, "22s")
    with proxy.wire("p2") as conn:
        names = ("lock_timeout", "statement_timeout", "my.own")
        for name in names:
            conn.query("SET %s = '44s'" % name)
        proxy.command("PREPARE SWAP p2 TO other")
        swap(proxy)
        assert conn.value("SHOW cluster_name") == "other"
        for name in names:
            assert conn.value("SHOW " + name) == "44s"
            conn.query("RESET " + name)
            assert conn.value("SHOW " + name) == "22s"
