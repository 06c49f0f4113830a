"""The core of APNs: from a provider's request to its answer, and to the notification that its Mac gets. No I/O.

The caller calls ``take`` after every other call, passes the notifications on to the Macs, and calls ``advance`` at
``deadline``. Every accepted notification either waits or is counted exactly once: as delivered, ignored, replaced,
expired or discarded.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Iterator
from enum import Enum, auto
from typing import Any, NamedTuple, Protocol

import msgspec

from agent.push.counts import PushCounts
from agent.push.delays import Delay, PowerSaving, no_delay
from agent.push.reasons import OwnCause, PushRefused, Reason
from agent.push.requests import Provider, PushPolicy, PushRequest, judge_request, new_apns_id
from agent.push.store import Notification, PushStore


class Presence(Enum):
    """Whether APNs can reach a Mac."""

    ONLINE = auto()
    OFFLINE = auto()  # off, booting, or between two enrollments
    LEFT = auto()  # it is no longer managed, and its token is invalid
    UNKNOWN = auto()  # it has never sent its token


class Macs(Protocol):
    """The Macs behind the gateway, by index."""

    def find(self, token: bytes) -> int | None:
        """The Mac with this push token, or None."""

    def presence(self, index: int) -> Presence:
        """Whether APNs can reach the Mac."""

    def topic(self, index: int) -> str:
        """The topic of its enrollment; empty between two enrollments."""

    def left_at(self, index: int) -> float:
        """When its management ended, in seconds since the epoch."""


class Answer(msgspec.Struct, frozen=True):
    """The response to the provider."""

    status: int
    """The HTTP status."""
    apns_id: str
    """The header ``apns-id``."""
    body: bytes = b""
    """The JSON of a refusal; empty with the status 200."""


class Broken(msgspec.Struct, frozen=True):
    """The provider's connection breaks instead of an answer."""


class Injected(NamedTuple):
    """What a fault rule of the fleet (`agent.faults`) does to a valid push."""

    reason: Reason | None = None
    """Refuse it."""
    broken: bool = False
    """Break the connection."""
    lost: bool = False
    """Accept it, and never deliver it."""
    delay: float = 0.0
    """Deliver it so many seconds later."""
    held: float = 0.0
    """Store it for so many seconds, as for a Mac that cannot be reached."""


_NOTHING = Injected()
PushOutcome = Answer | Broken
Reply = Callable[[PushOutcome], object]  # called once for each request, immediately or later


