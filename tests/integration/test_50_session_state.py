# SPDX-License-Identifier: PostgreSQL
"""What a session is: asked of a server, carried to another connection, compared.  The messages are
those of proxy/session/; they go over raw connections to PostgreSQL, without the proxy."""
import time

import pytest

from pgwire import SYNC, bind, describe, errors, execute, kinds, parse, query, rows, wait_for
from servers import VERSION
from sessiontool import PROMOTED, STANDBY, Tool, open_session

# Time limits, and whether the question is to be put neutrally to get round them.
LIMITS = [("statement_timeout", 1)]
if int(VERSION) >= 17:
    LIMITS += [("transaction_timeout", 0), ("transaction_timeout", 1)]


@pytest.fixture
def tool():
    with Tool() as tool:
        yield tool


@pytest.fixture
def sessions(pg):
    conns = []

    def make(**kwargs):
        conns.append(open_session(pg, **kwargs))
        return conns[-1]
    yield make
    for conn in conns:
        conn.close()


def carry(tool, old, new):
    """All of a carriage; both end with the same digest."""
    assert tool.inspect(old, 0) == "ok"
    assert tool.replay(new, STANDBY) is None
    assert tool.inspect(new, 1, like=0) == "ok"
    assert tool.same(STANDBY) == "same"
    assert tool.replay(new, PROMOTED) is None
    assert tool.inspect(new, 1, like=0) == "ok"
    assert tool.same(PROMOTED) == "same"
    assert tool.digest(0) == tool.digest(1)


def run(tool, conn, *texts):
    for text in texts:
        tool.text(text)
        assert not errors(conn.query(text)), text


def test_new_session_is_clean(tool, sessions):
    old, new = sessions(), sessions()
    assert tool.inspect(old) == "ok"
    assert tool.classify() == ["clean", "", ""]
    carry(tool, old, new)


def test_settings(tool, sessions):
    old, new = sessions(), sessions()
    run(tool, old, "SET work_mem = '7MB'", "SET search_path = \"$user\", nothere, 'a \"b'",
        "SET DateStyle = 'German'", "SET TIME ZONE INTERVAL '+02:30' HOUR TO MINUTE",
        "SELECT set_config('enable_sort', 'off', false)", "SET statement_timeout = '90s'",
        "DO $$ BEGIN PERFORM set_config('geqo', 'off', false); END $$",
        "SET default_transaction_isolation = 'serializable'", "SET client_encoding = 'LATIN1'",
        "SET default_transaction_read_only = on", "SET idle_session_timeout = '5min'",
        "SET application_name = 'it''s \\ me'", "SET extra_float_digits = -3",
        "SET standard_conforming_strings = off", "SET bytea_output = escape")
    carry(tool, old, new)
    assert tool.classify()[0] == "movable" and tool.classify()[1] == "15 settings"
    for name in ("work_mem", "search_path", "DateStyle", "TimeZone", "enable_sort", "geqo",
                 "statement_timeout", "default_transaction_isolation", "client_encoding",
                 "default_transaction_read_only", "idle_session_timeout", "application_name",
                 "standard_conforming_strings", "bytea_output"):
        assert new.value("SHOW " + name) == old.value("SHOW " + name), name
    # What RESET leads to is the same, too.
    for conn in (old, new):
        conn.query("RESET ALL")
    assert new.value("SHOW ALL") == old.value("SHOW ALL")


def test_late_settings_wait_for_the_promotion(tool, sessions):
    old, new = sessions(), sessions()
    run(tool, old, "SET default_transaction_isolation = 'serializable'",
        "SET idle_session_timeout = '1s'", "SET statement_timeout = '1s'")
    assert tool.inspect(old) == "ok"
    assert tool.replay(new, STANDBY) is None
    assert new.value("SHOW default_transaction_isolation") == "read committed"
    assert new.value("SHOW idle_session_timeout") == "0"
    assert tool.inspect(new, 1, like=0) == "ok"
    assert tool.same(STANDBY) == "same"
    assert tool.same(PROMOTED) != "same"
    assert tool.replay(new, PROMOTED) is None
    assert new.value("SHOW idle_session_timeout") == "1s"
    assert new.value("SHOW default_transaction_isolation") == "serializable"


