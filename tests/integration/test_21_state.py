# SPDX-License-Identifier: PostgreSQL
"""The state directory: holds, routes and epochs outlive the process."""
import glob
import os
import signal
import subprocess
import time

import pytest

from pgwire import query, rows, wait_for
from proxy import ConsoleError, program
from servers import SLOW, VERSION, Cluster, subfolder


@pytest.fixture(scope="module")
def other(folder, templates):
    cluster = Cluster(subfolder(folder), "other").create(templates.get("other"))
    cluster.sql("CREATE DATABASE p2")
    yield cluster
    cluster.stop()


@pytest.fixture
def proxy(make_proxy, pg, other):
    return make_proxy({"pg": pg, "other": other})


def restart(proxy, how, fault=None):
    if how == "kill":
        proxy.kill()
    else:
        proxy.stop(signal.SIGTERM)
    proxy.start(fault)


def to_other(proxy):
    epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
    proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)
    proxy.command("RELEASE p2 EPOCH %s" % epoch)
    return epoch


HOWS = ["kill", "stop"]


@pytest.mark.parametrize("how", HOWS)
def test_hold_comes_back(proxy, how):
    """Held, with its epoch; clients log in without a server and wait."""
    with proxy.wire("p2") as conn:
        conn.value("SELECT 1")
    epoch = proxy.hold("p2", "EPOCH 17 LEASE NONE")["epoch"]
    restart(proxy, how)
    row = proxy.held()
    assert row["state"] == "held" and row["epoch"] == epoch == "17"
    assert row["lease_left_ms"] is None
    with proxy.wire("p2") as conn:
        assert conn.params["server_version"].startswith(VERSION)
        conn.send(query("SELECT 'waited'"))
        assert conn.silent()
        with pytest.raises(ConsoleError):
            proxy.command("RELEASE p2 EPOCH 16")
        proxy.command("RELEASE p2 EPOCH 17")
        assert rows(conn.ready("I")) == [["waited"]]
    assert proxy.held("p1")["state"] == "open"


@pytest.mark.parametrize("how", HOWS)
def test_lease_goes_on_after_a_restart(proxy, how):
    proxy.hold("p2", "LEASE 2s")
    restart(proxy, how)
    with proxy.wire("p2") as conn:
        conn.send(query("SELECT 'freed'"))
        assert rows(conn.ready("I")) == [["freed"]]
    assert proxy.held()["state"] == "open"


@pytest.mark.parametrize("how", HOWS)
def test_released_stays_released(proxy, how):
    epoch = proxy.hold("p2")["epoch"]
    proxy.command("RELEASE p2")
    restart(proxy, how)
    assert proxy.held()["state"] == "open"
    assert proxy.route()["epoch"] == epoch
    with pytest.raises(ConsoleError):
        proxy.hold("p2", "EPOCH " + epoch)


@pytest.mark.parametrize("how", HOWS)
def test_route_of_a_swap_comes_back(proxy, how):
    """The file still says the old server: the newer decision wins, and the conflict is shown."""
    epoch = to_other(proxy)
    restart(proxy, how)
    route = proxy.route()
    assert route["server"] == "other" and route["origin"] == "state"
    assert route["epoch"] == epoch and "pg" in route["note"]
    assert "p2" in proxy.log()
    with proxy.wire("p2") as conn, proxy.wire("p1") as bystander:
        assert conn.value("SHOW cluster_name") == "other"
        assert bystander.value("SHOW cluster_name") == "pg"
    assert proxy.route("p1")["origin"] == "config"


def test_reload_with_the_old_file_does_not_go_back(proxy):
    to_other(proxy)
    proxy.command("RELOAD")
    proxy.process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    with proxy.wire("p2") as conn:
        assert conn.value("SHOW cluster_name") == "other"
    assert proxy.route()["server"] == "other"


def test_file_that_agrees_is_no_conflict(proxy):
    to_other(proxy)
    proxy.databases["p2"] = {"server": "other"}
    proxy.write()
    restart(proxy, "stop")
    assert proxy.route()["server"] == "other"
    assert not proxy.route()["note"]


def test_server_of_the_state_that_the_file_no_longer_has(proxy):
    """Never the old server: an error that says what to do."""
    to_other(proxy)
    proxy.stop(signal.SIGTERM)
    del proxy.servers["other"]
    proxy.write()
    result = subprocess.run([program("pgshuntd"), "--config", proxy.config_path],
                            capture_output=True, text=True, timeout=20 * SLOW)
    assert result.returncode != 0 and "other" in result.stderr and "p2" in result.stderr


def test_killed_between_swap_and_release(proxy):
    """Comes back held, on the new route."""
    epoch = proxy.hold("p2", "LEASE NONE")["epoch"]
    proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)
    restart(proxy, "kill")
    assert proxy.held()["state"] == "held" and proxy.route()["server"] == "other"
    # The mover repeats itself.
    proxy.command("HOLD p2 EPOCH " + epoch)
    proxy.command("SWAP p2 TO other EPOCH %s FORCE" % epoch)
    proxy.command("RELEASE p2 EPOCH %s" % epoch)
    with proxy.wire("p2") as conn:
        assert conn.value("SHOW cluster_name") == "other"


