"""Errors of ACME."""

from __future__ import annotations

from agent.errors import PeerError


class ACMEError(PeerError):
    """A malformed ACME message, or one that breaks the protocol."""

    kind = "acme"


class ACMEProblem(ACMEError):
    """The ACME server refused a request, an authorization or an order, with a problem document (RFC 8555, 6.7).

    ``type`` is the problem's type without its prefix, such as ``badNonce``; empty if it has none.
    """

    kind = "acme_problem"

    def __init__(self, type: str, message: str, status: int = 0) -> None:  # noqa: A002 - the name of the field
        super().__init__(message)
        self.type = type
        self.status = status
