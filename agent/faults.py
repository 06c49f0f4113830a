"""Fault injection: rules that say which Macs misbehave, in which operation, in what way, and when.

A ``Rule`` is plain data, the same in JSON and TOML. ``EFFECTS`` is the one table of what a rule can do in which
operation and of the parameters that belong to it; checks and docs/faults.md are made from it. ``Faults`` are the rules
in force: ``decide`` is asked at each operation of a Mac, and the caller carries out what the Hit says. No I/O.

The n-th decision for a Mac under a rule depends only on the seed, the rule's id, the Mac and n, so neither the other
Macs nor the number of worker processes change it. The newest rule is asked first; the first one that hits decides.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta, Struct, structs

from agent.errors import OperatorError
from agent.fleet.population import CONTROLLER, Mac
from agent.push.reasons import BY_WORD, Reason
from agent.settings import Seconds, Share, SomeSeconds, key

MOST_RULES = 1000  # in force at a time; ours
MOST_MACS = 10_000  # entries of ``macs``
MOST_COUNT = 1_000_000_000

On = Literal["command", "checkin", "connect", "session", "lom_link", "push", "scep", "enroll"]
Do = Literal[
    "not_now", "error", "format_error", "delay", "drop", "slow", "certificate", "wrong_udid", "malformed", "refuse",
    "lose", "offline", "crash", "throttle", "store", "away",
]  # fmt: skip
At = Literal["before_request", "in_request", "after_request", "in_response"]

_HTTP: tuple[On, ...] = ("command", "checkin", "connect", "session", "scep", "enroll")
_SCALE = 1 << 64
_INDEXES = re.compile(r"([0-9]{1,11})(?:-([0-9]{1,11}))?\Z")
_UDID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\Z")


class Effect(NamedTuple):
    """One row of the table: what ``do`` means in the operations ``on``, and its parameters."""

    do: Do
    on: tuple[On, ...]
    needs: tuple[str, ...]
    """Parameters that must be given."""
    takes: tuple[str, ...]
    """Parameters that may be given."""
    meaning: str
    """In Markdown."""


EFFECTS: tuple[Effect, ...] = (
    Effect("not_now", ("command",), (), (), "The Mac answers NotNow, also where Apple does not allow it."),
    Effect("error", ("command",), (), ("errors",), "The Mac answers Error with the chain `errors`."),
    Effect("format_error", ("command",), (), (), "The Mac answers CommandFormatError."),
    Effect(
        "delay",
        ("command", "checkin", "connect", "session", "lom_link", "push", "scep", "enroll"),
        ("seconds",),
        (),
        "It starts `seconds` later: a command is carried out, a request sent, a connection opened, a LOM request "
        "carried out, a push delivered.",
    ),
    Effect("drop", _HTTP, ("at",), (), "The Mac resets the connection at the point `at`."),
    Effect("drop", ("lom_link",), (), (), "The Device resets the link when it has the request, and does nothing."),
    Effect("drop", ("push",), (), (), "APNs resets the provider's connection instead of an answer."),
    Effect("slow", _HTTP, ("bytes_per_s",), (), "The Mac sends its request at this rate."),
    Effect(
        "certificate",
        ("connect",),
        ("which",),
        (),
        "The Mac shows another client certificate, with its own subject and key, on the new connection until it ends.",
    ),
    Effect("wrong_udid", ("command", "session", "checkin"), (), (), "The message has the UDID of no Mac of the fleet."),
    Effect("malformed", ("command", "session", "checkin"), (), (), "The message ends in its middle: it is no plist."),
    Effect("refuse", ("lom_link",), (), (), "The Device answers with an error, and does nothing."),
    Effect("refuse", ("push",), (), ("reason",), "APNs refuses the push."),
    Effect(
        "throttle",
        ("push",),
        ("limit", "seconds"),
        (),
        "APNs refuses with `TooManyRequests` what is more than `limit` pushes for the Mac in `seconds`.",
    ),
    Effect("lose", ("push",), (), (), "APNs accepts the push and never delivers it."),
    Effect(
        "store",
        ("push",),
        ("until",),
        (),
        "APNs cannot reach the Mac before `until`: it stores the push, and drops one that may not be stored.",
    ),
    Effect(
        "away",
        ("push",),
        ("until",),
        (),
        "The gateway resets every connection at `after`, and does not listen before `until`; for no single Mac.",
    ),
    Effect(
        "offline",
        ("command", "session", "push"),
        ("seconds",),
        (),
        "Instead, the Mac closes its connections to the server and opens none for `seconds`; pushes are stored. Then "
        "it opens a session.",
    ),
    Effect(
        "crash",
        ("command",),
        (),
        (),
        "The Mac loses power when it has the command, before it is carried out, and boots again.",
    ),
)
EXCUSES = frozenset[str]({"drop", "slow", "certificate", "wrong_udid", "malformed", "offline", "crash"})
"""What spoils a request or its connection: the failure after it may not be the server's."""
PARAMETERS = tuple(
    dict.fromkeys(name for effect in EFFECTS for name in (*effect.needs, *effect.takes) if name != "until")
)
_ROWS: dict[tuple[str, str], Effect] = {(effect.do, on): effect for effect in EFFECTS for on in effect.on}
TYPED: tuple[On, ...] = ("command", "checkin", "scep")  # the operations that have a ``type``
_COUNTING = ("times", "every", "probability")
_WITHOUT: dict[str, tuple[str, ...]] = {
    "throttle": _COUNTING,
    "away": ("macs", "segment", "role", "os", "share", *_COUNTING),
}


