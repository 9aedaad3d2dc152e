# SPDX-License-Identifier: PostgreSQL
"""Session pooling: RESET leads back to what the client asked for at its start, as without a proxy."""
import threading

import pytest

from pgwire import SYNC, errors, parse, query, wait_for

STARTUP = {"DateStyle": "German, DMY", "TimeZone": "Asia/Tokyo", "statement_timeout": "77s",
           "options": "-c work_mem=7MB -c my.own=mine"}
NAMES = ["DateStyle", "TimeZone", "statement_timeout", "work_mem", "my.own"]
CHANGED = ["ISO, YMD", "UTC", "3s", "9MB", "other"]


def shown(conn):
    return [conn.value("SHOW " + name) for name in NAMES]


def test_reset_of_startup_parameters(session_endpoint):
    with session_endpoint.wire(**STARTUP) as conn:
        first = shown(conn)
        assert first == ["German, DMY", "Asia/Tokyo", "77s", "7MB", "mine"]
        for reset in ("RESET ALL", "DISCARD ALL", *["; ".join(form % name for name in NAMES)
                                                   for form in ("RESET %s", "SET %s TO DEFAULT")]):
            for name, value in zip(NAMES, CHANGED):
                conn.query("SET %s = '%s'" % (name, value))
            assert shown(conn) == CHANGED
            conn.query(reset)
            assert shown(conn) == first
            assert conn.params["DateStyle"] == "German, DMY"
        assert conn.value("SELECT string_agg(name, ' ' ORDER BY name) FROM pg_settings WHERE "
                          "source = 'client' AND name IN ('DateStyle', 'TimeZone', 'work_mem', "
                          "'statement_timeout')") == "DateStyle TimeZone statement_timeout work_mem"
        conn.query("BEGIN; SET LOCAL work_mem = '9MB'; RESET work_mem; ROLLBACK")
        assert conn.value("SHOW work_mem") == "7MB"


