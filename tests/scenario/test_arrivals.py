"""Arrivals: they follow from the seed, are in order, come exactly once, and are the same load in any sharding."""

from __future__ import annotations

import math
from itertools import islice, pairwise

import pytest
import strategies_load as load
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import MisuseError
from agent.fleet.derivation import Derivation
from agent.scenario.arrivals import (
    Arrival,
    ArrivalPlan,
    AtOnce,
    Burst,
    Constant,
    Poisson,
    Ramp,
    Replay,
    Shape,
    Steps,
    expected,
    of_targets,
    order,
    schedule,
)

SOURCE = Derivation("arrivals")
ORDER = [1, 9, 5, 0, 2, 3, 7, 4, 6, 8]
DUES = [0.66265054, 1.768043107, 1.926701821]


def arrivals(plan: ArrivalPlan, targets: int, seed: str = "arrivals", name: str = "phase") -> list[Arrival]:
    return list(schedule(plan, targets, Derivation(seed), name))


def dues(shape: Shape, number: int) -> list[float]:
    """When the first ``number`` are due."""
    return [arrival.due for arrival in arrivals(ArrivalPlan(shape), number)]


# Every schedule


@given(load.plans, load.targets, load.seeds, load.names)
def test_schedule_is_derived_from_seed_and_name_and_sorted(
    plan: ArrivalPlan, targets: int, seed: str, name: str
) -> None:
    made = arrivals(plan, targets, seed, name)
    assert made == arrivals(plan, targets, seed, name)
    assert all(before.due <= after.due for before, after in pairwise(made))
    assert all(0.0 <= arrival.due < math.inf and 0 <= arrival.target < targets for arrival in made)
    if plan.duration is not None:
        assert all(arrival.due < plan.duration for arrival in made)


@given(load.plans, load.targets)
def test_every_target_comes_once_before_any_repeats(plan: ArrivalPlan, targets: int) -> None:
    came = [arrival.target for arrival in arrivals(plan, targets)]
    if not plan.again:
        assert len(came) == len(set(came)) <= targets
    for begin in range(len(came)):
        turn = came[begin : begin + targets]
        assert len(set(turn)) == len(turn)


@given(load.shapes, load.targets)
def test_without_an_end_each_target_comes_exactly_once(shape: Shape, targets: int) -> None:
    came = sorted(arrival.target for arrival in arrivals(ArrivalPlan(shape), targets))
    ends = isinstance(shape, Replay) or (isinstance(shape, Ramp) and not shape.to_rate)
    if not ends and not (isinstance(shape, Steps) and not shape.steps[-1][0]):
        assert came == list(range(targets))


@given(load.plans, load.targets, st.integers(1, 5), st.randoms(use_true_random=False))
def test_schedules_of_all_shards_make_up_the_whole(plan: ArrivalPlan, targets: int, shards: int, random) -> None:
    owner = [random.randrange(shards) for _ in range(targets)]
    whole = arrivals(plan, targets)
    parts = [
        list(of_targets(schedule(plan, targets, SOURCE, "phase"), lambda target, shard=shard: owner[target] == shard))
        for shard in range(shards)
    ]
    assert all(before.due <= after.due for part in parts for before, after in pairwise(part))
    assert sorted(arrival for part in parts for arrival in part) == sorted(whole)


@given(load.plans, load.targets)
def test_expected_count_equals_the_schedules_length(plan: ArrivalPlan, targets: int) -> None:
    made = arrivals(plan, targets)
    count, last = expected(plan, targets)
    if isinstance(plan.shape, Poisson):
        return
    assert abs(count - len(made)) <= (plan.shape.size if isinstance(plan.shape, Burst) else 1)
    if count == len(made) > 0:
        assert last == pytest.approx(made[-1].due)


def test_expected_count_of_poisson_is_its_mean() -> None:
    assert expected(ArrivalPlan(Poisson(10.0), 60.0, again=True), 7) == (600, 60.0)
    assert expected(ArrivalPlan(Poisson(10.0)), 600) == (600, 60.0)


def test_schedule_is_lazy() -> None:
    plan = ArrivalPlan(Constant(1000.0), 1e9, again=True)
    assert [arrival.due for arrival in islice(schedule(plan, 3, SOURCE, "phase"), 4)] == [0.0, 0.001, 0.002, 0.003]


# The order


@given(st.integers(0, 500), load.seeds, load.names)
def test_order_has_each_target_once(targets: int, seed: str, name: str) -> None:
    assert sorted(order(targets, Derivation(seed), name)) == list(range(targets))


