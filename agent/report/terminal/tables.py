"""The tables at the end of a run: operations and stages, with as many columns as the terminal is wide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich import box
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from agent.measure.summaries import OperationSummary, StageSummary
from agent.report.document import Document
from agent.report.numbers import count
from agent.report.terminal.text import cutting, number, visible

LONGEST_NAME = 20  # columns; a document that was edited may have longer ones

_LATENCIES = ("p50 ms", "p90 ms", "p99 ms", "max ms")
_SPARE = ("p90 ms", "per s")  # left out in this order if the terminal is too narrow

_OPERATION: dict[str, Callable[[OperationSummary], str | Text]] = {
    "count": lambda operation: count(operation.count),
    "errors": lambda operation: Text(count(operation.errors), style="bold red" if operation.errors else ""),
    "late": lambda operation: Text(count(operation.late), style="yellow" if operation.late else ""),
    "cut short": lambda operation: Text(count(operation.cut_short), style="yellow" if operation.cut_short else ""),
    "dropped": lambda operation: Text(count(operation.dropped), style="yellow" if operation.dropped else ""),
    "per s": lambda operation: number(operation.rate_per_s or None),
}


def operations_table(document: Document, console: Console, options: ConsoleOptions) -> Table:
    """The operations. There are columns for cut short, late and dropped ones only if there are any."""
    operations = document.operations
    titles = ["count", "errors"]
    if any(operation.cut_short for operation in operations.values()):
        titles.append("cut short")
    if any(operation.late or operation.dropped for operation in operations.values()):
        titles += ["late", "dropped"]
    titles += ["per s", *_LATENCIES]
    rows = {name: _latencies(each) | _cells(each) for name, each in operations.items()}
    return _fitting("operation", titles, rows, console, options)


def stages_table(document: Document, console: Console, options: ConsoleOptions) -> Table:
    """The stages of those that succeeded."""
    rows = {name: {"count": count(stage.count), **_latencies(stage)} for name, stage in document.stages.items()}
    return _fitting("stage", ["count", *_LATENCIES], rows, console, options)


def _cells(operation: OperationSummary) -> dict[str, str | Text]:
    return {title: cell(operation) for title, cell in _OPERATION.items()}


def _latencies(measured: OperationSummary | StageSummary) -> dict[str, str | Text]:
    latency = measured.latency_ms
    values = (latency.p50, latency.p90, latency.p99, latency.max)
    return dict(zip(_LATENCIES, map(number, values), strict=True))


def _fitting(
    what: str,
    titles: Sequence[str],
    rows: Mapping[str, Mapping[str, str | Text]],
    console: Console,
    options: ConsoleOptions,
) -> Table:
    """The table with as many columns as fit."""
    unbounded = options.update(width=10_000)
    for fewer in range(len(_SPARE) + 1):
        left = [title for title in titles if title not in _SPARE[:fewer]]
        table = _table(what, left, rows, console.encoding)
        if Measurement.get(console, unbounded, table).maximum <= options.max_width:
            break
    return table


def _table(what: str, titles: Sequence[str], rows: Mapping[str, Mapping[str, str | Text]], encoding: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True, padding=(0, 0))
    # Eight columns if the terminal is wide enough, so that the tables of several runs align.
    least = 0 if "late" in titles else 8
    cut = cutting(encoding)
    table.add_column(what, no_wrap=True, overflow=cut, min_width=10, max_width=LONGEST_NAME)
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True, overflow=cut, min_width=least or len(title) + 1)
    for name, cells in rows.items():
        table.add_row(visible(name, encoding), *(cells[title] for title in titles))
    return table
