# SPDX-License-Identifier: PostgreSQL
"""COPY in and out, in both protocols, with errors on both sides in the middle."""
import time

import psycopg
import pytest

import pgwire
from pgwire import (COPY_DONE, FLUSH, SYNC, bind, copy_data, copy_fail, errors, execute, kinds,
                    parse, query, tags, wait_for)

COPY_IN = "COPY items (id, note) FROM STDIN"


@pytest.fixture
def conn(endpoint):
    with endpoint.wire() as conn:
        yield conn


@pytest.fixture
def clean(pg):
    yield
    pg.sql("DELETE FROM items WHERE id > 100", "p1")


def start_copy_in(conn):
    conn.send(query(COPY_IN))
    assert conn.recv().kind == "G"


def lines(start, count):
    return [copy_data(b"%d\tline\n" % n) for n in range(start, start + count)]


def test_copy_out(conn):
    messages = conn.query("COPY (SELECT id FROM items WHERE id <= 3 ORDER BY id) TO STDOUT")
    assert kinds(messages) == "HdddcCZ"
    assert [m.body for m in messages if m.kind == "d"] == [b"1\n", b"2\n", b"3\n"]


def test_copy_out_that_fails_in_the_middle(conn):
    messages = conn.query("COPY (SELECT 100/(50-g) FROM generate_series(1, 100) g) TO STDOUT")
    assert kinds(messages) == "H" + "d" * 49 + "EZ"
    assert conn.value("SELECT 1") == "1"


def test_copy_in(conn, clean):
    start_copy_in(conn)
    conn.send(*lines(1000, 100), COPY_DONE)
    messages = conn.ready("I")
    assert kinds(messages) == "CZ" and tags(messages) == ["COPY 100"]
    assert conn.value("SELECT count(*) FROM items WHERE id >= 1000") == "100"


def test_copy_in_with_lines_cut_anywhere(conn, clean):
    """CopyData need not end at a line."""
    data = b"".join(b"%d\tcut\n" % n for n in range(2000, 2050))
    start_copy_in(conn)
    for at in range(0, len(data), 7):
        conn.send(copy_data(data[at:at + 7]), copy_data(b""))
    conn.send(COPY_DONE)
    assert tags(conn.ready("I")) == ["COPY 50"]


def test_copy_in_sent_with_the_query(conn, clean):
    conn.send(query(COPY_IN), *lines(3000, 10), COPY_DONE, query("SELECT 5"))
    assert kinds(conn.ready("I")) == "GCZ"
    assert kinds(conn.ready("I")) == "TDCZ"


def test_copy_fail(conn):
    start_copy_in(conn)
    conn.send(*lines(4000, 10), copy_fail("changed my mind"))
    messages = conn.ready("I")
    assert kinds(messages) == "EZ"
    assert errors(messages)[0]["C"] == "57014"
    assert "changed my mind" in errors(messages)[0]["M"]
    assert conn.value("SELECT count(*) FROM items WHERE id >= 4000") == "0"


def test_server_error_in_copy_in(conn):
    """The rest of the client's data is swallowed, whenever it comes."""
    start_copy_in(conn)
    conn.send(*lines(4000, 5), copy_data(b"not a number\tx\n"))
    messages = conn.ready("I")
    assert kinds(messages) == "EZ" and errors(messages)[0]["C"] == "22P02"
    conn.send(*lines(4010, 50), COPY_DONE)
    assert conn.silent()
    assert conn.value("SELECT count(*) FROM items WHERE id >= 4000") == "0"


def test_server_error_in_copy_in_sent_at_once(conn):
    conn.send(query(COPY_IN), copy_data(b"1\tduplicate\n"), *lines(4000, 50), COPY_DONE,
              query("SELECT 6"))
    assert kinds(conn.ready("I")) == "GEZ"
    assert kinds(conn.ready("I")) == "TDCZ"


