# SPDX-License-Identifier: PostgreSQL
"""What is on another machine is reached by a real ssh: sshd runs as the owner of the servers, on a
port of its own."""
import fcntl
import glob
import os
import signal
import subprocess

import pytest

from pgwire import wait_for
from scene import DONE, REFUSED
from servers import OWNER, SLOW, PgBouncer, free_port, port_open, start

SSHD = os.environ.get("PGSHUNT_SSHD", "/usr/sbin/sshd")


def keygen(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True, timeout=60)
    with open(path + ".pub") as file:
        return file.read()


@pytest.fixture
def machine(folder, request):
    """A command that logs in there; "web" is a name only its file knows."""
    there = os.path.join(folder, "sshd-" + request.node.name)
    here = there + "-client"
    os.mkdir(there)
    os.mkdir(here, 0o700)
    port = free_port()
    keygen(os.path.join(there, "host"))
    with open(os.path.join(there, "authorized"), "w") as out:
        out.write(keygen(os.path.join(here, "key")))
    with open(os.path.join(there, "config"), "w") as out:
        out.write("Port %d\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\n"
                  "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\n"
                  "KbdInteractiveAuthentication no\n" % (port, there, there))
    for name in ["", *os.listdir(there)]:
        if OWNER:
            os.chown(os.path.join(there, name), OWNER.pw_uid, OWNER.pw_gid)
    user = OWNER.pw_name if OWNER else os.environ.get("USER", "")
    with open(os.path.join(here, "config"), "w") as out:
        out.write("Host web\n  HostName 127.0.0.1\n  Port %d\n  IdentityFile %s/key\n%s"
                  "  IdentitiesOnly yes\n  BatchMode yes\n  StrictHostKeyChecking accept-new\n"
                  "  UserKnownHostsFile %s/known\n" % (port, here, "  User %s\n" % user if user else "", here))
    libraries = glob.glob(os.path.join(os.path.dirname(SSHD), "../lib/*-linux-gnu"))
    process = start([SSHD, "-D", "-e", "-f", os.path.join(there, "config")], there + ".log", OWNER,
                    env={**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)})
    wait_for(lambda: port_open(port), what="sshd")
    yield "ssh -F %s/config web" % here
    process.kill()
    process.wait(20)


@pytest.fixture
def there(make_scene, machine):
    """A scene without a proxy: a pgbouncer of that machine, where programs can be put before the
    system's."""
    scene = make_scene(alone=True)
    bouncer = PgBouncer(scene.folder, "pgbouncer", [(name, "127.0.0.1", scene.pg1.port, name)
                                                    for name in ("p1", "p2")])
    programs = os.path.join(scene.folder, "programs")
    os.mkdir(programs)

    def put(name, script):
        path = os.path.join(programs, name)
        with open(path, "w") as out:
            out.write("#!/bin/sh\n" + script)
        os.chmod(path, 0o755)
    for path in (scene.folder, programs):
        if OWNER:
            os.chown(path, OWNER.pw_uid, OWNER.pw_gid)
    scene.configure(pgbouncers={"web": {
        "host": "127.0.0.1", "port": bouncer.port, "ini": [bouncer.ini],
        "command": machine + " env PATH=%s:/usr/bin:/bin" % programs,
        "addresses": ["pg%d=127.0.0.1:%d" % (n + 1, cluster.port)
                      for n, cluster in enumerate((scene.pg1, scene.pg2))]}})
    scene.bouncer, scene.put = bouncer, put
    yield scene
    bouncer.stop()


def is_locked(folder):
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(lock)


def test_the_file_is_locked_while_it_is_exchanged(there):
    """Between the look at it and the exchange no other mover, from wherever, may exchange it."""
    mark = os.path.join(there.folder, "looked")
    there.put("mv", 'touch %s; while test -e %s; do sleep 0.05; done; exec /bin/mv "$@"' % (mark, mark))
    mover = there.background("move", "p2", "--to", "pg2")
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the exchange")
    locked = is_locked(there.bouncer.folder)
    os.unlink(mark)
    assert mover.wait(60 * SLOW) == DONE
    assert locked and not is_locked(there.bouncer.folder)


