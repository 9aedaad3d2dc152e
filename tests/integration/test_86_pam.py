# SPDX-License-Identifier: PostgreSQL
"""Passwords that PAM checks, by real services: files that name a program of the test's."""
import os
import threading

import pytest

from pgwire import Conn, LoginError, wait_for
from proxy import ADMIN
from servers import subfolder

CHECK = """#!/bin/sh
case "$PAM_USER@$PAM_RHOST:$(tr -d '\\000')" in
"u_clear@127.0.0.1:clear secret") exit 0 ;;
"slow@127.0.0.1:"*) touch "$0.asked"; until [ -e "$0.go" ]; do sleep 0.05; done ;;
esac
exit 1
"""


def refused(proxy, user, password):
    with pytest.raises(LoginError) as error:
        proxy.wire(user=user, password=password)
    return error.value.fields["C"], error.value.fields["M"]


@pytest.fixture
def services(folder):
    """A directory of services: pgshunt asks the program, pgbouncer nobody may use."""
    path = subfolder(folder)
    check = os.path.join(path, "check")
    with open(check, "w") as out:
        out.write(CHECK)
    os.chmod(check, 0o755)
    for name, account in (("pgshunt", "permit"), ("pgbouncer", "deny")):
        with open(os.path.join(path, name), "w") as out:
            out.write(f"auth required pam_exec.so quiet expose_authtok {check}\n"
                      f"account required pam_{account}.so\n")
    yield path
    with open(check + ".go", "w"):
        pass  # whoever still waits ends


def test_the_password_serves_at_the_server(make_proxy, services):
    proxy = make_proxy(start=False, auth_type="pam", pam_directory=services, log_level="info")
    del proxy.secrets["u_clear"]
    proxy.write()
    proxy.start()
    for _ in range(2):
        with proxy.wire(user="u_clear", password="clear secret") as conn:
            assert conn.value("SELECT current_user") == "u_clear"
    for user, password in (("u_clear", "wrong"), ("nobody", "clear secret"), ("app", "clear secret")):
        assert refused(proxy, user, password) == \
            ("28000", f'PAM authentication failed for user "{user}"')
    assert refused(proxy, "u_clear", "")[0] == "28P01"
    assert "closing because: PAM authentication failed (age" in proxy.log()
    # Right, but the account is not to be used; and a service that there is not.
    proxy.settings["pam_service"] = "pgbouncer"
    proxy.write()
    proxy.stop()
    proxy.start()
    assert refused(proxy, "u_clear", "clear secret")[0] == "28000"


def test_the_password_opens_what_has_failed_without_it(make_proxy, services, folder):
    """Who is trusted brings no password for the server; his next login by PAM does."""
    rules = os.path.join(folder, "rules")
    with open(rules, "w") as out:
        out.write(f"host all {ADMIN} all scram-sha-256\nlocal all all trust\nhost all all all pam\n")
    proxy = make_proxy(start=False, auth_type="hba", auth_hba_file=rules, pam_directory=services, workers=1,
                       server_login_retry="1h", unix_socket_directory=folder, users={"u_clear": {}})
    del proxy.secrets["u_clear"]
    proxy.write()
    proxy.start()
    with pytest.raises(LoginError) as error, Conn(folder, proxy.port) as conn:
        conn.login("u_clear", "p1")
    assert "which is not known" in error.value.fields["M"]
    for dbname in ("p1", "p2"):
        with proxy.wire(dbname, user="u_clear", password="clear secret") as conn:
            assert conn.value("SELECT current_user") == "u_clear"


def test_who_takes_his_time_holds_up_nobody_else(make_proxy, services, folder):
    rules = os.path.join(folder, "rules")
    with open(rules, "w") as out:
        out.write(f"host all {ADMIN} all scram-sha-256\nhost all slow all pam\n"
                  "host all all all scram-sha-256\n")
    proxy = make_proxy(start=False, auth_type="hba", auth_hba_file=rules, pam_directory=services)
    proxy.start()
    answer = []
    slow = threading.Thread(target=lambda: answer.append(refused(proxy, "slow", "x")))
    slow.start()
    wait_for(lambda: os.path.exists(os.path.join(services, "check.asked")), what="the question")
    for _ in range(3):
        with proxy.wire(user="u_scram", password="scram secret") as conn:
            assert conn.value("SELECT 1") == "1"
    # Nor the end of the process.
    proxy.stop()
    slow.join()
    assert answer[0][0] == "57P03"
