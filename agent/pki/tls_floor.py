"""What Apple asks of a server's TLS from 2026 on: a judgement over what one handshake shows. No I/O.

Source: Apple support article 126655, "Prepare your network for stricter security": TLS 1.2 or later, cipher suites and
certificates as App Transport Security has them. Vendors quote the extended master secret from Apple's developer page.
The article covers MDM, declarative management, automated enrollment, profiles and app installation, and not SCEP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

SINCE = 27  # the major macOS release from which on Macs might refuse other servers
RSA_BITS = 2048
EC_BITS = 256
AUTHENTICATED = ("-GCM-SHA256", "-GCM-SHA384", "-CHACHA20-POLY1305")
_SHA_256 = 32  # bytes of its digest
_VERSIONS = ("TLSv1.2", "TLSv1.3")

Rule = Literal["version", "cipher suite", "extended master secret", "key", "signature"]


class Handshake(msgspec.Struct, frozen=True):
    """What a finished handshake shows, in OpenSSL's names."""

    version: str
    """``TLSv1.2``, for example."""
    cipher: str
    extended_master_secret: bool | None = None
    """RFC 7627; None if it cannot be seen."""
    certificate: x509.Certificate | None = None
    """The server's own; None in a resumed session."""


class Fault(msgspec.Struct, frozen=True):
    """One rule that a server does not keep."""

    rule: Rule
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.rule}: expected {self.expected}, found {self.found}"


def faults(handshake: Handshake) -> tuple[Fault, ...]:
    """The rules that the server does not keep, in a fixed order; empty if it keeps all of them.

    Dates, names and the chain are judged for every release, and not here (`agent.pki.verify`).
    """
    return tuple(fault for judge in _RULES if (fault := judge(handshake)) is not None)


def _version(handshake: Handshake) -> Fault | None:
    if handshake.version in _VERSIONS:
        return None
    return Fault("version", "TLS 1.2 or later", handshake.version or "no name")


def _cipher(handshake: Handshake) -> Fault | None:
    if handshake.version == "TLSv1.3":  # each of its suites has forward secrecy and authenticated encryption
        return None
    if handshake.cipher.startswith("ECDHE-") and handshake.cipher.endswith(AUTHENTICATED):
        return None
    return Fault("cipher suite", "ECDHE, and AES-GCM or ChaCha20-Poly1305", handshake.cipher or "no name")


def _extended_master_secret(handshake: Handshake) -> Fault | None:
    if handshake.version == "TLSv1.3" or handshake.extended_master_secret is not False:
        return None
    return Fault("extended master secret", "TLS 1.2 with the extended master secret (RFC 7627)", "TLS 1.2 without it")


def _key(handshake: Handshake) -> Fault | None:
    if handshake.certificate is None:
        return None
    expected = f"a key of RSA of at least {RSA_BITS} bits, or of EC of at least {EC_BITS}"
    try:
        key = handshake.certificate.public_key()
    except (UnsupportedAlgorithm, ValueError):
        return Fault("key", expected, "one that cannot be read")
    return None if _is_strong(key) else Fault("key", expected, _size(key))


def _signature(handshake: Handshake) -> Fault | None:
    if handshake.certificate is None:
        return None
    try:
        digest = handshake.certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return Fault("signature", "a certificate with a signature of SHA-256 or more", "one that cannot be read")
    if digest is None or digest.digest_size >= _SHA_256:  # EdDSA has no separate digest
        return None
    return Fault("signature", "a certificate with a signature of SHA-256 or more", f"one of {digest.name}")


def _size(key: object) -> str:
    return f"one of {getattr(key, 'key_size', 'an unknown number of')} bits"


def _is_strong(key: object) -> bool:
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= RSA_BITS
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.key_size >= EC_BITS
    return isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)


_RULES: tuple[Callable[[Handshake], Fault | None], ...] = (_version, _cipher, _extended_master_secret, _key, _signature)
