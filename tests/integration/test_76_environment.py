# SPDX-License-Identifier: PostgreSQL
"""plan and check from an environment of commcare-cloud alone; the forms of its inventory; who else
names the shard in its postgresql.yml."""
import os
import subprocess

import pytest

from proxy import program
from scene import DONE, REFUSED, USAGE
from servers import PgBouncer

YAML = """DEFAULT_POSTGRESQL_HOST: pg1
REPORTING_DATABASES: {ucr: ucr, forms: {READ: [[p2, 1]], WRITE: p1}}
LOAD_BALANCED_APPS:
  form_processing: [[p1, 5], [p2_standby, 5]]
dbs:
  main: {}
  ucr: {}
  form_processing:
    proxy: {host: pg1}
    partitions:
      p1: {shards: [0, 1]}
      p2: {shards: [2, 3], host: pg1, pgbouncer_hosts: [web], pgbouncer_endpoint: web}
  standby:
    - {django_alias: p2_standby, master: p2, name: commcarehq_p2, host: pg2}
"""
# The same three machines in each form that commcare-cloud reads.
INI = """[pg1]
10.0.0.1 hostname=pg1
[pg2]
10.0.0.2
[web]
10.0.0.3 hostname='web 1' pgbouncer_processes=2
[postgresql:children]
pg1
[pg_standby:children]
pg2
[shard_dbs:vars]
pgbouncer_default_pool=400
"""
CSV = """# who is where
hostname,host_address,group 1,group 2,var: hostname,L.var: slots,I.var: pgbouncer_processes
pg1,10.0.0.1,postgresql, shard_dbs,pg1,"[""standby0"", ""spare""]",
pg2,10.0.0.2,pg_standby,,,,
,,,,,,
hostname,host_address,I.var: pgbouncer_processes
web,10.0.0.3,2

group,var,val,type
shard_dbs,pgbouncer_default_pool,400,I
"""
YML = """all:
  children:
    postgresql: {children: {pg1: {hosts: {10.0.0.1: {hostname: pg1}}}}}
    pg_standby:
      children:
        pg2:
          hosts:
            10.0.0.2:
    web:
      hosts:
        10.0.0.3: {pgbouncer_processes: 2}
"""


def write(folder, **files):
    os.makedirs(folder, exist_ok=True)
    for name, text in files.items():
        path = os.path.join(folder, name.replace("__", "/").replace("_ext_", "."))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as out:
            out.write(text)
    return str(folder)


