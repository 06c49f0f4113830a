"""The main job: enrol the fleet in the lab, set LOM up, reset every Mac, cut the power of a segment, see all come back.

The lab is the server: it queues the commands and judges what the Macs answer. Each step drives many Macs at once, and a
Mac that fails a step is left out of the next ones; the others go on.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.python.failure import Failure

from agent.errors import PeerError
from agent.lab.core import Lab
from agent.lab.profiles import lom_profile
from agent.lab.server import LabServer
from agent.load.fleet import Fleet
from agent.load.progress import Progress
from agent.load.push import Push
from agent.load.steps import Job
from agent.lom.requests import PowerRequest
from agent.mdm.session import State
from agent.net.mdm_client import MDMClient
from agent.net.surroundings import Moment, Surroundings

COMMAND_SECONDS = 120.0  # how long the job waits for a Mac's result
RETURN_SECONDS = 120.0  # … and for its first session after a reset, beside the boot itself

SetupAnswer = Mapping[str, Any]


class ResultMissing(PeerError):
    """A Mac did not send the result of a command in time."""

    kind = "no_result"


class ResultWrong(PeerError):
    """A Mac's result is not what the command asks for."""

    kind = "bad_result"


class NotBack(PeerError):
    """A Mac that was reset did not open a session again in time."""

    kind = "not_back"


class StillOn(PeerError):
    """A Mac that was switched off goes on talking."""

    kind = "still_on"


@dataclass(frozen=True, slots=True)
class Result:
    """A command's result that is waited for. ``pushed`` fires when APNs has answered; it never fails."""

    udid: str
    command_uuid: str
    request_type: str
    arrived: Deferred[Mapping[str, Any]]
    pushed: Deferred[None]


