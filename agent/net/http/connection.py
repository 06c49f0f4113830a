"""A Mac's HTTP connection to its server: one at a time, kept alive, opened again when needed.

Macs do not share connections, because each has its own TLS identity.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from cryptography import x509
from OpenSSL import SSL

from agent.errors import MisuseError, PeerError
from agent.net.http.http1 import Origin, Response, ResponseMalformed, ResponseReader
from agent.net.http.resumption import ResumedCheck, Resumption
from agent.net.timing import DelayedCall, Reactor, extended_deadline
from agent.net.transport.errors import ConnectFailed, ConnectionBroken, ConnectionClosed
from agent.net.transport.openssl_direct import let_go_of_identity
from agent.net.transport.plain import PlainConnection, Unchecked
from agent.net.transport.resolver import Address, Resolver
from agent.net.transport.stream import DEFAULT_TIMEOUTS, State, Timeouts, TLSStream, start_connect
from agent.net.transport.tls import Check, TLSContexts
from agent.pki.identity import Identity
from agent.pki.verify import PeerCheck, server_judge


class AnswerTimeout(ConnectionBroken):
    """The server accepted the request and did not answer in time."""

    kind = "answer_timeout"
    timed_out = True


class Caller(Protocol):
    """Receives the result of a request: exactly one of the two is called, unless the owner closes the connection."""

    def answered(self, response: Response) -> None:
        """The response arrived."""

    def broke(self, error: PeerError) -> None:
        """The request failed."""


StageObserver = Callable[[str, float], None]
CheckOf = Callable[[str], PeerCheck | Unchecked]


def _named_server(host: str) -> PeerCheck:
    return PeerCheck(server_judge(host))


def _plain(sock: socket.socket, host: str) -> tuple[PlainConnection, Check]:
    return PlainConnection(sock), Unchecked(host)


class HTTPConnection:
    """A connection to one origin. It owns a stream: the last three methods are the stream's callbacks.

    ``stage`` is called with the name and the seconds of each stage that succeeded: ``connect``, ``handshake`` or
    ``handshake_resumed``, ``first_byte`` (from the request's first byte to the response's) and ``request`` (… to the
    response's last). ``resumption`` keeps the TLS session for the next connection with the same ``binding``.
    """

    __slots__ = (
        "_addresses",
        "_anchors",
        "_answer_due",
        "_attempt",
        "_binding",
        "_caller",
        "_check_of",
        "_connecting_at",
        "_contexts",
        "_identity",
        "_origin",
        "_reactor",
        "_reader",
        "_request",
        "_resolver",
        "_resumption",
        "_sending",
        "_sent_at",
        "_stage",
        "_stream",
        "_timeouts",
        "_timer",
        "_tried",
        "_used",
    )

    def __init__(
        self,
        reactor: Reactor,
        resolver: Resolver,
        contexts: TLSContexts,
        origin: Origin,
        anchors: Sequence[x509.Certificate],
        identity: Identity | None,
        *,
        check_of: CheckOf = _named_server,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        stage: StageObserver | None = None,
        resumption: Resumption | None = None,
        binding: bytes = b"",
    ) -> None:
        self._stage = stage
        self._resumption = resumption
        self._binding = binding
        self._reactor = reactor
        self._check_of = check_of
        self._resolver = resolver
        self._contexts = contexts
        self._origin = origin
        self._anchors = anchors
        self._identity = identity
        self._timeouts = timeouts
        self._attempt = 0  # lookups of earlier attempts are ignored
        self._addresses: list[Address] = []  # not tried yet; the first is being tried
        self._tried: list[str] = []
        self._stream: TLSStream | None = None
        self._reader: ResponseReader | None = None
        self._caller: Caller | None = None
        self._request = b""
        self._sending: Callable[[], object] | None = None
        self._timer: DelayedCall | None = None
        self._connecting_at = 0.0  # seconds on the reactor's clock, as is the next
        self._sent_at = 0.0
        self._answer_due: float | None = None  # None while no response is awaited
        self._used = False

    @property
    def identity(self) -> Identity | None:
        """The client's identity on this connection."""
        return self._identity

    @property
    def connected(self) -> bool:
        """Whether there is an open connection."""
        return self._stream is not None

    def request(self, request: bytes, caller: Caller, sending: Callable[[], object] | None = None) -> None:
        """Send a request, over the open connection or a new one. One request at a time.

        ``sending`` is called just before the first byte is sent.
        """
        if self._caller is not None:
            raise MisuseError("request() called while another request awaits its response")
        self._caller = caller
        self._sending = sending
        self._request = request
        self._reader = ResponseReader()
        if self._stream is not None and self._stream.state is State.OPEN:
            self._send()
        else:
            self._used = False
            self._attempt += 1
            found = partial(self._found, self._attempt)
            not_found = partial(self._not_found, self._attempt)
            self._resolver.lookup(self._origin.host, self._origin.port, found, not_found)

    def close(self) -> None:
        """Close with close_notify. A request in progress is dropped without a callback."""
        stream = self._forget()
        if stream is not None:
            stream.close()

    def abort(self) -> None:
        """Reset the TCP connection without close_notify, as on power loss. There is no callback."""
        stream = self._forget()
        if stream is not None:
            stream.abort()

    def break_off(self, error: PeerError, *, in_order: bool) -> None:
        """Close as ``close`` or ``abort`` does; a request in progress fails with ``error``."""
        stream = self._let_go()
        if stream is not None:
            if in_order:
                stream.close()
            else:
                stream.abort()
        self._failed(error)

    def _found(self, attempt: int, addresses: Sequence[Address]) -> None:
        if self._caller is not None and attempt == self._attempt:
            self._addresses = list(addresses)
            self._tried = []
            self._connect()

    def _not_found(self, attempt: int, error: PeerError) -> None:
        if attempt == self._attempt:
            self._failed(error)

    def _connect(self) -> None:
        """Start to connect to the first address where that is possible."""
        while True:
            family, address = self._addresses[0]
            try:
                sock = start_connect(family, address)
            except ConnectFailed as error:
                if not self._next_address(error):
                    return
            else:
                break
        if self._stage is not None:
            self._connecting_at = self._reactor.seconds()
        try:
            tls, check = self._secure(sock) if self._origin.secure else _plain(sock, self._origin.host)
        except PeerError as error:
            sock.close()
            self._failed(error)
            return
        self._stream = TLSStream(self._reactor, sock, tls, check, self, timeouts=self._timeouts)
        self._stream.connect()

    def _secure(self, sock: socket.socket) -> tuple[SSL.Connection, Check]:
        host, resumption = self._origin.host, self._resumption
        check: Check = self._check_of(host)
        tickets = resumption is not None
        tls = self._contexts.client(sock, self._anchors, self._identity, check, host, tickets=tickets)
        if resumption is not None:
            check = resumption.offer(tls, self._binding, check)
        return tls, check

    def _next_address(self, error: ConnectFailed) -> bool:
        """Drop the address that failed; return whether another one is left. Without one the request fails."""
        address = self._addresses.pop(0)[1]
        self._tried.append(Origin(address[0], address[1]).header)
        if not self._addresses:
            self._failed(type(error)(f"{error} (tried {', '.join(self._tried)})"))
        return bool(self._addresses)

    def _send(self) -> None:
        if self._stream is None:
            raise MisuseError("_send() called without a stream")
        self._sent_at = now = self._reactor.seconds()
        self._answer_due = now + self._timeouts.answer
        if self._timer is None:
            self._timer = self._reactor.callLater(self._timeouts.answer, self._late)
        sending, self._sending = self._sending, None
        if sending is not None:
            sending()
        self._stream.write(self._request)

    def _late(self) -> None:
        """The timer fired: for the current request, or for an earlier one that was answered.

        One timer serves all requests: setting one per request would cost more than a tenth of a session.
        """
        self._timer = None
        if self._answer_due is None:
            return
        now = self._reactor.seconds()
        self._answer_due = extended_deadline(self._answer_due, now)
        left = self._answer_due - now
        if left > 0.0:
            self._timer = self._reactor.callLater(left, self._late)
            return
        stream = self._let_go()
        if stream is not None:
            stream.close()
        self._failed(AnswerTimeout(f"the server did not answer within {self._timeouts.answer:g} s"))

    def _forget(self) -> TLSStream | None:
        stream = self._let_go()
        self._finish()
        return stream

    def _let_go(self) -> TLSStream | None:
        """Detach the stream, and stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        stream, self._stream = self._stream, None
        if stream is not None and stream.secured:
            self._contexts.open_connections -= 1
        return stream

    def _keep_session(self, stream: TLSStream | None) -> None:
        """The connection ends: keep its TLS session for the next one."""
        if self._resumption is not None and stream is not None and stream.secured:
            tls = stream.tls
            if isinstance(tls, SSL.Connection):
                self._resumption.keep(tls, self._binding, stream.peer_name)

    def _finish(self) -> Caller | None:
        self._answer_due = None
        caller, self._caller = self._caller, None
        self._reader = None
        return caller

    def _failed(self, error: PeerError) -> None:
        caller = self._finish()
        if caller is not None:
            caller.broke(error)

    def _complete(self, response: Response) -> None:
        if self._stage is not None:
            self._stage("request", self._reactor.seconds() - self._sent_at)
        stream = self._stream
        if stream is not None and (not response.keep_alive or stream.unsent):
            self._keep_session(self._let_go())
            stream.close()  # RFC 9112, 9.5: so does a response before the whole request was sent
        self._used = True
        self._request = b""
        caller = self._finish()
        if caller is not None:
            caller.answered(response)

    def _count_and_time(self) -> None:
        stream, contexts = self._stream, self._contexts
        contexts.open_connections += 1
        if stream is None or not self._origin.secure:
            return
        resumed = isinstance(stream.check, ResumedCheck) and stream.check.resumed
        if resumed:
            contexts.handshakes_resumed += 1
        else:
            contexts.handshakes_full += 1
        if self._stage is not None and stream.connected_at is not None:
            self._stage("connect", stream.connected_at - self._connecting_at)
            now = self._reactor.seconds()
            self._stage("handshake_resumed" if resumed else "handshake", now - stream.connected_at)

    # Stream callbacks.

    def secured(self) -> None:
        """The handshake is done: send the request."""
        self._count_and_time()
        self._resolver.prefer(self._origin.host, self._addresses[0])
        if self._identity is not None and self._stream is not None:
            let_go_of_identity(self._stream.tls, self._identity)
        self._send()

    def received(self, octets: bytes) -> None:
        """Bytes of the response arrived."""
        if self._reader is None:  # bytes without a request
            self.close()
            return
        if self._stage is not None and not self._reader.started:
            self._stage("first_byte", self._reactor.seconds() - self._sent_at)
        try:
            response = self._reader.receive(octets)
        except ResponseMalformed as error:
            stream = self._let_go()
            if stream is not None:
                stream.close()
            self._failed(error)
            return
        if response is not None:
            self._complete(response)

    def lost(self, error: PeerError) -> None:
        """The stream ended. A request on a kept-alive connection is sent again on a new one."""
        self._keep_session(self._let_go())
        reader = self._reader
        if reader is None:
            return
        if reader.started:
            self._ended(reader, error)
        elif self._used:
            self._again()
        elif not isinstance(error, ConnectFailed):
            self._failed(error)
        elif self._next_address(error):
            self._connect()

    def _ended(self, reader: ResponseReader, error: PeerError) -> None:
        """RFC 9112, 9.8: a response that ends with the connection is complete only after close_notify."""
        if not isinstance(error, ConnectionClosed):
            self._failed(ConnectionBroken(f"the connection ended before the end of the response: {error}"))
            return
        try:
            response = reader.closed()
        except ResponseMalformed as malformed:
            self._failed(ConnectionBroken(str(malformed)))
        else:
            self._complete(response)

    def _again(self) -> None:
        """RFC 9112, 9.3.1: a server may close an idle connection while the next request is being sent."""
        caller, request = self._finish(), self._request
        if caller is not None:
            self.request(request, caller)
