"""Whole runs in one process: a conductor here, its shards in threads, a real lab, real sockets in between."""

from __future__ import annotations

import json
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import RunInReactor
from hypothesis import given
from hypothesis import strategies as st
from load_runs import ENROLL, Onlooker, failed, load_run
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from agent.errors import OperatorError
from agent.fleet.population import Population
from agent.load.conductor.conductor import Conductor
from agent.load.conductor.facts import INTERRUPTED
from agent.load.control.messages import ControlError
from agent.load.launch.launching import LocalLauncher
from agent.load.shard.clock import ClockOffset
from agent.load.shard.plan import ShardPlan, cut
from agent.measure.live import LiveView
from agent.plists import dump_xml
from agent.push.counts import merge_push_counts
from agent.scenario.reading import scenario_from


@given(st.integers(1, 500), st.integers(1, 60), st.integers(1, 20))
def test_fleet_is_divided_between_segments_without_loss(devices: int, size: int, shards: int) -> None:
    population = Population("cut", devices, size)
    parts = cut(population, shards)
    assert [index for part in parts for index in part] == list(range(devices))
    assert len(parts) == min(shards, population.segments)
    for part in parts:
        assert part
        assert population.segment(population[part.start].segment)[0] == part.start
    segments = [population[part.stop - 1].segment - population[part.start].segment + 1 for part in parts]
    assert max(segments) - min(segments) <= 1


def test_two_shards_run_every_phase_and_pushes_reach_their_shard(
    run_in_reactor: RunInReactor,
) -> None:
    looker = Onlooker()

    async def scenario() -> Conductor:
        return await load_run(
            ENROLL,
            {"kind": "lom_setup", "concurrency": 8},
            {"kind": "lom", "name": "reset", "request": "Reset", "per_request": 2, "rate": 50},
            {"kind": "lom", "name": "off", "request": "PowerOFF", "per_request": 0, "controllers": False, "rate": 50},
            {"kind": "command", "request": {"RequestType": "ProfileList"}, "rate": 50, "wait": False},
            {"kind": "idle", "seconds": 0.5},
            {"kind": "lom", "name": "on", "request": "PowerON", "per_request": 0, "controllers": False, "rate": 50},
            {"kind": "power_cut", "seconds": 0.2},
            {"kind": "checkin", "name": "pushed", "by": "push", "rate": 100},
            {"kind": "checkin", "name": "alone", "by": "self", "arrivals": "poisson", "rate": 100},
            onlooker=looker,
        )

    conductor = run_in_reactor(scenario())
    metrics = conductor.metrics()
    assert metrics.failures() == []
    assert metrics.drops() == []
    assert conductor.incomplete_because is None
    counts = {name: metrics.summary(name).count for name in metrics.operations()}
    assert counts["enroll"] == counts["lom_setup"] == 8
    assert counts["lom_device"] == 8 + 6 + 6
    assert counts["return"] == 8 + 6 + 8  # after Reset, PowerON, the power cut
    # InstallProfile, LOMSetupRequest, LOMDeviceRequest (four Resets, two PowerOFFs and PowerONs), ProfileList; pushes
    assert counts["command"] == 8 + 8 + 4 + 2 + 2 + 8
    assert counts["delivery"] == counts["enqueue"] == counts["command"] + 8
    states = {phase.name: phase.state for phase in conductor.phases}
    assert states["off"].done == 2
    assert states["power_cut"].done == 2
    assert all(state.finished and state.started == state.done == state.planned for state in states.values())
    begins = [phase.started_s for phase in conductor.phases]
    assert begins == sorted(begins, key=lambda running: running or 0.0)
    push_endpoints = conductor.push_counts()
    assert [push_endpoint["delivered"] for push_endpoint in push_endpoints[:2]] == [20, 20]
    merged = merge_push_counts(push_endpoints)
    assert merged["delivered"] == merged["accepted"] == counts["delivery"]
    assert merged["stored"] == 6  # for the Macs that were off
    assert sum(looker.views[-1].macs.values()) == 8
    assert [facts["worker"] for facts in conductor.generator()] == [0, 1]
    rows = conductor.timeline.rows()
    assert sum(row.operations["command"].count for row in rows if "command" in row.operations) == counts["command"]


