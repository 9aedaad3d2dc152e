# SPDX-License-Identifier: PostgreSQL
"""Messages and results of any legal size, passed on without being held in memory."""
import hashlib
import threading
import time

import pytest

import pgwire
from pgwire import SYNC, bind, execute, kinds, parse, query, rows
from servers import SANITIZED

MB = 1 << 20
SIZES = [4091, 8192, 16384, 65535, 65536, 65537, MB, 16 * MB]


@pytest.mark.parametrize("size", SIZES)
def test_large_row(endpoint, size):
    with endpoint.wire() as conn:
        value = conn.value("SELECT repeat('x', %d)" % size)
        assert len(value) == size
        assert conn.value("SELECT 1") == "1"


@pytest.mark.parametrize("size", SIZES)
def test_large_query(endpoint, size):
    with endpoint.wire() as conn:
        text = ("0123456789abcdef" * (size // 16 + 1))[:size]
        messages = conn.query("SELECT md5('%s')" % text)
        assert rows(messages) == [[hashlib.md5(text.encode()).hexdigest()]]


@pytest.mark.parametrize("size", SIZES)
def test_large_parameter(endpoint, size):
    with endpoint.wire() as conn:
        text = ("fedcba9876543210" * (size // 16 + 1))[:size]
        conn.send(parse("SELECT md5($1), $1"), bind([text]), execute(), SYNC)
        messages = conn.ready("I")
        assert rows(messages) == [[hashlib.md5(text.encode()).hexdigest(), text]]


@pytest.mark.parametrize("size", SIZES)
def test_large_parse(endpoint, size):
    with endpoint.wire() as conn:
        text = "y" * size
        conn.send(parse("SELECT length('%s')" % text), bind(), execute(), SYNC)
        assert rows(conn.ready("I")) == [[str(size)]]


def test_large_copy_data(endpoint):
    with endpoint.wire() as conn:
        conn.query("BEGIN")
        conn.send(query("COPY items FROM STDIN"), pgwire.copy_data(b"500000\t" + b"z" * 16 * MB),
                  pgwire.copy_data(b"\n"), pgwire.COPY_DONE)
        assert pgwire.tags(conn.ready("T")) == ["COPY 1"]
        assert conn.value("SELECT length(note) FROM items WHERE id = 500000") == str(16 * MB)
        conn.query("ROLLBACK")


def test_large_error(endpoint):
    with endpoint.wire() as conn:
        messages = conn.query("DO $$ BEGIN RAISE EXCEPTION '%', repeat('e', 1000000); END $$")
        assert kinds(messages) == "EZ" and len(pgwire.errors(messages)[0]["M"]) == 1000000


def test_wide_rows(endpoint):
    with endpoint.wire() as conn:
        messages = conn.query("SELECT " + ", ".join("%d AS a_long_column_name_%d" % (n, n)
                                                    for n in range(1600)))
        assert rows(messages) == [[str(n) for n in range(1600)]]


def test_many_rows(endpoint):
    with endpoint.wire() as conn:
        messages = conn.query("SELECT g FROM generate_series(1, 200000) g")
        assert len(rows(messages)) == 200000


def test_slow_reader(endpoint):
    """The server waits for the client; nobody else does."""
    with endpoint.wire() as slow, endpoint.wire() as quick:
        slow.send(query("SELECT repeat('s', 1000) FROM generate_series(1, 50000)"))
        slow.until("D")
        for _ in range(50):
            assert quick.value("SELECT 1") == "1"
        assert len(rows(slow.ready("I"))) >= 49999


def test_both_directions_are_full(endpoint):
    """A client that sends queries without reading, until the answers fill every buffer between, is
    stopped and not lost."""
    with endpoint.wire() as conn:
        one = query("SELECT repeat('q', 100000)")
        count = 600
        sender = threading.Thread(target=conn.send, args=(one * count,))
        sender.start()
        time.sleep(0.5)
        for _ in range(count):
            assert len(rows(conn.ready("I"))[0][0]) == 100000
        sender.join()


@pytest.mark.figures
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_memory_stays_flat(make_proxy, mode):
    proxy = make_proxy(pool_mode=mode, workers=1, log_level="info")
    with proxy.wire() as conn, proxy.wire() as slow:
        conn.value("SELECT 1")
        before = proxy.memory()
        peak = before
        slow.send(query("SELECT repeat('s', 1000) FROM generate_series(1, 200000)"))
        conn.send(query("SELECT repeat('x', %d)" % (64 * MB)))
        left = 64 * MB
        while left > 0:
            left -= len(conn.recv_exact(min(left, 4 * MB)))
            peak = max(peak, proxy.memory())
        conn.buffer = b""
        time.sleep(0.2)
        peak = max(peak, proxy.memory())
    # Sanitizers keep freed memory and shadows of it.
    assert peak - before < (64 * MB if SANITIZED else 4 * MB)
