# SPDX-License-Identifier: PostgreSQL
"""What pgbouncer's own tests ask of whoever takes its place: who is let in, what the log says."""
import os
import pwd
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fakeserver import DONE, READY, ROW, WELCOME, FakeServer
from pgwire import TERMINATE, Conn, LoginError, cstr, errors, message, query, startup, wait_for
from servers import BINDIR, OWNER

LONG = "long secret " * 5460 + "0123456789"  # 65530: what fits into the longest message


def refused(proxy, dbname="p1", user="app", password=None):
    with pytest.raises(LoginError) as error:
        proxy.wire(dbname, user, password).value("SELECT 1")
    return error.value.fields


def test_the_owner_of_the_process_needs_no_password(make_proxy):
    proxy = make_proxy(start=False, auth_type="scram-sha-256")
    proxy.settings["unix_socket_directory"] = proxy.folder
    proxy.write()
    proxy.start()
    for name in ("pgbouncer", "pgshunt"):
        with Conn(proxy.folder, proxy.port) as console:
            console.login(name, "pgbouncer")
            # Not for those who may only look.
            assert not errors(console.query("RELOAD"))
    # He is nobody special by another way, under another name, in another database; nor is another.
    assert refused(proxy, "pgbouncer", "pgbouncer", "x")["C"] == "28P01"
    for user, dbname in (("app", "pgbouncer"), ("pgbouncer", "p1")):
        with pytest.raises(LoginError) as error:
            Conn(proxy.folder, proxy.port).login(user, dbname, "x")
        assert error.value.sqlstate == "28P01"
    other = OWNER or pwd.getpwnam("nobody")
    if os.geteuid() == 0:
        os.chmod(proxy.folder, 0o755)
        psql = subprocess.run(
            [BINDIR + "/psql", "-wXAt", "-h", proxy.folder, "-p", str(proxy.port), "-U",
             "pgbouncer", "-c", "SHOW VERSION", "pgbouncer"], user=other.pw_uid, cwd="/",
            capture_output=True, text=True, check=False, env={"PATH": "/usr/bin"})
        assert psql.returncode == 2 and "no password supplied" in psql.stderr


def test_passwords_as_long_as_postgresql_takes_them(make_proxy, pg):
    proxy = make_proxy(start=False, auth_type="plain")
    proxy.secrets["u_clear"] = proxy.secrets["u_scram"] = LONG
    proxy.write()
    pg.sql("ALTER ROLE u_clear PASSWORD '%s'; ALTER ROLE u_scram PASSWORD '%s'" % (LONG, LONG))
    try:
        proxy.start()
        for user in ("u_clear", "u_scram"):
            with proxy.connect(user=user, password=LONG) as conn:
                assert conn.execute("SELECT current_user").fetchone() == (user,)
            assert refused(proxy, user=user, password="X" + LONG[1:])["C"] == "28P01"
        # One byte more is no password message.
        assert refused(proxy, user="u_clear", password=LONG + "1")["C"] == "08P01"
        # Nor is this one, where the answer is a digest.
        proxy.settings["auth_type"] = "md5"
        proxy.reload()
        assert refused_soon(proxy, LONG)
        proxy.stop()
    finally:
        pg.sql("ALTER ROLE u_clear PASSWORD 'clear secret'; "
               "ALTER ROLE u_scram PASSWORD 'scram secret'")


def refused_soon(proxy, answer):
    """A client that answers any question with this."""
    def asked():
        with Conn(proxy.host, proxy.port) as conn:
            conn.send(startup({"user": "u_clear", "database": "p1"}))
            if conn.recv().body[:4] != bytes([0, 0, 0, 5]):
                return False
            conn.send(message("p", cstr(answer)))
            return conn.recv().fields()["C"] == "08P01"
    wait_for(asked, what="md5")
    return True


