# SPDX-License-Identifier: PostgreSQL
"""As a service: what the service manager is told, and sockets that it opened."""
import http.client
import json
import os
import signal
import socket
import time

import pytest

import pgwire
from pgwire import query, wait_for
from servers import SLOW, free_port
from service import Manager, listen_tcp, listen_unix, start


def ended(proxy):
    code = wait_for(lambda: proxy.process.poll() is not None and [proxy.process.returncode],
                    30 * SLOW, "the end of pgshuntd")[0]
    proxy.process = None
    proxy.check_log()
    return code


def answers(host, port):
    conn = pgwire.Conn(host, port)
    conn.login("app", "p1")
    assert conn.value("SELECT 1") == "1"
    return conn


@pytest.mark.parametrize("abstract", [False, True])
def test_life(make_proxy, folder, tmp_path, abstract):
    manager = Manager(str(tmp_path), abstract)
    proxy = start(make_proxy(start=False), env=manager.env)
    manager.wait("READY=1")
    answers(proxy.host, proxy.port).close()  # ready means ready
    proxy.process.send_signal(signal.SIGHUP)
    manager.wait("READY=1", 2)
    kinds = [line for lines in manager.told for line in lines]
    assert kinds.index("RELOADING=1") > kinds.index("READY=1")
    with open(proxy.config_path, "a") as out:
        out.write("nonsense: 1\n")
    proxy.process.send_signal(signal.SIGHUP)
    manager.wait("READY=1", 3)  # a file with an error must not leave it reloading for ever
    assert manager.count("STOPPING=1") == 0
    with answers(proxy.host, proxy.port) as busy:
        busy.query("BEGIN")
        proxy.process.send_signal(signal.SIGTERM)
        manager.wait("STOPPING=1")
        assert "EXTEND_TIMEOUT_USEC=15000000" in manager.has("STOPPING=1")[0]
        busy.send(query("COMMIT"))
        busy.rest()
    assert ended(proxy) == 0


def test_watchdog(make_proxy, tmp_path):
    manager = Manager(str(tmp_path))
    proxy = start(make_proxy(start=False), env=manager.env, WATCHDOG_USEC="900000")
    manager.wait("WATCHDOG=1", 3)
    assert [line for lines in manager.told for line in lines if line.startswith("STATUS=2 workers")]
    proxy.stop()
    # Meant for another process.
    manager.told.clear()
    start(proxy, env=manager.env, WATCHDOG_USEC="30000", WATCHDOG_PID="1")
    manager.wait("READY=1")
    time.sleep(0.2)
    assert manager.count("WATCHDOG=1") == 0


def test_watchdog_of_a_worker_that_hangs(make_proxy, tmp_path):
    """The main thread alone does not keep it."""
    manager = Manager(str(tmp_path))
    web = free_port()
    proxy = start(make_proxy(start=False, metrics_addresses=["127.0.0.1"], metrics_port=web),
                  env=manager.env, WATCHDOG_USEC="300000",
                  PGSHUNT_FAULT="worker-view=wait:" + str(tmp_path / "hangs"))
    manager.wait("READY=1")
    wait_for((tmp_path / "hangs").exists, 30 * SLOW, "a worker that hangs")
    conn = http.client.HTTPConnection("127.0.0.1", web, timeout=60 * SLOW)
    conn.request("GET", "/healthz")
    answer = conn.getresponse()
    assert answer.status == 503
    assert json.loads(answer.read()) == {"healthy": False, "workers": 2, "workers_answered": 0}
    assert manager.count("WATCHDOG=1") == 0
    assert manager.has("STATUS=2 of 2 workers do not answer.")
    proxy.kill()


def test_sockets_passed_on(make_proxy, folder, tmp_path):
    path = os.path.join(folder, ".s.PGSQL.%d" % os.getpid())
    tcp, tcp6, unix = listen_tcp(), listen_tcp(socket.AF_INET6, "::1"), listen_unix(path)
    proxy = start(make_proxy(start=False, tcp_defer_accept=0),
                  [("postgres", tcp), ("postgres", tcp6), ("local", unix)])
    ports = [sock.getsockname()[1] for sock in (tcp, tcp6)]
    # Whoever connects before the proxy is ready waits in the queue of the socket.
    answers("127.0.0.1", ports[0]).close()
    answers("::1", ports[1]).close()
    answers(folder, os.getpid()).close()
    with pytest.raises(ConnectionRefusedError):
        pgwire.Conn(proxy.host, proxy.port)
    proxy.process.send_signal(signal.SIGTERM)
    assert ended(proxy) == 0
    assert "app@[::1]:" in proxy.log() and "app@127.0.0.1:" in proxy.log()
    assert os.path.exists(path), "the socket's file belongs to whoever made it"
    # Nobody is refused while no proxy runs: the next one finds who came in between.
    waiting = [pgwire.Conn("127.0.0.1", ports[0]), pgwire.Conn(folder, os.getpid())]
    start(proxy, [("postgres", tcp), ("postgres", tcp6), ("local", unix)])
    for conn in waiting:
        conn.login("app", "p1")
        assert conn.value("SELECT 1") == "1"
        conn.close()
    for sock in (tcp, tcp6, unix):
        sock.close()
    os.unlink(path)


def test_sockets_of_another_process(make_proxy):
    """Variables that were meant for somebody else are not obeyed."""
    with listen_tcp() as tcp:
        proxy = start(make_proxy(start=False), [("postgres", tcp)], PID_FOR_TEST="1")
        wait_for(proxy.listening, 20 * SLOW, "pgshuntd to listen")
        answers(proxy.host, proxy.port).close()


@pytest.mark.parametrize("kind", ["datagram", "not listening"])
def test_wrong_sockets(make_proxy, kind):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "datagram"
                       else socket.SOCK_STREAM) as sock:
        proxy = start(make_proxy(start=False), [("wrong", sock)])
        assert ended(proxy) == 1
        assert '"wrong"' in proxy.log()
