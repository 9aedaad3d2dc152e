# SPDX-License-Identifier: PostgreSQL
"""Hooks of a move: when they run, what they know, and what their failure means."""
import os

from scene import UNDONE, USAGE

LOG = 'echo "$PGSHUNT_WHEN $PGSHUNT_PHASE $PGSHUNT_SHARDS $PGSHUNT_SOURCE $PGSHUNT_TARGET ' \
      '$PGSHUNT_BARRIER_LSN" >> %s; echo said; echo failed >&2'


def journal(scene):
    folder = scene.mover["journal_directory"]
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name != "lock"]


def test_hooks_run_with_the_facts(make_scene):
    scene = make_scene()
    log = os.path.join(scene.folder, "hooks.log")
    scene.configure(hooks={
        "one": {"before": "prepare", "after": "barrier", "command": LOG % log},
        "two": {"after": "validate", "command": LOG % log},
        "never": {"before": "undo", "command": LOG % log}})
    result = scene.move()
    assert "hook two after validate" in result.stdout
    with open(log) as file:
        lines = [line.split() for line in file]
    assert [line[:5] for line in lines] == [["before", "prepare", "p2", "pg1", "pg2"],
                                            ["after", "barrier", "p2", "pg1", "pg2"],
                                            ["after", "validate", "p2", "pg1", "pg2"]]
    assert len(lines[0]) == 5 and "/" in lines[1][5] and lines[1][5] == lines[2][5]
    with open(os.path.join(journal(scene)[0], "hook-one.log")) as file:
        kept = file.read()
    assert kept.count("said\nfailed\n") == 2 and "exit code 0" in kept
    scene.check_on_pg2()


def test_failure_before_the_promotion(make_scene):
    """It fails, then it does not end, in the hold: everything is undone."""
    scene = make_scene()
    undone = os.path.join(scene.folder, "undone")
    for command, word in (("echo no reason; exit 3", "no reason"), ("sleep 60", "killed")):
        scene.configure(hooks={
            "bad": {"before": "terminate", "command": command, "timeout": "500ms"},
            "after": {"after": "undo", "command": "touch " + undone}})
        result = scene.move(UNDONE)
        assert word in result.stderr and "bad" in result.stderr
        assert os.path.exists(undone)
        os.unlink(undone)
        scene.check_on_pg1()


def test_failure_after_the_promotion(make_scene):
    """The move goes on, and the report names it."""
    scene = make_scene()
    scene.configure(hooks={"bad": {"after": "promote", "command": "exit 7"}})
    result = scene.move()
    assert "hook bad after promote: exit code 7" in result.stdout + result.stderr
    scene.check_on_pg2()


def test_unknown_phase(make_scene):
    scene = make_scene()
    scene.configure(hooks={"bad": {"after": "lunch", "command": "true"}})
    result = scene.move(USAGE)
    assert "lunch" in result.stderr and "prepare" in result.stderr
