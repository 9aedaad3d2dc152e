# SPDX-License-Identifier: PostgreSQL
"""The fault matrix: a move under load, once for every fault at every record of its journal.

The records are those that a move without faults writes.  For a cell the mover stops at the record
(PGSHUNT_FAULT), the fault is made, the mover goes on; what was killed is started again and what was
cut is healed, as an operator would; `resume` or `abort` is run until the journal has an end.  Then
the invariants are checked: exactly one writable p2, no acknowledged commit lost or doubled, nobody
held or paused, all clients go on, no error but those that the fault itself must cause, and journal,
report and exit code say what is true.
"""
import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))

import psycopg

import net
import world as worlds
from scene import DONE, FORWARD, REFUSED, UNDONE, UNDO_INCOMPLETE
from servers import SLOW

# How long a fault lasts if the mover does not end before.
LASTS = 1.0
CUT_LASTS = 2.5
HANG_LASTS = 20
# Errors of a client whose connection, or whose server, died under it.
LOST = ("08", "57P")


class Fault:
    """What happens, what takes it back, and which clients may notice it."""

    def __init__(self, name, make, repair=None, lasts=LASTS, may_fail=None, recover="resume",
                 why="-"):
        self.name = name
        self.make = make
        self.repair = repair or (lambda world: None)
        self.lasts = lasts
        self.may_fail = may_fail or (lambda client, window: False)
        self.recover = recover
        self.why = why


def cut(dialler, dialled, answers=False):
    def make(world):
        (world.net.cut_answers if answers else world.net.cut)(dialler, dialled)
    return make


def heal(world):
    world.net.heal()


def do(server, verb):
    """crash and start; freeze (connections stay, nothing is answered: only time-outs tell) and thaw"""
    return lambda world: getattr(getattr(world, server), verb)()


def kill_mover(world):
    world.process.kill()
    world.process.wait()


def end_sessions(world):
    """What an administrator does who does not know them."""
    for cluster in (world.pg1, world.pg2):
        with contextlib.suppress(psycopg.Error):  # another fault may have it
            cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE application_name LIKE 'pgshunt%' AND pid <> pg_backend_pid()")


# `window`: where the record lies. "before" the drain is complete, "held", "after" the release.
FAULTS = [
    Fault("mover killed, resume", kill_mover, lasts=0),
    Fault("mover killed, abort", kill_mover, lasts=0, recover="abort"),
    Fault("proxy killed", lambda world: world.proxies["b"].kill(),
          lambda world: world.proxies["b"].start(),
          may_fail=lambda client, window: ".b." in client,
          why="clients of the killed proxy lose their connections"),
    Fault("pg1 killed", do("pg1", "crash"), do("pg1", "start"),
          may_fail=lambda client, window: client.startswith("p1") or window == "before" or
          ".c." in client,
          why="what pg1 was working on is lost: p1's clients, those of p2 before they are held, and "
          "sessions that the proxy holds there"),
    Fault("pg2 killed", do("pg2", "crash"), do("pg2", "start"),
          may_fail=lambda client, window: client.startswith("p2") and
          (window == "after" or ".c." in client),
          why="what pg2 was working on is lost: p2's clients after the release, and sessions that "
          "were carried there"),
    Fault("pgbouncer killed", lambda world: world.direct.stop(),
          lambda world: world.direct.start(),
          may_fail=lambda client, window: ".direct." in client,
          why="clients of the killed pgbouncer lose their connections"),
    Fault("PL/Proxy killed", do("pgx", "crash"), do("pgx", "start")),
    Fault("mover's sessions ended", end_sessions, lasts=0),
    Fault("pg1 hangs", do("pg1", "freeze"), do("pg1", "thaw"), HANG_LASTS),
    Fault("pg2 hangs", do("pg2", "freeze"), do("pg2", "thaw"), HANG_LASTS),
    Fault("proxy hangs", lambda world: world.proxies["b"].process.send_signal(signal.SIGSTOP),
          lambda world: world.proxies["b"].process.send_signal(signal.SIGCONT), HANG_LASTS),
    Fault("pgbouncer hangs", lambda world: world.direct.process.send_signal(signal.SIGSTOP),
          lambda world: world.direct.process.send_signal(signal.SIGCONT), HANG_LASTS),
    Fault("PL/Proxy hangs", do("pgx", "freeze"), do("pgx", "thaw"), HANG_LASTS),
    Fault("mover-pg1 cut", cut("mover", "pg1"), heal, CUT_LASTS),
    Fault("mover-pg2 cut", cut("mover", "pg2"), heal, CUT_LASTS),
    Fault("pg2's answers lost", cut("mover", "pg2", True), heal, CUT_LASTS),
    Fault("mover-proxy cut", cut("mover", "proxy b"), heal, CUT_LASTS),
    Fault("proxy-pg1 cut", cut("proxy b", "pg1"), heal, CUT_LASTS),
    Fault("proxy-pg2 cut", cut("proxy b", "pg2"), heal, CUT_LASTS),
    Fault("pg2-pg1 cut", cut("pg2", "pg1"), heal, CUT_LASTS),
    Fault("mover-pgbouncer cut", cut("mover", "pgbouncer"), heal, CUT_LASTS),
    Fault("mover-PL/Proxy cut", cut("mover", "pgx"), heal, CUT_LASTS),
]


