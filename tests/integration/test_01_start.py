# SPDX-License-Identifier: PostgreSQL
"""Starting, the command line, and errors of the configuration."""
import grp
import os
import pwd
import re
import signal
import subprocess
import time

import pytest
import yaml

import pgwire
from proxy import program
from servers import OWNER, SLOW, free_port


def pgshuntd(*args, **kwargs):
    return subprocess.run([program("pgshuntd"), *args], capture_output=True, text=True,
                          timeout=30 * SLOW, **kwargs)


@pytest.mark.parametrize("name", ["pgshuntd", "pgshunt"])
def test_version_and_help(name):
    version = subprocess.run([program(name), "--version"], capture_output=True, text=True)
    assert version.returncode == 0 and re.match(r"%s .*\d+\.\d+" % name, version.stdout)
    usage = subprocess.run([program(name), "--help"], capture_output=True, text=True)
    assert usage.returncode == 0 and "--config" in usage.stdout


@pytest.mark.parametrize("args", [["--no-such-option"], ["stray"], ["--config"]])
def test_wrong_arguments(args):
    result = pgshuntd(*args)
    assert result.returncode == 2 and result.stderr


def test_config_file_that_does_not_exist(tmp_path):
    result = pgshuntd("--config", str(tmp_path / "none.yml"))
    assert result.returncode == 2 and "none.yml" in result.stderr


def test_check_config(make_proxy):
    proxy = make_proxy(start=False)
    result = pgshuntd("--config", proxy.config_path, "--check-config")
    assert result.returncode == 0, result.stderr




@pytest.mark.parametrize("text, line, words", [
    ("prxy: {}\n", 1, ["prxy"]),
    ("proxy:\n  prot: 6432\n", 2, ["prot"]),
    ("proxy:\n  port: many\n", 2, ["port"]),
    ("proxy:\n  port: 70000\n", 2, ["port", "65535"]),
    ("proxy:\n  port: 1\n  port: 2\n", 3, ["port"]),
    ("proxy:\n  hold_lease: 10 parsecs\n", 2, ["hold_lease"]),
    ("proxy:\n  hold_max_bytes: 12q\n", 2, ["hold_max_bytes"]),
    ("proxy:\n  pool_mode: query\n", 2, ["pool_mode", "transaction", "session", "statement"]),
    ("proxy:\n  log_connections: maybe\n", 2, ["log_connections"]),
    ("proxy:\n  workers: [1, 2]\n", 2, ["workers"]),
    ("proxy: 5\n", 1, ["proxy"]),
    ("proxy:\n\tport: 1\n", 2, []),
    ("servers:\n  pg1: {port: 5432}\n", 2, ["host"]),
    ("servers:\n  pg1: {host: a}\ndatabases:\n  p1: {server: pg9}\n", 4, ["pg9"]),
    ("servers:\n  pg1: {host: a}\ndatabases:\n  p1: {dbname: x}\n", 4, ["server"]),
    ("servers:\n  pg1: {host: a}\n  pg1: {host: b}\n", 3, ["pg1"]),
    ("proxy: {port: 1\nservers: {}\n", None, []),
])
def test_wrong_configuration(tmp_path, text, line, words):
    """File, line and column, and what would be right."""
    path = tmp_path / "bad.yml"
    path.write_text(text)
    for args in (["--check-config"], []):
        result = pgshuntd("--config", str(path), *args)
        assert result.returncode == 2, result.stderr
        places = re.findall(r"bad\.yml:(\d+):(\d+)", result.stderr)
        assert places, result.stderr
        if line:
            assert str(line) in [place[0] for place in places], result.stderr
        for word in words:
            assert word in result.stderr


def test_all_errors_of_a_file_at_once(tmp_path):
    path = tmp_path / "bad.yml"
    path.write_text("proxy:\n  prot: 1\n  port: x\n  workers: -4\n")
    result = pgshuntd("--config", str(path), "--check-config")
    assert result.returncode == 2
    for line in (2, 3, 4):
        assert "bad.yml:%d:" % line in result.stderr


@pytest.mark.parametrize("text", ["app\n", '"app\n', '"app" "x\n', '"" "x"\n'])
def test_wrong_users_file(make_proxy, text):
    proxy = make_proxy(start=False)
    with open(proxy.users_path, "w") as out:
        out.write('"first" "good"\n' + text)
    result = pgshuntd("--config", proxy.config_path)
    assert result.returncode == 2
    assert "userlist.txt:2:" in result.stderr


