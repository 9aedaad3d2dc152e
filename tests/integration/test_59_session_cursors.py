# SPDX-License-Identifier: PostgreSQL
"""Cursors WITH HOLD of a session on their way to another server: with their rows and their place; or
why they stay where they are."""
import pytest

from pgwire import SYNC, errors, execute, rows, wait_for
from proxy import ConsoleError
from test_52_session_locks import swap
from test_59_session_carry import make, sessions  # noqa: F401 (a fixture)

pytestmark = pytest.mark.threads

# Each a query, and how far the cursor has been moved.
CURSORS = {
    "c": ("SELECT g, 'x' || g FROM generate_series(1, 5) g", "FETCH 2"),
    "at start": ("SELECT g FROM generate_series(1, 5) g", None),
    "at \"end\"": ("SELECT g FROM generate_series(1, 5) g", "FETCH ALL"),
    "on the last": ("SELECT g FROM generate_series(1, 5) g", "FETCH LAST"),
    "back again": ("SELECT g FROM generate_series(1, 5) g", "FETCH ALL FROM {0}; MOVE ABSOLUTE 0"),
    "empty": ("SELECT 1 AS \"no\", 'x' WHERE false", None),
    "empty, read": ("SELECT 1 WHERE false", "FETCH 1"),
    "nothing": ("SELECT NULL::int AS a, '' AS b, 'NULL' AS c, '\\' AS d FROM generate_series(1, 2)", "FETCH 1"),
}
# A row of everything, whose text depends on settings, or has a length.
TYPES = (
    "0.1::float8 + 0.2 AS \"odd \"\"name\", 1.50::numeric(9, 4), 'ab'::char(5), 'ab'::varchar(7), 'it''s \\n'::text, "
    "E'tab\\tline\\n'::text, 'n'::name, 'c'::\"char\", true, '\\x00ff'::bytea, B'101'::bit(3), B'1'::varbit(5), "
    "'2020-02-03 04:05:06.789+01'::timestamptz(2), '2020-02-03'::date, '04:05:06.7'::time(1), "
    "interval '1 day -2:03:04.567', interval '3' month, 'infinity'::timestamp, 12.34::money, "
    "'{1,NULL,3}'::int[], '{{a,\"b,\"},{\"\",NULL}}'::varchar(3)[], '[2:3]={1,2}'::int[], '(1,2),(0,0)'::box, "
    "'{(1,2),(0,0);(3,4),(1,1)}'::box[], '[1,5)'::int4range, '{[1,2),[5,7)}'::int4multirange, "
    "' {\"a\" : 1} '::json, '{\"a\": 1}'::jsonb, '<a>&lt;</a>'::xml, '10.0.0.1/8'::inet, 'pg_class'::regclass, "
    "'a & b'::tsquery, '12'::oid, '00000000-0000-0000-0000-000000000001'::uuid, NULL::int, 'NaN'::float4, "
    "1e-300::float8, '\u00e9\u20ac'::text")
CURSORS["types"] = ("SELECT %s UNION ALL SELECT %s" % (TYPES, TYPES), "FETCH 1")


def quoted(name):
    return '"%s"' % name.replace('"', '""')


def declare(conn, name, query, moved, kind="SCROLL"):
    at = quoted(name)
    text = "BEGIN; DECLARE %s %s CURSOR WITH HOLD FOR %s; COMMIT" % (at, kind, query)
    if moved:
        text += "; %s FROM %s" % (moved.format(at), at)
    assert not errors(conn.query(text)), text


def looks(conn, name):
    """All that a client can learn of a cursor, which stands where it stood afterwards."""
    at = quoted(name)
    here = rows(conn.query("FETCH 0 FROM %s" % at))
    seen = [[(m.kind, m.body) for m in conn.query("FETCH RELATIVE 0 FROM %s" % at) if m.kind in "TDCE"]]
    before = len(rows(conn.query("FETCH BACKWARD ALL FROM %s" % at)))
    seen.append([(m.kind, m.body) for m in conn.query("FETCH ALL FROM %s" % at) if m.kind in "TDCE"])
    seen += [here, before]
    if here:
        conn.query("MOVE ABSOLUTE %d IN %s" % (before + 1, at))
    elif not before:
        conn.query("MOVE ABSOLUTE 0 IN %s" % at)
    return seen


KNOWN = ("SELECT name, is_holdable, is_binary, is_scrollable FROM pg_cursors WHERE name <> '' ORDER BY 1")


