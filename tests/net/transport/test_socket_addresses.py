"""Addresses and ports as a person types them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import OperatorError
from agent.net.transport.addresses import parse_address, parse_socket_address, socket_address_text


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fe80::1%eth0]:9464", ("fe80::1%eth0", 9464)),
        ("localhost:9464", ("127.0.0.1", 9464)),
    ],
)
def test_an_address_and_a_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text, "--prometheus", 9464) == address


@pytest.mark.parametrize(
    "text",
    ["", ":", ":9464", "9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:+1", "127.0.0.1:\u0661",
     "::1:9464", "[::1]", "[127.0.0.1]:9464", "example.org:9464", "127.0.0.1:123456", "http://127.0.0.1:9464"],
)  # fmt: skip
def test_a_wrong_address_names_the_option(text: str) -> None:
    with pytest.raises(OperatorError, match="Expected ADDRESS:PORT for --prometheus, such as 127"):
        parse_address(text, "--prometheus", 9464)


@given(st.text())
def test_parsing_fails_with_our_own_error_only(text: str) -> None:
    try:
        host, port = parse_address(text, "--prometheus", 9464)
    except OperatorError:
        return
    assert host
    assert 0 <= port < 65536


@pytest.mark.parametrize(
    ("text", "address"),
    [("apns.example.org:2197", ("apns.example.org", 2197)), ("[::1]:0", ("::1", 0)), ("localhost:1", ("127.0.0.1", 1))],
)
def test_a_host_name_is_accepted_where_names_are(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text, "push.listen", 2197, names=True) == address


@pytest.mark.parametrize("text", ["here", ":2197", "::1:2197", "[here]:2197", "a b:2197", "here:65536"])
def test_invalid_host_name_is_refused(text: str) -> None:
    with pytest.raises(OperatorError, match=r"Expected ADDRESS:PORT for push\.listen"):
        parse_address(text, "push.listen", 2197, names=True)


@given(st.text() | st.from_regex(r"\[[0-9a-f:]*(%[a-z0-9]*)?\]:[0-9]{1,5}", fullmatch=True))
def test_lom_address_survives_a_round_trip(text: str) -> None:
    try:
        address = parse_socket_address(text, "--to")
    except OperatorError:
        pass
    else:
        assert parse_socket_address(socket_address_text(address), "--to") == address
