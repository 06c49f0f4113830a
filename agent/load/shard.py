"""One shard: a range of whole segments of the fleet, run by one reactor.

``run_shard`` takes and returns plain data. Any executor may call it, in a process or in a thread: it creates its own
reactor and leaves nothing open. Over the control link it receives the start of each phase and the pushes to its Macs,
and reports its progress.
"""

from __future__ import annotations

import gc
import sys
from functools import partial
from importlib import import_module
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from agent.errors import LomAgentError, OperatorError, PeerError
from agent.load.control import (
    Alive,
    Begin,
    ChangeRate,
    ControlError,
    Ending,
    Finish,
    GatewayStalled,
    Hello,
    Message,
    Pause,
    PhaseFinished,
    Ready,
    RefusalAnswer,
    RefusalQuestion,
    Resume,
    Second,
    Settle,
    Settled,
    Snapshot,
    StartPhase,
    Warn,
)
from agent.load.control_link import ControlLink, connect
from agent.load.overload import LoopMonitor
from agent.load.phases.pace import NOTHING_EARLIER
from agent.load.phases.progress import Earlier
from agent.load.phases.run import PhaseRun
from agent.load.shard_keys import keys_made_ahead
from agent.load.shard_parts import ShardParts
from agent.load.shard_plan import ShardPlan, ShardResult, decode_plan, encode
from agent.load.shard_state import ShardState, open_state
from agent.measure.live import PhaseState
from agent.net.mac.fleet.census import Census, state_of
from agent.net.timing import make_monotonic
from agent.processes import peak_kib
from agent.push.counts import merge_push_counts
from agent.push.reasons import OwnCause
from agent.push.wire import RoutedPush
from agent.sqlite_file import NotWritten

SNAPSHOT_SECONDS = 5
SETTLE_LOOK_SECONDS = 0.1
IDLE_CHECK_SECONDS = 0.05
ALIVE_SECONDS = 1.0


def run_shard(plan: bytes) -> bytes:
    """Run the shard of an encoded plan to its end, and return its encoded result.

    The result's ``problem`` says why it could not start, or ended early. Raises only for defects of this program.
    """
    decoded = decode_plan(plan)
    reactor = own_reactor()
    shard = Shard(reactor, decoded)
    outcomes: list[ShardResult | Failure] = []

    def ended(outcome: ShardResult | Failure) -> None:
        outcomes.append(outcome)
        reactor.stop()

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(shard.run()).addBoth(ended))
    reactor.run(installSignalHandlers=False)
    outcome = outcomes[0]
    if isinstance(outcome, Failure):
        outcome.raiseException()
    return encode(outcome)


def own_reactor() -> Any:
    """A new reactor that is not installed as the global one, so a process may have several."""
    platform: str = sys.platform
    if platform == "linux":
        return make_monotonic(import_module("twisted.internet.epollreactor").EPollReactor())
    if platform == "darwin":
        return make_monotonic(import_module("twisted.internet.kqreactor").KQueueReactor())
    return make_monotonic(import_module("twisted.internet.pollreactor").PollReactor())


