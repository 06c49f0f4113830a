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
from agent.report.numbers import count, counted, mebibytes
from agent.report.terminal.tables import operations_table, stages_table
from agent.report.terminal.text import AtLeast, Indented, number, visible
from agent.report.verdict import because_of, operations_done, operations_failed

PLAIN_COLUMNS = 100  # the least width where the output is a file or a pipe
MOST_LINES = 10  # of phases that were cut short, and of reasons not to trust the latencies


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


def _cuts(document: Document, encoding: str) -> list[RenderableType]:
    lines = []
    for cut in sorted(document.cut_short, key=lambda cut: -cut.count):
        said = visible(f"{cut.operation}: {cut.reason}", encoding)
        lines.append(Indented(2, Text.assemble((f"{cut.count:,} x ", "bold yellow"), said)))
    return _list("What was cut short: neither a success nor a failure", lines)


def _limits(document: Document, encoding: str) -> list[RenderableType]:
    lines = []
    for limit in document.limits:
        lead, style = ("  held", "green") if limit.ok else ("  BROKEN", "bold red")
        said = Text(visible(limit.sentence or limit.limit, encoding), style="" if limit.ok else "red")
        lines.append(Indented(10, said, [(lead, style)]))
    return _list("Limits", lines)


def _generator(document: Document, encoding: str) -> list[RenderableType]:
    generator = document.generator
    if generator is None or not operations_done(document):
        return []  # there are no latencies to trust or not
    if generator.trustworthy:
        return [Indented(0, Text(_kept_up(generator)))]
    warning = "Warning: the latencies are not to be trusted."
    if generator.workers:
        warning += (
            " Part of them is the load generator's own waiting; run it again with more cores, more machines "
            "or less load."
        )
    reasons = generator.reasons
    lines = [Indented(2, Text(visible(reason, encoding))) for reason in reasons[:MOST_LINES]]
    return [Indented(0, Text(warning, style="bold red")), *lines, *_rest(len(reasons) - len(lines))]


def _kept_up(generator: Generator) -> str:
    lag = max((worker.lag_ms.p99 or 0.0 for worker in generator.workers), default=0.0)
    busiest = max((worker.busiest_second or 0.0 for worker in generator.workers), default=0.0)
    return f"The load generator kept up: lag {number(lag)} ms (p99), busiest second {busiest * 100:.0f} % of a core."


def _verdict(document: Document, encoding: str) -> RenderableType:
    style, said = _judged(document)
    if not document.complete:
        style, said = "bold red", [f"The run did not come to its end{because_of(document)}.", *said]
    return Indented(0, Text(visible(" ".join(said), encoding), style=style))


def _judged(document: Document) -> tuple[str, list[str]]:
    """The style and the sentences, the gravest first."""
    done, failed = operations_done(document), operations_failed(document)
    broken, limits = sum(not limit.ok for limit in document.limits), len(document.limits)
    dropped = sum(operation.dropped for operation in document.operations.values())
    cut_short = sum(operation.cut_short for operation in document.operations.values())
    said = []
    if broken:
        said.append(f"{broken} of {counted(limits, 'limit')} {'is' if broken == 1 else 'are'} broken.")
    if failed:
        said.append(f"{failed:,} of {counted(done, 'operation')} failed.")
    held = "" if broken or not limits else "The one limit held." if limits == 1 else f"All {limits} limits held."
    if said:
        return "bold red", [*said, held] if held else said
    duration = f"{document.duration_s:,.1f} s"
    if not done:
        style, text = "bold yellow", f"Nothing was done: no operation in {duration}."
    elif dropped:
        style, text = "bold yellow", f"No operation of {done:,} failed, but {dropped:,} never started."
    elif cut_short:
        style, text = "bold yellow", f"No operation of {done:,} failed, but {cut_short:,} were cut short."
    elif document.generator is not None and not document.generator.trustworthy:
        style, text = "bold yellow", f"No operation of {done:,} failed, but the latencies are not to be trusted."
    elif not document.complete:
        style, text = "bold yellow", f"No operation of {done:,} failed."
    else:
        style, text = "bold green", f"All good: {counted(done, 'operation')}, no errors in {duration}."
    return style, [text, held] if held else [text]


def _list(title: str, lines: Iterable[RenderableType], total: int | None = None) -> list[RenderableType]:
    """Lines under a title; ``total`` is how many there would be with those that are not shown."""
    lines = list(lines)
    if not lines:
        return []
    return [Text(title, style="bold"), *lines, *_rest(0 if total is None else total - len(lines))]


def _rest(hidden: int) -> list[RenderableType]:
    return [Indented(2, Text(f"and {hidden:,} more"))] if hidden > 0 else []
