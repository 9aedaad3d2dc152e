#!/usr/bin/python3
# SPDX-License-Identifier: PostgreSQL
"""Clients of a session pool for the demo: each has settings, prepared statements of both kinds, a
channel it listens to and an advisory lock, two a temporary table and two a cursor WITH HOLD; each works
all the time, and sees at the end (SIGTERM) whether it still has all of it.  One more, of another user,
has what cannot be carried, and is to be told what it has lost.

    session_clients.py HOST:PORT DATABASE USER PASSWORD_FILE COUNT RESULT.json PINNED_USER
"""
import json
import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))

from pgwire import SYNC, Conn, bind, errors, execute, parse, query, rows

PAUSE = 0.05  # of all of them, after each of a client's transactions


class Lost(Exception):
    """Something of a session is not there any more."""


class Client:
    def __init__(self, address, dbname, user, password, number):
        self.number = number
        self.conn = Conn(*address)
        self.conn.login(user, dbname, password, application_name="session %d" % number)
        self.conn.query("SET work_mem = '7MB'; SET app.tenant = 'tenant %d'" % number)
        self.conn.query("LISTEN news")
        self.conn.query("PREPARE twice(int) AS SELECT $1 * 2")
        self.conn.query("SELECT pg_advisory_lock({0}), pg_advisory_lock({0})".format(1000 + number))
        self.conn.send(parse("SELECT $1::int + %d" % number, "add") + SYNC)
        self.conn.ready()
        if number < 2:
            self.conn.query("CREATE TEMP TABLE basket (id serial PRIMARY KEY, what text)")
            self.conn.query("INSERT INTO basket (what) SELECT md5(g::text) FROM "
                            "generate_series(1, 100) g")
        elif number < 4:
            self.conn.query("DECLARE held SCROLL CURSOR WITH HOLD FOR SELECT g, md5(g::text) FROM "
                            "generate_series(1, 100) g; MOVE 50 IN held")
        self.server = self.where()
        self.longest = 0.0
        self.failure = None

    def where(self):
        return self.conn.value("SELECT inet_server_port()")

    def expect(self, what, value, found):
        if value != found:
            raise Lost("%s of session %d: %r instead of %r" % (what, self.number, found, value))

    def work(self):
        """A transaction that needs what the session has."""
        began = time.monotonic()
        self.conn.send(query("BEGIN") + bind(["40"], "add") + execute() + SYNC + query("COMMIT"))
        messages = self.conn.ready() + self.conn.ready() + self.conn.ready()
        if errors(messages):
            raise Lost("session %d: %s" % (self.number, errors(messages)[0]))
        self.expect("answer", [[str(40 + self.number)]], rows(messages))
        self.longest = max(self.longest, time.monotonic() - began)

    def check(self):
        self.expect("work_mem", "7MB", self.conn.value("SHOW work_mem"))
        self.expect("app.tenant", "tenant %d" % self.number, self.conn.value("SHOW app.tenant"))
        self.expect("PREPARE", "42", self.conn.value("EXECUTE twice(21)"))
        if self.number < 2:
            self.expect("temporary table", "5050", self.conn.value("SELECT sum(id) FROM basket"))
            self.expect("its sequence", "101", self.conn.value("SELECT nextval('basket_id_seq')"))
        elif self.number < 4:
            self.expect("cursor", "51", self.conn.value("FETCH FROM held"))
        unlock = "SELECT pg_advisory_unlock(%d)" % (1000 + self.number)
        self.expect("lock", ["t", "t", "f"], [self.conn.value(unlock) for _ in range(3)])

    def hear(self):
        note = self.conn.until("A")[-1]
        self.expect("notification", b"news\0moved\0", note.body[4:])

    def attempt(self, act):
        if self.failure is None:
            try:
                act()
            except Exception as failure:  # counted, and named in the result
                self.failure = "%s: %s" % (type(failure).__name__, failure)


class Pinned(Client):
    """Prepared among other commands: no server tells by which text.  Its session goes on without."""

    def __init__(self, address, dbname, user, password):
        self.number, self.longest, self.failure, self.told = None, 0.0, None, None
        self.conn = Conn(*address)
        self.conn.login(user, dbname, password, application_name="pinned")
        self.conn.query("SET work_mem = '7MB'; PREPARE twice(int) AS SELECT $1 * 2")
        self.server = self.where()

    def check(self):
        messages = self.conn.until("N")
        notice = messages[-1].fields()
        self.told = "%s: %s (%s)" % (notice["S"], notice["M"], notice["D"])
        self.expect("work_mem", "7MB", self.conn.value("SHOW work_mem"))
        seen = [each["C"] for each in errors(self.conn.query("EXECUTE twice(21)"))]
        self.expect("what is lost", ["26000"], seen)
        self.expect("server", True, self.where() != self.server)


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    dbname, user, password_file, count, result, pinned_user = sys.argv[2:8]
    with open(password_file, encoding="utf-8") as file:
        password = file.read().strip()
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    clients = [Client((host, int(port)), dbname, user, password, n) for n in range(int(count))]
    pinned = Pinned((host, int(port)), dbname, pinned_user, password)
    print("ready", flush=True)
    while not ended:
        for client in clients:
            client.attempt(client.work)
            time.sleep(PAUSE)
    for client in clients:
        client.attempt(client.check)
    with Conn(host, int(port)) as sender:
        sender.login(user, dbname, password)
        sender.query("NOTIFY news, 'moved'")
    for client in clients:
        client.attempt(client.hear)
    kept = 0
    pinned.attempt(pinned.check)
    for client in clients:
        client.attempt(lambda client=client: client.expect(
            "server", True, client.where() != client.server))
        kept += client.failure is None
    with open(result, "w", encoding="utf-8") as out:
        json.dump({"sessions": len(clients), "kept": kept,
                   "pinned": pinned.told,
                   "failures": [each.failure for each in [*clients, pinned] if each.failure],
                   "longest_ms": 1000 * max(each.longest for each in clients)}, out)


if __name__ == "__main__":
    main()
