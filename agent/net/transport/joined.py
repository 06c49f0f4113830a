"""Connections whose short records are read together with what follows them, and the look at those that wait long.

A server that reads the body of a request may send WINDOW_UPDATE before its answer, alone: a second turn of the reactor
for each request. Where answers came so, the system is asked not to report it before more is there
(``TLSStream.join_short_records``). A server that sends no more than such a record, an RST_STREAM for example, is
noticed by the look.
"""

from __future__ import annotations

from typing import Protocol

from agent.net.timing import DelayedCall, Reactor

LOOK_SECONDS = 0.5  # ours: so long, at most twice, an answer of a short record alone can be noticed late


class Joined(Protocol):
    """A connection that was added."""

    def look(self, now: float) -> None:
        """Have everything reported again if an answer is awaited for LOOK_SECONDS."""


class JoinedConnections:
    """Those of one process."""

    def __init__(self) -> None:
        self._members: set[Joined] = set()
        self._timer: DelayedCall | None = None

    def add(self, connection: Joined, reactor: Reactor) -> None:
        """Look at it from now on."""
        self._members.add(connection)
        if self._timer is None:
            self._timer = reactor.callLater(LOOK_SECONDS, self._look, reactor)

    def discard(self, connection: Joined) -> None:
        """Look at it no more."""
        self._members.discard(connection)
        if not self._members and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, reactor: Reactor) -> None:
        self._timer = reactor.callLater(LOOK_SECONDS, self._look, reactor)
        now = reactor.seconds()
        for connection in list(self._members):
            connection.look(now)
