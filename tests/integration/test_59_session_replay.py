# SPDX-License-Identifier: PostgreSQL
"""A session with something that the standby has not replayed yet: pinned only as long as that is so."""
import pytest

from pgwire import SYNC, bind, errors, execute, parse, rows, wait_for
from proxy import ConsoleError
from servers import SLOW
from sessiontool import open_session

pytestmark = pytest.mark.threads


@pytest.fixture
def make(make_scene):
    """A session with a statement about a table that was created a moment ago."""
    def make(policy):
        scene = make_scene(proxy={"pool_mode": "session", "session_pinned": policy})
        conn = scene.proxy.wire("p2", application_name="traveller")
        scene.pg2.sql("SELECT pg_wal_replay_pause()")
        wait_for(lambda: scene.pg2.value("SELECT pg_get_wal_replay_pause_state()") == "paused",
                 20 * SLOW, "the pause")
        conn.query("CREATE TABLE young (k int); INSERT INTO young VALUES (1)")
        conn.send(parse("SELECT k FROM young", "named") + SYNC)
        assert not errors(conn.ready("I"))
        return scene, conn
    return make


def resume(scene):
    scene.pg2.sql("SELECT pg_wal_replay_resume()")
    lsn = scene.pg1.value("SELECT pg_current_wal_flush_lsn()")
    wait_for(lambda: scene.pg2.value("SELECT pg_last_wal_replay_lsn() >= '%s'::pg_lsn" % lsn),
             20 * SLOW, "the replay")


def shown(scene):
    row, = scene.proxy.command("SHOW SESSIONS p2")
    return row["class"], row["why"]


def test_before_the_hold(make):
    scene, conn = make("abort")
    scene.proxy.command("PREPARE SWAP p2 TO pg2")
    assert shown(scene)[0] == "pinned" and '"young"' in shown(scene)[1]
    resume(scene)
    # Though its client does nothing; and it is not only said.
    wait_for(lambda: shown(scene)[0] == "movable", 20 * SLOW, "another verdict")
    scene.proxy.command("CANCEL SWAP p2")
    scene.move()
    conn.send(bind([], "named") + execute() + SYNC)
    assert rows(conn.ready("I")) == [["1"]] and conn.value("SHOW cluster_name") == "pg2"


def test_prepared_again(make):
    """Nothing is remembered then, not even of what no replay will mend."""
    scene, conn = make("abort")
    resume(scene)
    scene.pg1.sql("DROP TABLE young", "p2")
    resume(scene)
    for _ in range(2):
        scene.proxy.command("PREPARE SWAP p2 TO pg2")
        assert shown(scene)[0] == "pinned"
    scene.pg1.sql("CREATE TABLE young AS SELECT 2 AS k; GRANT ALL ON young TO PUBLIC", "p2")
    resume(scene)
    scene.proxy.command("PREPARE SWAP p2 TO pg2")
    assert shown(scene)[0] == "movable"


@pytest.mark.parametrize("policy", ["abort", "drop", "move_anyway", "wait"])
def test_in_the_hold(make, policy):
    """A standby that is a little behind is waited for, before anything is done about the session."""
    scene, conn = make(policy)
    scene.proxy.command("PREPARE SWAP p2 TO pg2")
    conn.query("BEGIN; SET work_mem = '7MB'")  # it has to be asked again
    before = scene.proxy.log().count("cannot be set up")
    with open_session(scene.pg2, user="postgres") as standby:
        scene.proxy.command("HOLD p2 LEASE 60s DRAIN 20s NOWAIT")
        conn.query("COMMIT")
        wait_for(lambda: scene.proxy.log().count("cannot be set up") > before, 20 * SLOW, "the refusal")
        standby.query("SELECT pg_wal_replay_resume()")
    wait_for(lambda: scene.proxy.held()["state"] == "held", 20 * SLOW, "the hold")
    assert shown(scene)[0] == "movable"
    scene.proxy.command("RELEASE p2")
    conn.send(bind([], "named") + execute() + SYNC)
    assert rows(conn.ready("I")) == [["1"]] and conn.value("SHOW work_mem") == "7MB"


def test_not_for_long(make):
    scene, conn = make("abort")
    scene.proxy.command("PREPARE SWAP p2 TO pg2")
    conn.query("SET work_mem = '7MB'")
    with pytest.raises(ConsoleError) as error:
        scene.proxy.hold("p2", "LEASE 60s DRAIN 20s")
    assert error.value.sqlstate == "55P03" and '"young"' in error.value.fields["D"]
    conn.send(bind([], "named") + execute() + SYNC)
    assert rows(conn.ready("I")) == [["1"]]
