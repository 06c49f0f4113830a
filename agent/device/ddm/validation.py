"""What makes a declaration invalid, by the table of Apple's schema. Source: declarationbase.yaml, ``reasons``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from msgspec.json import decode

from agent.device.ddm.declared import CONFIGURATION, KINDS, Declaration, Reason, reason, reason_of
from agent.device.ddm.rules import broken_rule
from agent.mdm.facts import Fact, Key, of_kind
from agent.plists import type_name

MAX_REASON = 500  # characters of an error in a reason; ours
MAX_UNKNOWN_KEYS = 50  # in a reason; ours
_KEPT = 1024  # payloads whose references are kept
_ANY = "ANY"
_INSTEAD = {"ProfileURL": "ProfileAssetReference"}  # from macOS 27 on, either of them
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "array": list,
    "boolean": bool,
    "data": str,  # base64
    "date": str,
    "dictionary": dict,
    "integer": int,
    "real": (int, float),
    "string": str,
}


def known_types(release: str, channel: str, *, supervised: bool = True) -> dict[str, list[str]]:
    """The declaration types that a Mac with this release supports on the channel, by kind, sorted."""
    found: dict[str, list[str]] = {}
    for name, message in sorted(of_kind("declaration").items()):
        kind = name.removeprefix("com.apple.").partition(".")[0]
        if kind in KINDS and is_supported(message.fact, release, channel, supervised=supervised):
            found.setdefault(kind, []).append(name)
    return found


def is_supported(fact: Fact, release: str, channel: str, *, supervised: bool = True) -> bool:
    """Whether a Mac with this release has a declaration type or a status item on the channel."""
    return fact.is_in(release) and fact.is_on(channel) and _is_for(fact, supervised=supervised)


def _is_for(fact: Fact, *, supervised: bool) -> bool:
    """Whether a supervised Mac, or one with a device enrollment and without supervision, has it."""
    enrollments = fact.flag("enrollments")
    return enrollments is None or enrollment_type(supervised=supervised) in enrollments.split(",")


def enrollment_type(*, supervised: bool) -> str:
    """The kind of a Mac's enrollment by its name in the schema."""
    return "supervised" if supervised else "device"


class _Reading(NamedTuple):
    """Where a declaration is read: which keys it may have follows from that."""

    release: str
    channel: str

    def known(self, keys: Mapping[str, Key]) -> Mapping[str, Key]:
        """Those of ``keys`` that this release has on this channel."""
        return {
            name: key for name, key in keys.items() if key.fact.is_in(self.release) and key.fact.is_on(self.channel)
        }


def faults_of(declaration: Declaration, release: str, channel: str, *, supervised: bool = True) -> list[Reason]:
    """The reasons for which a Mac with this release does not accept a declaration; none if it is valid.

    ``channel`` is the one on which the declaration came. A key of the other channel counts as unknown (our choice).
    """
    name = declaration.type
    message = of_kind("declaration").get(name)
    if message is None or not name.startswith(f"com.apple.{declaration.kind}.") or not message.fact.is_in(release):
        return [reason("Error.UnknownDeclarationType", "Unknown Declaration Type", UnknownDeclarationType=name)]
    if not is_supported(message.fact, release, channel, supervised=supervised):
        where = "on this channel" if not message.fact.is_on(channel) else "without supervision"
        text = f"Configuration “{{}}” is not supported {where}."
        return [reason_of(declaration, "Error.ConfigurationNotSupported", text)]
    payload, reading = declaration.payload, _Reading(release, channel)
    unknown = list(_unknown_keys(message.request, payload, reading, ""))
    if unknown:
        listed = sorted(unknown)[:MAX_UNKNOWN_KEYS]
        return [reason("Error.UnknownPayloadKeys", "Unknown Payload Keys", UnknownPayloadKeys=listed)]
    wrong = next(_wrong_values(message.request, payload, reading, ""), "") or broken_rule(name, payload)
    if not wrong:
        return []
    if declaration.kind == CONFIGURATION:
        text = f"The configuration is not valid: {wrong}"
        return [reason("Error.ConfigurationCannotBeDeserialized", text[:MAX_REASON], Error=wrong[:MAX_REASON])]
    return [invalid_payload(declaration)]


