"""A Mac's own connection to its server: one at a time, kept alive, opened again when it is needed.

No connection is shared between Macs, for each has an identity of its own.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Protocol

from cryptography import x509

from agent.errors import MisuseError, PeerError
from agent.net.http1 import Origin, Response, ResponseMalformed, ResponseReader
from agent.net.reactor import DelayedCall, Reactor
from agent.net.resolver import Resolver
from agent.net.stream import ConnectionBroken, SocketAddress, State, TLSStream, start_connect
from agent.net.tls import TLSContexts
from agent.pki.identity import Identity
from agent.pki.verify import PeerCheck, server_judge

ANSWER_SECONDS = 60.0  # how long a server may think; mdmclient's own limit is undocumented


class AnswerTimeout(ConnectionBroken):
    """The server took the request and did not answer in time."""

    kind = "answer_timeout"


class Caller(Protocol):
    """Who asks. For every request exactly one of the two is called, unless the connection is closed by its owner."""

    def answered(self, response: Response) -> None:
        """The response came."""

    def broke(self, error: PeerError) -> None:
        """It will not come."""


class HTTPConnection:
    """A connection to one origin. It is a stream's owner: the stream's callbacks are the last three methods."""

    __slots__ = (
        "_anchors",
        "_caller",
        "_contexts",
        "_identity",
        "_origin",
        "_reactor",
        "_reader",
        "_request",
        "_resolver",
        "_stream",
        "_timer",
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
    ) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._contexts = contexts
        self._origin = origin
        self._anchors = anchors
        self._identity = identity
        self._stream: TLSStream | None = None
        self._reader: ResponseReader | None = None
        self._caller: Caller | None = None
        self._request = b""
        self._timer: DelayedCall | None = None
        self._used = False

    @property
    def connected(self) -> bool:
        """Whether there is an open connection."""
        return self._stream is not None

    def request(self, request: bytes, caller: Caller) -> None:
        """Send a request, over the open connection or a new one. One request at a time."""
        if self._caller is not None:
            raise MisuseError("a request while another one waits for its answer")
        self._caller = caller
        self._request = request
        self._reader = ResponseReader()
        if self._stream is not None and self._stream.state is State.OPEN:
            self._send()
        else:
            self._used = False
            self._resolver.lookup(self._origin.host, self._origin.port, self._connect, self._failed)

    def close(self) -> None:
        """Close in good order; a request under way is forgotten and nobody is called."""
        stream = self._forget()
        if stream is not None:
            stream.close()

    def abort(self) -> None:
        """Vanish, as when the power goes: no close_notify, a TCP reset. Nobody is called."""
        stream = self._forget()
        if stream is not None:
            stream.abort()

    def _connect(self, family: socket.AddressFamily, address: SocketAddress) -> None:
        if self._caller is None:
            return  # closed while the name was looked up
        try:
            sock = start_connect(family, address)
        except PeerError as error:
            self._failed(error)
            return
        host = self._origin.host
        check = PeerCheck(server_judge(host))
        tls = self._contexts.client(sock, self._anchors, self._identity, check, host)
        self._stream = TLSStream(self._reactor, sock, tls, check, self)
        self._stream.connect()

    def _send(self) -> None:
        if self._stream is None:
            raise MisuseError("nothing to send over")
        self._timer = self._reactor.callLater(ANSWER_SECONDS, self._late)
        self._stream.write(self._request)

    def _late(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        self._failed(AnswerTimeout(f"the server did not answer within {ANSWER_SECONDS:g} s"))

    def _forget(self) -> TLSStream | None:
        stream, self._stream = self._stream, None
        self._finish()
        return stream

    def _finish(self) -> Caller | None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        caller, self._caller = self._caller, None
        self._reader = None
        return caller

    def _failed(self, error: PeerError) -> None:
        caller = self._finish()
        if caller is not None:
            caller.broke(error)

    def _complete(self, response: Response) -> None:
        if not response.keep_alive and self._stream is not None:
            self._stream.close()
            self._stream = None
        self._used = True
        caller = self._finish()
        if caller is not None:
            caller.answered(response)

    # What the stream calls.

    def secured(self) -> None:
        """The stream is open: the request that waits for it goes out."""
        self._send()

    def received(self, octets: bytes) -> None:
        """Bytes of the answer."""
        if self._reader is None:  # bytes that no request asked for
            self.close()
            return
        try:
            response = self._reader.receive(octets)
        except ResponseMalformed as error:
            stream, self._stream = self._stream, None
            if stream is not None:
                stream.close()
            self._failed(error)
            return
        if response is not None:
            self._complete(response)

    def lost(self, error: PeerError) -> None:
        """The stream is gone. A kept-alive connection that the server closed is opened again for the request."""
        self._stream = None
        reader = self._reader
        if reader is None:
            return
        if reader.started:
            try:
                response = reader.closed()
            except ResponseMalformed as malformed:
                self._failed(ConnectionBroken(f"{malformed} ({error})"))
            else:
                self._complete(response)
            return
        if self._used:
            self._again()
        else:
            self._failed(error)

    def _again(self) -> None:
        """RFC 9112, 9.3.1: a server may close an idle connection just when the next request is on its way."""
        caller, request = self._finish(), self._request
        if caller is not None:
            self.request(request, caller)
