# SPDX-License-Identifier: PostgreSQL
"""Lack of memory: the proxy serves whom it can, says so, and loses neither a connection nor a place."""
import random
import re
import threading
import time

import pytest

import pgwire
from memory import Allocator
from proxy import ADMIN, ADMIN_PASSWORD, ConsoleError
from pgwire import (SYNC, bind, copy_data, errors, execute, parse, query, rows, wait_for)
from servers import SLOW

POOL = 4
SAID = ("53200", "08006", "58030", "F0000")


@pytest.fixture
def short(make_proxy):
    """A proxy with an allocator that takes orders."""
    def make(**settings):
        settings.setdefault("server_idle_timeout", "1s")
        proxy = make_proxy(start=False, pool_size=POOL, log_level="info", **settings)
        proxy.memory = Allocator(proxy)
        return proxy.start()
    return make


def converse(proxy, dbname, user="app", password=None):
    """What clients do, in little; the SQLSTATEs of the errors."""
    with pgwire.Conn(proxy.host, proxy.port, 20 * SLOW) as conn:
        conn.login(user, dbname, password, application_name="short", search_path="public")
        seen = []
        for parts in ([query("SELECT 1")],
                      [parse("SELECT 3, $1::int", "s"), bind([4], "s"), execute(), SYNC],
                      [query("SET application_name = 'other'")],
                      [query("BEGIN")],
                      [query("SELECT repeat('x', 300000)")],
                      [query("SELECT length('%s')" % ("y" * 200000))],
                      [query("COMMIT")],
                      [bind([5], "s"), execute(), SYNC],
                      [query("COPY items FROM STDIN"), copy_data(b"\\.\n"), pgwire.COPY_DONE]):
            conn.send(*parts)
            seen += [failed["C"] for failed in errors(conn.until("Z"))]
        return seen


def ending(what):
    """How it went: SQLSTATEs, or how it ended."""
    try:
        return what()
    except pgwire.LoginError as failed:
        return [failed.sqlstate]
    except ConsoleError as failed:
        return [failed.sqlstate]
    except (pgwire.Closed, ConnectionError):
        return ["closed"]


def whole_again(proxy, user="app", password=None):
    """Everybody is served, and every place in the pools is there."""
    proxy.memory.calm()
    proxy.check_alive()
    for dbname in ("p1", "p2"):
        wait_for(lambda: ending(lambda: proxy.wire(dbname, user, password).close()) is None,
                 20 * SLOW, "a login")
        conns = [proxy.wire(dbname, user, password) for _ in range(POOL)]
        for conn in conns:
            conn.query("BEGIN")
        for conn in conns:
            assert conn.value("SELECT 1") == "1"
            conn.close()
    wait_for(lambda: all(row["cl_active"] == row["cl_waiting"] == row["sv_active"] == "0"
                         for row in proxy.command("SHOW POOLS") if row["database"] != "pgbouncer"),
             20 * SLOW, "idle pools")


