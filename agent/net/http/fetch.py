"""HTTP requests for coroutines: redirects, Retry-After."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin

from twisted.internet.defer import Deferred

from agent.errors import OperatorError, PeerError
from agent.net.http.connection import HTTPConnection
from agent.net.http.http1 import Origin, Response, split_url, without_query
from agent.net.http.request import Request, request_to

REDIRECTS = (301, 302, 307, 308)  # those that keep the method of a PUT (RFC 9110, 15.4)
MAX_REDIRECTS = 5

ConnectionTo = Callable[[Origin], HTTPConnection]
Exchanger = Callable[[HTTPConnection, Request, str, str, bytes | None], Awaitable[Response]]


class Connections:
    """The connections of one task, one per origin; ``close`` them at its end."""

    def __init__(self, make: ConnectionTo) -> None:
        self._make = make
        self._opened: dict[Origin, HTTPConnection] = {}

    def __call__(self, origin: Origin) -> HTTPConnection:
        """The connection to an origin."""
        if origin not in self._opened:
            self._opened[origin] = self._make(origin)
        return self._opened[origin]

    def close(self) -> None:
        """Close all of them."""
        for connection in self._opened.values():
            connection.close()

    def break_off(self, error: PeerError, *, in_order: bool) -> None:
        """Close or (unless ``in_order``) reset all of them; requests in progress fail with ``error``."""
        for connection in self._opened.values():
            connection.break_off(error, in_order=in_order)


class RedirectRefused(PeerError):
    """A redirect to an invalid URL, away from TLS, or one too many."""

    kind = "redirect"


class _Answer:
    """A caller whose result is a Deferred."""

    def __init__(self) -> None:
        self.deferred: Deferred[Response] = Deferred()

    def answered(self, response: Response) -> None:
        """The response arrived."""
        self.deferred.callback(response)

    def broke(self, error: PeerError) -> None:
        """The request failed."""
        self.deferred.errback(error)


def exchange(connection: HTTPConnection, request: Request) -> Deferred[Response]:
    """Send a request; the Deferred fires with its response, or fails with a PeerError."""
    answer = _Answer()
    connection.request(request, answer)
    return answer.deferred


async def ask(
    connection_to: ConnectionTo,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None = None,
    *,
    plain: bool = False,
    exchanger: Exchanger | None = None,
) -> Response:
    """Send a request to ``url`` and follow redirects. Raises PeerError, and OperatorError for an invalid URL.

    ``plain`` also allows http. ``exchanger`` sends each request (connection, request, method, URL, body), instead of
    ``exchange``.
    """
    for _ in range(MAX_REDIRECTS + 1):
        origin, target = split_url(url, plain=plain)
        request = request_to(method, origin, target, headers, body)
        if exchanger is None:
            response = await exchange(connection_to(origin), request)
        else:
            response = await exchanger(connection_to(origin), request, method, url, body)
        following = redirected(url, response, plain=plain)
        if following is None:
            return response
        url = following
    raise RedirectRefused(f"more than {MAX_REDIRECTS} redirects, the last one to {without_query(url)}")


def redirected(url: str, response: Response, *, plain: bool = False) -> str | None:
    """The URL that the response redirects to, or None. Raises RedirectRefused."""
    if response.status not in REDIRECTS:
        return None
    location = response.headers.get("location", "")
    try:
        following = urljoin(url, location)
        split_url(following, plain=plain)
    except (OperatorError, ValueError) as error:
        raise RedirectRefused(f"the server redirects with {response.status} to {location[:200]!r}: {error}") from error
    return following


def retry_after(response: Response, now: float | None = None) -> float | None:
    """Seconds that the server asks to wait, or None (RFC 9110, 10.2.3: a number, or a date)."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, moment - (time.time() if now is None else now))
