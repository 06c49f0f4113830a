"""What every server can be asked, and what may come of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from agent.errors import PeerError
from agent.net.http.http1 import Response

_EXCERPT = 300  # characters of a server's answer that an error shows
_SHORTEST_SECRET = 4  # what is shorter is in any text by chance


class Server(Protocol):
    """A server's API. Its requests fail with a PeerError: RequestFailed, or what became of the connection.

    ``wakes`` says whether a command that is queued also wakes its Mac; else ``push`` is to follow.
    """

    wakes: bool

    def enqueue(self, udid: str, command_uuid: str, command: Mapping[str, Any]) -> Deferred[None]:
        """Queue a command (its dictionary with RequestType) under this CommandUUID for a Mac."""

    def push(self, udid: str) -> Deferred[None]:
        """Have the server push the Mac."""

    def close(self) -> None:
        """Close every connection; requests under way fail."""


class RequestFailed(PeerError):
    """The server did not do what it was asked."""

    kind = "server"


class StatusRefused(RequestFailed):
    """The server answered with a status that is no success."""

    kind = "server_status"


class AnswerUnreadable(RequestFailed):
    """The server's answer is not of the form that its documentation describes."""

    kind = "server_answer"


class CommandRefused(RequestFailed):
    """The server did not queue the command."""

    kind = "server_command"


class PushNotSent(RequestFailed):
    """The server could not push; a command may have been queued all the same."""

    kind = "server_push"


def excerpt(body: bytes, secrets: Collection[str]) -> str:
    """The beginning of a server's answer, on one line; without what it may repeat of our secrets."""
    text = body.decode("utf-8", "replace")
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= _EXCERPT else f"{line[:_EXCERPT]}…"


def check_status(response: Response, what: str, secrets: Collection[str]) -> Response:
    """The response, where it is a success. Raises StatusRefused."""
    if 200 <= response.status < 300:
        return response
    said = excerpt(response.body, secrets)
    raise StatusRefused(f"{what}: the server answered {response.status}" + (f": {said}" if said else ""))


def read_object(response: Response, what: str, secrets: Collection[str]) -> dict[str, Any]:
    """The JSON object in a response. Raises AnswerUnreadable."""
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
