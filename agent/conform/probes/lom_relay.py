"""Probes of LOM: what Controllers and Devices answer, and what follows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from agent import plists
from agent.conform.probes.lom import ready
from agent.conform.probes.probe import Probe
from agent.conform.reading.lom import EXAMPLE_ANSWER, LISTS, NEW_ADDRESSES, REQUEST_TYPE, SETUP_TYPE, VERSION
from agent.conform.stage.errors import CannotProvoke
from agent.conform.stage.stage import Stage
from agent.mdm.results import Status
from agent.servers.server import RequestFailed
from agent.service.macs.groups import MacHandle

_INFORMATION = {"RequestType": "DeviceInformation", "Queries": ["OSVersion"]}
_ADDRESSES = {LISTS[0]: ["fe80::c0de:1"], LISTS[1]: ["fe80::c0de:2"], VERSION: 1}
_MOST_COMMANDS = 20  # of a server that queues commands of its own


async def setup_error(stage: Stage) -> None:
    """A Device answers LOMSetupRequest with Error; its Controller is asked to power it, and again after a set-up."""
    controller, device = stage.segment(2)
    for mac in (controller, device):
        await stage.enroll(mac)
        await stage.lom_profile_installed(mac)
    stage.rule(device, on="command", type=SETUP_TYPE, do="error", times=1)
    await stage.result(await stage.lom_setup(device), Status.ERROR.value)
    with suppress(RequestFailed):  # a server should refuse it
        await stage.lom_request(controller, "PowerON", [device])
    await stage.idle(controller)
    await stage.session(controller)
    await stage.idle(controller)
    await stage.result(await stage.lom_setup(device))
    await stage.result(await stage.lom_request(controller, "PowerON", [device]))


async def setup_not_now(stage: Stage) -> None:
    """A Mac answers LOMSetupRequest with NotNow once, and opens another session."""
    mac = await stage.enrolled()
    await stage.lom_profile_installed(mac)
    stage.rule(mac, on="command", type=SETUP_TYPE, do="not_now", times=1)
    await stage.result(await stage.lom_setup(mac), Status.NOT_NOW.value)
    await stage.idle(mac)
    await stage.session(mac)


async def set_up_again(stage: Stage) -> None:
    """A Device answers a second LOMSetupRequest with other addresses; then it is powered."""
    controller, device = await ready(stage, 2)
    await _by_hand(
        stage, device, lambda: stage.lom_setup(device), SETUP_TYPE, lambda _command: _ADDRESSES, NEW_ADDRESSES
    )
    await stage.result(await stage.lom_request(controller, "PowerON", [device]))


async def example_answer(stage: Stage) -> None:
    """A Controller answers LOMDeviceRequest as the documented example does, and opens another session."""
    controller, device = await ready(stage, 2)

    def ask() -> Awaitable[object]:
        return stage.lom_request(controller, "PowerON", [device])

    await _by_hand(stage, controller, ask, REQUEST_TYPE, _example, EXAMPLE_ANSWER)
    await stage.session(controller)


async def request_error(stage: Stage) -> None:
    """A Controller answers LOMDeviceRequest with Error; the same is asked again."""
    controller, device = await ready(stage, 2)
    stage.rule(controller, on="command", type=REQUEST_TYPE, do="error", times=1)
    await stage.result(await stage.lom_request(controller, "PowerON", [device]), Status.ERROR.value)
    await stage.idle(controller)
    await stage.result(await stage.lom_request(controller, "PowerON", [device]))
    await stage.idle(controller)
    await stage.session(controller)


async def power_on(stage: Stage) -> None:
    """A Device is powered off; a command is queued for it; it is powered on, and opens a session."""
    controller, device = await ready(stage, 2)
    off = await stage.lom_request(controller, "PowerOFF", [device])
    await stage.event(device, "power", after=off.after, status="off")
    await stage.queue(device, _INFORMATION)
    on = await stage.lom_request(controller, "PowerON", [device])
    await stage.result(on)
    await stage.event(device, "session_ended", after=on.after)
    await stage.idle(device)
    await stage.session(device)


async def _by_hand(
    stage: Stage,
    mac: MacHandle,
    ask: Callable[[], Awaitable[object]],
    request_type: str,
    answer: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    says: str,
) -> None:
    """Call ``ask``, and answer the command in the name of the Mac, which is off the network meanwhile.

    Commands of other types are answered with NotNow. Raises CannotProvoke where the server does not send it.
    """
    stage.service.actions.set_online(mac, False)
    await ask()
    report: dict[str, Any] = {"Status": Status.IDLE.value, "UDID": mac.udid}
    for _ in range(_MOST_COMMANDS):
        response = await stage.raw.report(mac, report, says="by hand")
        command = _command_in(b"" if response is None or response.status != 200 else response.body)
        if command is None:
            break
        report = {"Status": Status.NOT_NOW.value, "UDID": mac.udid, "CommandUUID": command.get("CommandUUID")}
        if command["Command"].get("RequestType") == request_type:
            report |= {"Status": Status.ACKNOWLEDGED.value, **answer(command["Command"])}
            await stage.raw.report(mac, report, says=says)
            after = stage.service.events.last
            stage.service.actions.set_online(mac, True)
            await stage.event(mac, "session_ended", after=after)
            await stage.idle(mac)
            return
    raise CannotProvoke(f"Expected {request_type} in a session of {mac.udid}, found that the server does not send it.")


def _command_in(body: bytes) -> dict[str, Any] | None:
    try:
        command = plists.load_dict(body) if body else {}
    except plists.PlistError:
        return None
    return command if isinstance(command.get("Command"), dict) else None


def _example(command: Mapping[str, Any]) -> Mapping[str, Any]:
    items = command.get("RequestList")
    uuids = (
        [each.get("DeviceRequestUUID") for each in items if isinstance(each, dict)] if isinstance(items, list) else []
    )
    return {"ResponseData": [{"DeviceRequestSucess": True, "DeviceRequestUUID": str(each)} for each in uuids]}


PROBES = (
    Probe("lom-example-answer", "Answers LOMDeviceRequest with the keys of the documented example.", example_answer),
    Probe("lom-power-on", "Powers a Device off, queues a command for it, and powers it on.", power_on),
    Probe("lom-request-error", "Answers LOMDeviceRequest with Error, and asks again.", request_error),
    Probe("lom-set-up-again", "Answers a second LOMSetupRequest with other addresses.", set_up_again),
    Probe(
        "lom-setup-error",
        "Answers LOMSetupRequest with Error, asks for a request, and sets up.",
        setup_error,
    ),
    Probe("lom-setup-not-now", "Answers LOMSetupRequest with NotNow once.", setup_not_now),
)
