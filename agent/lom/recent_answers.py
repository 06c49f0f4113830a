"""Recent answers of a Device: a repeated request gets the same answer and is not carried out again. No I/O.

A Controller that lost an answer may repeat its request. The answers are stored in the LOM hardware, so they survive a
reset of the Mac. Apple does not document this; it is a rule of our link (docs/lom-link.md).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from agent.lom.link import LIMITS, LinkAnswer, LinkLimits, LinkRequest
from agent.lom.requests import PowerRequest

_MAX_QUOTED = 80  # characters of a DeviceRequestUUID that an error quotes


class _Entry(msgspec.Struct, frozen=True):
    expires_at: float
    request: PowerRequest
    answer: LinkAnswer
    acknowledged: bool
    in_transit: bool
    """Whether the link on which it was sent is still open, so that its acknowledgement may come."""


class AnswerRecord(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An answer, to keep it in another process."""

    controller: str
    uuid: str
    request: PowerRequest
    error: str = ""
    left: float = 0.0
    """Seconds from the moment of the record until it is forgotten."""
    acknowledged: bool = True
    """Whether the Controller has acknowledged it, or never will (version 1)."""


class RecentAnswers:
    """The answers of the last ``repeat_seconds``, at most ``repeats_kept``, by Controller and DeviceRequestUUID.

    ``now`` is in monotonic seconds.
    """

    __slots__ = ("_entries", "_limits")

    def __init__(self, limits: LinkLimits = LIMITS) -> None:
        self._limits = limits
        self._entries: dict[tuple[str, str], _Entry] = {}  # oldest first

    def __len__(self) -> int:
        return len(self._entries)

    def records(self, now: float) -> list[AnswerRecord]:
        """The answers that are kept, oldest first."""
        self._forget_old(now)
        return [
            AnswerRecord(
                controller, uuid, entry.request, entry.answer.error, entry.expires_at - now, entry.acknowledged
            )
            for (controller, uuid), entry in self._entries.items()
        ]

    def resume(self, records: Iterable[AnswerRecord], now: float) -> None:
        """Take recorded answers over."""
        self._entries = {
            (each.controller, each.uuid): _Entry(
                now + each.left, each.request, LinkAnswer(each.uuid, each.error), each.acknowledged, in_transit=False
            )
            for each in records
        }

    def repeated(self, controller: str, request: LinkRequest, now: float) -> LinkAnswer | None:
        """The answer to a request that was answered before; None if the request is new.

        A known DeviceRequestUUID with another DeviceRequestType is answered with an error.
        """
        self._forget_old(now)
        kept = self._entries.get((controller, request.uuid))
        if kept is None:
            return None
        if kept.request is not request.request:
            return LinkAnswer(
                request.uuid,
                f"DeviceRequestUUID {request.uuid[:_MAX_QUOTED]!r} was used for {kept.request.value} before; "
                f"{request.request.value} needs a new one",
            )
        return kept.answer

    def keep(self, controller: str, request: LinkRequest, answer: LinkAnswer, now: float) -> None:
        """Store an answer; drops the oldest beyond ``repeats_kept``."""
        self._forget_old(now)
        self.forget(controller, request.uuid)
        self._entries[controller, request.uuid] = _Entry(
            now + self._limits.repeat_seconds,
            request.request,
            answer,
            acknowledged=not request.acknowledges,
            in_transit=request.acknowledges,
        )
        while len(self._entries) > self._limits.repeats_kept:
            del self._entries[next(iter(self._entries))]

    def unacknowledged(self, controller: str, now: float) -> list[LinkAnswer]:
        """The answers that this Controller has not acknowledged before their links ended, oldest first."""
        self._forget_old(now)
        return [
            entry.answer
            for (name, _), entry in self._entries.items()
            if name == controller and not entry.acknowledged and not entry.in_transit
        ]

    def arrived(self, controller: str, uuid: str, *, acknowledged: bool) -> None:
        """The Controller has acknowledged this answer, or the link on which it was sent has ended without that."""
        kept = self._entries.get((controller, uuid))
        if kept is not None:  # the order stays
            self._entries[controller, uuid] = replace(
                kept, acknowledged=kept.acknowledged or acknowledged, in_transit=False
            )

    def forget(self, controller: str, uuid: str) -> None:
        """Drop an answer whose request was not carried out after all, so that a repeated request is carried out."""
        self._entries.pop((controller, uuid), None)

    def _forget_old(self, now: float) -> None:
        while self._entries and self._entries[oldest := next(iter(self._entries))].expires_at <= now:
            del self._entries[oldest]
