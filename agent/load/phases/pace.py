"""Starts operations when they are due (open loop) or a fixed number at a time (closed loop); counts their outcomes.

The schedule comes from `agent.scenario.arrivals`, the operations from the phases. In an open loop no operation waits
for an earlier one: a server that stalls still gets all that is due, and latencies count from the due time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from itertools import chain, islice, takewhile
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.python.failure import Failure

from agent.errors import CutShort, LomAgentError, PeerError
from agent.load.phases.phase_time import PausedTime, PhaseTime
from agent.load.phases.progress import Earlier, Kept
from agent.measure.live import PhaseState
from agent.measure.metrics import Metrics
from agent.measure.operations import Moment
from agent.net.timing import sleep
from agent.scenario.arrivals import Arrival
from agent.scenario.tempo import Tempo


async def all_of(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run these at the same time. If one raises, or if this is cancelled, the others are cancelled too."""
    workers = [Deferred.fromCoroutine(each) for each in coroutines]
    try:
        await gatherResults(workers, consumeErrors=True)
    except FirstError as first:
        for deferred in workers:
            deferred.cancel()
        first.subFailure.raiseException()


LATE_SECONDS = 0.1  # an operation that starts later than this after its due time is late; see docs/results.md
IMPOSSIBLE_SECONDS = 0.05  # pause of a closed loop after an operation that was dropped, so that it does not spin
MOST_COUNTED = (
    1_000_000  # dropped operations counted one by one; beyond that the planned number is used, so that a stop is quick
)
SKIPPED_AT_ONCE = 10_000  # operations of a schedule: some milliseconds
NOTHING_EARLIER = Earlier()
TURN_SECONDS = 0.004  # of starting operations before the reactor processes those in progress

Work = Callable[[int, Moment], Coroutine[Any, Any, None]]


class NotPossible(LomAgentError):
    """The Mac cannot start what is due: it is off, not enrolled, or still busy. The operation is dropped."""

    kind = "not_possible"


