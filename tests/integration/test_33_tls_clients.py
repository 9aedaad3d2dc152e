# SPDX-License-Identifier: PostgreSQL
"""TLS to clients: modes, certificates, direct TLS, what must be refused, reload, relocation."""
import os
import shutil
import socket
import ssl
import struct
import subprocess

import psycopg
import pytest

import pgwire
from certs import Authority, TlsConn, closed, context
from pgwire import wait_for
from proxy import ADMIN, ADMIN_PASSWORD

SSL = pgwire.untyped(struct.pack("!i", pgwire.SSL_REQUEST))
GSS = pgwire.untyped(struct.pack("!i", pgwire.GSSENC_REQUEST))


@pytest.fixture(scope="module")
def ca(folder):
    authority = Authority(folder, "clients-ca")
    authority.server = authority.issue("proxy", "/CN=localhost", "DNS:localhost,IP:127.0.0.1")
    authority.other = authority.issue("other", "/CN=localhost", "DNS:localhost",
                                      key=("rsa:2048",))
    authority.app = authority.issue("app", "/O=Some, Ltd/CN=app")
    authority.gone = authority.issue("gone", "/CN=app")
    return authority


def tls(ca, mode="allow", **settings):
    cert, key = ca.server
    return {"client_tls_sslmode": mode, "client_tls_cert_file": cert, "client_tls_key_file": key,
            **settings}


@pytest.fixture
def proxy(make_proxy, ca):
    return make_proxy(**tls(ca))


def libpq(proxy, mode, dbname="p1", user="app", **kwargs):
    return psycopg.connect(host="localhost", port=proxy.port, dbname=dbname, user=user,
                           sslmode=mode, connect_timeout=20, **kwargs)


def test_libpq_modes(proxy, ca):
    for mode in ("prefer", "require", "verify-ca", "verify-full"):
        with libpq(proxy, mode, sslrootcert=ca.cert) as conn:
            assert conn.execute("SELECT repeat('x', 300000)").fetchone()[0] == "x" * 300000
            assert conn.pgconn.ssl_in_use
    for mode in ("disable", "allow"):
        with libpq(proxy, mode) as conn:
            assert not conn.pgconn.ssl_in_use
    shown = {row["tls"].split("/")[0] for row in proxy.command("SHOW CLIENTS")}
    assert shown <= {"", "TLSv1.3"}


class Records:
    """In place of a TLS socket: notes how long the records are that come."""

    def __init__(self, sock):
        self.sock, self.kept, self.lengths = sock, b"", []
        self.came, self.goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context().wrap_bio(self.came, self.goes)
        self.work(self.tls.do_handshake)

    def work(self, step, *args):
        while True:
            try:
                result = step(*args)
            except ssl.SSLWantReadError:
                self.flush()
                self.receive()
            else:
                self.flush()
                return result

    def flush(self):
        self.sock.sendall(self.goes.read())

    def receive(self):
        data = self.sock.recv(65536)
        assert data
        self.came.write(data)
        self.kept += data
        while len(self.kept) >= 5 and len(self.kept) >= 5 + int.from_bytes(self.kept[3:5], "big"):
            self.lengths.append(int.from_bytes(self.kept[3:5], "big"))
            self.kept = self.kept[5 + self.lengths[-1]:]

    def sendall(self, data):
        self.work(self.tls.write, data)

    def recv(self, size):
        return self.work(self.tls.read, size)

    def close(self):
        self.sock.close()


def test_records_are_as_short_as_a_server_makes_them(proxy):
    """libpq makes room for 8192 bytes and reads once (fe-misc.c, pqReadData()).  What is left of a longer
    record is in OpenSSL: a program that waits for the socket itself would wait for ever."""
    with pgwire.Conn("127.0.0.1", proxy.port) as conn:
        conn.send(SSL)
        assert conn.recv_exact(1) == b"S"
        conn.sock = Records(conn.sock)
        conn.login("app", "p1")
        for size in (100, 8192, 16000, 100000, 3000000):
            assert conn.value("SELECT repeat('x', %d)" % size) == "x" * size
        columns = conn.query("SELECT " + ",".join("1 AS column_%d" % n for n in range(1600)))
        assert len(columns[0].body) > 40000
        # Content type and tag of TLS 1.3.
        assert max(conn.sock.lengths) <= 8192 + 17
        assert conn.sock.lengths.count(8192 + 17) > 300


