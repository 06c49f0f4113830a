"""Rules that a test adds: ``mac.on("ProfileList").answer(NotNow, times=2)``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self, TypedDict, Unpack

import msgspec

from agent.client.connection import Connection, path
from agent.client.text import rule_text
from agent.faults.decisions import RuleCounts
from agent.faults.effects import At
from agent.faults.rules import Rule, RuleError


class Reply(msgspec.Struct, frozen=True):
    """What a Mac answers to a command, instead of carrying it out."""

    do: Literal["not_now", "error", "format_error"]
    errors: tuple[RuleError, ...] = ()


_ERROR = RuleError()

NotNow = Reply("not_now")
CommandFormatError = Reply("format_error")


def Error(description: str = _ERROR.description, *, code: int = _ERROR.code, domain: str = _ERROR.domain) -> Reply:
    """The status ``Error`` with a chain of one error."""
    return Reply("error", (RuleError(domain=domain, code=code, description=description),))


class When(TypedDict, total=False):
    """When a rule has an effect; without any of these, always. All of them are fields of Rule."""

    times: int
    """Only the first N matches of each Mac."""
    every: int
    """Only every Nth match of each Mac."""
    probability: float
    """0 (never) to 1."""
    after: float
    """Seconds from now."""
    until: float
    """Seconds from now."""
    id: str
    """The rule's name in exchanges; ``rule-1`` and so on where it is missing."""


class ActiveRule:
    """A rule that the service follows, until ``remove`` is called; as a context manager, until its block ends."""

    def __init__(self, connection: Connection, rule: Rule) -> None:
        self.rule = rule
        self._connection = connection

    @property
    def counts(self) -> RuleCounts:
        """The rule with its matches and hits so far."""
        return self._connection.get(path("rules", self.rule.id), RuleCounts)

    @property
    def hits(self) -> int:
        """How often it had an effect."""
        return self.counts.hits

    @property
    def matches(self) -> int:
        """How often something happened that it is about."""
        return self.counts.matches

    def remove(self) -> None:
        """End it."""
        self._connection.delete(path("rules", self.rule.id))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"<ActiveRule {rule_text(self.counts)}>"


class On:
    """An operation of some Macs, for which a rule can be added: docs/faults.md has what goes with which operation.

    Each method takes the keys of When, such as ``times=2``: the first two, then the Mac recovers.
    """

    def __init__(self, connection: Connection, on: str, kind: str | None, selector: dict[str, Any]) -> None:
        self._connection = connection
        self._fields: dict[str, Any] = {**selector, "on": on, **({} if kind is None else {"type": kind})}

    def answer(self, reply: Reply, **when: Unpack[When]) -> ActiveRule:
        """Answer a command with this: ``NotNow``, ``CommandFormatError`` or ``Error(…)``."""
        errors = {"errors": reply.errors} if reply.errors else {}
        return self.do(reply.do, **errors, **when)

    def delay(self, seconds: float, **when: Unpack[When]) -> ActiveRule:
        """Do it this much later."""
        return self.do("delay", seconds=seconds, **when)

    def drop(self, at: At | None = None, **when: Unpack[When]) -> ActiveRule:
        """Reset the connection: ``before_request``, ``in_request``, ``after_request`` (usual) or ``in_response``.

        A LOM link and a push have no such point.
        """
        if at is None and self._fields["on"] not in ("lom_link", "push"):
            at = "after_request"
        return self.do("drop", at=at, **when)

    def slow(self, bytes_per_s: float, **when: Unpack[When]) -> ActiveRule:
        """Send slowly."""
        return self.do("slow", bytes_per_s=bytes_per_s, **when)

    def certificate(self, which: Literal["wrong", "expired"], **when: Unpack[When]) -> ActiveRule:
        """Present a certificate that is ``wrong`` (of another CA) or ``expired``."""
        return self.do("certificate", which=which, **when)

    def wrong_udid(self, **when: Unpack[When]) -> ActiveRule:
        """Send another Mac's UDID."""
        return self.do("wrong_udid", **when)

    def malformed(self, **when: Unpack[When]) -> ActiveRule:
        """Send a body that is not a property list."""
        return self.do("malformed", **when)

    def refuse(self, reason: str | None = None, **when: Unpack[When]) -> ActiveRule:
        """Refuse it; a push for this reason of APNs, such as ``TooManyRequests``."""
        return self.do("refuse", reason=reason, **when)

    def lose(self, **when: Unpack[When]) -> ActiveRule:
        """Lose the push."""
        return self.do("lose", **when)

    def throttle(self, limit: int, seconds: float, **when: Unpack[When]) -> ActiveRule:
        """Refuse each push for a Mac after so many in so many seconds, with ``TooManyRequests``."""
        return self.do("throttle", limit=limit, seconds=seconds, **when)

    def store(self, **when: Unpack[When]) -> ActiveRule:
        """Store the push until ``until``, which has to be given, as for a Mac that APNs cannot reach."""
        return self.do("store", **when)

    def offline(self, seconds: float, **when: Unpack[When]) -> ActiveRule:
        """Lose every network for so long."""
        return self.do("offline", seconds=seconds, **when)

    def crash(self, **when: Unpack[When]) -> ActiveRule:
        """Lose power in the middle of the command, and boot again."""
        return self.do("crash", **when)

    def falsify(self, what: Literal["nonce", "serial", "stale", "root"], **when: Unpack[When]) -> ActiveRule:
        """Attest something wrong."""
        return add_rule(self._connection, Rule(do="falsify", what=what, **self._fields, **when))

    def do(self, what: str, **fields: Any) -> ActiveRule:
        """Add a rule with this ``do`` and these fields."""
        return add_rule(self._connection, Rule(do=what, **self._fields, **fields))  # type: ignore[arg-type]


def add_rule(connection: Connection, rule: Rule) -> ActiveRule:
    """Add a rule."""
    return ActiveRule(connection, connection.post(path("rules"), Rule, rule))


def chain(*errors: RuleError) -> Reply:
    """The status ``Error`` with this chain of errors, the outermost first."""
    return Reply("error", tuple(errors))


def selector_of(udids: Sequence[str]) -> dict[str, Any]:
    """The selector of Rule for these Macs."""
    return {"macs": tuple(udids)}
