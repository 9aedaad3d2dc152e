# SPDX-License-Identifier: PostgreSQL
"""Holds that end with their leases at several proxies, together or apart, before a fence or behind it:
no session goes on believing in a lock that another one may have had meanwhile, and nobody hangs."""
import threading
import time

import pytest

from pgwire import query, rows, wait_for
from servers import SLOW, stopped
from test_27_ends import BLOCKED, check, ended, sessions
from test_27_sealed import await_refusal

TAKE = "SELECT CASE WHEN pg_try_advisory_lock(42) THEN pg_advisory_unlock(42) END"


class Rival:
    """A client that takes the lock whenever it can, and gives it back at once."""

    def __init__(self, proxy):
        self.conn = proxy.wire("p2", application_name="rival")
        self.conn.query("SELECT 1")
        self.conn.sock.settimeout(60 * SLOW)
        self.stopping = False
        self.answers = []
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self):
        while not self.stopping:
            self.conn.send(query(TAKE))
            self.answers += [row[0] for row in rows(self.conn.ready("I"))]
            time.sleep(0.002)

    def got_it(self):
        return "t" in self.answers

    def end(self):
        self.stopping = True
        self.thread.join()
        self.conn.close()


@pytest.fixture
def two(make_proxy, pg, other, door):
    """One with sessions, and another one; both hold p2, sealed, before the fence."""
    proxies = [make_proxy({"pg": pg, "other": other}, {"p2": "pg"}, name=name, pool_size=12,
                          pool_mode=mode)
               for name, mode in (("proxy", "session"), ("rivals", "transaction"))]
    clients = sessions(proxies[0])
    for name in ("locked", "listening"):
        clients[name].query("PREPARE p AS SELECT count(*) FROM items")
    rival = Rival(proxies[1])
    for proxy in proxies:
        proxy.command("PREPARE SWAP p2 TO other SEAL")
    epochs = [proxy.hold("p2", "LEASE 60s")["epoch"] for proxy in proxies]
    door("false")
    for proxy, epoch in zip(proxies, epochs):
        proxy.command("SEAL p2 EPOCH " + epoch)
    rival.answers.clear()
    yield proxies, epochs, clients, rival
    door("true")
    rival.end()


def lapse(proxy, epoch):
    proxy.command("RENEW p2 EPOCH %s LEASE 1s" % epoch)
    await_lapse(proxy)


def await_lapse(proxy):
    wait_for(lambda: "ended with its lease" in proxy.log(), 20 * SLOW, "the end of the lease")


def all_ended(clients, rival):
    """Who had what others may have had; the others stay."""
    wait_for(rival.got_it, 20 * SLOW, "the lock")
    for name in ("locked", "listening"):
        ended(clients.pop(name))
    assert clients["temporary"].value("SELECT seven FROM mine") == "7"
    assert clients["clean"].value("SELECT 1") == "1"


def test_behind_the_fence(two, pg, door):
    """It stands for long after both; when it is lifted, who comes first is who had locks."""
    proxies, epochs, clients, rival = two
    with pg.connect("postgres", autocommit=True) as look:
        for proxy, epoch in zip(proxies, epochs):
            lapse(proxy, epoch)
        time.sleep(6)
        door("true")
        with pg.connect("p2") as slow:
            slow.execute("LOCK TABLE items")
            wait_for(lambda: look.execute(BLOCKED).fetchall(), 20 * SLOW, "one to come back")
            time.sleep(1)
            slow.rollback()
        wait_for(lambda: rival.answers, 30 * SLOW, "the rival")
        assert not rival.got_it()
    rival.end()
    check(clients, "pg")


@pytest.mark.parametrize("how", ["late", "stopped", "ended"])
def test_one_ends_when_others_go_on(two, pg, door, how):
    """Its lease was renewed later, or the proxy stood still, or its old server processes have been
    ended: the lock was to be had."""
    proxies, epochs, clients, rival = two
    lapse(proxies[1], epochs[1])
    if how == "ended":
        pg.sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'p2' "
               "AND pid <> pg_backend_pid()")
    if how == "stopped":
        proxies[0].command("RENEW p2 EPOCH %s LEASE 1s" % epochs[0])
        with stopped(proxies[0].process.pid):
            door("true")
            wait_for(lambda: rival.answers, 30 * SLOW, "the rival")
    else:
        door("true")
        wait_for(lambda: rival.answers, 30 * SLOW, "the rival")
    with pg.connect("p2") as slow:
        slow.execute("LOCK TABLE items")
        if how != "stopped":
            lapse(proxies[0], epochs[0])
        else:
            await_lapse(proxies[0])
        wait_for(rival.got_it, 20 * SLOW, "the lock")
        slow.rollback()
    all_ended(clients, rival)


def test_stopped_behind_the_fence(two, pg, door):
    """Nobody has gone on meanwhile."""
    proxies, epochs, clients, rival = two
    proxies[0].command("RENEW p2 EPOCH %s LEASE 1s" % epochs[0])
    with stopped(proxies[0].process.pid):
        lapse(proxies[1], epochs[1])
        time.sleep(6)
    await_lapse(proxies[0])
    time.sleep(1.5)
    door("true")
    wait_for(lambda: rival.answers, 30 * SLOW, "the rival")
    assert not rival.got_it()
    rival.end()
    check(clients, "pg")


def test_what_a_mover_does_that_comes_back(two, pg, door):
    """RELEASE … SESSIONS is answered when the sessions have what they had, though the hold has ended, and
    with RELEASE those who wait for them at another proxy go on at once."""
    proxies, epochs, clients, rival = two
    for proxy, epoch in zip(proxies, epochs):
        lapse(proxy, epoch)
    with pg.connect("postgres", autocommit=True) as look, proxies[0].console() as console:
        await_refusal(proxies[0])
        door("true")
        with pg.connect("p2") as slow:
            slow.execute("LOCK TABLE items")
            console.send("RELEASE p2 EPOCH %s SESSIONS" % epochs[0])
            wait_for(lambda: look.execute(BLOCKED).fetchall(), 20 * SLOW, "one to come back")
            assert console.conn.silent(0.5)
            slow.rollback()
        console.result()
    for proxy, epoch in zip(proxies, epochs):
        proxy.command("RELEASE p2 EPOCH " + epoch)
    wait_for(lambda: rival.answers, 30 * SLOW, "the rival")
    assert not rival.got_it()
    rival.end()
    check(clients, "pg")
