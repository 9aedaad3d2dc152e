# SPDX-License-Identifier: PostgreSQL
"""pgshunt check: what lies around the two servers, and what of it would be noticed only after the
promotion: synchronous and other standbys, archives, other databases, proxies that mean another
server."""
import os

from pgwire import wait_for
from scene import DONE, REFUSED, UNDONE
from servers import SLOW
from test_32_check import PASS, REFUSE, WARN, caught_up, check, finds, having, scene, setting

__all__ = ["scene"]


def synchronous(scene, names):
    """The value is in force, and the walsenders know."""
    count = scene.pg1.value("SELECT count(*) FROM pg_stat_replication")
    wait_for(lambda: scene.pg1.value("SELECT count(*) FROM pg_stat_replication WHERE "
                                     "state = 'streaming' AND sync_priority > 0") == names,
             20 * SLOW, "the synchronous standbys of %d" % count)


def test_commits_that_would_wait(scene):
    """synchronous_standby_names of the target, which pg_basebackup copies, and of the source."""
    pg1, pg2 = scene.pg1, scene.pg2
    for names in ("elsewhere", "ANY 2 (a, *)", '"any"', "first 1 (pg1)"):
        with setting(pg2, "synchronous_standby_names", names):
            finds(scene, "synchronous", REFUSE, "pg2", names, "0 are connected to it")
    with setting(pg1, "synchronous_standby_names", "nobody"):
        finds(scene, "synchronous", WARN, "nobody", "0 are connected")
    cascaded = scene.make_cluster.standby(pg2, "s4", slot="s4")
    with setting(pg2, "synchronous_standby_names", 'FIRST 1 (x, "S4")'):
        assert check(scene, DONE)["synchronous"][0][0] == PASS
    with setting(pg2, "synchronous_standby_names", "ANY 2 (s4, s5)"):
        finds(scene, "synchronous", REFUSE, "2 of them", "1 is connected to it")
    cascaded.stop()
    pg2.sql("SELECT pg_drop_replication_slot('s4')")
    other = scene.make_cluster.standby(pg1, "s3", slot="s3")
    for names, listed, result, words in (
            ("FIRST 2 (pg2, s3)", 2, REFUSE, ("wait for 2", "without pg2 1 is")),
            ("ANY 2 (*)", 2, REFUSE, ("wait for 2", "without pg2 1 is")),
            ("1 (pg2)", 1, REFUSE, ("wait for 1", "without pg2 0 are")),
            ("ANY 1 (pg2, s3)", 2, WARN, ("there are others: 1",)),
            ("pg2, s3", 2, WARN, ("there are others: 1",)),
            ("s3", 1, None, ())):
        with setting(pg1, "synchronous_standby_names", names):
            synchronous(scene, listed)
            if result is None:
                assert check(scene, DONE)["synchronous"][0][0] == PASS
            else:
                finds(scene, "synchronous", result, *words)
    other.stop()
    pg1.sql("SELECT pg_drop_replication_slot('s3')")
    assert check(scene, DONE)["synchronous"][0][0] == PASS


def knows_pg2_as(scene, **place):
    """The proxy's file says that of pg2; the mover's own does not."""
    right = scene.proxy.servers["pg2"]
    scene.proxy.servers["pg2"] = {**right, **place}
    scene.proxy.write()
    scene.proxy.stop()
    scene.proxy.start()
    scene.proxy.servers["pg2"] = right
    scene.proxy.write()


def test_proxy_that_means_another_server(scene):
    """It is found in the check, not after the promotion; and once more right before the hold, for
    what is changed in between."""
    other = scene.make_cluster.standby(scene.pg1, "s3", slot="s3")
    knows_pg2_as(scene)
    with scene.proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        assert check(scene, DONE)["same_target"][0][0] == PASS
    for port in (other.port, scene.pg1.port):
        knows_pg2_as(scene, port=port)
        with scene.proxy.wire("p2") as conn:
            conn.value("SELECT 1")
            finds(scene, "same_target", REFUSE, "proxy a", "p2", "another server")
            scene.move(REFUSED)
            # After the check: nobody is held, and nothing is fenced.
            knows_pg2_as(scene)
            with scene.proxy.wire("p2") as again:
                again.value("SELECT 1")
                mark = os.path.join(scene.folder, "waits.%d" % port)
                mover = scene.background("move", "p2", "--to", "pg2",
                                         fault="journal.prepare.intent=wait:" + mark)
                wait_for(lambda mark=mark: os.path.exists(mark), 60 * SLOW, "the preparation")
                right = scene.proxy.servers["pg2"]
                scene.proxy.servers["pg2"] = {**right, "port": port}
                scene.proxy.write()
                scene.proxy.command("RELOAD")
                os.unlink(mark)
                assert mover.wait(60 * SLOW) == UNDONE
                assert again.value("SHOW cluster_name") == "pg1"
                scene.proxy.servers["pg2"] = right
                scene.proxy.write()
                with open(os.path.join(scene.folder, "mover.log")) as log:
                    text = log.read()
                assert "prepare: proxy a, database p2: what it calls pg2" in text
    other.stop()
    scene.pg1.sql("SELECT pg_drop_replication_slot('s3')")
    knows_pg2_as(scene)
    scene.check_on_pg1()
