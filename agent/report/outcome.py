"""Whether a run passed, and why not. The exit status, JUnit, the terminal, the HTML report and the key ``outcome`` of
the results all use this one function.

A run passes if it ended, every limit passed, each phase measured something, and nothing failed except what a limit
allows. An overloaded load generator alone does not fail a run; but a limit that could not be judged because of it did
not pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from agent.errors import OperatorError
from agent.measure.limits import parse_limit
from agent.report.document import Document
from agent.report.numbers import counted


class Kind(StrEnum):
    """The subject of a reason."""

    RUN = "run"
    PHASE = "phase"
    NOTHING_ENDED = "nothing ended"
    LIMIT = "limit"
    FAILURES = "failures"


class Reason(msgspec.Struct, frozen=True):
    """One reason why a run failed."""

    kind: Kind
    name: str
    """The phase, the limit or the operation."""
    text: str
    """A sentence."""


class RunOutcome(msgspec.Struct, frozen=True):
    """The exit status of the command and the reasons for it."""

    exit_status: int
    reasons: tuple[Reason, ...]

    @property
    def passed(self) -> bool:
        """Whether the run passed."""
        return not self.reasons


def outcome(document: Document) -> RunOutcome:
    """The outcome: exit status 0 passed, 1 failed, 128 plus the signal's number for a run that a signal ended."""
    reasons = (
        *_completeness(document),
        *_phases(document),
        *_limits(document),
        *_failures(document),
        *_nothing_ended(document),
    )
    if document.signal is not None:
        return RunOutcome(128 + document.signal, reasons)
    return RunOutcome(1 if reasons else 0, reasons)


def because_of(document: Document) -> str:
    """Why a run did not end, as the end of a sentence; empty if unknown."""
    reason = (document.incomplete_because or "").rstrip(".")
    return f": {reason}" if reason else ""


def not_allowed(document: Document) -> dict[str, int]:
    """The number of failures by operation, of the operations without a limit on errors."""
    failed = {name: operation.errors for name, operation in document.operations.items()}
    for error in document.errors:
        failed.setdefault(error.operation, 0)
    for name in failed:
        failed[name] = max(failed[name], sum(each.count for each in document.errors if each.operation == name))
    allowed = {_allows(limit.limit) for limit in document.limits}
    return {name: count for name, count in sorted(failed.items()) if count and name not in allowed}


def _allows(text: str) -> str | None:
    """The operation whose errors a limit bounds; None if it bounds something else."""
    try:
        limit = parse_limit(text)
    except OperatorError:  # a limit of another version: it allows nothing
        return None
    return limit.name if limit.metric == "errors" else None


def _completeness(document: Document) -> Iterator[Reason]:
    if not document.complete or document.signal is not None:
        yield Reason(Kind.RUN, "complete", f"The run did not finish{because_of(document)}.")


def _phases(document: Document) -> Iterator[Reason]:
    """The phases that did not end; those that never started only if the run itself did end."""
    for phase in document.phases:
        if phase.started_s is not None and phase.ended_s is None:
            text = f"The phase {phase.name} did not finish{because_of(document)}."
            yield Reason(Kind.PHASE, phase.name, text)
        elif phase.started_s is None and phase.ended_s is None and document.complete and document.signal is None:
            yield Reason(Kind.PHASE, phase.name, f"The phase {phase.name} never started.")


def _limits(document: Document) -> Iterator[Reason]:
    for limit in document.limits:
        if not limit.ok:
            yield Reason(Kind.LIMIT, limit.limit, limit.sentence or f"The limit {limit.limit} failed.")


def _mostly(document: Document, name: str) -> str:
    """The most frequent kind of failure of an operation: ``: session_stuck``, or ``: mostly tls (5)`` of several."""
    kinds = [error for error in document.errors if error.operation == name and error.count]
    if not kinds:
        return ""
    most = max(kinds, key=lambda error: error.count)
    return f": {most.kind}" if len(kinds) == 1 else f", most with {most.kind} ({most.count:,})"


def _failures(document: Document) -> Iterator[Reason]:
    for name, count in not_allowed(document).items():
        operation = document.operations.get(name)
        of = f" of {operation.count:,}" if operation is not None and operation.count >= count else ""
        text = f"{name}: {count:,}{of} failed{_mostly(document, name)}. No limit allows failures."
        yield Reason(Kind.FAILURES, name, text)
    if document.errors or any(operation.errors for operation in document.operations.values()):
        return
    for phase in document.phases:
        if phase.failed:
            text = f"In the phase {phase.name} {counted(phase.failed, 'operation')} failed."
            yield Reason(Kind.FAILURES, phase.name, text)


def _nothing_ended(document: Document) -> Iterator[Reason]:
    """The phases of a run that did end whose operations were all dropped or cut short: nothing in them was judged."""
    if not document.complete or document.signal is not None:
        return
    for phase in document.phases:
        counts = ((phase.dropped, "dropped"), (phase.cut_short or 0, "cut short"))
        ends = [f"{number:,} {how}" for number, how in counts if number]
        if ends and phase.ended_s is not None and not phase.done:
            text = f"The phase {phase.name} measured nothing: of its operations {' and '.join(ends)}, none done."
            yield Reason(Kind.NOTHING_ENDED, phase.name, text)
