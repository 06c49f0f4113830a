"""The selection of phases to show: those that run, and those right before and after them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from agent.measure.live import PhaseView


class PhaseStatus(StrEnum):
    """The status of a phase."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


def status_of(phase: PhaseView) -> PhaseStatus:
    """The status of a phase."""
    if phase.finished_s is not None:
        return PhaseStatus.DONE
    return PhaseStatus.WAITING if phase.started_s is None else PhaseStatus.RUNNING


def running(phases: Sequence[PhaseView]) -> list[PhaseView]:
    """The phases that run."""
    return [phase for phase in phases if status_of(phase) is PhaseStatus.RUNNING]


def nearest(phases: Sequence[PhaseView], room: int) -> list[int]:
    """The positions of at most ``room`` phases, in order: first those that run, then the ones nearest to them.

    If none runs, the next phase takes their place; after the last phase, the last one.
    """
    if not phases:
        return []
    statuses = [status_of(phase) for phase in phases]
    middle = [position for position, status in enumerate(statuses) if status is PhaseStatus.RUNNING]
    if not middle:
        waiting = (position for position, status in enumerate(statuses) if status is PhaseStatus.WAITING)
        middle = [next(waiting, len(phases) - 1)]
    distances = _distances(len(phases), middle)
    # Of two at the same distance, the later one is preferred.
    by_interest = sorted(range(len(phases)), key=lambda position: (distances[position], -position))
    if len(middle) > room:
        by_interest = middle
    return sorted(by_interest[: max(0, room)])


def counted_statuses(phases: Sequence[PhaseView]) -> str:
    """The number of phases by status: ``40 done, 2 running, 51 waiting``."""
    statuses = [status_of(phase) for phase in phases]
    order = (PhaseStatus.DONE, PhaseStatus.RUNNING, PhaseStatus.WAITING)
    return ", ".join(f"{statuses.count(status):,} {status}" for status in order if status in statuses)


def _distances(count: int, middle: Sequence[int]) -> list[int]:
    """The distance of each position from the nearest one of ``middle``."""
    distances = [count] * count
    for position in middle:
        distances[position] = 0
    for position in range(1, count):
        distances[position] = min(distances[position], distances[position - 1] + 1)
    for position in range(count - 2, -1, -1):
        distances[position] = min(distances[position], distances[position + 1] + 1)
    return distances
