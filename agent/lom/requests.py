"""LOM commands as the MDM server gives them, and the Mac's answers, in both dialects.

``schema`` answers with the keys of apple-schema commands/lom.*.yaml. ``documented-example`` answers with the keys of
the examples on Apple's pages, to the letter (``ResponseData``, ``DeviceRequestSucess``). Requests in either shape are
taken in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from agent.errors import PeerError
from agent.mdm.values import Warn, WrongType, by_value, unheard
from agent.plists import type_name

PROTOCOL_VERSION = 1  # of our link; Apple's is unpublished
MAX_UUID_LENGTH = 256  # so that a link frame can hold it; ours, no standard says
MAX_DNS_NAME_LENGTH = 253  # RFC 1035
_SHOWN = 80  # characters of a server's text that an error repeats
MAX_ADDRESSES = 16  # of one list of one item: what one Mac can have, with room


class Dialect(Enum):
    """Which keys an answer has."""

    SCHEMA = "schema"
    DOCUMENTED_EXAMPLE = "documented-example"


class PowerRequest(Enum):
    """DeviceRequestType, in Apple's spelling."""

    ON = "PowerON"
    OFF = "PowerOFF"
    RESET = "Reset"


class RequestListMalformed(PeerError):
    """A LOMDeviceRequest that is no list of items with a DeviceRequestUUID each: it cannot be answered by item."""

    kind = "command_format"


class ItemRefused(PeerError):
    """An item that can be answered, but not carried out."""

    kind = "lom_item"


@dataclass(frozen=True, slots=True)
class RelayItem:
    """One item of a RequestList: which Device, under which addresses, and what is to be done.

    ``addresses`` are the primary list's, then the secondary list's, as given. ``version`` is None where the server sent
    none, as in the seed page's example.
    """

    uuid: str
    dns_name: str
    request: PowerRequest
    addresses: tuple[str, ...]
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item; ``error`` is empty where it succeeded."""

    uuid: str
    error: str = ""

    @property
    def success(self) -> bool:
        """Whether the Device did what was asked."""
        return not self.error


def parse_request_list(body: Mapping[str, Any], warn: Warn = unheard) -> list[RelayItem | Outcome]:
    """The items of a LOMDeviceRequest, in order; an item that cannot be carried out is its failed Outcome.

    So is one that repeats the DeviceRequestUUID of another: the first of them is the one that counts (our choice).
    ``warn`` hears of a value that is taken although it is of another type.
    Raises RequestListMalformed where the list or an item's DeviceRequestUUID is not there to be answered.
    """
    items = body.get("RequestList")
    if not isinstance(items, list):
        raise RequestListMalformed(f"RequestList should be an array, but is {type_name(items)}")
    parsed: list[RelayItem | Outcome] = []
    first: dict[str, int] = {}
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise RequestListMalformed(f"item {number} of RequestList should be a dictionary, but is {type_name(item)}")
        uuid = item.get("DeviceRequestUUID")
        if not isinstance(uuid, str):
            raise RequestListMalformed(
                f"DeviceRequestUUID of item {number} should be a string, but is {type_name(uuid)}"
            )
        try:
            if first.setdefault(uuid, number) != number:
                raise ItemRefused(
                    f"item {number} of RequestList repeats the DeviceRequestUUID {uuid[:_SHOWN]!r} of item "
                    f"{first[uuid]}; only item {first[uuid]} was taken"
                )
            parsed.append(_parse_item(uuid, item, warn))
        except ItemRefused as error:
            parsed.append(Outcome(uuid, str(error)))
    return parsed


def setup_answer(dialect: Dialect, primary: Sequence[str], secondary: Sequence[str], version: int) -> dict[str, Any]:
    """The answer's keys for LOMSetupRequest.

    The page's example has one list only, so ``documented-example`` names every address there.
    """
    if dialect is Dialect.DOCUMENTED_EXAMPLE:
        return {"PrimaryIPv6AddressList": [*primary, *secondary]}
    return {
        "PrimaryIPv6AddressList": list(primary),
        "SecondaryIPv6AddressList": list(secondary),
        "LOMProtocolVersion": version,
    }


def request_answer(dialect: Dialect, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The answer's keys for LOMDeviceRequest, the outcomes in the order of the request."""
    if dialect is Dialect.DOCUMENTED_EXAMPLE:
        return {"ResponseData": [_answer_item(outcome, "DeviceRequestSucess") for outcome in outcomes]}
    return {"ResponseList": [_answer_item(outcome, "DeviceRequestSuccess") for outcome in outcomes]}


def _answer_item(outcome: Outcome, success_key: str) -> dict[str, Any]:
    item: dict[str, Any] = {success_key: outcome.success, "DeviceRequestUUID": outcome.uuid}
    if outcome.error:
        item["DeviceRequestReturnError"] = outcome.error
    return item


def _parse_item(uuid: str, item: Mapping[str, Any], warn: Warn) -> RelayItem:
    if not 0 < len(uuid) <= MAX_UUID_LENGTH:
        raise ItemRefused(f"DeviceRequestUUID should have 1 to {MAX_UUID_LENGTH} characters, but has {len(uuid)}")
    dns_name = item.get("DeviceDNSName")
    if not isinstance(dns_name, str):
        raise ItemRefused(f"DeviceDNSName should be a string, but is {type_name(dns_name)}")
    if not 0 < len(dns_name) <= MAX_DNS_NAME_LENGTH:
        raise ItemRefused(f"DeviceDNSName should have 1 to {MAX_DNS_NAME_LENGTH} characters, but has {len(dns_name)}")
    version = item.get("LOMProtocolVersion")
    if version is not None:
        try:
            version = by_value(version, int, "LOMProtocolVersion of an item of RequestList", warn)
        except WrongType:
            raise ItemRefused(f"LOMProtocolVersion should be an integer, but is {type_name(version)}") from None
    addresses = _addresses(item, "PrimaryIPv6AddressList") + _addresses(item, "SecondaryIPv6AddressList")
    if not addresses:
        raise ItemRefused("PrimaryIPv6AddressList and SecondaryIPv6AddressList are both empty")
    return RelayItem(uuid, dns_name, _power_request(item.get("DeviceRequestType")), addresses, version)


def _power_request(value: Any) -> PowerRequest:
    try:
        return PowerRequest(value)
    except ValueError:
        wanted = ", ".join(request.value for request in PowerRequest)
        found = repr(value[:_SHOWN]) if isinstance(value, str) else type_name(value)
        raise ItemRefused(f"DeviceRequestType should be one of {wanted}, in these letters, but is {found}") from None


def _addresses(item: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = item.get(key, [])
    if not isinstance(value, list):
        raise ItemRefused(f"{key} should be an array, but is {type_name(value)}")
    for number, address in enumerate(value):
        if not isinstance(address, str):
            raise ItemRefused(f"address {number} of {key} should be a string, but is {type_name(address)}")
    if len(value) > MAX_ADDRESSES:
        raise ItemRefused(f"{key} has {len(value)} addresses; at most {MAX_ADDRESSES} are tried")
    return tuple(value)
