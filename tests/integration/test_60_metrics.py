# SPDX-License-Identifier: PostgreSQL
"""/metrics, /healthz and /readyz, and the dashboard that is made from them."""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading

import pytest

import exposition
import pgwire
from pgwire import query, wait_for
from servers import SLOW, free_port
from service import listen_tcp, start

HERE = os.path.dirname(__file__)
SOURCE = os.path.dirname(os.path.dirname(HERE))


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


@pytest.fixture
def proxy(make_proxy):
    proxy = make_proxy(start=False)
    proxy.web = free_port()
    proxy.settings.update(metrics_addresses=["127.0.0.1"], metrics_port=proxy.web)
    proxy.write()
    return proxy.start()


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
        assert found["pgshunt_hold_age_seconds"].value(database="p2") >= 0
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


def test_promtool(proxy):
    """Prometheus' own judgement, where it is installed, in addition to the reader of this suite."""
    with proxy.wire() as conn:
        conn.query("SELECT 1/0")
    status, text, _ = get(proxy.web)
    assert status == 200 and exposition.parse(text)
    tool = shutil.which("promtool")
    if tool:
        result = subprocess.run([tool, "check", "metrics"], input=text, capture_output=True,
                                text=True, timeout=60)
        assert result.returncode == 0 and not result.stderr.strip(), result.stderr


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
    """By Prometheus' own parser, where it is installed; the test above reads the names."""
    tool = shutil.which("promtool")
    rules = [{"record": "r%d" % n, "expr": expression.replace("$__rate_interval", "1m")}
             for n, expression in enumerate(expressions()) if "label_values" not in expression]
    assert len(rules) > 40
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    if tool:
        result = subprocess.run([tool, "check", "rules", str(path)], capture_output=True, text=True,
                                timeout=60)
        assert result.returncode == 0, result.stdout + result.stderr
