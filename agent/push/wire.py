"""A push between two processes: from the gateway to the one that simulates the Mac, and its answer back. No I/O.

The messages are MessagePack, and the transport keeps their boundaries. They are untrusted input: a message that is too
long or of another form is refused.
"""

from __future__ import annotations

import math
import re
from typing import Annotated

import msgspec

from agent.errors import PeerError
from agent.push.broker import Answer, Broken, Outcome
from agent.push.requests import Provider

MAX_MESSAGE_BYTES = 64 * 1024  # a request's headers are at most 8,000 bytes, its payload 4,096
_APNS_ID = re.compile(r"[0-9A-Fa-f-]{0,36}")
_BROKEN = 0  # in place of a status

_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
_Status = Annotated[int, msgspec.Meta(ge=0, le=599)]


class PushWireError(PeerError):
    """A malformed message of the other process."""

    kind = "push_wire"


class RoutedPush(msgspec.Struct, frozen=True, array_like=True):
    """A provider's complete request, not yet validated."""

    number: _Count
    """Assigned by the router; the answer has it too."""
    at: float
    """When the request was complete, in seconds since the epoch."""
    fields: list[tuple[str, str]]
    body: bytes
    topic: str
    certified: bool
    fault: str
    spent: tuple[_Count, ...] = ()
    """The numbers of the ``first=`` rules that do not apply to it."""

    @property
    def provider(self) -> Provider:
        """The sender of the push."""
        return Provider(self.topic, self.certified, self.fault)


class RoutedAnswer(msgspec.Struct, frozen=True, array_like=True):
    """The outcome of the push ``number``."""

    number: _Count
    status: _Status
    """The HTTP status; 0 breaks the connection."""
    apns_id: str
    body: bytes
    rule: _Count | None
    """The number of the rule that applied, if any."""

    @property
    def outcome(self) -> Outcome:
        """The outcome for the provider's connection."""
        if self.status == _BROKEN:
            return Broken(self.rule)
        return Answer(self.status, self.apns_id, self.body, self.rule)


def encode_push(push: RoutedPush) -> bytes:
    """The bytes of a push."""
    return _encoder.encode(push)


def decode_push(octets: bytes) -> RoutedPush:
    """The push from its bytes. Raises PushWireError."""
    try:
        push = _pushes.decode(_bounded(octets))
    except msgspec.MsgspecError as error:
        raise PushWireError(f"Expected a push from the gateway's process, found something else: {error}.") from error
    if not math.isfinite(push.at):
        raise PushWireError("Expected the time of a push, found a number that is not finite.")
    return push


def encode_answer(number: int, outcome: Outcome) -> bytes:
    """The bytes of the answer to push ``number``."""
    if isinstance(outcome, Broken):
        return _encoder.encode(RoutedAnswer(number, _BROKEN, "", b"", outcome.rule))
    return _encoder.encode(RoutedAnswer(number, outcome.status, outcome.apns_id, outcome.body, outcome.rule))


def decode_answer(octets: bytes) -> RoutedAnswer:
    """The answer from its bytes. Raises PushWireError."""
    try:
        answer = _answers.decode(_bounded(octets))
    except msgspec.MsgspecError as error:
        raise PushWireError(f"Expected the answer to a push, found something else: {error}.") from error
    if _APNS_ID.fullmatch(answer.apns_id) is None or 0 < answer.status < 200:
        raise PushWireError(f"Expected a status and an apns-id, found {answer.status} and {answer.apns_id[:40]!r}.")
    return answer


def _bounded(octets: bytes) -> bytes:
    if len(octets) > MAX_MESSAGE_BYTES:
        raise PushWireError(f"Expected a message of at most {MAX_MESSAGE_BYTES} bytes, found {len(octets)}.")
    return octets


_encoder = msgspec.msgpack.Encoder()
_pushes = msgspec.msgpack.Decoder(RoutedPush)
_answers = msgspec.msgpack.Decoder(RoutedAnswer)
