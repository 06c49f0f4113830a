"""A reactor whose turns are short, so that no Mac waits until every other one that is ready was served.

Twisted's handles every descriptor that is ready before it looks at timers and at new events: after a burst, a thousand
sessions may be one turn. Here a turn ends after TURN_SECONDS. epoll is level-triggered, so that the rest is reported
again; it reports descriptors in turn where it is asked for a few at a time (epoll_wait(2), maxevents).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

TURN_SECONDS = 0.004  # ours: some ready Macs, of which each takes up to 2 ms
AT_ONCE = 4  # descriptors that epoll is asked for; the turn may be longer by all but the first


class PendingCall:
    """A call that is made once every descriptor that was ready when it was ordered has been handled."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[], object]) -> None:
        self._call: Callable[[], object] | None = call

    def active(self) -> bool:
        """Whether it is still to be made."""
        return self._call is not None

    def cancel(self) -> None:
        """Do not make the call."""
        self._call = None

    def make(self) -> None:
        """Make it, unless it was cancelled."""
        call, self._call = self._call, None
        if call is not None:
            call()


class TurnReactor(EPollReactor):
    """An epoll reactor with short turns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of Twisted
        self._last: _LastInLine | None = None

    def doPoll(self, timeout: float | None) -> None:
        """Handle what is ready, for one turn."""
        wait: float = -1 if timeout is None else timeout
        ends = 0.0
        while True:
            ready = self._poller.poll(wait, AT_ONCE)
            ends = ends or self.seconds() + TURN_SECONDS
            for descriptor, event in ready:
                selectable = self._selectables.get(descriptor)
                if selectable is not None:  # otherwise one that was handled before it has removed it
                    self._doReadOrWrite(selectable, descriptor, event)  # type: ignore[no-untyped-call]
            if len(ready) < AT_ONCE or self.seconds() >= ends:
                return
            wait = 0

    doIteration = doPoll

    def after_pending(self, call: Callable[[], object]) -> PendingCall:
        """Call when every descriptor that is ready now was handled."""
        if self._last is None:
            self._last = _LastInLine()
            self.addReader(self._last)  # type: ignore[no-untyped-call]
        return self._last.order(call)


@implementer(IReadDescriptor)
class _LastInLine:
    """A descriptor that becomes ready after those that are ready now, because epoll appends it to its list."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._ordered: deque[PendingCall] = deque()

    def order(self, call: Callable[[], object]) -> PendingCall:
        """Make this call when its turn has come."""
        ordered = PendingCall(call)
        if not self._ordered:
            os.eventfd_write(self._descriptor, 1)
        self._ordered.append(ordered)
        return ordered

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def logPrefix(self) -> str:
        """Twisted's log prefix."""
        return "last in line"

    def doRead(self) -> None:
        """Its turn has come: make the calls that were ordered before."""
        os.eventfd_read(self._descriptor)
        calls, self._ordered = self._ordered, deque()
        for call in calls:
            call.make()

    def connectionLost(self, _reason: Failure) -> None:
        """The reactor ends."""
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
