# SPDX-License-Identifier: PostgreSQL
"""auth_query: users that the server knows and the users file does not."""
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

import pgwire
from certs import Authority, TlsConn, closed
from pgwire import LoginError, wait_for
from proxy import ADMIN, ADMIN_PASSWORD, STATS, STATS_PASSWORD, ConsoleError
from servers import SLOW, subfolder

# No secret of any user but those of the console.
SECRETS = {ADMIN: ADMIN_PASSWORD, STATS: STATS_PASSWORD}

LOOKUP = """
CREATE TABLE asked (name text);
CREATE FUNCTION lookup(name text) RETURNS TABLE (rolname text, secret text)
    LANGUAGE sql VOLATILE SECURITY DEFINER AS $$
    INSERT INTO public.asked VALUES (name);
    SELECT usename::text, passwd FROM pg_catalog.pg_shadow WHERE usename = name $$;
"""
ASK = "SELECT * FROM lookup($1)"


@pytest.fixture(scope="module")
def asked_pg(pg):
    for dbname in ("p1", "p2"):
        pg.sql(LOOKUP, dbname)
    yield pg
    for dbname in ("p1", "p2"):
        pg.sql("DROP FUNCTION lookup; DROP TABLE asked", dbname)


@pytest.fixture
def make(make_proxy, asked_pg):
    for dbname in ("p1", "p2"):
        asked_pg.sql("TRUNCATE asked", dbname)

    def make(**kwargs):
        return make_proxy(**{"auth_type": "md5", "auth_user": "postgres", "secrets": SECRETS,
                             "auth_query": ASK, **kwargs})
    return make


def asked(pg, dbname="p1"):
    return [row[0] for row in pg.sql("SELECT name FROM asked", dbname)]


def login(proxy, user, password, dbname="p1"):
    with proxy.wire(dbname, user, password) as conn:
        return conn.value("SELECT current_user")


def refused(proxy, user, password, dbname="p1"):
    with pytest.raises(LoginError) as error:
        proxy.wire(dbname, user, password)
    return error.value


@pytest.mark.parametrize("auth_type", ["md5", "scram-sha-256", "plain", "hba"])
def test_login(make_proxy, folder, auth_type):
    """The default query; the secret also serves at the server, which asks for it."""
    proxy = make_proxy(start=False, auth_type=auth_type, auth_user="postgres", secrets=SECRETS)
    if auth_type == "hba":
        proxy.settings["auth_hba_file"] = "hba"
        with open(proxy.folder + "/hba", "w") as hba:
            hba.write("host all all all md5\n")
    proxy.write()
    proxy.start()
    for _ in range(3):
        assert login(proxy, "u_scram", "scram secret") == "u_scram"
        with proxy.connect(user="u_scram", password="scram secret") as conn:
            assert conn.execute("SELECT current_user").fetchone() == ("u_scram",)
        if auth_type in ("md5", "hba"):
            assert login(proxy, "u_md5", "md5 secret") == "u_md5"
    for user in ("u_scram", "u_md5", "no such user", "x" * 200, 'odd "one"'):
        error = refused(proxy, user, "wrong")
        assert error.sqlstate == "28P01"
        assert error.fields["M"] == ('password authentication failed for user "%s"' % user[:120])
    # A role without a password, and one that may not log in.
    assert refused(proxy, "app", "x").sqlstate == "28P01"
    assert refused(proxy, "pg_monitor", "x").sqlstate == "28P01"


@pytest.mark.parametrize("auth_type", ["md5", "scram-sha-256", "plain", "trust"])
def test_names_that_a_server_would_cut(make, asked_pg, auth_type):
    """The server takes the first 63 bytes: rules of HBA and holds, which go by the whole name, must not be got
    round with it."""
    role = "r" * 63
    asked_pg.sql("CREATE ROLE %s LOGIN PASSWORD 'long'" % role)
    try:
        proxy = make(auth_type=auth_type, databases={"p1": "pg", "*": "pg"})
        if auth_type != "trust":
            assert login(proxy, role, "long") == role
        for user in (role + "r", role + "x" * 100):
            error = refused(proxy, user, "long")
            assert error.sqlstate == ("28000" if auth_type == "trust" else "28P01"), error
        assert set(asked(asked_pg)) <= {role}
    finally:
        asked_pg.sql("DROP ROLE " + role)


