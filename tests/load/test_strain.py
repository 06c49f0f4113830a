"""Whether the generator notices that it is itself what is slow."""

from __future__ import annotations

import time

from twisted.internet.task import Clock

from agent.load.strain import LOOK_SECONDS, Strain


def test_a_loop_that_keeps_up_has_no_lag() -> None:
    clock = Clock()
    strain = Strain(clock)
    strain.begin()
    clock.pump([LOOK_SECONDS] * 100)
    assert strain.lag.count == 100
    lag_ms, _share = strain.second()
    assert lag_ms < 1.0
    strain.stop()
    assert clock.getDelayedCalls() == []


def test_a_loop_that_was_blocked_shows_by_how_much() -> None:
    clock = Clock()
    strain = Strain(clock)
    strain.begin()
    clock.pump([LOOK_SECONDS] * 10)
    clock.advance(0.5)
    lag_ms, _share = strain.second()
    assert 470.0 < lag_ms <= 500.0
    assert strain.lag.max_us / 1000.0 == round(lag_ms, 3)
    clock.pump([LOOK_SECONDS] * 10)
    assert strain.second()[0] < 1.0  # each second has its own


def test_what_came_before_the_run_is_not_counted() -> None:
    clock = Clock()
    strain = Strain(clock)
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    clock.advance(30.0)
    strain.begin()
    clock.pump([LOOK_SECONDS] * 50)
    _lag, share = strain.second()
    assert share < 0.05
    assert strain.cpu_by_second == [round(share, 4)]
    assert strain.cpu_s >= 0.05
