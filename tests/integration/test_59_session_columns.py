# SPDX-License-Identifier: PostgreSQL
"""Prepared statements of which the result type has changed since: a client that has been told the columns
once counts on them, and its server refuses the statement.  So does the one it is moved to."""
import pytest

from pgwire import SYNC, bind, close, describe, errors, execute, kinds, parse, query, rows, wait_for
from proxy import ConsoleError
from servers import SLOW
from sessiontool import open_session

pytestmark = pytest.mark.threads

MAKE = """
DROP TABLE IF EXISTS changing, steady;
CREATE TABLE changing AS SELECT 1 AS a;
CREATE TABLE steady AS SELECT 2 AS b;
GRANT ALL ON changing, steady TO PUBLIC;
"""
CHANGES = {"added": "ADD more text", "type": "ALTER a TYPE bigint", "name": "RENAME a TO b"}
REFUSED = [("0A000", "cached plan must not change result type")]


@pytest.fixture
def make(make_proxy, pg, other):
    def make(**settings):
        for cluster in (pg, other):
            cluster.sql(MAKE, "p2")
        return make_proxy({"pg": pg, "other": other}, {"p2": "pg"}, pool_mode="session", **settings)
    return make


def begin(proxy, *names):
    conn = proxy.wire("p2", application_name="traveller")
    conn.send(b"".join(parse("SELECT * FROM changing", name) for name in names) +
              parse("SELECT * FROM steady WHERE b = $1", "steady") + SYNC)
    assert not errors(conn.ready("I"))
    return conn


def change(how, *clusters):
    for cluster in clusters:
        cluster.sql("ALTER TABLE changing " + CHANGES[how], "p2")


def row(proxy):
    row, = proxy.command("SHOW SESSIONS p2")
    return row


def told(conn, data):
    conn.send(data)
    messages = conn.ready("I")
    return kinds(messages), [(each["C"], each["M"]) for each in errors(messages)]


def check(conn, server):
    """Of "one", "two" and "three" nobody is to get what he does not expect."""
    run = bind([], "one") + execute()
    conn.send(run + SYNC)
    error, = errors(conn.ready("I"))
    assert (error["C"], error["M"]) == REFUSED[0]
    assert error["R"] == "RevalidateCachedQuery"  # by which pgjdbc knows that it helps to prepare it again
    assert told(conn, run + bind([], "two") + execute() + SYNC) == ("EZ", REFUSED)
    assert told(conn, bind(["2"], "steady") + execute() + run + SYNC) == ("2DCEZ", REFUSED)
    assert told(conn, describe("S", "one") + SYNC) == ("tEZ", REFUSED)
    conn.send(query("BEGIN") + run + SYNC + run + SYNC + query("ROLLBACK"))
    assert [each["C"] for _ in range(4) for each in errors(conn.ready())] == ["0A000", "25P02"]
    conn.send(parse("SELECT name FROM pg_prepared_statements ORDER BY 1", "look") + bind([], "look") + execute() +
              close("S", "look") + SYNC)
    assert rows(conn.ready("I")) == [["look"], ["one"], ["steady"], ["three"], ["two"]]
    # Each of the ways in which drivers go on: under another name, or under the same.
    assert told(conn, parse("SELECT a FROM changing", "one") + SYNC)[1][0][0] in ("42P05", "42703")
    assert told(conn, query("DEALLOCATE one")) == ("CZ", [])
    assert told(conn, run + SYNC)[1][0][0] == "26000"
    assert told(conn, close("S", "two") + parse("SELECT * FROM changing", "two") + SYNC) == ("31Z", [])
    assert told(conn, describe("S", "two") + bind([], "two") + execute() + SYNC) == ("tT2DCZ", [])
    # Nobody sees this: that it can be used is known when it was prepared again.
    conn.query("DO $$ BEGIN EXECUTE 'DEALLOCATE three'; END $$")
    assert told(conn, parse("SELECT wrong", "three") + SYNC)[1][0][0] == "42703"
    assert told(conn, parse("SELECT 1", "three") + bind([], "three") + execute() + SYNC) == ("12DCZ", [])
    assert told(conn, bind([], "three") + execute() + SYNC) == ("2DCZ", [])
    conn.send(bind(["2"], "steady") + execute() + SYNC)
    assert rows(conn.ready("I")) == [["2"]]
    assert conn.value("SHOW cluster_name") == server


