"""The phases ``lom_setup`` and ``lom``: Macs are set up for LOM, and Controllers send power requests to Devices."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from agent.errors import PeerError
from agent.load.phases.context import PhaseContext
from agent.load.phases.pace import NotPossible
from agent.lom.power import Power
from agent.lom.requests import PowerRequest
from agent.measure.operations import Moment
from agent.net.mac.client import MDMClient
from agent.net.timing import sleep
from agent.profiles.making import lom_profile

NOT_SET_UP = "the Mac was not set up for LOM"
NO_CONTROLLER = "the segment's Controller was not set up for LOM"
OFF_SECONDS = (
    10.0  # in which a Mac has to shut down after PowerOFF; a Controller first reports the result to its server
)
_LOOK_SECONDS = 0.02

SetupAnswer = Mapping[str, Any]


class ResultWrong(PeerError):
    """A Mac's result does not match the command."""

    kind = "bad_result"


class StillOn(PeerError):
    """A Mac still runs after PowerOFF."""

    kind = "still_on"
    timed_out = True


class NotBack(PeerError):
    """A Mac did not boot and complete a session in time."""

    kind = "not_back"
    timed_out = True


async def set_up(context: PhaseContext, index: int, due: Moment, seconds: float, *, install: bool) -> None:
    """Have one Mac answer LOMSetupRequest, with ``install`` after installing its LOM profile. Raises PeerError."""
    client = context.mac(index)
    mac = client.device.mac
    if install:
        roles = {"device": "device" in mac.roles, "controller": "controller" in mac.roles}
        profile = lom_profile(context.authorities, mac.dns_name, **roles)
        await context.command(client, {"RequestType": "InstallProfile", "Payload": profile}, due, seconds)
        due = context.environment.now()
    with context.environment.begin("lom_setup", index, due):
        work = await context.command(client, {"RequestType": "LOMSetupRequest"}, due, seconds)
        answer = {} if work.result is None else work.result.answer
        check_setup_answer(answer)
    context.setups[index] = answer
    context.on_setup(index, answer)


async def power(
    context: PhaseContext, controller: int, targets: Sequence[int], request: PowerRequest, due: Moment, seconds: float
) -> None:
    """Send one LOMDeviceRequest for all ``targets`` to their Controller, and wait for its effect. Raises PeerError.

    Each target records the operation ``lom_device``, and ``return`` if it boots, which ends with its first successful
    session. If the Controller is a target, it is the last one.
    """
    if controller not in context.setups:
        raise NotPossible(NO_CONTROLLER)
    clients = [context.mac(index) for index in targets if index in context.setups]
    if not clients:
        raise NotPossible(NOT_SET_UP)
    clients.sort(key=lambda client: client.index == controller)
    back = {
        client.index: Deferred.fromCoroutine(until_back(context, client, due, client.boots, seconds))
        for client in clients
        if _will_boot(client, request)
    }  # from now on: a Mac may be back before the server has accepted the Controller's result
    try:
        failures = await _request(context, context.mac(controller), clients, request, due, seconds)
        for index, waiting in back.items():
            if failures[index] is not None:
                waiting.addErrback(lambda _: None).cancel()
        good = [client for client in clients if failures[client.index] is None]
        returns = [returned(context, client, due, back[client.index]) for client in good if client.index in back]
        await all_of([Deferred.fromCoroutine(each) for each in returns])
    finally:
        for waiting in back.values():
            waiting.addErrback(lambda _: None).cancel()
    wrong = next((failure for failure in failures.values() if failure is not None), None)
    if wrong is not None:
        raise wrong


async def all_of(waiting: Sequence[Deferred[None]]) -> None:
    """Wait for all, then raise the first error, in their order."""
    outcomes: list[tuple[bool, Any]] = await DeferredList(list(waiting), consumeErrors=True)
    for good, outcome in outcomes:
        if not good:
            outcome.raiseException()


async def until_back(context: PhaseContext, client: MDMClient, due: Moment, boots: int, seconds: float) -> float:
    """Wait until a Mac that had booted ``boots`` times has booted again and completed a session.

    Returns the time of that, on the reactor's clock. Raises NotBack.
    """
    stalled = context.mac_waits.stalls.seconds
    ends = due.ticks + seconds + context.longest_boot
    error: PeerError | None = None
    while (left := ends + context.mac_waits.stalls.seconds - stalled - context.environment.reactor.seconds()) > 0.0:
        try:
            failure = await context.mac_waits.session_end(client.index, left)
        except PeerError as stuck:
            error = error or stuck
            context.mac_waits.overdue(client, seconds)
            break
        if failure is None and client.boots > boots:
            return context.environment.reactor.seconds()
        error = failure
    raise NotBack(f"no successful session within {seconds + context.longest_boot:g} s: {error or 'no session at all'}")


