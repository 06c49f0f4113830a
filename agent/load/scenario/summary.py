"""What a scenario comes to, for the person who is about to run it: how many of what, how fast, for how long."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from agent.fleet.population import Population
from agent.load.arrivals import ArrivalPlan, AtOnce, Burst, Constant, Poisson, Ramp, Replay, Shape, Steps, expected
from agent.load.scenario.check_tables import has_embedded_lab
from agent.load.scenario.pacing import Closed, pace
from agent.load.scenario.targets import chosen_macs, chosen_segments, lom_requests
from agent.load.scenario.types import (
    ArrivingPhase,
    CheckinPhase,
    CommandPhase,
    EnrollPhase,
    IdlePhase,
    LOMPhase,
    LOMSetupPhase,
    Phase,
    PowerCutPhase,
    Scenario,
)

_STEPS_SHOWN = 4


@dataclass(frozen=True, slots=True)
class PhaseLine:
    """One phase: when it ``begins`` at the earliest and how long it ``takes`` at least (seconds; inf: not known)."""

    name: str
    begins: float
    what: str
    how: str
    takes: float

    @property
    def known(self) -> bool:
        """Whether its length is settled."""
        return math.isfinite(self.takes)


@dataclass(frozen=True, slots=True)
class Summary:
    """``facts`` are of (what, how it is), ``seconds`` the least that the run takes; ``known`` says that it is all."""

    facts: tuple[tuple[str, str], ...]
    phases: tuple[PhaseLine, ...]
    seconds: float
    known: bool
    notes: tuple[str, ...]


def summary(scenario: Scenario) -> Summary:
    """The summary of a scenario that was read."""
    fleet = scenario.fleet
    population = Population(fleet.seed, fleet.devices, fleet.segment_size)
    lines: list[PhaseLine] = []
    begins = 0.0
    for phase in scenario.phases:
        begins = begins if phase.start_at is None else phase.start_at
        line = _phase_line(phase, scenario, population, begins)
        lines.append(line)
        if phase.wait and line.known:
            begins += line.takes
    known = all(line.known for line in lines)
    last = max((line.begins + line.takes for line in lines if line.known), default=0.0)
    return Summary(tuple(_facts(scenario, population)), tuple(lines), max(last, begins), known, tuple(_notes(scenario)))


def length_words(seconds: float) -> str:
    """A length of time for a person: ``350 ms``, ``20 s``, ``2 min 5 s``, ``8 h``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds else "0 s"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    return " ".join([f"{number} {unit}" for number, unit in parts if number][:2])


def _facts(scenario: Scenario, population: Population) -> Iterator[tuple[str, str]]:
    fleet, server, push, load = scenario.fleet, scenario.server, scenario.push, scenario.load
    macs, segments = _counted(fleet.devices, "Mac"), _counted(population.segments, "segment")
    yield "Fleet", f'{macs} in {segments} of {fleet.segment_size}, seed "{fleet.seed}"'
    behaves = [f"boot {fleet.boot} s", f"shutdown {fleet.shutdown} s"]
    if fleet.not_now:
        behaves.append(f"NotNow with probability {fleet.not_now:g}")
    if fleet.not_now_for:
        behaves.append(f"NotNow for {length_words(fleet.not_now_for)} from the start")
    yield "Macs", ", ".join(behaves)
    if has_embedded_lab(server):
        yield "Server", f"the embedded lab; identities by {server.identity.upper()}"
    else:
        commands = "nobody queues commands" if server.adapter == "none" else f"commands by {server.adapter}"
        yield "Server", f"enrolment at {server.enroll}; {commands}"
    yield "Push", f"a gateway on {push.listen}" if push.enabled else "none; the Macs look by themselves"
    yield "LOM network", scenario.lom.network
    yield "Workers", "one a core" if not load.workers else str(load.workers)


def _phase_line(phase: Phase, scenario: Scenario, population: Population, begins: float) -> PhaseLine:
    if isinstance(phase, IdlePhase):
        looks = "" if phase.poll is None else f", each looks every {length_words(phase.poll)}"
        macs = _counted(len(chosen_macs(phase, population)), "Mac")
        return PhaseLine(phase.name, begins, macs + looks, "", phase.seconds)
    if isinstance(phase, PowerCutPhase):
        segments = _counted(len(chosen_segments(phase, population)), "segment")
        how = "all at once" if not phase.spread else f"over {length_words(phase.spread)}"
        what = f"{segments} without power for {length_words(phase.seconds)}"
        return PhaseLine(phase.name, begins, what, how, phase.spread + phase.seconds + phase.return_spread)
    targets = (
        len(lom_requests(phase, population)) if isinstance(phase, LOMPhase) else len(chosen_macs(phase, population))
    )
    plan = pace(phase, scenario.load)
    if isinstance(plan, Closed):
        count, again = (math.inf, True) if plan.again else (targets, False)
        takes = math.inf if phase.duration is None else phase.duration
        how = f"{plan.concurrency:,} at a time"
    else:
        count, last = expected(plan, targets)
        again = count > targets
        takes = last if plan.duration is None else plan.duration
        how = _how(plan)
    what = _what(phase, count)
    if again:
        what += f", round and round {targets:,}"
    return PhaseLine(phase.name, begins, what, how, takes)


def _what(phase: ArrivingPhase, count: float) -> str:
    match phase:
        case EnrollPhase():
            return _counted(count, "enrolment")
        case CheckinPhase():
            return f"{_counted(count, 'session')}, {'by push' if phase.by == 'push' else 'by themselves'}"
        case CommandPhase(request=request):
            return f"{_counted(count, 'command')} {(request or {}).get('RequestType')}"
        case LOMSetupPhase():
            return f"{_counted(count, 'Mac')} set up" + (", with a LOM profile" if phase.install else "")
        case LOMPhase():
            size = "a whole segment" if not phase.per_request else _counted(phase.per_request, "Device")
            return f"{_counted(count, 'LOMDeviceRequest')}, {phase.request} of {size} each"
    return ""


def _how(plan: ArrivalPlan) -> str:
    match plan.shape:
        case Replay(offsets):
            return f"at {_counted(len(offsets), 'recorded moment')}"
        case shape:
            return _shape_words(shape)


def _shape_words(shape: Shape) -> str:
    match shape:
        case AtOnce():
            return "all at once"
        case Constant(rate):
            return f"{rate:g} a second"
        case Poisson(rate):
            return f"{rate:g} a second on average (Poisson)"
        case Ramp(rate, to_rate, seconds):
            return f"{rate:g} to {to_rate:g} a second within {length_words(seconds)}"
        case Steps(steps):
            shown = [f"{rate:g} a second for {length_words(seconds)}" for rate, seconds in steps[:_STEPS_SHOWN]]
            return ", then ".join(shown) + (", …" if len(steps) > _STEPS_SHOWN else "")
        case Burst(size, every):
            return f"{size:,} at once every {length_words(every)}"
    return ""


def _notes(scenario: Scenario) -> Iterator[str]:
    """What can be meant, but is more often forgotten."""
    kinds = [phase.kind for phase in scenario.phases]
    if "lom" in kinds and "lom_setup" not in kinds[: kinds.index("lom")]:
        yield "No phase of kind lom_setup comes before the first lom: Macs that are not set up for LOM refuse."
    if not scenario.limits:
        yield "No limits: the run fails only where an operation fails."


def _counted(number: float, noun: str) -> str:
    if math.isinf(number):
        return f"{noun}s"
    return f"{number:,.0f} {noun}{'' if number == 1 else 's'}"
