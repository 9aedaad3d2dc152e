# SPDX-License-Identifier: PostgreSQL
"""Pairs of sessions that are sent the same and must look the same: one directly at a server, left
alone, and one through the proxy, which is moved.  What they do is random; what is compared is every
answer, and after each move everything of a session that its client can see.
"""
import re

import pgwire
from pgwire import (COPY_DONE, FLUSH, SYNC, bind, close, copy_data, copy_fail, describe, execute,
                    function_call, parse, query)
from servers import VERSION

# What both databases have.  Nobody changes its tables: what one session does no other one sees.
SCHEMA = """
CREATE TABLE fixed (id int PRIMARY KEY, note text);
INSERT INTO fixed SELECT g, 'note ' || g FROM generate_series(1, 40) g;
CREATE SCHEMA other;
CREATE TABLE other.fixed AS SELECT id, 'other ' || id AS note FROM fixed;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'it is fixed'; END $$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON fixed EXECUTE FUNCTION refuse();
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON other.fixed
    EXECUTE FUNCTION refuse();
ALTER TABLE fixed ENABLE ALWAYS TRIGGER refuse;
ALTER TABLE other.fixed ENABLE ALWAYS TRIGGER refuse;
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE DOMAIN short AS varchar(9) COLLATE "C" CHECK (VALUE <> 'bad');
CREATE FUNCTION set_it(name text, value text) RETURNS text LANGUAGE plpgsql
    AS $$ BEGIN RETURN set_config(name, value, false); END $$;
CREATE FUNCTION set_for_itself(value text) RETURNS text LANGUAGE plpgsql SET work_mem TO '9MB'
    SET my.inside TO 'x' AS $$ BEGIN SET work_mem TO '8MB'; PERFORM set_config('my.inside', value, true);
    RETURN current_setting('work_mem') || current_setting('my.inside'); END $$;
CREATE FUNCTION set_and_fail(name text, value text) RETURNS text LANGUAGE plpgsql
    AS $$ BEGIN PERFORM set_config(name, value, false); PERFORM 1 / 0; RETURN 'never';
    EXCEPTION WHEN division_by_zero THEN RETURN current_setting(name, true); END $$;
CREATE FUNCTION run(command text) RETURNS text LANGUAGE plpgsql
    AS $$ BEGIN EXECUTE command; RETURN 'ran'; END $$;
GRANT USAGE ON SCHEMA other TO PUBLIC;
GRANT SELECT ON fixed, other.fixed TO PUBLIC;
GRANT ALL ON SCHEMA public TO PUBLIC;
"""
ROLES = """
CREATE ROLE pair_user LOGIN; CREATE ROLE pair_super LOGIN SUPERUSER;
CREATE ROLE pair_member; GRANT pair_member TO pair_user;
CREATE ROLE "Odd 'Member"; GRANT "Odd 'Member" TO pair_user;
CREATE ROLE pair_set LOGIN; GRANT pair_member TO pair_set;
ALTER ROLE pair_set SET work_mem TO '5MB'; ALTER ROLE pair_set SET my.own TO 'the role''s';
ALTER ROLE pair_set SET search_path TO other, public; ALTER ROLE pair_set SET TimeZone TO 'Asia/Tokyo';
ALTER ROLE pair_set SET statement_timeout TO '77s'; ALTER ROLE pair_set SET DateStyle TO 'SQL, DMY';
ALTER ROLE pair_set SET default_transaction_isolation TO 'repeatable read';
"""
DATABASE_SETTINGS = """
ALTER DATABASE {0} SET lock_timeout TO '88s';
ALTER DATABASE {0} SET my.other_setting TO 'the database''s';
ALTER DATABASE {0} SET IntervalStyle TO 'sql_standard'; ALTER DATABASE {0} SET enable_sort TO off;
ALTER ROLE pair_set IN DATABASE {0} SET extra_float_digits TO 2;
"""
USERS = ["pair_user", "pair_set", "pair_user", "pair_super"]

