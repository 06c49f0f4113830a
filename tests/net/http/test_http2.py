"""The HTTP/2 client core: what a server may do, and what ends the connection. Frames are written by hand."""

from __future__ import annotations

import sys

import pytest
from http2_peers import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    NO_ERROR,
    OPENING_BYTES,
    PADDED,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    answer,
    asked,
    block,
    by_byte,
    frame,
    frames,
    headers,
    put,
    setting,
    u32,
)

from agent.errors import MisuseError
from agent.net.http import hpack, http2_fields
from agent.net.http.http1 import (
    KEPT_HEAD_BYTES,
    KEPT_HEADS,
    MAX_BODY_BYTES,
    MAX_INTERIM_RESPONSES,
    ResponseMalformed,
    ResponseTooLong,
)
from agent.net.http.http2 import MAX_BLOCK_BYTES, MAX_FRAMES, MAX_IDLE_FRAMES, HTTP2Client, StreamReset
from agent.net.http.http2_frames import HTTP2Malformed

OK = (":status", "200")


def test_first_write_holds_everything() -> None:
    client = HTTP2Client()
    client.request(put(b"body"))
    octets = client.take()
    assert octets.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    first, window, head, data = frames(octets)
    assert first[:3] == (SETTINGS, 0, 0)
    assert first[3] == setting(1, 0) + setting(2, 0) + setting(4, MAX_BODY_BYTES + 16_384)
    assert window == (WINDOW_UPDATE, 0, 0, u32(2 * MAX_BODY_BYTES - 65_535))
    assert head[:3] == (HEADERS, END_HEADERS, 1)
    assert data == (DATA, END_STREAM, 1, b"body")
    assert client.take() == b""


def test_requests_use_one_stream_each() -> None:
    client = asked()
    for stream in (1, 3, 5):
        response = client.receive(answer(stream, b"command", ("content-length", "7"), ("server", "x")))
        assert response is not None
        assert response.status == 200
        assert response.headers == {"content-length": "7", "server": "x"}
        assert response.body == b"command"
        assert response.keep_alive
        with pytest.raises(TypeError):
            response.headers["a"] = "b"  # type: ignore[index]
        client.request(put(None))
        assert [each[:3] for each in frames(client.take())] == [(HEADERS, END_HEADERS | END_STREAM, stream + 2)]


def test_one_request_at_a_time() -> None:
    client = asked()
    assert not client.usable
    with pytest.raises(MisuseError):
        client.request(put())


def test_an_answer_without_a_body() -> None:
    response = asked().receive(headers(1, (":status", "401"), flags=END_HEADERS | END_STREAM))
    assert response is not None
    assert (response.status, response.body) == (401, b"")


def test_interim_answers_trailers_padding_and_priority() -> None:
    octets = (
        headers(1, (":status", "103"), ("link", "</a>"))
        + frame(HEADERS, END_HEADERS | PADDED | HAS_PRIORITY, 1, b"\x03" + b"\0" * 5 + block(OK) + b"\0" * 3)
        + frame(DATA, PADDED, 1, b"\x02ab\0\0")
        + frame(PRIORITY, 0, 1, b"\0" * 5)
        + frame(0x42, 0xFF, 1, b"unknown")
        + frame(DATA, PADDED, 1, b"\x00cd")
        + headers(1, ("grpc-status", "0"), flags=END_HEADERS | END_STREAM)
    )
    for response in (asked().receive(octets), by_byte(asked(), octets)):
        assert response is not None
        assert (response.status, response.body, response.headers) == (200, b"abcd", {})


UPDATE_AND_ANSWER = frame(WINDOW_UPDATE, 0, 3, u32(9)) + answer(3, b"body")


