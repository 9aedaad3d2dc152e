# SPDX-License-Identifier: PostgreSQL
"""as_pgbouncer: errors, SIGTERM, SIGINT and SHUTDOWN as those who come from pgbouncer know them; and
the clients of the console, which are clients as others are."""
import http.client
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import psycopg
import pytest

from proxy import STATS, STATS_PASSWORD, ConsoleError
from pgwire import Conn, LoginError, errors, query, rows, wait_for
from servers import SLOW, PgBouncer, free_port, start, subfolder


@pytest.fixture
def theirs(make_proxy):
    """A proxy that answers as pgbouncer does, reachable by its Unix socket too."""
    proxy = make_proxy(start=False, as_pgbouncer=True, log_level="info", pool_size=1,
                       worker_fill=70, databases={"p1": "pg", "gone": {"server": "pg",
                                                                       "dbname": "gone"}})
    proxy.settings["unix_socket_directory"] = proxy.folder
    proxy.write()
    proxy.start()
    return proxy


def refusal(host, port, dbname, user="app"):
    with pytest.raises(LoginError) as error, Conn(host, port) as conn:
        conn.login(user, dbname, "x")
    return error.value.fields["C"], error.value.fields["M"]


def test_errors_are_pgbouncers(theirs, pg, folder):
    bouncer = PgBouncer(subfolder(folder), "errors", [("p1", pg.host, pg.port, "p1"),
                                                      ("gone", pg.host, pg.port, "gone")],
                        settings="stats_users=app2")
    try:
        assert refusal(theirs.host, theirs.port, "nowhere") == \
            refusal("127.0.0.1", bouncer.port, "nowhere")
        # What the server says, with the server's SQLSTATE as later versions have it.
        assert refusal(theirs.host, theirs.port, "gone") == \
            ("3D000", refusal("127.0.0.1", bouncer.port, "gone")[1])
        for user, command in (("postgres", "PAUSE nowhere"), ("postgres", "DISABLE nowhere"),
                              ("postgres", "HODL p1"), ("app2", "RELOAD")):
            with psycopg.connect(host=bouncer.folder, port=bouncer.port, dbname="pgbouncer",
                                 user=user, autocommit=True,
                                 cursor_factory=psycopg.ClientCursor) as conn, \
                    pytest.raises(psycopg.Error) as real:
                conn.execute(command)
            login = (STATS, STATS_PASSWORD) if user == "app2" else ("pgshunt_admin", "admin secret")
            with theirs.console("pgbouncer", *login) as console, \
                    pytest.raises(ConsoleError) as ours:
                console(command)
            assert (ours.value.sqlstate, ours.value.fields["M"]) == \
                (real.value.sqlstate, real.value.diag.message_primary)
    finally:
        bouncer.stop()
    # Newer than that pgbouncer, or none of its commands.
    with theirs.console() as console, theirs.wire() as conn:
        console("KILL_CLIENT " + [row["id"] for row in console("SHOW CLIENTS")
                                  if row["database"] == "p1"][0])
        assert [(fields["C"], fields["M"]) for fields in errors(conn.rest())] == \
            [("57P01", "admin forced disconnect")]
        console('SET query_timeout = "7"')
        with pytest.raises(LoginError) as error:
            theirs.wire(options="-d 1")
        assert error.value.fields["M"].startswith("unsupported options startup parameter: only '-c")
        assert error.value.fields["D"] == 'unsupported switch "-d" in parameter "options"'
        for command, sqlstate, text in (
                ("KILL_CLIENT somebody", "08P01", "invalid client pointer supplied"),
                ("KILL_CLIENT 1000000", "08P01", "client not found"),
                ("HOLD nowhere", "3D000", "no such database: nowhere"),
                ("HOLD", "42601", "syntax error at end of input")):
            with pytest.raises(ConsoleError) as error:
                console(command)
            assert (error.value.sqlstate, error.value.fields["M"]) == (sqlstate, text)


