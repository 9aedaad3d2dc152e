# SPDX-License-Identifier: PostgreSQL
"""Bounds of what is held, each with its own error that keeps the connection; cancels; ends."""
import signal
import time

import pytest

import pgwire
from pgwire import SYNC, bind, errors, execute, kinds, parse, query, rows, wait_for
from servers import SLOW

pytestmark = pytest.mark.threads

# name -> (settings, the error)
LIMITS = {
    "time": ({"hold_wait_timeout": "400ms"}, "57P03"),
    "count": ({"hold_max_requests": 1}, "53300"),
    "bytes": ({"hold_max_bytes": "10kB", "hold_client_bytes": "100kB"}, "53400"),
}


def fill(proxy, case):
    """Brings the database to its limit, so that the next request is refused."""
    if case == "time":
        return None
    conn = proxy.wire("p2")
    conn.send(query("SELECT 'fills', '%s'" % ("x" * 9000)))
    wait_for(lambda: proxy.held()["held"] == "1", 10 * SLOW, "the held request")
    return conn


def check(conn, case, readies=1):
    """One ERROR, then ReadyForQuery as the protocol wants it."""
    messages = conn.ready("I")
    assert kinds(messages) == "EZ"
    failed = errors(messages)[0]
    assert failed["S"] == "ERROR" and failed["C"] == LIMITS[case][1], failed
    assert failed.get("H") or failed.get("D") or failed["M"]
    for _ in range(readies - 1):
        conn.ready("I")


@pytest.mark.parametrize("case", LIMITS)
@pytest.mark.parametrize("protocol", ["simple", "extended", "pipeline", "function"])
def test_limit(make_proxy, case, protocol):
    proxy = make_proxy(**LIMITS[case][0])
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        proxy.hold("p2", "LEASE 60s")
        filler = fill(proxy, case)
        text = "y" * 5000
        if protocol == "simple":
            conn.send(query("SELECT '%s'" % text))
            check(conn, case)
        elif protocol == "extended":
            conn.send(parse("SELECT $1"), bind([text]), execute(), SYNC)
            check(conn, case)
        elif protocol == "function":
            conn.send(pgwire.function_call(177, [b"1" * 3000, b"2" * 3000], [0, 0]))
            check(conn, case)
        else:
            conn.send(*[parse("SELECT $1") + bind([text]) + execute() + SYNC] * 3)
            for _ in range(3):
                check(conn, case)
        # The connection lives, and what was refused never ran.
        proxy.command("RELEASE p2")
        assert conn.value("SELECT 'alive'") == "alive"
        if filler:
            assert rows(filler.ready("I"))[0][0] == "fills"
            filler.close()


def test_refused_statement_leaves_no_prepared_statement(make_proxy):
    proxy = make_proxy(hold_wait_timeout="300ms")
    with proxy.wire("p2") as conn:
        proxy.hold("p2", "LEASE 60s")
        conn.send(parse("SELECT 1", "refused"), SYNC)
        check(conn, "time")
        proxy.command("RELEASE p2")
        conn.send(bind(name="refused"), execute(), SYNC)
        assert errors(conn.ready("I"))[0]["C"] == "26000"
        conn.send(parse("SELECT 2", "refused"), bind(name="refused"), execute(), SYNC)
        assert rows(conn.ready("I")) == [["2"]]


def test_extended_request_refused_before_its_sync_arrives(make_proxy):
    """ErrorResponse at once, everything up to Sync is thrown away, then ReadyForQuery."""
    proxy = make_proxy(hold_wait_timeout="300ms")
    with proxy.wire("p2") as conn:
        proxy.hold("p2", "LEASE 60s")
        conn.send(parse("SELECT 1"), bind())
        failed = conn.recv()
        assert failed.kind == "E" and failed.fields()["C"] == "57P03"
        conn.send(execute())
        assert conn.silent()
        proxy.command("RELEASE p2")
        assert conn.silent()
        conn.send(SYNC)
        assert kinds(conn.ready("I")) == "Z"
        assert conn.value("SELECT 2") == "2"


def test_large_request_waits_in_the_kernel(make_proxy):
    """Of one client only hold_client_bytes are read; the request goes on afterwards unharmed."""
    proxy = make_proxy(hold_client_bytes="16kB", hold_max_bytes="1MB")
    with proxy.wire("p2") as conn:
        proxy.hold("p2", "LEASE 60s")
        data = query("SELECT length('%s')" % ("z" * 100000))
        conn.send(data)
        wait_for(lambda: proxy.held()["held"] == "1", 10 * SLOW, "the held request")
        time.sleep(0.2)
        assert int(proxy.held()["held_bytes"]) <= 70000
        proxy.command("RELEASE p2")
        assert rows(conn.ready("I")) == [["100000"]]


def test_large_request_refused_in_the_middle(make_proxy):
    """The rest of it is thrown away as it comes."""
    proxy = make_proxy(hold_wait_timeout="300ms", hold_client_bytes="16kB")
    with proxy.wire("p2") as conn:
        proxy.hold("p2", "LEASE 60s")
        data = query("SELECT length('%s')" % ("z" * 3000000))
        conn.send(data[:500000])
        failed = conn.recv()
        assert failed.kind == "E" and failed.fields()["C"] == "57P03"
        conn.send(data[500000:])
        assert kinds(conn.ready("I")) == "Z"
        proxy.command("RELEASE p2")
        assert conn.value("SELECT 3") == "3"


