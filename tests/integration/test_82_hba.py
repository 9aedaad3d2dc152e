# SPDX-License-Identifier: PostgreSQL
"""auth_type hba: rules of pg_hba.conf, maps of pg_ident.conf, and the other ways to log in."""
import getpass
import os

import psycopg
import pytest

import pgwire
from pgwire import LoginError, md5_secret, scram_secret, wait_for
from proxy import ADMIN, ADMIN_PASSWORD, USERS, ConsoleError
from servers import BINDIR, run, subfolder

CONSOLE = "host pgshunt,pgbouncer all 127.0.0.1/32 scram-sha-256\n"


@pytest.fixture
def make_hba(make_proxy, folder):
    def make(hba, ident=None, **kwargs):
        proxy = make_proxy(start=False, auth_type="hba", auth_hba_file="hba.conf", **kwargs)
        proxy.hba_path = os.path.join(proxy.folder, "hba.conf")
        write(proxy.hba_path, CONSOLE + hba)
        if ident is not None:
            proxy.settings["auth_ident_file"] = "ident.conf"
            write(os.path.join(proxy.folder, "ident.conf"), ident)
        proxy.write()
        return proxy.start()
    return make


def write(path, text):
    with open(path, "w") as out:
        out.write(text)


def refusal(proxy, **kwargs):
    with pytest.raises(LoginError) as error:
        proxy.wire(**kwargs)
    return error.value


def test_first_rule_that_fits_decides(make_hba):
    proxy = make_hba("host p1 app 127.0.0.1/32 reject\n"
                     "host p1 all 10.0.0.0/8 trust\n"
                     "hostssl p1 all all trust\n"
                     "host p1 u_scram samehost scram-sha-256\n"
                     "host p1 u_md5 127.0.0.0 255.255.0.0 md5\n"
                     "host p1 u_clear 127.0.0.1/32 password\n"
                     "host p2 /^app[0-9]$ all trust\n"
                     "host sameuser all all trust\n",
                     databases={"p1": "pg", "p2": "pg", "app": {"server": "pg", "dbname": "p1"}})
    error = refusal(proxy)
    assert error.sqlstate == "28000" and error.fields["S"] == "FATAL"
    assert error.fields["M"] == ('pg_hba.conf rejects connection for host "127.0.0.1", user "app", '
                                 'database "p1", no encryption')
    error = refusal(proxy, user="app2")
    assert error.sqlstate == "28000"
    assert error.fields["M"] == ('no pg_hba.conf entry for host "127.0.0.1", user "app2", '
                                 'database "p1", no encryption')
    for user, method in (("u_scram", 10), ("u_md5", 5), ("u_clear", 3)):
        with pgwire.Conn(proxy.host, proxy.port) as conn:
            conn.send(pgwire.startup({"user": user, "database": "p1"}))
            assert conn.recv().body[:4] == bytes([0, 0, 0, method])
        with proxy.connect(user=user, password=USERS[user]) as conn:
            assert conn.execute("SELECT current_user").fetchone() == (user,)
        assert refusal(proxy, user=user, password="wrong").sqlstate == "28P01"
    with proxy.wire("p2", "app2") as conn:
        assert conn.value("SELECT current_user") == "app2"
    assert refusal(proxy, dbname="p2").sqlstate == "28000"
    with proxy.wire("app", "app") as conn:
        assert conn.value("SELECT current_user") == "app"
    # Whether a database exists is told to those only whom a rule lets in.
    assert refusal(proxy, dbname="nowhere").sqlstate == "28000"


def test_same_texts_as_postgresql(make_hba, pg):
    """nobody_hba is rejected there as well."""
    proxy = make_hba("host all nobody_hba 127.0.0.1/32 reject\n")
    with pgwire.Conn(pg.host, pg.port) as conn:
        with pytest.raises(LoginError) as expected:
            conn.login("nobody_hba", "p1")
    got = refusal(proxy, user="nobody_hba")
    assert {key: got.fields[key] for key in "SVCM"} == {key: expected.value.fields[key]
                                                        for key in "SVCM"}


