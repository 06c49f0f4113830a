"""The LOM link over real TCP and mutual TLS: what every network with sockets has in common.

A network of this kind says where its Devices listen, which of them a peer that comes in has reached, and what socket
leads a Controller to an address: ``lom_link`` on loopback, ``lom_interface`` on real interfaces. Everything else is
here. It is the certificate that decides who is who, on both ends: ``lom_controller`` and ``lom_device``.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence

from OpenSSL import SSL, crypto
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from agent.errors import PeerError
from agent.lom.endpoint import Endpoint, LinkSide, device_side, is_device
from agent.lom.gate import Gate
from agent.lom.link import LIMITS, LinkLimits
from agent.lom.relay import Unreachable
from agent.lom.requests import Outcome, RelayItem
from agent.measure.operations import Operations
from agent.net.lom.controller import RelayAbandoned, Relays
from agent.net.lom.device import DeviceEnd
from agent.net.timing import Reactor
from agent.net.transport.listener import Listener
from agent.net.transport.stream import DEFAULT_TIMEOUTS, Timeouts, TLSStream
from agent.net.transport.tls import TLSContexts, fingerprint, make_context, use_identity
from agent.pki.verify import PeerCheck, controller_judge

_log = Logger()


class SocketNetwork(ABC):
    """The LOM network of one process, over sockets."""

    def __init__(
        self,
        reactor: Reactor,
        contexts: TLSContexts,
        operations: Operations,
        limits: LinkLimits = LIMITS,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        self.reactor = reactor
        self.contexts = contexts
        self.operations = operations
        self.limits = limits
        self.timeouts = timeouts
        self._closed = False
        self._listeners: list[Listener] = []
        self._servers: dict[tuple[bytes, ...], SSL.Context] = {}
        self._greeter: SSL.Context | None = None
        self._gate = Gate(limits)
        self._links: set[DeviceEnd] = set()
        self._relays: set[Relays] = set()

    # Where the Devices listen and where the Controllers dial: each network's own.

    @abstractmethod
    def start_dial(self, controller: Endpoint, address: str) -> socket.socket:
        """A socket whose connect to ``address`` is under way. Raises Unreachable or ConnectFailed."""

    @abstractmethod
    def reached(self, sock: socket.socket, port: int) -> Endpoint | None:
        """Which Device a peer that called from the TCP port ``port`` has reached; None if its hello will tell.

        Raises Unreachable.
        """

    def named(self, _server_name: bytes) -> Endpoint | None:
        """The Device that a hello names, in lower case."""
        return None

    def caller(self, _sock: socket.socket) -> str:
        """The address that a peer calls from."""
        return ""

    def explained(self, _controller: Endpoint, _address: str, error: PeerError) -> PeerError:
        """What it means on this network that an address could not be asked."""
        return error

    def hung_up(self, port: int) -> None:
        """The connection dialled from the TCP port ``port`` is over."""

    # What all of them do.

    def lom_changed(self, endpoint: Endpoint) -> None:
        """The Mac's LOM payload is another one, or gone: without it its endpoint is closed, open links too."""
        if not is_device(endpoint):
            self.close_links_of(endpoint)

    def close(self) -> None:
        """Close the endpoints and every link; what was being relayed fails."""
        self._closed = True
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
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

    def dial(self, controller: Endpoint, address: str) -> socket.socket:
        """A socket whose connect to ``address`` is under way. Raises Unreachable or ConnectFailed."""
        if self._closed:
            raise Unreachable("the LOM network is closed")
        return self.start_dial(controller, address)

    def accept_from(self, sock: socket.socket) -> None:
        """Let peers come in by this listening socket."""
        listener = Listener(self.reactor, sock, self._accepted)
        self._listeners.append(listener)
        listener.resume()

    def close_links_of(self, endpoint: Endpoint) -> None:
        """Hang up on everybody who has reached this Mac."""
        for link in [link for link in self._links if link.endpoint is endpoint]:
            link.close()

    def _relayed(self, outcomes: list[Outcome], relays: Relays) -> list[Outcome]:
        self._relays.discard(relays)
        return outcomes

    def _accepted(self, sock: socket.socket, port: int) -> None:
        try:
            endpoint = self.reached(sock, port)
            tls = self._secure(sock, endpoint)
        except (PeerError, crypto.Error) as error:  # an identity unfit for TLS, or a payload that is gone
            _log.warn("a LOM link was not accepted: {error}", error=error)
            sock.close()
            return
        caller = self.caller(sock)
        link = DeviceEnd(self.reactor, self.limits, endpoint, self._links.discard, gate=self._gate, address=caller)
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
        endpoint = self.named((tls.get_servername() or b"").lower())
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