# Made at random moments only.
MORE = [
    Fault("sessions' proxy killed", lambda world: world.proxies["c"].kill(),
          lambda world: world.proxies["c"].start(),
          may_fail=lambda client, window: ".c." in client),
    Fault("sessions' proxy hangs", lambda world: world.proxies["c"].process.send_signal(signal.SIGSTOP),
          lambda world: world.proxies["c"].process.send_signal(signal.SIGCONT), HANG_LASTS),
    Fault("mover-sessions' proxy cut", cut("mover", "proxy c"), heal, CUT_LASTS),
    Fault("sessions' proxy-pg1 cut", cut("proxy c", "pg1"), heal, CUT_LASTS),
    Fault("sessions' proxy-pg2 cut", cut("proxy c", "pg2"), heal, CUT_LASTS),
]
AT_RANDOM = Fault("at random", None)


class Broken(Exception):
    pass


def check(condition, text, *args):
    if not condition:
        raise Broken(text % args)


# --- records --------------------------------------------------------------------------------------

def names_of(journal):
    """phase.kind of every record, each once: fault points are named so."""
    names = []
    for record in journal:
        name = "%s.%s" % (record["phase"], record["kind"])
        if name not in names:
            names.append(name)
    return names


def clean_run(world):
    """The records of a move in which nothing goes wrong."""
    world.begin()
    world.load()
    move = world.mover("move", "p2", "--to", "pg2", "--yes")
    check(move.wait(60 * SLOW) == DONE, "the move without faults failed:\n%s", world.mover_log())
    records = names_of(world.journal())
    world.await_progress(world.now(), "after the move")
    check(world.place() == "pg2", "the move without faults left p2 on pg1")
    world.check_routers("pg2")
    judge_clients(world, "pg2", lambda client: False)
    world.fresh = False
    return records


def window_of(records, record):
    at = records.index(record)
    if at < records.index("hold.outcome"):
        return "before"
    return "held" if at <= records.index("release.intent") else "after"


# --- a cell ---------------------------------------------------------------------------------------

def judge_clients(world, place, may_fail):
    account = world.account(place)
    for name, group in account["groups"].items():
        check(group["acked"] > 0, "%s: nothing was committed", name)
        for broken in ("lost", "duplicated", "foreign", "old_only"):
            check(group[broken] == 0, "%s: %d rows %s", name, group[broken], broken)
    for client, when, sqlstate, text in world.read_load()[1]:
        if may_fail(client) and sqlstate.startswith(LOST):
            continue
        raise Broken("%s got an error at %.3f s: %s %s" % (client, when / 1e6, sqlstate, text))


