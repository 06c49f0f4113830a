"""A time limit counts only the time in which the loop could have received from the peer."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import RunInReactor
from twisted.internet import reactor
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from agent.errors import PeerError
from agent.net.http.connection import AnswerTimeout, HTTPConnection
from agent.net.http.http1 import Origin
from agent.net.timing import LOOK_SECONDS, OutOfTime, Stalls, within
from agent.net.transport.errors import ConnectTimeout, HandshakeTimeout
from agent.net.transport.stream import State, Timeouts, TLSStream
from agent.net.transport.tls import TLSContexts


class Limited:
    """Something that may take two seconds, on a clock of its own."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.stalls = Stalls(self.clock)
        self.stalls.begin()
        self.waiting: Deferred[str] = Deferred()
        self.outcomes: list[object] = []
        Deferred.fromCoroutine(within(self.waiting, 2.0, self.clock, self.stalls)).addBoth(self._ended)

    def _ended(self, outcome: object) -> None:
        self.outcomes.append(getattr(outcome, "value", outcome))

    def run(self, seconds: float) -> None:
        """The loop runs."""
        self.clock.pump([0.02] * round(seconds / 0.02))

    def stand_still(self, seconds: float) -> None:
        """It does not."""
        self.clock.advance(seconds)


def test_stalls_are_told_of_and_those_of_another_loop_extend_the_limit() -> None:
    told: list[float] = []
    limited = Limited()
    limited.stalls.stop()
    other = Stalls(limited.clock, told.append)
    other.begin()
    limited.stand_still(1.5)
    limited.run(0.1)
    assert told == [pytest.approx(1.5 - LOOK_SECONDS)]
    limited.stalls.elsewhere += told[0]
    limited.run(1.7)
    assert limited.outcomes == []
    assert limited.stalls.seconds == told[0]
    limited.run(0.3)
    assert [type(outcome) for outcome in limited.outcomes] == [OutOfTime]


def test_time_limit_expires() -> None:
    limited = Limited()
    limited.run(1.9)
    assert limited.outcomes == []
    limited.run(0.3)
    assert [type(outcome) for outcome in limited.outcomes] == [OutOfTime]


@pytest.mark.parametrize("before", [0.0, 0.5, 1.9])
@pytest.mark.parametrize("stall", [0.5, 7.0, 3600.0])
def test_stall_extends_the_time_limit(before: float, stall: float) -> None:
    limited = Limited()
    limited.run(before)
    limited.stand_still(stall)
    limited.run(1.9 - before)
    assert limited.outcomes == []
    assert limited.stalls.seconds == pytest.approx(stall, abs=0.1)
    limited.run(0.4)
    assert [type(outcome) for outcome in limited.outcomes] == [OutOfTime]


class Reader(FileDescriptor):
    """Calls ``heard`` when its socket can be read for the first time."""

    def __init__(self, sock: socket.socket, heard: Callable[[], object]) -> None:
        super().__init__(reactor)
        self._sock = sock
        self._heard = heard
        reactor.addReader(self)

    def fileno(self) -> int:
        return self._sock.fileno()

    def doRead(self) -> None:
        reactor.removeReader(self)
        self._heard()


def test_readable_data_is_read_before_the_limit_expires(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> str:
        ours, theirs = socket.socketpair()
        also_ours, also_theirs = socket.socketpair()
        heard: Deferred[str] = Deferred()

        def stand_still() -> None:
            """While one socket is read: the reactor looks at its timers next, and only then at its sockets."""
            time.sleep(0.05)
            theirs.send(b"!")

        Reader(ours, lambda: heard.callback("in time"))
        Reader(also_ours, stand_still)
        waiting = Deferred.fromCoroutine(within(heard, 0.02, reactor, Stalls(reactor)))
        also_theirs.send(b"!")
        try:
            return await waiting
        finally:
            for each in (ours, theirs, also_ours, also_theirs):
                each.close()

    assert run_in_reactor(scenario()) == "in time"


def test_no_timer_is_left() -> None:
    limited = Limited()
    limited.waiting.callback("in time")
    limited.stalls.stop()
    assert limited.outcomes == ["in time"]
    assert limited.clock.getDelayedCalls() == []


class InLine(Clock):
    """A clock of a reactor with short turns: what is ordered waits until what can be read was read."""

    def __init__(self) -> None:
        super().__init__()
        self.ordered: list[Callable[[], object]] = []

    def after_pending(self, call: Callable[[], object]) -> None:
        self.ordered.append(call)


class Asker:
    """Sends no request, but waits for its answer."""

    def __init__(self) -> None:
        self.errors: list[PeerError] = []

    def answered(self, _response: object) -> None:
        raise AssertionError("no answer comes")

    def broke(self, error: PeerError) -> None:
        self.errors.append(error)


@pytest.mark.parametrize("came", [True, False])
def test_an_answer_that_waits_in_line_is_read_before_its_request_times_out(came: bool) -> None:
    clock, asker = InLine(), Asker()
    connection: Any = HTTPConnection(
        clock, None, TLSContexts(), Origin("mdm.test", 443), (), None, timeouts=Timeouts(answer=1.0)
    )
    connection._caller, connection._answer_due = asker, 1.0
    clock.advance(1.0)
    connection._late()
    assert asker.errors == []
    (expired,) = clock.ordered
    if came:
        connection._finish()
    expired()
    assert [type(error) for error in asker.errors] == ([] if came else [AnswerTimeout])


@pytest.mark.parametrize("came", [True, False])
def test_a_connection_that_waits_in_line_is_opened_before_it_times_out(came: bool) -> None:
    clock = InLine()
    lost: list[PeerError] = []
    owner = type("Owner", (), {"lost": lambda _self, error: lost.append(error)})()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = TLSStream(clock, ours, None, None, owner, timeouts=Timeouts(connect=1.0, handshake=5.0))
        clock.addWriter = clock.removeWriter = clock.removeReader = lambda _stream: None
        stream.connect()
        clock.advance(1.0)
        (expired,) = clock.ordered
        if came:
            stream.state, stream._due = State.HANDSHAKING, 6.0  # as the stream does when the connection is there
        expired()
        assert [type(error) for error in lost] == ([] if came else [ConnectTimeout])
        clock.advance(5.0)
        clock.ordered[-1]()
        assert [type(error) for error in lost] == [HandshakeTimeout if came else ConnectTimeout]