@pytest.mark.parametrize("prepare", [True, False], ids=["prepared", "unprepared"])
def test_everything_of_a_cursor(make, prepare):
    proxy = make()
    with proxy.wire("p2", application_name="traveller") as conn:
        conn.query("SET DateStyle = 'German'; SET extra_float_digits = -10; SET IntervalStyle = iso_8601")
        conn.query("SET client_encoding = 'UTF8'; SET statement_timeout = '50s'")
        for name, (query, moved) in CURSORS.items():
            declare(conn, name, query, moved)
        declare(conn, "binary", "SELECT 1::int, 'x'::text, 1.5::numeric(9, 4)", "FETCH 1", "BINARY SCROLL")
        names = [*CURSORS, "binary"]
        before = [looks(conn, name) for name in names] + [rows(conn.query(KNOWN))]
        swap(proxy, "other", prepare)
        assert conn.value("SHOW cluster_name") == "other"
        for name, was in zip(names, before):
            assert looks(conn, name) == was, name
        assert rows(conn.query(KNOWN)) == before[-1]
        row = sessions(proxy)["traveller"]
        assert row["class"] == "movable" and row["digest_before"] == row["digest_after"]
        swap(proxy, "pg", prepare)
        assert [looks(conn, name) for name in names] == before[:-1]


@pytest.mark.parametrize("other_state", [
    "LISTEN news", "SELECT pg_advisory_lock(7)", "CREATE TEMP TABLE basket AS SELECT 1 AS v",
    "SET default_transaction_isolation = 'serializable'", "SET idle_session_timeout = '1min'"])
def test_beside_what_waits_for_the_promotion(make, other_state):
    proxy = make()
    with proxy.wire("p2", application_name="traveller") as conn:
        conn.query(other_state)
        declare(conn, "c", "SELECT * FROM items ORDER BY id", "FETCH 7")
        swap(proxy, "other")
        assert conn.value("SHOW cluster_name") == "other"
        assert conn.value("FETCH FROM c") == "8"
        assert len(rows(conn.query("FETCH BACKWARD ALL FROM c"))) == 7
        row = sessions(proxy)["traveller"]
        assert row["digest_before"] == row["digest_after"]


def test_drivers_cursor(make):
    """psycopg reads on where it was, however it asked for its cursor."""
    proxy = make()
    for scrollable, name in ((None, "named"), (True, "it's \"odd\" \u00e9")):
        with proxy.connect("p2", application_name="traveller") as conn:
            with conn.cursor(name, withhold=True, scrollable=scrollable) as cursor:
                cursor.itersize = 100
                cursor.execute("SELECT g, 'n' || g, g::numeric(9, 2) FROM generate_series(1, 1000) g WHERE g > %s",
                               [500])
                conn.commit()
                got = [row[0] for _, row in zip(range(250), cursor)]
                conn.commit()
                swap(proxy, "other")
                got += [row[0] for row in cursor]
                # The iterator of before had read 300, of which it gave 250.
                assert got == [*range(501, 751), *range(801, 1001)]
                if scrollable:
                    cursor.scroll(0, mode="absolute")
                    assert cursor.fetchall()[-1][1] == "n1000"
            assert conn.execute("SHOW cluster_name").fetchone() == ("other",)
            conn.commit()
            swap(proxy, "pg")


def test_a_hold_without_a_swap(make):
    """Nothing of the session's own cursors has changed, not even what cannot be carried."""
    proxy = make()
    known = "SELECT name, statement, creation_time FROM pg_cursors WHERE name <> ''"
    with proxy.wire("p2", application_name="traveller") as conn:
        for name, (query, moved) in CURSORS.items():
            declare(conn, name, query, moved)
        before = [rows(conn.query(known))] + [looks(conn, name) for name in CURSORS]
        pid = conn.value("SELECT pg_backend_pid()")
        proxy.command("PREPARE SWAP p2 TO other")
        epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        proxy.command("RELEASE p2 EPOCH %s" % epoch)
        proxy.command("CANCEL SWAP p2")
        assert conn.value("SELECT pg_backend_pid()") == pid
        assert [rows(conn.query(known))] + [looks(conn, name) for name in CURSORS] == before
        proxy.command("RECONNECT p2")
        wait_for(lambda: conn.value("SELECT pg_backend_pid()") != pid, what="another server")
        assert [looks(conn, name) for name in CURSORS] == before[1:]


# Commands, and the reason; what FETCH FROM c says then.
PINNED = (
    ("DECLARE c NO SCROLL CURSOR WITH HOLD FOR SELECT g FROM generate_series(1, 5) g; FETCH 2 FROM c",
     "without SCROLL", "3"),
    ("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT g, repeat('x', 1000) FROM generate_series(1, 1000) g; "
     "MOVE 700 IN c", "more than may be carried", "701"),
    ("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT 5, repeat('x', 1000000); MOVE ALL IN c; MOVE ABSOLUTE 0 IN c",
     "more than may be carried", "5"),
    ("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT g FROM generate_series(1, 100000) g; MOVE 50000 IN c",
     "more rows than may be carried", "50001"),
    ("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT g FROM generate_series(1, 100000) g; MOVE ALL IN c",
     "more rows than may be carried", None),
    ("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT row(g, 'x') FROM generate_series(1, 3) g; MOVE 1 IN c",
     "cannot be made again", "(2,x)"),
    ("CREATE TEMP TABLE t AS SELECT 1 AS v; DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT t FROM t",
     "a type of its columns is temporary", "(1)"),
    ("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT FROM generate_series(1, 3); MOVE 1 IN c", "no columns", None),
    ("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT point '(1,2)'", "its rows come out differently", "(1,2)"),
)