SETTINGS = {
    "work_mem": ["1MB", "7MB", "64kB"],
    "statement_timeout": ["0", "555s", "'2min'"],
    "lock_timeout": ["0", "99s"],
    "idle_session_timeout": ["'1d'", "0"],
    "idle_in_transaction_session_timeout": ["'1h'", "0"],
    "DateStyle": ["'German, DMY'", "'ISO, YMD'", "SQL", "Postgres"],
    "IntervalStyle": ["iso_8601", "postgres_verbose"],
    "TimeZone": ["'Asia/Tokyo'", "'America/New_York'", "UTC", "'<+05>-05'", "-3.5"],
    "search_path": ["other, public", "public", "'$user', other", "''", "pg_temp, other",
                    "pg_catalog, pg_temp, public"],
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
    "default_transaction_read_only": ["on", "off", "off"],
    "synchronous_commit": ["off", "local", "on"],
    **({"transaction_timeout": ["0", "444s", "'3min'"]} if int(VERSION) >= 17 else {}),
    "xmloption": ["document", "content"],
    "plan_cache_mode": ["force_generic_plan", "auto"],
    "array_nulls": ["off", "on"],
    "default_text_search_config": ["'pg_catalog.german'", "'pg_catalog.simple'"],
    "random_page_cost": ["1.5", "3", "0.123456"],
    "quote_all_identifiers": ["on", "off"],
    "default_toast_compression": ["pglz"],
    "default_tablespace": ["pg_default", "''"],
    "temp_tablespaces": ["''", "pg_default"],
    "backslash_quote": ["on", "safe_encoding"],
    "escape_string_warning": ["off", "on"],
    "transform_null_equals": ["on", "off"],
    "check_function_bodies": ["off", "on"],
    "constraint_exclusion": ["on", "partition"],
    "lc_monetary": ["'C'", "'C.UTF-8'"],
    "geqo_threshold": ["3", "12"],
    "max_parallel_workers_per_gather": ["0", "2"],
    "vacuum_cost_delay": ["'1500us'", "0"],
    "stats_fetch_consistency": ["none", "snapshot"],
    "my.own": ["'mine'", "'it''s; SET x.y = 3'", "''"],
    "my.other_setting": ["1", "'zwei'"],
    "My.MiXed.Case_": ["'deep'", "''", "'caf\u00e9 \u20ac'"],
}
SUPERUSER_SETTINGS = {
    "session_replication_role": ["replica", "local", "origin"],
    "log_min_duration_statement": ["'1h'", "-1"],
    "allow_system_table_mods": ["on", "off"],
    "lc_messages": ["'C'"],
    "zero_damaged_pages": ["off"],
}
FUNCTION_SETTINGS = ["work_mem", "DateStyle", "TimeZone", "search_path", "extra_float_digits",
                     "statement_timeout", "enable_seqscan", "quote_all_identifiers"]
SPECIAL = [
    "SET TIME ZONE LOCAL", "SET TIME ZONE 'CET'",
    "SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE",
    "SET NAMES 'LATIN1'", "SET NAMES DEFAULT", "SET SCHEMA 'other'", "SET XML OPTION DOCUMENT",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY, DEFERRABLE",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE, "
    "NOT DEFERRABLE",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SET CONSTRAINTS ALL DEFERRED",
    "RESET TIME ZONE", "RESET TRANSACTION ISOLATION LEVEL", "SET search_path TO DEFAULT",
    "/* no */ set  WORK_MEM\n=\t3000 -- ;", "SET work_mem FROM CURRENT", "SET SESSION work_mem = 2222",
    "SELECT set_for_itself('x')", "SELECT set_and_fail('work_mem', '3MB')",
    "SELECT set_and_fail('my.inside', 'lost')", "SELECT set_config('role', 'pair_member', false)",
    "SELECT run('SET work_mem TO 4567')", "SELECT run('SET LOCAL work_mem TO 4567')",
    "SELECT run('RESET ALL')", "SELECT run('SET my.inside TO hidden')", "DO $$ BEGIN SET my.own TO 'a DO'; END $$",
]
QUERIES = ["SELECT id, note FROM fixed WHERE id < $1 ORDER BY id", "SELECT $1::int + 1 AS n",
           "SELECT now() - now(), date '2026-12-31', interval '1 day 2 hours', $1::int",
           "SELECT current_setting('DateStyle'), $1::text", "INSERT INTO t_a (v) VALUES ($1) "
           "RETURNING v", "SELECT '\\x0102'::bytea, $1::float8 / 3", "UPDATE fixed SET id = $1",
           "SELECT 'it''s; $2 -- not' || $1 /* nor; $3 /* nested */ */ AS \"odd; name\"",
           "SELECT $q$ ; $q$, $1::mood", "SELECT $1::short, E'a\\\\b\\'c'",
           "VALUES ($1::int[], 'caf\u00e9')", "SELECT count(*) FROM t_a WHERE v = $1",
           "SHOW work_mem", "WITH x AS (SELECT $1::int AS n) SELECT n FROM x WHERE n IN (1, 3)",
           "SELECT note -- and no more\nFROM fixed WHERE id = $1", ""]
