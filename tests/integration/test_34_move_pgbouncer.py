# SPDX-License-Identifier: PostgreSQL
"""pgshunt and the pgbouncers in the path: alone, before and behind the proxy, several processes
at one port; whole moves under load, and everything that goes wrong with them."""
import glob
import json
import os
import signal
import stat
import threading
import time

import psycopg
import pytest

from pgwire import wait_for
from scene import DONE, FORWARD, REFUSED, UNDONE
from servers import SLOW, PgBouncer, subfolder

# pgbouncer 1.18 knows nothing of prepared statements in transaction pooling.
MODES = ("simple", "extended", "pipelined")
ENTRIES = """; where the shards are
p1 = host=127.0.0.1 port=%(pg1)d dbname=p1
  # p2 = host=nowhere
p2 = dbname=p2 host='127.0.0.1'  port=%(pg1)d pool_size=7 ; kept as it is
"""


@pytest.fixture
def make_bouncer(folder):
    made = []

    def make(name="pgbouncer", databases=(), **kwargs):
        made.append(PgBouncer(subfolder(folder), name, list(databases), **kwargs))
        return made[-1]
    yield make
    for bouncer in made:
        bouncer.stop()


def entries(scene):
    return (ENTRIES % {"pg1": scene.pg1.port}).replace(" ; kept as it is", "")


def listed(*bouncers, **settings):
    """What mover.pgbouncers says of them."""
    return {bouncer.name: {"host": "127.0.0.1", "port": bouncer.port,
                           "unix_socket_directories": [bouncer.folder], "ini": [bouncer.ini],
                           **settings} for bouncer in bouncers}


@pytest.fixture
def alone(make_scene, make_bouncer):
    """One pgbouncer before pg1, and no proxy."""
    scene = make_scene(alone=True)
    bouncer = make_bouncer(entries=entries(scene), settings="default_pool_size=20")
    scene.configure(pgbouncers=listed(bouncer))
    return scene, bouncer


def connect(bouncer, dbname="p2", user="app", **kwargs):
    return psycopg.connect(host="127.0.0.1", port=bouncer.port, dbname=dbname, user=user,
                           autocommit=True, prepare_threshold=None, connect_timeout=20, **kwargs)


def where(bouncer, dbname="p2"):
    with connect(bouncer, dbname) as conn:
        return conn.execute("SHOW cluster_name").fetchone()[0]


def check_clean(bouncer):
    """Nothing is left over: not paused, no file of ours, settings as they were."""
    assert bouncer.database("p2")["paused"] == 0
    assert not glob.glob(bouncer.ini + ".pgshunt-new")
    retry = [row for row in bouncer.admin("SHOW CONFIG") if row["key"] == "server_login_retry"]
    assert retry[0]["value"] == "15"


def check_moved(scene, *bouncers):
    for bouncer in bouncers:
        row = bouncer.database("p2")
        assert (row["host"], row["port"]) == ("127.0.0.1", scene.pg2.port)
        assert where(bouncer) == "pg2" and where(bouncer, "p1") == "pg1"
        check_clean(bouncer)


def check_stayed(scene, *bouncers):
    for bouncer in bouncers:
        row = bouncer.database("p2")
        assert (row["host"], row["port"]) == ("127.0.0.1", scene.pg1.port)
        assert where(bouncer) == "pg1" and where(bouncer, "p1") == "pg1"
        check_clean(bouncer)
        assert not glob.glob(bouncer.ini + ".*.bak")


def read(path):
    with open(path) as file:
        return file.read()


def no_errors(account):
    for group in account["groups"].values():
        assert group["acked"] > 0
        for broken in ("lost", "duplicated", "errors", "old_only"):
            assert group[broken] == 0, account


# --- pgbouncer alone ----------------------------------------------------------------------------

def test_plan(alone):
    scene, bouncer = alone
    before = read(bouncer.ini)
    result = scene.run("plan", "p2", "--to", "pg2")
    assert result.returncode == DONE
    lines = result.stdout.splitlines()
    old = "p2 = dbname=p2 host='127.0.0.1'  port=%d pool_size=7" % scene.pg1.port
    new = "p2 = dbname=p2 host=127.0.0.1  port=%d pool_size=7" % scene.pg2.port
    assert [line.strip() for line in lines if line.strip().startswith(("-p2", "+p2"))] == \
        ["-" + old, "+" + new]
    events = [json.loads(line) for line in
              scene.run("plan", "p2", "--to", "pg2", "--json").stdout.splitlines()]
    plan = [event for event in events if event["event"] == "plan"][0]
    assert plan["pgbouncers"][0]["old"] == "127.0.0.1:%d" % scene.pg1.port
    assert plan["pgbouncers"][0]["new"] == "127.0.0.1:%d" % scene.pg2.port
    assert "+" + new in plan["files"][0]["diff"]
    assert read(bouncer.ini) == before
    scene.check_on_pg1()
    check_stayed(scene, bouncer)


def test_move_under_load(alone):
    """The whole move without pgshuntd; one line of the file changes, and its original is kept."""
    scene, bouncer = alone
    before = read(bouncer.ini)
    owner = os.stat(bouncer.ini)
    scene.load(ports=[bouncer.port], modes=MODES)
    time.sleep(0.5)
    scene.move()
    time.sleep(1)
    no_errors(scene.account())
    scene.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS false")
    scene.check_on_pg2()
    check_moved(scene, bouncer)
    changed = [pair for pair in zip(before.split("\n"), read(bouncer.ini).split("\n"))
               if pair[0] != pair[1]]
    assert changed == [("p2 = dbname=p2 host='127.0.0.1'  port=%d pool_size=7" % scene.pg1.port,
                        "p2 = dbname=p2 host=127.0.0.1  port=%d pool_size=7" % scene.pg2.port)]
    after = os.stat(bouncer.ini)
    assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == \
        (owner.st_uid, owner.st_gid, stat.S_IMODE(owner.st_mode))
    assert [read(path) for path in glob.glob(bouncer.ini + ".*.bak")] == [before]
