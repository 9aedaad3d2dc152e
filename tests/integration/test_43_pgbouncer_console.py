# SPDX-License-Identifier: PostgreSQL
"""The console as pgbouncer's users know it: every documented name, PAUSE and its relatives, SET."""
import contextlib
import os
import re
import socket
import threading
import time

import pytest

from pgwire import Closed, Conn, LoginError, errors, query, wait_for
from proxy import STATS, STATS_PASSWORD, ConsoleError
from servers import SLOW, PgBouncer, subfolder

# Columns of older versions of pgbouncer.
RENAMED = {"reserve_pool": "reserve_pool_size"}
# Numbers that are larger here: int8 where theirs are int4.
WIDER = {("CLIENTS", "id"), ("SERVERS", "id"), ("SOCKETS", "id"), ("ACTIVE_SOCKETS", "id"),
         ("MEM", "memtotal")}
HERE = os.path.dirname(__file__)
SOURCE = os.path.dirname(os.path.dirname(HERE))


def documented(kind):
    with open(os.path.join(HERE, "pgbouncer_1_25.txt")) as names:
        return [line.split()[1:] for line in names if line.startswith(kind + " ")]


@pytest.fixture(scope="module")
def rows_of_def():
    with open(os.path.join(SOURCE, "conf", "pgbouncer.def")) as text:
        return text.read()


def test_every_setting_is_explained(rows_of_def):
    settings = {(part, name): (how, ours, note) for part, name, how, ours, note in re.findall(
        r'^PGBOUNCER_SETTING\((\w+), (\w+), (?:\w+|"(?:[^"\\]|\\.)*"), (\w+), (\w+), (NULL|".+")\)$',
        rows_of_def, re.M)}
    with open(os.path.join(SOURCE, "conf", "settings.def")) as text:
        ours = {"%s %s" % row for row in re.findall(r"^(\w+)_SETTING\((\w+),", text.read(), re.M)}
    section = {"MAIN": "PROXY", "DATABASE": "DATABASE", "USER": "USER", "PEER": "PEER"}
    for part, name in documented("setting"):
        how, target, note = settings.pop((part, name), (None, None, None))
        assert how, "pgbouncer.def has no row for %s of %s" % (name, part)
        if how in ("NONE", "PLACE"):
            assert note != "NULL", "%s of %s: no word on why not" % (name, part)
        else:
            assert "%s %s" % (section[part], target) in ours, "%s of %s: no %s" % (name, part, target)
    # What the documentation names in passing, or only the sample of its file.
    assert set(settings) == {("DATABASE", "reserve_pool"), ("DATABASE", "application_name")}


def test_every_command_is_there(make_proxy, rows_of_def):
    proxy = make_proxy()
    helped = [row["command"] for row in proxy.command("SHOW HELP")]
    for words in documented("command"):
        text = " ".join(words)
        assert 'PGBOUNCER_COMMAND("%s",' % text in rows_of_def, text
        assert any(row.startswith(words[0]) and all(word in row for word in words)
                   for row in helped), text
    for name, *columns in documented("show"):
        assert [row for row in helped if row.split()[:2] == ["SHOW", name]], name
        if columns:
            assert columns_of(proxy, name)[:len(columns)] and \
                not set(columns) - set(columns_of(proxy, name)), name


def types_of(proxy, view):
    with proxy.console("pgbouncer") as console:
        console.send("SHOW " + view)
        return [msg for msg in console.conn.ready() if msg.kind == "T"][0].types()


def columns_of(proxy, view):
    return list(types_of(proxy, view))


# Those of the next version, which ours have where it has them.
LATER = {"total_client_login_count", "client_login_count", "avg_client_login_count"}


def first_cells(proxy, view):
    with proxy.console("pgbouncer") as console:
        return [next(iter(row.values())) for row in console("SHOW " + view)]


