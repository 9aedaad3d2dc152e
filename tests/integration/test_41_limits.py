# SPDX-License-Identifier: PostgreSQL
"""Limits of databases and users, reserve, standing connections, checks, time limits, statement
pooling, several hosts: what pgbouncer's users set."""
import time

import psycopg
import pytest

import pgwire
from pgwire import LoginError, errors, query, wait_for
from servers import SLOW


def by(rows, **wanted):
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())][0]


def refused(proxy, sqlstate, text, dbname="p1", user="app"):
    with pytest.raises(LoginError) as error:
        proxy.wire(dbname, user)
    assert error.value.fields["C"] == sqlstate and text in error.value.fields["M"]


def test_client_limits(make_proxy):
    proxy = make_proxy(databases={"p1": {"server": "pg", "max_db_client_connections": 2},
                                  "p2": "pg"},
                       users={"app2": {"max_client_connections": 1}}, max_client_connections=5,
                       max_user_client_connections=3)
    conns = [proxy.wire() for _ in range(2)]
    refused(proxy, "53300", "max_db_client_connections")
    conns.append(proxy.wire("p2"))
    refused(proxy, "53300", "max_user_client_connections", "p2")
    conns.append(proxy.wire("p2", "app2"))
    refused(proxy, "53300", "max_user_client_connections", "p2", "app2")
    conns.append(proxy.wire("p2", "counted"))
    refused(proxy, "53300", "max_client_conn", "p2", "counted")
    for conn in conns:
        conn.close()
    # All have been given back.
    wait_for(lambda: len(proxy.command("SHOW CLIENTS")) == 1, 10 * SLOW, "clients to leave")
    for conn in [proxy.wire() for _ in range(2)]:
        conn.close()


def test_server_limit_of_a_database(make_proxy, pg):
    """The unused connection of another user makes room, whatever worker has it."""
    proxy = make_proxy(databases={"p1": {"server": "pg", "max_db_connections": 1}}, pool_size=4)
    for user in ("app", "counted", "app", "counted", "app2"):
        with proxy.wire(user=user) as conn:
            assert conn.value("SELECT current_user") == user
    assert proxy.command("SHOW DATABASES")[0]["current_connections"] == "1"
    with proxy.wire(user="app") as conn:
        conn.query("BEGIN")
        other = proxy.wire(user="app2")
        other.send(query("SELECT 1"))
        time.sleep(0.3)
        assert proxy.command("SHOW DATABASES")[0]["current_connections"] == "1"
        conn.query("COMMIT")
        assert not errors(other.ready())
        other.close()


def test_server_limit_of_a_user(make_proxy):
    proxy = make_proxy(users={"app": {"max_user_connections": 1}})
    one, two = proxy.wire("p1"), proxy.wire("p2")
    one.query("BEGIN")
    two.send(query("SELECT 1"))
    time.sleep(0.3)
    assert sum(row["state"] == "waiting" for row in proxy.command("SHOW CLIENTS")) == 1
    one.query("COMMIT")
    assert not errors(two.ready())
    one.close()
    two.close()


def test_reserve(make_proxy):
    proxy = make_proxy(pool_size=1, reserve_pool_size=1, reserve_pool_timeout="1s", workers=1)
    conns = [proxy.wire() for _ in range(3)]
    conns[0].query("BEGIN")
    conns[1].send(query("BEGIN"))
    time.sleep(0.4)
    assert by(proxy.command("SHOW POOLS"), database="p1")["sv_active"] == "1"
    assert not errors(conns[1].ready())
    assert by(proxy.command("SHOW POOLS"), database="p1")["sv_active"] == "2"
    conns[2].send(query("SELECT 1"))
    time.sleep(1.5)
    assert by(proxy.command("SHOW POOLS"), database="p1")["cl_waiting"] == "1"
    conns[1].query("COMMIT")
    assert not errors(conns[2].ready())
    for conn in conns:
        conn.close()


def test_standing_connections(make_proxy, pg):
    proxy = make_proxy(databases={"p1": {"server": "pg", "min_pool_size": 2},
                                  "p2": {"server": "pg", "user": "counted", "min_pool_size": 3}},
                       server_idle_timeout="300ms")
    wait_for(lambda: len(pg.sessions("p2", "counted")) == 3, 20 * SLOW, "three connections")
    assert not pg.sessions("p1", "app2")
    with proxy.wire(user="app2"):
        wait_for(lambda: len(pg.sessions("p1", "app2")) == 2, 20 * SLOW, "two connections")
        time.sleep(0.8)
        assert len(pg.sessions("p1", "app2")) == 2
    assert len(pg.sessions("p2", "counted")) == 3


