#!/usr/bin/python3
# SPDX-License-Identifier: PostgreSQL
"""The benchmark's sections and tables; tests/bench/run.sh prepares the server and starts it."""
import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time

import tls
from systems import Answers, Direct, Pgbouncer, Pgshuntd, Yardstick

SECTIONS = ["transactions", "session", "pipelines", "bulk", "memory", "connections", "syscalls", "tls",
            "databases", "move"]

PIPELINE = "\\startpipeline\n" + "SELECT 1;\n" * 10 + "\\endpipeline\n"


def spread(values, digits=1):
    """Median, and the range if there is one."""
    values = [value for value in values if value is not None]
    if not values:
        return "n/a"
    middle = "%.*f" % (digits, statistics.median(values))
    if len(values) == 1:
        return middle
    return "%s (%.*f–%.*f)" % (middle, digits, min(values), digits, max(values))


def ratio(ours, theirs):
    ours = [value for value in ours if value is not None]
    theirs = [value for value in theirs if value is not None]
    if not ours or not theirs or statistics.median(theirs) == 0:
        return "n/a"
    return "%.2f" % (statistics.median(ours) / statistics.median(theirs))


def table(title, heads, rows):
    print("\n### %s\n" % title)
    print("| " + " | ".join(heads) + " |")
    print("|" + "|".join(" --- " if i == 0 else " ---: " for i in range(len(heads))) + "|")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    sys.stdout.flush()


