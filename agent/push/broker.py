"""The middle of APNs: a request in, an answer out; and the notifications that reach their Macs, now or later. No I/O.

Whoever carries it calls ``take`` after every other call, hands what comes to the Macs, and calls ``advance`` at
``deadline``. Every accepted notification ends in exactly one count: delivered, ignored, replaced, expired, discarded;
or it waits.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Protocol

from agent.push.counts import PushCounts
from agent.push.delays import Delay, PowerSaving, no_delay
from agent.push.reasons import OwnCause, PushRefused, Reason
from agent.push.requests import Provider, PushPolicy, PushRequest, judge_request, new_apns_id
from agent.push.rules import PushRules
from agent.push.store import Notification, PushStore


class Presence(Enum):
    """How a Mac stands to APNs."""

    ONLINE = auto()
    OFFLINE = auto()  # off, booting, or between two enrolments
    LEFT = auto()  # it has left its management: its token is good for nothing any more
    UNKNOWN = auto()  # it never told anyone its token


class Macs(Protocol):
    """The Macs behind the gateway, by index."""

    def find(self, token: bytes) -> int | None:
        """Whose push token it is, None where it is nobody's."""

    def presence(self, index: int) -> Presence:
        """How the Mac stands."""

    def topic(self, index: int) -> str:
        """The topic that it listens to; empty where that is open, between two enrolments."""

    def left_at(self, index: int) -> float:
        """When it left its management, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the provider gets: status, ``apns-id`` and a JSON body, empty where all is well.

    ``rule`` is the number of the rule that made it a refusal, None where none did.
    """

    status: int
    apns_id: str
    body: bytes = b""
    rule: int | None = None


@dataclass(frozen=True, slots=True)
class Broken:
    """Instead of an answer the provider's connection breaks, by the rule of this number."""

    rule: int | None = None


Outcome = Answer | Broken
Reply = Callable[[Outcome], object]  # how a provider's connection hears of it: once, at once or later


