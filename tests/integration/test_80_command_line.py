# SPDX-License-Identifier: PostgreSQL
"""Help, manual pages and completion come from the tables; --dry-run changes nothing."""
import glob
import json
import os
import re
import shlex
import subprocess

import pytest

from pgwire import wait_for
from proxy import program
from scene import DONE
from servers import SLOW

REPO = os.path.join(os.path.dirname(__file__), "..", "..")


def rows(name, macro):
    with open(os.path.join(REPO, "migrate", name)) as file:
        return re.findall(r"^%s\(\"?(\w+)\"?" % macro, file.read(), re.MULTILINE)


def out(*argv, **kwargs):
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60, **kwargs).stdout


def test_help_of_every_command():
    everything = out(program("pgshunt"), "--help")
    for command in rows("commands.def", "COMMAND"):
        assert re.search(r"^  %s\b.*\n +\S" % command, everything, re.MULTILINE)
        text = out(program("pgshunt"), command, "--help")
        assert text.startswith("Usage: pgshunt [--config FILE] %s" % command)
        for option in ("--config FILE", "--json", "--help"):
            assert option in text
        assert "\n\n\n" not in text


@pytest.mark.parametrize("name", ["pgshunt", "pgshuntd"])
def test_manual_page(name, tmp_path):
    """It has every command, option, phase and exit code, or every setting; man has no complaint."""
    page = tmp_path / (name + ".man")
    page.write_text(out(program(name), "--man"))
    result = subprocess.run(["groff", "-man", "-Tutf8", "-ww", str(page)], capture_output=True,
                            text=True, timeout=60, check=True)
    assert result.stderr == ""
    text = re.sub(r"\x1b\[[0-9;]*m|.\x08", "", result.stdout).replace("\u2010", "-")
    if name == "pgshunt":
        words = rows("commands.def", "COMMAND") + ["--dry-run", "--exact", "fence source"]
    else:
        words = ["hold_wait_timeout", "mover.proxies", "journal_directory", "PREPARE SWAP",
                 "SHOW POOLS"]
    for word in words:
        assert word in text, word


def complete(config, *words):
    script = """
source /dev/stdin <<< "$(%s --completion)"
pgshunt() { %s "$@"; }
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _pgshunt; printf '%%s\\n' "${COMPREPLY[@]}"
""" % (program("pgshunt"), program("pgshunt"))
    words = ("pgshunt", "--config", config) + words
    return set(out("bash", "-c", script, "bash", *words).splitlines())


def test_completion(make_proxy, pg):
    strange = "odd $(exit 3) \"'.*"
    config = make_proxy({"pg1": pg}, {"p1": "pg1", "p2": "pg1", strange: "pg1"},
                        start=False).config_path
    assert {"plan", "move", "cleanup", "report"} <= complete(config, "")
    assert complete(config, "mo") == {"move"}
    assert {"p1", "p2", "--to", "--verify"} <= complete(config, "move", "")
    assert complete(config, "move", "p2", "--to", "") == {"pg1"}
    assert complete(config, "standby", "--from", "") == {"pg1"}
    # A name is one word whatever is in it, and is not run.
    (word,) = complete(config, "move", "odd")
    assert shlex.split(word) == [strange]
    assert complete(config, "move", word[:6]) == {word}
    assert "--exact" in complete(config, "counts", "--e")
    assert "--verify" not in complete(config, "counts", "")


def test_dry_runs(make_scene):
    scene = make_scene(mover={"lease": "60s"})
    result = scene.run("move", "p2", "--to", "pg2", "--dry-run")
    assert result.returncode == DONE and "steps:" in result.stdout
    result = scene.run("rehearse", "p2", "--to", "pg2", "--dry-run")
    assert result.returncode == DONE and "not done: --dry-run" in result.stdout
    assert "go" not in result.stdout.splitlines()
    scene.check_on_pg1()
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.barrier.outcome=kill")
    mover.wait(60 * SLOW)
    for command in ("resume", "abort"):
        result = scene.run(command, "--dry-run")
        assert result.returncode == DONE and "not done" in result.stdout
        assert scene.refuses(scene.pg1, "p2")
    assert scene.run("abort").returncode == DONE
    wait_for(lambda: scene.proxy.held()["state"] == "open", what="the release")
    scene.check_on_pg1()


def test_few_files_may_be_open(make_scene):
    """It takes as many as it may have: a move of many shards needs a session for each at each proxy."""
    scene = make_scene(mover={"validate_seconds": 0})
    result = subprocess.run(["prlimit", "--nofile=8:4096", *scene.argv("move", "p2", "--to", "pg2")],
                            capture_output=True, text=True, timeout=60 * SLOW, check=False)
    assert result.returncode == DONE, result.stdout + result.stderr
    scene.check_on_pg2()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_files(make_scene, closed):
    """What is written to them gets neither into the journal nor to a server, a client or another process."""
    scene = make_scene(mover={"validate_seconds": 0})
    shell = ["sh", "-c", 'exec "$@" ' + closed, "sh"]
    scene.proxy.stop()
    scene.proxy.process = subprocess.Popen([*shell, program("pgshuntd"), "--config", scene.proxy.config_path])
    wait_for(scene.proxy.listening, 20 * SLOW, "pgshuntd to listen")
    with scene.proxy.wire("p2") as conn:
        conn.value("SELECT 1")
        result = subprocess.run([*shell, *scene.argv("move", "p2", "--to", "pg2")], timeout=60 * SLOW, check=False)
        assert result.returncode == DONE
        assert conn.value("SHOW cluster_name") == "pg2"
    for path in glob.glob(os.path.join(scene.folder, "moves", "*", "journal.jsonl")):
        with open(path) as journal:
            assert [json.loads(line)["kind"] for line in journal]
    scene.check_on_pg2()