class Pace:
    """The pace of one phase in one shard. Late and dropped operations count under the name ``operation``.

    ``state`` is kept up to date. ``open`` and ``closed`` raise the first defect of the work. While ``time`` is paused
    nothing starts, and what is due later is due later by the length of the pause. They go on after what ``earlier``
    processes of a resumed run did; ``kept`` is told how far they have come.
    """

    def __init__(
        self,
        time: PausedTime,
        now: Callable[[], Moment],
        metrics: Metrics,
        operation: str,
        state: PhaseState,
        tempo: Tempo | None = None,
        earlier: Earlier = NOTHING_EARLIER,
        kept: Kept | None = None,
    ) -> None:
        self._clock = time.clock
        self._time = time
        self._now = now
        self._metrics = metrics
        self._operation = operation
        self._state = state
        self._tempo = tempo or Tempo()
        self._earlier = earlier
        self._kept = kept
        self._reached = earlier.reached
        self._phase: PhaseTime | None = None
        self._under_way: set[Deferred[None]] = set()
        self._quiet: Deferred[None] | None = None
        self._defect: BaseException | None = None
        self.reason = "the run ended first"

    @property
    def reached(self) -> int:
        """How many operations of the schedule were started or dropped, also by earlier processes."""
        return self._reached

    @property
    def elapsed(self) -> float:
        """Seconds since the start of the phase, without pauses and without those between two processes."""
        return self._earlier.elapsed if self._phase is None else self._phase.seconds

    def begin(self) -> PhaseTime:
        """The phase starts now, or goes on; returns its time, as if the processes had followed at once."""
        self._phase = PhaseTime(self._time, self._clock.seconds() - self._earlier.elapsed)
        return self._phase

    async def open(
        self,
        arrivals: Iterable[Arrival],
        work: Work,
        seconds: float = math.inf,
        *,
        hold: bool = False,
        again: Sequence[int] = (),
    ) -> None:
        """Start each operation that is due before ``seconds``, and wait until all have finished.

        With ``hold`` a changed rate may make more due until then, so it does not end before. Cancelling drops the rest.
        ``again`` are targets that earlier processes did not finish: they are started at once.
        """
        row = iter(arrivals)
        await self._skip(row)
        began = self._now()
        time = self.begin()
        for target in again:
            self._begin(target, began, work)
        arrival = next(row, None)
        turn_ends = self._clock.seconds() + TURN_SECONDS

        def is_due(each: Arrival) -> bool:
            return self._tempo.moment(each.due) < seconds

        try:
            while arrival is not None:
                due = self._tempo.moment(arrival.due)
                if due >= seconds and not hold:
                    break
                ticks = time.moment(min(due, seconds))
                now = self._clock.seconds()
                if ticks > now or now >= turn_ends:
                    in_time = await self._time.wait(ticks - now)
                    turn_ends = self._clock.seconds() + TURN_SECONDS
                    if not in_time:
                        continue
                if due >= seconds:
                    break
                target, arrival = arrival.target, None
                self._reach()
                self._begin(target, Moment(began.wall + (ticks - began.ticks), ticks), work)
                arrival = next(row, None)
            await self._until_quiet()
        except CancelledError:
            left: Iterator[Arrival] = chain([] if arrival is None else [arrival], row)
            left = takewhile(is_due, left)
            self._drop(left)
            raise
        finally:
            self._cancel_all()
        self._raise_defect()

    async def closed(
        self,
        targets: Iterable[int],
        at_once: int,
        work: Work,
        seconds: float | None = None,
        again: Sequence[int] = (),
    ) -> None:
        """Keep ``at_once`` operations in progress, for at most ``seconds``; ``again`` as in ``open``, at the front."""
        row = iter(targets)
        await self._skip(row)
        time = self.begin()
        unfinished = iter(again)

        def next_target() -> int | None:
            target = next(unfinished, None)
            if target is None and (seconds is None or time.seconds < seconds):
                target = next(row, None)
                if target is not None:
                    self._reach()
            return target

        async def one_after_another() -> None:
            while True:
                await self._time.running()
                target = next_target()
                if target is None:
                    return
                dropped = self._state.dropped
                await self._begin(target, self._now(), work)
                if self._state.dropped > dropped:
                    await sleep(self._clock, IMPOSSIBLE_SECONDS)

        try:
            await self._all_in_turns(one_after_another, at_once)
        except CancelledError:
            if seconds is None:
                self._drop(row)
            raise
        finally:
            self._cancel_all()
        self._raise_defect()

    async def _all_in_turns(self, coroutine: Callable[[], Coroutine[Any, Any, None]], count: int) -> None:
        """Run this so many times at once, as ``all_of``; not all begin in one turn of the reactor."""
        running: list[Deferred[None]] = []
        turn_ends = self._clock.seconds() + TURN_SECONDS
        try:
            for _ in range(count):
                running.append(Deferred.fromCoroutine(coroutine()))
                if self._clock.seconds() >= turn_ends:
                    await sleep(self._clock, 0.0)
                    turn_ends = self._clock.seconds() + TURN_SECONDS
            await gatherResults(running, consumeErrors=True)
        except (FirstError, CancelledError) as error:
            for deferred in running:
                deferred.addErrback(_cancelled)  # nobody gathers them where they did not all begin
                deferred.cancel()
            if isinstance(error, FirstError):
                error.subFailure.raiseException()
            raise

    async def _skip(self, row: Iterator[object]) -> None:
        """Leave out what earlier processes took from the schedule; the reactor goes on meanwhile."""
        for left in range(self._earlier.reached, 0, -SKIPPED_AT_ONCE):
            deque(islice(row, min(left, SKIPPED_AT_ONCE)), maxlen=0)
            await sleep(self._clock, 0.0)

    def _reach(self) -> None:
        self._reached += 1
        if self._kept is not None:
            self._kept.reached(self._reached, self.elapsed)

    def _begin(self, target: int, due: Moment, work: Work) -> Awaitable[None]:
        state = self._state
        state.started += 1
        state.planned = max(state.planned, state.started + state.dropped)  # the planned number may be an average
        late = self._clock.seconds() - due.ticks > LATE_SECONDS
        kept = self._kept
        if kept is not None:
            kept.begun(target)
        running = Deferred.fromCoroutine(work(target, due))
        over: Deferred[None] = Deferred()

        def ended(outcome: object) -> None:
            self._under_way.discard(running)
            if kept is not None:
                kept.ended(target)
            self._count(outcome, late)
            over.callback(None)
            if self._quiet is not None and not self._under_way:
                quiet, self._quiet = self._quiet, None
                quiet.callback(None)

        self._under_way.add(running)
        running.addBoth(ended)
        return over

    def _count(self, outcome: object, late: bool) -> None:
        state = self._state
        error = outcome.value if isinstance(outcome, Failure) else None
        if isinstance(error, NotPossible):
            state.started -= 1
            state.dropped += 1
            self._metrics.dropped(self._operation, str(error))
            return
        if late:
            state.late += 1
            self._metrics.late(self._operation)
        if isinstance(error, CancelledError | CutShort):
            state.cut_short += 1
            return
        state.done += 1
        if error is not None:
            state.failed += 1
            if not isinstance(error, PeerError):
                self._defect = self._defect or error

    def _drop(self, row: Iterable[object]) -> None:
        state = self._state
        left = sum(1 for _ in islice(row, MOST_COUNTED))
        if left >= MOST_COUNTED:
            left = max(left, state.planned - state.started - state.dropped)
        if left:
            state.dropped += left
            self._metrics.dropped(self._operation, self.reason, left)

    async def _until_quiet(self) -> None:
        if self._under_way:
            self._quiet = Deferred()
            await self._quiet

    def _cancel_all(self) -> None:
        self._quiet = None
        for running in list(self._under_way):
            running.cancel()

    def _raise_defect(self) -> None:
        if self._defect is not None:
            raise self._defect


def _cancelled(failure: Failure) -> None:
    if not isinstance(failure.value, CancelledError):
        failure.raiseException()
