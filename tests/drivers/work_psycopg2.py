# SPDX-License-Identifier: PostgreSQL
"""Ordinary work with psycopg2, which knows only simple queries.  Prints what it sees.

    work_psycopg2.py HOST PORT DATABASE TABLE
"""
import datetime
import io
import sys
import threading

import psycopg2
import psycopg2.extensions
import psycopg2.extras
import psycopg2.pool

HOST, PORT, DATABASE, TABLE = sys.argv[1:]
WHERE = dict(host=HOST, port=PORT, dbname=DATABASE, user="app")


def refused(conn, cursor, sql):
    try:
        cursor.execute(sql)
        print("no error")
    except psycopg2.Error as error:
        print("error", error.pgcode, conn.get_transaction_status())


def main():
    conn = psycopg2.connect(**WHERE)
    cursor = conn.cursor(cursor_factory=psycopg2.extras.DictCursor)
    cursor.execute("CREATE TABLE %s (id int PRIMARY KEY, note text)" % TABLE)
    conn.commit()
    try:
        psycopg2.extras.execute_values(cursor, "INSERT INTO %s VALUES %%s" % TABLE,
                                       [(i, "row %d" % i) for i in range(250)])
        conn.commit()
        refused(conn, cursor, "INSERT INTO %s VALUES (1, 'twice')" % TABLE)
        refused(conn, cursor, "SELECT 1")
        conn.rollback()
        cursor.execute("DELETE FROM %s; SELECT count(*) FROM %s" % (TABLE, TABLE))
        print("several", cursor.fetchall())
        conn.rollback()
        with conn, conn.cursor("named") as named:
            named.itersize = 70
            named.execute("SELECT id FROM %s ORDER BY id" % TABLE)
            print("rows", sum(row[0] for row in named))
        lines = "".join("%d\tcopied\n" % i for i in range(1000, 21000))
        cursor.copy_expert("COPY %s FROM STDIN" % TABLE, io.StringIO(lines))
        out = io.StringIO()
        cursor.copy_expert("COPY (SELECT * FROM %s WHERE id >= 1000 ORDER BY id) TO STDOUT" % TABLE,
                           out)
        conn.commit()
        print("copy", out.getvalue() == lines)
        cursor.execute("SELECT %s, %s, %s, %s", (datetime.date(2026, 1, 31), [1, 2], b"\0\xff", None))
        print("types", [bytes(x) if isinstance(x, memoryview) else x for x in cursor.fetchone()])
        conn.rollback()
        conn.set_session(isolation_level="SERIALIZABLE", readonly=True)
        cursor.execute("SHOW transaction_isolation")
        print("isolation", cursor.fetchone())
        refused(conn, cursor, "DELETE FROM " + TABLE)
        conn.rollback()
        conn.set_session(isolation_level="DEFAULT", readonly=False)
        print("encoding", conn.encoding)
        conn.set_client_encoding("LATIN1")
        cursor.execute("SELECT 'grüß'")
        print("latin1", cursor.fetchone())
        conn.rollback()
        threading.Timer(1, conn.cancel).start()
        refused(conn, cursor, "SELECT pg_sleep(30)")
        conn.rollback()
        pool = psycopg2.pool.ThreadedConnectionPool(1, 8, **WHERE)
        sums = [0] * 8

        def worker(number):
            for i in range(20):
                mine = pool.getconn()
                with mine, mine.cursor() as one:
                    one.execute("SELECT count(*) + %s FROM " + TABLE, (i,))
                    sums[number] += one.fetchone()[0]
                pool.putconn(mine)
        threads = [threading.Thread(target=worker, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pool.closeall()
        print("workers", sums)
    finally:
        conn.rollback()
        cursor.execute("DROP TABLE " + TABLE)
        conn.commit()
        conn.close()
    print("done")


main()
