"""Declarative management: fetch changed declarations, put them into effect, report status. No I/O: generators of steps.

Source: apple-schema checkin/declarativemanagement.yaml, declarative/protocol/*.yaml.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import MsgspecError
from msgspec.json import decode

from agent.device.ddm.activating import plan_of, tell_states
from agent.device.ddm.apps import take_over_apps, takes_over
from agent.device.ddm.declared import ASSET, CONFIGURATION, KINDS, PLURALS, Declaration, as_json
from agent.device.ddm.effects import apply_configuration, asset_tokens, enforce_update, subscriptions, withdraw
from agent.device.ddm.status import report
from agent.device.ddm.validation import faults_of, invalid_payload
from agent.device.mac import Device
from agent.device.steps import CheckIn, Steps
from agent.errors import PeerError
from agent.mdm.checkin import declarative_management
from agent.mdm.refusals import ServerRefused
from agent.mdm.values import text_at
from agent.plists import type_name

MAX_DECLARATIONS = 5000  # our limits
MAX_PAYLOAD_BYTES = 1024 * 1024
MAX_BYTES = 16 * 1024 * 1024  # of all payloads
MAX_DEPTH = 32
FULL_REPORT_SECONDS = 24 * 3600.0  # Apple: every 24 hours or so
_ROUNDS = 3  # in which the server may change its declarations, or an effect may change a predicate
_NOT_FOUND = 404

Now = Callable[[], float]  # seconds since the epoch


class DeclarationsMalformed(PeerError):
    """The server's JSON violates the protocol."""

    kind = "declarations"


class NotEnrolled(PeerError):
    """The Mac is no longer enrolled."""

    kind = "unenrolled"


def synchronise(device: Device, tokens: bytes, now: Now) -> Steps[None]:
    """Update the Mac's declarations, put them into effect, and send a status report. Raises PeerError.

    ``tokens`` is the TokensResponse in the command; if it is empty, the Mac requests it from the server.
    """
    for _ in range(_ROUNDS):
        token = _token(tokens or (yield from _ask(device, "tokens", check=_token)))
        if token == device.declared.token:
            return
        of_items = yield from _fetch_changed(device)
        yield from refresh(device, now)
        device.declared.token = token
        if of_items == token:
            return
        tokens = b""  # the declarations changed in between: ask again


def refresh(device: Device, now: Now, *, full: bool = False) -> Steps[None]:
    """Put what is wanted into effect, and report what changed, or everything if it is ``full``. Raises PeerError.

    A status that the server does not accept is reported again later.
    """
    if full:
        forget_failures(device)
    for _ in range(_ROUNDS):
        before = _in_effect(device)
        yield from _put_into_effect(device, now)
        if _in_effect(device) == before:
            break
    told = report(device, _subscribed(device), full=full)
    if told is not None:
        yield from _ask(device, "status", as_json(told.body))
        device.declared.reported = told.reported
    if full or device.declared.full_report_at is None:
        device.declared.full_report_at = now() + FULL_REPORT_SECONDS


def is_changed(device: Device) -> bool:
    """Whether there is something to put into effect or to report."""
    if not device.declared.in_use or device.enrollment is None:
        return False
    plan = plan_of(device)
    if _changes(device, {each.place for each in plan.wanted}) or any(takes_over(device, each) for each in plan.wanted):
        return True
    tell_states(device, plan)
    return report(device, subscriptions(plan.wanted), full=False) is not None


def forget_failures(device: Device) -> None:
    """What could not be applied is tried again with the next ``refresh``."""
    for each in device.declared.declarations:
        each.failure = b""


# Declarations.


def _fetch_changed(device: Device) -> Steps[str]:
    """Fetch the declarations that changed, and drop those that are gone. Returns the token of the declaration items."""
    wanted, found = _wanted((yield from _ask(device, "declaration-items", check=_wanted)))
    before, after, size = device.declared.by_place, [], 0
    for (kind, identifier), server_token in wanted.items():
        known = before.get((kind, identifier))
        if known is None or known.server_token != server_token:
            known = yield from _declaration(device, kind, identifier, server_token, known)
        if known is not None:
            size += len(known.content)
            after.append(known)
        if size > MAX_BYTES:
            raise DeclarationsMalformed(f"the payloads have more than {MAX_BYTES} bytes together")
    places = {each.place for each in after}
    for declaration in device.declared.declarations:
        if declaration.place not in places:
            withdraw(device, declaration)
    device.declared.declarations = after
    return found


