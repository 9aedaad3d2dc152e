# SPDX-License-Identifier: PostgreSQL
"""The connections of the fault matrix, each of which can be cut by itself.

A connection is named by who dials and who is dialled ("mover", "pg1"), and has an address of its
own, so that cutting one leaves the others alone.  Where namespaces and nft can be used, the whole
run lives in a network namespace of its own: the address is a loopback address, and cutting is
dropping packets, as a broken cable does.  Elsewhere it is the port of a relay that stops forwarding:
what was sent meanwhile arrives when it goes on, as after retransmission.
"""
import os
import selectors
import shutil
import socket
import subprocess
import sys
import threading

from servers import free_port

INSIDE = "PGSHUNT_FAULT_NAMESPACE"


def enter_namespace():
    """Starts this program again in a namespace of its own, if that can be had."""
    if os.environ.get(INSIDE) is not None or os.getuid() != 0:
        return
    nft = shutil.which("nft", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    probe = "ip link set lo up && nft add table inet probe"
    works = nft and shutil.which("unshare") and subprocess.run(
        ["unshare", "-n", "sh", "-c", probe], capture_output=True, check=False).returncode == 0
    os.environ[INSIDE] = "1" if works else ""
    if works:
        os.execvp("unshare", ["unshare", "-n", sys.executable, *sys.argv])


class Namespace:
    """Addresses 127.dialler.dialled.1; a cut is two rules that drop packets."""

    kind = "packets dropped by nft in a network namespace"
    listen = "*"

    def __init__(self):
        self.names = []
        self.addresses = {}
        self.run("ip", "link", "set", "lo", "up")
        self.nft("add table inet cut; add chain inet cut in { type filter hook input priority 0; }")

    @staticmethod
    def run(*argv):
        subprocess.run(argv, check=True, capture_output=True)

    def nft(self, text):
        self.run("nft", text)

    def number(self, name):
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name) + 1

    def address(self, dialler, dialled, port):
        """Where `dialler` reaches `dialled`, which listens on `port`."""
        self.addresses[dialler, dialled] = "127.%d.%d.1" % (self.number(dialler) + 100,
                                                            self.number(dialled))
        return self.addresses[dialler, dialled], port

    def cut(self, dialler, dialled):
        address = self.addresses[dialler, dialled]
        self.nft("add rule inet cut in ip daddr %s drop; add rule inet cut in ip saddr %s drop"
                 % (address, address))

    def cut_answers(self, dialler, dialled):
        """What is asked arrives, the answers do not."""
        self.nft("add rule inet cut in ip saddr %s drop" % self.addresses[dialler, dialled])

    def heal(self):
        self.nft("flush chain inet cut in")

    def close(self):
        pass


class Relays:
    """A thread that forwards bytes for all connections."""

    kind = "a relay that stops forwarding"
    listen = "127.0.0.1"

    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.ports = {}
        self.stopped = {}  # connection -> which directions stand still
        self.changed = threading.Event()
        self.ending = False
        self.thread = None

    def address(self, dialler, dialled, port):
        key = dialler, dialled
        if key not in self.ports:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.ports[key] = free_port()
            listener.bind(("127.0.0.1", self.ports[key]))
            listener.listen(128)
            self.selector.register(listener, selectors.EVENT_READ, (key, "accept", port))
        if self.thread is None:
            self.thread = threading.Thread(target=self.work, daemon=True)
            self.thread.start()
        return "127.0.0.1", self.ports[key]

    def cut(self, dialler, dialled):
        self.stopped[dialler, dialled] = ("forth", "back", "accept")

    def cut_answers(self, dialler, dialled):
        self.stopped[dialler, dialled] = ("back",)

    def heal(self):
        self.stopped.clear()

    def close(self):
        self.ending = True
        self.thread.join()

    def accept(self, key, listener, port):
        near, _ = listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", port), 2)
        except OSError:
            near.close()
            return
        for sock in (near, far):
            sock.settimeout(2)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.selector.register(near, selectors.EVENT_READ, (key, "forth", far))
        self.selector.register(far, selectors.EVENT_READ, (key, "back", near))

    def forward(self, sock, other):
        try:
            data = sock.recv(65536)
            if data:
                other.sendall(data)
                return
        except OSError:
            pass
        for end in (sock, other):
            self.selector.unregister(end)
            end.close()

    def work(self):
        while not self.ending:
            idle = True
            for key, _ in self.selector.select(0.1):
                # An earlier one of this round may have closed it.
                if key.fileobj.fileno() < 0:
                    continue
                edge, way, where = key.data
                if way in self.stopped.get(edge, ()):
                    continue
                idle = False
                if way == "accept":
                    self.accept(edge, key.fileobj, where)
                else:
                    self.forward(key.fileobj, where)
            if idle and self.stopped:
                self.changed.wait(0.002)  # level-triggered: what stands still is always readable


def make():
    return Namespace() if os.environ.get(INSIDE) else Relays()
