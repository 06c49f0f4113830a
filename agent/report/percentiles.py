"""Latencies by percentile from the histograms of the results: a curve, and the confidence interval of a percentile.

The curve's x is 1 / (1 - q), for a logarithmic axis as in HdrHistogram's own plots: 90 %, 99 %, 99.9 % are at equal
distances. The curve ends at the longest latency: the run has no data beyond it.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import NamedTuple

from agent.measure.histograms import decoded, highest_at

PERCENTILES = (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99_9", 0.999))
LEAST_BEYOND = 10  # our choice: with fewer latencies beyond it, a percentile is mostly chance

DEVIATIONS = 2.0  # on either side: about 95 %
POINTS_PER_DECADE = 60  # of 1 / (1 - q): closer than any screen shows

_STEP = 10.0 ** (1.0 / POINTS_PER_DECADE)


def enough(latencies: int, share: float) -> bool:
    """Whether this number of latencies suffices for the percentile of ``share``, such as 0.99 (see LEAST_BEYOND)."""
    return latencies * (1.0 - share) >= LEAST_BEYOND - 1e-9


class Point(NamedTuple):
    """``x`` is 1 / (1 - q); ``seconds`` is the quantile of q."""

    x: float
    seconds: float


class Spread(NamedTuple):
    """The confidence interval of a percentile in seconds (see DEVIATIONS)."""

    low: float
    high: float


class Distribution:
    """The latencies of one operation or stage."""

    def __init__(self, encoded: str) -> None:
        """``encoded`` is a histogram of the results. Raises OperatorError if it is not."""
        counts = decoded(encoded)
        self._seconds = [highest_at(index) / 1e6 for index in counts]
        self._up_to = list(accumulate(counts.values()))

    @property
    def total(self) -> int:
        """The number of latencies."""
        return self._up_to[-1] if self._up_to else 0

    def curve(self) -> list[Point]:
        """The curve, thinned to POINTS_PER_DECADE; empty without latencies."""
        points: list[Point] = []
        least = 1.0
        for seconds, up_to in zip(self._seconds, self._up_to, strict=True):
            if not points:
                points.append(Point(1.0, seconds))
            beyond = self.total - up_to
            x = self.total / max(beyond, 1)
            if x >= least or not beyond:
                points.append(Point(x, seconds))
                least = x * _STEP
        return points

    def spread(self, share: float) -> Spread | None:
        """The confidence interval of the percentile of ``share``; None if there are too few latencies.

        The number of latencies below the true percentile is binomial, with the mean total times share.
        Source: the order-statistic interval of a quantile, Hahn and Meeker, Statistical Intervals, 5.2.
        """
        middle = self.total * share
        around = DEVIATIONS * (middle * (1 - share)) ** 0.5
        if middle - around < 1 or middle + around > self.total:
            return None
        return Spread(self._at(middle - around), self._at(middle + around))

    def _at(self, rank: float) -> float:
        return self._seconds[bisect_left(self._up_to, rank)]