def test_databases_that_a_server_would_cut(make_proxy, pg):
    name = "d" * 63
    pg.sql("CREATE DATABASE " + name)
    proxy = make_proxy(databases={"p1": "pg", "*": "pg"}, users=None)
    try:
        with proxy.wire(name, "app") as conn:
            assert conn.value("SELECT current_database()") == name
        proxy.command("HOLD " + name)
        for longer in (name + "d", name + "x" * 100):
            error = refused(proxy, "app", None, longer)
            assert error.sqlstate == "3D000" and "does not exist" in error.fields["M"]
            with pytest.raises(ConsoleError) as console:
                proxy.command("HOLD " + longer)
            assert console.value.sqlstate == "3D000"
        proxy.command("RELEASE " + name)
    finally:
        proxy.stop()
        pg.sql("DROP DATABASE " + name)


def test_expired_password(make_proxy, pg):
    """CVE-2025-2291 of pgbouncer: VALID UNTIL counts."""
    pg.sql("CREATE ROLE expired LOGIN PASSWORD 'x' VALID UNTIL 'yesterday'")
    try:
        proxy = make_proxy(auth_type="scram-sha-256", auth_user="postgres", secrets=SECRETS)
        assert refused(proxy, "expired", "x").sqlstate == "28P01"
        pg.sql("ALTER ROLE expired VALID UNTIL 'tomorrow'")
        proxy.command("RELOAD")
        assert login(proxy, "expired", "x") == "expired"
        proxy.stop()
    finally:
        pg.sql("DROP ROLE expired")


def test_who_is_in_the_file_is_not_asked_for(make, asked_pg):
    proxy = make(secrets={**SECRETS, "u_scram": "scram secret"})
    assert login(proxy, "u_scram", "scram secret") == "u_scram"
    assert asked(asked_pg) == []


def test_answers_are_cached(make, asked_pg):
    proxy = make(workers=1)
    for _ in range(5):
        login(proxy, "u_scram", "scram secret")
        refused(proxy, "nobody here", "x")
    assert sorted(asked(asked_pg)) == ["nobody here", "u_scram"]
    # RELOAD asks again.
    proxy.command("RELOAD")
    login(proxy, "u_scram", "scram secret")
    assert asked(asked_pg).count("u_scram") == 2


@pytest.fixture
def changing(asked_pg):
    """Makes the role, and gives it another password."""
    def change(password, encryption="scram-sha-256", more=""):
        asked_pg.sql("SET password_encryption = '%s'; ALTER ROLE changing PASSWORD '%s' %s" % (encryption, password, more))
    asked_pg.sql("CREATE ROLE changing LOGIN")
    yield change
    asked_pg.sql("DROP ROLE changing")


@pytest.mark.parametrize("auth_type, encryption", [("plain", "scram-sha-256"), ("plain", "md5"), ("md5", "md5")])
def test_changed_password(make, asked_pg, changing, auth_type, encryption):
    """A password that does not fit what is known of the user is not refused before the server has been asked
    again; but that is done once in a while only."""
    changing("old", encryption)
    proxy = make(auth_type=auth_type, auth_cache_age="1h", auth_cache_absent_age="1min", workers=1)
    with proxy.wire("p1", "changing", "old") as conn:
        conn.value("SELECT 1")
    changing("new", encryption)
    for _ in range(3):
        assert login(proxy, "changing", "new") == "changing"
    assert asked(asked_pg) == ["changing"] * 2
    for _ in range(10):
        assert refused(proxy, "changing", "old").sqlstate == "28P01"
    assert asked(asked_pg) == ["changing"] * 2
    proxy.stop()


@pytest.mark.parametrize("auth_type", ["scram-sha-256", "md5"])
def test_changed_password_scram(make, asked_pg, changing, auth_type):
    """By SCRAM the first attempt has been given the former salt; the next one gets in."""
    changing("old")
    proxy = make(auth_type=auth_type, auth_cache_age="1h", auth_cache_absent_age="1min", workers=1)
    assert login(proxy, "changing", "old") == "changing"
    changing("new")
    assert refused(proxy, "changing", "new").sqlstate == "28P01"
    for _ in range(3):
        assert login(proxy, "changing", "new") == "changing"
    for _ in range(10):
        assert refused(proxy, "changing", "old").sqlstate == "28P01"
    assert asked(asked_pg) == ["changing"] * 2
    proxy.stop()


@pytest.mark.parametrize("auth_type, encryption", [("plain", "scram-sha-256"), ("md5", "md5"), ("md5", "scram-sha-256"),
                                                   ("scram-sha-256", "scram-sha-256")])
