"""Measures the clock of a shard against that of the run, over the control link. No I/O.

As in NTP (RFC 5905, 8): the shard's answer is taken as made in the middle between question and arrival, and the sample
with the shortest round trip counts, since its error is at most half of that.
"""

from __future__ import annotations

from math import isfinite

import msgspec

from agent.load.control.messages import ClockAnswer, ControlError

SAMPLES = 8
AGAIN_SECONDS = 30.0  # between two measurements: clocks of machines drift apart by some ten µs a second


class ClockOffset(msgspec.Struct, frozen=True):
    """What the shard adds to its monotonic clock, and how its system's wall clock differs from the run's; seconds."""

    offset: float
    wall: float
    """How far the wall clock of the shard's machine is ahead."""
    round_trip: float

    @property
    def facts(self) -> dict[str, float]:
        """For ``generator.workers`` of the results."""
        return {"ahead_ms": round(self.wall * 1000, 3), "error_ms": round(self.round_trip * 500, 3)}


class ShardClock:
    """The samples of one measurement of a shard's clock."""

    def __init__(self) -> None:
        self.best: ClockOffset | None = None
        self._samples = 0
        self._asked: float | None = None

    @property
    def is_measured(self) -> bool:
        """Whether there are enough samples."""
        return self._samples >= SAMPLES

    def ask(self, now: float) -> float:
        """What to send in the next question, at ``now`` of the run's clock."""
        self._asked = now
        return now

    def answered(self, answer: ClockAnswer, now: float) -> None:
        """An answer arrived at ``now`` of the run's clock. Raises ControlError for one that nobody asked for."""
        asked, self._asked = self._asked, None
        round_trip = now - answer.sent
        in_time = asked is not None and answer.sent == asked and round_trip >= 0.0
        if not in_time or not isfinite(answer.ticks) or not isfinite(answer.wall):
            raise ControlError("Expected an answer to the last clock question, found another one.")
        self._samples += 1
        if self.best is None or round_trip < self.best.round_trip:
            middle = (answer.sent + now) / 2
            self.best = ClockOffset(middle - answer.ticks, answer.wall - middle, round_trip)
