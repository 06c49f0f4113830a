"""What the conductor knows of a run: the state of each phase in each shard, and what each worker measured.

It is complete at any time, so that a run that is cut short still has results. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from agent.errors import OperatorError
from agent.fleet.population import Population
from agent.load.control.messages import ControlError, Second
from agent.load.machine.overload import Span
from agent.load.phases.run import operation_of
from agent.load.shard.clock import ClockOffset, ShardClock
from agent.load.shard.plan import ShardResult, cut
from agent.measure.live import LiveView, PhaseState, PhaseView, Recent
from agent.measure.metrics import Metrics
from agent.measure.pauses import Pauses
from agent.measure.summaries import PhaseSummary
from agent.measure.timeline import TimeLine
from agent.net.timing import Alarm
from agent.scenario.types import Scenario

WORKER_LOST = "the worker process was lost"


class PhaseRecord(msgspec.Struct):
    """One phase of the run, in all shards."""

    name: str
    kind: str
    operation: str
    """The operation under which what it drops counts."""
    lost: set[int] = msgspec.field(default_factory=set)
    """The shards whose worker was lost: what they had not started is dropped."""
    states: dict[int, PhaseState] = msgspec.field(default_factory=dict)
    """The last state that each shard reported."""
    started_s: float | None = None
    """Seconds from the start of the run, None before the phase starts."""
    finished_s: float | None = None
    """Seconds from the start of the run, None until the phase has finished in every shard."""
    ended: Deferred[None] = msgspec.field(default_factory=Deferred)
    """Fires when the phase has finished in every shard that is not lost."""

    @property
    def state(self) -> PhaseState:
        """The sum over all shards."""
        total = PhaseState(finished=True) if self.states else PhaseState()
        for shard, state in self.states.items():
            total = total.plus(state)
            total.dropped += self.unreported(shard)
        return total

    def paused_s(self, pauses: Pauses, elapsed: float) -> float:
        """The seconds of the phase in which the run was paused."""
        if self.started_s is None:
            return 0.0
        return pauses.within(self.started_s, elapsed if self.finished_s is None else self.finished_s)

    def unreported(self, shard: int) -> int:
        """How many operations a lost shard had planned and is not known to have started or dropped."""
        state = self.states.get(shard)
        if state is None or shard not in self.lost:
            return 0
        return max(0, state.planned - state.started - state.dropped)

    def summary(self, pauses: Pauses | None = None, elapsed: float = 0.0) -> PhaseSummary:
        """The phase for the results, ``elapsed`` seconds after the start of the run.

        Operations that have not ended count as cut short.
        """
        state, enrolls = self.state, self.kind == "enroll"
        return PhaseSummary(
            name=self.name,
            kind=self.kind,
            started_s=self.started_s,
            ended_s=self.finished_s,
            paused_s=self.paused_s(pauses or Pauses(), elapsed) or None,
            planned=state.planned,
            started=state.started,
            done=state.done,
            failed=state.failed,
            late=state.late,
            cut_short=state.started - state.done,
            dropped=state.dropped,
            key_waits=state.key_waits if enrolls else None,
            key_wait_s=state.key_wait_s if enrolls else None,
        )


class Loss(msgspec.Struct, frozen=True):
    """What was lost with a worker."""

    at_s: float
    """Seconds from the start of the run."""
    measured_s: float
    """Up to which second of the run its operations are in the results."""
    macs: range
    serials: tuple[str, str]
    """Of the first and the last Mac."""

    def __str__(self) -> str:
        first, last = self.serials
        return (
            f"lost at {self.at_s:.0f} s of the run; the results lack what its {len(self.macs)} Macs ({self.macs[0]} to "
            f"{self.macs[-1]} of the fleet, {first} to {last}) did after {self.measured_s:.0f} s"
        )

    @property
    def facts(self) -> dict[str, Any]:
        """For ``generator.workers`` of the results."""
        return {
            "at_s": round(self.at_s, 3),
            "measured_s": self.measured_s,
            "first_mac": self.macs[0],
            "last_mac": self.macs[-1],
            "serials": list(self.serials),
        }


class WorkerRecord(msgspec.Struct):
    """One worker, which runs one shard."""

    indexes: range
    """Its Macs."""
    host: str | None = None
    """The address from which its shard joined; None before."""
    elsewhere: bool = False
    """Whether it runs on another machine, so that its address names it."""
    clock: ShardClock = msgspec.field(default_factory=ShardClock)
    """The measurement in progress, or the last one."""
    offset: ClockOffset | None = None
    """What the last complete measurement of its clock found."""
    ready: Deferred[None] = msgspec.field(default_factory=Deferred)
    """Fires when it can start phases; fails with the reason if it never can."""
    settled: Deferred[None] = msgspec.field(default_factory=Deferred)
    """Fires when none of its Macs has an open session or boots, or when it is finished."""
    ended: Deferred[None] = msgspec.field(default_factory=Deferred)
    """Fires when it is no longer waited for."""
    second: int = -1
    """The last second of the time line that it reported."""
    snapshot: dict[str, Any] | None = None
    """Its last metrics snapshot."""
    measured: int = 0
    """Seconds from the start of the run that the snapshot covers."""
    result: ShardResult | None = None
    """What its shard delivered."""
    death: str | None = None
    """What its launcher said of its end, while its control link was still open."""
    lost: Loss | None = None
    """When it was lost, if that was during the run."""
    limit: Alarm | None = None
    """Expires when it takes too long to end."""
    problem: str | None = None
    """Why it failed or was lost."""
    link_error: str | None = None
    """How its control link broke during the run."""
    is_ready: bool = False
    ending: bool = False
    """Whether it has confirmed Finish."""
    silent: bool = False
    """Whether it has sent nothing for some seconds although it is ready."""
    silent_s: float = 0.0
    """Seconds of earlier silences."""

    @property
    def is_over(self) -> bool:
        """Whether it does nothing more for the run."""
        return self.result is not None or self.problem is not None

    def name(self, number: int) -> str:
        """How messages call it."""
        return f"worker {number} ({self.host})" if self.elsewhere and self.host else f"worker {number}"

    @property
    def facts(self) -> dict[str, Any]:
        """Its event loop's lag, CPU, memory and key waits; empty without a result."""
        result = self.result
        if result is None:
            return {"lag": None, "cpu_s": 0.0, "cpu_by_second": [], "max_rss_kib": 0}
        names = ("lag", "cpu_s", "cpu_by_second", "max_rss_kib", "key_waits", "key_wait_s")
        return {name: getattr(result, name) for name in names}

    def start(self) -> None:
        """It can start phases."""
        self.is_ready = True
        if not self.ready.called:
            self.ready.callback(None)

    def end(self) -> None:
        """Do not wait for it any longer."""
        self.settle()
        if not self.ended.called:
            self.ended.callback(None)

    def settle(self) -> None:
        """None of its Macs has an open session or boots, or it is finished."""
        if not self.settled.called:
            self.settled.callback(None)


