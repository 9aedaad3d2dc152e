# SPDX-License-Identifier: PostgreSQL
"""Transaction pooling: the proxy asks a server whose a change of a parameter is, and something happens
exactly then.  The client has all that it is owed by then."""
import contextlib
import signal
import time

import pytest

from pgwire import SYNC, bind, errors, execute, parse, query, rows, wait_for
from servers import SLOW, Cluster, stopped, subfolder
from test_09_defaults import check, default_is

QUESTION = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT name FROM pg_catalog.pg_settings%' " \
           "AND state = 'active' AND wait_event_type = 'Lock'"


@pytest.fixture(scope="module")
def own(folder, templates):
    cluster = Cluster(subfolder(folder), "own").create(templates.get("own"))
    cluster.sql("CREATE DATABASE p1")
    cluster.sql("CREATE FUNCTION hidden(zone text) RETURNS text LANGUAGE sql AS "
                "$$ SELECT set_config('TimeZone', zone, false) $$; "
                "CREATE TABLE done (n serial); GRANT ALL ON done, done_n_seq TO PUBLIC", "p1")
    yield cluster
    cluster.stop()


@pytest.fixture
def proxy(own, make_proxy):
    default_is(own, "TimeZone", "UTC")
    own.sql("TRUNCATE done", "p1")
    return make_proxy({"own": own}, {"p1": "own"}, workers=1, pool_size=1, shutdown_timeout="60s")


@contextlib.contextmanager
def asked(cluster, client, text="SELECT 1"):
    """The client has got its answer, and its server the question, which waits."""
    with cluster.connect("p1") as lock:
        lock.execute("LOCK TABLE pg_catalog.pg_settings")
        client.query(text)
        found = []
        wait_for(lambda: found.extend(cluster.sql(QUESTION)) or found, 20 * SLOW, "the question")
        yield found[0][0]


ENDS = {"terminated": "SELECT pg_terminate_backend(%d)", "cancelled": "SELECT pg_cancel_backend(%d)"}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("whose", ["function", "reload"])
def test_no_answer(own, proxy, end, whose):
    """What the client has set it keeps, nobody else gets it, and a reload is seen by all."""
    with proxy.wire() as client, proxy.wire() as plain, proxy.wire(TimeZone="UTC") as asks:
        check([client, plain, asks], "TimeZone", "UTC")
        if whose == "reload":
            default_is(own, "TimeZone", "Asia/Tokyo")
        with asked(own, client, "SELECT hidden('Asia/Tokyo')" if whose == "function" else "SELECT 1") as pid:
            assert client.params["TimeZone"] == "Asia/Tokyo"
            own.sql(ENDS[end] % pid)
            assert client.silent()
        for _ in range(2):
            check([client], "TimeZone", "Asia/Tokyo")
            check([plain], "TimeZone", "Asia/Tokyo" if whose == "reload" else "UTC")
            check([asks], "TimeZone", "UTC")
        default_is(own, "TimeZone", "Asia/Kolkata")
        for _ in range(2):
            check([plain], "TimeZone", "Asia/Kolkata")
            check([asks], "TimeZone", "UTC")
            if whose == "function":
                check([client], "TimeZone", "Asia/Tokyo")
        assert proxy.command("SHOW POOLS")


@pytest.mark.parametrize("request_waits", [False, True])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("who", ["plain", "asks", "sets", "resets"])
def test_no_answer_after_a_reload(own, proxy, who, end, request_waits):
    """Later ones reach a client that has never asked for a value, or has taken that back; one that has keeps
    what it asked for."""
    own.sql("CREATE OR REPLACE FUNCTION resets() RETURNS int LANGUAGE sql AS "
            "$$ RESET TimeZone; SELECT 1 $$", "p1")
    with proxy.wire() as plain, proxy.wire(TimeZone="UTC") as asks, proxy.wire() as another:
        client = {"plain": plain, "asks": asks}.get(who, another)
        check([plain, asks, another], "TimeZone", "UTC")
        text = "SELECT 1"
        if who == "sets":
            text = "SELECT hidden('Europe/Paris')"
        elif who == "resets":
            check([client], "TimeZone", "UTC")
            client.query("SET TimeZone = 'Europe/Paris'")
            text = "SELECT resets()"
        else:
            default_is(own, "TimeZone", "Asia/Tokyo")
        with asked(own, client, text) as pid:
            if request_waits:
                client.send(query("SHOW TimeZone"))
            own.sql(ENDS[end] % pid)
        if who in ("sets", "resets"):
            default_is(own, "TimeZone", "Asia/Tokyo")
        kept = {"plain": "Asia/Tokyo", "asks": "UTC", "sets": "Europe/Paris", "resets": "UTC"}
        if request_waits:
            assert rows(client.ready("I")) == [[kept[who]]]
        for value in ("Asia/Tokyo", "Asia/Kolkata"):
            default_is(own, "TimeZone", value)
            for _ in range(2):
                check([client], "TimeZone", {"asks": "UTC", "sets": "Europe/Paris"}.get(who, value))
                check([plain], "TimeZone", value)
                check([asks], "TimeZone", "UTC")


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("how", ["simple", "extended", "part"])
def test_a_request_behind_it(own, proxy, end, how):
    """It is executed, once."""
    text = "INSERT INTO done DEFAULT VALUES"
    request = query(text) if how != "extended" else parse(text) + bind() + execute() + SYNC
    with proxy.wire() as client:
        with asked(own, client, "SELECT hidden('Asia/Tokyo')") as pid:
            client.send(request[:7] if how == "part" else request)
            assert client.silent()
            own.sql(ENDS[end] % pid)
        if how == "part":
            assert client.silent()
            client.send(request[7:])
        assert not errors(client.ready("I"))
        assert client.value("SELECT count(*) FROM done") == "1"
        check([client], "TimeZone", "Asia/Tokyo")


