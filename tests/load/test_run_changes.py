"""The changes of a run as its conductor makes them: what is sent to the shards, recorded, and refused."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from agent.errors import OperatorError
from agent.load.conductor.changes import LEAD_SECONDS, CannotChange, NoSuchPhase, RunChanges
from agent.load.conductor.record import RunRecord
from agent.load.control.messages import ChangeRate, Message, Pause, Resume
from agent.scenario.reading import scenario_from
from agent.scenario.types import MOST_CHANGES

BEGAN = 5000.0  # on the run's clock


class Changed:
    """A run of one phase of 10 per second, which starts with the run."""

    def __init__(self, *changes: dict[str, Any], **how: Any) -> None:
        self.clock = Clock()
        phase = {"kind": "enroll", "name": "look", **(how or {"rate": 10, "duration": 60})}
        scenario = scenario_from({"phase": [phase], "change": list(changes)})
        record = RunRecord(scenario, scenario.fleet.population, 1)
        self.phase = record.phases[0]
        self.phase.started_s = 0.0
        self.sent: list[Message] = []
        self.changes = RunChanges(self.clock, scenario, record.phases, self.sent.append, BEGAN)
        self.changes.start_phase(0)

    def make(self, change: Coroutine[Any, Any, None]) -> None:
        """Make a change, which is answered when it applies. Raises what it raises."""
        made = Deferred.fromCoroutine(change)
        if not made.called:
            self.clock.advance(LEAD_SECONDS)
        assert made.called
        failures: list[Any] = []
        made.addErrback(failures.append)
        for failure in failures:
            failure.raiseException()

    @property
    def made(self) -> list[tuple[str, float]]:
        return [(each.what, round(each.at_s, 6)) for each in self.changes.made]


def test_a_change_is_sent_with_the_moment_at_which_it_applies_and_recorded() -> None:
    run = Changed()
    run.clock.advance(2.0)
    run.make(run.changes.pause())
    assert run.changes.time.is_paused
    run.clock.advance(3.0)
    run.make(run.changes.change_rate("look", rate=20.0))
    run.make(run.changes.resume())
    at = [2.0 + LEAD_SECONDS, 5.0 + 2 * LEAD_SECONDS, 5.0 + 3 * LEAD_SECONDS]
    assert run.sent == [
        Pause(pytest.approx(BEGAN + at[0])),
        ChangeRate(0, pytest.approx(at[0]), 2.0),
        Resume(pytest.approx(BEGAN + at[2])),
    ]
    assert run.made == [("pause", at[0]), ("rate", at[1]), ("resume", round(at[2], 6))]
    assert run.changes.rates() == {"look": 20.0}
    assert run.changes.targets(2).paused_s == pytest.approx(1.0 - LEAD_SECONDS)
    assert [run.changes.targets(t).paused_s for t in (0, 3, 7)] == [0.0, 1.0, 0.0]
    assert [run.changes.targets(t).rates["look"] for t in (0, 1, 6)] == [10.0, 10.0, 20.0]
    assert list(run.changes.moments) == list(run.changes.time.pauses)


def test_planned_changes_are_made_at_their_times() -> None:
    run = Changed(
        {"at": 2.0, "what": "pause"},
        {"at": 4.5, "what": "resume"},
        {"at": 3.0, "what": "rate", "phase": "look", "factor": 3},
    )
    run.clock.pump([0.05] * 200)
    assert run.sent == [Pause(BEGAN + 2.0), Resume(BEGAN + 4.5)]
    assert run.made == [("pause", 2.0), ("resume", 4.5), ("rate", 5.5)]
    assert {each.by for each in run.changes.made} == {"scenario"}


def test_a_planned_pause_of_a_paused_run_changes_nothing() -> None:
    run = Changed({"at": 2.0, "what": "pause"}, {"at": 4.0, "what": "resume"})
    run.make(run.changes.pause())
    run.clock.advance(3.0)
    run.make(run.changes.resume())
    run.clock.advance(3.0)
    assert [what for what, _ in run.made] == ["pause", "resume"]


def test_what_contradicts_the_run_is_refused() -> None:
    run = Changed()
    with pytest.raises(CannotChange, match="Pause it first"):
        run.make(run.changes.resume())
    with pytest.raises(NoSuchPhase, match="one of look"):
        run.make(run.changes.change_rate("watch", rate=5.0))
    run.phase.started_s = None
    with pytest.raises(CannotChange, match="not started"):
        run.make(run.changes.change_rate("look", rate=5.0))
    run.phase.started_s = 0.0
    for _ in range(MOST_CHANGES // 2):
        run.make(run.changes.pause())
        run.make(run.changes.resume())
    with pytest.raises(CannotChange, match="at most 1,000"):
        run.make(run.changes.pause())
    assert len(run.made) == MOST_CHANGES


def test_a_ramp_has_a_factor_and_a_closed_loop_has_no_rate() -> None:
    ramp = Changed(arrivals="ramp", rate=5, to_rate=10, duration=60)
    with pytest.raises(OperatorError, match='whose arrivals are "ramp", found rate'):
        ramp.make(ramp.changes.change_rate("look", rate=20.0))
    ramp.make(ramp.changes.change_rate("look", factor=0.5))
    assert (ramp.changes.factor(0), ramp.changes.rates()) == (0.5, {})
    closed = Changed(concurrency=4)
    for change in ({"rate": 5.0}, {"factor": 2.0}):
        with pytest.raises(OperatorError, match="whose arrivals have a rate"):
            closed.make(closed.changes.change_rate("look", **change))
    assert closed.sent == []


def test_a_paused_run_ends_when_it_is_resumed_and_is_not_changed_any_more() -> None:
    run = Changed({"at": 50.0, "what": "pause"}, {"at": 60.0, "what": "resume"})
    run.make(run.changes.pause())
    over = Deferred.fromCoroutine(run.changes.end())
    run.clock.advance(30.0)
    assert not over.called
    run.make(run.changes.resume())
    assert over.called
    with pytest.raises(CannotChange, match="found none"):
        run.make(run.changes.pause())
    run.clock.advance(100.0)
    assert [what for what, _ in run.made] == ["pause", "resume"]


def test_nobody_has_to_resume_a_run_without_workers() -> None:
    run = Changed()
    run.make(run.changes.pause())
    over = Deferred.fromCoroutine(run.changes.end())
    run.changes.give_up()
    run.clock.advance(0.0)
    assert over.called
    assert [what for what, _ in run.made] == ["pause"]
