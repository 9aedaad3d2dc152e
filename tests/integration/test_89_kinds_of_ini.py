# SPDX-License-Identifier: PostgreSQL
"""pgshuntd started with a pgbouncer.ini of each kind that pgbouncer's documentation has, and used in
the way in which the file is meant."""
import getpass
import glob
import gzip
import os
import re

import psycopg
import pytest

import pgwire
from certs import Authority
from pgbouncer_file import Files
from pgwire import wait_for
from servers import SLOW, Cluster, subfolder
from test_86_pam import services  # noqa: F401 (a fixture)
from test_87_ldap import ldap  # noqa: F401 (a fixture)

HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture
def files(folder, pg):
    made = Files(folder, pg)
    yield made
    made.stop()


def started(files, text, more=None, **values):
    reader = files.ours(text, more, **values)
    assert reader.up, reader.log()
    return reader


WHO = "SELECT current_user || '@' || current_database()"


def test_every_setting_as_it_is_by_default(files):
    """Each line of the documentation, with its default."""
    with open(os.path.join(HERE, "..", "..", "conf", "pgbouncer.def")) as rows:
        defaults = re.findall(r'^PGBOUNCER_SETTING\(MAIN, (\w+), "((?:[^"\\]|\\.)*)"', rows.read(), re.M)
    assert len(defaults) > 90
    own = {"listen_port": "%(port)d", "unix_socket_dir": "%(dir)s", "auth_file": "%(users)s",
           "admin_users": "postgres", "auth_type": "trust"}
    reader = started(files, "[databases]\n* = host=127.0.0.1 port=%(pg)d\n[pgbouncer]\n" + "".join(
        "%s = %s\n" % (name, own.get(name, value)) for name, value in defaults))
    assert reader.value("p2", WHO, "app") == "app@p2"
    config = reader.config()
    for name, value in defaults:
        if name not in own and name not in ("conffile", "unix_socket_mode"):
            assert config[name] == value, name
    assert config["unix_socket_mode"] == "%d" % 0o777  # as there


def samples():
    """The file that the package of pgbouncer brings."""
    return [path for path in ["/etc/pgbouncer/pgbouncer.ini"] +
            glob.glob("/usr/share/doc/pgbouncer/**/*.ini*", recursive=True) if os.access(path, os.R_OK)]


@pytest.mark.parametrize("all_of_it", [False, True])
@pytest.mark.parametrize("path", samples())
def test_the_sample(files, path, all_of_it):
    """As it is, but for the places; and with what stands there as comment, too."""
    with (gzip.open if path.endswith(".gz") else open)(path, "rt") as file:
        text = file.read()
    if all_of_it:
        text = re.sub(r"^;+ ?((?!job_name|service_name)\w+ = (?!<).*)$", r"\1", text, flags=re.M)
    for name, value in {"listen_port": "%(port)d", "unix_socket_dir": "%(dir)s", "auth_type": "trust",
                        "auth_file": "%(users)s", "logfile": "%(dir)s/logfile", "pidfile": "%(dir)s/pid",
                        "resolv_conf": "", "admin_users": "postgres", "auth_hba_file": ""}.items():
        text = re.sub(r"^%s *=.*$" % name, "", text, flags=re.M)
        text = re.sub(r"^\[pgbouncer\]$", r"[pgbouncer]\n%s = %s" % (name, value), text, flags=re.M)
    text = re.sub(r"%include.*", "", text)
    text = re.sub(r"^\[databases\]$", r"[databases]\np1 = host=127.0.0.1 port=%(pg)d", text, flags=re.M)
    reader = started(files, text)
    assert reader.value("p1", WHO, "app") == "app@p1"
    with open(reader.folder + "/pid") as pid:
        assert int(pid.read()) == reader.process.pid


def test_minimal(files):
    """Nothing but a database and where the users are."""
    reader = started(files, "[databases]\np1 = host=127.0.0.1 port=%(pg)d\n[pgbouncer]\n"
                     "listen_port = %(port)d\nunix_socket_dir = %(dir)s\nauth_file = %(users)s\n")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        reader.value("p1", WHO, "u_md5", password="wrong")
    assert reader.value("p1", WHO, "u_md5", password="md5 secret") == "u_md5@p1"
    assert reader.value("p1", "SHOW server_version_num", "u_md5", password="md5 secret")


