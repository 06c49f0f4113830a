"""A results document as types, for those who read one: the HTML report, the comparison, ``lom-agent report``.

It comes as the plain dict that `agent.report.results` writes and reads. A file may have been edited by hand, so
that every number is checked once, here; who works with a `Document` meets no surprise. Parts that a run did not have are
empty. Keys that nobody here knows are passed over: a later version may have added them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from agent.errors import OperatorError
from agent.report.numbers import NOTHING

SCHEMA = "lom-agent.results/2"

Count = Annotated[int, Meta(ge=0, le=2**53)]
Number = Annotated[float, Meta(ge=0, le=1e15)]  # also refuses NaN and the infinities, which JSON has not

PERCENTILES = (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99_9", 0.999))
LEAST_BEYOND = 10  # ours: a percentile with fewer latencies beyond it says more of chance than of the server


class Latency(Struct, frozen=True):
    """Milliseconds; None where nothing succeeded."""

    p50: Number | None = None
    p90: Number | None = None
    p95: Number | None = None
    p99: Number | None = None
    p99_9: Number | None = None
    max: Number | None = None
    mean: Number | None = None


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
    late: Count = 0
    dropped: Count = 0
    rate_per_s: Number = 0.0
    latency_ms: Latency = Latency()
    clamped: Count = 0
    histogram: str | None = None

    @property
    def timed(self) -> int:
        """How many latencies there are: failed exchanges have none."""
        return max(0, self.count - self.errors)


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


class Phase(Struct, frozen=True):
    """One phase; seconds are from the run's start, and None where it did not come to that."""

    name: str
    kind: str = ""
    started_s: Number | None = None
    ended_s: Number | None = None
    planned: Count | None = None
    started: Count | None = None
    done: Count | None = None
    failed: Count | None = None
    late: Count | None = None
    dropped: Count | None = None


class SecondOfOperation(Struct, frozen=True):
    """What one operation did in one second; milliseconds, None where nothing succeeded."""

    count: Count = 0
    errors: Count = 0
    p50_ms: Number | None = None
    p99_ms: Number | None = None


class Second(Struct, frozen=True):
    """One second of the time line; ``t`` is its number from the run's start."""

    t: Count
    operations: dict[str, SecondOfOperation] = field(default_factory=dict)
    macs: dict[str, Count] = field(default_factory=dict)
    connections: Count | None = None
    pushes_waiting: Count | None = None
    lag_ms: Number | None = None
    cpu: Number | None = None


class Lag(Struct, frozen=True):
    """How late an event loop was, in milliseconds."""

    p50: Number | None = None
    p99: Number | None = None
    max: Number | None = None


class Worker(Struct, frozen=True):
    """What one worker process took. ``busiest_second`` is a share of one core."""

    worker: Count
    lag_ms: Lag = Lag()
    cpu_s: Number | None = None
    busiest_second: Number | None = None
    max_rss_kib: Count | None = None


class Generator(Struct, frozen=True):
    """Whether this program kept up with its own schedule."""

    trustworthy: bool
    reasons: list[str] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)


class Limit(Struct, frozen=True):
    """One limit that the scenario set, and whether it held."""

    limit: str
    ok: bool
    found: str | None = None
    sentence: str = ""


class Resources(Struct, frozen=True):
    """What the run took in all."""

    cpu_s: Number | None = None
    max_rss_kib: Count | None = None


class Document(Struct, frozen=True, kw_only=True):
    """The whole. ``push``, ``keys``, ``scenario`` and ``host`` are shown as they are."""

    schema: str
    version: str = ""
    name: str = ""
    seed: str | int = ""
    devices: Count = 0
    workers: Count = 1
    started: str = ""
    duration_s: Number = 0.0
    complete: bool = True
    incomplete_because: str | None = None
    operations: dict[str, Operation] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)
    errors: list[ErrorKind] = field(default_factory=list)
    dropped: list[Drop] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    timeline: list[Second] = field(default_factory=list)
    generator: Generator | None = None
    limits: list[Limit] = field(default_factory=list)
    push: dict[str, Any] | None = None
    keys: dict[str, Any] | None = None
    resources: Resources = Resources()
    scenario: dict[str, Any] = field(default_factory=dict)
    host: dict[str, Any] = field(default_factory=dict)


def read_document(plain: Mapping[str, Any]) -> Document:
    """The document as types. Raises OperatorError where it is of another schema or a part of it is of another form."""
    schema = plain.get("schema")
    if schema != SCHEMA:
        raise OperatorError(f"a results document should be of schema {SCHEMA}, but this one is of {schema!r}")
    try:
        return msgspec.convert(dict(plain), Document)
    except (msgspec.ValidationError, RecursionError) as error:
        raise OperatorError(f"the results document is not of schema {SCHEMA}, whatever it says: {error}") from error


def enough(timed: int, share: float) -> bool:
    """Whether so many latencies are enough for the percentile of ``share``, such as 0.99 (see LEAST_BEYOND)."""
    return timed * (1.0 - share) >= LEAST_BEYOND - 1e-9


def flattened(plain: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A nested dict as (name, value) lines: ``fleet.devices``, ``phase.2.rate``; a value as text."""
    lines: list[tuple[str, str]] = []
    waiting: list[tuple[str, Any]] = [(str(key), value) for key, value in reversed(list(plain.items()))]
    while waiting:
        name, value = waiting.pop()
        inner = _inner(value)
        if inner is None:
            lines.append((name, _text(value)))
        else:
            waiting += [(f"{name}.{key}", each) for key, each in reversed(inner)]
    return lines


def _inner(value: Any) -> list[tuple[Any, Any]] | None:
    """What is to be shown line by line: filled dicts, and lists that hold a dict."""
    if isinstance(value, Mapping) and value:
        return list(value.items())
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        return list(enumerate(value, 1))
    return None


def _text(value: Any) -> str:
    match value:
        case None:
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case []:
            return "none"
        case list():
            return ", ".join(str(each) for each in value)
        case {}:
            return "none"
        case _:
            return str(value)
