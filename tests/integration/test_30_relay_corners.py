# SPDX-License-Identifier: PostgreSQL
"""Corners of the relay: what is skipped has no effect, what was not executed is sent again, what is
cancelled is that and nothing else."""
import socket
import threading
import time

import pytest

from fakeserver import DONE, READY, ROW, WELCOME, FakeServer
import pgwire
from proxy import ConsoleError
from pgwire import (CANCEL_REQUEST, SYNC, bind, close, describe, errors, execute, kinds, message, parse, query, rows,
                    wait_for)
from servers import stopped

pytestmark = pytest.mark.once


def answers(conn, count):
    """The kinds of messages and SQLSTATEs up to the count-th ReadyForQuery."""
    text = ""
    for _ in range(count):
        text += "".join(m.kind + (m.fields()["C"] if m.kind == "E" else "")
                        for m in conn.ready() if m.kind not in "NSA") + " "
    return text.strip()


# --- what is skipped after an error has no effect ------------------------------------------------

UNKNOWN = describe("S", "unknown")
SKIPPED = {
    "Query": ([parse("SELECT 1"), UNKNOWN, query("SELECT 2"), SYNC, bind(), SYNC], 2,
              "1E26000Z 2Z"),
    "Query of a transaction": ([parse("SELECT 1"), execute("none"), query("BEGIN"), SYNC,
                                parse("SELECT 3", "t"), bind(), SYNC], 2, "1E34000Z 12Z"),
    "Parse of the unnamed statement": ([parse("SELECT 1"), SYNC, UNKNOWN, parse("SELECT 1, 2"), SYNC,
                                        describe("S"), SYNC], 3, "1Z E26000Z tTZ"),
    "Close of the unnamed statement": ([parse("SELECT 1"), UNKNOWN, close("S"), SYNC, bind(), SYNC],
                                       2, "1E26000Z 2Z"),
    "Query, and one behind it": ([parse("SELECT 1"), UNKNOWN, query("SELECT 2"), SYNC,
                                  query("SELECT 3"), bind(), SYNC], 3, "1E26000Z TDCZ E26000Z"),
    "twice": ([parse("SELECT 1"), UNKNOWN, query("SELECT 2"), SYNC, UNKNOWN, query("SELECT 3"), SYNC,
               bind(), SYNC], 3, "1E26000Z E26000Z 2Z"),
    "DEALLOCATE": ([parse("SELECT $1::int", "s"), bind([], "s"), query("DEALLOCATE s"), SYNC,
                    query("DEALLOCATE s"), query("DEALLOCATE s")], 3, "1E08P01Z CZ E26000Z"),
    "DEALLOCATE in the extended protocol": (
        [parse("SELECT 1", "s"), UNKNOWN, parse("DEALLOCATE s"), bind(), describe(), execute(), SYNC,
         bind([], "s"), SYNC], 2, "1E26000Z 2Z"),
}


@pytest.mark.parametrize("name", SKIPPED)
@pytest.mark.parametrize("how", ["one packet", "in pieces"])
def test_skipped(endpoint, name, how):
    messages, readies, expected = SKIPPED[name]
    with endpoint.wire() as conn:
        for part in [b"".join(messages)] if how == "one packet" else messages:
            conn.send(part)
            if how != "one packet":
                time.sleep(0.005)
        assert answers(conn, readies) == expected
        assert conn.value("SELECT 5") == "5"


