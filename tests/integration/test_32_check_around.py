# SPDX-License-Identifier: PostgreSQL
"""pgshunt check: what lies around the two servers, and what of it would be noticed only after the
promotion: synchronous and other standbys, archives, other databases, proxies that mean another
server."""
import contextlib
import json
import os
import pty
import select
import time

from pgwire import wait_for
from scene import DONE, REFUSED, UNDONE
from servers import SLOW, stopped
from test_32_check import PASS, REFUSE, WARN, caught_up, check, finds, having, scene, setting

__all__ = ["scene"]


def synchronous(scene, names):
    """The value is in force, and the walsenders know."""
    count = scene.pg1.value("SELECT count(*) FROM pg_stat_replication")
    wait_for(lambda: scene.pg1.value("SELECT count(*) FROM pg_stat_replication WHERE "
                                     "state = 'streaming' AND sync_priority > 0") == names,
             20 * SLOW, "the synchronous standbys of %d" % count)


def test_commits_that_would_wait(scene):
    """synchronous_standby_names of the target, which pg_basebackup copies, and of the source."""
    pg1, pg2 = scene.pg1, scene.pg2
    for names in ("elsewhere", "ANY 2 (a, *)", '"any"', "first 1 (pg1)"):
        with setting(pg2, "synchronous_standby_names", names):
            finds(scene, "synchronous", REFUSE, "pg2", names, "0 are connected to it")
    with setting(pg1, "synchronous_standby_names", "nobody"):
        finds(scene, "synchronous", WARN, "nobody", "0 are connected")
    cascaded = scene.make_cluster.standby(pg2, "s4", slot="s4")
    with setting(pg2, "synchronous_standby_names", 'FIRST 1 (x, "S4")'):
        assert check(scene, DONE)["synchronous"][0][0] == PASS
    with setting(pg2, "synchronous_standby_names", "ANY 2 (s4, s5)"):
        finds(scene, "synchronous", REFUSE, "2 of them", "1 is connected to it")
    cascaded.stop()
    pg2.sql("SELECT pg_drop_replication_slot('s4')")
    other = scene.make_cluster.standby(pg1, "s3", slot="s3")
    for names, listed, result, words in (
            ("FIRST 2 (pg2, s3)", 2, REFUSE, ("wait for 2", "without pg2 1 is")),
            ("ANY 2 (*)", 2, REFUSE, ("wait for 2", "without pg2 1 is")),
            ("1 (pg2)", 1, REFUSE, ("wait for 1", "without pg2 0 are")),
            ("ANY 1 (pg2, s3)", 2, WARN, ("there are others: 1",)),
            ("pg2, s3", 2, WARN, ("there are others: 1",)),
            ("s3", 1, None, ())):
        with setting(pg1, "synchronous_standby_names", names):
            synchronous(scene, listed)
            if result is None:
                assert check(scene, DONE)["synchronous"][0][0] == PASS
            else:
                finds(scene, "synchronous", result, *words)
    other.stop()
    pg1.sql("SELECT pg_drop_replication_slot('s3')")
    assert check(scene, DONE)["synchronous"][0][0] == PASS


def knows_pg2_as(scene, **place):
    """The proxy's file says that of pg2; the mover's own does not."""
    right = scene.proxy.servers["pg2"]
    scene.proxy.servers["pg2"] = {**right, **place}
    scene.proxy.write()
    scene.proxy.stop()
    scene.proxy.start()
    scene.proxy.servers["pg2"] = right
    scene.proxy.write()


