"""Latency histograms that are cheap to record to, to merge and to send.

`agent.measure.metrics` keeps one per operation and one per stage; a worker keeps one of its event loop's lag. Python's
HdrHistogram takes microseconds per record, so records are counted in a dict by HdrHistogram's index and transferred to
the HdrHistogram when a result is requested. Histograms of other processes and of files are decoded within bounds.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate, compress
from typing import Annotated, Any

from hdrh.codec import HdrCookieException, HdrLengthException
from hdrh.histogram import HdrHistogram
from msgspec import Meta, Struct

from agent.errors import OperatorError

WIDTH = 1.05  # a bucket's upper edge over its lower edge
LARGEST = 450  # the bucket of an hour

_LOG_WIDTH = math.log(WIDTH)
_US_PER_MS = 1000.0


def bucket_of(micros: int) -> int:
    """The bucket of ``micros`` (1 µs to 1 h): bucket n holds latencies from WIDTH**n µs to below WIDTH**(n+1)."""
    return int(math.log(micros) / _LOG_WIDTH)


def middle_ms(bucket: int) -> float:
    """The geometric middle of a bucket in ms: within 2.5 % of every latency in it."""
    return math.exp((bucket + 0.5) * _LOG_WIDTH) / _US_PER_MS


def percentile_ms(latencies: Mapping[int, int], percent: float) -> float | None:
    """The percentile of latencies counted by bucket, in ms; None if there are none."""
    total = sum(latencies.values())
    if not total:
        return None
    wanted = max(1, int(percent * total / 100.0 + 0.5))  # as HdrHistogram rounds
    seen = 0
    for bucket in sorted(latencies):
        seen += latencies[bucket]
        if seen >= wanted:
            break
    return middle_ms(bucket)


LOWEST_US = 1
HIGHEST_US = 3_600_000_000  # 1 h: far above every time limit of this program
SIGNIFICANT_DIGITS = 3
MOST_COUNTED = 1 << 40  # of one decoded histogram: a year at 30,000 per second

Amount = Annotated[float, Meta(ge=0.0, le=1e12)]

_PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)

# HdrHistogram's index for three digits from 1 µs: below 2048 µs one per microsecond, above 1024 per doubling.
# Source: HdrHistogram, countsArrayIndex; a test compares the two.
_LINEAR_BITS = 11
_DOUBLING_BITS = 10
_COUNTS = 23 * 1024  # up to an hour

_WRAPPING = struct.Struct(">II")  # cookie, length of the rest
_HEADER = struct.Struct(">IIIIQQd")  # cookie, length, offset, digits, lowest, highest, ratio
_MOST_PAYLOAD = _HEADER.size + 9 * _COUNTS  # a count takes nine bytes at most
_MOST_ENCODED = 2 * _MOST_PAYLOAD  # base64 adds a third, zlib next to nothing


class LatencySummary(Struct, frozen=True):
    """Latencies in ms; None if nothing was recorded.

    Percentiles are within 0.1 % and never above ``max``; ``max`` and ``mean`` are of the whole microseconds recorded.
    """

    p50: Amount | None
    p90: Amount | None
    p95: Amount | None
    p99: Amount | None
    p99_9: Amount | None
    max: Amount | None
    mean: Amount | None


NO_LATENCIES = LatencySummary(None, None, None, None, None, None, None)


class Latencies:
    """A histogram of latencies from 1 µs to 1 h. It takes about 190 KiB for any number of latencies.

    ``clamped`` latencies were outside this range and are recorded as its limit; ``max_us`` and ``total_us`` are in
    whole microseconds.
    """

    __slots__ = ("_encoded", "_histogram", "_pending", "_second", "clamped", "max_us", "total_us")

    def __init__(self, *, by_second: bool = False) -> None:
        """With ``by_second``, the caller calls ``take_second`` every second."""
        self.clamped = 0
        self.max_us = 0
        self.total_us = 0
        self._pending: dict[int, int] = {}  # by HdrHistogram's index: not yet in the histogram
        self._second: dict[int, int] | None = {} if by_second else None  # by index: since the last ``take_second``
        self._histogram: Any = HdrHistogram(LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS)
        self._encoded: str | None = None

    @classmethod
    def of(cls, encoded: str) -> Latencies:
        """Decode ``encoded``; ``max_us`` and ``total_us`` have the histogram's precision. Raises OperatorError."""
        counts = decoded(encoded)
        latencies = cls()
        histogram = latencies._histogram
        edges = [(histogram.get_value_from_index(index), counts[index]) for index in filled(counts)]
        total = sum(histogram.get_highest_equivalent_value(value) * count for value, count in edges)
        highest = min(HIGHEST_US, histogram.get_highest_equivalent_value(edges[-1][0])) if edges else 0
        latencies.add(counts, clamped=0, max_us=highest, total_us=min(total, highest * sum(counts)))
        return latencies

    def record(self, seconds: float) -> None:
        """Count one latency."""
        micros = seconds * 1e6
        if LOWEST_US <= micros <= HIGHEST_US:
            whole = round(micros)
        else:  # also NaN
            self.clamped += 1
            whole = HIGHEST_US if micros > HIGHEST_US else LOWEST_US
        self.total_us += whole
        if whole > self.max_us:
            self.max_us = whole
        doubling = whole.bit_length() - _LINEAR_BITS
        index = whole if doubling <= 0 else (doubling << _DOUBLING_BITS) + (whole >> doubling)
        pending = self._pending
        try:
            pending[index] += 1
        except KeyError:
            pending[index] = 1

    def record_stall(self, seconds: float, interval: float) -> None:
        """Count a wait of ``seconds`` as requests that arrive every ``interval`` seconds see it: once in its whole
        length, and once for the remainder at each request.

        Source: HdrHistogram, recordValueWithExpectedInterval, its correction for coordinated omission.
        """
        left = min(seconds, HIGHEST_US / 1e6)
        self.record(left)
        while (left := left - interval) >= interval:
            self.record(left)

    def count_over(self, seconds: float) -> int:
        """The number of longer latencies, with the histogram's precision."""
        self.pour()
        return int(sum(self._histogram.counts[index_of(round(seconds * 1e6)) + 1 :]))

    def pour(self) -> None:
        """Transfer the records to the histogram, so that the next result needs less time."""
        pending = self._pending
        if not pending:
            return
        self._pending = {}
        histogram = self._histogram
        counts = histogram.counts
        for index, count in pending.items():
            counts[index] += count
        histogram.total_count += sum(pending.values())
        histogram.max_value = self.max_us
        self._encoded = None
        if self._second:
            for index, count in pending.items():
                self._second[index] = self._second.get(index, 0) + count
        elif self._second is not None:
            self._second = pending

    @property
    def count(self) -> int:
        """The number of latencies recorded."""
        return int(self._histogram.total_count) + sum(self._pending.values())

    def add(self, counts: Sequence[int], *, clamped: int, max_us: int, total_us: int) -> None:
        """Merge the counts of another histogram, as ``decoded`` returns them. ``take_second`` leaves them out."""
        self.pour()
        own = self._histogram.counts
        for index in filled(counts):
            own[index] += counts[index]
        self._histogram.total_count += sum(counts)
        self.clamped += clamped
        self.total_us += total_us
        self.max_us = self._histogram.max_value = max(self.max_us, max_us)
        self._encoded = None

    def take_second(self) -> dict[int, int]:
        """The number of latencies by ``bucket_of`` since the last call, without merged ones."""
        self.pour()
        buckets: dict[int, int] = {}
        if self._second:
            for index, count in self._second.items():
                bucket = _bucket_at(index)
                buckets[bucket] = buckets.get(bucket, 0) + count
            self._second = {}
        return buckets

    def encoded(self) -> str:
        """HdrHistogram's encoding (V2, compressed, base64), in µs."""
        self.pour()
        if self._encoded is None:
            self._encoded = self._histogram.encode().decode("ascii")
        return self._encoded

    def summary(self) -> LatencySummary:
        """Percentiles, maximum and mean. Takes about 1 ms: it walks the whole histogram."""
        self.pour()
        histogram = self._histogram
        timed = histogram.total_count
        if not timed:
            return NO_LATENCIES
        up_to = list(accumulate(histogram.counts[:]))  # a copy: ctypes makes an array's items one by one
        p50, p90, p95, p99, p99_9 = (self._percentile_ms(up_to, percent) for percent in _PERCENTILES)
        return LatencySummary(p50, p90, p95, p99, p99_9, self.max_us / _US_PER_MS, self.total_us / timed / _US_PER_MS)

    def _percentile_ms(self, up_to: list[int], percent: float) -> float:
        histogram = self._histogram
        index = bisect_left(up_to, histogram.get_target_count_at_percentile(percent))
        value = int(histogram.get_highest_equivalent_value(histogram.get_value_from_index(index)))
        # A percentile is the upper edge of its bucket; it must not exceed the longest latency.
        return min(value, self.max_us) / _US_PER_MS


