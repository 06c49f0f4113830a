"""Which phases of many a person wants to see now: those that run, and what comes right before and after them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from agent.measure.live import PhaseView


class Stage(StrEnum):
    """Where a phase is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


def stage_of(phase: PhaseView) -> Stage:
    """Where a phase is."""
    if phase.over is not None:
        return Stage.DONE
    return Stage.WAITING if phase.begun is None else Stage.RUNNING


def running(phases: Sequence[PhaseView]) -> list[PhaseView]:
    """Those that run."""
    return [phase for phase in phases if stage_of(phase) is Stage.RUNNING]


def nearest(phases: Sequence[PhaseView], room: int) -> list[int]:
    """The positions of at most ``room`` phases, in order: those that run first, then whatever is next to one.

    Between phases, where none runs, the next one is in the middle; after all of them, the last.
    """
    if not phases:
        return []
    stages = [stage_of(phase) for phase in phases]
    middle = [position for position, stage in enumerate(stages) if stage is Stage.RUNNING]
    if not middle:
        waiting = (position for position, stage in enumerate(stages) if stage is Stage.WAITING)
        middle = [next(waiting, len(phases) - 1)]
    distances = _distances(len(phases), middle)
    # Of two that are as near, the one to come is of more interest.
    by_interest = sorted(range(len(phases)), key=lambda position: (distances[position], -position))
    if len(middle) > room:
        by_interest = middle
    return sorted(by_interest[: max(0, room)])


def counted_stages(phases: Sequence[PhaseView]) -> str:
    """How many of them are where: ``40 done, 2 running, 51 waiting``."""
    stages = [stage_of(phase) for phase in phases]
    order = (Stage.DONE, Stage.RUNNING, Stage.WAITING)
    return ", ".join(f"{stages.count(stage):,} {stage}" for stage in order if stage in stages)


def _distances(count: int, middle: Sequence[int]) -> list[int]:
    """How far each position is from the nearest one of ``middle``."""
    distances = [count] * count
    for position in middle:
        distances[position] = 0
    for position in range(1, count):
        distances[position] = min(distances[position], distances[position - 1] + 1)
    for position in range(count - 2, -1, -1):
        distances[position] = min(distances[position], distances[position + 1] + 1)
    return distances
