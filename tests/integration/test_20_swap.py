# SPDX-License-Identifier: PostgreSQL
"""PREPARE SWAP and SWAP: the checks of the new server, and what clients notice, which is nothing."""
import contextlib
import signal
import socket
import time

import pytest

from pgwire import SYNC, bind, errors, execute, kinds, parse, query, rows, wait_for
from proxy import ConsoleError
from servers import SCHEMA, SLOW, free_port

pytestmark = pytest.mark.threads


@pytest.fixture
def pair(make_cluster):
    """pg1, and pg2 as its standby."""
    pg1 = make_cluster("pg1")
    for name in ("p1", "p2"):
        pg1.sql("CREATE DATABASE " + name)
        pg1.sql(SCHEMA, name)
    return pg1, make_cluster.standby(pg1, "pg2", slot="standby1")


@pytest.fixture
def proxy(make_proxy, pg, other):
    return make_proxy({"pg": pg, "other": other,
                       "gone": {"host": "127.0.0.1", "port": free_port()}})


def catch_up(pg1, pg2):
    lsn = pg1.value("SELECT pg_current_wal_flush_lsn()")
    wait_for(lambda: pg2.value("SELECT pg_last_wal_replay_lsn() >= '%s'::pg_lsn" % lsn),
             what="the standby")


def promote(cluster):
    cluster.sql("SELECT pg_promote(true, 60)")
    assert cluster.value("SELECT pg_is_in_recovery()") is False


def test_swap_needs_a_drained_hold(proxy):
    with pytest.raises(ConsoleError) as error:
        proxy.command("SWAP p2 TO other FORCE")
    assert error.value.sqlstate == "55000" and "HOLD" in error.value.fields["H"]
    with proxy.wire("p2") as busy:
        busy.query("BEGIN")
        proxy.hold("p2", "NOWAIT DRAIN 30s")
        with pytest.raises(ConsoleError) as error:
            proxy.command("SWAP p2 TO other FORCE")
        assert error.value.sqlstate == "55000"
        busy.query("COMMIT")
    assert proxy.route()["server"] == "pg"


def swap(proxy, server, dbname="p2"):
    with proxy.console() as console:
        epoch = console("HOLD %s LEASE 60s" % dbname)[0]["epoch"]
        row = console("SWAP %s TO %s EPOCH %s FORCE" % (dbname, server, epoch))[0]
        assert console.tag == "SWAP" and row["server"] == server and row["state"] == "held"
        row = console("RELEASE %s EPOCH %s" % (dbname, epoch))[0]
        assert row["state"] == "open"
    return epoch


def test_clients_go_on_at_the_new_server(proxy, pg):
    with proxy.wire("p2", application_name="mover", TimeZone="Asia/Tokyo") as conn, \
            proxy.wire("p1") as bystander:
        assert conn.value("SHOW cluster_name") == "pg"
        conn.send(parse("SELECT current_setting('cluster_name'), $1::int", "s"), SYNC)
        conn.ready("I")
        swap(proxy, "other")
        assert conn.value("SHOW cluster_name") == "other"
        assert conn.value("SHOW TimeZone") == "Asia/Tokyo"
        assert conn.value("SHOW application_name") == "mover"
        conn.send(bind([3], "s"), execute(), SYNC)
        assert rows(conn.ready("I")) == [["other", "3"]]
        assert bystander.value("SHOW cluster_name") == "pg"
        route = proxy.route()
        assert route["server"] == "other" and route["origin"] == "swap"
        # The old connections end.
        wait_for(lambda: not pg.sessions("p2"), 10 * SLOW, "the end of the old connections")
        # A cancel reaches the new server by the key of the old days.
        conn.send(query("SELECT pg_sleep(60)"))
        time.sleep(0.3)
        conn.cancel()
        assert errors(conn.ready("I"))[0]["C"] == "57014"


