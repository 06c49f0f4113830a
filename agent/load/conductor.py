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
from agent.load.control import (
    Alive,
    Begin,
    Ending,
    Finish,
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
from agent.load.pushes import PushSide
from agent.load.run_keeping import RunKeeper
from agent.load.run_record import PhaseRecord, RunRecord, WorkerRecord, phases_of
from agent.load.run_state import RunState
from agent.load.server import ServerSide
from agent.load.shard import run_shard
from agent.load.shard_plan import ShardPlan, ShardResult, decode_result, encode
from agent.load.silence import SilenceWatch
from agent.measure.live import LiveView, RunObserver
from agent.measure.metrics import Metrics
from agent.measure.summaries import Resumption, RuleSummary, added_rules
from agent.measure.timeline import TimeLine
from agent.net.timing import RunClock, sleep
from agent.processes import peak_kib
from agent.push.reasons import OwnCause
from agent.push.wire import RoutedAnswer
from agent.scenario.types import Scenario
from agent.sqlite_file import NotWritten

READY_SECONDS = 120.0  # in which a worker imports the program, makes its Macs and connects
FINISH_SECONDS = 60.0  # in which a worker that still reports ends after Finish
LAST_LOOK_SECONDS = 0.01
LAST_LOOKS = 200  # a worker's last reports may arrive after its function has returned
INTERRUPTED = "the run was interrupted"
MOST_REASON = 300  # characters of the reason that a shard records for what it drops
_log = Logger()


class Conductor:
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
        lab_state, first = None, None
        if state is not None:
            lab_state, first = Path(f"{state.path}.lab"), state.counts("push first")
            if apns is not None:
                apns = replace(apns, port=apns.port or state.number("apns port"), elapsed=self._kept.elapsed)
        self._server = ServerSide(reactor, scenario, self.population, lab_state)
        first_macs = [worker.indexes.start for worker in self._workers]
        self._pushes = PushSide(reactor, apns, self.population, first_macs, self._link.send, self._clock, first)
        self._job: Deferred[None] | None = None
        self._started_at: float | None = None

    # Results, at any time.

    @property
    def phases(self) -> list[PhaseRecord]:
        """The phases, as in the scenario."""
        return self._record.phases

    @property
    def timeline(self) -> TimeLine:
        """The seconds that the shards reported."""
        return self._record.timeline

    @property
    def results(self) -> list[ShardResult]:
        """What the shards returned, without those that were lost."""
        return self._record.results

    def metrics(self) -> Metrics:
        """The metrics of all shards, as last reported."""
        return self._record.metrics()

    @property
    def workers(self) -> int:
        """The number of shards."""
        return len(self._workers)

    @property
    def embedded_lab(self) -> bool:
        """Whether the server is the lab in this process."""
        return self._server.lab is not None

    @property
    def elapsed(self) -> float:
        """Seconds since the run started, without those between two processes; 0 before."""
        return self._kept.elapsed if self._started_at is None else float(self._reactor.seconds()) - self._started_at

    @property
    def resumed(self) -> list[Resumption]:
        """How often the run was resumed."""
        return self._kept.resumed

    @property
    def worked(self) -> float:
        """Seconds that earlier processes of the run worked."""
        return self._kept.worked

    @property
    def incomplete_because(self) -> str | None:
        """Why the run did not complete, or None."""
        return "; ".join([INTERRUPTED] * self._interrupted + self._record.problems) or None

    def generator(self) -> list[dict[str, Any]]:
        """How each worker kept up, and this process if it has the gateway but not the server."""
        facts = self._record.worker_facts(self._silence.silent_s)
        if self._pushes.url is not None and self._server.lab is None:
            monitor = self._monitor
            facts.append(
                {
                    "worker": "gateway",
                    "lag": monitor.lag.encoded(),
                    "cpu_s": monitor.cpu_s,
                    "cpu_by_second": monitor.cpu_by_second,
                    "max_rss_kib": peak_kib(),
                    "phases": phases_of(self.phases, monitor.spans),
                }
            )
        return facts

    def push_counts(self) -> list[dict[str, Any]]:
        """The push counts of each shard's push endpoint and of the router."""
        return [*(result.push for result in self.results if result.push is not None), *self._pushes.counts]

    def rule_counts(self) -> list[RuleSummary]:
        """What each fault rule did, in all shards together."""
        return added_rules(result.rules for result in self.results)

    def view(self) -> LiveView:
        """The run at this moment."""
        return self._record.view(self.elapsed, embedded_lab=self.embedded_lab)

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
            push_began=self._pushes.began,
            trace=self._trace(number),
            cores=max(1, self._cores // len(self._workers)),
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
        self._started_at = self._reactor.seconds() - self._kept.elapsed
        self._kept.begun()
        self._link.broadcast(Begin(self._clock(), int(self._kept.elapsed)))
        self._monitor.begin()
        for number, phase in enumerate(self.scenario.phases):
            if phase.start_at is not None:
                await sleep(self._reactor, max(0.0, phase.start_at - self.elapsed))
            self.phases[number].started_s = self._kept.phase_started(number, self.elapsed)
            self._monitor.enter(number)
            self._link.broadcast(StartPhase(number))
            self._end_phase(number)
            if phase.wait:
                await self.phases[number].ended
        for record in self.phases:
            await record.ended
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
        elif self._started_at is not None:
            self._observer.warn(problem)

    def _end_worker(self, number: int) -> None:
        self._workers[number].end()
        for phase in range(len(self.phases)):
            self._end_phase(phase)

    def _end_phase(self, number: int) -> None:
        if self._record.end_phase(number, self.elapsed):
            self._monitor.leave(number)
            self._kept.phase_ended(number, self.phases[number])
            self.phases[number].ended.callback(None)
