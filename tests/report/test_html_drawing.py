"""How a chart becomes paths and ticks."""

from __future__ import annotations

import re
from typing import Any

import documents
import pytest

from agent.report.html import axes, charts
from agent.report.html.axes import Axis, Unit
from agent.report.html.charts import Band, Chart, Line
from agent.report.html.drawing import Drawing, drawn
from agent.report.html.series import series


def chart(*lines: Line, **of: Any) -> Chart:
    return Chart("c", "", "", lines, **of)


def line(*y: float | None, **of: Any) -> Line:
    return Line("l", "l", "op0", range(len(y)), list(y), **of)


def words(axis: Axis) -> list[str]:
    return [tick.words for tick in axis.ticks]


@pytest.mark.parametrize(
    ("y", "d"),
    [
        ([1.0, 2.5, 3.0], "M0 1L1 2.5 2 3"),
        ([1.0, None, 3.0, 4.0], "M0 1h0M2 3L3 4"),  # a gap; a single point is a dot
        ([None, None], ""),
        ([123456.7, 0.00012345, 1e-9], "M0 123500L1 0.0001234 2 1e-09"),
        ([123456, 7], "M0 123456L1 7"),  # a whole number keeps its digits
    ],
)
def test_line_is_a_path_of_its_values(y: list[float | None], d: str) -> None:
    assert drawn(chart(line(*y)), 10, []).paths[0].d == d


def test_steps_and_logarithms() -> None:
    steps = Line("l", "l", "op0", [1, 10, 100], [0.001, 0.01, 1.0], steps=True)
    found = drawn(chart(steps, unit=Unit.SECONDS, logarithmic=True, over_time=False), 10, [])
    assert found.paths[0].d == "M0.0000 -3.0000H1.0000V-2.0000H2.0000V0.0000"
    assert words(found.across) == ["0 %", "50 %", "90 %", "99 %"]
    assert {"1 ms", "10 ms", "100 ms", "1 s"} <= set(words(found.up))


def test_areas_are_stacked_and_painted_from_the_uppermost_on() -> None:
    found = drawn(chart(line(1, 2), line(10, None), stacked=True), 2, [])
    assert [(path.d, path.values) for path in found.paths] == [
        ("M0 0V11H1V0Z", "10,"),
        ("M0 0V1H1V2H2V0Z", "1,2"),
    ]
    assert found.up.last >= 11


def test_latency_of_zero_can_be_drawn_on_a_logarithmic_axis() -> None:
    found = drawn(chart(line(0.0, 0.0), unit=Unit.SECONDS, logarithmic=True), 2, [])
    assert "inf" not in found.box + found.paths[0].d


@pytest.mark.parametrize(
    ("seconds", "found"),
    [
        (0, ["0:00", "0:01"]),
        (10, ["0:00", "0:02", "0:04", "0:06", "0:08", "0:10"]),
        (599.7, ["0:00", "2:00", "4:00", "6:00", "8:00"]),
        (4 * 3600, ["0:00", "30:00", "1:00:00", "1:30:00", "2:00:00", "2:30:00", "3:00:00", "3:30:00", "4:00:00"]),
        (90 * 86400, [f"{hours}:00:00" if hours else "0:00" for hours in range(0, 90 * 24, 12 * 24)]),
    ],
)
def test_ticks_of_time(seconds: float, found: list[str]) -> None:
    assert words(axes.times(seconds)) == found


@pytest.mark.parametrize(
    ("most", "unit", "found"),
    [
        (107.0, Unit.RATE, ["0", "20", "40", "60", "80", "100"]),
        (1200.0, Unit.COUNT, ["0", "200", "400", "600", "800", "1 k", "1.2 k"]),
        (0.15, Unit.SECONDS, ["0", "50 ms", "100 ms", "150 ms"]),
        (0.97, Unit.SHARE, ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]),
        (0.0, Unit.COUNT, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (3e6, Unit.COUNT, ["0", "500 k", "1 M", "1.5 M", "2 M", "2.5 M", "3 M"]),
    ],
)
def test_ticks_of_values(most: float, unit: Unit, found: list[str]) -> None:
    assert words(axes.linear(most, unit, 210, axes.HEADROOM_OF_BANDS)) == found


def test_headroom_of_phases_has_no_ticks() -> None:
    for most in (1.0, 11.0, 99.0, 107.0):
        axis = axes.linear(most, Unit.RATE, 210, axes.HEADROOM_OF_BANDS)
        assert axis.percent(axis.ticks[-1].place) < 100 * 1.05 / 1.14
        latencies = axes.decades(most / 1000, most, 210, axes.HEADROOM_OF_BANDS)
        assert latencies.percent(latencies.ticks[-1].place) < 100 / 1.13


def test_every_value_is_inside_of_its_chart() -> None:
    document = documents.typed(documents.failed())
    times = series(document.timeline)
    all_charts = [*charts.over_time(times), *charts.fleet_over_time(times), *charts.generator_over_time(times)]
    all_charts += charts.by_percentile("p", "", document.operations, dict.fromkeys(document.operations, "op0"))
    assert len(all_charts) == 8
    for each in all_charts:
        assert_inside(drawn(each, 600, [Band("all", 0, 600)]))


def assert_inside(drawing: Drawing) -> None:
    left, top, width, height = map(float, drawing.box.split())
    for path in drawing.paths:
        assert path.d
        for x, y in re.findall(r"[ML ](-?[\d.]+) (-?[\d.]+)", path.d):
            assert left <= float(x) <= left + width
            assert top * 1.001 - 0.001 <= -float(y) <= top + height + 0.001
