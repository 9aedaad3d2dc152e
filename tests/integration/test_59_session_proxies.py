# SPDX-License-Identifier: PostgreSQL
"""Two proxies in front of one shard: nobody of either is let go on before the sessions of both have
their advisory locks and channels at the new server."""
import pytest

from pgwire import query, rows, wait_for
from scene import DONE
from servers import SLOW, stopped

pytestmark = pytest.mark.threads


@pytest.mark.parametrize("owner", [0, 1])
def test_nobody_gets_ahead_of_a_session_of_another_proxy(make_scene, owner):
    """The server process of the one that has a lock and listens is slow at taking them."""
    scene = make_scene(proxies=2, proxy={"pool_mode": "session"})
    slow = scene.proxies[owner].wire("p2", application_name="slow")
    rival = scene.proxies[1 - owner].wire("p2", application_name="rival")
    slow.query("SELECT pg_advisory_lock(7)")
    slow.query("LISTEN news")
    rival.query("SELECT 1")
    mover = scene.background("move", "p2", "--to", "pg2",
                             fault="journal.promote.outcome=sleep:1500")
    wait_for(lambda: not scene.pg2.value("SELECT pg_is_in_recovery()"), 60 * SLOW, "the promotion")
    pid = scene.pg2.value("SELECT pid FROM pg_stat_activity WHERE application_name = 'slow'")
    rival.send(query("SELECT pg_try_advisory_lock(7); NOTIFY news, 'first'"))
    with stopped(pid):
        wait_for(lambda: {proxy.route()["server"] for proxy in scene.proxies} == {"pg2"},
                 60 * SLOW, "both swaps")
        assert rival.silent()
    assert rows(rival.ready("I"))[0] == ["f"]
    assert slow.until("A")[-1].body[4:] == b"news\0first\0"
    assert mover.wait(60 * SLOW) == DONE
    assert slow.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == "1"
    assert not any("have yet to get" in proxy.log() for proxy in scene.proxies)


@pytest.mark.parametrize("owner", [0, 1])
def test_nor_when_the_move_is_resumed(make_scene, owner):
    """The mover was killed after the promotion."""
    scene = make_scene(proxies=2, proxy={"pool_mode": "session"})
    slow = scene.proxies[owner].wire("p2", application_name="slow")
    rival = scene.proxies[1 - owner].wire("p2", application_name="rival")
    slow.query("SELECT pg_advisory_lock(7); LISTEN news")
    rival.query("SELECT 1")
    killed = scene.background("move", "p2", "--to", "pg2", fault="journal.promote.outcome=kill")
    assert killed.wait(60 * SLOW) != DONE
    assert not scene.pg2.value("SELECT pg_is_in_recovery()")
    pid = scene.pg2.value("SELECT pid FROM pg_stat_activity WHERE application_name = 'slow'")
    rival.send(query("SELECT pg_try_advisory_lock(7)"))
    with stopped(pid):
        mover = scene.background("resume")
        wait_for(lambda: scene.proxies[owner].route()["server"] == "pg2", 60 * SLOW, "the swap")
        assert rival.silent()
    assert rows(rival.ready("I")) == [["f"]]
    assert mover.wait(60 * SLOW) == DONE
    assert not any("have yet to get" in proxy.log() for proxy in scene.proxies)
