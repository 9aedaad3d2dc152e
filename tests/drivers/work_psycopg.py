# SPDX-License-Identifier: PostgreSQL
"""Ordinary work with psycopg 3.  Prints what it sees: the same directly and through the proxy.

    work_psycopg.py HOST PORT DATABASE TABLE
"""
import asyncio
import datetime
import decimal
import sys
import uuid

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

HOST, PORT, DATABASE, TABLE = sys.argv[1:]
WHERE = dict(host=HOST, port=PORT, dbname=DATABASE, user="app")


def refused(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
        print("no error")
    except psycopg.Error as error:
        print("error", error.sqlstate)


def types(conn):
    for i in range(8):  # prepared from the fifth time on
        for binary in (False, True):
            print("types", conn.execute(
                "SELECT %s::int8, %s::numeric, %s::text, %s::bytea, %s::timestamptz, %s::int[], "
                "%s::uuid, %s::jsonb, %s::date",
                (2 ** 53 + i, decimal.Decimal("1234567890.0001"), "grüß 😀 %d" % i, bytes([0, 255, i]),
                 datetime.datetime(2026, 1, 31, tzinfo=datetime.timezone.utc), [1, None, i],
                 uuid.UUID(int=i), Jsonb({"i": i}), None), binary=binary).fetchone())


def transactions(conn):
    with conn.transaction():
        conn.cursor().executemany("INSERT INTO %s VALUES (%%s, %%s)" % TABLE,
                                  [(i, "row %d" % i) for i in range(50)])
        try:
            with conn.transaction():
                conn.execute("INSERT INTO %s VALUES (1, 'twice')" % TABLE)
        except psycopg.errors.UniqueViolation:
            print("savepoint")
    try:
        with conn.transaction():
            conn.execute("DELETE FROM " + TABLE)
            raise psycopg.Rollback
    except psycopg.Error as error:
        print("unexpected", error)
    with conn.transaction(), conn.cursor("named", row_factory=dict_row) as cursor:
        cursor.itersize = 7
        cursor.execute("SELECT * FROM %s ORDER BY id" % TABLE)
        print("rows", [row["id"] for row in cursor])
    with conn.pipeline():
        cursors = [conn.execute("SELECT %s + count(*) FROM " + TABLE, (i,)) for i in range(30)]
        print("pipeline", [cursor.fetchone()[0] for cursor in cursors])

    def fails():
        with conn.pipeline():
            conn.execute("SELECT 1")
            conn.execute("SELECT 1/0")
            conn.execute("SELECT 2")
    refused(fails)


def copy(conn):
    lines = "".join("%d\tcopied\n" % i for i in range(1000, 21000))
    with conn.cursor() as cursor:
        with cursor.copy("COPY %s FROM STDIN" % TABLE) as into:
            for at in range(0, len(lines), 10000):
                into.write(lines[at:at + 10000])
        with cursor.copy("COPY (SELECT * FROM %s WHERE id >= 1000 ORDER BY id) TO STDOUT"
                         % TABLE) as out:
            print("copy", b"".join(bytes(part) for part in out).decode() == lines)

        def broken():
            with cursor.copy("COPY %s FROM STDIN" % TABLE) as into:
                into.write("no number\n")
        refused(broken)
        with cursor.copy("COPY %s FROM STDIN (FORMAT binary)" % TABLE) as into:
            into.set_types(["int4", "text"])
            into.write_row((-1, "binary"))
    print("copied", conn.execute("SELECT count(*) FROM " + TABLE).fetchone())


def altered(conn):
    """A statement that was prepared, and a table that is altered under it."""
    conn.execute("CREATE TABLE %s_2 AS SELECT 1 AS a" % TABLE)
    try:
        query = "SELECT * FROM %s_2" % TABLE
        for _ in range(3):
            conn.execute(query, prepare=True)
        conn.execute("ALTER TABLE %s_2 ALTER a TYPE text" % TABLE)
        refused(conn.execute, query)
        # Whoever prepares it now gets it as it is now, on whatever server connection.
        with psycopg.connect(**WHERE, autocommit=True) as other:
            for _ in range(3):
                print("altered", other.execute(query, prepare=True).fetchone())
    finally:
        conn.execute("DROP TABLE %s_2" % TABLE)


async def workers():
    async def one(number):
        async with await psycopg.AsyncConnection.connect(
                **WHERE, autocommit=True, application_name="worker %d" % number,
                options="-c statement_timeout=20s -c search_path=public,pg_catalog") as conn:
            conn.prepare_threshold = 1
            for i in range(20):
                cursor = await conn.execute(
                    "SELECT %s::int, current_setting('application_name'), "
                    "current_setting('statement_timeout'), current_schemas(false)::text", (i,))
                assert await cursor.fetchone() == (i, "worker %d" % number, "20s",
                                                   "{public,pg_catalog}")
            await conn.execute("SET TIME ZONE 'Asia/Tokyo'")
            cursor = await conn.execute("SELECT timestamptz '2026-01-31 12:00Z'")
            return str((await cursor.fetchone())[0])
    print("workers", await asyncio.gather(*(one(number) for number in range(8))))


def main():
    with psycopg.connect(**WHERE, autocommit=True) as conn:
        conn.execute("CREATE TABLE %s (id int PRIMARY KEY, note text)" % TABLE)
        try:
            types(conn)
            transactions(conn)
            copy(conn)
            altered(conn)
            refused(conn.execute, "SELECT 1; SELECT 1/0; SELECT 2")
            asyncio.run(workers())
        finally:
            conn.execute("DROP TABLE " + TABLE)
    print("done")


main()
