"""Certificates and identities from the operator's files, and every way in which a pair of files is no identity."""

from __future__ import annotations

from base64 import encodebytes
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from agent.cli.apns.gateway import gateway_authority
from agent.errors import OperatorError
from agent.net.transport.anchors import MAX_KEY_BYTES, read_identity
from agent.pki.issuing.authority import Authority
from agent.pki.pem import certificate_pem, key_pem

_P256 = bytes.fromhex("06082a8648ce3d030107")  # the OID of the curve, 1.2.840.10045.3.1.7
_P192V2 = bytes.fromhex("06082a8648ce3d030102")  # prime192v2, which cryptography does not have


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("Test CA")


def write_pair(folder: Path, authority: Authority, key: bytes | None = None) -> tuple[str, str]:
    certificate, key_file = folder / "ca.pem", folder / "ca.key"
    certificate.write_bytes(certificate_pem(authority.certificate))
    key_file.write_bytes(key_pem(authority.identity.key) if key is None else key)
    return str(certificate), str(key_file)


def unsupported_curve() -> bytes:
    """A key in PEM that is well formed, of a curve that the library does not have."""
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()).replace(_P256, _P192V2)
    with pytest.raises(UnsupportedAlgorithm):
        load_der_private_key(der, None)
    return b"-----BEGIN PRIVATE KEY-----\n" + encodebytes(der) + b"-----END PRIVATE KEY-----\n"


def encrypted() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


def ed25519_key() -> bytes:
    return ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


BAD_KEYS = {
    "of another certificate": (
        lambda: key_pem(ec.generate_private_key(ec.SECP256R1())),
        "expected the key of the first certificate, CN=Test CA; found another key",
    ),
    "of a curve that is not supported": (unsupported_curve, "expected a private key in PEM"),
    "encrypted": (encrypted, "expected a key without a password, found an encrypted one"),
    "of another algorithm": (ed25519_key, "expected an RSA or elliptic curve key, found a "),
    "no PEM": (lambda: b"junk", "expected a private key in PEM"),
    "too long": (lambda: b" " * (MAX_KEY_BYTES + 1), "Expected at most 65,536 bytes in the key file"),
}


def test_a_certificate_and_its_key_are_an_identity(tmp_path: Path, authority: Authority) -> None:
    identity = read_identity(*write_pair(tmp_path, authority))
    assert identity.certificate == authority.certificate
    assert key_pem(identity.key) == key_pem(authority.identity.key)


@pytest.mark.parametrize("name", BAD_KEYS)
def test_key_of_another_certificate_raises_operator_error(tmp_path: Path, authority: Authority, name: str) -> None:
    make, text = BAD_KEYS[name]
    with pytest.raises(OperatorError) as refused:
        read_identity(*write_pair(tmp_path, authority, make()))
    assert text in str(refused.value)
    assert str(tmp_path / "ca.key") in str(refused.value)


@pytest.mark.parametrize("name", BAD_KEYS)
def test_the_ca_of_the_gateway_needs_its_own_key(tmp_path: Path, authority: Authority, name: str) -> None:
    make, text = BAD_KEYS[name]
    write_pair(tmp_path, authority, make())
    with pytest.raises(OperatorError) as refused:
        gateway_authority(tmp_path)
    assert text in str(refused.value)
