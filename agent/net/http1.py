"""HTTP/1.1 as a client reads and writes it: bytes in, one response out. No I/O. Source: RFC 9112."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from urllib.parse import urlsplit

from agent.errors import OperatorError, PeerError

MAX_HEAD_BYTES = 32 * 1024
MAX_BODY_BYTES = 8 * 1024 * 1024
_MAX_CHUNK_LINE = 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n\0]*)?\Z")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?\Z")
_LENGTH = re.compile(rb"[0-9]{1,12}\Z")
_NO_BODY = (204, 304)


class ResponseMalformed(PeerError):
    """The server's bytes are no HTTP/1.1 response, or one past the limits."""

    kind = "http"


class ResponseTooLong(ResponseMalformed):
    """The head or the body is over its limit."""

    kind = "http_too_long"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a URL leads: ``host`` without brackets, and the port."""

    host: str
    port: int

    @property
    def header(self) -> str:
        """The value of the Host header (RFC 9112, 3.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Response:
    """One response. ``headers`` has lower-case names; a name that came twice has its values joined by a comma."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    keep_alive: bool


def split_url(url: str) -> tuple[Origin, str]:
    """Origin and request target of an https URL. Raises OperatorError for anything else."""
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError as error:
        raise OperatorError(f"{url!r} is no URL: {error}") from error
    if parts.scheme != "https" or not parts.hostname:
        raise OperatorError(f"expected an https:// URL, found {url!r}")
    target = parts.path or "/"
    return Origin(parts.hostname, port), f"{target}?{parts.query}" if parts.query else target


def encode_request(
    method: str, origin: Origin, target: str, headers: Mapping[str, str], body: bytes | None = None
) -> bytes:
    """The bytes of a request; ``body`` None is a request without one."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {origin.header}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


class _Stage(Enum):
    HEAD = auto()
    LENGTH = auto()
    CHUNK_SIZE = auto()
    CHUNK = auto()
    TRAILER = auto()
    UNTIL_CLOSE = auto()
    DONE = auto()


class ResponseReader:
    """Reads one response, however its bytes are cut. ``started`` says whether any byte came."""

    __slots__ = ("_body", "_buffer", "_headers", "_keep_alive", "_left", "_max_body", "_stage", "_status", "started")

    def __init__(self, max_body: int = MAX_BODY_BYTES) -> None:
        self._max_body = max_body
        self._stage = _Stage.HEAD
        self._buffer = b""
        self._body = bytearray()
        self._left = 0
        self._status = 0
        self._headers: dict[str, str] = {}
        self._keep_alive = True
        self.started = False

    def receive(self, octets: bytes) -> Response | None:
        """Take bytes; the response once it is whole. Raises ResponseMalformed."""
        self.started = True
        self._buffer = self._buffer + octets if self._buffer else octets
        while self._step():
            pass
        if self._stage is not _Stage.DONE:
            return None
        if self._buffer:
            raise ResponseMalformed("the server sent more bytes than its response has")
        return self._response()

    def closed(self) -> Response:
        """The server closed the connection. Raises ResponseMalformed unless that is what ends the response."""
        if self._stage is _Stage.UNTIL_CLOSE:
            return self._response()
        raise ResponseMalformed("the server closed the connection in the middle of its response")

    def _response(self) -> Response:
        return Response(self._status, self._headers, bytes(self._body), self._keep_alive)

    def _step(self) -> bool:
        """Do what the buffer allows; False where more bytes are needed, or none."""
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
        end = self._buffer.find(b"\r\n\r\n")
        if end > MAX_HEAD_BYTES or (end < 0 and len(self._buffer) > MAX_HEAD_BYTES):
            raise ResponseTooLong(f"the response's head is longer than {MAX_HEAD_BYTES} bytes")
        if end < 0:
            return False
        status_line, *lines = self._buffer[:end].split(b"\r\n")
        self._buffer = self._buffer[end + 4 :]
        found = _STATUS_LINE.match(status_line)
        if found is None:
            raise ResponseMalformed(f"expected an HTTP/1.1 status line, found {status_line[:80]!r}")
        self._status = int(found[2])
        self._headers = _parse_headers(lines)
        if 100 <= self._status < 200:
            if self._status == 101:
                raise ResponseMalformed("the server switched protocols, which nobody asked for")
            return True  # an interim response: the final one follows
        connection = {option.strip().lower() for option in self._headers.get("connection", "").split(",")}
        self._keep_alive = "close" not in connection and (found[1] == b"1" or "keep-alive" in connection)
        self._begin_body()
        return True

    def _begin_body(self) -> None:
        coding = self._headers.get("transfer-encoding")
        length = self._headers.get("content-length")
        if self._status in _NO_BODY:
            self._stage = _Stage.DONE
        elif coding is not None:
            if coding.strip().lower() != "chunked":
                raise ResponseMalformed(f"the Transfer-Encoding {coding[:80]!r} was not asked for")
            self._stage = _Stage.CHUNK_SIZE
        elif length is not None:
            lengths = {value.strip() for value in length.split(",")}
            value = lengths.pop()
            if lengths or not _LENGTH.match(value.encode("latin-1")):
                raise ResponseMalformed(f"the Content-Length {length[:80]!r} is no length")
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
        self._buffer = self._buffer[count:]

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
            raise ResponseMalformed("a chunk does not end where its size says")
        self._buffer = self._buffer[2:]
        self._stage = _Stage.CHUNK_SIZE
        return True

    def _read_line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end > _MAX_CHUNK_LINE or (end < 0 and len(self._buffer) > _MAX_CHUNK_LINE):
            raise ResponseTooLong(f"a line of the chunked body is longer than {_MAX_CHUNK_LINE} bytes")
        if end < 0:
            return None
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
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
        if line == b"":
            self._stage = _Stage.DONE
        return bool(line)


def _parse_headers(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.match(name) or b"\0" in value or b"\r" in value or b"\n" in value:
            raise ResponseMalformed(f"expected a header line, found {line[:80]!r}")
        key = name.decode("latin-1").lower()
        text = value.strip(b" \t").decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers
