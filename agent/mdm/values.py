"""Values by what they are worth: a Mac takes 1 for true and 2048.0 for 2048, in profiles and in commands.

Source: observed; CFNumber and CFBoolean convert to one another. What is taken so is worth a warning: Apple's schema
names one type for each key, and other readers insist on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from agent import plists
from agent.errors import PeerError

ValueT = TypeVar("ValueT")

Warn = Callable[[str], None]  # gets what a person should read


def unheard(_text: str) -> None:
    """Where nobody is there to be warned."""


class WrongType(PeerError):
    """A value that is not of the type of its key, nor worth one that is."""

    kind = "value_type"


def by_value(value: object, kind: type[ValueT], what: str, warn: Warn) -> ValueT:
    """``value`` as a ``kind``; ``what`` names it in the warning and the error. Raises WrongType.

    A number is true where it is not 0; a boolean is 1 or 0; a real is the integer that it is equal to.
    """
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    worth = _worth(value, kind)
    if worth is None:
        raise WrongType(f"{what} has the wrong type: it is {plists.type_name(value)}")
    warn(f"{what} is {plists.type_name(value)}, expected {plists.type_name(worth)}; it is taken by its value")
    found: ValueT = worth
    return found


def _worth(value: object, kind: type) -> Any:
    if not isinstance(value, (bool, int, float)):
        return None
    if kind is bool and value == value:  # not a number is neither
        return value != 0
    if kind is int and value == value and abs(value) <= _LARGEST and value == int(value):
        return int(value)
    return None


_LARGEST = float(1 << 63)  # beyond, a real says no integer of a property list exactly
