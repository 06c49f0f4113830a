"""The LOM link over TCP and mutual TLS: the common part of all networks with sockets.

A subclass decides where its Devices listen, which Device an accepted connection has reached, and how a Controller
connects to an address: ``loopback`` on ``[::1]``, ``interface`` on real interfaces. Both ends identify their peer by
its certificate: ``controller`` and ``device``.
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
from agent.lom.requests import RelayItem, RelayOutcome
from agent.measure.operations import Operations
from agent.net.lom.controller import RelayAbandoned, Relays
from agent.net.lom.device import DeviceEnd
from agent.net.timing import Reactor
from agent.net.transport.listener import Listener
from agent.net.transport.stream import DEFAULT_TIMEOUTS, Timeouts, TLSStream
from agent.net.transport.tls import TLSContexts, fingerprint, send_no_tickets, server_context, use_identity
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

    # Implemented by each network.

    @abstractmethod
    def start_dial(self, controller: Endpoint, address: str) -> socket.socket:
        """Start a connect to ``address``. Raises Unreachable or ConnectFailed."""

    @abstractmethod
    def reached(self, sock: socket.socket, port: int) -> Endpoint | None:
        """The Device that a peer with the TCP port ``port`` has reached; None if the TLS hello will name it.

        Raises Unreachable.
        """

    def named(self, _server_name: bytes) -> Endpoint | None:
        """The Device with this server name (lower case), or None."""
        return None

    def caller(self, _sock: socket.socket) -> str:
        """The address of a peer."""
        return ""

    def explained(self, _controller: Endpoint, _address: str, error: PeerError) -> PeerError:
        """The error that a failed connection means on this network."""
        return error

    def hung_up(self, port: int) -> None:
        """The connection from the TCP port ``port`` ended."""

    # Common to all networks.

    def lom_changed(self, endpoint: Endpoint) -> None:
        """The Mac's LOM payload was replaced or removed: without it, its links as Device end."""
        if not is_device(endpoint):
            self.close_links_of(endpoint)

    def close(self) -> None:
        """Close the listeners and every link; what is being relayed fails."""
        self._closed = True
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for relays in list(self._relays):
            relays.give_up(RelayAbandoned("the LOM network was closed"))
        for link in list(self._links):
            link.close()

    def relay(self, controller: Endpoint, items: Sequence[RelayItem]) -> Deferred[list[RelayOutcome]]:
        """Relay items from a Controller to their Devices, several at once; the outcomes in the items' order.

        The Deferred never fails. Cancel it where the Controller loses power: see ``Relays``.
        """
        relays = Relays(self, controller, items)
        self._relays.add(relays)
        relays.done.addCallback(self._relayed, relays)
        relays.start_more()
        return relays.done

    def dial(self, controller: Endpoint, address: str) -> socket.socket:
        """Start a connect to ``address``. Raises Unreachable or ConnectFailed."""
        if self._closed:
            raise Unreachable("the LOM network is closed")
        return self.start_dial(controller, address)

    def accept_from(self, sock: socket.socket) -> None:
        """Accept peers from this listening socket."""
        listener = Listener(self.reactor, sock, self._accepted)
        self._listeners.append(listener)
        listener.resume()

    def close_links_of(self, endpoint: Endpoint) -> None:
        """Close the links to this Mac as Device."""
        for link in [link for link in self._links if link.endpoint is endpoint]:
            link.close()

    def _relayed(self, outcomes: list[RelayOutcome], relays: Relays) -> list[RelayOutcome]:
        self._relays.discard(relays)
        return outcomes

    def _accepted(self, sock: socket.socket, port: int) -> None:
        try:
            endpoint = self.reached(sock, port)
            tls = self._secure(sock, endpoint)
        except (PeerError, crypto.Error) as error:  # an identity that TLS cannot use, or a removed payload
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
            context = self._servers[key] = server_context(side.anchors, chain)
        return context

    def _greeting_context(self) -> SSL.Context:
        """For peers outside the process: trusts no CA until the server name selects a Device."""
        if self._greeter is None:
            self._greeter = server_context(())
            self._greeter.set_tlsext_servername_callback(self._greet)
        return self._greeter

    def _greet(self, tls: SSL.Connection) -> None:
        send_no_tickets(tls)
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
