"""JSON Web Signatures as ACME uses them: flattened JSON, ES256 and ES384, the key as a JWK or by its account's URL.

Source: RFC 7515, RFC 7517, RFC 7518, RFC 7638; RFC 8555, 6.2.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from agent.errors import MisuseError
from agent.pki.acme.errors import ACMEError

CONTENT_TYPE = "application/jose+json"
MAX_BYTES = 64 * 1024  # of one JSON document; ours

_URL_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


class _Algorithm(msgspec.Struct, frozen=True):
    name: str
    curve: str
    """Its name in a JWK."""
    kind: type[ec.EllipticCurve]
    digest: type[hashes.HashAlgorithm]
    size: int
    """Bytes of a coordinate, and of each half of a signature."""


_ALGORITHMS = {
    each.curve: each
    for each in (
        _Algorithm("ES256", "P-256", ec.SECP256R1, hashes.SHA256, 32),
        _Algorithm("ES384", "P-384", ec.SECP384R1, hashes.SHA384, 48),
    )
}


class SignedMessage(msgspec.Struct, frozen=True):
    """A request whose signature is not checked yet."""

    protected: Mapping[str, Any]
    """The protected header."""
    payload: bytes
    """Empty for POST-as-GET."""
    signed: bytes
    """The signing input."""
    signature: bytes


def encode_base64url(octets: bytes) -> str:
    """Base64url without padding (RFC 7515, 2)."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")


def decode_base64url(text: object, what: str) -> bytes:
    """The bytes of base64url without padding. Raises ACMEError, which names ``what``, for anything else."""
    if isinstance(text, str) and text.isascii() and _URL_SAFE.issuperset(text.encode()):
        try:
            return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except binascii.Error:
            pass
    raise ACMEError(f"expected base64url without padding for {what}, found {text!r:.80}")


def load_object(octets: bytes | str, what: str) -> dict[str, Any]:
    """A JSON object of at most MAX_BYTES. Raises ACMEError, which names ``what``."""
    if len(octets) > MAX_BYTES:
        raise ACMEError(f"expected at most {MAX_BYTES:,} bytes of JSON for {what}, found {len(octets):,}")
    try:
        found = json.loads(octets)
    except (ValueError, RecursionError) as error:
        raise ACMEError(f"expected a JSON object for {what}, found {octets[:80]!r}") from error
    if not isinstance(found, dict):
        raise ACMEError(f"expected a JSON object for {what}, found {octets[:80]!r}")
    return found


def jwk_of(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """The public key as a JWK with the members that its thumbprint has, in their order."""
    algorithm, numbers = _algorithm(key), key.public_numbers()
    return {
        "crv": algorithm.curve,
        "kty": "EC",
        "x": encode_base64url(numbers.x.to_bytes(algorithm.size, "big")),
        "y": encode_base64url(numbers.y.to_bytes(algorithm.size, "big")),
    }


def key_of(jwk: object) -> ec.EllipticCurvePublicKey:
    """The public key of a JWK. Raises ACMEError for one that is not EC on P-256 or P-384."""
    if not isinstance(jwk, dict) or jwk.get("kty") != "EC":
        raise ACMEError(f"expected a JWK of an elliptic curve key, found {jwk!r:.80}")
    curve = jwk.get("crv")
    algorithm = _ALGORITHMS.get(curve) if isinstance(curve, str) else None
    if algorithm is None:
        raise ACMEError(f"expected a JWK on {' or '.join(_ALGORITHMS)}, found the curve {curve!r:.40}")
    x, y = (decode_base64url(jwk.get(name), f"{name} of a JWK") for name in "xy")
    if len(x) != algorithm.size or len(y) != algorithm.size:
        raise ACMEError(f"expected {algorithm.size} bytes for x and y of a JWK, found {len(x)} and {len(y)}")
    try:
        return ec.EllipticCurvePublicNumbers(
            int.from_bytes(x, "big"), int.from_bytes(y, "big"), algorithm.kind()
        ).public_key()
    except ValueError as error:
        raise ACMEError("the x and y of a JWK are no point on its curve") from error


def thumbprint(key: ec.EllipticCurvePublicKey) -> str:
    """The SHA-256 of the key's JWK in base64url (RFC 7638)."""
    canonical = json.dumps(jwk_of(key), separators=(",", ":"), sort_keys=True)
    return encode_base64url(hashlib.sha256(canonical.encode()).digest())


def sign(key: ec.EllipticCurvePrivateKey, header: Mapping[str, Any], payload: bytes) -> bytes:
    """The body of a request: ``payload`` signed by ``key``. ``header`` is the protected header without ``alg``."""
    algorithm = _algorithm(key.public_key())
    protected = encode_base64url(json.dumps({"alg": algorithm.name, **header}, separators=(",", ":")).encode())
    encoded = encode_base64url(payload)
    r, s = decode_dss_signature(key.sign(f"{protected}.{encoded}".encode(), ec.ECDSA(algorithm.digest())))
    signature = r.to_bytes(algorithm.size, "big") + s.to_bytes(algorithm.size, "big")
    message = {"protected": protected, "payload": encoded, "signature": encode_base64url(signature)}
    return json.dumps(message, separators=(",", ":")).encode()


def read_message(octets: bytes) -> SignedMessage:
    """The parts of a request, before its key is known. Raises ACMEError."""
    message = load_object(octets, "the request")
    if not {"protected", "payload", "signature"} >= set(message):
        raise ACMEError(f"expected protected, payload and signature in the request, found {sorted(message)!r:.200}")
    protected = decode_base64url(message.get("protected"), "the protected header")
    payload = decode_base64url(message.get("payload"), "the payload")
    signature = decode_base64url(message.get("signature"), "the signature")
    signed = f"{message['protected']}.{message['payload']}".encode()
    return SignedMessage(load_object(protected, "the protected header"), payload, signed, signature)


def check_signature(message: SignedMessage, key: ec.EllipticCurvePublicKey) -> None:
    """Check that ``key`` signed the request, with the algorithm of its curve. Raises ACMEError."""
    algorithm = _algorithm(key)
    if message.protected.get("alg") != algorithm.name:
        raise ACMEError(f"expected alg {algorithm.name} for this key, found {message.protected.get('alg')!r:.40}")
    if len(message.signature) != 2 * algorithm.size:
        raise ACMEError(f"expected a signature of {2 * algorithm.size} bytes, found {len(message.signature)}")
    r, s = (int.from_bytes(half, "big") for half in _halves(message.signature))
    try:
        key.verify(encode_dss_signature(r, s), message.signed, ec.ECDSA(algorithm.digest()))
    except InvalidSignature as error:
        raise ACMEError("the signature of the request is not that of its key") from error


def _halves(signature: bytes) -> tuple[bytes, bytes]:
    size = len(signature) // 2
    return signature[:size], signature[size:]


def _algorithm(key: ec.EllipticCurvePublicKey) -> _Algorithm:
    for algorithm in _ALGORITHMS.values():
        if isinstance(key.curve, algorithm.kind):
            return algorithm
    raise MisuseError(f"Expected a key on {' or '.join(_ALGORITHMS)} for ACME, found one on {key.curve.name}.")
