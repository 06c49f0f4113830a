"""The messages between the front of a service and a worker: MessagePack in frames, over a socket pair.

What the control API takes and returns is in them as JSON, as a client of the API has it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from agent.errors import PeerError
from agent.fleet.population import Population
from agent.push.wire import RoutedAnswer, RoutedPush

MAX_FRAME_BYTES = 1 << 30  # an answer has at most 10,000 items, of some 100 KB each at the very most; ours


class WorkerLinkError(PeerError):
    """The other end broke the protocol, or the link."""

    kind = "worker_link"


class Start(msgspec.Struct, frozen=True):
    """How a worker starts: its number, from 1, and the options of ``lom-agent serve``."""

    worker: int
    options: dict[str, Any]
    anchor: bytes = b""
    """The CA certificate of the lab, in PEM."""
    state: str | None = None
    """Its own state file."""
    device_ca: bytes = b""
    """The CA of the Macs' own identities where it is the lab's, with its key, in PEM."""


class Share(msgspec.Struct, frozen=True):
    """The part of a group that one worker has: the Macs ``start`` to ``stop`` of a population."""

    first: int
    first_segment: int
    seed: str
    devices: int
    segment_size: int
    os: str | None
    model: str | None
    start: int
    stop: int
    roles: tuple[str, ...] | None = None

    @property
    def population(self) -> Population:
        """The whole population."""
        return Population(self.seed, self.devices, self.segment_size, os=self.os, model=self.model, roles=self.roles)


class Call(msgspec.Struct, tag="call", frozen=True):
    """The front asks for something. ``arguments`` is a JSON object."""

    number: int
    name: str
    arguments: bytes


class Answered(msgspec.Struct, tag="answered", frozen=True):
    """What a call returns, in JSON; bytes where ``is_bytes``."""

    number: int
    result: bytes
    is_bytes: bool = False


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """A call failed, with these problem details in JSON."""

    number: int
    problem: bytes


class Happened(msgspec.Struct, tag="happened", frozen=True):
    """New events, a list in JSON, and the number of the worker's last exchange."""

    events: bytes
    exchange: int


class Second(msgspec.Struct, tag="second", frozen=True):
    """What was counted in a second, a row as of `agent.measure.live.Recent`, in JSON."""

    row: bytes


class Alive(msgspec.Struct, tag="alive", frozen=True):
    """The worker is at work."""


class Warned(msgspec.Struct, tag="warned", frozen=True):
    """A text for the operator."""

    text: str


class Broken(msgspec.Struct, tag="broken", frozen=True):
    """The worker cannot go on: its state file cannot be written."""

    error: str


Message = Call | Answered | Failed | Happened | Second | Alive | Warned | Broken | RoutedPush | RoutedAnswer

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """The body of a frame."""
    return _encoder.encode(message)


def decode(body: bytes) -> Message:
    """A message. Raises WorkerLinkError."""
    try:
        message: Message = _decoder.decode(body)
    except msgspec.DecodeError as error:  # ValidationError too
        raise WorkerLinkError(f"Expected a message of a worker, found another ({error}).") from error
    return message