@pytest.mark.parametrize(
    ("octets", "error"),
    [
        (UPDATE_AND_ANSWER, None),
        (frame(WINDOW_UPDATE, 0, 0, u32(9)) + answer(3, b"body"), None),
        (frame(WINDOW_UPDATE, 7, 3, u32(2**31 + 9)) + answer(3, b"body"), None),
        (frame(WINDOW_UPDATE, 0, 3, u32(9)) + UPDATE_AND_ANSWER, None),
        (frame(RST_STREAM, 0, 1, u32(NO_ERROR)) + answer(3, b"body"), None),
        (frame(RST_STREAM, 0, 1, u32(NO_ERROR)) + UPDATE_AND_ANSWER, None),
        (UPDATE_AND_ANSWER + frame(RST_STREAM, 0, 3, u32(NO_ERROR)), None),
        (frame(RST_STREAM, 0, 3, u32(CANCEL)) + answer(3, b"body"), StreamReset),
        (frame(RST_STREAM, 0, 3 | 1 << 31, u32(CANCEL)) + answer(3, b"body"), StreamReset),
        (frame(RST_STREAM, 0, 1, u32(CANCEL) + b"1") + answer(3, b"body"), HTTP2Malformed),
        (frame(WINDOW_UPDATE, 0, 3, u32(0)) + answer(3, b"body"), HTTP2Malformed),
        (frame(WINDOW_UPDATE, 0, 3, u32(2**31 - 1)) + answer(3, b"body"), HTTP2Malformed),
        (frame(WINDOW_UPDATE, 0, 3, u32(9) + b"1") + answer(3, b"body"), HTTP2Malformed),
        (frame(WINDOW_UPDATE, 0, 5, u32(9)) + answer(3, b"body"), HTTP2Malformed),
        (frame(WINDOW_UPDATE, 0, 3, u32(9)) + answer(5, b"body"), HTTP2Malformed),
        (frame(WINDOW_UPDATE, 0, 3, u32(9)) + answer(3, b"body", status="20"), HTTP2Malformed),
    ],
)
def test_frames_before_an_answer_count_the_same_however_they_are_cut(
    octets: bytes, error: type[Exception] | None
) -> None:
    for feed in (HTTP2Client.receive, by_byte):
        client = asked()
        client.receive(answer(1))
        client.request(put())
        if error is not None:
            with pytest.raises(error):
                feed(client, octets)
            continue
        response = feed(client, octets)
        assert response is not None
        assert (response.status, response.body, response.keep_alive) == (200, b"body", True)
        assert client.usable


def test_a_head_in_continuations() -> None:
    parts = block(OK, ("a", "x" * 5000))
    octets = frame(HEADERS, END_STREAM, 1, parts[:9]) + frame(CONTINUATION, 0, 1, parts[9:4000])
    octets += frame(CONTINUATION, END_HEADERS, 1, parts[4000:])
    for response in (asked().receive(octets), by_byte(asked(), octets)):
        assert response is not None
        assert response.headers == {"a": "x" * 5000}


def test_a_repeated_head_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []

    def counted(octets: bytes) -> list[tuple[bytes, bytes]]:
        parsed.append(octets)
        return hpack.decode(octets)

    monkeypatch.setattr(http2_fields, "decode", counted)
    client = asked()
    for stream in range(1, 21, 2):
        assert client.receive(answer(stream, b"", ("x-parsed-once", "1"))) is not None
        client.request(put())
    assert len(parsed) == 1


def test_only_valid_and_short_heads_are_kept() -> None:
    kept = http2_fields._kept_head.cache_info()
    assert kept.maxsize == KEPT_HEADS == 256
    long = hpack.encode([(b":status", b"200"), (b"x-long", b"y" * (KEPT_HEAD_BYTES + 1))])
    assert http2_fields.response_head(long).status == 200
    with pytest.raises(ResponseMalformed):
        http2_fields.response_head(b"\x88\x88")
    assert http2_fields._kept_head.cache_info().currsize == kept.currsize


# What ends the connection: our GOAWAY has the code.

