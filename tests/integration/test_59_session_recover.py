# SPDX-License-Identifier: PostgreSQL
"""Session clients whose server ends outside of any hold: who is idle, and of whom all is known that a
server can be given, goes on on a new connection; the others get the error that they always got."""
import signal

import pytest

from pgwire import SYNC, bind, errors, execute, parse, query, rows, wait_for
from servers import SCHEMA

pytestmark = pytest.mark.threads


@pytest.fixture(scope="module")
def own(folder):
    from servers import Cluster, subfolder
    cluster = Cluster(subfolder(folder), "own").create()
    cluster.sql("CREATE DATABASE p1")
    cluster.sql(SCHEMA, "p1")
    yield cluster
    cluster.stop()


def asked(pg, count):
    """Whether the last thing that so many servers did was to tell their state."""
    seen = pg.sql("SELECT query FROM pg_stat_activity WHERE datname = 'p1' AND usename = 'app' "
                  "AND state = 'idle'")
    # Of those with statements what these return, and last what that of PREPARE takes.
    last = ("WITH conf", "SELECT WHERE pg_catalog.set_config(", "SELECT $1 * 2")
    return sum(text.lstrip().startswith(last) for text, in seen) == count


@pytest.mark.parametrize("end", ["restart", "crash"])
def test_the_server_ends(own, make_proxy, end):
    proxy = make_proxy({"pg": own}, {"p1": "pg"}, pool_mode="session", pool_size=20,
                       session_recover_after="100ms", session_pin_applications=["declared"])
    names = ("clean", "movable", "asking", "listening", "locking", "temporary", "declared")
    conns = {name: proxy.wire("p1", application_name=name) for name in names}
    for name in ("movable", "asking"):
        conns[name].query("SET work_mem = '7MB'")
        conns[name].query("PREPARE twice(int) AS SELECT $1 * 2")
        conns[name].send(parse("SELECT 'the unnamed one'") + SYNC)
        conns[name].until("Z")
    conns["listening"].query("LISTEN news")
    conns["locking"].query("SELECT pg_advisory_lock(7)")
    for name in ("clean", "declared"):
        conns[name].query("SELECT 1")
    wait_for(lambda: asked(own, len(conns) - 1), what="the state of all")
    conns["temporary"].query("CREATE TEMP TABLE basket (a int)")
    conns["busy"] = proxy.wire("p1")
    conns["busy"].query("BEGIN")
    pids = {name: conns[name].value("SELECT pg_backend_pid()") for name in ("busy",)}
    keys = {name: conn.key for name, conn in conns.items()}
    ports = {str(conn.sock.getsockname()[1]): name for name, conn in conns.items()}
    told = {
        "clean": "yes", "movable": "yes", "asking": "yes", "listening": "channels listened to",
        "locking": "advisory locks", "temporary": "temporary objects", "declared": "pinned",
        "busy": "active since it was asked, or not asked yet"}
    # It answers without those who take too long to tell their state.
    wait_for(lambda: {ports[row["client_port"]]: row["recovers"]
                      for row in proxy.command("SHOW SESSIONS p1")} == told, what="what all tell")
    if end == "restart":
        own.stop(signal.SIGINT)
    else:
        own.crash()
    for name in ("listening", "locking", "temporary", "declared", "busy"):
        seen = errors(conns.pop(name).rest())
        fatal, = [each for each in seen if each["S"] == "FATAL"]
        assert fatal["C"] == "57P01" or (
            fatal["C"] == "08006" and fatal["D"].endswith(told[name])), (name, fatal)
    conns["asking"].send(query("SHOW work_mem"))
    own.start()
    assert rows(conns["asking"].until("Z")) == [["7MB"]]
    assert conns["movable"].value("SELECT pg_backend_pid()") not in pids.values()
    assert conns["movable"].value("SHOW work_mem") == "7MB"
    assert conns["movable"].value("EXECUTE twice(21)") == "42"
    assert conns["clean"].value("SHOW work_mem") == "4MB"
    for name, conn in conns.items():
        assert conn.key == keys[name]
        conn.close()


@pytest.mark.parametrize("prepared", [False, True], ids=["", "swap prepared"])
def test_one_server_is_ended(own, pg, make_proxy, prepared):
    """The unnamed statement is there again.  A connection to where the database will be is of no use."""
    proxy = make_proxy({"pg": own, "other": pg}, {"p1": "pg"}, pool_mode="session",
                       session_recover_after="100ms")
    with proxy.wire("p1") as conn:
        pid = conn.value("SELECT pg_backend_pid()")
        conn.send(parse("SELECT 'the unnamed one', pg_backend_pid()") + SYNC)
        conn.until("Z")
        wait_for(lambda: asked(own, 1), what="its state")
        if prepared:
            proxy.command("PREPARE SWAP p1 TO other")
        own.sql("SELECT pg_terminate_backend(%s)" % pid)
        wait_for(lambda: own.sessions("p1", "app") not in (set(), {int(pid)}), what="another server")
        conn.send(bind() + execute() + SYNC)
        answer = rows(conn.until("Z"))[0]
        assert answer[0] == "the unnamed one" and answer[1] != pid
        assert conn.value("SHOW cluster_name") == "own"


def test_only_if_it_is_switched_on(own, make_proxy):
    proxy = make_proxy({"pg": own}, {"p1": "pg"}, pool_mode="session")
    with proxy.wire("p1") as conn:
        pid = conn.value("SELECT pg_backend_pid()")
        proxy.command("SHOW SESSIONS p1")
        own.sql("SELECT pg_terminate_backend(%s)" % pid)
        assert errors(conn.rest())[0]["C"] == "57P01"
