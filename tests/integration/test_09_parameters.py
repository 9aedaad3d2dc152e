# SPDX-License-Identifier: PostgreSQL
"""Transaction pooling: every client keeps its own settings on servers that it shares."""
import pytest

import pgwire
from pgwire import SYNC, bind, errors, execute, parse, query, rows, startup


@pytest.fixture
def proxy(make_proxy):
    return make_proxy(pool_size=1)


CLIENTS = [
    {"TimeZone": "Asia/Tokyo", "DateStyle": "ISO, DMY", "client_encoding": "UTF8",
     "application_name": "one"},
    {"TimeZone": "UTC", "DateStyle": "German, DMY", "client_encoding": "LATIN1",
     "application_name": "two"},
    {"TimeZone": "America/New_York", "DateStyle": "SQL, MDY", "client_encoding": "WIN1252",
     "application_name": "it's \"three\" \\ "},
]


def test_clients_on_one_server(proxy):
    conns = [proxy.wire(**params) for params in CLIENTS]
    pids = set()
    for _ in range(3):
        for conn, params in zip(conns, CLIENTS):
            for name, value in params.items():
                assert conn.value("SHOW " + name) == value
            pids.add(conn.value("SELECT pg_backend_pid()"))
    assert len(pids) == 1
    for conn in conns:
        conn.close()


def test_set_is_kept_and_not_given_to_others(proxy):
    with proxy.wire() as one, proxy.wire() as two:
        messages = one.query("SET TimeZone = 'Asia/Kolkata'")
        assert one.params["TimeZone"] == "Asia/Kolkata"
        assert any(m.kind == "S" for m in messages)
        one.query("SET application_name = 'changed'; SET DateStyle = 'SQL, DMY'")
        default = two.value("SHOW TimeZone")
        assert default != "Asia/Kolkata"
        assert two.value("SHOW application_name") == ""
        assert one.value("SHOW TimeZone") == "Asia/Kolkata"
        assert one.value("SHOW application_name") == "changed"
        assert one.value("SELECT date '2026-12-31'") == "31/12/2026"
        assert two.value("SELECT date '2026-12-31'") == "2026-12-31"
        one.query("RESET TimeZone")
        assert one.value("SHOW TimeZone") == default


def test_client_is_not_told_about_others(proxy):
    """ParameterStatus comes for a client's own changes only."""
    with proxy.wire(TimeZone="UTC") as one, proxy.wire(TimeZone="Asia/Tokyo") as two:
        for _ in range(3):
            for conn in (one, two):
                assert [m for m in conn.query("SELECT 1") if m.kind == "S"] == []
        assert one.params["TimeZone"] == "UTC" and two.params["TimeZone"] == "Asia/Tokyo"


def test_set_local_and_rollback(proxy):
    with proxy.wire(TimeZone="UTC") as one, proxy.wire() as two:
        one.query("BEGIN")
        one.query("SET LOCAL TimeZone = 'Asia/Tokyo'")
        assert one.value("SHOW TimeZone") == "Asia/Tokyo"
        one.query("COMMIT")
        two.value("SELECT 1")
        assert one.value("SHOW TimeZone") == "UTC"
        one.query("BEGIN")
        one.query("SET TimeZone = 'Asia/Tokyo'")
        one.query("ROLLBACK")
        two.value("SELECT 1")
        assert one.value("SHOW TimeZone") == "UTC"
        assert one.params["TimeZone"] == "UTC"


def test_encodings_of_two_clients(proxy):
    with proxy.wire(client_encoding="UTF8") as one, proxy.wire(client_encoding="LATIN1") as two:
        for _ in range(3):
            messages = one.query("SELECT 'ü', length('ü')")
            assert messages[1].body.endswith(b"\0\0\0\1" + b"1")
            assert "ü".encode("utf-8") in messages[1].body
            two.send(query("SELECT 'ü', length('ü')".encode("latin-1")))
            messages = two.ready()
            assert b"\xfc" in messages[1].body and messages[1].body.endswith(b"\0\0\0\1" + b"1")


def test_set_by_function_in_a_pipeline(proxy):
    with proxy.wire() as one, proxy.wire() as two:
        one.send(parse("SELECT set_config('application_name', 'by function', false)"), bind(),
                 execute(), SYNC, parse("SHOW application_name"), bind(), execute(), SYNC)
        one.ready()
        assert rows(one.ready()) == [["by function"]]
        assert two.value("SHOW application_name") == ""
        assert one.value("SHOW application_name") == "by function"


def test_pipeline_gets_the_right_settings(proxy):
    with proxy.wire(TimeZone="UTC") as one, proxy.wire(TimeZone="Asia/Tokyo") as two:
        for _ in range(3):
            for conn, zone in ((one, "UTC"), (two, "Asia/Tokyo")):
                conn.send(*[parse("SHOW TimeZone") + bind() + execute() + SYNC] * 5)
                for _ in range(5):
                    assert rows(conn.ready()) == [[zone]]


def test_unreported_startup_parameter(proxy):
    """What drivers send at login, such as extra_float_digits of JDBC."""
    with proxy.wire(extra_float_digits="3", statement_timeout="12345") as one, \
            proxy.wire() as two:
        for _ in range(3):
            assert one.value("SELECT 1") == "1"
            assert one.value("SHOW extra_float_digits") == "3"
            assert one.value("SHOW statement_timeout") == "12345ms"
            assert two.value("SHOW statement_timeout") == "0"