def test_show_and_log_say_it(proxy):
    with libpq(proxy, "require"):
        rows = proxy.command("SHOW CLIENTS")
        assert [row["tls"] for row in rows if row["user"] == "app"] == \
            ["TLSv1.3/TLS_AES_256_GCM_SHA384"]
    assert "tls=TLSv1.3/TLS_AES_256_GCM_SHA384" in proxy.log()


def test_require(make_proxy, ca):
    proxy = make_proxy(**tls(ca, "require"))
    with pytest.raises(psycopg.OperationalError, match="SSL required"):
        libpq(proxy, "disable")
    with libpq(proxy, "require") as conn:
        conn.execute("SELECT 1")


def test_unix_socket_has_no_tls(make_proxy, ca, folder):
    path = os.path.join(folder, "sock-tls")
    os.makedirs(path, exist_ok=True)
    proxy = make_proxy(unix_socket_directory=path, **tls(ca, "require"))
    with psycopg.connect(host=path, port=proxy.port, dbname="p1", user="app",
                         sslmode="require") as conn:
        assert not conn.pgconn.ssl_in_use
    with pgwire.Conn(path, proxy.port) as conn:
        conn.send(SSL)
        assert conn.recv_exact(1) == b"N"
        conn.login("app", "p1")


def test_disabled_says_no(make_proxy):
    proxy = make_proxy()
    with pgwire.Conn(proxy.host, proxy.port) as conn:
        conn.send(SSL)
        assert conn.recv_exact(1) == b"N"
        conn.send(GSS)
        assert conn.recv_exact(1) == b"N"
        conn.login("app", "p1")
    with pgwire.Conn(proxy.host, proxy.port) as conn:
        with pytest.raises((ssl.SSLError, OSError)):
            context(alpn="postgresql").wrap_socket(conn.sock, server_hostname="localhost")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_big_and_small_both_ways(proxy, version):
    """Results and requests of many records, and a record cut into single bytes."""
    with TlsConn(proxy.host, proxy.port, context(version=version)) as conn:
        conn.login("app", "p1")
        for size in (1, 16384, 16385, 1 << 20, 5 << 20):
            assert conn.value("SELECT length('%s')" % ("y" * size)) == str(size)
            assert len(conn.value("SELECT repeat('z', %d)" % size)) == size
        # Many messages in one record, and many records for one message.
        conn.send(*[pgwire.query("SELECT %d" % n) for n in range(500)])
        assert [pgwire.rows(conn.ready())[0][0] for _ in range(500)] == [str(n) for n in range(500)]
        for byte in pgwire.query("SELECT 'slow'"):
            conn.send(bytes([byte]))
        assert pgwire.rows(conn.ready()) == [["slow"]]


def test_slow_reader(proxy):
    """What the kernel does not take waits as records, in their order."""
    with TlsConn(proxy.host, proxy.port) as conn:
        conn.login("app", "p1")
        conn.send(pgwire.query("SELECT repeat(i::text, 1000) FROM generate_series(1, 20000) i"))
        assert not conn.silent(1)
        got = pgwire.rows(conn.ready())
        assert [row[0] for row in got] == [str(n) * 1000 for n in range(1, 20001)]


def test_half_a_record_and_silence(proxy):
    """A client that stops in the middle of a record keeps nobody."""
    raw = socket.create_connection((proxy.host, proxy.port), 20)
    raw.sendall(SSL)
    assert raw.recv(1) == b"S"
    raw.sendall(b"\x16\x03\x01\x02\x00\x01")
    with libpq(proxy, "require") as conn:
        conn.execute("SELECT 1")
    raw.close()


def test_handshake_times_out(make_proxy, ca):
    proxy = make_proxy(client_login_timeout="500ms", **tls(ca))
    with socket.create_connection((proxy.host, proxy.port), 20) as raw:
        raw.sendall(SSL)
        assert raw.recv(1) == b"S"
        assert closed(raw)
    wait_for(lambda: "login timed out" in proxy.log())


# --- bytes before the handshake ---------------------------------------------------------------------

@pytest.mark.parametrize("injected", [pgwire.startup({"user": "app", "database": "p1"}), b"\x16",
                                      pgwire.query("DELETE FROM items")])
def test_bytes_before_the_handshake_are_refused(proxy, injected):
    with pgwire.Conn(proxy.host, proxy.port) as conn:
        conn.send(SSL + injected)
        assert conn.recv().fields()["M"] == "received unencrypted data after SSL request"
        assert conn.rest() == []


