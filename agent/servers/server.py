"""The interface of all server API clients, and their errors."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Protocol, runtime_checkable

from twisted.internet.defer import Deferred

from agent.errors import PeerError
from agent.net.http.http1 import Response

_EXCERPT = 300  # characters of a server's answer that an error quotes
_SHORTEST_SECRET = 4  # shorter values occur in any text by chance


class Server(Protocol):
    """A client of a server's API. Its requests fail with a PeerError: RequestFailed, or an error of the connection."""

    pushes_on_enqueue: bool
    """Whether the server pushes when it queues a command; otherwise ``push`` has to follow."""

    def enqueue(self, udid: str, command_uuid: str, command: Mapping[str, Any]) -> Deferred[None]:
        """Queue a command (its dictionary with RequestType) under this CommandUUID for a Mac."""

    def push(self, udid: str) -> Deferred[None]:
        """Have the server push the Mac."""

    def close(self) -> None:
        """Close every connection; open requests fail."""


@runtime_checkable
class LOMServer(Protocol):
    """A client of a server with LOM actions."""

    composes: bool
    """Whether the server composes the LOM commands itself, from what its Macs answered; otherwise it only encodes as
    property lists what this client writes."""

    def lom_profile(self, udid: str, dns_name: str, *, device: bool, controller: bool) -> Deferred[str]:
        """Have a Mac's LOM profile queued, with identities of this name; fires with the CommandUUID, if it is known."""

    def lom_setup(self, udid: str) -> Deferred[str]:
        """Have LOMSetupRequest queued; fires as ``lom_profile``."""

    def lom_request(self, controller: str, action: str, devices: Collection[str]) -> Deferred[str]:
        """Have LOMDeviceRequest (PowerON, PowerOFF, Reset) for these Devices queued at a Controller; all by UDID."""


@runtime_checkable
class RenewingServer(Protocol):
    """A client of a server that can be asked to renew the identity of a Mac."""

    def renew(self, udid: str) -> Deferred[str]:
        """Have an update of the Mac's enrollment profile queued; fires with the CommandUUID, if it is known."""


@runtime_checkable
class DDMServer(Protocol):
    """A client of a server that composes DeclarativeManagement itself."""

    def declare(self, udid: str) -> Deferred[str]:
        """Have DeclarativeManagement queued for a Mac; fires with the CommandUUID, if it is known."""


class RequestFailed(PeerError):
    """The server did not carry out the request."""

    kind = "server"


class StatusRefused(RequestFailed):
    """The server answered with a status other than 200 to 299."""

    kind = "server_status"


class AnswerUnreadable(RequestFailed):
    """The server's answer does not have the documented form."""

    kind = "server_answer"


class CommandRefused(RequestFailed):
    """The server did not queue the command."""

    kind = "server_command"


class PushNotSent(RequestFailed):
    """The server could not push; the command may be queued."""

    kind = "server_push"


def excerpt(body: bytes, secrets: Collection[str]) -> str:
    """The start of a server's answer, on one line, with ``secrets`` redacted."""
    text = body.decode("utf-8", "replace")
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= _EXCERPT else f"{line[:_EXCERPT]}…"


def check_status(response: Response, what: str, secrets: Collection[str]) -> Response:
    """The response, if its status is 200 to 299. Raises StatusRefused."""
    if 200 <= response.status < 300:
        return response
    message = excerpt(response.body, secrets)
    raise StatusRefused(f"{what}: the server answered {response.status}" + (f": {message}" if message else ""))


def read_object(response: Response, what: str, secrets: Collection[str]) -> dict[str, Any]:
    """The JSON object in the body of a response. Raises AnswerUnreadable."""
    try:
        document = json.loads(response.body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise AnswerUnreadable(
            f"{what}: expected a JSON object with the status {response.status}, "
            f"found {excerpt(response.body, secrets)!r}"
        )
    return document
