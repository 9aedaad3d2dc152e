# SPDX-License-Identifier: PostgreSQL
"""PostgreSQL servers, pgbouncer and the small things around processes and ports.

Everything lives in one temporary folder of the test session; every process dies with pytest.
PostgreSQL refuses to run as root, so as root its processes run as the user postgres.
"""
import contextlib
import ctypes
import fcntl
import glob
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import psycopg

from pgwire import wait_for

BINDIR = os.environ.get("PG_BINDIR", "/usr/lib/postgresql/15/bin")
VERSION = re.search(r"\d+", subprocess.check_output([BINDIR + "/postgres", "--version"],
                                                    text=True))[0]
SLOW = float(os.environ.get("PGSHUNT_TEST_SLOW", "1"))  # factor of deadlines
SANITIZED = SLOW > 2  # such a build takes more memory, too
OWNER = pwd.getpwnam("postgres") if os.getuid() == 0 else None

_libc = ctypes.CDLL(None)
_port_locks = []


def free_port():
    """A port that nobody listens on, outside the range of outgoing connections, and ours for as
    long as this process lives: runs side by side ask the same lock files."""
    folder = "/tmp/pgshunt-ports.%d" % os.getuid()
    os.makedirs(folder, exist_ok=True)
    while True:
        port = random.randrange(12000, 32000)
        lock = os.open("%s/%d" % (folder, port), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as sock:
                sock.bind(("127.0.0.1", port))
        except OSError:
            os.close(lock)
            continue
        _port_locks.append(lock)
        return port


def subfolder(folder):
    """A folder that the user who runs PostgreSQL can enter."""
    path = tempfile.mkdtemp(dir=folder)
    os.chmod(path, 0o755)
    return path


def _die_with_parent(sig):
    def set_signal():
        _libc.prctl(1, sig)  # PR_SET_PDEATHSIG
        os.setpgid(0, 0)
    return set_signal


def start(argv, log, owner=None, env=None, sig=signal.SIGTERM, cwd="/"):
    """A process in the background with its output in the file `log`."""
    ids = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}
    with open(log, "ab") as out:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env,
                                cwd=cwd, preexec_fn=_die_with_parent(sig), **ids)


def run(argv, owner=None, **kwargs):
    ids = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}
    return subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=120, check=True,
                          **ids, **kwargs)


def copy(source, target):
    """A data directory, with its owner and modes."""
    subprocess.run(["cp", "-a", source, target], check=True, timeout=120)


HBA = """
local all all trust
host all u_clear 127.0.0.1/32 password
host all u_md5 127.0.0.1/32 md5
host all u_scram 127.0.0.1/32 scram-sha-256
host all nobody_hba 127.0.0.1/32 reject
host all all 127.0.0.1/32 trust
host replication all 127.0.0.1/32 trust
"""

ROLES = """
CREATE ROLE app LOGIN;
CREATE ROLE app2 LOGIN;
CREATE ROLE counted LOGIN;
CREATE ROLE nobody_hba LOGIN;
SET password_encryption = 'md5';
CREATE ROLE u_md5 LOGIN PASSWORD 'md5 secret';
SET password_encryption = 'scram-sha-256';
CREATE ROLE u_scram LOGIN PASSWORD 'scram secret';
CREATE ROLE u_clear LOGIN PASSWORD 'clear secret';
"""


SCHEMA = """
CREATE TABLE items (id int PRIMARY KEY, note text);
INSERT INTO items SELECT g, 'note ' || g FROM generate_series(1, 100) g;
GRANT ALL ON items TO PUBLIC;
GRANT ALL ON SCHEMA public TO PUBLIC;
"""


def _alive(pid):
    """Whether a process exists that is more than an entry in the table."""
    try:
        with open("/proc/%d/stat" % pid) as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def _signal(pid, sig):
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        pass


def _states(pid):
    """Of all threads of the process."""
    for path in glob.glob("/proc/%d/task/*/stat" % pid):
        with open(path) as stat:
            yield stat.read().rsplit(")", 1)[1].split()[0]