def test_held_requests_go_to_the_new_server(proxy):
    conns = [proxy.wire("p2") for _ in range(12)]
    for conn in conns:
        assert conn.value("SHOW cluster_name") == "pg"
        conn.send(parse("SHOW cluster_name", "named"), SYNC)
        conn.ready("I")
    epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
    for n, conn in enumerate(conns):
        if n % 3 == 0:
            conn.send(query("SHOW cluster_name"))
        elif n % 3 == 1:
            conn.send(bind(name="named"), execute(), SYNC)
        else:
            conn.send(query("BEGIN"), parse("SHOW cluster_name"), bind(), execute(), SYNC,
                      query("COMMIT"))
    proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)
    assert all(conn.silent(0.05) for conn in conns[:3])
    proxy.command("RELEASE p2 EPOCH %s" % epoch)
    for n, conn in enumerate(conns):
        if n % 3 == 2:
            conn.ready("T")
        assert rows(conn.ready())[0] == ["other"]
        if n % 3 == 2:
            conn.ready("I")
        conn.close()


def test_there_and_back_again(proxy):
    with proxy.wire("p2") as conn:
        for server in ("other", "pg", "other", "pg"):
            swap(proxy, server)
            assert conn.value("SHOW cluster_name") == server


def test_swap_is_idempotent(proxy):
    epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
    for _ in range(3):
        assert proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)[0]["server"] == "other"
    proxy.command("RELEASE p2")


def test_swap_to_a_server_that_does_not_answer(proxy):
    """A failed swap changes nothing: still held, still the old route."""
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        proxy.hold("p2", "LEASE 60s")
        with pytest.raises(ConsoleError) as error:
            proxy.command("SWAP p2 TO gone")
        assert error.value.sqlstate == "55000" and error.value.fields["H"]
        assert proxy.held()["state"] == "held" and proxy.route()["server"] == "pg"
        proxy.command("RELEASE p2")
        assert conn.value("SHOW cluster_name") == "pg"


def test_swap_to_another_system_is_refused(proxy):
    """The same database names on a server that is no copy."""
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        proxy.command("PREPARE SWAP p2 TO other")
        proxy.hold("p2", "LEASE 60s")
        with pytest.raises(ConsoleError) as error:
            proxy.command("SWAP p2 TO other")
        assert error.value.sqlstate == "55000"
        assert "system" in (error.value.fields["M"] + error.value.fields.get("D", ""))
        assert proxy.route()["server"] == "pg"
        proxy.command("SWAP p2 TO other FORCE")
        proxy.command("RELEASE p2")
        assert conn.value("SHOW cluster_name") == "other"


def test_swap_to_a_standby_is_refused(make_proxy, pair):
    pg1, pg2 = pair
    proxy = make_proxy({"pg1": pg1, "pg2": pg2}, {"p1": "pg1", "p2": "pg1"})
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        proxy.command("PREPARE SWAP p2 TO pg2")
        proxy.hold("p2", "LEASE 60s")
        with pytest.raises(ConsoleError) as error:
            proxy.command("SWAP p2 TO pg2")
        assert error.value.sqlstate == "55000"
        assert "recovery" in str(error.value.fields) or "standby" in str(error.value.fields)
        assert proxy.route()["server"] == "pg1"
        proxy.command("RELEASE p2")
        assert conn.value("SHOW cluster_name") == "pg1"
    proxy.stop()


def test_swap_to_the_promoted_standby(make_proxy, pair):
    """The connections that PREPARE SWAP opened on the hot standby survive the promotion."""
    pg1, pg2 = pair
    proxy = make_proxy({"pg1": pg1, "pg2": pg2}, {"p1": "pg1", "p2": "pg1"}, pool_size=3)
    conns = [proxy.wire("p2") for _ in range(6)]
    for conn in conns[:3]:
        conn.query("BEGIN")
        conn.query("INSERT INTO items VALUES (%d, 'before')" % (1000 + conns.index(conn)))
    for conn in conns[:3]:
        conn.query("COMMIT")
    catch_up(pg1, pg2)
    row = proxy.command("PREPARE SWAP p2 TO pg2")[0]
    assert row["database"] == "p2" and row["server"] == "pg2" and row["failed"] == "0"
    prepared = pg2.sessions("p2")
    assert len(prepared) == int(row["connections"]) == 3
    assert proxy.held()["target"] == "pg2"
    epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
    for n, conn in enumerate(conns):
        conn.send(query("INSERT INTO items VALUES (%d, 'after') RETURNING pg_backend_pid()"
                        % (2000 + n)))
    catch_up(pg1, pg2)
    promote(pg2)
    proxy.command("SWAP p2 TO pg2 EPOCH %s" % epoch)
    proxy.command("RELEASE p2 EPOCH %s" % epoch)
    used = set()
    for conn in conns:
        messages = conn.ready("I")
        assert kinds(messages) == "TDCZ", errors(messages)
        used.add(int(rows(messages)[0][0]))
        conn.close()
    assert used <= prepared, "new connections were opened although prepared ones were there"
    assert pg2.value("SELECT count(*) FROM items WHERE id >= 1000", "p2") == 9
    assert pg1.value("SELECT count(*) FROM items WHERE id >= 2000", "p2") == 0
    with proxy.wire("p1") as conn:
        assert conn.value("SHOW cluster_name") == "pg1"
    proxy.stop()


