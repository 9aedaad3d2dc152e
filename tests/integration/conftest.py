# SPDX-License-Identifier: PostgreSQL
"""Fixtures: servers once a session, proxies as the tests ask for them.

PGSHUNT_BIN names the folder with pgshuntd and pgshunt.  The tests called with an `endpoint` run
three times: against PostgreSQL itself, which proves that the expectation is right, and through
the proxy in transaction and in session pooling.
"""
import collections
import contextlib
import os
import shutil
import sys
import tempfile

# select() takes no file beyond the 1024th, and thousands of clients are opened here.
os.environ.setdefault("PSYCOPG_WAIT_FUNC", "wait_selector")

import pytest

sys.path.insert(0, os.path.dirname(__file__))
pytest.register_assert_rewrite("scene")  # its assertions tell values, too

from endpoint import Endpoint
from proxy import Proxy
from scene import Scene
from servers import SCHEMA, Cluster, Templates, subfolder


def remove(path):
    if not os.environ.get("PGSHUNT_TEST_KEEP"):
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def folder():
    """The temporary folder of this session, readable by the user who runs PostgreSQL."""
    path = tempfile.mkdtemp(prefix="pgshunt-test.")
    os.chmod(path, 0o755)
    yield path
    remove(path)


@pytest.fixture(scope="session")
def pg(folder):
    """The server of most tests, with the databases p1 and p2.  Never stopped."""
    cluster = Cluster(folder, "pg").create()
    for name in ("p1", "p2"):
        cluster.sql("CREATE DATABASE " + name)
        cluster.sql(SCHEMA, name)
    yield cluster
    cluster.stop()


@pytest.fixture
def door(pg):
    """Whether p2 lets anybody new in: as a fence closes it, that leaves alone what is sealed."""
    def let(allow):
        pg.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS " + allow)
    yield let
    let("true")


@pytest.fixture(scope="session")
def templates(folder):
    return Templates(folder)


@contextlib.contextmanager
def _clusters(folder, templates):
    made = []

    def make(name="own", copy_of=None, **kwargs):
        cluster = Cluster(subfolder(folder), name, **kwargs)
        made.append(cluster)
        return cluster.create(copy_of or templates.get(len(made)))

    def standby(primary, name="standby", **kwargs):
        made.append(primary.clone(subfolder(folder), name, **kwargs))
        return made[-1]
    make.standby = standby
    yield make
    for cluster in reversed(made):
        cluster.stop()
        remove(cluster.data)  # at once: most of it need never be written to the disk


@pytest.fixture
def make_cluster(folder, templates):
    """Makes servers that end with the test."""
    with _clusters(folder, templates) as make:
        yield make


@contextlib.contextmanager
def _proxies(folder, pg):
    made = []

    def make(servers=None, databases=None, start=True, fault=None, **kwargs):
        proxy = Proxy(subfolder(folder), servers or {"pg": pg},
                      databases or {"p1": "pg", "p2": "pg"}, **kwargs)
        made.append(proxy)
        return proxy.start(fault) if start else proxy
    yield make
    failures = []
    for proxy in made:
        try:
            proxy.stop()
        except AssertionError as error:
            failures.append(str(error))
    assert not failures, "\n".join(failures)


@pytest.fixture
def make_proxy(folder, pg):
    """Makes proxies that end, and are judged, with the test."""
    with _proxies(folder, pg) as make:
        yield make


@pytest.fixture(scope="module")
def other(folder, templates):
    """A server that has nothing to do with the first, but databases of the same names."""
    cluster = Cluster(subfolder(folder), "other").create(templates.get("other"))
    for name in ("p1", "p2"):
        cluster.sql("CREATE DATABASE " + name)
        cluster.sql(SCHEMA, name)
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def module_scene(folder, pg, templates):
    """One scene for the tests of a file that leave it as they found it."""
    with _clusters(folder, templates) as make_cluster, _proxies(folder, pg) as make_proxy:
        yield Scene(make_cluster, make_proxy, subfolder(folder))


@pytest.fixture(scope="session")
def shared_proxies(folder, pg):
    """Proxies of the tests that need nothing special, one per pool mode."""
    made = {}

    def get(mode):
        if mode not in made:
            made[mode] = Proxy(subfolder(folder), {"pg": pg},
                               {"p1": "pg", "p2": "pg"}, pool_mode=mode, pool_size=10).start()
        return made[mode]
    yield get
    for proxy in made.values():
        proxy.stop()


@pytest.fixture
def make_scene(make_cluster, make_proxy, folder):
    made = []

    def make(**kwargs):
        made.append(Scene(make_cluster, make_proxy, subfolder(folder), **kwargs))
        return made[-1]
    yield make
    for scene in made:
        if scene.load_process:
            scene.load_process.kill()
            scene.load_process.wait()
        scene.end_watches()
        # Before the servers: a proxy is judged by how it ends.
        for proxy in scene.proxies:
            proxy.stop()


def _endpoint(kind, pg, shared_proxies):
    if kind == "direct":
        return Endpoint(kind, pg.host, pg.port), None
    proxy = shared_proxies(kind)
    proxy.check_alive()
    return Endpoint(kind, proxy.host, proxy.port), proxy


@pytest.fixture(params=["direct", "transaction", "session"])
def endpoint(request, pg, shared_proxies):
    place, proxy = _endpoint(request.param, pg, shared_proxies)
    yield place
    if proxy:
        proxy.check_alive()


@pytest.fixture(params=["transaction", "session"])
def proxied(request, pg, shared_proxies):
    """For what the proxy answers otherwise than a server would."""
    place, proxy = _endpoint(request.param, pg, shared_proxies)
    yield place
    proxy.check_alive()


@pytest.fixture(params=["direct", "session"])
def session_endpoint(request, pg, shared_proxies):
    """For what exists only in a session of one's own."""
    place, proxy = _endpoint(request.param, pg, shared_proxies)
    yield place
    if proxy:
        proxy.check_alive()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    for item in items:
        names = set(item.fixturenames)
        if names & {"make_scene", "module_scene"}:
            item.add_marker("scene")
        if names & {"make_proxy", "make_cluster", "module_scene", "other"}:
            item.add_marker("own")
        # Of a fixture's parameters, or of a test's own.
        if "direct" in getattr(getattr(item, "callspec", None), "params", {}).values():
            item.add_marker("direct")
    if os.getuid() != 0:
        left_out = [item for item in items if item.get_closest_marker("root")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    if hasattr(config, "workerinput"):  # one of several processes: none shall come late to a long file
        weights = collections.Counter()
        for item in items:
            weights[item.path] += 100 if item.get_closest_marker("scene") else \
                5 if item.get_closest_marker("own") else 1
        items.sort(key=lambda item: -weights[item.path])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows the end of the log of every proxy that took part."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for proxy in Proxy.alive:
            report.sections.append(("log of " + proxy.folder, proxy.log()[-6000:]))
    if call.when == "teardown":
        Proxy.alive = [proxy for proxy in Proxy.alive if proxy.process is not None]
