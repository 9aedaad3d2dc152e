# SPDX-License-Identifier: PostgreSQL
"""The report: a page that stands alone, and JSON."""
import glob
import html.parser
import json
import os
import re
import time

import pytest

from scene import DONE, UNDONE, USAGE
from servers import VERSION

VOID = {"meta", "tr", "th", "td", "line", "rect"}


class Page(html.parser.HTMLParser):
    """Checks that what is opened is closed, and keeps the text."""

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.tags = []
        self.words = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not {"src", "href"} & {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def page(scene):
    [path] = glob.glob(scene.mover["journal_directory"] + "/*/report.html")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    assert not re.search(r"https?://|@import|url\(", text)
    return path, Page(text)


@pytest.mark.threads
def test_report_of_a_move_under_load(make_scene):
    scene = make_scene(mover={"validate_seconds": 1})
    scene.load()
    result = scene.run("move", "p2", "--to", "pg2", "--verify",
                       fault="journal.promote.outcome=sleep:1500")
    assert result.returncode == DONE
    scene.account()
    path, found = page(scene)
    text = " ".join(found.words)
    # Phases, throughput, latency.
    assert found.tags.count("svg") >= 3 and found.tags.count("polyline") >= 4
    with open(os.path.join(os.path.dirname(path), "samples.jsonl")) as file:
        samples = [json.loads(line) for line in file]
    report = json.load(open(os.path.join(os.path.dirname(path), "report.json")))
    assert {s["db"] for s in samples if "x" in s} == {"p1", "p2"}
    assert {s["server"] for s in samples if "c" in s} == {"pg1", "pg2"}
    # Nobody is asked while clients are held; what was asked before is answered or given up soon.
    assert report["held_to"] - report["held_from"] > 1500000
    assert not [s for s in samples if report["held_from"] + 700000 < s["t"] < report["held_to"]]
    assert [s for s in samples if s["t"] < report["held_from"]]
    assert [s for s in samples if s["t"] > report["held_to"]]
    for word in (report["barrier"], report["switch_point"], report["system_identifier"],
                 "public.items", "equal", "move p2 --to pg2 --verify"):
        assert word in text, word
    assert report["longest_stall_ms"] > 0 and report["versions"][0]["version"].startswith(VERSION)
    # The same page again, from the files alone.
    before = os.stat(path).st_mtime_ns
    scene.pg2.stop()
    result = scene.run("report", "--json")
    event = json.loads(result.stdout)
    assert result.returncode == DONE and event["comparison"]["state"] == "equal"
    assert event["hold_ms"] == report["hold_ms"]
    assert os.stat(path).st_mtime_ns > before
    assert path in scene.run("report").stdout
    assert not glob.glob(scene.mover["journal_directory"] + "/.samples")


def test_report_of_what_failed(make_scene):
    scene = make_scene()
    assert scene.run("report").returncode == USAGE
    result = scene.run("move", "p2", "--to", "pg2", fault="journal.barrier.outcome=fail")
    assert result.returncode == UNDONE
    _, found = page(scene)
    assert "the journal could not be written" in " ".join(found.words)
    assert "undone" in scene.run("report").stdout


def test_problem_is_said_once(make_scene):
    """A proxy that is gone after the promotion, and a resume: one line each."""
    scene = make_scene(proxies=2)
    mover = scene.background("move", "p2", "--to", "pg2", fault="journal.promote.outcome=sleep:1500")
    while scene.pg2.value("SELECT pg_is_in_recovery()"):
        time.sleep(0.02)
    scene.proxies[1].process.kill()
    scene.proxies[1].process.wait()
    assert mover.wait(90) == 5
    with open(os.path.join(scene.folder, "mover.log")) as file:
        text = file.read()
    problems = text.split("to be repaired:\n")[1].split("\n  journal")[0].splitlines()
    assert problems and len(problems) == len(set(problems)) and "" not in problems
    scene.proxies[1].start()
    result = scene.run("resume")
    assert result.returncode == DONE and "clients held" not in result.stdout
    _, found = page(scene)
    assert "resume" in " ".join(found.words)
