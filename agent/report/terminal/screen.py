"""The live screen: phases, operations, Macs and the load generator, in the terminal's width and height.

It shows one `agent.measure.live.LiveView`; `agent.report.terminal.live` draws it.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from agent.measure.live import RECENT_SECONDS, LiveView, OperationView, PhaseView
from agent.measure.records import OPERATIONS
from agent.measure.timeline import MACS
from agent.report.generator import OVERLOADED, in_trouble, strain
from agent.report.numbers import clock, count, counted
from agent.report.terminal.phases import PhaseStatus, counted_statuses, nearest, status_of
from agent.report.terminal.rows import Bar, Cell, Column, lines_of
from agent.report.terminal.text import NOTHING, cutting, number, visible

WIDE_COLUMNS = 100  # from this width on there are more columns
LEAST_NAME = 10  # columns
FIXED_LINES = 8  # all lines except the rows of the two tables
LEAST_PHASE_LINES = 3  # if the terminal is high enough: the previous, the current and the next phase

_MAC_WORDS = {"session": "in session"}


class Screen:
    """The whole screen, at most as high as the terminal."""

    def __init__(self, view: LiveView) -> None:
        self._view = view

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        view, width = self._view, options.max_width
        # One line is for the cursor.
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
    """The part that remains at the end: the progress of the phases. The summary follows after an empty line."""

    def __init__(self, view: LiveView) -> None:
        self._view = view

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _title(self._view)
        yield from _phases(self._view, options.size.height - 4, options.max_width, console.encoding)
        yield ""


def shares(room: int, phases: int, operations: int) -> tuple[int, int]:
    """The lines of ``room`` for phases, and those for operations."""
    room = max(0, room)
    if phases + operations <= room:
        return phases, operations
    least = min(phases, max(LEAST_PHASE_LINES, room // 3))
    for_phases = min(room, max(least, room - operations))
    return for_phases, room - for_phases


def _title(view: LiveView) -> Text:
    statuses = [status_of(phase) for phase in view.phases]
    done, total = statuses.count(PhaseStatus.DONE), len(statuses)
    message = f"{done:,} of {counted(total, 'phase')} done" if total else "nothing has started"
    paused = ("paused  " if view.paused else "", "bold yellow")
    return Text.assemble((clock(view.elapsed), "bold"), "  ", paused, message, no_wrap=True, overflow="crop")


def _phases(view: LiveView, lines: int, width: int, encoding: str) -> list[Text]:
    phases = view.phases
    shown = nearest(phases, lines if len(phases) <= lines else lines - 1)
    columns = [Column("phase", weight=2, least=LEAST_NAME), Column(""), Column("", weight=1)]
    columns += [Column(title, right=True) for title in ("done/planned", "open", "failed", "late", "dropped")]
    if width >= WIDE_COLUMNS:
        columns.append(Column("time", right=True, least=7))
    message = lines_of(columns, [_phase(phases[each], view.elapsed, encoding) for each in shown], width, encoding)
    hidden = [phase for position, phase in enumerate(phases) if position not in set(shown)]
    if hidden and lines > 0:
        message.append(_more(f"and {counted(len(hidden), 'more phase')}: {counted_statuses(hidden)}"))
    return message


def _phase(phase: PhaseView, now: float, encoding: str) -> list[Cell | Bar]:
    status, state = status_of(phase), phase.state
    if status is PhaseStatus.WAITING or phase.started_s is None:
        return [Cell(visible(phase.name, encoding), "dim"), Cell(status, "dim")]
    planned = state.planned or 0
    style = "green" if state.done >= planned else "cyan"
    return [
        Cell(visible(phase.name, encoding)),
        Cell(status, "bold cyan" if status is PhaseStatus.RUNNING else "green"),
        Bar(state.done / planned, style) if planned else Cell(""),
        Cell(f"{count(state.done)}/{count(planned)}" if planned or state.done else NOTHING),
        Cell(count(max(0, state.started - state.done - state.cut_short))),
        _marked(state.failed, "bold red"),
        _marked(state.late, "yellow"),
        _marked(state.dropped, "yellow"),
        Cell(clock((now if phase.finished_s is None else phase.finished_s) - phase.started_s)),
    ]


def _operations(operations: Mapping[str, OperationView], lines: int, width: int, encoding: str) -> list[Text]:
    names = sorted(operations, key=lambda name: OPERATIONS.index(name) if name in OPERATIONS else len(OPERATIONS))
    room = lines if len(names) <= lines else max(0, lines - 1)
    busiest = sorted(names, key=lambda name: (operations[name].rate_per_s, operations[name].count), reverse=True)
    shown = set(busiest[:room])
    titles = ("count", "errors", f"per s ({RECENT_SECONDS} s)", "p50 ms", "p99 ms")
    columns = [Column("operation", weight=1, least=LEAST_NAME)]
    columns += [Column(title, right=True, least=10 if width >= WIDE_COLUMNS else 8) for title in titles]
    rows = [_operation(visible(name, encoding), operations[name]) for name in names if name in shown]
    message = lines_of(columns, rows, width, encoding)
    if len(shown) < len(names) and lines > 0:
        message.append(_more(f"and {counted(len(names) - len(shown), 'operation')} less busy"))
    return message


def _operation(name: str, operation: OperationView) -> list[Cell]:
    numbers = (operation.rate_per_s, operation.p50_ms, operation.p99_ms)
    return [
        Cell(name),
        Cell(count(operation.count)),
        _marked(operation.errors, "bold red"),
        *(Cell(number(each)) for each in numbers),
    ]


def _macs(macs: Mapping[str, int], encoding: str) -> Text:
    order = [*MACS, *(state for state in macs if state not in MACS)]
    reported = [f"{macs[state]:,} {_MAC_WORDS.get(state, state)}" for state in order if macs.get(state)]
    return Text(visible(f"Macs: {', '.join(reported) or NOTHING}", encoding))


def _gauges(view: LiveView) -> Text:
    return Text(f"Connections: {view.connections:,}; pushes waiting: {view.pushes_waiting:,}")


def _generator(view: LiveView) -> Text:
    message = f"Generator: {strain(view.lag_ms, view.cpu)}"
    if in_trouble(view.lag_ms, view.cpu) and not view.embedded_lab:
        return Text(f"{message}; {OVERLOADED}", style="bold white on red")
    return Text(message)


def _more(text: str) -> Text:
    return Text(text, style="dim", no_wrap=True, overflow="crop")


def _marked(number: int, style: str) -> Cell:
    """A number that should be 0."""
    return Cell(count(number), style if number else "dim")
