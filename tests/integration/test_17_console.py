# SPDX-License-Identifier: PostgreSQL
"""The console: views, help, errors, rights, and drivers."""
import os
import random
import subprocess

import psycopg
import psycopg2
import pytest

import pgwire
from pgwire import (COPY_DONE, FLUSH, SYNC, bind, copy_data, describe, errors, execute, kinds, parse,
                    query)
from proxy import ADMIN, ADMIN_PASSWORD, STATS, STATS_PASSWORD, ConsoleError
from servers import BINDIR

VIEWS = {
    "HELP": ["command", "access", "help"],
    "HOLDS": ["database", "state", "epoch", "server", "target", "active", "held", "held_bytes",
              "oldest_wait_ms", "lease_left_ms", "policy", "age_ms", "waits"],
    "ROUTES": ["database", "server", "host", "port", "dbname", "epoch", "origin", "note"],
    "POOLS": ["database", "user", "cl_active", "cl_waiting", "sv_active", "sv_idle", "pool_mode"],
    "CLIENTS": ["type", "user", "database", "state", "addr", "port", "application_name", "id"],
    "SERVERS": ["type", "user", "database", "state", "addr", "port", "remote_pid", "server"],
    "DATABASES": ["name", "host", "port", "database", "pool_size", "paused", "server", "shard"],
    "STATS": ["database", "total_xact_count", "total_query_count", "total_received",
              "total_sent"],
    "CONFIG": ["key", "value", "default", "changeable"],
    "VERSION": ["version"],
    "USERS": ["name"],
    "WORKERS": ["worker", "clients", "servers"],
    "BLOCKERS p1": ["database", "user", "application_name", "client_addr", "client_port",
                    "client_id", "worker", "state", "age_ms", "server_pid", "query"],
}


@pytest.fixture(scope="module")
def proxy(shared_proxies):
    return shared_proxies("transaction")


@pytest.fixture
def console(proxy):
    with proxy.console() as console:
        yield console
    proxy.check_alive()


@pytest.mark.parametrize("view", VIEWS)
def test_view(proxy, view):
    with proxy.console() as console:
        console.send("SHOW " + view)
        messages = console.conn.ready("I")
    assert kinds(messages).strip("D") == "TCZ" or kinds(messages)[0] == "T"
    assert pgwire.tags(messages) == ["SHOW"]
    columns = messages[0].columns()
    assert [name for name in columns if name in VIEWS[view]] == VIEWS[view]
    for msg in messages:
        if msg.kind == "D":
            assert len(msg.row()) == len(columns)


@pytest.mark.parametrize("dbname", ["pgshunt", "pgbouncer"])
def test_both_names(proxy, dbname):
    with proxy.console(dbname) as console:
        assert console("SHOW VERSION")


@pytest.mark.parametrize("text", ["show version", "SHOW VERSION;", " Show\tVersion ; ",
                                  "/* a comment */ SHOW VERSION", "SHOW VERSION -- comment"])
def test_spelling(console, text):
    assert len(console(text)) == 1


def test_help_names_every_command(console):
    text = " ".join(row["command"] for row in console("SHOW HELP"))
    for word in ("HOLD", "RENEW", "PREPARE SWAP", "CANCEL SWAP", "SWAP", "RELEASE", "RELOAD",
                 "SHUTDOWN", *(view.split()[0] for view in VIEWS)):
        assert word in text, word


def test_names(console):
    """Folded to lower case unless quoted; strings too."""
    assert console("SHOW BLOCKERS P1") == console('SHOW BLOCKERS "p1"') == \
        console("SHOW BLOCKERS 'p1'")
    with pytest.raises(ConsoleError) as error:
        console('SHOW BLOCKERS "P1"')
    assert error.value.sqlstate == "3D000"


@pytest.mark.parametrize("text, position", [
    ("HODL p2", 1), ("SHOW", 5), ("SHOW NOTHING", 6), ("HOLD", 5), ("HOLD p2 EPOCH", 14),
    ("HOLD p2 EPOCH many", 15), ("HOLD p2 EPOCH -1", 15), ("HOLD p2 LEASE 5 parsecs", 17),
    ("HOLD p2 LEASE 5parsecs", 15), ("HOLD p2 POLICY maybe", 16), ("HOLD p2 FOREVER", 9),
    ("SWAP p2", 8), ("SWAP p2 TO", 11), ("SWAP p2 INTO pg", 9), ("PREPARE p2", 9),
    ("RELEASE p2 NOW", 12), ("RENEW p2", 9), ("HOLD p2 EPOCH 1 EPOCH 2", 17), ("SHOW HOLDS more", 12),
    ("HOLD 'p2", 6), ("SHUTDOWN LATER", 10), ("SELECT nonsense FROM t", None), ("héld p2", 1),
    ("SHOW  ünsinn", 7), ("CREATE TABLE x (a int)", 1), ("\x01", 1), (")", 1)])
