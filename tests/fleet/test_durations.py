"""Distributions of durations: text forms, and draws that are reproducible and within bounds."""

from __future__ import annotations

import math
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import MisuseError, OperatorError
from agent.fleet.chance import Chance
from agent.fleet.derivation import Derivation
from agent.fleet.durations import (
    LONGEST_SECONDS,
    MOST_SIGMA,
    SHORTEST_SECONDS,
    Constant,
    Duration,
    LogNormal,
    Uniform,
    parse_duration,
)

seconds = st.floats(SHORTEST_SECONDS, LONGEST_SECONDS)
durations: st.SearchStrategy[Duration] = (
    st.builds(Constant, seconds)
    | st.tuples(seconds, seconds).map(lambda pair: Uniform(*sorted(pair)))
    | st.builds(LogNormal, seconds, st.floats(0.0, MOST_SIGMA))
)


@given(durations, st.text(max_size=5), st.integers(0, 2**32 - 1))
def test_draws_are_positive_bounded_and_follow_from_seed_and_index(duration: Duration, seed: str, index: int) -> None:
    def row() -> list[float]:
        chance = Chance(Derivation(seed), index, b"boot")
        return [duration.draw(chance) for _ in range(20)]

    drawn = row()
    assert row() == drawn
    assert all(SHORTEST_SECONDS <= each <= LONGEST_SECONDS for each in drawn)


@given(durations, st.just(0.0) | st.just(1.0) | st.floats(0.0, 1.0))
def test_draws_stay_in_bounds_for_every_random_number(duration: Duration, chance: float) -> None:
    drawn = duration.draw(lambda: chance)
    assert SHORTEST_SECONDS <= drawn <= LONGEST_SECONDS
    if isinstance(duration, Uniform):
        assert duration.shortest <= drawn <= duration.longest
    if isinstance(duration, LogNormal):
        most = math.exp(4 * duration.sigma) * (1 + 1e-9)
        assert duration.median / most <= drawn <= duration.median * most


@given(durations)
def test_duration_text_is_parsed(duration: Duration) -> None:
    assert parse_duration(str(duration)) == duration


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("constant:3", Constant(3.0)),
        ("uniform:1,3", Uniform(1.0, 3.0)),
        (" uniform: 0.2 , 1 ", Uniform(0.2, 1.0)),
        ("lognormal:30,0.3", LogNormal(30.0, 0.3)),
    ],
)
def test_duration_text_forms(text: str, duration: Duration) -> None:
    assert parse_duration(text) == duration


def test_draws_follow_the_named_distribution() -> None:
    chance = Chance(Derivation("spread"), 0, b"boot")
    uniform = sorted(Uniform(1.0, 3.0).draw(chance) for _ in range(2000))
    assert (uniform[0], median(uniform), uniform[-1]) == pytest.approx((1.0, 2.0, 3.0), abs=0.1)
    lognormal = sorted(LogNormal(30.0, 0.5).draw(chance) for _ in range(2000))
    assert median(lognormal) == pytest.approx(30.0, rel=0.1)
    assert lognormal[int(2000 * 0.8413)] == pytest.approx(30.0 * math.exp(0.5), rel=0.1)  # one deviation above
    assert {Constant(2.0).draw(chance) for _ in range(5)} == {2.0}


@pytest.mark.parametrize(
    "text",
    [
        "", "3", "constant", "constant:", "constant:1,2", "constant:three", "uniform:1", "uniform:1,2,3", "uniform:1;2",
        "lognormal:30", "normal:30,3", "Constant:3", "constant:0", "constant:-1", "constant:nan", "constant:inf",
        "constant:3601", "uniform:3,1", "uniform:0,1", "uniform:1,1e9", "lognormal:0,1", "lognormal:nan,1",
        "lognormal:30,-0.1", "lognormal:30,2.1", "lognormal:30,nan", "constant:1e-9",
    ],
)  # fmt: skip
def test_invalid_duration_raises_operator_error(text: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("make", [lambda: Constant(0.0), lambda: Uniform(2.0, 1.0), lambda: LogNormal(1.0, math.inf)])
def test_duration_out_of_bounds_raises_misuse_error(make: object) -> None:
    with pytest.raises(MisuseError):
        make()  # type: ignore[operator]
