# SPDX-License-Identifier: PostgreSQL
"""CancelRequest: running, waiting and idle clients, wrong keys, and never somebody else."""
import contextlib
import socket
import subprocess
import threading
import time

import pytest

import pgwire
from fakeserver import DONE, READY, ROW, WELCOME, FakeServer
from pgwire import SYNC, bind, errors, execute, kinds, message, parse, query, rows, wait_for
from proxy import program
from servers import SLOW, stopped

pytestmark = pytest.mark.threads


def running(pg, text):
    return pg.sql("SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%%%s%%' "
                  "AND pid <> pg_backend_pid()" % text)


def test_running_query(endpoint, pg):
    with endpoint.wire() as conn:
        conn.send(query("SELECT pg_sleep(60) /* cancel me */"))
        wait_for(lambda: running(pg, "cancel me"), what="the query")
        conn.cancel()
        messages = conn.ready("I")
        assert errors(messages)[0]["C"] == "57014"
        assert conn.value("SELECT 1") == "1"


def test_running_query_in_the_extended_protocol(endpoint, pg):
    with endpoint.wire() as conn:
        conn.send(parse("SELECT pg_sleep(60) /* cancel ext */"), bind(), execute(), SYNC,
                  parse("SELECT 2"), bind(), execute(), SYNC)
        wait_for(lambda: running(pg, "cancel ext"), what="the query")
        conn.cancel()
        messages = conn.ready("I")
        assert kinds(messages) == "12EZ" and errors(messages)[0]["C"] == "57014"
        assert rows(conn.ready("I")) == [["2"]]


def test_running_query_in_a_transaction(endpoint, pg):
    with endpoint.wire() as conn:
        conn.query("BEGIN")
        conn.send(query("SELECT pg_sleep(60) /* cancel tx */"))
        wait_for(lambda: running(pg, "cancel tx"), what="the query")
        conn.cancel()
        assert errors(conn.ready("E"))[0]["C"] == "57014"
        conn.query("ROLLBACK")


def test_copy_in(endpoint, pg):
    with endpoint.wire() as conn:
        conn.send(query("COPY items FROM STDIN"))
        assert conn.recv().kind == "G"
        conn.cancel()
        # PostgreSQL looks at it when the next line comes.
        numbers = iter(range(970000, 990000))
        while conn.silent(0.05):
            conn.send(pgwire.copy_data(b"%d\tnever\n" % next(numbers)))
        assert conn.until("E")[-1].fields()["C"] == "57014"
        conn.send(pgwire.COPY_DONE)
        conn.ready("I")


def test_idle_client(endpoint):
    """Has no effect, and answers nothing."""
    with endpoint.wire() as conn:
        conn.value("SELECT 1")
        conn.cancel()
        assert conn.silent()
        assert conn.value("SELECT 2") == "2"


@pytest.mark.parametrize("change", ["key", "pid", "both"])
def test_wrong_key(endpoint, pg, change):
    with endpoint.wire() as conn:
        conn.send(query("SELECT pg_sleep(1), 'not cancelled' /* wrong key */"))
        wait_for(lambda: running(pg, "wrong key"), what="the query")
        pid, key = conn.key
        flipped = bytes(b ^ 0x55 for b in key)
        other = bytes([pid[0] ^ 1]) + pid[1:]
        pgwire.cancel(endpoint.host, endpoint.port, other if change != "key" else pid,
                      flipped if change != "pid" else key)
        assert rows(conn.ready("I"))[0][1] == "not cancelled"