def test_proxy_that_means_another_server(scene):
    """It is found in the check, not after the promotion; and once more right before the hold, for
    what is changed in between."""
    other = scene.make_cluster.standby(scene.pg1, "s3", slot="s3")
    knows_pg2_as(scene)
    with scene.proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        assert check(scene, DONE)["same_target"][0][0] == PASS
    for port in (other.port, scene.pg1.port):
        knows_pg2_as(scene, port=port)
        with scene.proxy.wire("p2") as conn:
            conn.value("SELECT 1")
            finds(scene, "same_target", REFUSE, "proxy a", "p2", "another server")
            scene.move(REFUSED)
            # After the check: nobody is held, and nothing is fenced.
            knows_pg2_as(scene)
            with scene.proxy.wire("p2") as again:
                again.value("SELECT 1")
                mark = os.path.join(scene.folder, "waits.%d" % port)
                mover = scene.background("move", "p2", "--to", "pg2",
                                         fault="journal.prepare.intent=wait:" + mark)
                wait_for(lambda mark=mark: os.path.exists(mark), 60 * SLOW, "the preparation")
                right = scene.proxy.servers["pg2"]
                scene.proxy.servers["pg2"] = {**right, "port": port}
                scene.proxy.write()
                scene.proxy.command("RELOAD")
                os.unlink(mark)
                assert mover.wait(60 * SLOW) == UNDONE
                assert again.value("SHOW cluster_name") == "pg1"
                scene.proxy.servers["pg2"] = right
                scene.proxy.write()
                with open(os.path.join(scene.folder, "mover.log")) as log:
                    text = log.read()
                assert "prepare: proxy a, database p2: what it calls pg2" in text
    other.stop()
    scene.pg1.sql("SELECT pg_drop_replication_slot('s3')")
    knows_pg2_as(scene)
    scene.check_on_pg1()


def stream(scene):
    wait_for(lambda: scene.pg1.sql("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"),
             20 * SLOW, "streaming")


def restart(scene, *clusters):
    for cluster in clusters:
        cluster.stop()
    for cluster in reversed(clusters):
        cluster.start()
    stream(scene)


def test_wal_archive(scene):
    """The new timeline in the source's own archive; and what asks the archive while clients wait."""
    pg1, pg2 = scene.pg1, scene.pg2
    for cluster in (pg1, pg2):
        cluster.settings.update(archive_mode="on", archive_command="test -d /nowhere || cat %p")
    restart(scene, pg2, pg1)
    try:
        finds(scene, "archive", REFUSE, "archive_command", "/nowhere", "pg1", "pg2")
        scene.configure(same_archive=True)
        assert check(scene, DONE)["archive"][0][0] == PASS
        scene.configure(same_archive=False)
        with setting(pg2, "archive_command", "cat %p"):
            assert check(scene, DONE)["archive"][0][0] == PASS
        with setting(pg1, "archive_command", "/bin/true"), \
                setting(pg2, "archive_command", "/bin/true"):
            assert check(scene, DONE)["archive"][0][0] == PASS
        pg2.settings["archive_mode"] = "off"
        restart(scene, pg2)
        assert check(scene, DONE)["archive"][0][0] == PASS
        if int(pg1.value("SHOW server_version_num")) >= 150000:
            # A library, and the settings that tell it where.
            for cluster in (pg1, pg2):
                del cluster.settings["archive_command"]
                cluster.settings.update({
                    "archive_mode": "on", "archive_library": "basic_archive",
                    "basic_archive.archive_directory": cluster.folder if cluster is pg1
                    else pg1.folder})
            restart(scene, pg2, pg1)
            finds(scene, "archive", REFUSE, "archive_library", "basic_archive")
            with setting(pg2, "basic_archive.archive_directory", pg2.folder):
                assert check(scene, DONE)["archive"][0][0] == PASS
    finally:
        for cluster in (pg1, pg2):
            for name in ("archive_mode", "archive_command", "archive_library",
                         "basic_archive.archive_directory"):
                cluster.settings.pop(name, None)
        restart(scene, pg2, pg1)
    with setting(pg2, "restore_command", "false"):
        finds(scene, "restore", WARN, "pg2", "false")
    with setting(pg2, "recovery_end_command", "sleep 5"):
        finds(scene, "restore", WARN, "pg2", "recovery_end_command", "sleep 5")


