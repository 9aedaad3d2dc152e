# SPDX-License-Identifier: PostgreSQL
"""The extended query protocol: sequences, errors at every point, pipelines, Flush."""
import psycopg
import pytest

from pgwire import (FLUSH, SYNC, bind, close, describe, errors, execute, kinds, parse, query, rows,
                    tags)
from servers import VERSION


@pytest.fixture
def conn(endpoint):
    with endpoint.wire() as conn:
        yield conn


def run(conn, *messages):
    conn.send(*messages, SYNC)
    return conn.ready()


def test_unnamed_statement(conn):
    messages = run(conn, parse("SELECT $1::int + 1", oids=[23]), bind([41]), describe(), execute())
    assert kinds(messages) == "12TDCZ"
    assert rows(messages) == [["42"]]


def test_sync_alone(conn):
    assert kinds(run(conn)) == "Z"
    conn.send(SYNC * 50)
    for _ in range(50):
        conn.ready("I")


def test_unnamed_statement_is_used_again_after_sync(conn):
    run(conn, parse("SELECT $1::text"))
    for value in ("a", "b", None, "c"):
        messages = run(conn, bind([value]), execute())
        assert kinds(messages) == "2DCZ" and rows(messages) == [[value]]


def test_describe_statement(conn):
    messages = run(conn, parse("SELECT id, note FROM items WHERE id = $1", "d1"), describe("S", "d1"))
    assert kinds(messages) == "1tTZ"
    messages = run(conn, parse("DELETE FROM items WHERE id = $1", "d2"), describe("S", "d2"))
    assert kinds(messages) == "1tnZ"
    assert kinds(run(conn, close("S", "d1"), close("S", "d2"))) == "33Z"


def test_portal_suspended(conn):
    conn.send(parse("SELECT id FROM items ORDER BY id"), bind(), execute(rows=2), execute(rows=2),
              FLUSH)
    messages = conn.until("s") + conn.until("s")
    assert kinds(messages) == "12DDsDDs"
    assert rows(messages) == [["1"], ["2"], ["3"], ["4"]]
    messages = run(conn, execute(rows=1000))
    assert kinds(messages) == "D" * 96 + "CZ"


def test_portal_lives_in_an_explicit_transaction(conn):
    conn.query("BEGIN")
    run(conn, parse("SELECT id FROM items ORDER BY id"), bind(portal="por"), execute("por", 1))
    messages = run(conn, execute("por", 1))
    assert kinds(messages) == "DsZ" and rows(messages) == [["2"]]
    assert kinds(run(conn, close("P", "por"))) == "3Z"
    conn.query("COMMIT")


def test_flush_without_sync_gives_answers_but_no_ready(conn):
    conn.send(parse("SELECT 1"), FLUSH)
    assert conn.recv().kind == "1"
    assert conn.silent()
    conn.send(bind(), describe(), FLUSH)
    assert kinds([conn.recv(), conn.recv()]) == "2T"
    conn.send(execute(), FLUSH)
    assert kinds([conn.recv(), conn.recv()]) == "DC"
    conn.send(SYNC)
    conn.ready("I")


def test_implicit_transaction_lasts_until_sync(conn):
    conn.send(parse("INSERT INTO items VALUES (100010, 'x')"), bind(), execute(), FLUSH)
    conn.until("C")
    conn.send(parse("SELECT 1/0"), bind(), execute(), SYNC)
    assert errors(conn.ready("I"))[0]["C"] == "22012"
    assert conn.value("SELECT count(*) FROM items WHERE id = 100010") == "0"


STEPS = {
    "parse": [parse("SELEKT 1"), bind(), describe(), execute()],
    "parse named": [parse("SELECT no_such_column", "e1"), bind(name="e1"), describe(), execute()],
    "bind": [parse("SELECT $1::int", oids=[23]), bind(["x"]), describe(), execute()],
    "bind count": [parse("SELECT $1::int"), bind([1, 2]), execute()],
    "bind unknown": [bind([1], name="never"), execute()],
    "describe": [describe("S", "never")],
    "describe portal": [describe("P", "never")],
    "execute": [parse("SELECT 1/(id-1) FROM items WHERE id = $1"), bind([1]), describe(), execute()],
    "execute unknown": [execute("never")],
    "in rows": [parse("SELECT 100/(50-g) FROM generate_series(1, 100) g"), bind(), execute()],
}
EXPECTED = {"parse": "EZ", "parse named": "EZ", "bind": "1EZ", "bind count": "1EZ",
            "bind unknown": "EZ", "describe": "EZ", "describe portal": "EZ", "execute": "12TEZ",
            "execute unknown": "EZ", "in rows": "12" + "D" * 49 + "EZ"}
STATES = {"parse": "42601", "parse named": "42703", "bind": "22P02", "bind count": "08P01",
          "bind unknown": "26000", "describe": "26000", "describe portal": "34000",
          "execute": "22012", "execute unknown": "34000", "in rows": "22012"}


@pytest.mark.parametrize("step", STEPS)
def test_error_at(conn, step):
    messages = run(conn, *STEPS[step])
    assert kinds(messages) == EXPECTED[step]
    assert errors(messages)[0]["C"] == STATES[step]
    assert conn.value("SELECT 1") == "1"


@pytest.mark.parametrize("step", STEPS)
def test_error_skips_to_sync(conn, step):
    """What was sent after the failed message and before Sync has no effect and no answer."""
    messages = run(conn, *STEPS[step], parse("INSERT INTO items VALUES (100011, 'x')", "after"),
                   bind(name="after"), execute(), close("S", "after"))
    assert kinds(messages) == EXPECTED[step]
    assert conn.value("SELECT count(*) FROM items WHERE id = 100011") == "0"
    assert errors(run(conn, bind(name="after"), execute()))[0]["C"] == "26000"


