"""Which Macs a phase is for, and the LOM requests that they come to."""

from __future__ import annotations

from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st

from agent.fleet.derivation import Derivation
from agent.fleet.population import Population
from agent.scenario.arrivals import Arrival, ArrivalPlan, Constant, of_targets, schedule
from agent.scenario.targets import chosen_macs, chosen_segments, in_segment_order, lom_requests
from agent.scenario.types import CheckinPhase, LOMPhase, PowerCutPhase

populations = st.builds(Population, st.text(max_size=5), st.integers(1, 120), st.integers(1, 15))
shares = st.floats(0.001, 1.0)
segments = st.none() | st.integers(1, 20)
lom_phases = st.builds(
    LOMPhase, share=shares, segments=segments, per_request=st.integers(0, 20), controllers=st.booleans()
)


@given(populations, shares, segments)
def test_share_and_segments_determine_the_selected_macs(
    population: Population, share: float, first: int | None
) -> None:
    chosen = chosen_macs(CheckinPhase(share=share, segments=first), population)
    macs = len(population) if first is None else min(len(population), first * population.segment_size)
    assert len(chosen) == max(1, round(share * macs))
    assert list(chosen) == sorted(set(chosen))
    assert set(chosen) <= set(range(macs))
    of_segments = chosen_segments(PowerCutPhase(share=share, segments=first), population)
    among = population.segments if first is None else min(population.segments, first)
    assert len(of_segments) == max(1, round(share * among))
    assert set(of_segments) <= set(range(among))


@given(populations, shares, shares)
def test_smaller_share_is_a_subset_of_a_larger_one(population: Population, one: float, other: float) -> None:
    smaller, bigger = (set(chosen_macs(CheckinPhase(share=share), population)) for share in sorted((one, other)))
    assert smaller <= bigger


def test_selection_depends_on_the_seed() -> None:
    phase = CheckinPhase(share=0.5)
    assert chosen_macs(phase, Population("a", 100)) != chosen_macs(phase, Population("b", 100))


@given(populations, lom_phases)
def test_each_selected_mac_is_powered_once_by_its_own_controller(population: Population, phase: LOMPhase) -> None:
    chosen = set(chosen_macs(phase, population))
    controllers = {population.controller_of(index) for index in chosen}
    requests = lom_requests(phase, population)
    powered = Counter(index for request in requests for index in request.devices)
    assert powered == Counter(chosen if phase.controllers else chosen - controllers)
    for request in requests:
        assert set(request.devices) <= set(population.segment(request.segment))
        assert 0 < len(request.devices) <= (phase.per_request or len(population))
        assert request.devices[:-1] == tuple(sorted(request.devices[:-1]))


@given(populations, lom_phases, st.integers(1, 4), st.floats(0.1, 3.0))
def test_controller_is_the_last_of_its_segment_in_any_sharding(
    population: Population, phase: LOMPhase, shards: int, seconds: float
) -> None:
    requests = lom_requests(phase, population)
    plan = ArrivalPlan(Constant(20.0), seconds, again=True)
    source = Derivation(population.seed)

    def made() -> list[Arrival]:
        return list(in_segment_order(schedule(plan, len(requests), source, "lom"), requests))

    turns = defaultdict(list)
    for arrival in made():
        turns[requests[arrival.target].segment].append(arrival.target)
    for segment, came in turns.items():
        own = [place for place, request in enumerate(requests) if request.segment == segment]
        assert came == [own[turn % len(own)] for turn in range(len(came))]
    parts = []
    for shard in range(shards):

        def own_segment(place: int, shard: int = shard) -> bool:
            return requests[place].segment % shards == shard

        before = list(in_segment_order(of_targets(schedule(plan, len(requests), source, "lom"), own_segment), requests))
        assert before == list(of_targets(made(), own_segment))
        parts += before
    assert sorted(parts) == sorted(made())
