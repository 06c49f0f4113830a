"""HTTP/2 for a server: the same calls however its bytes are cut, and errors where the h2 library has them."""

from __future__ import annotations

import itertools
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import hpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.net.http.hpack import BlockMalformed, BlockTooLong, Decoder, encode
from agent.net.http.http2_frames import MAX_FRAME_BYTES, PREFACE, ErrorCode, HTTP2Malformed
from agent.net.http.http2_server import HTTP2Server

GREETING = PREFACE + b"\0\0\0\4\0\0\0\0\0"
HEAD = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"test"), (b":path", b"/3/device/0")]


def frame(kind: int, stream: int, body: bytes = b"", flags: int = 0) -> bytes:
    """A frame (RFC 9113, 4.1)."""
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


class Calls:
    """An owner that notes what it is told."""

    def __init__(self) -> None:
        self.found: list[tuple[Any, ...]] = []
        self.server = HTTP2Server(self, 100, 8000)
        self.server.start()

    def frame_came(self) -> bool:
        """There is no limit."""
        return True

    def requested(self, stream: int, fields: list[tuple[bytes, bytes]]) -> None:
        """Note it."""
        self.found.append(("request", stream, tuple(fields)))

    def body_came(self, stream: int, octets: bytes) -> None:
        """Note it."""
        self.found.append(("body", stream, octets))

    def request_ended(self, stream: int) -> None:
        """Note it."""
        self.found.append(("end", stream))

    def stream_reset(self, stream: int) -> None:
        """Note it."""
        self.found.append(("reset", stream))

    def window_opened(self, stream: int) -> None:
        """Note it."""
        self.found.append(("window", stream))

    def settings_came(self, *, wider: bool) -> None:
        """Note it."""
        self.found.append(("settings", wider))

    def client_leaves(self) -> None:
        """Note it."""
        self.found.append(("leaves",))

    def error(self, octets: bytes) -> ErrorCode | None:
        """Receive these bytes; the code of the error."""
        try:
            self.server.receive(octets)
        except HTTP2Malformed as error:
            return error.code
        return None


def head(*extra: tuple[bytes, bytes]) -> bytes:
    return encode([*HEAD, *extra])


REQUEST = frame(1, 1, head(), 4)
FRAMES = st.one_of(
    st.sampled_from(
        [
            frame(1, 1, head(), 5), frame(1, 1, head(), 4), frame(1, 3, head(), 4), frame(1, 3, head(), 0),
            frame(9, 3, b"", 4), frame(0, 1, b"body"), frame(0, 1, b"end", 1), frame(0, 3, b"\2body\0\0", 8),
            frame(0, 3, b"", 1), frame(3, 1, bytes(4)), frame(3, 3, bytes(4)), frame(8, 0, b"\0\0\0\1"),
            frame(8, 1, b"\0\0\0\1"), frame(8, 3, b"\x7f\xff\xff\xff"), frame(4, 0), frame(6, 0, bytes(8)),
            frame(4, 0, b"\0\4\0\0\0\1"), frame(4, 0, b"\0\2\0\0\0\2"), frame(4, 0, b"\0\5\0\0\0\1"),
            frame(2, 5, b"\0\0\0\1\1"), frame(200, 7, b"x"), frame(7, 0, bytes(8)), frame(1, 5, head(), 0x25),
            frame(1, 7, head((b"content-length", b"4")), 4), frame(0, 7, b"body", 1), frame(0, 7, b"bodies", 1),
            frame(1, 7, encode([(b"trailer", b"x")]), 5),
        ]
    ),
    st.builds(frame, st.integers(0, 10), st.integers(0, 8), st.binary(max_size=12), st.integers(0, 255)),
)  # fmt: skip


@given(st.lists(FRAMES, max_size=8), st.data())
def test_calls_do_not_depend_on_how_the_bytes_are_cut(frames: list[bytes], draw: st.DataObject) -> None:
    octets = GREETING + b"".join(frames)
    whole, pieces = Calls(), Calls()
    error = whole.error(octets)
    cuts = sorted(draw.draw(st.sets(st.integers(0, len(octets)))) | {0, len(octets)})
    errors = (pieces.error(octets[begin:end]) for begin, end in itertools.pairwise(cuts))
    assert next((each for each in errors if each is not None), None) == error
    assert pieces.found == whole.found
    assert pieces.server.take() == whole.server.take()


