"""How an error becomes the answer of a request: problem details (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from twisted.logger import Logger
from twisted.python.failure import Failure

from agent.errors import LomAgentError, OperatorError, PeerError
from agent.service.errors import Conflict, NotFound, WorkerGone
from agent.service.events import TimedOut
from agent.service.types import Exchange, Problem

MEDIA = "application/problem+json"

KINDS: Mapping[int, tuple[str, str]] = {
    400: ("invalid", "The request is not valid"),
    401: ("unauthorized", "The token is missing or wrong"),
    403: ("forbidden", "The Host of the request is not allowed"),
    404: ("not-found", "There is nothing by this name"),
    405: ("method-not-allowed", "The path does not allow this method"),
    409: ("conflict", "The request contradicts the present state"),
    413: ("too-large", "The body is too large"),
    500: ("internal", "lom-agent failed"),
    502: ("peer", "The server failed"),
    503: ("worker-gone", "The worker process of the Mac has ended"),
    504: ("timeout", "The time is over"),
}
"""The last part of ``type`` and the title, by HTTP status."""

_log = Logger()


@dataclass
class RequestFailed(Exception):
    """A request is answered with a problem."""

    status: int
    detail: str
    nearest: Sequence[Any] = ()
    exchanges: Sequence[Exchange] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def problem(self) -> Problem:
        """Its problem details."""
        kind, title = KINDS[self.status]
        return Problem(
            type=f"urn:lom-agent:{kind}",
            title=title,
            status=self.status,
            detail=self.detail,
            nearest=list(self.nearest),
            exchanges=list(self.exchanges),
        )


def request_failed(failure: Failure) -> RequestFailed:
    """What an error is for the client. An error that is none of ours is a defect: it is logged."""
    error = failure.value
    match error:
        case RequestFailed():
            return error
        case WorkerGone():
            return RequestFailed(503, str(error))
        case NotFound():
            return RequestFailed(404, str(error))
        case Conflict():
            return RequestFailed(409, str(error))
        case TimedOut():
            return RequestFailed(504, str(error), nearest=error.nearest)
        case PeerError():
            return RequestFailed(504 if error.timed_out else 502, str(error))
        case OperatorError():
            return RequestFailed(400, str(error))
        case msgspec.ValidationError() | msgspec.DecodeError():
            return RequestFailed(400, f"{error}. /openapi.json describes what is expected.")
        case RecursionError():
            return RequestFailed(400, "Expected a body with a few levels, found one that is nested too deeply.")
    _log.failure("A request of the control API failed", failure)
    what = str(error) if isinstance(error, LomAgentError) else type(error).__name__
    return RequestFailed(500, f"Expected no error, found {what}. Report it, with the log of lom-agent.")
