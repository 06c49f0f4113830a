"""The Controller's end of the LOM links of one command: relays its items, several at once."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeGuard

from OpenSSL import crypto
from twisted.internet.defer import Deferred

from agent.errors import CutShort, MisuseError, PeerError
from agent.lom.endpoint import Endpoint, controller_side
from agent.lom.link import ControllerLink, LinkAnswer, LinkBroken, LinkError, LinkLimits
from agent.lom.relay import DeviceRefused, Relay
from agent.lom.requests import RelayItem, RelayOutcome
from agent.measure.operations import Facts, Operation, Operations
from agent.net.timing import Alarm, Reactor, extended_deadline
from agent.net.transport.errors import HandshakeFailed
from agent.net.transport.stream import Timeouts, TLSStream
from agent.net.transport.tls import TLSContexts
from agent.pki.verify import PeerCheck, device_judge

Fact = str | int | float | bool


class AnswerTimeout(LinkError):
    """The Device accepted the request and did not answer in time."""

    kind = "lom_answer_timeout"
    timed_out = True


class RaceLost(CutShort):
    """Another address of the same Device completed its handshake first."""


class RelayAbandoned(CutShort):
    """The Controller stopped before an answer arrived: it lost power, or the network was closed."""


class Network(Protocol):
    """What a Controller's end needs of its network."""

    reactor: Reactor
    contexts: TLSContexts
    operations: Operations
    limits: LinkLimits
    timeouts: Timeouts

    def dial(self, controller: Endpoint, address: str) -> socket.socket:
        """Start a connect to ``address``. Raises Unreachable or ConnectFailed."""

    def explained(self, controller: Endpoint, address: str, error: PeerError) -> PeerError:
        """The error that a failed connection to ``address`` means on this network."""

    def hung_up(self, port: int) -> None:
        """The connection from the TCP port ``port`` ended."""


class Relays:
    """The items of one command, ``relays_at_once`` of them at a time. ``done`` fires with all outcomes, in order.

    Cancelling ``done`` is the Controller's loss of power: every link is reset, and ``done`` fires at once; items
    without an outcome have failed.
    """

    def __init__(self, network: Network, controller: Endpoint, items: Sequence[RelayItem]) -> None:
        self.done: Deferred[list[RelayOutcome]] = Deferred(
            lambda _: self.give_up(RelayAbandoned("the Controller stopped before an answer came"))
        )
        self._network = network
        self._controller = controller
        self._items = items
        self._outcomes: dict[int, RelayOutcome] = {}
        self._ends: dict[int, _ControllerEnd] = {}
        self._started = 0
        self._starting = False

    def start_more(self) -> None:
        """Start as many items as may run. A loop, because an item that fails at once would call this recursively."""
        if self._starting:
            return
        self._starting = True
        while self._started < len(self._items) and len(self._ends) < self._network.limits.relays_at_once:
            number = self._started
            self._started += 1
            self._ends[number] = end = _ControllerEnd(
                self._network, self._controller, Relay(self._items[number]), partial(self._end, number)
            )
            end.next()
        self._starting = False
        if len(self._outcomes) == len(self._items):
            self.done.callback([self._outcomes[number] for number in range(len(self._items))])

    def give_up(self, error: PeerError) -> None:
        """Reset every link; items without an outcome fail with ``error``."""
        waiting = range(self._started, len(self._items))
        self._started = len(self._items)
        self._outcomes.update({number: RelayOutcome(self._items[number].uuid, str(error)) for number in waiting})
        for end in list(self._ends.values()):
            end.abandon(error)

    def _end(self, number: int, outcome: RelayOutcome) -> None:
        del self._ends[number]
        self._outcomes[number] = outcome
        self.start_more()