def swap(proxy):
    epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
    proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)
    proxy.command("RELEASE p2 EPOCH %s" % epoch)


@pytest.mark.parametrize("how", CHANGES)
def test_changed_before(make, pg, other, how):
    proxy = make()
    with begin(proxy, "one", "two", "three") as conn:
        change(how, pg, other)
        proxy.command("PREPARE SWAP p2 TO other")
        assert row(proxy)["class"] == "movable" and row(proxy)["what"] == "4 prepared statements"
        swap(proxy)
        check(conn, "other")
        assert row(proxy)["digest_before"] == row(proxy)["digest_after"]


@pytest.mark.parametrize("how", ["reconnect", "leave", "undone"])
def test_changed_before_a_new_connection_to_the_same_server(make, pg, other, how):
    proxy = make(session_leave_after="50ms" if how == "leave" else "0")
    with begin(proxy, "one", "two", "three") as conn:
        old = pg.sessions("p2", "app")
        if how == "leave":
            proxy.command("PREPARE SWAP p2 TO other LEAVE")
            wait_for(lambda: row(proxy)["state"] == "left", 20 * SLOW, "it to leave")
        elif how == "undone":
            epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        change("added", pg)
        if how == "reconnect":
            proxy.command("RECONNECT p2")
            wait_for(lambda: not pg.sessions("p2", "app") & old, 20 * SLOW, "the end of its server")
        elif how == "undone":
            pg.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
            wait_for(lambda: not pg.sessions("p2", "app") & old, 20 * SLOW, "the end of its server")
            proxy.command("RELEASE p2 EPOCH %s" % epoch)
        check(conn, "pg")


def test_moved_twice(make, pg, other):
    """It is not forgotten, and no more than that."""
    proxy = make()
    with begin(proxy, "one", "two", "three") as conn:
        change("added", pg, other)
        swap(proxy)
        assert told(conn, bind([], "one") + execute() + SYNC) == ("EZ", REFUSED)
        epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        proxy.command("SWAP p2 TO pg EPOCH %s FORCE" % epoch)
        proxy.command("RELEASE p2 EPOCH %s" % epoch)
        check(conn, "pg")


def test_other_columns_at_the_new_server(make, other):
    """Changed there, or here since it was asked: it is not known what its client would get."""
    proxy = make()
    with begin(proxy, "one") as conn:
        change("type", other)
        proxy.command("PREPARE SWAP p2 TO other")
        assert row(proxy)["class"] == "pinned" and "other columns" in row(proxy)["why"], row(proxy)
        conn.send(bind([], "one") + execute() + SYNC)
        assert rows(conn.ready("I")) == [["1"]]


def test_made_by_prepare(make, pg, other):
    """EXECUTE is a text: it stays where the statement is refused."""
    proxy = make()
    with begin(proxy) as conn:
        conn.query("PREPARE mine AS SELECT * FROM changing")
        change("added", pg, other)
        proxy.command("PREPARE SWAP p2 TO other")
        assert row(proxy)["class"] == "pinned" and '"mine"' in row(proxy)["why"]
        assert told(conn, query("EXECUTE mine"))[1] == REFUSED
        conn.query("DEALLOCATE mine")
        proxy.command("PREPARE SWAP p2 TO other")
        assert row(proxy)["class"] == "movable"


PARAMETERS = {"temporary": ["CREATE TEMP TABLE mine AS SELECT 1 AS a", "ALTER TABLE mine ALTER a TYPE bigint"],
              "lock": ["SELECT pg_advisory_lock(7)"], "alone": []}


