"""Time on the network: the reactor as types, the one timer that a class re-arms, sleep, clocks, and stalls of the loop.

The types are ours because Twisted's interfaces are for zope, not for a type checker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred

from agent.errors import LomAgentError


class DelayedCall(Protocol):
    """A call that is due later."""

    def active(self) -> bool:
        """Whether it is still to come."""

    def cancel(self) -> None:
        """Forget it."""


class Clock(Protocol):
    """Time, and calls at a time."""

    def seconds(self) -> float:
        """Now, in seconds."""

    def callLater(self, delay: float, callable: Callable[..., object], *args: Any) -> DelayedCall:  # noqa: A002
        """Call after ``delay`` seconds."""


class Reactor(Clock, Protocol):
    """A reactor that watches descriptors: any of Twisted's on Unix."""

    def addReader(self, reader: Any) -> None:
        """Call ``reader.doRead`` when it can be read."""

    def removeReader(self, reader: Any) -> None:
        """No longer."""

    def addWriter(self, writer: Any) -> None:
        """Call ``writer.doWrite`` when it can be written."""

    def removeWriter(self, writer: Any) -> None:
        """No longer."""


class Alarm:
    """One timer that its owner sets, moves and cancels: ``due`` is called once when it goes off.

    The owner keeps the Alarm for life, so that there is nothing to look for when it is set anew or no longer wanted.
    """

    __slots__ = ("_call", "_clock", "_due")

    def __init__(self, clock: Clock, due: Callable[[], object]) -> None:
        self._clock = clock
        self._due = due
        self._call: DelayedCall | None = None

    @property
    def is_set(self) -> bool:
        """Whether it is still to go off."""
        return self._call is not None

    def set(self, seconds: float) -> None:
        """Go off in ``seconds`` (0 where that is negative), instead of when it was set to."""
        self.cancel()
        self._call = self._clock.callLater(max(0.0, seconds), self._goes_off)

    def set_at(self, deadline: float | None) -> None:
        """Go off at ``deadline`` (seconds on its clock), or not at all for None, instead of when it was set to."""
        if deadline is None:
            self.cancel()
        else:
            self.set(deadline - self._clock.seconds())

    def cancel(self) -> None:
        """Do not go off."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _goes_off(self) -> None:
        self._call = None
        self._due()


async def sleep(clock: Clock, seconds: float) -> None:
    """Return after ``seconds``. Whoever cancels it leaves no timer behind."""
    over: Deferred[None] = Deferred(lambda _: timer.cancel())
    timer = clock.callLater(seconds, over.callback, None)
    await over


def make_monotonic(reactor: Any) -> Any:
    """Let this reactor count monotonic time, before anything is due in it; returns it."""
    reactor.seconds = time.monotonic
    return reactor


class RunClock:
    """The dates of a run (seconds since the epoch): the system's wall clock at the start, then monotonic time.

    So the lines of a trace stay in order, and what is due at a date is due when that many seconds have passed.
    """

    def __init__(self, clock: Clock, wall_clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._offset = wall_clock() - clock.seconds()

    def __call__(self) -> float:
        """Now."""
        return self._clock.seconds() + self._offset

    def set(self, now: float) -> None:
        """Be the clock of another process of the run, which shows ``now``."""
        self._offset = now - self._clock.seconds()

    def ahead(self) -> float:
        """How far the system's wall clock is ahead of this one: of dates that others write, subtract it."""
        return self._wall_clock() - self()


LOOK_SECONDS = 0.05
STALL_SECONDS = 0.1  # what is shorter is no stall

ValueT = TypeVar("ValueT")


class OutOfTime(LomAgentError):
    """A time limit is over. Whoever set it says what that means."""

    kind = "out_of_time"


def made_up(due: float, now: float) -> float:
    """When a time limit is over that was to be over at ``due``, asked by its timer at ``now``.

    A timer that comes late says that the loop stood still, and what the peer sent meanwhile has not been read yet: the
    limit is over later by as much.
    """
    late = now - due
    return now + late if late > STALL_SECONDS else due


class Stalls:
    """Watches one event loop. ``seconds`` is how long it stood still since ``begin``, up to now."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._total = 0.0
        self._due: float | None = None
        self._next_look = Alarm(clock, self._look)

    def begin(self) -> None:
        """Watch from now on."""
        self._due = self._clock.seconds() + LOOK_SECONDS
        self._next_look.set(LOOK_SECONDS)

    def stop(self) -> None:
        """Watch no longer."""
        self._total = self.seconds
        self._due = None
        self._next_look.cancel()

    @property
    def seconds(self) -> float:
        """How long the loop stood still in all; a stall of which the own timer has yet to hear is in it."""
        overdue = 0.0 if self._due is None else self._clock.seconds() - self._due
        return self._total + (overdue if overdue > STALL_SECONDS else 0.0)

    def _look(self) -> None:
        self._total = self.seconds
        self.begin()


class TimeLimit:
    """Calls ``over`` after ``seconds`` in which the loop ran, and after what was readable then has been read."""

    def __init__(self, clock: Clock, stalls: Stalls, seconds: float, over: Callable[[], object]) -> None:
        self._clock = clock
        self._stalls = stalls
        self._over = over
        self._ends = clock.seconds() + seconds - stalls.seconds
        self._timer: DelayedCall = clock.callLater(seconds, self._look)

    def cancel(self) -> None:
        """It does not matter any more."""
        if self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        left = self._ends + self._stalls.seconds - self._clock.seconds()
        if left > 0.0:
            self._timer = self._clock.callLater(left, self._look)
        else:
            self._timer = self._clock.callLater(0, self._over)  # timers come before what can be read


async def within(waiting: Deferred[ValueT], seconds: float, clock: Clock, stalls: Stalls) -> ValueT:
    """What ``waiting`` comes to. Raises OutOfTime where that takes longer than ``seconds``; it is then cancelled."""
    late = False

    def over() -> None:
        nonlocal late
        late = True
        waiting.cancel()

    limit = TimeLimit(clock, stalls, seconds, over)
    try:
        return await waiting
    except Exception:
        if late:
            raise OutOfTime(f"not within {seconds:g} s") from None
        raise
    finally:
        limit.cancel()
