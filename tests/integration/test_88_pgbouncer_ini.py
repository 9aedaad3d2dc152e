# SPDX-License-Identifier: PostgreSQL
"""pgbouncer.ini, setting by setting and form by form: what Debian's pgbouncer takes, pgshuntd takes,
and it means the same.  Both are started on the same file, and SHOW CONFIG, SHOW DATABASES and SHOW
USERS are compared.  PGBOUNCER=/path takes another pgbouncer, such as one of 1.25, whose newer
settings are compared then, too."""
import os
import re
import select
import socket
import time

import psycopg
import pytest

import pgwire
from pgbouncer_file import THEIR_VERSION, Files
from pgwire import wait_for
from servers import SLOW, subfolder

pytestmark = pytest.mark.once

HERE = os.path.dirname(os.path.abspath(__file__))

BASE = """[pgbouncer]
listen_port = %(port)d
unix_socket_dir = %(dir)s
auth_type = trust
auth_file = %(users)s
admin_users = postgres
"""
DATABASES = """[databases]
p1 = host=127.0.0.1 port=%(pg)d
"""

INTS = """default_pool_size max_client_conn max_db_connections max_user_connections min_pool_size
reserve_pool_size listen_backlog stats_period tcp_keepcnt tcp_keepidle tcp_keepintvl
tcp_user_timeout tcp_socket_buffer pkt_buf sbuf_loopcnt max_packet_size verbose
max_db_client_connections max_user_client_connections max_prepared_statements peer_id
scram_iterations query_wait_notify""".split()
BOOLS = """application_name_add_host disable_pqexec log_connections log_disconnections
log_pooler_errors log_stats server_fast_close server_reset_query_always server_round_robin
so_reuseport tcp_defer_accept tcp_keepalive syslog""".split()
TIMES = """autodb_idle_timeout cancel_wait_timeout client_idle_timeout client_login_timeout
dns_max_ttl dns_nxdomain_ttl dns_zone_check_period idle_transaction_timeout query_timeout
query_wait_timeout reserve_pool_timeout server_check_delay server_connect_timeout
server_idle_timeout server_lifetime server_login_retry suspend_timeout
transaction_timeout""".split()
WORDS = {"auth_type": ["TRUST", "Any", "any", "trust"],
         "pool_mode": ["Session", "TRANSACTION", "statement"],
         "client_tls_sslmode": ["DISABLE", "disable"],
         "server_tls_sslmode": ["Disable", "ALLOW", "prefer", "Require"]}

# Since which pgbouncer they are there, if later than Debian's.
SINCE = {"max_db_client_connections": (1, 24), "max_user_client_connections": (1, 24),
         "max_prepared_statements": (1, 21), "auth_dbname": (1, 19),
         "auth_ident_file": (1, 23), "cancel_wait_timeout": (1, 20),
         "peer_id": (1, 19), "scram_iterations": (1, 25),
         "query_wait_notify": (1, 25), "transaction_timeout": (1, 25)}


def known(names):
    return [name for name in names if SINCE.get(name, (1, 0)) <= THEIR_VERSION]


@pytest.fixture
def files(folder, pg):
    made = Files(folder, pg)
    yield made
    made.stop()


# What SHOW CONFIG shows otherwise for a reason: what has no effect here has pgbouncer's default, and
# auth_query is the same but that no search_path changes its meaning.
def no_effect():
    with open(os.path.join(HERE, "..", "..", "conf", "pgbouncer.def")) as rows:
        return set(re.findall(r'^PGBOUNCER_SETTING\(MAIN, (\w+), .*, NONE, NULL,', rows.read(), re.M))


NO_MATTER = no_effect() | {"logfile", "unix_socket_dir", "listen_port", "auth_file", "auth_query",
                           "verbose"}
if THEIR_VERSION < (1, 25):  # those defaults are of later versions
    NO_MATTER |= {"client_tls_ciphers", "server_tls_ciphers", "server_check_query",
                  "server_tls_sslmode"}
COLUMNS = {"CONFIG": ["value"], "USERS": ["pool_mode"],
           "DATABASES": ["host", "port", "database", "force_user", "pool_size", "min_pool_size",
                         "pool_mode", "max_connections"]}
if THEIR_VERSION >= (1, 24):
    COLUMNS["DATABASES"] += ["reserve_pool_size", "max_client_connections", "server_lifetime",
                             "load_balance_hosts"]
    COLUMNS["USERS"] += ["pool_size", "reserve_pool_size", "max_user_connections",
                         "max_user_client_connections"]


LISTS = {"admin_users", "stats_users", "ignore_startup_parameters", "listen_addr"}


def spelled(value, is_list=False):
    """As a number, if it is one: 2.50 is 2.5, and not set is empty."""
    if is_list:
        return " ".join(str(value).replace(",", " ").split())
    try:
        return float(value)
    except (TypeError, ValueError):
        return str("" if value is None else value).strip()


