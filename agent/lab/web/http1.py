"""HTTP/1.1 of the lab: plain requests for endpoints are answered at once; with another one the connection is given up.

twisted.web then reads it from that request on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from twisted.web.http import RESPONSES

from agent.lab.web.answers import response_fields
from agent.lab.web.requests import LabAnswer, LabRequest

if TYPE_CHECKING:
    from agent.lab.web.connection import LabConnection
    from agent.lab.web.resources import Endpoint

_HEAD_BYTES = 16 * 1024  # of a header section that is read here
_LONGEST_BODY = 64 * 1024  # of a request that is kept in memory
_MOST_FIELDS = 100
_METHODS = (b"GET", b"HEAD", b"POST", b"PUT")
_TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # RFC 9110, 5.6.2
_LENGTH_DIGITS = 6
_NOT_PLAIN = frozenset((b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer"))


class _Head(msgspec.Struct):
    endpoint: Endpoint
    request: LabRequest
    length: int
    closes: bool


class HTTP1Requests:
    """The requests of one connection."""

    def __init__(self, connection: LabConnection) -> None:
        self._connection = connection
        self._buffer = b""
        self._head: _Head | None = None

    def received(self, octets: bytes) -> None:
        """Bytes of the client."""
        self._buffer = self._buffer + octets if self._buffer else octets
        while True:
            head = self._head or self._read_head()
            if head is None or len(self._buffer) < head.length:
                self._head = head
                return
            self._head = None
            body, self._buffer = self._buffer[: head.length], self._buffer[head.length :]
            site = self._connection.site
            if body and site.keeps(head.request):
                head.request.body = body
            self._connection.write(_encoded(site.answer(head.endpoint, head.request), closes=head.closes))
            if head.closes:
                self._connection.close()
                return

    def timed_out(self) -> None:
        """There is nothing to be told to the client."""

    def lost(self, _reason: object) -> None:
        """There is nothing in progress."""

    def _read_head(self) -> _Head | None:
        """The next header section; None if it is not complete, or twisted.web reads the connection now."""
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", 0, _HEAD_BYTES)
        line = buffer.partition(b"\r\n")[0] if b"\r\n" in buffer else b""
        found = self._endpoint(line)
        if end < 0 and len(buffer) < _HEAD_BYTES and (found is not None or not line):
            return None
        head = self._plain(buffer[len(line) + 2 : end], found) if end >= 0 and found is not None else None
        self._buffer = b"" if head is None else buffer[end + 4 :]
        if head is None:
            self._connection.hand_over(buffer)
        return head

    def _endpoint(self, line: bytes) -> tuple[Endpoint, bytes, bytes] | None:
        """The endpoint of a request line, its method and query; None for another URL."""
        method, _space, rest = line.partition(b" ")
        target, _space, version = rest.partition(b" ")
        if method not in _METHODS or version != b"HTTP/1.1":
            return None
        path, _mark, query = target.partition(b"?")
        endpoint = self._connection.site.endpoints.get(path)
        return None if endpoint is None else (endpoint, method, query)

    def _plain(self, section: bytes, found: tuple[Endpoint, bytes, bytes]) -> _Head | None:
        """A header section that needs nothing but an answer, with a short body or none; None for another one."""
        headers: list[tuple[bytes, bytes]] = []
        length, closes = None, False
        for line in section.split(b"\r\n"):
            name, colon, value = line.partition(b":")
            if not name or not colon or name.translate(None, _TOKEN) or len(headers) == _MOST_FIELDS:
                return None
            name, value = name.lower(), value.strip(b" \t")
            if name in _NOT_PLAIN or b"\0" in value or b"\r" in value or b"\n" in value:
                return None
            if name == b"content-length":
                if (
                    length is not None
                    or not value.isdigit()
                    or len(value) > _LENGTH_DIGITS
                    or int(value) > _LONGEST_BODY
                ):
                    return None
                length = int(value)
            elif name == b"connection":
                closes = value.lower() == b"close"
                if not closes and value.lower() != b"keep-alive":
                    return None
            headers.append((name, value))
        endpoint, method, query = found
        return _Head(endpoint, LabRequest(method, query, headers, self._connection.transport), length or 0, closes)


def _encoded(answered: LabAnswer, *, closes: bool) -> bytes:
    lines = [b"HTTP/1.1 %d %s" % (answered.status, RESPONSES.get(answered.status, b""))]
    lines += [b"%s: %s" % field for field in response_fields(answered)]
    if closes:
        lines.append(b"connection: close")
    return b"\r\n".join((*lines, b"", answered.body))
