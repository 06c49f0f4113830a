"""What the workers of a run send, and how they end: with a result, or lost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import BrokenExecutor, Future
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from agent.errors import LomAgentError, OperatorError, PeerError
from agent.load.conductor.facts import RunFacts
from agent.load.conductor.record import WorkerRecord
from agent.load.control.link import ControlLink, ControlServer
from agent.load.control.messages import (
    Alive,
    ClockAnswer,
    ClockQuestion,
    Ending,
    Message,
    PhaseFinished,
    PhaseStarted,
    Plan,
    Ready,
    RefusalAnswer,
    RefusalQuestion,
    Result,
    Second,
    Settled,
    Snapshot,
    Taken,
    TracePiece,
    Warn,
)
from agent.load.control.trace_home import PIECE_BYTES, TraceHome
from agent.load.launch.launching import Launcher
from agent.load.shard.clock import ShardClock
from agent.load.shard.plan import ShardPlan, decode_result, encode
from agent.load.shard.shard import ShardEnd
from agent.measure.live import RunObserver
from agent.net.timing import RunClock
from agent.push.reasons import OwnCause
from agent.push.wire import RoutedAnswer
from agent.scenario.types import Scenario

FINISH_SECONDS = 60.0  # in which a worker that still reports ends after Finish
ABORTED = "the run was stopped because a worker was lost (load.on_loss)"
_log = Logger()


class WorkersOfRun(RunFacts, ABC):
    """The conductor's view of its workers. The conductor sets these attributes."""

    scenario: Scenario
    _reactor: Any
    _launcher: Launcher
    _link: ControlServer
    _clock: RunClock
    _observer: RunObserver
    _traces: TraceHome
    _warnings: set[str]
    _job: Deferred[None] | None
    _closing: bool
    _aborted: bool

    @abstractmethod
    def _plan(self, number: int) -> ShardPlan:
        """The plan of a worker, which has joined."""

    # Called by the control link.

    def joined(self, link: ControlLink, host: str) -> None:
        """A shard joined the run: send it its plan."""
        worker = self._workers[link.shard]
        worker.host = host
        if worker.elsewhere:
            self._observer.note(f"Worker {link.shard} has joined from {host}")
        link.send(Plan(encode(self._plan(link.shard))))

    def message_received(self, link: ControlLink, message: Message) -> None:
        """A shard sent a message. Raises ControlError for a phase that the scenario does not have."""
        shard = link.shard
        worker = self._workers[shard]
        self._silence.heard(shard)
        match message:
            case Alive():
                pass
            case Ending():
                worker.ending = True
            case Ready():
                self._kept.ready(shard, message)
                link.send(ClockQuestion(worker.clock.ask(self._clock())))
            case ClockAnswer():
                worker.clock.answered(message, self._clock())
                if worker.clock.is_measured:
                    worker.offset = worker.clock.best
                    worker.start()
                else:
                    link.send(ClockQuestion(worker.clock.ask(self._clock())))
            case TracePiece(octets):
                self._add_trace(link, octets)
            case Result(octets):
                self._add_result(shard, octets)
                link.send(Taken())
                self._end_worker(shard)
            case _:
                self._reported(link, worker, message)

    def _reported(self, link: ControlLink, worker: WorkerRecord, message: Message) -> None:
        """A shard told of its Macs."""
        shard = link.shard
        match message:
            case Second():
                self._kept.second(message.t)
                if self._record.add_second(shard, message):
                    self._kept.save()
                    self._observer.look(self.view())
            case Snapshot(metrics):
                worker.snapshot = metrics
                worker.measured = worker.second + 1
            case PhaseStarted(number, state):
                self._record.phase(number).states.setdefault(shard, state)
            case PhaseFinished(number, state):
                self._record.phase(number).states[shard] = state
                self._end_phase(number)
            case Settled():
                worker.settle()
            case RoutedAnswer():
                self._pushes.answered(shard, message)
            case RefusalQuestion(number, index, since):
                link.send(RefusalAnswer(number, self._pushes.own_refusal(index, since)))
            case Warn(text):
                self._warn_once(text)
            case _:
                _log.warn("worker {shard} sent a message that only the conductor sends", shard=shard)

    def _warn_once(self, text: str) -> None:
        """Show a warning of a shard; several may send the same."""
        if text not in self._warnings:
            self._warnings.add(text)
            self._observer.warn(text)

    def link_lost(self, link: ControlLink, error: PeerError) -> None:
        """A shard's link is gone. The launcher says what became of the shard; SilenceWatch, if it does not."""
        shard = link.shard
        worker = self._workers[shard]
        self._pushes.shard_gone(shard, OwnCause.SHUTDOWN if self._closing else OwnCause.WORKER_LOST)
        if worker.ended.called:
            return
        worker.link_error = str(error)
        if worker.elsewhere:
            self.give_up(shard, f"{worker.name(shard)} lost its control link: {worker.link_error}")
        elif worker.death is not None:
            self.give_up(shard, worker.death)

    def _measure_clocks(self) -> None:
        """Measure the clock of each worker again; one that has not answered yet is not asked once more."""
        for number, worker in enumerate(self._workers):
            if worker.is_ready and worker.clock.is_measured:
                worker.clock = ShardClock()
                self._link.send(number, ClockQuestion(worker.clock.ask(self._clock())))

    # Called by SilenceWatch.

    def silent(self, number: int, seconds: float) -> None:
        """A worker has sent nothing for ``seconds``: the others go on without it."""
        name = self._workers[number].name(number)
        self._observer.warn(f"{name} has said nothing for {seconds:g} s; the others go on")

    def back(self, number: int, seconds: float) -> None:
        """A silent worker has sent something again."""
        name = self._workers[number].name(number)
        self._observer.note(f"{name.capitalize()} is back after {seconds:g} s")

    def give_up(self, number: int, problem: str) -> None:
        """A worker is lost: end it, so that it produces no load that is not counted."""
        if not self._workers[number].is_over:
            self._fail(number, problem)
        self._launcher.kill(number)
        self._link.drop(number)
        self._pushes.shard_gone(number, OwnCause.SHUTDOWN if self._closing else OwnCause.WORKER_LOST)
        self._end_worker(number)

    # Workers and phases end.

    def _returned(self, number: int, done: Future[Any]) -> None:
        """A shard's function returned, or its process died. While its link is open, the link says how it ends."""
        worker = self._workers[number]
        if worker.ended.called:
            return
        worker.death = _death(f"worker {number}", done)
        if worker.host is None or worker.link_error is not None:
            self.give_up(number, worker.death)

    def _add_trace(self, link: ControlLink, octets: bytes) -> None:
        problem = self._traces.add(link.shard, octets)
        if problem is not None and problem not in self._record.problems:
            self._record.problems.append(problem)
        limit = self._workers[link.shard].limit
        if limit is not None and limit.is_set and len(octets) == PIECE_BYTES:  # a shorter one is the last
            limit.set(FINISH_SECONDS)
        link.send(Taken())

    def _add_result(self, number: int, octets: bytes) -> None:
        name = self._workers[number].name(number)
        try:
            result = decode_result(octets)
            self._record.add_result(number, result)
        except LomAgentError as error:
            self._fail(number, f"{name}: {error}")
            return
        if result.problem is not None:
            self._fail(number, f"{name}: {result.problem}", result.problem)

    def _fail(self, number: int, problem: str, reason: str | None = None) -> None:
        """Record why a worker failed. ``reason`` is the text of the error if this keeps the run from starting."""
        worker = self._workers[number]
        if self._changes is not None and worker.result is None:
            worker.lost = self._record.loss_of(number, self.elapsed)
            problem = f"{problem}; {worker.lost}"
        self._record.add_problem(number, problem)
        if not worker.ready.called:
            if self._job is not None:
                worker.ready.errback(OperatorError(reason or problem))
        elif self._changes is not None:
            self._observer.warn(problem)
            self._abort()

    def _abort(self) -> None:
        """End the run where its operator does not want it to go on without a worker."""
        if self.scenario.load.on_loss == "abort" and not self._closing and not self._aborted and self._job is not None:
            self._aborted = True
            self._record.problems.append(ABORTED)
            self._reactor.callLater(0, self._job.cancel)

    def _end_worker(self, number: int) -> None:
        self._workers[number].end()
        if self._changes is not None and all(worker.ended.called for worker in self._workers):
            self._changes.give_up()
        for phase in range(len(self.phases)):
            self._end_phase(phase)

    def _end_phase(self, number: int) -> None:
        if self._record.end_phase(number, self.elapsed):
            self._monitor.leave(number)
            self._kept.phase_ended(number, self.phases[number])
            self.phases[number].ended.callback(None)


def _death(name: str, done: Future[Any]) -> str:
    """How a worker ended that delivered no result."""
    error = None if done.cancelled() else done.exception()
    if done.cancelled() or isinstance(error, BrokenExecutor):
        return f"{name} died: its process was killed, or crashed"
    if error is not None:
        return f"{name} died: {str(error) or type(error).__name__}"
    end = done.result()
    problem = end.problem if isinstance(end, ShardEnd) else None
    return f"{name}: {problem or 'it ended without a result'}"
