# SPDX-License-Identifier: PostgreSQL
"""pgshunt and the pgbouncers in the path: alone, before and behind the proxy, several processes
at one port; whole moves under load, and everything that goes wrong with them."""
import glob
import json
import os
import re
import signal
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import yaml

from pgwire import wait_for
from proxy import program
from scene import DONE, FORWARD, REFUSED, TABLE, UNDONE
from servers import SLOW, PgBouncer, start, subfolder

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
    assert not glob.glob(bouncer.ini + "*.pgshunt-new")
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


def test_transaction_that_does_not_end(alone):
    """Our own deadline, not PAUSE's, which has none: undone, and who was in the way is named."""
    scene, bouncer = alone
    scene.configure(hold_timeout="700ms")
    with connect(bouncer, application_name="obstinate") as busy, connect(bouncer) as conn:
        busy.execute("BEGIN")
        busy.execute("INSERT INTO items VALUES (5, 'mine')")
        result = scene.move(UNDONE)
        assert "connections in use" in result.stderr and "obstinate" in result.stderr
        busy.execute("COMMIT")
        assert conn.execute("SHOW cluster_name").fetchone() == ("pg1",)
    scene.check_on_pg1()
    check_stayed(scene, bouncer)
    scene.configure(drain_policy="terminate")
    with connect(bouncer) as busy:
        busy.execute("BEGIN")
        scene.move()
        with pytest.raises(psycopg.OperationalError):
            busy.execute("SELECT 1")
    check_moved(scene, bouncer)


def test_new_clients_in_the_hold(alone):
    """Who logs in while it is paused and reloaded waits no longer than the move (pgbouncer would
    make it wait server_login_retry, 15 s, after a login that the pause has ended)."""
    scene, bouncer = alone
    stop = threading.Event()
    waits, failed = [], []

    def work():
        while not stop.is_set():
            began = time.monotonic()
            try:
                with connect(bouncer) as conn:
                    conn.execute("SELECT 1")
            except psycopg.Error as error:
                failed.append(error)
            waits.append(time.monotonic() - began)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    scene.move()
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not failed and max(waits) < 10 * SLOW, (failed, max(waits))
    check_moved(scene, bouncer)


@pytest.mark.parametrize("phase", ["hold", "catch_up"])
def test_failure_before_the_promotion(alone, phase):
    scene, bouncer = alone
    before = read(bouncer.ini)
    with connect(bouncer) as conn:
        conn.execute("SELECT 1")
        result = scene.run("move", "p2", "--to", "pg2", fault="journal.%s.outcome=fail" % phase)
        assert result.returncode == UNDONE
        assert conn.execute("SHOW cluster_name").fetchone() == ("pg1",)
    scene.check_on_pg1()
    check_stayed(scene, bouncer)
    assert read(bouncer.ini) == before


def test_restart_in_the_hold(alone):
    """A pgbouncer that was restarted is not paused any more: noticed, and undone."""
    scene, bouncer = alone
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.hold.outcome=sleep:2000")
    wait_for(lambda: bouncer.database("p2")["paused"] == 1, 30 * SLOW, "the pause")
    bouncer.stop()
    bouncer.start()
    assert mover.wait(60 * SLOW) == UNDONE
    scene.check_on_pg1()
    check_stayed(scene, bouncer)


def test_somebody_resumes_it_in_the_hold(alone):
    scene, bouncer = alone
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.hold.outcome=sleep:2000")
    wait_for(lambda: bouncer.database("p2")["paused"] == 1, 30 * SLOW, "the pause")
    time.sleep(0.3)
    bouncer.admin("RESUME p2")
    assert mover.wait(60 * SLOW) == UNDONE
    scene.check_on_pg1()
    check_stayed(scene, bouncer)


def test_refused(alone, make_bouncer):
    """What cannot be moved is said before anything is done."""
    scene, bouncer = alone
    bouncer.admin("PAUSE p2")
    assert "paused already" in scene.move(REFUSED).stderr
    bouncer.admin("RESUME p2")
    text = read(bouncer.ini)
    for new, word in ((text.replace("p2 = dbname", ";p2 = dbname") +
                       "[databases]\n* = host=127.0.0.1 port=%d\n" % scene.pg1.port, "entry *"),
                      (text.replace("port=%d pool_size" % scene.pg1.port, "port=1 pool_size"),
                       "RELOAD it")):
        with open(bouncer.ini, "w") as out:
            out.write(new)
        assert word in scene.move(REFUSED).stderr
    with open(bouncer.ini, "w") as out:
        out.write(text)
    scene.configure(pgbouncers=listed(bouncer, databases=["p2", "p3"]))
    assert "no entry p3" in scene.move(REFUSED).stderr
    gone = make_bouncer("gone", entries=entries(scene))
    scene.configure(pgbouncers=listed(bouncer, gone))
    gone.stop()
    assert "gone" in scene.move(REFUSED).stderr
    scene.check_on_pg1()
    check_stayed(scene, bouncer)


