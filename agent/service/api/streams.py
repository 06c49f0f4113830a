"""Events to one client, as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Nothing is stored for a client that reads slowly: it continues from the service's own events when it reads again. Where
these no longer have the next one, its connection is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from agent.net.timing import Alarm, Clock
from agent.service.events import EventLog
from agent.service.types import Event

HEARTBEAT_SECONDS = 15.0  # the interval that the specification advises
RETRY_MS = 1000  # after which a browser connects again


@implementer(IPushProducer)
class EventStream:
    """The events after number ``after`` that ``match``, from the past and as they happen."""

    def __init__(self, log: EventLog, match: Callable[[Event], bool], after: int, clock: Clock) -> None:
        self._log = log
        self._match = match
        self._next = min(max(after + 1, log.first), log.last + 1)  # a number of an earlier process may be above
        self._skipped = max(0, self._next - (after + 1))
        self._paused = False
        self._request: Any = None
        self._leave: Callable[[], None] = lambda: None
        self._heartbeat = Alarm(clock, self._beat)

    def send_to(self, request: Any) -> Deferred[None]:
        """Write events until the returned Deferred is cancelled, as it is when the client leaves."""
        self._request = request
        request.setHeader(b"content-type", b"text/event-stream")
        request.setHeader(b"x-accel-buffering", b"no")  # nginx would collect them
        request.registerProducer(self, True)
        opening = f"retry: {RETRY_MS}\n"
        if self._skipped:
            opening += f": {self._skipped} earlier events are no longer kept\n"
        request.write(opening.encode("ascii") + b"\n")
        self._leave = self._log.subscribe(lambda _event: self._send())
        self._heartbeat.set(HEARTBEAT_SECONDS)
        self._send()
        return Deferred(lambda _: self.stopProducing())

    def pauseProducing(self) -> None:
        """The client does not read."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The client reads again."""
        self._paused = False
        self._send()

    def stopProducing(self) -> None:
        """The connection is lost."""
        self._leave()
        self._heartbeat.cancel()

    def _send(self) -> None:
        """Write what the client has not got, as long as it reads."""
        if self._paused and self._log.last - self._next >= self._log.limit:
            self.stopProducing()
            self._request.transport.abortConnection()
        while not self._paused and self._next <= self._log.last:
            event = self._log.get(max(self._next, self._log.first))
            self._next = event.number + 1
            if self._match(event):
                self._request.write(encoded(event))

    def _beat(self) -> None:
        if not self._paused:
            self._request.write(b":\n\n")
        self._heartbeat.set(HEARTBEAT_SECONDS)


def encoded(event: Event) -> bytes:
    """One event in the stream's format; JSON has no line breaks."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.number, event.kind.encode(), msgspec.json.encode(event))
