"""Probes of what a server must survive: connections that break, and unusual or wrong bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from agent import plists
from agent.conform.probes.checkin import authenticate, token_update
from agent.conform.probes.probe import Probe
from agent.conform.stage.stage import INFORMATION, Stage
from agent.mdm import results
from agent.mdm.results import Status
from agent.service.macs.groups import MacHandle

LONG_BYTES = 4 * 1024 * 1024 + 1  # ours: more than any message of a Mac but a list of all its applications
UPPER, PARAMETER = "upper case", "parameter"  # the words of two Content-Types
XML, BARE, STATUS, LONG = "comment in XML", "bare result", "unknown status", "long report"
EMPTY, TYPES = "empty report", "wrong types"
HALF = "half a request over HTTP/2"
EARLY = "Idle before TokenUpdate"


async def before_request(stage: Stage) -> None:
    """The connection is reset before the first request of a session."""
    await _broken_session(stage, await stage.managed(), "before_request")


async def in_request(stage: Stage) -> None:
    """The connection is reset in the middle of the first request of a session."""
    await _broken_session(stage, await stage.managed(), "in_request")


async def in_response(stage: Stage) -> None:
    """The connection is reset when the server answers to the first report of a session, for which a command waits."""
    mac = await stage.managed()
    stage.rule(mac, on="session", do="drop", at="in_response", times=1)
    queued = await stage.queue(mac, {"RequestType": "SecurityInfo"})
    await stage.event(mac, "session_ended", after=queued.after)
    await stage.idle(mac)
    await stage.session(mac)


async def long_report(stage: Stage) -> None:
    """A report is longer than any of a Mac."""
    mac = await stage.managed()
    report = plists.dump_xml(_idle(mac))
    await stage.raw.report(mac, report + b"\n" * (LONG_BYTES - len(report)), says=LONG)
    await stage.deliver(mac)


async def content_type(stage: Stage) -> None:
    """A report has its Content-Type in another case, and one has it with a parameter."""
    mac = await stage.managed()
    for says, value in (
        (UPPER, results.CONTENT_TYPE.title()),
        (PARAMETER, f"{results.CONTENT_TYPE}; charset=UTF-8"),
    ):
        await stage.raw.report(mac, _idle(mac), headers={"Content-Type": value}, says=says)
    await stage.deliver(mac)


async def xml(stage: Stage) -> None:
    """The XML of a TokenUpdate has a byte order mark, a comment and character references."""
    mac = await stage.managed()
    text = plists.dump_xml(token_update(mac)).decode().replace("TokenUpdate", "Token&#85;pdate")
    text = text.replace("<dict>", "<!-- TokenUpdate -->\n<dict>", 1)
    await stage.raw.check_in(mac, f"\ufeff{text}".encode(), says=XML)
    await stage.deliver(mac)


async def bare_result(stage: Stage) -> None:
    """The result of DeviceInformation has none of the values that were asked for."""
    mac = await stage.managed()
    stage.rule(mac, on="command", type=str(INFORMATION["RequestType"]), do="not_now", times=1)
    queued = await stage.queue(mac, INFORMATION)
    await stage.result(queued, Status.NOT_NOW.value)
    await stage.idle(mac)
    result = _report(mac, Status.ACKNOWLEDGED.value, queued.command_uuid) | {"QueryResponses": {}}
    await stage.raw.report(mac, result, says=BARE)
    await stage.deliver(mac)


async def wrong_reports(stage: Stage) -> None:
    """Three reports are wrong: a Status that there is not, values of other types, and an empty body."""
    mac = await stage.managed()
    await stage.raw.report(mac, _report(mac, "Later", "5C1F5C77-0000-4000-8000-00000000C0DE"), says=STATUS)
    await stage.deliver(mac)
    await stage.raw.report(mac, {"Status": 0, "UDID": mac.udid, "CommandUUID": ["Idle"]}, says=TYPES)
    await stage.deliver(mac)
    await stage.raw.report(mac, b"", says=EMPTY)
    await stage.deliver(mac)


async def early(stage: Stage) -> None:
    """A Mac enrolls again, and reports before its TokenUpdate; then it gets a command."""
    mac = await stage.managed()
    await stage.raw.check_in(mac, authenticate(mac), says="enrolls again")
    await stage.raw.report(mac, _idle(mac), says=EARLY)
    await stage.raw.check_in(mac, token_update(mac), says="enrolls again")
    await stage.deliver(mac)


async def http2_reset(stage: Stage) -> None:
    """A request over HTTP/2 is reset before its end."""
    mac = await stage.managed()
    await stage.raw.reset(mac, _idle(mac), says=HALF)
    await stage.deliver(mac)


Point = Literal["before_request", "in_request"]


async def _broken_session(stage: Stage, mac: MacHandle, at: Point) -> None:
    """A session on a new connection, which is reset, and then a command."""
    stage.service.actions.set_online(mac, False)  # which closes its connections
    stage.rule(mac, on="session", do="drop", at=at, times=1)
    after = stage.service.events.last
    stage.service.actions.set_online(mac, True)
    await stage.event(mac, "session_ended", after=after)
    await stage.deliver(mac)


def _idle(mac: MacHandle) -> Mapping[str, Any]:
    return {"Status": Status.IDLE.value, "UDID": mac.udid}


def _report(mac: MacHandle, status: str, command_uuid: str) -> dict[str, Any]:
    return {"Status": status, "UDID": mac.udid, "CommandUUID": command_uuid}


PROBES = (
    Probe("survive-bare-result", "Sends a result of DeviceInformation without values.", bare_result),
    Probe("survive-before-request", "Resets the connection before a request.", before_request),
    Probe("survive-content-type", "Sends a Content-Type in another case, and with a parameter.", content_type),
    Probe("survive-early", "Sends a report before the TokenUpdate of another enrollment.", early),
    Probe("survive-http2-reset", "Resets a request over HTTP/2 in the middle.", http2_reset),
    Probe("survive-in-request", "Resets the connection in the middle of a request.", in_request),
    Probe("survive-in-response", "Resets the connection when a command is sent.", in_response),
    Probe("survive-long", "Sends a report of more than four megabytes.", long_report),
    Probe(
        "survive-wrong-reports",
        "Sends a report with an unknown Status, one with values of other types, and an empty one.",
        wrong_reports,
    ),
    Probe("survive-xml", "Sends XML with a byte order mark, a comment and character references.", xml),
)
