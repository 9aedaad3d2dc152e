# SPDX-License-Identifier: PostgreSQL
"""HOLD, RENEW and RELEASE: what drained means, deadlines and policies, leases, epochs."""
import threading
import time

import pytest

import pgwire
from pgwire import (FLUSH, SYNC, bind, errors, execute, kinds, parse, query, rows, tags, wait_for)
from proxy import ConsoleError
from servers import SLOW, VERSION

pytestmark = pytest.mark.threads


@pytest.fixture
def proxy(make_proxy):
    return make_proxy(pool_size=4, workers=2)


def test_hold_and_release_of_an_idle_database(proxy):
    row = proxy.hold("p2")
    assert row["database"] == "p2" and row["state"] == "held" and row["active"] == "0"
    assert int(row["epoch"]) >= 1 and int(row["lease_left_ms"]) > 0
    with proxy.console() as console:
        assert console("RELEASE p2")[0]["state"] == "open"
        assert console.tag == "RELEASE"
    assert proxy.held()["state"] == "open"


def test_tags(proxy):
    with proxy.console() as console:
        for command, tag in (("HOLD p2 EPOCH 5", "HOLD"), ("RENEW p2 EPOCH 5", "RENEW"),
                             ("PREPARE SWAP p2 TO pg", "PREPARE SWAP"),
                             ("CANCEL SWAP p2", "CANCEL SWAP"), ("RELEASE p2", "RELEASE")):
            console(command)
            assert console.tag == tag


def held_query(conn, proxy, sql="SELECT 'went on'", dbname="p2"):
    """Sends a query and waits until the proxy shows it as held."""
    before = int(proxy.held(dbname)["held"])
    conn.send(query(sql))
    wait_for(lambda: int(proxy.held(dbname)["held"]) == before + 1, 10 * SLOW, "the held query")


def test_held_query_goes_on_after_release(proxy):
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        proxy.hold()
        held_query(conn, proxy)
        row = proxy.held()
        assert row["state"] == "held" and row["held"] == "1" and int(row["held_bytes"]) > 0
        assert conn.silent()
        proxy.command("RELEASE p2")
        assert rows(conn.ready("I")) == [["went on"]]
        assert proxy.held()["held"] == "0"


@pytest.mark.parametrize("what", ["extended", "pipeline", "prepared", "function", "copy", "driver"])
def test_every_kind_of_request_is_held(proxy, what):
    with proxy.wire("p2") as conn:
        conn.send(parse("SELECT 'prepared', $1::int", "s"), SYNC)
        conn.ready("I")
        proxy.hold()
        if what == "extended":
            conn.send(parse("SELECT $1::int"), bind([5]), execute(), SYNC)
            expected = ["12DCZ"]
        elif what == "pipeline":
            conn.send(*[parse("SELECT $1::int") + bind([n]) + execute() + SYNC for n in range(5)])
            expected = ["12DCZ"] * 5
        elif what == "prepared":
            conn.send(bind([5], "s"), execute(), SYNC)
            expected = ["2DCZ"]
        elif what == "function":
            conn.send(pgwire.function_call(177, [b"1", b"2"], [0, 0]))
            expected = ["VZ"]
        elif what == "copy":
            conn.send(query("COPY (SELECT 1) TO STDOUT"))
            expected = ["HdcCZ"]
        else:
            expected = []
            thread = threading.Thread(target=lambda: expected.append(driver(proxy)))
            thread.start()
        assert conn.silent()
        proxy.command("RELEASE p2")
        if what == "driver":
            thread.join(20 * SLOW)
            assert expected == [(3,)]
            return
        for sequence in expected:
            assert kinds(conn.ready("I")) == sequence


def driver(proxy):
    with proxy.connect("p2") as conn, conn.transaction():
        return conn.execute("SELECT 3").fetchone()


def test_requests_sent_in_parts_are_held(proxy):
    """The gate closes between requests also for one that has not arrived completely."""
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        proxy.hold()
        data = query("SELECT 'in parts'")
        conn.send(data[:7])
        time.sleep(0.2)
        conn.send(data[7:])
        assert conn.silent()
        proxy.command("RELEASE p2")
        assert rows(conn.ready("I")) == [["in parts"]]