@contextlib.contextmanager
def stopped(pid):
    """The process does nothing meanwhile, but is there."""
    os.kill(pid, signal.SIGSTOP)
    try:
        # A signal is not a stop: its threads may still take in what is sent right now.
        wait_for(lambda: set(_states(pid)) == {"T"}, what="process %d to stop" % pid)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Cluster:
    """One PostgreSQL server."""

    def __init__(self, folder, name, fsync=False, settings=None):
        self.name = name
        self.folder = os.path.join(folder, name)
        self.data = os.path.join(self.folder, "data")
        self.log = os.path.join(self.folder, "postgresql.log")
        self.host = "127.0.0.1"
        self.port = free_port()
        self.process = None
        self.env = None
        os.makedirs(self.folder)
        if OWNER:
            os.chown(self.folder, OWNER.pw_uid, OWNER.pw_gid)
        self.settings = {
            "port": self.port, "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.folder, "fsync": "on" if fsync else "off",
            "max_connections": 150, "shared_buffers": "32MB", "wal_level": "replica",
            "max_wal_senders": 10, "max_replication_slots": 10, "max_prepared_transactions": 10,
            "min_wal_size": "2MB", "wal_init_zero": "off", "log_min_messages": "info", "log_connections": "on",
            "log_line_prefix": "%m [%p] %u@%d ", "cluster_name": name,
            "wal_receiver_status_interval": "1s", "wal_retrieve_retry_interval": "200ms",
            **(settings or {}),
        }

    def write_conf(self):
        path = os.path.join(self.data, "pgshunt_test.conf")
        with open(path, "w") as out:
            for key, value in self.settings.items():
                out.write("%s = '%s'\n" % (key, value))
        if OWNER:
            os.chown(path, OWNER.pw_uid, OWNER.pw_gid)

    def create(self, copy_of=None):
        """Starts a new server, or one with a copy of that data directory of a stopped one."""
        if copy_of:
            copy(copy_of, self.data)
        else:
            self.initialize()
        self.start()
        if not copy_of:
            self.sql(ROLES)
        return self

    def initialize(self):
        run([BINDIR + "/initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
             "--locale=C.UTF-8", "--wal-segsize=1", "--no-sync", "--no-instructions"], OWNER)
        with open(self.data + "/postgresql.conf", "a") as out:
            out.write("include 'pgshunt_test.conf'\n")
        with open(self.data + "/pg_hba.conf", "w") as out:
            out.write(HBA)

    def clone(self, folder, name, slot=None, fsync=False, settings=None, replay_delay=None,
              copy_of=None):
        """A streaming standby of this server, started; its data are new or copied."""
        standby = Cluster(folder, name, fsync, settings)
        if copy_of:
            copy(copy_of, standby.data)
            path = standby.data + "/postgresql.auto.conf"
            with open(path) as file:
                text = file.read()
            with open(path, "w") as file:
                file.write(re.sub(r"port=\d+", "port=%d" % self.port, text))
        else:
            argv = [BINDIR + "/pg_basebackup", "-D", standby.data, "-h", self.host, "-p",
                    str(self.port), "-U", "postgres", "-c", "fast", "-X", "stream", "-R",
                    "--no-sync"]
            if slot:
                argv += ["-C", "-S", slot]
            run(argv, OWNER)
        if replay_delay:
            standby.settings["recovery_min_apply_delay"] = replay_delay
        standby.start()
        if not replay_delay:
            wait_for(lambda: self.sql("SELECT state FROM pg_stat_replication WHERE "
                                      "application_name = '%s'" % name) == [("streaming",)],
                     what="streaming replication")
        return standby

    def start(self):
        self.write_conf()
        self.process = start([BINDIR + "/postgres", "-D", self.data], self.log, OWNER,
                             self.env, sig=signal.SIGQUIT)
        wait_for(self.answers, 60, "PostgreSQL " + self.name)

    def answers(self):
        assert self.process.poll() is None, open(self.log, errors="replace").read()[-3000:]
        try:
            self.sql("SELECT 1")
            return True
        except psycopg.OperationalError:
            return False

    def stop(self, sig=signal.SIGINT):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(sig)
            self.process.wait(60)
        self.process = None

    def _pids(self):
        """Of all its processes, the first one first."""
        pids = [self.process.pid]
        for path in glob.glob("/proc/[0-9]*/stat"):
            try:
                with open(path) as stat:
                    words = stat.read().rsplit(")", 1)[1].split()
                if int(words[1]) == self.process.pid:
                    pids.append(int(path.split("/")[2]))
            except (OSError, IndexError):
                continue
        return pids

    def freeze(self):
        """As if its machine hung: connections stay, and nothing is answered until thaw()."""
        os.kill(self.process.pid, signal.SIGSTOP)
        for pid in self._pids()[1:]:
            _signal(pid, signal.SIGSTOP)

    def thaw(self):
        for pid in self._pids():
            _signal(pid, signal.SIGCONT)

    def crash(self):
        """As if the machine were switched off: every process of it, at once."""
        os.kill(self.process.pid, signal.SIGSTOP)
        pids = self._pids()
        for pid in pids[1:] + pids[:1]:
            _signal(pid, signal.SIGKILL)
        self.process.wait(30)
        self.process = None
        # A signal is not an end: what they hold open is closed when the kernel has got to it.
        wait_for(lambda: not any(_alive(pid) for pid in pids), what="the end of all processes")
        try:
            os.unlink(self.data + "/postmaster.pid")
        except FileNotFoundError:
            pass

    def connect(self, dbname="postgres", user="postgres", **kwargs):
        return psycopg.connect(host=self.host, port=self.port, dbname=dbname, user=user,
                               connect_timeout=10, **kwargs)

    def sql(self, text, dbname="postgres", user="postgres"):
        """Runs statements in autocommit; the rows of the last one, [] if it has none."""
        with self.connect(dbname, user, autocommit=True) as conn:
            cursor = conn.execute(text)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def value(self, text, dbname="postgres"):
        return self.sql(text, dbname)[0][0]

    def sessions(self, dbname, user=None):
        """Client sessions of a database, by pid."""
        return {row[0] for row in self.sql(
            "SELECT pid FROM pg_stat_activity WHERE datname = '%s' AND backend_type = "
            "'client backend'%s" % (dbname, " AND usename = '%s'" % user if user else ""))}


