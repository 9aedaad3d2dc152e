# SPDX-License-Identifier: PostgreSQL
"""pgshuntd under test: its configuration, its life, its console and its log."""
import os
import re
import signal
import subprocess
import time

import psycopg
import yaml

import pgwire
from servers import SLOW, free_port, start

BIN = os.environ.get("PGSHUNT_BIN", "")
ADMIN, ADMIN_PASSWORD = "pgshunt_admin", "admin secret"
STATS, STATS_PASSWORD = "watcher", "stats secret"

REPORT = re.compile(r"(ERROR: AddressSanitizer|ERROR: LeakSanitizer|WARNING: ThreadSanitizer|"
                    r"runtime error:|Assertion|assertion failed)")

# What every test proxy has unless a test says otherwise.
DEFAULTS = {
    "auth_type": "trust", "workers": 2, "worker_fill": 0, "pool_mode": "transaction",
    "pool_size": 4,
    "admin_users": [ADMIN], "stats_users": [STATS], "log_level": "debug",
    "server_login_retry": "200ms", "shutdown_timeout": "10s", "client_login_timeout": "20s",
}

USERS = {ADMIN: ADMIN_PASSWORD, STATS: STATS_PASSWORD, "postgres": "", "app": "", "app2": "", "counted": "",
         "copier": "", "u_clear": "clear secret", "u_md5": "md5 secret", "u_scram": "scram secret",
         "nobody_hba": ""}


def program(name):
    path = os.path.join(BIN, name)
    assert BIN and os.access(path, os.X_OK), "PGSHUNT_BIN must name the folder of " + name
    return path