def test_wrong_command(console, text, position):
    with pytest.raises(ConsoleError) as error:
        console(text)
    fields = error.value.fields
    assert fields["S"] == "ERROR" and fields["C"] == "42601", fields
    if position is not None:
        assert fields.get("P") == str(position), fields
    assert fields.get("H") or fields.get("D"), "says nothing of what is expected"
    assert console("SHOW VERSION")


@pytest.mark.parametrize("text, sqlstate", [
    ("HOLD nosuch", "3D000"), ("RELEASE nosuch", "3D000"), ("SHOW BLOCKERS nosuch", "3D000"),
    ("SWAP p2 TO nosuch", "42704"), ("PREPARE SWAP p2 TO nosuch", "42704"),
    ("SWAP p2 TO pg", "55000"), ("RENEW p2 EPOCH 1", "55000")])
def test_command_that_cannot_be_done(console, text, sqlstate):
    with pytest.raises(ConsoleError) as error:
        console(text)
    assert error.value.sqlstate == sqlstate
    assert error.value.fields.get("H"), error.value.fields


def test_stats_users_may_only_look(proxy):
    with proxy.console(user=STATS, password=STATS_PASSWORD) as console:
        # As pgbouncer: everything but FDS.
        for row in console("SHOW HELP"):
            if row["command"].startswith("SHOW ") and row["command"] not in ("SHOW view", "SHOW FDS"):
                assert row["access"] == "stats", row
                console(row["command"].replace("[", "").replace("]", "").replace(" database", " p1"))
        assert {row["name"] for row in console("SHOW USERS")} >= {STATS}
        # No secret is in it, whatever of the files.
        shown = str(console("SHOW CONFIG")) + str(console("SHOW USERS"))
        assert "users_file" in shown and not [secret for secret in proxy.secrets.values()
                                              if secret and secret in shown]
        for command in ("HOLD p2", "RELEASE p2", "RELOAD", "SHUTDOWN", "SWAP p2 TO pg",
                        "RENEW p2 EPOCH 1", "SHOW FDS"):
            with pytest.raises(ConsoleError) as error:
                console(command)
            assert error.value.sqlstate == "42501"


@pytest.mark.parametrize("dbname", ["pgshunt", "pgbouncer"])
def test_others_may_not_log_in(proxy, dbname):
    with pytest.raises(pgwire.LoginError) as error:
        proxy.console(dbname, "app", None)
    assert error.value.sqlstate in ("42501", "28000")
    assert error.value.fields["S"] == "FATAL"


def test_password_is_asked(make_proxy):
    """Also for the console, with the authentication of the proxy."""
    proxy = make_proxy(auth_type="scram-sha-256")
    with pytest.raises(pgwire.LoginError) as error:
        proxy.console(password="wrong")
    assert error.value.sqlstate == "28P01"
    with proxy.console() as console:
        assert console("SHOW VERSION")


def test_psql(proxy):
    result = subprocess.run(
        [BINDIR + "/psql", "-X", "-A", "-t", "-h", proxy.host, "-p", str(proxy.port), "-U", ADMIN,
         "-d", "pgshunt", "-c", "SHOW VERSION", "-c", "SHOW POOLS", "-c", "HODL p2"],
        capture_output=True, text=True, env={**os.environ, "PGPASSWORD": ADMIN_PASSWORD})
    assert "HODL p2" in result.stderr and "LINE 1" in result.stderr
    assert "HINT" in result.stderr or "DETAIL" in result.stderr
    assert result.stdout


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("threshold", [None, 0])
def test_psycopg(proxy, autocommit, threshold):
    with proxy.connect("pgshunt", ADMIN, password=ADMIN_PASSWORD, autocommit=autocommit,
                       prepare_threshold=threshold) as conn:
        for _ in range(3):
            cursor = conn.execute("SHOW ROUTES")
            names = [column.name for column in cursor.description]
            assert names == VIEWS["ROUTES"]
            routes = {row[0]: row for row in cursor.fetchall()}
            assert isinstance(routes["p1"][names.index("port")], int)
        if autocommit:
            with pytest.raises(psycopg.errors.SyntaxError):
                conn.execute("HODL p2")
        assert conn.execute("SHOW VERSION").fetchone()


