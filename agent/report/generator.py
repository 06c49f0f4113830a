"""Whether the load generator itself kept up: an overloaded one measures itself and calls it the server.

Each worker measures its event loop's lag, its CPU and its wait for a CPU, for the run and for each phase
(`agent.load.overload`); what they say becomes the key ``generator`` of the results. A phase is judged by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.measure.latencies import Latencies
from agent.measure.metrics import Metrics
from agent.measure.records import STAGES
from agent.measure.timeline import BUSY_SHARE, LAG_BOUND_MS
from agent.report.numbers import milliseconds
from agent.report.schema import GeneratorDocument, LagDocument, OverloadDocument, SpanDocument, WorkerDocument

BUSY_SECONDS = 0.1  # of the seconds
LEAST_BUSY_SECONDS = 1.5  # one second at full load is no overload
LEAST_LAGGING_SECONDS = 0.1  # in a short phase one pause of the interpreter is no overload
LATE_SHARE = 0.01  # of what a worker started in a phase: from there on the p99 is the generator's
QUEUED_SHARE = 0.1  # of the time: from there on the machine's other processes are named as the cause
KEY_WAIT_MS = 100.0  # as long as makes a start late
KEY_STAGE = "key"  # the wait for an RSA key that this program makes itself

_DECIMALS = 3


def generator_document(
    workers: Sequence[Mapping[str, Any]], *, embedded_lab: bool = False, metrics: Metrics | None = None
) -> GeneratorDocument:
    """The verdict over the workers.

    Of each: ``worker`` (its number, or "gateway"), ``lag`` (an encoded histogram as `Latencies` makes, or ``p50``,
    ``p99`` and ``max`` in ms, or None where the worker did not live to tell), ``cpu_s``, ``cpu_by_second`` (shares of a
    core), ``max_rss_kib``, and ``phases`` (`agent.load.progress.phases_of`), which may be left out; ``key_waits`` and
    ``key_wait_s`` where it makes RSA keys, ``silent_s`` where it said nothing for a while. Of no workers nothing is
    known, so that they are not to be trusted. ``metrics`` tell of the waits for keys.
    """
    documents = [_worker(facts) for facts in workers]
    overloaded: list[OverloadDocument]
    overloaded = [] if workers else [_overload(None, None, "The load generator did not measure itself.")]
    for document, facts in zip(documents, workers, strict=True):
        in_phases = [each for span in document.get("phases", ()) for each in _of_phase(document["worker"], span)]
        overloaded += in_phases or _of_run(document, facts["cpu_by_second"])
    if metrics is not None:
        overloaded += _keys(metrics)
    return {
        "trustworthy": not overloaded,
        "embedded_lab": embedded_lab,
        "reasons": [each["reason"] for each in overloaded],
        "overloaded": overloaded,
        "workers": documents,
    }


def unreliable(
    overloaded: Sequence[OverloadDocument], phases: Sequence[Mapping[str, Any]], timeline: Sequence[Mapping[str, Any]]
) -> frozenset[str]:
    """What was measured while the generator was overloaded: operations and stages, or one metric of an operation.

    An operation counts where one of it ended during a phase of ``overloaded``; where nobody knows when, all do.
    """
    names: set[str] = set()
    spans: list[tuple[float, float | None]] = []
    for each in overloaded:
        if each["kind"] == "key":
            names.add("enroll.rate")  # the wait is not in the latency
        elif each["phase"] is None:
            spans.append((0.0, None))
        else:
            spans += [
                (phase["started_s"] or 0.0, phase["ended_s"]) for phase in phases if phase["name"] == each["phase"]
            ]
    if spans:
        names.update(STAGES)
    for began, ended in spans:
        for row in timeline:
            if int(began) <= row["t"] and (ended is None or row["t"] <= ended):
                names.update(row["operations"])
    return frozenset(names)


def _worker(facts: Mapping[str, Any]) -> WorkerDocument:
    document: WorkerDocument = {
        "worker": facts["worker"],
        "lag_ms": _lag(facts["lag"]),
        "cpu_s": round(facts["cpu_s"], _DECIMALS),
        "busiest_second": round(max(facts["cpu_by_second"], default=0.0), _DECIMALS),
        "max_rss_kib": facts["max_rss_kib"],
        "phases": [_span(span) for span in facts.get("phases", ())],
    }
    if facts.get("silent_s"):
        document["silent_s"] = round(facts["silent_s"], _DECIMALS)
    if "key_waits" in facts:
        document["key_waits"] = facts["key_waits"]
        document["key_wait_s"] = round(facts["key_wait_s"], _DECIMALS)
    return document


def _span(span: Mapping[str, Any]) -> SpanDocument:
    return {
        "phase": span["phase"],
        "elapsed_s": _rounded(span["elapsed_s"]),
        "cpu_s": _rounded(span["cpu_s"]),
        "busy_s": _rounded(span["busy_s"]),
        "lag_ms": _lag({"p50": span["p50_ms"], "p99": span["p99_ms"], "max": span["max_ms"]}),
        "lagging_s": _rounded(span["lagging_s"]),
        "queued_s": None if span["queued_s"] is None else _rounded(span["queued_s"]),
        "stolen_s": None if span["stolen_s"] is None else _rounded(span["stolen_s"]),
        "pressed_s": None if span["pressed_s"] is None else _rounded(span["pressed_s"]),
        "started": span["started"],
        "late": span["late"],
    }


def _rounded(number: float) -> float:
    return round(max(0.0, number), _DECIMALS)


def _lag(lag: str | Mapping[str, float] | None) -> LagDocument:
    if lag is None:
        return {"p50": None, "p99": None, "max": None}
    if isinstance(lag, str):
        summary = Latencies.of(lag).summary()
        lag = {"p50": summary.p50 or 0.0, "p99": summary.p99 or 0.0, "max": summary.max or 0.0}
    return {
        "p50": round(lag["p50"], _DECIMALS),
        "p99": round(lag["p99"], _DECIMALS),
        "max": round(lag["max"], _DECIMALS),
    }


def _overload(worker: Any, phase: str | None, reason: str, kind: Any = "process") -> OverloadDocument:
    return {"phase": phase, "worker": worker, "kind": kind, "reason": reason}


def _of_phase(worker: Any, span: SpanDocument) -> Iterator[OverloadDocument]:
    """Why what was measured in this phase is the worker's own doing."""
    name = "the gateway's process" if worker == "gateway" else f"worker {worker}"
    where = f"Phase {span['phase']}, {name}"
    p99, worst, elapsed = span["lag_ms"]["p99"] or 0.0, span["lag_ms"]["max"], span["elapsed_s"]
    if p99 > LAG_BOUND_MS and span["lagging_s"] >= LEAST_LAGGING_SECONDS:
        text = (
            f"{where}: the event loop lagged by {milliseconds(p99)} (p99 over time; up to {LAG_BOUND_MS:.0f} ms is "
            f"reliable), at worst {milliseconds(worst)}. {_measured(span)}"
        )
        yield _overload(worker, span["phase"], text)
    elif span["busy_s"] > max(LEAST_BUSY_SECONDS, BUSY_SECONDS * elapsed):
        text = f"{where}: over {BUSY_SHARE:.0%} of a core was used in {span['busy_s']:.0f} of {elapsed:.0f} s."
        yield _overload(worker, span["phase"], text)
    if span["late"] > LATE_SHARE * span["started"]:
        text = f"{where}: {span['late']:,} of {span['started']:,} operations started over 100 ms after they were due."
        yield _overload(worker, span["phase"], text, "late")


