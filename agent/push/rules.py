"""What goes wrong on purpose, by rule: refusals, throttling, broken connections, a gateway that is away, offline Macs.

A rule is a line of text: what happens, then where and when. Times are seconds from the gateway's start.

    429 share=0.05            every twentieth push is refused with TooManyRequests
    ServiceUnavailable first=3   the first three pushes are
    break share=0.01          the connection breaks in mid-stream, before the answer
    throttle limit=3 per=60   429 for a token that is pushed a fourth time within a minute
    away from=20 for=5        the gateway hangs up and listens no longer for five seconds
    offline macs=0-99 for=30  APNs cannot reach these Macs
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
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
_LONGEST = 1e9  # seconds; a rule's times are below


class What(Enum):
    """What a rule does."""

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
    """One rule. ``share`` is a probability, ``first`` how many pushes it is for, ``macs`` the indexes."""

    what: What
    reason: Reason | None = None
    share: float = 1.0
    first: float = math.inf
    macs: range | None = None
    begin: float = 0.0
    end: float = math.inf
    limit: int = 1
    per: float = 60.0

    def covers(self, index: int, seconds: float) -> bool:
        """Whether it is for this Mac at this time."""
        return self.begin <= seconds < self.end and (self.macs is None or index in self.macs)


def parse_rule(text: str) -> Rule:
    """A rule from its line. Raises OperatorError."""
    word, *settings = text.split()[:20] or [""]
    reason = _STATUS_REASONS.get(word) or BY_WORD.get(word)
    what = What.ANSWER if reason is not None else _WORDS.get(word)
    if what is None:
        wanted = ", ".join((*_STATUS_REASONS, *_WORDS))
        raise OperatorError(f"a rule of the gateway begins with {wanted} or a reason of APNs, but is {text!r}")
    values: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key not in _KEYS[what] or key in values:
            allowed = ", ".join(f"{name}=" for name in sorted(_KEYS[what]))
            raise OperatorError(f"in the gateway's rule {text!r}, {setting!r} should be one of {allowed} once")
        values[key] = value
    begin = _number(values, "from", 0.0, text)
    length = _number(values, "for", math.inf, text)
    if what is What.AWAY and "for" not in values:
        raise OperatorError(f"the gateway's rule {text!r} lacks for=SECONDS: it would never come back")
    share = _number(values, "share", 1.0, text)
    if share > 1.0:
        raise OperatorError(f"share in the gateway's rule {text!r} should be from 0 to 1")
    limit = int(_number(values, "limit", 1.0, text))
    per = _number(values, "per", 60.0, text)
    if not per:
        raise OperatorError(f"per in the gateway's rule {text!r} should be more than 0")
    first = _number(values, "first", math.inf, text)
    return Rule(what, reason, share, first, _macs(values.get("macs"), text), begin, begin + length, limit, per)


def _number(values: dict[str, str], key: str, usual: float, text: str) -> float:
    if key not in values:
        return usual
    try:
        number = float(values[key])
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= _LONGEST:
        raise OperatorError(f"{key} in the gateway's rule {text!r} should be a number, but is {values[key]!r}")
    return number


def _macs(value: str | None, text: str) -> range | None:
    if value is None:
        return None
    first, _, last = value.partition("-")
    last = last or first
    if not all(part.isascii() and part.isdigit() and len(part) < 12 for part in (first, last)) or int(last) < int(
        first
    ):
        raise OperatorError(f"macs in the gateway's rule {text!r} should be an index or FIRST-LAST, but is {value!r}")
    return range(int(first), int(last) + 1)


class Fault(NamedTuple):
    """What a rule does to a push: ``reason`` refuses it, None breaks the connection.

    ``rule`` is the rule's number, None for a throttle.
    """

    reason: Reason | None
    rule: int | None = None


class FirstPushes:
    """How many pushes the rules with ``first=`` are still for; there is one such count for a whole gateway.

    A push holds one of each from when it comes until it is known which rule it met.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = {number: rule for number, rule in enumerate(_faults(rules)) if rule.first < math.inf}
        self._left = {number: int(rule.first) for number, rule in self._rules.items()}

    def reserve(self, index: int, seconds: float) -> tuple[int, ...]:
        """A push to Mac ``index`` came: hold one of each for it, and tell which rules are not for it any more."""
        if not self._rules:
            return ()
        spent = tuple(
            number for number, rule in self._rules.items() if self._left[number] < 1 or not rule.covers(index, seconds)
        )
        for number in self._rules.keys() - spent:
            self._left[number] -= 1
        return spent

    def settle(self, spent: Collection[int], met: int | None) -> None:
        """A push, which was told ``spent``, met this rule (None: none): what else it held is given back."""
        for number in self._rules.keys() - spent - {met}:
            self._left[number] += 1


class PushRules:
    """The rules in force. ``chance`` gives numbers from 0 to 1, each Mac (by index) its own row of them."""

    def __init__(self, rules: Sequence[Rule] = (), chance: Callable[[int], float] = lambda _index: 0.0) -> None:
        self._chance = chance
        self._faults = _faults(rules)
        self._first = FirstPushes(rules)
        self._throttles = [_Throttle(rule) for rule in rules if rule.what is What.THROTTLE]
        self._offline = [rule for rule in rules if rule.what is What.OFFLINE]

    def fault(self, index: int, seconds: float, spent: Collection[int] | None = None) -> Fault | None:
        """What goes wrong with a push to Mac ``index``, which is fine in itself.

        ``spent`` are the rules for the first so many pushes that are not for it, where somebody else counts these.
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
            # Drawn whether or not it matters: what is left for other Macs must not move this Mac's row.
            lucky = rule.share < 1.0 and self._chance(index) >= rule.share
            if not lucky and number not in spent:
                return Fault(rule.reason, number)
        return None

    def offline(self, index: int, seconds: float) -> bool:
        """Whether APNs cannot reach Mac ``index``."""
        return any(rule.covers(index, seconds) for rule in self._offline)

    def back_after(self, seconds: float) -> float | None:
        """When Macs that a rule kept offline come back next, after ``seconds``."""
        return min((rule.end for rule in self._offline if seconds < rule.end < math.inf), default=None)


def away_times(rules: Sequence[Rule]) -> tuple[tuple[float, float], ...]:
    """When the gateway is away, from and until, in seconds from its start."""
    return tuple((rule.begin, rule.end) for rule in rules if rule.what is What.AWAY)


def _faults(rules: Sequence[Rule]) -> list[Rule]:
    """The rules that a push may meet, in order; their place in this list is their number."""
    return [rule for rule in rules if rule.what in (What.ANSWER, What.BREAK)]


class _Throttle:
    """Counts the pushes to each token, in one stretch of ``per`` seconds after another."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._stretch = -1
        self._counts: dict[int, int] = {}

    def refuses(self, index: int, seconds: float) -> bool:
        rule = self._rule
        if not rule.covers(index, seconds):
            return False
        stretch = int(seconds // rule.per)
        if stretch != self._stretch:
            self._stretch = stretch
            self._counts.clear()
        count = self._counts[index] = self._counts.get(index, 0) + 1
        return count > rule.limit