def test_bytes_between_answer_and_handshake_are_no_request(proxy):
    """They came later than the request, but before the hello: the handshake fails."""
    with pgwire.Conn(proxy.host, proxy.port) as conn:
        conn.send(SSL)
        assert conn.recv_exact(1) == b"S"
        conn.send(pgwire.startup({"user": "app", "database": "p1"}))
        assert closed(conn.sock)
    assert "app" not in [row["user"] for row in proxy.command("SHOW CLIENTS")]


def test_second_request_is_refused(proxy):
    with TlsConn(proxy.host, proxy.port) as conn:
        conn.send(SSL)
        assert conn.recv().fields()["C"] == "0A000"
        assert conn.rest() == []
    with TlsConn(proxy.host, proxy.port) as conn:
        conn.send(GSS)
        assert conn.recv().fields()["C"] == "0A000"


def test_gss_then_tls(proxy):
    conn = pgwire.Conn(proxy.host, proxy.port)
    conn.send(GSS)
    assert conn.recv_exact(1) == b"N"
    conn.send(SSL)
    assert conn.recv_exact(1) == b"S"
    conn.sock = context().wrap_socket(conn.sock)
    conn.login("app", "p1")
    assert conn.value("SELECT 7") == "7"
    conn.close()


# --- direct TLS ------------------------------------------------------------------------------------

def test_direct(proxy):
    with TlsConn(proxy.host, proxy.port, direct=True) as conn:
        assert conn.sock.selected_alpn_protocol() == "postgresql"
        conn.login("app", "p1")
        assert conn.value("SELECT 5") == "5"


def test_direct_needs_the_right_alpn(proxy):
    with TlsConn(proxy.host, proxy.port, context(), direct=True) as conn:
        conn.send(pgwire.startup({"user": "app", "database": "p1"}))
        assert closed(conn.sock)
    with pytest.raises(ssl.SSLError):
        TlsConn(proxy.host, proxy.port, context(alpn="http/1.1"), direct=True)
    with pytest.raises(ssl.SSLError):
        TlsConn(proxy.host, proxy.port, context(alpn="http/1.1"))
    wait_for(lambda: "without ALPN" in proxy.log())


def test_direct_only_at_the_beginning(proxy):
    with pgwire.Conn(proxy.host, proxy.port) as conn:
        conn.send(GSS)
        assert conn.recv_exact(1) == b"N"
        with pytest.raises((ssl.SSLError, OSError)):
            context(alpn="postgresql").wrap_socket(conn.sock)


# --- versions and ciphers ---------------------------------------------------------------------------

def test_protocols_and_ciphers(make_proxy, ca):
    proxy = make_proxy(**tls(ca, client_tls_protocols="tlsv1.2",
                             client_tls_ciphers="ECDHE-ECDSA-CHACHA20-POLY1305"))
    with libpq(proxy, "require") as conn:
        conn.execute("SELECT 1")
        assert [row["tls"] for row in proxy.command("SHOW CLIENTS") if row["user"] == "app"] == \
            ["TLSv1.2/ECDHE-ECDSA-CHACHA20-POLY1305"]
    with pytest.raises(ssl.SSLError):
        TlsConn(proxy.host, proxy.port, context(version=ssl.TLSVersion.TLSv1_3))
    proxy.settings.update(client_tls_protocols="tlsv1.3",
                          client_tls13_ciphers="TLS_AES_128_GCM_SHA256")
    proxy.reload()
    wait_for(lambda: "configuration read again" in proxy.log())
    with TlsConn(proxy.host, proxy.port) as conn:
        assert conn.sock.cipher()[0] == "TLS_AES_128_GCM_SHA256"


@pytest.mark.parametrize("change, text", [
    ({"client_tls_cert_file": "/nowhere.crt"}, "nowhere.crt"),
    ({"client_tls_key_file": ""}, "client_tls_key_file"),
    ({"client_tls_protocols": "sslv3"}, "names no TLS protocols"),
    ({"client_tls_ciphers": "NONSENSE"}, "ciphers"),
    ({"client_tls_sslmode": "verify-full"}, "client_tls_ca_file"),
])
def test_wrong_settings_are_named(make_proxy, ca, change, text):
    proxy = make_proxy(start=False, **{**tls(ca), **change})
    ended = subprocess.run([os.path.join(os.environ["PGSHUNT_BIN"], "pgshuntd"), "--check-config",
                            "--config", proxy.config_path], capture_output=True, text=True)
    assert ended.returncode == 2 and text in ended.stderr, ended.stderr


