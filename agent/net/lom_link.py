"""The LOM link over real TCP and mutual TLS on ``[::1]``, for any user and any platform.

One endpoint listens for all Devices of the process. Which Device a Controller reaches is decided by the address that it
dials, as on a real network: the network notes for which Device a Controller's TCP port is when it dials. A peer from
outside the process is led by the server name of its TLS hello instead. Either way it is the certificate that decides
who is who, on both ends: ``lom_controller`` and ``lom_device``.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Callable, Sequence

from OpenSSL import SSL, crypto
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure
from zope.interface import implementer

from agent.errors import OperatorError, PeerError
from agent.lom.link import LIMITS, LinkLimits
from agent.lom.network import AddressBook, Endpoint, LinkSide, device_side
from agent.lom.relay import Unreachable
from agent.lom.requests import Outcome, RelayItem
from agent.net.lom_controller import RelayAbandoned, Relays
from agent.net.lom_device import DeviceEnd
from agent.net.reactor import DelayedCall, Reactor
from agent.net.records import Observer
from agent.net.stream import DEFAULT_TIMEOUTS, Timeouts, TLSStream, start_connect
from agent.net.tls import TLSContexts, fingerprint, make_context, server_name_of, use_identity
from agent.pki.verify import PeerCheck, controller_judge

HOST = "::1"
_BACKLOG = 1024
_ACCEPTS_A_TURN = 64  # so that a flood of connections does not keep the reactor from everything else
_REST_SECONDS = 0.1  # in which a process that is out of descriptors accepts nothing
_THIS_PEER_IS_GONE = (errno.ECONNABORTED, errno.EPROTO, errno.EPERM)
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_log = Logger()


class LoopbackNetwork:
    """The LOM network of one process. ``port`` is where its Devices listen, once ``listen`` was called."""

    def __init__(
        self,
        reactor: Reactor,
        book: AddressBook,
        contexts: TLSContexts,
        observer: Observer,
        wall_clock: Callable[[], float] = time.time,
        limits: LinkLimits = LIMITS,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        self.reactor = reactor
        self.book = book
        self.contexts = contexts
        self.observer = observer
        self.wall_clock = wall_clock
        self.limits = limits
        self.timeouts = timeouts
        self.port = 0
        self._closed = False
        self._listener: Listener | None = None
        self._ports: dict[int, int] = {}
        self._dialled: dict[int, Endpoint] = {}
        self._names: dict[bytes, Endpoint] = {}
        self._servers: dict[tuple[bytes, ...], SSL.Context] = {}
        self._greeter: SSL.Context | None = None
        self._links: set[DeviceEnd] = set()
        self._relays: set[Relays] = set()

    def add(self, endpoint: Endpoint, dns_name: str, *, port: int = 0) -> None:
        """Put a Mac on the network. ``port`` is where a Device listens that is none of ours: on ``[::1]`` too."""
        self.book.add(endpoint)
        if port:
            self._ports[endpoint.index] = port
            return
        name = server_name_of(dns_name).lower()
        if name:
            self._names[name] = endpoint

    def remove(self, endpoint: Endpoint) -> None:
        """Take a Mac off the network; its links as Device end."""
        self.book.remove(endpoint)

    def listen(self, port: int = 0) -> None:
        """Open the Devices' endpoint; port 0 takes any free one. Raises OperatorError."""
        try:
            sock = _listening_socket(port)
        except OSError as error:
            raise OperatorError(
                f"the LOM network cannot listen on [{HOST}]:{port}: {error.strerror}; "
                "it needs IPv6 on the loopback interface"
            ) from error
        sock.setblocking(False)
        self.port = sock.getsockname()[1]
        self._listener = Listener(self.reactor, sock, self._accepted)
        self._listener.resume()

    def close(self) -> None:
        """Close the endpoint and every link; what was being relayed fails."""
        self._closed = True
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for relays in list(self._relays):
            relays.give_up(RelayAbandoned("the LOM network was closed"))
        for link in list(self._links):
            link.close()

    def relay(self, controller: Endpoint, items: Sequence[RelayItem]) -> Deferred[list[Outcome]]:
        """Carry items from a Controller to their Devices, several at once; the outcomes in the items' order.

        The Deferred never fails. Cancel it where the Controller loses power: see ``Relays``.
        """
        relays = Relays(self, controller, items)
        self._relays.add(relays)
        relays.done.addCallback(self._relayed, relays)
        relays.start_more()
        return relays.done

    def dial(self, endpoint: Endpoint) -> socket.socket:
        """A socket whose connect to ``endpoint`` is under way. Raises Unreachable or ConnectFailed."""
        if self._closed:
            raise Unreachable("the LOM network is closed")
        elsewhere = self._ports.get(endpoint.index)
        # Not bound first: a bound port rests for a minute after its use, and 28,000 of them are soon used up.
        sock = start_connect(socket.AF_INET6, (HOST, elsewhere or self.port, 0, 0))
        if elsewhere is None:
            self._dialled[sock.getsockname()[1]] = endpoint
        return sock

    def hung_up(self, port: int) -> None:
        """The connection dialled from the TCP port ``port`` is over; if it was never accepted, its note goes too."""
        self._dialled.pop(port, None)

    def _relayed(self, outcomes: list[Outcome], relays: Relays) -> list[Outcome]:
        self._relays.discard(relays)
        return outcomes

    def _accepted(self, sock: socket.socket, port: int) -> None:
        endpoint = self._dialled.pop(port, None)
        link = DeviceEnd(self.reactor, self.limits, endpoint, self._links.discard)
        try:
            tls = self._secure(sock, endpoint)
        except (PeerError, crypto.Error) as error:  # an identity unfit for TLS, or a payload that is gone
            _log.warn("a LOM link was not accepted: {error}", error=error)
            sock.close()
            return
        check = PeerCheck(controller_judge)
        tls.set_app_data(link)
        tls.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, check)
        tls.set_accept_state()
        self._links.add(link)
        link.begin(TLSStream(self.reactor, sock, tls, check, link, timeouts=self.timeouts))

    def _secure(self, sock: socket.socket, endpoint: Endpoint | None) -> SSL.Connection:
        if endpoint is None:
            return SSL.Connection(self._greeting_context(), sock)
        side = device_side(endpoint)
        tls = SSL.Connection(self._context_of(side), sock)
        use_identity(tls, side.identity)
        return tls

    def _context_of(self, side: LinkSide) -> SSL.Context:
        chain = side.identity.chain
        key = (*sorted(fingerprint(anchor) for anchor in side.anchors), b"|", *(fingerprint(link) for link in chain))
        context = self._servers.get(key)
        if context is None:
            context = self._servers[key] = make_context(side.anchors, chain)
        return context

    def _greeting_context(self) -> SSL.Context:
        """For peers that no one here dialled: trusts nobody, until the server name says which Device is meant."""
        if self._greeter is None:
            self._greeter = make_context(())
            self._greeter.set_tlsext_servername_callback(self._greet)
        return self._greeter

    def _greet(self, tls: SSL.Connection) -> None:
        endpoint = self._names.get((tls.get_servername() or b"").lower())
        if endpoint is None:
            return  # no certificate is set, so the handshake fails
        try:
            side = device_side(endpoint)
            tls.set_context(self._context_of(side))
            use_identity(tls, side.identity)
        except (PeerError, crypto.Error) as error:
            _log.warn("a LOM link was not accepted: {error}", error=error)
            return
        tls.get_app_data().endpoint = endpoint


def _listening_socket(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((HOST, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


@implementer(IReadDescriptor)
class Listener:
    """A listening socket, as a descriptor of the reactor. ``accepted`` gets each peer's socket and its TCP port."""

    def __init__(self, reactor: Reactor, sock: socket.socket, accepted: Callable[[socket.socket, int], None]) -> None:
        self._reactor = reactor
        self._socket = sock
        self._accepted = accepted
        self._timer: DelayedCall | None = None

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
                if error.errno in _THIS_PEER_IS_GONE:
                    continue
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    raise
                self._rest()
                return
            sock.setblocking(False)
            with contextlib.suppress(OSError):  # macOS says so of a peer that is gone already
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._accepted(sock, address[1])

    def resume(self) -> None:
        """Accept peers."""
        self._timer = None
        self._reactor.addReader(self)

    def close(self) -> None:
        """Listen no longer."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._reactor.removeReader(self)
        self._socket.close()

    def _rest(self) -> None:
        """Let the peers wait: the socket stays readable, so that the reactor would do nothing else."""
        self._reactor.removeReader(self)
        self._timer = self._reactor.callLater(_REST_SECONDS, self.resume)
