# SPDX-License-Identifier: PostgreSQL
"""Passwords that an LDAP server checks: a real slapd, asked in every way that the options know."""
import glob
import os
import subprocess
from types import SimpleNamespace

import pytest

from certs import Authority
from pgwire import LoginError, wait_for
from proxy import ADMIN, program
from servers import SLOW, free_port, port_open, subfolder

SLAPD = os.environ.get("PGSHUNT_SLAPD", "/usr/sbin/slapd")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(SLAPD)))
CONF = """include {root}/etc/ldap/schema/core.schema
include {root}/etc/ldap/schema/cosine.schema
include {root}/etc/ldap/schema/inetorgperson.schema
access to attrs=userPassword by anonymous auth
access to dn.subtree="ou=hidden,dc=test" by dn.base="cn=finder,dc=test" read by anonymous auth
access to * by * read
TLSCACertificateFile {ca}
TLSCertificateFile {cert}
TLSCertificateKeyFile {key}
database ldif
directory {data}
suffix "dc=test"
"""
ENTRIES = """dn: dc=test
objectClass: dcObject
objectClass: organization
dc: test
o: test

"""
UNIT = """dn: ou={ou},dc=test
objectClass: organizationalUnit
ou: {ou}

"""
PERSON = """dn: {dn}
objectClass: inetOrgPerson
cn: {name}
sn: {name}
uid: {name}
mail: {name}@test
userPassword: {password}

"""


@pytest.fixture
def ldap(folder):
    """u_clear, app twice, and finder, who alone may look for those who are hidden."""
    path = subfolder(folder)
    authority = Authority(path)
    cert, key = authority.issue("ldap", "/CN=localhost", "DNS:localhost,IP:127.0.0.1")
    os.mkdir(os.path.join(path, "data"))
    text = ENTRIES + "".join(UNIT.format(ou=ou) for ou in ("people", "others", "hidden"))
    for dn, name, password in (("uid=u_clear,ou=people,dc=test", "u_clear", "clear secret"),
                               ("uid=app,ou=people,dc=test", "app", "x"),
                               ("uid=app,ou=others,dc=test", "app", "x"),
                               ("uid=u_scram,ou=hidden,dc=test", "u_scram", "scram secret"),
                               ("cn=finder,dc=test", "finder", "found it")):
        text += PERSON.format(dn=dn, name=name, password=password)
    conf = os.path.join(path, "slapd.conf")
    with open(conf, "w") as out:
        out.write(CONF.format(root=ROOT.rstrip("/"), ca=authority.cert, cert=cert, key=key,
                               data=os.path.join(path, "data")))
    libraries = glob.glob(os.path.join(ROOT, "usr/lib/*-linux-gnu"))
    env = {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}
    subprocess.run([SLAPD, "-T", "add", "-f", conf], input=text, text=True, check=True,
                   capture_output=True, env=env)
    ports = free_port(), free_port()
    with subprocess.Popen([SLAPD, "-f", conf, "-d", "0", "-h",
                           "ldap://127.0.0.1:%d ldaps://127.0.0.1:%d" % ports], env=env) as process:
        wait_for(lambda: all(port_open(port) for port in ports), 20 * SLOW, "slapd")
        yield SimpleNamespace(port=ports[0], tls_port=ports[1], ca=authority.cert, process=process)
        process.terminate()


def refused(proxy, user, password):
    with pytest.raises(LoginError) as error:
        proxy.wire(user=user, password=password)
    return error.value.fields["C"], error.value.fields["M"]


FAILED = "28000", 'LDAP authentication failed for user "u_clear"'


