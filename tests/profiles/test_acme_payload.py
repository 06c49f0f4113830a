"""The ACME payload: which keys a Mac can make, and what is read from it."""

from __future__ import annotations

from typing import Any

import pytest
from profile_parts import mdm, payload, profile_dict

from agent.device.answering import OfflineMac
from agent.device.installing.profiles import enrollment_steps
from agent.device.steps import ObtainIdentity, advance
from agent.fleet.population import Population
from agent.lom.requests import Dialect
from agent.pki.issuing.authority import Authority
from agent.plists import dump_xml
from agent.profiles.acme import ACME, ACMEPayload, acme_of
from agent.profiles.errors import ProfileError
from agent.profiles.profile import Payload

GOOD: dict[str, Any] = {
    "DirectoryURL": "https://acme.example.com/directory",
    "ClientIdentifier": "client",
    "KeyType": "ECSECPrimeRandom",
    "KeySize": 384,
    "HardwareBound": True,
    "Attest": True,
    "Subject": [[["CN", "%SerialNumber%"]]],
    "ExtendedKeyUsage": ["1.3.6.1.5.5.7.3.2"],
    "UsageFlags": 5,
}
RSA = {"KeyType": "RSA", "HardwareBound": False, "Attest": False}
EC = {"HardwareBound": False, "Attest": False}


def read(**keys: Any) -> ACMEPayload:
    content = {key: value for key, value in {**GOOD, **keys}.items() if value is not None}
    return acme_of(Payload(ACME, "ACME", "acme", content))


def test_a_payload_is_read() -> None:
    found = read()
    assert (found.key_size, found.attest, found.usage_flags, found.extended_key_usage) == (
        384, True, 5, ("1.3.6.1.5.5.7.3.2",),
    )  # fmt: skip
    assert not read(Attest=None).attest


@pytest.mark.parametrize(
    "keys",
    [{**RSA, "KeySize": size} for size in (1024, 2048, 3072, 4096)]
    + [{**EC, "KeySize": size} for size in (192, 256, 384, 521)]
    + [{"KeySize": 256}],
)
def test_every_key_of_apples_list_is_possible(keys: dict[str, Any]) -> None:
    assert read(**keys).key_size == keys["KeySize"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({**RSA, "KeySize": 1020}, "multiple of 8 from 1024 to 4096, found 1020"),
        ({**RSA, "KeySize": 4104}, "found 4104"),
        ({"KeyType": "RSA", "KeySize": 2048}, "expected the KeyType ECSECPrimeRandom"),
        ({"KeyType": "EC"}, "KeyType .*found EC"),
        ({"KeySize": 512}, "KeySize"),
        ({"KeySize": 521}, r"one of \(256, 384\), found 521"),
        ({"HardwareBound": False}, "HardwareBound to be true"),
        ({"HardwareBound": None}, "HardwareBound"),
        ({"ClientIdentifier": ""}, "ClientIdentifier"),
        ({"ClientIdentifier": "x" * 5000}, "ClientIdentifier"),
        ({"ClientIdentifier": "\ud800"}, "not Unicode"),
        ({"DirectoryURL": "http://acme.example.com/"}, "DirectoryURL .*https"),
        ({"Subject": None}, "Subject"),
        ({"Subject": [[["no OID", "a"]]]}, "Subject"),
        ({"SubjectAltName": {"dNSName": 5}}, "dNSName"),
        ({"ExtendedKeyUsage": ["clientAuth"]}, "ExtendedKeyUsage"),
        ({"ExtendedKeyUsage": ["1.2.3"] * 65}, "ExtendedKeyUsage"),
    ],
)
def test_another_payload_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        read(**keys)


@pytest.mark.parametrize(("os", "able"), [("13.6", False), ("14.4", True)])
def test_an_enrollment_profile_may_refer_to_it(os: str, able: bool) -> None:
    mac = Population("acme payload", 1, os=os)[0]
    device = OfflineMac(mac, Authority.create("Devices"), Authority.create("Controllers"), Dialect.SCHEMA).device
    profile = dump_xml(profile_dict(payload(ACME, "ACME", **GOOD), mdm(IdentityCertificateUUID="ACME")))
    if not able:
        with pytest.raises(ProfileError, match="expected false before macOS 14"):
            advance(enrollment_steps(device, profile), None)
        return
    need = advance(enrollment_steps(device, profile), None)
    assert isinstance(need, ObtainIdentity)
    assert isinstance(need.payload, ACMEPayload)
    assert need.payload.subject == [[["CN", mac.serial_number]]]
