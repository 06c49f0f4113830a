"""The Controller's end of the LOM links of one command: relays its items, several at once."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from OpenSSL import crypto
from twisted.internet.defer import Deferred

from agent.errors import CutShort, MisuseError, PeerError
from agent.lom.endpoint import Endpoint, controller_side
from agent.lom.link import ControllerLink, LinkError, LinkLimits
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
    """Relays one item to its Device, address by address until there is an outcome."""

    def __init__(
        self, network: Network, controller: Endpoint, relay: Relay, done: Callable[[RelayOutcome], object]
    ) -> None:
        self._network = network
        self._controller = controller
        self._relay = relay
        self._done = done
        self._link = ControllerLink(relay.request)
        self._address = ""
        self._port = 0
        self._stream: TLSStream | None = None
        self._answer_limit = Alarm(network.reactor, self._late)
        self._attempt: Operation | None = None  # the current one
        self._secured_at: float | None = None
        self._answer_due = 0.0
        self._sent = False
        self._over = False

    def next(self) -> None:
        """Try the next address, or report the outcome."""
        while (address := self._relay.next_address()) is not None:
            self._address = address
            self._attempt = self._network.operations.begin(
                "lom_link", self._controller.index, self._network.operations.now()
            )
            self._secured_at = None
            try:
                self._connect(address)
            except PeerError as error:
                self._relay.not_sent(address, error)
                self._end_attempt(error, *self._facts(error))
            else:
                return
        if not self._over:
            self._finish()

    def abandon(self, error: PeerError) -> None:
        """Reset the link as on power loss, and try no other address."""
        if self._relay.decided:
            return  # an observer closed the network because of this item's outcome
        facts, now = self._facts(error)
        self._relay.sent_and_failed(self._address, error)
        stream = self._let_go()
        if stream is not None:
            stream.abort()
        self._finish()
        self._end_attempt(error, facts, now)

    def _finish(self) -> None:
        self._over = True
        self._done(self._relay.outcome)

    def _connect(self, address: str) -> None:
        side = controller_side(self._controller)
        name = self._relay.item.dns_name
        check = PeerCheck(device_judge(name))
        sock = self._network.dial(self._controller, address)
        self._port = sock.getsockname()[1]
        try:
            tls = self._network.contexts.client(sock, side.anchors, side.identity, check, name)
        except (PeerError, crypto.Error) as error:
            self._let_go()
            sock.close()
            raise HandshakeFailed(f"the Controller's LOM payload cannot be used for TLS: {error}") from error
        self._stream = TLSStream(self._network.reactor, sock, tls, check, self, timeouts=self._network.timeouts)
        self._stream.connect()

    def secured(self) -> None:
        """The Device is verified: send the request."""
        if self._stream is None:
            raise MisuseError("secured() called without a stream")
        self._secured_at = self._network.reactor.seconds()
        self._sent = True
        self._answer_due = self._secured_at + self._network.limits.answer_seconds
        self._answer_limit.set_at(self._answer_due)
        self._stream.write(self._link.start())

    def received(self, octets: bytes) -> None:
        """Bytes of the answer arrived."""
        try:
            answer = self._link.receive(octets)
        except LinkError as error:
            self._fail(error)
            return
        if answer is None:
            return
        self._relay.answered(answer)
        self._conclude(self._relay.failure)

    def lost(self, error: PeerError) -> None:
        """The link ended, before or after the request was sent."""
        # With TLS 1.3 the Device's refusal of our certificate arrives after the end of our handshake.
        refused = isinstance(error, HandshakeFailed)
        if not self._sent:
            self._fail(self._network.explained(self._controller, self._address, error))
        else:
            self._fail(error if refused else self._link.closed(str(error)))

    def _late(self) -> None:
        now = self._network.reactor.seconds()
        self._answer_due = extended_deadline(self._answer_due, now)
        if self._answer_due > now:
            self._answer_limit.set_at(self._answer_due)
            return
        self._fail(AnswerTimeout(f"the Device did not answer within {self._network.limits.answer_seconds:g} s"))

    def _fail(self, error: PeerError) -> None:
        if self._sent:
            self._relay.sent_and_failed(self._address, error)
        else:
            self._relay.not_sent(self._address, error)
        self._conclude(error)

    def _conclude(self, error: PeerError | None) -> None:
        """This attempt ended: close the link, record it, go on."""
        facts, now = self._facts(error)
        stream = self._let_go()
        if stream is not None:
            stream.close()
        self._end_attempt(error, facts, now)
        self.next()

    def _end_attempt(self, error: PeerError | None, facts: Facts, at: float) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.end(error, facts, at=at)

    def _let_go(self) -> TLSStream | None:
        """Drop the current attempt; the caller ends the returned stream."""
        self._answer_limit.cancel()
        self._network.hung_up(self._port)
        stream, self._stream, self._port = self._stream, None, 0
        return stream

    def _facts(self, error: PeerError | None) -> tuple[dict[str, Fact], float]:
        """The facts for the record of the attempt, which ends now, and the current time."""
        now = self._network.reactor.seconds()
        facts: dict[str, Fact] = {}
        stream, attempt = self._stream, self._attempt
        if attempt is not None and stream is not None and stream.connected_at is not None:
            facts["connect_ms"] = _milliseconds(attempt.since.ticks, stream.connected_at)
            if self._secured_at is not None:
                facts["handshake_ms"] = _milliseconds(stream.connected_at, self._secured_at)
                facts["tls"], facts["cipher"], facts["peer"] = stream.version, stream.cipher, stream.peer_name
        if self._secured_at is not None and (error is None or isinstance(error, DeviceRefused)):
            facts["answer_ms"] = _milliseconds(self._secured_at, now)
        own = link_facts(self._controller, self._relay.item, self._address, verdict_of(error, self._sent))
        return {**own, **facts}, now


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
