"""JWS, CBOR and the attestation object: against other implementations, published examples, and hostile bytes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from agent.pki.acme.attestation import attestation_answer, attestation_in, freshness_code
from agent.pki.acme.cbor import dump_cbor, load_cbor
from agent.pki.acme.errors import ACMEError
from agent.pki.acme.jws import (
    MAX_BYTES,
    check_signature,
    decode_base64url,
    encode_base64url,
    jwk_of,
    key_of,
    load_object,
    read_message,
    sign,
    thumbprint,
)

# RFC 7515, A.3
EXAMPLE_KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}
EXAMPLE = {
    "protected": "eyJhbGciOiJFUzI1NiJ9",
    "payload": "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
    "signature": "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
}
KEYS = [ec.generate_private_key(curve()) for curve in (ec.SECP256R1, ec.SECP384R1)]

cbor = st.recursive(
    st.integers(0, 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def test_the_example_of_rfc_7515_is_verified() -> None:
    check_signature(read_message(json.dumps(EXAMPLE).encode()), key_of(EXAMPLE_KEY))
    changed = json.dumps({**EXAMPLE, "payload": "eyJpc3MiOiJqb2YiLA"}).encode()
    with pytest.raises(ACMEError, match="signature"):
        check_signature(read_message(changed), key_of(EXAMPLE_KEY))


@pytest.mark.parametrize("key", KEYS, ids=["ES256", "ES384"])
@given(payload=st.binary(max_size=200), nonce=st.text(max_size=20))
def test_a_signed_message_is_read_again(key: ec.EllipticCurvePrivateKey, payload: bytes, nonce: str) -> None:
    message = read_message(sign(key, {"nonce": nonce, "jwk": jwk_of(key.public_key())}, payload))
    assert (message.payload, message.protected["nonce"]) == (payload, nonce)
    check_signature(message, key_of(message.protected["jwk"]))
    for other in KEYS:
        if other is not key:
            with pytest.raises(ACMEError):
                check_signature(message, other.public_key())


def test_a_thumbprint_is_of_the_members_in_order() -> None:
    """RFC 7638, 3: lexicographic order, no white space."""
    public = key_of(EXAMPLE_KEY)
    text = f'{{"crv":"P-256","kty":"EC","x":"{EXAMPLE_KEY["x"]}","y":"{EXAMPLE_KEY["y"]}"}}'
    assert thumbprint(public) == encode_base64url(hashlib.sha256(text.encode()).digest())


@pytest.mark.parametrize(
    "jwk",
    [
        None, [], {}, {**EXAMPLE_KEY, "kty": "RSA"}, {**EXAMPLE_KEY, "crv": "P-521"}, {**EXAMPLE_KEY, "crv": []},
        {**EXAMPLE_KEY, "x": "AA"}, {**EXAMPLE_KEY, "x": 5}, {**EXAMPLE_KEY, "x": EXAMPLE_KEY["y"]},
        {**EXAMPLE_KEY, "y": EXAMPLE_KEY["y"] + "="},
    ],
)  # fmt: skip
def test_another_key_is_refused(jwk: Any) -> None:
    with pytest.raises(ACMEError):
        key_of(jwk)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode) | st.builds(
    lambda value: json.dumps(value).encode(),
    st.dictionaries(st.sampled_from([*EXAMPLE, "header"]), st.text(max_size=9) | st.integers() | st.none()),
))  # fmt: skip
def test_hostile_messages_are_refused(octets: bytes) -> None:
    with pytest.raises(ACMEError):
        read_message(octets)


def test_json_is_bounded() -> None:
    for hostile in (b"[" * MAX_BYTES, b'{"a":' * 10_000, b"9" * 5000, b"{}" + b" " * MAX_BYTES, b"\xff", b"[1]"):
        with pytest.raises(ACMEError):
            load_object(hostile, "x")


@given(st.binary(max_size=100))
def test_base64url_is_read_again(octets: bytes) -> None:
    text = encode_base64url(octets)
    assert decode_base64url(text, "x") == octets
    assert "=" not in text


@given(cbor)
def test_cbor_is_what_another_implementation_reads_and_writes(value: Any) -> None:
    octets = dump_cbor(value)
    assert cbor2.loads(octets) == value
    assert load_cbor(octets) == value
    assert len(octets) == len(cbor2.dumps(value))


@given(st.binary(max_size=60) | st.builds(lambda value, cut: dump_cbor(value)[:cut], cbor, st.integers(0, 50)))
def test_hostile_cbor_is_refused_or_deterministic(octets: bytes) -> None:
    try:
        value = load_cbor(octets)
    except ACMEError:
        return
    assert cbor2.loads(octets) == value
    assert len(dump_cbor(value)) == len(octets)


@pytest.mark.parametrize(
    "octets",
    [
        b"\x81" * 30 + b"\x00", b"\x9a\xff\xff\xff\xff", b"\xbb" + b"\xff" * 8, b"\x5b" + b"\xff" * 8, b"\x9f\xff",
        b"\x18\x05", b"\x19\x00\x05", b"\xa2\x61a\x00\x61a\x01", b"\xa1\x00\x00", b"\x61\xff", b"\xf6",
        b"\x20", b"\x00\x00",
        b"\x98\xff" + b"\x81" * 255 + b"\x00",
    ],
)  # fmt: skip
def test_cbor_beyond_the_limits_is_refused(octets: bytes) -> None:
    with pytest.raises(ACMEError):
        load_cbor(octets)


def test_an_attestation_object_is_that_of_apple() -> None:
    answer = attestation_answer([b"leaf", b"intermediate"])
    content = cbor2.loads(decode_base64url(answer["attObj"], "attObj"))
    assert content == {"fmt": "apple", "attStmt": {"x5c": [b"leaf", b"intermediate"]}}
    assert attestation_in({**answer}) == (b"leaf", b"intermediate")
    assert attestation_in({**attestation_answer(())}) == ()
    assert freshness_code("token") == hashlib.sha256(b"token").digest()


@pytest.mark.parametrize(
    "content",
    [
        [], {}, {"fmt": "apple"}, {"fmt": "apple", "attStmt": {}}, {"fmt": "apple", "attStmt": {"x5c": []}},
        {"fmt": "apple", "attStmt": {"x5c": ["text"]}}, {"fmt": "apple", "attStmt": {"x5c": [b"a"] * 9}},
        {"fmt": "tpm", "attStmt": {"x5c": [b"a"]}}, {"fmt": 5, "attStmt": {}},
    ],
)  # fmt: skip
def test_another_attestation_object_is_refused(content: Any) -> None:
    with pytest.raises(ACMEError):
        attestation_in({"attObj": encode_base64url(cbor2.dumps(content))})
