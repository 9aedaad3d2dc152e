# SPDX-License-Identifier: PostgreSQL
"""/metrics, /healthz and /readyz, and the dashboard that is made from them."""
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest

import exposition
import pgwire
from certs import Authority, TlsConn, context, give_to_server
from pgwire import SYNC, bind, execute, parse, query, wait_for
from servers import SLOW, free_port
from servers import start as start_process
from service import listen_tcp, start

HERE = os.path.dirname(__file__)
SOURCE = os.path.dirname(os.path.dirname(HERE))
PROMTOOL = os.path.join(os.environ.get("PGSHUNT_MONITORING", "/"), "usr/bin/promtool")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=30 * SLOW)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def get(place, path="/metrics", method="GET", **headers):
    """Status, body and headers."""
    conn = UnixConnection(place) if isinstance(place, str) else \
        http.client.HTTPConnection("127.0.0.1", place, timeout=30 * SLOW)
    try:
        conn.request(method, path, headers=headers)
        answer = conn.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        conn.close()


def scrape(place, openmetrics=False):
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    status, text, headers = get(place, Accept=accept if openmetrics else "*/*")
    assert status == 200
    assert headers["Content-Type"].startswith(
        "application/openmetrics-text; version=1.0.0" if openmetrics
        else "text/plain; version=0.0.4")
    return exposition.parse(text, openmetrics)


def with_page(make_proxy, **settings):
    """A proxy that answers over HTTP at .web."""
    proxy = make_proxy(start=False, **settings)
    proxy.web = free_port()
    proxy.settings.update(metrics_addresses=["127.0.0.1"], metrics_port=proxy.web)
    proxy.write()
    return proxy.start()


@pytest.fixture
def proxy(make_proxy):
    return with_page(make_proxy)


def test_off_by_default(make_proxy):
    proxy = make_proxy()
    values = {row["key"]: row["value"] for row in proxy.command("SHOW CONFIG")}
    assert values["proxy.metrics_addresses"] == values["proxy.metrics_socket"] == ""
    with pytest.raises(ConnectionRefusedError):
        get(int(values["proxy.metrics_port"]))


def declared():
    with open(os.path.join(SOURCE, "control", "metrics.def")) as text:
        return re.findall(r'^METRIC\(\w+, "(\w+)"', text.read(), re.M)


def test_every_metric_is_there(proxy):
    for openmetrics in (False, True):
        assert sorted(declared()) == sorted(scrape(proxy.web, openmetrics))


def test_what_is_counted(proxy):
    with proxy.wire() as conn, proxy.wire("p2") as other:
        for _ in range(10):
            conn.value("SELECT 1")
        conn.value("SELECT pg_sleep(0.02)")
        conn.query("SELECT 1/0")
        conn.send(pgwire.parse("SELECT 1", "s1") + pgwire.bind(name="s1") + pgwire.execute() +
                  pgwire.SYNC)
        conn.ready()
        other.query("BEGIN")
        with pytest.raises(pgwire.LoginError):
            proxy.wire("nosuch")
        found = scrape(proxy.web)
        assert found.keys() == scrape(proxy.web, True).keys()
        clients = found["pgshunt_client_connections"]
        assert clients.value(database="p1", state="idle") == 1
        assert clients.value(database="p2", state="active") == 1
        servers = found["pgshunt_server_connections"]
        assert servers.value(database="p2", state="active") == 1
        assert sum(servers.values(database="p1").values()) == 1
        times = found["pgshunt_query_duration_seconds"]
        count = times.samples["pgshunt_query_duration_seconds_count", (("database", "p1"),)]
        assert count == 13
        buckets = {dict(key)["le"]: value for key, value in
                   times.values(database="p1").items() if dict(key).get("le")}
        assert buckets["0.016384"] <= 12, "the long one is not among the short ones"
        errors = found["pgshunt_errors_total"]
        assert errors.value(database="p1", **{"class": "22"}, origin="server") == 1
        assert errors.value(database="", **{"class": "3D"}, origin="proxy") == 1
        assert found["pgshunt_client_logins_total"].value(database="p1") == 1
        assert found["pgshunt_prepared_statements"].value(database="p1", side="client") == 1
        assert found["pgshunt_client_received_bytes_total"].value(database="p1") > 100
        assert found["pgshunt_ready"].value() == found["pgshunt_scrape_complete"].value() == 1
        assert found["pgshunt_client_connections_accepted_total"].value() >= 3
        assert len(found["pgshunt_worker_busy_ratio"].samples) == 2
        assert sum(found["pgshunt_worker_client_connections"].samples.values()) == 2
        assert found["process_open_fds"].value() > 5
        assert found["process_resident_memory_bytes"].value() > 1 << 20


