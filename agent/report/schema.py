"""The shape of the results document, schema ``lom-agent.results/2``: what its readers can rely on.

`agent.report.results` makes such documents and, reading one back, refuses what does not have this shape; the reports
and `agent.report.merging` take them from there. `docs/results.md` explains each key.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from agent.measure.latencies import MOST_COUNTED
from agent.measure.timeline import LONGEST_SECONDS

SCHEMA: Literal["lom-agent.results/2"] = "lom-agent.results/2"

Count = Annotated[int, Meta(ge=0, le=MOST_COUNTED)]
Amount = Annotated[float, Meta(ge=0.0, le=1e12)]
Name = Annotated[str, Meta(max_length=500)]


class LatencyDocument(TypedDict):
    """Latencies in ms; None where nothing succeeded."""

    p50: Amount | None
    p90: Amount | None
    p95: Amount | None
    p99: Amount | None
    p99_9: Amount | None
    max: Amount | None
    mean: Amount | None


class OperationDocument(TypedDict):
    """One operation. Of those that were ``started``, ``count`` ended by themselves and the others were cut short."""

    started: NotRequired[Count]
    count: Count
    errors: Count
    timed_out: NotRequired[Count]
    cut_short: NotRequired[Count]
    late: Count
    dropped: Count
    rate_per_s: Amount
    latency_ms: LatencyDocument
    clamped: Count
    histogram: str


class StageDocument(TypedDict):
    """One stage of the operations."""

    count: Count
    latency_ms: LatencyDocument
    clamped: Count
    histogram: str


class ErrorDocument(TypedDict):
    """One way to fail."""

    operation: Name
    kind: Name
    count: Count
    example: Name


class DropDocument(TypedDict):
    """One reason for which something never started."""

    operation: Name
    reason: Name
    count: Count


class CutDocument(TypedDict):
    """One reason for which something was cut short."""

    operation: Name
    reason: Name
    count: Count


class PhaseDocument(TypedDict):
    """One phase; the seconds count from the start of the run, None where it did not start or end. ``planned`` is None
    where nobody knows before the end. Only an enrolment has ``key_waits`` and ``key_wait_s``."""

    name: Name
    kind: Name
    started_s: Amount | None
    ended_s: Amount | None
    planned: Count | None
    started: Count
    done: Count
    failed: Count
    cut_short: NotRequired[Count]
    late: Count
    dropped: Count
    key_waits: NotRequired[Count]
    key_wait_s: NotRequired[Amount]


class EndedDocument(TypedDict):
    """What ended of one operation in one second."""

    count: Count
    errors: Count
    p50_ms: Amount | None
    p99_ms: Amount | None


class SecondDocument(TypedDict):
    """One second of the time line."""

    t: Annotated[int, Meta(ge=0, lt=LONGEST_SECONDS)]
    operations: dict[Name, EndedDocument]
    macs: dict[Name, Count]
    connections: Count
    pushes_waiting: Count
    lag_ms: Amount | None
    cpu: Amount | None


class LagDocument(TypedDict):
    """By how much a worker's event loop lagged, in ms; None where the worker did not tell."""

    p50: Amount | None
    p99: Amount | None
    max: Amount | None


class SpanDocument(TypedDict):
    """What one process measured of itself in one phase; None where the operating system does not tell."""

    phase: Name
    elapsed_s: Amount
    cpu_s: Amount
    busy_s: Amount
    lag_ms: LagDocument
    lagging_s: Amount
    queued_s: Amount | None
    stolen_s: Amount | None
    pressed_s: Amount | None
    started: Count
    late: Count


class OverloadDocument(TypedDict):
    """Where this program did not keep up: in which phase and process, None where that is nobody's in particular."""

    phase: Name | None
    worker: Count | Literal["gateway"] | None
    kind: Literal["process", "late", "key"]
    reason: str


class WorkerDocument(TypedDict):
    """What one worker took, or the process of the push gateway."""

    worker: Count | Literal["gateway"]
    lag_ms: LagDocument
    cpu_s: Amount
    busiest_second: Amount
    max_rss_kib: Count
    silent_s: NotRequired[Amount]
    key_waits: NotRequired[Count]
    key_wait_s: NotRequired[Amount]
    phases: NotRequired[list[SpanDocument]]


class GeneratorDocument(TypedDict):
    """Whether this program itself kept up. With ``embedded_lab`` the server was in this program, too."""

    trustworthy: bool
    embedded_lab: NotRequired[bool]
    reasons: list[str]
    overloaded: NotRequired[list[OverloadDocument]]
    workers: list[WorkerDocument]


class VerdictDocument(TypedDict):
    """One limit."""

    limit: Name
    ok: bool
    reliable: NotRequired[bool]
    found: Name | None
    sentence: str


class OutcomeDocument(TypedDict):
    """What the run comes to: the exit status of the command, and why it is not 0."""

    exit_status: Annotated[int, Meta(ge=0, le=255)]
    reasons: list[str]


class ResourcesDocument(TypedDict):
    """What the run took altogether."""

    cpu_s: Amount
    max_rss_kib: Count


class MergedDocument(TypedDict):
    """Of how many runs this is the sum, and what of them could not be added up."""

    runs: Count
    left_out: list[str]


class ResultsDocument(TypedDict):
    """The whole."""

    schema: Literal["lom-agent.results/2"]
    version: Name
    name: Name
    seed: Name | int | None
    devices: Count
    workers: Count
    started: Name
    duration_s: Amount
    complete: bool
    incomplete_because: NotRequired[str]
    signal: NotRequired[Annotated[int, Meta(ge=1, le=127)]]
    outcome: NotRequired[OutcomeDocument]
    operations: dict[Name, OperationDocument]
    stages: dict[Name, StageDocument]
    errors: list[ErrorDocument]
    dropped: list[DropDocument]
    cut_short: NotRequired[list[CutDocument]]
    phases: list[PhaseDocument]
    timeline: Annotated[list[SecondDocument], Meta(max_length=LONGEST_SECONDS)]
    generator: GeneratorDocument
    limits: list[VerdictDocument]
    push: NotRequired[dict[str, Any]]
    keys: NotRequired[dict[str, Any]]
    resources: ResourcesDocument
    scenario: NotRequired[dict[str, Any]]
    host: NotRequired[dict[str, Any]]
    merged: NotRequired[MergedDocument]