def test_settings_of_the_catalog(tool, pg, sessions):
    """ALTER DATABASE and ALTER ROLE give them to every new session; those of others do not matter.
    One that was changed since the session began is a difference that is seen."""
    pg.sql("CREATE DATABASE given")
    pg.sql("ALTER DATABASE given SET work_mem = '9MB'; "
           "ALTER DATABASE given SET statement_timeout = '61s'; "
           "ALTER DATABASE given SET default_transaction_isolation = 'serializable'; "
           "ALTER ROLE app IN DATABASE given SET app.tenant = 'seven'; "
           "ALTER ROLE app2 IN DATABASE given SET enable_sort = off; "
           "ALTER ROLE app IN DATABASE given SET log_min_duration_statement = '99s'")
    old, new = sessions(dbname="given"), sessions(dbname="given")
    carry(tool, old, new)
    assert tool.classify() == ["clean", "", ""]
    assert tool.kind("cat")["work_mem"] == "9216"
    assert tool.kind("custom")["app.tenant"] == "seven"
    assert "enable_sort" not in tool.kind("cat")
    for name in ("statement_timeout", "default_transaction_isolation", "app.tenant"):
        assert new.value("SHOW " + name) == old.value("SHOW " + name)
    source = "SELECT source FROM pg_settings WHERE name = '%s'"
    assert new.value(source % "statement_timeout") == "database"
    pg.sql("ALTER DATABASE given SET work_mem = '10MB'")
    late = sessions(dbname="given")
    assert tool.replay(late, STANDBY) is None
    assert tool.inspect(late, 2, like=0) == "ok"
    assert 'setting "work_mem": "9216" became "10240"' == tool.same(STANDBY, 0, 2)
    run(tool, old, "SET work_mem = '9MB'")
    assert tool.inspect(old) == "ok"
    assert tool.replay(late, STANDBY) is None
    assert tool.inspect(late, 2, like=0) == "ok"
    assert 'RESET to "9216" became "10240"' in tool.same(STANDBY, 0, 2)


def test_custom_settings(tool, sessions):
    old, new = sessions(), sessions()
    run(tool, old, "SET app.person = 'x y'", "SELECT set_config('App.Tenant', 'ü', false)",
        "BEGIN; SET LOCAL a.local = '1'; SET SESSION a.b.c TO 'deep'; COMMIT",
        "/* c */ SET \"quoted\".name = 'q'", "DO $x$ BEGIN SET in_.block = 'b'; END $x$",
        "DO $$ BEGIN EXECUTE 'SET plain.hidden = 5'; END $$")
    old.query("SET unseen.setting = 'u'")
    assert tool.inspect(old, custom="Unseen.setting,,nothing.here") == "ok"
    custom = tool.kind("custom")
    assert custom == {"app.person": "x y", "app.tenant": "ü", "a.local": "", "a.b.c": "deep",
                      "quoted.name": "q", "in_.block": "b", "unseen.setting": "u",
                      "plain.hidden": "5", "nothing.here": None}
    assert tool.classify()[:2] == ["movable", "8 settings"]
    assert tool.replay(new, STANDBY) is None
    assert tool.inspect(new, 1, like=0) == "ok"
    assert tool.same(STANDBY) == "same"
    for name in ("app.person", "app.tenant", "a.local", "a.b.c", "quoted.name", "in_.block",
                 "plain.hidden"):
        assert new.value("SHOW " + name) == old.value("SHOW " + name)


def test_setting_of_a_library_that_is_loaded_later(tool, sessions):
    old, new = sessions(), sessions()
    run(tool, old, "DO $$ BEGIN END $$", "SET plpgsql.extra_warnings = 'all'")
    carry(tool, old, new)
    new.query("DO $$ BEGIN END $$")
    assert new.value("SHOW plpgsql.extra_warnings") == "all"


@pytest.mark.parametrize("text", [
    "SELECT set_config($1, $2, false)", "SELECT pg_catalog.SET_Config(n, v, false) FROM t",
    "SELECT set_config('a' || '.b', 'c', false)", "SELECT set_config(E'a.b', 'c', false)",
    "DO $$ BEGIN EXECUTE format('SET %I.dyn = 1', 'app'); END $$"])
def test_computed_names_pin(tool, sessions, text):
    tool.text(text)
    assert tool.inspect(sessions()) == "ok"
    assert tool.classify()[0] == "pinned" and "whose name was not seen" in tool.classify()[2]
    assert tool.classify(known=1)[0] == "clean"


