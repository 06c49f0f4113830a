"""What goes wrong in SCEP."""

from __future__ import annotations

from enum import StrEnum

from agent.errors import PeerError


class FailInfo(StrEnum):
    """Why a CA does not grant a certificate, by the names of RFC 8894, 3.2.1.4; ``code`` is what is sent."""

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
        """The one with this number, or None."""
        known = list(cls)
        return known[code] if 0 <= code < len(known) else None


class SCEPError(PeerError):
    """A SCEP message that is not what it should be, or that was not made by whom it should be."""

    kind = "scep"


class SCEPFailure(SCEPError):
    """The transaction failed with ``fail_info``: so a CA answered, or so the CA's side has to answer.

    ``fail_info`` is None where a CA sent a number that no standard knows.
    """

    kind = "scep_failure"

    def __init__(self, fail_info: FailInfo | None, message: str) -> None:
        super().__init__(message)
        self.fail_info = fail_info