def test_psycopg2(proxy):
    conn = psycopg2.connect(host=proxy.host, port=proxy.port, dbname="pgshunt", user=ADMIN,
                            password=ADMIN_PASSWORD)
    cursor = conn.cursor()
    cursor.execute("SHOW HOLDS")
    assert {row[0] for row in cursor.fetchall()} >= {"p1", "p2"}
    conn.rollback()
    conn.set_session(autocommit=True)
    cursor.execute("SELECT 1")
    assert cursor.fetchone()[0] in (1, "1")
    conn.close()


def test_extended_protocol(console):
    conn = console.conn
    conn.send(parse("SHOW VERSION", "v"), describe("S", "v"), bind(name="v"), describe("P"),
              execute(), SYNC)
    assert kinds(conn.ready("I")) == "1tT2TDCZ"
    conn.send(bind(name="v"), execute(), SYNC, pgwire.close("S", "v"), SYNC)
    assert kinds(conn.ready("I")) == "2DCZ"
    assert kinds(conn.ready("I")) == "3Z"
    conn.send(parse("HODL"), bind(), execute(), SYNC, query("SHOW VERSION"))
    assert kinds(conn.ready("I")) == "EZ"
    assert kinds(conn.ready("I")) == "TDCZ"
    conn.send(bind(name="unknown"), execute(), SYNC)
    assert errors(conn.ready("I"))[0]["C"] == "26000"


def test_rows_in_parts(console):
    """As JDBC reads them with a fetch size, in a transaction: a named portal outlives a Sync."""
    conn = console.conn
    conn.send(parse("BEGIN"), bind(), execute(), parse("SHOW HELP", "h"), bind(name="h", portal="c"),
              describe("P", "c"), execute("c", 2), SYNC)
    assert kinds(conn.ready("I")) == "12C12TDDsZ"
    conn.send(execute("c", 3), SYNC)
    assert kinds(conn.ready("I")) == "DDDsZ"
    conn.send(parse("SHOW VERSION"), bind(), execute(), SYNC)
    assert kinds(conn.ready("I")) == "12DCZ"
    conn.send(execute("c"), SYNC)
    rest = kinds(conn.ready("I"))
    assert rest.strip("D") == "CZ" and len(rest) > 20
    # All have been read, an error, and the end of the transaction: it is gone.
    for end in (b"", parse("HODL"), parse("COMMIT") + bind() + execute(), query("ROLLBACK")):
        if end:
            conn.send(parse("BEGIN"), bind(), execute(), bind(name="h", portal="c"), execute("c", 2), SYNC)
            assert kinds(conn.ready("I")) == "12C2DDsZ"
            conn.send(end, b"" if end[:1] == b"Q" else SYNC)
            conn.ready("I")
        conn.send(execute("c"), SYNC)
        assert errors(conn.ready("I"))[0]["C"] == "34000", end
    conn.send(bind(name="h", portal="c"), execute("c", 2), SYNC)
    assert kinds(conn.ready("I")) == "2DDsZ"
    conn.send(execute("c"), SYNC)
    assert errors(conn.ready("I"))[0]["C"] == "34000"


def test_pipeline(console):
    console.conn.send(*[query("SHOW VERSION")] * 20)
    for _ in range(20):
        assert kinds(console.conn.ready("I")) == "TDCZ"


def test_empty_query(console):
    console.conn.send(query(""))
    assert kinds(console.conn.ready("I")) == "IZ"


def test_what_drivers_send(console):
    for text in ("BEGIN", "COMMIT", "ROLLBACK", "SET client_encoding = 'UTF8'", "DISCARD ALL",
                 "SET application_name TO 'x'", "SELECT 1", "START TRANSACTION READ ONLY",
                 "DEALLOCATE ALL"):
        console(text)


def test_clients_and_servers_are_shown(proxy, console):
    with proxy.wire("p1", application_name="look at me") as conn:
        conn.query("BEGIN")
        pid = conn.value("SELECT pg_backend_pid()")
        mine = [row for row in console("SHOW CLIENTS")
                if row["application_name"] == "look at me"]
        assert len(mine) == 1 and mine[0]["database"] == "p1" and mine[0]["user"] == "app"
        assert mine[0]["port"] == str(conn.sock.getsockname()[1])
        assert mine[0]["addr"] == "127.0.0.1"
        servers = [row for row in console("SHOW SERVERS") if row["remote_pid"] == pid]
        assert len(servers) == 1 and servers[0]["server"] == "pg"
        pools = [row for row in console("SHOW POOLS") if row["database"] == "p1" and
                 row["user"] == "app"]
        assert int(pools[0]["sv_active"]) >= 1
        conn.query("ROLLBACK")


