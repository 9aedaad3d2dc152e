# SPDX-License-Identifier: PostgreSQL
"""Servers that die, restart, or cannot be reached."""
import os
import signal
import socket
import threading
import time

import pytest

import pgwire
from pgwire import SYNC, bind, errors, execute, kinds, parse, query, rows, wait_for
from proxy import USERS
from servers import SLOW, free_port


@pytest.fixture
def own(make_cluster):
    cluster = make_cluster()
    cluster.sql("CREATE DATABASE p1")
    cluster.sql("CREATE TABLE t (a int); GRANT ALL ON t TO PUBLIC", "p1")
    return cluster


def terminate(pg, dbname="p1", user="app"):
    for pid in pg.sessions(dbname, user):
        pg.sql("SELECT pg_terminate_backend(%d, 5000)" % pid)


def test_server_that_dies_between_transactions(make_proxy, pg):
    """The client notices nothing."""
    proxy = make_proxy(pool_size=2)
    with proxy.wire() as conn:
        for _ in range(3):
            first = conn.value("SELECT pg_backend_pid()")
            terminate(pg)
            assert conn.silent(0.2)
            assert conn.value("SELECT pg_backend_pid()") != first


def test_server_that_dies_within_a_transaction(make_proxy, pg):
    proxy = make_proxy(pool_size=2)
    with proxy.wire() as conn, proxy.wire() as other:
        conn.query("BEGIN")
        pid = conn.value("SELECT pg_backend_pid()")
        pg.sql("SELECT pg_terminate_backend(%s, 5000)" % pid)
        messages = conn.rest()
        failed = [m.fields() for m in messages if m.kind == "E"]
        assert len(failed) == 1 and failed[0]["S"] == "FATAL"
        assert failed[0]["C"] in ("57P01", "08006", "57P02", "08003")
        assert other.value("SELECT 1") == "1"


def test_server_that_dies_within_a_query(make_proxy, pg):
    proxy = make_proxy(pool_size=2)
    with proxy.wire() as conn:
        conn.send(query("SELECT pg_sleep(60) /* dies */"))
        wait_for(lambda: pg.sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE "
                                "query LIKE '%dies */' AND state = 'active'"), what="the query")
        failed = errors(conn.rest())
        assert failed and failed[-1]["S"] == "FATAL"
    with proxy.wire() as conn:
        assert conn.value("SELECT 1") == "1"


def test_server_process_that_is_killed(make_proxy, own):
    """kill -9 of one backend makes PostgreSQL restart all; between transactions nobody knows."""
    proxy = make_proxy({"own": own}, {"p1": "own"}, pool_size=2)
    with proxy.wire() as idle, proxy.wire() as busy:
        idle.value("SELECT 1")
        busy.query("BEGIN")
        pid = int(busy.value("SELECT pg_backend_pid()"))
        os.kill(pid, signal.SIGKILL)
        failed = errors(busy.rest())
        assert failed and failed[-1]["S"] == "FATAL"
        wait_for(own.answers, 30 * SLOW, "recovery")
        assert idle.value("SELECT 2") == "2"


def test_server_restart(make_proxy, own):
    """Requests wait while the server is down, and go on with the restarted one."""
    proxy = make_proxy({"own": own}, {"p1": "own"})
    with proxy.wire() as conn, proxy.wire() as waiting:
        conn.value("SELECT 1")
        waiting.value("SELECT 1")
        own.stop()
        waiting.send(query("SELECT 'after'"))
        own.start()
        assert rows(waiting.ready("I")) == [["after"]]
        assert conn.value("SELECT 2") == "2"


def test_server_down_at_login(make_proxy, own):
    """The first login needs the server: it waits a while, then says why."""
    proxy = make_proxy({"own": own}, {"p1": "own"}, query_wait_timeout="1s",
                       connect_timeout="500ms")
    own.stop()
    with pytest.raises(pgwire.LoginError) as error:
        proxy.wire()
    assert error.value.fields["S"] == "FATAL"
    own.start()
    with proxy.wire() as conn:
        assert conn.value("SELECT 1") == "1"


def test_server_down_for_longer_than_a_client_waits(make_proxy, own):
    proxy = make_proxy({"own": own}, {"p1": "own"}, query_wait_timeout="700ms")
    with proxy.wire() as conn:
        conn.value("SELECT 1")
        own.stop()
        conn.send(query("SELECT 1"))
        failed = conn.recv()
        assert failed.kind == "E"
        own.start()
    with proxy.wire() as conn:
        assert conn.value("SELECT 1") == "1"