class RunRecord:
    """The phases and workers of one run, numbered as in the scenario and as the shards."""

    def __init__(self, scenario: Scenario, population: Population, workers: int) -> None:
        self._lost: set[int] = set()
        self._population = population
        self.phases = [
            PhaseRecord(phase.name, phase.kind, operation_of(phase), self._lost) for phase in scenario.phases
        ]
        self.workers = [WorkerRecord(indexes) for indexes in cut(population, workers)]
        self.pauses = Pauses()
        """In seconds from the start of the run."""
        self.began = 0.0
        """The start of the run on its clock."""
        self.timeline = TimeLine([len(worker.indexes) for worker in self.workers])
        self.problems: list[str] = []
        self.second = -1
        """The last second that all workers reported."""
        self._recent = Recent()

    # Input: what the shards report.

    def phase(self, number: int) -> PhaseRecord:
        """A phase by its number. Raises ControlError for a number that the scenario does not have."""
        if not 0 <= number < len(self.phases):
            last = len(self.phases) - 1
            raise ControlError(f"Expected a phase from 0 to {last} on the control link, found {number}.")
        return self.phases[number]

    def add_second(self, shard: int, report: Second) -> bool:
        """Add a shard's report of one second; True if every worker that lives and reports has now reported it."""
        self.timeline.add(report.t, report.row, shard)
        self._recent.add(shard, report.row)
        for number, state in report.phases.items():
            states = self.phase(number).states
            if not states.get(shard, PhaseState()).finished:
                states[shard] = state
        worker = self.workers[shard]
        worker.second = report.t
        complete = min(each.second for each in self.workers if each is worker or not (each.is_over or each.silent))
        if complete <= self.second:
            return False
        self.second = complete
        self._recent.turn()
        return True

    def add_result(self, shard: int, result: ShardResult) -> None:
        """Add what a shard returned. Raises ControlError for a phase that the scenario does not have."""
        self.workers[shard].result = result
        for number, state in result.phases.items():
            self.phase(number).states[shard] = state

    def loss_of(self, shard: int, elapsed: float) -> Loss:
        """What is lost with a worker now, ``elapsed`` seconds after the start of the run."""
        worker = self.workers[shard]
        macs = worker.indexes
        serials = tuple(self._population[index].serial_number for index in (macs[0], macs[-1]))
        return Loss(elapsed, float(worker.measured), macs, (serials[0], serials[1]))

    def add_problem(self, shard: int, problem: str) -> None:
        """A worker failed, or, if it has no result, is lost."""
        worker = self.workers[shard]
        worker.problem = problem
        self.problems.append(problem)
        if worker.result is None:
            self._lost.add(shard)
            self.timeline.lose(shard)
            self._recent.lose(shard)

    def end_phase(self, number: int, elapsed: float) -> bool:
        """End a phase if it has finished in every shard that is not lost; True if it ended with this call."""
        record = self.phases[number]
        if record.started_s is None or record.ended.called:
            return False
        for shard, worker in enumerate(self.workers):
            if not worker.is_over and not record.states.get(shard, PhaseState()).finished:
                return False
        if len(record.states) == len(self.workers) and record.state.finished:
            record.finished_s = elapsed
        return True

    # Output: results and the live view.

    @property
    def results(self) -> list[ShardResult]:
        """What the shards returned, without those that were lost."""
        return [worker.result for worker in self.workers if worker.result is not None]

    def metrics(self) -> Metrics:
        """The metrics of all shards: of their results, else of their last snapshots."""
        merged = Metrics()
        merged.pauses = Pauses((began + self.began, ended + self.began) for began, ended in self.pauses)
        for worker in self.workers:
            snapshot = worker.result.metrics if worker.result is not None else worker.snapshot
            if snapshot:
                merged.merge(snapshot)
        for phase in self.phases:
            dropped = sum(map(phase.unreported, self._lost))
            if dropped:
                merged.dropped(phase.operation, WORKER_LOST, dropped)
        return merged

    def worker_facts(self, silent_s: Callable[[int], float]) -> list[dict[str, Any]]:
        """The elements of ``generator.workers`` of the results; ``silent_s`` is SilenceWatch's."""
        return [
            {
                "worker": number,
                **worker.facts,
                "silent_s": silent_s(number),
                "lost": None if worker.lost is None else worker.lost.facts,
                "clock": worker.offset.facts if worker.elsewhere and worker.offset is not None else None,
                "phases": [] if worker.result is None else phases_of(self.phases, worker.result.spans, number),
            }
            for number, worker in enumerate(self.workers)
        ]

    def view(
        self, elapsed: float, *, embedded_lab: bool, paused: bool = False, rates: Mapping[str, float] | None = None
    ) -> LiveView:
        """The run at this moment, ``elapsed`` seconds after its start; ``rates`` are those of running phases."""
        now = rates or {}
        phases = tuple(
            PhaseView(phase.name, phase.kind, phase.state, phase.started_s, phase.finished_s, now.get(phase.name))
            for phase in self.phases
        )
        return self._recent.view(elapsed, phases, embedded_lab=embedded_lab, paused=paused)


def phases_of(phases: Sequence[PhaseRecord], spans: Sequence[Span], shard: int | None = None) -> list[dict[str, Any]]:
    """What a process measured of itself in each phase, with the phase's name and how many operations started, and late.

    Raises OperatorError for a span of a phase that the scenario does not have.
    """
    found = []
    for span in spans:
        if not 0 <= span.phase < len(phases):
            raise OperatorError(
                f"Expected a phase from 0 to {len(phases) - 1} in a worker's result; found {span.phase}."
            )
        record = phases[span.phase]
        state = PhaseState() if shard is None else record.states.get(shard, PhaseState())
        measured = {**msgspec.structs.asdict(span), "phase": record.name}
        found.append({**measured, "started": state.started, "late": state.late})
    return found