def test_flush_and_sync_are_ignored_in_copy_in(conn, clean):
    start_copy_in(conn)
    conn.send(*lines(5000, 5), FLUSH, SYNC, *lines(5005, 5), COPY_DONE)
    assert tags(conn.ready("I")) == ["COPY 10"]
    assert conn.value("SELECT 1") == "1"


def test_query_in_copy_in_is_an_error(conn):
    """Any other message ends the COPY with an error."""
    start_copy_in(conn)
    conn.send(*lines(4000, 3), query("SELECT 1"))
    first = conn.recv()
    assert first.kind == "E" and first.fields()["C"] == "08P01"


def test_copy_in_within_a_transaction(conn):
    conn.query("BEGIN")
    conn.send(query(COPY_IN), *lines(6000, 5), COPY_DONE)
    conn.ready("T")
    assert conn.value("SELECT count(*) FROM items WHERE id >= 6000") == "5"
    conn.send(query(COPY_IN), copy_fail("stop"))
    conn.ready("E")
    conn.send(query("ROLLBACK"))
    conn.ready("I")


def test_two_copies_in_one_query(conn, clean):
    conn.send(query(COPY_IN + "; SELECT 9; " + COPY_IN))
    conn.until("G")
    conn.send(*lines(7000, 2), COPY_DONE)
    conn.until("G")
    conn.send(*lines(7100, 3), COPY_DONE)
    assert tags(conn.ready("I")) == ["COPY 3"]


def test_extended_copy_in(conn, clean):
    conn.send(parse(COPY_IN), bind(), execute(), SYNC)
    assert kinds(conn.until("G")) == "12G"
    # The Sync before the data was ignored: COPY was running.
    conn.send(*lines(8000, 10), COPY_DONE, SYNC)
    assert kinds(conn.ready("I")) == "CZ"


def test_extended_copy_in_with_flush(conn, clean):
    conn.send(parse(COPY_IN), bind(), execute(), FLUSH)
    conn.until("G")
    conn.send(*lines(8100, 10), COPY_DONE)
    conn.send(SYNC)
    assert kinds(conn.ready("I")) == "CZ"


def test_extended_copy_in_that_fails(conn):
    """After the error everything is swallowed up to Sync."""
    conn.send(parse(COPY_IN), bind(), execute(), FLUSH)
    conn.until("G")
    conn.send(copy_data(b"1\tduplicate\n"), *lines(4000, 5), COPY_DONE, parse("SELECT 1"), SYNC)
    messages = conn.ready("I")
    assert kinds(messages) == "EZ"
    assert conn.value("SELECT 2") == "2"


def test_extended_copy_fail(conn):
    conn.send(parse(COPY_IN), bind(), execute(), FLUSH)
    conn.until("G")
    conn.send(*lines(4000, 5), copy_fail("no"), SYNC)
    messages = conn.ready("I")
    assert kinds(messages) == "EZ" and errors(messages)[0]["C"] == "57014"


BAD = copy_data(b"not a number\tx\n")
ROW = copy_data(b"4000\tline\n")
SELECT = [parse("SELECT 1"), bind(), execute()]


# Sent at once behind the Execute of a COPY, and what comes: in data a Sync is ignored, behind an error
# it is not.
@pytest.mark.parametrize("sent,expected", [
    ([ROW, SYNC, copy_fail("no"), SYNC], "EZ"),
    ([SYNC, copy_fail("no"), ROW, SYNC, SYNC], "EZZ"),
    ([copy_fail("no"), ROW, COPY_DONE, SYNC], "EZ"),
    ([ROW, BAD, SYNC], "EZ"),
    ([SYNC, BAD, SYNC, SYNC], "EZZ"),
    ([BAD, COPY_DONE, SYNC, *SELECT, SYNC], "EZ12DCZ"),
    ([COPY_DONE, ROW, *SELECT, SYNC], "C12DCZ"),
    ([COPY_DONE, parse(COPY_IN), bind(), execute(), ROW, copy_fail("no"), SYNC], "C12GEZ"),
    ([FLUSH, ROW, FLUSH, copy_fail("no"), FLUSH, SYNC], "EZ"),
], ids=range(9))
def test_extended_copy_in_sent_at_once(conn, sent, expected):
    conn.send(parse(COPY_IN), bind(), execute(), *sent)
    messages = [conn.recv()]
    while kinds(messages).count("Z") < expected.count("Z"):
        messages.append(conn.recv())
    assert kinds(messages) == "12G" + expected
    assert conn.value("SELECT count(*) FROM items WHERE id >= 4000") == "0"