async def returned(context: PhaseContext, client: MDMClient, due: Moment, waiting: Deferred[float]) -> None:
    """Record ``return``, from ``due``, of a Mac that boots; ``waiting`` is ``until_back``. Raises PeerError."""
    with context.environment.begin("return", client.index, due) as record:
        record.end(at=await waiting)


def _will_boot(client: MDMClient, request: PowerRequest) -> bool:
    """Whether the request makes a Mac in this state boot."""
    if request is PowerRequest.ON:
        return client.device.power.state is not Power.ON
    return request is PowerRequest.RESET


async def _request(
    context: PhaseContext,
    controller: MDMClient,
    clients: Sequence[MDMClient],
    request: PowerRequest,
    due: Moment,
    seconds: float,
) -> dict[int, PeerError | None]:
    """Send the request; returns the failure, or None, by the Mac's index.

    The addresses of each item are those that its Mac answered. PowerOFF fails if the Mac does not shut down.
    """
    items = {str(uuid.uuid4()).upper(): client for client in clients}
    failures: dict[str, PeerError | None]
    with ExitStack() as records:
        started = {
            request_uuid: records.enter_context(
                context.environment.begin(
                    "lom_device", client.index, due, {"request": request.value, "request_uuid": request_uuid}
                )
            )
            for request_uuid, client in items.items()
        }
        try:
            work = await context.command(controller, _command(context, items, request), due, seconds)
            failures = item_failures({} if work.result is None else work.result.answer, list(items))
        except PeerError as error:
            failures = dict.fromkeys(items, error)
        answered = context.environment.reactor.seconds()
        for request_uuid, client in items.items():
            if request is PowerRequest.OFF and failures[request_uuid] is None:
                failures[request_uuid] = await _until_off(context, client)
            failure = failures[request_uuid]
            started[request_uuid].end(failure, at=None if isinstance(failure, StillOn) else answered)
    return {client.index: failures[request_uuid] for request_uuid, client in items.items()}


def _command(context: PhaseContext, items: Mapping[str, MDMClient], request: PowerRequest) -> dict[str, Any]:
    """The LOMDeviceRequest for these, by DeviceRequestUUID."""
    return {
        "RequestType": "LOMDeviceRequest",
        "RequestList": [
            {
                "DeviceRequestType": request.value,
                "DeviceRequestUUID": request_uuid,
                "DeviceDNSName": client.device.mac.dns_name,
                "PrimaryIPv6AddressList": context.setups[client.index]["PrimaryIPv6AddressList"],
                "SecondaryIPv6AddressList": context.setups[client.index]["SecondaryIPv6AddressList"],
                "LOMProtocolVersion": context.setups[client.index]["LOMProtocolVersion"],
            }
            for request_uuid, client in items.items()
        ],
    }


async def _until_off(context: PhaseContext, client: MDMClient) -> StillOn | None:
    """Wait until a Mac that answered PowerOFF has shut down."""
    until = context.environment.reactor.seconds() + OFF_SECONDS
    while client.device.running:
        if context.environment.reactor.seconds() >= until:
            return StillOn("the Mac answered PowerOFF with success, but still runs")
        await sleep(context.environment.reactor, _LOOK_SECONDS)
    return None


def check_setup_answer(answer: SetupAnswer) -> None:
    """Check that an answer to LOMSetupRequest has what the schema requires. Raises ResultWrong.

    Source: apple-schema commands/lom.setuprequest.yaml, responsekeys.
    """
    addresses: list[Any] = []
    for key in ("PrimaryIPv6AddressList", "SecondaryIPv6AddressList"):
        listed = answer.get(key)
        if not isinstance(listed, list | tuple):
            raise ResultWrong(f"the answer to LOMSetupRequest lacks the array {key}")
        addresses += listed
    if not addresses:
        raise ResultWrong("the answer to LOMSetupRequest has no address")
    for address in addresses:
        try:
            ipaddress.IPv6Address(address)
        except ValueError as error:
            raise ResultWrong(f"the answer to LOMSetupRequest has an invalid address: {error}") from error
    if not isinstance(answer.get("LOMProtocolVersion"), int):
        raise ResultWrong("the answer to LOMSetupRequest lacks the integer LOMProtocolVersion")


def item_failures(answer: Mapping[str, Any], request_uuids: list[str]) -> dict[str, PeerError | None]:
    """The failures in an answer to LOMDeviceRequest, by DeviceRequestUUID; None for an item that succeeded.

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
