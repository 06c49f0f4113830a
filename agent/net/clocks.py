"""The two clocks of a run: a reactor that counts monotonic time, and dates that no change of the system's clock moves.

Timers and latencies are monotonic. Twisted's reactors count the system's wall clock, which an administrator, NTP or a
virtual machine that wakes may set by an hour at any moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from agent.net.reactor import Clock


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
