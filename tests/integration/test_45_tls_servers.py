# SPDX-License-Identifier: PostgreSQL
"""TLS to servers: modes, certificates, channel binding, direct TLS, cancel, hostile servers; and the
libpq connections of checks and of the mover."""
import asyncio
import os
import shutil
import ssl
import struct
import subprocess
import threading

import asyncpg
import psycopg
import pytest

import pgwire
from certs import Authority, give_to_server
from fakeserver import DONE, READY, ROW, WELCOME, FakeServer
from proxy import ADMIN, ADMIN_PASSWORD, USERS, program
from pgwire import LoginError, wait_for
from servers import SCHEMA, Cluster, subfolder

HBA = """
local all all trust
hostssl all u_scram 127.0.0.1/32 scram-sha-256
hostssl all u_cert 127.0.0.1/32 cert
hostnossl all app2 127.0.0.1/32 trust
hostssl all app,postgres,nobody_hba 127.0.0.1/32 trust
hostnossl all counted 127.0.0.1/32 trust
"""


@pytest.fixture(scope="module")
def ca(folder):
    authority = Authority(folder, "servers-ca")
    authority.server = authority.issue("server", "/CN=localhost", "DNS:localhost,IP:127.0.0.1")
    authority.named = authority.issue("named", "/CN=elsewhere", "DNS:elsewhere")
    authority.client = authority.issue("client", "/CN=u_cert")
    authority.stranger = Authority(folder, "no-ca").cert
    return authority


@pytest.fixture(scope="module")
def tls_pg(folder, ca, templates):
    """A server that has TLS, and where most users must have it."""
    cluster = Cluster(subfolder(folder), "tlspg").create(templates.get("other"))
    cluster.sql("CREATE DATABASE p1")
    cluster.sql("CREATE ROLE u_cert LOGIN")
    cluster.sql(SCHEMA, "p1")
    with open(cluster.data + "/pg_hba.conf", "w") as out:
        out.write(HBA)
    give_to_server(cluster, *ca.server, ca.cert)
    yield cluster
    cluster.stop()


def at(cluster, **settings):
    return {"pg": {"host": "localhost", "port": cluster.port, "check_user": "postgres",
                   **settings}}


def used(conn):
    """What the server says of the connection: version of TLS, or None."""
    return conn.execute("SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND "
                        "ssl").fetchone()


def shown(proxy):
    return [row["tls"] for row in proxy.command("SHOW SERVERS")]


@pytest.mark.parametrize("settings, user, expected", [
    ({"server_tls_sslmode": "disable"}, "app", "no encryption"),
    ({"server_tls_sslmode": "disable"}, "app2", None),
    ({"server_tls_sslmode": "allow"}, "app2", None),
    ({"server_tls_sslmode": "allow"}, "app", "TLSv1.3"),
    ({}, "app", "TLSv1.3"),                                # prefer
    ({"server_tls_sslmode": "prefer"}, "app2", None),      # refused with TLS, then without
    ({"server_tls_sslmode": "require"}, "app", "TLSv1.3"),
    ({"server_tls_sslmode": "require"}, "app2", "SSL encryption"),
    ({"server_tls_sslmode": "require", "server_tls_protocols": "tlsv1.2"}, "app", "TLSv1.2"),
])
def test_modes(make_proxy, tls_pg, settings, user, expected):
    proxy = make_proxy(at(tls_pg), {"p1": "pg"}, **settings)
    if expected and not expected.startswith("TLS"):
        with pytest.raises(psycopg.OperationalError, match=expected):
            proxy.connect(user=user)
        return
    with proxy.connect(user=user) as conn:
        assert (used(conn) or [None])[0] == expected
        assert [tls.split("/")[0] for tls in shown(proxy)] == [expected or ""]


