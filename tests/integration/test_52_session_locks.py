# SPDX-License-Identifier: PostgreSQL
"""Advisory locks of a session: taken along as often as they were taken, and nobody else gets them.
And what is the server's, not the session's: its configuration."""
import pytest

from pgwire import errors, query, wait_for
from servers import SCHEMA, Cluster, subfolder

pytestmark = pytest.mark.threads


@pytest.fixture(scope="module")
def other(folder, templates):
    cluster = Cluster(subfolder(folder), "other", settings={
        "work_mem": "9MB", "lock_timeout": "99s", "default_transaction_isolation": "serializable",
        "idle_session_timeout": "98s"}).create(templates.get("other"))
    cluster.sql("CREATE DATABASE p2")
    cluster.sql(SCHEMA, "p2")
    yield cluster
    cluster.stop()


@pytest.fixture
def proxy(make_proxy, pg, other):
    return make_proxy({"pg": pg, "other": other}, {"p2": "pg"}, pool_mode="session", pool_size=20)


def swap(proxy, server, prepare=True):
    with proxy.console() as console:
        if prepare:
            console("PREPARE SWAP p2 TO " + server)
        epoch = console("HOLD p2 LEASE 60s DRAIN 20s")[0]["epoch"]
        console("SWAP p2 TO %s EPOCH %s FORCE" % (server, epoch))
        console("RELEASE p2 EPOCH %s" % epoch)


def count(conn, call):
    n = 0
    while conn.value("SELECT pg_advisory_unlock" + call) == "t":
        n += 1
    return n


def logged(cluster, pid, word):
    """How often the server's log has it of that process."""
    with open(cluster.log, errors="replace") as log:
        return sum(1 for line in log if "[%s]" % pid in line and word in line)


@pytest.mark.parametrize("prepare", [True, False], ids=["prepared", "unprepared"])
def test_locks_go_along(proxy, prepare):
    with proxy.wire("p2", application_name="owner") as conn, proxy.wire("p2") as rival:
        for call in ("(7)", "(7)", "(7)", "_shared(7)", "(1, -2)", "_shared(-5)", "_shared(-5)"):
            conn.query("SELECT pg_advisory_lock" + call)
        rival.query("SELECT pg_advisory_lock_shared(-5)")
        assert rival.value("SELECT pg_try_advisory_lock(7)") == "f"
        swap(proxy, "other", prepare)
        assert conn.value("SHOW cluster_name") == rival.value("SHOW cluster_name") == "other"
        row = [row for row in proxy.command("SHOW SESSIONS p2")
               if row["application_name"] == "owner"][0]
        assert row["class"] == "movable" and "4 advisory locks" in row["what"]
        assert row["digest_before"] == row["digest_after"]
        assert rival.value("SELECT pg_try_advisory_lock(7)") == "f"
        assert rival.value("SELECT pg_try_advisory_lock(1, -2)") == "f"
        assert [count(conn, call) for call in ("(7)", "_shared(7)", "(1, -2)", "_shared(-5)")] == \
            [3, 1, 1, 2]
        assert rival.value("SELECT pg_try_advisory_lock(7)") == "t"
        assert count(rival, "_shared(-5)") == 1


def test_a_lock_taken_after_the_preparation(proxy):
    with proxy.wire("p2") as conn:
        conn.query("SELECT pg_advisory_lock(7)")
        proxy.command("PREPARE SWAP p2 TO other")
        conn.query("SELECT pg_advisory_lock(7), pg_advisory_lock(8)")
        swap(proxy, "other", prepare=False)
        assert conn.value("SHOW cluster_name") == "other"
        assert (count(conn, "(7)"), count(conn, "(8)")) == (2, 1)


def test_a_lock_taken_once_more_after_the_preparation(proxy, other):
    """Nothing but the number has changed, of which the comparison of servers says nothing."""
    with proxy.wire("p2") as conn, proxy.wire("p2") as once:
        conn.query("SELECT pg_advisory_lock(7)")
        once.query("SELECT pg_advisory_lock(8), pg_advisory_lock(8), pg_advisory_lock(8)")
        proxy.command("PREPARE SWAP p2 TO other")
        conn.query("SELECT pg_advisory_lock(7)")
        once.query("SELECT pg_advisory_unlock(8), pg_advisory_unlock(8)")
        swap(proxy, "other", prepare=False)
        assert conn.value("SHOW cluster_name") == "other"
        assert (count(conn, "(7)"), count(once, "(8)")) == (2, 1)


