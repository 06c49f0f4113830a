"""How long one thing took, every time: an HdrHistogram that is cheap to record to, to merge and to send.

`agent.measure.metrics` keeps one an operation and one a stage; a worker keeps one of its event loop's lag. Python's
HdrHistogram takes microseconds for a record, so records are counted in a dict under HdrHistogram's own index, and
poured into the HdrHistogram when somebody asks. What comes from elsewhere is decoded within bounds.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
import zlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

from hdrh.codec import HdrCookieException, HdrLengthException
from hdrh.histogram import HdrHistogram

from agent.errors import OperatorError

WIDTH = 1.05  # a bucket's upper edge over its lower edge
LARGEST = 450  # the bucket of an hour

_LOG_WIDTH = math.log(WIDTH)
_US_PER_MS = 1000.0


def bucket_of(micros: int) -> int:
    """The bucket of ``micros`` (1 µs to an hour): n holds latencies from WIDTH**n µs to below WIDTH**(n+1)."""
    return int(math.log(micros) / _LOG_WIDTH)


def middle_ms(bucket: int) -> float:
    """The latency that stands for a bucket: its geometric middle, within 2.5 % of everything in it."""
    return math.exp((bucket + 0.5) * _LOG_WIDTH) / _US_PER_MS


def percentile_ms(latencies: Mapping[int, int], percent: float) -> float | None:
    """The percentile of counted buckets, or None of nothing."""
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
HIGHEST_US = 3_600_000_000  # an hour: far above every time-out of this program
SIGNIFICANT_DIGITS = 3
MOST_COUNTED = 1 << 40  # of one histogram that comes from elsewhere: a year of 30,000 a second

_PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
_US_PER_MS = 1000.0

# HdrHistogram's index for three digits from 1 µs: below 2048 µs one a microsecond, above 1024 for each doubling.
# Source: HdrHistogram, countsArrayIndex; a test compares.
_LINEAR_BITS = 11
_DOUBLING_BITS = 10
_COUNTS = 23 * 1024  # up to an hour

_WRAPPING = struct.Struct(">II")  # cookie, length of the rest
_HEADER = struct.Struct(">IIIIQQd")  # cookie, length, offset, digits, lowest, highest, ratio
_MOST_PAYLOAD = _HEADER.size + 9 * _COUNTS  # a count takes nine bytes at most
_MOST_ENCODED = 2 * _MOST_PAYLOAD  # base64 adds a third, zlib next to nothing


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Latencies in ms; None where nothing was recorded.

    Percentiles are within 0.1 % and never above ``max``; ``max`` and ``mean`` are of the whole microseconds recorded.
    """

    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    p99_9: float | None = None
    max: float | None = None
    mean: float | None = None


