"""What a run measured, in the form in which results.json holds it: operations, stages, failures, reasons, phases.

`agent.measure.metrics` makes the summaries, `agent.load.conductor.record` those of phases; `agent.report.document` puts
them into the results, from which every report reads them. docs/results.md explains each key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from agent.measure.histograms import MOST_COUNTED
from agent.measure.latencies import Amount, LatencySummary

LONGEST_TEXT = 500  # characters of a name, an example, a kind and a reason

Count = Annotated[int, Meta(ge=0, le=MOST_COUNTED)]
Name = Annotated[str, Meta(max_length=LONGEST_TEXT)]


class OperationSummary(Struct, frozen=True, kw_only=True):
    """One operation.

    Latencies are those of the operations that succeeded and of those that ran out of time: without the latter a server
    that stops responding would show the latencies of its good days. Other failures are left out, because a quick
    refusal would flatter a server.
    """

    started: Count | None = None
    """Those that succeeded, failed, were cut short or have not ended. None in results of earlier versions."""
    count: Count
    """Those that succeeded or failed."""
    errors: Count
    """Those of ``count`` that failed."""
    timed_out: Count = 0
    """Those of ``errors`` that exceeded their time limit."""
    cut_short: Count = 0
    """Those that this program itself ended. In results also those that had not ended when the results were made."""
    user_channel: Count = 0
    """Those of ``count`` on the user channel of their Mac."""
    late: Count
    """Those that started more than 100 ms after they were due."""
    dropped: Count
    """Those that were due and never started; in no other number."""
    rate_per_s: Amount
    """``count`` over the seconds from the first start to the last end; 0.0 for one, or where no time passed."""
    latency_ms: LatencySummary
    clamped: Count
    """Latencies below 1 µs or above 1 h, recorded as that."""
    histogram: str
    """Every latency in µs, in HdrHistogram's V2 encoding, base64."""

    @property
    def timed(self) -> int:
        """The number of latencies."""
        return max(0, self.count - self.errors + self.timed_out)


class StageSummary(Struct, frozen=True, kw_only=True):
    """One stage of the operations, such as the TLS handshake. Only those that succeeded count."""

    count: Count
    latency_ms: LatencySummary
    clamped: Count
    """Latencies below 1 µs or above 1 h, recorded as that."""
    histogram: str
    """Every latency in µs, in HdrHistogram's V2 encoding, base64."""

    @property
    def timed(self) -> int:
        """The number of latencies."""
        return self.count


class FailureSummary(Struct, frozen=True):
    """The failures of one operation that have one kind."""

    operation: Name
    kind: Name
    count: Count
    example: Name
    """The message of the failure that was due first. A peer may have written it."""


class ReasonSummary(Struct, frozen=True):
    """The number of one operation that were dropped, or cut short, for one reason."""

    operation: Name
    reason: Name
    count: Count


class PhaseSummary(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One phase. Seconds count from the start of the run."""

    name: Name
    kind: Name
    started_s: Amount | None
    """None if it did not start."""
    ended_s: Amount | None
    """None if it did not end."""
    paused_s: Amount | None = None
    """Seconds in which the run was paused; None if there were none."""
    planned: Count | None
    """None if unknown before the end of the phase."""
    started: Count
    done: Count
    failed: Count
    late: Count
    cut_short: Count | None = None
    """None in results of earlier versions."""
    dropped: Count
    key_waits: Count | None = None
    """Enrollments that waited for an RSA key of the load generator; None unless the phase enrolls."""
    key_wait_s: Amount | None = None
    """Seconds of these waits together."""


class Resumption(Struct, frozen=True):
    """A run went on in a new process."""

    at_s: Amount
    """Where, in seconds from the start of the run."""
    stopped: Name
    """The last date that the process before had written. RFC 3339, UTC, ms."""
    resumed: Name
    """When the run went on."""
    lost: Count
    """Operations that had started, and whose end was not saved: they count as cut short."""
    unmeasured_s: Amount
    """The seconds before ``at_s`` of which the measurements of some worker were not saved."""


class ChangeSummary(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change of the running scenario. A scenario with the same changes repeats it."""

    at_s: Amount
    """Seconds since the start of the run."""
    what: Literal["pause", "resume", "rate"]
    phase: Name | None = None
    """The phase whose rate was changed."""
    phase_s: Amount | None = None
    """Seconds since the start of the phase, without pauses: ``at`` of a ``[[change]]`` in a scenario."""
    rate: Amount | None = None
    factor: Amount | None = None
    by: Literal["control", "scenario"]
    """Whether a request to the control API made it, or the scenario planned it."""


class RuleSummary(Struct, frozen=True):
    """What one fault rule did."""

    id: Name
    matches: Count
    """The operations that it is for."""
    hits: Count
    """Those that it decided on."""


def added_rules(parts: Iterable[Sequence[RuleSummary]]) -> list[RuleSummary]:
    """The sums by rule, in the order in which they first occur."""
    sums: dict[str, RuleSummary] = {}
    for rules in parts:
        for rule in rules:
            before = sums.get(rule.id, RuleSummary(rule.id, 0, 0))
            sums[rule.id] = RuleSummary(rule.id, before.matches + rule.matches, before.hits + rule.hits)
    return list(sums.values())