# Syncs among the data: those before the error are ignored, each behind it is answered.
AMONG = [
    ([ROW, SYNC, ROW, BAD, COPY_DONE, SYNC], "EZ"),
    ([ROW, BAD, SYNC, ROW, COPY_DONE, SYNC], "EZZ"),
    ([ROW, SYNC, BAD, SYNC, ROW, SYNC, COPY_DONE, SYNC], "EZZZ"),
    ([ROW, SYNC, SYNC, BAD, ROW, COPY_DONE, SYNC], "EZ"),
    ([ROW, SYNC, ROW, copy_fail("no"), SYNC, SYNC], "EZZ"),
    ([BAD, SYNC, ROW, COPY_DONE, *SELECT, SYNC], "EZ12DCZ"),
    ([BAD, SYNC, ROW, COPY_DONE, query("SELECT 1"), SYNC], "EZTDCZZ"),
    ([ROW, SYNC, BAD, ROW, COPY_DONE, *SELECT, SYNC, *SELECT, SYNC], "EZ12DCZ"),
    ([ROW, SYNC, BAD, COPY_DONE, query("SELECT 1"), SYNC, query("SELECT 1")], "EZTDCZ"),
]


@pytest.mark.parametrize("how", ["at once", "one by one", "behind the error"])
@pytest.mark.parametrize("block", [False, True], ids=["alone", "in a block"])
@pytest.mark.parametrize("number", range(len(AMONG)))
def test_syncs_among_the_data_of_a_copy_that_fails(conn, number, block, how):
    sent, expected = AMONG[number]
    if block:
        conn.query("BEGIN")
        expected = expected.replace("12DC", "E").replace("TDC", "E")
    conn.send(parse(COPY_IN), bind(), execute(), FLUSH)
    conn.until("G")
    if how == "at once":
        conn.send(*sent)
    elif how == "one by one":
        for part in sent:
            conn.send(part)
            time.sleep(0.01)
    else:
        failed = sent.index(BAD) + 1 if BAD in sent else len(sent) - 2
        conn.send(*sent[:failed])
        assert kinds([conn.recv()]) == "E"
        conn.send(*sent[failed:])
        expected = expected[1:]
    messages = []
    while kinds(messages).count("Z") < expected.count("Z"):
        messages.append(conn.recv())
    assert kinds(messages) == expected
    assert {m.body for m in messages if m.kind == "Z"} == {b"E" if block else b"I"}
    assert conn.silent(0.1)
    if block:
        assert tags(conn.query("ROLLBACK")) == ["ROLLBACK"]
    assert conn.value("SELECT count(*) FROM items WHERE id >= 4000") == "0"


@pytest.mark.parametrize("how", ["at once", "one by one"])
@pytest.mark.parametrize("sent,expected", [
    ([ROW, SYNC, BAD, ROW, COPY_DONE], "EZ"),
    ([BAD, SYNC, ROW, SYNC, COPY_DONE], "EZZZ"),
    ([ROW, SYNC, BAD, SYNC, COPY_DONE, query("SELECT 1")], "EZZTDCZ"),
], ids=range(3))
def test_syncs_among_the_data_of_a_query(conn, sent, expected, how):
    start_copy_in(conn)
    for part in sent if how == "one by one" else [b"".join(sent)]:
        conn.send(part)
        time.sleep(0.01)
    messages = []
    while kinds(messages).count("Z") < expected.count("Z"):
        messages.append(conn.recv())
    assert kinds(messages) == expected
    assert conn.silent(0.1) and conn.value("SELECT 1") == "1"


