# SPDX-License-Identifier: PostgreSQL
"""Transaction pooling: parameters that a client never asked for are those of the server, as with a
server of its own; what it asked for stays."""
import contextlib
import re

import pytest

import pgwire
from pgwire import SYNC, bind, execute, parse, wait_for
from servers import SLOW

# Reported parameters and two values.  (A client_encoding in the configuration is only for new sessions.)
NAMES = {"TimeZone": ("Asia/Tokyo", "Asia/Kolkata"), "DateStyle": ("SQL, DMY", "German, DMY"),
         "IntervalStyle": ("iso_8601", "sql_standard"), "application_name": ("one", "two"),
         "standard_conforming_strings": ("off", "on"), "default_transaction_read_only": ("on", "off")}


@pytest.fixture
def own(make_cluster):
    cluster = make_cluster("own")
    cluster.sql("CREATE DATABASE p1")
    return cluster


def default_is(cluster, name, value):
    cluster.sql("ALTER SYSTEM SET %s = '%s'" % (name, value))
    cluster.sql("SELECT pg_reload_conf()")
    wait_for(lambda: cluster.value("SELECT reset_val FROM pg_settings WHERE name = '%s'" % name) == value,
             10 * SLOW, "reload")


@contextlib.contextmanager
def connections(place, cluster, make_proxy, pool_size, **kwargs):
    """Makes them: to the server itself, which proves what is right, or through one proxy."""
    proxy = None if place == "direct" else make_proxy({"own": cluster}, {"p1": "own"}, workers=1,
                                                      pool_size=pool_size, **kwargs)
    with contextlib.ExitStack() as stack:
        def connect(**params):
            if proxy:
                return stack.enter_context(proxy.wire("p1", **params))
            conn = stack.enter_context(pgwire.Conn(cluster.host, cluster.port))
            conn.login("app", "p1", **params)
            return conn
        yield connect


def check(conns, name, value):
    for conn in conns:
        assert conn.value("SHOW " + name) == value
        assert conn.params[name] == value


