"""What a run has measured at any time: phases, metrics, time line, changes, how each worker kept up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.load.conductor.changes import CannotChange, RunChanges
from agent.load.conductor.keeping import RunKeeper
from agent.load.conductor.pushes import PushSide
from agent.load.conductor.record import PhaseRecord, RunRecord, WorkerRecord, phases_of
from agent.load.conductor.server import ServerSide
from agent.load.conductor.silence import SilenceWatch
from agent.load.machine.overload import LoopMonitor
from agent.load.shard.plan import ShardResult
from agent.measure.live import LiveView
from agent.measure.metrics import Metrics
from agent.measure.summaries import ChangeSummary, PhaseSummary, Resumption, RuleSummary, added_rules
from agent.measure.timeline import Targets, TimeLine, no_targets
from agent.processes import peak_kib

INTERRUPTED = "the run was interrupted"


class RunFacts:
    """The results of a run so far, for its conductor, which sets these attributes."""

    _record: RunRecord
    _workers: list[WorkerRecord]
    _server: ServerSide
    _pushes: PushSide
    _silence: SilenceWatch
    _monitor: LoopMonitor
    _kept: RunKeeper
    _changes: RunChanges | None
    """None before the run has started."""
    _interrupted: bool

    @property
    def phases(self) -> list[PhaseRecord]:
        """The phases, as in the scenario."""
        return self._record.phases

    @property
    def timeline(self) -> TimeLine:
        """The seconds that the shards reported."""
        return self._record.timeline

    @property
    def results(self) -> list[ShardResult]:
        """What the shards returned, without those that were lost."""
        return self._record.results

    def metrics(self) -> Metrics:
        """The metrics of all shards, as last reported."""
        return self._record.metrics()

    @property
    def workers(self) -> int:
        """The number of shards."""
        return len(self._workers)

    @property
    def embedded_lab(self) -> bool:
        """Whether the server is the lab in this process."""
        return self._server.lab is not None

    @property
    def elapsed(self) -> float:
        """Seconds since the run started, without those between two processes; 0 before."""
        return self._kept.elapsed if self._changes is None else self._changes.elapsed.seconds()

    @property
    def resumed(self) -> list[Resumption]:
        """How often the run was resumed."""
        return self._kept.resumed

    @property
    def worked(self) -> float:
        """Seconds that earlier processes of the run worked."""
        return self._kept.worked

    @property
    def has_begun(self) -> bool:
        """Whether the run has started: every worker was ready."""
        return self._changes is not None

    @property
    def changes(self) -> RunChanges:
        """The changes of the run. Raises CannotChange before it has started."""
        if self._changes is None:
            raise CannotChange("Expected a run that has started, found one whose workers start. Ask again.")
        return self._changes

    @property
    def changes_made(self) -> list[ChangeSummary]:
        """The pauses and changed rates until now."""
        return [] if self._changes is None else self._changes.made

    @property
    def incomplete_because(self) -> str | None:
        """Why the run did not complete, or None."""
        return "; ".join([INTERRUPTED] * self._interrupted + self._record.problems) or None

    def generator(self) -> list[dict[str, Any]]:
        """How each worker kept up, and this process if it has the gateway but not the server."""
        facts = self._record.worker_facts(self._silence.silent_s)
        if self._pushes.url is not None and self._server.lab is None:
            monitor = self._monitor
            facts.append(
                {
                    "worker": "gateway",
                    "lag": monitor.lag.encoded(),
                    "cpu_s": monitor.cpu_s,
                    "cpu_by_second": monitor.cpu_by_second,
                    "max_rss_kib": peak_kib(),
                    "phases": phases_of(self.phases, monitor.spans),
                }
            )
        return facts

    @property
    def cpu_elsewhere_s(self) -> float:
        """CPU seconds of the workers on other machines that delivered a result."""
        return sum(worker.result.cpu_s for worker in self._workers if worker.elsewhere and worker.result is not None)

    def push_counts(self) -> list[dict[str, Any]]:
        """The push counts of each shard's push endpoint and of the router."""
        return [*(result.push for result in self.results if result.push is not None), *self._pushes.counts]

    @property
    def targets(self) -> Callable[[int], Targets]:
        """The pauses and rates of each second."""
        return no_targets if self._changes is None else self._changes.targets

    def phase_summaries(self) -> list[PhaseSummary]:
        """The phases, for the results."""
        return [phase.summary(self._record.pauses, self.elapsed) for phase in self.phases]

    def rule_counts(self) -> list[RuleSummary]:
        """What each fault rule did, in all shards and at the gateway."""
        return added_rules([self._pushes.rule_counts, *(result.rules for result in self.results)])

    def view(self) -> LiveView:
        """The run at this moment."""
        changes = self._changes
        return self._record.view(
            self.elapsed,
            embedded_lab=self.embedded_lab,
            paused=changes is not None and changes.time.is_paused,
            rates=None if changes is None else changes.rates(),
        )
