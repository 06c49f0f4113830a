"""The summary of a scenario for a dry run: the number, rate and duration of the operations of each phase."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec

from agent.faults.rules import Rule
from agent.fleet.population import Population
from agent.scenario.arrivals import AtOnce, Burst, Constant, Poisson, Ramp, Replay, Shape, Steps, expected
from agent.scenario.checks.tables import has_embedded_lab
from agent.scenario.pacing import Closed, factors, pace
from agent.scenario.targets import chosen_macs, chosen_segments, lom_requests
from agent.scenario.tempo import Tempo
from agent.scenario.types import (
    ArrivingPhase,
    Change,
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
_RULES_SHOWN = 6


class PhaseLine(msgspec.Struct, frozen=True):
    """One phase in the summary."""

    name: str
    begins: float
    """Its earliest start, in seconds from the start of the run."""
    settled: bool
    """False if it waits for a phase of unknown duration and may start later."""
    what: str
    """Its operations and their number."""
    how: str
    """Its pace."""
    takes: float
    """Its shortest duration, in seconds; infinity if unknown."""

    @property
    def known(self) -> bool:
        """Whether its duration is known."""
        return math.isfinite(self.takes)


class Summary(msgspec.Struct, frozen=True):
    """The summary of a scenario."""

    facts: tuple[tuple[str, str], ...]
    """Names and values, such as ("Workers", "one per core")."""
    phases: tuple[PhaseLine, ...]
    seconds: float
    """The shortest duration of the run."""
    known: bool
    """Whether ``seconds`` is the whole duration by schedule."""
    notes: tuple[str, ...]
    """Likely mistakes."""


def summary(scenario: Scenario) -> Summary:
    """The summary of a checked scenario."""
    fleet = scenario.fleet
    population = fleet.population
    lines: list[PhaseLine] = []
    begins, settled = 0.0, True
    for phase in scenario.phases:
        begins = max(begins, phase.start_at or 0.0)
        what, how, takes = _phase_words(phase, scenario, population)
        line = PhaseLine(phase.name, begins, settled, what, how, takes)
        lines.append(line)
        if phase.wait:
            begins += line.takes if line.known else 0.0
            settled = settled and line.known
    known = all(line.known for line in lines)
    last = max((line.begins + line.takes for line in lines if line.known), default=0.0)
    return Summary(tuple(_facts(scenario, population)), tuple(lines), max(last, begins), known, tuple(_notes(scenario)))


def length_words(seconds: float) -> str:
    """A duration in words: ``350 ms``, ``20 s``, ``2 min 5 s``, ``8 h``."""
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
        commands = "no API for commands" if server.adapter == "none" else f"commands by {server.adapter}"
        yield "Server", f"enrollment at {server.enroll}; {commands}"
    yield "Push", f"a gateway on {push.listen}" if push.enabled else "none; the Macs poll for commands"
    yield "LOM network", scenario.lom.network
    if scenario.rules:
        yield "Fault rules", ", ".join(_rule_words(scenario.rules))
    if scenario.changes:
        yield "Changes", ", ".join(_change_words(scenario.changes))
    by_core = "one per core, one fewer for the embedded lab" if has_embedded_lab(server) else "one per core"
    yield "Workers", str(load.workers) if load.workers else by_core


def _rule_words(rules: Sequence[Rule]) -> Iterator[str]:
    for rule in rules[:_RULES_SHOWN]:
        name = f"{rule.id}: " if rule.id else ""
        yield f"{name}{rule.do} on {rule.on}" + (f" {rule.type}" if rule.type else "")
    if len(rules) > _RULES_SHOWN:
        yield f"{len(rules) - _RULES_SHOWN:,} more"


def _change_words(changes: Sequence[Change]) -> Iterator[str]:
    for change in changes[:_RULES_SHOWN]:
        if change.what == "rate":
            rate = f"{change.rate:g} per second" if change.factor is None else f"{change.factor:g} times the rate"
            yield f"{rate} after {length_words(change.at)} of {change.phase}"
        else:
            yield f"{change.what} after {length_words(change.at)}"
    if len(changes) > _RULES_SHOWN:
        yield f"{len(changes) - _RULES_SHOWN:,} more"


def _phase_words(phase: Phase, scenario: Scenario, population: Population) -> tuple[str, str, float]:
    """The operations of a phase, its pace, and its shortest duration in seconds; infinity if unknown."""
    if isinstance(phase, IdlePhase):
        macs = _counted(len(chosen_macs(phase, population)), "Mac")
        return (
            macs + ("" if phase.poll is None else f", each polls every {length_words(phase.poll)}"),
            "",
            phase.seconds,
        )
    if isinstance(phase, PowerCutPhase):
        segments = _counted(len(chosen_segments(phase, population)), "segment")
        how = "all at once" if not phase.spread else f"over {length_words(phase.spread)}"
        what = f"{segments} without power for {length_words(phase.seconds)}"
        return what, how, phase.spread + phase.seconds + phase.return_spread
    macs_or_requests = (
        lom_requests(phase, population) if isinstance(phase, LOMPhase) else chosen_macs(phase, population)
    )
    targets = len(macs_or_requests)
    plan = pace(phase, scenario.load)
    if isinstance(plan, Closed):
        what = _what(phase, math.inf if plan.again else targets)
        again, how = plan.again, f"{plan.concurrency:,} at a time"
        takes = math.inf if phase.duration is None else phase.duration
    else:
        tempo = Tempo(factors(scenario.changes, phase, scenario.load))
        count, last = expected(plan, targets, tempo)
        what, again, how = _what(phase, count), count > targets, _how(plan.shape)
        takes = last if plan.duration is None else plan.duration
    return what + (f", repeating {targets:,}" if again else ""), how, takes


def _what(phase: ArrivingPhase, count: float) -> str:
    match phase:
        case EnrollPhase():
            return _counted(count, "enrollment")
        case CheckinPhase():
            return f"{_counted(count, 'session')}, {'by push' if phase.by == 'push' else 'by polling'}"
        case CommandPhase(request=request):
            return f"{_counted(count, 'command')} {(request or {}).get('RequestType')}"
        case LOMSetupPhase():
            return f"{_counted(count, 'Mac')} set up" + (", with a LOM profile" if phase.install else "")
        case LOMPhase():
            size = "a whole segment" if not phase.per_request else _counted(phase.per_request, "Device")
            return f"{_counted(count, 'LOMDeviceRequest')}, {phase.request} of {size} each"
    return ""


def _how(shape: Shape) -> str:
    match shape:
        case AtOnce():
            return "all at once"
        case Constant(rate):
            return f"{rate:g} per second"
        case Poisson(rate):
            return f"{rate:g} per second on average (Poisson)"
        case Ramp(rate, to_rate, seconds):
            return f"{rate:g} to {to_rate:g} per second within {length_words(seconds)}"
        case Steps(steps):
            shown = [f"{rate:g} per second for {length_words(seconds)}" for rate, seconds in steps[:_STEPS_SHOWN]]
            return ", then ".join(shown) + (", …" if len(steps) > _STEPS_SHOWN else "")
        case Burst(size, every):
            return f"{size:,} at once every {length_words(every)}"
        case Replay(offsets):
            return f"at {_counted(len(offsets), 'recorded time')}"


def _notes(scenario: Scenario) -> Iterator[str]:
    """Likely mistakes that are not errors."""
    kinds = [phase.kind for phase in scenario.phases]
    if "lom" in kinds and "lom_setup" not in kinds[: kinds.index("lom")]:
        yield "No phase of kind lom_setup is before the first lom: Macs that are not set up for LOM refuse requests."
    if not scenario.limits:
        yield "No limits: the run fails only if an operation fails."


def _counted(number: float, noun: str) -> str:
    if math.isinf(number):
        return f"{noun}s"
    return f"{number:,.0f} {noun}{'' if number == 1 else 's'}"
