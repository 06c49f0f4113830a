"""Identities from a seed: equal in every process, valid for their role only, accepted by other programs."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from debian import need
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from agent.pki.identity import Identity, IdentityError
from agent.pki.issuing.authority import LOM_USAGE, Authority
from agent.pki.issuing.seeded import SeededIdentities
from agent.pki.pem import certificate_pem, key_pem, load_identity
from agent.pki.purpose import Purpose
from agent.pki.verify import UntrustedChain, WrongName, controller_judge, device_judge, verify_chain

NAME = "mac-1.lom.test"
SEEDED = SeededIdentities("trial")
DEVICE, CONTROLLER = SEEDED.device(1, NAME), SEEDED.controller(1, NAME)
# What this version gives. Another value here means that two versions of the program no longer trust each other.
FINGERPRINTS = {
    "device_ca": "f6cfb4c5f4529349900adf8304500cb3a18961fbbd8341b2e9c93f52c6c1db0d",
    "controller_ca": "39f8b92821a2e43aeb1e558f51d3107449a4d3d4fb1bdd68c6d9987110818d57",
    "device": "2ce95d8cdde6acdd18a758811a16828c12e0574d4bb1ea07fe6acf2fb66e11ca",
    "controller": "41a3316f1bb8c2156d5a9cf22f8bfc34d1f82676e1399374cf342ca0eca4d819",
}
PROGRAM = f"""
from agent.pki.issuing.seeded import SeededIdentities
from cryptography.hazmat.primitives import hashes
seeded = SeededIdentities("trial")
for each in (seeded.device_ca, seeded.controller_ca, seeded.device(1, {NAME!r}).certificate,
             seeded.controller(1, {NAME!r}).certificate):
    print(each.fingerprint(hashes.SHA256()).hex())
