"""What a run comes to: passed or failed, and why. The exit status, JUnit, the terminal, the HTML report and the key
``outcome`` of the results all ask this one function.

A run passes where it came to its end, every limit held, and nothing failed but what a limit allows. A load generator
that was overloaded does not fail a run by itself; but a limit that could not be judged because of it did not hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from agent.errors import OperatorError
from agent.measure.limits import parse_limit
from agent.report.document import Document, read_document
from agent.report.numbers import counted
from agent.report.schema import OutcomeDocument

_FACTS = ("schema", "complete", "incomplete_because", "signal", "errors", "phases", "limits")


class Kind(StrEnum):
    """What a reason is about."""

    RUN = "run"
    PHASE = "phase"
    LIMIT = "limit"
    FAILURES = "failures"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a run failed, in a sentence; ``name`` is the phase, the limit or the operation that it is about."""

    kind: Kind
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The exit status of the command, 0 where there are no reasons against it."""

    exit_status: int
    reasons: tuple[Reason, ...]

    @property
    def passed(self) -> bool:
        """Whether there is nothing against it."""
        return not self.reasons

    def as_json(self) -> OutcomeDocument:
        """For the results."""
        return {"exit_status": self.exit_status, "reasons": [reason.text for reason in self.reasons]}


def outcome(document: Document) -> Outcome:
    """What the run comes to: 0 passed, 1 failed, 128 and the signal's number for a run that a signal ended."""
    reasons = (*_completeness(document), *_phases(document), *_limits(document), *_failures(document))
    if document.signal is not None:
        return Outcome(128 + document.signal, reasons)
    return Outcome(1 if reasons else 0, reasons)


def outcome_of(document: Mapping[str, Any]) -> Outcome:
    """The same of a document as plain data; only what decides is read. Raises OperatorError for what is no document."""
    facts = {key: document[key] for key in _FACTS if key in document}
    counts = {
        name: {"count": operation["count"], "errors": operation["errors"]}
        for name, operation in document["operations"].items()
    }
    return outcome(read_document({**facts, "operations": counts}))


def because_of(document: Document) -> str:
    """Why a run did not end, as the end of a sentence; nothing where nobody said."""
    reason = (document.incomplete_because or "").rstrip(".")
    return f": {reason}" if reason else ""


def not_allowed(document: Document) -> dict[str, int]:
    """How many of each operation failed, of those of whose errors no limit says how many may."""
    failed = {name: operation.errors for name, operation in document.operations.items()}
    for error in document.errors:
        failed.setdefault(error.operation, 0)
    for name in failed:
        failed[name] = max(failed[name], sum(each.count for each in document.errors if each.operation == name))
    allowed = {_allows(limit.limit) for limit in document.limits}
    return {name: count for name, count in sorted(failed.items()) if count and name not in allowed}


def _allows(text: str) -> str | None:
    """The operation of whose errors a limit says how many may be."""
    try:
        limit = parse_limit(text)
    except OperatorError:  # of another version: it allows nothing
        return None
    return limit.name if limit.metric == "errors" else None


def _completeness(document: Document) -> Iterator[Reason]:
    if not document.complete or document.signal is not None:
        yield Reason(Kind.RUN, "complete", f"The run did not come to its end{because_of(document)}.")


def _phases(document: Document) -> Iterator[Reason]:
    """Those that did not end. That one never began says nothing new of a run that did not come to its end."""
    for phase in document.phases:
        if phase.started_s is not None and phase.ended_s is None:
            text = f"The phase {phase.name} did not come to its end{because_of(document)}."
            yield Reason(Kind.PHASE, phase.name, text)
        elif phase.started_s is None and phase.ended_s is None and document.complete and document.signal is None:
            yield Reason(Kind.PHASE, phase.name, f"The phase {phase.name} never started.")


def _limits(document: Document) -> Iterator[Reason]:
    for limit in document.limits:
        if not limit.ok:
            yield Reason(Kind.LIMIT, limit.limit, limit.sentence or f"The limit {limit.limit} was broken.")


def _failures(document: Document) -> Iterator[Reason]:
    for name, count in not_allowed(document).items():
        operation = document.operations.get(name)
        of = f" of {operation.count:,}" if operation is not None and operation.count >= count else ""
        text = f"{name}: {count:,}{of} failed, and no limit says how many may."
        yield Reason(Kind.FAILURES, name, text)
    if document.errors or any(operation.errors for operation in document.operations.values()):
        return
    for phase in document.phases:
        if phase.failed:
            text = f"In the phase {phase.name} {counted(phase.failed, 'operation')} failed."
            yield Reason(Kind.FAILURES, phase.name, text)
