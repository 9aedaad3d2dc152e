# SPDX-License-Identifier: PostgreSQL
"""A hold that ends otherwise than by RELEASE or its lease, or that something else happens to: KILL,
SHUTDOWN, SUSPEND, a RELOAD that changes the route.  Sessions have locks, channels, temporary tables."""
import signal

import psycopg
import pytest

from pgwire import errors, query, rows, wait_for
from servers import SLOW, stopped
from test_27_sealed import await_refusal, heard

STATES = {
    "clean": "SELECT 1",
    "locked": "SELECT pg_advisory_lock(42)",
    "listening": "LISTEN news",
    "temporary": "CREATE TEMP TABLE mine AS SELECT 7 AS seven",
}


BLOCKED = "SELECT FROM pg_stat_activity WHERE query LIKE 'PREPARE p%' AND wait_event_type = 'Lock'"


def sessions(proxy):
    clients = {name: proxy.wire("p2", application_name=name) for name in STATES}
    for name, state in STATES.items():
        clients[name].query(state)
    return clients


def pids(cluster):
    return {row[0] for row in cluster.sql("SELECT pid FROM pg_stat_activity WHERE datname = 'p2' "
                                          "AND usename = 'app'")}


def check(clients, server):
    """Each has what it had, and is where it should be."""
    for client in clients.values():
        assert client.value("SHOW cluster_name") == server
    assert clients["temporary"].value("SELECT seven FROM mine") == "7"
    assert clients["clean"].value("SELECT pg_try_advisory_lock(42)") == "f"
    clients["clean"].query("NOTIFY news, 'of %s'" % server)
    assert heard(clients["listening"], "of " + server) == ["of " + server]
    assert [clients["locked"].value("SELECT pg_advisory_unlock(42)") for _ in "12"] == ["t", "f"]


def ended(client, sqlstate="57P01"):
    """It was told why."""
    messages = client.rest()
    assert [(e["S"], e["C"]) for e in errors(messages)] == [("FATAL", sqlstate)], messages


def hold(proxy, sealed=True, lease="60s"):
    if sealed:
        proxy.command("PREPARE SWAP p2 TO other SEAL")
    epoch = proxy.hold("p2", "LEASE " + lease)["epoch"]
    if sealed:
        assert len(proxy.command("SEAL p2 EPOCH " + epoch)) >= len(STATES)
    return epoch


@pytest.fixture
def proxy(make_proxy, pg, other):
    return make_proxy({"pg": pg, "other": other}, {"p1": "pg", "p2": "pg"}, pool_mode="session",
                      pool_size=12, log_level="debug", takeover_timeout="10s", shutdown_timeout="60s")


@pytest.fixture
def pooled(make_proxy, pg, other):
    return make_proxy({"pg": pg, "other": other}, {"p1": "pg", "p2": "pg"}, pool_size=4,
                      shutdown_timeout="60s")


# ---- KILL ----

@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("scope", ["KILL p2", "KILL"])
def test_kill(proxy, pg, sealed, scope):
    """All are told; who comes waits for the release, and finds no lock of those who have gone."""
    clients = sessions(proxy)
    before = pids(pg)
    assert len(before) >= len(STATES)
    hold(proxy, sealed)
    clients["clean"].send(query("SELECT 1"))
    with proxy.console() as console:
        console.send(scope)
        said = [m.fields()["M"] for m in console.conn.ready() if m.kind == "N"]
    assert said == ["new requests wait until " + ("RESUME" if scope == "KILL" else "RELEASE")]
    for client in clients.values():
        ended(client)
    assert proxy.held()["state"] == "held"
    with proxy.wire("p2") as comer:
        comer.send(query("SELECT pg_try_advisory_lock(42)"))
        assert comer.silent()
        proxy.command("RELEASE p2")
        if scope == "KILL":
            proxy.command("RESUME")
        assert rows(comer.ready("I")) == [["t"]]
        wait_for(lambda: not pids(pg) & before, 10 * SLOW, "the end of the server processes")
    assert not proxy.command("SHOW SEALED")
    assert proxy.held()["sessions_left"] == "0"


