# SPDX-License-Identifier: PostgreSQL
"""After the move: counts, validate, and cleanup with the evidence that it wants."""
import json
import os
import re

from pgwire import wait_for
from scene import DONE, REFUSED, UNDONE, USAGE


def databases(cluster):
    return {row[0] for row in cluster.sql("SELECT datname FROM pg_database WHERE datname ~ '^p[12]'")}


def journal(scene):
    [name] = [name for name in os.listdir(scene.mover["journal_directory"]) if name != "lock"]
    with open(os.path.join(scene.mover["journal_directory"], name, "journal.jsonl")) as file:
        return name, [json.loads(line) for line in file]


def refused(scene, *args, because):
    result = scene.run("cleanup", *args)
    assert result.returncode == REFUSED and because in result.stderr, result.stderr
    assert databases(scene.pg1) == databases(scene.pg2) == {"p1", "p2"}


def test_counts(make_scene):
    """The CSV of HQ's command: estimates and what is really there."""
    scene = make_scene()
    for name, forms in (("p1", 100), ("p2", 300)):
        scene.pg1.sql("CREATE TABLE form_processor_xforminstancesql (id int); "
                      "INSERT INTO form_processor_xforminstancesql SELECT generate_series(1, %d); "
                      "ANALYZE form_processor_xforminstancesql; "
                      "DELETE FROM form_processor_xforminstancesql WHERE id <= 50;"
                      "CREATE TABLE form_processor_commcarecasesql (id int, deleted bool); "
                      "INSERT INTO form_processor_commcarecasesql "
                      "SELECT g, g > 20 FROM generate_series(1, 40) g" % forms, name)
    expected = """
FORMS
Total,%d,

By DB
DB,# Docs,%%
p1,%d,%d
p2,%d,%d

By Host
Host,# Docs,%%
127.0.0.1,%d,100
"""
    result = scene.run("counts")
    assert result.returncode == DONE
    assert result.stdout.startswith(expected % (400, 100, 25, 300, 75, 400))
    result = scene.run("counts", "--exact")
    assert result.stdout.startswith(expected % (300, 50, 16, 250, 83, 300))
    assert "\nCASES\nTotal,40,\n" in result.stdout
    result = scene.run("counts", "p2", "--exact", "--json")
    [forms, cases] = [json.loads(line) for line in result.stdout.splitlines()]
    assert forms["total"] == 250 and cases["by_db"] == {"p2": 20}
    assert scene.run("counts", "p9").returncode == USAGE
    scene.move()
    assert scene.run("counts", "--exact").stdout.startswith(
        expected % (300, 50, 16, 250, 83, 300))
    scene.configure(count_tables=["NOTES=items WHERE id > 1"])
    scene.pg2.sql("INSERT INTO items VALUES (1), (2), (3)", "p2")
    scene.proxy.databases["p2"]["shard"] = 'two, or "p2"'
    scene.proxy.write()
    text = scene.run("counts", "--exact").stdout
    assert "\nNOTES\nTotal,2,\n" in text and '\n"two, or ""p2""",2,100\n' in text


def test_validate(make_scene):
    scene = make_scene()
    assert scene.run("validate").returncode == USAGE
    scene.move()
    with scene.proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        result = scene.run("validate")
        assert result.returncode == DONE and "everything is as it should be" in result.stdout
        assert "app" in result.stdout.split("connections on pg2:")[1]
    # A fence that somebody lifts, on either side.
    for cluster, name in ((scene.pg1, "p2"), (scene.pg2, "p1")):
        cluster.sql("ALTER DATABASE %s ALLOW_CONNECTIONS true" % name)
        result = scene.run("validate")
        assert result.returncode == REFUSED and "fence" in result.stderr
        cluster.sql("ALTER DATABASE %s ALLOW_CONNECTIONS false" % name)
    # A router that disagrees.
    scene.proxy.hold("p2", "LEASE 60s")
    scene.proxy.command("SWAP p2 TO pg1 FORCE")
    scene.proxy.command("RELEASE p2")
    result = scene.run("validate")
    assert result.returncode == REFUSED and "sends database p2 to pg1" in result.stderr


