# SPDX-License-Identifier: PostgreSQL
"""Logins of clients at the proxy and of the proxy at servers."""
import struct
import time

import psycopg
import pytest

import pgwire
from pgwire import LoginError, errors, kinds, md5_secret, scram_secret
from proxy import ADMIN, ADMIN_PASSWORD, USERS, Proxy
from servers import SLOW, subfolder

SECRETS = {
    "plain": lambda user, password: password,
    "md5": md5_secret,
    "scram": lambda user, password: scram_secret(password),
}
# method of the proxy, kind of secret in the users file, does it fit, method seen by the client
CASES = [
    ("md5", "plain", True, 5), ("md5", "md5", True, 5), ("md5", "scram", True, 10),
    ("scram-sha-256", "plain", True, 10), ("scram-sha-256", "scram", True, 10),
    ("scram-sha-256", "md5", False, 10),
]


def secrets(kind, user="app", password="the pass wörd"):
    return {**USERS, user: SECRETS[kind](user, password)}


@pytest.mark.parametrize("method, kind, fits, request_code", CASES)
def test_login(make_proxy, method, kind, fits, request_code):
    proxy = make_proxy(auth_type=method, secrets=secrets(kind))
    with pgwire.Conn(proxy.host, proxy.port) as conn:
        conn.send(pgwire.startup({"user": "app", "database": "p1"}))
        assert conn.sock.recv(9)[5:] == struct.pack("!i", request_code)
    if fits:
        with proxy.wire(password="the pass wörd") as conn:
            assert conn.value("SELECT current_user") == "app"
        with proxy.connect(password="the pass wörd") as conn:
            assert conn.execute("SELECT current_user").fetchone() == ("app",)
    for password in ("the pass word", "", "the pass wörd " + "x" * 200):
        with pytest.raises(LoginError) as error:
            proxy.wire(password=password)
        assert error.value.sqlstate == "28P01"
        assert error.value.fields["M"] == 'password authentication failed for user "app"'
    if not fits:
        with pytest.raises(LoginError):
            proxy.wire(password="the pass wörd")


@pytest.mark.parametrize("method", ["md5", "scram-sha-256"])
def test_unknown_user_is_told_as_wrong_password(make_proxy, method):
    """Same messages, same fields: nobody learns which users exist."""
    proxy = make_proxy(auth_type=method, secrets=secrets("plain"))

    def attempt(user):
        with pgwire.Conn(proxy.host, proxy.port) as conn:
            conn.send(pgwire.startup({"user": user, "database": "p1"}))
            began = time.monotonic()
            with pytest.raises(LoginError) as error:
                conn.authenticate(user, "wrong")
            took = time.monotonic() - began
            assert conn.rest() == []
        fields = dict(error.value.fields)
        assert fields.pop("M") == 'password authentication failed for user "%s"' % user
        return fields, took
    known = [attempt("app") for _ in range(5)]
    unknown = [attempt("nobody here") for _ in range(5)]
    assert known[0][0] == unknown[0][0]
    assert known[0][0]["C"] == "28P01" and known[0][0]["S"] == "FATAL"
    assert abs(min(k[1] for k in known) - min(u[1] for u in unknown)) < 0.05 * SLOW


def test_wrong_password_does_not_tell_whether_the_database_exists(make_proxy):
    proxy = make_proxy(auth_type="scram-sha-256", secrets=secrets("plain"))
    for dbname in ("p1", "no such database", "pgshunt"):
        with pytest.raises(LoginError) as error:
            proxy.wire(dbname=dbname, password="wrong")
        assert error.value.sqlstate == "28P01"
    with pytest.raises(LoginError) as error:
        proxy.wire(dbname="no such database", password="the pass wörd")
    assert error.value.sqlstate == "3D000"


def test_md5_secret_is_not_a_password(make_proxy):
    """Who has the users file cannot log in with the hash itself where SCRAM is asked."""
    proxy = make_proxy(auth_type="md5", secrets=secrets("scram"))
    with pytest.raises(LoginError):
        proxy.wire(password=proxy.secrets["app"])


def test_user_names_with_odd_characters(make_proxy, pg):
    name = 'odd "name" \\ ü'
    pg.sql("CREATE ROLE %s LOGIN" % '"odd ""name"" \\ ü"')
    try:
        proxy = make_proxy(auth_type="scram-sha-256", secrets={**USERS, name: 'pa"ss'})
        with proxy.wire(user=name, password='pa"ss') as conn:
            assert conn.value("SELECT current_user") == name
        proxy.stop()
    finally:
        pg.sql("DROP ROLE %s" % '"odd ""name"" \\ ü"')


