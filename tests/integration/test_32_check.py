# SPDX-License-Identifier: PostgreSQL
"""pgshunt check: every precondition of a move, each provoked on real servers where one machine
can have it."""
import contextlib
import json
import os
import shutil
import subprocess
import time

import pytest

from pgwire import wait_for
from scene import DONE, REFUSED
from servers import BINDIR, OWNER, SLOW, run, start, stopped

PASS, WARN, REFUSE = "pass", "warning", "refused"


@pytest.fixture
def scene(module_scene):
    """As it was; what a test configures is undone."""
    mover = dict(module_scene.mover)
    yield module_scene
    module_scene.mover.clear()
    module_scene.configure(**mover)


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


def test_all_is_well(scene):
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
    written = cluster.sql("SELECT 1 FROM pg_file_settings WHERE name = '%s' AND applied AND "
                          "sourcefile LIKE '%%auto.conf'" % name)
    cluster.sql("ALTER SYSTEM SET %s = '%s'" % (name, value))
    try:
        cluster.sql("SELECT pg_reload_conf()")
        wait_for(lambda: cluster.value("SHOW " + name) != old, what="the reload")
        new = cluster.value("SHOW " + name)
        yield
    finally:
        back = "SET %s = '%s'" % (name, old.replace("'", "''")) if written else "RESET " + name
        cluster.sql("ALTER SYSTEM " + back)
        cluster.sql("SELECT pg_reload_conf()")
        wait_for(lambda: cluster.value("SHOW " + name) != new, what="the reload")


def caught_up(scene):
    lsn = scene.pg1.value("SELECT pg_current_wal_flush_lsn()::text")
    wait_for(lambda: scene.pg2.value("SELECT pg_last_wal_replay_lsn() >= '%s'" % lsn),
             20 * SLOW, "the replay")


