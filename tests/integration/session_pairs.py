# SPDX-License-Identifier: PostgreSQL
"""Pairs of sessions that are sent the same and must look the same: one directly at a server, left
alone, and one through the proxy, which is moved.  What they do is random; what is compared is every
answer, and after each move everything of a session that its client can see.
"""
import re

import pgwire
from pgwire import SYNC, bind, close, describe, execute, parse, query

# What both databases have.
SCHEMA = """
CREATE TABLE fixed (id int PRIMARY KEY, note text);
INSERT INTO fixed SELECT g, 'note ' || g FROM generate_series(1, 40) g;
CREATE SCHEMA other;
CREATE TABLE other.fixed AS SELECT id, 'other ' || id AS note FROM fixed;
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE FUNCTION set_it(name text, value text) RETURNS text LANGUAGE plpgsql
    AS $$ BEGIN RETURN set_config(name, value, false); END $$;
GRANT USAGE ON SCHEMA other TO PUBLIC;
GRANT SELECT ON fixed, other.fixed TO PUBLIC;
GRANT ALL ON SCHEMA public TO PUBLIC;
"""
ROLES = """
CREATE ROLE pair_user LOGIN; CREATE ROLE pair_super LOGIN SUPERUSER;
CREATE ROLE pair_member; GRANT pair_member TO pair_user;
CREATE ROLE "Odd 'Member"; GRANT "Odd 'Member" TO pair_user;
"""

SETTINGS = {
    "work_mem": ["1MB", "7MB", "64kB"],
    "statement_timeout": ["0", "555s", "'2min'"],
    "lock_timeout": ["0", "99s"],
    "DateStyle": ["'German, DMY'", "'ISO, YMD'", "SQL", "Postgres"],
    "IntervalStyle": ["iso_8601", "postgres_verbose"],
    "TimeZone": ["'Asia/Tokyo'", "'America/New_York'", "UTC", "'<+05>-05'", "-3.5"],
    "search_path": ["other, public", "public", "'$user', other", "''", "pg_temp, other"],
    "application_name": ["'one'", "'it''s \"two\" \\ '", "''"],
    "extra_float_digits": ["0", "3", "-5"],
    "bytea_output": ["escape", "hex"],
    "client_min_messages": ["error", "warning", "debug1", "notice"],
    "standard_conforming_strings": ["off", "on"],
    "client_encoding": ["LATIN1", "UTF8", "SQL_ASCII", "WIN1252"],
    "row_security": ["off", "on"],
    "enable_seqscan": ["off", "on"],
    "default_transaction_isolation": ["'serializable'", "'repeatable read'", "'read committed'"],
    "default_transaction_deferrable": ["on", "off"],
    "synchronous_commit": ["off", "local", "on"],
    "xmloption": ["document", "content"],
    "plan_cache_mode": ["force_generic_plan", "auto"],
    "array_nulls": ["off", "on"],
    "default_text_search_config": ["'pg_catalog.german'", "'pg_catalog.simple'"],
    "my.own": ["'mine'", "'it''s; SET x.y = 3'", "''"],
    "my.other_setting": ["1", "'zwei'"],
}
FUNCTION_SETTINGS = ["work_mem", "DateStyle", "TimeZone", "search_path", "extra_float_digits",
                     "statement_timeout", "enable_seqscan"]
QUERIES = ["SELECT id, note FROM fixed WHERE id < $1 ORDER BY id", "SELECT $1::int + 1 AS n",
           "SELECT now() - now(), date '2026-12-31', interval '1 day 2 hours', $1::int",
           "SELECT current_setting('DateStyle'), $1::text", "INSERT INTO t_a (v) VALUES ($1) "
           "RETURNING v", "SELECT '\\x0102'::bytea, $1::float8 / 3", "UPDATE fixed SET id = $1"]
