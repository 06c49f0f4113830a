"""A Mac's answers to LOM commands: exactly Apple's examples, and Apple's schema key by key.

``fixtures/apple-examples`` are the pages' requests and responses, `agent.mdm.facts` the keys of both commands.
"""

from __future__ import annotations

import plistlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from apple_schema import problems
from issued_once import IssuedOnce
from msgspec import structs

from agent.device.answering import OfflineMac, answer_among, answer_command
from agent.device.commands import carry_out
from agent.device.installing.profiles import enrollment_steps
from agent.device.mac import Device
from agent.device.steps import CheckIn, Done, RelayItems, advance
from agent.fleet.population import Mac, Population
from agent.lom.requests import Dialect
from agent.mdm.access_rights import ALL_RIGHTS, AccessRights
from agent.mdm.commands import parse_command
from agent.mdm.facts import message
from agent.mdm.results import Result
from agent.pki.identity import load_pkcs12

FIXTURES = Path(__file__).parents[2] / "fixtures"
EXAMPLES = FIXTURES / "apple-examples"
ADDRESSES = ("fe80::94f6:d6ff:fef3:c05b", "fe80::94f6:d6ff:fef3:c1a4")
CONTROLLER_UDID = "37CECCAB-99C1-5ADF-8A9A-2AFA3B6387B5"  # the answering Mac on the page "LOM Device Request Command"
DEVICE_UDID = "84341F79-92F5-5EF7-9A6A-3A7374613227"  # the answering Mac on the page "LOM Setup Request Command"
TWO_PORTS = "MacPro7,1"
POPULATION = Population("lom commands", 30)
AUTHORITIES = IssuedOnce.create("Devices"), IssuedOnce.create("Controllers")
CONTROLLER, DEVICE = 0, 1  # by index


def macs() -> list[Mac]:
    """The two Macs of Apple's pages: a Controller, and the Device lomdevice.com."""
    device = replace(
        POPULATION[DEVICE], dns_name="lomdevice.com", udid=DEVICE_UDID, primary_ipv6=ADDRESSES, secondary_ipv6=()
    )
    return [replace(POPULATION[CONTROLLER], udid=CONTROLLER_UDID), device]


def example(name: str) -> Any:
    return plistlib.loads((EXAMPLES / f"{name}.plist").read_bytes())


def command(**body: Any) -> bytes:
    return plistlib.dumps({"CommandUUID": "c1", "Command": body})


def request_item(**changes: Any) -> dict[str, Any]:
    item = {
        "DeviceRequestType": "PowerOFF",
        "DeviceRequestUUID": "0001",
        "DeviceDNSName": "lomdevice.com",
        "PrimaryIPv6AddressList": list(ADDRESSES),
        "SecondaryIPv6AddressList": [],
        "LOMProtocolVersion": 1,
    }
    return {key: value for key, value in {**item, **changes}.items() if value is not None}


def device_request(*items: dict[str, Any]) -> bytes:
    return command(RequestType="LOMDeviceRequest", RequestList=list(items))


def answer(octets: bytes, index: int = CONTROLLER, dialect: Dialect = Dialect.SCHEMA) -> dict[str, Any]:
    return plistlib.loads(answer_among(macs(), index, octets, dialect))


def standing(dialect: Dialect = Dialect.SCHEMA) -> Device:
    """A Mac with everything that LOM needs; tests remove parts."""
    return OfflineMac(macs()[CONTROLLER], *AUTHORITIES, dialect).device


def result_of(device: Device, octets: bytes) -> dict[str, Any]:
    """The result of a command that needs no other Mac."""
    parsed = parse_command(octets)
    result = carry_out(device, parsed)
    if not isinstance(result, Result):
        done = advance(result, None)
        if done == RelayItems(()):
            done = advance(result, [])
        assert isinstance(done, Done)
        result = done.value
    report: dict[str, Any] = plistlib.loads(result.body(device.mac.udid, parsed.uuid))
    return report