@pytest.mark.parametrize("pause,resume", [("before", "RESUME"), ("after", "RESUME p1"), ("after", signal.SIGUSR2)])
def test_sigterm_waits_for_clients(theirs, pause, resume):
    conn = theirs.wire()
    conn.value("SELECT 1")
    with Conn(theirs.folder, theirs.port) as console:
        console.login("pgshunt_admin", "pgbouncer")
        if pause == "before":
            console.query("PAUSE")
        theirs.process.send_signal(signal.SIGTERM)
        wait_for(lambda: refused(theirs.host, theirs.port), 10 * SLOW, "the end of TCP")
        if pause == "after":
            assert conn.value("SELECT 2") == "2"
            assert not errors(console.query("PAUSE p1" if resume == "RESUME p1" else "PAUSE"))
        # Who is waited for goes on: pgbouncer (until after 1.25) would keep them paused.
        conn.send(query("SELECT 3"))
        assert conn.silent(0.3)
        if isinstance(resume, str):
            assert not errors(console.query(resume))
        else:
            theirs.process.send_signal(resume)
        assert rows(conn.ready()) == [["3"]]
        assert rows(console.query("SHOW VERSION"))
    assert refusal(theirs.folder, theirs.port, "p1") == ("57P03", "server shutting down")
    theirs.process.send_signal(signal.SIGTERM)
    assert theirs.process.wait(20 * SLOW) == 0
    assert refused(theirs.folder, theirs.port)
    theirs.process = None
    conn.close()


@pytest.mark.parametrize("way", ["SIGINT", "SHUTDOWN WAIT_FOR_SERVERS"])
def test_waiting_for_servers(theirs, way):
    busy, idle, waiting = theirs.wire(), theirs.wire(), theirs.wire()
    busy.query("BEGIN")
    waiting.send(query("SELECT 1"))
    if way == "SIGINT":
        theirs.process.send_signal(signal.SIGINT)
    else:
        theirs.command(way)
    assert [(fields["C"], fields["M"]) for fields in errors(waiting.rest())] == \
        [("57P01", "server shutting down")]
    assert idle.silent(0.3)
    idle.send(query("SELECT 1"))
    assert [fields["C"] for fields in errors(idle.rest())] == ["57P01"]
    assert theirs.log().count("closing because: server shutting down") == 2
    assert rows(busy.query("SELECT 5")) == [["5"]]
    busy.query("COMMIT")
    assert theirs.process.wait(20 * SLOW) == 0
    theirs.process = None
    for conn in (busy, idle, waiting):
        conn.close()


def test_a_session_keeps_its_server(make_proxy):
    proxy = make_proxy(as_pgbouncer=True, pool_mode="session")
    conn = proxy.wire()
    conn.value("SELECT 1")
    proxy.process.send_signal(signal.SIGINT)
    wait_for(lambda: refused(proxy.host, proxy.port), 10 * SLOW, "the end of TCP")
    time.sleep(0.3)
    assert conn.value("SELECT 2") == "2"
    conn.close()
    assert proxy.process.wait(20 * SLOW) == 0
    proxy.process = None


def refused(host, port):
    try:
        Conn(host, port).close()
        return False
    except OSError:
        return True


