"""The results of a run as one JSON document, for CI jobs, reports and other programs.

Numbers come from `agent.measure.metrics` and `agent.measure.timeline`, facts on the run from whoever ran it,
resources from the operating system; the document goes to ``results.json`` in a directory of the operator's choice.
Its shape is in `agent.report.schema`.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import msgspec
import twisted
from OpenSSL import SSL

from agent.errors import MisuseError, OperatorError
from agent.files import read_file, write_file
from agent.measure.limits import Limit, Verdict, judge
from agent.measure.metrics import Metrics, OperationSummary, StageSummary
from agent.measure.timeline import TimeLine
from agent.measure.trace import rfc3339
from agent.processes import cpu_seconds, peak_kib
from agent.report.generator import generator_document, unreliable
from agent.report.outcome import outcome_of
from agent.report.schema import SCHEMA, LatencyDocument, OperationDocument, ResultsDocument, StageDocument

FILE_NAME = "results.json"
STILL_OPEN = "it had not ended when this was last told"
MOST_BYTES = 256 * 1024 * 1024  # of a document that is read

_DECIMALS = 3  # of seconds, of ms (so: microseconds) and of rates


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Which run it was: ``version`` of this program, the fleet's ``seed``, how many ``devices``, when it ``started``
    (aware), how many seconds it took, the scenario's ``name`` and how many ``workers`` shared it. Raises MisuseError
    where ``started`` has no time zone."""

    version: str
    seed: str | int
    devices: int
    started: datetime
    duration_s: float
    name: str = ""
    workers: int = 1

    def __post_init__(self) -> None:
        if self.started.utcoffset() is None:
            raise MisuseError(f"Expected a start with a time zone; found {self.started.isoformat()}.")


@dataclass(frozen=True, slots=True)
class Resources:
    """What a run took: seconds of CPU (user and system) of this program and its finished children together, and the
    largest resident memory that it or one of its workers had, in KiB."""

    cpu_s: float
    max_rss_kib: int


class ResourceMeter:
    """What this program and those of its children that ended have used since the meter was made.

    A process may have had children before it became this program: a shell that ran others first, and then this one.
    """

    def __init__(self) -> None:
        self._before = cpu_seconds()

    def read(self, peaks: Iterable[int] = ()) -> Resources:
        """What was used until now; ``peaks`` are the peaks (KiB) that other processes of the run told of themselves."""
        return Resources(cpu_s=cpu_seconds() - self._before, max_rss_kib=max((peak_kib(), *peaks)))


def results(
    metrics: Metrics,
    run: RunInfo,
    resources: Resources,
    *,
    timeline: TimeLine | None = None,
    phases: Sequence[Mapping[str, Any]] = (),
    generator: Sequence[Mapping[str, Any]] = (),
    embedded_lab: bool = False,
    limits: Iterable[Limit | Verdict] = (),
    push: Mapping[str, Any] | None = None,
    keys: Mapping[str, Any] | None = None,
    scenario: Mapping[str, Any] | None = None,
    incomplete_because: str | None = None,
    signal: int | None = None,
) -> ResultsDocument:
    """The document of schema ``lom-agent.results/2``: numbers, text, lists and dicts only, ready for JSON.

    ``phases`` are as `agent.report.schema.PhaseDocument`, ``generator`` has what `generator_document` takes of each
    worker, ``scenario`` must hold no secret. With ``embedded_lab`` the server was in this program. ``limits`` that are
    not judged yet are judged here. ``signal`` is the number of the one that ended the run. Latencies are ms, rounded
    to the microsecond, and None where no exchange of the operation succeeded.
    """
    generator_part = generator_document(generator, embedded_lab=embedded_lab, metrics=metrics)
    rows = [] if timeline is None else timeline.rows()
    in_doubt = unreliable(generator_part.get("overloaded", ()), phases, rows)
    verdicts = [judge(each, metrics, in_doubt) if isinstance(each, Limit) else each for each in limits]
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "version": run.version,
        "name": run.name,
        "seed": run.seed,
        "devices": run.devices,
        "workers": run.workers,
        "started": rfc3339(run.started),
        "duration_s": round(run.duration_s, _DECIMALS),
        "complete": incomplete_because is None,
        "incomplete_because": incomplete_because,
        "signal": signal,
        "outcome": None,
        **counted(metrics),
        "phases": [dict(phase) for phase in phases],
        "timeline": rows,
        "generator": generator_part,
        "limits": [asdict(verdict) for verdict in verdicts],
        "push": push,
        "keys": keys,
        "resources": {"cpu_s": round(resources.cpu_s, _DECIMALS), "max_rss_kib": resources.max_rss_kib},
        "scenario": scenario,
        "host": host(),
    }
    for key in ("incomplete_because", "signal", "push", "keys", "scenario"):
        if document[key] is None:
            del document[key]
    return with_outcome(document)