# Apple's own examples


@pytest.mark.parametrize(("index", "name"), [(CONTROLLER, "lom-device"), (DEVICE, "lom-setup")])
def test_apples_example_is_answered_as_documented(index: int, name: str) -> None:
    octets = (EXAMPLES / f"{name}-request.plist").read_bytes()
    assert answer(octets, index, Dialect.DOCUMENTED_EXAMPLE) == example(f"{name}-response")


def test_apples_examples_are_answered_with_the_schemas_keys() -> None:
    device = answer((EXAMPLES / "lom-device-request.plist").read_bytes())
    assert device == {
        "CommandUUID": "0001_LOMDeviceRequest",
        "ResponseList": [{"DeviceRequestSuccess": True, "DeviceRequestUUID": "0001"}],
        "Status": "Acknowledged",
        "UDID": CONTROLLER_UDID,
    }
    setup = answer((EXAMPLES / "lom-setup-request.plist").read_bytes(), DEVICE)
    assert setup == {
        "CommandUUID": "0001_LOMSetupRequest",
        "PrimaryIPv6AddressList": list(ADDRESSES),
        "SecondaryIPv6AddressList": [],
        "LOMProtocolVersion": 2,
        "Status": "Acknowledged",
        "UDID": DEVICE_UDID,
    }


# Apple's schema


REPORT_KEYS = {"CommandUUID", "Status", "UDID"}  # of every result


def answered_problems(request_type: str, report: dict[str, Any]) -> list[str]:
    """Violations of Apple's schema in a report's common keys."""
    assert report.keys() >= REPORT_KEYS
    own = {key: value for key, value in report.items() if key not in REPORT_KEYS}
    return problems(own, message("command", request_type).response)


def test_example_dialect_differs_from_the_schema() -> None:
    """The check itself must fail for these."""
    assert answered_problems("LOMDeviceRequest", example("lom-device-response")) == [
        "ResponseData is not in the schema",
        "ResponseList is required and absent",
    ]
    assert answered_problems("LOMSetupRequest", example("lom-setup-response")) == [
        "LOMProtocolVersion is required and absent",
        "SecondaryIPv6AddressList is required and absent",
    ]


def test_generated_requests_conform_to_the_schema() -> None:
    """The requests of these tests are themselves valid by the schema."""
    body = {"RequestList": [request_item(DeviceRequestType=word) for word in ("PowerON", "PowerOFF", "Reset")]}
    assert problems(body, message("command", "LOMDeviceRequest").request) == []


@pytest.mark.parametrize("index", range(len(POPULATION)))
def test_setup_answers_conform_to_the_schema(index: int) -> None:
    """Macs of every model, with one LOM port and with two."""
    mac = POPULATION[index]
    report = plistlib.loads(answer_among([mac], index, command(RequestType="LOMSetupRequest"), Dialect.SCHEMA))
    assert report["Status"] == "Acknowledged"
    assert answered_problems("LOMSetupRequest", report) == []
    assert report["PrimaryIPv6AddressList"] == list(mac.primary_ipv6)
    assert report["SecondaryIPv6AddressList"] == list(mac.secondary_ipv6)


def test_the_population_has_macs_with_one_port_and_with_two() -> None:
    assert {bool(mac.secondary_ipv6) for mac in POPULATION} == {True, False}


