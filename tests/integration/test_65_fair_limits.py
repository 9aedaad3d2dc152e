# SPDX-License-Identifier: PostgreSQL
"""Under a limit that several pools share, who has waited longest comes first, wherever it waits."""
import threading
import time

import pytest

from pgwire import errors, query, rows, wait_for
from servers import SLOW

pytestmark = pytest.mark.threads

# What shares the limit, and where the clients come from in turn.
SHARED = [("database", [("p1", "app"), ("p1", "app2"), ("p1", "postgres")]),
          ("user", [("p1", "app"), ("p2", "app")])]


def limited(make_proxy, what, limit, **kwargs):
    databases = {name: {"server": "pg"} for name in ("p1", "p2")}
    users = {}
    if what == "database":
        databases["p1"]["max_db_connections"] = limit
    else:
        users["app"] = {"max_user_connections": limit}
    return make_proxy(databases=databases, users=users, pool_size=10, **kwargs)


def waiting(proxy):
    return sum(int(row["cl_waiting"]) for row in proxy.command("SHOW POOLS"))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("what,places", SHARED)
def test_in_order_of_arrival(make_proxy, what, places, workers):
    proxy = limited(make_proxy, what, 1, workers=workers)
    conns = []
    served = []

    def receive(number, conn):
        # The time of the server's: threads may be slow.
        served.append((rows(conn.ready())[0][0], number))
    for place in places:  # the pools learn what their servers report
        with proxy.wire(*place) as conn:
            assert conn.value("SELECT 1") == "1"
    with proxy.wire(*places[0]) as first:
        first.query("BEGIN")
        for number in range(7):
            conns.append(proxy.wire(*places[(number + 1) % len(places)]))
            conns[-1].send(query("SELECT clock_timestamp()::text FROM pg_sleep(0.01)"))
            wait_for(lambda n=number: waiting(proxy) == n + 1, what="a client to wait")
            time.sleep(0.05)  # more than a difference that is worth a connection
        threads = [threading.Thread(target=receive, args=pair) for pair in enumerate(conns)]
        for thread in threads:
            thread.start()
        first.query("COMMIT")
        for thread in threads:
            thread.join(30 * SLOW)
    assert [number for _, number in sorted(served)] == list(range(7))
    for conn in conns:
        conn.close()


@pytest.mark.parametrize("what,places", SHARED)
def test_nobody_starves(make_proxy, pg, what, places):
    """A pool that is busy all the time leaves others their part; the limit holds."""
    proxy = limited(make_proxy, what, 2, workers=2)
    stop = threading.Event()
    failed, counts, most = [], {place: 0 for place in places}, []

    def work(place):
        try:
            with proxy.wire(*place) as conn:
                while not stop.is_set():
                    assert conn.value("SELECT 1 FROM pg_sleep(0.005)") == "1"
                    counts[place] += 1
        except BaseException as error:  # shown below
            failed.append(error)
    threads = [threading.Thread(target=work, args=(place,))
               for place in [places[0]] * 8 + places[1:]]
    for thread in threads:
        thread.start()
    try:
        def all_served():
            most.append(pg.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = "
                                 "'client backend' AND state = 'active' AND query LIKE '%%FROM "
                                 "pg_sleep(0.005)' AND pid <> pg_backend_pid()"))
            return failed or min(counts.values()) >= 10
        wait_for(all_served, 60 * SLOW, "ten requests of each")
    finally:
        stop.set()
        for thread in threads:
            thread.join(30 * SLOW)
    assert not failed, failed
    assert max(most) <= 2


def test_those_who_leave_or_are_held_stop_nobody(make_proxy):
    proxy = limited(make_proxy, "user", 1, workers=2)
    for dbname in ("p1", "p2"):
        with proxy.wire(dbname) as conn:
            assert conn.value("SELECT 1") == "1"
    with proxy.wire("p1") as first, proxy.wire("p1") as last:
        first.query("BEGIN")
        gone = proxy.wire("p2")
        gone.send(query("SELECT 1"))
        wait_for(lambda: waiting(proxy) == 1, what="a client to wait")
        with proxy.wire("p2") as held:
            held.send(query("SELECT 2"))
            wait_for(lambda: waiting(proxy) == 2, what="another")
            last.send(query("SELECT 3"))
            wait_for(lambda: waiting(proxy) == 3, what="the last")
            gone.close()
            wait_for(lambda: waiting(proxy) == 2, what="its end")
            proxy.command("HOLD p2")
            first.query("COMMIT")
            assert rows(last.ready()) == [["3"]]
            proxy.command("RELEASE p2")
            assert rows(held.ready()) == [["2"]]
            # Cancelled in the queue.
            first.query("BEGIN")
            held.send(query("SELECT 4"))
            wait_for(lambda: waiting(proxy) == 1, what="it to wait")
            held.cancel()
            assert errors(held.ready())[0]["C"] == "57014"
            last.send(query("SELECT 5"))
            first.query("COMMIT")
            assert rows(last.ready()) == [["5"]]