def test_other_databases_do_not_notice(make_proxy, pg):
    """A server that never answers holds up nobody else."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        proxy = make_proxy({"pg": pg, "mute": {"host": "127.0.0.1",
                                               "port": silent.getsockname()[1]},
                            "gone": {"host": "127.0.0.1", "port": free_port()},
                            "nameless": {"host": "no-such-host.invalid", "port": 5432},
                            "noroute": {"host": "192.0.2.1", "port": 5432}},
                           {"p1": "pg", "q1": "mute", "q2": "gone", "q3": "nameless",
                            "q4": "noroute"}, login_timeout="1s", connect_timeout="500ms",
                           query_wait_timeout="2s")
        failed = []

        def attempt(dbname):
            try:
                proxy.wire(dbname)
            except pgwire.LoginError as error:
                failed.append((dbname, error.fields))
        threads = [threading.Thread(target=attempt, args=("q%d" % n,)) for n in (1, 2, 3, 4)]
        for thread in threads:
            thread.start()
        slowest = 0
        while any(thread.is_alive() for thread in threads):
            began = time.monotonic()
            with proxy.wire() as conn:
                assert conn.value("SELECT 1") == "1"
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 1 * SLOW
        assert sorted(dbname for dbname, _ in failed) == ["q1", "q2", "q3", "q4"]
        assert all(fields["S"] == "FATAL" for _, fields in failed)


def test_failed_logins_are_not_repeated_at_once(make_proxy, own):
    """server_login_retry keeps a broken server from being flooded."""
    own.sql("ALTER ROLE app NOLOGIN")
    proxy = make_proxy({"own": own}, {"p1": "own"}, server_login_retry="2s",
                       query_wait_timeout="1s")
    for _ in range(10):
        with pytest.raises(pgwire.LoginError):
            proxy.wire().value("SELECT 1")
    with open(own.log, errors="replace") as log:
        assert log.read().count('role "app" is not permitted to log in') <= 10


def test_transaction_is_not_repeated_after_a_loss(make_proxy, own):
    """Whether a lost COMMIT happened is not ours to guess: one FATAL, no second try."""
    proxy = make_proxy({"own": own}, {"p1": "own"}, pool_size=1)
    own.sql("CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$; "
            "CREATE CONSTRAINT TRIGGER die AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION die(); "
            "ALTER FUNCTION die() SECURITY DEFINER", "p1")
    with proxy.wire() as conn:
        conn.send(query("INSERT INTO t VALUES (1)"))
        failed = errors(conn.rest())
        assert failed and failed[-1]["S"] == "FATAL"
    assert own.value("SELECT count(*) FROM t", "p1") == 0


def test_notices_between_transactions(make_proxy, own):
    """A server whose configuration is reloaded reports changed parameters at any time."""
    proxy = make_proxy({"own": own}, {"p1": "own"}, pool_size=1)
    with proxy.wire() as conn, proxy.wire(TimeZone="UTC") as other:
        conn.value("SELECT 1")
        own.sql("ALTER SYSTEM SET timezone = 'Asia/Tokyo'")
        own.sql("SELECT pg_reload_conf()")
        wait_for(lambda: conn.value("SELECT setting FROM pg_settings WHERE name = 'TimeZone'")
                 is not None, what="the reload")
        time.sleep(0.3)
        for _ in range(3):
            assert conn.value("SELECT 1") == "1"
            assert other.value("SHOW TimeZone") == "UTC"


def test_pipeline_when_the_server_dies(make_proxy, pg):
    proxy = make_proxy(pool_size=1)
    with proxy.wire() as conn:
        conn.send(parse("SELECT 1"), bind(), execute(), SYNC,
                  parse("SELECT pg_terminate_backend(pg_backend_pid())"), bind(), execute(), SYNC,
                  parse("SELECT 3"), bind(), execute(), SYNC)
        messages = conn.rest()
        assert kinds(messages).startswith("12DCZ")
        assert errors(messages)[-1]["S"] == "FATAL"
    with proxy.wire() as conn:
        assert conn.value("SELECT 1") == "1"


# --- a role that is dropped and made anew -----------------------------------------------------------

MAKE_ROLE = "CREATE ROLE fleeting LOGIN; GRANT ALL ON private TO fleeting"
MAKE_ANEW = "DROP OWNED BY fleeting; DROP ROLE fleeting; " + MAKE_ROLE


@pytest.fixture
def fleeting(pg):
    """What its clients may do is its own, not everybody's."""
    pg.sql("DROP TABLE IF EXISTS private; CREATE TABLE private (a int)", "p1")
    pg.sql("DROP ROLE IF EXISTS fleeting; " + MAKE_ROLE, "p1")
    yield pg
    pg.sql("DROP OWNED BY fleeting; DROP ROLE fleeting; DROP TABLE private", "p1")


