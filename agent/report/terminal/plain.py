"""The progress of a run in a log: a line when a phase starts, when it finishes, and one every few seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter

from rich.console import Console

from agent.measure.live import LiveView, OperationView, PhaseView
from agent.report.generator import OVERLOADED, in_trouble, strain
from agent.report.numbers import clock as on_the_clock
from agent.report.numbers import count, counted
from agent.report.terminal.phases import running
from agent.report.terminal.text import number, print_line

LINE_SECONDS = 10.0  # between two progress lines
MOST_PHASES = 3  # on one line
MOST_OPERATIONS = 3


class PlainDisplay:
    """Plain lines that start with the time since the start of the run."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._view = LiveView(0.0)
        self._printed = clock()
        self._started: set[str] = set()
        self._finished: set[str] = set()
        self._paused = False
        self._worst_lag = 0.0
        self._worst_cpu = 0.0

    def note(self, text: str) -> None:
        """Print ``text`` as one line."""
        print_line(self._console, text)

    def warn(self, text: str) -> None:
        """Print a warning as one line."""
        print_line(self._console, f"Warning: {text}")

    def look(self, view: LiveView) -> None:
        """Print the phases that started and finished, and every LINE_SECONDS the progress."""
        self._view = view
        self._worst_lag = max(self._worst_lag, view.lag_ms)
        self._worst_cpu = max(self._worst_cpu, view.cpu)
        for seconds, text in sorted((each for phase in view.phases for each in self._events(phase)), key=itemgetter(0)):
            self._print(seconds, text)
        if view.paused != self._paused:
            self._paused = view.paused
            self._print(view.elapsed, "paused" if view.paused else "resumed")
        now = self._clock()
        if now - self._printed >= LINE_SECONDS:
            self._printed = now
            self._print(view.elapsed, self._progress(view))
            self._worst_lag = self._worst_cpu = 0.0

    def close(self) -> None:
        """Print the progress of the phases that did not finish."""
        for phase in self._view.phases:
            if phase.name in self._started and phase.name not in self._finished:
                self._finished.add(phase.name)
                self._print(self._view.elapsed, f"{phase.name}: did not finish, {_counts(phase)}")

    def _events(self, phase: PhaseView) -> Iterator[tuple[float, str]]:
        """What happened to a phase since the last call, and when."""
        if phase.started_s is not None and phase.name not in self._started:
            self._started.add(phase.name)
            yield phase.started_s, f"{phase.name}: started"
        if phase.finished_s is not None and phase.name not in self._finished:
            self._finished.add(phase.name)
            took = "" if phase.started_s is None else f" in {phase.finished_s - phase.started_s:,.1f} s"
            yield phase.finished_s, f"{phase.name}: finished{took}, {_counts(phase)}"

    def _progress(self, view: LiveView) -> str:
        errors = sum(operation.errors for operation in view.operations.values())
        paused = ["paused"] if view.paused else []
        parts = [*paused, _shares(running(view.phases)), *_busiest(view), counted(errors, "error")]
        if in_trouble(self._worst_lag, self._worst_cpu) and not view.embedded_lab:
            parts.append(f"WARNING: the generator is {OVERLOADED} ({strain(self._worst_lag, self._worst_cpu)})")
        return "; ".join(parts)

    def _print(self, seconds: float, text: str) -> None:
        print_line(self._console, f"{on_the_clock(seconds)} {text}")


def _shares(phases: Sequence[PhaseView]) -> str:
    if not phases:
        return "no phase is running"
    texts = [f"{phase.name} {_share(phase)}" for phase in phases[:MOST_PHASES]]
    if len(phases) > MOST_PHASES:
        texts.append(f"{len(phases) - MOST_PHASES:,} more phases")
    return ", ".join(texts)


def _busiest(view: LiveView) -> list[str]:
    names = sorted(view.operations, key=lambda name: view.operations[name].rate_per_s, reverse=True)
    return [_rate(name, view.operations[name]) for name in names[:MOST_OPERATIONS] if view.operations[name].rate_per_s]


def _rate(name: str, operation: OperationView) -> str:
    message = f"{name} {number(operation.rate_per_s)}/s"
    if operation.p99_ms is not None:
        message += f" p99 {number(operation.p99_ms)} ms"
    return message + (f" {counted(operation.errors, 'error')}" if operation.errors else "")


def _share(phase: PhaseView) -> str:
    state = phase.state
    return f"{count(state.done)}/{count(state.planned)}" if state.planned or state.done else "running"


def _counts(phase: PhaseView) -> str:
    state = phase.state
    message = [f"{_share(phase)} done"] if state.planned or state.done else []
    message.append(f"{count(state.failed)} failed")
    aside = ((state.cut_short, "cut short"), (state.late, "late"), (state.dropped, "dropped"))
    message += [f"{count(each)} {word}" for each, word in aside if each]
    return ", ".join(message)
