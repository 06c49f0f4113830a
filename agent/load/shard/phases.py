"""The phases of one shard: which run, which ran in earlier processes of the run, and how far each has come."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.python.failure import Failure

from agent.load.control.messages import ControlError, Message, PhaseFinished, PhaseStarted
from agent.load.machine.overload import LoopMonitor
from agent.load.phases.pace import NOTHING_EARLIER
from agent.load.phases.progress import Earlier, Kept
from agent.load.phases.run import PhaseRun
from agent.load.shard.parts import ShardParts
from agent.load.shard.state import ShardState
from agent.measure.live import PhaseState
from agent.scenario.types import Scenario


class ShardPhases:
    """``send`` tells the conductor, ``keep`` writes what a finished phase did, and ``defect`` gets an error of ours."""

    def __init__(
        self,
        monitor: LoopMonitor,
        send: Callable[[Message], object],
        keep: Callable[[], object],
        defect: Callable[[Failure], object],
    ) -> None:
        self.earlier: dict[int, Earlier] = {}  # phases of earlier processes of the run that have not gone on yet
        self._monitor = monitor
        self._send = send
        self._keep = keep
        self._defect = defect
        self._running: dict[int, tuple[PhaseRun, Deferred[None]]] = {}
        self._started: set[int] = set()

    @property
    def states(self) -> dict[int, PhaseState]:
        """The state of each phase by its number."""
        earlier = {number: each.state for number, each in self.earlier.items()}
        return earlier | {number: run.state for number, (run, _) in self._running.items()}

    @property
    def reached(self) -> dict[int, int]:
        """How many operations of each phase were taken from its schedule."""
        earlier = {number: each.reached for number, each in self.earlier.items()}
        return earlier | {number: run.pace.reached for number, (run, _) in self._running.items()}

    def moved(self, state: ShardState) -> None:
        """Have the file keep how far each phase has come."""
        for number, (run, _) in self._running.items():
            state.moved(number, run.pace.reached, run.pace.elapsed)

    def expect(self, number: int, last: int) -> None:
        """The conductor has asked for a phase, which is to start soon. Raises ControlError."""
        if not 0 <= number <= last or number in self._started:
            raise ControlError(f"Expected a phase from 0 to {last} that has not started, found {number}.")
        self._started.add(number)

    def start(self, number: int, scenario: Scenario, parts: ShardParts, kept: Kept | None) -> None:
        """Start a phase, or go on with it; one that is finished is told to be so."""
        earlier = self.earlier.get(number, NOTHING_EARLIER)
        if earlier.state.finished:
            self._send(PhaseFinished(number, earlier.state))
            return
        self.earlier.pop(number, None)
        gc.freeze()  # with many Macs, collecting the long-lived objects again and again would stall the loop
        run = PhaseRun(scenario.phases[number], parts.context, parts.part, scenario.changes, earlier, kept)
        self._monitor.enter(number)
        over = Deferred.fromCoroutine(run.run())
        self._running[number] = run, over
        self._send(PhaseStarted(number, run.state))
        over.addBoth(partial(self._over, number, run))

    def change_rate(self, number: int, at: float, factor: float) -> None:
        """Change the rate of a phase that runs."""
        if number in self._running:
            self._running[number][0].change_rate(at, factor)

    async def stop(self, reason: str) -> None:
        """End each phase that runs."""
        for run, over in self._running.values():
            run.stop_because(reason)
            over.cancel()
        await DeferredList([over for _, over in self._running.values()], consumeErrors=True)

    def _over(self, number: int, run: PhaseRun, outcome: object) -> None:
        self._monitor.leave(number)
        if run.state.finished:
            self._keep()  # before it is told: a resumed run does not repeat it
            self._send(PhaseFinished(number, run.state))
        if isinstance(outcome, Failure) and not isinstance(outcome.value, CancelledError):
            self._defect(outcome)
