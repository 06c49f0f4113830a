"""Reads the keys of a command, and makes the results of those that are refused."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeGuard, TypeVar
from urllib.parse import urlsplit

from agent import plists
from agent.device.mac import Device
from agent.device.system import MAX_PROPERTY_LIST
from agent.errors import PeerError
from agent.mdm.commands import Command
from agent.mdm.results import (
    INVALID_URL,
    MALFORMED_REQUEST,
    URL_NOT_HTTPS,
    ChainedError,
    Domain,
    Result,
    Status,
    failed,
)
from agent.mdm.values import WrongType, converted

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")

FORMAT_ERROR = Result(Status.COMMAND_FORMAT_ERROR)
MAX_TEXT = 1024  # characters of a name or identifier in a command; ours


class CommandRefused(PeerError):
    """The Mac does not carry a command out; ``result`` is its answer."""

    kind = "command_refused"

    def __init__(self, result: Result) -> None:
        super().__init__("; ".join(error.description for error in result.errors) or result.status.value)
        self.result = result


def mdm_error(code: int, description: str) -> Result:
    """An Error of MCMDMErrorDomain."""
    return failed(ChainedError(Domain.MDM, code, description))


def refusal(code: int, description: str) -> CommandRefused:
    """What to raise for an Error of MCMDMErrorDomain."""
    return CommandRefused(mdm_error(code, description))


def is_list_of(value: object, kind: type[ItemT]) -> TypeGuard[list[ItemT]]:
    """Whether ``value`` is an array of values of this type."""
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def flag(device: Device, command: Command, key: str) -> bool:
    """An optional boolean, converted from numbers; false if it is absent or of another type (our choice)."""
    try:
        return converted(command.body.get(key, False), bool, f"{key} of {command.request_type}", device.warn)
    except WrongType:
        return False


def optional(device: Device, command: Command, key: str, kind: type[ValueT]) -> ValueT | None:
    """The value of an optional key, converted as in a profile. Raises CommandRefused for another type."""
    value = command.body.get(key)
    if value is None:
        return None
    try:
        return converted(value, kind, f"{key} of {command.request_type}", device.warn)
    except WrongType as error:
        raise CommandRefused(FORMAT_ERROR) from error


def required(device: Device, command: Command, key: str, kind: type[ValueT]) -> ValueT:
    """The value of a required key. Raises CommandRefused if it is absent or of another type."""
    value = optional(device, command, key, kind)
    if value is None:
        raise CommandRefused(FORMAT_ERROR)
    return value


def text(device: Device, command: Command, key: str) -> str:
    """The value of a required string that names something: 1 to MAX_TEXT characters. Raises CommandRefused."""
    value = required(device, command, key, str)
    if not 0 < len(value) <= MAX_TEXT:
        raise CommandRefused(FORMAT_ERROR)
    return value


def texts(command: Command, key: str) -> list[str] | None:
    """The value of an optional array of strings, or None. Raises CommandRefused."""
    value = command.body.get(key)
    if value is None:
        return None
    if not is_list_of(value, str):
        raise CommandRefused(FORMAT_ERROR)
    return value


def one_of(value: ItemT | None, allowed: Collection[ItemT]) -> None:
    """Raise CommandRefused for a value that is not allowed; None is."""
    if value is not None and value not in allowed:
        raise CommandRefused(FORMAT_ERROR)


def https_url(url: str, key: str) -> str:
    """``url`` if it is one of https. Raises CommandRefused."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if not url.isascii() or not url.isprintable() or len(url) > 4 * MAX_TEXT or not parts.hostname:
        raise refusal(INVALID_URL, f"{key}: expected a URL of https, found {url[:80]!r}")
    if parts.scheme != "https":
        raise refusal(URL_NOT_HTTPS, f"{key}: expected a URL of https, found one of {parts.scheme[:20]}")
    return url


def packed(value: dict[str, Any] | None) -> bytes:
    """A dictionary of a command as a property list; empty for None. Raises CommandRefused for a large one."""
    octets = b"" if value is None else plists.dump_binary(value)
    if len(octets) > MAX_PROPERTY_LIST:
        reason = f"expected a dictionary of at most {MAX_PROPERTY_LIST} bytes, found one of {len(octets)}"
        raise refusal(MALFORMED_REQUEST, reason)
    return octets