def test_device_answers_conform_to_the_schema_for_every_outcome() -> None:
    items = [
        request_item(DeviceRequestUUID="done"),
        request_item(DeviceRequestUUID="off", DeviceRequestType="Reset"),
        request_item(DeviceRequestUUID="name", DeviceDNSName="other.lom.test"),
        request_item(DeviceRequestUUID="address", PrimaryIPv6AddressList=["fe80::1"]),
        request_item(DeviceRequestUUID="type", DeviceRequestType="Restart"),
        request_item(DeviceRequestUUID="version", LOMProtocolVersion=3),
        request_item(DeviceRequestUUID="on", DeviceRequestType="PowerON"),
    ]
    report = answer(device_request(*items))
    assert report["Status"] == "Acknowledged"
    assert answered_problems("LOMDeviceRequest", report) == []
    answered = {item["DeviceRequestUUID"]: item for item in report["ResponseList"]}
    assert list(answered) == [item["DeviceRequestUUID"] for item in items]
    assert [uuid for uuid, item in answered.items() if item["DeviceRequestSuccess"]] == ["done", "on"]
    assert {uuid for uuid, item in answered.items() if "DeviceRequestReturnError" in item} == answered.keys() - {
        "done",
        "on",
    }
    for uuid, words in {
        "off": "Reset refused: the Mac is off",
        "name": "expected a certificate with CommonName other.lom.test, found lomdevice.com",
        "address": "fe80::1: no Mac answers at this address",
        "type": "PowerON, PowerOFF, Reset",
        "version": "LOMProtocolVersion: expected 1 or 2, found 3",
    }.items():
        assert words in answered[uuid]["DeviceRequestReturnError"]


# What a Mac refuses


def test_next_address_of_the_item_is_tried() -> None:
    item = request_item(PrimaryIPv6AddressList=["fe80::1"], SecondaryIPv6AddressList=[ADDRESSES[1]])
    assert answer(device_request(item))["ResponseList"] == [{"DeviceRequestSuccess": True, "DeviceRequestUUID": "0001"}]


def test_a_device_of_another_segment_is_not_reached() -> None:
    octets = device_request(
        request_item(DeviceDNSName=POPULATION[11].dns_name, PrimaryIPv6AddressList=list(POPULATION[11].primary_ipv6))
    )
    here = plistlib.loads(answer_command(POPULATION, 0, octets, Dialect.SCHEMA))
    there = plistlib.loads(answer_command(POPULATION, 10, octets, Dialect.SCHEMA))
    assert [report["ResponseList"][0]["DeviceRequestSuccess"] for report in (here, there)] == [False, True]
    assert "no Mac answers" in here["ResponseList"][0]["DeviceRequestReturnError"]


LOM_COMMANDS = {
    "LOMSetupRequest": command(RequestType="LOMSetupRequest"),
    "LOMDeviceRequest": device_request(request_item()),
    "without RequestType": (EXAMPLES / "lom-device-request.plist").read_bytes(),
}


def error_codes(report: dict[str, Any]) -> list[tuple[str, int]]:
    """The ErrorChain of a report, every item of which has its four keys."""
    assert report["Status"] == "Error"
    assert report.keys() == REPORT_KEYS | {"ErrorChain"}
    for item in report["ErrorChain"]:
        assert item.keys() == {"ErrorCode", "ErrorDomain", "LocalizedDescription", "USEnglishDescription"}
        assert item["USEnglishDescription"]
    return [(item["ErrorDomain"], item["ErrorCode"]) for item in report["ErrorChain"]]


@pytest.mark.parametrize("octets", LOM_COMMANDS.values(), ids=LOM_COMMANDS)
@pytest.mark.parametrize("dialect", Dialect)
def test_a_mac_without_a_lom_payload_answers_with_an_error(octets: bytes, dialect: Dialect) -> None:
    device = standing(dialect)
    device.profiles.lom = None
    assert error_codes(result_of(device, octets)) == [("MCMDMErrorDomain", 12021)]


def test_each_role_answers_only_its_own_command() -> None:
    device = standing()
    both = device.profiles.lom
    assert both is not None
    device.profiles.lom = structs.replace(both, controller_identity=None)
    assert error_codes(result_of(device, LOM_COMMANDS["LOMDeviceRequest"])) == [("MCMDMErrorDomain", 12021)]
    assert result_of(device, LOM_COMMANDS["LOMSetupRequest"])["Status"] == "Acknowledged"
    device.profiles.lom = structs.replace(both, device_identity=None)
    assert error_codes(result_of(device, LOM_COMMANDS["LOMSetupRequest"])) == [("MCMDMErrorDomain", 12021)]


