"""Refusals: what a status other than 200 means for the Mac.

Source: apple-schema errors/unrecognized.device.yaml; Apple's MDM protocol reference for 401.
"""

from __future__ import annotations

import json

from agent import plists
from agent.errors import PeerError

UNRECOGNIZED_DEVICE = "com.apple.unrecognized.device"
MAX_BODY_BYTES = 64 * 1024  # of a refusal's body; no standard gives a limit
_TRY_LATER = 429


class ServerRefused(PeerError):
    """The server answered a report with a status other than 200."""

    kind = "http_status"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ResultRefused(PeerError):
    """The server refused every delivery of a command's result, and the Mac dropped it."""

    kind = "result_refused"


def is_temporary(status: int) -> bool:
    """Whether the server may accept the same report later: 5xx and 429."""
    return status >= 500 or status == _TRY_LATER


def unenrolls(status: int, body: bytes, content_type: str) -> bool:
    """Whether the server does not know the Mac, so that the Mac ends its enrollment.

    That is a 401, or a 403 whose body (JSON or a plist, by ``content_type``) has the code UNRECOGNIZED_DEVICE.
    """
    return status == 401 or (status == 403 and _code(body, content_type) == UNRECOGNIZED_DEVICE)


def _code(body: bytes, content_type: str) -> object:
    """The refusal's ``code``, or None if the body cannot be read, such as a proxy's page."""
    media_type = content_type.partition(";")[0].strip().lower()
    if len(body) > MAX_BODY_BYTES:
        return None
    try:
        if media_type.endswith(("/json", "+json")):
            refusal = json.loads(body)
        elif media_type.endswith(("/xml", "+xml", "plist")):
            refusal = plists.load(body, what="refusal")
        else:
            return None
    except (ValueError, RecursionError, plists.PlistError):
        return None
    return refusal.get("code") if isinstance(refusal, dict) else None
