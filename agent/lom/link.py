"""The LOM link: what Controller and Device say to each other once TLS is up. No I/O.

Apple's format is unpublished; this is our own, specified in docs/lom-link.md. A frame is a length of 4 bytes,
big-endian, then a binary plist of that many bytes, at most MAX_FRAME_BYTES. The Controller sends a request, the Device
an answer.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from agent import plists
from agent.errors import PeerError
from agent.lom.requests import PROTOCOL_VERSION, PowerRequest

MAX_FRAME_BYTES = 4096
_LENGTH = struct.Struct(">I")
MAX_TEXT = 1024


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
            message["DeviceRequestReturnError"] = self.error[:MAX_TEXT]
        return encode_frame(message)


def encode_frame(message: dict[str, Any]) -> bytes:
    """The bytes of one frame. Raises FrameTooLong where the message does not fit."""
    body = plists.dump_binary(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameTooLong(f"a LOM frame of {len(body)} bytes; at most {MAX_FRAME_BYTES} are allowed")
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Bytes in, frames out; holds one unfinished frame at most."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def receive(self, data: bytes) -> list[dict[str, Any]]:
        """Take bytes and return the messages that they complete. Raises FrameTooLong or FrameMalformed."""
        buffer = self._buffer + data
        messages = []
        begin = 0
        while len(buffer) - begin >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, begin)
            if not 0 < length <= MAX_FRAME_BYTES:
                raise FrameTooLong(f"a LOM frame of {length} bytes; from 1 to {MAX_FRAME_BYTES} are allowed")
            end = begin + _LENGTH.size + length
            if len(buffer) < end:
                break
            messages.append(_decode(buffer[begin + _LENGTH.size : end]))
            begin = end
        self._buffer = buffer[begin:]
        return messages

    @property
    def unfinished(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._buffer)


class ControllerLink:
    """The Controller's end of one link: sends one request, takes one answer."""

    __slots__ = ("_answered", "_reader", "_request")

    def __init__(self, request: LinkRequest) -> None:
        self._request = request
        self._reader = FrameReader()
        self._answered = False

    def start(self) -> bytes:
        """The bytes to send first."""
        return self._request.encode()

    def receive(self, data: bytes) -> LinkAnswer | None:
        """Take bytes; the answer once it is whole. Raises LinkError where the Device breaks the rules."""
        messages = self._reader.receive(data)
        if not messages:
            return None
        if self._answered or len(messages) > 1 or self._reader.unfinished:
            raise FrameMalformed("the Device sent more than one answer")
        self._answered = True
        answer = parse_answer(messages[0])
        if answer.uuid != self._request.uuid:
            raise FrameMalformed(
                f"the Device answered request {answer.uuid[:80]!r}; {self._request.uuid[:80]!r} was asked"
            )
        return answer

    def closed(self) -> LinkBroken:
        """The link was closed before the answer came."""
        return LinkBroken("the Device went away before it answered")


def parse_request(message: dict[str, Any]) -> LinkRequest:
    """The request in a frame's message. Raises FrameMalformed."""
    uuid, dns_name = _text(message, "DeviceRequestUUID"), _text(message, "DeviceDNSName")
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
    uuid = _text(message, "DeviceRequestUUID")
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


def _text(message: dict[str, Any], key: str) -> str:
    value = message.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        raise FrameMalformed(f"{key} should be a string of 1 to {MAX_TEXT} characters")
    return value
