"""What a Device answered lately: a request that comes again is answered again, and not carried out again. No I/O.

A Controller that lost an answer may ask once more. The memory is the LOM hardware's, so no reset of the Mac empties it.
Apple says nothing of this; it is this link's own rule (docs/lom-link.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.lom.link import LIMITS, LinkAnswer, LinkLimits, LinkRequest
from agent.lom.requests import PowerRequest

_SHOWN = 80  # characters of a DeviceRequestUUID that an error repeats


@dataclass(frozen=True, slots=True)
class _Kept:
    until: float
    request: PowerRequest
    answer: LinkAnswer


class Answered:
    """The answers of the last ``repeat_seconds``, at most ``repeats_kept``, by Controller and DeviceRequestUUID.

    ``now`` is in seconds and never goes back.
    """

    __slots__ = ("_kept", "_limits")

    def __init__(self, limits: LinkLimits = LIMITS) -> None:
        self._limits = limits
        self._kept: dict[tuple[str, str], _Kept] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._kept)

    def repeated(self, controller: str, request: LinkRequest, now: float) -> LinkAnswer | None:
        """What to answer a request that was answered before, or None where it is new.

        The same DeviceRequestUUID with another DeviceRequestType is answered with an error.
        """
        self._forget_old(now)
        kept = self._kept.get((controller, request.uuid))
        if kept is None:
            return None
        if kept.request is not request.request:
            return LinkAnswer(
                request.uuid,
                f"DeviceRequestUUID {request.uuid[:_SHOWN]!r} was used for {kept.request.value} before; "
                f"{request.request.value} needs one of its own",
            )
        return kept.answer

    def keep(self, controller: str, request: LinkRequest, answer: LinkAnswer, now: float) -> None:
        """Remember an answer; the oldest is forgotten where there are too many."""
        self._forget_old(now)
        self.forget(controller, request.uuid)
        self._kept[controller, request.uuid] = _Kept(now + self._limits.repeat_seconds, request.request, answer)
        while len(self._kept) > self._limits.repeats_kept:
            del self._kept[next(iter(self._kept))]

    def forget(self, controller: str, uuid: str) -> None:
        """What was promised was not done after all: when it comes again it is carried out."""
        self._kept.pop((controller, uuid), None)

    def _forget_old(self, now: float) -> None:
        while self._kept and self._kept[oldest := next(iter(self._kept))].until <= now:
            del self._kept[oldest]
