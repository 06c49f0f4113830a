"""The LOM network on real interfaces: every Mac has its own link-local addresses there. For root, on Linux.

Each segment is an interface, so that the switch and its VLANs decide which Macs reach each other. A Controller dials
the address in its request, whether or not this process simulates the Device; a Device answers any peer that reaches it.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from twisted.logger import Logger

from agent.errors import OperatorError, PeerError
from agent.lom.endpoint import Endpoint
from agent.lom.link import LIMITS, LinkLimits
from agent.lom.network import MacDirectory
from agent.lom.relay import Unreachable
from agent.measure.operations import Operations
from agent.net.lom.interface_addresses import InterfaceAddresses, state_folder
from agent.net.lom.sockets import SocketNetwork
from agent.net.timing import Reactor
from agent.net.transport.errors import ConnectFailed, ConnectTimeout
from agent.net.transport.listener import listening_socket
from agent.net.transport.stream import DEFAULT_TIMEOUTS, Timeouts, start_connect
from agent.net.transport.tls import TLSContexts

LOM_PORT = 623  # our choice, Apple's is unpublished; IANA: asf-rmcp, remote management of machines that are off
_CAPABILITIES = {"CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12}  # linux/capability.h
_STATUS = Path("/proc/self/status")
_FIRST_FREE_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
_NOBODY_THERE = (errno.EHOSTUNREACH, errno.ENETUNREACH)

_log = Logger()


class InterfaceNetwork(SocketNetwork):
    """The LOM network of one process. Segment n is on the n-th of ``interfaces``, or all are on the only one.

    ``folder`` is where the state files are; None is the default of ``state_folder``.
    """

    def __init__(
        self,
        reactor: Reactor,
        interfaces: Sequence[str],
        contexts: TLSContexts,
        operations: Operations,
        limits: LinkLimits = LIMITS,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        *,
        port: int = LOM_PORT,
        folder: Path | None = None,
        platform: str = sys.platform,
    ) -> None:
        super().__init__(reactor, contexts, operations, limits, timeouts)
        if platform != "linux":
            raise OperatorError(f"an interface network needs Linux; this is {platform}, where loopback and memory work")
        self.port = port
        folder = state_folder() if folder is None else folder
        self._homes = [_Home(InterfaceAddresses(name, folder)) for name in interfaces]
        self._listening = False

    def join(self, _macs: MacDirectory) -> bool:
        """Refuse: a Mac is reachable once its addresses are on an interface."""
        return False

    def add(self, endpoint: Endpoint, _dns_name: str) -> None:
        """Add a Mac's addresses to its segment's interface, now or in ``listen``. Raises OperatorError."""
        home = self._home(endpoint)
        for address in endpoint.lom_addresses:
            other = home.endpoints.setdefault(address, endpoint)
            if other is not endpoint:
                raise OperatorError(
                    f"two Macs have the address {address} on {home.name}: {other.index} and {endpoint.index}; "
                    "name an interface for each segment"
                )
        if self._listening:
            home.addresses.put_on(endpoint.lom_addresses)

    def remove(self, endpoint: Endpoint) -> None:
        """Remove a Mac's addresses; its links as Device end. Raises OperatorError."""
        home = self._home(endpoint)
        ours = [address for address in endpoint.lom_addresses if home.endpoints.get(address) is endpoint]
        for address in ours:
            del home.endpoints[address]
        self.close_links_of(endpoint)
        if self._listening:
            home.addresses.take_off(ours)

    def listen(self) -> None:
        """Lock the interfaces, listen, and add every Mac's addresses. Raises OperatorError."""
        _check_rights(self.port)
        sockets: list[socket.socket] = []
        try:
            for home in self._homes:
                home.addresses.open()
                sockets.append(
                    listening_socket("::", self.port, what="The LOM Devices", interface=home.name, ipv6_only=True)
                )
                home.addresses.put_on(list(home.endpoints))
        except OperatorError:
            for sock in sockets:
                sock.close()
            self._give_back()
            raise
        self._listening = True
        for sock in sockets:
            self.accept_from(sock)

    def close(self) -> None:
        """End every link, and remove the addresses."""
        super().close()
        self._listening = False
        self._give_back()

    def start_dial(self, controller: Endpoint, address: str) -> socket.socket:
        """Start a connect to ``address`` from the Controller's address."""
        scope = self._home(controller).addresses.index
        if not controller.lom_addresses:
            raise Unreachable("the Controller has no address to call from")
        source = (controller.lom_addresses[0], 0, 0, scope)
        try:
            return start_connect(socket.AF_INET6, (address, self.port, 0, scope), source=source)
        except ConnectFailed as error:
            raise self.explained(controller, address, error) from error

    def explained(self, controller: Endpoint, address: str, error: PeerError) -> PeerError:
        """The error that a failed connection means on this network."""
        name = self._home(controller).name
        if isinstance(error, ConnectTimeout):
            # Linux does not report a missing link-local neighbour to the socket, so the connect times out.
            if not self._home(controller).addresses.neighbour(address):
                return Unreachable(f"no host answers at this address on {name}")
            return ConnectTimeout(
                f"no answer from TCP port {self.port} of this address on {name} within {self.timeouts.connect:g} s; "
                "a host had this address recently"
            )
        if not isinstance(error, ConnectFailed):
            return error
        if error.code in _NOBODY_THERE:
            return Unreachable(f"no host answers at this address on {name} ({os.strerror(error.code)})")
        if error.code == errno.ECONNREFUSED:
            return ConnectFailed(f"refused: nothing listens on TCP port {self.port} of this address", error.code)
        if error.code == errno.EADDRNOTAVAIL:
            return Unreachable(f"the Controller's own address {controller.lom_addresses[0]} is not on {name}")
        return error

    def reached(self, sock: socket.socket, _port: int) -> Endpoint | None:
        """The Mac whose address was dialled. Raises Unreachable if it is not in this process."""
        address, _, _, scope = sock.getsockname()
        for home in self._homes:
            if home.addresses.index == scope and address in home.endpoints:
                return home.endpoints[address]
        raise Unreachable(f"none of our Macs has the address {address}")

    def caller(self, sock: socket.socket) -> str:
        """The address of a peer."""
        try:
            address: str = sock.getpeername()[0]
        except OSError:  # the peer has already closed
            return ""
        return address

    def _home(self, endpoint: Endpoint) -> _Home:
        if len(self._homes) == 1:
            return self._homes[0]
        if endpoint.segment >= len(self._homes):
            names = ",".join(home.name for home in self._homes)
            raise OperatorError(
                f"segment {endpoint.segment} has no interface: {names} are {len(self._homes)}; "
                "name one for each segment, or a single one for all of them"
            )
        return self._homes[endpoint.segment]

    def _give_back(self) -> None:
        for home in self._homes:
            try:
                home.addresses.close()
            except OperatorError as error:
                _log.error("{error}; the next run tries again", error=error)


class _Home:
    """One interface and the Macs on it, by address."""

    def __init__(self, addresses: InterfaceAddresses) -> None:
        self.addresses = addresses
        self.endpoints: dict[str, Endpoint] = {}

    @property
    def name(self) -> str:
        """The interface's name."""
        return self.addresses.name


def _check_rights(port: int) -> None:
    """Check the capabilities. Raises OperatorError, which names the missing ones."""
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("CapEff:"))
    mask = int(line.split()[1], 16)
    needed = ["CAP_NET_ADMIN"]
    if port < int(_FIRST_FREE_PORT.read_text()):
        needed.append("CAP_NET_BIND_SERVICE")
    missing = [name for name in needed if not mask >> _CAPABILITIES[name] & 1]
    if missing:
        raise OperatorError(
            f"an interface network needs root, or the capabilities CAP_NET_ADMIN and CAP_NET_BIND_SERVICE; "
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing here"
        )