def test_holds(proxy):
    with proxy.wire() as idle, proxy.wire("p2") as busy, proxy.wire("p2") as waiting:
        idle.value("SELECT 1")
        busy.query("BEGIN")
        waiting.value("SELECT 1")
        before = scrape(proxy.web)["pgshunt_route_epoch"].value(database="p2")
        began = time.monotonic()
        proxy.hold("p2", "LEASE 60s DRAIN 60s NOWAIT")
        waiting.send(query("SELECT 'held'"))
        wait_for(lambda: scrape(proxy.web)["pgshunt_held_requests"].value(database="p2") == 1,
                 20 * SLOW, "a held request")
        found = scrape(proxy.web)
        state = found["pgshunt_hold_state"]
        assert state.value(database="p2", state="draining") == 1
        assert state.value(database="p2", state="open") == 0
        assert state.value(database="p1", state="open") == 1
        assert found["pgshunt_hold_blocking_clients"].value(database="p2") == 1
        assert found["pgshunt_held_bytes"].value(database="p2") > 10
        age = found["pgshunt_hold_age_seconds"].value(database="p2")
        assert 0 <= age <= time.monotonic() - began
        wait_for(lambda: scrape(proxy.web)["pgshunt_hold_age_seconds"].value(database="p2") > age, 10 * SLOW,
                 "its age to grow")
        assert 0 < found["pgshunt_hold_lease_remaining_seconds"].value(database="p2") <= 60
        assert found["pgshunt_hold_age_seconds"].values(database="p1") == {}
        assert found["pgshunt_client_connections"].value(database="p2", state="held") == 1
        assert found["pgshunt_route_epoch"].value(database="p2") > before
        assert found["pgshunt_route_info"].value(database="p2", server="pg") == 1
        busy.query("COMMIT")
        proxy.command("RELEASE p2")
        assert waiting.value is not None and waiting.ready()
    found = scrape(proxy.web)
    assert found["pgshunt_held_requests"].value(database="p2") == 0
    assert found["pgshunt_client_wait_longest_seconds"].value(database="p2") == 0
    wait = found["pgshunt_client_wait_duration_seconds"]
    assert wait.samples["pgshunt_client_wait_duration_seconds_sum", (("database", "p2"),)] > 0


def test_cancels(proxy):
    with proxy.wire() as conn:
        conn.send(query("SELECT pg_sleep(60)"))
        wait_for(lambda: proxy.command("SHOW SERVERS"), 10 * SLOW, "a server")
        wait_for(lambda: conn.cancel() or not conn.silent(0.2), 30 * SLOW, "the end of the query")
        conn.ready()
        pgwire.cancel(proxy.host, proxy.port, conn.key[0], b"none")
    found = scrape(proxy.web)
    assert found["pgshunt_cancel_requests_total"].value() >= 2
    assert found["pgshunt_cancel_requests_invalid_total"].value() == 1
    assert found["pgshunt_server_cancel_requests_total"].value() >= 1


# --- values: known events, counted by their clients --------------------------------------------------

def counted_errors(found):
    """(database, class, origin) -> count, without those that are 0."""
    return {tuple(dict(key)[name] for name in ("database", "class", "origin")): value
            for key, value in found["pgshunt_errors_total"].values().items() if value}


def histogram(found, name, database):
    """Count, sum, and how many are in the buckets up to each bound."""
    family, key = found[name], (("database", database),)
    buckets = {float(dict(labels)["le"]): value for (sample, labels), value in family.samples.items()
               if sample == name + "_bucket" and ("database", database) in labels}
    return family.samples[name + "_count", key], family.samples[name + "_sum", key], buckets


