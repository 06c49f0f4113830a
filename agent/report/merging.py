"""Several runs as one: the documents of machines that shared a load, added up.

They come from `agent.report.results`, and what comes out is such a document again. Latencies are merged exactly, from
their histograms; what cannot be added up is left out, and the document says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, cast

from agent.errors import OperatorError
from agent.measure.limits import judge, parse_limit
from agent.measure.metrics import Metrics
from agent.measure.records import OPERATIONS
from agent.report.generator import unreliable
from agent.report.results import counted, with_outcome
from agent.report.schema import (
    GeneratorDocument,
    LatencyDocument,
    OperationDocument,
    OverloadDocument,
    PhaseDocument,
    ResultsDocument,
    SecondDocument,
)

_US_PER_MS = 1000.0
_ROUNDED = "percentiles of the time line are the largest of the runs', which those of all together do not exceed"


def metrics_of(document: ResultsDocument) -> Metrics:
    """The metrics that ``document`` was made of, as far as it holds them: counts and latencies exactly, means and
    rates as they were rounded. Times count from each operation's first start. Raises OperatorError."""
    metrics = Metrics()
    metrics.merge(
        {
            "operations": {name: _operation(found) for name, found in document["operations"].items()},
            "stages": {
                name: _latencies(found["latency_ms"], found["count"], found["clamped"], found["histogram"])
                for name, found in document["stages"].items()
            },
            "failures": [{**error, "first": 0.0} for error in document["errors"]],
            "drops": document["dropped"],
            "cuts": document.get("cut_short", []),
        }
    )
    return metrics


def merge_documents(documents: Sequence[ResultsDocument]) -> ResultsDocument:
    """One document of several, as if they had run at the same time: second 0 is the start of each.

    Limits are judged anew over all. Raises OperatorError for none, and for a document that contradicts itself.
    """
    if not documents:
        raise OperatorError("Expected the results of one run or more to merge; found none.")
    metrics = Metrics()
    for document in documents:
        metrics.merge(metrics_of(document).snapshot())
    before = [document["merged"] for document in documents if "merged" in document]
    left_out = [each for merged_before in before for each in merged_before["left_out"] if each != _ROUNDED]
    runs = len(documents) - len(before) + sum(each["runs"] for each in before)
    texts = dict.fromkeys(verdict["limit"] for document in documents for verdict in document["limits"])
    phases, timeline, generator = _phases(documents, left_out), _timeline(documents, left_out), _generator(documents)
    in_doubt = unreliable(generator.get("overloaded", ()), phases, timeline)
    verdicts = [judge(parse_limit(text), metrics, in_doubt) for text in texts]
    merged: dict[str, Any] = {
        **_identity(documents, left_out),
        **counted(metrics),
        "phases": phases,
        "timeline": timeline,
        "generator": generator,
        "limits": [asdict(verdict) for verdict in verdicts],
        "resources": {
            "cpu_s": round(sum(each["resources"]["cpu_s"] for each in documents), 3),
            "max_rss_kib": max(each["resources"]["max_rss_kib"] for each in documents),
        },
        **_optional(documents, left_out),
        "merged": {"runs": runs, "left_out": list(dict.fromkeys(left_out))},
    }
    return with_outcome(merged)


def _operation(found: OperationDocument) -> dict[str, Any]:
    # The rate is the count over the seconds in which it ran, so these follow from it.
    ran = found["count"] > 0
    seconds = found["count"] / found["rate_per_s"] if found["rate_per_s"] else 0.0
    timed = found["count"] - found["errors"] + found.get("timed_out", 0)
    return {
        "count": found["count"],
        "errors": found["errors"],
        "timed_out": found.get("timed_out", 0),
        "cut_short": found.get("cut_short", 0),
        "open": 0,
        "late": found["late"],
        "dropped": found["dropped"],
        "first": 0.0 if ran else None,
        "last": seconds if ran else None,
        "latencies": _latencies(found["latency_ms"], timed, found["clamped"], found["histogram"]),
    }


def _latencies(latency: LatencyDocument, timed: int, clamped: int, histogram: str) -> dict[str, Any]:
    highest = round((latency["max"] or 0.0) * _US_PER_MS)
    total = round((latency["mean"] or 0.0) * _US_PER_MS * timed)
    return {
        "clamped": clamped,
        "max_us": highest,
        "total_us": min(max(total, timed), highest * timed),
        "histogram": histogram,
    }


def _identity(documents: Sequence[ResultsDocument], left_out: list[str]) -> dict[str, Any]:
    first = documents[0]
    causes = [
        f"run {number}: {document.get('incomplete_because', 'it does not say why')}"
        for number, document in enumerate(documents, 1)
        if not document["complete"] or "signal" in document
    ]
    seeds = {document["seed"] for document in documents}
    if len(seeds) > 1:
        left_out.append("the seed differs from run to run")
    return {
        "schema": first["schema"],
        "version": _joined(document["version"] for document in documents),
        "name": _joined(document["name"] for document in documents),
        "seed": first["seed"] if len(seeds) == 1 else None,
        "devices": sum(document["devices"] for document in documents),
        "workers": sum(document["workers"] for document in documents),
        "started": min(document["started"] for document in documents),
        "duration_s": max(document["duration_s"] for document in documents),
        "complete": not causes,
        **({"incomplete_because": "; ".join(causes)} if causes else {}),
    }


def _joined(texts: Iterable[str]) -> str:
    return " + ".join(dict.fromkeys(texts))


