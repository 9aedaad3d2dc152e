# SPDX-License-Identifier: PostgreSQL
"""Certificates of the tests, made with the openssl command, and clients that speak TLS."""
import base64
import hashlib
import hmac
import os
import shutil
import socket
import ssl
import subprocess

import pgwire
from servers import OWNER


def openssl(*args, folder):
    subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True, timeout=60)


class Authority:
    """A certificate authority in a folder of its own."""

    def __init__(self, folder, name="ca"):
        self.folder = os.path.join(folder, name)
        os.makedirs(self.folder)
        with open(self.path("openssl.cnf"), "w") as out:
            out.write("[ca]\ndefault_ca=own\n[own]\ndatabase=index.txt\nserial=serial\n"
                      "default_md=sha256\ndefault_crl_days=30\ncrlnumber=crlnumber\n"
                      "private_key=ca.key\ncertificate=ca.crt\n")
        for file, text in [("index.txt", ""), ("serial", "01\n"), ("crlnumber", "01\n")]:
            with open(self.path(file), "w") as out:
                out.write(text)
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=" + name, "-days", "30",
                folder=self.folder)
        self.cert = self.path("ca.crt")

    def path(self, name):
        return os.path.join(self.folder, name)

    def issue(self, name, subject, san=None, key=("ec", "-pkeyopt", "ec_paramgen_curve:P-256")):
        """(certificate, key) files."""
        cert, private = self.path(name + ".crt"), self.path(name + ".key")
        openssl("req", "-newkey", *key, "-nodes", "-keyout", private, "-out", name + ".csr",
                "-subj", subject, folder=self.folder)
        with open(self.path(name + ".ext"), "w") as out:
            out.write("basicConstraints=CA:FALSE\n" +
                      ("subjectAltName=%s\n" % san if san else ""))
        openssl("x509", "-req", "-in", name + ".csr", "-CA", "ca.crt", "-CAkey", "ca.key",
                "-CAcreateserial", "-out", cert, "-days", "30", "-extfile", name + ".ext",
                folder=self.folder)
        os.chmod(private, 0o600)
        return cert, private

    def crl(self, *revoked):
        """A revocation list with these certificates."""
        for cert in revoked:
            openssl("ca", "-config", "openssl.cnf", "-revoke", cert, folder=self.folder)
        openssl("ca", "-config", "openssl.cnf", "-gencrl", "-out", "crl.pem", folder=self.folder)
        return self.path("crl.pem")


def give_to_server(cluster, cert, key, ca=None, **settings):
    """TLS for a PostgreSQL server, which wants its key to be its own; restarts it."""
    for source, name in [(cert, "server.crt"), (key, "server.key"), (ca, "root.crt")]:
        if source is None:
            continue
        target = os.path.join(cluster.data, name)
        shutil.copy(source, target)
        os.chmod(target, 0o600)
        if OWNER:
            os.chown(target, OWNER.pw_uid, OWNER.pw_gid)
    cluster.settings.update(ssl="on", **({"ssl_ca_file": "root.crt"} if ca else {}), **settings)
    cluster.stop()
    cluster.start()


def context(ca=None, cert=None, alpn=None, version=None):
    made = ssl.create_default_context(cafile=ca) if ca else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not ca:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if cert:
        made.load_cert_chain(*cert)
    if alpn:
        made.set_alpn_protocols([alpn])
    if version:
        made.minimum_version = made.maximum_version = version
    return made


class TlsConn(pgwire.Conn):
    """pgwire.Conn over TLS: after SSLRequest, or direct."""

    def __init__(self, host, port, ctx=None, direct=False, session=None, name="localhost", source=None):
        super().__init__(host, port, source=source)
        if not direct:
            self.send(pgwire.untyped((pgwire.SSL_REQUEST).to_bytes(4, "big")))
            answer = self.recv_exact(1)
            assert answer == b"S", answer
        ctx = ctx or context(alpn="postgresql" if direct else None)
        self.sock = ctx.wrap_socket(self.sock, server_hostname=name, session=session)

    def binding(self):
        """tls-server-end-point of a certificate that is signed with SHA-256."""
        return hashlib.sha256(self.sock.getpeercert(binary_form=True)).digest()

    def scram(self, user, dbname, password, gs2, binding=b"", mechanism=b"SCRAM-SHA-256-PLUS"):
        """A login by SCRAM with a given GS2 header; the messages behind it."""
        self.send(pgwire.startup({"user": user, "database": dbname}))
        msg = self.recv()
        assert msg.kind == "R", msg
        offered = msg.body[4:].split(b"\0")[:-2]
        scram = pgwire.Scram(password)
        first = gs2 + scram.bare
        self.send(pgwire.message("p", pgwire.cstr(mechanism) + len(first).to_bytes(4, "big") +
                                 first))
        msg = self.recv()
        if msg.kind == "E":
            raise pgwire.LoginError(msg.fields())
        server_first = msg.body[4:]
        answer = scram.answer(server_first)
        fields = answer.split(b",p=")[0].split(b",", 1)[1]
        final = b"c=" + base64.b64encode(gs2 + binding) + b"," + fields
        scram.auth = scram.bare + b"," + server_first + b"," + final
        client = hmac.digest(scram.salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(client).digest(), scram.auth, "sha256")
        proof = bytes(a ^ b for a, b in zip(client, signature))
        self.send(pgwire.message("p", final + b",p=" + base64.b64encode(proof)))
        msg = self.recv()
        if msg.kind == "E":
            raise pgwire.LoginError(msg.fields())
        scram.verify(msg.body[4:])
        for msg in self.ready("I"):
            if msg.kind == "K":
                self.key = msg.body[:4], msg.body[4:]
        return offered


def closed(sock):
    """Whether the other side has closed, with or without a word of TLS."""
    try:
        while sock.recv(65536):
            pass
        return True
    except ssl.SSLError:
        return True
    except ConnectionResetError:
        return True
    except socket.timeout:
        return False
