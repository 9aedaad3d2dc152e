# SPDX-License-Identifier: PostgreSQL
"""What systemd does for a service, done by hand: NOTIFY_SOCKET, the watchdog, sockets passed on."""
import fcntl
import os
import socket
import subprocess

from pgwire import wait_for
from proxy import Proxy, program
from servers import SLOW, _die_with_parent


class Manager:
    """The other end of sd_notify(3)."""

    def __init__(self, folder, abstract=False):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        name = os.path.join(folder, "notify")
        self.sock.bind("\0" + name[1:] if abstract else name)
        self.env = {"NOTIFY_SOCKET": "@" + name[1:] if abstract else name}
        self.told = []  # every datagram as a list of lines

    def read(self):
        while True:
            try:
                text = self.sock.recv(65536).decode()
            except BlockingIOError:
                return self.told
            self.told.append(text.rstrip("\n").split("\n"))

    def has(self, line):
        return [lines for lines in self.read() if line in lines]

    def wait(self, line, count=1):
        wait_for(lambda: len(self.has(line)) >= count, 30 * SLOW, line)

    def count(self, line):
        return len(self.has(line))


def listen_tcp(family=socket.AF_INET, host="127.0.0.1"):
    sock = socket.socket(family)
    sock.bind((host, 0))
    sock.listen(16)
    return sock


def listen_unix(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    os.chmod(path, 0o777)
    sock.listen(16)
    return sock


# Descriptors to 3 and up, and LISTEN_PID, which only the process itself can know.
LAUNCH = 'to=3; for fd in $FDS; do eval "exec $to<&$fd $fd<&-"; to=$((to + 1)); done; ' \
         'unset FDS to; export LISTEN_PID=${PID_FOR_TEST:-$$}; exec "$@"'


def start(proxy, sockets=(), env=None, options=(), **more):
    """pgshuntd as systemd would start it; `sockets`: (name, socket)."""
    fds = [fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 200) for _, sock in sockets]
    environment = {**os.environ, **(env or {}), **more}
    if sockets:
        environment.update(LISTEN_FDS=str(len(fds)), FDS=" ".join(map(str, fds)),
                           LISTEN_FDNAMES=":".join(name for name, _ in sockets))
    with open(proxy.log_path, "ab") as out:
        proxy.process = subprocess.Popen(
            ["/bin/bash", "-c", LAUNCH if sockets else 'exec "$@"', "launch", program("pgshuntd"),
             "--config", proxy.config_path, *options], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            env=environment, cwd="/", pass_fds=fds, preexec_fn=_die_with_parent(15))
    for fd in fds:
        os.close(fd)
    if proxy not in Proxy.alive:
        Proxy.alive.append(proxy)
    return proxy