def test_swap_without_preparation(make_proxy, pair):
    pg1, pg2 = pair
    proxy = make_proxy({"pg1": pg1, "pg2": pg2}, {"p1": "pg1", "p2": "pg1"})
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        catch_up(pg1, pg2)
        proxy.hold("p2", "LEASE 60s")
        conn.send(query("SHOW cluster_name"))
        promote(pg2)
        proxy.command("SWAP p2 TO pg2")
        proxy.command("RELEASE p2")
        assert rows(conn.ready("I")) == [["pg2"]]
        assert conn.value("SHOW transaction_read_only") == "off"
    proxy.stop()


def test_fenced_old_server(make_proxy, pair):
    """As the mover does it: the old sessions are terminated while held; nobody sees their 57P01,
    nor the refusals of the fenced database."""
    pg1, pg2 = pair
    proxy = make_proxy({"pg1": pg1, "pg2": pg2}, {"p1": "pg1", "p2": "pg1"})
    conns = [proxy.wire("p2") for _ in range(5)]
    for conn in conns:
        conn.value("SELECT 1")
    catch_up(pg1, pg2)
    proxy.command("PREPARE SWAP p2 TO pg2")
    epoch = proxy.hold("p2", "LEASE NONE")["epoch"]
    conns[0].send(query("SHOW cluster_name"))
    pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS false")
    pg1.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'p2'")
    wait_for(lambda: not pg1.sessions("p2"), what="the end of the sessions")
    with proxy.wire("p2") as fresh:
        assert fresh.silent(0.5) and all(conn.silent(0.01) for conn in conns)
        catch_up(pg1, pg2)
        promote(pg2)
        pg2.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS true")
        proxy.command("SWAP p2 TO pg2 EPOCH %s" % epoch)
        proxy.command("RELEASE p2 EPOCH %s" % epoch)
        assert rows(conns[0].ready("I")) == [["pg2"]]
        for conn in conns + [fresh]:
            assert conn.value("SHOW cluster_name") == "pg2"
    for conn in conns:
        conn.close()
    proxy.stop()


def test_cancel_swap(proxy, other):
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        proxy.command("PREPARE SWAP p2 TO other")
        assert other.sessions("p2")
        proxy.command("CANCEL SWAP p2")
        wait_for(lambda: not other.sessions("p2"), 10 * SLOW, "the end of the connections")
        assert proxy.held()["target"] is None
        proxy.command("CANCEL SWAP p2")
        assert conn.value("SHOW cluster_name") == "pg"


def test_trial_of_the_logins(make_proxy, pg, other):
    """One login of each pool, closed before the answer: nothing is prepared, and what the pool has
    stays.  What is prepared is not tried."""
    proxy = make_proxy({"pg": pg, "other": other}, workers=1)
    conns = [proxy.wire("p2") for _ in range(3)]
    for conn in conns:
        conn.query("BEGIN")
    for conn in conns:
        conn.query("COMMIT")
    row = proxy.command("PREPARE SWAP p2 TO other TRIAL")[0]
    assert (row["connections"], row["failed"]) == ("1", "0")
    assert proxy.held()["target"] is None and not server_states(proxy, "other")
    assert server_states(proxy, "pg") == ["idle"] * 3
    assert proxy.command("PREPARE SWAP p2 TO other")[0]["connections"] == "3"
    with pytest.raises(ConsoleError) as error:
        proxy.command("PREPARE SWAP p2 TO other TRIAL")
    assert error.value.sqlstate == "55000"
    assert server_states(proxy, "other") == ["prepared"] * 3
    swap(proxy, "other")
    for conn in conns:
        assert conn.value("SHOW cluster_name") == "other"
        conn.close()


