#!/usr/bin/python3
# SPDX-License-Identifier: PostgreSQL
"""Clients of a session pool for the demo: each has settings, prepared statements of both kinds, a
channel it listens to and an advisory lock, works all the time, and sees at the end (SIGTERM) whether it
still has all of it.

    session_clients.py HOST:PORT DATABASE USER PASSWORD_FILE COUNT RESULT.json
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


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    dbname, user, password_file, count, result = sys.argv[2:7]
    with open(password_file, encoding="utf-8") as file:
        password = file.read().strip()
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    clients = [Client((host, int(port)), dbname, user, password, n) for n in range(int(count))]
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
    for client in clients:
        client.attempt(lambda client=client: client.expect(
            "server", True, client.where() != client.server))
        kept += client.failure is None
    with open(result, "w", encoding="utf-8") as out:
        json.dump({"sessions": len(clients), "kept": kept,
                   "failures": [each.failure for each in clients if each.failure],
                   "longest_ms": 1000 * max(each.longest for each in clients)}, out)


if __name__ == "__main__":
    main()
