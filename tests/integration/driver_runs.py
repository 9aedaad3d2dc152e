# SPDX-License-Identifier: PostgreSQL
"""Runs the programs in drivers/: each keeps a session, says when it may be moved, and goes on."""
import os
import subprocess
import tempfile

from pgwire import wait_for
from servers import SLOW

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "drivers")
TABLE = "CREATE TABLE driver_items (id int, note text); GRANT ALL ON driver_items TO PUBLIC; "


def run(argv, place, dbname, mode, move=None, env=None):
    """`argv` is a program that takes host, port, database, user and mode; `move` is called whenever
    it says MOVE.  How often it did."""
    moves = 0
    with tempfile.TemporaryFile("w+") as errors, subprocess.Popen(
            [*argv, place.host, str(place.port), dbname, "app", mode], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=errors, text=True,
            env={**os.environ, **(env or {})}) as process:
        line = ""
        try:
            for line in process.stdout:
                if line == "MOVE\n":
                    moves += 1
                    if move:
                        move()
                    process.stdin.write("moved\n")
                    process.stdin.flush()
            code = process.wait(60 * SLOW)
        finally:
            process.kill()
        errors.seek(0)
        assert code == 0 and line == "DONE\n", "after %d moves: %s" % (moves, errors.read()[-4000:])
    return moves


class Mover:
    """Moves every session of p1 between the servers pg and other, and back, or to fresh connections
    of the same server (where those with advisory locks stay)."""

    def __init__(self, proxy, reconnect=True):
        self.proxy = proxy
        self.with_reconnect = reconnect
        self.turn = 0

    def __call__(self):
        self.turn += 1
        if self.turn % 2 or not self.with_reconnect:
            self.swap()
        else:
            self.reconnect()

    def sessions(self):
        return self.proxy.command("SHOW SESSIONS p1")

    def swap(self):
        target = "other" if self.proxy.route("p1")["server"] == "pg" else "pg"
        with self.proxy.console() as console:
            console("PREPARE SWAP p1 TO " + target)
            epoch = console("HOLD p1 LEASE 60s DRAIN 30s POLICY abort")[0]["epoch"]
            console("SWAP p1 TO %s EPOCH %s FORCE" % (target, epoch))
            console("RELEASE p1 EPOCH %s" % epoch)
        wait_for(lambda: all(row["state"] == "linked" for row in self.sessions()), 30 * SLOW,
                 "all sessions to be moved")
        rows = self.sessions()
        assert rows and all(row["moved_to"] == target and
                            row["digest_before"] == row["digest_after"] for row in rows), str(rows)

    def reconnect(self):
        before = {row["server_pid"] for row in self.sessions()}
        self.proxy.command("RECONNECT p1")
        wait_for(lambda: all(row["state"] == "linked" and row["server_pid"] not in before
                             for row in self.sessions()), 30 * SLOW, "fresh connections")
