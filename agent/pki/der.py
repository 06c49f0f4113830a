"""Untrusted ASN.1: reads BER or DER element by element, with limits on depth and count, and copies only on access.

CMS arrives as DER from Macs and as indefinite-length BER from OpenSSL's streams and from Java. General ASN.1 libraries
join the pieces of a BER string in quadratic time and hold every element of a set in memory; this reader does neither,
and raises one error. It supports what CMS needs: tags below 31, lengths below 4 GiB.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from agent.errors import PeerError

MAX_DEPTH = 24  # of indefinite lengths within one another; a signed message has 6
MAX_ELEMENTS = 65_536  # in one container; 8 MiB in the 1000-byte pieces that BER writers make are 8,389
_KNOWN_OIDS = 256  # the program uses some dozens

INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
OBJECT_IDENTIFIER = 0x06
UTF8_STRING = 0x0C
PRINTABLE_STRING = 0x13
IA5_STRING = 0x16
SEQUENCE = 0x30
SET = 0x31
CONTEXT_0 = 0xA0
CONTEXT_1 = 0xA1
NULL = b"\x05\x00"

_CONSTRUCTED = 0x20
_INDEFINITE = 0x80
_ONE_OCTET, _TWO_OCTETS = 0x81, 0x82  # of a length that follow
_END = b"\x00\x00"
_TAG = 1  # the index of an element's tag
_new = tuple.__new__  # of an Element, without a call of Python code


class DERError(PeerError):
    """Malformed or unexpected ASN.1."""

    kind = "asn1"


class Element(NamedTuple):
    """One ASN.1 value inside ``source``: its tag octet, and the offsets of its start, its body and its end."""

    source: bytes
    tag: int
    start: int
    body_start: int
    body_end: int
    end: int

    @property
    def body(self) -> bytes:
        """The contents octets."""
        return self.source[self.body_start : self.body_end]

    @property
    def encoded(self) -> bytes:
        """Tag, length and contents as they arrived."""
        return self.source[self.start : self.end]

    def children(self) -> list[Element]:
        """The elements inside. Raises DERError where this is not a container, or has too many."""
        if not self.tag & _CONSTRUCTED:
            raise DERError(f"expected a container, found tag 0x{self.tag:02x}")
        source, offset, limit = self.source, self.body_start, self.body_end
        if limit - offset > MAX_ELEMENTS:  # fewer octets have fewer elements
            return _many_children(source, offset, limit)
        found: list[Element] = []
        append, last = found.append, limit - 4
        while offset < limit:
            if offset <= last:  # room for a length of two octets: most elements are read here, without a call
                tag, size, start = source[offset], source[offset + 1], offset + 2
                if size > _INDEFINITE:
                    if size == _ONE_OCTET:
                        size, start = source[start], start + 1
                    elif size == _TWO_OCTETS:
                        size, start = source[start] << 8 | source[start + 1], start + 2
                    else:
                        size = limit
                elif size == _INDEFINITE:
                    size = limit
                end = start + size
                if end <= limit and tag & 0x1F != 0x1F:
                    append(_new(Element, (source, tag, offset, start, end, end)))
                    offset = end
                    continue
            element = _element_at(source, offset, limit)
            append(element)
            offset = element.end
        return found

    def expect(self, tag: int, what: str) -> Element:
        """This element. Raises DERError, which names ``what``, where it has another tag."""
        if self.tag != tag:
            raise DERError(f"expected {what} (tag 0x{tag:02x}), found tag 0x{self.tag:02x}")
        return self

    def octets(self) -> bytes:
        """The bytes of an OCTET STRING, also of one in pieces (BER) and of one implicitly tagged."""
        if not self.tag & _CONSTRUCTED:
            return self.body
        # Pieces in pieces (X.690, 8.7.3) are refused: no writer makes them, and their depth is not limited.
        return b"".join(piece.expect(OCTET_STRING, "a piece of a string").body for piece in self.children())

    def oid(self) -> str:
        """The dotted form of this OBJECT IDENTIFIER."""
        return _dotted(self.expect(OBJECT_IDENTIFIER, "an object identifier").body)


class Fields:
    """The elements of a SEQUENCE, taken one by one in the order of its ASN.1 module."""

    __slots__ = ("_elements",)

    def __init__(self, sequence: Element) -> None:
        self._elements = sequence.children()
        self._elements.reverse()  # the next one is the last

    def take(self, tag: int, what: str) -> Element:
        """The next element, which must have ``tag``. Raises DERError naming ``what``."""
        elements = self._elements
        if not elements:
            raise DERError(f"expected {what} (tag 0x{tag:02x}), found the end")
        if elements[-1][_TAG] != tag:
            raise DERError(f"expected {what} (tag 0x{tag:02x}), found tag 0x{elements[-1].tag:02x}")
        return elements.pop()

    def optional(self, *tags: int) -> Element | None:
        """The next element if its tag is one of ``tags``; else None, and the element remains."""
        elements = self._elements
        return elements.pop() if elements and elements[-1][_TAG] in tags else None

    @property
    def done(self) -> bool:
        """Whether every element is taken."""
        return not self._elements


def read(data: bytes) -> Element:
    """The single element in ``data``. Raises DERError, also where bytes follow it."""
    element = _element_at(data, 0, len(data))
    if element.end != len(data):
        raise DERError(f"{len(data) - element.end} bytes follow the ASN.1 value")
    return element


def encode(tag: int, body: bytes) -> bytes:
    """The DER of one element."""
    size = len(body)
    if size < 0x80:
        return bytes((tag, size)) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + body


def sequence(*parts: bytes) -> bytes:
    """The DER of a SEQUENCE of ``parts``, each already DER."""
    return encode(SEQUENCE, b"".join(parts))


def set_of(*parts: bytes) -> bytes:
    """The DER of a SET OF ``parts``, each already DER; in DER's order (X.690, 11.6)."""
    return encode(SET, b"".join(sorted(parts)))


