"""Records the exchanges of a Mac in the log of its process, where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from agent.errors import PeerError
from agent.faults.decisions import Hit
from agent.fleet.population import Mac
from agent.measure.exchanges import HTTPExchange, Kind
from agent.net.http.connection import HTTPConnection
from agent.net.http.fetch import exchange
from agent.net.http.http1 import Response, without_query
from agent.net.http.request import Request
from agent.net.mac.faults.injection import connect_rule, inject
from agent.net.mac.fleet.environment import Environment

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class OpenExchange:
    """An exchange that has started. The first ``end`` counts."""

    __slots__ = ("_ended", "_environment", "_facts", "_mac", "_started")

    def __init__(
        self, environment: Environment, mac: Mac, kind: Kind, hits: tuple[Hit | None, ...], **facts: Any
    ) -> None:
        self._environment = environment
        self._started = environment.now()
        self._mac = mac
        self._ended = False
        self._facts: dict[str, Any] = {
            "kind": kind,
            "rules": tuple(dict.fromkeys(hit.rule.id for hit in hits if hit is not None)),
            **facts,
        }

    def end(
        self,
        *,
        status: int | None = None,
        response: bytes = b"",
        headers: Mapping[str, str] = NO_HEADERS,
        error: object = "",
        opened_by: str = "",
        http: str = "",
    ) -> None:
        """Add it to the log. ``headers`` are the response's; ``opened_by`` is the rule that hit its new connection.

        ``http`` is the version of HTTP that the connection speaks.
        """
        ended, self._ended = self._ended, True
        log, mac = self._environment.exchanges, self._mac
        if ended or log is None:
            return
        since = self._started
        seconds = self._environment.now().ticks - since.ticks
        log.add(
            HTTPExchange(
                at=since.wall,
                seconds=seconds,
                device=mac.index,
                udid=mac.udid,
                status=status,
                response=response,
                response_headers=dict(headers),
                error=str(error),
                http=http,
                **self._facts | {"rules": (*self._facts["rules"], *([opened_by] if opened_by else []))},
            )
        )

    def redirected(self, url: str) -> OpenExchange:
        """The exchange of the same request with the URL of a redirect; no fault hits it."""
        facts = {name: value for name, value in self._facts.items() if name not in ("kind", "rules")}
        return OpenExchange(
            self._environment, self._mac, self._facts["kind"], (), **{**facts, "url": without_query(url)}
        )


def record(
    environment: Environment, mac: Mac, kind: Kind, *hits: Hit | None, url: str = "", **facts: Any
) -> OpenExchange | None:
    """Start to record an exchange; None where none is kept. ``facts`` are other fields of HTTPExchange."""
    if environment.exchanges is None:
        return None
    return OpenExchange(environment, mac, kind, hits, url=without_query(url), **facts)


def record_instead(environment: Environment, mac: Mac, hit: Hit, **facts: Any) -> None:
    """Record a fault in place of a report that is not sent, or not yet."""
    opened = record(environment, mac, "report", hit, **facts)
    if opened is not None:
        opened.end(error=f"a fault rule: {hit.rule.do}")


class MacExchanger:
    """Sends the requests of one task of a Mac (`agent.net.http.fetch.ask`), with faults and a record of each.

    ``hit`` is the fault of the first request. For SCEP and ACME the fault of each request is decided here.
    """

    __slots__ = ("_environment", "_hit", "_kind", "_mac", "_message_type")

    def __init__(
        self, environment: Environment, mac: Mac, kind: Kind, *, hit: Hit | None = None, message_type: str = ""
    ) -> None:
        self._environment = environment
        self._mac = mac
        self._kind: Kind = kind
        self._hit = hit
        self._message_type = message_type

    async def __call__(
        self, connection: HTTPConnection, request: Request, method: str, url: str, body: bytes | None
    ) -> Response:
        """Send a request. Raises PeerError."""
        environment, message_type = self._environment, self._message_type
        hit, self._hit = self._hit, None
        if self._kind == "scep":
            message_type = scep_operation(url)
            hit = environment.decide("scep", self._mac, message_type)
        falsifying = None
        if self._kind == "acme":  # the hit, if there is one, is on the attestation
            falsifying, hit = hit, environment.decide("acme", self._mac, message_type)
        inject(connection, hit)
        opened = record(
            environment,
            self._mac,
            self._kind,
            hit,
            falsifying,
            url=url,
            method=method,
            request=body or b"",
            message_type=message_type,
        )
        try:
            response = await exchange(connection, request)
        except PeerError as error:
            if opened is not None:
                opened.end(error=error, opened_by=connect_rule(connection), http=connection.http_version)
            raise
        if opened is not None:
            opened.end(
                status=response.status,
                response=response.body,
                headers=response.headers,
                opened_by=connect_rule(connection),
                http=connection.http_version,
            )
        return response


def scep_operation(url: str) -> str:
    """The operation in the query of a SCEP request, such as ``PKIOperation``."""
    query = url.partition("?")[2]
    return next((part[10:] for part in query.split("&") if part.startswith("operation=")), "")
