"""Coarse buckets of latencies, for the time line: 5 % wide, so that a second of an operation is a few dozen numbers.

Exact latencies are kept in `agent.load.latencies`; `agent.load.timeline` merges these and reads percentiles from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

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
