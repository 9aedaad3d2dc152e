# SPDX-License-Identifier: PostgreSQL
"""pgshunt standby: makes one, and destroys nothing."""
import glob
import os
import shutil
import stat
import subprocess

import psycopg
import yaml

from proxy import program
from scene import DONE, ERROR, REFUSED, USAGE
from servers import BINDIR, OWNER, SLOW, free_port, run, subfolder
from pgwire import wait_for

SECRET = "the replication secret"


class Place:
    """A configuration with pg1 and a pg2 that does not exist yet."""

    def __init__(self, folder, pg1):
        self.folder = subfolder(folder)
        self.pg1 = pg1
        self.home = os.path.join(self.folder, "pg2")
        os.mkdir(self.home)
        if OWNER:
            os.chown(self.home, OWNER.pw_uid, OWNER.pw_gid)
        self.data = os.path.join(self.home, "data")
        self.port = free_port()
        secret = os.path.join(self.folder, "secret")
        with open(secret, "w") as out:
            out.write(SECRET + "\n")
        os.chmod(secret, 0o600)
        self.servers = {
            "pg1": {"host": "127.0.0.1", "port": pg1.port, "replication_user": "replicator",
                    "replication_password_file": secret},
            "pg2": {"host": "127.0.0.1", "port": self.port, "data_directory": self.data,
                    "bin_directory": BINDIR,
                    "shell": "runuser -u postgres --" if OWNER else "env",
                    "start_command": '"$B/pg_ctl" -D "$D" -l "$D.log" -w start -s -o "-p %d -c '
                                     'unix_socket_directories=%s"' % (self.port, self.home)}}

    def run(self, *args):
        path = os.path.join(self.folder, "pgshunt.yml")
        with open(path, "w") as out:
            yaml.safe_dump({"servers": self.servers,
                            "databases": {"p2": {"server": "pg1"}},
                            "mover": {"journal_directory": os.path.join(self.folder, "moves"),
                                      "connect_timeout": "2s"}}, out)
        result = subprocess.run([program("pgshunt"), "--config", path, "standby", "--to", "pg2",
                                 *args], capture_output=True, text=True, timeout=120 * SLOW,
                                stdin=subprocess.DEVNULL)
        print(args, result.returncode, result.stdout, result.stderr)
        assert SECRET not in result.stdout + result.stderr
        return result

    def refused(self, *words):
        before = sorted(os.listdir(self.data)) if os.path.isdir(self.data) else None
        result = self.run()
        assert result.returncode == REFUSED
        for word in words:
            assert word in result.stderr, result.stderr
        after = sorted(os.listdir(self.data)) if os.path.isdir(self.data) else None
        assert before == after

    def control(self, *args):
        run([BINDIR + "/pg_ctl", "-D", self.data, "-w", "-s", *args], OWNER)

    def value(self, text):
        with psycopg.connect(host="127.0.0.1", port=self.port, user="postgres",
                             dbname="postgres", autocommit=True) as conn:
            return conn.execute(text).fetchone()[0]

    def slots(self):
        return self.pg1.sql("SELECT slot_name, active FROM pg_replication_slots")


