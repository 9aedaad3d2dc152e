# SPDX-License-Identifier: PostgreSQL
"""Random conversations: whatever a client sends, in whatever pieces, the proxy's answers are those of
the server.

Every client plays a script of steps first against PostgreSQL, alone, then through the proxy, side by
side with others that share few servers; the answers must be equal.  A failure names its seed:
PGSHUNT_RANDOM_SEED=… plays it again, PGSHUNT_RANDOM_ROUNDS=… plays more.
"""
import os
import random
import re
import select
import threading
import time

import pytest

import pgwire
from pgwire import (COPY_DONE, FLUSH, SYNC, bind, close, copy_data, copy_fail, describe, execute,
                    function_call, parse, query)
from proxy import ConsoleError
from servers import SLOW

SEED = os.environ.get("PGSHUNT_RANDOM_SEED")
ROUNDS = int(os.environ.get("PGSHUNT_RANDOM_ROUNDS", "2"))

# Answered by EmptyQueryResponse in every state of a transaction: the end of a step.
END = SYNC + query("")
INT4PL = 177
OUR_NAME = re.compile(r'"(pgshunt_[0-9a-f]{32}|s\d)"')


class Pause:
    """Between two parts of a step: lets the answers to the first come."""


# name -> (text, number of parameters, whether it gives rows)
STATEMENTS = {
    "s0": ("SELECT 1 AS one", 0, True),
    "s1": ("SELECT $1::int + 1", 1, True),
    "s2": ("INSERT INTO {t} (k, v) VALUES ($1::int, 'p') RETURNING k", 1, True),
    "s3": ("SELECT g FROM generate_series(1, $1::int) g", 1, True),
    "s4": ("UPDATE {t} SET v = v || 'u' WHERE k = $1::int", 1, False),
    "s5": ("SELECT 10 / $1::int", 1, True),
    "s6": ("SELECT repeat('r', $1::int)", 1, True),
    "s7": ("SELECT count(*) FROM {t}", 0, True),
}


