# SPDX-License-Identifier: PostgreSQL
"""Transaction pooling: what a client has asked for, and what a reload of the server's configuration has
changed, are told apart as by a server of its own."""
import re

import pytest

from pgwire import SYNC, bind, close, errors, execute, parse, query, rows, tags
from test_09_defaults import check, connections, default_is, own  # noqa: F401 pylint: disable=unused-import



# Of a value that is so already: whether the client keeps it when the server gets another one.
TEXTS = {
    "SET TimeZone = 'UTC' -- LOCAL": True,
    "/* SET LOCAL /* x */ LOCAL */ SET TimeZone TO UTC;": True,
    "SET \"TimeZone\" = $$UTC$$": True,
    "SET SESSION timezone = 'UTC'": True,
    "SET TIME ZONE 'UTC'": True,
    "SET SESSION TIME ZONE 'UTC'": True,
    "SET U&\"TimeZone\" = 'UTC'": True,
    "SELECT 'SET LOCAL TimeZone'; SET application_name = 'LOCAL'; SET TimeZone = 'UTC'": True,
    "SELECT '" + 200 * "x" + "'; SET TimeZone = 'UTC'": True,
    "BEGIN; SET TimeZone = 'UTC'; COMMIT": True,
    "BEGIN; SET TimeZone = 'UTC'; COMMIT; SELECT 1/0": True,
    "BEGIN; SET TimeZone = 'UTC'; SAVEPOINT a; SELECT 1; ROLLBACK TO a; COMMIT": True,
    "BEGIN; SAVEPOINT a; SELECT 1; ROLLBACK TO a; SET TimeZone = 'UTC'; COMMIT": True,
    "SET LOCAL TimeZone = 'UTC'": False,
    "BEGIN; SET LOCAL TIME ZONE 'UTC'; COMMIT": False,
    "BEGIN; SET LOCAL TimeZone = 'UTC'; SET LOCAL TimeZone = 'UTC'; COMMIT": False,
    "BEGIN; SET TimeZone = 'UTC'; ROLLBACK": False,
    "SET TimeZone = 'UTC'; SELECT 1/0": False,
    "BEGIN; SAVEPOINT a; SET TimeZone = 'UTC'; ROLLBACK TO a; COMMIT": False,
    "SET TimeZone = 'UTC'; RESET TimeZone": False,
    "SET TimeZone = 'UTC'; RESET TIME ZONE": False,
    "SET TimeZone = 'UTC'; RESET ALL": False,
    "SET TimeZone TO DEFAULT": False,
    "SET TIME ZONE LOCAL": False,
    "SET TIME ZONE DEFAULT": False,
    "SET work_mem = '1MB' -- TimeZone": False,
    "SET application_name = 'TimeZone'": False,
    "SET my.timezone = 'UTC'; SET my.\"TimeZone\" = 'UTC'": False,
    "SET TRANSACTION READ ONLY; SELECT 'TimeZone'": False,
    "CREATE FUNCTION zone() RETURNS text LANGUAGE sql SET TimeZone = 'UTC' RETURN 'x'; SELECT zone()": False,
    "ALTER FUNCTION zone() SET TimeZone = 'UTC'; SET work_mem = '1MB'": False,
    "ALTER ROLE app SET TimeZone = 'UTC'; SET work_mem = '1MB'; ALTER ROLE app RESET TimeZone": False,
    "DO $$ BEGIN PERFORM 'SET TimeZone = UTC'; END $$; SET ROLE NONE": False,
    "SET SESSION AUTHORIZATION DEFAULT": False,
}


