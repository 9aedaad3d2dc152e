# SPDX-License-Identifier: PostgreSQL
"""Prepared statements of the protocol in transaction pooling: what a client prepared works on
whatever server it gets."""
import psycopg
import pytest

from pgwire import (FLUSH, SYNC, bind, close, describe, errors, execute, kinds, parse, query, rows,
                    tags)


def run(conn, *messages):
    conn.send(*messages, SYNC)
    return conn.ready()


@pytest.fixture(params=[1, 2])
def proxy(make_proxy, request):
    return make_proxy(pool_size=request.param)


def test_statement_works_on_every_server(make_proxy):
    """Two clients take turns on two servers; each finds its statement on both."""
    proxy = make_proxy(pool_size=2)
    sql = "SELECT '%s', $1::int, pg_backend_pid()"
    with proxy.wire() as one, proxy.wire() as two, proxy.wire() as first, proxy.wire() as second:
        for conn, name in ((one, "one"), (two, "two")):
            assert kinds(run(conn, parse(sql % name, "s"), describe("S", "s"))) == "1tTZ"
        seen = {"one": set(), "two": set()}

        def use():
            for conn, name in ((one, "one"), (two, "two"), (one, "one")):
                messages = run(conn, bind([7], "s"), describe(), execute())
                assert kinds(messages) == "2TDCZ"
                assert rows(messages)[0][:2] == [name, "7"]
                seen[name].add(rows(messages)[0][2])
        # A transaction occupies one server: the requests go to the other.  Then the other way.
        first.query("BEGIN")
        use()
        second.query("BEGIN")
        first.query("COMMIT")
        use()
        second.query("COMMIT")
        assert len(seen["one"]) == 2 and len(seen["two"]) == 2


def test_same_name_in_different_clients(proxy):
    conns = [proxy.wire() for _ in range(4)]
    for n, conn in enumerate(conns):
        assert kinds(run(conn, parse("SELECT %d + $1::int" % n, "stmt"))) == "1Z"
    for _ in range(3):
        for n, conn in enumerate(conns):
            assert rows(run(conn, bind([10], "stmt"), execute())) == [[str(10 + n)]]
    for conn in conns:
        conn.close()


def test_same_text_is_shared_by_the_clients_of_a_server(make_proxy, pg):
    proxy = make_proxy(pool_size=1)
    conns = [proxy.wire() for _ in range(5)]
    for n, conn in enumerate(conns):
        name = "name%d" % n
        run(conn, parse("SELECT 'shared', $1::int", name))
        assert rows(run(conn, bind([n], name), execute())) == [["shared", str(n)]]
    count = conns[0].value("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE "
                           "'SELECT ''shared''%'")
    assert count == "1"
    for conn in conns:
        conn.close()


# What a text means depends on settings of the client's: two of them, the text, both answers.
MEANINGS = {
    "DateStyle": ("ISO, DMY", "ISO, MDY", "SELECT date '01/02/2020'", "2020-02-01", "2020-01-02"),
    "TimeZone": ("UTC", "Asia/Tokyo", "SELECT extract(epoch FROM timestamptz '1970-01-02')::int",
                 "86400", "54000"),
    "client_encoding": ("LATIN1", "UTF8", "SELECT length('é')", "2", "1"),
    "standard_conforming_strings": ("off", "on", r"SELECT length('\\')", "1", "2"),
    "IntervalStyle": ("postgres", "sql_standard",
                      "SELECT extract(epoch FROM interval '-1 1:00')::int", "-82800", "-90000"),
    "search_path": ("meaning1", "meaning2", "SELECT what FROM meaning", "one", "other"),
}


@pytest.mark.parametrize("name", MEANINGS)
def test_same_text_means_something_else(make_proxy, pg, name):
    """…to a client with other settings, and to one that changes them, on the same server."""
    first, second, sql, *expected = MEANINGS[name]
    for schema, what in (("meaning1", "one"), ("meaning2", "other")):
        pg.sql("CREATE SCHEMA IF NOT EXISTS %s; CREATE OR REPLACE VIEW %s.meaning AS SELECT '%s'::text "
               "AS what; GRANT ALL ON SCHEMA %s TO app; GRANT ALL ON %s.meaning TO app" %
               (schema, schema, what, schema, schema), "p1")
    proxy = make_proxy(pool_size=1)
    with proxy.wire(**{name: first}) as one, proxy.wire(**{name: second}) as other:
        for n in range(2):
            for conn, value in zip((one, other), expected):
                if n == 0:
                    conn.send(parse(sql, "s"))
                conn.send(bind([], "s"), execute(), SYNC)
                assert rows(conn.ready("I")) == [[value]]
        if name != "search_path":  # of which the proxy is not told
            other.query("SET %s = '%s'" % (name, first))
            other.send(parse(sql, "t"), bind([], "t"), execute(), SYNC)
            assert rows(other.ready("I")) == [[expected[0]]]
            one.query("SET %s = '%s'" % (name, second))
            one.send(parse(sql, "t"), bind([], "t"), execute(), SYNC)
            assert rows(one.ready("I")) == [[expected[1]]]


