"""The summary at the end of a run: its settings, the measurements, the problems and their reasons, the verdict last.

All of it comes from the results document.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from agent.measure.summaries import PhaseSummary
from agent.report.document import Document, Generator
from agent.report.numbers import count, counted, listed, mebibytes, were
from agent.report.outcome import Kind, RunOutcome, not_allowed, outcome
from agent.report.pushes import own_refusals
from agent.report.rules import rule_hits
from agent.report.terminal.tables import operations_table, stages_table
from agent.report.terminal.text import AtLeast, Indented, number, visible
from agent.report.verdict import (
    DELAYS,
    IN_THE_LAB,
    MOST_NAMED,
    failures_told,
    limits_passed,
    operations_cut_short,
    operations_done,
    operations_failed,
    overloaded,
    resumed_told,
    resumptions_told,
)

PLAIN_COLUMNS = 100  # the minimum width if the output is a file or a pipe
MOST_LINES = 10  # of phases that did not finish, and of reasons why the load generator was overloaded


def print_summary(console: Console, document: Document) -> None:
    """Print the results of a run.

    Fits 80 columns on a terminal; elsewhere lines are at least PLAIN_COLUMNS wide.
    """
    # rich assumes 80 columns for a file or a pipe, which would cut the lines.
    least = 0 if console.is_terminal else PLAIN_COLUMNS
    console.print(AtLeast(least, _Summary(document)), crop=False, highlight=False, markup=False, emoji=False)


class _Summary:
    """The parts of the summary with an empty line between them."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        document, encoding = self._document, console.encoding
        parts = (
            _headline(document, encoding),
            [operations_table(document, console, options)] if document.operations else [],
            [stages_table(document, console, options)] if document.stages else [],
            _connections(document, encoding),
            _changed(document, encoding),
            _clamped(document),
            _cut_short(document, encoding),
            _errors(document, encoding),
            _drops(document, encoding),
            _own_refusals(document),
            _rules(document, encoding),
            _cuts(document, encoding),
            _resumed(document, encoding),
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
        f"CPU {took.cpu_s:,.1f} s",
        f"memory {mebibytes(took.max_rss_kib)}",
    ]
    name = [Indented(0, Text(visible(document.name, encoding), style="bold"))] if document.name else []
    return [*name, *(Indented(0, Text(visible(", ".join(line), encoding))) for line in (who, what))]


def _moment(text: str) -> str:
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S %Z").rstrip()
    except ValueError:
        return text


def _connections(document: Document, encoding: str) -> list[RenderableType]:
    if not document.connections:
        return []
    each = ", ".join(f"{opened:,} with {version}" for version, opened in document.connections.items())
    return [Indented(0, Text(visible(f"Connections to the server: {each}.", encoding)))]


def _changed(document: Document, encoding: str) -> list[RenderableType]:
    return [] if document.changed is None else [Indented(0, Text(visible(document.changed, encoding)))]


def _clamped(document: Document) -> list[RenderableType]:
    clamped = sum(each.clamped for each in document.operations.values())
    clamped += sum(each.clamped for each in document.stages.values())
    if not clamped:
        return []
    return [Indented(0, Text(f"Latencies below 1 µs or above 1 h, recorded as that: {clamped:,}."))]


def _cut_short(document: Document, encoding: str) -> list[RenderableType]:
    phases = [phase for phase in document.phases if phase.ended_s is None]
    lines = [Indented(2, Text(visible(f"{phase.name}: {_progress(phase)}", encoding))) for phase in phases[:MOST_LINES]]
    return _list("Phases that did not finish", lines, len(phases))


def _progress(phase: PhaseSummary) -> str:
    if phase.started_s is None:
        return "never started"
    texts = [count(phase.done) + (f" of {count(phase.planned)}" if phase.planned else "") + " done"]
    counts = (
        (phase.failed, "failed"),
        (phase.cut_short, "cut short"),
        (phase.late, "late"),
        (phase.dropped, "dropped"),
    )
    return ", ".join([*texts, *(f"{count(each)} {word}" for each, word in counts if each)])


def _errors(document: Document, encoding: str) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for error in document.errors:
        message = visible(f"{error.operation}: {error.kind}", encoding)
        lines.append(Indented(2, Text.assemble((f"{error.count:,} x ", "bold red"), message)))
        lines.append(Indented(6, Text(visible(error.example, encoding))))
    return _list("Failures", lines)


def _drops(document: Document, encoding: str) -> list[RenderableType]:
    lines = []
    for drop in sorted(document.dropped, key=lambda drop: -drop.count):
        message = visible(f"{drop.operation}: {drop.reason}", encoding)
        lines.append(Indented(2, Text.assemble((f"{drop.count:,} x ", "bold yellow"), message)))
    return _list("Operations that were due and never started", lines)


def _own_refusals(document: Document) -> list[RenderableType]:
    """What the push gateway refused for reasons of its own. It may have caused failed pushes."""
    lines = [Indented(2, Text(sentence)) for sentence in own_refusals(document.push or {})]
    return _list("Refused by the push gateway of lom-agent: not failures of the server or of APNs", lines)


def _rules(document: Document, encoding: str) -> list[RenderableType]:
    if not document.rules:
        return []
    return [Indented(0, Text(visible(f"Fault rules: {rule_hits(document.rules)}.", encoding)))]


