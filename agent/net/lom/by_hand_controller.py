"""One request to a LOM Device at a known address: a Controller by hand, which tells every step."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

from OpenSSL import crypto
from twisted.internet.defer import Deferred

from agent.errors import PeerError
from agent.lom.endpoint import LinkSide
from agent.lom.link import ControllerLink, LinkError, LinkRequest
from agent.lom.relay import DeviceRefused
from agent.net.lom.controller import AnswerTimeout
from agent.net.timing import Alarm, Reactor
from agent.net.transport.addresses import IPv6SocketAddress, socket_address_text
from agent.net.transport.stream import HandshakeFailed, Timeouts, TLSStream, start_connect
from agent.net.transport.tls import TLSContexts
from agent.pki.identity import IdentityError
from agent.pki.verify import PeerCheck, device_judge


@dataclass(frozen=True, slots=True)
class Step:
    """Something happened on the link; ``octets`` are what was sent or came."""

    text: str
    octets: bytes = b""


@dataclass(slots=True)
class Asked:
    """What came of a request. ``failure`` is None where the Device did it; ``sent`` whether it may have done it."""

    failure: PeerError | None = None
    sent: bool = False
    tls: str = ""
    cipher: str = ""
    peer: str = ""
    seconds: float = 0.0


class Asking:
    """One request under way; ``done`` fires once with what came of it, and never fails.

    ``seconds`` is how long to wait for each of the TCP connection, the TLS handshake and the answer.
    """

    def __init__(
        self,
        reactor: Reactor,
        address: IPv6SocketAddress,
        request: LinkRequest,
        side: LinkSide,
        *,
        seconds: float,
        tell: Callable[[Step], object],
    ) -> None:
        self.done: Deferred[Asked] = Deferred()
        self._reactor = reactor
        self._address = address
        self._request = request
        self._side = side
        self._seconds = seconds
        self._tell = tell
        self._link = ControllerLink(request)
        self._asked = Asked()
        self._stream: TLSStream | None = None
        self._answer_limit = Alarm(reactor, self._late)
        self._started = 0.0

    def start(self) -> None:
        """Connect. Raises IdentityError where TLS cannot use the Controller's identity."""
        self._started = self._reactor.seconds()
        self._tell(Step(f"connecting to {socket_address_text(self._address)}"))
        check = PeerCheck(device_judge(self._request.dns_name))
        try:
            sock = start_connect(socket.AF_INET6, self._address)
        except PeerError as error:
            self._end(error)
            return
        try:
            tls = TLSContexts().client(sock, self._side.anchors, self._side.identity, check, self._request.dns_name)
        except (PeerError, crypto.Error) as error:
            sock.close()
            raise IdentityError(str(error)) from error
        timeouts = Timeouts(connect=self._seconds, handshake=self._seconds)
        self._stream = TLSStream(self._reactor, sock, tls, check, self, timeouts=timeouts)
        self._stream.connect()

    def give_up(self, error: PeerError) -> None:
        """Hang up without waiting any longer."""
        self._end(error)

    def secured(self) -> None:
        """The Device is known: ask."""
        stream = self._stream
        if stream is None:
            return
        asked = self._asked
        asked.tls, asked.cipher, asked.peer, asked.sent = stream.version, stream.cipher, stream.peer_name, True
        self._tell(Step(f"TLS: {asked.tls}, {asked.cipher}"))
        self._tell(Step(f"Device's CommonName: {asked.peer}"))
        self._answer_limit.set(self._seconds)
        frame = self._link.start()
        self._tell(Step(f"sent {len(frame)} bytes", frame))
        stream.write(frame)

    def received(self, octets: bytes) -> None:
        """Bytes of the answer."""
        self._tell(Step(f"received {len(octets)} bytes", octets))
        try:
            answer = self._link.receive(octets)
        except LinkError as error:
            self._end(error)
            return
        if answer is not None:
            self._end(DeviceRefused(answer.error) if answer.error else None)

    def lost(self, error: PeerError) -> None:
        """The link is gone: before the request was sent, or after it."""
        # With TLS 1.3 the Device's refusal of our certificate comes after our own handshake is done.
        refused = isinstance(error, HandshakeFailed)
        self._end(self._link.closed(str(error)) if self._asked.sent and not refused else error)

    def _late(self) -> None:
        self._end(AnswerTimeout(f"the Device did not answer within {self._seconds:g} s"))

    def _end(self, failure: PeerError | None) -> None:
        if self.done.called:
            return
        self._answer_limit.cancel()
        if self._stream is not None:
            self._stream.close()
        self._asked.failure = failure
        self._asked.seconds = self._reactor.seconds() - self._started
        self.done.callback(self._asked)