class Script:
    """The steps of one client: lists of bytes and pauses."""

    def __init__(self, rng, table, steps):
        self.rng = rng
        self.table = table
        self.in_block = False
        self.steps = [self.step() for _ in range(steps)]
        self.steps.append([query("ROLLBACK")])

    def step(self):
        kinds = [self.simple] * 3 + [self.extended] * 6 + [self.copy_in_simple] * 2 + \
            [self.copy_in_extended] * 3 + [self.copy_out, self.function, self.block, self.block,
                                           self.stray, self.parameter]
        # A step of its own: statements that are sent behind it before it is answered are known
        # to the proxy, but no longer to the server.
        if self.rng.random() < 0.1:
            return self.forget()
        parts = []
        for _ in range(self.rng.choice((1, 1, 2, 3, 6))):
            parts += self.rng.choice(kinds)()
        return parts

    def sql(self, text):
        return text.format(t=self.table)

    def number(self):
        return self.rng.choice((0, 1, 2, 3, 7, 40))

    def padding(self):
        """A comment that makes the message long."""
        return "/*" + "x" * self.rng.choice((0,) * 12 + (5000, 70000, 300000)) + "*/"

    # --- simple ---------------------------------------------------------------------------------

    def simple(self):
        return [query(self.sql(self.rng.choice((
            "SELECT 1", "SELECT 1; SELECT 2", "SELECT count(*), sum(k) FROM {t}",
            "INSERT INTO {t} (k, v) VALUES (%d, 's')" % self.rng.randrange(50),
            "INSERT INTO {t} (k, v) VALUES (1, 'd'), (1, 'd')",
            "DELETE FROM {t} WHERE k = %d" % self.rng.randrange(50),
            "SELECT 1; SELECT 1/0; SELECT 3", "SELEKT", "SELECT * FROM no_such_table",
            "SELECT g FROM generate_series(1, 500) g", "SELECT repeat('y', 200000)",
            "DO $$ BEGIN RAISE NOTICE 'hello'; END $$",
            "BEGIN; INSERT INTO {t} (k, v) VALUES (77, 'b'); COMMIT",
            "SELECT 'long' " + self.padding()))))]

    def block(self):
        if self.in_block and self.rng.random() < 0.6:
            self.in_block = False
            return [query(self.rng.choice(("COMMIT", "ROLLBACK")))]
        self.in_block = True
        return [query(self.rng.choice(("BEGIN", "BEGIN", "SAVEPOINT a", "ROLLBACK TO a")))]

    def parameter(self):
        name, value = self.rng.choice((("application_name", "one"), ("application_name", "two"),
                                       ("TimeZone", "Asia/Tokyo"), ("DateStyle", "German")))
        return [query("SET %s = '%s'" % (name, value)),
                query("SELECT current_setting('application_name'), current_setting('TimeZone'), "
                      "current_setting('DateStyle')")]

    def forget(self):
        return [query(self.rng.choice(("DEALLOCATE ALL", "DISCARD ALL")))]

    def function(self):
        arguments = [b"%d" % self.number(), self.rng.choice((b"5", b"five", b"2147483647"))]
        return [function_call(INT4PL, arguments)]

    def stray(self):
        """Messages of a COPY that has ended are ignored."""
        return [self.rng.choice((copy_data(b"stray"), COPY_DONE, copy_fail("stray"), SYNC, FLUSH,
                                 copy_data(b"z" * 100000)))]

    # --- extended -------------------------------------------------------------------------------

    def values(self, count):
        return [self.rng.choice((self.number(), self.number(), "bad")) if self.rng.random() < .3
                else self.number() for _ in range(count)]

    def use(self, name, count, gives_rows, writes):
        """Bind and what may follow.  A portal that has written is not suspended behind its only row:
        whether the next statement sees the row depends on whether a Parse comes in between, as the
        proxy's may."""
        rng = self.rng
        portal = rng.choice(("", "", "", "c1"))
        parts = [bind(self.values(count), name, portal)]
        if rng.random() < 0.5:
            parts.append(describe("P", portal))
        limit = rng.choice((0, 0, 0, 5 if writes else 1, 5))
        parts.append(execute(portal, limit))
        if limit and gives_rows and rng.random() < 0.5:
            parts.append(execute(portal, rng.choice((0, 2))))
        if portal:
            parts.append(close("P", portal))
        return parts

    def unit(self):
        rng = self.rng
        name = rng.choice(list(STATEMENTS))
        text, count, gives_rows = STATEMENTS[name]
        text = self.sql(text)
        use = (count, gives_rows, text.startswith("INSERT"))
        what = rng.random()
        if what < 0.30:
            return [parse(text + self.padding())] + self.use("", *use)
        if what < 0.45:
            return [parse(text, name)]
        if what < 0.60:
            return [close("S", name), parse(text, name)] + self.use(name, *use)
        if what < 0.85:
            return self.use(name, *use)
        if what < 0.90:
            return [close("S", name)]
        if what < 0.94:
            return [parse(rng.choice(("SELEKT", "SELECT nothing", "INSERT INTO no_such VALUES (1)")),
                          rng.choice(("", "s9")))]
        if what < 0.97:
            return [describe("S", name)] if gives_rows else []
        return [FLUSH]

    def extended(self):
        parts = []
        for _ in range(self.rng.choice((1, 1, 2, 4))):
            parts += self.unit()
            if self.rng.random() < 0.1:
                parts += [FLUSH, Pause]
        parts.append(SYNC)
        if self.rng.random() < 0.15:
            parts += [parse("SELECT 'kept'"), SYNC, bind(), execute(), SYNC]
        return parts

    # --- COPY -----------------------------------------------------------------------------------

    def copy_rows(self):
        good = [copy_data(b"%d\tcopied\n" % self.rng.randrange(100, 200))
                for _ in range(self.rng.choice((0, 1, 5, 200)))]
        if self.rng.random() < 0.2:
            good.insert(self.rng.randrange(len(good) + 1), copy_data(b"not a number\tx\n"))
        if self.rng.random() < 0.1:
            good.append(copy_data(b"9\t" + b"w" * 300000 + b"\n"))
        return good

    def copy_end(self):
        return COPY_DONE if self.rng.random() < 0.85 else copy_fail("changed my mind")

    def maybe_pause(self):
        return [Pause] if self.rng.random() < 0.5 else []

    def copy_in_simple(self):
        text = self.sql(self.rng.choice(("COPY {t} (k, v) FROM STDIN",
                                         "COPY {t} (k, v) FROM STDIN; SELECT 'after'",
                                         "COPY no_such_table FROM STDIN")))
        return [query(text)] + self.maybe_pause() + self.copy_rows() + [self.copy_end()]

    def copy_in_extended(self):
        text = self.sql(self.rng.choice(("COPY {t} (k, v) FROM STDIN",
                                         "COPY {t} (k, v) FROM STDIN",
                                         "COPY no_such_table FROM STDIN")))
        start = [parse(text), bind(), execute()]
        between = self.rng.choice(([], [FLUSH], [SYNC]))
        return start + between + self.maybe_pause() + self.copy_rows() + [self.copy_end(), SYNC]

    def copy_out(self):
        text = self.sql(self.rng.choice(("COPY (SELECT * FROM {t} ORDER BY k, v) TO STDOUT",
                                         "COPY (SELECT g, repeat('o', 50) FROM "
                                         "generate_series(1, 3000) g) TO STDOUT",
                                         "COPY (SELECT 1/(g - 50) FROM generate_series(1, 99) g) "
                                         "TO STDOUT")))
        if self.rng.random() < 0.5:
            return [query(text)]
        return [parse(text), bind(), execute(), SYNC]


