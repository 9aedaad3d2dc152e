# SPDX-License-Identifier: PostgreSQL
"""The mover dies between hold and promotion, and nobody resumes or aborts: its watch does, and the
clients go on on pg1 without having seen an error."""
import os
import signal
import time

from pgwire import wait_for
from scene import DONE, FORWARD, REFUSED
from servers import SLOW

# All of the stretch: the last one before the request to promote is that of catch_up.
RECORDS = ["hold.outcome", "fence.outcome", "terminate.intent", "terminate.outcome", "promote.intent",
           "barrier.outcome", "catch_up.intent", "catch_up.outcome"]


def killed(scene, record):
    result = scene.run("move", "p2", "--to", "pg2", fault="journal.%s=kill" % record)
    assert result.returncode == -signal.SIGKILL, result.stdout + result.stderr


def last(scene):
    """The name of the last move."""
    return max(name for name in os.listdir(os.path.join(scene.folder, "moves")) if name[0].isdigit())


def said(scene):
    """What its watch has written."""
    path = os.path.join(scene.folder, "moves", last(scene), "watch.log")
    if not os.path.exists(path):
        return ""
    with open(path) as log:
        return log.read()


def undone(scene):
    wait_for(lambda: "the move is undone" in said(scene), 60 * SLOW, "the watch")
    scene.check_on_pg1()
    assert "no move is unfinished" in scene.run("resume").stdout


def test_killed_before_the_promotion(make_scene):
    """At every record: the fence is lifted, the holds are let go, and no client has seen an error."""
    scene = make_scene(mover={"lease": "1s"})
    scene.load()
    for record in RECORDS:
        killed(scene, record)
        undone(scene)
    account = scene.account("pg1")
    assert all(group["errors"] == 0 for group in account["groups"].values()), account
    # Nothing is in the way of another try, and its watch leaves it alone.
    scene.move()
    time.sleep(1.5)
    scene.check_on_pg2()


def test_killed_after_the_promotion(make_scene):
    """Then nothing is undone: pg1 stays fenced, the clients held, until resume."""
    scene = make_scene(mover={"lease": "1s"})
    killed(scene, "promote.outcome")
    wait_for(lambda: "the move is not undone" in said(scene), 60 * SLOW, "the watch")
    assert "can only be completed" in said(scene)
    assert scene.open_databases(scene.pg1) == {"p1"} and scene.proxy.held()["state"] == "held"
    assert scene.run("resume").returncode == DONE
    scene.check_on_pg2()
    # Ended is ended.
    assert scene.run("abort", last(scene)).returncode == REFUSED
    assert scene.run("resume", last(scene)).returncode == DONE
    scene.check_on_pg2()


def test_a_configuration_that_is_just_being_written(make_scene):
    """The watch reads it, and does so again when it is right: clients are waiting."""
    scene = make_scene(mover={"lease": "1s"})
    mark = os.path.join(scene.folder, "waits")
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.fence.outcome=wait:" + mark)
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the fence")
    with open(scene.proxy.config_path, "w") as out:
        out.write("mover: [half of it")
    mover.kill()
    wait_for(lambda: "half of it" in said(scene) or "pgshunt.yml" in said(scene), 30 * SLOW, "an attempt")
    scene.proxy.write()
    undone(scene)


def test_nobody_can_say_whether_it_was_promoted(make_scene):
    """pg2 does not answer: everything stays as it is until it does."""
    scene = make_scene(mover={"lease": "1s"})
    killed(scene, "promote.intent")
    scene.pg2.stop()
    wait_for(lambda: "stays fenced until the target says what it is" in said(scene), 60 * SLOW, "the watch")
    assert scene.open_databases(scene.pg1) == {"p1"}
    assert scene.run("abort").returncode == FORWARD
    scene.pg2.start()
    undone(scene)


def test_a_mover_that_hangs(make_scene):
    """With the fence up it is ended, so that it does nothing more if it wakes up."""
    scene = make_scene(mover={"lease": "1s"})
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.fence.outcome=sleep:60000")
    assert mover.wait(60 * SLOW) == -signal.SIGKILL
    undone(scene)