RAISE = "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '%s'; END $$"


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_errors_are_those_that_clients_got(make_proxy, mode):
    """Every class of SQLSTATE, in every way that a client can get one; counted by the clients."""
    proxy = with_page(make_proxy, pool_mode=mode, auth_type="scram-sha-256", hold_max_requests=1,
                      hold_wait_timeout="300ms")
    expected = {}

    def saw(messages, database, origin):
        for fields in pgwire.errors(messages):
            name = fields["C"][:2]  # PostgreSQL has no class ZZ
            key = database, name if name != "ZZ" else "other", origin
            expected[key] = expected.get(key, 0) + 1
        return messages
    classes = ["00", "02", "08", "0A", "22", "23", "25", "40", "42", "53", "57", "P0", "XX", "ZZ"]
    with proxy.wire("p1", "u_scram", "scram secret") as conn, \
            proxy.wire("p2", "u_scram", "scram secret") as other:
        for number, name in enumerate(classes):
            for _ in range(number % 3 + 1):
                saw(conn.query(RAISE % (name + "999")), "p1", "server")
        assert expected["p1", "02", "server"] == 2 and len(expected) == len(classes)
        conn.query("DO $$ BEGIN RAISE WARNING 'no error' USING ERRCODE = 'AA000'; END $$")
        # A pipeline in which what follows the error is skipped, a COPY, a function call.
        conn.send(parse("SELECT 1/0"), bind(), execute(), parse("SELECT 1/0"), bind(), execute(), SYNC)
        assert len(pgwire.errors(saw(conn.ready(), "p1", "server"))) == 1
        conn.send(query("COPY items FROM STDIN"), pgwire.copy_data(b"no number\tx\n"), pgwire.COPY_DONE)
        saw(conn.ready(), "p1", "server")
        conn.send(pgwire.function_call(177, [b"1"]))
        saw(conn.ready(), "p1", "server")
        other.send(query("SELECT pg_terminate_backend(pg_backend_pid())"))
        assert pgwire.errors(saw(other.rest(), "p2", "server"))[0]["C"] == "57P01"
    with pytest.raises(pgwire.LoginError):
        proxy.wire("p1", "u_scram", "wrong")
    expected["p1", "28", "proxy"] = 1
    for _ in range(2):
        with pytest.raises(pgwire.LoginError):
            proxy.wire("nosuch", "u_scram", "scram secret")
    expected["", "3D", "proxy"] = 2
    # Held: one beyond the bound, one that was held for too long, one that was cancelled.
    with proxy.wire("p2", "u_scram", "scram secret") as one, \
            proxy.wire("p2", "u_scram", "scram secret") as two:
        proxy.hold("p2", "LEASE 60s")
        one.send(query("SELECT 1"))
        wait_for(lambda: proxy.held()["held"] == "1", 20 * SLOW, "a held request")
        assert pgwire.errors(saw(two.query("SELECT 2"), "p2", "proxy"))[0]["C"] == "53300"
        assert pgwire.errors(saw(one.ready(), "p2", "proxy"))[0]["C"] == "57P03"
        proxy.command("SET hold_wait_timeout = '1h'")
        one.send(query("SELECT 3"))
        wait_for(lambda: proxy.held()["held"] == "1", 20 * SLOW, "a held request")
        one.cancel()
        assert pgwire.errors(saw(one.ready(), "p2", "proxy"))[0]["C"] == "57014"
        proxy.command("RELEASE p2")
        two.send(pgwire.message("!"))
        saw(two.rest(), "p2", "proxy")
    assert expected["p2", "57", "proxy"] == 2
    for openmetrics in (False, True):
        assert counted_errors(scrape(proxy.web, openmetrics)) == expected
    shown = {}
    for row in proxy.command("SHOW ERRORS"):
        for origin in ("server", "proxy"):
            if int(row["from_" + origin]):
                name = row["sqlstate"][:2]
                key = row["database"] or "", name if name != "ZZ" else "other", origin
                shown[key] = shown.get(key, 0) + int(row["from_" + origin])
    assert shown == expected


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_durations_are_those_that_clients_measured(make_proxy, mode):
    """Counts are exact.  What the proxy measured lies within what the client did: not below what the
    server slept, not above the time from sending to reading."""
    proxy = with_page(make_proxy, pool_mode=mode)
    slept = [0, 0, 0.003, 0.01, 0.03, 0.03, 0.1, 0.3]
    longest, queries, blocks, block_time = [], 0, 0, 0
    with proxy.wire() as conn:
        before = scrape(proxy.web)
        for n, seconds in enumerate(slept):
            text = "SELECT pg_sleep(%s)" % seconds
            began = time.monotonic()
            conn.send(*([query(text)] if n % 2 else [parse(text), bind(), execute(), SYNC]))
            conn.ready("I")
            longest.append(time.monotonic() - began)
        queries += len(slept)
        for seconds in (0.02, 0.05):  # the client's own time is the transaction's, not the queries'
            began = time.monotonic()
            conn.query("BEGIN")
            time.sleep(seconds)
            conn.query("SELECT 1/0")
            conn.query("ROLLBACK")
            block_time += time.monotonic() - began
            queries, blocks = queries + 3, blocks + 1
        after = scrape(proxy.web)
    for name, events, least, most, floor in (
            ("query", queries, sum(slept), sum(longest) + block_time - 0.07, slept),
            ("transaction", len(slept) + blocks, sum(slept) + 0.07, sum(longest) + block_time,
             slept + [0.02, 0.05])):
        name = "pgshunt_%s_duration_seconds" % name
        count, total, buckets = histogram(after, name, "p1")
        count0, total0, buckets0 = histogram(before, name, "p1")
        assert count - count0 == events, name
        assert least <= total - total0 <= most + 1e-5, (name, least, total - total0, most)
        assert buckets[float("inf")] - buckets0[float("inf")] == events
        for bound, value in buckets.items():
            # Nothing is in a bucket below what it took at least, nor missing from one above its most.
            value -= buckets0[bound]
            assert value <= sum(1 for seconds in floor if seconds < bound) + events - len(floor), (name, bound)
            assert value >= sum(1 for seconds in longest if seconds <= bound), (name, bound)
    # The same figures as the console's.
    stats = [row for row in proxy.command("SHOW STATS_TOTALS") if row["database"] == "p1"][0]
    final = scrape(proxy.web)
    for name, column in (("query", "query"), ("transaction", "xact")):
        count, total, _ = histogram(final, "pgshunt_%s_duration_seconds" % name, "p1")
        assert int(stats[column + "_count"]) == count, name
        assert abs(int(stats[column + "_time"]) - total * 1e6) <= 1, name


