"""A push on its way between two processes of a run: from the gateway's to the one that simulates the Mac, and back.

These are messages of the control link (`agent.load.control.messages`), which encodes and frames them. Values outside
the bounds given here are rejected when a message is decoded.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

from agent.errors import PeerError
from agent.push.broker import Answer, Broken, PushOutcome
from agent.push.requests import MAX_PAYLOAD_BYTES, Provider

_BREAKS_CONNECTION = 0  # in place of a status

# The gateway accepts at most 8,000 bytes of headers, of which each field counts 32 beside its text (RFC 9113, 6.5.2).
_HeaderText = Annotated[str, msgspec.Meta(max_length=8000)]
_HeaderFields = Annotated[list[tuple[_HeaderText, _HeaderText]], msgspec.Meta(max_length=250)]
_Body = Annotated[bytes, msgspec.Meta(max_length=MAX_PAYLOAD_BYTES)]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
_Status = Annotated[int, msgspec.Meta(ge=0, le=599)]
_APNsID = Annotated[str, msgspec.Meta(pattern=r"\A[0-9A-Fa-f-]{0,36}\Z")]


class PushWireError(PeerError):
    """A process answered a push that was not sent to it."""

    kind = "push_wire"


class RoutedPush(msgspec.Struct, tag="push", frozen=True):
    """A provider's complete request, for the process that simulates the Mac."""

    number: _Count
    """Given by the router; the answer repeats it."""
    at: float
    """When the request was complete, in seconds since the epoch."""
    fields: _HeaderFields
    body: _Body
    provider: Provider

    def __post_init__(self) -> None:
        if not math.isfinite(self.at):
            raise ValueError(f"Expected a finite time for a push, found {self.at}.")


class RoutedAnswer(msgspec.Struct, tag="push answer", frozen=True):
    """The answer to a RoutedPush."""

    number: _Count
    """Of the push."""
    status: _Status
    """The HTTP status from 200 to 599; 0 breaks the provider's connection."""
    apns_id: _APNsID
    body: _Body

    def __post_init__(self) -> None:
        if _BREAKS_CONNECTION < self.status < 200:
            raise ValueError(f"Expected a final HTTP status as the answer to a push, found {self.status}.")

    @classmethod
    def of(cls, number: int, outcome: PushOutcome) -> RoutedAnswer:
        """The answer that carries ``outcome`` for push ``number``."""
        if isinstance(outcome, Broken):
            return cls(number, _BREAKS_CONNECTION, "", b"")
        return cls(number, outcome.status, outcome.apns_id, outcome.body)

    @property
    def outcome(self) -> PushOutcome:
        """What the gateway does with the request."""
        if self.status == _BREAKS_CONNECTION:
            return Broken()
        return Answer(self.status, self.apns_id, self.body)
