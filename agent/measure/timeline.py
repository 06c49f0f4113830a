"""The time line: per second of a run what ended, how fast, the states of the Macs and the load of this program.

Each worker sends a row once a second (`agent.measure.metrics` counts, the worker adds its gauges). The merged seconds
go into the results, from which reports draw their charts.

Workers do not start and end in the same instant, and one may be silent for a while. In a second without a row of its
own a worker counts with its last gauges (`_Gauges`), so that the sums are those of the whole fleet in every row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

import msgspec

from agent.errors import MisuseError, OperatorError
from agent.measure.latencies import LARGEST, Amount, percentile_ms
from agent.measure.records import OPERATIONS
from agent.measure.summaries import Count, Name

LAG_BOUND_MS = 50.0  # half of what makes a start late
BUSY_SHARE = 0.9  # of a core
LONGEST_SECONDS = 172_800  # two days: at some 500 bytes per second, about what a browser can still draw

MacState = Literal["new", "idle", "session", "booting", "off", "left"]
MACS = get_args(MacState)

_DECIMALS = 3
_Bucket = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
_Gauge = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]


class SecondOfOperation(msgspec.Struct, frozen=True):
    """One operation in one second."""

    count: Count
    """Those that succeeded or failed."""
    errors: Count
    """Those that failed."""
    p50_ms: Amount | None
    """None if there were no latencies."""
    p99_ms: Amount | None
    """None if there were no latencies."""


class Targets(msgspec.Struct, frozen=True):
    """What somebody wanted of one second of a run that was changed while it ran."""

    paused_s: float = 0.0
    """The part of the second in which the run was paused."""
    rates: dict[str, float] = {}
    """The rate of each running phase that has one."""


def no_targets(_t: int) -> Targets:
    """Those of a run that was not changed."""
    return _NO_TARGETS


_NO_TARGETS = Targets()


class Second(msgspec.Struct, frozen=True, omit_defaults=True):
    """One second of the results."""

    t: Annotated[int, msgspec.Meta(ge=0, lt=LONGEST_SECONDS)]
    """Its number from the start of the run."""
    operations: dict[Name, SecondOfOperation]
    macs: dict[Name, Count]
    """The number of Macs by state."""
    connections: Count
    pushes_waiting: Count
    lag_ms: Amount | None
    """The largest lag of an event loop."""
    cpu: Amount | None
    """The largest share of a core that a process used."""
    paused_s: Amount | None = None
    """The part of the second in which the run was paused; None if it was not."""
    rates: dict[Name, Amount] = {}
    """The rate of each running phase that has one, in arrivals per second; empty if the run was not changed."""


class _Ended(msgspec.Struct):
    """One operation in one second, of one process or merged. Its plain form is what `Metrics.take_second` returns."""

    count: Count = 0
    errors: Count = 0
    latencies: dict[_Bucket, Count] = {}  # msgspec copies it for each instance

    def add(self, other: _Ended) -> None:
        self.count += other.count
        self.errors += other.errors
        for bucket, count in other.latencies.items():
            self.latencies[bucket] = self.latencies.get(bucket, 0) + count

    def result(self) -> SecondOfOperation:
        p50, p99 = percentile_ms(self.latencies, 50.0), percentile_ms(self.latencies, 99.0)
        return SecondOfOperation(self.count, self.errors, _rounded(p50), _rounded(p99))


class _Gauges(msgspec.Struct, omit_defaults=True):
    """What holds until the next row: states, not events."""

    macs: dict[MacState, Count] = {}
    connections: Count = 0
    pushes_waiting: Count = 0

    def add_gauges(self, other: _Gauges) -> None:
        for state, count in other.macs.items():
            self.macs[state] = self.macs.get(state, 0) + count
        self.connections += other.connections
        self.pushes_waiting += other.pushes_waiting

    @property
    def gauges(self) -> _Gauges:
        return _Gauges(dict(self.macs), self.connections, self.pushes_waiting)


class _Row(_Gauges, omit_defaults=True):
    """One second, of one process or merged."""

    operations: dict[str, _Ended] = {}
    lag_ms: _Gauge | None = None
    cpu: _Gauge | None = None

    def add(self, other: _Row) -> None:
        self.add_gauges(other)
        for name, ended in other.operations.items():
            self.operations.setdefault(name, _Ended()).add(ended)
        self.lag_ms = _larger(self.lag_ms, other.lag_ms)
        self.cpu = _larger(self.cpu, other.cpu)

    def result(self, t: int, targets: Targets) -> Second:
        return Second(
            t=t,
            operations={name: self.operations[name].result() for name in OPERATIONS if name in self.operations},
            macs={state: self.macs.get(state, 0) for state in MACS},
            connections=self.connections,
            pushes_waiting=self.pushes_waiting,
            lag_ms=_rounded(self.lag_ms),
            cpu=_rounded(self.cpu),
            paused_s=round(targets.paused_s, _DECIMALS) or None,
            rates={name: round(rate, _DECIMALS) for name, rate in targets.rates.items()},
        )


class _Source(msgspec.Struct):
    """One worker."""

    gauges: _Gauges
    """Those of its last row."""
    last: int = -1
    """The second of its last row."""
    gaps: list[tuple[range, _Gauges]] = []
    """Earlier seconds without a row of its own, and its gauges in them."""
    lost: bool = False

    @property
    def missing(self) -> list[tuple[range, _Gauges]]:
        """All seconds in which it counts with earlier gauges."""
        if self.lost:
            return self.gaps
        return [*self.gaps, (range(self.last + 1, LONGEST_SECONDS), self.gauges)]


class TimeLine:
    """The seconds of a run, merged over all workers. ``fleet`` has the number of Macs of each worker.

    The rows of one worker arrive in order, those of different workers in any order. Only the packed form of a second is
    kept: a few hundred bytes.
    """

    def __init__(self, fleet: Sequence[int] = (0,)) -> None:
        self._seconds: dict[int, bytes] = {}
        self._sources = [_Source(_Gauges({"new": macs})) for macs in fleet]

    def add(self, t: int, row: Mapping[str, Any], worker: int = 0) -> None:
        """Add the row of one worker for second ``t`` since the start of the run.

        Every key of ``row`` is optional: ``operations`` as `Metrics.take_second` returns them, ``macs`` (the number by
        state of MACS), ``connections``, ``pushes_waiting``, ``lag_ms`` and ``cpu``. Counts are added; of ``lag_ms``
        and ``cpu`` the largest is kept. Seconds from LONGEST_SECONDS on are ignored. Raises MisuseError for a second
        before the start, and OperatorError for an invalid row or one that is not later than the worker's last.
        """
        if t < 0:
            raise MisuseError(f"Expected a second from the start of the run on, found {t}.")
        if t >= LONGEST_SECONDS:
            return
        source = self._sources[worker]
        if t <= source.last:
            raise OperatorError(f"Expected a row of the time line after second {source.last}, found one of {t}.")
        try:
            second = msgspec.convert(row, _Row, str_keys=True)
            gauges = second.gauges
            if t in self._seconds:
                second.add(_unpack(self._seconds[t]))
            packed = _pack(second)
            _unpack(packed)  # the sums are within the bounds, too
        except (msgspec.ValidationError, RecursionError) as error:
            raise OperatorError(f"Expected a row of the time line, found something else: {error}.") from error
        for name in second.operations:
            if name not in OPERATIONS:
                raise OperatorError(f"Expected one of {', '.join(OPERATIONS)} in the time line, found {name[:100]!r}.")
        self._seconds[t] = packed
        if t > source.last + 1:
            source.gaps.append((range(source.last + 1, t), source.gauges))
        source.gauges, source.last = gauges, t

    def packed(self, t: int) -> bytes | None:
        """Second ``t`` so far, for ``restore``; None without a row of it."""
        return self._seconds.get(t)

    def restore(self, t: int, packed: bytes) -> None:
        """Have second ``t`` of an earlier process of the run. Raises ValueError for other bytes."""
        _unpack(packed)
        self._seconds[t] = packed
        for source in self._sources:
            source.last = max(source.last, t)

    def lose(self, worker: int) -> None:
        """A worker is lost: its Macs and connections are gone after its last row."""
        self._sources[worker].lost = True

    def rows(self, targets: Callable[[int], Targets] = no_targets) -> list[Second]:
        """The seconds of which a worker has sent a row, in order, each with its ``targets``."""
        missing = [each for source in self._sources for each in source.missing]
        found = []
        for t in sorted(self._seconds):
            row = _unpack(self._seconds[t])
            for seconds, gauges in missing:
                if t in seconds:
                    row.add_gauges(gauges)
            found.append(row.result(t, targets(t)))
        return found


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Row).decode


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, _DECIMALS)


def _larger(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return one if other is None else other
    return max(one, other)