DEALLOCATED = {
    "ends the portal": ([parse("SELECT 1", "s"), bind([], "s"), query("DEALLOCATE s"), describe(),
                         SYNC], 2, "12CZ E34000Z"),
    "ends the portal in a block": ([query("BEGIN"), parse("SELECT 1", "s"), bind([], "s"), SYNC,
                                    query("DEALLOCATE s"), describe(), SYNC, query("ROLLBACK")], 5,
                                   "CZ 12Z CZ E34000Z CZ"),
    "within a batch": ([parse("SELECT 1", "s"), query("DEALLOCATE s"), parse("SELECT 2", "s"), SYNC,
                        bind([], "s"), execute(), SYNC, query("DEALLOCATE s")], 4,
                       "1CZ 1Z 2DCZ CZ"),
    "in a failed block": ([parse("SELECT 1", "s"), SYNC, query("BEGIN"), query("SELECT 1/0"),
                           query("DEALLOCATE s"), query("ROLLBACK"), query("DEALLOCATE s")], 6,
                          "1Z CZ E22012Z E25P02Z CZ CZ"),
    "twice in the extended protocol": (
        [parse("SELECT 1", "s"), parse("DEALLOCATE s"), bind(), describe(), execute(), execute(),
         SYNC, bind(), execute(), SYNC, bind([], "s"), SYNC], 3,
        "112nCE55000Z 2E26000Z E26000Z"),
    "in the extended protocol, not described": (
        [parse("SELECT 1", "s"), parse("DEALLOCATE s"), bind(), execute(), SYNC, bind([], "s"), SYNC], 2,
        "112CZ E26000Z"),
    "all, in the extended protocol": (
        [parse("SELECT 1", "s"), parse("DEALLOCATE ALL"), bind(), execute(), parse("SELECT 2", "s"),
         SYNC, bind(), execute(), SYNC, bind([], "s"), SYNC], 3, "112C1Z 2CZ E26000Z"),
    "all, twice the same name": ([parse("DEALLOCATE ALL"), bind(), execute(), parse("SELECT 1", "s"),
                                  parse("SELECT 1", "s"), SYNC, bind([], "s"), SYNC], 2,
                                 "12C1E42P05Z 2Z"),
}


@pytest.mark.parametrize("name", DEALLOCATED)
def test_deallocate(endpoint, name):
    messages, readies, expected = DEALLOCATED[name]
    for _ in range(2):  # the second time a server connection may have the statements already
        with endpoint.wire() as conn:
            conn.send(*messages)
            assert answers(conn, readies) == expected
            assert conn.value("SELECT 5") == "5"


@pytest.mark.parametrize("first", ["describe", "close", "bind"])
def test_deallocate_all_and_an_error_behind_it(make_proxy, first):
    """What the proxy believes the server has, is what it has."""
    proxy = make_proxy(pool_size=1)
    error = {"describe": describe("P", "none"), "close": execute("none"),
             "bind": bind([], "unknown")}[first]
    with proxy.wire() as conn, proxy.wire() as other:
        conn.send(parse("SELECT 1", "s"), SYNC)
        assert answers(conn, 1) == "1Z"
        conn.send(parse("DEALLOCATE ALL"), bind(), execute(), error, parse("SELECT 1", "s"),
                  close("S", "s"), SYNC)
        assert answers(conn, 1)[:4] == "12CE"
        other.send(parse("SELECT 1", "s"), bind([], "s"), execute(), SYNC)
        assert answers(other, 1) == "12DCZ"
        conn.send(bind([], "s"), SYNC)
        assert answers(conn, 1) == "E26000Z"


# --- a server that ends when it gets a request ----------------------------------------------------

def goodbye(severity="FATAL", sqlstate="57P01"):
    return message("E" if severity == "FATAL" else "N",
                   b"S%s\0V%s\0C%s\0Mgoodbye\0\0" % ((severity.encode(),) * 2 + (sqlstate.encode(),)))


ENDS = {
    # name: (what it says, whether it reads the request, pause before it closes)
    "goodbye": (goodbye(), False, 0),
    "goodbye, and later the end": (goodbye(), False, 0.2),
    "idle time-out": (goodbye(sqlstate="57P05"), False, 0),
    "crash of another": (goodbye("WARNING", "57P02"), False, 0),
    "nothing": (b"", False, 0),
    "read, goodbye": (goodbye(), True, 0),
    "read, goodbye, and later the end": (goodbye(), True, 0.2),
    "read, crash of another": (goodbye("WARNING", "57P02"), True, 0),
    "read, nothing": (b"", True, 0),
    "read, another error": (goodbye(sqlstate="XX000"), True, 0),
}
REQUESTS = {
    "simple": query("SELECT 1"),
    "extended": parse("SELECT 1") + bind() + execute() + SYNC,
    "two": query("SELECT 1") + query("SELECT 2"),
}
EXTENDED = message("1") + message("2") + ROW[ROW.index(b"D"):] + DONE + READY


