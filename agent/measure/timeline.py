"""A run second by second: what ended, how fast, what the Macs were doing and how busy this program was.

Rows come from each worker once a second (`agent.measure.metrics` counts, the worker adds its gauges) and from the
process that leads them; merged they go into the results, from which reports are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec

from agent.errors import MisuseError, OperatorError
from agent.measure.latencies import LARGEST, MOST_COUNTED, percentile_ms
from agent.measure.records import OPERATIONS

LAG_BOUND_MS = 50.0  # half of what makes a start late


BUSY_SHARE = 0.9  # of a core


LONGEST_SECONDS = 172_800  # two days: at some 500 bytes a second, about what a browser can still draw

MacState = Literal["new", "idle", "session", "booting", "off", "left"]
MACS = get_args(MacState)

_DECIMALS = 3
_Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_COUNTED)]
_Bucket = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
_Gauge = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]


class _Ended(msgspec.Struct):
    """What ended of one operation in one second."""

    count: _Count = 0
    errors: _Count = 0
    latencies: dict[_Bucket, _Count] = {}  # msgspec gives each its own

    def add(self, other: _Ended) -> None:
        self.count += other.count
        self.errors += other.errors
        for bucket, count in other.latencies.items():
            self.latencies[bucket] = self.latencies.get(bucket, 0) + count

    def row(self) -> dict[str, Any]:
        p50, p99 = percentile_ms(self.latencies, 50.0), percentile_ms(self.latencies, 99.0)
        return {
            "count": self.count,
            "errors": self.errors,
            "p50_ms": None if p50 is None else round(p50, _DECIMALS),
            "p99_ms": None if p99 is None else round(p99, _DECIMALS),
        }


class _Second(msgspec.Struct, omit_defaults=True):
    """One second, of one shard or merged."""

    operations: dict[str, _Ended] = {}
    macs: dict[MacState, _Count] = {}
    connections: _Count = 0
    pushes_waiting: _Count = 0
    lag_ms: _Gauge | None = None
    cpu: _Gauge | None = None

    def add(self, other: _Second) -> None:
        for name, ended in other.operations.items():
            self.operations.setdefault(name, _Ended()).add(ended)
        for state, count in other.macs.items():
            self.macs[state] = self.macs.get(state, 0) + count
        self.connections += other.connections
        self.pushes_waiting += other.pushes_waiting
        self.lag_ms = _larger(self.lag_ms, other.lag_ms)
        self.cpu = _larger(self.cpu, other.cpu)

    def row(self, t: int) -> dict[str, Any]:
        return {
            "t": t,
            "operations": {name: self.operations[name].row() for name in OPERATIONS if name in self.operations},
            "macs": {state: self.macs.get(state, 0) for state in MACS},
            "connections": self.connections,
            "pushes_waiting": self.pushes_waiting,
            "lag_ms": None if self.lag_ms is None else round(self.lag_ms, _DECIMALS),
            "cpu": None if self.cpu is None else round(self.cpu, _DECIMALS),
        }


class TimeLine:
    """The seconds of a run, merged over everybody who has something to say of them, in any order.

    A second takes a few hundred bytes, because only its packed form is kept.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, bytes] = {}

    def add(self, t: int, row: Mapping[str, Any]) -> None:
        """Add what one process says of second ``t`` since the start of the run.

        All keys of ``row`` may be left out: ``operations`` as `Metrics.take_second` gives them, ``macs`` (how many in
        each of MACS), ``connections``, ``pushes_waiting``, ``lag_ms`` and ``cpu``. Counts are added up, of the last
        two the largest is kept. What comes after LONGEST_SECONDS is left out. Raises MisuseError for a second before
        the start, and OperatorError for what is no row.
        """
        if t < 0:
            raise MisuseError(f"Expected a second from the start of the run on; found {t}.")
        if t >= LONGEST_SECONDS:
            return
        try:
            second = msgspec.convert(row, _Second, str_keys=True)
            if t in self._seconds:
                second.add(_unpack(self._seconds[t]))
            packed = _pack(second)
            _unpack(packed)  # what was added up is within the bounds, too
        except (msgspec.ValidationError, RecursionError) as error:
            raise OperatorError(f"Expected a row of the time line; found something else: {error}") from error
        for name in second.operations:
            if name not in OPERATIONS:
                raise OperatorError(f"Expected one of {', '.join(OPERATIONS)} in the time line; found {name[:100]!r}.")
        self._seconds[t] = packed

    def rows(self) -> list[dict[str, Any]]:
        """The seconds of which somebody said something, in order, as they stand in the results document."""
        return [_unpack(self._seconds[t]).row(t) for t in sorted(self._seconds)]


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Second).decode


def _larger(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return one if other is None else other
    return max(one, other)
