"""The certificates of CAs, each parsed once for a whole process: every Mac of a fleet has the same few."""

from __future__ import annotations

from functools import lru_cache

from cryptography import x509

_KEPT = 256  # of a fleet's profiles; a server that sends more of them has each parsed again and again
_LONGEST = 4096  # bytes; a usual one has 400 to 2,000


def shared_certificate(octets: bytes) -> x509.Certificate:
    """The certificate with this DER, the same object for everybody who asks. Raises ValueError."""
    return _parsed(octets) if len(octets) <= _LONGEST else x509.load_der_x509_certificate(octets)


@lru_cache(_KEPT)
def _parsed(octets: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(octets)
