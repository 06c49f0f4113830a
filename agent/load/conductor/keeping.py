"""What the conductor of a run with a state file keeps there, and takes from it when the run is resumed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from agent.load.conductor.pushes import PushSide
from agent.load.conductor.record import PhaseRecord, RunRecord
from agent.load.conductor.state import MEASURED_SECONDS, RunState
from agent.load.control.messages import Ready
from agent.load.machine.overload import LoopMonitor, Span
from agent.measure.summaries import Resumption
from agent.net.timing import RunClock
from agent.sqlite_file import NotWritten


class RunKeeper:
    """Keeps one run; without a ``state`` every method does nothing. ``failed`` is told when it cannot be written."""

    def __init__(
        self,
        state: RunState | None,
        record: RunRecord,
        monitor: LoopMonitor,
        clock: RunClock,
        failed: Callable[[NotWritten], object],
    ) -> None:
        self._state = state
        self._record = record
        self._monitor = monitor
        self._clock = clock
        self._failed = failed
        self._lost = 0
        self._measured: float | None = None
        self._began = clock()
        self._pushes: PushSide | None = None
        self.resumed: list[Resumption] = []
        """How often the run was resumed."""
        self.elapsed = 0.0
        """Seconds that earlier processes ran the phases."""
        self.worked = 0.0
        """Seconds that they ran."""
        if state is not None:
            self._restore(state)

    def plan(self, number: int) -> dict[str, Any]:
        """The fields of a worker's plan that say where its state is."""
        state = self._state
        if state is None:
            return {}
        return {
            "state": state.worker_file(number),
            "run": state.run,
            "elapsed": self.elapsed,
            "known": state.knows_worker(number),
        }

    def opened(self, pushes: PushSide) -> None:
        """The gateway listens, or there is none."""
        self._pushes = pushes

    def ready(self, number: int, message: Ready) -> None:
        """A worker is ready."""
        if self._state is None:
            return
        measured = message.measured or 0.0
        self._lost += message.lost
        self._measured = measured if self._measured is None else min(self._measured, measured)
        self._try(lambda state: state.worker_ready(number))

    def begun(self) -> None:
        """The phases start, or go on."""
        if self._state is None or not self._state.resumes:
            return
        self._try(lambda state: state.begun(self._lost, self._measured or 0.0))
        self.resumed = self._state.resumptions

    def phase_started(self, number: int, elapsed: float) -> float:
        """A phase starts, or goes on; returns when it started."""
        if self._state is None:
            return elapsed
        started = self._try(lambda state: state.phase_started(number, elapsed))
        return elapsed if started is None else float(started)

    def phase_ended(self, number: int, record: PhaseRecord) -> None:
        """A phase has ended; where it has finished, an earlier process may have seen that before."""
        finished = record.finished_s
        if self._state is not None and finished is not None:
            first = self._try(lambda state: state.phase_finished(number, finished))
            record.finished_s = finished if first is None else first

    def second(self, second: int) -> None:
        """A worker reported a second of the time line."""
        if self._state is not None:
            self._state.dirty(second)

    def save(self) -> None:
        """All workers reported one more second."""
        complete = self._record.second
        if self._state is None or complete < 0:
            return
        more: dict[str, Any] = {} if self._pushes is None else dict(self._pushes.going_on)
        if complete % MEASURED_SECONDS == 0:
            monitor = self._monitor
            spans = [msgspec.to_builtins(span) for span in monitor.spans]
            more["gateway"] = {"lag": monitor.lag.encoded(), "cpu_s": monitor.cpu_s, "spans": spans}
        now = self._clock()
        worked = self.worked + now - self._began
        self._try(lambda state: state.save(self._record.timeline, complete, now, worked, more))

    def close(self, *, finished: bool) -> None:
        """Close the file; ``finished``: there is nothing to go on with."""
        state, self._state = self._state, None
        if state is None:
            return
        try:
            if finished:
                state.finish(self._clock())
        except NotWritten as error:
            self._failed(error)
        finally:
            state.close()

    def _restore(self, state: RunState) -> None:
        self.elapsed, self.worked = state.elapsed, state.worked
        state.restore_timeline(self._record.timeline)
        self._record.second = int(self.elapsed) - 1
        facts = state.facts("gateway")
        if facts is not None:
            self._monitor.continue_from(facts["lag"], facts["cpu_s"], [], msgspec.convert(facts["spans"], list[Span]))

    def _try(self, write: Callable[[RunState], Any]) -> Any:
        """The result of ``write``; None where the file cannot be written, so that the run is stopped."""
        if self._state is None:
            return None
        try:
            return write(self._state)
        except NotWritten as error:
            state, self._state = self._state, None
            state.close()
            self._failed(error)
            return None
