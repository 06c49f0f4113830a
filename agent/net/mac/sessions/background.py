"""What a Mac does outside its session: fetch its enrollment profile, check in, obtain an identity, relay LOM requests.

These use connections of their own, because a session may be open at the same time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure as TwistedFailure

from agent import plists
from agent.device.installing.software_update import Update
from agent.device.mac import Device
from agent.device.steps import (
    AttestProperties,
    CheckIn,
    Done,
    Download,
    DownloadByMDM,
    IORequest,
    ObtainIdentity,
    ReadDate,
    RelayItems,
    ReturnT,
    Steps,
    advance,
)
from agent.errors import CutShort, OperatorError, PeerError
from agent.faults.decisions import Hit
from agent.lom.endpoint import Endpoint
from agent.lom.requests import RelayOutcome
from agent.mdm import checkin
from agent.mdm.pages import PageAnswered, also, page_in
from agent.mdm.refusals import ServerRefused
from agent.measure.exchanges import Kind
from agent.net.http.connection import HTTPConnection
from agent.net.http.fetch import Connections, ask
from agent.net.http.http1 import Origin, Response, without_query
from agent.net.mac.enrollment import hints
from agent.net.mac.faults.attesting import attest_properties
from agent.net.mac.faults.injection import altered
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.sessions.exchanging import MacExchanger
from agent.net.mac.sessions.headers import message_headers
from agent.pki.identity import Identity
from agent.pki.issuing.authority import Authority
from agent.profiles.acme import RSA, ACMEPayload
from agent.profiles.enrollment import Enrollment
from agent.profiles.scep import SCEPPayload

_log = Logger()
_LOOK_AT = "Check that the profile's CheckInURL leads to the MDM server, and not to a login page or a proxy."


class MacStopped(CutShort):
    """The Mac went down or enrolled again before a background task was done."""


class DownloadRefused(PeerError):
    """A file could not be downloaded."""

    kind = "download"


class IdentityWaits(msgspec.Struct):
    """The waits of a background task for an identity."""

    key: float = 0.0
    """Seconds that it waited for RSA keys that this machine had not made yet."""
    polling_limit: float = inf
    """Seconds for which it polls a CA that answers PENDING."""


Work = Callable[[], Awaitable[object]]
InstallUpdate = Callable[[Update], Awaitable[None]]


class BackgroundTasks:
    """The background tasks of one Mac, one at a time in order. ``endpoint`` is the Mac in its LOM network."""

    __slots__ = (
        "_connections",
        "_device",
        "_driven",
        "_endpoint",
        "_environment",
        "_life",
        "_opened",
        "_running",
        "_waiting",
    )

    def __init__(self, device: Device, environment: Environment, endpoint: Endpoint) -> None:
        self._device = device
        self._environment = environment
        self._endpoint = endpoint
        self._connections: tuple[Enrollment, Connections] | None = None
        self._opened: tuple[Connections, ...] = ()  # to other servers: for the enrollment profile, for SCEP
        self._waiting: list[Work] = []
        self._running = False
        self._driven = 0  # tasks whose I/O requests are being carried out
        self._life = 0  # counts the stops: tasks from before the last stop leave the new connections alone

    @property
    def quiet(self) -> bool:
        """Whether no task is running or waiting."""
        return not self._running and not self._driven

    def start(self, work: Work) -> None:
        """Run ``work`` after the tasks that wait already. Its failures are recorded where they happen."""
        self._waiting.append(work)
        if not self._running:
            self._running = True
            Deferred.fromCoroutine(self._run()).addErrback(log_defect)

    def abandon(self, why: str = "the Mac went down", *, in_order: bool = False) -> None:
        """The Mac goes down or offline: fail the running task and drop the others."""
        for connections in self._forget():
            connections.break_off(MacStopped(f"{why} before the exchange was done"), in_order=in_order)

    def close(self) -> None:
        """Drop all tasks and close the connections, at the end of the run."""
        for connections in self._forget():
            connections.close()

    def _forget(self) -> list[Connections]:
        """Every connection, of which the Mac uses none any more."""
        self._life += 1
        self._waiting.clear()
        self._running = False
        opened = [*self._opened, *([] if self._connections is None else [self._connections[1]])]
        self._connections, self._opened = None, ()
        return opened

    async def drive(self, steps: Steps[ReturnT], waits: IdentityWaits | None = None) -> ReturnT:
        """Carry out the I/O requests of ``steps``, one after another, and return what the steps return.

        The time that they waited for RSA keys is added to ``waits``, which also limits the polling of a CA.
        """
        life = self._life
        self._driven += 1
        try:
            need = advance(steps, None)
            while not isinstance(need, Done):
                need = advance(steps, await self.perform(need, waits))
            return need.value
        finally:
            self._driven -= 1
            if life == self._life and not self._driven:  # otherwise the connections are those of another task
                self._hang_up()

    async def perform(
        self, need: IORequest, waits: IdentityWaits | None = None
    ) -> list[RelayOutcome] | Identity | bytes | float | tuple[bytes, ...] | PeerError:
        """Carry out one I/O request; a failure of the peer is returned, not raised."""
        try:
            match need:
                case RelayItems(items):
                    return await self._environment.network.relay(self._endpoint, items)
                case ObtainIdentity(payload, anchors):
                    return await self._obtain_identity(payload, anchors, waits or IdentityWaits())
                case AttestProperties(nonce):
                    return attest_properties(self._device, self._environment, nonce)[0]
                case CheckIn(message, enrollment, check):
                    await self._kept()
                    return await self._check_in(message, enrollment, check)
                case Download(url, anchors, pins):
                    return await self._download(url, anchors, pins)
                case DownloadByMDM(url, enrollment):
                    return await self._download_by_mdm(url, enrollment)
                case ReadDate():
                    return self._environment.wall_clock()
        except PeerError as error:
            return error

    async def _download(
        self, url: str, anchors: tuple[x509.Certificate, ...], pins: tuple[x509.Certificate, ...]
    ) -> bytes:
        """GET a file, of which the Macs of the process hold a few at a time."""
        life = self._life
        await self._environment.downloads.acquire()
        try:
            if life != self._life:
                raise MacStopped("the Mac went down or offline before the download")
            with self._others(anchors, pins) as connections:
                return await self._get(connections, url, {"User-Agent": self._agent, "Accept": "*/*"})
        finally:
            self._environment.downloads.release()

    async def _kept(self) -> None:
        """Wait until an enrollment in progress is in the Mac's file."""
        keeper = self._environment.keeper
        if keeper is not None and self._device.enrolling is not None:
            kept: Deferred[None] = Deferred()
            keeper.when_kept(self._device.mac.index, partial(kept.callback, None))
            await kept

    @property
    def _agent(self) -> str:
        return checkin.user_agent(self._device.mac.os_version)

    async def fetch_profile(self, url: str) -> bytes:
        """GET an enrollment profile, without a client certificate. Raises PeerError."""
        headers = {"User-Agent": self._agent, "Accept": "*/*"}
        return self._profile_in(await self.send_once("GET", url, headers, None), url)

    async def fetch_automated_profile(self, url: str, authority: Authority, install: InstallUpdate) -> bytes:
        """POST the signed MachineInfo for an enrollment profile; ``authority`` issues the Mac's identity for it.

        ``install`` installs the software update that the server may ask for first. Raises PeerError.
        """
        from agent.net.mac.enrollment.automated import automated_profile  # imported when it is used: a fast start

        response = await automated_profile(self._device, self, url, authority, install)
        return self._profile_in(response, url)

    async def send_once(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> Response:
        """Send one request of an enrollment, without a client certificate. Raises PeerError."""
        exchanger = self._exchanger("enroll", self._environment.decide("enroll", self._device.mac))
        with self._others() as connections:
            return await ask(connections, method, url, headers, body, exchanger=exchanger)

    def _profile_in(self, response: Response, url: str) -> bytes:
        """The enrollment profile in a response. Raises PeerError."""
        content_type = response.headers.get("content-type", "")
        if response.status != 200:
            reason = f"the server answered the request for the enrollment profile with {response.status}"
            raise ServerRefused(reason + also(response.body, content_type), response.status)
        page = page_in(response.body, content_type, only_type=True)
        if page:
            look_at = "Check the URL, and that the profile is served to a Mac that has not logged in."
            raise PageAnswered(f"an enrollment profile from {without_query(url)}", page, response.status, look_at)
        return response.body

    @contextmanager
    def _others(
        self, anchors: tuple[x509.Certificate, ...] = (), pins: tuple[x509.Certificate, ...] = (), *, floor: bool = True
    ) -> Iterator[Connections]:
        """Connections without the Mac's identity. They end where the Mac goes down or offline; none is opened then.

        ``floor``: the TLS floor applies to them.
        """
        life = self._life

        def connection(origin: Origin) -> HTTPConnection:
            if life != self._life:
                raise MacStopped("the Mac went down or offline before the exchange was done")
            return self._environment.connection(self._device.mac, origin, None, anchors, pins, floor=floor)

        connections = Connections(connection)
        self._opened += (connections,)
        try:
            yield connections
        finally:
            self._opened = tuple(each for each in self._opened if each is not connections)
            connections.close()

    async def _run(self) -> None:
        life = self._life
        while self._waiting and life == self._life:
            work = self._waiting.pop(0)
            try:
                await work()
            except PeerError as error:
                _log.info("{udid}: {error}", udid=self._device.mac.udid, error=error)
        if life == self._life:
            self._running = False

    async def _check_in(
        self, message: Mapping[str, Any], enrollment: Enrollment, check: Callable[[bytes], object] | None
    ) -> bytes:
        """PUT a check-in message; returns the body of the answer. Raises PeerError."""
        replacing = self._device.enrolling
        if replacing is not None and enrollment is not replacing.enrollment:
            raise MacStopped("another enrollment is replacing it")
        facts: dict[str, str | int | float | bool] = {"message": message["MessageType"], "udid": self._device.mac.udid}
        facts |= self._device.check_in_facts(str(message["MessageType"]))
        if "Endpoint" in message:
            facts["endpoint"] = message["Endpoint"]
        message = {**message, **self._device.check_in_keys(str(message["MessageType"]))}
        with self._environment.begin("checkin", self._device.mac.index, None, facts):
            message_type = str(message["MessageType"])
            hit = self._environment.decide("checkin", self._device.mac, message_type)
            body = altered(plists.dump_xml(message), self._device.mac, hit)
            signatures = self._environment.signatures
            headers = message_headers(enrollment, checkin.CONTENT_TYPE, body, signatures, agent=self._agent)
            exchanger = self._exchanger("checkin", hit, message_type)
            connections = self._connections_of(enrollment)
            response = await ask(connections, "PUT", enrollment.check_in_url, headers, body, exchanger=exchanger)
            page = page_in(response.body, response.headers.get("content-type", ""))
            not_managed = message_type == "UserAuthenticate" and response.status == checkin.NOT_MANAGED
            if response.status != 200 and not not_managed:
                reason = f"the server answered {facts['message']} with {response.status} instead of 200"
                hint = hints.of_check_in(response.status, signed=enrollment.sign_message)
                raise ServerRefused(hints.with_hint(reason + (page and f", with {page}"), hint), response.status)
            if page and not not_managed:
                raise PageAnswered(f"an MDM server's answer to {facts['message']}", page, response.status, _LOOK_AT)
            if check is not None:
                check(response.body)
        if not_managed:  # an answer of the protocol, and no failure of the check-in
            raise ServerRefused("the server does not manage this user", response.status)
        return response.body

    async def _download_by_mdm(self, url: str, enrollment: Enrollment) -> bytes:
        """GET a file like a message to the MDM server. Raises PeerError."""
        headers = {"User-Agent": self._agent, "Accept": "*/*"}
        if enrollment.sign_message:
            headers["Mdm-Signature"] = self._environment.signatures.header(b"", enrollment.identity)
        return await self._get(self._connections_of(enrollment), url, headers)

    async def _get(self, connections: Connections, url: str, headers: Mapping[str, str]) -> bytes:
        """GET a file, of at most the size of a response. Raises PeerError."""
        try:
            response = await ask(connections, "GET", url, headers, exchanger=self._exchanger("download"))
        except OperatorError as error:  # an invalid URL, which a manifest or an asset can have
            raise DownloadRefused(str(error)) from error
        if response.status != 200:
            raise DownloadRefused(f"the server answered the request for {without_query(url)} with {response.status}")
        return response.body

    def _connections_of(self, enrollment: Enrollment) -> Connections:
        """The connections of the running task, shared by its check-ins."""
        if self._connections is None or self._connections[0] is not enrollment:
            if self._connections is not None:  # of a task that still waits for an answer: fail it
                self._connections[1].break_off(MacStopped("another enrollment replaced it"), in_order=True)
            self._connections = enrollment, Connections(partial(self._connection, enrollment))
        return self._connections[1]

    def _connection(self, enrollment: Enrollment, origin: Origin) -> HTTPConnection:
        mac = self._device.mac
        return self._environment.connection(
            mac, origin, enrollment.identity, enrollment.anchors, enrollment.check_in_pins
        )

    def _exchanger(self, kind: Kind, hit: Hit | None = None, message_type: str = "") -> MacExchanger | None:
        """What sends the requests of a task; None where no fault is injected and no exchange is kept."""
        environment = self._environment
        if environment.faults is None and environment.exchanges is None:
            return None
        return MacExchanger(environment, self._device.mac, kind, hit=hit, message_type=message_type)

    def _hang_up(self) -> None:
        if self._connections is not None:
            self._connections[1].close()
            self._connections = None

    async def _obtain_identity(
        self, payload: SCEPPayload | ACMEPayload, anchors: tuple[x509.Certificate, ...], waits: IdentityWaits
    ) -> Identity:
        floor = isinstance(payload, ACMEPayload)  # Apple's article leaves SCEP servers out
        with self._others(anchors, floor=floor) as connections:
            if isinstance(payload, ACMEPayload):
                from agent.net.mac.enrollment.acme import identity_by_acme  # imported when it is used: a fast start

                rsa_key = await self._rsa_key(payload.key_size, waits) if payload.key_type == RSA else None
                exchanger_of = partial(self._exchanger, "acme")
                return await identity_by_acme(
                    self._device, self._environment, connections, payload, rsa_key, exchanger_of, waits.polling_limit
                )
            from agent.net.mac.enrollment.scep import obtain_identity  # as above

            key = await self._rsa_key(payload.key_size, waits)
            exchanger = self._exchanger("scep")
            return await obtain_identity(
                self._environment.clock, connections, payload, key, exchanger, waits.polling_limit, self._agent
            )

    async def _rsa_key(self, bits: int, waits: IdentityWaits) -> rsa.RSAPrivateKey:
        waiting = self._environment.keys.take(bits)
        since = self._environment.reactor.seconds()
        key = await waiting
        waits.key += self._environment.reactor.seconds() - since
        return key


def log_defect(failure: TwistedFailure) -> None:
    """The last errback of a chain: what arrives here is a defect of this program."""
    _log.failure("a background task failed", failure)
