"""An identity: a private key and its certificate, from a profile's PKCS12 payload or from an authority."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key
from cryptography.hazmat.primitives.serialization import pkcs12 as crypto_pkcs12

from agent.errors import MisuseError, PeerError
from agent.pki.certificates import CertificateError, own_certificate, read_pkcs12

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

MAX_PKCS12_BYTES = 1024 * 1024
_PKCS12_WRITE_ROUNDS = 2048  # OpenSSL's own default


class IdentityError(PeerError):
    """A PKCS12 that cannot be unpacked into one private key and its certificate."""

    kind = "identity"


class WrongPasswordError(IdentityError):
    """The PKCS12 is well formed, but has another password."""

    kind = "pkcs12_password"


class Identity:
    """A private key, the certificate for it, and the certificates between it and a trust anchor.

    The certificate is stored as DER, the key as DER or as an object of the library. An object is parsed when it is
    needed: a certificate of which every part was read is five times as large as its DER. ``free_objects`` keeps only
    the DER. A key is slower in its first signature than in later ones.

    ``for_tls`` and ``for_cms`` are what `agent.net.transport.openssl_direct` and `agent.pki.mdm_signatures` made of it
    for its next use, None before; they are freed with the objects.
    """

    __slots__ = (
        "__weakref__",
        "_certificate",
        "_key",
        "_key_octets",
        "certificate_octets",
        "chain",
        "for_cms",
        "for_tls",
    )

    def __init__(
        self, certificate: x509.Certificate, key: PrivateKey, chain: tuple[x509.Certificate, ...] = ()
    ) -> None:
        self.certificate_octets = certificate.public_bytes(Encoding.DER)
        self._certificate: x509.Certificate | None = None
        self._key: PrivateKey | None = key
        self._key_octets = b""  # made when it is needed
        self.chain = chain
        self.for_tls: Any = None
        self.for_cms: Any = None

    @classmethod
    def of_octets(cls, certificate: bytes, key: bytes, chain: tuple[x509.Certificate, ...] = ()) -> Identity:
        """The identity with these ``octets``, which were checked before and are not checked again."""
        identity = cls.__new__(cls)
        identity._certificate = identity._key = None
        identity.certificate_octets, identity._key_octets = certificate, key
        identity.for_tls = identity.for_cms = None
        identity.chain = chain
        return identity

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and (self.octets, self.chain) == (other.octets, other.chain)

    def __hash__(self) -> int:
        return hash(self.octets)

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate."""
        if self._certificate is None:
            self._certificate = own_certificate(self.certificate_octets)
        return self._certificate

    @property
    def key(self) -> PrivateKey:
        """The private key."""
        if self._key is None:
            self._key = _own_key(self._key_octets)
        return self._key

    @property
    def octets(self) -> tuple[bytes, bytes]:
        """The DER of the certificate and of the key."""
        if not self._key_octets:
            self._key_octets = self.key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        return self.certificate_octets, self._key_octets

    def free_objects(self) -> None:
        """Free the objects and keep the DER."""
        if self.octets:
            self._certificate = self._key = self.for_tls = self.for_cms = None

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the certificate: 32 bytes."""
        return self.certificate.fingerprint(hashes.SHA256())


def _own_key(octets: bytes) -> PrivateKey:
    key = load_der_private_key(octets, None, unsafe_skip_rsa_key_validation=True)  # checked before
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise MisuseError(f"Expected an RSA or elliptic curve key, found a {type(key).__name__}.")
    return key


def load_pkcs12(blob: bytes, password: str | None) -> Identity:
    """Unpack a PKCS12, legacy or modern, into its identity.

    It supports every encryption of OpenSSL: PBES2 (AES, Camellia, 3DES, RC2 with PBKDF2) and the legacy ones (3DES,
    RC2, RC4 with SHA-1; DES with MD5), with a MAC by SHA-2, SHA-1 or MD5, or without one. It does not support scrypt,
    PBMAC1 (RFC 9579), public-key integrity, and a key within an encrypted part.

    Raises WrongPasswordError, or IdentityError for any other fault. The work for a hostile file is limited: its rounds
    of key derivation are counted before the first one.

    The last few files are remembered: some servers send one identity to all Macs, and a conformance run records what a
    Mac has just unpacked.
    """
    return Identity(*_unpacked(bytes(blob), password))


@lru_cache(maxsize=4)
def _unpacked(blob: bytes, password: str | None) -> tuple[x509.Certificate, PrivateKey, tuple[x509.Certificate, ...]]:
    if len(blob) > MAX_PKCS12_BYTES:
        raise IdentityError(f"expected a PKCS12 of at most {MAX_PKCS12_BYTES:,} bytes, found {len(blob):,}")
    from agent.pki.pfx import MACMismatch, PKCS12Error, prepare  # with asn1crypto, imported when it is used

    proven = True
    try:
        secret = password.encode() if password is not None else None
        prepared, proven = prepare(blob, password)
        key, certificate, others = read_pkcs12(prepared, secret)
    except MACMismatch as error:
        raise WrongPasswordError(str(error)) from error
    except PKCS12Error as error:
        raise IdentityError(str(error)) from error
    except (CertificateError, UnicodeError) as error:
        if not proven and "password" in str(error).lower():
            raise WrongPasswordError("the PKCS12 does not open with the payload's Password") from error
        raise IdentityError(f"the PKCS12 cannot be read: {error}") from error
    if certificate is None or key is None:
        raise IdentityError("expected a private key and its certificate in the PKCS12, found only one of them")
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise IdentityError(f"expected an RSA or elliptic curve key in the PKCS12, found a {type(key).__name__}")
    return certificate, key, others


def dump_pkcs12(identity: Identity, password: str, friendly_name: str) -> bytes:
    """Pack an identity into a PKCS12 (AES-256, PBKDF2, HMAC with SHA-256), which every current system reads."""
    encryption = (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(_PKCS12_WRITE_ROUNDS)
        .key_cert_algorithm(crypto_pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(password.encode())
        if password
        else NoEncryption()
    )
    return crypto_pkcs12.serialize_key_and_certificates(
        friendly_name.encode(), identity.key, identity.certificate, identity.chain or None, encryption
    )
