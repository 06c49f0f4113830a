"""The operations of a service's Macs: their sums since the start, and the last seconds for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import to_builtins
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from agent.measure.live import LiveView, Recent
from agent.measure.metrics import Metrics
from agent.measure.records import Exchange
from agent.net.mac.client import MDMClient
from agent.net.mac.fleet.census import state_of
from agent.net.timing import Clock
from agent.service.types import Results

_log = Logger()


class Measurements:
    """Call it with each operation that ended. ``gauges`` tells how many connections are open and pushes wait."""

    def __init__(
        self, reactor: Clock, macs: Callable[[], Iterable[MDMClient]], gauges: Callable[[], dict[str, int]]
    ) -> None:
        self._reactor = reactor
        self._macs = macs
        self._gauges = gauges
        self._metrics = Metrics()
        self._since = reactor.seconds()
        self._recent: Recent | None = None  # from the first view on
        self._seconds = LoopingCall(self._second)
        self._seconds.clock = reactor  # type: ignore[assignment]

    def __call__(self, exchange: Exchange) -> None:
        """Count an operation that ended."""
        self._metrics(exchange)

    def started(self, operation: str) -> None:
        """Count an operation that starts."""
        self._metrics.started(operation)

    def connected(self, version: str) -> None:
        """Count a connection that was opened, by its version of HTTP."""
        self._metrics.connected(version)

    def stage(self, name: str, seconds: float) -> None:
        """Count a part of an operation."""
        self._metrics.stage(name, seconds)

    def snapshot(self) -> dict[str, Any]:
        """The sums so far, for another process."""
        return self._metrics.snapshot()

    def row(self) -> dict[str, Any]:
        """What was counted since the last row, and the present state of the Macs: a row of `agent.measure.live`."""
        return {
            **self._gauges(),
            "macs": dict(Counter(map(state_of, self._macs()))),
            "operations": self._metrics.take_second(),
        }

    def results(self) -> Results:
        """The sums so far."""
        return results_of(self._metrics, self._reactor.seconds() - self._since)

    def live(self) -> LiveView:
        """The present state. Rates and percentiles are measured from the first call on."""
        if self._recent is None:
            self._recent = Recent()
            self._second()
            self._seconds.start(1.0, now=False).addErrback(lambda failure: _log.failure("counting failed", failure))
        return self._recent.view(self._reactor.seconds() - self._since, ())

    def reset(self) -> None:
        """Count from 0."""
        self._metrics = Metrics()
        self._since = self._reactor.seconds()
        self.close()

    def close(self) -> None:
        """Stop the timer."""
        self._recent = None
        if self._seconds.running:
            self._seconds.stop()

    def _second(self) -> None:
        if self._recent is not None:
            self._recent.add(0, self.row())
            self._recent.turn()


def results_of(metrics: Metrics, seconds: float) -> Results:
    """The sums of some metrics."""
    from agent.report.results import counted  # not needed to start

    numbers = counted(metrics)
    return Results(
        seconds=seconds,
        operations=to_builtins(numbers["operations"]),
        errors=to_builtins(numbers["errors"]),
        cut_short=to_builtins(numbers["cut_short"]),
    )
