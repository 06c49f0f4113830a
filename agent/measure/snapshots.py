"""What the metrics of one process look like on their way to another: plain data, checked before it is believed.

`agent.measure.metrics` makes and merges them; they cross the link between a worker and its conductor, and
`agent.report.merging` makes them of results documents.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, TypedDict

import msgspec

from agent.errors import OperatorError
from agent.measure.latencies import HIGHEST_US, MOST_COUNTED, decoded, index_of
from agent.measure.records import OPERATIONS, STAGES

LONGEST_TEXT = 500  # characters of an example, of a kind and of a reason
MOST_KINDS = 10_000  # of failures and of reasons; this program knows some dozens

Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_COUNTED)]
Micros = Annotated[int, msgspec.Meta(ge=0, le=HIGHEST_US)]
Text = Annotated[str, msgspec.Meta(max_length=LONGEST_TEXT)]


class LatenciesSnapshot(TypedDict):
    """One histogram: HdrHistogram's own encoding, and what it does not hold exactly."""

    clamped: Count
    max_us: Micros
    total_us: Annotated[int, msgspec.Meta(ge=0)]
    histogram: str


class OperationSnapshot(TypedDict):
    """One operation. ``first`` start and ``last`` end are seconds since the epoch, None where none ended.

    ``count`` ended by themselves, ``errors`` of these failed, ``timed_out`` of these ran out of time. ``cut_short``
    were ended by this program, ``open`` had not ended when the snapshot was made.
    """

    count: Count
    errors: Count
    timed_out: Count
    cut_short: Count
    open: Count
    late: Count
    dropped: Count
    first: float | None
    last: float | None
    latencies: LatenciesSnapshot


class FailureSnapshot(TypedDict):
    """One way to fail. ``first`` is when the exchange of the example was due."""

    operation: Text
    kind: Text
    count: Count
    first: float
    example: Text


class DropSnapshot(TypedDict):
    """One reason for which something never started."""

    operation: Text
    reason: Text
    count: Count


class CutSnapshot(TypedDict):
    """One reason for which something was cut short."""

    operation: Text
    reason: Text
    count: Count


class Snapshot(TypedDict):
    """Everything that metrics hold."""

    operations: dict[Text, OperationSnapshot]
    stages: dict[Text, LatenciesSnapshot]
    failures: Annotated[list[FailureSnapshot], msgspec.Meta(max_length=MOST_KINDS)]
    drops: Annotated[list[DropSnapshot], msgspec.Meta(max_length=MOST_KINDS)]
    cuts: Annotated[list[CutSnapshot], msgspec.Meta(max_length=MOST_KINDS)]


def checked(found: Any) -> tuple[Snapshot, dict[str, list[int]]]:
    """``found`` as a snapshot, and the counts of each histogram in it by operation or stage.

    Raises OperatorError for what is none, or what says two things at once.
    """
    try:
        snapshot = msgspec.convert(found, Snapshot)
        return snapshot, _counts(snapshot)
    except (msgspec.ValidationError, OperatorError, ValueError, RecursionError) as error:
        raise OperatorError(f"These metrics cannot be merged: {error}") from error


def _counts(snapshot: Snapshot) -> dict[str, list[int]]:
    counts = {}
    for name, operation in snapshot["operations"].items():
        _known(name, OPERATIONS)
        counts[name] = _histogram(name, operation["latencies"])
        if operation["timed_out"] > operation["errors"]:
            raise ValueError(f"more of {name} ran out of time than failed")
        if sum(counts[name]) != operation["count"] - operation["errors"] + operation["timed_out"]:
            raise ValueError(f"{name} has another number of latencies than of successes and time-outs")
        if (operation["first"] is None or operation["last"] is None) != (operation["count"] == 0):
            raise ValueError(f"{name} has a time and did not run, or the other way round")
        for moment in (operation["first"], operation["last"]):
            _finite(moment)
    for name, latencies in snapshot["stages"].items():
        _known(name, STAGES)
        counts[name] = _histogram(name, latencies)
    for failure in snapshot["failures"]:
        _known(failure["operation"], OPERATIONS)
        _finite(failure["first"])
    for drop in snapshot["drops"]:
        _known(drop["operation"], OPERATIONS)
    _check_cuts(snapshot)
    return counts


def _check_cuts(snapshot: Snapshot) -> None:
    cut_short = {name: operation["cut_short"] for name, operation in snapshot["operations"].items()}
    for cut in snapshot["cuts"]:
        _known(cut["operation"], OPERATIONS)
        cut_short[cut["operation"]] = cut_short.get(cut["operation"], 0) - cut["count"]
    for name, left in cut_short.items():
        if left:
            raise ValueError(f"the reasons for which {name} was cut short are not as many as were")


def _histogram(name: str, latencies: LatenciesSnapshot) -> list[int]:
    counts = decoded(latencies["histogram"])
    total = sum(counts)
    highest = max((index for index, count in enumerate(counts) if count), default=0)
    if highest != index_of(latencies["max_us"]):
        raise ValueError(f"the histogram of {name} does not end at its longest latency")
    if not total <= latencies["total_us"] <= total * latencies["max_us"] or latencies["clamped"] > total:
        raise ValueError(f"the sum of {name} is not one of its latencies")
    return counts


def _known(name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise ValueError(f"expected one of {', '.join(names)}; found {name!r}")


def _finite(moment: float | None) -> None:
    if moment is not None and not math.isfinite(moment):
        raise ValueError(f"expected a time; found {moment}")
