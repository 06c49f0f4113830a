"""HTTP/1.1 for a client: URLs, and parsing of responses. No I/O. Source: RFC 9112.

The parsed response does not depend on how its bytes are cut. Malformed bytes are reported as early as possible, so that
a server of another protocol is not taken for one that is silent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum, auto
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from agent.errors import MisuseError, OperatorError, PeerError

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADER_LINES = 256  # of a head, and of a chunked body's trailer
MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_CHUNK_LINE_BYTES = 1024
KEPT_HEADS = 256  # parsed heads in memory, by their bytes: a server's answers differ in little else than their date
KEPT_HEAD_BYTES = 4096  # longer ones are parsed each time
MAX_INTERIM_RESPONSES = 16  # (100 Continue, 103 Early Hints) before the final one
_DEFAULT_PORTS = {"https": 443, "http": 80}
_VERSION = b"HTTP/1."
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n\0]*)?\Z")
# Blanks around the value are stripped afterwards: two adjacent quantifiers that both match blanks backtrack.
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n\0]*)")
_FOLD = re.compile(r"\r\n[ \t]+")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?\Z")
_LENGTH = re.compile(rb"[0-9]{1,12}\Z")
_NO_BODY = (204, 304)
_VISIBLE = re.compile(r"[!-~]+\Z")  # of ASCII: a space would end a request target, a line end would begin a header


class ResponseMalformed(PeerError):
    """The server's bytes are not a valid HTTP/1.1 response, or exceed a limit."""

    kind = "http"


class ResponseTooLong(ResponseMalformed):
    """The head or the body exceeds its limit."""

    kind = "http_too_long"


class Origin(msgspec.Struct, frozen=True):
    """The origin of a URL: ``host`` without brackets, the port, and whether it uses TLS."""

    host: str
    port: int
    secure: bool = True

    @property
    def header(self) -> str:
        """The value of the Host header (RFC 9112, 3.2); without an IPv6 scope (RFC 6874, 4)."""
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS["https" if self.secure else "http"] else f"{host}:{self.port}"


class Response(NamedTuple):
    """One response. ``headers`` has lower-case names; repeated headers are joined by commas."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    keep_alive: bool


def is_visible(text: str) -> bool:
    """Whether a URL's part is of visible ASCII characters only."""
    return bool(_VISIBLE.match(text))


def without_query(url: str) -> str:
    """A URL for an error text: a query may hold a secret, and so may what is before the host."""
    scheme, slashes, rest = url.partition("?")[0].partition("//")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"[:200]


def split_url(url: str, *, plain: bool = False) -> tuple[Origin, str]:
    """Origin and request target of an https URL; ``plain`` also allows http. Raises OperatorError.

    A host name that is not ASCII is turned into its IDNA form; a path that is not ASCII must be percent-encoded.
    """
    shown = repr(without_query(url))
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise OperatorError(f"{shown} is not a URL: {error}") from error
    if not host or parts.scheme not in (_DEFAULT_PORTS if plain else ("https",)):
        raise OperatorError(f"expected an {'http:// or ' if plain else ''}https:// URL, found {shown}")
    if port == 0:
        raise OperatorError(f"port 0 of {shown} cannot be connected to")
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError as error:
            raise OperatorError(f"the host name of {shown} is invalid: {error}") from error
    target = parts.path or "/"
    if parts.query:
        target = f"{target}?{parts.query}"
    # urlsplit silently drops line ends and tabs, so the URL itself is checked, too.
    if not url.isprintable() or not is_visible(host) or not is_visible(target):
        raise OperatorError(f"{shown} has spaces or other characters that a URL must have percent-encoded")
    return Origin(host, port or _DEFAULT_PORTS[parts.scheme], parts.scheme == "https"), target


class _Stage(Enum):
    HEAD = auto()
    LENGTH = auto()
    CHUNK_SIZE = auto()
    CHUNK = auto()
    TRAILER = auto()
    UNTIL_CLOSE = auto()
    DONE = auto()


