"""A results document as types, for those who read one: the HTML report, the comparison, the terminal.

It comes as the plain dict that `agent.report.results` makes and reads, of the shape that `agent.report.schema` says (a
test holds the two together); here it has attributes in place of keys, and what a document leaves out is empty. Keys
that nobody here knows are passed over: a later version may have added them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Struct, field

from agent.errors import OperatorError
from agent.report.schema import SCHEMA, Amount, Count


class Latency(Struct, frozen=True):
    """Milliseconds; None where nothing succeeded."""

    p50: Amount | None = None
    p90: Amount | None = None
    p95: Amount | None = None
    p99: Amount | None = None
    p99_9: Amount | None = None
    max: Amount | None = None
    mean: Amount | None = None


class Stage(Struct, frozen=True):
    """One part of the exchanges, such as the TLS handshake: those that succeeded only."""

    count: Count = 0
    latency_ms: Latency = Latency()
    clamped: Count = 0
    histogram: str | None = None

    @property
    def timed(self) -> int:
        """How many latencies there are."""
        return self.count


class Operation(Struct, frozen=True):
    """What one operation came to."""

    count: Count = 0
    errors: Count = 0
    timed_out: Count = 0
    cut_short: Count = 0
    started: Count | None = None
    late: Count = 0
    dropped: Count = 0
    rate_per_s: Amount = 0.0
    latency_ms: Latency = Latency()
    clamped: Count = 0
    histogram: str | None = None

    @property
    def timed(self) -> int:
        """How many latencies there are: of what failed, only what ran out of time has one."""
        return max(0, self.count - self.errors + self.timed_out)


class ErrorKind(Struct, frozen=True):
    """One way in which one operation failed. ``example`` is text that a peer may have written."""

    operation: str
    kind: str
    count: Count
    example: str = ""


class Drop(Struct, frozen=True):
    """Why some of one operation never started."""

    operation: str
    reason: str
    count: Count


class Cut(Struct, frozen=True):
    """Why some of one operation were cut short."""

    operation: str
    reason: str
    count: Count


class Phase(Struct, frozen=True):
    """One phase; seconds are from the run's start, and None where it did not come to that."""

    name: str
    kind: str = ""
    started_s: Amount | None = None
    ended_s: Amount | None = None
    planned: Count | None = None
    started: Count | None = None
    done: Count | None = None
    failed: Count | None = None
    cut_short: Count | None = None
    late: Count | None = None
    dropped: Count | None = None
    key_waits: Count = 0
    key_wait_s: Amount = 0.0


class SecondOfOperation(Struct, frozen=True):
    """What one operation did in one second; milliseconds, None where nothing succeeded."""

    count: Count = 0
    errors: Count = 0
    p50_ms: Amount | None = None
    p99_ms: Amount | None = None


class Second(Struct, frozen=True):
    """One second of the time line; ``t`` is its number from the run's start."""

    t: Count
    operations: dict[str, SecondOfOperation] = field(default_factory=dict)
    macs: dict[str, Count] = field(default_factory=dict)
    connections: Count | None = None
    pushes_waiting: Count | None = None
    lag_ms: Amount | None = None
    cpu: Amount | None = None


class Lag(Struct, frozen=True):
    """How late an event loop was, in milliseconds; None where the worker did not tell."""

    p50: Amount | None = None
    p99: Amount | None = None
    max: Amount | None = None


class Span(Struct, frozen=True):
    """What one process measured of itself in one phase; seconds, None where the operating system does not tell."""

    phase: str
    elapsed_s: Amount = 0.0
    cpu_s: Amount = 0.0
    busy_s: Amount = 0.0
    lag_ms: Lag = Lag()
    lagging_s: Amount = 0.0
    queued_s: Amount | None = None
    stolen_s: Amount | None = None
    pressed_s: Amount | None = None
    started: Count = 0
    late: Count = 0


class Worker(Struct, frozen=True):
    """What one worker process took, or that of the push gateway. ``busiest_second`` is a share of one core."""

    worker: Count | Literal["gateway"]
    lag_ms: Lag = Lag()
    cpu_s: Amount | None = None
    busiest_second: Amount | None = None
    max_rss_kib: Count | None = None
    silent_s: Amount = 0.0
    key_waits: Count = 0
    key_wait_s: Amount = 0.0
    phases: list[Span] = field(default_factory=list)


class Overload(Struct, frozen=True):
    """Where this program did not keep up; None: in no phase, or process, in particular."""

    phase: str | None = None
    worker: Count | Literal["gateway"] | None = None
    kind: str = "process"
    reason: str = ""


class Generator(Struct, frozen=True):
    """Whether this program kept up with its own schedule, and whether the server was in it, too."""

    trustworthy: bool
    embedded_lab: bool = False
    overloaded: list[Overload] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)


class Limit(Struct, frozen=True):
    """One limit that the scenario set, and whether it held. One that is not ``reliable`` could not be judged: the load
    generator was overloaded."""

    limit: str
    ok: bool
    reliable: bool = True
    found: str | None = None
    sentence: str = ""


class RecordedOutcome(Struct, frozen=True):
    """What the command said that the run came to. Readers ask `agent.report.outcome`, which says it of the rest."""

    exit_status: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    reasons: list[str] = field(default_factory=list)


class Resources(Struct, frozen=True):
    """What the run took in all."""

    cpu_s: Amount | None = None
    max_rss_kib: Count | None = None


class Merged(Struct, frozen=True):
    """Of how many runs this is the sum, and what of them could not be added up."""

    runs: Count
    left_out: list[str] = field(default_factory=list)


class Document(Struct, frozen=True, kw_only=True):
    """The whole. ``push``, ``keys``, ``scenario`` and ``host`` are shown as they are."""

    schema: str
    version: str = ""
    name: str = ""
    seed: str | int | None = None
    devices: Count = 0
    workers: Count = 1
    started: str = ""
    duration_s: Amount = 0.0
    complete: bool = True
    incomplete_because: str | None = None
    signal: Annotated[int, msgspec.Meta(ge=1, le=127)] | None = None
    outcome: RecordedOutcome | None = None
    operations: dict[str, Operation] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)
    errors: list[ErrorKind] = field(default_factory=list)
    dropped: list[Drop] = field(default_factory=list)
    cut_short: list[Cut] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    timeline: list[Second] = field(default_factory=list)
    generator: Generator | None = None
    limits: list[Limit] = field(default_factory=list)
    push: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    resources: Resources = Resources()
    scenario: dict[str, Any] = field(default_factory=dict)
    host: dict[str, Any] = field(default_factory=dict)
    merged: Merged | None = None


def read_document(plain: Mapping[str, Any]) -> Document:
    """The document as types. Raises OperatorError where it is of another schema or a part of it is of another form."""
    schema = plain.get("schema")
    if schema != SCHEMA:
        raise OperatorError(f"Expected results of the schema {SCHEMA}; found {str(schema)[:100]!r}.")
    try:
        return msgspec.convert(dict(plain), Document)
    except (msgspec.ValidationError, RecursionError) as error:
        raise OperatorError(f"Expected results of the schema {SCHEMA}; found something else: {error}.") from error