@pytest.mark.parametrize("place", ["direct", "transaction"])
@pytest.mark.parametrize("pool_size", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_reload(own, make_proxy, place, name, pool_size):
    """It changes the value for those who have not set it, and tells them."""
    values = NAMES[name]
    with connections(place, own, make_proxy, pool_size) as connect:
        conns = [connect() for _ in range(3)]
        before = conns[0].value("SHOW " + name)
        others = [connect(**{name: value}) for value in values]
        by_set, by_function = connect(), connect()
        by_set.query("SET %s = '%s'" % (name, values[0]))
        by_function.value("SELECT set_config('%s', '%s', false)" % (name, values[0 if before == values[1] else 1]))
        function_value = by_function.params[name]
        for conn in conns[:pool_size]:
            conn.query("BEGIN")  # on servers of their own
        for conn in conns[:pool_size]:
            conn.query("COMMIT")
        for value in (values[0], before, values[1], before):
            default_is(own, name, value)
            for _ in range(2):
                check(conns, name, value)
                for conn, wanted in zip(others, values):
                    check([conn], name, wanted)
                check([by_set], name, values[0])
                check([by_function], name, function_value)
            late = connect()
            check([late], name, value)
            check(reversed(conns), name, value)


@pytest.mark.parametrize("place", ["direct", "transaction"])
@pytest.mark.parametrize("pool_size", [1, 2])
def test_set_by_a_function(own, make_proxy, place, pool_size):
    """Nothing tells that from a value that the server has by itself."""
    own.sql("CREATE FUNCTION hidden(name text, value text) RETURNS text LANGUAGE sql AS "
            "$$ SELECT set_config(name, value, false) $$", "p1")
    with connections(place, own, make_proxy, pool_size) as connect:
        conns = [connect() for _ in range(4)]
        # One that has asked for what the server has by itself, too.
        setters = [connect(), connect(TimeZone=conns[0].value("SHOW TimeZone"))]
        for conn in setters:
            conn.value("SELECT hidden('TimeZone', 'Asia/Tokyo')")
        for value in ("Asia/Kolkata", "UTC", "Asia/Kolkata", "America/New_York"):
            check(setters, "TimeZone", "Asia/Tokyo")
            default_is(own, "TimeZone", value)
            check(setters, "TimeZone", "Asia/Tokyo")
            check(conns, "TimeZone", value)


@pytest.mark.parametrize("place", ["direct", "transaction"])
def test_what_is_over_was_not_asked_for(own, make_proxy, place):
    """SET LOCAL, a SET that is rolled back, RESET."""
    with connections(place, own, make_proxy, 1) as connect:
        conns = [connect() for _ in range(5)]
        conns[0].query("BEGIN; SET LOCAL TimeZone = 'Asia/Tokyo'")
        conns[0].query("COMMIT")
        conns[1].query("BEGIN")
        conns[1].query("SELECT set_config('timezone', 'Asia/Tokyo', true)")
        conns[1].query("COMMIT")
        conns[2].query("BEGIN")
        conns[2].value("SELECT set_config('timezone', 'Asia/Tokyo', false)")
        conns[2].query("ROLLBACK")
        conns[3].query("SET TimeZone = 'Asia/Tokyo'")
        check(conns[3:4], "TimeZone", "Asia/Tokyo")
        conns[3].query("RESET TimeZone")
        for value in ("Asia/Kolkata", "Asia/Tokyo", "Asia/Kolkata"):
            default_is(own, "TimeZone", value)
            check(conns, "TimeZone", value)


@pytest.mark.parametrize("place", ["direct", "transaction"])
@pytest.mark.parametrize("sql,name,value,later", [
    ("SET default_transaction_read_only = off", "default_transaction_read_only", "off", "on"),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE", "default_transaction_read_only", "off", "on"),
    ("SET TIME ZONE 'Asia/Tokyo'", "TimeZone", "Asia/Tokyo", "Asia/Kolkata"),
], ids=range(3))
@pytest.mark.parametrize("extended", [False, True])
def test_set_to_what_is_so_already(own, make_proxy, place, sql, name, value, later, extended):
    """The server tells nothing of that: it stays for the one that has asked for it, and for nobody else."""
    default_is(own, name, value)
    with connections(place, own, make_proxy, 1) as connect:
        one, two = connect(), connect()
        check([one, two], name, value)
        if extended:
            one.send(parse(sql), bind(), execute(), SYNC)
            assert pgwire.tags(one.ready("I")) == ["SET"]
        else:
            one.query(sql)
        default_is(own, name, later)
        check([two], name, later)
        check([one], name, value)
        check([two], name, later)
        check([connect()], name, later)


def test_nothing_is_sent_where_nothing_differs(own, make_proxy):
    """Neither for who asks for what servers have by themselves, nor for who asks for nothing; what
    another one has SET is taken back once."""
    own.sql("ALTER SYSTEM SET log_statement = 'all'")
    own.sql("SELECT pg_reload_conf()")

    def statements():
        with open(own.log, errors="replace") as log:
            return re.findall(r"app@p1 LOG:  statement: (?!SELECT 1$)(.*)", log.read(), re.M)

    with connections("transaction", own, make_proxy, 1) as connect:
        zone = connect().params["TimeZone"]
        asks, plain, another = connect(TimeZone=zone), connect(), connect()
        for conn in (asks, plain) * 3:
            conn.value("SELECT 1")
        assert statements() == []
        another.query("SET TimeZone = 'Asia/Tokyo'")
        for conn in (asks, plain) * 3:
            conn.value("SELECT 1")
        seen = statements()
        assert len(seen) == 3 and "set_config" in seen[1] and "RESET" in seen[2], seen
        for _ in range(3):
            plain.query("BEGIN")
            plain.query("SET LOCAL TimeZone = 'Asia/Tokyo'")
            plain.query("COMMIT")
            asks.value("SELECT 1")
        assert [text for text in statements()[3:] if "config" in text or "RESET" in text] == []


def test_servers_that_differ(own, make_proxy):
    """ALTER ROLE is for those who log in afterwards, on connections that are opened afterwards: who has
    not asked for a value is told that of the server it gets."""
    with connections("transaction", own, make_proxy, 2) as connect:
        one, two, three = connect(), connect(), connect()
        before = one.value("SHOW TimeZone")
        one.query("BEGIN")
        own.sql("ALTER ROLE app SET TimeZone = 'Asia/Tokyo'")
        two.query("BEGIN")
        check([one], "TimeZone", before)
        check([two], "TimeZone", "Asia/Tokyo")
        two.query("COMMIT")
        check([three], "TimeZone", "Asia/Tokyo")
        two.query("BEGIN")
        one.query("COMMIT")
        check([one, three], "TimeZone", before)


def test_connect_query(own, make_proxy):
    """What it sets is what servers have by themselves."""
    proxy = make_proxy({"own": own}, {"p1": {"server": "own", "connect_query": "SET TimeZone = 'Asia/Tokyo'"}},
                       workers=1, pool_size=1)
    with proxy.wire() as one, proxy.wire(TimeZone="Asia/Kolkata") as two:
        for _ in range(3):
            check([one], "TimeZone", "Asia/Tokyo")
            check([two], "TimeZone", "Asia/Kolkata")


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_other_defaults_on_the_target_of_a_move(make_scene, mode):
    """Clients have those of the new server then, and are told."""
    scene = make_scene(proxy={"pool_mode": mode})
    default_is(scene.pg1, "TimeZone", "Asia/Tokyo")
    default_is(scene.pg2, "TimeZone", "Asia/Kolkata")
    with scene.proxy.wire("p2") as plain, scene.proxy.wire("p2", TimeZone="UTC") as asks:
        check([plain], "TimeZone", "Asia/Tokyo")
        check([asks], "TimeZone", "UTC")
        assert "TimeZone Asia/Kolkata, not Asia/Tokyo" in scene.move().stdout
        check([plain], "TimeZone", "Asia/Kolkata")
        check([asks], "TimeZone", "UTC")
