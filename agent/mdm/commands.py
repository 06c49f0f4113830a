"""Commands: the plist that a server answers a report with, as a typed value.

Source: apple-schema commands/*.yaml; the shape without a RequestType is on the seed page "LOM Device Request Command".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent import plists
from agent.errors import PeerError

MAX_UUID_LENGTH = 256  # an identifier that the Mac sends back; ours, no standard says


class CommandDropped(PeerError):
    """Something that cannot be answered, for it has no CommandUUID to answer to."""

    kind = "command_dropped"


class CommandMalformed(PeerError):
    """A command that the Mac answers with the status CommandFormatError."""

    kind = "command_format"

    def __init__(self, message: str, command_uuid: str = "") -> None:
        super().__init__(message)
        self.command_uuid = command_uuid


@dataclass(frozen=True, slots=True)
class Command:
    """One command: ``body`` is the dictionary under ``Command``."""

    uuid: str
    request_type: str
    body: Mapping[str, Any]


def parse_command(answer: bytes) -> Command:
    """Read the body of a server's answer.

    Raises PlistError where it is no plist dictionary, CommandDropped where it has no CommandUUID, CommandMalformed
    where it has one but is no command.
    """
    root = plists.load_dict(answer, what="command")
    uuid = root.get("CommandUUID")
    if not isinstance(uuid, str) or not 0 < len(uuid) <= MAX_UUID_LENGTH:
        found = f"has {len(uuid)}" if isinstance(uuid, str) else f"is {plists.type_name(uuid)}"
        raise CommandDropped(
            f"the command's CommandUUID should be a string of 1 to {MAX_UUID_LENGTH} characters, "
            f"but {found}; the command is dropped"
        )
    body = root.get("Command")
    if not isinstance(body, dict):
        raise CommandMalformed(f"Command should be a dictionary, but is {plists.type_name(body)}", uuid)
    request_type = body.get("RequestType")
    if request_type is None and "RequestList" in body:
        request_type = "LOMDeviceRequest"  # the seed page's own example has no RequestType
    if not isinstance(request_type, str) or not request_type:
        found = "empty" if request_type == "" else plists.type_name(request_type)
        raise CommandMalformed(f"RequestType should be a string, but is {found}", uuid)
    return Command(uuid, request_type, body)
