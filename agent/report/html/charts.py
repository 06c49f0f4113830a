"""The charts of the page as data for plotly.js.

A chart names its colours (``op3``, ``state0``); ``charts.js`` looks them up in the page's style, which has a set each
for light, dark and paper. The page's legend shows and hides traces that have a ``key``. Every text is escaped here,
because plotly.js interprets some HTML in texts. Times are milliseconds from the start of the run.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.measure.records import OPERATIONS
from agent.measure.summaries import OperationSummary, StageSummary
from agent.measure.timeline import BUSY_SHARE, LAG_BOUND_MS
from agent.report.document import Document
from agent.report.html.series import Points, Series
from agent.report.percentiles import Distribution
from agent.report.terminal.text import visible

COLOURS = 12  # --op0 to --op11 of style.css
STATES = ("idle", "session", "booting", "off", "new", "left")

Trace = dict[str, Any]

_SECONDS = {"tickformat": "~s", "ticksuffix": "s"}
_LOG_SECONDS = {"type": "log", **_SECONDS}
_HOVER_SECONDS = "%{y:.3s}s"
_HOVER_RATE = "%{y:,.3~r}/s"
_SHARES = (("0 %", 1), ("50 %", 2), ("90 %", 10), ("99 %", 100), ("99.9 %", 1e3), ("99.99 %", 1e4), ("99.999 %", 1e5))


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart."""

    name: str
    title: str
    """For people."""
    caption: str
    """For people."""
    traces: Sequence[Trace]
    layout: Mapping[str, Any] = field(default_factory=dict)
    over_time: bool = True
    """Whether it shares the time axis: these charts are zoomed together."""
    own_legend: bool = False
    """Whether it needs a legend of its own, because the page's legend does not have its traces."""
    threshold: float | None = None
    """The value of a dashed line across it."""

    def plain(self) -> dict[str, Any]:
        """The chart as charts.js reads it."""
        return {
            "traces": list(self.traces),
            "layout": dict(self.layout),
            "overTime": self.over_time,
            "ownLegend": self.own_legend,
            "threshold": self.threshold,
        }


def colour_of(operation: str, operations: Sequence[str]) -> str:
    """The colour of an operation: the same in every report for those of OPERATIONS."""
    if operation in OPERATIONS:
        return f"op{OPERATIONS.index(operation) % COLOURS}"
    others = [name for name in operations if name not in OPERATIONS]
    return f"op{(len(OPERATIONS) + others.index(operation)) % COLOURS}"


def text(words: str) -> str:
    """``words`` escaped for plotly.js."""
    return html.escape(visible(words), quote=False)


def over_time(series: Series) -> list[Chart]:
    """The operations over time: rates, latencies, errors; without empty charts."""
    if not series.length:
        return []
    found = [_rates(series), _latencies(series), _errors(series)]
    return [chart for chart in found if chart.traces]


def fleet_over_time(series: Series) -> list[Chart]:
    """The states of the Macs, their connections and waiting pushes over time."""
    found = [_macs(series), _open(series)]
    return [chart for chart in found if chart.traces]


def generator_over_time(series: Series) -> list[Chart]:
    """The lag and the CPU of the load generator over time."""
    found = [_lag(series), _cpu(series)]
    return [chart for chart in found if chart.traces]


def by_percentile(
    name: str, title: str, of: Mapping[str, OperationSummary] | Mapping[str, StageSummary], colours: Mapping[str, str]
) -> list[Chart]:
    """Latency by percentile of several operations or stages: one chart, or none without latencies."""
    traces = [
        curve | {"name": text(key), "key": key, "colour": colours[key]}
        for key, each in of.items()
        if (curve := _curve(each)) is not None
    ]
    return _percentile_charts(name, title, traces)


def runs_by_percentile(
    name: str, title: str, runs: Sequence[tuple[str, OperationSummary | StageSummary | None]]
) -> list[Chart]:
    """Latency by percentile of one operation or stage in several runs."""
    traces = [
        curve | {"name": text(key), "key": key, "colour": f"run{position}"}
        for position, (key, each) in enumerate(runs)
        if each is not None and (curve := _curve(each)) is not None
    ]
    return _percentile_charts(name, title, traces)


def runs_over_time(runs: Sequence[tuple[str, Series]]) -> list[Chart]:
    """Operations per second, all kinds together, in several runs."""
    traces = []
    for position, (key, series) in enumerate(runs):
        rates = [each.per_s for each in series.operations.values()]
        if rates:
            totals = [None if None in at else sum(number or 0 for number in at) for at in zip(*rates, strict=True)]
            traces.append(_line(series, totals, key, f"run{position}", key=key, hover=_HOVER_RATE))
    caption = "Operations that ended per second, all kinds together, from the start of each run."
    layout = {"yaxis": {"tickformat": "~s"}}
    return [Chart("runs-rates", "Operations per second", caption, traces, layout)] if traces else []


def bands(document: Document, seconds: float) -> list[dict[str, Any]]:
    """The phases on the time axis; one that did not end extends to its end."""
    return [
        {
            "name": text(phase.name),
            "from": 1000 * phase.started_s,
            "to": 1000 * min(seconds, seconds if phase.ended_s is None else phase.ended_s),
        }
        for phase in document.phases
        if phase.started_s is not None and phase.started_s < seconds
    ]


def _rates(series: Series) -> Chart:
    traces = [
        _line(
            series,
            _without_idle(each.per_s),
            name,
            colour_of(name, list(series.operations)),
            key=name,
            hover=_HOVER_RATE,
        )
        for name, each in series.operations.items()
        if any(each.per_s)
    ]
    layout = {"yaxis": {"tickformat": "~s"}}
    caption = "Operations that ended per second, including failed ones."
    return Chart("rates", "Operations per second", caption, traces, layout)


