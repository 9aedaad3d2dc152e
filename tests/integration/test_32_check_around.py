# SPDX-License-Identifier: PostgreSQL
"""pgshunt check: what lies around the two servers, and what of it would be noticed only after the
promotion: synchronous and other standbys, archives, other databases, proxies that mean another
server."""
import pytest

from pgwire import wait_for
from scene import DONE, REFUSED
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