@pytest.mark.parametrize("setting, begin, sqlstate", [
    ("query_timeout", "SELECT pg_sleep(30)", "57014"),
    ("transaction_timeout", "BEGIN", "25P04"),
    ("idle_transaction_timeout", "BEGIN", "25P03"),
    ("client_idle_timeout", "SELECT 1", "57P05"),
])
@pytest.mark.parametrize("of_user", [False, True])
def test_time_limits(make_proxy, pg, setting, begin, sqlstate, of_user):
    limits = {setting: "400ms"}
    if of_user:
        proxy = make_proxy(users={"app": limits}, **{setting: "1h"})
    else:
        proxy = make_proxy(users={"app2": {setting: "1h"}}, **limits)
    other = proxy.wire(user="app2")
    other.query("BEGIN" if setting != "client_idle_timeout" else "SELECT 1")
    with proxy.wire() as conn:
        conn.send(query(begin))
        failed = errors(conn.rest())
        assert [(fields["S"], fields["C"]) for fields in failed] == [("FATAL", sqlstate)]
    # What it was doing has ended, too.
    wait_for(lambda: pg.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND "
                              "datname = 'p1' AND state <> 'idle'") == 0,
             10 * SLOW, "the query to end")
    assert not errors(other.query("SELECT 1"))
    other.close()


def test_waiting_within_a_transaction_is_no_query(make_proxy):
    proxy = make_proxy(query_timeout="300ms")
    with proxy.wire() as conn:
        conn.query("BEGIN")
        time.sleep(0.8)
        assert conn.value("SELECT 2") == "2"


def test_wait_limit_of_a_user(make_proxy):
    proxy = make_proxy(pool_size=1, workers=1, users={"app": {"query_wait_timeout": "300ms"}},
                       query_wait_notify="100ms")
    holder, waiter = proxy.wire(), proxy.wire()
    holder.query("BEGIN")
    messages = waiter.query("SELECT 1")
    assert errors(messages)[0]["C"] == "53300"
    assert "being queued" in [msg for msg in messages if msg.kind == "N"][0].fields()["M"]
    holder.query("COMMIT")
    assert not errors(waiter.query("SELECT 1"))
    holder.close()
    waiter.close()


def test_statement_pooling(make_proxy, pg):
    proxy = make_proxy(pool_mode="statement", pool_size=1,
                       users={"app2": {"pool_mode": "transaction"}})
    with proxy.wire() as one, proxy.wire() as two:
        pids = {conn.value("SELECT pg_backend_pid()") for conn in (one, two, one)}
        assert len(pids) == 1
        two.send(query("BEGIN"))
        failed = errors(two.rest())
        assert failed[-1]["S"] == "FATAL" and "statement pooling" in failed[-1]["M"]
        assert one.value("SELECT 1") == "1"
    with proxy.wire(user="app2") as conn:
        conn.query("BEGIN")
        assert not errors(conn.query("COMMIT"))
    with proxy.connect() as conn:
        conn.autocommit = True
        assert conn.execute("SELECT %s::int", (7,), prepare=True).fetchone() == (7,)


def test_connect_query(make_proxy, pg):
    proxy = make_proxy(databases={
        "p1": {"server": "pg", "connect_query": "SET enable_seqscan = off; SET timezone = 'Asia/Tokyo'"},
        "p2": {"server": "pg", "connect_query": "SELECT 1/0", "datestyle": "German"}})
    with proxy.wire() as conn:
        assert conn.value("SHOW enable_seqscan") == "off"
        assert conn.value("SHOW timezone") == "Asia/Tokyo"
    with proxy.wire("p2") as conn:
        assert conn.value("SHOW DateStyle").startswith("German")
    assert "connect_query failed: division by zero" in proxy.log()


def test_check_of_an_unused_server(make_proxy, pg):
    """A connection whose server no longer answers is found before a client gets it."""
    proxy = make_proxy(server_check_query="SELECT 'checked'", server_check_delay="0", pool_size=1)
    with proxy.wire(user="counted") as conn:
        pid = conn.value("SELECT pg_backend_pid()")
        for _ in range(3):
            assert conn.value("SELECT pg_backend_pid()") == pid
        time.sleep(1.2)
        assert conn.value("SELECT pg_backend_pid()") == pid
    assert "idle -> tested" in proxy.log()
    assert [row["state"] for row in proxy.command("SHOW SERVERS")] == ["idle"]
    broken = make_proxy(server_check_query="SELECT 1/0", server_check_delay="0", pool_size=1)
    with broken.wire() as conn:
        # Each is thrown away by its check; a new one needs none.
        assert len({conn.value("SELECT pg_backend_pid()") for _ in range(3)}) == 3


def test_reset_in_every_mode(make_proxy):
    proxy = make_proxy(pool_size=1, server_reset_query_always=True,
                       server_reset_query="RESET enable_seqscan")
    with proxy.wire() as conn:
        conn.query("SET enable_seqscan = off")
        assert conn.value("SHOW enable_seqscan") == "on"


def test_lifetime_of_a_database(make_proxy):
    """A connection that is over its lifetime when it is made serves once."""
    proxy = make_proxy(databases={"p1": {"server": "pg", "server_lifetime": "1ms"}, "p2": "pg"},
                       log_level="info")
    # … also where its first use is the proxy's own: to try what a client wants at its start.
    with proxy.wire(enable_seqscan="off") as conn:
        assert conn.value("SHOW enable_seqscan") == "off"
        assert proxy.log().count("new connection to server") == 1
    with proxy.wire() as conn:
        assert len({conn.value("SELECT pg_backend_pid()") for _ in range(3)}) == 3
    with proxy.wire("p2") as conn:
        assert len({conn.value("SELECT pg_backend_pid()") for _ in range(3)}) == 1


