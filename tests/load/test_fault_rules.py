"""Fault rules of a scenario, in a run of several workers: the same Macs in any sharding, and hits that add up."""

from __future__ import annotations

from typing import Any

from conftest import RunInReactor
from load_runs import ENROLL, counts, dropped, failed, load_run

from agent.load.conductor.conductor import Conductor
from agent.load.phases.context import OFFLINE
from agent.measure.summaries import RuleSummary

MACS = 8
COMMAND: dict[str, Any] = {"kind": "command", "request": {"RequestType": "ProfileList"}, "rate": 40}
RULES = [
    {"id": "some", "on": "command", "do": "error", "macs": ["0-2", "6"]},
    {"id": "first", "on": "session", "do": "drop", "at": "in_response", "times": 1, "role": "controller"},
    {"id": "lost", "on": "push", "do": "lose", "probability": 0.0},
    {"id": "later", "on": "command", "do": "crash", "after": 86400},
    {"id": "half", "on": "checkin", "type": "TokenUpdate", "do": "slow", "bytes_per_s": 1e6, "share": 0.5},
]


def test_hits_are_merged_over_workers_and_a_share_is_of_the_same_macs_in_any_sharding(
    run_in_reactor: RunInReactor,
) -> None:
    async def scenario(workers: int) -> Conductor:
        rules = [*RULES, {"on": "enroll", "do": "slow", "bytes_per_s": 1e6}]
        fleet = {"not_now_retry": 0.05}
        return await load_run(ENROLL, COMMAND, devices=MACS, workers=workers, rule=rules, fleet=fleet)

    one, two = (checked(run_in_reactor(scenario(workers))) for workers in (1, 2))
    assert one == two
    assert 0 < one.hits < MACS  # of this seed


def checked(conductor: Conductor) -> RuleSummary:
    """What the rules of one run did; the counts of the one with a share."""
    some, first, lost, later, half, unnamed = conductor.rule_counts()
    assert some == RuleSummary("some", 4, 4)
    assert (first.id, first.hits) == ("first", 2)  # one for each Controller: MACS / 4
    assert (lost.id, lost.hits) == ("lost", 0)
    assert lost.matches >= MACS
    assert later == RuleSummary("later", 0, 0)
    assert unnamed == RuleSummary("rule-1", MACS, MACS)
    assert failed(conductor.metrics())["command", "command"] == 4
    assert failed(conductor.metrics())["session", "fault"] == 2
    assert counts(conductor.metrics())["command"] == MACS
    return half


def test_a_mac_that_is_offline_is_dropped_with_the_reason(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> Conductor:
        rule = {"on": "command", "do": "offline", "seconds": 3600, "macs": ["0"]}
        look = {"kind": "checkin", "by": "self", "rate": 40}
        return await load_run(ENROLL, {**COMMAND, "timeout": 1}, look, devices=MACS, workers=1, rule=[rule])

    conductor = run_in_reactor(scenario())
    assert dropped(conductor.metrics()) == {("session", OFFLINE): 1}
    assert conductor.rule_counts()[0].hits == 1