# --- broken authentication exchanges ------------------------------------------------------------

@pytest.fixture(scope="module")
def scram_proxy(folder, pg):
    proxy = Proxy(subfolder(folder), {"pg": pg}, {"p1": "pg"}, auth_type="scram-sha-256").start()
    yield proxy
    proxy.stop()


@pytest.fixture(params=["direct", "proxy"])
def place(request, pg):
    """Where u_scram must log in by SCRAM."""
    if request.param == "direct":
        yield pg
    else:
        proxy = request.getfixturevalue("scram_proxy")
        yield proxy
        proxy.check_alive()


def scram_start(place, first=b"n,,n=,r=abcdefgh", mechanism="SCRAM-SHA-256", user="u_scram"):
    conn = pgwire.Conn(place.host, place.port)
    conn.send(pgwire.startup({"user": user, "database": "p1"}))
    assert conn.recv().kind == "R"
    conn.send(pgwire.message("p", pgwire.cstr(mechanism) + struct.pack("!i", len(first)) + first))
    return conn


@pytest.mark.parametrize("first", [
    b"", b"n", b"n,,", b"n,,n=", b"x,,n=,r=abc", b"p=tls-server-end-point,,n=,r=abc",
    b"n,a=app,n=,r=abc", b"n,,m=ext,n=,r=abc", b"n,,n=,r=a b\x01", b"n,,r=abc,n=",
    b"\xff" * 300])
def test_broken_first_scram_message(place, first):
    with scram_start(place, first) as conn:
        messages = conn.rest()
    assert kinds(messages) == "E"
    assert messages[0].fields()["C"] in ("08P01", "28P01", "0A000")
    assert messages[0].fields()["S"] == "FATAL"


@pytest.mark.parametrize("auth_type", ["scram-sha-256", "md5"])
def test_unknown_users_have_the_usual_iterations(make_proxy, auth_type):
    """Not PostgreSQL's default one, which would tell that there is no such user."""
    def shown(user):
        with scram_start(proxy, user=user) as conn:
            return dict(part.split(b"=", 1) for part in conn.recv().body[4:].split(b","))[b"i"]

    proxy = make_proxy(start=False, auth_type=auth_type)
    proxy.secrets = {name: scram_secret("x", iterations) for name, iterations in
                     ((ADMIN, 4096), ("one", 5000), ("two", 7000), ("three", 5000), ("u_md5", 6000))}
    proxy.write()
    proxy.start()
    assert [shown(user) for user in (ADMIN, "one", "two", "nobody", "n" * 100)] == \
        [b"4096", b"5000", b"7000", b"5000", b"5000"]
    with pytest.raises(LoginError) as error:
        proxy.wire("p1", "nobody", "x")
    assert error.value.sqlstate == "28P01"
    if auth_type == "md5":
        return  # whose usual way depends on the file
    proxy.secrets = {ADMIN: "plain", "u_md5": ""}
    proxy.write()
    proxy.reload()
    pgwire.wait_for(lambda: shown("nobody") == b"4096", 10 * SLOW, "the other file")


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1", "", "x" * 500])
def test_unknown_sasl_mechanism(place, mechanism):
    with scram_start(place, mechanism=mechanism) as conn:
        messages = conn.rest()
    assert kinds(messages) == "E" and messages[0].fields()["C"] == "08P01"


@pytest.mark.parametrize("final", [
    b"", b"c=biws", b"c=biws,r=", b"c=biws,r=%s", b"c=biws,r=%s,p=", b"c=biws,r=%s,p=AAAA",
    b"c=eSws,r=%s,p=" + b"A" * 43 + b"=", b"c=biws,r=other,p=" + b"A" * 43 + b"=",
    b"c=biws,r=%s,p=" + b"!" * 44, b"c=biws,r=%s,p=" + b"A" * 43 + b"=", b"\0" * 100])
def test_broken_final_scram_message(place, final):
    with scram_start(place) as conn:
        nonce = conn.recv().body[4:].split(b",")[0][2:]
        conn.send(pgwire.message("p", final.replace(b"%s", nonce)))
        messages = conn.rest()
    assert kinds(messages) == "E"
    assert messages[0].fields()["C"] in ("08P01", "28P01")


@pytest.mark.parametrize("data", [
    pgwire.query("SELECT 1"), pgwire.SYNC, pgwire.TERMINATE, pgwire.message("p"),
    pgwire.message("p", b"no zero"), b"p\0\0\0\3", b"p\x7f\xff\xff\xff", b"p\xff\xff\xff\xff",
    pgwire.message("p", b"x" * 70000), b"\0" * 100, pgwire.startup({"user": "app"})])
