"""The HTML page: the numbers and charts of documents in the templates.

Documents contain text of peers and operators. The template engine escapes every expression, and invisible characters
are made visible. The page's content security policy allows only its own script, by its hash, and no requests.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from agent.errors import MisuseError, OperatorError
from agent.files import write_file
from agent.measure.summaries import OperationSummary, StageSummary
from agent.report import numbers
from agent.report.changes import THRESHOLD, Judgement
from agent.report.compare import WORDS, compare, letter
from agent.report.document import Document
from agent.report.flattened import flattened
from agent.report.html import charts
from agent.report.html.charts import Band, Chart
from agent.report.html.drawing import drawn
from agent.report.html.environment import page_environment
from agent.report.html.series import Series, series
from agent.report.percentiles import PERCENTILES, enough
from agent.report.rules import rule_hits
from agent.report.terminal.text import visible
from agent.report.verdict import operations_done, operations_failed, verdict

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_RUNS = 8  # the number of colours for runs
MOST_ROWS = 200  # of a table; a note tells how many are left out

# The meaning of operations and stages for a reader who does not know this program.
OPERATION_WORDS = {
    "enroll": "from the request for the enrollment profile until the response to the last check-in message",
    "checkin": "one check-in message until the server's 200 response",
    "session": "from the push, or from an MDM client that polls by itself, until the server's empty response",
    "command": "from the Mac's receipt of a command until the server accepted its result",
    "lom_setup": "from the enqueuing of LOMSetupRequest until the server accepted its result",
    "lom_device": "from the enqueuing of LOMDeviceRequest until the server has the outcome for this LOM device",
    "lom_link": "from a LOM controller's connection attempt to an address of a LOM device until its response",
    "push": "from APNs' receipt of the server's push until the Mac's first byte to the server",
    "enqueue": "one request to the server's API that enqueues a command, until its response",
    "delivery": "from when a command was due to be enqueued until the server accepted its result",
    "return": "from when a Mac was due back from a reset or a power failure until its first complete session",
}
STAGE_WORDS = {
    "connect": "opening a TCP connection",
    "handshake": "a full TLS handshake",
    "handshake_resumed": "a TLS handshake that resumed an earlier session",
    "key": "a Mac's wait for its RSA key, which this program makes",
    "first_byte": "from a request's first byte to the response's first byte",
    "request": "from a request's first byte to the response's last byte",
}


def write_report(path: str | os.PathLike[str], documents: Sequence[Document], threshold: float = THRESHOLD) -> Path:
    """Write one HTML file: the report of one document, or the comparison of several. Return its path.

    ``threshold`` is the smallest change of a latency or a rate in a comparison, as a share. The same documents give the
    same bytes. Raises OperatorError if there are more than MOST_RUNS, or if the file cannot be written.
    """
    return write_file(Path(path), report_html(documents, threshold).encode(), make_folder=True)


def report_html(documents: Sequence[Document], threshold: float = THRESHOLD) -> str:
    """The page itself. Raises as ``write_report`` does, and MisuseError without documents."""
    if not documents:
        raise MisuseError("Expected at least one document, found none.")
    if len(documents) > MOST_RUNS:
        raise OperatorError(f"Expected at most {MOST_RUNS} runs to compare, found {len(documents)}.")
    return _report(documents[0]) if len(documents) == 1 else _comparison(documents, threshold)


def _report(document: Document) -> str:
    line = series(document.timeline)
    seconds = max(document.duration_s, float(line.seconds))
    names = list(dict.fromkeys([*document.operations, *line.operations]))
    colours = {name: charts.colour_of(name, names) for name in names}
    stage_colours = {name: f"op{index % charts.COLOURS}" for index, name in enumerate(document.stages)}
    parts = {
        "time": charts.over_time(line),
        "percentiles": charts.by_percentile("percentiles", "", document.operations, colours, tall=True),
        "stages": charts.by_percentile("stages", "", document.stages, stage_colours),
        "fleet": charts.fleet_over_time(line),
        "generator": charts.generator_over_time(line),
    }
    return _page(
        "report.html",
        parts,
        seconds,
        charts.bands(document, seconds),
        document=document,
        verdict=verdict(document),
        series=line,
        legend=[(name, name, colours[name]) for name in names],
        stage_legend=[(name, name, colour) for name, colour in stage_colours.items()],
        done=operations_done(document),
        failed=operations_failed(document),
        peak=_peak(line),
        title=document.name or "load test",
    )


def _comparison(documents: Sequence[Document], threshold: float) -> str:
    found = compare(documents, threshold)
    runs = [f"Run {letter(index)}" for index in range(len(documents))]
    lines = [series(document.timeline) for document in documents]
    parts = {"time": charts.runs_over_time(list(zip(runs, lines, strict=True))), "percentiles": [], "stages": []}
    for position, row in enumerate(found.rows):
        of_row = list(zip(runs, row.runs, strict=True))
        name = f"percentiles-{position}"
        parts["stages" if row.is_stage else "percentiles"] += charts.runs_by_percentile(name, row.name, of_row)
    seconds = max(float(line.seconds) for line in lines)
    return _page(
        "comparison.html",
        parts,
        seconds,
        [],
        documents=documents,
        comparison=found,
        verdicts=[verdict(document) for document in documents],
        runs=runs,
        lines=lines,
        legend=[(name, name, f"run{position}") for position, name in enumerate(runs)],
        errors=_errors_by_kind(documents),
        title=", ".join(dict.fromkeys(document.name or "load test" for document in documents)),
    )


def _page(
    template: str, parts: Mapping[str, list[Chart]], seconds: float, bands: Sequence[Band], **context: Any
) -> str:
    """Render ``template`` with the charts ``parts``, by their place on the page."""
    script = _file("charts.js") if any(parts.values()) else None
    return (
        _environment()
        .get_template(template)
        .render(
            charts={place: [drawn(chart, seconds, bands) for chart in found] for place, found in parts.items()},
            script=None if script is None else Markup(script),  # noqa: S704  # ours: no text of a document
            script_hash=None if script is None else _hash(script),
            style=Markup(_file("style.css")),  # noqa: S704
            seconds=seconds,
            **context,
        )
    )


@cache
def _environment() -> Environment:
    environment = page_environment(__package__, _shown)
    environment.filters.update(
        ms=numbers.milliseconds,
        seconds=numbers.seconds,
        figures=numbers.figures,
        count=numbers.count,
        clock=numbers.clock,
        mebibytes=numbers.mebibytes,
        lines=flattened,
        when=_when,
    )
    environment.globals.update(
        share=numbers.share,
        counted=numbers.counted,
        enough=enough,
        any_few=_any_few,
        rule_hits=rule_hits,
        letter=letter,
        percentiles=PERCENTILES,
        words=WORDS,
        operation_words=OPERATION_WORDS,
        stage_words=STAGE_WORDS,
        most_rows=MOST_ROWS,
        Judgement=Judgement,
    )
    return environment


def _shown(value: Any) -> Any:
    """The value of a template's expression for the page; the template engine escapes it afterwards."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _when(rfc3339: str) -> str:
    """2026-03-02T02:00:00.000Z as 2026-03-02 02:00:00 UTC; other text unchanged."""
    if len(rfc3339) >= 20 and rfc3339[10] == "T" and rfc3339.endswith("Z"):
        return f"{rfc3339[:10]} {rfc3339[11:19]} UTC"
    return rfc3339


def _any_few(rows: Iterable[OperationSummary | StageSummary]) -> bool:
    """Whether a percentile of them has too few latencies beyond it."""
    return any(
        getattr(each.latency_ms, name) is not None and not enough(each.timed, share)
        for each in rows
        for name, share in PERCENTILES
    )


def _peak(line: Series) -> float | None:
    """The most operations that ended in one second (or in one interval, per second)."""
    rates = [each.per_s for each in line.operations.values()]
    return max((sum(number or 0.0 for number in at) for at in zip(*rates, strict=True)), default=None)


def _errors_by_kind(documents: Sequence[Document]) -> list[tuple[str, str, list[int]]]:
    """Operation, kind, and the count in each run; the most frequent first."""
    counts: dict[tuple[str, str], list[int]] = {}
    for position, document in enumerate(documents):
        for error in document.errors:
            counts.setdefault((error.operation, error.kind), [0] * len(documents))[position] += error.count
    return [(*key, each) for key, each in sorted(counts.items(), key=lambda item: (-max(item[1]), item[0]))]


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _file(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")
