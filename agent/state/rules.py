"""The fault rules of a fleet that outlives its process, and what of them is written to its file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from agent.faults.decisions import Faults, Hit, RuleRecord
from agent.faults.rules import Rule
from agent.fleet.population import Mac
from agent.net.timing import Clock
from agent.sqlite_file import Statement

if TYPE_CHECKING:
    from agent.state.fleet import FleetState

MOST_COUNTED = 2000  # Macs whose counts under one rule are written with each transaction; more: once in a while
COUNTS_SECONDS = 1.0  # that while


class KeptFaults(Faults):
    """The rules of a fleet that outlives its process. ``on_change`` is called when they or their counts change."""

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


class RuleWriter:
    """Finds the rules and counts that are not in the file yet."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rules: list[Rule] = []
        self._written: list[tuple[int, float]] = []  # of each rule: its matches, and when they were written

    def stored(self, records: list[RuleRecord]) -> None:
        """These are in the file."""
        self._rules = [record.rule for record in records]
        self._written = [(record.matches, self._clock.seconds()) for record in records]

    def statements(self, records: list[RuleRecord]) -> Iterator[Statement]:
        """What is to be written now."""
        encode = msgspec.msgpack.encode
        now = self._clock.seconds()
        if [record.rule for record in records] != self._rules:
            yield "DELETE FROM rules", ()
            for place, record in enumerate(records):
                yield "INSERT INTO rules VALUES (?, ?)", (place, encode(record))
            self.stored(records)
            return
        for place, record in enumerate(records):
            matches, at = self._written[place]
            many = len(record.matched) > MOST_COUNTED
            if record.matches != matches and not (many and now - at < COUNTS_SECONDS):
                self._written[place] = record.matches, now
                yield "UPDATE rules SET record = ? WHERE number = ?", (encode(record), place)


def keep_rules(faults: KeptFaults, state: FleetState, clock: Clock) -> None:
    """Have ``state`` keep the rules and their counts; ``clock`` is that of the Macs."""
    state.rules_now = lambda: [faults.record(each.rule.id, clock.seconds()) for each in faults]
    faults.on_change = state.rules_changed
    state.rules_changed()
