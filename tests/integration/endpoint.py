# SPDX-License-Identifier: PostgreSQL
"""Where a client connects: what the tests that run against server and proxies alike are given."""
import psycopg

import pgwire


class Endpoint:
    """Where a client can connect: a server, or a proxy in front of it."""

    def __init__(self, kind, host, port):
        self.kind = kind
        self.host = host
        self.port = port

    def raw(self):
        return pgwire.Conn(self.host, self.port)

    def wire(self, dbname="p1", user="app", **params):
        conn = self.raw()
        conn.login(user, dbname, **params)
        return conn

    def connect(self, dbname="p1", user="app", **kwargs):
        return psycopg.connect(host=self.host, port=self.port, dbname=dbname, user=user,
                               connect_timeout=20, **kwargs)
