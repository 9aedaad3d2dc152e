# SPDX-License-Identifier: PostgreSQL
"""A PostgreSQL client on a raw socket: every message is built and read by hand.

It exists for what a driver cannot be made to do: exact message sequences, messages in the wrong
order, broken lengths, silence.  Where a driver can do it, the tests use a driver.
"""
import base64
import hashlib
import hmac
import os
import socket
import struct
import time

PROTOCOL_3_0 = 196608
PROTOCOL_3_2 = 196610
SSL_REQUEST = 80877103
GSSENC_REQUEST = 80877104
CANCEL_REQUEST = 80877102

# Messages that a server may send at any time.
ASYNC = "NSA"


# --- building -----------------------------------------------------------------------------------

def cstr(text):
    return (text if isinstance(text, bytes) else text.encode()) + b"\0"


def message(kind, body=b""):
    return kind.encode() + struct.pack("!i", len(body) + 4) + body


def untyped(body):
    """A message of the time before login: no type byte."""
    return struct.pack("!i", len(body) + 4) + body


def startup(params, version=PROTOCOL_3_0):
    body = struct.pack("!i", version)
    for name, value in params.items():
        body += cstr(name) + cstr(value)
    return untyped(body + b"\0")


def query(sql):
    return message("Q", cstr(sql))


def parse(sql, name="", oids=()):
    return message("P", cstr(name) + cstr(sql) + struct.pack("!h", len(oids)) +
                   b"".join(struct.pack("!I", oid) for oid in oids))


def bind(params=(), name="", portal="", formats=(), results=()):
    body = cstr(portal) + cstr(name)
    body += struct.pack("!h", len(formats)) + b"".join(struct.pack("!h", f) for f in formats)
    body += struct.pack("!h", len(params))
    for value in params:
        if value is None:
            body += struct.pack("!i", -1)
        else:
            value = value if isinstance(value, bytes) else str(value).encode()
            body += struct.pack("!i", len(value)) + value
    body += struct.pack("!h", len(results)) + b"".join(struct.pack("!h", f) for f in results)
    return message("B", body)


def describe(kind="P", name=""):
    return message("D", kind.encode() + cstr(name))


def execute(portal="", rows=0):
    return message("E", cstr(portal) + struct.pack("!i", rows))


def close(kind, name=""):
    return message("C", kind.encode() + cstr(name))


def function_call(oid, args, formats=()):
    body = struct.pack("!Ih", oid, len(formats)) + b"".join(struct.pack("!h", f) for f in formats)
    body += struct.pack("!h", len(args))
    for value in args:
        body += struct.pack("!i", len(value)) + value
    return message("F", body + struct.pack("!h", 0))


def copy_data(data):
    return message("d", data)


def copy_fail(text):
    return message("f", cstr(text))


SYNC = message("S")
FLUSH = message("H")
TERMINATE = message("X")
COPY_DONE = message("c")


# --- reading ------------------------------------------------------------------------------------

class Closed(Exception):
    """The other side closed the connection."""


class Message:
    def __init__(self, kind, body):
        self.kind = kind
        self.body = body

    def __repr__(self):
        if self.kind in "EN":
            return "%s%r" % (self.kind, self.fields())
        return "%s(%d)%r" % (self.kind, len(self.body), self.body[:60])

    def fields(self):
        """The fields of an ErrorResponse or NoticeResponse by their letter."""
        return {part[:1].decode(): part[1:].decode(errors="replace")
                for part in self.body.split(b"\0") if part}

    def strings(self):
        return [part.decode(errors="replace") for part in self.body.split(b"\0")]

    def row(self):
        """The values of a DataRow, as text."""
        count, = struct.unpack_from("!h", self.body)
        values, at = [], 2
        for _ in range(count):
            length, = struct.unpack_from("!i", self.body, at)
            at += 4
            if length < 0:
                values.append(None)
            else:
                values.append(self.body[at:at + length].decode(errors="replace"))
                at += length
        return values

    def columns(self):
        """The column names of a RowDescription."""
        return list(self.types())

    def types(self):
        """The OIDs of their types by the names."""
        count, = struct.unpack_from("!h", self.body)
        types, at = {}, 2
        for _ in range(count):
            end = self.body.index(b"\0", at)
            types[self.body[at:end].decode()], = struct.unpack_from("!I", self.body, end + 7)
            at = end + 19
        return types


