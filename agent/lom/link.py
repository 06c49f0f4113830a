"""The LOM link: the messages between Controller and Device within a TLS connection. No I/O.

Apple's format is unpublished; this is our own, specified in docs/lom-link.md. A frame is a length of 4 bytes,
big-endian, then a binary plist of that many bytes, at most MAX_FRAME_BYTES. The Controller sends a request, the Device
sends an answer, and from version 2 on the Controller acknowledges it. Parsing does not depend on how TCP splits the
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from agent import plists
from agent.errors import LomAgentError, MisuseError, PeerError
from agent.framing import FrameLengthError, FrameReader, frame
from agent.lom.requests import MAX_DNS_NAME_LENGTH, MAX_QUOTED, MAX_UUID_LENGTH, PROTOCOL_VERSION, PowerRequest

MAX_FRAME_BYTES = 4096
FIRST_VERSION = 1
ACKNOWLEDGED_FROM = 2  # the first version in which the Controller acknowledges an answer
MAX_ERROR_LENGTH = 512  # characters; with the longest DeviceRequestUUID, in any script, an answer fits in a frame


class LinkLimits(msgspec.Struct, frozen=True):
    """Time and quantity limits of a LOM link. The values are our choice; no standard defines them."""

    answer_seconds: float = 10.0
    """Controller: maximum wait for the answer, from sending the request."""
    request_seconds: float = 20.0
    """Device: maximum wait for a whole request, from the TCP connection or from its last answer."""
    link_seconds: float = 120.0
    """Device: maximum duration of a link, from the TCP connection."""
    requests_a_link: int = 64
    """Device: maximum number of requests answered on one link."""
    linger_seconds: float = 1.0
    """Device: how long it discards input before it closes, after the last request of a link and after a violation.

    TCP resets a connection that is closed with unread bytes, and a reset destroys answers still in transit.
    """
    relays_at_once: int = 32
    """Controller: maximum number of items of one command that are relayed at the same time."""
    links_a_peer: int = 64
    """Device: maximum number of open links per address during handshakes, and per Controller afterwards."""
    requests_a_second: int = 200
    """Device: maximum number of requests carried out per second and Controller."""
    acknowledgement_seconds: float = 5.0
    """Device: maximum wait for the acknowledgement of an answer, before it closes the link."""
    returns: int = 1
    """Controller: how often it connects to a Device again whose link ended before the answer (version 2)."""
    attempt_delay_seconds: float | None = 0.25
    """Controller: how long an address has to complete its handshake before the next one is tried too (RFC 8305, 5).

    None: one address at a time.
    """
    repeat_seconds: float = 60.0
    """Device: how long it recognises a request that it has answered."""
    repeats_kept: int = 64
    """Device: maximum number of answered requests that it recognises."""


LIMITS = LinkLimits()


class LinkError(PeerError):
    """The peer violated the rules of the link."""

    kind = "lom_link"


class FrameTooLong(LinkError):
    """The announced length of a frame is 0 or greater than MAX_FRAME_BYTES."""

    kind = "lom_frame_too_long"


class FrameMalformed(LinkError):
    """A frame is not a binary plist, or not the expected message."""

    kind = "lom_frame_malformed"


class LinkBroken(LinkError):
    """The peer closed the link in the middle of an exchange."""

    kind = "lom_link_broken"


class VersionUnsupported(LinkError):
    """A request has a LOMProtocolVersion that the Device does not speak. ``answer`` says so."""

    kind = "lom_version"

    def __init__(self, answer: LinkAnswer) -> None:
        super().__init__(answer.error)
        self.answer = answer


class NotAcknowledged(LinkError):
    """The Controller did not acknowledge an answer in time."""

    kind = "lom_not_acknowledged"
    timed_out = True


class RequestDropped(LinkError):
    """A fault rule has the Device reset the link instead of an answer."""

    kind = "fault"


class RequestDelayed(LomAgentError):
    """A fault rule has the Device answer ``seconds`` later, with what ``carry_out`` returns then."""

    def __init__(self, seconds: float, carry_out: Callable[[], LinkAnswer]) -> None:
        super().__init__(f"the answer is due in {seconds:g} s")
        self.seconds = seconds
        self.carry_out = carry_out


class LinkRequest(msgspec.Struct, frozen=True):
    """A Controller's request."""

    uuid: str
    dns_name: str
    request: PowerRequest
    version: int = PROTOCOL_VERSION

    @property
    def acknowledges(self) -> bool:
        """Whether the Controller acknowledges the answer."""
        return self.version >= ACKNOWLEDGED_FROM

    def encode(self) -> bytes:
        """This request as a frame."""
        return encode_frame(
            {
                "LOMProtocolVersion": self.version,
                "DeviceRequestUUID": self.uuid,
                "DeviceDNSName": self.dns_name,
                "DeviceRequestType": self.request.value,
            }
        )


