"""One push on its way between two processes: from the gateway to whoever owns the Mac, and its answer back. No I/O.

The bytes are MessagePack; who carries them keeps each message whole. Both ends are ours, yet nothing is taken on trust:
what is too long or of another form is refused.
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
    """The other process sent what is no push, or no answer to one."""

    kind = "push_wire"


class RoutedPush(msgspec.Struct, frozen=True, array_like=True):
    """A provider's request as it came, whole.

    ``number`` is the router's own, ``at`` when the request was whole (seconds since the epoch), ``spent`` the rules for
    the first so many pushes that are not for it.
    """

    number: _Count
    at: float
    fields: list[tuple[str, str]]
    body: bytes
    topic: str
    certified: bool
    fault: str
    spent: tuple[_Count, ...] = ()

    @property
    def provider(self) -> Provider:
        """Who pushes."""
        return Provider(self.topic, self.certified, self.fault)


class RoutedAnswer(msgspec.Struct, frozen=True, array_like=True):
    """What became of the push ``number``; status 0 breaks the connection. ``rule`` is the one that it met."""

    number: _Count
    status: _Status
    apns_id: str
    body: bytes
    rule: _Count | None

    @property
    def outcome(self) -> Outcome:
        """As the gateway has it."""
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
        raise PushWireError(f"expected a push from the gateway's process, found something else: {error}") from error
    if not math.isfinite(push.at):
        raise PushWireError("expected the time at which a push came, found no number")
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
        raise PushWireError(f"expected the answer to a push, found something else: {error}") from error
    if _APNS_ID.fullmatch(answer.apns_id) is None or 0 < answer.status < 200:
        raise PushWireError(f"no answer to a push has the status {answer.status} and the id {answer.apns_id[:40]!r}")
    return answer


def _bounded(octets: bytes) -> bytes:
    if len(octets) > MAX_MESSAGE_BYTES:
        raise PushWireError(f"a message about a push has {len(octets)} bytes; at most {MAX_MESSAGE_BYTES} are taken")
    return octets


_encoder = msgspec.msgpack.Encoder()
_pushes = msgspec.msgpack.Decoder(RoutedPush)
_answers = msgspec.msgpack.Decoder(RoutedAnswer)