@pytest.mark.parametrize("step", STEPS)
def test_error_within_a_pipeline_of_syncs(conn, step):
    conn.send(parse("SELECT 1"), bind(), execute(), SYNC, *STEPS[step], SYNC,
              parse("SELECT 2"), bind(), execute(), SYNC, query("SELECT 3"))
    assert kinds(conn.ready("I")) == "12DCZ"
    assert kinds(conn.ready("I")) == EXPECTED[step]
    assert rows(conn.ready("I")) == [["2"]]
    assert rows(conn.ready("I")) == [["3"]]


def test_error_then_flush_then_sync(conn):
    conn.send(parse("SELEKT"), FLUSH)
    assert conn.recv().kind == "E"
    conn.send(bind(), execute(), FLUSH)
    assert conn.silent()
    conn.send(SYNC)
    conn.ready("I")


def test_simple_query_within_the_extended_protocol_without_sync(conn):
    """A Query ends an open extended sequence as Sync does; from version 18 on, not its transaction."""
    conn.send(parse("SELECT 1"), bind(), execute(), query("SELECT 2"))
    messages = conn.ready("I" if int(VERSION) < 18 else "T")
    assert kinds(messages) == "12DCTDCZ"
    if int(VERSION) >= 18:
        conn.send(query("COMMIT"))
        conn.ready("I")
    assert conn.value("SELECT 3") == "3"


def test_explicit_transaction_across_syncs(conn):
    assert run(conn, parse("BEGIN"), bind(), execute())[-1].body == b"T"
    assert run(conn, parse("SELECT 1"), bind(), execute())[-1].body == b"T"
    assert run(conn, parse("SELECT 1/0"), bind(), execute())[-1].body == b"E"
    messages = run(conn, parse("SELECT 1"), bind(), execute())
    assert errors(messages)[0]["C"] == "25P02" and messages[-1].body == b"E"
    messages = run(conn, parse("ROLLBACK"), bind(), execute())
    assert tags(messages) == ["ROLLBACK"] and messages[-1].body == b"I"


def test_empty_statement(conn):
    assert kinds(run(conn, parse(""), bind(), describe(), execute())) == "12nIZ"


def test_binary_formats(conn):
    messages = run(conn, parse("SELECT $1::int8, $2::bytea", oids=[20, 17]),
                   bind([(77).to_bytes(8, "big"), b"\0\1\2\xff"], formats=[1, 1], results=[1, 1]),
                   execute())
    data = [m for m in messages if m.kind == "D"][0].body
    assert (77).to_bytes(8, "big") in data and b"\0\1\2\xff" in data


def test_many_parameters(conn):
    count = 30000
    sql = "SELECT " + " + ".join("$%d::int" % (n + 1) for n in range(100))
    messages = run(conn, parse(sql), bind(list(range(100))), execute())
    assert rows(messages) == [["4950"]]
    values = ",".join("($%d)" % (n + 1) for n in range(count))
    messages = run(conn, parse("SELECT count(*) FROM (VALUES %s) v" % values), bind([1] * count),
                   execute())
    assert rows(messages) == [[str(count)]]


def test_messages_in_single_bytes(conn):
    for byte in parse("SELECT $1::int", "slow") + bind([5], "slow") + describe() + execute() + SYNC:
        conn.send(bytes([byte]))
    messages = conn.ready("I")
    assert kinds(messages) == "12TDCZ" and rows(messages) == [["5"]]
    run(conn, close("S", "slow"))


def test_long_pipeline_of_syncs(conn):
    one = parse("SELECT $1::int") + bind([1]) + describe() + execute() + SYNC
    conn.send(one * 500)
    for _ in range(500):
        assert kinds(conn.ready("I")) == "12TDCZ"


def test_close_of_what_does_not_exist(conn):
    assert kinds(run(conn, close("S", "never"), close("P", "never"))) == "33Z"


# --- the same through a driver ------------------------------------------------------------------

def test_pipeline_of_a_driver(endpoint):
    with endpoint.connect(autocommit=True) as conn, conn.pipeline():
        cursors = [conn.execute("SELECT %s::int * 2", (n,)) for n in range(100)]
        assert [cursor.fetchone()[0] for cursor in cursors] == [n * 2 for n in range(100)]


def test_pipeline_of_a_driver_with_an_error(endpoint):
    with endpoint.connect(autocommit=True) as conn:
        with pytest.raises(psycopg.errors.DivisionByZero):
            with conn.pipeline() as pipeline:
                first = conn.execute("SELECT 1")
                pipeline.sync()
                conn.execute("SELECT 1/0")
                conn.execute("SELECT 2")
        assert first.fetchone() == (1,)
        assert conn.execute("SELECT 3").fetchone() == (3,)


def test_pipeline_of_a_driver_in_transactions(endpoint):
    with endpoint.connect() as conn:
        with conn.pipeline():
            for n in range(20):
                with conn.transaction():
                    cursor = conn.execute("SELECT %s::int, txid_current_if_assigned()", (n,))
                assert cursor.fetchone()[0] == n


def test_executemany(endpoint):
    with endpoint.connect() as conn:
        with conn.cursor() as cursor:
            cursor.executemany("INSERT INTO items VALUES (%s, %s)",
                               [(200000 + n, "m") for n in range(500)])
            cursor.execute("SELECT count(*) FROM items WHERE id >= 200000")
            assert cursor.fetchone() == (500,)
        conn.rollback()


def test_server_side_cursor(endpoint):
    with endpoint.connect() as conn:
        with conn.cursor("named") as cursor:
            cursor.itersize = 7
            cursor.execute("SELECT id FROM items WHERE id <= 100 ORDER BY id")
            assert [row[0] for row in cursor] == list(range(1, 101))
