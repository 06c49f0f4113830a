"""What the conductor has gathered: of each phase how far it is in which shard, of each shard what it came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred

from agent.fleet.population import Population
from agent.load.control import PhaseState
from agent.load.shard_plan import ShardResult


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

    def as_json(self) -> dict[str, Any]:
        """For the results."""
        state = self.state
        return {
            "name": self.name,
            "kind": self.kind,
            "started_s": self.begun,
            "ended_s": self.over,
            "planned": state.planned,
            "started": state.started,
            "done": state.done,
            "failed": state.failed,
            "late": state.late,
            "cut_short": state.started - state.done,  # with what goes on: for these results it has no end
            "dropped": state.dropped,
        }


@dataclass(slots=True)
class Worker:
    """One shard as the conductor sees it. ``asked`` says whether an executor has it."""

    indexes: range
    asked: bool = False
    ready: Deferred[None] = field(default_factory=Deferred)
    settled: Deferred[None] = field(default_factory=Deferred)
    ended: Deferred[None] = field(default_factory=Deferred)
    second: int = -1
    snapshot: dict[str, Any] | None = None
    result: ShardResult | None = None
    problem: str | None = None

    def settle(self) -> None:
        """Its Macs are at nothing, or it is gone."""
        if not self.settled.called:
            self.settled.callback(None)
