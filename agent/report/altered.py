"""The changes of a running scenario, its pauses and changed rates, as the results tell them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from agent.measure.pauses import Pauses
from agent.measure.summaries import ChangeSummary, PhaseSummary
from agent.measure.timeline import Second
from agent.report.numbers import counted, listed, seconds

MOST_NAMED = 3  # phases in one sentence


def changes_told(changes: Sequence[ChangeSummary], phases: Sequence[PhaseSummary], duration_s: float) -> str | None:
    """The changes in one sentence; None if there were none."""
    if not changes:
        return None
    parts = [*_paused(changes, phases, duration_s), *_rates(changes)]
    by_hand = any(change.by == "control" for change in changes)
    source = "through the control API" if by_hand else "as the scenario plans"
    return f"The running scenario was changed {source}: {'; '.join(parts)}."


def _paused(changes: Sequence[ChangeSummary], phases: Sequence[PhaseSummary], duration_s: float) -> Iterator[str]:
    pauses = pauses_of(changes)
    number = sum(1 for _ in pauses)
    if not number:
        return
    total = pauses.within(0.0, max(duration_s, changes[-1].at_s))
    in_phases = [f"{phase.name} for {seconds(phase.paused_s)}" for phase in phases if phase.paused_s]
    more = [f"{counted(len(in_phases) - MOST_NAMED, 'more phase')}"] if len(in_phases) > MOST_NAMED else []
    named = f" ({listed([*in_phases[:MOST_NAMED], *more])})" if in_phases else ""
    yield f"paused for {seconds(total)} in {counted(number, 'pause')}{named}"


def _rates(changes: Sequence[ChangeSummary]) -> Iterator[str]:
    names = list(dict.fromkeys(change.phase for change in changes if change.what == "rate"))
    for name in names[:MOST_NAMED]:
        of_phase = [change for change in changes if change.what == "rate" and change.phase == name]
        last = of_phase[-1]
        now = f"{last.factor:g} times the planned rate" if last.rate is None else f"{last.rate:g} per second"
        yield f"rate of the phase {name} changed {counted(len(of_phase), 'time')}, at last to {now}"
    if len(names) > MOST_NAMED:
        yield f"rates of {counted(len(names) - MOST_NAMED, 'more phase')} changed"


def pauses_of(changes: Iterable[ChangeSummary]) -> Pauses:
    """The pauses among the changes, in seconds from the start of the run."""
    pauses = Pauses()
    for change in changes:
        if change.what == "pause":
            pauses.pause(change.at_s)
        elif change.what == "resume":
            pauses.resume(change.at_s)
    return pauses


def altered(changes: Sequence[ChangeSummary], timeline: Sequence[Second]) -> frozenset[str]:
    """The operations of which one ended after the first change: their rates are not those of the plan alone."""
    if not changes:
        return frozenset()
    first = int(min(change.at_s for change in changes))
    return frozenset(name for row in timeline if row.t >= first for name in row.operations)


def same_changes(one: Sequence[ChangeSummary], other: Sequence[ChangeSummary]) -> bool:
    """Whether two runs were changed in the same way at the same times, no matter by whom."""
    return sorted(map(_key, one)) == sorted(map(_key, other))


def _key(change: ChangeSummary) -> tuple[str, str, int, float, float]:
    """A change of a rate belongs to a second of its phase, which may start earlier or later in the other run."""
    at = change.at_s if change.phase_s is None else change.phase_s
    return change.what, change.phase or "", round(at * 1000), change.rate or 0.0, change.factor or 0.0
