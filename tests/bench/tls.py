# SPDX-License-Identifier: PostgreSQL
"""TLS between clients and the proxy: transactions, connections, memory of idle clients, and the least
that OpenSSL itself keeps of a connection.  Both poolers get the same certificate."""
import contextlib
import os
import shutil
import subprocess

from systems import OWNER, Pgbouncer, Pgshuntd


class TlsPgshuntd(Pgshuntd):
    def command(self, auth):
        argv = super().command(auth)
        cert, key = self.bench.certificate
        with open(argv[-1], encoding="utf-8") as file:
            text = file.read()
        self.write(os.path.basename(argv[-1]), text.replace(
            "servers:\n", "  client_tls_sslmode: require\n  client_tls_cert_file: %s\n"
            "  client_tls_key_file: %s\nservers:\n" % (cert, key), 1))
        return argv


class TlsPgbouncer(Pgbouncer):
    def command(self, auth):
        argv = super().command(auth)
        cert, key = self.bench.certificate
        with open(argv[-1], "a", encoding="utf-8") as file:
            file.write("client_tls_sslmode = require\nclient_tls_cert_file = %s\n"
                       "client_tls_key_file = %s\n" % (cert, key))
        return argv


def make_certificate(bench):
    cert, key = (os.path.join(bench.work, name) for name in ("tls.crt", "tls.key"))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", cert, "-subj",
                    "/CN=localhost", "-days", "2"], check=True, capture_output=True)
    os.chmod(key, 0o600)
    if OWNER:
        shutil.chown(key, OWNER.pw_uid, OWNER.pw_gid)
        shutil.chown(cert, OWNER.pw_uid, OWNER.pw_gid)
    bench.certificate = (cert, key)


@contextlib.contextmanager
def clients_with_tls(bench):
    """libpq 15 would otherwise ask for a GSSAPI library in every connection."""
    before = dict(bench.env)
    bench.env.update(PGSSLMODE="require", PGGSSENCMODE="disable")
    try:
        yield
    finally:
        bench.env.clear()
        bench.env.update(before)


def floor(bench, count):
    """Bytes that a connection of the server's side keeps after its handshake, buffers released."""
    done = subprocess.run([bench.tool("tests/bench/pgshunt_tls_floor"), *bench.certificate,
                           str(count)], check=True, capture_output=True, text=True)
    return float(done.stdout)


def transactions(bench, systems):
    figures = {}
    cells = [(1, "simple"), (16, "simple"), (16, "extended"), (100, "simple")]
    for clients, protocol in bench.few(cells):
        for system in bench.rounds(systems):
            rate, cpu = bench.transactions(system, "SELECT 1;\n", clients, protocol)
            bench.say("tls: %s, %d clients, %s: %.0f/s, %.2f µs"
                      % (system.name, clients, protocol, rate, cpu))
            figures.setdefault("%d, %s" % (clients, protocol), {}).setdefault(
                system.name, []).append((rate, cpu))
            bench.note("tls", (clients, protocol, system.name), (rate, cpu))
    return figures


def connections(bench, systems):
    figures = {}
    for system in bench.rounds(systems):
        bench.pgbench(system, "SELECT 1;\n", 4, "simple", "-C", "-t", "5")
        count, rate, used = bench.pgbench(system, "SELECT 1;\n", 4, "simple", "-C", "-T",
                                          str(bench.options.seconds))
        bench.say("tls: %s, connections: %.0f/s, %.0f µs" % (system.name, rate, used / count))
        figures.setdefault(system.name, []).append((rate, used / count))
        bench.note("tls", ("connections", system.name), (rate, used / count))
    return {"connection": figures}


def memory(bench, kinds):
    count = 300 if bench.options.quick else 2000
    figures = {}
    for kind in kinds:
        for _ in range(bench.options.rounds):
            system = kind(bench).start()
            bench.idle(system, 50)
            before = system.rss()
            each = (bench.idle(system, count) - before) / count
            bench.say("tls: %s, idle client: %.0f bytes" % (system.name, each))
            figures.setdefault(system.name, []).append(each)
            bench.note("tls", ("memory", system.name), each)
            system.stop()
    return count, figures


def section(bench, table, spread, ratio):
    kinds = (TlsPgshuntd, TlsPgbouncer)
    make_certificate(bench)
    with clients_with_tls(bench):
        systems = bench.systems(*kinds)
        figures = {**transactions(bench, systems), **connections(bench, systems)}
        for system in systems:
            system.stop()
        count, idle = memory(bench, kinds)
    rows = []
    for what, by_name in figures.items():
        for index, unit, digits in ((1, "CPU µs each", 1), (0, "a second", 0)):
            ours, theirs = ([figure[index] for figure in by_name[kind.name]] for kind in kinds)
            rows.append(["%s: %s" % (what, unit), spread(ours, digits), spread(theirs, digits),
                         ratio(ours, theirs)])
    rows.append(["idle client, bytes", spread(idle["pgshuntd"], 0), spread(idle["pgbouncer"], 0),
                 ratio(idle["pgshuntd"], idle["pgbouncer"])])
    rows.append(["… of which OpenSSL keeps", spread([floor(bench, count)], 0), "", ""])
    table("TLS of clients (1.3, AES-256-GCM, ECDSA P-256)",
          ["clients, protocol", "pgshuntd", "pgbouncer", "÷ pgbouncer"], rows)