def _latencies(series: Series) -> Chart:
    traces = []
    for name, each in series.operations.items():
        colour = colour_of(name, list(series.operations))
        for words, points, dash in (("p99", each.p99, "solid"), ("p50", each.p50, "dot")):
            if any(point is not None for point in points):
                line = _line(series, points, f"{name} {words}", colour, key=name, hover=_HOVER_SECONDS)
                line["line"] = {"width": 1.6 if dash == "solid" else 1.2, "dash": dash}
                traces.append(line)
    caption = "Of operations that succeeded or timed out, from when they were due. Solid: p99; dotted: p50."
    return Chart("latencies", "Latency", caption, traces, {"yaxis": _LOG_SECONDS})


def _errors(series: Series) -> Chart:
    width = 1000 * series.width
    traces = [
        {
            "type": "bar", "x0": 0, "dx": width, "width": width, "offset": 0, "y": _short(each.errors_per_s),
            "name": text(name), "key": name, "colour": colour_of(name, list(series.operations)),
            "hovertemplate": _HOVER_RATE,
        }
        for name, each in series.operations.items()
        if any(each.errors_per_s)
    ]  # fmt: skip
    layout = {"barmode": "stack", "bargap": 0, "yaxis": {"tickformat": "~s"}}
    return Chart("errors", "Errors per second", "Operations that failed per second.", traces, layout)


def _macs(series: Series) -> Chart:
    known = [state for state in STATES if state in series.macs]
    states = known + [state for state in series.macs if state not in STATES]
    traces = []
    for position, state in enumerate(states):
        if any(series.macs[state]):
            colour = f"state{STATES.index(state) if state in STATES else len(STATES) + position % 2}"
            line = _line(series, series.macs[state], state, colour, hover="%{y:,.4~r}")
            traces.append(line | {"stackgroup": "macs", "line": {"width": 0.5, "shape": "hv"}, "filled": True})
    caption = "New: not yet enrolled. Left: no longer managed."
    layout = {"yaxis": {"tickformat": "~s"}}
    return Chart("macs", "States of the Macs", caption, traces, layout, own_legend=True)


def _open(series: Series) -> Chart:
    found = (("open connections", series.connections, "op0"), ("waiting pushes", series.pushes_waiting, "op2"))
    traces = [_line(series, points, name, colour, hover="%{y:,.4~r}") for name, points, colour in found if any(points)]
    layout = {"yaxis": {"tickformat": "~s"}}
    caption = "Connections of the Macs to the server, and pushes that wait for their Mac."
    return Chart("open", "Connections and pushes", caption, traces, layout, own_legend=True)


def _lag(series: Series) -> Chart:
    layout = {"yaxis": _SECONDS}
    caption = f"The largest event loop lag of a worker. Dashed: {LAG_BOUND_MS:.0f} ms, the most that is reliable."
    traces = _one(series, series.lag, "lag", "op0", _HOVER_SECONDS)
    return Chart("lag", "Event loop lag", caption, traces, layout, threshold=LAG_BOUND_MS / 1000)


def _cpu(series: Series) -> Chart:
    layout = {"yaxis": {"tickformat": ".0%"}}
    caption = f"The share of a core that the busiest worker used. Dashed: {BUSY_SHARE:.0%}, the most that is reliable."
    traces = _one(series, series.cpu, "CPU", "op2", "%{y:.0%}")
    return Chart("cpu", "CPU", caption, traces, layout, threshold=BUSY_SHARE)


def _one(series: Series, points: Points, name: str, colour: str, hover: str) -> list[Trace]:
    if all(point is None for point in points):
        return []
    return [_line(series, points, name, colour, hover=hover)]


def _line(series: Series, points: Points, name: str, colour: str, *, hover: str, key: str | None = None) -> Trace:
    trace: Trace = {
        "type": "scatter", "mode": "lines", "x0": 0, "dx": 1000 * series.width, "y": _short(points),
        "name": text(name), "colour": colour, "line": {"width": 1.6}, "hovertemplate": hover,
    }  # fmt: skip
    return trace if key is None else trace | {"key": key}


def _curve(of: OperationSummary | StageSummary) -> Trace | None:
    """The curve of the histogram; None without latencies, whatever the counts beside it are."""
    points = Distribution(of.histogram).curve()
    if not points:
        return None
    return {
        "type": "scatter", "mode": "lines", "line": {"width": 1.8, "shape": "hv"}, "hovertemplate": _HOVER_SECONDS,
        "x": _short([point.x for point in points]), "y": _short([point.seconds for point in points]),
    }  # fmt: skip


def _percentile_charts(name: str, title: str, traces: Sequence[Trace]) -> list[Chart]:
    if not traces:
        return []
    longest = max(trace["x"][-1] for trace in traces)
    ticks = [each for each in _SHARES if each[1] <= max(longest, 100)]
    layout = {
        "xaxis": {
            "type": "log", "tickvals": [x for _, x in ticks], "ticktext": [words for words, _ in ticks],
            "hoverformat": ",.3~r", "unifiedhovertitle": {"text": "1 in %{x:,.3~r} is slower"},
        },
        "yaxis": _LOG_SECONDS,
    }  # fmt: skip
    caption = "The share of latencies below the line. A line ends at the longest latency."
    return [Chart(name, title, caption, traces, layout, over_time=False)]


def _without_idle(points: Points) -> Points:
    """Without the line along the bottom while an operation does not occur."""
    around = [0.0, *points, 0.0]
    return [
        None if not before and not point and not after else point
        for before, point, after in zip(around, points, around[2:], strict=False)
    ]


def _short(points: Points) -> Points:
    """Rounded to four digits, more than a screen shows, to keep the page small."""
    return [None if point is None else float(f"{point:.4g}") for point in points]