@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize("scene", PARAMETERS)
def test_made_by_prepare_with_other_parameters(make, pg, other, scene, prepared):
    """Their types come of what it is about: known before the swap, also where none was prepared."""
    table = "mine" if scene == "temporary" else "changing"
    proxy = make(session_pinned="abort")
    with begin(proxy) as conn:
        for command in [*PARAMETERS[scene][:1],
                        "PREPARE typed (text, numeric(9, 2)) AS SELECT $1 || $2 FROM %s WHERE a = $3" % table,
                        "PREPARE given (\"unknown\", int) AS SELECT $1 FROM %s WHERE a = $2" % table,
                        "PREPARE open AS SELECT 5 FROM %s WHERE a = $1" % table,
                        *PARAMETERS[scene][1:]]:
            assert not errors(conn.query(command))
        if scene != "temporary":
            change("type", pg, other)
        for name in ("typed", "open"):
            if prepared:
                proxy.command("PREPARE SWAP p2 TO other")
                assert row(proxy)["class"] == "pinned" and '"%s"' % name in row(proxy)["why"], row(proxy)
            with pytest.raises(ConsoleError) as error:
                proxy.hold("p2", "LEASE 60s")
            assert error.value.sqlstate == "55P03" and '"%s"' % name in error.value.fields["D"]
            assert '"given"' not in error.value.fields["D"]
            assert conn.value("EXECUTE open(1)") == "5"
            conn.query("DEALLOCATE " + name)
        swap(proxy)
        assert conn.value("EXECUTE given('x', 1)") == "x"
        assert conn.value("SHOW cluster_name") == "other"


def test_other_parameters_moved_anyway(make, pg, other):
    proxy = make(session_pinned="move_anyway")
    with begin(proxy) as conn:
        conn.query("PREPARE open AS SELECT 5 FROM changing WHERE a = $1")
        types = "SELECT parameter_types FROM pg_prepared_statements WHERE name = 'open'"
        assert conn.value(types) == "{integer}"
        change("type", pg, other)
        swap(proxy)
        conn.send(query(types))
        answer = conn.ready("I")
        assert ["open" in message.fields()["D"] for message in answer if message.kind == "N"] == [True]
        assert rows(answer) == [["{bigint}"]]
        assert conn.value("EXECUTE open(1)") == "5"


def test_while_it_is_being_changed(make, pg):
    """Nobody waits for the lock, and it is asked again when that is free."""
    proxy = make()
    with begin(proxy, "one") as conn, pg.connect("p2") as changer:
        changer.execute("ALTER TABLE changing ADD more text")
        proxy.command("PREPARE SWAP p2 TO other")
        wait_for(lambda: row(proxy)["current"] == "0", 20 * SLOW, "its question to be given up")
        conn.send(bind(["2"], "steady") + execute() + SYNC)
        assert rows(conn.ready("I")) == [["2"]]
        changer.rollback()
        wait_for(lambda: row(proxy)["current"] == "1", 20 * SLOW, "another answer")
        assert row(proxy)["class"] == "movable"
        swap(proxy)
        conn.send(bind([], "one") + execute() + SYNC)
        assert rows(conn.ready("I")) == [["1"]]


def test_reconnect_while_it_is_being_changed(make, pg):
    proxy = make()
    with begin(proxy, "one") as conn, pg.connect("p2") as changer:
        old = pg.sessions("p2", "app")
        changer.execute("LOCK TABLE changing")
        proxy.command("RECONNECT p2")
        for _ in range(5):
            conn.send(bind(["2"], "steady") + execute() + SYNC)
            assert rows(conn.ready("I")) == [["2"]]
        assert pg.sessions("p2", "app") == old
        changer.rollback()
        wait_for(lambda: not pg.sessions("p2", "app") & old, 20 * SLOW, "the end of its server")
        conn.send(bind([], "one") + execute() + SYNC)
        assert rows(conn.ready("I")) == [["1"]]