def compare(theirs, ours, views, but=()):
    assert theirs.up == ours.up, "theirs: %s\nours: %s" % (
        "up" if theirs.up else theirs.log()[-800:], "up" if ours.up else ours.log()[-3000:])
    different = []
    for view in views if theirs.up else ():
        key = "key" if view == "CONFIG" else "name"
        left, right = theirs.show(view, key), ours.show(view, key)
        names = set(left) - NO_MATTER - set(but) - {"pgbouncer"}
        for name in names:
            for column in COLUMNS[view]:
                a = spelled(left[name].get(column), name in LISTS)
                b = spelled(right.get(name, {}).get(column, "not there"), name in LISTS)
                if column == "pool_mode" and a == "":
                    continue  # here the one in force is shown
                if column == "host" and a == "" and b.startswith("/"):
                    continue  # … and which Unix socket it is
                if a != b and not (name in BOOLS and bool(a) == bool(b)):
                    different.append((view, name, column, a, b))
    assert not different, "(theirs, ours): %s" % sorted(different)


def check(files, text, but=(), more=None, **kwargs):
    theirs, ours = files.both(text, more, **kwargs)
    compare(theirs, ours, ("CONFIG", "DATABASES", "USERS"), but)
    return theirs, ours


def settings(names, value):
    """All of them with that value, but those that would leave us deaf."""
    return "".join("%s = %s\n" % (name, value) for name in known(names))


# What pgbouncer starts with although nobody could ever log in, or without what is asked for: that is
# an error here.
@pytest.mark.parametrize("text, why", [
    ("auth_type = hba\nauth_hba_file = /nowhere/hba", "/nowhere/hba"),
    ("auth_type = hba\nauth_hba_file = /dev/null", "/dev/null: it contains no entries"),
    ("auth_type = hba", "hba needs auth_hba_file")])
def test_nobody_could_log_in(files, text, why):
    theirs, ours = files.both(BASE + text + "\n" + DATABASES)
    assert theirs.up and not ours.up and why in ours.log()


# With these nobody could ask for SHOW: too small a packet, no simple queries.
DEAF = {"max_packet_size", "pkt_buf", "disable_pqexec"}


@pytest.mark.parametrize("value", ["0", "1", "+5", "0x10", "010", "007", "120"])
def test_whole_numbers(files, value):
    # (Of listen_backlog 0 the queue is so short that more than one client is turned away.)
    names = set(INTS) - DEAF - ({"listen_backlog"} if value == "0" else set())
    check(files, BASE + settings(names, value) + DATABASES)


def test_negative_numbers(files):
    """Of no effect, or no limit; those of the kernel are wrong, and stop a pgbouncer with TCP."""
    names = {name for name in INTS if not name.startswith("tcp_keepi")} - DEAF - {
        "tcp_user_timeout", "peer_id", "stats_period", "max_client_conn"}
    text = BASE + settings(names, "-1") + DATABASES
    theirs, ours = files.both(text)
    assert theirs.up and ours.up, ours.log()
    config = ours.config()
    assert {config[name] for name in known(names) if name not in NO_MATTER | {"listen_backlog"}} \
        == {"0"}
    assert config["listen_backlog"] == "65535" and "a negative number is taken as 0" in ours.log()
    assert ours.value("p1", "SELECT 1") == 1
    for name in ("tcp_keepidle", "tcp_keepintvl", "tcp_user_timeout"):
        text = BASE + "listen_addr = 127.0.0.1\n%s = -1\n" % name + DATABASES
        theirs, ours = files.both(text)
        assert not ours.up and name in ours.log()
        assert THEIR_VERSION < (1, 25) or not theirs.up


@pytest.mark.parametrize("value", ["0", "1", "2", "-1", "0x0", "00", "+1"])
def test_booleans(files, value):
    check(files, BASE + settings(set(BOOLS) - DEAF - {"syslog"}, value) + DATABASES)


@pytest.mark.parametrize("value", ["0", "1", "2.5", ".5", "5.", "1e2", "+3", "-0", "1E1", "0x10",
                                   "0.0", "2.50", "100000", "86401", "31536000", "010"])
def test_times(files, value):
    check(files, BASE + settings(TIMES, value) + DATABASES)


def test_very_large_numbers(files):
    """Here there is a largest one, which is as good."""
    names = {name for name in INTS if not name.startswith("tcp_")} - DEAF - {"peer_id"}
    text = BASE + settings(names, "2147483647") + settings(TIMES, "1e9") + DATABASES
    theirs, ours = files.both(text)
    assert theirs.up and ours.up, ours.log()
    assert "out of range" in ours.log()
    assert ours.config()["max_client_conn"] == "1000000"
    assert ours.config()["client_idle_timeout"] == str(365 * 86400)
    assert ours.value("p1", "SELECT 1") == 1


@pytest.mark.parametrize("kind, values", [
    (INTS[0], ["", "5x", "2.5", "x", "5 ; five", "1 2", "1,2", "0x", "--1", "\"5\"", "'5'"]),
    (TIMES[0], ["", "5s", "5 s", "x", "-1", "-0.5", "1,5", "5 # five", "1e", "nan"]),
    (BOOLS[0], ["", "2.0", "maybe"]),
    ("pool_mode", ["", "sessions", "'session'", "session ; default", "session,transaction"]),
    ("auth_type", ["", "scram", "pg", "hba,md5"])])
def test_what_is_wrong_there_is_wrong_here(files, kind, values):
    for value in values:
        theirs, ours = files.both(BASE + "%s = %s\n" % (kind, value) + DATABASES)
        if value == "nan":  # which is a time for pgbouncer, and none for anybody else
            assert not ours.up
            continue
        assert not theirs.up and not ours.up, (kind, value)
        assert "pgbouncer.ini:7: %s: " % kind in ours.log()