class Shard:
    """One shard on one reactor."""

    def __init__(self, reactor: Any, plan: ShardPlan) -> None:
        self._reactor = reactor
        self._plan = plan
        self._link: ControlLink | None = None
        self._finished: Deferred[None] = Deferred()
        self._reason = "the run ended first"
        self._running: dict[int, tuple[PhaseRun, Deferred[None]]] = {}
        self._monitor = LoopMonitor(reactor)
        self._idle_loop = LoopingCall(self._make_idle)
        self._idle_loop.clock = reactor
        self._alive = LoopingCall(lambda: self._send(Alive()))
        self._alive.clock = reactor
        self._lost: str | None = None
        self._parts: ShardParts | None = None
        self._census: Census | None = None
        self._seconds: LoopingCall | None = None
        self._second = -1
        self._second_began = False
        self._state: ShardState | None = None
        self._earlier: dict[int, Earlier] = {}  # phases of earlier processes of the run that have not gone on yet
        self._before = ShardResult(shard=plan.shard, metrics={})  # the result of these processes
        self._questions: dict[int, Deferred[OwnCause | None]] = {}
        self._question = 0

    async def run(self) -> ShardResult:
        """Run until the conductor sends Finish, or the control link breaks."""
        plan = self._plan
        problem: str | None = None
        try:
            hello = Hello(plan.shard, plan.secret)
            self._link = connect(self._reactor, plan.conductor, plan.ca, hello, self)
            self._alive.start(ALIVE_SECONDS, now=False).addErrback(self._defect)
            if plan.state is not None:
                self._continue(await open_state(self._reactor, plan, self._state_failed))
            self._parts = ShardParts(self._reactor, plan, self._warn, self._own_refusal, self._state)
            self._parts.open()
            self._monitor.pauses = self._parts.context.time.pauses
            await keys_made_ahead(self._reactor, self._parts.keys, self._finished)
            self._census = Census(self._parts.fleet, self._reactor)
            self._census.begin()
            self._idle_loop.start(IDLE_CHECK_SECONDS, now=False).addErrback(self._defect)
            state = self._state
            self._link.send(Ready() if state is None else Ready(state.lost, state.measured))
            await self._finished
            problem = self._lost
        except LomAgentError as error:
            problem = str(error)
        finally:
            result = await self._end(problem)
        return result

    async def _end(self, problem: str | None) -> ShardResult:
        if self._parts is not None:
            self._parts.operations.reason = self._reason
        if self._state is not None:  # a later process goes on from here, not from what is ended below
            self._save()
            self._close_state(self._state)
            problem = problem or self._lost
        await self._stop_phases()
        if self._census is not None:
            self._census.stop()
        if self._seconds is not None and self._seconds.running:
            self._tell_second(1)
            self._seconds.stop()
        self._monitor.stop()
        if self._idle_loop.running:
            self._idle_loop.stop()
        parts = self._parts
        if parts is not None:
            try:
                await parts.close(self._reason)
            except OperatorError as error:  # of the trace; the measurements are still valid
                problem = problem or str(error)
        if self._alive.running:
            self._alive.stop()
        if self._link is not None:
            self._link.close()
        return self._result({} if parts is None else parts.metrics.snapshot(), problem)

    def _result(self, metrics: dict[str, Any], problem: str | None = None) -> ShardResult:
        """The result so far, with that of earlier processes of the run."""
        parts, before = self._parts, self._before
        push = None if parts is None else parts.push_counts
        if push is not None and before.push is not None:
            push = merge_push_counts([{**before.push, "waiting": 0}, push])
        return ShardResult(
            shard=self._plan.shard,
            metrics=metrics,
            lag=self._monitor.lag.encoded(),
            cpu_s=self._monitor.cpu_s,
            cpu_by_second=self._monitor.cpu_by_second,
            spans=self._monitor.spans,
            max_rss_kib=max(before.max_rss_kib, peak_kib()),
            keys_reused=before.keys_reused + (0 if parts is None else parts.keys.reused),
            key_waits=before.key_waits + (0 if parts is None else parts.keys.waits),
            key_wait_s=before.key_wait_s + (0.0 if parts is None else parts.keys.waited_s),
            push=push,
            rules=[] if parts is None else parts.rule_counts,
            phases=self._states(),
            problem=problem,
        )

    def _states(self) -> dict[int, PhaseState]:
        earlier = {number: each.state for number, each in self._earlier.items()}
        return earlier | {number: run.state for number, (run, _) in self._running.items()}

    # The state file.

    def _continue(self, state: ShardState) -> None:
        """Go on after the earlier processes of the run, if there were any."""
        self._state = state
        self._earlier = dict(state.earlier)
        before = state.result
        if before is not None:
            self._before = before
            if before.lag is not None:
                self._monitor.continue_from(before.lag, before.cpu_s, before.cpu_by_second, before.spans)

    def _save(self, metrics: dict[str, Any] | None = None) -> None:
        """Have the file keep what was measured so far."""
        state, parts = self._state, self._parts
        if state is None or parts is None or not self._second_began:
            return
        reached = {number: each.reached for number, each in self._earlier.items()}
        reached |= {number: run.pace.reached for number, (run, _) in self._running.items()}
        result = self._result(parts.metrics.snapshot() if metrics is None else metrics)
        state.save(result, reached, float(self._second + 1), parts.clock())

    def _state_failed(self, error: NotWritten) -> None:
        """The file cannot be written: end, before anything happens that is not in it."""
        self._lost = str(error)
        self._finish(self._lost)

    def _close_state(self, state: ShardState) -> None:
        try:
            state.close()
        except OperatorError as error:
            self._lost = self._lost or str(error)

    # Called by the control link.

    def message_received(self, link: ControlLink, message: Message) -> None:
        """The conductor sent a message."""
        match message:
            case Begin(now, second):
                self._begin(now, second)
            case StartPhase(phase):
                self._start(phase)
            case Pause(at) if self._parts is not None:
                self._parts.pause(at)
            case Resume(at) if self._parts is not None:
                self._parts.resume(at)
            case ChangeRate(phase, at, factor) if phase in self._running:
                self._running[phase][0].change_rate(at, factor)
            case RoutedPush() if self._parts is not None and self._parts.push_endpoint is not None:
                link.send(self._parts.push_endpoint.receive(message))
            case RefusalAnswer(number, cause) if number in self._questions:
                self._questions.pop(number).callback(cause)
            case GatewayStalled(seconds) if self._parts is not None:
                self._parts.stalls.elsewhere += seconds
            case Settle():
                self._settle()
            case Finish(reason):
                link.send(Ending())
                self._finish(reason)
            case _:
                pass

    def link_lost(self, _link: ControlLink, error: PeerError) -> None:
        """The link broke: end, since nothing more can be reported."""
        self._link = None
        if not self._finished.called:
            self._lost = f"its control link was lost: {error}"
            self._finish(self._lost)

    def _finish(self, reason: str) -> None:
        self._reason = reason
        if not self._finished.called:
            self._finished.callback(None)

    def _warn(self, text: str) -> None:
        self._send(Warn(text))

    def _send(self, message: Message) -> None:
        if self._link is not None:
            self._link.send(message)

    def _own_refusal(self, index: int, since: float) -> Deferred[OwnCause | None]:
        """Ask the conductor why a Mac may lack a push by a fault of its gateway; fires with None if it does not."""
        self._question = number = self._question + 1

        def cancelled(_: object) -> None:
            self._questions.pop(number, None)

        answer: Deferred[OwnCause | None] = Deferred(cancelled)
        self._questions[number] = answer
        self._send(RefusalQuestion(number, index, since))
        return answer

    # Time.

    def _begin(self, now: float, second: int) -> None:
        self._second = second - 1
        self._second_began = True
        if self._parts is not None:
            try:
                self._parts.begin(now)
            except OperatorError as error:  # of the state file
                self._lost = str(error)
                self._finish(self._lost)
        self._monitor.begin()
        self._seconds = LoopingCall.withCount(self._tell_second)
        self._seconds.clock = self._reactor
        self._seconds.start(1.0, now=False).addErrback(self._defect)

    def _make_idle(self) -> None:
        if self._parts is not None:
            self._parts.make_idle()

    def _tell_second(self, passed: int) -> None:
        """Report a second. If the loop was blocked for several, the last one gets the operations of all of them."""
        parts, census = self._parts, self._census
        if parts is None or census is None:
            return
        parts.flush()
        lag, cpu = self._monitor.second()
        gauges = {"macs": census.macs, "connections": parts.connections, "pushes_waiting": parts.pushes_waiting}
        for _ in range(passed - 1):
            self._second += 1
            self._send(Second(self._second, {**gauges, "lag_ms": lag, "cpu": cpu}, {}))
        self._second += 1
        row = {**gauges, "operations": parts.metrics.take_second(), "lag_ms": lag, "cpu": cpu}
        self._send(Second(self._second, row, self._states()))
        if self._state is not None:
            for number, (run, _) in self._running.items():
                self._state.moved(number, run.pace.reached, run.pace.elapsed)
        if self._second % SNAPSHOT_SECONDS == 0:
            snapshot = parts.metrics.snapshot()
            self._send(Snapshot(snapshot))
            self._save(snapshot)

    # Phases.

    def _start(self, number: int) -> None:
        if self._parts is None or self._finished.called:
            return
        phases = self._plan.scenario.phases
        if not 0 <= number < len(phases) or number in self._running:
            raise ControlError(f"Expected a phase from 0 to {len(phases) - 1} that has not started, found {number}.")
        earlier = self._earlier.get(number, NOTHING_EARLIER)
        if earlier.state.finished:
            self._send(PhaseFinished(number, earlier.state))
            return
        self._earlier.pop(number, None)
        gc.freeze()  # with many Macs, collecting the long-lived objects again and again would stall the loop
        kept = None if self._state is None else self._state.kept(number)
        changes = self._plan.scenario.changes
        run = PhaseRun(phases[number], self._parts.context, self._parts.part, changes, earlier, kept)
        self._monitor.enter(number)
        over = Deferred.fromCoroutine(run.run())
        self._running[number] = run, over
        over.addBoth(partial(self._over, number, run))

    def _over(self, number: int, run: PhaseRun, outcome: object) -> None:
        self._monitor.leave(number)
        if run.state.finished:
            if self._state is not None:
                self._save()
                self._state.fleet.flush()  # before it is told: a resumed run does not repeat it
            self._send(PhaseFinished(number, run.state))
        if isinstance(outcome, Failure) and not isinstance(outcome.value, CancelledError):
            self._defect(outcome)

    def _defect(self, failure: Failure) -> None:
        if not self._finished.called:
            self._finished.errback(failure)

    def _settle(self) -> None:
        """Send Settled as soon as no Mac has an open session or boots."""
        if self._parts is None or self._finished.called:
            return
        if any(state_of(client) in ("session", "booting") for client in self._parts.fleet.made()):
            self._reactor.callLater(SETTLE_LOOK_SECONDS, self._settle)
        else:
            self._send(Settled())

    async def _stop_phases(self) -> None:
        for run, over in self._running.values():
            run.stop_because(self._reason)
            over.cancel()
        await DeferredList([over for _, over in self._running.values()], consumeErrors=True)
