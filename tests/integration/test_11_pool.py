# SPDX-License-Identifier: PostgreSQL
"""Pools: limits, queues, reuse, idle and lifetime limits, clients on several workers."""
import threading
import time

import pytest

import pgwire
from pgwire import LoginError, errors, query, rows, wait_for
from proxy import USERS
from servers import SLOW

pytestmark = pytest.mark.threads


def test_server_is_reused(make_proxy):
    proxy = make_proxy(pool_size=1)
    pids = set()
    for _ in range(5):
        with proxy.wire() as conn:
            pids.add(conn.value("SELECT pg_backend_pid()"))
    assert len(pids) == 1


def test_databases_and_users_have_pools_of_their_own(make_proxy, pg):
    proxy = make_proxy(pool_size=1)
    conns = [proxy.wire(dbname, user) for dbname in ("p1", "p2") for user in ("app", "app2")]
    for conn in conns:
        conn.query("BEGIN")
    assert len({conn.value("SELECT pg_backend_pid()") for conn in conns}) == 4
    for conn in conns:
        conn.close()


def test_limit_is_never_exceeded(make_proxy, pg):
    proxy = make_proxy(pool_size=3, workers=2)
    most = []
    stop = threading.Event()

    def watch():
        while not stop.is_set():
            most.append(len(pg.sessions("p1", "counted")))
            time.sleep(0.05)

    def work():
        with proxy.wire(user="counted") as conn:
            for _ in range(15):
                conn.value("SELECT pg_sleep(0.005)")
    watcher = threading.Thread(target=watch)
    watcher.start()
    run_threads([work] * 20)
    stop.set()
    watcher.join()
    assert max(most) <= 3
    assert [row["pool_size"] for row in proxy.command("SHOW POOLS")
            if row["database"] == "p1" and row["user"] == "counted"] == ["3"]