def test_partly_sent_header_does_not_block_the_drain(proxy):
    """Nothing of it has been forwarded."""
    with proxy.wire("p2") as conn:
        conn.send(parse("SELECT 'later'")[:3])
        assert proxy.hold("p2", "DRAIN 2s")["state"] == "held"
        proxy.command("RELEASE p2")
        conn.send(parse("SELECT 'later'")[3:], bind(), execute(), SYNC)
        assert rows(conn.ready("I")) == [["later"]]


def test_other_databases_do_not_notice(proxy):
    with proxy.wire("p1") as conn, proxy.wire("p2") as other:
        other.value("SELECT 1")
        proxy.hold("p2")
        other.send(query("SELECT 2"))
        for n in range(50):
            assert conn.value("SELECT %d" % n) == str(n)
        with proxy.wire("p1") as fresh:
            assert fresh.value("SELECT 1") == "1"
        assert proxy.held("p1")["state"] == "open"
        proxy.command("RELEASE p2")
        assert rows(other.ready("I")) == [["2"]]


def test_clients_log_in_while_their_database_is_held(proxy):
    with proxy.wire("p2") as first:
        first.value("SELECT 1")
    proxy.hold("p2")
    with proxy.wire("p2", TimeZone="Asia/Tokyo") as conn:
        assert conn.params["server_version"].startswith(VERSION)
        assert conn.params["TimeZone"] == "Asia/Tokyo"
        conn.send(query("SHOW TimeZone"))
        assert conn.silent()
        proxy.command("RELEASE p2")
        assert rows(conn.ready("I")) == [["Asia/Tokyo"]]


def test_drain_waits_for_transactions(proxy):
    with proxy.wire("p2") as busy, proxy.wire("p2") as second, proxy.console() as console:
        busy.query("BEGIN")
        console.send("HOLD p2 DRAIN 30s")
        wait_for(lambda: proxy.held()["state"] == "draining", 10 * SLOW, "draining")
        assert proxy.held()["active"] == "1"
        # The transaction goes on, whatever it consists of; nothing else starts.
        second.send(query("SELECT 'second'"))
        assert rows(busy.query("SELECT 1")) == [["1"]]
        busy.send(parse("SELECT 2"), bind(), execute(), SYNC)
        assert kinds(busy.ready("T")) == "12DCZ"
        assert second.silent()
        assert console.conn.silent(0.1)
        assert tags(busy.query("COMMIT")) == ["COMMIT"]
        row = console.result()[0]
        assert row["state"] == "held" and row["active"] == "0"
        busy.send(query("SELECT 'next'"))
        assert busy.silent()
        proxy.command("RELEASE p2")
        assert rows(busy.ready("I")) == [["next"]]
        assert rows(second.ready("I")) == [["second"]]


@pytest.mark.parametrize("case", ["query", "flush", "no sync", "copy in", "copy out", "pipeline",
                                  "failed transaction", "large message"])