@pytest.mark.parametrize("name, value", [(name, value) for name in WORDS for value in WORDS[name]])
def test_words(files, name, value):
    check(files, BASE + "%s = %s\n" % (name, value) + DATABASES
          + "p2 = host=127.0.0.1 port=%(pg)d user=app\n")


# ---- the syntax of the file ----

ENTRY = "host=127.0.0.1 port=%(pg)d"


def lines(text, before=""):
    """@ stands for a server."""
    return BASE + before + "[databases]\n" + text.replace("@", ENTRY) + "\n"


LINES = [
    "\n\n  ; comment\n\t# comment\n  p1 = @\n",
    "p1 = @\r\n\r\np2 = @\r\n",
    "p1=@\n p2   =   @  \t \n",
    "p1 = @\np1 = @ pool_size=7\np2 = @ pool_size=8\np1 = @ dbname=p2",
    "p-1.a_b*c = @",
    "P1 = @\np1 = @ dbname=p2",
    "p1 =\np2 = ",
    "p1 = @ [x]\n", "p1 = @ ; comment", "p1 = @ #c=d",
    "%%include", "%%includemore.ini", "%%set p1 = @",
    "p1", "p1 @", "p 1 = @", "p\u00f6 = @", '"" = @', "'' = @", "'p1 = @",
    "[databases\np1 = @", "[users]\nx", "[]\np1 = @", "[Databases]\np1 = @", "[other]\n",
    "[ databases ]\np1 = @", "[databases] p1 = @", "[databases] ; comment\np1 = @",
    "pgbouncer = @", "* = @", "* =", "** = @",
    "[pgbouncer]\nPool_Mode = session", "[pgbouncer]\npool-mode = session",
    "[pgbouncer]\nno_such_key = 1", "[pgbouncer]\npool_mode", "[users]\nx = pool_modes=session",
    "[users]\nx = pool_mode=sessions", "[users]\nx = pool_mode=STATEMENT", "[users]\nx =",
    "[users]\nx = pool_mode", "[users]\nx = pool_mode=session pool_mode=transaction",
    "p1 = @ pool_mode=TRANSACTION", "p1 = @ pool_mode=no", "p1 = @ foo=bar", "p1 = host",
    "p1 = host=", "p1 = @ password=''", "p1 = @ user=", "p1 = host = 127.0.0.1 port = 5",
    "p1 = host='127.0.0.1' port='5'", "p1 = host='127.0.0.1",
    "p1 = @ password='it''s' user='a b'", "p1 = @ user=a'b", "p1 = @ user='a'", "p1 = @ user='a''",
    "p1 = @ dbname='x y'", "p1 = @ dbname=p1 dbname=p2", "p1 = @ pool_size=3 pool_size=5",
    "p1 = @ reserve_pool=3", "p1 = @ host=127.0.0.2 host=127.0.0.3", "p1 = @ port=0",
    "p1 = @ port=x", "p1 = host=127.0.0.1 port=5433x", "p1 = host=::1", "p1 = host=localhost",
    "p1 = host=127.0.0.1,127.0.0.2", "p1 = port=5433", "p1 = host=/tmp port=5433", "p1 = host=@x",
    "p1 = @ connect_query='SELECT ''a b'''", "p1 = @ application_name=here", "p1 = @ datestyle=ISO",
    "p1 = @ client_encoding=UNICODE timezone=UTC", "p1 = @ auth_user=app", "p1 = = @",
    "p1 = @ application_name='a' application_name='b'", "p1 = @ user=app password=x pool_size=4",
    "p1 = @ max_db_connections=5", "p1 = @ max_db_connections=0", "p1 = @ max_db_connections=-1",
    "p1 = @ pool_size=-1", "p1 = @ pool_size=-7", "p1 = @ pool_size=5x", "p1 = @ pool_size=+4",
    "p1 = @ pool_size=007", "p1 = @ pool_size=' 9'", "p1 = @ min_pool_size=-1",
    "p1 = @ min_pool_size=0", "p1 = @ min_pool_size=2.7", "p1 = @ reserve_pool=-1",
    "p1 = @ reserve_pool=0"]
LATER_LINES = [
    "p1 = @ pool_size=0", "p1 = @ reserve_pool_size=3 reserve_pool=4",
    "p1 = @ max_db_client_connections=0", "p1 = @ max_db_client_connections=-1",
    "p1 = @ max_db_client_connections=7", "p1 = @ server_lifetime=0", "p1 = @ server_lifetime=9",
    "p1 = @ server_lifetime=2.5", "p1 = @ load_balance_hosts=Disable host=127.0.0.1,127.0.0.2",
    "p1 = @ load_balance_hosts=x", "'a b' = @", "'a\"b' = @", "p1 = @ auth_dbname=p2",
    "p1 = @ auth_query='SELECT 1, 2'",
    "p1 = @\n[users]\napp = pool_size=0", "p1 = @\n[users]\napp = pool_size=-1",
    "p1 = @\n[users]\napp = pool_size=5 reserve_pool_size=0",
    "p1 = @\n[users]\napp = reserve_pool_size=-1", "p1 = @\n[users]\n'a b' = pool_size=3",
    "p1 = @\n[users]\napp = max_user_connections=0", "p1 = @\n[users]\napp = max_user_connections=-1",
    "p1 = @\n[users]\napp = max_user_client_connections=0",
    "p1 = @\n[users]\napp = max_user_client_connections=5",
    "p1 = @\n[users]\napp = query_timeout=0 idle_transaction_timeout=-1 transaction_timeout=2.5",
    "p1 = @\n[users]\napp = client_idle_timeout=7 reserve_pool=3",
    "p1 = @\n[peers]\n1 = host=127.0.0.1", "p1 = @\n[peers]\n1 = port=5", "p1 = @\n[peers]\n0 = host=a",
    "p1 = @\n[peers]\nx = host=a", "p1 = @\n[peers]\n1 = host=a port=0",
    "p1 = @\n[peers]\n1 = host=a pool_size=-1", "p1 = @\n[peers]\n2 = host=@a port=5 pool_size=4"]