@pytest.mark.parametrize("user", ["u_md5", "u_scram"])
def test_anything_else_instead_of_a_password(place, user, data):
    with pgwire.Conn(place.host, place.port) as conn:
        conn.send(pgwire.startup({"user": user, "database": "p1"}))
        assert conn.recv().kind == "R"
        try:
            conn.send(data)
        except OSError:
            pass
        messages = conn.rest()
    assert "Z" not in kinds(messages) and len(messages) <= 1


def test_client_that_says_nothing_is_dropped(make_proxy):
    proxy = make_proxy(client_login_timeout="500ms", auth_type="scram-sha-256")
    for start in (b"", b"\0\0", pgwire.startup({"user": "app", "database": "p1"})):
        with pgwire.Conn(proxy.host, proxy.port) as conn:
            conn.send(start)
            conn.rest()  # ends


# --- the proxy at the server --------------------------------------------------------------------

@pytest.mark.parametrize("user", ["u_clear", "u_md5", "u_scram"])
@pytest.mark.parametrize("kind", ["plain", "md5", "scram"])
def test_server_login(make_proxy, user, kind):
    """Every method of the server that the secret suffices for.  A SCRAM secret serves where its
    key can be learned from the client's own login; the server must have the same secret."""
    password = USERS[user]
    secret = SECRETS[kind](user, password)
    works = kind == "plain" or (kind == "md5" and user == "u_md5")
    if kind == "scram" and user == "u_scram":
        return
    proxy = make_proxy(auth_type="md5", secrets={**USERS, user: secret})
    if works:
        with proxy.wire(user=user, password=password) as conn:
            assert conn.value("SELECT current_user") == user
    else:
        with pytest.raises(LoginError) as error:
            proxy.wire(user=user, password=password).value("SELECT 1")
        assert error.value.fields["S"] == "FATAL"


@pytest.mark.parametrize("user", ["u_clear", "u_md5", "u_scram"])
@pytest.mark.parametrize("kind", ["md5", "scram"])
def test_password_in_clear_serves_at_the_server(make_proxy, user, kind):
    """Only a hash is known here, but the client had to tell the password itself: whatever the server asks
    for, in whichever form, and with whichever salt it has it."""
    password = USERS[user]
    proxy = make_proxy(auth_type="plain", pool_size=2,
                       secrets={**USERS, user: SECRETS[kind](user, password)})
    with proxy.wire(user=user, password=password) as one, \
            proxy.wire(user=user, password=password) as other:
        one.query("BEGIN")
        for conn in one, other:
            assert conn.value("SELECT current_user") == user
    with pytest.raises(LoginError) as error:
        proxy.wire(user=user, password=password + "x")
    assert error.value.fields["C"] == "28P01"
    proxy.reload()
    with proxy.wire(user=user, password=password) as conn:
        assert conn.value("SELECT current_user") == user
    with open(proxy.log_path, encoding="utf-8") as log:
        assert password not in log.read()


def test_scram_key_of_the_client_serves_at_the_server(make_proxy, pg):
    """The users file has the server's own SCRAM secret, no password anywhere."""
    secret = pg.value("SELECT rolpassword FROM pg_authid WHERE rolname = 'u_scram'")
    proxy = make_proxy(auth_type="scram-sha-256", secrets={**USERS, "u_scram": secret})
    for _ in range(2):
        with proxy.wire(user="u_scram", password="scram secret") as conn:
            assert conn.value("SELECT current_user") == "u_scram"


@pytest.mark.parametrize("auth_type", ["scram-sha-256", "plain"])
def test_key_for_a_user_whom_databases_name(make_proxy, pg, tmp_path, auth_type):
    """Databases name a user with its SCRAM secret.  Whose login reveals the key opens all of them, to
    everybody, over all workers and for as long as the process lives."""
    secret = pg.value("SELECT rolpassword FROM pg_authid WHERE rolname = 'u_scram'")
    place = tmp_path / "secret"
    place.write_text(secret)
    named = {"server": "pg", "dbname": "p1", "user": "u_scram", "password_file": str(place)}
    proxy = make_proxy(auth_type=auth_type, server_lifetime="300ms", databases={"one": named, "other": dict(named)},
                       secrets={**USERS, "u_scram": secret, "app": "app secret", "app2": secret})
    with pytest.raises(LoginError) as error:
        proxy.wire("one", "app", "app secret").value("SELECT 1")
    assert "only a SCRAM secret of this user is known" in error.value.fields["M"]
    with proxy.wire("other", "app2", "scram secret") as conn:
        assert conn.value("SELECT current_user") == "u_scram"
    for _ in range(3):
        for dbname in ("one", "other"):
            for user, password in (("app", "app secret"), ("u_scram", "scram secret")):
                with proxy.wire(dbname, user, password) as conn:
                    assert conn.value("SELECT current_user") == "u_scram"
        time.sleep(0.4)
    proxy.reload()
    with proxy.wire("one", "app", "app secret") as conn:
        assert conn.value("SELECT current_user") == "u_scram"
    # Another secret is another's.
    place.write_text(scram_secret("scram secret"))
    proxy.reload()
    proxy.command("RECONNECT")
    with proxy.wire("one", "app", "app secret") as conn:
        assert "only a SCRAM secret of this user is known" in errors(conn.query("SELECT 1"))[0]["M"]


