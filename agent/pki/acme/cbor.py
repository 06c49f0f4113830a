"""CBOR (RFC 8949) as an attestation object needs it: unsigned integers, strings, arrays, maps with text keys.

Written in the deterministic encoding (RFC 8949, 4.2.1); read within limits, and only what is encoded in that way.
"""

from __future__ import annotations

from agent.pki.acme.errors import ACMEError

CBOR = int | bytes | str | list["CBOR"] | dict[str, "CBOR"]

MAX_DEPTH = 8
MAX_ITEMS = 256  # in one document

_UNSIGNED, _BYTES, _TEXT, _ARRAY, _MAP = 0, 2, 3, 4, 5  # major types


def dump_cbor(value: CBOR) -> bytes:
    """The deterministic encoding of a value: shortest lengths, maps sorted by their encoded keys."""
    match value:
        case int():
            return _head(_UNSIGNED, value)
        case bytes():
            return _head(_BYTES, len(value)) + value
        case str():
            encoded = value.encode()
            return _head(_TEXT, len(encoded)) + encoded
        case list():
            return _head(_ARRAY, len(value)) + b"".join(map(dump_cbor, value))
        case dict():
            items = sorted((dump_cbor(key), dump_cbor(item)) for key, item in value.items())
            return _head(_MAP, len(items)) + b"".join(key + item for key, item in items)


def load_cbor(octets: bytes) -> CBOR:
    """The value of a document. Raises ACMEError where it is malformed, too large, or not of these types."""
    reader = _Reader(octets)
    value = reader.value(0)
    if reader.offset != len(octets):
        raise ACMEError(f"{len(octets) - reader.offset} bytes follow the CBOR value")
    return value


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes((major << 5 | argument,))
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << 8 * size:
            return bytes((major << 5 | code,)) + argument.to_bytes(size, "big")
    raise ValueError(f"expected a number below 2**64, found {argument}")


class _Reader:
    def __init__(self, octets: bytes) -> None:
        self.offset = 0
        self._octets = octets
        self._items = 0

    def value(self, depth: int) -> CBOR:
        self._items += 1
        if depth > MAX_DEPTH or self._items > MAX_ITEMS:
            raise ACMEError(f"expected at most {MAX_ITEMS} CBOR values in {MAX_DEPTH} levels, found more")
        major, argument = self._head()
        match major:
            case 0:
                return argument
            case 2:
                return self._take(argument)
            case 3:
                return self._text(argument)
            case 4:
                return [self.value(depth + 1) for _ in range(self._count(argument))]
            case 5:
                return self._map(self._count(argument), depth)
        raise ACMEError(f"expected an integer, a string, an array or a map in CBOR, found the major type {major}")

    def _map(self, count: int, depth: int) -> dict[str, CBOR]:
        found: dict[str, CBOR] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if not isinstance(key, str) or key in found:
                raise ACMEError(f"expected different texts as the keys of a CBOR map, found {key!r:.40}")
            found[key] = self.value(depth + 1)
        return found

    def _head(self) -> tuple[int, int]:
        first = self._take(1)[0]
        major, short = first >> 5, first & 31
        if short < 24:
            return major, short
        if short > 27:
            raise ACMEError("expected a definite length in CBOR, found another one")
        argument = int.from_bytes(self._take(1 << short - 24), "big")
        if argument < 24 or (short > 24 and argument < 1 << 8 * (1 << short - 25)):
            raise ACMEError("expected the shortest form of a number in CBOR, found a longer one")
        return major, argument

    def _count(self, argument: int) -> int:
        if argument > MAX_ITEMS:
            raise ACMEError(f"expected at most {MAX_ITEMS} values in a CBOR container, found {argument:,}")
        return argument

    def _text(self, size: int) -> str:
        try:
            return self._take(size).decode()
        except UnicodeDecodeError as error:
            raise ACMEError("expected UTF-8 in a CBOR text, found other bytes") from error

    def _take(self, size: int) -> bytes:
        taken = self._octets[self.offset : self.offset + size]
        if len(taken) != size:
            raise ACMEError(f"the CBOR value is cut short: it has {len(taken)} of {size} bytes")
        self.offset += size
        return taken