def test_several_hosts(make_proxy, pg):
    """127.0.0.2 is as good as 127.0.0.1; at 127.0.0.3 nobody listens."""
    ports = {"port": pg.port, "check_user": "postgres"}
    proxy = make_proxy(servers={
        "both": {"host": "127.0.0.1," + pg.host, **ports},
        "bad": {"host": "no-such-host.invalid," + pg.host, "load_balance_hosts": "disable", **ports},
    }, databases={"p1": "both", "p2": "bad"}, pool_size=2)
    one, two = proxy.wire(), proxy.wire()
    one.query("BEGIN")
    two.query("BEGIN")
    one.close()
    two.close()
    with proxy.wire("p2") as conn:
        assert conn.value("SELECT 1") == "1"
    assert "closing because: server DNS lookup failed (age" in proxy.log()
    with proxy.wire("p2") as conn:
        conn.send(query("SELECT pg_sleep(20)"))
        time.sleep(0.3)
        conn.cancel()
        assert errors(conn.ready())[0]["C"] == "57014"


@pytest.mark.parametrize("balance", ["round-robin", "disable"])
@pytest.mark.parametrize("hosts", ["127.0.0.3,127.0.0.1", "127.0.0.1,127.0.0.3",
                                   "127.0.0.3,127.0.0.4,127.0.0.1"])
def test_hosts_that_are_down_are_passed_over(make_proxy, pg, hosts, balance):
    """At once: server_login_retry is for when none of them takes a connection."""
    proxy = make_proxy(servers={"pg": {"host": hosts, "port": pg.port, "check_user": "postgres",
                                       "load_balance_hosts": balance}},
                       databases={"p1": "pg"}, pool_size=6, server_login_retry="1h", workers=1)
    for _ in range(3):
        conns = [proxy.wire() for _ in range(4)]
        for conn in conns:
            conn.send(query("BEGIN"))
        for conn in conns:
            conn.ready("T")
            conn.close()
        proxy.command("RECONNECT p1")
    assert {row["addr"] for row in proxy.command("SHOW SERVERS")} <= {"127.0.0.1"}


def test_hosts_in_turn(make_proxy, pg):
    """Each new connection is another host's.  (The second host is a proxy before the same server.)"""
    second = make_proxy(start=False, listen_addresses=["127.0.0.2"], port=pg.port,
                        pool_mode="session")
    second.host, second.port = "127.0.0.2", pg.port
    second.start()
    proxy = make_proxy(servers={"pg": {"host": "127.0.0.1,127.0.0.2", "port": pg.port,
                                       "check_user": "postgres"}},
                       databases={"p1": "pg"}, pool_size=6, workers=1)
    conns = [proxy.wire() for _ in range(6)]
    for conn in conns:
        conn.send(query("BEGIN"))
        conn.ready("T")
    addresses = [row["addr"] for row in proxy.command("SHOW SERVERS")]
    assert sorted(addresses) == ["127.0.0.1"] * 3 + ["127.0.0.2"] * 3
    for conn in conns:
        conn.close()


def test_startup_parameters(make_proxy):
    proxy = make_proxy(ignore_startup_parameters=["options", "No.Such"], pool_size=1,
                       application_name_add_host=True, login_notify_message="hello")
    with proxy.wire(**{"no.such": "1", "application_name": "me",
                       "options": "-c geqo=off -c DateStyle=German"}) as conn:
        assert conn.value("SHOW geqo") == "on"
        assert conn.value("SHOW DateStyle").startswith("German")
        name = conn.value("SHOW application_name")
        assert name.startswith("me - 127.0.0.1:")
    with proxy.wire() as conn:
        assert conn.value("SHOW application_name").startswith("app - 127.0.0.1:")
    with psycopg.connect(host=proxy.host, port=proxy.port, dbname="p1", user="app") as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_simple_queries_disabled(make_proxy):
    proxy = make_proxy(disable_pqexec=True)
    with proxy.wire() as conn:
        conn.send(pgwire.parse("SELECT 1") + pgwire.bind() + pgwire.execute() + pgwire.SYNC)
        assert not errors(conn.ready())
        conn.send(query("SELECT 1; SELECT 2"))
        assert errors(conn.rest())[0]["M"] == "PQexec disallowed"


def test_round_robin_of_servers(make_proxy):
    proxy = make_proxy(pool_size=2, workers=1, server_round_robin=True)
    one, two = proxy.wire(), proxy.wire()
    one.query("BEGIN")
    two.query("BEGIN")
    one.query("COMMIT")
    two.query("COMMIT")
    pids = [one.value("SELECT pg_backend_pid()") for _ in range(4)]
    assert pids[0] == pids[2] != pids[1] == pids[3]
    one.close()
    two.close()