def test_columns_and_rows_are_those_of_1_25(make_proxy):
    """Ours begin with them: all, in the same order, of the same types."""
    proxy = make_proxy()
    assert len(documented("columns")) >= 21
    for name, *columns in documented("columns"):
        theirs = [tuple(column.split(":")) for column in columns]
        ours = [(column, str(oid)) for column, oid in types_of(proxy, name).items() if column not in LATER]
        assert [(column, "20" if (name, column) in WIDER else oid) for column, oid in theirs] == \
            ours[:len(theirs)], name
    for name, *theirs in documented("rows"):
        ours = [row for row in first_cells(proxy, name) if "." not in row and row not in LATER]
        assert theirs == [row for row in ours if row in theirs], name
        assert name == "CONFIG" or ours == theirs, name  # there, some that 1.25 has only elsewhere
    ours = [row for row in first_cells(proxy, "CONFIG") if "." not in row]
    assert ours == sorted(ours)


def test_columns_are_those_of_pgbouncer(make_proxy, pg, folder):
    """Ours begin with those of the pgbouncer at hand, in its order and with its types; an older one lacks
    some, and has some elsewhere.  1.25 is as the test above says."""
    proxy = make_proxy()
    bouncer = PgBouncer(subfolder(folder), "columns", [("p1", pg.host, pg.port, "p1")])
    import psycopg
    try:
        with psycopg.connect(host=bouncer.folder, port=bouncer.port, dbname="pgbouncer",
                             user="postgres", autocommit=True,
                             cursor_factory=psycopg.ClientCursor) as conn:
            is_1_25 = " 1.25." in conn.execute("SHOW VERSION").fetchone()[0]
            seen = 0
            for name, *columns in documented("columns"):
                try:
                    cursor = conn.execute("SHOW " + name)
                except psycopg.Error:
                    assert not is_1_25, name
                    continue  # newer than this pgbouncer
                found = {column.name: column.type_code for column in cursor.description or []}
                if not found:
                    continue
                cells = [row[0] for row in cursor.fetchall()]
                seen += 1
                if is_1_25:
                    assert ["%s:%d" % item for item in found.items()] == columns, name
                    assert [rows for view, *rows in documented("rows") if view == name] in ([], [cells])
                ours = types_of(proxy, name)
                assert not set(found) - set(ours), name
                theirs = {RENAMED.get(column, column): oid for column, oid in found.items()}
                both = [column for column in ours if column in theirs]
                if name not in ("STATS", "STATS_TOTALS", "STATS_AVERAGES") or is_1_25:
                    assert both == list(theirs), name
                assert [(name, column) for column in both if ours[column] != theirs[column]
                        and (name, column) not in WIDER] == [], name
            assert seen > 15
    finally:
        bouncer.stop()


def test_numbers_in_binary(make_proxy):
    import psycopg
    proxy = make_proxy()
    with proxy.wire() as conn:
        for _ in range(10):
            conn.query("SELECT repeat('x', 30000)")
    with psycopg.connect(host=proxy.host, port=proxy.port, dbname="pgbouncer", autocommit=True,
                         user="pgshunt_admin", password="admin secret") as conn:
        def shown(view, binary):
            cursor = conn.cursor(binary=binary, row_factory=psycopg.rows.dict_row)
            return cursor.execute("SHOW " + view).fetchall()
        for view in ("STATS_TOTALS", "DATABASES", "LISTS", "MEM"):
            text = shown(view, False)
            assert [row for row in text if row not in shown(view, True)] in ([], [
                row for row in text if row.get("database") == "pgbouncer"]), view
        p1 = [row for row in shown("STATS_TOTALS", True) if row["database"] == "p1"][0]
        assert p1["bytes_sent"] > 300000 and p1["server_parse_count"] == 0