def test_waits_are_those_of_clients(make_proxy):
    """One server for several clients, and a hold: who waited, and for how long."""
    proxy = with_page(make_proxy, pool_size=1)
    name = "pgshunt_client_wait_duration_seconds"
    with proxy.wire() as busy, proxy.wire() as one, proxy.wire() as two:
        busy.value("SELECT 1")
        before = histogram(scrape(proxy.web), name, "p1")
        busy.query("BEGIN")
        sent = time.monotonic()
        one.send(query("SELECT 1"))
        two.send(query("SELECT 2"))
        wait_for(lambda: scrape(proxy.web)["pgshunt_client_connections"].value(
            database="p1", state="waiting") == 2, 20 * SLOW, "two that wait")
        seen = time.monotonic()
        time.sleep(0.15)
        asked = time.monotonic()
        longest = scrape(proxy.web)["pgshunt_client_wait_longest_seconds"].value(database="p1")
        assert asked - seen <= longest <= time.monotonic() - sent
        asked = time.monotonic()
        busy.query("COMMIT")
        one.ready()
        two.ready()
        ended = time.monotonic()
        count, total, buckets = (histogram(scrape(proxy.web), name, "p1"))
        assert count - before[0] == 3
        assert 2 * (asked - seen) <= total - before[1] <= 2 * (ended - sent)
        for bound, value in buckets.items():
            if bound < asked - seen:
                assert value - before[2][bound] <= 1, bound
        assert scrape(proxy.web)["pgshunt_client_wait_longest_seconds"].value(database="p1") == 0
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        before = histogram(scrape(proxy.web), name, "p2")
        proxy.hold("p2", "LEASE 60s")
        sent = time.monotonic()
        conn.send(query("SELECT 1"))
        wait_for(lambda: proxy.held()["held"] == "1", 20 * SLOW, "a held request")
        seen = time.monotonic()
        time.sleep(0.1)
        asked = time.monotonic()
        proxy.command("RELEASE p2")
        conn.ready("I")
        ended = time.monotonic()
        count, total, _ = histogram(scrape(proxy.web), name, "p2")
        assert count - before[0] == 1 and asked - seen <= total - before[1] <= ended - sent


MS = 0.001  # what times are cut to


def test_hold_has_its_age_and_bytes(make_proxy):
    """Times lie between those that the test has seen, bytes and requests are those that it sent."""
    proxy = with_page(make_proxy, pool_size=6, hold_client_bytes="16kB")
    requests = [query("SELECT '%s'" % ("x" * n)) for n in (10, 500, 6000)]
    conns = [proxy.wire("p2") for _ in range(5)]
    for conn in conns:
        conn.value("SELECT 1")
    for conn in conns[3:]:
        conn.query("BEGIN")
    quiet = scrape(proxy.web)
    for metric in ("age_seconds", "lease_remaining_seconds", "blocking_clients"):
        assert quiet["pgshunt_hold_" + metric].samples == {}
    earliest = time.monotonic()
    proxy.hold("p2", "LEASE 60s DRAIN 60s NOWAIT")
    latest = time.monotonic()

    for number, request in enumerate(requests):
        sent = time.monotonic()
        if number == 0:
            first = sent
        conns[number].send(request)
        wait_for(lambda: scrape(proxy.web)["pgshunt_held_requests"].value(database="p2") == number + 1,
                 20 * SLOW, "a held request")
        if number == 0:
            first_seen = time.monotonic()
    time.sleep(0.1)
    began = time.monotonic()
    page = scrape(proxy.web)
    ended = time.monotonic()

    def value(metric):
        return page["pgshunt_" + metric].value(database="p2")
    assert began - latest - MS <= value("hold_age_seconds") <= ended - earliest
    assert 60 - (ended - earliest) - MS <= value("hold_lease_remaining_seconds") <= 60 - (began - latest)
    assert value("hold_blocking_clients") == 2
    assert value("held_requests") == 3
    assert value("held_bytes") == sum(map(len, requests))
    assert began - first_seen - MS <= value("held_oldest_seconds") <= ended - first
    assert sum(page["pgshunt_worker_buffer_bytes"].samples.values()) >= sum(map(len, requests))
    states = {dict(key)["state"]: number for key, number in page["pgshunt_client_connections"].values(
        database="p2").items()}
    assert {key: number for key, number in states.items() if number} == {"held": 3, "active": 2}
    # The oldest leaves: the next one is the oldest.
    conns[0].close()
    wait_for(lambda: scrape(proxy.web)["pgshunt_held_requests"].value(database="p2") == 2, 20 * SLOW, "its end")
    page = scrape(proxy.web)
    assert value("held_bytes") == sum(map(len, requests[1:]))
    assert value("held_oldest_seconds") <= time.monotonic() - first_seen
    for conn in conns[3:]:
        conn.query("COMMIT")
    wait_for(lambda: proxy.held()["state"] == "held", 20 * SLOW, "the drained hold")
    page = scrape(proxy.web)
    assert value("hold_blocking_clients") == 0
    assert page["pgshunt_hold_state"].value(database="p2", state="held") == 1
    epoch = value("route_epoch")
    proxy.command("RELEASE p2")
    for conn in conns[1:3]:
        conn.ready("I")
    page = scrape(proxy.web)
    for metric in ("age_seconds", "lease_remaining_seconds", "blocking_clients"):
        assert page["pgshunt_hold_" + metric].samples == {}
    assert value("held_requests") == value("held_bytes") == value("held_oldest_seconds") == 0
    assert value("route_epoch") >= epoch
    began = time.monotonic()
    proxy.hold("p2", "LEASE NONE")
    page = scrape(proxy.web)
    assert page["pgshunt_hold_lease_remaining_seconds"].samples == {}
    assert 0 <= value("hold_age_seconds") <= time.monotonic() - began
    proxy.command("RELEASE p2")
    for conn in conns[1:]:
        conn.close()


