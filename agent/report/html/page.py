"""The page: a document's numbers and charts, put into the templates.

What a peer or an operator wrote is in the documents. It goes out as text only: every expression of a template is
escaped, with whatever could act on its surroundings made visible; and the page's content security policy lets no script
run but the two that stand in it, by their hashes, and nothing be fetched from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from agent.errors import MisuseError, OperatorError
from agent.files import write_file
from agent.report import numbers
from agent.report.compare import THRESHOLD, WORDS, Judgement, compare, letter
from agent.report.document import Document, Operation, Stage, read_document
from agent.report.flattened import flattened
from agent.report.html import charts
from agent.report.html.charts import Chart
from agent.report.html.series import Series, series
from agent.report.html.words import OPERATION_WORDS, STAGE_WORDS
from agent.report.percentiles import PERCENTILES, enough
from agent.report.terminal.text import visible
from agent.report.verdict import operations_done, operations_failed, verdict

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_RUNS = 8  # as many as there are colours for runs
MOST_ROWS = 200  # of a table whose length somebody else decides; what is left out is said


def write_report(
    path: str | os.PathLike[str], documents: Sequence[Mapping[str, Any]], threshold: float = THRESHOLD
) -> Path:
    """Write one HTML file: of one results document its report, of several their comparison. Return its path.

    ``threshold`` is the least change of a latency or a rate in a comparison, as a share.

    The same documents make the same bytes. Raises OperatorError where a document is of another schema, where there are
    more than MOST_RUNS, or where the file cannot be written.
    """
    return write_file(Path(path), report_html(documents, threshold).encode(), make_folder=True)


def report_html(documents: Sequence[Mapping[str, Any]], threshold: float = THRESHOLD) -> str:
    """The page itself. Raises as ``write_report`` does."""
    if not documents:
        raise MisuseError("Expected a results document or more; found none.")
    if len(documents) > MOST_RUNS:
        raise OperatorError(f"at most {MOST_RUNS} runs can be compared, but there are {len(documents)}")
    read = [read_document(document) for document in documents]
    return _report(read[0]) if len(read) == 1 else _comparison(read, threshold)


def _report(document: Document) -> str:
    line = series(document.timeline)
    seconds = max(document.duration_s, float(line.seconds))
    names = list(dict.fromkeys([*document.operations, *line.operations]))
    colours = {name: charts.colour_of(name, names) for name in names}
    stage_colours = {name: f"op{index % charts.COLOURS}" for index, name in enumerate(document.stages)}
    parts = {
        "time": charts.over_time(line),
        "percentiles": charts.by_percentile("percentiles", "", document.operations, colours),
        "stages": charts.by_percentile("stages", "", document.stages, stage_colours),
        "fleet": charts.fleet_over_time(line),
        "generator": charts.generator_over_time(line),
    }
    return _page(
        "report.html",
        parts,
        {"bands": charts.bands(document, seconds), "seconds": seconds},
        document=document,
        verdict=verdict(document),
        series=line,
        seconds=seconds,
        legend=[(name, colours[name]) for name in names],
        stage_legend=list(stage_colours.items()),
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
        {"bands": [], "seconds": seconds},
        documents=documents,
        comparison=found,
        verdicts=[verdict(document) for document in documents],
        runs=runs,
        lines=lines,
        legend=[(name, f"run{position}") for position, name in enumerate(runs)],
        errors=_errors_by_kind(documents),
        title=", ".join(dict.fromkeys(document.name or "load test" for document in documents)),
    )


def _page(template: str, parts: Mapping[str, list[Chart]], axis: Mapping[str, Any], **context: Any) -> str:
    """Render ``template``; its charts are ``parts``, by the place where they stand."""
    all_charts = {chart.name: chart.plain() for place in parts.values() for chart in place}
    scripts = [_plotly(), _file("charts.js")] if all_charts else []
    return (
        _environment()
        .get_template(template)
        .render(
            charts=parts,
            chart_data=_json({"charts": all_charts, **axis}),
            scripts=[Markup(script) for script in scripts],  # noqa: S704  # our own and plotly's: no text from outside
            script_hashes=[_hash(script) for script in scripts],
            style=Markup(_file("style.css")),  # noqa: S704
            **context,
        )
    )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # only when a page is written

    environment = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
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
    """What of a template's expression goes to the page; the template engine escapes it afterwards."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _when(rfc3339: str) -> str:
    """2026-03-02T02:00:00.000Z as 2026-03-02 02:00:00 UTC; anything else as it is."""
    if len(rfc3339) >= 20 and rfc3339[10] == "T" and rfc3339.endswith("Z"):
        return f"{rfc3339[:10]} {rfc3339[11:19]} UTC"
    return rfc3339


def _any_few(rows: Iterable[Operation | Stage]) -> bool:
    """Whether some percentile of them has too few latencies beyond it."""
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
    """Operation, kind, and how many in each run; the most frequent first."""
    counts: dict[tuple[str, str], list[int]] = {}
    for position, document in enumerate(documents):
        for error in document.errors:
            counts.setdefault((error.operation, error.kind), [0] * len(documents))[position] += error.count
    return [(*key, each) for key, each in sorted(counts.items(), key=lambda item: (-max(item[1]), item[0]))]


def _json(data: Mapping[str, Any]) -> Markup:
    """JSON for a script element: whatever its texts hold, it cannot end there."""
    plain = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    return Markup(plain)  # noqa: S704


@cache  # the one library of all pages is hashed once
def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _file(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # 5 MB of text: only when a page is written

    # A carriage return would be a line feed to the browser, and the hash another one.
    return str(get_plotlyjs()).replace("\r\n", "\n").replace("\r", "\n")
