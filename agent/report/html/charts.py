"""The charts of the page: their lines, axes and words.

A line names its colour (``op3``, ``state0``); the page's style has a set each for light, dark and paper. The page's
legends hide and show the lines with a key. `agent.report.html.drawing` makes the picture. Times are seconds from the
start of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from agent.measure.records import OPERATIONS
from agent.measure.summaries import OperationSummary, StageSummary
from agent.measure.timeline import BUSY_SHARE, LAG_BOUND_MS
from agent.report.document import Document
from agent.report.html.axes import Unit
from agent.report.html.series import Points, Series
from agent.report.percentiles import Distribution

COLOURS = 12  # --op0 to --op11 of style.css
STATES = ("idle", "session", "booting", "off", "new", "left")


class Line(msgspec.Struct, frozen=True):
    """One line of a chart, or one area of a stacked chart."""

    name: str
    key: str
    """What a button of the legend hides and shows; empty if none does."""
    colour: str
    x: Sequence[float]
    y: Points
    """None where it is unknown: the line has a gap."""
    dotted: bool = False
    steps: bool = False
    """Whether each value holds until the next one."""


class Chart(msgspec.Struct, frozen=True):
    """One chart."""

    name: str
    title: str
    """For people."""
    caption: str
    """For people."""
    lines: Sequence[Line]
    unit: Unit = Unit.COUNT
    logarithmic: bool = False
    """The axis of the values."""
    stacked: bool = False
    """Whether the lines are areas, each on top of the one before it."""
    over_time: bool = True
    """Whether it shares the time axis: these charts are zoomed together. The others are by percentile."""
    own_legend: bool = False
    """Whether it needs a legend of its own, because the page's legend does not have its lines."""
    threshold: float | None = None
    """The value of a dashed line across it."""
    tall: bool = False

    @property
    def legend(self) -> list[tuple[str, str, str]]:
        """The name, key and colour of each line."""
        return [(line.name, line.key, line.colour) for line in self.lines]


class Band(msgspec.Struct, frozen=True):
    """A phase in the background of the charts over time."""

    name: str
    start: float
    end: float


def colour_of(operation: str, operations: Sequence[str]) -> str:
    """The colour of an operation: the same in every report for those of OPERATIONS."""
    if operation in OPERATIONS:
        return f"op{OPERATIONS.index(operation) % COLOURS}"
    others = [name for name in operations if name not in OPERATIONS]
    return f"op{(len(OPERATIONS) + others.index(operation)) % COLOURS}"


def over_time(series: Series) -> list[Chart]:
    """The operations over time: rates, latencies, errors; without empty charts."""
    if not series.length:
        return []
    found = [_rates(series), _latencies(series), _errors(series)]
    return [chart for chart in found if chart.lines]


def fleet_over_time(series: Series) -> list[Chart]:
    """The states of the Macs, their connections and waiting pushes over time."""
    found = [_macs(series), _open(series)]
    return [chart for chart in found if chart.lines]


def generator_over_time(series: Series) -> list[Chart]:
    """The lag and the CPU of the load generator over time."""
    found = [_lag(series), _cpu(series)]
    return [chart for chart in found if chart.lines]


def by_percentile(
    name: str,
    title: str,
    of: Mapping[str, OperationSummary] | Mapping[str, StageSummary],
    colours: Mapping[str, str],
    *,
    tall: bool = False,
) -> list[Chart]:
    """Latency by percentile of several operations or stages: one chart, or none without latencies."""
    lines = [line for key, each in of.items() if (line := _curve(each, key, colours[key])) is not None]
    return _percentile_charts(name, title, lines, tall=tall)


def runs_by_percentile(
    name: str, title: str, runs: Sequence[tuple[str, OperationSummary | StageSummary | None]]
) -> list[Chart]:
    """Latency by percentile of one operation or stage in several runs."""
    lines = [
        line
        for position, (key, each) in enumerate(runs)
        if each is not None and (line := _curve(each, key, f"run{position}")) is not None
    ]
    return _percentile_charts(name, title, lines)


def runs_over_time(runs: Sequence[tuple[str, Series]]) -> list[Chart]:
    """Operations per second, all kinds together, in several runs."""
    lines = []
    for position, (key, series) in enumerate(runs):
        rates = [each.per_s for each in series.operations.values()]
        if rates:
            totals = [None if None in at else sum(number or 0 for number in at) for at in zip(*rates, strict=True)]
            lines.append(_line(series, totals, key, f"run{position}", key=key))
    caption = "Operations that ended per second, all kinds together, from the start of each run."
    return [Chart("runs-rates", "Operations per second", caption, lines, Unit.RATE)] if lines else []


