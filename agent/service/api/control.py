"""The control API of `lom-agent serve` on HTTP: who may ask, and how requests and answers are read and written.

`agent.service.api.routes` has the requests, `agent.service.api.requests` carries them out, and docs/control-api.md
describes them.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence
from functools import cache, partial
from importlib.resources import files
from inspect import isawaitable
from ipaddress import ip_address
from typing import Any, NamedTuple

import msgspec
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from agent.errors import MisuseError
from agent.measure.live import LiveView
from agent.net.http.server import MAX_BODY_BYTES, BoundedSite, LimitedConnections, listen
from agent.net.transport.addresses import address_text
from agent.service.api.problems import MEDIA, RequestFailed, request_failed
from agent.service.api.queries import body_value, query_values
from agent.service.api.requests import API, Service
from agent.service.api.routes import FLEET_TITLE, ROUTES, Route
from agent.service.api.streams import EventStream

HOST = "127.0.0.1"
MAX_CONNECTIONS = 256  # ours: test processes with a wait and a stream each, and some browsers
IDLE_SECONDS = 120  # of a connection without a request
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
JSON = "application/json"
METRICS = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus' text format

# The page loads nothing from other hosts, and no other page may show it in a frame.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
_HEADERS = {
    "server": "lom-agent",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_UNAUTHORIZED = (
    "Expected one header Authorization: Bearer TOKEN, with the token of this service, found {}. The file of "
    "`--ready-file` and that of `--token-file` have it."
)


Live = Callable[[], LiveView | Awaitable[LiveView]]


class APIServer:
    """Serves ``routes`` on ``host`` and ``port``; port 0 is any free one. ``listen`` sets ``url``.

    ``api`` has a method for each route, ``live`` what the metrics show, ``title`` is that of the OpenAPI document.
    """

    def __init__(
        self,
        reactor: Any,
        api: Any,
        routes: Sequence[Route],
        live: Live,
        address: tuple[str, int],
        *,
        token: str,
        title: str,
        page: bool = False,
    ) -> None:
        self.url = ""
        self.api = api
        self._reactor = reactor
        self._address = address
        self._guard = _Guard(address[0], token)
        resource = _Guarded(self._guard, _Served(api, live), _application(tuple(routes), title, page=page))
        site = BoundedSite(resource, timeout=IDLE_SECONDS, reactor=reactor)
        site.keeps_body = self._guard.has_token
        self._connections = LimitedConnections(site, MAX_CONNECTIONS)
        self._port: Any = None

    def listen(self) -> None:
        """Listen. Raises OperatorError."""
        host, port = self._address
        self._port = listen(self._reactor, self._connections, host, port, what="The control API")
        self.url = f"http://{address_text(host, self._port.getHost().port)}"

    def close(self) -> Deferred[Any]:
        """Stop listening and abort the connections; fires when the port is free."""
        port, self._port = self._port, None
        self._connections.abort_all()
        return gatherResults([] if port is None else [port.stopListening() or succeed(None)])


class ControlServer(APIServer):
    """Serves the control API of a fleet."""

    def __init__(self, reactor: Any, service: Service, host: str = HOST, port: int = 0, *, token: str) -> None:
        api = API(service, reactor)
        super().__init__(reactor, api, ROUTES, service.live, (host, port), token=token, title=FLEET_TITLE, page=True)


class _Guard:
    """Decides by its header whether a request is allowed."""

    def __init__(self, host: str, token: str) -> None:
        if not token:
            raise MisuseError("expected a token, found an empty one: every request would have it")
        self._token = token.encode("utf-8")
        self._names = LOCAL_NAMES | ({host.lower()} - {""})
        self._any_address = _is_unspecified(host)

    def check(self, request: Any) -> None:
        """Raises RequestFailed."""
        hosts = [each.decode("latin-1") for each in request.requestHeaders.getRawHeaders(b"host", [])]
        if len(hosts) != 1 or not self._is_ours(_name(hosts[0])):
            # Another name for this address: a page of a foreign site that tries to reach it (DNS rebinding).
            raise RequestFailed(
                403,
                f"Expected one Host of {', '.join(sorted(self._names))}, found {', '.join(hosts)[:100] or 'none'}. "
                "Use the URL that lom-agent printed.",
            )
        if not is_public(request) and not self.has_token(request):
            found = "another" if request.requestHeaders.hasHeader(b"authorization") else "none"
            raise RequestFailed(401, _UNAUTHORIZED.format(found), headers={"www-authenticate": "Bearer"})
        if request.too_long:
            raise RequestFailed(413, f"Expected a body of at most {MAX_BODY_BYTES:,} bytes, found more. Shorten it.")

    def has_token(self, request: Any) -> bool:
        """Whether a request has exactly one Authorization header, with the token."""
        values = request.requestHeaders.getRawHeaders(b"authorization", [])
        if len(values) != 1:
            return False
        kind, _, found = values[0].partition(b" ")
        return bool(kind.lower() == b"bearer" and hmac.compare_digest(found.strip(), self._token))

    def _is_ours(self, name: str) -> bool:
        # On every address: any of them, and names such as those of containers. A foreign site's name has a dot.
        return name in self._names or (self._any_address and name != "" and ("." not in name or _is_address(name)))


def is_public(request: Any) -> bool:
    """Whether a request needs no token: the page, which asks its user for one, and the OpenAPI document."""
    path = request.uri.partition(b"?")[0]
    return path in (b"/", b"/openapi.json") or path.startswith(b"/page/")


def _name(host: str) -> str:
    """The name or address in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_unspecified(host: str) -> bool:
    return host == "" or (_is_address(host) and ip_address(host).is_unspecified)


class _Served(NamedTuple):
    """What the requests of one server are about."""

    api: Any
    live: Live


