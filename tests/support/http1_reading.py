"""Feeding the HTTP/1.1 response reader, whole or in pieces."""

from __future__ import annotations

from itertools import pairwise

from agent.net.http.http1 import Response, ResponseReader


def read(octets: bytes, *, cuts: tuple[int, ...] = (), max_body: int = 1_000_000) -> Response | None:
    """The response in ``octets``, fed in the pieces between the cuts; the reader hears nothing after it."""
    reader = ResponseReader(max_body)
    for start, end in pairwise((0, *cuts, len(octets))):
        response = reader.receive(octets[start:end])
        if response is not None:
            return response
    return None


def read_by_byte(octets: bytes, *, max_body: int = 1_000_000) -> Response | None:
    return read(octets, cuts=tuple(range(1, len(octets))), max_body=max_body)


def read_to_close(octets: bytes) -> Response:
    reader = ResponseReader()
    assert reader.receive(octets) is None
    return reader.closed()


def both_ways(octets: bytes) -> Response | None:
    whole, by_byte = read(octets), read_by_byte(octets)
    assert whole == by_byte
    return whole