@pytest.mark.parametrize("how", ["at once", "one by one"])
@pytest.mark.parametrize("sent,expected", [
    ([ROW, SYNC, *lines(4001, 1), COPY_DONE, SYNC], "CZ"),
    ([SYNC, ROW, COPY_DONE, SYNC], "CZ"),
    ([SYNC, ROW, COPY_DONE, *SELECT, SYNC], "C12DCZ"),
    ([ROW, SYNC, COPY_DONE, query("SELECT 1")], "CTDCZ"),
    ([ROW, SYNC, COPY_DONE, FLUSH, SYNC], "CZ"),
], ids=range(5))
def test_syncs_among_the_data_of_a_copy_that_succeeds(conn, clean, sent, expected, how):
    conn.send(parse(COPY_IN), bind(), execute(), FLUSH)
    conn.until("G")
    for part in sent if how == "one by one" else [b"".join(sent)]:
        conn.send(part)
        time.sleep(0.01)
    assert kinds(conn.ready("I")) == expected
    assert conn.silent(0.1) and conn.value("SELECT 1") == "1"


def test_second_copy_behind_one_with_syncs_among_its_data(conn, clean):
    conn.send(parse(COPY_IN), bind(), execute(), FLUSH)
    conn.until("G")
    conn.send(ROW, SYNC, COPY_DONE, parse(COPY_IN), bind(), execute(), *lines(4001, 2), SYNC,
              COPY_DONE, *SELECT, SYNC)
    messages = conn.ready("I")
    assert kinds(messages) == "C12GC12DCZ" and tags(messages)[:2] == ["COPY 1", "COPY 2"]


def test_sync_ahead_of_a_copy_that_fails_before_it_reads(conn):
    """What cannot be copied to is found when the client has been told to send already."""
    conn.query("BEGIN; CREATE VIEW no_table AS SELECT 1 AS id")
    for _ in range(2):
        conn.send(query("SAVEPOINT here"), parse("COPY no_table FROM STDIN"), bind(), execute(),
                  SYNC)
        conn.ready("T")
        assert kinds(conn.ready("E")) == "12GEZ"
        conn.send(ROW, COPY_DONE, SYNC)
        assert kinds(conn.ready("E")) == "Z"
        conn.send(query("ROLLBACK TO here"))
        conn.ready("T")
    conn.send(query("ROLLBACK"))
    conn.ready("I")
    assert conn.silent(0.1)


def test_copy_that_fails_behind_a_sync_with_data_half_sent(conn):
    half = copy_data(b"4001\t" + b"x" * 100000 + b"\n")
    conn.send(parse(COPY_IN), bind(), execute(), FLUSH)
    conn.until("G")
    conn.send(SYNC, BAD, half[:1000])
    assert kinds([conn.recv()]) == "E"
    time.sleep(0.05)
    conn.send(half[1000:50000])
    time.sleep(0.05)
    conn.send(half[50000:], COPY_DONE, SYNC)
    assert kinds(conn.ready("I")) == "Z"
    assert conn.silent(0.1) and conn.value("SELECT 1") == "1"


def test_copy_that_fails_behind_a_sync_leaves_cursors_alone(conn):
    conn.query("BEGIN; DECLARE mark CURSOR WITH HOLD FOR SELECT 5; COMMIT")
    conn.query("BEGIN")
    conn.send(parse(COPY_IN), bind(), execute(), FLUSH)
    conn.until("G")
    conn.send(SYNC, BAD, COPY_DONE, SYNC)
    assert kinds(conn.ready("E")) == "EZ"
    conn.query("ROLLBACK; BEGIN")
    assert conn.value("FETCH FROM mark") == "5"
    assert tags(conn.query("CLOSE mark; COMMIT")) == ["CLOSE CURSOR", "COMMIT"]