def test_standby(make_cluster, folder):
    pg1 = make_cluster("pg1")
    pg1.sql("CREATE ROLE replicator LOGIN REPLICATION PASSWORD '%s'" % SECRET)
    with open(pg1.data + "/pg_hba.conf") as file:
        hba = file.read()
    with open(pg1.data + "/pg_hba.conf", "w") as out:
        out.write("host replication replicator 127.0.0.1/32 scram-sha-256\n" + hba)
    pg1.sql("SELECT pg_reload_conf()")
    place = Place(folder, pg1)
    shell = place.servers["pg2"].pop("shell")

    # Without a shell it says what is to be run; with one and --dry-run as well.
    result = place.run()
    assert result.returncode == DONE and "pg_basebackup" in result.stdout
    assert "PASSWORD_OF_replicator" in result.stdout and "passfile" in result.stdout
    place.servers["pg2"]["shell"] = shell
    result = place.run("--dry-run")
    assert result.returncode == DONE and "pg_basebackup" in result.stdout
    assert place.slots() == [] and not os.path.exists(place.data)
    assert place.run("--slot", "Not A Slot").returncode == USAGE
    place.servers["pg2"]["shell"] = "false"
    place.refused("exit code")
    place.servers["pg2"]["shell"] = shell
    # A copy that fails takes its slot away again.
    broken = os.path.join(place.folder, "bin")
    os.mkdir(broken)
    os.chmod(broken, 0o755)
    for name in ("postgres", "pg_controldata", "pg_ctl"):
        os.symlink(os.path.join(BINDIR, name), os.path.join(broken, name))
    with open(broken + "/pg_basebackup", "w") as out:
        out.write("#!/bin/sh\npsql -qAt -h 127.0.0.1 -p %d -U postgres -c \"SELECT pg_create_"
                  "physical_replication_slot('pg2', true)\"\necho the disk is full\nexit 1\n"
                  % pg1.port)
    os.chmod(broken + "/pg_basebackup", 0o755)
    place.servers["pg2"]["bin_directory"] = broken
    result = place.run()
    assert result.returncode == ERROR and "the disk is full" in result.stderr
    assert place.slots() == []
    place.servers["pg2"]["bin_directory"] = BINDIR
    # A directory with something in it that is no cluster; an empty one is fine.
    os.mkdir(place.data)
    if OWNER:
        os.chown(place.data, OWNER.pw_uid, OWNER.pw_gid)
    os.chmod(place.data, 0o700)
    with open(place.data + "/precious", "w") as out:
        out.write("data")
    place.refused("not empty")
    os.unlink(place.data + "/precious")

    try:
        result = place.run("--json")
        assert result.returncode == DONE
        assert '"event":"progress"' in result.stdout and '"event":"standby"' in result.stdout
        assert place.slots() == [("pg2", True)]
        assert place.value("SELECT pg_is_in_recovery()") is True
        with open(place.data + "/postgresql.auto.conf") as conf:
            conf = conf.read()
        assert "primary_slot_name = 'pg2'" in conf and SECRET not in conf
        passfile = place.data + ".passfile"
        assert passfile in conf and stat.S_IMODE(os.stat(passfile).st_mode) == 0o600
        log = glob.glob(place.folder + "/moves/standby-*/output.log")
        assert any("pg_basebackup" in open(path).read() for path in log)
        assert all(SECRET not in open(path).read() for path in log)
        pg1.sql("CREATE TABLE later (a int)")
        wait_for(lambda: place.value("SELECT to_regclass('later')::text") == "later",
                 20 * SLOW, "the replay")

        # It runs: nothing is done to it.
        place.refused("is running and is a standby of this system already")
        port, place.servers["pg2"]["port"] = place.port, free_port()
        place.servers["pg2"]["port"], place.port = place.servers["pg2"]["port"], port
        place.refused("a server runs in")
        place.servers["pg2"]["port"] = place.port

        # An old standby: moved aside.
        place.control("stop", "-m", "fast")
        result = place.run()
        assert result.returncode == DONE, result.stderr
        assert len(glob.glob(place.data + ".old-*")) == 1
        wait_for(lambda: place.slots() == [("pg2", True)], 20 * SLOW, "the slot")

        # Promoted once, it is somebody's data, running or not.
        place.control("promote")
        place.refused("a primary")
        place.control("stop", "-m", "fast")
        place.refused("no standby but a primary's data", "shut down")
    finally:
        if os.path.exists(place.data + "/postmaster.pid"):
            place.control("stop", "-m", "immediate")
    # So is another system's.
    shutil.rmtree(place.data)
    run([BINDIR + "/initdb", "-D", place.data, "-U", "postgres", "-A", "trust", "--no-sync"], OWNER)
    place.refused("another database system")
