"""TLS session resumption of one Mac: the session kept from its last connection, offered in some of its next ones.

In a resumed session the server sends no certificate: it was verified on the connection that issued the session. So a
session is offered to the same peer only (same origin, trust anchors, pins and client identity: ``binding``), and only
while that peer's certificate is valid. A server that does not resume sends its certificate, which is then verified.
Source: RFC 8446, 2.2 and 4.6.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cryptography import x509
from OpenSSL import SSL, crypto

from agent.net.http.http1 import Origin
from agent.net.transport.openssl_direct import KeptSession, keep_session, offer_session, was_resumed
from agent.net.transport.tls import Check, fingerprint
from agent.pki.certificates import CertificateError, peer_certificate
from agent.pki.identity import Identity
from agent.pki.verify import PeerRejected


class _Kept(NamedTuple):
    binding: bytes
    context: SSL.Context
    session: KeptSession
    name: str
    until: float  # seconds since the epoch


class Resumption:
    """Keeps at most one session of one Mac.

    A share of ``share`` (0 to 1) of the new connections offer it: those for which ``chance`` returns less. ``clock``
    returns seconds since the epoch.
    """

    __slots__ = ("_chance", "_clock", "_kept", "_share")

    def __init__(self, share: float, chance: Callable[[], float], clock: Callable[[], float]) -> None:
        self._clock = clock
        self._share = share
        self._chance = chance
        self._kept: _Kept | None = None

    def offer(self, tls: SSL.Connection, binding: bytes, check: Check) -> Check:
        """Offer the session in the next handshake of ``tls``, or not. Returns the check for the stream."""
        kept = self._kept
        if self._chance() >= self._share or kept is None:
            return check
        self._kept = None  # a ticket is used once (RFC 8446, C.4); after a failure the next connection does without
        if kept.binding != binding or kept.context is not tls.get_context() or self._clock() >= kept.until:
            return check
        if not offer_session(tls, kept.session):
            return check
        offered = ResumedCheck(check, tls, kept.name, kept.until)
        tls.set_app_data(offered)
        return offered

    def keep(self, tls: SSL.Connection, binding: bytes, name: str, check: object) -> None:
        """Keep the session of this connection, which has ended; ``name`` is its peer, which ``check`` verified."""
        session = keep_session(tls)
        until = check.until if isinstance(check, ResumedCheck) and check.resumed else _last_moment(tls)
        if session is not None and until is not None:
            self._kept = _Kept(binding, tls.get_context(), session, name, until)

    def forget(self) -> None:
        """Drop the session: the Mac went down."""
        self._kept = None


class ResumedCheck:
    """The check of a connection that offers a session; ``check`` applies if the server sends a certificate.

    ``until`` is when the certificate of the session's peer expires, in seconds since the epoch.
    """

    __slots__ = ("_asked", "_check", "_name", "_tls", "until")

    def __init__(self, check: Check, tls: SSL.Connection, name: str, until: float) -> None:
        self._check = check
        self._tls = tls
        self._name = name
        self.until = until
        self._asked = False

    def __call__(self, connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
        """Judge a certificate: the session was not resumed."""
        self._asked = True
        return self._check(connection, certificate, error, depth, ok)

    @property
    def rejected(self) -> PeerRejected | None:
        """Why the certificate was refused, or None."""
        return self._check.rejected

    @property
    def resumed(self) -> bool:
        """Whether the server resumed the session."""
        return not self._asked and was_resumed(self._tls)

    @property
    def name(self) -> str:
        """The peer's name on the connection that issued the session, or as verified now."""
        return self._name if self.resumed else self._check.name


def _last_moment(tls: SSL.Connection) -> float | None:
    """When the certificate of the peer expires; None where none can be read, so that its validity is unknown."""
    try:
        certificate = peer_certificate(tls)
    except CertificateError:
        return None
    return None if certificate is None else certificate.not_valid_after_utc.timestamp()


def binding_of(
    origin: Origin,
    identity: Identity | None,
    anchors: Sequence[x509.Certificate],
    pins: Sequence[x509.Certificate],
) -> bytes:
    """A digest of origin, client identity, anchors and pins: a session is valid for these only. 32 bytes."""
    parts = [repr(origin).encode(), b"" if identity is None else identity.fingerprint]
    for certificates in (anchors, pins):
        parts.append(b"".join(sorted(fingerprint(certificate) for certificate in certificates)))
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()