def ask(sql, name=""):
    return parse(sql, name) + bind([], name) + execute()


# What sets the meaning of a text in one packet with its Parse.
AHEAD = {
    "SET": ask("SET DateStyle = 'ISO, DMY'"),
    "Query": query("SET DateStyle = 'ISO, DMY'"),
    "function": ask("SELECT set_config('DateStyle', 'ISO, DMY', false)"),
    "RESET": ask("SET DateStyle = 'SQL'") + ask("SET DateStyle = 'ISO, DMY'"),
    "batch before": ask("SET DateStyle = 'ISO, DMY'") + SYNC,
}


@pytest.mark.parametrize("case", AHEAD)
def test_setting_and_parse_in_one_packet(make_proxy, case):
    proxy = make_proxy(pool_size=1, workers=1)
    with proxy.wire() as one, proxy.wire() as other:
        one.send(AHEAD[case], ask("SELECT date '01/02/2020'", "s"), SYNC, query("SELECT 'last'"))
        messages = one.ready()
        while rows(messages)[-1:] != [["last"]]:
            assert not errors(messages)
            if rows(messages):
                assert rows(messages)[-1] == ["2020-02-01"] or case == "function"
            messages = one.ready()
        for conn, expected in ((other, "2020-01-02"), (one, "2020-02-01"), (other, "2020-01-02")):
            if conn is other:
                run(conn, close("S", "s"), parse("SELECT date '01/02/2020'", "s"))
            assert rows(run(conn, bind(name="s"), execute())) == [[expected]]


def test_what_is_not_to_be_shared_stays_so_over_a_reload(make_proxy):
    proxy = make_proxy(pool_size=1, workers=1)
    with proxy.wire() as one, proxy.wire() as other:
        one.query("BEGIN")
        one.send(AHEAD["function"], ask("SELECT date '01/02/2020'", "s"), SYNC)
        assert not errors(one.ready())
        proxy.command("RELOAD")
        one.query("COMMIT")
        assert rows(run(other, ask("SELECT date '01/02/2020'", "s"))) == [["2020-01-02"]]


def test_search_path_of_a_transaction(make_proxy, pg):
    """Each finds the table of its own, though it has other columns: at once and later, on each server."""
    for n in (1, 2):
        pg.sql("DROP SCHEMA IF EXISTS tenant%d CASCADE; CREATE SCHEMA tenant%d; GRANT ALL ON SCHEMA "
               "tenant%d TO app; CREATE TABLE tenant%d.own AS SELECT %s; GRANT ALL ON tenant%d.own TO "
               "app" % (n, n, n, n, "'one'::text AS a" if n == 1 else "2 AS a, 'two' AS b", n), "p1")
    proxy = make_proxy(pool_size=2, workers=1)
    conns = {proxy.wire(): (1, ["one"]), proxy.wire(): (2, ["2", "two"])}
    with proxy.wire() as third:
        for turn in range(4):
            if turn == 2:
                third.query("BEGIN")  # takes a server away
            for conn, (n, expected) in conns.items():
                conn.query("BEGIN")
                conn.query("SET LOCAL search_path = tenant%d" % n)
                if turn == 0:
                    assert kinds(run(conn, parse("SELECT * FROM own", "s"))) == "1Z"
                assert rows(run(conn, bind(name="s"), execute())) == [expected]
                conn.query("COMMIT")
        third.query("COMMIT")
    for conn in conns:
        conn.close()


# What a statement returns is altered by a client of the proxy's.
ALTERED = {
    "column": ["ALTER TABLE altered ADD b int DEFAULT 2"],
    "in a transaction": ["BEGIN", "ALTER TABLE altered ADD b int DEFAULT 2", "COMMIT"],
    "new table": ["DROP TABLE altered; CREATE TABLE altered AS SELECT 1 AS a, 2 AS b"],
}