def test_clients_of_the_console_are_shown(make_proxy):
    proxy = make_proxy(workers=2)
    with proxy.console("pgbouncer") as console, proxy.console("pgshunt", STATS, STATS_PASSWORD), \
            proxy.wire() as conn:
        conn.value("SELECT 1")
        clients = console("SHOW CLIENTS")
        # Numbers count up, whichever worker has the connection.
        assert len(clients) == 3 and len(console("SHOW SOCKETS")) == 4
        first = int(min(row["id"] for row in clients))
        assert sorted(int(row["id"]) for row in clients + console("SHOW SERVERS")) == \
            list(range(first, first + 4))
        mine = {row["user"]: row for row in clients if row["database"] == "pgbouncer"}
        assert set(mine) == {"pgshunt_admin", STATS}
        assert {row["state"] for row in mine.values()} == {"idle"}
        assert mine[STATS]["addr"] == "127.0.0.1" and mine[STATS]["worker"] is None
        pool = [row for row in console("SHOW POOLS") if row["database"] == "pgbouncer"]
        assert [(row["user"], row["cl_active"], row["pool_mode"]) for row in pool] == [
            ("pgbouncer", "2", "statement")]
        own = [row for row in console("SHOW DATABASES") if row["name"] == "pgbouncer"][0]
        assert own["current_client_connections"] == "2"
        lists = {row["list"]: row["items"] for row in console("SHOW LISTS")}
        assert lists["used_clients"] == "3" and lists["login_clients"] == "0"
        users = {row["name"]: row for row in console("SHOW USERS")}
        assert users[STATS]["current_client_connections"] == "1"
        assert users[STATS]["pool_size"] == ""
        # Those of the users file, whether they have come or not.
        assert set(proxy.secrets) <= set(users) and lists["users"] == str(len(users))
        stats = [row for row in console("SHOW STATS") if row["database"] == "pgbouncer"][0]
        assert stats["total_client_login_count"] == "2"
        # This one and eight before it.
        assert stats["total_query_count"] == stats["total_xact_count"] == "8"
        assert int(stats["total_received"]) > 0 and int(stats["total_sent"]) > 1000
        console("KILL_CLIENT " + mine[STATS]["id"])
        assert len(console("SHOW CLIENTS")) == 2
        own = [row for row in console("SHOW DATABASES") if row["name"] == "pgbouncer"][0]
        assert own["current_client_connections"] == "1"


def test_clients_of_the_console_are_limited(make_proxy):
    """But for those who may do everything."""
    proxy = make_proxy(max_db_client_connections=2, users={STATS: {"max_client_connections": 1}})
    watcher = ("pgbouncer", STATS, STATS_PASSWORD)
    with proxy.console(*watcher):
        with pytest.raises(LoginError) as error:
            proxy.console(*watcher)
        assert error.value.fields["M"] == \
            "client connections exceeded (max_user_client_connections)"
        with proxy.console(), proxy.console():
            pass

    def comes_in():
        try:
            proxy.console(*watcher).conn.close()
            return True
        except LoginError:
            return False  # those who left have not been noticed yet
    wait_for(comes_in, 10 * SLOW, "room for it")
    with proxy.console(), proxy.console(), pytest.raises(LoginError) as error:
        proxy.console(*watcher)
    assert error.value.fields["M"] == "client connections exceeded (max_db_client_connections)"


def test_a_client_is_shown_by_the_name_it_came_with(make_proxy):
    proxy = make_proxy(databases={"mine": {"server": "pg", "dbname": "p1", "user": "app"}})
    with proxy.wire("mine", "app2") as conn, proxy.console("pgbouncer") as console:
        conn.value("SELECT 1")
        assert [row["user"] for row in console("SHOW CLIENTS") if row["database"] == "mine"] == \
            ["app2"]
        console("PAUSE mine")
        conn.send(query("SELECT 1"))
        wait_for(lambda: [row["state"] for row in console("SHOW CLIENTS")
                          if row["database"] == "mine"] == ["waiting"], 10 * SLOW, "it to wait")
        console("RESUME mine")
        assert not errors(conn.ready())


def test_an_idle_pool_is_given_up(make_proxy):
    proxy = make_proxy(pool_idle_timeout="100ms", server_idle_timeout="100ms",
                       databases={"p1": "pg", "kept": {"server": "pg", "dbname": "p1",
                                                       "min_pool_size": 1}})

    def pools():
        return {row["database"] for row in proxy.command("SHOW POOLS")}

    def counts():
        return [(row["total_xact_count"], row["total_client_login_count"])
                for row in proxy.command("SHOW STATS") if row["database"] == "p1"]
    proxy.wire("kept").close()
    for n in ("1", "2"):
        with proxy.wire() as conn:
            conn.value("SELECT 1")
            time.sleep(0.5)
            assert "p1" in pools()
        wait_for(lambda: pools() == {"kept", "pgbouncer"}, 20 * SLOW, "the end of the pool")
        assert counts() == [(n, n)]
    assert "cleaning up idle pool for user app on db p1" in proxy.log()


