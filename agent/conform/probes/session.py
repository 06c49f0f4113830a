"""Probes of sessions: commands, their results, and what a server must survive."""

from __future__ import annotations

from typing import Any

from agent.conform.probes.probe import Probe
from agent.conform.stage.stage import INFORMATION, Stage
from agent.mdm.results import Status

_TYPE: str = INFORMATION["RequestType"]
UNKNOWN_UUID = "00000000-0000-4000-8000-00000000C0DE"  # of no command


async def quiet(stage: Stage) -> None:
    """A Mac opens a session with nothing in its queue."""
    mac = await stage.enrolled()
    await stage.session(mac)


async def delivery(stage: Stage) -> None:
    """A command is queued; then the Mac opens two sessions."""
    mac = await stage.enrolled()
    await stage.queue(mac, {"RequestType": "ProfileList"})
    await stage.session(mac)
    await stage.idle(mac)
    await stage.session(mac)


async def once(stage: Stage) -> None:
    """A command is answered; then the Mac opens two more sessions."""
    mac = await stage.enrolled()
    await stage.result(await stage.queue(mac, INFORMATION))
    await stage.idle(mac)
    await stage.session(mac)
    await stage.session(mac)


async def not_now(stage: Stage) -> None:
    """A Mac answers NotNow once, and opens another session."""
    mac = await stage.managed()
    stage.rule(mac, on="command", type=_TYPE, do="not_now", times=1)
    await stage.result(await stage.queue(mac, INFORMATION), Status.NOT_NOW.value)
    await stage.idle(mac)
    await stage.session(mac)


async def error(stage: Stage) -> None:
    """A Mac answers Error, and gets another command."""
    mac = await stage.managed()
    stage.rule(mac, on="command", type=_TYPE, do="error", times=1)
    await _answered_and_again(stage, mac)


async def format_error(stage: Stage) -> None:
    """A Mac answers CommandFormatError, and gets another command."""
    mac = await stage.managed()
    stage.rule(mac, on="command", type=_TYPE, do="format_error", times=1)
    await _answered_and_again(stage, mac)


async def second_result(stage: Stage) -> None:
    """The connection breaks while the server answers to a result, so that the Mac delivers it again."""
    mac = await stage.managed()
    stage.rule(mac, on="command", type=_TYPE, do="drop", at="in_response", times=1)
    queued = await stage.queue(mac, INFORMATION)
    await stage.event(mac, "session_ended", after=queued.after)
    await stage.session(mac)


async def unknown_result(stage: Stage) -> None:
    """A result of a command that the server never sent; then the Mac gets a command."""
    mac = await stage.managed()
    await stage.raw.report(
        mac, {"Status": "Acknowledged", "UDID": mac.udid, "CommandUUID": UNKNOWN_UUID}, says="unknown command"
    )
    await stage.deliver(mac)


async def malformed(stage: Stage) -> None:
    """A report that ends in its middle; then the Mac gets a command."""
    mac = await stage.managed()
    await stage.raw.report(mac, b'<?xml version="1.0"?><plist version="1.0"><dict><key>Status', says="malformed")
    await stage.deliver(mac)


async def _answered_and_again(stage: Stage, mac: Any) -> None:
    queued = await stage.queue(mac, INFORMATION)
    await stage.event(mac, "answered", after=queued.after, request_type=_TYPE)
    await stage.idle(mac)
    await stage.deliver(mac)


PROBES = (
    Probe("session-delivery", "Queues ProfileList and opens two sessions.", delivery),
    Probe("session-error", "Answers a command with Error.", error),
    Probe("session-format-error", "Answers a command with CommandFormatError.", format_error),
    Probe("session-malformed", "Sends a report that is not a property list.", malformed),
    Probe("session-not-now", "Answers a command with NotNow once.", not_now),
    Probe("session-once", "Answers a command, and opens two more sessions.", once),
    Probe("session-quiet", "Opens a session with nothing queued.", quiet),
    Probe("session-second-result", "Delivers a result again after a broken connection.", second_result),
    Probe("session-unknown-result", "Sends the result of a command that was never sent.", unknown_result),
)