class _ControllerEnd:
    """Relays one item to its Device: tries its addresses until one has an outcome.

    While an address has not completed its handshake for ``attempt_delay_seconds``, the next one is tried too (RFC 8305,
    5). The first that completes it gets the request, and the others are closed: a request is sent over one link only.
    """

    def __init__(
        self, network: Network, controller: Endpoint, relay: Relay, done: Callable[[RelayOutcome], object]
    ) -> None:
        self.network = network
        self.controller = controller
        self.relay = relay
        self._done = done
        self._attempts: list[_Attempt] = []  # those in progress
        self._address = ""  # the last one tried
        self._next_due = Alarm(network.reactor, self.next)
        self._returns_left = network.limits.returns if relay.request.acknowledges else 0
        self._broken: LinkBroken | None = None  # the error of the link before the return
        self._over = False

    def next(self) -> None:
        """Try the next address; without one and without an attempt in progress, report the outcome."""
        self._next_due.cancel()
        while not self._over and (address := self.relay.next_address()) is not None:
            if self._begin(address):
                if self.network.limits.attempt_delay_seconds is not None and self.relay.waiting:
                    self._next_due.set(self.network.limits.attempt_delay_seconds)
                return
        if not self._attempts and not self._over:
            self._finish()

    def abandon(self, error: PeerError) -> None:
        """Reset every link as on power loss, and try no other address."""
        if self.relay.decided or self._over:
            return  # an observer closed the network because of this item's outcome
        self._next_due.cancel()
        attempts, self._attempts = self._attempts, []
        self.relay.sent_and_failed(attempts[0].address if attempts else self._address, error)
        ended = [(attempt, attempt.facts(error)) for attempt in attempts]
        for attempt in attempts:
            attempt.abort()
        self._finish()
        for attempt, (facts, now) in ended:
            attempt.end(error, facts, now)

    def _begin(self, address: str) -> bool:
        """Connect to an address; returns whether the attempt is in progress."""
        if self._over:
            return False
        self._address = address
        attempt = _Attempt(self, address)
        try:
            attempt.connect()
        except PeerError as error:
            self._not_sent(address, error)
            attempt.end(error, *attempt.facts(error))
            return False
        self._attempts.append(attempt)
        return True

    def won(self, winner: _Attempt) -> None:
        """The first handshake is complete: close the others."""
        self._next_due.cancel()
        others = [attempt for attempt in self._attempts if attempt is not winner]
        self._attempts = [winner]
        for attempt in others:
            lost = RaceLost("another address of the Device completed its handshake first")
            facts = attempt.facts(lost)
            attempt.close()
            attempt.end(lost, *facts)

    def ended(self, attempt: _Attempt, error: PeerError | None, *, answer: LinkAnswer | None = None) -> None:
        """An attempt has an answer, or failed: close it, record it, go on."""
        if answer is not None:
            self.relay.answered(answer)
            error = self.relay.failure
        elif error is not None and not attempt.sent:
            self._not_sent(attempt.address, error)
        elif error is not None and self._returns(error):
            self._broken = error
        elif error is not None:
            self.relay.sent_and_failed(attempt.address, error)
        facts = attempt.facts(error)
        self._attempts.remove(attempt)
        attempt.close()
        attempt.end(error, *facts)
        returning = error is not None and error is self._broken
        if not (returning and self._begin(attempt.address)):
            self.next()

    def _returns(self, error: PeerError) -> TypeGuard[LinkBroken]:
        """Whether to connect again for the answer: the Device repeats one that was not acknowledged."""
        if not isinstance(error, LinkBroken) or not self._returns_left:
            return False
        self._returns_left -= 1
        return True

    def _not_sent(self, address: str, error: PeerError) -> None:
        if self._broken is None:
            self.relay.not_sent(address, error)
        else:  # the request was sent over the link before
            self.relay.sent_and_failed(address, LinkBroken(f"{self._broken}; connected again: {error}"))

    def _finish(self) -> None:
        self._over = True
        self._done(self.relay.outcome)