def _measured(span: SpanDocument) -> str:
    """What was measured of the cause, and the cause where that tells it."""
    elapsed, queued = span["elapsed_s"], span["queued_s"]
    parts = [f"In {elapsed:.1f} s the process used {_share(span['cpu_s'], elapsed)} of a core"]
    if queued is not None:
        parts.append(f"waited for a CPU in {_share(queued, elapsed)} of the time")
    text = " and ".join(parts)
    if span["stolen_s"]:
        text += f"; the hypervisor took {span['stolen_s']:.1f} s of this machine's CPUs"
    if span["busy_s"] > LEAST_BUSY_SECONDS:
        return f"{text}: the load is too much for this process."
    if queued is not None and queued > QUEUED_SHARE * elapsed:
        return f"{text}: other processes on this machine used the CPUs."
    if queued is not None and span["lagging_s"] > span["cpu_s"] + queued:
        return f"{text}, which does not explain the lag: it was stopped, or waited for something other than a CPU."
    return f"{text}."


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "none"


def _of_run(worker: WorkerDocument, shares: Sequence[float]) -> list[OverloadDocument]:
    """The same over the whole run, for what was in no phase."""
    reasons = []
    number = worker["worker"]
    name = "The gateway's process" if number == "gateway" else f"Worker {number}"
    p99 = worker["lag_ms"]["p99"]
    if p99 is None:
        reasons.append(f"{name} did not tell how it kept up.")
    elif p99 > LAG_BOUND_MS:
        loop = name if number == "gateway" else f"The event loop of worker {number}"
        reasons.append(f"{loop} lagged by {p99:.0f} ms (p99); up to {LAG_BOUND_MS:.0f} ms is reliable.")
    busy = sum(share > BUSY_SHARE for share in shares)
    if busy > max(LEAST_BUSY_SECONDS, BUSY_SECONDS * len(shares)):
        reasons.append(f"{name} used over {BUSY_SHARE * 100:.0f} % of its core in {busy} of {len(shares)} seconds.")
    return [_overload(number, None, reason) for reason in reasons]


def _keys(metrics: Metrics) -> list[OverloadDocument]:
    """The wait for keys that this program makes itself, where it keeps enrolments from beginning."""
    if KEY_STAGE not in metrics.stages():
        return []
    waits = metrics.stage_summary(KEY_STAGE)
    if waits.p99 is None or waits.p99 <= KEY_WAIT_MS:
        return []
    text = (
        f"Enrolments waited for the load generator's own RSA keys: {waits.count:,} waits, "
        f"p99 {milliseconds(waits.p99)}. The wait is not in their latency, but fewer were under way than planned."
    )
    return [_overload(None, None, text, "key")]


OVERLOADED = "overloaded, latencies include its delays"


def in_trouble(lag_ms: float, cpu: float) -> bool:
    """Whether latencies measured with such a lag and share of a core include much of this program's own."""
    return lag_ms > LAG_BOUND_MS or cpu > BUSY_SHARE


def strain(lag_ms: float, cpu: float) -> str:
    """The lag and the share of a core: ``lag 2 ms, CPU 45 %``."""
    lag = f"{lag_ms:.1f}" if lag_ms < 9.95 else f"{lag_ms:,.0f}"
    return f"lag {lag} ms, CPU {cpu * 100:.0f} %"
