"""What a run looks like at this moment: for the terminal and for Prometheus, once a second.

The conductor makes it of what its shards tell; `agent.report.terminal` and `agent.service.prometheus` show it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from agent.measure.latencies import percentile_ms


class PhaseState(msgspec.Struct, array_like=True):
    """How far one phase is in one shard.

    ``planned`` is how many things are to be done so far as it is known, 0 before the phase began. ``started`` of
    them were begun, ``done`` are over, ``failed`` of these in failure; ``cut_short`` were ended by this program.
    ``late``, ``dropped``, ``key_waits`` and ``key_wait_s`` as in docs/results.md.
    """

    planned: int = 0
    started: int = 0
    done: int = 0
    failed: int = 0
    late: int = 0
    dropped: int = 0
    over: bool = False
    key_waits: int = 0
    key_wait_s: float = 0.0
    cut_short: int = 0

    def plus(self, other: PhaseState) -> PhaseState:
        """Both together: the phase in two shards."""
        return PhaseState(
            self.planned + other.planned,
            self.started + other.started,
            self.done + other.done,
            self.failed + other.failed,
            self.late + other.late,
            self.dropped + other.dropped,
            self.over and other.over,
            self.key_waits + other.key_waits,
            self.key_wait_s + other.key_wait_s,
            self.cut_short + other.cut_short,
        )


RECENT_SECONDS = 10  # that the rates and percentiles shown are of


@dataclass(frozen=True, slots=True)
class PhaseView:
    """One phase. ``state`` is over all shards; ``begun`` and ``over`` are seconds from the run's start, or None."""

    name: str
    kind: str
    state: PhaseState
    begun: float | None = None
    over: float | None = None


@dataclass(frozen=True, slots=True)
class OperationView:
    """One operation: ``count`` and ``errors`` since the start, the rest of the last RECENT_SECONDS."""

    count: int
    errors: int
    rate_per_s: float
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class LiveView:
    """The run now. ``elapsed`` is in seconds, ``cpu`` the largest share of a core that a worker takes. With
    ``embedded_lab`` the server is in this program, so that no latency is that of a server alone."""

    elapsed: float
    phases: tuple[PhaseView, ...] = ()
    operations: Mapping[str, OperationView] = field(default_factory=dict)
    macs: Mapping[str, int] = field(default_factory=dict)
    connections: int = 0
    pushes_waiting: int = 0
    lag_ms: float = 0.0
    cpu: float = 0.0
    embedded_lab: bool = False


class Watcher(Protocol):
    """Who looks on."""

    def note(self, text: str) -> None:
        """Something a person should read now, once (an address, a warning)."""

    def look(self, view: LiveView) -> None:
        """The run as it is now; called about once a second, and once at the end."""


class Recent:
    """What the shards told of the last seconds, and the sums since the start."""

    def __init__(self) -> None:
        self._totals: dict[str, list[int]] = {}
        self._seconds: deque[dict[str, tuple[int, dict[int, int]]]] = deque(maxlen=RECENT_SECONDS)
        self._latest: dict[int, Mapping[str, Any]] = {}
        self._now: dict[str, tuple[int, dict[int, int]]] = {}

    def add(self, shard: int, row: Mapping[str, Any]) -> None:
        """A row of the time line came from a shard."""
        self._latest[shard] = row
        for name, part in row.get("operations", {}).items():
            total = self._totals.setdefault(name, [0, 0])
            total[0] += part["count"]
            total[1] += part["errors"]
            count, buckets = self._now.get(name, (0, {}))
            for bucket, number in part["latencies"].items():
                buckets[int(bucket)] = buckets.get(int(bucket), 0) + number
            self._now[name] = count + part["count"], buckets

    def turn(self) -> None:
        """A second is over."""
        self._seconds.append(self._now)
        self._now = {}

    def view(self, elapsed: float, phases: tuple[PhaseView, ...], *, embedded_lab: bool = False) -> LiveView:
        """The run now."""
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
