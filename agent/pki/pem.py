"""Identities and private keys in PEM, as OpenSSL writes them: certificates in one text, the key in another."""

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
    """The identity in two PEM texts. The first certificate is its own, the others are its chain to a CA.

    Raises IdentityError, also if the key is encrypted or belongs to another certificate.
    """
    try:
        own, *chain = read_pem(certificates)
    except CertificateError as error:
        raise IdentityError(f"expected a certificate in PEM (-----BEGIN CERTIFICATE-----): {error}") from error
    private_key = load_key(key)
    if _public(private_key.public_key()) != _public(own.public_key()):
        raise IdentityError(
            f"expected the key of the first certificate, {own.subject.rfc4514_string()}; found another key"
        )
    return Identity(own, private_key, tuple(chain))


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """One certificate."""
    return certificate.public_bytes(Encoding.PEM)


def key_pem(key: PrivateKey) -> bytes:
    """A private key as PKCS #8, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_key(pem: bytes) -> PrivateKey:
    """An RSA or elliptic curve key in PEM, not encrypted. Raises IdentityError."""
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise IdentityError(
            "expected a key without a password, found an encrypted one. Decrypt it: openssl pkey -in encrypted.pem "
            "-out key.pem"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"expected a private key in PEM (-----BEGIN PRIVATE KEY-----): {error}") from error
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise IdentityError(f"expected an RSA or elliptic curve key, found a {type(key).__name__}")
    return key


def _public(key: object) -> bytes:
    if not isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey)):
        return b""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
