# SPDX-License-Identifier: PostgreSQL
"""Session pools: the process id that a client is told at its login is that of its server process."""
import struct

import psycopg
import psycopg2
import pytest

from pgwire import PROTOCOL_3_0, PROTOCOL_3_2, cancel, errors, query, wait_for
from pgwire import Conn, rows

pytestmark = pytest.mark.threads

SLEEP = "SELECT pg_sleep(60) /* backend pid */"


def told(conn):
    return struct.unpack("!I", conn.key[0])[0]


def sleeping(pg):
    return pg.value("SELECT count(*) FROM pg_stat_activity WHERE query = '%s' AND state = 'active'"
                    % SLEEP)


def is_server(pg, pid):
    return pg.value("SELECT count(*) FROM pg_stat_activity WHERE pid = %d" % pid) == 1


def test_it_is_that_of_the_server(session_endpoint, pg):
    with session_endpoint.wire() as first, session_endpoint.wire() as second:
        for conn in (second, first):
            assert conn.value("SELECT pg_backend_pid()") == str(told(conn))
    with session_endpoint.connect(autocommit=True) as conn:
        pid = conn.info.backend_pid
        assert conn.execute("SELECT pg_backend_pid()").fetchone() == (pid,)
        pids = []
        conn.add_notify_handler(lambda note: pids.append(note.pid))
        conn.execute("LISTEN me")
        conn.execute("NOTIFY me")
        assert pids == [pid]
    conn = psycopg2.connect(host=session_endpoint.host, port=session_endpoint.port, dbname="p1",
                            user="app", options="-c work_mem=7MB")
    with conn.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        assert cursor.fetchone() == (conn.info.backend_pid,)
    conn.close()


def test_a_short_lifetime_does_not_end_it(make_proxy, pg):
    """pgbouncer's server_lifetime = 0: every server connection serves one client."""
    proxy = make_proxy(pool_mode="session", server_lifetime="1ms")
    with proxy.wire() as conn, proxy.wire("p1", "app2") as other:
        pid = told(conn)
        # (Idle servers are looked at several times in this time.)
        assert conn.silent(1.5)
        assert conn.value("SELECT pg_backend_pid()") == str(pid)
        assert other.value("SELECT pg_backend_pid()") == str(told(other)) != str(pid)
    wait_for(lambda: not is_server(pg, pid), what="its end")


def test_other_connections_reach_it(session_endpoint, pg):
    with session_endpoint.connect(autocommit=True) as conn, session_endpoint.wire() as wire:
        wire.send(query(SLEEP))
        wait_for(lambda: sleeping(pg) == 1, what="the query")
        assert conn.execute("SELECT pg_cancel_backend(%s)", [told(wire)]).fetchone() == (True,)
        assert errors(wire.ready("I"))[0]["C"] == "57014"
        conn.execute("SELECT 1")
        assert wire.value("SELECT pg_terminate_backend(%d)" % conn.info.backend_pid) == "t"
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")


@pytest.mark.parametrize("version", [PROTOCOL_3_0, PROTOCOL_3_2])
def test_cancel_hits_exactly_one(make_proxy, pg, other, version):
    """Of many, in two workers, on two servers."""
    proxy = make_proxy({"pg": pg, "other": other}, {"p1": "pg", "p2": "other"}, workers=2,
                       pool_mode="session", pool_size=12)
    conns = []
    for n in range(24):
        conn = Conn(proxy.host, proxy.port)
        conn.login("app", "p%d" % (1 + n % 2), version=version)
        conns.append(conn)
    for conn in conns:
        conn.send(query(SLEEP))
    wait_for(lambda: sleeping(pg) == 12 and sleeping(other) == 12, what="the queries")
    for n in (5, 0, 17, 23, 10):
        assert is_server(other if n % 2 else pg, told(conns[n]))
        pid, key = conns[n].key
        cancel(proxy.host, proxy.port, pid, key[:-1] + bytes([key[-1] ^ 1]))
        cancel(proxy.host, proxy.port, conns[(n + 1) % 24].key[0], key)
        cancel(proxy.host, proxy.port, pid, key)
        assert errors(conns[n].ready("I"))[0]["C"] == "57014"
        assert sleeping(pg) + sleeping(other) == 23
        conns[n].send(query(SLEEP))
        wait_for(lambda: sleeping(pg) + sleeping(other) == 24, what="the queries")
    for cluster in (pg, other):
        cluster.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query = '%s'" % SLEEP)
    for conn in conns:
        assert errors(conn.ready("I"))
        conn.close()


def test_the_first_logins_of_workers(make_proxy, pg):
    """A worker that does not know yet what to tell its clients takes nobody's promised server for it."""
    for _ in range(10):
        proxy = make_proxy(pool_mode="session", pool_size=2, workers=2)
        with proxy.wire() as first, proxy.wire() as second:
            for conn in (second, first):
                assert conn.value("SELECT pg_backend_pid()") == str(told(conn))
        proxy.stop()


