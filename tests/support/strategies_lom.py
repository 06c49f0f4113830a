"""Hypothesis strategies for LOM: plist values of every type, RequestLists near and far from right, cut bytes."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from agent.lom.link import LinkRequest
from agent.lom.requests import PowerRequest

KEYS = (
    "RequestList",
    "DeviceRequestType",
    "DeviceRequestUUID",
    "DeviceDNSName",
    "PrimaryIPv6AddressList",
    "SecondaryIPv6AddressList",
    "LOMProtocolVersion",
)
ANSWER_KEYS = ("DeviceRequestUUID", "DeviceRequestSuccess", "DeviceRequestReturnError")

# What an XML plist can hold: no control characters, no surrogates, no noncharacters.
characters = st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff")
texts = st.text(characters)
integers = st.integers(-(1 << 63), (1 << 64) - 1)
scalars = (
    texts
    | st.sampled_from(["", "PowerON", "PowerOFF", "Reset", "powerON", "fe80::1", "0001"])
    | st.binary(max_size=20)
    | integers
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.datetimes().map(lambda moment: moment.replace(microsecond=0))
)


def plist_values(keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Any value that a plist can hold, dictionaries with ``keys``."""
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=8,
    )


def plist_dictionaries(*known: str) -> st.SearchStrategy[dict[str, Any]]:
    """Any dictionary that a plist can hold, often with the keys that are ``known``."""
    keys = st.sampled_from(known) | texts
    return st.dictionaries(keys, plist_values(keys), max_size=7)


def cut(whole: bytes) -> st.SearchStrategy[list[bytes]]:
    """``whole`` in pieces, of which some may be empty."""
    places = st.lists(st.integers(0, len(whole)), max_size=8).map(sorted)
    return places.map(lambda at: [whole[begin:end] for begin, end in zip([0, *at], [*at, len(whole)], strict=True)])


link_requests = st.builds(
    LinkRequest,
    uuid=st.text(characters, min_size=1, max_size=256),
    dns_name=st.text(characters, min_size=1, max_size=253),
    request=st.sampled_from(PowerRequest),
    version=integers,
)

_RIGHT: dict[str, st.SearchStrategy[Any]] = {
    "DeviceRequestType": st.sampled_from([request.value for request in PowerRequest]),
    "DeviceRequestUUID": st.text(characters, min_size=1, max_size=256),
    "DeviceDNSName": st.text(characters, min_size=1, max_size=253),
    "PrimaryIPv6AddressList": st.lists(texts, max_size=16),
    "SecondaryIPv6AddressList": st.lists(texts, max_size=16),
    "LOMProtocolVersion": integers,
}
right_items = st.fixed_dictionaries(_RIGHT).filter(
    lambda item: item["PrimaryIPv6AddressList"] or item["SecondaryIPv6AddressList"]
)
near_items = st.fixed_dictionaries({}, optional={key: right | scalars for key, right in _RIGHT.items()})
request_lists = st.fixed_dictionaries({"RequestList": st.lists(right_items | near_items, max_size=4)})