def test_cleanup(make_scene):
    """Rename, wait, drop; the slot and the standby's settings; and back again before the drop."""
    scene = make_scene()
    notes = scene.file("inventory.ini", "[pg1]\n10.0.0.1 hot_standby_server=pg2\nbackup p2 pg1\n")
    scene.configure(reference_files=[notes], cleanup_wait="1h")
    scene.move()
    name, _ = journal(scene)
    moved, copied = "p2__moved_" + name[:8], "p1__copy_" + name[:8]
    refused(scene, because="has no client")
    with scene.proxy.wire("p1") as one, scene.proxy.wire("p2") as two:
        one.value("SELECT 1")
        two.value("SELECT 1")
        result = scene.run("cleanup", "--dry-run")
        assert result.returncode == DONE and moved in result.stdout
        assert notes + ":2:" in result.stdout and notes + ":3:" in result.stdout
        assert databases(scene.pg1) == databases(scene.pg2) == {"p1", "p2"}
        assert scene.pg1.sql("SELECT slot_name FROM pg_replication_slots") == [("standby1",)]
        result = scene.run("cleanup")
        assert result.returncode == DONE, result.stderr
        assert databases(scene.pg1) == {"p1", moved} and databases(scene.pg2) == {"p2", copied}
        assert scene.pg1.sql("SELECT slot_name FROM pg_replication_slots") == []
        with open(scene.pg2.data + "/postgresql.auto.conf") as file:
            assert "primary" not in file.read()
        assert [r["kind"] for r in journal(scene)[1] if r["phase"] == "rename"] == \
            ["intent", "outcome"] * 2
        # Not before its time.
        result = scene.run("cleanup")
        assert result.returncode == DONE and "can be dropped in 1.0 h" in result.stdout
        assert databases(scene.pg1) == {"p1", moved}
        assert scene.run("cleanup", "--undo").returncode == DONE
        assert databases(scene.pg1) == databases(scene.pg2) == {"p1", "p2"}
        assert scene.refuses(scene.pg1, "p2") and scene.refuses(scene.pg2, "p1")
        assert scene.run("validate").returncode == DONE
        scene.run("cleanup")
        scene.configure(cleanup_wait="0")
        result = scene.run("cleanup")
        assert result.returncode == REFUSED and "never compared" in result.stderr
        assert databases(scene.pg1) == {"p1", moved} and databases(scene.pg2) == {"p2"}
        assert scene.run("cleanup", "--unverified").returncode == DONE
        assert databases(scene.pg1) == {"p1"} and databases(scene.pg2) == {"p2"}
        assert two.value("SHOW cluster_name") == "pg2"
        assert scene.run("cleanup").returncode == DONE


def test_cleanup_of_long_names(make_scene):
    """Copies whose names begin alike get names of their own, and none ends within a character."""
    scene = make_scene()
    alike = ["p1" + "x" * 58 + last for last in "ab"] + ["p1" + "\N{LATIN SMALL LETTER O WITH DIAERESIS}" * 30]
    for name in alike:
        scene.pg1.sql('CREATE DATABASE "%s"' % name)
    wait_for(lambda: len(databases(scene.pg2)) == 5, 20, "their copies")
    scene.configure(cleanup_wait="1h")
    scene.move()
    result = scene.run("cleanup", "--yes", "--idle")
    assert result.returncode == DONE, result.stderr
    renamed = databases(scene.pg2) - {"p2"}
    assert len(renamed) == 4 and all("__copy_20" in name and len(name.encode()) <= 63 for name in renamed), renamed
    result = scene.run("cleanup", "--yes", "--idle")
    assert result.returncode == DONE and result.stdout.count("can be dropped in 1.0 h") == 5, result.stdout
    assert scene.run("cleanup", "--undo", "--yes", "--idle").returncode == DONE
    assert databases(scene.pg2) == {"p1", "p2", *alike}


