"""Fault rules over several groups: a rule names Macs and segments by their numbers in the service."""

from __future__ import annotations

from dataclasses import replace

from agent.faults.decisions import Faults, Hit
from agent.fleet.population import Mac


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
