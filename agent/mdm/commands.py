"""Commands: the plist in the server's response to a report, as a typed value.

Source: apple-schema commands/*.yaml; the shape without a RequestType is on the seed page "LOM Device Request Command".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from agent import plists
from agent.errors import PeerError

MAX_UUID_LENGTH = 256  # the Mac sends it back; no standard gives a limit


class CommandDropped(PeerError):
    """A command that cannot be answered because it has no CommandUUID."""

    kind = "command_dropped"


class CommandMalformed(PeerError):
    """A command that the Mac answers with the status CommandFormatError."""

    kind = "command_format"

    def __init__(self, message: str, command_uuid: str = "") -> None:
        super().__init__(message)
        self.command_uuid = command_uuid


class Command(msgspec.Struct, frozen=True):
    """One command: ``body`` is the dictionary under ``Command``, ``channel`` where it came, ``device`` or ``user``."""

    uuid: str
    request_type: str
    body: Mapping[str, Any]
    channel: str = "device"


def parse_command(answer: bytes) -> Command:
    """Read the body of a server's answer.

    Raises PlistError if it is not a plist dictionary, CommandDropped where it has no CommandUUID, CommandMalformed
    where the rest of it is not a command.
    """
    root = plists.load_dict(answer, what="command")
    uuid = root.get("CommandUUID")
    if not isinstance(uuid, str) or not 0 < len(uuid) <= MAX_UUID_LENGTH:
        found = str(len(uuid)) if isinstance(uuid, str) else plists.type_name(uuid)
        raise CommandDropped(
            f"Expected a CommandUUID of 1 to {MAX_UUID_LENGTH} characters, found {found}. The command is dropped."
        )
    body = root.get("Command")
    if not isinstance(body, dict):
        raise CommandMalformed(f"Expected a dictionary for Command, found {plists.type_name(body)}.", uuid)
    request_type = body.get("RequestType")
    if request_type is None and "RequestList" in body:
        request_type = "LOMDeviceRequest"  # the seed page's own example has no RequestType
    if not isinstance(request_type, str) or not request_type:
        found = "an empty one" if request_type == "" else plists.type_name(request_type)
        raise CommandMalformed(f"Expected a string for RequestType, found {found}.", uuid)
    return Command(uuid, request_type, body)