def test_users_file_that_does_not_exist(make_proxy):
    proxy = make_proxy(start=False, auth_type="md5", users_file="/nonexistent/users")
    result = pgshuntd("--config", proxy.config_path)
    assert result.returncode == 2 and "/nonexistent/users" in result.stderr


def test_port_in_use(make_proxy, pg):
    proxy = make_proxy(start=False, port=pg.port)
    result = pgshuntd("--config", proxy.config_path)
    assert result.returncode not in (0, -signal.SIGSEGV, -signal.SIGABRT)
    assert str(pg.port) in result.stderr and "in use" in result.stderr


def test_state_directory_that_cannot_be_written(make_proxy):
    proxy = make_proxy(start=False, state_directory="/proc/nowhere")
    result = pgshuntd("--config", proxy.config_path)
    assert result.returncode not in (0, -signal.SIGSEGV, -signal.SIGABRT)
    assert "/proc/nowhere" in result.stderr


def test_state_directory_belongs_to_one_proxy(make_proxy):
    first = make_proxy()
    second = make_proxy(start=False, state_directory=first.state)
    result = pgshuntd("--config", second.config_path)
    assert result.returncode not in (0, -signal.SIGSEGV, -signal.SIGABRT)
    assert first.state in result.stderr


def test_starts_and_stops(make_proxy):
    proxy = make_proxy()
    with proxy.wire() as conn:
        assert conn.value("SELECT 1") == "1"
    proxy.stop(signal.SIGTERM)


def test_starts_without_any_server_being_up(make_proxy):
    proxy = make_proxy(servers={"gone": {"host": "127.0.0.1", "port": free_port()}},
                       databases={"p1": "gone"})
    assert proxy.command("SHOW VERSION")


def test_unix_socket(make_proxy):
    proxy = make_proxy(start=False)
    proxy.settings["unix_socket_directory"] = proxy.folder
    proxy.settings["unix_socket_mode"] = "0700"
    proxy.write()
    proxy.start()
    path = "%s/.s.PGSQL.%d" % (proxy.folder, proxy.port)
    with pgwire.Conn(proxy.folder, proxy.port) as conn:
        conn.login("app", "p1")
        assert conn.value("SELECT 1") == "1"
    assert os.stat(path).st_mode & 0o777 == 0o700
    proxy.stop(signal.SIGTERM)
    assert not os.path.exists(path)


def test_left_over_unix_socket_is_replaced(make_proxy):
    proxy = make_proxy(start=False)
    proxy.settings["unix_socket_directory"] = proxy.folder
    proxy.write()
    proxy.start()
    proxy.kill()
    proxy.start()
    with pgwire.Conn(proxy.folder, proxy.port) as conn:
        conn.login("app", "p1")
        assert conn.value("SELECT 1") == "1"


def test_only_a_unix_socket(make_proxy):
    proxy = make_proxy(start=False, listen_addresses=[])
    proxy.settings["unix_socket_directory"] = proxy.folder
    proxy.write()
    proxy.start(wait=False)
    path = "%s/.s.PGSQL.%d" % (proxy.folder, proxy.port)
    pgwire.wait_for(lambda: os.path.exists(path), 10 * SLOW, "the socket")
    with pgwire.Conn(proxy.folder, proxy.port) as conn:
        conn.login("app", "p1")
        assert conn.value("SELECT 1") == "1"
    with pytest.raises(OSError):
        pgwire.Conn("127.0.0.1", proxy.port)


def test_server_on_a_unix_socket(make_proxy, pg):
    proxy = make_proxy(servers={"pg": {"host": pg.folder, "port": pg.port}})
    with proxy.wire() as conn:
        assert conn.value("SELECT inet_server_addr() IS NULL") == "t"


def test_server_by_name(make_proxy, pg):
    """Resolved by DNS or the hosts file, without blocking."""
    proxy = make_proxy(servers={"pg": {"host": "localhost", "port": pg.port}})
    with proxy.wire() as conn:
        assert conn.value("SELECT 1") == "1"


def test_pid_file(make_proxy):
    proxy = make_proxy(start=False)
    path = proxy.folder + "/pid"
    proxy.settings["pid_file"] = path
    proxy.write()
    proxy.start()
    pgwire.wait_for(lambda: os.path.exists(path), 10 * SLOW, "the pid file")
    with open(path) as pid:
        assert int(pid.read()) == proxy.process.pid
    proxy.stop(signal.SIGTERM)
    assert not os.path.exists(path)