@pytest.mark.parametrize("end", [COPY_DONE, copy_fail("no")], ids=["done", "fail"])
def test_extended_copy_in_that_fails_behind_a_sync(conn, end):
    """A Sync that comes when the server reads data already, ahead of them."""
    for _ in range(2):
        conn.send(parse(COPY_IN), bind(), execute(), FLUSH)
        conn.until("G")
        conn.send(SYNC)
        assert conn.silent(0.1)
        conn.send(BAD)
        conn.until("E")
        conn.send(ROW, end, SYNC)
        assert kinds(conn.ready("I")) == "Z"
        assert conn.value("SELECT count(*) FROM items WHERE id >= 4000") == "0"


def test_copy_data_that_nobody_asked_for_sent_at_once(conn):
    conn.send(*SELECT, ROW, SYNC, COPY_DONE, *SELECT, copy_fail("no"), ROW, *SELECT, SYNC)
    assert kinds(conn.ready("I")) == "12DCZ"
    assert kinds(conn.ready("I")) == "12DC12DCZ"


def test_extended_copy_out(conn):
    conn.send(parse("COPY (SELECT 1) TO STDOUT"), bind(), execute(), SYNC)
    assert kinds(conn.ready("I")) == "12HdcCZ"


def test_client_that_vanishes_in_copy_in(endpoint, pg):
    conn = endpoint.wire()
    start_copy_in(conn)
    conn.send(*lines(9000, 10))
    conn.close()
    with endpoint.wire() as other:
        assert other.value("SELECT 1") == "1"
    wait_for(lambda: pg.value("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY items%'"
                              " AND state = 'active'") == 0, what="the end of the COPY")
    assert pg.value("SELECT count(*) FROM items WHERE id >= 9000", "p1") == 0


def test_client_that_terminates_in_copy_in(endpoint, pg):
    with endpoint.wire() as conn:
        start_copy_in(conn)
        conn.send(*lines(9100, 10), pgwire.TERMINATE)
        conn.rest()
    wait_for(lambda: pg.value("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY items%'"
                              " AND state = 'active'") == 0, what="the end of the COPY")
    assert pg.value("SELECT count(*) FROM items WHERE id >= 9100", "p1") == 0


def test_client_that_vanishes_in_copy_out(endpoint, pg):
    conn = endpoint.wire()
    conn.send(query("COPY (SELECT repeat('x', 1000) /* vanish */ FROM generate_series(1, 1000000))"
                    " TO STDOUT"))
    conn.until("d")
    conn.close()
    wait_for(lambda: pg.value("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%vanish */%'"
                              " AND state = 'active' AND pid <> pg_backend_pid()") == 0,
             what="the end of the COPY")
    with endpoint.wire() as other:
        assert other.value("SELECT 1") == "1"


def test_copy_of_a_driver_round_trip(endpoint, clean):
    with endpoint.connect() as conn:
        with conn.cursor() as cursor:
            with cursor.copy("COPY items FROM STDIN") as copy:
                for n in range(10000, 15000):
                    copy.write_row((n, "driver"))
            cursor.execute("SELECT count(*) FROM items WHERE note = 'driver'")
            assert cursor.fetchone() == (5000,)
            with cursor.copy("COPY (SELECT * FROM items WHERE id >= 10000) TO STDOUT") as copy:
                assert sum(1 for _ in copy.rows()) == 5000
        conn.rollback()


def test_copy_of_a_driver_that_raises(endpoint):
    with endpoint.connect(autocommit=True) as conn:
        with pytest.raises(psycopg.errors.QueryCanceled):
            with conn.cursor().copy("COPY items FROM STDIN") as copy:
                copy.write_row((20000, "x"))
                raise KeyError("in the middle")
        assert conn.execute("SELECT 1").fetchone() == (1,)