class Latencies:
    """A histogram of latencies from 1 µs to 1 h; about 190 KiB, however many there are.

    ``clamped`` of them lay outside and count as that limit; ``max_us`` and ``total_us`` are of whole microseconds.
    """

    __slots__ = ("_encoded", "_histogram", "_pending", "_second", "clamped", "max_us", "total_us")

    def __init__(self, *, by_second: bool = False) -> None:
        """With ``by_second``, somebody calls ``take_second`` every second."""
        self.clamped = 0
        self.max_us = 0
        self.total_us = 0
        self._pending: dict[int, int] = {}  # by HdrHistogram's index: what is not yet in the histogram
        self._second: dict[int, int] | None = {} if by_second else None  # by the same: what nobody took yet
        self._histogram: Any = HdrHistogram(LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS)
        self._encoded: str | None = None

    @classmethod
    def of(cls, encoded: str) -> Latencies:
        """What ``encoded`` made; ``max_us`` and ``total_us`` are as near as the histogram is. Raises OperatorError."""
        counts = decoded(encoded)
        latencies = cls()
        histogram = latencies._histogram
        edges = [(histogram.get_value_from_index(index), count) for index, count in enumerate(counts) if count]
        total = sum(histogram.get_highest_equivalent_value(value) * count for value, count in edges)
        highest = min(HIGHEST_US, histogram.get_highest_equivalent_value(edges[-1][0])) if edges else 0
        latencies.add(counts, clamped=0, max_us=highest, total_us=min(total, highest * sum(counts)))
        return latencies

    def record(self, seconds: float) -> None:
        """Count one latency."""
        micros = seconds * 1e6
        if LOWEST_US <= micros <= HIGHEST_US:
            whole = round(micros)
        else:  # also what is not a number
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
        """Count a wait of ``seconds`` as somebody who asks every ``interval`` (s) during it sees it: one of the whole
        length, and those of what was left of it each time.

        Source: HdrHistogram, recordValueWithExpectedInterval: its correction for coordinated omission.
        """
        left = min(seconds, HIGHEST_US / 1e6)
        self.record(left)
        while (left := left - interval) >= interval:
            self.record(left)

    def count_over(self, seconds: float) -> int:
        """How many are longer, as exactly as the histogram is."""
        self.pour()
        return int(sum(self._histogram.counts[index_of(round(seconds * 1e6)) + 1 :]))

    def pour(self) -> None:
        """Put into the histogram what was recorded, so that the next question is answered sooner."""
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
        """How many were recorded."""
        return int(self._histogram.total_count) + sum(self._pending.values())

    def add(self, counts: Sequence[int], *, clamped: int, max_us: int, total_us: int) -> None:
        """Merge what another one counted, as ``decoded`` gives it. It belongs to no second."""
        self.pour()
        own = self._histogram.counts
        for index, count in enumerate(counts):
            if count:
                own[index] += count
        self._histogram.total_count += sum(counts)
        self.clamped += clamped
        self.total_us += total_us
        self.max_us = self._histogram.max_value = max(self.max_us, max_us)
        self._encoded = None

    def take_second(self) -> dict[int, int]:
        """How many latencies in each bucket of `agent.measure.latencies` since the last call; those merged left out."""
        self.pour()
        buckets: dict[int, int] = {}
        if self._second:
            for index, count in self._second.items():
                bucket = _bucket_at(index)
                buckets[bucket] = buckets.get(bucket, 0) + count
            self._second = {}
        return buckets

    def encoded(self) -> str:
        """HdrHistogram's own encoding (V2, compressed, base64), in µs."""
        self.pour()
        if self._encoded is None:
            self._encoded = self._histogram.encode().decode("ascii")
        return self._encoded

    def summary(self) -> LatencySummary:
        """The percentiles and so on. Takes a millisecond: it walks the whole histogram."""
        self.pour()
        histogram = self._histogram
        timed = histogram.total_count
        if not timed:
            return LatencySummary()
        up_to = list(accumulate(histogram.counts))
        p50, p90, p95, p99, p99_9 = (self._percentile_ms(up_to, percent) for percent in _PERCENTILES)
        return LatencySummary(p50, p90, p95, p99, p99_9, self.max_us / _US_PER_MS, self.total_us / timed / _US_PER_MS)

    def _percentile_ms(self, up_to: list[int], percent: float) -> float:
        histogram = self._histogram
        index = bisect_left(up_to, histogram.get_target_count_at_percentile(percent))
        value = int(histogram.get_highest_equivalent_value(histogram.get_value_from_index(index)))
        # A percentile is the upper edge of its bucket; it must not lie above the latency that was the longest.
        return min(value, self.max_us) / _US_PER_MS


@cache
def _bucket_at(index: int) -> int:
    """The bucket for what HdrHistogram counts at ``index``."""
    doubling = max(0, (index >> _DOUBLING_BITS) - 1)
    micros = (index - (doubling << _DOUBLING_BITS)) << doubling
    return bucket_of(max(LOWEST_US, micros))


def index_of(micros: int) -> int:
    """Where HdrHistogram counts ``micros``."""
    doubling = micros.bit_length() - _LINEAR_BITS
    return micros if doubling <= 0 else (doubling << _DOUBLING_BITS) + (micros >> doubling)


def decoded(encoded: str) -> list[int]:
    """The counts of an encoded histogram by HdrHistogram's index.

    Raises OperatorError for what is not HdrHistogram's encoding, has other settings than ours or is too large.
    """
    try:
        return _decoded(encoded)
    except (ValueError, IndexError, OverflowError, zlib.error, HdrCookieException, HdrLengthException) as error:
        raise OperatorError(
            f"Expected a histogram in HdrHistogram's encoding (V2, base64; {LOWEST_US} to {HIGHEST_US} µs, "
            f"{SIGNIFICANT_DIGITS} digits); found something else: {error or type(error).__name__}."
        ) from error


def _decoded(encoded: str) -> list[int]:
    if len(encoded) > _MOST_ENCODED:
        raise ValueError(f"{len(encoded)} characters, {_MOST_ENCODED} are the most")
    try:
        octets = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error
    if len(octets) < _WRAPPING.size:
        raise ValueError("it is cut short")
    _check_payload(octets[_WRAPPING.size :])
    counts: list[int] = HdrHistogram.decode(encoded).counts[:]
    if sum(counts) > MOST_COUNTED or any(counts[index_of(HIGHEST_US) + 1 :]):
        raise ValueError(f"it counts more than {MOST_COUNTED}, or what took longer than {HIGHEST_US} µs")
    return counts


def _check_payload(compressed: bytes) -> None:
    """The library trusts the stream: it unpacks whatever it becomes and makes as many counts as the header asks for."""
    stream = zlib.decompressobj()
    payload = stream.decompress(compressed, _MOST_PAYLOAD + 1)
    if len(payload) > _MOST_PAYLOAD or not stream.eof or stream.unused_data:
        raise ValueError("it is cut short, too long, or something follows it")
    if len(payload) < _HEADER.size:
        raise ValueError("it is cut short")
    settings = _HEADER.unpack_from(payload)
    if settings[2:6] != (0, SIGNIFICANT_DIGITS, LOWEST_US, HIGHEST_US):
        raise ValueError("it has other settings")
