"""Splits the bytes of a provider's connection after each HTTP/2 frame. Source: RFC 9113, 3.4 and 4.1.

h2 reports its events after it has read all bytes that it was given. Given one frame at a time, the state of its streams
is the one that our answer meets, and a long read costs no more than its frames.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.errors import PeerError

MAX_FRAME_BYTES = 16_384  # RFC 9113, 6.5.2: SETTINGS_MAX_FRAME_SIZE the initial value, which we do not raise

_PREFACE_BYTES = 24  # RFC 9113, 3.4
_FRAME_HEADER_BYTES = 9  # RFC 9113, 4.1: 24 bits of length come first
_LENGTH_BYTES = 3


class FrameSizeError(PeerError):
    """A frame is longer than we allow."""

    kind = "http2_frame_size"


class FrameCutter:
    """Tracks where the current frame (or the preface) ends.

    It also checks the lengths, because h2 rejects a frame that is too long only after reading it, up to 16 MiB.
    """

    def __init__(self) -> None:
        self._left = _PREFACE_BYTES  # of the frame, behind the length in its header
        self._length = b""  # those of the three bytes that were read

    def pieces(self, octets: bytes) -> Iterator[bytes]:
        """The same bytes in pieces, each up to the end of a frame or of ``octets``. Raises FrameSizeError."""
        begin = at = 0
        while at + self._left < len(octets):
            at += self._left
            self._left = 0
            if not self._length and at > begin:  # the frame before ends here
                yield octets[begin:at]
                begin = at
            needed = _LENGTH_BYTES - len(self._length)
            self._length += octets[at : at + needed]
            at = min(at + needed, len(octets))
            if len(self._length) < _LENGTH_BYTES:
                break
            length = int.from_bytes(self._length, "big")
            if length > MAX_FRAME_BYTES:
                raise FrameSizeError(f"Expected a frame of at most {MAX_FRAME_BYTES} bytes, found one of {length}.")
            self._length = b""
            self._left = _FRAME_HEADER_BYTES - _LENGTH_BYTES + length
        else:
            self._left -= len(octets) - at
        if begin < len(octets):
            yield octets[begin:]