def test_other_databases(scene):
    """They do not move, and their copies on the target live for a moment, or for ever."""
    pg1, pg2 = scene.pg1, scene.pg2
    with having(pg1, "BEGIN; CREATE TABLE later (a int); PREPARE TRANSACTION 'open'",
                "ROLLBACK PREPARED 'open'", "p1"):
        caught_up(scene)
        finds(scene, "prepared", PASS, "database p1", "open", "rolled back in its copy")
    with having(pg1, "BEGIN; CREATE TABLE later (a int); PREPARE TRANSACTION 'open'",
                "ROLLBACK PREPARED 'open'", "postgres"):
        caught_up(scene)
        finds(scene, "prepared", WARN, "database postgres", "open", "for ever")
    pg1.sql("CREATE SUBSCRIPTION sub CONNECTION 'host=127.0.0.1 port=1' PUBLICATION pub "
            "WITH (connect = false, slot_name = NONE)", "p1")
    caught_up(scene)
    assert check(scene, DONE)["subscriptions"][0][0] == PASS
    pg1.sql("ALTER SUBSCRIPTION sub SET (slot_name = sub); ALTER SUBSCRIPTION sub ENABLE", "p1")
    caught_up(scene)
    finds(scene, "subscriptions", REFUSE, "database p1", "sub", "take over")
    pg2.settings["max_logical_replication_workers"] = 0
    restart(scene, pg2)
    assert check(scene, DONE)["subscriptions"][0][0] == PASS
    del pg2.settings["max_logical_replication_workers"]
    restart(scene, pg2)
    pg1.sql("ALTER SUBSCRIPTION sub DISABLE; ALTER SUBSCRIPTION sub SET (slot_name = NONE); "
            "DROP SUBSCRIPTION sub", "p1")
    # What an interrupted DROP DATABASE leaves.
    with having(pg1, "CREATE DATABASE half", "DROP DATABASE half", "postgres"):
        pg1.sql("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'half'")
        caught_up(scene)
        finds(scene, "invalid", REFUSE, "half", "pg1")
    caught_up(scene)
    assert check(scene, DONE)["invalid"][0][0] == PASS


def routed(scene, dbname):
    """The proxy sends clients there."""
    scene.proxy.databases[dbname] = {"server": "pg1"}
    scene.proxy.write()
    scene.proxy.command("RELOAD")


def test_databases_that_stay_open(scene):
    pg1 = scene.pg1

    def admin(dbname):
        for name in ("pg1", "pg2"):
            scene.proxy.servers[name]["admin_dbname"] = dbname
        scene.proxy.write()
    admin("p1")
    finds(scene, "left_open", REFUSE, "proxy a", "p1", "the mover works")
    with having(pg1, "CREATE DATABASE tools", "DROP DATABASE tools WITH (FORCE)", "postgres"):
        caught_up(scene)
        admin("tools")
        assert check(scene, DONE)["left_open"][0][0] == PASS
        with pg1.connect("tools"):
            finds(scene, "left_open", REFUSE, "tools", "has 1 clients")
        for name in ("tools", "postgres"):
            routed(scene, name)
            finds(scene, "left_open", REFUSE, "proxy a", name)
            del scene.proxy.databases[name]
            scene.proxy.write()
            scene.proxy.command("RELOAD")
        admin("postgres")
    caught_up(scene)
    assert check(scene, DONE)["left_open"][0][0] == PASS
    # A template that has clients is a database like others; one that has none is left alone.
    for dbname in ("p1", "mold"):
        if dbname == "mold":
            pg1.sql("CREATE DATABASE mold")
        pg1.sql("ALTER DATABASE %s IS_TEMPLATE true" % dbname)
    caught_up(scene)
    result = scene.run("plan", "p2", "--to", "pg2", "--json")
    plan, = [event for event in map(json.loads, result.stdout.splitlines())
             if event["event"] == "plan"]
    assert plan["others"] == ["p1"]
    pg1.sql("ALTER DATABASE p1 IS_TEMPLATE false; ALTER DATABASE mold IS_TEMPLATE false; ")
    pg1.sql("DROP DATABASE mold")
    caught_up(scene)


