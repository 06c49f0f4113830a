"""What a resumed run goes on from: its clock, the schedule of a phase, the measurements, the rules of the gateway."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterable, Sequence

import msgspec
import pytest
from conftest import SECONDS, RunInReactor
from documents import good, typed
from msgspec import structs
from rich.console import Console
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from agent.faults.decisions import RuleRecord
from agent.faults.rules import Rule
from agent.fleet.population import Population
from agent.load.conductor.changes import LEAD_SECONDS, RunChanges
from agent.load.conductor.gateway import APNsPlan
from agent.load.conductor.pushes import PushSide
from agent.load.conductor.record import RunRecord
from agent.load.machine.cpu_waits import CPUWaits
from agent.load.machine.overload import LoopMonitor, Span
from agent.load.phases.pace import Pace
from agent.load.phases.phase_time import PausedTime, PhaseTime
from agent.load.phases.progress import Earlier
from agent.measure.live import PhaseState
from agent.measure.metrics import Metrics
from agent.measure.operations import Moment
from agent.measure.records import Exchange, Failure
from agent.measure.summaries import ReasonSummary, Resumption, RuleSummary
from agent.net.timing import RunClock
from agent.pki.issuing.authorities import Authorities
from agent.report.numbers import TIMES
from agent.report.terminal import print_summary
from agent.report.verdict import Level, verdict
from agent.scenario.arrivals import Arrival
from agent.scenario.reading import scenario_from


class Kept:
    """Records what a phase tells of its progress."""

    def __init__(self) -> None:
        self.told: list[tuple[int, float]] = []
        self.open: list[int] = []

    def reached(self, count: int, elapsed: float) -> None:
        self.told.append((count, round(elapsed, 3)))

    def begun(self, place: int) -> None:
        self.open.append(place)

    def ended(self, place: int) -> None:
        self.open.remove(place)


class Phase:
    """One phase on a fake clock that goes on after an earlier process."""

    def __init__(self, earlier: Earlier) -> None:
        self.clock = Clock()
        self.clock.advance(500.0)
        self.kept = Kept()
        self.state = PhaseState().plus(earlier.state)
        self.begun: list[tuple[int, float]] = []
        self.hold: Deferred[None] | None = None
        self.pace = Pace(
            PausedTime(self.clock),
            lambda: Moment(1e6 + self.clock.seconds(), self.clock.seconds()),
            Metrics(),
            "session",
            self.state,
            earlier=earlier,
            kept=self.kept,
        )

    async def work(self, target: int, due: Moment) -> None:
        self.begun.append((target, round(due.ticks - 500.0, 3)))
        if self.hold is not None:
            await self.hold

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([0.01] * round(seconds / 0.01))


def arrivals(number: int, every: float) -> Iterable[Arrival]:
    return [Arrival(place * every, place) for place in range(number)]


def test_schedule_goes_on_after_what_was_taken_from_it_and_with_the_time_that_remains() -> None:
    earlier = Earlier(PhaseState(planned=10, started=4, done=3, cut_short=1), reached=4, elapsed=3.5)
    phase = Phase(earlier)
    running = Deferred.fromCoroutine(phase.pace.open(arrivals(10, 1.0), phase.work))
    phase.pass_time(10.0)
    assert running.called
    assert [target for target, _ in phase.begun] == list(range(4, 10))
    assert [due for _, due in phase.begun] == pytest.approx([place - 3.5 for place in range(4, 10)], abs=0.02)
    assert (phase.state.started, phase.state.done, phase.state.cut_short) == (10, 9, 1)
    assert [count for count, _ in phase.kept.told] == [5, 6, 7, 8, 9, 10]
    assert phase.kept.told[0][1] == pytest.approx(4.0, abs=0.02)
    assert phase.pace.reached == 10
    assert phase.kept.open == []


def test_closed_loop_goes_on_with_the_time_that_remains_and_first_with_what_was_cut() -> None:
    phase = Phase(Earlier(PhaseState(started=3, done=1, cut_short=2), reached=3, elapsed=8.0))
    phase.hold = Deferred()
    running = Deferred.fromCoroutine(phase.pace.closed(range(100), 2, phase.work, 10.0, again=[1, 2]))
    phase.pass_time(1.0)
    assert [target for target, _ in phase.begun] == [1, 2]
    assert phase.kept.open == [1, 2]
    assert phase.kept.told == []  # they were taken from the schedule before
    phase.pass_time(1.5)
    held, phase.hold = phase.hold, None
    held.callback(None)  # after the ten seconds of the phase
    phase.pass_time(1.0)
    assert running.called
    assert [target for target, _ in phase.begun] == [1, 2]
    assert (phase.state.started, phase.state.done, phase.state.cut_short) == (5, 3, 2)


def test_clock_of_a_run_counts_on_after_earlier_processes() -> None:
    clock = Clock()
    clock.advance(500.0)
    scenario = scenario_from({"phase": [{"kind": "idle", "seconds": 60}]})
    phases = RunRecord(scenario, scenario.fleet.population, 1).phases
    changes = RunChanges(clock, scenario, phases, print, 1e6, before=30.0)
    start_at = Deferred.fromCoroutine(PhaseTime(changes.time, 0.0).until(32.0))
    clock.advance(1.5)
    assert changes.elapsed.seconds() == 31.5
    assert not start_at.called
    clock.advance(1.0)
    assert start_at.called
    clock.advance(2.5)
    pausing = Deferred.fromCoroutine(changes.pause())
    clock.advance(1.0)
    assert pausing.called
    [(paused_at, _)] = changes.moments
    assert (changes.made[0].at_s, paused_at) == (35.0 + LEAD_SECONDS, 505.0 + LEAD_SECONDS)


def test_metrics_go_on_without_the_time_between_and_cut_short_what_was_open() -> None:
    before = Metrics()
    for _ in range(3):
        before.started("session")
    before(Exchange("session", 0, 100.0, 1.0, None))
    before(Exchange("session", 0, 102.0, 1.0, Failure("tls", "broken")))
    after = Metrics()
    after.continue_from(before.snapshot(), "killed", 1000.0)
    after.cut_short("delivery", "killed", 2)
    after.cut_short("enroll", "killed", 0)
    after.started("session")
    after(Exchange("session", 0, 1104.0, 1.0, None))
    session = after.summary("session")
    assert (session.started, session.count, session.errors, session.cut_short) == (4, 3, 1, 1)
    assert session.rate_per_s == pytest.approx(3 / 5.0)
    assert after.cuts() == [ReasonSummary("delivery", "killed", 2), ReasonSummary("session", "killed", 1)]
    assert after.operations() == ["session", "delivery"]
    assert set(after.take_second()) == {"session"}


def test_monitor_goes_on_with_one_span_of_each_phase() -> None:
    clock = Clock()
    monitor = LoopMonitor(clock, cpu=lambda: 0.0, waits=lambda: CPUWaits(None, None, None))
    lag = LoopMonitor(clock, cpu=lambda: 0.0).lag
    lag.record(0.2)
    earlier = [
        Span(phase=0, elapsed_s=5.0, p99_ms=80.0, lagging_s=0.4),
        Span(phase=1, elapsed_s=1.0, paused_s=0.5, p99_ms=90.0),
    ]
    monitor.continue_from(lag.encoded(), 3.0, [0.5, 0.6], earlier)
    monitor.begin()
    monitor.enter(1)
    clock.pump([0.02] * 100)
    monitor.stop()
    spans = [(span.phase, round(span.elapsed_s, 2), span.paused_s, span.p99_ms) for span in monitor.spans]
    assert spans == [(0, 5.0, 0.0, 80.0), (1, 3.0, 0.5, 90.0)]
    assert monitor.cpu_s == 3.0
    assert monitor.cpu_by_second[:2] == [0.5, 0.6]
    assert monitor.lag.max_us >= 200_000


def test_rules_of_the_gateway_go_on_at_their_times_with_what_they_did(run_in_reactor: RunInReactor) -> None:
    plan = APNsPlan(identity=Authorities().server_identity(["localhost"]))
    rules = [Rule(id="outage", on="push", do="away", until=100.0)]

    def opened(records: Sequence[RuleRecord]) -> PushSide:
        population = Population("lom-agent", 1, 1)
        side = PushSide(reactor, plan, population, [0], print, RunClock(reactor), print, rules, records)  # type: ignore[arg-type]
        side.open(None)
        side.begin()
        return side

    async def test() -> None:
        before = opened(())
        kept = before.going_on
        await before.close()
        [record] = msgspec.convert(kept["gateway rules"], list[RuleRecord])
        assert (record.rule, record.hits) == (rules[0], 1)
        for passed, away in ((50.0, True), (150.0, False)):
            after = opened([structs.replace(record, passed=passed)])
            assert after.rule_counts == [RuleSummary("outage", 1, 1)]
            with socket.socket() as server:
                server.settimeout(SECONDS)
                refused = server.connect_ex(("127.0.0.1", after.going_on["apns port"])) != 0
            assert refused == away
            await after.close()

    run_in_reactor(test())


def test_verdict_names_what_was_lost_when_the_run_was_resumed() -> None:
    document = good()
    when = "2026-01-31T12:00:00.000Z", "2026-01-31T12:30:00.000Z"
    resumed = [Resumption(10.0, *when, 3, 4.5), Resumption(20.0, *when, 0, 0.0)]
    document["resumed"] = [{name: getattr(each, name) for name in each.__struct_fields__} for each in resumed]
    found = verdict(typed(document))
    [statement] = [each for each in found.statements if "resumed" in each.text]
    assert statement.level is Level.WARNING
    assert f"resumed 2 {TIMES} in a new process; the end of 3 operations" in statement.text
    assert "up to 4.5 s of measurements and 3 operations lost" in statement.details[0]
    assert (found.level, found.headline) == (Level.WARNING, f"Every limit passed, resumed 2 {TIMES}")
    console = Console(file=io.StringIO(), width=200)
    print_summary(console, typed(document))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "At second 10: stopped at 2026-01-31T12:00:00.000Z or later" in said
    assert "failed, but the run was resumed 2" in said
    assert "All good" not in said
