"""What happened to the Macs of a service: the last events, those who follow them, and those who wait for one.

The service adds each event as it happens. `agent.service.api.control` sends them to clients and waits on their behalf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

from msgspec import structs
from twisted.internet.defer import Deferred, fail, succeed

from agent.errors import LomAgentError
from agent.net.timing import Clock, DelayedCall
from agent.service.types import Event, EventKind, Wait

MAX_EVENTS = 10_000  # that are kept; ours
MAX_NEAREST = 5  # events that the error of a wait has; ours

WANTED = ("kind", "udid", "command_uuid", "request_type", "status")
"""The properties by which a wait selects an event."""


class TimedOut(LomAgentError):
    """A wait ended without what it waited for. ``nearest`` has the events that share most of the wanted properties."""

    kind: ClassVar[str] = "timeout"

    def __init__(self, message: str, nearest: Sequence[Event] = ()) -> None:
        super().__init__(message)
        self.nearest = tuple(nearest)


class EventLog:
    """The last ``limit`` events. ``now`` tells the time in seconds since the epoch.

    Events are numbered from 1. Numbers only grow, also over ``clear``.
    """

    def __init__(self, now: Callable[[], float], limit: int = MAX_EVENTS) -> None:
        self._now = now
        self.limit = limit
        self._events: dict[int, Event] = {}  # by number, without gaps
        self._last = 0
        self.protocol_errors = 0
        """How often a server broke the protocol since the last ``clear``, also where the event is no longer kept."""
        self._subscribers: list[Callable[[Event], object]] = []
        self._undelivered: list[Event] = []
        self._delivering = False

    @property
    def last(self) -> int:
        """The number of the last event; 0 before the first."""
        return self._last

    @property
    def first(self) -> int:
        """The number of the oldest event that is kept, or that the next one will get where none is."""
        return self._last + 1 - len(self._events)

    def add(
        self,
        kind: EventKind,
        text: str,
        *,
        udid: str = "",
        command_uuid: str = "",
        request_type: str = "",
        status: str = "",
        rules: Sequence[str] = (),
        data: dict[str, Any] | None = None,
    ) -> Event:
        """Number an event, keep it, and give it to the subscribers."""
        event = Event(
            number=self._last + 1,
            at=self._now(),
            kind=kind,
            text=text,
            udid=udid,
            command_uuid=command_uuid,
            request_type=request_type,
            status=status,
            rules=list(rules),
            data=data or {},
        )
        return self._keep(event)

    def take(self, event: Event) -> Event:
        """The same with an event of another log, which gets a number of this one."""
        return self._keep(structs.replace(event, number=self._last + 1))

    def _keep(self, event: Event) -> Event:
        if len(self._events) >= self.limit:
            del self._events[self.first]
        self._last = event.number
        self.protocol_errors += event.kind == "protocol_error"
        self._events[event.number] = event
        self._deliver(event)
        return event

    def continue_after(self, number: int) -> None:
        """Number the events from here on. Only before the first event."""
        self._last = number

    def get(self, number: int) -> Event:
        """The event with this number, which is kept: from ``first`` to ``last``."""
        return self._events[number]

    def since(self, after: int, match: Callable[[Event], bool] | None = None) -> list[Event]:
        """The events with a higher number than ``after`` that ``match``, oldest first."""
        return [event for event in self._after(after) if match is None or match(event)]

    def subscribe(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Call ``callback`` with each new event, in order, until the returned function is called."""
        mine = partial(callback)  # an object of its own, so that a callback can subscribe twice
        self._subscribers.append(mine)

        def unsubscribe() -> None:
            self._subscribers = [other for other in self._subscribers if other is not mine]

        return unsubscribe

    def wait(self, wait: Wait, clock: Clock) -> Deferred[Event]:
        """Fires with the first event after ``wait.after`` with the wanted properties, of the past or to come.

        Fails with TimedOut after ``wait.timeout`` seconds on ``clock``.
        """
        wanted = wanted_properties(wait)
        for event in self._after(wait.after):
            if _shared(event, wanted) == len(wanted):
                return succeed(event)
        if wait.timeout <= 0:
            return fail(self._timed_out(wait, wanted))
        timers: list[DelayedCall] = []

        def end(_: object = None) -> None:
            unsubscribe()
            timers.pop().cancel()

        def look(event: Event) -> None:
            if event.number > wait.after and _shared(event, wanted) == len(wanted):
                end()
                found.callback(event)

        def expire() -> None:
            timers[:] = [clock.callLater(0, give_up)]  # the reactor runs timers before it reads

        def give_up() -> None:
            unsubscribe()
            found.errback(self._timed_out(wait, wanted))

        found: Deferred[Event] = Deferred(end)
        unsubscribe = self.subscribe(look)
        timers.append(clock.callLater(wait.timeout, expire))
        return found

    def nearest(self, after: int, wanted: dict[str, str]) -> list[Event]:
        """The events after a number that share most of these properties, at least one: nearest first, then newest."""
        scored = [(_shared(event, wanted), event.number) for event in self._after(after)]
        best = sorted((pair for pair in scored if pair[0]), reverse=True)[:MAX_NEAREST]
        return [self._events[number] for _, number in best]

    def clear(self) -> None:
        """Forget the events; the next one gets the next number."""
        self._events.clear()
        self.protocol_errors = 0

    def _after(self, after: int) -> Iterator[Event]:
        return (self._events[number] for number in range(max(after + 1, self.first), self._last + 1))

    def _deliver(self, event: Event) -> None:
        """Give it to the subscribers. An event that one of them adds comes after this one for all of them."""
        self._undelivered.append(event)
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._undelivered:
                event = self._undelivered.pop(0)
                for subscriber in list(self._subscribers):
                    if subscriber in self._subscribers:
                        subscriber(event)
        finally:
            self._delivering = False

    def _timed_out(self, wait: Wait, wanted: dict[str, str]) -> TimedOut:
        what = ", ".join(f"{name} {value}" for name, value in wanted.items()) or "any properties"
        nearest = self.nearest(wait.after, wanted)
        found = (
            f"the nearest of {self._last - max(wait.after, self.first - 1)} is number {nearest[0].number}: "
            f"{nearest[0].text.rstrip('.')}"
            if nearest
            else "none shares any of them"
        )
        return TimedOut(
            f"Expected an event with {what} after number {wait.after} within {wait.timeout:g} s, found none; {found}. "
            "Check what the Mac was asked, or wait longer.",
            nearest,
        )


def wanted_properties(wait: Wait) -> dict[str, str]:
    """What a wait asks for."""
    values = {name: getattr(wait, name) for name in WANTED}
    return {name: value for name, value in values.items() if value is not None}


def _shared(event: Event, wanted: dict[str, str]) -> int:
    """How many of the wanted properties an event has."""
    return sum(getattr(event, name) == value for name, value in wanted.items())
