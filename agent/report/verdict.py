"""What a person should know of a run first: whether it is good, and whether its numbers can be trusted.

Made from a results document for the top of the report and for the terminal. Plain sentences; the order is by what they
do to everything after them: a run that did not end, then a generator that did not keep up, then the limits, the errors,
and what started late or never.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agent.report.document import Document, Drop
from agent.report.numbers import TIMES, counted, share


class Level(StrEnum):
    """How bad a sentence is, the harmless first."""

    NOTE = "note"
    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Statement:
    """One plain sentence, with ``details`` that go below it."""

    level: Level
    text: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The headline, how bad it is, and what there is to say, the weightiest first."""

    level: Level
    headline: str
    statements: tuple[Statement, ...]


def verdict(document: Document) -> Verdict:
    """The verdict on one run."""
    said = [
        *_completeness(document),
        *_generator(document),
        *_limits(document),
        *_errors(document),
        *_schedule(document),
    ]
    level = max((each.level for each in said), key=list(Level).index)
    return Verdict(level, _headline(document), tuple(said))


def operations_done(document: Document) -> int:
    """How many operations ended, whichever way."""
    return sum(operation.count for operation in document.operations.values())


def operations_failed(document: Document) -> int:
    """How many of them failed."""
    return sum(operation.errors for operation in document.operations.values())


def because_of(document: Document) -> str:
    """Why a run did not end, as the end of a sentence; nothing where nobody said."""
    reason = (document.incomplete_because or "").rstrip(".")
    return f": {reason}" if reason else ""


def _headline(document: Document) -> str:
    limits = document.limits
    broken = sum(not limit.ok for limit in limits)
    failed = operations_failed(document)
    parts = []
    if not document.complete:
        parts.append("the run is not complete")
    if broken:
        parts.append(f"{broken} of {counted(len(limits), 'limit')} broken")
    if not operations_done(document):
        parts.append("nothing was done")
    elif document.generator is not None and not document.generator.trustworthy:
        parts.append("the latencies cannot be trusted")
    if failed and not limits:
        parts.append(f"{counted(failed, 'operation')} failed")
    if not parts:
        parts.append("every limit held" if limits else "no operation failed")
    text = ", ".join(parts)
    return text[0].upper() + text[1:]


def _completeness(document: Document) -> list[Statement]:
    if document.complete:
        return []
    because = because_of(document)
    text = f"The run did not come to its end{because}. The numbers are of what ran until then."
    return [Statement(Level.BAD, text)]


def _generator(document: Document) -> list[Statement]:
    generator = document.generator
    if generator is None or not operations_done(document):
        return []  # nobody said, or there are no latencies to trust or not
    if generator.trustworthy:
        return [Statement(Level.GOOD, "The latencies can be trusted: the load generator kept up with its schedule.")]
    reasons = tuple(generator.reasons)
    if not generator.workers:
        text = "Do not rely on the latencies: nobody knows whether the load generator kept up with its schedule."
        return [Statement(Level.WARNING, text, reasons)]
    text = (
        "The load generator was the bottleneck, not the server: part of every latency is its own waiting. "
        "Run it again with more cores, more machines or less load."
    )
    return [Statement(Level.BAD, text, reasons)]


def _limits(document: Document) -> list[Statement]:
    limits = document.limits
    if not limits:
        return [Statement(Level.NOTE, "The scenario set no limits, so nothing here says what would be too slow.")]
    broken = [limit for limit in limits if not limit.ok]
    if not broken:
        return [Statement(Level.GOOD, "The one limit held." if len(limits) == 1 else f"All {len(limits)} limits held.")]
    were = "was" if len(broken) == 1 else "were"
    text = f"{len(broken)} of {counted(len(limits), 'limit')} {were} broken."
    return [Statement(Level.BAD, text, tuple(limit.sentence or limit.limit for limit in broken))]


def _errors(document: Document) -> list[Statement]:
    done, failed = operations_done(document), operations_failed(document)
    if not done:
        return [Statement(Level.WARNING, "Nothing was done: no operation ended.")]
    if not failed:
        return [Statement(Level.GOOD, f"None of {counted(done, 'operation')} failed.")]
    text = f"{failed:,} of {counted(done, 'operation')} failed ({share(failed, done)})"
    most = max(document.errors, key=lambda error: error.count, default=None)
    if most is not None:
        text += f", most often {most.operation} with {most.kind} ({most.count:,})"
    # With limits set it is they who say what is too much.
    level = Level.WARNING if document.limits else Level.BAD
    return [Statement(level, text + ".")]


def _schedule(document: Document) -> list[Statement]:
    late = sum(operation.late for operation in document.operations.values())
    dropped = sum(operation.dropped for operation in document.operations.values())
    dropped = max(dropped, sum(drop.count for drop in document.dropped))
    said = []
    cut_short = sum(operation.cut_short for operation in document.operations.values())
    if cut_short:
        details = tuple(f"{cut.count:,} {TIMES} {cut.operation}: {cut.reason}" for cut in document.cut_short[:3])
        text = f"{cut_short:,} operations were cut short: they are neither successes nor failures."
        said.append(Statement(Level.WARNING, text, details))
    if dropped:
        reasons = sorted(document.dropped, key=lambda drop: -drop.count)
        details = tuple(_drop(drop) for drop in reasons[:3])
        text = f"{dropped:,} of the planned operations never started."
        said.append(Statement(Level.WARNING, text, details))
    if late:
        text = f"{late:,} started more than 100 ms after they were due; their latency counts from when they were due."
        said.append(Statement(Level.WARNING, text))
    return said


def _drop(drop: Drop) -> str:
    return f"{drop.count:,} {TIMES} {drop.operation}: {drop.reason}"
