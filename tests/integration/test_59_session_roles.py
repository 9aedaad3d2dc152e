# SPDX-License-Identifier: PostgreSQL
"""Role and session authorization of a session that goes along, with roles that may do different
things: each has afterwards what it could set, under whichever of them it set it."""
import pytest

from pgwire import SYNC, bind, errors, execute, parse, rows
from proxy import ADMIN, ADMIN_PASSWORD

ROLES = """
CREATE ROLE roamer LOGIN;
CREATE ROLE clerk;
CREATE ROLE boss SUPERUSER;
GRANT clerk, boss TO roamer;
"""
TABLES = """
CREATE SCHEMA clerk AUTHORIZATION clerk;
CREATE TABLE clerk.desk AS SELECT 'of the clerk' AS what;
ALTER TABLE clerk.desk OWNER TO clerk;
CREATE SCHEMA back AUTHORIZATION roamer;
CREATE TABLE back.room AS SELECT 'of the roamer' AS what;
ALTER TABLE back.room OWNER TO roamer;
"""
TIMEOUT = "log_min_duration_statement"  # for superusers only


@pytest.fixture
def proxy(make_proxy, make_cluster):
    clusters = {}
    for name in ("pg", "other"):
        cluster = clusters[name] = make_cluster(name)
        cluster.sql(ROLES)
        cluster.sql("CREATE DATABASE p2")
        cluster.sql(TABLES, "p2")
    return make_proxy(clusters, {"p2": "pg"}, pool_mode="session",
                      secrets={"roamer": "", "postgres": "", ADMIN: ADMIN_PASSWORD})


def swap(proxy):
    with proxy.console() as console:
        console("PREPARE SWAP p2 TO other")
        epoch = console("HOLD p2 LEASE 60s DRAIN 20s")[0]["epoch"]
        console("SWAP p2 TO other EPOCH %s FORCE" % epoch)
        console("RELEASE p2 EPOCH %s" % epoch)


def run(conn, *texts):
    for text in texts:
        assert not errors(conn.query(text)), text


def who(conn):
    return conn.value("SELECT concat_ws(' ', session_user, current_user)")


# who logs in; what it does; who it is afterwards, and after RESET ROLE; whether each may set TIMEOUT
CASES = {
    "role": ("roamer", ["SET ROLE clerk"], "roamer clerk", False, "roamer roamer", False),
    "superuser by role": ("roamer", ["SET ROLE boss"], "roamer boss", True, "roamer roamer", False),
    "superuser as somebody": ("postgres", ["SET %s = '1h'" % TIMEOUT, "SET ROLE roamer"],
                              "postgres roamer", False, "postgres postgres", True),
    "authorization": ("postgres", ["SET %s = '1h'" % TIMEOUT, "SET SESSION AUTHORIZATION roamer"],
                      "roamer roamer", False, "roamer roamer", False),
    "both": ("postgres", ["SET SESSION AUTHORIZATION roamer", "SET ROLE clerk"],
             "roamer clerk", False, "roamer roamer", False),
    "both, superuser again": ("postgres", ["SET SESSION AUTHORIZATION roamer", "SET ROLE boss",
                                           "SET %s = '1h'" % TIMEOUT],
                              "roamer boss", True, "roamer roamer", False),
}


@pytest.mark.parametrize("name", CASES)
def test_roles_go_along(proxy, name):
    user, texts, now, may, later, may_later = CASES[name]
    with proxy.wire("p2", user=user) as conn:
        run(conn, "SET work_mem = '7MB'", 'SET search_path = "$user", public',
            "SET default_transaction_read_only = on", *texts)
        run(conn, "SET lock_timeout = '5s'", "SET app.x = 'y'")
        before = conn.value("SHOW " + TIMEOUT)
        swap(proxy)
        assert conn.value("SHOW cluster_name") == "other"
        assert who(conn) == now
        assert conn.value("SHOW is_superuser") == conn.params["is_superuser"] == ("on" if may else "off")
        assert conn.value("SHOW " + TIMEOUT) == before
        for setting, value in (("work_mem", "7MB"), ("search_path", '"$user", public'), ("app.x", "y"),
                               ("default_transaction_read_only", "on"), ("lock_timeout", "5s")):
            assert conn.value("SHOW " + setting) == value
        assert bool(errors(conn.query("SET %s = '2h'" % TIMEOUT))) is not may
        run(conn, "RESET ROLE")
        assert who(conn) == later
        assert bool(errors(conn.query("SET %s = '3h'" % TIMEOUT))) is not may_later
        if user == "postgres":
            run(conn, "RESET SESSION AUTHORIZATION", "SET %s = '4h'" % TIMEOUT)
            assert who(conn) == "postgres postgres"


def test_statements_are_prepared_under_the_role(proxy):
    """"$user" leads to a schema that only the role has."""
    with proxy.wire("p2", user="roamer") as conn:
        run(conn, "SET ROLE clerk", "PREPARE desk AS SELECT what FROM desk")
        conn.send(parse("SELECT what FROM desk", "named") + SYNC)
        assert not errors(conn.ready("I"))
        swap(proxy)
        assert conn.value("SHOW cluster_name") == "other"
        assert conn.value("EXECUTE desk") == "of the clerk"
        conn.send(bind([], "named") + execute() + SYNC)
        assert rows(conn.ready("I")) == [["of the clerk"]]


@pytest.mark.parametrize("texts, back, why", [
    (["SET ROLE boss", "SET %s = '1h'" % TIMEOUT, "RESET ROLE"],
     ["SET ROLE boss", "RESET " + TIMEOUT, "RESET ROLE"], TIMEOUT),
    (["PREPARE room AS SELECT what FROM back.room", "SET ROLE clerk"], ["RESET ROLE"],
     "permission denied for schema back")],
    ids=["a setting of the role's", "a statement of the login's"])
def test_what_the_order_does_not_allow_pins(proxy, texts, back, why):
    """It stays where it is, and is never given something else."""
    with proxy.wire("p2", user="roamer") as conn:
        run(conn, *texts)
        before = who(conn), conn.value("SHOW " + TIMEOUT), conn.value("SELECT pg_backend_pid()")
        proxy.command("PREPARE SWAP p2 TO other")
        row, = proxy.command("SHOW SESSIONS p2")
        assert row["class"] == "pinned" and why in row["why"], row
        assert (who(conn), conn.value("SHOW " + TIMEOUT), conn.value("SELECT pg_backend_pid()")) == before
        run(conn, *back)
        swap(proxy)
        assert conn.value("SHOW cluster_name") == "other"