def test_a_database_of_the_fallback_is_forgotten(make_proxy):
    proxy = make_proxy(autodb_idle_timeout="100ms", server_idle_timeout="50ms", workers=2,
                       databases={"p1": "pg", "*": {"server": "pg"}})

    def names(view="STATS"):
        return {row["database"] for row in proxy.command(f"SHOW {view}")}
    with proxy.console() as console:
        with pytest.raises(ConsoleError):
            console("PAUSE pgbouncer")
        proxy.wire("p1").close()
        for _ in range(2):
            with proxy.wire("p2") as one, proxy.wire("p2") as two:
                assert one.value("SELECT current_database()") == "p2"
                assert two.value("SELECT current_database()") == "p2"
                time.sleep(0.3)
                assert "p2" in names() and "p2" in names("POOLS")
            wait_for(lambda: "p2" not in names(), 20 * SLOW, "the end of the database")
            assert "p1" in names() and "p1" in names("POOLS")
        proxy.wire("p2").close()
        console("HOLD p2")
        time.sleep(0.3)
        with proxy.wire("p2") as held:
            held.send(query("SELECT current_database()"))
            console("RELEASE p2")
            assert rows(held.ready()) == [["p2"]]
    assert proxy.log().count("registered new auto-database: p2") >= 2
    assert "cleaning up idle database p2 because: autodb idle timeout" in proxy.log()


# --- programs of others that watch it ----------------------------------------------------------------

# From Debian: prometheus-pgbouncer-exporter and check-postgres, with what the former needs.
MONITORING = os.environ.get("PGSHUNT_MONITORING", "/")
CHECK = os.path.join(MONITORING, "usr/bin/check_postgres")
EXPORTER = os.path.join(MONITORING, "usr/bin/prometheus-pgbouncer-exporter")
PYTHON = {**os.environ, "PYTHONPATH": os.path.join(MONITORING, "usr/lib/python3/dist-packages")}

# Each collector of the exporter by itself: one that asks for what this pgbouncer does not have (Debian's
# asks STATS for total_requests, which went with 1.8) says so, and does not hide the others.
COLLECT = """
import sys
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_pgbouncer_exporter import collectors, utils
connection = utils.get_connection(sys.argv[3], sys.argv[1], sys.argv[2])
for name in ("StatsCollector", "PoolsCollector", "DatabasesCollector", "ListsCollector"):
    arguments = {} if name == "ListsCollector" else {"databases": None}
    registry = CollectorRegistry(auto_describe=False)
    try:
        registry.register(getattr(collectors, name)(connection=connection, **arguments))
        print("# " + name + " works")
        print(generate_latest(registry).decode())
    except KeyError as error:
        print("# " + name + " misses " + str(error))
"""


@pytest.fixture
def in_its_place(make_proxy, pg, folder):
    """pgbouncer, and pgshuntd with a copy of its file."""
    bouncer = PgBouncer(subfolder(folder), "watched", [("p1", pg.host, pg.port, "p1"),
                                                       ("p2", pg.host, pg.port, "p2")],
                        "default_pool_size=2\nreserve_pool_size=1\nreserve_pool_timeout=1000\n"
                        "stats_users=app2\nmax_client_conn=50\nmin_pool_size=1\nmax_db_connections=30\n"
                        "server_lifetime=1000\n")
    proxy = make_proxy(start=False)
    proxy.config_path = os.path.join(proxy.folder, "pgbouncer.ini")
    with open(bouncer.ini) as ini, open(proxy.config_path, "w") as copy:
        copy.write(ini.read().replace("listen_port=%d" % bouncer.port, "listen_port=%d" % proxy.port)
                   .replace("unix_socket_dir=" + bouncer.folder, "unix_socket_dir=" + proxy.folder))
    proxy.start()
    yield bouncer, proxy
    bouncer.stop()