NAMES = ["s1", "s2", "Weird \"name", "s-4"]
SQL_NAMES = ["q1", "q2", "\"Q 3\""]
CHANNELS = ["news", "\"Odd channel\"", "x" * 63]
CURSORS = ["c1", "\"C two\"", "c3"]
LOCKS = ["{}", "-9223372036854775808 + {}", "7, -{}", "2147483647 - {}, 0"]  # each pair has its own
TABLES = ["t_a", "\"T b\""]
# A sequence as COPY writes it: how far it is ahead in the WAL is nobody's.
LOG_CNT = re.compile(r"^(-?\d+)\t\d+\t([tf]\n)$")
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
    "CREATE TEMP TABLE {t} (v int REFERENCES {u} ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TEMP TABLE {t} (v bigint GENERATED BY DEFAULT AS IDENTITY (START -3 INCREMENT -2 CYCLE "
    "MINVALUE -9 MAXVALUE 9), note short DEFAULT 'x', m mood[] DEFAULT '{{glad}}')",
    "CREATE TEMP TABLE {t} (v int, during int4range, EXCLUDE USING gist (during WITH &&), "
    "CONSTRAINT \"odd; one\" CHECK (v > -5 AND 'a;b' <> ''''))",
    "CREATE TEMP TABLE {t} (v int NOT NULL, t text COLLATE \"C\", d date DEFAULT current_date, "
    "UNIQUE (t) INCLUDE (v)) WITH (fillfactor = 50, toast.autovacuum_enabled = off)",
    "CREATE TABLE pg_temp.{t} (LIKE fixed INCLUDING ALL, v int)",
    "CREATE TEMP TABLE IF NOT EXISTS {t} (v numeric(9, 2), x xml, j jsonb, b bytea, f float8) "
    "ON COMMIT DELETE ROWS",
    "CREATE TEMP TABLE {t} AS SELECT g AS v, repeat(md5(g::text), 200) AS big "
    "FROM generate_series(1, 9) g",
    "CREATE TEMP SEQUENCE {t} AS smallint MINVALUE -5 MAXVALUE 5 START 0 CYCLE",
    "SELECT id AS v, note INTO TEMP {t} FROM fixed WHERE id > 38",
    "CREATE TEMP TABLE {t} (v int); ALTER TABLE {t} ADD gone text, ADD kept text DEFAULT 'k'; "
    "ALTER TABLE {t} DROP gone",
]
# These hold a session where it is.
TEMP_PINNING = [
    "CREATE TEMP VIEW {t} AS SELECT 1 AS v",
    "CREATE TEMP TABLE {t} (v int) PARTITION BY LIST (v)",
    "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TYPE pg_temp.kind AS ENUM ('a')",
    "CREATE TEMP TABLE {t} (v int); CREATE RULE r AS ON DELETE TO {t} DO INSTEAD NOTHING",
    "CREATE TEMP TABLE {t} (v json)",
]
TEMP_USES = [
    "INSERT INTO {t} (v) VALUES ({n})", "INSERT INTO {t} (v) SELECT generate_series(1, {n})",
    "INSERT INTO {t} (v) SELECT generate_series(1, {n}) ON CONFLICT DO NOTHING",
    "INSERT INTO {t} DEFAULT VALUES", "DELETE FROM {t} WHERE v % 3 = 0",
    "UPDATE {t} SET v = v + 1", "SELECT * FROM {t} ORDER BY v", "TRUNCATE {t}",
    "TRUNCATE {t} RESTART IDENTITY CASCADE", "DROP TABLE IF EXISTS {t}", "DROP TABLE {t} CASCADE",
    "DROP SEQUENCE {t}", "SELECT nextval('{t}')", "SELECT setval('{t}', 3, false)",
    "ALTER SEQUENCE {t} RESTART WITH 4", "SELECT nextval(pg_get_serial_sequence('{t}', 'id'))",
    "CREATE INDEX ON {t} (v DESC) WHERE v > 3", "CREATE INDEX i_{n} ON {t} USING hash (v)",
    "CREATE UNIQUE INDEX \"Odd; \"\"index\" ON {t} ((v + 0)) WITH (fillfactor = 60)",
    "CLUSTER {t} USING t_a_pkey", "ANALYZE {t}", "REINDEX TABLE {t}",
    "ALTER TABLE {t} ADD COLUMN extra date DEFAULT '2026-01-31'",
    "ALTER TABLE {t} DROP COLUMN v CASCADE", "ALTER TABLE {t} RENAME COLUMN note TO v",
    "ALTER TABLE {t} ALTER v TYPE bigint USING v * 2",
    "ALTER TABLE {t} ALTER v SET DEFAULT 7, ALTER v SET NOT NULL, ALTER v SET STATISTICS 9",
    "ALTER TABLE {t} ADD CHECK (v < 90) NOT VALID", "ALTER TABLE {t} ADD PRIMARY KEY (v)",
    "ALTER TABLE {t} ALTER v ADD GENERATED ALWAYS AS IDENTITY",
    "ALTER TABLE {t} ALTER note SET STORAGE MAIN",
    "ALTER TABLE {t} SET (fillfactor = 33, autovacuum_enabled = off)",
    "ALTER TABLE {t} RENAME TO renamed", "ALTER TABLE renamed RENAME TO {t}",
    "ALTER TABLE {t} OWNER TO pair_member", "GRANT SELECT ON {t} TO PUBLIC",
    "GRANT SELECT, UPDATE (v) ON {t} TO pair_member WITH GRANT OPTION",
    "REVOKE ALL ON {t} FROM CURRENT_USER", "COMMENT ON TABLE {t} IS 'it''s; \\'",
    "COMMENT ON COLUMN {t}.v IS 'caf\u00e9'",
    "BEGIN; CREATE TEMP TABLE {t} (v int) ON COMMIT DROP; INSERT INTO {t} VALUES (1); COMMIT",
    "BEGIN; CREATE TEMP TABLE {t} (v int); INSERT INTO {t} VALUES (1); ROLLBACK",
    "BEGIN; DROP TABLE {t}; ROLLBACK",
    "BEGIN; SAVEPOINT a; INSERT INTO {t} (v) VALUES ({n}); ROLLBACK TO a; COMMIT",
    "CREATE TEMP TABLE fixed AS SELECT 7 AS id, 'shadow'::text AS note", "DROP TABLE IF EXISTS pg_temp.fixed",
]
CURSOR_SOURCES = [
    "SELECT id, note FROM fixed ORDER BY id", "SELECT 1 WHERE false",
    "VALUES (1, 'x'), (NULL, 'y')", "SELECT v FROM t_a ORDER BY v",
    "SELECT g, now() - now(), g::numeric / 7 FROM generate_series(1, 300) g",
    "SELECT f.id, o.note, 'sad'::mood, '{1,NULL}'::int[] FROM public.fixed f JOIN other.fixed o "
    "USING (id) ORDER BY 1",
    "SELECT date '2026-12-31', 1::float8 / 3, '\\x00ff'::bytea, interval '1 day', 'caf\u00e9', "
    "NULL::text", "SELECT 10 / (3 - g) FROM generate_series(1, 3) g",
    "SELECT repeat('x', g) AS \"odd; name\" FROM generate_series(1, 40) g",
]
FETCHES = ["NEXT", "3", "PRIOR", "ALL", "ABSOLUTE 2", "BACKWARD 2", "0", "LAST", "FIRST",
           "ABSOLUTE 0", "ABSOLUTE -2", "RELATIVE -1", "RELATIVE 2", "FORWARD ALL", "BACKWARD ALL"]