@pytest.mark.parametrize("case", ALTERED)
def test_who_prepares_after_a_change_is_not_told_of_it(make_proxy, pg, case):
    pg.sql("DROP TABLE IF EXISTS altered; CREATE TABLE altered AS SELECT 1 AS a; "
           "GRANT ALL ON altered TO app; ALTER TABLE altered OWNER TO app; "
           "GRANT CREATE ON SCHEMA public TO app", "p1")
    proxy = make_proxy(pool_size=1, workers=1)
    with proxy.wire() as one, proxy.wire() as two, proxy.wire() as other:
        for conn in (one, two):
            assert rows(run(conn, ask("SELECT * FROM altered", "s"))) == [["1"]]
        for sql in ALTERED[case]:
            assert not errors(other.query(sql))
        assert rows(run(other, ask("SELECT * FROM altered", "s"))) == [["1", "2"]]
        # Who keeps the old one is told, as by PostgreSQL.
        assert errors(run(one, bind(name="s"), execute()))[0]["C"] == "0A000"
        assert rows(run(two, close("S", "s"), ask("SELECT * FROM altered", "s"))) == [["1", "2"]]


@pytest.mark.parametrize("again", [False, True], ids=["kept", "prepared again"])
def test_old_statement_on_a_server_that_has_not_had_it(make_proxy, pg, again):
    """It is prepared there as it is now, whatever its client was told before: like pgbouncer, and unlike
    PostgreSQL, which has the old one and refuses it."""
    pg.sql("DROP TABLE IF EXISTS altered; CREATE TABLE altered AS SELECT 1 AS a; GRANT ALL ON altered TO app", "p1")
    proxy = make_proxy(pool_size=2, workers=1)
    with proxy.wire() as conn, proxy.wire() as other:
        assert rows(run(conn, ask("SELECT * FROM altered", "s"))) == [["1"]]
        pg.sql("ALTER TABLE altered ADD b int DEFAULT 2", "p1")
        assert errors(run(conn, bind(name="s"), execute()))[0]["C"] == "0A000"
        if again:
            assert rows(run(conn, close("S", "s"), ask("SELECT * FROM altered", "s"))) == [["1", "2"]]
        other.query("BEGIN")  # has the server that has the statement
        assert rows(run(conn, bind(name="s"), execute())) == [["1", "2"]]
        other.query("COMMIT")


@pytest.mark.parametrize("past", [False, True])
def test_type_of_a_parameter_that_was_made_anew(make_proxy, pg, past):
    """The parameters of a prepared statement keep the types that there were."""
    again = ["DROP TYPE IF EXISTS colour", "CREATE TYPE colour AS ENUM ('red')"]
    pg.sql("; ".join(["GRANT CREATE ON SCHEMA public TO app", "SET ROLE app", *again]), "p1")
    proxy = make_proxy(pool_size=1, workers=1)

    def use(conn, *before):
        return run(conn, *before, bind(["red"], "s"), execute())

    def prepare():
        return parse("SELECT $1::colour", "s")

    with proxy.wire() as one, proxy.wire() as two, proxy.wire() as other:
        for conn in (one, two):
            assert rows(use(conn, prepare())) == [["red"]]
        for sql in again:
            if past:
                pg.sql("SET ROLE app; " + sql, "p1")
            else:
                assert not errors(other.query(sql))
        # Who keeps the old one is told, as by PostgreSQL.
        assert errors(use(one))[0]["C"] == "XX000"
        assert rows(use(other, prepare())) == [["red"]]
        assert rows(use(one, close("S", "s"), prepare())) == [["red"]]
        assert errors(use(two))[0]["C"] == "XX000"
        assert rows(use(two, close("S", "s"), prepare())) == [["red"]]


def test_same_text_with_other_types_is_another_statement(proxy):
    with proxy.wire() as one, proxy.wire() as two:
        run(one, parse("SELECT pg_typeof($1)", "t", oids=[23]))
        run(two, parse("SELECT pg_typeof($1)", "t", oids=[25]))
        for _ in range(2):
            assert rows(run(one, bind([1], "t"), execute())) == [["integer"]]
            assert rows(run(two, bind([1], "t"), execute())) == [["text"]]


def test_statement_of_another_client_is_not_there(proxy):
    with proxy.wire() as one, proxy.wire() as two:
        run(one, parse("SELECT 1", "mine"))
        messages = run(two, bind(name="mine"), execute())
        assert kinds(messages) == "EZ"
        failed = errors(messages)[0]
        assert failed["C"] == "26000" and '"mine"' in failed["M"]
        assert errors(run(two, describe("S", "mine")))[0]["C"] == "26000"
        assert rows(run(one, bind(name="mine"), execute())) == [["1"]]