def _cuts(document: Document, encoding: str) -> list[RenderableType]:
    lines = []
    for cut in sorted(document.cut_short, key=lambda cut: -cut.count):
        message = visible(f"{cut.operation}: {cut.reason}", encoding)
        lines.append(Indented(2, Text.assemble((f"{cut.count:,} x ", "bold yellow"), message)))
    return _list("Operations that were cut short: neither a success nor a failure", lines)


def _resumed(document: Document, encoding: str) -> list[RenderableType]:
    told = resumptions_told(document)
    lines = [Indented(2, Text(visible(text, encoding))) for text in told[:MOST_LINES]]
    return _list("Resumed in a new process", lines, len(told))


def _limits(document: Document, encoding: str) -> list[RenderableType]:
    lines = []
    for limit in document.limits:
        lead, style = ("  passed", "green") if limit.ok else ("  FAILED" if limit.reliable else "  UNSURE", "bold red")
        message = Text(visible(limit.sentence or limit.limit, encoding), style="" if limit.ok else "red")
        lines.append(Indented(10, message, [(lead, style)]))
    return _list("Limits", lines)


def _generator(document: Document, encoding: str) -> list[RenderableType]:
    generator = document.generator
    if not operations_done(document):
        return []  # there are no latencies
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
    """The phases in which this machine was too slow for both; the report has the measurements."""
    phases = list(dict.fromkeys(each.phase for each in generator.overloaded if each.phase is not None))
    if not phases:
        return "" if generator.trustworthy else " The machine was overloaded."
    named = [*phases[:MOST_NAMED], *([f"{len(phases) - MOST_NAMED} more"] if len(phases) > MOST_NAMED else [])]
    return f" The machine was overloaded in {listed(named)}."


def _kept_up(generator: Generator) -> str:
    lag = max((worker.lag_ms.p99 or 0.0 for worker in generator.workers), default=0.0)
    busiest = max((worker.busiest_second for worker in generator.workers), default=0.0)
    return f"The load generator kept up: lag {number(lag)} ms (p99), busiest second {busiest * 100:.0f} % of a core."


def _verdict(document: Document, encoding: str) -> RenderableType:
    style, message = _judged(document, outcome(document))
    return Indented(0, Text(visible(" ".join(message), encoding), style=style))


def _judged(document: Document, found: RunOutcome) -> tuple[str, list[str]]:
    """The style and the sentences, the most severe first; red exactly if the exit status is not 0."""
    done, failed = operations_done(document), operations_failed(document)
    passed = limits_passed(document) if all(limit.ok for limit in document.limits) else ""
    if not found.passed:
        return "bold red", [*_against(document, found), *([passed] if passed else [])]
    dropped = sum(operation.dropped for operation in document.operations.values())
    cut_short = operations_cut_short(document)
    duration = f"{document.duration_s:,.1f} s"
    crowded = overloaded(document)
    style = "bold yellow"
    if not done:
        text = f"No operation ended in {duration}."
    elif failed:
        text = f"{failed:,} of {counted(done, 'operation')} failed, as limits allow."
    elif dropped:
        text = f"No operation of {done:,} failed, but {dropped:,} never started."
    elif cut_short:
        text = f"No operation of {done:,} failed, but {cut_short:,} {were(cut_short)} cut short."
    elif crowded is not None:
        text = f"No operation of {done:,} failed, but {crowded}."
    elif document.resumed:
        text = f"No operation of {done:,} failed, but the run was {resumed_told(document)}: not all of it was measured."
    else:
        style, text = "bold green", f"All good: {counted(done, 'operation')}, no errors in {duration}."
    return style, [text, *([passed] if passed else [])]


def _against(document: Document, found: RunOutcome) -> list[str]:
    """Why a run failed: what kept it from finishing, then what failed and how, then the rest."""
    limits = counted(len(document.limits), "limit")
    failed_limits = sum(not limit.ok and limit.reliable for limit in document.limits)
    in_doubt = sum(not limit.ok and not limit.reliable for limit in document.limits)
    of_kind = {kind: [reason.text for reason in found.reasons if reason.kind is kind] for kind in Kind}
    message = list(of_kind[Kind.RUN])
    if reported := failures_told(document):
        message.append(f"{reported}.")
    else:
        message += of_kind[Kind.FAILURES]
    if not of_kind[Kind.RUN]:
        message += of_kind[Kind.PHASE] + of_kind[Kind.NOTHING_ENDED]
    if failed_limits:
        message.append(f"{failed_limits} of {limits} failed.")
    if in_doubt:
        message.append(f"{in_doubt} of {limits} could not be judged reliably: the load generator was overloaded.")
    unlimited = ", ".join(not_allowed(document)) if document.limits else ""
    if unlimited:
        message.append(f"No limit allows failures of {unlimited}.")
    return message


def _list(title: str, lines: Iterable[RenderableType], total: int | None = None) -> list[RenderableType]:
    """Lines under a title; ``total`` includes those that are not shown."""
    lines = list(lines)
    if not lines:
        return []
    return [Text(title, style="bold"), *lines, *_rest(0 if total is None else total - len(lines))]


def _rest(hidden: int) -> list[RenderableType]:
    return [Indented(2, Text(f"and {hidden:,} more"))] if hidden > 0 else []