class Plan:
    """Random steps.  Each is a list of messages of which the last is answered by ReadyForQuery."""

    def __init__(self, rng, number, kinds=None):
        self.rng = rng
        self.locks = [lock.format(number) for lock in LOCKS]
        self.user = USERS[number % len(USERS)]
        self.superuser = self.user == "pair_super"
        self.settings = dict(SETTINGS, **(SUPERUSER_SETTINGS if self.superuser else {}))
        self.kinds = kinds or [kind for kind, weight in self.KINDS.items() for _ in range(weight)]

    def step(self):
        kind = self.rng.choice(self.kinds)
        return getattr(self, kind)()

    def sql(self, text):
        """As a simple Query, as the unnamed statement, or as a named one that is closed again."""
        how = self.rng.choice("QQQEN")
        if text.startswith("BEGIN"):
            return [query(text), query("ROLLBACK")]  # an error may have come before its end
        if how == "Q" or ";" in text:
            return [query(text)]
        if how == "E":
            return [parse(text), bind(), describe("P"), execute(), SYNC]
        return [parse(text, "tmp"), bind(name="tmp"), execute(), close("S", "tmp"), SYNC]

    def assignment(self):
        name = self.rng.choice(list(self.settings))
        return name, self.rng.choice(self.settings[name])

    def words(self, texts):
        """One of them, its blanks filled in."""
        table, other = self.rng.sample(TABLES, 2)
        return self.rng.choice(texts).format(t=table, u=other, n=self.rng.randrange(60))

    # --- settings -------------------------------------------------------------------------------

    def set(self):
        return self.sql("SET %s TO %s" % self.assignment())

    def set_local(self):
        end = self.rng.choice(("COMMIT", "ROLLBACK"))
        return self.sql("BEGIN; SET LOCAL %s TO %s; %s" % (*self.assignment(), end))

    def set_in_block(self):
        first, second = self.assignment(), self.assignment()
        text = self.rng.choice((
            "BEGIN; SET {0} TO {1}; SET {2} TO {3}; COMMIT",
            "BEGIN; SET {0} TO {1}; ROLLBACK",
            "BEGIN; SET {0} TO {1}; SAVEPOINT a; SET {2} TO {3}; ROLLBACK TO a; COMMIT",
            "BEGIN; SET {0} TO {1}; SELECT 1/0; COMMIT",
            "SET {0} TO {1}; SELECT 1/0; SET {2} TO {3}",
            "BEGIN; SET {0} TO {1}; SET LOCAL {0} TO DEFAULT; COMMIT",
            "BEGIN; SAVEPOINT a; SET {0} TO {1}; RELEASE a; SET LOCAL {2} TO {3}; COMMIT",
            "BEGIN; SET LOCAL {0} TO {1}; SET {0} TO DEFAULT; SAVEPOINT b; RESET ALL; "
            "ROLLBACK TO b; COMMIT",
            "BEGIN ISOLATION LEVEL SERIALIZABLE; SET {0} TO {1}; COMMIT AND CHAIN; "
            "SET {2} TO {3}; ROLLBACK AND CHAIN; COMMIT"))
        text = text.format(*first, *second)
        return self.sql(text)

    def reset(self):
        name = self.rng.choice([*self.settings, "ALL", "ALL"])
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

    def set_specially(self):
        return self.sql(self.rng.choice(SPECIAL))

    def bad_setting(self):
        return self.sql(self.rng.choice(("SET work_mem TO 'much'", "SET no_such TO 1",
                                         "SET DateStyle TO nonsense", "RESET no_such",
                                         "SET my.own TO", "SET max_connections TO 3")))

    # --- who ------------------------------------------------------------------------------------

    def role(self):
        names = ["SET ROLE pair_member", "SET ROLE \"Odd 'Member\"", "RESET ROLE", "SET ROLE NONE",
                 "SET ROLE no_such_role", "SET ROLE pair_super",
                 "BEGIN; SET LOCAL ROLE pair_member; COMMIT",
                 "BEGIN; SET ROLE pair_member; ROLLBACK",
                 "BEGIN; SAVEPOINT a; SET ROLE pair_member; ROLLBACK TO a; COMMIT",
                 "SET SESSION AUTHORIZATION " + self.user]
        if self.superuser:
            names += ["SET SESSION AUTHORIZATION pair_user", "RESET SESSION AUTHORIZATION",
                      "SET SESSION AUTHORIZATION DEFAULT", "SET SESSION AUTHORIZATION pair_set",
                      "BEGIN; SET LOCAL SESSION AUTHORIZATION pair_user; COMMIT",
                      "SET SESSION AUTHORIZATION pair_user; SET ROLE pair_member"]
        return self.sql(self.rng.choice(names))

    # --- statements -----------------------------------------------------------------------------

    def prepare(self):
        name = self.rng.choice(SQL_NAMES)
        text = self.rng.choice(QUERIES)
        types = self.rng.choice(("", "", "(int)", "(text)", "(numeric(9, 2), \"char\", pg_catalog.int4[])",
                                 "(public.mood)"))
        form = self.rng.choice(("PREPARE %s%s AS %s",) * 4 + (
            " /* a; b */ prepare\n%s %s as -- AS\n%s", "PREPARE %s%s AS %s ;", "PREPARE %s%s AS (%s)",
            "BEGIN; PREPARE %s%s AS %s; ROLLBACK"))
        return self.sql(form % (name, types, text))

    def prepare_apart(self):
        """In a transaction of several messages; what it prepared outlives even a ROLLBACK."""
        name, end = self.rng.choice(SQL_NAMES), self.rng.choice(("COMMIT", "ROLLBACK"))
        return [query("BEGIN"), *self.sql("PREPARE %s AS %s" % (name, self.rng.choice(QUERIES))),
                *self.sql(self.rng.choice(("SELECT 1", "SELECT 1/0", "DEALLOCATE " + name))), query(end)]

    def prepare_elsewhere(self):
        """By a function, of which the client's texts do not tell."""
        return self.sql("SELECT public.run($c$PREPARE %s AS %s$c$)"
                        % (self.rng.choice(SQL_NAMES), self.rng.choice(QUERIES)))

    def execute(self):
        return self.sql("EXECUTE %s(%d)" % (self.rng.choice(SQL_NAMES), self.rng.randrange(9)))

    def deallocate(self):
        name = self.rng.choice([*SQL_NAMES, "s1", "ALL"])
        return self.sql("DEALLOCATE " + name)

    def parse_named(self):
        oids = self.rng.choice(((), (), (23,), (25,), (1043, 20)))
        return [parse(self.rng.choice(QUERIES), self.rng.choice(NAMES), oids), SYNC]

    def parse_unnamed(self):
        return [parse(self.rng.choice(QUERIES), "", self.rng.choice(((), (23,)))), SYNC]

    def use_statement(self):
        name = self.rng.choice([*NAMES, "", ""])
        return [bind([str(self.rng.randrange(9))], name), describe("P"), execute(), SYNC]

    def close_statement(self):
        return [close("S", self.rng.choice([*NAMES, ""])), SYNC]

    def pipeline(self):
        """Several before one Sync: what comes behind an error is passed over, what was set is undone."""
        parts = []
        for _ in range(self.rng.randrange(2, 7)):
            parts += self.rng.choice((
                [parse("SET %s TO %s" % self.assignment()), bind(), execute()],
                [parse(self.rng.choice(QUERIES), self.rng.choice(NAMES))],
                [close("S", self.rng.choice(NAMES))],
                [parse("SELECT 1/0"), bind(), execute()],
                [bind(["1"], self.rng.choice(NAMES), "p"), execute("p", 1), execute("p", 1)],
                [parse("LISTEN " + self.rng.choice(CHANNELS)), bind(), execute()],
                [parse("SELECT pg_advisory_lock(%s)" % self.rng.choice(self.locks)), bind(), execute()],
                [parse(self.rng.choice(("COMMIT", "BEGIN", "ROLLBACK"))), bind(), execute()],
                [FLUSH], [SYNC], [SYNC]))
        return [*parts, SYNC, query("ROLLBACK")]

    # --- the rest -------------------------------------------------------------------------------

    def listen(self):
        channel = self.rng.choice(CHANNELS)
        return self.sql(self.rng.choice(("LISTEN %s",) * 4 + (
            "BEGIN; LISTEN %s; ROLLBACK", "BEGIN; LISTEN %s; UNLISTEN *; LISTEN %s; COMMIT",
            "SELECT public.run('LISTEN %s')", "BEGIN; SAVEPOINT a; LISTEN %s; ROLLBACK TO a; COMMIT"))
            .replace("%s", channel))

    def unlisten(self):
        return self.sql("UNLISTEN " + self.rng.choice([*CHANNELS, "*"]))

    def lock(self):
        form = self.rng.choice(("SELECT pg_%sadvisory_lock%s(%s)",) * 4 + (
            "SELECT pg_%sadvisory_lock%s(%s) FROM generate_series(1, 3)",
            "BEGIN; SELECT pg_%sadvisory_lock%s(%s); ROLLBACK",
            "BEGIN; SELECT pg_%sadvisory_xact_lock%s(%s); COMMIT"))
        attempt = "try_" if self.rng.random() < 0.2 else ""
        return self.sql(form % (attempt, self.rng.choice(("", "", "_shared")),
                                self.rng.choice(self.locks)))

    def unlock(self):
        if self.rng.random() < 0.1:
            return self.sql("SELECT pg_advisory_unlock_all()")
        return self.sql("SELECT pg_advisory_unlock%s(%s)" % (self.rng.choice(("", "", "_shared")),
                                                             self.rng.choice(self.locks)))

    def temp_table(self):
        return self.sql(self.words(TEMP_DEFINITIONS if self.rng.random() < 0.95 else TEMP_PINNING))

    def temp_use(self):
        return self.sql(self.words(TEMP_USES))

    def copy(self):
        table, other = self.rng.choice(TABLES), self.rng.choice(TABLES)
        return [query("COPY %s (v) FROM STDIN" % table), copy_data(b"1\n"),
                *self.rng.choice(([copy_data(b"2\n3\n"), COPY_DONE], [copy_fail("no")],
                                  [copy_data(b"x\n"), COPY_DONE])),
                query("COPY (SELECT * FROM %s ORDER BY 1) TO STDOUT" % other)]

    def declare(self):
        kind = self.rng.choice(("SCROLL ", "SCROLL ", "", "BINARY ", "BINARY SCROLL ", "NO SCROLL "))
        text = "DECLARE %s %sCURSOR WITH HOLD FOR %s" % (
            self.rng.choice(CURSORS), kind, self.rng.choice(CURSOR_SOURCES))
        form = self.rng.choice(("%s",) * 4 + ("BEGIN; %s; ROLLBACK", "BEGIN; SAVEPOINT a; %s; RELEASE a; COMMIT",
                                              "BEGIN; %s; SELECT 1/0; COMMIT"))
        return self.sql(form % text)

    def fetch(self):
        cursor = self.rng.choice(CURSORS)
        if self.rng.random() < 0.2:
            return [execute(cursor.strip('"'), self.rng.randrange(3)), SYNC]
        return self.sql("%s %s FROM %s" % (self.rng.choice(("FETCH", "FETCH", "MOVE")),
                                           self.rng.choice(FETCHES), cursor))

    def close_cursor(self):
        if self.rng.random() < 0.2:
            return [close("P", self.rng.choice(CURSORS).strip('"')), SYNC]
        return self.sql("CLOSE " + self.rng.choice([*CURSORS, "ALL"]))

    def discard(self):
        return self.sql("DISCARD " + self.rng.choice(("ALL", "PLANS", "SEQUENCES", "TEMP")))

    def call(self):
        return [function_call(177, [b"40", str(self.rng.randrange(3)).encode()])]

    def plain(self):
        return self.sql(self.rng.choice((
            "SELECT note FROM fixed WHERE id = 3", "SELECT 1/0", "SELECT now() IS NULL",
            "SELECT date '2026-12-31', timestamptz '2026-01-01 00:00+00', interval '1 day 1 sec'",
            "SELECT 'caf' || chr(233), '\\x00ff'::bytea, 1::float8/3", "SELECT 'a\\b'", "",
            "SELECT current_user, session_user", "SHOW my.own", "BEGIN; SELECT 1; COMMIT",
            "SELECT 12.5::money, '<a/>'::xml, NULL = NULL, '{a,NULL}'::text[]", "SELECT chr(8364)")))

    # How often each is done.
    KINDS = {
        "set": 2, "set_local": 1, "set_in_block": 2, "reset": 1, "set_config": 1, "set_in_function": 1,
        "set_specially": 2, "bad_setting": 1, "role": 2, "prepare": 2, "prepare_apart": 1,
        "prepare_elsewhere": 1, "execute": 1, "deallocate": 1, "parse_named": 2, "parse_unnamed": 1,
        "use_statement": 2, "close_statement": 1, "pipeline": 2, "listen": 1, "unlisten": 1, "lock": 2,
        "unlock": 1, "temp_table": 2, "temp_use": 4, "copy": 1, "declare": 2,
        "fetch": 3, "close_cursor": 1, "discard": 1, "call": 1, "plain": 1}


