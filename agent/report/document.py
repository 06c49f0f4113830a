"""The results of a run, schema ``lom-agent.results/2``: one set of types for who makes, writes, reads and shows them.

`agent.report.results` makes, writes and reads a `Document`; the terminal, the HTML report, JUnit, the comparison and
`agent.report.merging` take it from there. docs/results.md explains each key. The order of the fields is the order of
the keys in results.json. Unknown keys are ignored: a later version may add some. Where ``omit_defaults`` is set, a key
whose value is None is left out of the file.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from agent.measure.latencies import Amount
from agent.measure.limits import LimitVerdict
from agent.measure.summaries import (
    ChangeSummary,
    Count,
    FailureSummary,
    Name,
    OperationSummary,
    PhaseSummary,
    ReasonSummary,
    Resumption,
    RuleSummary,
    StageSummary,
)
from agent.measure.timeline import LONGEST_SECONDS, Second

SCHEMA: Literal["lom-agent.results/2"] = "lom-agent.results/2"

WorkerName = Count | Literal["gateway"]


def _empty() -> list[Any]:
    """An empty list that is written to the file: ``omit_defaults`` leaves out only the empty lists of ``list``."""
    return []


class Lag(Struct, frozen=True):
    """The lag of an event loop in ms; None if the worker did not report it."""

    p50: Amount | None
    p99: Amount | None
    max: Amount | None


class Span(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The measurements of one process of itself in one phase. None if the operating system does not provide one."""

    phase: Name
    elapsed_s: Amount
    paused_s: Amount | None = None
    """Seconds of these in which the run was paused; None if there were none."""
    cpu_s: Amount
    busy_s: Amount
    """Seconds in which it used more than `timeline.BUSY_SHARE` of a core."""
    lag_ms: Lag
    lagging_s: Amount
    """Seconds in which the event loop lagged."""
    queued_s: Amount | None
    """Seconds in which it waited for a CPU."""
    stolen_s: Amount | None
    """Seconds that the hypervisor took from this machine's CPUs."""
    pressed_s: Amount | None
    """Seconds in which some process of this machine waited for a CPU."""
    started: Count
    late: Count


class LostWorker(Struct, frozen=True, kw_only=True):
    """What was lost with a worker."""

    at_s: Amount
    """When, from the start of the run."""
    measured_s: Amount
    """Up to which second of the run its operations are in the results."""
    first_mac: Count
    """The index of its first Mac in the fleet."""
    last_mac: Count
    serials: tuple[Name, Name]
    """Of its first and its last Mac."""


class WorkerClock(Struct, frozen=True, kw_only=True):
    """The system's clock of a worker's machine, measured before the run started."""

    ahead_ms: float
    """How far it is ahead of the clock of the run."""
    error_ms: Amount
    """The largest error of that, and of the moment at which the worker starts a phase."""


class Worker(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One worker process, or the process of the push gateway."""

    worker: WorkerName
    lag_ms: Lag
    cpu_s: Amount
    busiest_second: Amount
    """The largest share of a core in one second."""
    max_rss_kib: Count
    phases: list[Span] = field(default_factory=_empty)
    silent_s: Amount | None = None
    """Seconds in which the worker sent nothing although it should have; None if there were none."""
    lost: LostWorker | None = None
    """None if the worker was not lost."""
    clock: WorkerClock | None = None
    """None of a worker on the machine of the conductor."""
    key_waits: Count | None = None
    """Enrollments that waited for an RSA key; None for a process that makes none."""
    key_wait_s: Amount | None = None
    """Seconds of these waits together."""


class Overload(Struct, frozen=True):
    """One reason why the load generator was overloaded."""

    phase: Name | None
    """None if it concerns no phase in particular."""
    worker: WorkerName | None
    """None if it concerns no process in particular."""
    kind: Literal["process", "late", "key"]
    reason: str


class Generator(Struct, frozen=True, kw_only=True):
    """Whether the load generator kept up with its schedule."""

    trustworthy: bool
    embedded_lab: bool = False
    """Whether the server ran in this program."""
    reasons: list[str]
    """The reasons of ``overloaded``."""
    overloaded: list[Overload] = field(default_factory=list)
    workers: list[Worker]


class RecordedOutcome(Struct, frozen=True):
    """The exit status of the command and the reasons. Readers call `agent.report.outcome`, which derives both."""

    exit_status: Annotated[int, Meta(ge=0, le=255)]
    reasons: list[str]


class Resources(Struct, frozen=True):
    """What this program and its finished children used."""

    cpu_s: Amount
    """Seconds of CPU, user and system."""
    max_rss_kib: Count
    """The largest resident memory of one process."""


class Merged(Struct, frozen=True):
    """The runs of which these results are the sum."""

    runs: Count
    left_out: list[str]
    """What could not be added up."""


class Document(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The results of one run, or of several merged ones."""

    schema: Literal["lom-agent.results/2"]
    version: Name
    name: Name
    seed: Name | int | None
    devices: Count
    workers: Count
    started: Name
    """RFC 3339, UTC, ms."""
    duration_s: Amount
    complete: bool
    incomplete_because: str | None = None
    signal: Annotated[int, Meta(ge=1, le=127)] | None = None
    """The number of the signal that ended the run."""
    outcome: RecordedOutcome | None = None
    """None only in results of earlier versions."""
    operations: dict[Name, OperationSummary]
    stages: dict[Name, StageSummary]
    connections: dict[Name, Count] = {}
    """The connections that the Macs opened to their servers, by version of HTTP."""
    errors: list[FailureSummary]
    dropped: list[ReasonSummary]
    cut_short: list[ReasonSummary] = field(default_factory=_empty)
    phases: list[PhaseSummary]
    timeline: Annotated[list[Second], Meta(max_length=LONGEST_SECONDS)]
    generator: Generator
    limits: list[LimitVerdict]
    push: dict[str, Any] | None = None
    rules: list[RuleSummary] = []
    resumed: list[Resumption] = []
    """How often the run was resumed in a new process."""
    changes: list[ChangeSummary] = []
    changed: str | None = None
    """``changes`` in one sentence."""
    keys: dict[str, Any] | None = None
    signatures: dict[str, Any] | None = None
    resources: Resources
    scenario: dict[str, Any] | None = None
    host: dict[str, Any] | None = None
    merged: Merged | None = None