MALFORMED = {
    "no SETTINGS first": (frame(PING, 0, 0, b"12345678"), PROTOCOL_ERROR),
    "HTTP/1.1": (b"HTTP/1.1 400 Bad Request\r\n\r\n", PROTOCOL_ERROR),
    "an acknowledgement first": (frame(SETTINGS, ACK, 0), PROTOCOL_ERROR),
}
MALFORMED_LATER = {
    "frame too long": (frame(DATA, 0, 1, b"a" * 16_385), 6),
    "SETTINGS of 5 bytes": (frame(SETTINGS, 0, 0, b"12345"), 6),
    "SETTINGS on a stream": (frame(SETTINGS, 0, 1), PROTOCOL_ERROR),
    "SETTINGS with push": (frame(SETTINGS, 0, 0, setting(2, 1)), PROTOCOL_ERROR),
    "SETTINGS with a window": (frame(SETTINGS, 0, 0, setting(4, 2**31)), 3),
    "SETTINGS with small frames": (frame(SETTINGS, 0, 0, setting(5, 16_383)), PROTOCOL_ERROR),
    "an acknowledgement with values": (frame(SETTINGS, ACK, 0, setting(4, 1)), PROTOCOL_ERROR),
    "PING of 7 bytes": (frame(PING, 0, 0, b"1234567"), 6),
    "PING on a stream": (frame(PING, 0, 1, b"12345678"), PROTOCOL_ERROR),
    "GOAWAY of 7 bytes": (frame(GOAWAY, 0, 0, b"1234567"), 6),
    "RST_STREAM of 3 bytes": (frame(RST_STREAM, 0, 1, b"123"), 6),
    "RST_STREAM on stream 0": (frame(RST_STREAM, 0, 0, u32(0)), PROTOCOL_ERROR),
    "RST_STREAM on an idle stream": (frame(RST_STREAM, 0, 3, u32(0)), PROTOCOL_ERROR),
    "WINDOW_UPDATE of 0": (frame(WINDOW_UPDATE, 0, 0, u32(0)), PROTOCOL_ERROR),
    "WINDOW_UPDATE on an idle stream": (frame(WINDOW_UPDATE, 0, 3, u32(1)), PROTOCOL_ERROR),
    "a window too large": (frame(WINDOW_UPDATE, 0, 0, u32(2**31 - 1)), 3),
    "a stream's window too large": (frame(WINDOW_UPDATE, 0, 1, u32(2**31 - 1)), 3),
    "push": (frame(PUSH_PROMISE, END_HEADERS, 1, u32(2) + block(OK)), PROTOCOL_ERROR),
    "an answer on stream 0": (headers(0, OK), PROTOCOL_ERROR),
    "an answer on stream 2": (headers(2, OK), PROTOCOL_ERROR),
    "an answer on stream 3": (headers(3, OK), PROTOCOL_ERROR),
    "DATA on stream 0": (frame(DATA, 0, 0, b"a"), PROTOCOL_ERROR),
    "DATA before HEADERS": (frame(DATA, END_STREAM, 1, b"a"), PROTOCOL_ERROR),
    "padding past the end": (headers(1, OK) + frame(DATA, PADDED, 1, b"\x02a"), PROTOCOL_ERROR),
    "padding of nothing": (headers(1, OK) + frame(DATA, PADDED, 1, b""), PROTOCOL_ERROR),
    "a priority cut off": (frame(HEADERS, END_HEADERS | HAS_PRIORITY, 1, b"1234"), 6),
    "CONTINUATION alone": (frame(CONTINUATION, END_HEADERS, 1, block(OK)), PROTOCOL_ERROR),
    "a frame in a head": (frame(HEADERS, 0, 1, block(OK)) + frame(PING, 0, 0, b"12345678"), PROTOCOL_ERROR),
    "CONTINUATION of another": (frame(HEADERS, 0, 1, block(OK)) + frame(CONTINUATION, 4, 3, b""), PROTOCOL_ERROR),
    "a table": (frame(HEADERS, END_HEADERS, 1, b"\x3f\xe1\x1f\x88"), 9),
    "no status": (headers(1, ("server", "x")), PROTOCOL_ERROR),
    "no fields": (headers(1), PROTOCOL_ERROR),
    "status after a field": (headers(1, ("server", "x"), OK), PROTOCOL_ERROR),
    "two statuses": (headers(1, OK, OK), PROTOCOL_ERROR),
    "status of two digits": (headers(1, (":status", "20")), PROTOCOL_ERROR),
    "another pseudo-header": (headers(1, OK, (":path", "/")), PROTOCOL_ERROR),
    "upper case": (headers(1, OK, ("Server", "x")), PROTOCOL_ERROR),
    "a name with a space": (headers(1, OK, ("a b", "x")), PROTOCOL_ERROR),
    "a line end": (headers(1, OK, ("a", "b\r\nc: d")), PROTOCOL_ERROR),
    "Connection": (headers(1, OK, ("connection", "close")), PROTOCOL_ERROR),
    "Transfer-Encoding": (headers(1, OK, ("transfer-encoding", "chunked")), PROTOCOL_ERROR),
    "101": (headers(1, (":status", "101")), PROTOCOL_ERROR),
    "an interim answer as the end": (headers(1, (":status", "103"), flags=END_HEADERS | END_STREAM), PROTOCOL_ERROR),
    "pseudo-headers in trailers": (
        headers(1, OK) + headers(1, OK, flags=END_HEADERS | END_STREAM),
        PROTOCOL_ERROR,
    ),
    "a head after the head": (headers(1, OK) + headers(1, ("a", "b")), PROTOCOL_ERROR),
    "Content-Length too long": (answer(1, b"abc", ("content-length", "4")), PROTOCOL_ERROR),
    "Content-Length too short": (answer(1, b"abc", ("content-length", "2")), PROTOCOL_ERROR),
    "Content-Length without DATA": (
        headers(1, OK, ("content-length", "2"), flags=END_HEADERS | END_STREAM),
        PROTOCOL_ERROR,
    ),
    "Content-Length is no number": (answer(1, b"abc", ("content-length", "+3")), PROTOCOL_ERROR),
    "204 with DATA": (answer(1, b"abc", status="204"), PROTOCOL_ERROR),
}