# --- what is seen ---------------------------------------------------------------------------------

def normal(text):
    if text is None:
        return None
    return OUR_NAME.sub('"?"', TEMP_NUMBER.sub(r"pg_\1temp_N", text))


def seen(messages):
    """The answer without what may differ: positions in the sources, names that are the server's."""
    result = []
    for msg in messages:
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
            result.append((msg.kind, LOG_CNT.sub(r"\1\t\2", normal(msg.body.decode("latin-1")))))
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
              "pg_catalog.current_setting('my.other_setting', true), "
              "pg_catalog.current_setting('my.mixed.case_', true), "
              "pg_catalog.current_setting('my.inside', true)",
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
    "relations": "SELECT c.relname, c.relkind, c.relacl, c.reloptions, pg_catalog.obj_description(c.oid, "
                 "'pg_class'), c.relowner::pg_catalog.regrole::text, (SELECT "
                 "pg_catalog.array_agg(pg_catalog.pg_get_indexdef(i.indexrelid) ORDER BY "
                 "pg_catalog.pg_get_indexdef(i.indexrelid) COLLATE pg_catalog.\"C\") FROM "
                 "pg_catalog.pg_index i WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid), (SELECT "
                 "pg_catalog.array_agg(pg_catalog.pg_get_constraintdef(k.oid) ORDER BY k.conname) "
                 "FROM pg_catalog.pg_constraint k WHERE k.conrelid OPERATOR(pg_catalog.=) c.oid) "
                 "FROM pg_catalog.pg_class c WHERE c.relnamespace OPERATOR(pg_catalog.=) "
                 "pg_catalog.pg_my_temp_schema() ORDER BY c.relname COLLATE pg_catalog.\"C\"",
    "columns": "SELECT c.relname, a.attnum, a.attname, a.attacl, a.attstorage, a.attstattarget, "
               "pg_catalog.col_description(a.attrelid, a.attnum), "
               "pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, "
               "a.attgenerated, pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM "
               "pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid "
               "OPERATOR(pg_catalog.=) c.oid AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT "
               "a.attisdropped LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid "
               "OPERATOR(pg_catalog.=) c.oid AND d.adnum OPERATOR(pg_catalog.=) a.attnum WHERE "
               "c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() ORDER BY "
               "c.relname COLLATE pg_catalog.\"C\", a.attnum",
    # Of a sequence all but how far it is ahead in the WAL.
    **{name: "SELECT pg_catalog.to_jsonb(x) OPERATOR(pg_catalog.-) 'log_cnt' FROM pg_temp.%s x "
             "ORDER BY 1" % name for name in [*TABLES, "renamed", "fixed"]},
    "sequences": "SELECT s.sequencename, s.last_value FROM pg_catalog.pg_sequences s WHERE "
                 "s.schemaname OPERATOR(pg_catalog.~) '^pg_temp' AND (s.schemaname)::pg_catalog."
                 "regnamespace::pg_catalog.oid OPERATOR(pg_catalog.=) "
                 "pg_catalog.pg_my_temp_schema() ORDER BY 1",
}
# Instead of hundreds of rows each time; what differs is read if this does.
SHORT = {"settings": "SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws('|', s.name, "
                     "s.setting, s.reset_val), ',')) FROM (%s) s" % VIEWS["settings"]}


