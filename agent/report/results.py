"""The results of a run as one JSON document for CI jobs, reports and other programs.

Numbers come from `agent.measure`, facts on the run from its caller, resources from the operating system. The document
(`agent.report.document`) is written to ``results.json`` in a directory that the operator chose, and read back here.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import twisted
from msgspec.structs import replace
from OpenSSL import SSL

from agent.errors import MisuseError, OperatorError
from agent.files import read_file, write_file
from agent.measure.latencies import LatencySummary
from agent.measure.limits import Limit, LimitVerdict, judge
from agent.measure.metrics import Metrics
from agent.measure.summaries import (
    ChangeSummary,
    FailureSummary,
    OperationSummary,
    PhaseSummary,
    ReasonSummary,
    Resumption,
    RuleSummary,
    StageSummary,
)
from agent.measure.timeline import Targets, TimeLine, no_targets
from agent.measure.trace import rfc3339
from agent.processes import cpu_seconds, peak_kib
from agent.report.altered import altered, changes_told
from agent.report.document import SCHEMA, Document, RecordedOutcome, Resources
from agent.report.generator import judged_generator, unreliable
from agent.report.outcome import outcome

FILE_NAME = "results.json"
STILL_OPEN = "it had not ended when these results were made"
MOST_BYTES = 256 * 1024 * 1024  # of a document that is read

_DECIMALS = 3  # of seconds, of ms (so: microseconds) and of rates


class RunInfo(msgspec.Struct, frozen=True):
    """Facts on a run. Raises MisuseError if ``started`` has no time zone."""

    version: str
    """Of this program."""
    seed: str | int
    """Of the fleet."""
    devices: int
    started: datetime
    """With a time zone."""
    duration_s: float
    name: str = ""
    """Of the scenario."""
    workers: int = 1

    def __post_init__(self) -> None:
        if self.started.utcoffset() is None:
            raise MisuseError(f"Expected a start with a time zone, found {self.started.isoformat()}.")


class ResourceMeter:
    """The resources that this program and its finished children used since the meter was made.

    A process may have had children before it became this program: a shell that ran other commands, then ``exec``.
    """

    def __init__(self) -> None:
        self._before = cpu_seconds()

    def read(self, peaks: Iterable[int] = (), elsewhere_s: float = 0.0) -> Resources:
        """The resources until now. Other processes of the run reported ``peaks`` (KiB); those of other machines used
        ``elsewhere_s`` CPU seconds."""
        return Resources(cpu_s=cpu_seconds() - self._before + elsewhere_s, max_rss_kib=max((peak_kib(), *peaks)))


def results(
    metrics: Metrics,
    run: RunInfo,
    resources: Resources,
    *,
    timeline: TimeLine | None = None,
    phases: Sequence[PhaseSummary] = (),
    generator: Sequence[Mapping[str, Any]] = (),
    embedded_lab: bool = False,
    limits: Iterable[Limit | LimitVerdict] = (),
    push: Mapping[str, Any] | None = None,
    rules: Sequence[RuleSummary] = (),
    resumed: Sequence[Resumption] = (),
    changes: Sequence[ChangeSummary] = (),
    targets: Callable[[int], Targets] = no_targets,
    keys: Mapping[str, Any] | None = None,
    signatures: Mapping[str, Any] | None = None,
    scenario: Mapping[str, Any] | None = None,
    incomplete_because: str | None = None,
    signal: int | None = None,
) -> Document:
    """The results of a run.

    ``generator`` has the facts that `judged_generator` takes of each worker; ``scenario`` must not contain secrets.
    With ``embedded_lab`` the server ran in this program. ``limits`` that have no verdict yet are judged here.
    ``signal`` is the number of the signal that ended the run. ``targets`` has the pauses and rates of each second.
    Latencies are in ms, rounded to the microsecond.
    """
    judged = judged_generator(generator, embedded_lab=embedded_lab, metrics=metrics, phases=phases)
    rows = [] if timeline is None else timeline.rows(targets if changes else no_targets)
    in_doubt = unreliable(judged.overloaded, phases, rows, metrics.failures(), push)
    document = Document(
        schema=SCHEMA,
        version=run.version,
        name=run.name,
        seed=run.seed,
        devices=run.devices,
        workers=run.workers,
        started=rfc3339(run.started),
        duration_s=round(run.duration_s, _DECIMALS),
        complete=incomplete_because is None,
        incomplete_because=incomplete_because,
        signal=signal,
        **counted(metrics),
        phases=list(phases),
        timeline=rows,
        generator=judged,
        limits=[
            judge(each, metrics, in_doubt, altered(changes, rows)) if isinstance(each, Limit) else each
            for each in limits
        ],
        push=None if push is None else dict(push),
        rules=list(rules),
        resumed=list(resumed),
        changes=list(changes),
        changed=changes_told(changes, phases, run.duration_s),
        keys=None if keys is None else dict(keys),
        signatures=None if signatures is None else dict(signatures),
        resources=Resources(round(resources.cpu_s, _DECIMALS), resources.max_rss_kib),
        scenario=None if scenario is None else dict(scenario),
        host=host(),
    )
    return with_outcome(document)


def with_outcome(document: Document) -> Document:
    """The document with its ``outcome``, which is derived from the rest."""
    found = outcome(document)
    return replace(document, outcome=RecordedOutcome(found.exit_status, [reason.text for reason in found.reasons]))


class Counted(TypedDict):
    """The fields of a document that come from metrics."""

    operations: dict[str, OperationSummary]
    stages: dict[str, StageSummary]
    connections: dict[str, int]
    errors: list[FailureSummary]
    dropped: list[ReasonSummary]
    cut_short: list[ReasonSummary]


def counted(metrics: Metrics) -> Counted:
    """The fields of a document that come from metrics. Operations that have not ended count as cut short."""
    cuts = metrics.cuts()
    operations = {}
    for name in metrics.operations():
        summary = metrics.summary(name)
        ended = summary.count + summary.cut_short
        still_open = (summary.started or ended) - ended
        if still_open:
            cuts.append(ReasonSummary(name, STILL_OPEN, still_open))
        operations[name] = replace(
            summary,
            cut_short=summary.cut_short + still_open,
            rate_per_s=round(summary.rate_per_s, _DECIMALS),
            latency_ms=_rounded(summary.latency_ms),
        )
    stages = {name: metrics.stage_summary(name) for name in metrics.stages()}
    return {
        "operations": operations,
        "stages": {name: replace(each, latency_ms=_rounded(each.latency_ms)) for name, each in stages.items()},
        "connections": metrics.connections(),
        "errors": metrics.failures(),
        "dropped": metrics.drops(),
        "cut_short": cuts,
    }


def _rounded(latency: LatencySummary) -> LatencySummary:
    numbers = msgspec.structs.astuple(latency)
    return LatencySummary(*(None if ms is None else round(ms, _DECIMALS) for ms in numbers))


def host() -> dict[str, Any]:
    """The facts on the machine and the libraries that a run depends on; no name and no address of the machine."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "openssl": SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode("ascii", "replace"),
        "twisted": twisted.__version__,
        "cores": os.cpu_count(),
    }