class LinkAnswer(msgspec.Struct, frozen=True):
    """A Device's answer."""

    uuid: str
    error: str = ""
    """Empty if the Device carried out the request."""

    def encode(self) -> bytes:
        """This answer as a frame."""
        message: dict[str, Any] = {"DeviceRequestUUID": self.uuid, "DeviceRequestSuccess": not self.error}
        if self.error:
            message["DeviceRequestReturnError"] = self.error[:MAX_ERROR_LENGTH]
        return encode_frame(message)


class Acknowledgement(msgspec.Struct, frozen=True):
    """A Controller's acknowledgement of an answer (version 2)."""

    uuid: str

    def encode(self) -> bytes:
        """This acknowledgement as a frame."""
        return encode_frame({"DeviceRequestUUID": self.uuid, "ResponseAcknowledged": True})


def encode_frame(message: dict[str, Any]) -> bytes:
    """The bytes of one frame. Raises FrameTooLong if the message does not fit."""
    body = plists.dump_binary(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameTooLong(f"expected a LOM frame of at most {MAX_FRAME_BYTES} bytes, found {len(body)}")
    return frame(body)


def next_message(reader: FrameReader) -> dict[str, Any] | None:
    """The message of the next complete frame, or None until more bytes arrive. Raises FrameTooLong, FrameMalformed."""
    try:
        body = reader.next_frame()
    except FrameLengthError as error:
        raise FrameTooLong(f"expected a LOM frame of 1 to {MAX_FRAME_BYTES} bytes, found {error.length}") from None
    return None if body is None else _decode(body)


class ControllerLink:
    """The Controller's end of one link: one request, one answer and its acknowledgement, then the link is closed."""

    __slots__ = ("_acknowledgements", "_reader", "_repeats_left", "_request")

    def __init__(self, request: LinkRequest, limits: LinkLimits = LIMITS) -> None:
        self._request = request
        self._reader = FrameReader(MAX_FRAME_BYTES)
        self._acknowledgements = b""
        self._repeats_left = limits.repeats_kept

    def start(self) -> bytes:
        """The bytes of the request."""
        return self._request.encode()

    def receive(self, data: bytes) -> LinkAnswer | None:
        """Take bytes; return the answer once it is complete. Raises LinkError if the Device violates the rules.

        In version 1 the first frame is the answer. In version 2 a Device may first repeat answers to earlier requests,
        at most ``repeats_kept``; they are acknowledged. Frames after the answer are not read.
        """
        self._reader.receive(data)
        while (message := next_message(self._reader)) is not None:
            answer = parse_answer(message)
            own = answer.uuid == self._request.uuid
            if self._request.acknowledges and (own or self._repeats_left):
                self._acknowledgements += Acknowledgement(answer.uuid).encode()
                self._repeats_left -= not own
            elif not own:
                raise FrameMalformed(
                    f"expected an answer to request {self._request.uuid[:80]!r}, found one to {answer.uuid[:80]!r}"
                )
            if own:
                return answer
        return None

    def take_acknowledgements(self) -> bytes:
        """The acknowledgements to send; empty if there are none."""
        taken, self._acknowledgements = self._acknowledgements, b""
        return taken

    def closed(self, reason: str) -> LinkBroken:
        """The error for a link that ended before the answer was complete."""
        return LinkBroken(f"the link ended before the Device answered: {reason}")


class DeviceLink:
    """The Device's end of one link: returns one message at a time, the next one after a request is answered.

    ``version`` is the highest that the Device speaks.
    """

    __slots__ = ("_open", "_reader", "_remaining", "_unacknowledged", "_version")

    def __init__(self, limits: LinkLimits = LIMITS, version: int = PROTOCOL_VERSION) -> None:
        self._reader = FrameReader(MAX_FRAME_BYTES)
        self._remaining = limits.requests_a_link
        self._version = version
        self._open: LinkRequest | VersionUnsupported | None = None  # what is to be answered
        self._unacknowledged: set[str] = set()  # DeviceRequestUUIDs answered on this link

    @property
    def finished(self) -> bool:
        """Whether the limit of requests on one link is reached and no acknowledgement is awaited."""
        return self._remaining == 0 and not self._unacknowledged

    @property
    def unacknowledged(self) -> frozenset[str]:
        """The DeviceRequestUUIDs of the answers of this link that are not acknowledged yet."""
        return frozenset(self._unacknowledged)

    def receive(self, data: bytes) -> None:
        """Take bytes."""
        self._reader.receive(data)

    def next_message(self) -> LinkRequest | Acknowledgement | None:
        """The next complete request, or acknowledgement of an answer of this link; None if there is none yet.

        Raises VersionUnsupported, whose ``answer`` is to be given to ``answer``, and LinkError if the Controller
        violates the rules.
        """
        if self._open is not None:
            raise MisuseError("next_message was called before the last request of the LOM link was answered")
        while not self.finished and (message := next_message(self._reader)) is not None:
            if "ResponseAcknowledged" in message:
                acknowledgement = Acknowledgement(_text(message, "DeviceRequestUUID", MAX_UUID_LENGTH))
                if acknowledgement.uuid in self._unacknowledged:  # others are of no consequence
                    self._unacknowledged.discard(acknowledgement.uuid)
                    return acknowledgement
            elif self._remaining:
                try:
                    self._open = parse_request(message, self._version)
                except VersionUnsupported as error:
                    self._open = error
                    raise
                return self._open
        return None

    def answer(self, answer: LinkAnswer) -> bytes:
        """The bytes of the answer to the request that ``next_message`` returned last."""
        if self._open is None:
            raise MisuseError("answer was called on a LOM link that has no open request")
        if isinstance(self._open, LinkRequest) and self._open.acknowledges:
            self._unacknowledged.add(answer.uuid)
        self._open = None
        self._remaining -= 1
        return answer.encode()

    def repeat(self, answers: Iterable[LinkAnswer]) -> bytes:
        """The bytes of answers of earlier links that were not acknowledged; those of this link are left out."""
        repeated = [answer for answer in answers if answer.uuid not in self._unacknowledged]
        self._unacknowledged.update(answer.uuid for answer in repeated)
        return b"".join(answer.encode() for answer in repeated)


def parse_request(message: dict[str, Any], highest: int = PROTOCOL_VERSION) -> LinkRequest:
    """The request in a frame's message. Raises FrameMalformed.

    Raises VersionUnsupported for a version above ``highest`` or below 1, whatever else is wrong: keys and values may
    differ there.
    """
    version = message.get("LOMProtocolVersion")
    if not isinstance(version, int) or isinstance(version, bool):
        raise FrameMalformed(f"LOMProtocolVersion: expected an integer, found {plists.type_name(version)}")
    if not FIRST_VERSION <= version <= highest:
        spoken = " or ".join(str(each) for each in range(FIRST_VERSION, highest + 1))
        uuid = message.get("DeviceRequestUUID")
        named = uuid if isinstance(uuid, str) and 0 < len(uuid) <= MAX_UUID_LENGTH else ""
        raise VersionUnsupported(LinkAnswer(named, f"LOMProtocolVersion: expected {spoken}, found {version}"))
    uuid = _text(message, "DeviceRequestUUID", MAX_UUID_LENGTH)
    dns_name = _text(message, "DeviceDNSName", MAX_DNS_NAME_LENGTH)
    kind = message.get("DeviceRequestType")
    try:
        request = PowerRequest(kind)
    except ValueError:
        found = repr(kind[:MAX_QUOTED]) if isinstance(kind, str) else plists.type_name(kind)
        raise FrameMalformed(f"DeviceRequestType: expected PowerON, PowerOFF or Reset, found {found}") from None
    return LinkRequest(uuid, dns_name, request, version)


def parse_answer(message: dict[str, Any]) -> LinkAnswer:
    """The answer in a frame's message. Raises FrameMalformed."""
    uuid = _text(message, "DeviceRequestUUID", MAX_UUID_LENGTH)
    success = message.get("DeviceRequestSuccess")
    if not isinstance(success, bool):
        raise FrameMalformed(f"DeviceRequestSuccess: expected a boolean, found {plists.type_name(success)}")
    if success:
        return LinkAnswer(uuid)
    error = message.get("DeviceRequestReturnError")
    if isinstance(error, str) and len(error) > MAX_ERROR_LENGTH:
        raise FrameMalformed(
            f"DeviceRequestReturnError: expected at most {MAX_ERROR_LENGTH} characters, found {len(error)}"
        )
    return LinkAnswer(uuid, error if isinstance(error, str) and error else "the Device gave no reason")


def _decode(body: bytes) -> dict[str, Any]:
    if not body.startswith(b"bplist00"):
        raise FrameMalformed("expected a binary plist in the LOM frame, found other bytes")
    try:
        return plists.load_dict(body, what="LOM frame", max_bytes=MAX_FRAME_BYTES)
    except plists.PlistError as error:
        raise FrameMalformed(str(error)) from error


def _text(message: dict[str, Any], key: str, longest: int) -> str:
    value = message.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        found = len(value) if isinstance(value, str) else plists.type_name(value)
        raise FrameMalformed(f"{key}: expected a string of 1 to {longest} characters, found {found}")
    return value
