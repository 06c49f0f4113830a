"""The numbers of events and exchanges: each worker counts its own, and the front numbers them as they arrive."""

from __future__ import annotations

from bisect import bisect_right

MOST_RUNS = 100_000  # more than a worker has events and exchanges to show; ours


class Numbers:
    """Translates the numbers of one worker and those of the front; both only grow.

    Consecutive numbers of the worker that got consecutive numbers of the front are one run.
    """

    def __init__(self) -> None:
        self._own: list[int] = []  # the first number of each run, in the worker
        self._front: list[int] = []  # … and in the front
        self._counts: list[int] = []

    def add(self, own: int, front: int, count: int = 1) -> None:
        """The next numbers of the worker, from ``own`` on, are ``front`` and those after it."""
        if self._own and own == self._own[-1] + self._counts[-1] and front == self._front[-1] + self._counts[-1]:
            self._counts[-1] += count
            return
        if len(self._own) >= MOST_RUNS:
            for numbers in (self._own, self._front, self._counts):
                del numbers[: MOST_RUNS // 2]
        self._own.append(own)
        self._front.append(front)
        self._counts.append(count)

    def of_front(self, own: int) -> int:
        """The front's number for one of the worker; 0 where it has none."""
        place = bisect_right(self._own, own) - 1
        if place < 0 or own - self._own[place] >= self._counts[place]:
            return 0
        return self._front[place] + own - self._own[place]

    def last_of_worker(self, front: int) -> int:
        """The worker's last number that is not above ``front``; -1 where all are."""
        place = bisect_right(self._front, front) - 1
        if place < 0:
            return -1
        return self._own[place] + min(front - self._front[place], self._counts[place] - 1)
