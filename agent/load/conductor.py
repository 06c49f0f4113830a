"""The conductor of a run: starts the shards, starts each phase in all of them at once, and collects their reports.

The embedded lab and the APNs gateway run in its process; pushes go to the shard that owns the Mac. What the shards
report is in its `agent.load.run_record.RunRecord`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList, FirstError
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger

from agent.errors import LomAgentError, OperatorError, PeerError
from agent.load.changes import RunChanges
from agent.load.control import (
    Alive,
    Begin,
    Ending,
    Finish,
    GatewayStalled,
    Message,
    PhaseFinished,
    Ready,
    RefusalAnswer,
    RefusalQuestion,
    Second,
    Settle,
    Settled,
    Snapshot,
    StartPhase,
    Warn,
)
from agent.load.control_link import ControlLink, ControlServer
from agent.load.gateway import APNsPlan
from agent.load.overload import LoopMonitor
from agent.load.phases.phase_time import PhaseTime
from agent.load.pushes import PushSide
from agent.load.run_facts import INTERRUPTED, RunFacts
from agent.load.run_keeping import RunKeeper
from agent.load.run_record import RunRecord, WorkerRecord
from agent.load.run_state import RunState
from agent.load.server import ServerSide
from agent.load.shard import run_shard
from agent.load.shard_plan import ShardPlan, decode_result, encode
from agent.load.silence import SilenceWatch
from agent.measure.live import RunObserver
from agent.net.timing import RunClock, sleep
from agent.push.reasons import OwnCause
from agent.push.wire import RoutedAnswer
from agent.scenario.types import Scenario
from agent.sqlite_file import NotWritten

READY_SECONDS = 120.0  # in which a worker imports the program, makes its Macs and connects
FINISH_SECONDS = 60.0  # in which a worker that still reports ends after Finish
LAST_LOOK_SECONDS = 0.01
LAST_LOOKS = 200  # a worker's last reports may arrive after its function has returned
MOST_REASON = 300  # characters of the reason that a shard records for what it drops
_log = Logger()


class Conductor(RunFacts):
    """One run of a scenario in at most ``workers`` shards, each submitted to ``executor``.

    ``host`` is the address of this machine at which the shards reach the conductor: loopback unless they run elsewhere.
    ``kill`` ends the process of a lost shard, by the shard's number. ``state`` keeps the run for a later process; it is
    closed at the end.
    """

    def __init__(
        self,
        reactor: Any,
        scenario: Scenario,
        executor: Executor,
        workers: int,
        observer: RunObserver,
        *,
        host: str = "127.0.0.1",
        apns: APNsPlan | None = None,
        trace: Callable[[int], str | None] = lambda _shard: None,
        cores: int = 1,
        kill: Callable[[int], None] = lambda _shard: None,
        state: RunState | None = None,
        controlled: bool = False,
    ) -> None:
        fleet = scenario.fleet
        self.scenario = scenario
        self.population = fleet.population
        self._record = RunRecord(scenario, self.population, workers)
        self._workers = self._record.workers
        self._interrupted = False
        self._closing = False
        self._is_over = False
        self._reactor = reactor
        self._executor = executor
        self._observer = observer
        self._warnings: set[str] = set()
        self._trace = trace
        self._cores = cores
        self._kill = kill
        self._host = host
        self._silence = SilenceWatch(reactor, self._workers, self, scenario.load.worker_timeout)
        self._clock = RunClock(reactor)
        self._link = ControlServer(reactor, len(self._workers), self)
        self._monitor = LoopMonitor(reactor)
        self._kept = RunKeeper(state, self._record, self._monitor, self._clock, self._not_kept)
        lab_state = None if state is None else Path(f"{state.path}.lab")
        if state is not None and apns is not None:
            apns = replace(apns, port=apns.port or state.number("apns port"))
        self._server = ServerSide(reactor, scenario, self.population, lab_state)
        first_macs = [worker.indexes.start for worker in self._workers]
        self._pushes = PushSide(
            reactor,
            apns,
            self.population,
            first_macs,
            self._link.send,
            self._clock,
            lambda seconds: self._link.broadcast(GatewayStalled(seconds)),
            scenario.rules,
            () if state is None else state.gateway_rules(),
        )
        self._job: Deferred[None] | None = None
        self._controlled = controlled
        self._changes: RunChanges | None = None

    # Running.

    async def run(self) -> None:
        """Run to the end, or until ``interrupt``. Raises OperatorError if the run cannot start."""
        try:
            self._open()
            if not self._interrupted:
                self._job = Deferred.fromCoroutine(self._conduct())
                await self._job
        except CancelledError:
            self._interrupted = True
        finally:
            await self._close()

    def interrupt(self) -> None:
        """Stop now and keep what was measured."""
        self._interrupted = True
        self._silence.hurry()
        if self._job is not None:
            self._job.cancel()

    def abandon(self) -> None:
        """Give up every worker that has not ended."""
        for number, worker in enumerate(self._workers):
            if worker.submitted and not worker.ended.called:
                self.give_up(number, f"worker {number} was not waited for: the run was stopped twice")

    def _open(self) -> None:
        self._server.open(self._observer.note)
        self._link.listen(self._host)
        self._pushes.open(self._server.lab)
        if self._pushes.url is not None:
            self._observer.note(f"The APNs gateway listens on {self._pushes.url}")
        self._kept.opened(self._pushes)
        for number, worker in enumerate(self._workers):
            self._submit(number, worker)
        self._silence.begin()

    def _submit(self, number: int, worker: WorkerRecord) -> None:
        plan = ShardPlan(
            shard=number,
            shards=len(self._workers),
            first=worker.indexes.start,
            stop=worker.indexes.stop,
            scenario=self.scenario,
            conductor=self._link.address,
            ca=self._link.ca,
            secret=self._link.secrets[number],
            enroll=self._server.enroll,
            anchors=self._server.anchors,
            lab_anchors_only=self._server.lab is not None,
            server=self._server.config,
            push=self._pushes.behaviour,
            trace=self._trace(number),
            cores=max(1, self._cores // len(self._workers)),
            controlled=self._controlled,
            **self._kept.plan(number),
        )
        future = self._executor.submit(run_shard, encode(plan))
        worker.submitted = True
        future.add_done_callback(lambda done: self._reactor.callFromThread(self._returned, number, done))

    async def _conduct(self) -> None:
        ready = DeferredList([worker.ready for worker in self._workers], fireOnOneErrback=True, consumeErrors=True)
        # Not addTimeout: it would cancel what is waited for, as an interruption does.
        limit = self._reactor.callLater(READY_SECONDS, self._not_ready)
        try:
            await ready
        except FirstError as first:  # why a worker cannot start
            first.subFailure.raiseException()
        finally:
            if limit.active():
                limit.cancel()
        elapsed = self._kept.elapsed
        began = self._clock() - elapsed
        self._changes = changes = RunChanges(
            self._reactor, self.scenario, self.phases, self._link.broadcast, began, elapsed
        )
        self._record.pauses = changes.time.pauses
        self._record.began = began
        self._monitor.pauses = changes.moments
        self._kept.begun()
        self._link.broadcast(Begin(self._clock(), int(elapsed)))
        self._pushes.begin()
        self._monitor.begin()
        for number, phase in enumerate(self.scenario.phases):
            if phase.start_at is not None:
                await PhaseTime(changes.time, 0.0).until(phase.start_at)
            await changes.time.running()
            changes.start_phase(number)
            self.phases[number].started_s = self._kept.phase_started(number, self.elapsed)
            self._monitor.enter(number)
            self._link.broadcast(StartPhase(number))
            self._end_phase(number)
            if phase.wait:
                await self.phases[number].ended
        for record in self.phases:
            await record.ended
        await changes.end()
        await self._tail()
        self._is_over = True

    def _not_kept(self, error: NotWritten) -> None:
        """The state cannot be written: stop, as a later process could not go on from here."""
        self._record.problems.append(str(error))
        if self._job is not None:
            self._reactor.callLater(0, self._job.cancel)  # it may be what writes

    def _not_ready(self) -> None:
        late = [number for number, worker in enumerate(self._workers) if not worker.ready.called]
        error = OperatorError(
            f"Expected every worker to be ready within {READY_SECONDS:g} s, found these not ready: "
            f"{', '.join(map(str, late))}. Look whether something stops them, or use fewer workers (--workers)."
        )
        for number in late:
            self._workers[number].ready.errback(error)

    async def _tail(self) -> None:
        """Wait up to ``load.tail`` seconds for open sessions and boots to end."""
        self._link.broadcast(Settle())
        living = [worker.settled for worker in self._workers if not worker.is_over]
        settled = DeferredList(living, consumeErrors=True)
        with suppress(DeferredTimeout):
            await settled.addTimeout(self.scenario.load.tail, self._reactor)

    async def _close(self) -> None:
        self._closing = True
        if self._changes is not None:
            self._changes.stop()
        reason = INTERRUPTED if self._interrupted else self.incomplete_because or "the run ended first"
        self._link.broadcast_last(Finish(reason[:MOST_REASON]))
        for number, worker in enumerate(self._workers):
            if not worker.submitted or worker.ended.called:
                continue
            if not worker.is_ready:  # it has measured nothing
                self._kill(number)
                continue
            try:
                await worker.ended.addTimeout(FINISH_SECONDS, self._reactor)
            except DeferredTimeout:
                self.give_up(number, f"worker {number} did not end within {FINISH_SECONDS:g} s")
        self._silence.stop()
        self._monitor.stop()
        await self._receive_last()
        self._observer.look(self.view())
        self._link.close()
        await self._pushes.close()
        await self._server.close()
        self._kept.close(finished=self._is_over and self.incomplete_because is None)

    async def _receive_last(self) -> None:
        for _ in range(LAST_LOOKS):  # not by the clock: after a stall there is still something to read
            if not self._link.connected:
                return
            await sleep(self._reactor, LAST_LOOK_SECONDS)

    # Called by the control link.

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
                worker.start()
            case Second():
                self._kept.second(message.t)
                if self._record.add_second(shard, message):
                    self._kept.save()
                    self._observer.look(self.view())
            case Snapshot(metrics):
                worker.snapshot = metrics
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
        """A shard's link is gone. The executor reports what became of the shard; SilenceWatch, if it does not."""
        self._pushes.shard_gone(link.shard, OwnCause.SHUTDOWN if self._closing else OwnCause.WORKER_LOST)
        if not self._closing:
            self._workers[link.shard].link_error = str(error)

    # Called by SilenceWatch.

    def silent(self, number: int, seconds: float) -> None:
        """A worker has sent nothing for ``seconds``: the others go on without it."""
        self._observer.warn(f"worker {number} has said nothing for {seconds:g} s; the others go on")

    def back(self, number: int, seconds: float) -> None:
        """A silent worker has sent something again."""
        self._observer.note(f"Worker {number} is back after {seconds:g} s")

    def give_up(self, number: int, problem: str) -> None:
        """A worker is lost: kill its process, so that it produces no load that is not counted."""
        if not self._workers[number].is_over:
            self._fail(number, problem)
        self._kill(number)
        self._end_worker(number)

    # Workers and phases end.

    def _returned(self, number: int, done: Future[bytes]) -> None:
        """A shard's function returned, or its process died."""
        if self._workers[number].ended.called:
            return
        error = None if done.cancelled() else done.exception()
        if done.cancelled() or error is not None:
            killed = isinstance(error, BrokenExecutor)
            reason = "its process was killed, or crashed" if killed else str(error) or type(error).__name__
            self._fail(number, f"worker {number} died: {reason}")
        else:
            self._add_result(number, done.result())
        self._end_worker(number)

    def _add_result(self, number: int, octets: bytes) -> None:
        worker = self._workers[number]
        try:
            result = decode_result(octets)
            self._record.add_result(number, result)
        except LomAgentError as error:
            self._fail(number, f"worker {number}: {error}")
            return
        problem = result.problem
        if problem is None and worker.link_error is not None:
            problem = f"its control link was lost: {worker.link_error}"
        if problem is not None:
            self._fail(number, f"worker {number}: {problem}", problem)

    def _fail(self, number: int, problem: str, reason: str | None = None) -> None:
        """Record why a worker failed. ``reason`` is the text of the error if this keeps the run from starting."""
        self._record.add_problem(number, problem)
        ready = self._workers[number].ready
        if not ready.called:
            if self._job is not None:
                ready.errback(OperatorError(reason or problem))
        elif self._changes is not None:
            self._observer.warn(problem)

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
