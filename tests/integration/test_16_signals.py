# SPDX-License-Identifier: PostgreSQL
"""Ending and reloading: SIGTERM, SIGINT, SIGHUP and the same by the console."""
import os
import signal
import threading
import time

import pytest

import pgwire
from pgwire import errors, query, rows, tags, wait_for
from proxy import ConsoleError
from servers import SLOW

pytestmark = pytest.mark.threads


def ended(proxy):
    return wait_for(lambda: proxy.process.poll() is not None, 30 * SLOW, "the end of pgshuntd")


def finish(proxy):
    """The process has ended by itself: judge how."""
    ended(proxy)
    code = proxy.process.returncode
    proxy.process = None
    proxy.check_log()
    assert code == 0


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "SHUTDOWN"])
def test_graceful_shutdown_lets_transactions_finish(make_proxy, way):
    proxy = make_proxy()
    with proxy.wire() as busy, proxy.wire() as idle:
        idle.value("SELECT 1")
        busy.query("BEGIN")
        if way == "SHUTDOWN":
            console = proxy.console()
            console.send("SHUTDOWN")
        else:
            proxy.process.send_signal(getattr(signal, way))
        messages = idle.rest()
        assert [fields["C"] for fields in errors(messages)] in ([], ["57P01"])
        time.sleep(0.3)
        proxy.check_alive()
        assert rows(busy.query("SELECT 5")) == [["5"]]
        busy.send(query("COMMIT"))
        assert tags(busy.until("C")) == ["COMMIT"]
        busy.rest()
    finish(proxy)


def test_no_new_clients_while_shutting_down(make_proxy):
    proxy = make_proxy()
    with proxy.wire() as busy:
        busy.query("BEGIN")
        proxy.process.send_signal(signal.SIGTERM)

        def refused():
            try:
                with pgwire.Conn(proxy.host, proxy.port) as conn:
                    conn.login("app", "p1")
                    return False
            except (OSError, pgwire.Closed):
                return True
            except pgwire.LoginError as error:
                return error.sqlstate == "57P03" or error.sqlstate == "57P01"
        wait_for(refused, 10 * SLOW, "the end of logins")
        busy.query("SELECT 1")
        busy.send(query("COMMIT"))
        busy.rest()
    finish(proxy)


def test_shutdown_timeout(make_proxy):
    proxy = make_proxy(shutdown_timeout="500ms")
    with proxy.wire() as busy:
        busy.query("BEGIN")
        proxy.process.send_signal(signal.SIGTERM)
        failed = errors(busy.rest())
        assert not failed or failed[-1]["S"] == "FATAL"
    finish(proxy)


@pytest.mark.parametrize("way", ["SIGINT", "SIGTERM", "SHUTDOWN IMMEDIATE"])
def test_shutdown_at_once(make_proxy, way):
    proxy = make_proxy()
    with proxy.wire() as busy:
        busy.query("BEGIN")
        if way == "SHUTDOWN IMMEDIATE":
            console = proxy.console()
            console.send(way)
        else:
            proxy.process.send_signal(getattr(signal, way))
            time.sleep(0.3)
            proxy.check_alive()
            proxy.process.send_signal(signal.SIGINT)
            if way == "SIGTERM":
                time.sleep(0.3)
                proxy.process.send_signal(signal.SIGINT)
        failed = errors(busy.rest())
        assert not failed or (failed[-1]["S"] == "FATAL" and failed[-1]["C"] == "57P01")
    finish(proxy)


def test_shutdown_with_clients_in_every_state(make_proxy, pg):
    proxy = make_proxy(pool_size=2)
    half = pgwire.Conn(proxy.host, proxy.port)
    half.send(b"\0\0")
    conns = [proxy.wire() for _ in range(5)]
    conns[0].query("BEGIN")
    conns[1].query("BEGIN")
    conns[2].send(query("SELECT 'waiting'"))
    conns[3].send(b"Q\0\0")
    console = proxy.console()
    console("SHOW POOLS")
    proxy.process.send_signal(signal.SIGTERM)
    for conn in conns[:2]:
        conn.send(query("COMMIT"))
    finish(proxy)
    for conn in conns + [half]:
        conn.close()


def test_server_connections_end_in_order(make_proxy, pg):
    """PostgreSQL sees Terminate, not a lost connection."""
    proxy = make_proxy()
    with proxy.wire(user="app2") as conn:
        conn.value("SELECT 1")
        before = os.path.getsize(pg.log)
    proxy.process.send_signal(signal.SIGTERM)
    finish(proxy)
    wait_for(lambda: not pg.sessions("p1", "app2"), what="the end of the session")
    with open(pg.log, "rb") as log:
        log.seek(before)
        lost = [line for line in log if b"app2@p1" in line and b"unexpected EOF" in line]
    assert not lost


