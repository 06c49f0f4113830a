"""What a person at the terminal sees of a run: how far it is while it goes on, and what it came to at the end.

Steps come from the job through `agent.load.progress`, numbers from `agent.load.metrics`. Text that a peer may have
written is shown with every character that a terminal could act on made visible, and never read as markup.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from agent.errors import MisuseError
from agent.load.metrics import FailureSummary, Metrics, OperationSummary
from agent.load.progress import Progress, Silent
from agent.report.results import Resources, RunInfo

PLAIN_COLUMNS = 100  # the least width where the output is a file or a pipe
PLAIN_LINE_SECONDS = 5.0  # between two lines on one step there
BAR_COLUMNS = 28  # leaves room for 100000/100000 things in 80 columns
NOTHING = "-"


class ProgressDisplay(Progress, Protocol):
    """A watcher of a job that shows what it sees.

    Besides the job's own calls the caller calls ``tick`` about four times a second while the job runs, and ``close``
    at its end, whatever the end was: a live display hides the cursor until then.
    """

    def tick(self) -> None:
        """Time has passed: show what is new."""

    def close(self) -> None:
        """Show the last state and give the terminal back; a second call does nothing."""


def make_progress(console: Console, quiet: bool, clock: Callable[[], float]) -> ProgressDisplay:
    """The display that suits: none if ``quiet``, live bars on a terminal, else a plain line every few seconds.

    ``clock`` gives monotonic seconds. Of the displays that show, ``advance`` raises MisuseError for a step that was
    not announced. A note is one line.
    """
    if quiet:
        return QuietProgress()
    if console.is_interactive:
        return LiveProgress(console, clock)
    return PlainProgress(console, clock)


def print_summary(console: Console, metrics: Metrics, run: RunInfo, resources: Resources) -> None:
    """Print the end of a run: what it was, a table of the operations, what failed and why, and a verdict.

    Fits 80 columns on a terminal; elsewhere lines are at least PLAIN_COLUMNS wide.
    """
    summaries = {name: metrics.summary(name) for name in metrics.operations()}
    parts: list[RenderableType] = [_headline(run, resources, console.encoding)]
    if summaries:
        parts += ["", _table(summaries)]
    clamped = sum(summary.clamped for summary in summaries.values())
    if clamped:
        parts += ["", Text(f"Latencies under a microsecond or over an hour, counted as just that: {clamped:,}.")]
    failures = metrics.failures()
    if failures:
        parts += ["", Text("What failed and why", style="bold")]
        for failure in failures:
            parts += _failure(failure, console.encoding)
    parts += ["", _verdict(summaries, run.duration_s)]
    # Where nobody has a window of a fixed width, rich's guess of 80 columns must not cut the lines.
    least = 0 if console.is_terminal else PLAIN_COLUMNS
    console.print(_AtLeast(least, Group(*parts)), crop=False, highlight=False, markup=False, emoji=False)


def visible(text: str, encoding: str = "utf-8") -> str:
    """``text`` as one line that a terminal only shows: control characters, line ends, invisible and direction-changing
    characters and what ``encoding`` cannot express become escapes like ``\\n``, ``\\x1b`` or ``\\u202e``."""
    shown = text if text.isprintable() else "".join(map(_visible_character, text))
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _visible_character(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


class _AtLeast:
    """Something printed at the console's width, but not below ``columns``."""

    def __init__(self, columns: int, content: RenderableType) -> None:
        self._columns = columns
        self._content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self._content, options.update(width=max(options.max_width, self._columns)))


class _Indented:
    """A text wrapped some columns in from the left, without the blanks that rich would fill its lines up with."""

    def __init__(self, columns: int, text: Text) -> None:
        self._columns = columns
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # "fold", because a peer's text may be one word of 500 characters.
        for line in self._text.wrap(console, max(1, options.max_width - self._columns), overflow="fold"):
            line.rstrip()
            yield Text.assemble(" " * self._columns, line)


def _headline(run: RunInfo, resources: Resources, encoding: str) -> Text:
    started = run.started.strftime("%Y-%m-%d %H:%M:%S %Z").rstrip()
    line = (
        f"lom-agent {run.version}, seed {run.seed}, {_counted(run.devices, 'device')}, from {started}\n"
        f"{run.duration_s:,.1f} s, CPU {resources.cpu_s:,.1f} s, memory {resources.max_rss_kib / 1024:,.0f} MiB"
    )
    return Text("\n".join(visible(each, encoding) for each in line.split("\n")))


def _table(summaries: dict[str, OperationSummary]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True, padding=(0, 0))
    table.add_column("operation", no_wrap=True)
    for title in ("count", "errors", "per s", "p50 ms", "p90 ms", "p99 ms", "max ms"):
        table.add_column(title, justify="right", no_wrap=True, min_width=8)
    for name, summary in summaries.items():
        table.add_row(
            name,
            f"{summary.count:,}",
            Text(f"{summary.errors:,}", style="bold red" if summary.errors else ""),
            _number(summary.rate_per_s or None),
            _number(summary.p50),
            _number(summary.p90),
            _number(summary.p99),
            _number(summary.max),
        )
    return table


def _number(number: float | None) -> str:
    """Three or more figures that matter: 0.123, 1.23, 12.3, 123, 1,234."""
    if number is None:
        return NOTHING
    decimals = next((places for limit, places in ((0.9995, 3), (9.995, 2), (99.95, 1)) if number < limit), 0)
    return f"{number:,.{decimals}f}"


