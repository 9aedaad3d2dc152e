# SPDX-License-Identifier: PostgreSQL
"""A server that can be made to say anything: only for bytes that PostgreSQL never sends."""
import socket
import struct
import threading

from pgwire import SSL_REQUEST, message


def auth(code, body=b""):
    return message("R", struct.pack("!i", code) + body)


READY = message("Z", b"I")
KEY = message("K", b"\0\0\0\1abcd")
PARAMETERS = b"".join(message("S", name + b"\0" + value + b"\0") for name, value in [
    (b"server_version", b"15.0"), (b"server_encoding", b"UTF8"), (b"client_encoding", b"UTF8"),
    (b"DateStyle", b"ISO, MDY"), (b"TimeZone", b"UTC"), (b"IntervalStyle", b"postgres"),
    (b"integer_datetimes", b"on"), (b"standard_conforming_strings", b"on"),
    (b"is_superuser", b"off"), (b"session_authorization", b"app"), (b"application_name", b""),
    (b"default_transaction_read_only", b"off"), (b"in_hot_standby", b"off")])
WELCOME = auth(0) + PARAMETERS + KEY + READY
ROW = message("T", struct.pack("!h", 1) + b"a\0" + struct.pack("!ihihih", 0, 0, 25, -1, -1, 0)) + \
    message("D", struct.pack("!hi", 1, 1) + b"1")
DONE = message("C", b"SELECT 1\0")


class Peer:
    """The proxy as the server sees it."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(30)
        self.file = sock.makefile("rb")

    def send(self, *parts):
        self.sock.sendall(b"".join(parts))

    def packet(self):
        """(code, body) of a packet of the time before login."""
        length, = struct.unpack("!i", self.file.read(4))
        body = self.file.read(length - 4)
        return struct.unpack("!i", body[:4])[0], body[4:]

    def encrypt(self, context, direct=False):
        """TLS from now on: after SSLRequest, or at once."""
        if not direct:
            assert self.packet()[0] == SSL_REQUEST
            self.send(b"S")
        self.file.close()
        self.sock = context.wrap_socket(self.sock, server_side=True)
        self.file = self.sock.makefile("rb")

    def startup(self):
        """The parameters of the startup packet; TLS is refused before it."""
        self.version, body = self.packet()
        if self.version == SSL_REQUEST:
            self.send(b"N")
            self.version, body = self.packet()
        words = body.split(b"\0")
        return dict(zip(words[::2], words[1::2]))

    def recv(self):
        """(type, body) of the next message; None at the end."""
        head = self.file.read(5)
        if len(head) < 5:
            return None
        length, = struct.unpack("!i", head[1:])
        return head[:1].decode(), self.file.read(length - 4)

    def request(self):
        """Reads up to the end of a request; its message types."""
        kinds = ""
        while True:
            msg = self.recv()
            if msg is None:
                return None
            kinds += msg[0]
            if msg[0] in "QSF":
                return kinds

    def serve(self, answer=ROW + DONE + READY):
        """Answers every request alike."""
        while self.request():
            self.send(answer)


class FakeServer:
    """Calls `script(peer)` for every connection, in a thread of its own; afterwards the connection
    ends."""

    def __init__(self, script):
        self.script = script
        self.count = 0
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(50)
        self.host, self.port = self.listener.getsockname()
        self.check = {"host": self.host, "port": self.port}
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.count += 1
            threading.Thread(target=self._run, args=(sock,), daemon=True).start()

    def _run(self, sock):
        with sock:
            try:
                peer = Peer(sock)
                try:
                    self.script(peer)
                finally:
                    peer.file.close()
                    peer.sock.close()
            except (OSError, struct.error):
                pass  # the proxy closed, as it should