NAMES = ["s1", "s2", "Weird \"name", "s-4"]
SQL_NAMES = ["q1", "q2", "\"Q 3\""]
CHANNELS = ["news", "\"Odd channel\"", "x" * 63]
CURSORS = ["c1", "\"C two\""]
LOCKS = ["{}", "-9223372036854775808 + {}", "7, -{}", "2147483647 - {}, 0"]  # each pair has its own
TABLES = ["t_a", "\"T b\""]
TEMP_NUMBER = re.compile(r"pg_(toast_)?temp_\d+")
# Names that the proxy gives to what it holds for a client.
OUR_NAME = re.compile(r'"pgshunt_[0-9a-f]{32}"')

TEMP_DEFINITIONS = [
    "CREATE TEMP TABLE {t} (v int, note text DEFAULT 'none')",
    "CREATE TEMP TABLE {t} (v int PRIMARY KEY, m mood, UNIQUE (v, m)) ON COMMIT PRESERVE ROWS",
    "CREATE TEMP TABLE {t} (id int GENERATED ALWAYS AS IDENTITY, v int CHECK (v <> 13), "
    "twice int GENERATED ALWAYS AS (v * 2) STORED)",
    "CREATE TEMP TABLE {t} (id serial, v int) ON COMMIT DELETE ROWS",
    "CREATE TEMP TABLE {t} AS SELECT id AS v, note FROM fixed WHERE id <= 5",
    "CREATE TEMP SEQUENCE {t} START 5 INCREMENT 3",
    "CREATE TEMP VIEW {t} AS SELECT 1 AS v",
    "CREATE TEMP TABLE {t} (v int) PARTITION BY LIST (v)",
]


