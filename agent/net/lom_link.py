"""The LOM link over real TCP and mutual TLS on ``[::1]``, for any user and any platform.

One endpoint listens for all Devices of the process. Which Device a Controller reaches is decided by the address that it
dials, as on a real network: the Controller's end notes for which Device its own TCP port is, before it connects. A peer
from outside the process is led by the server name of its TLS hello instead. Either way it is the certificate that
decides who is who, on both ends.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure as TwistedFailure
from zope.interface import implementer

from agent.errors import MisuseError, OperatorError, PeerError
from agent.lom.link import ControllerLink, FrameReader, LinkError, parse_request
from agent.lom.network import AddressBook, Endpoint
from agent.lom.relay import Relay, Unreachable
from agent.lom.requests import Outcome, RelayItem
from agent.net.reactor import DelayedCall, Reactor
from agent.net.records import Exchange, Failure, Observer
from agent.net.stream import TLSStream, start_connect
from agent.net.tls import TLSContexts, fingerprint, make_context, use_identity
from agent.pki.verify import PeerCheck, controller_judge, device_judge

HOST = "::1"
ANSWER_SECONDS = 10.0  # how long a Device may take to answer
IDLE_SECONDS = 20.0  # how long a Device keeps a link on which nothing comes
REQUESTS_A_LINK = 64  # that a Device answers before it closes
RELAYS_AT_ONCE = 32  # links that one Controller has open for one command
_BACKLOG = 1024
_ACCEPTS_A_TURN = 64  # so that a flood of connections does not keep the reactor from everything else


class AnswerTimeout(LinkError):
    """The Device took the request and did not answer in time."""

    kind = "lom_answer_timeout"


class LoopbackNetwork:
    """The LOM network of one process. ``port`` is where its Devices listen, once ``listen`` was called."""

    def __init__(
        self,
        reactor: Reactor,
        book: AddressBook,
        contexts: TLSContexts,
        observer: Observer,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.reactor = reactor
        self.book = book
        self.contexts = contexts
        self.observer = observer
        self.wall_clock = wall_clock
        self.port = 0
        self._listener: _Listener | None = None
        self._dialled: dict[int, Endpoint] = {}
        self._names: dict[str, Endpoint] = {}
        self._servers: dict[tuple[bytes, ...], SSL.Context] = {}
        self._greeter: SSL.Context | None = None
        self._links: set[_DeviceEnd] = set()

    def add(self, endpoint: Endpoint, dns_name: str) -> None:
        """Put a Mac on the network."""
        self.book.add(endpoint)
        self._names[dns_name.lower()] = endpoint

    def listen(self, port: int = 0) -> None:
        """Open the Devices' endpoint; port 0 takes any free one. Raises OperatorError."""
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((HOST, port))
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            raise OperatorError(
                f"the LOM network cannot listen on [{HOST}]:{port}: {error.strerror}; "
                "it needs IPv6 on the loopback interface"
            ) from error
        sock.setblocking(False)
        self.port = sock.getsockname()[1]
        self._listener = _Listener(sock, self._accepted)
        self.reactor.addReader(self._listener)

    def close(self) -> None:
        """Close the endpoint and every link."""
        if self._listener is not None:
            self.reactor.removeReader(self._listener)
            self._listener.close()
            self._listener = None
        for link in list(self._links):
            link.close()

    def relay(self, controller: Endpoint, items: Sequence[RelayItem]) -> Deferred[list[Outcome]]:
        """Carry items from a Controller to their Devices, several at once; the outcomes in the items' order."""
        relays = _Relays(self, controller, items)
        relays.start_more()
        return relays.done

    def dial(self, endpoint: Endpoint) -> socket.socket:
        """A socket whose connect to ``endpoint`` is under way. Raises ConnectFailed."""
        sock = start_connect(socket.AF_INET6, (HOST, self.port, 0, 0), source=(HOST, 0, 0, 0))
        self._dialled[sock.getsockname()[1]] = endpoint
        return sock

    def hung_up(self, endpoint: Endpoint, port: int) -> None:
        """A dialled connection is over; if it was never accepted, its note goes with it."""
        if self._dialled.get(port) is endpoint:
            del self._dialled[port]

    def forget(self, link: _DeviceEnd) -> None:
        """A Device's end is closed."""
        self._links.discard(link)

    def _accepted(self, sock: socket.socket, port: int) -> None:
        endpoint = self._dialled.pop(port, None)
        check = PeerCheck(controller_judge)
        link = _DeviceEnd(self, endpoint)
        if endpoint is None:
            tls = SSL.Connection(self._greeting_context(), sock)
            tls.set_app_data(link)
        elif endpoint.lom is None or endpoint.lom.device_identity is None:
            sock.close()  # the payload went away between the dialling and the accepting
            return
        else:
            tls = SSL.Connection(self._context_of(endpoint), sock)
            use_identity(tls, endpoint.lom.device_identity)
        tls.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, check)
        tls.set_accept_state()
        self._links.add(link)
        link.begin(TLSStream(self.reactor, sock, tls, check, link))

    def _context_of(self, endpoint: Endpoint) -> SSL.Context:
        if endpoint.lom is None or endpoint.lom.device_identity is None:
            raise MisuseError("a Mac that is no LOM Device has no context")
        anchors, chain = endpoint.lom.controller_anchors, endpoint.lom.device_identity.chain
        key = (*sorted(fingerprint(anchor) for anchor in anchors), b"|", *(fingerprint(link) for link in chain))
        context = self._servers.get(key)
        if context is None:
            context = self._servers[key] = make_context(anchors, chain)
        return context

    def _greeting_context(self) -> SSL.Context:
        """For peers that no one here dialled: trusts nobody, until the server name says which Device is meant."""
        if self._greeter is None:
            self._greeter = make_context(())
            self._greeter.set_tlsext_servername_callback(self._greet)
        return self._greeter

    def _greet(self, tls: SSL.Connection) -> None:
        name = tls.get_servername()
        endpoint = self._names.get(name.decode("latin-1").lower()) if name else None
        link = tls.get_app_data()
        if endpoint is None or endpoint.lom is None or endpoint.lom.device_identity is None:
            return  # no certificate is set, so the handshake fails
        tls.set_context(self._context_of(endpoint))
        use_identity(tls, endpoint.lom.device_identity)
        link.endpoint = endpoint


