# SPDX-License-Identifier: PostgreSQL
"""What the report says of the clients: errors by SQLSTATE, how long requests waited, and figures of
pgbouncers where there is no proxy."""
import glob
import json
import threading
import time

import pytest

from scene import DONE
from servers import PgBouncer


def report(scene):
    [path] = glob.glob(scene.mover["journal_directory"] + "/*/report.json")
    with open(path) as file, open(path.replace(".json", ".html")) as html:
        return json.load(file), html.read()


def test_no_errors_and_how_long_they_waited(make_scene):
    scene = make_scene(proxies=2)
    scene.load()
    # Long enough that everybody waits.
    result = scene.move(fault="journal.fence.outcome=sleep:300")
    scene.account()
    said, page = report(scene)
    assert said["errors_total"] == 0 and said["errors_unknown_proxies"] == 0
    assert not [error for error in said["errors"] if error["moved"]]
    assert "errors that clients of the shards were sent: none" in result.stdout
    waits = said["waits"]
    assert sum(wait["requests"] for wait in waits) == said["clients_held"] > 5
    assert "How long requests waited" in page and "Errors that clients were sent" in page
    limits = [wait.get("up_to_ms", 10 ** 9) for wait in waits]
    assert limits == sorted(limits) and limits[-1] > 300
    assert "requests waited: " in result.stdout


@pytest.mark.threads
def test_errors_are_counted(make_scene):
    """Those of the time of the move, by database and SQLSTATE, and not those before."""
    scene = make_scene(mover={"validate_seconds": 1})
    stop = threading.Event()

    def work(dbname, query):
        with scene.proxy.wire(dbname) as conn:
            while not stop.is_set():
                conn.query(query)
                time.sleep(0.02)
    with scene.proxy.wire("p2") as conn:
        conn.query("SELECT * FROM nowhere")
    threads = [threading.Thread(target=work, args=args)
               for args in (("p2", "SELECT 1/0"), ("p1", "SELECT 'a'::int"))]
    for thread in threads:
        thread.start()
    result = scene.move()
    stop.set()
    for thread in threads:
        thread.join(60)
    said, page = report(scene)
    found = {(error["database"], error["sqlstate"]): error for error in said["errors"]}
    assert set(found) == {("p2", "22012"), ("p1", "22P02")}
    assert said["errors_total"] == found["p2", "22012"]["count"] > 0
    assert found["p2", "22012"]["moved"] and found["p2", "22012"]["from_proxy"] == 0
    assert not found["p1", "22P02"]["moved"]
    assert "22012" in page and "of 22012 (p2, proxy a)" in result.stdout


def test_figures_of_a_pgbouncer(make_scene, folder):
    """Throughput and latency where nobody has a proxy."""
    scene = make_scene(alone=True, mover={"validate_seconds": 1})
    bouncer = PgBouncer(scene.folder, "pgbouncer", [(name, "127.0.0.1", scene.pg1.port, name)
                                                    for name in ("p1", "p2")])
    try:
        scene.configure(pgbouncers={"web": {
            "host": "127.0.0.1", "port": bouncer.port, "ini": [bouncer.ini],
            "unix_socket_directories": [bouncer.folder]}})
        scene.load(ports=[bouncer.port], modes=("simple", "extended"))
        time.sleep(1)
        assert scene.run("move", "p2", "--to", "pg2").returncode == DONE
        scene.account()
    finally:
        bouncer.stop()
    [path] = glob.glob(scene.mover["journal_directory"] + "/*/samples.jsonl")
    with open(path) as file:
        samples = [json.loads(line) for line in file]
    for name in ("p1", "p2"):
        counts = [sample["x"] for sample in samples if sample["db"] == name and "x" in sample]
        assert len(counts) > 5 and counts[-1] > counts[0]
    _, page = report(scene)
    assert "Throughput" in page and "Latency" in page and page.count("<polyline") >= 4
