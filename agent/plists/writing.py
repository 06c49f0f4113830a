"""Values to property lists, in the layout that macOS and plistlib write."""

from __future__ import annotations

import binascii
import plistlib
import re
import struct
from datetime import datetime
from typing import Any

from agent.errors import MisuseError
from agent.plists.values import INTEGERS, MAX_DEPTH, TOO_DEEP, find_control_character, type_name

_XML_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">\n'
    '<plist version="1.0">\n'
)
_SPECIAL = re.compile("[&<>\r\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_LINE, _SHORTEST_LINE, _TAB = 76, 16, 8  # columns of base64
_UNWRITABLE = (TypeError, ValueError, OverflowError, struct.error)


def dump_xml(value: Any) -> bytes:
    """Write ``value`` as an XML plist with sorted keys: equal values give equal bytes. Dates are to the second.

    Raises MisuseError for what ``load`` refuses: other types, a date with tzinfo, control characters, depth.
    """
    lines: list[str] = []
    try:
        _write_xml(value, "", lines)
        return "".join((_XML_HEAD, *lines, "</plist>\n")).encode()
    except _UNWRITABLE as error:
        raise MisuseError(f"Expected a property list value, found {error}.") from error


def xml_text(text: str) -> bytes:
    """``text``, escaped for an XML plist. Raises MisuseError for control characters."""
    return _escaped(text).encode()


def dump_binary(value: Any) -> bytes:
    """Write ``value`` as a binary plist. Raises MisuseError as ``dump_xml`` does, except for control characters."""
    try:
        _check_writable(value, 1)
        return plistlib.dumps(value, fmt=plistlib.FMT_BINARY)
    except _UNWRITABLE as error:
        raise MisuseError(f"Expected a property list value, found {error}.") from error


def _write_xml(value: Any, indent: str, lines: list[str]) -> None:
    match value:
        case str():
            lines.append(f"{indent}<string>{_escaped(value)}</string>\n")
        case bool():
            lines.append(f"{indent}<true/>\n" if value else f"{indent}<false/>\n")
        case int():
            if value not in INTEGERS:
                raise OverflowError(f"an integer of more than 64 bits: {value}")
            lines.append(f"{indent}<integer>{value:d}</integer>\n")
        case dict() | list() | tuple():
            _write_container(value, indent, lines)
        case bytes() | bytearray():
            _write_data(value, indent, lines)
        case float():
            lines.append(f"{indent}<real>{value!r}</real>\n")
        case datetime() if value.tzinfo is None:
            lines.append(f"{indent}<date>{value.replace(microsecond=0).isoformat()}Z</date>\n")
        case _:
            raise TypeError(type_name(value))


def _write_container(value: dict[str, Any] | list[Any] | tuple[Any, ...], indent: str, lines: list[str]) -> None:
    tag = "dict" if isinstance(value, dict) else "array"
    if not value:
        lines.append(f"{indent}<{tag}/>\n")
        return
    inner = indent + "\t"
    if len(inner) > MAX_DEPTH:
        raise ValueError(f"one {TOO_DEEP}")
    lines.append(f"{indent}<{tag}>\n")
    if isinstance(value, dict):
        for key in sorted(value):
            child = value[key]
            lines.append(f"{inner}<key>{_escaped(key)}</key>\n")
            if type(child) is str:  # most are
                lines.append(f"{inner}<string>{_escaped(child)}</string>\n")
            else:
                _write_xml(child, inner, lines)
    else:
        for child in value:
            _write_xml(child, inner, lines)
    lines.append(f"{indent}</{tag}>\n")


def _write_data(value: bytes | bytearray, indent: str, lines: list[str]) -> None:
    lines.append(f"{indent}<data>\n")
    step = max(_SHORTEST_LINE, _LINE - _TAB * len(indent)) // 4 * 3
    for start in range(0, len(value), step):
        lines.append(f"{indent}{binascii.b2a_base64(value[start : start + step]).decode()}")
    lines.append(f"{indent}</data>\n")


def _check_writable(value: Any, depth: int) -> None:
    """Refuse what plistlib does not: None, and a value that contains itself, on which it runs out of memory."""
    if value is None:
        raise TypeError("a value that is missing")
    if isinstance(value, (dict, list, tuple)):
        if depth > MAX_DEPTH:
            raise ValueError(f"one {TOO_DEEP}")
        for child in value.values() if isinstance(value, dict) else value:
            _check_writable(child, depth + 1)


def _escaped(text: str) -> str:
    if not _SPECIAL.search(text):
        return text
    if find_control_character(text):
        raise MisuseError("Expected a property list value, found a string with control characters.")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")
