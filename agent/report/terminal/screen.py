"""The live screen: phases, operations, Macs and the generator itself, laid out for the terminal's width and height.

Made of one `agent.load.live.LiveView`; `agent.report.terminal.live` draws it.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agent.load.live import RECENT_SECONDS, LiveView, OperationView, PhaseView
from agent.load.timeline import MACS
from agent.net.records import OPERATIONS
from agent.report.numbers import clock, count, counted
from agent.report.terminal.generator import in_trouble, strain
from agent.report.terminal.phases import Stage, counted_stages, nearest, stage_of
from agent.report.terminal.text import NOTHING, cutting, number, visible

WIDE_COLUMNS = 100  # from here on there is room for more columns
LEAST_NAME = 10  # columns
FIXED_LINES = 8  # of the screen: all but the rows of the two tables
LEAST_PHASE_LINES = 3  # unless the whole is lower than that: the one before, the one that runs, the one to come

_MAC_WORDS = {"session": "in session"}
_STAGE_STYLES = {Stage.WAITING: "dim", Stage.RUNNING: "bold cyan", Stage.DONE: "green"}


class Screen:
    """The whole, never higher than the terminal allows."""

    def __init__(self, view: LiveView) -> None:
        self._view = view

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        view, width = self._view, options.max_width
        # One line is left for the cursor.
        room = options.size.height - 1 - FIXED_LINES
        phase_lines, operation_lines = shares(room, len(view.phases), len(view.operations))
        yield _title(view)
        yield from _phases(view, phase_lines, width, console.encoding)
        yield ""
        yield from _operations(view.operations, operation_lines, width, console.encoding)
        yield ""
        for line in (_macs(view.macs, console.encoding), _gauges(view), _generator(view)):
            line.no_wrap, line.overflow = True, cutting(console.encoding)
            yield line


class LastScreen:
    """What stays of it at the end: how far the phases came."""

    def __init__(self, view: LiveView) -> None:
        self._view = view

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _title(self._view)
        yield from _phases(self._view, options.size.height - 3, options.max_width, console.encoding)


def shares(room: int, phases: int, operations: int) -> tuple[int, int]:
    """How many of ``room`` lines the rows of phases get, and those of operations."""
    room = max(0, room)
    if phases + operations <= room:
        return phases, operations
    least = min(phases, max(LEAST_PHASE_LINES, room // 3))
    for_phases = min(room, max(least, room - operations))
    return for_phases, room - for_phases


def _title(view: LiveView) -> Text:
    stages = [stage_of(phase) for phase in view.phases]
    done, total = stages.count(Stage.DONE), len(stages)
    said = f"{done:,} of {counted(total, 'phase')} done" if total else "nothing has begun"
    return Text.assemble((clock(view.elapsed), "bold"), "  ", said, no_wrap=True, overflow="crop")


def _phases(view: LiveView, lines: int, width: int, encoding: str) -> list[RenderableType]:
    phases = view.phases
    shown = nearest(phases, lines if len(phases) <= lines else lines - 1)
    wide = width >= WIDE_COLUMNS
    table = _table()
    table.add_column("phase", ratio=2, min_width=LEAST_NAME, no_wrap=True, overflow=cutting(encoding))
    table.add_column("", no_wrap=True)
    table.add_column("", ratio=1, no_wrap=True)
    for title in ("done/planned", "open", "failed", "late", "dropped", *(["time"] if wide else [])):
        table.add_column(title, justify="right", no_wrap=True)
    for position in shown:
        table.add_row(*_phase(phases[position], view.elapsed, encoding, wide=wide))
    said: list[RenderableType] = [table]
    hidden = [phase for position, phase in enumerate(phases) if position not in set(shown)]
    if hidden and lines > 0:
        said.append(_more(f"and {counted(len(hidden), 'more phase')}: {counted_stages(hidden)}"))
    return said


def _phase(phase: PhaseView, now: float, encoding: str, *, wide: bool) -> list[RenderableType]:
    stage, state = stage_of(phase), phase.state
    planned = state.planned or 0
    row: list[RenderableType] = [
        Text(visible(phase.name, encoding), style="dim" if stage is Stage.WAITING else ""),
        Text(stage, style=_STAGE_STYLES[stage]),
        ProgressBar(planned, state.done, finished_style="green", complete_style="cyan") if planned else "",
    ]
    if stage is Stage.WAITING:
        return row
    row += [
        f"{count(state.done)}/{count(planned)}" if planned or state.done else NOTHING,
        count(max(0, state.started - state.done)),
        _bad(state.failed),
        _poor(state.late),
        _poor(state.dropped),
    ]
    if wide and phase.begun is not None:
        row.append(clock((now if phase.over is None else phase.over) - phase.begun))
    return row


def _operations(operations: Mapping[str, OperationView], lines: int, width: int, encoding: str) -> list[RenderableType]:
    names = sorted(operations, key=lambda name: OPERATIONS.index(name) if name in OPERATIONS else len(OPERATIONS))
    room = lines if len(names) <= lines else max(0, lines - 1)
    busiest = sorted(names, key=lambda name: (operations[name].rate_per_s, operations[name].count), reverse=True)
    shown = set(busiest[:room])
    table = _table()
    table.add_column("operation", ratio=1, min_width=LEAST_NAME, no_wrap=True, overflow=cutting(encoding))
    least = 10 if width >= WIDE_COLUMNS else 8
    for title in ("count", "errors", f"per s ({RECENT_SECONDS} s)", "p50 ms", "p99 ms"):
        table.add_column(title, justify="right", no_wrap=True, min_width=least)
    for name in names:
        if name in shown:
            table.add_row(visible(name, encoding), *_operation(operations[name]))
    said: list[RenderableType] = [table]
    if len(shown) < len(names) and lines > 0:
        said.append(_more(f"and {counted(len(names) - len(shown), 'operation')} less busy"))
    return said


def _operation(operation: OperationView) -> list[RenderableType]:
    return [
        count(operation.count),
        _bad(operation.errors),
        number(operation.rate_per_s),
        number(operation.p50_ms),
        number(operation.p99_ms),
    ]


def _table() -> Table:
    return Table(
        box=None, expand=True, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim underline"
    )


def _macs(macs: Mapping[str, int], encoding: str) -> Text:
    order = [*MACS, *(state for state in macs if state not in MACS)]
    told = [f"{macs[state]:,} {_MAC_WORDS.get(state, state)}" for state in order if macs.get(state)]
    return Text(visible(f"Macs: {', '.join(told) or NOTHING}", encoding))


def _gauges(view: LiveView) -> Text:
    return Text(f"Connections: {view.connections:,}; pushes waiting: {view.pushes_waiting:,}")


def _generator(view: LiveView) -> Text:
    said = f"Generator: {strain(view.lag_ms, view.cpu)}"
    if in_trouble(view.lag_ms, view.cpu):
        return Text(f"{said}. It is the bottleneck, not the server.", style="bold white on red")
    return Text(said)


def _more(text: str) -> Text:
    return Text(text, style="dim", no_wrap=True, overflow="crop")


def _bad(number: int) -> Text:
    return Text(count(number), style="bold red" if number else "dim")


def _poor(number: int) -> Text:
    return Text(count(number), style="yellow" if number else "dim")
