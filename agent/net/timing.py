"""The reactor as types, the re-armed timer, sleep, clocks, time limits, and stalls of the event loop.

The types are our own because Twisted's interfaces are zope interfaces, which a type checker cannot use.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import floor
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred

from agent.errors import LomAgentError


class DelayedCall(Protocol):
    """A call that is scheduled."""

    def active(self) -> bool:
        """Whether it is still scheduled."""

    def cancel(self) -> None:
        """Do not make the call."""


class Clock(Protocol):
    """Tells the time and schedules calls."""

    def seconds(self) -> float:
        """The current time, in seconds."""

    def callLater(self, delay: float, callable: Callable[..., object], *args: Any) -> DelayedCall:  # noqa: A002
        """Call after ``delay`` seconds."""


class Reactor(Clock, Protocol):
    """A reactor that watches descriptors: any of Twisted's on Unix."""

    def addReader(self, reader: Any) -> None:
        """Call ``reader.doRead`` whenever it is readable."""

    def removeReader(self, reader: Any) -> None:
        """Stop watching for readability."""

    def addWriter(self, writer: Any) -> None:
        """Call ``writer.doWrite`` whenever it is writable."""

    def removeWriter(self, writer: Any) -> None:
        """Stop watching for writability."""


def after_pending(clock: Clock, call: Callable[[], object]) -> DelayedCall:
    """Call when what can be read now was read.

    A reactor of Twisted runs timers first and then reads everything; one with short turns has a method for this.
    """
    order: Callable[[Callable[[], object]], DelayedCall] | None = getattr(clock, "after_pending", None)
    return clock.callLater(0, call) if order is None else order(call)


def when_read(clock: Clock, expired: Callable[[], object]) -> None:
    """Call at once; in a reactor with short turns, when what can be read now was read.

    There a timer is on time although the answer it waits for may be next in line.
    """
    order: Callable[[Callable[[], object]], DelayedCall] | None = getattr(clock, "after_pending", None)
    if order is None:
        expired()
    else:
        order(expired)


class Alarm:
    """A timer that its owner sets, moves and cancels; ``due`` is called once when it expires.

    The owner creates it once and keeps it. It refers to the owner by ``due``, a reference cycle: classes with an
    instance per connection to a server use ``callLater`` themselves.
    """

    __slots__ = ("_call", "_clock", "_due")

    def __init__(self, clock: Clock, due: Callable[[], object]) -> None:
        self._clock = clock
        self._due = due
        self._call: DelayedCall | None = None

    @property
    def is_set(self) -> bool:
        """Whether the timer runs."""
        return self._call is not None

    def set(self, seconds: float) -> None:
        """Expire in ``seconds`` (at once where negative), instead of at the earlier setting."""
        self.cancel()
        self._call = self._clock.callLater(max(0.0, seconds), self._expire)

    def set_on_tick(self, seconds: float) -> None:
        """Expire at a tick of the clock in about ``seconds`` (``until_tick``), instead of at the earlier setting."""
        self.set(until_tick(self._clock.seconds(), seconds))

    def set_at(self, deadline: float | None) -> None:
        """Expire at ``deadline`` (seconds on its clock), or never for None, instead of at the earlier setting."""
        if deadline is None:
            self.cancel()
        else:
            self.set(deadline - self._clock.seconds())

    def cancel(self) -> None:
        """Stop the timer."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _expire(self) -> None:
        self._call = None
        self._due()


TICK_SECONDS = 0.02
_ROUNDING = 1e-5  # ticks: a timer may fire this much before its tick, because a clock that counts from far away rounds


def until_tick(now: float, seconds: float) -> float:
    """Seconds until the last tick of the clock that is at most ``seconds`` away; at least until the next one.

    What has to be done now and then is done at a tick, so that the process wakes up once for all of it.
    """
    ticks = floor(now / TICK_SECONDS + _ROUNDING)
    last = max(ticks + 1, floor((now + seconds) / TICK_SECONDS + _ROUNDING))
    return (last - _ROUNDING / 10) * TICK_SECONDS - now


async def sleep(clock: Clock, seconds: float) -> None:
    """Return after ``seconds``. Cancelling it cancels its timer."""
    elapsed: Deferred[None] = Deferred(lambda _: timer.cancel())
    timer = clock.callLater(seconds, elapsed.callback, None)
    await elapsed


def make_monotonic(reactor: Any) -> Any:
    """Make this reactor use monotonic time, and return it. Call it before anything is scheduled."""
    reactor.seconds = time.monotonic
    return reactor


class RunClock:
    """The dates of a run (seconds since the epoch): the system's wall clock at the start, then monotonic time.

    Adjustments of the wall clock thus change neither the order of trace lines nor when something is due.
    """

    def __init__(self, clock: Clock, wall_clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._offset = wall_clock() - clock.seconds()

    def __call__(self) -> float:
        """The current date."""
        return self._clock.seconds() + self._offset

    def synchronise(self, offset: float) -> None:
        """Follow the clock of another process of the run, which is ``offset`` seconds ahead of this one's reactor."""
        self._offset = offset

    def ahead(self) -> float:
        """How far the system's wall clock is ahead of this one (seconds); subtract it from others' dates."""
        return self._wall_clock() - self()


