"""What metrics say: of each operation and stage what it came to, and of what failed, was cut short or dropped, why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OperationSummary:
    """What one operation came to.

    ``count`` ended by themselves, ``errors`` of them failed. ``rate_per_s`` is ``count`` divided by the seconds between
    the first start and the last end; of one exchange, or where no time passed, there is no rate and it is 0.0.
    ``p50`` to ``mean`` are latencies in ms of those that succeeded, and of the ``timed_out`` that failed because their
    time was over: without these a server that stops answering would have the latencies of its good days. Any other
    failure is left out, because a quick refusal would flatter a server. They are None where there is no such latency.
    Percentiles are within 0.1 %; ``max`` and ``mean`` are of the whole microseconds recorded. ``clamped`` latencies lay
    below 1 µs or above 1 h and were recorded at that limit. ``late`` ones started well after they were due; ``dropped``
    ones never started. ``cut_short`` ones were ended by this program itself, and ``open`` ones have not ended; neither
    is in ``count``.
    """

    count: int
    errors: int
    rate_per_s: float
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    p99_9: float | None
    max: float | None
    mean: float | None
    clamped: int = 0
    late: int = 0
    dropped: int = 0
    timed_out: int = 0
    cut_short: int = 0
    open: int = 0

    @property
    def started(self) -> int:
        """How many were begun: those that succeeded, failed, were cut short, or go on."""
        return self.count + self.cut_short + self.open


@dataclass(frozen=True, slots=True)
class StageSummary:
    """What one stage of the operations came to: how often it went well, and how long that took, in ms."""

    count: int
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    p99_9: float | None
    max: float | None
    mean: float | None
    clamped: int = 0


@dataclass(frozen=True, slots=True)
class FailureSummary:
    """One way in which one operation failed: how often, and the message of the one that was due first, shortened to
    500 characters."""

    operation: str
    kind: str
    count: int
    example: str


@dataclass(frozen=True, slots=True)
class DropSummary:
    """One reason for which an operation never started, and how often."""

    operation: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class CutSummary:
    """One reason for which an operation was cut short, and how often."""

    operation: str
    reason: str
    count: int
