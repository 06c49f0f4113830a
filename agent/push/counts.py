"""What became of the pushes: counted where they are decided, added up over all who decide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.push.reasons import OwnCause


@dataclass(slots=True)
class PushCounts:
    """What became of the pushes. ``ignored`` reached a Mac with another PushMagic; ``discarded`` found no Mac and were
    not to be stored, or their Mac left its management. ``refused`` are by reason, without what the gateway turned away
    for a cause of its own: ``own``, by cause."""

    accepted: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    own: dict[str, int] = field(default_factory=lambda: {cause.value: 0 for cause in OwnCause})
    broken: int = 0
    stored: int = 0
    replaced: int = 0
    expired: int = 0
    discarded: int = 0
    delivered: int = 0
    ignored: int = 0

    def as_json(self) -> dict[str, Any]:
        """As it stands in the results."""
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
    """The counts of several that decide (each as ``as_json`` has them, maybe with more numbers), added up."""
    total = PushCounts().as_json()
    for part in parts:
        for name, value in part.items():
            if name in ("refused", "own"):
                for word, count in value.items():
                    total[name][word] = total[name].get(word, 0) + count
            else:
                total[name] = total.get(name, 0) + value
    return {**total, "refused": dict(sorted(total["refused"].items()))}
