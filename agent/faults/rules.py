"""A fault rule: plain data, the same in JSON and TOML, checked when it is made."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from agent.errors import OperatorError
from agent.faults.effects import PARAMETERS, ROWS, TYPED, TYPES_OF, WITHOUT, At, Do, On
from agent.mdm.facts import of_kind
from agent.pki.names import ascii_lower
from agent.push.reasons import BY_WORD, Reason
from agent.settings import Seconds, Share, SomeSeconds, key

MOST_MACS = 10_000  # entries of ``macs``
MOST_COUNT = 1_000_000_000

_SCHEMA_KINDS = {"command": "command", "checkin": "check-in"}  # by operation

_INDEXES = re.compile(r"([0-9]{1,11})(?:-([0-9]{1,11}))?\Z")
_UDID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\Z")


def selected_macs(text: str) -> str | range | None:
    """What an entry of ``macs`` selects: a UDID in upper case or indexes; None where it is neither."""
    if _UDID.match(text):
        return text.upper()
    indexes = _INDEXES.match(text)
    if indexes is None:
        return None
    return range(int(indexes[1]), int(indexes[2] or indexes[1]) + 1) or None


class RuleError(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One item of the ErrorChain that a rule answers with."""

    domain: Annotated[Annotated[str, Meta(max_length=200)], key("ErrorDomain.")] = "MCMDMErrorDomain"
    code: Annotated[Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)], key("ErrorCode.")] = 12021
    description: Annotated[
        Annotated[str, Meta(max_length=1000)], key("LocalizedDescription and USEnglishDescription.")
    ] = "The command failed because of an injected fault."


class Rule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One rule: for which Macs, in which operation, what happens, and when.

    The rule is for a Mac if `macs`, `segment`, `role`, `os` and `share` all select it. Raises OperatorError for a
    combination that makes no sense.
    """

    id: Annotated[
        Annotated[str, Meta(pattern=r"\A[A-Za-z][A-Za-z0-9_-]{0,63}\Z|\A\Z")],
        key("The unique name of the rule in results and exchanges; none: `rule-1` and so on.", example="flaky"),
    ] = ""
    on: Annotated[On, key("The operation.")]
    do: Annotated[Do, key("What happens.")]
    type: Annotated[
        Annotated[str, Meta(min_length=1, max_length=200)] | None,
        key(
            "Only this RequestType (`command`), MessageType (`checkin`), SCEP operation (`scep`), ACME resource "
            "(`acme`) or use (`attestation`).",
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
        key("Only LOM Controllers (`controller`), or only the other Macs (`device`).", example="controller"),
    ] = None
    os: Annotated[
        Annotated[str, Meta(min_length=1, max_length=20)] | None,
        key("Only Macs with this version of macOS: `27` is every 27.x.", example="27"),
    ] = None
    share: Annotated[
        Share,
        key(
            "The share of the fleet, chosen by the seed. Equal shares choose the same Macs; a smaller share chooses a "
            "part of a larger one."
        ),
    ] = 1.0
    times: Annotated[
        Annotated[int, Meta(ge=1, le=MOST_COUNT)] | None,
        key("Only the first N matches of each Mac, counted after `every`; none: no limit.", example=2),
    ] = None
    every: Annotated[
        Annotated[int, Meta(ge=1, le=MOST_COUNT)] | None,
        key("Only every Nth match of each Mac: the Nth, the 2Nth and so on; none: every match.", example=3),
    ] = None
    probability: Annotated[
        Share, key("The probability that a match is hit, drawn from the seed for each Mac; 0: never.")
    ] = 1.0
    after: Annotated[
        Seconds, key("When the rule begins to match, from the start of the run (or from when it was added).", "s")
    ] = 0.0
    until: Annotated[
        SomeSeconds | None, key("When the rule ends, counted in the same way; none: never.", "s", example=60.0)
    ] = None
    errors: Annotated[
        Annotated[tuple[RuleError, ...], Meta(max_length=16)],
        key(
            "`error`: the items of the ErrorChain, each with `domain`, `code` and `description`; none: one error.",
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
        key(
            "`certificate`: `wrong` is one of another CA, `expired` one that is self-signed and expired.",
            example="wrong",
        ),
    ] = None
    what: Annotated[
        Literal["nonce", "serial", "stale", "root"] | None,
        key(
            "`falsify`: the freshness code is another one (`nonce`), the serial number is another one (`serial`), the "
            "attestation expired a month ago (`stale`), or its chain leads to another root (`root`).",
            example="nonce",
        ),
    ] = None
    reason: Annotated[
        Annotated[str, Meta(min_length=1, max_length=100)] | None,
        key("`refuse` of a push: the reason that APNs gives; none: `ServiceUnavailable`.", example="TooManyRequests"),
    ] = None

    def __post_init__(self) -> None:
        self._check_effect()
        if self.type is not None and self.on not in TYPED:
            raise self._wrong(
                f"type only with on = {_any_of(TYPED)}", f'type = "{self.type}" with on = "{self.on}"', "Remove type"
            )
        self._check_type()
        if self.until is not None and self.until <= self.after:
            raise self._wrong(
                "until above after", f"until = {self.until:g}, after = {self.after:g}", "Give a later until"
            )
        if self.reason is not None and self.reason not in BY_WORD:
            raise self._wrong("a reason of APNs", f'"{self.reason}"', "docs/push.md lists them")
        for text in self.macs:
            if selected_macs(text) is None:
                raise self._wrong("a UDID, an index or FIRST-LAST in macs", f'"{text[:60]}"', "Correct it")

    @property
    def push_reason(self) -> Reason:
        """The refusal of a push."""
        if self.do == "throttle":
            return Reason.TOO_MANY_REQUESTS
        return Reason.SERVICE_UNAVAILABLE if self.reason is None else BY_WORD[self.reason]

    def _check_effect(self) -> None:
        effect = ROWS.get((self.do, self.on))
        if effect is None:
            possible = tuple(on for do, on in ROWS if do == self.do)
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
        for name in WITHOUT.get(self.do, ()):
            if getattr(self, name) not in (None, (), 1.0):
                raise self._wrong(f'no {name} with do = "{self.do}"', name, f"Remove {name}")

    def _check_type(self) -> None:
        """Refuse a type that never matches. Commands and check-ins may have a type that no schema has."""
        if self.type is None:
            return
        known = TYPES_OF.get(self.on) or tuple(of_kind(_SCHEMA_KINDS[self.on]))
        folded = ascii_lower(self.type)
        meant = tuple(name for name in known if ascii_lower(name) == folded)
        if self.type not in known and (meant or self.on in TYPES_OF):
            expected = f'type = {_any_of(meant or known)} with on = "{self.on}"'
            raise self._wrong(expected, f'"{self.type}"', "Capital letters matter" if meant else "Correct it")

    def _wrong(self, expected: str, found: str, advice: str) -> OperatorError:
        where = f' in the rule "{self.id}"' if self.id else " in a rule"
        return OperatorError(f"Expected {expected}{where}, found {found}. {advice}.")


def _any_of(words: tuple[Any, ...]) -> str:
    quoted = [f'"{word}"' for word in words]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
