"""Counts and latencies of a run, kept while it goes on.

Every exchange comes in here as one record (`agent.net.records`); what comes out is one summary an operation and one
for each way to fail, from which `agent.report` makes its tables and documents. Memory does not grow with the run:
latencies go to one HdrHistogram an operation (about 190 KiB), of a failure only the first example is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from hdrh.histogram import HdrHistogram

from agent.errors import MisuseError
from agent.net.records import OPERATIONS, Exchange, Failure

LOWEST_US = 1
HIGHEST_US = 3_600_000_000  # an hour: far above every time-out of this program
SIGNIFICANT_DIGITS = 3
EXAMPLE_CHARACTERS = 500

_PERCENTILES = (50.0, 90.0, 99.0, 99.9)
_US_PER_MS = 1000.0


@dataclass(frozen=True, slots=True)
class OperationSummary:
    """What one operation came to.

    ``count`` exchanges ended, ``errors`` of them failed. ``rate_per_s`` is ``count`` divided by the seconds between
    the first start and the last end; of one exchange, or where no time passed, there is no rate and it is 0.0.
    ``p50`` to ``mean`` are latencies in ms of the exchanges that succeeded: a failed one counts in ``count`` and
    ``errors`` and its latency is left out, because a quick refusal would flatter a server and a time-out says more of
    our limit than of the server. They are None where none succeeded. Percentiles are within 0.1 %; ``max`` and
    ``mean`` are of the whole microseconds recorded. ``clamped`` latencies lay below 1 µs or above 1 h and were
    recorded at that limit.
    """

    count: int
    errors: int
    rate_per_s: float
    p50: float | None
    p90: float | None
    p99: float | None
    p99_9: float | None
    max: float | None
    mean: float | None
    clamped: int = 0


@dataclass(frozen=True, slots=True)
class FailureSummary:
    """One way in which one operation failed: how often, and the message of the first time, shortened to 500
    characters."""

    operation: str
    kind: str
    count: int
    example: str


class Metrics:
    """The observer that counts. Call it with each `Exchange`; ask it for summaries at any time."""

    def __init__(self) -> None:
        self._tallies: dict[str, _Tally] = {}
        self._failures: dict[tuple[str, str], _FailureTally] = {}

    def __call__(self, exchange: Exchange) -> None:
        """Count one exchange.

        Raises MisuseError, and counts nothing, where its operation is not one of OPERATIONS.
        """
        tally = self._tallies.get(exchange.operation)
        if tally is None:
            tally = self._tallies[_known(exchange.operation)] = _Tally(exchange.started)
        tally.see(exchange.started, exchange.seconds)
        if exchange.failure is None:
            tally.time(exchange.seconds)
        else:
            tally.errors += 1
            self._fail(exchange.operation, exchange.failure)

    def operations(self) -> list[str]:
        """The operations that occurred, in the order of OPERATIONS."""
        return [operation for operation in OPERATIONS if operation in self._tallies]

    def summary(self, operation: str) -> OperationSummary:
        """What ``operation`` has come to so far; of one that did not occur, zeros and no latencies.

        Raises MisuseError where it is not one of OPERATIONS. Takes a ms or two: it walks the whole histogram.
        """
        tally = self._tallies.get(_known(operation))
        if tally is None:
            return OperationSummary(0, 0, 0.0, None, None, None, None, None, None)
        return tally.summary()

    def failures(self) -> list[FailureSummary]:
        """Every way in which an operation failed; the most frequent first, then in the order of OPERATIONS."""
        summaries = [
            FailureSummary(operation, kind, tally.count, tally.example)
            for (operation, kind), tally in self._failures.items()
        ]
        return sorted(summaries, key=lambda each: (-each.count, OPERATIONS.index(each.operation), each.kind))

    def _fail(self, operation: str, failure: Failure) -> None:
        key = (operation, failure.kind)
        tally = self._failures.get(key)
        if tally is None:
            tally = self._failures[key] = _FailureTally(_shortened(failure.message))
        tally.count += 1


class _FailureTally:
    __slots__ = ("count", "example")

    def __init__(self, example: str) -> None:
        self.count = 0
        self.example = example


class _Tally:
    """What is kept of one operation while the run goes on."""

    __slots__ = ("clamped", "count", "errors", "first_start", "histogram", "last_end", "total_us")

    def __init__(self, started: float) -> None:
        self.count = 0
        self.errors = 0
        self.clamped = 0
        self.total_us = 0
        self.first_start = started
        self.last_end = started
        self.histogram = HdrHistogram(LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS)

    def see(self, started: float, seconds: float) -> None:
        self.count += 1
        # Exchanges arrive as they end, so neither the first start nor the last end need come in order.
        if started < self.first_start:
            self.first_start = started
        end = started + seconds
        if end > self.last_end:
            self.last_end = end

    def time(self, seconds: float) -> None:
        micros = seconds * 1e6
        if micros >= LOWEST_US and micros <= HIGHEST_US:
            whole = round(micros)
        else:
            self.clamped += 1
            whole = HIGHEST_US if micros > HIGHEST_US else LOWEST_US
        self.total_us += whole
        self.histogram.record_value(whole)

    def summary(self) -> OperationSummary:
        p50, p90, p99, p99_9, highest, mean = self._latencies()
        return OperationSummary(
            self.count, self.errors, self._rate(), p50, p90, p99, p99_9, highest, mean, self.clamped
        )

    def _rate(self) -> float:
        elapsed = self.last_end - self.first_start
        if self.count < 2 or elapsed <= 0.0:
            return 0.0
        return self.count / elapsed

    def _latencies(self) -> list[float] | list[None]:
        """The four percentiles, the maximum and the mean in ms, or Nones."""
        timed = self.histogram.get_total_count()
        if not timed:
            return [None] * 6
        # A percentile is the upper edge of its bucket; it must not lie above the latency that was the longest.
        highest = self.histogram.max_value
        found = self.histogram.get_percentile_to_value_dict(_PERCENTILES)
        percentiles = [min(found[each], highest) / _US_PER_MS for each in _PERCENTILES]
        return [*percentiles, highest / _US_PER_MS, self.total_us / timed / _US_PER_MS]


def _known(operation: str) -> str:
    if operation not in OPERATIONS:
        raise MisuseError(f"Expected an operation out of {', '.join(OPERATIONS)}; found {operation!r}.")
    return operation


def _shortened(message: str) -> str:
    if len(message) <= EXAMPLE_CHARACTERS:
        return message
    return message[: EXAMPLE_CHARACTERS - 1] + "…"