def test_kill_of_a_drain(proxy, pg):
    """Who is in a transaction is ended, too, and the hold is drained then."""
    clients = sessions(proxy)
    clients["locked"].query("BEGIN")
    clients["temporary"].send(query("SELECT pg_sleep(100)"))
    with proxy.console() as console:
        console.send("HOLD p2 LEASE 60s")
        wait_for(lambda: proxy.held()["state"] == "draining", 10 * SLOW, "the drain")
        proxy.command("KILL p2")
        assert console.result()[0]["state"] == "held"
    for client in clients.values():
        ended(client)
    wait_for(lambda: not pids(pg), 10 * SLOW, "the end of the server processes")
    proxy.command("RELEASE p2")
    with proxy.wire("p2") as comer:
        assert comer.value("SELECT pg_try_advisory_lock(42)") == "t"


def test_kill_of_waiting_requests(pooled):
    clients = [pooled.wire("p2") for _ in range(6)]
    pooled.hold()
    for client in clients:
        client.send(query("SELECT 1"))
    wait_for(lambda: pooled.held()["held"] == "6", 10 * SLOW, "the requests")
    pooled.command("KILL p2")
    for client in clients:
        ended(client)
    assert (pooled.held()["state"], pooled.held()["held"]) == ("held", "0")
    pooled.command("RELEASE p2")
    with pooled.wire("p2") as comer:
        assert comer.value("SELECT 1") == "1"


# ---- SHUTDOWN ----

STOPS = {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT, "SIGQUIT": signal.SIGQUIT,
         "SHUTDOWN": "SHUTDOWN", "SHUTDOWN IMMEDIATE": "SHUTDOWN IMMEDIATE"}


def stop(proxy, how):
    if isinstance(STOPS[how], str):
        with proxy.console() as console:
            console.send(STOPS[how])
    else:
        proxy.process.send_signal(STOPS[how])


def started_again(proxy):
    """It has ended by itself; the next start finds the hold."""
    assert proxy.process.wait(20 * SLOW) == 0
    proxy.check_log()
    proxy.start()
    assert proxy.held()["state"] == "held"


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("how", list(STOPS))
def test_shutdown(proxy, pg, how, sealed):
    clients = sessions(proxy)
    before = pids(pg)
    epoch = hold(proxy, sealed)
    clients["temporary"].send(query("SELECT seven FROM mine"))
    stop(proxy, how)
    for client in clients.values():
        ended(client)
    started_again(proxy)
    assert proxy.held()["epoch"] == epoch
    wait_for(lambda: not pids(pg) & before, 10 * SLOW, "the end of the server processes")
    with proxy.wire("p2") as comer:
        comer.send(query("SELECT pg_try_advisory_lock(42)"))
        assert comer.silent()
        proxy.command("RELEASE p2 EPOCH " + epoch)
        assert rows(comer.ready("I")) == [["t"]]
    proxy.command("CANCEL SWAP p2")


@pytest.mark.parametrize("how", ["SIGTERM", "SIGQUIT"])
def test_shutdown_with_waiting_requests(pooled, how):
    clients = [pooled.wire("p2") for _ in range(6)]
    pooled.hold()
    for client in clients:
        client.send(query("SELECT 1"))
    wait_for(lambda: pooled.held()["held"] == "6", 10 * SLOW, "the requests")
    stop(pooled, how)
    for client in clients:
        ended(client)
    started_again(pooled)
    pooled.command("RELEASE p2")


@pytest.mark.parametrize("how", ["SIGTERM", "SHUTDOWN"])
def test_shutdown_while_a_session_is_asked(proxy, pg, how):
    """It is not forgotten when the answer has come, at which it is taken off its server."""
    clients = sessions(proxy)
    pid = int(clients["locked"].value("SELECT pg_backend_pid()"))
    with stopped(pid):
        proxy.command("HOLD p2 LEASE 60s NOWAIT")
        wait_for(lambda: proxy.held()["active"] == "1", 10 * SLOW, "the question")
        stop(proxy, how)
        for name in ("clean", "listening", "temporary"):
            ended(clients[name])
        assert clients["locked"].silent()
    ended(clients["locked"])
    started_again(proxy)
    proxy.command("RELEASE p2")