def _phases(documents: Sequence[ResultsDocument], left_out: list[str]) -> list[PhaseDocument]:
    plans = [[(phase["name"], phase["kind"]) for phase in document["phases"]] for document in documents]
    if any(plan != plans[0] for plan in plans):
        left_out.append("the phases differ from run to run")
        return []
    return [_phase(phases) for phases in zip(*(document["phases"] for document in documents), strict=True)]


def _phase(phases: Sequence[PhaseDocument]) -> PhaseDocument:
    planned = [phase["planned"] for phase in phases]
    whole: PhaseDocument = {
        "name": phases[0]["name"],
        "kind": phases[0]["kind"],
        "started_s": _of_all(min, [phase["started_s"] for phase in phases]),
        "ended_s": _of_all(max, [phase["ended_s"] for phase in phases]),
        "planned": None if None in planned else sum(each for each in planned if each is not None),
        "started": sum(phase["started"] for phase in phases),
        "done": sum(phase["done"] for phase in phases),
        "failed": sum(phase["failed"] for phase in phases),
        "cut_short": sum(phase.get("cut_short", 0) for phase in phases),
        "late": sum(phase["late"] for phase in phases),
        "dropped": sum(phase["dropped"] for phase in phases),
    }
    if any("key_waits" in phase for phase in phases):
        whole["key_waits"] = sum(phase.get("key_waits", 0) for phase in phases)
        whole["key_wait_s"] = sum(phase.get("key_wait_s", 0.0) for phase in phases)
    return whole


def _of_all(choice: Callable[[list[float]], float], found: list[float | None]) -> float | None:
    """The smallest or largest; None where one run has none, because then it is not true of all."""
    known = [each for each in found if each is not None]
    return choice(known) if len(known) == len(found) else None


def _timeline(documents: Sequence[ResultsDocument], left_out: list[str]) -> list[SecondDocument]:
    if len(documents) > 1 and any(document["timeline"] for document in documents):
        left_out.append(_ROUNDED)
    seconds: dict[int, list[SecondDocument]] = {}
    for document in documents:
        for row in document["timeline"]:
            seconds.setdefault(row["t"], []).append(row)
    return [_second(t, seconds[t]) for t in sorted(seconds)]


def _second(t: int, rows: list[SecondDocument]) -> SecondDocument:
    states = dict.fromkeys(state for row in rows for state in row["macs"])
    names = {name for row in rows for name in row["operations"]}
    operations = {}
    for name in (each for each in OPERATIONS if each in names):
        ended = [row["operations"][name] for row in rows if name in row["operations"]]
        operations[name] = {
            "count": sum(each["count"] for each in ended),
            "errors": sum(each["errors"] for each in ended),
            "p50_ms": _largest(each["p50_ms"] for each in ended),
            "p99_ms": _largest(each["p99_ms"] for each in ended),
        }
    merged = {
        "t": t,
        "operations": operations,
        "macs": {state: sum(row["macs"].get(state, 0) for row in rows) for state in states},
        "connections": sum(row["connections"] for row in rows),
        "pushes_waiting": sum(row["pushes_waiting"] for row in rows),
        "lag_ms": _largest(row["lag_ms"] for row in rows),
        "cpu": _largest(row["cpu"] for row in rows),
    }
    return cast(SecondDocument, merged)


def _largest(numbers: Iterable[float | None]) -> float | None:
    return max((number for number in numbers if number is not None), default=None)


def _generator(documents: Sequence[ResultsDocument]) -> GeneratorDocument:
    workers = [
        (number, worker) for number, document in enumerate(documents) for worker in document["generator"]["workers"]
    ]
    workers.sort(key=lambda each: each[1]["worker"] == "gateway")
    numbers: dict[tuple[int, Any], Any] = {}  # by the run, and the number there
    for number, (run, worker) in enumerate(workers):
        numbers[run, worker["worker"]] = worker["worker"] if worker["worker"] == "gateway" else number
    overloaded: list[OverloadDocument] = []
    for run, document in enumerate(documents):
        for each in document["generator"].get("overloaded", ()):
            worker_number = numbers.get((run, each["worker"]))
            overloaded.append({**each, "worker": worker_number, "reason": _of_run(documents, run, each["reason"])})
    return {
        "trustworthy": all(document["generator"]["trustworthy"] for document in documents),
        "embedded_lab": any(document["generator"].get("embedded_lab", False) for document in documents),
        "reasons": [
            _of_run(documents, run, reason)
            for run, document in enumerate(documents)
            for reason in document["generator"]["reasons"]
        ],
        "overloaded": overloaded,
        "workers": [{**worker, "worker": numbers[run, worker["worker"]]} for run, worker in workers],
    }


def _of_run(documents: Sequence[ResultsDocument], run: int, text: str) -> str:
    return text if len(documents) == 1 else f"Run {run + 1}: {text}"


def _optional(documents: Sequence[ResultsDocument], left_out: list[str]) -> dict[str, Any]:
    """What is the same of all runs, and the pushes of all."""
    kept: dict[str, Any] = {}
    everything = cast(Sequence[dict[str, Any]], documents)
    for key in ("push", "keys", "scenario", "host"):
        found = [document.get(key) for document in everything]
        if all(each == found[0] for each in found) and key != "push":
            added = found[0]
        elif key == "push":
            added = _added([each for each in found if each is not None])
        else:
            left_out.append(f"the {key} differs from run to run")
            continue
        if added is not None:
            kept[key] = added
    return kept


def _added(counts: list[Any]) -> Any:
    """Counts, added up key by key, also in the dicts among them."""
    found = [each for each in counts if isinstance(each, dict)]
    if not found:
        return sum(each for each in counts if isinstance(each, int | float)) if counts else None
    keys = dict.fromkeys(key for each in found for key in each)
    return {key: _added([each[key] for each in found if key in each]) for key in keys}
