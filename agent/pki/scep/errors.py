"""Errors of SCEP."""

from __future__ import annotations

from enum import StrEnum

from agent.errors import PeerError


class FailInfo(StrEnum):
    """Why a CA refuses a request, by the names of RFC 8894, 3.2.1.4."""

    BAD_ALG = "badAlg"
    BAD_MESSAGE_CHECK = "badMessageCheck"
    BAD_REQUEST = "badRequest"
    BAD_TIME = "badTime"
    BAD_CERT_ID = "badCertId"

    @property
    def code(self) -> int:
        """The number on the wire: 0 to 4, in the order above."""
        return list(FailInfo).index(self)

    @classmethod
    def from_code(cls, code: int) -> FailInfo | None:
        """The reason with this number, or None."""
        known = list(cls)
        return known[code] if 0 <= code < len(known) else None


class SCEPError(PeerError):
    """A malformed SCEP message, or one that is not from the expected sender."""

    kind = "scep"


class SCEPFailure(SCEPError):
    """The transaction failed: the CA answered with ``fail_info``, or the CA's side has to.

    ``fail_info`` is None if a CA sent a number that RFC 8894 does not define.
    """

    kind = "scep_failure"

    def __init__(self, fail_info: FailInfo | None, message: str) -> None:
        super().__init__(message)
        self.fail_info = fail_info