# --- certificates of clients ------------------------------------------------------------------------

def test_client_certificate_is_asked_for(make_proxy, ca, folder):
    proxy = make_proxy(**tls(ca, client_tls_ca_file=ca.cert))
    stranger = Authority(folder, "stranger-ca").issue("app", "/CN=app")
    with libpq(proxy, "require"):  # none is shown
        pass
    with libpq(proxy, "require", sslcert=ca.app[0], sslkey=ca.app[1]):
        pass
    with pytest.raises(psycopg.OperationalError):
        libpq(proxy, "require", sslcert=stranger[0], sslkey=stranger[1])


def test_verify_full_demands_one(make_proxy, ca):
    proxy = make_proxy(**tls(ca, "verify-full", client_tls_ca_file=ca.cert))
    with pytest.raises(psycopg.OperationalError):
        libpq(proxy, "require", sslcert="/nowhere")
    with libpq(proxy, "require", sslcert=ca.app[0], sslkey=ca.app[1]) as conn:
        conn.execute("SELECT 1")


def test_cert_authentication(make_proxy, ca):
    proxy = make_proxy(auth_type="cert", **tls(ca, client_tls_ca_file=ca.cert))
    shown = {"sslcert": ca.app[0], "sslkey": ca.app[1]}
    with libpq(proxy, "require", **shown) as conn:
        assert conn.execute("SELECT current_user").fetchone()[0] == "app"
    for user, mode, files in [("app2", "require", shown), ("app", "disable", {}),
                              ("app", "require", {"sslcert": "/nowhere"})]:
        with pytest.raises(psycopg.OperationalError,
                           match='certificate authentication failed for user "%s"' % user):
            libpq(proxy, mode, user=user, **files)


def test_hba_rules_look_at_tls(make_proxy, ca, folder):
    rules, maps = os.path.join(folder, "tls.hba"), os.path.join(folder, "tls.ident")
    with open(rules, "w") as out:
        out.write("hostssl p1 app all cert\n"
                  "hostssl p1 app2 all cert map=some\n"
                  "hostssl p2 app all scram-sha-256 clientcert=verify-ca\n"
                  "hostssl p2 app2 all trust clientcert=verify-full\n"
                  "hostssl p2 counted all scram-sha-256 clientcert=verify-full\n"
                  "hostnossl p1 counted all trust\n"
                  "host all all all reject\n")
    with open(maps, "w") as out:
        out.write("some app app2\n")
    proxy = make_proxy(auth_type="hba", auth_hba_file=rules, auth_ident_file=maps,
                       secrets={"app": "pw", "counted": ""}, **tls(ca, client_tls_ca_file=ca.cert))
    shown = {"sslcert": ca.app[0], "sslkey": ca.app[1]}
    none = {"sslcert": "/nowhere"}
    for dbname, user, files in [("p1", "app", shown), ("p1", "app2", shown), ("p2", "app", shown)]:
        with libpq(proxy, "require", dbname, user, password="pw", **files) as conn:
            assert conn.execute("SELECT current_user").fetchone()[0] == user
    with libpq(proxy, "disable", "p1", "counted"):
        pass
    for mode, dbname, user, files, text in [
            ("require", "p1", "app", none, "connection requires a valid client certificate"),
            ("require", "p2", "app", none, "connection requires a valid client certificate"),
            ("require", "p2", "app2", shown, '"trust" authentication failed for user "app2"'),
            ("require", "p2", "counted", shown, 'password authentication failed for user'),
            ("require", "p1", "counted", none, "SSL encryption"),
            ("disable", "p1", "app", {}, "no encryption")]:
        with pytest.raises(psycopg.OperationalError, match=text):
            libpq(proxy, mode, dbname, user, password="pw", **files)


def test_revoked_certificate(make_proxy, ca):
    proxy = make_proxy(**tls(ca, client_tls_ca_file=ca.cert,
                             client_tls_crl_file=ca.crl(ca.gone[0])))
    with libpq(proxy, "require", sslcert=ca.app[0], sslkey=ca.app[1]):
        pass
    with pytest.raises(psycopg.OperationalError):
        libpq(proxy, "require", sslcert=ca.gone[0], sslkey=ca.gone[1])
    wait_for(lambda: "revoked" in proxy.log())