def reach(world, record):
    """Starts the mover and waits until it stands at the record."""
    mark = os.path.join(world.folder, "at-record")
    if os.path.exists(mark):
        os.unlink(mark)
    log = os.path.join(world.folder, "mover.log")
    if os.path.exists(log):
        os.unlink(log)
    world.process = world.mover("move", "p2", "--to", "pg2", "--yes",
                                fault="journal.%s=wait:%s" % (record, mark))
    deadline = time.monotonic() + 30 * SLOW
    while not os.path.exists(mark):
        check(world.process.poll() is None, "the mover ended before the record")
        check(time.monotonic() < deadline, "the mover did not come to the record")
        time.sleep(0.002)
    return mark


def await_mover(world, fault):
    """Until it ended; the fault is repaired when it did or when it has lasted long enough."""
    deadline = time.monotonic() + fault.lasts * SLOW
    while world.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    fault.repair(world)
    return world.process.wait(120 * SLOW)


def recover(world, fault, code):
    """What the operator does.  What was run, and its exit codes."""
    steps = []
    if fault.recover == "abort":
        time.sleep(2.5 * SLOW)  # nobody is there: meanwhile the watch undoes what is not promoted
    while world.ended() is None and len(steps) < 4:
        command = "abort" if fault.recover == "abort" and not steps else "resume"
        process = world.mover(command)
        code = process.wait(90 * SLOW)
        steps.append((command, code))
        if command == "abort" and code == REFUSED:
            check("promoted" in world.mover_log(), "abort refused without the reason")
            continue
        check(code in (DONE, UNDONE, FORWARD, UNDO_INCOMPLETE), "%s ended with %d", command, code)
        if "no move is unfinished" in world.mover_log():
            steps[-1] = ("abort", code)  # the watch has run it in between
    return steps, code


def judge(world, fault, record, window, steps, code):
    """Where p2 is now; every promise is checked."""
    world.wait_open()
    place = world.place()
    ended = world.ended()
    check(ended == ("done" if place == "pg2" else "undone"), "p2 is on %s, the journal says %s",
          place, ended)
    last = steps[-1][0] if steps else "move"
    expected = DONE if place == "pg2" or last == "abort" else UNDONE
    check(code == expected or code < 0, "p2 is on %s, %s ended with %d", place, last, code)
    report = world.report()
    if code >= 0:
        check(report is not None, "no report was written")
        check(report["result"] == ended, "p2 is on %s, the report says %s", place,
              report["result"])
        check(report["exit_code"] == code, "the report says exit code %s, it was %d",
              report["exit_code"], code)
    world.check_routers(place)
    world.await_progress(world.now(), "afterwards")
    judge_clients(world, place, lambda client: fault.may_fail(client, window))
    return place


def run_cell(world, fault, records, record):
    """The outcome as it stands in the table."""
    world.begin()
    world.load()
    mark = reach(world, record)
    fault.make(world)
    os.unlink(mark)
    code = await_mover(world, fault)
    steps, code = recover(world, fault, code)
    place = judge(world, fault, record, window_of(records, record), steps, code)
    if place == "pg2":
        world.fresh = False
    return place[-1] + "".join({"resume": "r", "abort": "a"}[step] for step, _ in steps)


# --- faults at random -----------------------------------------------------------------------------

class Events:
    """Faults that are made, and taken back, at their moments, whatever the mover does meanwhile."""

    def __init__(self, world, rng, faults):
        self.world = world
        self.began = time.monotonic()
        self.left = []
        for fault in faults:
            at = rng.choice((0, rng.uniform(0, 0.05), rng.uniform(0, 0.5), rng.uniform(0, 4)))
            lasts = rng.choice((0.05, 0.3, 1.0, min(max(fault.lasts, 0.1), 5)))
            self.left += [(at * SLOW, 1, fault), ((at + lasts) * SLOW, 0, fault)]
        self.left.sort(key=lambda event: event[:2])
        self.made = []

    def step(self):
        while self.left and time.monotonic() - self.began >= self.left[0][0]:
            _, begins, fault = self.left.pop(0)
            if begins:
                fault.make(self.world)
                self.made.append(fault)
            elif fault in self.made:
                fault.repair(self.world)

    def end(self):
        """What was made is taken back now, what was not is not made any more."""
        self.left = [(0, 0, fault) for _, begins, fault in self.left
                     if not begins and fault in self.made]
        self.step()

    def wait(self, limit):
        """Until the program that runs has ended."""
        deadline = time.monotonic() + limit * SLOW
        while self.world.process.poll() is None:
            check(time.monotonic() < deadline, "it did not end:\n%s", self.world.mover_log())
            self.step()
            time.sleep(0.002)
        return self.world.process.returncode


