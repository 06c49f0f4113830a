"""The outcomes of pushes: counted in each process, added up for the results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from agent.push.reasons import OwnCause


class PushCounts(msgspec.Struct):
    """How many pushes had each outcome."""

    accepted: int = 0
    """Answered with 200."""
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    """Refused, by Apple's reason; without those in ``own``."""
    own: dict[str, int] = msgspec.field(default_factory=lambda: {cause.value: 0 for cause in OwnCause})
    """Refused for a cause of the gateway itself, by cause."""
    broken: int = 0
    """Ended by a broken connection, as a rule says."""
    stored: int = 0
    """Stored because the Mac was offline or saves power."""
    replaced: int = 0
    """Stored, then replaced by a newer one of the same topic."""
    expired: int = 0
    """Not delivered before their expiration."""
    discarded: int = 0
    """Not delivered: the Mac was offline and the push not storable, or the Mac is no longer managed."""
    delivered: int = 0
    """Accepted by the Mac."""
    ignored: int = 0
    """Delivered to a Mac whose PushMagic is another one."""

    def as_json(self) -> dict[str, Any]:
        """The form in the results."""
        return {
            "accepted": self.accepted,
            "refused": dict(sorted(self.refused.items())),
            "own": dict(self.own),
            "broken": self.broken,
            "stored": self.stored,
            "replaced": self.replaced,
            "expired": self.expired,
            "discarded": self.discarded,
            "delivered": self.delivered,
            "ignored": self.ignored,
        }


def merge_push_counts(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums of several counts, each in the form of ``as_json``, possibly with further numbers."""
    total = PushCounts().as_json()
    for part in parts:
        for name, value in part.items():
            if name in ("refused", "own"):
                for word, count in value.items():
                    total[name][word] = total[name].get(word, 0) + count
            else:
                total[name] = total.get(name, 0) + value
    return {**total, "refused": dict(sorted(total["refused"].items()))}
