"""Irregular profiles that Macs accept, with a warning; and unsupported ones, with an error that names the reason."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs7
from debian import need
from profile_parts import IDENTITY, ROOT, mdm, payload, pkcs12, profile_dict, root, scep
from rsa_keys import rsa_key

from agent.device.mac import Device
from agent.fleet.population import Population
from agent.pki.cms_signing import sign_attached
from agent.pki.issuing.authority import CLIENT_USAGE
from agent.pki.scep.csr import build_csr, read_csr
from agent.plists import dump_xml
from agent.profiles.enrollment import enrollment_terms_of
from agent.profiles.errors import ProfileError
from agent.profiles.profile import Profile, read_profile
from agent.profiles.scep import scep_of
from agent.profiles.variables import expand

MAC = Population("leniency", 3)[1]
SIGNER = ROOT.issue("signer", CLIENT_USAGE, key=rsa_key())


def read(blob: bytes) -> tuple[Profile, list[str]]:
    warnings: list[str] = []
    return read_profile(blob, warnings.append), warnings


def good(**keys: Any) -> bytes:
    return dump_xml(profile_dict(pkcs12(), root(), mdm(**keys)))


# Signatures


def signed_by_openssl(folder: Path, digest: str) -> bytes:
    """Sign like the library of some servers: CMS with this digest over the same content."""
    openssl = need("openssl", "openssl")
    (folder / "content").write_bytes(good())
    (folder / "certificate").write_bytes(SIGNER.certificate.public_bytes(Encoding.PEM))
    (folder / "key").write_bytes(SIGNER.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    command = [openssl, "cms", "-sign", "-binary", "-nodetach", "-md", digest, "-outform", "DER"]
    command += ["-in", "content", "-signer", "certificate", "-inkey", "key"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=60).stdout


def test_sha1_signed_profile_is_read_with_a_warning(tmp_path: Path) -> None:
    found, warnings = read(signed_by_openssl(tmp_path, "sha1"))
    assert found.signers[0] == SIGNER.certificate
    (warning,) = warnings
    assert "SHA-1" in warning


def test_sha256_signed_profile_is_read_without_warning(tmp_path: Path) -> None:
    found, warnings = read(signed_by_openssl(tmp_path, "sha256"))
    assert found.signers[0] == SIGNER.certificate
    assert warnings == []


def test_a_profile_signed_with_md5_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="md5, which is refused"):
        read(signed_by_openssl(tmp_path, "md5"))


def test_a_signed_profile_may_begin_with_white_space() -> None:
    found, warnings = read(sign_attached(b"\n\n" + good(), IDENTITY.certificate, IDENTITY.key))
    assert found.identifier == "com.example.profile"
    assert warnings == []


# Profiles of another kind


def test_over_the_air_profile_is_refused_with_advice() -> None:
    service = profile_dict(PayloadType="Profile Service", PayloadContent={"URL": "https://mdm.example.com/ota"})
    with pytest.raises(ProfileError, match=r"“Profile Service”.* over-the-air .*Use the profile .*com\.apple\.mdm"):
        read(dump_xml(service))


def test_encrypted_profile_is_refused_as_encrypted() -> None:
    encrypted = profile_dict(PayloadContent=None, EncryptedPayloadContent=b"x", IsEncrypted=True)
    with pytest.raises(ProfileError, match=r"“Example” is encrypted .*Use the profile without encryption"):
        read(dump_xml(encrypted))


def test_profile_in_encrypted_cms_is_refused_as_encrypted() -> None:
    builder = pkcs7.PKCS7EnvelopeBuilder().set_data(good()).add_recipient(SIGNER.certificate)
    with pytest.raises(ProfileError, match="is encrypted"):
        read(builder.encrypt(Encoding.DER, [pkcs7.PKCS7Options.Binary]))


# Values


def test_values_of_other_types_are_converted_with_a_warning_each() -> None:
    found, warnings = read(good(SignMessage=1, CheckOutWhenRemoved=0, AccessRights=8191.0, PayloadVersion=1.0))
    terms = enrollment_terms_of(found)
    assert (terms.sign_message, terms.check_out_when_removed, terms.access_rights) == (True, False, 8191)
    assert found.of_type("com.apple.mdm").content["PayloadVersion"] == 1  # type: ignore[union-attr]
    assert len(warnings) == 4
    for key in ("SignMessage", "CheckOutWhenRemoved", "AccessRights", "PayloadVersion"):
        assert sum(key in text for text in warnings) == 1


def test_scep_payload_values_are_converted() -> None:
    found, warnings = read(dump_xml(profile_dict(scep(Keysize=2048.0, Retries=True, **{"Key Usage": 5.0}))))
    asked = scep_of(found.payloads[0])
    assert (asked.key_size, asked.retries, asked.key_usage) == (2048, 1, 5)
    assert len(warnings) == 3


@pytest.mark.parametrize("size", [0, 0.0, False])
def test_a_keysize_of_0_is_the_default(size: object) -> None:
    found, _warnings = read(dump_xml(profile_dict(scep(Keysize=size))))
    assert scep_of(found.payloads[0]).key_size == 1024


# SCEP without a Subject


@pytest.mark.parametrize("subject", [None, []])
@pytest.mark.parametrize(("identifier", "name"), [("com.example.scep", "com.example.scep"), ("a" * 65, "a" * 64)])
def test_payload_identifier_replaces_a_missing_subject(subject: object, identifier: str, name: str) -> None:
    content = {**scep(Subject=subject), "PayloadIdentifier": identifier}
    found, _warnings = read(dump_xml(profile_dict(content)))
    csr = build_csr(IDENTITY.key, scep_of(found.payloads[0]).subject)
    assert read_csr(csr).subject.rfc4514_string() == f"CN={name}"


# Variables


def test_ethernet_address_variable_is_replaced() -> None:
    device = Device(MAC, boot_seconds=lambda: 0.0, jitter=lambda: 0.0)
    found, warnings = read(dump_xml(profile_dict(scep(Subject=[[["CN", "%MACAddress% %EthernetMACAddress%"]]]))))
    ((((_cn, value),),),) = [scep_of(expand(found, device.profile_variables).payloads[0]).subject]
    assert value == f"{MAC.macs[0]} {MAC.macs[0]}"
    assert warnings == []


def test_unknown_variable_is_kept_with_a_warning() -> None:
    other = payload("com.example", "OTHER", Text=["%Nothing%", {"Inner": "100% of %Something%"}])
    found, warnings = read(dump_xml(profile_dict(other)))
    expanded = expand(found, {"SerialNumber": "ZX1"}).payloads[0]
    assert expanded.content["Text"] == ["%Nothing%", {"Inner": "100% of %Something%"}]
    assert ["%Nothing%" in text for text in warnings] == [True, False]
    assert ["%Something%" in text for text in warnings] == [False, True]


def test_warnings_contain_no_secret() -> None:
    found, warnings = read(dump_xml(profile_dict(scep(Challenge="x%hunter%x"), pkcs12(password="%swordfish%"))))
    expand(found, {})
    assert len(warnings) == 2
    assert not any("hunter" in text or "swordfish" in text for text in warnings)
