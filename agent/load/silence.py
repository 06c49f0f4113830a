"""Which workers say nothing: each says something every second, also when it has nothing to do.

A worker that is stopped (SIGSTOP), swapped out or caught in a loop is named; it is back when it says something, and is
given up when it does not for too long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from twisted.internet.task import LoopingCall

from agent.load.run_record import WorkerRecord

LOOK_SECONDS = 1.0
SILENT_LOOKS = 5  # after which a worker is named
LOST_LOOKS = 10  # after which one whose control link is gone has to have ended by itself
STOP_LOOKS = 5  # after which one that is to end, and has not heard it, is not waited for


class Owner(Protocol):
    """Who is told. Workers go by their number."""

    def silent(self, number: int, seconds: float) -> None:
        """It has said nothing for so long."""

    def back(self, number: int, seconds: float) -> None:
        """It says something again, after so long."""

    def give_up(self, number: int, problem: str) -> None:
        """It is not waited for any more."""


class SilenceWatch:
    """Counts its own looks, not the clock: where this process itself stood still, no worker was silent."""

    def __init__(self, reactor: Any, workers: Sequence[WorkerRecord], owner: Owner, patience: float) -> None:
        self._workers = workers
        self._owner = owner
        self._patience = patience
        self._looks = [0] * len(workers)
        self._stopping = False
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor

    def begin(self) -> None:
        """Look from now on."""
        self._looking.start(LOOK_SECONDS, now=False)

    def stop(self) -> None:
        """Look no longer."""
        if self._looking.running:
            self._looking.stop()

    def hurry(self) -> None:
        """The run is to end: whoever says nothing is not waited for."""
        self._stopping = True

    def heard(self, number: int) -> None:
        """A worker said something."""
        seconds, self._looks[number] = self._looks[number] * LOOK_SECONDS, 0
        worker = self._workers[number]
        if worker.silent:
            worker.silent = False
            worker.silent_s += seconds
            self._owner.back(number, seconds)

    def silent_s(self, number: int) -> float:
        """For how many seconds a worker was silent, so far."""
        worker = self._workers[number]
        return worker.silent_s + (self._looks[number] * LOOK_SECONDS if worker.silent else 0.0)

    def _look(self) -> None:
        for number, worker in enumerate(self._workers):
            if worker.ended.called or worker.ending or (worker.link_error is None and not worker.is_ready):
                continue
            self._looks[number] += 1
            looks = self._looks[number]
            seconds = looks * LOOK_SECONDS
            if worker.link_error is not None:
                if looks >= LOST_LOOKS:
                    self._owner.give_up(number, f"worker {number} lost its control link: {worker.link_error}")
            elif self._stopping and looks >= STOP_LOOKS:
                self._owner.give_up(number, f"worker {number} did not answer when the run was stopped")
            elif seconds >= self._patience:
                self._owner.give_up(
                    number, f"worker {number} was given up: it said nothing for {seconds:g} s (load.worker_timeout)"
                )
            elif looks == SILENT_LOOKS:
                worker.silent = True
                self._owner.silent(number, seconds)