# --- kill -9, and pgbouncers that are gone ------------------------------------------------------

@pytest.mark.parametrize("command", ["resume", "abort"])
def test_kill_9_while_it_is_paused(alone, command):
    scene, bouncer = alone
    scene.configure(lease="20s")
    result = scene.run("move", "p2", "--to", "pg2", fault="journal.fence.outcome=kill")
    assert result.returncode == -signal.SIGKILL
    assert bouncer.database("p2")["paused"] == 1
    assert "is paused" in scene.run("status").stdout
    result = scene.run(command)
    assert result.returncode == (DONE if command == "abort" else UNDONE)
    scene.check_on_pg1()
    check_stayed(scene, bouncer)


def test_the_pause_has_a_lease(alone):
    """Nobody comes to resume or abort: its clients go on all the same."""
    scene, bouncer = alone
    scene.configure(lease="1s")
    with connect(bouncer) as conn:
        result = scene.run("move", "p2", "--to", "pg2", fault="journal.hold.outcome=kill")
        assert result.returncode == -signal.SIGKILL
        assert conn.execute("SHOW cluster_name").fetchone() == ("pg1",)
    assert bouncer.database("p2")["paused"] == 0
    assert scene.run("abort").returncode == DONE
    check_stayed(scene, bouncer)
    scene.move()
    check_moved(scene, bouncer)


@pytest.mark.parametrize("record", ["promote.outcome", "swap.outcome", "release.outcome"])
def test_kill_9_after_the_promotion(alone, record):
    """Its clients wait until somebody resumes; neither these nor those that come meanwhile see an
    error."""
    scene, bouncer = alone
    clients = [connect(bouncer) for _ in range(60)]
    result = scene.run("move", "p2", "--to", "pg2", fault="journal.%s=kill" % record)
    assert result.returncode == -signal.SIGKILL
    mover = scene.background("resume")
    with ThreadPoolExecutor(len(clients)) as threads:
        asked = []
        for client in clients:
            asked.append(threads.submit(client.execute, "SHOW cluster_name"))
            time.sleep(0.02)
        assert mover.wait(60 * SLOW) == DONE
        assert {one.result(20 * SLOW).fetchone() for one in asked} == {("pg2",)}
    for client in clients:
        client.close()
    scene.check_on_pg2()
    check_moved(scene, bouncer)


def test_gone_after_the_promotion(alone, make_bouncer):
    """One of two pgbouncers dies: the other clients go on at once, it is named, and repaired."""
    scene, bouncer = alone
    other = make_bouncer("other", entries=entries(scene))
    scene.configure(pgbouncers=listed(bouncer, other))
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.open.outcome=sleep:1000")
    wait_for(lambda: not scene.pg2.value("SELECT pg_is_in_recovery()"), 60 * SLOW, "promotion")
    other.stop()
    wait_for(lambda: bouncer.database("p2")["paused"] == 0, 20 * SLOW, "the release")
    assert where(bouncer) == "pg2"
    assert mover.wait(90 * SLOW) == FORWARD
    assert "pgbouncer other" in read(os.path.join(scene.folder, "mover.log"))
    other.start()
    assert scene.run("resume").returncode == DONE
    scene.check_on_pg2()
    check_moved(scene, bouncer, other)


# --- several, and with the proxy ----------------------------------------------------------------

@pytest.mark.parametrize("how", ["sockets", "tcp"])
def test_two_processes_at_one_port(make_scene, make_bouncer, how):
    """so_reuseport: a TCP connection reaches either; each is paused, reloaded and resumed."""
    scene = make_scene(alone=True)
    one = make_bouncer("one", entries=entries(scene), settings="so_reuseport=1")
    two = make_bouncer("two", entries=entries(scene), settings="so_reuseport=1", port=one.port)
    web = {"host": "127.0.0.1", "port": one.port}
    scene.configure(pgbouncers={"web": dict(web)})
    assert "so_reuseport" in scene.move(REFUSED).stderr
    scene.configure(pgbouncers={"web": dict(web, processes=3)})
    assert "processes are expected" in scene.move(REFUSED).stderr
    if how == "sockets":
        web.update(unix_socket_directories=[one.folder, two.folder], ini=[one.ini, two.ini])
    else:
        web.update(processes=2)
    scene.configure(pgbouncers={"web": web})
    scene.load(ports=[one.port], modes=MODES)
    scene.move()
    time.sleep(0.5)
    no_errors(scene.account())
    scene.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS false")
    scene.check_on_pg2()
    check_moved(scene, one, two)