def test_bytes_statements_and_connections(make_proxy):
    """Differences between two pages, of a known exchange."""
    proxy = with_page(make_proxy, log_level="info")
    with proxy.wire() as conn, proxy.wire("p2"):
        conn.value("SELECT 1")
        conn.query("SELECT pg_sleep(0)")
        before = scrape(proxy.web)
        parts = [parse("SELECT $1::text", "s"), bind(["x" * 70000], "s"), execute(), SYNC,
                 bind(["y"], "s"), execute(), SYNC, query("SELECT repeat('z', 100000)"),
                 parse("SELECT 2", "t"), SYNC]
        conn.send(*parts)
        got = sum(len(msg.body) + 5 for _ in range(4) for msg in conn.ready("I"))
        after = scrape(proxy.web)

        def grown(name, **labels):
            return after["pgshunt_" + name].value(**labels) - before["pgshunt_" + name].value(**labels)
        assert grown("client_received_bytes_total", database="p1") == sum(map(len, parts))
        assert grown("client_sent_bytes_total", database="p1") == got
        assert grown("client_received_bytes_total", database="p2") == 0
        assert grown("statements_parsed_total", database="p1", side="client") == 2
        assert grown("statements_bound_total", database="p1") == 2
        assert after["pgshunt_prepared_statements"].value(database="p1", side="client") == 2
        assert grown("client_connections_accepted_total") == 0
        # Connections: three that come, one of which fails to log in, and a server that ends.
        before = scrape(proxy.web)
        proxy.wire().close()
        with pytest.raises(pgwire.LoginError):
            proxy.wire("nosuch")
        with proxy.wire() as second:
            conn.query("BEGIN")
            second.query("BEGIN")  # needs a second server
            after = scrape(proxy.web)
            assert grown("client_connections_accepted_total") == 3
            assert grown("client_logins_total", database="p1") == 2
            assert grown("server_connections_opened_total") == 1
            assert grown("server_connection_failures_total") == 0
            assert after["pgshunt_server_connections"].value(database="p1", state="active") == 2
            assert after["pgshunt_client_connections_open"].value() == 3
            assert sum(after["pgshunt_worker_client_connections"].samples.values()) == 3
            assert sum(after["pgshunt_worker_server_connections"].samples.values()) == 3  # of p2 one
            assert abs(after["process_open_fds"].value() -
                       len(os.listdir("/proc/%d/fd" % proxy.process.pid))) <= 3
    wait_for(lambda: scrape(proxy.web)["pgshunt_client_connections_open"].value() == 0, 20 * SLOW, "their end")
    # The log has as many lines of each level as the page says; a page writes none.
    page = scrape(proxy.web)
    for level in ("ERROR", "WARNING", "INFO", "DEBUG"):
        lines = len(re.findall(r"^\S+Z \[\d+\] %s " % level, proxy.log(), re.M))
        assert page["pgshunt_log_messages_total"].value(level=level.lower()) == lines, level
    assert page["process_resident_memory_bytes"].value() < 2 * proxy.memory()


def test_servers_that_cannot_be_reached_are_counted(make_proxy, pg):
    proxy = with_page(make_proxy, servers={"pg": pg, "gone": {"host": "127.0.0.1", "port": free_port()}},
                      databases={"p1": "pg", "p2": "gone"})
    with pytest.raises(pgwire.LoginError):
        proxy.wire("p2")
    proxy.wire("p1").close()
    page = scrape(proxy.web)
    failed = len(re.findall(r"server gone p2/app: .*closing because", proxy.log()))
    assert failed >= 1
    assert page["pgshunt_server_connection_failures_total"].value() == failed


