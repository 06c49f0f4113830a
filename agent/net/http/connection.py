"""A Mac's HTTP connection to its server: one at a time, kept alive, opened again when needed.

It speaks HTTP/2 where the server chooses that by ALPN, otherwise HTTP/1.1. Macs do not share connections, because each
has its own TLS identity.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from cryptography import x509
from OpenSSL import SSL

from agent.errors import MisuseError, PeerError
from agent.measure.records import HTTP_1_1, HTTP_2
from agent.net.http.http1 import Origin, Response, ResponseMalformed, ResponseReader
from agent.net.http.http2 import HTTP2Client, StreamReset
from agent.net.http.request import Request
from agent.net.http.resumption import ResumedCheck, Resumption
from agent.net.timing import DelayedCall, Reactor, extended_deadline, when_read
from agent.net.transport.errors import ConnectFailed, ConnectionBroken, ConnectionClosed
from agent.net.transport.openssl_direct import let_go_of_identity
from agent.net.transport.plain import PlainConnection, Unchecked
from agent.net.transport.resolver import Address, Resolver
from agent.net.transport.stream import DEFAULT_TIMEOUTS, State, Timeouts, TLSStream, start_connect
from agent.net.transport.tls import Check, TLSContexts
from agent.pki.identity import Identity
from agent.pki.verify import PeerCheck, server_judge


def alpn_of(http: str) -> tuple[bytes, ...]:
    """What a setting ``http`` has offered: ``auto``, or ``1.1`` for HTTP/1.1 without ALPN."""
    return () if http == "1.1" else BOTH


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


BOTH = (b"h2", b"http/1.1")  # offered by ALPN (RFC 7301)
_ALPN_HTTP_2 = b"h2"

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
    ``alpn`` are the protocols that are offered; without any the server is not asked for HTTP/2. ``groups`` are the key
    exchange groups, as of ``TLSContexts.client``. ``connected`` is called with the version of HTTP (of HTTP_VERSIONS)
    of each connection that was opened. ``when_closed``, if it is set, is called once, when the open connection ends.
    """

    __slots__ = (
        "_addresses",
        "_alpn",
        "_anchors",
        "_answer_due",
        "_attempt",
        "_binding",
        "_caller",
        "_check_of",
        "_connected",
        "_connecting_at",
        "_contexts",
        "_groups",
        "_http2",
        "_identity",
        "_origin",
        "_reactor",
        "_reader",
        "_request",
        "_resolver",
        "_resumption",
        "_retried",
        "_sending",
        "_sent_at",
        "_stage",
        "_stream",
        "_timeouts",
        "_timer",
        "_tried",
        "_used",
        "http_version",
        "when_closed",
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
        alpn: tuple[bytes, ...] = (),
        groups: bytes = b"",
        connected: Callable[[str], object] | None = None,
    ) -> None:
        self._stage = stage
        self._resumption = resumption
        self._binding = binding
        self._alpn = alpn
        self._groups = groups
        self._connected = connected
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
        self._http2: HTTP2Client | None = None  # of the open connection, where it speaks HTTP/2
        self._request: Request | None = None
        self._sending: Callable[[], object] | None = None
        self._timer: DelayedCall | None = None
        self._connecting_at = 0.0  # seconds on the reactor's clock, as is the next
        self._sent_at = 0.0
        self._answer_due: float | None = None  # None while no response is awaited
        self._used = self._retried = False
        self.http_version = ""  # of the last connection: HTTP_1_1 or HTTP_2; empty before the first one
        self.when_closed: Callable[[], object] | None = None

    @property
    def identity(self) -> Identity | None:
        """The client's identity on this connection. Without a request the open connection does not need it."""
        return self._identity

    @identity.setter
    def identity(self, identity: Identity | None) -> None:
        self._identity = identity

    @property
    def connected(self) -> bool:
        """Whether there is an open connection."""
        return self._stream is not None

    def request(self, request: Request, caller: Caller, sending: Callable[[], object] | None = None) -> None:
        """Send a request, over the open connection or a new one. One request at a time.

        ``sending`` is called just before the first byte is sent.
        """
        if self._caller is not None:
            raise MisuseError("request() called while another request awaits its response")
        self._caller = caller
        self._sending = sending
        self._request = request
        if self._reusable:
            self._send()
        else:
            self._close_stream()
            self._used = False
            self._attempt += 1
            found = partial(self._found, self._attempt)
            not_found = partial(self._not_found, self._attempt)
            self._resolver.lookup(self._origin.host, self._origin.port, found, not_found)

    @property
    def _reusable(self) -> bool:
        """Whether the open connection takes another request."""
        if self._stream is None or self._stream.state is not State.OPEN:
            return False
        return self._http2 is None or self._http2.usable

    def close(self) -> None:
        """Close with close_notify. A request in progress is dropped without a callback."""
        self._finish()
        self._close_stream()

    def abort(self) -> None:
        """Reset the TCP connection without close_notify, as on power loss. There is no callback."""
        self._finish()
        stream = self._let_go()
        if stream is not None:
            stream.abort()

    def break_off(self, error: PeerError, *, in_order: bool) -> None:
        """Close as ``close`` or ``abort`` does; a request in progress fails with ``error``."""
        if in_order:
            self._close_stream()
        else:
            stream = self._let_go()
            if stream is not None:
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
        tls = self._contexts.client(
            sock, self._anchors, self._identity, check, host, tickets=tickets, alpn=self._alpn, groups=self._groups
        )
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
        self._write(self._encoded())

    def _encoded(self) -> bytes:
        """The bytes of the request; of its first frames in HTTP/2, as far as the server allows."""
        request, http2 = self._request, self._http2
        if request is None:
            raise MisuseError("_encoded() called without a request")
        if http2 is None:
            self._reader = ResponseReader()
            return request.http1()
        http2.request(request)
        return http2.take()

    def _write(self, octets: bytes) -> None:
        if self._stream is not None and octets:
            self._stream.write(octets)

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
        else:
            when_read(self._reactor, partial(self._expired, self._answer_due))

    def _expired(self, due: float) -> None:
        """The time limit of the request that was due at ``due`` is over; an answer that came meanwhile was read."""
        if self._answer_due == due:
            self._close_stream()
            self._failed(AnswerTimeout(f"the server did not answer within {self._timeouts.answer:g} s"))

    def _close_stream(self) -> None:
        """Close the connection with close_notify, in HTTP/2 after GOAWAY (RFC 9113, 5.4.1 and 6.8)."""
        http2 = self._http2
        stream = self._let_go()
        if stream is None:
            return
        if http2 is not None and stream.state is State.OPEN:
            http2.leave()
            stream.close(http2.take())
        else:
            stream.close()

    def _let_go(self) -> TLSStream | None:
        """Detach the stream, stop the timer, and keep the TLS session for the next connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._http2 = None
        stream, self._stream = self._stream, None
        if stream is not None and stream.secured:
            self._contexts.open_connections -= 1
            self._keep_session(stream)
        when_closed, self.when_closed = self.when_closed, None
        if when_closed is not None:
            when_closed()
        return stream

    def _keep_session(self, stream: TLSStream) -> None:
        """Keep the TLS session of a connection that ends."""
        if self._resumption is not None and isinstance(stream.tls, SSL.Connection):
            self._resumption.keep(stream.tls, self._binding, stream.peer_name, stream.check)

    def _finish(self) -> Caller | None:
        self._answer_due = None
        caller, self._caller = self._caller, None
        self._request = self._reader = None
        self._retried = False
        return caller

    def _failed(self, error: PeerError) -> None:
        caller = self._finish()
        if caller is not None:
            caller.broke(error)

    def _complete(self, response: Response) -> None:
        if self._stage is not None:
            self._stage("request", self._reactor.seconds() - self._sent_at)
        stream = self._stream
        if stream is not None and (not response.keep_alive or (self._http2 is None and stream.unsent)):
            self._close_stream()  # RFC 9112, 9.5: so does a response before the whole request was sent
        elif stream is not None and not self._used and self._identity is not None:
            let_go_of_identity(stream.tls, self._identity)  # of a connection that is kept
        self._used = True
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
        if self._stream is not None:
            self._agree_on_version(self._stream.tls)
        self._send()

    def _agree_on_version(self, tls: SSL.Connection | PlainConnection) -> None:
        by_alpn = self._alpn and isinstance(tls, SSL.Connection) and tls.get_alpn_proto_negotiated() == _ALPN_HTTP_2
        self._http2 = HTTP2Client() if by_alpn else None
        self.http_version = HTTP_2 if by_alpn else HTTP_1_1
        if self._connected is not None:
            self._connected(self.http_version)

    def received(self, octets: bytes) -> None:
        """Bytes of the response arrived."""
        http2 = self._http2
        if http2 is not None:
            self._received_http2(http2, octets)
            return
        if self._reader is None:  # bytes without a request
            self.close()
            return
        if self._stage is not None and not self._reader.started:
            self._stage("first_byte", self._reactor.seconds() - self._sent_at)
        try:
            response = self._reader.receive(octets)
        except ResponseMalformed as error:
            self._close_stream()
            self._failed(error)
            return
        if response is not None:
            self._complete(response)

    def _received_http2(self, http2: HTTP2Client, octets: bytes) -> None:
        """Bytes arrived: of the response, or frames that need no request."""
        timed = self._stage is not None and not http2.started
        try:
            response = http2.receive(octets)
        except StreamReset as error:
            self._reset_by_server(http2, error)
        except ResponseMalformed as error:
            self._close_stream()
            if self._request is not None:
                self._failed(error)
        else:
            if timed and http2.started and self._stage is not None:
                self._stage("first_byte", self._reactor.seconds() - self._sent_at)
            if response is not None:
                if self._request is not None and self._request.head.closes:
                    response = response._replace(keep_alive=False)
                self._complete(response)  # the next request takes what http2 has to send along
        if self._http2 is not http2:
            return
        rest = http2.take()
        if rest:
            self._write(rest)
        if http2.going_away and not http2.waiting and self._http2 is http2:  # GOAWAY between two requests
            self._close_stream()

    def _reset_by_server(self, http2: HTTP2Client, error: StreamReset) -> None:
        """RFC 9113, 8.7: what the server did not process is sent again, once, on a new connection."""
        if http2.unprocessed and not self._retried:
            self._close_stream()
            self._again()
        else:
            self._failed(error)

    def lost(self, error: PeerError) -> None:
        """The stream ended. A request on a kept-alive connection is sent again on a new one."""
        if self._stream is None:  # closed by us
            return
        http2, reader = self._http2, self._reader
        self._let_go()
        if self._request is None:
            return
        if http2 is not None and http2.started:
            self._failed(_cut_off(error))
        elif reader is not None and reader.started:
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
            self._failed(_cut_off(error))
            return
        try:
            response = reader.closed()
        except ResponseMalformed as malformed:
            self._failed(ConnectionBroken(str(malformed)))
        else:
            self._complete(response)

    def _again(self) -> None:
        """RFC 9112, 9.3.1: a server may close an idle connection while the next request is being sent."""
        request, caller = self._request, self._finish()
        if caller is not None and request is not None:
            self._retried = True
            self.request(request, caller)


def _cut_off(error: PeerError) -> ConnectionBroken:
    return ConnectionBroken(f"the connection ended before the end of the response: {error}")