class Difference(Exception):
    pass


class Pair:
    """`alone` and `moved` are connections that have been through the same.

    Questions are put to both, and only then answered by both: all sessions of all pairs work at the
    same time."""

    def __init__(self, number, plan, alone, moved):
        self.number = number
        self.plan = plan
        self.alone = alone
        self.moved = moved
        self.history = []
        self.heard = ([], [])
        self.asked = []

    def close(self):
        self.alone.close()
        self.moved.close()

    def send(self, questions):
        """(what it is, its messages) each; take() compares the answers."""
        data = b"".join(part for _, parts in questions for part in parts)
        self.asked += questions
        self.alone.send(data)
        self.moved.send(data)

    def take(self):
        asked, self.asked = self.asked, []
        differ = None
        for what, parts in asked:
            ends = sum(1 for part in parts if part[:1] in (b"Q", b"S", b"F"))
            answers = [read(conn, ends, self.heard[i])
                       for i, conn in enumerate((self.alone, self.moved))]
            if differ is None and raw(answers[0]) != raw(answers[1]):
                answers = [seen(answer) for answer in answers]
                if answers[0] != answers[1]:
                    differ = what, answers
        if differ:
            self.fail_by(*differ)

    def fail_by(self, what, answers):
        if what in SHORT:
            self.moved.send(query(VIEWS[what]))
            self.alone.send(query(VIEWS[what]))
            both = [seen(read(conn, 1, [])) for conn in (self.alone, self.moved)]
            self.fail(what, *([row for row in both[i] if row not in both[1 - i]] for i in (0, 1)))
        at = next((i for i, two in enumerate(zip(*answers)) if two[0] != two[1]),
                  min(map(len, answers)))
        self.fail(what, answers[0][at:at + 1], answers[1][at:at + 1])

    def both(self, parts, what):
        self.send([(what, parts)])
        self.take()

    def fail(self, what, alone, moved):
        raise Difference("session %d, %s\nalone: %s\nmoved: %s\nhistory:\n  %s" % (
            self.number, what, alone, moved, "\n  ".join(self.history[-60:])))

    def step(self):
        parts = self.plan.step()
        self.history.append(" ".join(show(part) for part in parts))
        self.send([("step " + self.history[-1], parts)])

    def compare(self):
        """Everything that can be seen, what is destroyed by looking first."""
        self.send([("unnamed statement", [bind(["3"]), describe("P"), execute(), SYNC])] +
                  [("statement " + name, [describe("S", name), SYNC]) for name in NAMES] +
                  [(what, [query(SHORT.get(what, text))]) for what, text in VIEWS.items()] +
                  [("cursor " + name, [query("FETCH 0 FROM " + name)]) for name in CURSORS])

    def compare_parameters(self):
        if self.alone.params != self.moved.params:
            self.fail("parameters", self.alone.params, self.moved.params)

    def read_cursors(self):
        """All rows, from where each stands and backward: an error ends it, on both sides."""
        self.send([("cursor " + name, [query("FETCH %s FROM %s" % (how, name))])
                   for name in CURSORS for how in ("0", "ALL", "BACKWARD ALL")])

    def hear(self):
        """Both have been sent a notification on every channel: it has arrived when an answer of
        after it has."""
        self.send([("after notifications", [parse("SELECT 1", "tmp"), close("S", "tmp"), SYNC])])

    def compare_heard(self):
        if sorted(self.heard[0]) != sorted(self.heard[1]):
            self.fail("notifications", self.heard[0], self.heard[1])
        self.heard = ([], [])

    def count_locks(self):
        """How often each lock is held: destroys it."""
        self.send([("lock %s" % lock, [query(
            "SELECT pg_catalog.pg_advisory_unlock%s(%s) FROM pg_catalog.generate_series(1, 12)"
            % (form, lock))]) for lock in self.plan.locks for form in ("", "_shared")])