def test_errors_name_the_statement_as_the_client_does(proxy):
    """…and one that a function has deallocated is prepared again."""
    with proxy.wire() as conn:
        run(conn, parse("SELECT $1::int, $2::int", "mine"))
        for behind in ([], [close("S", "mine"), SYNC, parse("SELECT $1::int, $2::int", "mine"), SYNC]):
            conn.send(bind([1], "mine"), execute(), SYNC, *behind)
            failed = errors(conn.ready("I"))[0]
            assert failed["C"] == "08P01" and failed["M"] == (
                'bind message supplies 1 parameters, but prepared statement "mine" requires 2')
        assert kinds(conn.ready("I") + conn.ready("I")) == "3Z1Z"
        conn.query("BEGIN")
        run(conn, bind([1, 2], "mine"), execute())
        conn.query("DO $$BEGIN EXECUTE 'DEALLOCATE ALL'; END$$")
        failed = errors(run(conn, bind([1, 2], "mine"), execute()))[0]
        assert failed["C"] == "26000" and failed["M"] == 'prepared statement "mine" does not exist'
        conn.query("ROLLBACK")
        assert rows(run(conn, bind([1, 2], "mine"), execute())) == [["1", "2"]]


@pytest.mark.parametrize("text", ["SELECT 'new', $1::text", "SELECT 'old', $1::text"])
def test_prepared_again_after_a_function_has_deallocated_it(proxy, text):
    """No server tells of that: the proxy learns it when the name is free."""
    answer = [[text.split("'")[1], "x"]]
    with proxy.wire() as conn, proxy.wire() as two:
        run(conn, parse("SELECT 'old', $1::text", "mine"))
        run(two, parse("SELECT 'old', $1::text", "mine"))
        conn.query("BEGIN")
        assert rows(run(conn, bind(["x"], "mine"), execute())) == [["old", "x"]]
        conn.query("DO $$BEGIN EXECUTE 'DEALLOCATE ALL'; END$$")
        messages = run(conn, parse(text, "mine"), bind(["x"], "mine"), execute())
        assert kinds(messages) == "12DCZ" and rows(messages) == answer
        assert rows(run(conn, bind(["x"], "mine"), execute())) == answer
        failed = errors(run(conn, parse(text, "mine")))[0]
        assert failed["C"] == "42P05" and '"mine"' in failed["M"]
        conn.query("COMMIT")
        for _ in range(2):
            assert rows(run(conn, bind(["x"], "mine"), execute())) == answer
            assert rows(run(two, bind(["x"], "mine"), execute())) == [["old", "x"]]


@pytest.mark.parametrize("together", [False, True], ids=["apart", "pipelined"])
@pytest.mark.parametrize("third", ["before", "behind", "both"])
def test_other_names_of_what_a_function_has_deallocated(proxy, together, third):
    """They are about the old text as before: whatever has taken its name on the server."""
    with proxy.wire() as conn, proxy.wire() as two:
        for name in ["mine", "other"] + ["third"] * (third != "behind"):
            run(conn, parse("SELECT 'old', $1::text", name))
        conn.query("BEGIN")
        assert rows(run(conn, bind(["x"], "mine"), execute())) == [["old", "x"]]
        conn.query("DO $$BEGIN EXECUTE 'DEALLOCATE ALL'; END$$")
        requests = [[parse("SELECT 'new', $1::text", "mine")]]
        if third != "before":
            requests.append([parse("SELECT 'old', $1::text", "more")])
            requests.append([describe("S", "more"), bind(["z"], "more"), execute()])
        requests += [[bind(["x"], "mine"), execute()], [bind(["y"], "other"), execute()],
                     [close("S", "other")], [parse("SELECT 'old', $1::text", "other")],
                     [bind(["x"], "other"), execute()]]
        expected = [["old", "z"]] * (third != "before") + [["new", "x"], ["old", "y"], ["old", "x"]]
        if together:
            messages = run(conn, *sum(requests, []))
        else:
            messages = sum((run(conn, *request) for request in requests), [])
        assert not errors(messages) and rows(messages) == expected
        conn.query("COMMIT")
        for _ in range(2):
            assert rows(run(conn, bind(["x"], "mine"), execute())) == [["new", "x"]]
            for name in ["other"] + ["third"] * (third != "behind") + ["more"] * (third != "before"):
                assert rows(run(conn, bind(["y"], name), execute())) == [["old", "y"]]
            run(two, parse("SELECT 'old', $1::text", "mine"), close("S", "mine"))


