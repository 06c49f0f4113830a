"""Probes of check-ins: enrollment, new push tokens, CheckOut, bootstrap tokens, messages that a server may not know."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from agent.conform.probes.probe import Probe
from agent.conform.stage.errors import CannotProvoke
from agent.conform.stage.raw import mac_enrollment
from agent.conform.stage.stage import INFORMATION, Stage
from agent.mdm import checkin
from agent.profiles.enrollment import BOOTSTRAP_CAPABILITY
from agent.servers.server import RequestFailed
from agent.service.macs.groups import MacHandle

UNKNOWN_KEYS = {"NewKey": "a later release", "NewDictionary": {"NewKey": True}}
_REQUIRED = ("MessageType", "Topic", "UDID", "DeviceName", "Model", "ModelName", "Token", "PushMagic")


async def order(stage: Stage) -> None:
    """A Mac enrolls."""
    await stage.enrolled()


async def out(stage: Stage) -> None:
    """A Mac checks out."""
    mac = await stage.enrolled()
    await stage.raw.check_in(mac, checkin.check_out(mac.udid, mac_enrollment(mac).topic), says="CheckOut")


async def after_out(stage: Stage) -> None:
    """A Mac checks out. A command is queued for it, and one for another Mac, which gets it; then the first reports."""
    mac, other = await stage.enrolled(), await stage.enrolled()
    await offline(stage, mac)
    check_out = checkin.check_out(mac.udid, mac_enrollment(mac).topic)
    await stage.raw.check_in(mac, check_out, says="CheckOut")
    await _queued_for_both(stage, mac, other)
    await stage.raw.report(mac, _idle(mac), says="Idle after CheckOut")


async def early(stage: Stage) -> None:
    """A Mac begins to enroll again: Authenticate. A command is queued for it; then it reports without TokenUpdate."""
    mac, other = await stage.enrolled(), await stage.enrolled()
    await offline(stage, mac)
    await stage.raw.check_in(mac, authenticate(mac), says="Authenticate again")
    await _queued_for_both(stage, mac, other)
    await stage.raw.report(mac, _idle(mac), says="Idle before TokenUpdate")


async def bootstrap(stage: Stage) -> None:
    """A Mac sets another bootstrap token, gets it, sets none, and gets it again."""
    mac = await stage.enrolled()
    if BOOTSTRAP_CAPABILITY not in mac_enrollment(mac).capabilities:
        raise CannotProvoke(f"The enrollment profile does not name the server capability {BOOTSTRAP_CAPABILITY}.")
    topic, token = mac_enrollment(mac).topic, mac.mac.bootstrap_token[::-1]
    get = {"MessageType": "GetBootstrapToken", "UDID": mac.udid, "Topic": topic}
    await stage.raw.check_in(mac, checkin.set_bootstrap_token(mac.udid, topic, token), says="SetBootstrapToken")
    await stage.raw.check_in(mac, get, says="GetBootstrapToken")
    clear = checkin.set_bootstrap_token(mac.udid, topic, b"")
    del clear["BootstrapToken"]
    await stage.raw.check_in(mac, clear, says="SetBootstrapToken without a token")
    await stage.raw.check_in(mac, get, says="GetBootstrapToken without a token")


async def unknown(stage: Stage) -> None:
    """A Mac sends a check-in message of an unknown type; then it gets a command."""
    mac = await stage.managed()
    message = {"MessageType": "NoSuchMessage", "UDID": mac.udid, "Topic": mac_enrollment(mac).topic}
    await stage.raw.check_in(mac, message, says="unknown message")
    await stage.deliver(mac)


async def keys(stage: Stage) -> None:
    """A Mac enrolls again twice: with the required keys alone, and with unknown keys. It opens a session after each.

    At last it sends the same TokenUpdate twice.
    """
    mac = await stage.enrolled()
    for message in (authenticate(mac), token_update(mac)):
        few = {key: value for key, value in message.items() if key in _REQUIRED}
        await stage.raw.check_in(mac, few, says="required keys")
    await stage.session(mac)
    for message in (authenticate(mac), token_update(mac)):
        await stage.raw.check_in(mac, message | UNKNOWN_KEYS, says="unknown keys")
    await stage.session(mac)
    for _ in range(2):
        await stage.raw.check_in(mac, token_update(mac), says="same token")


async def offline(stage: Stage, mac: MacHandle) -> None:
    """Take a Mac off the network once it has no session open, so that pushes do not wake it."""
    await stage.idle(mac)
    stage.service.actions.set_online(mac, False)


def authenticate(mac: MacHandle) -> dict[str, Any]:
    """The Authenticate of an enrolled Mac."""
    return checkin.authenticate(mac.client.device.announcement, mac_enrollment(mac).topic)


def token_update(mac: MacHandle) -> dict[str, Any]:
    """The TokenUpdate of an enrolled Mac."""
    return checkin.token_update(mac.udid, mac_enrollment(mac).topic, mac.mac.push_token, mac.mac.push_magic)


def _idle(mac: MacHandle) -> Mapping[str, Any]:
    return {"Status": "Idle", "UDID": mac.udid}


async def _queued_for_both(stage: Stage, mac: MacHandle, other: MacHandle) -> None:
    """Queue a command for ``mac``, which the server may refuse, then one for ``other``, which has its result."""
    with suppress(RequestFailed):
        await stage.queue(mac, INFORMATION)
    await stage.result(await stage.queue(other, INFORMATION))


PROBES = (
    Probe("checkin-bootstrap", "Sets, gets and removes a bootstrap token.", bootstrap),
    Probe("checkin-early", "Enrolls again without TokenUpdate, and sends a report.", early),
    Probe("checkin-keys", "Enrolls again with the required keys alone, with unknown keys, and updates twice.", keys),
    Probe("checkin-order", "Enrolls.", order),
    Probe("checkin-out", "Checks out.", out),
    Probe("checkin-out-quiet", "Checks out, and sends a report when a command is queued.", after_out),
    Probe("checkin-unknown", "Sends a check-in message of an unknown type.", unknown),
)
