# SPDX-License-Identifier: PostgreSQL
"""Passwords and certificates are changed in the middle of a move: what is connected stays so."""
import os
import shutil

import pytest

from certs import Authority, give_to_server
from pgwire import wait_for
from scene import DONE, FORWARD, UNDO_INCOMPLETE, UNDONE
from servers import SLOW

POINTS = ["prepare.outcome", "hold.outcome", "barrier.outcome", "promote.outcome"]
ROLES = {"checker": "check", "mover": "admin"}


def said(scene):
    with open(os.path.join(scene.folder, "mover.log")) as log:
        return log.read()


@pytest.fixture
def scene(make_scene):
    """The proxy and the mover log in by password."""
    scene = make_scene(mover={"promote_timeout": "20s"}, proxy={"hold_wait_timeout": "300s"})
    scene.pg1.sql("CREATE ROLE checker LOGIN PASSWORD 'one'; CREATE ROLE mover SUPERUSER LOGIN PASSWORD 'one'")
    wait_for(lambda: scene.pg2.value("SELECT count(*) FROM pg_roles WHERE rolname IN ('checker', 'mover')") == 2,
             20 * SLOW, "the replay")
    for cluster in (scene.pg1, scene.pg2):
        path = os.path.join(cluster.data, "pg_hba.conf")
        with open(path) as text:
            before = text.read()
        with open(path, "w") as out:
            out.write("host all checker,mover 127.0.0.1/32 scram-sha-256\n" + before)
        cluster.sql("SELECT pg_reload_conf()")
        where = {}
        for role, what in ROLES.items():
            where[what + "_user"] = role
            where[what + "_password_file"] = scene.file(role + ".password", "one\n")
        scene.proxy.servers[cluster.name] = {**scene.proxy.server(cluster), **where}
    scene.proxy.write()
    scene.proxy.stop()
    scene.proxy.start()
    return scene


def change(cluster):
    cluster.sql("BEGIN READ WRITE; %s; COMMIT" % "; ".join("ALTER ROLE %s PASSWORD 'two'" % role for role in ROLES))


def tell(scene):
    for role in ROLES:
        scene.file(role + ".password", "two\n")


def begin(scene, point):
    """A move that stands there, with the passwords changed on the server that can be written to."""
    mark = os.path.join(scene.folder, "mark")
    scene.load()
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.%s=wait:%s" % (point, mark))
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, point)
    change(scene.pg2 if point == "promote.outcome" else scene.pg1)
    return mover, mark


def check(scene, at):
    (scene.check_on_pg2 if at == "pg2" else scene.check_on_pg1)()
    account = scene.account(at)
    assert all(group["errors"] == 0 for group in account["groups"].values()), account


@pytest.mark.parametrize("point", POINTS)
def test_passwords(scene, point):
    """Nobody has told the proxy or the mover: they need no new connection."""
    mover, mark = begin(scene, point)
    os.unlink(mark)
    assert mover.wait(90 * SLOW) == DONE, said(scene)
    check(scene, "pg2")


@pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
@pytest.mark.parametrize("point", POINTS[1:])
def test_passwords_and_lost_sessions(scene, point, told):
    """They do, and find the new password in the file as soon as it is there; until then clients wait."""
    mover, mark = begin(scene, point)
    if told:
        tell(scene)
    for cluster in (scene.pg1, scene.pg2):
        cluster.sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                    "WHERE usename IN ('checker', 'mover')")
    os.unlink(mark)
    code = mover.wait(90 * SLOW)
    if told:
        assert code == (DONE if point == "promote.outcome" else UNDONE), said(scene)
    elif point == "promote.outcome":
        assert code == FORWARD, said(scene)
        tell(scene)
        assert scene.run("resume").returncode == DONE
    else:
        assert code == UNDO_INCOMPLETE, said(scene)
        tell(scene)
        wait_for(lambda: "no move is unfinished" in scene.run("resume").stdout, 30 * SLOW, "the end of abort")
    check(scene, "pg2" if point == "promote.outcome" else "pg1")


def change_certificate(cluster, cert, key):
    for source, name in ((cert, "server.crt"), (key, "server.key")):
        shutil.copyfile(source, os.path.join(cluster.data, name))  # whose it is stays
    cluster.sql("SELECT pg_reload_conf()")


@pytest.mark.parametrize("point", POINTS)
def test_certificates(make_scene, folder, point):
    """Of both servers, by an authority that neither the proxy nor the mover knows: they need no new
    connection."""
    ours, stranger = Authority(folder, "ours-" + point), Authority(folder, "stranger-" + point)
    scene = make_scene(proxy={"pool_size": 8})
    for cluster in (scene.pg1, scene.pg2):
        give_to_server(cluster, *ours.issue(cluster.name, "/CN=localhost", "IP:127.0.0.1"))
    known = scene.file("known.crt", open(ours.cert).read())
    scene.proxy.settings.update(server_tls_sslmode="verify-full", server_tls_ca_file=known)
    scene.proxy.write()
    scene.proxy.stop()
    scene.proxy.start()
    mark = os.path.join(scene.folder, "mark")
    scene.load()
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.%s=wait:%s" % (point, mark))
    wait_for(lambda: os.path.exists(mark), 60 * SLOW, point)
    for cluster in (scene.pg1, scene.pg2):
        change_certificate(cluster, *stranger.issue(cluster.name, "/CN=localhost", "IP:127.0.0.1"))
    os.unlink(mark)
    assert mover.wait(90 * SLOW) == DONE, said(scene)
    with open(known, "a") as out:
        out.write(open(stranger.cert).read())
    scene.proxy.command("RELOAD")
    check(scene, "pg2")
