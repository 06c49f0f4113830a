"""Terminals and pipes to write to, what stands on them then, and runs in progress to show there."""

import io
import re

from rich.console import Console

from agent.measure.live import LiveView, OperationView, PhaseState, PhaseView

CONTROL = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+")


class Seconds:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def terminal(width: int = 80, height: int = 24, encoding: str = "utf-8") -> Console:
    file = io.StringIO() if encoding == "utf-8" else io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    return Console(
        file=file,
        width=width,
        height=height,
        force_terminal=True,
        force_interactive=True,
        record=True,
        legacy_windows=False,
    )


def pipe(encoding: str = "utf-8") -> Console:
    return Console(
        file=io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n"), force_terminal=False, record=True
    )


def written(console: Console) -> str:
    """Everything that was written to it, control sequences and all."""
    console.file.flush()
    sink = console.file
    return sink.getvalue() if isinstance(sink, io.StringIO) else sink.buffer.getvalue().decode(console.encoding)


def screen(console: Console) -> list[str]:
    """The lines that stand on a very high terminal after all that was written to it: knows only the few control
    sequences that redrawing needs."""
    lines, row = [""], 0
    for part in CONTROL.findall(written(console)):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part.startswith("\x1b[") and part.endswith("A"):
            row -= int(part[2:-1])
        elif part != "\r" and not part.startswith("\x1b"):
            lines[row] += part
    return [line.rstrip() for line in lines]


def phase(
    name: str, *, started_s: float | None = None, finished_s: float | None = None, planned: int = 100, **counts: int
) -> PhaseView:
    """A waiting phase, unless a start and an end are given."""
    return PhaseView(
        name, "command", PhaseState(planned=planned, finished=finished_s is not None, **counts), started_s, finished_s
    )


def operation(count: int = 1000, errors: int = 0, rate: float = 50.0) -> OperationView:
    return OperationView(count, errors, rate, 12.34, 98.7)


def many_phases(number: int, *running: int) -> tuple[PhaseView, ...]:
    """So many phases of which those at ``running`` run; what comes before the first of them is done."""
    first = min(running, default=0)
    return tuple(
        phase(f"phase {each}", started_s=0.0, started=7, done=5)
        if each in running
        else phase(f"phase {each}", started_s=0.0, finished_s=1.0, started=100, done=100)
        if each < first
        else phase(f"phase {each}", planned=0)
        for each in range(number)
    )


def view(
    *phases: PhaseView, elapsed: float = 42.0, lag_ms: float = 2.34, cpu: float = 0.41, **parts: object
) -> LiveView:
    return LiveView(elapsed=elapsed, phases=phases, lag_ms=lag_ms, cpu=cpu, **parts)
