"""The TLS floor of a Mac's connections: what to do about a server that Apple's rules of 2026 exclude.

``agent.pki.tls_floor`` judges what a handshake shows. Here the handshake is read from OpenSSL, as a check of the
connection (`agent.net.transport.tls.Check`), so that a refused server looks like one with a refused certificate.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from OpenSSL import SSL, crypto

from agent.net.transport.tls import Check
from agent.pki.certificates import CertificateError, read_certificate
from agent.pki.tls_floor import SINCE, Fault, Handshake, faults
from agent.pki.verify import PeerRejected

_KNOWN = 256  # handshakes that differ; a fleet has few servers
_ADVICE = "Apple support article 126655; tls.floor says what Macs do about it."


class BelowFloor(PeerRejected):
    """The server's TLS is below what Apple asks of it."""

    kind = "tls_floor"


class FloorCheck:
    """Another check, and the judgement of the handshake once it is done.

    ``refuse``: raise BelowFloor for a server that is below the floor; else only ``warn`` is called.
    """

    __slots__ = ("_certificate", "_check", "_connection", "_refuse", "_warn")

    def __init__(self, check: Check, warn: Callable[[str], None], *, refuse: bool) -> None:
        self._check = check
        self._warn = warn
        self._refuse = refuse
        self._connection: SSL.Connection | None = None
        self._certificate: crypto.X509 | None = None

    def __call__(self, connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
        """Judge one certificate of the chain."""
        if depth == 0:
            self._connection, self._certificate = connection, certificate
        return self._check(connection, certificate, error, depth, ok)

    @property
    def rejected(self) -> PeerRejected | None:
        """Why the peer was refused, or None."""
        return self._check.rejected

    @property
    def name(self) -> str:
        """The verified name of the peer. Raises PeerRejected, also for a server that is below the floor."""
        name = self._check.name
        connection, self._connection = self._connection, None
        if connection is not None and self._certificate is not None:  # otherwise there was no TLS
            for fault in judged(connection, self._certificate):
                self._tell(name, fault)
        self._certificate = None
        return name

    def _tell(self, name: str, fault: Fault) -> None:
        if self._refuse:
            raise BelowFloor(f"a Mac with macOS {SINCE} refuses the server {name}: {fault}. See {_ADVICE}")
        self._warn(f"the server {name} may be refused by Macs with macOS {SINCE}: {fault}. See {_ADVICE}")


def judged(connection: SSL.Connection, certificate: crypto.X509) -> tuple[Fault, ...]:
    """The rules that the server of a finished handshake does not keep; ``certificate`` is its own."""
    version = connection.get_protocol_version_name()
    cipher = connection.get_cipher_name() or ""
    return _judged(version, cipher, extended_master_secret(connection), crypto.dump_certificate(_DER, certificate))


_DER = crypto.FILETYPE_ASN1


@lru_cache(_KNOWN)
def _judged(version: str, cipher: str, extended: bool | None, certificate: bytes) -> tuple[Fault, ...]:
    try:
        own = read_certificate(certificate)
    except CertificateError:  # the peer's check has its own rule for this
        own = None
    return faults(Handshake(version, cipher, extended, own))


def extended_master_secret(connection: Any) -> bool | None:
    """Whether TLS 1.2 was agreed on with the extended master secret; None for TLS 1.3, which has no need of it.

    pyOpenSSL has no public function for it. Without its private one it is unknown (None) and not judged.
    """
    library: Any = getattr(SSL, "_lib", None)
    if connection.get_protocol_version_name() == "TLSv1.3":
        return None
    if not hasattr(library, "SSL_get_extms_support") or not hasattr(connection, "_ssl"):
        return None
    return bool(library.SSL_get_extms_support(connection._ssl) == 1)
