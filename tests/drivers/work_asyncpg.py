# SPDX-License-Identifier: PostgreSQL
"""Ordinary work with asyncpg as it is after its installation: statements prepared and cached, pool
with its resets.  Prints what it sees.

    work_asyncpg.py HOST PORT DATABASE TABLE
"""
import asyncio
import datetime
import decimal
import io
import sys
import uuid

import asyncpg

HOST, PORT, DATABASE, TABLE = sys.argv[1:]
WHERE = dict(host=HOST, port=int(PORT), database=DATABASE, user="app")


async def refused(awaitable):
    try:
        await awaitable
        print("no error")
    except asyncpg.PostgresError as error:
        print("error", error.sqlstate)


async def types(conn):
    for i in range(4):
        print("types", tuple(await conn.fetchrow(
            "SELECT $1::int8, $2::numeric, $3::text, $4::bytea, $5::timestamptz, $6::int[], $7::uuid,"
            " $8::jsonb, $9::date, $10::interval",
            2 ** 53 + i, decimal.Decimal("1234567890.0001"), "grüß 😀 %d" % i, bytes([0, 255, i]),
            datetime.datetime(2026, 1, 31, tzinfo=datetime.timezone.utc), [1, None, i],
            uuid.UUID(int=i), '{"i": %d}' % i, None, datetime.timedelta(days=1, seconds=i))))


async def transactions(conn):
    await conn.executemany("INSERT INTO %s VALUES ($1, $2)" % TABLE,
                           [(i, "row %d" % i) for i in range(50)])
    async with conn.transaction():
        await refused(nested(conn))
        rows = []
        async for row in conn.cursor("SELECT id FROM %s ORDER BY id" % TABLE, prefetch=7):
            rows.append(row["id"])
        print("rows", rows)
    async with conn.transaction(isolation="serializable", readonly=True):
        print("isolation", await conn.fetchval("SHOW transaction_isolation"))
        await refused(conn.execute("DELETE FROM " + TABLE))


async def nested(conn):
    async with conn.transaction():
        await conn.execute("INSERT INTO %s VALUES (1, 'twice')" % TABLE)


async def copy(conn):
    lines = b"".join(b"%d\tcopied\n" % i for i in range(1000, 21000))
    print("copy in", await conn.copy_to_table(TABLE, source=io.BytesIO(lines)))
    out = io.BytesIO()
    print("copy out", await conn.copy_from_query(
        "SELECT * FROM %s WHERE id >= $1 ORDER BY id" % TABLE, 1000, output=out),
          out.getvalue() == lines)
    print("records", await conn.copy_records_to_table(TABLE, records=[(-1, "a"), (-2, None)]))


async def altered(conn):
    """asyncpg tells who is in a transaction, and prepares anew for others."""
    await conn.execute("CREATE TABLE %s_2 AS SELECT 1 AS a" % TABLE)
    try:
        query = "SELECT * FROM %s_2" % TABLE
        print("before", await conn.fetchval(query), await conn.fetchval(query))
        await conn.execute("ALTER TABLE %s_2 ALTER a TYPE text" % TABLE)
        print("after", await conn.fetchval(query), await conn.fetchval(query))
        await conn.execute("ALTER TABLE %s_2 ADD b int" % TABLE)
        print("again", await conn.fetchrow(query))
    finally:
        await conn.execute("DROP TABLE %s_2" % TABLE)


async def main():
    conn = await asyncpg.connect(**WHERE)
    await conn.execute("CREATE TABLE %s (id int PRIMARY KEY, note text)" % TABLE)
    try:
        await types(conn)
        await transactions(conn)
        await copy(conn)
        await altered(conn)
        for i in range(5, -1, -1):
            if i % 5:
                print("divided", await conn.fetchval("SELECT 1 / $1::int", i))
            else:
                await refused(conn.fetchval("SELECT 1 / ($1::int % 5)", i))
        try:
            await conn.fetchval("SELECT pg_sleep(30)", timeout=0.3)
        except asyncio.TimeoutError:
            print("timeout", await conn.fetchval("SELECT 1"))
        async with asyncpg.create_pool(**WHERE, min_size=2, max_size=8) as pool:
            async def one(i):
                async with pool.acquire() as mine, mine.transaction():
                    return await mine.fetchval("SELECT count(*) + $1 FROM " + TABLE, i)
            print("pool", await asyncio.gather(*(one(i) for i in range(200))))
    finally:
        await conn.execute("DROP TABLE " + TABLE)
    await conn.close()
    print("done")


asyncio.run(main())