def run_random(world, records, seed):
    """One or two faults, near a record of the move but not at it."""
    rng = random.Random(seed)
    faults = [rng.choice(FAULTS + MORE)]
    other = rng.choice(FAULTS + MORE)
    if rng.random() < 0.7 and other.name.split()[0] != faults[0].name.split()[0]:
        faults.append(other)
    record = rng.choice([name for name in records if name != "end.outcome"])
    world.begin()
    world.load()
    print("    seed %d: %s after %s" % (seed, " + ".join(fault.name for fault in faults), record),
          flush=True)
    os.unlink(reach(world, record))
    events = Events(world, rng, faults)
    steps = []
    try:
        code = events.wait(150)
        # Somebody who tries before everything is as it was, and again when it is.
        if events.left and world.ended() is None and rng.random() < 0.5:
            world.process = world.mover("resume", log="early.log")
            code = events.wait(150)
            steps.append(("early resume", code))
    finally:
        events.end()
    if "mover killed, abort" in (fault.name for fault in events.made):
        time.sleep(2.5 * SLOW)
    while world.ended() is None and len(steps) < 5:
        world.process = world.mover("resume")
        code = world.process.wait(90 * SLOW)
        steps.append(("resume", code))
        check(code in (DONE, UNDONE, FORWARD, UNDO_INCOMPLETE), "resume ended with %d", code)
    may = Fault("", None, may_fail=lambda client, window: any(
        fault.may_fail(client, place) for fault in events.made
        for place in ("before", "held", "after")))
    place = judge(world, may, record, "", steps, code)
    if place == "pg2":
        world.fresh = False
    return place[-1] + " ".join(" %s %d" % step for step in steps)


# --- the whole ------------------------------------------------------------------------------------

LEGEND = """\
1: undone, the clients work on pg1; 2: done, they work on pg2; r, a: after `resume`, `abort`, once for
each that was needed; without letter the mover, or the watch over it, ended it."""


def table(results, records, faults):
    lines = ["| record | " + " | ".join(fault.name for fault in faults) + " |",
             "|---|" + "---|" * len(faults)]
    for record in records:
        cells = [results.get((record, fault.name), "") for fault in faults]
        if any(cells):
            lines.append("| %s | %s |" % (record, " | ".join(cells)))
    return "\n".join(lines)


# One cell for most faults, which together lie all over the move and take less than a minute.
SHORT = {
    "mover killed, resume": "fence.outcome",
    "mover killed, abort": "hold.outcome",
    "proxy killed": "terminate.outcome",
    "pg1 killed": "fence.outcome",
    "pg2 killed": "barrier.outcome",
    "mover-pg1 cut": "fence.intent",
    "mover-proxy cut": "hold.outcome",
    "mover-pgbouncer cut": "hold.intent",
    "pg2-pg1 cut": "barrier.outcome",
    "pg2's answers lost": "catch_up.outcome",
    "proxy-pg2 cut": "open.intent",
}


def short_cells(records, faults):
    cells = [(SHORT[fault.name], fault) for fault in faults if fault.name in SHORT]
    # Those that promote need new servers: they come last.
    return sorted(cells, key=lambda cell: records.index(cell[0]))


def arguments():
    parser = argparse.ArgumentParser(description="The fault matrix of a move.")
    parser.add_argument("--short", action="store_true", help="eleven cells, less than a minute")
    parser.add_argument("--fault", action="append", help="only faults whose name has this in it")
    parser.add_argument("--record", action="append", help="only records whose name has this in it")
    parser.add_argument("--random", type=int, metavar="N",
                        help="instead: N moves with one or two faults at random moments")
    parser.add_argument("--seed", type=int, help="of the first of them; the next ones follow it")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a run that failed")
    parser.add_argument("--relay", action="store_true", help="cut with a relay, not by dropping")
    parser.add_argument("--output", help="write the table to this file")
    parser.add_argument("--results", help="keep the outcomes in this file; what is green there is "
                        "not run again")
    return parser.parse_args()


