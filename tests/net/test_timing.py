"""The one timer that a class re-arms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from agent.net.timing import TICK_SECONDS, Alarm, until_tick

STEPS = st.one_of(
    st.tuples(st.just("set"), st.integers(-3, 9)),
    st.tuples(st.just("set_at"), st.none() | st.integers(0, 40)),
    st.tuples(st.just("advance"), st.integers(0, 9)),
    st.tuples(st.just("cancel"), st.none()),
)


@given(st.lists(STEPS, max_size=20))
def test_alarm_fires_once_at_its_last_setting(steps: list[tuple[str, int | None]]) -> None:
    clock = Clock()
    went_off: list[float] = []
    alarm = Alarm(clock, lambda: went_off.append(clock.seconds()))
    expected: list[float] = []
    due: float | None = None
    for step, value in steps:
        now = clock.seconds()
        match step:
            case "set":
                alarm.set(value or 0)
                due = now + max(0, value or 0)
            case "set_at":
                alarm.set_at(value)
                due = None if value is None else max(now, value)
            case "cancel":
                alarm.cancel()
                due = None
            case "advance":
                clock.pump([1.0] * (value or 0) or [0.0])
                if due is not None and due <= clock.seconds():
                    expected.append(max(due, now + 1.0 if value else now))  # a Clock looks when it has moved
                    due = None
        assert went_off == expected
        assert alarm.is_set == (due is not None)
        assert len(clock.getDelayedCalls()) == alarm.is_set


def test_alarm_can_be_set_again_by_its_callback() -> None:
    clock = Clock()
    went_off: list[float] = []

    def due() -> None:
        went_off.append(clock.seconds())
        if len(went_off) < 3:
            alarm.set(2.0)

    alarm = Alarm(clock, due)
    alarm.set(1.0)
    clock.pump([1.0] * 9)
    assert went_off == [1.0, 3.0, 5.0]
    assert not alarm.is_set


@pytest.mark.parametrize("now", [0.0, 0.0199, 0.02, 12345.6789, 2e6 + 0.0399])
@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.04, 0.05, 0.2])
def test_ticks_of_all_timers_coincide(now: float, seconds: float) -> None:
    wait = until_tick(now, seconds)
    ticks = (now + wait) / TICK_SECONDS
    assert ticks == pytest.approx(round(ticks), abs=1e-4)
    assert 0.0 < wait <= max(seconds, TICK_SECONDS) + 1e-6
    assert wait > seconds - TICK_SECONDS