class Plan:
    """Random steps.  Each is a list of messages of which the last is answered by ReadyForQuery."""

    def __init__(self, rng, number, superuser, kinds=None):
        self.rng = rng
        self.locks = [lock.format(number) for lock in LOCKS]
        self.superuser = superuser
        self.kinds = kinds or list(self.KINDS)

    def step(self):
        kind = self.rng.choice(self.kinds)
        return getattr(self, kind)()

    def sql(self, text):
        """As a simple Query, as the unnamed statement, or as a named one that is closed again."""
        how = self.rng.choice("QQQEN")
        if how == "Q" or ";" in text:
            return [query(text)]
        if how == "E":
            return [parse(text), bind(), describe("P"), execute(), SYNC]
        return [parse(text, "tmp"), bind(name="tmp"), execute(), close("S", "tmp"), SYNC]

    def assignment(self):
        name = self.rng.choice(list(SETTINGS))
        return name, self.rng.choice(SETTINGS[name])

    # --- settings -------------------------------------------------------------------------------

    def set(self):
        return self.sql("SET %s TO %s" % self.assignment())

    def set_local(self):
        end = self.rng.choice(("COMMIT", "ROLLBACK"))
        return [query("BEGIN; SET LOCAL %s TO %s; %s" % (*self.assignment(), end))]

    def set_in_block(self):
        first, second = self.assignment(), self.assignment()
        text = self.rng.choice((
            "BEGIN; SET {0} TO {1}; SET {2} TO {3}; COMMIT",
            "BEGIN; SET {0} TO {1}; ROLLBACK",
            "BEGIN; SET {0} TO {1}; SAVEPOINT a; SET {2} TO {3}; ROLLBACK TO a; COMMIT",
            "BEGIN; SET {0} TO {1}; SELECT 1/0; COMMIT",
            "SET {0} TO {1}; SELECT 1/0; SET {2} TO {3}",
            "BEGIN; SET {0} TO {1}; SET LOCAL {0} TO DEFAULT; COMMIT"))
        text = text.format(*first, *second)
        return [query(text), query("ROLLBACK")]

    def reset(self):
        name = self.rng.choice([*SETTINGS, "ALL"])
        forms = ["RESET %s"] if name == "ALL" else ["RESET %s", "SET %s TO DEFAULT"]
        return self.sql(self.rng.choice(forms) % name)

    def set_config(self):
        name, value = self.assignment()
        value = value if value.startswith("'") else "'%s'" % value
        return self.sql("SELECT set_config('%s', %s, %s)"
                        % (name, value, self.rng.choice(("false", "false", "true"))))

    def set_in_function(self):
        name = self.rng.choice(FUNCTION_SETTINGS)
        value = self.rng.choice(SETTINGS[name]).strip("'").replace("''", "'")
        form = self.rng.choice(("SELECT public.set_it('%s', $v$%s$v$)",
                                "DO $do$ BEGIN PERFORM set_config('%s', $v$%s$v$, false); END $do$"))
        return self.sql(form % (name, value))

    def bad_setting(self):
        return self.sql(self.rng.choice(("SET work_mem TO 'much'", "SET no_such TO 1",
                                         "SET DateStyle TO nonsense", "RESET no_such",
                                         "SET my.own TO", "SET max_connections TO 3")))

    # --- who ------------------------------------------------------------------------------------

    def role(self):
        names = ["SET ROLE pair_member", "SET ROLE \"Odd 'Member\"", "RESET ROLE", "SET ROLE NONE",
                 "SET ROLE no_such_role", "SET ROLE pair_super",
                 "BEGIN; SET LOCAL ROLE pair_member; COMMIT"]
        if self.superuser:
            names += ["SET SESSION AUTHORIZATION pair_user", "RESET SESSION AUTHORIZATION",
                      "SET SESSION AUTHORIZATION DEFAULT"]
        return self.sql(self.rng.choice(names))

    # --- statements -----------------------------------------------------------------------------

    def prepare(self):
        name = self.rng.choice(SQL_NAMES)
        text = self.rng.choice(QUERIES)
        types = self.rng.choice(("", "(int)", "(text)"))
        return self.sql("PREPARE %s%s AS %s" % (name, types, text))

    def execute(self):
        return self.sql("EXECUTE %s(%d)" % (self.rng.choice(SQL_NAMES), self.rng.randrange(9)))

    def deallocate(self):
        name = self.rng.choice([*SQL_NAMES, "s1", "ALL"])
        return self.sql("DEALLOCATE " + name)

    def parse_named(self):
        oids = self.rng.choice(((), (), (23,), (25,)))
        return [parse(self.rng.choice(QUERIES), self.rng.choice(NAMES), oids), SYNC]

    def parse_unnamed(self):
        return [parse(self.rng.choice(QUERIES), "", self.rng.choice(((), (23,)))), SYNC]

    def use_statement(self):
        name = self.rng.choice([*NAMES, "", ""])
        return [bind([str(self.rng.randrange(9))], name), describe("P"), execute(), SYNC]

    def close_statement(self):
        return [close("S", self.rng.choice([*NAMES, ""])), SYNC]

    # --- the rest -------------------------------------------------------------------------------

    def listen(self):
        return self.sql("LISTEN " + self.rng.choice(CHANNELS))

    def unlisten(self):
        return self.sql("UNLISTEN " + self.rng.choice([*CHANNELS, "*"]))

    def lock(self):
        return self.sql("SELECT pg_advisory_lock%s(%s)" % (self.rng.choice(("", "", "_shared")),
                                                           self.rng.choice(self.locks)))

    def unlock(self):
        if self.rng.random() < 0.1:
            return self.sql("SELECT pg_advisory_unlock_all()")
        return self.sql("SELECT pg_advisory_unlock%s(%s)" % (self.rng.choice(("", "", "_shared")),
                                                             self.rng.choice(self.locks)))

    def temp_table(self):
        name = self.rng.choice(TABLES)
        return self.sql(self.rng.choice(TEMP_DEFINITIONS).format(t=name))

    def temp_use(self):
        name = self.rng.choice(TABLES)
        text = self.rng.choice((
            "INSERT INTO %s (v) VALUES (%d)" % (name, self.rng.randrange(99)),
            "INSERT INTO %s (v) SELECT generate_series(1, %d)" % (name, self.rng.randrange(60)),
            "DELETE FROM %s WHERE v %% 3 = 0" % name, "SELECT * FROM %s ORDER BY v" % name,
            "DROP TABLE IF EXISTS " + name, "SELECT nextval('%s')" % name,
            "CREATE INDEX ON %s (v DESC) WHERE v > 3" % name, "ANALYZE " + name,
            "ALTER TABLE %s ADD COLUMN extra date DEFAULT '2026-01-31'" % name,
            "GRANT SELECT ON %s TO PUBLIC" % name, "COMMENT ON TABLE %s IS 'it''s'" % name))
        return self.sql(text)

    def declare(self):
        kind = self.rng.choice(("", "SCROLL ", "BINARY ", "NO SCROLL "))
        source = self.rng.choice(("SELECT id, note FROM fixed ORDER BY id", "SELECT 1 WHERE false",
                                  "VALUES (1, 'x'), (NULL, 'y')", "SELECT v FROM t_a ORDER BY v",
                                  "SELECT g, now() - now(), g::numeric / 7 FROM "
                                  "generate_series(1, 300) g"))
        return self.sql("DECLARE %s %sCURSOR WITH HOLD FOR %s"
                        % (self.rng.choice(CURSORS), kind, source))

    def fetch(self):
        how = self.rng.choice(("NEXT", "3", "PRIOR", "ALL", "ABSOLUTE 2", "BACKWARD 2", "0"))
        return self.sql("%s %s FROM %s" % (self.rng.choice(("FETCH", "FETCH", "MOVE")), how,
                                           self.rng.choice(CURSORS)))

    def close_cursor(self):
        return self.sql("CLOSE " + self.rng.choice([*CURSORS, "ALL"]))

    def discard(self):
        return self.sql("DISCARD " + self.rng.choice(("ALL", "PLANS", "SEQUENCES", "TEMP")))

    def plain(self):
        return self.sql(self.rng.choice((
            "SELECT note FROM fixed WHERE id = 3", "SELECT 1/0", "SELECT now() IS NULL",
            "SELECT date '2026-12-31', timestamptz '2026-01-01 00:00+00', interval '1 day 1 sec'",
            "SELECT 'caf' || chr(233), '\\x00ff'::bytea, 1::float8/3", "SELECT 'a\\b'",
            "SELECT current_user, session_user", "SHOW my.own", "BEGIN; SELECT 1; COMMIT")))

    KINDS = {name: None for name in (
        "set", "set", "set_local", "set_in_block", "reset", "set_config", "set_in_function",
        "bad_setting", "role", "prepare", "execute", "deallocate", "parse_named", "parse_unnamed",
        "use_statement", "close_statement", "listen", "unlisten", "lock", "unlock", "temp_table",
        "temp_use", "declare", "fetch", "close_cursor", "discard", "plain")}