def test_clock_that_was_set_back(make_scene):
    """The last move is the last one all the same, and nothing is dropped before its time."""
    scene = make_scene()
    scene.move(UNDONE, fault="journal.hold.outcome=fail")
    name, _ = journal(scene)
    directory = scene.mover["journal_directory"]
    os.rename(os.path.join(directory, name), os.path.join(directory, "20990101T000000Z-p2"))
    scene.configure(cleanup_wait="1h")
    scene.move()
    assert max(name for name in os.listdir(directory) if name[0].isdigit()) == "20990101T000001Z-p2"
    assert scene.run("cleanup", "--yes", "--idle").returncode == DONE
    path = os.path.join(directory, "20990101T000001Z-p2", "journal.jsonl")
    with open(path) as file:
        text = file.read()
    with open(path, "w") as file:
        file.write(re.sub(r'"wall":(\d+)', lambda match: '"wall":%d' % (int(match[1]) + 7_200_000_000), text))
    result = scene.run("cleanup", "--yes", "--idle")
    assert result.returncode == DONE, result.stderr
    assert "can be dropped in 3.0 h" in result.stdout and "in the future" in result.stdout


def test_cleanup_on_the_wrong_place(make_scene):
    """Every piece of evidence that is missing keeps both copies."""
    scene = make_scene()
    scene.move()
    with scene.proxy.wire("p1") as one, scene.proxy.wire("p2") as two:
        one.value("SELECT 1")
        two.value("SELECT 1")
        scene.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS true")
        refused(scene, "--dry-run", because="its fence was lifted")
        scene.pg1.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS false")
        scene.pg2.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS false")
        refused(scene, "--dry-run", because="it is not the copy in use")
        scene.pg2.sql("ALTER DATABASE p2 ALLOW_CONNECTIONS true")
        # Somebody swaps the servers' addresses: the copies in use would be dropped.
        servers = scene.proxy.servers
        servers["pg1"], servers["pg2"] = servers["pg2"], servers["pg1"]
        scene.proxy.write()
        refused(scene, because="timeline")
        servers["pg1"], servers["pg2"] = servers["pg2"], servers["pg1"]
        scene.proxy.write()
        scene.proxy.hold("p2", "LEASE 60s")
        scene.proxy.command("SWAP p2 TO pg1 FORCE")
        scene.proxy.command("RELEASE p2")
        refused(scene, because="sends database p2 to pg1")
        scene.proxy.hold("p2", "LEASE 60s")
        scene.proxy.command("SWAP p2 TO pg2 FORCE")
        scene.proxy.command("RELEASE p2")
        scene.pg2.stop()
        refuses = scene.run("cleanup")
        assert refuses.returncode == REFUSED
        scene.pg2.start()
        wait_for(lambda: two.value("SELECT 1") == "1", what="pg2")
        assert databases(scene.pg1) == databases(scene.pg2) == {"p1", "p2"}


def test_cleanup_of_a_copy_with_ties(make_scene):
    """Somebody has prepared a transaction in the copy of p1 after the move: what it says has to be
    done can be done, and then it is dropped."""
    scene = make_scene(mover={"cleanup_wait": "0"})
    scene.pg1.sql("CREATE SUBSCRIPTION \"Sub\" CONNECTION 'host=127.0.0.1 port=1' PUBLICATION pub "
                  "WITH (connect = false)", "p1")
    scene.move()
    scene.pg2.sql("ALTER DATABASE p1 ALLOW_CONNECTIONS true")
    scene.pg2.sql("BEGIN; CREATE TABLE later (a int); PREPARE TRANSACTION 'it''s open'", "p1")
    scene.pg2.sql("ALTER DATABASE p1 ALLOW_CONNECTIONS false")
    scene.pg2.settings["max_logical_replication_workers"] = 0
    scene.pg2.stop()
    scene.pg2.start()
    result = scene.run("cleanup", "--idle", "--unverified")
    assert result.returncode == REFUSED
    said = re.search(r"database p1 on pg2 has .*; (ALTER DATABASE p1 ALLOW_CONNECTIONS true) there, "
                     r"in it (.*) and then (ALLOW_CONNECTIONS false)", result.stderr)
    opens, inside, closes = said.groups()
    scene.pg2.sql(opens)
    for sql in inside.replace("(with max_logical_replication_workers = 0 only:)", "").split(";"):
        scene.pg2.sql(sql, "p1")
    scene.pg2.sql("ALTER DATABASE p1 " + closes)
    for _ in range(2):
        assert scene.run("cleanup", "--idle", "--unverified").returncode == DONE
    assert databases(scene.pg2) == {"p2"}