def test_stall_shows_in_an_open_loop_and_not_in_a_closed_one(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    stall, margin = 3.0, 0.5  # seconds; within the margin a shard's clock is that of this process
    stalls: dict[str, tuple[float, float]] = {}

    def started(conductor: Conductor) -> None:
        def look() -> None:
            for phase in conductor.phases[1:]:
                if (
                    phase.name not in stalls
                    and phase.started_s is not None
                    and conductor.elapsed - phase.started_s > 0.5
                ):
                    running = time.time()
                    time.sleep(stall)  # the lab answers nobody; the shard's thread goes on
                    stalls[phase.name] = running + margin, time.time() - margin
            if len(stalls) < 2:
                reactor.callLater(0.05, look)

        look()

    async def scenario() -> Conductor:
        checkin = {"kind": "checkin", "by": "self", "duration": 5.0}
        return await load_run(
            {"kind": "enroll", "concurrency": 32},
            {**checkin, "name": "open", "rate": 6},
            {**checkin, "name": "closed", "concurrency": 2},
            devices=16,
            workers=1,
            started=started,
            trace=lambda _shard: str(tmp_path / "trace.jsonl"),
            rule=[{"on": "session", "do": "delay", "seconds": 0.05}],  # else the closed loop is as fast as this machine
        )

    conductor = run_in_reactor(scenario())
    assert conductor.metrics().failures() == []
    lines = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    sessions = [line for line in lines if line["operation"] == "session"]

    def latencies_of_due_in_stall(name: str) -> list[float]:
        first, last = stalls[name]
        due = [(datetime.fromisoformat(line["time"]).timestamp(), line["ms"]) for line in sessions]
        return [ms for at, ms in due if first <= at <= last]

    open_loop, closed_loop = latencies_of_due_in_stall("open"), latencies_of_due_in_stall("closed")
    assert conductor.phases[1].state.planned == 30
    assert len(open_loop) >= 8  # six a second, for two seconds and more, without those whose Mac was still busy
    assert len(closed_loop) <= 2  # so many at a time, and none of them comes to its end
    assert max(open_loop) >= (stall - 2 * margin) * 1000.0


def test_interrupted_run_keeps_measurements_and_counts_drops(run_in_reactor: RunInReactor) -> None:
    looker = Onlooker()

    async def scenario() -> Conductor:
        def started(conductor: Conductor) -> None:
            looker.act = lambda view: conductor.interrupt() if view.phases[1].state.done == 8 else None

        every, bursts = 600.0, 750  # the second burst is due long after the interruption
        burst = {"arrivals": "burst", "burst": 8, "every": every, "duration": every * bursts}
        return await load_run(
            ENROLL,
            {"kind": "checkin", "by": "self", **burst},
            {"kind": "idle", "name": "never", "seconds": 600.0},
            onlooker=looker,
            started=started,
        )

    conductor = run_in_reactor(scenario())
    assert conductor.incomplete_because == INTERRUPTED
    metrics = conductor.metrics()
    assert metrics.summary("enroll").count == 8
    assert metrics.summary("session").count == 8
    assert metrics.failures() == []
    assert metrics.cuts() == []
    (drop,) = metrics.drops()
    assert (drop.operation, drop.reason, drop.count) == ("session", INTERRUPTED, 5992)
    state = conductor.phases[1].state
    assert (state.planned, state.started, state.done, state.dropped) == (6000, 8, 8, 5992)
    assert sum(looker.views[-1].macs.values()) == 8
    assert conductor.phases[1].started_s is not None
    assert conductor.phases[1].finished_s is None
    assert conductor.phases[2].started_s is None


def test_the_last_reports_are_read_after_a_stall_too() -> None:
    class Link:
        connected = True

    clock, link = Clock(), Link()
    fleet = {"fleet": {"devices": 4, "segment_size": 4}, "phase": [ENROLL]}
    conductor = Conductor(clock, scenario_from(fleet), LocalLauncher(OneDies(0.0)), 1, Onlooker())
    conductor._link = link  # type: ignore[assignment]
    received = Deferred.fromCoroutine(conductor._receive_last())
    clock.advance(60.0)
    assert not received.called
    link.connected = False
    clock.advance(60.0)
    assert received.called

    link.connected = True
    given_up = Deferred.fromCoroutine(conductor._receive_last())
    clock.pump([1.0] * 1000)
    assert given_up.called
    assert clock.getDelayedCalls() == []


class OneDies(Executor):
    """Shards in threads, but the second one's process dies as soon as it is asked for."""

    def __init__(self, after: float) -> None:
        self._threads = ThreadPoolExecutor(1)
        self._count = 0
        self._after = after

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        self._count += 1
        if self._count == 1:
            return self._threads.submit(function, *arguments, **named)
        future: Future[Any] = Future()
        reactor.callLater(self._after, future.set_exception, RuntimeError("killed"))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)