def choose(options, records):
    faults = [fault for fault in FAULTS if not options.fault or
              any(word in fault.name for word in options.fault)]
    if options.short:
        return [fault for fault in faults if fault.name in SHORT], short_cells(records, faults)
    # By record: the cells of the first ones leave a world that can be used again.
    return faults, [(record, fault) for record in records for fault in faults
                    if not options.record or any(word in record for word in options.record)]


def report_failure(world, folder, record, fault):
    print("--- %s at %s" % (fault.name, record))
    traceback.print_exc(limit=-3)
    try:
        print(world.mover_log()[-6000:])
        for name, proxy in world.proxies.items():
            print("--- log of proxy %s\n%s" % (name, proxy.log()[-2500:]))
    except OSError:
        pass
    keep = os.path.join(folder, "failed.%s.%s" % (record, fault.name.replace("/", "-")))
    os.makedirs(keep, exist_ok=True)
    for name in ("mover.log", "load.log", "moves", "proxy.a/log", "proxy.b/log",
                 "pg1/postgresql.log", "pg2/postgresql.log", "pgx/postgresql.log", "direct/log",
                 "bouncer/log"):
        source = os.path.join(folder, name)
        if os.path.isdir(source):
            shutil.copytree(source, os.path.join(keep, name), dirs_exist_ok=True)
        elif os.path.exists(source):
            shutil.copy(source, os.path.join(keep, name.replace("/", ".")))


def earlier(options):
    """The green cells of earlier runs."""
    results = {}
    if options.results and os.path.exists(options.results):
        with open(options.results) as lines:
            for line in lines:
                record, fault, outcome = line.rstrip("\n").split("\t")
                if outcome != "FAILED":
                    results[record, fault] = outcome
    return results


def on_term(*_):
    raise KeyboardInterrupt


def main():
    signal.signal(signal.SIGTERM, on_term)
    options = arguments()
    if options.relay:
        os.environ[net.INSIDE] = ""
    net.enter_namespace()
    folder = tempfile.mkdtemp(prefix="pgshunt-fault.")
    os.chmod(folder, 0o755)
    began = time.monotonic()
    results, failed = earlier(options), 0
    world = worlds.World(folder, net.make())
    try:
        print("connections are cut by: %s" % world.net.kind, flush=True)
        known = records = clean_run(world)
        faults, cells = choose(options, records)
        if options.random:
            seed = random.randrange(10 ** 6) if options.seed is None else options.seed
            records = ["seed %d" % (seed + n) for n in range(options.random)]
            faults, cells = [AT_RANDOM], [(record, AT_RANDOM) for record in records]
        for record, fault in cells:
            if (record, fault.name) in results:
                continue
            start = time.monotonic()
            try:
                outcome = (run_random(world, known, int(record.split()[1]))
                           if fault is AT_RANDOM else run_cell(world, fault, records, record))
            except (Broken, AssertionError, OSError, subprocess.TimeoutExpired,
                    psycopg.Error) as error:
                failed += 1
                outcome = "FAILED"
                report_failure(world, folder, record, fault)
                print("FAILED: %s" % error)
                world.net.heal()
                world.fresh = False
            results[record, fault.name] = outcome
            print("%-20s %-22s %-8s %5.1f s" % (record, fault.name, outcome,
                                               time.monotonic() - start), flush=True)
            if options.results:
                with open(options.results, "a") as out:
                    out.write("%s\t%s\t%s\n" % (record, fault.name, outcome))
    finally:
        world.close()
        if not (options.keep and failed):
            shutil.rmtree(folder, ignore_errors=True)
    text = table(results, records, faults)
    print("\n%s\n\n%s" % (text, LEGEND))
    if options.output:
        with open(options.output, "w") as out:
            out.write(text + "\n")
    print("%d cells, %d failed, %.0f s" % (len(results), failed, time.monotonic() - began))
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
