"""Sends one request to a LOM Device at a given address, and reports every step: the ``lom-request`` command."""

from __future__ import annotations

import socket
from collections.abc import Callable

import msgspec
from OpenSSL import crypto
from twisted.internet.defer import Deferred

from agent.errors import PeerError
from agent.lom.endpoint import LinkSide
from agent.lom.link import ControllerLink, LinkError, LinkRequest
from agent.lom.relay import DeviceRefused
from agent.net.lom.controller import AnswerTimeout
from agent.net.timing import Alarm, Reactor
from agent.net.transport.addresses import IPv6SocketAddress, socket_address_text
from agent.net.transport.errors import HandshakeFailed
from agent.net.transport.stream import Timeouts, TLSStream, start_connect
from agent.net.transport.tls import TLSContexts
from agent.pki.identity import IdentityError
from agent.pki.verify import PeerCheck, device_judge


class Step(msgspec.Struct, frozen=True):
    """An event on the link; ``octets`` are the bytes sent or received."""

    text: str
    octets: bytes = b""


class RequestResult(msgspec.Struct):
    """The result of a request."""

    failure: PeerError | None = None
    """None if the Device carried the request out."""
    sent: bool = False
    """Whether the request was sent, so that the Device may have carried it out."""
    tls: str = ""
    """The TLS version."""
    cipher: str = ""
    """The cipher suite."""
    peer: str = ""
    """The CommonName of the Device's certificate."""
    seconds: float = 0.0
    """From the start of the TCP connection to the end."""


class Asking:
    """One request in progress; ``done`` fires once with its result, and never fails.

    ``seconds`` is the time limit for each of the TCP connection, the TLS handshake and the answer.
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
        self.done: Deferred[RequestResult] = Deferred()
        self._reactor = reactor
        self._address = address
        self._request = request
        self._side = side
        self._seconds = seconds
        self._tell = tell
        self._link = ControllerLink(request)
        self._asked = RequestResult()
        self._stream: TLSStream | None = None
        self._answer_limit = Alarm(reactor, self._late)
        self._started = 0.0

    def start(self) -> None:
        """Connect. Raises IdentityError if the Controller's identity cannot be used for TLS."""
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
        """Close the link now."""
        self._end(error)

    def secured(self) -> None:
        """The Device is verified: send the request."""
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
        """Bytes of the answer arrived."""
        self._tell(Step(f"received {len(octets)} bytes", octets))
        try:
            answer = self._link.receive(octets)
        except LinkError as error:
            self._end(error)
            return
        acknowledgements = self._link.take_acknowledgements()
        if acknowledgements and self._stream is not None:
            self._tell(Step(f"sent {len(acknowledgements)} bytes: the acknowledgement", acknowledgements))
            self._stream.write(acknowledgements)
        if answer is not None:
            self._end(DeviceRefused(answer.error) if answer.error else None)

    def lost(self, error: PeerError) -> None:
        """The link ended, before or after the request was sent."""
        # With TLS 1.3 the Device's refusal of our certificate arrives after the end of our handshake.
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