# What pgbouncer takes and nobody can have meant: here it is an error.
NONSENSE = {"= @": 'expected "key = value"',  # a database without a name
            "p1 = host=127.0.0.1\tport=5": "a tab",  # which becomes a part of the host
            "p1 = @ pool_size=x": "pool_size: expected a number",  # 0 there
            "p1 = @ port=70000": "port: \"70000\" is out of range"}


@pytest.mark.parametrize("text", NONSENSE)
def test_nonsense(files, text):
    theirs, ours = files.both(lines(text))
    assert theirs.up and not ours.up and NONSENSE[text] in ours.log(), ours.log()


def check_lines(files, text):
    """With other defaults than the usual ones, so that "not set" is seen."""
    check(files, lines(text, "default_pool_size = 6\nmin_pool_size = 1\nreserve_pool_size = 2\n"
                             "max_db_connections = 9\nmax_user_connections = 8\n"),
          # (SHOW USERS shows the sizes of one user for the next ones, too.)
          but={"app2", "postgres", "u_md5"} | ({"app"} if "a b" in text else set())
          if "[users]" in text else ())


@pytest.mark.parametrize("text", LINES + (LATER_LINES if THEIR_VERSION >= (1, 25) else []))
def test_lines(files, text):
    check_lines(files, text)


def test_a_second_section_sets_back(files):
    """A [pgbouncer] that comes again begins with the defaults, but for what has none."""
    text = (BASE + "pool_mode = transaction\ndefault_pool_size = 3\nauth_user = app\n[databases]\n"
            "p1 = " + ENTRY + "\n" + BASE + "min_pool_size = 2\n[databases]\np2 = " + ENTRY + "\n")
    _, ours = check(files, text)
    assert ours.config()["pool_mode"] == "session" and ours.config()["auth_user"] == "app"
    assert "default_pool_size: a later [pgbouncer] sets it back to its default" in ours.log()


# What pgbouncer does not start with, and does not harm here; some of it its documentation allows.
LENIENT = {"auth_type = cert", "logfile = /nowhere/log", "service_name = x"}
if THEIR_VERSION >= (1, 25):
    LENIENT |= {"server_tls_sslmode = require\nserver_tls_protocols = legacy",
                "server_tls_sslmode = require\nserver_tls_ciphers = all"}
# What means the same and is shown in another way.
SHOWN_OTHERWISE = {"unix_socket_mode = 700": {"unix_socket_mode"},
                   "syslog_facility = LOCAL3": {"syslog_facility"},
                   "syslog_facility = kern": {"syslog_facility"},
                   "server_tls_sslmode = verify-ca": {"server_tls_ca_file"},
                   "server_tls_sslmode = verify-full": {"server_tls_ca_file"}}


TEXTS = [
    "admin_users = postgres, app", "admin_users = postgres app", "admin_users =\tapp ,, postgres ,",
    "admin_users = postgres\nstats_users = app2 app", "stats_users =",
    "ignore_startup_parameters = extra_float_digits, options",
    "unix_socket_mode = 0700", "unix_socket_mode = 448", "unix_socket_mode = 0x1ff",
    "unix_socket_mode = 700", "unix_socket_mode = x", "unix_socket_mode = 0o700",
    "unix_socket_group =", "unix_socket_group = no_such_group",
    "listen_addr =", "listen_addr = 127.0.0.1", "listen_addr = ,127.0.0.1 , ", "listen_addr = *",
    "listen_addr = localhost", "listen_addr = 127.0.0.1,192.0.2.1",
    "listen_addr = 127.0.0.1 192.0.2.1", "listen_addr = no.such.host.invalid", "listen_addr = ::1",
    "server_reset_query =", "server_reset_query = DISCARD ALL; SELECT 1", "server_check_query =",
    "server_check_query = <empty>", "server_check_query = select 1", "auth_file =",
    "auth_file = /nowhere/users.txt", "auth_user = postgres", "auth_dbname = p1",
    "auth_dbname = pgbouncer", "auth_dbname = nowhere", "auth_query = SELECT 1",
    "auth_hba_file = /nowhere/hba", "auth_ident_file = /nowhere/ident",
    "auth_type = cert", "auth_type = plain", "auth_type = scram-sha-256",
    "auth_file = /nowhere/users.txt\nauth_type = md5", "auth_type = md5\nauth_file =",
    "syslog_facility = local3", "syslog_facility = LOCAL3", "syslog_facility = kern",
    "syslog_ident = some thing", "syslog = 0", "resolv_conf = /nowhere", "resolv_conf =",
    "logfile = /nowhere/log", "pidfile =", "pidfile = /nowhere/pid", "user =",
    "user = no_such_user", "conffile = /nowhere/ini", "service_name = x", "job_name = y",
    "client_tls_sslmode = require", "client_tls_sslmode = verify-ca", "client_tls_sslmode = on",
    "client_tls_protocols = all", "client_tls_protocols = TLSv1.2", "client_tls_protocols = tlsv1.2,tlsv1.3",
    "client_tls_protocols = x", "client_tls_ciphers = secure", "client_tls_ciphers = normal",
    "client_tls_ciphers = x", "client_tls_ecdhcurve = none", "client_tls_ecdhcurve = prime256v1",
    "client_tls_dheparams = legacy", "client_tls_dheparams = x", "client_tls_ecdhcurve = x",
    "server_tls_sslmode = verify-full", "server_tls_sslmode = verify-ca",
    "server_tls_sslmode = require\nserver_tls_protocols = legacy",
    "server_tls_sslmode = require\nserver_tls_protocols = tlsv1.1:tlsv1.2",
    "server_tls_sslmode = require\nserver_tls_protocols = tlsv1.4",
    "server_tls_sslmode = require\nserver_tls_ciphers = all",
    "server_tls_sslmode = require\nserver_tls_ciphers = ECDHE+AESGCM",
    "server_tls_sslmode = require\nserver_tls_ciphers = nonsense",
    "server_tls_sslmode = require\nserver_tls_ca_file = /nowhere/ca",
    "server_tls_sslmode = disable\nserver_tls_ca_file = /nowhere/ca",
    "client_tls_cert_file = /nowhere/crt\nclient_tls_key_file = /nowhere/key",
    "client_tls_sslmode = allow\nclient_tls_cert_file = /nowhere/crt\nclient_tls_key_file = /nowhere/key",
    "%%include /nowhere/more.ini", "reserve_pool_size = 0", "reserve_pool_timeout = 0"]


