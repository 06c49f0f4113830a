"""A requirement: what a document demands of a server, and the check that judges it. No I/O.

A check gets the Evidence that the requirement's probes left, and returns a Finding: ``passed``, ``failed`` or
``not_tested``. It never guesses: where the trace does not show what is needed, the finding is ``not_tested``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from agent.conform.trace.evidence import Evidence


class Level(StrEnum):
    """How binding a requirement is (RFC 2119)."""

    MUST = "must"
    SHOULD = "should"
    MAY = "may"


class Outcome(StrEnum):
    """What a check found."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_TESTED = "not tested"


PROFILES = ("lom", "mdm", "macos27")
"""The sets of requirements that ``--profile`` selects; ``all`` is every requirement."""


class Source(msgspec.Struct, frozen=True):
    """Where a requirement comes from."""

    document: str
    """Such as ``commands/lom.setuprequest.yaml``, a file of Apple's device management schema, or ``RFC 8894``."""
    key: str = ""
    """The key or the section."""
    release: str = "27.0"
    """The release of Apple's schema, or the date of the document."""

    def __str__(self) -> str:
        return ", ".join(part for part in (self.document, self.key, self.release) if part)


class Numbered(Protocol):
    """A record of the trace, or what was made of one."""

    @property
    def number(self) -> int:
        """The number of the record."""


class Finding(msgspec.Struct, frozen=True):
    """What a check found. ``records`` are the numbers of the records that show it."""

    outcome: Outcome
    expected: str = ""
    seen: str = ""
    reason: str = ""
    """Why it was not tested."""
    records: tuple[int, ...] = ()


def passed(*shown_by: Numbered) -> Finding:
    """The server does what is required; ``shown_by`` are the records that show it."""
    return Finding(Outcome.PASSED, records=_numbers(shown_by))


def failed(expected: str, seen: str, *shown_by: Numbered) -> Finding:
    """The server does something else: what was ``expected``, and what was ``seen``, as phrases."""
    return Finding(Outcome.FAILED, expected, seen, records=_numbers(shown_by))


def not_tested(reason: str, *shown_by: Numbered) -> Finding:
    """The trace does not show it, for this ``reason``: a sentence."""
    return Finding(Outcome.NOT_TESTED, reason=reason, records=_numbers(shown_by))


def _numbers(records: Iterable[Numbered]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(record.number for record in records))


Check = Callable[["Evidence"], Finding]


class Requirement(msgspec.Struct, frozen=True):
    """One requirement."""

    id: str
    """Never changes, and is never used again: ``LOM-SETUP-01``."""
    level: Level
    says: str
    """One sentence with the level's verb: what the server must, should or may do."""
    source: Source
    profiles: tuple[str, ...]
    """Those of PROFILES that contain it."""
    probes: tuple[str, ...]
    """The names of the probes that provoke it. The check sees what these left, and nothing else."""
    check: Check
    needs: str | None = None
    """The capability without which it is not applicable; None: it always is."""

    @property
    def area(self) -> str:
        """The id without its number: ``LOM-SETUP``."""
        return self.id.rpartition("-")[0]