def test_execute_of_one_made_by_prepare(make, other):
    """What that returns is known when EXECUTE is parsed: not before there is what it names."""
    proxy = make()
    with begin(proxy) as conn:
        conn.query("PREPARE mine AS SELECT * FROM changing")
        conn.send(parse("EXECUTE mine", "runs it") + SYNC)
        swap(proxy)
        assert kinds(conn.ready("I")) == "1Z"
        assert told(conn, describe("S", "runs it") + bind([], "runs it") + execute() + SYNC) == ("tT2DCZ", [])
        assert conn.value("SHOW cluster_name") == "other"


@pytest.mark.parametrize("how", ["swap", "reconnect"])
def test_unnamed(make, pg, other, how):
    proxy = make()
    with begin(proxy, "") as conn:
        change("added", pg, other)
        if how == "swap":
            swap(proxy)
        else:
            old = pg.sessions("p2", "app")
            proxy.command("RECONNECT p2")
            wait_for(lambda: not pg.sessions("p2", "app") & old, 20 * SLOW, "the end of its server")
        for _ in range(2):
            assert told(conn, bind() + execute() + SYNC) == ("EZ", REFUSED)
            assert told(conn, describe("S") + SYNC) == ("tEZ", REFUSED)  # its parameters are told first
        run = bind() + describe() + execute() + SYNC
        assert told(conn, parse("SELECT * FROM changing") + run) == ("12TDCZ", [])
        assert told(conn, run) == ("2TDCZ", [])
        assert conn.value("SELECT 1") == "1"
        assert told(conn, run)[1][0][0] == "26000"


@pytest.mark.parametrize("text", ["SELECT * FROM changing WHERE a = $1", "INSERT INTO changing VALUES ($1)"])
def test_unnamed_of_a_table_that_has_gone(make, pg, text):
    """Set up anew at its server, it is told what that would have told: first the parameters."""
    proxy = make()
    with begin(proxy) as conn:
        conn.send(parse(text) + describe("S") + SYNC)
        before = conn.ready("I")
        old = pg.sessions("p2", "app")
        epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        pg.sql("DROP TABLE changing", "p2")
        pg.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
        wait_for(lambda: not pg.sessions("p2", "app") & old, 20 * SLOW, "the end of its server")
        proxy.command("RELEASE p2 EPOCH %s" % epoch)
        conn.send(describe("S") + SYNC)
        messages = conn.ready("I")
        assert messages[0].kind == "t" and messages[0].body == before[1].body
        if text.startswith("SELECT"):
            assert kinds(messages) == "tEZ" and errors(messages)[0]["C"] == "42P01"
        else:
            assert kinds(messages) == "tnZ"
        assert told(conn, bind(["1"]) + execute() + SYNC)[1][0][0] == "42P01"


def test_other_columns_first_known_in_the_hold(make, other):
    """With a lock not all of it can be given to the new server before the swap, but compared it is."""
    proxy = make(session_pinned="abort")
    with begin(proxy) as conn, proxy.console() as console:
        change("type", other)
        proxy.command("PREPARE SWAP p2 TO other")
        assert row(proxy)["class"] == "movable"
        conn.query("BEGIN")
        conn.send(parse("SELECT * FROM changing", "one") + query("SELECT pg_advisory_lock(7)"))
        assert not errors(conn.ready("T"))
        console.send("HOLD p2 LEASE 60s")
        wait_for(lambda: proxy.held()["state"] == "draining", 10 * SLOW, "the hold")
        assert not errors(conn.query("COMMIT"))
        with pytest.raises(ConsoleError) as error:
            console.result()
        assert error.value.sqlstate == "55P03" and "other columns" in error.value.fields["D"]
        conn.send(bind([], "one") + execute() + SYNC)
        assert rows(conn.ready("I")) == [["1"]]
        assert conn.value("SHOW cluster_name") == "pg"


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1"])
def test_names_that_are_not_ascii(make, pg, other, encoding):
    """What they return is asked as of all others; a refusal of theirs depends on what their bytes mean."""
    proxy = make()
    name = "pr\u00fcfung"
    sent = name.encode("latin1" if encoding == "LATIN1" else "utf8")
    with begin(proxy) as conn:
        conn.query("SET client_encoding = '%s'" % encoding)
        conn.send(parse("SELECT * FROM changing", sent) + SYNC)
        assert not errors(conn.ready("I"))
        swap(proxy)
        conn.send(bind([], sent) + execute() + SYNC)
        assert rows(conn.ready("I")) == [["1"]] and conn.value("SHOW cluster_name") == "other"
        change("type", pg)
        proxy.command("PREPARE SWAP p2 TO pg")
        assert row(proxy)["class"] == "pinned" and name in row(proxy)["why"], row(proxy)
        assert "other columns" in row(proxy)["why"]
        proxy.command("CANCEL SWAP p2")
        change("type", other)
        assert conn.value("SELECT 1") == "1"
        proxy.command("PREPARE SWAP p2 TO pg")
        assert row(proxy)["class"] == "pinned" and "not ASCII" in row(proxy)["why"], row(proxy)
        assert told(conn, bind([], sent) + execute() + SYNC) == ("EZ", REFUSED)
        assert conn.value("SHOW client_encoding") == encoding


