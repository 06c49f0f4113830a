"""An RSA key and its prime."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from rsa_keys import rsa_key, rsa_keys

from agent.pki.identity import Identity
from agent.pki.issuing.authority import CLIENT_USAGE, Authority
from agent.pki.rsa_prime import key_of, prime_of

ROOT = Authority.create("Root")


@pytest.mark.parametrize("bits", [1024, 2048])
def test_rsa_key_survives_a_round_trip(bits: int) -> None:
    key = rsa_key(bits)
    identity = ROOT.issue("mac", CLIENT_USAGE, key=key)
    certificate, octets = identity.octets
    numbers = key.private_numbers()
    prime = prime_of(identity.certificate, octets)
    assert len(prime) == bits // 16
    again = Identity.of_octets(certificate, key_of(identity.certificate, prime))
    assert isinstance(again.key, rsa.RSAPrivateKey)  # its private exponent may be another that does the same
    assert {again.key.private_numbers().p, again.key.private_numbers().q} == {numbers.p, numbers.q}
    assert again.key.sign(b"text", padding.PKCS1v15(), SHA256()) == key.sign(b"text", padding.PKCS1v15(), SHA256())


def test_key_of_another_certificate_is_stored_in_full() -> None:
    one, other = rsa_keys(1024)
    mixed = Identity(ROOT.issue("mac", CLIENT_USAGE, key=one).certificate, other)
    assert prime_of(mixed.certificate, mixed.octets[1]) == b""
    curve = ROOT.issue("mac", CLIENT_USAGE)
    assert prime_of(curve.certificate, curve.octets[1]) == b""
    assert prime_of(mixed.certificate, curve.octets[1]) == b""
