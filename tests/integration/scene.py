# SPDX-License-Identifier: PostgreSQL
"""The scene of a move: pg1 with p1 and p2, pg2 its standby, proxies, a PL/Proxy database, load."""
import json
import os
import signal
import subprocess

import psycopg

from proxy import ADMIN, ADMIN_PASSWORD, program
from pgwire import wait_for
from servers import SLOW, copy, start

# Exit codes of pgshunt.
DONE, ERROR, USAGE, REFUSED, UNDONE, FORWARD, UNDO_INCOMPLETE = range(7)

TABLE = """
CREATE TABLE items (id int PRIMARY KEY, note text);
GRANT ALL ON items TO PUBLIC;
GRANT ALL ON SCHEMA public TO PUBLIC;
CREATE FUNCTION where_am_i(shard int) RETURNS text LANGUAGE sql
    AS $$ SELECT current_setting('cluster_name') || ' ' || current_database() $$;
"""

BEGINNING = {}  # the data directories of pg1 and pg2, which are stopped, by name


class Scene:
    def __init__(self, make_cluster, make_proxy, subfolder, proxies=1, mover=None, proxy=None,
                 standby=None, alone=False):
        """alone: no proxy runs; what there is besides the servers is for the test to make."""
        self.folder = subfolder
        self.make_cluster = make_cluster
        if not BEGINNING:
            self.begin()
        self.pg1 = make_cluster("pg1", copy_of=BEGINNING["pg1"])
        self.pg2 = make_cluster.standby(self.pg1, "pg2", copy_of=BEGINNING["pg2"],
                                        **(standby or {}))
        password = self.file("admin.password", ADMIN_PASSWORD + "\n")
        self.proxies = [make_proxy({"pg1": self.pg1, "pg2": self.pg2}, {"p1": "pg1", "p2": "pg1"},
                                   start=False, name="proxy%d" % n, **(proxy or {}))
                        for n in range(proxies)]
        self.proxy = self.proxies[0]
        self.mover = {
            "journal_directory": os.path.join(self.folder, "moves"),
            "proxies": {chr(ord("a") + n): {
                "host": "127.0.0.1", "port": proxy.port, "user": ADMIN,
                "password_file": password} for n, proxy in enumerate(self.proxies)},
            "hold_timeout": "3s", "lease": "3s", "connect_timeout": "2s", "validate_seconds": 0,
            "catch_up_timeout": "5s", **(mover or {})}
        for proxy in self.proxies:
            proxy.extra["mover"] = self.mover
            proxy.write()
        if alone:
            del self.mover["proxies"]
            self.proxy.write()
            self.proxies = []
        for proxy in self.proxies:
            proxy.start()
        self.load_process = None

    def begin(self):
        """What every scene begins with is made once: it would be the larger part of many tests."""
        pg1 = self.make_cluster("pg1")
        for name in ("p1", "p2"):
            pg1.sql("CREATE DATABASE " + name)
            pg1.sql(TABLE, name)
        pg2 = self.make_cluster.standby(pg1, "pg2", slot="standby1")
        for cluster in (pg1, pg2):
            cluster.stop()
            path = os.path.join(self.folder, "beginning." + cluster.name)
            copy(cluster.data, path)
            BEGINNING[cluster.name] = path

    def file(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w") as out:
            out.write(text)
        return path

    def configure(self, **mover):
        self.mover.update(mover)
        for proxy in {self.proxy, *self.proxies}:
            proxy.write()

    def plproxy(self, cluster, dbname, direct):
        """A PL/Proxy database with two partitions for each shard, by the proxy or by pg1."""
        port = self.pg1.port if direct else self.proxy.port
        cluster.sql("CREATE DATABASE " + dbname)
        options = ", ".join("p%d 'dbname=p%d host=127.0.0.1 port=%d'" % (n, n // 2 + 1, port)
                            for n in range(4))
        cluster.sql("CREATE EXTENSION plproxy; "
                    "CREATE SERVER hq FOREIGN DATA WRAPPER plproxy OPTIONS "
                    "(connection_lifetime '1800', %s); "
                    "CREATE USER MAPPING FOR PUBLIC SERVER hq OPTIONS (user 'app'); "
                    "GRANT USAGE ON FOREIGN SERVER hq TO PUBLIC; "
                    "CREATE FUNCTION where_am_i(shard int) RETURNS text LANGUAGE plproxy "
                    "AS $$ CLUSTER 'hq'; RUN ON shard; $$;" % options, dbname)
        self.configure(plproxy={"hq": {"host": "127.0.0.1", "port": cluster.port, "dbname": dbname,
                                       "cluster": "hq", "user": "postgres"}})

    # --- the mover ------------------------------------------------------------------------------

    def end_watches(self):
        """Those over moves that the test has left unfinished: they would try for ten minutes."""
        for pid in os.listdir("/proc"):
            try:
                with open("/proc/%s/cmdline" % pid, errors="replace") as file:
                    argv = file.read().split("\0")
                if os.path.basename(argv[0]) == "pgshunt" and self.proxy.config_path in argv:
                    os.kill(int(pid), signal.SIGKILL)
            except OSError:
                continue  # no process, or it has ended

    def argv(self, *args):
        return [program("pgshunt"), "--config", self.proxy.config_path, *args]

    def run(self, *args, fault=None, timeout=90):
        env = {key: value for key, value in os.environ.items() if key != "PGSHUNT_FAULT"}
        if fault:
            env["PGSHUNT_FAULT"] = fault
        result = subprocess.run(self.argv(*args), capture_output=True, text=True, env=env,
                                stdin=subprocess.DEVNULL, timeout=timeout * SLOW)
        print("$ pgshunt " + " ".join(args), "->", result.returncode)
        print(result.stdout[-4000:], result.stderr[-4000:])
        assert "Sanitizer" not in result.stderr and "runtime error" not in result.stderr
        return result

    def move(self, code=DONE, **kwargs):
        result = self.run("move", "p2", "--to", "pg2", **kwargs)
        assert result.returncode == code, result.stdout + result.stderr
        return result

    def background(self, *args, fault=None):
        env = dict(os.environ)
        if fault:
            env["PGSHUNT_FAULT"] = fault
        return start(self.argv(*args), os.path.join(self.folder, "mover.log"), env=env)

    # --- the load -------------------------------------------------------------------------------

    def load(self, conninfo="host=127.0.0.1 port=%d user=app", ports=None,
             modes=("simple", "extended", "prepared", "pipelined", "pipelined-prepared")):
        ports = ports or [proxy.port for proxy in self.proxies]
        tool = program(os.path.join("tests", "load", "pgshunt_load"))
        for name in ("p1", "p2"):
            subprocess.run([tool, "setup", "host=127.0.0.1 port=%d user=postgres dbname=%s"
                            % (self.pg1.port, name)], check=True, timeout=60)
            self.pg1.sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC; "
                         "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC", name)
        self.load_log = os.path.join(self.folder, "load.log")
        argv = [tool, "run", "--log", self.load_log, "--quiet", "--rate", "60", "--reads", "20"]
        for n, mode in enumerate(modes):
            target = conninfo % ports[n % len(ports)]
            argv += ["--target", "p2/%s:%s dbname=p2:2" % (mode, target), "--mode", mode,
                     "--group", "p2"]
            if n % 2:
                argv.append("--block")
        argv += ["--target", "p2/reconnecting:%s dbname=p2:1" % (conninfo % ports[0]),
                 "--group", "p2", "--reconnect", "--rate", "10",
                 "--target", "p1:%s dbname=p1:2" % (conninfo % ports[0]), "--group", "p1"]
        self.load_process = start(argv, self.load_log + ".err", sig=signal.SIGKILL)
        wait_for(self.acknowledged, 30 * SLOW, "the load")

    def acknowledged(self):
        assert self.load_process.poll() is None, open(self.load_log + ".err").read()
        if not os.path.exists(self.load_log):
            return False
        with open(self.load_log) as log:
            return sum(1 for line in log if line.startswith("A")) > 50

    def account(self, at="pg2", *options):
        """Ends the load and checks every row; the account."""
        self.load_process.send_signal(signal.SIGTERM)
        assert self.load_process.wait(60 * SLOW) == 0, open(self.load_log + ".err").read()
        self.load_process = None
        path = os.path.join(self.folder, "account.json")

        def place(cluster, dbname):
            return "%s=host=127.0.0.1 port=%d user=postgres dbname=%s" % (dbname, cluster.port,
                                                                          dbname)
        argv = [program(os.path.join("tests", "load", "pgshunt_load")), "account", "--log",
                self.load_log, "--json", path, "--new", place(self.pg1, "p1"), *options]
        if at == "pg2":
            self.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS true")
            argv += ["--new", place(self.pg2, "p2"), "--old", place(self.pg1, "p2")]
        else:
            argv += ["--new", place(self.pg1, "p2")]
        result = subprocess.run(argv, capture_output=True, text=True, timeout=120 * SLOW)
        print(result.stdout, result.stderr)
        assert result.returncode == 0, result.stdout + result.stderr
        with open(path) as account:
            return json.load(account)

    # --- where things are -----------------------------------------------------------------------

    def open_databases(self, cluster):
        return {row[0] for row in cluster.sql("SELECT datname FROM pg_database WHERE datallowconn "
                                              "AND datname LIKE 'p_'")}

    @staticmethod
    def left_over(cluster):
        """What a move sets while it lasts, in databases that are open."""
        return cluster.sql("SELECT name FROM pg_file_settings WHERE name = "
                           "'default_transaction_read_only'") + \
            cluster.sql("SELECT datname FROM pg_db_role_setting JOIN pg_database d ON d.oid = "
                        "setdatabase WHERE setconfig::text LIKE '%read_only%' AND datallowconn")

    def check_on_pg1(self):
        """Nothing has changed for the clients, and nothing is left over."""
        assert self.left_over(self.pg1) == [] and self.left_over(self.pg2) == []
        assert self.pg2.value("SELECT pg_is_in_recovery()") is True
        assert self.open_databases(self.pg1) == {"p1", "p2"}
        for proxy in self.proxies:
            wait_for(lambda proxy=proxy: proxy.held()["state"] == "open", 15 * SLOW, "the release")
            assert proxy.route()["server"] == "pg1"
            assert proxy.held()["target"] is None
            self.check_writes(proxy, "p2", "pg1")
            self.check_writes(proxy, "p1", "pg1")

    def check_on_pg2(self):
        """Exactly one writable p2, and one writable p1."""
        assert self.left_over(self.pg1) == [] and self.left_over(self.pg2) == []
        assert self.pg2.value("SELECT pg_is_in_recovery()") is False
        assert self.open_databases(self.pg1) == {"p1"}
        assert self.open_databases(self.pg2) == {"p2"}
        for proxy in self.proxies:
            wait_for(lambda proxy=proxy: proxy.held()["state"] == "open", 15 * SLOW, "the release")
            assert proxy.route()["server"] == "pg2"
            self.check_writes(proxy, "p2", "pg2")
            self.check_writes(proxy, "p1", "pg1")

    @staticmethod
    def check_writes(proxy, dbname, server):
        with proxy.wire(dbname) as conn:
            assert conn.value("SHOW cluster_name") == server
            assert conn.value("SHOW transaction_read_only") == "off"
            conn.query("BEGIN; INSERT INTO items VALUES (-1, 'check')")
            assert conn.query("ROLLBACK")[-1].body == b"I"

    def refuses(self, cluster, dbname):
        try:
            cluster.connect(dbname).close()
        except psycopg.OperationalError:
            return True
        return False
