"""The LOM network on ``[::1]``, for any user and any platform.

One endpoint listens for all Devices of the process. As on a real network, the address that a Controller dials selects
the Device: the network records which Device each dialling TCP port is for. For peers outside the process, the server
name of the TLS hello selects the Device.
"""

from __future__ import annotations

import socket

from agent.lom.endpoint import Endpoint
from agent.lom.link import LIMITS, LinkLimits
from agent.lom.network import AddressBook, MacDirectory
from agent.measure.operations import Operations
from agent.net.lom.sockets import SocketNetwork
from agent.net.timing import Reactor
from agent.net.transport.listener import listening_socket
from agent.net.transport.stream import DEFAULT_TIMEOUTS, Timeouts, start_connect
from agent.net.transport.tls import TLSContexts, server_name_of

HOST = "::1"


class LoopbackNetwork(SocketNetwork):
    """The LOM network of one process. ``port`` is where its Devices listen, once ``listen`` was called."""

    def __init__(
        self,
        reactor: Reactor,
        book: AddressBook,
        contexts: TLSContexts,
        operations: Operations,
        limits: LinkLimits = LIMITS,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        super().__init__(reactor, contexts, operations, limits, timeouts)
        self.book = book
        self.port = 0
        self._ports: dict[int, int] = {}
        self._dialled: dict[int, Endpoint] = {}
        self._names: dict[bytes, Endpoint] = {}
        self._name_of: dict[int, bytes] = {}

    def join(self, macs: MacDirectory) -> bool:
        """Put all of these on the network; single Macs need not be added."""
        self.book.macs = macs
        return True

    def add(self, endpoint: Endpoint, dns_name: str, *, port: int = 0) -> None:
        """Put a Mac on the network. ``port`` is where an external Device listens on ``[::1]``."""
        self.book.add(endpoint)
        if port:
            self._ports[endpoint.index] = port
            return
        name = server_name_of(dns_name).lower()
        if name:
            self._names[name] = endpoint
            self._name_of[endpoint.index] = name

    def remove(self, endpoint: Endpoint) -> None:
        """Take a Mac off the network; its links as Device end."""
        self.book.remove(endpoint)
        self._ports.pop(endpoint.index, None)
        name = self._name_of.pop(endpoint.index, b"")
        if self._names.get(name) is endpoint:
            del self._names[name]
        self.close_links_of(endpoint)

    def listen(self, port: int = 0) -> None:
        """Open the Devices' endpoint; port 0 takes any free one. Raises OperatorError."""
        sock = listening_socket(HOST, port, what="The loopback LOM network (IPv6)", ipv6_only=True)
        self.port = sock.getsockname()[1]
        self.accept_from(sock)

    def start_dial(self, controller: Endpoint, address: str) -> socket.socket:
        """Start a connect to the Device. Raises Unreachable or ConnectFailed."""
        endpoint = self.book.find(controller.segment, address)
        elsewhere = self._ports.get(endpoint.index)
        # Not bound first: bound ports stay in TIME_WAIT for a minute, and 28,000 of them are soon used up.
        sock = start_connect(socket.AF_INET6, (HOST, elsewhere or self.port, 0, 0))
        if elsewhere is None:
            self._dialled[sock.getsockname()[1]] = endpoint
        return sock

    def hung_up(self, port: int) -> None:
        """The connection from the TCP port ``port`` ended; if it was never accepted, its record is dropped."""
        self._dialled.pop(port, None)

    def reached(self, _sock: socket.socket, port: int) -> Endpoint | None:
        """The Device that was dialled from this port, or None for a peer outside the process."""
        return self._dialled.pop(port, None)

    def named(self, server_name: bytes) -> Endpoint | None:
        """The Device that a peer outside the process names."""
        endpoint = self._names.get(server_name)
        if endpoint is None and self.book.macs is not None:
            endpoint = self.book.macs.at_name(server_name.decode("latin-1"))
        return endpoint

    def caller(self, _sock: socket.socket) -> str:
        """Every peer has this address."""
        return HOST