def test_warning_of_two_workers_is_printed_once(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    payload = {"PayloadType": "com.example", "PayloadUUID": "A", "PayloadIdentifier": "a", "Text": "%Nothing%"}
    profile = {**payload, "PayloadType": "Configuration", "PayloadUUID": "B", "PayloadContent": [payload]}
    (tmp_path / "enroll.mobileconfig").write_bytes(dump_xml(profile))
    looker = Onlooker()

    async def scenario() -> Conductor:
        server = {"adapter": "none", "enroll": str(tmp_path / "enroll.mobileconfig")}
        return await load_run({**ENROLL}, onlooker=looker, server=server, push={"enabled": False})

    conductor = run_in_reactor(scenario())
    assert failed(conductor.metrics()) == {("enroll", "profile"): 8}
    assert sum("%Nothing%" in note for note in looker.notes) == 1


def test_worker_that_cannot_start_ends_the_run(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        with pytest.raises(OperatorError, match="worker 1 died: killed"):
            await load_run(ENROLL, executor=OneDies(0.0))

    run_in_reactor(scenario())


class NeverBegins(OneDies):
    """An executor whose second shard does nothing, as a process that is stopped."""

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        self._count += 1
        return self._threads.submit(function, *arguments, **named) if self._count == 1 else Future()


def test_a_worker_that_is_never_ready_ends_the_run_and_is_named(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.load.conductor.conductor.READY_SECONDS", 20.0)  # the other one is ready by then

    async def scenario() -> None:
        with pytest.raises(OperatorError, match=r"found these not ready: 1\. Look whether something stops them"):
            await load_run(ENROLL, executor=NeverBegins(0.0))

    run_in_reactor(scenario())


def test_shard_reports_why_it_cannot_start(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        with pytest.raises(OperatorError, match="nowhere0"):
            await load_run(ENROLL, workers=1, lom={"network": "interface:nowhere0"})

    run_in_reactor(scenario())


def test_clocks_are_measured_again_during_a_run_and_phases_start_by_the_last_measurement(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.load.conductor.conductor.AGAIN_SECONDS", 0.05)
    conductors: list[Conductor] = []
    first: list[list[ClockOffset | None]] = []

    def look(view: LiveView) -> None:
        if not first and view.phases[0].started_s is not None:
            first.append([worker.offset for worker in conductors[0]._workers])

    async def scenario() -> Conductor:
        idle = {"kind": "idle", "seconds": 2.5}
        fleet = {"segment_size": 2}
        return await load_run(idle, ENROLL, devices=4, fleet=fleet, onlooker=Onlooker(look), started=conductors.append)

    conductor = run_in_reactor(scenario())
    last = [worker.offset for worker in conductor._workers]
    assert all(before is not after for before, after in zip(first[0], last, strict=True))
    assert conductor.incomplete_because is None
    assert conductor.phases[1].state.done == 4


class Elsewhere(LocalLauncher):
    """Shards in threads here, as if they were on other machines."""

    elsewhere = True


def test_worker_lost_while_it_delivers_has_its_measurements_in_the_results(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def send_trace(plan: ShardPlan, _deliver: object) -> None:
        if plan.shard == 1:
            raise ControlError("the cable was pulled")

    monkeypatch.setattr("agent.load.shard.shard.send_trace", send_trace)
    looker = Onlooker()

    async def scenario() -> Conductor:
        return await load_run(
            ENROLL, onlooker=looker, launcher=Elsewhere, trace=lambda shard: str(tmp_path / f"trace.{shard}")
        )

    conductor = run_in_reactor(scenario())
    assert conductor.metrics().summary("enroll").count == 8
    [first, second] = conductor.generator()
    assert (first["lost"], first["clock"] is None) == (None, False)
    assert second["lost"]["first_mac"] == 4
    assert second["lost"]["measured_s"] == conductor._workers[1].second + 1  # all that it reported
    assert "Macs (4 to 7 of the fleet, " in str(conductor.incomplete_because)
    assert any("worker 1 (127.0.0.1) lost its control link" in note for note in looker.notes)