@pytest.mark.parametrize("end", [*ENDS, "answered"])
def test_the_client_leaves(own, proxy, end):
    with proxy.wire() as plain:
        with proxy.wire() as client:
            with asked(own, client, "SELECT hidden('Asia/Tokyo')") as pid:
                client.close()
                plain.send(query("SHOW TimeZone"))
                assert plain.silent()
                if end != "answered":
                    own.sql(ENDS[end] % pid)
                    if end == "terminated":
                        assert rows(plain.ready("I")) == [["UTC"]]
            if end != "terminated":
                assert rows(plain.ready("I")) == [["UTC"]]
        check([plain], "TimeZone", "UTC")
        assert len([row for row in proxy.command("SHOW SERVERS") if row["database"] == "p1"]) == 1


@pytest.mark.parametrize("waits", [False, True])
def test_the_client_cancels(own, proxy, waits):
    """Its request that waits behind the question, if there is one; never the next one."""
    with proxy.wire() as client:
        with asked(own, client, "SELECT hidden('Asia/Tokyo')"):
            if waits:
                client.send(query("SELECT 1"))
                assert client.silent()
            client.cancel()
            if waits:
                assert errors(client.ready("I"))[0]["C"] == "57014"
            else:
                assert client.silent()
        check([client], "TimeZone", "Asia/Tokyo")


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("policy", ["abort", "cancel", "keep", "terminate"])
def test_in_a_drain(own, proxy, policy, waits):
    """A server that does not answer is a blocker; its client is at its safe point, and stays."""
    with proxy.wire() as client:
        with asked(own, client, "SELECT hidden('Asia/Tokyo')"):
            with proxy.console() as console:
                console.send("HOLD p1 LEASE 60s DRAIN 500ms POLICY " + policy)
                if waits:
                    client.send(query("SHOW TimeZone"))
                messages = console.conn.ready()
            if policy == "terminate":
                assert not errors(messages)
            else:
                assert errors(messages)[0]["C"] == "55P03"
        assert client.silent() or (policy != "terminate" and waits)
        if policy == "terminate":
            proxy.command("RELEASE p1")
        if waits:
            assert rows(client.ready("I")) == [["Asia/Tokyo"]]
        check([client], "TimeZone", "Asia/Tokyo")


def test_answered_in_a_drain(own, proxy):
    with proxy.wire() as client, proxy.console() as console:
        with asked(own, client, "SELECT hidden('Asia/Tokyo')"):
            console.send("HOLD p1 LEASE 60s")
            wait_for(lambda: proxy.held("p1")["state"] == "draining", 10 * SLOW, "the drain")
            client.send(query("SHOW TimeZone"))
        assert console.result()[0]["state"] == "held"
        assert client.silent()
        proxy.command("RELEASE p1")
        assert rows(client.ready("I")) == [["Asia/Tokyo"]]


@pytest.mark.parametrize("end", [*ENDS, "answered"])
def test_shutdown(own, proxy, end):
    with proxy.wire() as client:
        with asked(own, client, "SELECT hidden('Asia/Tokyo')") as pid:
            proxy.process.send_signal(signal.SIGTERM)
            wait_for(lambda: "shutting down" in proxy.log(), 10 * SLOW, "the shutdown")
            time.sleep(0.2)
            if end != "answered":
                own.sql(ENDS[end] % pid)
        assert [e["C"] for e in errors(client.rest())] == ["57P01"]
    assert proxy.process.wait(20 * SLOW) == 0
    proxy.process = None


@pytest.mark.parametrize("end", [*ENDS, "answered"])
@pytest.mark.parametrize("what", ["RELOAD", "RECONNECT p1", "KILL p1", "PAUSE p1 TIMEOUT 60s"])
def test_commands(own, proxy, what, end):
    """RELOAD to another name of the server."""
    with proxy.wire() as client, proxy.console() as console:
        with asked(own, client, "SELECT hidden('Asia/Tokyo')") as pid:
            if what == "RELOAD":
                proxy.servers["again"] = dict(proxy.servers["own"])
                proxy.databases["p1"] = {"server": "again"}
                proxy.write()
            console.send(what)
            if not what.startswith("PAUSE"):
                assert not errors(console.conn.ready())
            client.send(query("SHOW TimeZone"))
            if end != "answered" and not (what == "KILL p1"):
                own.sql(ENDS[end] % pid)
        if what.startswith("PAUSE"):
            assert not errors(console.conn.ready())
            assert client.silent()
            console("RESUME p1")
        if what == "KILL p1":
            assert [e["C"] for e in errors(client.rest())] == ["57P01"]
            console("RESUME p1")
            with proxy.wire() as comer:
                check([comer], "TimeZone", "UTC")
        else:
            assert rows(client.ready("I")) == [["Asia/Tokyo"]]
            check([client], "TimeZone", "Asia/Tokyo")


def test_a_server_that_stands_still(own, proxy):
    """What the client has asked it is told at once; the next request waits for it, as any would."""
    with proxy.wire() as client:
        pid = int(client.value("SELECT pg_backend_pid()"))
        with asked(own, client, "SELECT hidden('Asia/Tokyo')") as asked_pid:
            assert asked_pid == pid
            with stopped(pid):
                client.send(query("SHOW TimeZone"))
                assert client.silent()
        assert rows(client.ready("I")) == [["Asia/Tokyo"]]