def test_pgbouncer_asks_each_time(make, asked_pg, changing, auth_type, encryption):
    """What the role is counts from the next login on, as with pgbouncer."""
    changing("old", encryption)
    proxy = make(as_pgbouncer=True, auth_type=auth_type, auth_cache_age="1h", auth_cache_absent_age="1min")
    for n in range(5):
        password = "password %d" % n
        changing(password, encryption)
        for _ in range(2):
            assert login(proxy, "changing", password) == "changing"
        assert refused(proxy, "changing", "old").sqlstate == "28P01"
    assert asked(asked_pg) == ["changing"] * 15
    changing("new", encryption, "NOLOGIN")
    asked_pg.sql("CREATE OR REPLACE FUNCTION lookup(name text) RETURNS TABLE (rolname text, secret text) "
                 "LANGUAGE sql SECURITY DEFINER AS $$ SELECT a.rolname::text, rolpassword FROM pg_authid a "
                 "WHERE a.rolname = name AND rolcanlogin $$", "p1")
    try:
        assert refused(proxy, "changing", "new").sqlstate == "28P01"
    finally:
        asked_pg.sql("DROP FUNCTION lookup; DROP TABLE asked; " + LOOKUP, "p1")
    proxy.stop()


@pytest.mark.parametrize("auth_type", ["plain", "md5", "scram-sha-256"])
def test_pgbouncer_knows_who_was_just_made(make, asked_pg, auth_type):
    """That there was no such user is not believed for a while."""
    proxy = make(as_pgbouncer=True, auth_type=auth_type, auth_cache_absent_age="1min")
    assert refused(proxy, "just_made", "new").sqlstate == "28P01"
    asked_pg.sql("CREATE ROLE just_made LOGIN PASSWORD 'new'")
    try:
        assert login(proxy, "just_made", "new") == "just_made"
        proxy.stop()
    finally:
        asked_pg.sql("DROP ROLE just_made")


@pytest.mark.parametrize("mode, auth_type", [("session", "scram-sha-256"), ("transaction", "md5"),
                                             ("transaction", "plain")])
def test_role_that_is_made_anew(make, asked_pg, mode, auth_type):
    """Another secret may be that of another role: nobody gets a server connection of the former one."""
    anew = ("DROP ROLE IF EXISTS fleeting; SET password_encryption = '%s'; CREATE ROLE fleeting LOGIN PASSWORD '%%s'"
            % ("scram-sha-256" if auth_type == "scram-sha-256" else "md5"))
    proxy = make(as_pgbouncer=auth_type != "plain", auth_type=auth_type, pool_mode=mode, auth_cache_age="1h",
                 auth_cache_absent_age="1ms", workers=2)
    try:
        asked_pg.sql(anew % "0", "p1")
        with proxy.wire("p1", "fleeting", "0") as stays:
            assert stays.value("SELECT current_user") == "fleeting"
            assert login(proxy, "fleeting", "0") == "fleeting"
            for n in "123":
                asked_pg.sql(anew % n, "p1")
                for _ in range(2):
                    assert login(proxy, "fleeting", n) == "fleeting"
            if mode == "transaction":
                assert stays.value("SELECT current_user") == "fleeting"
        proxy.stop()
    finally:
        asked_pg.sql("DROP ROLE fleeting")


def test_flood_of_one_unknown_user_as_pgbouncer(make, asked_pg):
    """Each attempt may be a question then; those at a time are one, and keep off nobody else."""
    proxy = make(as_pgbouncer=True, workers=1)
    asked_pg.sql(LOOKUP.split("CREATE FUNCTION")[1].join(["CREATE OR REPLACE FUNCTION", ""]).replace(
        "$$\n", "$$\n    SELECT pg_sleep(0.2);", 1), "p1")
    try:
        with ThreadPoolExecutor(30) as pool:
            attackers = [pool.submit(refused, proxy, "attacker", "x") for _ in range(30)]
            assert login(proxy, "u_md5", "md5 secret") == "u_md5"
            assert {attacker.result().sqlstate for attacker in attackers} == {"28P01"}
        assert asked(asked_pg).count("attacker") <= 3
    finally:
        asked_pg.sql("DROP FUNCTION lookup; DROP TABLE asked; " + LOOKUP, "p1")


@pytest.mark.parametrize("theirs", [False, True], ids=["pgshunt", "as pgbouncer"])
def test_changed_password_opens_the_pool(make, asked_pg, changing, theirs):
    """An old client makes the pool fail with the password that the server knows no more: who brings the new one
    is served, and the old client then, too."""
    changing("old", "md5")
    proxy = make(as_pgbouncer=theirs, auth_cache_age="0", server_login_retry="1h", workers=1)
    with proxy.wire("p1", "changing", "old") as old:
        old.value("SELECT 1")
        changing("new", "md5")
        proxy.command("RECONNECT")
        wait_for(lambda: not asked_pg.sessions("p1", "changing"), what="the end of the connection")
        # pg_hba.conf trusts the role: what fails is its right to log in.
        asked_pg.sql("ALTER ROLE changing NOLOGIN")
        assert pgwire.errors(old.query("SELECT 1"))
        asked_pg.sql("ALTER ROLE changing LOGIN")
        for _ in range(3):
            assert login(proxy, "changing", "new") == "changing"
        assert not pgwire.errors(old.query("SELECT 1"))
    proxy.stop()


