"""An IPv6 address and a port as a person types them, ``[fe80::1%eth0]:623``, and as a socket takes them."""

from __future__ import annotations

import ipaddress
import re
import socket

from agent.errors import OperatorError

IPv6SocketAddress = tuple[str, int, int, int]

_TYPED = re.compile(r"\[(?P<address>[^\[\]%]*)(?:%(?P<scope>[^\[\]%]+))?\]:(?P<port>[0-9]{1,5})", re.ASCII)
_LINK_LOCAL = ipaddress.IPv6Network("fe80::/10")  # RFC 4291, 2.4


def parse_socket_address(text: str) -> IPv6SocketAddress:
    """Read ``[ADDRESS]:PORT``, where a link-local address names its interface (RFC 4007, 11). Raises OperatorError."""
    typed = _TYPED.fullmatch(text)
    if typed is None:
        raise OperatorError(
            f"expected an IPv6 address and a port such as [::1]:623 or [fe80::1%eth0]:623, found {text!r}"
        )
    port = int(typed["port"])
    if port > 65535:
        raise OperatorError(f"expected a port from 0 to 65535, found {port} in {text}")
    try:
        address = ipaddress.IPv6Address(typed["address"])
    except ValueError:
        raise OperatorError(
            f"expected an IPv6 address in the brackets, found {typed['address']!r}; the LOM link is TCP over IPv6, "
            "and a Mac's LOM name stands in no DNS"
        ) from None
    scope = typed["scope"]
    if scope is None and address in _LINK_LOCAL:
        raise OperatorError(f"on which interface is {address}? Say so: [{address}%eth0]:{port}")
    return str(address), port, 0, 0 if scope is None else _interface(scope)


def socket_address_text(address: tuple[str, int] | IPv6SocketAddress) -> str:
    """How ``parse_socket_address`` reads it again."""
    host, port, *more = address
    scope = more[1] if len(more) == 2 else 0
    if scope and "%" not in host:
        try:
            host = f"{host}%{socket.if_indextoname(scope)}"
        except OSError:  # an interface that is gone
            host = f"{host}%{scope}"
    return f"[{host}]:{port}"


def _interface(scope: str) -> int:
    try:
        return int(scope) if scope.isdecimal() and scope.isascii() else socket.if_nametoindex(scope)
    except OSError:
        there = ", ".join(name for _, name in socket.if_nameindex())
        raise OperatorError(f"this machine has no interface {scope!r}; it has {there}") from None