def test_trust_is_for_users_who_exist(make_proxy):
    proxy = make_proxy(databases={"p1": "pg", "mine": {"server": "pg", "dbname": "p1",
                                                       "user": "app"}},
                       users={"counted": {"pool_size": 2}})
    del proxy.secrets["counted"]
    proxy.write()
    proxy.command("RELOAD")
    for dbname in ("p1", "mine"):
        assert refused(proxy, dbname, "stranger") == {
            "S": "FATAL", "V": "FATAL", "C": "28000", "M": '"trust" authentication failed'}
    with proxy.wire("mine", "counted") as conn:  # by the section users
        assert conn.value("SELECT current_user") == "app"
    # With auth_query those whom the server knows are known.
    proxy.settings.update(auth_user="postgres")
    proxy.write()
    proxy.command("RELOAD")
    del proxy.secrets["app2"]
    proxy.write()
    proxy.command("RELOAD")
    with proxy.wire("mine", "app2") as conn:
        assert conn.value("SELECT current_user") == "app"
    assert refused(proxy, "mine", "stranger")["C"] == "28000"
    # Without any users nobody can say who exists.
    open(proxy.users_path, "w").close()
    proxy.settings.update(auth_user="", admin_users=["stranger"])
    nameless = make_proxy(start=False, databases=proxy.databases, secrets={},
                          admin_users=["stranger"])
    nameless.start()
    with nameless.wire("mine", "stranger") as conn:
        assert conn.value("SELECT current_user") == "app"


def test_clients_are_counted_by_the_name_they_came_with(make_proxy):
    proxy = make_proxy(databases={"p1": "pg", "mine": {"server": "pg", "dbname": "p1",
                                                       "user": "app",
                                                       "max_db_client_connections": 2}},
                       users={"counted": {"max_client_connections": 2}})

    def counts(name):
        row = [row for row in proxy.command("SHOW USERS") if row["name"] == name]
        return row and (row[0]["current_client_connections"], row[0]["current_connections"])
    assert counts("counted") == counts("app2") == ("0", "0")
    with proxy.wire("mine", "counted") as first, proxy.wire("mine", "counted") as second:
        first.value("SELECT 1")
        second.value("SELECT 1")
        assert counts("counted") == ("2", "0")
        assert counts("app")[0] == "0" and int(counts("app")[1]) >= 1
        # Both limits are reached: the database's is named.
        assert "max_db_client_connections" in refused(proxy, "mine", "counted")["M"]
        assert "max_user_client_connections" in refused(proxy, "p1", "counted")["M"]
        assert counts("counted") == ("2", "0")
    with proxy.wire("p1", "app2"):
        assert counts("app2")[0] == "1"


def test_auth_dbname_by_the_fallback(make_proxy):
    proxy = make_proxy(start=False, databases={"*": "pg"}, auth_type="scram-sha-256",
                       auth_user="postgres", auth_dbname="postgres")
    del proxy.secrets["u_scram"]
    proxy.write()
    proxy.start()
    with proxy.wire("p1", "u_scram", "scram secret") as conn:
        assert conn.value("SELECT current_user") == "u_scram"
    proxy.settings["auth_dbname"] = "pgbouncer"
    proxy.write()
    with pytest.raises(Exception) as error:
        proxy.command("RELOAD")
    assert 'cannot use the reserved "pgbouncer" database' in error.value.fields["D"]
    # That of one database is looked for when somebody has to be asked for, as there.
    proxy.settings.update(auth_dbname="postgres", as_pgbouncer=True)
    proxy.databases.update(p1={"server": "pg", "auth_dbname": "pgbouncer"}, p3={
        "server": "pg", "dbname": "p1", "auth_dbname": "nowhere"})
    del proxy.databases["*"]
    proxy.databases["postgres"] = {"server": "pg"}
    proxy.write()
    proxy.command("RELOAD")
    for dbname, why in (("p1", 'cannot use the reserved "pgbouncer" database as an auth_dbname'),
                        ("p3", 'authentication database "nowhere" is not configured')):
        assert refused(proxy, dbname, "u_scram", "scram secret")["M"] == "bouncer config error"
        assert why in proxy.log()