class Proxy:
    """One pgshuntd.  `settings` are those of the proxy section; databases are given as
    name -> server name, or name -> dict of settings."""

    alive = []  # of the running test, for its report

    def __init__(self, folder, servers, databases, users=None, secrets=None, name="proxy",
                 extra=None, **settings):
        self.folder = os.path.join(folder, name)
        self.state = os.path.join(self.folder, "state")
        os.makedirs(self.state)
        self.config_path = os.path.join(self.folder, "pgshunt.yml")
        self.users_path = os.path.join(self.folder, "userlist.txt")
        self.log_path = os.path.join(self.folder, "log")
        self.host = "127.0.0.1"
        self.port = free_port()
        self.process = None
        self.binary = None  # another one than that under test
        self.env = {}  # beyond that of the tests
        self.expect_exit = 0
        self.settings = {"listen_addresses": ["127.0.0.1"], "port": self.port,
                         "users_file": self.users_path, "state_directory": self.state,
                         **DEFAULTS, **settings}
        self.servers = {key: self.server(value) for key, value in servers.items()}
        self.databases = {key: {"server": value} if isinstance(value, str) else value
                          for key, value in databases.items()}
        self.users = users or {}
        self.secrets = dict(USERS) if secrets is None else secrets
        self.extra = extra or {}
        self.write()

    @staticmethod
    def server(cluster):
        if isinstance(cluster, dict):
            return cluster
        return {"host": cluster.host, "port": cluster.port, "check_user": "postgres"}

    def config(self):
        config = {"proxy": self.settings, "servers": self.servers, "databases": self.databases}
        if self.users:
            config["users"] = self.users
        config.update(self.extra)
        return config

    def write(self):
        with open(self.config_path, "w") as out:
            yaml.safe_dump(self.config(), out, sort_keys=False)
        with open(self.users_path, "w") as out:
            for user, secret in self.secrets.items():
                out.write('"%s" "%s"\n' % (user.replace('"', '""'), secret.replace('"', '""')))
        os.chmod(self.users_path, 0o600)

    # --- life -----------------------------------------------------------------------------------

    def start(self, fault=None, wait=True, options=()):
        env = dict(os.environ)
        env.setdefault("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0:exitcode=99")
        env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
        env.setdefault("TSAN_OPTIONS", "exitcode=98:second_deadlock_stack=1")
        env.pop("PGSHUNT_FAULT", None)
        env.update(self.env)
        if fault:
            env["PGSHUNT_FAULT"] = fault
        self.process = start([self.binary or program("pgshuntd"), "--config", self.config_path, *options],
                             self.log_path, env=env)
        if self not in Proxy.alive:
            Proxy.alive.append(self)
        if wait:
            pgwire.wait_for(self.listening, 20 * SLOW, "pgshuntd to listen")
        return self

    def takeover(self, fault=None, wait=True):
        """Another process takes over; the former one."""
        former = self.process
        self.start(fault, wait=False, options=("--takeover",))
        if wait:
            # The former one listens a moment before it says the same.
            ready = re.compile(r"\b%d\b.* is ready: " % self.process.pid)
            pgwire.wait_for(lambda: ready.search(self.log()) or self.process.poll() is not None,
                            30 * SLOW, "the takeover")
            assert self.process.poll() is None, self.log()[-3000:]
        return former

    def listening(self):
        assert self.process.poll() is None, "pgshuntd ended at start:\n" + self.log()[-3000:]
        try:
            pgwire.Conn(self.host, self.port).close()
            # The Unix socket comes after it.
            if self.settings.get("unix_socket_directory"):
                pgwire.Conn(self.settings["unix_socket_directory"], self.port).close()
            return True
        except OSError:
            return False

    def stop(self, sig=signal.SIGINT, timeout=30):
        """Ends the process and checks how it ended."""
        if self.process is None:
            return
        died = self.process.poll()
        if died is None:
            self.process.send_signal(sig)
            if sig == signal.SIGINT:
                time.sleep(0.05)
                self.process.send_signal(sig)
            try:
                self.process.wait(timeout * SLOW)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGABRT)
                self.process.wait(10)
                raise AssertionError("pgshuntd did not end within %ds after signal %d"
                                     % (timeout, sig)) from None
        code = self.process.returncode
        self.process = None
        assert died is None, "pgshuntd died with exit code %s:\n%s" % (code, self.log()[-4000:])
        self.check_log()
        assert code == self.expect_exit, "pgshuntd ended with exit code %s" % code

    def kill(self):
        self.process.kill()
        self.process.wait(10)
        self.process = None

    def check_alive(self):
        if self.process is not None:
            code = self.process.poll()
            assert code is None, "pgshuntd died with exit code %s:\n%s" % (code, self.log()[-4000:])

    def check_log(self):
        report = REPORT.search(self.log())
        assert not report, "sanitizer report:\n" + self.log()[report.start() - 200:][:8000]

    def reload(self):
        self.write()
        self.process.send_signal(signal.SIGHUP)

    def log(self):
        try:
            with open(self.log_path, errors="replace") as log:
                return log.read()
        except FileNotFoundError:
            return ""

    def memory(self):
        """Resident bytes."""
        with open("/proc/%d/statm" % self.process.pid) as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    # --- clients --------------------------------------------------------------------------------

    def wire(self, dbname="p1", user="app", password=None, **params):
        conn = pgwire.Conn(self.host, self.port)
        conn.login(user, dbname, password, **params)
        return conn

    def connect(self, dbname="p1", user="app", **kwargs):
        kwargs.setdefault("connect_timeout", 20)
        return psycopg.connect(host=self.host, port=self.port, dbname=dbname, user=user, **kwargs)

    def console(self, dbname="pgshunt", user=ADMIN, password=ADMIN_PASSWORD):
        return Console(self, dbname, user, password)

    def command(self, text):
        """One console command; its rows as dictionaries."""
        with self.console() as console:
            return console(text)

    def hold(self, dbname="p2", options=""):
        return self.command("HOLD %s %s" % (dbname, options))[0]

    def held(self, dbname="p2"):
        return [row for row in self.command("SHOW HOLDS") if row["database"] == dbname][0]

    def route(self, dbname="p2"):
        return [row for row in self.command("SHOW ROUTES") if row["database"] == dbname][0]


class ConsoleError(Exception):
    def __init__(self, fields):
        super().__init__("%s: %s" % (fields.get("C"), fields))
        self.fields = fields
        self.sqlstate = fields.get("C")


class Console:
    """A console session on a raw socket."""

    def __init__(self, proxy, dbname, user, password):
        self.conn = pgwire.Conn(proxy.host, proxy.port, 60 * SLOW)
        self.conn.login(user, dbname, password)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.conn.close()

    def send(self, text):
        self.conn.send(pgwire.query(text))

    def result(self):
        messages = self.conn.ready()
        failed = pgwire.errors(messages)
        if failed:
            raise ConsoleError(failed[0])
        columns, result = [], []
        for msg in messages:
            if msg.kind == "T":
                columns = msg.columns()
            elif msg.kind == "D":
                result.append(dict(zip(columns, msg.row())))
        self.tag = pgwire.tags(messages)[-1] if pgwire.tags(messages) else None
        return result

    def __call__(self, text):
        self.send(text)
        return self.result()
