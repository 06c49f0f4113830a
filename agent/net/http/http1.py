"""HTTP/1.1 for a client: encodes requests, parses responses. No I/O. Source: RFC 9112.

The parsed response does not depend on how its bytes are cut. Malformed bytes are reported as early as possible, so that
a server of another protocol is not taken for one that is silent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple
from urllib.parse import urlsplit

from agent.errors import MisuseError, OperatorError, PeerError

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADER_LINES = 256  # of a head, and of a chunked body's trailer
MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_CHUNK_LINE_BYTES = 1024
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
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VISIBLE = re.compile(r"[!-~]+\Z")  # of ASCII: a space would end a request target, a line end would begin a header
_FIELD_VALUE = re.compile(r"[ -~\t\x80-\xff]*\Z")


class ResponseMalformed(PeerError):
    """The server's bytes are not a valid HTTP/1.1 response, or exceed a limit."""

    kind = "http"


class ResponseTooLong(ResponseMalformed):
    """The head or the body exceeds its limit."""

    kind = "http_too_long"


@dataclass(frozen=True, slots=True)
class Origin:
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
    if not url.isprintable() or not _VISIBLE.match(host) or not _VISIBLE.match(target):
        raise OperatorError(f"{shown} has spaces or other characters that a URL must have percent-encoded")
    return Origin(host, port or _DEFAULT_PORTS[parts.scheme], parts.scheme == "https"), target


class RequestHead:
    """The request line and the headers that requests to one URL share, checked and encoded once.

    Raises MisuseError for characters that would end a part early (header injection).
    """

    __slots__ = ("_octets",)

    def __init__(self, method: str, origin: Origin, target: str, headers: Mapping[str, str]) -> None:
        if not (_FIELD_NAME.match(method) and _VISIBLE.match(target) and _VISIBLE.match(origin.header)):
            raise MisuseError(f"invalid request line: method {method!r}, target {target!r}, host {origin.header!r}")
        line = f"{method} {target} HTTP/1.1\r\nHost: {origin.header}\r\n"
        self._octets = line.encode("latin-1") + _header_lines(headers)

    def request(self, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
        """The bytes of a request with additional ``headers``; without a body if ``body`` is None."""
        own = _header_lines(headers) if headers else b""
        if body is None:
            return b"%b%b\r\n" % (self._octets, own)
        return b"%b%bContent-Length: %d\r\n\r\n%b" % (self._octets, own, len(body), body)


def encode_request(
    method: str, origin: Origin, target: str, headers: Mapping[str, str], body: bytes | None = None
) -> bytes:
    """The bytes of a single request. Raises as ``RequestHead``."""
    return RequestHead(method, origin, target, headers).request(body)


def _header_lines(headers: Mapping[str, str]) -> bytes:
    lines = []
    for name, value in headers.items():
        if not _FIELD_NAME.match(name) or not _is_field_value(value):
            raise MisuseError(f"invalid header: {name!r}: {value!r}")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("latin-1")


def _is_field_value(value: str) -> bool:
    """Whether a header may have this value. The first test covers most values and is ten times as fast."""
    return (value.isascii() and value.isprintable()) or bool(_FIELD_VALUE.match(value))


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
        "_headers",
        "_interims",
        "_keep_alive",
        "_left",
        "_max_body",
        "_searched",
        "_stage",
        "_status",
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
        self._status = 0
        self._headers: dict[str, str] = {}
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
        self.started = True
        self._buffer += octets
        while self._step():
            pass
        if not self._whole():
            return None
        if self._buffer:
            self._keep_alive = False
        return self._response()

    def closed(self) -> Response:
        """The server closed the connection. Raises ResponseMalformed unless that is what ends the response."""
        if self._stage is _Stage.UNTIL_CLOSE:
            return self._response()
        raise ResponseMalformed("the server closed the connection before the end of its response")

    def _whole(self) -> bool:
        return self._stage is _Stage.DONE

    def _response(self) -> Response:
        return Response(self._status, self._headers, bytes(self._body), self._keep_alive)

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
        status_line, _, fields = bytes(self._buffer[:end]).partition(b"\r\n")
        del self._buffer[: end + 4]
        found = _STATUS_LINE.match(status_line)
        if found is None:
            raise _no_status_line(status_line)
        self._status = int(found[2])
        self._headers = _parse_headers(fields)
        if self._status < 200:
            self._interims += 1
            if self._status == 101:
                raise ResponseMalformed("expected a final response, found 101 Switching Protocols")
            if self._interims > MAX_INTERIM_RESPONSES:
                raise ResponseTooLong(f"the server sent more than {MAX_INTERIM_RESPONSES} interim responses")
            return True  # the final response follows
        self._begin_body(version=found[1])
        return True

    def _check_unfinished_head(self) -> None:
        """Refuse at once bytes that cannot be the beginning of a head."""
        buffer = self._buffer
        if not _VERSION.startswith(buffer[: len(_VERSION)]):
            raise _no_status_line(bytes(buffer))
        if buffer.count(b"\n", self._searched) != buffer.count(b"\r\n", max(0, self._searched - 1)):
            raise ResponseMalformed("expected CR LF at the end of each line of the response's head, found LF alone")
        if len(buffer) > MAX_HEAD_BYTES + 3:  # a part of CR LF CR LF may be at its end
            raise ResponseTooLong(f"the response's head is longer than {MAX_HEAD_BYTES} bytes")

    def _begin_body(self, *, version: bytes) -> None:
        headers = self._headers
        options = {option.strip(" \t").lower() for option in headers.get("connection", "").split(",")}
        self._keep_alive = "close" not in options and (version == b"1" or "keep-alive" in options)
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if self._status in _NO_BODY:
            self._stage = _Stage.DONE
        elif coding is not None:
            if coding.lower() != "chunked":
                raise ResponseMalformed(f"expected Transfer-Encoding chunked, found {coding[:80]!r}")
            if length is not None or version == b"0":
                self._keep_alive = False  # RFC 9112, 6.1 and 6.3: the framing is in doubt after this response
            self._stage = _Stage.CHUNK_SIZE
        elif length is not None:
            lengths = {value.strip(" \t") for value in length.split(",")}
            value = lengths.pop()
            if lengths or not _LENGTH.match(value.encode("latin-1")):
                raise ResponseMalformed(f"expected a decimal Content-Length, found {length[:80]!r}")
            self._expect(int(value))
            self._stage = _Stage.LENGTH if self._left else _Stage.DONE
        else:
            self._keep_alive = False
            self._stage = _Stage.UNTIL_CLOSE

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