@pytest.mark.parametrize("user,password", [("app", None), ("u_scram", "scram secret")])
def test_one_allocation_fails(short, user, password):
    """Each in turn, from the login to the goodbye: the client is told, or does not notice."""
    names = ["p%d" % n for n in range(1, 30)]
    proxy = short(auth_type="trust" if password is None else "scram-sha-256",
                  databases={name: {"server": "pg", "dbname": "p1"} for name in names})
    converse(proxy, "p1", user, password)
    seen = set()
    for number in range(1, 1000):
        proxy.memory.order(countdown=number)
        # A fresh database now and then, so that server connections are opened as well.
        seen.update(ending(lambda: converse(proxy, names[number // 3 % len(names)], user, password)))
        left = proxy.memory.countdown
        proxy.memory.calm()
        if left:
            break
    assert number > 20 and seen <= {"53200", "08006", "closed"} and "53200" in seen, seen
    assert "out of memory" in proxy.log()
    whole_again(proxy, user, password)


def test_parameters_that_cannot_be_written_down(short):
    """Who cannot be given them on the server is ended; nobody goes on with those of another, or is
    told others than it has."""
    proxy = short(workers=1)
    styles = {"German": "German, DMY", "SQL, MDY": "SQL, MDY"}
    conns = {style: proxy.wire("p1", DateStyle=style) for style in styles}
    ended = reached = 0
    number = 0
    while reached < len(styles):
        number += 1
        reached = 0
        for style, shown in styles.items():
            conns[style].query("SELECT 1")
            conns[next(other for other in styles if other != style)].query("SELECT 1")
            proxy.memory.order(countdown=number)
            try:
                messages = conns[style].query("SHOW DateStyle")
            except (pgwire.Closed, ConnectionError):
                messages = None
            reached += proxy.memory.countdown > 0
            proxy.memory.calm()
            if messages is not None and not errors(messages):
                assert rows(messages) == [[shown]] and conns[style].params["DateStyle"] == shown
                continue
            ended += 1
            conns[style].close()
            conns[style] = proxy.wire("p1", DateStyle=style)
    assert ended >= 2 * len(styles), number
    for conn in conns.values():
        conn.close()
    whole_again(proxy)


def test_a_pinned_session_is_told_as_such(short):
    """Without memory for what pins it, too: it is not taken for one that can be moved."""
    proxy = short(workers=1, pool_mode="session")
    seen = set()
    number = 0
    with proxy.console() as console:
        while True:
            number += 1
            conn = proxy.wire("p2")
            conn.query("SET work_mem = '7MB'; CREATE TEMP VIEW basket AS SELECT 1")
            proxy.memory.order(countdown=number)
            seen.update((row["class"], row["what"] != "") for row in console("SHOW SESSIONS p2"))
            reached = proxy.memory.countdown > 0
            proxy.memory.calm()
            conn.close()
            wait_for(lambda: not console("SHOW SESSIONS p2"), 20 * SLOW, "the end of the session")
            if reached:
                break
    assert ("pinned", True) in seen and {what for what, _ in seen} <= {"pinned", "unknown"}, seen
    whole_again(proxy)


COMMANDS = ["SHOW POOLS", "SHOW CLIENTS", "HOLD p2 LEASE 60s", "PREPARE SWAP p2 TO pg", "SHOW HOLDS",
            "SHOW STATS", "RELEASE p2", "PAUSE p1", "RESUME p1", "RELOAD", "SHOW CONFIG",
            "SET query_timeout = 0", "RECONNECT p1"]


def test_console_waits_for_memory(short):
    """Its commands are carried out, or refused with a reason; none is forgotten."""
    proxy = short()
    random.seed(70)

    def commands():
        with pgwire.Conn(proxy.host, proxy.port, 20 * SLOW) as conn:
            conn.login(ADMIN, "pgshunt", ADMIN_PASSWORD)
            return [failed["C"] for text in COMMANDS for failed in errors(conn.query(text))]
    proxy.memory.order(countdown=1000000)
    commands()
    most = 1000000 - proxy.memory.countdown
    seen = set()
    for number in [*range(8, most // 2, 9), *random.sample(range(most // 2, most), 15)]:
        proxy.memory.order(countdown=number)
        seen.update(ending(commands))
        proxy.memory.calm()
    assert seen <= {"53200", "F0000", "closed"}, seen
    assert proxy.held()["state"] == "open"
    whole_again(proxy)


@pytest.mark.parametrize("one_in", [100, 8])
def test_memory_is_short(short, one_in):
    """For a while, for everybody, with a hold in the middle of it."""
    proxy = short(auth_type="scram-sha-256", workers=2)
    end = time.monotonic() + 2.5
    seen = []

    def client(number):
        while time.monotonic() < end:
            user, password = (("u_scram", "scram secret"), ("u_md5", "md5 secret"))[number % 2]
            seen.append(ending(lambda: converse(proxy, "p%d" % (number % 2 + 1), user, password)))
    with pgwire.Conn(proxy.host, proxy.port, 60 * SLOW) as admin:
        admin.login(ADMIN, "pgshunt", ADMIN_PASSWORD)
        proxy.memory.order(one_in=one_in)
        threads = [threading.Thread(target=client, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            for text in ("HOLD p2 LEASE 60s DRAIN 1s", "SHOW HOLDS", "RELEASE p2"):
                held = errors(admin.query(text))
                assert {failed["C"] for failed in held} <= {"53200", "55P03", "55000"}, held
        proxy.memory.calm()
        for thread in threads:
            thread.join()
    failed = proxy.memory.failed
    whole_again(proxy, "u_scram", "scram secret")
    assert failed > 20 and seen
    assert re.search("ERROR out of memory", proxy.log())
