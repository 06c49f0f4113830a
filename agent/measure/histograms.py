"""HdrHistogram's counts and their encoding (V2, compressed, base64), which its libraries and tools read.

Latencies are counted by index: one for each microsecond below 2048 µs, then 1024 for each doubling, so that three
digits are kept. Only what was counted is held. Encoded histograms of other processes and of files are decoded within
bounds.

Source: HdrHistogram, ``countsArrayIndex`` and ``encodeIntoCompressedByteBuffer``; tests compare with its library.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Mapping
from functools import lru_cache

from agent.errors import OperatorError

LOWEST_US = 1
HIGHEST_US = 3_600_000_000  # 1 h: far above every time limit of this program
SIGNIFICANT_DIGITS = 3
MOST_COUNTED = 1 << 40  # of one decoded histogram: a year at 30,000 per second

_LINEAR_BITS = 11
_DOUBLING_BITS = 10

_WRAPPING = struct.Struct(">II")  # cookie, length of the rest
_HEADER = struct.Struct(">IIIIQQd")  # cookie, length of the counts, offset, digits, lowest, highest, ratio
_WRAPPING_COOKIE, _HEADER_COOKIE = 0x1C849314, 0x1C849313
_LAST_SHIFT = 56  # of a number's ninth octet, which has eight bits


def index_of(micros: int) -> int:
    """The index of ``micros``."""
    doubling = micros.bit_length() - _LINEAR_BITS
    return micros if doubling <= 0 else (doubling << _DOUBLING_BITS) + (micros >> doubling)


def lowest_at(index: int) -> int:
    """The shortest latency in µs that is counted at ``index``."""
    doubling = _doubling_at(index)
    return (index - (doubling << _DOUBLING_BITS)) << doubling


def highest_at(index: int) -> int:
    """The longest latency in µs that is counted at ``index``."""
    doubling = _doubling_at(index)
    return ((index - (doubling << _DOUBLING_BITS) + 1) << doubling) - 1


def _doubling_at(index: int) -> int:
    return max(0, (index >> _DOUBLING_BITS) - 1)


_LAST_INDEX = index_of(HIGHEST_US)
_MOST_PAYLOAD = _HEADER.size + 9 * (_LAST_INDEX + 1)  # a count takes nine octets at most
_MOST_ENCODED = 2 * _MOST_PAYLOAD  # base64 adds a third, zlib next to nothing


def encoded(counts: Mapping[int, int]) -> str:
    """The counts by index, each at least 1, in HdrHistogram's encoding."""
    parts = []
    after = 0  # the index after the last count
    for index in sorted(counts):
        if index > after:
            parts.append(_number(2 * (index - after) - 1))  # a run of zeros is its negative length
        parts.append(_number(2 * counts[index]))
        after = index + 1
    numbers = b"".join(parts)
    settings = len(numbers), 0, SIGNIFICANT_DIGITS, LOWEST_US, HIGHEST_US, 1.0
    compressed = zlib.compress(_HEADER.pack(_HEADER_COOKIE, *settings) + numbers)
    return base64.b64encode(_WRAPPING.pack(_WRAPPING_COOKIE, len(compressed)) + compressed).decode("ascii")


@lru_cache(8192)
def _number(zigzag: int) -> bytes:
    """LEB128 of a number's zigzag form. A count below 2**40 takes no ninth octet."""
    octets = bytearray()
    while zigzag > 0x7F:
        octets.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    octets.append(zigzag)
    return bytes(octets)


def decoded(text: str) -> dict[int, int]:
    """The counts of an encoded histogram by index, in ascending order and without zeros.

    Raises OperatorError if it is not HdrHistogram's encoding, has other settings than ours or is too large.
    """
    try:
        return _counts(_numbers(text))
    except (ValueError, zlib.error) as error:
        raise OperatorError(
            f"Expected a histogram in HdrHistogram's encoding (V2, base64; {LOWEST_US} to {HIGHEST_US} µs, "
            f"{SIGNIFICANT_DIGITS} digits), found something else: {error}."
        ) from error


def _numbers(text: str) -> bytes:
    """The encoded numbers, without the headers. Raises ValueError, zlib.error."""
    if len(text) > _MOST_ENCODED:
        raise ValueError(f"{len(text)} characters exceed the maximum of {_MOST_ENCODED}")
    try:
        octets = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if len(octets) < _WRAPPING.size:
        raise ValueError("it is truncated")
    cookie, length = _WRAPPING.unpack_from(octets)
    if cookie != _WRAPPING_COOKIE or length != len(octets) - _WRAPPING.size:
        raise ValueError(f"cookie {cookie:#x}, length {length} of {len(octets) - _WRAPPING.size}")
    stream = zlib.decompressobj()
    payload = stream.decompress(octets[_WRAPPING.size :], _MOST_PAYLOAD + 1)
    if not _HEADER.size <= len(payload) <= _MOST_PAYLOAD or not stream.eof or stream.unused_data:
        raise ValueError("it is truncated, too long, or followed by other data")
    cookie, length, *settings, _ratio = _HEADER.unpack_from(payload)
    if cookie != _HEADER_COOKIE or length != len(payload) - _HEADER.size:
        raise ValueError(f"cookie {cookie:#x}, length {length} of {len(payload) - _HEADER.size}")
    if settings != [0, SIGNIFICANT_DIGITS, LOWEST_US, HIGHEST_US]:
        raise ValueError("it has other settings")
    return payload[_HEADER.size :]


def _counts(numbers: bytes) -> dict[int, int]:
    """Raises ValueError."""
    counts: dict[int, int] = {}
    index = counted = zigzag = shift = 0
    for octet in numbers:
        if octet > 0x7F and shift < _LAST_SHIFT:
            zigzag |= (octet & 0x7F) << shift
            shift += 7
            continue
        zigzag |= octet << shift
        if zigzag & 1:
            index += (zigzag + 1) >> 1  # a run of zeros
        else:
            if zigzag:
                counts[index] = zigzag >> 1
                counted += zigzag >> 1
            index += 1
        zigzag = shift = 0
    if shift:
        raise ValueError("it is truncated")
    if counted > MOST_COUNTED or index > _LAST_INDEX + 1:
        raise ValueError(f"it counts more than {MOST_COUNTED} latencies, or latencies above {HIGHEST_US} µs")
    return counts
