"""What the conductor and its shards say to each other: messages and their frames. No I/O.

The conductor (`agent.load.conductor`) begins phases and hands on pushes; a shard (`agent.load.shard`) tells how far it
is, second by second. A frame is a length of 4 bytes, big-endian, then MessagePack of that many bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from agent.errors import MisuseError, PeerError
from agent.framing import FrameLengthError, FrameReader, frame
from agent.measure.live import PhaseState
from agent.push.wire import RoutedAnswer, RoutedPush

MAX_FRAME_BYTES = 32 * 1024 * 1024  # a snapshot has some 20 histograms of at most 200 KiB; a push has 4 KiB
MAX_HELLO_BYTES = 4096  # before the other end is known


class ControlError(PeerError):
    """The other end of the control link broke its rules, or is gone."""

    kind = "control"


# From a shard.


class Hello(msgspec.Struct, tag="hello", frozen=True):
    """Who calls. ``secret`` is the one of the shard's plan."""

    shard: int
    secret: str


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """The shard has made its fleet and can begin."""


class Second(msgspec.Struct, tag="second", frozen=True):
    """One second is over: ``row`` is for the time line, ``phases`` by the number of the phase."""

    t: int
    row: dict[str, Any]
    phases: dict[int, PhaseState]


class Snapshot(msgspec.Struct, tag="snapshot", frozen=True):
    """The metrics so far, for the case that the shard does not come to its end."""

    metrics: dict[str, Any]


class PhaseOver(msgspec.Struct, tag="over", frozen=True):
    """A phase is over in this shard; ``state`` is how it ended."""

    phase: int
    state: PhaseState


class Settled(msgspec.Struct, tag="settled", frozen=True):
    """No Mac of the shard is in a session or boots."""


class Alive(msgspec.Struct, tag="alive", frozen=True):
    """The shard runs; said every second."""


class Ending(msgspec.Struct, tag="ending", frozen=True):
    """The shard has heard Finish. It may be too busy with its end to say more."""


class Note(msgspec.Struct, tag="note", frozen=True):
    """Something a person should read now."""

    text: str


# From the conductor.


class Begin(msgspec.Struct, tag="begin", frozen=True):
    """The run begins: the seconds of the time line count from here. ``now`` is what the run's clock shows."""

    now: float


class StartPhase(msgspec.Struct, tag="start", frozen=True):
    """A phase begins, by its number in the scenario."""

    phase: int


class Settle(msgspec.Struct, tag="settle", frozen=True):
    """Every phase is over: say Settled as soon as it is so."""


class Finish(msgspec.Struct, tag="finish", frozen=True):
    """End now; ``reason`` is why, for what was not started."""

    reason: str


FromShard = Hello | Alive | Ending | Ready | Second | Snapshot | PhaseOver | Settled | RoutedAnswer | Note
FromConductor = Begin | StartPhase | Settle | RoutedPush | Finish
Message = FromShard | FromConductor

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """The frame of a message. Raises MisuseError where it is longer than a frame may be."""
    octets = _encoder.encode(message)
    if len(octets) > MAX_FRAME_BYTES:
        raise MisuseError(f"a message of {len(octets)} bytes on the control link; at most {MAX_FRAME_BYTES} fit")
    return frame(octets)


def next_message(reader: FrameReader) -> Message | None:
    """The next complete message, or None until more bytes arrive. Raises ControlError for a malformed one."""
    try:
        body = reader.next_frame()
        return None if body is None else _decoder.decode(body)
    except FrameLengthError as error:
        raise ControlError(f"Malformed frame on the control link. {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ControlError(f"Malformed message on the control link: {error}") from error