class Bench:
    def __init__(self, options):
        self.options = options
        self.work = options.work
        self.pg_port = options.pg_port
        self.users = os.path.join(options.work, "userlist.txt")
        self.pgbouncer = os.environ.get("PGBOUNCER", "/usr/sbin/pgbouncer")
        self.workers = options.workers
        self.running = []
        self.results = {}
        self.env = dict(os.environ, PGPASSFILE=os.path.join(options.work, "pgpass"))
        with open(self.env["PGPASSFILE"], encoding="utf-8") as file:
            self.password = re.search("bench_scram:(.*)", file.read()).group(1)

    def tool(self, name):
        return os.path.join(self.options.build, name)

    def systems(self, *kinds, auth="trust", pool_mode="transaction", server=None):
        return [kind(self, pool_mode, server).start(auth) for kind in kinds]

    def rounds(self, systems):
        """Every system in every round, each round beginning with another one."""
        for number in range(self.options.rounds):
            at = number % len(systems)
            yield from systems[at:] + systems[:at]

    def few(self, cells):
        """What the quick form measures: enough to show that each section works."""
        return cells[::4] if self.options.quick else cells

    def note(self, section, key, value):
        self.results.setdefault(section, {}).setdefault(" ".join(map(str, key)), []).append(value)

    def say(self, text):
        print(text, file=sys.stderr, flush=True)

    def pgbench(self, system, script, clients, protocol, *more, user="bench", dbname="bench"):
        """Runs pgbench; its transactions, their rate, and the CPU time of the system's process."""
        path = os.path.join(self.work, "script.%s.sql" % dbname)
        with open(path, "w", encoding="ascii") as file:
            file.write(script)
        argv = [os.path.join(self.options.pg_bin, "pgbench"), "-n", "-h", "127.0.0.1",
                "-p", str(system.port), "-U", user, "-M", protocol, "-c", str(clients),
                "-j", "2" if clients >= 100 else "1", "-f", path, *more, dbname]
        before = system.cpu()
        done = subprocess.run(argv, capture_output=True, text=True, env=self.env, check=False)
        used = system.cpu() - before
        count = re.search(r"actually processed: (\d+)", done.stdout)
        rate = re.search(r"tps = ([\d.]+)", done.stdout)
        if done.returncode == 0 and count is not None and count.group(1) == "0" and more == ("-T", "1"):
            # So many sessions begin at once that a slow machine gets nothing done in that time.
            return self.pgbench(system, script, clients, protocol, "-T", "5", user=user, dbname=dbname)
        if done.returncode != 0 or count is None or int(count.group(1)) == 0:
            raise SystemExit("pgbench through %s failed: %s\n%s"
                             % (system.name, " ".join(argv), done.stderr[-2000:]))
        return int(count.group(1)), float(rate.group(1)), used

    def asker(self, system, how, clients, user="bench", dbname="bench"):
        """The same as pgbench() with clients that cost next to nothing."""
        before = system.cpu()
        done = subprocess.run([self.tool("tests/bench/pgshunt_asker"), how, str(system.port), dbname, user,
                               str(clients), str(self.options.seconds)], capture_output=True, text=True,
                              env=dict(self.env, PGPASSWORD=self.password), check=False)
        used = system.cpu() - before
        if done.returncode != 0:
            raise SystemExit("pgshunt_asker through %s failed: %s" % (system.name, done.stderr[-2000:]))
        count, rate = done.stdout.split()
        return int(count), float(rate), used

    def transactions(self, system, script, clients, protocol):
        """(transactions a second, CPU microseconds each), without what the logins cost."""
        login = 0.0
        if clients >= 100:
            login = self.pgbench(system, script, clients, protocol, "-t", "1")[2]
        count, rate, used = self.pgbench(system, script, clients, protocol,
                                         "-T", str(self.options.seconds))
        return rate, max(used - login, 0.0) / count

    # --- sections -----------------------------------------------------------------------------

    def cells(self, section, script, cells, pool_mode="transaction"):
        """The figures of every system in every cell of (clients, protocol)."""
        cells = self.few(cells)
        systems = self.systems(Direct, Yardstick, Pgshuntd, Pgbouncer, pool_mode=pool_mode)
        figures = {}
        for clients, protocol in cells:
            for system in self.rounds(systems):
                if protocol == "prepared" and not system.prepared:
                    continue
                # A thousand backends of their own say nothing about a proxy.
                if clients >= 1000 and system.name in ("direct", "yardstick"):
                    continue
                rate, cpu = self.transactions(system, script, clients, protocol)
                self.say("%s: %s, %d clients, %s: %.0f/s, %.2f µs"
                         % (section, system.name, clients, protocol, rate, cpu))
                figures.setdefault((clients, protocol, system.name), []).append((rate, cpu))
                self.note(section, (clients, protocol, system.name), (rate, cpu))
        for system in systems:
            system.stop()
        self.cell_tables(section, cells, figures)

    def cell_tables(self, section, cells, figures):
        def column(cell, name, index):
            return [figure[index] for figure in figures.get(cell + (name,), [])]

        table("%s: CPU of the proxy process, µs each" % section.capitalize(),
              ["clients, protocol", "yardstick", "pgshuntd", "pgbouncer", "÷ yardstick",
               "÷ pgbouncer"],
              [["%d, %s" % cell] +
               [spread(column(cell, name, 1)) for name in ("yardstick", "pgshuntd", "pgbouncer")] +
               [ratio(column(cell, "pgshuntd", 1), column(cell, name, 1))
                for name in ("yardstick", "pgbouncer")] for cell in cells])
        table("%s a second" % section.capitalize(),
              ["clients, protocol", "direct", "yardstick", "pgshuntd", "pgbouncer",
               "÷ pgbouncer"],
              [["%d, %s" % cell] +
               [spread(column(cell, name, 0), 0)
                for name in ("direct", "yardstick", "pgshuntd", "pgbouncer")] +
               [ratio(column(cell, "pgshuntd", 0), column(cell, "pgbouncer", 0))]
               for cell in cells])

    def section_transactions(self):
        self.cells("transactions", "SELECT 1;\n",
                   [(clients, protocol) for clients in (1, 16, 100, 1000)
                    for protocol in ("simple", "extended", "prepared")])

    def section_session(self):
        """Nothing moves: what it costs to know of every session what would have to move."""
        self.cells("transactions of session clients", "SELECT 1;\n",
                   [(clients, protocol) for clients in (1, 16)
                    for protocol in ("simple", "extended", "prepared")], "session")

    def section_pipelines(self):
        self.cells("pipelines of ten", PIPELINE, [(16, "extended"), (16, "prepared")])

    def section_bulk(self):
        """A large result and a large COPY: CPU a gigabyte, and how far the memory grows."""
        megabytes = 20 if self.options.quick else 100
        systems = self.systems(Yardstick, Pgshuntd, Pgbouncer)
        rows = []
        for kind in ("result", "copy"):
            figures = {}
            for system in self.rounds(systems):
                figure = self.bulk_once(system, kind, megabytes)
                self.say("bulk: %s of %d MB through %s: %.2f s/GB, %+d kB"
                         % (kind, megabytes, system.name, *figure))
                figures.setdefault(system.name, []).append(figure)
                self.note("bulk", (kind, system.name), figure)
            cpu = {name: [figure[0] for figure in of] for name, of in figures.items()}
            rows.append(["%s, CPU s/GB" % kind] + [spread(cpu[system.name], 2)
                                                   for system in systems] +
                        [ratio(cpu["pgshuntd"], cpu["yardstick"]),
                         ratio(cpu["pgshuntd"], cpu["pgbouncer"])])
            rows.append(["%s, memory growth, kB" % kind] +
                        [spread([figure[1] for figure in figures[system.name]], 0)
                         for system in systems] + ["", ""])
        for system in systems:
            system.stop()
        table("%d MB in one result, %d MB by COPY" % (megabytes, megabytes),
              ["", "yardstick", "pgshuntd", "pgbouncer", "÷ yardstick", "÷ pgbouncer"], rows)

    def bulk_once(self, system, kind, megabytes):
        conninfo = "host=127.0.0.1 port=%d user=bench dbname=bench" % system.port
        most = [0]
        ended = threading.Event()

        def watch():
            while not ended.wait(0.01):
                most[0] = max(most[0], system.rss())

        rss = system.rss()
        cpu = system.cpu()
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            subprocess.run([self.tool("tests/bench/pgshunt_client"), kind, conninfo,
                            str(megabytes)], check=True, env=self.env)
        finally:
            ended.set()
            watcher.join()
        return (system.cpu() - cpu) / 1e6 / (megabytes / 1000), max(most[0] - rss, 0) / 1024

    def section_memory(self):
        """Idle clients that are logged in: what each adds to the resident memory."""
        count = 1000 if self.options.quick else 5000
        figures = {}
        for kind in (Pgshuntd, Pgbouncer):
            for _ in range(self.options.rounds):
                system = kind(self).start()
                self.idle(system, 50)
                before = system.rss()
                each = (self.idle(system, count) - before) / count
                self.say("memory: %s, %d idle clients: %.0f bytes each" % (system.name, count, each))
                figures.setdefault(system.name, []).append(each)
                self.note("memory", (system.name,), each)
                system.stop()
        table("Memory of an idle client that is logged in, bytes (%d of them)" % count,
              ["", "pgshuntd", "pgbouncer", "÷ pgbouncer"],
              [["bytes", spread(figures["pgshuntd"], 0), spread(figures["pgbouncer"], 0),
                ratio(figures["pgshuntd"], figures["pgbouncer"])]])

    def idle(self, system, count):
        """Logs clients in and out; the resident memory while they are there."""
        conninfo = "host=127.0.0.1 port=%d user=bench dbname=bench" % system.port
        with subprocess.Popen([self.tool("tests/bench/pgshunt_client"), "idle", conninfo,
                               str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              env=self.env) as client:
            if client.stdout.readline() != b"ready\n":
                raise SystemExit("%d idle clients do not fit into %s" % (count, system.name))
            time.sleep(1)
            rss = system.rss()
            client.stdin.close()
            client.wait()
        time.sleep(0.5)
        return rss

    def section_connections(self):
        """One connection a transaction, with trust and with SCRAM; of the latter, most is what libpq
        computes for each password, so there is also a client that does so once."""
        rows = []
        for auth, user in (("trust", "bench"), ("scram-sha-256", "bench_scram")):
            systems = self.systems(Direct, Pgshuntd, Pgbouncer, auth=auth)
            for client in ("pgbench", "light client"):
                rows += self.connections(systems, auth, user, client)
            for system in systems:
                system.stop()
        table("Connections (login, SELECT 1, logout; 4 clients)",
              ["", "direct", "pgshuntd", "pgbouncer", "÷ pgbouncer"], rows)

    def connections(self, systems, auth, user, client):
        figures = {}
        for system in self.rounds(systems):
            if client == "pgbench":
                # Logins that begin with an empty pool would count PostgreSQL's.
                self.pgbench(system, "SELECT 1;\n", 4, "simple", "-C", "-t", "5", user=user)
                count, rate, used = self.pgbench(system, "SELECT 1;\n", 4, "simple", "-C",
                                                 "-T", str(self.options.seconds), user=user)
            else:
                count, rate, used = self.asker(system, "login", 4, user=user)
            self.say("connections: %s, %s, %s: %.0f/s, %.0f µs"
                     % (system.name, auth, client, rate, used / count))
            figures.setdefault(system.name, []).append((rate, used / count))
            self.note("connections", (auth, client, system.name), (rate, used / count))
        for index, what in ((0, "a second"), (1, "CPU µs each")):
            by_name = {name: [figure[index] for figure in of] for name, of in figures.items()}
            yield ["%s, %s, %s" % (auth, client, what),
                   spread(by_name["direct"], 0) if index == 0 else "",
                   spread(by_name["pgshuntd"], 0), spread(by_name["pgbouncer"], 0),
                   ratio(by_name["pgshuntd"], by_name["pgbouncer"])]

    def databases_once(self, system, names, how):
        """The rate of all databases together, each with a load of its own at the same time."""
        rates = {}

        def run(name):
            clients = 32 // len(names)
            if how == "answers":
                rates[name] = self.asker(system, "ask", clients, dbname=name)[1]
                return
            script = PIPELINE if how == "pipelines of ten, prepared" else "SELECT 1;\n"
            rates[name] = self.pgbench(system, script, clients, how.rsplit(", ", 1)[-1],
                                       "-T", str(self.options.seconds), dbname=name)[1]
        threads = [threading.Thread(target=run, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(rates) < len(names):
            raise SystemExit("a load through %s failed" % system.name)
        return sum(rates.values())

    def section_databases(self):
        """Two databases at once: as many workers as CPUs against the one process of pgbouncer, which is
        the limit where that is busy all the time.  PostgreSQL and pgbench take most of both CPUs; in
        pipelines of prepared statements they have the least to do for each, and in "answers" a server
        and clients that cost as little as they can take their place."""
        rows = []
        for hows in (["simple", "prepared", "pipelines of ten, prepared"], ["answers"]):
            server = Answers(self).start() if hows == ["answers"] else None
            systems = self.systems(Pgshuntd, Pgbouncer, server=server)
            for number, how in self.few([(number, how) for how in hows for number in (1, 2)]):
                figures = {system.name: [] for system in systems}
                for system in self.rounds([each for each in systems
                                           if "prepared" not in how or each.prepared]):
                    began, cpu = time.monotonic(), system.cpu()
                    rate = self.databases_once(system, ["bench", "bench2"][:number], how)
                    busy = (system.cpu() - cpu) / 1e6 / (time.monotonic() - began)
                    self.say("databases: %s, %d, %s: %.0f/s, %.2f CPUs"
                             % (system.name, number, how, rate, busy))
                    figures[system.name].append((rate, busy))
                    self.note("databases", (number, how, system.name), (rate, busy))
                rates, busy = ([[figure[index] for figure in figures[system.name]] for system in systems]
                               for index in (0, 1))
                rows.append([number, how] + [spread(each, 0) for each in rates] + [ratio(*rates)] +
                            [spread(each, 2) for each in busy])
            for system in systems + ([server] if server else []):
                system.stop()
        table("Databases at once (SELECT 1, 32 clients in all, transactions or pipelines a second)",
              ["databases", "protocol", "pgshuntd", "pgbouncer", "÷ pgbouncer", "CPUs busy: pgshuntd",
               "pgbouncer"], rows)

    def section_syscalls(self):
        """System calls of the proxy for a small round trip."""
        cells = self.few([(1, "simple"), (1, "extended"), (1, "prepared"), (16, "simple")])
        rows = []
        systems = self.systems(Yardstick, Pgshuntd, Pgbouncer)
        for clients, protocol in cells:
            row = ["%d, %s" % (clients, protocol)]
            for system in systems:
                if protocol == "prepared" and not system.prepared:
                    row.append("n/a")
                    continue
                figure = self.syscalls_once(system, clients, protocol)
                self.note("syscalls", (clients, protocol, system.name), figure)
                row.append("n/a" if figure is None else "%.2f" % figure)
            rows.append(row)
        for system in systems:
            system.stop()
        table("System calls of the proxy for a transaction",
              ["clients, protocol", "yardstick", "pgshuntd", "pgbouncer"], rows)

    def syscalls_once(self, system, clients, protocol):
        """The difference of two runs: what only logins cost falls out."""
        few, many = self.traced(system, clients, protocol, 100), \
            self.traced(system, clients, protocol, 600)
        return None if few is None or many is None else (many - few) / (500 * clients)

    def traced(self, system, clients, protocol, count):
        output = os.path.join(self.work, "strace.out")
        with subprocess.Popen(["strace", "-f", "-c", "-o", output, "-p", str(system.process.pid)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              text=True) as tracer:
            said = tracer.stderr.readline()
            if "attached" not in said:
                tracer.kill()
                self.say("strace: " + said.strip())
                return None
            self.pgbench(system, "SELECT 1;\n", clients, protocol, "-t", str(count))
            tracer.send_signal(signal.SIGINT)
            tracer.wait()
        with open(output, encoding="utf-8") as file:
            total = re.search(r"^100\.00\s+\S+\s+(?:\S+\s+)?(\d+)\s+(?:\d+\s+)?total$",
                              file.read(), re.MULTILINE)
        return int(total.group(1)) if total else None

    def section_tls(self):
        """The same with TLS between the clients and the poolers (tests/bench/tls.py)."""
        tls.section(self, table, spread, ratio)

    def section_move(self):
        """The longest gap of p2's clients over the move, against the limit of this machine."""
        names = ["limit", "pgshuntd", "pgbouncer"]
        gaps = {name: [] for name in names}
        others = {name: {"during": [], "before": [], "promote": []} for name in names}
        broken = {name: 0 for name in names}
        for number in range(self.options.moves):
            for name in names[number % 3:] + names[:number % 3]:
                account, before, during, move = self.move_once(name)
                promote = move.get("promote_ms", move.get("promote"))
                others[name]["promote"].append(promote)
                p1, p2 = account["groups"]["p1"], account["groups"].get("p2")
                # Not the account's: servers that have just been made stand still before the move.
                others[name]["during"].append(during["groups"]["p1"]["longest_gap_ms"])
                others[name]["before"].append(before["groups"]["p1"]["longest_gap_ms"])
                gaps[name].append(during["groups"]["p2"]["longest_gap_ms"] if p2 else move["gap"])
                broken[name] += sum(group[key] for group in (p1, p2) if group
                                    for key in ("errors", "lost", "duplicated", "foreign",
                                                "old_only"))
                self.say("move: %s: p2 %.1f ms, p1 %.1f ms (before %.1f), broken promises %d"
                         % (name, gaps[name][-1], others[name]["during"][-1],
                            others[name]["before"][-1], broken[name]))
                self.note("move", (name,), {"p1": p1, "p2": p2, "move": move})
        table("The move: longest gap between two commits, ms (%d moves, 16 clients on p2, 4 on p1)"
              % self.options.moves,
              ["", "limit", "pgshuntd", "pgbouncer by hand"],
              [["p2, over the move"] + [spread(gaps[name]) for name in names],
               ["p1, over the move"] + [spread(others[name]["during"]) for name in names],
               ["p1, as long before it"] + [spread(others[name]["before"]) for name in names],
               ["of it: promotion"] + [spread(others[name]["promote"]) for name in names],
               ["errors, lost, duplicated"] + [broken[name] for name in names]])
        if broken["pgshuntd"]:
            raise SystemExit("a move broke a promise")

    def move_once(self, name):
        output = os.path.join(self.work, "move.%s" % name)
        os.makedirs(output, exist_ok=True)
        done = subprocess.run(["sh", os.path.join(self.options.repo, "tests/bench/move.sh"), name,
                               output], env=dict(os.environ, PGSHUNT_BUILD=self.options.build),
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit("the move with %s failed:\n%s" % (name, done.stderr[-4000:]))
        reports = []
        for file in ("account.json", "before.json", "during.json", "move.json"):
            path = os.path.join(output, file)
            if not os.path.exists(path):
                reports.append(None)
                continue
            with open(path, encoding="utf-8") as report:
                reports.append(json.load(report))
        return reports


def parse_options():
    parser = argparse.ArgumentParser(prog="tests/bench/run.sh")
    for name in ("repo", "build", "work", "pg-bin"):
        parser.add_argument("--" + name, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--pg-port", required=True, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="a few cells of a second, one round")
    parser.add_argument("--rounds", type=int, help="how often each system is measured (3)")
    parser.add_argument("--seconds", type=int, help="of each measurement (4)")
    parser.add_argument("--moves", type=int, help="moves of each kind (10)")
    parser.add_argument("--workers", type=int, default=0, help="of pgshuntd (0: one per CPU)")
    parser.add_argument("--one-cpu", action="store_true", help="everything shares one CPU")
    parser.add_argument("--json", help="writes every single figure to this file")
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(SECTIONS))
    options = parser.parse_args()
    for name in options.sections:
        if name not in SECTIONS:
            parser.error("no section %s; there are: %s" % (name, ", ".join(SECTIONS)))
    for name, short, full in (("rounds", 1, 3), ("seconds", 1, 4), ("moves", 1, 10)):
        if getattr(options, name) is None:
            setattr(options, name, short if options.quick else full)
    return options


def head(bench):
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = re.search(r"model name\s*: (.*)", file.read())
    print("%d CPUs (%s), Linux %s, pgbouncer %s, pool of 20, medians of %d rounds of %d s (range)"
          % (len(os.sched_getaffinity(0)), model.group(1) if model else "?", os.uname().release,
             Pgbouncer(bench).version, bench.options.rounds, bench.options.seconds))


def share_one_cpu(bench):
    """Whom a proxy wakes on which CPU costs it up to as much as all that it does itself, and is
    chance: on one CPU it is always the same.  What is started later inherits it."""
    cpu = {min(os.sched_getaffinity(0))}
    os.sched_setaffinity(0, cpu)
    with open(os.path.join(bench.work, "pg", "postmaster.pid"), encoding="ascii") as file:
        os.sched_setaffinity(int(file.readline()), cpu)


def main():
    bench = Bench(parse_options())
    if bench.options.one_cpu:
        share_one_cpu(bench)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    head(bench)
    try:
        for name in SECTIONS:
            if not bench.options.sections or name in bench.options.sections:
                getattr(bench, "section_" + name)()
    finally:
        for system in list(bench.running):
            system.stop()
        if bench.options.json:
            with open(bench.options.json, "w", encoding="utf-8") as file:
                json.dump(bench.results, file, indent=1)


main()
