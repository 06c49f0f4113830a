"""HTTP/1.1 requests and URLs: nothing can be slipped in through a part of one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import MisuseError, OperatorError
from agent.net.http.http1 import Origin, split_url
from agent.net.http.request import RequestHead, request_to


def encode_request(
    method: str, origin: Origin, target: str, headers: dict[str, str], body: bytes | None = None
) -> bytes:
    return request_to(method, origin, target, headers, body).http1()


def test_a_request_without_and_with_a_body() -> None:
    origin = Origin("mdm.example.org", 443)
    assert encode_request("GET", origin, "/a?b=c", {"Accept": "*/*"}) == (
        b"GET /a?b=c HTTP/1.1\r\nHost: mdm.example.org\r\nAccept: */*\r\n\r\n"
    )
    assert encode_request("PUT", origin, "/", {}, b"body") == (
        b"PUT / HTTP/1.1\r\nHost: mdm.example.org\r\nContent-Length: 4\r\n\r\nbody"
    )
    assert encode_request("PUT", origin, "/", {}, b"").endswith(b"Content-Length: 0\r\n\r\n")


@given(st.binary(max_size=50), st.one_of(st.none(), st.binary(max_size=50)), st.text("abc \xe9\t", max_size=9))
def test_reused_request_head_equals_a_new_one(first: bytes, body: bytes | None, value: str) -> None:
    origin = Origin("mdm.example.org", 443)
    head = RequestHead("PUT", origin, "/mdm", {"A": "1"})
    assert head.request(first).http1() == encode_request("PUT", origin, "/mdm", {"A": "1"}, first)
    assert head.request(body, {"B": value}).http1() == encode_request(
        "PUT", origin, "/mdm", {"A": "1", "B": value}, body
    )


@pytest.mark.parametrize(("name", "value"), [("B\r\nC", "1"), ("B", "1\r\nC: 2"), ("B", "\x7f"), ("", "1")])
def test_header_cannot_end_the_request_early(name: str, value: str) -> None:
    with pytest.raises(MisuseError):
        RequestHead("PUT", Origin("h", 443), "/", {}).request(b"", {name: value})


@pytest.mark.parametrize(
    ("host", "port", "header"),
    [
        ("mdm.example.org", 443, "mdm.example.org"),
        ("mdm.example.org", 8443, "mdm.example.org:8443"),
        ("192.0.2.1", 80, "192.0.2.1:80"),
        ("2001:db8::1", 443, "[2001:db8::1]"),
        ("2001:db8::1", 8443, "[2001:db8::1]:8443"),
        ("fe80::1%eth0", 443, "[fe80::1]"),
    ],
)
def test_host_header_follows_from_the_url(host: str, port: int, header: str) -> None:
    assert Origin(host, port).header == header


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("https://mdm.example.org", Origin("mdm.example.org", 443), "/"),
        ("https://MDM.Example.org:8443/a/b?c=d&e#f", Origin("mdm.example.org", 8443), "/a/b?c=d&e"),
        ("HTTPS://h?x", Origin("h", 443), "/?x"),
        ("https://[2001:DB8::1]:9/", Origin("2001:db8::1", 9), "/"),
        ("https://h/%20%0d%0a", Origin("h", 443), "/%20%0d%0a"),
        ("https://bücher.example/", Origin("xn--bcher-kva.example", 443), "/"),
        ("https://h:/", Origin("h", 443), "/"),
    ],
)
def test_a_url_is_split(url: str, origin: Origin, target: str) -> None:
    assert split_url(url) == (origin, target)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mdm.example.org",
        "http://h/",
        "https://",
        "https:///a",
        "https://:443/",
        "https://h:0/",
        "https://h:65536/",
        "https://h:x/",
        "https://[::1/",
        "https://h/a b",
        "https://h/a\r\nX: y",
        "https://h/\t",
        "https://h/\x7f",
        "https://h\x00/",
        "https://h /",
        "https://h/ü",
        "https://h/?ü",
        "https://ü..h/",
        "\x1bhttps://h/",
    ],
)
def test_url_without_https_raises_operator_error(url: str) -> None:
    with pytest.raises(OperatorError):
        split_url(url)


@pytest.mark.parametrize("url", ["http://user:secret@h/a?token=secret", "https://h:0/?secret\nsecret"])
def test_an_error_names_a_url_without_its_secrets(url: str) -> None:
    with pytest.raises(OperatorError, match="://h") as raised:
        split_url(url)
    assert "secret" not in str(raised.value)


@given(
    st.text(st.characters(codec="utf-8"), max_size=30),
    st.sampled_from(["https://", "https://h/", "https://h?", "https://h:"]),
)
def test_url_cannot_inject_a_header(text: str, start: str) -> None:
    try:
        origin, target = split_url(start + text)
    except OperatorError:
        return
    request = encode_request("GET", origin, target, {})
    head = f"GET {target} HTTP/1.1\r\nHost: {origin.header}\r\n\r\n"
    assert request == head.encode("ascii")
    assert request.count(b"\r\n") == 3
    assert request.count(b" ") == 3


@given(st.text(max_size=20), st.text(max_size=20))
def test_header_cannot_inject_another_one(name: str, value: str) -> None:
    try:
        request = encode_request("GET", Origin("h", 443), "/", {name: value})
    except MisuseError:
        return
    assert request.split(b"\r\n") == [b"GET / HTTP/1.1", b"Host: h", f"{name}: {value}".encode("latin-1"), b"", b""]
    assert name.isascii()
    assert ":" not in name


@pytest.mark.parametrize(
    ("method", "origin", "target", "headers"),
    [
        ("GET\r\nX: y", Origin("h", 443), "/", {}),
        ("GET /x", Origin("h", 443), "/", {}),
        ("GET", Origin("h\r\nX: y", 443), "/", {}),
        ("GET", Origin("", 443), "/", {}),
        ("GET", Origin("h", 443), "/ HTTP/1.1\r\nX: y", {}),
        ("GET", Origin("h", 443), "", {}),
        ("GET", Origin("h", 443), "/ü", {}),
        ("GET", Origin("h", 443), "/", {"X: y\r\nZ": "1"}),
        ("GET", Origin("h", 443), "/", {"X": "y\r\nZ: 1"}),
        ("GET", Origin("h", 443), "/", {"X": "y\n"}),
        ("GET", Origin("h", 443), "/", {"X": "\0"}),
        ("GET", Origin("h", 443), "/", {"X": "€"}),
        ("GET", Origin("h", 443), "/", {"": "y"}),
    ],
)
def test_request_with_injected_lines_raises_misuse_error(
    method: str, origin: Origin, target: str, headers: dict[str, str]
) -> None:
    with pytest.raises(MisuseError):
        encode_request(method, origin, target, headers)
