"""The LOM link: what Controller and Device say to each other once TLS is up. No I/O.

Apple's format is unpublished; this is our own, specified in docs/lom-link.md. A frame is a length of 4 bytes,
big-endian, then a binary plist of that many bytes, at most MAX_FRAME_BYTES. The Controller sends a request, the Device
an answer. What comes of the bytes of a link never depends on the pieces that they arrive in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent import plists
from agent.errors import MisuseError, PeerError
from agent.framing import FrameLengthError, FrameReader, frame
from agent.lom.requests import MAX_DNS_NAME_LENGTH, MAX_UUID_LENGTH, PROTOCOL_VERSION, PowerRequest

MAX_FRAME_BYTES = 4096
MAX_ERROR_LENGTH = 512  # characters: with the longest DeviceRequestUUID, in any script, an answer fits in its frame


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """How long and how much one end of a link bears of the other; ours, no standard says.

    The Controller: ``answer_seconds`` is how long it waits for the answer to its request, ``relays_at_once`` how many
    links it has open for one command.

    The Device, of one link: ``request_seconds`` is how long it waits for a whole request, counted from the TCP
    connection or from its last answer; ``link_seconds`` how long a link lasts in all; ``requests_a_link`` how many it
    answers. ``linger_seconds``: how long it reads and forgets before it closes, after the last of these and after a
    broken rule: bytes left unread would make TCP reset the connection, and answers on their way would be lost.

    The Device, of one peer: ``links_a_peer`` is how many links it has open with one address before it knows whose
    they are, and with one Controller after that; ``requests_a_second`` how many requests of one Controller it carries
    out. ``repeat_seconds`` is how long it knows a request that it answered, ``repeats_kept`` how many of them.
    """

    answer_seconds: float = 10.0
    request_seconds: float = 20.0
    link_seconds: float = 120.0
    requests_a_link: int = 64
    linger_seconds: float = 1.0
    relays_at_once: int = 32
    links_a_peer: int = 64
    requests_a_second: int = 200
    repeat_seconds: float = 60.0
    repeats_kept: int = 64


LIMITS = LinkLimits()


class LinkError(PeerError):
    """The other end of the link broke its rules."""

    kind = "lom_link"


class FrameTooLong(LinkError):
    """A frame announced as longer than MAX_FRAME_BYTES, or as empty."""

    kind = "lom_frame_too_long"


class FrameMalformed(LinkError):
    """A frame that is no binary plist, or not the message it should be."""

    kind = "lom_frame_malformed"


class LinkBroken(LinkError):
    """The other end went away in the middle of an exchange."""

    kind = "lom_link_broken"


@dataclass(frozen=True, slots=True)
class LinkRequest:
    """What the Controller asks."""

    uuid: str
    dns_name: str
    request: PowerRequest
    version: int = PROTOCOL_VERSION

    def encode(self) -> bytes:
        """The frame of this request."""
        return encode_frame(
            {
                "LOMProtocolVersion": self.version,
                "DeviceRequestUUID": self.uuid,
                "DeviceDNSName": self.dns_name,
                "DeviceRequestType": self.request.value,
            }
        )


@dataclass(frozen=True, slots=True)
class LinkAnswer:
    """What the Device answers; ``error`` is empty where it did what was asked."""

    uuid: str
    error: str = ""

    def encode(self) -> bytes:
        """The frame of this answer."""
        message: dict[str, Any] = {"DeviceRequestUUID": self.uuid, "DeviceRequestSuccess": not self.error}
        if self.error:
            message["DeviceRequestReturnError"] = self.error[:MAX_ERROR_LENGTH]
        return encode_frame(message)


def encode_frame(message: dict[str, Any]) -> bytes:
    """The bytes of one frame. Raises FrameTooLong where the message does not fit."""
    body = plists.dump_binary(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameTooLong(f"a LOM frame of {len(body)} bytes; at most {MAX_FRAME_BYTES} are allowed")
    return frame(body)


def next_message(reader: FrameReader) -> dict[str, Any] | None:
    """The message of the next complete frame, or None until more bytes arrive. Raises FrameTooLong, FrameMalformed."""
    try:
        body = reader.next_frame()
    except FrameLengthError as error:
        raise FrameTooLong(f"a LOM frame of {error.length} bytes; from 1 to {MAX_FRAME_BYTES} are allowed") from None
    return None if body is None else _decode(body)


class ControllerLink:
    """The Controller's end of one link: sends one request, takes one answer and hangs up."""

    __slots__ = ("_reader", "_request")

    def __init__(self, request: LinkRequest) -> None:
        self._request = request
        self._reader = FrameReader(MAX_FRAME_BYTES)

    def start(self) -> bytes:
        """The bytes to send first."""
        return self._request.encode()

    def receive(self, data: bytes) -> LinkAnswer | None:
        """Take bytes; the answer once it is whole. Raises LinkError where the Device breaks the rules.

        The first frame is the answer. The Controller hangs up then, so what the Device may say after it is not read.
        """
        self._reader.receive(data)
        message = next_message(self._reader)
        if message is None:
            return None
        answer = parse_answer(message)
        if answer.uuid != self._request.uuid:
            raise FrameMalformed(
                f"the Device answered request {answer.uuid[:80]!r}; {self._request.uuid[:80]!r} was asked"
            )
        return answer

    def closed(self, reason: str) -> LinkBroken:
        """The link ended before the answer came."""
        return LinkBroken(f"the Device went away before it answered: {reason}")