def test_pgbouncer_knows_while_nobody_can_be_asked(make, make_cluster, asked_pg):
    """An answer serves while the database in which is asked is paused, or its server gone: then for
    auth_cache_age."""
    apart = make_cluster("apart")
    apart.sql(LOOKUP)
    proxy = make(servers={"pg": asked_pg, "apart": apart}, as_pgbouncer=True, auth_dbname="ask", auth_cache_age="1h",
                 auth_query_timeout="1s", workers=1,
                 databases={"p1": "pg", "ask": {"server": "apart", "dbname": "postgres"}})
    assert login(proxy, "u_md5", "md5 secret") == "u_md5"
    assert asked(apart, "postgres") == ["u_md5"]
    proxy.command("PAUSE ask")
    assert login(proxy, "u_md5", "md5 secret") == "u_md5"
    proxy.command("RESUME ask")
    assert asked(apart, "postgres") == ["u_md5"]
    apart.stop()
    for _ in range(3):
        assert login(proxy, "u_md5", "md5 secret") == "u_md5"
        assert refused(proxy, "u_md5", "wrong").sqlstate == "28P01"
    assert "could not look the user up" not in refused(proxy, "u_md5", "wrong").fields["M"]
    assert refused(proxy, "u_clear", "clear secret").sqlstate != "28P01"
    end = time.monotonic() + 1  # longer than server_login_retry: now and then it is tried
    while time.monotonic() < end:
        assert login(proxy, "u_md5", "md5 secret") == "u_md5"
    apart.start()
    pgwire.wait_for(lambda: login(proxy, "u_md5", "md5 secret") and len(asked(apart, "postgres")) > 1, 20 * SLOW,
                    "the next question")