def test_proxy_that_is_impatient(scene):
    scene.proxy.settings["hold_wait_timeout"] = "100ms"
    scene.proxy.reload()
    scene.proxy.command("RELOAD")
    finds(scene, "patience", WARN, "proxy a", "100ms", "8000 ms")
    scene.configure(hold_timeout="10ms", catch_up_timeout="50ms")
    assert check(scene, DONE)["patience"][0][0] == PASS
    scene.proxy.settings["hold_wait_timeout"] = "0"
    scene.configure(hold_timeout="1h", catch_up_timeout="1h")
    scene.proxy.command("RELOAD")
    assert check(scene, DONE)["patience"][0][0] == PASS
    del scene.proxy.settings["hold_wait_timeout"]
    scene.configure()
    scene.proxy.command("RELOAD")


def test_several_hosts(scene):
    for key in ("host", "admin_host"):
        for name in ("pg1", "pg2"):
            right = scene.proxy.servers[name]
            scene.proxy.servers[name] = {**right, key: "127.0.0.1,127.0.0.2"}
            scene.proxy.write()
            result = scene.run("check", "p2", "--to", "pg2")
            assert result.returncode == REFUSED
            assert "servers.%s.%s names several hosts" % (name, key) in result.stderr
            scene.proxy.servers[name] = right
    scene.proxy.write()


@contextlib.contextmanager
def read_only(cluster):
    """What the server is set to; the sessions of the test may have another idea."""
    def loaded():
        return cluster.value("SELECT pg_conf_load_time()")

    for sql in ("SET default_transaction_read_only = on", None,
                "RESET default_transaction_read_only"):
        if sql is None:
            yield
            continue
        before = loaded()
        cluster.sql("ALTER SYSTEM " + sql)
        cluster.sql("SELECT pg_reload_conf()")
        wait_for(lambda before=before: loaded() != before, what="the reload")


def test_what_only_the_mover_is_set_to(scene):
    """default_transaction_read_only of the server counts, not that of the mover's role or
    database; what other roles and databases have is the same before and after the move."""
    pg1, pg2 = scene.pg1, scene.pg2
    for where in ("ROLE postgres", "DATABASE postgres", "ROLE postgres IN DATABASE postgres",
                  "ROLE app", "ROLE ALL"):
        with having(pg1, "ALTER %s SET default_transaction_read_only = on" % where,
                    "BEGIN READ WRITE; ALTER %s RESET default_transaction_read_only; COMMIT"
                    % where, "postgres"):
            caught_up(scene)
            assert check(scene, DONE)["read_only"][0][0] == PASS, where
            with read_only(pg2):
                finds(scene, "read_only", REFUSE, "pg2")
        with having(pg1, "ALTER %s SET default_transaction_read_only = off" % where,
                    "ALTER %s RESET default_transaction_read_only" % where, "postgres"):
            caught_up(scene)
            with read_only(pg2):
                finds(scene, "read_only", REFUSE, "pg2")
    caught_up(scene)
    assert check(scene, DONE)["read_only"][0][0] == PASS


def test_environment_of_libpq(scene, monkeypatch):
    """What the configuration says is where it goes, and what kind of session it is."""
    service = scene.file("pg_service.conf", "[elsewhere]\nhostaddr=192.0.2.1\n")
    for name, value in (("PGTARGETSESSIONATTRS", "read-write"), ("PGHOSTADDR", "192.0.2.1"),
                        ("PGSERVICE", "elsewhere"), ("PGSERVICEFILE", service),
                        ("PGOPTIONS", "-c statement_timeout=1"), ("PGHOST", "192.0.2.1"),
                        ("PGCLIENTENCODING", "LATIN1"), ("PGLOADBALANCEHOSTS", "random")):
        monkeypatch.setenv(name, value)
        scene.proxy.env[name] = value
    scene.proxy.stop()
    scene.proxy.start()
    with scene.proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        assert check(scene, DONE)["same_target"][0][0] == PASS
    scene.proxy.env = {}
    scene.proxy.stop()
    scene.proxy.start()