class RuleError(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One item of the ErrorChain that a rule answers with."""

    domain: Annotated[Annotated[str, Meta(max_length=200)], key("ErrorDomain.")] = "MCMDMErrorDomain"
    code: Annotated[Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)], key("ErrorCode.")] = 12021
    description: Annotated[
        Annotated[str, Meta(max_length=1000)], key("LocalizedDescription and USEnglishDescription.")
    ] = "The command failed because of an injected fault."


class Rule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One rule: for which Macs, in which operation, what happens, and when.

    A Mac is concerned if all of `macs`, `segment`, `role`, `os` and `share` allow it. Raises OperatorError for a
    combination that makes no sense.
    """

    id: Annotated[
        Annotated[str, Meta(pattern=r"\A[A-Za-z][A-Za-z0-9_-]{0,63}\Z|\A\Z")],
        key("Its name in results and exchanges, unique; none: `rule-1` and so on.", example="flaky"),
    ] = ""
    on: Annotated[On, key("The operation.")]
    do: Annotated[Do, key("What happens.")]
    type: Annotated[
        Annotated[str, Meta(min_length=1, max_length=200)] | None,
        key(
            "Only this RequestType (`command`), MessageType (`checkin`) or SCEP operation (`scep`).",
            example="ProfileList",
        ),
    ] = None
    macs: Annotated[
        Annotated[tuple[str, ...], Meta(max_length=MOST_MACS)],
        key("Only these Macs: UDIDs, indexes (`7`) and ranges of indexes (`0-9`); none: all.", example=["0-9"]),
    ] = ()
    segment: Annotated[
        Annotated[int, Meta(ge=0, le=10_000_000)] | None, key("Only the Macs of this segment, from 0.", example=0)
    ] = None
    role: Annotated[
        Literal["controller", "device"] | None,
        key("Only LOM Controllers, or only the Macs that are none.", example="controller"),
    ] = None
    os: Annotated[
        Annotated[str, Meta(min_length=1, max_length=20)] | None,
        key("Only Macs with this version of macOS: `27` is every 27.x.", example="27"),
    ] = None
    share: Annotated[
        Share,
        key(
            "The share of the fleet, chosen from the seed: equal shares are the same Macs, a smaller one some of them."
        ),
    ] = 1.0
    times: Annotated[
        Annotated[int, Meta(ge=1, le=MOST_COUNT)] | None,
        key("Only the first N matches of each Mac; with `every`, those that it selects. None: no limit.", example=2),
    ] = None
    every: Annotated[
        Annotated[int, Meta(ge=1, le=MOST_COUNT)] | None,
        key("Only every Nth match of each Mac: the Nth, the 2Nth and so on; none: every match.", example=3),
    ] = None
    probability: Annotated[
        Share, key("The probability of each of these matches, drawn from the seed for each Mac; 0: never.")
    ] = 1.0
    after: Annotated[
        Seconds, key("When it begins to match, from the start of the run (or since the rule was added).", "s")
    ] = 0.0
    until: Annotated[SomeSeconds | None, key("When it ends, in the same way; none: never.", "s", example=60.0)] = None
    errors: Annotated[
        Annotated[tuple[RuleError, ...], Meta(max_length=16)],
        key(
            "`error`: the ErrorChain, tables with `domain`, `code` and `description`; none: one error.",
            example=[{"domain": "MCMDMErrorDomain", "code": 12021, "description": "Not today."}],
        ),
    ] = ()
    seconds: Annotated[
        SomeSeconds | None,
        key(
            "`delay` and `offline`: how long. `throttle`: the length of the intervals in which pushes are counted.",
            "s",
            example=5.0,
        ),
    ] = None
    limit: Annotated[
        Annotated[int, Meta(ge=1, le=MOST_COUNT)] | None,
        key("`throttle`: how many pushes for a Mac are accepted in each interval.", example=3),
    ] = None
    at: Annotated[
        At | None,
        key(
            "`drop`: before the request, after half of its bytes, after its last byte, or at the first bytes of the "
            "response.",
            example="in_response",
        ),
    ] = None
    bytes_per_s: Annotated[
        Annotated[float, Meta(ge=1, le=1e9)] | None, key("`slow`: the rate.", "1/s", example=100.0)
    ] = None
    which: Annotated[
        Literal["wrong", "expired"] | None,
        key("`certificate`: of another CA, or self-signed and expired.", example="wrong"),
    ] = None
    reason: Annotated[
        Annotated[str, Meta(min_length=1, max_length=100)] | None,
        key("`refuse` of a push: the reason of APNs; none: `ServiceUnavailable`.", example="TooManyRequests"),
    ] = None

    def __post_init__(self) -> None:
        self._check_effect()
        if self.type is not None and self.on not in TYPED:
            raise self._wrong(
                f"type only with on = {_any_of(TYPED)}", f'type = "{self.type}" with on = "{self.on}"', "Remove type"
            )
        if self.until is not None and self.until <= self.after:
            raise self._wrong(
                "until above after", f"until = {self.until:g}, after = {self.after:g}", "Give a later until"
            )
        if self.reason is not None and self.reason not in BY_WORD:
            raise self._wrong("a reason of APNs", f'"{self.reason}"', "docs/push.md lists them")
        for text in self.macs:
            indexes = _INDEXES.match(text)
            if not _UDID.match(text) and (indexes is None or int(indexes[2] or indexes[1]) < int(indexes[1])):
                raise self._wrong("a UDID, an index or FIRST-LAST in macs", f'"{text[:60]}"', "Correct it")

    @property
    def push_reason(self) -> Reason:
        """The refusal of a push."""
        if self.do == "throttle":
            return Reason.TOO_MANY_REQUESTS
        return Reason.SERVICE_UNAVAILABLE if self.reason is None else BY_WORD[self.reason]

    def _check_effect(self) -> None:
        effect = _ROWS.get((self.do, self.on))
        if effect is None:
            possible = tuple(on for do, on in _ROWS if do == self.do)
            raise self._wrong(
                f'on = {_any_of(possible)} with do = "{self.do}"', f'on = "{self.on}"', "docs/faults.md has the table"
            )
        for name in PARAMETERS:
            given = getattr(self, name) not in (None, ())
            if given and name not in (*effect.needs, *effect.takes):
                raise self._wrong(f'no {name} with do = "{self.do}" and on = "{self.on}"', name, f"Remove {name}")
        for name in effect.needs:
            if getattr(self, name) in (None, ()):
                raise self._wrong(f'{name} with do = "{self.do}"', "none", f"Give {name}")
        for name in _WITHOUT.get(self.do, ()):
            if getattr(self, name) not in (None, (), 1.0):
                raise self._wrong(f'no {name} with do = "{self.do}"', name, f"Remove {name}")

    def _wrong(self, expected: str, found: str, advice: str) -> OperatorError:
        where = f' in the rule "{self.id}"' if self.id else " in a rule"
        return OperatorError(f"Expected {expected}{where}, found {found}. {advice}.")


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
        self._udids = {text.upper() for text in rule.macs if _UDID.match(text)}
        self._indexes: list[range] = []
        for text in rule.macs:
            found = _INDEXES.match(text)
            if found is not None:
                self._indexes.append(range(int(found[1]), int(found[2] or found[1]) + 1))

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


def _any_of(words: tuple[Any, ...]) -> str:
    quoted = [f'"{word}"' for word in words]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
