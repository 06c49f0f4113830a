"""Counts and latencies of a run, kept while it goes on.

Every exchange comes in here as one record (`agent.measure.records`), and so does each of its stages; what comes out
is one summary an operation and one for each way to fail, from which `agent.report` makes its tables and documents.
Where several processes share a run, each keeps its own: a ``snapshot`` goes to the one that merges them, and what
happened in a second goes to its `agent.measure.timeline`. Memory does not grow with the run: latencies go to one
histogram an operation, of a failure only one example is kept.
"""

from __future__ import annotations

import math
from typing import Any

from agent.errors import MisuseError
from agent.measure.latencies import Latencies, LatencySummary
from agent.measure.records import OPERATIONS, STAGES, Exchange, Failure
from agent.measure.snapshots import LONGEST_TEXT, LatenciesSnapshot, OperationSnapshot, Snapshot, checked
from agent.measure.summaries import CutSummary, DropSummary, FailureSummary, OperationSummary, StageSummary

__all__ = ["CutSummary", "DropSummary", "FailureSummary", "Metrics", "OperationSummary", "StageSummary"]

_BEFORE, _AFTER = -math.inf, math.inf  # all moments


class Metrics:
    """The observer that counts. Call it with each `Exchange`; ask it for summaries at any time.

    ``begun`` is for each operation as it begins; an exchange of which that was not said has begun all the same.

    Raises MisuseError, and counts nothing, for what is not one of OPERATIONS or, where a stage is meant, of STAGES.
    """

    def __init__(self) -> None:
        self._tallies: dict[str, _Tally] = {}
        self._stages: dict[str, Latencies] = {}
        self._failures: dict[tuple[str, str], _FailureTally] = {}
        self._drops: dict[tuple[str, str], int] = {}
        self._cuts: dict[tuple[str, str], int] = {}

    def begun(self, operation: str) -> None:
        """Count one that begins; it is counted as an exchange besides, when it ends."""
        tally = self._tallies.get(operation)
        if tally is None:
            tally = self._tally(operation)
        tally.open += 1

    def __call__(self, exchange: Exchange) -> None:
        """Count one exchange."""
        tally = self._tallies.get(exchange.operation)
        if tally is None:
            tally = self._tally(exchange.operation)
        if tally.open:
            tally.open -= 1
        if exchange.cut_short is not None:
            tally.cut_short += 1
            self._cut(exchange.operation, exchange.cut_short)
            return
        started, seconds = exchange.started, exchange.seconds
        tally.count += 1
        # Exchanges arrive as they end, so neither the first start nor the last end need come in order.
        if started < tally.first:
            tally.first = started
        end = started + exchange.key_wait + seconds
        if not _BEFORE < end < _AFTER:
            end = started
        if end > tally.last:
            tally.last = end
        if exchange.failure is None:
            tally.record(seconds)
        else:
            tally.errors += 1
            if exchange.failure.timed_out:
                tally.timed_out += 1
                tally.record(seconds)
            self._fail(exchange.operation, exchange.failure, started)

    def stage(self, name: str, seconds: float) -> None:
        """Count one stage of an exchange that went well."""
        latencies = self._stages.get(name)
        if latencies is None:
            latencies = self._stage(name)
        latencies.record(seconds)

    def late(self, operation: str) -> None:
        """Count one that started well after it was due; it is counted as an exchange besides, when it ends."""
        self._tally(operation).late += 1

    def dropped(self, operation: str, reason: str, count: int = 1) -> None:
        """Count what was due and never started. It is counted by ``reason``, so that should be one of few texts."""
        self._tally(operation).dropped += count
        key = (operation, _shortened(reason))
        self._drops[key] = self._drops.get(key, 0) + count

    def operations(self) -> list[str]:
        """The operations that began or were dropped, in the order of OPERATIONS."""
        return [operation for operation in OPERATIONS if operation in self._tallies]

    def stages(self) -> list[str]:
        """The stages that occurred, in the order of STAGES."""
        return [stage for stage in STAGES if stage in self._stages]

    def summary(self, operation: str) -> OperationSummary:
        """What ``operation`` has come to so far; of one that did not occur, zeros and no latencies.

        Takes a ms or two: it walks the whole histogram.
        """
        tally = self._tallies.get(_known(operation, OPERATIONS))
        if tally is None:
            return OperationSummary(0, 0, 0.0, *_in_order(LatencySummary()))
        return tally.summary()

    def stage_summary(self, stage: str) -> StageSummary:
        """What ``stage`` has come to so far; of one that did not occur, zero and no latencies."""
        latencies = self._stages.get(_known(stage, STAGES))
        if latencies is None:
            return StageSummary(0, *_in_order(LatencySummary()))
        return StageSummary(latencies.count, *_in_order(latencies.summary()), latencies.clamped)

    def encoded(self, name: str) -> str:
        """The histogram of an operation or stage that occurred, in HdrHistogram's own encoding."""
        if name in self._stages:
            return self._stages[name].encoded()
        if name in self._tallies:
            return self._tallies[name].latencies.encoded()
        raise MisuseError(f"Expected an operation or stage that occurred; found {name!r}.")

    def failures(self) -> list[FailureSummary]:
        """Every way in which an operation failed; the most frequent first, then in the order of OPERATIONS."""
        summaries = [
            FailureSummary(operation, kind, tally.count, tally.example)
            for (operation, kind), tally in self._failures.items()
        ]
        return sorted(summaries, key=lambda each: (-each.count, OPERATIONS.index(each.operation), each.kind))

    def drops(self) -> list[DropSummary]:
        """Every reason for which an operation never started; the most frequent first."""
        summaries = [DropSummary(operation, reason, count) for (operation, reason), count in self._drops.items()]
        return sorted(summaries, key=lambda each: (-each.count, OPERATIONS.index(each.operation), each.reason))

    def cuts(self) -> list[CutSummary]:
        """Every reason for which an operation was cut short; the most frequent first."""
        summaries = [CutSummary(operation, reason, count) for (operation, reason), count in self._cuts.items()]
        return sorted(summaries, key=lambda each: (-each.count, OPERATIONS.index(each.operation), each.reason))

    def take_second(self) -> dict[str, Any]:
        """What happened since the last call, for the time line; what was merged is left out.

        For each operation of which something ended: ``count``, ``errors`` and ``latencies``, how many in each bucket
        of `agent.measure.latencies`.
        """
        for latencies in self._stages.values():
            latencies.pour()  # a little work now, so that the next snapshot does not hold the event loop up
        seconds = {operation: self._tallies[operation].take_second() for operation in self.operations()}
        return {operation: second for operation, second in seconds.items() if second is not None}

    def snapshot(self) -> dict[str, Any]:
        """Everything so far as plain data, ready for JSON; see `agent.measure.snapshots`.

        Takes some tenths of a ms for each histogram that changed since the last time.
        """
        snapshot: Snapshot = {
            "operations": {operation: self._tallies[operation].snapshot() for operation in self.operations()},
            "stages": {stage: _latencies_snapshot(self._stages[stage]) for stage in self.stages()},
            "failures": [
                {
                    "operation": operation,
                    "kind": kind,
                    "count": tally.count,
                    "first": tally.first,
                    "example": tally.example,
                }
                for (operation, kind), tally in sorted(self._failures.items())
            ],
            "drops": [
                {"operation": operation, "reason": reason, "count": count}
                for (operation, reason), count in sorted(self._drops.items())
            ],
            "cuts": [
                {"operation": operation, "reason": reason, "count": count}
                for (operation, reason), count in sorted(self._cuts.items())
            ],
        }
        return dict(snapshot)

    def merge(self, snapshot: Any) -> None:
        """Count what another one counted, as its ``snapshot`` says; in any order, it comes to the same.

        A snapshot holds everything since the start: merge one of each, the last. Raises OperatorError, and merges
        nothing, where it is no snapshot.
        """
        found, counts = checked(snapshot)
        for operation, its in found["operations"].items():
            self._tally(operation).add(its, counts[operation])
        for stage, latencies in found["stages"].items():
            _add_latencies(self._stage(stage), latencies, counts[stage])
        for failure in found["failures"]:
            tally = self._failure(failure["operation"], failure["kind"])
            tally.see(failure["count"], failure["first"], failure["example"])
        for drop in found["drops"]:
            key = (drop["operation"], drop["reason"])
            self._drops[key] = self._drops.get(key, 0) + drop["count"]
        for cut in found["cuts"]:
            self._cut(cut["operation"], cut["reason"], cut["count"])

    def _cut(self, operation: str, reason: str, count: int = 1) -> None:
        key = (operation, _shortened(reason))
        self._cuts[key] = self._cuts.get(key, 0) + count

    def _tally(self, operation: str) -> _Tally:
        tally = self._tallies.get(operation)
        if tally is None:
            tally = self._tallies[_known(operation, OPERATIONS)] = _Tally()
        return tally

    def _stage(self, name: str) -> Latencies:
        latencies = self._stages.get(name)
        if latencies is None:
            latencies = self._stages[_known(name, STAGES)] = Latencies()
        return latencies

    def _fail(self, operation: str, failure: Failure, started: float) -> None:
        self._failure(operation, failure.kind).see(1, started, failure.message)

    def _failure(self, operation: str, kind: str) -> _FailureTally:
        key = (operation, kind)
        tally = self._failures.get(key)
        if tally is None:
            key = (operation, _shortened(kind))
            tally = self._failures.setdefault(key, _FailureTally())
        return tally