@implementer(IReadDescriptor)
class _Listener:
    """The listening socket, as a descriptor of the reactor."""

    def __init__(self, sock: socket.socket, accepted: Callable[[socket.socket, int], None]) -> None:
        self._socket = sock
        self._accepted = accepted

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """Twisted's log prefix."""
        return "lom"

    def connectionLost(self, _reason: TwistedFailure) -> None:
        """The reactor gave up on the socket, at its end."""
        self.close()

    def doRead(self) -> None:
        """Peers wait to be accepted."""
        for _ in range(_ACCEPTS_A_TURN):
            try:
                sock, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED):
                    return  # the peer's connect times out or is tried again; nothing of ours is lost
                raise
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._accepted(sock, address[1])

    def close(self) -> None:
        """Listen no longer."""
        self._socket.close()


class _DeviceEnd:
    """A Device's end of one link, the owner of its stream. ``endpoint`` is known at the latest after the handshake."""

    def __init__(self, network: LoopbackNetwork, endpoint: Endpoint | None) -> None:
        self.endpoint = endpoint
        self._network = network
        self._reader = FrameReader()
        self._answered = 0
        self._stream: TLSStream | None = None
        self._timer: DelayedCall | None = None

    def begin(self, stream: TLSStream) -> None:
        """Shake hands."""
        self._stream = stream
        stream.accept()

    def secured(self) -> None:
        """The Controller is known."""
        self._wait()

    def received(self, octets: bytes) -> None:
        """Bytes of requests: each is answered; a peer that breaks the rules is dropped."""
        if self._stream is None or self.endpoint is None:
            raise MisuseError("bytes on a link without a Device")
        try:
            for message in self._reader.receive(octets):
                answer = self.endpoint.receive_lom_request(parse_request(message), self._stream.peer_name)
                self._stream.write(answer.encode())
                self._answered += 1
                if self._answered >= REQUESTS_A_LINK:
                    self.close()
                    return
        except LinkError:
            self.close()  # fail closed; the Controller's end says what became of its request
            return
        self._wait()

    def lost(self, _error: PeerError) -> None:
        """The Controller hung up, or was refused in the handshake."""
        self._end()

    def close(self) -> None:
        """Hang up."""
        stream = self._stream
        self._end()
        if stream is not None:
            stream.close()

    def _wait(self) -> None:
        self._disarm()
        self._timer = self._network.reactor.callLater(IDLE_SECONDS, self.close)

    def _end(self) -> None:
        self._disarm()
        self._stream = None
        self._network.forget(self)

    def _disarm(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


class _Relays:
    """The items of one command, RELAYS_AT_ONCE of them at a time. ``done`` fires with all outcomes, in order."""

    def __init__(self, network: LoopbackNetwork, controller: Endpoint, items: Sequence[RelayItem]) -> None:
        self.done: Deferred[list[Outcome]] = Deferred()
        self._network = network
        self._controller = controller
        self._items = items
        self._outcomes: dict[int, Outcome] = {}
        self._begun = 0
        self._starting = False

    def start_more(self) -> None:
        """Begin as many items as may run. A loop: an item that fails at once must not call back into itself."""
        if self._starting:
            return
        self._starting = True
        while self._begun < len(self._items) and self._begun - len(self._outcomes) < RELAYS_AT_ONCE:
            number = self._begun
            self._begun += 1
            _ControllerEnd(
                self._network, self._controller, Relay(self._items[number]), partial(self._end, number)
            ).next()
        self._starting = False
        if len(self._outcomes) == len(self._items):
            self.done.callback([self._outcomes[number] for number in range(len(self._items))])

    def _end(self, number: int, outcome: Outcome) -> None:
        self._outcomes[number] = outcome
        self.start_more()


class _ControllerEnd:
    """A Controller's way of one item to its Device: address by address until there is an outcome."""

    def __init__(
        self, network: LoopbackNetwork, controller: Endpoint, relay: Relay, done: Callable[[Outcome], object]
    ) -> None:
        self._network = network
        self._controller = controller
        self._relay = relay
        self._done = done
        self._link = ControllerLink(relay.request)
        self._address = ""
        self._device: Endpoint | None = None
        self._port = 0
        self._stream: TLSStream | None = None
        self._timer: DelayedCall | None = None
        self._started = 0.0
        self._clock_started = 0.0
        self._sent = False

    def next(self) -> None:
        """Try the next address, or report the outcome."""
        while (address := self._relay.next_address()) is not None:
            self._address = address
            self._started = self._network.wall_clock()
            self._clock_started = self._network.reactor.seconds()
            try:
                self._connect(address)
            except (Unreachable, PeerError) as error:
                self._record(error)
                self._relay.not_sent(address, error)
            else:
                return
        self._done(self._relay.outcome)

    def _connect(self, address: str) -> None:
        lom = self._controller.lom
        if lom is None or lom.controller_identity is None:
            raise Unreachable("the Controller's LOM payload was removed")
        device = self._network.book.find(self._controller.segment, address)
        name = self._relay.item.dns_name
        check = PeerCheck(device_judge(name))
        sock = self._network.dial(device)
        self._device, self._port = device, sock.getsockname()[1]
        tls = self._network.contexts.client(sock, lom.device_anchors, lom.controller_identity, check, name)
        self._stream = TLSStream(self._network.reactor, sock, tls, check, self)
        self._stream.connect()

    def secured(self) -> None:
        """The Device is known: ask."""
        if self._stream is None:
            raise MisuseError("a link without a stream")
        self._sent = True
        self._timer = self._network.reactor.callLater(ANSWER_SECONDS, self._late)
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
        self._record(self._relay.failure)
        self._hang_up()
        self.next()

    def lost(self, error: PeerError) -> None:
        """The link is gone: before the request was sent, or after it."""
        # With TLS 1.3 the Device's refusal of our certificate comes after our own handshake is done.
        self._fail(error if error.kind == "tls" else self._link.closed() if self._sent else error)

    def _late(self) -> None:
        self._fail(AnswerTimeout(f"the Device did not answer within {ANSWER_SECONDS:g} s"))

    def _fail(self, error: PeerError) -> None:
        self._record(error)
        if self._sent:
            self._relay.sent_and_failed(self._address, error)
        else:
            self._relay.not_sent(self._address, error)
        self._hang_up()
        self.next()

    def _hang_up(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        if self._device is not None:
            self._network.hung_up(self._device, self._port)

    def _record(self, error: PeerError | None) -> None:
        item = self._relay.item
        facts: dict[str, str | int | float | bool] = {
            "address": self._address,
            "device_dns_name": item.dns_name,
            "request": item.request.value,
            "request_uuid": item.uuid,
        }
        if self._stream is not None and self._sent:
            facts["tls"] = self._stream.version
            facts["cipher"] = self._stream.cipher
            facts["peer"] = self._stream.peer_name
        self._network.observer(
            Exchange(
                operation="lom_link",
                device=self._controller.index,
                started=self._started,
                seconds=self._network.reactor.seconds() - self._clock_started,
                failure=None if error is None else Failure.of(error),
                facts=facts,
            )
        )
