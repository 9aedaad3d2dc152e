# SPDX-License-Identifier: PostgreSQL
"""Corners of the relay: what is skipped has no effect, what was not executed is sent again, what is
cancelled is that and nothing else."""
import time

import pytest

import pgwire
from pgwire import (SYNC, bind, close, describe, errors, execute, kinds, message, parse, query, rows,
                    wait_for)
from servers import SLOW


def answers(conn, count):
    """The kinds of messages and SQLSTATEs up to the count-th ReadyForQuery."""
    text = ""
    for _ in range(count):
        text += "".join(m.kind + (m.fields()["C"] if m.kind == "E" else "")
                        for m in conn.ready() if m.kind not in "NSA") + " "
    return text.strip()


# --- what is skipped after an error has no effect ------------------------------------------------

UNKNOWN = describe("S", "unknown")
SKIPPED = {
    "Query": ([parse("SELECT 1"), UNKNOWN, query("SELECT 2"), SYNC, bind(), SYNC], 2,
              "1E26000Z 2Z"),
    "Query of a transaction": ([parse("SELECT 1"), execute("none"), query("BEGIN"), SYNC,
                                parse("SELECT 3", "t"), bind(), SYNC], 2, "1E34000Z 12Z"),
    "Parse of the unnamed statement": ([parse("SELECT 1"), SYNC, UNKNOWN, parse("SELECT 1, 2"), SYNC,
                                        describe("S"), SYNC], 3, "1Z E26000Z tTZ"),
    "Close of the unnamed statement": ([parse("SELECT 1"), UNKNOWN, close("S"), SYNC, bind(), SYNC],
                                       2, "1E26000Z 2Z"),
    "Query, and one behind it": ([parse("SELECT 1"), UNKNOWN, query("SELECT 2"), SYNC,
                                  query("SELECT 3"), bind(), SYNC], 3, "1E26000Z TDCZ E26000Z"),
    "twice": ([parse("SELECT 1"), UNKNOWN, query("SELECT 2"), SYNC, UNKNOWN, query("SELECT 3"), SYNC,
               bind(), SYNC], 3, "1E26000Z E26000Z 2Z"),
    "DEALLOCATE": ([parse("SELECT $1::int", "s"), bind([], "s"), query("DEALLOCATE s"), SYNC,
                    query("DEALLOCATE s"), query("DEALLOCATE s")], 3, "1E08P01Z CZ E26000Z"),
    "DEALLOCATE in the extended protocol": (
        [parse("SELECT 1", "s"), UNKNOWN, parse("DEALLOCATE s"), bind(), describe(), execute(), SYNC,
         bind([], "s"), SYNC], 2, "1E26000Z 2Z"),
}


@pytest.mark.parametrize("name", SKIPPED)
@pytest.mark.parametrize("how", ["one packet", "in pieces"])
def test_skipped(endpoint, name, how):
    messages, readies, expected = SKIPPED[name]
    with endpoint.wire() as conn:
        for part in [b"".join(messages)] if how == "one packet" else messages:
            conn.send(part)
            if how != "one packet":
                time.sleep(0.005)
        assert answers(conn, readies) == expected
        assert conn.value("SELECT 5") == "5"


DEALLOCATED = {
    "ends the portal": ([parse("SELECT 1", "s"), bind([], "s"), query("DEALLOCATE s"), describe(),
                         SYNC], 2, "12CZ E34000Z"),
    "ends the portal in a block": ([query("BEGIN"), parse("SELECT 1", "s"), bind([], "s"), SYNC,
                                    query("DEALLOCATE s"), describe(), SYNC, query("ROLLBACK")], 5,
                                   "CZ 12Z CZ E34000Z CZ"),
    "within a batch": ([parse("SELECT 1", "s"), query("DEALLOCATE s"), parse("SELECT 2", "s"), SYNC,
                        bind([], "s"), execute(), SYNC, query("DEALLOCATE s")], 4,
                       "1CZ 1Z 2DCZ CZ"),
    "in a failed block": ([parse("SELECT 1", "s"), SYNC, query("BEGIN"), query("SELECT 1/0"),
                           query("DEALLOCATE s"), query("ROLLBACK"), query("DEALLOCATE s")], 6,
                          "1Z CZ E22012Z E25P02Z CZ CZ"),
    "twice in the extended protocol": (
        [parse("SELECT 1", "s"), parse("DEALLOCATE s"), bind(), describe(), execute(), execute(),
         SYNC, bind(), execute(), SYNC, bind([], "s"), SYNC], 3,
        "112nCE55000Z 2E26000Z E26000Z"),
    "all, in the extended protocol": (
        [parse("SELECT 1", "s"), parse("DEALLOCATE ALL"), bind(), execute(), parse("SELECT 2", "s"),
         SYNC, bind(), execute(), SYNC, bind([], "s"), SYNC], 3, "112C1Z 2CZ E26000Z"),
    "all, twice the same name": ([parse("DEALLOCATE ALL"), bind(), execute(), parse("SELECT 1", "s"),
                                  parse("SELECT 1", "s"), SYNC, bind([], "s"), SYNC], 2,
                                 "12C1E42P05Z 2Z"),
}


@pytest.mark.parametrize("name", DEALLOCATED)
def test_deallocate(endpoint, name):
    messages, readies, expected = DEALLOCATED[name]
    for _ in range(2):  # the second time a server connection may have the statements already
        with endpoint.wire() as conn:
            conn.send(*messages)
            assert answers(conn, readies) == expected
            assert conn.value("SELECT 5") == "5"


@pytest.mark.parametrize("first", ["describe", "close", "bind"])
def test_deallocate_all_and_an_error_behind_it(make_proxy, first):
    """What the proxy believes the server has, is what it has."""
    proxy = make_proxy(pool_size=1)
    error = {"describe": describe("P", "none"), "close": execute("none"),
             "bind": bind([], "unknown")}[first]
    with proxy.wire() as conn, proxy.wire() as other:
        conn.send(parse("SELECT 1", "s"), SYNC)
        assert answers(conn, 1) == "1Z"
        conn.send(parse("DEALLOCATE ALL"), bind(), execute(), error, parse("SELECT 1", "s"),
                  close("S", "s"), SYNC)
        assert answers(conn, 1)[:4] == "12CE"
        other.send(parse("SELECT 1", "s"), bind([], "s"), execute(), SYNC)
        assert answers(other, 1) == "12DCZ"
        conn.send(bind([], "s"), SYNC)
        assert answers(conn, 1) == "E26000Z"