def test_show_and_reload(make_hba):
    proxy = make_hba('host p1 app,"app 2" 127.0.0.1/32 trust # first\n'
                     "hostssl all all all scram-sha-256 clientcert=verify-ca\n")
    rows = proxy.command("SHOW HBA")
    assert [row["line_number"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["database"] == "pgshunt,pgbouncer" and rows[0]["file_name"] == proxy.hba_path
    assert rows[1]["user_name"] == 'app,"app 2"' and rows[1]["auth_method"] == "trust"
    assert rows[1]["address"] == "127.0.0.1" and rows[1]["netmask"] == "255.255.255.255"
    assert rows[2]["options"] == "clientcert=verify-ca" and rows[2]["address"] == "all"
    proxy.wire().close()
    # What is wrong is told with its line, all of it, and changes nothing.
    write(proxy.hba_path, CONSOLE + "host all all all trust\nhost all +role all trust\n"
          "host all all example.org trust\nnonsense\n")
    kept = dict(proxy.settings)
    proxy.settings.update(client_tls_sslmode="require", client_tls_cert_file="/no/such.crt",
                          client_tls_key_file="/no/such.key")
    proxy.write()
    with pytest.raises(ConsoleError) as error:
        proxy.command("RELOAD")
    proxy.settings = kept
    proxy.write()
    text = str(error.value.fields)
    assert "/no/such.crt" in text
    for line in (3, 4, 5):
        assert "%s:%d: " % (proxy.hba_path, line) in text
    proxy.wire().close()
    assert refusal(proxy, user="app2").sqlstate == "28000"
    write(proxy.hba_path, CONSOLE + "host all app2 all trust\n")
    proxy.command("RELOAD")
    proxy.wire(user="app2").close()
    assert refusal(proxy).sqlstate == "28000"
    assert len(proxy.command("SHOW HBA")) == 2
    # and by SIGHUP, between methods
    proxy.settings["auth_type"] = "trust"
    proxy.reload()

    def open_again():
        try:
            proxy.wire().close()
            return True
        except LoginError:
            return False
    wait_for(open_again, what="the reload")
    assert proxy.command("SHOW HBA") == []


def test_wrong_files_at_start(make_proxy):
    proxy = make_proxy(start=False, auth_type="hba", auth_hba_file="hba.conf")
    path = os.path.join(proxy.folder, "hba.conf")
    write(path, "local all all trust\nhost all all 1.2.3.4/77 md5\n")
    argv = [os.path.join(os.environ["PGSHUNT_BIN"], "pgshuntd"), "--config", proxy.config_path]
    for args in (argv, argv + ["--check-config"]):
        with pytest.raises(Exception) as error:
            run(args)
        assert error.value.returncode == 2
        assert '%s:2: invalid CIDR mask in address "1.2.3.4/77"' % path in error.value.stderr
    del proxy.settings["auth_hba_file"]
    proxy.write()
    with pytest.raises(Exception) as error:
        run(argv)
    assert error.value.returncode == 2 and "auth_hba_file" in error.value.stderr


def test_peer(make_hba, folder):
    """The user of the process decides, and the maps."""
    me = getpass.getuser()
    place = subfolder(folder)
    proxy = make_hba("local p1 app peer map=m\nlocal p1 app2 peer map=re\nlocal p1 %s peer\n"
                     "local p1 counted peer\nlocal p1 postgres peer map=none\n" % me,
                     ident="m %s app\nre /^(%s)%s$ app2\n" % (me, me[:1], me[1:]),
                     unix_socket_directory=place)

    def login(user):
        with pgwire.Conn(place, proxy.port) as conn:
            conn.login(user, "p1")
            return conn.value("SELECT current_user")
    assert login("app") == "app"
    assert login("app2") == "app2"
    for user in ("counted", "postgres"):
        with pytest.raises(LoginError) as error:
            login(user)
        assert error.value.sqlstate == "28000"
        assert error.value.fields["M"] == 'Peer authentication failed for user "%s"' % user
    with pytest.raises(LoginError) as error:
        login("u_md5")
    assert error.value.fields["M"].startswith('no pg_hba.conf entry for host "[local]", user "u_md5"')
    # psql, as it is used
    out = run([BINDIR + "/psql", "-AtX", "-h", place, "-p", str(proxy.port), "-U", "app", "-c",
               "SELECT current_user", "p1"]).stdout
    assert out.strip() == "app"


@pytest.mark.parametrize("secret", [lambda user, password: password, md5_secret,
                                    lambda user, password: scram_secret(password)])
def test_password_in_clear_text(make_proxy, secret):
    """auth_type plain takes every kind of secret; so does the method password."""
    proxy = make_proxy(auth_type="plain", secrets={**USERS, "app": secret("app", "sesame")})
    for _ in range(3):
        with proxy.connect(password="sesame") as conn:
            assert conn.execute("SELECT current_user").fetchone() == ("app",)
        for user, password in (("app", "wrong"), ("no such user", "sesame"), ("app", "x" * 5000)):
            error = refusal(proxy, user=user, password=password)
            assert error.sqlstate == "28P01"
            assert error.fields["M"] == 'password authentication failed for user "%s"' % user
    assert refusal(proxy, password="").fields["M"] == "empty password returned by client"
    with proxy.console() as console:
        assert console("SHOW VERSION")


def test_any(make_proxy):
    """Everybody is the database's user."""
    forced = {"server": "pg", "user": "app2"}
    proxy = make_proxy(auth_type="any", databases={"p1": forced, "p2": {**forced, "user": "app"}})
    for dbname, user in (("p1", "app2"), ("p2", "app")):
        with proxy.wire(dbname, "whoever it is") as conn:
            assert conn.value("SELECT session_user") == user
    wrong = make_proxy(start=False, auth_type="any")
    with pytest.raises(Exception) as error:
        run([os.path.join(os.environ["PGSHUNT_BIN"], "pgshuntd"), "--config", wrong.config_path])
    assert error.value.returncode == 2 and "auth_type any" in error.value.stderr


def test_console_asks_the_rules_as_well(make_hba):
    proxy = make_hba("host all all all trust\n")
    with pytest.raises(LoginError) as error:
        proxy.console(password="wrong")
    assert error.value.sqlstate == "28P01"
    with proxy.console("pgbouncer", ADMIN, ADMIN_PASSWORD) as console:
        assert console("SHOW VERSION")


def test_driver_sees_the_reason(make_hba):
    proxy = make_hba("host p2 all all trust\n")
    with pytest.raises(psycopg.OperationalError) as error:
        proxy.connect()
    assert "no pg_hba.conf entry for host" in str(error.value)