def test_it_costs_nobody_a_server(make_proxy, pg):
    """Clients that only log in use none up, and none of them waits for one."""
    proxy = make_proxy(pool_mode="session", pool_size=2, workers=2)
    conns = [proxy.wire() for _ in range(40)]
    pids = {told(conn) for conn in conns}
    assert len(pids) == 40
    assert sorted(is_server(pg, pid) for pid in pids)[-3:] == [False, True, True]
    # The last ones come first: what was promised to others is given to them.
    first, second, third = conns[-3:]
    for conn in (first, second):
        assert conn.value("SELECT 1") == "1"
    third.send(query("SELECT 3"))
    assert third.silent()
    with proxy.wire() as late:
        assert not is_server(pg, told(late))
    first.close()
    assert rows(third.ready("I")) == [["3"]]
    assert len(proxy.command("SHOW SERVERS")) == 2
    for conn in conns[1:]:
        conn.close()
    # Those who leave take no promise along.
    wait_for(lambda: proxy.command("SHOW POOLS")[0]["sv_idle"] == "2", what="idle servers")
    for _ in range(5):
        with proxy.wire() as conn:
            assert conn.value("SELECT pg_backend_pid()") == str(told(conn))
        wait_for(lambda: proxy.command("SHOW POOLS")[0]["sv_idle"] == "2", what="idle servers")


def test_the_first_ones_get_one_each(make_proxy):
    """The second login comes to a worker that knows no server yet, while the first worker has one."""
    for _ in range(8):
        proxy = make_proxy(pool_mode="session", pool_size=2, workers=2)
        conns = [proxy.wire() for _ in range(2)]
        pids = [str(told(conn)) for conn in conns]
        assert [conn.value("SELECT pg_backend_pid()") for conn in conns] == pids
        for conn in conns:
            conn.close()
        proxy.stop()


def tried(proxy, *options):
    """What is asked for the first time is tried on a server before the login is done."""
    for option in options:
        proxy.wire(options=option).close()


def idle(proxy, count):
    wait_for(lambda: proxy.command("SHOW POOLS")[0]["sv_idle"] == str(count), what="idle servers")


@pytest.mark.parametrize("workers", [1, 2])
def test_idle_ones_of_others_make_room(make_proxy, pg, workers):
    """A full pool whose idle servers have other startup parameters: one of them that was promised to
    nobody gives way to a login, as it would to the first request."""
    proxy = make_proxy(pool_mode="session", pool_size=3, workers=workers)
    tried(proxy, "-c work_mem=5MB", "-c work_mem=6MB")
    others = [proxy.wire() for _ in range(3)]
    for conn in others:
        assert conn.value("SHOW work_mem") == "4MB"
    for conn in others[1:]:
        conn.close()
    idle(proxy, 2)
    with proxy.wire() as plain, proxy.wire(options="-c work_mem=5MB") as small:
        assert is_server(pg, told(plain)) and is_server(pg, told(small))
        if workers == 1:  # (what another worker has not tried yet, it tries in anybody's place)
            with proxy.wire(options="-c work_mem=6MB") as none:
                assert not is_server(pg, told(none))
        for conn in (small, plain):
            assert conn.value("SELECT pg_backend_pid()") == str(told(conn))
    others[0].close()


def test_who_was_promised_one_goes_last(make_proxy, pg):
    """Of a full pool's idle servers, a request with other startup parameters gets the place of one
    that was promised to nobody."""
    proxy = make_proxy(pool_mode="session", pool_size=2, workers=1)
    tried(proxy, "-c work_mem=6MB")
    with proxy.wire(options="-c work_mem=5MB") as small, proxy.wire() as first:
        assert first.value("SELECT pg_backend_pid()") == str(told(first))
        with proxy.wire(options="-c work_mem=6MB") as late:
            assert not is_server(pg, told(late))
            first.close()
            idle(proxy, 2)
            assert late.value("SHOW work_mem") == "6MB"
            assert is_server(pg, told(small))
            assert small.value("SELECT pg_backend_pid()") == str(told(small))


def test_no_login_waits(make_proxy, pg):
    """In a hold, and while the server takes no connection."""
    proxy = make_proxy(pool_mode="session", server_login_retry="100ms", workers=1)
    with proxy.wire("p2") as conn:
        old = told(conn)
        assert is_server(pg, old)
        epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        with proxy.wire("p2") as held:
            assert not is_server(pg, told(held))
            held.send(query("SELECT 7"))
            assert held.silent()
            proxy.command("RELEASE p2 EPOCH %s" % epoch)
            assert rows(held.ready("I")) == [["7"]]
        pg.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS false")
        pg.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'p2'")
        wait_for(lambda: not pg.sessions("p2"), what="their end")
        try:
            with proxy.wire("p2") as down:
                assert not is_server(pg, told(down))
                down.send(query("SELECT 8"))
                assert down.silent()
                pg.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS true")
                assert rows(down.ready("I")) == [["8"]]
        finally:
            pg.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS true")
        # The one that was promised has gone.
        assert conn.value("SELECT 9") == "9"


def test_switched_off(make_proxy, pg):
    proxy = make_proxy(pool_mode="session", session_backend_pid=False)
    with proxy.wire() as conn:
        assert conn.value("SELECT pg_backend_pid()") != str(told(conn))
        assert not is_server(pg, told(conn))
