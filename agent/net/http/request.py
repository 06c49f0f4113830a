"""A request that is encoded once the connection's version of HTTP is known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from agent.errors import MisuseError
from agent.net.http import hpack
from agent.net.http.http1 import Origin, is_visible
from agent.net.http.http2_fields import CONNECTION_FIELDS

_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_FIELD_VALUE = re.compile(r"[ -~\t\x80-\xff]*\Z")
_CONTENT_LENGTH = hpack.encode([(b"content-length", b"0")])[:-2]  # what is before the length of the value
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class RequestHead:
    """What requests to one URL share: the method, the URL and headers, checked once and encoded once.

    ``closes`` is whether they ask for the end of the connection: HTTP/2 has no header for it, so the client ends it.
    Raises MisuseError for characters that would end a part early (header injection).
    """

    __slots__ = ("_block", "_lines", "closes")

    def __init__(self, method: str, origin: Origin, target: str, headers: Mapping[str, str]) -> None:
        if not (_FIELD_NAME.match(method) and is_visible(target) and is_visible(origin.header)):
            raise MisuseError(f"invalid request line: method {method!r}, target {target!r}, host {origin.header!r}")
        _check(headers)
        self.closes = any(name.lower() == "connection" and value.lower() == "close" for name, value in headers.items())
        line = f"{method} {target} HTTP/1.1\r\nHost: {origin.header}\r\n"
        self._lines = line.encode("latin-1") + _header_lines(headers)
        pseudo = {
            ":method": method,
            ":scheme": "https" if origin.secure else "http",
            ":authority": origin.header,
            ":path": target,
        }
        self._block = _field_block(pseudo | dict(headers))

    def request(
        self, body: bytes | None = None, headers: Mapping[str, str] = _NO_HEADERS, *, valid: bool = False
    ) -> Request:
        """A request with additional ``headers``; without a body if ``body`` is None. Raises MisuseError.

        ``valid``: the headers have only characters that headers may have, and are not checked.
        """
        if not valid:
            _check(headers)
        return Request(self, body, headers)

    def http1(self, body: bytes | None, headers: Mapping[str, str]) -> bytes:
        """A request's bytes in HTTP/1.1 (RFC 9112, 3)."""
        own = _header_lines(headers) if headers else b""
        if body is None:
            return b"%b%b\r\n" % (self._lines, own)
        return b"%b%bContent-Length: %d\r\n\r\n%b" % (self._lines, own, len(body), body)

    def field_block(self, body: bytes | None, headers: Mapping[str, str]) -> bytes:
        """A request's header section in HTTP/2 (RFC 9113, 8.3.1)."""
        own = _field_block(headers) if headers else b""
        if body is None:
            return self._block + own
        length = b"%d" % len(body)
        return b"%b%b%b%c%b" % (self._block, own, _CONTENT_LENGTH, len(length), length)


class Request(NamedTuple):
    """One request. ``body`` is None where it has none."""

    head: RequestHead
    body: bytes | None = None
    headers: Mapping[str, str] = _NO_HEADERS

    def http1(self) -> bytes:
        """Its bytes in HTTP/1.1."""
        return self.head.http1(self.body, self.headers)


def request_to(
    method: str, origin: Origin, target: str, headers: Mapping[str, str], body: bytes | None = None
) -> Request:
    """A single request. Raises as ``RequestHead``."""
    return RequestHead(method, origin, target, headers).request(body)


def _check(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not _FIELD_NAME.match(name) or not _is_field_value(value):
            raise MisuseError(f"invalid header: {name!r}: {value!r}")


def _is_field_value(value: str) -> bool:
    """Whether a header may have this value. The first test covers most values and is ten times as fast."""
    return (value.isascii() and value.isprintable()) or bool(_FIELD_VALUE.match(value))


def _header_lines(headers: Mapping[str, str]) -> bytes:
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode("latin-1")


def _field_block(headers: Mapping[str, str]) -> bytes:
    fields = [(name.lower().encode(), value.strip(" \t").encode("latin-1")) for name, value in headers.items()]
    return hpack.encode(each for each in fields if each[0] not in CONNECTION_FIELDS)
