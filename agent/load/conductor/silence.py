"""Detects workers that send nothing: a worker sends at least one message per second, also without any load.

A worker that is stopped (SIGSTOP), swapped out or in an endless loop is reported as silent; it is back with its next
message, and is given up after ``load.worker_timeout`` seconds without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from twisted.internet.task import LoopingCall

from agent.load.conductor.record import WorkerRecord

LOOK_SECONDS = 1.0
SILENT_LOOKS = 5  # after which a worker is reported as silent
LOST_LOOKS = 10  # in which a worker whose control link broke has to end by itself
STOP_LOOKS = 5  # in which a worker has to confirm Finish when the run is stopped


class Owner(Protocol):
    """The receiver of what SilenceWatch detects. Workers are identified by their numbers."""

    def silent(self, number: int, seconds: float) -> None:
        """A worker has sent nothing for ``seconds``."""

    def back(self, number: int, seconds: float) -> None:
        """A silent worker has sent a message, after ``seconds``."""

    def give_up(self, number: int, problem: str) -> None:
        """Do not wait for a worker any longer."""


class SilenceWatch:
    """Counts its own checks instead of reading the clock: a stall of this process makes no worker silent."""

    def __init__(self, reactor: Any, workers: Sequence[WorkerRecord], owner: Owner, patience: float) -> None:
        self._workers = workers
        self._owner = owner
        self._patience = patience
        self._looks = [0] * len(workers)
        self._stopping = False
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor

    def begin(self) -> None:
        """Start checking."""
        self._looking.start(LOOK_SECONDS, now=False)

    def stop(self) -> None:
        """Stop checking."""
        if self._looking.running:
            self._looking.stop()

    def hurry(self) -> None:
        """The run is being stopped: give up workers that do not confirm it."""
        self._stopping = True

    def heard(self, number: int) -> None:
        """A worker sent a message."""
        seconds, self._looks[number] = self._looks[number] * LOOK_SECONDS, 0
        worker = self._workers[number]
        if worker.silent:
            worker.silent = False
            worker.silent_s += seconds
            self._owner.back(number, seconds)

    def silent_s(self, number: int) -> float:
        """The seconds for which a worker was silent, so far."""
        worker = self._workers[number]
        return worker.silent_s + (self._looks[number] * LOOK_SECONDS if worker.silent else 0.0)

    def _look(self) -> None:
        for number, worker in enumerate(self._workers):
            if worker.ended.called or (worker.link_error is None and (worker.ending or not worker.is_ready)):
                continue
            self._looks[number] += 1
            looks = self._looks[number]
            seconds = looks * LOOK_SECONDS
            if worker.link_error is not None:
                if looks >= LOST_LOOKS:
                    self._owner.give_up(number, f"{worker.name(number)} lost its control link: {worker.link_error}")
            elif self._stopping and looks >= STOP_LOOKS:
                self._owner.give_up(number, f"{worker.name(number)} did not answer when the run was stopped")
            elif seconds >= self._patience:
                what = f"was given up: it said nothing for {seconds:g} s (load.worker_timeout)"
                self._owner.give_up(number, f"{worker.name(number)} {what}")
            elif looks == SILENT_LOOKS:
                worker.silent = True
                self._owner.silent(number, seconds)
