"""Whole runs in one process, for tests: a conductor here, its shards in threads, real sockets in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from twisted.internet import reactor

from agent.cli.apns.gateway import apns_plan
from agent.load.conductor.conductor import Conductor
from agent.load.launch.launching import LocalLauncher
from agent.measure.live import LiveView
from agent.measure.metrics import Metrics
from agent.net.timing import Stalls
from agent.scenario.reading import scenario_from

ENROLL = {"kind": "enroll", "concurrency": 8}
QUICK = {"boot": "constant:0.05", "shutdown": "constant:0.05"}


class Unmeasured(Stalls):
    """In place of the gateway's stalls: none is seen."""

    def begin(self) -> None:
        """Measure nothing."""


def never_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the gateway be never late, on a busy machine too: what fails because of the server has no other cause."""
    monkeypatch.setattr("agent.load.conductor.pushes.Stalls", Unmeasured)
    monkeypatch.setattr("agent.net.apns.router.STALL_SECONDS", math.inf)


class Onlooker:
    """Keeps its notes and warnings; ``act`` is called with each look."""

    def __init__(self, act: Callable[[LiveView], None] = lambda _view: None) -> None:
        self.notes: list[str] = []
        self.views: list[LiveView] = []
        self.act = act

    @property
    def gateway(self) -> str:
        """Where the APNs gateway of the run listens, once it does."""
        return next(note.split()[-1] for note in self.notes if note.startswith("The APNs gateway"))

    def note(self, text: str) -> None:
        """Something a person should read."""
        self.notes.append(text)

    def warn(self, text: str) -> None:
        """Something a person must read."""
        self.notes.append(f"Warning: {text}")

    def look(self, view: LiveView) -> None:
        """The run now."""
        self.views.append(view)
        self.act(view)


async def load_run(
    *phases: Mapping[str, Any],
    devices: int = 8,
    workers: int = 2,
    onlooker: Onlooker | None = None,
    executor: Executor | None = None,
    fleet: Mapping[str, Any] | None = None,
    trace: Callable[[int], str | None] | None = None,
    started: Callable[[Conductor], None] = lambda _conductor: None,
    controlled: bool = False,
    launcher: type[LocalLauncher] = LocalLauncher,
    **tables: Any,
) -> Conductor:
    """Run these phases to their end. ``tables`` are the scenario's other tables."""
    scenario = scenario_from(
        {
            "fleet": {"devices": devices, "segment_size": 4, **QUICK, **(fleet or {})},
            "load": {"tail": 5.0},
            "phase": [dict(phase) for phase in phases],
            **tables,
        }
    )
    own = executor or ThreadPoolExecutor(workers)
    conductor = Conductor(
        reactor,
        scenario,
        launcher(own),
        workers,
        onlooker or Onlooker(),
        apns=apns_plan(scenario),
        trace=trace,
        cores=1,
        controlled=controlled,
    )
    started(conductor)
    try:
        await conductor.run()
    finally:
        own.shutdown()
    return conductor


def counts(metrics: Metrics) -> dict[str, int]:
    """How many of each operation ended."""
    return {name: metrics.summary(name).count for name in metrics.operations()}


def failed(metrics: Metrics) -> dict[tuple[str, str], int]:
    """How many failed, by operation and kind."""
    return {(failure.operation, failure.kind): failure.count for failure in metrics.failures()}


def dropped(metrics: Metrics) -> dict[tuple[str, str], int]:
    """How many never started, by operation and reason."""
    return {(drop.operation, drop.reason): drop.count for drop in metrics.drops()}
