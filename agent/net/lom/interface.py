"""The LOM network on real interfaces: every Mac has its own link-local addresses there. For root, on Linux.

A segment is an interface, so that the switch and its VLANs decide who reaches whom. A Controller dials the address that
it was given, whether or not its Device is one of ours; a Device answers whoever reaches its address.
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
from agent.lom.network import Neighbourhood
from agent.lom.relay import Unreachable
from agent.measure.operations import Operations
from agent.net.lom.interface_addresses import InterfaceAddresses, state_folder
from agent.net.lom.sockets import SocketNetwork
from agent.net.timing import Reactor
from agent.net.transport.listener import listening_socket
from agent.net.transport.stream import DEFAULT_TIMEOUTS, ConnectFailed, ConnectTimeout, Timeouts, start_connect
from agent.net.transport.tls import TLSContexts

LOM_PORT = 623  # ours: Apple's is unpublished; IANA gives it to asf-rmcp, remote management of machines that are off
_CAPABILITIES = {"CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12}  # linux/capability.h
_STATUS = Path("/proc/self/status")
_FIRST_FREE_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
_NOBODY_THERE = (errno.EHOSTUNREACH, errno.ENETUNREACH)

_log = Logger()


class InterfaceNetwork(SocketNetwork):
    """The LOM network of one process. Segment n is on the n-th of ``interfaces``, or all are on the only one.

    ``folder`` is where the state files are; None is the user's usual place.
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

    def join(self, _macs: Neighbourhood) -> bool:
        """Not so: a Mac is reached here once its addresses are on an interface."""
        return False

    def add(self, endpoint: Endpoint, _dns_name: str) -> None:
        """Put a Mac's addresses on its segment's interface, at the latest when it listens. Raises OperatorError."""
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
        """Take a Mac's addresses off; its links as Device end. Raises OperatorError."""
        home = self._home(endpoint)
        ours = [address for address in endpoint.lom_addresses if home.endpoints.get(address) is endpoint]
        for address in ours:
            del home.endpoints[address]
        self.close_links_of(endpoint)
        if self._listening:
            home.addresses.take_off(ours)

    def listen(self) -> None:
        """Claim the interfaces, listen there and put every Mac's addresses on. Raises OperatorError."""
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
        """End every link, and take the addresses off."""
        super().close()
        self._listening = False
        self._give_back()

    def start_dial(self, controller: Endpoint, address: str) -> socket.socket:
        """A socket whose connect to ``address`` is under way, from an address of the Controller's own."""
        scope = self._home(controller).addresses.index
        if not controller.lom_addresses:
            raise Unreachable("the Controller has no address to call from")
        source = (controller.lom_addresses[0], 0, 0, scope)
        try:
            return start_connect(socket.AF_INET6, (address, self.port, 0, scope), source=source)
        except ConnectFailed as error:
            raise self.explained(controller, address, error) from error

    def explained(self, controller: Endpoint, address: str, error: PeerError) -> PeerError:
        """What it means on this network that an address could not be asked."""
        name = self._home(controller).name
        if isinstance(error, ConnectTimeout):
            # Linux finds no socket for its own word that a link-local neighbour is missing, so the connect goes on.
            if not self._home(controller).addresses.neighbour(address):
                return Unreachable(f"nobody answers at this address on {name}")
            return ConnectTimeout(
                f"no answer from TCP port {self.port} of this address on {name} within {self.timeouts.connect:g} s; "
                "somebody had it lately"
            )
        if not isinstance(error, ConnectFailed):
            return error
        if error.code in _NOBODY_THERE:
            return Unreachable(f"nobody answers at this address on {name} ({os.strerror(error.code)})")
        if error.code == errno.ECONNREFUSED:
            return ConnectFailed(f"refused: nothing listens on TCP port {self.port} of this address", error.code)
        if error.code == errno.EADDRNOTAVAIL:
            return Unreachable(f"the Controller's own address {controller.lom_addresses[0]} is not on {name}")
        return error

    def reached(self, sock: socket.socket, _port: int) -> Endpoint | None:
        """The Mac whose address was dialled. Raises Unreachable where that is none of ours."""
        address, _, _, scope = sock.getsockname()
        for home in self._homes:
            if home.addresses.index == scope and address in home.endpoints:
                return home.endpoints[address]
        raise Unreachable(f"none of our Macs has the address {address}")

    def caller(self, sock: socket.socket) -> str:
        """The address that a peer calls from."""
        try:
            address: str = sock.getpeername()[0]
        except OSError:  # it is gone already
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
    """Raises OperatorError that names every capability that is missing."""
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
