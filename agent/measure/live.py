"""The current state of a run for the terminal and for Prometheus, once a second.

The conductor makes it from the rows of its shards; `agent.report.terminal` and `agent.service.prometheus` show it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from agent.measure.latencies import percentile_ms


class PhaseState(msgspec.Struct, array_like=True):
    """The progress of one phase in one shard, or in several together."""

    planned: int = 0
    """Operations to do, an expectation while arrivals are random; 0 until the phase starts."""
    started: int = 0
    done: int = 0
    """Operations that succeeded or failed."""
    failed: int = 0
    late: int = 0
    """Operations that started over 100 ms after they were due."""
    dropped: int = 0
    """Operations that were due and never started."""
    finished: bool = False
    """Whether the phase has finished."""
    key_waits: int = 0
    """Enrollments that waited for an RSA key."""
    key_wait_s: float = 0.0
    """Seconds of these waits together."""
    cut_short: int = 0
    """Operations that this program itself ended."""

    def plus(self, other: PhaseState) -> PhaseState:
        """The sum: the phase in two shards."""
        return PhaseState(
            self.planned + other.planned,
            self.started + other.started,
            self.done + other.done,
            self.failed + other.failed,
            self.late + other.late,
            self.dropped + other.dropped,
            self.finished and other.finished,
            self.key_waits + other.key_waits,
            self.key_wait_s + other.key_wait_s,
            self.cut_short + other.cut_short,
        )


RECENT_SECONDS = 10  # the interval of live rates and percentiles


class PhaseView(msgspec.Struct, frozen=True):
    """One phase over all shards."""

    name: str
    kind: str
    state: PhaseState
    started_s: float | None = None
    """Its start in seconds from the start of the run; None if it has not started."""
    finished_s: float | None = None
    """Its end, in the same seconds; None if it has not finished."""
    rate: float | None = None
    """Its planned arrivals per second now; None if it is not running, or has no constant rate."""


class OperationView(msgspec.Struct, frozen=True):
    """One operation."""

    count: int
    """Those that succeeded or failed since the start of the run."""
    errors: int
    """Those that failed since the start of the run."""
    rate_per_s: float
    """Over the last RECENT_SECONDS, as the percentiles."""
    p50_ms: float | None
    p99_ms: float | None


class LiveView(msgspec.Struct, frozen=True):
    """The current state of a run."""

    elapsed: float
    """Seconds since the start."""
    phases: tuple[PhaseView, ...] = ()
    operations: Mapping[str, OperationView] = msgspec.field(default_factory=dict)
    macs: Mapping[str, int] = msgspec.field(default_factory=dict)
    """The number of Macs by state."""
    connections: int = 0
    pushes_waiting: int = 0
    lag_ms: float = 0.0
    """The largest lag of a worker's event loop."""
    cpu: float = 0.0
    """The largest share of a core that a worker uses."""
    embedded_lab: bool = False
    """Whether the server runs in this program, so that no latency is that of a server alone."""
    paused: bool = False
    """Whether the run is paused."""
    workers: Mapping[str, bool] = msgspec.field(default_factory=dict)
    """Whether each worker of a service with several is there, by its number."""


class RunObserver(Protocol):
    """Shows a run in progress."""

    def note(self, text: str) -> None:
        """Show one line at once, such as an address."""

    def warn(self, text: str) -> None:
        """Show one line at once that the operator must not miss."""

    def look(self, view: LiveView) -> None:
        """Show the current state; called about once a second, and once at the end."""


class Recent:
    """The rows of the last seconds from all shards, and the sums since the start."""

    def __init__(self) -> None:
        self._totals: dict[str, list[int]] = {}
        self._seconds: deque[dict[str, tuple[int, dict[int, int]]]] = deque(maxlen=RECENT_SECONDS)
        self._latest: dict[int, Mapping[str, Any]] = {}
        self._now: dict[str, tuple[int, dict[int, int]]] = {}
        self._lost: set[int] = set()

    def add(self, shard: int, row: Mapping[str, Any]) -> None:
        """Add a row of the time line from a shard."""
        if shard not in self._lost:
            self._latest[shard] = row
        for name, part in row.get("operations", {}).items():
            total = self._totals.setdefault(name, [0, 0])
            total[0] += part["count"]
            total[1] += part["errors"]
            count, buckets = self._now.get(name, (0, {}))
            for bucket, number in part["latencies"].items():
                buckets[int(bucket)] = buckets.get(int(bucket), 0) + number
            self._now[name] = count + part["count"], buckets

    def lose(self, shard: int) -> None:
        """A shard is lost, and its Macs and connections with it."""
        self._lost.add(shard)
        self._latest.pop(shard, None)

    def turn(self) -> None:
        """End the current second."""
        self._seconds.append(self._now)
        self._now = {}

    def view(
        self, elapsed: float, phases: tuple[PhaseView, ...], *, embedded_lab: bool = False, paused: bool = False
    ) -> LiveView:
        """The current state of the run."""
        latest = list(self._latest.values())
        macs: dict[str, int] = {}
        for row in latest:
            for state, number in row.get("macs", {}).items():
                macs[state] = macs.get(state, 0) + number
        return LiveView(
            elapsed=elapsed,
            phases=phases,
            operations={name: self._operation(name) for name in self._totals},
            macs=macs,
            connections=sum(row.get("connections", 0) for row in latest),
            pushes_waiting=sum(row.get("pushes_waiting", 0) for row in latest),
            lag_ms=max((row.get("lag_ms", 0.0) for row in latest), default=0.0),
            cpu=max((row.get("cpu", 0.0) for row in latest), default=0.0),
            embedded_lab=embedded_lab,
            paused=paused,
        )

    def _operation(self, name: str) -> OperationView:
        count, buckets = 0, dict[int, int]()
        for second in self._seconds:
            part = second.get(name)
            if part is not None:
                count += part[0]
                for bucket, number in part[1].items():
                    buckets[bucket] = buckets.get(bucket, 0) + number
        total, errors = self._totals[name]
        rate = count / max(1, len(self._seconds))
        return OperationView(total, errors, rate, percentile_ms(buckets, 50.0), percentile_ms(buckets, 99.0))
