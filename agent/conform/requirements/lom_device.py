"""Requirements of LOMDeviceRequest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.conform.reading.lom import (
    ACTIONS,
    ITEM,
    LISTS,
    NEVER_SENT,
    NO_ACTIONS,
    REQUEST,
    REQUEST_TYPE,
    SETUP,
    SETUP_TYPE,
    VERSION,
    addresses_in,
    answer_of,
    by_server,
    device_names,
    devices_without_name,
    must_of_lom,
    of_items,
)
from agent.conform.trace.evidence import DeliveredCommand, Evidence
from agent.conform.verdicts.requirement import Finding, Outcome, Source, failed, not_tested, passed


def item_keys(evidence: Evidence) -> Finding:
    """Each item has every required key, with a value of its type."""

    def judge(_evidence: Evidence, command: DeliveredCommand, item: Mapping[str, Any]) -> Finding | None:
        for key, kind in ITEM.items():
            value = item.get(key)
            if not isinstance(value, kind) or isinstance(value, bool):
                seen = f"{key} with a {type(value).__name__}" if key in item else f"an item without {key}"
                return failed(f"{key} in each item, of its type", seen, command)
        return None

    return of_items(evidence, judge, form=True)


def action_spelling(evidence: Evidence) -> Finding:
    """DeviceRequestType is one of Apple's three words."""

    def judge(_evidence: Evidence, command: DeliveredCommand, item: Mapping[str, Any]) -> Finding | None:
        action = item.get("DeviceRequestType")
        if action in ACTIONS:
            return None
        return failed(f"DeviceRequestType {', '.join(ACTIONS)}", str(action)[:80], command)

    return of_items(evidence, judge)


def addresses(evidence: Evidence) -> Finding:
    """The address lists are those of the Device's answer."""

    def judge(evidence: Evidence, command: DeliveredCommand, item: Mapping[str, Any]) -> Finding | None:
        answer = answer_of(evidence, command, item)
        for key in LISTS:
            if addresses_in(item, key) != addresses_in(answer, key):
                return failed(f"{key} {answer.get(key)}, as the Device answered", f"{item.get(key)}", command)
        return None

    return of_items(evidence, judge, known=_is_answered)


def protocol_version(evidence: Evidence) -> Finding:
    """LOMProtocolVersion is that of the Device's answer."""

    def judge(evidence: Evidence, command: DeliveredCommand, item: Mapping[str, Any]) -> Finding | None:
        answer = answer_of(evidence, command, item)
        if item.get(VERSION) == answer.get(VERSION):
            return None
        return failed(f"{VERSION} {answer.get(VERSION)}, as the Device answered", str(item.get(VERSION)), command)

    return of_items(evidence, judge, known=_is_answered)


def dns_name(evidence: Evidence) -> Finding:
    """DeviceDNSName is the CommonName or a dNSName of the identity of the Device that the item is for."""

    def judge(evidence: Evidence, command: DeliveredCommand, item: Mapping[str, Any]) -> Finding | None:
        name = item.get("DeviceDNSName")
        names = {each for known in _names(evidence, command, item) for each in known}
        if isinstance(name, str) and name.lower() in names:
            return None
        return failed(f"DeviceDNSName {' or '.join(sorted(names))}", str(name)[:200], command)

    return of_items(evidence, judge, known=_has_names)


def _names(evidence: Evidence, command: DeliveredCommand, item: Mapping[str, Any]) -> list[set[str]]:
    """The names of each Device that an item can be for."""
    return [device_names(evidence, mac.udid) for mac in devices_without_name(evidence, command, item)]


def _has_names(evidence: Evidence, command: DeliveredCommand, item: Mapping[str, Any]) -> bool:
    """Whether it can be judged: the name is that of every Device that the item can be for, or of none of them."""
    names = _names(evidence, command, item)
    matching = [str(item.get("DeviceDNSName")).lower() in each for each in names]
    return bool(names) and all(names) and (all(matching) or not any(matching))


def _is_answered(evidence: Evidence, command: DeliveredCommand, item: Mapping[str, Any]) -> bool:
    return bool(answer_of(evidence, command, item))