"""


def openssl(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [need("openssl", "openssl"), *arguments], capture_output=True, cwd=folder, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def public(identity: Identity) -> object:
    return identity.key.public_key()


@pytest.mark.slow
def test_seeded_identities_are_reproducible() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True, timeout=60)
    assert done.stdout.decode().split() == list(FINGERPRINTS.values())


def test_each_role_has_its_own_ca() -> None:
    assert verify_chain([DEVICE.certificate], [SEEDED.device_ca], device_judge(NAME), Purpose.TLS_SERVER) == NAME
    assert verify_chain([CONTROLLER.certificate], [SEEDED.controller_ca], controller_judge, Purpose.TLS_CLIENT) == NAME
    for identity, anchor in ((DEVICE, SEEDED.controller_ca), (CONTROLLER, SEEDED.device_ca)):
        with pytest.raises(UntrustedChain):
            verify_chain([identity.certificate], [anchor], controller_judge, Purpose.TLS_CLIENT)
    with pytest.raises(WrongName):
        verify_chain([DEVICE.certificate], [SEEDED.device_ca], device_judge("mac-2.lom.test"), Purpose.TLS_SERVER)


def test_identities_of_another_seed_are_untrusted_and_named() -> None:
    other = SeededIdentities("trial ")
    with pytest.raises(UntrustedChain, match=r"issued by CN=LOM Device CA of seed [0-9a-f]{8}"):
        verify_chain([other.device(1, NAME).certificate], [SEEDED.device_ca], device_judge(NAME), Purpose.TLS_SERVER)
    assert other.device_ca.subject != SEEDED.device_ca.subject


def test_seeded_identities_are_valid_for_thirty_years() -> None:
    for certificate in (SEEDED.device_ca, SEEDED.controller_ca, DEVICE.certificate, CONTROLLER.certificate):
        assert certificate.not_valid_before_utc == datetime(2020, 1, 1, tzinfo=UTC)
        assert certificate.not_valid_after_utc == datetime(2050, 1, 1, tzinfo=UTC)


@examples(25)
@given(
    st.text(max_size=40) | st.just("\udcff"), st.integers(0, 2**64), st.integers(0, 2**64), st.sampled_from([NAME, "x"])
)
def test_seeded_keys_and_serial_numbers_are_unique(seed: str, first: int, second: int, name: str) -> None:
    seeded = SeededIdentities(seed)
    mine = {("device", index): seeded.device(index, name) for index in (first, second)}
    mine |= {("controller", index): seeded.controller(index, name) for index in (first, second)}
    certificates = [each.certificate for each in mine.values()] + [seeded.device_ca, seeded.controller_ca]
    assert len({key_pem(each.key) for each in mine.values()}) == len(mine)
    assert len({each.serial_number for each in certificates}) == len(certificates)
    assert all(0 < each.serial_number < 2**159 for each in certificates)
    assert all(each.key.public_key() == each.certificate.public_key() for each in mine.values())
    again = SeededIdentities(seed)
    assert all(
        identity.certificate == getattr(again, role)(index, name).certificate
        for (role, index), identity in mine.items()
    )


def test_openssl_accepts_seeded_identities_at_both_ends(tmp_path: Path) -> None:
    for name, identity, ca, purpose in (
        ("device", DEVICE, SEEDED.device_ca, "sslserver"),
        ("controller", CONTROLLER, SEEDED.controller_ca, "sslclient"),
    ):
        (tmp_path / f"{name}.pem").write_bytes(certificate_pem(identity.certificate))
        (tmp_path / f"{name}.key").write_bytes(key_pem(identity.key))
        (tmp_path / f"{name}-ca.pem").write_bytes(certificate_pem(ca))
        strict = ["-x509_strict", "-purpose", purpose, "-verify_hostname", NAME]
        assert "OK" in openssl(tmp_path, "verify", *strict, "-CAfile", f"{name}-ca.pem", f"{name}.pem")
        assert "Key is valid" in openssl(tmp_path, "pkey", "-in", f"{name}.key", "-check", "-noout")
        assert "prime256v1" in openssl(tmp_path, "pkey", "-in", f"{name}.key", "-text", "-noout")


# PEM


def test_pem_identity_survives_a_round_trip() -> None:
    ca = SEEDED.device_ca
    read = load_identity(certificate_pem(DEVICE.certificate) + certificate_pem(ca), key_pem(DEVICE.key))
    assert (read.certificate, public(read), read.chain) == (DEVICE.certificate, public(DEVICE), (ca,))


def _encrypted() -> bytes:
    return DEVICE.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


@pytest.mark.parametrize(
    ("certificate", "key", "words"),
    [
        (b"", key_pem(DEVICE.key), "expected a certificate in PEM"),
        (DEVICE.certificate.public_bytes(Encoding.DER), key_pem(DEVICE.key), "expected a certificate in PEM"),
        (certificate_pem(DEVICE.certificate), b"no key", "expected a private key in PEM"),
        (certificate_pem(DEVICE.certificate), _encrypted(), "openssl pkey"),
        (
            certificate_pem(DEVICE.certificate),
            key_pem(CONTROLLER.key),
            "expected the key of the first certificate, CN=mac-1",
        ),
    ],
)
def test_invalid_identity_is_refused(certificate: bytes, key: bytes, words: str) -> None:
    with pytest.raises(IdentityError, match=words):
        load_identity(certificate, key)


def test_other_types_of_keys_are_refused() -> None:
    ed25519 = (
        b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n"
        b"-----END PRIVATE KEY-----\n"  # RFC 8032, 7.1, test 1
    )
    with pytest.raises(IdentityError, match="RSA or elliptic curve"):
        load_identity(certificate_pem(DEVICE.certificate), ed25519)
    p384 = Authority.create("CA").issue(NAME, LOM_USAGE, key=ec.generate_private_key(ec.SECP384R1()))
    assert public(load_identity(certificate_pem(p384.certificate), key_pem(p384.key))) == public(p384)
