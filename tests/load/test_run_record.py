"""What is known of a run whose workers report, end, or are lost: every phase adds up."""

from __future__ import annotations

from typing import Any

import pytest

from agent.fleet.population import Population
from agent.load.conductor.record import WORKER_LOST, RunRecord
from agent.load.control.messages import ControlError, Second
from agent.load.shard.plan import ShardResult
from agent.measure.live import PhaseState
from agent.measure.metrics import Metrics
from agent.scenario.reading import scenario_from

PHASES: list[dict[str, Any]] = [
    {"kind": "enroll"},
    {"kind": "checkin", "by": "push", "rate": 10},
    {"kind": "command", "request": {"RequestType": "ProfileList"}, "rate": 10},
]


def record_of(*phases: dict[str, Any]) -> RunRecord:
    """A run of these phases in two workers, which have all started."""
    scenario = scenario_from({"fleet": {"devices": 8, "segment_size": 4}, "phase": list(phases)})
    record = RunRecord(scenario, Population("seed", 8, 4), 2)
    for phase in record.phases:
        phase.started_s = 0.0
    return record


def second(t: int, **states: PhaseState) -> Second:
    """A report of the states of phases, named ``phase0`` and so on."""
    return Second(t, {"operations": {}}, {int(name.removeprefix("phase")): state for name, state in states.items()})


def drops(record: RunRecord) -> dict[tuple[str, str], int]:
    """What was dropped, by operation and reason."""
    return {(drop.operation, drop.reason): drop.count for drop in record.metrics().drops()}


@pytest.mark.parametrize(("number", "operation"), [(0, "enroll"), (1, "delivery"), (2, "delivery")])
def test_unstarted_operations_of_a_lost_worker_are_dropped(number: int, operation: str) -> None:
    record = record_of(*PHASES)
    finished = PhaseState(planned=10, started=9, done=9, dropped=1, finished=True)
    reported = PhaseState(planned=10, started=4, done=3, dropped=1)
    record.add_second(0, second(0, **{f"phase{number}": finished}))
    record.add_second(1, second(0, **{f"phase{number}": reported}))
    assert not record.end_phase(number, 1.0)
    assert record.phases[number].summary().dropped == 2
    assert drops(record) == {}
    record.add_problem(1, "worker 1 died")
    assert record.end_phase(number, 2.0)
    phase = record.phases[number].summary()
    assert phase.ended_s is None
    assert phase.planned == phase.started + phase.dropped == 20
    assert phase.cut_short is not None
    assert phase.started == phase.done + phase.cut_short == 13
    assert drops(record) == {(operation, WORKER_LOST): 5}
    assert drops(record) == {(operation, WORKER_LOST): 5}, "asked twice, it is added once"


def test_report_after_its_worker_was_lost_is_counted() -> None:
    record = record_of(*PHASES)
    record.add_second(1, second(0, phase0=PhaseState(planned=10, started=4, done=3)))
    record.add_problem(1, "worker 1 died")
    record.add_second(1, second(1, phase0=PhaseState(planned=10, started=7, done=7)))
    phase = record.phases[0].summary()
    assert (phase.planned, phase.started, phase.dropped) == (10, 7, 3)
    assert drops(record) == {("enroll", WORKER_LOST): 3}


def test_a_worker_that_returned_a_result_is_not_lost() -> None:
    record = record_of(*PHASES)
    state = PhaseState(planned=4, started=1, done=1, dropped=3)
    record.add_second(1, second(0, phase0=PhaseState(planned=4, started=1)))
    record.add_result(1, ShardResult(shard=1, metrics=Metrics().snapshot(), phases={0: state}, problem="interrupted"))
    record.add_problem(1, "worker 1: interrupted")
    assert record.phases[0].summary().dropped == 3
    assert drops(record) == {}
    assert record.problems == ["worker 1: interrupted"]


def test_second_is_complete_when_every_reporting_worker_reported_it() -> None:
    record = record_of(*PHASES)
    assert not record.add_second(0, second(0))
    assert record.add_second(1, second(0))
    assert not record.add_second(0, second(1))
    record.workers[1].silent = True
    assert record.add_second(0, second(2))
    record.workers[1].silent = False
    assert not record.add_second(0, second(3))
    record.add_problem(1, "worker 1 died")
    assert record.add_second(0, second(4))


def test_every_row_and_the_live_view_have_all_macs_but_those_of_a_lost_worker() -> None:
    record = record_of(*PHASES)
    row = {"operations": {}, "macs": {"idle": 4}, "connections": 4}
    record.add_second(1, Second(0, row, {}))
    for t in range(3):
        record.add_second(0, Second(t, row, {}))
    assert [sum(each.macs.values()) for each in record.timeline.rows()] == [8, 8, 8]
    assert [each.connections for each in record.timeline.rows()] == [8, 8, 8]
    assert sum(record.view(3.0, embedded_lab=False).macs.values()) == 8
    record.add_problem(1, "worker 1 died")
    record.add_second(1, Second(1, row, {}))  # it was on its way
    assert [sum(each.macs.values()) for each in record.timeline.rows()] == [8, 8, 4]
    assert record.view(3.0, embedded_lab=False).macs == {"idle": 4}
    assert record.view(3.0, embedded_lab=False).connections == 4


def test_unknown_phase_number_is_refused() -> None:
    record = record_of(*PHASES)
    with pytest.raises(ControlError, match="Expected a phase from 0 to 2 on the control link, found 3"):
        record.add_second(0, second(0, phase3=PhaseState()))
