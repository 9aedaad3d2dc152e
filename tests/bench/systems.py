# SPDX-License-Identifier: PostgreSQL
"""The systems that are measured against each other, and what the kernel says about them."""
import glob
import os
import pwd
import random
import re
import signal
import socket
import subprocess
import time

OWNER = pwd.getpwnam("postgres") if os.getuid() == 0 else None
POOL = 20


def free_port():
    """Below the range from which the kernel takes clients' ports."""
    while True:
        port = random.randrange(15000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def cpu_usec(pid):
    """CPU time of all threads; the scheduler's own figure is exact, the ticks of stat are not."""
    total = 0
    for path in glob.glob("/proc/%d/task/*/schedstat" % pid):
        with open(path, encoding="ascii") as file:
            total += int(file.read().split()[0])
    if total:
        return total / 1000
    with open("/proc/%d/stat" % pid, encoding="ascii") as file:
        words = file.read().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) * 1e6 / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid):
    with open("/proc/%d/status" % pid, encoding="ascii") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) * 1024


class System:
    """A way to PostgreSQL: a port, and for all but the direct one a process."""
    name = ""
    pooled = False
    prepared = True

    def __init__(self, bench, pool_mode="transaction", server=None):
        self.bench = bench
        self.pool_mode = pool_mode
        self.server_port = server.port if server else bench.pg_port
        self.port = self.server_port
        self.process = None

    def command(self, auth):
        raise NotImplementedError

    def start(self, auth="trust"):
        for _ in range(3):
            self.port = free_port()
            log = os.path.join(self.bench.work, "%s.log" % self.name)
            ids = ({"user": OWNER.pw_uid, "group": OWNER.pw_gid, "extra_groups": []}
                   if OWNER else {})
            with open(log, "ab") as out:
                self.process = subprocess.Popen(self.command(auth), stdin=subprocess.DEVNULL,
                                                stdout=out, stderr=out, cwd=self.bench.work,
                                                start_new_session=True, **ids)
            self.bench.running.append(self)
            for _ in range(200):
                if self.process.poll() is not None:
                    break
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                        time.sleep(0.2)
                        return self
                time.sleep(0.05)
            self.stop()
        with open(log, encoding="utf-8", errors="replace") as file:
            raise SystemExit("%s does not start:\n%s" % (self.name, file.read()[-2000:]))

    def stop(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
        if self in self.bench.running:
            self.bench.running.remove(self)

    def cpu(self):
        return cpu_usec(self.process.pid) if self.process else 0.0

    def rss(self):
        return rss_bytes(self.process.pid)

    def write(self, name, text):
        path = os.path.join(self.bench.work, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, 0o644)
        return path


class Direct(System):
    name = "direct"

    def start(self, auth="trust"):
        return self


class Yardstick(System):
    name = "yardstick"

    def command(self, auth):
        return [self.bench.tool("tests/bench/pgshunt_forwarder"), str(self.port),
                str(self.server_port)]


class Answers(System):
    """In PostgreSQL's place: what a proxy can do when the server is not the limit."""
    name = "answers"

    def command(self, auth):
        return [self.bench.tool("tests/bench/pgshunt_answers"), str(self.port)]


class Pgshuntd(System):
    name = "pgshuntd"
    pooled = True

    def command(self, auth):
        state = os.path.join(self.bench.work, "state.%d" % self.port)
        os.makedirs(state, exist_ok=True)
        if OWNER:
            os.chown(state, OWNER.pw_uid, OWNER.pw_gid)
        return [self.bench.tool("pgshuntd"), "--config", self.write(
            "pgshunt.%d.yml" % self.port, """
proxy:
  listen_addresses: [127.0.0.1]
  port: %d
  workers: %d
  auth_type: %s
  users_file: %s
  state_directory: %s
  pool_mode: %s
  pool_size: %d
  max_client_connections: 20000
  log_connections: false
  log_disconnections: false
servers:
  pg: {host: 127.0.0.1, port: %d}
databases:
  bench: {server: pg, user: bench}
  bench2: {server: pg, dbname: bench, user: bench}
""" % (self.port, self.bench.workers, auth, self.bench.users, state, self.pool_mode, POOL,
       self.server_port))]


class Pgbouncer(System):
    name = "pgbouncer"
    pooled = True

    def __init__(self, bench, pool_mode="transaction", server=None):
        super().__init__(bench, pool_mode, server)
        said = subprocess.run([bench.pgbouncer, "--version"], capture_output=True, text=True,
                              check=True).stdout
        self.version = re.search(r"PgBouncer (\S+)", said).group(1)
        self.keeps_prepared = tuple(map(int, self.version.split(".")[:2])) >= (1, 21)
        self.prepared = self.keeps_prepared or pool_mode == "session"

    def command(self, auth):
        return [self.bench.pgbouncer, self.write("pgbouncer.%d.ini" % self.port, """
[databases]
bench = host=127.0.0.1 port=%d user=bench
bench2 = host=127.0.0.1 port=%d dbname=bench user=bench
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = %s
auth_file = %s
pool_mode = %s
default_pool_size = %d
max_client_conn = 20000
log_connections = 0
log_disconnections = 0
ignore_startup_parameters = extra_float_digits
%s""" % (self.server_port, self.server_port, self.port, auth, self.bench.users,
         self.pool_mode, POOL,
         "max_prepared_statements = 200\n" if self.keeps_prepared else ""))]
