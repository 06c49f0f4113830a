"""The errors of the client: what the service refused, with the exchanges that show why."""

from __future__ import annotations

from agent.client.text import event_text, exchange_text
from agent.errors import LomAgentError
from agent.service.types import Problem


class ClientError(LomAgentError):
    """The service could not be started or reached, or it refused a request."""

    kind = "client"


class ServiceNotStarted(ClientError):
    """``lom-agent serve`` ended, or did not become ready in time. The message has its last output."""


class RequestRefused(ClientError):
    """The service refused a request. ``problem`` is its answer (RFC 9457)."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        lines = [f"{problem.title}: {problem.detail}" if problem.detail else problem.title]
        if problem.nearest:
            lines += ["The nearest events:", *(f"  {event_text(event)}" for event in problem.nearest)]
        if problem.exchanges:
            lines += ["The last exchanges of the Mac:", *(exchange_text(one, "  ") for one in problem.exchanges)]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[RequestRefused], tuple[Problem]]:
        return type(self), (self.problem,)  # an exception is pickled with its message alone


class NotFound(RequestRefused):
    """The service has no such Mac, segment or rule."""


class EnrollmentFailed(RequestRefused):
    """The Mac did not enroll: its server refused or failed, or the Mac itself could not."""


class WaitTimedOut(RequestRefused, TimeoutError):
    """What was waited for did not happen in time."""


class UnexpectedStatus(ClientError, AssertionError):
    """A Mac answered a command with another status than the one that was waited for."""
