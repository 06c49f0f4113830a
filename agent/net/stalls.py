"""How long the event loop stood still: time in which nobody was heard, and for which no peer is to be blamed.

A time limit counts the seconds in which this program could have heard the peer. Where the machine or the process stood
still, the limit is over later by as much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred

from agent.errors import LomAgentError
from agent.net.reactor import Clock, DelayedCall

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
        self._timer: DelayedCall | None = None

    def begin(self) -> None:
        """Watch from now on."""
        self._due = self._clock.seconds() + LOOK_SECONDS
        self._timer = self._clock.callLater(LOOK_SECONDS, self._look)

    def stop(self) -> None:
        """Watch no longer."""
        self._total = self.seconds
        self._due = None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

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