@cache
def _bucket_at(index: int) -> int:
    """The bucket of the latencies that HdrHistogram counts at ``index``."""
    doubling = max(0, (index >> _DOUBLING_BITS) - 1)
    micros = (index - (doubling << _DOUBLING_BITS)) << doubling
    return bucket_of(max(LOWEST_US, micros))


def index_of(micros: int) -> int:
    """HdrHistogram's index of ``micros``."""
    doubling = micros.bit_length() - _LINEAR_BITS
    return micros if doubling <= 0 else (doubling << _DOUBLING_BITS) + (micros >> doubling)


def filled(counts: Sequence[int]) -> Iterator[int]:
    """The indexes at which something is counted: a few of thousands, found at the speed of C."""
    return compress(range(len(counts)), counts)


def decoded(encoded: str) -> list[int]:
    """The counts of an encoded histogram by HdrHistogram's index.

    Raises OperatorError if it is not HdrHistogram's encoding, has other settings than ours or is too large.
    """
    try:
        return _decoded(encoded)
    except (ValueError, IndexError, OverflowError, zlib.error, HdrCookieException, HdrLengthException) as error:
        raise OperatorError(
            f"Expected a histogram in HdrHistogram's encoding (V2, base64; {LOWEST_US} to {HIGHEST_US} µs, "
            f"{SIGNIFICANT_DIGITS} digits), found something else: {error or type(error).__name__}."
        ) from error