def test_pid_file_of_another_process(make_proxy):
    """One that runs keeps it; of one that does not, or of nobody, it is taken."""
    proxy = make_proxy(start=False)
    path = proxy.folder + "/pid"
    proxy.settings["pid_file"] = path
    proxy.write()
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            with open(path, "w") as pid:
                pid.write("%d\n" % other.pid)
            proxy.start(wait=False)
            assert proxy.process.wait(20 * SLOW) == 1
            assert 'pid_file "%s" is of process %d, which runs' % (path, other.pid) in proxy.log()
            with open(path) as pid:
                assert int(pid.read()) == other.pid
        finally:
            other.kill()
    for left in ("%d\n" % other.pid, "", "nonsense\n"):
        with open(path, "w") as pid:
            pid.write(left)
        proxy.start()
        with open(path) as pid:
            assert int(pid.read()) == proxy.process.pid
        proxy.stop()
        assert not os.path.exists(path)
    # Nor is it removed when it has become another's.
    proxy.start()
    with open(path, "w") as pid:
        pid.write("1\n")
    proxy.stop()
    with open(path) as pid:
        assert pid.read() == "1\n"


def test_passwords_are_in_no_log(make_proxy):
    proxy = make_proxy(auth_type="md5")
    for user, password in (("u_md5", "md5 secret"), ("u_scram", "scram secret"),
                           ("u_scram", "wrong password here")):
        try:
            with proxy.wire(user=user, password=password) as conn:
                conn.value("SELECT 1")
        except pgwire.LoginError:
            pass
    time.sleep(0.1)
    log = proxy.log()
    assert "secret" not in log and "wrong password here" not in log


def test_example_configuration_is_right(tmp_path):
    """The installed example must at least be understood (its files do not exist here)."""
    root = os.path.join(os.path.dirname(__file__), "..", "..")
    with open(os.path.join(root, "conf", "pgshunt.example.yml")) as example:
        config = yaml.safe_load(example)
    (tmp_path / "userlist.txt").write_text('"pgshunt_admin" "x"\n')
    config["proxy"]["users_file"] = str(tmp_path / "userlist.txt")
    (tmp_path / "tls").mkdir()
    subprocess.run(["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=ca",
                    "-keyout", str(tmp_path / "tls" / "ca.key"),
                    "-out", str(tmp_path / "tls" / "ca.crt")], check=True, capture_output=True)

    def local(value):
        if isinstance(value, dict):
            return {key: str(tmp_path / "userlist.txt") if str(key).endswith("password_file")
                    else local(item) for key, item in value.items()}
        return value
    path = tmp_path / "example.yml"
    path.write_text(yaml.safe_dump(local(config)))
    result = pgshuntd("--config", str(path), "--check-config")
    assert result.returncode == 0, result.stderr


def test_becomes_another_user(make_proxy):
    """As root; others stay who they are."""
    owner = OWNER or pwd.getpwuid(os.getuid())
    group = grp.getgrgid(owner.pw_gid).gr_name
    proxy = make_proxy(start=False, user="nosuchuser")
    refused = pgshuntd("--config", proxy.config_path)
    assert refused.returncode == 1 and 'there is no user "nosuchuser"' in refused.stderr
    proxy.settings.update(user=owner.pw_name, unix_socket_directory=proxy.folder,
                          unix_socket_group=group)
    proxy.write()
    for path, _, names in os.walk(proxy.folder):
        for name in [path, *(os.path.join(path, name) for name in names)]:
            os.chown(name, owner.pw_uid, owner.pw_gid)
    proxy.start()
    with open("/proc/%d/status" % proxy.process.pid) as status:
        ids = {line.split(":")[0]: line.split()[1:] for line in status}
    assert ids["Uid"] == [str(owner.pw_uid)] * 4 and ids["Gid"] == [str(owner.pw_gid)] * 4
    assert "0" not in ids["Groups"] or owner.pw_uid == 0
    socket = os.stat(os.path.join(proxy.folder, ".s.PGSQL.%d" % proxy.port))
    assert socket.st_gid == owner.pw_gid
    assert proxy.wire().value("SELECT 1") == "1"
    assert ("running as root" in proxy.log()) == (owner.pw_uid == 0)


def test_who_runs_it_as_root_is_told(make_proxy):
    assert ("WARNING running as root" in make_proxy().log()) == (os.geteuid() == 0)