def _declaration(
    device: Device, kind: str, identifier: str, server_token: str, before: Declaration | None
) -> Steps[Declaration | None]:
    """Fetch one declaration; None if the server answers 404, which removes it."""
    try:
        answer = yield from _ask(device, f"declaration/{kind}/{identifier}", check=_document)
    except ServerRefused as error:
        if error.status != _NOT_FOUND:
            raise
        return None
    document = _document(answer)
    payload = document.get("Payload")
    read = Declaration(kind, identifier, server_token)
    if before is not None:  # what it installed is replaced, or removed, when it is applied
        read.profile, read.item = before.profile, before.item
    is_whole = isinstance(document.get("Type"), str) and isinstance(payload, dict)
    if not is_whole or document.get("Identifier", identifier) != identifier:
        read.faults = as_json([invalid_payload(read)])
        return read
    read.type, read.content = document["Type"][:_MAX_TEXT], as_json(payload)
    if len(read.content) > MAX_PAYLOAD_BYTES or _is_too_deep(payload):
        read.content, read.faults = b"", as_json([invalid_payload(read)])
        return read
    _check(device, read)
    return read


def _check(device: Device, declaration: Declaration) -> None:
    """Set the faults that a declaration has on this Mac."""
    faults = faults_of(declaration, device.mac.os_version, device.channel, supervised=device.supervised)
    declaration.faults = as_json(faults) if faults else b""


def recheck(device: Device) -> None:
    """Judge every declaration anew, on a Mac that has another release now."""
    for each in device.declared.declarations:
        if each.content:
            _check(device, each)


def _wanted(answer: bytes) -> tuple[dict[tuple[str, str], str], str]:
    """The server tokens of the declaration items, by kind and identifier, and the token of them all, if it is there."""
    items = _json(answer, "declaration items")
    manifest, token = _object(items.get("Declarations"), "Declarations"), items.get("DeclarationsToken", "")
    wanted: dict[tuple[str, str], str] = {}
    for kind in KINDS:
        key = PLURALS[kind].capitalize()
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
    return wanted, token if isinstance(token, str) else ""


# Effects.


def _put_into_effect(device: Device, now: Now) -> Steps[None]:
    plan = plan_of(device)
    places = {each.place for each in plan.wanted}
    for declaration in _changes(device, places):
        if declaration.place in places:
            yield from apply_configuration(device, declaration, _assets(device), now())
        else:
            withdraw(device, declaration)
    take_over_apps(device, plan.wanted)
    enforce_update(device, [each for each in plan.wanted if each.applied], now())
    tell_states(device, plan)


def _changes(device: Device, wanted: set[tuple[str, str]]) -> list[Declaration]:
    """The configurations that are to be applied, first, and those that are to be withdrawn."""
    there, assets, release = list(device.declared.of(CONFIGURATION)), _assets(device), device.mac.os_version
    applied = [
        each
        for each in there
        if each.place in wanted
        and ((not each.applied and not each.failure) or each.asset_tokens != asset_tokens(each, release, assets))
    ]
    gone = [each for each in there if each.place not in wanted and (each.applied or each.profile or each.failure)]
    return gone + applied


def _assets(device: Device) -> dict[str, Declaration]:
    return {each.identifier: each for each in device.declared.of(ASSET)}


def _in_effect(device: Device) -> set[tuple[str, str]]:
    return {each.place for each in device.declared.of(CONFIGURATION) if each.applied}


def _subscribed(device: Device) -> set[str]:
    return subscriptions(each for each in device.declared.of(CONFIGURATION) if each.applied)


# Messages.


def _ask(
    device: Device, endpoint: str, status: bytes | None = None, check: Callable[[bytes], object] | None = None
) -> Steps[bytes]:
    enrollment = device.enrollment
    if enrollment is None:
        raise NotEnrolled("the Mac was unenrolled before its declarations were up to date")
    message = declarative_management(device.mac.udid, endpoint, status)
    answer: bytes | PeerError = yield CheckIn(message, enrollment, check)
    if isinstance(answer, PeerError):
        raise answer
    return answer


_MAX_TEXT = 1024  # characters of an identifier or a token; Apple: 64 should not be exceeded


def _token(answer: bytes) -> str:
    """DeclarationsToken of a TokensResponse."""
    return _text(_object(_json(answer, "tokens").get("SyncTokens"), "SyncTokens"), "DeclarationsToken")


def _document(answer: bytes) -> Mapping[str, Any]:
    return _json(answer, "declaration")


def _json(answer: bytes, what: str) -> Mapping[str, Any]:
    try:
        return _object(decode(answer.removeprefix(BOM_UTF8)), what)
    except (MsgspecError, ValueError, RecursionError) as error:
        raise DeclarationsMalformed(f"{what}: expected JSON, found something else: {error}") from error


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [each for container in level for each in _contents(container)]
        if not level:
            return False
    return True


def _contents(value: Any) -> Iterator[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (each for each in inner if isinstance(each, (dict, list)))


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DeclarationsMalformed(f"{what}: expected a JSON object, found {type_name(value)}")
    return value


def _text(entry: Mapping[str, Any], key: str) -> str:
    return text_at(entry, key, _MAX_TEXT, DeclarationsMalformed)
