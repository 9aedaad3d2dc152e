# SPDX-License-Identifier: PostgreSQL
"""Runs the programs in drivers/: each keeps a session, says when it may be moved, and goes on."""
import os
import subprocess
import tempfile

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
