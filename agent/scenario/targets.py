"""The Macs of a phase, by its ``share`` and ``segments``, and their LOM requests. No I/O.

Every shard computes the same list for the whole fleet; a target is an index into it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import NamedTuple

from agent.fleet.derivation import Derivation
from agent.fleet.population import Population
from agent.scenario.arrivals import Arrival, order
from agent.scenario.types import LOMPhase, PhaseBase

# One order for all phases: equal shares are the same Macs, and a smaller share is part of a larger one.
_MACS, _SEGMENTS = "chosen macs", "chosen segments"


class LOMRequest(NamedTuple):
    """One LOMDeviceRequest to the Controller of ``segment``; ``devices`` are indexes, the Controller itself last."""

    segment: int
    devices: tuple[int, ...]


def chosen_macs(phase: PhaseBase, population: Population) -> Sequence[int]:
    """The indexes of the Macs of ``phase``, ascending; at least one."""
    macs = len(population)
    if phase.segments is not None:
        macs = min(macs, phase.segments * population.segment_size)
    return _share_of(phase.share, macs, population, _MACS)


def chosen_segments(phase: PhaseBase, population: Population) -> Sequence[int]:
    """The numbers of the segments of ``phase``, ascending; at least one."""
    segments = population.segments
    if phase.segments is not None:
        segments = min(segments, phase.segments)
    return _share_of(phase.share, segments, population, _SEGMENTS)


def lom_requests(phase: LOMPhase, population: Population) -> list[LOMRequest]:
    """One request for each chosen Mac, segment by segment; the Controller is in the last request of its segment."""
    requests: list[LOMRequest] = []
    for segment, macs in groupby(chosen_macs(phase, population), lambda index: index // population.segment_size):
        controller = population.segment(segment)[0]
        devices = deque(macs)
        if devices[0] == controller:
            devices.rotate(-1)
            if not phase.controllers:
                devices.pop()
        turns = iter(devices)
        while part := tuple(islice(turns, phase.per_request or len(devices))):
            requests.append(LOMRequest(segment, part))
    return requests


def in_segment_order(arrivals: Iterable[Arrival], requests: Sequence[LOMRequest]) -> Iterator[Arrival]:
    """The arrivals with the requests of each segment in the order of ``requests``, repeated after the last.

    Each arrival keeps its due time and segment, so the result does not depend on the split into shards.
    """
    first: dict[int, int] = {}
    counts: dict[int, int] = {}
    for position, request in enumerate(requests):
        first.setdefault(request.segment, position)
        counts[request.segment] = counts.get(request.segment, 0) + 1
    turns = dict.fromkeys(first, 0)
    for due, target in arrivals:
        segment = requests[target].segment
        turn = turns[segment]
        turns[segment] = (turn + 1) % counts[segment]
        yield Arrival(due, first[segment] + turn)


def _share_of(share: float, count: int, population: Population, purpose: str) -> Sequence[int]:
    if share >= 1.0:
        return range(count)
    chosen = max(1, round(share * count))
    return sorted(islice(order(count, Derivation(population.seed), purpose), chosen))