# --- channel binding --------------------------------------------------------------------------------

@pytest.fixture
def scram_proxy(make_proxy, ca):
    return make_proxy(auth_type="scram-sha-256", secrets={
        "app": "some secret", ADMIN: ADMIN_PASSWORD}, **tls(ca))


def test_plus(scram_proxy, ca):
    for mode in ("require", "prefer", "disable"):
        with libpq(scram_proxy, "require", password="some secret", channel_binding=mode) as conn:
            conn.execute("SELECT 1")
    with TlsConn(scram_proxy.host, scram_proxy.port) as conn:
        offered = conn.scram("app", "p1", "some secret", b"p=tls-server-end-point,,",
                             conn.binding())
        assert offered == [b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"]
    # Without TLS there is nothing to bind to.
    with pgwire.Conn(scram_proxy.host, scram_proxy.port) as conn:
        conn.send(pgwire.startup({"user": "app", "database": "p1"}))
        assert conn.recv().body[4:] == b"SCRAM-SHA-256\0\0"


@pytest.mark.parametrize("gs2, mechanism, binding, text", [
    (b"y,,", b"SCRAM-SHA-256", b"", "thinks the server does not"),
    (b"p=tls-server-end-point,,", b"SCRAM-SHA-256-PLUS", b"x" * 32, "binding check failed"),
    (b"p=tls-unique,,", b"SCRAM-SHA-256-PLUS", b"x" * 12, None),
    (b"n,,", b"SCRAM-SHA-256-PLUS", b"", "does not include channel binding"),
    (b"p=tls-server-end-point,,", b"SCRAM-SHA-256", b"", "without channel binding"),
])
def test_plus_downgrade_is_refused(scram_proxy, gs2, mechanism, binding, text):
    with TlsConn(scram_proxy.host, scram_proxy.port) as conn:
        with pytest.raises(pgwire.LoginError) as error:
            conn.scram("app", "p1", "some secret", gs2, binding, mechanism)
        assert error.value.sqlstate == "08P01"
        if text:
            assert text in error.value.fields["D"]


# --- reload, sessions -------------------------------------------------------------------------------

def shown_certificate(proxy):
    with TlsConn(proxy.host, proxy.port) as conn:
        return conn.sock.getpeercert(binary_form=True)


def test_certificate_reload(make_proxy, ca, folder):
    cert, key = os.path.join(folder, "now.crt"), os.path.join(folder, "now.key")
    shutil.copy(ca.server[0], cert)
    shutil.copy(ca.server[1], key)
    proxy = make_proxy(**tls(ca, client_tls_cert_file=cert, client_tls_key_file=key))
    before = shown_certificate(proxy)
    with libpq(proxy, "require") as conn, TlsConn(proxy.host, proxy.port) as console:
        console.login(ADMIN, "pgshunt", ADMIN_PASSWORD)
        # A key that does not fit: reported, and the old pair stays.
        shutil.copy(ca.other[1], key)
        answer = console.query("RELOAD")
        assert "now.key" in str(pgwire.errors(answer)[0]), answer
        assert shown_certificate(proxy) == before
        shutil.copy(ca.other[0], cert)
        assert not pgwire.errors(console.query("RELOAD"))
        after = shown_certificate(proxy)
        assert after != before
        assert after == ssl.PEM_cert_to_DER_cert(open(ca.other[0]).read())
        conn.execute("SELECT 1")  # nobody was dropped


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_resumed_until_the_certificate_changes(make_proxy, ca, folder, version):
    cert, key = os.path.join(folder, "re.crt"), os.path.join(folder, "re.key")
    shutil.copy(ca.server[0], cert)
    shutil.copy(ca.server[1], key)
    proxy = make_proxy(**tls(ca, client_tls_cert_file=cert, client_tls_key_file=key))
    ctx = context(version=version)

    def visit(session=None):
        with TlsConn(proxy.host, proxy.port, ctx, session=session) as conn:
            conn.login("app", "p1")
            return conn.sock.session_reused, conn.sock.session
    reused, session = visit()
    assert not reused
    reused, session = visit(session)
    assert reused
    # Another cipher list makes another context with the same trust: the ticket is still good.
    proxy.settings.update(client_tls_ciphers="HIGH")
    proxy.reload()
    wait_for(lambda: "configuration read again" in proxy.log())
    reused, session = visit(session)
    assert reused
    shutil.copy(ca.other[0], cert)
    shutil.copy(ca.other[1], key)
    assert proxy.command("RELOAD") == []
    assert not visit(session)[0]


# --- cancel, console, hold, workers -----------------------------------------------------------------

@pytest.mark.parametrize("encrypted", [True, False])
def test_cancel(make_proxy, pg, ca, encrypted):
    """As libpq 15 sends it, in the clear, and as libpq 17 does, in TLS; also where TLS is a must."""
    proxy = make_proxy(**tls(ca, "require"))
    with TlsConn(proxy.host, proxy.port) as conn:
        conn.login("app", "p1")
        conn.send(pgwire.query("SELECT pg_sleep(60)"))
        wait_for(lambda: pg.value("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' "
                                  "AND query = 'SELECT pg_sleep(60)'"))
        request = pgwire.untyped(struct.pack("!i", pgwire.CANCEL_REQUEST) + b"".join(conn.key))
        with (TlsConn if encrypted else pgwire.Conn)(proxy.host, proxy.port) as other:
            other.send(request)
            assert closed(other.sock)
        assert pgwire.errors(conn.ready())[0]["C"] == "57014"


def test_console(make_proxy, ca):
    proxy = make_proxy(**tls(ca, "require"))
    with psycopg.connect(host="localhost", port=proxy.port, dbname="pgshunt", user=ADMIN,
                         password=ADMIN_PASSWORD, sslmode="verify-full", sslrootcert=ca.cert,
                         autocommit=True) as conn:
        for _ in range(3):
            assert len(conn.execute("SHOW CONFIG").fetchall()) > 50
    # The first command comes with the login.
    with TlsConn(proxy.host, proxy.port) as conn:
        conn.send(pgwire.startup({"user": ADMIN, "database": "pgshunt"}) +
                  pgwire.query("SHOW VERSION"))
        messages = conn.ready() + conn.ready()
        assert pgwire.tags(messages) == ["SHOW"]
        conn.send(pgwire.TERMINATE)
        assert closed(conn.sock)


def test_held_clients(make_proxy, ca):
    proxy = make_proxy(**tls(ca))
    with TlsConn(proxy.host, proxy.port) as conn:
        conn.login("app", "p2")
        proxy.hold("p2", "LEASE NONE")
        conn.send(pgwire.query("SELECT 'held'"))
        wait_for(lambda: proxy.held()["held"] == "1")
        with libpq(proxy, "require", dbname="p2") as late:
            assert late.pgconn.ssl_in_use
        proxy.command("RELEASE p2")
        assert pgwire.rows(conn.ready()) == [["held"]]


def test_long_request_while_held(make_proxy, ca):
    """More than hold_client_bytes stays outside, and nothing is lost."""
    proxy = make_proxy(hold_client_bytes="8kB", **tls(ca))
    with TlsConn(proxy.host, proxy.port) as conn:
        conn.login("app", "p2")
        proxy.hold("p2", "LEASE NONE")
        conn.send(pgwire.query("SELECT length('%s')" % ("h" * 200000)))
        wait_for(lambda: proxy.held()["held"] == "1")
        assert int(proxy.held()["held_bytes"]) < 8192 + 3 * 16384
        proxy.command("RELEASE p2")
        assert pgwire.rows(conn.ready()) == [["200000"]]


def test_clients_change_workers(make_proxy, ca):
    """Busy clients go from a full worker to another one, encrypted as they are."""
    proxy = make_proxy(worker_fill=1, pool_size=20, log_level="debug", **tls(ca))
    conns = [TlsConn(proxy.host, proxy.port, context()) for _ in range(8)]
    for conn in conns:
        conn.login("app", "p1")

    def moved():
        for _ in range(40):
            for n, conn in enumerate(conns):
                conn.send(*[pgwire.query("SELECT %d" % n)] * 4)
            for n, conn in enumerate(conns):
                for _ in range(4):
                    assert pgwire.rows(conn.ready()) == [[str(n)]]
        return len({row["worker"] for row in proxy.command("SHOW CLIENTS")
                    if row["user"] == "app"}) == 2
    wait_for(moved, 120, "clients in both workers")
    for conn in conns:
        assert conn.value("SELECT 'still here'") == "still here"
        conn.close()