def pgshunt(*args):
    return subprocess.run([program("pgshunt"), *args], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("form", ["ini", "csv", "yml", "directory"])
def test_forms_of_the_inventory(tmp_path, form):
    """Whatever the form, the configuration is the same."""
    files = {"ini": {"inventory_ext_ini": INI}, "csv": {"inventory_ext_csv": CSV},
             "yml": {"inventory_ext_yml": YML},
             "directory": {"inventory__hosts_ext_csv": CSV.replace("web,10.0.0.3,2", ""),
                           "inventory__more_ext_ini": "[web]\n10.0.0.3 pgbouncer_processes=2\n",
                           "inventory__readme_ext_md": "not one of them"}}[form]
    folder = write(tmp_path, postgresql_ext_yml=YAML, **files)
    result = pgshunt("import-commcare", folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout == """# From the environment of commcare-cloud in %s
servers:
  "pg1": {host: "10.0.0.1", port: 5432}
  "pg2": {host: "10.0.0.2", port: 5432}
databases:
  "commcarehq": {server: "pg1", shard: "main"}
  "commcarehq_ucr": {server: "pg1", shard: "ucr"}
  "commcarehq_proxy": {server: "pg1", shard: "proxy"}
  "commcarehq_p1": {server: "pg1", shard: "p1"}
  "commcarehq_p2": {server: "pg1", shard: "p2"}
mover:
  commcare_environment: "%s"
  pgbouncers:
    "pg1": {host: "10.0.0.1", port: 6432, command: "ssh 10.0.0.1 sudo"}
    "web": {host: "10.0.0.3", port: 6432, processes: 2, command: "ssh 10.0.0.3 sudo"}
  plproxy:
    proxy: {host: "10.0.0.1", port: 5432, dbname: "commcarehq_proxy", cluster: commcarehq}
""" % (folder, os.path.realpath(folder))


@pytest.mark.parametrize("files, words", [
    ({"inventory_ext_csv": CSV.replace("pg2,10.0.0.2", "pg 2,10.0.0.2")}, ["inventory.csv", "no name"]),
    ({"inventory_ext_yml": "- pg1\n"}, ["inventory.yml", "expected groups"]),
    ({"inventory__hosts_ext_ini": "[pg1\n"}, ["inventory/hosts.ini:1", "[group]"]),
    ({}, ["inventory.csv", "no inventory"]),
    ({"inventory_ext_ini": INI, "postgresql_ext_yml": YAML.replace("master: p2", "master: p9")},
     ["postgresql.yml:14", "no database p9"]),
    ({"inventory_ext_ini": INI, "postgresql_ext_yml": YAML.replace("WRITE: p1", "WRITE: forms")},
     ["postgresql.yml:2", "no database forms"]),
])
def test_what_is_wrong_is_named(tmp_path, files, words):
    folder = write(tmp_path, **{"postgresql_ext_yml": YAML, **files})
    for result in (pgshunt("import-commcare", folder),
                   pgshunt("plan", "p2", "--to", "pg2", "--environment", folder)):
        assert result.returncode == USAGE
        assert all(word in result.stderr for word in words), result.stderr


def test_plan_without_a_configuration(make_scene, tmp_path):
    """Servers, pgbouncer and PL/Proxy cluster are found by the environment; nothing is changed."""
    scene = make_scene(alone=True)
    bouncer = PgBouncer(scene.folder, "pgbouncer", [(name, "127.0.0.1", scene.pg1.port, name)
                                                    for name in ("p1", "p2")])
    yaml = """DEFAULT_POSTGRESQL_HOST: pg1
host_settings: {pg1: {port: %d}}
REPORTING_DATABASES: {forms: p2}
dbs:
  custom:
    - {django_alias: p1, name: p1}
    - django_alias: p2
      name: p2
      host: pg1
  standby:
    - {django_alias: p2_standby, master: p2, name: p2, host: pg2}
""" % bouncer.port
    inventory = ("[pg1]\n127.0.0.1 postgresql_port=%d\n[pg2]\nlocalhost postgresql_port=%d\n"
                 "[postgresql:children]\npg1\n[pg_standby:children]\npg2\n"
                 % (scene.pg1.port, scene.pg2.port))
    folder = write(tmp_path, postgresql_ext_yml=yaml, inventory_ext_ini=inventory)
    try:
        result = pgshunt("plan", "p2", "--to", "pg2", "--environment", folder)
        assert result.returncode == DONE, result.stdout + result.stderr
        lines = [line.strip() for line in result.stdout.splitlines()]
        assert "+      host: pg2" in lines and "-      host: pg1" in lines
        assert "-p2 = host=127.0.0.1 port=%d dbname=p2" % scene.pg1.port in lines
        assert "+p2 = host=localhost port=%d dbname=p2" % scene.pg2.port in lines
        # Who reads it elsewhere.
        assert any("REPORTING_DATABASES forms reads p2" in line for line in lines)
        assert any("the standby p2_standby on pg2 reads p2" in line for line in lines)
        # All checks as well.
        check = pgshunt("check", "p2", "--to", "pg2", "--environment", folder)
        assert check.returncode == DONE and "pass" in check.stdout
        assert bouncer.database("p2")["port"] == scene.pg1.port
        assert pgshunt("move", "p2", "--to", "pg2", "--environment", folder).returncode == USAGE
        assert pgshunt("plan", "p2", "--to", "pg1", "--environment", folder).returncode == REFUSED
    finally:
        bouncer.stop()
    scene.check_on_pg1()
