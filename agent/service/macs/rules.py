"""Fault rules over several groups: a rule names Macs and segments by their numbers in the service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from agent.faults.decisions import Faults, Hit
from agent.faults.rules import Rule
from agent.fleet.population import Mac


class ServiceFaults(Faults):
    """The rules of the service. ``on_change`` is called after each change of the rules and of their counts."""

    __slots__ = ("on_change",)

    def __init__(self) -> None:
        super().__init__()
        self.on_change: Callable[[], object] | None = None

    def add(self, rule: Rule, now: float) -> Rule:
        """Add a rule; as in Faults."""
        added = super().add(rule, now)
        self._changed()
        return added

    def remove(self, id: str) -> None:  # noqa: A002 - as in Faults
        """Remove a rule; as in Faults."""
        super().remove(id)
        self._changed()

    def clear(self) -> None:
        """Remove every rule."""
        super().clear()
        self._changed()

    def decide(self, on: str, mac: Mac, now: float, type: str = "") -> Hit | None:  # noqa: A002 - as in Faults
        """The rule that hits this operation of this Mac; as in Faults."""
        hit = super().decide(on, mac, now, type)
        self._changed()
        return hit

    def away(self, now: float) -> bool:
        """Whether a rule has the gateway away; as in Faults."""
        away = super().away(now)
        self._changed()
        return away

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()


class GroupFaults(Faults):
    """The rules of the service, as the Macs of one group ask them. Rules are added to ``rules``."""

    __slots__ = ("_first", "_first_segment", "_rules_of_service")

    def __init__(self, rules: Faults, first: int, first_segment: int) -> None:
        super().__init__()
        self._rules_of_service = rules
        self._first = first
        self._first_segment = first_segment

    def decide(self, on: str, mac: Mac, now: float, type: str = "") -> Hit | None:  # noqa: A002 - as in Faults
        """The rule that hits this operation of this Mac, or None."""
        if not len(self._rules_of_service):
            return None
        numbered = replace(mac, index=self._first + mac.index, segment=self._first_segment + mac.segment)
        return self._rules_of_service.decide(on, numbered, now, type)
