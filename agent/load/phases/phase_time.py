"""The time of a phase, which stands still while the run is paused, and waits that follow a change of it."""

from __future__ import annotations

import math

from twisted.internet.defer import Deferred

from agent.measure.pauses import Pauses
from agent.net.timing import Clock, DelayedCall

LEAST_SECONDS = 1e-6  # of a wait: a shorter one may not move a clock that counts from far away


class PausedTime:
    """The pauses of a run on ``clock``, and who waits for a moment that they move."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.pauses = Pauses()
        self._waiting: dict[Deferred[bool], DelayedCall | None] = {}

    @property
    def is_paused(self) -> bool:
        """Whether the run is paused now."""
        return self.pauses.covers(self.clock.seconds())

    def pause(self, at: float) -> None:
        """Pause from ``at`` on."""
        self.pauses.pause(at)
        self.changed()

    def resume(self, at: float) -> None:
        """Resume at ``at``."""
        self.pauses.resume(at)
        self.changed()

    def changed(self) -> None:
        """Let everything that waits find out again how long."""
        for waiting in list(self._waiting):
            if waiting in self._waiting:  # one that ended may have cancelled another
                self._end(waiting, False)

    def wait(self, seconds: float) -> Deferred[bool]:
        """Fires with True after ``seconds`` (infinity: never), or with False at the next change."""
        waiting: Deferred[bool] = Deferred(self._forget)
        self._waiting[waiting] = (
            self.clock.callLater(max(0.0, seconds), self._end, waiting, True) if seconds < math.inf else None
        )
        return waiting

    async def running(self) -> None:
        """Return when the run is not paused."""
        while self.is_paused:
            now = self.clock.seconds()
            await self.wait(max(LEAST_SECONDS, self.pauses.moment(now, 0.0) - now))

    def _forget(self, waiting: Deferred[bool]) -> None:
        timer = self._waiting.pop(waiting)
        if timer is not None and timer.active():
            timer.cancel()

    def _end(self, waiting: Deferred[bool], due: bool) -> None:
        self._forget(waiting)
        waiting.callback(due)


class PhaseTime:
    """The seconds since ``began`` in which the run was not paused."""

    def __init__(self, time: PausedTime, began: float) -> None:
        self._time = time
        self.began = began

    @property
    def seconds(self) -> float:
        """Seconds without pauses until now."""
        return self.after(self._time.clock.seconds())

    def after(self, moment: float) -> float:
        """Seconds without pauses until a moment of the clock."""
        moment = min(moment, max(self.began, self._time.pauses.without(moment)))
        return moment - self.began - self._time.pauses.within(self.began, moment)

    def moment(self, seconds: float) -> float:
        """The moment of the clock at which these seconds have passed, as far as the pauses are known."""
        return self._time.pauses.moment(self.began, seconds)

    async def until(self, seconds: float) -> None:
        """Return when these seconds have passed."""
        while (left := self.moment(seconds) - self._time.clock.seconds()) > 0.0:
            await self._time.wait(max(LEAST_SECONDS, left))
