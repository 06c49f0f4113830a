"""From a host name to an address, asked once for a whole fleet.

Twisted's own resolver does the looking up. Its answer is kept for RESOLVED_SECONDS, so that ten thousand Macs that
connect to one server do not ask ten thousand times.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IResolutionReceiver
from zope.interface import implementer

from agent.errors import PeerError
from agent.net.reactor import Clock
from agent.net.stream import SocketAddress

RESOLVED_SECONDS = 60.0

Found = Callable[[socket.AddressFamily, SocketAddress], None]
NotFound = Callable[[PeerError], None]


class NameNotFound(PeerError):
    """The server's name has no address."""

    kind = "dns"


class Resolver:
    """Looks names up with ``names``, Twisted's ``reactor.nameResolver``."""

    def __init__(self, clock: Clock, names: Any) -> None:
        self._clock = clock
        self._names = names
        self._known: dict[str, tuple[float, str]] = {}
        self._asking: dict[str, list[tuple[int, Found, NotFound]]] = {}

    def lookup(self, host: str, port: int, found: Found, not_found: NotFound) -> None:
        """Call ``found`` with the socket address of ``host``, or ``not_found``; at once where it is known."""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            until, address = self._known.get(host, (0.0, ""))
            if not address or self._clock.seconds() >= until:
                self._ask(host, port, found, not_found)
                return
        else:
            address = host
        found(*socket_address(address, port))

    def _ask(self, host: str, port: int, found: Found, not_found: NotFound) -> None:
        waiting = self._asking.setdefault(host, [])
        waiting.append((port, found, not_found))
        if len(waiting) == 1:
            self._names.resolveHostName(_Receiver(self, host), host)

    def resolved(self, host: str, addresses: list[str]) -> None:
        """The answer for ``host`` is complete; the first address is used, as the system's order prefers it."""
        waiting = self._asking.pop(host, [])
        if addresses:
            self._known[host] = (self._clock.seconds() + RESOLVED_SECONDS, addresses[0])
        for port, found, not_found in waiting:
            if addresses:
                found(*socket_address(addresses[0], port))
            else:
                not_found(NameNotFound(f"the name {host} has no address"))


@implementer(IResolutionReceiver)
class _Receiver:
    def __init__(self, resolver: Resolver, host: str) -> None:
        self._resolver = resolver
        self._host = host
        self._addresses: list[str] = []

    def resolutionBegan(self, resolution: object) -> None:
        """Twisted asks; nothing to do."""

    def addressResolved(self, address: Any) -> None:
        """One address of the name."""
        self._addresses.append(address.host)

    def resolutionComplete(self) -> None:
        """All addresses were named."""
        self._resolver.resolved(self._host, self._addresses)


def socket_address(address: str, port: int) -> tuple[socket.AddressFamily, SocketAddress]:
    """Family and socket address of an IP address as text; a scope (``%eth0``) is kept as its number."""
    if ":" not in address:
        return socket.AF_INET, (address, port)
    host, _, scope = address.partition("%")
    number = 0 if not scope else int(scope) if scope.isdigit() else socket.if_nametoindex(scope)
    return socket.AF_INET6, (host, port, 0, number)
