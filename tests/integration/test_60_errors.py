# SPDX-License-Identifier: PostgreSQL
"""SHOW ERRORS: what clients were sent, by database and SQLSTATE."""
import psycopg
import pytest

import pgwire
from pgwire import SYNC, LoginError, bind, execute, parse, query
from proxy import ConsoleError

ROW = "DO $$ BEGIN RAISE EXCEPTION 'made up' USING ERRCODE = '%s'; END $$"


@pytest.fixture
def proxy(make_proxy):
    return make_proxy(workers=2)


def counted(proxy, database=""):
    return {(row["database"], row["sqlstate"]):
            (int(row["total"]), int(row["from_server"]), int(row["from_proxy"]))
            for row in proxy.command("SHOW ERRORS " + database)}


@pytest.mark.parametrize("pool_mode", ["session", "transaction"])
def test_a_refused_login_has_the_servers_words(make_proxy, pg, pool_mode):
    """As directly; programs look for them."""
    proxy = make_proxy(databases={"p1": "pg", "gone": {"server": "pg", "dbname": "no such"}},
                       pool_mode=pool_mode, start=False)
    proxy.secrets["nobody_hba"] = ""
    proxy.write()
    proxy.start()

    def refused(host, port, dbname, user):
        with pytest.raises(LoginError) as error, pgwire.Conn(host, port) as conn:
            conn.login(user, dbname)
        return {key: error.value.fields.get(key) for key in "SCM"}, error.value.fields.get("D")
    direct, _ = refused(pg.host, pg.port, "no such", "app")
    assert direct == {"S": "FATAL", "C": "3D000", "M": 'database "no such" does not exist'}
    for _ in range(2):
        assert refused(proxy.host, proxy.port, "gone", "app") == (direct, None)
    # Of the client's own login the server knows nothing.
    direct, _ = refused(pg.host, pg.port, "p1", "nobody_hba")
    assert direct["C"] == "28000"
    assert refused(proxy.host, proxy.port, "p1", "nobody_hba") == (
        direct, "The proxy could not get a server connection.")


def test_servers_errors(proxy):
    assert counted(proxy) == {}
    conns = [proxy.wire() for _ in range(4)]
    for conn in conns:
        conn.send(query("SELECT 1/0"))
        conn.ready("I")
        conn.send(query("SELECT 1; SELECT no_such_column"))
        conn.ready("I")
        # One error ends the whole of a pipeline up to Sync.
        conn.send(parse("SELECT 1/0") + bind() + execute() + execute() + SYNC)
        conn.ready("I")
    other = proxy.wire("p2")
    other.send(query("BEGIN"))
    other.ready("T")
    other.send(query("SELECT 1/0"))
    other.ready("E")
    other.send(query("SELECT 1"))
    other.ready("E")
    other.send(query("ROLLBACK"))
    other.ready("I")
    expected = {("p1", "22012"): (8, 8, 0), ("p1", "42703"): (4, 4, 0),
                ("p2", "22012"): (1, 1, 0), ("p2", "25P02"): (1, 1, 0)}
    assert counted(proxy) == expected
    assert counted(proxy, "p2") == {key: row for key, row in expected.items() if key[0] == "p2"}
    for conn in [*conns, other]:
        conn.close()


def test_the_proxys_own(make_proxy):
    proxy = make_proxy(workers=2, auth_type="scram-sha-256")
    for dbname, user, state in (("nosuch", "u_scram", "3D000"), ("p1", "u_scram", "28P01")):
        with pytest.raises(LoginError) as error:
            proxy.wire(dbname, user, "wrong" if state == "28P01" else "scram secret")
        assert error.value.sqlstate == state
    # p1 has had no client yet, so nothing of it is known to any worker.
    assert counted(proxy) == {(None, state): (1, 0, 1) for state in ("3D000", "28P01")}
    with proxy.wire("p1", "u_scram", "scram secret") as conn, proxy.console() as console:
        victim = [row for row in console("SHOW CLIENTS") if row["database"] == "p1"][0]
        console("KILL_CLIENT " + victim["id"])
        assert pgwire.errors(conn.rest())[0]["C"] == "57P01"
    assert counted(proxy)[("p1", "57P01")] == (1, 0, 1)


def test_bounds(proxy):
    """Servers can make SQLSTATEs up: beyond a bound they count together."""
    names = ["JK0%02d" % n for n in range(100)] + ["LL%03d" % n for n in range(200)]
    with proxy.connect(autocommit=True) as conn:
        for name in names:
            with pytest.raises(psycopg.Error) as error:
                conn.execute(ROW % name)
            assert error.value.sqlstate == name
        with pytest.raises(psycopg.Error):
            conn.execute(ROW % names[0])
    rows = counted(proxy)
    assert len(rows) == 256
    assert rows[("p1", names[0])] == (2, 2, 0)
    assert rows[("p1", "other")] == (len(names) - 255, len(names) - 255, 0)


def test_long_error(proxy):
    """An error that passes unread still says what it is."""
    with proxy.wire() as conn:
        conn.send(query("DO $$ BEGIN RAISE EXCEPTION USING MESSAGE = repeat('x', 300000), "
                        "ERRCODE = 'ABCDE'; END $$"))
        assert pgwire.errors(conn.ready("I"))[0]["C"] == "ABCDE"
    assert sum(row[0] for row in counted(proxy).values()) == 1
    assert set(counted(proxy)) <= {("p1", "ABCDE"), ("p1", "other")}


def test_name_of_a_database(proxy):
    with pytest.raises(ConsoleError) as error:
        proxy.command("SHOW ERRORS nosuch")
    assert error.value.sqlstate == "3D000"
