"""What the lab reads of an HTTP request: headers, arguments, and the certificate of the Mac."""

from __future__ import annotations

from itertools import count
from typing import Any

from cryptography.hazmat.primitives import hashes

from agent.lab.mdm.core import Message, Refused
from agent.net.http.server import connection_of
from agent.net.transport.openssl_direct import was_resumed
from agent.pki.certificates import CertificateError, peer_certificate

_connections = count(1)


def argument(request: Any, name: bytes) -> str:
    """An argument of the query; empty if it is absent."""
    values = request.args.get(name, [b""])
    return str(values[0].decode("latin-1"))


def message_of(request: Any) -> Message:
    """The message of a Mac. Raises Refused."""
    content_type, signature = single_header(request, b"content-type"), single_header(request, b"mdm-signature")
    connection, fingerprint = peer_of(request)
    return Message(
        body=request.content.read(),
        content_type=(content_type or "").partition(";")[0].strip().lower(),
        fingerprint=fingerprint,
        signature=signature,
        connection=connection,
        resumed=was_resumed(connection_of(request).transport.getHandle()),
    )


def single_header(request: Any, name: bytes) -> str | None:
    """The value of a header that may occur once, or None. Raises Refused."""
    values = request.requestHeaders.getRawHeaders(name, [])
    if len(values) > 1:
        raise Refused(400, f"Expected one header {name.decode()}, found {len(values)}. Send it once.")
    return values[0].decode("latin-1") if values else None


def content_type_of(request: Any) -> str | None:
    """The Content-Type; None where it is absent or there twice."""
    try:
        return single_header(request, b"content-type")
    except Refused:
        return None


def peer_of(request: Any) -> tuple[int, bytes | None]:
    """The number of the connection, and SHA-256 of its client certificate (verified by TLS) or None. Raises Refused."""
    connection = connection_of(request)
    if not hasattr(connection, "lab_peer"):
        try:
            certificate = peer_certificate(connection.transport.getHandle())
        except CertificateError as error:
            raise Refused(403, f"the client certificate is refused: {error}") from error
        fingerprint = None if certificate is None else certificate.fingerprint(hashes.SHA256())
        connection.lab_peer = next(_connections), fingerprint
    peer: tuple[int, bytes | None] = connection.lab_peer
    return peer
