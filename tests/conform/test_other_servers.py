"""What checks make of servers that do right in another way than the lab: their own commands, orders and identities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from agent.conform.reading.lom import IDENTITY_STEP
from agent.conform.requirements.lom_device import addresses, dns_name, protocol_version, unique_uuids
from agent.conform.requirements.lom_relay import item_for_each_device, new_addresses
from agent.conform.requirements.lom_setup import extended_key_usage, key_usage
from agent.conform.requirements.session import empty_answer_ends
from agent.conform.trace.bodies import body_of
from agent.conform.trace.evidence import Evidence
from agent.conform.trace.records import ExchangeRecord, MacRecord, NoteRecord, Record
from agent.conform.verdicts.requirement import Finding, Outcome
from agent.pki.issuing.authorities import Authorities
from agent.pki.pem import certificate_pem
from agent.plists import dump_xml

NAME = "device.lom.test"
LISTS = {"PrimaryIPv6AddressList": ["fe80::1", "fe80::2"], "SecondaryIPv6AddressList": []}
ANSWER = {"Status": "Acknowledged", "CommandUUID": "S", "LOMProtocolVersion": 2, **LISTS}
ITEM = {"DeviceRequestType": "PowerON", "DeviceRequestUUID": "1", "DeviceDNSName": NAME, "LOMProtocolVersion": 2}


def report(number: int, udid: str, answered: Any = b"", status: int = 200, **sent: Any) -> ExchangeRecord:
    """A report, and what the server answered to it: bytes, or a dictionary as a property list."""
    body = {"UDID": udid, "Status": "Idle", **sent}
    headers = {"content-type": "application/xml"}
    octets = answered if isinstance(answered, bytes) else dump_xml(answered)
    return ExchangeRecord(
        number=number, probe="p", at=0.0, seconds=0.1, udid=udid, kind="report", status=status,
        request=body_of(dump_xml(body)), response=body_of(octets), response_headers=headers,
        answer_status=str(body["Status"]), command_uuid=str(sent.get("CommandUUID", "")),
        request_type="LOMSetupRequest" if "LOMProtocolVersion" in sent else "",
    )  # fmt: skip


def command(uuid: str, request_type: str, **keys: Any) -> dict[str, Any]:
    return {"CommandUUID": uuid, "Command": {"RequestType": request_type, **keys}}


def note(number: int, step: str, udid: str, **more: Any) -> NoteRecord:
    keys = {key: more.pop(key) for key in ("command_uuid", "request_type") if key in more}
    return NoteRecord(number=number, probe="p", at=0.0, step=step, udid=udid, data=more, **keys)


def mac(number: int, udid: str) -> MacRecord:
    return MacRecord(
        number=number, probe="p", udid=udid, serial_number=udid, os="27.0", model="Mac16,11",
        roles=("device",), dns_name="other.lom.test", segment=1,
    )  # fmt: skip


def installed(authorities: Authorities) -> list[Record]:
    """A Device with a LOM profile whose identity comes by SCEP, and its answer to LOMSetupRequest."""
    payloads = [
        {"PayloadType": "com.apple.lom", "PayloadUUID": "L", "DeviceCertificateUUID": "I"},
        {"PayloadType": "com.apple.security.scep", "PayloadUUID": "I", "PayloadContent": {}},
    ]
    profile = dump_xml({"PayloadType": "Configuration", "PayloadContent": payloads})
    certificate = certificate_pem(authorities.lom_device_identity(NAME).certificate).decode()
    return [
        mac(1, "D"),
        report(2, "D", command("P", "InstallProfile", Payload=profile)),
        report(3, "D", Status="Acknowledged", CommandUUID="P"),
        note(4, IDENTITY_STEP, "D", key="DeviceCertificateUUID", certificates=certificate),
        report(5, "D", **ANSWER),
    ]


@pytest.fixture(scope="module")
def device() -> list[Record]:
    return installed(Authorities())


def asked(number: int, uuid: str, *items: dict[str, Any]) -> ExchangeRecord:
    """The session of a Controller in which it gets a LOMDeviceRequest."""
    return report(number, "C", command(uuid, "LOMDeviceRequest", RequestList=list(items)))


def outcome(check: Callable[[Evidence], Finding], *records: Record) -> Outcome:
    return check(Evidence(list(records))).outcome


def test_a_server_may_send_commands_of_its_own_before_the_empty_answer() -> None:
    own = report(1, "D", command("A", "DeviceInformation"))
    result = {"Status": "Acknowledged", "CommandUUID": "A"}
    assert outcome(empty_answer_ends, own, report(2, "D", **result)) is Outcome.PASSED
    assert outcome(empty_answer_ends, own, report(2, "D", {}, **result)) is Outcome.FAILED
    assert outcome(empty_answer_ends, own, report(2, "D", status=204, **result)) is Outcome.FAILED
    assert outcome(empty_answer_ends, own) is Outcome.NOT_TESTED


def test_addresses_are_compared_whatever_their_order_and_form(device: list[Record]) -> None:
    other = {"PrimaryIPv6AddressList": ["fe80:0:0:0:0:0:0:2", "FE80::1"], "SecondaryIPv6AddressList": []}
    assert outcome(addresses, *device, asked(6, "A", ITEM | other)) is Outcome.PASSED
    for wrong in (["fe80::1"], ["fe80::1", "fe80::1"], ["fe80::1", "fe80::3"], "fe80::1", ["fe80::1", 2]):
        item = ITEM | other | {"PrimaryIPv6AddressList": wrong}
        assert outcome(addresses, *device, asked(6, "A", item)) is Outcome.FAILED
    again = report(6, "D", **(ANSWER | {"PrimaryIPv6AddressList": ["fe80::9"]}))
    assert outcome(new_addresses, *device, again, asked(7, "A", ITEM | other)) is Outcome.FAILED


def test_a_lom_identity_of_scep_is_judged_by_the_certificate_that_the_mac_got(device: list[Record]) -> None:
    for check in (key_usage, extended_key_usage):
        assert outcome(check, *device) is Outcome.PASSED
        assert outcome(check, *device[:3]) is Outcome.NOT_TESTED
    assert outcome(dns_name, *device, asked(6, "A", ITEM)) is Outcome.PASSED
    assert outcome(dns_name, *device, asked(6, "A", ITEM | {"DeviceDNSName": "else.lom.test"})) is Outcome.FAILED


def second(device: list[Record], authorities: Authorities) -> list[Record]:
    """The Device, and one named E with another name and other addresses."""
    payload, answer = {"PrimaryIPv6AddressList": ["fe80::e"]}, ANSWER
    certificate = certificate_pem(authorities.lom_device_identity("e.lom.test").certificate).decode()
    mac_, profile, result, _note, _answer = device
    others: list[Record] = [
        structs.replace(mac_, number=11, udid="E"),
        structs.replace(profile, number=12, udid="E"),
        structs.replace(result, number=13, udid="E"),
        note(14, IDENTITY_STEP, "E", key="DeviceCertificateUUID", certificates=certificate),
        report(15, "E", **(answer | payload)),
    ]
    return [*device, *others]


@pytest.mark.parametrize(
    ("devices", "name", "lists", "expected"),
    [
        (["D", "E"], NAME, {"PrimaryIPv6AddressList": ["fe80::2"]}, Outcome.PASSED),
        (["D", "E"], "e.lom.test", {"PrimaryIPv6AddressList": ["fe80::2"]}, Outcome.FAILED),  # the name of another Mac
        (["D", "E"], "e.lom.test", {"PrimaryIPv6AddressList": ["fe80::e"]}, Outcome.PASSED),
        (["E"], NAME, {}, Outcome.FAILED),
        (["E"], "e.lom.test", {}, Outcome.PASSED),
        (["D", "E"], NAME, {}, Outcome.NOT_TESTED),  # nothing shows which of them
        (["D", "E"], "else.lom.test", {}, Outcome.FAILED),
        ([], NAME, {}, Outcome.NOT_TESTED),
    ],
)
def test_the_name_of_an_item_is_that_of_its_device(
    device: list[Record], devices: list[str], name: str, lists: dict[str, Any], expected: Outcome
) -> None:
    queued = note(20, "queued", "C", command_uuid="A", request_type="LOMDeviceRequest", devices=devices, by_server=True)
    item = ITEM | {"DeviceDNSName": name} | lists
    assert outcome(dns_name, *second(device, Authorities()), queued, asked(21, "A", item)) is expected


@pytest.mark.parametrize("check", [addresses, protocol_version, dns_name])
def test_an_item_whose_device_is_not_known_is_no_pass(
    device: list[Record], check: Callable[[Evidence], Finding]
) -> None:
    unknown = [each for each in device if not isinstance(each, NoteRecord)]
    assert outcome(check, *unknown, asked(6, "A", ITEM | LISTS)) is Outcome.NOT_TESTED
    assert outcome(check, *device, asked(6, "A", ITEM | LISTS)) is Outcome.PASSED


def test_items_without_a_uuid_are_not_taken_for_the_same() -> None:
    without = {key: value for key, value in ITEM.items() if key != "DeviceRequestUUID"}
    assert outcome(unique_uuids, asked(1, "A", without, without)) is Outcome.NOT_TESTED
    assert outcome(unique_uuids, asked(1, "A", ITEM, ITEM)) is Outcome.FAILED


@pytest.mark.parametrize("uuid", ["A", ""], ids=["CommandUUID known", "CommandUUID unknown"])
def test_devices_may_be_asked_in_one_command_or_in_several(uuid: str) -> None:
    queued = note(2, "queued", "C", command_uuid=uuid, request_type="LOMDeviceRequest", devices=["D", "E"])
    one, two = ITEM, ITEM | {"DeviceRequestUUID": "2"}
    next_one = note(9, "queued", "C", command_uuid="Z", request_type="LOMDeviceRequest", devices=["D"])
    after = (next_one, asked(10, "Z", one))
    assert outcome(item_for_each_device, queued, asked(3, "A", one, two), *after) is Outcome.PASSED
    assert outcome(item_for_each_device, queued, asked(3, "A", one), asked(4, "B", two), *after) is Outcome.PASSED
    assert outcome(item_for_each_device, queued, asked(3, "A", one), *after) is Outcome.FAILED
    assert outcome(item_for_each_device, queued, asked(3, "A", one, two), asked(4, "B", two)) is Outcome.FAILED
