"""A profile is checked as a whole before a key is generated and a SCEP server is contacted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from issued_once import IssuedOnce
from profile_parts import IDENTITY, PACKED, lom, mdm, pkcs12, profile_dict, root, scep

from agent.device.answering import OfflineMac
from agent.device.installing.profiles import enrollment_steps, install_profile
from agent.device.mac import Device
from agent.device.steps import Done, ObtainIdentity, Steps, advance
from agent.fleet.population import Population
from agent.lom.requests import Dialect
from agent.pki.issuing.authority import LOM_USAGE, Authority
from agent.plists import dump_xml
from agent.profiles.errors import ProfileError

MAC = Population("installing", 1)[0]
LOM_AUTHORITIES = IssuedOnce.create("Devices"), IssuedOnce.create("Controllers")
LOM_KEYS = {"DeviceCertificateUUID": "SCEP", "ControllerCertificateUUID": "SCEP"}


def by_scep(**keys: Any) -> list[dict[str, Any]]:
    return [scep(), mdm(**{"IdentityCertificateUUID": "SCEP", **keys})]


BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "no MDM payload": ([scep()], "no com.apple.mdm payload"),
    "ServerURL": (by_scep(ServerURL="http://mdm.example.com/"), "ServerURL"),
    "no ServerURL": (by_scep(ServerURL=None), "ServerURL"),
    "CheckInURL": (by_scep(CheckInURL="mdm.example.com"), "CheckInURL"),
    "Topic": (by_scep(Topic="com.example"), "Topic"),
    "AccessRights": (by_scep(AccessRights=2), "AccessRights"),
    "SignMessage": (by_scep(SignMessage="yes"), "SignMessage"),
    "ServerCapabilities": (by_scep(ServerCapabilities=[1]), "ServerCapabilities"),
    "no such identity": (by_scep(IdentityCertificateUUID="NOWHERE"), "IdentityCertificateUUID .* NOWHERE"),
    "no reference": (by_scep(IdentityCertificateUUID=None), "IdentityCertificateUUID"),
    "an identity that is none": (
        [*by_scep(IdentityCertificateUUID="ROOT"), root()],
        "IdentityCertificateUUID refers to a payload com.apple.security.root, which provides no identity",
    ),
    "pins": (by_scep(ServerURLPinningCertificateUUIDs=["SCEP"]), "contains no CA certificate"),
    "pins that are not there": (by_scep(CheckInURLPinningCertificateUUIDs=["X"]), "CheckInURLPinningCertificateUUIDs"),
    "a certificate": ([*by_scep(), root(PayloadContent=b"junk")], "cannot be read"),
    "a PKCS12 after it": ([*by_scep(), pkcs12(blob=PACKED[:-1])], "PKCS12"),
    "a LOM reference": ([*by_scep(), lom(**LOM_KEYS)], "DeviceCACertificateUUIDs .* ROOT"),
    "a LOM identity": ([*by_scep(), root(), lom(DeviceCertificateUUID="ROOT")], "DeviceCertificateUUID"),
    "a Subject": ([scep(Subject=[[["no OID", "a"]]]), *by_scep()[1:]], "Subject"),
    "the second of two": ([*by_scep(), {**scep(Keysize=5), "PayloadUUID": "SCEP2"}], "Keysize"),
}


def device() -> Device:
    return OfflineMac(MAC, *LOM_AUTHORITIES, Dialect.SCHEMA).device


def first_need(steps: Steps[Any]) -> object:
    return advance(steps, None)


@pytest.mark.parametrize(("payloads", "message"), BAD.values(), ids=BAD.keys())
def test_invalid_enrollment_profile_fails_before_scep(payloads: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        first_need(enrollment_steps(device(), dump_xml(profile_dict(*payloads))))


def test_valid_enrollment_profile_starts_scep() -> None:
    good = [scep(), root(), mdm(IdentityCertificateUUID="SCEP"), lom(**LOM_KEYS)]
    need = first_need(enrollment_steps(device(), dump_xml(profile_dict(*good))))
    assert isinstance(need, ObtainIdentity)
    assert need.payload.challenge == "secret"


@pytest.mark.parametrize(
    ("payloads", "message"),
    [
        ([scep(), root(PayloadContent=b"junk")], "cannot be read"),
        ([scep(), lom(**LOM_KEYS)], "ROOT"),
        ([scep(), mdm(IdentityCertificateUUID="SCEP")], "may only come in an update"),
    ],
)
def test_invalid_installed_profile_fails_before_scep(payloads: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ProfileError, match=message) as caught:
        first_need(install_profile(device(), dump_xml(profile_dict(*payloads))))
    assert caught.value.chain[0].code == 1009


@pytest.mark.parametrize("install", [enrollment_steps, install_profile])
def test_identities_are_kept_in_the_order_of_the_payloads(install: Callable[[Device, bytes], Steps[Any]]) -> None:
    payloads = [scep(), pkcs12(), mdm()] if install is enrollment_steps else [scep(), pkcs12()]
    mac = device()
    issued = Authority.create("CA").issue("by scep", LOM_USAGE)
    steps = install(mac, dump_xml(profile_dict(*payloads)))
    assert isinstance(advance(steps, None), ObtainIdentity)
    need = advance(steps, issued)
    while not isinstance(need, Done):
        need = advance(steps, b"")
    (installed,) = mac.profiles
    assert [one.certificate for one in installed.identities] == [issued.certificate, IDENTITY.certificate]
