"""The time line as series of at most 1,500 points, so that a browser can draw a run of hours.

Neighbouring seconds become one interval; all intervals have the same length. Rates are the mean of the seconds that
were reported. p99, lag, CPU, connections and waiting pushes are those of the worst second. The interval's p50 is the
median of the seconds' p50, weighted by their latencies; the Macs of a state are the mean, so that the states still add
up to the fleet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from agent.measure.timeline import Second, SecondOfOperation

MOST_POINTS = 1500

_WIDTHS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)

Points = list[float | None]


class OperationSeries(msgspec.Struct, frozen=True):
    """One operation over time. Latencies are in seconds, the others per second; None if unknown."""

    per_s: Points
    errors_per_s: Points
    p50: Points
    p99: Points


class Series(msgspec.Struct, frozen=True):
    """A time line in ``length`` intervals of ``width`` seconds, from second 0 on."""

    width: int
    length: int
    operations: dict[str, OperationSeries]
    macs: dict[str, Points]
    connections: Points
    pushes_waiting: Points
    lag: Points  # seconds
    cpu: Points  # a share of one core

    @property
    def seconds(self) -> int:
        """The time that the series cover."""
        return self.width * self.length


def series(timeline: Sequence[Second], most: int = MOST_POINTS) -> Series:
    """The series of a time line. Its rows may be in any order and have gaps."""
    end = max((row.t for row in timeline), default=-1) + 1
    width = interval(end, most)
    length = -(-end // width)
    rows: list[list[Second]] = [[] for _ in range(length)]
    for row in timeline:
        rows[row.t // width].append(row)
    names = dict.fromkeys(name for row in timeline for name in row.operations)
    states = dict.fromkeys(state for row in timeline for state in row.macs)
    return Series(
        width,
        length,
        {name: _operation(name, rows) for name in names},
        {state: [_mean([row.macs.get(state, 0) for row in each]) for each in rows] for state in states},
        _worst(rows, lambda row: row.connections),
        _worst(rows, lambda row: row.pushes_waiting),
        _worst(rows, lambda row: None if row.lag_ms is None else row.lag_ms / 1000),
        _worst(rows, lambda row: row.cpu),
    )


def interval(seconds: int, most: int = MOST_POINTS) -> int:
    """The seconds per point for at most ``most`` points: 1, 2, 5, … seconds, minutes or hours."""
    for width in _WIDTHS:
        if seconds <= width * most:
            return width
    hours = -(-seconds // (_WIDTHS[-1] * most))
    return hours * _WIDTHS[-1]


def _operation(name: str, rows: list[list[Second]]) -> OperationSeries:
    nothing = SecondOfOperation(0, 0, None, None)
    reported = [[row.operations.get(name, nothing) for row in each] for each in rows]
    return OperationSeries(
        [_mean([second.count for second in each]) for each in reported],
        [_mean([second.errors for second in each]) for each in reported],
        [_in_seconds(_middle(each)) for each in reported],
        [_in_seconds(_largest(second.p99_ms for second in each)) for each in reported],
    )


def _worst(rows: list[list[Second]], of: Callable[[Second], float | None]) -> Points:
    return [_largest(of(row) for row in each) for each in rows]


def _largest(numbers: Iterable[float | None]) -> float | None:
    return max((number for number in numbers if number is not None), default=None)


def _mean(numbers: Sequence[float]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None


def _middle(seconds: list[SecondOfOperation]) -> float | None:
    """The median of the p50, weighted by the latencies of their second."""
    weighed = sorted(
        (second.p50_ms, max(1, second.count - second.errors)) for second in seconds if second.p50_ms is not None
    )
    half = sum(weight for _, weight in weighed) / 2
    for p50, weight in weighed:
        half -= weight
        if half <= 0:
            return p50
    return None


def _in_seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000
