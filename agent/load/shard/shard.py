"""One shard: a range of whole segments of the fleet, run by one reactor.

Over the control link it receives its plan, the start of each phase and the pushes to its Macs, and reports its progress
and its result. `agent.load.shard.running` runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred, DeferredList, FirstError
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from agent.errors import LomAgentError, OperatorError, PeerError
from agent.load.control.joining import Invitation
from agent.load.control.messages import (
    Begin,
    ChangeRate,
    Ending,
    Finish,
    GatewayStalled,
    Message,
    Pause,
    Ready,
    RefusalAnswer,
    RefusalQuestion,
    Result,
    Resume,
    Second,
    Settle,
    Settled,
    Snapshot,
    StartPhase,
    Warn,
)
from agent.load.control.trace_home import own_trace, remove_trace, send_trace
from agent.load.machine.overload import LoopMonitor
from agent.load.shard.keys import keys_made_ahead
from agent.load.shard.link import ShardLink
from agent.load.shard.parts import ShardParts
from agent.load.shard.phases import ShardPhases
from agent.load.shard.plan import ShardPlan, ShardResult, decode_plan, encode
from agent.load.shard.state import ShardState, open_state
from agent.net.mac.fleet.census import Census, state_of
from agent.net.timing import Alarm, DelayedCall
from agent.processes import peak_kib
from agent.push.counts import merge_push_counts
from agent.push.reasons import OwnCause
from agent.push.wire import RoutedPush
from agent.sqlite_file import NotWritten

SNAPSHOT_SECONDS = 5
SETTLE_LOOK_SECONDS = 0.1
IDLE_CHECK_SECONDS = 0.04  # two ticks


class ShardEnd(NamedTuple):
    """How a shard ended."""

    joined: bool
    """Whether it got its plan."""
    problem: str | None
    """Why it could not start, or ended early."""


class ShardWatch(Protocol):
    """The command of a shard that runs in the first process of a machine."""

    def joined(self, plan: ShardPlan) -> None:
        """The shard has its plan."""

    def stoppable(self, stop: Callable[[str], None]) -> None:
        """The shard runs; ``stop`` ends it, with a reason, and may be called in a signal handler's thread."""


