"""The end of a run for a person: what it was, what was measured, what went wrong and why, and the verdict last.

All of it comes from the results document, so that a run of yesterday reads as it did then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from agent.report.document import Document, Generator, Phase, read_document
from agent.report.numbers import count, counted, listed, mebibytes
from agent.report.outcome import Kind, Outcome, not_allowed, outcome
from agent.report.pushes import own_refusals
from agent.report.terminal.tables import operations_table, stages_table
from agent.report.terminal.text import AtLeast, Indented, number, visible
from agent.report.verdict import DELAYS, IN_THE_LAB, MOST_NAMED, operations_done, operations_failed, overloaded

PLAIN_COLUMNS = 100  # the least width where the output is a file or a pipe
MOST_LINES = 10  # of phases that were cut short, and of what overloaded the load generator


def print_summary(console: Console, document: Mapping[str, Any]) -> None:
    """Print the results document of a run. Raises OperatorError where it is none.

    Fits 80 columns on a terminal; elsewhere lines are at least PLAIN_COLUMNS wide.
    """
    # Where nobody has a window of a fixed width, rich's guess of 80 columns must not cut the lines.
    least = 0 if console.is_terminal else PLAIN_COLUMNS
    # The time line, by far the longest part, is for pictures only.
    summary = _Summary(read_document({**document, "timeline": []}))
    console.print(AtLeast(least, summary), crop=False, highlight=False, markup=False, emoji=False)


class _Summary:
    """Parts with an empty line between them."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        document, encoding = self._document, console.encoding
        parts = (
            _headline(document, encoding),
            [operations_table(document, console, options)] if document.operations else [],
            [stages_table(document, console, options)] if document.stages else [],
            _clamped(document),
            _cut_short(document, encoding),
            _errors(document, encoding),
            _drops(document, encoding),
            _own_refusals(document),
            _cuts(document, encoding),
            _limits(document, encoding),
            _generator(document, encoding),
            [_verdict(document, encoding)],
        )
        first = True
        for part in parts:
            if part and not first:
                yield ""
            yield from part
            first = False


def _headline(document: Document, encoding: str) -> list[RenderableType]:
    took = document.resources
    who = [
        f"lom-agent {document.version}",
        *([] if document.seed is None else [f"seed {document.seed}"]),
        counted(document.devices, "device"),
        *([] if document.workers == 1 else [counted(document.workers, "worker")]),
        *([f"from {_moment(document.started)}"] if document.started else []),
    ]
    what = [
        f"{document.duration_s:,.1f} s",
        *([] if took.cpu_s is None else [f"CPU {took.cpu_s:,.1f} s"]),
        *([] if took.max_rss_kib is None else [f"memory {mebibytes(took.max_rss_kib)}"]),
    ]
    name = [Indented(0, Text(visible(document.name, encoding), style="bold"))] if document.name else []
    return [*name, *(Indented(0, Text(visible(", ".join(line), encoding))) for line in (who, what))]


def _moment(text: str) -> str:
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S %Z").rstrip()
    except ValueError:
        return text


def _clamped(document: Document) -> list[RenderableType]:
    clamped = sum(each.clamped for each in document.operations.values())
    clamped += sum(each.clamped for each in document.stages.values())
    if not clamped:
        return []
    return [Indented(0, Text(f"Latencies under a microsecond or over an hour, counted as just that: {clamped:,}."))]


def _cut_short(document: Document, encoding: str) -> list[RenderableType]:
    phases = [phase for phase in document.phases if phase.ended_s is None]
    lines = [Indented(2, Text(visible(f"{phase.name}: {_far(phase)}", encoding))) for phase in phases[:MOST_LINES]]
    return _list("Phases that did not come to their end", lines, len(phases))


def _far(phase: Phase) -> str:
    if phase.started_s is None:
        return "never began"
    said = [count(phase.done or 0) + (f" of {count(phase.planned)}" if phase.planned else "") + " done"]
    counts = (
        (phase.failed, "failed"),
        (phase.cut_short, "cut short"),
        (phase.late, "late"),
        (phase.dropped, "dropped"),
    )
    return ", ".join([*said, *(f"{count(each)} {word}" for each, word in counts if each)])


def _errors(document: Document, encoding: str) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for error in document.errors:
        said = visible(f"{error.operation}: {error.kind}", encoding)
        lines.append(Indented(2, Text.assemble((f"{error.count:,} x ", "bold red"), said)))
        lines.append(Indented(6, Text(visible(error.example, encoding))))
    return _list("What failed and why", lines)


def _drops(document: Document, encoding: str) -> list[RenderableType]:
    lines = []
    for drop in sorted(document.dropped, key=lambda drop: -drop.count):
        said = visible(f"{drop.operation}: {drop.reason}", encoding)
        lines.append(Indented(2, Text.assemble((f"{drop.count:,} x ", "bold yellow"), said)))
    return _list("What was due and never started", lines)


def _own_refusals(document: Document) -> list[RenderableType]:
    """What the push gateway turned away without any fault of the server's; pushes that failed may come of it."""
    lines = [Indented(2, Text(sentence)) for sentence in own_refusals(document.push)]
    return _list("Refused by our own push gateway: not failures of the server or of APNs", lines)


def _cuts(document: Document, encoding: str) -> list[RenderableType]:
    lines = []
    for cut in sorted(document.cut_short, key=lambda cut: -cut.count):
        said = visible(f"{cut.operation}: {cut.reason}", encoding)
        lines.append(Indented(2, Text.assemble((f"{cut.count:,} x ", "bold yellow"), said)))
    return _list("What was cut short: neither a success nor a failure", lines)


