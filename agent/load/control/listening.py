"""Where a run listens for workers and Macs of other machines, and what they call this machine."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from agent.errors import OperatorError


class ListenAt(NamedTuple):
    """An address to listen at."""

    host: str
    port: int = 0
    """0: a free port."""
    names: tuple[str, ...] = ("127.0.0.1", "localhost")
    """Names and addresses in the certificate; the first is in invitations and URLs."""


LOOPBACK = ListenAt("127.0.0.1")


def listen_at(address: tuple[str, int], name: str | None, option: str) -> ListenAt:
    """Where to listen; ``name`` is what others call this machine, by default its address. Raises OperatorError."""
    host, port = address
    if name is None and _address(host).is_unspecified:
        raise OperatorError(
            f"Expected --advertise NAME with {option} {host}, found none: workers and Macs need a name or an address "
            "of this machine, which is also in its certificate. Add it, or listen at one address."
        )
    own = [] if _address(host).is_unspecified else [host.partition("%")[0]]  # a certificate has no scope
    return ListenAt(host, port, tuple(dict.fromkeys([*([] if name is None else [name]), *own])))


def address_of(text: str, option: str) -> str:
    """An IP address that an operator typed, with or without brackets. Raises OperatorError."""
    host = text.strip("[]")
    try:
        _address(host)
    except ValueError:
        raise OperatorError(
            f"Expected an IP address of this machine for {option}, found {text!r}. Give its name with --advertise."
        ) from None
    return host


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(host.partition("%")[0])
