"""Probes of pushes. What APNs gets is recorded by the gateway."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from agent.conform.probes.probe import Probe
from agent.conform.stage.errors import CannotProvoke
from agent.conform.stage.raw import mac_enrollment
from agent.conform.stage.stage import INFORMATION, Stage
from agent.conform.trace.records import PushRecord
from agent.mdm import checkin
from agent.servers.server import RequestFailed
from agent.service.macs.groups import MacHandle

ASKED = "asked"  # the note before a command is queued
BACK = "back online"  # the note before a Mac is online again
_NO_GATEWAY = "The server's pushes cannot be seen: there is no gateway for them. Give --apns."


async def once(stage: Stage) -> None:
    """A command is queued; then the Mac opens a session."""
    mac = await _pushed_mac(stage)
    await _queued(stage, mac, {"RequestType": "CertificateList"})
    await stage.idle(mac)
    await stage.session(mac)


async def update(stage: Stage) -> None:
    """A second TokenUpdate has another push token and PushMagic; then a command is queued."""
    mac = await _pushed_mac(stage)
    of = mac.mac
    token, magic = bytes(reversed(of.push_token)), of.push_magic[::-1]
    message = checkin.token_update(mac.udid, mac_enrollment(mac).topic, token, magic)
    await stage.raw.check_in(mac, message, says="second TokenUpdate")
    await _queued(stage, mac, INFORMATION)


async def too_many(stage: Stage) -> None:
    """APNs refuses a push with 429; then another command is queued."""
    await _refused(stage, do="refuse", reason="TooManyRequests")


async def unavailable(stage: Stage) -> None:
    """APNs refuses a push with 503; then another command is queued."""
    await _refused(stage, do="refuse", reason="ServiceUnavailable")


async def broken(stage: Stage) -> None:
    """APNs resets the connection instead of an answer; then another command is queued."""
    await _refused(stage, do="drop")


async def unregistered(stage: Stage) -> None:
    """APNs refuses a push with 410; then two other commands are queued, each before a session."""
    mac = await _pushed_mac(stage)
    stage.rule(mac, on="push", do="refuse", reason="Unregistered", times=1)
    await _queued(stage, mac, INFORMATION)
    for _ in range(2):
        await stage.session(mac)
        stage.recorder.note(ASKED, udid=mac.udid)
        with suppress(RequestFailed):
            await stage.queue(mac, INFORMATION)
    await stage.session(mac)


async def offline(stage: Stage) -> None:
    """Two commands are queued while the Mac is offline; then it is back and opens two sessions."""
    mac = await stage.enrolled()
    stage.service.actions.set_online(mac, False)
    for _ in range(2):
        with suppress(RequestFailed):
            await stage.queue(mac, {"RequestType": "SecurityInfo"})
    stage.recorder.note(BACK, udid=mac.udid)
    after = stage.service.events.last
    stage.service.actions.set_online(mac, True)
    await stage.event(mac, "session_ended", after=after)
    await stage.idle(mac)
    await stage.session(mac)


async def _refused(stage: Stage, **rule: str) -> None:
    mac = await _pushed_mac(stage)
    stage.rule(mac, on="push", times=1, **rule)
    for _ in range(2):
        await _queued(stage, mac, INFORMATION)
    await stage.idle(mac)
    await stage.session(mac)


async def _pushed_mac(stage: Stage) -> MacHandle:
    """A new Mac that is enrolled. Raises CannotProvoke without a gateway."""
    if stage.gateway is None:
        raise CannotProvoke(_NO_GATEWAY)
    return await stage.enrolled()


async def _queued(stage: Stage, mac: MacHandle, command: Mapping[str, object]) -> None:
    """Queue a command and wait for a push; not where the server says that it could not push. Raises Waited."""
    records = stage.recorder.trace.records
    asked = stage.recorder.note(ASKED, udid=mac.udid, request_type=str(command["RequestType"]))
    with suppress(RequestFailed):
        await stage.queue(mac, command)
        await stage.until(
            lambda: any(isinstance(each, PushRecord) and each.udid in ("", mac.udid) for each in records[asked:]),
            f"a push for {mac.udid} reaches the gateway",
        )


PROBES = (
    Probe("push-410", "Refuses a push with 410 Unregistered, and queues other commands.", unregistered),
    Probe("push-429", "Refuses a push with 429 TooManyRequests, and queues another command.", too_many),
    Probe("push-503", "Refuses a push with 503 ServiceUnavailable, and queues another command.", unavailable),
    Probe("push-broken", "Resets the connection of a push, and queues another command.", broken),
    Probe("push-offline", "Queues two commands for a Mac that is offline.", offline),
    Probe("push-once", "Queues CertificateList, and opens a session.", once),
    Probe("push-update", "Sends another push token and PushMagic, and queues a command.", update),
)