def test_every_way_to_ask(make_proxy, ldap, folder):
    proxy = make_proxy(start=False, auth_type="hba", auth_hba_file=os.path.join(folder, "rules"))
    proxy.env["LDAPTLS_CACERT"] = ldap.ca
    del proxy.secrets["u_clear"], proxy.secrets["u_scram"]
    proxy.write()

    def rules(options):
        with open(os.path.join(folder, "rules"), "w") as out:
            out.write(f"host all {ADMIN} all scram-sha-256\nhost all all all ldap {options}\n")
        if proxy.process is not None:
            proxy.command("RELOAD")
    here = f"ldapserver=127.0.0.1 ldapport={ldap.port}"
    url = f"127.0.0.1:{ldap.port}/ou=people,dc=test"
    bind = 'ldapprefix="uid=" ldapsuffix=",ou=people,dc=test"'
    rules(f"{here} {bind}")
    proxy.start()
    for options in (f"{here} {bind}", f"{here} {bind} ldaptls=1",
                    f"ldapserver=127.0.0.1 ldapport={ldap.tls_port} ldapscheme=ldaps {bind}",
                    f'ldapserver="127.0.0.2 127.0.0.1" ldapport={ldap.port} ldapbasedn="dc=test"',
                    f'{here} ldapbasedn="dc=test" ldapsearchattribute=mail',
                    f'{here} ldapbasedn="dc=test" ldapsearchfilter="(|(cn=no)(uid=$username))"',
                    f'ldapurl="ldap://{url}?uid?one"',
                    f'ldapurl="ldap://{url}??sub?(mail=$username@test)" ldaptls=1'):
        rules(options)
        if "attribute=mail" not in options:
            with proxy.wire(user="u_clear", password="clear secret") as conn:
                assert conn.value("SELECT current_user") == "u_clear"
            assert refused(proxy, "u_clear", "wrong") == FAILED
        assert refused(proxy, "u_clear", "")[0] == "28P01"
        assert refused(proxy, "nobody", "clear secret")[0] == "28000"
    assert "LDAP: bind: Invalid credentials" in proxy.log()
    # One of two; who is hidden from the search; what a filter would understand.
    rules(f'{here} ldapbasedn="dc=test"')
    for user, why in (("app", "more than one"), ("u_scram", "found no entry"),
                      ("*", "invalid character")):
        assert refused(proxy, user, "scram secret")[0] == "28000" and why in proxy.log()
    rules(f'{here} ldapbasedn="ou=hidden,dc=test" ldapbinddn="cn=finder,dc=test" '
          'ldapbindpasswd="found it"')
    with proxy.wire(user="u_scram", password="scram secret") as conn:
        assert conn.value("SELECT current_user") == "u_scram"
    shown = proxy.command("SHOW HBA")
    assert "finder" in str(shown) and "found it" not in str(shown) + proxy.log()
    # Not encrypted as was asked for; nobody there.
    for options in (f"ldapserver=127.0.0.1 ldapport={ldap.tls_port} {bind}",
                    f"ldapserver=127.0.0.2 ldapport={ldap.port} {bind}"):
        rules(options)
        assert refused(proxy, "u_clear", "clear secret") == FAILED


def test_options_are_checked(make_proxy, ldap):
    proxy = make_proxy(start=False, auth_type="ldap")

    def said(options):
        proxy.settings["auth_ldap_options"] = options
        proxy.write()
        done = subprocess.run([program("pgshuntd"), "--config", proxy.config_path,
                               "--check-config"], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        return done.stderr
    here = f"ldapserver=127.0.0.1 ldapport={ldap.port}"
    for options, what in (("", 'requires argument "ldapserver"'),
                          (here, '"ldapbasedn", "ldapprefix", or "ldapsuffix"'),
                          (f"{here} ldapprefix=a ldapbasedn=b", "cannot mix options"),
                          (f"{here} ldapbasedn=b ldapsearchattribute=c ldapsearchfilter=d",
                           "together with ldapsearchfilter"),
                          ("ldapport=0", "invalid LDAP port number: 0"),
                          ("ldapscheme=ldapi", "invalid ldapscheme value: ldapi"),
                          ("ldapurl=http://host", "could not parse LDAP URL"),
                          ("ldapurl=ldapi://host", "unsupported LDAP URL scheme"),
                          ("ldapbindpassword=secret", "unrecognized authentication option name")):
        text = said(options)
        assert what in text and "secret" not in text
    proxy.settings["auth_ldap_options"] = \
        f'ldapurl="ldap://127.0.0.1:{ldap.port}/dc=test?uid?sub" ' \
        'ldapbinddn="cn=finder,dc=test" ldapbindpasswd="found it"'
    proxy.settings["admin_users"] = ["u_clear"]
    # Only the setting that may hold one is hidden, not whatever has the word in it.
    proxy.settings["login_notify_message"] = "who knows ldapbindpasswd"
    proxy.write()
    proxy.start()
    with proxy.wire("pgbouncer", "u_clear", "clear secret") as console:
        shown = str(console.query("SHOW CONFIG"))
        assert "found it" not in shown and "who knows ldapbindpasswd" in shown
    assert refused(proxy, "u_clear", "wrong") == FAILED
