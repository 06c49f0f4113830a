"""Injected faults, by rule: refusals, throttling, broken connections, an unavailable gateway, offline Macs.

A rule is a line of text: the fault, then where and when it applies. Times are seconds from the gateway's start.

    429 share=0.05            every twentieth push is refused with TooManyRequests
    ServiceUnavailable first=3   the first three pushes are refused
    break share=0.01          the connection breaks before the answer
    throttle limit=3 per=60   429 for the fourth push to a token within a minute
    away from=20 for=5        the gateway closes its connections and does not listen for five seconds
    offline macs=0-99 for=30  APNs cannot reach these Macs
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from agent.errors import OperatorError
from agent.push.reasons import BY_WORD, Reason

_STATUS_REASONS = {
    "410": Reason.EXPIRED_TOKEN,
    "429": Reason.TOO_MANY_REQUESTS,
    "500": Reason.INTERNAL_SERVER_ERROR,
    "503": Reason.SERVICE_UNAVAILABLE,
}
_LONGEST = 1e9  # seconds; the upper limit of every number of a rule


class What(Enum):
    """The fault of a rule."""

    ANSWER = auto()
    BREAK = auto()
    THROTTLE = auto()
    AWAY = auto()
    OFFLINE = auto()


_WORDS = {"break": What.BREAK, "throttle": What.THROTTLE, "away": What.AWAY, "offline": What.OFFLINE}
_KEYS = {
    What.ANSWER: {"share", "first", "macs", "from", "for"},
    What.BREAK: {"share", "first", "macs", "from", "for"},
    What.THROTTLE: {"limit", "per", "macs", "from", "for"},
    What.AWAY: {"from", "for"},
    What.OFFLINE: {"macs", "from", "for"},
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule."""

    what: What
    reason: Reason | None = None
    """Of an ANSWER."""
    share: float = 1.0
    """The probability that it applies to a push."""
    first: float = math.inf
    """To how many pushes it applies at most."""
    macs: range | None = None
    """The indexes of its Macs; None for all."""
    begin: float = 0.0
    """Seconds from the gateway's start."""
    end: float = math.inf
    """Seconds from the gateway's start."""
    limit: int = 1
    """How many pushes a THROTTLE accepts for each token in ``per`` seconds."""
    per: float = 60.0

    def covers(self, index: int, seconds: float) -> bool:
        """Whether it applies to this Mac at this time."""
        return self.begin <= seconds < self.end and (self.macs is None or index in self.macs)


def parse_rule(text: str) -> Rule:
    """Read the line of a rule. Raises OperatorError."""
    word, *settings = text.split()[:20] or [""]
    reason = _STATUS_REASONS.get(word) or BY_WORD.get(word)
    what = What.ANSWER if reason is not None else _WORDS.get(word)
    if what is None:
        wanted = ", ".join((*_STATUS_REASONS, *_WORDS))
        raise OperatorError(f"Expected a gateway rule that begins with {wanted} or a reason of APNs, found {text!r}.")
    values: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key not in _KEYS[what] or key in values:
            allowed = ", ".join(f"{name}=" for name in sorted(_KEYS[what]))
            raise OperatorError(
                f"Expected {allowed}, each at most once, in the gateway rule {text!r}; found {setting!r}."
            )
        values[key] = value
    begin = _number(values, "from", 0.0, text)
    length = _number(values, "for", math.inf, text)
    if what is What.AWAY and "for" not in values:
        raise OperatorError(
            f"Expected for=SECONDS in the gateway rule {text!r}, found none: the gateway would never return."
        )
    share = _number(values, "share", 1.0, text)
    if share > 1.0:
        raise OperatorError(f"Expected a share from 0 to 1 in the gateway rule {text!r}, found {share}.")
    limit = int(_number(values, "limit", 1.0, text))
    per = _number(values, "per", 60.0, text)
    if not per:
        raise OperatorError(f"Expected per above 0 in the gateway rule {text!r}, found {per}.")
    first = _number(values, "first", math.inf, text)
    return Rule(what, reason, share, first, _macs(values.get("macs"), text), begin, begin + length, limit, per)


def _number(values: dict[str, str], key: str, default: float, text: str) -> float:
    if key not in values:
        return default
    try:
        number = float(values[key])
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= _LONGEST:
        raise OperatorError(f"Expected a number for {key} in the gateway rule {text!r}, found {values[key]!r}.")
    return number


def _macs(value: str | None, text: str) -> range | None:
    if value is None:
        return None
    first, _, last = value.partition("-")
    last = last or first
    if not all(part.isascii() and part.isdigit() and len(part) < 12 for part in (first, last)) or int(last) < int(
        first
    ):
        raise OperatorError(f"Expected an index or FIRST-LAST for macs in the gateway rule {text!r}, found {value!r}.")
    return range(int(first), int(last) + 1)