def test_executed_as_sql(make, pg, other):
    """EXECUTE finds the statements of the protocol, too: what its old server would refuse, this one refuses."""
    proxy = make()
    with begin(proxy, "one", "Two") as conn, open_session(pg, dbname="p2") as twin:
        twin.send(parse("SELECT * FROM changing", "one") + parse("SELECT * FROM changing", "Two") +
                  parse("SELECT * FROM steady WHERE b = $1", "steady") + SYNC)
        assert not errors(twin.ready("I"))
        change("added", pg, other)
        swap(proxy)

        def both(*data):
            answers = []
            for each in (conn, twin):
                each.send(b"".join(data))
                messages = [message for _ in data for message in each.ready()]
                answers.append((kinds(messages), [(error["C"], error["M"]) for error in errors(messages)]))
            assert answers[0] == answers[1]
            return answers[0]
        for text in ("EXECUTE one", "/* EXECUTE */ execute ONE ;; -- two", 'EXECUTE "Two"'):
            assert both(query(text)) == ("EZ", REFUSED)
        assert both(query("EXECUTE steady(2)")) == ("TDCZ", [])
        assert both(query("EXECUTE two")) == ("EZ", [("26000", 'prepared statement "two" does not exist')])
        # Behind others of which it is not known yet what comes of them.
        assert both(query("BEGIN"), query("EXECUTE one"), query("EXECUTE one"), query("ROLLBACK"))[0] == "CZEZEZCZ"
        assert both(query("BEGIN"), query("SELECT wrong"), query("EXECUTE one"),
                    query("ROLLBACK"))[0] == "CZEZEZCZ"
        assert both(parse("SELECT 1") + SYNC, query("EXECUTE one"), bind() + execute() + SYNC)[1][1][0] == "26000"
        # Among others, or as one of the protocol: not by that name, and not with rows.
        for command in (query("CREATE TEMP TABLE made (); EXECUTE one"), query("EXPLAIN EXECUTE one"),
                        query("EXECUTE one; SELECT 1"), parse("EXECUTE one") + bind() + execute() + SYNC):
            assert told(conn, command)[1] == [("26000", 'prepared statement "one" does not exist')]
            assert told(conn, bind([], "one") + execute() + SYNC) == ("EZ", REFUSED)
        assert conn.value("SELECT to_regclass('made')") is None
        assert both(query("DEALLOCATE one")) == ("CZ", [])
        assert both(query("EXECUTE one"))[1][0][0] == "26000"
        assert both(close("S", "Two") + parse("SELECT a FROM changing", "Two") + SYNC) == ("31Z", [])
        assert both(query('EXECUTE "Two"')) == ("TDCZ", [])
        assert conn.value("SHOW cluster_name") == "other"


