"""Limits of a run, such as ``session.p99 < 500ms`` (k6: thresholds): parsed from the scenario, judged by the metrics.

Verdicts go to the terminal, the results and the JUnit report, and decide the exit status.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from fractions import Fraction

import msgspec
from msgspec import Struct

from agent.errors import OperatorError
from agent.measure.metrics import Metrics
from agent.measure.records import OPERATIONS, STAGES
from agent.measure.summaries import Name, OperationSummary, StageSummary

LONGEST = 200  # characters of a limit

_FORM = re.compile(r"([a-z_]+)\.([a-z]+[0-9.]*)\s*(<=|>=|==|<|>)\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([^\s0-9]*)")
_EXPECTED = "OPERATION.METRIC COMPARISON VALUE, such as session.p99 < 500ms, push.errors == 0 or command.late <= 1%"
_COMPARISONS: dict[str, Callable[[Fraction, Fraction], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}
_TIMES = {
    "us": Fraction(1, 1000),
    "µs": Fraction(1, 1000),
    "ms": Fraction(1),
    "s": Fraction(1000),
    "m": Fraction(60_000),
}
_PARTS = {"": Fraction(1), "%": Fraction(1)}
_LATENCIES = {
    "p50": "p50",
    "p90": "p90",
    "p95": "p95",
    "p99": "p99",
    "p99.9": "p99_9",
    "max": "max",
    "mean": "mean",
}
# The units of a metric, each in the metric's own unit (ms, or 1).
_UNITS: dict[str, dict[str, Fraction]] = {
    **dict.fromkeys(_LATENCIES, _TIMES),
    "errors": _PARTS,
    "late": _PARTS,
    "dropped": _PARTS,
    "count": {"": Fraction(1)},
    "rate": {"": Fraction(1), "/s": Fraction(1)},
}
_OF_STAGES = (*_LATENCIES, "count")
_UNIT_NAMES = {"": "no unit"}


class Limit(msgspec.Struct, frozen=True):
    """One limit: ``name.metric comparison value``."""

    text: str
    """As the operator wrote it."""
    name: str
    """An operation or a stage."""
    metric: str
    """A key of _UNITS."""
    comparison: str
    """A key of _COMPARISONS."""
    value: Fraction
    """In ``unit``."""
    unit: str


class LimitVerdict(Struct, frozen=True):
    """Whether a run passed a limit."""

    limit: Name
    """As the operator wrote it."""
    ok: bool
    """Whether it passed. False also if it could not be judged."""
    found: Name | None
    """The measured value with its unit; None if there was nothing to judge."""
    sentence: str
    reliable: bool = True
    """False if the limit neither passed nor failed: the load generator was overloaded, or the rate was changed."""


def parse_limit(text: str) -> Limit:
    """Parse a limit. Raises OperatorError with the closest valid name, if there is one."""
    text = text.strip()
    parts = _FORM.fullmatch(text) if len(text) <= LONGEST else None
    if parts is None:
        raise OperatorError(f"Expected a limit, {_EXPECTED}, found {text[:LONGEST]!r}.")
    subject, metric, comparison, number, unit = parts.groups()
    if subject not in OPERATIONS + STAGES:
        raise _unknown(text, "an operation or a stage", subject, OPERATIONS + STAGES)
    if subject in STAGES and metric in _UNITS and metric not in _OF_STAGES:
        raise OperatorError(
            f"In the limit {text!r}: {subject} is a stage, which has only {', '.join(_OF_STAGES)}, found {metric!r}."
        )
    if metric not in _UNITS:
        raise _unknown(text, "a metric", metric, _UNITS)
    if unit not in _UNITS[metric]:
        units = " or ".join(_UNIT_NAMES.get(each, each) for each in _UNITS[metric])
        raise OperatorError(
            f"In the limit {text!r}: expected a number with {units} for {metric}, found {number}{unit}."
        )
    return Limit(text, subject, metric, comparison, Fraction(number), unit)


def judge(
    limit: Limit, metrics: Metrics, unreliable: Collection[str] = (), altered: Collection[str] = ()
) -> LimitVerdict:
    """Judge ``limit`` by what was measured.

    A limit on an operation that never ran fails, except one on ``count``. Percentages are of the operations that ended;
    those of ``dropped`` are of the operations that were due. ``unreliable`` names what an overloaded load generator
    distorted: the times of an operation or a stage, or one metric (``enroll.rate``, ``push.errors``). ``altered`` names
    the operations whose rate is that of a run that was paused, or whose rates were changed.
    """
    summary: OperationSummary | StageSummary
    of_stage = limit.name in STAGES
    summary = metrics.stage_summary(limit.name) if of_stage else metrics.summary(limit.name)
    if limit.metric != "count" and not summary.count:
        unended = summary.started or 0 if isinstance(summary, OperationSummary) else 0
        return _nothing(
            limit, f"{limit.name} never ended ({unended} cut short)" if unended else f"{limit.name} never ran"
        )
    found = _found(limit, summary)
    if found is None:
        return _nothing(limit, f"{limit.name} never succeeded ({summary.count} failed)")
    holds = _COMPARISONS[limit.comparison]
    ok = holds(found, limit.value)
    shown = _with_unit(_shown(found, lambda number: holds(number, limit.value) == ok), limit.unit)
    sentence = f"{limit.name}.{limit.metric} was {shown}; {_said(limit)}"
    if not _in_doubt(limit, unreliable):
        if not ok and limit.metric == "rate" and limit.name in altered:
            # A pause leaves out what ends in it, and a changed rate is not the server's.
            why = "the run was paused or its rates were changed"
            return LimitVerdict(limit.text, False, shown, f"Not judged reliably, {why}: {sentence}", False)
        return LimitVerdict(limit.text, ok, shown, sentence)
    if ok and limit.comparison in ((">", ">=") if limit.metric == "rate" else ("<", "<=")):
        # The generator's delays make a latency longer, a rate lower, and leave more Macs busy when they are due again;
        # its own failures make errors more. Without them the limit would pass, too.
        what = "its own failures" if limit.metric == "errors" else "its delays"
        return LimitVerdict(
            limit.text, ok, shown, f"{sentence} The load generator was overloaded: this includes {what}."
        )
    return LimitVerdict(
        limit.text, False, shown, f"Not judged reliably, the load generator was overloaded: {sentence}", False
    )


def _in_doubt(limit: Limit, unreliable: Collection[str]) -> bool:
    timed = limit.metric in _LATENCIES or limit.metric in ("rate", "dropped")
    return (timed and limit.name in unreliable) or f"{limit.name}.{limit.metric}" in unreliable


def _found(limit: Limit, summary: OperationSummary | StageSummary) -> Fraction | None:
    """The measured value in the limit's unit."""
    if limit.metric in _LATENCIES:
        ms = getattr(summary.latency_ms, _LATENCIES[limit.metric])
        # Rounded to the nanosecond, so that 0.1 ms is exactly a tenth.
        return None if ms is None else Fraction(round(ms * 1e6), 1_000_000) / _TIMES[limit.unit]
    number: int | float = getattr(summary, "rate_per_s" if limit.metric == "rate" else limit.metric)
    if limit.unit != "%":
        return Fraction(number)
    due = summary.count
    if isinstance(summary, OperationSummary) and limit.metric == "dropped":
        due += summary.dropped
    return Fraction(number) * 100 / due


