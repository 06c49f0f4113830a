"""A turn of the reactor ends after its time, and what it left is handled before what came later."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from twisted.internet.abstract import FileDescriptor

from agent.load.machine.overload import LoopMonitor
from agent.load.machine.turns import AT_ONCE, TURN_SECONDS, TurnReactor
from agent.net.timing import after_pending

pytestmark = pytest.mark.slow


class Ready(FileDescriptor):
    """A descriptor that is ready; handling it takes ``seconds`` of the reactor's clock."""

    def __init__(self, reactor: Clocked, seconds: float) -> None:
        super().__init__(reactor)
        self._reactor = reactor
        self._seconds = seconds
        self._ours, self._theirs = socket.socketpair()
        self._theirs.send(b"!")
        self.handled = 0
        self.reads = 1_000_000
        """After so many it does not want to be called again."""
        reactor.addReader(self)

    def fileno(self) -> int:
        return self._ours.fileno()

    def doRead(self) -> None:
        self.handled += 1
        self._reactor.now += self._seconds
        if self.handled == self.reads:
            self._reactor.removeReader(self)

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


class Clocked(TurnReactor):
    """Its time is ``now``."""

    now = 100.0

    def seconds(self) -> float:
        return self.now

    def close(self) -> None:
        self.disconnectAll()
        self._poller.close()


@pytest.fixture
def reactor() -> Iterator[Clocked]:
    with closing(Clocked()) as made:  # type: ignore[no-untyped-call]  # of Twisted
        yield made


@pytest.fixture
def ready(reactor: Clocked) -> Iterator[list[Ready]]:
    descriptors = [Ready(reactor, TURN_SECONDS / 2) for _ in range(3 * AT_ONCE)]
    yield descriptors
    reactor.removeAll()
    for each in descriptors:
        each.close()


def test_turn_ends_after_its_time_and_the_next_goes_on_with_the_rest(reactor: Clocked, ready: list[Ready]) -> None:
    for turn in range(1, 4):
        reactor.doPoll(0)
        assert sum(each.handled for each in ready) == turn * AT_ONCE
    assert [each.handled for each in ready] == [1] * len(ready)


def test_turn_handles_all_that_is_ready_if_it_has_the_time(reactor: Clocked, ready: list[Ready]) -> None:
    for each in ready:
        each.reads, each._seconds = 1, 0.0
    reactor.doPoll(0)
    assert [each.handled for each in ready] == [1] * len(ready)


def test_call_after_what_is_pending_waits_for_all_of_it(reactor: Clocked, ready: list[Ready]) -> None:
    at: list[int] = []
    call = after_pending(reactor, lambda: at.append(sum(each.handled for each in ready)))
    dropped = after_pending(reactor, lambda: at.append(-1))
    dropped.cancel()
    while call.active():
        reactor.doPoll(0)
    assert len(ready) <= at[0] < 2 * len(ready)
    assert len(at) == 1


def test_lag_counts_until_all_that_was_ready_is_handled(reactor: Clocked, ready: list[Ready]) -> None:
    monitor = LoopMonitor(reactor)
    monitor.begin()
    reactor.now += 0.02  # the timer is on time
    while monitor.lag.count == 0:
        reactor.runUntilCurrent()
        reactor.doPoll(0)
    lag_ms, _share = monitor.second()
    monitor.stop()
    assert lag_ms >= len(ready) * TURN_SECONDS / 2 * 1000.0 * 0.99