@pytest.mark.parametrize("text", [text for text in TEXTS if known([text.split(" = ")[0]])])
def test_texts(files, text):
    key = text.split(" = ")[0]
    theirs, ours = files.both(BASE + text + "\n" + DATABASES)
    if text in LENIENT:
        assert not theirs.up and ours.up
    elif "auth_" in key and key != "auth_query":  # who may look is no longer the same
        assert theirs.up == ours.up, ours.log()
    else:
        compare(theirs, ours, ("CONFIG", "DATABASES", "USERS"), SHOWN_OTHERWISE.get(text, ()))


# ---- values that have a meaning of their own ----

def test_abstract_unix_sockets(files, pg, make_proxy):
    """@name: of clients, of servers, of several hosts; with authentication."""
    name = "@pgshunt-%d" % os.getpid()
    text = BASE.replace("%(dir)s", "%(socket)s") + "unix_socket_mode = 0700\nlisten_addr = 127.0.0.1\n"
    first, second = [
        files_of(text + DATABASES + "mine = port=%(pg)d host=%(pgdir)s user=u_md5 dbname=p2\n",
                 socket=name + suffix)
        for files_of, suffix in ((files.theirs, "-theirs"), (files.ours, "-ours"))]
    assert first.up and second.up, second.log()
    for reader in (first, second):
        assert reader.value("p1", "SELECT current_database()") == "p1"
        assert reader.value("mine", "SELECT current_user") == "u_md5"
        assert not os.path.exists(reader.place)
        with open("/proc/net/unix") as sockets:
            assert "%s/.s.PGSQL.%d\n" % (reader.place, reader.port) in sockets.read()
    # Another process does not take the place away.
    third = files.ours(text + DATABASES, socket=second.place, port=second.port)
    assert third.process.wait(20 * SLOW) == 1 and "Address already in use" in third.log()
    # As a server: each of them behind the other, and ours behind ours by YAML.
    for above in (files.theirs, files.ours):
        for below in (first, second):
            reader = above(BASE + "query_wait_timeout = 1\n[databases]\np1 = host=%s port=%d user=app\n"
                           "many = host=%s,%s port=%d user=app dbname=p1\n"
                           "none = host=@nowhere user=app\n"
                           % (below.place, below.port, below.place, below.place, below.port))
            assert reader.value("p1", "SELECT current_user") == "app"
            assert [reader.value("many", "SELECT 1") for _ in range(3)] == [1, 1, 1]
            with pytest.raises(psycopg.OperationalError):
                reader.value("none", "SELECT 1")
    proxy = make_proxy(start=False, servers={"pg": {"host": second.place, "port": second.port,
                                                    "check_user": "postgres"}},
                       auth_type="hba", auth_hba_file="hba.conf")
    proxy.settings["unix_socket_directory"] = name + "-yaml"
    proxy.settings["unix_socket_group"] = "nogroup"
    with open(os.path.join(proxy.folder, "hba.conf"), "w") as hba:
        hba.write("local p1 u_md5 md5\nlocal p2 all peer\nhost all all all trust\n")
    proxy.write()
    proxy.start()

    def value(dbname, user, password=None):
        with psycopg.connect(host=name + "-yaml", port=proxy.port, dbname=dbname, user=user,
                             password=password) as conn:
            return conn.execute("SELECT current_user").fetchone()[0]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        value("p1", "u_md5", "wrong")
    with pytest.raises(psycopg.OperationalError, match="no pg_hba.conf entry.*local"):
        value("p1", "app")
    with pytest.raises(psycopg.OperationalError, match="[Pp]eer authentication failed"):
        value("p2", "app")
    # A new process takes the socket over.
    with psycopg.connect(host=name + "-yaml", port=proxy.port, dbname="p1", user="u_md5",
                         password="md5 secret"):
        pass
    former = proxy.takeover()
    with pytest.raises(psycopg.OperationalError, match="[Pp]eer authentication failed"):
        value("p2", "app")
    assert former.wait(20 * SLOW) == 0


