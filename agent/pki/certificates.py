"""The one way from untrusted octets to certificates: files, profiles, PKCS12, CMS, SCEP answers and TLS peers.

cryptography reads a certificate in part only, and raises for the other parts when they are asked for, by exceptions
that have no common class (``UNREADABLE``). So nothing else in this program calls a loader of certificates
(tests/pki/test_certificates.py holds that): what is read here is read whole, or refused with CertificateError.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import pkcs12
from OpenSSL import SSL, crypto

from agent.errors import PeerError

MAX_BYTES = 64 * 1024  # of one certificate in DER; a usual one has 400 to 2,000
MAX_FILE_BYTES = 8 * 1024 * 1024  # of several in PEM; the trust store of an operating system has 200 to 600 KiB
MAX_CERTIFICATES = 2048  # PEM blocks in one text
_KEPT = 256  # certificates; a peer that shows more of them has each parsed again and again
_LONGEST_KEPT = 4096  # bytes
_PEM = b"-----BEGIN"
_PARTS = (
    "version",
    "subject",
    "issuer",
    "extensions",
    "not_valid_before_utc",
    "not_valid_after_utc",
    "signature_algorithm_oid",
)

# What cryptography raises over a certificate or a request, most of it late, when a part is asked for.
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    Warning,  # of names too long and serial numbers below one, where Python runs with -W error
)


class CertificateError(PeerError):
    """Octets that are no certificate, or one with a part that cannot be read."""

    kind = "certificate"


def read_certificate(octets: bytes) -> x509.Certificate:
    """One certificate in DER, every part of it readable. Raises CertificateError.

    The same octets give the same object, as far as they are remembered: every Mac of a fleet has the same few CAs.
    """
    if len(octets) <= _LONGEST_KEPT:
        return _remembered(bytes(octets))
    if len(octets) > MAX_BYTES:
        raise CertificateError(f"expected a certificate of at most {MAX_BYTES} bytes, found {len(octets)}")
    return _read(octets)


def read_certificates(octets: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates of a file: one or more in PEM, or one in DER. Raises CertificateError."""
    return read_pem(octets) if _PEM in octets else (read_certificate(octets),)


def read_pem(octets: bytes) -> tuple[x509.Certificate, ...]:
    """One or more certificates in PEM. Raises CertificateError."""
    if len(octets) > MAX_FILE_BYTES:
        raise CertificateError(f"expected at most {MAX_FILE_BYTES} bytes of certificates, found {len(octets)}")
    count = octets.count(_PEM)
    if count > MAX_CERTIFICATES:
        raise CertificateError(f"expected at most {MAX_CERTIFICATES} PEM blocks, found {count}")
    with _readable():
        found = x509.load_pem_x509_certificates(octets)
    return tuple(_whole(certificate) for certificate in found)


def read_pkcs12(
    octets: bytes, password: bytes | None
) -> tuple[object, x509.Certificate | None, tuple[x509.Certificate, ...]]:
    """Key, certificate and further certificates of a PKCS12, whose cost ``agent.pki.pfx`` has bounded before.

    Raises CertificateError, also where the password is wrong.
    """
    try:
        key, certificate, others = pkcs12.load_key_and_certificates(octets, password)
    except Exception as error:  # cryptography names no common class for unsupported algorithms
        raise CertificateError(str(error)) from error
    return key, None if certificate is None else _whole(certificate), tuple(_whole(other) for other in others)


def own_certificate(octets: bytes) -> x509.Certificate:
    """A certificate in DER that this program has read or made before: not read whole again."""
    return x509.load_der_x509_certificate(octets)


def from_openssl(certificate: crypto.X509) -> x509.Certificate:
    """A certificate that OpenSSL has read, as cryptography reads it: not whole yet.

    A CA of a chain may have parts that cryptography refuses and nobody asks for. Raises CertificateError.
    """
    try:
        with _readable():
            return certificate.to_cryptography()
    except crypto.Error as error:  # OpenSSL cannot write what it has read
        raise CertificateError("the certificate cannot be read") from error


def for_openssl(certificate: x509.Certificate) -> crypto.X509:
    """A certificate as OpenSSL reads it. Raises CertificateError where it cannot."""
    try:
        return crypto.X509.from_cryptography(certificate)
    except crypto.Error as error:
        raise CertificateError("OpenSSL cannot read the certificate") from error


def peer_certificate(tls: SSL.Connection) -> x509.Certificate | None:
    """The certificate that the peer of a TLS connection has shown; None without one. Raises CertificateError."""
    found = tls.get_peer_certificate()
    return None if found is None else read_openssl(found)


def peer_chain(tls: SSL.Connection) -> tuple[x509.Certificate, ...]:
    """What a client has shown, its own certificate first; empty without one. Raises CertificateError."""
    own = tls.get_peer_certificate()
    if own is None:
        return ()
    # At a server's end OpenSSL's chain lacks the peer's own certificate.
    return tuple(read_openssl(found) for found in (own, *(tls.get_peer_cert_chain() or ())))


def read_openssl(certificate: crypto.X509) -> x509.Certificate:
    """A certificate that OpenSSL has read, whole. Raises CertificateError."""
    try:
        octets = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
    except crypto.Error as error:  # OpenSSL cannot write what it has read
        raise CertificateError("the certificate cannot be read") from error
    return read_certificate(octets)


@lru_cache(_KEPT)
def _remembered(octets: bytes) -> x509.Certificate:
    return _read(octets)


def _read(octets: bytes) -> x509.Certificate:
    with _readable():
        certificate = x509.load_der_x509_certificate(octets)
    return _whole(certificate)


def _whole(certificate: x509.Certificate) -> x509.Certificate:
    """The certificate, after each part was asked for once."""
    with _readable():
        for part in _PARTS:
            getattr(certificate, part)
        certificate.public_key()
    return certificate


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise CertificateError(f"the certificate cannot be read: {error or type(error).__name__}") from error
