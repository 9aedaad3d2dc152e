# SPDX-License-Identifier: PostgreSQL
"""pgshunt check: every precondition of a move, each provoked on real servers where one machine
can have it."""
import contextlib
import json
import os
import shutil
import signal
import subprocess

import pytest

from pgwire import wait_for
from proxy import ADMIN_PASSWORD
from scene import DONE, REFUSED
from servers import BINDIR, OWNER, SLOW, run, start

PASS, WARN, REFUSE = "pass", "warning", "refused"


def check(scene, code, *args):
    """The findings of one run, by check: {name: [(result, detail), ...]}."""
    result = scene.run("check", "p2", "--to", "pg2", "--json", *args)
    assert result.returncode == code, result.stdout + result.stderr
    found = {}
    for line in result.stdout.splitlines():
        event = json.loads(line)
        if event["event"] == "check":
            assert event["result"] == PASS or event["remedy"]
            found.setdefault(event["check"], []).append((event["result"], event["detail"]))
    return found


def finds(scene, name, result, *words, code=None):
    """The check says so, with one finding that has all these words in it."""
    found = check(scene, (REFUSED if result == REFUSE else DONE) if code is None else code)
    for got, detail in found[name]:
        if got == result and all(word in detail for word in words):
            return
    raise AssertionError("%s should have said %s, %s: %s" % (name, result, words, found[name]))


def test_all_is_well(make_scene):
    scene = make_scene()
    with scene.proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        found = check(scene, DONE)
        assert {name: what for name, what in found.items() if what[0][0] != PASS} == {}
        result = scene.run("check", "p2", "--to", "pg2")
        assert result.returncode == DONE
        assert "all %d checks passed" % len(found) in result.stdout
    scene.check_on_pg1()
    # Nothing to log in as is not a reason to refuse, but to say so.
    scene.proxy.stop()
    scene.proxy.start()
    finds(scene, "logins", WARN, "no client has been there")


@contextlib.contextmanager
def having(cluster, do, undo, dbname="p2"):
    cluster.sql(do, dbname)
    try:
        yield
    finally:
        cluster.sql(undo, dbname)


@contextlib.contextmanager
def setting(cluster, name, value):
    """A setting of the server, in force."""
    old = cluster.value("SHOW " + name)
    cluster.sql("ALTER SYSTEM SET %s = '%s'" % (name, value))
    try:
        cluster.sql("SELECT pg_reload_conf()")
        wait_for(lambda: cluster.value("SHOW " + name) != old, what="the reload")
        new = cluster.value("SHOW " + name)
        yield
    finally:
        cluster.sql("ALTER SYSTEM RESET " + name)
        cluster.sql("SELECT pg_reload_conf()")
        wait_for(lambda: cluster.value("SHOW " + name) != new, what="the reload")


def caught_up(scene):
    lsn = scene.pg1.value("SELECT pg_current_wal_flush_lsn()::text")
    wait_for(lambda: scene.pg2.value("SELECT pg_last_wal_replay_lsn() >= '%s'" % lsn),
             20 * SLOW, "the replay")


