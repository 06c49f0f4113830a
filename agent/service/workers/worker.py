"""A worker: a process with a share of the Macs, which does what the front asks and tells it what happens."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Mapping
from inspect import isawaitable
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from agent.errors import OperatorError
from agent.faults.rules import Rule
from agent.load.shard.running import own_reactor
from agent.pki.certificates import read_pem
from agent.push.wire import RoutedPush
from agent.service.api.problems import request_failed
from agent.service.api.requests import API
from agent.service.api.routes import ROUTES
from agent.service.settings import settings_of
from agent.service.starting import enroll_start
from agent.service.types import Event
from agent.service.workers.link import WorkerLink, open_link
from agent.service.workers.messages import (
    Alive,
    Answered,
    Broken,
    Call,
    Failed,
    Happened,
    Message,
    Second,
    Share,
    Start,
    Warned,
)
from agent.service.workers.share import ShareService

ALIVE_SECONDS = 1.0
MOST_UNSENT = 200_000  # events while the front does not read; ours
_BODIES = {route.name: route.body for route in ROUTES}
_log = Logger()


def run_worker(sock: socket.socket, start: Start) -> None:
    """Run a worker until the front closes the link, or is gone."""
    reactor = own_reactor()
    worker = Worker(reactor, start)
    reactor.callWhenRunning(worker.begin, sock)
    reactor.run(installSignalHandlers=False)


class Worker:
    """The worker. ``begin`` opens the link; the process ends with it."""

    def __init__(self, reactor: Any, start: Start) -> None:
        self._reactor = reactor
        self._start = start
        self._link: WorkerLink | None = None
        self._service: ShareService | None = None
        self._api: API | None = None
        self._unsent: list[Event] = []
        self._exchange = 0  # the last one that the front knows
        self._flushing = False
        self._stopped = False
        self._seconds = LoopingCall(self._send_row)
        self._alive = LoopingCall(lambda: self._send(Alive()))
        self._seconds.clock = self._alive.clock = reactor

    def begin(self, sock: socket.socket) -> None:
        """Open the link."""
        self._link = open_link(self._reactor, sock, self._received, self._lost)
        self._link.on_resume = self._flush
        self._alive.start(ALIVE_SECONDS, now=False)

    # What the front sends.

    def _received(self, message: Message) -> None:
        match message:
            case Call():
                Deferred.fromCoroutine(self._answer(message)).addErrback(_defect)
            case RoutedPush() if self._service is not None:
                answer = self._service.receive(message)
                if answer is not None:
                    self._send(answer)

    async def _answer(self, call: Call) -> None:
        try:
            result = self._result(call.name, msgspec.json.decode(call.arguments))
            if isawaitable(result):
                result = await result
            octets = msgspec.json.encode(result)
        except Exception as error:  # noqa: BLE001 - the front has the answer of every call
            problem = request_failed(Failure(error)).problem()  # type: ignore[no-untyped-call]
            self._flush()
            self._send(Failed(call.number, msgspec.json.encode(problem)))
            return
        self._flush()
        self._send(Answered(call.number, octets))

    def _result(self, name: str, arguments: dict[str, Any]) -> Awaitable[Any] | Any:
        if name == "open":
            return self._open(**arguments)
        api, service = self._api, self._service
        if api is None or service is None:
            raise OperatorError(f"Expected open before {name}, found none.")
        if name in _BODIES:
            if _BODIES[name] is not None:
                arguments["body"] = msgspec.convert(arguments["body"], _BODIES[name])
            result = getattr(api, name)(**arguments)
            if not isawaitable(result):
                service.flush()  # what the front is told is in the file
            return result
        return self._own(service, name, arguments)

    def _own(self, service: ShareService, name: str, arguments: Mapping[str, Any]) -> Any:
        """What only the front asks for."""
        result: Any = None
        match name:
            case "sync":
                return None
            case "add_share":
                handles = service.add_share(msgspec.convert(arguments["share"], Share))
                result = [service.view(handle) for handle in handles] if arguments["shown"] else None
            case "remove_share":
                service.remove_share(arguments["first"])
            case "follow_rule":
                service.faults.add(msgspec.convert(arguments["rule"], Rule), service.clock.seconds())
            case "enroll_start":
                enroll_start(service, lambda: self._stopped, lambda text: self._send(Warned(text)))
            case "measurements":
                return service.measurements()
            case "first_row":
                self._begin_rows()
                return service.row()
            case "close":
                self._stopped = True
                service.close()
                return None
            case _:
                raise OperatorError(f"Expected something that a worker does, found {name}.")
        service.flush()
        return result

    def _open(self, shares: list[Any], rules: list[Any], fleet: str, is_new: bool) -> dict[str, Any]:
        start = self._start
        anchor = read_pem(start.anchor)[0] if start.anchor else None
        state = None
        if start.state is not None:
            from agent.service.workers.files import open_part  # only where it is asked for: a fast start

            state = open_part(Path(start.state), self._reactor, fleet, start.worker, is_new=is_new)
            state.on_failure = lambda error: self._send(Broken(str(error)))
        settings = settings_of(start.options, anchor, start.device_ca)
        service = ShareService(self._reactor, settings, lambda text: self._send(Warned(text)), state)
        service.events.subscribe(self._happened)
        service.on_change = self._changed
        removed = service.open_shares(msgspec.convert(shares, list[Share]), msgspec.convert(rules, list[Rule]))
        self._service, self._api = service, API(service, self._reactor)
        self._exchange = service.parts.exchanges.last_number
        service.flush()
        return {"exchange": self._exchange, "removed": removed}

    # What is sent to the front.

    def _happened(self, event: Event) -> None:
        self._unsent.append(event)
        self._changed()

    def _changed(self) -> None:
        """Tell the front at the end of this turn of the reactor."""
        if not self._flushing:
            self._flushing = True
            self._reactor.callLater(0, self._flush_turn)

    def _flush_turn(self) -> None:
        self._flushing = False
        if self._link is None or not self._link.paused:
            self._flush()
        elif len(self._unsent) > MOST_UNSENT:
            self._lost("the front does not read")

    def _flush(self) -> None:
        exchange = self._exchange if self._service is None else self._service.parts.exchanges.last_number
        if not self._unsent and exchange == self._exchange:
            return
        events, self._unsent, self._exchange = self._unsent, [], exchange
        self._send(Happened(msgspec.json.encode(events), exchange))

    def _begin_rows(self) -> None:
        if not self._seconds.running:
            self._seconds.start(1.0, now=False)

    def _send_row(self) -> None:
        if self._service is not None:
            self._send(Second(msgspec.json.encode(self._service.row())))

    def _send(self, message: Message) -> None:
        if self._link is not None:
            self._link.send(message)

    def _lost(self, reason: str) -> None:
        """The front is gone, or has closed the link: end."""
        del reason
        if self._service is not None and not self._stopped:
            self._stopped = True
            self._service.close()
        for loop in (self._seconds, self._alive):
            if loop.running:
                loop.stop()
        if self._link is not None:
            self._link.close()
        self._reactor.stop()


def _defect(failure: Failure) -> None:
    _log.failure("a call of the front failed", failure)