def bands(document: Document, seconds: float) -> list[Band]:
    """The phases on the time axis; one that did not end extends to its end."""
    return [
        Band(phase.name, phase.started_s, min(seconds, seconds if phase.ended_s is None else phase.ended_s))
        for phase in document.phases
        if phase.started_s is not None and phase.started_s < seconds
    ]


def _rates(series: Series) -> Chart:
    lines = [
        _line(series, _without_idle(each.per_s), name, colour_of(name, list(series.operations)), key=name)
        for name, each in series.operations.items()
        if any(each.per_s)
    ]
    caption = "Operations that ended per second, including failed ones."
    return Chart("rates", "Operations per second", caption, lines, Unit.RATE)


def _latencies(series: Series) -> Chart:
    lines = []
    for name, each in series.operations.items():
        colour = colour_of(name, list(series.operations))
        for words, points in (("p99", each.p99), ("p50", each.p50)):
            if any(point is not None for point in points):
                lines.append(_line(series, points, f"{name} {words}", colour, key=name, dotted=words == "p50"))
    caption = "Of operations that succeeded or timed out, from when they were due. Solid: p99; dotted: p50."
    return Chart("latencies", "Latency", caption, lines, Unit.SECONDS, logarithmic=True)


def _errors(series: Series) -> Chart:
    lines = [
        _line(series, each.errors_per_s, name, colour_of(name, list(series.operations)), key=name)
        for name, each in series.operations.items()
        if any(each.errors_per_s)
    ]
    return Chart("errors", "Errors per second", "Operations that failed per second.", lines, Unit.RATE, stacked=True)


def _macs(series: Series) -> Chart:
    known = [state for state in STATES if state in series.macs]
    states = known + [state for state in series.macs if state not in STATES]
    lines = []
    for position, state in enumerate(states):
        if any(series.macs[state]):
            colour = f"state{STATES.index(state) if state in STATES else len(STATES) + position % 2}"
            lines.append(_line(series, series.macs[state], state, colour, key=f"macs {state}"))
    caption = "New: not yet enrolled. Left: no longer managed."
    return Chart("macs", "States of the Macs", caption, lines, stacked=True, own_legend=True)


def _open(series: Series) -> Chart:
    found = (("open connections", series.connections, "op0"), ("waiting pushes", series.pushes_waiting, "op2"))
    lines = [_line(series, points, name, colour, key=f"open {name}") for name, points, colour in found if any(points)]
    caption = "Connections of the Macs to the server, and pushes that wait for their Mac."
    return Chart("open", "Connections and pushes", caption, lines, own_legend=True)


def _lag(series: Series) -> Chart:
    caption = f"The largest event loop lag of a worker. Dashed: {LAG_BOUND_MS:.0f} ms, the most that is reliable."
    lines = _one(series, series.lag, "lag", "op0")
    return Chart("lag", "Event loop lag", caption, lines, Unit.SECONDS, threshold=LAG_BOUND_MS / 1000)


def _cpu(series: Series) -> Chart:
    caption = f"The share of a core that the busiest worker used. Dashed: {BUSY_SHARE:.0%}, the most that is reliable."
    lines = _one(series, series.cpu, "CPU", "op2")
    return Chart("cpu", "CPU", caption, lines, Unit.SHARE, threshold=BUSY_SHARE)


def _one(series: Series, points: Points, name: str, colour: str) -> list[Line]:
    return [] if all(point is None for point in points) else [_line(series, points, name, colour, key="")]


def _line(series: Series, points: Points, name: str, colour: str, *, key: str, dotted: bool = False) -> Line:
    return Line(name, key, colour, range(0, series.width * len(points), series.width), points, dotted=dotted)


def _curve(of: OperationSummary | StageSummary, key: str, colour: str) -> Line | None:
    """The curve of the histogram; None without latencies, whatever the counts beside it are."""
    points = Distribution(of.histogram).curve()
    if not points:
        return None
    return Line(key, key, colour, [point.x for point in points], [point.seconds for point in points], steps=True)


def _percentile_charts(name: str, title: str, lines: Sequence[Line], *, tall: bool = False) -> list[Chart]:
    if not lines:
        return []
    caption = "The share of latencies below the line. A line ends at the longest latency."
    return [Chart(name, title, caption, lines, Unit.SECONDS, logarithmic=True, over_time=False, tall=tall)]


def _without_idle(points: Points) -> Points:
    """Without the line along the bottom while an operation does not occur."""
    around = [0.0, *points, 0.0]
    return [
        None if not before and not point and not after else point
        for before, point, after in zip(around, points, around[2:], strict=False)
    ]