def test_what_is_not_a_safe_point(proxy, case):
    """Each of these must delay the drain, and end without an error."""
    with proxy.wire("p2") as conn, proxy.console() as console:
        conn.value("SELECT 1")
        if case == "query":
            conn.send(query("SELECT pg_sleep(1)"))
        elif case == "flush":
            conn.send(parse("SELECT 1"), bind(), execute(), FLUSH)
            conn.until("C")
        elif case == "no sync":
            conn.send(parse("SELECT 1"))
            time.sleep(0.2)
        elif case == "copy in":
            conn.send(query("COPY items FROM STDIN"))
            conn.until("G")
        elif case == "copy out":
            conn.send(query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 100000)) "
                            "TO STDOUT"))
            conn.until("H")
        elif case == "pipeline":
            conn.send(*[parse("SELECT pg_sleep(0.2)") + bind() + execute() + SYNC] * 5)
            conn.until("Z")
        elif case == "failed transaction":
            conn.query("BEGIN")
            conn.query("SELECT 1/0")
        else:
            data = query("SELECT length('%s')" % ("x" * 1000000))
            conn.send(data[:-10])
            time.sleep(0.2)
        console.send("HOLD p2 DRAIN 60s LEASE 120s")
        wait_for(lambda: proxy.held()["state"] != "open", 10 * SLOW, "the hold")
        if case in ("flush", "no sync", "copy in", "failed transaction", "large message"):
            assert proxy.held()["state"] == "draining"
            assert console.conn.silent(0.3)
        if case in ("flush", "no sync"):
            conn.send(SYNC)
        elif case == "copy in":
            conn.send(pgwire.copy_fail("enough"))
        elif case == "failed transaction":
            conn.send(query("ROLLBACK"))
        elif case == "large message":
            conn.send(data[-10:])
        if case == "pipeline":
            # What was sent already may be done or be held; all of it is answered.
            console.result()
            proxy.command("RELEASE p2")
            for _ in range(4):
                assert kinds(conn.ready("I")) == "12DCZ"
        else:
            conn.ready("I")
            assert console.result()[0]["state"] == "held"
            proxy.command("RELEASE p2")
        assert conn.value("SELECT 4") == "4"


def test_pipeline_without_end_is_held_at_a_sync(proxy):
    """A client that always has a request in flight does not keep the drain from ending."""
    stop = threading.Event()
    failed = []

    def work():
        try:
            with proxy.wire("p2") as conn:
                one = parse("SELECT $1::int") + bind([1]) + execute() + SYNC
                conn.send(one * 5)
                while not stop.is_set():
                    assert kinds(conn.ready("I")) == "12DCZ"
                    conn.send(one)
                for _ in range(5):
                    assert kinds(conn.ready("I")) == "12DCZ"
        except BaseException as error:
            failed.append(error)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    for _ in range(3):
        assert proxy.hold("p2", "DRAIN 10s")["state"] == "held"
        time.sleep(0.1)
        proxy.command("RELEASE p2")
        time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join(20 * SLOW)
        assert not thread.is_alive()
    assert not failed, failed


# --- the deadline -------------------------------------------------------------------------------

def test_deadline_aborts(proxy):
    """The default: everybody goes on as before, and the answer names who was in the way."""
    with proxy.wire("p2", application_name="obstinate") as busy, proxy.wire("p2") as waiting:
        busy.query("BEGIN")
        waiting.value("SELECT 1")
        with proxy.console() as console:
            console.send("HOLD p2 DRAIN 1s")
            wait_for(lambda: proxy.held()["state"] == "draining", 10 * SLOW, "draining")
            waiting.send(query("SELECT 'never disturbed'"))
            with pytest.raises(ConsoleError) as error:
                console.result()
        assert error.value.sqlstate == "55P03"
        assert "obstinate" in error.value.fields["D"] or "app" in error.value.fields["D"]
        assert error.value.fields["H"]
        assert rows(waiting.ready("I")) == [["never disturbed"]]
        assert proxy.held()["state"] == "open"
        assert tags(busy.query("COMMIT")) == ["COMMIT"]


def test_deadline_cancels(proxy):
    """Running statements get 57014; idle transactions cannot be cancelled."""
    with proxy.wire("p2") as busy:
        busy.send(query("SELECT pg_sleep(60)"))
        time.sleep(0.3)
        row = proxy.hold("p2", "DRAIN 500ms POLICY cancel")
        assert row["state"] == "held" and row["policy"] == "cancel"
        assert errors(busy.ready("I"))[0]["C"] == "57014"
        proxy.command("RELEASE p2")
        assert busy.value("SELECT 1") == "1"


