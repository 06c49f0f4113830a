"""One phase of one shard: which of its operations are this shard's, and in which order and at which pace they start."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import msgspec

from agent.fleet.derivation import Derivation
from agent.fleet.population import Population
from agent.load.phases.checkin import look, look_when_pushed
from agent.load.phases.context import PhaseContext
from agent.load.phases.enroll import enroll
from agent.load.phases.lom import power, set_up
from agent.load.phases.pace import NOTHING_EARLIER, Pace, Work
from agent.load.phases.power_cut import cut_power
from agent.load.phases.progress import Earlier, Kept
from agent.lom.requests import PowerRequest
from agent.measure.live import PhaseState
from agent.measure.operations import Moment
from agent.scenario.arrivals import Arrival, ArrivalPlan, Constant, expected, of_targets, order, schedule, without_end
from agent.scenario.pacing import Closed, factors, pace
from agent.scenario.targets import chosen_macs, chosen_segments, in_segment_order, lom_requests
from agent.scenario.tempo import Tempo
from agent.scenario.types import (
    ArrivingPhase,
    Change,
    CheckinPhase,
    CommandPhase,
    EnrollPhase,
    IdlePhase,
    LoadPart,
    LOMPhase,
    LOMSetupPhase,
    Phase,
    PhaseBase,
    PowerCutPhase,
)

_OPERATIONS = {
    "enroll": "enroll",
    "checkin": "session",
    "command": "delivery",
    "lom_setup": "lom_setup",
    "lom": "lom_device",
    "power_cut": "return",
    "idle": "session",
}


class Part(msgspec.Struct, frozen=True):
    """The part of the fleet in one shard: Macs ``indexes`` of ``population``, number ``shard`` of ``shards``."""

    population: Population
    source: Derivation
    indexes: range
    shard: int
    shards: int
    load: LoadPart

    def owns_segment(self, segment: int) -> bool:
        """Whether the Macs of this segment are in this shard; a segment is never split."""
        return self.population.segment(segment)[0] in self.indexes

    def places(self, macs: Sequence[int]) -> range:
        """The positions of this shard's Macs in ``macs``, which are ascending indexes."""
        return range(bisect_left(macs, self.indexes.start), bisect_left(macs, self.indexes.stop))


def part_of(number: int, some: range, total: int) -> int:
    """The share of ``number`` for the range ``some`` of ``total``; shares of all ranges add up to ``number``."""
    return number * some.stop // total - number * some.start // total if total else 0


def operation_of(phase: PhaseBase) -> str:
    """The name of the operation under which a phase's late and dropped operations count."""
    if isinstance(phase, CheckinPhase) and phase.by == "push":
        return "delivery"
    return _OPERATIONS[phase.kind]