def _failure(failure: FailureSummary, encoding: str) -> list[RenderableType]:
    title = Text.assemble(
        (f"{failure.count:,} x ", "bold red"), failure.operation, ": ", visible(failure.kind, encoding)
    )
    return [_Indented(2, title), _Indented(6, Text(visible(failure.example, encoding)))]


def _verdict(summaries: dict[str, OperationSummary], duration_s: float) -> Text:
    count = sum(summary.count for summary in summaries.values())
    errors = sum(summary.errors for summary in summaries.values())
    if errors:
        return Text(f"{errors:,} of {_counted(count, 'operation')} failed.", style="bold red")
    if not count:
        return Text(f"Nothing was done: no operation in {duration_s:,.1f} s.", style="bold yellow")
    return Text(f"All good: {_counted(count, 'operation')}, no errors in {duration_s:,.1f} s.", style="bold green")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


class _Step:
    """How far one step is."""

    __slots__ = ("done", "failed", "name", "started", "total")

    def __init__(self, name: str, total: int, started: float) -> None:
        self.name = name
        self.total = total
        self.started = started
        self.done = 0
        self.failed = 0

    @property
    def complete(self) -> bool:
        return self.done >= self.total

    def count(self, failed: bool) -> None:
        self.done += 1
        self.failed += failed


class QuietProgress(Silent):
    """The display that shows nothing."""

    def tick(self) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""


class PlainProgress:
    """Plain lines, for a log: the current step every PLAIN_LINE_SECONDS, and each step once at its end."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._steps: dict[str, _Step] = {}
        self._current: _Step | None = None
        self._printed = clock()

    def step(self, name: str, total: int) -> None:
        """A step starts; one before it that was cut short leaves its last line."""
        self._leave()
        self._printed = self._clock()
        self._current = self._steps[name] = _Step(name, total, self._printed)

    def advance(self, name: str, *, failed: bool = False) -> None:
        """Count; print the step's line where this completes it."""
        step = _announced(self._steps, name)
        was_complete = step.complete
        step.count(failed)
        if step.complete and not was_complete:
            self._show(step)

    def note(self, text: str) -> None:
        """Print ``text`` as one line."""
        _print_line(self._console, text)

    def tick(self) -> None:
        """Print the current step's line if it is time for one."""
        step = self._current
        if step is None or step.complete:
            return
        if self._clock() - self._printed >= PLAIN_LINE_SECONDS:
            self._show(step)

    def close(self) -> None:
        """Print the last line of a step that was cut short."""
        self._leave()

    def _leave(self) -> None:
        if self._current is not None and not self._current.complete:
            self._show(self._current)
        self._current = None

    def _show(self, step: _Step) -> None:
        self._printed = self._clock()
        seconds = self._printed - step.started
        _print_line(
            self._console,
            f"{step.name}: {step.done}/{step.total} done, {step.failed} failed ({seconds:.1f} s)",
        )


class LiveProgress:
    """A bar a step, redrawn in ``tick`` and nowhere else: no thread, and little work for each thing done."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._steps: dict[str, _Step] = {}
        self._tasks: dict[str, TaskID] = {}
        self._latest: TaskID | None = None
        self._open = False
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(BAR_COLUMNS, complete_style="cyan", finished_style="green"),
            MofNCompleteColumn(),
            _FailedColumn(),
            TimeElapsedColumn(),
            console=console,
            auto_refresh=False,
            get_time=clock,
            # What else is printed to the terminal goes above the bars; what the operator redirected stays so.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )

    def step(self, name: str, total: int) -> None:
        """A step starts: one more bar. The clock of the one before it stops."""
        if self._latest is not None:
            self._bars.stop_task(self._latest)
        self._steps[name] = _Step(name, total, self._clock())
        self._latest = self._tasks[name] = self._bars.add_task(
            visible(name, self._console.encoding), total=total, failed=0
        )
        if not self._open:
            self._bars.start()
            self._open = True

    def advance(self, name: str, *, failed: bool = False) -> None:
        """Count; the next ``tick`` shows it, but a step's clock stops at once when it is complete."""
        step = _announced(self._steps, name)
        step.count(failed)
        if step.complete:
            self._hand_over(step)

    def note(self, text: str) -> None:
        """Print ``text`` as one line above the bars."""
        _print_line(self._console, text)

    def tick(self) -> None:
        """Redraw the bars."""
        if self._open:
            for step in self._steps.values():
                self._hand_over(step)
            self._bars.refresh()

    def close(self) -> None:
        """Draw the bars a last time and show the cursor again."""
        if self._open:
            self.tick()
            self._bars.stop()
            self._open = False

    def _hand_over(self, step: _Step) -> None:
        self._bars.update(self._tasks[step.name], completed=step.done, failed=step.failed)


class _FailedColumn(ProgressColumn):
    """How many things of a step went wrong."""

    def render(self, task: Task) -> Text:
        failed = task.fields["failed"]
        return Text(f"{failed} failed", style="bold red" if failed else "dim")


def _announced(steps: dict[str, _Step], name: str) -> _Step:
    try:
        return steps[name]
    except KeyError:
        raise MisuseError(f"Expected a step that was announced; found {name!r}.") from None


def _print_line(console: Console, text: str) -> None:
    # soft_wrap: an address must stay whole for whoever copies it.
    console.print(Text(visible(text, console.encoding)), soft_wrap=True, highlight=False)