def test_role_and_session_authorization(tool, pg, sessions):
    pg.sql("CREATE ROLE \"Odd ' role\"; CREATE ROLE plain; GRANT plain TO \"Odd ' role\"")
    old, new = sessions(user="postgres"), sessions(user="postgres")
    run(tool, old, "SET log_min_duration_statement = '88s'",
        "SET dynamic_library_path = '/nowhere'",
        "SET SESSION AUTHORIZATION \"Odd ' role\"", "SET ROLE plain")
    carry(tool, old, new)
    assert tool.classify()[1].endswith('role "plain"')
    who = "SELECT session_user || '/' || current_user || '/' || current_setting('role')"
    assert new.value(who) == old.value(who) == "Odd ' role/plain/plain"
    for conn in (old, new):
        assert errors(conn.query("SET log_min_duration_statement = 1"))
        conn.query("RESET ROLE")
        conn.query("RESET SESSION AUTHORIZATION")
    assert new.value(who) == old.value(who) == "postgres/postgres/none"
    assert new.value("SHOW log_min_duration_statement") == "88s"


def test_settings_hidden_from_the_role(tool, pg, sessions):
    """A superuser that has become somebody else does not see some settings that it set before."""
    old, new = sessions(user="postgres"), sessions(user="postgres")
    run(tool, old, "SET dynamic_library_path = '/nowhere'", "SET ROLE app",
        "SET statement_timeout = '61s'")
    assert tool.inspect(old) == "again"
    assert tool.inspect(old, neutral=1) == "ok"
    assert tool.kind("guc") == {"dynamic_library_path": "/nowhere", "statement_timeout": "61000"}
    assert tool.kind("role") == {"role": "app", "session_authorization": "postgres"}
    # The question itself has changed nothing.
    assert old.value("SELECT current_user || ' ' || current_setting('statement_timeout')") == \
        "app 61s"
    assert tool.replay(new, STANDBY) is None
    assert tool.replay(new, PROMOTED) is None
    assert tool.inspect(new, 1, like=0, neutral=1) == "ok"
    assert tool.same(PROMOTED) == "same"


@pytest.mark.parametrize("name", ["dynamic_library_path", "session_preload_libraries"])
@pytest.mark.parametrize("text", ["SET %s = '$libdir'", "SET ROLE boss; SET %s = '$libdir'",
                                  "SELECT set_config('%s', '$libdir', false)"])
def test_settings_that_its_own_role_may_not_see(tool, pg, sessions, text, name):
    """Set while it was another."""
    pg.sql("DROP ROLE IF EXISTS boss; CREATE ROLE boss SUPERUSER; GRANT boss TO app")
    try:
        old = sessions()
        run(tool, old, *(part.strip() for part in ("SET ROLE boss; " + text % name).split(";")))
        assert tool.inspect(old) == "ok"
        assert tool.classify()[0] == "movable"  # as long as its role is that one
        run(tool, old, "RESET ROLE")
        assert tool.inspect(old) == "ok"
        assert tool.classify() == ["pinned", "", "the setting %s, which was SET and which its role may not see" % name]
    finally:
        pg.sql("REVOKE boss FROM app; DROP ROLE boss")


def test_privilege_that_is_gone(tool, pg, sessions):
    pg.sql("CREATE FUNCTION log_all() RETURNS text LANGUAGE sql SECURITY DEFINER AS "
           "$$ SELECT set_config('log_min_messages', 'debug1', false) $$", "p1")
    old, new = sessions(), sessions()
    run(tool, old, "SELECT log_all()")
    assert tool.inspect(old) == "ok"
    step, error = tool.replay(new, STANDBY)
    assert step == "settings" and error["C"] == "42501"


def test_protocol_statements(tool, sessions):
    old, new = sessions(client_encoding="LATIN1"), sessions(client_encoding="LATIN1")
    old.send(parse("SELECT $1 + 1", "typed", [20]), parse("SELECT $1", "open"),
             parse("", "empty"), parse("SELECT 'caf\xe9'".encode("latin1"), b"n\xe9"),
             parse("SELECT 'back\\slash' -- comment", "Odd \" name"), SYNC)
    old.ready("I")
    carry(tool, old, new)
    assert tool.classify() == ["movable", "1 setting, 5 prepared statements", ""]
    for conn in (old, new):
        conn.send(bind(["41"], "typed"), execute(), bind(["x"], "open"), execute(),
                  bind([], "empty"), execute(), bind([], b"n\xe9"), execute(),
                  bind([], 'Odd " name'), execute(), describe("S", "typed"), SYNC)
    assert [m.body for m in new.ready("I")] == [m.body for m in old.ready("I")]


