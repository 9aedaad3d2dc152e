# SPDX-License-Identifier: PostgreSQL
"""What settings of pgbouncer.ini do, seen from outside, beside Debian's pgbouncer: TLS to clients and
servers, a PAUSE that is taken back, and what a RELOAD changes."""
import os
import ssl
import struct

import pytest

import pgwire
from certs import Authority
from pgbouncer_file import THEIR_VERSION, Files
from pgwire import wait_for
from servers import OWNER, SLOW, subfolder
from test_89_kinds_of_ini import tls_pg  # noqa: F401 (a fixture)

BASE = """[pgbouncer]
listen_port = %(port)d
listen_addr = 127.0.0.1
unix_socket_dir = %(dir)s
auth_type = trust
auth_file = %(users)s
admin_users = postgres
"""
DATABASES = "[databases]\np1 = host=127.0.0.1 port=%(pg)d\n"


@pytest.fixture
def files(folder, pg):
    made = Files(folder, pg)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def ca(folder):
    """Certificates that pgbouncer's user may read."""
    place = subfolder(folder)
    authority = Authority(place, "right")
    stranger = Authority(place, "wrong")
    for made in (authority, stranger):
        made.app = made.issue("app", "/CN=app")
    authority.server = authority.issue("proxy", "/CN=localhost", "DNS:localhost,IP:127.0.0.1")
    authority.stranger = stranger
    if OWNER:
        for parent, _, names in os.walk(place):
            for name in [parent] + [os.path.join(parent, name) for name in names]:
                if not name.endswith("app.key"):
                    os.chown(name, OWNER.pw_uid, OWNER.pw_gid)
    return authority


def tls_settings(ca, mode):
    return ("client_tls_sslmode = %s\nclient_tls_cert_file = %s\nclient_tls_key_file = %s\n"
            "client_tls_ca_file = %s\n" % (mode, *ca.server, ca.cert))


def encrypted(port, context, cert=None):
    """(protocol, cipher) of a connection on which a query was answered; None: none was to be had."""
    if cert:
        context.load_cert_chain(*cert)
    conn = pgwire.Conn("127.0.0.1", port)
    try:
        conn.send(pgwire.untyped(struct.pack("!i", pgwire.SSL_REQUEST)))
        if conn.recv_exact(1) != b"S":
            return None
        conn.sock = context.wrap_socket(conn.sock)
        conn.login("app", "p1")
        assert conn.value("SELECT 1") == "1"
        return conn.sock.version(), conn.sock.cipher()[0]
    except (OSError, pgwire.Closed, pgwire.LoginError):
        return None
    finally:
        conn.close()


