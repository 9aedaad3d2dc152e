# SPDX-License-Identifier: PostgreSQL
"""The exact comparison: as part of a move, interrupted, and later when the target has moved on."""
import glob
import json
import os
import signal
import time

import pytest

from pgwire import wait_for
from scene import DONE, ERROR, REFUSED, UNDONE
from servers import SLOW

DIFFERS, UNVERIFIED = 7, 8
CONTENTS = """
CREATE TABLE forms (id int, note text, data jsonb, "Odd ""name" float8, raw bytea);
INSERT INTO forms SELECT g, repeat('n' || g, 20), jsonb_build_object('a', g), g / 7.0, '\\x00ff'
    FROM generate_series(1, 5000) g;
UPDATE forms SET note = 'changed' WHERE id % 10 = 0;
DELETE FROM forms WHERE id % 10 = 1;
CREATE TABLE empty_one ();
CREATE TABLE parts (id int) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000);
INSERT INTO parts SELECT generate_series(1, 99);
CREATE MATERIALIZED VIEW summary AS SELECT count(*) FROM forms;
CREATE SEQUENCE up; CREATE SEQUENCE down INCREMENT -3; CREATE SEQUENCE untouched;
SELECT nextval('up'), nextval('down') FROM generate_series(1, 40);
GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC;
SELECT lo_from_bytea(0, repeat('large object', 500)::bytea);
"""


def comparison(scene):
    [path] = glob.glob(scene.mover["journal_directory"] + "/*/comparison.json")
    with open(path) as file:
        return json.load(file)


def table(result, name):
    [found] = [item for item in result["tables"] if item["table"] == name]
    return found


def corrupt(cluster, name, old, new, primary=None):
    """Changes bytes in the file of a table, as a broken disk would."""
    if primary:
        primary.sql("CHECKPOINT")
        lsn = primary.value("SELECT pg_current_wal_lsn()")
        wait_for(lambda: cluster.value("SELECT pg_last_wal_replay_lsn() >= '%s'" % lsn),
                 what="the replay")
    cluster.sql("CHECKPOINT")
    path = os.path.join(cluster.data, cluster.value("SELECT pg_relation_filepath('%s')" % name,
                                                    "p2"))
    cluster.stop()
    cluster.settings["ignore_checksum_failure"] = "on"  # from 18 on initdb asks for checksums
    with open(path, "r+b") as file:
        data = file.read()
        at = data.rindex(old)
        file.seek(at)
        file.write(new)
    cluster.start()


@pytest.mark.threads
def test_move_and_compare_under_load(make_scene):
    """Everything equal at the moment of the move, though the target is written to since."""
    scene = make_scene()
    scene.pg1.sql(CONTENTS, "p2")
    scene.load()
    time.sleep(0.5)
    result = scene.run("move", "p2", "--to", "pg2", "--verify")
    assert result.returncode == DONE, result.stdout + result.stderr
    account = scene.account()
    assert all(group["errors"] == 0 for group in account["groups"].values()), account
    found = comparison(scene)
    assert found["state"] == "equal" and found["exact"] is True
    assert found["shards"][0]["sequences_wrong"] == 0 and found["shards"][0]["sequences"] >= 3
    assert table(found, "public.forms")["rows"] == 4500
    assert table(found, "public.parts_1")["rows"] == 99
    assert table(found, "pg_catalog.pg_largeobject")["rows"] == 3
    assert all(item["rows"] == item["rows_target"] and item["hash"] == item["hash_target"]
               for item in found["tables"])
    # Nothing of it is left behind.
    wait_for(lambda: scene.pg1.sessions("p2") == set(), what="the end of its sessions")
    # Complete is complete.
    assert "complete" in scene.run("verify").stdout


def test_two_shards(make_scene):
    scene = make_scene()
    scene.pg1.sql(CONTENTS, "p2")
    scene.configure(verify_jobs=1, verify_rate=0)
    result = scene.run("move", "p1", "p2", "--to", "pg2", "--verify")
    assert result.returncode == DONE
    found = comparison(scene)
    assert [shard["state"] for shard in found["shards"]] == ["equal", "equal"]
    # Each is released when its own route is swapped, not when the last one is.
    with open(glob.glob(scene.mover["journal_directory"] + "/*/journal.jsonl")[0]) as file:
        records = [(r["kind"], r["phase"]) for r in map(json.loads, file)]
    assert records.index(("intent", "release")) < records.index(("outcome", "swap"))


def test_a_row_that_differs_is_named(make_scene):
    """One byte of one row is wrong on the standby."""
    scene = make_scene()
    scene.pg1.sql(CONTENTS, "p2")
    scene.pg1.sql("INSERT INTO items VALUES (1, 'right'), (2, 'the same')", "p2")
    corrupt(scene.pg2, "items", b"right", b"wrong", scene.pg1)
    result = scene.run("move", "p2", "--to", "pg2", "--verify")
    assert result.returncode == DIFFERS
    assert "public.items" in result.stderr and "pg2 at (0,1)" in result.stderr
    found = table(comparison(scene), "public.items")
    assert found["state"] == "differs" and found["source_only"] == found["target_only"] == 1
    # The move itself is done.
    scene.check_on_pg2()
    assert scene.run("verify").returncode == DIFFERS


