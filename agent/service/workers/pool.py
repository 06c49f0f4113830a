"""The worker processes, as the front has them: their start, what is asked of them, and how they end."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.task import LoopingCall

from agent.errors import OperatorError
from agent.net.timing import Alarm
from agent.processes import ProcessEach
from agent.push.wire import RoutedAnswer
from agent.service.api.problems import RequestFailed
from agent.service.errors import WorkerGone
from agent.service.types import Problem
from agent.service.workers.link import WorkerLink, open_link
from agent.service.workers.messages import (
    Answered,
    Broken,
    Call,
    Failed,
    Happened,
    Message,
    Second,
    Start,
    Warned,
)
from agent.service.workers.numbers import Numbers
from agent.service.workers.worker import run_worker

SILENT_SECONDS = 60  # without a message, after which a worker is killed; ours
CLOSE_SECONDS = 10.0  # in which a worker ends that is told to; ours
_OWN_PROBLEMS = {400: OperatorError, 503: WorkerGone}


class WorkerPoolOwner(Protocol):
    """What the pool tells: the front."""

    def happened(self, worker: PoolWorker, message: Happened) -> object:
        """There are new events and exchanges."""

    def counted(self, worker: PoolWorker, row: Mapping[str, Any]) -> object:
        """A second is over."""

    def push_answered(self, worker: PoolWorker, answer: RoutedAnswer) -> object:
        """A push endpoint has decided."""

    def warned(self, text: str) -> object:
        """A text for the operator."""

    def worker_lost(self, worker: PoolWorker) -> object:
        """A worker has ended by itself."""

    def broken(self, error: OperatorError) -> object:
        """The service cannot go on."""


class PoolWorker:
    """One worker. ``number`` is from 1; ``lost`` says why it is not there any more, empty while it is."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lost = ""
        self.events = Numbers()
        self.exchanges = Numbers()
        self.last_exchange = 0
        """In its own numbers, the last that the front has numbered."""
        self.link: WorkerLink | None = None
        self.calls: dict[int, Deferred[bytes]] = {}
        self.quiet = 0
        """For how many seconds it has sent nothing."""
        self.why = ""
        """Why its link was closed, or its process killed."""
        self.future: Future[Any] | None = None
        """Of its process, once that has ended."""
        self.ended: Deferred[None] = Deferred()