def test_they_are_counted_before_the_hold(proxy, pg, other):
    """What the hold has to ask for, everybody waits for; and what cannot be counted is to be known before."""
    servers = (pg, other)
    for server in servers:
        server.sql("ALTER ROLE app2 SET log_statement = 'all'")
    try:
        with proxy.wire("p2", user="app2") as conn:
            pid = conn.value("SELECT pg_backend_pid()")
            conn.query("SELECT pg_advisory_lock(7), pg_advisory_lock(7), pg_advisory_lock(8)")
            proxy.command("PREPARE SWAP p2 TO other")
            before = logged(pg, pid, "RECURSIVE")
            assert before > 0
            epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
            assert logged(pg, pid, "RECURSIVE") == before
            proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)
            proxy.command("RELEASE p2 EPOCH %s" % epoch)
            assert (count(conn, "(7)"), count(conn, "(8)")) == (2, 1)
    finally:
        for server in servers:
            server.sql("ALTER ROLE app2 RESET log_statement")


def taken(cluster):
    """The keys of advisory locks there, those of 64 bits."""
    return sorted(each[0] for each in cluster.sql(
        "SELECT objid::int FROM pg_locks WHERE locktype = 'advisory' AND granted"))


def test_the_new_server_has_them_before_the_hold(proxy, other):
    """So that nobody has to wait for them: only for channels."""
    with proxy.wire("p2") as conn, proxy.wire("p2") as listener:
        conn.query("SELECT pg_advisory_lock(7), pg_advisory_lock(7), pg_advisory_lock_shared(8)")
        listener.query("LISTEN news; SELECT pg_advisory_lock_shared(8)")
        proxy.command("PREPARE SWAP p2 TO other")
        assert taken(other) == [7, 8, 8]
        # What has changed since is found out in the hold.
        conn.query("SELECT pg_advisory_unlock_shared(8), pg_advisory_lock(9)")
        epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        assert taken(other) == [7, 8, 9]
        proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)
        proxy.command("RELEASE p2 EPOCH %s" % epoch)
        assert [count(conn, call) for call in ("(7)", "_shared(8)", "(9)")] == [2, 0, 1]
        assert count(listener, "_shared(8)") == 1
        assert listener.value("SELECT pg_listening_channels()") == "news"


def test_a_swap_that_is_given_up_leaves_none_behind(proxy, other):
    with proxy.wire("p2") as conn:
        conn.query("SELECT pg_advisory_lock(7)")
        proxy.command("PREPARE SWAP p2 TO other")
        assert taken(other) == [7]
        proxy.command("CANCEL SWAP p2")
        wait_for(lambda: taken(other) == [], what="the end of that session there")
        assert count(conn, "(7)") == 1


def test_one_that_went_from_hand_to_hand(proxy, other):
    """What was opened for the first one has it until that is asked again."""
    with proxy.wire("p2") as first, proxy.wire("p2") as second, proxy.wire("p2") as third:
        first.query("SELECT pg_advisory_lock(7)")
        second.query("SELECT pg_advisory_lock(8), pg_advisory_lock(9)")
        third.query("LISTEN news")
        proxy.command("PREPARE SWAP p2 TO other")
        assert taken(other) == [7, 8, 9]
        for conn, call in ((first, "unlock(7)"), (second, "lock(7)"), (second, "unlock(8)"),
                           (third, "lock(8)"), (second, "unlock(9)"), (first, "lock(9)")):
            assert not errors(conn.query("SELECT pg_advisory_" + call))
        swap(proxy, "other", prepare=False)
        held = [[count(conn, "(%d)" % key) for key in (7, 8, 9)] for conn in (first, second, third)]
        assert held == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
        assert third.value("SELECT pg_listening_channels()") == "news"


