"""IPv6 link-local addresses of LOM, with the interface identifier derived from the MAC of the Ethernet port.

Derives the addresses of simulated Macs, and checks the addresses that an MDM server sends in a ``LOMDeviceRequest``
before anything connects to them. LOM works on the local subnet only, so every address must be in fe80::/64.
Source: RFC 4291, 2.5.6 (link-local) and appendix A (modified EUI-64); RFC 5952 (text).
"""

from __future__ import annotations

import ipaddress
import re

from agent.errors import PeerError

LINK_LOCAL_NETWORK = ipaddress.IPv6Network("fe80::/64")  # RFC 4291, 2.5.6: the 54 bits after fe80::/10 are zero

_PREFIX = int(LINK_LOCAL_NETWORK.network_address)
_UNIVERSAL_LOCAL = 1 << 57  # the U/L bit of a 64-bit interface identifier, inverted in modified EUI-64
_GROUP = 1 << 56  # the I/G bit, never set in the address of an interface
_FILLER = 0xFFFE << 24  # EUI-64 inserts this between the two halves of a MAC
_MAC = re.compile("[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}")
_MAX_QUOTED = 60  # characters of untrusted text that an error quotes; an IPv6 address has at most 45


class AddressError(PeerError, ValueError):
    """The text is not an address, or not one that LOM can use."""

    kind = "address"


def link_local_from_mac(mac: str) -> str:
    """The link-local address of the port with the MAC address ``mac``, as canonical text (RFC 5952).

    ``mac`` is six pairs of hexadecimal digits with colons, in either case: ``96:f6:d6:f3:c0:5b`` gives
    ``fe80::94f6:d6ff:fef3:c05b``. Raises AddressError for any other text and for a group (multicast) address.
    Source: RFC 4291, appendix A.
    """
    if _MAC.fullmatch(mac) is None:
        raise AddressError(f"expected a MAC address such as 96:f6:d6:f3:c0:5b, found {_quoted(mac)}")
    number = int(mac.replace(":", ""), 16)
    identifier = (number >> 24 << 40) | _FILLER | (number & 0xFFFFFF)
    if identifier & _GROUP:
        raise AddressError(f"expected the MAC address of one interface, found the group address {mac}")
    return str(ipaddress.IPv6Address(_PREFIX | identifier ^ _UNIVERSAL_LOCAL))


def mac_from_link_local(address: str) -> str:
    """The MAC, in lower case with colons, that the link-local ``address`` was derived from.

    Raises AddressError like ``check_link_local``, and for an interface identifier that is not a modified EUI-64
    (random and manually assigned ones are not). Source: RFC 4291, appendix A.
    """
    identifier = int(check_link_local(address)) - _PREFIX
    if identifier & (0xFFFF << 24) != _FILLER or identifier & _GROUP:
        raise AddressError(f"expected an address made from a MAC (..ff:fe..), found {_quoted(address)}")
    identifier ^= _UNIVERSAL_LOCAL
    number = (identifier >> 40 << 24) | (identifier & 0xFFFFFF)
    return number.to_bytes(6, "big").hex(":")


def check_link_local(text: object) -> ipaddress.IPv6Address:
    """Read ``text`` as a link-local IPv6 address without a scope.

    The Controller chooses the interface, not the peer, so a scope such as ``%en0`` is refused. Raises only
    AddressError, for any value of ``text``. Source: schema, LOMDeviceRequest, PrimaryIPv6AddressList and
    SecondaryIPv6AddressList.
    """
    if not isinstance(text, str):
        raise AddressError(f"expected an IPv6 address as text, found a value of type {type(text).__name__}")
    if "%" in text:
        raise AddressError(f"expected an IPv6 address without a scope, found {_quoted(text)}")
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        found = "the IPv4 address " if _is_ipv4(text) else ""
        raise AddressError(f"expected an IPv6 address, found {found}{_quoted(text)}") from None
    if address not in LINK_LOCAL_NETWORK:
        raise AddressError(f"expected a link-local address in {LINK_LOCAL_NETWORK}, found {address}")
    return address


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "…")
