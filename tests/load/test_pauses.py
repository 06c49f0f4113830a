"""Pauses and changed rates of a phase: the arrivals move, none is lost, whatever the number of shards."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import cycle, pairwise, takewhile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from agent.fleet.derivation import Derivation
from agent.load.phases.pace import Pace
from agent.load.phases.phase_time import PausedTime, PhaseTime
from agent.measure.live import PhaseState
from agent.measure.metrics import Metrics
from agent.measure.pauses import Pauses
from agent.net.mac.fleet.environment import Moment
from agent.net.timing import sleep
from agent.scenario.arrivals import (
    ArrivalPlan,
    Burst,
    Constant,
    Poisson,
    Ramp,
    Shape,
    expected,
    of_targets,
    without_end,
)
from agent.scenario.tempo import Tempo

MACS = 7
SECONDS = 5.0
SOURCE = Derivation("pauses")
PLANS = (ArrivalPlan(Constant(4.0), SECONDS, again=True), ArrivalPlan(Poisson(4.0), SECONDS, again=True))
Begun = list[tuple[float, int, float]]


def run(
    plan: ArrivalPlan,
    shards: int,
    pauses: list[tuple[float, float]] | None = None,
    rates: list[tuple[float, float]] | None = None,
) -> tuple[Begun, list[PhaseState]]:
    """What a phase started in all shards: (when it was due, target, when it started), and the state in each shard.

    Pauses and rates become known at their moment.
    """
    clock = Clock()
    begun: Begun = []
    states = []
    for shard in range(shards):
        time, tempo, state = PausedTime(clock), Tempo(), PhaseState()
        states.append(state)

        async def work(target: int, due: Moment) -> None:
            begun.append((due.ticks, target, clock.seconds()))

        pace = Pace(time, lambda: Moment(clock.seconds(), clock.seconds()), Metrics(), "session", state, tempo)
        arrivals = of_targets(
            without_end(plan, MACS, SOURCE, "phase"), lambda target, own=shard: target % shards == own
        )
        over = Deferred.fromCoroutine(pace.open(arrivals, work, SECONDS, hold=True))
        over.addErrback(lambda failure: begun.append((math.nan, -1, math.nan)) or failure)
        for began, length in pauses or ():
            clock.callLater(began, time.pause, began)
            clock.callLater(began + length, time.resume, began + length)
        for at, factor in rates or ():
            clock.callLater(
                at, lambda at, factor, tempo=tempo, time=time: (tempo.change(at, factor), time.changed()), at, factor
            )
    while clock.getDelayedCalls():
        clock.advance(max(0.0, min(call.getTime() for call in clock.getDelayedCalls()) - clock.seconds()))
    return sorted(begun), states


def moved(due: float, pauses: list[tuple[float, float]]) -> float:
    for began, length in pauses:
        if due >= began:
            due += length
    return due


moments = st.lists(st.integers(1, 60), max_size=4).map(
    lambda steps: [(sum(steps[: place + 1]) / 8 + 0.03 + 8.0 * place, 4.0) for place in range(len(steps))]
)


@given(st.sampled_from(PLANS), st.integers(1, 4), moments)
def test_arrivals_are_those_without_pauses_moved_by_the_pauses(
    plan: ArrivalPlan, shards: int, pauses: list[tuple[float, float]]
) -> None:
    unpaused, _ = run(plan, 1)
    paused, states = run(plan, shards, pauses)
    assert [target for _, target, _ in paused] == [target for _, target, _ in unpaused]
    for (before, _, _), (due, _, started) in zip(unpaused, paused, strict=True):
        assert math.isclose(due, moved(before, pauses), abs_tol=1e-6)
        assert math.isclose(started, due, abs_tol=1e-6)
    assert sum(state.done for state in states) == len(unpaused)
    assert not any(state.late or state.dropped for state in states)


@given(
    st.sampled_from(PLANS),
    st.integers(2, 4),
    st.lists(
        st.tuples(st.integers(1, 39), st.sampled_from([0.5, 2.0, 3.0])), max_size=3, unique_by=lambda each: each[0]
    ),
)
def test_changed_rates_start_the_same_operations_in_every_sharding(
    plan: ArrivalPlan, shards: int, changes: list[tuple[int, float]]
) -> None:
    rates = [(eighth / 8 + 0.03, factor) for eighth, factor in sorted(changes)]
    alone, _ = run(plan, 1, rates=rates)
    together, _ = run(plan, shards, rates=rates)
    assert [(round(due, 6), target) for due, target, _ in alone] == [
        (round(due, 6), target) for due, target, _ in together
    ]


def test_a_changed_rate_applies_from_its_moment_on() -> None:
    begun, states = run(PLANS[0], 2, rates=[(2.5, 2.0)])
    dues = [due for due, _, _ in begun]
    assert [round(later - due, 6) for due, later in pairwise(dues)] == [0.25] * 10 + [0.125] * 19
    assert sum(state.done for state in states) == 30  # 10 of the first half, 20 of the second


def test_a_pause_takes_its_seconds_from_those_of_a_phase() -> None:
    pauses = Pauses()
    pauses.pause(3.0)
    assert pauses.moment(0.0, 3.0) == math.inf
    assert pauses.moment(0.0, 2.9) == 2.9
    pauses.resume(5.0)
    assert pauses.moment(0.0, 3.0) == 5.0
    assert pauses.moment(4.0, 1.0) == 6.0
    assert pauses.within(4.0, 9.0) == 1.0
    assert [pauses.covers(moment) for moment in (2.9, 3.0, 4.9, 5.0)] == [False, True, True, False]


Event = tuple[float, float | None]  # seconds since the last one; a factor, or None to pause or to resume
events = st.lists(
    st.tuples(st.integers(1, 12).map(lambda eighths: eighths / 8), st.sampled_from([None, None, 0.5, 1.0, 3.0])),
    max_size=8,
)


class Changed:
    """A phase of 4 per second that ``changes`` change, each becoming known at its moment.

    ``parts`` are the intervals between the changes, each with the rate in it.
    """

    def __init__(self, changes: list[Event], ends: Callable[[int], bool] = lambda _number: True) -> None:
        self.clock = Clock()
        self.time, self.tempo, self.state = PausedTime(self.clock), Tempo(), PhaseState()
        self.phase = PhaseTime(self.time, 0.0)
        self.starts: list[float] = []
        self.parts: list[tuple[float, float, float]] = []
        self._ends = ends
        self._factor, self._since = 1.0, 0.0
        moment = 0.03  # so that nothing is due at the moment of a change
        for gap, factor in changes:
            moment += gap
            self.clock.callLater(moment, self._change, moment, factor)

    def pace(self) -> Pace:
        return Pace(
            self.time,
            lambda: Moment(self.clock.seconds(), self.clock.seconds()),
            Metrics(),
            "session",
            self.state,
            self.tempo,
        )

    async def work(self, _target: int, _due: Moment) -> None:
        self.starts.append(self.clock.seconds())
        if not self._ends(len(self.starts)):
            await Deferred()

    def _change(self, moment: float, factor: float | None) -> None:
        self._part(moment)
        if factor is not None:
            self._factor = factor
            self.tempo.change(self.phase.after(moment), factor)
            self.time.changed()
        elif self.time.pauses.is_open:
            self.time.resume(moment)
        else:
            self.time.pause(moment)

    def _part(self, until: float) -> None:
        paused = self.time.pauses.covers(self._since)
        self.parts.append((self._since, until, 0.0 if paused else 4.0 * self._factor))
        self._since = until

    def run(self, until: float = 1000.0) -> None:
        while (calls := self.clock.getDelayedCalls()) and self.clock.seconds() < until:
            self.clock.advance(max(0.0, min(until, *(call.getTime() for call in calls)) - self.clock.seconds()))
        self._part(self.clock.seconds())

    @property
    def planned(self) -> int:
        return expected(PLANS[0], MACS, self.tempo)[0]


@given(events)
@example([(0.125, None), (0.125, 0.5), (0.375, 0.5), (1.5, 1.0)])  # changes in a pause, at one moment of the phase
def test_the_starts_between_two_changes_are_the_integral_of_the_rate(changes: list[Event]) -> None:
    phase = Changed(changes)
    over = Deferred.fromCoroutine(
        phase.pace().open(without_end(PLANS[0], MACS, SOURCE, "phase"), phase.work, SECONDS, hold=True)
    )
    phase.run()
    if phase.time.pauses.is_open:
        phase.time.resume(phase.clock.seconds())
        phase.run()
    assert over.called
    end = phase.phase.moment(SECONDS)
    for began, ended, rate in phase.parts:
        number = sum(began <= start < ended for start in phase.starts)
        assert abs(number - rate * max(0.0, min(ended, end) - began)) <= 1 + 1e-6
    assert phase.state.started == phase.state.done == len(phase.starts)
    assert abs(phase.state.started - phase.planned) <= 1  # what is due at the very end
    assert (phase.state.late, phase.state.dropped) == (0, 0)


@given(events, st.sampled_from([Ramp(2.0, 9.0, SECONDS), Burst(3, 0.7), Poisson(5.0)]))
def test_every_shape_of_arrivals_follows_pauses_and_factors(changes: list[Event], shape: Shape) -> None:
    plan = ArrivalPlan(shape, SECONDS, again=True)
    phase = Changed(changes)
    over = Deferred.fromCoroutine(
        phase.pace().open(without_end(plan, MACS, SOURCE, "phase"), phase.work, SECONDS, hold=True)
    )
    phase.run()
    if phase.time.pauses.is_open:
        phase.time.resume(phase.clock.seconds())
        phase.run()
    assert over.called
    dues = (phase.tempo.moment(arrival.due) for arrival in without_end(plan, MACS, SOURCE, "phase"))
    wanted = [phase.phase.moment(due) for due in takewhile(lambda due: due < SECONDS, dues)]
    assert phase.starts == pytest.approx(wanted)


@given(events, st.integers(0, 80), st.integers(1, 5))
def test_whenever_a_changed_phase_is_stopped_each_planned_operation_is_accounted_for(
    changes: list[Event], stop: int, every: int
) -> None:
    phase = Changed(changes, lambda number: number % every > 0)
    pace = phase.pace()
    over = Deferred.fromCoroutine(
        pace.open(without_end(PLANS[0], MACS, SOURCE, "phase"), phase.work, SECONDS, hold=True)
    )
    over.addErrback(lambda failure: failure.trap(CancelledError))
    phase.run(stop / 8 + 0.01)
    over.cancel()
    state = phase.state
    assert abs(state.started + state.dropped - phase.planned) <= 1  # what is due at the very end
    assert state.started == state.done + state.cut_short == len(phase.starts)


def test_what_was_due_before_a_pause_starts_late_in_it_and_is_counted() -> None:
    phase = Changed([])
    Deferred.fromCoroutine(phase.pace().open(without_end(PLANS[0], MACS, SOURCE, "phase"), phase.work, SECONDS))
    phase.run(0.5)
    phase.clock.rightNow += 1.0  # the event loop stands still, and 0.75, 1.0, 1.25 and 1.5 are due
    phase.time.pause(1.4)
    phase.run(3.0)
    assert phase.starts[3:] == [1.5, 1.5, 1.5]
    assert phase.state.late == 3
    phase.time.resume(3.0)
    phase.run()
    assert phase.state.done == phase.planned
    assert phase.state.late == 3


@given(st.lists(st.integers(1, 16), max_size=6))
def test_a_closed_loop_starts_nothing_in_a_pause_and_keeps_its_seconds(eighths: list[int]) -> None:
    phase = Changed([(each / 8, None) for each in eighths])

    async def work(_target: int, _due: Moment) -> None:
        phase.starts.append(phase.clock.seconds())
        await sleep(phase.clock, 0.2)

    over = Deferred.fromCoroutine(phase.pace().closed(cycle(range(MACS)), 2, work, SECONDS))
    phase.run()
    if phase.time.pauses.is_open:
        assert not over.called or phase.phase.seconds >= SECONDS
        phase.time.resume(phase.clock.seconds())
        phase.run()
    assert over.called
    assert not any(phase.time.pauses.covers(start) for start in phase.starts)
    assert max(phase.starts) < phase.phase.moment(SECONDS)
    assert phase.state.started == phase.state.done
    assert len(phase.starts) >= 2 * SECONDS / 0.2 - 2 * len(eighths)