class _FailureTally:
    """One way to fail. Its example is that of the exchange that was due first, so that merging finds the same one."""

    __slots__ = ("count", "example", "first")

    def __init__(self) -> None:
        self.count = 0
        self.first = _AFTER
        self.example = ""

    def see(self, count: int, started: float, message: str) -> None:
        self.count += count
        if started > self.first:
            return
        example = _shortened(message)
        if started < self.first or example < self.example:
            self.first, self.example = started, example


class _Tally:
    """What is kept of one operation while the run goes on."""

    __slots__ = (
        "_taken",
        "count",
        "cut_short",
        "dropped",
        "errors",
        "first",
        "last",
        "late",
        "latencies",
        "open",
        "record",
        "timed_out",
    )

    def __init__(self) -> None:
        self.count = 0
        self.errors = 0
        self.timed_out = 0
        self.cut_short = 0
        self.open = 0
        self.late = 0
        self.dropped = 0
        self.first = _AFTER
        self.last = _BEFORE
        self.latencies = Latencies(by_second=True)
        self.record = self.latencies.record
        self._taken = (0, 0)  # how much of count and errors belongs to no second that is still to come

    def take_second(self) -> dict[str, Any] | None:
        count, errors = self.count - self._taken[0], self.errors - self._taken[1]
        if not count:
            return None
        self._taken = (self.count, self.errors)
        return {"count": count, "errors": errors, "latencies": self.latencies.take_second()}

    def snapshot(self) -> OperationSnapshot:
        return {
            "count": self.count,
            "errors": self.errors,
            "timed_out": self.timed_out,
            "cut_short": self.cut_short,
            "open": self.open,
            "late": self.late,
            "dropped": self.dropped,
            "first": self.first if self.count else None,
            "last": self.last if self.count else None,
            "latencies": _latencies_snapshot(self.latencies),
        }

    def add(self, other: OperationSnapshot, counts: list[int]) -> None:
        self.count += other["count"]
        self.errors += other["errors"]
        self.timed_out += other["timed_out"]
        self.cut_short += other["cut_short"]
        self.open += other["open"]
        self._taken = (self._taken[0] + other["count"], self._taken[1] + other["errors"])
        self.late += other["late"]
        self.dropped += other["dropped"]
        if other["first"] is not None and other["last"] is not None:
            self.first = min(self.first, other["first"])
            self.last = max(self.last, other["last"])
        _add_latencies(self.latencies, other["latencies"], counts)

    def summary(self) -> OperationSummary:
        return OperationSummary(
            self.count,
            self.errors,
            self._rate(),
            *_in_order(self.latencies.summary()),
            self.latencies.clamped,
            self.late,
            self.dropped,
            self.timed_out,
            self.cut_short,
            self.open,
        )

    def _rate(self) -> float:
        elapsed = self.last - self.first
        if self.count < 2 or elapsed <= 0.0:
            return 0.0
        return self.count / elapsed