# --- what is seen ---------------------------------------------------------------------------------

def normal(text):
    if text is None:
        return None
    return OUR_NAME.sub('"?"', TEMP_NUMBER.sub(r"pg_\1temp_N", text))


def seen(messages):
    """The answer without what may differ: positions in the sources, names that are the server's."""
    result = []
    for msg in messages:
        if msg.kind in "SNA":
            continue
        if msg.kind == "D":
            result.append(("D", [normal(value) for value in msg.row()]))
        elif msg.kind == "T":
            count = int.from_bytes(msg.body[:2], "big")
            result.append(("T", count, msg.columns()))
        elif msg.kind == "E":
            fields = msg.fields()
            result.append(("E", fields.get("C"), normal(fields.get("M"))))
        elif msg.kind == "t":
            result.append(("t", msg.body))
        else:
            result.append((msg.kind, normal(msg.body.decode("latin-1"))))
    return result


# Independent of every setting of the session, and of its role.
VIEWS = {
    "settings": "SELECT name, setting, reset_val FROM pg_catalog.pg_settings WHERE name NOT IN "
                "('port', 'data_directory', 'cluster_name', 'config_file', 'hba_file', "
                "'ident_file', 'external_pid_file', 'listen_addresses', 'unix_socket_directories', "
                "'transaction_isolation', 'primary_slot_name', 'primary_conninfo', 'in_hot_standby') "
                # Those of a library that was loaded in passing.
                "AND name NOT LIKE 'plpgsql.%' "
                "ORDER BY name COLLATE pg_catalog.\"C\"",
    "custom": "SELECT pg_catalog.current_setting('my.own', true), "
              "pg_catalog.current_setting('my.other_setting', true)",
    "who": "SELECT current_user, session_user, pg_catalog.current_setting('role'), "
           "pg_catalog.current_setting('is_superuser')",
    "statements": "SELECT name, statement, parameter_types, from_sql FROM "
                  "pg_catalog.pg_prepared_statements ORDER BY name COLLATE pg_catalog.\"C\"",
    "cursors": "SELECT name, is_holdable, is_binary, is_scrollable FROM "
               "pg_catalog.pg_cursors WHERE name OPERATOR(pg_catalog.<>) '' ORDER BY name COLLATE "
               "pg_catalog.\"C\"",
    "channels": "SELECT c FROM pg_catalog.pg_listening_channels() c ORDER BY c COLLATE "
                "pg_catalog.\"C\"",
    "locks": "SELECT classid, objid, objsubid, mode FROM pg_catalog.pg_locks WHERE locktype "
             "OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) "
             "pg_catalog.pg_backend_pid() ORDER BY 1, 2, 3, mode COLLATE pg_catalog.\"C\"",
    "relations": "SELECT c.relname, c.relkind, c.relacl, pg_catalog.obj_description(c.oid, "
                 "'pg_class'), c.relowner::pg_catalog.regrole::text, (SELECT "
                 "pg_catalog.array_agg(pg_catalog.pg_get_indexdef(i.indexrelid) ORDER BY "
                 "pg_catalog.pg_get_indexdef(i.indexrelid) COLLATE pg_catalog.\"C\") FROM "
                 "pg_catalog.pg_index i WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid), (SELECT "
                 "pg_catalog.array_agg(pg_catalog.pg_get_constraintdef(k.oid) ORDER BY k.conname) "
                 "FROM pg_catalog.pg_constraint k WHERE k.conrelid OPERATOR(pg_catalog.=) c.oid) "
                 "FROM pg_catalog.pg_class c WHERE c.relnamespace OPERATOR(pg_catalog.=) "
                 "pg_catalog.pg_my_temp_schema() ORDER BY c.relname COLLATE pg_catalog.\"C\"",
    "columns": "SELECT c.relname, a.attnum, a.attname, "
               "pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, "
               "a.attgenerated, pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM "
               "pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid "
               "OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT "
               "a.attisdropped LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid "
               "OPERATOR(pg_catalog.=) c.oid AND d.adnum OPERATOR(pg_catalog.=) a.attnum WHERE "
               "c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() ORDER BY "
               "c.relname COLLATE pg_catalog.\"C\", a.attnum",
    # Of a sequence all but how far it is ahead in the WAL.
    "t_a": "SELECT pg_catalog.to_jsonb(x) OPERATOR(pg_catalog.-) 'log_cnt' FROM pg_temp.t_a x ORDER BY 1",
    "T b": "SELECT pg_catalog.to_jsonb(x) OPERATOR(pg_catalog.-) 'log_cnt' FROM pg_temp.\"T b\" x "
           "ORDER BY 1",
    "sequences": "SELECT s.sequencename, s.last_value FROM pg_catalog.pg_sequences s WHERE "
                 "s.schemaname OPERATOR(pg_catalog.~) '^pg_temp' AND (s.schemaname)::pg_catalog."
                 "regnamespace::pg_catalog.oid OPERATOR(pg_catalog.=) "
                 "pg_catalog.pg_my_temp_schema() ORDER BY 1",
}


