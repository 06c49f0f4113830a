"""The metrics of one process as plain data for another process, validated before they are merged.

`agent.measure.metrics` makes and merges snapshots; a worker sends them to its conductor, and `agent.report.merging`
makes them from results documents.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec

from agent.errors import OperatorError
from agent.measure.histograms import HIGHEST_US, decoded, index_of
from agent.measure.records import HTTP_VERSIONS, OPERATIONS, STAGES
from agent.measure.summaries import Count, Name

MOST_KINDS = 10_000  # of failures and of reasons; this program has some dozens

Micros = Annotated[int, msgspec.Meta(ge=0, le=HIGHEST_US)]


class LatenciesSnapshot(TypedDict):
    """One histogram in HdrHistogram's encoding, and the numbers that it does not hold exactly."""

    clamped: Count
    max_us: Micros
    total_us: Annotated[int, msgspec.Meta(ge=0)]
    histogram: str


class OperationSnapshot(TypedDict):
    """One operation."""

    count: Count
    """Those that succeeded or failed."""
    in_pauses: Count
    """Those of them that ended while the run was paused."""
    errors: Count
    timed_out: Count
    cut_short: Count
    open: Count
    """Those that had not ended when the snapshot was made."""
    user_channel: NotRequired[Count]
    """Those of ``count`` on the user channel; missing in snapshots of earlier versions."""
    late: Count
    dropped: Count
    first: float | None
    """The first start, in seconds since the epoch; None if none ended."""
    last: float | None
    """The last end, in seconds since the epoch; None if none ended."""
    latencies: LatenciesSnapshot


class FailureSnapshot(TypedDict):
    """The failures of one operation that have one kind."""

    operation: Name
    kind: Name
    count: Count
    first: float
    """When the exchange of the example was due, in seconds since the epoch."""
    example: Name


class ReasonSnapshot(TypedDict):
    """The number of one operation that were dropped, or cut short, for one reason."""

    operation: Name
    reason: Name
    count: Count


class Snapshot(TypedDict):
    """All metrics of one process."""

    operations: dict[Name, OperationSnapshot]
    stages: dict[Name, LatenciesSnapshot]
    connections: NotRequired[dict[Name, Count]]
    """How many connections were opened, by HTTP_VERSIONS; missing in a snapshot of an earlier version."""
    failures: Annotated[list[FailureSnapshot], msgspec.Meta(max_length=MOST_KINDS)]
    drops: Annotated[list[ReasonSnapshot], msgspec.Meta(max_length=MOST_KINDS)]
    cuts: Annotated[list[ReasonSnapshot], msgspec.Meta(max_length=MOST_KINDS)]


def checked(found: Any) -> tuple[Snapshot, dict[str, dict[int, int]]]:
    """``found`` as a snapshot, and the counts of each histogram in it by operation or stage.

    Raises OperatorError if it is not a snapshot or contradicts itself.
    """
    try:
        snapshot = msgspec.convert(found, Snapshot)
        return snapshot, _counts(snapshot)
    except (msgspec.ValidationError, OperatorError, ValueError, RecursionError) as error:
        raise OperatorError(f"These metrics cannot be merged: {error}") from error


def _counts(snapshot: Snapshot) -> dict[str, dict[int, int]]:
    counts = {}
    for name, operation in snapshot["operations"].items():
        _known(name, OPERATIONS)
        counts[name] = _histogram(name, operation["latencies"])
        if operation["timed_out"] > operation["errors"]:
            raise ValueError(f"more operations {name} timed out than failed")
        if operation["in_pauses"] > operation["count"]:
            raise ValueError(f"more operations {name} ended in pauses than ended")
        if sum(counts[name].values()) != operation["count"] - operation["errors"] + operation["timed_out"]:
            raise ValueError(f"the number of latencies of {name} differs from its successes and time-outs")
        if (operation["first"] is None or operation["last"] is None) != (operation["count"] == 0):
            raise ValueError(f"{name} has times without operations, or operations without times")
        for moment in (operation["first"], operation["last"]):
            _finite(moment)
    for name, latencies in snapshot["stages"].items():
        _known(name, STAGES)
        counts[name] = _histogram(name, latencies)
    for name in snapshot.get("connections", {}):
        _known(name, HTTP_VERSIONS)
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
            raise ValueError(f"the reasons for which {name} was cut short do not add up to their number")


def _histogram(name: str, latencies: LatenciesSnapshot) -> dict[int, int]:
    counts = decoded(latencies["histogram"])
    total = sum(counts.values())
    highest = max(counts, default=0)
    if highest != index_of(latencies["max_us"]):
        raise ValueError(f"the histogram of {name} does not end at its maximum")
    if not total <= latencies["total_us"] <= total * latencies["max_us"] or latencies["clamped"] > total:
        raise ValueError(f"the sum of the latencies of {name} does not fit its histogram")
    return counts


def _known(name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise ValueError(f"expected one of {', '.join(names)}; found {name!r}")


def _finite(moment: float | None) -> None:
    if moment is not None and not math.isfinite(moment):
        raise ValueError(f"expected a time; found {moment}")