class Shard:
    """One shard on one reactor."""

    _plan: ShardPlan
    """From the time at which it has joined."""

    def __init__(self, reactor: Any, invitation: Invitation, watch: ShardWatch | None = None) -> None:
        self._reactor = reactor
        self._watch = watch
        self._link = ShardLink(reactor, invitation, self)
        self._joined = False
        self._finished: Deferred[None] = Deferred()
        self._reason = "the run ended first"
        self._due: list[tuple[DelayedCall, Callable[[], object]]] = []  # what happens at a date of the run's clock
        self._monitor = LoopMonitor(reactor)
        self._phases = ShardPhases(self._monitor, self._send, self._phase_finished, self._defect)
        self._idle_check = Alarm(reactor, self._make_idle)
        self._lost: str | None = None
        self._parts: ShardParts | None = None
        self._census: Census | None = None
        self._seconds: LoopingCall | None = None
        self._second = -1
        self._second_began = False
        self._begins: tuple[float, int] | None = None  # when the run begins, and the next second
        self._state: ShardState | None = None
        self._before = ShardResult(shard=invitation.shard, metrics={})  # the result of these processes
        self._questions: dict[int, Deferred[OwnCause | None]] = {}
        self._question = 0

    async def run(self) -> ShardEnd:
        """Run until the conductor sends Finish, the control link breaks, or ``stop``."""
        problem: str | None = None
        try:
            await DeferredList(
                [self._link.join().addCallback(self._got_plan), self._finished],
                fireOnOneCallback=True,
                fireOnOneErrback=True,
                consumeErrors=True,
            )
            if self._joined:
                await self._work(self._plan)
            problem = self._lost
        except FirstError as first:
            if not first.subFailure.check(LomAgentError):
                first.subFailure.raiseException()
            problem = str(first.subFailure.value)
        except LomAgentError as error:
            problem = str(error)
        except Exception as error:
            problem = f"a defect of this program: {error or type(error).__name__}"
            raise
        finally:
            problem = await self._end(problem)
        return ShardEnd(self._joined, problem)

    def stop(self, reason: str) -> None:
        """End early, because the operator of its machine wants it; the conductor gets what was measured."""
        self._lost = reason
        self._link.send(Ending())
        self._finish(reason)

    def _got_plan(self, octets: bytes) -> None:
        self._plan = decode_plan(octets)
        self._joined = True
        self._plan = own_trace(self._plan)
        self._link.patience = self._plan.scenario.load.worker_timeout
        self._before = ShardResult(shard=self._plan.shard, metrics={})
        if self._watch is not None:
            self._watch.joined(self._plan)

    async def _work(self, plan: ShardPlan) -> None:
        if plan.state is not None:
            self._continue(await open_state(self._reactor, plan, self._state_failed))
        self._parts = ShardParts(self._reactor, plan, self._warn, self._own_refusal, self._state)
        self._parts.open()
        self._monitor.pauses = self._parts.context.time.pauses
        await keys_made_ahead(self._reactor, self._parts.keys, self._finished)
        self._census = Census(self._parts.fleet, self._reactor)
        self._census.begin()
        self._idle_check.set_on_tick(IDLE_CHECK_SECONDS)
        state = self._state
        self._send(Ready() if state is None else Ready(state.lost, state.measured))
        await self._finished

    async def _end(self, problem: str | None) -> str | None:
        if self._parts is not None:
            self._parts.operations.reason = self._reason
        if self._state is not None:  # a later process goes on from here, not from what is ended below
            self._save()
            self._close_state(self._state)
            problem = problem or self._lost
        await self._phases.stop(self._reason)
        if self._census is not None:
            self._census.stop()
        if self._seconds is not None and self._seconds.running:
            self._tell_second(1)
            self._seconds.stop()
        self._monitor.stop()
        self._idle_check.cancel()
        parts = self._parts
        if parts is not None:
            try:
                await parts.close(self._reason)
            except OperatorError as error:  # of the trace; the measurements are still valid
                problem = problem or str(error)
        if self._joined:
            problem = await self._deliver({} if parts is None else parts.metrics.snapshot(), problem)
        self._link.close()
        return problem

    async def _deliver(self, metrics: dict[str, Any], problem: str | None) -> str | None:
        """Give the conductor the trace and the result; the problem of the shard, if there is one."""
        try:
            if self._link.is_open:
                self._send(Snapshot(metrics))  # a trace takes its time, in which this worker may be lost
                problem = await send_trace(self._plan, self._link.deliver) or problem
                await self._link.deliver(Result(encode(self._result(metrics, problem))))
        except PeerError as error:
            problem = problem or f"its control link was lost: {error}"
        finally:
            remove_trace(self._plan)
        return problem

    def _result(self, metrics: dict[str, Any], problem: str | None = None) -> ShardResult:
        """The result so far, with that of earlier processes of the run."""
        parts, before = self._parts, self._before
        signatures = None if parts is None else parts.environment.signatures
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
            signatures_made=before.signatures_made + (0 if signatures is None else signatures.made),
            signatures_reused=before.signatures_reused + (0 if signatures is None else signatures.reused),
            key_waits=before.key_waits + (0 if parts is None else parts.keys.waits),
            key_wait_s=before.key_wait_s + (0.0 if parts is None else parts.keys.waited_s),
            push=push,
            rules=[] if parts is None else parts.rule_counts,
            phases=self._phases.states,
            problem=problem,
        )

    # The state file.

    def _continue(self, state: ShardState) -> None:
        """Go on after the earlier processes of the run, if there were any."""
        self._state = state
        self._phases.earlier = dict(state.earlier)
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
        result = self._result(parts.metrics.snapshot() if metrics is None else metrics)
        state.save(result, self._phases.reached, float(self._second + 1), parts.clock())

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

    def message_received(self, message: Message) -> None:
        """The conductor sent a message."""
        match message:
            case Begin(at, offset, second) if self._parts is not None:
                self._parts.clock.synchronise(offset)
                self._begins = at, second
                self._at(at, self._begin)
            case StartPhase(phase, at, offset) if self._parts is not None:
                self._phases.expect(phase, len(self._plan.scenario.phases) - 1)
                self._parts.clock.synchronise(offset)
                self._at(at, partial(self._start, phase))
            case Pause(at) if self._parts is not None:
                self._parts.pause(at)
            case Resume(at) if self._parts is not None:
                self._parts.resume(at)
            case ChangeRate(phase, at, factor):
                self._phases.change_rate(phase, at, factor)
            case RoutedPush() if self._parts is not None and self._parts.push_endpoint is not None:
                self._send(self._parts.push_endpoint.receive(message))
            case RefusalAnswer(number, cause) if number in self._questions:
                self._questions.pop(number).callback(cause)
            case GatewayStalled(seconds) if self._parts is not None:
                self._parts.stalls.elsewhere += seconds
            case Settle():
                self._settle()
            case Finish(reason):
                self._send(Ending())
                self._finish(reason)
            case _:
                pass

    def link_lost(self, error: PeerError) -> None:
        """The link broke: end, since nothing more can be reported."""
        if not self._finished.called:
            self._lost = f"its control link was lost: {error}"
            self._finish(self._lost)

    def _finish(self, reason: str) -> None:
        self._reason = reason
        for call, act in self._due:  # a phase that is about to start counts: what it has planned is dropped
            if call.active():
                call.cancel()
                act()
        if not self._finished.called:
            self._finished.callback(None)

    def _warn(self, text: str) -> None:
        self._send(Warn(text))

    def _send(self, message: Message) -> None:
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

    def _at(self, date: float, act: Callable[[], object]) -> None:
        """Act at a date of the run's clock."""
        delay = 0.0 if self._parts is None else max(0.0, date - self._parts.clock())
        self._due = [due for due in self._due if due[0].active()]
        self._due.append((self._reactor.callLater(delay, act), act))

    def _begin(self) -> None:
        if self._begins is None or self._finished.called:
            return
        (at, second), self._begins = self._begins, None
        self._second = second - 1
        self._second_began = True
        if self._parts is not None:
            try:
                self._parts.begin(at)
            except OperatorError as error:  # of the state file
                self._lost = str(error)
                self._finish(self._lost)
        self._monitor.begin()
        self._seconds = LoopingCall.withCount(self._tell_second)
        self._seconds.clock = self._reactor
        self._seconds.start(1.0, now=False).addErrback(self._defect)

    def _make_idle(self) -> None:
        self._idle_check.set_on_tick(IDLE_CHECK_SECONDS)
        if self._parts is not None:
            try:
                self._parts.make_idle()
            except Exception:  # noqa: BLE001  # a defect, which ends the run
                self._idle_check.cancel()
                self._defect(Failure())

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
        self._send(Second(self._second, row, self._phases.states))
        if self._state is not None:
            self._phases.moved(self._state)
        if self._second % SNAPSHOT_SECONDS == 0:
            snapshot = parts.metrics.snapshot()
            self._send(Snapshot(snapshot))
            self._save(snapshot)

    # Phases.

    def _start(self, number: int) -> None:
        if self._parts is None or self._finished.called:
            return
        self._begin()  # the run and its first phase may start at the same moment
        kept = None if self._state is None else self._state.kept(number)
        self._phases.start(number, self._plan.scenario, self._parts, kept)

    def _phase_finished(self) -> None:
        """Have the file keep what a finished phase did."""
        if self._state is not None:
            self._save()
            self._state.fleet.flush()

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
