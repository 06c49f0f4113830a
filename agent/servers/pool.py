"""A bounded number of kept-alive connections to one server; requests take them in the order in which they came."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from cryptography import x509
from twisted.internet.defer import Deferred, fail

from agent.errors import MisuseError, OperatorError, PeerError
from agent.net.http.connection import HTTPConnection
from agent.net.http.http1 import Origin, Response, encode_request
from agent.net.timing import Reactor
from agent.net.transport.plain import Unchecked
from agent.net.transport.resolver import Resolver
from agent.net.transport.stream import DEFAULT_TIMEOUTS, Timeouts
from agent.net.transport.tls import TLSContexts
from agent.pki.certificates import CertificateError, read_pem
from agent.pki.verify import PeerCheck, server_judge
from agent.servers.configs import Trust
from agent.servers.server import RequestFailed

MAX_WAITING = 100_000  # ours: requests that wait for a connection
MOST_CONNECTIONS = 1000  # ours

Connect = Callable[[Origin], HTTPConnection]


def connector(reactor: Reactor, resolver: Resolver, trust: Trust, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> Connect:
    """How connections are made that trust as ``trust`` says. Raises OperatorError for anchors that are none."""
    contexts = TLSContexts(system_anchors=trust.system)
    anchors = _anchors(trust.anchors_pem)

    def check_of(host: str) -> PeerCheck | Unchecked:
        return Unchecked(host) if trust.insecure else PeerCheck(server_judge(host))

    def connect(origin: Origin) -> HTTPConnection:
        return HTTPConnection(reactor, resolver, contexts, origin, anchors, None, check_of=check_of, timeouts=timeouts)

    return connect


class Pool:
    """At most ``size`` connections to ``origin``. Raises OperatorError where that is no number of connections."""

    def __init__(self, connect: Connect, origin: Origin, size: int) -> None:
        if not 1 <= size <= MOST_CONNECTIONS:
            raise OperatorError(f"the connections to a server should be 1 to {MOST_CONNECTIONS}, but are {size}")
        self._connect = connect
        self._origin = origin
        self._size = size
        self._idle: list[HTTPConnection] = []
        self._busy: dict[HTTPConnection, _Asking] = {}
        self._waiting: deque[_Asking] = deque()
        self._starting = self._closed = False

    def ask(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Deferred[Response]:
        """Send a request when its turn comes; its response, of any status. Fails with a PeerError."""
        if self._closed or len(self._waiting) >= MAX_WAITING:
            why = "the connections are closed" if self._closed else f"{MAX_WAITING} requests wait already"
            return fail(RequestFailed(f"the request to {self._origin.header} was not sent: {why}"))
        try:
            octets = encode_request(method, self._origin, target, headers, body)
        except MisuseError as error:
            return fail(RequestFailed(f"the request to {self._origin.header} cannot be sent: {error}"))
        asking = _Asking(self, octets)
        self._waiting.append(asking)
        self._next()
        return asking.done

    def close(self) -> None:
        """Close them all; whoever waits hears of it."""
        self._closed = True
        error = RequestFailed(f"the connections to {self._origin.header} were closed")
        waiting, self._waiting = list(self._waiting), deque()
        for connection in [*self._idle, *self._busy]:
            connection.break_off(error, in_order=True)
        self._idle.clear()
        for asking in waiting:
            asking.done.errback(error)

    def over(self, asking: _Asking) -> None:
        """A connection is free."""
        connection = asking.connection
        if connection is not None:
            del self._busy[connection]
            if not self._closed:
                self._idle.append(connection)
        self._next()

    def _next(self) -> None:
        """Begin what can begin. A request that fails at once leaves its connection to this very loop."""
        if self._starting:
            return
        self._starting = True
        while self._waiting and not self._closed and (self._idle or len(self._busy) < self._size):
            # The one used last: the server may close the others in peace.
            connection = self._idle.pop() if self._idle else self._connect(self._origin)
            asking = self._waiting.popleft()
            self._busy[connection] = asking
            asking.begin(connection)
        self._starting = False


class _Asking:
    """One request: the caller of its connection."""

    def __init__(self, pool: Pool, octets: bytes) -> None:
        self.done: Deferred[Response] = Deferred()
        self.connection: HTTPConnection | None = None
        self._pool = pool
        self._octets = octets

    def begin(self, connection: HTTPConnection) -> None:
        """Its turn has come."""
        self.connection = connection
        connection.request(self._octets, self)

    def answered(self, response: Response) -> None:
        """The response came."""
        self._pool.over(self)
        self.done.callback(response)

    def broke(self, error: PeerError) -> None:
        """It will not come."""
        self._pool.over(self)
        self.done.errback(error)


def _anchors(pem: str) -> tuple[x509.Certificate, ...]:
    if not pem:
        return ()
    try:
        return read_pem(pem.encode())
    except CertificateError as error:
        raise OperatorError(f"the CAs of the server hold no certificate in PEM: {error}") from error
