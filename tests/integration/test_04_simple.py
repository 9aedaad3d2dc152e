# SPDX-License-Identifier: PostgreSQL
"""The simple query protocol, message by message, and FunctionCall."""
import struct

import pytest

import pgwire
from pgwire import errors, kinds, rows, tags


@pytest.fixture
def conn(endpoint):
    with endpoint.wire() as conn:
        yield conn


def test_select(conn):
    messages = conn.query("SELECT 1 AS a, NULL AS b, 'x' AS c")
    assert kinds(messages) == "TDCZ"
    assert messages[0].columns() == ["a", "b", "c"]
    assert rows(messages) == [["1", None, "x"]]
    assert tags(messages) == ["SELECT 1"]


def test_empty_query(conn):
    assert kinds(conn.query("")) == "IZ"
    assert kinds(conn.query(" ; ")) == "IZ"


def test_many_statements_in_one_query(conn):
    messages = conn.query("SELECT 1; SELECT 2 WHERE false; SELECT 3")
    assert kinds(messages) == "TDCTCTDCZ"
    assert tags(messages) == ["SELECT 1", "SELECT 0", "SELECT 1"]


def test_error_ends_the_rest_of_the_query(conn):
    messages = conn.query("SELECT 1; SELECT 1/0; SELECT 3")
    assert kinds(messages) in ("TDCTEZ", "TDCEZ")
    assert errors(messages)[0]["C"] == "22012"
    assert messages[-1].body == b"I"
    assert conn.value("SELECT 4") == "4"


def test_syntax_error_has_its_position(conn):
    fields = errors(conn.query("SELECT 1 FRUM items"))[0]
    assert fields["C"] == "42601" and fields["P"] == "15"


def test_transaction_status_is_told(conn):
    conn.send(pgwire.query("BEGIN"))
    conn.ready("T")
    conn.send(pgwire.query("SELECT 1/0"))
    conn.ready("E")
    conn.send(pgwire.query("SELECT 1"))
    assert errors(conn.ready("E"))[0]["C"] == "25P02"
    conn.send(pgwire.query("COMMIT"))
    assert tags(conn.ready("I")) == ["ROLLBACK"]


def test_transaction_stays_on_one_server(conn):
    conn.query("BEGIN")
    pids = {conn.value("SELECT pg_backend_pid()") for _ in range(5)}
    conn.query("CREATE TEMP TABLE mine (a int) ON COMMIT DROP")
    conn.query("INSERT INTO mine VALUES (1)")
    assert conn.value("SELECT count(*) FROM mine") == "1"
    conn.query("ROLLBACK")
    assert len(pids) == 1


def test_begin_and_commit_within_one_query(conn):
    messages = conn.query("BEGIN; SELECT 1; COMMIT; BEGIN; SELECT 2")
    assert messages[-1].body == b"T"
    conn.send(pgwire.query("ROLLBACK"))
    conn.ready("I")


def test_queries_sent_without_waiting(conn):
    conn.send(*[pgwire.query("SELECT %d" % n) for n in range(200)])
    for n in range(200):
        assert rows(conn.ready("I")) == [[str(n)]]


def test_transaction_sent_without_waiting(conn):
    conn.send(pgwire.query("BEGIN"), pgwire.query("SELECT 1/0"), pgwire.query("SELECT 1"),
              pgwire.query("ROLLBACK"), pgwire.query("SELECT 5"))
    conn.ready("T")
    conn.ready("E")
    conn.ready("E")
    conn.ready("I")
    assert rows(conn.ready("I")) == [["5"]]


def test_query_in_single_bytes(conn):
    for byte in pgwire.query("SELECT 'bytes'"):
        conn.send(bytes([byte]))
    assert rows(conn.ready("I")) == [["bytes"]]


