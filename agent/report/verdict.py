"""What a person should know of a run first: whether it is good, and whether its numbers can be trusted.

Made from a results document for the top of the report and for the terminal. Plain sentences; the order is by what they
do to everything after them: a run that did not end, then a generator that did not keep up, then the limits, the errors,
and what started late or never.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agent.report.document import Document, Drop
from agent.report.numbers import TIMES, counted, listed, share
from agent.report.outcome import Kind, Outcome, because_of, not_allowed, outcome

DELAYS = "latencies include its own delays. Run it again with more cores, more machines or less load."
MOST_NAMED = 3  # phases in one sentence
IN_THE_LAB = (
    "The server was the embedded lab, which shares this machine with the load generator: the latencies show the flow, "
    "not a server."
)


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
    """The verdict on one run: bad exactly where the command's exit status is not 0 (`agent.report.outcome`)."""
    found = outcome(document)
    said = [
        *_completeness(document, found),
        *_generator(document),
        *_limits(document),
        *_errors(document, found),
        *_schedule(document),
    ]
    level = Level.BAD if not found.passed else max((each.level for each in said), key=list(Level).index)
    return Verdict(level, _headline(document, found), tuple(said))


def operations_done(document: Document) -> int:
    """How many operations ended, whichever way."""
    return sum(operation.count for operation in document.operations.values())


def operations_failed(document: Document) -> int:
    """How many of them failed."""
    return sum(operation.errors for operation in document.operations.values())


def overloaded(document: Document) -> str | None:
    """That the load generator was overloaded and when, as a part of a sentence; None where it kept up, where the
    embedded lab was the server (such latencies are nobody's), and where there is nothing that it could have delayed."""
    generator = document.generator
    if generator is None or generator.trustworthy or generator.embedded_lab or not operations_done(document):
        return None
    if not generator.workers:
        return "nobody knows whether the load generator kept up"
    phases = list(dict.fromkeys(each.phase for each in generator.overloaded))
    if not phases or None in phases:
        return "the load generator was overloaded"
    named = [str(phase) for phase in phases[:MOST_NAMED]]
    more = [f"{len(phases) - MOST_NAMED} more"] if len(phases) > MOST_NAMED else []
    noun = "phase" if len(phases) == 1 else "phases"
    return f"the load generator was overloaded in the {noun} {listed([*named, *more])}"


def _headline(document: Document, found: Outcome) -> str:
    limits = document.limits
    broken = sum(not limit.ok and limit.reliable for limit in limits)
    in_doubt = sum(not limit.ok and not limit.reliable for limit in limits)
    failed = sum(not_allowed(document).values())
    parts = []
    if any(reason.kind is Kind.RUN for reason in found.reasons):
        parts.append("the run is not complete")
    elif phases := sum(reason.kind is Kind.PHASE for reason in found.reasons):
        parts.append(f"{counted(phases, 'phase')} did not come to the end")
    if broken:
        parts.append(f"{broken} of {counted(len(limits), 'limit')} broken")
    if in_doubt:
        parts.append(f"{in_doubt} of {counted(len(limits), 'limit')} not judged reliably")
    if failed:
        parts.append(f"{counted(failed, 'operation')} failed")
    elif any(reason.kind is Kind.FAILURES for reason in found.reasons):
        parts.append("operations failed")
    if not operations_done(document):
        parts.append("nothing was done")
    elif (text := overloaded(document)) is not None:
        parts.append(text)
    if not parts:
        parts.append("every limit held" if limits else "no operation failed")
    text = ", ".join(parts)
    return text[0].upper() + text[1:]


def _completeness(document: Document, found: Outcome) -> list[Statement]:
    if any(reason.kind is Kind.RUN for reason in found.reasons):
        text = f"The run did not come to its end{because_of(document)}. The numbers are of what ran until then."
        return [Statement(Level.BAD, text)]
    return [Statement(Level.BAD, reason.text) for reason in found.reasons if reason.kind is Kind.PHASE]


def _generator(document: Document) -> list[Statement]:
    generator = document.generator
    if generator is None or not operations_done(document):
        return []  # nobody said, or there are no latencies to rely on or not
    reasons = tuple(generator.reasons)
    if generator.embedded_lab:
        return [Statement(Level.NOTE, IN_THE_LAB, reasons)]
    text = overloaded(document)
    if text is None:
        return [Statement(Level.GOOD, "The load generator kept up with its schedule: the latencies are the server's.")]
    text = f"{text[0].upper()}{text[1:]}: {DELAYS if generator.workers else 'do not rely on the latencies.'}"
    return [Statement(Level.WARNING, text, reasons)]


def _limits(document: Document) -> list[Statement]:
    limits = document.limits
    if not limits:
        return [Statement(Level.NOTE, "The scenario set no limits, so nothing here says what would be too slow.")]
    broken = [limit for limit in limits if not limit.ok and limit.reliable]
    in_doubt = [limit for limit in limits if not limit.ok and not limit.reliable]
    if not broken and not in_doubt:
        return [Statement(Level.GOOD, "The one limit held." if len(limits) == 1 else f"All {len(limits)} limits held.")]
    said = []
    for found, what in ((broken, "broken"), (in_doubt, "not judged reliably")):
        if found:
            were = "was" if len(found) == 1 else "were"
            text = f"{len(found)} of {counted(len(limits), 'limit')} {were} {what}."
            said.append(Statement(Level.BAD, text, tuple(limit.sentence or limit.limit for limit in found)))
    return said


def _errors(document: Document, found: Outcome) -> list[Statement]:
    done, failed = operations_done(document), operations_failed(document)
    reasons = tuple(reason.text for reason in found.reasons if reason.kind is Kind.FAILURES)
    level = Level.BAD if reasons else Level.WARNING  # of what a limit allows the limit says what is too much
    if failed:
        text = f"{failed:,} of {counted(done, 'operation')} failed ({share(failed, done)})"
        most = max(document.errors, key=lambda error: error.count, default=None)
        if most is not None:
            text += f", most often {most.operation} with {most.kind} ({most.count:,})"
        return [Statement(level, text + ".", reasons)]
    if reasons:
        return [Statement(level, "Operations failed.", reasons)]
    if not done:
        return [Statement(Level.WARNING, "Nothing was done: no operation ended.")]
    return [Statement(Level.GOOD, f"None of {counted(done, 'operation')} failed.")]


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