class Terminal:
    """An operator at one: `pgshunt move`, which asks him."""

    def __init__(self, scene):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            argv = scene.argv("move", "p2", "--to", "pg2")
            os.execv(argv[0], argv)
        self.text = ""

    def wait(self, text):
        wait_for(lambda: self.read() and text in self.text, 60 * SLOW, text)
        self.text = self.text.split(text, 1)[1]

    def read(self):
        while select.select([self.fd], [], [], 0.05)[0]:
            try:
                self.text += os.read(self.fd, 65536).decode()
            except OSError:  # the end
                break
        return True

    def answer(self):
        os.write(self.fd, b"y\n")

    def end(self):
        """The exit code, and what it still said."""
        out = []
        wait_for(lambda: self.read() and (out or out.extend(os.waitpid(self.pid, os.WNOHANG)) or
                                          out[0] or out.clear()), 60 * SLOW, "the end")
        self.read()
        os.close(self.fd)
        return os.waitstatus_to_exitcode(out[1]), self.text


def test_late_answer(make_scene):
    """The checks are made again after the question; if there is another plan, so is the question."""
    scene = make_scene()
    operator = Terminal(scene)
    operator.wait("Move?")
    with stopped(operator.pid):  # by Ctrl-Z
        time.sleep(2.1)
    with having(scene.pg1, "CREATE UNLOGGED TABLE fast (a int)", "DROP TABLE fast"):
        caught_up(scene)
        operator.answer()
        code, text = operator.end()
    assert code == REFUSED and "the shards have no unlogged tables" in text
    scene.check_on_pg1()
    operator = Terminal(scene)
    operator.wait("Move?")
    time.sleep(2.1)
    scene.pg1.sql("CREATE DATABASE another")
    caught_up(scene)
    operator.answer()
    operator.wait("has changed meanwhile")
    operator.wait("another")
    operator.wait("Move?")
    time.sleep(2.1)
    operator.answer()
    code, text = operator.end()
    assert code == DONE, text
    scene.check_on_pg2()
    assert not scene.pg2.value("SELECT datallowconn FROM pg_database WHERE datname = 'another'")


def test_unlogged_table_that_is_made_behind_the_checks(make_scene):
    """It would be empty on pg2, and nobody would be told: it is seen once more before the promotion."""
    scene = make_scene()
    mark = os.path.join(scene.folder, "stands")
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.prepare.outcome=wait:" + mark)
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "prepare")
    with having(scene.pg1, "CREATE UNLOGGED TABLE fast AS SELECT 1 AS a", "DROP TABLE fast"):
        os.unlink(mark)
        assert mover.wait(60 * SLOW) == UNDONE
        with open(os.path.join(scene.folder, "mover.log")) as log:
            assert "database p2 has unlogged tables since the checks" in log.read()
        assert scene.pg1.value("SELECT a FROM fast", "p2") == 1
    scene.check_on_pg1()


def test_all_of_a_server_with_databases_that_have_no_entry(make_scene):
    """Which databases those are is not known, so nobody can mean all of them."""
    scene = make_scene()
    scene.proxy.databases["*"] = {"server": "pg1"}
    scene.proxy.write()
    with scene.proxy.console() as console:
        console("RELOAD")
    result = scene.run("plan", "--all-of", "pg1", "--to", "pg2")
    assert result.returncode == REFUSED
    assert 'proxy a sends every database that has no entry of its own to pg1, by the entry "*"' in result.stderr
    assert scene.run("plan", "p1", "p2", "--to", "pg2").returncode == DONE
