"""The pauses of a run, and how times move because of them. No I/O, no clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

Interval = tuple[float, float]


class Pauses:
    """Intervals in which a run starts nothing, in ascending order, on one clock. The last one may have no end yet."""

    def __init__(self, intervals: Iterable[Interval] = ()) -> None:
        self._intervals = list(intervals)

    def __iter__(self) -> Iterator[Interval]:
        return iter(self._intervals)

    @property
    def is_open(self) -> bool:
        """Whether the last pause has no end."""
        return bool(self._intervals) and self._intervals[-1][1] == math.inf

    def pause(self, at: float) -> None:
        """Pause from ``at`` on. Does nothing if the last pause has no end."""
        if not self.is_open:
            self._intervals.append((max(at, self._intervals[-1][1]) if self._intervals else at, math.inf))

    def resume(self, at: float) -> None:
        """End the last pause at ``at``. Does nothing if it has an end."""
        if self.is_open:
            began, _ = self._intervals[-1]
            self._intervals[-1] = began, max(began, at)

    def covers(self, moment: float) -> bool:
        """Whether ``moment`` is in a pause."""
        return any(began <= moment < ended for began, ended in self._intervals)

    def without(self, moment: float) -> float:
        """``moment``, or when its pause began: a pause is one moment, so rounding cannot change an order."""
        for began, ended in reversed(self._intervals):
            if began <= moment <= ended:
                moment = began
        return moment

    def within(self, start: float, end: float) -> float:
        """The seconds of pauses between ``start`` and ``end``."""
        return sum(max(0.0, min(end, ended) - max(start, began)) for began, ended in self._intervals)

    def moment(self, start: float, seconds: float) -> float:
        """When ``seconds`` without pauses have passed since ``start``; infinity in a pause without end.

        What is due when a pause begins is due when it ends.
        """
        moment = start + seconds
        for began, ended in self._intervals:
            if ended <= start:
                continue
            if max(began, start) > moment:
                break
            moment += ended - max(began, start)
        return moment

    def shown(self, until: float, offset: float = 0.0) -> list[Interval]:
        """The pauses that began before ``until``, ended at ``until`` at the latest, moved by ``offset``."""
        return [(began + offset, min(ended, until) + offset) for began, ended in self._intervals if began < until]
