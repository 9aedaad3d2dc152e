# SPDX-License-Identifier: PostgreSQL
"""Moves at scale and in bad weather: how long clients are held and how long they stall.

One pg1 with many shards, of which p2 is big; two proxies in transaction pooling with many clients.
Every case makes a new standby (as an operator would, with pg_basebackup), loads p1 and p2, makes its
weather, moves, and takes the account: nothing lost, nothing doubled, no error.
"""
import argparse
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))

import psycopg

from pgwire import wait_for
from proxy import ADMIN, ADMIN_PASSWORD, Proxy, program
from scene import DONE
from servers import Cluster, start

SETTINGS = {"max_connections": 400, "shared_buffers": "256MB", "max_wal_size": "4GB",
            "checkpoint_timeout": "15min", "max_worker_processes": 8}
FILLER = """
CREATE TABLE filler (id bigint PRIMARY KEY, a text, b text);
INSERT INTO filler SELECT g, repeat(md5(g::text), 12), md5((g * 7)::text)
    FROM generate_series(1, %d) g;
"""
ROWS_PER_GB = 1900000  # about 530 bytes a row and 36 in its index


class Scale:
    def __init__(self, options):
        self.options = options
        self.folder = tempfile.mkdtemp(prefix="pgshunt-scale.")
        os.chmod(self.folder, 0o755)
        self.pg1 = Cluster(self.folder, "pg1", fsync=True, settings=SETTINGS)
        self.pg2 = None
        self.proxies = []
        self.load_process = None
        self.names = ["p%d" % n for n in range(1, options.shards + 1)]

    def say(self, text):
        print("%s  %s" % (time.strftime("%H:%M:%S"), text), flush=True)

    def create(self):
        self.pg1.create()
        self.say("%d databases, p2 with %g GB" % (len(self.names), self.options.size))
        for name in self.names:
            self.pg1.sql("CREATE DATABASE %s STRATEGY file_copy" % name)
            subprocess.run([program(os.path.join("tests", "load", "pgshunt_load")), "setup",
                            "host=127.0.0.1 port=%d user=postgres dbname=%s"
                            % (self.pg1.port, name)], check=True, timeout=60)
            self.pg1.sql("GRANT ALL ON SCHEMA public TO PUBLIC; "
                         "GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC; "
                         "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC", name)
        self.pg1.sql("CREATE TABLE weather (id int PRIMARY KEY, n int); "
                     "INSERT INTO weather SELECT g, 0 FROM generate_series(1, 20) g; "
                     "GRANT ALL ON weather TO PUBLIC", "p2")
        rows = int(self.options.size * ROWS_PER_GB)
        if rows > 0:
            self.pg1.sql("SET synchronous_commit = off; SET work_mem = '64MB';" + FILLER % rows,
                         "p2")
        self.bytes = self.pg1.value("SELECT pg_database_size('p2')")

    def begin(self, pool_size):
        """A new standby and fresh proxies; p2 is on pg1."""
        self.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS true")
        for name in self.names:
            self.pg1.sql("ALTER DATABASE %s ALLOW_CONNECTIONS true" % name)
        self.pg1.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
        home = os.path.join(self.folder, "standby")
        shutil.rmtree(home, ignore_errors=True)
        os.makedirs(home)
        os.chmod(home, 0o755)
        began = time.monotonic()
        self.pg2 = self.pg1.clone(home, "pg2", slot="standby1", fsync=True, settings=SETTINGS)
        self.say("standby made in %.0f s" % (time.monotonic() - began))
        password = os.path.join(self.folder, "admin.password")
        with open(password, "w") as out:
            out.write(ADMIN_PASSWORD + "\n")
        os.chmod(password, 0o600)
        databases = {name: "pg1" for name in self.names}
        self.proxies = []
        for name in ("a", "b"):
            folder = os.path.join(self.folder, "proxy." + name)
            shutil.rmtree(folder, ignore_errors=True)
            self.proxies.append(Proxy(self.folder, {"pg1": self.pg1, "pg2": self.pg2}, databases,
                                      name="proxy." + name, pool_size=pool_size, workers=0,
                                      log_level="info", log_connections=False,
                                      log_disconnections=False))
        self.journals = os.path.join(self.folder, "moves")
        shutil.rmtree(self.journals, ignore_errors=True)
        for proxy in self.proxies:
            proxy.extra["mover"] = {
                "journal_directory": self.journals,
                "proxies": {name: {"host": "127.0.0.1", "port": self.proxies[n].port,
                                   "user": ADMIN, "password_file": password}
                            for n, name in enumerate(("a", "b"))},
                "hold_timeout": "20s", "lease": "10s", "connect_timeout": "10s",
                "validate_seconds": 1, "catch_up_timeout": "30s", "max_lag": "1GB"}
            proxy.write()
            proxy.start()

    def load(self, clients, rate):
        self.log = os.path.join(self.folder, "load.log")
        if os.path.exists(self.log):
            os.unlink(self.log)
        argv = [program(os.path.join("tests", "load", "pgshunt_load")), "run", "--log", self.log,
                "--quiet", "--reads", "20"]
        for n, proxy in enumerate(self.proxies):
            where = "host=127.0.0.1 port=%d user=app" % proxy.port
            for mode in ("simple", "prepared"):
                argv += ["--target", "p2.%d.%s:%s dbname=p2:%d" % (n, mode, where,
                                                                  max(clients // 4, 1)),
                         "--mode", mode, "--group", "p2", "--rate", str(rate / 4)]
        argv += ["--target", "p1:host=127.0.0.1 port=%d user=app dbname=p1:8"
                 % self.proxies[0].port, "--group", "p1", "--rate", "100"]
        self.load_process = start(argv, self.log + ".err", sig=signal.SIGKILL)

        def all_in():
            assert self.load_process.poll() is None, open(self.log + ".err").read()
            if not os.path.exists(self.log):
                return False
            with open(self.log) as log:
                return len({line.split()[2] for line in log
                            if line[:1] in "AR" and line.endswith("\n")}) >= \
                    (clients // 4) * 4
        wait_for(all_in, 120, "%d clients" % clients)
        time.sleep(2)

    def move(self, shards):
        result = subprocess.run([program("pgshunt"), "--config", self.proxies[0].config_path,
                                 "move", *shards, "--to", "pg2", "--yes"], capture_output=True,
                                text=True, stdin=subprocess.DEVNULL, timeout=300, check=False)
        if result.returncode != DONE:
            print(result.stdout, result.stderr)
            raise AssertionError("the move ended with %d" % result.returncode)
        for path, _, names in os.walk(self.journals):
            if "report.json" in names:
                with open(os.path.join(path, "report.json")) as report:
                    return json.load(report)
        raise AssertionError("no report")

    def account(self, shards):
        self.load_process.send_signal(signal.SIGTERM)
        assert self.load_process.wait(60) == 0, open(self.log + ".err").read()
        self.load_process = None
        path = os.path.join(self.folder, "account.json")

        def place(cluster, dbname):
            return "%s=host=127.0.0.1 port=%d user=postgres dbname=%s" % (dbname, cluster.port,
                                                                          dbname)
        argv = [program(os.path.join("tests", "load", "pgshunt_load")), "account", "--log",
                self.log, "--json", path]
        for dbname in ("p1", "p2"):
            if dbname in shards:
                self.pg1.sql("ALTER DATABASE %s ALLOW_CONNECTIONS true" % dbname)
                argv += ["--new", place(self.pg2, dbname), "--old", place(self.pg1, dbname)]
            else:
                argv += ["--new", place(self.pg1, dbname)]
        result = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        with open(path) as account:
            return json.load(account)

    def end(self):
        if self.load_process is not None:
            self.load_process.kill()
            self.load_process.wait()
            self.load_process = None
        for proxy in self.proxies:
            proxy.stop()
        self.proxies = []
        if self.pg2 is not None:
            self.pg2.stop()

    def close(self):
        self.end()
        self.pg1.stop()
        if not self.options.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    # --- a case ---------------------------------------------------------------------------------

    def run(self, case):
        clients = self.options.clients if case.crowd else 16
        shards = self.names[1:26] if case.many else ["p2"]
        self.say("case: " + case.title)
        self.begin(40)
        self.load(clients, 1000 if case.crowd else 200)
        weather = case.weather(self)
        report = self.move(shards)
        time.sleep(2)
        if weather:
            weather.join(60)
            assert weather.error is None, weather.error
        account = self.account(shards)
        p1, p2 = account["groups"]["p1"], account["groups"]["p2"]
        phases = {phase["name"]: phase["ms"] for phase in report["phases"]}
        row = [case.title, len(shards), clients, report["hold_ms"], phases["hold"],
               phases["catch_up"], report["promote_ms"], p2["slowest_ms"], p2["longest_gap_ms"],
               p1["longest_gap_ms"], p1["errors"] + p2["errors"], p1["lost"] + p2["lost"],
               p1["duplicated"] + p2["duplicated"]]
        self.end()
        self.say(line_of(row))
        return row


class Weather(threading.Thread):
    """Something that goes on beside the move; its error is the test's."""

    def __init__(self, act):
        super().__init__(daemon=True)
        self.act = act
        self.error = None
        self.ready = threading.Event()
        self.start()
        self.ready.wait(30)

    def run(self):
        try:
            self.act(self.ready)
        except (psycopg.Error, AssertionError, OSError) as error:
            self.error = error
        finally:
            self.ready.set()


def held(scale):
    return any(row["state"] != "open" for proxy in scale.proxies
               for row in proxy.command("SHOW HOLDS"))


def long_transaction(scale):
    """Open when the hold begins, for three seconds more."""
    def act(ready):
        with scale.proxies[0].connect("p2", autocommit=False) as conn:
            conn.execute("UPDATE weather SET n = n + 1 WHERE id = 1")
            ready.set()
            wait_for(lambda: held(scale), 120, "the hold")
            time.sleep(3)
            conn.commit()
    return Weather(act)


def lock_queue(scale):
    """One holds a row lock for a second into the hold; thirty wait for it one after another."""
    def wait_in_line(n):
        with scale.proxies[n % 2].connect("p2", autocommit=True) as conn:
            conn.execute("UPDATE weather SET n = n + 1 WHERE id = 2")

    def act(ready):
        before = scale.pg1.value("SELECT n FROM weather WHERE id = 2", "p2")
        with scale.proxies[0].connect("p2", autocommit=False) as conn:
            conn.execute("UPDATE weather SET n = n + 1 WHERE id = 2")
            line = [threading.Thread(target=wait_in_line, args=(n,)) for n in range(30)]
            for one in line:
                one.start()
            time.sleep(1)
            ready.set()
            wait_for(lambda: held(scale), 120, "the hold")
            time.sleep(1)
            conn.commit()
        for one in line:
            one.join(60)
        # Through a proxy: pg2 itself may be behind still, or closed.
        with scale.proxies[0].connect("p2", autocommit=True) as conn:
            after = conn.execute("SELECT n FROM weather WHERE id = 2").fetchone()[0]
        assert after == before + 31, "the queue wrote %d of 31" % (after - before)
    return Weather(act)


def ddl(scale):
    """Tables come, change and go in p2 through the proxy, an index is built in another shard."""
    def act(ready):
        with scale.proxies[1].connect("p2", autocommit=True) as conn, \
                scale.pg1.connect("p1", autocommit=True) as other:
            other.execute("CREATE TABLE IF NOT EXISTS wide AS SELECT g AS id, md5(g::text) AS t "
                          "FROM generate_series(1, 400000) g")
            ready.set()
            index = threading.Thread(target=lambda: other.execute("CREATE INDEX ON wide (t, id)"))
            index.start()
            end = time.monotonic() + 6
            n = 0
            while time.monotonic() < end:
                conn.execute("CREATE TABLE ddl_%d (a int PRIMARY KEY, b text)" % n)
                conn.execute("ALTER TABLE ddl_%d ADD COLUMN c int NOT NULL DEFAULT 7" % n)
                conn.execute("INSERT INTO ddl_%d VALUES (1, 'x')" % n)
                assert conn.execute("SELECT c FROM ddl_%d" % n).fetchone() == (7,)
                if n % 2:
                    conn.execute("DROP TABLE ddl_%d" % n)
                n += 1
            index.join()
            made = conn.execute("SELECT count(*) FROM pg_class WHERE relname ~ '^ddl_[0-9]+$'"
                                ).fetchone()[0]
            assert made == (n + 1) // 2, "%d tables of %d" % (made, (n + 1) // 2)
            for left in range(0, n, 2):
                conn.execute("DROP TABLE ddl_%d" % left)
        with scale.pg1.connect("p1", autocommit=True) as other:
            other.execute("DROP TABLE wide")
    return Weather(act)


def startup_process(cluster):
    """The process that replays WAL."""
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path) as stat:
                words = stat.read().rsplit(")", 1)[1].split()
            with open(os.path.dirname(path) + "/cmdline") as line:
                title = line.read()
        except OSError:
            continue
        if int(words[1]) == cluster.process.pid and "startup" in title:
            return int(path.split("/")[2])
    raise AssertionError("no startup process")


def replay_lag(scale):
    """Replay stands still for a second and a half of the hold while another shard writes."""
    def act(ready):
        pid = startup_process(scale.pg2)
        with scale.pg1.connect("p1", autocommit=True) as other:
            ready.set()
            wait_for(lambda: held(scale), 120, "the hold")
            os.kill(pid, signal.SIGSTOP)
            try:
                other.execute("CREATE TABLE noise AS SELECT g, md5(g::text) FROM "
                              "generate_series(1, 300000) g")
                time.sleep(1)
            finally:
                os.kill(pid, signal.SIGCONT)
            other.execute("DROP TABLE noise")
    return Weather(act)


class Case:
    def __init__(self, name, title, weather=None, crowd=False, many=False):
        self.name = name
        self.title = title
        self.weather = weather or (lambda scale: None)
        self.crowd = crowd
        self.many = many


CASES = [
    Case("quiet", "16 clients"),
    Case("crowd", "1,000 clients", crowd=True),
    Case("many", "25 shards at once", many=True),
    Case("long", "a transaction that lasts 3 s", long_transaction),
    Case("locks", "30 clients in a lock queue, 1 s", lock_queue),
    Case("ddl", "DDL in p2, an index is built on pg1", ddl),
    Case("lag", "replay stands still while pg1 writes", replay_lag),
]
HEAD = ["case", "shards moved", "clients of p2", "hold", "of it drain", "catch up", "promotion",
        "slowest request of p2", "longest gap p2", "longest gap p1", "errors", "lost", "doubled"]


def line_of(row):
    return "| %s |" % " | ".join("%.0f" % cell if isinstance(cell, float) else str(cell)
                                 for cell in row)


def main():
    parser = argparse.ArgumentParser(description="Moves at scale.")
    parser.add_argument("--size", type=float, default=20, help="gigabytes of data in p2 (20)")
    parser.add_argument("--shards", type=int, default=50, help="databases on pg1 (50)")
    parser.add_argument("--clients", type=int, default=1000, help="clients of the crowd (1000)")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    options = parser.parse_args()
    free = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    if free < 3 * options.size + 5:
        print("p2 with %g GB needs about %g GB of disk; %.0f GB are free"
              % (options.size, 3 * options.size + 5, free))
        return 2
    scale = Scale(options)
    rows = []
    try:
        scale.create()
        for case in CASES:
            if not options.case or case.name in options.case:
                rows.append(scale.run(case))
    finally:
        scale.close()
    print("\np2 has %.1f GB; pg1 has %d shards; milliseconds\n" % (scale.bytes / 1e9,
                                                                   options.shards))
    print(line_of(HEAD))
    print("|---|" + "---:|" * (len(HEAD) - 1))
    for row in rows:
        print(line_of(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