def test_many_held_clients(make_proxy):
    proxy = make_proxy(hold_max_requests=150, log_level="info", pool_size=5)
    conns = [proxy.wire("p2") for _ in range(200)]
    proxy.hold("p2", "LEASE 60s")
    for n, conn in enumerate(conns):
        conn.send(query("SELECT %d" % n))
    wait_for(lambda: proxy.held()["held"] == "150", 20 * SLOW, "the held requests")
    time.sleep(0.3)
    assert proxy.held()["held"] == "150"
    proxy.command("RELEASE p2")
    refused = 0
    for n, conn in enumerate(conns):
        messages = conn.ready("I")
        if errors(messages):
            assert errors(messages)[0]["C"] == "53300"
            refused += 1
            assert conn.value("SELECT 1") == "1"
        else:
            assert rows(messages) == [[str(n)]]
    assert refused == 50
    assert proxy.held()["held"] == "0" and proxy.held()["held_bytes"] == "0"
    for conn in conns:
        conn.close()


@pytest.mark.parametrize("way", ["close", "terminate"])
def test_held_client_that_leaves(make_proxy, way):
    """Its request is dropped unsent, and its place is free again."""
    proxy = make_proxy(hold_max_requests=1)
    proxy.wire("p2").close()
    proxy.hold("p2", "LEASE 60s")
    for _ in range(2):
        conn = proxy.wire("p2")
        conn.send(query("INSERT INTO items VALUES (910001, 'never')"))
        wait_for(lambda: proxy.held()["held"] == "1", 10 * SLOW, "the held request")
        if way == "terminate":
            conn.send(pgwire.TERMINATE)
        conn.close()
        wait_for(lambda: proxy.held()["held"] == "0", 10 * SLOW, "its end")
    proxy.command("RELEASE p2")
    with proxy.wire("p2") as conn:
        assert conn.value("SELECT count(*) FROM items WHERE id = 910001") == "0"


def test_cancel_of_a_held_query(make_proxy):
    proxy = make_proxy()
    with proxy.wire("p2") as conn:
        proxy.hold("p2", "LEASE 60s")
        for request, sequence in ((query("INSERT INTO items VALUES (910002, 'never')"), "EZ"),
                                  (parse("INSERT INTO items VALUES (910003, 'never')") + bind() +
                                   execute() + SYNC, "EZ")):
            conn.send(request)
            wait_for(lambda: proxy.held()["held"] == "1", 10 * SLOW, "the held request")
            conn.cancel()
            messages = conn.ready("I")
            assert kinds(messages) == sequence and errors(messages)[0]["C"] == "57014"
            wait_for(lambda: proxy.held()["held"] == "0", 10 * SLOW, "the end of the request")
        proxy.command("RELEASE p2")
        assert conn.value("SELECT count(*) FROM items WHERE id IN (910002, 910003)") == "0"


def test_cancel_of_a_held_pipeline_hits_its_first_request(make_proxy):
    proxy = make_proxy()
    with proxy.wire("p2") as conn:
        proxy.hold("p2", "LEASE 60s")
        conn.send(query("SELECT 'first'"), query("SELECT 'second'"))
        wait_for(lambda: proxy.held()["held"] == "1", 10 * SLOW, "the held request")
        conn.cancel()
        messages = conn.ready("I")
        assert errors(messages)[0]["C"] == "57014"
        proxy.command("RELEASE p2")
        assert rows(conn.ready("I")) == [["second"]]


def test_cancel_of_a_draining_query(make_proxy, pg):
    """It reaches the server although the database is about to be held."""
    proxy = make_proxy()
    with proxy.wire("p2") as conn, proxy.console() as console:
        conn.send(query("SELECT pg_sleep(60)"))
        time.sleep(0.3)
        console.send("HOLD p2 DRAIN 50s")
        wait_for(lambda: proxy.held()["state"] == "draining", 10 * SLOW, "draining")
        conn.cancel()
        assert errors(conn.ready("I"))[0]["C"] == "57014"
        assert console.result()[0]["state"] == "held"


def test_cancel_of_an_idle_client_of_a_held_database(make_proxy):
    proxy = make_proxy()
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        proxy.hold("p2", "LEASE 60s")
        conn.cancel()
        assert conn.silent()
        proxy.command("RELEASE p2")
        assert conn.value("SELECT 2") == "2"


def test_shutdown_while_held(make_proxy):
    """Held requests never began: their clients are told that the proxy ends."""
    proxy = make_proxy(shutdown_timeout="2s")
    with proxy.wire("p2") as conn:
        proxy.hold("p2", "LEASE 60s")
        conn.send(query("INSERT INTO items VALUES (910004, 'never')"))
        wait_for(lambda: proxy.held()["held"] == "1", 10 * SLOW, "the held request")
        proxy.process.send_signal(signal.SIGTERM)
        failed = errors(conn.rest())
        assert not failed or failed[-1]["S"] == "FATAL"
    wait_for(lambda: proxy.process.poll() is not None, 30 * SLOW, "the end")
    assert proxy.process.returncode == 0
    proxy.process = None


def test_server_that_dies_while_held(make_proxy, pg):
    """Sessions that the fence ends are not the clients' business."""
    proxy = make_proxy()
    with proxy.wire("p2") as conn, proxy.wire("p2") as other:
        conn.value("SELECT 1")
        other.value("SELECT 1")
        proxy.hold("p2", "LEASE 60s")
        conn.send(query("SELECT 'unharmed'"))
        wait_for(lambda: proxy.held()["held"] == "1", 10 * SLOW, "the held request")
        for pid in pg.sessions("p2"):
            pg.sql("SELECT pg_terminate_backend(%d, 5000)" % pid)
        assert conn.silent() and other.silent(0.1)
        proxy.command("RELEASE p2")
        assert rows(conn.ready("I")) == [["unharmed"]]
        assert other.value("SELECT 1") == "1"