def test_deadline_terminates(proxy):
    with proxy.wire("p2") as busy, proxy.wire("p2") as idle, proxy.wire("p2") as running:
        busy.query("BEGIN")
        busy.query("INSERT INTO items VALUES (900001, 'never')")
        running.send(query("SELECT pg_sleep(60)"))
        idle.value("SELECT 1")
        time.sleep(0.2)
        row = proxy.hold("p2", "DRAIN 500ms POLICY terminate")
        assert row["state"] == "held" and row["active"] == "0"
        for conn in (busy, running):
            failed = errors(conn.rest())
            assert failed and failed[-1]["S"] == "FATAL" and failed[-1]["C"] == "57P01"
        proxy.command("RELEASE p2")
        assert idle.value("SELECT count(*) FROM items WHERE id = 900001") == "0"


def test_nowait(proxy):
    with proxy.wire("p2") as busy:
        busy.query("BEGIN")
        row = proxy.hold("p2", "NOWAIT DRAIN 30s")
        assert row["state"] == "draining" and row["active"] == "1"
        busy.query("COMMIT")
        wait_for(lambda: proxy.held()["state"] == "held", 10 * SLOW, "the drain")


def test_blockers(proxy, pg):
    with proxy.wire("p2", application_name="first") as busy, \
            proxy.wire("p2", application_name="second") as running, proxy.wire("p2") as idle, \
            proxy.wire("p2", application_name="copier") as copier:
        idle.value("SELECT 1")
        began = time.monotonic()
        busy.query("BEGIN")
        busy.query("SELECT 'the last thing'")
        running.send(query("SELECT pg_sleep(60) /* running */"))
        copier.send(query("COPY items FROM STDIN"))
        copier.until("G")
        wait_for(lambda: pg.sql("SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%/* running */'"),
                 20 * SLOW, "the statement")
        proxy.hold("p2", "NOWAIT DRAIN 30s")
        time.sleep(0.2)
        blockers = {row["application_name"]: row for row in proxy.command("SHOW BLOCKERS p2")}
        assert set(blockers) == {"first", "second", "copier"}
        assert blockers["first"]["state"] == "idle in transaction"
        assert blockers["second"]["state"] == "active"
        assert blockers["copier"]["state"] == "copy"
        assert "running" in blockers["second"]["query"]
        assert 200 <= int(blockers["first"]["age_ms"]) <= (time.monotonic() - began) * 1000
        copier.send(pgwire.COPY_DONE)
        copier.ready("I")
        busy.query("COMMIT")
        running.cancel()
        running.ready("I")
        wait_for(lambda: proxy.held()["state"] == "held", 10 * SLOW, "the drain")
        assert proxy.command("SHOW BLOCKERS p2") == []


def test_release_while_draining(proxy):
    """The HOLD that waits is told."""
    with proxy.wire("p2") as busy, proxy.wire("p2") as waiting, proxy.console() as console:
        busy.query("BEGIN")
        console.send("HOLD p2 DRAIN 30s")
        wait_for(lambda: proxy.held()["state"] == "draining", 10 * SLOW, "draining")
        waiting.send(query("SELECT 6"))
        proxy.command("RELEASE p2")
        assert rows(waiting.ready("I")) == [["6"]]
        with pytest.raises(ConsoleError) as error:
            console.result()
        assert error.value.sqlstate[:2] in ("55", "57")


# --- the lease ----------------------------------------------------------------------------------

def test_lease_ends_the_hold(proxy):
    """A dead operator never leaves a database paused."""
    with proxy.wire("p2") as conn:
        proxy.hold("p2", "LEASE 700ms")
        conn.send(query("SELECT 'freed'"))
        assert rows(conn.ready("I")) == [["freed"]]
        assert proxy.held()["state"] == "open"


def test_lease_ends_a_drain(proxy):
    with proxy.wire("p2") as busy, proxy.wire("p2") as conn:
        busy.query("BEGIN")
        proxy.hold("p2", "NOWAIT LEASE 700ms DRAIN 30s")
        conn.send(query("SELECT 'freed'"))
        assert rows(conn.ready("I")) == [["freed"]]
        busy.query("COMMIT")