LOOK_SECONDS = 0.06
STALL_SECONDS = 0.1  # shorter delays do not count as stalls

ValueT = TypeVar("ValueT")


class OutOfTime(LomAgentError):
    """A time limit expired. The caller replaces it with an error of its own."""

    kind = "out_of_time"


def extended_deadline(due: float, now: float) -> float:
    """When a time limit that was due at ``due`` expires, if its timer fires at ``now``.

    A late timer means that the event loop was blocked and that what the peer sent meanwhile has not been read yet: the
    limit is extended by the delay.
    """
    late = now - due
    return now + late if late > STALL_SECONDS else due


class Stalls:
    """Measures how long an event loop was blocked since ``begin``. ``on_stall`` gets the seconds of each stall.

    In a loop with short turns it was blocked until what was ready had been handled.
    """

    def __init__(self, clock: Clock, on_stall: Callable[[float], object] = lambda _seconds: None) -> None:
        self._clock = clock
        self._on_stall = on_stall
        self.elsewhere = 0.0  # seconds in which another event loop was blocked, on which the peers of this one depend
        self._total = 0.0
        self._due: float | None = None
        self._next_look = Alarm(clock, self._look)
        self._last_look: DelayedCall | None = None

    def begin(self) -> None:
        """Start measuring."""
        now = self._clock.seconds()
        wait = until_tick(now, LOOK_SECONDS)
        self._due = now + wait
        self._next_look.set(wait)

    def stop(self) -> None:
        """Stop measuring."""
        self._total = self._here
        self._due = None
        self._next_look.cancel()
        if self._last_look is not None and self._last_look.active():
            self._last_look.cancel()

    @property
    def seconds(self) -> float:
        """How long the loop was blocked in all, including a stall that is going on, and ``elsewhere``."""
        return self._here + self.elsewhere

    @property
    def _here(self) -> float:
        overdue = 0.0 if self._due is None else self._clock.seconds() - self._due
        return self._total + (overdue if overdue > STALL_SECONDS else 0.0)

    def _look(self) -> None:
        if hasattr(self._clock, "after_pending"):
            self._last_look = after_pending(self._clock, self._looked)
        else:
            self._looked()

    def _looked(self) -> None:
        before, self._total = self._total, self._here
        self.begin()
        if self._total > before:
            self._on_stall(self._total - before)


class TimeLimit:
    """Calls ``expired`` after ``seconds``, not counting stalls, and after pending input has been read."""

    def __init__(self, clock: Clock, stalls: Stalls, seconds: float, expired: Callable[[], object]) -> None:
        self._clock = clock
        self._stalls = stalls
        self._expired = expired
        self._ends = clock.seconds() + seconds - stalls.seconds
        self._timer: DelayedCall = clock.callLater(seconds, self._look)

    def cancel(self) -> None:
        """Remove the limit."""
        if self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        left = self._ends + self._stalls.seconds - self._clock.seconds()
        if left > 0.0:
            self._timer = self._clock.callLater(left, self._look)
        else:
            self._timer = after_pending(self._clock, self._expired)


async def within(waiting: Deferred[ValueT], seconds: float, clock: Clock, stalls: Stalls) -> ValueT:
    """Await ``waiting``. If that takes longer than ``seconds``, cancel it and raise OutOfTime."""
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        waiting.cancel()

    limit = TimeLimit(clock, stalls, seconds, expire)
    try:
        return await waiting
    except Exception:
        if expired:
            raise OutOfTime(f"not within {seconds:g} s") from None
        raise
    finally:
        limit.cancel()