def _latencies_snapshot(latencies: Latencies) -> LatenciesSnapshot:
    return {
        "clamped": latencies.clamped,
        "max_us": latencies.max_us,
        "total_us": latencies.total_us,
        "histogram": latencies.encoded(),
    }


def _add_latencies(latencies: Latencies, other: LatenciesSnapshot, counts: list[int]) -> None:
    latencies.add(counts, clamped=other["clamped"], max_us=other["max_us"], total_us=other["total_us"])


_SevenNumbers = tuple[float | None, float | None, float | None, float | None, float | None, float | None, float | None]


def _in_order(summary: LatencySummary) -> _SevenNumbers:
    """The numbers in the order in which the summaries of operations and stages have them."""
    return summary.p50, summary.p90, summary.p95, summary.p99, summary.p99_9, summary.max, summary.mean


def _known(name: str, names: tuple[str, ...]) -> str:
    if name not in names:
        raise MisuseError(f"Expected one of {', '.join(names)}; found {name!r}.")
    return name


def _shortened(text: str) -> str:
    """``text`` in 500 characters that can be sent anywhere: a peer may have written what UTF-8 has no bytes for."""
    if not text.isascii():
        text = text[: LONGEST_TEXT + 1].encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) <= LONGEST_TEXT:
        return text
    return text[: LONGEST_TEXT - 1] + "…"
