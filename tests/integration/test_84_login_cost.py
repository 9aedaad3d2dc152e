# SPDX-License-Identifier: PostgreSQL
"""What logins that fail, or never end, cost: those who try them, not the others."""
import socket
import struct
import threading
import time

import pytest

import pgwire
from pgwire import Closed, LoginError, kinds, scram_secret, wait_for
from proxy import USERS
from servers import SANITIZED, SLOW

STARTUP = pgwire.startup({"user": "app", "database": "p1"})


def ended(conn):
    """Whether the other side has closed."""
    conn.sock.settimeout(0.2)
    try:
        while conn.sock.recv(4096):
            pass
        return True
    except socket.timeout:
        return False
    except ConnectionError:
        return True


def test_costly_password_does_not_stop_the_worker(make_proxy):
    """A clear-text password against a secret of a million iterations (half a second or so): the
    only worker serves its other clients meanwhile."""
    secret = scram_secret("sesame", iterations=1)
    secret = secret.replace("$1:", "$1000000:")
    proxy = make_proxy(auth_type="plain", workers=1, client_login_timeout="150s",
                       secrets={**USERS, "app": secret, "app2": "other"})
    outcome = []

    def attempt():
        try:
            with pgwire.Conn(proxy.host, proxy.port, 150) as conn:
                conn.login("app", "p1", "wrong")
        except LoginError as error:
            outcome.append(error.sqlstate)
    with proxy.wire(user="app2", password="other") as conn:
        threads = [threading.Thread(target=attempt) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        served = 0
        while len(outcome) < 2 and served < 20:
            assert conn.value("SELECT 1") == "1"
            proxy.wire(user="app2", password="other").close()
            served += 1
        for thread in threads:
            thread.join()
    # A worker that computes serves one when the first is done, and perhaps one before.
    assert served > 5
    assert outcome == ["28P01"] * 2


def test_client_that_leaves_during_a_costly_step(make_proxy):
    secret = scram_secret("sesame", iterations=1).replace("$1:", "$2000000:")
    proxy = make_proxy(auth_type="plain", workers=1, secrets={**USERS, "app": secret})
    for _ in range(3):
        with pgwire.Conn(proxy.host, proxy.port) as conn:
            conn.send(STARTUP)
            assert conn.recv().kind == "R"
            conn.send(pgwire.message("p", b"wrong\0"))
    with proxy.console() as console:
        assert console("SHOW VERSION")


def test_bytes_behind_a_costly_step_wait(make_proxy):
    """The first use of a plain password is such a step; what is sent behind it is not lost."""
    secret = scram_secret("sesame", iterations=200000)
    proxy = make_proxy(auth_type="plain", secrets={**USERS, "app": secret})
    with pgwire.Conn(proxy.host, proxy.port) as conn:
        conn.send(STARTUP)
        assert conn.recv().kind == "R"
        conn.send(pgwire.message("p", b"sesame\0"), pgwire.query("SELECT 41 + 1"))
        messages = conn.ready() + conn.ready()
    assert b"42" in messages[-3].body


def test_login_storm_with_plain_passwords(make_proxy):
    """Every user's secret is derived once, whoever comes first."""
    users = {"storm%d" % n: "password %d" % n for n in range(40)}
    proxy = make_proxy(auth_type="scram-sha-256", workers=1, secrets={**USERS, **users},
                       databases={"p1": {"server": "pg", "user": "app"}})
    failed = []

    def work(name):
        try:
            for _ in range(2):
                proxy.wire(user=name, password=users[name]).close()
        except Exception as error:
            failed.append(error)
    proxy.command("RELOAD")
    threads = [threading.Thread(target=work, args=(name,)) for name in users]
    for thread in threads:
        thread.start()
    with proxy.console() as console:
        assert console("SHOW VERSION")
    for thread in threads:
        thread.join()
    assert failed == []


def test_idle_connections_keep_nobody_out(make_proxy):
    """The bound of logins is one apart from that of clients, and the oldest gives way."""
    proxy = make_proxy(workers=1, auth_type="scram-sha-256", max_client_connections=3,
                       max_logins=20, client_login_timeout="1min",
                       secrets={**USERS, "app": "sesame"})
    idle = []
    for _ in range(25):
        idle.append(pgwire.Conn(proxy.host, proxy.port))
        idle[-1].send(STARTUP)
        assert idle[-1].recv().kind == "R"
    assert ended(idle[0]) and not ended(idle[-1])
    clients = [proxy.wire(password="sesame") for _ in range(3)]
    for conn in clients:
        assert conn.value("SELECT 1") == "1"
    with pytest.raises(LoginError) as error:
        proxy.wire(password="sesame")
    assert error.value.sqlstate == "53300"
    for conn in clients + idle:
        conn.close()

    def again():
        try:
            return proxy.wire(password="sesame")
        except LoginError:
            return None
    wait_for(again, what="a free place").close()


def test_logins_of_one_address(make_proxy, folder):
    proxy = make_proxy(workers=1, auth_type="scram-sha-256", max_logins_per_address=3,
                       listen_addresses=["127.0.0.1", "127.0.0.2"], unix_socket_directory=folder,
                       client_login_timeout="1min", secrets={**USERS, "app": "sesame"})
    done = [proxy.wire(password="sesame") for _ in range(5)]
    idle = []
    for _ in range(3):
        idle.append(pgwire.Conn(proxy.host, proxy.port))
        idle[-1].send(STARTUP)
        assert idle[-1].recv().kind == "R"
    with pytest.raises((LoginError, Closed, ConnectionError)):
        proxy.wire(password="sesame")
    # Another address, and the Unix socket.
    with socket.create_connection(("127.0.0.2", proxy.port), 20, ("127.0.0.3", 0)) as other:
        other.sendall(STARTUP)
        assert other.recv(1) == b"R"
    with pgwire.Conn(folder, proxy.port) as conn:
        conn.login("app", "p1", "sesame")
    idle.pop().close()

    def again():
        try:
            return proxy.wire(password="sesame")
        except (LoginError, Closed, ConnectionError):
            return None
    done.append(wait_for(again, what="a free place"))
    for conn in done + idle:
        conn.close()


def test_login_has_one_deadline(make_proxy):
    """Not one a message: bytes that trickle in do not prolong it."""
    proxy = make_proxy(auth_type="scram-sha-256", client_login_timeout="1s")
    began = time.monotonic()
    with pgwire.Conn(proxy.host, proxy.port) as conn:
        try:
            for byte in STARTUP * 100:
                conn.send(bytes([byte]))
                time.sleep(0.1)
                if ended(conn):
                    break
        except ConnectionError:
            pass
    assert time.monotonic() - began < 20 * SLOW


@pytest.mark.figures
def test_memory_before_authentication(make_proxy):
    """Who has not proved anything cannot make the proxy keep much."""
    proxy = make_proxy(workers=1, auth_type="scram-sha-256", client_login_timeout="1min")
    proxy.wire(user="u_scram", password="scram secret").close()
    before = proxy.memory()
    conns = []
    for n in range(300):
        conn = pgwire.Conn(proxy.host, proxy.port)
        conns.append(conn)
        if n % 3 == 0:  # the longest startup packet, but for its last byte
            conn.send(struct.pack("!ii", 10000, 196608) + b"user\0" + b"x" * 9980)
        elif n % 3 == 1:  # a password without an end
            conn.send(STARTUP)
            assert conn.recv().kind == "R"
            conn.send(b"p" + struct.pack("!i", 8000) + b"x" * 7000)
        else:
            conn.send(STARTUP)
            assert conn.recv().kind == "R"
            try:
                conn.send(b"p" + struct.pack("!i", 60000) + b"x" * 50000)
                assert kinds(conn.rest()) == "E"
            except ConnectionError:
                pass
    wait_for(lambda: proxy.wire(user="u_scram", password="scram secret"), what="a login").close()
    assert (proxy.memory() - before) / 300 < (120000 if SANITIZED else 40000)
    for conn in conns:
        conn.close()


# --- what was wrong in pgbouncer ----------------------------------------------------------------

@pytest.mark.parametrize("dbname", ["p1", "no such database"])
def test_second_startup_message_during_scram(make_proxy, dbname):
    """CVE-2026-107350: it changed the user of a login that was under way."""
    proxy = make_proxy(auth_type="scram-sha-256", secrets={**USERS, "app": "mine", "app2": "his"})
    with pgwire.Conn(proxy.host, proxy.port) as conn:
        conn.send(pgwire.startup({"user": "app", "database": dbname}))
        assert conn.recv().kind == "R"
        conn.send(pgwire.startup({"user": "app2", "database": "p1"}))
        messages = conn.rest()
    assert kinds(messages) in ("", "E")
    # In one piece with the first.
    with pgwire.Conn(proxy.host, proxy.port) as conn:
        conn.send(pgwire.startup({"user": "app", "database": dbname}) +
                  pgwire.startup({"user": "app2", "database": "p1"}))
        messages = conn.rest()
    assert "Z" not in kinds(messages)


def test_empty_option_name(make_proxy):
    """CVE-2026-107349: options with an empty name kept a CPU busy for ever."""
    proxy = make_proxy(ignore_startup_parameters=["extra_float_digits"])
    for options in ("-c=", "-c =x", "--=", "-c", "-", "--", "-c a=b -c="):
        with pgwire.Conn(proxy.host, proxy.port) as conn:
            conn.send(pgwire.startup({"user": "app", "database": "p1", "options": options}))
            messages = conn.rest()
        assert "Z" not in kinds(messages)
    proxy.wire().close()


@pytest.mark.parametrize("length", [0, 3, 0x7fffffff, 0x80000000, 0x80000004, 0xffffffff, 65536])
def test_lengths_before_authentication(make_proxy, length):
    """CVE-2026-6664, CVE-2026-107348: lengths that overflow."""
    proxy = make_proxy(auth_type="scram-sha-256")
    with pgwire.Conn(proxy.host, proxy.port) as conn:
        conn.send(struct.pack("!II", length, 196608))
        conn.rest()
    with pgwire.Conn(proxy.host, proxy.port) as conn:
        conn.send(STARTUP)
        assert conn.recv().kind == "R"
        conn.send(b"p" + struct.pack("!I", length))
        assert "Z" not in kinds(conn.rest())
    with proxy.console() as console:
        assert console("SHOW VERSION")
