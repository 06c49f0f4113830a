"""Probes of LOM: the profile, LOMSetupRequest, LOMDeviceRequest."""

from __future__ import annotations

from contextlib import suppress

from agent.conform.probes.probe import Probe
from agent.conform.stage.stage import Stage
from agent.servers.server import RequestFailed
from agent.service.macs.groups import MacHandle


async def order(stage: Stage) -> None:
    """Each step of the LOM set-up is asked for before the one that it needs, and at last in order.

    A server that refuses it in order, too, shows nothing by refusing it before.
    """
    controller, device = stage.segment(2)
    for mac in (controller, device):
        await stage.enroll(mac)
    with suppress(RequestFailed):  # a server should refuse it
        await stage.lom_setup(device)
    await stage.session(device)
    for mac in (controller, device):
        await stage.lom_profile_installed(mac)
    with suppress(RequestFailed):
        await stage.lom_request(controller, "PowerON", [device])
    await stage.idle(controller)
    await stage.session(controller)
    await stage.idle(controller)
    await stage.result(await stage.lom_setup(device))
    await stage.result(await stage.lom_request(controller, "PowerON", [device]))


async def set_up(stage: Stage) -> None:
    """Two Macs get the LOM profile and are set up."""
    await ready(stage, 2)


async def requests(stage: Stage) -> None:
    """Two Devices are powered through their Controller, by each action."""
    controller, *devices = await ready(stage, 3)
    for action in ("PowerON", "Reset", "PowerOFF"):
        await stage.result(await stage.lom_request(controller, action, devices))


async def partial(stage: Stage) -> None:
    """A LOMDeviceRequest of which one item succeeds and one fails; then the Controller and a Device open a session."""
    controller, good, bad = await ready(stage, 3)
    stage.rule(bad, on="lom_link", do="refuse")
    await stage.result(await stage.lom_request(controller, "PowerON", [good, bad]))
    await stage.idle(controller)
    await stage.session(controller)
    await stage.session(good)


async def ready(stage: Stage, count: int) -> list[MacHandle]:
    """The Macs of a new segment, enrolled and set up for LOM; the first is the Controller."""
    macs = stage.segment(count)
    for mac in macs:
        await stage.enroll(mac)
        await stage.lom_profile_installed(mac)
        await stage.result(await stage.lom_setup(mac))
    return macs


PROBES = (
    Probe(
        "lom-order",
        "Asks for LOMSetupRequest before the LOM profile, for LOMDeviceRequest before LOMSetupRequest, then in order.",
        order,
    ),
    Probe("lom-partial", "Sends a request to two Devices, of which one refuses.", partial),
    Probe("lom-requests", "Sends PowerON, PowerOFF and Reset to two Devices through their Controller.", requests),
    Probe("lom-set-up", "Sets up two Macs of one segment for LOM.", set_up),
)
