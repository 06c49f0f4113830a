"""Whole runs with failures: power cuts, NotNow, servers that refuse or end, Macs that unenroll."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import RunInReactor
from forked import Forked
from load_runs import ENROLL, Onlooker, counts, dropped, failed, load_run, never_late
from outside_servers import outside_lab
from servers import unused_port
from twisted.internet import reactor

from agent.load.conductor.conductor import Conductor
from agent.load.phases.checkin import STILL_IN_SESSION
from agent.load.phases.context import NOT_ENROLLED
from agent.load.phases.enroll import ENROLLING
from agent.load.shard.plan import ShardResult
from agent.measure.metrics import Metrics
from agent.profiles.making import ENROLLMENT_IDENTIFIER

MACS = 4
SMALL: dict[str, Any] = {"devices": MACS, "fleet": {"segment_size": MACS // 2}}
COMMAND: dict[str, Any] = {"kind": "command", "request": {"RequestType": "ProfileList"}}
LOOK = {"kind": "checkin", "by": "self", "rate": 40}


def test_start_at_and_wait_determine_how_phases_overlap(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> Conductor:
        return await load_run(
            ENROLL,
            {"kind": "idle", "name": "beside", "seconds": 0.5, "wait": False},
            {**COMMAND, "name": "long", "rate": 20, "duration": 1.2, "start_at": 0.6, "wait": False},
            {"kind": "idle", "seconds": 0.5, "start_at": 0.9, "wait": True},
            {**LOOK, "name": "after_idle", "rate": 80},
            devices=8,  # which have 24 commands in 1.2 s
        )

    conductor = run_in_reactor(scenario())
    _, beside, long, idle, after = conductor.phases
    running = [phase.started_s or 0.0 for phase in conductor.phases]
    assert running == sorted(running)
    assert long.started_s is not None
    assert long.started_s >= 0.6
    assert idle.started_s is not None
    assert idle.started_s >= 0.9
    assert idle.finished_s is not None
    assert after.started_s is not None
    assert after.started_s >= idle.finished_s >= idle.started_s + 0.5
    assert beside.finished_s is not None
    assert beside.finished_s >= (beside.started_s or 0.0) + 0.5
    assert long.finished_s is not None
    assert (
        long.finished_s >= long.started_s + 1.15
    )  # when its last command is due: it does not end with the phase after it
    assert long.state.done == 24
    assert after.state.planned == 8
    assert all(phase.finished_s is not None for phase in conductor.phases)
    assert failed(conductor.metrics()) == {}


def test_power_cuts_of_segments_lose_no_command(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> Conductor:
        cut = {"kind": "power_cut", "seconds": 0.3, "spread": 0.3, "return_spread": 0.2, "wait": False}
        return await load_run(ENROLL, cut, {**COMMAND, "rate": 24, "duration": 1.5}, devices=12)

    conductor = run_in_reactor(scenario())
    metrics = conductor.metrics()
    assert failed(metrics) == {}
    assert dropped(metrics) == {}
    assert counts(metrics)["return"] == 12
    assert counts(metrics)["delivery"] == counts(metrics)["command"] == 36
    cut = conductor.phases[1].state
    assert (cut.planned, cut.done) == (3, 3)


# From the run's start: long enough for the Macs to have enrolled before, also on a busy machine.
@pytest.mark.parametrize("behaviour", [{"not_now_for": 12.0, "not_now_retry": 3.0}, {"not_now": 0.5}])
def test_command_answered_with_notnow_is_delivered_later(
    run_in_reactor: RunInReactor, behaviour: dict[str, Any]
) -> None:
    async def scenario() -> Conductor:
        fleet = {**SMALL["fleet"], "not_now_retry": 0.2, **behaviour}
        return await load_run(ENROLL, {**COMMAND, "rate": 40}, devices=MACS, fleet=fleet)

    metrics = run_in_reactor(scenario()).metrics()
    assert failed(metrics) == {}
    assert counts(metrics)["delivery"] == MACS
    assert counts(metrics)["command"] > MACS  # NotNow is an answer, too


def test_command_deferred_beyond_the_phase_timeout_fails(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    never_late(monkeypatch)

    async def scenario() -> Conductor:
        busy = {**SMALL["fleet"], "not_now": 1.0, "not_now_retry": 60.0}
        phases = (ENROLL, {**COMMAND, "rate": 40, "timeout": 2.0}, {**LOOK, "name": "later"})
        return await load_run(*phases, devices=MACS, fleet=busy)

    conductor = run_in_reactor(scenario())
    metrics = conductor.metrics()
    # On a busy machine the server's API, too, may take longer to answer than this phase waits.
    kinds = {kind: number for (operation, kind), number in failed(metrics).items() if operation == "delivery"}
    assert set(kinds) <= {"no_result", "server_timeout"}
    assert sum(kinds.values()) == metrics.summary("delivery").timed_out == MACS
    assert (metrics.summary("delivery").latency_ms.p50 or 0.0) >= 200.0
    assert conductor.phases[1].state.failed == MACS
    assert conductor.phases[2].state.failed == 0


def test_enrollment_is_retried_until_the_server_listens(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    async def scenario() -> Conductor:
        async with outside_lab(tmp_path) as (outside, _gateway):
            port = int(outside.server.url.rpartition(":")[2])
            await outside.server.close()
            tables = outside.tables(adapter="none", retries=3)

            def come_back(view: Any) -> None:
                if view.elapsed >= 0.5 and outside.onlooker.act is come_back:
                    outside.onlooker.act = lambda _view: None
                    outside.server.listen(port)

            outside.onlooker.act = come_back
            return await load_run(ENROLL, LOOK, **SMALL, onlooker=outside.onlooker, **tables)

    conductor = run_in_reactor(scenario())
    metrics = conductor.metrics()
    tries = failed(metrics)
    assert set(tries) == {("enroll", "connect")}
    assert tries["enroll", "connect"] >= MACS
    assert counts(metrics)["enroll"] == tries["enroll", "connect"] + MACS
    assert conductor.phases[0].state.failed == 0
    assert counts(metrics)["session"] == MACS


def test_unreachable_server_fails_enrollments_and_starts_no_other_phase(
    run_in_reactor: RunInReactor,
) -> None:
    async def scenario() -> Conductor:
        server = {"adapter": "none", "enroll": f"https://127.0.0.1:{unused_port()}/enroll"}
        return await load_run(ENROLL, LOOK, {"kind": "power_cut", "seconds": 0.1}, **SMALL, server=server)

    conductor = run_in_reactor(scenario())
    metrics = conductor.metrics()
    assert failed(metrics) == {("enroll", "connect"): MACS}
    assert dropped(metrics) == {("session", NOT_ENROLLED): MACS}
    enroll, look, cut = (phase.state for phase in conductor.phases)
    assert (enroll.done, enroll.failed) == (MACS, MACS)
    assert (look.planned, look.started, look.dropped) == (MACS, 0, MACS)
    assert (cut.done, cut.failed) == (2, 0)
    assert conductor.incomplete_because is None


def test_server_that_stops_during_a_run_fails_later_operations(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    lab = Forked("lab", "--out", str(tmp_path))
    lines = [lab.stdout.readline() for _ in range(2)]
    while b"Ctrl-C" not in lab.stdout.readline():
        pass
    server = {"adapter": "none", "enroll": lines[1].split()[-1].decode(), "ca": [str(tmp_path / "ca.pem")]}

    def die(view: Any) -> None:
        if lab.poll() is None and "session" in view.operations:
            lab.kill()
            lab.wait()

    async def scenario() -> Conductor:
        return await load_run(
            ENROLL, {**LOOK, "rate": 20, "duration": 3.0}, **SMALL, onlooker=Onlooker(die), server=server
        )

    with lab:
        conductor = run_in_reactor(scenario())
    metrics = conductor.metrics()
    kinds = {kind for operation, kind in failed(metrics) if operation == "session"}
    assert kinds <= {"connect", "broken", "tls"}
    state = conductor.phases[1].state
    assert 0 < state.failed < state.done == state.started
    assert state.started + state.dropped == state.planned == 60
    assert conductor.incomplete_because is None


def test_unenrolled_mac_takes_no_part_in_later_phases(run_in_reactor: RunInReactor) -> None:
    remove = {"RequestType": "RemoveProfile", "Identifier": ENROLLMENT_IDENTIFIER}
    onlooker = Onlooker()

    async def scenario() -> Conductor:
        return await load_run(
            ENROLL,
            {**COMMAND, "name": "remove", "request": remove, "segments": 1, "rate": 40},
            {"kind": "idle", "seconds": 0.3},
            {**LOOK, "by": "push"},
            {**COMMAND, "name": "later", "rate": 40},
            {**ENROLL, "name": "again", "segments": 1},
            {**LOOK, "name": "all_again"},
            **SMALL,
            onlooker=onlooker,
        )

    conductor = run_in_reactor(scenario())
    metrics = conductor.metrics()
    assert failed(metrics) == {}
    found = {phase.name: phase.state for phase in conductor.phases}
    assert (found["remove"].done, found["remove"].failed) == (2, 0)
    for name in ("checkin", "later"):
        assert (found[name].done, found[name].dropped, found[name].planned) == (2, 2, 4)
    assert dropped(metrics) == {("delivery", NOT_ENROLLED): 4}
    assert found["all_again"].done == MACS
    assert +Counter(onlooker.views[-1].macs) == {"idle": MACS}


def test_macs_poll_during_an_idle_phase_and_enroll_again(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> Conductor:
        return await load_run(
            ENROLL,
            {"kind": "idle", "seconds": 1.0, "poll": 0.5},
            {"kind": "idle", "name": "some", "seconds": 1.0, "poll": 0.5, "segments": 1},
            {"kind": "idle", "name": "nobody", "seconds": 0.1},
            {**ENROLL, "name": "again"},
            LOOK,
            **SMALL,
        )

    conductor = run_in_reactor(scenario())
    assert [phase.state.planned for phase in conductor.phases] == [4, 8, 4, 0, 4, 4]
    assert counts(conductor.metrics())["session"] + sum(dropped(conductor.metrics()).values()) == 12 + 4
    assert counts(conductor.metrics())["enroll"] == 2 * MACS
    assert [conductor.phases[index].state.done for index in (0, 4, 5)] == [MACS, MACS, MACS]
    assert failed(conductor.metrics()) == {}


def test_overlapping_enroll_phases_enroll_each_mac_at_least_once(run_in_reactor: RunInReactor) -> None:
    onlooker = Onlooker()

    async def scenario() -> Conductor:
        phases = ({"kind": "enroll", "wait": False}, {"kind": "enroll", "name": "at_the_same_time"})
        return await load_run(*phases, **SMALL, onlooker=onlooker)

    conductor = run_in_reactor(scenario())
    metrics = conductor.metrics()
    states = [phase.state for phase in conductor.phases]
    # Which of the two comes to a Mac first is a matter of chance; the other one finds it enrolling, or enrolled.
    assert [state.planned for state in states] == [state.done + state.dropped for state in states] == [MACS, MACS]
    assert sum(state.done for state in states) >= MACS
    not_begun = sum(state.dropped for state in states)
    assert sum(dropped(metrics).values()) == dropped(metrics).get(("enroll", ENROLLING), 0) == not_begun
    assert failed(metrics) == {}
    assert +Counter(onlooker.views[-1].macs) == {"idle": MACS}


def test_simultaneous_power_cuts(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> Conductor:
        return await load_run(
            ENROLL,
            {"kind": "power_cut", "seconds": 0.3, "wait": False},
            {"kind": "power_cut", "name": "another", "seconds": 0.6},
            LOOK,
            **SMALL,
        )

    conductor = run_in_reactor(scenario())
    metrics = conductor.metrics()
    assert failed(metrics) == {}
    assert counts(metrics)["return"] == MACS
    assert [phase.state.done for phase in conductor.phases[:3]] == [MACS, 2, 2]
    look = conductor.phases[3].state
    assert (look.done + look.dropped, look.failed) == (MACS, 0)
    assert dropped(metrics) in ({}, {("session", STILL_IN_SESSION): look.dropped}), "a Mac that has just returned"


def check_shard(result: ShardResult) -> None:
    """For each operation and phase of one worker: started = succeeded + failed + cut short."""
    metrics = Metrics()
    metrics.merge(result.metrics)
    for name in metrics.operations():
        summary = metrics.summary(name)
        assert summary.started == summary.count + summary.cut_short, name
        assert summary.errors == sum(each.count for each in metrics.failures() if each.operation == name)
        assert summary.cut_short == sum(each.count for each in metrics.cuts() if each.operation == name)
    for state in result.phases.values():
        assert state.started == state.done + state.cut_short
        assert state.planned == state.started + state.dropped
    assert sum(drop.count for drop in metrics.drops()) == sum(state.dropped for state in result.phases.values())


def test_interrupted_run_with_every_phase_open_adds_up(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> Conductor:
        def started(conductor: Conductor) -> None:
            def look() -> None:
                if conductor.phases[-1].started_s is not None:
                    reactor.callLater(0.15, conductor.interrupt)
                    reactor.callLater(0.16, conductor.interrupt)
                else:
                    reactor.callLater(0.02, look)

            look()

        return await load_run(
            ENROLL,
            {"kind": "lom_setup", "concurrency": 8},
            {"kind": "power_cut", "seconds": 5.0, "spread": 5.0, "wait": False},
            {"kind": "lom", "rate": 20, "duration": 60, "wait": False},
            {**COMMAND, "rate": 50, "duration": 60, "wait": False},
            {**COMMAND, "name": "closed", "concurrency": 4, "duration": 60, "wait": False},
            {"kind": "idle", "seconds": 60, "poll": 0.1, "wait": False},
            {**ENROLL, "name": "again"},
            started=started,
        )

    conductor = run_in_reactor(scenario())
    assert conductor.incomplete_because is not None
    for phase in conductor.phases:
        state = phase.state
        assert state.started + state.dropped == state.planned, phase.name
        assert state.done + state.cut_short == state.started, phase.name
    for shard in conductor.results:  # a shard's result is complete, even if the link lost messages
        check_shard(shard)
    metrics = conductor.metrics()
    assert sum(dropped(metrics).values()) == sum(phase.state.dropped for phase in conductor.phases)
