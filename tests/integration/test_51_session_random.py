# SPDX-License-Identifier: PostgreSQL
"""Random sessions: one is carried to a new connection again and again, its twin is left alone; all
that can be seen of them stays the same.  By the messages of proxy/session/, without the proxy.

PGSHUNT_TEST_SEED repeats a run, PGSHUNT_TEST_SEQUENCES makes it longer.
"""
import os
import random

import pytest

from pgwire import SYNC, bind, close, errors, execute, parse, query
from sessiontool import PROMOTED, STANDBY, Tool, open_session

pytestmark = pytest.mark.once

SETTINGS = {
    "work_mem": ["'64kB'", "'7MB'", "65536"], "search_path": ["public", "'a b', \"C\"", "''"],
    "DateStyle": ["'German'", "'ISO, DMY'"], "TimeZone": ["'Europe/Paris'", "'-3'", "'UTC'"],
    "statement_timeout": ["'1h'", "0", "61000"], "lock_timeout": ["'5s'", "0"],
    "idle_session_timeout": ["'1d'", "0"], "bytea_output": ["escape", "hex"],
    "default_transaction_isolation": ["'serializable'", "'repeatable read'", "'read committed'"],
    "default_transaction_read_only": ["off", "on"], "default_transaction_deferrable": ["on", "off"],
    "client_encoding": ["LATIN1", "UTF8", "SQL_ASCII"], "extra_float_digits": ["-3", "3"],
    "standard_conforming_strings": ["on", "off"], "application_name": ["'it''s'", "'x y'"],
    "enable_sort": ["off", "on"], "random_page_cost": ["1.5", "2"], "IntervalStyle": ["iso_8601"],
    "app.one": ["'1'", "''", "'ü'"], "App.two": ["'2'"], "a.b.c": ["'deep'"],
    "plpgsql.extra_errors": ["'all'", "'none'"], "default_text_search_config": ["'german'"],
    "xmloption": ["document"], "client_min_messages": ["error", "warning"],
}
CUSTOM = [name.lower() for name in SETTINGS if "." in name]
ROLES = ["app", "app2", "none", "postgres"]
NAMES = ["s1", "s 2", 'q"3', "S4"]
TEXTS = ["SELECT $1::int + 1", "SELECT 'x;y', $1::text", "VALUES (1)", "SELECT $1 || 'é'", "SHOW work_mem"]
CHANNELS = ["news", "\"Odd \"\" one\"", "other"]

WHAT = [
    "SELECT name, setting, reset_val, source IN ('client', 'session') FROM pg_settings "
    "WHERE name NOT LIKE '%.%' AND name NOT LIKE 'transaction%' ORDER BY 1",
    "SELECT session_user, current_user, current_setting('role')",
    "SELECT name, statement, parameter_types, from_sql FROM pg_prepared_statements ORDER BY 1",
    "SELECT * FROM pg_listening_channels() ORDER BY 1",
    "SELECT " + ", ".join("current_setting('%s', true)" % name for name in CUSTOM),
]


def visible(conn):
    """By named statements: the unnamed one is part of what is compared."""
    result = []
    for sql in WHAT:
        conn.send(parse(sql, "looks"), bind([], "looks"), execute(), close("S", "looks"), SYNC)
        messages = conn.ready("I")
        assert not errors(messages), errors(messages)
        result.append([m.body for m in messages if m.kind == "D"])
    conn.send(bind(["5"] if conn.unnamed_params else []), execute(), SYNC)
    result.append([(m.kind, m.fields().get("C") if m.kind == "E" else m.body)
                   for m in conn.ready("I") if m.kind in "2CDEZ"])
    return result


def quoted(name):
    return '"%s"' % name.replace('"', '""')


