"""Web servers of this program, on twisted.web: bodies and connections are bounded, and there is no access log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.protocols.policies import WrappingFactory
from twisted.web.http_headers import Headers
from twisted.web.server import Request, Site

from agent.net.transport.listener import BACKLOG, cannot_listen

MAX_BODY_BYTES = 4 * 1024 * 1024


class BoundedSite(Site):
    """A site whose requests have bodies of at most ``max_body`` bytes; none of them is parsed as a form.

    A longer body is read and discarded, and ``too_long`` of its request is true. With 0 a request that announces a body
    is answered at once with 413 and the connection is closed.
    """

    noisy = False

    def __init__(
        self, root: Any, *, max_body: int = MAX_BODY_BYTES, requests: type[Request] | None = None, **arguments: Any
    ) -> None:
        made = requests or BoundedRequest
        super().__init__(root, requestFactory=made, parsePOSTFormSubmission=False, **arguments)
        self.max_body = max_body
        self.keeps_body: Callable[[Any], bool] = lambda _request: True
        """Decides by a request's header whether its body is kept, or read and discarded."""

    def log(self, _request: Any) -> None:
        """Write no access log: formatting a line would cost time in every request."""


class BoundedRequest(Request):
    """A request of a ``BoundedSite``."""

    too_long = False
    _kept: bool | None = None  # decided at the first part of the body: HTTP/2 tells the length before all headers
    _length = 0
    _refused = False

    def gotLength(self, length: int | None) -> None:
        """Decide what happens to the body; ``length`` is None if it is chunked."""
        channel: Any = self.channel
        site: BoundedSite = channel.site
        if not site.max_body:
            super().gotLength(0)
            if length != 0:
                self._refuse(channel)
            return
        if length is not None and length > site.max_body:
            self.too_long = True
        super().gotLength(0 if self.too_long else length)

    def handleContentChunk(self, chunk: bytes) -> None:
        """Keep or discard a part of the body."""
        channel: Any = self.channel
        self._length += len(chunk)
        if self._length > channel.site.max_body:
            self.too_long = True
        if self._kept is None:
            self._kept = channel.site.keeps_body(self)
        if self._kept and not self.too_long:
            super().handleContentChunk(chunk)

    def process(self) -> None:
        """Render the resource, unless the request was refused by its header."""
        if not self._refused:
            super().process()

    def _refuse(self, channel: Any) -> None:
        self._refused = True
        close = Headers({b"connection": [b"close"], b"content-length": [b"0"]})
        channel.writeHeaders(b"HTTP/1.1", b"413", b"Content Too Large", close)
        channel.loseConnection()


class LimitedConnections(WrappingFactory):
    """A factory that accepts at most ``limit`` connections at a time; ``protocols`` has the open ones."""

    noisy = False

    def __init__(self, site: Any, limit: int) -> None:
        super().__init__(site)
        self._limit = limit

    def buildProtocol(self, address: Any) -> Any:
        """The protocol of a new connection, or None, which closes it."""
        return None if len(self.protocols) >= self._limit else super().buildProtocol(address)

    def abort_all(self) -> None:
        """Reset every open connection."""
        for connection in list(self.protocols):
            connection.transport.abortConnection()


def connection_of(request: Any) -> Any:
    """The connection of a request: in HTTP/2 the channel of a request is one stream of it."""
    channel = request.channel
    return getattr(channel, "_conn", channel)


def listen(reactor: Any, factory: Any, host: str, port: int, *, what: str, tls: Any = None) -> Any:
    """Listen for ``factory``, by TLS where ``tls`` (IOpenSSLServerConnectionCreator) is given; port 0 is any free one.

    Returns the IListeningPort. Raises OperatorError, which names ``what`` should listen.
    """
    try:
        if tls is None:
            return reactor.listenTCP(port, factory, backlog=BACKLOG, interface=host)
        return reactor.listenSSL(port, factory, tls, backlog=BACKLOG, interface=host)
    except CannotListenError as error:
        raise cannot_listen(what, host, port, error.socketError) from error