@pytest.mark.parametrize("place", ["direct", "transaction"])
def test_which_commands_set(own, make_proxy, place):  # noqa: F811
    default_is(own, "TimeZone", "UTC")
    own.sql("GRANT CREATE ON SCHEMA public TO app", "p1")
    with connections(place, own, make_proxy, 1) as connect:
        conns = {}
        for text in TEXTS:
            conns[text] = connect()
            conns[text].query(text)
        # Of several prepared statements the one that is executed counts.
        named = [connect(), connect()]
        for conn, executed in zip(named, ("s", "l")):
            conn.send(parse("SET TimeZone = 'UTC'", "s"), parse("SET LOCAL TimeZone = 'UTC'", "l"),
                      parse("SET work_mem = '1MB'"), SYNC)
            conn.ready("I")
            conn.send(bind(name=executed), execute(), SYNC)
            assert tags(conn.ready("I")) == ["SET"]
        # … and of a pipeline each.
        piped = connect()
        piped.send(parse("SET TimeZone = 'UTC'"), bind(), execute(), SYNC,
                   parse("SET work_mem = '1MB'"), bind(), execute(), SYNC, query("SELECT 1"))
        for _ in range(3):
            piped.ready("I")
        default_is(own, "TimeZone", "Asia/Tokyo")
        connect().value("SELECT 1")
        wrong = {text: conn.value("SHOW TimeZone") for text, conn in conns.items()
                 if conn.value("SHOW TimeZone") != ("UTC" if TEXTS[text] else "Asia/Tokyo")}
        assert not wrong
        check([named[0], piped], "TimeZone", "UTC")
        check(named[1:], "TimeZone", "Asia/Tokyo")


def set_text(name, value):
    return "SET %s = '%s'" % (name, value)


# Messages of one batch, and what is SET and not afterwards.
PORTALS = {
    "named": ([parse(set_text("TimeZone", "UTC")), bind(portal="a"), parse("SELECT 1"), bind(),
               execute(portal="a")], True),
    "the other": ([parse(set_text("TimeZone", "UTC")), bind(portal="a"), parse("SET work_mem = '1MB'"), bind(),
                   execute()], False),
    "not executed": ([parse("SET work_mem = '1MB'"), bind(portal="a"), parse(set_text("TimeZone", "UTC")), bind(),
                      execute(portal="a")], False),
    "both": ([parse(set_text("TimeZone", "UTC")), bind(portal="a"), parse("RESET TimeZone"), bind(portal="b"),
              execute(portal="b"), execute(portal="a")], True),
    "both, otherwise": ([parse(set_text("TimeZone", "UTC")), bind(portal="a"), parse("RESET TimeZone"),
                         bind(portal="b"), execute(portal="a"), execute(portal="b")], False),
    "a reset that is not executed": ([parse(set_text("TimeZone", "UTC")), bind(portal="a"), parse("RESET TimeZone"),
                                      bind(), execute(portal="a")], True),
    "parsed behind it": ([parse(set_text("TimeZone", "UTC")), bind(), parse("SET work_mem = '1MB'"), execute()],
                         True),
    "parsed behind another": ([parse("SET work_mem = '1MB'"), bind(), parse(set_text("TimeZone", "UTC")), execute()],
                              False),
    "closed": ([parse("SET work_mem = '1MB'", "s"), parse(set_text("TimeZone", "UTC")), bind(name="s"),
                close("S", "s"), execute()], False),
    "named and closed": ([parse(set_text("TimeZone", "UTC"), "s"), parse("SET work_mem = '1MB'"), bind(name="s"),
                          close("S", "s"), execute()], True),
}


@pytest.mark.parametrize("place", ["direct", "transaction"])
@pytest.mark.parametrize("before", ["UTC", "Asia/Kolkata"])
def test_bound_to_portals(own, make_proxy, place, before):  # noqa: F811
    """What is executed counts, whenever it was bound, and whatever was prepared since."""
    default_is(own, "TimeZone", before)
    with connections(place, own, make_proxy, 1) as connect:
        conns = {}
        for name, (messages, _) in PORTALS.items():
            conns[name] = connect()
            conns[name].value("SELECT 1")
            conns[name].send(*messages, SYNC)
            assert not errors(conns[name].ready("I"))
        other = connect()
        check([other], "TimeZone", before)
        for value in (before, "Asia/Tokyo"):
            default_is(own, "TimeZone", value)
            other.value("SELECT 1")
            for _ in range(2):
                wrong = {name: conn.value("SHOW TimeZone") for name, conn in conns.items()
                         if conn.value("SHOW TimeZone") != ("UTC" if PORTALS[name][1] else value)}
                assert not wrong
                check([other], "TimeZone", value)