def test_a_lock_of_somebody_else_is_not_waited_for(there):
    """Clients are waiting; the file is still exchanged only if it is what it was."""
    lock = os.open(there.bouncer.folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    there.move()
    os.close(lock)
    assert there.bouncer.database("p2")["port"] == there.pg2.port


def test_an_answer_that_comes_late(there):
    """The exchange took too long to be waited for in the hold: what came of it is seen then, and its answer
    is not taken for that of another question."""
    there.put("mv", '/bin/mv "$@"; sleep 4')
    result = there.move()
    assert "no answer in time" in result.stderr and "no entry" not in result.stderr
    assert there.bouncer.database("p2")["port"] == there.pg2.port
    assert there.bouncer.database("p2")["paused"] == 0


def test_a_shell_that_ends(there):
    """The connection to that machine is lost just before it is needed: a new one is made."""
    mark = os.path.join(there.folder, "waits")
    mover = there.background("move", "p2", "--to", "pg2", fault="journal.promote.outcome=wait:" + mark)
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, "the promotion")
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path) as file:
                words = file.read().split("\0")
        except OSError:
            continue
        if words[0] == "ssh" and os.path.join(there.folder, "programs") in " ".join(words):
            os.kill(int(path.split("/")[2]), signal.SIGKILL)
    os.unlink(mark)
    code = mover.wait(90 * SLOW)
    with open(os.path.join(there.folder, "mover.log")) as log:
        assert code == DONE, log.read()
    assert there.bouncer.database("p2")["port"] == there.pg2.port


def test_pgbouncer_on_another_machine(make_scene, machine):
    """Its file is read, checked, exchanged and kept by ssh, as its owner."""
    scene = make_scene(alone=True)
    bouncer = PgBouncer(scene.folder, "pgbouncer", [(name, "127.0.0.1", scene.pg1.port, name)
                                                    for name in ("p1", "p2")])
    conf = {"host": "127.0.0.1", "port": bouncer.port, "ini": [bouncer.ini],
            "addresses": ["pg%d=127.0.0.1:%d" % (n + 1, cluster.port)
                          for n, cluster in enumerate((scene.pg1, scene.pg2))]}
    try:
        with open(bouncer.ini) as file:
            before = file.read()
        # A machine that does not let us in: said before anything is done.
        scene.configure(pgbouncers={"web": {**conf, "command": machine.replace(" web", " -o Port=1 web")}})
        result = scene.move(REFUSED)
        assert "onnection refused" in result.stderr
        scene.configure(pgbouncers={"web": {**conf, "command": machine}})
        scene.move()
        assert bouncer.database("p2")["port"] == scene.pg2.port
        assert bouncer.database("p2")["paused"] == 0
        with open(bouncer.ini) as file:
            after = file.read()
        assert [line for line in after.splitlines() if line not in before.splitlines()] == \
            ["p2 = host=127.0.0.1 port=%d dbname=p2" % scene.pg2.port]
        [kept] = glob.glob(bouncer.ini + ".*.bak")
        with open(kept) as file:
            assert file.read() == before
        for path in (bouncer.ini, kept):
            assert os.stat(path).st_uid == (OWNER.pw_uid if OWNER else os.getuid())
    finally:
        bouncer.stop()


def test_shell_of_a_server(make_scene, machine):
    """Room on pg2's disks is looked at by its shell."""
    scene = make_scene()

    def room(shell, **mover):
        scene.proxy.servers["pg2"]["shell"] = shell
        scene.configure(**mover)
        lines = scene.run("check", "p2", "--to", "pg2").stdout.splitlines()
        return [line for line in lines if "have room" in line and "pg2" in line][0].strip()
    assert room(machine).startswith("pass") and "MB are free on pg2" in room(machine)
    # It is what was asked: without a login nothing is known.
    assert room(machine.replace(" web", " -o Port=1 web")).startswith("warning")
    assert room(machine, min_free="1TB").startswith("refused")
