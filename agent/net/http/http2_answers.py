"""The form that most answers of HTTP/2 have, read at once: faster than frame by frame, with the same result."""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct

from agent.net.http.http1 import ResponseMalformed
from agent.net.http.http2_fields import NO_BODY, response_head
from agent.net.http.http2_frames import (
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    HEADERS,
    MAX_FRAME_BYTES,
    MAX_WINDOW,
    WINDOW_UPDATE,
)

_UPDATE_AND_HEADER = Struct(">IBIIIBI")  # a whole WINDOW_UPDATE and the header of the next frame
_UPDATE_HEAD = 4 << 8 | WINDOW_UPDATE  # its length and type, with which an answer may begin
_UPDATE_BYTES = FRAME_HEADER_BYTES + 4
_SHORTEST = 2 * FRAME_HEADER_BYTES
_header, _update_and_header = FRAME_HEADER.unpack_from, _UPDATE_AND_HEADER.unpack_from


CommonAnswer = tuple[int, int, Mapping[str, str], bytes]
"""The increment of the WINDOW_UPDATE before it, or 0; its status, its headers, its body."""


def common_answer(octets: bytes, stream: int, longest: int) -> CommonAnswer | None:
    """The answer if it is exactly these bytes: one HEADERS and one DATA frame without padding. None: another form.

    A server that has read the request's body may send a WINDOW_UPDATE of its stream before. The body has at most
    ``longest`` bytes, which is not more than a frame may have. What is malformed has another form, too.
    """
    end = len(octets)
    if end < _SHORTEST:
        return None
    head, flags, found = _header(octets)
    at, increment = FRAME_HEADER_BYTES, 0
    if head == _UPDATE_HEAD and end >= _UPDATE_BYTES + _SHORTEST and found == stream:
        _, _, _, increment, head, flags, found = _update_and_header(octets)
        at += _UPDATE_BYTES
        if not 0 < increment <= MAX_WINDOW:
            return None
    stop = at + (head >> 8)
    start = stop + FRAME_HEADER_BYTES
    if head & 0xFF != HEADERS or flags != END_HEADERS or found != stream or start > end:
        return None
    size = end - start
    if _header(octets, stop) != (size << 8, END_STREAM, stream) or size > longest or stop - at > MAX_FRAME_BYTES:
        return None  # the type of DATA is 0
    try:
        status, headers, length = response_head(octets[at:stop])
    except ResponseMalformed:
        return None
    if status < 200 or status in NO_BODY or (length is not None and length != size):
        return None
    return increment, status, headers, octets[start:]