class PushBroker:
    """Accepts and delivers pushes. Times are seconds since the epoch, on one clock.

    ``chance`` returns numbers from 0 to 1, from a sequence of its own for each Mac (by index). ``inject`` is asked what
    a fault rule does to a push for this Mac; None: nothing.
    """

    def __init__(
        self,
        macs: Macs,
        *,
        policy: PushPolicy | None = None,
        delay: Delay = no_delay,
        chance: Callable[[int], float] = lambda _index: 0.0,
        saving: PowerSaving | None = None,
        inject: Callable[[int], Injected | None] | None = None,
    ) -> None:
        self.counts = PushCounts()
        self._macs = macs
        self._policy = policy or PushPolicy()
        self._delay = delay
        self._chance = chance
        self._saving = saving or PowerSaving()
        self._inject = inject
        self._store = PushStore()
        self._in_flight: list[tuple[float, int, int, Notification]] = []  # (arrival, number, priority, notification)
        self._number = 0
        self._out: list[Notification] = []

    @property
    def waiting(self) -> int:
        """How many notifications are in flight or stored."""
        return len(self._store) + len(self._in_flight) + len(self._out)

    @property
    def stored(self) -> Iterator[tuple[Notification, float]]:
        """The storable notifications that wait, each with the time before which its Mac does not get it."""
        yield from self._store
        for arrival, _number, _priority, notification in self._in_flight:
            if notification.storable:
                yield notification, arrival

    def restore(self, notification: Notification, not_before: float) -> None:
        """Store a notification that another process accepted."""
        self._store.keep(notification, not_before)

    @property
    def deadline(self) -> float | None:
        """When to call ``advance``, or None."""
        arrival = self._in_flight[0][0] if self._in_flight else None
        return min((time for time in (self._store.deadline, arrival) if time is not None), default=None)

    @property
    def ready(self) -> bool:
        """Whether ``take`` would return notifications."""
        return bool(self._out)

    def receive(
        self,
        fields: Iterable[tuple[str, str]],
        body: bytes,
        provider: Provider,
        now: float,
        ahead: float = 0.0,
    ) -> PushOutcome:
        """Process one request. ``ahead`` is how far (seconds) the clock of the provider's dates is ahead of ``now``."""
        try:
            request = judge_request(fields, body, provider, self._policy, now, ahead)
            index = self._addressee(request)
        except PushRefused as refused:
            return self.refuse(refused)
        injected = (None if self._inject is None else self._inject(index)) or _NOTHING
        if injected.broken:
            self.counts.broken += 1
            return Broken()
        if injected.reason is not None:
            gone_at = now if injected.reason.status == 410 else None
            return self.refuse(PushRefused(injected.reason, apns_id=request.apns_id, timestamp=gone_at))
        return self._accept(request, index, now, injected)

    def refuse(self, refused: PushRefused) -> Answer:
        """Count a refused request and return its answer, which has an ``apns-id`` like every other."""
        reason = refused.reason
        if refused.own is None:
            self.counts.refused[reason.word] = self.counts.refused.get(reason.word, 0) + 1
        else:
            self.counts.own[refused.own.value] += 1
        document: dict[str, Any] = {"reason": reason.word}
        if refused.timestamp is not None:
            document["timestamp"] = int(refused.timestamp * 1000)  # Apple: milliseconds since the epoch
        apns_id = refused.apns_id or new_apns_id()
        return Answer(reason.status, apns_id, json.dumps(document, separators=(",", ":")).encode())

    def turned_away(self) -> None:
        """Count a connection that the gateway closed because of its limit."""
        self.counts.own[OwnCause.CONNECTIONS.value] += 1

    def came_back(self, index: int, now: float) -> None:
        """Mac ``index`` is online or enrolled again: deliver its stored notifications."""
        self._release(index, now)

    def left(self, index: int) -> None:
        """Mac ``index`` is no longer managed: discard its stored notifications."""
        self.counts.discarded += len(self._store.drop(index))

    def advance(self, now: float) -> None:
        """Deliver, expire and release everything that is due at ``now``."""
        while self._in_flight and self._in_flight[0][0] <= now:
            _arrival, _number, priority, notification = heapq.heappop(self._in_flight)
            self._arrive(notification, priority, now)
        ready, expired = self._store.advance(now)
        self.counts.expired += len(expired)
        for index in ready:
            self._release(index, now)

    def take(self) -> list[Notification]:
        """Remove and return the notifications to deliver now, in order."""
        out, self._out = self._out, []
        return out

    def reached(self, taken: bool) -> None:
        """Count a notification that its Mac accepted (``taken``) or ignored."""
        if taken:
            self.counts.delivered += 1
        else:
            self.counts.ignored += 1

    def _addressee(self, request: PushRequest) -> int:
        """The index of the Mac with the request's token. Raises PushRefused."""
        index = self._macs.find(request.token)
        presence = Presence.UNKNOWN if index is None else self._macs.presence(index)
        if index is None or presence is Presence.UNKNOWN:
            raise PushRefused(Reason.BAD_DEVICE_TOKEN, apns_id=request.apns_id)
        topic = self._macs.topic(index)
        if topic and topic != request.topic:
            raise PushRefused(Reason.DEVICE_TOKEN_NOT_FOR_TOPIC, apns_id=request.apns_id)
        if presence is Presence.LEFT:
            left_at = self._macs.left_at(index)
            raise PushRefused(Reason.UNREGISTERED, apns_id=request.apns_id, timestamp=left_at)
        return index

    def _accept(self, request: PushRequest, index: int, now: float, injected: Injected) -> Answer:
        self.counts.accepted += 1
        if injected.lost:
            self.counts.discarded += 1
        else:
            self._send(request, index, now, injected)
        return Answer(200, request.apns_id)

    def _send(self, request: PushRequest, index: int, now: float, injected: Injected) -> None:
        """Start the notification's way."""
        notification = Notification(
            index, request.topic, request.push_magic, request.apns_id, now, request.expires, request.storable
        )
        delay = (self._delay(self._chance(index)) if self._delay is not no_delay else 0.0) + injected.delay
        if injected.held > 0.0 and notification.expires > now:
            self._deliver_or_store(notification, now + injected.held, online=False)
        elif delay > 0.0:
            self._number += 1
            heapq.heappush(self._in_flight, (now + delay, self._number, request.priority, notification))
        else:
            self._arrive(notification, request.priority, now)

    def _arrive(self, notification: Notification, priority: int, now: float) -> None:
        """The notification's delay is over: deliver, store or count it."""
        index = notification.index
        presence = self._macs.presence(index)
        if presence in (Presence.LEFT, Presence.UNKNOWN):
            self.counts.discarded += 1
        elif notification.expires <= now:
            self.counts.expired += 1
        else:
            not_before = self._saving.not_before(priority, index, now) if notification.storable else 0.0
            self._deliver_or_store(notification, not_before, presence is Presence.ONLINE)

    def _deliver_or_store(self, notification: Notification, not_before: float, online: bool) -> None:
        if online and not not_before:
            # The newer notification replaces one of the same topic that is held back.
            self.counts.replaced += len(self._store.replace(notification))
            self._deliver(notification)
        elif notification.storable:
            self.counts.stored += 1
            self.counts.replaced += len(self._store.keep(notification, not_before))
        else:
            self.counts.discarded += 1

    def _release(self, index: int, now: float) -> None:
        if self._macs.presence(index) is not Presence.ONLINE:
            return
        delivered, expired = self._store.release(index, now)
        self.counts.expired += len(expired)
        for notification in delivered:
            self._deliver(notification)

    def _deliver(self, notification: Notification) -> None:
        topic = self._macs.topic(notification.index)
        if topic != notification.topic:  # the Mac has enrolled again with another topic
            self.counts.discarded += 1
        else:
            self._out.append(notification)