def test_set(make_proxy, tls_pg, ca):
    """SET is in force at once, for the connections that there are as well."""
    proxy = make_proxy(at(tls_pg, host="127.0.0.1"), {"p1": "pg"}, server_login_retry="60s")

    def refused(user):
        try:
            with proxy.connect(user=user) as other:
                other.execute("SELECT 1")
        except psycopg.OperationalError as error:
            return str(error)
        return ""
    with proxy.connect(autocommit=True) as conn:
        assert used(conn)
        proxy.command("SET server_tls_sslmode = disable")
        wait_for(lambda: "no encryption" in refused("app"))
        with proxy.connect(user="app2") as other:
            assert not used(other)
        proxy.command("SET server_tls_sslmode = require")
        wait_for(lambda: "SSL encryption" in refused("app2"))
        assert used(conn)
        # Nothing is in force before the settings fit together.
        with proxy.wire("pgshunt", "pgshunt_admin", "admin secret") as console:
            said = console.query("SET server_tls_sslmode = 'verify-ca'")
            assert [msg.fields()["M"] for msg in said if msg.kind == "N"] == [
                "TLS stays as it was: servers.pg.sslmode: verify-ca needs the authorities: give "
                "server_tls_ca_file or sslrootcert"] and not pgwire.errors(said)
        assert used(conn)
        proxy.command("SET server_tls_ca_file = '%s'" % ca.stranger)
        wait_for(lambda: "certificate verify failed" in refused("app"))
        proxy.command("SET server_tls_ca_file = '%s'" % ca.cert)
        assert used(conn)


@pytest.mark.parametrize("mode, host, root, text", [
    ("verify-full", "localhost", "cert", None),
    ("verify-full", "127.0.0.1", "cert", None),
    ("verify-ca", "127.0.0.1", "cert", None),
    ("verify-ca", "127.0.0.1", "stranger", "certificate verify failed"),
    ("require", "127.0.0.1", "stranger", None),
])
def test_verification(make_proxy, tls_pg, ca, mode, host, root, text):
    """In the servers section, before what the proxy section says."""
    proxy = make_proxy(at(tls_pg, host=host, sslmode=mode, sslrootcert=getattr(ca, root)),
                       {"p1": "pg"}, server_tls_sslmode="disable")
    if text:
        with pytest.raises(psycopg.OperationalError, match=text):
            proxy.connect()
    else:
        with proxy.connect() as conn:
            assert used(conn)[0] == "TLSv1.3"


def fake_context(ca, pair):
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(*pair)
    return ctx


def scripted(ca, pair, direct=False, alpn=None):
    ctx = fake_context(ca, pair)
    if alpn:
        ctx.set_alpn_protocols([alpn])

    def script(peer):
        peer.encrypt(ctx, direct)
        peer.startup()
        peer.send(WELCOME)
        peer.serve()
    return script


def fake(make_proxy, script, **settings):
    server = FakeServer(script)
    proxy = make_proxy({"pg": {"host": "localhost", "port": server.port, **settings}},
                       {"p1": "pg"}, connect_timeout="1s")
    return server, proxy


def test_wrong_host_name(make_proxy, ca):
    server, proxy = fake(make_proxy, scripted(ca, ca.named), sslmode="verify-full",
                         sslrootcert=ca.cert)
    with server, pytest.raises(LoginError) as error:
        proxy.wire()
    assert 'server certificate for "elsewhere" does not match host name "localhost"' in \
        error.value.fields["M"] + error.value.fields.get("D", "")


def test_revoked_server(make_proxy, tls_pg, ca):
    crl = ca.crl(ca.named[0])
    server, proxy = fake(make_proxy, scripted(ca, ca.named), sslmode="verify-ca",
                         sslrootcert=ca.cert, sslcrl=crl)
    with server, pytest.raises(LoginError) as error:
        proxy.wire()
    assert "revoked" in str(error.value.fields)
    proxy = make_proxy(at(tls_pg, sslmode="verify-ca", sslrootcert=ca.cert, sslcrl=crl),
                       {"p1": "pg"})
    with proxy.connect() as conn:
        conn.execute("SELECT 1")


def test_client_certificate(make_proxy, tls_pg, ca):
    proxy = make_proxy(at(tls_pg, sslmode="verify-full", sslrootcert=ca.cert,
                          sslcert=ca.client[0], sslkey=ca.client[1]), {"p1": "pg"},
                       secrets={**USERS, "u_cert": ""})
    with proxy.connect(user="u_cert") as conn:
        assert conn.execute("SELECT current_user").fetchone()[0] == "u_cert"
    proxy = make_proxy(at(tls_pg, sslmode="require"), {"p1": "pg"},
                       secrets={**USERS, "u_cert": ""})
    with pytest.raises(psycopg.OperationalError, match="certificate"):
        proxy.connect(user="u_cert")


# --- channel binding --------------------------------------------------------------------------------