def test_databases_are_shown_as_there(in_its_place):
    """The console's, too."""
    bouncer, proxy = in_its_place
    shown = {}
    for place in (bouncer, proxy):
        with psycopg.connect(host=place.folder, port=place.port, dbname="pgbouncer", user="postgres",
                             autocommit=True, cursor_factory=psycopg.ClientCursor,
                             row_factory=psycopg.rows.dict_row) as conn:
            shown[place] = conn.execute("SHOW DATABASES").fetchall()
    assert [row["name"] for row in shown[proxy]] == [row["name"] for row in shown[bouncer]]
    for ours, theirs in zip(shown[proxy], shown[bouncer]):
        for column, value in theirs.items():
            expected = proxy.port if column == "port" and value == bouncer.port else value
            # Those of min_pool_size come in their time.
            if column != "current_connections":
                assert ours[column] == expected, (theirs["name"], column)


def test_sockets_are_shown_as_there(in_its_place):
    """Unix sockets with the port that is in their name, listening ones as the pooler's."""
    shown = {}
    for place in in_its_place:
        own = str(place.port)
        with psycopg.connect(host=place.folder, port=place.port, dbname="pgbouncer", user="postgres",
                             autocommit=True, cursor_factory=psycopg.ClientCursor,
                             row_factory=psycopg.rows.dict_row) as conn:
            def cells(view, *columns):
                return sorted(tuple("own" if str(row[column]) == own else row[column] for column in columns)
                              for row in conn.execute("SHOW " + view).fetchall()
                              if row["database"] in ("pgbouncer", None))
            shown[place] = [cells(view, "user", "addr", "port", "local_addr", "local_port")
                            for view in ("CLIENTS", "SOCKETS", "ACTIVE_SOCKETS")]
            shown[place].append(cells("FDS", "task", "addr", "port"))
    theirs, ours = shown.values()
    assert ours == theirs
    assert ("pooler", "unix", "own") in ours[3] and ours[0] == [("postgres", "unix", "own", "unix", "own")]


class Busy:
    """Three clients of p1, of which one waits for a server; one of p2 that does nothing."""

    def __init__(self, port):
        self.conns = [Conn("127.0.0.1", port) for _ in range(4)]
        for n, conn in enumerate(self.conns):
            conn.login("app", "p2" if n == 3 else "p1")
        self.conns[3].value("SELECT 1")
        for conn in self.conns[:2]:
            conn.query("BEGIN")
        self.conns[2].send(query("SELECT 1"))
        time.sleep(1.2 * SLOW)  # one second counts in maxwait

    def end(self):
        for conn in self.conns[:2]:
            conn.query("COMMIT")
        self.conns[2].ready("I")
        for conn in self.conns:
            conn.close()


def watched(place, port, work):
    busy = Busy(port)
    try:
        return work(place, port)
    finally:
        busy.end()