@pytest.mark.parametrize("place", ["direct", "transaction"])
@pytest.mark.parametrize("pool_size", [1, 2])
def test_asked_for_at_the_start(own, make_proxy, place, pool_size):  # noqa: F811
    """What the server had by itself then: the client keeps it, whoever of its clients sees the reload
    first, and whatever RESET and DISCARD lead back to it."""
    default_is(own, "TimeZone", "UTC")
    with connections(place, own, make_proxy, pool_size) as connect:
        asks = [connect(TimeZone="UTC", DateStyle="ISO, MDY") for _ in range(4)]
        asks[1].query("RESET ALL")
        asks[2].query("DISCARD ALL")
        asks[3].query("SET TimeZone = 'Asia/Tokyo'; SET TimeZone = 'UTC'")
        plain = [connect() for _ in range(2)]
        for conn in plain[:pool_size]:
            conn.query("BEGIN")  # on servers of their own
        for conn in plain[:pool_size]:
            conn.query("COMMIT")
        for first, value in (([asks[0]], "Asia/Kolkata"), ([plain[0]], "UTC"), (asks, "Asia/Tokyo"),
                             (plain, "UTC"), ([connect()], "Asia/Kolkata")):
            default_is(own, "TimeZone", value)
            for conn in first:
                conn.value("SELECT 1")
            for _ in range(2):
                check(asks, "TimeZone", "UTC")
                check(plain, "TimeZone", value)
                check([connect()], "TimeZone", value)
                check([connect(TimeZone="UTC")], "TimeZone", "UTC")
        assert all(conn.params["DateStyle"] == "ISO, MDY" for conn in asks)


@pytest.mark.parametrize("place", ["direct", "transaction"])
def test_the_other_connections(own, make_proxy, place):  # noqa: F811
    """When one server connection has shown the new value, on the others everybody has the right one from
    the first statement on."""
    default_is(own, "TimeZone", "UTC")
    with connections(place, own, make_proxy, 2) as connect:
        asks, plain, blocks = connect(TimeZone="UTC"), connect(), [connect(), connect()]
        for conn in blocks:
            conn.query("BEGIN")
        for conn in blocks:
            conn.query("COMMIT")
        for value in ("Asia/Tokyo", "Asia/Kolkata"):
            default_is(own, "TimeZone", value)
            blocks[0].value("SELECT 1")
            blocks[0].query("BEGIN")
            assert blocks[0].value("SHOW TimeZone") == value
            assert asks.value("SHOW TimeZone") == "UTC"
            assert plain.value("SHOW TimeZone") == value
            blocks[0].query("COMMIT")


@pytest.mark.parametrize("place", ["direct", "transaction"])
def test_a_function_sets_what_is_so_already(own, make_proxy, place):  # noqa: F811
    """Which shows in nothing: what it leaves on the server connection does not keep a reload from the
    others."""
    default_is(own, "TimeZone", "UTC")
    own.sql("CREATE FUNCTION hidden() RETURNS text LANGUAGE sql AS "
            "$$ SELECT set_config('TimeZone', 'UTC', false) $$", "p1")
    with connections(place, own, make_proxy, 2) as connect:
        setter, blocks, plain = connect(), [connect(), connect()], connect()
        blocks[0].query("BEGIN")
        assert setter.value("SELECT hidden()") == "UTC"
        blocks[0].query("COMMIT")
        for conn in blocks:
            conn.query("BEGIN")
        for conn in blocks:
            conn.query("COMMIT")
        default_is(own, "TimeZone", "Asia/Tokyo")
        for _ in range(2):  # by the first one it is found out
            for conn in blocks:
                conn.query("BEGIN")
            for conn in blocks:
                conn.query("COMMIT")
            for conn in blocks:
                conn.query("BEGIN")
            shown = [conn.value("SHOW TimeZone") for conn in blocks]
            for conn in blocks:
                conn.query("COMMIT")
        assert shown == 2 * ["Asia/Tokyo"]
        check([*blocks, plain], "TimeZone", "Asia/Tokyo")


