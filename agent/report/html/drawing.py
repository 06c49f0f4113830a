"""A chart as a picture that a browser stretches to the room there is.

The lines are paths of an SVG in the units of the data: x in seconds, or the logarithm of 1 in x; y is the value or its
logarithm. Ticks and phases are texts of the page, placed by percentages, which keep their size. So the page shows its
charts without a script, and `templates/charts.js` zooms by changing the view box only, and reads the values from the
paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import msgspec

from agent.report.html import axes
from agent.report.html.axes import Axis
from agent.report.html.charts import Band, Chart, Line
from agent.report.html.series import Points

HEIGHT = 210  # pixels of the area of a chart in style.css
HEIGHT_OF_TALL = 340


class Path(msgspec.Struct, frozen=True):
    """A line as a path."""

    line: Line
    d: str
    values: str = ""
    """Those of an area, which do not follow from its path: separated by commas, nothing where they are unknown."""
    width: float = 0
    """The seconds of each of them."""


class Drawing(msgspec.Struct, frozen=True):
    """A chart that is drawn."""

    chart: Chart
    across: Axis
    up: Axis
    paths: Sequence[Path]
    """In the order in which they are painted."""
    bands: Sequence[Band]
    height: int

    @property
    def box(self) -> str:
        """The view box of the SVG, in which y grows downwards."""
        return " ".join(
            _number(each)
            for each in (
                self.across.first,
                -self.up.last,
                self.across.last - self.across.first,
                self.up.last - self.up.first,
            )
        )

    @property
    def threshold(self) -> str:
        """The dashed line across."""
        if self.chart.threshold is None:
            return ""
        return f"M{_number(self.across.first)} {_number(self.chart.threshold)}H{_number(self.across.last)}"


def drawn(chart: Chart, seconds: float, bands: Sequence[Band]) -> Drawing:
    """Draw a chart of a run of so many seconds."""
    height = HEIGHT_OF_TALL if chart.tall else HEIGHT
    bands = bands if chart.over_time else ()
    headroom = axes.HEADROOM_OF_BANDS if bands else axes.HEADROOM
    across = axes.times(seconds) if chart.over_time else axes.percentiles(max(line.x[-1] for line in chart.lines))
    tops = _stacked(chart.lines) if chart.stacked else [line.y for line in chart.lines]
    least, most = _extent(tops, chart.threshold)
    if chart.logarithmic:
        up = axes.decades(least, most, height, headroom)
    else:
        up = axes.linear(most, chart.unit, height, headroom)
    if chart.stacked:
        areas = [_area(line, top) for line, top in zip(chart.lines, tops, strict=True)]
        paths = areas[::-1]  # an area is painted over the one that is above it
    else:
        paths = [Path(line, _path(chart, line)) for line in chart.lines]
    return Drawing(chart, across, up, paths, bands, height)


def _stacked(lines: Sequence[Line]) -> list[Points]:
    """The upper edge of each area."""

    def with_next(below: Points, line: Points) -> Points:
        return [None if one is None or other is None else one + other for one, other in zip(below, line, strict=True)]

    return list(accumulate((list(line.y) for line in lines), with_next))


def _extent(lines: Sequence[Points], threshold: float | None) -> tuple[float, float]:
    """The least and the most of the values above zero."""
    values = [value for line in lines for value in line if value is not None and value > 0]
    if threshold is not None:
        values.append(threshold)
    return (min(values), max(values)) if values else (1.0, 1.0)


def _path(chart: Chart, line: Line) -> str:
    across: Callable[[float], str] = _number if chart.over_time else _place
    up: Callable[[float], str] = _place if chart.logarithmic else _number
    return "".join(
        _piece([(across(x), up(y)) for x, y in piece], steps=line.steps) for piece in _pieces(line.x, line.y)
    )


def _piece(points: Sequence[tuple[str, str]], *, steps: bool) -> str:
    (x, y), *others = points
    if not others:
        return f"M{x} {y}h0"  # a dot
    if steps:
        return f"M{x} {y}" + "".join(f"H{x}V{y}" for x, y in others)
    return f"M{x} {y}L" + " ".join(f"{x} {y}" for x, y in others)


def _area(line: Line, top: Points) -> Path:
    """The area from zero to its upper edge, in steps as wide as the distance of two points."""
    width = line.x[1] - line.x[0] if len(line.x) > 1 else 1
    d = "".join(
        f"M{_number(piece[0][0])} 0" + "".join(f"V{_number(y)}H{_number(x + width)}" for x, y in piece) + "V0Z"
        for piece in _pieces(line.x, top)
    )
    return Path(line, d, ",".join("" if value is None else _number(value) for value in line.y), width)


def _pieces(xs: Sequence[float], ys: Points) -> Iterator[list[tuple[float, float]]]:
    """The points without the gaps."""
    piece: list[tuple[float, float]] = []
    for x, y in zip(xs, ys, strict=True):
        if y is not None:
            piece.append((x, y))
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def _place(value: float) -> str:
    """A value of a logarithmic axis: to 0.01 %."""
    return f"{axes.logarithm(value):.4f}"


def _number(value: float) -> str:
    """Four significant digits, more than a screen shows, to keep the page small; a whole number has them all."""
    if float(value).is_integer():
        return str(int(value))
    rounded = float(f"{value:.4g}")
    return str(int(rounded)) if rounded.is_integer() else repr(rounded)