class Player:
    """Plays a script on a connection and notes the answers."""

    def __init__(self, conn, rng):
        self.conn = conn
        self.rng = rng
        self.input = b""
        self.answers = []

    def pump(self, data, wait):
        """Sends and receives until all is sent, or for `wait` seconds."""
        sock = self.conn.sock
        deadline = time.monotonic() + wait
        sock.setblocking(False)
        while True:
            readable, writable, _ = select.select([sock], [sock] if data else [], [],
                                                  max(0, deadline - time.monotonic()))
            if readable:
                received = sock.recv(1 << 16)
                assert received, "the connection was closed; last: %s" % self.answers[-5:]
                self.input += received
                self.cut()
                if not data and self.ended():
                    return True
            if writable:
                size = self.rng.choice((1, 3, 5, 7, 40, 1000, 100000))
                data = data[sock.send(data[:size]):]
                if not data:
                    return False
            if not readable and not writable:
                return False

    def cut(self):
        """Takes the whole messages out of what has come."""
        at, data = 0, self.input
        while len(data) - at >= 5:
            end = at + 1 + int.from_bytes(data[at + 1:at + 5], "big")
            if end > len(data):
                break
            self.answers.append((data[at:at + 1].decode(), data[at + 5:end]))
            at = end
        self.input = data[at:]

    def ended(self):
        kinds = [kind for kind, _ in self.answers[-6:] if kind not in "SNA"]
        return kinds[-2:] == ["I", "Z"]

    def play(self, step):
        self.answers = []
        data = b""
        for part in [*step, END]:
            if part is not Pause:
                data += part
                continue
            while data and not self.pump(data, 30 * SLOW):
                data = b""
            self.pump(b"", 0.02)
        self.pump(data, 30 * SLOW)
        deadline = time.monotonic() + 30 * SLOW
        while not self.ended():
            assert time.monotonic() < deadline, "no end; last: %s" % self.answers[-5:]
            self.pump(b"", 1)
        return [normal(kind, body) for kind, body in self.answers if kind not in "SA"]


def normal(kind, body):
    """The answer without what may differ: names of prepared statements."""
    if kind not in "EN":
        return kind, body
    fields = sorted(OUR_NAME.sub('"?"', part.decode()) for part in body.split(b"\0") if part)
    # Where in the server's sources: a hidden Parse notices some errors before a Bind does.
    return kind, tuple(field for field in fields if field[0] not in "FLR")