class Templates:
    """Data directories of servers that have just been made and are stopped; to copy one takes a tenth of
    the time.  Each has a system identifier of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.made = {}

    def get(self, name):
        if name not in self.made:
            cluster = Cluster(subfolder(self.folder), str(name)).create()
            cluster.stop()
            self.made[name] = cluster.data
        return self.made[name]


class PgBouncer:
    """A pgbouncer in front of any server; reached by TCP, or by the Unix socket in its folder."""

    def __init__(self, folder, name, databases, settings="", port=None, entries=""):
        self.name = name
        self.port = port or free_port()
        self.folder = os.path.join(folder, name)
        os.makedirs(self.folder)
        self.ini = os.path.join(self.folder, "pgbouncer.ini")
        users = os.path.join(self.folder, "users.txt")
        with open(users, "w") as out:
            out.write('"postgres" ""\n"app" ""\n"app2" ""\n')
        lines = ["%s = host=%s port=%d dbname=%s" % item for item in databases]
        with open(self.ini, "w") as out:
            out.write("[databases]\n" + "\n".join(lines) + "\n" + entries +
                      "\n[pgbouncer]\nlisten_addr=127.0.0.1\n"
                      "listen_port=%d\nunix_socket_dir=%s\nauth_type=trust\nauth_file=%s\n"
                      "pool_mode=transaction\nadmin_users=postgres\n%s\n"
                      % (self.port, self.folder, users, settings))
        if OWNER:
            for path in [self.folder, users, self.ini]:
                os.chown(path, OWNER.pw_uid, OWNER.pw_gid)
        self.process = None
        self.start()

    def start(self):
        binary = os.environ.get("PGBOUNCER") or shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
        self.process = start([binary, self.ini], self.folder + "/log", OWNER)
        wait_for(lambda: port_open(self.port) and
                 os.path.exists("%s/.s.PGSQL.%d" % (self.folder, self.port)), what="pgbouncer")

    def admin(self, command):
        """A command of its console; the rows as dictionaries."""
        with psycopg.connect(host=self.folder, port=self.port, dbname="pgbouncer", user="postgres",
                             autocommit=True, prepare_threshold=None,
                             cursor_factory=psycopg.ClientCursor) as conn:
            cursor = conn.execute(command)
            if not cursor.description:
                return []
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row)) for row in cursor.fetchall()]

    def database(self, name):
        return [row for row in self.admin("SHOW DATABASES") if row["name"] == name][0]

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
        self.process = None


def port_open(port, host="127.0.0.1"):
    try:
        socket.create_connection((host, port), 2).close()
        return True
    except OSError:
        return False


def deadline(seconds):
    return time.monotonic() + seconds * SLOW
