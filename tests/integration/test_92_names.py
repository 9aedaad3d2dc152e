# SPDX-License-Identifier: PostgreSQL
"""Host names of servers whose addresses change while connections are open; dnsmasq tells them."""
import contextlib
import os
import signal
import time

import pytest

from proxy import program
from pgwire import wait_for
from servers import SLOW, free_port, start, subfolder

DNSMASQ = os.environ.get("PGSHUNT_DNSMASQ", "/usr/sbin/dnsmasq")
NAME = "db.pgshunt.test"
WHERE = "SELECT host(inet_server_addr())"


class Dns:
    """A name server with one name, and the resolver configuration that leads to it."""

    def __init__(self, folder):
        self.folder = subfolder(folder)
        self.hosts = os.path.join(self.folder, "hosts")
        self.conf = os.path.join(self.folder, "resolv.conf")
        self.port = free_port()
        self.process = None
        with open(self.conf, "w") as out:
            out.write("nameserver 127.0.0.1:%d\noptions timeout:1 attempts:2\n" % self.port)

    def start(self):
        self.process = start([DNSMASQ, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
                              "--port=%d" % self.port, "--listen-address=127.0.0.1", "--bind-interfaces",
                              "--addn-hosts=" + self.hosts, "--pid-file=", "--user=root", "--local=/test/"],
                             os.path.join(self.folder, "log"))

    def tell(self, *addresses):
        with open(self.hosts + ".new", "w") as out:
            for address in addresses:
                out.write("%s %s\n" % (address, NAME))
        os.chmod(self.hosts + ".new", 0o644)
        os.rename(self.hosts + ".new", self.hosts)
        if self.process:
            self.process.send_signal(signal.SIGHUP)
        else:
            self.start()

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def dns(folder):
    made = Dns(folder)
    yield made
    made.stop()


@pytest.fixture
def server(make_cluster):
    """It answers at several addresses, as several servers would."""
    cluster = make_cluster("named", settings={"listen_addresses": "127.0.0.1,127.0.0.2,127.0.0.3"})
    cluster.sql("CREATE DATABASE p1")
    return {"host": NAME, "port": cluster.port, "check_user": "postgres"}


@pytest.fixture
def make_named(make_proxy, dns, server):
    """Makes proxies whose database is at that server."""
    def make(**settings):
        return make_proxy({"named": server}, {"p1": "named"}, **{
            "resolv_conf": dns.conf, "dns_check_interval": "200ms", "workers": 1, **settings})
    return make


def test_connections_follow_the_name(make_named, dns):
    """Idle ones at once, the others after their transactions; a session takes what it has along."""
    dns.tell("127.0.0.1")
    pools = [make_named(name=mode, pool_mode=mode) for mode in ("transaction", "session")]
    transaction, session = (proxy.wire("p1") for proxy in pools)
    busy = pools[0].wire("p1")
    session.query("SET work_mem = '7MB'")
    busy.query("BEGIN")
    for conn in (transaction, busy, session):
        assert conn.value(WHERE) == "127.0.0.1"
    dns.tell("127.0.0.2")
    wait_for(lambda: transaction.value(WHERE) == "127.0.0.2", 20 * SLOW, "the other address")
    wait_for(lambda: session.value(WHERE) == "127.0.0.2", 20 * SLOW, "the other address of the session")
    assert session.value("SHOW work_mem") == "7MB"
    assert busy.value(WHERE) == "127.0.0.1"
    busy.query("COMMIT")
    assert busy.value(WHERE) == "127.0.0.2"
    assert 'host name "%s" no longer has the address 127.0.0.1' % NAME in pools[0].log()


@pytest.mark.parametrize("interval,workers", [("60s", 1), ("60s", 3), ("0", 1)])
def test_names_on_the_console(make_named, dns, interval, workers):
    dns.tell("127.0.0.1", "127.0.0.2")
    proxy = make_named(dns_check_interval=interval, workers=workers, pool_size=10)
    with proxy.console("pgbouncer") as console, contextlib.ExitStack() as stack:
        assert console("SHOW DNS_HOSTS") == []
        for _ in range(6):
            stack.enter_context(proxy.wire("p1")).query("BEGIN")
        row, = console("SHOW DNS_HOSTS")
        assert row["hostname"] == NAME and set(row["addrs"].split(",")) == {"127.0.0.1", "127.0.0.2"}
        assert 0 < int(row["ttl"]) < 60 if interval != "0" else row["ttl"] == "0"
        lists = {row["list"]: int(row["items"]) for row in console("SHOW LISTS")}
        assert lists["dns_names"] == 1 and lists["used_clients"] == 7
    with proxy.wire("p1") as conn, proxy.console() as console:
        dns.tell("127.0.0.3")
        wait_for(lambda: console("RECONNECT p1") or conn.value(WHERE) == "127.0.0.3", 20 * SLOW, "the other address")
        wait_for(lambda: "127.0.0.3" in console("SHOW DNS_HOSTS")[0]["addrs"], 20 * SLOW, "the other address")


