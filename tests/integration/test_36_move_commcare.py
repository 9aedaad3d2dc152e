# SPDX-License-Identifier: PostgreSQL
"""A move with an environment of commcare-cloud: postgresql.yml is edited with it."""
import glob
import os

from scene import DONE, REFUSED, UNDONE

INVENTORY = "[pg1]\ndb1 hostname=pg1\n[pg2]\ndb2 hostname=pg2\n[postgresql:children]\npg1\npg2\n"
YAML = """# ours
DEFAULT_POSTGRESQL_HOST: pg1
dbs:
  main: {}          # ünïcode
  custom:
    - django_alias: p1
      name: p1
    - django_alias: p2
      name: p2
      host: pg1     # to be moved
"""


def environment(scene, yaml=YAML, **mover):
    folder = os.path.join(scene.folder, "environment")
    os.makedirs(folder, exist_ok=True)
    for name, text in (("postgresql.yml", yaml), ("inventory.ini", INVENTORY)):
        with open(os.path.join(folder, name), "w") as out:
            out.write(text)
    scene.configure(commcare_environment=folder, **mover)
    return os.path.join(folder, "postgresql.yml")


def read(path):
    with open(path) as file:
        return file.read()


def test_postgresql_yml(make_scene):
    scene = make_scene()
    path = environment(scene)
    result = scene.run("plan", "p2", "--to", "pg2")
    assert result.returncode == DONE
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert "-      host: pg1     # to be moved" in lines
    assert "+      host: pg2     # to be moved" in lines
    assert any("its endpoint becomes db2:6432" in line for line in lines)
    # Undone: nothing of it has changed or is left over.
    assert scene.run("move", "p2", "--to", "pg2",
                     fault="journal.barrier.outcome=fail").returncode == UNDONE
    assert read(path) == YAML and os.listdir(os.path.dirname(path)).count("postgresql.yml") == 1
    assert len(os.listdir(os.path.dirname(path))) == 2
    # Moved, with the endpoint left where it is.
    scene.configure(commcare_transitional_endpoint=True)
    result = scene.move()
    assert "its endpoint stays db1:6432" in result.stdout
    assert read(path) == YAML.replace(
        "host: pg1     #",
        "pgbouncer_hosts: [pg2, pg1]\n      pgbouncer_endpoint: pg1\n      host: pg2     #")
    assert [read(old) for old in glob.glob(path + ".*.bak")] == [YAML]
    scene.check_on_pg2()


def test_file_that_disagrees(make_scene):
    scene = make_scene()
    environment(scene, YAML.replace("host: pg1 ", "host: pg3 "))
    assert "pg3" in scene.move(REFUSED).stderr
    environment(scene, YAML.replace("name: p2", "nmae: p2"))
    assert "unknown key nmae" in scene.move(REFUSED).stderr
    path = environment(scene, YAML.replace("host: pg1 ", "host: pg2 "))
    before = read(path)
    assert "nothing to change" in scene.move().stdout
    assert read(path) == before


def test_file_that_changes_meanwhile(make_scene):
    """Somebody's edit is not lost: the move goes on and says what is left to do; resume does it."""
    scene = make_scene()
    path = environment(scene)
    edit = "sed -i 's/# ours/# theirs/' " + path
    scene.configure(hooks={"edit": {"before": "promote", "command": edit}})
    result = scene.run("move", "p2", "--to", "pg2")
    assert result.returncode == 5 and "was changed by somebody else" in result.stderr
    assert read(path) == YAML.replace("# ours", "# theirs")
    scene.configure(hooks={})
    assert scene.run("resume").returncode == DONE
    assert read(path) == YAML.replace("# ours", "# theirs").replace("host: pg1 ", "host: pg2 ")
    scene.check_on_pg2()