def test_the_log_has_pgbouncers_words(make_proxy):
    proxy = make_proxy(log_level="info", auth_type="md5", query_timeout="400ms",
                       server_fast_close=True,
                       databases={"p1": "pg", "gone": {"server": "pg", "dbname": "gone"}})

    def logged(*patterns):
        wait_for(lambda: all(re.search(pattern, proxy.log()) for pattern in patterns),
                 what="; ".join(patterns))
    with proxy.wire(user="u_clear", password="clear secret") as conn:
        conn.value("SELECT 1")
        logged(r"client p1/u_clear@127\.0\.0\.1:\d+: logged in",
               r"p1/u_clear@127\.0\.0\.1:\d+ pid \d+: new connection to server \(from 127\.0\.0\.1:\d+\)")
        conn.send(query("SELECT pg_sleep(30)"))
        assert [fields["M"] for fields in errors(conn.rest())] == ["query timeout"]
    logged(r"client p1/u_clear@127\.0\.0\.1:\d+: closing because: query timeout \(age=\d")
    with proxy.wire(user="u_clear", password="clear secret") as conn:
        conn.send(TERMINATE)
        conn.rest()
    logged(r"closing because: client close request \(age=\d")
    conn = proxy.wire(user="u_clear", password="clear secret")
    conn.sock.close()
    logged(r"closing because: client unexpected eof \(age=\d")
    refused(proxy, user="u_md5", password="wrong")
    logged(r'closing because: password authentication failed for user "u_md5" \(age=')
    refused(proxy, "gone", "u_clear", "clear secret")
    logged(r'gone/u_clear: server login failed: FATAL database "gone" does not exist',
           r'server .*gone/u_clear.*: closing because: database "gone" does not exist \(age',
           r'client gone/u_clear.*: closing because: .*database "gone" does not exist')
    with proxy.wire(user="u_clear", password="clear secret") as conn:
        conn.value("SELECT 1")
        proxy.command("RECONNECT p1")
    logged(r"server pg p1/u_clear pid \d+: closing because: database configuration changed \(age=")


def test_refusals_have_pgbouncers_words(make_proxy):
    """Beside PostgreSQL's, and in the log before the client is told."""
    proxy = make_proxy(start=False, databases={"auth": {"server": "pg", "dbname": "p1"}, "*": "pg"},
                       auth_type="scram-sha-256", auth_user="postgres", auth_dbname="auth")
    del proxy.secrets["u_md5"]
    proxy.write()
    proxy.start()
    fields = refused(proxy, user="u_clear", password="wrong")
    assert fields["C"] == "28P01" and fields["D"] == "SASL authentication failed"
    assert fields["M"] == 'password authentication failed for user "u_clear"'
    assert "closing because: SASL authentication failed (age=" in proxy.log()
    assert proxy.log().count("closing because: SASL") == 1
    assert "closing because: SASL" in proxy.log() and fields == refused(proxy, user="nobody",
                                                                        password="wrong") | {
        "M": fields["M"]}
    # Where users are asked for.
    proxy.command("DISABLE auth")
    fields = refused(proxy, user="u_md5", password="md5 secret")
    assert (fields["C"], fields["M"]) == ("57P03", 'authentication database "auth" is disabled')
    proxy.command("ENABLE auth")
    proxy.settings["auth_type"] = "md5"
    proxy.write()
    proxy.command("RELOAD")
    with proxy.wire(user="u_md5", password="md5 secret") as conn:
        assert conn.value("SELECT current_user") == "u_md5"
    assert "registered new auto-database: p1" in proxy.log()
    assert "auto-database: auth" not in proxy.log()
    proxy.command("SET auth_dbname = pgbouncer")
    assert refused(proxy, user="u_md5", password="md5 secret")["M"] == "bouncer config error"
    assert 'cannot use the reserved "pgbouncer" database as an auth_dbname' in proxy.log()
    with proxy.wire(user="u_clear", password="clear secret") as conn:
        assert conn.value("SELECT 1") == "1"
    proxy.command("SET auth_dbname = auth")
    proxy.command("SET auth_query = 'SELECT nothing'")
    fields = refused(proxy, user="u_md5", password="md5 secret")
    assert fields["D"] == "bouncer config error" and 'column "nothing"' in fields["M"]
    proxy.settings["client_tls_sslmode"] = "require"
    proxy.settings["client_tls_cert_file"] = proxy.settings["client_tls_key_file"] = "/nowhere"
    proxy.write()
    with pytest.raises(Exception) as error:
        proxy.command("RELOAD")
    assert error.value.sqlstate == "F0000"
    assert re.search("ERROR TLS setup failed: .*No such file or directory", proxy.log())


