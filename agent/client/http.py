"""HTTP requests by blocking sockets, on connections that are kept for a few seconds."""

from __future__ import annotations

import http.client
import select
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

CONNECT_SECONDS = 10.0
_KEPT_SECONDS = 5.0  # a server closes idle connections only later
_MOST_KEPT = 10


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


class HTTPClient:
    """Requests to the server at ``url``, by several threads at a time. ``trust`` is for https; None: the system's."""

    def __init__(self, url: str, headers: Mapping[str, str], trust: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError(f"Expected a URL with http:// or https:// and a host, found {url!r}.")
        try:
            self._host, self._port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"Expected a URL with a valid port, found {url!r}.") from error
        self._prefix = parts.path.rstrip("/")
        self._headers = dict(headers)
        self._trust = (trust or ssl.create_default_context()) if parts.scheme == "https" else None
        self._lock = Lock()
        self._kept: list[tuple[float, http.client.HTTPConnection]] = []  # idle since, the newest last
        self._closed = False

    def close(self) -> None:
        """Close the connections; those in use end with their answers."""
        with self._lock:
            self._closed = True
            kept, self._kept = self._kept, []
        for _, connection in kept:
            connection.close()

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
        with self._sent(method, path, body, seconds, query, headers) as (connection, response):
            found = Response(response.status, response.read())
            keeps = not response.will_close
        if keeps:
            self._keep(connection)
        else:
            connection.close()
        return found

    @contextmanager
    def stream(self, path: str, query: Mapping[str, str], *, seconds: float) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The status and the lines of an answer that goes on. Raises NoAnswer where none comes for so many seconds."""
        with self._sent("GET", path, None, seconds, query, None) as (connection, response):
            try:
                yield response.status, iter(response.readline, b"")
            finally:
                connection.close()

    @contextmanager
    def _sent(
        self,
        method: str,
        path: str,
        body: bytes | None,
        seconds: float,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
    ) -> Iterator[tuple[http.client.HTTPConnection, http.client.HTTPResponse]]:
        """A connection with the head of the answer. It is closed where anything fails until the end of the block."""
        target = self._prefix + path + (f"?{urlencode(query)}" if query else "")
        began, limit = time.monotonic(), CONNECT_SECONDS
        connection = self._connection()
        try:
            if connection.sock is None:
                connection.connect()
            limit = seconds
            connection.sock.settimeout(seconds)
            connection.request(method, target, body, {**self._headers, **(headers or {})})
            yield connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            passed = time.monotonic() - began
            found = "none" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
            raise NoAnswer(f"to {method} {path} within {limit:g} s, found {found} after {passed:.1f} s") from error
        except BaseException:
            connection.close()
            raise

    def _connection(self) -> http.client.HTTPConnection:
        """A kept connection that is still open, or a new one."""
        while True:
            with self._lock:
                since, connection = self._kept.pop() if self._kept else (0.0, None)
            if connection is None:
                break
            if time.monotonic() - since < _KEPT_SECONDS and not _readable(connection):
                return connection
            connection.close()
        if self._trust is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_SECONDS)
        return http.client.HTTPSConnection(self._host, self._port, timeout=CONNECT_SECONDS, context=self._trust)

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            keeps = not self._closed and len(self._kept) < _MOST_KEPT
            if keeps:
                self._kept.append((time.monotonic(), connection))
        if not keeps:
            connection.close()


def _readable(connection: http.client.HTTPConnection) -> bool:
    """Whether the server has closed an idle connection, or said what nobody asked for."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))