def test_sql_prepare(tool, sessions):
    old, new = sessions(), sessions()
    run(tool, old, "prepare one(int, text) as select $1, $2;;",
        "/* a */ PREPARE \"Two\" AS SELECT 'semi;colon' -- ;\n, $1::text || $$;$$")
    carry(tool, old, new)
    for conn in (old, new):
        assert rows(conn.query("EXECUTE one(1, 'x')")) == [["1", "x"]]
        assert rows(conn.query("EXECUTE \"Two\"('t')")) == [["semi;colon", "t;"]]


@pytest.mark.parametrize("text", [
    "SELECT 1; PREPARE p AS SELECT 2", "PREPARE p AS SELECT 2; CREATE TABLE made_twice ()",
    "PREPARE q AS SELECT 1; PREPARE p AS SELECT 2",
    "DO $$ BEGIN EXECUTE 'PREPARE p AS SELECT 2'; END $$"])
def test_sql_prepare_among_others_pins(tool, sessions, text):
    old = sessions()
    run(tool, old, text)
    assert tool.inspect(old) == "ok"
    verdict = tool.classify()
    if text.startswith("DO"):
        assert verdict[0] == "movable"
    else:
        assert verdict[0] == "pinned" and "among other statements in one query" in verdict[2]
    old.query("DROP TABLE IF EXISTS made_twice")


def test_prepared_strings_that_mean_something_else_now(tool, sessions):
    old = sessions()
    run(tool, old, "SET standard_conforming_strings = off", "PREPARE p AS SELECT 'a\\\\b'",
        "SET standard_conforming_strings = on")
    tool("parameter", "standard_conforming_strings")
    assert tool.inspect(old) == "ok"
    assert tool.classify()[0] == "pinned" and "backslash" in tool.classify()[2]


def test_statement_that_cannot_be_prepared_any_more(tool, pg, sessions):
    old, new = sessions(), sessions()
    pg.sql("CREATE TABLE short_lived (a int)", "p1")
    old.send(parse("SELECT a FROM short_lived", "s"), SYNC)
    old.ready("I")
    pg.sql("DROP TABLE short_lived", "p1")
    assert tool.inspect(old) == "ok"
    step, error = tool.replay(new, STANDBY)
    assert step == 'prepared statement "s"' and error["C"] == "42P01"


def test_unnamed_statement_survives_and_is_carried(tool, sessions):
    old, new = sessions(), sessions()
    old.send(parse("SELECT $1 || '!'"), SYNC)
    old.ready("I")
    tool.unnamed("SELECT $1 || '!'")
    carry(tool, old, new)
    assert tool.classify()[:2] == ["movable", "the unnamed statement"]
    for conn in (old, new):
        conn.send(bind(["x"]), execute(), SYNC)
        assert rows(conn.ready("I")) == [["x!"]]


def test_channels(tool, sessions):
    old, new, other = sessions(), sessions(), sessions()
    run(tool, old, "LISTEN news", "LISTEN \"Odd \"\" channel\"")
    carry(tool, old, new)
    assert tool.classify()[1] == "2 channels listened to"
    other.query("NOTIFY \"Odd \"\" channel\", 'x'")
    assert new.until("A")[-1].body[4:] == b'Odd " channel\0x\0'


def test_what_holds_a_session(tool, sessions):
    old = sessions()
    run(tool, old, "SELECT pg_advisory_lock(7), pg_advisory_lock_shared(1, 2)",
        "BEGIN; DECLARE \"my cursor\" SCROLL CURSOR WITH HOLD FOR SELECT 1; COMMIT",
        "CREATE TEMP TABLE mine (a int)", "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql "
        "AS 'SELECT 1'", "CREATE TYPE pg_temp.mood AS ENUM ('good')")
    assert tool.inspect(old) == "ok"
    verdict = tool.classify()
    assert verdict[0] == "pinned"
    assert verdict[1] == "2 advisory locks, 1 cursor, 3 temporary objects"
    assert 'cursor' not in tool.classify(cursors=1)[2]
    for reason in ('advisory lock "0 7 1 ExclusiveLock"', 'advisory lock "1 2 2 ShareLock"',
                   'cursor "my cursor" WITH HOLD', 'temporary object "mine"',
                   'temporary object "pg_proc ', 'temporary object "pg_type '):
        assert reason in verdict[2]
    run(tool, old, "DISCARD ALL")
    assert tool.inspect(old) == "ok"
    assert tool.classify() == ["movable", "an empty temporary schema", ""]