@lru_cache(_KNOWN_OIDS)
def oid(dotted: str) -> bytes:
    """The DER of an OBJECT IDENTIFIER. Raises ValueError for another text."""
    arcs = [int(arc) for arc in dotted.split(".")]
    if len(arcs) < 2 or arcs[0] > 2 or min(arcs) < 0:
        raise ValueError(f"expected an object identifier, found {dotted!r}")
    body = bytearray()
    for arc in (40 * arcs[0] + arcs[1], *arcs[2:]):
        groups = range((max(arc.bit_length(), 1) - 1) // 7 * 7, -1, -7)
        body += bytes((arc >> shift & 0x7F) | (0x80 if shift else 0) for shift in groups)
    return encode(OBJECT_IDENTIFIER, bytes(body))


@lru_cache(_KNOWN_OIDS)
def _dotted(body: bytes) -> str:
    """The dotted form of the contents of an OBJECT IDENTIFIER."""
    if not body or len(body) > 64 or body[-1] & 0x80:
        raise DERError(f"broken object identifier {body[:64].hex()}")
    arcs = [0]
    for octet in body:
        arcs[-1] = arcs[-1] << 7 | octet & 0x7F
        if not octet & 0x80:
            arcs.append(0)
    first = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:-1]))


def _many_children(source: bytes, offset: int, limit: int) -> list[Element]:
    found: list[Element] = []
    while offset < limit:
        if len(found) == MAX_ELEMENTS:
            raise DERError(f"more than {MAX_ELEMENTS} elements in one container")
        element = _element_at(source, offset, limit)
        found.append(element)
        offset = element.end
    return found


def _element_at(source: bytes, start: int, limit: int) -> Element:
    if start + 2 <= limit and source[start + 1] < _INDEFINITE and source[start] & 0x1F != 0x1F:
        end = start + 2 + source[start + 1]
        if end <= limit:  # most elements are short
            return _new(Element, (source, source[start], start, start + 2, end, end))
    tag, body_start, size = _header(source, start, limit)
    if size is not None:
        return _new(Element, (source, tag, start, body_start, body_start + size, body_start + size))
    body_end = _end_of_contents(source, body_start, limit)
    return Element(source, tag, start, body_start, body_end, body_end + len(_END))


def _header(source: bytes, start: int, limit: int) -> tuple[int, int, int | None]:
    """Tag, offset of the body, and size of the body: None if it is of indefinite length."""
    if start + 2 > limit:
        raise DERError("the ASN.1 value is cut short")
    tag, size, body_start = source[start], source[start + 1], start + 2
    if tag & 0x1F == 0x1F:
        raise DERError("expected a tag below 31, found a longer one")
    if size == _INDEFINITE:
        if not tag & _CONSTRUCTED:
            raise DERError("an indefinite length on a value that is not a container")
        return tag, body_start, None
    if size > _INDEFINITE:
        count = size & 0x7F
        if count > 4:
            raise DERError(f"expected a length of at most 4 octets, found {count}")
        if body_start + count > limit:
            raise DERError("the ASN.1 value is cut short")
        size = int.from_bytes(source[body_start : body_start + count], "big")
        body_start += count
    if size > limit - body_start:
        raise DERError(f"the ASN.1 value is cut short: it ends after {limit - body_start} of {size} bytes")
    return tag, body_start, size


def _end_of_contents(source: bytes, offset: int, limit: int) -> int:
    """The offset of the two zero octets that end a value of indefinite length; nested values count as elements too."""
    depth = 1
    for _ in range(MAX_ELEMENTS + 1):
        if offset + 2 <= limit and source[offset] == 0 == source[offset + 1]:
            depth -= 1
            if depth == 0:
                return offset
            offset += len(_END)
            continue
        _, offset, size = _header(source, offset, limit)
        if size is not None:
            offset += size
        elif (depth := depth + 1) > MAX_DEPTH:
            raise DERError(f"indefinite lengths nested deeper than {MAX_DEPTH}")
    raise DERError(f"more than {MAX_ELEMENTS} elements in one container")
