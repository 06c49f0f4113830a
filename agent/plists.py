"""Property lists from strangers: bytes to plain values and back, with limits on size, depth and count.

Commands, results and profiles are XML plists; LOM link frames are binary ones. ``load`` takes either. What comes
out holds only ``dict`` (with ``str`` keys), ``list``, ``str``, ``bytes``, ``int``, ``float``, ``bool`` and
``datetime`` (UTC, without tzinfo), is no deeper and no larger than the limits say, and can always be written again.

Both readers are our own and take time in proportion to the bytes. ``plistlib`` reads overlapping binary objects in
quadratic time and memory, takes numbers and dates that only Python understands, and half as many XML plists a second.
"""

from __future__ import annotations

import binascii
import math
import plistlib
import re
import struct
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from xml.etree.ElementTree import Element
from xml.parsers.expat import ExpatError

from agent.errors import MisuseError, PeerError
from agent.lenient_xml import Refused, first_element

MAX_BYTES = 8 * 1024 * 1024  # a profile with some identities is under 100 KB; ours, no standard says
MAX_DEPTH = 32  # Apple's deepest message is below 10
MAX_VALUES = 200_000  # counts shared values of a binary plist each time they are met; so does MAX_BYTES their text

_INTEGERS = range(-(1 << 63), 1 << 64)  # what a plist integer can hold
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_BROKEN = (ExpatError, ValueError, LookupError, OverflowError, struct.error)


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
        return _BinaryReader(data).read() if data.startswith(b"bplist0") else _read_xml(data)
    except Refused as refused:
        raise PlistError(f"the {what} {refused}") from None
    except _BROKEN as error:
        raise PlistError(f"the {what} is no property list: {error or type(error).__name__}") from error