def test_equal_clients_share_a_server(make_proxy):
    """Also if their names differ: application_name is set by SQL."""
    proxy = make_proxy(pool_mode="session", pool_size=1, workers=1)
    pids = set()
    for n in range(6):
        with proxy.wire(application_name="client %d" % n, **STARTUP) as conn:
            assert shown(conn)[0] == "German, DMY"
            assert conn.value("SHOW application_name") == "client %d" % n
            pids.add(conn.value("SELECT pg_backend_pid()"))
            conn.query("SET work_mem = '9MB'")
    assert len(pids) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_other_clients_get_servers_of_their_own(make_proxy, workers):
    """A pool full of servers of the other kind makes room, and nobody waits for ever."""
    proxy = make_proxy(pool_mode="session", pool_size=2, workers=workers)
    zones = ["Asia/Tokyo", "UTC", "America/New_York", None]
    found = []

    def play(n):
        for i in range(6):
            zone = zones[(n + i) % 4]
            with proxy.wire(**({"TimeZone": zone} if zone else {})) as conn:
                conn.query("SET TimeZone = 'Europe/Paris'")
                conn.query("RESET TimeZone")
                found.append((zone, conn.value("SHOW TimeZone")))
    threads = [threading.Thread(target=play, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 24
    with proxy.wire() as conn:
        default = conn.value("SHOW TimeZone")
    assert all(value == (zone or default) for zone, value in found)
    pool = [row for row in proxy.command("SHOW POOLS") if row["user"] == "app"]
    assert sum(int(row["sv_active"]) + int(row["sv_idle"]) for row in pool) <= 2


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_what_the_server_refuses_after_the_login(make_proxy, mode):
    """Under a hold nobody can be asked: it shows with the first request, and is that client's alone."""
    proxy = make_proxy(pool_mode=mode, pool_size=2)
    proxy.wire().close()
    for params, sqlstate in (({"DateStyle": "nonsense"}, "22023"),
                             ({"options": "-c no_such_parameter=1"}, "42704"),
                             ({"options": "-c max_connections=7"}, "55P02"),
                             ({"options": "-c zero_damaged_pages=on"}, "42501")):
        proxy.hold("p1", "LEASE 60s")
        with proxy.wire() as good, proxy.wire(**params) as conn:
            proxy.command("RELEASE p1")
            assert good.value("SELECT 1") == "1"
            conn.send(query("SELECT 1"))
            assert [error["C"] for error in errors(conn.rest())] == [sqlstate]
    with proxy.wire(**STARTUP) as conn:
        assert conn.value("SELECT 1") == "1"


def test_welcome_is_not_another_clients(make_proxy):
    """What one client asked for at its start is not what the next is told."""
    proxy = make_proxy(pool_mode="session", pool_size=1, workers=1)
    with proxy.wire() as conn:
        default = dict(conn.params)
    for _ in range(2):
        with proxy.wire(**STARTUP) as conn:
            assert conn.params["TimeZone"] == "Asia/Tokyo"
            conn.query("SELECT 1")
    with proxy.wire() as conn:
        conn.query("SELECT 1")
        assert conn.params["TimeZone"] == default["TimeZone"]
        assert conn.params["DateStyle"] == default["DateStyle"]
        assert conn.value("SHOW TimeZone") == default["TimeZone"]
        assert conn.value("SHOW statement_timeout") == "0"


def test_as_many_servers_as_clients(make_proxy):
    """The first server is that of the first client; what it asked for is not what others are told."""
    proxy = make_proxy(pool_mode="session", workers=1)
    with proxy.wire(TimeZone="Asia/Tokyo", role="app") as conn:
        assert conn.value("SELECT 1") == "1" and len(proxy.command("SHOW SERVERS")) == 1
        with proxy.wire(TimeZone="Asia/Tokyo", DateStyle="German") as other, proxy.wire() as plain:
            default = plain.params["TimeZone"]
            assert default not in ("", "Asia/Tokyo") and plain.params["DateStyle"] == "ISO, MDY"
            assert other.params["DateStyle"] == "German, DMY" and other.value("SELECT 1") == "1"
            assert plain.value("SHOW TimeZone") == default
            assert len(proxy.command("SHOW SERVERS")) == 3


def test_after_a_swap(make_scene):
    """The servers opened before a swap are like those that its clients have."""
    scene = make_scene(proxy={"pool_mode": "session"})
    proxy = scene.proxy
    with proxy.wire("p2", **STARTUP) as conn:
        assert shown(conn)[1] == "Asia/Tokyo"
    scene.move()
    with proxy.wire("p2", **STARTUP) as conn:
        conn.query("SET TimeZone = UTC; RESET TimeZone")
        assert conn.value("SHOW TimeZone") == "Asia/Tokyo"
        assert conn.value("SELECT where_am_i(1)") == "pg2 p2"


def test_connections_for_a_swap_suit_the_clients(make_proxy, pg, other):
    """One that was lost is opened again for whom it was, whatever others are there for nobody."""
    proxy = make_proxy({"pg": pg, "other": other}, pool_mode="session", workers=1)
    left = [proxy.wire("p2") for _ in range(3)]
    for conn in left:
        conn.query("SELECT 1")
    for conn in left:
        conn.close()
    wait_for(lambda: [row["sv_idle"] for row in proxy.command("SHOW POOLS") if row["user"] == "app"]
             == ["3"], what="their servers")
    with proxy.wire("p2", **STARTUP) as conn, proxy.wire("p2") as plain:
        # The new server refuses it: its table is not found any more.
        conn.send(parse("SELECT count(*) FROM items", "lost") + SYNC)
        conn.ready()
        conn.query("SET search_path TO pg_catalog")
        plain.query("SELECT 1")
        proxy.command("PREPARE SWAP p2 TO other")
        row, = [row for row in proxy.command("SHOW SESSIONS p2") if row["why"]]
        assert '"items"' in row["why"]
        conn.query("DEALLOCATE ALL")
        proxy.command("PREPARE SWAP p2 TO other")
        taken = [row for row in proxy.command("SHOW SERVERS")
                 if row["state"] == "parked" and row["port"] == str(other.port)]
        assert len(taken) == 2


def test_pool_mode_changes(make_proxy):
    proxy = make_proxy(pool_mode="session", pool_size=1, workers=1)
    with proxy.wire(**STARTUP) as conn:
        pid = conn.value("SELECT pg_backend_pid()")
    proxy.settings["pool_mode"] = "transaction"
    proxy.reload()
    wait_for(lambda: [row["pool_mode"] for row in proxy.command("SHOW POOLS")
                      if row["user"] == "app"] == ["transaction"], what="the pool mode")
    with proxy.wire() as conn:
        assert conn.value("SHOW work_mem") == "4MB"
        conn.query("RESET ALL")
        assert conn.value("SHOW TimeZone") != "Asia/Tokyo"
        assert conn.value("SELECT pg_backend_pid()") != pid