def test_before_the_proxy(make_scene, make_bouncer):
    """Its entries name the proxy: nothing of it changes."""
    scene = make_scene(proxy={"max_client_connections": 500})
    bouncer = make_bouncer(databases=[(name, "127.0.0.1", scene.proxy.port, name)
                                      for name in ("p1", "p2")])
    scene.configure(pgbouncers=listed(bouncer))
    before = read(bouncer.ini)
    scene.load(ports=[bouncer.port], modes=MODES)
    result = scene.move()
    assert "leads to proxy a: nothing to change" in result.stdout
    time.sleep(0.5)
    no_errors(scene.account())
    assert read(bouncer.ini) == before
    check_clean(bouncer)


def test_behind_the_proxy(make_scene, make_bouncer):
    """pgshuntd's server is a pgbouncer, which is the one that decides."""
    scene = make_scene(proxy={"max_prepared_statements": 0})
    bouncer = make_bouncer(entries=entries(scene), settings="default_pool_size=20")
    scene.configure(pgbouncers=listed(bouncer))
    proxy = scene.proxy
    proxy.stop()
    proxy.servers["web"] = {"host": "127.0.0.1", "port": bouncer.port}
    for name in ("p1", "p2"):
        proxy.databases[name] = {"server": "web"}
    proxy.write()
    proxy.start()
    scene.load(modes=MODES)
    scene.move()
    time.sleep(0.5)
    no_errors(scene.account())
    check_moved(scene, bouncer)


def test_a_pgbouncer_before_each_server(make_scene, make_bouncer):
    """pgshuntd goes from one pgbouncer to the other; the mover knows where the servers are."""
    scene = make_scene(proxy={"max_prepared_statements": 0})
    names = ("p1", "p2", "postgres")
    first, second = (make_bouncer(
        name, databases=[(dbname, "127.0.0.1", cluster.port, dbname) for dbname in names],
        settings="ignore_startup_parameters=extra_float_digits,options")
        for name, cluster in (("first", scene.pg1), ("second", scene.pg2)))
    scene.configure(pgbouncers=listed(first, second))
    proxy = scene.proxy
    proxy.stop()
    for name, bouncer, cluster in (("pg1", first, scene.pg1), ("pg2", second, scene.pg2)):
        proxy.servers[name] = {"host": "127.0.0.1", "port": bouncer.port, "check_user": "postgres",
                               "admin_host": "127.0.0.1", "admin_port": cluster.port}
    proxy.write()
    proxy.start()
    scene.load(modes=MODES)
    scene.move()
    time.sleep(0.5)
    no_errors(scene.account())
    assert first.database("p2")["port"] == second.database("p2")["port"] == scene.pg2.port
    check_clean(first)


def test_a_pgbouncer_that_leads_elsewhere(make_scene, make_bouncer):
    """Between the proxy and pg2; what it calls p2, or all of it, is on another standby that
    aliases say is pg2."""
    scene = make_scene(proxy={"max_prepared_statements": 0})
    other = scene.make_cluster.standby(scene.pg1, "s3", slot="s3")

    def entry(dbname, port):
        return "%s = host=127.0.0.1 port=%d" % (dbname, port)
    bouncer = make_bouncer(entries=entry("p2", other.port) + "\n" +
                           entry("postgres", scene.pg2.port),
                           settings="ignore_startup_parameters=extra_float_digits,options\n"
                           "min_pool_size=1")
    scene.configure(pgbouncers=listed(bouncer))
    proxy = scene.proxy
    proxy.stop()
    proxy.servers["pg2"] = {"host": "127.0.0.1", "port": bouncer.port, "check_user": "postgres",
                            "admin_host": "127.0.0.1", "admin_port": scene.pg2.port,
                            "aliases": ["127.0.0.1:%d" % other.port]}
    proxy.write()
    proxy.start()
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        result = scene.move(UNDONE)
        assert "are not there" in result.stderr and "pgbouncer's entry" in result.stderr
        with open(bouncer.ini) as file:
            text = file.read()
        with open(bouncer.ini, "w") as file:
            file.write(text.replace("port=%d" % scene.pg2.port, "port=%d" % other.port))
        bouncer.admin("RELOAD")
        bouncer.admin("RECONNECT")
        proxy.stop()
        proxy.start()
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        result = scene.move(REFUSED)
        assert "what it calls pg2 is another server" in result.stdout
    scene.check_on_pg1()


