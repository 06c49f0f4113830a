"""The clock of a service's Macs: the reactor's, or one that stands still until it is moved.

Sockets, TLS and their time limits stay on the reactor's clock in both cases.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any, Literal, Protocol

from twisted.logger import Logger

from agent.net.timing import Clock, DelayedCall

_MOST_CANCELLED = 64  # entries that a manual clock keeps of calls that were cancelled, or as many as of the others
_ROUNDING = 1e-6  # seconds: ten times 0.1 are as much as 1.0

_log = Logger()


class MacClock(Clock, Protocol):
    """A clock that knows what is scheduled on it."""

    kind: Literal["real", "manual"]

    @property
    def pending(self) -> int:
        """How many calls are scheduled."""

    @property
    def next(self) -> float | None:
        """Seconds until the next one; None where none is scheduled."""


class _Call:
    """A call on one of these clocks, at ``time``."""

    __slots__ = ("_arguments", "_function", "_gone", "time", "timer")

    def __init__(
        self, time: float, function: Callable[..., object], arguments: tuple[Any, ...], gone: Callable[[_Call], object]
    ) -> None:
        self.time = time
        self.timer: DelayedCall | None = None
        self._function: Callable[..., object] | None = function
        self._arguments = arguments
        self._gone = gone

    def active(self) -> bool:
        """Whether it is still scheduled."""
        return self._function is not None

    def cancel(self) -> None:
        """Do not make the call."""
        if self._function is None:
            return
        self._function = None
        if self.timer is not None:
            self.timer.cancel()
        self._gone(self)

    def run(self) -> None:
        """Make the call."""
        function, self._function, self.timer = self._function, None, None
        self._gone(self)
        if function is not None:
            function(*self._arguments)


class RealClock:
    """The reactor's time."""

    kind: Literal["real", "manual"] = "real"

    def __init__(self, reactor: Clock) -> None:
        self._reactor = reactor
        self._calls: set[_Call] = set()

    def seconds(self) -> float:
        """The current time, in seconds."""
        return self._reactor.seconds()

    def callLater(self, delay: float, callable: Callable[..., object], *args: Any) -> DelayedCall:  # noqa: A002
        """Call after ``delay`` seconds."""
        call = _Call(self.seconds() + delay, callable, args, self._calls.discard)
        self._calls.add(call)
        call.timer = self._reactor.callLater(delay, call.run)
        return call

    @property
    def pending(self) -> int:
        """How many calls are scheduled."""
        return len(self._calls)

    @property
    def next(self) -> float | None:
        """Seconds until the next one; None where none is scheduled."""
        return max(0.0, min(call.time for call in self._calls) - self.seconds()) if self._calls else None


class ManualClock:
    """Starts at 0 and stands still until ``advance``. What is due at once is called in the reactor's next turn."""

    kind: Literal["real", "manual"] = "manual"

    def __init__(self, reactor: Clock) -> None:
        self._reactor = reactor
        self._now = 0.0
        self._numbers = count()
        self._calls: list[tuple[float, int, _Call]] = []
        self._pending = 0

    def seconds(self) -> float:
        """The current time, in seconds."""
        return self._now

    def callLater(self, delay: float, callable: Callable[..., object], *args: Any) -> DelayedCall:  # noqa: A002
        """Call after ``delay`` seconds of this clock."""
        call = _Call(self._now + delay, callable, args, self._gone)
        self._pending += 1
        if call.time <= self._now:
            call.timer = self._reactor.callLater(0, call.run)
        else:
            heapq.heappush(self._calls, (call.time, next(self._numbers), call))
        return call

    @property
    def pending(self) -> int:
        """How many calls are scheduled."""
        return self._pending

    @property
    def next(self) -> float | None:
        """Seconds until the next one that needs ``advance``; None where none is scheduled."""
        self._drop_cancelled()
        return self._calls[0][0] - self._now if self._calls else None

    def advance(self, seconds: float) -> None:
        """Move the clock, and make the calls that become due, each at its time and in their order."""
        end = self._now + seconds
        while self.next is not None and self._calls[0][0] <= end + _ROUNDING:
            self._now, _, call = heapq.heappop(self._calls)
            try:
                call.run()
            except Exception:  # noqa: BLE001 - as a reactor does: a defect in one Mac must not stop the others
                _log.failure("a call of the manual clock failed")
        self._now = max(self._now, end)

    def _gone(self, _call: _Call) -> None:
        self._pending -= 1
        if len(self._calls) > 2 * self._pending + _MOST_CANCELLED:
            self._calls = [entry for entry in self._calls if entry[2].active()]
            heapq.heapify(self._calls)

    def _drop_cancelled(self) -> None:
        while self._calls and not self._calls[0][2].active():
            heapq.heappop(self._calls)