def test_name_that_exists_already(proxy):
    """As in PostgreSQL: an error, and the old statement stays.  And a name that is longer than
    those a server lets itself be asked for."""
    with proxy.wire() as conn:
        assert kinds(run(conn, parse("SELECT 1", "n" * 16000))) == "1Z"
        assert kinds(run(conn, describe("S", "n" * 16000), close("S", "n" * 16000))) == "tT3Z"
        run(conn, parse("SELECT 'old'", "dup"))
        messages = run(conn, parse("SELECT 'new'", "dup"))
        assert kinds(messages) == "EZ"
        failed = errors(messages)[0]
        assert failed["C"] == "42P05" and '"dup"' in failed["M"]
        assert rows(run(conn, bind(name="dup"), execute())) == [["old"]]
        assert kinds(run(conn, close("S", "dup"), parse("SELECT 'new'", "dup"))) == "31Z"
        assert rows(run(conn, bind(name="dup"), execute())) == [["new"]]


def test_parse_error_leaves_no_statement(proxy):
    with proxy.wire() as conn, proxy.wire() as other:
        for _ in range(2):
            messages = run(conn, parse("SELECT no_such_column", "bad"), bind(name="bad"),
                           execute())
            assert kinds(messages) == "EZ" and errors(messages)[0]["C"] == "42703"
            assert errors(run(conn, bind(name="bad"), execute()))[0]["C"] == "26000"
        # The same text, right for the other client after the table exists, is tried anew.
        assert kinds(run(other, parse("SELECT 5", "bad"))) == "1Z"
        assert rows(run(other, bind(name="bad"), execute())) == [["5"]]
        assert kinds(run(conn, parse("SELECT 6", "bad"))) == "1Z"
        assert rows(run(conn, bind(name="bad"), execute())) == [["6"]]


def test_skipped_parse_leaves_no_statement(proxy):
    """A Parse after an error and before Sync never happened."""
    with proxy.wire() as conn:
        messages = run(conn, parse("SELEKT"), parse("SELECT 1", "skipped"))
        assert kinds(messages) == "EZ"
        assert errors(run(conn, bind(name="skipped"), execute()))[0]["C"] == "26000"
        assert kinds(run(conn, parse("SELECT 2", "skipped"))) == "1Z"
        assert rows(run(conn, bind(name="skipped"), execute())) == [["2"]]


def test_skipped_close_leaves_the_statement(proxy):
    with proxy.wire() as conn:
        run(conn, parse("SELECT 1", "stays"))
        assert kinds(run(conn, parse("SELEKT"), close("S", "stays"))) == "EZ"
        assert rows(run(conn, bind(name="stays"), execute())) == [["1"]]


def test_statement_prepared_in_a_transaction_that_fails(proxy):
    """Prepared statements are not transactional."""
    with proxy.wire() as conn:
        conn.query("BEGIN")
        assert kinds(run(conn, parse("SELECT 7", "intx"))) == "1Z"
        assert errors(conn.query("SELECT 1/0"))
        conn.query("ROLLBACK")
        assert rows(run(conn, bind(name="intx"), execute())) == [["7"]]


def test_close(proxy):
    with proxy.wire() as conn, proxy.wire() as other:
        run(conn, parse("SELECT 1", "a"))
        run(other, parse("SELECT 1", "a"))
        assert kinds(run(conn, close("S", "a"))) == "3Z"
        assert errors(run(conn, bind(name="a"), execute()))[0]["C"] == "26000"
        # Somebody else's statement of the same text is still there.
        assert rows(run(other, bind(name="a"), execute())) == [["1"]]
        assert kinds(run(conn, close("S", "a"))) == "3Z"


def test_parse_and_bind_and_close_in_one_pipeline(proxy):
    with proxy.wire() as conn:
        messages = run(conn, parse("SELECT $1::int", "x"), bind([1], "x"), execute(),
                       close("S", "x"), parse("SELECT $1::text", "x"), bind(["b"], "x"), execute(),
                       close("S", "x"))
        assert kinds(messages) == "12DC312DC3Z"
        assert rows(messages) == [["1"], ["b"]]


def test_flush_after_a_statement_that_the_server_has(proxy):
    """The answers of a known statement come in their order, also without Sync."""
    with proxy.wire() as one, proxy.wire() as two:
        run(one, parse("SELECT $1::int", "f"))
        two.send(parse("SELECT $1::int", "f"), FLUSH)
        assert two.recv().kind == "1"
        two.send(describe("S", "f"), FLUSH)
        assert kinds([two.recv(), two.recv()]) == "tT"
        two.send(bind([4], "f"), execute(), FLUSH)
        assert kinds([two.recv(), two.recv(), two.recv()]) == "2DC"
        two.send(SYNC)
        two.ready("I")