class _Attempt:
    """One link to one address: the owner of its stream, and the operation ``lom_link``."""

    def __init__(self, item: _ControllerEnd, address: str) -> None:
        network = item.network
        self.address = address
        self.sent = False
        self._item = item
        self._network = network
        self._link = ControllerLink(item.relay.request, network.limits)
        self._port = 0
        self._stream: TLSStream | None = None
        self._answer_limit = Alarm(network.reactor, self._late)
        self._operation: Operation | None = network.operations.begin(
            "lom_link", item.controller.index, network.operations.now()
        )
        self._since = self._operation.since.ticks
        self._secured_at: float | None = None
        self._answer_due = 0.0
        self._answered = False

    def connect(self) -> None:
        """Start to connect. Raises PeerError."""
        network, controller = self._network, self._item.controller
        side = controller_side(controller)
        name = self._item.relay.item.dns_name
        check = PeerCheck(device_judge(name))
        sock = network.dial(controller, self.address)
        self._port = sock.getsockname()[1]
        try:
            tls = network.contexts.client(sock, side.anchors, side.identity, check, name)
        except (PeerError, crypto.Error) as error:
            self._let_go()
            sock.close()
            raise HandshakeFailed(f"the Controller's LOM payload cannot be used for TLS: {error}") from error
        self._stream = TLSStream(network.reactor, sock, tls, check, self, timeouts=network.timeouts)
        self._stream.connect()

    def close(self) -> None:
        """Close the link."""
        stream = self._let_go()
        if stream is not None:
            stream.close()

    def abort(self) -> None:
        """Reset the link."""
        stream = self._let_go()
        if stream is not None:
            stream.abort()

    def end(self, error: PeerError | None, facts: Facts, at: float) -> None:
        """End the record."""
        operation, self._operation = self._operation, None
        if operation is not None:
            operation.end(error, facts, at=at)

    def facts(self, error: PeerError | None) -> tuple[dict[str, Fact], float]:
        """The facts for the record of the attempt, which ends now, and the current time."""
        now = self._network.reactor.seconds()
        facts: dict[str, Fact] = {}
        stream = self._stream
        if self._operation is not None and stream is not None and stream.connected_at is not None:
            facts["connect_ms"] = _milliseconds(self._since, stream.connected_at)
            if self._secured_at is not None:
                facts["handshake_ms"] = _milliseconds(stream.connected_at, self._secured_at)
                facts["tls"], facts["cipher"], facts["peer"] = stream.version, stream.cipher, stream.peer_name
        if self._secured_at is not None and (error is None or isinstance(error, DeviceRefused)):
            facts["answer_ms"] = _milliseconds(self._secured_at, now)
        item = self._item
        own = link_facts(item.controller, item.relay.item, self.address, verdict_of(error, self.sent))
        return {**own, **facts}, now

    # Stream callbacks.

    def secured(self) -> None:
        """The Device is verified: send the request, unless another link was faster."""
        stream = self._stream
        if stream is None:
            raise MisuseError("secured() called without a stream")
        self._item.won(self)
        self._secured_at = self._network.reactor.seconds()
        self.sent = True
        self._answer_due = self._secured_at + self._network.limits.answer_seconds
        self._answer_limit.set_at(self._answer_due)
        stream.write(self._link.start())

    def received(self, octets: bytes) -> None:
        """Bytes of the answer arrived."""
        try:
            answer = self._link.receive(octets)
        except LinkError as error:
            self._item.ended(self, error)
            return
        self._answered = answer is not None
        acknowledgements = self._link.take_acknowledgements()
        if acknowledgements and self._stream is not None:
            self._stream.write(acknowledgements)
        if answer is not None:
            self._item.ended(self, None, answer=answer)

    def lost(self, error: PeerError) -> None:
        """The link ended, before or after the request was sent."""
        if self._answered:  # the acknowledgement could not be sent
            return
        # With TLS 1.3 the Device's refusal of our certificate arrives after the end of our handshake.
        refused = isinstance(error, HandshakeFailed)
        if not self.sent:
            self._item.ended(self, self._network.explained(self._item.controller, self.address, error))
        else:
            self._item.ended(self, error if refused else self._link.closed(str(error)))

    def _late(self) -> None:
        now = self._network.reactor.seconds()
        self._answer_due = extended_deadline(self._answer_due, now)
        if self._answer_due > now:
            self._answer_limit.set_at(self._answer_due)
            return
        limit = self._network.limits.answer_seconds
        self._item.ended(self, AnswerTimeout(f"the Device did not answer within {limit:g} s"))

    def _let_go(self) -> TLSStream | None:
        """Drop the stream; the caller ends it."""
        self._answer_limit.cancel()
        self._network.hung_up(self._port)
        stream, self._stream, self._port = self._stream, None, 0
        return stream


def verdict_of(error: PeerError | None, sent: bool) -> str:
    """``done``; ``refused`` by the Device; ``not sent``, so another address may be tried; else ``unknown``."""
    if error is None:
        return "done"
    if isinstance(error, DeviceRefused):
        return "refused"
    return "unknown" if sent else "not sent"


def link_facts(controller: Endpoint, item: RelayItem, address: str, verdict: str) -> dict[str, Fact]:
    """The facts that the record of a link has on every network."""
    return {
        "controller": controller.index,
        "controller_name": "" if controller.lom is None else controller.lom.controller_name,
        "address": address,
        "device_dns_name": item.dns_name,
        "request": item.request.value,
        "request_uuid": item.uuid,
        "verdict": verdict,
    }


def _milliseconds(since: float, until: float) -> float:
    return round((until - since) * 1000.0, 3)