def test_databases(files, pg):
    """Names that lead elsewhere, forced users, parameters of the server connection, the fallback, Unix
    sockets of the server."""
    reader = started(files, """
[databases]
first = host=localhost port=%(pg)d dbname=p1
forced = host=127.0.0.1 port=%(pg)d dbname=p2 user=u_md5 password='md5 secret' client_encoding=LATIN1 datestyle=German timezone=America/Lima connect_query='SET application_name = ''it''''s'''
"with ""quotes"" - and \u00fcml\u00e4uts" = host=127.0.0.1 port=%(pg)d dbname=p1
named = host=127.0.0.1 port=%(pg)d dbname=p1 application_name=by_the_file
by_socket = host=%(pgdir)s port=%(pg)d dbname=p2 user=app2
two = host=127.0.0.1,localhost port=%(pg)d dbname=p1 load_balance_hosts=disable
few = host=127.0.0.1 port=%(pg)d dbname=p1 pool_size=1 pool_mode=transaction reserve_pool_size=0
* = host=127.0.0.1 port=%(pg)d user=app
[pgbouncer]
listen_port = %(port)d
listen_addr = 127.0.0.1
unix_socket_dir = %(dir)s
auth_type = trust
auth_file = %(users)s
pool_mode = session
""")
    assert reader.value("first", WHO, "app") == "app@p1"
    assert reader.value("forced", WHO, "app") == "u_md5@p2"
    for name, value in (("DateStyle", "German, DMY"), ("TimeZone", "America/Lima"),
                        ("application_name", "it's"), ("client_encoding", "LATIN1")):
        with pgwire.Conn(reader.folder, reader.port) as conn:
            conn.login("app", "forced")
            assert conn.value("SHOW " + name) == value
    assert reader.value('with "quotes" - and \u00fcml\u00e4uts', WHO, "app") == "app@p1"
    assert reader.value("by_socket", WHO, "app") == "app2@p2"
    assert reader.value("two", WHO, "app") == "app@p1"
    assert reader.value("p2", WHO, "app2") == reader.value("p2", WHO, "postgres") == "app@p2"
    with reader.connect("few", "app") as one, reader.connect("few", "app") as two:
        assert one.execute("SELECT pg_backend_pid()").fetchone() == \
            two.execute("SELECT pg_backend_pid()").fetchone()
    # Who has a name of its own keeps it.
    shown = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    with pgwire.Conn(reader.folder, reader.port) as conn:
        conn.login("app", "named")
        assert conn.value(shown) == "by_the_file"
    assert reader.value("named", shown, "app", application_name="mine") == "mine"


LOOKUP = """
CREATE SCHEMA pooler;
CREATE FUNCTION pooler.lookup(INOUT name text, OUT secret text) RETURNS record
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT usename::text, passwd FROM pg_shadow WHERE usename = name $$;
REVOKE ALL ON FUNCTION pooler.lookup(text) FROM PUBLIC;
CREATE ROLE asker LOGIN;
GRANT USAGE ON SCHEMA pooler TO asker;
GRANT EXECUTE ON FUNCTION pooler.lookup(text) TO asker;
"""


def test_users_whom_the_server_knows(files, pg):
    """auth_query with a function; the users file has nobody but who asks, or is not there."""
    pg.sql(LOOKUP, "p1")
    try:
        text = """
[databases]
p1 = host=127.0.0.1 port=%(pg)d
elsewhere = host=127.0.0.1 port=%(pg)d dbname=p2 auth_dbname=p1
other = host=127.0.0.1 port=%(pg)d dbname=p2 auth_user=postgres auth_query='SELECT usename, passwd FROM pg_shadow WHERE usename = $1'
[pgbouncer]
listen_port = %(port)d
unix_socket_dir = %(dir)s
auth_type = scram-sha-256
auth_file = %(dir)s/list.txt
auth_user = asker
auth_query = SELECT name, secret FROM pooler.lookup($1)
"""
        for more in ({"list.txt": '"asker" ""\n"postgres" ""\n'}, {}):
            reader = started(files, text, more)
            for dbname in ("p1", "elsewhere", "other"):
                where = "p1" if dbname == "p1" else "p2"
                for _ in range(2):
                    assert reader.value(dbname, WHO, "u_scram", password="scram secret") == \
                        "u_scram@" + where
                with pytest.raises(psycopg.OperationalError, match="authentication failed"):
                    reader.value(dbname, WHO, "u_scram", password="wrong")
    finally:
        pg.sql("DROP SCHEMA pooler CASCADE; DROP ROLE asker", "p1")


