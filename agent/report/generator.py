"""Whether the load generator itself kept up: a busy one measures itself and calls it the server.

Each worker measures its event loop's lag and its CPU; what they say becomes the key ``generator`` of the results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.load.latencies import Latencies
from agent.report.schema import GeneratorDocument, LagDocument, WorkerDocument

LAG_P99_MS = 50.0  # half of what makes a start late
BUSY_SHARE = 0.9  # of a core
BUSY_SECONDS = 0.1  # of the seconds

_DECIMALS = 3


def generator_document(workers: Sequence[Mapping[str, Any]]) -> GeneratorDocument:
    """The verdict over the workers.

    Of each: ``worker`` (its number, or "gateway"), ``lag`` (an encoded histogram as `Latencies` makes, or ``p50``,
    ``p99`` and ``max`` in ms, or None where the worker did not live to tell), ``cpu_s``, ``cpu_by_second`` (shares of a
    core), ``max_rss_kib``; ``key_waits`` and ``key_wait_s`` where it makes RSA keys, and ``silent_s`` where it said
    nothing for a while. Of no workers nothing is known, so that they are not to be trusted.
    """
    documents = [_worker(facts) for facts in workers]
    reasons = [] if workers else ["The load generator did not measure itself."]
    for document, facts in zip(documents, workers, strict=True):
        reasons += _reasons(document, facts["cpu_by_second"])
    return {"trustworthy": not reasons, "reasons": reasons, "workers": documents}


def _worker(facts: Mapping[str, Any]) -> WorkerDocument:
    document: WorkerDocument = {
        "worker": facts["worker"],
        "lag_ms": _lag(facts["lag"]),
        "cpu_s": round(facts["cpu_s"], _DECIMALS),
        "busiest_second": round(max(facts["cpu_by_second"], default=0.0), _DECIMALS),
        "max_rss_kib": facts["max_rss_kib"],
    }
    if facts.get("silent_s"):
        document["silent_s"] = round(facts["silent_s"], _DECIMALS)
    if "key_waits" in facts:
        document["key_waits"] = facts["key_waits"]
        document["key_wait_s"] = round(facts["key_wait_s"], _DECIMALS)
    return document


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


def _reasons(worker: WorkerDocument, shares: Sequence[float]) -> list[str]:
    reasons = []
    number = worker["worker"]
    name = "The gateway's process" if number == "gateway" else f"Worker {number}"
    p99 = worker["lag_ms"]["p99"]
    if p99 is None:
        reasons.append(f"{name} did not tell how it kept up.")
    elif p99 > LAG_P99_MS:
        loop = name if number == "gateway" else f"The event loop of worker {number}"
        reasons.append(f"{loop} lagged by {p99:.0f} ms (p99); no more than {LAG_P99_MS:.0f} ms is to be trusted.")
    busy = sum(share > BUSY_SHARE for share in shares)
    if busy > max(1, BUSY_SECONDS * len(shares)):
        reasons.append(f"{name} used over {BUSY_SHARE * 100:.0f} % of its core in {busy} of {len(shares)} seconds.")
    return reasons