def test_a_section_of_users_lets_nobody_in(make_proxy):
    users = {"app2": {"pool_size": 1}}
    proxy = make_proxy(start=False, auth_type="trust", users=users)
    del proxy.secrets["app2"]
    proxy.write()
    proxy.start()
    proxy.wire(user="app2").close()
    proxy.settings["as_pgbouncer"] = True
    proxy.reload()
    wait_for(lambda: "configuration read again" in proxy.log(), what="the reload")
    assert refused(proxy, user="app2")["M"] == '"trust" authentication failed'
    proxy.wire(user="app").close()


def test_server_connect_timeout_is_for_the_login_too(make_proxy):
    def script(peer):
        peer.startup()
        peer.recv()
    with FakeServer(script) as mute:
        proxy = make_proxy({"mute": mute.check}, {"q": "mute"}, as_pgbouncer=True,
                           connect_timeout="300ms", query_timeout="1s", log_level="info")
        assert refused(proxy, "q")["M"] == "query_timeout"
        assert "closing because: connect timeout" in proxy.log()


def test_who_waits_when_logins_begin_to_fail(make_proxy):
    """He gets the server when it is back; who comes in between is told at once."""
    back = threading.Event()

    def script(peer):
        peer.startup()
        if back.is_set():
            peer.send(WELCOME)
            peer.serve()
    with FakeServer(script) as server:
        proxy = make_proxy({"down": server.check}, {"q": "down"}, as_pgbouncer=True, workers=1,
                           connect_timeout="200ms", server_login_retry="400ms", log_level="info")
        with ThreadPoolExecutor() as pool:
            first = pool.submit(proxy.wire, "q")
            wait_for(lambda: server.count >= 3, what="the third attempt")
            fields = refused(proxy, "q")
            assert fields["M"].startswith("server login has been failing, cached error: ")
            assert not first.done()
            back.set()
            with first.result() as conn:
                assert conn.value("SELECT 1") == "1"


def test_the_server_wants_another_password(make_proxy):
    """Who waits is told at once, also where the only servers are those from before a RECONNECT."""
    known = threading.Event()
    refusal = message("E", b"SFATAL\0C28P01\0Mpassword authentication failed\0\0")

    def script(peer):
        peer.startup()
        if known.is_set():
            peer.send(refusal)
            return
        known.set()
        peer.send(WELCOME)
        peer.request()
        peer.send(message("C", b"BEGIN\0") + message("Z", b"T"))
        peer.recv()
    with FakeServer(script) as server:
        proxy = make_proxy({"fake": server.check}, {"q": "fake"}, as_pgbouncer=True, workers=1,
                           server_login_retry="1h", log_level="info")
        with proxy.wire("q") as first:
            first.query("BEGIN")
            proxy.command("RECONNECT")
            with proxy.wire("q") as second:
                assert [fields["M"] for fields in errors(second.query("SELECT 1"))] == \
                    ["password authentication failed"]
            log = proxy.log()
            assert log.index("closing because: password") < log.index("request refused: password")


def test_wrong_lines_of_an_hba_file_are_passed_over(make_proxy):
    proxy = make_proxy(start=False, auth_type="hba", auth_hba_file="hba.conf", as_pgbouncer=True)
    with open(os.path.join(proxy.folder, "hba.conf"), "w") as rules:
        rules.write("host p1 app example.org md5\nhost p1 u_clear all cert\n"
                    "host all all all trust\n")
    proxy.start()
    proxy.wire().close()
    assert refused(proxy, "p1", "u_clear", "clear secret")["M"] == \
        "connection requires a valid client certificate"
    assert re.search(r'WARNING .*hba.conf:1: "example.org".*: the line is passed over', proxy.log())


def test_the_usual_check_of_a_server_is_an_empty_query(make_proxy):
    queries = []

    def script(peer):
        peer.startup()
        peer.send(WELCOME)
        while True:
            kind, body = peer.recv()
            if kind != "Q":
                return
            queries.append(body)
            peer.send((message("I") if body == b"\0" else ROW + DONE) + READY)
    with FakeServer(script) as server:
        proxy = make_proxy({"fake": server.check}, {"q": "fake"}, server_check_delay="0",
                           workers=1)
        for _ in range(2):
            with proxy.wire("q") as conn:
                assert conn.value("SELECT 1") == "1"
        proxy.command("SET server_check_query = ''")
        with proxy.wire("q") as conn:
            assert conn.value("SELECT 2") == "1"
    assert queries[-3:] == [b"\0", b"SELECT 1\0", b"SELECT 2\0"]