class _Guarded(Resource):
    """Every path: the guard, then the application, whose requests have ``served``."""

    isLeaf = True

    def __init__(self, guard: _Guard, served: _Served, app: Any) -> None:
        super().__init__()
        self._guard = guard
        self._served = served
        self._app = app

    def render(self, request: Any) -> Any:
        """Answer a request that is not allowed or not readable; hand the others on."""
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        try:
            self._guard.check(request)
            if not request.method.isascii():
                raise RequestFailed(405, "Expected GET, POST or DELETE, found another method.")
            _check_path(request.postpath)
        except RequestFailed as failed:
            return _write_problem(request, failed)
        request.served = self._served
        return self._app.render(request)


def _check_path(parts: list[bytes]) -> None:
    """Raises RequestFailed for a part that is not text, or whose encoded slash would divide it."""
    try:
        path = [part.decode("utf-8") for part in parts]
    except UnicodeDecodeError as error:
        raise RequestFailed(400, f"Expected a path in UTF-8, found {error.object[:100]!r}.") from error
    if any("/" in part for part in path):
        raise RequestFailed(404, "Expected a path of /openapi.json, found one with an encoded slash.")


@cache
def _application(routes: tuple[Route, ...], title: str, *, page: bool) -> Any:
    """The klein application: a handler for each route, for the page, the OpenAPI document and the metrics.

    It is made once for all servers with these routes, since werkzeug compiles two functions for each route.
    """
    # Imported here because it imports the reactor, which only the command line may choose.
    from klein import Klein

    app = Klein()
    for route in routes:
        app.route(route.path, methods=[route.method], endpoint=route.name)(_handler(route))
    _static(app, "/openapi.json", "openapi", JSON, lambda _request: _openapi(routes, title))
    _static(app, "/metrics", "metrics", METRICS, _metrics)
    for name, (media, octets) in _page_files().items() if page else ():
        _static(app, f"/page/{name}", f"page {name}", media, partial(_file, octets))
        if name == "index.html":
            _static(app, "/", "page", media, partial(_file, octets))
    app.handle_errors(Exception)(_problem)
    return app.resource()


def _file(octets: bytes, _request: Any) -> bytes:
    return octets


def _openapi(routes: tuple[Route, ...], title: str) -> bytes:
    from agent.service.api.openapi import openapi_json  # imported when it is asked for: a fast start

    return openapi_json(routes, title)


async def _metrics(request: Any) -> bytes:
    from agent.service.prometheus import exposition  # imported for the first scrape: a fast start

    view = request.served.live()
    return exposition(view if isinstance(view, LiveView) else await view)


def _static(app: Any, path: str, name: str, media: str, content: Callable[[Any], bytes | Awaitable[bytes]]) -> None:
    async def render(request: Any) -> bytes:
        if media == PAGE_TYPES["html"]:
            request.setHeader("content-security-policy", PAGE_POLICY)
        octets = content(request)
        return _written(request, 200, media, octets if isinstance(octets, bytes) else await octets)

    app.route(path, methods=["GET"], endpoint=name)(render)


def _page_files() -> dict[str, tuple[str, bytes]]:
    """The files of the page with their types, by name. No part of a request reaches the file system."""
    folder = files("agent.service") / "page"
    found = {}
    for file in folder.iterdir() if folder.is_dir() else ():
        media = PAGE_TYPES.get(file.name.rpartition(".")[2])
        if media is not None:
            found[file.name] = media, file.read_bytes()
    return found


def _handler(route: Route) -> Callable[..., Any]:
    async def answer(request: Any, **path: str) -> bytes:
        arguments: dict[str, Any] = {**path, **query_values(route, request.uri.partition(b"?")[2])}
        if route.media == "text/event-stream":
            arguments["after"] = _last_event_id(request, arguments["after"])
        if route.body is not None:
            arguments["body"] = body_value(route, request.content.read())
        result = getattr(request.served.api, route.name)(**arguments)
        if isawaitable(result):
            result = await result
        if isinstance(result, EventStream):
            if request.method == b"HEAD":
                return _written(request, route.status, route.media, b"")
            await result.send_to(request)
        if route.answer is None:
            request.setResponseCode(204)
            return b""
        octets = result if isinstance(result, bytes) else msgspec.json.encode(result)
        return _written(request, route.status, route.media, octets)

    return answer


def _last_event_id(request: Any, after: int | None) -> int | None:
    """Where a client continues: after the last event that it got before it lost its connection."""
    value = request.getHeader(b"last-event-id")
    if value is None:
        return after
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise RequestFailed(400, f"Expected the number of an event in Last-Event-ID, found {text[:100]!r}.")
    return int(text)


def _problem(request: Any, failure: Failure) -> bytes:
    from werkzeug.exceptions import HTTPException, MethodNotAllowed

    error = failure.value
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        method = request.method.decode("ascii")[:20]
        failed = RequestFailed(405, f"Expected {allowed}, found {method}.", headers={"allow": allowed})
    elif isinstance(error, HTTPException):
        path = request.path.decode("latin-1")[:200]
        failed = RequestFailed(404, f"Expected a path of /openapi.json, found {path}.")
    else:
        failed = request_failed(failure)
    return _write_problem(request, failed)


def _write_problem(request: Any, failed: RequestFailed) -> bytes:
    for name, value in failed.headers.items():
        request.setHeader(name, value)
    return _written(request, failed.status, MEDIA, msgspec.json.encode(failed.problem()))


def _written(request: Any, status: int, media: str, octets: bytes) -> bytes:
    request.setResponseCode(status)
    request.setHeader("content-type", media)
    request.setHeader("content-length", str(len(octets)))
    return octets