class ResponseReader:
    """Reads one response to any request but HEAD and CONNECT, however its bytes are cut.

    ``started`` is whether any byte arrived.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_head",
        "_interims",
        "_keep_alive",
        "_left",
        "_max_body",
        "_searched",
        "_stage",
        "_trailers",
        "started",
    )

    def __init__(self, max_body: int = MAX_BODY_BYTES) -> None:
        self._max_body = max_body
        self._stage = _Stage.HEAD
        self._buffer = bytearray()  # what is taken from its front costs nothing, however many small chunks there are
        self._searched = 0  # bytes of an unfinished head that were searched for its end, and are not searched again
        self._body = bytearray()
        self._left = 0
        self._head = _NO_HEAD
        self._interims = 0
        self._trailers = 0
        self._keep_alive = True
        self.started = False

    def receive(self, octets: bytes) -> Response | None:
        """Take bytes; the response once it is whole. Raises ResponseMalformed.

        Bytes past the response belong to nothing (RFC 9112, 6.3): they are thrown away, and the connection is not to
        be used again.
        """
        if self._whole():
            raise MisuseError("bytes for a response that is whole")
        if not self.started:
            self.started = True
            response = self._whole_in(octets)
            if response is not None:
                return response
        self._buffer += octets
        while self._step():
            pass
        if not self._whole():
            return None
        if self._buffer:
            self._keep_alive = False
        return self._response()

    def _whole_in(self, octets: bytes) -> Response | None:
        """The response if it is exactly these bytes, as most are, without a copy of them. Raises ResponseMalformed."""
        end = octets.find(b"\r\n\r\n")
        if not 0 <= end <= KEPT_HEAD_BYTES:
            return None
        head = _kept_head(octets[:end])
        length = len(octets) - end - 4
        if head.status < 200 or head.stage not in (_Stage.LENGTH, _Stage.DONE) or head.length != length:
            return None
        if length > self._max_body:
            return None
        self._stage = _Stage.DONE
        return Response(head.status, head.headers, octets[end + 4 :], head.keep_alive)

    def closed(self) -> Response:
        """The server closed the connection. Raises ResponseMalformed unless that is what ends the response."""
        if self._stage is _Stage.UNTIL_CLOSE:
            return self._response()
        raise ResponseMalformed("the server closed the connection before the end of its response")

    def _whole(self) -> bool:
        return self._stage is _Stage.DONE

    def _response(self) -> Response:
        return Response(self._head.status, self._head.headers, bytes(self._body), self._keep_alive)

    def _step(self) -> bool:
        """Parse one element; False where more bytes are needed, or the response is complete."""
        match self._stage:
            case _Stage.HEAD:
                return self._read_head()
            case _Stage.LENGTH | _Stage.CHUNK:
                return self._read_counted()
            case _Stage.CHUNK_SIZE:
                return self._read_chunk_size()
            case _Stage.TRAILER:
                return self._read_trailer()
            case _Stage.UNTIL_CLOSE:
                self._take(len(self._buffer))
                return False
        return False

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        if end < 0:
            self._check_unfinished_head()
            self._searched = len(self._buffer)
            return False
        self._searched = 0
        if end > MAX_HEAD_BYTES:
            raise ResponseTooLong(f"the response's head is longer than {MAX_HEAD_BYTES} bytes")
        octets = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        head = _kept_head(octets) if end <= KEPT_HEAD_BYTES else _head(octets)
        self._head = head
        if head.status >= 200:
            self._keep_alive = head.keep_alive
            self._stage = head.stage
            if head.length:
                self._expect(head.length)
            return True
        self._interims += 1
        if self._interims > MAX_INTERIM_RESPONSES:
            raise ResponseTooLong(f"the server sent more than {MAX_INTERIM_RESPONSES} interim responses")
        return True  # the final response follows

    def _check_unfinished_head(self) -> None:
        """Refuse at once bytes that cannot be the beginning of a head."""
        buffer = self._buffer
        if not _VERSION.startswith(buffer[: len(_VERSION)]):
            raise _no_status_line(bytes(buffer))
        if buffer.count(b"\n", self._searched) != buffer.count(b"\r\n", max(0, self._searched - 1)):
            raise ResponseMalformed("expected CR LF at the end of each line of the response's head, found LF alone")
        if len(buffer) > MAX_HEAD_BYTES + 3:  # a part of CR LF CR LF may be at its end
            raise ResponseTooLong(f"the response's head is longer than {MAX_HEAD_BYTES} bytes")

    def _expect(self, count: int) -> None:
        if len(self._body) + count > self._max_body:
            raise ResponseTooLong(f"the response's body is longer than {self._max_body} bytes")
        self._left = count

    def _take(self, count: int) -> None:
        if len(self._body) + count > self._max_body:
            raise ResponseTooLong(f"the response's body is longer than {self._max_body} bytes")
        self._body += self._buffer[:count]
        del self._buffer[:count]

    def _read_counted(self) -> bool:
        count = min(self._left, len(self._buffer))
        self._take(count)
        self._left -= count
        if self._left:
            return False
        if self._stage is _Stage.LENGTH:
            self._stage = _Stage.DONE
            return False
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise ResponseMalformed("expected CR LF at the end of a chunk, found other bytes")
        del self._buffer[:2]
        self._stage = _Stage.CHUNK_SIZE
        return True

    def _read_line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0 and b"\n" in self._buffer:
            raise ResponseMalformed("expected CR LF at the end of each line of a chunked body, found LF alone")
        if end > MAX_CHUNK_LINE_BYTES or (end < 0 and len(self._buffer) > MAX_CHUNK_LINE_BYTES + 1):
            raise ResponseTooLong(f"a line of the chunked body is longer than {MAX_CHUNK_LINE_BYTES} bytes")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _read_chunk_size(self) -> bool:
        line = self._read_line()
        if line is None:
            return False
        found = _CHUNK_SIZE.match(line)
        if found is None:
            raise ResponseMalformed(f"expected the size of a chunk, found {line[:80]!r}")
        self._expect(int(found[1], 16))
        self._stage = _Stage.CHUNK if self._left else _Stage.TRAILER
        return True

    def _read_trailer(self) -> bool:
        line = self._read_line()
        if line is None:
            return False
        if not line:
            self._stage = _Stage.DONE
            return False
        self._trailers += 1
        if self._trailers > MAX_HEADER_LINES:
            raise ResponseTooLong(f"the chunked body's trailer has more than {MAX_HEADER_LINES} lines")
        _parse_headers(line)  # checked for its form only
        return True


class _Head(NamedTuple):
    """A parsed head: with ``stage`` the reader continues, ``length`` is that of the body where it is known."""

    status: int
    headers: Mapping[str, str]
    keep_alive: bool
    stage: _Stage
    length: int = 0


_NO_HEAD = _Head(0, MappingProxyType({}), keep_alive=True, stage=_Stage.HEAD)


def _head(octets: bytes) -> _Head:
    """Parse a head; nothing in the result can be changed. Raises ResponseMalformed."""
    status_line, _, fields = octets.partition(b"\r\n")
    found = _STATUS_LINE.match(status_line)
    if found is None:
        raise _no_status_line(status_line)
    status = int(found[2])
    headers = MappingProxyType(_parse_headers(fields))
    if status == 101:
        raise ResponseMalformed("expected a final response, found 101 Switching Protocols")
    options = {option.strip(" \t").lower() for option in headers.get("connection", "").split(",")}
    keep_alive = "close" not in options and (found[1] == b"1" or "keep-alive" in options)
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if status < 200 or status in _NO_BODY:
        return _Head(status, headers, keep_alive, _Stage.DONE)
    if coding is not None:
        if coding.lower() != "chunked":
            raise ResponseMalformed(f"expected Transfer-Encoding chunked, found {coding[:80]!r}")
        if length is not None or found[1] == b"0":
            keep_alive = False  # RFC 9112, 6.1 and 6.3: the framing is in doubt after this response
        return _Head(status, headers, keep_alive, _Stage.CHUNK_SIZE)
    if length is None:
        return _Head(status, headers, keep_alive=False, stage=_Stage.UNTIL_CLOSE)
    count = content_length(length)
    return _Head(status, headers, keep_alive, _Stage.LENGTH if count else _Stage.DONE, count)


_kept_head = lru_cache(KEPT_HEADS)(_head)


def content_length(text: str) -> int:
    """The value of Content-Length, which may be repeated. Raises ResponseMalformed."""
    lengths = {value.strip(" \t") for value in text.split(",")}
    value = lengths.pop()
    if lengths or not _LENGTH.match(value.encode("latin-1")):
        raise ResponseMalformed(f"expected a decimal Content-Length, found {text[:80]!r}")
    return int(value)


def _parse_headers(fields: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    if not fields:
        return headers
    text = fields.decode("latin-1")
    if "\r\n " in text or "\r\n\t" in text:
        text = _FOLD.sub(" ", text)  # RFC 9112, 5.2: an obsolete folded line is one line
    lines = text.split("\r\n", MAX_HEADER_LINES)
    if len(lines) > MAX_HEADER_LINES:
        raise ResponseTooLong(f"the response's head has more than {MAX_HEADER_LINES} header lines")
    repeated: dict[str, list[str]] = {}
    for line in lines:
        found = _FIELD.fullmatch(line)
        if found is None:
            raise ResponseMalformed(f"expected a header line, found {line[:80].encode('latin-1')!r}")
        name, value = found.groups()
        key, value = name.lower(), value.strip(" \t")
        if key in headers:
            repeated.setdefault(key, [headers[key]]).append(value)
        else:
            headers[key] = value
    for key, values in repeated.items():
        headers[key] = ", ".join(values)
    return headers


def _no_status_line(found: bytes) -> ResponseMalformed:
    return ResponseMalformed(f"expected an HTTP/1.1 status line, found {found[:80]!r}")