def exported(place, port, user="postgres"):
    """collector -> "misses …" or {sample: value}."""
    result = subprocess.run(["/usr/bin/python3", "-c", COLLECT, str(port), place.folder, user], env=PYTHON,
                            capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    found = {}
    for part in result.stdout.split("# ")[1:]:
        if part.split(" ", 1)[0].endswith("Collector"):
            name, says, *rest = part.split(None, 2)
            found[name] = current = {} if says == "works" else "misses " + rest[0].strip()
        elif part.startswith("TYPE"):
            for line in part.splitlines()[1:]:
                if line:
                    sample, value = line.rsplit(" ", 1)
                    current[sample] = float(value)
    return found


@pytest.mark.parametrize("user", ["postgres", "app2"])  # app2 may only look
def test_an_exporter_goes_on(in_its_place, user):
    """The same series with the same values, of everything that does not depend on memory and time."""
    bouncer, proxy = in_its_place
    theirs = watched(bouncer, bouncer.port, lambda place, port: exported(place, port, user))
    ours = watched(proxy, proxy.port, lambda place, port: exported(place, port, user))
    assert len(ours) == 4 and ours["PoolsCollector"] and ours["ListsCollector"]
    for name, samples in theirs.items():
        if isinstance(samples, str):
            continue  # its own pgbouncer is too new for it; ours may have what it asks for
        assert ours[name].keys() == samples.keys(), name
        for sample, value in samples.items():
            if name in ("PoolsCollector", "DatabasesCollector") or \
                    sample.split("_", 1)[1].startswith(("databases", "pools", "login_", "dns_", "used_")):
                assert ours[name][sample] == value, sample
    assert ours["DatabasesCollector"]['pgbouncer_reserve_pool{database="p1"}'] == 1
    # And the program itself, whether it can cope with this pgbouncer or not.
    pages = []
    for place in (bouncer, proxy):
        web = free_port()
        process = start(["/usr/bin/python3", EXPORTER, "--host", "127.0.0.1", "--port", str(web),
                         "--pgbouncer-port", str(place.port), "--pgbouncer-host", place.folder,
                         "--pgbouncer-user", user], place.folder + "/exporter.log", env=PYTHON)
        try:
            def page():
                try:
                    with urllib.request.urlopen("http://127.0.0.1:%d/metrics" % web, timeout=20) as answer:
                        return sorted({line.split(" ")[2] for line in answer.read().decode().splitlines()
                                       if line.startswith("# TYPE")})
                except (http.client.HTTPException, urllib.error.HTTPError):
                    return ["fails"]
                except OSError:
                    return process.poll() is not None and ["ended"]
            pages.append(wait_for(page, 60 * SLOW, "the exporter"))
        finally:
            process.kill()
            process.wait(10)
    assert pages[0] == pages[1]


CHECKS = [(action, "-w", warning, "-c", critical)
          for action in ("pgb_pool_cl_active", "pgb_pool_cl_waiting", "pgb_pool_sv_active", "pgb_pool_sv_idle",
                         "pgb_pool_sv_used", "pgb_pool_sv_tested", "pgb_pool_sv_login")
          for warning, critical in (("1", "2"), ("3", "9"))] + [
    ("pgb_pool_maxwait", "-w", "1", "-c", "900"), ("pgb_pool_maxwait", "-w", "800", "-c", "900"),
    ("pgbouncer_backends",), ("pgbouncer_backends", "-w", "3", "-c", "40"), ("pgbouncer_backends", "-c", "5%"),
    ("pgbouncer_backends", "-w", "-46", "-c", "-2")]


def check(*options):
    """Perl makes no temporary files in a folder that is another user's."""
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run([CHECK, *options], capture_output=True, text=True, timeout=60,
                              env={**os.environ, "TMPDIR": folder})


def checked(port, user):
    """What each check says, and its exit code; for users who may only look, a few of them."""
    found = []
    for action, *options in CHECKS if user == "postgres" else CHECKS[::5]:
        result = check("--action", action, "-H", "127.0.0.1", "-p", str(port), "--dbuser", user, *options)
        text = re.sub(r"time=[\d.]+s", "time", result.stdout.replace(str(port), "PORT"))
        # How long one has waited grows with the checks before it.
        text = re.sub(r"p1=[1-9]\d*", "p1=N", text) if action == "pgb_pool_maxwait" else text
        found.append((action, result.returncode, text, result.stderr))
        assert result.returncode in (0, 1, 2), result.stdout + result.stderr
    return found


@pytest.mark.once
@pytest.mark.parametrize("user", ["postgres", "app2"])
def test_checks_go_on(in_its_place, user):
    """check_postgres says the same word for word, in all its actions for pgbouncer."""
    bouncer, proxy = in_its_place
    theirs = watched(bouncer, bouncer.port, lambda place, port: checked(port, user))
    assert {code for _, code, _, _ in theirs} == ({0, 1, 2} if user == "postgres" else {0, 2})
    assert watched(proxy, proxy.port, lambda place, port: checked(port, user)) == theirs
    # The checksum of the configuration is another one, and stands still.
    sums = []
    for expected in ("0", None):
        result = check("--action", "pgbouncer_checksum", "-H", "127.0.0.1", "-p", str(proxy.port), "--dbuser",
                       user, "--critical=" + (expected or sums[0]))
        sums += re.findall(r"checksum: (\w{32})", result.stdout)
    assert result.returncode == 0 and len(set(sums)) == 1, result.stdout
