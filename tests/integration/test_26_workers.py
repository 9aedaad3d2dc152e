# SPDX-License-Identifier: PostgreSQL
"""Clients fill one worker, and leave it for another when it is busy, with all that is theirs."""
import contextlib
import os
import threading
import time

import psycopg
import pytest

from pgwire import wait_for

pytestmark = pytest.mark.threads


def clients_by_worker(proxy):
    return [int(row["clients"]) for row in proxy.command("SHOW WORKERS")]


def test_idle_clients_share_a_worker(make_proxy):
    proxy = make_proxy(workers=2, worker_fill=100)
    conns = [proxy.wire() for _ in range(6)]
    assert sorted(clients_by_worker(proxy)) == [0, 6]
    for conn in conns:
        conn.close()


def links(folder):
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            yield os.readlink(os.path.join(folder, name))


def rings(proxy):
    return sum("io_uring" in link for link in links("/proc/%d/fd" % proxy.process.pid))


@pytest.mark.parametrize("use_io_uring", [True, False])
def test_busy_clients_go_where_there_is_time(make_proxy, use_io_uring):
    proxy = make_proxy(workers=2, worker_fill=1, pool_size=4, log_level="info",
                       use_io_uring=use_io_uring)
    # Where the kernel has none for us there is none either way.
    assert rings(proxy) in ((0, 2) if use_io_uring else (0,))
    stop = threading.Event()
    failed = []

    def work(number):
        try:
            with proxy.connect(autocommit=True, prepare_threshold=0) as conn:
                conn.execute("SET application_name = 'client %d'" % number)
                while not stop.is_set():
                    for n in range(5):
                        row = conn.execute("SELECT %d + %%s::int" % n, (number,)).fetchone()
                        assert row == (n + number,)
                    assert conn.execute("SHOW application_name").fetchone() == (
                        "client %d" % number,)
                    with pytest.raises(psycopg.errors.DivisionByZero):
                        conn.execute("SELECT 1 / %s::int", (0,))
        except BaseException as error:  # shown below
            failed.append(error)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: failed or min(clients_by_worker(proxy)) > 0, 60, what="a client to move")
        time.sleep(1)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not failed, failed


def test_cancel_key_of_a_client_that_has_moved(make_proxy):
    proxy = make_proxy(workers=2, worker_fill=1, pool_size=6, log_level="info")
    stop = threading.Event()
    sleepers = [proxy.connect(autocommit=True) for _ in range(4)]
    others = []

    def work(conn):
        while not stop.is_set():
            conn.execute("SELECT 1")
    threads = [threading.Thread(target=work, args=(conn,)) for conn in sleepers]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: min(clients_by_worker(proxy)) > 0, 60, what="a client to move")
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    for conn in sleepers:
        def sleep(conn=conn):
            try:
                conn.execute("SELECT pg_sleep(60)")
            except psycopg.errors.QueryCanceled as error:
                others.append(error)
        thread = threading.Thread(target=sleep)
        thread.start()
        deadline = time.monotonic() + 30
        while thread.is_alive() and time.monotonic() < deadline:
            conn.cancel()
            thread.join(0.2)
        assert not thread.is_alive()
        assert conn.execute("SELECT 1").fetchone() == (1,)
        conn.close()
    assert len(others) == len(sleepers)