def test_a_temporary_replication_slot_holds_it(tool, sessions):
    """Its own one, which ends with its server process; and only that."""
    old, other = sessions(user="postgres"), sessions(user="postgres")
    for conn, name in ((other, "theirs"), (old, "mine")):
        conn.query("SELECT pg_create_physical_replication_slot('%s', false, true)" % name)
    assert tool.inspect(old) == "ok"
    assert tool.classify() == ["pinned", "1 temporary replication slot",
                               'temporary replication slot "mine"']
    run(tool, old, "SELECT pg_drop_replication_slot('mine')")
    assert tool.inspect(old) == "ok"
    assert tool.classify() == ["clean", "", ""]


KEYS = ["7", "-1", "0", str(-2 ** 63), "1, 2", "-5, -6"]


def held(conn):
    """How often each lock is held: until it is no more."""
    counts = []
    for key in KEYS:
        for shared in ("", "_shared"):
            n = 0
            while conn.value("SELECT pg_advisory_unlock%s(%s)" % (shared, key)) == "t":
                n += 1
            counts.append(n)
    return counts


def test_advisory_locks_with_their_counts(tool, sessions):
    old, new, other = sessions(), sessions(), sessions()
    other.query("SELECT pg_advisory_lock_shared(7)")
    taken = []
    for i, key in enumerate(KEYS):
        for shared, n in (("", i % 3 if key != "7" else 0), ("_shared", (i + 1) % 4)):
            taken.append(n)
            for _ in range(n):
                old.query("SELECT pg_advisory_lock%s(%s)" % (shared, key))
    assert tool.inspect(old) == "ok"
    assert tool.count_locks(old) == "ok"
    assert tool.inspect(new, 1, like=0) == "ok"
    assert tool.replay(new, STANDBY) is None
    # On the same server the old session has them still.
    step, error = tool.replay(new, PROMOTED)
    assert step.startswith("advisory lock") and error["C"] == "55P03"
    assert tool.classify(locks=1)[0] == "movable"
    new = sessions(dbname="p2")  # advisory locks belong to a database
    assert tool.replay(new, PROMOTED) is None
    assert tool.inspect(new, 1, like=0) == "ok"
    assert tool.same(PROMOTED) == "same"
    # Counting has changed nothing.
    assert held(old) == held(new) == taken


def test_counting_lets_nobody_in(tool, sessions, pg):
    """Neither one that waits for the lock nor one that tries all the time."""
    old, waiting, trying = sessions(), sessions(), sessions()
    run(tool, old, "SELECT pg_advisory_lock(99), pg_advisory_lock(99)",
        "SET statement_timeout = '1min'")
    waiting.send(query("SELECT pg_advisory_lock(99)"))
    wait_for(lambda: pg.sql("SELECT 1 FROM pg_locks WHERE objid = 99 AND NOT granted"))
    trying.send(query("DO $$ DECLARE until timestamptz := clock_timestamp() + interval '1s'; BEGIN "
                      "WHILE clock_timestamp() < until LOOP IF pg_try_advisory_lock(99) THEN "
                      "RAISE 'got it'; END IF; END LOOP; END $$"))
    assert tool.inspect(old) == "ok"
    for _ in range(200):
        assert tool.count_locks(old) == "ok"
    assert not errors(trying.ready("I"))
    assert pg.value("SELECT count(*) FROM pg_locks WHERE objid = 99 AND NOT granted") == 1
    assert old.value("SHOW statement_timeout") == "1min"
    assert [old.value("SELECT pg_advisory_unlock(99)") for _ in range(2)] == ["t", "t"]
    waiting.ready("I")