def _limits(document: Document, encoding: str) -> list[RenderableType]:
    lines = []
    for limit in document.limits:
        lead, style = ("  held", "green") if limit.ok else ("  BROKEN" if limit.reliable else "  OPEN", "bold red")
        said = Text(visible(limit.sentence or limit.limit, encoding), style="" if limit.ok else "red")
        lines.append(Indented(10, said, [(lead, style)]))
    return _list("Limits", lines)


def _generator(document: Document, encoding: str) -> list[RenderableType]:
    generator = document.generator
    if generator is None or not operations_done(document):
        return []  # there are no latencies to trust or not
    if generator.embedded_lab:
        return [Indented(0, Text(visible(f"{IN_THE_LAB}{_crowded(generator)}", encoding)))]
    text = overloaded(document)
    if text is None:
        return [Indented(0, Text(_kept_up(generator)))]
    warning = f"Warning: {text}: {DELAYS if generator.workers else 'do not rely on the latencies.'}"
    reasons = generator.reasons
    lines = [Indented(2, Text(visible(reason, encoding))) for reason in reasons[:MOST_LINES]]
    return [
        Indented(0, Text(visible(warning, encoding), style="bold yellow")),
        *lines,
        *_rest(len(reasons) - len(lines)),
    ]


def _crowded(generator: Generator) -> str:
    """Where the lab and the load generator were in each other's way; what was measured of it is in the report."""
    phases = list(dict.fromkeys(each.phase for each in generator.overloaded if each.phase is not None))
    if not phases:
        return "" if generator.trustworthy else " They were in each other's way."
    named = [*phases[:MOST_NAMED], *([f"{len(phases) - MOST_NAMED} more"] if len(phases) > MOST_NAMED else [])]
    return f" They were in each other's way in {listed(named)}."


def _kept_up(generator: Generator) -> str:
    lag = max((worker.lag_ms.p99 or 0.0 for worker in generator.workers), default=0.0)
    busiest = max((worker.busiest_second or 0.0 for worker in generator.workers), default=0.0)
    return f"The load generator kept up: lag {number(lag)} ms (p99), busiest second {busiest * 100:.0f} % of a core."


def _verdict(document: Document, encoding: str) -> RenderableType:
    style, said = _judged(document, outcome(document))
    return Indented(0, Text(visible(" ".join(said), encoding), style=style))


def _judged(document: Document, found: Outcome) -> tuple[str, list[str]]:
    """The style and the sentences, the gravest first; red exactly where the exit status is not 0."""
    done, failed, limits = operations_done(document), operations_failed(document), len(document.limits)
    held = "" if not limits else "The one limit held." if limits == 1 else f"All {limits} limits held."
    if not found.passed:
        return "bold red", _against(document, found) + ([held] if held and _all_held(document) else [])
    dropped = sum(operation.dropped for operation in document.operations.values())
    cut_short = sum(operation.cut_short for operation in document.operations.values())
    duration = f"{document.duration_s:,.1f} s"
    crowded = overloaded(document)
    if not done:
        style, text = "bold yellow", f"Nothing was done: no operation in {duration}."
    elif failed:
        style, text = "bold yellow", f"{failed:,} of {counted(done, 'operation')} failed, as limits allow."
    elif dropped:
        style, text = "bold yellow", f"No operation of {done:,} failed, but {dropped:,} never started."
    elif cut_short:
        style, text = "bold yellow", f"No operation of {done:,} failed, but {cut_short:,} were cut short."
    elif crowded is not None:
        style, text = "bold yellow", f"No operation of {done:,} failed, but {crowded}."
    else:
        style, text = "bold green", f"All good: {counted(done, 'operation')}, no errors in {duration}."
    return style, [text, held] if held else [text]


def _all_held(document: Document) -> bool:
    return all(limit.ok for limit in document.limits)


def _against(document: Document, found: Outcome) -> list[str]:
    """Why a run did not pass."""
    done, failed, limits = (
        operations_done(document),
        operations_failed(document),
        counted(len(document.limits), "limit"),
    )
    broken = sum(not limit.ok and limit.reliable for limit in document.limits)
    in_doubt = sum(not limit.ok and not limit.reliable for limit in document.limits)
    kinds = {reason.kind for reason in found.reasons}
    said = [reason.text for reason in found.reasons if reason.kind is Kind.RUN]
    if Kind.RUN not in kinds:
        said += [reason.text for reason in found.reasons if reason.kind is Kind.PHASE]
    if broken:
        said.append(f"{broken} of {limits} {'is' if broken == 1 else 'are'} broken.")
    if in_doubt:
        said.append(f"{in_doubt} of {limits} could not be judged reliably: the load generator was overloaded.")
    if failed:
        said.append(f"{failed:,} of {counted(done, 'operation')} failed.")
    elif Kind.FAILURES in kinds:
        said += [reason.text for reason in found.reasons if reason.kind is Kind.FAILURES]
    elif not said and done:
        said.append(f"No operation of {done:,} failed.")
    unlimited = ", ".join(not_allowed(document)) if document.limits else ""
    if unlimited:
        said.append(f"No limit says how many errors {unlimited} may have, so that each fails the run.")
    return said


def _list(title: str, lines: Iterable[RenderableType], total: int | None = None) -> list[RenderableType]:
    """Lines under a title; ``total`` is how many there would be with those that are not shown."""
    lines = list(lines)
    if not lines:
        return []
    return [Text(title, style="bold"), *lines, *_rest(0 if total is None else total - len(lines))]


def _rest(hidden: int) -> list[RenderableType]:
    return [Indented(2, Text(f"and {hidden:,} more"))] if hidden > 0 else []
