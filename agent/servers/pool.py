"""A pool with a bounded number of keep-alive connections to one server; requests are queued in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from cryptography import x509
from twisted.internet.defer import Deferred, fail

from agent.errors import MisuseError, OperatorError, PeerError
from agent.net.http.connection import HTTPConnection
from agent.net.http.http1 import Origin, Response
from agent.net.http.request import Request, request_to
from agent.net.timing import Reactor
from agent.net.transport.plain import Unchecked
from agent.net.transport.resolver import Resolver
from agent.net.transport.stream import DEFAULT_TIMEOUTS, Timeouts
from agent.net.transport.tls import TLSContexts
from agent.pki.certificates import CertificateError, read_pem
from agent.pki.verify import PeerCheck, server_judge
from agent.servers.configs import Trust
from agent.servers.server import RequestFailed

MAX_WAITING = 100_000  # requests that wait for a connection; our limit
MOST_CONNECTIONS = 1000  # our limit

Connect = Callable[[Origin], HTTPConnection]


def connector(reactor: Reactor, resolver: Resolver, trust: Trust, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> Connect:
    """A factory of connections that verify certificates by ``trust``. Raises OperatorError for invalid CAs."""
    contexts = TLSContexts(system_anchors=trust.system)
    anchors = _anchors(trust.anchors_pem)

    def check_of(host: str) -> PeerCheck | Unchecked:
        return Unchecked(host) if trust.insecure else PeerCheck(server_judge(host))

    def connect(origin: Origin) -> HTTPConnection:
        return HTTPConnection(reactor, resolver, contexts, origin, anchors, None, check_of=check_of, timeouts=timeouts)

    return connect


class Pool:
    """At most ``size`` connections to ``origin``. Raises OperatorError for an invalid size."""

    def __init__(self, connect: Connect, origin: Origin, size: int) -> None:
        if not 1 <= size <= MOST_CONNECTIONS:
            raise OperatorError(f"Expected 1 to {MOST_CONNECTIONS} connections to a server, found {size}.")
        self._connect = connect
        self._origin = origin
        self._size = size
        self._idle: list[HTTPConnection] = []
        self._busy: dict[HTTPConnection, _PooledRequest] = {}
        self._waiting: deque[_PooledRequest] = deque()
        self._starting = self._closed = False

    def ask(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Deferred[Response]:
        """Queue a request. Fires with its response, of any status, or fails with a PeerError."""
        if self._closed or len(self._waiting) >= MAX_WAITING:
            why = "the connections are closed" if self._closed else f"{MAX_WAITING} requests are already waiting"
            return fail(RequestFailed(f"the request to {self._origin.header} was not sent: {why}"))
        try:
            asked = request_to(method, self._origin, target, headers, body)
        except MisuseError as error:
            return fail(RequestFailed(f"the request to {self._origin.header} cannot be sent: {error}"))
        request = _PooledRequest(self, asked)
        self._waiting.append(request)
        self._next()
        return request.done

    def close(self) -> None:
        """Close all connections; pending requests fail with RequestFailed."""
        self._closed = True
        error = RequestFailed(f"the connections to {self._origin.header} were closed")
        waiting, self._waiting = list(self._waiting), deque()
        for connection in [*self._idle, *self._busy]:
            connection.break_off(error, in_order=True)
        self._idle.clear()
        for request in waiting:
            request.done.errback(error)

    def finished(self, request: _PooledRequest) -> None:
        """Take back the connection of a finished request."""
        connection = request.connection
        if connection is not None:
            del self._busy[connection]
            if not self._closed:
                self._idle.append(connection)
        self._next()

    def _next(self) -> None:
        """Start waiting requests. If one fails at once, this loop reuses its connection (no recursion)."""
        if self._starting:
            return
        self._starting = True
        while self._waiting and not self._closed and (self._idle or len(self._busy) < self._size):
            # Reuse the connection used last, so that the server can close the others after its idle timeout.
            connection = self._idle.pop() if self._idle else self._connect(self._origin)
            request = self._waiting.popleft()
            self._busy[connection] = request
            request.start(connection)
        self._starting = False


class _PooledRequest:
    """One request, as the caller of its connection."""

    def __init__(self, pool: Pool, asked: Request) -> None:
        self.done: Deferred[Response] = Deferred()
        self.connection: HTTPConnection | None = None
        self._pool = pool
        self._asked = asked

    def start(self, connection: HTTPConnection) -> None:
        """Send the request on this connection."""
        self.connection = connection
        connection.request(self._asked, self)

    def answered(self, response: Response) -> None:
        """The response has arrived."""
        self._pool.finished(self)
        self.done.callback(response)

    def broke(self, error: PeerError) -> None:
        """The request failed."""
        self._pool.finished(self)
        self.done.errback(error)


def _anchors(pem: str) -> tuple[x509.Certificate, ...]:
    if not pem:
        return ()
    try:
        return read_pem(pem.encode())
    except CertificateError as error:
        raise OperatorError(f"the CAs of the server are not valid PEM certificates: {error}") from error
