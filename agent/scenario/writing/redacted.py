"""A scenario as plain data without secrets, for results and reports; ``scenario_from`` reads it again."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from agent.scenario.types import Scenario

REDACTED = "***"
_SECRET = re.compile(
    r"authori[sz]ation|cookie|password|passcode|secret|token|credential|key|(^|[^a-z])pin($|[^a-z])", re.I
)
_QUERY = re.compile(r"(?<==)[^&#]+")
_IN_BODY = re.compile(r'("(?P<name>[^"\\]*)"\s*:\s*)"(?P<value>(?:[^"\\]|\\.)*)"')
_TEMPLATES = re.compile(r"(Bearer|Basic|\{[a-z_]+\}|\{env:\w+\}|\s)*", re.I)  # values that contain no secret


def as_document(scenario: Scenario) -> dict[str, Any]:
    """The scenario as a dictionary of plain values, with file names instead of the contents of files.

    Header values, texts of a body and values of a command's dictionary whose names suggest secrets, and the queries of
    URLs are replaced by ``***``, unless they are templates. Keys without a value are omitted: TOML has no null.
    """
    document: dict[str, Any] = _without_none(msgspec.to_builtins(scenario))
    for phase in document["phase"]:
        for name in ("steps", "replay"):
            if not phase.get(name, True):
                del phase[name]
        if "request_file" in phase:
            phase.pop("request", None)
        if "replay_file" in phase:
            phase.pop("replay", None)
    _redact(document)
    return document


def secrets_in(scenario: Scenario) -> list[str]:
    """The keys of a scenario whose values ``as_document`` replaces, also of what was read from its files."""
    whole: dict[str, Any] = _without_none(msgspec.to_builtins(scenario))
    redacted: dict[str, Any] = _without_none(msgspec.to_builtins(scenario))
    _redact(redacted)
    return differences(whole, redacted)


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """The keys, as dotted paths, in which two documents differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = dict.fromkeys([*one, *other])
        pairs = [(f"{path}.{name}".lstrip("."), one.get(name), other.get(name)) for name in names]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(f"{path}[{number}]", *both) for number, both in enumerate(zip(one, other, strict=True))]
    else:
        return [] if one == other else [path]
    return [found for where, mine, its in pairs for found in differences(mine, its, where)]


def _redact(document: dict[str, Any]) -> None:
    for phase in document["phase"]:
        if "request" in phase and isinstance(phase["request"], dict):
            phase["request"] = _without_secrets(phase["request"])
    server = document["server"]
    if "enroll" in server:
        server["enroll"] = _url(server["enroll"])
    for adapter in ("lab", "nanomdm", "micromdm"):
        if adapter in server:
            server[adapter]["url"] = _url(server[adapter]["url"])
    for request in server.get("webhook", {}).values():
        if isinstance(request, dict):
            request["url"] = _url(request["url"])
            request["headers"] = _without_secrets(request["headers"])
            request["body"] = _IN_BODY.sub(_body_value, request["body"])


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_without_none(inner) for inner in value]
    return value


def _without_secrets(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _redacted(inner) if _SECRET.search(key) and not isinstance(inner, dict | list) else _without_secrets(inner)
        for key, inner in value.items()
    }


def _redacted(value: Any) -> Any:
    return value if isinstance(value, bool) or (isinstance(value, str) and _TEMPLATES.fullmatch(value)) else REDACTED


def _body_value(found: re.Match[str]) -> str:
    if not _SECRET.search(found["name"]) or _TEMPLATES.fullmatch(found["value"]):
        return found[0]
    return f'{found[1]}"{REDACTED}"'


def _url(text: str) -> str:
    address, mark, query = text.partition("?")
    return (
        address + mark + _QUERY.sub(lambda found: str(_redacted(found[0])), query)
        if mark and "://" in address
        else text
    )