@given(st.lists(FRAMES, max_size=8))
@example([frame(1, 3, head(), 5), frame(1, 1, head(), 5)])
def test_what_the_h2_library_refuses_is_refused(frames: list[bytes]) -> None:
    ours = Calls()
    theirs = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    theirs.initiate_connection()
    assert ours.error(GREETING) is None
    theirs.receive_data(GREETING)
    for each in frames:
        requested = sum(found[0] == "request" for found in ours.found)
        try:
            events = theirs.receive_data(each)
        except h2.exceptions.H2Error:
            # Only of a stream that is closed we are content with a reset of it.
            assert ours.error(each) is not None or sum(found[0] == "request" for found in ours.found) == requested
            return
        if ours.error(each) is not None:
            return  # we may be stricter
        opened = sum(isinstance(event, h2.events.RequestReceived) for event in events)
        assert sum(found[0] == "request" for found in ours.found) - requested == opened


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (b"GET / HTTP/1.1\r\n", ErrorCode.PROTOCOL_ERROR),
        (PREFACE + REQUEST, ErrorCode.PROTOCOL_ERROR),  # before SETTINGS
        (GREETING + frame(0, 1), ErrorCode.PROTOCOL_ERROR),  # of an idle stream
        (GREETING + frame(1, 2, head(), 4), ErrorCode.PROTOCOL_ERROR),
        (GREETING + frame(1, 1, head(), 0) + frame(6, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (GREETING + frame(1, 1, b"\xff\xff\xff", 4), ErrorCode.COMPRESSION_ERROR),
        (GREETING + frame(1, 1, head((b"x", b"y" * 8000)), 4), ErrorCode.ENHANCE_YOUR_CALM),
        (GREETING + frame(1, 1, head(), 0) + frame(9, 1, bytes(16_384)) * 2, ErrorCode.ENHANCE_YOUR_CALM),
        (GREETING + (MAX_FRAME_BYTES + 1).to_bytes(3, "big") + bytes(6), ErrorCode.FRAME_SIZE_ERROR),
        (GREETING + b"".join(frame(1, n, head(), 4) for n in range(1, 203, 2)), ErrorCode.PROTOCOL_ERROR),
        (GREETING + REQUEST + frame(0, 1, bytes(16_384)) * 3, None),  # its windows are renewed
        (GREETING + frame(8, 0, b"\x7f\xff\xff\xff"), ErrorCode.FLOW_CONTROL_ERROR),
        (GREETING + frame(8, 0, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        (GREETING + frame(4, 0, b"\0\4\x80\0\0\0"), ErrorCode.FLOW_CONTROL_ERROR),
        (GREETING + frame(4, 0, b"\0\5\0\0\0\1"), ErrorCode.PROTOCOL_ERROR),
        (GREETING + frame(4, 0, b"\0"), ErrorCode.FRAME_SIZE_ERROR),
        (GREETING + frame(5, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        (GREETING + frame(2, 1, b"\0\0\0\1\1"), ErrorCode.PROTOCOL_ERROR),
        (GREETING + frame(1, 1, head((b"content-length", b"9")), 4) + frame(0, 1, b"x", 1), ErrorCode.PROTOCOL_ERROR),
        (GREETING + frame(1, 1, head((b"content-length", b"0")), 4) + frame(0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
        (GREETING + frame(1, 1, head((b"te", b"gzip")), 4), ErrorCode.PROTOCOL_ERROR),
        (GREETING + frame(1, 1, head((b"host", b"other")), 4), ErrorCode.PROTOCOL_ERROR),
        (GREETING + frame(1, 1, head((b"x", b" y")), 4), ErrorCode.PROTOCOL_ERROR),
        (GREETING + frame(1, 1, encode(HEAD[1:]), 4), ErrorCode.PROTOCOL_ERROR),
        (GREETING + frame(1, 1, encode([(b"x", b"y"), *HEAD]), 4), ErrorCode.PROTOCOL_ERROR),
        (GREETING + REQUEST + frame(1, 1, encode([(b"x", b"y")]), 4), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_broken_bytes_have_their_error(octets: bytes, code: ErrorCode | None) -> None:
    assert Calls().error(octets) == code


def test_windows_of_a_long_body_are_renewed() -> None:
    calls = Calls()
    assert calls.error(GREETING + REQUEST + frame(0, 1, bytes(16_384)) * 100) is None
    sent = calls.server.take()
    for stream in (0, 1):
        renewed = sum(
            int.from_bytes(sent[at + 9 : at + 13], "big")
            for at in range(len(sent))
            if sent[at : at + 9] == b"\0\0\4\10\0" + stream.to_bytes(4, "big")
        )
        assert 100 * 16_384 - 65_535 <= renewed <= 100 * 16_384


def test_answer_after_a_smaller_header_table_begins_with_its_size() -> None:
    calls = Calls()
    assert calls.error(GREETING + frame(4, 0, b"\0\1\0\0\0\0") + frame(1, 1, head(), 5)) is None
    calls.server.take()
    calls.server.send_headers(1, [(b":status", b"200")], end_stream=True)
    assert calls.server.take() == frame(1, 1, b"\x20\x88", 5)


FIELDS = st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.binary(max_size=90)), max_size=12)


@given(st.lists(FIELDS, min_size=1, max_size=6), st.integers(0, 4096))
def test_decoder_reads_what_the_hpack_library_writes(blocks: list[list[tuple[bytes, bytes]]], size: int) -> None:
    encoder, decoder = hpack.Encoder(), Decoder()
    for number, fields in enumerate(blocks):
        if number == 1:
            encoder.header_table_size = size
        assert decoder.decode(encoder.encode(fields), 100_000) == fields


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_decoder_refuses_or_reads_any_bytes_as_the_hpack_library(blocks: list[bytes]) -> None:
    decoder, other = Decoder(), hpack.Decoder()
    for block in blocks:
        try:
            found = decoder.decode(block, 8000)
        except BlockTooLong:
            return
        except BlockMalformed:
            return
        assert found == [(bytes(name), bytes(value)) for name, value in other.decode(block, raw=True)]
