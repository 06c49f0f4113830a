"""The fault rules in force: ``Faults.decide`` is asked at each operation of a Mac, and the caller carries out the Hit.

The n-th decision for a Mac under a rule depends only on the seed, the rule's id, the Mac and n, so neither the other
Macs nor the number of worker processes change it. The newest rule is asked first; the first one that hits decides.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from msgspec import Struct, structs

from agent.errors import OperatorError
from agent.faults.effects import EXCUSES
from agent.faults.rules import Rule, selected_macs
from agent.fleet.population import CONTROLLER, Mac

MOST_RULES = 1000  # in force at a time; ours

_SCALE = 1 << 64


class RuleCounts(Struct, frozen=True, kw_only=True):
    """A rule and what it did so far."""

    rule: Rule
    matches: int
    """How often it was asked about an operation that it is for."""
    hits: int
    """How often it decided on one."""
    exhausted: bool
    """Whether ``until`` is over, or every Mac that matched has used up ``times``."""


class RuleRecord(Struct, frozen=True, kw_only=True):
    """A rule with all its counts, to go on with it in another process."""

    rule: Rule
    passed: float
    """Seconds since it was added."""
    matches: int
    hits: int
    spent: int
    matched: dict[int, int]
    interval: int = -1
    in_interval: dict[int, int] = {}


class Hit(NamedTuple):
    """A rule decided on an operation."""

    rule: Rule
    number: int
    """Which match of this Mac under the rule it was, from 1."""
    left: float = math.inf
    """Seconds until the rule ends."""


class Faults:
    """The rules in force. ``now`` is in seconds, on one clock for all calls.

    ``on_rules`` is called when rules were added or removed.
    """

    __slots__ = ("_away", "_by_operation", "_now", "_number", "_rules", "on_rules")

    def __init__(self) -> None:
        self.on_rules: Callable[[], object] | None = None
        self._rules: dict[str, _InForce] = {}  # by id, the oldest first
        self._by_operation: dict[str, tuple[_InForce, ...]] = {}  # the newest first
        self._away: list[_InForce] = []  # those of the gateway, which no Mac asks
        self._number = 0
        self._now = 0.0  # of the last call

    def __len__(self) -> int:
        return len(self._rules)

    def __iter__(self) -> Iterator[RuleCounts]:
        """Every rule with its counts, the oldest first."""
        return iter([each.counts(self._now) for each in self._rules.values()])

    def add(self, rule: Rule, now: float) -> Rule:
        """Add a rule; returns it with its id. ``after`` and ``until`` count from ``now``.

        Raises OperatorError where the id is in use, or with too many rules.
        """
        if len(self._rules) >= MOST_RULES:
            raise OperatorError(f"Expected at most {MOST_RULES:,} rules, found one more. Remove some of them.")
        if not rule.id:
            rule = structs.replace(rule, id=self._free_id())
        if rule.id in self._rules:
            raise OperatorError(f'Expected an unused id for a rule, found "{rule.id}" twice. Give it another id.')
        self._now = now
        self._rules[rule.id] = _InForce(rule, now)
        self._sort()
        return rule

    def record(self, id: str, now: float) -> RuleRecord:  # noqa: A002 - the name of the field
        """A rule and its counts. Raises KeyError."""
        return self._rules[id].record(now)

    def restore(self, record: RuleRecord, now: float) -> None:
        """Add a rule that was recorded, with its counts."""
        self._rules[record.rule.id] = _InForce.of(record, now)
        self._sort()

    def remove(self, id: str) -> None:  # noqa: A002 - the name of the field
        """Remove a rule. Raises KeyError."""
        del self._rules[id]
        self._sort()

    def clear(self) -> None:
        """Remove every rule."""
        self._rules.clear()
        self._sort()

    def excuses(self, id: str) -> bool:  # noqa: A002 - the name of the field
        """Whether a hit of this rule may make a correct server fail; True for one that was removed."""
        found = self._rules.get(id)
        return found is None or found.rule.do in EXCUSES

    def reset_counts(self) -> None:
        """Count from 0 again, also ``times`` and ``every``; the times of ``after`` and ``until`` stay."""
        for each in self._rules.values():
            each.reset()

    def decide(self, on: str, mac: Mac, now: float, type: str = "") -> Hit | None:  # noqa: A002 - the name of the field
        """The rule that hits this operation of this Mac, or None. Counts a match of each rule that it asks."""
        asked = self._by_operation.get(on)
        if not asked:
            return None
        self._now = now
        for each in asked:
            if each.covers(mac, now, type):
                number = each.next_match(mac, now)
                if number:
                    return Hit(each.rule, number, each.end - now)
        return None

    def away(self, now: float) -> bool:
        """Whether a rule has the gateway away. Counts a match and a hit of each rule that begins to."""
        self._now = now
        return bool([each for each in self._away if each.takes_away(now)])

    def next_away(self, now: float) -> float | None:
        """When, after ``now``, the next rule takes the gateway away or ends to; None where none will."""
        times = [time for each in self._away for time in (each.begin, each.end) if now < time < math.inf]
        return min(times, default=None)

    def _free_id(self) -> str:
        while True:
            self._number += 1
            name = f"rule-{self._number}"
            if name not in self._rules:
                return name

    def _sort(self) -> None:
        by_operation: dict[str, tuple[_InForce, ...]] = {}
        self._away = [each for each in self._rules.values() if each.rule.do == "away"]
        for each in self._rules.values():
            if each.rule.do == "away":
                continue
            by_operation[each.rule.on] = (each, *by_operation.get(each.rule.on, ()))
        self._by_operation = by_operation
        if self.on_rules is not None:
            self.on_rules()


class _InForce:
    """A rule with its counts and its parsed selector."""

    __slots__ = (
        "_added", "_in_interval", "_indexes", "_interval", "_matched", "_os", "_spent", "_udids", "begin", "end",
        "hits", "matches", "rule",
    )  # fmt: skip

    def __init__(self, rule: Rule, added: float) -> None:
        self.rule = rule
        self.matches = 0
        self.hits = 0
        self._added = added
        self.begin = added + rule.after
        self.end = math.inf if rule.until is None else added + rule.until
        self._interval = -1  # of a throttle
        self._in_interval: dict[int, int] = {}  # matches of each Mac in this interval
        self._matched: dict[int, int] = {}  # matches of each Mac, by index
        self._spent = 0  # Macs that have used up ``times``
        self._os = None if rule.os is None else f"{rule.os}."
        selected = [selected_macs(text) for text in rule.macs]
        self._udids = {each for each in selected if isinstance(each, str)}
        self._indexes = [each for each in selected if isinstance(each, range)]

    @classmethod
    def of(cls, record: RuleRecord, now: float) -> _InForce:
        """A recorded rule."""
        each = cls(record.rule, now - record.passed)
        each.matches, each.hits, each._spent = record.matches, record.hits, record.spent
        each._matched = dict(record.matched)
        each._interval, each._in_interval = record.interval, dict(record.in_interval)
        return each

    def record(self, now: float) -> RuleRecord:
        """The rule and its counts."""
        return RuleRecord(
            rule=self.rule,
            passed=now - self._added,
            matches=self.matches,
            hits=self.hits,
            spent=self._spent,
            matched=self._matched,
            interval=self._interval,
            in_interval=self._in_interval,
        )

    def covers(self, mac: Mac, now: float, type_: str) -> bool:
        """Whether an operation of this Mac matches."""
        rule = self.rule
        return (
            (rule.type is None or rule.type == type_)
            and self.begin <= now < self.end
            and (rule.segment is None or rule.segment == mac.segment)
            and (rule.role is None or (rule.role == CONTROLLER) == (CONTROLLER in mac.roles))
            and (self._os is None or f"{mac.os_version}.".startswith(self._os))
            and (not rule.macs or mac.udid in self._udids or any(mac.index in each for each in self._indexes))
            and (rule.share >= 1.0 or _share_of(mac) < rule.share)
        )

    def takes_away(self, now: float) -> bool:
        """Whether the gateway is away by this rule; the first time counts."""
        away = self.begin <= now < self.end
        if away and not self.hits:
            self.matches = self.hits = 1
        return away

    def next_match(self, mac: Mac, now: float) -> int:
        """Count a match; returns its number for this Mac where the rule hits, 0 where it does not."""
        self.matches += 1
        number = self._matched[mac.index] = self._matched.get(mac.index, 0) + 1
        rule = self.rule
        selected, rest = divmod(number, rule.every or 1)
        if rest or (rule.times is not None and selected > rule.times):
            return 0
        if selected == rule.times:
            self._spent += 1
        if rule.probability < 1.0 and _drawn(mac, rule.id, number) >= rule.probability:
            return 0
        if (
            rule.limit is not None
            and rule.seconds is not None
            and not self._is_over(mac, now, rule.limit, rule.seconds)
        ):
            return 0
        self.hits += 1
        return number

    def _is_over(self, mac: Mac, now: float, limit: int, seconds: float) -> bool:
        """Count a push in its interval; returns whether there are more than ``limit``."""
        interval = int((now - self._added) // seconds)
        if interval != self._interval:
            self._interval = interval
            self._in_interval.clear()
        count = self._in_interval[mac.index] = self._in_interval.get(mac.index, 0) + 1
        return count > limit

    def reset(self) -> None:
        """Count from 0 again."""
        self.matches = self.hits = self._spent = 0
        self._matched.clear()
        self._in_interval.clear()

    def counts(self, now: float) -> RuleCounts:
        """The counts so far."""
        rule = self.rule
        over = now >= self.end
        spent = bool(self._matched) and self._spent == len(self._matched)
        return RuleCounts(rule=rule, matches=self.matches, hits=self.hits, exhausted=over or spent)


def _share_of(mac: Mac) -> float:
    """The place of a Mac in the fleet's shares, from 0 to 1."""
    return int.from_bytes(mac.source.digest(b"fault share", mac.index)[:8], "big") / _SCALE


def _drawn(mac: Mac, rule: str, number: int) -> float:
    """The random number from 0 to 1 of one decision."""
    state = hashlib.blake2b(key=mac.source.digest(b"fault rules", mac.index), digest_size=8)
    state.update(number.to_bytes(8, "big") + rule.encode())
    return int.from_bytes(state.digest(), "big") / _SCALE
