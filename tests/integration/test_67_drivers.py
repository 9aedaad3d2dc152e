# SPDX-License-Identifier: PostgreSQL
"""Drivers at their ordinary work (tests/drivers), each in its own program: what it prints is the same
directly, in transaction and in session pooling, and while the database is held again and again."""
import glob
import os
import subprocess
import threading

import pytest

from proxy import ConsoleError
from servers import SLOW

DRIVERS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "drivers")
JDBC = "/usr/share/java/postgresql.jar"
# Where run.sh has put node-postgres: Debian's package, installed or only unpacked.
NODE_PATH = os.environ.get("PGSHUNT_NODE_PATH", "/usr/share/nodejs")


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Of each driver: the program and its environment."""
    classes = str(tmp_path_factory.mktemp("classes"))

    def command(driver):
        if driver == "jdbc":
            if not glob.glob(classes + "/*.class"):
                run(["javac", "-d", classes, "-cp", JDBC, DRIVERS + "/Work.java"])
            return ["java", "-XX:TieredStopAtLevel=1", "-cp", JDBC + ":" + classes, "Work"]
        if driver == "node":
            return ["node", DRIVERS + "/work.js"]
        return ["/usr/bin/python3", "%s/work_%s.py" % (DRIVERS, driver)]
    return command


def run(argv):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120 * SLOW, check=False,
                          env={**os.environ, "NODE_PATH": NODE_PATH, "LC_ALL": "C.UTF-8",
                               "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


class Holder:
    """Holds a database and lets it go, all the time."""

    def __init__(self, proxy):
        self.proxy = proxy
        self.count = 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.work)

    def work(self):
        with self.proxy.console() as console:
            while not self.over.wait(0.05):
                try:
                    console("HOLD p1 DRAIN 2s")
                    self.count += 1
                    self.over.wait(0.02)
                    console("RELEASE p1")
                except ConsoleError as error:  # somebody sleeps in his transaction
                    assert error.sqlstate == "55P03", error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg", "jdbc", "node"])
def test_driver(driver, commands, make_proxy, pg):
    command = commands(driver)
    expected = run(command + where(pg, driver))
    assert expected.splitlines()[-1].strip('"') == "done" and len(expected.splitlines()) > 10
    session = make_proxy(pool_mode="session", pool_size=12, log_level="info", name="session")
    assert run(command + where(session, driver)) == expected
    # Fewer servers than clients.
    transaction = make_proxy(pool_size=5, log_level="info")
    with Holder(transaction) as holder:
        assert run(command + where(transaction, driver)) == expected
    assert holder.count > 0


def where(proxy, driver):
    return [proxy.host, str(proxy.port), "p1", "work_" + driver]