class DeviceLink:
    """The Device's end of one link: gives out one request at a time, and the next once that is answered."""

    __slots__ = ("_asked", "_left", "_reader")

    def __init__(self, limits: LinkLimits = LIMITS) -> None:
        self._reader = FrameReader(MAX_FRAME_BYTES)
        self._left = limits.requests_a_link
        self._asked = False

    @property
    def finished(self) -> bool:
        """Whether as many requests were answered as one link may bring."""
        return self._left == 0

    def receive(self, data: bytes) -> None:
        """Take bytes."""
        self._reader.receive(data)

    def next_request(self) -> LinkRequest | None:
        """The next whole request, or None where there is none yet or the link is finished.

        Raises LinkError where the Controller breaks the rules.
        """
        if self._asked:
            raise MisuseError("the next request of a LOM link, before the last was answered")
        if self.finished:
            return None
        message = next_message(self._reader)
        if message is None:
            return None
        request = parse_request(message)
        self._asked = True
        return request

    def answer(self, answer: LinkAnswer) -> bytes:
        """The bytes that answer the request given out last."""
        if not self._asked:
            raise MisuseError("an answer on a LOM link that nothing was asked on")
        self._asked = False
        self._left -= 1
        return answer.encode()


def parse_request(message: dict[str, Any]) -> LinkRequest:
    """The request in a frame's message. Raises FrameMalformed."""
    uuid = _text(message, "DeviceRequestUUID", MAX_UUID_LENGTH)
    dns_name = _text(message, "DeviceDNSName", MAX_DNS_NAME_LENGTH)
    version = message.get("LOMProtocolVersion")
    if not isinstance(version, int) or isinstance(version, bool):
        raise FrameMalformed(f"LOMProtocolVersion should be an integer, but is {plists.type_name(version)}")
    try:
        request = PowerRequest(message.get("DeviceRequestType"))
    except ValueError:
        raise FrameMalformed("DeviceRequestType is none of PowerON, PowerOFF, Reset") from None
    return LinkRequest(uuid, dns_name, request, version)


def parse_answer(message: dict[str, Any]) -> LinkAnswer:
    """The answer in a frame's message. Raises FrameMalformed."""
    uuid = _text(message, "DeviceRequestUUID", MAX_UUID_LENGTH)
    success = message.get("DeviceRequestSuccess")
    if not isinstance(success, bool):
        raise FrameMalformed(f"DeviceRequestSuccess should be a boolean, but is {plists.type_name(success)}")
    if success:
        return LinkAnswer(uuid)
    error = message.get("DeviceRequestReturnError")
    return LinkAnswer(uuid, error if isinstance(error, str) and error else "the Device gave no reason")


def _decode(body: bytes) -> dict[str, Any]:
    if not body.startswith(b"bplist00"):
        raise FrameMalformed("a LOM frame should hold a binary plist, but does not")
    try:
        return plists.load_dict(body, what="LOM frame", max_bytes=MAX_FRAME_BYTES)
    except plists.PlistError as error:
        raise FrameMalformed(str(error)) from error


def _text(message: dict[str, Any], key: str, longest: int) -> str:
    value = message.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise FrameMalformed(f"{key} should be a string of 1 to {longest} characters")
    return value