def test_trust_at_the_proxy_and_password_at_the_server(make_proxy):
    proxy = make_proxy(auth_type="trust")
    for user in ("u_clear", "u_md5", "u_scram"):
        with proxy.wire(user=user) as conn:
            assert conn.value("SELECT current_user") == user


def test_wrong_password_at_the_server(make_proxy):
    """The client is told, without the proxy's secret, and the next one is not worse off."""
    proxy = make_proxy(secrets={**USERS, "u_scram": "not what the server has"})
    for _ in range(2):
        with pytest.raises(LoginError) as error:
            proxy.wire(user="u_scram").value("SELECT 1")
        assert error.value.fields["S"] == "FATAL"
        assert "not what the server has" not in str(error.value.fields)
    with proxy.wire() as conn:
        assert conn.value("SELECT 1") == "1"


def test_user_rejected_by_the_server(make_proxy):
    proxy = make_proxy()
    with pytest.raises(LoginError) as error:
        proxy.wire(user="nobody_hba").value("SELECT 1")
    assert error.value.fields["S"] == "FATAL"


def test_database_missing_on_the_server(make_proxy):
    proxy = make_proxy(databases={"p1": "pg", "p9": {"server": "pg", "dbname": "not there"}})
    with pytest.raises(LoginError) as error:
        proxy.wire("p9").value("SELECT 1")
    assert error.value.fields["S"] == "FATAL"
    with proxy.wire("p1") as conn:
        assert conn.value("SELECT 1") == "1"


@pytest.mark.parametrize("source", ["file", "env"])
def test_forced_user(make_proxy, monkeypatch, source):
    """All clients of the database are one user at the server."""
    proxy = make_proxy(start=False)
    settings = {"server": "pg", "user": "u_scram"}
    if source == "file":
        path = proxy.folder + "/password"
        with open(path, "w") as out:
            out.write("scram secret\n")
        settings["password_file"] = path
    else:
        monkeypatch.setenv("TEST_DB_PASSWORD", "scram secret")
        settings["password_env"] = "TEST_DB_PASSWORD"
    proxy.databases["p1"] = settings
    proxy.write()
    proxy.start()
    for user in ("app", "app2"):
        with proxy.wire(user=user) as conn:
            assert conn.value("SELECT session_user") == "u_scram"


def test_database_under_another_name(make_proxy):
    proxy = make_proxy(databases={"alias": {"server": "pg", "dbname": "p2"}})
    with proxy.wire("alias") as conn:
        assert conn.value("SELECT current_database()") == "p2"


def test_max_client_connections(make_proxy):
    proxy = make_proxy(max_client_connections=3)
    conns = [proxy.wire() for _ in range(3)]
    with pytest.raises(LoginError) as error:
        proxy.wire()
    assert error.value.sqlstate == "53300"
    conns.pop().close()

    def again():
        try:
            return proxy.wire()
        except LoginError:
            return None
    conns.append(pgwire.wait_for(again, what="a free place"))
    for conn in conns:
        conn.close()


def test_max_client_connections_of_a_user(make_proxy):
    proxy = make_proxy(users={"app": {"max_client_connections": 2}})
    with proxy.wire(), proxy.wire():
        with pytest.raises(LoginError) as error:
            proxy.wire()
        assert error.value.sqlstate == "53300"
        with proxy.wire(user="app2") as other:
            assert other.value("SELECT 1") == "1"


def test_driver_with_a_password(make_proxy):
    proxy = make_proxy(auth_type="scram-sha-256")
    with proxy.connect(dbname="pgshunt", user=ADMIN, password=ADMIN_PASSWORD,
                       autocommit=True) as conn:
        assert conn.execute("SHOW VERSION").fetchone()
    with pytest.raises(psycopg.OperationalError):
        proxy.connect(user="u_scram", password="wrong")
