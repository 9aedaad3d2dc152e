# SPDX-License-Identifier: PostgreSQL
"""The log: JSON, the limit of lines of one kind, and a file that is moved away."""
import json
import os
import re
import signal
import socket
import struct
import sys

import pytest

import pgwire
from pgwire import query, wait_for
from proxy import program
from servers import SLOW, start


def objects(proxy):
    """Every line is one object, in valid UTF-8."""
    with open(proxy.log_path, "rb") as log:
        data = log.read()
    assert data.endswith(b"\n")
    for line in data[:-1].split(b"\n"):
        found = json.loads(line.decode("utf-8"))
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", found["time"])
        assert found["level"] in ("error", "warning", "info", "debug")
        assert isinstance(found["pid"], int) and found["message"]
        yield found


def wait_for_message(proxy, part):
    return wait_for(lambda: part.encode() in open(proxy.log_path, "rb").read() and
                    [found for found in objects(proxy) if part in found["message"]],
                    20 * SLOW, part)


def test_json(make_proxy):
    proxy = make_proxy(log_format="json", auth_type="scram-sha-256")
    with proxy.wire("p1", "u_scram", "scram secret", application_name='say "hello"\\\n') as conn:
        client = [row for row in proxy.command("SHOW CLIENTS") if row["database"] == "p1"][0]
        conn.value("SELECT 1")
    line = wait_for_message(proxy, "logged in as u_scram")[0]
    assert line["database"] == "p1" and line["user"] == "u_scram"
    assert line["client_address"] == "127.0.0.1" and line["client_port"] == int(client["port"])
    assert line["client_id"] == int(client["id"]) and line["worker"] in (0, 1)
    assert 'say "hello"\\' in line["message"] and line["level"] == "info"
    wait_for(lambda: [found for found in objects(proxy) if "closing because" in found["message"] and
                      found["client_id"] == line["client_id"]], 20 * SLOW, "its end")
    for user, dbname in (("u_scram", "p1"), ("\u00fcnknown", "n\u00f6where")):
        with pytest.raises(pgwire.LoginError):
            proxy.wire(dbname, user, "wrong")
    line = wait_for_message(proxy, "authentication failed: there is no such user")[0]
    assert line["level"] == "warning"
    assert (line["database"], line["user"]) == ("n\u00f6where", "\u00fcnknown")
    ready = wait_for_message(proxy, "is ready")[0]
    assert "worker" not in ready and "database" not in ready


HOSTILE = [b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3", b"\x01\x1b[2J",
           b'"},{"level":"error"', b"\\", b"\\u0000", "\u2028\U0001f600".encode(), b"\n{}\n", b"\x7f",
           b"x" * 60 + b"\xe2\x82", b"a" * 3000, b"\xff" * 3000, b'"' * 3000, b"\x02" * 3000]


@pytest.mark.parametrize("kind", ["json", "text"])
def test_whatever_clients_send(make_proxy, kind):
    proxy = make_proxy(log_format=kind, log_rate_limit=0)
    for data in HOSTILE:
        for params in ({"user": b"app", "database": data}, {"user": data, "database": b"p1"},
                       {"user": b"app", "database": b"p1", "application_name": data},
                       {"user": b"app", "database": b"p1", data: data}):
            with pgwire.Conn(proxy.host, proxy.port) as conn:
                conn.send(pgwire.startup(params))
                try:
                    conn.recv()
                except pgwire.Closed:
                    pass
    with proxy.wire() as conn:
        assert conn.value("SELECT 1") == "1"
    proxy.stop()
    if kind == "json":
        lines = list(objects(proxy))
        assert len([line for line in lines if line["level"] == "error"]) == 0
        assert any(line["message"].endswith("has ended") for line in lines)
    else:
        with open(proxy.log_path, "rb") as log:
            assert all(re.match(rb"\d{4}-\d\d-\d\dT[\d:.]+Z \[\d+\] [A-Z]+ ", line)
                       for line in log.read()[:-1].split(b"\n"))


@pytest.mark.parametrize("kind", ["json", "text"])
def test_limit(make_proxy, kind):
    """Of what comes too often, the number is told; other kinds are not touched by it."""
    proxy = make_proxy(log_format=kind, log_rate_limit=5, log_level="info")
    for _ in range(60):
        with pytest.raises(pgwire.LoginError):
            proxy.wire("nosuch")
    with proxy.wire() as conn:
        conn.value("SELECT 1")
    wait_for(lambda: "like this left out" in proxy.log(), 20 * SLOW, "the number")
    proxy.stop()
    log = proxy.log()
    assert "logged in as app" in log
    told = [int(number) for number in re.findall(r"(\d+) like this left out: FATAL … *: …", log)]
    written = log.count("FATAL 3D000")
    assert sum(told) + written == 60 and written < 60, log
    if kind == "json":
        assert sum(line.get("left_out", 0) for line in objects(proxy)
                   if "FATAL" in line["message"]) == sum(told)


def test_no_limit(make_proxy):
    proxy = make_proxy(log_rate_limit=0, log_level="info")
    for _ in range(60):
        with pytest.raises(pgwire.LoginError):
            proxy.wire("nosuch")
    wait_for(lambda: proxy.log().count("FATAL 3D000") == 60, 20 * SLOW, "the lines")
    assert "left out" not in proxy.log()


def test_format_is_reloadable(make_proxy):
    proxy = make_proxy(log_format="text")
    proxy.settings["log_format"] = "json"
    proxy.reload()
    wait_for(lambda: '"message": "configuration read again"' in proxy.log(), 20 * SLOW, "JSON")


def test_logins_as_pgbouncer_logs_them(make_proxy):
    """What programs read that count connections in its log."""
    proxy = make_proxy(log_format="pgbouncer", auth_type="scram-sha-256", log_level="info")
    proxy.wire("p1", "u_scram", "scram secret").close()
    with pytest.raises(pgwire.LoginError):
        proxy.wire("p1", "u_scram", "wrong")
    proxy.console("pgbouncer").conn.close()
    attempts = re.findall(r"^\S+ \S+ \w+ \[\d+\] LOG C-0x[0-9a-f]+: (\S+)@127\.0\.0\.1:\d+ login "
                          r"attempt: (.*)$", proxy.log(), re.M)
    for name, db, user in (("p1/u_scram", "p1", "u_scram"),
                           ("pgbouncer/pgshunt_admin", "pgbouncer", "pgshunt_admin")):
        told = [what for whom, what in attempts if whom == name]
        assert told and set(told) == {"db=%s user=%s tls=no replication=no" % (db, user)}, attempts
    assert [whom for whom, _ in attempts].count("p1/u_scram") == 2
    assert "logged in as" not in proxy.log()


@pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
def test_address_of_a_connection_that_was_reset(make_proxy, kind):
    """The kernel has forgotten it by then, the log has not."""
    host = {"ipv4": "127.0.0.1", "ipv6": "::1"}[kind]
    proxy = make_proxy(listen_addresses=["127.0.0.1", "::1"], workers=1)
    with pgwire.Conn(host, proxy.port) as conn:
        conn.login("app", "p1")
        where = conn.sock.getsockname()[:2]
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: "client p1/app@" in proxy.log() and "closing because" in proxy.log().rsplit(
        "client p1/app@", 1)[1], 20 * SLOW, "its end")
    assert "client p1/app@%s:%d: closing because" % (
        host if kind == "ipv4" else "[::1]", where[1]) in proxy.log()