def test_without_an_interval_when_one_is_opened(make_named, dns):
    dns.tell("127.0.0.1")
    proxy = make_named(dns_check_interval="0")
    with proxy.wire("p1") as first, proxy.wire("p1") as second:
        assert first.value(WHERE) == "127.0.0.1"
        dns.tell("127.0.0.2")
        time.sleep(1)
        assert first.value(WHERE) == "127.0.0.1"
        first.query("BEGIN")
        assert second.value(WHERE) == "127.0.0.2"
        first.query("COMMIT")
        wait_for(lambda: first.value(WHERE) == "127.0.0.2", 20 * SLOW, "the end of the old one")


def test_addresses_that_come_and_go(make_named, dns):
    """After the first return nothing is concluded any more."""
    dns.tell("127.0.0.1")
    proxy = make_named()
    with proxy.wire("p1") as conn:
        assert conn.value(WHERE) == "127.0.0.1"
        dns.tell("127.0.0.2")
        wait_for(lambda: conn.value(WHERE) == "127.0.0.2", 20 * SLOW, "the other address")
        dns.tell("127.0.0.1")
        wait_for(lambda: "addresses come and go" in proxy.log(), 20 * SLOW, "that it is noticed")
        for address in ("127.0.0.3", "127.0.0.1"):
            dns.tell(address)
            time.sleep(1)
            assert conn.value(WHERE) == "127.0.0.2"


def test_a_name_that_cannot_be_looked_up(make_named, dns):
    """Connections stay; and an end in the middle of it leaves nothing behind."""
    dns.tell("127.0.0.1", "127.0.0.2")
    proxy = make_named()
    with proxy.wire("p1") as conn:
        before = conn.value("SELECT pg_backend_pid()")
        dns.stop()
        time.sleep(2)
        assert conn.value("SELECT pg_backend_pid()") == before
        with open(dns.hosts, "w"):
            pass
        dns.start()  # there is no such name
        time.sleep(1)
        assert conn.value("SELECT pg_backend_pid()") == before
        dns.tell("127.0.0.2", "127.0.0.1")
        time.sleep(1)
        assert conn.value("SELECT pg_backend_pid()") == before
        dns.stop()
        time.sleep(0.5)
        proxy.stop()


def test_other_name_servers(make_named, dns, folder):
    """The file is read again when it changes."""
    dns.tell("127.0.0.1")
    other = Dns(folder)
    other.tell("127.0.0.2")
    try:
        proxy = make_named()
        with proxy.wire("p1") as conn:
            assert conn.value(WHERE) == "127.0.0.1"
            os.rename(other.conf, dns.conf)
            wait_for(lambda: conn.value(WHERE) == "127.0.0.2", 20 * SLOW, "the other name server")
    finally:
        other.stop()


@pytest.mark.root
def test_the_hosts_file(make_named, dns):
    """It is read again as well, also when both files get the same time."""
    hosts = os.path.join(dns.folder, "etc_hosts")

    def tell(address, when):
        with open(hosts, "w") as out:
            out.write("%s %s\n" % (address, NAME))
        for path in (hosts, dns.conf):
            os.utime(path, (when, when))
    tell("127.0.0.1", 1000000000)
    program_with_hosts = os.path.join(dns.folder, "pgshuntd")
    with open(program_with_hosts, "w") as out:
        out.write("#!/bin/sh\nexec unshare --mount --propagation private sh -c"
                  " 'mount --bind \"$0\" /etc/hosts && exec \"$@\"' %s %s \"$@\"\n" % (hosts, program("pgshuntd")))
    os.chmod(program_with_hosts, 0o755)
    proxy = make_named(start=False)
    proxy.binary = program_with_hosts
    proxy.start()
    with proxy.wire("p1") as conn:
        assert conn.value(WHERE) == "127.0.0.1"
        tell("127.0.0.2", 1000000001)
        wait_for(lambda: conn.value(WHERE) == "127.0.0.2", 20 * SLOW, "the other address")


def test_a_held_database_waits(make_named, dns):
    """Nothing is closed in a hold; the connections are left after it."""
    dns.tell("127.0.0.1")
    proxy = make_named()
    with proxy.wire("p1") as conn:
        assert conn.value(WHERE) == "127.0.0.1"
        proxy.command("HOLD p1")
        dns.tell("127.0.0.2")
        wait_for(lambda: "no longer has the address" in proxy.log(), 20 * SLOW, "the answer")
        assert len(proxy.command("SHOW SERVERS")) == 1
        proxy.command("RELEASE p1")
        wait_for(lambda: conn.value(WHERE) == "127.0.0.2", 20 * SLOW, "the other address")