class MainJob:
    """One run of the job. ``run`` is a coroutine for Twisted's Deferred; it may be cancelled at any time.

    ``longest_boot`` is how many seconds the longest boot of these Macs takes.
    """

    def __init__(
        self,
        fleet: Fleet,
        server: LabServer,
        surroundings: Surroundings,
        progress: Progress,
        push: Push,
        *,
        rate: float | None = None,
        retries: int = 0,
        longest_boot: float = 0.0,
    ) -> None:
        self._job = Job(fleet, surroundings, progress)
        self._push = push
        self._fleet = fleet
        self._server = server
        self._lab: Lab = server.lab
        self._around = surroundings
        self._rate = rate
        self._retries = retries
        self._command_seconds = COMMAND_SECONDS + longest_boot
        self._return_seconds = RETURN_SECONDS + longest_boot
        self._requests = count(1)
        self._setups: dict[int, SetupAnswer] = {}
        self._back: dict[str, Deferred[None]] = {}
        self._connections: dict[str, int] = {}
        self._lab.on_report = self._reported

    async def run(self) -> None:
        """Every step, one after another."""
        job = self._job
        await job.enrol_all(self._enrol, self._rate, self._retries)
        await job.step("Install LOM profile", job.still_good(), self._install_lom)
        await job.step("LOMSetupRequest", job.still_good(), self._set_up)
        await self._reset_all()
        await self._cut_power()
        await job.settle()

    async def _enrol(self, client: MDMClient) -> None:
        await client.enroll_at(self._server.enrolment_url)

    async def _install_lom(self, client: MDMClient) -> None:
        mac = client.device.mac
        profile = lom_profile(
            self._server.authorities,
            mac.dns_name,
            device="device" in mac.roles,
            controller="controller" in mac.roles,
        )
        await self._command(client, {"RequestType": "InstallProfile", "Payload": profile})

    async def _set_up(self, client: MDMClient) -> None:
        since = self._around.now()
        try:
            answer = await self._command(client, {"RequestType": "LOMSetupRequest"})
            check_setup_answer(answer)
        except PeerError as error:
            self._around.record("lom_setup", client.index, since, error)
            raise
        self._setups[client.index] = answer
        self._around.record("lom_setup", client.index, since)

    async def _reset_all(self) -> None:
        """Every Mac is reset through the Controller of its segment, which resets itself last."""
        targets = self._set_up_macs(self._fleet)
        for client in targets:
            self._back[client.device.mac.udid] = Deferred()
        controllers = [controller for controller in self._controllers() if self._of_segment(controller)]
        since = self._around.now()

        async def reset(controller: MDMClient) -> None:
            clients = sorted(self._of_segment(controller), key=lambda client: client is controller)
            await self._request(controller, clients, PowerRequest.RESET)

        await self._job.step("LOMDeviceRequest (Reset)", controllers, reset)
        back = [client for client in targets if client.index in self._job.good]
        await self._job.step("Back after reset", back, lambda client: self._wait_until_back(client, since))

    async def _cut_power(self) -> None:
        """One segment loses its power, all but its Controller; a command waits for each Mac until it is back."""
        controller = next((one for one in self._controllers() if len(self._of_segment(one)) > 1), None)
        if controller is None:
            return
        clients = [client for client in self._of_segment(controller) if client is not controller]

        async def switch(request: PowerRequest) -> None:
            await self._request(controller, clients, request)

        await self._job.step("LOMDeviceRequest (PowerOFF)", [controller], lambda _: switch(PowerRequest.OFF))
        clients = [client for client in clients if client.index in self._job.good]
        waiting: dict[int, Result] = {}
        await self._job.step("Off, a command waits", clients, lambda client: self._leave_waiting(client, waiting))
        clients = [client for client in clients if client.index in self._job.good]
        await self._job.step("LOMDeviceRequest (PowerON)", [controller], lambda _: switch(PowerRequest.ON))
        clients = [client for client in clients if client.index in self._job.good]
        await self._job.step("Back after the power cut", clients, lambda client: self._arrival(waiting[client.index]))

    async def _leave_waiting(self, client: MDMClient, waiting: dict[int, Result]) -> None:
        """Queue a command for a Mac that is off, and push it: nothing may come of that."""
        result = waiting[client.index] = self._queue(client, {"RequestType": "ProfileList"})
        await result.pushed
        if client.device.running or client.device.session.state is not State.CLOSED:
            error = StillOn("the Mac was switched off, but talks to its server")
            self._around.record("session", client.index, self._around.now(), error)
            raise error

    def _controllers(self) -> list[MDMClient]:
        """The Controller of each segment, where it is still good."""
        population = self._fleet.population
        indexes = [population.segment(segment)[0] for segment in range(population.segments)]
        return [self._fleet[index] for index in indexes if index in self._job.good]

    def _of_segment(self, controller: MDMClient) -> list[MDMClient]:
        return self._set_up_macs(self._fleet.of_segment(controller.segment))

    def _set_up_macs(self, clients: Iterable[MDMClient]) -> list[MDMClient]:
        return [client for client in clients if client.index in self._job.good and client.index in self._setups]

    async def _request(self, controller: MDMClient, clients: Sequence[MDMClient], request: PowerRequest) -> None:
        """One LOMDeviceRequest for all these Macs, with exactly the lists that they answered."""
        number = next(self._requests)  # a Device does not do again what has the UUID of what it did before
        items = {f"{client.device.mac.serial_number}-{number}-{request.value}": client for client in clients}
        body = {
            "RequestType": "LOMDeviceRequest",
            "RequestList": [
                {
                    "DeviceRequestType": request.value,
                    "DeviceRequestUUID": request_uuid,
                    "DeviceDNSName": client.device.mac.dns_name,
                    "PrimaryIPv6AddressList": self._setups[client.index]["PrimaryIPv6AddressList"],
                    "SecondaryIPv6AddressList": self._setups[client.index]["SecondaryIPv6AddressList"],
                    "LOMProtocolVersion": self._setups[client.index]["LOMProtocolVersion"],
                }
                for request_uuid, client in items.items()
            ],
        }
        since = self._around.now()
        failures: dict[str, PeerError | None]
        try:
            failures = item_failures(await self._command(controller, body), list(items))
        except PeerError as error:
            failures = dict.fromkeys(items, error)
        for request_uuid, client in items.items():
            failure = failures[request_uuid]
            facts = {"request": request.value, "request_uuid": request_uuid}
            self._around.record("lom_device", client.index, since, failure, facts)
            if failure is not None:
                self._job.good.discard(client.index)
        wrong = next((failure for failure in failures.values() if failure is not None), None)
        if wrong is not None:
            raise wrong

    async def _wait_until_back(self, client: MDMClient, since: Moment) -> None:
        """The Mac opened a session from a new connection, after a boot."""
        back = self._back[client.device.mac.udid]
        try:
            await back.addTimeout(self._return_seconds, self._around.reactor)  # type: ignore[arg-type]
        except DeferredTimeout:
            error = NotBack(f"no session within {self._return_seconds:g} s of the reset")
            self._around.record("session", client.index, since, error)
            raise error from None

    def _reported(self, udid: str, connection: int) -> None:
        """A Mac is back when it reports over another connection than before, after a boot.

        What it reports first is Idle, or a result whose delivery the reset cut off.
        """
        before = self._connections.get(udid)
        self._connections[udid] = connection
        back = self._back.get(udid)
        if back is not None and not back.called and before != connection and self._fleet.of_udid(udid).boots > 0:
            back.callback(None)

    async def _command(self, client: MDMClient, command: Mapping[str, Any]) -> Mapping[str, Any]:
        """Queue a command, push, and return the Mac's result. Raises ResultMissing, ResultWrong, PushFailed."""
        return await self._arrival(self._queue(client, command))

    def _queue(self, client: MDMClient, command: Mapping[str, Any]) -> Result:
        udid = client.device.mac.udid
        arrived: Deferred[Mapping[str, Any]] = Deferred()
        command_uuid = self._lab.enqueue(udid, command, arrived.callback)

        def failed(failure: Failure) -> None:
            self._lab.forget(udid, command_uuid)
            if not arrived.called:
                arrived.errback(failure)

        pushed = self._push(udid).addCallbacks(lambda _apns_id: None, failed)
        return Result(udid, command_uuid, str(command["RequestType"]), arrived, pushed)

    async def _arrival(self, result: Result) -> Mapping[str, Any]:
        try:
            report = await result.arrived.addTimeout(self._command_seconds, self._around.reactor)  # type: ignore[arg-type]
        except DeferredTimeout:
            self._lab.forget(result.udid, result.command_uuid)
            raise ResultMissing(f"no result of {result.request_type} within {self._command_seconds:g} s") from None
        if report.get("Status") != "Acknowledged":
            raise ResultWrong(f"{result.request_type} ended in {report.get('Status')}: {_reasons(report)}")
        return report