def test_included_files(files, folder):
    """As pgbouncer, in the working directory; and, so that a service need not have one, beside the
    file."""
    work = subfolder(folder)
    with open(os.path.join(work, "more.ini"), "w") as out:
        out.write("default_pool_size = 11\n%include deeper/still.ini\n")
    os.mkdir(os.path.join(work, "deeper"))
    with open(os.path.join(work, "deeper", "still.ini"), "w") as out:
        out.write("min_pool_size = 3\n")
    text = BASE + "%%include more.ini\n" + DATABASES
    beside = {"more.ini": "default_pool_size = 12\n", "deeper/still.ini": "min_pool_size = 4\n"}
    theirs, ours = files.both(text, beside, cwd=work)
    assert theirs.up and ours.up
    for reader in (theirs, ours):
        config = reader.config()
        assert (config["default_pool_size"], config["min_pool_size"]) == ("11", "3")
    theirs, ours = files.both(text, beside)
    assert not theirs.up and ours.config()["default_pool_size"] == "12"
    # What comes back with RELOAD is that file again.
    with open(os.path.join(ours.folder, "more.ini"), "w") as out:
        out.write("default_pool_size = 13\n%include deeper/still.ini\n")
    ours.command("RELOAD")
    assert ours.config()["default_pool_size"] == "13" and ours.config()["min_pool_size"] == "4"
    theirs, ours = files.both(BASE + "%%include nowhere.ini\n" + DATABASES)
    assert not theirs.up and not ours.up and "nowhere.ini: cannot be read" in ours.log()


def busy(reader, count, expected, dbname="p1", user="app"):
    """So many clients in a transaction, one after the other; how many of them get a server: so many
    are waited for, and a second for others."""
    conns = []
    for _ in range(count):
        conn = pgwire.Conn(reader.place, reader.port)
        conn.login(user, dbname)
        conn.send(pgwire.query("BEGIN"))
        conns.append(conn)

    def served(seconds):
        return len(select.select([conn.sock for conn in conns], [], [], seconds)[0])
    wait_for(lambda: served(0.1) >= expected, 20 * SLOW, "%d of them" % expected)
    time.sleep(1)
    return conns, served(0)


def leave(conns):
    for conn in conns:
        conn.close()


SMALL = "pool_mode = transaction\ndefault_pool_size = 2\n"


@pytest.mark.parametrize("main, entry, expected", [
    ("default_pool_size = 0\n", "", 6), ("", " pool_size=0", 6), ("", " pool_size=-1", 2),
    ("", " pool_size=3", 3), ("default_pool_size = 0\n", " pool_size=1", 1),
    ("default_pool_size = 0\nmax_db_connections = 3\n", "", 3),
    ("default_pool_size = 0\n", " max_db_connections=4", 4),
    ("max_db_connections = 1\n", " max_db_connections=0", 1),
    ("max_db_connections = 1\n", " max_db_connections=-1", 1),
    ("default_pool_size = -1\n", "", 6)])
def test_sizes_limit(files, main, entry, expected):
    """0 is no limit (of later versions than Debian's: there only ours is asked)."""
    text = BASE + SMALL + main + "[databases]\np1 = " + ENTRY + entry + "\n"
    zero = "pool_size = 0" in main or "pool_size=0" in entry or "-1" in main
    readers = [files.ours] + ([] if zero and THEIR_VERSION < (1, 24) else [files.theirs])
    for start in readers:
        reader = start(text)
        assert reader.up, reader.log()
        conns, served = busy(reader, 6, expected)
        assert served == expected
        leave(conns)


@pytest.mark.parametrize("users, expected", [
    ("app = pool_size=1", 1), ("app = pool_size=0", 6), ("app = pool_size=-1", 2),
    ("app = pool_size=4", 4), ("app = reserve_pool_size=2", 4), ("app = reserve_pool_size=-1", 3),
    ("app = pool_size=4 max_user_connections=3", 3), ("app = max_user_connections=1", 1),
    ("app = max_user_connections=0", 2), ("app2 = pool_size=5", 3)])
def test_sizes_of_users_limit(files, users, expected):
    """Not of the others; the reserve is used after reserve_pool_timeout."""
    reserve = "reserve" in users or users.startswith("app2")
    text = (BASE + SMALL + ("reserve_pool_size = 1\nreserve_pool_timeout = 0.2\n" if reserve else "")
            + DATABASES + "[users]\n" + users + "\n")
    for start in [files.ours] + ([files.theirs] if THEIR_VERSION >= (1, 25) else []):
        reader = start(text)
        assert reader.up, reader.log()
        conns, served = busy(reader, 6, expected)
        assert served == expected
        leave(conns)
        if users.startswith("app ="):
            others = 3 if reserve else 2
            conns, served = busy(reader, 4, others, user="postgres")
            assert served == others
            leave(conns)


@pytest.mark.parametrize("main, users, expected", [
    ("", "app = max_user_client_connections=2", 2), ("", "app = max_user_client_connections=0", 4),
    ("max_user_client_connections = 1\n", "app = max_user_client_connections=3", 3),
    ("max_user_client_connections = 1\n", "app = max_user_client_connections=-1", 1)])
