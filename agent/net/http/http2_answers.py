"""The form that most answers of HTTP/2 have, read at once: faster than frame by frame, with the same result."""

from __future__ import annotations

from typing import NamedTuple

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


class CommonAnswer(NamedTuple):
    """``end`` is where it ends in the bytes."""

    head: ResponseHead
    body: bytes
    end: int


def common_answer(octets: bytes, stream: int, max_body: int) -> CommonAnswer | None:
    """The answer at the start of ``octets``: one HEADERS and one DATA frame, without padding. None: another form.

    What is malformed has another form, too, except for the header section. Raises ResponseMalformed.
    """
    if len(octets) < 2 * FRAME_HEADER_BYTES:
        return None
    head, flags, found = FRAME_HEADER.unpack_from(octets)
    if head & 0xFF != HEADERS or flags != END_HEADERS or found != stream or head >> 8 > MAX_FRAME_BYTES:
        return None
    at = FRAME_HEADER_BYTES + (head >> 8)
    start = at + FRAME_HEADER_BYTES
    if start > len(octets):
        return None
    data, flags, found = FRAME_HEADER.unpack_from(octets, at)
    size = data >> 8
    if data & 0xFF != DATA or flags != END_STREAM or found != stream or size > min(max_body, MAX_FRAME_BYTES):
        return None
    end = start + size
    if end > len(octets):
        return None
    fields = response_head(octets[FRAME_HEADER_BYTES:at])
    if fields.status < 200 or fields.status in NO_BODY or fields.length not in (None, size):
        return None
    return CommonAnswer(fields, octets[start:end], end)