def test_views_have_sense(make_proxy):
    proxy = make_proxy(pool_size=2)
    with proxy.wire() as conn:
        for _ in range(5):
            conn.query("SELECT 1")
        conn.query("BEGIN")
        with proxy.console("pgbouncer") as console:
            assert {row["key"]: row["value"] for row in console("SHOW STATE")} == {
                "active": "yes", "paused": "no", "suspended": "no"}
            lists = {row["list"]: int(row["items"]) for row in console("SHOW LISTS")}
            assert lists["used_clients"] == 2 and lists["used_servers"] == 1
            totals = {row["name"]: int(row["value"]) for row in console("SHOW TOTALS")}
            # Three of each are this console's.
            assert totals["total_query_count"] == 9 and totals["total_xact_count"] == 8
            assert totals["total_server_assignment_count"] == 6
            assert totals["total_client_login_count"] == 2
            stats = console("SHOW STATS_TOTALS")[0]
            assert stats["database"] == "p1" and stats["query_count"] == "6"
            assert console("SHOW STATS_AVERAGES")[0]["database"] == "p1"
            assert [row["type"] for row in console("SHOW ACTIVE_SOCKETS")] == ["C", "S", "C"]
            assert {row["task"] for row in console("SHOW FDS")} == {"client", "server", "pooler"}
            assert {row["name"] for row in console("SHOW MEM")} >= {"client_cache"}
            assert console("SHOW PEERS") == console("SHOW DNS_HOSTS") == []
            config = {row["key"]: row for row in console("SHOW CONFIG")}
            assert config["max_client_conn"]["value"] == "10000"
            assert config["server_idle_timeout"]["value"] == "600"
            assert config["listen_port"]["changeable"] == "no"


def test_set(make_proxy):
    proxy = make_proxy()
    with proxy.console("pgbouncer") as console:
        console("SET default_pool_size = 7")
        console("set max_client_conn=5")
        console("SET query_wait_timeout = '2.5'")
        console("SET stats_users = 'watcher, app2'")
        console("SET server_reset_query = select 1, 'two'")
        console("SET extra_float_digits = 3")
        config = {row["key"]: row["value"] for row in console("SHOW CONFIG")}
        assert config["default_pool_size"] == config["proxy.pool_size"] == "7"
        assert config["query_wait_timeout"] == "2.5"
        assert config["proxy.stats_users"] == "watcher, app2"
        assert config["server_reset_query"] == "select 1, 'two'"
        for text, sqlstate in (("SET pool_sise = 3", "42704"), ("SET pool_size = many", "22023"),
                               ("SET listen_port = 3", "55P02"), ("SET pool_size", "42601"),
                               ("SET pool_size =", "42601")):
            with pytest.raises(ConsoleError) as error:
                console(text)
            assert error.value.sqlstate == sqlstate, text
        console("RELOAD")
        assert {row["key"]: row["value"] for row in console("SHOW CONFIG")}[
            "default_pool_size"] == "4"
    with proxy.console("pgbouncer", STATS, STATS_PASSWORD) as console:
        console("SET client_encoding = 'UTF8'")
        for text in ("SET pool_size = 1", "PAUSE", "KILL p1", "SHOW FDS"):
            with pytest.raises(ConsoleError) as error:
                console(text)
            assert error.value.sqlstate == "42501"


def test_commands_are_for_admin_users(make_proxy, pg):
    """Who may only look does not see in SHOW CONFIG what may have a secret in it."""
    proxy = make_proxy(servers={"pg": dict(host=pg.host, port=pg.port, check_user="postgres",
                                           shell="ssh -i secret1", start_command="start secret2")},
                       databases={"p1": {"server": "pg", "connect_query": "SELECT 'secret3'"}, "p2": "pg"},
                       extra={"mover": {"hooks": {"tell": {"after": "release", "command": "curl secret4"}},
                                        "pgbouncers": {"b": {"host": "b", "command": "ssh secret5"}}}})
    with proxy.console("pgbouncer") as console:
        shown = str(console("SHOW CONFIG"))
        assert all("secret%d" % number in shown for number in range(1, 6))
    with proxy.console("pgbouncer", STATS, STATS_PASSWORD) as console:
        config = {row["key"]: row["value"] for row in console("SHOW CONFIG")}
        assert not re.search("secret[0-9]", str(config))
        assert config["mover.hooks.tell.command"] == config["databases.p1.connect_query"] == "(for admin_users)"
        assert config["databases.p2.connect_query"] == "" and config["mover.hooks.tell.after"] == "release"


