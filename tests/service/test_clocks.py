"""The clocks of a service's Macs."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from agent.service.macs.clocks import ManualClock, RealClock


def test_a_manual_clock_stands_still_until_it_is_advanced() -> None:
    reactor, called = Clock(), list[tuple[str, float]]()
    clock = ManualClock(reactor)

    def call(name: str) -> None:
        called.append((name, clock.seconds()))

    clock.callLater(30.0, call, "later")
    clock.callLater(2.0, call, "soon")
    clock.callLater(2.0, call, "then")
    reactor.advance(1000.0)
    assert (called, clock.seconds(), clock.pending, clock.next) == ([], 0.0, 3, 2.0)
    clock.advance(10.0)
    assert called == [("soon", 2.0), ("then", 2.0)]
    assert (clock.seconds(), clock.pending, clock.next) == (10.0, 1, 20.0)


def test_what_a_call_schedules_is_called_in_the_same_advance() -> None:
    clock, ticks = ManualClock(Clock()), list[float]()

    def tick() -> None:
        ticks.append(clock.seconds())
        clock.callLater(1.0, tick)

    clock.callLater(1.0, tick)
    clock.advance(3.5)
    assert ticks == [1.0, 2.0, 3.0]


def test_what_is_due_at_once_is_called_in_the_reactors_next_turn() -> None:
    reactor, called = Clock(), list[str]()
    clock = ManualClock(reactor)
    clock.callLater(1.0, clock.callLater, 0.0, called.append, "from an advance")
    clock.callLater(0.0, called.append, "now")
    clock.advance(5.0)
    assert not called
    assert clock.pending == 2
    reactor.advance(0)
    assert called == ["now", "from an advance"]


def test_ten_short_steps_are_as_much_as_a_long_one() -> None:
    clock, called = ManualClock(Clock()), list[float]()
    clock.callLater(1.0, called.append, 1.0)
    for _ in range(10):
        clock.advance(0.1)
    assert called == [1.0]


@pytest.mark.parametrize("manual", [False, True])
def test_a_cancelled_call_is_not_made_and_not_counted(manual: bool) -> None:
    reactor, called = Clock(), list[str]()
    clock = ManualClock(reactor) if manual else RealClock(reactor)
    first, at_once = clock.callLater(1.0, called.append, "first"), clock.callLater(0.0, called.append, "at once")
    clock.callLater(2.0, called.append, "second")
    for call in (first, first, at_once):
        call.cancel()
    assert not first.active()
    assert (clock.pending, clock.next) == (1, 2.0)
    reactor.advance(5.0)
    if isinstance(clock, ManualClock):
        clock.advance(5.0)
    assert called == ["second"]
    assert (clock.pending, clock.next) == (0, None)
    assert not reactor.getDelayedCalls()


def test_calls_that_are_set_and_cancelled_again_and_again_take_no_memory() -> None:
    clock = ManualClock(Clock())
    clock.callLater(1000.0, print)
    for _ in range(10_000):
        clock.callLater(20.0, print).cancel()
    assert clock.pending == 1
    assert len(clock._calls) < 200


def test_a_call_that_fails_does_not_stop_the_others() -> None:
    logged = list[object]()
    globalLogPublisher.addObserver(logged.append)
    clock, called = ManualClock(Clock()), list[str]()
    clock.callLater(1.0, int, "x")
    clock.callLater(2.0, called.append, "second")
    try:
        clock.advance(3.0)
    finally:
        globalLogPublisher.removeObserver(logged.append)
    assert called == ["second"]
    assert len(logged) == 1
