"""What the conductor has gathered: of each phase how far it is in which shard, of each shard what it came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from agent.errors import OperatorError
from agent.fleet.population import Population
from agent.load.overload import Span
from agent.load.shard_plan import ShardResult
from agent.measure.live import PhaseState
from agent.measure.summaries import PhaseSummary


def cut(population: Population, shards: int) -> list[range]:
    """The Macs of each of at most ``shards`` shards: ranges of whole segments, as equal as can be."""
    segments = population.segments
    count = max(1, min(shards, segments))
    starts = [population.segment(segments * shard // count)[0] for shard in range(count)]
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], len(population)], strict=True)]


@dataclass(slots=True)
class PhaseRecord:
    """One phase of the run: ``begun`` and ``over`` in seconds from its start, ``states`` by the shard."""

    name: str
    kind: str
    states: dict[int, PhaseState] = field(default_factory=dict)
    begun: float | None = None
    over: float | None = None
    ended: Deferred[None] = field(default_factory=Deferred)

    @property
    def state(self) -> PhaseState:
        """The phase in all shards."""
        total = PhaseState(over=True) if self.states else PhaseState()
        for state in self.states.values():
            total = total.plus(state)
        return total

    def summary(self) -> PhaseSummary:
        """The phase for the results. Operations that have not ended count as cut short."""
        state, enrolls = self.state, self.kind == "enroll"
        return PhaseSummary(
            name=self.name,
            kind=self.kind,
            started_s=self.begun,
            ended_s=self.over,
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


def phases_of(phases: Sequence[PhaseRecord], spans: Sequence[Span], shard: int | None = None) -> list[dict[str, Any]]:
    """What a process measured of itself in each phase, by the phases' names, and what started there, and late."""
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


@dataclass(slots=True)
class Worker:
    """One shard as the conductor sees it. ``asked`` says whether an executor has it.

    ``problem`` says why it is lost, ``lost`` how its control link ended before its time. It is ``silent`` while it says
    nothing once it ``is_ready``, and was so for ``silent_s`` seconds before; ``ending`` when it knows of its end.
    """

    indexes: range
    asked: bool = False
    ready: Deferred[None] = field(default_factory=Deferred)
    settled: Deferred[None] = field(default_factory=Deferred)
    ended: Deferred[None] = field(default_factory=Deferred)
    second: int = -1
    snapshot: dict[str, Any] | None = None
    result: ShardResult | None = None
    problem: str | None = None
    lost: str | None = None
    is_ready: bool = False
    ending: bool = False
    silent: bool = False
    silent_s: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it does nothing more for the run."""
        return self.result is not None or self.problem is not None

    @property
    def facts(self) -> dict[str, Any]:
        """How it kept up, as far as it lived to tell."""
        result = self.result
        if result is None:
            return {"lag": None, "cpu_s": 0.0, "cpu_by_second": [], "max_rss_kib": 0}
        names = ("lag", "cpu_s", "cpu_by_second", "max_rss_kib", "key_waits", "key_wait_s")
        return {name: getattr(result, name) for name in names}

    def end(self) -> None:
        """It is not waited for any more."""
        self.settle()
        if not self.ended.called:
            self.ended.callback(None)

    def settle(self) -> None:
        """Its Macs are at nothing, or it is gone."""
        if not self.settled.called:
            self.settled.callback(None)
