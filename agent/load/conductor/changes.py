"""The changes of a running scenario: pauses, and changed rates. Made by hand, or planned in the scenario.

A change applies at a moment that all shards know before: they get it LEAD_SECONDS earlier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from agent.errors import OperatorError
from agent.load.conductor.record import PhaseRecord
from agent.load.control.messages import ChangeRate, Message, Pause, Resume
from agent.load.phases.phase_time import PausedTime, PhaseTime
from agent.measure.pauses import Pauses
from agent.measure.summaries import ChangeSummary
from agent.measure.timeline import Targets
from agent.net.timing import Clock, DelayedCall, sleep
from agent.scenario.pacing import factor_of, factors, planned_rate
from agent.scenario.tempo import Tempo
from agent.scenario.types import MOST_CHANGES, Scenario

LEAD_SECONDS = 0.1  # between a request and its moment: more than a message to a shard takes
Author = Literal["control", "scenario"]


class CannotChange(OperatorError):
    """The change contradicts the present state of the run."""

    kind = "cannot_change"


class NoSuchPhase(OperatorError):
    """The scenario has no phase of this name."""

    kind = "no_such_phase"


class Elapsed:
    """The seconds of a run since it started, ``before`` of them in earlier processes, without those between two."""

    def __init__(self, clock: Clock, before: float = 0.0) -> None:
        self._clock = clock
        self.began = float(clock.seconds()) - before

    def seconds(self) -> float:
        """Seconds since the start."""
        return float(self._clock.seconds()) - self.began

    def callLater(self, delay: float, callable: Callable[..., object], *args: Any) -> DelayedCall:  # noqa: A002
        """Call after ``delay`` seconds."""
        return self._clock.callLater(delay, callable, *args)


class RunChanges:
    """The changes of one run from its start on. ``broadcast`` sends a message to every shard.

    ``began`` is the start of the run on its clock, by which the shards know when to pause; ``before`` are the seconds
    that earlier processes ran.
    """

    def __init__(
        self,
        clock: Clock,
        scenario: Scenario,
        phases: Sequence[PhaseRecord],
        broadcast: Callable[[Message], None],
        began: float,
        before: float = 0.0,
    ) -> None:
        self._scenario = scenario
        self._phases = phases
        self._broadcast = broadcast
        self._began = began
        self._over = False
        self._made: list[ChangeSummary] = []
        self._tempos = [Tempo() for _ in phases]
        self.elapsed = Elapsed(clock, before)
        self.time = PausedTime(self.elapsed)
        self.moments = Pauses()
        """The pauses on ``clock``."""
        self._planned: list[DelayedCall] = [
            clock.callLater(max(0.0, change.at - LEAD_SECONDS), self._change_pause, change.what, change.at, "scenario")
            for change in scenario.changes
            if change.what != "rate"
        ]

    async def end(self) -> None:
        """Every phase has ended: return when the run is not paused. No change can be made any more."""
        while self.time.pauses.is_open:
            await self.time.wait(math.inf)
        self.stop()
        await self.time.running()

    def give_up(self) -> None:
        """Every worker is lost: nobody has to resume the run."""
        self.stop()
        self.time.resume(self.elapsed.seconds())
        self.moments.resume(self.elapsed.began + self.elapsed.seconds())

    def stop(self) -> None:
        """Make no change any more."""
        self._over = True
        for each in self._planned:
            if each.active():
                each.cancel()

    @property
    def made(self) -> list[ChangeSummary]:
        """The changes until now, in the order of their times."""
        now = self.elapsed.seconds()
        return sorted([*(each for each in self._made if each.at_s <= now), *self._planned_rates(now)], key=_at)

    def rate(self, number: int) -> float | None:
        """The present rate of a phase with constant or Poisson arrivals; None of others."""
        planned = planned_rate(self._scenario.phases[number], self._scenario.load)
        return planned * self.factor(number) if isinstance(planned, float) else None

    def rates(self) -> dict[str, float]:
        """The present rate of each running phase with constant or Poisson arrivals."""
        rates = {}
        for number, phase in enumerate(self._phases):
            running = phase.started_s is not None and not phase.ended.called
            if running and (rate := self.rate(number)) is not None:
                rates[phase.name] = rate
        return rates

    def targets(self, t: int) -> Targets:
        """The pauses, and the rates at its end, of one second of the run."""
        rates = {}
        for number, phase in enumerate(self._phases):
            planned = planned_rate(self._scenario.phases[number], self._scenario.load)
            began, ended = phase.started_s, phase.finished_s
            if isinstance(planned, float) and began is not None and began < t + 1 and (ended is None or t < ended):
                second = PhaseTime(self.time, began).after(t + 1)
                rates[phase.name] = planned * self._tempos[number].factor(second)
        return Targets(self.time.pauses.within(t, t + 1), rates)

    def factor(self, number: int) -> float:
        """By how much a phase is faster than planned now."""
        started = self._phases[number].started_s
        return 1.0 if started is None else self._tempos[number].factor(PhaseTime(self.time, started).seconds)

    async def pause(self) -> None:
        """Start nothing more; returns when that is so. Raises CannotChange."""
        self._check()
        if self.time.pauses.is_open:
            raise CannotChange("Expected a run that is not paused, found a paused one. Resume it first.")
        await self._make("pause")

    async def resume(self) -> None:
        """Go on; returns when that is so. Raises CannotChange."""
        if not self.time.pauses.is_open:
            raise CannotChange("Expected a paused run, found one that is not paused. Pause it first.")
        await self._make("resume")

    async def change_rate(self, name: str, *, rate: float | None = None, factor: float | None = None) -> None:
        """Change the rate of a phase in progress; returns when that is so.

        Raises NoSuchPhase, CannotChange, and OperatorError for a rate that the phase cannot have.
        """
        number = next((each for each, phase in enumerate(self._phases) if phase.name == name), None)
        if number is None:
            names = ", ".join(phase.name for phase in self._phases)
            raise NoSuchPhase(f"Expected the name of a phase, one of {names}, found {name[:100]!r}.")
        record = self._phases[number]
        new = factor_of(self._scenario.phases[number], self._scenario.load, rate=rate, factor=factor)
        if record.started_s is None or record.ended.called:
            state = "not started" if record.started_s is None else "ended"
            raise CannotChange(f'Expected a phase in progress, found "{name}", which has {state}.')
        self._check()
        at = self.elapsed.seconds() + LEAD_SECONDS
        second = PhaseTime(self.time, record.started_s).after(at)
        self._tempos[number].change(second, new)
        self._broadcast(ChangeRate(number, second, new))
        self._made.append(
            ChangeSummary(at_s=at, what="rate", phase=name, phase_s=second, rate=rate, factor=factor, by="control")
        )
        await sleep(self.elapsed, LEAD_SECONDS)

    def _check(self) -> None:
        """Raises CannotChange after the last phase, and beyond what results record and a scenario repeats."""
        if self._over:
            raise CannotChange("Expected a run with a phase that has not ended, found none. Change it earlier.")
        if len(self._made) >= MOST_CHANGES:
            raise CannotChange(f"Expected at most {MOST_CHANGES:,} changes in a run, found one more. Start a new run.")

    async def _make(self, what: Literal["pause", "resume"]) -> None:
        self._change_pause(what, self.elapsed.seconds() + LEAD_SECONDS, "control")
        await sleep(self.elapsed, LEAD_SECONDS)

    def _change_pause(self, what: Literal["pause", "resume"], at: float, by: Author) -> None:
        """Pause or resume; nothing where the run is paused, or not, already."""
        if (what == "pause") == self.time.pauses.is_open:
            return
        if what == "pause":
            self.time.pause(at)
            self.moments.pause(self.elapsed.began + at)
            self._broadcast(Pause(self._began + at))
        else:
            self.time.resume(at)
            self.moments.resume(self.elapsed.began + at)
            self._broadcast(Resume(self._began + at))
        self._made.append(ChangeSummary(at_s=at, what=what, by=by))

    def start_phase(self, number: int) -> None:
        """A phase starts: the shards know the changes of its rate that the scenario plans."""
        phase = self._scenario.phases[number]
        for at, factor in factors(self._scenario.changes, phase, self._scenario.load):
            self._tempos[number].change(at, factor)

    def _planned_rates(self, now: float) -> list[ChangeSummary]:
        """The changed rates of the scenario that have been reached."""
        found = []
        records = {phase.name: phase for phase in self._phases}
        for change in self._scenario.changes:
            record = records.get(change.phase or "")
            if record is None or record.started_s is None:
                continue
            at = PhaseTime(self.time, record.started_s).moment(change.at)
            if at <= (now if record.finished_s is None else record.finished_s):
                found.append(
                    ChangeSummary(
                        at_s=at,
                        what="rate",
                        phase=record.name,
                        phase_s=change.at,
                        rate=change.rate,
                        factor=change.factor,
                        by="scenario",
                    )
                )
        return found


def _at(change: ChangeSummary) -> float:
    return change.at_s
