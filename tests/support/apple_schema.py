"""The facts of Apple's schema as a judge: has a message the keys, types and values that a Mac's release gives it?"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from agent.mdm.facts import Key

NEWEST = "27.0"

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "real": (float, int),
    "boolean": bool,
    "date": datetime,
    "data": bytes,
    "array": list,
    "dictionary": dict,
}


def problems(
    value: Any, keys: Mapping[str, Key], *, release: str = NEWEST, where: str = "", channel: str = "device"
) -> list[str]:
    """What is wrong with the dictionary ``value`` by these keys on this channel, one line each."""
    if not isinstance(value, dict):
        return [f"{where or 'the message'} should be a dictionary"]
    known = {name: key for name, key in keys.items() if key.fact.is_in(release) and key.fact.is_on(channel)}
    named = {name: key for name, key in known.items() if not name.startswith("ANY")}
    found = []
    for name in value.keys() - named.keys():
        others = [key for key in known.values() if key.name not in named]
        if not others:
            found.append(f"{where}{name} is not in the schema")
        for key in others:
            found += _value_problems(value[name], key, release, f"{where}{name}", channel)
    for name, key in named.items():
        if name not in value:
            if key.fact.presence == "required" and not _only_in_user_enrollments(key):
                found.append(f"{where}{name} is required and absent")
            continue
        found += _value_problems(value[name], key, release, f"{where}{name}", channel)
    return found


def _value_problems(value: Any, key: Key, release: str, where: str, channel: str) -> list[str]:
    kind = key.fact.type
    expected = _TYPES.get(kind)
    if expected is not None and (not isinstance(value, expected) or (kind != "boolean" and isinstance(value, bool))):
        return [f"{where} should be <{kind}>, but is {type(value).__name__}"]
    found = _range_problems(value, key.fact.values, where)
    if key.keys and kind == "dictionary":
        found += problems(value, key.keys, release=release, where=f"{where}.", channel=channel)
    elif key.keys and kind == "array":
        item = next(iter(key.keys.values()))
        found += [problem for each in value for problem in _value_problems(each, item, release, f"{where}[]", channel)]
    return found


def _range_problems(value: Any, values: str, where: str) -> list[str]:
    if not values:
        return []
    least, between, most = values.partition("..")
    if between and all(bound == "" or bound.lstrip("-").replace(".", "", 1).isdigit() for bound in (least, most)):
        if (least and value < float(least)) or (most and value > float(most)):
            return [f"{where} should be in {values}, but is {value!r}"]
        return []
    allowed = values.split("|")
    return [] if str(value) in allowed else [f"{where} should be one of {allowed}, but is {value!r}"]


def _only_in_user_enrollments(key: Key) -> bool:
    return "userenrollment=required" in key.fact.flags.split("|")
