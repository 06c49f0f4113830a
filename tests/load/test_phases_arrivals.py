"""Arrivals in whole runs: the exact number of each shape, closed loops over shards, and the chosen Macs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import RunInReactor
from hypothesis import given
from hypothesis import strategies as st
from load_runs import ENROLL, counts, dropped, failed, load_run
from outside_servers import KEY, KEY_VARIABLE, nanomdm, outside_lab
from twisted.internet import reactor
from twisted.web.server import NOT_DONE_YET

from agent.fleet.derivation import Derivation
from agent.fleet.population import Population
from agent.load.conductor.conductor import Conductor
from agent.load.phases.pace import Pace
from agent.load.phases.phase_time import PausedTime
from agent.load.phases.run import Part, part_of
from agent.load.shard.plan import cut
from agent.measure.live import PhaseState
from agent.measure.metrics import Metrics
from agent.measure.operations import Moment
from agent.scenario.arrivals import ArrivalPlan, Poisson, schedule
from agent.scenario.reading import scenario_from
from agent.scenario.targets import chosen_macs
from agent.scenario.types import LoadPart

SEED = "arrivals"
FLEET = {"seed": SEED}
COMMAND: dict[str, Any] = {"kind": "command", "request": {"RequestType": "ProfileList"}}


def shape(name: str, **keys: Any) -> dict[str, Any]:
    """A command phase that runs beside the others."""
    return {**COMMAND, "name": name, "wait": False, **keys}


def test_every_arrival_shape_has_its_exact_count_over_two_shards(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    (tmp_path / "offsets").write_text("0.1\n0.9 # the last\n\n0.1\n0.4\n")
    shapes = {
        "at_once": ({}, 8),
        "constant": ({"rate": 20, "duration": 0.75}, 15),
        "constant_once": ({"rate": 20}, 8),
        "poisson": ({"arrivals": "poisson", "rate": 20, "duration": 1}, None),
        "poisson_once": ({"arrivals": "poisson", "rate": 30}, 8),
        "ramp": ({"arrivals": "ramp", "rate": 0, "to_rate": 20, "duration": 1}, 10),
        "step": ({"arrivals": "step", "steps": [[10, 0.5], [30, 5]], "duration": 1}, 20),
        "step_once": ({"arrivals": "step", "steps": [[0, 0.2], [30, 0.2]]}, 8),
        "burst": ({"arrivals": "burst", "burst": 3, "every": 0.4, "duration": 1}, 9),
        "burst_once": ({"arrivals": "burst", "burst": 3, "every": 0.2}, 8),
        "replay": ({"arrivals": "replay", "replay": [0.5, 0, 0, 1.1]}, 4),
        "replay_file": ({"arrivals": "replay", "replay_file": str(tmp_path / "offsets")}, 4),
    }
    plan = ArrivalPlan(Poisson(20.0), 1.0, again=True)
    poisson = len(list(schedule(plan, 8, Derivation(SEED), "poisson")))

    async def scenario() -> Conductor:
        phases = [shape(name, **keys) for name, (keys, _number) in shapes.items()]
        return await load_run(ENROLL, *phases, fleet=FLEET)

    conductor = run_in_reactor(scenario())
    expected = {name: poisson if number is None else number for name, (_keys, number) in shapes.items()}
    found = {phase.name: phase.state for phase in conductor.phases[1:]}
    assert {name: state.planned for name, state in found.items()} == expected
    assert {name: state.done for name, state in found.items()} == expected
    assert all(state.finished and state.started == state.done for state in found.values())
    metrics = conductor.metrics()
    assert failed(metrics) == {}
    assert dropped(metrics) == {}
    assert counts(metrics)["delivery"] == sum(expected.values())
    assert metrics.summary("delivery").late == sum(state.late for state in found.values())


def test_operations_of_busy_macs_are_dropped_and_counts_add_up(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> Conductor:
        # 60 a second for four Macs that are away for a good part of the time.
        return await load_run(
            ENROLL,
            {"kind": "power_cut", "seconds": 0.5, "wait": False},
            {"kind": "checkin", "by": "self", "rate": 60, "duration": 1.5},
            devices=4,
            workers=1,
        )

    conductor = run_in_reactor(scenario())
    state = conductor.phases[2].state
    assert state.planned == 90
    assert state.started + state.dropped == state.planned
    assert state.dropped >= 20
    assert state.done == state.started
    metrics = conductor.metrics()
    drops = dropped(metrics)
    assert sum(drops.values()) == state.dropped == metrics.summary("session").dropped
    assert drops["session", "the Mac was off or booting"] > 0


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 12), st.integers(1, 500), st.floats(0.01, 1.0))
def test_divided_numbers_add_up_over_the_shards(
    devices: int, size: int, shards: int, number: int, share: float
) -> None:
    population = Population("parts", devices, size)
    document = {"fleet": {"devices": devices}, "phase": [{"kind": "enroll", "share": share}]}
    chosen = chosen_macs(scenario_from(document).phases[0], population)
    parts = cut(population, shards)
    places = [
        Part(population, Derivation("parts"), indexes, shard, len(parts), LoadPart()).places(chosen)
        for shard, indexes in enumerate(parts)
    ]
    assert [place for some in places for place in some] == list(range(len(chosen)))
    for some, indexes in zip(places, parts, strict=True):
        assert all(chosen[place] in indexes for place in some)
    assert sum(part_of(number, some, len(chosen)) for some in places) == number


def test_concurrency_holds_over_all_shards_and_segments(
    run_in_reactor: RunInReactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    at_once = 3
    chosen = {"ProfileList": 1, "SecurityInfo": 4}  # segments
    open_now: Counter[str] = Counter()
    most: Counter[str] = Counter()

    def slow(request: Any) -> int:
        text = request.content.read()
        (name,) = (name for name in chosen if name.encode() in text)
        open_now[name] += 1
        most[name] = max(most[name], open_now[name])

        def answer() -> None:
            open_now[name] -= 1
            request.setResponseCode(503)
            request.finish()

        reactor.callLater(0.25, answer)
        return NOT_DONE_YET

    async def scenario() -> Conductor:
        async with outside_lab(tmp_path) as (outside, front):
            front.refuse = slow
            tables = outside.tables(**nanomdm(front.url))
            phases = (
                {"kind": "command", "name": name, "request": {"RequestType": name}, "concurrency": at_once,
                 "segments": segments}
                for name, segments in chosen.items()
            )  # fmt: skip
            return await load_run(ENROLL, *phases, devices=16, onlooker=outside.onlooker, **tables)

    states = {phase.name: phase.state for phase in run_in_reactor(scenario()).phases[1:]}
    assert most == dict.fromkeys(chosen, at_once)
    for name, segments in chosen.items():
        state = states[name]
        assert (state.planned, state.done, state.failed) == (4 * segments, 4 * segments, 4 * segments)


class StartedClock:
    """A clock that shows how many operations have started, so that a duration is a number of them."""

    def __init__(self, clock: Any, state: PhaseState) -> None:
        self._state = state
        self.callLater = clock.callLater

    def seconds(self) -> float:
        """The time."""
        return self._state.started


class ByOperations(Pace):
    """A pace by a `StartedClock`."""

    def __init__(
        self,
        time: PausedTime,
        now: Callable[[], Moment],
        metrics: Metrics,
        operation: str,
        state: PhaseState,
        *others: Any,
    ) -> None:
        super().__init__(PausedTime(StartedClock(time.clock, state)), now, metrics, operation, state, *others)


def test_closed_loop_repeats_targets_or_ends_early(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("agent.load.phases.run.Pace", ByOperations)

    async def scenario() -> Conductor:
        return await load_run(
            ENROLL,
            {**COMMAND, "name": "round", "concurrency": 2, "duration": 10.0},
            {**COMMAND, "name": "early", "concurrency": 2, "duration": 3.0, "request": {"RequestType": "SecurityInfo"}},
            {**COMMAND, "name": "one_by_one", "concurrency": 1, "request": {"RequestType": "CertificateList"}},
            {**COMMAND, "name": "more_than_macs", "concurrency": 500, "request": {"RequestType": "CertificateList"}},
            trace=lambda shard: str(tmp_path / f"trace.{shard}"),
        )

    conductor = run_in_reactor(scenario())
    found = {phase.name: phase.state for phase in conductor.phases[1:]}
    done = {name: state.done for name, state in found.items()}
    assert done == {"round": 20, "early": 6, "one_by_one": 8, "more_than_macs": 8}  # of two shards
    assert all(state.planned == state.started == state.done for state in found.values())
    rounds = Counter(devices_of(tmp_path, "delivery", "ProfileList"))
    assert sorted(rounds.values()) == [2, 2, 2, 2, 3, 3, 3, 3], "each shard's four Macs in turn, ten times"
    assert set(Counter(devices_of(tmp_path, "delivery", "SecurityInfo")).values()) == {1}
    assert failed(conductor.metrics()) == {}


def devices_of(folder: Path, operation: str, request_type: str | None = None) -> list[int]:
    """Which Macs have left this operation in the traces of a run, as often as they did."""
    lines = [json.loads(line) for path in folder.glob("trace.*") for line in path.read_text().splitlines()]
    return sorted(
        line["device"]
        for line in lines
        if line["operation"] == operation and request_type in (None, line.get("request_type"))
    )


SELECTIONS = {
    "ProfileList": {"share": 0.4},
    "SecurityInfo": {"segments": 2},
    "CertificateList": {"share": 0.5, "segments": 2},
}


@pytest.mark.parametrize("workers", [1, 3])
def test_selected_macs_and_those_of_lom_phases_do_not_depend_on_the_number_of_workers(
    run_in_reactor: RunInReactor, tmp_path: Path, workers: int
) -> None:
    phases = [
        {**COMMAND, "name": request_type, "request": {"RequestType": request_type}, **which}
        for request_type, which in SELECTIONS.items()
    ]

    async def scenario() -> Conductor:
        return await load_run(
            ENROLL,
            *phases,
            {"kind": "lom_setup", "concurrency": 8},
            {"kind": "lom", "request": "Reset", "segments": 2, "per_request": 2, "controllers": False},
            {"kind": "lom", "name": "round", "request": "PowerON", "per_request": 0, "rate": 10, "duration": 0.4},
            devices=12,
            workers=workers,
            fleet=FLEET,
            trace=lambda shard: str(tmp_path / f"trace.{shard}"),
        )

    conductor = run_in_reactor(scenario())
    assert conductor.workers == workers
    assert failed(conductor.metrics()) == {}
    described = scenario_from({"phase": [ENROLL, *phases]}).phases[1:]
    for phase, record in zip(described, conductor.phases[1:4], strict=True):
        chosen = list(chosen_macs(phase, Population(SEED, 12, 4)))
        assert 0 < len(chosen) < 12
        assert devices_of(tmp_path, "delivery", phase.name) == chosen
        assert record.state.planned == len(chosen)
    assert [phase.state.done for phase in conductor.phases[5:]] == [4, 4]
    found = Counter(devices_of(tmp_path, "lom_device"))
    assert sum(found.values()) == 6 + 4 * 4  # each segment, and one of them again
    assert all(found[index] for index in range(12))


def test_workers_are_limited_by_segments(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> Conductor:
        return await load_run(ENROLL, {**COMMAND, "rate": 40}, devices=6, workers=5)

    conductor = run_in_reactor(scenario())
    assert conductor.workers == 2
    assert counts(conductor.metrics())["delivery"] == 6
    assert failed(conductor.metrics()) == {}


def test_one_mac_runs_in_one_worker_and_a_phase_without_selected_macs_finishes_at_once(
    run_in_reactor: RunInReactor,
) -> None:
    async def scenario() -> Any:
        return await load_run(
            {"kind": "enroll"},
            {"kind": "lom_setup", "concurrency": 2},
            {**COMMAND, "rate": 40},
            {"kind": "lom", "name": "closed", "controllers": False, "concurrency": 2},
            {"kind": "lom", "name": "open", "controllers": False, "rate": 10},
            devices=1,
            workers=5,
        )

    conductor = run_in_reactor(scenario())
    assert conductor.workers == 1
    assert conductor.incomplete_because is None
    assert [(phase.name, phase.state.planned) for phase in conductor.phases[2:]] == [
        ("command", 1), ("closed", 0), ("open", 0),
    ]  # fmt: skip
    assert conductor.phases[2].state.done == 1
    assert failed(conductor.metrics()) == {}
