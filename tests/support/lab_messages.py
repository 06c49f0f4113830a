"""What Macs tell a lab, signed with an identity of the test's choice; and a lab that listens in the test's reactor."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred

from agent import plists
from agent.lab.mdm.core import Lab, Message
from agent.lab.web.server import HOST, LabServer
from agent.mdm import checkin, results
from agent.pki.cms_signing import DetachedSigner, mdm_signature
from agent.pki.identity import Identity
from agent.pki.issuing.authorities import Authorities
from agent.pki.pem import certificate_pem, key_pem
from agent.profiles.making import TOPIC

AUTHORITIES = Authorities()
UDID = "37CECCAB-99C1-5ADF-8A9A-2AFA3B6387B5"
OTHER = "48DFDDBC-99C1-5ADF-8A9A-2AFA3B6387B5"
_connections = count(1)


def put(identity: Identity, message: dict[str, Any] | bytes, content_type: str = checkin.CONTENT_TYPE) -> Message:
    """A message as it reaches the lab, whose signature holds."""
    body = message if isinstance(message, bytes) else plists.dump_xml(message)
    signature = mdm_signature(body, DetachedSigner(identity), identity)
    fingerprint = identity.certificate.fingerprint(hashes.SHA256())
    return Message(body, content_type, fingerprint, signature, next(_connections))


def authenticate(udid: str = UDID) -> dict[str, Any]:
    """Authenticate."""
    return {
        "MessageType": "Authenticate", "Topic": TOPIC, "UDID": udid, "DeviceName": "Mac", "Model": "Mac14,3",
        "ModelName": "Mac mini", "SerialNumber": "S1", "OSVersion": "15.2", "BuildVersion": "24C101",
    }  # fmt: skip


def token_update(udid: str = UDID) -> dict[str, Any]:
    """TokenUpdate."""
    return {"MessageType": "TokenUpdate", "Topic": TOPIC, "UDID": udid, "Token": bytes(32), "PushMagic": "magic"}


def enroll(lab: Lab, udid: str = UDID, identity: Identity | None = None) -> Identity:
    """Have a Mac enrolled; its identity."""
    identity = identity or AUTHORITIES.mdm_identity()
    lab.check_in(put(identity, authenticate(udid)))
    lab.check_in(put(identity, token_update(udid)))
    return identity


def report(lab: Lab, identity: Identity, udid: str = UDID, **keys: Any) -> bytes:
    """A report; the next command."""
    return lab.report(put(identity, {"UDID": udid, **keys}, results.CONTENT_TYPE))


@asynccontextmanager
async def listening(*, scep: bool = False) -> AsyncIterator[LabServer]:
    """A lab that listens."""
    server = LabServer(reactor, Lab(), Authorities(), scep=scep)
    server.listen()
    try:
        yield server
    finally:
        await server.close()


class Client:
    """Python's own HTTPS client, maybe with a client certificate."""

    def __init__(self, server: LabServer, folder: Path, identity: Identity | None = None) -> None:
        pem = server.authorities.anchor.public_bytes(Encoding.PEM).decode()
        context = ssl.create_default_context(cadata=pem)
        if identity is not None:
            (folder / "client.pem").write_bytes(certificate_pem(identity.certificate) + key_pem(identity.key))
            context.load_cert_chain(folder / "client.pem")
        port = int(server.url.rpartition(":")[2])
        self._connection = http.client.HTTPSConnection(HOST, port, timeout=20, context=context)

    def ask(self, method: str, path: str, body: bytes = b"", *headers: tuple[str, str]) -> tuple[int, bytes]:
        """Status and body of the answer."""
        self._connection.putrequest(method, path)
        for name, value in (("Content-Length", str(len(body))), *headers):
            self._connection.putheader(name, value)
        self._connection.endheaders(body)
        response = self._connection.getresponse()
        return response.status, response.read()

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def in_thread(work: Callable[[], Any]) -> Deferred[Any]:
    """Call something that blocks, while the reactor goes on."""
    done: Deferred[Any] = Deferred()

    def call() -> None:
        reactor.callFromThread(maybeDeferred(work).chainDeferred, done)

    threading.Thread(target=call, daemon=True).start()
    return done