class Fault(NamedTuple):
    """The effect of a rule on a push."""

    reason: Reason | None
    """The refusal; None breaks the connection."""
    rule: int | None = None
    """The rule's number; None for a throttle."""


class Injected(NamedTuple):
    """What a fault rule of the fleet (`agent.faults`) does to a valid push, after the gateway's own rules."""

    reason: Reason | None = None
    """Refuse it."""
    broken: bool = False
    """Break the connection."""
    lost: bool = False
    """Accept it, and never deliver it."""
    delay: float = 0.0
    """Deliver it so many seconds later."""


class FirstPushes:
    """To how many more pushes each rule with ``first=`` applies; one count for the whole gateway.

    A push reserves one of each from its arrival until it is known which rule applied. ``left`` continues the counts of
    an earlier process.
    """

    def __init__(self, rules: Sequence[Rule], left: Mapping[int, int] | None = None) -> None:
        self._rules = {number: rule for number, rule in enumerate(_faults(rules)) if rule.first < math.inf}
        self._left = {number: int(rule.first) for number, rule in self._rules.items()} | dict(left or {})

    @property
    def left(self) -> dict[int, int]:
        """The counts, by the number of the rule."""
        return dict(self._left)

    def reserve(self, index: int, seconds: float) -> tuple[int, ...]:
        """Reserve one of each for a push to Mac ``index``; return the numbers of the rules that do not apply to it."""
        if not self._rules:
            return ()
        spent = tuple(
            number for number, rule in self._rules.items() if self._left[number] < 1 or not rule.covers(index, seconds)
        )
        for number in self._rules.keys() - spent:
            self._left[number] -= 1
        return spent

    def settle(self, spent: Collection[int], met: int | None) -> None:
        """The rule ``met`` applied to a push (None: no rule); return its other reservations."""
        for number in self._rules.keys() - spent - {met}:
            self._left[number] += 1


class PushRules:
    """A gateway's rules. ``chance`` returns numbers from 0 to 1, from a sequence of its own for each Mac (by index)."""

    def __init__(self, rules: Sequence[Rule] = (), chance: Callable[[int], float] = lambda _index: 0.0) -> None:
        self._chance = chance
        self._faults = _faults(rules)
        self._first = FirstPushes(rules)
        self._throttles = [_Throttle(rule) for rule in rules if rule.what is What.THROTTLE]
        self._offline = [rule for rule in rules if rule.what is What.OFFLINE]

    def fault(self, index: int, seconds: float, spent: Collection[int] | None = None) -> Fault | None:
        """The fault of a valid push to Mac ``index``, or None.

        ``spent`` are the numbers of the ``first=`` rules that do not apply to it, where another process counts them.
        """
        if any(throttle.refuses(index, seconds) for throttle in self._throttles):
            return Fault(Reason.TOO_MANY_REQUESTS)
        if spent is not None:
            return self._fault(index, seconds, spent)
        spent = self._first.reserve(index, seconds)
        fault = self._fault(index, seconds, spent)
        self._first.settle(spent, None if fault is None else fault.rule)
        return fault

    def _fault(self, index: int, seconds: float, spent: Collection[int]) -> Fault | None:
        for number, rule in enumerate(self._faults):
            if not rule.covers(index, seconds):
                continue
            # Drawn also where it has no effect: a Mac's sequence must not depend on what other Macs have used up.
            spared = rule.share < 1.0 and self._chance(index) >= rule.share
            if not spared and number not in spent:
                return Fault(rule.reason, number)
        return None

    def offline(self, index: int, seconds: float) -> bool:
        """Whether a rule keeps Mac ``index`` offline."""
        return any(rule.covers(index, seconds) for rule in self._offline)

    def back_after(self, seconds: float) -> float | None:
        """When, after ``seconds``, the next offline rule ends; None without one."""
        return min((rule.end for rule in self._offline if seconds < rule.end < math.inf), default=None)


def away_times(rules: Sequence[Rule]) -> tuple[tuple[float, float], ...]:
    """The intervals without the gateway, in seconds from its start."""
    return tuple((rule.begin, rule.end) for rule in rules if rule.what is What.AWAY)


def _faults(rules: Sequence[Rule]) -> list[Rule]:
    """The rules that refuse or break, in order; a rule's number is its position in this list."""
    return [rule for rule in rules if rule.what in (What.ANSWER, What.BREAK)]


class _Throttle:
    """Counts the pushes to each Mac in consecutive intervals of ``per`` seconds."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._interval = -1
        self._counts: dict[int, int] = {}

    def refuses(self, index: int, seconds: float) -> bool:
        rule = self._rule
        if not rule.covers(index, seconds):
            return False
        interval = int(seconds // rule.per)
        if interval != self._interval:
            self._interval = interval
            self._counts.clear()
        count = self._counts[index] = self._counts.get(index, 0) + 1
        return count > rule.limit
