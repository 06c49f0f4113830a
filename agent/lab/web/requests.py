"""What a request to the lab is, and what an answer: the same for every version of HTTP, and however it is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import msgspec
from cryptography.hazmat.primitives import hashes
from twisted.web.http import parse_qs

from agent.lab.mdm.core import Message, Refused
from agent.net.http.server import connection_of
from agent.net.transport.openssl_direct import was_resumed
from agent.pki.certificates import CertificateError, peer_certificate

_connections = count(1)
Headers = Sequence[tuple[bytes, bytes]]


class Peer(msgspec.Struct, frozen=True):
    """What is known of the client of a connection."""

    connection: int
    """A number unique for each connection."""
    fingerprint: bytes | None
    """SHA-256 of its TLS certificate, which is verified; None without one."""
    resumed: bool
    """Whether its TLS session was resumed."""


class LabRequest(msgspec.Struct):
    """A request. ``transport`` is that of its connection."""

    method: bytes
    query: bytes
    headers: Headers
    """The names are in lower case."""
    transport: Any
    body: bytes = b""
    too_long: bool = False
    """Whether its body is longer than the lab takes, and was discarded."""
    below: Sequence[bytes] = ()
    """The segments of its path below that of the URL."""

    def arguments(self) -> Callable[[bytes], str]:
        """What returns an argument of the query by its name; empty if it is absent."""
        found: dict[bytes, list[bytes]] = parse_qs(self.query, 1)  # type: ignore[no-untyped-call]  # of Twisted
        return lambda name: found.get(name, [b""])[0].decode("latin-1")

    def single_header(self, name: bytes) -> str | None:
        """The value of a header that may occur once, or None. Raises Refused."""
        values = [value for found, value in self.headers if found == name]
        if len(values) > 1:
            raise Refused(400, f"Expected one header {name.decode()}, found {len(values)}. Send it once.")
        return values[0].decode("latin-1") if values else None

    def peer(self) -> Peer:
        """The client, found out once for each connection. Raises Refused."""
        known: Peer | None = getattr(self.transport, "lab_peer", None)
        if known is None:
            tls = self.transport.getHandle()
            try:
                certificate = peer_certificate(tls)
            except CertificateError as error:
                raise Refused(403, f"the client certificate is refused: {error}") from error
            fingerprint = None if certificate is None else certificate.fingerprint(hashes.SHA256())
            known = self.transport.lab_peer = Peer(next(_connections), fingerprint, was_resumed(tls))
        return known

    def message(self) -> Message:
        """The message of a Mac. Raises Refused."""
        content_type, signature = self.single_header(b"content-type"), self.single_header(b"mdm-signature")
        peer = self.peer()
        return Message(
            body=self.body,
            content_type=(content_type or "").partition(";")[0].strip().lower(),
            fingerprint=peer.fingerprint,
            signature=signature,
            connection=peer.connection,
            resumed=peer.resumed,
        )


class LabAnswer(msgspec.Struct, frozen=True):
    """The response to a request."""

    status: int
    content_type: str
    """Empty: it has none."""
    body: bytes
    allow: bytes = b""
    """The methods that the URL takes, of a response to another one."""


def request_of_twisted(request: Any, body: bytes = b"") -> LabRequest:
    """A request that twisted.web has read."""
    headers = [(name.lower(), value) for name, values in request.requestHeaders.getAllRawHeaders() for value in values]
    _path, _mark, query = request.uri.partition(b"?")
    return LabRequest(
        request.method,
        query,
        headers,
        connection_of(request).transport,
        body,
        request.too_long,
        tuple(request.postpath or ()),
    )