class LoginError(Exception):
    def __init__(self, fields):
        super().__init__("%s %s: %s" % (fields.get("S"), fields.get("C"), fields.get("M")))
        self.fields = fields
        self.sqlstate = fields.get("C")


def kinds(messages, skip=ASYNC):
    """The sequence of message types as a string, without what may come at any time."""
    return "".join(m.kind for m in messages if m.kind not in skip)


def rows(messages):
    return [m.row() for m in messages if m.kind == "D"]


def errors(messages):
    return [m.fields() for m in messages if m.kind == "E"]


def tags(messages):
    return [m.strings()[0] for m in messages if m.kind == "C"]


class Conn:
    """One connection.  host may be a folder: then a Unix socket.  source: the address to come from."""

    def __init__(self, host, port, timeout=30, source=None):
        if host[0] in "/@":
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(timeout)
            path = "%s/.s.PGSQL.%d" % (host, port)
            try:
                self.sock.connect("\0" + path[1:] if host[0] == "@" else path)
            except OSError:
                self.sock.close()
                raise
        else:
            self.sock = socket.create_connection((host, port), timeout, source and (source, 0))
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.address = (host, port)
        self.timeout = timeout
        self.buffer = b""
        self.received = b""  # the last bytes before the end that were no message
        self.params = {}
        self.key = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def send(self, *parts):
        self.sock.sendall(b"".join(parts))

    def recv_exact(self, count):
        chunks = [self.buffer]
        have = len(self.buffer)
        while have < count:
            try:
                data = self.sock.recv(max(65536, min(count - have, 1 << 20)))
            except ConnectionResetError:
                data = b""
            if not data:
                self.buffer = b"".join(chunks)
                raise Closed("closed after %d of %d bytes" % (have, count))
            chunks.append(data)
            have += len(data)
        data = b"".join(chunks)
        self.buffer = data[count:]
        return data[:count]

    def recv(self):
        head = self.recv_exact(5)
        length, = struct.unpack("!i", head[1:])
        if not 4 <= length <= 1 << 30:
            self.buffer = head + self.buffer
            raise AssertionError("broken length %d of %r" % (length, head[:1]))
        msg = Message(head[:1].decode("latin-1"), self.recv_exact(length - 4))
        if msg.kind == "S":
            name, value = msg.strings()[:2]
            self.params[name] = value
        return msg

    def until(self, *stops):
        """Messages up to and including the first of one of these types."""
        result = []
        while True:
            result.append(self.recv())
            if result[-1].kind in stops:
                return result

    def ready(self, status=None):
        """Messages up to ReadyForQuery, which is checked for `status` if one is given."""
        result = self.until("Z")
        if status is not None:
            assert result[-1].body.decode() == status, result
        return result

    def query(self, sql):
        self.send(query(sql))
        return self.ready()

    def value(self, sql):
        """The first value of the first row of a query that must work."""
        messages = self.query(sql)
        assert not errors(messages), errors(messages)
        return rows(messages)[0][0]

    def silent(self, seconds=0.3):
        """True if nothing arrives for so long."""
        if self.buffer:
            return False
        self.sock.settimeout(seconds)
        try:
            data = self.sock.recv(65536)
        except socket.timeout:
            return True
        finally:
            self.sock.settimeout(self.timeout)
        self.buffer = data
        return False

    def rest(self, limit=1 << 26):
        """Everything up to the end of the connection, as messages (and the undecodable rest)."""
        result = []
        try:
            while True:
                result.append(self.recv())
        except (Closed, AssertionError):
            self.received = b"".join((m.kind.encode() + m.body for m in result)) + self.buffer
            return result

    # --- login ----------------------------------------------------------------------------------

    def login(self, user, dbname, password=None, version=PROTOCOL_3_0, **params):
        self.send(startup({"user": user, "database": dbname, **params}, version))
        return self.authenticate(user, password)

    def authenticate(self, user, password=None):
        """From the first answer to ReadyForQuery; LoginError if refused."""
        result = []
        scram = None
        while True:
            msg = self.recv()
            result.append(msg)
            if msg.kind == "E":
                raise LoginError(msg.fields())
            if msg.kind == "K":
                self.key = msg.body[:4], msg.body[4:]
            if msg.kind == "Z":
                return result
            if msg.kind != "R":
                continue
            code, = struct.unpack_from("!i", msg.body)
            if code == 3:
                self.send(message("p", cstr(password or "")))
            elif code == 5:
                self.send(message("p", cstr(md5_response(user, password or "", msg.body[4:8]))))
            elif code == 10:
                assert b"SCRAM-SHA-256" in msg.body[4:].split(b"\0")
                scram = Scram(password or "")
                self.send(message("p", cstr("SCRAM-SHA-256") +
                                  struct.pack("!i", len(scram.first)) + scram.first))
            elif code == 11:
                self.send(message("p", scram.answer(msg.body[4:])))
            elif code == 12:
                scram.verify(msg.body[4:])
            else:
                assert code == 0, "authentication request %d" % code

    def cancel(self):
        """Sends a CancelRequest for this connection on a new one and waits for its end."""
        cancel(*self.address, *self.key)