# --- TLS ------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def ca(folder):
    authority = Authority(folder, "metrics-ca")
    authority.server = authority.issue("proxy", "/CN=localhost", "DNS:localhost,IP:127.0.0.1")
    return authority


def test_encrypted_connections_are_counted(make_proxy, make_cluster, ca):
    own = make_cluster("encrypted")
    for name in ("p1", "p2"):
        own.sql("CREATE DATABASE " + name)
    give_to_server(own, *ca.server)
    proxy = with_page(make_proxy, servers={"pg": own}, client_tls_sslmode="allow",
                      client_tls_cert_file=ca.server[0], client_tls_key_file=ca.server[1],
                      server_tls_sslmode="require", workers=1)

    def counts():
        page = scrape(proxy.web)
        return ({(dict(key)["side"], dict(key)["version"]): number for key, number in
                 page["pgshunt_tls_connections"].values().items() if number},
                {dict(key)["resumed"]: number for key, number in
                 page["pgshunt_tls_handshakes_total"].values().items()},
                page["pgshunt_tls_handshake_failures_total"].value())
    assert counts() == ({}, {"true": 0, "false": 0}, 0)
    old, new = context(version=ssl.TLSVersion.TLSv1_2), context(version=ssl.TLSVersion.TLSv1_3)
    conns = [TlsConn(proxy.host, proxy.port, ctx) for ctx in (old, new, new)]
    conns.append(TlsConn(proxy.host, proxy.port, direct=True))
    conns.append(pgwire.Conn(proxy.host, proxy.port))
    for conn in conns:
        conn.login("app", "p1")
        assert conn.value("SELECT 1") == "1"
    session = conns[1].sock.session
    assert counts() == ({("client", "1.2"): 1, ("client", "1.3"): 3, ("server", "1.3"): 1},
                        {"true": 0, "false": 4}, 0)
    conns[1].close()
    with TlsConn(proxy.host, proxy.port, new, session=session) as again:
        again.login("app", "p1")
        assert again.sock.session_reused
        wait_for(lambda: counts()[0]["client", "1.3"] == 3, 20 * SLOW, "the end of one, and another one")
        assert counts()[1] == {"true": 1, "false": 4}
        # A client that finds the certificate wrong, one that speaks nonsense, one that leaves.
        with pytest.raises(ssl.SSLError):
            TlsConn(proxy.host, proxy.port, ssl.create_default_context())
        for junk in (b"\x16\x03\x01\x00\x05junk!", b"GET / HTTP/1.0\r\n\r\n"):
            with pgwire.Conn(proxy.host, proxy.port) as conn:
                conn.send(pgwire.untyped(pgwire.SSL_REQUEST.to_bytes(4, "big")))
                assert conn.recv_exact(1) == b"S"
                conn.send(junk)
                conn.rest()
        wait_for(lambda: counts()[2] == 3, 20 * SLOW, "three handshakes that failed")
        # In the clear after all: no handshake at all.
        with pgwire.Conn(proxy.host, proxy.port) as conn:
            conn.login("app", "p1")
        assert counts()[1:] == ({"true": 1, "false": 4}, 3)
    for conn in conns:
        conn.close()
    wait_for(lambda: not [key for key in counts()[0] if key[0] == "client"], 20 * SLOW, "their end")
    assert counts()[0] == {("server", "1.3"): 1}


def test_names_that_need_escaping(make_proxy, pg):
    name = 'a"b\\c,{d}=é'
    proxy = make_proxy(databases={"p1": "pg", name: {"server": "pg", "dbname": "p1"}}, start=False)
    proxy.web = os.path.join(proxy.folder, "metrics.sock")
    proxy.settings["metrics_socket"] = proxy.web
    proxy.write()
    proxy.start()
    with proxy.wire(name) as conn:
        conn.value("SELECT 1")
        for openmetrics in (False, True):
            found = scrape(proxy.web, openmetrics)
            assert found["pgshunt_client_logins_total"].value(database=name) == 1
    proxy.stop()
    assert not os.path.exists(proxy.web)


def test_bounded(make_proxy, pg):
    """Of many databases only so many have series of their own; the others are one."""
    proxy = make_proxy(databases={"p1": "pg", "*": "pg"}, start=False, metrics_max_databases=2)
    proxy.web = free_port()
    proxy.settings.update(metrics_addresses=["127.0.0.1"], metrics_port=proxy.web)
    proxy.write()
    proxy.start()
    with proxy.wire("p1") as conn:
        conn.value("SELECT 1")
    scrape(proxy.web)
    for name in ("p2", "postgres", "template1"):
        with proxy.wire(name) as conn:
            conn.value("SELECT 1")
    found = scrape(proxy.web)
    logins = {dict(key)["database"]: value
              for key, value in found["pgshunt_client_logins_total"].values().items()}
    assert len(logins) == 3 and logins["p1"] == 1 and sum(logins.values()) == 4
    assert logins["(other)"] == 2 and found["pgshunt_databases_left_out"].value() == 2
    assert scrape(proxy.web)["pgshunt_client_logins_total"].value(database="(other)") == 2