def test_rules_and_maps(files):
    """auth_type hba with an ident map: who runs the tests may be anybody of the map."""
    reader = started(files, """
[databases]
p1 = host=127.0.0.1 port=%(pg)d
p2 = host=127.0.0.1 port=%(pg)d
[pgbouncer]
listen_port = %(port)d
listen_addr = 127.0.0.1
unix_socket_dir = %(dir)s
auth_type = hba
auth_hba_file = %(dir)s/rules
auth_ident_file = %(dir)s/map
auth_file = %(users)s
admin_users = postgres
""", {"rules": "# who may\nlocal p1 all peer map=me\nlocal all all md5\n"
            "host p2 app 127.0.0.1/32 trust\nhost p2 all 0.0.0.0/0 md5\n",
            "map": "me %s app\nme %s postgres\nme nobody_else app2\n" % (2 * (getpass.getuser(),))})
    assert reader.value("p1", WHO, "app") == "app@p1"
    with pytest.raises(psycopg.OperationalError, match="[Pp]eer authentication failed"):
        reader.value("p1", WHO, "app2")
    assert reader.value("p2", WHO, "u_md5", password="md5 secret") == "u_md5@p2"
    reader.place = "127.0.0.1"
    assert reader.value("p2", WHO, "app") == "app@p2"
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        reader.value("p2", WHO, "u_md5", password="x")
    with pytest.raises(psycopg.OperationalError, match="no pg_hba.conf entry|rejects"):
        reader.value("p1", WHO, "app")


@pytest.fixture(scope="module")
def tls_pg(folder):
    place = subfolder(folder)
    authority = Authority(place)
    cluster = Cluster(place, "tls")
    cert, key = authority.issue("server", "/CN=localhost", "DNS:localhost,IP:127.0.0.1")
    cluster.settings.update(ssl="on", ssl_cert_file=cert, ssl_key_file=key,
                            ssl_ca_file=authority.cert)
    os.chmod(authority.folder, 0o755)
    os.chmod(authority.cert, 0o644)
    os.chmod(cert, 0o644)
    if os.getuid() == 0:
        os.chmod(key, 0o640)
        import grp
        os.chown(key, 0, grp.getgrnam("postgres").gr_gid)
    cluster.create()
    cluster.sql("CREATE DATABASE p1")
    cluster.authority = authority
    yield cluster
    cluster.stop()


def test_tls_on_both_sides(files, tls_pg):
    ca = tls_pg.authority
    cert, key = ca.issue("proxy", "/CN=localhost", "DNS:localhost")
    mine, my_key = ca.issue("client", "/CN=app")
    files.pg = tls_pg
    reader = started(files, """
[databases]
p1 = host=localhost port=%%(pg)d
[pgbouncer]
listen_port = %%(port)d
listen_addr = localhost
unix_socket_dir = %%(dir)s
auth_type = cert
auth_file = %%(users)s
admin_users = app
client_tls_sslmode = verify-full
client_tls_cert_file = %s
client_tls_key_file = %s
client_tls_ca_file = %s
client_tls_protocols = secure
client_tls_ciphers = default
server_tls_sslmode = verify-full
server_tls_ca_file = %s
server_tls_protocols = tlsv1.3
""" % (cert, key, ca.cert, ca.cert))
    reader.place = "localhost"
    ssl = {"sslmode": "verify-full", "sslrootcert": ca.cert}
    with pytest.raises(psycopg.OperationalError):
        reader.value("p1", WHO, "app", **ssl)
    ssl.update(sslcert=mine, sslkey=my_key)
    assert reader.value("p1", "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()", "app",
                        **ssl) == "TLSv1.3"
    with pytest.raises(psycopg.OperationalError):
        reader.value("p1", WHO, "app2", **ssl)