HOSTILE = """
CREATE SCHEMA hostile;
SET search_path = hostile, pg_catalog;
CREATE FUNCTION boom(name, text) RETURNS bool LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'hostile operator'; END $$;
CREATE FUNCTION boom(text, text) RETURNS bool LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'hostile operator'; END $$;
CREATE FUNCTION boom(oid, oid) RETURNS bool LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'hostile operator'; END $$;
CREATE FUNCTION boom(int, int) RETURNS bool LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'hostile operator'; END $$;
CREATE OPERATOR = (FUNCTION = boom, LEFTARG = name, RIGHTARG = text);
CREATE OPERATOR = (FUNCTION = boom, LEFTARG = text, RIGHTARG = text);
CREATE OPERATOR = (FUNCTION = boom, LEFTARG = oid, RIGHTARG = oid);
CREATE OPERATOR = (FUNCTION = boom, LEFTARG = int, RIGHTARG = int);
CREATE OPERATOR ~~ (FUNCTION = boom, LEFTARG = text, RIGHTARG = text);
CREATE FUNCTION lower(text) RETURNS text LANGUAGE sql AS 'SELECT ''hostile''';
CREATE FUNCTION encode(bytea, text) RETURNS text LANGUAGE sql AS 'SELECT ''hostile''';
CREATE FUNCTION set_config(text, text, bool) RETURNS text LANGUAGE sql AS 'SELECT ''hostile''';
CREATE FUNCTION unnest(text[]) RETURNS SETOF text LANGUAGE sql AS 'SELECT ''hostile''';
CREATE VIEW pg_settings AS SELECT 'hostile' AS name, '' AS setting, '' AS reset_val;
CREATE VIEW pg_class AS SELECT 0 AS oid, 'hostile' AS relname;
CREATE DOMAIN hostile.text AS pg_catalog.text CHECK (VALUE = 'hostile');
CREATE DOMAIN hostile.oid AS pg_catalog.oid CHECK (VALUE = 1);
GRANT USAGE ON SCHEMA hostile TO PUBLIC;
"""


def test_nothing_of_the_session_misleads_the_question(tool, pg, sessions):
    pg.sql("CREATE DATABASE hostile")
    pg.sql(HOSTILE, "hostile")
    old, new = sessions(dbname="hostile"), sessions(dbname="hostile")
    # The old and the new name of one setting.
    run(tool, old, "SELECT set_config(name, 'on', false) FROM pg_settings WHERE name IN "
        "('force_parallel_mode', 'debug_parallel_query')",
        "SET search_path = hostile, pg_catalog", "SET row_security = off",
        "SET DateStyle = 'SQL, DMY'", "SET IntervalStyle = sql_standard", "SET bytea_output = escape",
        "SET extra_float_digits = -15", "SET client_encoding = SJIS", "SET array_nulls = off",
        "SET standard_conforming_strings = off", "SET quote_all_identifiers = on",
        "SET transform_null_equals = on", "SET client_min_messages = debug5",
        "SET default_transaction_read_only = on", "SET work_mem = '64kB'",
        "SET enable_hashagg = off", "SET app.x = 'y'",
        "SET client_min_messages = warning")
    carry(tool, old, new)
    assert tool.kind("guc")["search_path"] == "hostile, pg_catalog"
    assert tool.kind("custom") == {"app.x": "y"}
    assert len(tool.kind("guc")) == 16


@pytest.mark.parametrize("start", ["", "-c quote_all_identifiers=on"])
@pytest.mark.parametrize("texts", [
    ["SET quote_all_identifiers = on", "SET default_text_search_config = german"],
    ["SET quote_all_identifiers = off", "SET default_text_search_config = german"],
    ["SET default_text_search_config = german", "SET quote_all_identifiers = on"],
    ["SET quote_all_identifiers = on", "SET default_text_search_config = german",
     "SET quote_all_identifiers = off"],
    ["SET quote_all_identifiers = on", "SET default_text_search_config = german",
     "RESET quote_all_identifiers"],
    ["SET default_text_search_config = german"]])
def test_a_setting_that_is_written_as_another_says(tool, sessions, start, texts):
    old, new = sessions(options=start), sessions(options=start)
    run(tool, old, *texts)
    carry(tool, old, new)
    for name in ("default_text_search_config", "quote_all_identifiers"):
        assert new.value("SHOW " + name) == old.value("SHOW " + name)


