"""Addresses and ports as text, ``127.0.0.1:9464`` or ``[fe80::1%eth0]:623``, and as a socket takes them."""

from __future__ import annotations

import ipaddress
import re
import socket

from agent.errors import OperatorError
from agent.pki.names import fault_of_name

IPv6SocketAddress = tuple[str, int, int, int]

_TYPED = re.compile(r"(?:\[(?P<bracketed>[^\[\]]+)\]|(?P<host>[^\[\]:\s]+)):(?P<port>[0-9]{1,5})", re.ASCII)
_MAX_PORT = 65535
_MAX_SCOPE_DIGITS = 9  # a scope is a number of 32 bits
_LOCALHOST = "127.0.0.1"
_LINK_LOCAL = ipaddress.IPv6Network("fe80::/10")  # RFC 4291, 2.4


def parse_address(text: str, option: str, example: int, *, names: bool = False) -> tuple[str, int]:
    """The host and the port of ``ADDRESS:PORT``, where an IPv6 address is in brackets; ``localhost`` is 127.0.0.1.

    ``option`` is where the operator gave it, ``example`` the usual port there. ``names`` accepts a host name as well.
    Raises OperatorError.
    """
    typed = _TYPED.fullmatch(text)
    if typed is not None and int(typed["port"]) <= _MAX_PORT:
        bracketed, host = typed["bracketed"], typed["host"]
        host = bracketed or (_LOCALHOST if host == "localhost" else host)
        if _has_version(host, 6 if bracketed else 4) or (names and not bracketed and not fault_of_name(host)):
            return host, int(typed["port"])
    raise OperatorError(
        f"Expected ADDRESS:PORT for {option}, such as 127.0.0.1:{example} or [::1]:{example}, found {text!r}."
    )


def parse_socket_address(text: str, option: str) -> IPv6SocketAddress:
    """Read ``[ADDRESS]:PORT``, where a link-local address names its interface (RFC 4007, 11). Raises OperatorError."""
    typed = _TYPED.fullmatch(text)
    if typed is None or not typed["bracketed"] or typed["bracketed"].endswith("%"):
        raise OperatorError(
            f"Expected an IPv6 address and a port for {option}, such as [::1]:623 or [fe80::1%eth0]:623, "
            f"found {text!r}."
        )
    port = int(typed["port"])
    if port > _MAX_PORT:
        raise OperatorError(f"Expected a port from 0 to {_MAX_PORT} for {option}, found {port} in {text}.")
    written, _, scope = typed["bracketed"].partition("%")
    try:
        address = ipaddress.IPv6Address(written)
    except ValueError:
        raise OperatorError(
            f"Expected an IPv6 address in the brackets of {option}, found {written!r}. The LOM link is TCP over IPv6, "
            "and LOM names are not in DNS."
        ) from None
    if not scope and address in _LINK_LOCAL:
        raise OperatorError(f"{option} needs the interface of the link-local address: [{address}%eth0]:{port}.")
    return str(address), port, 0, _interface(scope, option) if scope else 0


def address_text(host: str, port: int) -> str:
    """``HOST:PORT``, with an IPv6 address in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def socket_address_text(address: tuple[str, int] | IPv6SocketAddress) -> str:
    """The text that ``parse_socket_address`` reads as this address."""
    host, port, *more = address
    scope = more[1] if len(more) == 2 else 0
    if scope and "%" not in host:
        try:
            host = f"{host}%{socket.if_indextoname(scope)}"
        except OSError:  # the interface was removed
            host = f"{host}%{scope}"
    return f"[{host}]:{port}"


def _has_version(host: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(host).version == version
    except ValueError:
        return False


def _interface(scope: str, option: str) -> int:
    try:
        is_number = scope.isdecimal() and scope.isascii() and len(scope) <= _MAX_SCOPE_DIGITS
        return int(scope) if is_number else socket.if_nametoindex(scope)
    except OSError:
        names = ", ".join(name for _, name in socket.if_nameindex())
        raise OperatorError(
            f"Expected an interface of this machine for {option}, found no interface {scope!r}; it has {names}."
        ) from None
