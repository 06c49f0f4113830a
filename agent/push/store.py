"""Store and forward: the newest notification of each Mac and topic, until it is delivered or expires. No I/O.

A Mac without a stored notification takes no memory. Every entry has one current element in a heap of due times;
elements of removed entries are skipped, and removed when they outnumber the current ones.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import msgspec

MAX_TOPICS = 8  # ours, for one Mac: between two enrollments, every topic is accepted
_STALE_ALLOWED = 64


class Notification(msgspec.Struct, frozen=True):
    """An accepted push for Mac ``index``. Times are seconds since the epoch."""

    index: int
    topic: str
    push_magic: str
    apns_id: str
    received: float
    """When the provider's request was complete."""
    expires: float
    """When the notification is no longer delivered."""
    storable: bool = True
    """Whether it may be stored; otherwise it is delivered at the first attempt or not at all."""


class _Entry(msgspec.Struct):
    notification: Notification
    not_before: float
    due: int  # the number of its current element in the heap


class PushStore:
    """The stored notifications; ``len`` is their number."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[_Entry, ...]] = {}  # by Mac; the oldest first, one for each topic
        self._count = 0
        self._due: list[tuple[float, int, int]] = []  # (time, number, Mac)
        self._number = 0

    def __len__(self) -> int:
        return self._count

    @property
    def deadline(self) -> float | None:
        """When to call ``advance``, or None."""
        return self._due[0][0] if self._due else None

    def keep(self, notification: Notification, not_before: float = 0.0) -> list[Notification]:
        """Store a notification, until ``not_before`` also while its Mac is online; return those that it replaces."""
        before = self._entries.get(notification.index, ())
        others = [entry for entry in before if entry.notification.topic != notification.topic]
        out = [entry.notification for entry in before if entry.notification.topic == notification.topic]
        while len(others) >= MAX_TOPICS:
            out.append(others.pop(0).notification)
        due = self._schedule(
            min(not_before, notification.expires) if not_before else notification.expires, notification
        )
        self._entries[notification.index] = (*others, _Entry(notification, not_before, due))
        self._count += 1 + len(others) - len(before)
        self._forget_stale()
        return out

    def replace(self, notification: Notification) -> list[Notification]:
        """Remove and return the notifications that ``notification``, which is not stored itself, replaces."""
        entries = self._entries.get(notification.index)
        if entries is None:
            return []
        out = [entry.notification for entry in entries if entry.notification.topic == notification.topic]
        self._put_back(
            notification.index, [entry for entry in entries if entry.notification.topic != notification.topic]
        )
        return out

    def __iter__(self) -> Iterator[tuple[Notification, float]]:
        """The notifications, each with the time until which it is held back from an online Mac."""
        return ((entry.notification, entry.not_before) for entries in self._entries.values() for entry in entries)

    def release(self, index: int, now: float) -> tuple[list[Notification], list[Notification]]:
        """Remove and return what an online Mac gets, the oldest first, and what has expired."""
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
        """Remove and return every notification of a Mac that is no longer enrolled."""
        gone = [entry.notification for entry in self._entries.get(index, ())]
        self._put_back(index, [])
        return gone

    def advance(self, now: float) -> tuple[list[int], list[Notification]]:
        """The Macs with notifications that are no longer held back, and the notifications that have expired.

        The caller calls ``release`` for each of these Macs that is online; the others' notifications remain stored.
        """
        ready: list[int] = []
        expired: list[Notification] = []
        while self._due and self._due[0][0] <= now:
            _time, number, index = heapq.heappop(self._due)
            entry = next((entry for entry in self._entries.get(index, ()) if entry.due == number), None)
            if entry is None:
                continue
            if entry.notification.expires <= now:
                expired.append(entry.notification)
                self._put_back(index, [other for other in self._entries[index] if other is not entry])
            else:
                ready.append(index)
                entry.due = self._schedule(entry.notification.expires, entry.notification)
        return ready, expired

    def _put_back(self, index: int, entries: list[_Entry]) -> None:
        self._count += len(entries) - len(self._entries.get(index, ()))
        if entries:
            self._entries[index] = tuple(entries)
        else:
            self._entries.pop(index, None)

    def _schedule(self, when: float, notification: Notification) -> int:
        self._number += 1
        heapq.heappush(self._due, (when, self._number, notification.index))
        return self._number

    def _forget_stale(self) -> None:
        if len(self._due) > 2 * self._count + _STALE_ALLOWED:
            live = {entry.due for entries in self._entries.values() for entry in entries}
            self._due = [element for element in self._due if element[1] in live]
            heapq.heapify(self._due)
