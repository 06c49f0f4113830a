"""An identity: a private key and its certificate, as a profile's PKCS12 payload brings it or an authority makes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from asn1crypto import algos, cms, pkcs12
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization import pkcs12 as crypto_pkcs12

from agent.errors import PeerError

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

MAX_PKCS12_BYTES = 1024 * 1024
MAX_KDF_ITERATIONS = 1_000_000  # OpenSSL writes 2,048, current Macs 1,000,000 at the most
_PKCS12_WRITE_ROUNDS = 2048  # OpenSSL's own default


class IdentityError(PeerError):
    """A PKCS12 that cannot be unpacked into one private key and its certificate."""

    kind = "identity"


class WrongPasswordError(IdentityError):
    """The PKCS12 is well formed, but its password is another one."""

    kind = "pkcs12_password"


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key, the certificate for it, and the certificates between it and a trust anchor."""

    certificate: x509.Certificate
    key: PrivateKey
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the certificate: 32 bytes."""
        return self.certificate.fingerprint(hashes.SHA256())


def load_pkcs12(blob: bytes, password: str | None) -> Identity:
    """Unpack a PKCS12, legacy or modern, into its identity.

    Raises WrongPasswordError, or IdentityError for anything else that is wrong. The work that a hostile file can
    ask for is bounded: its key derivations are counted before the first is done.
    """
    if len(blob) > MAX_PKCS12_BYTES:
        raise IdentityError(f"the PKCS12 is {len(blob)} bytes long; at most {MAX_PKCS12_BYTES} are taken")
    _check_structure(blob)
    secret = password.encode() if password is not None else None
    try:
        key, certificate, others = crypto_pkcs12.load_key_and_certificates(blob, secret)
    except ValueError as error:
        if "password" in str(error).lower():
            raise WrongPasswordError("the PKCS12 does not open with the payload's Password") from error
        raise IdentityError(f"the PKCS12 cannot be read: {error}") from error
    except Exception as error:  # cryptography names no common class for unsupported algorithms
        raise IdentityError(f"the PKCS12 cannot be read: {error}") from error
    if certificate is None or key is None:
        raise IdentityError("the PKCS12 should hold one private key with its certificate, but one of them is missing")
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise IdentityError(f"the PKCS12 holds a {type(key).__name__}; a Mac's identity is RSA or elliptic curve")
    return Identity(certificate, key, tuple(others))


def dump_pkcs12(identity: Identity, password: str, friendly_name: str) -> bytes:
    """Pack an identity into a PKCS12 (AES-256, PBKDF2, HMAC with SHA-256), readable by every current system."""
    encryption = (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(_PKCS12_WRITE_ROUNDS)
        .key_cert_algorithm(crypto_pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(password.encode())
        if password
        else BestAvailableEncryption(password.encode())
    )
    return crypto_pkcs12.serialize_key_and_certificates(
        friendly_name.encode(), identity.key, identity.certificate, identity.chain or None, encryption
    )


def _check_structure(blob: bytes) -> None:
    try:
        counts = list(_kdf_iterations(pkcs12.Pfx.load(blob, strict=True)))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IdentityError(f"the payload is no PKCS12: {error}") from error
    for count in counts:
        if count > MAX_KDF_ITERATIONS:
            raise IdentityError(
                f"the PKCS12 asks for {count} rounds of key derivation; at most {MAX_KDF_ITERATIONS} are done"
            )


def _kdf_iterations(pfx: pkcs12.Pfx) -> Iterator[int]:
    """Every iteration count that opening the PKCS12 would run, as far as it can be seen without the password."""
    mac = pfx["mac_data"]
    if mac.native is not None:
        yield int(mac["iterations"].native)
    yield from _safe_iterations(pfx.authenticated_safe)


def _safe_iterations(safe: Iterable[cms.ContentInfo]) -> Iterator[int]:
    for info in safe:
        if info["content_type"].native == "encrypted_data":
            encrypted = info["content"]["encrypted_content_info"]
            yield _algorithm_iterations(encrypted["content_encryption_algorithm"])
        elif info["content_type"].native == "data":
            for bag in pkcs12.SafeContents.load(info["content"].native):
                if bag["bag_id"].native == "pkcs8_shrouded_key_bag":
                    yield _algorithm_iterations(bag["bag_value"]["encryption_algorithm"])


def _algorithm_iterations(algorithm: algos.EncryptionAlgorithm) -> int:
    parameters = algorithm["parameters"]
    if algorithm["algorithm"].native == "pbes2":
        return int(parameters["key_derivation_func"]["parameters"]["iteration_count"].native)
    return int(parameters["iterations"].native)