def invalid_payload(declaration: Declaration) -> Reason:
    """The reason for a declaration that has not what each of its kind has."""
    text = declaration.kind.capitalize() + " ({}) has an invalid payload."
    return reason_of(declaration, "Error.InvalidPayload", text)


def _unknown_keys(keys: Mapping[str, Key], value: Mapping[str, Any], reading: _Reading, path: str) -> Iterator[str]:
    """The paths of the keys of a dictionary, and of those below it, that the schema does not have."""
    known = reading.known(keys)
    for name, found in value.items():
        key = known.get(name) or known.get(_ANY)
        place = f"{path}.{name}" if path else name
        if key is None:
            yield place[:MAX_REASON]
        elif key.keys and isinstance(found, dict):
            yield from _unknown_keys(key.keys, found, reading, place)
        elif key.keys and isinstance(found, list):
            for each in found:
                item = next(iter(key.keys.values()))
                if item.keys and isinstance(each, dict):
                    yield from _unknown_keys(item.keys, each, reading, place)


def _wrong_values(keys: Mapping[str, Key], value: Mapping[str, Any], reading: _Reading, path: str) -> Iterator[str]:
    """What is wrong with the values of a dictionary, of which every key is known."""
    known = reading.known(keys)
    for name, key in known.items():
        if key.fact.presence == "required" and name not in (_ANY, *value) and _INSTEAD.get(name) not in value:
            yield f"the key {path}{name} is missing"
    for name, found in value.items():
        yield from _wrong_value(known.get(name) or known[_ANY], found, reading, f"{path}{name}")


def _wrong_value(key: Key, found: Any, reading: _Reading, place: str) -> Iterator[str]:
    fact = key.fact
    wanted = _TYPES.get(fact.type)
    if wanted is not None and (not isinstance(found, wanted) or (isinstance(found, bool) and fact.type != "boolean")):
        yield f"the key {place} is {type_name(found)}, expected {fact.type}"
    elif isinstance(found, dict) and key.keys:
        yield from _wrong_values(key.keys, found, reading, f"{place}.")
    elif isinstance(found, list) and key.keys:
        for each in found:
            yield from _wrong_value(next(iter(key.keys.values())), each, reading, place)
    elif fact.values and not isinstance(found, (dict, list)) and not _is_allowed(fact.values, found):
        yield f"the key {place} is {found!r:.80}, expected {fact.values.replace('|', ', ')}"


def _is_allowed(values: str, found: Any) -> bool:
    if ".." in values and isinstance(found, (int, float)):
        least, _, most = values.partition("..")
        return (not least or found >= float(least)) and (not most or found <= float(most))
    return str(found) in values.split("|")


def asset_references(declaration: Declaration, release: str) -> frozenset[str]:
    """The identifiers of the assets that a valid configuration refers to."""
    return frozenset(asset_types(declaration, release))


def asset_types(declaration: Declaration, release: str) -> Mapping[str, frozenset[str]]:
    """The types that each of these assets may have, by identifier."""
    return {} if declaration.faults else _asset_types(declaration.type, declaration.content, release)


@lru_cache(maxsize=_KEPT)  # the Macs of a fleet have the same ones
def _asset_types(name: str, content: bytes, release: str) -> Mapping[str, frozenset[str]]:
    message = of_kind("declaration").get(name)
    found: dict[str, frozenset[str]] = {}
    if message is not None:
        for identifier, types in _references(message.request, decode(content), release):
            found[identifier] = found.get(identifier, types) & types
    return found


def _references(
    keys: Mapping[str, Key], value: Mapping[str, Any], release: str
) -> Iterator[tuple[str, frozenset[str]]]:
    """Each reference to an asset below a dictionary, with the types that it allows."""
    for name, found in value.items():
        key = keys.get(name) or keys.get(_ANY)
        if key is None or not key.fact.is_in(release):
            continue
        for each in found if isinstance(found, list) else [found]:
            item = next(iter(key.keys.values())) if key.keys and isinstance(found, list) else key
            types = key.fact.flag("assets") or item.fact.flag("assets")
            if isinstance(each, str) and types:
                yield each, frozenset(types.split(","))
            elif isinstance(each, dict):
                yield from _references(item.keys, each, release)