def test_who_asks_nothing_gives_way(make_proxy, monkeypatch):
    """Connections that are opened and say nothing, or a letter at a time, take neither the descriptors from
    clients nor their place from who asks."""
    monkeypatch.setattr("proxy.start", lambda argv, *args, **kwargs: start_process(
        ["prlimit", "--nofile=200:200", *argv], *args, **kwargs))
    proxy = with_page(make_proxy)
    idle = []
    try:
        for n in range(400):
            idle.append(socket.create_connection(("127.0.0.1", proxy.web), 20))
            idle[-1].settimeout(20 * SLOW)
            if n % 2:
                idle[-1].sendall(b"GET /hea")
        for name in ("p1", "p2"):
            with proxy.wire(name) as conn:
                assert conn.value("SELECT 1") == "1"
        assert get(proxy.web, "/healthz")[0] == 200
        # The oldest are seen to end; who came last is still there.
        assert idle[0].recv(100) == b"" and idle[1].recv(100) == b""
        idle[-1].sendall(b"lthz HTTP/1.0\r\n\r\n")
        assert idle[-1].recv(100).startswith(b"HTTP/1.0 200 ")
    finally:
        for sock in idle:
            sock.close()
    assert len([line for line in proxy.log().splitlines() if "the older half of them is closed" in line]) > 2


def test_promtool(make_proxy):
    """Prometheus' own judgement, in addition to the reader of this suite, with a series of every kind."""
    name = 'a"b\\c,{d}=\u00e9'
    proxy = with_page(make_proxy, databases={"p1": "pg", name: {"server": "pg", "dbname": "p1"}})
    with proxy.wire() as conn, proxy.wire(name) as other:
        conn.query("SELECT 1/0")
        other.query("SELECT 1")
        proxy.hold("p1", "LEASE 60s")
        conn.send(query("SELECT 1"))
        wait_for(lambda: proxy.held("p1")["held"] == "1", 20 * SLOW, "a held request")
        status, text, _ = get(proxy.web)
        assert status == 200 and all(family.samples for family in exposition.parse(text).values())
        proxy.command("RELEASE p1")
        conn.ready("I")
    result = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True,
                            timeout=60)
    assert result.returncode == 0 and not result.stderr.strip(), result.stderr
    broken = text.replace("# TYPE pgshunt_ready gauge", "# TYPE pgshunt_ready nonsense")
    assert subprocess.run([PROMTOOL, "check", "metrics"], input=broken, capture_output=True, text=True,
                          timeout=60).returncode != 0


# --- the server itself --------------------------------------------------------------------------

def test_pages(proxy):
    assert get(proxy.web, "/nothing")[0] == 404
    assert get(proxy.web, "/metrics/../healthz")[0] == 404
    status, text, headers = get(proxy.web, "/metrics", "HEAD")
    assert (status, text) == (200, "") and headers["Content-Type"]
    assert get(proxy.web, "/metrics", "POST")[0] in (405, 501)
    assert get(proxy.web, "/metrics", **{"X-Long": "x" * 20000})[0] in (400, 413, 431)
    assert get(proxy.web, "/metrics?a=b")[0] == 200


