"""How far a phase has come in one shard: what a resumed run goes on from, and what is kept for the next process."""

from __future__ import annotations

from typing import Protocol

import msgspec

from agent.measure.live import PhaseState

RESUMED = "the Mac's enrollment went on in another process: the run was resumed"


class Earlier(msgspec.Struct, frozen=True):
    """What earlier processes of a resumed run did of a phase; by default nothing."""

    state: PhaseState = msgspec.field(default_factory=PhaseState)
    """What they did. Operations whose end is not known are cut short."""
    reached: int = 0
    """How many of the shard's operations they took from the schedule."""
    elapsed: float = 0.0
    """How long the phase ran there, in seconds."""
    again: tuple[int, ...] = ()
    """The enrollments, or set-ups for LOM, that were in progress, by their places in the schedule: others need them."""


class Kept(Protocol):
    """Keeps how far a phase has come."""

    def reached(self, count: int, elapsed: float) -> None:
        """The schedule's first ``count`` operations were started or dropped, ``elapsed`` seconds from its start."""

    def begun(self, place: int) -> None:
        """An operation started."""

    def ended(self, place: int) -> None:
        """It ended."""