@pytest.fixture
def stuck(make_proxy, pg, other, folder):
    """A proxy, and a directory: while that is there, nothing more is written to the state
    directory."""
    path = os.path.join(subfolder(folder), "stuck")
    return make_proxy({"pg": pg, "other": other}, fault="state_write=wait:%s/here" % path), path


def stick(path):
    os.mkdir(path)
    os.chmod(path, 0o777)


def unstick(path):
    os.rename(path, path + ".gone")


def test_swap_that_does_not_wait(stuck):
    """It answers before the write.  Killed then, the proxy comes back held on the old route, and
    nobody has gone on there; RELEASE waits for the write."""
    proxy, path = stuck
    epoch = proxy.hold("p2", "LEASE NONE")["epoch"]
    stick(path)
    assert proxy.command("SWAP p2 TO other EPOCH %s FORCE NOWAIT" % epoch)[0]["server"] == "other"
    proxy.kill()
    proxy.start()
    assert proxy.held()["state"] == "held" and proxy.held()["lease_left_ms"] is None
    assert proxy.route()["server"] == "pg"
    proxy.command("SWAP p2 TO other EPOCH %s FORCE NOWAIT" % epoch)
    proxy.command("RELEASE p2 EPOCH " + epoch)
    restart(proxy, "kill")
    assert proxy.held()["state"] == "open" and proxy.route()["server"] == "other"


def test_swap_waits_where_a_restart_would_forget_the_hold(stuck):
    """With a lease the clients would go on at the old server after a crash: NOWAIT is no excuse."""
    proxy, path = stuck
    epoch = proxy.hold("p2", "LEASE 60s")["epoch"]
    with proxy.console() as console:
        stick(path)
        console.send("SWAP p2 TO other EPOCH %s FORCE NOWAIT" % epoch)
        time.sleep(0.2)
        assert proxy.route()["server"] == "pg"
        unstick(path)
        assert console.result()[0]["server"] == "other"
    restart(proxy, "kill")
    assert proxy.held()["state"] == "held" and proxy.route()["server"] == "other"


@pytest.mark.parametrize("text", ["garbage\n", "\0\0\0", "held p2", ""])
def test_state_that_cannot_be_read_stops_the_start(proxy, text):
    """A guess could send clients to the wrong server."""
    to_other(proxy)
    proxy.stop(signal.SIGTERM)
    path = os.path.join(proxy.state, "state")
    with open(path) as state:
        good = state.read()
    with open(path, "w") as state:
        state.write(good[:len(good) // 2] + text if text else good[:len(good) // 2])
    result = subprocess.run([program("pgshuntd"), "--config", proxy.config_path],
                            capture_output=True, text=True, timeout=20 * SLOW)
    assert result.returncode != 0 and path in result.stderr
    with open(path, "w") as state:
        state.write(good)
    proxy.start()
    assert proxy.route()["server"] == "other"


def test_state_that_cannot_be_written_fails_the_command(make_proxy, pg, other):
    """What is not on disk was not done: no success, and clients go on as before."""
    proxy = make_proxy({"pg": pg, "other": other}, fault="state_write=fail")
    with proxy.wire("p2") as conn:
        with pytest.raises(ConsoleError) as error:
            proxy.hold("p2", "LEASE 60s")
        assert proxy.state in str(error.value.fields) or "state" in str(error.value.fields)
        assert conn.value("SELECT 1") == "1"
        assert proxy.held()["state"] == "open"


def test_kill_while_the_state_is_written(make_proxy, pg, other):
    """The old or the new state, never a part."""
    proxy = make_proxy({"pg": pg, "other": other})
    to_other(proxy)
    proxy.stop(signal.SIGTERM)
    for _ in range(3):
        proxy.start("state_write=kill")
        try:
            proxy.hold("p2", "LEASE NONE")
        except Exception:
            pass
        wait_for(lambda: proxy.process.poll() is not None, 10 * SLOW, "the kill")
        proxy.process = None
        proxy.start()
        assert proxy.route()["server"] == "other"
        if proxy.held()["state"] == "held":
            proxy.command("RELEASE p2")
        proxy.stop(signal.SIGTERM)
    assert len(glob.glob(proxy.state + "/*")) < 8


def test_prepared_connections_do_not_come_back(proxy):
    """They died with the process; nothing says that they were there."""
    with proxy.wire("p2", "postgres") as conn:
        conn.value("SELECT 1")
        proxy.command("PREPARE SWAP p2 TO other")
        assert proxy.held()["target"] == "other"
    restart(proxy, "kill")
    assert proxy.held()["target"] is None


def test_kill_at_random_moments(make_proxy, pg, other):
    """Whatever was answered is true after the restart."""
    proxy = make_proxy({"pg": pg, "other": other}, log_level="info")
    server = "pg"
    for n in range(6):
        target = "other" if server == "pg" else "pg"
        epoch = proxy.hold("p2", "LEASE NONE")["epoch"]
        proxy.command("SWAP p2 TO %s EPOCH %s FORCE" % (target, epoch))
        if n % 2:
            proxy.command("RELEASE p2 EPOCH " + epoch)
        restart(proxy, "kill")
        assert proxy.held()["state"] == ("open" if n % 2 else "held")
        assert proxy.route()["server"] == target and proxy.route()["epoch"] == epoch
        proxy.command("RELEASE p2")
        server = target