def _nothing(limit: Limit, why: str) -> LimitVerdict:
    return LimitVerdict(limit.text, False, None, f"{why}; {_said(limit, whole=True)}")


def _said(limit: Limit, *, whole: bool = False) -> str:
    subject = f"{limit.name}.{limit.metric} " if whole else ""
    value = _with_unit(_shown(limit.value, lambda number: number == limit.value), limit.unit)
    return f"the limit is {subject}{limit.comparison} {value}."


def _with_unit(number: str, unit: str) -> str:
    if unit in _TIMES:
        return f"{number} {'µs' if unit == 'us' else unit}"
    return number + unit


def _shown(number: Fraction, honest: Callable[[Fraction], bool]) -> str:
    """``number`` with three significant digits, or as many more as ``honest`` needs; whole numbers exactly."""
    if number.denominator == 1:
        return str(number.numerator)
    for figures in range(max(3, len(str(int(number)))), 20):
        shown = f"{float(number):.{figures}g}"
        if honest(Fraction(shown)):
            break
    plain = f"{float(shown):.9f}" if "e" in shown else shown
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def _unknown(text: str, what: str, found: str, known: Iterable[str]) -> OperatorError:
    known = tuple(known)
    near = get_close_matches(found, known, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return OperatorError(f"In the limit {text!r}: expected {what} out of {', '.join(known)}, found {found!r}.{hint}")
