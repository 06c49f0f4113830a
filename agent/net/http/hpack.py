"""HPACK without a dynamic table: we announce SETTINGS_HEADER_TABLE_SIZE 0, and index nothing ourselves.

So each field block stands alone and decodes to the same fields on every connection. Decoding takes time in proportion
to the length of the block, and every size in a block is bounded. A server cannot do so, because a client may use the
table before it knows our SETTINGS: it has a `Decoder`. Source: RFC 7541.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import lru_cache

from agent.errors import PeerError

MAX_FIELDS = 256  # of one block, as the header lines of HTTP/1.1
EMPTY_TABLE = b"\x20"  # RFC 7541, 6.3: the size of the dynamic table becomes 0

TABLE_BYTES = 4096  # RFC 9113, 6.5.2: SETTINGS_HEADER_TABLE_SIZE as it is initially
ENTRY_BYTES = 32  # RFC 7541, 4.1: what an entry of the table, or a field of a list, counts beside its texts

_MAX_INTEGER_BYTES = 4  # after the prefix; more than any index or length here needs
_MAX_SIZE_UPDATES = 2  # RFC 7541, 4.2
_KEPT_STRINGS = 512
_MAX_KEPT_BYTES = 128
_EOS = 256

# RFC 7541, appendix A, from index 1: name=value; "_" stands for a space.
_TABLE = """
    :authority :method=GET :method=POST :path=/ :path=/index.html :scheme=http :scheme=https :status=200 :status=204
    :status=206 :status=304 :status=400 :status=404 :status=500 accept-charset accept-encoding=gzip,_deflate
    accept-language accept-ranges accept access-control-allow-origin age allow authorization cache-control
    content-disposition content-encoding content-language content-length content-location content-range content-type
    cookie date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since
    last-modified link location max-forwards proxy-authenticate proxy-authorization range referer refresh retry-after
    server set-cookie strict-transport-security transfer-encoding user-agent vary via www-authenticate
"""
_STATIC = tuple(
    (name.encode(), value.replace("_", " ").encode())
    for name, _, value in (entry.partition("=") for entry in _TABLE.split())
)
_NAMES = {  # of literals with an index of one byte (RFC 7541, 6.2), by that byte
    first: _STATIC[index - 1][0]
    for prefix, most in ((0x40, len(_STATIC)), (0x00, 0x0E), (0x10, 0x0E))
    for index in range(1, most + 1)
    for first in (prefix | index,)
}
_INDEXES = {name: index for index, (name, _) in reversed(list(enumerate(_STATIC, 1)))}

# RFC 7541, appendix B: the number of bits of each symbol, 0 to 256. The code is canonical: its codes follow from these.
_CODE_BITS = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b08060606050505060606"
    "0606060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e060f0506050605060606050707"
    "0606060506070605050607070707070f0b0e0d1c14161414161616171617171717171817181816171817171717151617161717181615"
    "1416161717151716161815161717151516151716171714161616171616171a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b18"
    "15151a1a1c1b1b1b14181415161515171616191918181a171a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)


class BlockMalformed(PeerError):
    """A field block that is not HPACK, exceeds a limit, or needs a dynamic table."""

    kind = "http"


def decode(block: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a block, in order. Raises BlockMalformed."""
    fields: list[tuple[bytes, bytes]] = []
    at = updates = 0
    end, names = len(block), _NAMES.get
    try:
        while at < end:
            first = block[at]
            name = names(first)
            if name is not None:  # most literals
                value, at = _string(block, at + 1)
                fields.append((name, value))
            elif first & 0x80:  # RFC 7541, 6.1: indexed
                index, at = _integer(block, at, 0x7F)
                fields.append(_static(index))
            elif first & 0xE0 == 0x20:  # 6.3
                size, at = _integer(block, at, 0x1F)
                updates += 1
                if size or fields or updates > _MAX_SIZE_UPDATES:
                    raise BlockMalformed("expected a dynamic table of size 0, set at the start of a field block")
            else:  # 6.2: a literal; with an empty table it makes no difference whether it is to be indexed
                index, at = _integer(block, at, 0x3F if first & 0x40 else 0x0F)
                if index:
                    name = _static(index)[0]
                else:
                    name, at = _string(block, at)
                value, at = _string(block, at)
                fields.append((name, value))
            if len(fields) > MAX_FIELDS:
                raise BlockMalformed(f"a field block has more than {MAX_FIELDS} fields")
    except IndexError:
        raise BlockMalformed("a field block ends within a field") from None
    return fields


class BlockTooLong(BlockMalformed):
    """The fields of a block are longer than their limit."""


