"""LOM commands of servers, valid and invalid, and the answers in both dialects."""

from __future__ import annotations

import plistlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from strategies_lom import KEYS, plist_dictionaries, request_lists, right_items

from agent.lom.requests import (
    Dialect,
    PowerRequest,
    RelayItem,
    RelayOutcome,
    RequestListMalformed,
    parse_request_list,
    request_answer,
    setup_answer,
)

EXAMPLES = Path(__file__).parents[2] / "fixtures" / "apple-examples"
PRIMARY = ["fe80::94f6:d6ff:fef3:c05b", "fe80::94f6:d6ff:fef3:c1a4"]
WRONG_TYPES: list[Any] = [True, 1, 1.5, b"bytes", datetime(2026, 1, 1, tzinfo=UTC), {"a": "b"}]


def request_item(**changes: Any) -> dict[str, Any]:
    item = {
        "DeviceRequestType": "PowerON",
        "DeviceRequestUUID": "0002",
        "DeviceDNSName": "device.lom.test",
        "PrimaryIPv6AddressList": PRIMARY[:1],
        "SecondaryIPv6AddressList": PRIMARY[1:],
        "LOMProtocolVersion": 1,
    }
    return {key: value for key, value in {**item, **changes}.items() if value is not None}


def parse_one(**changes: Any) -> RelayItem | RelayOutcome:
    (parsed,) = parse_request_list({"RequestList": [request_item(**changes)]})
    return parsed


@pytest.mark.parametrize(
    ("word", "request_type"),
    [("PowerON", PowerRequest.ON), ("PowerOFF", PowerRequest.OFF), ("Reset", PowerRequest.RESET)],
)
def test_item_in_schema_form_is_read(word: str, request_type: PowerRequest) -> None:
    assert parse_one(DeviceRequestType=word) == RelayItem("0002", "device.lom.test", request_type, tuple(PRIMARY), 1)


def test_apples_example_without_request_type_and_version_is_read() -> None:
    command = plistlib.loads((EXAMPLES / "lom-device-request.plist").read_bytes())["Command"]
    assert parse_request_list(command) == [RelayItem("0001", "lomdevice.com", PowerRequest.RESET, tuple(PRIMARY), None)]


@pytest.mark.parametrize("version", [1.0, True])
def test_version_of_another_type_is_converted(version: object) -> None:
    warnings: list[str] = []
    body = {"RequestList": [request_item(LOMProtocolVersion=version)]}
    (parsed,) = parse_request_list(body, warnings.append)
    assert isinstance(parsed, RelayItem)
    assert type(parsed.version) is int
    assert parsed.version == 1
    assert len(warnings) == 1


def test_the_primary_addresses_come_first_in_the_order_given() -> None:
    parsed = parse_one(PrimaryIPv6AddressList=["fe80::3", "fe80::1"], SecondaryIPv6AddressList=["fe80::2"])
    assert isinstance(parsed, RelayItem)
    assert parsed.addresses == ("fe80::3", "fe80::1", "fe80::2")


@pytest.mark.parametrize("key", ["PrimaryIPv6AddressList", "SecondaryIPv6AddressList"])
def test_one_address_list_is_enough(key: str) -> None:
    for absent in ([], None):
        parsed = parse_one(
            **{"PrimaryIPv6AddressList": ["fe80::1"], "SecondaryIPv6AddressList": ["fe80::1"], key: absent}
        )
        assert isinstance(parsed, RelayItem)
        assert parsed.addresses == ("fe80::1",)


def test_empty_list_has_no_outcomes() -> None:
    assert parse_request_list({"RequestList": []}) == []


@pytest.mark.parametrize("value", [None, *WRONG_TYPES, "text"])
def test_list_without_item_uuids_is_malformed(value: Any) -> None:
    bodies: list[dict[str, Any]] = [
        {"RequestList": value} if value is not None else {},
        {"RequestList": [request_item(), request_item(DeviceRequestUUID=value)]} if value != "text" else {},
        {"RequestList": [request_item(), value]} if not isinstance(value, dict) else {"RequestList": [value]},
    ]
    for body in bodies:
        with pytest.raises(RequestListMalformed) as caught:
            parse_request_list(body)
        assert caught.value.kind == "command_format"


