"""The stage on which probes play: fresh Macs, the server's API, the push gateway, fault rules, and raw requests.

One probe runs at a time. Everything that it does leaves records (`agent.conform.trace.recorder`); what it waits for is
bounded by ``patience``. A wait that ends in vain raises ``Waited``, which ends the probe: its requirements are then
judged over what is there, and none of them passes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from agent.conform.reading.lom import CERTIFICATE_KEYS, IDENTITY_STEP
from agent.conform.reading.sessions import NOT_QUEUED
from agent.conform.stage.errors import CannotProvoke, Unreachable, Waited
from agent.conform.stage.gateway import StageGateway
from agent.conform.stage.manual import ManualServer
from agent.conform.stage.raw import RawRequests
from agent.conform.stage.target import Target
from agent.conform.trace.recorder import Recorder
from agent.errors import LomAgentError, PeerError
from agent.faults.rules import Rule
from agent.load.conductor.gateway import APNsPlan
from agent.measure.exchanges import HTTPExchange
from agent.net.apns.behaviour import PushBehaviour
from agent.net.http.fetch import Connections, ask
from agent.net.http.http1 import without_query
from agent.net.mac.fleet.behaviour import MacSettings
from agent.net.timing import OutOfTime, within
from agent.net.transport.resolver import Resolver
from agent.pki.pem import certificate_pem
from agent.profiles.enrollment import enrollment_terms_of
from agent.profiles.profile import read_profile
from agent.servers.server import DDMServer, LOMServer, RenewingServer, Server
from agent.service.events import TimedOut
from agent.service.fleet import FleetService
from agent.service.macs.groups import MacHandle
from agent.service.macs.parts import ServiceSettings
from agent.service.types import AddMacs, Enroll, Event, Wait

PATIENCE_SECONDS = 10.0  # ours: how long something that the server has to do is waited for
_EVENTS = {
    "delivered": "that the server accepts the result",
    "answered": "that the Mac answers the command",
    "session_ended": "the end of a session",
    "power": "the power state",
}
INFORMATION: Mapping[str, Any] = {"RequestType": "DeviceInformation", "Queries": ["OSVersion"]}
_BOOT = "constant:0.1"  # of the Macs: no requirement is about the time of a boot
ValueT = TypeVar("ValueT")


class Queued(msgspec.Struct, frozen=True):
    """A command that the server accepted for its queue."""

    mac: MacHandle
    request_type: str
    command_uuid: str
    """Empty where it is not known: the server chose it."""
    after: int
    """The number of the last event before it was queued."""


class Stage:
    """The stage of one run, against ``target``. ``seed`` and ``os`` are those of its Macs."""

    def __init__(
        self,
        reactor: Any,
        target: Target,
        recorder: Recorder,
        *,
        seed: str,
        os: str | None = None,
        patience: float = PATIENCE_SECONDS,
        apns: APNsPlan | None = None,
        on_warning: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.recorder = recorder
        self.patience = patience
        self._reactor = reactor
        self._target = target
        self._seed = seed
        self._os = os
        self._added = self._uuids = 0  # of the probe that runs
        settings = ServiceSettings(
            seed=seed,
            anchors=target.anchors,
            insecure=target.insecure,
            http=target.http,
            push=PushBehaviour(),
            tls_floor="off",  # the requirements judge it
            macs=MacSettings(boot=_BOOT, shutdown=_BOOT, per_user_connections="optional"),  # it judges the profile
        )
        self.service = FleetService(reactor, settings, on_warning=on_warning)
        log = self.service.parts.exchanges
        told = log.on_exchange

        def exchanged(exchange: HTTPExchange) -> None:
            recorder.exchange(exchange)
            if told is not None:
                told(exchange)

        log.on_exchange = exchanged
        self.gateway: StageGateway | None = None
        if apns is not None or target.lab is not None:
            self.gateway = StageGateway(reactor, self.service, recorder, apns or APNsPlan(), target.lab)
        self._server: Server | None = None
        self.raw = RawRequests(self.service, recorder, self.bounded, patience)

    # The run.

    def open(self) -> None:
        """Open the gateway and the client of the server's API. Raises OperatorError."""
        self.service.open()
        if self.gateway is not None:
            self.gateway.listen()
        resolver = Resolver(self._reactor, self._reactor.nameResolver)
        self._server = self._target.open(self._reactor, resolver, lambda udid: self.service.find(udid).mac)

    async def reach(self) -> None:
        """Check that the server answers at all, with any status. Raises Unreachable."""
        url = self._target.enroll
        if isinstance(url, bytes):
            url = enrollment_terms_of(read_profile(url)).server_url
        self.begin("reach")
        mac = self.mac()
        environment = mac.group.fleet.environment
        connections = Connections(lambda origin: environment.connection(mac.mac, origin))
        try:
            await self.bounded(Deferred.fromCoroutine(ask(connections, "GET", url, {})), "the server answers")
        except PeerError as error:
            raise Unreachable(f"The server at {without_query(url)} could not be reached: {error}") from error
        finally:
            connections.close()
            self.end()

    async def close(self) -> None:
        """Close everything, also the embedded lab."""
        if self._server is not None:
            self._server.close()
        self.service.close()
        if self.gateway is not None:
            await self.gateway.close()
        if self._target.lab is not None:
            await self._target.lab.close()

    def begin(self, probe: str) -> None:
        """A probe begins: it has no Macs and no rules."""
        self.recorder.probe = probe
        self._added = self._uuids = 0

    def end(self) -> None:
        """A probe has ended: its rules and Macs are gone, without a CheckOut."""
        self.service.faults.clear()
        self.service.remove_all()

    # Macs.

    def mac(self, *, os: str | None = None, model: str | None = None) -> MacHandle:
        """A new Mac alone in its segment, made from the seed, the probe's name and how many the probe had before."""
        return self.segment(1, os=os, model=model)[0]

    def segment(self, count: int, *, os: str | None = None, model: str | None = None) -> list[MacHandle]:
        """New Macs in one segment; the first is a LOM Controller and Device, the others are Devices."""
        self._added += 1
        seed = f"{self._seed}/{self.recorder.probe}/{self._added}"
        handles = self.service.add(AddMacs(count=count, seed=seed, os=os or self._os, model=model))
        for handle in handles:
            self.recorder.mac(handle.mac, handle.segment)
        return handles

    async def enroll(self, mac: MacHandle, profile: bytes | None = None) -> None:
        """Enroll a Mac with the server's enrollment profile, or with ``profile``. Raises PeerError."""
        source = profile or self._target.enroll
        how = Enroll(url=source) if isinstance(source, str) else Enroll(profile=source)
        await self.bounded(Deferred.fromCoroutine(self.service.actions.enroll(mac, how)), f"{mac.udid} is enrolled")

    async def enrolled(self, *, os: str | None = None) -> MacHandle:
        """A new Mac that is enrolled."""
        mac = self.mac(os=os)
        await self.enroll(mac)
        return mac

    async def managed(self) -> MacHandle:
        """A new Mac that is enrolled and has opened a session: what it sends later is compared with that."""
        mac = await self.enrolled()
        await self.session(mac)
        await self.idle(mac)
        return mac

    async def profile(self, mac: MacHandle) -> bytes:
        """The enrollment profile, fetched without a record. Raises PeerError."""
        source = self._target.enroll
        if isinstance(source, bytes):
            return source
        environment = mac.group.fleet.environment
        connections = Connections(lambda origin: environment.connection(mac.mac, origin))
        try:
            asked = Deferred.fromCoroutine(ask(connections, "GET", source, {}))
            return (await self.bounded(asked, "the server answers with its enrollment profile")).body
        finally:
            connections.close()

    def rule(self, mac: MacHandle, **rule: Any) -> Rule:
        """Add a fault rule for this Mac; arguments as in docs/faults.md."""
        return self.service.add_rule(Rule(**rule, macs=(mac.udid,)))

    # The server's API.

    async def queue(self, mac: MacHandle, command: Mapping[str, Any]) -> Queued:
        """Have the server queue a command of ours (its dictionary with RequestType), and wake the Mac.

        Raises CannotProvoke where nothing can be queued there, and PeerError where the server refuses it.
        """
        server = self._server
        if server is None:
            raise CannotProvoke("Nothing can be queued in the server: there is no adapter. Give --server.")
        composes = isinstance(server, ManualServer)  # the operator uses the server's own console
        command_uuid = "" if composes else self._new_uuid()
        request_type = str(command.get("RequestType", ""))
        queued = Queued(mac, request_type, command_uuid, self.service.events.last)
        return await self._ask(server.enqueue(mac.udid, command_uuid, command), queued, by_server=composes)

    async def lom_profile(self, mac: MacHandle) -> Queued:
        """Have the server queue its LOM profile for a Mac. Raises CannotProvoke and PeerError; so do the next two."""
        roles = {role: role in mac.mac.roles for role in ("device", "controller")}
        return await self._lom(mac, "InstallProfile", lambda lom: lom.lom_profile(mac.udid, mac.mac.dns_name, **roles))

    async def lom_profile_installed(self, mac: MacHandle) -> None:
        """Have the server install its LOM profile on a Mac. Notes have the certificates of the Mac's LOM identities."""
        await self.result(await self.lom_profile(mac))
        lom = mac.client.device.lom
        found = () if lom is None else (lom.device_identity, lom.controller_identity)
        for key, identity in zip(CERTIFICATE_KEYS, found, strict=False):
            if identity is not None:
                pem = b"".join(map(certificate_pem, (identity.certificate, *identity.chain))).decode("ascii")
                self.recorder.note(IDENTITY_STEP, udid=mac.udid, key=key, certificates=pem)

    async def lom_setup(self, mac: MacHandle) -> Queued:
        """Have the server queue LOMSetupRequest."""
        return await self._lom(mac, "LOMSetupRequest", lambda lom: lom.lom_setup(mac.udid))

    async def lom_request(self, controller: MacHandle, action: str, devices: Sequence[MacHandle]) -> Queued:
        """Have the server queue a LOMDeviceRequest at a Controller for these Devices."""
        udids = [each.udid for each in devices]
        return await self._lom(
            controller, "LOMDeviceRequest", lambda lom: lom.lom_request(controller.udid, action, udids), devices=udids
        )

    async def renew(self, mac: MacHandle) -> Queued:
        """Have the server queue an update of its enrollment profile, with a new identity.

        Raises CannotProvoke and PeerError.
        """
        server: object = self._server
        if not isinstance(server, RenewingServer):
            raise CannotProvoke(f"The adapter {self._target.adapter} cannot have the server renew an identity.")
        queued = Queued(mac, "InstallProfile", "", self.service.events.last)
        return await self._ask(server.renew(mac.udid), queued, by_server=True)

    async def declare(self, mac: MacHandle) -> Queued:
        """Have the server queue DeclarativeManagement; it is one of ours where it composes none itself."""
        server: object = self._server
        if not isinstance(server, DDMServer):
            return await self.queue(mac, {"RequestType": "DeclarativeManagement"})
        queued = Queued(mac, "DeclarativeManagement", "", self.service.events.last)
        return await self._ask(server.declare(mac.udid), queued, by_server=True)

    async def push(self, mac: MacHandle) -> None:
        """Have the server push a Mac. Raises CannotProvoke and PeerError."""
        if self._server is None or self.gateway is None:
            raise CannotProvoke("The server cannot be asked to push: there is no adapter, or no gateway.")
        await self.bounded(self._server.push(mac.udid), "the server's API answers")

    # What a Mac does.

    async def session(self, mac: MacHandle) -> Event:
        """Have a Mac open a session, and wait for its end; returns the event of the end."""
        after = self.service.events.last
        self.service.actions.connect(mac)
        return await self.event(mac, "session_ended", after=after)

    async def deliver(self, mac: MacHandle) -> None:
        """Have the server queue a command for a Mac, which then opens a session: whether the server still has the Mac.

        If nothing can be queued there is the session alone, and a note has the reason. A command that does not come
        has another session, after ``patience``.
        """
        queued = None
        try:
            queued = await self.queue(mac, INFORMATION)
        except PeerError as error:
            self.recorder.note(NOT_QUEUED, udid=mac.udid, reason=str(error)[:500])
        ended = await self.session(mac)
        if queued is not None and not ended.data.get("error"):
            try:
                await self.result(queued)
            except Waited:
                await self.session(mac)
        await self.idle(mac)

    async def result(self, queued: Queued, *statuses: str) -> Event:
        """Wait until the server has accepted a result of a command; with ``statuses``, one of these."""
        wanted = {"command_uuid": queued.command_uuid} if queued.command_uuid else {"request_type": queued.request_type}
        if len(statuses) == 1:
            wanted["status"] = statuses[0]
        return await self.event(queued.mac, "delivered", after=queued.after, **wanted)

    async def idle(self, mac: MacHandle) -> None:
        """Wait until a Mac has no session open."""
        await self.until(lambda: mac.client.open_session is None, f"{mac.udid} ends its session")

    async def event(self, mac: MacHandle, kind: Any, *, after: int = 0, **wanted: str) -> Event:
        """Wait for an event of a Mac (docs/control-api.md, Events). Raises Waited."""
        wait = Wait(kind=kind, udid=mac.udid, after=after, timeout=self.patience, **wanted)
        try:
            event = await self.service.events.wait(wait, self._reactor)
        except TimedOut as error:
            self.recorder.note("waited", udid=mac.udid, event=kind, **wanted)
            what = " ".join([_EVENTS.get(kind, kind.replace("_", " ")), *wanted.values()])
            raise Waited(
                f"Expected {what}, of the Mac {mac.udid}, within {self.patience:g} s, found nothing."
            ) from error
        await deferLater(self._reactor, 0)  # the Mac finishes what it does first
        return event

    async def until(self, happened: Callable[[], bool], what: str) -> None:
        """Wait until ``happened`` returns true; ``what`` is that, as a clause. Raises Waited."""
        give_up = self._reactor.seconds() + self.patience
        while not happened():
            if self._reactor.seconds() > give_up:
                self.recorder.note("waited", what=what)
                raise Waited(f"Expected that {what} within {self.patience:g} s, found that it did not.")
            await deferLater(self._reactor, 0.02)

    async def bounded(self, waiting: Deferred[ValueT], what: str, *, seconds: float | None = None) -> ValueT:
        """Await a Deferred for at most ``seconds``, by default ``patience``; ``what`` is a clause. Raises Waited."""
        try:
            return await within(waiting, seconds or self.patience, self._reactor, self.service.parts.stalls)
        except OutOfTime:
            self.recorder.note("waited", what=what)
            raise Waited(f"Expected that {what} within {self.patience:g} s, found that it did not.") from None

    # Parts.

    def _new_uuid(self) -> str:
        """A CommandUUID that follows from the seed, the probe, and how many it had before."""
        self._uuids += 1
        name = f"{self._seed}/{self.recorder.probe}/command {self._uuids}"
        return str(uuid.uuid5(uuid.NAMESPACE_URL, name)).upper()

    async def _lom(
        self, mac: MacHandle, request_type: str, ask: Callable[[LOMServer], Deferred[str]], **asked: Any
    ) -> Queued:
        server: object = self._server
        if not isinstance(server, LOMServer):
            raise CannotProvoke(
                f"The adapter {self._target.adapter} has no LOM actions: the server composes no {request_type} itself."
            )
        queued = Queued(mac, request_type, "", self.service.events.last)
        return await self._ask(ask(server), queued, by_server=server.composes, encoded=True, **asked)

    async def _ask(self, asked: Deferred[Any], queued: Queued, *, by_server: bool, **more: Any) -> Queued:
        """Await the server's API, note what became of it with ``more``, and have the Mac woken.

        Returns what is queued, with the CommandUUID that the server chose if it said one.
        """
        facts: dict[str, Any] = {"udid": queued.mac.udid, "request_type": queued.request_type, "by_server": by_server}
        try:
            answer = await self.bounded(asked, "the server's API answers")
        except LomAgentError as error:
            self.recorder.note("refused", **facts, command_uuid=queued.command_uuid, error=str(error)[:500])
            raise
        command_uuid = queued.command_uuid or str(answer or "")
        self.recorder.note("queued", **facts, command_uuid=command_uuid, **more)
        if self.gateway is None and queued.mac.client.enrolled:
            queued.mac.client.wake()
        elif self.gateway is not None and self._server is not None and not self._server.pushes_on_enqueue:
            await self.bounded(self._server.push(queued.mac.udid), "the server's API answers to a push")
        return replace(queued, command_uuid=command_uuid)
