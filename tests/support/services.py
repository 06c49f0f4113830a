"""A fleet as a service with a lab and a gateway, all in the tests' reactor and over real sockets."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater

from agent.lab.mdm.core import Lab
from agent.lom.requests import PowerRequest
from agent.net.apns.behaviour import PushBehaviour
from agent.net.mac.fleet.behaviour import MacSettings
from agent.pki.issuing.authorities import Authorities
from agent.service.embedded import Embedded, EmbeddedChoice
from agent.service.fleet import FleetService
from agent.service.macs.groups import MacHandle
from agent.service.macs.parts import ServiceSettings
from agent.service.types import AddMacs, Enroll, Event, Wait, WaitState

SECONDS = 20.0  # after which something that should happen did not: far beyond what it takes
FAST = MacSettings(boot="constant:0.05", shutdown="constant:0.05")


class RunningService:
    """The service and its embedded servers."""

    def __init__(self, **settings: Any) -> None:
        self.warnings: list[str] = []
        authorities = Authorities()
        choice = EmbeddedChoice(lab=True, scep=settings.pop("scep", False))
        usual = {"push": PushBehaviour(), "seed": "service", "macs": FAST, "anchors": (authorities.anchor,)}
        settings = {**usual, **settings}
        self.service = FleetService(reactor, ServiceSettings(**settings), authorities, self.warnings.append)
        self.embedded = Embedded(reactor, self.service, choice, authorities)

    @property
    def lab(self) -> Lab:
        """The lab."""
        assert self.embedded.lab is not None
        return self.embedded.lab.lab

    async def enrolled(self, count: int = 1, **more: Any) -> list[MacHandle]:
        """New Macs, enrolled in the lab."""
        handles = self.service.add(AddMacs(count=count, **more))
        for handle in handles:
            await self.service.actions.enroll(handle, Enroll())
        return handles

    async def push(self, handle: MacHandle) -> None:
        """Have the lab push to a Mac."""
        assert self.embedded.lab is not None
        assert self.embedded.lab.push is not None
        await self.embedded.lab.push.push(handle.udid)

    async def command(self, handle: MacHandle, request_type: str, *, push: bool = True, **body: Any) -> str:
        """Queue a command and push; returns its CommandUUID."""
        command_uuid = self.lab.enqueue(handle.udid, {"RequestType": request_type, **body})
        if push:
            await self.push(handle)
        return command_uuid

    async def event(self, kind: str, handle: MacHandle, **wanted: Any) -> Event:
        """The first event of this kind and Mac with these properties, of the past or to come."""
        wait = Wait(kind=kind, udid=handle.udid, timeout=SECONDS, **wanted)  # type: ignore[arg-type]
        event = await self.service.events.wait(wait, reactor)  # type: ignore[arg-type]
        await deferLater(reactor, 0)  # type: ignore[arg-type]  # the Mac is at work: it finishes what it does first
        return event

    async def state(self, handle: MacHandle, **wanted: Any) -> None:
        """Wait until a Mac has these properties."""
        await self.service.wait_state(handle, WaitState(timeout=SECONDS, **wanted))

    async def until(self, happened: Callable[[], bool], what: str) -> None:
        """Wait until ``happened``; it is an error if it does not."""
        for _ in range(int(SECONDS / 0.01)):
            if happened():
                return
            await deferLater(reactor, 0.01)  # type: ignore[arg-type]
        raise AssertionError(f"did not happen: {what}")

    async def set_up_lom(self, handles: list[MacHandle]) -> None:
        """Install the LOM profile of the service on each Mac."""
        for handle in handles:
            profile = self.service.actions.lom_profile(handle)
            command = await self.command(handle, "InstallProfile", Payload=profile)
            await self.event("delivered", handle, command_uuid=command, status="Acknowledged")

    async def lom(self, controller: MacHandle, device: MacHandle, request: PowerRequest) -> str:
        """Queue a LOMDeviceRequest for one Device at its Controller, and push."""
        item = {
            "DeviceRequestType": request.value,
            "DeviceRequestUUID": str(uuid.uuid4()).upper(),
            "DeviceDNSName": device.mac.dns_name,
            "PrimaryIPv6AddressList": list(device.mac.primary_ipv6),
            "SecondaryIPv6AddressList": list(device.mac.secondary_ipv6),
            "LOMProtocolVersion": 1,
        }
        return await self.command(controller, "LOMDeviceRequest", RequestList=[item])

    def kinds(self, handle: MacHandle) -> list[str]:
        """The kinds of a Mac's events, in order."""
        return [event.kind for event in self.service.events.since(0, lambda event: event.udid == handle.udid)]


@asynccontextmanager
async def running_service(**settings: Any) -> AsyncIterator[RunningService]:
    """A service that is open; everything is closed after it."""
    running = RunningService(**settings)
    running.service.open()
    running.embedded.listen()
    try:
        yield running
    finally:
        running.service.close()
        await running.embedded.close()