def test_clients_of_users_limit(files, main, users, expected):
    text = BASE + main + DATABASES + "[users]\n" + users + "\n"
    for start in [files.ours] + ([files.theirs] if THEIR_VERSION >= (1, 25) else []):
        reader = start(text)
        conns = []
        for _ in range(4):
            conn = pgwire.Conn(reader.place, reader.port)
            try:
                conn.login("app", "p1")
                conns.append(conn)
            except pgwire.LoginError as error:
                assert error.fields["M"] == \
                    "client connections exceeded (max_user_client_connections)"
        assert len(conns) == expected
        # Who leaves makes room; others are not concerned.
        assert reader.value("p1", "SELECT 1", "app2") == 1
        conns.pop().close()
        wait_for(lambda: reader.enters("p1", "app"), 10 * SLOW, "room for another")
        leave(conns)


def test_nobody_but_the_console(files):
    """max_client_conn 0."""
    for reader in files.both(BASE + "max_client_conn = 0\n" + DATABASES):
        with pytest.raises(psycopg.OperationalError, match="no more connections allowed"):
            reader.value("p1", "SELECT 1")
        assert reader.config()["max_client_conn"] == "0"


def test_short_queue(files):
    """listen_backlog 0: who finds the queue full comes in later."""
    for reader in files.both(BASE + "listen_backlog = 0\nlisten_addr = 127.0.0.1\n" + DATABASES):
        conns = []
        for _ in range(10):
            conn = pgwire.Conn("127.0.0.1", reader.port)
            conn.login("app", "p1")
            conns.append(conn)
        leave(conns)


def test_statistics_are_never_made_anew(files):
    """stats_period 0: at once, and never again."""
    theirs, ours = files.both(BASE + "stats_period = 0\nlog_stats = 1\n" + DATABASES)
    for reader in (theirs, ours):
        for _ in range(3):
            assert reader.value("p1", "SELECT 1") == 1
        time.sleep(2)
        assert reader.log().count("stats: ") <= 1
    assert ours.show("STATS", "database")["p1"]["avg_query_count"] == "0"
    ours.command("SET stats_period = '1'")
    wait_for(lambda: "stats: " in ours.log(), 10 * SLOW, "the first line")
    ours.command("SET stats_period = '0'")
    count = ours.log().count("stats: ")
    time.sleep(2)
    assert ours.log().count("stats: ") <= count + 1


