"""Raw requests and handshakes: what no Mac of ours would send. Each is on a connection of its own, and is recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from agent import plists
from agent.conform.stage.errors import CannotProvoke
from agent.conform.stage.handshakes import Agreed, Offer, handshake
from agent.conform.stage.http2_resets import reset_in_request
from agent.conform.trace.recorder import Recorder
from agent.errors import PeerError
from agent.mdm import checkin, results
from agent.measure.exchanges import HTTPExchange
from agent.net.http.fetch import Connections, ask
from agent.net.http.http1 import Origin, Response, split_url, without_query
from agent.net.http.resumption import Resumption
from agent.net.mac.sessions.headers import message_headers
from agent.pki.identity import Identity
from agent.profiles.enrollment import Enrollment
from agent.service.fleet import FleetService
from agent.service.macs.groups import MacHandle

ValueT = TypeVar("ValueT")


class Bounded(Protocol):
    """Awaits a Deferred for at most ``seconds`` (see ``Stage.bounded``)."""

    async def __call__(self, waiting: Deferred[ValueT], what: str, *, seconds: float | None = None) -> ValueT: ...


def mac_enrollment(mac: MacHandle) -> Enrollment:
    """The enrollment of a Mac, with its identity. Raises CannotProvoke for one that is not enrolled."""
    enrollment = mac.client.device.enrollment
    if enrollment is None:
        raise CannotProvoke(f"Expected {mac.udid} to be enrolled, found that it is not.")
    return enrollment


class RawRequests:
    """The raw requests of one stage, as its Macs. ``patience`` is in seconds."""

    def __init__(self, service: FleetService, recorder: Recorder, bounded: Bounded, patience: float) -> None:
        self._service = service
        self._recorder = recorder
        self._bounded = bounded
        self._patience = patience

    async def report(self, mac: MacHandle, report: Mapping[str, Any] | bytes, **more: Any) -> Response | None:
        """PUT a report to the server as this Mac, on a connection of its own; see ``put``."""
        return await self.put(mac, mac_enrollment(mac).server_url, results.CONTENT_TYPE, report, **more)

    async def check_in(self, mac: MacHandle, message: Mapping[str, Any] | bytes, **more: Any) -> Response | None:
        """PUT a check-in message to the server as this Mac, on a connection of its own; see ``put``."""
        return await self.put(mac, mac_enrollment(mac).check_in_url, checkin.CONTENT_TYPE, message, **more)

    async def put(
        self,
        mac: MacHandle,
        url: str,
        content_type: str,
        message: Mapping[str, Any] | bytes,
        *,
        identity: Identity | None = None,
        anonymous: bool = False,
        signed: bytes | None = None,
        headers: Mapping[str, str | None] | None = None,
        resumption: Resumption | None = None,
        says: str = "",
    ) -> Response | None:
        """PUT a message; returns the response, None where the connection breaks first. It is recorded as ``raw``.

        ``identity`` replaces the Mac's own in TLS and signature, ``signed`` is what the signature is over instead of
        the message, ``headers`` replace the usual ones (None: without this one). ``anonymous`` is without certificate
        and signature. With ``resumption`` the TLS session may be that of the raw request before with the same one, and
        the note ``resumed`` says whether it is. ``says`` is kept as ``message_type`` of the record: the word by which a
        check finds it.
        """
        enrollment = mac_enrollment(mac)
        body = message if isinstance(message, bytes) else plists.dump_xml(message)
        shown = enrollment if identity is None else replace(enrollment, identity=identity)
        if anonymous:
            shown = replace(shown, sign_message=False)
        usual = message_headers(shown, content_type, body if signed is None else signed)
        sent = {name: value for name, value in {**usual, **(headers or {})}.items() if value is not None}
        environment = mac.group.fleet.environment
        by = None if anonymous else shown.identity

        def connection(origin: Origin) -> Any:
            return environment.connection(mac.mac, origin, by, enrollment.anchors, enrollment.server_pins, resumption)

        connections = Connections(connection)
        since, before = environment.now(), environment.contexts.handshakes_resumed
        response, error = None, ""
        try:
            response = await self._bounded(
                Deferred.fromCoroutine(ask(connections, "PUT", url, sent, body)), "the server answers"
            )
        except PeerError as broke:
            error = str(broke)
        finally:
            connections.close()
        exchange = HTTPExchange(
            at=since.wall,
            seconds=environment.now().ticks - since.ticks,
            device=mac.index,
            udid=mac.udid,
            kind="raw",
            method="PUT",
            url=without_query(url),
            request=body,
            request_headers=sent,
            status=None if response is None else response.status,
            response=b"" if response is None else response.body,
            response_headers={} if response is None else dict(response.headers),
            error=error,
            message_type=says,
        )
        self._service.parts.exchanges.add(exchange)
        if resumption is not None:
            self._recorder.note("resumed", udid=mac.udid, resumed=environment.contexts.handshakes_resumed > before)
        return response

    async def reset(self, mac: MacHandle, report: Mapping[str, Any], *, says: str) -> None:
        """Begin a report over HTTP/2, and reset its stream in the middle. The record has the version agreed to."""
        enrollment = mac_enrollment(mac)
        body = plists.dump_xml(report)
        headers = message_headers(enrollment, results.CONTENT_TYPE, body)
        origin, target = split_url(enrollment.server_url)
        now = self._service.parts.wall_clock
        since = now()
        work = deferToThread(reset_in_request, origin, target, headers, body, enrollment.identity, self._patience)
        http, error = await self._bounded(work, "the server takes a request", seconds=2 * self._patience)
        exchange = HTTPExchange(
            at=since,
            seconds=now() - since,
            device=mac.index,
            udid=mac.udid,
            kind="raw",
            method="PUT",
            url=without_query(enrollment.server_url),
            http=http,
            request=body,
            request_headers=headers,
            error=error,
            message_type=says,
        )
        self._service.parts.exchanges.add(exchange)

    async def handshake(self, mac: MacHandle, url: str, offer: Offer, *, says: str) -> Agreed:
        """One TLS handshake with the server of ``url``, without a request; recorded with ``says``."""
        origin, _target = split_url(url)
        work = deferToThread(handshake, origin.host, origin.port, offer, self._patience)
        agreed = await self._bounded(work, "the handshake ends", seconds=2 * self._patience)
        self._recorder.tls(mac.udid, f"{origin.host}:{origin.port}", says, offer, agreed)
        return agreed