def test_a_tiny_statement_timeout(tool, sessions):
    """It may end the question: asked again, neutral, it is out of the way and yet told."""
    old, new = sessions(), sessions()
    run(tool, old, "SET statement_timeout = 3", "SET app.x = 'y'")
    answer = tool.inspect(old)
    assert answer == "ok" or answer["C"] == "57014"
    for _ in range(200):  # under load even the first of it may take as long
        answer = tool.inspect(old, 0, neutral=1)
        if answer == "ok":
            break
        assert answer["C"] == "57014"
    assert answer == "ok"
    assert tool.kind("guc")["statement_timeout"] == "3"
    assert old.value("SHOW statement_timeout") == "3ms"
    assert tool.replay(new, STANDBY) is None
    assert tool.replay(new, PROMOTED) is None
    assert new.value("SHOW statement_timeout") == "3ms"


@pytest.mark.parametrize("name, neutral", LIMITS)
def test_a_time_limit_does_not_end_the_question(tool, pg, sessions, name, neutral):
    """That of a transaction would end the session.  The new server works under none before the end."""
    old, new = sessions(), sessions()
    run(tool, old, "SET %s = 700" % name, "PREPARE s AS SELECT 1", "LISTEN c",
        "SET default_transaction_isolation = 'serializable'")  # under which no standby could work
    with pg.connect("p1") as blocker:
        blocker.execute("LOCK TABLE pg_catalog.pg_db_role_setting")
        old.send(bytes.fromhex(tool("ask", "-", "-", neutral)))
        time.sleep(1.5)
    messages = old.ready("I")
    assert not errors(messages), errors(messages)
    assert tool("rows", 0, *[m.body.hex() for m in messages if m.kind == "D"]) == "ok"
    assert tool.kind("guc") == {name: "700", "default_transaction_isolation": "serializable"}
    assert old.value("SHOW " + name) == "700ms"
    assert tool.replay(new, STANDBY) is None
    assert new.value("SHOW " + name) == "0"
    assert tool.replay(new, PROMOTED) is None
    assert new.value("SHOW " + name) == "700ms"
    assert tool.inspect(new, 1, like=0, neutral=neutral) == "ok"
    assert tool.same(PROMOTED) == "same" and tool.digest(0) == tool.digest(1)


@pytest.mark.parametrize("name", sorted({name for name, _ in LIMITS}))
def test_who_has_set_a_time_limit(tool, pg, sessions, name):
    """What RESET leads to is told as of all others."""
    pg.sql("CREATE DATABASE limit_%s; " % name)
    pg.sql("ALTER DATABASE limit_%s SET %s = '71s'" % (name, name))
    for dbname in ("p1", "limit_" + name):
        for options in ("", "-c %s=72s" % name):
            for texts in ([], ["SET %s = '73s'" % name], ["SET %s = 0" % name],
                          ["SET %s = '71s'" % name], ["SET %s = '73s'" % name, "RESET " + name]):
                old, new, plain = [sessions(dbname=dbname, options=options) for _ in range(3)]
                run(tool, old, *texts)
                carry(tool, old, new)
                source = "SELECT setting || reset_val FROM pg_settings WHERE name = '%s'" % name
                assert new.value(source) == old.value(source)
                for conn in (old, new):
                    conn.query("RESET ALL")
                assert new.value("SHOW " + name) == old.value("SHOW " + name) == plain.value("SHOW " + name)
                for conn in (old, new, plain):
                    conn.close()


def test_the_question_leaves_nothing(tool, sessions):
    conn = sessions()
    conn.send(parse("SELECT 'mine'"), SYNC)
    conn.ready("I")
    for neutral in (0, 1, 0):
        assert tool.inspect(conn, neutral=neutral) == "ok"
    conn.send(bind(), execute(), SYNC)
    assert kinds(conn.ready("I")) == "2DCZ"
    assert rows(conn.query("SELECT name FROM pg_prepared_statements")) == []
    # Its own statements do not show even while they are there.
    conn.send(parse("SELECT 1", "pgshunt%set"), SYNC)
    conn.ready("I")
    assert tool.inspect(conn) == "ok"
    assert tool.kind("proto") == {}
    conn.send(parse("SELECT 1", "pgshunt%mine"), SYNC)
    conn.ready("I")
    assert tool.inspect(conn) == "ok"
    assert tool.kind("proto") == {"pgshunt%mine": "SELECT 1"}


def test_answers_that_are_none(tool):
    assert tool("rows", 0, "0001") == "bad"
    assert tool("rows", 0, "") == "bad"
    assert tool("rows", 0, "000400000003677563ffffffffffffffffffffffff") == "bad"
