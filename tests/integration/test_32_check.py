# SPDX-License-Identifier: PostgreSQL
"""pgshunt check: every precondition of a move, each provoked on real servers where one machine
can have it."""
import json

from scene import DONE, REFUSED


def check(scene, code, *args):
    """The findings of one run, by check: {name: [(result, detail), ...]}."""
    result = scene.run("check", "p2", "--to", "pg2", "--json", *args)
    assert result.returncode == code, result.stdout + result.stderr
    found = {}
    for line in result.stdout.splitlines():
        event = json.loads(line)
        if event["event"] == "check":
            assert event["result"] == "pass" or event["remedy"]
            found.setdefault(event["check"], []).append((event["result"], event["detail"]))
    return found


def worst(found, name):
    order = ["pass", "warning", "refused"]
    return max((result for result, _ in found[name]), key=order.index)


def test_all_is_well(make_scene):
    scene = make_scene()
    found = check(scene, DONE)
    assert {name for name in found if worst(found, name) == "refused"} == set()
    result = scene.run("check", "p2", "--to", "pg2")
    assert result.returncode == DONE and "pass" in result.stdout
    # Every check of the table has said something.
    assert len(found) > 20
    scene.check_on_pg1()
