# SPDX-License-Identifier: PostgreSQL
"""What a cell of the fault matrix happens to: pg1 with p1 and p2, its standby pg2, a PL/Proxy server,
the proxies a and b, c with session pools, a pgbouncer in front of a, another that leads to pg1 itself
and is driven by the mover, clients on every way, and the mover.

Servers start from copies of prepared data directories, and a world in which nothing was promoted is
used again by the next cell.
"""
import json
import os
import shutil
import signal
import subprocess
import time

import yaml

from pgwire import wait_for
from proxy import ADMIN, ADMIN_PASSWORD, Proxy, program
from scene import TABLE
from servers import BINDIR, OWNER, SLOW, Cluster, PgBouncer, copy, free_port, run, start

# name, port of, mode, options; the way a client takes is part of the name.
CLIENTS = [
    ("p2.a.simple", "a", "simple", []),
    ("p2.a.prepared", "a", "prepared", ["--block"]),
    ("p2.b.extended", "b", "extended", ["--block"]),
    ("p2.b.pipelined", "b", "pipelined", []),
    ("p2.b.reconnecting", "b", "simple", ["--reconnect", "--rate", "5"]),
    ("p2.c.prepared", "c", "prepared", ["--block"]),
    ("p2.c.simple", "c", "simple", []),
    ("p2.bouncer.simple", "bouncer", "simple", []),
    ("p2.direct.simple", "direct", "simple", []),
    ("p1.a.simple", "a", "simple", []),
    ("p1.b.extended", "b", "extended", []),
    ("p1.c.prepared", "c", "prepared", []),
]