def test_renewal_keeps_the_hold(proxy):
    with proxy.wire("p2") as conn, proxy.console() as console:
        epoch = proxy.hold("p2", "LEASE 1s")["epoch"]
        conn.send(query("SELECT 'freed'"))
        for _ in range(8):
            time.sleep(0.25)
            console("RENEW p2 EPOCH %s LEASE %dms" % (epoch, 1000 * SLOW))
        assert conn.silent(0.1)
        assert proxy.held()["state"] == "held"
        assert rows(conn.ready("I")) == [["freed"]]


def test_hold_without_expiry(proxy):
    epoch = proxy.hold("p2", "LEASE 500ms")["epoch"]
    row = proxy.command("RENEW p2 EPOCH %s LEASE NONE" % epoch)[0]
    assert row["lease_left_ms"] is None
    time.sleep(1)
    assert proxy.held()["state"] == "held"
    row = proxy.command("RENEW p2 EPOCH %s LEASE 300ms" % epoch)[0]
    assert int(row["lease_left_ms"]) <= 300
    wait_for(lambda: proxy.held()["state"] == "open", 10 * SLOW, "the end of the lease")


def test_console_that_dies_while_it_waits(proxy):
    """The hold stays until its lease ends: others may know of it."""
    with proxy.wire("p2") as busy:
        busy.query("BEGIN")
        console = proxy.console()
        console.send("HOLD p2 DRAIN 30s LEASE 2s")
        wait_for(lambda: proxy.held()["state"] == "draining", 10 * SLOW, "draining")
        console.conn.close()
        time.sleep(0.2)
        assert proxy.held()["state"] == "draining"
        wait_for(lambda: proxy.held()["state"] == "open", 20 * SLOW, "the end of the lease")
        busy.query("COMMIT")


# --- epochs -------------------------------------------------------------------------------------

def test_epochs_grow(proxy):
    first = int(proxy.hold()["epoch"])
    proxy.command("RELEASE p2")
    second = int(proxy.hold()["epoch"])
    assert second > first
    proxy.command("RELEASE p2")
    assert int(proxy.route()["epoch"]) == second


def test_commands_are_idempotent(proxy):
    for _ in range(2):
        row = proxy.hold("p2", "EPOCH 41")
        assert row["state"] == "held" and row["epoch"] == "41"
    for _ in range(2):
        assert proxy.command("RENEW p2 EPOCH 41")[0]["epoch"] == "41"
    for _ in range(2):
        assert proxy.command("RELEASE p2 EPOCH 41")[0]["state"] == "open"
    proxy.command("RELEASE p2")


def test_repeated_hold_waits_and_renews(proxy):
    with proxy.wire("p2") as busy, proxy.console() as console:
        busy.query("BEGIN")
        assert proxy.hold("p2", "EPOCH 7 NOWAIT LEASE 20s")["state"] == "draining"
        console.send("HOLD p2 EPOCH 7 DRAIN 30s LEASE 30s")
        assert console.conn.silent()
        busy.query("COMMIT")
        row = console.result()[0]
        assert row["state"] == "held" and int(row["lease_left_ms"]) > 20000


@pytest.mark.parametrize("command", ["HOLD p2 EPOCH 10", "RENEW p2 EPOCH 10", "RELEASE p2 EPOCH 10",
                                     "PREPARE SWAP p2 TO pg EPOCH 10", "SWAP p2 TO pg EPOCH 10"])
def test_stale_epoch_is_refused(proxy, command):
    proxy.hold("p2", "EPOCH 20")
    with pytest.raises(ConsoleError) as error:
        proxy.command(command)
    assert error.value.sqlstate == "55000"
    assert "20" in error.value.fields["D"]
    row = proxy.held()
    assert row["state"] == "held" and row["epoch"] == "20"


def test_ended_epoch_does_not_come_back(proxy):
    """A mover that slept while its lease ended must not hold again unnoticed."""
    proxy.hold("p2", "EPOCH 30 LEASE 300ms")
    wait_for(lambda: proxy.held()["state"] == "open", 10 * SLOW, "the end of the lease")
    for command in ("HOLD p2 EPOCH 30", "RENEW p2 EPOCH 30"):
        with pytest.raises(ConsoleError) as error:
            proxy.command(command)
        assert error.value.sqlstate == "55000"
    assert proxy.hold("p2", "EPOCH 31")["state"] == "held"