@pytest.mark.parametrize("way", ["SIGHUP", "RELOAD"])
def test_reload_adds_a_database(make_proxy, way):
    proxy = make_proxy()
    with proxy.wire() as conn:
        conn.query("BEGIN")
        proxy.databases["more"] = {"server": "pg", "dbname": "p2"}
        proxy.settings["pool_size"] = 2
        reload(proxy, way)
        wait_for(lambda: logs_in(proxy, "more"), 10 * SLOW, "the new database")
        assert conn.value("SELECT 1") == "1"
        conn.query("COMMIT")
    wait_for(lambda: {row["pool_size"] for row in proxy.command("SHOW POOLS")
                      if row["database"] == "more"} == {"2"}, 10 * SLOW, "the new pool size")


def reload(proxy, way):
    proxy.write()
    if way == "SIGHUP":
        proxy.process.send_signal(signal.SIGHUP)
    else:
        proxy.command("RELOAD")


def logs_in(proxy, dbname="p1", user="app", password=None):
    try:
        with proxy.wire(dbname, user, password) as conn:
            return conn.value("SELECT 1") == "1"
    except pgwire.LoginError:
        return False


def test_reload_of_users(make_proxy):
    proxy = make_proxy(auth_type="scram-sha-256", secrets=None)
    proxy.secrets["app"] = "first"
    reload(proxy, "RELOAD")
    wait_for(lambda: logs_in(proxy, password="first"), 10 * SLOW, "the new user")
    with proxy.wire(password="first") as conn:
        proxy.secrets["app"] = "second"
        reload(proxy, "RELOAD")
        wait_for(lambda: logs_in(proxy, password="second"), 10 * SLOW, "the new password")
        assert not logs_in(proxy, password="first")
        assert conn.value("SELECT 1") == "1"


def test_reload_of_a_broken_file_changes_nothing(make_proxy):
    proxy = make_proxy()
    with open(proxy.config_path, "a") as out:
        out.write("nonsense: true\n")
    with pytest.raises(ConsoleError) as error:
        proxy.command("RELOAD")
    assert "nonsense" in str(error.value.fields)
    before = proxy.log().count("nonsense")
    proxy.process.send_signal(signal.SIGHUP)
    wait_for(lambda: proxy.log().count("nonsense") > before, 10 * SLOW, "the log")
    assert logs_in(proxy)


def test_reload_tells_what_needs_a_restart(make_proxy):
    proxy = make_proxy(workers=1)
    proxy.settings.update(workers=2, log_level="info")
    proxy.write()
    with proxy.console() as console:
        notices = [message.fields() for message in console.conn.query("RELOAD") if message.kind == "N"]
    assert [notice["M"] for notice in notices] == ["These settings need a restart: proxy.workers."]


def test_reload_moves_a_database_that_never_was_swapped(make_proxy, make_cluster):
    """The file is the authority for what no SWAP ever decided."""
    other = make_cluster("other")
    other.sql("CREATE DATABASE p1")
    proxy = make_proxy()
    proxy.servers["other"] = proxy.server(other)
    with proxy.wire() as conn, proxy.wire() as busy:
        assert conn.value("SHOW cluster_name") == "pg"
        busy.query("BEGIN")
        proxy.databases["p1"] = {"server": "other"}
        reload(proxy, "RELOAD")
        wait_for(lambda: conn.value("SHOW cluster_name") == "other", 10 * SLOW, "the new server")
        assert busy.value("SHOW cluster_name") == "pg"
        busy.query("COMMIT")
        assert busy.value("SHOW cluster_name") == "other"
    proxy.stop()


def test_reload_under_load(make_proxy):
    proxy = make_proxy(pool_size=2, log_level="info")
    stop = threading.Event()
    failed = []

    def work():
        try:
            with proxy.wire() as conn:
                n = 0
                while not stop.is_set():
                    n += 1
                    assert rows(conn.query("SELECT %d" % n)) == [[str(n)]]
        except BaseException as error:
            failed.append(error)
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for n in range(10):
        proxy.settings["pool_size"] = 2 + n % 3
        reload(proxy, "SIGHUP" if n % 2 else "RELOAD")
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not failed, failed


def test_broken_pipe_does_no_harm(make_proxy):
    proxy = make_proxy()
    os.kill(proxy.process.pid, signal.SIGPIPE)
    assert logs_in(proxy)
