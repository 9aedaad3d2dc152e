# SPDX-License-Identifier: PostgreSQL
"""Notifications of sessions that go from one connection to another of the same server, which both listen
for a moment: each comes once, in order, whoever sends at full speed."""
import contextlib
import threading

import pytest

from pgwire import Conn, errors, rows, wait_for
from servers import SLOW
from test_52_session_locks import swap
from test_59_session_wire import MEDDLERS, MINE, meddled  # noqa: F401 pylint: disable=unused-import

pytestmark = pytest.mark.threads

MOVES = 12


class Notifier:
    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name
        self.sent = 0
        self.end = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        with Conn(self.cluster.host, self.cluster.port) as conn:
            conn.login("app", "p2")
            while not self.end.is_set():
                assert not errors(conn.query("NOTIFY ch, '%s %d'" % (self.name, self.sent)))
                self.sent += 1

    def stop(self):
        self.end.set()
        self.thread.join()


@contextlib.contextmanager
def notifiers(cluster, count=2):
    threads = [Notifier(cluster, "n%d" % i) for i in range(count)]
    for each in threads:
        each.thread.start()
    try:
        yield threads
    finally:
        for each in threads:
            each.stop()


class Listener:
    def __init__(self, conn, channels=("ch",)):
        self.conn = conn
        self.heard = []
        for channel in channels:
            assert not errors(conn.query("LISTEN " + channel))

    def ask(self, sql):
        messages = self.conn.query(sql)
        assert not errors(messages)
        self.hear(messages)
        return rows(messages)[0][0]

    def hear(self, messages):
        self.heard += [m.body[4:].decode().split("\0")[:2] for m in messages if m.kind == "A"]

    def read(self):
        """What has come, without asking anything."""
        if not self.conn.silent(0.01):
            while self.conn.buffer:
                self.hear([self.conn.recv()])

    def pid(self):
        return self.ask("SELECT pg_backend_pid()")

    def wrong(self, threads):
        """What was not told exactly once, in order."""
        result = [each for each in self.heard if each[0] != "ch"]
        for thread in threads:
            got = [int(payload.split()[1]) for _, payload in self.heard if payload.startswith(thread.name + " ")]
            if got != list(range(thread.sent)):
                twice = sorted({n for n in got if got.count(n) > 1}) if len(got) < 20000 else "…"
                result.append((thread.name, thread.sent, len(got), "twice", twice[:10],
                               "never", sorted(set(range(thread.sent)) - set(got))[:10]))
        return result


def all_told(listeners, threads):
    ends = ["%s %d" % (thread.name, thread.sent - 1) for thread in threads]

    def there():
        for each in listeners:
            each.pid()
        return all(["ch", end] in each.heard for each in listeners for end in ends)
    with contextlib.suppress(AssertionError):  # what is missing is said by wrong()
        wait_for(there, 5 * SLOW, "the last ones")


@pytest.mark.parametrize("how", ["RECONNECT", "swap"])
def test_each_once(make_proxy, pg, how):
    proxy = make_proxy({"pg": pg, "again": pg}, {"p2": "pg"}, pool_mode="session", pool_size=20)
    with contextlib.ExitStack() as stack:
        listeners = [Listener(stack.enter_context(proxy.wire("p2")), ["ch"] + ["more%d" % i for i in range(n)])
                     for n in (0, 0, 3)]
        with notifiers(pg) as threads:
            for turn in range(MOVES):
                pids = [each.pid() for each in listeners]
                if how == "swap":
                    swap(proxy, ("again", "pg")[turn % 2], prepare=turn % 3 > 0)
                else:
                    proxy.command("RECONNECT p2")

                def moved():
                    return all(each.pid() != pid for each, pid in zip(listeners, pids))
                wait_for(moved, 20 * SLOW, "the move")
        all_told(listeners, threads)
        assert [each.wrong(threads) for each in listeners] == [[], [], []]
        assert all(thread.sent > 0 for thread in threads)
        for each, count in zip(listeners, (1, 1, 4)):
            assert each.ask("SELECT count(*) FROM pg_listening_channels()") == str(count)


def test_each_once_where_it_has_to_stay(make_proxy, pg, meddled):  # noqa: F811
    """It was about to go, and listened to one channel more for that."""
    proxy = make_proxy({"pg": pg}, {"p2": "pg"}, pool_mode="session")
    with proxy.wire("p2") as conn:
        listener = Listener(conn)
        listener.ask(MINE + "; SELECT 1")
        pid = listener.pid()
        meddled(pg, next(iter(MEDDLERS)))
        with notifiers(pg) as threads:
            proxy.command("RECONNECT p2")

            def why():
                listener.read()
                return "came out differently" in (proxy.command("SHOW SESSIONS p2")[0]["why"] or "")
            wait_for(why, 20 * SLOW, "what pins it")
        all_told([listener], threads)
        assert listener.wrong(threads) == []
        assert listener.pid() == pid
        wait_for(lambda: listener.ask("SELECT string_agg(c, ',') FROM pg_listening_channels() c") == "ch",
                 10 * SLOW, "its own channels only")
