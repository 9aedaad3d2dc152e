# SPDX-License-Identifier: PostgreSQL
"""What a client sees on its connection when its session goes to another server: the same cancel key,
parameters before the answer that comes under them; and never another state than it had."""
import pytest

from pgwire import (SYNC, bind, cancel, describe, errors, execute, kinds, parse, query, rows,
                    wait_for)
from servers import SCHEMA, SLOW
from test_52_session_locks import swap

pytestmark = pytest.mark.threads


def cancels(cluster):
    """Cancel requests that the server could make nothing of."""
    with open(cluster.log, errors="replace") as log:
        return log.read().count(" in cancel request ")


def running(cluster, text):
    return cluster.value("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = '%s'"
                         % text)


def test_the_cancel_key_stays(make_proxy, pg, other):
    """It ends what runs on the new server; the old one hears of nothing."""
    proxy = make_proxy({"pg": pg, "other": other}, {"p1": "pg", "p2": "pg"}, pool_mode="session")
    asleep = "SELECT pg_sleep(60)"
    with proxy.wire("p2") as conn, proxy.wire("p1") as bystander:
        key = conn.key
        here = conn.value("SELECT pg_backend_pid()")
        swap(proxy, "other")
        assert conn.key == key and conn.value("SHOW cluster_name") == "other"
        bystander.send(query(asleep))
        conn.send(query(asleep))
        wait_for(lambda: running(pg, asleep) == running(other, asleep) == 1, 20 * SLOW, "both")
        seen = cancels(pg)
        conn.cancel()
        assert errors(conn.until("Z"))[0]["C"] == "57014"
        assert running(pg, asleep) == 1 and cancels(pg) == seen
        # … which it would have told of.
        cancel("127.0.0.1", pg.port, int(here).to_bytes(4, "big"), b"none")
        wait_for(lambda: cancels(pg) > seen, 20 * SLOW, "its word on a wrong key")
        bystander.cancel()
        assert errors(bystander.until("Z"))[0]["C"] == "57014"
        assert running(pg, asleep) == 0


def test_parameters_come_before_the_answer(make_cluster, make_proxy):
    """pg2 is a standby still: it reports in_hot_standby otherwise than pg1 did."""
    pg1 = make_cluster("pg1")
    pg1.sql("CREATE DATABASE p2")
    pg1.sql(SCHEMA, "p2")
    pg2 = make_cluster.standby(pg1, "pg2", slot="standby1")
    proxy = make_proxy({"pg1": pg1, "pg2": pg2}, {"p2": "pg1"}, pool_mode="session")
    with proxy.wire("p2") as simple, proxy.wire("p2") as extended, proxy.wire("p2") as idle:
        for conn in (simple, extended, idle):
            assert conn.value("SHOW in_hot_standby") == conn.params["in_hot_standby"] == "off"
        epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        simple.send(query("SHOW in_hot_standby"))
        extended.send(parse("SHOW in_hot_standby") + bind() + describe("P") + execute() + SYNC)
        wait_for(lambda: proxy.held()["held"] == "2", 20 * SLOW, "both")
        proxy.command("SWAP p2 TO pg2 EPOCH %s FORCE" % epoch)
        proxy.command("RELEASE p2 EPOCH %s" % epoch)
        told = simple.until("Z")
        assert kinds(told, "") == "STDCZ" and rows(told) == [["on"]]
        assert told[0].body == b"in_hot_standby\0on\0"
        told = extended.until("Z")
        assert kinds(told, "") == "S12TDCZ" and rows(told) == [["on"]]
        assert told[0].body == b"in_hot_standby\0on\0"
        # Who asks nothing is told as well, once.
        assert idle.until("S")[-1].body == b"in_hot_standby\0on\0" and idle.silent()
        assert kinds(idle.query("SHOW in_hot_standby"), "") == "TDCZ"


MEDDLERS = {
    "rows": "INSERT INTO pg_temp.mine VALUES (0, 'another')",
    "definition": "ALTER TABLE pg_temp.mine ALTER note SET DEFAULT 'other'",
}
MEDDLE = """
CREATE FUNCTION meddle() RETURNS event_trigger LANGUAGE plpgsql AS
    $$ BEGIN IF tg_tag = 'CREATE TABLE' THEN %s; END IF; END $$;
CREATE EVENT TRIGGER meddle ON ddl_command_end EXECUTE FUNCTION meddle();
"""
MINE = "CREATE TEMP TABLE mine (id int, note text); INSERT INTO mine SELECT g, 'mine' FROM generate_series(1, 9) g"