class Ending:
    """Servers of which the first `count` end in the second request that they get."""

    def __init__(self, how, count=1):
        self.says, self.reads, self.pause = ENDS[how]
        self.count = count
        self.executed = []

    def __call__(self, peer):
        peer.startup()
        peer.send(WELCOME)
        if self.count > 0:
            self.count -= 1
            peer.request()
            peer.send(ROW + DONE + READY)
            peer.sock.recv(1, socket.MSG_PEEK)
            if self.reads:
                peer.request()
            peer.send(self.says)
            time.sleep(self.pause)
            return
        while True:
            kinds_ = peer.request()
            if kinds_ is None:
                return
            self.executed.append(kinds_)
            peer.send(EXTENDED if "P" in kinds_ else ROW + DONE + READY)


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_server_that_ends_in_a_request(make_proxy, mode, how, request_name):
    """Another gets the request if it is certain that the first has not executed it."""
    script = Ending(how)
    with FakeServer(script) as server:
        proxy = make_proxy({"fake": server.check}, {"p1": "fake"}, pool_mode=mode, pool_size=1,
                           server_reset_query="")
        with proxy.wire() as conn:
            assert rows(conn.query("SELECT 0")) == [["1"]]
        with proxy.wire() as conn:
            conn.send(REQUESTS[request_name])
            said, reads, _ = ENDS[how]
            if request_name == "extended":
                certain = said != b"" and b"XX000" not in said
            else:
                certain = not reads and request_name == "simple"
            if certain:
                assert rows(conn.ready("I")) == [["1"]]
                assert rows(conn.query("SELECT 2")) == [["1"]]
                assert len(script.executed) == 2
            else:
                failed = errors(conn.rest())
                assert len(failed) == 1 and failed[0]["S"] == "FATAL"
                assert script.executed == []
        with proxy.wire() as conn:
            assert rows(conn.query("SELECT 3")) == [["1"]]


def test_goodbye_behind_the_answer(make_proxy):
    """What an idle server says is nobody's business, even if it comes with the answer."""
    def serve(peer):
        peer.startup()
        peer.send(WELCOME)
        while peer.request():
            peer.send(ROW + DONE + READY + goodbye())
            if server.count % 2:
                return
    with FakeServer(serve) as server:
        proxy = make_proxy({"fake": server.check}, {"p1": "fake"}, pool_size=1)
        with proxy.wire() as conn:
            for _ in range(6):
                assert kinds(conn.query("SELECT 1")) == "TDCZ"


def test_many_servers_that_end_in_a_request(make_proxy):
    """Not for ever: in the end the client is told."""
    script = Ending("goodbye", 100)
    script.__class__ = type("Always", (Ending,), {"__call__": lambda self, peer: (
        peer.startup(), peer.send(WELCOME), peer.sock.recv(1, socket.MSG_PEEK), peer.send(self.says))})
    with FakeServer(script) as server:
        proxy = make_proxy({"fake": server.check}, {"p1": "fake"}, pool_size=1)
        with proxy.wire() as conn:
            conn.send(query("SELECT 1"))
            failed = errors(conn.rest())
            assert len(failed) == 1 and failed[0]["C"] == "57P01"
        assert server.count < 12


