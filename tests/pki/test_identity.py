"""Identities: modern and legacy PKCS12 by OpenSSL, and PKCS12 that is malformed or needs too many rounds."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from asn1crypto import algos, cms, core, pkcs12
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization import pkcs12 as crypto_pkcs12
from cryptography.x509.oid import ExtensionOID, NameOID
from debian import need
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from rsa_keys import rsa_key
from strategies_mdm import changed

from agent.pki import der
from agent.pki.identity import MAX_PKCS12_BYTES, Identity, IdentityError, WrongPasswordError, dump_pkcs12, load_pkcs12
from agent.pki.issuing.authority import CLIENT_USAGE, LOM_USAGE, SERVER_USAGE, Authority, Usage
from agent.pki.pfx import MAX_KDF_ROUNDS

PASSWORD = "correct horse"
ROOT = Authority.create("Test Root")
MAC = ROOT.issue("mac-1.lom.example.com", LOM_USAGE, names=["mac-1.lom.example.com"])
OTHER = ROOT.issue("other", CLIENT_USAGE)
PACKED = dump_pkcs12(Identity(MAC.certificate, MAC.key, (ROOT.certificate,)), PASSWORD, "mac")
SAFE_CONTENTS_BAG = core.ObjectIdentifier("1.2.840.113549.1.12.10.1.6").dump()  # RFC 7292, 4.2.6
COSTLY_ROUNDS = 1_000_000_000  # minutes, if anyone did them
BOMB_SECONDS = 30.0  # of CPU time: far beyond what a file takes whose rounds nobody does, however busy the machine


def same(found: Identity, expected: Identity) -> bool:
    return found.certificate == expected.certificate and found.key.public_key() == expected.key.public_key()


# OpenSSL's files


def test_identities_share_the_certificates_of_their_ca() -> None:
    one, other = load_pkcs12(PACKED, PASSWORD), load_pkcs12(PACKED, PASSWORD)
    assert one.chain[0] is other.chain[0]


def exported(tmp_path: Path, identity: Identity, *arguments: str, chain: Identity | None = None) -> bytes:
    """``identity`` in a PKCS12 by the ``openssl`` command; skipped where its build lacks what is asked for."""
    openssl = need("openssl", "openssl")
    key, certificate, others = tmp_path / "key.pem", tmp_path / "certificate.pem", tmp_path / "others.pem"
    key.write_bytes(identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    certificate.write_bytes(identity.certificate.public_bytes(Encoding.PEM))
    command = [openssl, "pkcs12", "-export", "-inkey", str(key), "-in", str(certificate), "-passout"]
    command += [f"pass:{PASSWORD}", *arguments]
    if chain is not None:
        others.write_bytes(chain.certificate.public_bytes(Encoding.PEM))
        command += ["-certfile", str(others)]
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


WRITINGS = {
    "as OpenSSL 3 writes": (),
    "AES-128": ("-keypbe", "AES-128-CBC", "-certpbe", "AES-128-CBC"),
    "3DES by PBKDF2": ("-keypbe", "des-ede3-cbc", "-certpbe", "des-ede3-cbc"),
    "Camellia": ("-keypbe", "camellia-256-cbc", "-certpbe", "camellia-256-cbc"),
    "as OpenSSL 1 and the Keychain write: RC2-40 and 3DES": ("-legacy",),
    "3DES": ("-legacy", "-descert"),
    "two-key 3DES": ("-legacy", "-keypbe", "PBE-SHA1-2DES", "-certpbe", "PBE-SHA1-2DES"),
    "RC2-40": ("-legacy", "-keypbe", "PBE-SHA1-RC2-40", "-certpbe", "PBE-SHA1-RC2-40"),
    "RC2-128": ("-legacy", "-keypbe", "PBE-SHA1-RC2-128", "-certpbe", "PBE-SHA1-RC2-128"),
    "RC4-128": ("-legacy", "-keypbe", "PBE-SHA1-RC4-128", "-certpbe", "PBE-SHA1-RC4-128"),
    "DES by MD5": ("-legacy", "-keypbe", "PBE-MD5-DES", "-certpbe", "PBE-MD5-DES"),
    "one round": ("-noiter", "-nomaciter"),
    "100,000 rounds": ("-iter", "100000"),
    "a MAC by SHA-1": ("-macalg", "sha1"),
    "a MAC by MD5": ("-macalg", "md5"),
    "a MAC by SHA-512": ("-macalg", "sha512"),
    "nothing encrypted": ("-keypbe", "NONE", "-certpbe", "NONE"),
    "no MAC": ("-nomac",),
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", WRITINGS.values(), ids=WRITINGS.keys())
def test_pkcs12_of_openssl_is_read_with_its_password_only(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    blob = exported(tmp_path, MAC, *arguments, chain=ROOT.identity)
    found = load_pkcs12(blob, PASSWORD)
    assert same(found, MAC)
    assert found.chain == (ROOT.certificate,)
    for wrong in ("another", "", None):
        with pytest.raises(WrongPasswordError):
            load_pkcs12(blob, wrong)


@pytest.mark.parametrize("arguments", [(), ("-legacy",)])
@pytest.mark.parametrize("password", ["Zürich \u2028 \u20ac", "\U0001f511", "p" * 200])
def test_password_can_be_any_text(tmp_path: Path, arguments: tuple[str, ...], password: str) -> None:
    blob = exported(tmp_path, MAC, *arguments, "-passout", f"pass:{password}")
    assert same(load_pkcs12(blob, password), MAC)
    with pytest.raises(WrongPasswordError):
        load_pkcs12(blob, password[:-1])


@pytest.mark.parametrize("arguments", [(), ("-legacy",), ("-nomac",)])
def test_no_password_and_an_empty_one_are_the_same(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    blob = exported(tmp_path, MAC, *arguments, "-passout", "pass:")
    assert same(load_pkcs12(blob, ""), MAC)
    assert same(load_pkcs12(blob, None), MAC)
    with pytest.raises(WrongPasswordError):
        load_pkcs12(blob, PASSWORD)


def test_openssl_reads_what_we_write(tmp_path: Path) -> None:
    (tmp_path / "mac.p12").write_bytes(PACKED)
    command = [need("openssl", "openssl"), "pkcs12", "-in", str(tmp_path / "mac.p12"), "-noenc", "-passin"]
    read = subprocess.run([*command, f"pass:{PASSWORD}"], check=True, capture_output=True, timeout=60).stdout
    assert MAC.certificate.public_bytes(Encoding.PEM) in read
    assert ROOT.certificate.public_bytes(Encoding.PEM) in read
    assert MAC.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) in read


# Our own files


@pytest.mark.parametrize("password", [PASSWORD, "", "ü"])
@pytest.mark.parametrize("chain", [(), (ROOT.certificate,), (ROOT.certificate, OTHER.certificate)])
def test_identity_survives_a_round_trip(password: str, chain: tuple[x509.Certificate, ...]) -> None:
    identity = Identity(MAC.certificate, MAC.key, chain)
    found = load_pkcs12(dump_pkcs12(identity, password, "mac"), password)
    assert same(found, MAC)
    assert set(found.chain) == set(chain)
    assert found.fingerprint == MAC.certificate.fingerprint(hashes.SHA256())


def test_certificate_of_the_key_is_chosen_at_any_position() -> None:
    blob = crypto_pkcs12.serialize_key_and_certificates(
        None, MAC.key, None, [ROOT.certificate, MAC.certificate], NoEncryption()
    )
    found = load_pkcs12(blob, None)
    assert same(found, MAC)
    assert found.chain == (ROOT.certificate,)


def test_an_rsa_identity_is_read() -> None:
    identity = ROOT.issue("rsa", CLIENT_USAGE, key=rsa_key())
    assert same(load_pkcs12(dump_pkcs12(identity, PASSWORD, "rsa"), PASSWORD), identity)


def _packed(key: crypto_pkcs12.PKCS12PrivateKeyTypes | None, certificates: list[x509.Certificate]) -> bytes:
    return crypto_pkcs12.serialize_key_and_certificates(b"name", key, None, certificates, NoEncryption())


@pytest.mark.parametrize(
    ("blob", "found"),
    [
        (b"", "not a PKCS12|expected a PKCS12"),
        (b"\x30\x80", "not a PKCS12|expected a PKCS12"),
        (MAC.certificate.public_bytes(Encoding.DER), "not a PKCS12|expected a PKCS12"),
        (MAC.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), "not a PKCS12|expected a PKCS12"),
        (MAC.certificate.public_bytes(Encoding.PEM), "not a PKCS12|expected a PKCS12"),
        (PACKED[:-1], "not a PKCS12|expected a PKCS12"),
        (PACKED + b"\x00", "not a PKCS12|expected a PKCS12"),
        (bytes(MAX_PKCS12_BYTES + 1), "at most"),
        (_packed(None, [MAC.certificate]), "expected a private key"),
        (_packed(MAC.key, []), "expected a private key"),
        (_packed(MAC.key, [OTHER.certificate, ROOT.certificate]), "expected a private key"),
    ],
)
def test_pkcs12_without_identity_is_refused_and_not_for_its_password(blob: bytes, found: str) -> None:
    with pytest.raises(IdentityError, match=found) as caught:
        load_pkcs12(blob, None)
    assert not isinstance(caught.value, WrongPasswordError)


def test_other_key_types_are_refused() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ed")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
    builder = builder.not_valid_before(MAC.certificate.not_valid_before_utc)
    certificate = builder.not_valid_after(MAC.certificate.not_valid_after_utc).sign(key, None)
    with pytest.raises(IdentityError, match="Ed25519"):
        load_pkcs12(_packed(key, [certificate]), None)


PLAIN = _packed(MAC.key, [MAC.certificate])


@given(st.data())
@examples(60, explored=150)
def test_any_bytes_are_an_identity_or_an_identity_error(data: st.DataObject) -> None:
    blob = data.draw(changed(PACKED) | changed(PLAIN) | st.binary(max_size=100))
    with contextlib.suppress(IdentityError):
        found = load_pkcs12(blob, data.draw(st.sampled_from([PASSWORD, "", None])))
        assert isinstance(found.certificate, x509.Certificate)


# Files with too many rounds, and files that no tool writes

Edit = Callable[[pkcs12.Pfx, list[cms.ContentInfo]], None]


def edited(edit: Edit, blob: bytes = PACKED, *, keep_mac: bool = True) -> bytes:
    """A PKCS12 with its parts edited; its MAC is then wrong, or taken out."""
    pfx = pkcs12.Pfx.load(blob)
    parts = list(pfx.authenticated_safe)
    edit(pfx, parts)
    content = core.OctetString(pkcs12.AuthenticatedSafe(parts).dump(force=True))
    fields = {"version": 3, "auth_safe": {"content_type": "data", "content": content}}
    if keep_mac:
        fields["mac_data"] = pfx["mac_data"]
    return bytes(pkcs12.Pfx(fields).dump(force=True))


def certificates_part(parts: list[cms.ContentInfo]) -> cms.ContentInfo:
    return next(part for part in parts if part["content_type"].native == "encrypted_data")


def key_bags(parts: list[cms.ContentInfo]) -> pkcs12.SafeContents:
    part = next(part for part in parts if part["content_type"].native == "data")
    return pkcs12.SafeContents.load(part["content"].native)


def with_key_bags(bags: pkcs12.SafeContents) -> cms.ContentInfo:
    return cms.ContentInfo({"content_type": "data", "content": core.OctetString(bags.dump(force=True))})


def set_rounds(algorithm: algos.EncryptionAlgorithm, rounds: int) -> None:
    algorithm["parameters"]["key_derivation_func"]["parameters"]["iteration_count"] = rounds


def costly_mac(pfx: pkcs12.Pfx, _parts: list[cms.ContentInfo]) -> None:
    pfx["mac_data"]["iterations"] = COSTLY_ROUNDS


def costly_certificates(_pfx: pkcs12.Pfx, parts: list[cms.ContentInfo]) -> None:
    info = certificates_part(parts)["content"]["encrypted_content_info"]
    set_rounds(info["content_encryption_algorithm"], MAX_KDF_ROUNDS + 1)


def costly_key(_pfx: pkcs12.Pfx, parts: list[cms.ContentInfo]) -> None:
    bags = key_bags(parts)
    set_rounds(bags[0]["bag_value"]["encryption_algorithm"], COSTLY_ROUNDS)
    parts[:] = [certificates_part(parts), with_key_bags(bags)]


def many_certificates(_pfx: pkcs12.Pfx, parts: list[cms.ContentInfo]) -> None:
    part = certificates_part(parts)
    set_rounds(part["content"]["encrypted_content_info"]["content_encryption_algorithm"], MAX_KDF_ROUNDS)
    parts[:] = [part] * 5 + [with_key_bags(key_bags(parts))]


def no_rounds(pfx: pkcs12.Pfx, _parts: list[cms.ContentInfo]) -> None:
    pfx["mac_data"]["iterations"] = 0


@pytest.mark.parametrize("edit", [costly_mac, costly_certificates, costly_key, many_certificates, no_rounds])
def test_pkcs12_with_too_many_rounds_is_refused_before_derivation(edit: Edit) -> None:
    blob = edited(edit)
    with (
        patch("agent.pki.pfx._mac") as derived,
        patch("agent.pki.identity.read_pkcs12") as read,
        pytest.raises(IdentityError, match="rounds for one key") as caught,
    ):
        load_pkcs12(blob, PASSWORD)
    assert not derived.called
    assert not read.called
    assert not isinstance(caught.value, WrongPasswordError)


def encrypted_part(bags: pkcs12.SafeContents) -> cms.ContentInfo:
    """Bags under the password, by a key of few rounds."""
    salt, vector = b"s" * 8, b"i" * 16
    key = PBKDF2HMAC(hashes.SHA256(), 32, salt, 2048).derive(PASSWORD.encode())
    plain = bags.dump(force=True)
    plain += bytes([16 - len(plain) % 16]) * (16 - len(plain) % 16)
    encryptor = Cipher(algorithms.AES(key), modes.CBC(vector)).encryptor()
    derivation = {
        "algorithm": "pbkdf2",
        "parameters": {
            "salt": core.OctetString(salt),
            "iteration_count": 2048,
            "prf": {"algorithm": "sha256", "parameters": core.Null()},
        },
    }
    scheme = {"algorithm": "aes256_cbc", "parameters": vector}
    info = {
        "content_type": "data",
        "content_encryption_algorithm": algos.EncryptionAlgorithm(
            {"algorithm": "pbes2", "parameters": {"key_derivation_func": derivation, "encryption_scheme": scheme}}
        ),
        "encrypted_content": encryptor.update(plain) + encryptor.finalize(),
    }
    return cms.ContentInfo(
        {"content_type": "encrypted_data", "content": {"version": 0, "encrypted_content_info": info}}
    )


def hidden_costly_key(parts: list[cms.ContentInfo]) -> cms.ContentInfo:
    """A key within an encrypted part, where its rounds cannot be seen."""
    bags = key_bags(parts)
    set_rounds(bags[0]["bag_value"]["encryption_algorithm"], COSTLY_ROUNDS)
    return encrypted_part(bags)


def test_nested_rounds_are_not_computed() -> None:
    def hide_the_only_key(_pfx: pkcs12.Pfx, parts: list[cms.ContentInfo]) -> None:
        parts[:] = [hidden_costly_key(parts), certificates_part(parts)]

    def hide_another_key(_pfx: pkcs12.Pfx, parts: list[cms.ContentInfo]) -> None:
        parts[:] = [hidden_costly_key(parts), *parts]

    began = time.process_time()
    with pytest.raises(IdentityError, match="outside of the encrypted parts"):
        load_pkcs12(edited(hide_the_only_key, keep_mac=False), PASSWORD)
    assert same(load_pkcs12(edited(hide_another_key, keep_mac=False), PASSWORD), MAC)
    assert time.process_time() - began < BOMB_SECONDS


def test_mac_with_a_zero_byte_password_is_accepted() -> None:
    """RFC 7292, B.1 gives even the empty password a final NUL; files made by a call without any password lack it."""

    def by_nothing(pfx: pkcs12.Pfx, _parts: list[cms.ContentInfo]) -> None:
        key = hashlib.sha256(b"\x03" * 64 + b"saltsalt" * 8).digest()  # B.2 with one round
        digest = hmac.digest(key, pfx["auth_safe"]["content"].native, "sha256")
        mac = {"digest_algorithm": {"algorithm": "sha256"}, "digest": digest}
        pfx["mac_data"] = {"mac": mac, "mac_salt": b"saltsalt", "iterations": 1}

    blob = edited(by_nothing, _packed(MAC.key, [MAC.certificate]))
    assert same(load_pkcs12(blob, None), MAC)
    assert same(load_pkcs12(blob, ""), MAC)
    with pytest.raises(WrongPasswordError):
        load_pkcs12(blob, PASSWORD)


def test_changed_pkcs12_is_refused() -> None:
    def drop_certificates(_pfx: pkcs12.Pfx, parts: list[cms.ContentInfo]) -> None:
        parts.remove(certificates_part(parts))

    with pytest.raises(WrongPasswordError, match="changed"):
        load_pkcs12(edited(drop_certificates), PASSWORD)


@pytest.mark.slow
def test_unsupported_encryption_is_not_reported_as_a_wrong_password(tmp_path: Path) -> None:
    (tmp_path / "legacy.p12").write_bytes(exported(tmp_path, MAC, "-legacy"))
    program = (
        "import pathlib, sys; from agent.pki.identity import load_pkcs12\n"
        "try: load_pkcs12(pathlib.Path(sys.argv[1]).read_bytes(), sys.argv[2])\n"
        "except Exception as error: print(type(error).__name__)"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "legacy.p12"), password],
            env={**os.environ, "CRYPTOGRAPHY_OPENSSL_NO_LEGACY": "1"},
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout.split()
        for password in (PASSWORD, "wrong")
    ]
    assert found == [[b"IdentityError"], [b"WrongPasswordError"]]


def unknown_derivation(_pfx: pkcs12.Pfx, parts: list[cms.ContentInfo]) -> None:
    info = certificates_part(parts)["content"]["encrypted_content_info"]
    info["content_encryption_algorithm"]["parameters"]["key_derivation_func"] = {
        "algorithm": "1.3.6.1.4.1.11591.4.11",  # scrypt: RFC 7914, 7
        "parameters": core.Null(),
    }


def parts_within_parts(_pfx: pkcs12.Pfx, parts: list[cms.ContentInfo]) -> None:
    bag = der.encode(der.SEQUENCE, SAFE_CONTENTS_BAG + der.encode(0xA0, key_bags(parts).dump()))
    parts.append(cms.ContentInfo({"content_type": "data", "content": core.OctetString(der.encode(der.SEQUENCE, bag))}))


def foreign_mac(pfx: pkcs12.Pfx, _parts: list[cms.ContentInfo]) -> None:
    pfx["mac_data"]["mac"]["digest_algorithm"] = {"algorithm": "1.2.840.113549.1.5.14"}  # PBMAC1: RFC 9579


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (unknown_derivation, "1.3.6.1.4.1.11591.4.11"),
        (parts_within_parts, "without nested parts"),
        (foreign_mac, "1.2.840.113549.1.5.14"),
    ],
)
def test_unsupported_content_type_is_named(edit: Edit, named: str) -> None:
    with pytest.raises(IdentityError, match=named) as caught:
        load_pkcs12(edited(edit), PASSWORD)
    assert not isinstance(caught.value, WrongPasswordError)


# The authority


def test_root_is_a_ca_and_issued_certificates_are_not() -> None:
    constraints = ROOT.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value.ca
    assert not MAC.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    MAC.certificate.verify_directly_issued_by(ROOT.certificate)


@pytest.mark.parametrize(
    ("usage", "key_usage", "extended"),
    [
        # Source: apple-schema profiles/com.apple.lom.yaml, DeviceCertificateUUID
        (LOM_USAGE, (True, True, True), {"1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"}),
        (CLIENT_USAGE, (True, True, False), {"1.3.6.1.5.5.7.3.2"}),
        (SERVER_USAGE, (True, True, False), {"1.3.6.1.5.5.7.3.1"}),
    ],
)
def test_certificate_has_the_requested_usages(
    usage: Usage, key_usage: tuple[bool, bool, bool], extended: set[str]
) -> None:
    certificate = ROOT.issue("a", usage).certificate
    found = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (found.digital_signature, found.key_encipherment, found.data_encipherment) == key_usage
    assert not found.key_cert_sign
    names = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {name.dotted_string for name in names} == extended


def test_names_and_addresses_become_a_subject_alternative_name() -> None:
    certificate = ROOT.issue("a", SERVER_USAGE, names=["a.example.com", "192.0.2.1", "fe80::1"]).certificate
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.example.com"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.1", "fe80::1"]


def test_certificate_can_have_an_empty_subject() -> None:
    certificate = ROOT.issue(None, SERVER_USAGE).certificate
    assert not list(certificate.subject)
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)


def test_serial_numbers_are_unique() -> None:
    assert len({ROOT.issue("a", CLIENT_USAGE, key=MAC.key).certificate.serial_number for _ in range(50)}) == 50


def test_a_file_that_was_just_read_is_not_decrypted_again_and_each_reader_has_an_identity_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blob = dump_pkcs12(MAC, "asked for twice", "mac")
    first = load_pkcs12(blob, "asked for twice")
    monkeypatch.setattr("agent.pki.identity.read_pkcs12", None)
    second = load_pkcs12(blob, "asked for twice")
    assert first is not second
    assert same(first, second)
    with pytest.raises(WrongPasswordError):
        load_pkcs12(blob, "another")


def test_reading_a_pkcs12_sets_up_no_class_of_asn1crypto() -> None:
    """It fills the tables of a class at its first use, which is unsafe in two threads; the import has done it."""
    program = (
        "import sys; from asn1crypto import core; from agent.pki import pfx; known = set(core._SETUP_CLASSES); "
        "pfx.prepare(sys.stdin.buffer.read(), 'password'); print(set(core._SETUP_CLASSES) - known)"
    )
    blob = dump_pkcs12(Authority.create("CA").issue("mac", CLIENT_USAGE), "password", "mac")
    done = subprocess.run([sys.executable, "-c", program], input=blob, capture_output=True, check=True, timeout=120)
    assert done.stdout.strip() == b"set()"