def test_stats_count(proxy, console):
    def total():
        return [row for row in console("SHOW STATS") if row["database"] == "p1"][0]
    with proxy.wire("p1") as conn:
        conn.value("SELECT 1")
        before = total()
        for _ in range(10):
            conn.value("SELECT 1")
        conn.query("BEGIN")
        conn.query("SELECT 1")
        conn.query("SELECT 1")
        conn.query("COMMIT")
        after = total()
    assert int(after["total_xact_count"]) - int(before["total_xact_count"]) == 11
    assert int(after["total_query_count"]) - int(before["total_query_count"]) == 14
    assert int(after["total_sent"]) > int(before["total_sent"])
    assert int(after["total_received"]) > int(before["total_received"])


@pytest.mark.parametrize("sync", [[], [SYNC]], ids=["", "sync"])
def test_stats_count_a_copy_that_fails(proxy, console, sync):
    def total():
        row = [row for row in console("SHOW STATS") if row["database"] == "p1"][0]
        return int(row["total_xact_count"]), int(row["total_query_count"])
    with proxy.wire("p1") as conn:
        conn.value("SELECT 1")
        before = total()
        conn.send(parse("COPY items (id) FROM STDIN"), bind(), execute(), FLUSH)
        conn.until("G")
        conn.send(*sync, copy_data(b"not a number\n"), COPY_DONE, SYNC)
        assert kinds(conn.ready("I")) == "EZ"
        assert total() == (before[0] + 1, before[1] + 1)


def test_blockers_are_shown(proxy, console):
    with proxy.wire("p1", application_name="blocker") as conn:
        conn.query("BEGIN")
        conn.query("SELECT 'what it did last'")
        mine = [row for row in console("SHOW BLOCKERS p1")
                if row["application_name"] == "blocker"][0]
        assert mine["state"] == "idle in transaction" and mine["user"] == "app"
        assert mine["client_addr"] == "127.0.0.1"
        assert mine["client_port"] == str(conn.sock.getsockname()[1])
        assert mine["server_pid"] == conn.value("SELECT pg_backend_pid()")
        conn.send(query("SELECT pg_sleep(0.5)"))
        pgwire.wait_for(lambda: [row for row in console("SHOW BLOCKERS p1")
                                 if row["application_name"] == "blocker" and
                                 row["state"] == "active"], 5, "the active blocker")
        conn.ready()
        conn.query("COMMIT")
        assert not [row for row in console("SHOW BLOCKERS p1")
                    if row["application_name"] == "blocker"]


def test_config_shows_no_secret(console):
    text = str(console("SHOW CONFIG")) + str(console("SHOW USERS"))
    assert "secret" not in text.replace("users_file", "")


def test_broken_messages(proxy):
    for data in (b"Q\0\0\0\3", b"Q\x7f\xff\xff\xff" + b"x" * 100, pgwire.message("y"),
                 pgwire.message("Q", b"SHOW VERSION"), pgwire.message("B", b"x"),
                 pgwire.message("P", b"x"), pgwire.message("d", b"x"),
                 query("SHOW " + "x" * 100000), query("'" * 5000)):
        with proxy.console() as console:
            console.conn.send(data, SYNC)
            console.conn.sock.shutdown(1)
            console.conn.rest()
        proxy.check_alive()
    with proxy.console() as console:
        assert console("SHOW VERSION")


def test_nonsense_never_kills(proxy):
    generator = random.Random(5)
    words = ["HOLD", "RELEASE", "SHOW", "p9", "EPOCH", "99999999999999999999", "LEASE", "NONE",
             "SWAP", "PREPARE", "TO", "'", '"', ";", "5s", "-1", "/*", "--", "\t", "ü", "POLICY"]
    with proxy.console() as console:
        for n in range(300):
            text = " ".join(generator.choice(words) for _ in range(generator.randrange(1, 8)))
            try:
                console(text)
            except ConsoleError as error:
                assert error.sqlstate in ("42601", "3D000", "42704", "55000", "22003"), text


def test_console_does_not_stop_for_a_client_that_does_not_read(proxy):
    with proxy.console() as lazy, proxy.console() as console:
        lazy.conn.send(query("SHOW HELP") * 300)
        for _ in range(10):
            assert console("SHOW VERSION")


def test_view_of_many_clients(make_proxy):
    proxy = make_proxy(log_level="info")
    conns = [proxy.wire() for _ in range(300)]
    assert len([row for row in proxy.command("SHOW CLIENTS") if row["database"] == "p1"]) == 300
    for conn in conns:
        conn.close()
