"""The attestation object with which a device answers the challenge device-attest-01, written and read.

Source: draft-ietf-acme-device-attest (the answer is ``{"attObj": …}``, and authData is left out); W3C Web
Authentication, 6.5 (attestation object) and 8.7 (format ``none``). Format ``apple`` with ``x5c`` is what step-ca reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from agent.pki.acme.cbor import CBOR, dump_cbor, load_cbor
from agent.pki.acme.errors import ACMEError
from agent.pki.acme.jws import decode_base64url, encode_base64url

CHALLENGE = "device-attest-01"
PERMANENT_IDENTIFIER = "permanent-identifier"
MAX_CHAIN = 8  # certificates of an attestation; Apple's have two


def freshness_code(token: str) -> bytes:
    """The freshness code of an attestation: SHA-256 of the challenge's token.

    Source: apple-schema profiles/com.apple.security.acme.yaml, notes.
    """
    return hashlib.sha256(token.encode()).digest()


def attestation_answer(chain: Sequence[bytes]) -> dict[str, str]:
    """The answer to a challenge with a certificate chain in DER, the leaf first; without one in the format ``none``."""
    statement: dict[str, CBOR] = {"x5c": list(chain)} if chain else {}
    encoded = dump_cbor({"fmt": "apple" if chain else "none", "attStmt": statement})
    return {"attObj": encode_base64url(encoded)}


def attestation_in(answer: dict[str, object]) -> tuple[bytes, ...]:
    """The certificate chain in the answer to a challenge, in DER, the leaf first; empty for the format ``none``.

    Raises ACMEError.
    """
    content = load_cbor(decode_base64url(answer.get("attObj"), "attObj"))
    if not isinstance(content, dict):
        raise ACMEError("expected a map as the attestation object, found another value")
    statement = content.get("attStmt")
    if not isinstance(statement, dict):
        raise ACMEError("expected a map for attStmt of the attestation object, found another value")
    match content.get("fmt"):
        case "none":
            return ()
        case "apple":
            chain = statement.get("x5c")
            if not isinstance(chain, list) or not 0 < len(chain) <= MAX_CHAIN:
                raise ACMEError(f"expected 1 to {MAX_CHAIN} certificates in x5c, found something else")
            return tuple(_octets(each) for each in chain)
        case other:
            raise ACMEError(f"expected the attestation format apple or none, found {other!r:.40}")


def _octets(value: CBOR) -> bytes:
    if not isinstance(value, bytes):
        raise ACMEError("expected bytes for each certificate in x5c, found another value")
    return value