def test_notice_arrives(conn):
    messages = conn.query("DO $$ BEGIN RAISE NOTICE 'look at %', 1; END $$")
    notices = [m.fields() for m in messages if m.kind == "N"]
    assert [n["M"] for n in notices] == ["look at 1"]
    assert kinds(messages) == "CZ"


def test_error_fields_pass_unchanged(conn):
    conn.query("BEGIN")
    fields = errors(conn.query("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'AB123', DETAIL = "
                               "'detail', HINT = 'hint', COLUMN = 'c', TABLE = 't'; END $$"))[0]
    conn.query("ROLLBACK")
    assert (fields["C"], fields["M"], fields["D"], fields["H"], fields["c"], fields["t"]) == \
        ("AB123", "no", "detail", "hint", "c", "t")


def test_cursor_in_a_transaction(conn):
    conn.query("BEGIN")
    conn.query("DECLARE cur CURSOR FOR SELECT id FROM items ORDER BY id")
    assert rows(conn.query("FETCH 2 FROM cur")) == [["1"], ["2"]]
    assert rows(conn.query("FETCH 1 FROM cur")) == [["3"]]
    conn.query("COMMIT")


def test_function_call(conn):
    """int4pl(2, 40) by its oid, with binary arguments."""
    oid = int(conn.value("SELECT 'int4pl'::regproc::oid"))
    conn.send(pgwire.function_call(oid, [struct.pack("!i", 2), struct.pack("!i", 40)], [1, 1]))
    messages = conn.ready("I")
    assert kinds(messages) == "VZ"
    length, = struct.unpack_from("!i", messages[0].body)
    assert messages[0].body[4:4 + length] == b"42"
    assert conn.value("SELECT 1") == "1"


def test_function_call_that_fails(conn):
    oid = int(conn.value("SELECT 'int4div'::regproc::oid"))
    conn.send(pgwire.function_call(oid, [struct.pack("!i", 2), struct.pack("!i", 0)], [1, 1]))
    messages = conn.ready("I")
    assert kinds(messages) == "EZ" and errors(messages)[0]["C"] == "22012"


def test_function_calls_between_queries_in_one_packet(conn):
    oid = int(conn.value("SELECT 'int4pl'::regproc::oid"))
    call = pgwire.function_call(oid, [b"20", b"22"], [0, 0])
    conn.send(pgwire.query("SELECT 1"), call, call, pgwire.query("SELECT 2"))
    assert kinds(conn.ready()) == "TDCZ"
    assert kinds(conn.ready()) == "VZ"
    assert kinds(conn.ready()) == "VZ"
    assert kinds(conn.ready()) == "TDCZ"


def test_terminate_closes(conn):
    conn.send(pgwire.TERMINATE)
    assert conn.rest() == []


def test_terminate_in_a_transaction_rolls_back(endpoint, pg):
    with endpoint.wire() as conn:
        conn.query("BEGIN")
        conn.query("INSERT INTO items VALUES (100001, 'gone')")
        conn.send(pgwire.TERMINATE)
        conn.rest()
    assert pg.value("SELECT count(*) FROM items WHERE id = 100001", "p1") == 0


def test_client_that_vanishes_in_a_transaction_rolls_back(endpoint, pg):
    conn = endpoint.wire()
    conn.query("BEGIN")
    conn.query("INSERT INTO items VALUES (100002, 'gone')")
    conn.close()
    # The key is free again as soon as the server noticed.
    with endpoint.wire() as other:
        other.query("BEGIN")
        assert tags(other.query("INSERT INTO items VALUES (100002, 'mine')")) == ["INSERT 0 1"]
        other.query("ROLLBACK")


def test_prepared_transaction(conn):
    conn.query("BEGIN")
    conn.query("CREATE TABLE twophase (a int)")
    assert tags(conn.query("PREPARE TRANSACTION 'tests'")) == ["PREPARE TRANSACTION"]
    assert tags(conn.query("ROLLBACK PREPARED 'tests'")) == ["ROLLBACK PREPARED"]
