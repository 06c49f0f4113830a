"""Certificates from untrusted input: files, profiles, PKCS12, CMS, SCEP answers and TLS peers.

cryptography parses some parts of a certificate only when they are accessed, and raises exceptions without a common
class (``UNREADABLE``). The functions here parse every part or raise CertificateError. No other module calls a
certificate loader of cryptography (checked by tests/pki/test_certificates.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12
from OpenSSL import SSL, crypto

from agent.errors import PeerError

MAX_BYTES = 64 * 1024  # of one certificate in DER; a usual one has 400 to 2,000
MAX_FILE_BYTES = 8 * 1024 * 1024  # of several in PEM; the trust store of an operating system has 200 to 600 KiB
MAX_CERTIFICATES = 2048  # PEM blocks in one text
_CACHED = 256  # parsed certificates in the cache
_LONGEST_CACHED = 4096  # bytes
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

# What cryptography raises for a certificate or a request, mostly when a part is accessed.
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
    """Bytes that are not a certificate, or a certificate with a malformed part."""

    kind = "certificate"


def read_certificate(octets: bytes, *, cached: bool = True) -> x509.Certificate:
    """One certificate in DER, with every part parsed. Raises CertificateError.

    Equal bytes return the same object while they are in the cache: all Macs of a fleet have the same few CAs. Without
    ``cached`` it is not put there: that of one Mac does not come again.
    """
    if cached and len(octets) <= _LONGEST_CACHED:
        return _cached(bytes(octets))
    if len(octets) > MAX_BYTES:
        raise CertificateError(f"expected a certificate of at most {MAX_BYTES:,} bytes, found {len(octets):,}")
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
    return tuple(_fully_parsed(certificate) for certificate in found)


def read_pkcs12(
    octets: bytes, password: bytes | None
) -> tuple[object, x509.Certificate | None, tuple[x509.Certificate, ...]]:
    """Key, certificate and further certificates of a PKCS12 that ``agent.pki.pfx`` has checked for its cost.

    Raises CertificateError, also if the password is wrong.
    """
    try:
        key, certificate, others = pkcs12.load_key_and_certificates(octets, password)
    except Exception as error:  # cryptography has no common class for unsupported algorithms
        raise CertificateError(str(error)) from error
    return (
        key,
        None if certificate is None else _fully_parsed(certificate),
        tuple(read_certificate(other.public_bytes(Encoding.DER)) for other in others),
    )


def own_certificate(octets: bytes) -> x509.Certificate:
    """A certificate in DER that this program has parsed or made before; its parts are not checked again."""
    return x509.load_der_x509_certificate(octets)


def from_openssl(certificate: crypto.X509) -> x509.Certificate:
    """A certificate of OpenSSL as one of cryptography, without parsing every part. Raises CertificateError.

    A CA in a chain may have parts that cryptography refuses and that are not needed.
    """
    try:
        with _readable():
            return certificate.to_cryptography()
    except crypto.Error as error:  # OpenSSL cannot encode what it has parsed
        raise CertificateError("the certificate cannot be read") from error


def for_openssl(certificate: x509.Certificate) -> crypto.X509:
    """A certificate as an object of OpenSSL. Raises CertificateError where OpenSSL refuses it."""
    try:
        return crypto.X509.from_cryptography(certificate)
    except crypto.Error as error:
        raise CertificateError("OpenSSL cannot read the certificate") from error


def peer_certificate(tls: SSL.Connection) -> x509.Certificate | None:
    """The certificate that the peer of a TLS connection presented, or None. Raises CertificateError."""
    found = tls.get_peer_certificate()
    return None if found is None else read_openssl(found)


def peer_chain(tls: SSL.Connection) -> tuple[x509.Certificate, ...]:
    """The certificates that a client presented, its own first; empty without one. Raises CertificateError."""
    own = tls.get_peer_certificate()
    if own is None:
        return ()
    # On the server's side, OpenSSL's chain does not include the peer's own certificate.
    return tuple(read_openssl(found) for found in (own, *(tls.get_peer_cert_chain() or ())))


def read_openssl(certificate: crypto.X509) -> x509.Certificate:
    """A certificate of OpenSSL as one of cryptography, with every part parsed. Raises CertificateError."""
    try:
        octets = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
    except crypto.Error as error:  # OpenSSL cannot encode what it has parsed
        raise CertificateError("the certificate cannot be read") from error
    return read_certificate(octets)


@lru_cache(_CACHED)
def _cached(octets: bytes) -> x509.Certificate:
    return _read(octets)


def _read(octets: bytes) -> x509.Certificate:
    with _readable():
        certificate = x509.load_der_x509_certificate(octets)
    return _fully_parsed(certificate)


def _fully_parsed(certificate: x509.Certificate) -> x509.Certificate:
    """The certificate, after every part was accessed once."""
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