def read(conn, ends, heard):
    """The messages up to the `ends`-th ReadyForQuery, without those that may come at any time."""
    messages, data, at = [], conn.buffer, 0
    while ends > 0:
        while len(data) - at < 5 or len(data) - at <= int.from_bytes(data[at + 1:at + 5], "big"):
            more = conn.sock.recv(262144)
            if not more:
                raise pgwire.Closed("closed after %s %r" % (messages[-3:], data[at:]))
            data, at = data[at:] + more, 0
        end = at + 1 + int.from_bytes(data[at + 1:at + 5], "big")
        msg = pgwire.Message(chr(data[at]), data[at + 5:end])
        at = end
        if msg.kind == "S":
            name, value = msg.strings()[:2]
            conn.params[name] = value
        elif msg.kind == "A":
            heard.append(note(msg))
        elif msg.kind != "N":
            messages.append(msg)
            ends -= msg.kind == "Z"
    conn.buffer = data[at:]
    return messages


def raw(messages):
    return [(msg.kind, msg.body) for msg in messages]


def note(msg):
    return tuple(part.decode("latin-1") for part in msg.body[4:].split(b"\0")[:2])


def show(part):
    kind = chr(part[0])
    if kind in "QP":
        return "%s(%s)" % (kind, part[5:].split(b"\0\0")[0].strip(b"\0").decode("latin-1"))
    return "%s%r" % (kind, part[5:25]) if kind in "BDCE" else kind


def login(host, port, dbname, plan):
    conn = pgwire.Conn(host, port, 90)
    conn.login(plan.user, dbname, **plan.startup)
    return conn
