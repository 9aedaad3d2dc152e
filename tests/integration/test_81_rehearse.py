# SPDX-License-Identifier: PostgreSQL
"""pgshunt rehearse: measures, predicts, decides, changes nothing; the move is compared with it."""
import glob
import json
import os

from scene import DONE, REFUSED

def rehearse(scene, code):
    result = scene.run("rehearse", "p2", "--to", "pg2", "--json")
    assert result.returncode == code, result.stdout + result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    return [event for event in events if event["event"] == "rehearsal"][0]

def test_rehearsal_and_move(make_scene):
    scene = make_scene(proxies=2)
    # On a slow machine the move must not be longer than any limit; the figures are not judged.
    scene.configure(rehearse_samples=3, rehearse_limit="1h", rehearse_hold="5s")
    with scene.proxy.wire("p2") as conn, scene.proxies[1].wire("p2") as other:
        conn.value("SELECT 1")
        other.value("SELECT 1")
        found = rehearse(scene, DONE)
        assert found["go"] is True and found["reasons"] == ""
        assert found["drain"]["samples"] == 3 and found["undrained"] == 0
        assert found["replay"]["samples"] == 20 and found["replay"]["p50_ms"] > 0
        assert found["sessions"] == 2 and found["connections"] == 2
        assert 0 < found["hold_low_ms"] <= found["hold_high_ms"]
        assert found["promotion_known"] is False
        parts = found["parts"].values()
        assert abs(sum(part["low_ms"] for part in parts) - found["hold_low_ms"]) < 1
        # Nothing is left of it.
        scene.check_on_pg1()
        assert conn.value("SHOW cluster_name") == "pg1"
        # Nobody is held with a hold of nothing.
        epoch = scene.proxy.route()["epoch"]
        scene.configure(rehearse_hold="0")
        assert rehearse(scene, DONE)["held"] is False
        assert scene.proxy.route()["epoch"] == epoch
        scene.move()
        assert conn.value("SHOW cluster_name") == other.value("SHOW cluster_name") == "pg2"
    report = glob.glob(os.path.join(scene.mover["journal_directory"], "*", "report.json"))[0]
    with open(report) as file:
        report = json.load(file)
    assert report["prediction"]["hold_high_ms"] > 0
    assert report["prediction"]["met"] == (report["hold_ms"] <=
                                           report["prediction"]["hold_high_ms"])

def test_no_go(make_scene):
    scene = make_scene()
    scene.configure(rehearse_samples=2, rehearse_limit="1h", rehearse_hold="50ms",
                    hold_timeout="300ms")
    # Between transactions that are too long a client is held, and goes on.
    with scene.proxy.wire("p2") as busy, scene.proxy.wire("p2") as conn:
        busy.query("BEGIN")
        busy.value("SELECT 1")
        found = rehearse(scene, REFUSED)
        assert found["go"] is False and found["undrained"] == 2 and "did not end" in found["reasons"]
        assert conn.value("SHOW cluster_name") == "pg1"
        scene.configure(rehearse_hold="0")
        found = rehearse(scene, REFUSED)
        assert found["undrained"] == 2
        assert busy.query("COMMIT")[-1].body == b"I"
        scene.configure(rehearse_limit="1ms")
        found = rehearse(scene, REFUSED)
        assert found["undrained"] == 0 and "rehearse_limit" in found["reasons"]
    scene.check_on_pg1()
    # Where no proxy can be asked, the source is.
    scene.configure(proxies={}, rehearse_limit="1h", hold_timeout="200ms")
    with scene.pg1.connect("p2") as direct:
        assert rehearse(scene, DONE)["undrained"] == 0
        direct.execute("SELECT 1")
        found = rehearse(scene, REFUSED)
        assert found["undrained"] == 2 and found["held"] is False
    # A check that refuses comes before any measuring.
    scene.pg1.sql("CREATE UNLOGGED TABLE fast (a int)", "p2")
    result = scene.run("rehearse", "p2", "--to", "pg2")
    assert result.returncode == REFUSED and "rehearsal:" not in result.stdout