def test_order_depends_on_seed_and_phase() -> None:
    orders = [tuple(order(100, Derivation(seed), name)) for seed in ("a", "b") for name in ("enroll", "patch")]
    assert len(set(orders)) == 4
    assert tuple(range(100)) not in orders


def test_order_of_a_seed_is_stable_across_versions() -> None:
    assert list(order(10, Derivation("lom-agent"), "enroll")) == ORDER
    made = arrivals(ArrivalPlan(Poisson(2.0)), 3, "lom-agent", "enroll")
    assert [round(arrival.due, 9) for arrival in made] == DUES


# Each shape


def test_all_at_once() -> None:
    assert dues(AtOnce(), 3) == [0.0, 0.0, 0.0]


@given(load.rates, st.integers(1, 200))
def test_constant_arrivals_are_evenly_spaced(rate: float, number: int) -> None:
    assert dues(Constant(rate), number) == [each / rate for each in range(number)]


def test_poisson_arrivals_have_the_mean_rate_and_uneven_gaps() -> None:
    moments = dues(Poisson(50.0), 20_000)
    assert moments[-1] == pytest.approx(400.0, rel=0.03)  # the standard deviation is 0.7 %
    gaps = [after - before for before, after in pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean**2, rel=0.1)  # exponential


@examples(25, explored=50)
@given(load.ramps)
def test_ramp_count_follows_from_its_mean_rate(ramp: Ramp) -> None:
    made = arrivals(ArrivalPlan(ramp, ramp.seconds, again=True), 10)
    assert abs(len(made) - (ramp.rate + ramp.to_rate) / 2 * ramp.seconds) <= 1.0 + 1e-6 * len(made)


@examples(25, explored=50)
@given(load.ramps, st.floats(0.0, 1.0))
def test_ramp_times_follow_from_its_integral(ramp: Ramp, share: float) -> None:
    until = ramp.seconds * share
    integral = ramp.rate * until + (ramp.to_rate - ramp.rate) * until**2 / (2 * ramp.seconds)
    count = sum(
        arrival.due < until for arrival in schedule(ArrivalPlan(ramp, ramp.seconds, again=True), 5, SOURCE, "r")
    )
    assert abs(count - integral) <= 1.0 + 1e-6 * integral


def test_rate_stays_constant_after_a_ramp() -> None:
    moments = dues(Ramp(0.0, 10.0, 2.0), 30)  # 10 in the ramp, then 10 a second
    assert moments[0] == 0.0
    assert moments[10:] == pytest.approx([2.0 + each / 10 for each in range(20)])


def test_ramp_to_zero_ends() -> None:
    assert len(dues(Ramp(10.0, 0.0, 2.0), 1000)) == 10


def test_steps_follow_each_other_and_the_last_continues() -> None:
    moments = dues(Steps(((2.0, 2.0), (0.0, 3.0), (4.0, 1.0))), 10)
    assert moments == pytest.approx([0.0, 0.5, 1.0, 1.5, 5.0, 5.25, 5.5, 5.75, 6.0, 6.25])


def test_bursts_are_simultaneous_and_periodic() -> None:
    assert dues(Burst(3, 10.0), 7) == [0.0, 0.0, 0.0, 10.0, 10.0, 10.0, 20.0]


def test_replay_has_its_offsets_and_repeats_only_where_allowed() -> None:
    replay = Replay((0.5, 0.5, 2.0))
    assert [arrival.due for arrival in arrivals(ArrivalPlan(replay, again=True), 2)] == [0.5, 0.5, 2.0]
    assert [arrival.due for arrival in arrivals(ArrivalPlan(replay), 2)] == [0.5, 0.5]
    assert [arrival.due for arrival in arrivals(ArrivalPlan(replay, 2.0, again=True), 2)] == [0.5, 0.5]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constant(0.0),
        lambda: Constant(math.inf),
        lambda: Poisson(math.nan),
        lambda: Ramp(0.0, 0.0, 5.0),
        lambda: Ramp(-1.0, 2.0, 5.0),
        lambda: Ramp(1.0, 2.0, 0.0),
        lambda: Steps(()),
        lambda: Steps(((0.0, 5.0),)),
        lambda: Steps(((1.0, 0.0),)),
        lambda: Burst(0, 1.0),
        lambda: Burst(1, 0.0),
        lambda: Replay((2.0, 1.0)),
        lambda: Replay((-1.0,)),
        lambda: ArrivalPlan(AtOnce(), 5.0, again=True),
        lambda: ArrivalPlan(Constant(1.0), again=True),
    ],
)
def test_invalid_or_endless_arrivals_are_refused(make) -> None:
    with pytest.raises(MisuseError):
        make()
