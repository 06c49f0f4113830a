"""What property lists can hold, the limits of those that are read, and the errors of both formats."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from agent.errors import PeerError

MAX_BYTES = 8 * 1024 * 1024  # a profile with some identities is under 100 KB; no standard gives a limit
MAX_DEPTH = 32  # Apple's deepest message is below 10
MAX_VALUES = 200_000  # a shared value of a binary plist counts each time it is referred to; so do MAX_BYTES its bytes

INTEGERS = range(-(1 << 63), 1 << 64)  # what a plist integer can hold
EARLIEST_DATE, LATEST_DATE = datetime.min, datetime.max.replace(microsecond=0)  # stand for dates outside of them
TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # Source: XML 1.0, 2.2, Char
find_control_character = _NOT_IN_XML.search


class PlistError(PeerError):
    """Bytes that are not a property list, or one that exceeds a limit."""

    kind = "plist"


class Refused(Exception):
    """The predicate of a PlistError's sentence, such as "holds more than 10 tags"; the subject is added by ``load``."""


def check_container(depth: int, values_left: int) -> None:
    """Raises Refused for a container below MAX_DEPTH, or for one whose values exceed MAX_VALUES."""
    if depth > MAX_DEPTH:
        raise Refused(f"is {TOO_DEEP}")
    if values_left < 0:
        raise Refused(f"holds more than {MAX_VALUES} values")


def checked_integer(number: int) -> int:
    """``number``. Raises Refused if it does not fit in 64 bits."""
    if number not in INTEGERS:
        raise Refused("holds an integer of more than 64 bits")
    return number


def type_name(value: Any) -> str:
    """Apple's name of a value's plist type, for error texts."""
    names = {bool: "a boolean", dict: "a dictionary", list: "an array", str: "a string", bytes: "data"}
    names |= {int: "an integer", float: "a real", datetime: "a date", type(None): "none"}
    return names.get(type(value), f"a value of type {type(value).__name__}")
