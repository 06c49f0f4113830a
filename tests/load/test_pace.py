"""The pace of a phase on a fake clock: due operations start regardless of the earlier ones."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable
from itertools import count
from types import SimpleNamespace
from typing import cast

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from agent.errors import PeerError
from agent.load.phases.pace import TURN_SECONDS, NotPossible, Pace
from agent.load.phases.phase_time import PausedTime
from agent.measure.live import PhaseState
from agent.measure.metrics import Metrics
from agent.measure.operations import Moment
from agent.scenario.arrivals import Arrival
from agent.scenario.tempo import Tempo

WALL = 1_000_000.0


class Refused(PeerError):
    """The server refused."""

    kind = "refused"


class Track:
    """One phase on a fake clock; ``begun`` is (target, when it began, when it was due)."""

    def __init__(self, act: Callable[[int], Deferred[None] | None] = lambda _target: None) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.state = PhaseState()
        self.begun: list[tuple[int, float, float]] = []
        self.time = PausedTime(self.clock)
        self.tempo = Tempo()
        self.pace = Pace(
            self.time,
            lambda: Moment(WALL + self.clock.seconds(), self.clock.seconds()),
            self.metrics,
            "session",
            self.state,
            self.tempo,
        )
        self._act = act
        self.failure: Failure | None = None
        self.over = False

    async def work(self, target: int, due: Moment) -> None:
        self.begun.append((target, self.clock.seconds(), due.ticks))
        waiting = self._act(target)
        if waiting is not None:
            await waiting

    def watch(self, running: Deferred[None]) -> Deferred[None]:
        def ended(outcome: object) -> None:
            self.over = True
            self.failure = outcome if isinstance(outcome, Failure) else None

        return running.addBoth(ended)

    def open(self, arrivals: Iterable[Arrival], seconds: float = math.inf, *, hold: bool = False) -> Deferred[None]:
        running: Deferred[None] = Deferred.fromCoroutine(self.pace.open(arrivals, self.work, seconds, hold=hold))
        self.watch(running)
        return running

    def closed(self, targets: Iterable[int], at_once: int, seconds: float | None = None) -> Deferred[None]:
        running: Deferred[None] = Deferred.fromCoroutine(self.pace.closed(targets, at_once, self.work, seconds))
        self.watch(running)
        return running

    def pass_time(self, seconds: float, step: float = 0.01) -> None:
        self.clock.pump([step] * round(seconds / step))


def every(seconds: float, number: int) -> list[Arrival]:
    return [Arrival(place * seconds, place) for place in range(number)]


def test_each_operation_starts_when_it_is_due() -> None:
    track = Track()
    track.open(every(0.5, 4))
    track.pass_time(3.0)
    assert [target for target, _, _ in track.begun] == [0, 1, 2, 3]
    assert [due for _, _, due in track.begun] == [0.0, 0.5, 1.0, 1.5]
    assert all(began - due < 0.02 for _, began, due in track.begun)
    assert track.over
    assert track.state == PhaseState(planned=4, started=4, done=4)
    assert track.clock.getDelayedCalls() == []


def test_operations_do_not_wait_for_earlier_ones() -> None:
    stuck: Deferred[None] = Deferred()
    track = Track(lambda target: stuck if target == 0 else None)
    track.open(every(0.5, 4))
    track.pass_time(3.0)
    assert len(track.begun) == 4
    assert not track.over
    stuck.callback(None)
    assert track.over


def test_late_operation_counts_from_its_due_time() -> None:
    track = Track()
    track.open(every(0.01, 100))
    track.clock.advance(0.005)
    track.clock.advance(0.8)  # the loop was blocked
    track.pass_time(1.0)
    late = [began - due for _, began, due in track.begun if began - due > 0.1]
    assert len(late) == track.state.late == track.metrics.summary("session").late > 60
    assert [due for _, _, due in track.begun] == [place * 0.01 for place in range(100)]


def test_operation_that_a_mac_cannot_start_is_dropped_with_a_reason() -> None:
    def refuse(target: int) -> Deferred[None] | None:
        if target % 2:
            raise NotPossible("the Mac was off")
        return None

    track = Track(refuse)
    track.open(every(0.1, 10))
    track.pass_time(2.0)
    assert (track.state.started, track.state.done, track.state.dropped, track.state.failed) == (5, 5, 5, 0)
    (drop,) = track.metrics.drops()
    assert (drop.operation, drop.reason, drop.count) == ("session", "the Mac was off", 5)


def test_peer_failures_are_counted_and_the_phase_continues() -> None:
    def refuse(target: int) -> Deferred[None] | None:
        if target == 1:
            raise Refused("no")
        return None

    track = Track(refuse)
    track.open(every(0.1, 3))
    track.pass_time(1.0)
    assert (track.state.done, track.state.failed) == (3, 1)
    assert track.failure is None


def test_unexpected_exception_reaches_the_waiting_deferred() -> None:
    def defect(_target: int) -> Deferred[None] | None:
        raise ZeroDivisionError

    track = Track(defect)
    track.open(every(0.1, 3))
    track.pass_time(1.0)
    assert track.failure is not None
    assert track.failure.check(ZeroDivisionError)


@pytest.mark.parametrize("seconds", [0.05, 0.25])
def test_end_of_run_drops_unstarted_operations_and_cancels_open_ones(seconds: float) -> None:
    cancelled: list[int] = []

    def wait(target: int) -> Deferred[None]:
        return Deferred(lambda _: cancelled.append(target))

    track = Track(wait)
    running = track.open(every(0.1, 10))
    track.pass_time(seconds)
    track.pace.reason = "Ctrl-C"
    running.cancel()
    started = len(track.begun)
    assert track.failure is not None
    assert track.failure.check(CancelledError)
    assert sorted(cancelled) == list(range(started))
    assert (track.state.started, track.state.done, track.state.dropped) == (started, 0, 10 - started)
    (drop,) = track.metrics.drops()
    assert (drop.reason, drop.count) == ("Ctrl-C", 10 - started)
    assert track.clock.getDelayedCalls() == []


def test_closed_loop_keeps_its_concurrency() -> None:
    open_now: dict[int, Deferred[None]] = {}

    def wait(target: int) -> Deferred[None]:
        open_now[target] = Deferred()
        return open_now[target]

    track = Track(wait)
    track.closed(range(7), 3)
    most = 0
    while not track.over:
        most = max(most, len(open_now))
        target, waiting = next(iter(open_now.items()))
        del open_now[target]
        waiting.callback(None)
    assert most == 3
    assert [target for target, _, _ in track.begun] == list(range(7))


def test_closed_loop_starts_nothing_after_its_duration() -> None:
    track = Track()

    def soon(_target: int) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        track.clock.callLater(0.1, waiting.callback, None)
        return waiting

    track._act = soon
    track.closed(iter(int, 1), 2, 1.0)  # targets without end
    track.pass_time(3.0)
    assert track.over
    assert track.begun[-1][1] < 1.0
    assert 18 <= len(track.begun) <= 20


def test_closed_loop_without_startable_macs_does_not_busy_loop() -> None:
    def never(_target: int) -> Deferred[None] | None:
        raise NotPossible("the Mac was off")

    track = Track(never)
    track.closed(iter(int, 1), 1, 1.0)
    track.pass_time(2.0)
    assert track.over
    assert 10 <= track.state.dropped <= 25


def test_interrupted_long_phase_counts_drops_by_its_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.load.phases.pace.MOST_COUNTED", 50)
    track = Track()
    track.state.planned = 10_000
    running = track.open(Arrival(place * 0.1, place) for place in count())
    track.pass_time(0.25)
    running.cancel()
    assert (track.state.started, track.state.dropped) == (3, 9_997)
    (drop,) = track.metrics.drops()
    assert drop.count == track.state.dropped


def test_closed_loop_does_not_start_all_at_once_in_one_turn() -> None:
    track, now, turns = Track(), [0.0], []
    later = track.clock.callLater

    def next_turn(delay: float, call: Callable[..., object], *args: object) -> IDelayedCall:
        turns.append(len(track.begun))
        return later(delay, call, *args)

    async def work(target: int, due: Moment) -> None:
        track.begun.append((target, 0.0, due.ticks))
        now[0] += TURN_SECONDS / 2
        await Deferred()

    track.pace._clock = cast(Clock, SimpleNamespace(seconds=lambda: now[0], callLater=next_turn))
    running = Deferred.fromCoroutine(track.pace.closed(range(8), 8, work))
    while len(track.begun) < 8:
        track.clock.advance(0.0)
    assert turns[:3] == [2, 4, 6]
    running.addErrback(lambda failure: failure.trap(CancelledError)).cancel()


def test_closed_loop_that_is_cancelled_before_all_began_leaves_no_unhandled_error() -> None:
    track, now = Track(), [0.0]
    logged: list[dict[str, object]] = []

    async def work(target: int, due: Moment) -> None:
        track.begun.append((target, 0.0, due.ticks))
        now[0] += TURN_SECONDS
        await Deferred()

    track.pace._clock = cast(Clock, SimpleNamespace(seconds=lambda: now[0], callLater=track.clock.callLater))
    globalLogPublisher.addObserver(logged.append)
    try:
        running = Deferred.fromCoroutine(track.pace.closed(range(8), 8, work))
        assert 0 < len(track.begun) < 8
        running.addErrback(lambda failure: failure.trap(CancelledError)).cancel()
        gc.collect()  # an error that nobody has taken is logged then
    finally:
        globalLogPublisher.removeObserver(logged.append)
    assert logged == []