def test_asked_once(own, make_proxy):  # noqa: F811
    """A client whose functions SET something, and a reload, cost one question each; the client that leaves
    at once does not take the server connection with it."""
    default_is(own, "TimeZone", "UTC")
    own.sql("CREATE FUNCTION hidden(zone text) RETURNS text LANGUAGE sql AS "
            "$$ SELECT set_config('TimeZone', zone, false) $$", "p1")
    own.sql("ALTER SYSTEM SET log_statement = 'all'")
    own.sql("SELECT pg_reload_conf()")

    def questions():
        with open(own.log, errors="replace") as log:
            return len(re.findall(r"app@p1 LOG:  statement: .*pg_settings", log.read()))

    with connections("transaction", own, make_proxy, 1) as connect:
        plain, setter, asks = connect(), connect(), connect(TimeZone="UTC")
        pid = plain.value("SELECT pg_backend_pid()")
        for zone in ("Asia/Tokyo", "Asia/Kolkata") * 3:
            setter.value("SELECT hidden('%s')" % zone)
            check([setter], "TimeZone", zone)
            check([plain, asks], "TimeZone", "UTC")
        assert questions() == 1
        for _ in range(5):
            with connect() as conn:
                conn.send(query("SELECT hidden('Asia/Tokyo')"))
                conn.ready("I")
            assert plain.value("SELECT pg_backend_pid()") == pid
            check([plain], "TimeZone", "UTC")
        before = questions()
        # What says so itself, as frameworks do when they have connected, needs no question.
        for send in ((query("SELECT set_config('TimeZone', 'Asia/Tokyo', false)"),),
                     (parse("SELECT set_config('TimeZone', 'Asia/Tokyo', false)"), bind(), execute(),
                      SYNC)):
            with connect() as conn:
                conn.send(*send)
                conn.ready("I")
                check([conn], "TimeZone", "Asia/Tokyo")
                check([plain], "TimeZone", "UTC")
                check([conn], "TimeZone", "Asia/Tokyo")
                check([plain], "TimeZone", "UTC")
        # Nor do commands of one pipeline, each of which is another unnamed statement.
        with connect() as conn:
            conn.send(*(part for text in ("SET TimeZone = 'Asia/Tokyo'", "SET DateStyle = 'German'",
                                          "SET IntervalStyle = 'iso_8601'", "SELECT 1")
                        for part in (parse(text), bind(), execute())), SYNC)
            assert tags(conn.ready("I")) == ["SET", "SET", "SET", "SELECT 1"]
            check([plain], "TimeZone", "UTC")
            check([conn], "TimeZone", "Asia/Tokyo")
            check([conn], "IntervalStyle", "iso_8601")
            check([plain], "TimeZone", "UTC")
        assert questions() == before
        default_is(own, "TimeZone", "Europe/Paris")
        for _ in range(3):
            check([plain], "TimeZone", "Europe/Paris")
            check([asks], "TimeZone", "UTC")
        assert questions() == before + 1


def test_set_at_the_end_of_a_long_text(own, make_proxy):  # noqa: F811
    """What is prepared behind it, and means something else than for others, is nobody else's."""
    with connections("transaction", own, make_proxy, 1) as connect:
        one, two = connect(), connect()
        one.query("BEGIN; SELECT '" + 200 * "x" + "'; SET LOCAL transform_null_equals = on")
        for conn, expected in ((one, "f"), (two, None)):
            conn.send(parse("SELECT 1 = NULL", "s"), bind(name="s"), execute(), SYNC)
            assert rows(conn.ready()) == [[expected]]
            conn.query("COMMIT")


@pytest.mark.parametrize("place", ["direct", "transaction"])
def test_it_shows_while_something_else_is_set(own, make_proxy, place):  # noqa: F811
    """Before the client's request, on the connection that is being made ready for it."""
    default_is(own, "TimeZone", "UTC")
    with connections(place, own, make_proxy, 1) as connect:
        asks = connect(TimeZone="UTC", application_name="asks")
        plain, another = connect(application_name="plain"), connect(application_name="another")
        for value, first in (("Asia/Tokyo", asks), ("Asia/Kolkata", plain)):
            default_is(own, "TimeZone", "UTC")
            check([another], "TimeZone", "UTC")
            default_is(own, "TimeZone", value)
            check([first], "TimeZone", "UTC" if first is asks else value)
            check([another, plain], "TimeZone", value)
            check([asks, connect(TimeZone="UTC")], "TimeZone", "UTC")