class PhaseRun:
    """One phase in one shard. ``state`` is its progress; ``earlier`` and ``kept`` as of Pace."""

    def __init__(
        self,
        phase: Phase,
        context: PhaseContext,
        part: Part,
        changes: Iterable[Change] = (),
        earlier: Earlier = NOTHING_EARLIER,
        kept: Kept | None = None,
    ) -> None:
        self.state = PhaseState().plus(earlier.state)
        self.phase = phase
        self._context = context
        self._part = part
        environment = context.environment
        self._tempo = Tempo(factors(changes, phase, part.load))
        self._planned: Callable[[], int] | None = None
        self._earlier = earlier
        self._kept = kept
        self.pace = Pace(
            context.time,
            environment.now,
            context.metrics,
            operation_of(phase),
            self.state,
            self._tempo,
            earlier,
            kept,
        )

    async def run(self) -> None:
        """Run to the end of the phase in this shard. May be cancelled; what has not started is then dropped."""
        keys = self._context.environment.keys
        state = self.state
        waits, waited_s = keys.waits - state.key_waits, keys.waited_s - state.key_wait_s
        try:
            match self.phase:
                case LOMPhase() as phase:
                    await self._lom(phase)
                case PowerCutPhase() as phase:
                    await self._power_cut(phase)
                case IdlePhase() as phase:
                    await self._idle(phase)
                case ArrivingPhase() as phase:
                    await self._macs(phase)
        finally:
            self.state.planned = self.state.started + self.state.dropped
            if isinstance(self.phase, EnrollPhase):
                self.state.key_waits, self.state.key_wait_s = keys.waits - waits, keys.waited_s - waited_s
        self.state.finished = True

    def stop_because(self, reason: str) -> None:
        """Set the reason of what is dropped when ``run`` is cancelled."""
        self.pace.reason = reason

    def change_rate(self, at: float, factor: float) -> None:
        """From second ``at`` of the phase on, go through its schedule by this factor faster."""
        self._tempo.change(at, factor)
        if self._planned is not None and not self.state.finished:
            self.state.planned = max(self._planned(), self.state.started + self.state.dropped)
        self._context.time.changed()

    async def _macs(self, phase: ArrivingPhase) -> None:
        """Each operation belongs to one Mac."""
        chosen = chosen_macs(phase, self._part.population)
        of_mac = self._work_of(phase)

        def work(place: int, due: Moment) -> Coroutine[Any, Any, None]:
            return of_mac(chosen[place], due)

        again = self._again(phase, chosen)
        await self._paced(phase, len(chosen), self._part.places(chosen), work, again=again)

    def _again(self, phase: ArrivingPhase, chosen: Sequence[int]) -> list[int]:
        """The enrollments, or set-ups for LOM, that an earlier process began and that are not done."""
        again = []
        for place in self._earlier.again:
            index = chosen[place]
            if self._context.mac(index).enrolled if isinstance(phase, EnrollPhase) else index in self._context.setups:
                if self._kept is not None:
                    self._kept.ended(place)
            else:
                again.append(place)
        return again

    def _work_of(self, phase: ArrivingPhase) -> Work:
        context = self._context
        match phase:
            case EnrollPhase():
                return lambda index, due: enroll(context, index, due, phase.timeout)
            case CheckinPhase():
                look_by = look_when_pushed if phase.by == "push" else look
                return lambda index, due: look_by(context, index, due, phase.timeout)
            case CommandPhase():
                return partial(self._command, phase.request or {}, phase.timeout, phase.channel)
            case LOMSetupPhase():
                return lambda index, due: set_up(context, index, due, phase.timeout, install=phase.install)
        raise AssertionError(phase.kind)

    async def _command(self, request: dict[str, Any], seconds: float, channel: str, index: int, due: Moment) -> None:
        await self._context.command(self._context.mac(index), request, due, seconds, channel)

    async def _lom(self, phase: LOMPhase) -> None:
        """Each operation is one LOMDeviceRequest."""
        part = self._part
        requests = lom_requests(phase, part.population)
        request = PowerRequest(phase.request)

        async def ask(place: int, due: Moment) -> None:
            one = requests[place]
            controller = part.population.segment(one.segment)[0]
            await power(self._context, controller, one.devices, request, due, phase.timeout)

        await self._paced(
            phase,
            len(requests),
            part.places([part.population.segment(each.segment)[0] for each in requests]),
            ask,
            lambda arrivals: in_segment_order(arrivals, requests),
        )

    async def _power_cut(self, phase: PowerCutPhase) -> None:
        """Each operation is one segment."""
        part = self._part
        segments = chosen_segments(phase, part.population)
        step = 1.0 / max(1, len(segments))
        self.state.planned = sum(map(part.owns_segment, segments))
        arrivals = (
            Arrival(phase.spread * step * place, place)
            for place, segment in enumerate(segments)
            if part.owns_segment(segment)
        )

        async def cut(place: int, due: Moment) -> None:
            away = phase.seconds + phase.return_spread * step * place
            await cut_power(self._context, part.population.segment(segments[place]), due, away, phase.timeout)

        await self.pace.open(arrivals, cut)

    async def _idle(self, phase: IdlePhase) -> None:
        """Wait, or let the Macs poll: open sessions by themselves, one every ``poll`` seconds on average."""
        if phase.poll is None:
            await self.pace.begin().until(phase.seconds)
            return
        chosen = chosen_macs(phase, self._part.population)
        plan = ArrivalPlan(Constant(len(chosen) / phase.poll), phase.seconds, again=True)
        arrivals = schedule(plan, len(chosen), self._part.source, phase.name)
        mine = self._part.places(chosen)
        self.state.planned = part_of(expected(plan, len(chosen))[0], mine, len(chosen))

        async def one(place: int, due: Moment) -> None:
            await look(self._context, chosen[place], due, phase.timeout)

        await self.pace.open(of_targets(arrivals, mine.__contains__), one)

    async def _paced(
        self,
        phase: ArrivingPhase,
        targets: int,
        mine: range,
        work: Work,
        reorder: Callable[[Iterable[Arrival]], Iterator[Arrival]] = iter,
        again: Sequence[int] = (),
    ) -> None:
        part = self._part
        how = pace(phase, part.load)
        if isinstance(how, Closed):
            row = [Arrival(0.0, place) for place in order(targets, part.source, phase.name)]
            places = [arrival.target for arrival in reorder(row) if arrival.target in mine]
            self.state.planned = len(places)
            await self._closed(how, places, part_of(how.concurrency, mine, targets), work, again)
        else:
            self._planned = lambda: part_of(expected(how, targets, self._tempo)[0], mine, targets)
            self.state.planned = self._planned()
            if not mine:
                return  # without targets, arrivals without end would be looked through for ever
            arrivals = of_targets(reorder(without_end(how, targets, part.source, phase.name)), mine.__contains__)
            until = math.inf if how.duration is None else how.duration
            await self.pace.open(arrivals, work, until, hold=self._context.controlled, again=again)

    async def _closed(self, how: Closed, places: Sequence[int], at_once: int, work: Work, again: Sequence[int]) -> None:
        if not places:
            return
        await self.pace.closed(cycle(places) if how.again else places, max(1, at_once), work, how.duration, again)
