"""Commands made from Apple's schema: for each one the bodies that a server may send to a release on a channel."""

from __future__ import annotations

import plistlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from agent.mdm.facts import Key, of_kind

# Values that the schema describes in words only, by the name of the key.
_TEXTS: Mapping[str, str] = {
    "AppleCareToken": "test-token-normal",
    "DeviceDNSName": "mac.lom.test",
    "GUID": "2",
    "InvitationURL": "https://vpp.invalid/invitation",
    "ManifestURL": "https://apps.invalid/manifest.plist",
    "PIN": "123456",
    "PrimaryIPv6AddressListItem": "fe80::1",
    "SecondaryIPv6AddressListItem": "fe80::2",
    "UUID": "first",
    "UserName": "second",
    "shortName": "support",
}
_HASH = {"SALTED-SHA512-PBKDF2": {"entropy": b"e", "salt": b"s", "iterations": 30_000}}
_PROFILE = {
    "PayloadType": "Configuration",
    "PayloadIdentifier": "com.example.profile",
    "PayloadUUID": "1",
    "PayloadContent": [{"PayloadType": "com.example", "PayloadIdentifier": "x", "PayloadUUID": "2"}],
}
_DATA: Mapping[str, bytes] = {
    "Data": b"{}",
    "Payload": plistlib.dumps(_PROFILE),
    "ProvisioningProfile": plistlib.dumps({"Name": "n", "UUID": "u"}),
    "passwordHash": plistlib.dumps(_HASH),
}
_MANIFEST = {
    "items": [
        {
            "assets": [{"kind": "software-package", "url": "https://apps.invalid/tool.pkg", "sha256": "00"}],
            "metadata": {"kind": "software", "bundle-identifier": "com.example.tool", "title": "Tool"},
        }
    ]
}


def bodies(request_type: str, release: str, channel: str, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The keys that the schema requires; with one more each; with all; with each other allowed value of each.

    ``given`` has values by the name of the key that only a Mac knows, such as an identifier of what is installed.
    """
    maker = _Maker(release, channel, given)
    keys = maker.known(of_kind("command")[request_type].request)
    needed = {name: maker.value(key) for name, key in keys.items() if key.fact.presence == "required"}
    whole = {name: maker.value(key) for name, key in keys.items()}
    yield needed
    for name in whole.keys() - needed.keys():
        yield {**needed, name: whole[name]}
    if len(whole) > len(needed) + 1:
        yield whole
    for name, key in keys.items():
        for other in _allowed(key)[1:]:
            yield {**needed, name: other}


class _Maker:
    def __init__(self, release: str, channel: str, given: Mapping[str, Any]) -> None:
        self._release = release
        self._channel = channel
        self._given = given

    def known(self, keys: Mapping[str, Key]) -> dict[str, Key]:
        """Those that this release has on this channel."""
        return {
            name: key
            for name, key in keys.items()
            if key.fact.is_in(self._release) and key.fact.is_on(self._channel) and not name.startswith("ANY")
        }

    def value(self, key: Key) -> Any:
        """A value that is allowed."""
        if key.name in self._given:
            return self._given[key.name]
        allowed = _allowed(key)
        if allowed:
            return allowed[0]
        match key.fact.type:
            case "array":
                return self._array(key)
            case "dictionary":
                return _MANIFEST if key.name == "Manifest" else self._dictionary(key)
            case "boolean":
                return True
            case "integer":
                return 1
            case "real":
                return 1.0
            case "date":
                return datetime(2026, 11, 28)
            case "data":
                return _DATA.get(key.name, b"data")
        return _TEXTS.get(key.name, "text")

    def _array(self, key: Key) -> list[Any]:
        (item,) = list(key.keys.values()) or [None]
        names = [] if item is None else list(self.known(item.keys))
        if item is not None and item.fact.type == "string" and names:
            return names  # the keys below are the values that an item can have
        return [] if item is None else [self.value(item)]

    def _dictionary(self, key: Key) -> dict[str, Any]:
        return {name: self.value(each) for name, each in self.known(key.keys).items()}


def _allowed(key: Key) -> list[Any]:
    values = key.fact.values
    if not values or ".." in values:
        return []
    integers = key.fact.type == "integer"
    return [int(each) if integers else each for each in values.split("|")]