def test_peers(files, pg):
    """Two processes on one port: a cancel request that comes to the other is forwarded."""
    made = []
    place = subfolder(files.parent)
    for own in (1, 2):
        os.mkdir("%s/%d" % (place, own))
    for own in (1, 2):
        made.append(started(files, """
[databases]
p1 = host=127.0.0.1 port=%%(pg)d
[peers]
1 = host=%s/1 port=%%(port)d
2 = host=%s/2 port=%%(port)d pool_size=5
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %%(port)d
auth_type = trust
auth_file = %%(users)s
so_reuseport = 1
pool_mode = transaction
unix_socket_dir = %%(socket)s
peer_id = %d
""" % (place, place, own), socket="%s/%d" % (place, own),
            **({"port": made[0].port} if made else {})))
    with pgwire.Conn(made[0].place, made[0].port) as conn:
        conn.login("app", "p1")
        conn.send(pgwire.query("SELECT pg_sleep(60)"))
        wait_for(lambda: pg.value("SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT "
                                  "pg_sleep(60)' AND state = 'active'") == 1, 20 * SLOW, "the query")
        pgwire.cancel(made[1].place, made[1].port, *conn.key)
        assert [fields["C"] for fields in pgwire.errors(conn.ready())] == ["57014"]


def test_users(files):
    """Settings of users, in a file that the main one includes."""
    reader = started(files, """
[pgbouncer]
listen_port = %(port)d
unix_socket_dir = %(dir)s
auth_type = trust
auth_file = %(users)s
admin_users = postgres
%%include databases.ini
%%include users.ini
""", {"databases.ini": "[databases]\np1 = host=127.0.0.1 port=%(pg)d\n",
            "users.ini": "[users]\napp = pool_mode=transaction pool_size=1 query_timeout=1\n"
                         "app2 = pool_mode=statement\n"})
    with reader.connect("p1", "app") as one, reader.connect("p1", "app") as two:
        assert one.execute("SELECT pg_backend_pid()").fetchone() == \
            two.execute("SELECT pg_backend_pid()").fetchone()
        with pytest.raises(psycopg.OperationalError, match="query timeout|query_timeout"):
            one.execute("SELECT pg_sleep(30)")
    with reader.connect("p1", "app2") as conn, pytest.raises(psycopg.OperationalError):
        conn.execute("BEGIN")
    assert reader.value("p1", "SELECT 1 FROM pg_sleep(1.5)", "postgres") == 1


def test_pam(files, services):  # noqa: F811
    reader = started(files, """
[databases]
p1 = host=127.0.0.1 port=%%(pg)d
[pgbouncer]
listen_port = %%(port)d
listen_addr = 127.0.0.1
unix_socket_dir = %%(dir)s
auth_type = pam
pam_directory = %s
pam_service = pgshunt
""" % services)
    reader.place = "127.0.0.1"
    assert reader.value("p1", WHO, "u_clear", password="clear secret") == "u_clear@p1"
    with pytest.raises(psycopg.OperationalError, match="PAM authentication failed"):
        reader.value("p1", WHO, "u_clear", password="wrong")


def test_ldap(files, ldap):  # noqa: F811
    text = """
[databases]
p1 = host=127.0.0.1 port=%%(pg)d
[pgbouncer]
listen_port = %%(port)d
unix_socket_dir = %%(dir)s
auth_file = %%(users)s
%s
"""
    url = 'ldapurl="ldap://127.0.0.1:%d/ou=people,dc=test?uid?sub"' % ldap.port
    for settings, more in (("auth_type = ldap\nauth_ldap_options = " + url, {}),
                           ("auth_type = hba\nauth_hba_file = %(dir)s/rules",
                            {"rules": "local all all ldap " + url + "\n"})):
        reader = started(files, text.replace("%s", settings).replace("%%", "%"), more)
        assert reader.value("p1", WHO, "u_clear", password="clear secret") == "u_clear@p1"
        with pytest.raises(psycopg.OperationalError, match="LDAP authentication failed"):
            reader.value("p1", WHO, "u_clear", password="wrong")