def test_file_that_is_moved_away(make_proxy):
    """As logrotate does it; also when the configuration has an error at that moment."""
    proxy = make_proxy(start=False)
    path = os.path.join(proxy.folder, "pgshuntd.log")
    proxy.settings["log_file"] = path
    proxy.write()
    proxy.start()
    wait_for(lambda: os.path.exists(path) and "is ready" in open(path).read(), 20 * SLOW, "the log")
    os.rename(path, path + ".1")
    proxy.process.send_signal(signal.SIGHUP)
    wait_for(lambda: os.path.exists(path) and "configuration read again" in open(path).read(),
             20 * SLOW, "the new file")
    with open(proxy.config_path, "a") as out:
        out.write("nonsense: 1\n")
    os.rename(path, path + ".2")
    proxy.process.send_signal(signal.SIGHUP)
    wait_for(lambda: os.path.exists(path) and "reload failed" in open(path).read(), 20 * SLOW,
             "the next file")
    with proxy.wire() as conn:
        conn.send(query("SELECT 1"))
        conn.ready("I")
    wait_for(lambda: "logged in" in open(path).read(), 20 * SLOW, "its lines")


# A /dev of its own, in which somebody listens at the socket of syslog.
WITH_SYSLOG = r"""
set -e
mkdir "$1/dev"
mount -t tmpfs tmpfs "$1/dev"
for name in null zero random urandom; do
	: >"$1/dev/$name"
	mount --bind "/dev/$name" "$1/dev/$name"
done
mkdir "$1/dev/shm"
mount --bind /dev/shm "$1/dev/shm" # the tests themselves may live there
mount --rbind "$1/dev" /dev
"$3" -c 'import socket, sys
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind("/dev/log")
with open(sys.argv[1], "ab", buffering=0) as out:
    while True:
        out.write(listener.recv(65536) + bytes([10]))' "$2" &
until [ -S /dev/log ]; do sleep 0.02; done
shift 3
exec "$@"
"""


@pytest.mark.parametrize("facility, number", [(None, 3), ("local3", 19)])
def test_syslog(make_proxy, facility, number):
    proxy = make_proxy(start=False, log_destination="syslog", syslog_ident="shunt-1")
    if facility:
        proxy.settings["syslog_facility"] = facility
        proxy.write()
    lines = os.path.join(proxy.folder, "syslog")
    own = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    process = start(["unshare", *own, "--mount", "sh", "-c", WITH_SYSLOG, "sh", proxy.folder, lines,
                     sys.executable, program("pgshuntd"), "--config", proxy.config_path],
                    proxy.log_path)
    try:
        found = wait_for(lambda: os.path.exists(lines) and process.poll() is None and
                         re.search(r"^<(\d+)>.* shunt-1\[\d+\]: .*is ready", open(lines).read(), re.M),
                         20 * SLOW, "the line in syslog")
        assert int(found.group(1)) == number * 8 + 6  # info
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20 * SLOW)
