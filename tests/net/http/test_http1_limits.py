"""Limits of the HTTP/1.1 response reader: what is at one is taken, what is past it refused, however it is cut."""

from __future__ import annotations

import re

import pytest
from http1_reading import both_ways, read, read_by_byte

from agent.net.http import http1
from agent.net.http.http1 import (
    MAX_CHUNK_LINE_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEADER_LINES,
    MAX_INTERIM_RESPONSES,
    ResponseMalformed,
    ResponseReader,
    ResponseTooLong,
)


def headed(head_bytes: int) -> bytes:
    octets = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nPad: "
    return octets + b"x" * (head_bytes - len(octets)) + b"\r\n\r\n"


def test_response_head_is_limited() -> None:
    fits, too_long = headed(MAX_HEAD_BYTES), headed(MAX_HEAD_BYTES + 1)
    for cut in range(len(fits) - 5, len(fits)):
        assert read(fits, cuts=(cut,)) is not None
        with pytest.raises(ResponseTooLong):
            read(too_long, cuts=(cut,))


def test_endless_head_is_refused_at_the_limit() -> None:
    with pytest.raises(ResponseTooLong, match="head is longer"):
        read(headed(MAX_HEAD_BYTES + 5)[:-4])


def test_header_lines_are_limited() -> None:
    def response_with(lines: int) -> bytes:
        return b"HTTP/1.1 204 No\r\n" + b"A: b\r\n" * lines + b"\r\n"

    assert read(response_with(MAX_HEADER_LINES)) is not None
    with pytest.raises(ResponseTooLong, match="header lines"):
        read(response_with(MAX_HEADER_LINES + 1))


def test_trailer_lines_are_limited() -> None:
    def response_with(lines: int) -> bytes:
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * lines + b"\r\n"

    assert read(response_with(MAX_HEADER_LINES)) is not None
    with pytest.raises(ResponseTooLong, match="trailer"):
        read(response_with(MAX_HEADER_LINES + 1))


def test_interim_responses_are_limited() -> None:
    def response_after(interims: int) -> bytes:
        return b"HTTP/1.1 100 Continue\r\n\r\n" * interims + b"HTTP/1.1 204 No\r\n\r\n"

    assert read(response_after(MAX_INTERIM_RESPONSES)) is not None
    with pytest.raises(ResponseTooLong, match="interim"):
        read(response_after(MAX_INTERIM_RESPONSES + 1))


def test_chunk_line_is_limited() -> None:
    def response_with(line_bytes: int) -> bytes:
        line = b"1;" + b"x" * (line_bytes - 2)
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + line + b"\r\ny\r\n0\r\n\r\n"

    assert both_ways(response_with(MAX_CHUNK_LINE_BYTES)) is not None
    for parse in (read, read_by_byte):
        with pytest.raises(ResponseTooLong, match="chunked body"):
            parse(response_with(MAX_CHUNK_LINE_BYTES + 1))
    with pytest.raises(ResponseTooLong, match="chunked body"):
        read(response_with(MAX_CHUNK_LINE_BYTES + 100)[:-20])


@pytest.mark.parametrize(
    ("fits", "too_long"),
    [
        (b"Content-Length: 10\r\n\r\n0123456789", b"Content-Length: 11\r\n\r\n"),
        (
            b"Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n6\r\n",
        ),
        (
            b"Transfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\n",
        ),
    ],
)
def test_content_length_above_the_limit_is_refused_before_the_body(fits: bytes, too_long: bytes) -> None:
    response = read(b"HTTP/1.1 200 OK\r\n" + fits, max_body=10)
    assert response is not None
    assert response.body == b"0123456789"
    with pytest.raises(ResponseTooLong, match="body is longer than 10"):
        read(b"HTTP/1.1 200 OK\r\n" + too_long, max_body=10)


def test_body_without_a_length_is_limited() -> None:
    reader = ResponseReader(max_body=10)
    reader.receive(b"HTTP/1.1 200 OK\r\n\r\n0123456789")
    with pytest.raises(ResponseTooLong):
        reader.receive(b"x")


def test_a_body_of_very_many_small_chunks_is_read() -> None:
    chunks = 50_000
    octets = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * chunks + b"0\r\n\r\n"
    response = read(octets)
    assert response is not None
    assert response.body == b"x" * chunks


class CountedBuffer(bytearray):
    """Counts the bytes that it is searched through."""

    searched = 0

    def find(self, part: bytes, start: int = 0) -> int:  # type: ignore[override]
        CountedBuffer.searched += len(self) - start
        return super().find(part, start)

    def count(self, part: bytes, start: int = 0) -> int:  # type: ignore[override]
        CountedBuffer.searched += len(self) - start
        return super().count(part, start)


def test_head_sent_byte_by_byte_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "bytearray", CountedBuffer, raising=False)
    searched = []
    for size in (500, 8 * 500):
        monkeypatch.setattr(CountedBuffer, "searched", 0)
        assert read_by_byte(headed(size)) is not None
        searched.append(CountedBuffer.searched)
    assert size < searched[1] <= 8 * searched[0]


@pytest.mark.parametrize("bad", ["malformed", "a:\0", "a b: c", ": c", "a: " + " \t" * 1000 + "\0"])
def test_malformed_line_after_many_valid_ones_is_reported(bad: str) -> None:
    good = "".join(f"Name-{number}: \t value {number}\t\r\n" for number in range(MAX_HEADER_LINES - 1))
    head = f"HTTP/1.1 200 OK\r\n{good}{bad}\r\n\r\n".encode("latin-1")
    with pytest.raises(ResponseMalformed, match=r"expected a header line, found b'.{0,3}" + re.escape(bad[:1])):
        read(head)