def test_shutdown_while_parameters_are_set(pooled, pg):
    """In a hold its request goes back to the queue, from which nobody would take it any more."""
    with pooled.wire("p2", DateStyle="German") as client, pooled.wire("p2") as other:
        pid = int(other.value("SELECT pg_backend_pid()"))
        with stopped(pid):
            client.send(query("SELECT 1"))
            wait_for(lambda: pooled.held()["active"] == "1", 10 * SLOW, "the link")
            pooled.command("HOLD p2 LEASE 60s NOWAIT")
            stop(pooled, "SIGTERM")
            ended(other)
            assert client.silent()
        ended(client)
    started_again(pooled)
    pooled.command("RELEASE p2")


def test_shutdown_that_waits_for_clients(proxy, pg):
    """They stay, held or not, and go on with what they have when they are released."""
    clients = sessions(proxy)
    epoch = hold(proxy)
    with proxy.console() as console:
        console("SHUTDOWN WAIT_FOR_CLIENTS")
        for client in clients.values():
            assert client.silent(0.05)
        console("RELEASE p2 EPOCH " + epoch)
    check(clients, "pg")
    for client in clients.values():
        client.close()
    assert proxy.process.wait(20 * SLOW) == 0
    proxy.check_log()
    proxy.start()
    assert proxy.held()["state"] == "open"


# ---- takeover ----

def test_takeover(proxy):
    """It is refused, and nobody notices."""
    clients = sessions(proxy)
    epoch = hold(proxy)
    running = proxy.process
    proxy.takeover(wait=False)
    assert proxy.process.wait(20 * SLOW) != 0
    proxy.process = running
    assert 'database "p2" is held' in proxy.log()
    proxy.command("RELEASE p2 EPOCH " + epoch)
    check(clients, "pg")
    proxy.command("CANCEL SWAP p2")
    former = proxy.takeover()
    for client in clients.values():
        assert client.value("SHOW cluster_name") == "pg"
        client.close()
    assert former.wait(20 * SLOW) == 0


# ---- SUSPEND ----

@pytest.mark.parametrize("sealed", [False, True])
def test_suspend(proxy, sealed):
    clients = sessions(proxy)
    epoch = hold(proxy, sealed)
    with proxy.console() as console:
        console("SUSPEND")
        clients["temporary"].send(query("SELECT seven FROM mine"))
        assert clients["temporary"].silent()
        console("RESUME")
        assert proxy.held()["state"] == "held"
        assert clients["temporary"].silent()
        console("RELEASE p2 EPOCH " + epoch)
    assert rows(clients["temporary"].ready("I")) == [["7"]]
    check(clients, "pg")


@pytest.mark.parametrize("end", ["lease", "RELEASE"])
def test_a_hold_that_ends_while_all_stands_still(proxy, pg, door, end):
    """Nobody gets ahead of those who have locks and channels when it goes on."""
    clients = sessions(proxy)
    clients["locked"].query("PREPARE p AS SELECT count(*) FROM items")
    clients["listening"].query("PREPARE p AS SELECT count(*) FROM items")
    epoch = hold(proxy, lease="1s" if end == "lease" else "60s")
    clients["clean"].send(query("SELECT pg_try_advisory_lock(42); NOTIFY news, 'first'"))
    with proxy.console() as console, pg.connect("p2") as slow, \
            pg.connect("postgres", autocommit=True) as look:
        console("SUSPEND")
        slow.execute("LOCK TABLE items")
        if end == "lease":
            door("false")
            wait_for(lambda: "was not renewed" in proxy.log(), 10 * SLOW, "the end of the lease")
        else:
            console("RELEASE p2 EPOCH " + epoch)
        assert clients["clean"].silent(1.5)
        console("RESUME")
        if end == "lease":
            await_refusal(proxy)
            door("true")
        wait_for(lambda: look.execute(BLOCKED).fetchall(), 20 * SLOW, "one to come back")
        assert clients["clean"].silent(0.15)  # they are waited for no longer than three seconds
        slow.rollback()
    assert rows(clients["clean"].ready("I"))[0] == ["f"]
    assert heard(clients["listening"], "first") == ["first"]
    check(clients, "pg")


# ---- sessions that have lost their servers ----