@pytest.mark.parametrize("octets", LOM_COMMANDS.values(), ids=LOM_COMMANDS)
def test_missing_access_right_gives_an_error(octets: bytes) -> None:
    device = standing()
    assert device.enrollment is not None
    device.enrollment = structs.replace(device.enrollment, access_rights=ALL_RIGHTS & ~AccessRights.LOCK_DEVICE)
    assert error_codes(result_of(device, octets)) == [("MCMDMErrorDomain", 12007)]


def test_access_right_of_lom_is_sufficient() -> None:
    device = standing()
    assert device.enrollment is not None
    device.enrollment = structs.replace(device.enrollment, access_rights=AccessRights(4))
    assert result_of(device, LOM_COMMANDS["LOMSetupRequest"])["Status"] == "Acknowledged"


@pytest.mark.parametrize(
    "body",
    [
        {"RequestType": "LOMDeviceRequest"},
        {"RequestType": "LOMDeviceRequest", "RequestList": {}},
        {"RequestType": "LOMDeviceRequest", "RequestList": "PowerON"},
        {"RequestType": "LOMDeviceRequest", "RequestList": ["PowerON"]},
        {"RequestType": "LOMDeviceRequest", "RequestList": [request_item(DeviceRequestUUID=None)]},
        {"RequestType": "LOMDeviceRequest", "RequestList": [request_item(), request_item(DeviceRequestUUID=1)]},
        {"RequestList": {}},
    ],
    ids=["none", "dictionary", "string", "strings", "no UUID", "a UUID that is a number", "no RequestType"],
)
def test_a_malformed_request_list_is_a_format_error(body: dict[str, Any]) -> None:
    assert answer(command(**body)) == {"CommandUUID": "c1", "Status": "CommandFormatError", "UDID": CONTROLLER_UDID}


def test_empty_request_list_is_acknowledged() -> None:
    assert answer(device_request())["ResponseList"] == []


# The profiles in fixtures/profiles


def payloads_of(name: str) -> dict[str, dict[str, Any]]:
    profile = plistlib.loads((FIXTURES / "profiles" / name).read_bytes())
    return {payload["PayloadDisplayName"]: payload for payload in profile["PayloadContent"]}


def test_the_example_profiles_make_a_mac_a_lom_device_and_controller() -> None:
    device = Device(macs()[DEVICE], boot_seconds=lambda: 0.0, jitter=lambda: 0.0)
    steps = enrollment_steps(device, (FIXTURES / "profiles" / "enrollment.mobileconfig").read_bytes())
    need = advance(steps, None)
    while isinstance(need, CheckIn):
        need = advance(steps, b"")
    assert device.enrollment is not None
    assert device.enrollment.server_url == "https://mdm.example.test:8443/mdm"
    install = command(RequestType="InstallProfile", Payload=(FIXTURES / "profiles" / "lom.mobileconfig").read_bytes())
    assert result_of(device, install)["Status"] == "Acknowledged"
    assert result_of(device, LOM_COMMANDS["LOMSetupRequest"])["PrimaryIPv6AddressList"] == list(ADDRESSES)
    assert result_of(device, device_request())["ResponseList"] == []


def test_example_profiles_use_the_documented_passwords_and_stay_valid() -> None:
    readme = (FIXTURES / "README.md").read_text()
    for name in ("enrollment.mobileconfig", "lom.mobileconfig"):
        for title, payload in payloads_of(name).items():
            if payload["PayloadType"] != "com.apple.security.pkcs12":
                continue
            assert f"| `{name}` | {title} | `{payload['Password']}` |" in readme
            identity = load_pkcs12(payload["PayloadContent"], payload["Password"])
            assert identity.certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=365)
