"""Refusals: what a server's status other than 200 means for the Mac.

Source: apple-schema errors/unrecognized.device.yaml; Apple's MDM protocol reference for 401.
"""

from __future__ import annotations

import json

from agent import plists
from agent.errors import PeerError

UNRECOGNIZED_DEVICE = "com.apple.unrecognized.device"
MAX_BODY_BYTES = 64 * 1024  # of a refusal's body; ours, no standard says
_TRY_LATER = 429


class ServerRefused(PeerError):
    """The server answered a report with a status other than 200."""

    kind = "http_status"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ResultRefused(PeerError):
    """The server refused the result of a command as often as the Mac delivers it, and the Mac dropped it."""

    kind = "result_refused"


def is_temporary(status: int) -> bool:
    """Whether the same report may be taken later: a fault of the server, or too many requests."""
    return status >= 500 or status == _TRY_LATER


def unenrols(status: int, body: bytes, content_type: str) -> bool:
    """Whether the refusal says that the server does not know the Mac, so that the Mac leaves its management.

    That is a 401, or a 403 whose JSON or plist body, as ``content_type`` calls it, has the code for it.
    """
    return status == 401 or (status == 403 and _code(body, content_type) == UNRECOGNIZED_DEVICE)


def _code(body: bytes, content_type: str) -> object:
    """The refusal's ``code``, or None where the body cannot be read: a page of any proxy is not worth an enrolment."""
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