class Decoder:
    """Decodes the field blocks of one connection, with a dynamic table of at most TABLE_BYTES."""

    __slots__ = ("_entries", "_limit", "_size")

    def __init__(self) -> None:
        self._entries: deque[tuple[bytes, bytes]] = deque()  # the newest first
        self._size = 0
        self._limit = TABLE_BYTES

    def decode(self, block: bytes, most: int) -> list[tuple[bytes, bytes]]:
        """The fields of a block, in order. Raises BlockMalformed, and BlockTooLong above ``most`` bytes of fields.

        After either the table is not that of the peer any more.
        """
        fields: list[tuple[bytes, bytes]] = []
        at, end, size = 0, len(block), 0
        try:
            while at < end:
                first = block[at]
                if first & 0x80:
                    index, at = _integer(block, at, 0x7F)
                    field = self._field(index)
                elif first & 0xE0 == 0x20:
                    limit, at = _integer(block, at, 0x1F)
                    if fields or limit > TABLE_BYTES:
                        raise BlockMalformed(f"expected a dynamic table of at most {TABLE_BYTES} bytes, found {limit}")
                    self._limit = limit
                    self._evict(0)
                    continue
                else:
                    index, at = _integer(block, at, 0x3F if first & 0x40 else 0x0F)
                    if index:
                        name = self._field(index)[0]
                    else:
                        name, at = _string(block, at)
                    value, at = _string(block, at)
                    field = (name, value)
                    if first & 0x40:
                        self._add(field)
                fields.append(field)
                size += len(field[0]) + len(field[1]) + ENTRY_BYTES
                if size > most:
                    raise BlockTooLong(f"the fields of a block have more than {most} bytes")
        except IndexError:
            raise BlockMalformed("a field block ends within a field") from None
        return fields

    def _field(self, index: int) -> tuple[bytes, bytes]:
        entry = index - len(_STATIC) - 1
        if entry < 0:
            return _static(index)
        if entry >= len(self._entries):
            raise BlockMalformed(f"expected an index of the table, found {index}")
        return self._entries[entry]

    def _add(self, field: tuple[bytes, bytes]) -> None:
        size = len(field[0]) + len(field[1]) + ENTRY_BYTES
        self._evict(size)
        if size <= self._limit:  # RFC 7541, 4.4: a longer one empties the table
            self._entries.appendleft(field)
            self._size += size

    def _evict(self, room: int) -> None:
        while self._entries and self._size + room > self._limit:
            name, value = self._entries.pop()
            self._size -= len(name) + len(value) + ENTRY_BYTES


def encode(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A block of these fields: literals without indexing, names by the static table."""
    parts = []
    for name, value in fields:
        index = _INDEXES.get(name, 0)
        if index and _STATIC[index - 1] == (name, value):
            parts.append(_encoded_integer(index, 0x7F, 0x80))
        else:
            parts += (_encoded_integer(index, 0x0F), b"" if index else _encoded_integer(len(name), 0x7F) + name)
            parts += (_encoded_integer(len(value), 0x7F), value)
    return b"".join(parts)


def _static(index: int) -> tuple[bytes, bytes]:
    if not 0 < index <= len(_STATIC):
        raise BlockMalformed(f"expected an index of the static table (1 to {len(_STATIC)}), found {index}")
    return _STATIC[index - 1]


def _integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """The integer at ``at``, and where it ends. RFC 7541, 5.1. Raises IndexError at the end of the block."""
    number = block[at] & prefix
    at += 1
    if number < prefix:
        return number, at
    for shift in range(0, 7 * _MAX_INTEGER_BYTES, 7):
        octet = block[at]
        at += 1
        number += (octet & 0x7F) << shift
        if octet < 0x80:
            return number, at
    raise BlockMalformed(f"an integer in a field block has more than {_MAX_INTEGER_BYTES} bytes after its prefix")


def _encoded_integer(number: int, prefix: int, flags: int = 0) -> bytes:
    if number < prefix:
        return bytes((flags | number,))
    octets = bytearray((flags | prefix,))
    number -= prefix
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """The string at ``at``, and where it ends. RFC 7541, 5.2. Raises IndexError at the end of the block."""
    first = block[at]
    length = first & 0x7F
    if length < 0x7F:  # most are that short
        at += 1
    else:
        length, at = _integer(block, at, 0x7F)
    end = at + length
    octets = block[at:end]
    if len(octets) != length:
        raise IndexError
    if first < 0x80:
        return octets, end
    return (_kept_text(octets) if length <= _MAX_KEPT_BYTES else huffman(octets)), end


def huffman(octets: bytes) -> bytes:
    """Decode the static Huffman code, byte by byte. Raises BlockMalformed."""
    steps, state = _STEPS, 0
    text: list[bytes] = []
    add = text.append
    for octet in octets:
        state, symbols = steps[state + octet]
        add(symbols)
    if state not in _PADDING:
        raise BlockMalformed("a Huffman code in a field block does not end in 0 to 7 bits of 1")
    return b"".join(text)


_kept_text = lru_cache(_KEPT_STRINGS)(huffman)  # names and values recur from answer to answer


def _code_tree() -> list[list[int]]:
    """The nodes of the code, each with what follows on a 0 and on a 1: a node, or the complement of a symbol."""
    nodes, code, bits = [[0, 0]], 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(_CODE_BITS)):
        code <<= length - bits
        bits, node = length, 0
        for shift in range(length - 1, 0, -1):
            bit = code >> shift & 1
            if not nodes[node][bit]:
                nodes[node][bit] = len(nodes)
                nodes.append([0, 0])
            node = nodes[node][bit]
        nodes[node][code & 1] = ~symbol
        code += 1
    return nodes


class _Steps(dict[int, tuple[int, bytes]]):
    """The state after the eight bits of a byte, and the symbols that they complete; by the state before plus the byte.

    A state is 256 times a node.
    """

    def __missing__(self, before: int) -> tuple[int, bytes]:
        symbols, node = bytearray(), before >> 8
        for shift in range(7, -1, -1):
            following = _NODES[node][before >> shift & 1]
            if following == ~_EOS:
                raise BlockMalformed("a Huffman code in a field block contains the end-of-string symbol")
            if following < 0:
                symbols.append(~following)
            node = max(following, 0)
        step = self[before] = node << 8, bytes(symbols)
        return step


def _padding_nodes() -> frozenset[int]:
    node, found = 0, [0]
    for _ in range(7):
        node = _NODES[node][1]
        found.append(node << 8)
    return frozenset(found)


_NODES = _code_tree()
_PADDING = _padding_nodes()  # where a string may end: after 0 to 7 bits of 1
_STEPS = _Steps()  # made when needed: at most 2^16
