# SPDX-License-Identifier: PostgreSQL
"""A session carried from one raw connection to another by the messages of proxy/session/."""
import os
import subprocess

from proxy import program
from pgwire import Conn, errors

STANDBY, PROMOTED = 0, 1
KINDS = ("guc cat base custom creset role proto sql changed listen lock cursor crows cmake cpin temp tshape "
         "tdata tdef tend ton tpin tsize tschema slot reset to info").split()
# The result of a function call, false: another session has the lock.
NO, LOCKED = b"\0\0\0\1\0", {"C": "55P03"}


class Tool:
    def __init__(self):
        self.process = subprocess.Popen(
            [program(os.path.join("tests", "session", "pgshunt_session"))], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        assert self.process.wait(30) == 0

    def __call__(self, *words):
        self.process.stdin.write(" ".join(str(word) for word in words) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer.endswith("\n"), words
        return answer[:-1]

    # --- what the relay sees --------------------------------------------------------------------

    def text(self, sql, whole=1):
        self("text", sql.encode().hex() or "-", whole)

    def unnamed(self, sql):
        self("unnamed", (sql.encode() + b"\0\0\0").hex())

    # --- a connection ---------------------------------------------------------------------------

    def inspect(self, conn, slot=0, custom="-", like="-", neutral=0):
        """Asks; "ok", "again" or "bad", or the error that the server gave."""
        conn.send(bytes.fromhex(self("ask", custom, like, neutral)))
        messages = conn.ready("I")
        if errors(messages):
            return errors(messages)[0]
        assert not [m for m in messages if m.kind in "NT"], messages
        return self("rows", slot, *[m.body.hex() for m in messages if m.kind == "D"])

    def show(self, slot=0):
        """The rows as (kind, name, value)."""
        result = []
        for item in self("show", slot).split():
            kind, rest = item.split(":")
            name, value = rest.split("=")
            result.append((KINDS[int(kind)], bytes.fromhex(name).decode(),
                           None if value == "~" else
                           bytes.fromhex(value.replace("-", "")).decode()))
        return result

    def kind(self, kind, slot=0):
        return {name: value for k, name, value in self.show(slot) if k == kind}

    def classify(self, slot=0, locks=0, cursors=0, temporary=0, known=0):
        return self("classify", slot, locks, cursors, temporary, known).split("|")

    def count_locks(self, conn, slot=0):
        conn.send(bytes.fromhex(self("locks", slot)))
        messages = conn.ready("I")
        assert not errors(messages), errors(messages)
        return self("counts", slot, *[m.body.hex() for m in messages
                                      if m.kind == "D" and len(m.row()) == 4])

    def replay(self, conn, stage, slot=0):
        """None, or (the step that failed, its error)."""
        steps, _, out = self("replay", slot, stage).partition(" ")
        conn.send(bytes.fromhex(out.replace("-", "")))
        failed = None
        for step in range(int(steps)):
            messages = conn.ready("I")
            seen = errors(messages) or [LOCKED for m in messages if m.kind == "V" and m.body == NO]
            if seen and failed is None:
                failed = self("label", step), seen[0]
        return failed

    def same(self, stage, old=0, new=1):
        return self("same", old, new, stage)

    def digest(self, slot=0):
        return self("digest", slot)


def open_session(cluster, dbname="p1", user="app", **params):
    conn = Conn(cluster.host, cluster.port)
    conn.login(user, dbname, **params)
    return conn