def test_interrupted_and_completed_later(make_scene):
    """What is left is compared with a target that has been written to meanwhile."""
    scene = make_scene()
    scene.pg1.sql(CONTENTS, "p2")
    scene.configure(verify_rate="64kB", verify_jobs=1)
    mover = scene.background("move", "p2", "--to", "pg2", "--verify")
    wait_for(lambda: glob.glob(scene.mover["journal_directory"] + "/*/verify.jsonl"), 60 * SLOW,
             "the comparison")
    with scene.proxy.wire("p2") as conn:
        conn.query("UPDATE forms SET note = 'later' WHERE id = 12")
        conn.query("DELETE FROM forms WHERE id = 13")
        conn.query("INSERT INTO forms SELECT id + 10000, note FROM forms WHERE id < 100")
        conn.query("SELECT nextval('up') FROM generate_series(1, 100)")
    # Others need not wait for it: both locks are free, only this comparison is taken.
    assert scene.run("rehearse", "p1", "--to", "pg2").returncode == REFUSED
    result = scene.run("verify")
    assert result.returncode == ERROR and "compares the copies" in result.stderr
    mover.send_signal(signal.SIGINT)
    assert mover.wait(60 * SLOW) == UNVERIFIED
    scene.configure(verify_rate=0)
    with open(glob.glob(scene.mover["journal_directory"] + "/*/verify.jsonl")[0]) as file:
        assert "forms" in file.readline()  # the biggest one is first
    os.unlink(glob.glob(scene.mover["journal_directory"] + "/*/verify.jsonl")[0])
    result = scene.run("verify")
    assert result.returncode == DONE, result.stderr
    found = table(comparison(scene), "public.forms")
    assert (found["changed_since"], found["new_since"]) == (2, 89)
    assert scene.refuses(scene.pg1, "p2")
    assert scene.pg1.value("SELECT datconnlimit FROM pg_database WHERE datname = 'p2'") == -1
    # A row that nobody has written since must not be another.
    corrupt(scene.pg2, "parts_1", b"\x63\x00\x00\x00", b"\x62\x00\x00\x00")
    assert scene.run("verify").returncode == DIFFERS
    # What was rewritten cannot be compared, which is said.
    scene.pg2.sql("TRUNCATE parts", "p2")
    result = scene.run("verify")
    assert result.returncode == UNVERIFIED and "rewritten or emptied" in result.stderr


def test_killed_with_the_fence_open(make_scene):
    """verify dies while it lets its sessions in; only superusers could follow, and the next run
    closes it."""
    scene = make_scene()
    scene.move()
    result = scene.run("verify", "--dry-run")
    assert result.returncode == DONE and "not done: --dry-run" in result.stdout
    assert not glob.glob(scene.mover["journal_directory"] + "/*/verify.jsonl")
    assert scene.run("verify", fault="journal.verify.intent=kill").returncode == -signal.SIGKILL
    scene.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS true")  # as if a moment later
    scene.pg1.sql("ALTER DATABASE p2 CONNECTION LIMIT 0")
    with pytest.raises(Exception, match="too many connections"):
        scene.pg1.connect("p2", "app")
    result = scene.run("verify")
    assert "left the fence open" in result.stderr and scene.refuses(scene.pg1, "p2")
    # Somebody else lifts it: nothing can be said about the copy any more.
    scene.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS true")
    result = scene.run("verify")
    assert result.returncode == UNVERIFIED and "lifted the fence" in result.stderr


def test_undone_with_sessions_open(make_scene):
    scene = make_scene()
    result = scene.run("move", "p2", "--to", "pg2", "--verify", fault="journal.barrier.outcome=fail")
    assert result.returncode == UNDONE
    scene.check_on_pg1()
    assert scene.pg1.sessions("p2", "postgres") == set()


def test_rows_in_the_wrong_shard(make_scene, pg):
    """The partition of every row is checked by the hash that PL/Proxy uses."""
    scene = make_scene()
    pg.sql("DROP DATABASE IF EXISTS hq_verify")
    scene.plproxy(pg, "hq_verify", direct=False)
    scene.configure(shard_hash="hashint4({key})", shard_keys=["items.id"])
    # Partitions 0 and 1 are in p1, 2 and 3 in p2.
    scene.pg1.sql("INSERT INTO items SELECT g, 'x' FROM generate_series(1, 400) g "
                  "WHERE hashint4(g) & 3 >= 2", "p2")
    stray = scene.pg1.value("SELECT g FROM generate_series(1, 400) g WHERE hashint4(g) & 3 = 1")
    scene.pg1.sql("INSERT INTO items VALUES (%d, 'stray')" % stray, "p2")
    result = scene.run("move", "p2", "--to", "pg2", "--verify")
    assert result.returncode == DONE
    assert "1 rows of partition 1" in result.stderr
    found = table(comparison(scene), "public.items")
    assert found["outside"] == 1 and found["partitions"]["1"] == 1
    assert sum(found["partitions"].values()) == found["rows"]
