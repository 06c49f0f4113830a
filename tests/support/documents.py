"""Results documents as real runs leave them, for the tests of what reads them: a good run, a failed one, an empty one,
a run of hours, one whose peer wrote what it could to do harm. The same call makes the same document."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from statistics import quantiles
from typing import Any

import msgspec
from hdrh.histogram import HdrHistogram

from agent.report import document as types

Document = dict[str, Any]


def typed(document: Document) -> types.Document:
    """A document as the readers of results take it."""
    return msgspec.convert(document, types.Document)


def plain(document: types.Document) -> Document:
    """A document as it is in the file."""
    found: Document = msgspec.to_builtins(document)
    return found


SAMPLES = 12  # latencies drawn for one operation in one second; each stands for an equal part of its count

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'`${7*7}{{7*7}}\u2028\u202e\x1b[31m"
)


@dataclass
class _Totals:
    """What a made-up operation leaves behind."""

    histogram: HdrHistogram = field(default_factory=lambda: HdrHistogram(1, 3_600_000_000, 3))
    count: int = 0
    errors: int = 0
    total_ms: float = 0.0


@dataclass(frozen=True)
class Shape:
    """How an operation goes at second ``t``: how many, their median in ms and spread, the share that fails."""

    per_s: Callable[[int], float]
    median_ms: Callable[[int], float]
    sigma: float = 0.45
    errors: Callable[[int], float] = lambda t: 0.0


def between(first: int, last: int, rate: float) -> Callable[[int], float]:
    """A rate from one second to another, and none before and after."""
    return lambda t: rate if first <= t < last else 0.0


def constant(number: float) -> Callable[[int], float]:
    return lambda t: number


STEADY = {
    "enroll": Shape(between(0, 120, 10.0), constant(84.0), 0.35),
    "checkin": Shape(between(0, 120, 20.0), constant(9.0)),
    "session": Shape(
        lambda t: between(0, 120, 10.0)(t) + between(120, 480, 60 + 25 * math.sin(t / 30))(t), constant(31.0)
    ),
    "command": Shape(between(120, 480, 58.0), constant(12.0), 0.5),
    "enqueue": Shape(between(120, 480, 58.0), constant(4.2), 0.3),
    "delivery": Shape(between(120, 480, 58.0), constant(95.0), 0.4),
    "push": Shape(between(120, 480, 58.0), constant(21.0), 0.35),
    "lom_setup": Shape(between(480, 500, 6.0), constant(140.0), 0.3),
    "lom_device": Shape(between(500, 560, 20.0), constant(310.0), 0.3),
    "lom_link": Shape(between(500, 560, 20.0), constant(6.0), 0.4),
    "return": Shape(between(502, 565, 19.0), constant(2300.0), 0.25),
}


def _worse() -> dict[str, Shape]:
    """The same run against a server that breaks down from second 300 to 380."""

    def down(t: int) -> bool:
        return 300 <= t < 380

    shapes = dict(STEADY)
    shapes["session"] = Shape(
        STEADY["session"].per_s, lambda t: 850.0 if down(t) else 46.0, 0.55, lambda t: 0.12 if down(t) else 0.0004
    )
    shapes["command"] = Shape(STEADY["command"].per_s, lambda t: 300.0 if down(t) else 14.0, 0.6)
    shapes["delivery"] = Shape(STEADY["delivery"].per_s, lambda t: 2900.0 if down(t) else 130.0, 0.5)
    shapes["lom_link"] = Shape(STEADY["lom_link"].per_s, constant(6.2), 0.4, constant(0.01))
    return shapes


PHASES = [
    ("enroll the fleet", "enroll", 0.0, 120.0),
    ("warm up", "command", 120.0, 180.0),
    ("DeviceInformation for everyone", "command", 180.0, 480.0),
    ("set up LOM", "lom_setup", 480.0, 500.0),
    ("reset all", "lom", 500.0, 566.0),
    ("settle", "idle", 566.0, 600.0),
]


def good() -> Document:
    """Ten minutes, every limit passed, no error."""
    return _copy(_good())


def failed() -> Document:
    """The same, but the server broke down for a while: errors, failed limits, late and dropped work, a slow worker."""
    return _copy(_failed())


def empty() -> Document:
    """A run that was stopped before anything was done; no limits, no time line."""
    return deepcopy(_frame("nothing yet", 0.3)) | {
        "complete": False,
        "incomplete_because": "Ctrl-C after 0.3 s",
        "duration_s": 0.3,
    }


def smallest() -> Document:
    """Only the keys that every document has: no operations, no scenario, one Mac."""
    document = deepcopy(_frame("", 1.0)) | {"devices": 1, "workers": 1, "seed": None}
    reasons = ["The load generator did not measure itself."]
    document["generator"] = {"trustworthy": False, "reasons": reasons, "workers": []}
    return {name: each for name, each in document.items() if name not in ("scenario", "host")}


def hours(seconds: int = 4 * 3600) -> Document:
    """A run of hours with a spike of a single second in it, and a second without a report."""
    document = _frame("soak", float(seconds))
    document["timeline"] = [
        {
            "t": t,
            "operations": {
                "session": {"count": 10, "errors": 0, "p50_ms": 20.0, "p99_ms": 4000.0 if t == 7777 else 60.0}
            },
            "macs": {"new": 0, "idle": 90, "session": 10, "booting": 0, "off": 0, "left": 0},
            "connections": 10,
            "pushes_waiting": 0,
            "lag_ms": 900.0 if t == 5001 else 1.5,
            "cpu": 0.4,
        }
        for t in range(seconds)
        if t != 1234
    ]
    totals = _Totals(count=10 * seconds, total_ms=20.4 * 10 * seconds)
    totals.histogram.record_value(20_000, 99 * seconds // 10)
    totals.histogram.record_value(60_000, seconds // 10 - 1)
    totals.histogram.record_value(4_000_000)
    document["operations"] = {"session": _operation(totals, seconds)}
    document["phases"] = [_phase("soak", "command", 0.0, float(seconds), 10 * seconds)]
    return document


def hostile() -> Document:
    """A run whose every text is an attempt to get out of the place where it is shown."""
    document = failed()
    for error in document["errors"]:
        error["example"] = HOSTILE
        error["kind"] = HOSTILE
    document["name"] = HOSTILE
    document["phases"][0]["name"] = HOSTILE
    document["operations"][HOSTILE] = document["operations"]["session"]
    document["stages"][HOSTILE] = document["stages"]["connect"]
    document["timeline"][3]["operations"][HOSTILE] = {"count": 1, "errors": 1, "p50_ms": 1.0, "p99_ms": 1.0}
    document["timeline"][3]["macs"][HOSTILE] = 1
    document["dropped"][0]["reason"] = HOSTILE
    document["limits"][0] |= {"limit": HOSTILE, "sentence": HOSTILE, "found": HOSTILE}
    document["generator"]["reasons"] = [HOSTILE]
    document["scenario"][HOSTILE] = {HOSTILE: HOSTILE}
    document["host"]["platform"] = HOSTILE
    document["push"]["refused"] = {HOSTILE: 3}
    document["incomplete_because"] = HOSTILE
    document["complete"] = False
    return document


def nothing_succeeded(count: int) -> Document:
    """An operation that failed every time."""
    return _operation(_Totals(count=count, errors=count))


def _copy(pickled: bytes) -> Document:
    """A document of its own: to unpickle one takes a fraction of the time of deepcopy."""
    found: Document = pickle.loads(pickled)
    return found


@cache
def _good() -> bytes:
    document = _run("nightly load", STEADY, seed=1, macs=1200)
    document["limits"] = _limits(document, ok=True)
    return pickle.dumps(document)


@cache
def _failed() -> bytes:
    document = _run("nightly load", _worse(), seed=2, macs=1200)
    document["limits"] = _limits(document, ok=False)
    sessions = document["operations"]["session"]
    links = document["operations"]["lom_link"]
    document["errors"] = [
        _error(
            "session",
            "http_status",
            sessions["errors"] - 61,
            "the server answered PUT /mdm with 503 Service Unavailable: no healthy upstream",
        ),
        _error("session", "answer_timeout", 61, "no answer to PUT /mdm within 60 s"),
        _error(
            "lom_link",
            "lom_unreachable",
            links["errors"],
            "mac-f55pvsrnpfsz.lom.test does not answer at any of 2 addresses: [::1]:40123 connection refused",
        ),
    ]
    document["operations"]["delivery"] |= {"late": 812, "dropped": 305}
    document["operations"]["enqueue"] |= {"late": 17}
    document["dropped"] = [
        {"operation": "delivery", "reason": "the Mac was still busy with its previous one", "count": 290},
        {"operation": "delivery", "reason": "the phase ended first", "count": 15},
    ]
    document["phases"][2] |= {"late": 829, "dropped": 305, "done": 17_095, "failed": sessions["errors"]}
    document["generator"] = _generator(trustworthy=False)
    for row in document["timeline"][300:380]:
        row["lag_ms"], row["cpu"] = row["lag_ms"] * 25, 0.97
    return pickle.dumps(document)


def _run(name: str, shapes: dict[str, Shape], *, seed: int, macs: int) -> Document:
    dice = random.Random(seed)
    totals = {operation: _Totals() for operation in shapes}
    document = _frame(name, 600.0) | {"devices": macs}
    document["timeline"] = [_second(t, shapes, totals, dice, macs) for t in range(600)]
    document["operations"] = {operation: _operation(each) for operation, each in totals.items() if each.count}
    document["stages"] = {
        stage: _stage(dice, median, sigma, count)
        for stage, median, sigma, count in (
            ("connect", 0.4, 0.3, 9800),
            ("handshake", 3.1, 0.35, 7300),
            ("handshake_resumed", 1.2, 0.3, 2500),
            ("first_byte", 8.0, 0.6, 60_100),
            ("request", 8.6, 0.6, 60_100),
        )
    }
    document["phases"] = [_phase(*phase, 1200) for phase in PHASES]
    document["phases"][2] |= {"planned": 17_400, "started": 17_400, "done": 17_400}
    document["phases"][5] |= dict.fromkeys(("planned", "started", "done", "failed", "late", "dropped"), 0)
    document["push"] = {
        "accepted": 20_880, "refused": {}, "broken": 0, "stored": 412, "replaced": 0,
        "expired": 0, "discarded": 0, "delivered": 20_871, "ignored": 0, "waiting": 9,
    }  # fmt: skip
    document["keys"] = {"pool": 16, "reused": 1184}
    return document


def _frame(name: str, duration_s: float) -> Document:
    return {
        "schema": "lom-agent.results/2",
        "version": "0.4.0",
        "name": name,
        "seed": "orchard",
        "devices": 100,
        "workers": 2,
        "started": "2026-03-02T02:00:00.000Z",
        "duration_s": duration_s,
        "complete": True,
        "operations": {},
        "stages": {},
        "errors": [],
        "dropped": [],
        "phases": [],
        "timeline": [],
        "generator": _generator(trustworthy=True),
        "limits": [],
        "resources": {"cpu_s": 640.2, "max_rss_kib": 412_000},
        "scenario": {
            "name": name,
            "fleet": {"devices": 1200, "seed": "orchard", "segment_size": 10, "boot": "uniform:1,3"},
            "server": {
                "adapter": "nanomdm",
                "enroll": "https://mdm.example.com/enroll",
                "nanomdm": {"url": "https://mdm.example.com", "api_key_env": "***"},
            },
            "phase": [{"kind": kind, "name": phase, "share": 1.0} for phase, kind, _, _ in PHASES],
            "limits": ["session.p99 < 500ms", "delivery.p99 <= 1s"],
        },
        "host": {
            "platform": "Linux-6.1-x86_64",
            "python": "3.12.4",
            "openssl": "OpenSSL 3.0.13",
            "twisted": "24.7.0",
            "cores": 2,
        },
    }


def _generator(*, trustworthy: bool) -> Document:
    reasons = [
        "The event loop of worker 1 lagged by 148 ms (p99); up to 50 ms is reliable.",
        "Worker 1 used over 90 % of its core in 80 of 600 seconds.",
    ]
    slow = {"p50": 1.1, "p99": 148.0, "max": 402.0}
    return {
        "trustworthy": trustworthy,
        "reasons": [] if trustworthy else reasons,
        "workers": [
            _worker(0, {"p50": 0.5, "p99": 3.8, "max": 18.0}, 0.71),
            _worker(1, {"p50": 0.6, "p99": 4.1, "max": 22.0} if trustworthy else slow, 0.74 if trustworthy else 0.99),
        ],
    }


def _worker(number: int, lag_ms: Document, busiest: float) -> Document:
    return {"worker": number, "lag_ms": lag_ms, "cpu_s": 301.0, "busiest_second": busiest, "max_rss_kib": 201_000}


def _second(t: int, shapes: dict[str, Shape], totals: dict[str, _Totals], dice: random.Random, macs: int) -> Document:
    operations = {
        operation: _second_of(t, shape, totals[operation], dice)
        for operation, shape in shapes.items()
        if shape.per_s(t) > 0
    }
    new = max(0, macs - 10 * t)
    resetting = 40 if 502 <= t < 565 else 0
    off = 120 if 200 <= t < 230 else 0
    in_session = min(macs - new, round(shapes["session"].per_s(t) * shapes["session"].median_ms(t) / 1000 * 1.3))
    return {
        "t": t,
        "operations": operations,
        "macs": {
            "new": new,
            "idle": max(0, macs - new - in_session - resetting - off),
            "session": in_session,
            "booting": resetting,
            "off": off,
            "left": 0,
        },
        "connections": in_session + 4 + (t % 7),
        "pushes_waiting": dice.randrange(6) + off,
        "lag_ms": round(dice.lognormvariate(math.log(1.6), 0.5), 3),
        "cpu": round(min(0.85, 0.2 + sum(each["count"] for each in operations.values()) / 700 + dice.random() / 20), 3),
    }


def _second_of(t: int, shape: Shape, totals: _Totals, dice: random.Random) -> Document:
    count = max(0, round(dice.gauss(shape.per_s(t), shape.per_s(t) ** 0.5)))
    errors = sum(dice.random() < shape.errors(t) for _ in range(count))
    totals.count += count
    totals.errors += errors
    succeeded = count - errors
    latencies = [
        shape.median_ms(t) * dice.lognormvariate(0, shape.sigma) * (1 + 2.5 * (dice.random() < 0.01))
        for _ in range(min(succeeded, SAMPLES))
    ]
    for position, latency in enumerate(latencies):
        weight = succeeded // len(latencies) + (position < succeeded % len(latencies))
        totals.histogram.record_value(max(1, round(latency * 1000)), weight)
        totals.total_ms += latency * weight
    cuts = quantiles(latencies, n=100, method="inclusive") if len(latencies) > 1 else latencies * 99
    return {
        "count": count,
        "errors": errors,
        "p50_ms": round(cuts[49], 3) if cuts else None,
        "p99_ms": round(cuts[98], 3) if cuts else None,
    }


def _operation(totals: _Totals, seconds: int = 600) -> Document:
    return {
        "started": totals.count,
        "count": totals.count,
        "errors": totals.errors,
        "timed_out": 0,
        "cut_short": 0,
        "user_channel": 0,
        "late": 0,
        "dropped": 0,
        "rate_per_s": round(totals.count / seconds, 3),
        "latency_ms": _latency(totals.histogram)
        | {"mean": round(totals.total_ms / max(1, totals.count - totals.errors), 3)},
        "clamped": 0,
        "histogram": totals.histogram.encode().decode(),
    }


def _stage(dice: random.Random, median_ms: float, sigma: float, count: int) -> Document:
    histogram = HdrHistogram(1, 3_600_000_000, 3)
    drawn = [max(1, round(1000 * median_ms * dice.lognormvariate(0, sigma))) for _ in range(1000)]
    for micros in drawn:
        histogram.record_value(micros, count // 1000)
    latency = _latency(histogram) | {"mean": round(sum(drawn) / len(drawn) / 1000, 3)}
    return {
        "count": histogram.get_total_count(),
        "latency_ms": latency,
        "clamped": 0,
        "histogram": histogram.encode().decode(),
    }


def _latency(histogram: HdrHistogram) -> Document:
    names = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99_9": 99.9, "max": 100.0}
    if not histogram.get_total_count():
        return dict.fromkeys(names)
    values = histogram.get_percentile_to_value_dict(list(names.values()))  # all of them in one pass
    return {name: values[share] / 1000 for name, share in names.items()}


def _phase(name: str, kind: str, started: float, ended: float, count: int) -> Document:
    return {
        "name": name, "kind": kind, "started_s": started, "ended_s": ended,
        "planned": count, "started": count, "done": count, "failed": 0, "late": 0, "dropped": 0,
    }  # fmt: skip


def _limits(document: Document, *, ok: bool) -> list[Document]:
    operations = document["operations"]
    session, delivery = operations["session"], operations["delivery"]
    return [
        _limit("session.p99 < 500ms", f"{session['latency_ms']['p99']:.0f} ms", ok=ok),
        _limit("delivery.p99 <= 1s", f"{delivery['latency_ms']['p99']:.0f} ms", ok=ok),
        _limit("session.errors < 0.1%", f"{100 * session['errors'] / session['count']:.2f} %", ok=ok),
        _limit("return.max < 10s", f"{operations['return']['latency_ms']['max'] / 1000:.2f} s", ok=True),
    ]


def _limit(text: str, found: str, *, ok: bool) -> Document:
    verb = "passed" if ok else "failed"
    return {"limit": text, "ok": ok, "found": found, "sentence": f"The limit {text} {verb}: found {found}."}


def _error(operation: str, kind: str, count: int, example: str) -> Document:
    return {"operation": operation, "kind": kind, "count": count, "example": example}
