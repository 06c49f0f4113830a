"""Property lists from strangers: bytes to plain values and back, with limits on size, depth and count.

Commands, results and profiles are XML plists; LOM link frames are binary ones. ``load`` takes either. What comes
out holds only ``dict`` (with ``str`` keys), ``list``, ``str``, ``bytes``, ``int``, ``float``, ``bool`` and
``datetime``, is no deeper and no larger than the limits say, and can always be written again as XML.
"""

from __future__ import annotations

import plistlib
import re
import struct
from datetime import datetime
from typing import Any
from xml.parsers.expat import ExpatError

from agent.errors import MisuseError, PeerError

MAX_BYTES = 8 * 1024 * 1024  # a profile with some identities is under 100 KB; ours, no standard says
MAX_DEPTH = 32  # Apple's deepest message is below 10
MAX_VALUES = 200_000  # counts shared values of a binary plist each time they are met

_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_INTEGERS = range(-(1 << 63), 1 << 64)  # what a plist integer can hold
_BROKEN = (
    plistlib.InvalidFileException,
    ExpatError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OverflowError,
    RecursionError,
    MemoryError,
    struct.error,
)


class PlistError(PeerError):
    """Bytes that are no property list, or one past the limits."""

    kind = "plist"


def load(data: bytes, *, what: str = "body", max_bytes: int = MAX_BYTES) -> Any:
    """Read an XML or binary plist of at most ``max_bytes`` bytes.

    ``what`` names the bytes in the error. Raises PlistError, and nothing else, for any bytes.
    """
    if len(data) > max_bytes:
        raise PlistError(f"the {what} is {len(data)} bytes long; at most {max_bytes} are taken")
    try:
        value = plistlib.loads(data)
    except _BROKEN as error:
        raise PlistError(f"the {what} is no property list: {_reason(error)}") from error
    _check(value, what)
    return value


def load_dict(data: bytes, *, what: str = "body", max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Like ``load``, for a plist whose root must be a dictionary. Raises PlistError."""
    value = load(data, what=what, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise PlistError(f"the {what} should be a dictionary, but is {type_name(value)}")
    return value


def dump_xml(value: Any) -> bytes:
    """Write ``value`` as an XML plist, keys in sorted order, as one text for equal values."""
    return _dump(value, plistlib.FMT_XML)


def dump_binary(value: Any) -> bytes:
    """Write ``value`` as a binary plist."""
    return _dump(value, plistlib.FMT_BINARY)


def type_name(value: Any) -> str:
    """Apple's name of a value's plist type, for error texts."""
    names = {
        bool: "a boolean",
        dict: "a dictionary",
        list: "an array",
        str: "a string",
        bytes: "data",
        int: "an integer",
        float: "a real",
        datetime: "a date",
        type(None): "missing",
    }
    return names.get(type(value), f"of type {type(value).__name__}")


def _dump(value: Any, fmt: plistlib.PlistFormat) -> bytes:
    try:
        return plistlib.dumps(value, fmt=fmt)
    except (TypeError, ValueError, OverflowError) as error:
        raise MisuseError(f"not a property list value: {error}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, plistlib.InvalidFileException) and "ENTITY" in str(error).upper():
        return "it declares entities, which are never expanded"
    return str(error) or type(error).__name__


def _check(root: Any, what: str) -> None:
    """Walk the value without recursion: a binary plist may refer to itself, or to one value a million times."""
    stack = [(root, 1)]
    count = 0
    while stack:
        value, depth = stack.pop()
        count += 1
        if count > MAX_VALUES:
            raise PlistError(f"the {what} holds more than {MAX_VALUES} values")
        if isinstance(value, (dict, list)):
            if depth > MAX_DEPTH:
                raise PlistError(f"the {what} is nested deeper than {MAX_DEPTH} levels")
            if count + len(stack) + len(value) > MAX_VALUES:
                raise PlistError(f"the {what} holds more than {MAX_VALUES} values")
            if isinstance(value, dict):
                for key in value:
                    _check_text(key, what)
                stack.extend((child, depth + 1) for child in value.values())
            else:
                stack.extend((child, depth + 1) for child in value)
        else:
            _check_scalar(value, what)


def _check_scalar(value: Any, what: str) -> None:
    if isinstance(value, str):
        _check_text(value, what)
    elif isinstance(value, int):
        if value not in _INTEGERS:
            raise PlistError(f"the {what} holds an integer of more than 64 bits")
    elif not isinstance(value, (bytes, float, datetime)):
        raise PlistError(f"the {what} holds a value {type_name(value)}, which no message has")


def _check_text(value: Any, what: str) -> None:
    if not isinstance(value, str):
        raise PlistError(f"the {what} has a key that is {type_name(value)}; keys are strings")
    if _NOT_IN_XML.search(value):
        raise PlistError(f"the {what} holds a string with control characters")