def test_unnamed_statement_after_others_used_the_server(make_proxy):
    """It belongs to the client, not to the server."""
    proxy = make_proxy(pool_size=1)
    with proxy.wire() as one, proxy.wire() as two:
        run(one, parse("SELECT 'one', $1::int"))
        run(two, parse("SELECT 'two', $1::int"))
        for n in range(3):
            assert rows(run(one, bind([n]), execute())) == [["one", str(n)]]
            assert rows(run(two, bind([n]), execute())) == [["two", str(n)]]
        two.query("SELECT 1")
        assert rows(run(one, describe("S"), bind([9]), execute())) == [["one", "9"]]


@pytest.mark.parametrize("change, expected", [
    ([parse("SELECT 'new'")], "new"),
    ([query("SELECT 2")], None),
    ([close("S"), SYNC], None),
    ([parse("SELECT FROM nowhere")], None),
    ([bind([], "unknown"), parse("SELECT 'new'")], "old"),
    ([parse("SELECT 'new'"), bind([], "unknown")], "new"),
    ([parse("SELECT 'old'")], "old"),
])
def test_unnamed_statement_that_was_replaced_on_another_server(make_proxy, change, expected):
    """The server that the client comes back to still has the old one."""
    proxy = make_proxy(pool_size=2, workers=1)

    def command(conn, sql):  # which leaves the server its unnamed statement
        run(conn, parse(sql, sql), bind([], sql), execute())

    with proxy.wire() as one, proxy.wire() as two, proxy.wire() as three:
        run(one, parse("SELECT 'old'"))
        command(two, "BEGIN")
        one.send(*change, *([] if change[-1] == SYNC or change[0][:1] == b"Q" else [SYNC]))
        one.ready("I")
        command(three, "BEGIN")
        command(two, "COMMIT")
        for _ in range(2):
            messages = run(one, bind(), execute())
            if expected is None:
                assert errors(messages)[0]["C"] == "26000"
            else:
                assert rows(messages) == [[expected]]
            command(two, "BEGIN")
            command(three, "COMMIT")
        command(two, "COMMIT")


def test_simple_query_ends_the_unnamed_statement(proxy):
    with proxy.wire() as conn:
        run(conn, parse("SELECT 1"))
        conn.query("SELECT 2")
        assert errors(run(conn, bind(), execute()))[0]["C"] == "26000"


@pytest.mark.parametrize("command", ["DEALLOCATE ALL", "DISCARD ALL"])
def test_deallocate_all(make_proxy, command):
    proxy = make_proxy(pool_size=1)
    with proxy.wire() as one, proxy.wire() as two:
        run(one, parse("SELECT 'one'", "s"))
        run(two, parse("SELECT 'two'", "s"))
        assert tags(one.query(command)) == [command]
        assert errors(run(one, bind(name="s"), execute()))[0]["C"] == "26000"
        assert kinds(run(one, parse("SELECT 'new'", "s"))) == "1Z"
        assert rows(run(one, bind(name="s"), execute())) == [["new"]]
        # The other client's is prepared anew.
        assert rows(run(two, bind(name="s"), execute())) == [["two"]]


def test_deallocate_all_in_the_extended_protocol(make_proxy):
    proxy = make_proxy(pool_size=1)
    with proxy.wire() as one, proxy.wire() as two:
        run(one, parse("SELECT 'one'", "s"))
        run(two, parse("SELECT 'two'", "s"))
        assert tags(run(one, parse("DEALLOCATE ALL"), bind(), execute())) == ["DEALLOCATE ALL"]
        assert errors(run(one, bind(name="s"), execute()))[0]["C"] == "26000"
        assert rows(run(two, bind(name="s"), execute())) == [["two"]]


@pytest.mark.parametrize("sql, expected", [
    ('SAVEPOINT a;DEALLOCATE "s";RELEASE a', ["SAVEPOINT", "DEALLOCATE", "RELEASE"]),
    ("DEALLOCATE s; SELECT 1", ["DEALLOCATE", "SELECT 1"]),
    (" savepoint a ; deallocate prepare S ;", ["SAVEPOINT", "DEALLOCATE"])])
