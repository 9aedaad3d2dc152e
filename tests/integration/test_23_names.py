# SPDX-License-Identifier: PostgreSQL
"""A name server that stops answering in the middle of a move: clients do not wait for it."""
import itertools
import os
import socket
import threading

import pytest

from pgwire import wait_for
from scene import DONE, UNDONE
from servers import SLOW

UNSHARE = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]

pytestmark = pytest.mark.root

numbers = itertools.count()


class Names:
    """A name server: every name is 127.0.0.1."""

    def __init__(self, folder):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.address = "127.%d.%d.%d" % (53 + next(numbers), os.getpid() // 250 % 250,
                                         1 + os.getpid() % 250)
        self.socket.bind((self.address, 53))
        self.answered = 0
        self.silent = False
        self.unanswered = 0
        self.conf = os.path.join(folder, "resolv.conf")
        with open(self.conf, "w") as out:
            out.write("nameserver %s\noptions timeout:2 attempts:2\n" % self.address)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                question, peer = self.socket.recvfrom(512)
            except OSError:
                return
            if self.silent:
                self.unanswered += 1
                continue
            self.answered += 1
            end = question.index(b"\0", 12) + 5
            is_a = question[end - 4:end - 2] == b"\0\1"
            reply = question[:2] + b"\x81\x80\0\1" + (b"\0\1" if is_a else b"\0\0") + b"\0\0\0\0" + \
                question[12:end]
            if is_a:
                reply += b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x7f\0\0\1"
            self.socket.sendto(reply, peer)


@pytest.fixture
def names(folder):
    made = Names(folder)
    yield made
    made.socket.close()


@pytest.fixture
def scene(make_scene, names):
    """All that the mover reaches has a name."""
    scene = make_scene()
    scene.mover["proxies"]["a"]["host"] = "proxy.example"
    for name in ("pg1", "pg2"):
        scene.proxy.servers[name]["admin_host"] = name + ".example"
    scene.configure()
    argv = scene.argv
    scene.argv = lambda *args: UNSHARE + [
        "mount --bind %s /etc/resolv.conf && exec \"$@\"" % names.conf, "sh", *argv(*args)]
    return scene


def ended(cluster):
    """The mover's sessions there."""
    return cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
                       "application_name = 'pgshunt' AND pid <> pg_backend_pid()")


@pytest.mark.parametrize("point", ["catch_up.outcome", "promote.outcome"])
def test_a_lost_session_is_had_again_without_it(scene, names, point):
    """The move goes on or is undone, but nobody waits for a name."""
    mark = os.path.join(scene.folder, "stands")
    with scene.proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        mover = scene.background("move", "p2", "--to", "pg2",
                                 fault="journal.%s=wait:%s" % (point, mark))
        wait_for(lambda: os.path.exists(mark), 60 * SLOW, point)
        assert names.answered > 0
        names.silent = True
        assert ended(scene.pg2)
        os.unlink(mark)
        at = conn.value("SHOW cluster_name")  # when it is released
        asked = names.unanswered
        code = mover.wait(120 * SLOW)
    assert asked == 0 and (at, code) in (("pg1", UNDONE), ("pg2", DONE)), \
        open(os.path.join(scene.folder, "mover.log")).read()