def command(rng):
    """A list of messages, and the text that ends the unnamed statement, or None."""
    kind = rng.choice("set set set config reset rollback role authorization parse parse close "
                      "prepare deallocate all listen unlisten discard unnamed failing".split())
    name, values = rng.choice(list(SETTINGS.items()))
    value = rng.choice(values)
    if kind in ("set", "config", "rollback"):
        sql = "SET %s = %s" % (name, value)
        if kind == "config":
            sql = "SELECT set_config('%s', 'x', %s)" % (rng.choice(CUSTOM),
                                                        rng.choice(["true", "false"]))
        elif kind == "rollback":
            sql = "BEGIN; %s; %s" % (sql, rng.choice(["ROLLBACK", "COMMIT"]))
        return "Q", sql
    if kind == "reset":
        return "Q", rng.choice(["RESET " + name, "RESET ALL"])
    if kind == "role":
        return "Q", "SET ROLE " + rng.choice(ROLES)
    if kind == "authorization":
        return "Q", "SET SESSION AUTHORIZATION " + rng.choice(["app", "postgres", "DEFAULT"])
    if kind == "parse":
        return "P", (rng.choice(TEXTS), rng.choice(NAMES))
    if kind == "close":
        return "C", rng.choice(NAMES)
    if kind == "prepare":
        return "Q", "PREPARE %s AS %s" % (quoted(rng.choice(NAMES)), rng.choice(TEXTS[:4]))
    if kind == "deallocate":
        return "Q", "DEALLOCATE " + quoted(rng.choice(NAMES))
    if kind == "all":
        return "Q", "DEALLOCATE ALL"
    if kind in ("listen", "unlisten"):
        return "Q", "%s %s" % (kind, rng.choice(CHANNELS))
    if kind == "discard":
        return "Q", rng.choice(["DISCARD ALL", "DISCARD TEMP", "DISCARD PLANS", "UNLISTEN *"])
    if kind == "unnamed":
        return "P", (rng.choice(["SELECT 1", "SELECT $1 || '!'"]), "")
    return "Q", "SELECT 1/0"


def apply(conn, kind, what):
    if kind == "Q":
        conn.send(query(what))
        conn.unnamed = None
    elif kind == "P":
        conn.send(parse(what[0].encode(conn.encoding), what[1]), SYNC)
        if what[1] == "":
            conn.unnamed = what[0]
    else:
        conn.send(close("S", what), SYNC)
    messages = conn.ready("I")
    conn.encoding = {"LATIN1": "latin1"}.get(conn.params["client_encoding"], "utf8")
    conn.unnamed_params = conn.unnamed is not None and "$1" in conn.unnamed
    return [m.fields().get("C") for m in messages if m.kind == "E"]


def start(pg):
    conn = open_session(pg, user="postgres")
    conn.encoding, conn.unnamed, conn.unnamed_params = "utf8", None, False
    return conn


def carry(tool, pg, old):
    """The new connection; None: the session is pinned."""
    answer = tool.inspect(old, 0)
    if answer == "again":
        answer = tool.inspect(old, 0, neutral=1)
        neutral = 1
    else:
        neutral = 0
    assert answer == "ok"
    if tool.classify()[0] == "pinned":
        assert "backslash" in tool.classify()[2] or "ASCII" in tool.classify()[2]
        return None
    new = start(pg)
    new.unnamed, new.unnamed_params = old.unnamed, old.unnamed_params
    for stage in (STANDBY, PROMOTED):
        failed = tool.replay(new, stage)
        if failed:
            # What a session may be left with, but not given anew.
            assert failed[1]["C"] in ("42501", "22023"), failed
            new.close()
            return None
        assert tool.inspect(new, 1, like=0, neutral=neutral) in ("ok", "again")
        assert tool.same(stage) == "same"
    assert tool.digest(0) == tool.digest(1)
    new.encoding = old.encoding
    for name, value in old.params.items():
        assert new.params[name] == value, name
    return new


def sequence(pg, seed):
    rng = random.Random(seed)
    with Tool() as tool:
        moved, twin = start(pg), start(pg)
        log, carried = [], 0
        try:
            for _ in range(rng.randrange(3, 25)):
                kind, what = command(rng)
                log.append(what)
                if kind == "Q":
                    tool.text(what)
                assert apply(moved, kind, what) == apply(twin, kind, what)
                if moved.unnamed is not None:
                    tool.unnamed(moved.unnamed)
                else:
                    tool("nothing")
                if rng.random() < 0.3:
                    new = carry(tool, pg, moved)
                    if new is not None:
                        moved.close()
                        moved = new
                        carried += 1
                    for one, other in zip(visible(moved), visible(twin)):
                        assert set(one) ^ set(other) == set() and one == other
            return carried
        except Exception:
            print("seed", seed, log)
            raise
        finally:
            moved.close()
            twin.close()


def test_random_sessions(pg):
    first = int(os.environ.get("PGSHUNT_TEST_SEED", random.randrange(1 << 30)))
    count = int(os.environ.get("PGSHUNT_TEST_SEQUENCES", "30"))
    print("PGSHUNT_TEST_SEED=%d" % first)
    assert sum(sequence(pg, first + i) for i in range(count)) >= count // 2