def test_deallocate_among_other_commands(proxy, sql, expected):
    """As psqlODBC does it."""
    with proxy.wire() as conn, proxy.wire() as other:
        run(other, parse("SELECT 1", "s"))
        conn.query("BEGIN")
        for n in range(2):
            assert kinds(run(conn, parse("SELECT %d" % n, "s"), bind(name="s"), execute())) == "12DCZ"
            assert tags(conn.query(sql)) == expected
        assert errors(conn.query(sql))[0]["M"] == 'prepared statement "s" does not exist'
        conn.query("ROLLBACK")
        for n in range(2):  # and an error behind it brings nothing back
            assert kinds(run(conn, parse("SELECT %d" % n, "s"), bind(name="s"), execute())) == "12DCZ"
            conn.query("BEGIN")
            assert errors(conn.query("DEALLOCATE s; ROLLBACK TO a"))[0]["C"] == "3B001"
            conn.query("ROLLBACK")
        assert errors(run(conn, bind(name="s"), execute()))[0]["C"] == "26000"
        assert rows(run(other, bind(name="s"), execute())) == [["1"]]


def test_bound_of_a_server_evicts_the_oldest(make_proxy, pg):
    """Evicted statements are closed on the server, and prepared again when asked for."""
    proxy = make_proxy(pool_size=1, max_prepared_statements=10)
    with proxy.wire() as conn:
        for n in range(50):
            assert kinds(run(conn, parse("SELECT %d" % n, "s%d" % n))) == "1Z"
        count = "SELECT count(*) FROM pg_prepared_statements"
        assert int(conn.value(count)) <= 10
        for n in (0, 49, 7, 0, 30):
            assert rows(run(conn, bind(name="s%d" % n), execute())) == [[str(n)]]
        assert int(conn.value(count)) <= 10
        # A pipeline that uses more than the bound at once.
        conn.send(*[bind(name="s%d" % n) + execute() for n in range(50)], SYNC)
        assert rows(conn.ready("I")) == [[str(n)] for n in range(50)]
        assert int(conn.value(count)) <= 50
        run(conn, bind(name="s1"), execute())
        assert int(conn.value(count)) <= 10


def test_bound_of_a_client(make_proxy):
    proxy = make_proxy(max_client_prepared_statements=20)
    with proxy.wire() as conn:
        for n in range(20):
            assert kinds(run(conn, parse("SELECT %d" % n, "s%d" % n))) == "1Z"
        failed = errors(run(conn, parse("SELECT 20", "s20")))
        assert failed and failed[0]["S"] == "ERROR"
        assert rows(run(conn, bind(name="s3"), execute())) == [["3"]]
        run(conn, close("S", "s3"))
        assert kinds(run(conn, parse("SELECT 20", "s20"))) == "1Z"
        assert conn.value("SELECT 1") == "1"


def test_thousands_of_one_client(make_proxy):
    """pgjdbc closes what it has prepared when its garbage is collected."""
    proxy = make_proxy(pool_size=1, max_prepared_statements=100)
    with proxy.wire() as conn:
        conn.send(*[parse("SELECT %d" % n, "s%d" % n) for n in range(3000)], SYNC)
        assert kinds(conn.ready("I")) == "1" * 3000 + "Z"
        for n in (0, 1234, 2999):
            assert rows(run(conn, bind(name="s%d" % n), execute())) == [[str(n)]]


def test_not_tracked(make_proxy):
    """0 leaves prepared statements alone: they are the server's."""
    proxy = make_proxy(pool_size=1, max_prepared_statements=0)
    with proxy.wire() as conn:
        assert rows(run(conn, parse("SELECT name FROM pg_prepared_statements", "own"),
                        bind(name="own"), execute())) == [["own"]]


def test_schema_change_under_a_prepared_statement(make_proxy, pg):
    """PostgreSQL refuses a prepared statement that would return other columns.  Who keeps it gets that
    error; who prepares it again gets the new one, whatever server he meets and whoever else has the
    old one there."""
    pg.sql("DROP TABLE IF EXISTS shape; CREATE TABLE shape (a int); GRANT ALL ON shape TO PUBLIC; "
           "INSERT INTO shape VALUES (1)", "p1")
    proxy = make_proxy(pool_size=2, workers=1)
    with proxy.wire() as one, proxy.wire() as two, proxy.wire() as other:
        def prepare(conn):
            assert kinds(run(conn, close("S", "sh"), parse("SELECT * FROM shape", "sh"))) == "31Z"

        def use(conn):
            return run(conn, bind(name="sh"), describe(), execute())

        def on_both_servers(check):
            check()
            other.query("BEGIN")
            check()
            with proxy.wire() as third:
                third.query("BEGIN")
                other.query("COMMIT")
                check()
                third.query("COMMIT")

        def refused(conn):
            assert [error["C"] for error in errors(use(conn))] == ["0A000"]
        for conn in (one, two):
            prepare(conn)
        on_both_servers(lambda: [check_columns(use(conn), 1) for conn in (one, two)])
        for columns in (2, 3):
            pg.sql("ALTER TABLE shape ADD c%d text" % columns, "p1")
            on_both_servers(lambda: [refused(conn) for conn in (one, two)])
            prepare(one)
            # The old one is still there, and still refused.
            refused(two)
            on_both_servers(lambda: check_columns(use(one), columns))
            refused(two)
            prepare(two)
            on_both_servers(lambda: [check_columns(use(conn), columns) for conn in (two, one)])
    log = proxy.log()
    assert log.count("what a prepared statement returns has changed") == 2


