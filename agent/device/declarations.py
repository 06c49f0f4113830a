"""Declarative management: fetch changed declarations and send a status report. No I/O: a generator of check-ins.

Declarations are fetched, and their ServerTokens are stored; none is put into effect (docs/modelled.md).
Source: apple-schema checkin/declarativemanagement.yaml.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agent.device.mac import Device
from agent.device.steps import CheckIn, Steps
from agent.errors import PeerError
from agent.mdm.checkin import declarative_management
from agent.plists import type_name

MAX_DECLARATIONS = 5000  # our limit
_KINDS = {
    "Activations": "activation",
    "Assets": "asset",
    "Configurations": "configuration",
    "Management": "management",
}


class DeclarationsMalformed(PeerError):
    """The server's JSON violates the protocol."""

    kind = "declarations"


class NotEnrolled(PeerError):
    """The Mac is no longer enrolled."""

    kind = "unenrolled"


def synchronise(device: Device, tokens: bytes) -> Steps[None]:
    """Update the Mac's declarations and send a status report. Raises PeerError.

    ``tokens`` is the TokensResponse in the command; if it is empty, the Mac requests it from the server.
    """
    answer = tokens or (yield from _ask(device, "tokens"))
    sync = _object(_json(answer, "tokens").get("SyncTokens"), "SyncTokens")
    token = _text(sync, "DeclarationsToken")
    if token == device.declarations_token:
        return
    items = _json((yield from _ask(device, "declaration-items")), "declaration items")
    wanted = _wanted(_object(items.get("Declarations"), "Declarations"))
    for (kind, identifier), server_token in wanted.items():
        if device.declarations.get(identifier) != server_token:
            _json((yield from _ask(device, f"declaration/{kind}/{identifier}")), "declaration")
    device.declarations = {identifier: server_token for (_kind, identifier), server_token in wanted.items()}
    device.declarations_token = token
    yield from _ask(device, "status", json.dumps(_status(device, wanted)).encode())


def _ask(device: Device, endpoint: str, report: bytes | None = None) -> Steps[bytes]:
    enrollment = device.enrollment
    if enrollment is None:
        raise NotEnrolled("the Mac was unenrolled before its declarations were up to date")
    answer: bytes | PeerError = yield CheckIn(declarative_management(device.mac.udid, endpoint, report), enrollment)
    if isinstance(answer, PeerError):
        raise answer
    return answer


def _wanted(manifest: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    wanted: dict[tuple[str, str], str] = {}
    for key, kind in _KINDS.items():
        items = manifest.get(key, [])
        if not isinstance(items, list):
            raise DeclarationsMalformed(f"{key} of the declaration items: expected an array, found {type_name(items)}")
        for item in items:
            entry = _object(item, key)
            identifier = _text(entry, "Identifier")
            if not identifier.isascii() or not identifier.isprintable() or " " in identifier:
                raise DeclarationsMalformed(
                    f"Expected a declaration identifier of printable ASCII without spaces, found {identifier[:80]!r}."
                )
            wanted[kind, identifier] = _text(entry, "ServerToken")
    if len(wanted) > MAX_DECLARATIONS:
        raise DeclarationsMalformed(f"{len(wanted)} declarations; at most {MAX_DECLARATIONS} are fetched")
    return wanted


def _status(device: Device, wanted: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """A StatusReport in which every declaration is valid."""
    reported: dict[str, list[dict[str, Any]]] = {key.lower(): [] for key in _KINDS}
    plural = {kind: key.lower() for key, kind in _KINDS.items()}
    for (kind, identifier), server_token in wanted.items():
        reported[plural[kind]].append(
            {"identifier": identifier, "server-token": server_token, "active": kind == "activation", "valid": "valid"}
        )
    mac = device.mac
    return {
        "StatusItems": {
            "device": {
                "identifier": {"serial-number": mac.serial_number, "udid": mac.udid},
                "model": {"family": "Mac", "identifier": mac.model, "marketing-name": mac.model_name},
                "operating-system": {"family": "macOS", "version": mac.os_version, "build-version": mac.build_version},
            },
            "management": {"declarations": reported},
        },
        "Errors": [],
    }


def _json(answer: bytes, what: str) -> Mapping[str, Any]:
    try:
        return _object(json.loads(answer), what)
    except (ValueError, RecursionError) as error:
        raise DeclarationsMalformed(f"{what}: expected JSON, found something else: {error}") from error


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DeclarationsMalformed(f"{what}: expected a JSON object, found {type_name(value)}")
    return value


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 1024:
        found = len(value) if isinstance(value, str) else type_name(value)
        raise DeclarationsMalformed(f"{key}: expected a string of 1 to 1024 characters, found {found}")
    return value