class World:
    def __init__(self, folder, net):
        self.folder = folder
        self.net = net
        self.fresh = False
        self.load_process = None
        settings = {"listen_addresses": net.listen}
        self.pg1 = Cluster(folder, "pg1", settings=settings)
        self.pg2 = Cluster(folder, "pg2", settings=settings)
        self.pgx = Cluster(folder, "pgx", settings=settings)
        self.prepare_servers()
        self.prepare_proxies()

    # --- once -----------------------------------------------------------------------------------

    def prepare_servers(self):
        self.pg1.create()
        for name in ("p1", "p2"):
            self.pg1.sql("CREATE DATABASE " + name)
            self.pg1.sql(TABLE, name)
            subprocess.run([program(os.path.join("tests", "load", "pgshunt_load")), "setup",
                            "host=127.0.0.1 port=%d user=postgres dbname=%s"
                            % (self.pg1.port, name)], check=True, timeout=60)
            self.pg1.sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC; "
                         "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC", name)
        run([BINDIR + "/pg_basebackup", "-D", self.pg2.data, "-h", "127.0.0.1", "-p",
             str(self.pg1.port), "-U", "postgres", "-c", "fast", "-X", "stream", "-R", "--no-sync",
             "-C", "-S", "standby1"], OWNER)
        # It streams over a connection that can be cut.
        host, port = self.net.address("pg2", "pg1", self.pg1.port)
        self.pg2.settings["primary_conninfo"] = "host=%s port=%d user=postgres" % (host, port)
        self.pg2.settings["primary_slot_name"] = "standby1"
        open(self.pg2.data + "/postgresql.auto.conf", "w").close()
        self.pg2.start()
        self.await_streaming()
        self.pg1.stop()
        self.pg2.stop()
        for cluster in (self.pg1, self.pg2):
            copy(cluster.data, cluster.data + ".base")
        self.pgx.create()
        self.pgx.sql("CREATE DATABASE hq")
        options = ", ".join("p%d 'dbname=p%d host=127.0.0.1 port=%d'" % (n, n // 2 + 1, self.pg1.port)
                            for n in range(4))
        self.pgx.sql("CREATE EXTENSION plproxy; "
                     "CREATE SERVER hq FOREIGN DATA WRAPPER plproxy OPTIONS (%s); "
                     "CREATE USER MAPPING FOR PUBLIC SERVER hq OPTIONS (user 'app'); "
                     "GRANT USAGE ON FOREIGN SERVER hq TO PUBLIC; "
                     "CREATE FUNCTION where_am_i(shard int) RETURNS text LANGUAGE plproxy "
                     "AS $$ CLUSTER 'hq'; RUN ON shard; $$;" % options, "hq")

    def servers_of(self, dialler):
        """The section `servers` as that program reaches them."""
        section = {}
        for cluster in (self.pg1, self.pg2):
            host, port = self.net.address(dialler, cluster.name, cluster.port)
            section[cluster.name] = {"host": host, "port": port, "check_user": "postgres"}
        return section

    def prepare_proxies(self):
        self.proxies = {name: Proxy(self.folder, self.servers_of("proxy " + name),
                                    {"p1": "pg1", "p2": "pg1"}, name="proxy." + name,
                                    listen_addresses=[self.net.listen], workers=2,
                                    pool_mode="session" if name == "c" else "transaction")
                        for name in ("a", "b", "c")}
        password = os.path.join(self.folder, "admin.password")
        with open(password, "w") as out:
            out.write(ADMIN_PASSWORD + "\n")
        consoles = {}
        for name, proxy in self.proxies.items():
            host, port = self.net.address("mover", "proxy " + name, proxy.port)
            consoles[name] = {"host": host, "port": port, "user": ADMIN, "password_file": password}
        host, port = self.net.address("mover", "pgx", self.pgx.port)
        servers = self.servers_of("mover")
        for cluster in (self.pg1, self.pg2):
            streams, stream_port = self.net.address("pg2", "pg1", self.pg1.port)
            servers[cluster.name]["aliases"] = ["127.0.0.1:%d" % cluster.port]
            if cluster is self.pg1:
                servers[cluster.name]["aliases"].append("%s:%d" % (streams, stream_port))
        self.direct_port = free_port()
        direct_host, direct_port = self.net.address("mover", "pgbouncer", self.direct_port)
        direct = {"host": direct_host, "port": direct_port, "processes": 1,
                  "ini": [os.path.join(self.folder, "direct", "pgbouncer.ini")],
                  "addresses": ["%s=127.0.0.1:%d" % (cluster.name, cluster.port)
                                for cluster in (self.pg1, self.pg2)]}
        self.config_path = os.path.join(self.folder, "mover.yml")
        self.journals = os.path.join(self.folder, "moves")
        self.config = {
            "proxy": {"users_file": self.proxies["a"].users_path},
            "servers": servers,
            "databases": {"p1": {"server": "pg1"}, "p2": {"server": "pg1"}},
            "mover": {
                "journal_directory": self.journals, "proxies": consoles,
                "plproxy": {"hq": {"host": host, "port": port, "dbname": "hq", "cluster": "hq",
                                   "user": "postgres"}},
                "pgbouncers": {"direct": direct},
                # Well above a cut: what was lost in it is sent again after 3 s.
                "hold_timeout": "%gs" % (5 * SLOW), "lease": "%gs" % (2 * SLOW), "connect_timeout": "%gs" % SLOW,
                "validate_seconds": 0, "catch_up_timeout": "5s", "promote_timeout": "4s"}}
        with open(self.config_path, "w") as out:
            yaml.safe_dump(self.config, out, sort_keys=False)
        self.bouncer = None
        self.direct = None

    def await_streaming(self):
        wait_for(lambda: self.pg1.sql("SELECT state FROM pg_stat_replication") == [("streaming",)],
                 30 * SLOW, "streaming replication")

    # --- for every cell -------------------------------------------------------------------------

    def begin(self):
        """A world in which p2 is on pg1 and pg2 its standby."""
        self.net.heal()
        if not self.fresh:
            self.end()
            for cluster in (self.pg1, self.pg2):
                shutil.rmtree(cluster.data, ignore_errors=True)
                copy(cluster.data + ".base", cluster.data)
                cluster.start()
            self.await_streaming()
            for proxy in self.proxies.values():
                shutil.rmtree(proxy.state)
                os.makedirs(proxy.state)
                proxy.start()
            self.start_bouncers()
            if self.pgx.process is None:
                self.pgx.start()
            for n in (2, 3):
                self.pgx.sql("ALTER SERVER hq OPTIONS (SET p%d 'dbname=p2 host=127.0.0.1 port=%d')"
                             % (n, self.pg1.port), "hq")
            self.fresh = True
        self.forget_moves()

    def forget_moves(self):
        """The watch over a mover that was killed may still write there."""
        deadline = time.monotonic() + 10
        while os.path.exists(self.journals):
            assert time.monotonic() < deadline, os.listdir(self.journals)
            shutil.rmtree(self.journals, ignore_errors=True)
            time.sleep(0.02)

    def start_bouncers(self):
        for bouncer in (self.bouncer, self.direct):
            if bouncer is not None:
                shutil.rmtree(bouncer.folder)
        self.direct = PgBouncer(self.folder, "direct",
                                [(name, "127.0.0.1", self.pg1.port, name) for name in ("p1", "p2")],
                                "listen_addr=%s\nserver_login_retry=0.2" % self.net.listen,
                                port=self.direct_port)
        self.bouncer = PgBouncer(self.folder, "bouncer",
                                 [(name, "127.0.0.1", self.proxies["a"].port, name)
                                  for name in ("p1", "p2")], "server_login_retry=0.2")

    def end(self):
        self.fresh = False
        self.stop_load()
        for bouncer in (self.bouncer, self.direct):
            if bouncer is not None:
                bouncer.stop()
        for proxy in self.proxies.values():
            if proxy.process is not None and proxy.process.poll() is None:
                proxy.kill()
        for cluster in (self.pg1, self.pg2):
            cluster.stop(signal.SIGQUIT)

    def close(self):
        self.end()
        self.pgx.stop()
        self.net.close()

    # --- the mover ------------------------------------------------------------------------------

    def mover(self, *args, fault=None, log="mover.log"):
        env = {key: value for key, value in os.environ.items() if key != "PGSHUNT_FAULT"}
        if fault:
            env["PGSHUNT_FAULT"] = fault
        return start([program("pgshunt"), "--config", self.config_path, *args],
                     os.path.join(self.folder, log), env=env, sig=signal.SIGKILL)

    def mover_log(self):
        with open(os.path.join(self.folder, "mover.log"), errors="replace") as log:
            return log.read()

    def journal(self):
        """The records of the only move."""
        moves = sorted(name for name in os.listdir(self.journals)
                       if os.path.isdir(os.path.join(self.journals, name)))
        assert len(moves) == 1, moves
        with open(os.path.join(self.journals, moves[0], "journal.jsonl")) as lines:
            return [json.loads(line) for line in lines]

    def ended(self):
        """"done" or "undone" as the journal has it, None if it has no end."""
        for record in reversed(self.journal()):
            if record["phase"] == "end" and record["kind"] == "outcome":
                return record["data"]["result"]
        return None

    def report(self):
        for path, _, names in os.walk(self.journals):
            if "report.json" in names:
                with open(os.path.join(path, "report.json")) as report:
                    return json.load(report)
        return None

    # --- the load -------------------------------------------------------------------------------

    def load(self, rate=25):
        ports = {name: proxy.port for name, proxy in self.proxies.items()}
        ports.update(bouncer=self.bouncer.port, direct=self.direct.port)
        self.load_log = os.path.join(self.folder, "load.log")
        if os.path.exists(self.load_log):
            os.unlink(self.load_log)
        argv = [program(os.path.join("tests", "load", "pgshunt_load")), "run", "--log",
                self.load_log, "--quiet", "--rate", str(rate), "--reads", "20", "--retry", "100"]
        for name, way, mode, options in CLIENTS:
            dbname = name.split(".")[0]
            argv += ["--target", "%s:host=127.0.0.1 port=%d user=app dbname=%s:2"
                     % (name, ports[way], dbname), "--mode", mode, "--group", dbname, *options]
        self.load_process = start(argv, self.load_log + ".err", sig=signal.SIGKILL)
        self.await_progress(0, "the load")

    def read_load(self):
        """Acknowledgements and errors: (target, microseconds) and (target, us, sqlstate, text)."""
        targets, acks, errors = [], [], []
        if not os.path.exists(self.load_log):
            return acks, errors
        with open(self.load_log, errors="replace") as log:
            for line in log:
                words = line.rstrip("\n").split(" ", 4)
                if not line.endswith("\n"):
                    break
                if words[0] == "T":
                    first = int(line.split()[4])
                    targets.append((words[2], first, first + int(line.split()[5])))
                elif words[0] in "AE" and len(words) >= 4:
                    client = int(words[2])
                    target = next(name for name, first, end in targets if first <= client < end)
                    if words[0] == "A":
                        acks.append((target, int(words[1])))
                    else:
                        errors.append((target, int(words[1]), words[3],
                                       words[4] if len(words) > 4 else ""))
        return acks, errors

    def await_progress(self, since, what, limit=30):
        """Until every kind of client had something committed that began after `since`."""
        missing = []

        def all_went_on():
            assert self.load_process.poll() is None, open(self.load_log + ".err").read()
            counts = dict.fromkeys((client[0] for client in CLIENTS), 0)
            for target, when in self.read_load()[0]:
                counts[target] += 1 if when > since else 0
            missing[:] = [name for name, count in counts.items() if count < 2]
            return not missing
        try:
            wait_for(all_went_on, limit * SLOW, what)
        except AssertionError:
            raise AssertionError("%s: clients stand still: %s" % (what, ", ".join(missing))) from None

    def now(self):
        """The latest moment that the load has logged."""
        acks, errors = self.read_load()
        return max([when for _, when in acks] + [error[1] for error in errors] + [0])

    def stop_load(self):
        if self.load_process is not None:
            self.load_process.kill()
            self.load_process.wait()
            self.load_process = None

    def account(self, at):
        """Ends the load; what became of every row, and the errors."""
        self.load_process.send_signal(signal.SIGTERM)
        assert self.load_process.wait(60 * SLOW) == 0, open(self.load_log + ".err").read()
        self.load_process = None
        path = os.path.join(self.folder, "account.json")

        def place(cluster, dbname):
            return "%s=host=127.0.0.1 port=%d user=postgres dbname=%s" % (dbname, cluster.port,
                                                                          dbname)
        argv = [program(os.path.join("tests", "load", "pgshunt_load")), "account", "--log",
                self.load_log, "--json", path, "--allow-errors", "--new", place(self.pg1, "p1")]
        if at == "pg2":
            # Only now, and only to look: what was written after the fence would be here.
            self.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS true")
            argv += ["--new", place(self.pg2, "p2"), "--old", place(self.pg1, "p2")]
        else:
            argv += ["--new", place(self.pg1, "p2")]
        result = subprocess.run(argv, capture_output=True, text=True, timeout=120 * SLOW,
                                check=False)
        assert result.returncode in (0, 1), result.stdout + result.stderr
        with open(path) as account:
            return json.load(account)

    # --- what is really there -------------------------------------------------------------------

    def open_databases(self, cluster):
        return {row[0] for row in cluster.sql("SELECT datname FROM pg_database WHERE datallowconn "
                                              "AND datname IN ('p1', 'p2')")}

    def place(self):
        """Where p2 is, by what the servers say: exactly one that can be written."""
        promoted = not self.pg2.value("SELECT pg_is_in_recovery()")
        on_pg1, on_pg2 = self.open_databases(self.pg1), self.open_databases(self.pg2)
        if promoted:
            assert on_pg1 == {"p1"}, "pg1 has open: %s" % on_pg1
            assert on_pg2 == {"p2"}, "pg2 has open: %s" % on_pg2
            return "pg2"
        assert on_pg1 == {"p1", "p2"}, "pg1 has open: %s" % on_pg1
        return "pg1"

    def check_routers(self, place):
        for name, proxy in self.proxies.items():
            for row in proxy.command("SHOW HOLDS"):
                assert row["state"] == "open", "proxy %s still holds %s: %s" % (
                    name, row["database"], row["state"])
                assert row["target"] is None, "proxy %s has connections prepared" % name
            for dbname, server in (("p1", "pg1"), ("p2", place)):
                route = proxy.route(dbname)["server"]
                assert route == server, "proxy %s sends %s to %s" % (name, dbname, route)
        for bouncer in (self.bouncer, self.direct):
            assert all(row["paused"] == 0 for row in bouncer.admin("SHOW DATABASES")), \
                "pgbouncer %s is paused" % bouncer.name
        for dbname, server in (("p1", self.pg1), ("p2", getattr(self, place))):
            leads = int(self.direct.database(dbname)["port"])
            assert leads == server.port, "the pgbouncer leads %s to port %d" % (dbname, leads)
        for shard, dbname, server in ((0, "p1", "pg1"), (2, "p2", place), (3, "p2", place)):
            landed = self.pgx.sql("SELECT where_am_i(%d)" % shard, "hq", "app")[0][0]
            assert landed == "%s %s" % (server, dbname), "PL/Proxy: %d lands on %s" % (shard, landed)

    def wait_open(self, limit=20):
        """Holds that were left to their lease have ended."""
        deadline = time.monotonic() + limit * SLOW
        while time.monotonic() < deadline:
            if all(row["state"] == "open" for proxy in self.proxies.values()
                   for row in proxy.command("SHOW HOLDS")):
                return
            time.sleep(0.05)
