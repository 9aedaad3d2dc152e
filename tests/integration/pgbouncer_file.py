# SPDX-License-Identifier: PostgreSQL
"""One pgbouncer.ini, read by pgbouncer and by pgshuntd: what each makes of it."""
import os
import re
import shutil
import struct
import subprocess

import pgwire
import psycopg
from proxy import REPORT, program
from servers import OWNER, SLOW, free_port, start, subfolder
from pgwire import wait_for

BINARY = os.environ.get("PGBOUNCER") or shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
THEIR_VERSION = tuple(int(part) for part in re.search(
    r"(\d+)\.(\d+)", subprocess.check_output([BINARY, "--version"], text=True)).groups())


class Reader:
    """A program that was started on a file; `up` says whether it took it."""

    def __init__(self, folder, argv, text, files, values, owner=None, cwd="/", env=None):
        self.folder, self.values = folder, values
        self.log_path = os.path.join(folder, "log")
        self.ini = os.path.join(folder, "pgbouncer.ini")
        for name, content in {"pgbouncer.ini": text, **files}.items():
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as out:
                out.write(content % values if "%(" in content else content)
        if owner:
            for place, _, names in os.walk(folder):
                for name in [place] + [os.path.join(place, name) for name in names]:
                    os.chown(name, owner.pw_uid, owner.pw_gid)
        self.process = start(argv + [self.ini], self.log_path, owner, env, cwd=cwd % values)
        self.trusts = "auth_type = trust" in text  # else only who runs it may use the console
        self.place = values.get("socket", folder)
        self.port = values["port"]
        wait_for(lambda: self.process.poll() is not None or self.reachable(), 20 * SLOW,
                 "it to listen or to end")
        self.up = self.process.poll() is None

    def reachable(self):
        """It answers: pgbouncer may still end when it listens already."""
        try:
            with pgwire.Conn(self.place, self.port) as conn:
                conn.send(struct.pack("!ii", 8, pgwire.SSL_REQUEST))
                return conn.sock.recv(1) != b""
        except OSError:
            return False

    def connect(self, dbname, user="postgres", **kwargs):
        return psycopg.connect(host=self.place, port=self.port, dbname=dbname, user=user,
                               autocommit=True, prepare_threshold=None,
                               cursor_factory=psycopg.ClientCursor, **kwargs)

    def value(self, dbname, sql, user="postgres", **kwargs):
        with self.connect(dbname, user, **kwargs) as conn:
            return conn.execute(sql).fetchone()[0]

    def show_rows(self, view):
        with pgwire.Conn(self.place, self.port) as conn:
            conn.login("postgres" if self.trusts else "pgbouncer", "pgbouncer")
            columns, rows = [], []
            for message in conn.query("SHOW " + view):
                if message.kind == "T":
                    columns = message.columns()
                elif message.kind == "D":
                    rows.append(dict(zip(columns, message.row())))
        return rows

    def show(self, view, key):
        """The rows, by that column."""
        return {row[key]: row for row in self.show_rows(view)}

    def command(self, text):
        with pgwire.Conn(self.place, self.port) as conn:
            conn.login("postgres" if self.trusts else "pgbouncer", "pgbouncer")
            messages = conn.query(text)
        assert not pgwire.errors(messages), pgwire.errors(messages)

    def enters(self, dbname, user, password=None):
        try:
            with pgwire.Conn(self.place, self.port) as conn:
                conn.login(user, dbname, password)
            return True
        except pgwire.LoginError:
            return False

    def config(self):
        return {key: row["value"] for key, row in self.show("CONFIG", "key").items()}

    def log(self):
        with open(self.log_path, errors="replace") as log:
            return log.read()

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        report = REPORT.search(self.log())
        assert not report, self.log()[-6000:]


class Files:
    """Makes readers of files; a file has %(port)d, %(dir)s, %(users)s and %(pg)d in it."""

    def __init__(self, folder, pg):
        self.parent, self.pg, self.made = folder, pg, []

    def _values(self):
        folder = subfolder(self.parent)
        users = os.path.join(folder, "users.txt")
        with open(users, "w") as out:
            out.write('"postgres" ""\n"app" ""\n"app2" ""\n"u_md5" "md5 secret"\n')
        return folder, {"port": free_port(), "dir": folder, "users": users, "pg": self.pg.port,
                        "pgdir": self.pg.folder}

    def _reader(self, argv, text, files, owner, cwd, env=None, more=None):
        folder, values = self._values()
        values.update(more or {})
        reader = Reader(folder, argv, text, files or {}, values, owner, cwd, env)
        self.made.append(reader)
        return reader

    def theirs(self, text, files=None, cwd="/", **more):
        return self._reader([BINARY], text, files, OWNER, cwd, more=more)

    def ours(self, text, files=None, cwd="/", **more):
        return self._reader([program("pgshuntd")], text, files, None, cwd, dict(os.environ), more)

    def both(self, text, files=None, cwd="/", **more):
        return self.theirs(text, files, cwd, **more), self.ours(text, files, cwd, **more)

    def stop(self):
        for reader in self.made:
            reader.stop()
        self.made.clear()