@pytest.mark.threads
@pytest.mark.parametrize("request_bytes, state", [
    (query("SELECT current_user"), "42704"), (query("SELECT count(*) FROM private"), "42501"),
    (parse("SELECT count(*) FROM private") + bind() + execute() + SYNC, "42501")],
    ids=["name", "permission", "extended"])
def test_role_that_is_made_anew(make_proxy, fleeting, request_bytes, state):
    """The server connections are still those of the old one: an error of that kind has the server asked, and
    from then on nobody is given one of them, in whatever worker."""
    proxy = make_proxy(pool_size=4, workers=2, secrets={**USERS, "fleeting": ""})
    conns = [proxy.wire(user="fleeting") for _ in range(8)]
    for conn in conns[:4]:
        conn.query("BEGIN")
    for conn in conns[:4]:
        conn.query("COMMIT")
    old = fleeting.sessions("p1", "fleeting")
    assert len(old) == 4
    fleeting.sql(MAKE_ANEW, "p1")
    conns[0].send(request_bytes)
    assert errors(conns[0].ready("I"))[0]["C"] == state
    wait_for(lambda: "its role was dropped" in proxy.log(), 20 * SLOW, "the answer")
    for _ in range(3):
        for conn in conns:
            conn.send(request_bytes)
            assert not errors(conn.ready("I"))
    wait_for(lambda: not old & fleeting.sessions("p1", "fleeting"), 20 * SLOW, "the end of the old ones")
    for conn in conns:
        assert conn.value("SELECT current_user") == "fleeting"
        conn.close()


def test_role_that_is_made_anew_in_sessions(make_proxy, fleeting):
    """Who has a session of the old role has PostgreSQL's errors, as without a pooler; who comes then, not."""
    proxy = make_proxy(pool_mode="session", pool_size=4, workers=1, secrets={**USERS, "fleeting": ""})
    with proxy.wire(user="fleeting") as stays, proxy.wire(user="fleeting") as leaves:
        for conn in (stays, leaves):
            assert conn.value("SELECT current_user") == "fleeting"
        proxy.wire(user="fleeting").close()  # one more that is idle
        fleeting.sql(MAKE_ANEW, "p1")
        for _ in range(2):
            assert errors(stays.query("SELECT current_user"))[0]["C"] == "42704"
        assert errors(leaves.query("SELECT count(*) FROM private"))[0]["C"] == "42501"
        leaves.close()
        failed = []
        for _ in range(6):
            with proxy.wire(user="fleeting") as conn:
                failed += errors(conn.query("SELECT count(*) FROM private"))
        assert len(failed) <= 1  # of the one that had no error yet
        assert stays.value("SELECT 1") == "1"


def test_role_that_is_gone(make_proxy, fleeting):
    """It is not made anew: after the first error its clients get what a login would get."""
    proxy = make_proxy(pool_size=1, secrets={**USERS, "fleeting": ""})
    with proxy.wire(user="fleeting") as conn:
        conn.value("SELECT 1")
        fleeting.sql("DROP OWNED BY fleeting; DROP ROLE fleeting", "p1")
        assert conn.value("SELECT 1") == "1"
        assert errors(conn.query("SELECT current_user"))[0]["C"] == "42704"
        failed = errors(conn.query("SELECT 1"))[0]
        assert failed["C"] == "28000" and 'role "fleeting" does not exist' in failed["M"], failed
    fleeting.sql(MAKE_ROLE, "p1")


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_permission_that_is_missing(make_proxy, fleeting, mode):
    """An ordinary error, which costs nobody a connection; nor does an object that does not exist."""
    proxy = make_proxy(pool_size=1, pool_mode=mode, secrets={**USERS, "fleeting": ""})
    fleeting.sql("REVOKE ALL ON private FROM fleeting", "p1")
    with proxy.wire(user="fleeting") as conn:
        pid = conn.value("SELECT pg_backend_pid()")
        for _ in range(3):
            assert errors(conn.query("SELECT * FROM private"))[0]["C"] == "42501"
            assert errors(conn.query("SELECT NULL::nosuch"))[0]["C"] == "42704"
            conn.query("BEGIN")
            assert errors(conn.query("SELECT * FROM private"))[0]["C"] == "42501"
            conn.query("ROLLBACK")
            assert conn.value("SELECT pg_backend_pid()") == pid
    if mode == "session":
        with proxy.wire(user="fleeting") as conn:
            assert conn.value("SELECT pg_backend_pid()") == pid
    assert "its role was dropped" not in proxy.log()