def test_driver(endpoint, pg):
    with endpoint.connect(autocommit=True) as conn:
        def cancel():
            wait_for(lambda: running(pg, "driver cancel"), what="the query")
            conn.cancel()
        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(Exception, match="canceling statement due to user request"):
            conn.execute("SELECT pg_sleep(60) /* driver cancel */")
        thread.join()
        assert conn.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_request_behind_a_cancelled_one(make_proxy, pg, mode):
    """It waits until that cancel request is over, and can be cancelled as well."""
    first, over, second = (threading.Event() for _ in range(3))
    cancels = []

    def script(peer):
        peer.startup()
        if peer.version == pgwire.CANCEL_REQUEST:
            cancels.append(peer)
            (second if first.is_set() else first).set()
            over.wait(30)
            return
        peer.send(WELCOME)
        # In transaction pooling the second one never gets here.
        for event, patience in ((first, 10), (second, 10 if mode == "session" else 0)):
            peer.request()
            peer.send(message("E", b"SERROR\0C57014\0Mcancelled\0\0") if event.wait(patience)
                      else ROW + DONE, READY)
        peer.serve()
    with FakeServer(script) as server:
        proxy = make_proxy({"fake": server.check}, {"q": "fake"}, pool_mode=mode, workers=1,
                           pool_size=1)
        with proxy.wire("q") as conn:
            conn.send(query("SELECT 'one'"))
            wait_for(lambda: "active" in [row["state"] for row in proxy.command("SHOW SERVERS")],
                     what="the query")
            conn.cancel()
            assert errors(conn.ready("I"))[0]["C"] == "57014"
            conn.send(query("SELECT 'two'"))
            conn.cancel()
            over.set()
            assert errors(conn.ready("I"))[0]["C"] == "57014"
            assert rows(conn.query("SELECT 'three'")) == [["1"]]
    assert len(cancels) == (2 if mode == "session" else 1)  # else it had not been sent


def test_keys_are_the_proxys_own(proxied, pg):
    """Unique, and not those of a server."""
    conns = [proxied.wire() for _ in range(20)]
    keys = {conn.key for conn in conns}
    assert len(keys) == 20
    assert len({key for _, key in keys}) >= 15
    for conn in conns:
        conn.close()


def test_without_a_limit_of_time(make_proxy, pg):
    proxy = make_proxy(cancel_wait_timeout=0)
    with proxy.wire() as conn:
        conn.send(query("SELECT pg_sleep(60) /* no limit */"))
        wait_for(lambda: running(pg, "no limit"), what="the query")
        conn.cancel()
        assert errors(conn.ready("I"))[0]["C"] == "57014"


def test_waiting_query(make_proxy):
    """A request that no server has yet is answered by the proxy, and never runs."""
    proxy = make_proxy(pool_size=1)
    with proxy.wire() as busy, proxy.wire() as conn:
        busy.query("BEGIN")
        conn.send(query("INSERT INTO items VALUES (800001, 'never')"))
        assert conn.silent()
        conn.cancel()
        messages = conn.ready("I")
        assert kinds(messages) == "EZ" and errors(messages)[0]["C"] == "57014"
        busy.query("COMMIT")
        assert conn.value("SELECT count(*) FROM items WHERE id = 800001") == "0"


def test_waiting_query_in_the_extended_protocol(make_proxy):
    """Discards up to Sync; what follows goes on."""
    proxy = make_proxy(pool_size=1)
    with proxy.wire() as busy, proxy.wire() as conn:
        busy.query("BEGIN")
        conn.send(parse("INSERT INTO items VALUES (800002, 'never')"), bind(), execute(), SYNC)
        assert conn.silent()
        conn.cancel()
        messages = conn.ready("I")
        assert kinds(messages) == "EZ" and errors(messages)[0]["C"] == "57014"
        busy.query("COMMIT")
        assert conn.value("SELECT count(*) FROM items WHERE id = 800002") == "0"


def test_cancel_never_hits_another_client(make_proxy):
    """Clients share one server; one of them cancels all the time, also just after its query
    ended.  The others never see it."""
    proxy = make_proxy(pool_size=1, workers=2, log_level="info")
    stop = time.monotonic() + 4 * min(SLOW, 3)
    failed = []
    cancelled = []

    def innocent():
        with proxy.wire() as conn:
            while time.monotonic() < stop and not failed:
                messages = conn.query("SELECT count(*) FROM generate_series(1, 2000)")
                if errors(messages):
                    failed.append(errors(messages))

    def canceller():
        with proxy.wire() as conn:
            while time.monotonic() < stop and not failed:
                conn.send(query("SELECT count(*) FROM generate_series(1, 3000)"))
                thread = threading.Thread(target=conn.cancel)
                thread.start()
                if errors(conn.ready("I")):
                    cancelled.append(1)
                thread.join()
    threads = [threading.Thread(target=innocent) for _ in range(4)] + \
              [threading.Thread(target=canceller) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60 * SLOW)
        assert not thread.is_alive()
    assert not failed, failed


def test_cancel_storm(make_proxy):
    """Cancel requests with random keys, and half of one: nobody is disturbed."""
    proxy = make_proxy(log_level="info")
    with proxy.wire() as conn:
        for n in range(200):
            with pgwire.Conn(proxy.host, proxy.port) as other:
                body = pgwire.struct.pack("!iii", pgwire.CANCEL_REQUEST, n, n * 7919)
                other.send(pgwire.untyped(body)[:16 if n % 3 else 9])
                if n % 3:
                    assert other.rest() == []
        assert conn.value("SELECT 1") == "1"


@pytest.mark.parametrize("length", [8, 12, 15, 20, 300])
def test_cancel_request_of_another_length(endpoint, length):
    with endpoint.raw() as conn:
        conn.send(pgwire.struct.pack("!ii", length, pgwire.CANCEL_REQUEST) + b"x" * (length - 8))
        assert "Z" not in kinds(conn.rest())
    with endpoint.wire() as conn:
        assert conn.value("SELECT 1") == "1"


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_while_the_proxy_sets_parameters(make_proxy, pg, mode):
    """The request was sent, and has not begun: it never does."""
    proxy = make_proxy(pool_size=1, pool_mode=mode, server_reset_query="")
    # In session pooling all others are in the startup packet.
    name = "TimeZone" if mode == "transaction" else "application_name"
    with proxy.wire(**{name: "Europe/Rome"}) as conn:
        with proxy.wire(**{name: "Asia/Tokyo"}) as other:
            pid = int(other.value("SELECT pg_backend_pid()"))
        # The server cannot answer the query that sets it.
        with stopped(pid):
            conn.send(query("SELECT nextval('never')"))
            wait_for(lambda: "active" in [row["state"] for row in proxy.command("SHOW SERVERS")],
                     what="the server to be linked")
            conn.cancel()
            assert conn.silent(0.3)
        assert errors(conn.ready("I"))[0]["C"] == "57014"
        assert conn.value("SHOW " + name) == "Europe/Rome"
    assert proxy.connect().execute("SELECT 1").fetchone() == (1,)


def may_unshare():
    return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0


class Forwarder:
    """Listens at an address and passes on what comes, or (to=None) takes it and says nothing."""

    def __init__(self, address, port, to=None):
        self.to, self.taken, self.open = to, 0, []
        self.listener = socket.create_server((address, port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            self.taken += 1
            self.open.append(conn)
            if self.to:
                other = socket.create_connection(self.to)
                self.open.append(other)
                for pair in (conn, other), (other, conn):
                    threading.Thread(target=self.copy, args=pair, daemon=True).start()

    @staticmethod
    def copy(one, other):
        try:
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        for sock in [self.listener, *self.open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


@pytest.mark.parametrize("reached,decoy", [("127.0.0.7", "127.0.0.8"), ("127.0.0.8", "127.0.0.7")])
def test_one_of_several_addresses(make_proxy, pg, tmp_path, reached, decoy):
    """A cancel request goes where the server connection went, whatever else its name stands for."""
    script, hosts = tmp_path / "pgshuntd", tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n127.0.0.7 two.test\n127.0.0.8 two.test\n")
    script.write_text("#!/bin/sh\nexec unshare -m sh -c 'mount --bind %s /etc/hosts && exec \"$@\"' sh %s \"$@\"\n" %
                      (hosts, program("pgshuntd")))
    script.chmod(0o755)
    with contextlib.ExitStack() as stack:
        forwarder = Forwarder(reached, 0, (pg.host, pg.port))
        stack.callback(forwarder.close)
        proxy = make_proxy(servers={"pg": {"host": "two.test", "port": forwarder.port}}, databases={"p1": "pg"},
                           start=False, pool_size=1)
        if may_unshare():
            proxy.binary = str(script)
        else:  # one address is better than no test
            proxy.servers["pg"]["host"] = reached
            proxy.write()
        proxy.start()
        conn = stack.enter_context(proxy.wire())
        assert conn.value("SELECT 1") == "1"
        other = Forwarder(decoy, forwarder.port)
        stack.callback(other.close)
        conn.send(query("SELECT pg_sleep(60) /* several */"))
        wait_for(lambda: pg.value("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%several */%' AND "
                                  "state = 'active' AND pid <> pg_backend_pid()") == 1, what="the query")
        conn.cancel()
        assert [fields["C"] for fields in errors(conn.ready("I"))] == ["57014"]
        assert other.taken == 0