def test_flood_of_unknown_users(make, asked_pg):
    """Logins at a time with one name are one question."""
    proxy = make(workers=1, auth_cache_absent_age="1min")
    errors = []

    def attack():
        for _ in range(5):
            errors.append(refused(proxy, "attacker", "x").sqlstate)
    threads = [threading.Thread(target=attack) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == ["28P01"] * 50
    assert asked(asked_pg) == ["attacker"]


def test_other_database_and_role(make, asked_pg):
    asked_pg.sql("CREATE ROLE asker LOGIN PASSWORD 'asker secret'; GRANT pg_read_all_data TO asker")
    try:
        proxy = make(start=False, auth_dbname="p2", auth_user="asker")
        with open(proxy.folder + "/asker", "w") as out:
            out.write("asker secret\n")
        proxy.settings["auth_password_file"] = "asker"
        proxy.databases["p3"] = {"server": "pg", "dbname": "p1", "auth_dbname": "p1",
                                 "auth_user": "postgres",
                                 "auth_query": "SELECT 'u_md5', 'sesame' WHERE $1 = 'u_md5'"}
        proxy.write()
        proxy.start()
        assert login(proxy, "u_scram", "scram secret") == "u_scram"
        assert asked(asked_pg, "p2") == ["u_scram"] and asked(asked_pg, "p1") == []
        # The database's own question: a plain password, which the server would not take.
        assert refused(proxy, "u_scram", "scram secret", "p3").sqlstate == "28P01"
        with pytest.raises(LoginError) as error:
            proxy.wire("p3", "u_md5", "sesame").value("SELECT 1")
        assert "could not get a server connection" in error.value.fields["D"]
        assert asked(asked_pg, "p1") == []
        # The console asks in auth_dbname.
        proxy.settings["admin_users"] = [ADMIN, "u_scram"]
        proxy.reload()

        def admitted():
            try:
                with proxy.console(user="u_scram", password="scram secret") as console:
                    return console("SHOW VERSION")
            except LoginError:
                return None
        wait_for(admitted, what="the console")
        proxy.stop()
    finally:
        asked_pg.sql("DROP ROLE asker")


def test_nothing_of_the_client_reaches_the_question(make, asked_pg):
    """CVE-2025-12819 of pgbouncer: search_path (or anything) in the StartupMessage of a client that
    is not authenticated ran its code as auth_user."""
    asked_pg.sql("CREATE SCHEMA evil; CREATE TABLE evil.ran (who text); "
                 "GRANT ALL ON SCHEMA evil TO PUBLIC; "
                 "CREATE FUNCTION evil.lookup(name text) RETURNS TABLE (rolname text, secret text) "
                 "LANGUAGE sql AS $$ INSERT INTO evil.ran VALUES (current_user); "
                 "SELECT name, 'let me in' $$", "p1")
    try:
        proxy = make(workers=1, auth_cache_age="0", auth_cache_absent_age="0", pool_size=1)
        for params in ({"search_path": "evil, public"}, {"options": "-c search_path=evil,public"},
                       {"role": "app", "search_path": "evil"}):
            with pytest.raises(LoginError) as error:
                with pgwire.Conn(proxy.host, proxy.port) as conn:
                    conn.login("new user", "p1", "let me in", **params)
            assert error.value.sqlstate == "28P01"
        # Nor what a client of the same role has set on a server connection in its pool.
        proxy.settings["auth_type"] = "trust"
        proxy.reload()

        def trusted():
            try:
                return proxy.wire(user="postgres")
            except LoginError:
                return None
        with wait_for(trusted, what="trust") as conn:
            conn.query("SET search_path TO evil, public")
            proxy.settings["auth_type"] = "md5"
            proxy.command("SHOW VERSION")
            proxy.reload()
            wait_for(lambda: refused(proxy, "new user", "let me in"), what="the question")
            assert conn.value("SHOW search_path") == "evil, public"
        assert asked_pg.sql("SELECT * FROM evil.ran", "p1") == []
        assert "new user" in asked(asked_pg)
        proxy.stop()
    finally:
        asked_pg.sql("DROP SCHEMA evil CASCADE", "p1")


@pytest.mark.parametrize("query, reason", [
    ("SELECT 'u_md5', 'x' WHERE $1::text <> ''", "the user's name and its password"),
    ("SELECT $1::text", "the user's name and its password"),
    ("SELECT $1::text, 'a' UNION ALL SELECT $1::text, 'b'", "more than one row"),
    ("SELECT no_such_function($1)", "does not exist"),
    ("SELECT $1::text, 'SCRAM-SHA-256$nonsense'", "malformed SCRAM secret"),
])
def test_wrong_question(make_proxy, query, reason):
    """Nobody gets in, and the client is told something else than that its password is wrong."""
    proxy = make_proxy(auth_type="scram-sha-256", auth_user="postgres", secrets=SECRETS,
                       auth_query=query)
    error = refused(proxy, "app", "x")
    assert error.sqlstate != "28P01" and error.fields["S"] == "FATAL"
    assert reason in error.fields["M"]


def test_slow_answer(make_proxy):
    proxy = make_proxy(auth_type="scram-sha-256", auth_user="postgres", auth_query_timeout="300ms",
                       secrets={**SECRETS, "app": "sesame"},
                       auth_query="SELECT $1::text, pg_sleep(60)::text")
    began = time.monotonic()
    assert refused(proxy, "u_scram", "x").sqlstate == "57P05"
    assert time.monotonic() - began < 20 * SLOW
    assert login(proxy, "app", "sesame") == "app"


def test_server_that_is_down(make, asked_pg):
    proxy = make(start=False, server_login_retry="50ms", auth_query_timeout="500ms")
    port = proxy.servers["pg"]["port"]
    proxy.servers["pg"]["port"] = 1
    proxy.write()
    proxy.start()
    error = refused(proxy, "u_scram", "scram secret")
    assert error.fields["M"].startswith("could not look the user up: ")
    assert "refused" in error.fields["M"]
    proxy.servers["pg"]["port"] = port
    proxy.reload()

    def again():
        try:
            return login(proxy, "u_scram", "scram secret")
        except LoginError:
            return None
    assert wait_for(again, what="a login") == "u_scram"


def test_trust_and_forced_user(make, asked_pg):
    """With trust the answer says who exists, and serves at the server."""
    proxy = make(auth_type="trust", databases={
        "p1": "pg", "p2": {"server": "pg", "user": "app", "auth_dbname": "p1"}})
    assert login(proxy, "u_md5", None) == "u_md5"
    with proxy.wire("p2", "u_md5") as conn:
        assert conn.value("SELECT session_user") == "app"
    error = refused(proxy, "whoever", None, "p2")
    assert (error.sqlstate, error.fields["M"]) == ("28000", "no such user")
    assert asked(asked_pg) == ["u_md5", "whoever"]
    proxy.settings["auth_type"] = "scram-sha-256"
    proxy.reload()
    wait_for(lambda: "configuration read again" in proxy.log(), what="the reload")
    with proxy.wire("p2", "u_scram", "scram secret") as conn:
        assert conn.value("SELECT session_user") == "app"
    assert refused(proxy, "u_scram", "x", "p2").sqlstate == "28P01"


def test_fallback_database(make, asked_pg):
    """Databases that the configuration does not name: asked in them, or in auth_dbname."""
    proxy = make(databases={"*": "pg"})
    assert login(proxy, "u_scram", "scram secret", "p2") == "u_scram"
    assert asked(asked_pg, "p2") == ["u_scram"]
    assert refused(proxy, "u_scram", "wrong", "p1").sqlstate == "28P01"
    error = refused(proxy, "u_scram", "scram secret", "not there")
    assert error.sqlstate == "3D000" and 'database "not there" does not exist' in error.fields["M"]
    # pgbouncer says what the server says.
    theirs = make(databases={"*": "pg"}, as_pgbouncer=True, log_level="info")
    error = refused(theirs, "u_scram", "scram secret", "not there")
    assert error.sqlstate == "3D000" and error.fields["M"] == 'database "not there" does not exist'
    theirs.stop()
    assert 'closing because: database "not there" does not exist (age' in theirs.log()
    assert theirs.log().count("registered new auto-database: not there") == 1
    other = make(databases={"*": {"server": "pg", "auth_dbname": "p1"}, "p1": "pg"})
    assert login(other, "u_scram", "scram secret", "p2") == "u_scram"
    assert asked(asked_pg, "p1").count("u_scram") == 2


def test_made_up_databases(make_proxy):
    """Names of databases that nobody has are not remembered without bound."""
    proxy = make_proxy(databases={"*": "pg"}, auth_type="md5", auth_user="postgres",
                       secrets=SECRETS, workers=1, log_level="info", server_login_retry="10s")
    for n in range(520):
        assert refused(proxy, "u_scram", "x", "made up %d" % n).fields["S"] == "FATAL"
    assert refused(proxy, "u_scram", "scram secret", "p1").sqlstate == "28P01"
    assert 'too many databases that only "*" stands for' in proxy.log()


# --- hold and swap ------------------------------------------------------------------------------

def test_held_database_is_not_asked(make, asked_pg):
    """What is known serves, however old; who is not known waits until the release."""
    proxy = make(auth_cache_age="0", workers=1)
    assert login(proxy, "u_scram", "scram secret", "p2") == "u_scram"
    assert asked(asked_pg, "p2") == ["u_scram"]
    proxy.hold("p2", "LEASE NONE")
    with proxy.wire("p2", "u_scram", "scram secret") as conn:
        conn.send(pgwire.query("SELECT 1"))
        late = []
        thread = threading.Thread(target=lambda: late.append(login(proxy, "u_md5", "md5 secret",
                                                                   "p2")))
        thread.start()
        assert login(proxy, "u_md5", "md5 secret", "p1") == "u_md5"
        assert late == [] and asked(asked_pg, "p2") == ["u_scram"]
        proxy.command("RELEASE p2")
        thread.join(30 * SLOW)
        assert late == ["u_md5"]
        assert "Z" in pgwire.kinds(conn.ready())


class Bound(TlsConn):
    """Logged in by SCRAM-SHA-256-PLUS over TLS, direct or after a request for it."""

    def __init__(self, proxy, direct, user, dbname="p2", password="scram secret"):
        super().__init__(proxy.host, proxy.port, direct=direct)
        try:
            offered = self.scram(user, dbname, password, b"p=tls-server-end-point,,", self.binding())
        except BaseException:
            self.close()
            raise
        assert b"SCRAM-SHA-256-PLUS" in offered

    def cancel_over(self, how):
        """A CancelRequest in the clear, as libpq up to 16 sends it, or over TLS of either kind."""
        with (pgwire.Conn(*self.address) if how == "clear" else
              TlsConn(*self.address, direct=how == "direct TLS")) as other:
            other.send(pgwire.untyped(pgwire.CANCEL_REQUEST.to_bytes(4, "big") + b"".join(self.key)))
            assert closed(other.sock)


@pytest.mark.parametrize("direct", [False, True], ids=["TLS", "direct TLS"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["own database", "auth_dbname"])
@pytest.mark.threads
def test_bound_logins_and_cancels_in_a_hold(make_proxy, asked_pg, other, folder, direct, elsewhere):
    """TLS, SCRAM-SHA-256-PLUS, auth_query: logins and cancels while the database drains, is held and has
    been swapped.  Neither server is asked about it before the release, and then only the new one."""
    secret = pgwire.scram_secret("scram secret")  # the same on both, as on a standby
    for cluster in (asked_pg, other):
        cluster.sql("DROP ROLE IF EXISTS known; CREATE ROLE known LOGIN PASSWORD '%s'; DROP ROLE IF EXISTS late; "
                    "CREATE ROLE late LOGIN PASSWORD '%s'" % (secret, secret))
        for dbname in ("p1", "p2"):
            if cluster is other:
                cluster.sql("DROP TABLE IF EXISTS asked; DROP FUNCTION IF EXISTS lookup", dbname)
            cluster.sql("TRUNCATE asked" if cluster is asked_pg else LOOKUP, dbname)
    authority = Authority(subfolder(folder), "asked-ca")
    cert, key = authority.issue("proxy", "/CN=localhost", "DNS:localhost")
    proxy = make_proxy({"pg": asked_pg, "other": other}, auth_type="scram-sha-256", auth_user="postgres",
                       auth_query=ASK, auth_cache_age="0", secrets=SECRETS, client_tls_sslmode="require",
                       client_tls_cert_file=cert, client_tls_key_file=key, hold_wait_timeout="0",
                       **({"auth_dbname": "p1"} if elsewhere else {}))
    threads, arrived = [], []

    def comes_later(user):
        def come():
            try:
                with Bound(proxy, direct, user) as conn:
                    arrived.append((user, conn.value("SHOW cluster_name")))
            except LoginError as error:
                arrived.append((user, error.sqlstate))
        threads.append(threading.Thread(target=come))
        threads[-1].start()

    # The console has TLS, too, and is in the users file.
    with TlsConn(proxy.host, proxy.port, direct=direct) as console, \
            Bound(proxy, direct, "known") as busy, Bound(proxy, direct, "known") as waits:
        console.login(ADMIN, "pgshunt", ADMIN_PASSWORD)

        def command(text):
            messages = console.query(text)
            assert not pgwire.errors(messages), pgwire.errors(messages)
            return pgwire.rows(messages)

        def held(count):
            def check():
                messages = console.query("SHOW HOLDS")
                columns = [msg.columns() for msg in messages if msg.kind == "T"][0]
                row = [dict(zip(columns, row)) for row in pgwire.rows(messages)]
                return [r for r in row if r["database"] == "p2"][0]["held"] == str(count)
            wait_for(check, 20 * SLOW, "%d held requests" % count)

        busy.send(pgwire.query("SELECT pg_sleep(60)"))
        wait_for(lambda: asked_pg.value("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' "
                                        "AND query = 'SELECT pg_sleep(60)'"), what="the query")
        command("HOLD p2 NOWAIT LEASE NONE DRAIN 60s")  # and it drains as long as the query runs
        before = {(cluster.name, dbname): asked(cluster, dbname) for cluster in (asked_pg, other)
                  for dbname in ("p1", "p2")}
        waits.send(pgwire.query("SELECT 1"))
        held(1)
        with Bound(proxy, direct, "known") as fresh:  # its secret is known, however old
            fresh.send(pgwire.query("SELECT 2"))
            held(2)
            for how in ("clear", "TLS", "direct TLS"):
                fresh.cancel_over(how)
                assert pgwire.errors(fresh.ready("I"))[0]["C"] == "57014"
                fresh.send(pgwire.query("SELECT 3"))
                held(2)
        held(1)
        busy.cancel_over("direct TLS" if direct else "TLS")  # of a statement that the hold waits for
        assert pgwire.errors(busy.ready("I"))[0]["C"] == "57014"
        wait_for(lambda: "draining -> held" in proxy.log(), 20 * SLOW, "the end of the drain")

        # A typing error is an error at once, and does not lock out who then gets it right.
        for _ in range(2):
            with pytest.raises(LoginError) as error:
                Bound(proxy, direct, "known", password="wrong")
            assert error.value.sqlstate == "28P01"
        with Bound(proxy, direct, "known") as fresh:
            fresh.send(pgwire.query("SHOW cluster_name"))
            held(2)
            comes_later("late")
            comes_later("nobody at all")
            time.sleep(0.3)
            if elsewhere:
                wait_for(lambda: ("nobody at all", "28P01") in arrived, 20 * SLOW, "the refusal")
                held(3)  # "late" is logged in and has asked something
            else:
                assert arrived == []
            for cluster in (asked_pg, other):
                assert asked(cluster, "p2") == before[cluster.name, "p2"]
            command("SWAP p2 TO other FORCE")
            with Bound(proxy, direct, "known"):
                pass
            time.sleep(0.2)
            for cluster in (asked_pg, other):
                assert asked(cluster, "p2") == before[cluster.name, "p2"]
            command("RELEASE p2")
            assert pgwire.rows(fresh.ready("I")) == [["other"]]
        for thread in threads:
            thread.join(30 * SLOW)
        assert sorted(arrived) == [("late", "other"), ("nobody at all", "28P01")]
        assert not pgwire.errors(waits.ready("I")) and waits.value("SHOW cluster_name") == "other"
        assert busy.value("SHOW cluster_name") == "other"
        # The old server was never asked again; where it is the own database, only the new one was.
        assert asked(asked_pg, "p2") == before["pg", "p2"]
        if elsewhere:
            assert asked(other, "p2") == []
            assert {"late", "nobody at all"} <= set(asked(asked_pg, "p1"))
        else:
            assert {"late", "nobody at all"} <= set(asked(other, "p2"))
            assert asked(asked_pg, "p1") == asked(other, "p1") == []
    proxy.stop()
    for cluster in (asked_pg, other):
        cluster.sql("DROP ROLE late; DROP ROLE known")


def test_login_during_a_hold_asks_elsewhere(make, asked_pg):
    proxy = make(auth_dbname="p1", workers=1)
    assert login(proxy, "u_md5", "md5 secret", "p2") == "u_md5"
    proxy.hold("p2", "LEASE NONE")
    with proxy.wire("p2", "u_scram", "scram secret") as conn:
        proxy.command("RELEASE p2")
        assert conn.value("SELECT current_user") == "u_scram"
    assert sorted(asked(asked_pg, "p1")) == ["u_md5", "u_scram"]


def test_keys_serve_on_both_sides_of_a_swap(make_cluster, make_proxy, asked_pg):
    """What was learned from a login serves at the standby as it did at the primary."""
    pg2 = make_cluster.standby(asked_pg, "pg2")
    proxy = make_proxy(servers={"pg1": asked_pg, "pg2": pg2}, databases={"p1": "pg1", "p2": "pg1"},
                       auth_type="md5", auth_user="postgres", secrets=SECRETS)
    conns = [proxy.wire("p2", user, password) for user, password in
             (("u_scram", "scram secret"), ("u_md5", "md5 secret"))]
    for conn in conns:
        conn.value("SELECT 1")
    row = proxy.command("PREPARE SWAP p2 TO pg2")[0]
    assert row["failed"] == "0" and int(row["connections"]) >= 2
    proxy.hold("p2", "LEASE NONE")
    proxy.command("SWAP p2 TO pg2 FORCE")
    proxy.command("RELEASE p2")
    for conn in conns:
        assert conn.value("SHOW cluster_name") == "pg2"
        conn.close()
    assert login(proxy, "u_scram", "scram secret", "p2") == "u_scram"


def test_many_logins_at_once(make_proxy):
    proxy = make_proxy(auth_type="scram-sha-256", auth_user="postgres", secrets=SECRETS,
                       auth_cache_age="0")
    failed = []

    def work():
        try:
            for _ in range(10):
                with psycopg.connect(host=proxy.host, port=proxy.port, dbname="p1", user="u_scram",
                                     password="scram secret") as conn:
                    assert conn.execute("SELECT 1").fetchone() == (1,)
        except Exception as error:
            failed.append(error)
    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


@pytest.mark.parametrize("auth_type", ["md5", "scram-sha-256"])
def test_age_of_answers(make, asked_pg, auth_type):
    """Within it the old password serves, and after it only the new one, without a failed login."""
    asked_pg.sql("CREATE ROLE changing LOGIN PASSWORD 'old'")
    try:
        proxy = make(auth_cache_age="3s", workers=1, auth_type=auth_type)
        assert login(proxy, "changing", "old") == "changing"
        asked_pg.sql("ALTER ROLE changing PASSWORD 'new'")
        assert login(proxy, "changing", "old") == "changing"
        assert asked(asked_pg) == ["changing"]
        time.sleep(3.2)
        assert login(proxy, "changing", "new") == "changing"
        assert asked(asked_pg) == ["changing"] * 2
        assert refused(proxy, "changing", "old").sqlstate == "28P01"
        # One that may no longer log in, or is gone.
        asked_pg.sql("ALTER ROLE changing NOLOGIN")
        time.sleep(3.2)
        proxy.command("RECONNECT")
        with pytest.raises(LoginError):
            login(proxy, "changing", "new")
        asked_pg.sql("ALTER ROLE changing LOGIN PASSWORD NULL")
        time.sleep(3.2)
        assert refused(proxy, "changing", "new").sqlstate == "28P01"
        # 0: every login asks.
        proxy.command("SET auth_cache_age = '0'")
        for password in ("third", "fourth"):
            asked_pg.sql("ALTER ROLE changing PASSWORD '%s'" % password)
            assert login(proxy, "changing", password) == "changing"
        proxy.stop()
    finally:
        asked_pg.sql("DROP ROLE changing")