@pytest.mark.parametrize("policy", ["wait", "move_anyway"])
@pytest.mark.parametrize("how", ["RELEASE", "SWAP"])
def test_sessions_that_are_late(make_proxy, pg, other, how, policy):
    """Others go on before those who have locks and channels have them again, and may have had them."""
    proxy = make_proxy({"pg": pg, "other": other}, {"p2": "pg"}, pool_mode="session", pool_size=12,
                       session_pinned=policy)
    there = other if how == "SWAP" else pg
    clients = sessions(proxy)
    clients["locked"].query("PREPARE p AS SELECT count(*) FROM items")
    clients["listening"].query("PREPARE p AS SELECT count(*) FROM items")
    epoch = hold(proxy, sealed=False)
    if how == "RELEASE":
        proxy.command("PREPARE SWAP p2 TO other SEAL")
        proxy.command("SEAL p2 EPOCH " + epoch)
    clients["clean"].send(query("SELECT pg_try_advisory_lock(42), pg_advisory_unlock(42); NOTIFY news"))
    with there.connect("p2") as slow:
        slow.execute("LOCK TABLE items")
        if how == "SWAP":
            proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)
        proxy.command("RELEASE p2 EPOCH " + epoch)
        assert rows(clients["clean"].ready("I"))[0] == ["t", "t"]
        if policy == "wait":
            ended(clients["locked"])
            ended(clients["listening"])
    if policy == "move_anyway":
        for name in ("locked", "listening"):
            said = [m.fields() for m in clients[name].query("SELECT 1") if m.kind == "N"]
            assert [(m["S"], m["C"]) for m in said] == [("WARNING", "01000")]
            assert "others went on" in said[0]["D"]
        check(clients, there.name)
    else:
        assert clients["temporary"].value("SELECT seven FROM mine") == "7"


def test_leases_that_end_at_two_proxies(make_proxy, pg, other, door):
    """Their mover is dead, and nobody tells the one when the sessions of the other have what they had:
    it waits a moment for them when the fence has been lifted."""
    proxies = [make_proxy({"pg": pg, "other": other}, {"p2": "pg"}, name=name, pool_size=12,
                          pool_mode=mode)
               for name, mode in (("proxy", "session"), ("rivals", "transaction"))]
    clients = sessions(proxies[0])
    clients["locked"].query("PREPARE p AS SELECT count(*) FROM items")
    clients["listening"].query("PREPARE p AS SELECT count(*) FROM items")
    with proxies[1].wire("p2") as rival, pg.connect("p2") as slow, \
            pg.connect("postgres", autocommit=True) as look:
        rival.query("SELECT 1")
        for proxy in proxies:
            proxy.command("PREPARE SWAP p2 TO other SEAL")
        epochs = [proxy.hold("p2", "LEASE 60s")["epoch"] for proxy in proxies]
        for proxy, epoch in zip(proxies, epochs):
            proxy.command("SEAL p2 EPOCH " + epoch)
        slow.execute("LOCK TABLE items")
        door("false")
        rival.send(query("SELECT pg_try_advisory_lock(42); NOTIFY news, 'first'"))
        with proxies[0].console() as one, proxies[1].console() as two:
            for console, epoch in zip((one, two), epochs):
                console.send("RENEW p2 EPOCH %s LEASE 1s" % epoch)
            for console in (one, two):
                console.result()
        wait_for(lambda: all("was not renewed" in proxy.log() for proxy in proxies), 10 * SLOW, "the ends")
        await_refusal(proxies[0])
        door("true")
        wait_for(lambda: look.execute(BLOCKED).fetchall(), 20 * SLOW, "one to come back")
        assert rival.silent(0.4)
        slow.rollback()
        assert rows(rival.ready("I"))[0] == ["f"]
        assert heard(clients["listening"], "first") == ["first"]
    check(clients, "pg")


# ---- RELOAD ----

def reload(proxy):
    proxy.write()
    proxy.command("RELOAD")


@pytest.mark.parametrize("sealed", [False, True])
def test_reload_without_the_database(proxy, pg, sealed):
    """Who waits is told that it is gone; the others go on with what they have, or are told, too."""
    clients = sessions(proxy)
    before = pids(pg)
    epoch = hold(proxy, sealed)
    clients["clean"].send(query("SELECT 1"))
    entry = proxy.databases.pop("p2")
    reload(proxy)
    ended(clients.pop("clean"), "3D000")
    assert proxy.held()["state"] == "held"
    proxy.command("RELEASE p2 EPOCH " + epoch)
    if sealed:
        for client in clients.values():
            ended(client, "3D000")
        wait_for(lambda: not pids(pg) & before, 10 * SLOW, "the end of the server processes")
        assert not proxy.command("SHOW SEALED")
    proxy.databases["p2"] = entry
    reload(proxy)
    clients["clean"] = proxy.wire("p2")
    if sealed:
        assert clients["clean"].value("SELECT pg_try_advisory_lock(42)") == "t"
    else:
        check(clients, "pg")


