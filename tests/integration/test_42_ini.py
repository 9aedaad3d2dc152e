# SPDX-License-Identifier: PostgreSQL
"""pgshuntd on a pgbouncer.ini as it is; its translation to YAML; its errors with their lines."""
import os
import re
import subprocess

import pytest

from proxy import program
from servers import SLOW


INI = """
;; a comment
[databases]
p1 = host=127.0.0.1 port=%(pg)d pool_size=3
mine = host=127.0.0.1 port=%(pg)d dbname=p2 user=u_md5 password='md5 secret' pool_mode=Transaction
by_file = host=127.0.0.1 port=%(pg)d dbname=p2 user=u_scram
"quoted name" = host=127.0.0.1 port=%(pg)d dbname=p1 connect_query='set application_name = ''it is'''
p1 = host=127.0.0.1 port=%(pg)d pool_size=2 server_lifetime=0
* = host=127.0.0.1 port=%(pg)d
%%include more.ini

[users]
app2 = pool_mode=statement max_user_client_connections=1
none_set =
[peers]
1 = host=127.0.0.1
16383 = host=/run/other port=6543 pool_size=7
"""
MORE = """
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %(port)d
unix_socket_dir =
auth_type = trust
auth_file = %(users)s
admin_users = pgshunt_admin, app
logfile = %(log)s
pool_mode = SESSION
server_check_delay = 10.5
tcp_user_timeout = 2500
tcp_defer_accept = 0
scram_iterations = 5000
verbose = 1
peer_id = 1
so_reuseport = 1
"""


@pytest.fixture
def ini(make_proxy, pg):
    """A proxy that has not been started, with a pgbouncer.ini."""
    proxy = make_proxy(start=False)
    proxy.values = {"pg": pg.port, "port": proxy.port, "users": proxy.users_path,
                    "log": proxy.log_path + ".file"}
    proxy.config_path = os.path.join(proxy.folder, "pgbouncer.ini")
    write(proxy, INI, MORE)
    return proxy


def write(proxy, main, more):
    for name, text in (("pgbouncer.ini", main), ("more.ini", more)):
        with open(os.path.join(proxy.folder, name), "w") as out:
            out.write(text % proxy.values)


def run(*argv, **kwargs):
    return subprocess.run(argv, capture_output=True, text=True, timeout=30 * SLOW, **kwargs)


def test_starts_as_it_is(ini):
    ini.start()
    with ini.wire() as conn:
        assert conn.value("SELECT current_database()") == "p1"
    with ini.wire("mine") as conn:
        assert conn.value("SELECT current_user || current_database()") == "u_md5p2"
    with ini.wire("by_file") as conn:
        assert conn.value("SELECT current_user") == "u_scram"
    with ini.wire("quoted name") as conn:
        assert conn.value("SHOW application_name") == "it is"
    with ini.wire("postgres", "postgres") as conn:  # by the fallback
        assert conn.value("SELECT current_database()") == "postgres"
    config = {row["key"]: row["value"] for row in ini.command("SHOW CONFIG")}
    assert config["proxy.pool_mode"] == "session"
    assert config["proxy.tcp_user_timeout"] == "2500ms"
    assert config["proxy.max_client_connections"] == "100"
    pools = {row["database"]: row for row in ini.command("SHOW POOLS")}
    assert pools["p1"]["pool_size"] == "2" and pools["mine"]["pool_mode"] == "transaction"
    assert pools["postgres"]["pool_mode"] == "session"
    assert ini.command("SHOW PEERS")[1] == {"peer_id": "16383", "host": "/run/other",
                                            "port": "6543", "pool_size": "7"}
    # … in the format of pgbouncer's, for whatever reads that.
    with open(ini.values["log"]) as log:
        text = log.read()
    begin = r"\n\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \S+ \[%d\] LOG " % ini.process.pid
    for line in (r"pgshuntd \S+ is ready", r"C-0x[0-9a-f]+: p1/app@127\.0\.0\.1:\d+ login attempt: ",
                 r"S-0x[0-9a-f]+: p1/app@127\.0\.0\.1:%(pg)d new connection to server "
                 r"\(from 127\.0\.0\.1:" % ini.values):
        assert re.search(begin + line, "\n" + text)
    assert "is ready" not in ini.log()
    # A reload with an error changes nothing and says where it is.
    write(ini, INI, MORE + "pool_size = 3\nquery_timeout = soon\n")
    with pytest.raises(Exception) as error:
        ini.command("RELOAD")
    assert error.value.sqlstate == "F0000"
    assert "more.ini:19: query_timeout" in error.value.fields["D"]
    write(ini, INI.replace("dbname=p2 user=u_scram", "dbname=p1 user=u_scram"), MORE)
    ini.command("RELOAD")
    with ini.wire("by_file") as conn:
        assert conn.value("SELECT current_database()") == "p1"


def test_swap_needs_a_state_directory(ini):
    ini.start()
    ini.hold("p1")
    with pytest.raises(Exception) as error:
        ini.command("SWAP p1 TO \"127.0.0.1:%d\" FORCE" % ini.values["pg"])
    assert "state directory" in error.value.fields["M"]
    ini.command("RELEASE p1")


@pytest.mark.parametrize("old, new, text", [
    ("pool_size=2", "pool_sise=2", "pgbouncer.ini:8: \"pool_sise\": unknown setting; did you mean"),
    ("[peers]", "[peer]", "unknown section"),
    ("16383 = ", "16384 = ", "pgbouncer.ini:17: peers: the name of a peer is its peer_id"),
    ("pool_mode=statement", "pool_mode=query", "pgbouncer.ini:13: pool_mode: \"query\" is not known"),
    ("auth_type = trust", "auth_type = ldaps", "more.ini:6: auth_type: \"ldaps\" is not known"),
    ("auth_type = trust", "auth_type = ldap", "auth_ldap_options: authentication method \"ldap\" requires"),
    ("listen_addr = 127.0.0.1", "listen_addr =", "nobody can connect"),
    ("p1 = host=127.0.0.1 port=%(pg)d pool_size=2", "p1 = host=127.0.0.1:5432",
     "pgbouncer.ini:8: servers.127.0.0.1:5432.host: a port does not stand in host"),
    ("verbose = 1", "verbos = 1", "did you mean \"verbose\""),
])
def test_errors(ini, old, new, text):
    write(ini, INI.replace(old, new), MORE.replace(old, new))
    result = run(program("pgshuntd"), "--check-config", ini.config_path)
    assert result.returncode == 2 and text in result.stderr, result.stderr


def test_import(ini, pg):
    """The YAML works as the ini does."""
    result = run(program("pgshunt"), "import-pgbouncer", ini.config_path)
    assert result.returncode == 0, result.stderr
    assert "# password (line 5 of" in result.stdout and "md5 secret" not in result.stdout
    assert "tcp_defer_accept: 0" in result.stdout
    assert "# scram_iterations (line " in result.stdout
    ini.config_path = os.path.join(ini.folder, "imported.yml")
    with open(ini.config_path, "w") as out:
        out.write(result.stdout)
    ini.start()
    with ini.wire() as conn:
        assert conn.value("SELECT current_database()") == "p1"
    with ini.wire("postgres", "postgres") as conn:
        assert conn.value("SELECT current_database()") == "postgres"
    bad = run(program("pgshunt"), "import-pgbouncer", os.path.join(ini.folder, "more"))
    assert bad.returncode != 0 and "cannot be read" in bad.stderr
