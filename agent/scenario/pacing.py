"""The pace of a phase, from its keys or the defaults in ``[load]``: an arrival plan, or a concurrency.

For scenarios that ``reading`` has checked.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from agent.errors import MisuseError, OperatorError
from agent.scenario.arrivals import ArrivalPlan, AtOnce, Burst, Constant, Poisson, Ramp, Replay, Shape, Steps
from agent.scenario.types import ArrivingPhase, Change, EnrollPhase, LoadPart, PhaseBase


class Closed(msgspec.Struct, frozen=True):
    """A closed model: ``concurrency`` Macs of the whole fleet are active, the next starts when one finishes.

    ``duration`` (seconds; None: until each Mac has finished) ends it; ``again``: after the last Mac the first repeats.
    """

    concurrency: int
    duration: float | None = None
    again: bool = False


def pace(phase: ArrivingPhase, load: LoadPart) -> ArrivalPlan | Closed:
    """The pace of ``phase``. Raises MisuseError for a phase that was not checked."""
    enrolls = isinstance(phase, EnrollPhase)
    again = phase.duration is not None and not enrolls
    concurrency = phase_concurrency(phase, load)
    if concurrency is not None:
        return Closed(concurrency, phase.duration, again)
    shape = _shape(phase, load)
    if isinstance(shape, Replay):
        return ArrivalPlan(shape, phase.duration, again=not enrolls)
    if enrolls and isinstance(shape, Ramp):
        return ArrivalPlan(shape)
    return ArrivalPlan(shape, phase.duration, again)


def factor_of(phase: PhaseBase, load: LoadPart, *, rate: float | None = None, factor: float | None = None) -> float:
    """The factor of a changed rate, by which the phase goes through its schedule. Raises OperatorError."""
    planned = planned_rate(phase, load)
    if planned is None:
        raise OperatorError(
            f'Expected a phase whose arrivals have a rate, found "{phase.name}", which has none. Change another phase.'
        )
    if rate is None or factor is not None:
        if factor is None or rate is not None:
            raise OperatorError("Expected either rate or factor, found both or neither. Give one of them.")
        return factor
    if not isinstance(planned, float):
        raise OperatorError(
            f'Expected factor for the phase "{phase.name}", whose arrivals are "{planned}", found rate. Give factor.'
        )
    return rate / planned


def planned_rate(phase: PhaseBase, load: LoadPart) -> float | str | None:
    """The rate of constant and Poisson arrivals, the name of other shapes; None for a phase without a schedule."""
    if not isinstance(phase, ArrivingPhase) or phase_concurrency(phase, load) is not None:
        return None
    arrivals = phase_arrivals(phase, load)
    if arrivals not in ("constant", "poisson"):
        return arrivals
    rate = phase_rate(phase, load)
    return None if rate is None else float(rate)


def factors(changes: Iterable[Change], phase: PhaseBase, load: LoadPart) -> list[tuple[float, float]]:
    """The changed rates of a phase: from which second of the phase on which factor applies."""
    return [
        (change.at, factor_of(phase, load, rate=change.rate, factor=change.factor))
        for change in changes
        if change.what == "rate" and change.phase == phase.name
    ]


def phase_concurrency(phase: ArrivingPhase, load: LoadPart) -> int | None:
    """The number of Macs active at a time; None for a schedule."""
    if phase.concurrency is not None:
        return phase.concurrency
    return load.concurrency if phase.arrivals is None and phase.rate is None else None


def phase_arrivals(phase: ArrivingPhase, load: LoadPart) -> str:
    """The name of the shape of arrivals, for a schedule."""
    return phase.arrivals or load.arrivals


def phase_rate(phase: ArrivingPhase, load: LoadPart) -> float | None:
    """The rate of constant and Poisson arrivals, and the first rate of a ramp; None for all at once."""
    return load.rate if phase.rate is None else phase.rate


def _shape(phase: ArrivingPhase, load: LoadPart) -> Shape:
    rate = phase_rate(phase, load)
    match phase_arrivals(phase, load):
        case "constant":
            return AtOnce() if rate is None else Constant(rate)
        case "poisson" if rate is not None:
            return Poisson(rate)
        case "ramp" if rate is not None and phase.to_rate is not None and phase.duration is not None:
            return Ramp(rate, phase.to_rate, phase.duration)
        case "step":
            return Steps(phase.steps)
        case "burst" if phase.burst is not None and phase.every is not None:
            return Burst(phase.burst, phase.every)
        case "replay":
            return Replay(phase.replay)
    raise MisuseError(f'the phase "{phase.name}" was not checked: its arrivals lack what they need')