def any_context(version=None, ciphers=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version:
        context.minimum_version = context.maximum_version = version
    if ciphers:
        context.set_ciphers(ciphers)
    return context


@pytest.mark.parametrize("mode, plain, bare, right, wrong", [
    ("disable", True, False, False, False), ("allow", True, True, True, True),
    ("prefer", True, True, True, True), ("require", False, True, True, True),
    ("verify-ca", False, False, True, False), ("verify-full", False, False, True, False)])
def test_tls_modes_of_clients(files, ca, mode, plain, bare, right, wrong):
    """Without TLS; with it, without a certificate, with a right one, with somebody else's."""
    for reader in files.both(BASE + tls_settings(ca, mode) + DATABASES):
        assert reader.up, reader.log()
        # Unix sockets have none in any mode.
        assert reader.value("p1", "SELECT 1", "app") == 1
        reader.place = "127.0.0.1"
        assert reader.enters("p1", "app") == plain
        found = [encrypted(reader.port, any_context(), cert) is not None
                 for cert in (None, ca.app, ca.stranger.app)]
        # A certificate that nobody verifies may be refused all the same, as by pgbouncer's library.
        assert found[:2] == [bare, right], reader.log()[-2000:]
        assert found[2] == wrong or mode in ("allow", "prefer", "require")


CIPHER = "ECDHE-ECDSA-AES128-GCM-SHA256"


@pytest.mark.parametrize("settings, tls12, tls13", [
    ("client_tls_protocols = secure\n", True, True),
    ("client_tls_protocols = tlsv1.2\n", True, None),
    ("client_tls_protocols = tlsv1.3\n", None, True),
    ("client_tls_protocols = tlsv1.2, tlsv1.3\n", True, True),
    ("client_tls_protocols = tlsv1.2\nclient_tls_ciphers = %s\n" % CIPHER, CIPHER, None),
    ("client_tls_ciphers = ECDHE+AESGCM\n", "GCM", True),
    ("client_tls13_ciphers = TLS_CHACHA20_POLY1305_SHA256\n", True, "TLS_CHACHA20_POLY1305_SHA256"),
    ("client_tls13_ciphers = TLS_AES_128_GCM_SHA256\nclient_tls_ciphers = %s\n" % CIPHER, CIPHER,
     "TLS_AES_128_GCM_SHA256")])
def test_protocols_and_ciphers_of_clients(files, ca, settings, tls12, tls13):
    text = BASE + tls_settings(ca, "require") + settings + DATABASES
    both = "tls13_ciphers" not in settings or THEIR_VERSION >= (1, 25)
    for reader in files.both(text) if both else [files.ours(text)]:
        assert reader.up, reader.log()
        for version, expected in ((ssl.TLSVersion.TLSv1_2, tls12), (ssl.TLSVersion.TLSv1_3, tls13)):
            found = encrypted(reader.port, any_context(version))
            assert (found is not None) == (expected is not None), (version, found)
            if isinstance(expected, str):
                assert expected in found[1]
        # A client that has none of them is refused.
        if CIPHER in settings:
            assert encrypted(reader.port, any_context(
                ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-CHACHA20-POLY1305")) is None


@pytest.mark.parametrize("settings, version, cipher", [
    ("server_tls_protocols = tlsv1.2\nserver_tls_ciphers = %s\n" % CIPHER, "TLSv1.2", CIPHER),
    ("server_tls_protocols = tlsv1.2\nserver_tls_ciphers = ECDHE-ECDSA-CHACHA20-POLY1305\n",
     "TLSv1.2", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ("server_tls_protocols = tlsv1.2\nserver_tls_ciphers = DHE-RSA-AES256-SHA\n", None, None),
    ("server_tls13_ciphers = TLS_AES_128_GCM_SHA256\n", "TLSv1.3", "TLS_AES_128_GCM_SHA256"),
    ("server_tls13_ciphers = TLS_CHACHA20_POLY1305_SHA256\n", "TLSv1.3",
     "TLS_CHACHA20_POLY1305_SHA256")])
def test_ciphers_to_servers(files, tls_pg, settings, version, cipher):  # noqa: F811
    """pg_stat_ssl says what came of it; nothing in common is an error for the client."""
    files.pg = tls_pg
    text = BASE + ("server_tls_sslmode = require\nquery_wait_timeout = 2\n" + settings) + DATABASES
    both = "tls13_ciphers" not in settings or THEIR_VERSION >= (1, 25)
    for reader in files.both(text) if both else [files.ours(text)]:
        assert reader.up, reader.log()
        with pgwire.Conn(reader.folder, reader.port) as conn:
            if version is None:
                with pytest.raises((pgwire.LoginError, pgwire.Closed)):
                    conn.login("app", "p1")
                    conn.value("SELECT 1")
                continue
            conn.login("app", "p1")
            assert pgwire.rows(conn.query("SELECT version, cipher FROM pg_stat_ssl WHERE pid = "
                                          "pg_backend_pid()")) == [[version, cipher]]


@pytest.mark.parametrize("scope", ["", " p1"])
@pytest.mark.parametrize("way", ["cancelled", "gone"])
def test_logins_after_a_pause_that_was_taken_back(files, scope, way):
    """A PAUSE that waits for a transaction: its console cancels it, and all goes on; or it leaves, and
    the pause stays, as in pgbouncer, until RESUME."""
    ours = files.ours(BASE + "pool_mode = transaction\ndefault_pool_size = 2\n" + DATABASES)
    with pgwire.Conn(ours.folder, ours.port) as busy, pgwire.Conn(ours.folder, ours.port) as late:
        busy.login("app", "p1")
        busy.query("BEGIN")
        console = pgwire.Conn(ours.folder, ours.port)
        console.login("postgres", "pgbouncer")
        console.send(pgwire.query("PAUSE" + scope))
        wait_for(lambda: ours.show("DATABASES", "name")["p1"]["paused"] == "1", 20 * SLOW, "the pause")
        late.login("app", "p1")
        late.send(pgwire.query("SELECT 5"))
        assert late.silent(0.5)
        if way == "cancelled":
            console.cancel()
            assert [fields["M"] for fields in pgwire.errors(console.ready())] == \
                ["canceling statement due to user request"]
        else:
            console.close()
            assert late.silent(1)
            ours.command("RESUME" + scope)
        # Who waited, who was busy, who comes now, by each way to log in and again and again.
        assert pgwire.rows(late.ready()) == [["5"]]
        for _ in range(3):
            assert ours.value("p1", "SELECT 1", "app") == 1
            assert ours.value("p1", "SELECT 1", "app2") == 1
        assert pgwire.rows(busy.query("SELECT 6")) == [["6"]]
        busy.query("COMMIT")
        assert ours.show("DATABASES", "name")["p1"]["paused"] == "0"
        # … and the next pause is one.
        ours.command("PAUSE" + scope)
        late.send(pgwire.query("SELECT 7"))
        assert late.silent(0.5)
        ours.command("RESUME" + scope)
        assert pgwire.rows(late.ready()) == [["7"]]
        console.close()


def test_a_login_that_waits_through_a_cancelled_pause(files):
    """Of a session pool, whose login wants a server."""
    ours = files.ours(BASE + DATABASES)
    with pgwire.Conn(ours.folder, ours.port) as busy, pgwire.Conn(ours.folder, ours.port) as console, \
            pgwire.Conn(ours.folder, ours.port) as fresh:
        busy.login("app", "p1")
        busy.query("BEGIN")
        console.login("postgres", "pgbouncer")
        console.send(pgwire.query("PAUSE p1"))
        wait_for(lambda: ours.show("DATABASES", "name")["p1"]["paused"] == "1", 20 * SLOW, "the pause")
        fresh.send(pgwire.startup({"user": "app2", "database": "p1"}))
        console.cancel()
        assert [fields["M"] for fields in pgwire.errors(console.ready())] == \
                ["canceling statement due to user request"]
        fresh.authenticate("app2")
        assert fresh.value("SELECT current_user") == "app2"
        assert not pgwire.errors(busy.query("COMMIT"))


# ---- RELOAD ----

# Another value of each setting that RELOAD changes; what is not here needs a restart, there and here.
CHANGED = {
    "admin_users": "postgres, app", "application_name_add_host": "1", "auth_type": "any",
    "auth_user": "postgres", "autodb_idle_timeout": "12", "client_idle_timeout": "4000",
    "client_login_timeout": "61", "default_pool_size": "3", "idle_transaction_timeout": "4000",
    "ignore_startup_parameters": "extra_float_digits, options", "log_connections": "0",
    "log_disconnections": "0", "log_pooler_errors": "0", "log_stats": "0", "max_client_conn": "77",
    "max_db_connections": "7", "max_user_connections": "6", "min_pool_size": "2",
    "pool_mode": "transaction", "query_timeout": "3000", "query_wait_timeout": "50",
    "reserve_pool_size": "1", "reserve_pool_timeout": "2.5", "server_check_delay": "10",
    "server_check_query": "select 7", "server_connect_timeout": "9", "server_fast_close": "1",
    "server_idle_timeout": "500", "server_lifetime": "2000", "server_login_retry": "3",
    "server_reset_query": "DISCARD PLANS", "server_reset_query_always": "1", "server_round_robin": "1",
    "stats_period": "30", "stats_users": "app2", "tcp_keepalive": "0",
    "tcp_keepcnt": "4", "tcp_keepidle": "50", "tcp_keepintvl": "20", "tcp_user_timeout": "9000",
    "server_tls_sslmode": "disable"}
LATER = {"cancel_wait_timeout": "11", "max_db_client_connections": "20", "query_wait_notify": "9",
         "max_user_client_connections": "21", "max_prepared_statements": "55",
         "transaction_timeout": "3600"}
# With a restart only.
KEPT = {"listen_backlog": "99", "unix_socket_mode": "0700", "track_extra_parameters": "search_path",
        "so_reuseport": "1"}


def rewrite(reader, text):
    with open(reader.ini, "w") as out:
        out.write(text % reader.values)


def test_reload_changes_what_can_be_changed(files):
    """And nobody is dropped by it: neither who is in a transaction nor who does nothing."""
    changed = {**CHANGED, **LATER}
    entry = DATABASES + "p2 = host=127.0.0.1 port=%(pg)d user=app\n"
    entry = entry.replace("p1 = host=127.0.0.1 port=%(pg)d", "p1 = host=127.0.0.1 port=%(pg)d user=app")
    theirs, ours = files.both(BASE + entry)
    known = set(theirs.config())
    with_theirs = {name for name in changed if name in known}
    assert with_theirs >= set(CHANGED)
    for reader in (theirs, ours):
        conns = [pgwire.Conn(reader.folder, reader.port) for _ in range(3)]
        for conn in conns:
            conn.login("app", "p1")
            conn.value("SELECT 1")
        conns[0].query("BEGIN")
        before = reader.config()
        names = set(changed) if reader is ours else with_theirs
        names |= {name for name in KEPT if name in before}
        values = {**changed, **KEPT}
        text = BASE
        for name in ("admin_users", "auth_type"):
            text = "".join(line + "\n" for line in text.splitlines() if not line.startswith(name))
        rewrite(reader, text + "".join("%s = %s\n" % (name, values[name]) for name in sorted(names))
                + entry)
        reader.command("RELOAD")
        after = reader.config()
        for name in names - set(KEPT):
            assert after[name] == values[name], (reader is ours, name)
        for name in set(KEPT) & names:
            assert after[name] == before[name], (reader is ours, name)
        assert conns[0].value("SELECT 2") == "2"
        conns[0].query("COMMIT")
        for conn in conns[1:]:
            assert conn.value("SELECT 3") == "3"
        for conn in conns:
            conn.close()


def test_reload_and_what_it_does(files, pg):
    """Of the important ones, for clients that were there before."""
    ours = files.ours(BASE + "pool_mode = session\n" + DATABASES + "p2 = host=127.0.0.1 port=%(pg)d\n")

    def change(main="", entry="", more=""):
        rewrite(ours, BASE + main + DATABASES + "p2 = host=127.0.0.1 port=%(pg)d" + entry + "\n" + more)
        ours.command("RELOAD")
    with pgwire.Conn(ours.folder, ours.port) as old:
        old.login("app", "p1")
        old.query("CREATE TEMP TABLE mine (n int)")
        # A client that has its server keeps it, and what it has there; others share.
        change("pool_mode = transaction\ndefault_pool_size = 2\n")
        assert not pgwire.errors(old.query("SELECT * FROM mine"))
        with pgwire.Conn(ours.folder, ours.port) as one, pgwire.Conn(ours.folder, ours.port) as two:
            one.login("app", "p1")
            two.login("app", "p1")
            assert one.value("SELECT pg_backend_pid()") == two.value("SELECT pg_backend_pid()")
            assert not pgwire.errors(old.query("SELECT * FROM mine"))
    with pgwire.Conn(ours.folder, ours.port) as one, pgwire.Conn(ours.folder, ours.port) as two:
        one.login("app", "p1")
        two.login("app", "p1")
        change("pool_mode = transaction\ndefault_pool_size = 1\n")
        wait_for(lambda: len(ours.show_rows("SERVERS")) == 1, 20 * SLOW, "one server")
        one.query("BEGIN")
        two.send(pgwire.query("SELECT 1"))
        assert two.silent(0.5)
        # A larger one helps who waits.
        change("pool_mode = transaction\ndefault_pool_size = 0\n")
        assert pgwire.rows(two.ready()) == [["1"]]
        # Time-outs.
        change("pool_mode = transaction\nidle_transaction_timeout = 0.5\n")
        assert [fields["M"] for fields in pgwire.errors(one.rest())] == ["idle transaction timeout"]
        change("pool_mode = transaction\nquery_timeout = 0.5\n")
        two.send(pgwire.query("SELECT pg_sleep(20)"))
        assert [fields["M"] for fields in pgwire.errors(two.rest())][-1] == "query timeout"
    # Users, databases, limits.
    change(more="[users]\napp = max_user_client_connections=1\n")
    with pgwire.Conn(ours.folder, ours.port) as one:
        one.login("app", "p2")
        assert one.value("SELECT current_database()") == "p2"
        assert not ours.enters("p2", "app") and ours.enters("p2", "app2")
        change(entry=" dbname=p1")
        assert one.value("SELECT 1") == "1"
        assert ours.enters("p2", "app")
        assert ours.value("p2", "SELECT current_database()", "app") == "p1"
        assert one.value("SELECT 1") == "1"
    change("max_client_conn = 0\n")
    assert not ours.enters("p1", "app")
    # A wrong file changes nothing and is told.
    with pytest.raises(AssertionError, match="pool_mode"):
        change("pool_mode = sessions\n")
    assert not ours.enters("p1", "app") and ours.config()["max_client_conn"] == "0"
    change()
    assert ours.enters("p1", "app")


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_authorities_of_the_system(files, tls_pg, mode):  # noqa: F811
    """Where none are named, those are asked, and do not know ours; where ours is, all is well."""
    files.pg = tls_pg
    text = BASE + "server_tls_sslmode = %s\nquery_wait_timeout = 2\n" % mode
    entry = DATABASES.replace("host=127.0.0.1", "host=localhost")
    for reader in files.both(text + entry):
        assert reader.up, reader.log()
        assert not reader.enters("p1", "app")
        assert "verif" in reader.log()
    for reader in files.both(text + "server_tls_ca_file = %s\n" % tls_pg.authority.cert + entry):
        assert reader.value("p1", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", "app")
