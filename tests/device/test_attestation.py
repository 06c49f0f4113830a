"""What a Mac attests, and when it answers with the attestation that it has cached."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509

from agent.device.answering import OfflineMac
from agent.device.commands import carry_out
from agent.device.facts.attestation import FRESH_SECONDS, attest_device, attested_properties, can_attest
from agent.device.mac import Device
from agent.device.steps import AttestProperties, Done, advance
from agent.device.stored.record import device_record, restore_device
from agent.fleet.population import Population
from agent.lom.requests import Dialect
from agent.mdm.commands import Command
from agent.mdm.results import Result, Status
from agent.pki.issuing.attestation import FRESHNESS, OS_VERSION, SERIAL_NUMBER, SIP_STATUS, UDID, Falsified
from agent.pki.issuing.authority import Authority

NOW = 1_800_000_000.0
NONCE = b"n" * 32
DATE = datetime(2026, 11, 28, tzinfo=UTC)


def standing(os: str = "15.5", model: str | None = None) -> Device:
    mac = Population("attestation", 1, os=os, model=model)[0]
    return OfflineMac(mac, Authority.create("Devices"), Authority.create("Controllers"), Dialect.SCHEMA).device


def freshness(chain: tuple[bytes, ...]) -> bytes | None:
    try:
        found = x509.load_der_x509_certificate(chain[0]).extensions.get_extension_for_oid(
            x509.ObjectIdentifier(FRESHNESS)
        )
    except x509.ExtensionNotFound:
        return None
    return found.value.public_bytes()


def asked(device: Device, **body: Any) -> object:
    """The first I/O request of a DeviceInformation, or its result."""
    body = {"RequestType": "DeviceInformation", "Queries": ["DevicePropertiesAttestation", "UDID"], **body}
    outcome = carry_out(device, Command("uuid", "DeviceInformation", body))
    return outcome if isinstance(outcome, Result) else advance(outcome, None)


def test_a_new_nonce_is_honoured_after_seven_days() -> None:
    device = standing()
    first = attest_device(device, NONCE, NOW, DATE)
    assert freshness(first) == NONCE
    assert attest_device(device, None, NOW + 2 * FRESH_SECONDS, DATE) == first
    assert attest_device(device, NONCE, NOW + 2 * FRESH_SECONDS, DATE) == first
    assert attest_device(device, b"other", NOW + FRESH_SECONDS - 1, DATE) == first
    second = attest_device(device, b"other", NOW + FRESH_SECONDS, DATE)
    assert freshness(second) == b"other"
    assert attest_device(device, NONCE, NOW + FRESH_SECONDS + 1, DATE) == second


def test_an_attestation_without_a_nonce_has_no_freshness_code_and_is_cached() -> None:
    device = standing()
    first = attest_device(device, None, NOW, DATE)
    assert freshness(first) is None
    assert attest_device(device, NONCE, NOW + 1, DATE) == first
    device.erase()
    assert freshness(attest_device(device, NONCE, NOW + 2, DATE)) == NONCE


@pytest.mark.parametrize("falsified", list(Falsified))
def test_a_falsified_attestation_is_not_cached(falsified: Falsified) -> None:
    device = standing()
    first = attest_device(device, NONCE, NOW, DATE)
    assert attest_device(device, NONCE, NOW, DATE, falsified) != first
    assert attest_device(device, NONCE, NOW, DATE) == first


def test_the_cache_is_part_of_the_stored_mac() -> None:
    device, again = standing(), standing()
    first = attest_device(device, NONCE, NOW, DATE)
    restore_device(again, device_record(device))
    assert attest_device(again, b"other", NOW + 1, DATE) == first


@pytest.mark.parametrize(
    ("os", "model", "able"),
    [("13.6", None, False), ("14.4", "Mac14,3", True), ("15.5", "MacPro7,1", False), ("27", "Mac14,3", True)],
)
def test_macs_with_apple_silicon_attest_from_macos_14_on(os: str, model: str | None, able: bool) -> None:
    device = standing(os, model)
    assert can_attest(device.mac) == able
    found = asked(device, DeviceAttestationNonce=b"n" * 33)
    if able:
        assert found == Result(Status.COMMAND_FORMAT_ERROR)
        assert asked(device, DeviceAttestationNonce=NONCE) == AttestProperties(NONCE)
        assert asked(device) == AttestProperties(None)
    else:  # both keys are ignored
        assert isinstance(found, Result)
        assert found.answer["QueryResponses"] == {"UDID": device.mac.udid}


@pytest.mark.parametrize("body", [{"Queries": ["UDID"]}, {"DeviceAttestationNonce": "text"}])
def test_a_senseless_nonce_is_a_format_error(body: dict[str, Any]) -> None:
    assert asked(standing(), **{"DeviceAttestationNonce": NONCE, **body}) == Result(Status.COMMAND_FORMAT_ERROR)


def test_the_answer_has_the_chain_beside_the_other_keys() -> None:
    device = standing()
    body = {"RequestType": "DeviceInformation", "Queries": ["DevicePropertiesAttestation", "UDID"]}
    steps = carry_out(device, Command("uuid", "DeviceInformation", body))
    assert not isinstance(steps, Result)
    assert advance(steps, None) == AttestProperties(None)
    end = advance(steps, (b"leaf", b"intermediate"))
    assert isinstance(end, Done)
    assert end.value.answer["QueryResponses"] == {
        "UDID": device.mac.udid,
        "DevicePropertiesAttestation": [b"leaf", b"intermediate"],
    }


def test_the_properties_are_those_of_the_mac() -> None:
    mac = standing().mac
    found = attested_properties(standing())
    assert found[SERIAL_NUMBER] == mac.serial_number.encode()
    assert found[UDID] == mac.provisioning_udid.encode() != mac.udid.encode()
    assert (found[OS_VERSION], found[SIP_STATUS]) == (b"15.5", b"0")


def test_the_certificate_is_valid_by_the_date_of_the_servers() -> None:
    device = standing()
    first = attest_device(device, NONCE, NOW, DATE)
    second = attest_device(device, b"other", NOW + FRESH_SECONDS, DATE)  # by the Mac's clock a week later
    for chain in (first, second):
        leaf = x509.load_der_x509_certificate(chain[0])
        assert leaf.not_valid_before_utc < DATE < leaf.not_valid_after_utc
