"""Counts and latencies of one process, kept during the run.

`Metrics` receives every exchange as one record (`agent.measure.records`), and every stage. It returns summaries
(`agent.measure.summaries`), from which `agent.report` makes the results. Where several processes share a run, each has
its own metrics: a ``snapshot`` goes to the conductor, which merges them, and ``take_second`` to its
`agent.measure.timeline`. Memory does not grow with the run: one histogram per operation, one example per failure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from agent.errors import MisuseError
from agent.measure.latencies import NO_LATENCIES, Latencies
from agent.measure.pauses import Pauses
from agent.measure.records import HTTP_VERSIONS, OPERATIONS, STAGES, Exchange, Failure
from agent.measure.snapshots import LatenciesSnapshot, OperationSnapshot, Snapshot, checked
from agent.measure.summaries import LONGEST_TEXT, FailureSummary, OperationSummary, ReasonSummary, StageSummary

_BEFORE, _AFTER = -math.inf, math.inf  # all moments


class Metrics:
    """The observer that counts. Call it with each `Exchange`; request summaries at any time.

    Call ``started`` for each operation that starts; an exchange without a preceding call counts as started, too.

    Raises MisuseError, and counts nothing, for a name that is not in OPERATIONS or, for stages, in STAGES.
    """

    def __init__(self) -> None:
        self._tallies: dict[str, _Tally] = {}
        self._stages: dict[str, Latencies] = {}
        self._connections = dict.fromkeys(HTTP_VERSIONS, 0)
        self._failures: dict[tuple[str, str], _FailureTally] = {}
        self._drops: dict[tuple[str, str], int] = {}
        self._cuts: dict[tuple[str, str], int] = {}
        self._paused = False
        self.pauses = Pauses()
        """The time that does not count in rates, on the clock of the exchanges."""

    def pause(self) -> None:
        """The run is paused: what ends until ``resume`` is in no rate, as the time until then is in none."""
        for tally in self._tallies.values():
            tally.pause()
        self._paused = True

    def resume(self) -> None:
        """The run goes on."""
        for tally in self._tallies.values():
            tally.resume()
        self._paused = False

    def started(self, operation: str) -> None:
        """Count the start of one operation. Its end is counted as an exchange."""
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
        if exchange.facts and exchange.facts.get("channel") == "user":
            tally.user_channel += 1
        # Exchanges arrive in the order of their ends; starts are in no order.
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
        """Count one stage that succeeded."""
        latencies = self._stages.get(name)
        if latencies is None:
            latencies = self._stage(name)
        latencies.record(seconds)

    def connected(self, version: str, count: int = 1) -> None:
        """Count connections that were opened to a server, by the version of HTTP that they speak."""
        self._connections[_known(version, HTTP_VERSIONS)] += count

    def connections(self) -> dict[str, int]:
        """The connections that were opened, by version of HTTP; without those of which there was none."""
        return {version: count for version, count in self._connections.items() if count}

    def late(self, operation: str) -> None:
        """Count one operation that started over 100 ms after it was due. Its end is counted as an exchange."""
        self._tally(operation).late += 1

    def dropped(self, operation: str, reason: str, count: int = 1) -> None:
        """Count operations that were due and never started, by ``reason``: one of a few constant texts."""
        self._tally(operation).dropped += count
        key = (operation, _shortened(reason))
        self._drops[key] = self._drops.get(key, 0) + count

    def cut_short(self, operation: str, reason: str, count: int) -> None:
        """Count operations that started in an earlier process, and whose end is unknown."""
        if count > 0:
            self._tally(operation).cut_short += count
            self._cut(operation, reason, count)

    def continue_from(self, snapshot: Any, reason: str, pause: float) -> None:
        """Begin with the metrics of an earlier process of the run, which had stood still for ``pause`` seconds.

        Operations that had not ended are cut short for ``reason``. Raises OperatorError if it is not a snapshot.
        """
        self.merge(snapshot)
        for operation, tally in self._tallies.items():
            self.cut_short(operation, reason, tally.open)
            tally.open = 0
            tally.first += pause
            tally.last += pause
        for failure in self._failures.values():
            failure.first += pause

    def operations(self) -> list[str]:
        """The operations that started or were dropped, in the order of OPERATIONS."""
        return [operation for operation in OPERATIONS if operation in self._tallies]

    def stages(self) -> list[str]:
        """The stages that occurred, in the order of STAGES."""
        return [stage for stage in STAGES if stage in self._stages]

    def summary(self, operation: str) -> OperationSummary:
        """The summary of ``operation`` so far; zeros and no latencies if it did not occur.

        It walks the whole histogram.
        """
        return self._tallies.get(_known(operation, OPERATIONS), _NONE).summary(self.pauses)

    def stage_summary(self, stage: str) -> StageSummary:
        """The summary of ``stage`` so far; zero and no latencies if it did not occur."""
        latencies = self._stages.get(_known(stage, STAGES))
        if latencies is None:
            return StageSummary(count=0, latency_ms=NO_LATENCIES, clamped=0, histogram=_NONE.latencies.encoded())
        return StageSummary(
            count=latencies.count,
            latency_ms=latencies.summary(),
            clamped=latencies.clamped,
            histogram=latencies.encoded(),
        )

    def failures(self) -> list[FailureSummary]:
        """The failures by operation and kind; the most frequent first, then in the order of OPERATIONS."""
        summaries = [
            FailureSummary(operation, kind, tally.count, tally.example)
            for (operation, kind), tally in self._failures.items()
        ]
        return sorted(summaries, key=lambda each: (-each.count, OPERATIONS.index(each.operation), each.kind))

    def drops(self) -> list[ReasonSummary]:
        """The operations that never started by reason; the most frequent first."""
        return _by_frequency(self._drops)

    def cuts(self) -> list[ReasonSummary]:
        """The operations that were cut short by reason; the most frequent first."""
        return _by_frequency(self._cuts)

    def take_second(self) -> dict[str, Any]:
        """The operations that ended since the last call, for the time line, without merged ones.

        By operation: ``count``, ``errors`` and ``latencies``, the number of latencies by `latencies.bucket_of`.
        """
        for latencies in self._stages.values():
            latencies.pour()  # a little work now, so that the next snapshot does not block the event loop
        seconds = {operation: self._tallies[operation].take_second() for operation in self.operations()}
        return {operation: second for operation, second in seconds.items() if second is not None}

    def snapshot(self) -> dict[str, Any]:
        """All metrics so far as plain data, ready for JSON; see `agent.measure.snapshots`.

        Takes some tenths of a ms per histogram that changed since the last call.
        """
        snapshot: Snapshot = {
            "operations": {operation: self._tallies[operation].snapshot() for operation in self.operations()},
            "stages": {stage: _latencies_snapshot(self._stages[stage]) for stage in self.stages()},
            "connections": self.connections(),
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
        """Add the metrics of another process. The order of merges does not matter.

        A snapshot holds everything since the start: merge the last one of each process. Raises OperatorError, and
        merges nothing, if it is not a snapshot.
        """
        found, counts = checked(snapshot)
        for operation, its in found["operations"].items():
            self._tally(operation).add(its, counts[operation])
        for stage, latencies in found["stages"].items():
            _add_latencies(self._stage(stage), latencies, counts[stage])
        for version, count in found.get("connections", {}).items():
            self.connected(version, count)
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
            if self._paused:
                tally.pause()
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
    """The failures of one kind. The example is that of the exchange that was due first, in any order of merges."""

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
    """The counters and latencies of one operation during the run."""

    __slots__ = (
        "_ended_before",
        "_ended_in_pauses",
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
        "user_channel",
    )

    def __init__(self) -> None:
        self.count = 0
        self.errors = 0
        self.timed_out = 0
        self.cut_short = 0
        self.user_channel = 0
        self.open = 0
        self.late = 0
        self.dropped = 0
        self.first = _AFTER
        self.last = _BEFORE
        self.latencies = Latencies(by_second=True)
        self.record = self.latencies.record
        self._ended_in_pauses = 0
        self._ended_before: int | None = None  # count when the present pause began
        self._taken = (0, 0)  # count and errors that ``take_second`` returned, and merged ones

    def pause(self) -> None:
        if self._ended_before is None:
            self._ended_before = self.count

    def resume(self) -> None:
        self._ended_in_pauses, self._ended_before = self.in_pauses, None

    @property
    def in_pauses(self) -> int:
        """Those that ended while the run was paused."""
        return self._ended_in_pauses + (0 if self._ended_before is None else self.count - self._ended_before)

    def take_second(self) -> dict[str, Any] | None:
        count, errors = self.count - self._taken[0], self.errors - self._taken[1]
        if not count:
            return None
        self._taken = (self.count, self.errors)
        return {"count": count, "errors": errors, "latencies": self.latencies.take_second()}

    def snapshot(self) -> OperationSnapshot:
        return {
            "count": self.count,
            "in_pauses": self.in_pauses,
            "errors": self.errors,
            "timed_out": self.timed_out,
            "cut_short": self.cut_short,
            "open": self.open,
            "user_channel": self.user_channel,
            "late": self.late,
            "dropped": self.dropped,
            "first": self.first if self.count else None,
            "last": self.last if self.count else None,
            "latencies": _latencies_snapshot(self.latencies),
        }

    def add(self, other: OperationSnapshot, counts: Mapping[int, int]) -> None:
        self.count += other["count"]
        self._ended_in_pauses += other["in_pauses"]
        self.errors += other["errors"]
        self.timed_out += other["timed_out"]
        self.cut_short += other["cut_short"]
        self.open += other["open"]
        self.user_channel += other.get("user_channel", 0)
        self._taken = (self._taken[0] + other["count"], self._taken[1] + other["errors"])
        self.late += other["late"]
        self.dropped += other["dropped"]
        if other["first"] is not None and other["last"] is not None:
            self.first = min(self.first, other["first"])
            self.last = max(self.last, other["last"])
        _add_latencies(self.latencies, other["latencies"], counts)

    def summary(self, pauses: Pauses) -> OperationSummary:
        return OperationSummary(
            started=self.count + self.cut_short + self.open,
            count=self.count,
            errors=self.errors,
            timed_out=self.timed_out,
            cut_short=self.cut_short,
            late=self.late,
            dropped=self.dropped,
            user_channel=self.user_channel,
            rate_per_s=self._rate(pauses),
            latency_ms=self.latencies.summary(),
            clamped=self.latencies.clamped,
            histogram=self.latencies.encoded(),
        )

    def _rate(self, pauses: Pauses) -> float:
        elapsed = self.last - self.first - pauses.within(self.first, self.last)
        count = self.count - self.in_pauses
        if count < 2 or elapsed <= 0.0:
            return 0.0
        return count / elapsed


def _latencies_snapshot(latencies: Latencies) -> LatenciesSnapshot:
    return {
        "clamped": latencies.clamped,
        "max_us": latencies.max_us,
        "total_us": latencies.total_us,
        "histogram": latencies.encoded(),
    }


def _add_latencies(latencies: Latencies, other: LatenciesSnapshot, counts: Mapping[int, int]) -> None:
    latencies.add(counts, clamped=other["clamped"], max_us=other["max_us"], total_us=other["total_us"])


def _by_frequency(counts: dict[tuple[str, str], int]) -> list[ReasonSummary]:
    summaries = [ReasonSummary(operation, reason, count) for (operation, reason), count in counts.items()]
    return sorted(summaries, key=lambda each: (-each.count, OPERATIONS.index(each.operation), each.reason))


def _known(name: str, names: tuple[str, ...]) -> str:
    if name not in names:
        raise MisuseError(f"Expected one of {', '.join(names)}, found {name!r}.")
    return name


def _shortened(text: str) -> str:
    """``text`` in at most 500 characters that UTF-8 can encode: a peer may have sent lone surrogates."""
    if not text.isascii():
        text = text[: LONGEST_TEXT + 1].encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) <= LONGEST_TEXT:
        return text
    return text[: LONGEST_TEXT - 1] + "…"


_NONE = _Tally()  # of an operation that did not occur