def test_mixed(make_scene, make_bouncer):
    """Some clients by the proxy, others by a pgbouncer: two-phase over both."""
    scene = make_scene()
    bouncer = make_bouncer(entries=entries(scene), settings="default_pool_size=20")
    scene.configure(pgbouncers=listed(bouncer))
    scene.load(ports=[bouncer.port, scene.proxy.port], modes=MODES)
    scene.move()
    time.sleep(0.5)
    no_errors(scene.account())
    scene.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS false")
    scene.check_on_pg2()
    check_moved(scene, bouncer)
    [path] = glob.glob(scene.mover["journal_directory"] + "/*/report.json")
    said = json.loads(read(path))
    assert said["promote_ms"] + said["overhead_ms"] <= said["hold_ms"], "parts of the hold"


def test_file_on_another_machine(alone):
    """The command that reaches it, here a shell of its own; quotes and owner survive."""
    scene, bouncer = alone
    with open(bouncer.ini, "a") as out:
        out.write("; it's a 'comment' with $dollars, `ticks` and \\ at the end\n\n")
    before = read(bouncer.ini)
    scene.configure(pgbouncers=listed(bouncer, command="env LC_ALL=C"))
    scene.move()
    check_moved(scene, bouncer)
    after = read(bouncer.ini)
    assert after != before and len(after.splitlines()) == len(before.splitlines())
    assert after.endswith("at the end\n\n")
    assert [read(path) for path in glob.glob(bouncer.ini + ".*.bak")] == [before]


def test_afterwards(alone):
    """validate, counts and cleanup believe the pgbouncer, and see when it leads back."""
    scene, bouncer = alone
    scene.configure(count_tables=["ITEMS=items"])
    assert scene.run("move", "p2", "--to", "pg2", "--verify").returncode == DONE
    scene.pg2.sql("INSERT INTO items VALUES (1), (2)", "p2")
    assert "p2,2,100" in scene.run("counts", "--exact").stdout
    assert scene.run("validate").returncode == DONE
    assert scene.run("cleanup", "--dry-run", "--idle").returncode == DONE
    old = read(bouncer.ini)
    with open(bouncer.ini, "w") as file:
        file.write(re.sub(r"(?m)^(p2 = .*port=)\d+", r"\g<1>%d" % scene.pg1.port, old))
    bouncer.admin("RELOAD")
    result = scene.run("cleanup", "--dry-run", "--idle")
    assert result.returncode == REFUSED and "sends database p2 to pg1" in result.stderr
    assert scene.run("validate").returncode == REFUSED


def test_two_moves_whose_shards_are_in_one_file(make_scene, make_cluster, make_bouncer):
    """By two operators, from different servers, at the same time: the file has both changes."""
    scene = make_scene(alone=True)
    pg3 = make_cluster("pg3")
    pg3.sql("CREATE DATABASE p4")
    pg3.sql(TABLE, "p4")
    pg4 = make_cluster.standby(pg3, "pg4", slot="s4")
    bouncer = make_bouncer(databases=[("p1", "127.0.0.1", scene.pg1.port, "p1"),
                                      ("p2", "127.0.0.1", scene.pg1.port, "p2"),
                                      ("p4", "127.0.0.1", pg3.port, "p4")])
    for cluster in (pg3, pg4):
        scene.proxy.servers[cluster.name] = {**scene.proxy.server(cluster), "admin_user": "postgres"}
    scene.proxy.databases["p4"] = {"server": "pg3"}
    scene.configure(pgbouncers=listed(bouncer))
    with open(scene.proxy.config_path) as text:
        config = yaml.safe_load(text)
    config["mover"]["journal_directory"] = os.path.join(scene.folder, "other-moves")
    path = scene.file("other.yml", yaml.safe_dump(config))
    marks = [os.path.join(scene.folder, name) for name in ("one", "two")]
    fault = "journal.prepare.outcome=wait:"
    movers = [scene.background("move", "p2", "--to", "pg2", fault=fault + marks[0]),
              start([program("pgshunt"), "--config", path, "move", "p4", "--to", "pg4"],
                    os.path.join(scene.folder, "other.log"),
                    env={**os.environ, "PGSHUNT_FAULT": fault + marks[1]})]
    wait_for(lambda: all(map(os.path.exists, marks)), 60 * SLOW, "both preparations")
    for mark in marks:
        os.unlink(mark)
    assert [mover.wait(90 * SLOW) for mover in movers] == [DONE, DONE]
    check_moved(scene, bouncer)
    assert where(bouncer, "p4") == "pg4"
