"""Latency histograms that are cheap to record to, to merge and to send.

`agent.measure.metrics` keeps one per operation and one per stage; a worker keeps one of its event loop's lag. Records
are counted in a dict by HdrHistogram's index (`agent.measure.histograms`), so that an empty histogram takes nothing.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate
from typing import Annotated

from msgspec import Meta, Struct

from agent.measure.histograms import HIGHEST_US, LOWEST_US, decoded, encoded, highest_at, index_of, lowest_at

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


Amount = Annotated[float, Meta(ge=0.0, le=1e12)]

_PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


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
    """A histogram of latencies from 1 µs to 1 h. It takes about 0.1 KiB for each latency that differs in three digits.

    ``clamped`` latencies were outside this range and are recorded as its limit; ``max_us`` and ``total_us`` are in
    whole microseconds.
    """

    __slots__ = ("_counts", "_encoded", "_pending", "_second", "clamped", "max_us", "total_us")

    def __init__(self, *, by_second: bool = False) -> None:
        """With ``by_second``, the caller calls ``take_second`` every second."""
        self.clamped = 0
        self.max_us = 0
        self.total_us = 0
        self._counts: dict[int, int] = {}  # by HdrHistogram's index
        self._pending: dict[int, int] = {}  # by index: not yet in the counts, nor in those of the second
        self._second: dict[int, int] | None = {} if by_second else None  # by index: since the last ``take_second``
        self._encoded: str | None = None

    @classmethod
    def of(cls, text: str) -> Latencies:
        """Decode what ``encoded`` returned. Raises OperatorError.

        ``max_us`` and ``total_us`` have the histogram's precision.
        """
        counts = decoded(text)
        latencies = cls()
        longest = min(HIGHEST_US, highest_at(max(counts))) if counts else 0
        total = sum(min(longest, highest_at(index)) * count for index, count in counts.items())
        latencies.add(counts, clamped=0, max_us=longest, total_us=total)
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
        index = index_of(whole)
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
        last = index_of(round(seconds * 1e6))
        return sum(count for index, count in self._counts.items() if index > last)

    def pour(self) -> None:
        """Add the last records to the counts, so that the next result needs less time."""
        pending = self._pending
        if not pending:
            return
        self._pending = {}
        self._encoded = None
        _add(pending, self._counts)
        if self._second:
            _add(pending, self._second)
        elif self._second is not None:
            self._second = pending

    @property
    def count(self) -> int:
        """The number of latencies recorded."""
        return sum(self._counts.values()) + sum(self._pending.values())

    def add(self, counts: Mapping[int, int], *, clamped: int, max_us: int, total_us: int) -> None:
        """Merge the counts of another histogram, as ``decoded`` returns them. ``take_second`` leaves them out."""
        self.pour()
        _add(counts, self._counts)
        self.clamped += clamped
        self.total_us += total_us
        self.max_us = max(self.max_us, max_us)
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
            self._encoded = encoded(self._counts)
        return self._encoded

    def summary(self) -> LatencySummary:
        """Percentiles, maximum and mean."""
        self.pour()
        if not self._counts:
            return NO_LATENCIES
        indexes = sorted(self._counts)
        up_to = list(accumulate(self._counts[index] for index in indexes))
        p50, p90, p95, p99, p99_9 = (self._percentile_ms(indexes, up_to, percent) for percent in _PERCENTILES)
        return LatencySummary(
            p50, p90, p95, p99, p99_9, self.max_us / _US_PER_MS, self.total_us / up_to[-1] / _US_PER_MS
        )

    def _percentile_ms(self, indexes: Sequence[int], up_to: Sequence[int], percent: float) -> float:
        wanted = max(1, int(percent * up_to[-1] / 100.0 + 0.5))  # as HdrHistogram rounds
        longest = highest_at(indexes[bisect_left(up_to, wanted)])
        # A percentile is the upper edge of its bucket; it must not exceed the longest latency.
        return min(longest, self.max_us) / _US_PER_MS


def _add(counts: Mapping[int, int], to: dict[int, int]) -> None:
    known = to.get
    for index, count in counts.items():
        to[index] = known(index, 0) + count


@cache
def _bucket_at(index: int) -> int:
    """The bucket of the latencies that HdrHistogram counts at ``index``."""
    return bucket_of(max(LOWEST_US, lowest_at(index)))