def show(step):
    """The messages of a step, copies of one kind in a row left out."""
    texts = ["Pause" if part is Pause else "%s(%d)%r" % (chr(part[0]), len(part), part[5:65])
             for part in step]
    return "\n     ".join(text for i, text in enumerate(texts)
                          if text[0] != "d" or i < 2 or texts[i - 1][0] != "d")


def make_tables(pg, count):
    for i in range(count):
        pg.sql("CREATE TABLE IF NOT EXISTS random_%d (k int, v text DEFAULT 'x', UNIQUE (k) "
               "DEFERRABLE INITIALLY DEFERRED) WITH (autovacuum_enabled = off)" % i, "p1")
        pg.sql("GRANT ALL ON random_%d TO app; TRUNCATE random_%d" % (i, i), "p1")


def play_all(script, conn, seed, found):
    player = Player(conn, random.Random(seed))
    try:
        for step in script.steps:
            found.append(player.play(step))
    except (AssertionError, OSError) as error:
        found.append(str(error))


def compare(scripts, expected, found, seed):
    for number, script in enumerate(scripts):
        for i, step in enumerate(script.steps):
            want = expected[number][i] if i < len(expected[number]) else None
            got = found[number][i] if i < len(found[number]) else None
            if want == got:
                continue
            at = next((n for n, pair in enumerate(zip(want, got)) if pair[0] != pair[1]),
                      min(len(want), len(got))) if isinstance(got, list) else 0
            pytest.fail("PGSHUNT_RANDOM_SEED=%s client %d step %d of %d, answer %d\nsent %s\n"
                        "server: %s\nproxy:  %s" % (
                            seed, number, i, len(script.steps), at, show(step),
                            [str(m)[:200] for m in want[max(0, at - 2):at + 4]],
                            [str(m)[:200] for m in got[max(0, at - 2):at + 4]]
                            if isinstance(got, list) else got))


@pytest.mark.parametrize("round_number", range(ROUNDS))
@pytest.mark.parametrize("workers,pool_size,holds",
                         [(1, 1, False), (2, 3, False), (2, 1, True), (2, 2, True)])
def test_random_conversations(pg, make_proxy, workers, pool_size, holds, round_number):
    seed = int(SEED) if SEED else random.randrange(1 << 30)
    print("PGSHUNT_RANDOM_SEED=%d" % seed)
    rng = random.Random(seed)
    count = 4
    scripts = [Script(rng, "random_%d" % i, 12) for i in range(count)]
    make_tables(pg, count)
    expected = [[] for _ in scripts]
    for i, script in enumerate(scripts):
        with pg_wire(pg) as conn:
            play_all(script, conn, seed + i, expected[i])
    make_tables(pg, count)
    proxy = make_proxy(workers=workers, pool_size=pool_size, max_prepared_statements=3,
                       log_level="info", worker_fill=0)
    found = [[] for _ in scripts]
    threads = []
    conns = [proxy.wire() for _ in scripts]
    for i, script in enumerate(scripts):
        threads.append(threading.Thread(target=play_all,
                                        args=(script, conns[i], seed + 100 + i, found[i])))
        threads[-1].start()
    while holds and any(thread.is_alive() for thread in threads):
        hold_for_a_moment(proxy, rng)
    for thread in threads:
        thread.join(200 * SLOW)
    for conn in conns:
        conn.close()
    compare(scripts, expected, found, seed)


def hold_for_a_moment(proxy, rng):
    """Clients notice nothing of it."""
    with proxy.console() as console:
        try:
            console("HOLD p1 LEASE 5s DRAIN 200ms POLICY abort")
            time.sleep(rng.choice((0, 0.01, 0.05)))
            console("RELEASE p1")
        except ConsoleError as error:
            assert error.sqlstate == "55P03"
        time.sleep(rng.choice((0, 0.02)))


def pg_wire(pg):
    conn = pgwire.Conn(pg.host, pg.port)
    conn.login("app", "p1")
    return conn
