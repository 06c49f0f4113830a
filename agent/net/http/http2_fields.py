"""The header section of an HTTP/2 response, parsed once for all connections. Source: RFC 9113, 8.2 and 8.3.2."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from agent.net.http.hpack import BlockMalformed, decode
from agent.net.http.http1 import KEPT_HEAD_BYTES, KEPT_HEADS, content_length
from agent.net.http.http2_frames import ErrorCode, HTTP2Malformed

# RFC 9113, 8.2.2: they belong to a connection of HTTP/1.1.
CONNECTION_FIELDS = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))

NO_BODY = (204, 304)  # RFC 9110, 6.4.1

_KEPT_NAMES = 256  # checked names, each of at most _MAX_KEPT_NAME_BYTES
_MAX_KEPT_NAME_BYTES = 64
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+\Z")  # RFC 9113, 8.2.1: in lower case
_NOT_OF_VALUES = re.compile(rb"[\0\r\n]")
_STATUS = re.compile(rb"[1-9][0-9]{2}\Z")


class ResponseHead(NamedTuple):
    """``length`` is that of Content-Length, None without one."""

    status: int
    headers: Mapping[str, str]
    length: int | None


NO_HEAD = ResponseHead(0, MappingProxyType({}), None)


def response_head(block: bytes) -> ResponseHead:
    """The head in a field block; ``headers`` is immutable. Raises ResponseMalformed."""
    return _kept_head(block) if len(block) <= KEPT_HEAD_BYTES else _head(block)


def check_trailers(block: bytes) -> None:
    """Check the trailers in a field block, which are not used. Raises ResponseMalformed."""
    _headers(_fields(block))


def _head(block: bytes) -> ResponseHead:
    fields = _fields(block)
    name, status = fields[0] if fields else (b"", b"")
    if name != b":status" or not _STATUS.match(status):
        raise HTTP2Malformed(f"expected :status with three digits first, found {name[:80]!r}: {status[:80]!r}")
    headers = _headers(fields[1:])
    length = headers.get("content-length")
    return ResponseHead(int(status), MappingProxyType(headers), None if length is None else content_length(length))


_kept_head = lru_cache(KEPT_HEADS)(_head)


def _fields(block: bytes) -> list[tuple[bytes, bytes]]:
    try:
        return decode(block)
    except BlockMalformed as error:
        raise HTTP2Malformed(str(error), ErrorCode.COMPRESSION_ERROR) from None


def _headers(fields: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """With repeated fields joined by commas, as in a Response."""
    headers: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}
    suspect = _NOT_OF_VALUES.search(b"".join([value for _, value in fields]))
    for name, value in fields:
        key = _kept_name(name) if len(name) <= _MAX_KEPT_NAME_BYTES else _name(name)
        if suspect and _NOT_OF_VALUES.search(value):
            raise HTTP2Malformed(f"the value of the header {key[:80]} has a line end or a NUL")
        text = value.decode("latin-1").strip(" \t")
        if key in headers:
            repeated.setdefault(key, [headers[key]]).append(text)
        else:
            headers[key] = text
    for key, values in repeated.items():
        headers[key] = ", ".join(values)
    return headers


def _name(octets: bytes) -> str:
    if not _NAME.match(octets) or octets in CONNECTION_FIELDS:
        raise HTTP2Malformed(f"expected a header of HTTP/2 in lower case, found {octets[:80]!r}")
    return octets.decode()


_kept_name = lru_cache(_KEPT_NAMES)(_name)
