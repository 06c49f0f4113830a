"""The change of each number of one operation or stage from one run to another, and whether it is worse or better. Pure.

A difference is called a change only if it is larger than a threshold and larger than chance:

- a latency: more than the threshold (10 % by default) and more than 0.1 ms, and the 95 % intervals of the two
  percentiles do not overlap, with at least ten latencies beyond the percentile in both runs;
- a rate: more than the threshold, and more than twice the standard deviation of two counts of that size;
- errors, late and dropped operations: more than twice the standard deviation of such counts, scaled to the same number
  of operations.

This covers chance within a run. Two runs of one server differ by more: repeat both before you rely on a small change.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache

import msgspec

from agent.measure.summaries import OperationSummary, StageSummary
from agent.report.numbers import change, share
from agent.report.percentiles import DEVIATIONS, PERCENTILES, Distribution, enough

THRESHOLD = 0.10  # of a latency and of a rate
LATENCY_LEAST_MS = 0.1
COUNTED = ("errors", "late", "dropped")

Summary = OperationSummary | StageSummary


class Judgement(StrEnum):
    """The judgement on one difference."""

    WORSE = "worse"
    BETTER = "better"
    SAME = "same"  # below the threshold
    CHANCE = "chance"  # above the threshold, but within chance for so few operations
    UNKNOWN = "unknown"  # one of the runs has no such number


class Change(msgspec.Struct, frozen=True):
    """One number of one operation or stage in the first run and in another one."""

    what: str
    """p50 … p99_9 (ms), rate_per_s, or one of COUNTED."""
    before: float | None
    after: float | None
    ratio: float | None
    """After to before; for COUNTED, that of their shares. None if before is 0."""
    judgement: Judgement
    text: str
    """The size of the change for people."""


def changes(before: Summary | None, after: Summary | None, threshold: float = THRESHOLD) -> dict[str, Change]:
    """The changes of one operation or stage by ``what``; empty if one of the runs does not have it."""
    if before is None or after is None:
        return {}
    found = [_latency(name, quantile, before, after, threshold) for name, quantile in PERCENTILES]
    if isinstance(before, OperationSummary) and isinstance(
        after, OperationSummary
    ):  # stages have neither rates nor errors
        found += [_rate(before, after, threshold), *(_counted(what, before, after) for what in COUNTED)]
    return {each.what: each for each in found}


def _latency(what: str, quantile: float, before: Summary, after: Summary, threshold: float) -> Change:
    old: float | None = getattr(before.latency_ms, what)
    new: float | None = getattr(after.latency_ms, what)
    if old is None or new is None:
        return Change(what, old, new, None, Judgement.UNKNOWN, "")
    ratio = new / old if old else None
    if ratio is None or abs(ratio - 1) <= threshold or abs(new - old) <= LATENCY_LEAST_MS:
        judgement = Judgement.SAME
    elif not _apart(before, after, quantile):
        judgement = Judgement.CHANCE
    else:
        judgement = Judgement.WORSE if new > old else Judgement.BETTER
    return Change(what, old, new, ratio, judgement, change(ratio))


def _apart(before: Summary, after: Summary, quantile: float) -> bool:
    """Whether a percentile differs by more than chance."""
    if not (enough(before.timed, quantile) and enough(after.timed, quantile)):
        return False
    one, other = (_distribution(each).spread(quantile) for each in (before.histogram, after.histogram))
    return one is not None and other is not None and (one.high < other.low or other.high < one.low)


@lru_cache(maxsize=2)
def _distribution(histogram: str) -> Distribution:
    """The distributions of the two that are being compared: all their percentiles are judged in turn."""
    return Distribution(histogram)


def _rate(before: OperationSummary, after: OperationSummary, threshold: float) -> Change:
    old, new = before.rate_per_s, after.rate_per_s
    if not old or not new or not before.count or not after.count:
        return Change("rate_per_s", old, new, None, Judgement.UNKNOWN, "")
    ratio = new / old
    if abs(ratio - 1) <= threshold:
        judgement = Judgement.SAME
    elif abs(ratio - 1) <= DEVIATIONS * (1 / before.count + 1 / after.count) ** 0.5:
        judgement = Judgement.CHANCE
    else:
        judgement = Judgement.BETTER if ratio > 1 else Judgement.WORSE
    return Change("rate_per_s", old, new, ratio, judgement, change(ratio))


def _counted(what: str, before: OperationSummary, after: OperationSummary) -> Change:
    old, new = getattr(before, what), getattr(after, what)
    # Dropped operations never started: they are not part of the count.
    old_whole = before.count + (old if what == "dropped" else 0)
    new_whole = after.count + (new if what == "dropped" else 0)
    if not old_whole or not new_whole:
        return Change(what, old, new, None, Judgement.UNKNOWN, "")
    scale = new_whole / old_whole
    expected = old * scale
    # The variance of a count is the count; scaled, it is that times the scale squared.
    chance = DEVIATIONS * (new + old * scale * scale) ** 0.5
    ratio = new / expected if expected else None
    text = change(ratio) if ratio is not None else f"+{share(new, new_whole)}" if new else ""
    if new == expected:
        judgement = Judgement.SAME
    elif abs(new - expected) <= chance:
        judgement = Judgement.CHANCE
    else:
        judgement = Judgement.WORSE if new > expected else Judgement.BETTER
    return Change(what, old, new, ratio, judgement, text)
