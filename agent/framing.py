"""Length-prefixed frames in a byte stream: 4 bytes of length, big-endian, then that many bytes. No I/O."""

from __future__ import annotations

import struct

from agent.errors import PeerError

_LENGTH = struct.Struct(">I")
HEADER_BYTES = _LENGTH.size


class FrameLengthError(PeerError):
    """A frame announced as empty, or as longer than the reader accepts."""

    kind = "frame_length"

    def __init__(self, length: int, longest: int) -> None:
        super().__init__(f"Expected a frame of 1 to {longest} bytes, found a length of {length}.")
        self.length = length
        """The announced length, in bytes."""


def frame(body: bytes) -> bytes:
    """The bytes of one frame."""
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts received bytes into frames. The result never depends on the pieces in which they arrive."""

    __slots__ = ("_buffer", "longest")

    def __init__(self, longest: int) -> None:
        self._buffer = bytearray()
        self.longest = longest
        """The longest body accepted from now on, in bytes."""

    def receive(self, octets: bytes) -> None:
        """Add received bytes."""
        self._buffer += octets

    def next_frame(self) -> bytes | None:
        """The body of the next complete frame, or None until more bytes arrive. Raises FrameLengthError."""
        buffer = self._buffer
        if len(buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(buffer)
        if not 0 < length <= self.longest:
            raise FrameLengthError(length, self.longest)
        end = _LENGTH.size + length
        if len(buffer) < end:
            return None
        body = bytes(buffer[_LENGTH.size : end])
        del buffer[:end]
        return body
