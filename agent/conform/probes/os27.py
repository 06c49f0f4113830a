"""Probes of macOS 27: commands that it no longer has, and one that is not for the device channel."""

from __future__ import annotations

from contextlib import suppress

from agent.conform.probes.probe import Probe
from agent.conform.reading.os27 import QUERIES, REMOVED, USER_CHANNEL
from agent.conform.stage.stage import Stage
from agent.servers.server import RequestFailed


async def removed(stage: Stage) -> None:
    """The server is asked to queue such commands for a Mac with macOS 27; then the Mac opens a session.

    Before them ProfileList is queued: a server that refuses that, too, shows nothing by refusing the others.
    """
    mac = await stage.enrolled(os="27")
    commands = [
        *({"RequestType": request_type, **keys} for request_type, keys in REMOVED.items()),
        {"RequestType": "DeviceInformation", "Queries": ["OSVersion", *QUERIES]},
        {"RequestType": USER_CHANNEL, "AppleCareToken": "test-token-normal"},
    ]
    await stage.queue(mac, {"RequestType": "ProfileList"})
    for command in commands:
        with suppress(RequestFailed):
            await stage.queue(mac, command)
    await stage.idle(mac)
    await stage.session(mac)


PROBES = (Probe("os27-removed", "Asks the server to queue commands that no Mac with macOS 27 supports.", removed),)
