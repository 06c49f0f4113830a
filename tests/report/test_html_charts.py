"""What the charts are made of."""

from __future__ import annotations

from typing import Any

import documents
import pytest

from agent.measure.records import OPERATIONS
from agent.report.document import Document
from agent.report.html import charts
from agent.report.html.charts import Chart
from agent.report.html.series import series


def read(document: dict[str, Any]) -> Document:
    return documents.typed(document)


def named(found: list[Chart]) -> dict[str, Chart]:
    return {chart.name: chart for chart in found}


def test_every_operation_has_a_rate_and_two_latencies() -> None:
    found = named(charts.over_time(series(read(documents.good()).timeline)))
    assert set(found) == {"rates", "latencies"}  # no errors: no chart of errors
    assert {line.key for line in found["rates"].lines} == set(documents.STEADY)
    latencies = [line.name for line in found["latencies"].lines]
    assert latencies == [f"{name} {words}" for name in documents.good()["timeline"][0]["operations"]
                         for words in ("p99", "p50")] + latencies[6:]  # fmt: skip
    assert len(latencies) == 2 * len(documents.STEADY)


def test_errors_are_drawn_only_for_operations_with_errors() -> None:
    found = named(charts.over_time(series(read(documents.failed()).timeline)))
    assert [line.key for line in found["errors"].lines] == ["session", "lom_link"]


def test_line_of_an_operation_has_gaps() -> None:
    found = named(charts.over_time(series(read(documents.good()).timeline)))
    (enroll,) = [line for line in found["rates"].lines if line.key == "enroll"]
    assert None not in enroll.y[:120]
    assert enroll.y[120] == 0  # the line comes down
    assert enroll.y[121:] == [None] * 479


def test_unused_states_are_omitted_and_unknown_ones_drawn() -> None:
    document = documents.good()
    document["timeline"][7]["macs"]["asleep"] = 3
    macs = named(charts.fleet_over_time(series(read(document).timeline)))["macs"]
    assert [line.name for line in macs.lines] == ["idle", "session", "booting", "off", "new", "asleep"]


def test_run_without_a_time_line_has_no_time_charts() -> None:
    line = series([])
    assert charts.over_time(line) == charts.fleet_over_time(line) == charts.generator_over_time(line) == []


def test_percentile_curves_end_at_the_last_latency() -> None:
    document = read(documents.good())
    (chart,) = charts.by_percentile("p", "", document.operations, dict.fromkeys(document.operations, "op0"))
    ends = {line.key: line.x[-1] for line in chart.lines}
    assert ends == {name: pytest.approx(each.timed, rel=0.001) for name, each in document.operations.items()}


def test_operation_without_latencies_has_no_curve() -> None:
    none = read(documents.smallest() | {"operations": {"push": documents.nothing_succeeded(3)}}).operations
    assert charts.by_percentile("p", "", none, {"push": "op0"}) == []
    assert charts.runs_by_percentile("p", "", [("A", None), ("B", none["push"])]) == []


def test_unfinished_phase_extends_to_the_end_and_unstarted_is_omitted() -> None:
    phases = documents.good()["phases"][:3]
    phases[1]["ended_s"] = None
    phases[2]["started_s"] = None
    found = charts.bands(read(documents.good() | {"phases": phases}), 600.0)
    assert [(band.start, band.end) for band in found] == [(0, 120), (120, 600)]


def test_an_operation_has_the_same_colour_in_every_report() -> None:
    colours = {charts.colour_of(name, OPERATIONS) for name in OPERATIONS}
    assert len(colours) == len(OPERATIONS)
    assert charts.colour_of("session", ["session"]) == charts.colour_of("session", ["new", "session"])
    assert charts.colour_of("other", ["session", "other"]) not in colours