def with_outcome(document: Mapping[str, Any]) -> ResultsDocument:
    """The document with its key ``outcome``, made of the rest."""
    return cast(ResultsDocument, {**document, "outcome": outcome_of(document).as_json()})


def counted(metrics: Metrics) -> dict[str, Any]:
    """What of the document comes from metrics: ``operations``, ``stages``, ``errors``, ``dropped`` and
    ``cut_short``."""
    return {
        "operations": {name: _operation(metrics.summary(name), metrics.encoded(name)) for name in metrics.operations()},
        "stages": {name: _stage(metrics.stage_summary(name), metrics.encoded(name)) for name in metrics.stages()},
        "errors": [asdict(failure) for failure in metrics.failures()],
        "dropped": [asdict(drop) for drop in metrics.drops()],
        "cut_short": _cut_short(metrics),
    }


def _cut_short(metrics: Metrics) -> list[dict[str, Any]]:
    """What was cut short and why; what goes on has no end that this document could hold."""
    cuts = [asdict(cut) for cut in metrics.cuts()]
    for name in metrics.operations():
        if still_open := metrics.summary(name).open:
            cuts.append({"operation": name, "reason": STILL_OPEN, "count": still_open})
    return cuts


def host() -> dict[str, Any]:
    """What a run depends on of the machine and of the libraries; no name and no address of it."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "openssl": SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode("ascii", "replace"),
        "twisted": twisted.__version__,
        "cores": os.cpu_count(),
    }


def write_results(directory: str | os.PathLike[str], document: Mapping[str, Any]) -> Path:
    """Write ``document`` to ``results.json`` in ``directory``, which is made where it is missing; return its path.

    Whoever reads the file finds the old document or the new one, never half of one. Raises OperatorError where the
    directory or the file cannot be written; no half-written file is left behind.
    """
    return write_file(Path(directory) / FILE_NAME, _text(document).encode(), make_folder=True)


def read_results(path: str | os.PathLike[str]) -> ResultsDocument:
    """The document in a file, or in ``results.json`` of a directory.

    Raises OperatorError where it cannot be read, is larger than MOST_BYTES or is no document of this schema.
    """
    source = Path(path)
    if os.path.isdir(source):  # no error for a path that cannot be looked up: reading it raises ours
        source = source / FILE_NAME
    return _parsed(source, read_file(source, "the results", MOST_BYTES))


class _Schema(msgspec.Struct):
    """Only what says which shape the rest has."""

    schema: str | None = None


def _parsed(source: Path, octets: bytes) -> ResultsDocument:
    try:
        found = msgspec.json.decode(octets, type=_Schema).schema
        if found != SCHEMA:
            raise OperatorError(
                f"Expected results of the schema {SCHEMA} in {source}; found {_found(found)}. "
                "Run it again with this version of lom-agent."
            )
        return msgspec.json.decode(octets, type=ResultsDocument)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OperatorError(
            f"Expected results of the schema {SCHEMA} in {source}; found something else: {error}."
        ) from error


def _found(schema: str | None) -> str:
    return "no schema at all" if schema is None else repr(schema[:100])


def _text(document: Mapping[str, Any]) -> str:
    """The document as JSON that a person can read, too; a second of the time line is one line.

    A line that begins with two blanks and a quotation mark is a key of the document itself: within a text, the end of
    a line is an escape.
    """
    rows = ",\n    ".join(json.dumps(row, allow_nan=False) for row in document.get("timeline", ()))
    text = json.dumps({**document, "timeline": []} if rows else document, indent=2, allow_nan=False) + "\n"
    return text.replace('\n  "timeline": []', f'\n  "timeline": [\n    {rows}\n  ]', 1) if rows else text


def _operation(summary: OperationSummary, histogram: str) -> OperationDocument:
    return {
        "started": summary.started,
        "count": summary.count,
        "errors": summary.errors,
        "timed_out": summary.timed_out,
        "cut_short": summary.started - summary.count,
        "late": summary.late,
        "dropped": summary.dropped,
        "rate_per_s": round(summary.rate_per_s, _DECIMALS),
        "latency_ms": _latency(summary),
        "clamped": summary.clamped,
        "histogram": histogram,
    }


def _stage(summary: StageSummary, histogram: str) -> StageDocument:
    return {
        "count": summary.count,
        "latency_ms": _latency(summary),
        "clamped": summary.clamped,
        "histogram": histogram,
    }


def _latency(summary: OperationSummary | StageSummary) -> LatencyDocument:
    return {
        "p50": _rounded(summary.p50),
        "p90": _rounded(summary.p90),
        "p95": _rounded(summary.p95),
        "p99": _rounded(summary.p99),
        "p99_9": _rounded(summary.p99_9),
        "max": _rounded(summary.max),
        "mean": _rounded(summary.mean),
    }


def _rounded(ms: float | None) -> float | None:
    return None if ms is None else round(ms, _DECIMALS)