class PushBroker:
    """Takes pushes and delivers them. Times are seconds since the epoch, on one clock.

    ``chance`` gives numbers from 0 to 1, each Mac (by index) its own row of them.
    """

    def __init__(
        self,
        macs: Macs,
        *,
        policy: PushPolicy | None = None,
        delay: Delay = no_delay,
        chance: Callable[[int], float] = lambda _index: 0.0,
        saving: PowerSaving | None = None,
        rules: PushRules | None = None,
        began: float = 0.0,
    ) -> None:
        self.counts = PushCounts()
        self.rules = rules or PushRules()
        self._macs = macs
        self._policy = policy or PushPolicy()
        self._delay = delay
        self._chance = chance
        self._saving = saving or PowerSaving()
        self._began = began
        self._store = PushStore()
        self._flights: list[tuple[float, int, int, Notification]] = []  # (landing, number, priority, …)
        self._number = 0
        self._out: list[Notification] = []
        self._back = self.rules.back_after(-1.0)

    @property
    def waiting(self) -> int:
        """How many notifications are under way or stored."""
        return len(self._store) + len(self._flights) + len(self._out)

    @property
    def deadline(self) -> float | None:
        """When ``advance`` is to be called, or None."""
        times = [time for time in (self._store.deadline, self._began + self._back if self._back else None) if time]
        if self._flights:
            times.append(self._flights[0][0])
        return min(times, default=None)

    @property
    def ready(self) -> bool:
        """Whether ``take`` has something to give."""
        return bool(self._out)

    def receive(
        self,
        fields: Iterable[tuple[str, str]],
        body: bytes,
        provider: Provider,
        now: float,
        spent: Collection[int] | None = None,
        ahead: float = 0.0,
    ) -> Outcome:
        """What comes of one request.

        ``spent`` are the rules for the first so many pushes that have none left, where somebody else counts these.
        ``ahead`` is how far the clock of the provider's dates is ahead of ``now``.
        """
        try:
            request = judge_request(fields, body, provider, self._policy, now, ahead)
            index = self._addressee(request)
        except PushRefused as refused:
            return self.refuse(refused)
        fault = self.rules.fault(index, now - self._began, spent)
        if fault is None:
            self.counts.accepted += 1
            self._send(request, index, now)
            return Answer(200, request.apns_id)
        if fault.reason is None:
            self.counts.broken += 1
            return Broken(fault.rule)
        gone_at = now if fault.reason.status == 410 else None
        answer = self.refuse(PushRefused(fault.reason, apns_id=request.apns_id, timestamp=gone_at))
        return replace(answer, rule=fault.rule)

    def refuse(self, refused: PushRefused) -> Answer:
        """The answer to a request that is not accepted, which is counted. Like every answer it has an ``apns-id``."""
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
        """The gateway ended a connection because there were too many."""
        self.counts.own[OwnCause.CONNECTIONS.value] += 1

    def came_back(self, index: int, now: float) -> None:
        """Mac ``index`` is online again, or enrolled again: it gets what waits for it."""
        self._release(index, now)

    def left(self, index: int) -> None:
        """Mac ``index`` has left its management: what waits for it is worth nothing."""
        self.counts.discarded += len(self._store.drop(index))

    def advance(self, now: float) -> None:
        """Let time pass."""
        if self._back is not None and self._began + self._back <= now:
            self._back = self.rules.back_after(now - self._began)
            for index in self._store.indexes():
                self._release(index, now)
        while self._flights and self._flights[0][0] <= now:
            _landing, _number, priority, notification = heapq.heappop(self._flights)
            self._land(notification, priority, now)
        ready, expired = self._store.advance(now)
        self.counts.expired += len(expired)
        for index in ready:
            self._release(index, now)

    def take(self) -> list[Notification]:
        """The notifications that reach their Macs now, in order."""
        out, self._out = self._out, []
        return out

    def reached(self, taken: bool) -> None:
        """A notification came to its Mac, which has taken it for its own or ignored it."""
        if taken:
            self.counts.delivered += 1
        else:
            self.counts.ignored += 1

    def _addressee(self, request: PushRequest) -> int:
        """The Mac that the request is for. Raises PushRefused."""
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

    def _send(self, request: PushRequest, index: int, now: float) -> None:
        notification = Notification(
            index, request.topic, request.push_magic, request.apns_id, now, request.expires, request.storable
        )
        delay = self._delay(self._chance(index)) if self._delay is not no_delay else 0.0
        if delay > 0.0:
            self._number += 1
            heapq.heappush(self._flights, (now + delay, self._number, request.priority, notification))
        else:
            self._land(notification, request.priority, now)

    def _land(self, notification: Notification, priority: int, now: float) -> None:
        """The notification is where APNs would hand it to its Mac."""
        index = notification.index
        presence = self._macs.presence(index)
        if presence in (Presence.LEFT, Presence.UNKNOWN):
            self.counts.discarded += 1
        elif notification.expires <= now:
            self.counts.expired += 1
        else:
            not_before = self._saving.not_before(priority, index, now) if notification.storable else 0.0
            self._deliver_or_store(notification, not_before, self._online(index, presence, now))

    def _deliver_or_store(self, notification: Notification, not_before: float, online: bool) -> None:
        if online and not not_before:
            # One that is held back for the same topic goes with the newer one.
            self.counts.replaced += len(self._store.replace(notification))
            self._hand_over(notification)
        elif notification.storable:
            self.counts.stored += 1
            self.counts.replaced += len(self._store.keep(notification, not_before))
        else:
            self.counts.discarded += 1

    def _release(self, index: int, now: float) -> None:
        presence = self._macs.presence(index)
        if not self._online(index, presence, now):
            return
        delivered, expired = self._store.release(index, now)
        self.counts.expired += len(expired)
        for notification in delivered:
            self._hand_over(notification)

    def _online(self, index: int, presence: Presence, now: float) -> bool:
        return presence is Presence.ONLINE and not self.rules.offline(index, now - self._began)

    def _hand_over(self, notification: Notification) -> None:
        topic = self._macs.topic(notification.index)
        if topic != notification.topic:  # it enrolled anew with another topic, and listens to this one no more
            self.counts.discarded += 1
        else:
            self._out.append(notification)
