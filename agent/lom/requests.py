"""LOM commands of the MDM server, and the Mac's answers in two dialects.

In the dialect ``schema`` answers have the keys of apple-schema commands/lom.*.yaml. In ``documented-example`` they have
the keys of the examples in Apple's documentation, including their spelling (``ResponseData``, ``DeviceRequestSucess``).
Requests are accepted in both forms in either dialect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import msgspec

from agent.errors import PeerError
from agent.mdm.values import Warn, WrongType, converted, ignore_warning
from agent.plists import type_name

PROTOCOL_VERSION = 2  # of our link, the highest; Apple's is unpublished
MAX_UUID_LENGTH = 256  # characters; our limit, so that it fits in a link frame
MAX_DNS_NAME_LENGTH = 253  # RFC 1035
MAX_QUOTED = 80  # characters of a peer's text that an error quotes
MAX_ADDRESSES = 16  # per list of one item; our limit, above what a Mac can have


class Dialect(Enum):
    """Which keys an answer uses."""

    SCHEMA = "schema"
    DOCUMENTED_EXAMPLE = "documented-example"


class PowerRequest(Enum):
    """DeviceRequestType, in Apple's spelling."""

    ON = "PowerON"
    OFF = "PowerOFF"
    RESET = "Reset"


class RequestListMalformed(PeerError):
    """A LOMDeviceRequest without a list of items that each have a DeviceRequestUUID: it cannot be answered by item."""

    kind = "command_format"


class ItemRefused(PeerError):
    """An item is invalid; it is answered with this error."""

    kind = "lom_item"


class RelayItem(msgspec.Struct, frozen=True):
    """One item of a RequestList: a request for one Device."""

    uuid: str
    """DeviceRequestUUID."""
    dns_name: str
    """DeviceDNSName: the Device's CommonName."""
    request: PowerRequest
    addresses: tuple[str, ...]
    """The addresses of the primary list, then those of the secondary list, unchecked."""
    version: int | None = None
    """LOMProtocolVersion; None if the server sent none, as in the example of Apple's documentation."""


class RelayOutcome(msgspec.Struct, frozen=True):
    """The result of one item."""

    uuid: str
    error: str = ""
    """Empty if the item succeeded."""

    @property
    def success(self) -> bool:
        """Whether the Device carried out the request."""
        return not self.error


def parse_request_list(body: Mapping[str, Any], warn: Warn = ignore_warning) -> list[RelayItem | RelayOutcome]:
    """The items of a LOMDeviceRequest, in order; an invalid item is returned as its failed Outcome.

    If several items have the same DeviceRequestUUID, only the first is valid (our choice). ``warn`` is called for each
    value that is accepted although it has another type. Raises RequestListMalformed if the list, or the
    DeviceRequestUUID of an item, is missing or has the wrong type.
    """
    items = body.get("RequestList")
    if not isinstance(items, list):
        raise RequestListMalformed(f"RequestList: expected an array, found {type_name(items)}")
    parsed: list[RelayItem | RelayOutcome] = []
    first: dict[str, int] = {}
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise RequestListMalformed(f"item {number} of RequestList: expected a dictionary, found {type_name(item)}")
        uuid = item.get("DeviceRequestUUID")
        if not isinstance(uuid, str):
            raise RequestListMalformed(
                f"DeviceRequestUUID of item {number}: expected a string, found {type_name(uuid)}"
            )
        try:
            if first.setdefault(uuid, number) != number:
                raise ItemRefused(
                    f"item {number} of RequestList repeats the DeviceRequestUUID {uuid[:MAX_QUOTED]!r} of item "
                    f"{first[uuid]}; only item {first[uuid]} was taken"
                )
            parsed.append(_parse_item(uuid, item, warn))
        except ItemRefused as error:
            parsed.append(RelayOutcome(uuid, str(error)))
    return parsed


def setup_answer(dialect: Dialect, primary: Sequence[str], secondary: Sequence[str], version: int) -> dict[str, Any]:
    """The keys of the answer to LOMSetupRequest.

    The documented example has one list only, so ``documented-example`` puts every address there.
    """
    if dialect is Dialect.DOCUMENTED_EXAMPLE:
        return {"PrimaryIPv6AddressList": [*primary, *secondary]}
    return {
        "PrimaryIPv6AddressList": list(primary),
        "SecondaryIPv6AddressList": list(secondary),
        "LOMProtocolVersion": version,
    }


def request_answer(dialect: Dialect, outcomes: Sequence[RelayOutcome]) -> dict[str, Any]:
    """The keys of the answer to LOMDeviceRequest, the outcomes in the order of the request."""
    if dialect is Dialect.DOCUMENTED_EXAMPLE:
        return {"ResponseData": [_answer_item(outcome, "DeviceRequestSucess") for outcome in outcomes]}
    return {"ResponseList": [_answer_item(outcome, "DeviceRequestSuccess") for outcome in outcomes]}


def _answer_item(outcome: RelayOutcome, success_key: str) -> dict[str, Any]:
    item: dict[str, Any] = {success_key: outcome.success, "DeviceRequestUUID": outcome.uuid}
    if outcome.error:
        item["DeviceRequestReturnError"] = outcome.error
    return item


def _parse_item(uuid: str, item: Mapping[str, Any], warn: Warn) -> RelayItem:
    if not 0 < len(uuid) <= MAX_UUID_LENGTH:
        raise ItemRefused(f"DeviceRequestUUID: expected 1 to {MAX_UUID_LENGTH} characters, found {len(uuid)}")
    dns_name = item.get("DeviceDNSName")
    if not isinstance(dns_name, str):
        raise ItemRefused(f"DeviceDNSName: expected a string, found {type_name(dns_name)}")
    if not 0 < len(dns_name) <= MAX_DNS_NAME_LENGTH:
        raise ItemRefused(f"DeviceDNSName: expected 1 to {MAX_DNS_NAME_LENGTH} characters, found {len(dns_name)}")
    version = item.get("LOMProtocolVersion")
    if version is not None:
        try:
            version = converted(version, int, "LOMProtocolVersion of an item of RequestList", warn)
        except WrongType:
            raise ItemRefused(f"LOMProtocolVersion: expected an integer, found {type_name(version)}") from None
    addresses = _addresses(item, "PrimaryIPv6AddressList") + _addresses(item, "SecondaryIPv6AddressList")
    if not addresses:
        raise ItemRefused("PrimaryIPv6AddressList and SecondaryIPv6AddressList are both empty")
    return RelayItem(uuid, dns_name, _power_request(item.get("DeviceRequestType")), addresses, version)


def _power_request(value: Any) -> PowerRequest:
    try:
        return PowerRequest(value)
    except ValueError:
        wanted = ", ".join(request.value for request in PowerRequest)
        found = repr(value[:MAX_QUOTED]) if isinstance(value, str) else type_name(value)
        raise ItemRefused(f"DeviceRequestType: expected one of {wanted} (case-sensitive), found {found}") from None


def _addresses(item: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = item.get(key, [])
    if not isinstance(value, list):
        raise ItemRefused(f"{key}: expected an array, found {type_name(value)}")
    for number, address in enumerate(value):
        if not isinstance(address, str):
            raise ItemRefused(f"address {number} of {key}: expected a string, found {type_name(address)}")
    if len(value) > MAX_ADDRESSES:
        raise ItemRefused(f"{key} has {len(value)} addresses; at most {MAX_ADDRESSES} are tried")
    return tuple(value)
