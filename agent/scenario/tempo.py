"""The rate of a phase while it changes: how far its schedule is at each moment. No I/O, no clock.

A changed rate is a factor by which the phase goes through its schedule faster or slower from one moment on. The
schedule stays the same, so each shard makes the same arrivals of it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from operator import itemgetter

from agent.errors import MisuseError

_second = itemgetter(1)


class Tempo:
    """Factors by the seconds of the phase from which they apply; 1 from the start. Seconds do not include pauses."""

    def __init__(self, changes: Iterable[tuple[float, float]] = ()) -> None:
        self._changes: dict[float, float] = {}
        self._pieces = [(0.0, 0.0, 1.0)]  # seconds of the phase, seconds of the schedule, factor from there on
        for at, factor in changes:
            self.change(at, factor)

    def change(self, at: float, factor: float) -> None:
        """Apply ``factor`` from ``at`` on, until the next change. Raises MisuseError unless it is above 0."""
        if not 0 < factor < math.inf or not 0 <= at < math.inf:
            raise MisuseError(f"Expected a factor above 0 from some second on, found {factor} from {at}.")
        self._changes[at] = factor
        pieces = [(0.0, 0.0, 1.0)]
        for moment in sorted(self._changes):
            began, place, before = pieces[-1]
            pieces.append((moment, place + (moment - began) * before, self._changes[moment]))
        self._pieces = pieces

    def factor(self, seconds: float) -> float:
        """The factor at this moment of the phase."""
        return self._pieces[bisect_right(self._pieces, seconds, key=lambda piece: piece[0]) - 1][2]

    def place(self, seconds: float) -> float:
        """How many seconds of its schedule the phase has gone through after ``seconds``."""
        began, place, factor = self._pieces[bisect_right(self._pieces, seconds, key=lambda piece: piece[0]) - 1]
        return place + (seconds - began) * factor

    def moment(self, place: float) -> float:
        """The second of the phase at which it reaches ``place`` of its schedule."""
        if len(self._pieces) == 1:
            return place
        began, before, factor = self._pieces[bisect_right(self._pieces, place, key=_second) - 1]
        return began + (place - before) / factor
