"""LOM's link-local addresses: derived from MAC addresses, converted back, and refused if they are not link-local."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.errors import PeerError
from agent.lom.addresses import AddressError, check_link_local, link_local_from_mac, mac_from_link_local

unicast_macs = st.binary(min_size=6, max_size=6).map(lambda raw: bytes([raw[0] & 0xFE, *raw[1:]]).hex(":"))


def test_address_of_apples_example() -> None:
    assert link_local_from_mac("96:f6:d6:f3:c0:5b") == "fe80::94f6:d6ff:fef3:c05b"
    assert link_local_from_mac("96:F6:D6:F3:C0:5B") == "fe80::94f6:d6ff:fef3:c05b"
    assert mac_from_link_local("fe80::94f6:d6ff:fef3:c05b") == "96:f6:d6:f3:c0:5b"


@pytest.mark.parametrize(
    ("mac", "address"),
    [
        ("02:00:00:00:00:00", "fe80::ff:fe00:0"),
        ("02:00:00:00:00:01", "fe80::ff:fe00:1"),
        ("00:00:5e:00:53:0a", "fe80::200:5eff:fe00:530a"),
        ("0a:0b:0c:0d:0e:0f", "fe80::80b:cff:fe0d:e0f"),
    ],
)
def test_addresses_are_written_in_rfc_5952_form(mac: str, address: str) -> None:
    assert link_local_from_mac(mac) == address


@given(unicast_macs)
def test_mac_address_is_recovered_from_an_ipv6_address(mac: str) -> None:
    address = link_local_from_mac(mac)
    assert mac_from_link_local(address) == mac
    assert str(check_link_local(address)) == address
    packed, raw = check_link_local(address).packed, bytes.fromhex(mac.replace(":", ""))
    assert packed == b"\xfe\x80" + bytes(6) + bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]


@given(unicast_macs)
def test_every_spelling_of_an_address_is_read(mac: str) -> None:
    address = link_local_from_mac(mac)
    for spelling in (ipaddress.IPv6Address(address).exploded, address.upper()):
        assert str(check_link_local(spelling)) == address
        assert mac_from_link_local(spelling) == mac


@pytest.mark.parametrize(
    "text",
    [
        "",
        "96:f6:d6:f3:c0",
        "96:f6:d6:f3:c0:5b:00",
        "96-f6-d6-f3-c0-5b",
        "96f6d6f3c05b",
        "96:f6:d6:f3:c0:5b\n",
        "96:f6:d6:f3:c0:g0",
        "٩٦:f6:d6:f3:c0:5b",
        "01:00:5e:00:00:01",
    ],
)
def test_invalid_mac_address_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        link_local_from_mac(text)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, "NoneType"),
        (b"fe80::1", "bytes"),
        (0xFE80 << 112 | 1, "int"),
        (["fe80::1"], "list"),
        ("", "''"),
        ("fe80::1%en0", "'fe80::1%en0'"),
        ("fe80::1%", "'fe80::1%'"),
        ("fe80::1/64", "'fe80::1/64'"),
        ("[fe80::1]", r"'\[fe80::1\]'"),
        (" fe80::1", "' fe80::1'"),
        ("fe80::1\n", r"'fe80::1\\n'"),
        ("fe80:::1", "'fe80:::1'"),
        ("169.254.1.1", "the IPv4 address '169.254.1.1'"),
        ("::1", "::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:169.254.1.1", "::ffff:"),
        ("fe80:0:0:1::1", "fe80:0:0:1::1"),
        ("fe81::1", "fe81::1"),
        ("fec0::1", "fec0::1"),
        ("ff02::1", "ff02::1"),
        ("mac.lom.test", "'mac.lom.test'"),
    ],
)
def test_address_error_names_the_value_found(value: object, found: str) -> None:
    with pytest.raises(AddressError, match=f"found .*{found}"):
        check_link_local(value)


def test_address_error_is_a_short_peer_error_and_value_error() -> None:
    with pytest.raises(PeerError) as caught:
        check_link_local("f" * 1_000_000)
    assert isinstance(caught.value, ValueError)
    assert caught.value.kind == "address"
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "address", ["fe80::1", "fe80::", "fe80::94f6:d6ff:fff3:c05b", "fe80::3f6:d6ff:fef3:c05b", "::1", "fe80::1%en0"]
)
def test_address_not_derived_from_a_mac_is_refused(address: str) -> None:
    with pytest.raises(AddressError):
        mac_from_link_local(address)


texts = st.text() | st.ip_addresses(v=6).map(str) | st.ip_addresses(v=4).map(str)


@given(texts | st.integers() | st.binary() | st.none() | st.lists(st.text()))
@example("fe80::1")
@example("fe80::1\x00")
def test_any_value_is_an_address_or_address_error(value: object) -> None:
    try:
        address = check_link_local(value)
    except AddressError:
        return
    assert address.is_link_local
    assert address.scope_id is None
    assert address == ipaddress.IPv6Address(value)


@given(st.integers(0, (1 << 64) - 1))
def test_every_link_local_address_is_accepted(identifier: int) -> None:
    address = ipaddress.IPv6Address((0xFE80 << 112) | identifier)
    assert check_link_local(str(address)) == address
