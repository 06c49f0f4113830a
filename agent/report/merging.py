"""Adds up the results of several machines that shared a load, as if they had been one run.

The documents come from `agent.report.results`, and so does the type of the sum. Latencies are merged exactly, from
their histograms; what cannot be added up is left out, and the document names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec.structs import asdict, replace

from agent.errors import OperatorError
from agent.measure.latencies import LatencySummary
from agent.measure.limits import judge, parse_limit
from agent.measure.metrics import Metrics
from agent.measure.records import OPERATIONS
from agent.measure.summaries import ChangeSummary, OperationSummary, PhaseSummary, added_rules
from agent.measure.timeline import Second, SecondOfOperation
from agent.report.altered import altered, changes_told, same_changes
from agent.report.document import SCHEMA, Document, Generator, Merged, Overload, Resources, WorkerName
from agent.report.generator import unreliable
from agent.report.results import counted, with_outcome

_US_PER_MS = 1000.0
_ROUNDED = "percentiles of the time line are the largest of the runs', which those of all together do not exceed"


def metrics_of(document: Document) -> Metrics:
    """The metrics of which ``document`` was made: counts and latencies exactly, means and rates as they were rounded.

    Times count from each operation's first start. Raises OperatorError if the document contradicts itself.
    """
    metrics = Metrics()
    metrics.merge(
        {
            "operations": {name: _operation(found) for name, found in document.operations.items()},
            "stages": {
                name: _latencies(found.latency_ms, found.timed, found.clamped, found.histogram)
                for name, found in document.stages.items()
            },
            "connections": document.connections,
            "failures": [{**asdict(error), "first": 0.0} for error in document.errors],
            "drops": [asdict(drop) for drop in document.dropped],
            "cuts": [asdict(cut) for cut in document.cut_short],
        }
    )
    return metrics


def merge_documents(documents: Sequence[Document]) -> Document:
    """One document of several, as if they had run at the same time: second 0 is the start of each.

    Limits are judged again over all runs. Raises OperatorError without documents, and if a document contradicts itself.
    """
    if not documents:
        raise OperatorError("Expected the results of at least one run to merge, found none.")
    metrics = Metrics()
    for document in documents:
        metrics.merge(metrics_of(document).snapshot())
    before = [document.merged for document in documents if document.merged is not None]
    left_out = [each for merged_before in before for each in merged_before.left_out if each != _ROUNDED]
    runs = len(documents) - len(before) + sum(each.runs for each in before)
    changes = _changes(documents, left_out)
    phases, timeline, generator = _phases(documents, left_out), _timeline(documents, left_out), _generator(documents)
    push = _added([document.push for document in documents if document.push is not None])
    in_doubt = unreliable(generator.overloaded, phases, timeline, metrics.failures(), push)
    causes = [
        f"run {number}: {document.incomplete_because or 'it does not say why'}"
        for number, document in enumerate(documents, 1)
        if not document.complete or document.signal is not None
    ]
    texts = dict.fromkeys(verdict.limit for document in documents for verdict in document.limits)
    merged = Document(
        schema=SCHEMA,
        version=_joined(document.version for document in documents),
        name=_joined(document.name for document in documents),
        seed=_same("seed", documents, left_out),
        devices=sum(document.devices for document in documents),
        workers=sum(document.workers for document in documents),
        started=min(document.started for document in documents),
        duration_s=max(document.duration_s for document in documents),
        complete=not causes,
        incomplete_because="; ".join(causes) or None,
        **counted(metrics),
        phases=phases,
        timeline=timeline,
        generator=generator,
        limits=[judge(parse_limit(text), metrics, in_doubt, altered(changes, timeline)) for text in texts],
        push=push,
        changes=changes,
        changed=changes_told(changes, phases, max(document.duration_s for document in documents)),
        rules=added_rules(document.rules for document in documents),
        resumed=[each for document in documents for each in document.resumed],
        keys=_same("keys", documents, left_out),
        signatures=_same("signatures", documents, left_out),
        resources=Resources(
            round(sum(each.resources.cpu_s for each in documents), 3),
            max(each.resources.max_rss_kib for each in documents),
        ),
        scenario=_same("scenario", documents, left_out),
        host=_same("host", documents, left_out),
    )
    return with_outcome(replace(merged, merged=Merged(runs, list(dict.fromkeys(left_out)))))


def _changes(documents: Sequence[Document], left_out: list[str]) -> list[ChangeSummary]:
    """The changes of the first run, which must be those of all to be the load; those of all runs where they differ."""
    first = documents[0].changes
    if all(same_changes(first, document.changes) for document in documents):
        return first
    left_out.append("the changes differ from run to run: those of all runs are listed")
    return sorted((change for document in documents for change in document.changes), key=lambda each: each.at_s)


def _operation(found: OperationSummary) -> dict[str, Any]:
    # The rate is the count over the seconds in which the operation ran.
    seconds = found.count / found.rate_per_s if found.rate_per_s else 0.0
    return {
        "count": found.count,
        "in_pauses": 0,
        "errors": found.errors,
        "timed_out": found.timed_out,
        "cut_short": found.cut_short,
        "open": 0,
        "user_channel": found.user_channel,
        "late": found.late,
        "dropped": found.dropped,
        "first": 0.0 if found.count else None,
        "last": seconds if found.count else None,
        "latencies": _latencies(found.latency_ms, found.timed, found.clamped, found.histogram),
    }


def _latencies(latency: LatencySummary, timed: int, clamped: int, histogram: str) -> dict[str, Any]:
    highest = round((latency.max or 0.0) * _US_PER_MS)
    total = round((latency.mean or 0.0) * _US_PER_MS * timed)
    return {
        "clamped": clamped,
        "max_us": highest,
        "total_us": min(max(total, timed), highest * timed),
        "histogram": histogram,
    }


def _same(key: str, documents: Sequence[Document], left_out: list[str]) -> Any:
    """The value of a key that all documents share; otherwise None, and the key is left out."""
    found = [getattr(document, key) for document in documents]
    if all(each == found[0] for each in found):
        return found[0]
    left_out.append(f"the {key} differs from run to run")
    return None


def _joined(texts: Iterable[str]) -> str:
    return " + ".join(dict.fromkeys(texts))


def _phases(documents: Sequence[Document], left_out: list[str]) -> list[PhaseSummary]:
    plans = [[(phase.name, phase.kind) for phase in document.phases] for document in documents]
    if any(plan != plans[0] for plan in plans):
        left_out.append("the phases differ from run to run")
        return []
    return [_phase(phases) for phases in zip(*(document.phases for document in documents), strict=True)]


def _phase(phases: Sequence[PhaseSummary]) -> PhaseSummary:
    planned = [phase.planned for phase in phases]
    waited = any(phase.key_waits is not None for phase in phases)
    return PhaseSummary(
        name=phases[0].name,
        kind=phases[0].kind,
        started_s=_of_all(min, [phase.started_s for phase in phases]),
        ended_s=_of_all(max, [phase.ended_s for phase in phases]),
        paused_s=max((phase.paused_s or 0.0 for phase in phases), default=0.0) or None,
        planned=None if None in planned else sum(each for each in planned if each is not None),
        started=sum(phase.started for phase in phases),
        done=sum(phase.done for phase in phases),
        failed=sum(phase.failed for phase in phases),
        late=sum(phase.late for phase in phases),
        cut_short=sum(phase.cut_short or 0 for phase in phases),
        dropped=sum(phase.dropped for phase in phases),
        key_waits=sum(phase.key_waits or 0 for phase in phases) if waited else None,
        key_wait_s=sum(phase.key_wait_s or 0.0 for phase in phases) if waited else None,
    )


def _of_all(choice: Callable[[list[float]], float], found: list[float | None]) -> float | None:
    """The smallest or largest; None if one run has none, because then it is not true of all."""
    known = [each for each in found if each is not None]
    return choice(known) if len(known) == len(found) else None


def _timeline(documents: Sequence[Document], left_out: list[str]) -> list[Second]:
    if len(documents) > 1 and any(document.timeline for document in documents):
        left_out.append(_ROUNDED)
    seconds: dict[int, list[Second]] = {}
    for document in documents:
        for row in document.timeline:
            seconds.setdefault(row.t, []).append(row)
    return [_second(t, seconds[t]) for t in sorted(seconds)]


def _second(t: int, rows: list[Second]) -> Second:
    states = dict.fromkeys(state for row in rows for state in row.macs)
    names = {name for row in rows for name in row.operations}
    operations = {}
    for name in (each for each in OPERATIONS if each in names):
        ended = [row.operations[name] for row in rows if name in row.operations]
        operations[name] = SecondOfOperation(
            sum(each.count for each in ended),
            sum(each.errors for each in ended),
            _largest(each.p50_ms for each in ended),
            _largest(each.p99_ms for each in ended),
        )
    return Second(
        t=t,
        operations=operations,
        macs={state: sum(row.macs.get(state, 0) for row in rows) for state in states},
        connections=sum(row.connections for row in rows),
        pushes_waiting=sum(row.pushes_waiting for row in rows),
        lag_ms=_largest(row.lag_ms for row in rows),
        cpu=_largest(row.cpu for row in rows),
        paused_s=_largest(row.paused_s for row in rows),
        rates={name: sum(row.rates.get(name, 0.0) for row in rows) for row in rows for name in row.rates},
    )


def _largest(numbers: Iterable[float | None]) -> float | None:
    return max((number for number in numbers if number is not None), default=None)


def _generator(documents: Sequence[Document]) -> Generator:
    workers = [(run, worker) for run, document in enumerate(documents) for worker in document.generator.workers]
    workers.sort(key=lambda each: each[1].worker == "gateway")
    numbers: dict[tuple[int, WorkerName | None], WorkerName] = {}  # by the run, and the number there
    for number, (run, worker) in enumerate(workers):
        numbers[run, worker.worker] = "gateway" if worker.worker == "gateway" else number
    return Generator(
        trustworthy=all(document.generator.trustworthy for document in documents),
        embedded_lab=any(document.generator.embedded_lab for document in documents),
        reasons=[
            _of_run(documents, run, reason)
            for run, document in enumerate(documents)
            for reason in document.generator.reasons
        ],
        overloaded=[
            Overload(each.phase, numbers.get((run, each.worker)), each.kind, _of_run(documents, run, each.reason))
            for run, document in enumerate(documents)
            for each in document.generator.overloaded
        ],
        workers=[replace(worker, worker=numbers[run, worker.worker]) for run, worker in workers],
    )


def _of_run(documents: Sequence[Document], run: int, text: str) -> str:
    return text if len(documents) == 1 else f"Run {run + 1}: {text}"


def _added(counts: list[Any]) -> Any:
    """Counts added up key by key, also in nested dicts; None without counts."""
    found = [each for each in counts if isinstance(each, dict)]
    if not found:
        return sum(each for each in counts if isinstance(each, int | float)) if counts else None
    keys = dict.fromkeys(key for each in found for key in each)
    return {key: _added([each[key] for each in found if key in each]) for key in keys}
