# SPDX-License-Identifier: PostgreSQL
"""Secrets that become known, or others, while the proxy runs: who has the right one gets in at once."""
import time

import pytest

import pgwire
from pgwire import LoginError
from proxy import USERS
from servers import SLOW

LONG = "1h"  # server_login_retry: nobody outwaits it


def secret(pg, user):
    return pg.value("SELECT rolpassword FROM pg_authid WHERE rolname = '%s'" % user)


@pytest.mark.parametrize("theirs", [False, True], ids=["pgshunt", "as pgbouncer"])
@pytest.mark.parametrize("method", ["scram-sha-256", "password"])
def test_login_without_a_key_closes_nothing(make_proxy, pg, folder, theirs, method):
    """Who is trusted brings no key for the server; who logs in by SCRAM, or whose clear-text password fits
    the SCRAM secret, does: for all, in all workers."""
    proxy = make_proxy(start=False, auth_type="hba", auth_hba_file="hba", server_login_retry=LONG, workers=2,
                       as_pgbouncer=theirs, unix_socket_directory=folder,
                       secrets={**USERS, "u_scram": secret(pg, "u_scram")})
    with open(proxy.folder + "/hba", "w") as out:
        out.write("local all all trust\nhost pgshunt,pgbouncer all all scram-sha-256\nhost all all all %s\n" % method)
    proxy.write()
    proxy.start()

    def trusted():
        with pgwire.Conn(folder, proxy.port) as conn:
            conn.login("u_scram", "p1")
            return conn.value("SELECT session_user")

    for _ in range(4):  # in both workers
        with pytest.raises(LoginError) as error:
            trusted()
        assert "its key becomes known when the user itself logs in" in str(error.value.fields)
    began = time.monotonic()
    for _ in range(4):
        with proxy.wire("p1", "u_scram", "scram secret") as conn:
            assert conn.value("SELECT session_user") == "u_scram"
    # The other worker is told by a letter.
    pgwire.wait_for(lambda: let_in(trusted), 10 * SLOW, "a login by trust")
    assert time.monotonic() - began < 60 * SLOW


def let_in(attempt):
    try:
        return attempt()
    except LoginError:
        return None


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("theirs", [False, True], ids=["pgshunt", "as pgbouncer"])
def test_rotated_in_the_users_file(make_proxy, pg, theirs, workers):
    """An old client asks before anybody has logged in with the new password."""
    pg.sql("ALTER ROLE u_scram PASSWORD 'scram secret'")
    secrets = {**USERS, "u_scram": secret(pg, "u_scram")}
    proxy = make_proxy(auth_type="scram-sha-256", server_login_retry=LONG, workers=workers, as_pgbouncer=theirs,
                       secrets=secrets)
    try:
        with proxy.wire("p1", "u_scram", "scram secret") as old:
            old.value("SELECT 1")
            pg.sql("ALTER ROLE u_scram PASSWORD 'new'")
            proxy.secrets["u_scram"] = secret(pg, "u_scram")
            proxy.write()
            proxy.command("RELOAD")
            proxy.command("RECONNECT")
            pgwire.wait_for(lambda: not pg.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'u_scram'"),
                            10 * SLOW, "the end of the old connection")
            assert "its key becomes known" in str(pgwire.errors(old.query("SELECT 1")))
            for _ in range(4):
                with proxy.wire("p1", "u_scram", "new") as conn:
                    assert conn.value("SELECT session_user") == "u_scram"
            # He goes on with the key that they have brought.
            assert pgwire.wait_for(lambda: not pgwire.errors(old.query("SELECT 1")), 10 * SLOW, "the old client")
    finally:
        pg.sql("ALTER ROLE u_scram PASSWORD 'scram secret'")
