# SPDX-License-Identifier: PostgreSQL
"""psycopg 3 and libpq: server-side prepared statements, named cursors, pipelines, LISTEN.

Arguments: host port database user, and `session`, `transaction`, or `movable`: a session without
advisory locks, temporary tables and cursors.  Prints MOVE where its session may
be moved and waits for a line; prints DONE when everything was as it should be.
"""
import sys

import psycopg
from psycopg import sql

host, port, dbname, user, mode = sys.argv[1:]


def moved():
    print("MOVE", flush=True)
    sys.stdin.readline()


def connect(**kwargs):
    return psycopg.connect(host=host, port=port, dbname=dbname, user=user, connect_timeout=20,
                           **kwargs)


def twice(conn, number):
    value = conn.execute("SELECT %s::int8 * 2", (number,), prepare=True).fetchone()[0]
    assert value == number * 2, value


def ordinary(conn):
    """Prepared statements, transactions, errors, COPY, pipelines, a named cursor in a transaction."""
    for number in range(3):
        twice(conn, number)
    with conn.transaction():
        conn.execute("DELETE FROM driver_items")
        with conn.cursor() as cursor:
            cursor.executemany("INSERT INTO driver_items VALUES (%s, %s)",
                               [(n, "item %d" % n) for n in range(50)])
    try:
        with conn.transaction():
            conn.execute("DELETE FROM driver_items")
            conn.execute("SELECT 1/0")
    except psycopg.errors.DivisionByZero:
        pass
    else:
        raise AssertionError("no error")
    assert conn.execute("SELECT count(*) FROM driver_items").fetchone() == (50,)
    with conn.transaction():
        with conn.cursor("named") as cursor:
            cursor.itersize = 7
            cursor.execute("SELECT id FROM driver_items ORDER BY id")
            assert [row[0] for row in cursor] == list(range(50))
    with conn.cursor() as cursor:
        with cursor.copy("COPY driver_items FROM STDIN") as copy:
            for n in range(50, 60):
                copy.write_row((n, None))
        with cursor.copy("COPY (SELECT id FROM driver_items ORDER BY id) TO STDOUT") as copy:
            assert [int(row[0]) for row in copy.rows()] == list(range(60))
    with conn.pipeline() as pipeline:
        results = [conn.execute("SELECT %s::int + 1", (n,), prepare=True) for n in range(20)]
        pipeline.sync()
        assert [result.fetchone()[0] for result in results] == list(range(1, 21))
    with conn.cursor(binary=True) as cursor:
        assert cursor.execute("SELECT %b::int4", (7,)).fetchone() == (7,)


def hold_state(conn):
    conn.execute("SET TimeZone TO 'Asia/Tokyo'")
    conn.execute("SET work_mem TO '7MB'")
    conn.execute("SELECT set_config('driver.own', 'mine', false)")
    conn.execute("LISTEN driver")
    if mode == "movable":
        return None
    conn.execute("SELECT pg_advisory_lock(4711), pg_advisory_lock(4711)")
    conn.execute("CREATE TEMP TABLE mine (id int PRIMARY KEY, note text)")
    conn.execute("INSERT INTO mine VALUES (1, 'one'), (2, 'two')")
    cursor = conn.cursor("held", withhold=True)
    cursor.execute("SELECT g FROM generate_series(1, 30) g")
    assert [row[0] for row in cursor.fetchmany(10)] == list(range(1, 11))
    return cursor


def use_state(conn, cursor, turn):
    assert conn.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)
    assert conn.info.timezone.key == "Asia/Tokyo"
    assert conn.execute("SELECT current_setting('work_mem'), current_setting('driver.own')"
                        ).fetchone() == ("7MB", "mine")
    assert conn.execute("EXECUTE by_sql(%d)" % turn).fetchone() == (100 + turn,)
    conn.execute("DEALLOCATE by_sql")
    if mode == "session":
        use_more(conn, cursor, turn)
    with connect(autocommit=True) as other:
        other.execute(sql.SQL("NOTIFY driver, {}").format(str(turn)))
        for notify in conn.notifies():
            assert (notify.channel, notify.payload) == ("driver", str(turn)), notify
            break


def use_more(conn, cursor, turn):
    assert conn.execute("SELECT * FROM mine ORDER BY id").fetchall() == [(1, "one"), (2, "two")]
    assert conn.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711"
                        " AND pid = pg_backend_pid()").fetchone() == (1,)
    first = 11 + turn * 5
    assert [row[0] for row in cursor.fetchmany(5)] == list(range(first, first + 5))


def main():
    with connect(autocommit=True, prepare_threshold=0) as conn:
        ordinary(conn)
        cursor = hold_state(conn) if mode != "transaction" else None
        for turn in range(3):
            if mode != "transaction":
                # Not earlier: psycopg says DEALLOCATE ALL after a ROLLBACK.
                conn.execute("PREPARE by_sql(int) AS SELECT $1 + 100")
            moved()
            twice(conn, turn)
            if mode != "transaction":
                use_state(conn, cursor, turn)
            ordinary(conn)
        if mode == "session":
            cursor.close()
            unlocked = [conn.execute("SELECT pg_advisory_unlock(4711)").fetchone()[0]
                        for _ in range(3)]
            assert unlocked == [True, True, False], unlocked
    print("DONE", flush=True)


main()
