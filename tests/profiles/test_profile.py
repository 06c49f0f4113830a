"""Profiles and their payloads: their values, and the ErrorChain of each possible error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from profile_parts import (
    IDENTITY,
    LOM_IDENTITY,
    LOM_PACKED,
    OTHER_ROOT,
    PACKED,
    PASSWORD,
    ROOT,
    codes,
    identities_of,
    lom,
    mdm,
    payload,
    pkcs12,
    profile,
    profile_dict,
    root,
    scep,
)
from strategies_mdm import broken_plists, changed, values

from agent.mdm.access_rights import ALL_RIGHTS, AccessRights
from agent.pki.cms_signing import sign_attached
from agent.plists import PlistError, dump_binary, dump_xml
from agent.profiles.certificates import certificate_of, unpack_identity
from agent.profiles.enrollment import Enrollment, check_per_user, check_update, enrollment_of
from agent.profiles.errors import ProfileError
from agent.profiles.lom import lom_configuration_of
from agent.profiles.profile import Profile, parse_profile, read_profile
from agent.profiles.scep import scep_of
from agent.profiles.store import ProfileStore
from agent.profiles.variables import expand

MALFORMED = [("MCProfileErrorDomain", 1000)]
PAYLOAD = ("MCInstallationErrorDomain", 4001)
BAD_PASSWORD = [PAYLOAD, ("MCCertificateErrorDomain", 9000)]
BAD_CERTIFICATE = [PAYLOAD, ("MCCertificateErrorDomain", 9005)]


def enrollment(**keys: Any) -> Enrollment:
    found = profile(pkcs12(), root(), mdm(**keys))
    return enrollment_of(found, identities_of(found))


def refused(call: Callable[[], object], chain: list[tuple[str, int]], message: str | None = None) -> None:
    with pytest.raises(ProfileError, match=message) as caught:
        call()
    assert codes(caught.value) == chain
    assert all(error.description for error in caught.value.chain)


# Profiles


@pytest.mark.parametrize("dump", [dump_xml, dump_binary])
def test_a_profile_is_read_with_its_payloads_in_order(dump: Callable[[Any], bytes]) -> None:
    found = read_profile(dump(profile_dict(root(), pkcs12(PayloadDisplayName="Identity"), mdm())))
    assert (found.uuid, found.identifier, found.name) == ("PROFILE", "com.example.profile", "Example")
    assert [item.uuid for item in found.payloads] == ["ROOT", "IDENTITY", "MDM"]
    assert [item.name for item in found.payloads] == ["com.example.ROOT", "Identity", "com.example.MDM"]
    assert found.payload("identity") is found.payloads[1]
    assert found.of_type("com.apple.mdm") is found.payloads[2]
    assert found.of_type("com.apple.lom") is None
    assert found.signers == ()


def test_a_signed_profile_is_read_with_its_signer() -> None:
    octets = dump_xml(profile_dict(root()))
    signed = sign_attached(octets, IDENTITY.certificate, IDENTITY.key)
    found = read_profile(signed)
    assert found.content == parse_profile(octets).content
    assert found.signers[0] == IDENTITY.certificate
    at = signed.index(b"Example")
    refused(lambda: read_profile(signed[:at] + b"Exbmple" + signed[at + 7 :]), MALFORMED, "signature")


@pytest.mark.parametrize("octets", [b"", b"no plist", dump_xml([]), dump_xml("a")])
def test_profile_that_is_not_a_dictionary_raises_plist_error(octets: bytes) -> None:
    with pytest.raises(PlistError, match="profile"):
        read_profile(octets)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"PayloadType": None}, "expected Configuration"),
        ({"PayloadType": "com.apple.mdm"}, "expected Configuration"),
        ({"PayloadUUID": None}, "PayloadUUID of the profile: expected a string, found none"),
        ({"PayloadUUID": ""}, "PayloadUUID"),
        ({"PayloadIdentifier": 5}, "PayloadIdentifier of the profile: expected a string, found an integer"),
        ({"PayloadContent": {}}, "expected an array, found a dictionary"),
        ({"PayloadContent": [5]}, "payload 0: expected a dictionary, found an integer"),
        ({"PayloadContent": [payload("a", "b"), payload("a", "")]}, "PayloadUUID of payload 1"),
        ({"PayloadContent": [payload("a", "b", PayloadType=None)]}, "PayloadType of payload 0"),
        ({"PayloadContent": [payload("a", "b", PayloadIdentifier=b"c")]}, "found data"),
        ({"PayloadContent": [payload("a", "b"), payload("c", "B")]}, "the same PayloadUUID"),
    ],
)
def test_a_malformed_profile_is_refused(keys: dict[str, Any], message: str) -> None:
    refused(lambda: profile(**keys), MALFORMED, message)


def test_profile_without_payloads_is_valid() -> None:
    assert profile(PayloadContent=None).payloads == ()


def test_reference_to_a_missing_payload_is_refused() -> None:
    refused(lambda: profile(root()).payload("ROOT2"), MALFORMED, "ROOT2, which it does not contain")


def test_duplicate_of_a_unique_payload_is_refused() -> None:
    refused(lambda: profile(lom("A"), lom("B")).of_type("com.apple.lom"), MALFORMED, "has 2 payloads")


# Certificates and identities


def test_pkcs12_identity_is_read() -> None:
    found = unpack_identity(profile(pkcs12()).payloads[0])
    assert found.certificate == IDENTITY.certificate
    assert found.key.public_key() == IDENTITY.key.public_key()


@pytest.mark.parametrize(
    ("content", "chain"),
    [
        (pkcs12(password="wrong"), BAD_PASSWORD),
        (pkcs12(password=None), BAD_PASSWORD),
        (pkcs12(blob=b""), BAD_CERTIFICATE),
        (pkcs12(blob=PACKED[:-1]), BAD_CERTIFICATE),
        (pkcs12(blob=b"no PKCS12"), BAD_CERTIFICATE),
        (pkcs12(blob=None), MALFORMED),
        (pkcs12(blob="text"), MALFORMED),
        (pkcs12(password=5), MALFORMED),
    ],
)
def test_unreadable_pkcs12_identity_is_reported(content: dict[str, Any], chain: list[tuple[str, int]]) -> None:
    refused(lambda: unpack_identity(profile(content).payloads[0]), chain)


@pytest.mark.parametrize("kind", ["com.apple.security.root", "com.apple.security.pem", "com.apple.security.pkcs1"])
@pytest.mark.parametrize("encoding", [Encoding.DER, Encoding.PEM])
def test_a_certificate_is_read_in_either_encoding(kind: str, encoding: Encoding) -> None:
    content = payload(kind, "A", PayloadContent=ROOT.certificate.public_bytes(encoding))
    assert certificate_of(profile(content).payloads[0]) == ROOT.certificate


@pytest.mark.parametrize(
    ("content", "chain"),
    [
        (root(PayloadContent=b""), BAD_CERTIFICATE),
        (root(PayloadContent=b"\x30\x03\x02\x01\x01"), BAD_CERTIFICATE),
        (root(PayloadContent=b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), BAD_CERTIFICATE),
        (root(PayloadContent=bytes(70_000)), BAD_CERTIFICATE),
        (pkcs12(), BAD_CERTIFICATE),
        (root(PayloadContent=None), MALFORMED),
        (root(PayloadContent="text"), MALFORMED),
    ],
)
def test_unreadable_certificate_is_reported(content: dict[str, Any], chain: list[tuple[str, int]]) -> None:
    refused(lambda: certificate_of(profile(content).payloads[0]), chain)


# Enrollment


def test_an_enrollment_is_read() -> None:
    found = profile(
        pkcs12(),
        root(),
        root("OTHER", OTHER_ROOT),
        mdm(
            SignMessage=True,
            CheckOutWhenRemoved=True,
            AccessRights=7,
            ServerCapabilities=["com.apple.mdm.bootstraptoken"],
            ServerURLPinningCertificateUUIDs=["root"],
            CheckInURLPinningCertificateUUIDs=["OTHER"],
        ),
    )
    identities = identities_of(found)
    assert enrollment_of(found, identities) == Enrollment(
        server_url="https://mdm.example.com/mdm",
        check_in_url="https://mdm.example.com/checkin",
        topic="com.apple.mgmt.External.example",
        access_rights=AccessRights(7),
        identity=identities["IDENTITY"],
        anchors=(ROOT.certificate, OTHER_ROOT.certificate),
        server_pins=(ROOT.certificate,),
        check_in_pins=(OTHER_ROOT.certificate,),
        sign_message=True,
        check_out_when_removed=True,
        capabilities=("com.apple.mdm.bootstraptoken",),
    )


def test_missing_enrollment_keys_have_apples_defaults() -> None:
    found = enrollment(CheckInURL=None, AccessRights=None, ServerCapabilities=None)
    assert found.check_in_url == found.server_url == "https://mdm.example.com/mdm"
    assert found.access_rights == ALL_RIGHTS
    assert (found.sign_message, found.check_out_when_removed) == (False, False)
    assert (found.capabilities, found.server_pins, found.check_in_pins) == ((), (), ())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ServerURL": None}, "lacks the required key ServerURL"),
        ({"ServerURL": 5}, "ServerURL .* is an integer"),
        ({"ServerURL": "http://mdm.example.com/"}, "expected an https URL"),
        ({"ServerURL": "https:///mdm"}, "expected an https URL"),
        ({"ServerURL": "https://mdm.example.com:0/"}, "expected an https URL"),
        ({"ServerURL": "https://mdm.example.com:65536/"}, "expected an https URL"),
        ({"ServerURL": "https://[::1/"}, "expected an https URL"),
        ({"ServerURL": "https://mdm.example.com/ä"}, "expected an https URL"),
        ({"ServerURL": "https://mdm.example.com/a\r\nHost: b"}, "expected an https URL"),
        ({"CheckInURL": "http://mdm.example.com/"}, "CheckInURL .*: expected an https URL"),
        ({"Topic": None}, "lacks the required key Topic"),
        ({"Topic": "com.example"}, "expected text that starts with com.apple.mgmt."),
        ({"IdentityCertificateUUID": None}, "IdentityCertificateUUID"),
        ({"IdentityCertificateUUID": "NOWHERE"}, "NOWHERE, which it does not contain"),
        ({"AccessRights": 0}, "Expected AccessRights from 1"),
        ({"AccessRights": 2}, "with 2 .* to include 1 "),
        ({"AccessRights": 8192}, "AccessRights"),
        ({"AccessRights": "7"}, "AccessRights .* a string"),
        ({"SignMessage": "true"}, "SignMessage .* a string"),
        ({"AccessRights": 7.5}, "AccessRights .* a real"),
        ({"ServerCapabilities": [5]}, "expected strings only, found other values"),
        ({"EnrollmentMode": "byod"}, "expected BYOD or ADDE, found byod"),
        ({"ServerURLPinningCertificateUUIDs": ["NOWHERE"]}, "NOWHERE"),
    ],
)
def test_invalid_mdm_payload_is_refused(keys: dict[str, Any], message: str) -> None:
    refused(lambda: enrollment(**keys), MALFORMED, message)


def test_enrollment_needs_an_mdm_payload_and_an_identity() -> None:
    refused(lambda: enrollment_of(profile(root()), {}), MALFORMED, "no com.apple.mdm payload")
    refused(lambda: enrollment(IdentityCertificateUUID="ROOT"), BAD_CERTIFICATE, "provides no identity")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"Topic": "com.apple.mgmt.other"}, "Topic"),
        ({"ServerURL": "https://other.example.com/mdm"}, "ServerURL"),
        ({"CheckInURL": None}, "CheckInURL"),
        ({"AccessRights": 3 | 8}, "access rights 8"),
        ({"ServerCapabilities": ["com.apple.mdm.bootstraptoken"]}, "per-user-connections"),
        ({"AssignedManagedAppleID": "a@example.com"}, "AssignedManagedAppleID from none to a@example.com"),
        ({"EnrollmentMode": "ADDE"}, "EnrollmentMode from none to ADDE"),
    ],
)
def test_enrollment_update_cannot_change_server_or_add_rights(keys: dict[str, Any], message: str) -> None:
    refused(
        lambda: check_update(enrollment(AccessRights=7), enrollment(**{"AccessRights": 7, **keys})), MALFORMED, message
    )


def test_an_update_cannot_add_the_capability_of_user_connections() -> None:
    without = enrollment(ServerCapabilities=None)
    refused(lambda: check_update(without, enrollment()), MALFORMED, "neither add nor remove")
    check_update(without, enrollment(ServerCapabilities=["com.apple.mdm.token"]))


@pytest.mark.parametrize(
    ("capabilities", "release", "policy", "warns"),
    [
        (None, "15.1", "required", None),
        (["com.apple.mdm.bootstraptoken"], "27.0", "required", None),
        (None, "15.0", "required", True),
        (None, "27.0", "optional", True),
        (["com.apple.mdm.per-user-connections"], "27.0", "required", False),
    ],
)
def test_a_profile_for_macs_names_user_connections(
    capabilities: Any, release: str, policy: Any, warns: bool | None
) -> None:
    terms = enrollment(ServerCapabilities=capabilities)
    if warns is None:
        words = "expected com.apple.mdm.per-user-connections.*fleet.per_user_connections to optional"
        refused(lambda: check_per_user(terms, release, policy), MALFORMED, words)
    else:
        assert ("com.apple.mdm.per-user-connections" in check_per_user(terms, release, policy)) == warns


def test_enrollment_update_can_remove_rights() -> None:
    check_update(enrollment(AccessRights=7), enrollment(AccessRights=3, SignMessage=True))


# LOM


def lom_of(*others: dict[str, Any], **keys: Any) -> Any:
    found = profile(pkcs12(blob=LOM_PACKED), root(), *others, lom(**keys))
    return lom_configuration_of(found, identities_of(found))


def test_a_lom_payload_makes_a_device_a_controller_or_both() -> None:
    both = lom_of(root("OTHER", OTHER_ROOT), DeviceCACertificateUUIDs=["OTHER", "root"])
    assert both.device_identity.certificate == both.controller_identity.certificate == LOM_IDENTITY.certificate
    assert both.device_anchors == (OTHER_ROOT.certificate, ROOT.certificate)
    assert both.controller_anchors == (ROOT.certificate,)
    assert lom_of(ControllerCertificateUUID=None).controller_identity is None
    assert lom_of(DeviceCertificateUUID=None).device_identity is None
    assert lom_configuration_of(profile(root()), {}) is None


@pytest.mark.parametrize(
    ("keys", "chain"),
    [
        ({"DeviceCertificateUUID": None, "ControllerCertificateUUID": None}, [PAYLOAD, *MALFORMED]),
        ({"DeviceCertificateUUID": "NOWHERE"}, MALFORMED),
        ({"DeviceCertificateUUID": "ROOT"}, BAD_CERTIFICATE),
        ({"ControllerCertificateUUID": 5}, MALFORMED),
        ({"DeviceCACertificateUUIDs": ["NOWHERE"]}, MALFORMED),
        ({"DeviceCACertificateUUIDs": ["IDENTITY"]}, BAD_CERTIFICATE),
        ({"ControllerCACertificateUUIDs": "ROOT"}, MALFORMED),
        ({"ControllerCACertificateUUIDs": [b"ROOT"]}, MALFORMED),
    ],
)
def test_invalid_lom_payload_is_refused(keys: dict[str, Any], chain: list[tuple[str, int]]) -> None:
    refused(lambda: lom_of(**keys), chain)


# SCEP


def test_a_scep_payload_is_read() -> None:
    found = scep_of(profile(scep(CAFingerprint=b"f" * 20, SubjectAltName={"dNSName": "mac-1"})).payloads[0])
    assert (found.url, found.ca_name, found.challenge) == ("https://scep.example.com/scep?a=b", "CA", "secret")
    assert (found.key_size, found.key_usage, found.subject) == (2048, 5, [[["CN", "mac-1"]]])
    assert (found.ca_fingerprint, found.subject_alt_name) == (b"f" * 20, {"dNSName": "mac-1"})


def test_missing_scep_keys_have_apples_defaults() -> None:
    keys = dict.fromkeys(("Keysize", "Key Type", "Key Usage", "Name", "Challenge", "Subject"))
    found = scep_of(profile(scep(**keys)).payloads[0])
    assert (found.key_size, found.key_usage, found.retries, found.retry_delay) == (1024, 0, 3, 10)
    assert (found.ca_name, found.challenge, found.ca_fingerprint) == ("", None, None)


@pytest.mark.parametrize(
    ("asked", "waited"),
    [(-(2**63), 1.0), (-1, 1.0), (0, 1.0), (1, 1.0), (17, 17.0), (3600, 3600.0), (2**64 - 1, 3600.0)],
)
def test_scep_retry_delay_is_bounded(asked: int, waited: float) -> None:
    assert scep_of(profile(scep(RetryDelay=asked)).payloads[0]).retry_delay == waited


@pytest.mark.parametrize(("asked", "tried"), [(-1, 0), (0, 0), (7, 7), (2**64 - 1, 1000)])
def test_scep_retries_are_bounded(asked: int, tried: int) -> None:
    assert scep_of(profile(scep(Retries=asked)).payloads[0]).retries == tried


@pytest.mark.parametrize(
    "keys",
    [
        {"URL": None},
        {"URL": "ftp://scep.example.com/"},
        {"URL": "https://scep.example.com/a b"},
        {"Key Type": "ECSECPrimeRandom"},
        {"Keysize": 512},
        {"Keysize": "2048"},
        {"Challenge": 5},
        {"Subject": "CN=mac-1"},
        {"SubjectAltName": []},
        {"CAFingerprint": "aa"},
        {"Keysize": -1},
        {"Keysize": 2048.5},
        {"Retries": "3"},
        {"Subject": [["CN", "mac-1"]]},
        {"Subject": [[["no OID", "mac-1"]]]},
        {"SubjectAltName": {"dNSName": 1}},
    ],
)
def test_invalid_scep_payload_is_refused(keys: dict[str, Any]) -> None:
    refused(lambda: scep_of(profile(scep(**keys)).payloads[0]), MALFORMED)


# Variables


def test_variables_are_replaced_everywhere_and_unknown_ones_kept() -> None:
    content = scep(Subject=[[["CN", "%SerialNumber% %HardwareUUID% %serialnumber% %Other% 100%"]]], Challenge="%Other%")
    found = expand(profile(content), {"SerialNumber": "ZX1", "HardwareUUID": "%SerialNumber%"})
    assert scep_of(found.payloads[0]).subject == [[["CN", "ZX1 %SerialNumber% %serialnumber% %Other% 100%"]]]
    assert scep_of(found.payloads[0]).challenge == "%Other%"


# Anything


def everything(found: Profile) -> None:
    """Every operation on a profile."""
    found = expand(found, {"SerialNumber": "ZX1"})
    for item in found.payloads:
        for read in (unpack_identity, certificate_of, scep_of):
            with contextlib.suppress(ProfileError):
                read(item)
    for judge in (enrollment_of, lom_configuration_of):
        with contextlib.suppress(ProfileError):
            judge(found, {"IDENTITY": IDENTITY})
    store = ProfileStore()
    with contextlib.suppress(ProfileError):
        store.install(found, {"IDENTITY": IDENTITY})
    dump_xml([item.listed for item in store])


GOOD = (pkcs12(password="wrong"), root(), mdm(), lom(), scep())
good_payloads = st.sampled_from(GOOD).flatmap(
    lambda good: st.builds(
        lambda key, value: {**good, key: value}, st.sampled_from(sorted(good)), values | st.just("NOWHERE")
    )
)
profiles = st.lists(good_payloads | st.sampled_from(GOOD) | values, max_size=4).map(
    lambda payloads: profile_dict(*payloads)
)


@given(profiles | broken_plists(profiles) | changed(dump_xml(profile_dict(*GOOD))))
@examples(60, explored=150)
def test_any_plist_is_a_profile_or_a_known_error(octets: bytes | dict[str, Any]) -> None:
    with contextlib.suppress(ProfileError, PlistError):
        everything(read_profile(octets if isinstance(octets, bytes) else dump_xml(octets)))


def test_errors_contain_no_password() -> None:
    with pytest.raises(ProfileError) as caught:
        unpack_identity(profile(pkcs12(blob=PACKED[:-1])).payloads[0])
    assert PASSWORD not in str(caught.value)