def test_what_pins(make, pg, request):
    """Named before anything has happened; and left as it was."""
    pg.sql("CREATE FUNCTION to_point(text) RETURNS point LANGUAGE sql AS $$SELECT point '(0,0)'$$; "
           "CREATE CAST (text AS point) WITH FUNCTION to_point", "p2")
    request.addfinalizer(lambda: pg.sql("DROP FUNCTION to_point CASCADE", "p2"))
    proxy = make(session_cursors="100kB")
    for command, reason, after in PINNED:
        with proxy.wire("p2", application_name="pinned") as conn:
            assert not errors(conn.query(command)), command
            proxy.command("PREPARE SWAP p2 TO other")
            wait_for(lambda: sessions(proxy)["pinned"]["class"] == "pinned", what=command)
            assert reason in sessions(proxy)["pinned"]["why"], command
            with pytest.raises(ConsoleError) as error:
                proxy.hold("p2")
            assert reason in error.value.fields["D"]
            got = rows(conn.query("FETCH FROM c"))
            assert (got[0][0] if got and got[0] else None) == after, command
            conn.query("DISCARD ALL")
            proxy.command("CANCEL SWAP p2")
        wait_for(lambda: not sessions(proxy), what="its end")


def test_switched_off_and_no_room(make):
    for settings, reason in (({"session_cursors": 0}, 'cursor "c" WITH HOLD'),
                             ({"session_carry_memory": "1kB"}, "no room")):
        proxy = make(**settings)
        with proxy.wire("p2", application_name="pinned") as conn:
            declare(conn, "c", "SELECT g FROM generate_series(1, 1000) g", "FETCH 10")
            proxy.command("PREPARE SWAP p2 TO other")
            wait_for(lambda: sessions(proxy)["pinned"]["class"] == "pinned", what="its class")
            assert reason in sessions(proxy)["pinned"]["why"]
            assert conn.value("FETCH FROM c") == "11"


def test_one_that_has_failed(make):
    """It stays that, and pins the session; the others are where they were."""
    proxy = make()
    with proxy.wire("p2", application_name="pinned") as conn:
        for name in ("a", "b", "c"):
            declare(conn, name, "SELECT 1 / (3 - g), g FROM generate_series(1, 2) g", "FETCH 1")
        conn.query("BEGIN; DECLARE d SCROLL CURSOR WITH HOLD FOR SELECT 1; COMMIT")
        # A text that the client's encoding has no letter for ends a cursor.
        declare(conn, "b2", "SELECT chr(8364)", None)
        conn.query("SET client_encoding = 'LATIN1'")
        conn.send(execute("b2") + SYNC)
        assert errors(conn.ready())
        proxy.command("PREPARE SWAP p2 TO other")
        wait_for(lambda: sessions(proxy)["pinned"]["class"] == "pinned", what="its class")
        assert sessions(proxy)["pinned"]["why"] == \
            'cursor "b2": it could not be moved: portal "b2" cannot be run'
        assert [rows(conn.query("FETCH 0 FROM " + name)) for name in ("a", "b", "c", "d")] == \
            [[["0", "1"]]] * 3 + [[]]
        conn.query("CLOSE b2")
        swap(proxy, "other")
        assert conn.value("SHOW cluster_name") == "other"
        assert conn.value("FETCH FROM d") == "1"


def test_moved_without_one(make_proxy, pg, other):
    """Of a session that is moved anyway goes along what can."""
    proxy = make_proxy({"pg": pg, "other": other}, {"p2": "pg"}, pool_mode="session",
                       session_pinned="move_anyway")
    with proxy.wire("p2", application_name="traveller") as conn:
        for name, kind in (("a", "SCROLL"), ("b", "NO SCROLL"), ("c", "SCROLL")):
            declare(conn, name, "SELECT g FROM generate_series(1, 9) g", "FETCH 3", kind)
        swap(proxy, "other")
        assert conn.value("FETCH FROM c") == "4"
        assert rows(conn.query("SELECT name FROM pg_cursors WHERE name <> '' ORDER BY 1")) == [["a"], ["c"]]
        assert conn.value("FETCH BACKWARD FROM a") == "2"
        assert conn.value("SHOW cluster_name") == "other"
        assert 'cursor "b"' in sessions(proxy)["traveller"]["lost"]