def test_what_is_in_the_shard(scene):
    scene.pg1.settings["wal_level"] = "logical"
    scene.pg1.stop()
    scene.pg1.start()
    wait_for(lambda: scene.pg1.sql("SELECT 1 FROM pg_stat_replication"), 20 * SLOW, "streaming")
    for name, result, word, do, undo in (
            ("unlogged", REFUSE, "fast", "CREATE UNLOGGED TABLE fast (a int)", "DROP TABLE fast"),
            ("prepared", PASS, "1 prepared transactions, which go along: open",
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


def test_library_that_only_the_source_has(scene):
    """The function is in the catalog of both, the file behind it on one machine only."""
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


def test_who_is_connected(scene):
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



def test_how_the_servers_are_set(scene):
    pg1, pg2 = scene.pg1, scene.pg2
    with setting(pg2, "work_mem", "8MB"):
        finds(scene, "parameters", WARN, "work_mem")
    with setting(pg2, "default_transaction_read_only", "on"):
        finds(scene, "read_only", REFUSE, "default_transaction_read_only")
    with setting(pg2, "recovery_min_apply_delay", "1h"):
        finds(scene, "replay", REFUSE, "delay")
    with setting(pg1, "synchronous_standby_names", "pg2"):
        wait_for(lambda: pg1.sql("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"),
                 what="the synchronous standby")
        finds(scene, "synchronous", REFUSE, "without pg2 0 are")
    # Tablespaces: a directory that is there on one of the two.
    with setting(pg1, "allow_in_place_tablespaces", "on"), \
            setting(pg2, "allow_in_place_tablespaces", "on"):
        with pg1.connect(autocommit=True) as conn:
            conn.execute("SET allow_in_place_tablespaces = on")
            conn.execute("CREATE TABLESPACE fast LOCATION ''")
        caught_up(scene)
        assert check(scene, DONE)["tablespaces"][0][0] == PASS
        oid = pg1.value("SELECT oid FROM pg_tablespace WHERE spcname = 'fast'")
        place = os.path.join(pg2.data, "pg_tblspc", str(oid))
        os.rename(place, place + ".gone")
        finds(scene, "tablespaces", REFUSE, "fast", "pg2")
        os.rename(place + ".gone", place)
        pg1.sql("DROP TABLESPACE fast")
    # Room: seen here by looking, elsewhere by a shell.
    scene.configure(min_free="1TB")
    finds(scene, "disk", REFUSE, "are free on pg2")
    scene.proxy.servers["pg2"]["shell"] = "env"
    scene.configure(min_free="1kB")
    assert [what for what, _ in check(scene, DONE)["disk"]] == [PASS, PASS]
    scene.proxy.servers["pg2"]["shell"] = "exit 3;"
    scene.configure()
    finds(scene, "disk", WARN, "pg2 cannot be seen", "exit code 3")
    del scene.proxy.servers["pg2"]["shell"]
    scene.proxy.servers["pg2"]["admin_user"] = "app"
    scene.configure()
    finds(scene, "superuser", REFUSE, "app", "pg2")
    del scene.proxy.servers["pg2"]["admin_user"]
    scene.configure()
    # A limit below the source's: the standby stops replaying.
    pg1.settings["max_connections"] = 160
    pg1.stop()
    pg1.start()
    wait_for(lambda: pg2.value("SELECT pg_is_wal_replay_paused()"), 20 * SLOW, "the standby's stop")
    finds(scene, "settings", REFUSE, "max_connections")
    pg2.settings["max_connections"] = 160
    pg2.stop()
    # Checksums on one side only.
    run([BINDIR + "/pg_checksums", "--enable", "--no-sync", "-D", pg2.data], OWNER)
    pg2.start()
    wait_for(lambda: pg1.sql("SELECT 1 FROM pg_stat_replication"), 20 * SLOW, "streaming")
    finds(scene, "architecture", WARN, "data_page_checksum_version")


def test_replication(scene):
    pg1, pg2 = scene.pg1, scene.pg2
    pg1.sql("SELECT pg_create_physical_replication_slot('forgotten', true)")
    finds(scene, "wal_kept", WARN, "forgotten", "bytes")
    pg1.sql("SELECT pg_drop_replication_slot('forgotten')")
    folder = os.path.join(scene.folder, "received")
    os.mkdir(folder)
    receiver = start([BINDIR + "/pg_receivewal", "-h", pg1.host, "-p", str(pg1.port), "-U",
                      "postgres", "-D", folder, "--no-sync"], folder + ".log")
    wait_for(lambda: len(pg1.sql("SELECT 1 FROM pg_stat_replication")) == 2, 20 * SLOW,
             "a second receiver")
    finds(scene, "standbys", WARN, "pg_receivewal")
    receiver.terminate()
    receiver.wait(20)
    if int(pg1.value("SHOW server_version_num")) >= 170000:
        with setting(pg1, "synchronized_standby_slots", "other,standby1"):
            finds(scene, "synchronous", REFUSE, "synchronized_standby_slots", "standby1")
    with setting(pg2, "primary_slot_name", ""):
        wait_for(lambda: pg2.sql("SELECT 1 FROM pg_stat_wal_receiver WHERE slot_name IS NULL "
                                 "AND status = 'streaming'"), 20 * SLOW, "streaming without slot")
        finds(scene, "slot", WARN, "no slot")
    wait_for(lambda: pg2.sql("SELECT 1 FROM pg_stat_wal_receiver WHERE slot_name IS NOT NULL "
                             "AND status = 'streaming'"), 20 * SLOW, "streaming by slot")
    # The slot is about to lose the WAL that the target has not got yet.
    process = pg2.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'")
    with stopped(process):
        with setting(pg1, "max_slot_wal_keep_size", "1MB"):
            for _ in range(2):
                pg1.sql("SELECT pg_logical_emit_message(false, 'fill', 'x'); "
                        "SELECT pg_switch_wal(); ")
            wait_for(lambda: pg1.value("SELECT wal_status FROM pg_replication_slots") ==
                     "unreserved", 20 * SLOW, "the slot")
            finds(scene, "slot", REFUSE, "unreserved")
    with setting(pg2, "primary_conninfo", "host=127.0.0.1 port=1 user=postgres"):
        wait_for(lambda: not pg2.sql("SELECT 1 FROM pg_stat_wal_receiver WHERE status = "
                                     "'streaming'"), 20 * SLOW, "the end of streaming")
        finds(scene, "receiver", REFUSE, "the WAL receiver of pg2 is")


def test_who_will_be_let_in(scene):
    pg2 = scene.pg2
    with open(pg2.data + "/pg_hba.conf") as file:
        hba = file.read()

    def rule(line):
        with open(pg2.data + "/pg_hba.conf", "w") as out:
            out.write(line + "\n" + hba)
        loaded = pg2.value("SELECT pg_conf_load_time()")
        # Times of files have no fractions.
        os.utime(pg2.data + "/pg_hba.conf", (time.time() - 5, time.time() - 5))
        pg2.sql("SELECT pg_reload_conf()")
        wait_for(lambda: pg2.value("SELECT pg_conf_load_time()") != loaded, what="the reload")

    direct = scene.pg1.connect("p2", "app2")
    with scene.proxy.wire("p2", "app") as conn:
        conn.value("SELECT 1")
        assert check(scene, DONE)["hba"][0][0] == PASS
        # Neither the proxy's users nor those who come directly.
        rule("host p2 app,app2 127.0.0.0 255.255.255.0 reject")
        finds(scene, "logins", REFUSE, "reject")
        finds(scene, "hba", REFUSE, "user app2", "line 1")
        # The lines that fit are found by role, database, order and address.
        scene.pg1.sql("CREATE ROLE readers; GRANT readers TO app2")
        caught_up(scene)
        for line, result, words in (
                ("host p2 +readers 127.0.0.0/8 reject", REFUSE, ("app2",)),
                ("host p1 all 127.0.0.0/8 reject", None, ()),
                ("host all all ::1/128 reject", None, ()),
                ("hostssl p2 app2 all reject", WARN, ("SSL is disabled",)),
                ("host p2 all 127.0.0.1/32 trust\nhost p2 all all reject", None, ()),
                ("host sameuser app2 127.0.0.0/8 reject", None, ()),
                ("host p2 app2 127.0.0.0/8 md5", WARN, ("md5", "trust", "app2")),
                ("host p2 app2 some.example.org trust", WARN, ("cannot be foreseen",)),
                ("host p2 app2 127.0.0.0/8 nonsense", WARN, ("nonsense",))):
            rule(line)
            if result is None:
                assert check(scene, DONE)["hba"][0][0] == PASS, line
            else:
                finds(scene, "hba", result, *words)
        rule("# as before")
        os.utime(pg2.data + "/pg_hba.conf", (time.time() + 5, time.time() + 5))
        finds(scene, "hba", WARN, "changed after it was loaded")
        rule("# as before")
        # The proxy's own look at the target, which its SWAP depends on.
        scene.proxy.servers["pg2"]["check_user"] = "nobody_there"
        scene.proxy.reload()
        wait_for(lambda: check_logins(scene) == REFUSE, 20 * SLOW, "the proxy's reload")
        del scene.proxy.servers["pg2"]["check_user"]
        scene.proxy.reload()
        wait_for(lambda: check_logins(scene) == PASS, 20 * SLOW, "the proxy's reload")
    direct.close()


def check_logins(scene):
    result = scene.run("check", "p2", "--to", "pg2", "--json")
    return [event["result"] for event in map(json.loads, result.stdout.splitlines())
            if event.get("check") == "logins"][0]


VERSIONS = """
void ucol_getVersion_%s(const void *collator, unsigned char *version);
void ucol_getVersion_%s(const void *collator, unsigned char *version)
{
	version[0] = 9; version[1] = 8; version[2] = 7; version[3] = 6;
}
"""


def test_other_sort_order(scene, folder):
    """Another version of ICU on the target's machine, as far as PostgreSQL can tell."""
    linked = run(["ldd", BINDIR + "/postgres"]).stdout
    version = linked.split("libicui18n.so.")[1].split()[0]
    source = os.path.join(scene.folder, "versions.c")
    with open(source, "w") as out:
        out.write(VERSIONS % (version, version))
    library = os.path.join(folder, "versions.so")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    os.chmod(library, 0o755)
    scene.pg1.sql("CREATE COLLATION german (provider = icu, locale = 'de')", "p2")
    caught_up(scene)
    scene.pg2.stop()
    scene.pg2.env = {**os.environ, "LD_PRELOAD": library}
    scene.pg2.start()
    wait_for(lambda: scene.pg1.sql("SELECT 1 FROM pg_stat_replication"), 20 * SLOW, "streaming")
    # Nothing is sorted by it yet.
    assert check(scene, DONE)["collation"][0][0] == PASS
    scene.pg1.sql("CREATE TABLE sorted (a text COLLATE german PRIMARY KEY)", "p2")
    caught_up(scene)
    finds(scene, "collation", REFUSE, "german", "9.8.7.6")
    scene.pg1.sql("DROP DATABASE p2 WITH (FORCE)")
    scene.pg1.sql("CREATE DATABASE p2 TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en'")
    caught_up(scene)
    finds(scene, "collation", REFUSE, "of database p2", "9.8.7.6")
