#!/usr/bin/python3
# SPDX-License-Identifier: PostgreSQL
"""Load on one proxy, each kind for a while, and all together: idle clients, busy ones, storms of
connections, slow readers and writers, half-open connections.  A probe says what others notice of it."""
import argparse
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))

import pgwire
from certs import Authority, TlsConn
from pgwire import query, wait_for
from proxy import Proxy
from servers import BINDIR, SCHEMA, Cluster, subfolder


class Probe(threading.Thread):
    """A client that asks a little all the time, in a database of its own."""

    def __init__(self, proxy):
        super().__init__(daemon=True)
        self.conn = proxy.wire("p2")
        self.longest, self.count, self.going = 0.0, 0, True
        self.failure = None

    def run(self):
        try:
            while self.going:
                began = time.monotonic()
                assert self.conn.value("SELECT 1") == "1"
                self.longest = max(self.longest, time.monotonic() - began)
                self.count += 1
                time.sleep(0.01)
        except Exception as failure:  # judged by the main thread
            self.failure = failure

    def take(self):
        """The longest time since the last call, in ms."""
        longest, self.longest = self.longest, 0.0
        assert self.failure is None, self.failure
        return longest * 1000


class Soak:
    def __init__(self, proxy, say=print):
        self.proxy, self.say = proxy, say
        self.probe = Probe(proxy)
        self.probe.start()
        self.rows = {}

    def descriptors(self):
        return len(os.listdir("/proc/%d/fd" % self.proxy.process.pid))

    def note(self, what, text, figure=None):
        self.rows[what] = figure
        self.say("%-22s %s; the probe waited %.1f ms at most" % (what, text, self.probe.take()))

    # --- kinds of load ------------------------------------------------------------------------

    def idle(self, count, secure=False):
        """So many clients that have logged in and do nothing: bytes for each."""
        before = self.proxy.memory()
        conns = []
        for _ in range(count):
            conn = (TlsConn if secure else pgwire.Conn)(self.proxy.host, self.proxy.port)
            conn.login("app", "p1")
            conns.append(conn)
        each = (self.proxy.memory() - before) / count
        self.note("idle, TLS" if secure else "idle", "%d clients, %.0f bytes each" % (count, each), each)
        return conns

    def busy(self, count, seconds):
        """pgbench with so many clients; its errors are ours."""
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
            script.write("SELECT count(*) FROM items WHERE id < 10;\n")
            script.flush()
            os.chmod(script.name, 0o644)
            done = subprocess.run(
                [BINDIR + "/pgbench", "-n", "-h", self.proxy.host, "-p", str(self.proxy.port), "-U", "app",
                 "-c", str(count), "-j", "2", "-t", str(30 * seconds), "-M", "prepared", "-f", script.name, "p1"],
                capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "aborted" not in done.stderr, done.stderr[-2000:]
        rate = float(done.stdout.split("tps = ")[1].split()[0])
        self.note("busy", "%d clients, %.0f transactions/s, %d MB" %
                  (count, rate, self.proxy.memory() >> 20), rate)

    def storm(self, seconds, user="app", password=None, secure=False):
        """Connections that come, ask once and go, from eight threads."""
        end, done, failures = time.monotonic() + seconds, [0] * 8, []

        def run(number):
            try:
                while time.monotonic() < end:
                    conn = (TlsConn if secure else pgwire.Conn)(self.proxy.host, self.proxy.port)
                    with conn:
                        conn.login(user, "p1", password)
                        assert conn.value("SELECT 1") == "1"
                    done[number] += 1
            except Exception as failure:
                failures.append(failure)
        threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures[0]
        what = "storm" + (", TLS" if secure else "") + (", SCRAM" if password else "")
        self.note(what, "%d connections in %d s" % (sum(done), seconds), sum(done))

    def slow(self, count, megabytes=4):
        """Readers that take little at a time, writers that give little: bytes for each of both."""
        before = self.proxy.memory()
        readers = [self.proxy.wire("p1") for _ in range(count)]
        for conn in readers:
            conn.send(query("SELECT repeat('x', %d)" % (megabytes << 20)))
        writers = [self.proxy.wire("p1") for _ in range(count)]
        text = query("SELECT length('%s')" % ("y" * 20000))
        for at in range(0, len(text), 4000):
            for conn in writers:
                conn.send(text[at:at + 4000])
            for conn in readers:
                conn.buffer += conn.sock.recv(2000)
        each = (self.proxy.memory() - before) / (2 * count)
        for conn in readers:
            messages = conn.ready()
            assert len(pgwire.rows(messages)[0][0]) == megabytes << 20
        for conn in writers:
            assert pgwire.rows(conn.ready()) == [["20000"]]
        for conn in readers + writers:
            conn.close()
        self.note("slow", "%d readers, %d writers, %.0f bytes each" % (count, count, each), each)

    def half_open(self, count):
        """Connections that stop at every point of their life, and are left alone."""
        beginnings = [b"", b"\0", pgwire.startup({"user": "app", "database": "p1"})[:-3],
                      struct.pack("!ii", 8, pgwire.SSL_REQUEST), b"\x16\x03\x01\0\xff"]
        conns = []
        before = self.proxy.memory()
        for n in range(count):
            conn = pgwire.Conn(self.proxy.host, self.proxy.port)
            if n % 2:
                conn.send(random.choice(beginnings))
            else:
                conn.login("app", "p1")
                conn.send(query("SELECT 'never'")[:random.randrange(1, 12)])
            conns.append(conn)
        each = (self.proxy.memory() - before) / count
        self.note("half-open", "%d connections, %.0f bytes each" % (count, each), each)
        return conns

    # --- all of it ----------------------------------------------------------------------------

    def run(self, idle, busy, seconds):
        self.storm(1)
        start = self.descriptors()
        conns = self.idle(idle) + self.idle(max(idle // 10, 1), secure=True)
        self.busy(busy, seconds)
        for user, password, secure in (("app", None, False), ("app", None, True),
                                       ("u_scram", "scram secret", False)):
            self.storm(seconds, user, password, secure)
        conns += self.half_open(max(idle // 20, 10))
        self.slow(max(busy // 20, 4))
        self.busy(busy, seconds)
        for conn in random.sample(conns[:idle], min(idle, 100)):
            assert conn.value("SELECT 'still here'") == "still here"
        for conn in conns:
            conn.close()
        wait_for(lambda: self.descriptors() <= start + 20, 60, "closed descriptors")
        assert all(row["cl_active"] == row["cl_waiting"] == "0"
                   for row in self.proxy.command("SHOW POOLS") if row["database"] == "p1")
        self.probe.going = False
        self.probe.join(10)
        self.note("afterwards", "%d MB, %d descriptors" % (self.proxy.memory() >> 20, self.descriptors()))
        self.probe.conn.close()


def settings(folder):
    """Of a proxy for it: TLS as clients like it, and room."""
    authority = Authority(folder, "soak-ca")
    cert, key = authority.issue("proxy", "/CN=localhost", "DNS:localhost,IP:127.0.0.1")
    hba = os.path.join(folder, "soak_hba")
    with open(hba, "w") as out:
        out.write("host pgshunt all all scram-sha-256\nhost all u_scram all scram-sha-256\n"
                  "host all app all trust\n")
    return {"client_tls_sslmode": "allow", "client_tls_cert_file": cert, "client_tls_key_file": key,
            "auth_type": "hba", "auth_hba_file": hba, "pool_size": 20, "max_client_connections": 15000, "log_level": "warning"}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idle", type=int, default=10000)
    parser.add_argument("--busy", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=10)
    options = parser.parse_args()
    needed = options.idle * 3 + options.busy * 3 + 500
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 2 >= needed, "ulimit -n is too low"
    folder = tempfile.mkdtemp(prefix="pgshunt-soak.")
    os.chmod(folder, 0o755)
    cluster = Cluster(subfolder(folder), "pg").create()
    proxy = None
    try:
        for name in ("p1", "p2"):
            cluster.sql("CREATE DATABASE " + name)
            cluster.sql(SCHEMA, name)
        proxy = Proxy(subfolder(folder), {"pg": cluster}, {"p1": "pg", "p2": "pg"},
                      **settings(folder)).start()
        Soak(proxy).run(options.idle, options.busy, options.seconds)
    finally:
        if proxy is not None:
            proxy.stop()
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