@pytest.mark.parametrize(
    ("greeted", "octets", "code"),
    [(False, *each) for each in MALFORMED.values()] + [(True, *each) for each in MALFORMED_LATER.values()],
    ids=[*MALFORMED, *MALFORMED_LATER],
)
def test_what_is_malformed_ends_the_connection(greeted: bool, octets: bytes, code: int) -> None:
    for feed in (HTTP2Client.receive, by_byte):
        client = asked(greeted=greeted)
        with pytest.raises(ResponseMalformed):
            feed(client, octets)
        *_, last = frames(client.take())
        assert last == (GOAWAY, 0, 0, u32(0, code))
        assert not client.usable


def test_content_length_of_304_is_of_no_body() -> None:
    response = asked().receive(headers(1, (":status", "304"), ("content-length", "9"), flags=END_HEADERS | END_STREAM))
    assert response is not None
    assert response.status == 304


def test_a_breach_after_the_answer_does_not_lose_the_answer() -> None:
    client = asked()
    response = client.receive(answer(1, b"command") + headers(1, OK))
    assert response is not None
    assert (response.body, response.keep_alive) == (b"command", False)
    assert frames(client.take()) == [(GOAWAY, 0, 0, u32(0, 5))]  # STREAM_CLOSED


@pytest.mark.parametrize(
    "octets",
    [
        frame(HEADERS, 0, 1, b"\0" * 16_384)
        + frame(CONTINUATION, 0, 1, b"\0" * 16_384)
        + frame(CONTINUATION, 0, 1, b"\0"),
        headers(1, (":status", "100")) * (MAX_INTERIM_RESPONSES + 1),
        headers(1, OK, ("content-length", str(MAX_BODY_BYTES + 1))),
        headers(1, OK) + frame(DATA, 0, 1, b"a" * 16_384) * (MAX_BODY_BYTES // 16_384) + frame(DATA, 0, 1, b"a"),
    ],
    ids=["block", "interims", "announced body", "body"],
)
def test_what_is_too_long_ends_the_connection(octets: bytes) -> None:
    client = asked()
    with pytest.raises(ResponseTooLong):
        client.receive(octets)
    *_, last = frames(client.take())
    assert last == (GOAWAY, 0, 0, u32(0, ENHANCE_YOUR_CALM))


def test_what_is_at_a_limit_is_accepted() -> None:
    body = b"a" * MAX_BODY_BYTES
    octets = headers(1, (":status", "100")) * MAX_INTERIM_RESPONSES + headers(1, OK, ("content-length", str(len(body))))
    octets += b"".join(frame(DATA, 0, 1, body[:16_384]) for _ in range(len(body) // 16_384))
    response = asked().receive(octets + frame(DATA, END_STREAM, 1, b""))
    assert response is not None
    assert len(response.body) == len(body)
    fields = [(b"a", b"b" * (MAX_BLOCK_BYTES - 8))]
    parts = hpack.encode([(b":status", b"200"), *fields])
    assert len(parts) == MAX_BLOCK_BYTES
    octets = frame(HEADERS, END_STREAM, 1, parts[:16_384]) + frame(CONTINUATION, END_HEADERS, 1, parts[16_384:])
    assert asked().receive(octets) is not None


@pytest.mark.parametrize(
    "octets",
    [
        frame(PING, 0, 0, b"12345678"),
        frame(PING, ACK, 0, b"12345678"),
        frame(SETTINGS, 0, 0),
        frame(SETTINGS, ACK, 0),
        frame(WINDOW_UPDATE, 0, 0, u32(1)),
        frame(WINDOW_UPDATE, 0, 1, u32(1)),
        frame(PRIORITY, 0, 1, b"12345"),
        frame(0x42, 0, 0),
        frame(RST_STREAM, 0, 1, u32(NO_ERROR)),
        frame(GOAWAY, 0, 0, u32(99, NO_ERROR)),
        frame(DATA, 0, 1, b""),
    ],
    ids=lambda octets: f"type {octets[3]}, stream {octets[8]}",
)
def test_frames_without_an_answer_are_counted(octets: bytes) -> None:
    """1 MiB of them ends at the limit, after which nothing is read and nothing was sent."""
    client = asked()
    if octets[3] in (RST_STREAM, WINDOW_UPDATE):  # of a stream that has ended; the next one is awaited
        client.receive(answer(1))
        client.request(put())
        client.take()
    else:
        client.receive(headers(1, OK))
    with pytest.raises(ResponseMalformed, match=f"more than {MAX_FRAMES} frames"):
        client.receive(octets * (2**20 // len(octets)))
    sent = frames(client.take())
    assert sent[-1] == (GOAWAY, 0, 0, u32(0, ENHANCE_YOUR_CALM))
    assert len(sent) <= MAX_FRAMES + 1


def test_frames_of_an_idle_connection_are_counted() -> None:
    client = asked()
    client.receive(answer(1))
    with pytest.raises(ResponseMalformed, match=f"more than {MAX_IDLE_FRAMES} frames"):
        client.receive(frame(PING, 0, 0, b"12345678") * 60_000)
    assert len(frames(client.take())) == MAX_IDLE_FRAMES + 1


def test_the_count_of_frames_begins_again_with_each_request() -> None:
    client = asked()
    for stream in (1, 3, 5):
        client.receive(frame(PING, 0, 0, b"12345678") * (MAX_FRAMES - 1) + answer(stream))
        client.receive(frame(PING, 0, 0, b"12345678") * MAX_IDLE_FRAMES)
        assert frames(client.take()).count((PING, ACK, 0, b"12345678")) == MAX_FRAMES - 1 + MAX_IDLE_FRAMES
        client.request(put())
        client.take()


# How an answer, a stream and a connection end early.


def test_an_answer_before_the_request_is_sent_ends_in_cancel() -> None:
    """As nginx answers: before it has read the body, then RST_STREAM(NO_ERROR)."""
    client = asked(b"x" * 100_000)
    response = client.receive(answer(1, b"too large", status="413"))
    assert response is not None
    assert (response.status, response.body, response.keep_alive) == (413, b"too large", True)
    assert frames(client.take()) == [(RST_STREAM, 0, 1, u32(CANCEL))]
    assert client.receive(frame(RST_STREAM, 0, 1, u32(NO_ERROR)) + frame(WINDOW_UPDATE, 0, 0, u32(100_000))) is None
    assert client.receive(frame(WINDOW_UPDATE, 0, 1, u32(100_000))) is None
    assert client.take() == b""  # nothing more of the body
    client.request(put(b"next"))
    assert [each[:3] for each in frames(client.take())] == [(HEADERS, 4, 3), (DATA, END_STREAM, 3)]
    assert client.receive(answer(3)) is not None


def test_a_stream_that_the_server_reset_after_its_answer_is_not_reset_by_us() -> None:
    client = asked(b"x" * 100_000)
    response = client.receive(answer(1, status="413") + frame(RST_STREAM, 0, 1, u32(NO_ERROR)))
    assert response is not None
    assert client.take() == b""
    assert client.usable


def test_frames_of_a_stream_that_we_reset_are_ignored() -> None:
    client = asked(b"x" * 100_000)
    assert client.receive(answer(1, status="413")) is not None
    client.request(put())
    client.take()
    late = headers(1, OK) + frame(DATA, 0, 1, b"late") + frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 4, 1, b"\x88")
    response = client.receive(late + answer(3, b"command"))
    assert response is not None
    assert response.body == b"command"


@pytest.mark.parametrize("late", [headers(1, OK), frame(DATA, END_STREAM, 1, b"late")], ids=["HEADERS", "DATA"])
def test_frames_of_a_stream_that_the_server_reset_end_the_connection(late: bytes) -> None:
    client = asked()
    with pytest.raises(StreamReset):
        client.receive(headers(1, OK) + frame(RST_STREAM, 0, 1, u32(2)) + late)
    assert frames(client.take()) == [(GOAWAY, 0, 0, u32(0, 5))]
    assert not client.usable


@pytest.mark.parametrize("code", [NO_ERROR, 2, REFUSED_STREAM, CANCEL, 99])
def test_a_reset_request_fails_and_the_connection_stays(code: int) -> None:
    client = asked(b"x" * 100_000)
    with pytest.raises(StreamReset, match="RST_STREAM"):
        client.receive(headers(1, OK) + frame(RST_STREAM, 0, 1, u32(code)))
    assert client.unprocessed == (code == REFUSED_STREAM)
    assert client.usable
    client.receive(frame(WINDOW_UPDATE, 0, 0, u32(100_000)))
    client.request(put())
    assert [each[:3] for each in frames(client.take())] == [(HEADERS, 4, 3), (DATA, END_STREAM, 3)]
    assert client.receive(answer(3)) is not None


def test_goaway_before_the_last_answer() -> None:
    """As nginx at keepalive_requests: the answer follows, and the connection takes no more requests."""
    client = asked()
    assert client.receive(frame(GOAWAY, 0, 0, u32(1, NO_ERROR))) is None
    response = client.receive(answer(1, b"last"))
    assert response is not None
    assert (response.body, response.keep_alive) == (b"last", False)
    assert not client.usable


@pytest.mark.parametrize("last", [0, 1])
def test_a_request_past_the_last_stream_of_goaway_was_not_processed(last: int) -> None:
    client = asked()
    assert client.receive(answer(1)) is not None
    client.request(put())
    with pytest.raises(StreamReset, match="without processing the request: GOAWAY, ENHANCE_YOUR_CALM"):
        client.receive(frame(GOAWAY, 0, 0, u32(last, ENHANCE_YOUR_CALM) + b"why"))
    assert client.unprocessed
    assert not client.usable


def test_goaway_while_idle() -> None:
    client = asked()
    assert client.receive(answer(1)) is not None
    assert client.receive(frame(GOAWAY, 0, 0, u32(1, NO_ERROR))) is None
    assert client.going_away
    assert not client.usable


def test_no_concurrent_streams_allowed() -> None:
    """The first request is on its way before the limit is known; later ones wait for no change of it."""
    client = asked(greeted=False)
    assert client.receive(frame(SETTINGS, 0, 0, setting(3, 0))) is None
    response = client.receive(answer(1))
    assert response is not None
    assert not response.keep_alive
    assert not client.usable
    client.receive(frame(SETTINGS, 0, 0, setting(3, 1)))
    assert client.usable


def test_leaving() -> None:
    client = asked()
    client.receive(answer(1))
    client.leave()
    client.leave()
    assert frames(client.take()) == [(GOAWAY, 0, 0, u32(0, NO_ERROR))]
    assert not client.usable


def test_stream_numbers_end() -> None:
    client = asked()
    client.receive(answer(1))
    client._stream = 2**31 - 3
    assert client.usable
    client.request(put())
    response = client.receive(answer(2**31 - 1))
    assert response is not None
    assert not response.keep_alive
    assert not client.usable


# What the client sends.


def test_windows_of_the_server() -> None:
    client = HTTP2Client()
    client.request(put(b"x" * 100_000))
    sent = [each for each in frames(client.take()) if each[0] == DATA]
    assert [len(each[3]) for each in sent] == [16_384, 16_384, 16_384, 16_383]
    client.receive(frame(SETTINGS, 0, 0, setting(4, 1_000)))  # the stream's window is negative now
    client.receive(frame(WINDOW_UPDATE, 0, 0, u32(100_000)))
    assert [each[0] for each in frames(client.take())] == [SETTINGS]
    client.receive(frame(WINDOW_UPDATE, 0, 1, u32(64_535)))
    assert client.take() == b""  # it is 0
    client.receive(frame(WINDOW_UPDATE, 0, 1, u32(10)))
    assert frames(client.take()) == [(DATA, 0, 1, b"x" * 10)]
    client.receive(frame(SETTINGS, 0, 0, setting(4, 50_000)))
    rest = [each for each in frames(client.take()) if each[0] == DATA]
    assert sum(len(each[3]) for each in rest) == 100_000 - 65_535 - 10
    assert [each[1] for each in rest] == [0, 0, END_STREAM]
    assert client.receive(answer(1)) is not None
    client.request(put(b"y" * 50_001))  # the stream's window begins again, the connection's does not
    sent = [each for each in frames(client.take()) if each[0] == DATA]
    assert sum(len(each[3]) for each in sent) == 50_000


def test_windows_that_are_too_small_to_be_useful_end_the_connection() -> None:
    client = HTTP2Client()
    client.request(put(b"x" * 100_000))
    client.receive(frame(SETTINGS, 0, 0, setting(4, 0)) + frame(WINDOW_UPDATE, 0, 0, u32(2**30)))
    client.receive(frame(WINDOW_UPDATE, 0, 1, u32(65_535)))
    client.take()
    with pytest.raises(ResponseMalformed, match="no part of an answer"):
        client.receive(frame(WINDOW_UPDATE, 0, 1, u32(1)) * 2_000)
    assert len(frames(client.take())) < 500


def test_a_table_below_the_initial_size_is_acknowledged_in_the_next_block() -> None:
    client = asked(greeted=False)
    client.receive(frame(SETTINGS, 0, 0, setting(1, 0)) + answer(1))
    client.take()
    for first in (b"\x20", b"\x02"):  # the change of the size, once; a literal :method
        client.request(put(None))
        ((_, _, stream, parts),) = frames(client.take())
        assert parts[:1] == first
        assert client.receive(answer(stream)) is not None


def test_a_head_that_does_not_fit_in_a_frame() -> None:
    client = HTTP2Client()
    client.request(put(b"body", **{"Mdm-Signature": "x" * 40_000}))
    sent = frames(client.take()[OPENING_BYTES:])
    assert [each[:2] for each in sent] == [
        (HEADERS, 0),
        (CONTINUATION, 0),
        (CONTINUATION, END_HEADERS),
        (DATA, END_STREAM),
    ]
    assert all(len(each[3]) <= 16_384 for each in sent)


def test_what_arrives_renews_the_connections_window() -> None:
    client, renewed = asked(), 0
    body = frame(DATA, 0, 1, b"a" * 16_384) * 256
    for stream in range(1, 21, 2):  # 4 MiB each
        octets = headers(stream, OK) + body.replace(b"\0\0\0\0\1", b"\0\0\0\0" + bytes((stream,)))
        assert client.receive(octets + frame(DATA, END_STREAM, stream)) is not None
        renewed += sum(int.from_bytes(each[3], "big") for each in frames(client.take()) if each[0] == WINDOW_UPDATE)
        client.request(put())
        client.take()
    assert 10 * 2**22 - MAX_BODY_BYTES < renewed <= 10 * 2**22


def test_padding_renews_the_streams_window() -> None:
    client = asked()
    client.receive(headers(1, OK))
    for _ in range(200):
        client.receive(frame(DATA, PADDED, 1, b"\xff" + b"a" + b"\0" * 255))
    renewed = [each for each in frames(client.take()) if each[0] == WINDOW_UPDATE and each[2] == 1]
    assert sum(int.from_bytes(each[3], "big") for each in renewed) == 200 * 256 // 16_384 * 16_384


def test_a_client_keeps_nothing_of_earlier_requests() -> None:
    client = asked()
    client.receive(answer(1, b"command"))
    before = size_of(client)
    for stream in range(3, 4_003, 2):
        client.request(put())
        client.take()
        assert client.receive(answer(stream, b"command")) is not None
    assert size_of(client) <= before + 64  # of integers that no longer are small ones


def size_of(client: HTTP2Client) -> int:
    values = [getattr(client, name) for name in HTTP2Client.__slots__]
    sender = client._sender
    values += [getattr(sender, name) for name in type(sender).__slots__]
    return sum(sys.getsizeof(value) for value in (client, *values))
