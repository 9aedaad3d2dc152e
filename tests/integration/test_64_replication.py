# SPDX-License-Identifier: PostgreSQL
"""Replication connections, physical and logical: PostgreSQL's own programs through the proxy, limits,
holds, HBA rules."""
import os
import signal
import subprocess

import pytest

import pgwire
from pgwire import errors, kinds, query, rows, wait_for
from proxy import USERS, ConsoleError
from servers import BINDIR, SLOW

pytestmark = pytest.mark.threads

BOTH = pytest.mark.parametrize("mode", ["transaction", "session"])


@pytest.fixture(scope="module")
def source(folder, templates):
    """A server that has what logical replication needs."""
    from conftest import _clusters
    with _clusters(folder, templates) as make:
        cluster = make("source", settings={"wal_level": "logical"})
        for name in ("p1", "p2"):
            cluster.sql("CREATE DATABASE " + name)
            cluster.sql("CREATE TABLE items (id int PRIMARY KEY, note text)", name)
        cluster.sql("CREATE ROLE copier LOGIN REPLICATION")
        yield cluster


@pytest.fixture
def make(make_proxy, source):
    def make(**kwargs):
        kwargs.setdefault("databases", {"p1": "source", "p2": "source", "replication": "source"})
        return make_proxy({"source": source}, kwargs.pop("databases"),
                          secrets={**USERS, "copier": ""}, **kwargs)
    return make


def tool(proxy, name, *args, database=""):
    return [os.path.join(BINDIR, name), "-d", "host=%s port=%d user=postgres %s"
            % (proxy.host, proxy.port, database), *args]


def run(proxy, name, *args, **kwargs):
    result = subprocess.run(tool(proxy, name, *args, **kwargs), capture_output=True, text=True,
                            timeout=120 * SLOW)
    assert result.returncode == 0, result.stderr
    return result.stdout


def of_kind(proxy, view, kind):
    return [row for row in proxy.command("SHOW " + view) if row["replication"] == kind]


@BOTH
def test_programs(make, source, tmp_path, mode):
    """pg_basebackup with its two connections, pg_receivewal, pg_recvlogical."""
    proxy = make(pool_mode=mode)
    backup = tmp_path / "backup"
    run(proxy, "pg_basebackup", "-D", str(backup), "-X", "stream", "-c", "fast")
    assert (backup / "PG_VERSION").exists()
    subprocess.run([os.path.join(BINDIR, "pg_verifybackup"), str(backup)], check=True,
                   capture_output=True, timeout=120 * SLOW)
    slot = "slot_" + mode
    wal = tmp_path / "wal"
    wal.mkdir()
    run(proxy, "pg_receivewal", "-S", slot, "--create-slot")
    with open(tmp_path / "wal.log", "ab") as log:
        receiver = subprocess.Popen(tool(proxy, "pg_receivewal", "-D", str(wal), "-S", slot, "-v"),
                                    stdout=log, stderr=log)
    try:
        wait_for(lambda: of_kind(proxy, "SERVERS", "physical"), 30 * SLOW, "the stream")
        # The stream may begin behind the present segment.
        wait_for(lambda: source.sql("SELECT txid_current(), pg_switch_wal()") and
                 [name for name in os.listdir(wal) if len(name) == 24], 30 * SLOW, "a segment")
    finally:
        receiver.send_signal(signal.SIGINT)
        assert receiver.wait(30 * SLOW) == 0, (tmp_path / "wal.log").read_text()
    run(proxy, "pg_receivewal", "-S", slot, "--drop-slot")
    run(proxy, "pg_recvlogical", "-S", slot, "--create-slot", "-P", "test_decoding",
        database="dbname=p1")
    source.sql("INSERT INTO items SELECT n, repeat('x', 10000) FROM generate_series(1, 500) AS n; "
               "DELETE FROM items", "p1")
    end = source.value("SELECT pg_current_wal_insert_lsn()")
    text = run(proxy, "pg_recvlogical", "-S", slot, "--start", "-f", "-", "-E", str(end),
               database="dbname=p1")
    assert text.count("INSERT") == text.count("DELETE") == 500
    run(proxy, "pg_recvlogical", "-S", slot, "--drop-slot", database="dbname=p1")
    wait_for(lambda: not of_kind(proxy, "SERVERS", "physical") +
             of_kind(proxy, "SERVERS", "logical"), what="the end of their connections")