def _decoded(encoded: str) -> list[int]:
    if len(encoded) > _MOST_ENCODED:
        raise ValueError(f"{len(encoded)} characters exceed the maximum of {_MOST_ENCODED}")
    try:
        octets = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if len(octets) < _WRAPPING.size:
        raise ValueError("it is truncated")
    _check_payload(octets[_WRAPPING.size :])
    counts: list[int] = HdrHistogram.decode(encoded).counts[:]
    if sum(counts) > MOST_COUNTED or any(counts[index_of(HIGHEST_US) + 1 :]):
        raise ValueError(f"it counts more than {MOST_COUNTED} latencies, or latencies above {HIGHEST_US} µs")
    return counts


def _check_payload(compressed: bytes) -> None:
    """Bound what the library does not: the size of the decompressed stream and the settings in its header."""
    stream = zlib.decompressobj()
    payload = stream.decompress(compressed, _MOST_PAYLOAD + 1)
    if len(payload) > _MOST_PAYLOAD or not stream.eof or stream.unused_data:
        raise ValueError("it is truncated, too long, or followed by other data")
    if len(payload) < _HEADER.size:
        raise ValueError("it is truncated")
    settings = _HEADER.unpack_from(payload)
    if settings[2:6] != (0, SIGNIFICANT_DIGITS, LOWEST_US, HIGHEST_US):
        raise ValueError("it has other settings")
