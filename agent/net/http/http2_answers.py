"""The form that most answers of HTTP/2 have, read at once: faster than frame by frame, with the same result."""

from __future__ import annotations

from agent.net.http.http2_fields import NO_BODY, ResponseHead, response_head
from agent.net.http.http2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    HEADERS,
    MAX_FRAME_BYTES,
)

_TWO_HEADERS = 2 * FRAME_HEADER_BYTES
_unpack = FRAME_HEADER.unpack_from


def common_answer(octets: bytes, at: int, stream: int, max_body: int) -> tuple[ResponseHead, int, int] | None:
    """The answer at ``at`` in ``octets``: one HEADERS and one DATA frame, without padding. None: another form.

    Its head, and where its body begins and ends. What is malformed has another form, too, except for the header
    section. Raises ResponseMalformed.
    """
    end = len(octets)
    if end - at < _TWO_HEADERS:
        return None
    head, flags, found = _unpack(octets, at)
    size = head >> 8
    if head & 0xFF != HEADERS or flags != END_HEADERS or found != stream or size > MAX_FRAME_BYTES:
        return None
    block = at + FRAME_HEADER_BYTES
    at = block + size
    start = at + FRAME_HEADER_BYTES
    if start > end:
        return None
    head, flags, found = _unpack(octets, at)
    size = head >> 8
    if head & 0xFF != DATA or flags != END_STREAM or found != stream or size > MAX_FRAME_BYTES or size > max_body:
        return None
    stop = start + size
    if stop > end:
        return None
    fields = response_head(octets[block:at])
    status, _, length = fields
    if status < 200 or status in NO_BODY or (length is not None and length != size):
        return None
    return fields, start, stop
