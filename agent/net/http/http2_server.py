"""HTTP/2 for a server with many requests at a time in progress. No I/O. Source: RFC 9113.

``HTTP2Server`` is one connection. ``receive`` takes what the client sends, and tells the owner what it means;
``send_headers`` and ``send_data`` answer, and ``take`` returns the bytes to be sent. The client is untrusted: what
arrives is bounded in size, its cost is proportional to its size, and the owner counts the frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from agent.net.http.hpack import EMPTY_TABLE, TABLE_BYTES, BlockMalformed, BlockTooLong, Decoder, encode
from agent.net.http.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    FRAME_HEADER_BYTES,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    INITIAL_WINDOW,
    MAX_FRAME_BYTES,
    MAX_STREAM,
    MAX_WINDOW,
    PING,
    PREFACE,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    HTTP2Malformed,
    Setting,
    frame,
    numbers,
    rst_stream,
    settings,
    settings_of,
    unpadded,
    window_update,
)
from agent.net.http.http2_requests import check_request_trailers, request_length

MAX_BLOCK_BYTES = 32 * 1024  # of a field block with its continuations

_PRIORITY = 2
_PRIORITY_BYTES = 5
_SETTINGS_ACK = frame(SETTINGS, ACK, 0, b"")


class Owner(Protocol):
    """What the connection tells of. It may answer, reset and close from within these calls."""

    def frame_came(self) -> bool:
        """A frame, or a part of one, came; False: the connection takes no more."""

    def requested(self, stream: int, fields: list[tuple[bytes, bytes]]) -> None:
        """The header section of a request."""

    def body_came(self, stream: int, octets: bytes) -> None:
        """A part of its body."""

    def request_ended(self, stream: int) -> None:
        """The request is complete."""

    def stream_reset(self, stream: int) -> None:
        """The client reset the stream, or broke its rules: no answer can be sent any more."""

    def window_opened(self, stream: int) -> None:
        """A stream (0: the connection) can take more bytes."""

    def settings_came(self, *, wider: bool) -> None:
        """SETTINGS; ``wider``: with larger windows for all streams."""

    def client_leaves(self) -> None:
        """GOAWAY of the client."""


class _Stream:
    """A stream that is not closed: the request is not complete, or the answer is not."""

    __slots__ = ("consumed", "left", "receiving", "sending", "window")

    def __init__(self, window: int, left: int | None) -> None:
        self.window = window  # how much of the answer the client takes
        self.left = left  # of the request's body, by its Content-Length
        self.receiving = self.sending = True
        self.consumed = 0  # bytes of the body for which no WINDOW_UPDATE was sent


class HTTP2Server:
    """The connection. ``most`` is how many requests may be in progress, ``list_bytes`` the longest list of fields."""

    def __init__(self, owner: Owner, most: int, list_bytes: int) -> None:
        self.max_outbound_frame_size = MAX_FRAME_BYTES  # the least that a client takes (RFC 9113, 4.2)
        self.outbound_flow_control_window = INITIAL_WINDOW
        self._owner = owner
        self._most = most
        self._list_bytes = list_bytes
        self._out: list[bytes] = []
        self._buffer: bytes | bytearray = b""
        self._needed = 0  # bytes in the buffer, before there is a whole frame
        self._preface_left = len(PREFACE)
        self._greeted = False  # the client's SETTINGS came
        self._decoder = Decoder()
        self._streams: dict[int, _Stream] = {}
        self._last = 0  # the highest stream of the client
        self._initial = INITIAL_WINDOW  # of a new stream, for us
        self._consumed = 0
        self._block: bytearray | None = None  # a header section that continues
        self._block_stream, self._block_ends = 0, False
        self._shrink_table = False

    @property
    def streams(self) -> int:
        """How many requests are in progress."""
        return len(self._streams)

    def is_open(self, stream: int) -> bool:
        """Whether an answer can be sent on a stream."""
        found = self._streams.get(stream)
        return found is not None and found.sending

    def start(self) -> None:
        """Send SETTINGS."""
        values = {Setting.MAX_CONCURRENT_STREAMS: self._most, Setting.MAX_HEADER_LIST_SIZE: self._list_bytes}
        self._out.append(settings(values))

    def take(self) -> bytes:
        """The bytes to be sent; they are whole frames."""
        octets = b"".join(self._out)
        self._out.clear()
        return octets

    def receive(self, octets: bytes) -> None:
        """Take bytes. Raises HTTP2Malformed; the connection is then to be closed with its code."""
        if self._preface_left:
            octets = self._read_preface(octets)
        if self._buffer:
            self._buffer += octets  # in place: it is a bytearray
            if len(self._buffer) < self._needed:
                self._owner.frame_came()
                return
            octets, self._buffer = bytes(self._buffer), b""
        at, end, needed = 0, len(octets), FRAME_HEADER_BYTES
        while end - at >= FRAME_HEADER_BYTES:
            head, flags, stream = FRAME_HEADER.unpack_from(octets, at)
            kind, length = head & 0xFF, head >> 8
            if length > MAX_FRAME_BYTES:
                raise HTTP2Malformed(f"a frame has {length} bytes", ErrorCode.FRAME_SIZE_ERROR)
            start = at + FRAME_HEADER_BYTES
            if start + length > end:
                needed = FRAME_HEADER_BYTES + length
                break
            at = start + length
            if not self._owner.frame_came():
                return
            self._frame(kind, flags, stream & MAX_STREAM, octets, start, at)
        if at < end:
            self._buffer, self._needed = bytearray(octets[at:]), needed
            self._owner.frame_came()

    def send_headers(self, stream: int, fields: Iterable[tuple[bytes, bytes]], *, end_stream: bool) -> None:
        """The header section of an answer; nothing if the stream is closed."""
        found = self._streams.get(stream)
        if found is None:
            return
        block = encode(fields)
        if self._shrink_table:  # RFC 7541, 4.2
            block, self._shrink_table = EMPTY_TABLE + block, False
        self._out.append(frame(HEADERS, END_HEADERS | (END_STREAM if end_stream else 0), stream, block))
        if end_stream:
            self._sent(stream, found)

    def send_data(self, stream: int, octets: bytes, *, end_stream: bool) -> None:
        """A part of a body, which the windows allow; nothing if the stream is closed."""
        found = self._streams.get(stream)
        if found is None:
            return
        found.window -= len(octets)
        self.outbound_flow_control_window -= len(octets)
        self._out.append(frame(DATA, END_STREAM if end_stream else 0, stream, octets))
        if end_stream:
            self._sent(stream, found)

    def local_flow_control_window(self, stream: int) -> int:
        """How many bytes of a body can be sent now."""
        found = self._streams.get(stream)
        return 0 if found is None else min(found.window, self.outbound_flow_control_window)

    def reset_stream(self, stream: int, code: ErrorCode) -> None:
        """End a stream."""
        if self._streams.pop(stream, None) is not None:
            self._out.append(rst_stream(stream, code))

    def close(self, code: ErrorCode, last: int, text: bytes = b"") -> None:
        """Send GOAWAY: ``last`` is the last stream that was processed."""
        self._out.append(frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + int(code).to_bytes(4, "big") + text))

    def _sent(self, stream: int, found: _Stream) -> None:
        found.sending = False
        if not found.receiving:
            del self._streams[stream]

    def _read_preface(self, octets: bytes) -> bytes:
        at = len(PREFACE) - self._preface_left
        expected = PREFACE[at : at + len(octets)]
        if octets[: len(expected)] != expected:
            raise HTTP2Malformed(f"expected the preface of HTTP/2, found {octets[:80]!r}")
        self._preface_left -= len(expected)
        return octets[len(expected) :]

    def _frame(self, kind: int, flags: int, stream: int, octets: bytes, at: int, stop: int) -> None:
        if self._block is not None and (kind != CONTINUATION or stream != self._block_stream):
            raise HTTP2Malformed("expected CONTINUATION of a header section, found another frame")
        if not self._greeted and kind != SETTINGS:
            raise HTTP2Malformed("expected SETTINGS of HTTP/2 first, found another frame")
        if kind == DATA:
            self._data(flags, stream, octets, at, stop)
        elif kind == HEADERS:
            self._headers(flags, stream, octets, at, stop)
        elif kind == CONTINUATION:
            self._continuation(flags, octets[at:stop])
        else:
            self._control(kind, flags, stream, octets[at:stop])

    # Requests.

    def _opened(self, stream: int) -> _Stream | None:
        """A stream of the client's; None if it is closed. Raises HTTP2Malformed if it was never opened."""
        if not stream & 1 or stream > self._last:
            raise HTTP2Malformed(f"a frame on stream {stream}, which is not open")
        return self._streams.get(stream)

    def _headers(self, flags: int, stream: int, octets: bytes, at: int, stop: int) -> None:
        at, stop = unpadded(flags, octets, at, stop)
        if not stream & 1:
            raise HTTP2Malformed(f"a request on stream {stream}")
        if flags & HAS_PRIORITY:
            _check_priority(stream, octets[at : min(stop, at + _PRIORITY_BYTES)])
            at += _PRIORITY_BYTES
        if flags & END_HEADERS:
            self._section(stream, octets[at:stop], ends=bool(flags & END_STREAM))
        else:
            self._block, self._block_stream = bytearray(octets[at:stop]), stream
            self._block_ends = bool(flags & END_STREAM)

    def _continuation(self, flags: int, part: bytes) -> None:
        block = self._block
        if block is None:
            raise HTTP2Malformed("CONTINUATION without a header section")
        block += part
        if len(block) > MAX_BLOCK_BYTES:
            text = f"a header section is longer than {MAX_BLOCK_BYTES} bytes"
            raise HTTP2Malformed(text, ErrorCode.ENHANCE_YOUR_CALM)
        if flags & END_HEADERS:
            self._block = None
            self._section(self._block_stream, bytes(block), ends=self._block_ends)

    def _section(self, stream: int, block: bytes, *, ends: bool) -> None:
        """A whole header section: of a request, or its trailers."""
        try:
            fields = self._decoder.decode(block, self._list_bytes)
        except BlockTooLong as error:
            raise HTTP2Malformed(str(error), ErrorCode.ENHANCE_YOUR_CALM) from None
        except BlockMalformed as error:
            raise HTTP2Malformed(str(error), ErrorCode.COMPRESSION_ERROR) from None
        if stream <= self._last:
            self._trailers(stream, fields, ends=ends)
            return
        if len(self._streams) >= self._most:
            raise HTTP2Malformed(f"more than {self._most} requests at a time")
        length = request_length(fields)
        if ends and length:
            raise HTTP2Malformed(f"expected a body of {length} bytes, found none")
        self._last = stream
        opened = self._streams[stream] = _Stream(self._initial, length)
        self._owner.requested(stream, fields)
        if ends:
            self._end(stream, opened)

    def _trailers(self, stream: int, fields: list[tuple[bytes, bytes]], *, ends: bool) -> None:
        found = self._streams.get(stream)
        if found is None or not found.receiving:
            self._closed(stream, found)
            return
        check_request_trailers(fields)
        if not ends:
            raise HTTP2Malformed("a second header section that does not end the request")
        self._end(stream, found)

    def _data(self, flags: int, stream: int, octets: bytes, at: int, stop: int) -> None:
        length = stop - at
        at, stop = unpadded(flags, octets, at, stop)
        found = self._opened(stream)
        # The owner takes every byte at once, so that the client's windows are full again but for what is not told yet.
        self._consumed += length
        if self._consumed > INITIAL_WINDOW:
            raise HTTP2Malformed("DATA beyond the window of the connection", ErrorCode.FLOW_CONTROL_ERROR)
        if self._consumed > INITIAL_WINDOW // 2:
            self._out.append(window_update(0, self._consumed))
            self._consumed = 0
        if found is None or not found.receiving:
            self._closed(stream, found)
            return
        found.consumed += length
        if found.consumed > INITIAL_WINDOW:
            raise HTTP2Malformed("DATA beyond the window of its stream", ErrorCode.FLOW_CONTROL_ERROR)
        ends = bool(flags & END_STREAM)
        if found.consumed > INITIAL_WINDOW // 2 and not ends:
            self._out.append(window_update(stream, found.consumed))
            found.consumed = 0
        if found.left is not None:
            found.left -= stop - at
            if found.left < 0:
                raise HTTP2Malformed("a body is longer than its content-length")
        if stop > at:
            self._owner.body_came(stream, octets[at:stop])
        if ends and stream in self._streams:
            self._end(stream, found)

    def _end(self, stream: int, found: _Stream) -> None:
        if found.left:
            raise HTTP2Malformed(f"a body is {found.left} bytes shorter than its content-length")
        found.receiving = False
        if not found.sending:
            del self._streams[stream]
        self._owner.request_ended(stream)

    def _closed(self, stream: int, found: _Stream | None) -> None:
        """A frame of a request that is complete, or was reset. Its stream is closed."""
        self._out.append(rst_stream(stream, ErrorCode.STREAM_CLOSED))
        if found is not None:
            self._drop(stream)

    def _drop(self, stream: int) -> None:
        del self._streams[stream]
        self._owner.stream_reset(stream)

    # The other frames.

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self._window_update(stream, payload)
        elif kind == RST_STREAM:
            numbers(payload, 1, "RST_STREAM")
            if self._opened(stream) is not None:
                self._drop(stream)
        elif kind == _PRIORITY:
            if not stream:
                raise HTTP2Malformed("PRIORITY of the connection")
            _check_priority(stream, payload)
        elif kind == PUSH_PROMISE:
            raise HTTP2Malformed("PUSH_PROMISE of a client")
        elif kind in (SETTINGS, PING, GOAWAY):
            if stream:
                raise HTTP2Malformed(f"expected a frame of type {kind} on stream 0, found stream {stream}")
            if kind == SETTINGS:
                self._settings(flags, payload)
            elif kind == GOAWAY:
                numbers(payload, 2, "GOAWAY")
                self._owner.client_leaves()
            else:
                numbers(payload, 2, "PING")
                if not flags & ACK:
                    self._out.append(frame(PING, ACK, 0, payload))

    def _window_update(self, stream: int, payload: bytes) -> None:
        increment = numbers(payload, 1, "WINDOW_UPDATE")[0] & MAX_WINDOW
        if not increment:
            raise HTTP2Malformed("a WINDOW_UPDATE of 0 bytes")
        if not stream:
            self.outbound_flow_control_window = _within(self.outbound_flow_control_window + increment)
            self._owner.window_opened(0)
            return
        found = self._opened(stream)
        if found is None:
            return
        found.window += increment
        if found.window > MAX_WINDOW:  # RFC 9113, 6.9.1: an error of the stream
            self._out.append(rst_stream(stream, ErrorCode.FLOW_CONTROL_ERROR))
            self._drop(stream)
        else:
            self._owner.window_opened(stream)

    def _settings(self, flags: int, payload: bytes) -> None:
        values = settings_of(payload)
        if flags & ACK:
            if values or not self._greeted:
                raise HTTP2Malformed(
                    "expected an acknowledgement of SETTINGS that is empty, and not the first frame",
                    ErrorCode.FRAME_SIZE_ERROR,
                )
            return
        self._greeted = True
        before = self._initial
        for name, value in values:
            match name:
                case Setting.HEADER_TABLE_SIZE:
                    self._shrink_table = self._shrink_table or value < TABLE_BYTES
                case Setting.ENABLE_PUSH if value > 1:
                    raise HTTP2Malformed(f"expected SETTINGS_ENABLE_PUSH 0 or 1, found {value}")
                case Setting.INITIAL_WINDOW_SIZE:
                    self._initial_window(value)
                case Setting.MAX_FRAME_SIZE if not MAX_FRAME_BYTES <= value < 2**24:
                    raise HTTP2Malformed(f"expected SETTINGS_MAX_FRAME_SIZE from 2^14 to 2^24 - 1, found {value}")
        self._out.append(_SETTINGS_ACK)
        self._owner.settings_came(wider=self._initial > before)

    def _initial_window(self, size: int) -> None:
        """RFC 9113, 6.9.2: the windows of all streams change, and may be below zero."""
        if size > MAX_WINDOW:
            raise HTTP2Malformed(f"a window of {size} bytes", ErrorCode.FLOW_CONTROL_ERROR)
        change, self._initial = size - self._initial, size
        if change:
            for each in self._streams.values():
                each.window = _within(each.window + change)


def _check_priority(stream: int, payload: bytes) -> None:
    if len(payload) != _PRIORITY_BYTES:
        raise HTTP2Malformed(f"expected a priority of 5 bytes, found {len(payload)}", ErrorCode.FRAME_SIZE_ERROR)
    if int.from_bytes(payload[:4], "big") & MAX_STREAM == stream:
        raise HTTP2Malformed(f"stream {stream} depends on itself")


def _within(window: int) -> int:
    if window > MAX_WINDOW:
        raise HTTP2Malformed(f"a window of {window} bytes", ErrorCode.FLOW_CONTROL_ERROR)
    return window
