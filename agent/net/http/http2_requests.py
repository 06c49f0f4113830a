"""The header section of an HTTP/2 request. Source: RFC 9113, 8.1.1, 8.2 and 8.3.1."""

from __future__ import annotations

import re
from functools import lru_cache

from agent.net.http.http2_fields import CONNECTION_FIELDS
from agent.net.http.http2_frames import HTTP2Malformed

_KEPT_NAMES = 256  # checked names, each of at most _MAX_KEPT_NAME_BYTES
_MAX_KEPT_NAME_BYTES = 64
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+\Z")  # RFC 9113, 8.2.1: in lower case
_NOT_OF_VALUES = re.compile(rb"[\0\r\n]")
_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_NEEDED = (b":method", b":scheme", b":path")

Fields = list[tuple[bytes, bytes]]


def request_length(fields: Fields) -> int | None:
    """Check the header section of a request; its Content-Length, None without one. Raises HTTP2Malformed."""
    pseudo: dict[bytes, bytes] = {}
    length = host = None
    regular = False
    for name, value in fields:
        _check_value(name, value)
        if name[:1] == b":":
            if regular or name in pseudo or name not in _PSEUDO:
                raise HTTP2Malformed(f"expected each pseudo-header once and first, found {name[:80]!r}")
            pseudo[name] = value
            continue
        regular = True
        _check_name(name) if len(name) <= _MAX_KEPT_NAME_BYTES else _check(name)
        if name == b"content-length":
            length = _length(value, length)
        elif name == b"host":
            host = value
        elif name == b"te" and value != b"trailers":
            raise HTTP2Malformed(f"expected trailers as te, found {value[:80]!r}")
    if not all(pseudo.get(name) for name in _NEEDED):
        raise HTTP2Malformed("expected :method, :scheme and :path in a request")
    authority = pseudo.get(b":authority", host)
    if authority is None or (host is not None and host != authority):
        raise HTTP2Malformed("expected :authority in a request, and the same host")
    return length


def check_request_trailers(fields: Fields) -> None:
    """Check the trailers of a request, which are not used. Raises HTTP2Malformed."""
    for name, value in fields:
        _check(name)
        _check_value(name, value)


def _length(value: bytes, before: int | None) -> int:
    if not value.isdigit() or len(value) > 12 or before not in (None, int(value)):
        raise HTTP2Malformed(f"expected one number as content-length, found {value[:80]!r}")
    return int(value)


def _check_value(name: bytes, value: bytes) -> None:
    if _NOT_OF_VALUES.search(value) or value != value.strip(b" \t"):  # RFC 9113, 8.2.1
        raise HTTP2Malformed(f"the value of the header {name[:80]!r} has a line end, a NUL, or a space at an end")


def _check(name: bytes) -> None:
    if not _NAME.match(name) or name in CONNECTION_FIELDS or name == b"proxy-connection":
        raise HTTP2Malformed(f"expected a header of HTTP/2 in lower case, found {name[:80]!r}")


_check_name = lru_cache(_KEPT_NAMES)(_check)