# What may leave a startup parameter on the server or take it away, as far as one is told of it.
UNSURE = {
    "a transaction that is rolled back": [query("BEGIN"), query("RESET ALL"), query("ROLLBACK")],
    "savepoint": [query("BEGIN; SAVEPOINT a; RESET ALL; ROLLBACK TO a; COMMIT")],
    "an error": [query("RESET ALL; SELECT 1/0")],
    "RESET of something else": [query("RESET enable_sort")],
    "RESET of all": [query("RESET ALL")],
    "SET": [query("SET work_mem = '1MB'")],
    "SET in a pipeline": [parse("SET work_mem = '1MB'") + bind() + execute() + SYNC],
    "SET to the default": [query("SET work_mem TO DEFAULT; SET ROLE NONE")],
    "DISCARD": [query("DISCARD ALL")],
}


@pytest.mark.parametrize("name", UNSURE)
def test_startup_parameters_are_set_otherwise(proxy, pg, name):
    """Somebody else gets nothing of it, and in the next transaction they are as they were."""
    pg.sql("GRANT app2 TO app")
    wanted = {"role": "app2", "work_mem": "12345kB"}
    with proxy.wire(**wanted) as one, proxy.wire() as two, proxy.wire(**wanted) as three:
        for other, expected in ((two, ["app", "4MB"]), (three, ["app2", "12345kB"])):
            for conn, values in ((one, ["app2", "12345kB"]), (other, expected)):
                assert rows(conn.query("SELECT current_user, current_setting('work_mem')")) == [values]
                for request in UNSURE[name] if conn is one else ():
                    one.send(request)
                    one.ready()


def test_refused_parameter_leaves_nothing_of_the_client_before(proxy, pg):
    pg.sql("GRANT app2 TO app")
    with proxy.wire(role="app2") as one, proxy.wire() as two:
        assert one.value("SELECT current_user") == "app2"
        with pytest.raises(pgwire.LoginError) as refused:
            proxy.wire(role="app2", work_mem="much")
        assert refused.value.sqlstate == "22023"
        assert two.value("SELECT current_user") == "app"


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_role_of_the_startup_packet(make_proxy, mode):
    """What follows from it is reported to this client, and to no other."""
    proxy = make_proxy(pool_mode=mode)
    for _ in range(2):
        with proxy.wire("p1", "postgres", role="app") as one, proxy.wire("p1", "postgres") as two:
            assert one.value("SELECT current_user") == "app"
            assert one.params["is_superuser"] == "off"
            assert two.params["is_superuser"] == "on"
            assert two.value("SELECT current_user") == "postgres"
            assert two.params["is_superuser"] == "on"


def test_search_path_in_options(proxy, pg):
    pg.sql("CREATE SCHEMA IF NOT EXISTS other; CREATE OR REPLACE VIEW other.where_am_i AS "
           "SELECT 'other'::text AS place; GRANT ALL ON SCHEMA other TO PUBLIC; "
           "GRANT ALL ON other.where_am_i TO PUBLIC", "p1")
    with proxy.wire(options="-c search_path=other,public") as one, proxy.wire() as two:
        for _ in range(3):
            assert one.value("SELECT place FROM where_am_i") == "other"
            assert errors(two.query("SELECT place FROM where_am_i"))[0]["C"] == "42P01"


def test_defaults_of_role_and_database_apply(make_proxy, pg):
    pg.sql("ALTER ROLE app2 IN DATABASE p2 SET TimeZone = 'Europe/Berlin'")
    try:
        proxy = make_proxy(pool_size=1)
        with proxy.wire("p2", "app2") as conn:
            assert conn.params["TimeZone"] == "Europe/Berlin"
            assert conn.value("SHOW TimeZone") == "Europe/Berlin"
    finally:
        pg.sql("ALTER ROLE app2 IN DATABASE p2 RESET TimeZone")


def test_driver_with_its_own_settings(proxy):
    with proxy.connect(autocommit=True, application_name="a", options="-c timezone=Asia/Tokyo") \
            as one, proxy.connect(autocommit=True, application_name="b") as two:
        for _ in range(3):
            assert one.execute("SHOW timezone").fetchone() == ("Asia/Tokyo",)
            assert two.execute("SHOW timezone").fetchone() != ("Asia/Tokyo",)
            assert one.execute("SHOW application_name").fetchone() == ("a",)
            assert two.execute("SHOW application_name").fetchone() == ("b",)


@pytest.mark.parametrize("name,told", [
    ("a" * 63, None), ("a" * 64, "a" * 63), ("b" * 300, "b" * 63), ("ä" * 40, "ä" * 31), ("x" + "ä" * 31, None),
], ids=range(5))
@pytest.mark.parametrize("options,silent", [
    ({}, False), ({"client_min_messages": "Warning"}, True), ({"options": "-c client_min_messages=error"}, True),
    ({"options": "-c client_min_messages=debug1"}, False)], ids=range(4))
def test_too_long_application_name(endpoint, name, told, options, silent):
    """It is cut, and the client is told so at its login."""
    for _ in range(2):
        with pgwire.Conn(endpoint.host, endpoint.port) as conn:
            conn.send(startup({"user": "app", "database": "p1", **options, "application_name": name}))
            notices = [m.fields() for m in conn.ready("I") if m.kind == "N"]
            notices = [n for n in notices if n["C"] == "42622"]
            if told is None or silent:
                assert not notices
            else:
                assert len(notices) == 1 and notices[0]["S"] == notices[0]["V"] == "NOTICE"
                assert notices[0]["M"] == 'identifier "%s" will be truncated to "%s"' % (name, told)
                assert notices[0]["R"] == "truncate_identifier"
            assert len(conn.value("SHOW application_name")) <= 63