def test_users_and_databases_are_all_there(make_proxy):
    proxy = make_proxy(databases={"p1": "pg", "mine": {"server": "pg", "dbname": "p1", "user": "only_forced"},
                                  "*": {"server": "pg", "auth_user": "only_asking"}},
                       users={"only_section": {"pool_size": 2}})
    with proxy.wire("postgres", "app") as auto, proxy.console("pgbouncer") as console:
        auto.value("SELECT 1")
        users = [row["name"] for row in console("SHOW USERS")]
        assert users == sorted(set(proxy.secrets) | {"only_forced", "only_asking", "only_section", "pgbouncer"})
        databases = [row["name"] for row in console("SHOW DATABASES")]
        assert databases == ["mine", "p1", "pgbouncer", "postgres"]
        lists = {row["list"]: int(row["items"]) for row in console("SHOW LISTS")}
        assert (lists["users"], lists["databases"]) == (len(users), len(databases))


def test_small_things_that_programs_read(make_proxy):
    proxy = make_proxy(as_pgbouncer=True, unix_socket_mode="0770")
    with proxy.console("pgbouncer") as console:
        def tag(text):
            console.send(text)
            return [msg for msg in console.conn.ready() if msg.kind == "C"][0].body
        assert tag("SET default_pool_size = 7") == b"SET default_pool_size=7\0"
        assert tag("SET server_reset_query = 'select 1'") == b"SET server_reset_query=select 1\0"
        assert tag("SET extra_float_digits = 3") == b"SET\0"
        config = {row["key"]: row for row in console("SHOW CONFIG")}
        assert config["unix_socket_mode"]["value"] == "504"
        assert config["unix_socket_mode"]["default"] == "0777"
        assert config["proxy.unix_socket_mode"]["value"] == "0770"
        row = [row for row in console("SHOW DATABASES") if row["name"] == "pgbouncer"][0]
        assert (row["pool_size"], row["min_pool_size"]) == ("2", "0")


def test_connections_as_pgbouncer_shows_them(make_proxy):
    proxy = make_proxy(start=False)
    proxy.settings["unix_socket_directory"] = proxy.folder
    proxy.write()
    proxy.start()
    with proxy.wire("p1") as idle, Conn(proxy.folder, proxy.port) as local, \
            proxy.console("pgbouncer") as console:
        idle.value("SELECT 1")
        local.login("app", "p1")
        local.query("BEGIN")
        clients = {row["addr"] if row["database"] == "p1" else "console": row
                   for row in console("SHOW CLIENTS")}
        assert {name: row["state"] for name, row in clients.items()} == {
            "127.0.0.1": "idle", "unix": "active", "console": "idle"}
        assert {name: row["remote_pid"] for name, row in clients.items()} == {
            "127.0.0.1": "0", "unix": str(os.getpid()), "console": "0"}
        rows = console("SHOW SOCKETS")
        assert sorted(row["state"] for row in rows if row["type"] == "C") == ["cl_active"] * 3
        assert "sv_active" in [row["state"] for row in rows if row["type"] == "S"]
        for row in rows + console("SHOW SERVERS"):
            assert row["request_time"] >= row["connect_time"], row


