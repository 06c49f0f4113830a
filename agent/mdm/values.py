"""Checks of values, and their lenient conversion: a Mac accepts 1 for true and 2048.0 for 2048.

Source: observed, in profiles and in commands; CFNumber and CFBoolean convert to one another. Each conversion gives a
warning: Apple's schema names one type for each key, and other readers accept only that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from agent import plists
from agent.errors import PeerError

ValueT = TypeVar("ValueT")

Warn = Callable[[str], None]  # called with the text of a warning


def ignore_warning(_text: str) -> None:
    """Ignore a warning."""


class WrongType(PeerError):
    """A value that is not of its key's type and cannot be converted to it."""

    kind = "value_type"


def converted(value: object, kind: type[ValueT], what: str, warn: Warn) -> ValueT:
    """``value`` as a ``kind``; ``what`` names it in the warning and the error. Raises WrongType.

    A number other than 0 is true; a boolean is 1 or 0; a real is the integer that it equals.
    """
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    converted = _converted(value, kind)
    if converted is None:
        raise WrongType(f"{what} has the wrong type: it is {plists.type_name(value)}")
    warn(f"{what} is {plists.type_name(value)}, expected {plists.type_name(converted)}; it is converted")
    found: ValueT = converted
    return found


def text_at(source: Mapping[str, Any], key: str, most: int, error: type[PeerError], where: str = "") -> str:
    """The string of 1 to ``most`` characters at ``key``. Raises ``error``, in which ``where`` follows the key."""
    value = source.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= most:
        found = f"{len(value):,} characters" if isinstance(value, str) else plists.type_name(value)
        raise error(f"{key}{where}: expected a string of 1 to {most:,} characters, found {found}")
    return value


def dictionary(value: object, what: str, error: type[PeerError]) -> Mapping[str, Any]:
    """``value``, which is to be a dictionary; ``what`` names it. Raises ``error``."""
    if not isinstance(value, dict):
        raise error(f"{what}: expected a dictionary, found {plists.type_name(value)}")
    return value


def _converted(value: object, kind: type) -> Any:
    if not isinstance(value, (bool, int, float)):
        return None
    if kind is bool and value == value:  # NaN is neither true nor false
        return value != 0
    if kind is int and value == value and abs(value) <= _LARGEST and value == int(value):
        return int(value)
    return None


_LARGEST = float(1 << 63)  # a greater real is outside a plist's integers