def test_who_prepares_leaves_before_the_answer(make_proxy, pg):
    """Nobody knows of the preparation, so it ends; but not one that was begun after it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = make_proxy({"pg": pg, "silent": {"host": "127.0.0.1",
                                                 "port": silent.getsockname()[1]}})
        with proxy.wire("p2") as conn, proxy.console() as second:
            conn.value("SELECT 1")

            def prepare(console):
                begun = proxy.log().count("PREPARE SWAP")
                console.send("PREPARE SWAP p2 TO silent")
                wait_for(lambda: proxy.log().count("PREPARE SWAP") > begun, 10 * SLOW)
            with proxy.console() as first:
                prepare(first)
                assert proxy.held()["target"] == "silent"
            wait_for(lambda: proxy.held()["target"] is None, 10 * SLOW, "its end")
            with proxy.console() as first:
                prepare(first)
                prepare(second)
                port = first.conn.sock.getsockname()[1]
            wait_for(lambda: ":%d left" % port in proxy.log(), 10 * SLOW)
            assert proxy.held()["target"] == "silent"
            assert conn.value("SHOW cluster_name") == "pg"


def test_preparation_for_a_server_that_does_not_answer(proxy):
    """Says so, and disturbs nobody."""
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        try:
            row = proxy.command("PREPARE SWAP p2 TO gone")[0]
            assert row["connections"] == "0" and int(row["failed"]) > 0
        except ConsoleError as error:
            assert error.sqlstate in ("55000", "08001", "08006")
        assert conn.value("SHOW cluster_name") == "pg"
        proxy.command("CANCEL SWAP p2")


def test_prepared_connections_are_not_used_before_the_swap(proxy):
    with proxy.wire("p2") as one, proxy.wire("p2") as two:
        one.value("SELECT 1")
        proxy.command("PREPARE SWAP p2 TO other")
        for _ in range(5):
            one.query("BEGIN")
            assert one.value("SHOW cluster_name") == two.value("SHOW cluster_name") == "pg"
            one.query("COMMIT")
        proxy.command("CANCEL SWAP p2")


def test_new_server_lost_right_after_the_swap(make_proxy, pg, make_cluster):
    """Requests wait for it as for any server that restarts."""
    other = make_cluster("other")
    other.sql("CREATE DATABASE p2")
    proxy = make_proxy({"pg": pg, "other": other})
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        swap(proxy, "other")
        other.stop()
        conn.send(query("SHOW cluster_name"))
        assert conn.silent()
        other.start()
        assert rows(conn.ready("I")) == [["other"]]
    proxy.stop()


def server_states(proxy, server):
    return sorted(row["state"] for row in proxy.command("SHOW SERVERS")
                  if row["database"] == "p2" and row["server"] == server)


def test_prepared_connections_are_warmed(make_proxy, pg, other):
    """The query runs on every one of them, and what it does to the session the client does not
    see in the parameters that are its own."""
    proxy = make_proxy({"pg": pg, "other": other}, pool_size=5,
                       swap_warm_query="SELECT set_config('my.warm', 'yes', false)")
    conns = [proxy.wire("p2") for _ in range(5)]
    for conn in conns:
        conn.query("BEGIN")
    for conn in conns:
        conn.query("COMMIT")
    row = proxy.command("PREPARE SWAP p2 TO other")[0]
    assert row["connections"] == "5" and row["failed"] == "0"
    assert server_states(proxy, "other") == ["prepared"] * 5
    swap(proxy, "other")
    for conn in conns:
        conn.query("BEGIN")
    assert [conn.value("SELECT current_setting('my.warm', true)") for conn in conns] == ["yes"] * 5
    for conn in conns:
        conn.query("COMMIT")
        conn.close()


@pytest.mark.parametrize("text", ["SELECT 1 / 0", "SELECT FROM", "", "BEGIN",
                                  "SELECT pg_terminate_backend(pg_backend_pid())"])
def test_warm_query_that_fails(make_proxy, pg, other, text):
    proxy = make_proxy({"pg": pg, "other": other}, swap_warm_query=text)
    with proxy.wire("p2") as conn:
        assert conn.value("SHOW cluster_name") == "pg"
        row = proxy.command("PREPARE SWAP p2 TO other")[0]
        # A session that is in a transaction, or dead, is none.
        bad = text == "BEGIN" or "terminate" in text
        assert (row["connections"], row["failed"]) == (("0", "1") if bad else ("1", "0"))
        swap(proxy, "other")
        assert conn.value("SHOW cluster_name") == "other"


def test_release_is_on_disk_when_it_answers(proxy):
    """The gate opens before the write; a proxy that is ended in between does not come back held."""
    with proxy.wire("p2") as conn:
        assert conn.value("SELECT 0") == "0"
        epoch = proxy.hold("p2", "LEASE NONE")["epoch"]
        conn.send(query("SELECT 1"))
        with proxy.console() as console:
            console.send("RELEASE p2 EPOCH %s" % epoch)
            assert rows(conn.ready("I")) == [["1"]]
    proxy.stop(signal.SIGTERM)
    proxy.start()
    assert proxy.held("p2")["state"] == "open"


def test_release_is_paced(make_proxy, pg):
    """In the order of arrival, a few at first; but nobody waits for the long statement of another."""
    proxy = make_proxy({"pg": pg}, {"p2": "pg"}, pool_size=30, workers=1)
    pg.sql("DROP SEQUENCE IF EXISTS arrival; CREATE SEQUENCE arrival", "p2")
    pg.sql("GRANT ALL ON SEQUENCE arrival TO PUBLIC", "p2")
    conns = [proxy.wire("p2") for _ in range(30)]
    for conn in conns:
        assert conn.value("SELECT 1") == "1"
    epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
    for number, conn in enumerate(conns):
        # The first eight fill the first places of a release for long.
        conn.send(query("SELECT nextval('arrival')" +
                        (" FROM pg_sleep(3)" if number < 8 else "")))
        wait_for(lambda: proxy.held()["held"] == str(number + 1), what="the request to arrive")
    proxy.command("RELEASE p2 EPOCH %s" % epoch)
    quick = [int(rows(conn.ready("I"))[0][0]) for conn in conns[8:]]
    assert all(conn.silent(0.01) for conn in conns[:8])
    assert sorted(quick) == list(range(1, 23))
    slow = [int(rows(conn.ready("I"))[0][0]) for conn in conns[:8]]
    assert sorted(slow) == list(range(23, 31))
    for conn in conns:
        conn.close()


CHECKS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgshuntd check'"


def test_many_databases_ask_their_server_together(make_proxy, pair):
    """Its check is one session for all of them, from PREPARE SWAP to the release."""
    pg1, pg2 = pair
    names = ["p1", "p2"] + ["more%d" % n for n in range(10)]
    proxy = make_proxy({"pg1": pg1, "pg2": pg2}, {
        name: {"server": "pg1", "dbname": "p2"} for name in names})
    with contextlib.ExitStack() as stack:
        consoles = {name: stack.enter_context(proxy.console()) for name in names}

        def all_of_them(command):
            for name in names:
                consoles[name].conn.send(query(command % name))
            return [errors(consoles[name].conn.ready("I")) for name in names]

        assert not any(all_of_them("PREPARE SWAP %s TO pg2"))
        assert pg2.value(CHECKS) == 1 and pg1.value(CHECKS) <= 1
        assert not any(all_of_them("HOLD %s LEASE 60s"))
        refused = all_of_them("SWAP %s TO pg2")
        assert [error[0]["C"] for error in refused] == ["55000"] * len(names)
        assert all("standby" in error[0]["D"] for error in refused)
        catch_up(pg1, pg2)
        promote(pg2)
        assert not any(all_of_them("SWAP %s TO pg2"))
        assert pg2.value(CHECKS) == 1
        assert not any(all_of_them("RELEASE %s"))
        for name in names:
            with proxy.wire(name) as conn:
                assert conn.value("SHOW cluster_name") == "pg2"
        wait_for(lambda: pg2.value(CHECKS) == 0, 10 * SLOW, "the end of the check's session")