def cancel(host, port, pid, key):
    with Conn(host, port) as conn:
        conn.send(untyped(struct.pack("!i", CANCEL_REQUEST) + pid + key))
        assert conn.rest() == []


# --- authentication -----------------------------------------------------------------------------

def md5_secret(user, password):
    return "md5" + hashlib.md5((password + user).encode()).hexdigest()


def md5_response(user, password, salt):
    inner = md5_secret(user, password)[3:]
    return "md5" + hashlib.md5(inner.encode() + salt).hexdigest()


def scram_secret(password, iterations=4096):
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client = hmac.digest(salted, b"Client Key", "sha256")
    server = hmac.digest(salted, b"Server Key", "sha256")
    return "SCRAM-SHA-256$%d:%s$%s:%s" % (
        iterations, base64.b64encode(salt).decode(),
        base64.b64encode(hashlib.sha256(client).digest()).decode(),
        base64.b64encode(server).decode())


class Scram:
    def __init__(self, password):
        self.password = password.encode()
        self.nonce = base64.b64encode(os.urandom(18))
        self.bare = b"n=,r=" + self.nonce
        self.first = b"n,," + self.bare

    def answer(self, server_first):
        fields = dict(part.split(b"=", 1) for part in server_first.split(b","))
        assert fields[b"r"].startswith(self.nonce) and len(fields[b"r"]) > len(self.nonce)
        self.salted = hashlib.pbkdf2_hmac("sha256", self.password, base64.b64decode(fields[b"s"]),
                                          int(fields[b"i"]))
        client = hmac.digest(self.salted, b"Client Key", "sha256")
        final = b"c=biws,r=" + fields[b"r"]
        self.auth = self.bare + b"," + server_first + b"," + final
        signature = hmac.digest(hashlib.sha256(client).digest(), self.auth, "sha256")
        proof = bytes(a ^ b for a, b in zip(client, signature))
        return final + b",p=" + base64.b64encode(proof)

    def verify(self, server_final):
        server = hmac.digest(self.salted, b"Server Key", "sha256")
        expected = base64.b64encode(hmac.digest(server, self.auth, "sha256"))
        assert server_final == b"v=" + expected, "server signature"


def wait_for(check, timeout=20, what="condition"):
    """Polls until check() is true; returns its value.  Seldomer with time: most checks make a
    connection, which takes from the processors what is waited for."""
    began = time.monotonic()
    while True:
        value = check()
        if value:
            return value
        waited = time.monotonic() - began
        assert waited < timeout, "timed out waiting for " + what
        time.sleep(min(max(0.02, waited / 10), 0.1))
