"""The frames of HTTP/2 that we send, and the numbers in those of the peer. Source: RFC 9113, 4, 6 and 7."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

from agent.net.http.http1 import ResponseMalformed

MAX_FRAME_BYTES = 16_384  # SETTINGS_MAX_FRAME_SIZE as it is initially: we raise none, and use no more of a server's
MAX_WINDOW = 2**31 - 1
MAX_STREAM = 2**31 - 1
INITIAL_WINDOW = 65_535
FRAME_HEADER = Struct(">IBI")  # length (24 bits) and type, flags, stream
FRAME_HEADER_BYTES = FRAME_HEADER.size
RST_STREAM_BYTES = FRAME_HEADER_BYTES + 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_SETTING = Struct(">HI")
_UINT32 = Struct(">I")


# Types and flags of frames; plain numbers, because members of an enumeration take longer to look up.
DATA, HEADERS, _, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20


class Setting(IntEnum):
    """Parameters of SETTINGS."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(IntEnum):
    """Codes of RST_STREAM and GOAWAY."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class HTTP2Malformed(ResponseMalformed):
    """The server's bytes are not valid HTTP/2, or exceed a limit; ``code`` is for the GOAWAY."""

    def __init__(self, text: str, code: ErrorCode = ErrorCode.PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.code = code


def code_name(code: int) -> str:
    """The name of an error code, or its number."""
    return ErrorCode(code).name if code in ErrorCode.__members__.values() else f"error code {code}"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """The bytes of a frame."""
    return FRAME_HEADER.pack(len(payload) << 8 | kind, flags, stream) + payload


def settings(values: dict[Setting, int]) -> bytes:
    """SETTINGS."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*each) for each in values.items()))


def settings_of(payload: bytes) -> list[tuple[int, int]]:
    """The parameters and values in a SETTINGS frame. Raises HTTP2Malformed."""
    if len(payload) % _SETTING.size:
        raise HTTP2Malformed(
            f"expected SETTINGS of a multiple of 6 bytes, found {len(payload)}", ErrorCode.FRAME_SIZE_ERROR
        )
    return list(_SETTING.iter_unpack(payload))


def window_update(stream: int, increment: int) -> bytes:
    """WINDOW_UPDATE."""
    return frame(WINDOW_UPDATE, 0, stream, _UINT32.pack(increment))


def rst_stream(stream: int, code: ErrorCode) -> bytes:
    """RST_STREAM."""
    return frame(RST_STREAM, 0, stream, _UINT32.pack(code))


def goaway(code: ErrorCode) -> bytes:
    """GOAWAY: no stream of the server's was processed, since it may open none."""
    return frame(GOAWAY, 0, 0, _UINT32.pack(0) + _UINT32.pack(code))


def header_frames(stream: int, block: bytes, *, end_stream: bool) -> list[bytes]:
    """HEADERS, with the CONTINUATION frames that a long block needs."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= MAX_FRAME_BYTES:
        return [frame(HEADERS, flags | END_HEADERS, stream, block)]
    first, *parts = (block[at : at + MAX_FRAME_BYTES] for at in range(0, len(block), MAX_FRAME_BYTES))
    frames = [frame(HEADERS, flags, stream, first)]
    frames += (frame(CONTINUATION, 0, stream, part) for part in parts[:-1])
    return [*frames, frame(CONTINUATION, END_HEADERS, stream, parts[-1])]


def whole_request(stream: int, block: bytes, body: bytes) -> bytes:
    """HEADERS and DATA of a request, of which neither is longer than a frame."""
    head = FRAME_HEADER.pack(len(block) << 8 | HEADERS, END_HEADERS, stream)
    return b"".join((head, block, FRAME_HEADER.pack(len(body) << 8, END_STREAM, stream), body))


def numbers(payload: bytes, count: int, what: str) -> tuple[int, ...]:
    """The ``count`` numbers of 32 bits in a frame; only GOAWAY may have more bytes. Raises HTTP2Malformed."""
    size = count * _UINT32.size
    if len(payload) < size or (len(payload) > size and what != "GOAWAY"):
        raise _wrong_size(what, size, len(payload))
    return tuple(_UINT32.unpack_from(payload, each * _UINT32.size)[0] for each in range(count))


def increment_of(octets: bytes, at: int, stop: int) -> int:
    """The increment in the payload of a WINDOW_UPDATE: ``octets`` from ``at`` to ``stop``. Raises HTTP2Malformed."""
    if stop - at != _UINT32.size:
        raise _wrong_size("WINDOW_UPDATE", _UINT32.size, stop - at)
    increment: int = _UINT32.unpack_from(octets, at)[0] & MAX_WINDOW
    if not increment:
        raise HTTP2Malformed("a WINDOW_UPDATE of 0 bytes")
    return increment


def _wrong_size(what: str, expected: int, found: int) -> HTTP2Malformed:
    return HTTP2Malformed(f"expected {what} of {expected} bytes, found {found}", ErrorCode.FRAME_SIZE_ERROR)


def unpadded(flags: int, octets: bytes, at: int, stop: int) -> tuple[int, int]:
    """Where the content of a DATA or HEADERS payload begins and ends (RFC 9113, 6.1). Raises HTTP2Malformed."""
    if flags & PADDED:
        if at == stop or octets[at] >= stop - at:
            raise HTTP2Malformed("the padding of a frame is not shorter than its payload")
        at, stop = at + 1, stop - octets[at]
    return at, stop