@pytest.mark.parametrize(
    ("key", "values", "reason"),
    [
        ("DeviceRequestUUID", ["", "x" * 257], "1 to 256 characters"),
        ("DeviceDNSName", [None, *WRONG_TYPES, []], "DeviceDNSName: expected a string"),
        ("DeviceDNSName", ["", "x" * 254], "1 to 253 characters"),
        ("LOMProtocolVersion", [1.5, "1", b"\1", [], {}], "LOMProtocolVersion: expected an integer"),
        ("PrimaryIPv6AddressList", [*WRONG_TYPES, "fe80::1"], "PrimaryIPv6AddressList: expected an array, found"),
        ("PrimaryIPv6AddressList", [["fe80::1", 1]], "address 1 of PrimaryIPv6AddressList: expected a string"),
        ("PrimaryIPv6AddressList", [[["fe80::1"]]], "PrimaryIPv6AddressList: expected a string, found an array"),
        ("SecondaryIPv6AddressList", [*WRONG_TYPES, "fe80::1"], "SecondaryIPv6AddressList: expected an array, found"),
        ("SecondaryIPv6AddressList", [["fe80::1", 1]], "address 1 of SecondaryIPv6AddressList: expected a string"),
        ("SecondaryIPv6AddressList", [[["fe80::1"]]], "SecondaryIPv6AddressList: expected a string, found an array"),
        ("PrimaryIPv6AddressList", [["fe80::1"] * 17], "17 addresses; at most 16"),
        (
            "DeviceRequestType",
            ["Restart", "poweron", "PowerOn", "POWEROFF", "reset", "Reset ", ""],
            "DeviceRequestType: expected one of PowerON, PowerOFF, Reset (case-sensitive), found '",
        ),
        ("DeviceRequestType", [None, *WRONG_TYPES, ["Reset"]], "PowerON, PowerOFF, Reset"),
    ],
)
def test_invalid_item_fails_alone(key: str, values: list[Any], reason: str) -> None:
    for value in values:
        wrong = (
            request_item(DeviceRequestUUID="wrong", **{key: value})
            if key != "DeviceRequestUUID"
            else {**request_item(), key: value}
        )
        right = [request_item(DeviceRequestUUID=uuid) for uuid in ("before", "after")]
        before, failed, after = parse_request_list({"RequestList": [right[0], wrong, right[1]]})
        assert isinstance(before, RelayItem)
        assert isinstance(after, RelayItem)
        assert isinstance(failed, RelayOutcome)
        assert failed.uuid == wrong["DeviceRequestUUID"]
        assert not failed.success
        assert reason in failed.error


def test_an_item_without_any_address_fails() -> None:
    for absent in ([], None):
        failed = parse_one(PrimaryIPv6AddressList=absent, SecondaryIPv6AddressList=absent)
        assert isinstance(failed, RelayOutcome)
        assert "both empty" in failed.error


def test_items_with_a_repeated_uuid_fail_except_the_first() -> None:
    names = ("one.lom.test", "two.lom.test", "three.lom.test")
    items = [request_item(DeviceRequestUUID="same", DeviceDNSName=name) for name in names]
    items.insert(1, request_item(DeviceRequestUUID="other"))
    first, other, *repeats = parse_request_list({"RequestList": items})
    assert isinstance(first, RelayItem)
    assert isinstance(other, RelayItem)
    assert first.dns_name == "one.lom.test"
    for number, repeat in enumerate(repeats, 2):
        assert isinstance(repeat, RelayOutcome)
        assert repeat.uuid == "same"
        assert f"item {number} of RequestList repeats the DeviceRequestUUID 'same' of item 0" in repeat.error


@given(plist_dictionaries(*KEYS) | request_lists)
def test_any_dictionary_is_answered_by_item_or_malformed(body: dict[str, Any]) -> None:
    try:
        parsed = parse_request_list(body)
    except RequestListMalformed:
        return
    asked = [item["DeviceRequestUUID"] for item in body["RequestList"]]
    assert [item.uuid for item in parsed] == asked
    assert not any(isinstance(item, RelayOutcome) and item.success for item in parsed)
    for dialect, key in ((Dialect.SCHEMA, "ResponseList"), (Dialect.DOCUMENTED_EXAMPLE, "ResponseData")):
        outcomes = [item if isinstance(item, RelayOutcome) else RelayOutcome(item.uuid) for item in parsed]
        answer = plistlib.loads(plistlib.dumps(request_answer(dialect, outcomes)))
        assert [item["DeviceRequestUUID"] for item in answer[key]] == asked


@given(right_items)
def test_item_with_correct_types_is_accepted(item: dict[str, Any]) -> None:
    (parsed,) = parse_request_list({"RequestList": [item]})
    assert isinstance(parsed, RelayItem)
    assert parsed.uuid == item["DeviceRequestUUID"]
    assert parsed.request.value == item["DeviceRequestType"]


def test_device_request_answer_has_the_schemas_keys() -> None:
    assert request_answer(Dialect.SCHEMA, [RelayOutcome("a"), RelayOutcome("b", "nobody there")]) == {
        "ResponseList": [
            {"DeviceRequestSuccess": True, "DeviceRequestUUID": "a"},
            {"DeviceRequestSuccess": False, "DeviceRequestUUID": "b", "DeviceRequestReturnError": "nobody there"},
        ]
    }


def test_device_request_answer_has_the_examples_keys() -> None:
    assert request_answer(Dialect.DOCUMENTED_EXAMPLE, [RelayOutcome("a"), RelayOutcome("b", "nobody there")]) == {
        "ResponseData": [
            {"DeviceRequestSucess": True, "DeviceRequestUUID": "a"},
            {"DeviceRequestSucess": False, "DeviceRequestUUID": "b", "DeviceRequestReturnError": "nobody there"},
        ]
    }


def test_setup_request_answer_has_the_documented_keys() -> None:
    assert setup_answer(Dialect.SCHEMA, PRIMARY[:1], PRIMARY[1:], 1) == {
        "PrimaryIPv6AddressList": PRIMARY[:1],
        "SecondaryIPv6AddressList": PRIMARY[1:],
        "LOMProtocolVersion": 1,
    }
    assert setup_answer(Dialect.SCHEMA, PRIMARY, [], 2)["SecondaryIPv6AddressList"] == []
    assert setup_answer(Dialect.DOCUMENTED_EXAMPLE, PRIMARY[:1], PRIMARY[1:], 1) == {"PrimaryIPv6AddressList": PRIMARY}