def test_a_standby_and_a_subscription(make, source, make_cluster):
    """What PostgreSQL itself connects with."""
    proxy = make()
    standby = make_cluster.standby(source, "far")
    standby.sql("ALTER SYSTEM SET primary_conninfo = 'host=%s port=%d user=postgres "
                "application_name=far'" % (proxy.host, proxy.port))
    standby.sql("SELECT pg_reload_conf()")
    wait_for(lambda: of_kind(proxy, "CLIENTS", "physical"), 60 * SLOW, "the standby")
    source.sql("INSERT INTO items VALUES (1, 'here')", "p2")
    wait_for(lambda: standby.value("SELECT count(*) FROM items", "p2") == 1, 60 * SLOW, "the row")
    # Its own name, as synchronous_standby_names wants it.
    assert source.value("SELECT count(*) FROM pg_stat_replication WHERE application_name = 'far'")
    target = make_cluster("target")
    target.sql("CREATE TABLE items (id int PRIMARY KEY, note text)")
    source.sql("CREATE PUBLICATION all_of_it FOR ALL TABLES", "p2")
    target.sql("CREATE SUBSCRIPTION mine CONNECTION 'host=%s port=%d user=postgres dbname=p2' "
               "PUBLICATION all_of_it" % (proxy.host, proxy.port))
    try:
        wait_for(lambda: target.value("SELECT count(*) FROM items") == 1, 60 * SLOW, "the copy")
        source.sql("INSERT INTO items VALUES (2, 'later')", "p2")
        wait_for(lambda: target.value("SELECT count(*) FROM items") == 2, 60 * SLOW, "the stream")
    finally:
        target.sql("DROP SUBSCRIPTION mine")
    source.sql("TRUNCATE items; DROP PUBLICATION all_of_it", "p2")


def test_session(make):
    """SQL on a logical one, startup parameters, cancel; transactions in a statement pool."""
    proxy = make(pool_mode="statement")
    with proxy.wire("p1", "postgres", replication="database", application_name="me",
                    options="-c work_mem=7MB") as conn:
        assert rows(conn.query("IDENTIFY_SYSTEM"))[0][3] == "p1"
        assert conn.value("SHOW work_mem") == "7MB"
        assert conn.value("SHOW application_name") == "me"
        conn.query("BEGIN")
        conn.query("CREATE TEMP TABLE t AS SELECT 1")
        assert conn.query("COMMIT")[-1].body == b"I"
        pid = conn.value("SELECT pg_backend_pid()")
        conn.send(query("SELECT pg_sleep(120)"))
        while conn.silent(0.2):
            conn.cancel()
        assert errors(conn.ready())[0]["C"] == "57014"
        assert conn.value("SELECT pg_backend_pid()") == pid
        row = of_kind(proxy, "CLIENTS", "logical")[0]
        assert (row["database"], row["user"], row["state"]) == ("p1", "postgres", "active")
    with proxy.wire("replication", "copier", replication="true") as conn:
        assert rows(conn.query("IDENTIFY_SYSTEM"))[0][3] is None
        assert errors(conn.query("SELECT 1"))


def test_stream_and_back(make, source):
    """CopyBoth ends from the client's side, and the connection goes on."""
    proxy = make()
    with proxy.wire("replication", "postgres", replication="1") as conn:
        lsn = source.value("SELECT pg_current_wal_flush_lsn()")
        for _ in range(3):
            conn.send(query("START_REPLICATION %s" % lsn))
            assert conn.recv().kind == "W"
            source.sql("SELECT txid_current()")
            assert conn.until("d")[-1].body[:1] in b"wk"
            conn.send(pgwire.COPY_DONE)
            messages = conn.ready("I")
            assert kinds(messages).lstrip("d") in ("cCCZ", "cCZ")
        conn.send(query("START_REPLICATION FFFFFFF/0"))
        assert errors(conn.ready("I"))
        assert conn.query("IDENTIFY_SYSTEM")


def refused(proxy, dbname, user, **params):
    with pgwire.Conn(proxy.host, proxy.port) as conn:
        with pytest.raises(pgwire.LoginError) as error:
            conn.login(user, dbname, **params)
    return error.value.fields


def test_refusals(make, source):
    proxy = make(databases={"p1": "source"})
    assert refused(proxy, "p1", "app", replication="perhaps")["C"] == "22023"
    # What the server says of somebody without the attribute, and only to him.
    fields = refused(proxy, "p1", "app", replication="database")
    assert fields["C"] == "42501" and "D" not in fields
    assert "walsender" in fields["M"].lower().replace(" ", "")  # the words differ by version
    with proxy.wire("p1") as conn:
        assert conn.value("SELECT 1") == "1"
    fields = refused(proxy, "replication", "postgres", replication="true")
    assert fields["C"] == "3D000" and "configuration" in fields["H"]
    assert refused(proxy, "pgshunt", "pgshunt_admin", replication="true")["C"] == "0A000"