def test_hold_by_a_newer_epoch(proxy):
    """While held, a greater epoch is another operator's: it takes over or is refused, and the
    older one cannot release it afterwards."""
    proxy.hold("p2", "EPOCH 40")
    try:
        proxy.hold("p2", "EPOCH 50")
    except ConsoleError as error:
        assert error.sqlstate == "55000"
        return
    assert proxy.held()["epoch"] == "50"
    with pytest.raises(ConsoleError):
        proxy.command("RELEASE p2 EPOCH 40")
    assert proxy.held()["state"] == "held"


# --- session pools ------------------------------------------------------------------------------

def test_sessions_that_cannot_be_moved_are_blockers(make_proxy):
    proxy = make_proxy(pool_mode="session")
    with proxy.wire("p2", application_name="sitting") as conn:
        conn.query("SELECT 1; PREPARE one AS SELECT 1")
        with pytest.raises(ConsoleError) as error:
            proxy.hold("p2", "DRAIN 500ms")
        assert error.value.sqlstate == "55P03"
        proxy.hold("p2", "NOWAIT DRAIN 30s")
        blockers = wait_for(lambda: [row for row in proxy.command("SHOW BLOCKERS p2")
                                     if "pinned" in row["state"]], what="the question")
        assert "one" in blockers[0]["state"]
        assert blockers[0]["application_name"] == "sitting"
        conn.close()
        wait_for(lambda: proxy.held()["state"] == "held", 10 * SLOW, "the drain")


def test_session_pool_with_terminate(make_proxy):
    proxy = make_proxy(pool_mode="session")
    with proxy.wire("p2") as conn:
        conn.query("SELECT 1; PREPARE one AS SELECT 1")
        assert proxy.hold("p2", "DRAIN 300ms POLICY terminate")["state"] == "held"
        failed = errors(conn.rest())
        assert failed and failed[-1]["C"] == "57P01"


# --- many ---------------------------------------------------------------------------------------

def test_holds_under_load(make_proxy):
    """Clients of every kind over two workers; hold and release again and again; no error, and
    nothing runs while the database is held."""
    proxy = make_proxy(pool_size=3, workers=2, log_level="info")
    stop = threading.Event()
    failed = []
    counts = [0] * 8

    def work(me):
        try:
            with proxy.wire("p2") as conn, proxy.wire("p1") as free:
                conn.send(parse("SELECT %d, $1::int" % me, "s"), SYNC)
                conn.ready("I")
                while not stop.is_set():
                    counts[me] += 1
                    n = str(counts[me])
                    if me % 4 == 0:
                        assert rows(conn.query("SELECT %d, %s" % (me, n))) == [[str(me), n]]
                    elif me % 4 == 1:
                        conn.send(bind([n], "s"), execute(), SYNC)
                        assert rows(conn.ready("I")) == [[str(me), n]]
                    elif me % 4 == 2:
                        conn.send(query("BEGIN"), bind([n], "s"), execute(), SYNC, query("COMMIT"))
                        conn.ready("T")
                        assert rows(conn.ready("T")) == [[str(me), n]]
                        conn.ready("I")
                    else:
                        assert free.value("SELECT " + n) == n
        except BaseException as error:
            failed.append(error)
    threads = [threading.Thread(target=work, args=(me,)) for me in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    for _ in range(8):
        assert proxy.hold("p2", "DRAIN 20s")["state"] == "held"
        time.sleep(0.05)
        before = [counts[me] for me in range(8) if me % 4 != 3]
        time.sleep(0.1)
        assert [counts[me] for me in range(8) if me % 4 != 3] == before
        proxy.command("RELEASE p2")
        time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join(30 * SLOW)
        assert not thread.is_alive()
    assert not failed, failed
    assert min(counts) > 0