class WorkerPool:
    """The workers. Every call ends: with an answer, or with WorkerGone where the worker ends."""

    def __init__(self, reactor: Any, owner: WorkerPoolOwner, executor: ProcessEach | None = None) -> None:
        self.workers: list[PoolWorker] = []
        self._reactor = reactor
        self._owner = owner
        self._executor = ProcessEach() if executor is None else executor
        self._number = 0
        self._closing = False
        self._silence = LoopingCall(self._look)
        self._silence.clock = reactor

    @property
    def present(self) -> list[PoolWorker]:
        """The workers that are there."""
        return [worker for worker in self.workers if worker.link is not None]

    def start(self, starts: Sequence[Start]) -> None:
        """Start the processes."""
        for start in starts:
            worker = PoolWorker(start.worker)
            self.workers.append(worker)
            ours, its = socket.socketpair()
            with its:
                future: Future[Any] = self._executor.submit(run_worker, its, start)
            worker.link = open_link(
                self._reactor, ours, partial(self._received, worker), partial(self._link_lost, worker)
            )
            gone = partial(self._reactor.callFromThread, self._process_ended, worker)
            future.add_done_callback(gone)
        self._silence.start(1.0, now=False)

    def worker(self, number: int) -> PoolWorker:
        """The worker with this number."""
        return self.workers[number - 1]

    def call(self, worker: PoolWorker, name: str, **arguments: Any) -> Deferred[bytes]:
        """Ask a worker; fires with the answer in JSON. Fails with RequestFailed, OperatorError and WorkerGone."""
        if worker.link is None or self._closing:
            raise WorkerGone(gone_text(worker))
        self._number += 1
        number = self._number
        answer: Deferred[bytes] = Deferred(lambda _: worker.calls.__delitem__(number))
        worker.calls[number] = answer
        worker.link.send(Call(number, name, msgspec.json.encode(arguments)))
        return answer

    async def call_all(self, name: str, **arguments: Any) -> dict[PoolWorker, bytes]:
        """Ask every worker that is there; the answers of those that have not ended meanwhile.

        Fails as ``call`` where an answer is an error.
        """
        asked = self.present
        calls = [self.call(worker, name, **arguments) for worker in asked]
        outcomes: Any = await DeferredList(calls, consumeErrors=True)
        answers = {}
        for worker, (good, answer) in zip(asked, outcomes, strict=True):
            if good:
                answers[worker] = answer
            elif not answer.check(WorkerGone):
                answer.raiseException()
        return answers

    async def close(self) -> None:
        """End every worker, and return when their processes have ended."""
        if self._silence.running:
            self._silence.stop()
        late = Alarm(self._reactor, self._executor.kill)
        late.set(CLOSE_SECONDS)
        calls = [self.call(worker, "close") for worker in self.present]
        self._closing = True
        await DeferredList(calls, consumeErrors=True)
        for worker in self.present:
            if worker.link is not None:
                worker.link.close()
        await gatherResults([worker.ended for worker in self.workers])
        late.cancel()
        self._executor.shutdown()

    # What the links and the processes tell.

    def _received(self, worker: PoolWorker, message: Message) -> None:
        worker.quiet = 0
        match message:
            case Answered():
                answer = worker.calls.pop(message.number, None)
                if answer is not None:
                    answer.callback(message.result)
            case Failed():
                answer = worker.calls.pop(message.number, None)
                if answer is not None:
                    answer.errback(_error(msgspec.json.decode(message.problem, type=Problem)))
            case Happened():
                self._owner.happened(worker, message)
            case Second():
                self._owner.counted(worker, msgspec.json.decode(message.row))
            case Warned():
                self._owner.warned(message.text)
            case Broken():
                self._owner.broken(OperatorError(message.error))
            case RoutedAnswer():
                self._owner.push_answered(worker, message)

    def _look(self) -> None:
        for worker in self.present:
            worker.quiet += 1
            if worker.quiet == SILENT_SECONDS:
                self._end(worker, f"it sent nothing for {SILENT_SECONDS} s")

    def _link_lost(self, worker: PoolWorker, reason: str) -> None:
        worker.link = None
        self._end(worker, reason)
        if worker.future is not None:
            self._gone(worker, worker.future)

    def _end(self, worker: PoolWorker, reason: str) -> None:
        """Kill its process, whose end comes to ``_process_ended``."""
        worker.why = worker.why or reason
        self._executor.kill(worker.number - 1)

    def _process_ended(self, worker: PoolWorker, future: Future[Any]) -> None:
        worker.future = future
        if worker.link is None or self._closing:  # else its last messages are still in the socket, whose end then comes
            self._gone(worker, future)

    def _gone(self, worker: PoolWorker, future: Future[Any]) -> None:
        if worker.ended.called:
            return
        error = future.exception()
        if not self._closing:
            reasons = worker.why, "" if error is None else str(error)
            worker.lost = "; ".join(text for text in reasons if text) or "it ended"
            self._owner.worker_lost(worker)
        calls, worker.calls = worker.calls, {}
        for answer in calls.values():
            answer.errback(WorkerGone(gone_text(worker)))
        worker.ended.callback(None)


def gone_text(worker: PoolWorker) -> str:
    """Why a worker does not answer, for people."""
    return (
        f"Expected worker {worker.number} with its Macs, found that it has ended: {worker.lost or 'the end'}. "
        "Start lom-agent serve again; with --state it goes on where it was."
    )


def _error(problem: Problem) -> Exception:
    """The error of a call, as the front raises it."""
    kind = _OWN_PROBLEMS.get(problem.status)
    if kind is not None and not problem.nearest and not problem.exchanges:
        return kind(problem.detail)
    return RequestFailed(problem.status, problem.detail, nearest=problem.nearest, exchanges=problem.exchanges)