def load_dict(data: bytes, *, what: str = "body", max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Like ``load``, for a plist whose root must be a dictionary. Raises PlistError."""
    value = load(data, what=what, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise PlistError(f"the {what} should be a dictionary, but is {type_name(value)}")
    return value


def dump_xml(value: Any) -> bytes:
    """Write ``value`` as an XML plist, keys in sorted order, as one text for equal values; dates to the second.

    Raises MisuseError for what ``load`` would not take: other types, a date with tzinfo, control characters, depth.
    """
    lines: list[str] = []
    try:
        _write_xml(value, "", lines)
        return "".join((_XML_HEAD, *lines, "</plist>\n")).encode()
    except _UNWRITABLE as error:
        raise MisuseError(f"not a property list value: {error}") from error


def xml_text(text: str) -> bytes:
    """``text`` as it stands between two tags of an XML plist. Raises MisuseError for control characters."""
    return _escaped(text).encode()


def dump_binary(value: Any) -> bytes:
    """Write ``value`` as a binary plist. Raises MisuseError like ``dump_xml``, but for control characters."""
    try:
        _check_writable(value, 1)
        return plistlib.dumps(value, fmt=plistlib.FMT_BINARY)
    except _UNWRITABLE as error:
        raise MisuseError(f"not a property list value: {error}") from error


def type_name(value: Any) -> str:
    """Apple's name of a value's plist type, for error texts."""
    names = {bool: "a boolean", dict: "a dictionary", list: "an array", str: "a string", bytes: "data"}
    names |= {int: "an integer", float: "a real", datetime: "a date", type(None): "missing"}
    return names.get(type(value), f"of type {type(value).__name__}")


# XML. Source: Apple's DTD http://www.apple.com/DTDs/PropertyList-1.0.dtd.

_INTEGER = re.compile(r"\s*([+-]?)(?:0[xX]([0-9A-Fa-f]{1,16})|([0-9]{1,20}))\s*", re.ASCII)
_DATE = re.compile(r"\s*(-?)(\d+)-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)Z\s*", re.ASCII)
_EARLIEST, _LATEST = datetime.min, datetime.max.replace(microsecond=0)  # what stands for dates beyond them
_LEAP_YEAR = 2000  # any: it has every day that a year can have
_TEXT_BETWEEN = "has text between the values of a container"
_TAGS_A_VALUE = 4  # "<key>", "</key>", "<string>", "</string>"


def _read_xml(data: bytes) -> Any:
    root = first_element(data, max_tags=_TAGS_A_VALUE * MAX_VALUES + 64)
    if root.tag != "plist":
        return _XMLReader().value(root, 1)
    if len(root) != 1:
        raise Refused(f"should be one value in <plist>, but is {len(root)}")
    return _XMLReader().value(root[0], 1)


class _XMLReader:
    """Elements to values, counted."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_VALUES - 1

    def value(self, element: Element, depth: int) -> Any:
        tag = element.tag
        if tag == "dict":
            return self._dict(element, depth)
        if tag == "array":
            self._enter(element, len(element), depth)
            return [self.value(child, depth + 1) for child in element]
        if len(element):
            raise Refused(f"has <{element[0].tag[:80]}> in <{tag[:80]}>")
        if tag == "string":
            return element.text or ""
        return _scalar(tag, element.text or "")

    def _dict(self, element: Element, depth: int) -> dict[str, Any]:
        self._enter(element, len(element) // 2, depth)
        found = {}
        children = iter(element)
        for key in children:
            value = next(children, None)
            if key.tag != "key" or len(key) or value is None:
                raise Refused("has a dictionary that is not made of pairs of a <key> and a value")
            found[key.text or ""] = self.value(value, depth + 1)
        return found

    def _enter(self, element: Element, count: int, depth: int) -> None:
        self._left -= count
        _check_container(depth, self._left)
        text = element.text
        if text and not text.isspace():
            raise Refused(_TEXT_BETWEEN)
        for child in element:
            text = child.tail
            if text and not text.isspace():
                raise Refused(_TEXT_BETWEEN)


def _check_container(depth: int, values_left: int) -> None:
    if depth > MAX_DEPTH:
        raise Refused(f"is {_TOO_DEEP}")
    if values_left < 0:
        raise Refused(f"holds more than {MAX_VALUES} values")


def _scalar(tag: str, text: str) -> Any:
    match tag:
        case "integer":
            return _integer(text)
        case "true":
            return True
        case "false":
            return False
        case "data":
            return binascii.a2b_base64(text)
        case "real":
            return float(text if text.isascii() and "_" not in text else "not a number")
        case "date":
            return _date(text)
        case _:
            raise Refused(f"has an element <{tag[:80]}>, which no property list has")


def _date(text: str) -> datetime:
    """A date; one before the year 1 or after 9999, which Python has none for, is the earliest or the latest one."""
    found = _DATE.fullmatch(text)
    if found is None:
        raise Refused(f"has the date {text[:40]!r}; expected YYYY-MM-DDTHH:MM:SSZ")
    sign, digits, *rest = found.groups()
    month, day, hour, minute, second = map(int, rest)
    year = digits.lstrip("0")
    if 0 < len(year) <= 4 and not sign:
        return datetime(int(year), month, day, hour, minute, second)
    datetime(_LEAP_YEAR, month, day, hour, minute, second)  # is it one, apart from the year?
    return _LATEST if year and not sign else _EARLIEST


def _integer(text: str) -> int:
    found = _INTEGER.fullmatch(text)
    if found is None:
        raise Refused(f"has the integer {text[:40]!r}, which is no number of at most 64 bits")
    sign, hexadecimal, decimal = found.groups()
    number = int(hexadecimal, 16) if hexadecimal else int(decimal)
    return _checked_integer(-number if sign == "-" else number)


def _checked_integer(number: int) -> int:
    if number not in _INTEGERS:
        raise Refused("holds an integer of more than 64 bits")
    return number


# Binary. Source: Apple's CFBinaryPList.c (CF-744.18), the comment on its format.

_TRAILER = struct.Struct(">6xBBQQQ")
_HEADER_BYTES = 8
_EPOCH = datetime(2001, 1, 1)  # without tzinfo, as plistlib gives dates; it is UTC
_LONG = 0xF  # the size does not fit in the marker, and follows as an integer


class _BinaryReader:
    """Objects to values, one at a time as they are referred to.

    Objects may overlap and be shared, so what is counted is not what the file holds but what comes out of it.
    """

    __slots__ = ("_data", "_end", "_objects", "_octets_left", "_offset_size", "_ref_size", "_top", "_values_left")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._values_left = MAX_VALUES - 1
        self._octets_left = MAX_BYTES
        if len(data) < _HEADER_BYTES + _TRAILER.size:
            raise Refused("is a binary property list without a trailer")
        trailer = _TRAILER.unpack_from(data, len(data) - _TRAILER.size)
        self._offset_size, self._ref_size, self._objects, self._top, self._end = trailer
        table = self._objects * self._offset_size
        if not self._offset_size or not self._ref_size or self._end + table > len(data) - _TRAILER.size:
            raise Refused("is a binary property list whose offset table is not in it")

    def read(self) -> Any:
        return self._value(self._top, 1)

    def _value(self, ref: int, depth: int) -> Any:
        at, kind, size = self._marker(ref)
        match kind:
            case 0x5 | 0x6:
                return self._text(at, kind, size)
            case 0xD:
                return self._dict(at, size, depth)
            case 0xA:
                return [self._value(child, depth + 1) for child in self._children(at, size, size, depth)]
            case 0x1 if size <= 4:  # one, two and four bytes are unsigned
                return _checked_integer(int.from_bytes(self._slice(at, 1 << size), "big", signed=size >= 3))
            case 0x0 if size in (8, 9):
                return size == 9
            case 0x4:
                return self._slice(at, size)
            case 0x2 if size in (2, 3):
                return struct.unpack(">f" if size == 2 else ">d", self._slice(at, 1 << size))[0]
            case 0x3 if size == 3:
                return _date_since_epoch(struct.unpack(">d", self._slice(at, 8))[0])
        raise Refused(f"holds an object of type {kind:#x}{size & 0xF:x}, which no message has")

    def _dict(self, at: int, size: int, depth: int) -> dict[str, Any]:
        refs = self._children(at, size, 2 * size, depth)
        found = {}
        for key_ref, ref in zip(refs[:size], refs[size:], strict=True):
            key_at, kind, length = self._marker(key_ref)
            if kind not in (0x5, 0x6):
                raise Refused("has a dictionary with a key that is no string")
            key = self._text(key_at, kind, length)
            found[key] = self._value(ref, depth + 1)
        return found

    def _marker(self, ref: int) -> tuple[int, int, int]:
        """Where the object's content begins, its kind, and its size or subtype."""
        if ref >= self._objects:
            raise Refused("refers to an object that it does not hold")
        at = self._end + ref * self._offset_size
        at = int.from_bytes(self._data[at : at + self._offset_size], "big")
        if not _HEADER_BYTES <= at < self._end:
            raise Refused("has an object outside of its objects")
        marker = self._data[at]
        kind, size = marker >> 4, marker & 0xF
        at += 1
        if size == _LONG and kind in (0x4, 0x5, 0x6, 0xA, 0xD):
            marker = self._data[at]
            if marker & 0xFC != 0x10:
                raise Refused("has an object whose size is no integer")
            width = 1 << (marker & 0x3)
            size = int.from_bytes(self._data[at + 1 : at + 1 + width], "big")
            at += 1 + width
        return at, kind, size

    def _children(self, at: int, values: int, refs: int, depth: int) -> Sequence[int]:
        self._values_left -= values
        _check_container(depth, self._values_left)
        width = self._ref_size
        octets = self._slice(at, refs * width)
        if width == 1:
            return octets
        return [int.from_bytes(octets[start : start + width], "big") for start in range(0, len(octets), width)]

    def _slice(self, at: int, length: int) -> bytes:
        self._octets_left -= length
        if self._octets_left < 0:
            raise Refused(f"is longer than {MAX_BYTES} bytes, its shared values counted each time")
        if at + length > self._end:
            raise Refused("has an object that is cut off")
        return self._data[at : at + length]

    def _text(self, at: int, kind: int, size: int) -> str:
        text = self._slice(at, size).decode("ascii") if kind == 0x5 else self._slice(at, 2 * size).decode("utf-16-be")
        if _NOT_IN_XML.search(text):
            raise Refused("holds a string with control characters")
        return text


def _date_since_epoch(seconds: float) -> datetime:
    """As in XML, whatever the year."""
    if not math.isfinite(seconds):
        raise Refused(f"holds a date that is {seconds} seconds from another")
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return _LATEST if seconds > 0 else _EARLIEST


# Writing. The layout is the one that macOS and plistlib write.

_XML_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">\n'
    '<plist version="1.0">\n'
)
_SPECIAL = re.compile("[&<>\r\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_LINE, _SHORTEST_LINE, _TAB = 76, 16, 8  # columns of base64
_UNWRITABLE = (TypeError, ValueError, OverflowError, struct.error)


def _write_xml(value: Any, indent: str, lines: list[str]) -> None:
    match value:
        case str():
            lines.append(f"{indent}<string>{_escaped(value)}</string>\n")
        case bool():
            lines.append(f"{indent}<true/>\n" if value else f"{indent}<false/>\n")
        case int():
            if value not in _INTEGERS:
                raise OverflowError(f"{value} has more than 64 bits")
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
            raise TypeError(f"a value {type_name(value)}")


def _write_container(value: dict[str, Any] | list[Any] | tuple[Any, ...], indent: str, lines: list[str]) -> None:
    tag = "dict" if isinstance(value, dict) else "array"
    if not value:
        lines.append(f"{indent}<{tag}/>\n")
        return
    inner = indent + "\t"
    if len(inner) > MAX_DEPTH:
        raise ValueError(_TOO_DEEP)
    lines.append(f"{indent}<{tag}>\n")
    if isinstance(value, dict):
        for key in sorted(value):
            lines.append(f"{inner}<key>{_escaped(key)}</key>\n")
            _write_xml(value[key], inner, lines)
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
    """plistlib writes None, which no message has, and follows a value within itself to the end of the memory."""
    if value is None:
        raise TypeError("a value that is missing")
    if isinstance(value, (dict, list, tuple)):
        if depth > MAX_DEPTH:
            raise ValueError(_TOO_DEEP)
        for child in value.values() if isinstance(value, dict) else value:
            _check_writable(child, depth + 1)


def _escaped(text: str) -> str:
    if not _SPECIAL.search(text):
        return text
    if _NOT_IN_XML.search(text):
        raise MisuseError("not a property list value: a string with control characters")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")
