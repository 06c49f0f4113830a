"""The conductor of a run: starts the shards, starts each phase in all of them at once, and collects their reports.

The embedded lab and the APNs gateway run in its process; pushes go to the shard that owns the Mac. What the shards
report is in its `agent.load.conductor.record.RunRecord`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList, FirstError
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import LoopingCall

from agent.errors import OperatorError
from agent.load.conductor.changes import RunChanges
from agent.load.conductor.facts import INTERRUPTED
from agent.load.conductor.gateway import APNsPlan
from agent.load.conductor.keeping import RunKeeper
from agent.load.conductor.pushes import PushSide
from agent.load.conductor.record import RunRecord, WorkerRecord
from agent.load.conductor.server import ServerSide
from agent.load.conductor.silence import SilenceWatch
from agent.load.conductor.state import RunState
from agent.load.conductor.workers import FINISH_SECONDS, WorkersOfRun
from agent.load.control.link import ControlServer
from agent.load.control.listening import LOOPBACK, ListenAt
from agent.load.control.messages import Alive, Begin, Finish, GatewayStalled, Message, Settle, StartPhase
from agent.load.control.trace_home import TraceHome
from agent.load.launch.launching import Launcher
from agent.load.machine.overload import LoopMonitor
from agent.load.phases.phase_time import PhaseTime
from agent.load.shard.clock import AGAIN_SECONDS
from agent.load.shard.link import ALIVE_SECONDS
from agent.load.shard.plan import ShardPlan
from agent.measure.live import RunObserver
from agent.net.timing import Alarm, RunClock, sleep
from agent.scenario.types import Scenario
from agent.sqlite_file import NotWritten

READY_SECONDS = 120.0  # in which a worker imports the program, makes its Macs and connects
LEAST_LEAD_SECONDS, MOST_LEAD_SECONDS = 0.02, 2.0
ROUND_TRIPS = 4  # of the slowest worker, as the time before which a start is sent
LAST_LOOK_SECONDS = 0.01
LAST_LOOKS = 200  # a worker's last reports may arrive after its function has returned
MOST_REASON = 300  # characters of the reason that a shard records for what it drops


class Conductor(WorkersOfRun):
    """One run of a scenario in at most ``workers`` shards, each started by ``launcher``.

    ``listen`` says where the shards reach the conductor: on loopback unless they run elsewhere; ``lab`` where the
    embedded lab listens. ``state`` keeps the run for a later process; it is closed at the end.
    """

    def __init__(
        self,
        reactor: Any,
        scenario: Scenario,
        launcher: Launcher,
        workers: int,
        observer: RunObserver,
        *,
        listen: ListenAt = LOOPBACK,
        lab: ListenAt = LOOPBACK,
        apns: APNsPlan | None = None,
        trace: Callable[[int], str | None] | None = None,
        cores: int = 1,
        state: RunState | None = None,
        controlled: bool = False,
    ) -> None:
        fleet = scenario.fleet
        self.scenario = scenario
        self.population = fleet.population
        self._record = RunRecord(scenario, self.population, workers)
        self._workers = self._record.workers
        self._interrupted = False
        self._aborted = False
        self._closing = False
        self._is_over = False
        self._reactor = reactor
        self._launcher = launcher
        self._observer = observer
        self._warnings: set[str] = set()
        self._trace = trace
        self._traces = TraceHome(trace)
        self._cores = cores
        self._listen = listen
        for worker in self._workers:
            worker.elsewhere = launcher.elsewhere
        self._silence = SilenceWatch(reactor, self._workers, self, scenario.load.worker_timeout)
        self._clock = RunClock(reactor)
        self._link = ControlServer(reactor, len(self._workers), self, listen.names)
        self._heartbeat = LoopingCall(lambda: self._link.broadcast(Alive()))
        self._heartbeat.clock = reactor
        self._clock_looks = LoopingCall(self._measure_clocks)
        self._clock_looks.clock = reactor
        self._monitor = LoopMonitor(reactor)
        self._kept = RunKeeper(state, self._record, self._monitor, self._clock, self._not_kept)
        lab_state = None if state is None else Path(f"{state.path}.lab")
        if state is not None and apns is not None:
            apns = replace(apns, port=apns.port or state.number("apns port"))
        self._server = ServerSide(reactor, scenario, self.population, lab_state, lab)
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
            self._interrupted = not self._aborted
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
            if not worker.ended.called:
                self.give_up(number, f"worker {number} was not waited for: the run was stopped twice")

    def _open(self) -> None:
        self._server.open(self._observer.note)
        self._link.listen(self._listen.host, self._listen.port)
        self._heartbeat.start(ALIVE_SECONDS, now=False)
        self._pushes.open(self._server.lab)
        if self._pushes.url is not None:
            self._observer.note(f"The APNs gateway listens on {self._pushes.url}")
        self._kept.opened(self._pushes)
        self._launcher.open(self._link, self._observer.note)
        for number in range(len(self._workers)):
            self._launch(number)
        self._silence.begin()

    def _launch(self, number: int) -> None:
        future = self._launcher.launch(number, self._link)
        if future is not None:
            future.add_done_callback(lambda done: self._reactor.callFromThread(self._returned, number, done))

    def _plan(self, number: int) -> ShardPlan:
        indexes, elsewhere = self._workers[number].indexes, self._launcher.elsewhere
        return ShardPlan(
            shard=number,
            shards=len(self._workers),
            first=indexes.start,
            stop=indexes.stop,
            scenario=self.scenario,
            enroll=self._server.enroll,
            anchors=self._server.anchors,
            lab_anchors_only=self._server.lab is not None,
            server=self._server.config,
            push=self._pushes.behaviour,
            trace=None if elsewhere or self._trace is None else self._trace(number),
            trace_home=elsewhere and self._trace is not None,
            cores=0 if elsewhere else max(1, self._cores // len(self._workers)),
            controlled=self._controlled,
            **self._kept.plan(number),
        )

    async def _conduct(self) -> None:
        await self._all_ready()
        elapsed, lead = self._kept.elapsed, self._lead
        self._clock_looks.start(AGAIN_SECONDS, now=False)
        at = self._clock() + lead
        self._send_each(lambda offset: Begin(at, offset, int(elapsed)))
        await sleep(self._reactor, lead)
        began = at - elapsed
        self._changes = changes = RunChanges(
            self._reactor, self.scenario, self.phases, self._link.broadcast, began, self._clock() - began
        )
        self._record.pauses = changes.time.pauses
        self._record.began = began
        self._monitor.pauses = changes.moments
        self._kept.begun()
        self._pushes.begin()
        self._monitor.begin()
        for number, phase in enumerate(self.scenario.phases):
            if phase.start_at is not None:
                await PhaseTime(changes.time, 0.0).until(phase.start_at - lead)
            await changes.time.running()
            changes.start_phase(number)
            starts = max(self.elapsed + lead, phase.start_at or 0.0)
            self.phases[number].started_s = self._kept.phase_started(number, starts)
            self._monitor.enter(number)
            self._send_each(partial(StartPhase, number, began + starts))
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

    async def _all_ready(self) -> None:
        """Return when every worker has joined, is ready, and its clock is measured. Raises OperatorError."""
        ready = DeferredList([worker.ready for worker in self._workers], fireOnOneErrback=True, consumeErrors=True)
        join_seconds = self._launcher.join_seconds
        # Not addTimeout: it would cancel what is waited for, as an interruption does.
        limits = [self._reactor.callLater(READY_SECONDS + (join_seconds or 0.0), self._not_ready)]
        if join_seconds is not None:
            limits.append(self._reactor.callLater(join_seconds, self._not_joined))
        try:
            await ready
        except FirstError as first:  # why a worker cannot start
            first.subFailure.raiseException()
        finally:
            for limit in limits:
                if limit.active():
                    limit.cancel()

    def _send_each(self, message: Callable[[float], Message]) -> None:
        """Send a message with the offset of its clock to each worker."""
        for number, worker in enumerate(self._workers):
            if worker.offset is not None:
                self._link.send(number, message(worker.offset.offset))

    @property
    def _lead(self) -> float:
        """How long before its moment a start is sent, so that it arrives in time (seconds)."""
        trips = [worker.offset.round_trip for worker in self._workers if worker.offset is not None]
        return min(MOST_LEAD_SECONDS, max(LEAST_LEAD_SECONDS, *(ROUND_TRIPS * trip for trip in trips)))

    def _not_joined(self) -> None:
        missing = self._link.admission.missing
        for number in missing:
            if not self._workers[number].ready.called:
                self._workers[number].ready.errback(OperatorError(self._launcher.too_few(missing, self.workers)))

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
            if worker.ended.called:
                continue
            if worker.is_ready:
                await self._ended(number, worker)
            else:  # it has measured nothing
                self._launcher.kill(number)
        self._silence.stop()
        self._monitor.stop()
        await self._receive_last()
        self._record.problems += self._traces.close()
        self._observer.look(self.view())
        self._link.close()
        self._launcher.close()
        for loop in (self._heartbeat, self._clock_looks):
            if loop.running:
                loop.stop()
        await self._pushes.close()
        await self._server.close()
        self._kept.close(finished=self._is_over and self.incomplete_because is None)

    async def _ended(self, number: int, worker: WorkerRecord) -> None:
        """Wait for a worker; a trace on its way gives it more time."""
        what = f"{worker.name(number)} did not end within {FINISH_SECONDS:g} s"
        worker.limit = Alarm(self._reactor, lambda: self.give_up(number, what))
        worker.limit.set(FINISH_SECONDS)
        try:
            await worker.ended
        finally:
            worker.limit.cancel()

    async def _receive_last(self) -> None:
        for _ in range(LAST_LOOKS):  # not by the clock: after a stall there is still something to read
            if not self._link.connected:
                return
            await sleep(self._reactor, LAST_LOOK_SECONDS)
