"""A run in a log while it goes on: a line when a phase begins, when it is over, and one every few seconds."""

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

LINE_SECONDS = 10.0  # between two lines on how far it is
MOST_PHASES = 3  # on one line
MOST_OPERATIONS = 3


class PlainDisplay:
    """Plain lines, each of which begins with the time since the run's start."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._view = LiveView(0.0)
        self._printed = clock()
        self._begun: set[str] = set()
        self._over: set[str] = set()
        self._worst_lag = 0.0
        self._worst_cpu = 0.0

    def note(self, text: str) -> None:
        """Print ``text`` as one line."""
        print_line(self._console, text)

    def look(self, view: LiveView) -> None:
        """Print which phases began and which are over, and every LINE_SECONDS how far it is."""
        self._view = view
        self._worst_lag = max(self._worst_lag, view.lag_ms)
        self._worst_cpu = max(self._worst_cpu, view.cpu)
        for seconds, text in sorted((each for phase in view.phases for each in self._turns(phase)), key=itemgetter(0)):
            self._print(seconds, text)
        now = self._clock()
        if now - self._printed >= LINE_SECONDS:
            self._printed = now
            self._print(view.elapsed, self._progress(view))
            self._worst_lag = self._worst_cpu = 0.0

    def close(self) -> None:
        """Print how far the phases came that were cut short."""
        for phase in self._view.phases:
            if phase.name in self._begun and phase.name not in self._over:
                self._over.add(phase.name)
                self._print(self._view.elapsed, f"{phase.name}: cut short, {_counts(phase)}")

    def _turns(self, phase: PhaseView) -> Iterator[tuple[float, str]]:
        """What has become of a phase since the last look, and when."""
        if phase.begun is not None and phase.name not in self._begun:
            self._begun.add(phase.name)
            yield phase.begun, f"{phase.name}: begins"
        if phase.over is not None and phase.name not in self._over:
            self._over.add(phase.name)
            took = "" if phase.begun is None else f" in {phase.over - phase.begun:,.1f} s"
            yield phase.over, f"{phase.name}: over{took}, {_counts(phase)}"

    def _progress(self, view: LiveView) -> str:
        errors = sum(operation.errors for operation in view.operations.values())
        parts = [_far(running(view.phases)), *_busiest(view), counted(errors, "error")]
        if in_trouble(self._worst_lag, self._worst_cpu) and not view.embedded_lab:
            parts.append(f"WARNING: the generator is {OVERLOADED} ({strain(self._worst_lag, self._worst_cpu)})")
        return "; ".join(parts)

    def _print(self, seconds: float, text: str) -> None:
        print_line(self._console, f"{on_the_clock(seconds)} {text}")


def _far(phases: Sequence[PhaseView]) -> str:
    if not phases:
        return "no phase runs"
    said = [f"{phase.name} {_share(phase)}" for phase in phases[:MOST_PHASES]]
    if len(phases) > MOST_PHASES:
        said.append(f"{len(phases) - MOST_PHASES:,} more phases")
    return ", ".join(said)


def _busiest(view: LiveView) -> list[str]:
    names = sorted(view.operations, key=lambda name: view.operations[name].rate_per_s, reverse=True)
    return [_rate(name, view.operations[name]) for name in names[:MOST_OPERATIONS] if view.operations[name].rate_per_s]


def _rate(name: str, operation: OperationView) -> str:
    said = f"{name} {number(operation.rate_per_s)}/s"
    if operation.p99_ms is not None:
        said += f" p99 {number(operation.p99_ms)} ms"
    return said + (f" {counted(operation.errors, 'error')}" if operation.errors else "")


def _share(phase: PhaseView) -> str:
    state = phase.state
    return f"{count(state.done)}/{count(state.planned)}" if state.planned or state.done else "running"


def _counts(phase: PhaseView) -> str:
    state = phase.state
    said = [f"{_share(phase)} done"] if state.planned or state.done else []
    said.append(f"{count(state.failed)} failed")
    aside = ((state.cut_short, "cut short"), (state.late, "late"), (state.dropped, "dropped"))
    said += [f"{count(each)} {word}" for each, word in aside if each]
    return ", ".join(said)