def test_what_is_in_the_shard(make_scene):
    scene = make_scene()
    scene.pg1.settings["wal_level"] = "logical"
    scene.pg1.stop()
    scene.pg1.start()
    wait_for(lambda: scene.pg1.sql("SELECT 1 FROM pg_stat_replication"), 20 * SLOW, "streaming")
    for name, result, word, do, undo in (
            ("unlogged", REFUSE, "fast", "CREATE UNLOGGED TABLE fast (a int)", "DROP TABLE fast"),
            ("prepared", REFUSE, "'open'".strip("'"),
             "BEGIN; CREATE TABLE later (a int); PREPARE TRANSACTION 'open'",
             "ROLLBACK PREPARED 'open'"),
            ("slots", REFUSE, "decoded",
             "SELECT pg_create_logical_replication_slot('decoded', 'pgoutput')",
             "SELECT pg_drop_replication_slot('decoded')"),
            ("subscriptions", REFUSE, "sub", "CREATE SUBSCRIPTION sub CONNECTION 'host=127.0.0.1' "
             "PUBLICATION pub WITH (connect = false)",
             "ALTER SUBSCRIPTION sub SET (slot_name = NONE); DROP SUBSCRIPTION sub"),
            ("publications", WARN, "pub", "CREATE PUBLICATION pub FOR ALL TABLES",
             "DROP PUBLICATION pub"),
            ("extensions", WARN, "imaginary", "CREATE EXTENSION plproxy; UPDATE pg_extension "
             "SET extname = 'imaginary' WHERE extname = 'plproxy'",
             "UPDATE pg_extension SET extname = 'plproxy' WHERE extname = 'imaginary'; "
             "DROP EXTENSION plproxy CASCADE"),
            ("databases", REFUSE, "LIMIT", "ALTER DATABASE p2 CONNECTION LIMIT 0",
             "ALTER DATABASE p2 CONNECTION LIMIT -1"),
            ("databases", REFUSE, "template", "ALTER DATABASE p2 IS_TEMPLATE true",
             "ALTER DATABASE p2 IS_TEMPLATE false"),
            ("collation", WARN, "corrupt", "CREATE COLLATION old (provider = icu, locale = 'de', "
             "version = '1.2.3'); CREATE TABLE sorted (a text COLLATE old PRIMARY KEY)",
             "DROP TABLE sorted; DROP COLLATION old")):
        with having(scene.pg1, do, undo):
            caught_up(scene)
            finds(scene, name, result, word)
        caught_up(scene)
    with having(scene.pg1, "ALTER DATABASE p2 ALLOW_CONNECTIONS false",
                "ALTER DATABASE p2 ALLOW_CONNECTIONS true", "postgres"):
        caught_up(scene)
        finds(scene, "databases", REFUSE, "does not allow connections")
    assert check(scene, DONE)["databases"][0][0] == PASS


def test_library_that_only_the_source_has(make_scene):
    """The function is in the catalog of both, the file behind it on one machine only."""
    scene = make_scene()
    folder = os.path.join(scene.folder, "lib")
    os.mkdir(folder)
    os.chmod(folder, 0o755)
    libdir = run([BINDIR + "/pg_config", "--pkglibdir"]).stdout.strip()
    shutil.copy(os.path.join(libdir, "plproxy.so"), os.path.join(folder, "only_here.so"))
    with setting(scene.pg1, "dynamic_library_path", "$libdir:" + folder):
        scene.pg1.sql("CREATE FUNCTION handler() RETURNS language_handler LANGUAGE c "
                      "AS 'only_here', 'plproxy_call_handler'", "p2")
        caught_up(scene)
        finds(scene, "libraries", REFUSE, "only_here", "pg2")
        with setting(scene.pg2, "dynamic_library_path", "$libdir:" + folder):
            assert check(scene, DONE)["libraries"][0][0] == PASS
            # The library is there, and is an older one that lacks the function.
            with having(scene.pg1, "UPDATE pg_proc SET prosrc = 'from_a_newer_version' WHERE "
                        "proname = 'handler'", "DROP FUNCTION handler"):
                caught_up(scene)
                finds(scene, "libraries", REFUSE, "from_a_newer_version")


def test_who_is_connected(make_scene):
    scene = make_scene()
    with scene.proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        assert check(scene, DONE)["bypass"][0][0] == PASS
        with scene.pg1.connect("p2", "app", application_name="cron job") as direct:
            direct.execute("SELECT 1")
            finds(scene, "bypass", WARN, "1 sessions", "cron job", "user app")
        scene.configure(hold_timeout="10ms", catch_up_timeout="1s")
        with scene.pg1.connect("p2", "app") as direct:
            direct.execute("SELECT pg_sleep(0.05)")
            finds(scene, "transactions", WARN, "idle in transaction")
        with scene.pg2.connect("p2", "app", application_name="reports") as reader:
            reader.execute("SELECT pg_sleep(0.05)")
            finds(scene, "readers", WARN, "reports", "p2")
            finds(scene, "conflicts", WARN, "max_standby_streaming_delay")
        # The user of a pool that will not be let in again.
        with having(scene.pg1, "ALTER ROLE app NOLOGIN", "ALTER ROLE app LOGIN"):
            caught_up(scene)
            finds(scene, "roles", WARN, "app", "may not log in", code=REFUSED)
            finds(scene, "logins", REFUSE, "p2", "logins failed")
        caught_up(scene)
        assert check(scene, DONE)["roles"][0][0] == PASS
    scene.check_on_pg1()