def write_results(directory: str | os.PathLike[str], document: Document) -> Path:
    """Write ``document`` to ``results.json`` in ``directory``, which is made if it is missing; return its path.

    The file is replaced atomically: a reader finds the old document or the new one. Raises OperatorError if the
    directory or the file cannot be written; no partial file is left behind.
    """
    return write_file(Path(directory) / FILE_NAME, _text(document).encode(), make_folder=True)


def read_results(path: str | os.PathLike[str]) -> Document:
    """Read the document in a file, or in ``results.json`` of a directory.

    Raises OperatorError if it cannot be read, is larger than MOST_BYTES or is not a document of this schema.
    """
    source = Path(path)
    if os.path.isdir(source):  # no error for a path that cannot be looked up: reading it raises ours
        source = source / FILE_NAME
    return _parsed(source, read_file(source, "the results", MOST_BYTES))


class _Schema(msgspec.Struct):
    """The one key that tells the schema of the rest."""

    schema: str | None = None


def _parsed(source: Path, octets: bytes) -> Document:
    try:
        found = msgspec.json.decode(octets, type=_Schema).schema
        if found != SCHEMA:
            raise OperatorError(
                f"Expected results of the schema {SCHEMA} in {source}, found {_found(found)}. "
                "Run it again with this version of lom-agent."
            )
        return msgspec.json.decode(octets, type=Document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OperatorError(
            f"Expected results of the schema {SCHEMA} in {source}, found something else: {error}."
        ) from error


def _found(schema: str | None) -> str:
    return "no key schema" if schema is None else repr(schema[:100])


def _text(document: Document) -> str:
    """The document as indented JSON in ASCII, in which each second of the time line is one line.

    A line that begins with two blanks and a quotation mark is a key of the document itself: within a text, the end of
    a line is an escape.
    """
    plain = msgspec.to_builtins(document)
    rows = ",\n    ".join(json.dumps(row, allow_nan=False) for row in plain["timeline"])
    text = json.dumps({**plain, "timeline": []}, indent=2, allow_nan=False) + "\n"
    return text.replace('\n  "timeline": []', f'\n  "timeline": [\n    {rows}\n  ]', 1) if rows else text