def test_one_that_may_execute_it(make, pg, other):
    proxy = make()
    with begin(proxy, "one") as conn:
        conn.send(parse("EXECUTE one", "runs it") + SYNC)
        assert not errors(conn.ready("I"))
        change("added", pg, other)
        proxy.command("PREPARE SWAP p2 TO other")
        assert row(proxy)["class"] == "pinned" and '"runs it"' in row(proxy)["why"]
        assert told(conn, bind([], "runs it") + execute() + SYNC) == ("2EZ", REFUSED)


@pytest.mark.parametrize("how", ["protocol", "sql", "unnamed"])
def test_hidden_by_a_temporary_table(make, pg, how):
    """Which of the two it is about depends on what there was when it was prepared, and nobody tells: it stays,
    and its server is not made look the name up again."""
    proxy = make()
    with begin(proxy) as conn:
        conn.query("CREATE TEMP TABLE first (v int)")  # from now on temporary ones come first
        name = "" if how == "unnamed" else "mine"
        run = query("EXECUTE mine") if how == "sql" else bind([], name) + execute() + SYNC

        def make_it():
            conn.send(query("PREPARE mine AS SELECT a FROM changing") if how == "sql" else
                      parse("SELECT a FROM changing", name) + SYNC)
            assert not errors(conn.ready("I"))
        make_it()
        hide = parse("CREATE TEMP TABLE changing AS SELECT 99 AS a", "hide") + bind([], "hide") + execute() + SYNC
        conn.send(hide + run)
        assert not errors(conn.ready("I")) and rows(conn.ready("I")) == [["1"]]
        if how == "sql":
            conn.query("SET search_path = pg_catalog")
        elif how == "protocol":
            conn.send(parse("SET search_path = pg_catalog", "set") + bind([], "set") + execute() + SYNC)
            assert not errors(conn.ready("I"))
        proxy.command("PREPARE SWAP p2 TO other")
        assert row(proxy)["class"] == "pinned" and "hides another" in row(proxy)["why"], row(proxy)
        assert '"%s"' % name in row(proxy)["why"]
        proxy.command("CANCEL SWAP p2")
        if how == "sql":
            conn.query("SET search_path = DEFAULT")
        elif how == "protocol":
            conn.send(parse("SET search_path = DEFAULT", "back") + bind([], "back") + execute() + SYNC)
            assert not errors(conn.ready("I"))
        conn.send(run)
        assert rows(conn.ready("I")) == [["1"]]
        # Where it was prepared again, or is qualified, it is clear; but not to us.
        conn.query("DROP TABLE pg_temp.changing")
        proxy.command("PREPARE SWAP p2 TO other")
        assert row(proxy)["class"] == "movable", row(proxy)


@pytest.mark.parametrize("moved", [True, False])
def test_hidden_by_a_table_made_later(make, pg, moved):
    """By one earlier in the path: of that PostgreSQL takes no notice until the other one is altered or analysed.
    A session that is moved does it then."""
    pg.sql("DROP SCHEMA IF EXISTS early CASCADE; CREATE SCHEMA early; GRANT USAGE ON SCHEMA early TO PUBLIC;", "p2")
    proxy = make()
    with proxy.wire("p2") as conn:
        conn.query("SET search_path = early, public")
        conn.send(parse("SELECT * FROM steady", "x") + bind([], "x") + execute() + SYNC)
        assert rows(conn.ready("I")) == [["2"]]
        pg.sql("CREATE TABLE early.steady AS SELECT 3 AS b; GRANT SELECT ON early.steady TO PUBLIC", "p2")
        conn.send(bind([], "x") + execute() + SYNC)
        assert rows(conn.ready("I")) == [["2"]]
        if moved:
            before = conn.value("SELECT pg_backend_pid()")
            proxy.command("RECONNECT p2")
            wait_for(lambda: conn.value("SELECT pg_backend_pid()") != before, what="another connection")
        else:
            pg.sql("ANALYZE public.steady", "p2")
        conn.send(bind([], "x") + execute() + SYNC)
        assert rows(conn.ready("I")) == [["3"]]
