"""XML property lists to values. Source: Apple's DTD http://www.apple.com/DTDs/PropertyList-1.0.dtd."""

from __future__ import annotations

import binascii
import re
from datetime import datetime
from typing import Any
from xml.etree.ElementTree import Element

from agent.plists.lenient_xml import first_element
from agent.plists.values import EARLIEST_DATE, LATEST_DATE, MAX_VALUES, Refused, check_container, checked_integer

_INTEGER = re.compile(r"\s*([+-]?)(?:0[xX]([0-9A-Fa-f]{1,16})|([0-9]{1,20}))\s*", re.ASCII)
_DATE = re.compile(r"\s*(-?)(\d+)-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)Z\s*", re.ASCII)
_LEAP_YEAR = 2000  # any leap year: it has every day of the calendar
_TEXT_BETWEEN = "has text between the values of a container"
_TAGS_A_VALUE = 4  # "<key>", "</key>", "<string>", "</string>"


def read_xml(data: bytes) -> Any:
    """The value of an XML plist. Raises Refused, ExpatError, ValueError or LookupError."""
    root = first_element(data, max_tags=_TAGS_A_VALUE * MAX_VALUES + 64)
    if root.tag != "plist":
        return _XMLReader().value(root, 1)
    if len(root) != 1:
        raise Refused(f"has {len(root)} values in <plist>; expected one")
    return _XMLReader().value(root[0], 1)


class _XMLReader:
    """Elements to values; counts the values."""

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
                raise Refused("has a dictionary that is not pairs of a <key> and a value")
            found[key.text or ""] = self.value(value, depth + 1)
        return found

    def _enter(self, element: Element, count: int, depth: int) -> None:
        self._left -= count
        check_container(depth, self._left)
        text = element.text
        if text and not text.isspace():
            raise Refused(_TEXT_BETWEEN)
        for child in element:
            text = child.tail
            if text and not text.isspace():
                raise Refused(_TEXT_BETWEEN)


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
            raise Refused(f"has an element <{tag[:80]}>, which property lists do not have")


def _date(text: str) -> datetime:
    """A date; one before the year 1 or after 9999, which Python cannot represent, is the earliest or the latest."""
    found = _DATE.fullmatch(text)
    if found is None:
        raise Refused(f"has the date {text[:40]!r}; expected YYYY-MM-DDTHH:MM:SSZ")
    sign, digits, *rest = found.groups()
    month, day, hour, minute, second = map(int, rest)
    year = digits.lstrip("0")
    if 0 < len(year) <= 4 and not sign:
        return datetime(int(year), month, day, hour, minute, second)
    datetime(_LEAP_YEAR, month, day, hour, minute, second)  # raises ValueError for a day that no year has
    return LATEST_DATE if year and not sign else EARLIEST_DATE


def _integer(text: str) -> int:
    found = _INTEGER.fullmatch(text)
    if found is None:
        raise Refused(f"has the integer {text[:40]!r}, which is not a number of at most 64 bits")
    sign, hexadecimal, decimal = found.groups()
    number = int(hexadecimal, 16) if hexadecimal else int(decimal)
    return checked_integer(-number if sign == "-" else number)
