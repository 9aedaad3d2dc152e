# SPDX-License-Identifier: PostgreSQL
"""The load generator and its account, directly on PostgreSQL: an account that finds nothing wrong
is worth something only if it finds what is."""
import json
import os
import subprocess

import pytest

LOAD = os.path.join(os.environ.get("PGSHUNT_BIN", ""), "tests", "load", "pgshunt_load")
KINDS = [["--mode", "simple"], ["--batch", "--statements", "3"], ["--mode", "extended", "--block"],
         ["--mode", "prepared", "--block", "--statements", "2"],
         ["--mode", "pipelined", "--statements", "2"], ["--mode", "pipelined-prepared", "--block"],
         ["--reconnect", "--mode", "extended"]]


@pytest.fixture
def loaded(pg, tmp_path):
    """A short run with clients of every kind: (log, account function, SQL function)."""
    for name in ("load_new", "load_old"):
        pg.sql("DROP DATABASE IF EXISTS %s" % name)
        pg.sql("CREATE DATABASE %s" % name)
    where = "host=%s port=%d user=postgres dbname=" % (pg.host, pg.port)
    log = str(tmp_path / "load.log")
    subprocess.run([LOAD, "setup", where + "load_new", where + "load_old"], check=True)
    argv = [LOAD, "run", "--log", log, "--duration", "3", "--group", "g", "--reads", "25",
            "--rate", "40", "--run", "7"]
    for number, kind in enumerate(KINDS):
        argv += ["--target", "t%d:%sload_new:2" % (number, where)] + kind
    subprocess.run(argv, check=True, timeout=60)

    def account(*options):
        report = str(tmp_path / "account.json")
        done = subprocess.run([LOAD, "account", "--log", log, "--new", "g=" + where + "load_new",
                               "--old", "g=" + where + "load_old", "--json", report, *options],
                              timeout=60, capture_output=True, text=True)
        with open(report, encoding="utf-8") as file:
            return done.returncode, json.load(file)["groups"]["g"]

    yield log, account, lambda text, dbname="load_new": pg.sql(text, dbname)
    for name in ("load_new", "load_old"):
        pg.sql("DROP DATABASE %s WITH (FORCE)" % name)


def test_nothing_wrong(loaded):
    code, group = loaded[1]()
    assert code == 0 and not group["broken"]
    assert group["acked"] > 20 and group["unacked"] == 0
    assert [group[key] for key in ("errors", "lost", "duplicated", "foreign", "old_only")] == [0] * 5


@pytest.mark.parametrize("damage,dbname,found", [
    ("DELETE FROM pgshunt_load_row WHERE client = 1 AND number = 3", "load_new", "lost"),
    ("INSERT INTO pgshunt_load_row SELECT * FROM pgshunt_load_row WHERE client = 2 AND number = 2",
     "load_new", "duplicated"),
    ("INSERT INTO pgshunt_load_row VALUES (7, 1, 1000000)", "load_new", "foreign"),
    ("INSERT INTO pgshunt_load_row VALUES (7, 99, 1)", "load_new", "foreign"),
])
def test_damage_is_found(loaded, damage, dbname, found):
    loaded[2](damage, dbname)
    code, group = loaded[1]()
    assert code == 1 and group["broken"] and group[found] == 1


def test_a_write_behind_the_fence_is_found(loaded):
    """A row that only the old server has was written there after the move began."""
    loaded[2]("DELETE FROM pgshunt_load_row WHERE client = 3 AND number = 1", "load_new")
    loaded[2]("INSERT INTO pgshunt_load_row VALUES (7, 3, 1)", "load_old")
    code, group = loaded[1]()
    assert code == 1 and group["old_only"] == 1 and group["lost"] == 1


def test_errors_break_a_promise_unless_allowed(loaded):
    log, account, _ = loaded
    with open(log, "a", encoding="utf-8") as file:
        file.write("E 500000 1 57P01 terminating connection\n")
    code, group = account()
    assert code == 1 and group["by_sqlstate"]["57P01"]["count"] == 1
    assert account("--allow-errors")[0] == 0


def test_sigterm_ends_it_in_order(pg, loaded, tmp_path):
    log = str(tmp_path / "second.log")
    where = "host=%s port=%d user=postgres dbname=load_new" % (pg.host, pg.port)
    with subprocess.Popen([LOAD, "run", "--log", log, "--target", "x:%s:2" % where]) as load:
        try:
            load.wait(0.7)
            assert False, "it ended by itself"
        except subprocess.TimeoutExpired:
            load.terminate()
        assert load.wait(20) == 0
    done = subprocess.run([LOAD, "account", "--log", log, "--new", "x=" + where], timeout=60,
                          capture_output=True)
    assert done.returncode == 0