@pytest.mark.parametrize("stays", [False, True], ids=["given back", "kept"])
def test_somebody_has_it_on_the_new_server(proxy, other, stays):
    """As one may on a standby, which has locks of its own.  The session is not pinned for that."""
    with proxy.wire("p2") as conn, proxy.wire("p2") as plain, other.connect("p2") as rival:
        conn.query("SELECT pg_advisory_lock(8), pg_advisory_lock(7), pg_advisory_lock(7)")
        rival.execute("SELECT pg_advisory_lock(7)")
        proxy.command("PREPARE SWAP p2 TO other")
        row, = [row for row in proxy.command("SHOW SESSIONS p2") if "locks" in row["what"]]
        assert row["class"] == "movable"
        if not stays:
            rival.execute("SELECT pg_advisory_unlock(7)")
        swap(proxy, "other", prepare=False)
        assert plain.value("SHOW cluster_name") == "other"
        if stays:
            said, = errors(conn.rest())
            assert said["C"] == "57P01" and "another session has its advisory lock" in said["D"]
        else:
            assert (count(conn, "(7)"), count(conn, "(8)")) == (2, 1)


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1"])
def test_under_late_settings(proxy, encoding):
    """They are there before locks and channels, which they do not spoil: a short time limit, and another
    encoding of their names."""
    name = "nachrichten für Käufer"
    sent = name.encode("latin1" if encoding == "LATIN1" else "utf8")
    with proxy.wire("p2") as conn, proxy.wire("p2") as plain:
        conn.query("SET client_encoding = '%s'" % encoding)
        conn.send(query(b'LISTEN "' + sent + b'"'))
        assert not errors(conn.ready())
        conn.query("SELECT pg_advisory_lock(7); SET default_transaction_read_only = on;"
                   "SET default_transaction_isolation = 'repeatable read'; SET statement_timeout = '900ms'")
        swap(proxy, "other")
        conn.query("SET statement_timeout = 0")
        assert conn.value("SHOW cluster_name") == "other"
        assert count(conn, "(7)") == 1
        plain.send(query('NOTIFY "%s", \'x\'' % name))
        assert conn.until("A")[-1].body[4:] == sent + b"\0x\0"


def test_more_than_a_few(proxy, other):
    """Each takes a message, unless there are too many."""
    with proxy.wire("p2") as conn:
        conn.query("SELECT count(pg_advisory_lock(7)) FROM generate_series(1, 100)")
        proxy.command("PREPARE SWAP p2 TO other")
        assert taken(other) == []
        swap(proxy, "other", prepare=False)
        assert conn.value("SHOW cluster_name") == "other"
        assert count(conn, "(7)") == 100


def test_they_may_not_be_counted(make_proxy, pg, other):
    """Nothing has happened to them, and the session is pinned before any hold."""
    proxy = make_proxy({"pg": pg, "other": other},
                       {"p2": {"server": "pg", "session_pinned": "abort"}}, pool_mode="session")
    with proxy.wire("p2") as conn:
        conn.query("SELECT pg_advisory_lock(7), pg_advisory_lock(7)")
        pg.sql("REVOKE EXECUTE ON FUNCTION pg_advisory_unlock(int8) FROM PUBLIC", "p2")
        try:
            proxy.command("PREPARE SWAP p2 TO other")
            row, = proxy.command("SHOW SESSIONS p2")
            assert row["class"] == "pinned"
            assert "could not be counted: permission denied" in row["why"]
        finally:
            pg.sql("GRANT EXECUTE ON FUNCTION pg_advisory_unlock(int8) TO PUBLIC", "p2")
        assert not errors(conn.query("SELECT 1"))
        swap(proxy, "other", prepare=False)
        assert conn.value("SHOW cluster_name") == "other"
        assert count(conn, "(7)") == 2


@pytest.mark.parametrize("held", [False, True], ids=["prepared", "held"])
def test_the_count_is_cancelled_halfway(proxy, pg, held):
    """It may have lost them: nobody goes on as if it had not."""
    with proxy.wire("p2", application_name="owner") as conn, proxy.wire("p2") as plain:
        pid = conn.value("SELECT pg_backend_pid()")
        conn.query("SELECT count(pg_advisory_lock(7)) FROM generate_series(1, 1000000)")
        with proxy.console() as console:
            console.send("HOLD p2 LEASE 60s" if held else "PREPARE SWAP p2 TO other")
            wait_for(lambda: pg.sql(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = %s"
                " AND state = 'active' AND query LIKE '%%RECURSIVE%%'" % pid), what="the count")
            epoch = console.result()[0].get("epoch")
            if held:
                console("RELEASE p2 EPOCH " + epoch)
        said, = errors(conn.rest())  # and the connection is closed
        assert said["C"] == "57P01" and "advisory locks" in said["D"]
        assert "canceling statement" in said["D"]
        assert plain.value("SELECT pg_try_advisory_lock(7)") == "t"


def test_a_hold_without_a_swap_leaves_them(proxy):
    with proxy.wire("p2") as conn, proxy.wire("p2") as waiting:
        conn.query("SELECT pg_advisory_lock(7), pg_advisory_lock(7)")
        proxy.command("PREPARE SWAP p2 TO other")
        epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
        waiting.send(query("SELECT pg_try_advisory_lock(7)"))
        wait_for(lambda: proxy.held()["held"] == "1", what="the request")
        proxy.command("RELEASE p2 EPOCH %s" % epoch)
        assert b"f" in waiting.until("Z")[1].body
        proxy.command("CANCEL SWAP p2")
        assert count(conn, "(7)") == 2


