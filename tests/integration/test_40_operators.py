# SPDX-License-Identifier: PostgreSQL
"""Two operators at once: the second is refused and told who the first is; a dead one is in nobody's
way."""
import os
import pty
import socket
import subprocess
import time

import pytest
import yaml

from pgwire import wait_for
from proxy import program
from scene import DONE, ERROR, REFUSED, UNDONE
from servers import SLOW, stopped

KEY = 31640438183880308


def elsewhere(scene, *args):
    """The same move by an operator with another journal, as on another machine."""
    with open(scene.proxy.config_path) as text:
        config = yaml.safe_load(text)
    config["mover"]["journal_directory"] = os.path.join(scene.folder, "other-moves")
    path = scene.file("other.yml", yaml.safe_dump(config))
    result = subprocess.run([program("pgshunt"), "--config", path, *args], capture_output=True,
                            text=True, stdin=subprocess.DEVNULL, timeout=60 * SLOW, check=False)
    print(result.stdout, result.stderr)
    return result


def test_second_operator_is_refused(make_scene):
    """On the same machine by the journal's lock, elsewhere by the one on pg1."""
    scene = make_scene()
    mark = os.path.join(scene.folder, "mark")
    mover = scene.background("move", "p2", "--to", "pg2",
                             fault="journal.prepare.outcome=wait:" + mark)
    wait_for(lambda: os.path.exists(mark), 30 * SLOW, "the first move")
    who = "@%s pid %d/" % (socket.gethostname()[:20], mover.pid)
    for result in (scene.run("move", "p2", "--to", "pg2"), elsewhere(scene, "move", "p2", "--to",
                                                                     "pg2")):
        assert result.returncode == ERROR
        assert "another pgshunt is at work" in result.stderr
        assert who[who.index(" pid"):] in result.stderr
    os.unlink(mark)
    assert mover.wait(60 * SLOW) == DONE
    scene.check_on_pg2()


@pytest.mark.parametrize("alive", [False, True])
def test_lock_of_a_dead_mover(make_scene, alive):
    """What a mover of this machine has left is ended; one that may live elsewhere is not."""
    scene = make_scene()
    namespace = os.readlink("/proc/self/ns/pid").split("[")[1].rstrip("]")
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = "elsewhere" if alive else socket.gethostname()
    name = "pgshunt x@%s pid %d/%x" % (host, dead.pid, int(namespace))
    with scene.pg1.connect(autocommit=True) as conn:
        conn.execute("SET application_name = '%s'" % name)
        conn.execute("SELECT pg_advisory_lock(%d)" % KEY)
        result = scene.run("move", "p2", "--to", "pg2")
        if alive:
            assert result.returncode == ERROR and name in result.stderr
            assert conn.execute("SELECT 1").fetchone() == (1,)
        else:
            assert result.returncode == DONE
    if alive:
        scene.check_on_pg1()
    else:
        scene.check_on_pg2()


def test_abort_after_another_operator_has_moved(make_scene):
    """His move is the one that counts: the old copy is not opened beside it."""
    scene = make_scene(mover={"lease": "60s"})
    assert scene.run("move", "p2", "--to", "pg2",
                     fault="journal.hold.outcome=kill").returncode == -9
    scene.proxy.command("RELEASE p2")
    scene.proxy.command("CANCEL SWAP p2")
    assert elsewhere(scene, "move", "p2", "--to", "pg2").returncode == DONE
    for command in ("abort", "resume"):
        result = scene.run(command)
        assert result.returncode == REFUSED and "somebody else" in result.stderr
        scene.check_on_pg2()


def test_lock_is_taken_again_with_a_new_session(make_scene):
    """The session on pg1 ends under the mover, and somebody else takes the lock: it does nothing
    more on pg1, and does not fight."""
    scene = make_scene()
    mark = os.path.join(scene.folder, "mark")
    mover = scene.background("move", "p2", "--to", "pg2",
                             fault="journal.fence.outcome=wait:" + mark)
    wait_for(lambda: os.path.exists(mark), 30 * SLOW, "the fence")
    scene.pg1.sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE "
                  "application_name LIKE 'pgshunt%'")
    with scene.pg1.connect(autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(%d)" % KEY)
        os.unlink(mark)
        assert mover.wait(90 * SLOW) not in (DONE, -9)
        assert scene.open_databases(scene.pg1) == {"p1"}
    assert scene.run("abort").returncode == DONE
    scene.check_on_pg1()


def test_lock_counts_in_every_database(make_scene):
    """Another operator's admin_dbname may be another one; it is the same server that is moved."""
    scene = make_scene()
    with scene.pg1.connect("p1", autocommit=True, application_name="pgshunt who@elsewhere pid 1/1") as conn:
        conn.execute("SELECT pg_advisory_lock(%d)" % KEY)
        result = scene.run("move", "p2", "--to", "pg2")
        assert result.returncode == ERROR and "who@elsewhere" in result.stderr
        # What was taken here is given back.
        assert scene.pg1.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 1
    scene.move()


def test_mover_that_was_stopped_before_the_hold(make_scene):
    """Ctrl-Z, and hours later fg: what the checks have found is looked at anew."""
    scene = make_scene()
    mark = os.path.join(scene.folder, "stands")
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.prepare.intent=wait:" + mark)
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "prepare")
    with stopped(mover.pid):
        os.unlink(mark)
        scene.pg1.sql("CREATE UNLOGGED TABLE later (a int)", "p2")
        time.sleep(3.1)
    assert mover.wait(60 * SLOW) == REFUSED
    with open(os.path.join(scene.folder, "mover.log")) as log:
        text = log.read()
    assert "once more, from the checks on" in text and "the shards have no unlogged tables" in text, text
    scene.pg1.sql("DROP TABLE later", "p2")
    scene.check_on_pg1()


@pytest.mark.parametrize("key,point,code", [
    (b"\x1c", "hold.outcome", UNDONE),      # Ctrl-\\ is as Ctrl-C: undone …
    (b"\x1c", "promote.outcome", DONE),     # … or, after the promotion, nothing
    (b"\x1a", "hold.outcome", DONE),        # Ctrl-Z counts when nobody waits any more
    (b"\x1a", "promote.outcome", DONE),
])
def test_keys_while_clients_wait(make_scene, key, point, code):
    """Whatever is pressed, they do not wait for the operator."""
    scene = make_scene()
    mark = os.path.join(scene.folder, "stands")
    with scene.proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        stopped = os.path.join(scene.folder, "stopped")
        # A shell with jobs: without one a program cannot be stopped by a key.
        shell = """"$@"; code=$?; [ $code -lt 128 ] && exit $code
                touch %s; while [ -e %s ]; do sleep 0.1; done; fg; exit $?""" % (stopped, stopped)
        argv = ["sh", "-mc", shell, "sh", *scene.argv("move", "p2", "--to", "pg2", "--yes")]
        os.environ["PGSHUNT_FAULT"] = "journal.%s=wait:%s" % (point, mark)
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv("/bin/sh", argv)
        del os.environ["PGSHUNT_FAULT"]
        wait_for(lambda: os.path.exists(mark), 60 * SLOW, point)
        os.write(terminal, key)
        time.sleep(0.2)  # the terminal turns it into a signal at once
        os.unlink(mark)
        assert conn.value("SHOW cluster_name") == ("pg1" if code == UNDONE else "pg2")
        if key == b"\x1a":
            wait_for(lambda: os.path.exists(stopped), 20 * SLOW, "the stop")
            os.unlink(stopped)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code
        os.close(terminal)
    (scene.check_on_pg1 if code == UNDONE else scene.check_on_pg2)()
