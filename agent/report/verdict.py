"""The verdict on a run: whether it passed, why not, and whether its numbers are reliable.

It is made from the results for the top of the report and for the terminal. Statements are ordered by their effect on
those that follow: a run that did not finish, an overloaded load generator, the limits, the errors, late and dropped
operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from agent.measure.summaries import ReasonSummary
from agent.report.document import Document
from agent.report.numbers import TIMES, counted, listed, share, were
from agent.report.outcome import Kind, RunOutcome, because_of, not_allowed, outcome
from agent.report.pushes import own_failures, own_refusals

DELAYS = "latencies include its own delays. Run it again with more cores, more machines or less load."
MOST_NAMED = 3  # phases, kinds of failure or reasons in one sentence
IN_THE_LAB = (
    "The server was the embedded lab, which runs in the load generator's first process: the latencies show the flow, "
    "not a server."
)


class Level(StrEnum):
    """The severity of a statement, in ascending order."""

    NOTE = "note"
    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


class Statement(msgspec.Struct, frozen=True):
    """One sentence, with ``details`` to show below it."""

    level: Level
    text: str
    details: tuple[str, ...] = ()


class Verdict(msgspec.Struct, frozen=True):
    """The verdict; the most severe statement is first."""

    level: Level
    headline: str
    statements: tuple[Statement, ...]


def verdict(document: Document) -> Verdict:
    """The verdict on one run: bad exactly if the command's exit status is not 0 (`agent.report.outcome`)."""
    found = outcome(document)
    texts = [
        *_completeness(document, found),
        *_resumed(document),
        *([] if document.changed is None else [Statement(Level.NOTE, document.changed)]),
        *_generator(document),
        *_limits(document),
        *_errors(document, found),
        *_schedule(document),
    ]
    level = Level.BAD if not found.passed else max((each.level for each in texts), key=list(Level).index)
    return Verdict(level, _headline(document, found), tuple(texts))


def operations_done(document: Document) -> int:
    """The number of operations that succeeded or failed."""
    return sum(operation.count for operation in document.operations.values())


def operations_failed(document: Document) -> int:
    """The number of operations that failed."""
    return sum(operation.errors for operation in document.operations.values())


def operations_cut_short(document: Document) -> int:
    """The number of operations that this program itself ended."""
    return sum(operation.cut_short for operation in document.operations.values())


def failures_told(document: Document) -> str:
    """What failed and how, in short: ``25 of 43 session operations failed: session_stuck``. Empty without failures."""
    failed = [name for name, each in document.operations.items() if each.errors]
    if not failed:
        return ""
    number = sum(document.operations[name].errors for name in failed)
    done = sum(document.operations[name].count for name in failed)
    kinds = sorted(document.errors, key=lambda error: -error.count)
    noun = f"{failed[0]} operations" if len(failed) == 1 else "operations"
    named = [each.kind if len(failed) == 1 else f"{each.operation} {each.kind}" for each in kinds[:MOST_NAMED]]
    reported = [
        f"{text} ({each.count:,})" if len(kinds) > 1 else text for text, each in zip(named, kinds, strict=False)
    ]
    more = [f"{len(kinds) - MOST_NAMED} more"] if len(kinds) > MOST_NAMED else []
    return f"{number:,} of {done:,} {noun} failed" + (f": {listed([*reported, *more])}" if reported else "")


def reasons_told(reasons: Sequence[ReasonSummary]) -> tuple[str, ...]:
    """The most frequent reasons why operations were dropped or cut short."""
    most = sorted(reasons, key=lambda each: -each.count)[:MOST_NAMED]
    return tuple(f"{each.count:,} {TIMES} {each.operation}: {each.reason}" for each in most)


def overloaded(document: Document) -> str | None:
    """That the load generator was overloaded and in which phases, as a part of a sentence.

    None if it kept up, if the embedded lab was the server (its latencies are not those of a server), and if no
    operation ended.
    """
    generator = document.generator
    if generator.trustworthy or generator.embedded_lab or not operations_done(document):
        return None
    if not generator.workers:
        return "it is unknown whether the load generator kept up"
    phases = list(dict.fromkeys(each.phase for each in generator.overloaded))
    if not phases or None in phases:
        return "the load generator was overloaded"
    named = [str(phase) for phase in phases[:MOST_NAMED]]
    more = [f"{len(phases) - MOST_NAMED} more"] if len(phases) > MOST_NAMED else []
    noun = "phase" if len(phases) == 1 else "phases"
    return f"the load generator was overloaded in the {noun} {listed([*named, *more])}"


def _headline(document: Document, found: RunOutcome) -> str:
    limits = document.limits
    failed_limits = sum(not limit.ok and limit.reliable for limit in limits)
    in_doubt = sum(not limit.ok and not limit.reliable for limit in limits)
    failed = sum(not_allowed(document).values())
    parts = []
    if any(reason.kind is Kind.RUN for reason in found.reasons):
        parts.append("the run did not finish")
    elif phases := sum(reason.kind is Kind.PHASE for reason in found.reasons):
        parts.append(f"{counted(phases, 'phase')} did not finish")
    if nothing := sum(reason.kind is Kind.NOTHING_ENDED for reason in found.reasons):
        parts.append(f"{counted(nothing, 'phase')} measured nothing")
    if failed:
        ours = sum(count for name, count in own_failures(document.errors).items() if name in not_allowed(document))
        parts.append(f"{counted(failed, 'operation')} failed{_of_ours(ours, failed)}")
    elif any(reason.kind is Kind.FAILURES for reason in found.reasons):
        parts.append("operations failed")
    if failed_limits:
        parts.append(f"{failed_limits} of {counted(len(limits), 'limit')} failed")
    if in_doubt:
        parts.append(f"{in_doubt} of {counted(len(limits), 'limit')} not judged reliably")
    if not operations_done(document):
        parts.append("no operation ended")
    elif (text := overloaded(document)) is not None:
        parts.append(text)
    if not parts:
        parts.append("every limit passed" if limits else "no operation failed")
    if document.resumed:
        parts.append(resumed_told(document))
    text = ", ".join(parts)
    return text[0].upper() + text[1:]


