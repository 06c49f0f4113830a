"""The messages between the conductor and its shards, and their frames. No I/O.

A shard (`agent.load.shard.shard`) says Hello and gets its plan. The conductor (`agent.load.conductor.conductor`) starts
phases and forwards pushes; the shard reports its progress every second, and at the end its trace and its result. A
frame is a length of 4 bytes, big-endian, then MessagePack of that many bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from agent import __version__
from agent.errors import MisuseError, PeerError
from agent.framing import FrameLengthError, FrameReader, frame
from agent.measure.live import PhaseState
from agent.push.reasons import OwnCause
from agent.push.wire import RoutedAnswer, RoutedPush

ANY_SHARD = -1  # in a Hello: the conductor chooses the number
MAX_FRAME_BYTES = 32 * 1024 * 1024  # a snapshot has some 20 histograms of at most 200 KiB; a push has 4 KiB
MAX_HELLO_BYTES = 4096  # until the other end is authenticated


class ControlError(PeerError):
    """The other end of the control link violated the protocol, or the link broke."""

    kind = "control"


# From a shard.


class Hello(msgspec.Struct, tag="hello", frozen=True):
    """The first message: the join secret, the epoch of the run that the shard is for, and the shard's number."""

    secret: str
    run: str
    shard: int = ANY_SHARD
    version: str = __version__
    """Of the shard's program."""


class ClockAnswer(msgspec.Struct, tag="clock answer", frozen=True):
    """The answer to a ClockQuestion, in seconds: the shard's monotonic clock, and its system's wall clock."""

    sent: float
    ticks: float
    wall: float


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """The shard has made its Macs and can start phases."""

    lost: int = 0
    """Operations that all earlier processes of a resumed run started, and whose end they had not saved."""
    measured: float | None = None
    """Up to which second of the run the last one had saved its measurements; None if it had saved none."""


class Second(msgspec.Struct, tag="second", frozen=True):
    """The report of second ``t``: a row of the time line, and the state of each phase by its number."""

    t: int
    row: dict[str, Any]
    phases: dict[int, PhaseState]


class Snapshot(msgspec.Struct, tag="snapshot", frozen=True):
    """The metrics so far, in case the worker is lost."""

    metrics: dict[str, Any]


class PhaseStarted(msgspec.Struct, tag="started", frozen=True):
    """A phase has started in this shard; its state says what is planned, in case the worker is lost soon."""

    phase: int
    state: PhaseState


class PhaseFinished(msgspec.Struct, tag="finished", frozen=True):
    """A phase has finished in this shard, with this final state."""

    phase: int
    state: PhaseState


class Settled(msgspec.Struct, tag="settled", frozen=True):
    """No Mac of the shard has an open session or boots."""


class Alive(msgspec.Struct, tag="alive", frozen=True):
    """The sender runs; both ends send it every second."""


class Ending(msgspec.Struct, tag="ending", frozen=True):
    """The shard ends. It may send nothing more while it closes its connections."""


class TracePiece(msgspec.Struct, tag="trace", frozen=True):
    """The next bytes of the trace of a shard on another machine. The next one follows after Taken."""

    octets: bytes


class Result(msgspec.Struct, tag="result", frozen=True):
    """The last message: the encoded ShardResult. The shard ends after Taken."""

    octets: bytes


class RefusalQuestion(msgspec.Struct, tag="refusal question", frozen=True):
    """Whether Mac ``index`` may lack a push by a fault of the gateway, since then, a date of the run's clock."""

    number: int
    index: int
    since: float


class Warn(msgspec.Struct, tag="warn", frozen=True):
    """A warning for the operator, to be shown now."""

    text: str


# From the conductor.


class Plan(msgspec.Struct, tag="plan", frozen=True):
    """The answer to a Hello: the encoded ShardPlan."""

    octets: bytes


class Refused(msgspec.Struct, tag="refused", frozen=True):
    """The other answer to a Hello: the shard may not join."""

    reason: str


class ClockQuestion(msgspec.Struct, tag="clock", frozen=True):
    """Answer at once; ``sent`` is the time of the run's clock."""

    sent: float


class Taken(msgspec.Struct, tag="taken", frozen=True):
    """The last TracePiece, or the Result, has arrived."""


class Begin(msgspec.Struct, tag="begin", frozen=True):
    """The run starts, or goes on, at ``at``, a time of its clock, with second ``second`` of the time line.

    ``offset`` is what the shard adds to its monotonic clock to get the run's clock.
    """

    at: float
    offset: float
    second: int = 0


class StartPhase(msgspec.Struct, tag="start", frozen=True):
    """Start a phase, by its number in the scenario, at ``at``, a time of the run's clock; ``offset`` as in Begin."""

    phase: int
    at: float
    offset: float


class Pause(msgspec.Struct, tag="pause", frozen=True):
    """Start nothing from ``at`` on, a time of the run's clock."""

    at: float


class Resume(msgspec.Struct, tag="resume", frozen=True):
    """Go on at ``at``, a time of the run's clock."""

    at: float


class ChangeRate(msgspec.Struct, tag="rate", frozen=True):
    """From second ``at`` of a phase on, without pauses, it goes through its schedule by ``factor`` faster."""

    phase: int
    at: float
    factor: float


class Settle(msgspec.Struct, tag="settle", frozen=True):
    """Every phase has finished: send Settled as soon as no Mac has an open session or boots."""


class RefusalAnswer(msgspec.Struct, tag="refusal answer", frozen=True):
    """The answer to a RefusalQuestion: the cause, or None if no push is missing by a fault of the gateway."""

    number: int
    cause: OwnCause | None


class GatewayStalled(msgspec.Struct, tag="gateway stalled", frozen=True):
    """The event loop of the push gateway was blocked for ``seconds``: time limits do not count them."""

    seconds: float


class Finish(msgspec.Struct, tag="finish", frozen=True):
    """End now; ``reason`` is recorded for what is dropped or cut short."""

    reason: str


FromShard = (
    Hello
    | Alive
    | ClockAnswer
    | Ending
    | Ready
    | Second
    | Snapshot
    | PhaseStarted
    | PhaseFinished
    | Settled
    | RoutedAnswer
    | RefusalQuestion
    | Warn
    | TracePiece
    | Result
)
FromConductor = (
    Plan
    | Refused
    | ClockQuestion
    | Taken
    | Begin
    | StartPhase
    | Pause
    | Resume
    | ChangeRate
    | Settle
    | RoutedPush
    | RefusalAnswer
    | GatewayStalled
    | Finish
)
Message = FromShard | FromConductor

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """The frame of a message. Raises MisuseError if it is longer than MAX_FRAME_BYTES."""
    octets = _encoder.encode(message)
    if len(octets) > MAX_FRAME_BYTES:
        raise MisuseError(f"Expected a message of at most {MAX_FRAME_BYTES} bytes, found {len(octets)}.")
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