def test_limits(make):
    """They count, wait for room, and leave it when they go."""
    proxy = make(pool_size=2, client_login_timeout="1s")
    one = proxy.wire("p1", "postgres", replication="database")
    with proxy.wire("p1", "postgres", replication="database"):
        pool = [row for row in proxy.command("SHOW POOLS") if row["user"] == "postgres"][0]
        assert int(pool["sv_active"]) == 2
        assert refused(proxy, "p1", "postgres", replication="database")["C"] == "53300"
        # An ordinary client waits, too, and goes on when there is room.
        with proxy.wire("p2", "postgres") as other:
            assert other.value("SELECT 1") == "1"
    wait_for(lambda: len(of_kind(proxy, "SERVERS", "logical")) == 1, what="the end of one")
    with proxy.wire("p1", "postgres") as conn:
        assert conn.value("SELECT 1") == "1"
        # What lies idle in its pool makes room for it.
        with proxy.wire("p1", "postgres", replication="database") as two:
            assert two.value("SELECT 2") == "2"
            assert len(of_kind(proxy, "SERVERS", "logical")) == 2
        one.close()


@pytest.mark.parametrize("policy", ["cancel", "keep", "terminate"])
def test_hold(make, policy):
    proxy = make()
    with proxy.wire("p1", "postgres", replication="database") as conn, \
            proxy.wire("replication", "postgres", replication="true") as whole:
        conn.query("IDENTIFY_SYSTEM")
        with proxy.console() as console:
            with pytest.raises(ConsoleError) as error:
                console("HOLD p1 DRAIN 300ms POLICY abort")
            assert error.value.sqlstate == "55P03"
            console("HOLD p1 DRAIN 60s NOWAIT")
            assert [row["state"] for row in console("SHOW BLOCKERS p1")] == ["replication"]
            fields = refused(proxy, "p1", "postgres", replication="database")
            assert fields["C"] == "57P03" and "held" in fields["M"]
            console("RELEASE p1")
            assert console("HOLD p1 DRAIN 300ms POLICY " + policy)[0]["state"] == "held"
        assert errors(conn.until("E"))[0]["C"] == "57P01"
        proxy.command("RELEASE p1")
        # That of the whole server is of another database.
        assert whole.query("IDENTIFY_SYSTEM")


@BOTH
def test_pause(make, mode):
    """It waits for a stream, as pgbouncer's, and not for who does nothing, whose commands, which may be any
    SQL, wait for RESUME."""
    proxy = make(pool_mode=mode)
    with proxy.wire("p1", "postgres", replication="database") as conn, proxy.console() as console:
        with proxy.wire("p1", "postgres", replication="database") as stream:
            stream.query("CREATE_REPLICATION_SLOT paused TEMPORARY LOGICAL test_decoding")
            stream.send(query("START_REPLICATION SLOT paused LOGICAL 0/0"))
            stream.until("W")
            with pytest.raises(ConsoleError) as error:
                console("PAUSE p1 TIMEOUT 200ms")
            assert error.value.sqlstate == "55P03"
        console("PAUSE p1 TIMEOUT 20s")
        conn.send(query("INSERT INTO items VALUES (77, 'not during the pause')"))
        assert conn.silent(0.3)
        console("RESUME p1")
        assert not errors(conn.ready())
        assert not errors(conn.query("DELETE FROM items WHERE id = 77"))
        console("PAUSE p1 TIMEOUT 20s")
        conn.send(query("SELECT 1"))
        assert conn.silent(0.1)
        conn.close()
        console("RESUME p1")


def test_hba(make, source, tmp_path):
    """`replication` fits the physical ones only, and `all` does not."""
    hba = tmp_path / "hba.conf"
    hba.write_text("host replication copier 127.0.0.1/32 trust\n"
                   "host all postgres 127.0.0.1/32 trust\n"
                   "host all all 127.0.0.1/32 trust\n")
    proxy = make(auth_type="hba", auth_hba_file=str(hba))
    with proxy.wire("replication", "copier", replication="true") as conn:
        assert conn.query("IDENTIFY_SYSTEM")
    fields = refused(proxy, "replication", "postgres", replication="true")
    assert fields["C"] == "28000" and "replication connection" in fields["M"]
    with proxy.wire("p1", "postgres", replication="database") as conn:
        assert conn.query("IDENTIFY_SYSTEM")


def test_shutdown_and_lost_server(make, source):
    """A stream does not keep the proxy; the end of its server is its end."""
    proxy = make(shutdown_timeout="60s")
    lsn = source.value("SELECT pg_current_wal_flush_lsn()")
    with proxy.wire("replication", "postgres", replication="true") as one, \
            proxy.wire("replication", "postgres", replication="true") as two:
        for conn in (one, two):
            conn.send(query("START_REPLICATION %s" % lsn))
            assert conn.recv().kind == "W"
        pids = [int(row["remote_pid"]) for row in of_kind(proxy, "SERVERS", "physical")]
        source.sql("SELECT pg_terminate_backend(%d)" % pids[0])
        wait_for(lambda: len(of_kind(proxy, "CLIENTS", "physical")) == 1, what="the end of one")
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(20 * SLOW) == 0
        proxy.process = None
        for conn in (one, two):
            assert {fields["C"] for fields in errors(conn.rest())} <= {"57P01"}
    wait_for(lambda: not source.value("SELECT count(*) FROM pg_stat_replication"),
             what="the end of the streams")