class Difference(Exception):
    pass


class Pair:
    """`alone` and `moved` are connections that have been through the same."""

    def __init__(self, number, plan, alone, moved):
        self.number = number
        self.plan = plan
        self.alone = alone
        self.moved = moved
        self.history = []
        self.heard = ([], [])

    def close(self):
        self.alone.close()
        self.moved.close()

    def ask(self, conn, parts, heard):
        """Sends it all; the answers up to the last ReadyForQuery."""
        ends = sum(1 for part in parts if part[:1] in (b"Q", b"S"))
        conn.send(*parts)
        messages = []
        for _ in range(ends):
            messages += conn.ready()
        heard += [note(msg) for msg in messages if msg.kind == "A"]
        return messages

    def both(self, parts, what):
        answers = [seen(self.ask(conn, parts, self.heard[i]))
                   for i, conn in enumerate((self.alone, self.moved))]
        if answers[0] != answers[1]:
            at = next((i for i, two in enumerate(zip(*answers)) if two[0] != two[1]),
                      min(map(len, answers)))
            self.fail(what, answers[0][at:at + 1], answers[1][at:at + 1])

    def fail(self, what, alone, moved):
        raise Difference("session %d, %s\nalone: %s\nmoved: %s\nhistory:\n  %s" % (
            self.number, what, alone, moved, "\n  ".join(self.history[-60:])))

    def step(self):
        parts = self.plan.step()
        self.history.append(" ".join(show(part) for part in parts))
        self.both(parts, "step " + self.history[-1])

    def compare(self):
        """Everything that can be seen, what is destroyed by looking first."""
        self.both([bind(["3"]), describe("P"), execute(), SYNC], "unnamed statement")
        for name in NAMES:
            self.both([describe("S", name), SYNC], "statement " + name)
        for what, text in VIEWS.items():
            self.both([query(text)], what)
        for name in CURSORS:
            self.both([query("FETCH 0 FROM " + name)], "cursor " + name)
        if self.alone.params != self.moved.params:
            self.fail("parameters", self.alone.params, self.moved.params)

    def read_cursors(self):
        """All rows, from where each stands and backward: an error ends it, on both sides."""
        for name in CURSORS:
            for how in ("0", "ALL", "BACKWARD ALL"):
                self.both([query("FETCH %s FROM %s" % (how, name))], "cursor " + name)

    def hear(self, notify):
        """Both are sent a notification on every channel, and hear the same."""
        notify(self.number)
        for i, conn in enumerate((self.alone, self.moved)):
            # It has arrived when an answer of after it has.
            self.ask(conn, [parse("SELECT 1", "tmp"), close("S", "tmp"), SYNC], self.heard[i])
        if sorted(self.heard[0]) != sorted(self.heard[1]):
            self.fail("notifications", self.heard[0], self.heard[1])
        self.heard = ([], [])

    def count_locks(self):
        """How often each lock is held: destroys it."""
        for lock in self.plan.locks:
            for form in ("", "_shared"):
                for _ in range(8):
                    self.both([query("SELECT pg_catalog.pg_advisory_unlock%s(%s)" % (form, lock))],
                              "lock %s" % lock)


def note(msg):
    return tuple(part.decode("latin-1") for part in msg.body[4:].split(b"\0")[:2])


def show(part):
    kind = chr(part[0])
    if kind in "QP":
        return "%s(%s)" % (kind, part[5:].split(b"\0\0")[0].strip(b"\0").decode("latin-1"))
    return "%s%r" % (kind, part[5:25]) if kind in "BDC" else kind


def login(host, port, dbname, plan):
    conn = pgwire.Conn(host, port)
    conn.login("pair_super" if plan.superuser else "pair_user", dbname, **plan.startup)
    return conn
