"""The conductor: starts the shards, begins the phases in all of them together, gathers what they tell.

In its process are also the embedded lab and the APNs gateway, whose pushes go to the shard that owns the Mac. What it
gathers is there at any time (``metrics``, ``timeline``, ``phases``): a run that is cut short leaves its results.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList, FirstError
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger

from agent.errors import OperatorError, PeerError
from agent.fleet.population import Population
from agent.load.control import (
    Alive,
    Begin,
    ControlError,
    Ending,
    Finish,
    Message,
    Note,
    PhaseOver,
    Ready,
    Second,
    Settle,
    Settled,
    Snapshot,
    StartPhase,
)
from agent.load.control_link import ControlLink, ControlServer
from agent.load.gateway import APNsPlan, PushGateway
from agent.load.overload import LoopMonitor
from agent.load.progress import PhaseRecord, Worker, cut, phases_of
from agent.load.server import ServerSide
from agent.load.shard import run_shard
from agent.load.shard_plan import ShardPlan, ShardResult, decode_result, encode
from agent.load.silence import SilenceWatch
from agent.measure.live import LiveView, PhaseState, PhaseView, Recent, Watcher
from agent.measure.metrics import Metrics
from agent.measure.timeline import TimeLine
from agent.net.apns.router import PushRouter
from agent.net.timing import RunClock, sleep
from agent.processes import peak_kib
from agent.push.wire import RoutedAnswer
from agent.scenario.types import Scenario

READY_SECONDS = 120.0  # a worker imports, makes its part of the fleet and calls
FINISH_SECONDS = 60.0  # … and comes to its end when it is told to, as long as it says something
HEAR_OUT_SECONDS = 2.0  # what a worker said last may be on its way when its function has returned
INTERRUPTED = "the run was interrupted"
MOST_REASON = 300  # characters of the reason for which a shard drops what it did not begin
_log = Logger()


class Conductor:
    """One run of a scenario in ``workers`` shards, which ``executor`` runs.

    ``host`` is the address of this machine at which the shards find the conductor; loopback unless they run elsewhere.
    ``kill`` ends the process of a shard that is not waited for any more, by the shard's number.
    """

    def __init__(
        self,
        reactor: Any,
        scenario: Scenario,
        executor: Executor,
        workers: int,
        watcher: Watcher,
        *,
        host: str = "127.0.0.1",
        apns: APNsPlan | None = None,
        trace: Callable[[int], str | None] = lambda _shard: None,
        cores: int = 1,
        kill: Callable[[int], None] = lambda _shard: None,
    ) -> None:
        fleet = scenario.fleet
        self.scenario = scenario
        self.population = Population(fleet.seed, fleet.devices, fleet.segment_size)
        self.timeline = TimeLine()
        self.phases = [PhaseRecord(phase.name, phase.kind) for phase in scenario.phases]
        self._problems: list[str] = []
        self._interrupted = False
        self._closing = False
        self._reactor = reactor
        self._executor = executor
        self._watcher = watcher
        self._notes: set[str] = set()
        self._apns = apns
        self._trace = trace
        self._cores = cores
        self._kill = kill
        self._host = host
        self._workers = [Worker(indexes) for indexes in cut(self.population, workers)]
        self._starts = [worker.indexes.start for worker in self._workers]
        self._silence = SilenceWatch(reactor, self._workers, self, scenario.load.worker_timeout)
        self._recent = Recent()
        self._clock = RunClock(reactor)
        self._link = ControlServer(reactor, len(self._workers), self)
        self._server = ServerSide(reactor, scenario, self.population)
        self._router: PushRouter | None = None
        self._gateway: PushGateway | None = None
        self._job: Deferred[None] | None = None
        self._monitor = LoopMonitor(reactor)
        self._began: float | None = None
        self._second = -1

    # What came of it.

    @property
    def workers(self) -> int:
        """How many shards there are."""
        return len(self._workers)

    @property
    def embedded_lab(self) -> bool:
        """Whether the server is the lab in this process."""
        return self._server.lab is not None

    @property
    def elapsed(self) -> float:
        """Seconds since the run began; 0 before."""
        return 0.0 if self._began is None else float(self._reactor.seconds()) - self._began

    @property
    def incomplete_because(self) -> str | None:
        """What kept the run from its end, None where nothing did."""
        return "; ".join([INTERRUPTED] * self._interrupted + self._problems) or None

    @property
    def results(self) -> list[ShardResult]:
        """What the shards that came to their end returned."""
        return [worker.result for worker in self._workers if worker.result is not None]

    def metrics(self) -> Metrics:
        """All shards together, as of the last that each of them told."""
        merged = Metrics()
        for worker in self._workers:
            snapshot = worker.result.metrics if worker.result is not None else worker.snapshot
            if snapshot:
                merged.merge(snapshot)
        return merged

    def generator(self) -> list[dict[str, Any]]:
        """How each worker kept up, and this process where it has the gateway and not the server, too."""
        facts = [
            {
                "worker": number,
                **worker.facts,
                "silent_s": self._silence.silent_s(number),
                "phases": [] if worker.result is None else phases_of(self.phases, worker.result.spans, number),
            }
            for number, worker in enumerate(self._workers)
        ]
        if self._gateway is not None and self._server.lab is None:
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
        """What became of the pushes, of each desk and of the router."""
        push_endpoints = [result.push for result in self.results if result.push is not None]
        return push_endpoints if self._router is None else [*push_endpoints, self._router.counts]

    def view(self) -> LiveView:
        """The run now."""
        phases = tuple(PhaseView(phase.name, phase.kind, phase.state, phase.begun, phase.over) for phase in self.phases)
        return self._recent.view(self.elapsed, phases, embedded_lab=self.embedded_lab)

    # Running.

    async def run(self) -> None:
        """Run to the end, or until ``interrupt``. Raises OperatorError where it cannot start."""
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
        """Stop now; what was measured so far is kept."""
        self._interrupted = True
        self._silence.hurry()
        if self._job is not None:
            self._job.cancel()

    def abandon(self) -> None:
        """Wait for no worker any more."""
        for number, worker in enumerate(self._workers):
            if worker.asked and not worker.ended.called:
                self.give_up(number, f"worker {number} was not waited for: the run was stopped twice")

    def _open(self) -> None:
        self._server.open(self._watcher.note)
        self._link.listen(self._host)
        plan = self._apns
        if plan is not None:
            self._router = PushRouter(
                self._reactor, self.population, self._shard_of, self._link.send, self._clock, plan.behaviour
            )
            self._gateway = PushGateway(self._reactor, plan, self._router, self._server.lab)
            self._gateway.listen()
            self._watcher.note(f"The APNs gateway listens on {self._gateway.url}")
        push_began = 0.0 if self._router is None else self._router.began
        for number, worker in enumerate(self._workers):
            self._submit(number, worker, push_began)
        self._silence.begin()

    def _submit(self, number: int, worker: Worker, push_began: float) -> None:
        plan = ShardPlan(
            shard=number,
            shards=len(self._workers),
            first=worker.indexes.start,
            stop=worker.indexes.stop,
            scenario=self.scenario,
            conductor=self._link.address,
            ca=self._link.ca,
            secret=self._link.secrets[number],
            enrol=self._server.enrol,
            anchors=self._server.anchors,
            lab_anchors_only=self._server.lab is not None,
            server=self._server.config,
            push=None if self._apns is None else self._apns.behaviour,
            push_began=push_began,
            trace=self._trace(number),
            cores=max(1, self._cores // len(self._workers)),
        )
        future = self._executor.submit(run_shard, encode(plan))
        worker.asked = True
        future.add_done_callback(lambda done: self._reactor.callFromThread(self._ended, number, done))

    async def _conduct(self) -> None:
        ready = DeferredList([worker.ready for worker in self._workers], fireOnOneErrback=True, consumeErrors=True)
        try:
            await ready.addTimeout(READY_SECONDS, self._reactor)
        except DeferredTimeout:
            raise OperatorError(f"a worker process was not ready within {READY_SECONDS:g} s") from None
        except FirstError as first:  # what kept a worker from beginning
            first.subFailure.raiseException()
        self._began = self._reactor.seconds()
        self._link.broadcast(Begin(self._clock()))
        self._monitor.begin()
        for number, phase in enumerate(self.scenario.phases):
            if phase.start_at is not None:
                await sleep(self._reactor, max(0.0, phase.start_at - self.elapsed))
            self.phases[number].begun = self.elapsed
            self._monitor.enter(number)
            self._link.broadcast(StartPhase(number))
            self._settle_phase(number)
            if phase.wait:
                await self.phases[number].ended
        for record in self.phases:
            await record.ended
        await self._tail()

    async def _tail(self) -> None:
        """Let sessions that are open, and pushes that wait, come to their end; not for long."""
        self._link.broadcast(Settle())
        living = [worker.settled for worker in self._workers if not worker.is_over]
        settled = DeferredList(living, consumeErrors=True)
        with suppress(DeferredTimeout):
            await settled.addTimeout(self.scenario.load.tail, self._reactor)

    async def _close(self) -> None:
        self._closing = True
        reason = INTERRUPTED if self._interrupted else self.incomplete_because or "the run ended first"
        self._link.dismiss(Finish(reason[:MOST_REASON]))
        for number, worker in enumerate(self._workers):
            if not worker.asked or worker.ended.called:
                continue
            if not worker.is_ready:  # it has measured nothing
                self._kill(number)
                continue
            try:
                await worker.ended.addTimeout(FINISH_SECONDS, self._reactor)
            except DeferredTimeout:
                self.give_up(number, f"worker {number} did not come to its end within {FINISH_SECONDS:g} s")
        self._silence.stop()
        self._monitor.stop()
        await self._hear_out()
        self._watcher.look(self.view())
        self._link.close()
        if self._gateway is not None:
            await self._gateway.close()
        if self._router is not None:
            self._router.close()
        await self._server.close()

    async def _hear_out(self) -> None:
        until = self._reactor.seconds() + HEAR_OUT_SECONDS
        while self._link.connected and self._reactor.seconds() < until:
            await sleep(self._reactor, 0.01)

    # What the shards say.

    def said(self, link: ControlLink, message: Message) -> None:
        """A shard said something."""
        worker = self._workers[link.shard]
        self._silence.heard(link.shard)
        match message:
            case Alive():
                pass
            case Ending():
                worker.ending = True
            case Ready():
                worker.is_ready = True
                if not worker.ready.called:
                    worker.ready.callback(None)
            case Second(t, row, phases):
                self._second_over(link.shard, t, row, phases)
            case Snapshot(metrics):
                worker.snapshot = metrics
            case PhaseOver(number, state):
                self._phase(number).states[link.shard] = state
                self._settle_phase(number)
            case Settled():
                worker.settle()
            case RoutedAnswer() if self._router is not None:
                self._router.answered(link.shard, message)
            case Note(text):
                if text not in self._notes:  # each worker warns of what its own Macs met
                    self._notes.add(text)
                    self._watcher.note(text)
            case _:
                _log.warn("worker {shard} said what it has not to say", shard=link.shard)

    def gone(self, link: ControlLink, error: PeerError) -> None:
        """A shard's link is gone; what the shard came to, its executor tells, if it does."""
        if self._router is not None:
            self._router.shard_gone(link.shard)
        if not self._closing:
            self._workers[link.shard].lost = str(error)

    # What the watch over silent shards says.

    def silent(self, number: int, seconds: float) -> None:
        """A shard has said nothing for a while: the others go on without it."""
        self._watcher.note(f"Warning: worker {number} has said nothing for {seconds:g} s; the others go on")

    def back(self, number: int, seconds: float) -> None:
        """It says something again."""
        self._watcher.note(f"Worker {number} is back after {seconds:g} s")

    def give_up(self, number: int, problem: str) -> None:
        """It is lost: its process is killed, so that nothing happens that nobody counts."""
        worker = self._workers[number]
        if not worker.is_over:
            self._fail(worker, problem)
        self._kill(number)
        self._over(worker)

    def _second_over(self, shard: int, t: int, row: dict[str, Any], phases: dict[int, PhaseState]) -> None:
        self.timeline.add(t, row)
        self._recent.add(shard, row)
        for number, state in phases.items():
            states = self._phase(number).states
            if not states.get(shard, PhaseState()).over:
                states[shard] = state
        worker = self._workers[shard]
        worker.second = t
        whole = min(each.second for each in self._workers if each is worker or not (each.is_over or each.silent))
        if whole > self._second:  # of every worker that lives and speaks
            self._second = whole
            self._recent.turn()
            self._watcher.look(self.view())

    def _phase(self, number: int) -> PhaseRecord:
        if not 0 <= number < len(self.phases):
            raise ControlError(f"there is no phase {number} in this run")
        return self.phases[number]

    def _settle_phase(self, number: int) -> None:
        """A phase ends when it is over in every shard that lives, and is over when it is so in every shard."""
        record = self.phases[number]
        missing = [
            shard
            for shard, worker in enumerate(self._workers)
            if not worker.is_over and not record.states.get(shard, PhaseState()).over
        ]
        if not missing and record.begun is not None and not record.ended.called:
            if len(record.states) == len(self._workers) and record.state.over:
                record.over = self.elapsed
            self._monitor.leave(number)
            record.ended.callback(None)

    def _ended(self, number: int, done: Future[bytes]) -> None:
        """A shard's function returned, or its process died."""
        worker = self._workers[number]
        if worker.ended.called:
            return
        error = None if done.cancelled() else done.exception()
        if done.cancelled() or error is not None:
            killed = isinstance(error, BrokenExecutor)
            reason = "its process was killed, or crashed" if killed else str(error) or type(error).__name__
            self._fail(worker, f"worker {number} died: {reason}")
        else:
            self._take(number, worker, done.result())
        self._over(worker)

    def _take(self, number: int, worker: Worker, octets: bytes) -> None:
        """What a shard's function returned."""
        try:
            worker.result = decode_result(octets)
        except OperatorError as error:
            self._fail(worker, f"worker {number}: {error}")
            return
        for phase, state in worker.result.phases.items():
            self._phase(phase).states[number] = state
        problem = worker.result.problem
        if problem is None and worker.lost is not None:
            problem = f"its control link was lost: {worker.lost}"
        if problem is not None:
            self._fail(worker, f"worker {number}: {problem}", problem)

    def _over(self, worker: Worker) -> None:
        worker.end()
        for each in range(len(self.phases)):
            self._settle_phase(each)

    def _fail(self, worker: Worker, problem: str, reason: str | None = None) -> None:
        worker.problem = problem
        self._problems.append(problem)
        if not worker.ready.called:
            if self._job is not None:
                worker.ready.errback(OperatorError(reason or problem))
        elif self._began is not None:
            self._watcher.note(f"Warning: {problem}")

    # Pushes.

    def _shard_of(self, index: int) -> int:
        return bisect_right(self._starts, index) - 1