def test_pause_and_resume(make_proxy, pg):
    proxy = make_proxy(databases={"p1": "pg", "p2": "pg", "*": "pg"})
    one, other = proxy.wire(user="counted"), proxy.wire("p2")
    one.query("SELECT 1")
    one.query("BEGIN")
    with proxy.console("pgbouncer") as first, proxy.console("pgbouncer") as second:
        # It does not wait for another database …
        first("PAUSE p2")
        other.send(query("SELECT 1"))
        # … and has a time-out, after which nothing is paused.
        with pytest.raises(ConsoleError) as error:
            second("PAUSE p1 TIMEOUT 200ms")
        assert error.value.sqlstate == "55P03"
        first.send("PAUSE p1")
        assert first.conn.silent(0.3)
        # Cancel requests work meanwhile, logins as well.
        one.send(query("SELECT pg_sleep(60)"))
        time.sleep(0.3)
        one.cancel()
        assert errors(one.ready())[0]["C"] == "57014"
        proxy.wire().close()
        one.query("ROLLBACK")
        first.result()
        wait_for(lambda: not pg.sessions("p1", "counted"), 10 * SLOW, "servers to be closed")
        assert {row["name"]: row["paused"] for row in second("SHOW DATABASES")
                if row["name"] in ("p1", "p2")} == {"p1": "1", "p2": "1"}
        one.send(query("SELECT 2"))
        assert one.silent(0.3)
        second("RESUME p1")
        assert not errors(one.ready())
        assert other.silent(0.1)
        second("RESUME")
        assert not errors(other.ready())
        # RESUME answers a PAUSE that waits.
        late = proxy.wire("postgres", "postgres")  # of the fallback
        one.query("BEGIN")
        first.send("PAUSE")
        wait_for(lambda: second("SHOW STATE")[1]["value"] == "yes", 10 * SLOW, "the pause")
        late.send(query("SELECT 3"))
        assert late.silent(0.2)
        second("RESUME")
        with pytest.raises(ConsoleError) as error:
            first.result()
        assert error.value.sqlstate == "57014"
        assert not errors(late.ready())
        assert not errors(one.query("COMMIT"))
        # A hold is nobody else's to end.
        first("HOLD p1")
        for text in ("PAUSE p1", "RESUME p1"):
            with pytest.raises(ConsoleError) as error:
                second(text)
            assert error.value.sqlstate == "55000"
        first("RELEASE p1")
        first("PAUSE p1 ATTACHED")
        one.send(query("SELECT 4"))
        assert one.silent(0.2)
    assert not errors(one.ready())
    for conn in (one, other, late):
        conn.close()


def test_pause_of_sessions(make_proxy):
    """Who does nothing in a session is not waited for; it goes on as it was."""
    proxy = make_proxy(pool_mode="session")
    idle, busy = proxy.wire(), proxy.wire()
    idle.query("CREATE TEMP TABLE mine (a int)")
    busy.query("BEGIN")
    with proxy.console("pgbouncer") as console, proxy.console("pgbouncer") as other:
        console.send("PAUSE p1")
        assert console.conn.silent(0.3)
        idle.send(query("SELECT count(*) FROM mine"))
        busy.query("COMMIT")
        console.result()
        assert idle.silent(0.3)
        other("RESUME p1")
        assert not errors(idle.ready())
    idle.close()
    busy.close()


