"""Binary property lists to values. Source: Apple's CFBinaryPList.c (CF-744.18), the comment on its format."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from agent.plists.values import (
    EARLIEST_DATE,
    LATEST_DATE,
    MAX_BYTES,
    MAX_VALUES,
    Refused,
    check_container,
    checked_integer,
    find_control_character,
)

_TRAILER = struct.Struct(">6xBBQQQ")
_HEADER_BYTES = 8
_EPOCH = datetime(2001, 1, 1)  # without tzinfo, as in plistlib; UTC
_LONG = 0xF  # the size does not fit in the marker and follows it as an integer


def read_binary(data: bytes) -> Any:
    """The value of a binary plist. Raises Refused, struct.error, ValueError, LookupError or OverflowError."""
    return _BinaryReader(data).read()


class _BinaryReader:
    """Reads each object as often as it is referred to.

    Objects may overlap and be shared, so the limits apply to the values that result, not to the objects in the file.
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
            raise Refused("is a binary property list whose offset table is outside of it")

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
                return checked_integer(int.from_bytes(self._slice(at, 1 << size), "big", signed=size >= 3))
            case 0x0 if size in (8, 9):
                return size == 9
            case 0x4:
                return self._slice(at, size)
            case 0x2 if size in (2, 3):
                return struct.unpack(">f" if size == 2 else ">d", self._slice(at, 1 << size))[0]
            case 0x3 if size == 3:
                return _date_since_epoch(struct.unpack(">d", self._slice(at, 8))[0])
        raise Refused(f"holds an object of type {kind:#x}{size & 0xF:x}, which is not supported")

    def _dict(self, at: int, size: int, depth: int) -> dict[str, Any]:
        refs = self._children(at, size, 2 * size, depth)
        found = {}
        for key_ref, ref in zip(refs[:size], refs[size:], strict=True):
            key_at, kind, length = self._marker(key_ref)
            if kind not in (0x5, 0x6):
                raise Refused("has a dictionary with a key that is not a string")
            key = self._text(key_at, kind, length)
            found[key] = self._value(ref, depth + 1)
        return found

    def _marker(self, ref: int) -> tuple[int, int, int]:
        """The offset of the object's content, its kind, and its size or subtype."""
        if ref >= self._objects:
            raise Refused("refers to an object that it does not hold")
        at = self._end + ref * self._offset_size
        at = int.from_bytes(self._data[at : at + self._offset_size], "big")
        if not _HEADER_BYTES <= at < self._end:
            raise Refused("has an object outside of its object table")
        marker = self._data[at]
        kind, size = marker >> 4, marker & 0xF
        at += 1
        if size == _LONG and kind in (0x4, 0x5, 0x6, 0xA, 0xD):
            marker = self._data[at]
            if marker & 0xFC != 0x10:
                raise Refused("has an object whose size is not an integer")
            width = 1 << (marker & 0x3)
            size = int.from_bytes(self._data[at + 1 : at + 1 + width], "big")
            at += 1 + width
        return at, kind, size

    def _children(self, at: int, values: int, refs: int, depth: int) -> Sequence[int]:
        self._values_left -= values
        check_container(depth, self._values_left)
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
        if find_control_character(text):
            raise Refused("holds a string with control characters")
        return text


def _date_since_epoch(seconds: float) -> datetime:
    """The date; one outside of Python's years is the earliest or the latest, as in XML."""
    if not math.isfinite(seconds):
        raise Refused(f"holds a date that is {seconds} seconds after 2001")
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return LATEST_DATE if seconds > 0 else EARLIEST_DATE