def unique_uuids(evidence: Evidence) -> Finding:
    """No two items have the same DeviceRequestUUID."""
    seen: dict[str, DeliveredCommand] = {}

    def judge(_evidence: Evidence, command: DeliveredCommand, item: Mapping[str, Any]) -> Finding | None:
        uuid = str(item.get("DeviceRequestUUID", "")).upper()
        if uuid and uuid in seen:
            return failed("a new DeviceRequestUUID for each item", f"{uuid[:80]} again", seen[uuid], command)
        seen[uuid] = command
        return None

    finding = of_items(evidence, judge)
    if finding.outcome is Outcome.PASSED and "" in seen:
        return not_tested("An item has no DeviceRequestUUID.", seen[""])
    return finding


def setup_before_request(evidence: Evidence) -> Finding:
    """No LOMDeviceRequest is sent for a Device that has not answered LOMSetupRequest."""
    sent = by_server(evidence, REQUEST_TYPE)
    for command in sent:
        controller = evidence.mac(command.udid)
        answered = [
            result
            for mac in evidence.macs
            if mac.segment == controller.segment and mac.udid != controller.udid
            for result in evidence.results(SETUP_TYPE, udid=mac.udid)
            if result.answer_status == "Acknowledged" and result.number < command.number
        ]
        if not answered:
            return failed(
                "LOMDeviceRequest only after the Device has answered LOMSetupRequest",
                "LOMDeviceRequest for a Device that has not",
                command,
            )
    asked = evidence.asked(REQUEST_TYPE)
    if not asked:
        return not_tested(NO_ACTIONS.format(what=REQUEST_TYPE))
    return passed(*asked, *sent) if sent else not_tested(NEVER_SENT.format(what=REQUEST_TYPE), *asked)


def partial_success(evidence: Evidence) -> Finding:
    """A LOMDeviceRequest of which an item failed is over: it is not sent again."""
    for result in evidence.results(REQUEST_TYPE):
        items = result.request.dictionary.get("ResponseList")
        if not isinstance(items, list) or all(each.get("DeviceRequestSuccess") is not False for each in items):
            continue
        if result.status != 200:
            return failed("the result to be answered with 200", f"{result.status or result.error}", result)
        again = evidence.commands(command_uuid=result.command_uuid, after=result.number - 1)
        if again:
            return failed("no command again after its result was accepted", "the same command again", result, *again)
        return passed(result)
    return not_tested("No LOMDeviceRequest had an item that failed.")


REQUIREMENTS = (
    must_of_lom(
        "LOM-DEVICE-01",
        "Each item of RequestList must have DeviceRequestType, DeviceRequestUUID, DeviceDNSName, both address lists "
        "and LOMProtocolVersion, each of its type.",
        Source(REQUEST, "RequestList"),
        ("lom-requests",),
        item_keys,
    ),
    must_of_lom(
        "LOM-DEVICE-02",
        "DeviceRequestType must be PowerON, PowerOFF or Reset, in this spelling.",
        Source(REQUEST, "DeviceRequestType"),
        ("lom-requests",),
        action_spelling,
    ),
    must_of_lom(
        "LOM-DEVICE-03",
        "PrimaryIPv6AddressList and SecondaryIPv6AddressList must be those of the Device's answer to LOMSetupRequest.",
        Source(REQUEST, "PrimaryIPv6AddressList, SecondaryIPv6AddressList"),
        ("lom-requests",),
        addresses,
    ),
    must_of_lom(
        "LOM-DEVICE-04",
        "LOMProtocolVersion must be the one that the Device answered to LOMSetupRequest.",
        Source(REQUEST, VERSION),
        ("lom-requests",),
        protocol_version,
    ),
    must_of_lom(
        "LOM-DEVICE-05",
        "DeviceDNSName must be the CommonName or a dNSName of the Device's LOM identity.",
        Source(REQUEST, "DeviceDNSName"),
        ("lom-requests",),
        dns_name,
    ),
    must_of_lom(
        "LOM-DEVICE-06",
        "Each item must have a DeviceRequestUUID of its own.",
        Source(REQUEST, "DeviceRequestUUID"),
        ("lom-requests",),
        unique_uuids,
    ),
    must_of_lom(
        "LOM-DEVICE-07",
        "A server must not send LOMDeviceRequest for a Device before the Device has answered LOMSetupRequest.",
        Source(SETUP, "content"),
        ("lom-order",),
        setup_before_request,
    ),
    must_of_lom(
        "LOM-DEVICE-08",
        "A server must accept a result in which items failed, and not send the request again.",
        Source(REQUEST, "ResponseList"),
        ("lom-partial",),
        partial_success,
    ),
)