def test_request_and_end_of_its_server_in_one_batch(make_proxy, pg):
    """The proxy learns of both at the same time, whichever comes first."""
    proxy = make_proxy(pool_size=1, workers=1)
    with pg.connect(autocommit=True) as admin, proxy.wire() as conn, proxy.wire() as other:
        for n in range(6):
            first, second = (conn, other) if n % 2 else (other, conn)
            pid = first.value("SELECT pg_backend_pid()")
            with stopped(proxy.process.pid):
                for late in (False, True):
                    if late == (n % 3 == 0):
                        second.send(query("SELECT 'unharmed'") if n < 4 else
                                    parse("SELECT 'unharmed'", "s%d" % n) + bind([], "s%d" % n) +
                                    execute() + SYNC)
                    else:
                        admin.execute("SELECT pg_terminate_backend(%s, 60000)" % pid)
            assert rows(second.ready("I")) == [["unharmed"]]


def test_statements_of_a_request_that_is_sent_again(make_proxy):
    """What the client prepared, closed and used in it is as if the first server had never been."""
    script = Ending("goodbye")
    got = []

    def serve(peer):
        if script.count > 0:
            script(peer)
            return
        peer.startup()
        peer.send(WELCOME)
        while True:
            msg = peer.recv()
            if msg is None:
                return
            got.append(msg)
            if msg[0] == "S":
                peer.send(message("1") + message("2") + DONE + message("1") + READY)
    with FakeServer(serve) as server:
        proxy = make_proxy({"fake": server.check}, {"p1": "fake"}, pool_size=1)
        with proxy.wire() as conn:
            conn.query("SELECT 0")
            conn.send(parse("SELECT 1", "s"), bind([], "s"), execute(), close("S", "s"),
                      parse("SELECT 2", "s"), SYNC)
            assert kinds(conn.ready("I")) == "12C31Z"
            assert "".join(kind for kind, _ in got) == "PBEPS"
            conn.send(bind([], "s"), SYNC)
            wait_for(lambda: len(got) == 7, what="the Bind")
            assert got[5][1].split(b"\0")[1] == got[3][1].split(b"\0")[0]


# --- cancel requests that take their time ---------------------------------------------------------

class SlowCancel:
    """A server that keeps connections of cancel requests open until it is told."""

    def __init__(self):
        self.cancels = []  # open connections of cancel requests
        self.most = 0
        self.count = 0
        self.requests = []
        self.answer = threading.Event()
        self.go = threading.Event()

    def __call__(self, peer):
        length = int.from_bytes(peer.file.read(4), "big")
        if length == 16:
            assert int.from_bytes(peer.file.read(4), "big") == CANCEL_REQUEST
            self.count += 1
            self.cancels.append(peer)
            self.most = max(self.most, len(self.cancels))
            self.go.wait(20)
            self.cancels.remove(peer)
            return
        peer.file.read(length - 4)
        peer.send(WELCOME)
        while peer.request():
            self.requests.append(1)
            self.answer.wait(20)
            peer.send(ROW + DONE + message("Z", b"T"))


def test_next_statement_waits_for_the_end_of_a_cancel_request(make_proxy):
    """Within a transaction too: the cancel request must not hit what comes after."""
    script = SlowCancel()
    with FakeServer(script) as server:
        proxy = make_proxy({"fake": server.check}, {"p1": "fake"}, pool_size=1)
        with proxy.wire() as conn:
            conn.send(query("SELECT 1"))
            wait_for(lambda: script.requests, what="the request")
            conn.cancel()
            wait_for(lambda: script.cancels, what="the cancel request")
            script.answer.set()
            assert kinds(conn.ready("T")) == "TDCZ"
            conn.send(query("SELECT 2"))
            assert conn.silent() and len(script.requests) == 1
            script.go.set()
            assert kinds(conn.ready("T")) == "TDCZ"
            assert len(script.requests) == 2


def test_cancel_requests_are_few(make_proxy):
    """One at a time for a server, and one more for all that came meanwhile."""
    script = SlowCancel()
    with FakeServer(script) as server:
        proxy = make_proxy({"fake": server.check}, {"p1": "fake"}, pool_size=1)
        with proxy.wire() as conn:
            conn.send(query("SELECT 1"))
            wait_for(lambda: script.requests, what="the request")
            conn.cancel()
            wait_for(lambda: script.cancels, what="the cancel request")
            for _ in range(30):
                conn.cancel()
            assert script.most == 1
            script.go.set()
            wait_for(lambda: script.count == 2 and not script.cancels, what="the second")
            script.answer.set()
            conn.ready("T")
            conn.send(query("SELECT 2"))
            assert kinds(conn.ready("T")) == "TDCZ"
            assert script.count == 2 and script.most == 1


