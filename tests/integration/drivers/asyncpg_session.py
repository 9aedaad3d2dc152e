# SPDX-License-Identifier: PostgreSQL
"""asyncpg: prepared statements of its own, cursors, listeners, COPY, its pool.

Arguments and output as those of psycopg_session.py.
"""
import asyncio
import sys

import asyncpg

host, port, dbname, user, mode = sys.argv[1:]


async def moved():
    print("MOVE", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


async def connect(**kwargs):
    return await asyncpg.connect(host=host, port=int(port), database=dbname, user=user, ssl=False,
                                 **kwargs)


async def ordinary(conn):
    assert await conn.fetchval("SELECT $1::int + 1", 41) == 42
    async with conn.transaction():
        await conn.execute("DELETE FROM driver_items")
        await conn.executemany("INSERT INTO driver_items VALUES ($1, $2)",
                               [(n, "item %d" % n) for n in range(50)])
    try:
        async with conn.transaction():
            await conn.execute("DELETE FROM driver_items")
            await conn.fetchval("SELECT 1/0")
    except asyncpg.DivisionByZeroError:
        pass
    else:
        raise AssertionError("no error")
    async with conn.transaction():
        found = [row[0] async for row in conn.cursor("SELECT id FROM driver_items ORDER BY id",
                                                     prefetch=7)]
        assert found == list(range(50))
    await conn.copy_records_to_table("driver_items", records=[(50, None), (51, "x")])
    assert await conn.fetchval("SELECT count(*) FROM driver_items") == 52
    assert await conn.fetch("SELECT * FROM unnest($1::text[])", ["a", None]) == [("a",), (None,)]


async def use_pool():
    """Its pool resets each connection with a batch of its own."""
    async with asyncpg.create_pool(host=host, port=int(port), database=dbname, user=user, ssl=False,
                                   min_size=2, max_size=3) as pool:
        async def one(n):
            async with pool.acquire() as conn:
                return await conn.fetchval("SELECT $1::int", n)
        assert await asyncio.gather(*(one(n) for n in range(12))) == list(range(12))


async def main():
    conn = await connect(server_settings={"DateStyle": "German", "work_mem": "3MB"})
    notes = asyncio.Queue()
    await ordinary(conn)
    await use_pool()
    statement = await conn.prepare("SELECT id, note FROM driver_items WHERE id < $1 ORDER BY id")
    if mode != "transaction":
        await conn.add_listener("driver", lambda *note: notes.put_nowait(note[2:]))
        await conn.execute("SET work_mem TO '7MB'; SET search_path TO pg_temp, public")
    if mode == "session":
        await conn.execute("CREATE TEMP TABLE mine (n int); INSERT INTO mine VALUES (5)")
        await conn.fetchval("SELECT pg_advisory_lock(4712)")
    for turn in range(3):
        await moved()
        assert [row["note"] for row in await statement.fetch(3)] == ["item 0", "item 1", "item 2"]
        assert await conn.fetchval("SELECT date '2026-12-31'::text") == "31.12.2026"
        if mode == "session":
            assert await conn.fetchval("SELECT n FROM mine") == 5
        if mode != "transaction":
            assert await conn.fetchval("SHOW work_mem") == "7MB"
            other = await connect()
            await other.execute("NOTIFY driver, '%d'" % turn)
            await other.close()
            assert await asyncio.wait_for(notes.get(), 60) == ("driver", str(turn))
        await ordinary(conn)
        await use_pool()
    if mode == "session":
        assert await conn.fetchval("SELECT pg_advisory_unlock(4712)") is True
    if mode != "transaction":
        await conn.reset()
        assert await conn.fetchval("SHOW work_mem") == "3MB"
        assert await conn.fetchval("SELECT count(*) FROM pg_listening_channels()") == 0
    await conn.close()
    print("DONE", flush=True)


asyncio.run(main())