def test_reload_without_the_database_in_a_drain(pooled):
    """A transaction goes on to its end; who waits is told."""
    with pooled.wire("p2") as busy, pooled.wire("p2") as waits:
        busy.query("BEGIN")
        pooled.command("HOLD p2 LEASE 60s NOWAIT")
        waits.send(query("SELECT 1"))
        wait_for(lambda: pooled.held()["held"] == "1", 10 * SLOW, "the request")
        del pooled.databases["p2"]
        reload(pooled)
        ended(waits, "3D000")
        assert busy.value("SELECT 1") == "1"
        busy.query("COMMIT")
        wait_for(lambda: pooled.held()["state"] == "held", 10 * SLOW, "the drain")
        busy.send(query("SELECT 1"))
        ended(busy, "3D000")
    pooled.stop()
    pooled.start()
    assert pooled.held()["state"] == "held"
    pooled.command("RELEASE p2")
    assert [row for row in pooled.command("SHOW HOLDS") if row["database"] == "p2"] == [] or \
        pooled.held()["state"] == "open"


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("what", ["server", "port", "and back"])
def test_reload_to_another_server(proxy, pg, other, sealed, what):
    """As after a swap."""
    clients = sessions(proxy)
    before = pids(pg)
    epoch = hold(proxy, sealed)
    if what == "port":
        proxy.servers["pg"]["port"] = other.port
    else:
        proxy.databases["p2"] = {"server": "other"}
    reload(proxy)
    if what == "and back":
        wait_for(lambda: proxy.held()["sessions_left"] == "0", 10 * SLOW, "the claims")
        proxy.databases["p2"] = {"server": "pg"}
        reload(proxy)
    clients["temporary"].send(query("SELECT seven FROM mine"))
    assert clients["temporary"].silent()
    proxy.command("RELEASE p2 EPOCH " + epoch)
    assert rows(clients["temporary"].ready("I")) == [["7"]]
    target = "pg" if what == "and back" else "other"
    check(clients, target)
    proxy.command("CANCEL SWAP p2")
    if target == "other":
        wait_for(lambda: not pids(pg) & before, 10 * SLOW, "the end of the old server processes")
    else:
        wait_for(lambda: not pids(other), 10 * SLOW, "the end of the server processes at the other")


@pytest.mark.parametrize("sealed", [False, True])
def test_swap_and_back(proxy, pg, other, sealed):
    """Nothing is left at the other server, no lock either."""
    clients = sessions(proxy)
    epoch = hold(proxy, sealed)
    for target in ("other", "pg"):
        proxy.command("SWAP p2 TO %s EPOCH %s FORCE SESSIONS" % (target, epoch))
    proxy.command("RELEASE p2 EPOCH " + epoch)
    check(clients, "pg")
    wait_for(lambda: not pids(other), 10 * SLOW, "the end of the server processes at the other")


@pytest.mark.parametrize("sealed", [False, True])
def test_reload_to_transaction_pooling(proxy, sealed):
    """Sessions that there are stay sessions."""
    clients = sessions(proxy)
    epoch = hold(proxy, sealed)
    proxy.settings["pool_mode"] = "transaction"
    reload(proxy)
    proxy.command("RELEASE p2 EPOCH " + epoch)
    check(clients, "pg")


@pytest.mark.parametrize("sealed", [False, True])
def test_reload_without_the_user(proxy, sealed):
    """Who is there stays; nobody comes."""
    clients = sessions(proxy)
    epoch = hold(proxy, sealed)
    del proxy.secrets["app"]
    reload(proxy)
    with pytest.raises(psycopg.OperationalError):
        proxy.connect("p2").close()
    proxy.command("RELEASE p2 EPOCH " + epoch)
    check(clients, "pg")