def test_pause_tells_of_sessions(make_proxy, pg):
    """Their server connections stay, unlike those of other pools; RECONNECT moves them."""
    proxy = make_proxy(pool_mode="session", databases={
        "p1": "pg", "p2": {"server": "pg", "pool_mode": "transaction"}})

    def notices(console, command):
        console.send(command)
        messages = console.conn.ready()
        assert not errors(messages)
        return [msg.fields()["M"] for msg in messages if msg.kind == "N"]

    one, two, other = proxy.wire(user="counted"), proxy.wire(user="counted"), proxy.wire("p2", "counted")
    pids = [conn.value("SELECT pg_backend_pid()") for conn in (one, two)]
    other.query("SELECT 1")
    with proxy.console("pgbouncer") as console:
        assert notices(console, "PAUSE p2") == []
        wait_for(lambda: not pg.sessions("p2", "counted"), 10 * SLOW, "servers to be closed")
        text = ["2 sessions keep their server connection; RECONNECT moves them after RESUME"]
        assert notices(console, "PAUSE p1") == text
        assert len(pg.sessions("p1", "counted")) == 2
        assert notices(console, "RESUME") == []
        assert notices(console, "PAUSE") == text
        console("RESUME")
        two.close()
        wait_for(lambda: len([row for row in console("SHOW SERVERS") if row["state"] == "active"]) == 1,
                 10 * SLOW, "the end of the other session")
        assert notices(console, "PAUSE p1") == ["1 session keeps its server connection; RECONNECT moves it after RESUME"]
        console("RECONNECT p1")
        console("RESUME p1")
        wait_for(lambda: console("SHOW SESSIONS p1")[0]["moved_to"] == "pg", 10 * SLOW, "its move")
        assert one.value("SELECT pg_backend_pid()") not in pids
    one.close()
    other.close()


