"""Whether the generator itself is what is slow: the event loop's lag, and the share of a core that its thread takes."""

from __future__ import annotations

import time

from agent.load.latencies import Latencies
from agent.net.reactor import Clock, DelayedCall

LOOK_SECONDS = 0.02


class Strain:
    """Watches one reactor from its own thread.

    ``lag`` has a value for each look, ``cpu_by_second`` one for each call of ``second``.
    """

    def __init__(self, clock: Clock) -> None:
        self.lag = Latencies()
        self.cpu_by_second: list[float] = []
        self._clock = clock
        self._worst = 0.0
        self._due = 0.0
        self._timer: DelayedCall | None = None
        self._cpu_began = self._cpu_before = time.thread_time()
        self._before = clock.seconds()

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU that this thread has taken since the watch was made."""
        return time.thread_time() - self._cpu_began

    def begin(self) -> None:
        """Watch from now on; what was before, the making of a fleet, is nothing that a server could have seen."""
        self._before, self._cpu_before = self._clock.seconds(), time.thread_time()
        self._due = self._clock.seconds() + LOOK_SECONDS
        self._timer = self._clock.callLater(LOOK_SECONDS, self._look)

    def second(self) -> tuple[float, float]:
        """The longest lag (ms) and the share of a core since the last call."""
        worst, self._worst = self._worst, 0.0
        now, cpu = self._clock.seconds(), time.thread_time()
        share = (cpu - self._cpu_before) / (now - self._before) if now > self._before else 0.0
        self._before, self._cpu_before = now, cpu
        self.cpu_by_second.append(round(min(1.0, share), 4))
        return worst * 1000.0, share

    def stop(self) -> None:
        """Watch no longer."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _look(self) -> None:
        now = self._clock.seconds()
        lag = max(0.0, now - self._due)
        self.lag.record(lag)
        self._worst = max(self._worst, lag)
        self._due = now + LOOK_SECONDS
        self._timer = self._clock.callLater(LOOK_SECONDS, self._look)
