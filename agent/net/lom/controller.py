"""A Controller's end of the LOM links of one command: items in, an outcome for each out, several at once."""

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
from agent.lom.requests import Outcome, RelayItem
from agent.measure.operations import Facts, Operation, Operations
from agent.net.timing import Alarm, Reactor, made_up
from agent.net.transport.stream import HandshakeFailed, Timeouts, TLSStream
from agent.net.transport.tls import TLSContexts
from agent.pki.verify import PeerCheck, device_judge

Fact = str | int | float | bool


class AnswerTimeout(LinkError):
    """The Device took the request and did not answer in time."""

    kind = "lom_answer_timeout"
    timed_out = True


class RelayAbandoned(CutShort):
    """The Controller stopped in the middle: it lost power, or the network was closed."""


class Network(Protocol):
    """What a Controller's end needs of its network."""

    reactor: Reactor
    contexts: TLSContexts
    operations: Operations
    limits: LinkLimits
    timeouts: Timeouts

    def dial(self, controller: Endpoint, address: str) -> socket.socket:
        """A socket whose connect to ``address`` is under way. Raises Unreachable or ConnectFailed."""

    def explained(self, controller: Endpoint, address: str, error: PeerError) -> PeerError:
        """What it means on this network that ``address`` could not be asked."""

    def hung_up(self, port: int) -> None:
        """The connection dialled from the TCP port ``port`` is over."""


class Relays:
    """The items of one command, ``relays_at_once`` of them at a time. ``done`` fires with all outcomes, in order.

    Cancelling ``done`` is the Controller's loss of power: every link breaks, and ``done`` fires at once with what is
    known; items without an outcome have failed.
    """

    def __init__(self, network: Network, controller: Endpoint, items: Sequence[RelayItem]) -> None:
        self.done: Deferred[list[Outcome]] = Deferred(
            lambda _: self.give_up(RelayAbandoned("the Controller stopped before an answer came"))
        )
        self._network = network
        self._controller = controller
        self._items = items
        self._outcomes: dict[int, Outcome] = {}
        self._ends: dict[int, _ControllerEnd] = {}
        self._begun = 0
        self._starting = False

    def start_more(self) -> None:
        """Begin as many items as may run. A loop: an item that fails at once must not call back into itself."""
        if self._starting:
            return
        self._starting = True
        while self._begun < len(self._items) and len(self._ends) < self._network.limits.relays_at_once:
            number = self._begun
            self._begun += 1
            self._ends[number] = end = _ControllerEnd(
                self._network, self._controller, Relay(self._items[number]), partial(self._end, number)
            )
            end.next()
        self._starting = False
        if len(self._outcomes) == len(self._items):
            self.done.callback([self._outcomes[number] for number in range(len(self._items))])

    def give_up(self, error: PeerError) -> None:
        """Break every link; what has no outcome yet fails with ``error``."""
        waiting = range(self._begun, len(self._items))
        self._begun = len(self._items)
        self._outcomes.update({number: Outcome(self._items[number].uuid, str(error)) for number in waiting})
        for end in list(self._ends.values()):
            end.abandon(error)

    def _end(self, number: int, outcome: Outcome) -> None:
        del self._ends[number]
        self._outcomes[number] = outcome
        self.start_more()


class _ControllerEnd:
    """A Controller's way of one item to its Device: address by address until there is an outcome."""

    def __init__(self, network: Network, controller: Endpoint, relay: Relay, done: Callable[[Outcome], object]) -> None:
        self._network = network
        self._controller = controller
        self._relay = relay
        self._done = done
        self._link = ControllerLink(relay.request)
        self._address = ""
        self._port = 0
        self._stream: TLSStream | None = None
        self._answer_limit = Alarm(network.reactor, self._late)
        self._attempt: Operation | None = None  # the one under way
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
        """Break the link as a power cut does, and try no other address."""
        if self._relay.decided:
            return  # the observer closes the network because of what this very item came to
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
        """The Device is known: ask."""
        if self._stream is None:
            raise MisuseError("a link without a stream")
        self._secured_at = self._network.reactor.seconds()
        self._sent = True
        self._answer_due = self._secured_at + self._network.limits.answer_seconds
        self._answer_limit.set_at(self._answer_due)
        self._stream.write(self._link.start())

    def received(self, octets: bytes) -> None:
        """Bytes of the answer."""
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
        """The link is gone: before the request was sent, or after it."""
        # With TLS 1.3 the Device's refusal of our certificate comes after our own handshake is done.
        refused = isinstance(error, HandshakeFailed)
        if not self._sent:
            self._fail(self._network.explained(self._controller, self._address, error))
        else:
            self._fail(error if refused else self._link.closed(str(error)))

    def _late(self) -> None:
        now = self._network.reactor.seconds()
        self._answer_due = made_up(self._answer_due, now)
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
        """This address came to its end: hang up, leave a record, go on."""
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
        """Forget the attempt under way; its stream, if it has one, is the caller's to end."""
        self._answer_limit.cancel()
        self._network.hung_up(self._port)
        stream, self._stream, self._port = self._stream, None, 0
        return stream

    def _facts(self, error: PeerError | None) -> tuple[dict[str, Fact], float]:
        """What the record of the attempt that ends now says, and what now is."""
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
    """What the record of one link says on every network."""
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
