"""The LOM networks and their common interface.

``loopback``: TCP and mutual TLS on ``[::1]``, for any user and any platform. ``memory``: no sockets, for big fleets.
``interface:NAMES``: the Macs' own link-local addresses on real interfaces, for root on Linux.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec.structs import replace
from twisted.internet.defer import Deferred

from agent.errors import OperatorError
from agent.lom.endpoint import Endpoint
from agent.lom.link import LIMITS
from agent.lom.network import AddressBook, MacDirectory
from agent.lom.requests import RelayItem, RelayOutcome
from agent.measure.operations import Operations
from agent.net.lom.interface import LOM_PORT, InterfaceNetwork
from agent.net.lom.loopback import LoopbackNetwork
from agent.net.lom.memory import MemoryLOMNetwork
from agent.net.timing import Reactor
from agent.net.transport.tls import TLSContexts

LOOPBACK, MEMORY, INTERFACE = "loopback", "memory", "interface"
_FORMS = f"{LOOPBACK}, {MEMORY}, or {INTERFACE}:NAME[,NAME…][:PORT]"


class LOMNetwork(Protocol):
    """The interface of every LOM network."""

    def join(self, macs: MacDirectory) -> bool:
        """Put all of these on the network. False if each of them has to be added by itself."""

    def add(self, endpoint: Endpoint, dns_name: str, /) -> None:
        """Put a Mac on the network. Raises OperatorError if that is not possible."""

    def remove(self, endpoint: Endpoint) -> None:
        """Take a Mac off the network; its links as Device end."""

    def lom_changed(self, endpoint: Endpoint) -> None:
        """The Mac's LOM payload was installed, replaced or removed. Without it, its links as Device end at once."""

    def listen(self) -> None:
        """Start listening for the Devices. Raises OperatorError."""

    def close(self) -> None:
        """End every link and release all resources; what is being relayed fails."""

    def relay(self, controller: Endpoint, items: Sequence[RelayItem]) -> Deferred[list[RelayOutcome]]:
        """Relay items from a Controller to their Devices; the outcomes in the items' order.

        The Deferred never fails. Cancel it where the Controller loses power.
        """


class NetworkChoice(msgspec.Struct, frozen=True):
    """The network that an operator names. ``interfaces`` and ``port`` apply to interface networks."""

    kind: str
    interfaces: tuple[str, ...] = ()
    port: int = LOM_PORT


def parse_network(text: str) -> NetworkChoice:
    """``loopback``, ``memory`` or ``interface:NAME[,NAME…][:PORT]``, parsed. Raises OperatorError."""
    kind, _, rest = text.partition(":")
    if kind in (LOOPBACK, MEMORY) and text == kind:
        return NetworkChoice(kind)
    if kind == INTERFACE:
        return _parse_interface(text, rest)
    raise OperatorError(f"expected {_FORMS} as the LOM network, found {text!r}")


def _parse_interface(text: str, rest: str) -> NetworkChoice:
    names, colon, number = rest.partition(":")
    interfaces = tuple(names.split(","))
    port = LOM_PORT
    if colon:
        if not (number.isascii() and number.isdigit() and 0 < int(number) < 65536):
            raise OperatorError(f"expected a port from 1 to 65535 in the LOM network {text!r}, found {number!r}")
        port = int(number)
    if not all(interfaces):
        raise OperatorError(f"expected {_FORMS} as the LOM network; {text!r} names no interface")
    if len(set(interfaces)) < len(interfaces):
        raise OperatorError(f"the LOM network {text!r} names an interface twice; each segment needs a separate one")
    return NetworkChoice(INTERFACE, interfaces, port)


def make_network(text: str, reactor: Reactor, operations: Operations, *, race: bool = True) -> LOMNetwork:
    """The network that ``text`` names (see ``parse_network``), without Macs. Raises OperatorError.

    ``race``: a Controller tries the next address also while one has not completed its handshake.
    """
    limits = LIMITS if race else replace(LIMITS, attempt_delay_seconds=None)
    choice = parse_network(text)
    if choice.kind == MEMORY:
        return MemoryLOMNetwork(reactor, AddressBook(), operations)
    # The LOM link trusts only the CAs of the LOM payload, so it has separate contexts.
    if choice.kind == LOOPBACK:
        return LoopbackNetwork(reactor, AddressBook(), TLSContexts(), operations, limits)
    return InterfaceNetwork(reactor, choice.interfaces, TLSContexts(), operations, limits, port=choice.port)
