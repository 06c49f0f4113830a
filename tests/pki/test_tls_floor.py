"""The judgement of a server's TLS, as a table."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from rsa_keys import rsa_key

from agent.pki.tls_floor import Handshake, faults

GCM, CBC = "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-SHA384"


class Certificate:
    """The parts of a certificate that are judged; a real one with SHA-1 cannot be made with cryptography."""

    def __init__(self, key: Any, digest: hashes.HashAlgorithm | None) -> None:
        self._key = key
        self.signature_hash_algorithm = digest

    def public_key(self) -> Any:
        if isinstance(self._key, Exception):
            raise self._key
        return self._key.public_key()


STRONG = Certificate(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())


@pytest.mark.parametrize(
    ("version", "cipher", "extended", "rules"),
    [
        ("TLSv1.3", "TLS_AES_128_GCM_SHA256", None, []),
        ("TLSv1.2", GCM, True, []),
        ("TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384", None, []),
        ("TLSv1.2", "ECDHE-RSA-CHACHA20-POLY1305", True, []),
        ("TLSv1.2", GCM, False, ["extended master secret"]),
        ("TLSv1.2", CBC, True, ["cipher suite"]),
        ("TLSv1.2", "AES128-GCM-SHA256", True, ["cipher suite"]),
        ("TLSv1.2", "DHE-RSA-AES128-GCM-SHA256", True, ["cipher suite"]),
        ("TLSv1.1", "ECDHE-RSA-AES128-SHA", False, ["version", "cipher suite", "extended master secret"]),
        ("", "", None, ["version", "cipher suite"]),
    ],
)
def test_versions_and_cipher_suites(version: str, cipher: str, extended: bool | None, rules: list[str]) -> None:
    handshake = Handshake(version, cipher, extended, _certificate(STRONG))
    assert [fault.rule for fault in faults(handshake)] == rules


@pytest.mark.parametrize(
    ("certificate", "rules"),
    [
        (None, []),
        (STRONG, []),
        (Certificate(rsa_key(), hashes.SHA384()), []),
        (Certificate(ed25519.Ed25519PrivateKey.generate(), None), []),
        (Certificate(rsa_key(1024), hashes.SHA256()), ["key"]),
        (Certificate(ec.generate_private_key(ec.SECP224R1()), hashes.SHA256()), ["key"]),
        (Certificate(STRONG, hashes.SHA1()), ["signature"]),
        (Certificate(ValueError(), hashes.SHA256()), ["key"]),
    ],
)
def test_keys_and_signatures(certificate: Certificate | None, rules: list[str]) -> None:
    found = faults(Handshake("TLSv1.3", "TLS_AES_128_GCM_SHA256", None, _certificate(certificate)))
    assert [fault.rule for fault in found] == rules
    assert all(fault.expected and fault.found and fault.rule in str(fault) for fault in found)


def _certificate(certificate: Any) -> x509.Certificate | None:
    return certificate  # type: ignore[no-any-return]