class SlowRelay:
    """A server at the end of a long line: each way takes its time."""

    def __init__(self, cluster, delay):
        self.cluster, self.delay = cluster, delay
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.settings = {"host": "127.0.0.1", "port": self.listener.getsockname()[1]}
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, far = self.listener.accept()[0], socket.create_connection((self.cluster.host, self.cluster.port))
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self.copy, args=(one, other), daemon=True).start()

    def copy(self, one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                time.sleep(self.delay)
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_reconnect_faster_than_a_login(make_proxy, pg, mode):
    """Who asked before has the connection that was being opened; who asks later has a new one."""
    relay = SlowRelay(pg, 0.1)
    proxy = make_proxy({"pg": relay.settings}, pool_mode=mode, workers=1, pool_size=1)
    with proxy.console() as console:
        done = threading.Event()

        def reconnect():
            while not done.is_set():
                console("RECONNECT p1")
                time.sleep(0.02)

        thread = threading.Thread(target=reconnect)
        thread.start()
        try:
            with proxy.wire() as one, proxy.wire() as two:
                for _ in range(3):
                    for conn in (one, two) if mode == "transaction" else (one,):
                        assert conn.value("SELECT 1") == "1"
        finally:
            done.set()
            thread.join()
    with proxy.wire() as conn, proxy.console() as console:
        pid = conn.value("SELECT pg_backend_pid()")
        console("RECONNECT p1")
        if mode == "transaction":
            assert conn.value("SELECT pg_backend_pid()") != pid
    relay.listener.close()


def test_kill_and_reconnect(make_proxy, pg):
    proxy = make_proxy()
    one, two = proxy.wire(user="counted"), proxy.wire(user="counted")
    pid = one.value("SELECT pg_backend_pid()")
    with proxy.console("pgbouncer") as console:
        console("RECONNECT p1")
        assert one.value("SELECT pg_backend_pid()") != pid
        one.query("BEGIN")
        console("RECONNECT")
        console.send("WAIT_CLOSE p1")
        assert console.conn.silent(0.3)
        one.query("COMMIT")
        console.result()
        ids = [row["id"] for row in console("SHOW CLIENTS") if row["user"] == "counted"]
        for number in ids[:1]:
            console("KILL_CLIENT " + number)
            with pytest.raises(ConsoleError) as error:
                console("KILL_CLIENT " + number)
            assert error.value.fields["M"] == "client not found"
        assert len([row for row in console("SHOW CLIENTS") if row["user"] == "counted"]) == 1
        console("KILL p1")
        assert not [row for row in console("SHOW CLIENTS") if row["database"] == "p1"]
        late = proxy.wire(user="app2")
        late.send(query("SELECT 1"))
        assert late.silent(0.3)
        console("RESUME p1")
        assert not errors(late.ready())
        console("DISABLE p1")
        with pytest.raises(LoginError) as error:
            proxy.wire()
        assert "is disabled" in error.value.fields["M"]
        assert not errors(late.query("SELECT 1"))
        console("ENABLE p1")
        proxy.wire().close()
        with pytest.raises(ConsoleError) as error:
            console("KILL nowhere")
        assert error.value.sqlstate == "3D000"
    for conn in (one, two, late):
        conn.close()


def test_suspend(make_proxy):
    proxy = make_proxy()
    with proxy.wire() as conn:
        with proxy.console("pgbouncer") as console:
            console("SUSPEND")
            conn.send(query("SELECT 1"))
            assert conn.silent(0.3)
            assert console("SHOW STATE")[2]["value"] == "yes"
            console("RESUME")
            assert not errors(conn.ready())
            console("SUSPEND")
            conn.send(query("SELECT 1"))
        assert not errors(conn.ready())  # the console has left


def test_suspend_and_resume_in_quick_succession(make_proxy):
    """RESUME answers at once: the next SUSPEND may reach a worker that has not seen it yet."""
    proxy = make_proxy(workers=4)
    with proxy.wire() as conn, proxy.console("pgbouncer") as console:
        for _ in range(300):
            console("SUSPEND")
            console("RESUME")
        conn.send(query("SELECT 1"))
        assert not errors(conn.ready())


def test_shutdown_waits_for_clients(make_proxy):
    proxy = make_proxy()
    conn = proxy.wire()
    proxy.command("SHUTDOWN WAIT_FOR_CLIENTS")
    wait_for(lambda: refuses(proxy), 10 * SLOW, "new connections to be refused")
    for _ in range(3):
        assert conn.value("SELECT 1") == "1"
    conn.close()
    assert proxy.process.wait(20 * SLOW) == 0
    proxy.process = None


def refuses(proxy):
    try:
        proxy.wire().close()
        return False
    except (OSError, AssertionError, LoginError, Closed):
        return True


def test_names_are_as_written(make_proxy, pg):
    """Not in lower case, as SQL has them: another database could have that name."""
    proxy = make_proxy(databases={name: {"server": "pg", "dbname": "p1"} for name in
                                  ("MyDb", "mydb", "Big", "small", "1db", "timeout", "epoch")})
    kept = proxy.connect("mydb")
    lost = proxy.connect("MyDb")
    with proxy.console("pgbouncer") as console:
        console("KILL MyDb")
        assert kept.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(Exception):
            lost.execute("SELECT 1")
        console("RESUME MyDb")
        for name in ("Big", "1db", "timeout", "epoch"):
            console("PAUSE " + name)
            assert [row["name"] for row in console("SHOW DATABASES") if row["paused"] == "1"] == [name]
            console("RESUME " + name)
        console("PAUSE timeout TIMEOUT 5s")
        console("RESUME timeout")
        # SQL's habit: where there is none of that name, and it is not quoted; never the other way round.
        console("PAUSE SMALL")
        assert [row["name"] for row in console("SHOW DATABASES") if row["paused"] == "1"] == ["small"]
        console("RESUME Small")
        assert console("HOLD Big")[0]["database"] == "Big"
        assert console("SHOW BLOCKERS Big") == []
        console("RELEASE Big")
        for command in ("PAUSE big", 'PAUSE "SMALL"', "HOLD big", "SHOW BLOCKERS big", "SWAP big TO pg"):
            with pytest.raises(ConsoleError) as error:
                console(command)
            assert error.value.sqlstate == "3D000", command
    kept.close()


def test_names_of_the_fallback_are_as_written(make_proxy, pg):
    """With * there is a database of every name: that in capitals is one of its own."""
    proxy = make_proxy(databases={"p1": "pg", "*": "pg"})
    proxy.command("PAUSE P1")
    with proxy.connect("p1") as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    proxy.command("RESUME P1")