def check_columns(messages, columns):
    assert kinds(messages) == "2TDCZ" and len(rows(messages)[0]) == columns, messages


def test_name_of_great_length(proxy):
    """PostgreSQL cuts names at 63 bytes; what the client calls equal stays equal."""
    with proxy.wire() as conn:
        name = "n" * 60
        run(conn, parse("SELECT 1", name))
        assert rows(run(conn, bind(name=name), execute())) == [["1"]]


def test_error_between_known_statements(proxy):
    with proxy.wire() as conn:
        run(conn, parse("SELECT 1/(id - $1::int) FROM items WHERE id = 1", "div"), parse("SELECT $1::int", "id"))
        conn.send(bind([1], "id"), execute(), bind([1], "div"), execute(), bind([2], "id"),
                  execute(), SYNC, bind([3], "id"), execute(), SYNC, query("SELECT 4"))
        assert kinds(conn.ready("I")) == "2DC2EZ"
        assert rows(conn.ready("I")) == [["3"]]
        assert rows(conn.ready("I")) == [["4"]]


# --- drivers ------------------------------------------------------------------------------------

def test_driver_that_prepares_at_once(proxy):
    conns = [proxy.connect(autocommit=True, prepare_threshold=0) for _ in range(3)]
    for n in range(20):
        for m, conn in enumerate(conns):
            assert conn.execute("SELECT %%s::int + %d" % m, (n,)).fetchone() == (n + m,)
    for conn in conns:
        conn.close()


def test_driver_that_deallocates(proxy):
    """psycopg keeps few statements and closes the others with DEALLOCATE."""
    with proxy.connect(autocommit=True, prepare_threshold=0) as conn:
        conn.prepared_max = 3
        for n in list(range(12)) + list(range(12)):
            assert conn.execute("SELECT %d, %%s::int" % n, (n,)).fetchone() == (n, n)


def test_driver_with_prepared_statements_in_a_pipeline(proxy):
    with proxy.connect(autocommit=True, prepare_threshold=0) as conn:
        for _ in range(3):
            with conn.pipeline():
                cursors = [conn.execute("SELECT %s::int * 3", (n,)) for n in range(30)]
                assert [c.fetchone()[0] for c in cursors] == [n * 3 for n in range(30)]


def test_driver_with_errors(proxy):
    with proxy.connect(autocommit=True, prepare_threshold=0) as conn:
        for n in (1, 0, 2, 0, 0, 4):
            if n:
                assert conn.execute("SELECT 8 / %s::int", (n,)).fetchone() == (8 // n,)
            else:
                with pytest.raises(psycopg.errors.DivisionByZero):
                    conn.execute("SELECT 8 / %s::int", (n,))


def test_counts_are_of_named_statements(make_proxy):
    proxy = make_proxy(pool_size=1, databases={
        "p1": "pg", "p2": {"server": "pg", "dbname": "p1", "pool_mode": "session"}})

    def counts(dbname):
        return [tuple(int(row[name]) for name in ("total_client_parse_count",
                                                  "total_server_parse_count", "total_bind_count"))
                for row in proxy.command("SHOW STATS") if row["database"] == dbname]
    for dbname in ("p1", "p2"):
        with proxy.wire(dbname) as one, proxy.wire(dbname) as two:
            for conn in (one, two) if dbname == "p1" else (one,):
                run(conn, parse("SELECT 2", "n"))
                run(conn, parse("SELECT 1"), bind(), execute())
                for _ in range(2):
                    run(conn, bind(name="n"), execute())
    assert (counts("p1"), counts("p2")) == ([(2, 1, 4)], [(0, 0, 0)])