def check_setup_answer(answer: SetupAnswer) -> None:
    """Whether a LOMSetupRequest's answer has what the schema requires. Raises ResultWrong.

    Source: apple-schema commands/lom.setuprequest.yaml, responsekeys.
    """
    addresses = []
    for key in ("PrimaryIPv6AddressList", "SecondaryIPv6AddressList"):
        listed = answer.get(key)
        if not isinstance(listed, list):
            raise ResultWrong(f"the answer to LOMSetupRequest lacks the array {key}")
        addresses += listed
    if not addresses:
        raise ResultWrong("the answer to LOMSetupRequest has no address")
    for address in addresses:
        try:
            ipaddress.IPv6Address(address)
        except ValueError as error:
            raise ResultWrong(f"the answer to LOMSetupRequest has an address that is none: {error}") from error
    if not isinstance(answer.get("LOMProtocolVersion"), int):
        raise ResultWrong("the answer to LOMSetupRequest lacks the integer LOMProtocolVersion")


def item_failures(answer: Mapping[str, Any], request_uuids: list[str]) -> dict[str, PeerError | None]:
    """What failed, by DeviceRequestUUID, in the answer to a LOMDeviceRequest; None where the item succeeded.

    Source: apple-schema commands/lom.devicerequest.yaml, responsekeys.
    """
    listed = answer.get("ResponseList")
    items = {item.get("DeviceRequestUUID"): item for item in listed or () if isinstance(item, dict)}
    failures: dict[str, PeerError | None] = {}
    for request_uuid in request_uuids:
        item = items.get(request_uuid)
        if item is None:
            failures[request_uuid] = ResultWrong("the answer's ResponseList lacks an item of the request")
        elif item.get("DeviceRequestSuccess") is True:
            failures[request_uuid] = None
        else:
            failures[request_uuid] = ResultWrong(str(item.get("DeviceRequestReturnError", "no reason given")))
    return failures


def _reasons(result: Mapping[str, Any]) -> str:
    chain = result.get("ErrorChain")
    errors = chain if isinstance(chain, list) else []
    texts = [str(error.get("USEnglishDescription")) for error in errors if isinstance(error, dict)]
    return "; ".join(texts) or "no reason given"