def run_threads(functions, timeout=60):
    failed = []

    def guard(function):
        try:
            function()
        except BaseException as error:  # shown by the assertion below
            failed.append(error)
    threads = [threading.Thread(target=guard, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout * SLOW)
        assert not thread.is_alive(), "a client makes no progress"
    assert not failed, failed


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_clients_of_all_workers_progress_with_one_server(make_proxy, mode):
    """No client waits while the server it could use is idle in another worker."""
    proxy = make_proxy(pool_size=1, workers=2, pool_mode=mode)
    done = []

    def work():
        for _ in range(3 if mode == "session" else 1):
            with proxy.wire() as conn:
                for _ in range(20):
                    conn.value("SELECT 1")
                done.append(1)
    run_threads([work] * 8)
    assert len(done) == 8 * (3 if mode == "session" else 1)
    workers = {row["worker"]: int(row["clients"]) for row in proxy.command("SHOW WORKERS")}
    assert len(workers) == 2


def test_idle_server_is_handed_over_at_once(make_proxy):
    """With one server and clients on both workers, a round trip takes no timer's time."""
    proxy = make_proxy(pool_size=1, workers=2)
    conns = [proxy.wire() for _ in range(8)]
    assert len({row["worker"] for row in proxy.command("SHOW CLIENTS")
                if row["database"] == "p1"}) == 2
    began = time.monotonic()
    for _ in range(25):
        for conn in conns:
            conn.value("SELECT 1")
    assert time.monotonic() - began < 10 * SLOW
    for conn in conns:
        conn.close()


def test_queue_is_first_come_first_served(make_proxy):
    proxy = make_proxy(pool_size=1, workers=1)
    with proxy.wire() as first:
        first.query("BEGIN")
        waiting = [proxy.wire() for _ in range(5)]
        for n, conn in enumerate(waiting):
            conn.send(query("SELECT %d, clock_timestamp()" % n))
            wait_for(lambda n=n: int(pool(proxy)["cl_waiting"]) == n + 1, what="the queue")
        first.query("COMMIT")
        stamps = [rows(conn.ready())[0] for conn in waiting]
    assert [row[1] for row in stamps] == sorted(row[1] for row in stamps)
    for conn in waiting:
        conn.close()


def pool(proxy, dbname="p1", user="app"):
    return [row for row in proxy.command("SHOW POOLS")
            if row["database"] == dbname and row["user"] == user][0]


def test_waiting_client_gets_an_error_at_the_limit(make_proxy):
    proxy = make_proxy(pool_size=1, query_wait_timeout="300ms")
    with proxy.wire() as first, proxy.wire() as second:
        first.query("BEGIN")
        second.send(query("SELECT 1"))
        failed = second.recv()
        assert failed.kind == "E" and failed.fields()["C"] in ("57P03", "53300", "08P01")
        first.query("COMMIT")
        assert first.value("SELECT 2") == "2"
    with proxy.wire() as third:
        assert third.value("SELECT 3") == "3"


def test_waiting_client_that_leaves(make_proxy):
    """Its request is never sent."""
    proxy = make_proxy(pool_size=1)
    with proxy.wire() as first:
        first.query("BEGIN")
        gone = proxy.wire()
        gone.send(query("INSERT INTO items VALUES (700001, 'never')"))
        wait_for(lambda: int(pool(proxy)["cl_waiting"]) == 1, what="the waiting client")
        gone.close()
        wait_for(lambda: int(pool(proxy)["cl_waiting"]) == 0, what="its end")
        first.query("COMMIT")
        assert first.value("SELECT count(*) FROM items WHERE id = 700001") == "0"


def test_idle_server_is_closed(make_proxy, pg):
    proxy = make_proxy(server_idle_timeout="300ms")
    with proxy.wire(user="app2") as conn:
        conn.value("SELECT 1")
        wait_for(lambda: not pg.sessions("p1", "app2"), what="the idle limit")
        assert conn.value("SELECT 2") == "2"


def test_old_server_is_closed(make_proxy, pg):
    proxy = make_proxy(server_lifetime="500ms", pool_size=1)
    with proxy.wire() as conn:
        first = conn.value("SELECT pg_backend_pid()")
        wait_for(lambda: conn.value("SELECT pg_backend_pid()") != first, what="another server")
        # Never in the middle of a transaction.
        conn.query("BEGIN")
        pid = conn.value("SELECT pg_backend_pid()")
        time.sleep(1)
        assert conn.value("SELECT pg_backend_pid()") == pid
        conn.query("COMMIT")


def test_idle_servers_leave_a_database_that_is_dropped(make_proxy, pg):
    """CREATE and DROP DATABASE fail if somebody else is still connected to it after five seconds."""
    pg.sql("CREATE ROLE maker LOGIN CREATEDB")
    proxy = make_proxy(databases={"*": "pg"}, secrets={**USERS, "maker": "x"}, workers=2)
    with proxy.wire("postgres", "maker", "x") as maker:
        maker.query('CREATE DATABASE "Ma""de"')
        clients = [proxy.wire('Ma"de', "app") for _ in range(4)]
        for client in clients:
            client.query("BEGIN")
        for client in clients:
            client.query("COMMIT")
        assert not errors(maker.query('CREATE DATABASE copied TEMPLATE "Ma""de"'))
        for client in clients:
            client.value("SELECT 1")
        maker.send(pgwire.parse('  drop\ndatabase "Ma""de"'), pgwire.bind(), pgwire.execute(),
                   pgwire.SYNC)
        assert not errors(maker.ready())
        with proxy.wire("copied", "app") as client:
            client.value("SELECT 1")
            # Without the right to do so nobody has to leave.
            pid = client.value("SELECT pg_backend_pid()")
            with proxy.wire("postgres", "app") as other:
                assert errors(other.query("DROP DATABASE copied"))[0]["C"] == "42501"
            assert client.value("SELECT pg_backend_pid()") == pid
        assert not errors(maker.query("DROP DATABASE copied"))
        for client in clients:
            client.close()


def test_client_that_leaves_in_a_transaction_does_not_harm_the_pool(make_proxy):
    proxy = make_proxy(pool_size=1)
    for _ in range(5):
        conn = proxy.wire()
        conn.query("BEGIN; INSERT INTO items VALUES (700002, 'x')")
        conn.close()
    for _ in range(5):
        conn = proxy.wire()
        conn.send(query("SELECT pg_sleep(0.2)"))
        conn.close()
    with proxy.wire() as conn:
        assert conn.value("SELECT count(*) FROM items WHERE id = 700002") == "0"


def test_client_that_leaves_before_reading_the_answer(make_proxy):
    """The next client gets its own answers only."""
    proxy = make_proxy(pool_size=1, workers=1)
    for n in range(20):
        conn = proxy.wire()
        conn.send(query("SELECT 'left over' FROM generate_series(1, 1000)"))
        conn.close()
        with proxy.wire() as other:
            assert rows(other.query("SELECT %d" % n)) == [[str(n)]]


def test_many_short_connections(make_proxy):
    proxy = make_proxy(log_level="info")
    for n in range(300):
        with proxy.wire() as conn:
            assert conn.value("SELECT %d" % n) == str(n)
    clients = [row for row in proxy.command("SHOW CLIENTS") if row["database"] == "p1"]
    assert len(clients) <= 1


def test_many_idle_clients(make_proxy):
    proxy = make_proxy(pool_size=2, log_level="info")
    conns = [proxy.wire() for _ in range(400)]
    for n, conn in enumerate(conns):
        conn.send(query("SELECT %d" % n))
    for n, conn in enumerate(conns):
        assert rows(conn.ready("I")) == [[str(n)]]
    for conn in conns:
        conn.close()


def test_mixed_work_on_all_workers(make_proxy):
    """Every kind of request at once over few servers: answers never get mixed up."""
    proxy = make_proxy(pool_size=3, workers=2, log_level="info")

    def simple(me):
        with proxy.wire() as conn:
            for n in range(60):
                assert rows(conn.query("SELECT %d, %d" % (me, n))) == [[str(me), str(n)]]

    def prepared(me):
        with proxy.wire() as conn:
            conn.send(pgwire.parse("SELECT %d, $1::int" % me, "s"), pgwire.SYNC)
            conn.ready("I")
            for n in range(60):
                conn.send(pgwire.bind([n], "s"), pgwire.execute(), pgwire.SYNC)
                assert rows(conn.ready("I")) == [[str(me), str(n)]]

    def pipelined(me):
        with proxy.wire() as conn:
            for n in range(10):
                conn.send(*[pgwire.parse("SELECT %d, %d" % (me, m)) + pgwire.bind() +
                            pgwire.execute() + pgwire.SYNC for m in range(10)])
                for m in range(10):
                    assert rows(conn.ready("I")) == [[str(me), str(m)]]

    def failing(me):
        with proxy.wire() as conn:
            for n in range(40):
                assert errors(conn.query("SELECT %d/0" % n))[0]["C"] == "22012"

    def leaving(me):
        for n in range(15):
            with proxy.wire() as conn:
                conn.query("BEGIN")
                conn.send(query("SELECT pg_sleep(0.01)"))

    def zoned(me):
        with proxy.wire(application_name="client %d" % me) as conn:
            for n in range(40):
                assert conn.value("SHOW application_name") == "client %d" % me
    run_threads([lambda f=f, me=me: f(me) for me in range(3)
                 for f in (simple, prepared, pipelined, failing, leaving, zoned)])


def test_login_while_no_server_can_be_had(make_proxy):
    """Once the parameters of the database are known, a login needs no server."""
    proxy = make_proxy(pool_size=1)
    with proxy.wire() as first:
        first.query("BEGIN")
        with proxy.wire() as second:
            assert second.params["server_version"]
            second.send(query("SELECT 2"))
            assert second.silent()
            first.query("COMMIT")
            assert rows(second.ready("I")) == [["2"]]


def test_error_of_the_server_at_its_login_reaches_the_client(make_proxy, pg):
    pg.sql("ALTER ROLE app2 CONNECTION LIMIT 0")
    try:
        proxy = make_proxy(connect_timeout="500ms")
        with pytest.raises(LoginError) as error:
            proxy.wire(user="app2").value("SELECT 1")
        assert error.value.sqlstate == "53300"
    finally:
        pg.sql("ALTER ROLE app2 CONNECTION LIMIT -1")
