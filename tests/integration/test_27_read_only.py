# SPDX-License-Identifier: PostgreSQL
"""The default_transaction_read_only that a move gives its target lasts no longer than the move: not
either for a session that is being opened when it is taken back (migrate/read_only.h)."""
import contextlib
import os
import socket
import threading
import time

import pgwire
from pgwire import wait_for
from scene import DONE
from servers import SLOW


class Relay:
    """Takes connections at once, which forks a backend, and passes nothing on while it is told so."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.flows = threading.Event()
        self.flows.set()
        self.taken = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection((self.cluster.host, self.cluster.port))
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self.copy, args=(one, other), daemon=True).start()
            self.taken += 1

    def copy(self, one, other):
        try:
            while data := one.recv(65536):
                self.flows.wait(60)
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        self.flows.set()
        self.listener.close()


def default_is(cluster, value):
    cluster.sql("ALTER SYSTEM SET default_transaction_read_only = " + value)
    cluster.sql("SELECT pg_reload_conf()")
    wait_for(lambda: cluster.value("SHOW default_transaction_read_only") == value, 10 * SLOW, "reload")


def test_server_connection_that_is_opened_meanwhile(make_cluster, make_proxy):
    """Its backend was forked with what the server had then, and says that it is read-only before it
    has looked again.  No client is made read-only by that: not its own, and not those to come."""
    cluster = make_cluster("own")
    cluster.sql("CREATE DATABASE p2")
    relay = Relay(cluster)
    proxy = make_proxy({"own": {"host": "127.0.0.1", "port": relay.port}}, {"p2": "own"}, workers=1)
    with proxy.wire("p2") as first:
        first.query("BEGIN")
        default_is(cluster, "on")
        cluster.sql("BEGIN READ WRITE; ALTER DATABASE p2 SET default_transaction_read_only = off; COMMIT")
        relay.flows.clear()
        with proxy.wire("p2") as second:
            before = relay.taken
            second.send(pgwire.query("SHOW transaction_read_only"))
            wait_for(lambda: relay.taken > before, 10 * SLOW, "another server connection")
            default_is(cluster, "off")
            cluster.sql("ALTER DATABASE p2 RESET default_transaction_read_only")
            relay.flows.set()
            assert pgwire.rows(second.ready("I")) == [["off"]]
            first.query("COMMIT")
            for _ in range(2):
                with proxy.wire("p2") as third:
                    assert third.params["default_transaction_read_only"] == "off"
                    assert third.value("SHOW transaction_read_only") == "off"
                    third.query("BEGIN; CREATE TABLE made (a int)")
                    assert third.query("ROLLBACK")[-1].body == b"I"
    relay.close()


def test_session_that_begins_at_the_end_of_the_move(make_scene):
    """Past the proxy: its process is there when the setting is taken back, and its login a moment later.
    What it says of itself is what libpq judges it by (target_session_attrs)."""
    scene = make_scene()
    mark = os.path.join(scene.folder, "stands")
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.validate.outcome=wait:" + mark)
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the end of the move")
    with contextlib.ExitStack() as stack:
        conns = [stack.enter_context(pgwire.Conn(scene.pg2.host, scene.pg2.port)) for _ in range(10)]
        os.unlink(mark)
        for conn in conns:
            conn.login("app", "p2")
            assert conn.params["default_transaction_read_only"] == "off"
            time.sleep(0.02)
    assert mover.wait(60 * SLOW) == DONE
    scene.check_on_pg2()


def test_clients_that_logged_in_while_it_was_on(make_cluster, make_proxy):
    """They have never asked to be read-only, and are no longer than their server is."""
    cluster = make_cluster("own")
    cluster.sql("CREATE DATABASE p2")
    proxy = make_proxy({"own": cluster}, {"p2": "own"}, workers=1, pool_size=1)
    default_is(cluster, "on")
    with contextlib.ExitStack() as stack:
        conns = [stack.enter_context(proxy.wire("p2")) for _ in range(4)]
        wants = stack.enter_context(proxy.wire("p2", default_transaction_read_only="on"))
        for conn in conns + [wants]:
            assert conn.value("SHOW transaction_read_only") == "on"
        default_is(cluster, "off")
        for conn in conns + [stack.enter_context(proxy.wire("p2"))]:
            assert conn.value("SHOW transaction_read_only") == "off"
            assert conn.params["default_transaction_read_only"] == "off"
        # Who asked for it has it; and the others are not touched by that.
        for conn, value in ((wants, "on"), (conns[0], "off"), (wants, "on"), (conns[3], "off")):
            assert conn.value("SHOW transaction_read_only") == value
        with proxy.wire("p2") as late:
            assert late.params["default_transaction_read_only"] == "off"
            late.query("SET default_transaction_read_only = on")
            assert conns[0].value("SHOW transaction_read_only") == "off"
            assert late.value("SHOW transaction_read_only") == "on"
