"""XML bytes to the first root element, with the leniency of Apple's property list reader and without entities.

As CFPropertyList.c (CF-1153.18), it accepts white space before the XML declaration, a byte order mark that contradicts
it, attributes on any element (ignored, ``xmlns`` too) and any bytes after the first root element. Declarations of
entities, which Apple skips, are refused. The time is linear in the bytes.
"""

from __future__ import annotations

import codecs
import re
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from agent.plists.values import Refused

_WHITE_SPACE = b" \t\r\n"
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_PLAIN_PROLOG = re.compile(
    rb'(?:<\?xml [^<>]*\?>)?\s*(?:<!DOCTYPE plist (?:PUBLIC "[^"<>]*" "[^"<>]*"|SYSTEM "[^"<>]*")>\s*)?<plist[ >]'
)
_DECLARATION = re.compile(rb"<!(?:ENTITY|ATTLIST|ELEMENT|NOTATION)")


class _RootEnded(Exception):
    """Stops expat at the end of the root element."""


def first_element(data: bytes, *, max_tags: int) -> Element:
    """The root element. Raises Refused, ExpatError, ValueError (bytes outside their encoding) or LookupError.

    The bytes are parsed in one piece: expat 2.5 takes quadratic time for a long token that arrives in many pieces. An
    internal DTD subset is refused before expat reads it: entities could grow, and default attributes would be copied
    to every element. Nothing is fetched, and a reference to an entity that XML itself does not define is an error.
    """
    data, encoding = _without_preamble(data)
    if not _PLAIN_PROLOG.match(data) and _DECLARATION.search(data.replace(b"\0", b"")):  # UTF-16 has NULs
        raise Refused("declares entities, elements or attributes; no property list may")
    if data.count(b"<") > max_tags:
        raise Refused(f"holds more than {max_tags} tags")
    builder = TreeBuilder()
    parser = _parser(builder, encoding)
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    try:
        parser.Parse(data, True)
    except expat.ExpatError:
        root = _root_element(data, encoding)
        if root is None:
            raise
        return root
    return builder.close()


def _without_preamble(data: bytes) -> tuple[bytes, str | None]:
    """The bytes from the XML declaration on, and their encoding where they have a byte order mark."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            octets = data[len(mark) :]
            if encoding != "utf-8":
                octets = octets.decode(encoding).encode()
            return octets.lstrip(_WHITE_SPACE), "utf-8"
    return data.lstrip(_WHITE_SPACE), None


def _parser(builder: TreeBuilder, encoding: str | None) -> expat.XMLParserType:
    parser = expat.ParserCreate(encoding)
    parser.buffer_text = True
    parser.CharacterDataHandler = builder.data
    parser.SkippedEntityHandler = _refuse_entity
    return parser


def _refuse_entity(name: str, _is_parameter_entity: bool) -> None:
    raise Refused(f"is not a property list: undefined entity {name[:80]!r}")


def _root_element(data: bytes, encoding: str | None) -> Element | None:
    """The root element of bytes that are not well-formed XML as a whole; None if the element does not end."""
    builder = TreeBuilder()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)
        if not depth:
            raise _RootEnded

    parser = _parser(builder, encoding)
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    try:
        parser.Parse(data, True)
    except _RootEnded:
        return builder.close()
    except expat.ExpatError:
        pass
    return None