def test_clients_that_behave_badly(proxy):
    """Nobody at this port can hurt the proxy."""
    for data in (b"", b"GET", b"\0\1\2\3\r\n\r\n", b"GET /metrics HTTP/1.1\r\n\r\n" * 50,
                 b"GET http://[bad/ HTTP/1.1\r\n\r\n", b"GET /%00%ff%zz HTTP/9.9\r\n\r\n",
                 pgwire.startup({"user": "app", "database": "p1"})):
        with socket.create_connection(("127.0.0.1", proxy.web), 30) as sock:
            sock.sendall(data)
    # Many at a time, some of which leave before their answer comes.
    threads = [threading.Thread(target=scrape, args=(proxy.web,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scrape(proxy.web)["pgshunt_ready"].value() == 1
    with proxy.wire() as conn:
        assert conn.value("SELECT 1") == "1"


def test_health(proxy):
    status, text, headers = get(proxy.web, "/healthz")
    assert status == 200 and headers["Content-Type"] == "application/json"
    assert json.loads(text) == {"healthy": True, "workers": 2, "workers_answered": 2}
    assert get(proxy.web, "/readyz")[:2] == (200, '{"ready": true, "reasons": []}\n')
    with proxy.console() as console:
        console("SUSPEND")
        status, text, _ = get(proxy.web, "/readyz")
        assert status == 503 and json.loads(text)["reasons"] == ["it is suspended"]
        assert get(proxy.web, "/healthz")[0] == 200  # at rest, but it answers
        console("RESUME")
    with proxy.wire() as busy:
        busy.query("BEGIN")
        proxy.process.send_signal(signal.SIGTERM)

        def unready():
            status, text, _ = get(proxy.web, "/readyz")
            return status == 503 and json.loads(text)["reasons"] == ["it is shutting down"]
        wait_for(unready, 20 * SLOW, "not ready")
        assert scrape(proxy.web)["pgshunt_ready"].value() == 0
        busy.query("COMMIT")
    wait_for(lambda: proxy.process.poll() is not None, 30 * SLOW, "the end")
    assert proxy.process.returncode == 0
    proxy.process = None


def test_port_in_use(make_proxy, pg):
    proxy = make_proxy(start=False, metrics_addresses=["127.0.0.1"], metrics_port=pg.port)
    proxy.start(wait=False)
    wait_for(lambda: proxy.process.poll() is not None, 30 * SLOW, "the end")
    assert proxy.process.returncode == 1 and str(pg.port) in proxy.log()
    proxy.process = None


def test_socket_passed_on(make_proxy):
    """A socket of the name "metrics" is for HTTP, not for clients."""
    with listen_tcp() as web, listen_tcp() as clients:
        proxy = start(make_proxy(start=False), [("metrics", web), ("postgres", clients)])
        found = scrape(web.getsockname()[1])
        assert found["pgshunt_build_info"].values()
        conn = pgwire.Conn("127.0.0.1", clients.getsockname()[1])
        conn.login("app", "p1")
        conn.close()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_takeover(make_proxy, kind):
    """The page is never gone, and comes from the process that serves."""
    proxy = make_proxy(start=False)
    proxy.web = free_port() if kind == "tcp" else os.path.join(proxy.folder, "metrics.sock")
    proxy.settings.update({"metrics_addresses": ["127.0.0.1"], "metrics_port": proxy.web}
                          if kind == "tcp" else {"metrics_socket": proxy.web})
    proxy.write()
    proxy.start()
    with proxy.wire() as stays:
        stays.value("SELECT 1")
        stays.query("BEGIN")
        started = scrape(proxy.web)["process_start_time_seconds"].value()
        former = proxy.takeover()
        for _ in range(20):
            assert scrape(proxy.web)["process_start_time_seconds"].value() != started
        stays.query("COMMIT")
    assert former.wait(30 * SLOW) == 0
    assert scrape(proxy.web)["pgshunt_ready"].value() == 1


# --- the dashboard ------------------------------------------------------------------------------

def expressions():
    """Every expression of it: panels, annotations, variables."""
    with open(os.path.join(SOURCE, "conf", "pgshunt.dashboard.json"), encoding="utf-8") as file:
        board = json.load(file)
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    for panel in board["panels"]:
        assert panel["type"] == "row" or panel["targets"], panel["title"]
        for target in panel.get("targets", ()):
            yield target["expr"]
    for annotation in board["annotations"]["list"]:
        yield annotation["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            assert variable["query"]["query"] == variable["definition"]
            yield variable["definition"]


def test_dashboard(proxy):
    """Every name that it uses is one of a metric, with labels that this metric has."""
    with proxy.wire() as conn:
        conn.query("SELECT 1/0")
        found = scrape(proxy.web)
    names, used = {}, set()
    for name, family in found.items():
        for sample, labels in family.samples:
            names.setdefault(sample, set()).update(label for label, _ in labels)
        if not family.samples:  # there is no hold now
            names[name] = {"database"}
    for expression in expressions():
        for name, labels in re.findall(r"\b((?:pgshunt|process)_\w+)(?:\{([^}]*)\})?", expression):
            assert name in names, "%s in %s" % (name, expression)
            used.add(name)
            for label in re.findall(r'(\w+)(?:=~|!~|!=|=)"', labels or ""):
                assert label in names[name] | {"instance", "job"}, "%s in %s" % (label, expression)
        for by in re.findall(r"by \(([^)]*)\)", expression):
            for label in by.split(", "):
                assert label in ("le", "instance") or any(
                    label in names[name] for name in names if name in expression), expression
        assert expression.count("(") == expression.count(")")
        assert expression.count("{") == expression.count("}")
    assert len(used) > 40


def test_dashboard_is_understood(tmp_path):
    """By Prometheus' own parser; the test above reads the names."""
    rules = [{"record": "r%d" % n, "expr": expression.replace("$__rate_interval", "1m")}
             for n, expression in enumerate(expressions()) if "label_values" not in expression]
    assert len(rules) > 40
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    result = subprocess.run([PROMTOOL, "check", "rules", str(path)], capture_output=True, text=True,
                            timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