@pytest.fixture
def meddled(pg, other):
    """Makes a server put something of its own into a temporary table."""
    where = []

    def meddle(cluster, how):
        where.append(cluster)
        cluster.sql(MEDDLE % MEDDLERS[how], "p2")
    yield meddle
    for cluster in where:
        cluster.sql("DROP EVENT TRIGGER meddle; DROP FUNCTION meddle()", "p2")


@pytest.mark.parametrize("how", MEDDLERS)
def test_a_table_that_comes_out_differently(make_proxy, pg, other, meddled, how):
    """Its session stays, or ends and is told why; it never goes on with something else."""
    proxy = make_proxy({"pg": pg, "other": other}, {"p2": "pg"}, pool_mode="session")
    with proxy.wire("p2") as conn:
        conn.query(MINE)
        pid = conn.value("SELECT pg_backend_pid()")
        meddled(pg, how)
        proxy.command("RECONNECT p2")

        def why():
            return proxy.command("SHOW SESSIONS p2")[0]["why"] or ""
        wait_for(lambda: "came out differently" in why(), 20 * SLOW, "what pins it")
        assert conn.value("SELECT count(*) FROM mine WHERE note = 'mine'") == "9"
        assert conn.value("SELECT count(*) FROM mine") == "9"
        assert conn.value("SELECT pg_backend_pid()") == pid
    with proxy.wire("p2") as conn:
        pg.sql("ALTER EVENT TRIGGER meddle DISABLE", "p2")
        conn.query(MINE)
        meddled(other, how)
        proxy.command("PREPARE SWAP p2 TO other")
        epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        conn.send(query("SELECT count(*) FROM mine"))
        proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)
        proxy.command("RELEASE p2 EPOCH %s" % epoch)
        told = conn.rest()
        assert kinds(told, "") == "E"
        assert told[0].fields()["C"] == "57P01" and "came out differently" in told[0].fields()["D"]


HINDER = """
CREATE TABLE public.gate (); GRANT SELECT ON gate TO PUBLIC;
CREATE FUNCTION hinder() RETURNS event_trigger LANGUAGE plpgsql AS
    $$ BEGIN IF tg_tag = 'CREATE TABLE' THEN PERFORM FROM public.gate; END IF; END $$;
CREATE EVENT TRIGGER hinder ON ddl_command_start EXECUTE FUNCTION hinder();
"""


@pytest.fixture
def hindered(other):
    """With the table "gate" locked by this connection no temporary table can be made there."""
    other.sql(HINDER, "p2")
    conn = other.connect(dbname="p2")
    yield conn
    conn.close()
    other.sql("DROP EVENT TRIGGER hinder; DROP FUNCTION hinder(); DROP TABLE gate", "p2")


@pytest.mark.parametrize("differs", [False, True])
def test_others_wait_for_its_locks_and_channels_only(make_proxy, pg, other, meddled, hindered, differs):
    """What a session has besides is set up and compared when others go on already; it goes on itself
    only then, or is ended."""
    if differs:
        meddled(other, "rows")
    proxy = make_proxy({"pg": pg, "other": other}, {"p2": "pg"}, pool_mode="session")
    with proxy.wire("p2") as slow, proxy.wire("p2") as rival:
        slow.query(MINE)
        slow.query("SET lock_timeout = '61s'; LISTEN news")
        slow.query("SELECT pg_advisory_lock(7), pg_advisory_lock(7)")
        rival.query("SELECT 1")
        proxy.command("PREPARE SWAP p2 TO other")
        epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        hindered.execute("LOCK TABLE gate")
        slow.send(query("SELECT count(*) FROM mine"))
        rival.send(query("SELECT pg_try_advisory_lock(7); NOTIFY news, 'first'"))
        proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)
        proxy.command("RELEASE p2 EPOCH %s" % epoch)
        assert rows(rival.ready("I"))[0] == ["f"]
        # The notification may be there before the rest begins; after that, not even it.
        news = None if slow.silent() else slow.recv()
        assert news is None or news.kind == "A"
        assert slow.silent()
        assert "have yet to get" not in proxy.log()
        hindered.close()
        if differs:
            told = slow.rest()
            assert kinds(told, "") in ("E", "AE")
            assert "came out differently" in told[-1].fields()["D"]
            wait_for(lambda: rival.value("SELECT pg_try_advisory_lock(7)") == "t", 20 * SLOW, "its lock")
            return
        assert (news or slow.until("A")[-1]).body[4:] == b"news\0first\0"
        assert rows(slow.ready("I")) == [["9"]]
        assert slow.value("SHOW lock_timeout") == "61s"
        assert slow.value("SELECT pg_listening_channels()") == "news"
        assert [slow.value("SELECT pg_advisory_unlock(7)") for _ in range(3)] == ["t", "t", "f"]
        listed = proxy.command("SHOW SESSIONS p2")
        assert all(each["digest_before"] == each["digest_after"] != "" for each in listed)
