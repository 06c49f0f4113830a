"""Signature checks for CMS and PKCS#10, by the algorithm in the message: RSA PKCS#1 v1.5 and ECDSA."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from agent.errors import PeerError

# Known so that they are refused by name, or accepted from peers that support nothing better.
_MD5 = hashes.MD5()  # noqa: S303
_SHA1 = hashes.SHA1()  # noqa: S303
Digests = tuple[type[hashes.HashAlgorithm], ...]
SHA1_ONLY: Digests = (hashes.SHA1,)
LEGACY: Digests = (hashes.MD5, hashes.SHA1)

DIGESTS: Mapping[str, hashes.HashAlgorithm] = MappingProxyType(
    {
        "1.2.840.113549.2.5": _MD5,
        "1.3.14.3.2.26": _SHA1,
        "2.16.840.1.101.3.4.2.4": hashes.SHA224(),
        "2.16.840.1.101.3.4.2.1": hashes.SHA256(),
        "2.16.840.1.101.3.4.2.2": hashes.SHA384(),
        "2.16.840.1.101.3.4.2.3": hashes.SHA512(),
    }
)
RSA_ENCRYPTION = "1.2.840.113549.1.1.1"  # names no digest; another field does (RFC 3370, 3.2)
RSA_PSS = "1.2.840.113549.1.1.10"
_SIGNATURES: Mapping[str, tuple[hashes.HashAlgorithm, str]] = MappingProxyType(
    {
        "1.2.840.113549.1.1.4": (_MD5, "RSA"),
        "1.2.840.113549.1.1.5": (_SHA1, "RSA"),
        "1.2.840.113549.1.1.14": (hashes.SHA224(), "RSA"),
        "1.2.840.113549.1.1.11": (hashes.SHA256(), "RSA"),
        "1.2.840.113549.1.1.12": (hashes.SHA384(), "RSA"),
        "1.2.840.113549.1.1.13": (hashes.SHA512(), "RSA"),
        "1.2.840.10045.4.1": (_SHA1, "EC"),
        "1.2.840.10045.4.3.1": (hashes.SHA224(), "EC"),
        "1.2.840.10045.4.3.2": (hashes.SHA256(), "EC"),
        "1.2.840.10045.4.3.3": (hashes.SHA384(), "EC"),
        "1.2.840.10045.4.3.4": (hashes.SHA512(), "EC"),
    }
)


class SignatureError(PeerError):
    """A signature that does not hold, or by an algorithm that is refused."""

    kind = "signature"


def check_signature(
    key: PublicKeyTypes,
    algorithm: str,
    signature: bytes,
    signed: bytes,
    *,
    digest: hashes.HashAlgorithm | None = None,
    legacy: Digests = (),
) -> hashes.HashAlgorithm:
    """Check ``signature`` over ``signed`` by the algorithm with this dotted OID; its digest. Raises SignatureError.

    ``digest`` is for an algorithm that does not name one: plain RSA, as in CMS. ``legacy`` are the digests of LEGACY
    that are accepted.
    """
    if algorithm == RSA_PSS:
        raise SignatureError("expected a signature by RSA PKCS#1 v1.5 or ECDSA, found RSA-PSS, which is refused")
    used, family = (digest, "RSA") if algorithm == RSA_ENCRYPTION else _SIGNATURES.get(algorithm, (None, ""))
    if used is None:
        raise SignatureError(f"unknown signature algorithm {algorithm}")
    refuse_legacy(used, legacy)
    try:
        if family == "RSA" and isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, signed, padding.PKCS1v15(), used)
        elif family == "EC" and isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, signed, ec.ECDSA(used))
        else:
            raise SignatureError(f"expected an {family} key for an {family} signature, found another kind")
    except InvalidSignature as error:
        raise SignatureError("the signature does not match the content and the signer's key") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"the signer's key cannot check the signature: {error}") from error
    return used


def refuse_legacy(digest: hashes.HashAlgorithm, legacy: Digests) -> None:
    """Raise SignatureError for SHA-1 and MD5, unless they are among ``legacy``."""
    if type(digest) in LEGACY and type(digest) not in legacy:
        raise SignatureError(f"expected a signature with SHA-256, found {digest.name}, which is refused")