@pytest.mark.parametrize("policy", ["disable", "prefer", "require"])
def test_channel_binding(make_proxy, tls_pg, policy):
    proxy = make_proxy(at(tls_pg, sslmode="require", channel_binding=policy), {"p1": "pg"},
                       auth_type="trust")
    with proxy.connect(user="u_scram") as conn:
        assert conn.execute("SELECT current_user").fetchone()[0] == "u_scram"
    if policy == "require":  # a trusted login binds nothing
        with pytest.raises(psycopg.OperationalError, match="channel binding is required"):
            proxy.connect(user="app")


def test_plus_without_tls_is_an_attack(make_proxy):
    def script(peer):
        peer.startup()
        peer.send(pgwire.message("R", struct.pack("!i", 10) + b"SCRAM-SHA-256-PLUS\0"
                                 b"SCRAM-SHA-256\0\0"))
        assert peer.recv() in (None, ("X", b""))  # no password
    server, proxy = fake(make_proxy, script)
    with server, pytest.raises(LoginError) as error:
        proxy.wire(user="u_scram", password=None)
    assert "without TLS" in str(error.value.fields)


@pytest.mark.parametrize("offered, policy, mechanism, gs2", [
    (b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0", "prefer", b"SCRAM-SHA-256-PLUS",
     b"p=tls-server-end-point,,"),
    (b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0", "disable", b"SCRAM-SHA-256", b"n,,"),
    (b"SCRAM-SHA-256\0\0", "prefer", b"SCRAM-SHA-256", b"y,,"),
    (b"SCRAM-SHA-256\0\0", "require", None, None),
])
def test_what_the_proxy_says_of_binding(make_proxy, ca, offered, policy, mechanism, gs2):
    seen = []

    def script(peer):
        peer.encrypt(fake_context(ca, ca.server))
        peer.startup()
        peer.send(pgwire.message("R", struct.pack("!i", 10) + offered))
        msg = peer.recv()
        seen.append(msg and msg[1])
    server, proxy = fake(make_proxy, script, sslmode="require", channel_binding=policy)
    with server, pytest.raises(LoginError):
        proxy.wire(user="u_scram")
    wait_for(lambda: seen)
    if mechanism is None:
        assert not seen[0]  # goodbye, without an answer
    else:
        assert seen[0].startswith(mechanism + b"\0") and gs2 + b"n=,r=" in seen[0], seen


# --- direct TLS, bytes before TLS, servers that do wrong --------------------------------------------

def test_direct(make_proxy, ca):
    server, proxy = fake(make_proxy, scripted(ca, ca.server, True, "postgresql"),
                         sslmode="require", sslnegotiation="direct")
    with server, proxy.wire() as conn:
        assert conn.value("SELECT 1") == "1"


def test_direct_needs_alpn(make_proxy, ca):
    server, proxy = fake(make_proxy, scripted(ca, ca.server, True),
                         sslmode="require", sslnegotiation="direct")
    with server, pytest.raises(LoginError) as error:
        proxy.wire()
    assert "without ALPN" in str(error.value.fields)


@pytest.mark.parametrize("answer, mode, text", [
    (b"S" + WELCOME, "require", "received unencrypted data after SSL response"),
    (b"S\x16", "require", "received unencrypted data after SSL response"),
    (b"N" + WELCOME, "require", "received unencrypted data after SSL response"),
    (b"N", "require", "does not support TLS"),
    (b"X", "require", "does not speak PostgreSQL's protocol"),
    (pgwire.message("E", b"SFATAL\0C28000\0Mevil text\0\0"), "require",
     "answered SSLRequest with an error"),
    (b"", "require", "closed the connection at SSLRequest"),
])
def test_bad_answers_to_sslrequest(make_proxy, answer, mode, text):
    def script(peer):
        assert peer.packet()[0] == pgwire.SSL_REQUEST
        peer.send(answer)
        if answer:
            peer.file.read(1)
    server, proxy = fake(make_proxy, script, sslmode=mode)
    with server, pytest.raises(LoginError) as error:
        proxy.wire()
    assert text in str(error.value.fields) and "evil" not in str(error.value.fields)


def test_prefer_goes_on_without(make_proxy, ca):
    """The handshake fails: as libpq does, the next connection is plain."""
    tries = []

    def script(peer):
        tries.append(1)
        if len(tries) == 1:
            assert peer.packet()[0] == pgwire.SSL_REQUEST
            peer.send(b"S")
            peer.file.read(10)
            return
        peer.startup()
        peer.send(WELCOME)
        peer.serve()
    server, proxy = fake(make_proxy, script)
    with server, proxy.wire() as conn:
        assert conn.value("SELECT 1") == "1"
        assert shown(proxy) == [""]


def test_server_that_ends_idle_connections(make_proxy, ca):
    """An error in TLS on an idle connection: the next request gets another server."""
    served, shown_idle = [], []
    ctx = fake_context(ca, ca.server)

    def script(peer):
        peer.encrypt(ctx)
        peer.startup()
        peer.send(WELCOME)
        served.append(1)
        if len(served) == 1:
            peer.request()
            peer.send(ROW, DONE, READY)
            wait_for(lambda: shown_idle)
            peer.send(pgwire.message("E", b"SFATAL\0VFATAL\0C57P01\0Mgone\0\0"))
            return
        peer.serve()
    server, proxy = fake(make_proxy, script, sslmode="require")
    with server, proxy.wire() as conn:
        for n in range(5):
            messages = conn.query("SELECT 1")
            assert not pgwire.errors(messages)
            shown_idle.append(n)
            wait_for(lambda: n > 0 or "57P01" in proxy.log() or not shown(proxy))
        assert len(served) == 2


# --- load, cancel, workers, swap --------------------------------------------------------------------

def test_big_both_ways(make_proxy, tls_pg):
    proxy = make_proxy(at(tls_pg, sslmode="require"), {"p1": "pg"})
    with proxy.wire() as conn:
        for size in (16384, 1 << 20, 8 << 20):
            assert conn.value("SELECT length('%s')" % ("y" * size)) == str(size)
            assert len(conn.value("SELECT repeat('z', %d)" % size)) == size


def test_cancel_goes_by_tls(make_proxy, tls_pg):
    proxy = make_proxy(at(tls_pg, sslmode="require"), {"p1": "pg"})
    with proxy.wire() as conn:
        conn.send(pgwire.query("SELECT pg_sleep(60)"))
        wait_for(lambda: tls_pg.value("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' "
                                  "AND query = 'SELECT pg_sleep(60)'"))
        conn.cancel()
        assert pgwire.errors(conn.ready())[0]["C"] == "57014"
        assert conn.value("SELECT 1") == "1"


def test_cancel_is_encrypted(make_proxy, ca):
    """Nothing of the key goes over the network in the clear."""
    requests, running = [], threading.Event()
    ctx = fake_context(ca, ca.server)

    def script(peer):
        peer.encrypt(ctx)
        code, body = peer.packet()
        if code == pgwire.CANCEL_REQUEST:
            requests.append(body)
            return
        peer.send(WELCOME)
        peer.request()
        running.set()
        wait_for(lambda: requests)
        peer.send(pgwire.message("E", b"SERROR\0VERROR\0C57014\0Mcancelled\0\0"), READY)
        peer.serve()
    server, proxy = fake(make_proxy, script, sslmode="require")
    with server, proxy.wire() as conn:
        conn.send(pgwire.query("SELECT wait"))
        assert running.wait(20)
        conn.cancel()
        assert pgwire.errors(conn.ready())[0]["C"] == "57014"
        assert requests == [b"\0\0\0\1abcd"]


def test_sessions_are_resumed(make_proxy, ca):
    reused, waits = [], []
    ctx = fake_context(ca, ca.server)

    def script(peer):
        peer.encrypt(ctx)
        peer.startup()
        reused.append(peer.sock.session_reused)
        peer.send(WELCOME)
        while True:
            kinds = peer.request()
            if not kinds:
                return
            wait_for(lambda: len(reused) > 1 or not waits)
            waits.append(1)
            peer.send(ROW, DONE, READY)
    server, proxy = fake(make_proxy, script, sslmode="require")
    with server, proxy.wire() as conn:
        conn.query("SELECT 1")  # with its answer came the ticket
        with proxy.wire() as other:
            for each in (conn, other):
                each.send(pgwire.query("SELECT wait"))
            for each in (conn, other):
                each.ready()
        assert not reused[0] and all(reused[1:]) and len(reused) > 1, reused


def test_reload_of_authorities(make_proxy, tls_pg, ca, folder):
    """What was opened under other authorities is not used any more."""
    root = os.path.join(folder, "root-now.crt")
    shutil.copy(ca.cert, root)
    proxy = make_proxy(at(tls_pg, sslmode="verify-ca", sslrootcert=root), {"p1": "pg"})
    with proxy.connect(autocommit=True) as conn:
        conn.execute("SELECT 1")
        shutil.copy(ca.stranger, root)
        assert proxy.command("RELOAD") == []
        with pytest.raises(psycopg.Error, match="certificate verify failed"):
            conn.execute("SELECT 1")
    shutil.copy(ca.cert, root)
    assert proxy.command("RELOAD") == []

    def again():
        try:
            proxy.connect().close()
            return True
        except psycopg.OperationalError:
            return False  # within server_login_retry of the last failure
    wait_for(again)


def test_servers_change_workers(make_proxy, tls_pg):
    """A pool of one server, clients in both workers: it goes to and fro, encrypted as it is."""
    proxy = make_proxy(at(tls_pg, sslmode="require"), {"p1": "pg"}, pool_size=1)
    conns = [proxy.wire() for _ in range(6)]
    assert len({row["worker"] for row in proxy.command("SHOW CLIENTS")
                if row["user"] == "app"}) == 2
    for n in range(60):
        for conn in conns:
            assert conn.value("SELECT %d" % n) == str(n)
    for conn in conns:
        conn.close()


# --- libpq: checks and mover ------------------------------------------------------------------------

def test_swap_checks_by_tls(make_proxy, tls_pg, ca):
    """The check of the target goes by the same rules: a wrong authority is a failed check."""
    servers = {"one": at(tls_pg)["pg"], "two": at(tls_pg, sslmode="verify-full",
                                                   sslrootcert=ca.stranger)["pg"],
               "three": at(tls_pg, sslmode="verify-full", sslrootcert=ca.cert)["pg"]}
    proxy = make_proxy(servers, {"p1": "one"})
    proxy.hold("p1", "LEASE NONE")
    with pytest.raises(Exception, match="certificate"):
        proxy.command("SWAP p1 TO two")
    # It is reached; that it is the same server and no promoted copy is the next thing it finds.
    with pytest.raises(Exception, match="timeline"):
        proxy.command("SWAP p1 TO three")
    proxy.command("RELEASE p1")


def test_mover_connects_by_tls(make_proxy, tls_pg, ca, folder):
    """To servers and proxies alike: where TLS is a must, and only to whom it should be."""
    password = os.path.join(folder, "tls.password")
    with open(password, "w") as out:
        out.write(ADMIN_PASSWORD + "\n")
    cert, key = ca.server
    proxy = make_proxy(at(tls_pg, sslmode="verify-full", sslrootcert=ca.cert), {"p1": "pg"},
                       client_tls_sslmode="require", client_tls_cert_file=cert,
                       client_tls_key_file=key)
    other = {"host": "localhost", "port": proxy.port, "user": ADMIN, "password_file": password,
             "sslmode": "verify-full", "sslrootcert": ca.cert}
    proxy.extra["mover"] = {"journal_directory": os.path.join(folder, "tls-moves"),
                            "proxies": {"a": other}}

    def status():
        proxy.write()
        done = subprocess.run([program("pgshunt"), "--config", proxy.config_path, "status"],
                              capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr
    said = status()
    assert "certificate" not in said and "encryption" not in said and "SSL" not in said, said
    assert "p1" in said
    other["sslrootcert"] = ca.stranger
    assert "certificate verify failed" in status()
    other["sslrootcert"] = ca.cert
    proxy.servers["pg"]["sslrootcert"] = ca.stranger
    assert "certificate verify failed" in status()


# --- other drivers ----------------------------------------------------------------------------------

def test_asyncpg(make_proxy, tls_pg, ca):
    """Its own TLS and its own pipelines, encrypted on both sides."""
    cert, key = ca.server
    proxy = make_proxy(at(tls_pg, sslmode="require"), {"p1": "pg"}, pool_mode="session",
                       client_tls_sslmode="require", client_tls_cert_file=cert,
                       client_tls_key_file=key)

    async def work():
        conn = await asyncpg.connect(host="localhost", port=proxy.port, user="app", database="p1",
                                     ssl=ssl.create_default_context(cafile=ca.cert))
        await conn.executemany("INSERT INTO items VALUES ($1, $2)",
                               [(n, "x" * 5000) for n in range(1000, 1200)])
        result = await conn.fetch("SELECT * FROM items WHERE id >= $1 ORDER BY id", 1000)
        assert [row["id"] for row in result] == list(range(1000, 1200))
        with pytest.raises(asyncio.TimeoutError):
            await conn.execute("SELECT pg_sleep(60)", timeout=0.5)  # cancelled
        assert await conn.fetchval("SELECT 1") == 1
        await conn.execute("DELETE FROM items WHERE id >= 1000")
        await conn.close()
    asyncio.run(work())