def _of_ours(ours: int, failed: int) -> str:
    """How many of the failures are not the server's, as the end of a part of the headline."""
    if not ours:
        return ""
    return f" ({'all' if ours >= failed else f'{ours:,} of them'} by lom-agent's own push gateway)"


def _completeness(document: Document, found: RunOutcome) -> list[Statement]:
    if any(reason.kind is Kind.RUN for reason in found.reasons):
        text = f"The run did not finish{because_of(document)}. The numbers are those until then."
        return [Statement(Level.BAD, text)]
    of_phases = (Kind.PHASE, Kind.NOTHING_ENDED)
    return [Statement(Level.BAD, reason.text) for reason in found.reasons if reason.kind in of_phases]


def resumed_told(document: Document) -> str:
    """How often a run was resumed, as a part of a sentence."""
    number = len(document.resumed)
    return "resumed once" if number == 1 else f"resumed {number:,} {TIMES}"


def resumptions_told(document: Document) -> tuple[str, ...]:
    """Each time that a run stood still, and what was lost then."""
    return tuple(
        f"At second {each.at_s:g}: stopped at {each.stopped} or later, resumed at {each.resumed}; up to "
        f"{each.unmeasured_s:g} s of measurements and {counted(each.lost, 'operation')} lost."
        for each in document.resumed
    )


def _resumed(document: Document) -> list[Statement]:
    if not document.resumed:
        return []
    lost = sum(each.lost for each in document.resumed)
    text = f"The run was {resumed_told(document)} in a new process"
    text += f"; the end of {counted(lost, 'operation')} is not known, which counts as cut short." if lost else "."
    return [Statement(Level.WARNING, text, resumptions_told(document))]


def _generator(document: Document) -> list[Statement]:
    if not operations_done(document):
        return []  # there are no latencies
    generator = document.generator
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
        return [Statement(Level.NOTE, "The scenario sets no limits.")]
    failed = [limit for limit in limits if not limit.ok and limit.reliable]
    in_doubt = [limit for limit in limits if not limit.ok and not limit.reliable]
    if not failed and not in_doubt:
        return [Statement(Level.GOOD, limits_passed(document))]
    texts = []
    for found, what in ((failed, "failed"), (in_doubt, "could not be judged reliably")):
        if found:
            text = f"{len(found)} of {counted(len(limits), 'limit')} {what}."
            texts.append(Statement(Level.BAD, text, tuple(limit.sentence or limit.limit for limit in found)))
    return texts


def limits_passed(document: Document) -> str:
    """A sentence for a run that passed all its limits; empty for one without limits."""
    number = len(document.limits)
    return "" if not number else "The one limit passed." if number == 1 else f"All {number} limits passed."


def _errors(document: Document, found: RunOutcome) -> list[Statement]:
    done, failed = operations_done(document), operations_failed(document)
    reasons = tuple(reason.text for reason in found.reasons if reason.kind is Kind.FAILURES)
    level = Level.BAD if reasons else Level.WARNING  # if a limit allows failures, its verdict is the judgement
    if failed:
        text = f"{failed:,} of {counted(done, 'operation')} failed ({share(failed, done)})"
        most = max(document.errors, key=lambda error: error.count, default=None)
        if most is not None:
            text += f", most often {most.operation} with {most.kind} ({most.count:,})"
        return [Statement(level, text + ".", reasons), *_own_failures(document)]
    if reasons:
        return [Statement(level, "Operations failed.", reasons)]
    if not done:
        return [Statement(Level.WARNING, "No operation ended.")]
    return [Statement(Level.GOOD, f"None of {counted(done, 'operation')} failed.")]


def _own_failures(document: Document) -> list[Statement]:
    ours = own_failures(document.errors)
    if not ours:
        return []
    message = listed([f"{count:,} {TIMES} {operation}" for operation, count in ours.items()])
    why = "lom-agent's own push gateway refused pushes or was late"
    text = f"{message} failed because {why}, which is no failure of the server."
    return [Statement(Level.WARNING, text, tuple(own_refusals(document.push or {})))]


def _schedule(document: Document) -> list[Statement]:
    late = sum(operation.late for operation in document.operations.values())
    dropped = sum(operation.dropped for operation in document.operations.values())
    dropped = max(dropped, sum(drop.count for drop in document.dropped))
    texts = []
    if cut_short := operations_cut_short(document):
        text = f"{counted(cut_short, 'operation')} {were(cut_short)} cut short: neither a success nor a failure."
        texts.append(Statement(Level.WARNING, text, reasons_told(document.cut_short)))
    if dropped:
        text = f"{dropped:,} of the planned operations never started."
        texts.append(Statement(Level.WARNING, text, reasons_told(document.dropped)))
    if late:
        text = f"{late:,} started more than 100 ms after they were due; their latency counts from when they were due."
        texts.append(Statement(Level.WARNING, text))
    return texts
