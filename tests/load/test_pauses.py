"""Pauses and changed rates of a phase: the arrivals move, none is lost, whatever the number of shards."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from agent.fleet.derivation import Derivation
from agent.load.phases.pace import Pace
from agent.load.phases.phase_time import PausedTime
from agent.measure.live import PhaseState
from agent.measure.metrics import Metrics
from agent.measure.pauses import Pauses
from agent.net.mac.environment import Moment
from agent.scenario.arrivals import ArrivalPlan, Constant, Poisson, of_targets, without_end
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
