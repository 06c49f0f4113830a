"""Whether the load generator kept up with its schedule. If it did not, the latencies include its own delays.

Each worker measures its event loop's lag, its CPU time and its wait for a CPU, for the run and for each phase
(`agent.load.machine.overload`); these measurements become the key ``generator`` of the results. Each phase is judged by
itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from agent.measure.latencies import Latencies
from agent.measure.metrics import Metrics
from agent.measure.records import STAGES
from agent.measure.summaries import FailureSummary, PhaseSummary
from agent.measure.timeline import BUSY_SHARE, LAG_BOUND_MS, Second
from agent.report.document import Generator, Lag, LostWorker, Overload, Span, Worker, WorkerClock, WorkerName
from agent.report.numbers import milliseconds, seconds
from agent.report.pushes import own_delays, own_failures

BUSY_SECONDS = 0.1  # of the seconds
LEAST_BUSY_SECONDS = 1.5  # one second at full load is not an overload
LEAST_LAGGING_SECONDS = 0.1  # one pause of the interpreter in a short phase is not an overload
LATE_SHARE = 0.01  # of the operations that a worker started in a phase: above it, the p99 is the generator's
QUEUED_SHARE = 0.1  # of the time: above it, other processes of the machine are named as the cause
KEY_WAIT_MS = 100.0  # the delay that makes a start late
KEY_STAGE = "key"  # the wait for an RSA key that this program makes

_DECIMALS = 3

FactsT = TypeVar("FactsT", LostWorker, WorkerClock)


def judged_generator(
    workers: Sequence[Mapping[str, Any]],
    *,
    embedded_lab: bool = False,
    metrics: Metrics | None = None,
    phases: Sequence[PhaseSummary] = (),
) -> Generator:
    """Judge the workers.

    Facts of each: ``worker`` (its number, or "gateway"), ``lag`` (an encoded histogram of `Latencies`, or ``p50``,
    ``p99`` and ``max`` in ms, or None if the worker was lost), ``cpu_s``, ``cpu_by_second`` (shares of a core) and
    ``max_rss_kib``; optional ``phases`` (`agent.load.conductor.record.phases_of`), ``silent_s``, ``lost`` and ``clock``
    (`LostWorker` and `WorkerClock` as plain data), and ``key_waits`` and ``key_wait_s`` of a worker that makes RSA
    keys. Without workers nothing is known, so that the result is not trustworthy. ``metrics`` and ``phases`` have the
    waits for RSA keys.
    """
    found = [_worker(facts) for facts in workers]
    overloaded = [] if workers else [Overload(None, None, "process", "The load generator did not measure itself.")]
    for worker, facts in zip(found, workers, strict=True):
        in_phases = [each for span in worker.phases for each in _of_phase(worker.worker, span)]
        overloaded += in_phases or _of_run(worker, facts["cpu_by_second"])
    if metrics is not None:
        overloaded += _keys(metrics, phases)
    return Generator(
        trustworthy=not overloaded,
        embedded_lab=embedded_lab,
        reasons=[each.reason for each in overloaded],
        overloaded=overloaded,
        workers=found,
    )


def unreliable(
    overloaded: Sequence[Overload],
    phases: Sequence[PhaseSummary],
    timeline: Sequence[Second],
    failures: Sequence[FailureSummary] = (),
    push: Mapping[str, Any] | None = None,
) -> frozenset[str]:
    """The operations and stages that were measured while the generator was overloaded, or one metric of an operation.

    An operation is included if one of it ended during a phase of ``overloaded``; if the phase is unknown, all are.
    The errors of an operation are included if the push gateway of this program caused some of them, and its times if
    the gateway may have delayed it, according to ``push``, the key of the results.
    """
    names = {f"{operation}.errors" for operation in own_failures(failures)}
    names.update(own_delays(push))
    spans: list[tuple[float, float | None]] = []
    for each in overloaded:
        if each.kind == "key":
            names.add("enroll.rate")  # the wait is not in the latency
        elif each.phase is None:
            spans.append((0.0, None))
        else:
            spans += [(phase.started_s or 0.0, phase.ended_s) for phase in phases if phase.name == each.phase]
    if spans:
        names.update(STAGES)
    for started, ended in spans:
        for row in timeline:
            if int(started) <= row.t and (ended is None or row.t <= ended):
                names.update(row.operations)
    return frozenset(names)


def _worker(facts: Mapping[str, Any]) -> Worker:
    return Worker(
        worker=facts["worker"],
        lag_ms=_lag(facts["lag"]),
        cpu_s=round(facts["cpu_s"], _DECIMALS),
        busiest_second=round(max(facts["cpu_by_second"], default=0.0), _DECIMALS),
        max_rss_kib=facts["max_rss_kib"],
        phases=[_span(span) for span in facts.get("phases", ())],
        silent_s=round(facts["silent_s"], _DECIMALS) if facts.get("silent_s") else None,
        lost=_converted(facts.get("lost"), LostWorker),
        clock=_converted(facts.get("clock"), WorkerClock),
        key_waits=facts.get("key_waits"),
        key_wait_s=round(facts["key_wait_s"], _DECIMALS) if "key_wait_s" in facts else None,
    )


def _converted(facts: Mapping[str, Any] | None, kind: type[FactsT]) -> FactsT | None:
    return None if facts is None else msgspec.convert(facts, kind)


def _span(span: Mapping[str, Any]) -> Span:
    return Span(
        phase=span["phase"],
        elapsed_s=_rounded(span["elapsed_s"]),
        paused_s=_rounded(span["paused_s"]) if span.get("paused_s") else None,
        cpu_s=_rounded(span["cpu_s"]),
        busy_s=_rounded(span["busy_s"]),
        lag_ms=_lag({"p50": span["p50_ms"], "p99": span["p99_ms"], "max": span["max_ms"]}),
        lagging_s=_rounded(span["lagging_s"]),
        queued_s=None if span["queued_s"] is None else _rounded(span["queued_s"]),
        stolen_s=None if span["stolen_s"] is None else _rounded(span["stolen_s"]),
        pressed_s=None if span["pressed_s"] is None else _rounded(span["pressed_s"]),
        started=span["started"],
        late=span["late"],
    )


def _rounded(number: float) -> float:
    return round(max(0.0, number), _DECIMALS)


def _lag(lag: str | Mapping[str, float] | None) -> Lag:
    if lag is None:
        return Lag(None, None, None)
    if isinstance(lag, str):
        summary = Latencies.of(lag).summary()
        lag = {"p50": summary.p50 or 0.0, "p99": summary.p99 or 0.0, "max": summary.max or 0.0}
    return Lag(*(round(lag[name], _DECIMALS) for name in ("p50", "p99", "max")))


def _of_phase(worker: WorkerName, span: Span) -> Iterator[Overload]:
    """The reasons why a worker was overloaded in one phase."""
    name = "the gateway's process" if worker == "gateway" else f"worker {worker}"
    where = f"Phase {span.phase}, {name}"
    p99 = span.lag_ms.p99 or 0.0
    if p99 > LAG_BOUND_MS and span.lagging_s >= LEAST_LAGGING_SECONDS:
        text = (
            f"{where}: the event loop lagged by {milliseconds(p99)} (p99 over time; up to {LAG_BOUND_MS:.0f} ms is "
            f"reliable), at worst {milliseconds(span.lag_ms.max)}. {_measured(span)}"
        )
        yield Overload(span.phase, worker, "process", text)
    elif span.busy_s > max(LEAST_BUSY_SECONDS, BUSY_SECONDS * (elapsed := span.elapsed_s - (span.paused_s or 0.0))):
        paused = " without pauses" if span.paused_s else ""
        text = f"{where}: over {BUSY_SHARE:.0%} of a core was used in {span.busy_s:.0f} of {elapsed:.0f} s{paused}."
        yield Overload(span.phase, worker, "process", text)
    if span.late > LATE_SHARE * span.started:
        text = f"{where}: {span.late:,} of {span.started:,} operations started over 100 ms after they were due."
        yield Overload(span.phase, worker, "late", text)


def _measured(span: Span) -> str:
    """The measurements, and the cause of the lag if they show it."""
    elapsed, queued = span.elapsed_s, span.queued_s
    parts = [f"In {elapsed:.1f} s the process used {_share(span.cpu_s, elapsed)} of a core"]
    if queued is not None:
        parts.append(f"waited for a CPU in {_share(queued, elapsed)} of the time")
    text = " and ".join(parts)
    if span.stolen_s:
        text += f"; the hypervisor took {span.stolen_s:.1f} s of this machine's CPUs"
    if span.busy_s > LEAST_BUSY_SECONDS:
        return f"{text}: the load is too much for this process."
    if queued is not None and queued > QUEUED_SHARE * elapsed:
        return f"{text}: other processes on this machine used the CPUs."
    if queued is not None and span.lagging_s > span.cpu_s + queued:
        return f"{text}, which does not explain the lag: it was stopped, or waited for something other than a CPU."
    return f"{text}."


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "none"


def _of_run(worker: Worker, shares: Sequence[float]) -> list[Overload]:
    """The reasons over the whole run, for a worker that was not overloaded in one phase."""
    reasons = []
    number, p99 = worker.worker, worker.lag_ms.p99
    name = "The gateway's process" if number == "gateway" else f"Worker {number}"
    if p99 is None:
        reasons.append(f"{name} did not report how it kept up.")
    elif p99 > LAG_BOUND_MS:
        loop = name if number == "gateway" else f"The event loop of worker {number}"
        reasons.append(f"{loop} lagged by {p99:.0f} ms (p99); up to {LAG_BOUND_MS:.0f} ms is reliable.")
    busy = sum(share > BUSY_SHARE for share in shares)
    if busy > max(LEAST_BUSY_SECONDS, BUSY_SECONDS * len(shares)):
        reasons.append(f"{name} used over {BUSY_SHARE * 100:.0f} % of its core in {busy} of {len(shares)} seconds.")
    return [Overload(None, number, "process", reason) for reason in reasons]


def _keys(metrics: Metrics, phases: Sequence[PhaseSummary]) -> list[Overload]:
    """The waits for RSA keys that this program makes, if they delay enrollments: one entry per phase that waited."""
    if KEY_STAGE not in metrics.stages():
        return []
    waits = metrics.stage_summary(KEY_STAGE)
    p99 = waits.latency_ms.p99
    if p99 is None or p99 <= KEY_WAIT_MS:
        return []
    waited = _phases_that_waited(phases)
    if not waited:
        return [_of_keys(None, f"{waits.count:,} waits, p99 {milliseconds(p99)}")]
    return [
        _of_keys(phase.name, f"{phase.key_waits or 0:,} waits, {seconds(_mean_wait(phase))} on average")
        for phase in waited
    ]


def _of_keys(phase: str | None, waits: str) -> Overload:
    subject = "Enrollments" if phase is None else f"Phase {phase}: enrollments"
    reason = (
        f"{subject} waited for the load generator's own RSA keys: {waits}. "
        "The wait is not in their latency, but fewer were in progress than planned."
    )
    return Overload(phase, None, "key", reason)


def _phases_that_waited(phases: Sequence[PhaseSummary]) -> list[PhaseSummary]:
    """The phases whose mean wait is long; if there are none, the one that waited most in all."""
    waited = [phase for phase in phases if phase.key_waits]
    long = [phase for phase in waited if _mean_wait(phase) * 1000.0 > KEY_WAIT_MS]
    return long or sorted(waited, key=lambda phase: -(phase.key_wait_s or 0.0))[:1]


def _mean_wait(phase: PhaseSummary) -> float:
    return (phase.key_wait_s or 0.0) / (phase.key_waits or 1)


OVERLOADED = "overloaded, latencies include its delays"


def in_trouble(lag_ms: float, cpu: float) -> bool:
    """Whether latencies that are measured with such a lag and CPU share include much delay of this program."""
    return lag_ms > LAG_BOUND_MS or cpu > BUSY_SHARE


def strain(lag_ms: float, cpu: float) -> str:
    """The lag and the CPU share as text: ``lag 2 ms, CPU 45 %``."""
    lag = f"{lag_ms:.1f}" if lag_ms < 9.95 else f"{lag_ms:,.0f}"
    return f"lag {lag} ms, CPU {cpu * 100:.0f} %"