def test_a_server_may_take_its_time(files):
    """server_connect_timeout is for connection and login together, also when it is longer than our
    own limit for logins; 0 is no limit."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        for seconds, late in ((0, False), (1, True), (20, False)):
            text = (BASE + "server_connect_timeout = %d\nserver_login_retry = 60\n"
                    "[databases]\np1 = host=127.0.0.1 port=%d\n" % (seconds, mute.getsockname()[1]))
            readers = files.both(text)
            conns = []
            for reader in readers:
                conns.append(pgwire.Conn(reader.place, reader.port))
                conns[-1].send(pgwire.startup({"user": "app", "database": "p1"}))
            time.sleep(17 if seconds == 20 else 3)
            for reader in readers:
                assert ("connect timeout" in reader.log()) == late, reader.log()[-2000:]
            leave(conns)
            files.stop()


# ---- the files that it names ----

@pytest.mark.parametrize("text", [
    '"postgres" ""\n"app" "x"\n', '"app" "x" "more" 5\n "postgres" ""', '\n\n; comment\n"app" "x"\n',
    '"postgres" ""\n# no comment\n"app" "x"\n', '"app" "x"\n"app" "y"\n', '"app" "y"\n\n"app" "x"\r\n',
    '"app" "x"\nnonsense', 'app x\n', '"app" x\n', '"app" "x', '"app""app" "x"\n"app" "x"',
    '', '"app"\t"x"', '"" "x"\n"app" "x"',
    '"%s" "x"\n"app" "x"' % ("a" * 200)])
def test_users_files(files, text):
    """Who can log in is the same."""
    readers = files.both(BASE.replace("auth_type = trust", "auth_type = md5").replace(
        "%(users)s", "%(dir)s/list.txt") + DATABASES, {"list.txt": text})
    found = [[(user, password) for user in ("app", 'app"app', "postgres", "nobody")
              for password in ("x", "y")
              if reader.enters("pgbouncer" if user == "postgres" else "p1", user, password)]
             for reader in readers]
    assert readers[0].up and readers[1].up
    assert found[0] == found[1]


HBA_FILES = [
    "host all all 127.0.0.1/32 trust\n", "local all app trust\nhost all app all reject\n",
    "local all all md5\n", "local all +app trust\nlocal all app md5\n",
    "local p1 app,app2 trust\n", 'local "p1" "app" trust\n', "local sameuser all trust\n",
    "local samerole all trust\nlocal all app2 trust\n", "local all all ident\nlocal all app2 trust\n",
    "local all app trust # comment\n", "local all app\nlocal all app2 trust\n", "locl all app trust\n"
    "local all app2 trust\n", "local all @more trust\n", "local all all md5 map=x\n",
    "local all all peer\n", "host all all samehost.org trust\nlocal all app trust\n",
    "host all all 127.0.0.1 255.255.255.255 trust\nlocal all app2 password\n",
    "local all app scram-sha-256\nlocal all all reject\n"]


@pytest.mark.parametrize("text", [text for text in HBA_FILES
                                  if "map=" not in text or THEIR_VERSION >= (1, 23)])
def test_hba_files(files, text):
    readers = files.both(
        BASE.replace("auth_type = trust", "auth_type = hba") + "listen_addr = 127.0.0.1\n"
        "auth_hba_file = %(dir)s/hba\n" + settings(["auth_ident_file"], "%(dir)s/ident") + DATABASES,
        {"hba": text, "more": "app\napp2\n", "ident": "x postgres app\n"})
    found = []
    for reader in readers:
        assert reader.up, reader.log()
        for place in (reader.folder, "127.0.0.1"):
            reader.place = place
            found.append([user for user in ("app", "app2", "u_md5")
                          if reader.enters("p1", user, "md5 secret")])
    assert found[:2] == found[2:]


def test_lines_that_keep_somebody_out(files):
    """pgbouncer passes over lines with +role, and so do we; but not if somebody who is to be kept out
    would come in by that."""
    text = (BASE.replace("auth_type = trust", "auth_type = hba") + "auth_hba_file = %(dir)s/hba\n"
            + DATABASES)
    theirs, ours = files.both(text, {"hba": "local all +staff md5\nlocal all app trust\n"})
    for reader in (theirs, ours):
        assert reader.enters("p1", "app") and not reader.enters("p1", "app2")
    assert re.search(r'WARNING .*hba:1: "\+staff": who is a member of a role only the server knows; '
                     r'name the users, .*: the line is passed over', ours.log())
    assert [row["user_name"] for row in ours.show_rows("HBA")] == ["app"]
    theirs, ours = files.both(text, {"hba": "local all +blocked reject\nlocal all all trust\n"})
    assert theirs.enters("p1", "app") and not ours.up
    assert re.search(r'hba:1: "\+blocked": who is a member .*\n.*hba:1: the line rejects somebody',
                     ours.log())
    # A RELOAD with such a line changes nothing.
    ours = files.ours(text, {"hba": "local all all trust\n"})
    with open(os.path.join(ours.folder, "hba"), "w") as out:
        out.write("local all +blocked reject\nlocal all all trust\n")
    with pytest.raises(AssertionError, match="the line rejects somebody"):
        ours.command("RELOAD")
    assert ours.enters("p1", "app")


@pytest.mark.parametrize("users, limited", [
    ("app = query_timeout=0", True), ("app = query_timeout=-1", False), ("app2 = query_timeout=60", True),
    ("app = query_timeout=60", False), ("app = query_timeout=1.9x", True), ("app =", True)])
def test_times_of_users(files, users, limited):
    """0 is not set, a negative one never comes, fractions are cut off."""
    text = BASE + "query_timeout = 1\n" + DATABASES + "[users]\n" + users + "\n"
    readers = [files.ours(text)] + ([files.theirs(text)] if THEIR_VERSION >= (1, 25) else [])
    conns = []
    for reader in readers:
        assert reader.up, reader.log()
        conns.append(pgwire.Conn(reader.place, reader.port))
        conns[-1].login("app", "p1")
        conns[-1].send(pgwire.query("SELECT pg_sleep(4)"))
    for conn in conns:
        assert bool(pgwire.errors(conn.rest() if limited else conn.ready())) == limited
    leave(conns)


def test_no_limit_in_yaml(make_proxy, other):
    """0 there, too; PREPARE SWAP waits for its answers for a while all the same."""
    proxy = make_proxy(servers={"pg": {"host": "127.0.0.1", "port": other.port, "check_user": "postgres"},
                                "again": {"host": "127.0.0.1", "port": other.port,
                                          "check_user": "postgres", "aliases": ["x:1"]}},
                       databases={"p1": "pg", "p2": {"server": "pg", "pool_size": 1}},
                       users={"app2": {"pool_size": 0}}, pool_size=0, connect_timeout=0,
                       login_timeout=0, max_client_connections=50, stats_period=0)
    conns = []
    for dbname, user, most in (("p1", "app", 30), ("p2", "app2", 10), ("p2", "app", 1)):
        for _ in range(most):
            conns.append(proxy.wire(dbname, user))
            assert not pgwire.errors(conns[-1].query("BEGIN"))
    with proxy.wire("p2", "app") as late:
        late.send(pgwire.query("SELECT 1"))
        assert late.silent(0.5)
    pools = {(row["database"], row["user"]): row["pool_size"] for row in proxy.command("SHOW POOLS")}
    assert (pools["p1", "app"], pools["p2", "app2"], pools["p2", "app"]) == ("0", "0", "1")
    leave(conns)
    with proxy.wire("p1") as conn:
        conn.value("SELECT 1")
        proxy.command("PREPARE SWAP p1 TO again")
        proxy.hold("p1")
        proxy.command("SWAP p1 TO again FORCE")
        proxy.command("RELEASE p1")
        assert conn.value("SELECT 1") == "1"
    assert proxy.route("p1")["server"] == "again"


def test_anybody(files):
    """auth_type any: databases without a user are told of when somebody comes."""
    text = (BASE.replace("auth_type = trust", "auth_type = any") + DATABASES +
            "mine = host=127.0.0.1 port=%(pg)d dbname=p2 user=app\n")
    for reader in files.both(text):
        assert reader.value("mine", "SELECT current_user", "whoever") == "app"
        with pytest.raises(psycopg.OperationalError, match="bouncer config error"):
            reader.value("p1", "SELECT 1", "app")