def test_reconnect_leaves_a_session_with_locks_where_it_is(proxy, pg):
    """On the same server it has them as long as its connection lives."""
    with proxy.wire("p2") as conn, proxy.wire("p2") as plain:
        conn.query("SELECT pg_advisory_lock(7), pg_advisory_lock(7)")
        pids = [each.value("SELECT pg_backend_pid()") for each in (conn, plain)]
        proxy.command("RECONNECT p2")
        wait_for(lambda: plain.value("SELECT pg_backend_pid()") != pids[1], what="another server")
        assert conn.value("SELECT pg_backend_pid()") == pids[0]
        swap(proxy, "other")
        assert conn.value("SHOW cluster_name") == "other"
        assert count(conn, "(7)") == 2
        assert not errors(conn.query("SELECT 1"))


@pytest.mark.parametrize("has", ["SELECT pg_advisory_lock(7)", "LISTEN news"], ids=["lock", "channel"])
def test_reconnect_and_then_a_hold_leave_a_session_what_it_has(proxy, has):
    """In the hold it keeps its server, where it has all that: nobody else could get it."""
    with proxy.wire("p2") as conn, proxy.wire("p2") as rival, proxy.console() as console:
        conn.query(has)
        pid = conn.value("SELECT pg_backend_pid()")
        conn.query("BEGIN")
        console("RECONNECT p2")
        epoch = console("HOLD p2 LEASE 60s DRAIN 20s NOWAIT")[0]["epoch"]
        conn.query("COMMIT")
        wait_for(lambda: proxy.held()["state"] == "held", what="the hold")
        console("RELEASE p2 EPOCH %s" % epoch)
        assert not errors(conn.query("SELECT 1"))
        if has.startswith("LISTEN"):
            wait_for(lambda: conn.value("SELECT pg_backend_pid()") != pid, what="another server")
            assert conn.value("SELECT pg_listening_channels()") == "news"
        else:
            assert rival.value("SELECT pg_try_advisory_lock(7)") == "f"
            assert conn.value("SELECT pg_backend_pid()") == pid
            assert count(conn, "(7)") == 1


def test_a_session_that_keeps_its_server_is_not_asked_after_each_transaction(proxy, pg):
    """But when it has given up what kept it there, it goes, idle as it is."""
    pg.sql("ALTER ROLE app2 SET log_statement = 'all'")
    try:
        with proxy.wire("p2", user="app2") as conn:
            pid = conn.value("SELECT pg_backend_pid()")
            conn.query("SELECT pg_advisory_lock(7)")
            proxy.command("RECONNECT p2")
            wait_for(lambda: logged(pg, pid, "inspect"), what="a question for its state")
            for _ in range(200):
                assert not errors(conn.query("SELECT 1"))
            assert conn.value("SELECT pg_backend_pid()") == pid
            assert logged(pg, pid, "inspect") < 100
            conn.query("SELECT pg_advisory_unlock(7)")
            wait_for(lambda: int(pid) not in pg.sessions("p2", "app2"), what="another server")
            assert conn.value("SELECT pg_backend_pid()") != pid
    finally:
        pg.sql("ALTER ROLE app2 RESET log_statement")


@pytest.mark.parametrize("prepare", [True, False], ids=["prepared", "unprepared"])
def test_the_new_server_is_configured_otherwise(proxy, prepare):
    """What a session has set goes along; what it has not is the new server's, also after a RESET."""
    with proxy.wire("p2") as conn, proxy.wire("p2") as plain:
        conn.query("SET work_mem = '7MB'; SET lock_timeout = '98s'; SET enable_sort = off")
        swap(proxy, "other", prepare)
        names = ("cluster_name", "work_mem", "lock_timeout", "default_transaction_isolation",
                 "idle_session_timeout")
        assert [conn.value("SHOW " + name) for name in names] == \
            ["other", "7MB", "98s", "serializable", "98s"]
        assert [plain.value("SHOW " + name) for name in names] == \
            ["other", "9MB", "99s", "serializable", "98s"]
        conn.query("RESET work_mem")
        assert conn.value("SHOW work_mem") == "9MB"
        swap(proxy, "pg", prepare)
        assert [conn.value("SHOW " + name) for name in names] == \
            ["pg", "4MB", "98s", "read committed", "0"]
