"""Identities in PEM, as OpenSSL and most other programs keep them: certificates in one text, the key in another."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from agent.pki.certificates import CertificateError, read_pem
from agent.pki.identity import Identity, IdentityError, PrivateKey


def load_identity(certificates: bytes, key: bytes) -> Identity:
    """The identity in two PEM texts. The first certificate is its own, the others lead to a CA.

    Raises IdentityError; also where the key is encrypted, or another certificate's.
    """
    try:
        own, *chain = read_pem(certificates)
    except CertificateError as error:
        raise IdentityError(f"expected a certificate in PEM (-----BEGIN CERTIFICATE-----): {error}") from error
    private_key = _load_key(key)
    if _public(private_key.public_key()) != _public(own.public_key()):
        raise IdentityError(
            f"the key is not that of the certificate {own.subject.rfc4514_string()}, the first in its file"
        )
    return Identity(own, private_key, tuple(chain))


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """One certificate."""
    return certificate.public_bytes(Encoding.PEM)


def key_pem(key: PrivateKey) -> bytes:
    """A private key as PKCS #8, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_key(pem: bytes) -> PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise IdentityError(
            "the key is encrypted; decrypt it first: openssl pkey -in encrypted.pem -out key.pem"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"the key is not in PEM (-----BEGIN PRIVATE KEY-----): {error}") from error
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise IdentityError(f"the key is a {type(key).__name__}; a Mac's identity is RSA or elliptic curve")
    return key


def _public(key: object) -> bytes:
    if not isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey)):
        return b""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
