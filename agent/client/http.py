"""HTTP requests by blocking sockets, on connections that are kept for a few seconds."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 10.0
_KEPT_SECONDS = 5.0  # a server closes idle connections only later
_MOST_KEPT = 10
_MOST_SECONDS = 86_400.0  # a socket takes no time limit above 2**31 ms; the service refuses any longer wait
_MOST_NAMED = 200  # characters of a path in an error


class NoAnswer(Exception):
    """A request had no answer. The text says which, and how long it was waited for."""


class Response(NamedTuple):
    """An answer."""

    status: int
    content: bytes

    @property
    def text(self) -> str:
        """The content as text."""
        return self.content.decode("utf-8", "replace")


def path_segment(text: str) -> str:
    """A name as one segment of a path. A dot is quoted where the segment would otherwise stand for another path."""
    return text.replace(".", "%2E") if text in (".", "..") else quote(text, safe="")


def load() -> None:
    """Import httpx, which takes longer than everything else here: a service that was just started starts meanwhile."""
    import httpx

    httpx.HTTPTransport(verify=_no_trust()).close()  # the first one imports what it needs


def _no_trust() -> ssl.SSLContext:
    """For http, where it is unused: httpx would read all CAs for its own."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class HTTPClient:
    """Requests to the server at ``url``, by several threads at a time. ``trust`` is for https; None: the system's."""

    def __init__(self, url: str, headers: Mapping[str, str], trust: ssl.SSLContext | None = None) -> None:
        import httpx

        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError(f"Expected a URL with http:// or https:// and a host, found {url!r}.")
        try:
            port = parts.port
        except ValueError as error:
            raise ValueError(f"Expected a URL with a valid port, found {url!r}.") from error
        if parts.scheme == "http":
            trust = _no_trust()
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self._prefix = f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"
        self._errors = httpx.TransportError, httpx.StreamError, httpx.DecodingError, httpx.InvalidURL
        self._time_out, self._no_connection = httpx.TimeoutException, (httpx.ConnectError, httpx.ConnectTimeout)
        self._headers, self._trust = dict(headers), trust or ssl.create_default_context()
        self.closed = False
        self._inherited: list[httpx.HTTPTransport] = []  # of the process that this one was forked from
        self._open()

    def _open(self) -> None:
        import httpx

        self._process = os.getpid()
        self._transport = httpx.HTTPTransport(  # its Client logs each request, which a test of logging would see
            verify=self._trust,
            limits=httpx.Limits(max_keepalive_connections=_MOST_KEPT, keepalive_expiry=_KEPT_SECONDS),
            trust_env=False,  # no proxy between a test and its fleet
        )

    def _of_this_process(self) -> httpx.HTTPTransport:
        """A fork must use neither its parent's connections nor the lock of their pool."""
        if self._process != os.getpid():
            self._inherited.append(self._transport)
            self._open()
        return self._transport

    def close(self) -> None:
        """Close the connections. Another thread's request ends with NoAnswer, at the latest when it has its answer."""
        self.closed = True
        self._of_this_process().close()

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        seconds: float,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """The answer to a request. Raises NoAnswer where none comes for so many ``seconds``."""
        with self._sent(method, path, body, seconds, query, headers) as response:
            return Response(response.status_code, response.read())

    @contextmanager
    def stream(self, path: str, query: Mapping[str, str], *, seconds: float) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The status and the lines of an answer that goes on. Raises NoAnswer where none comes for so many seconds."""
        with self._sent("GET", path, None, seconds, query, None) as response:
            yield response.status_code, _lines(response.iter_bytes())

    @contextmanager
    def _sent(
        self,
        method: str,
        path: str,
        body: bytes | None,
        seconds: float,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
    ) -> Iterator[httpx.Response]:
        """The head of an answer. Its connection is closed, or kept where all was read, at the end of the block."""
        import httpx

        began, named = time.monotonic(), path[:_MOST_NAMED]
        allowed = seconds if 0 < seconds < _MOST_SECONDS else _MOST_SECONDS
        if self.closed:
            raise NoAnswer(f"to {method} {named}, found that the connection is closed")
        try:
            request = httpx.Request(
                method, self._prefix + path, params=query or None, content=body,
                headers=self._headers | dict(headers or {}),
                extensions={"timeout": httpx.Timeout(allowed, connect=CONNECT_SECONDS).as_dict()},
            )  # fmt: skip
            with closing(self._of_this_process().handle_request(request)) as response:
                yield response
        except Exception as error:
            if not (self.closed or isinstance(error, self._errors)):
                raise
            limit = CONNECT_SECONDS if isinstance(error, self._no_connection) else seconds
            passed = time.monotonic() - began
            found = "none" if isinstance(error, self._time_out) else str(error) or type(error).__name__
            raise NoAnswer(f"to {method} {named} within {limit:g} s, found {found} after {passed:.1f} s") from error


def _lines(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of an answer, each with its line feed; only that ends a line, whatever else a text may have."""
    rest = b""
    for part in parts:
        *whole, rest = (rest + part).split(b"\n")
        yield from (line + b"\n" for line in whole)
    if rest:
        yield rest