# --- parameters -----------------------------------------------------------------------------------

def test_server_that_dies_when_parameters_are_set(make_proxy):
    """It is dialled again after a pause, not as fast as it can die, and clients learn why."""
    def serve(peer):
        peer.startup()
        peer.send(WELCOME)
        peer.request()
        peer.send(goodbye(sqlstate="XX000"))
    with FakeServer(serve) as server:
        proxy = make_proxy({"fake": server.check}, {"p1": "fake"}, pool_size=1, connect_timeout="1s",
                           server_login_retry="300ms")
        with proxy.wire(application_name="mine") as conn:
            conn.send(query("SELECT 1"))
            messages = conn.ready("I")
            assert kinds(messages) == "EZ" and "goodbye" in errors(messages)[0]["M"]
            assert server.count < 10


# --- Ctrl-C in the console ------------------------------------------------------------------------

def cancelled(console):
    with pytest.raises(ConsoleError) as error:
        console.result()
    assert error.value.sqlstate == "57014"
    return error.value.fields


def test_cancel_of_a_hold_that_waits(make_proxy):
    """It is ended, as if its drain had failed, and the console goes on."""
    proxy = make_proxy()
    with proxy.wire("p2") as busy, proxy.wire("p2") as held, proxy.console() as console:
        busy.query("BEGIN")
        console.send("HOLD p2 DRAIN 1h LEASE 1h")
        wait_for(lambda: proxy.held()["state"] == "draining", what="draining")
        held.send(query("SELECT 7"))
        assert held.silent(0.1)
        pgwire.cancel(proxy.host, proxy.port, console.conn.key[0],
                      bytes(b ^ 1 for b in console.conn.key[1]))
        assert held.silent(0.1)
        console.conn.cancel()
        cancelled(console)
        assert rows(held.ready("I")) == [["7"]]
        assert proxy.held()["state"] == "open"
        console.conn.cancel()  # nothing waits
        assert console("SHOW VERSION")


def test_cancel_of_a_hold_that_somebody_else_has_begun(make_proxy):
    proxy = make_proxy()
    with proxy.wire("p2") as busy, proxy.console() as console, proxy.console() as other:
        busy.query("BEGIN")
        other("HOLD p2 DRAIN 1h LEASE 1h NOWAIT")
        console.send("HOLD p2")
        assert console.conn.silent(0.2)
        console.conn.cancel()
        assert "somebody else" in cancelled(console)["D"]
        assert proxy.held()["state"] == "draining"
        busy.query("ROLLBACK")
        wait_for(lambda: proxy.held()["state"] == "held", what="drained")
        proxy.command("RELEASE p2")


@pytest.mark.parametrize("command", ["PREPARE SWAP p2 TO deaf", "SWAP p2 TO deaf"])
def test_cancel_of_a_swap_that_waits(make_proxy, pg, command):
    """The server does not answer the check."""
    end = threading.Event()
    with FakeServer(lambda peer: peer.sock.recv(1 << 16) and end.wait(20)) as deaf:
        proxy = make_proxy({"pg": pg, "deaf": {**deaf.check, "check_user": "postgres"}},
                           {"p2": "pg"})
        with proxy.wire("p2") as conn, proxy.console() as console:
            conn.value("SELECT 1")
            proxy.hold("p2", "LEASE 1h")
            console.send(command)
            assert console.conn.silent(0.3)
            console.conn.cancel()
            cancelled(console)
            held = proxy.held()
            assert (held["state"], held["server"], held["target"]) == ("held", "pg", None)
            proxy.command("RELEASE p2")
            assert conn.value("SELECT 2") == "2"
            end.set()
