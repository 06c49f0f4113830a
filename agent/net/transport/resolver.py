"""Resolves host names, once for a whole fleet.

Lookups are made by Twisted's resolver and cached for RESOLVED_SECONDS, so that ten thousand Macs of one server do not
cause ten thousand lookups. An address that accepted a connection is tried first from then on.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from twisted.internet.interfaces import IResolutionReceiver
from zope.interface import implementer

from agent.errors import PeerError
from agent.net.timing import Clock
from agent.net.transport.stream import SocketAddress
from agent.pki.names import ascii_lower

RESOLVED_SECONDS = 60.0
# RFC 6761, 6.3: loopback names are not looked up. The hosts file often lacks one of the two.
_LOOPBACK = ("::1", "127.0.0.1")
_KNOWN_HOSTS = 1024  # a fleet has few servers
_SCOPE_DIGITS = 9  # a scope is a number of 32 bits

Address = tuple[socket.AddressFamily, SocketAddress]
Found = Callable[[Sequence[Address]], None]
NotFound = Callable[[PeerError], None]


class NameNotFound(PeerError):
    """The server's name has no address."""

    kind = "dns"


class Resolver:
    """Looks up names with ``names``, Twisted's ``reactor.nameResolver``."""

    def __init__(self, clock: Clock, names: Any) -> None:
        self._clock = clock
        self._names = names
        self._known: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._asking: dict[str, list[tuple[int, Found, NotFound]]] = {}
        self._preferred: dict[str, str] = {}

    def lookup(self, host: str, port: int, found: Found, not_found: NotFound) -> None:
        """Call ``found`` with the socket addresses of ``host``, the best first, or ``not_found``; at once if cached.

        There is at least one address, and no duplicates.
        """
        if is_address(host):
            self._tell(host, (host,), port, found, not_found)
        elif is_loopback_name(host):
            self._tell(host, _LOOPBACK, port, found, not_found)
        else:
            until, addresses = self._known.get(host, (0.0, ()))
            if addresses and self._clock.seconds() < until:
                self._tell(host, addresses, port, found, not_found)
            else:
                self._ask(host, port, found, not_found)

    def prefer(self, host: str, address: Address) -> None:
        """Try this address of ``host`` first from now on: it accepted a connection."""
        if not is_address(host):
            self._preferred[host] = address[1][0]

    def resolved(self, host: str, addresses: Sequence[str]) -> None:
        """Deliver the result for ``host``, in the system's order of preference."""
        waiting = self._asking.pop(host, [])
        unique = tuple(dict.fromkeys(addresses))
        if unique:
            self._known[host] = (self._clock.seconds() + RESOLVED_SECONDS, unique)
        for port, found, not_found in waiting:
            self._tell(host, unique, port, found, not_found)

    def _ask(self, host: str, port: int, found: Found, not_found: NotFound) -> None:
        try:
            host.encode("idna")
        except UnicodeError as error:  # Twisted's resolver would log this and never call back
            not_found(NameNotFound(f"the name {host[:255]} cannot be looked up: {error}"))
            return
        waiting = self._asking.setdefault(host, [])
        waiting.append((port, found, not_found))
        if len(waiting) == 1:
            self._names.resolveHostName(_Receiver(self, host), host)

    def _tell(self, host: str, addresses: Sequence[str], port: int, found: Found, not_found: NotFound) -> None:
        preferred = self._preferred.get(host)
        try:
            usable = [socket_address(text, port) for text in addresses]
        except OSError as error:
            not_found(NameNotFound(f"the scope of the address {host} is not an interface here: {error.strerror}"))
            return
        if usable:
            usable.sort(key=lambda address: address[1][0] != preferred)
            found(usable)
        else:
            not_found(NameNotFound(f"the name {host} has no address"))


@implementer(IResolutionReceiver)
class _Receiver:
    def __init__(self, resolver: Resolver, host: str) -> None:
        self._resolver = resolver
        self._host = host
        self._addresses: list[str] = []

    def resolutionBegan(self, resolution: object) -> None:
        """Do nothing: Twisted has started the lookup."""

    def addressResolved(self, address: Any) -> None:
        """Collect one address."""
        scope = getattr(address, "scopeID", 0)  # a link-local IPv6 address cannot be reached without it
        self._addresses.append(f"{address.host}%{scope}" if scope else address.host)

    def resolutionComplete(self) -> None:
        """Deliver the addresses."""
        self._resolver.resolved(self._host, self._addresses)


@lru_cache(_KNOWN_HOSTS)
def is_address(host: str) -> bool:
    """Whether ``host`` is an IP address in text form."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback_name(host: str) -> bool:
    """Whether ``host`` is a loopback name. Source: RFC 6761, 6.3."""
    name = ascii_lower(host).removesuffix(".")
    return name == "localhost" or name.endswith(".localhost")


def socket_address(address: str, port: int) -> Address:
    """Family and socket address of an IP address as text; a scope (``%eth0``) is kept as its number.

    Raises OSError if the scope is not an interface.
    """
    if ":" not in address:
        return socket.AF_INET, (address, port)
    host, _, scope = address.partition("%")
    if not scope:
        number = 0
    elif scope.isdecimal() and len(scope) <= _SCOPE_DIGITS:
        number = int(scope)
    else:
        number = socket.if_nametoindex(scope)
    return socket.AF_INET6, (host, port, 0, number)
