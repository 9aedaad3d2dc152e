# SPDX-License-Identifier: PostgreSQL
"""Several processes behind one address: a cancel request that comes to the wrong one is forwarded."""
import os
import socket
import struct

import pytest

import pgwire
from pgwire import PROTOCOL_3_0, PROTOCOL_3_2, cancel, errors, query, wait_for
from servers import SLOW

SLEEPS = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' " \
         "AND state = 'active'"


@pytest.fixture
def make_peers(make_proxy):
    def make(*ids, **settings):
        """Processes on one port, each with a Unix socket of its own, which is its host."""
        made = [make_proxy(name="peer%d" % own, start=False, so_reuseport=True, peer_id=own,
                           **settings) for own in ids]
        for proxy in made:
            proxy.settings["unix_socket_directory"] = proxy.folder
            proxy.settings["port"] = proxy.port = made[0].port
            proxy.extra["peers"] = {str(own): {"host": other.folder, "port": proxy.port}
                                    for own, other in zip(ids, made)}
            proxy.write()
            proxy.start()
        return made
    return make


def login(proxy, version=PROTOCOL_3_0, user="app", dbname="p1"):
    conn = pgwire.Conn(proxy.folder, proxy.port)
    conn.login(user, dbname, version=version)
    return conn


def sleeping(conn, pg):
    conn.send(query("SELECT pg_sleep(60)"))
    wait_for(lambda: pg.value(SLEEPS) == 1, what="the query")


@pytest.mark.parametrize("version", [PROTOCOL_3_0, PROTOCOL_3_2])
def test_forwarded(make_peers, pg, version):
    first, second = make_peers(1, 16383)
    for mine, other in ((first, second), (second, first)):
        with login(mine, version) as conn:
            pid, key = conn.key
            assert struct.unpack("!I", pid)[0] >> 18 == (1 if mine is first else 16383)
            assert len(key) == (4 if version == PROTOCOL_3_0 else 32)
            sleeping(conn, pg)
            cancel(other.folder, other.port, pid, key[:-1] + bytes([key[-1] ^ 1]))
            assert conn.silent()
            cancel(other.folder, other.port, pid, key)
            assert errors(conn.ready("I"))[0]["C"] == "57014"
            # One that comes to the right process at once.
            sleeping(conn, pg)
            cancel(mine.folder, mine.port, pid, key)
            assert errors(conn.ready("I"))[0]["C"] == "57014"


@pytest.mark.parametrize("version", [PROTOCOL_3_0, PROTOCOL_3_2])
def test_session_pools(make_peers, pg, version):
    """The process id is the server's, and says nothing of whose client it is."""
    first, second, third = make_peers(1, 2, 3, pool_mode="session")
    for mine, other in ((first, second), (third, first)):
        with login(mine, version) as conn:
            pid, key = conn.key
            assert conn.value("SELECT pg_backend_pid()") == str(struct.unpack("!I", pid)[0])
            sleeping(conn, pg)
            cancel(other.folder, other.port, pid, key[:-1] + bytes([key[-1] ^ 1]))
            assert conn.silent()
            cancel(other.folder, other.port, pid, key)
            assert errors(conn.ready("I"))[0]["C"] == "57014"


def test_a_command_of_the_console(make_peers):
    first, second = make_peers(1, 2)
    with login(first, user="pgshunt", dbname="pgshunt") as console, login(first) as conn:
        assert conn.value("BEGIN; SELECT 1") == "1"
        console.send(query("PAUSE p1"))
        assert console.silent()
        cancel(second.folder, second.port, *console.key)
        assert errors(console.ready("I"))[0]["C"] == "57014"


class Listener:
    """A peer that says nothing."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(path)
        self.socket.listen(16)
        self.socket.settimeout(20 * SLOW)

    def request(self):
        conn = self.socket.accept()[0]
        conn.settimeout(20 * SLOW)
        return conn, conn.recv(1000)

    def nobody(self):
        self.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            self.socket.accept()


def test_how_it_goes_on(make_proxy):
    """The packet as it came and the forwards that are left; one at a time if there is one connection."""
    proxy = make_proxy(start=False, peer_id=1, workers=1)
    proxy.settings["admin_users"] = proxy.settings["admin_users"] + ["app"]
    proxy.extra["peers"] = {"1": {"host": "/nowhere"}, "9": {"host": proxy.folder, "port": 1,
                                                             "pool_size": 1}}
    proxy.write()
    proxy.start()
    peer = Listener(os.path.join(proxy.folder, ".s.PGSQL.1"))
    pid = struct.pack("!I", 9 << 18 | 77)

    def packet(key):
        return struct.pack("!II", 12 + len(key), 80877102) + pid + key

    def pool():
        return [dict(row) for row in proxy.command("SHOW PEER_POOLS") if row["peer_id"] == "9"][0]

    cancel(proxy.host, proxy.port, pid, b"abcd")
    conn, bytes_got = peer.request()
    assert bytes_got == packet(b"abcd\2")
    for key in (b"k" * 32, b"efgh\2", b"ijkl\1"):
        cancel(proxy.host, proxy.port, pid, key)
    wait_for(lambda: pool() == {"peer_id": "9", "cl_active_cancel_req": "1",
                                "cl_waiting_cancel_req": "3", "sv_active_cancel": "1",
                                "sv_login": "0"}, what="three that wait")
    for expected in (b"k" * 32 + b"\2", b"efgh\1", b"ijkl\0"):
        conn.close()
        conn, bytes_got = peer.request()
        assert bytes_got == packet(expected)
    conn.close()
    # Has been forwarded often enough; a number of forwards that nobody gives; no key of ours; nobody.
    cancel(proxy.host, proxy.port, pid, b"mnop\0")
    cancel(proxy.host, proxy.port, pid, b"mnop\3")
    cancel(proxy.host, proxy.port, pid, b"k" * 40)
    # Of a process that nobody knows, or of a server: whoever has told it to a client.
    cancel(proxy.host, proxy.port, struct.pack("!I", 8 << 18 | 77), b"mnop\0")
    cancel(proxy.host, proxy.port, struct.pack("!I", 77), b"mnop\2")
    conn, bytes_got = peer.request()
    assert bytes_got[8:] == struct.pack("!I", 77) + b"mnop\0"
    conn.close()
    peer.nobody()
    assert proxy.command("SHOW PEERS") == [
        {"peer_id": "1", "host": "/nowhere", "port": "6432", "pool_size": "4"},
        {"peer_id": "9", "host": proxy.folder, "port": "1", "pool_size": "1"}]
    # Peers are reloadable.
    del proxy.extra["peers"]["9"]
    proxy.write()
    proxy.command("RELOAD")
    assert len(proxy.command("SHOW PEERS")) == 1
    cancel(proxy.host, proxy.port, pid, b"abcd")
    peer.nobody()
