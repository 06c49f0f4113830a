"""Store and forward: for each Mac and topic the newest notification, until it is delivered or expires. No I/O.

A Mac without a stored notification costs nothing. Every entry has one live element in a heap of times at which it is
to be looked at; those of entries that are gone are skipped, and thrown out when they are the most.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

MAX_TOPICS = 8  # ours, for one Mac: it has one topic, but between two enrolments it is open which
_STALE_ALLOWED = 64


@dataclass(frozen=True, slots=True)
class Notification:
    """What is on its way to Mac ``index``. Times are seconds since the epoch.

    ``received`` is when the provider's request was whole, ``expires`` when the notification is worth nothing any
    more; where ``storable`` is false it is delivered at the first try or never.
    """

    index: int
    topic: str
    push_magic: str
    apns_id: str
    received: float
    expires: float
    storable: bool = True


@dataclass(slots=True)
class _Entry:
    notification: Notification
    not_before: float
    look: int  # the number of its live element in the heap


class PushStore:
    """The notifications that wait. ``len`` is how many."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[_Entry, ...]] = {}  # by Mac; the oldest first, one a topic
        self._count = 0
        self._looks: list[tuple[float, int, int]] = []  # (time, number, Mac)
        self._number = 0

    def __len__(self) -> int:
        return self._count

    @property
    def deadline(self) -> float | None:
        """When ``advance`` has something to do, at the earliest."""
        return self._looks[0][0] if self._looks else None

    def keep(self, notification: Notification, not_before: float = 0.0) -> list[Notification]:
        """Keep a notification, until ``not_before`` even from a Mac that is there; what it takes the place of."""
        before = self._entries.get(notification.index, ())
        others = [entry for entry in before if entry.notification.topic != notification.topic]
        out = [entry.notification for entry in before if entry.notification.topic == notification.topic]
        while len(others) >= MAX_TOPICS:
            out.append(others.pop(0).notification)
        look = self._look_at(
            min(not_before, notification.expires) if not_before else notification.expires, notification
        )
        self._entries[notification.index] = (*others, _Entry(notification, not_before, look))
        self._count += 1 + len(others) - len(before)
        self._forget_stale()
        return out

    def replace(self, notification: Notification) -> list[Notification]:
        """A newer one needs not be kept: what it takes the place of is kept no longer."""
        entries = self._entries.get(notification.index)
        if entries is None:
            return []
        out = [entry.notification for entry in entries if entry.notification.topic == notification.topic]
        self._put_back(
            notification.index, [entry for entry in entries if entry.notification.topic != notification.topic]
        )
        return out

    def indexes(self) -> list[int]:
        """The Macs for which something waits."""
        return list(self._entries)

    def release(self, index: int, now: float) -> tuple[list[Notification], list[Notification]]:
        """Mac ``index`` is there: what it gets, the oldest first, and what has expired. Neither is kept any longer."""
        delivered: list[Notification] = []
        expired: list[Notification] = []
        rest: list[_Entry] = []
        for entry in self._entries.get(index, ()):
            if entry.notification.expires <= now:
                expired.append(entry.notification)
            elif entry.not_before <= now:
                delivered.append(entry.notification)
            else:
                rest.append(entry)
        self._put_back(index, rest)
        return delivered, expired

    def drop(self, index: int) -> list[Notification]:
        """Everything that waits for a Mac that is enrolled no more; it is kept no longer."""
        gone = [entry.notification for entry in self._entries.get(index, ())]
        self._put_back(index, [])
        return gone

    def advance(self, now: float) -> tuple[list[int], list[Notification]]:
        """Let time pass: the Macs whose notifications are held back no longer, and the notifications that expired.

        A Mac that is there is then to be given its own by ``release``; for any other they wait on.
        """
        ready: list[int] = []
        expired: list[Notification] = []
        while self._looks and self._looks[0][0] <= now:
            _time, number, index = heapq.heappop(self._looks)
            entry = next((entry for entry in self._entries.get(index, ()) if entry.look == number), None)
            if entry is None:
                continue
            if entry.notification.expires <= now:
                expired.append(entry.notification)
                self._put_back(index, [other for other in self._entries[index] if other is not entry])
            else:
                ready.append(index)
                entry.look = self._look_at(entry.notification.expires, entry.notification)
        return ready, expired

    def _put_back(self, index: int, entries: list[_Entry]) -> None:
        self._count += len(entries) - len(self._entries.get(index, ()))
        if entries:
            self._entries[index] = tuple(entries)
        else:
            self._entries.pop(index, None)

    def _look_at(self, when: float, notification: Notification) -> int:
        self._number += 1
        heapq.heappush(self._looks, (when, self._number, notification.index))
        return self._number

    def _forget_stale(self) -> None:
        if len(self._looks) > 2 * self._count + _STALE_ALLOWED:
            live = {entry.look for entries in self._entries.values() for entry in entries}
            self._looks = [look for look in self._looks if look[1] in live]
            heapq.heapify(self._looks)
