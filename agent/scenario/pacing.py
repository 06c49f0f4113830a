"""The pace of a phase, from its keys or the defaults in ``[load]``: an arrival plan, or a concurrency.

For scenarios that ``reading`` has checked.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.errors import MisuseError
from agent.scenario.arrivals import ArrivalPlan, AtOnce, Burst, Constant, Poisson, Ramp, Replay, Shape, Steps
from agent.scenario.types import ArrivingPhase, EnrollPhase, LoadPart


@dataclass(frozen=True, slots=True)
class Closed:
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
