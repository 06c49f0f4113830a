"""HTTP/2 for a client that has one request at a time in progress. No I/O. Source: RFC 9113.

``HTTP2Client`` is one connection: ``request`` and ``receive`` take what goes in, ``take`` returns the bytes to be sent.
What arrives is bounded in size and in number, and the time for it is proportional to its size, however it is cut.
"""

from __future__ import annotations

from agent.errors import MisuseError
from agent.net.http.hpack import EMPTY_TABLE
from agent.net.http.http1 import MAX_BODY_BYTES, MAX_INTERIM_RESPONSES, Response, ResponseMalformed, ResponseTooLong
from agent.net.http.http2_answers import CommonAnswer, common_answer
from agent.net.http.http2_fields import NO_BODY, NO_HEAD, check_trailers, response_head
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
    PING,
    PREFACE,
    PUSH_PROMISE,
    RST_STREAM,
    RST_STREAM_BYTES,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    HTTP2Malformed,
    Setting,
    code_name,
    frame,
    goaway,
    header_frames,
    increment_of,
    numbers,
    rst_stream,
    settings,
    settings_of,
    unpadded,
    whole_request,
    window_update,
)
from agent.net.http.http2_sending import BodySender
from agent.net.http.request import Request
from agent.net.transport.errors import ConnectionBroken

MAX_BLOCK_BYTES = 32 * 1024  # of a field block with its continuations, as a head of HTTP/1.1
MAX_FRAMES = 100  # ours: frames during one request that are no part of its answer, and empty ones
MAX_IDLE_FRAMES = 1000  # ours: from the answer to the next request
_BYTES_A_FRAME = 256  # ours: … and one more for so many bytes of the request's body, for its WINDOW_UPDATEs

# More than the longest body, so that a longer one is noticed; the connection's window is then renewed by half of it.
_STREAM_WINDOW = MAX_BODY_BYTES + MAX_FRAME_BYTES
_WINDOW = 2 * MAX_BODY_BYTES
_LAST_STREAM = MAX_STREAM - 1  # no request follows the one on it
_DEFAULT_TABLE = 4096  # RFC 9113, 6.5.2

_OPENING = (
    PREFACE
    + settings(
        {Setting.HEADER_TABLE_SIZE: 0, Setting.ENABLE_PUSH: 0, Setting.INITIAL_WINDOW_SIZE: _STREAM_WINDOW},
    )
    + window_update(0, _WINDOW - INITIAL_WINDOW)
)
_SETTINGS_ACK = frame(SETTINGS, ACK, 0, b"")


class StreamReset(ConnectionBroken):
    """The server ended the stream of a request, or does not process it, without an answer."""

    kind = "http2_reset"


class HTTP2Client:
    """The client's end of one connection."""

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_stream",
        "_body",
        "_buffer",
        "_cancelled",
        "_consumed",
        "_frames",
        "_frames_allowed",
        "_fresh",
        "_greeted",
        "_head",
        "_interims",
        "_longest",
        "_max_body",
        "_max_streams",
        "_needed",
        "_out",
        "_padding",
        "_received",
        "_reset",
        "_sender",
        "_shrink_table",
        "_stream",
        "going_away",
        "started",
        "unprocessed",
        "usable",
        "waiting",
    )

    def __init__(self, max_body: int = MAX_BODY_BYTES) -> None:
        self._max_body = max_body
        self._longest = min(max_body, MAX_FRAME_BYTES)  # body of an answer that is read at once
        self._out: list[bytes] = []
        self._sender = BodySender(self._out)
        self._buffer: bytes | bytearray = b""  # the beginning of a frame
        self._needed = FRAME_HEADER_BYTES  # bytes with which _buffer is worth a look
        self._greeted = False  # the server's first SETTINGS arrived
        self._block: bytearray | None = None  # a header section whose end is awaited
        self._block_flags = self._block_stream = 0
        self._stream = -1  # the current or last one; the first is 1
        self._cancelled = 0  # the last stream that we reset, on which frames can still arrive
        self._head = NO_HEAD
        self._body: bytes | bytearray = b""
        self._received = 0  # bytes of the answer's body
        self._interims = 0
        self._consumed = self._padding = 0  # of our windows: all of the connection's; of the stream's the padding
        self._max_streams = MAX_STREAM
        self._shrink_table = False  # the server allows less than the table that HPACK begins with
        self._frames = 0
        self._frames_allowed = MAX_FRAMES
        self._fresh = False  # of the answer nothing arrived, and what comes next begins with a frame
        self._reset: StreamReset | None = None
        self.waiting = False  # a request has no whole answer yet
        self.started = False  # a part of the answer arrived
        self.unprocessed = False  # the server did not process the request: it can be sent again on another connection
        self.going_away = False  # the connection ends after the answer
        self.usable = True  # another request can be sent on the connection

    def _set_usable(self) -> None:
        self.usable = not (self.waiting or self.going_away) and self._max_streams > 0 and self._stream < _LAST_STREAM

    def request(self, request: Request) -> None:
        """Send a request.

        The first one follows the connection's preface, before the server's SETTINGS are known.
        """
        if not self.usable:
            raise MisuseError("request() on an HTTP/2 connection that takes none")
        if self._stream < 0:
            self._out.append(_OPENING)
        self._stream = stream = self._stream + 2
        self.waiting = True
        self._received = self._interims = self._padding = self._frames = 0
        self.usable = self.started = self.unprocessed = False
        head, body, headers = request
        block = head.field_block(body, headers)
        if self._shrink_table:
            block, self._shrink_table = EMPTY_TABLE + block, False
        size = len(body) if body else 0
        self._frames_allowed = MAX_FRAMES + size // _BYTES_A_FRAME
        if body and len(block) <= MAX_FRAME_BYTES and self._sender.fits(stream, size):
            self._out.append(whole_request(stream, block, body))
            self._fresh = self._greeted and not self._buffer and self._block is None
            return
        self._fresh = False
        self._out += header_frames(stream, block, end_stream=not body)
        self._sender.begin(stream, body)

    def take(self) -> bytes:
        """The bytes to be sent; they are whole frames."""
        out = self._out
        if not out:
            return b""
        if len(out) == 1:
            return out.pop()
        octets = b"".join(out)
        out.clear()
        return octets

    def leave(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Send GOAWAY; the connection is to be closed."""
        if not self.going_away or code:
            self._out.append(goaway(code))
        self.going_away = True
        self.usable = False

    def receive(self, octets: bytes) -> Response | None:
        """Take bytes; the response once it is whole. Raises ResponseMalformed, and StreamReset.

        A server that breaks the protocol after the end of its response: the response counts, and ``going_away`` is set.
        """
        waiting = self.waiting
        try:
            if self._fresh and len(octets) > RST_STREAM_BYTES and octets[3] == RST_STREAM:  # of the request before
                self._receive(octets[:RST_STREAM_BYTES])
                octets = octets[RST_STREAM_BYTES:]
            if self._fresh:
                answer = common_answer(octets, self._stream, self._longest)
                if answer is not None and self._consumed + len(answer[3]) < _WINDOW // 2:
                    return self._common_response(answer)
            self._receive(octets)
        except ResponseMalformed as error:
            self.leave(_code_of(error))
            if not waiting or self.waiting:
                raise
        if self._reset is not None:
            reset, self._reset = self._reset, None
            raise reset
        return self._response() if waiting and not self.waiting else None

    def _common_response(self, answer: CommonAnswer) -> Response:
        increment, status, headers, body = answer
        if increment:
            self._count()
            self._sender.window_update(self._stream, increment)
        self._consumed += len(body)
        self._frames, self._frames_allowed = 0, MAX_IDLE_FRAMES
        self._fresh = self.waiting = False
        self.started = True
        self._set_usable()
        return Response(status, headers, body, self.usable)

    def _response(self) -> Response:
        if self._sender.pending:  # RFC 9113, 8.1: an answer before the whole request was sent
            self._sender.stop()
            self._cancelled = self._stream
            self._out.append(rst_stream(self._stream, ErrorCode.CANCEL))
        self._frames, self._frames_allowed = 0, MAX_IDLE_FRAMES
        self._set_usable()
        (status, headers, _), body = self._head, bytes(self._body)
        self._head, self._body = NO_HEAD, b""
        return Response(status, headers, body, self.usable)

    def _receive(self, octets: bytes) -> None:
        if self._buffer:
            self._buffer += octets  # in place: it is a bytearray
            if len(self._buffer) < self._needed:
                return
            octets, self._buffer = bytes(self._buffer), b""
        at, end, needed = 0, len(octets), FRAME_HEADER_BYTES
        while end - at >= FRAME_HEADER_BYTES:
            head, flags, stream = FRAME_HEADER.unpack_from(octets, at)
            kind, length = head & 0xFF, head >> 8
            if not self._greeted and kind != SETTINGS:
                raise HTTP2Malformed(f"expected SETTINGS of HTTP/2 first, found {octets[at : at + 80]!r}")
            if length > MAX_FRAME_BYTES:
                raise HTTP2Malformed(f"a frame has {length} bytes", ErrorCode.FRAME_SIZE_ERROR)
            start = at + FRAME_HEADER_BYTES
            if start + length > end:
                needed = FRAME_HEADER_BYTES + length
                break
            at = start + length
            if kind != WINDOW_UPDATE and (kind != RST_STREAM or stream == self._stream):
                self._fresh = False
            self._frame(kind, flags, stream & MAX_STREAM, octets, start, at)
        if at < end:
            self._fresh = False
            self._buffer = bytearray(octets[at:])
            self._needed = needed

    def _frame(self, kind: int, flags: int, stream: int, octets: bytes, at: int, stop: int) -> None:
        if self._block is not None and (kind != CONTINUATION or stream != self._block_stream):
            raise HTTP2Malformed("expected CONTINUATION of a header section, found another frame")
        if kind == DATA:
            self._data(flags, stream, octets, at, stop)
        elif kind == HEADERS:
            self._headers(flags, stream, octets, at, stop)
        elif kind == WINDOW_UPDATE:
            self._count()
            if stream:
                self._check_opened(stream)
            self._sender.window_update(stream, increment_of(octets, at, stop))
        elif kind == CONTINUATION:
            self._continuation(flags, octets[at:stop])
        else:
            self._control(kind, flags, stream, octets[at:stop])

    def _count(self, frames: int = 1) -> None:
        """Bound the work that a server causes without an answer (CVE-2019-9512 and others)."""
        self._frames += frames
        if self._frames > self._frames_allowed:
            text = f"the server sent more than {self._frames_allowed} frames that are no part of an answer"
            raise HTTP2Malformed(text, ErrorCode.ENHANCE_YOUR_CALM)

    def _awaited(self, stream: int) -> bool:
        """Whether a frame belongs to the awaited answer; False for one of a stream that we reset."""
        if stream == self._stream and self.waiting:
            return True
        self._check_opened(stream)
        if stream > self._cancelled:
            raise HTTP2Malformed(f"a frame of an answer on the closed stream {stream}", ErrorCode.STREAM_CLOSED)
        self._count()
        return False

    def _check_opened(self, stream: int) -> None:
        if not stream & 1 or stream > self._stream:
            raise HTTP2Malformed(f"a frame on stream {stream}, which was not opened")

    # The answer.

    def _data(self, flags: int, stream: int, octets: bytes, at: int, stop: int) -> None:
        length = stop - at
        at, stop = unpadded(flags, octets, at, stop)
        self._consumed += length
        if self._consumed >= _WINDOW // 2:
            self._out.append(window_update(0, self._consumed))
            self._consumed = 0
        if not self._awaited(stream):
            return
        if not self._head.status:
            raise HTTP2Malformed("DATA before the header section of the answer")
        size = stop - at
        self._received += size
        if self._received > self._max_body:
            raise ResponseTooLong(f"the response's body is longer than {self._max_body} bytes")
        if flags & END_STREAM:
            self._end(octets[at:stop])
            return
        if not size:
            self._count()
        self._add(octets[at:stop])
        self._padding += length - size
        if self._padding >= MAX_FRAME_BYTES:  # the stream's window is for the body alone
            self._out.append(window_update(stream, self._padding))
            self._padding = 0

    def _add(self, octets: bytes) -> None:
        if not self._body:
            self._body = octets
        elif isinstance(self._body, bytes):
            self._body = bytearray(self._body + octets)
        else:
            self._body += octets

    def _headers(self, flags: int, stream: int, octets: bytes, at: int, stop: int) -> None:
        at, stop = unpadded(flags, octets, at, stop)
        if flags & HAS_PRIORITY:
            at += 5
            if at > stop:
                raise HTTP2Malformed("a HEADERS frame ends in its priority", ErrorCode.FRAME_SIZE_ERROR)
        if stream == self._stream and self.waiting:
            self.started = True
        if flags & END_HEADERS:
            self._section(stream, octets[at:stop], ends=bool(flags & END_STREAM))
        else:
            self._block, self._block_flags, self._block_stream = bytearray(octets[at:stop]), flags, stream

    def _continuation(self, flags: int, part: bytes) -> None:
        block = self._block
        if block is None:
            raise HTTP2Malformed("CONTINUATION without a header section")
        self._count()
        block += part
        if len(block) > MAX_BLOCK_BYTES:
            raise ResponseTooLong(f"the response's header section is longer than {MAX_BLOCK_BYTES} bytes")
        if flags & END_HEADERS:
            self._block = None
            self._section(self._block_stream, bytes(block), ends=bool(self._block_flags & END_STREAM))

    def _section(self, stream: int, block: bytes, *, ends: bool) -> None:
        """A whole header section: of an interim answer, the answer, or its trailers."""
        if not self._awaited(stream):
            return
        if self._head.status:
            if not ends:
                raise HTTP2Malformed("a second header section that does not end the answer")
            check_trailers(block)
            self._end(b"")
            return
        head = response_head(block)
        if head.status >= 200:
            self._head = head
            if head.length is not None and head.length > self._max_body:
                raise ResponseTooLong(f"the response's body is longer than {self._max_body} bytes")
            if ends:
                self._end(b"")
            return
        self._interims += 1
        if ends or head.status == 101:  # RFC 9113, 8.6
            raise HTTP2Malformed(f"expected a final response, found {head.status} at the end of the stream")
        if self._interims > MAX_INTERIM_RESPONSES:
            raise ResponseTooLong(f"the server sent more than {MAX_INTERIM_RESPONSES} interim responses")

    def _end(self, octets: bytes) -> None:
        self._add(octets)
        head, received = self._head, self._received
        expected = 0 if head.status in NO_BODY else head.length
        if expected is not None and received != expected:
            raise HTTP2Malformed(f"expected a body of {expected} bytes, found {received}")
        self.waiting = False

    # The other frames.

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self._count()
        if kind == RST_STREAM:
            self._rst_stream(stream, payload)
        elif kind == PUSH_PROMISE:
            raise HTTP2Malformed("PUSH_PROMISE, although push is off")
        elif kind in (SETTINGS, PING, GOAWAY):
            if stream:
                raise HTTP2Malformed(f"expected a frame of type {kind} on stream 0, found stream {stream}")
            if kind == SETTINGS:
                self._settings(flags, payload)
            elif kind == GOAWAY:
                self._goaway(payload)
            else:
                numbers(payload, 2, "PING")
                if not flags & ACK:
                    self._out.append(frame(PING, ACK, 0, payload))

    def _settings(self, flags: int, payload: bytes) -> None:
        values = settings_of(payload)
        if flags & ACK:
            if values or not self._greeted:
                raise HTTP2Malformed("expected an acknowledgement of SETTINGS that is empty, and not the first frame")
            return
        self._greeted = True
        self._count(len(values) // 8)
        for name, value in values:
            match name:
                case Setting.HEADER_TABLE_SIZE:
                    self._shrink_table = self._shrink_table or value < _DEFAULT_TABLE
                case Setting.MAX_CONCURRENT_STREAMS:
                    self._max_streams = value
                    self._set_usable()
                case Setting.INITIAL_WINDOW_SIZE:
                    self._sender.initial_window(value)
                case Setting.ENABLE_PUSH if value:
                    raise HTTP2Malformed(f"expected SETTINGS_ENABLE_PUSH 0 of a server, found {value}")
                case Setting.MAX_FRAME_SIZE if not MAX_FRAME_BYTES <= value < 2**24:
                    raise HTTP2Malformed(f"expected SETTINGS_MAX_FRAME_SIZE from 2^14 to 2^24 - 1, found {value}")
        self._out.append(_SETTINGS_ACK)

    def _goaway(self, payload: bytes) -> None:
        last, code = numbers(payload, 2, "GOAWAY")
        self.going_away, self.usable = True, False
        if self.waiting and self._stream > last & MAX_STREAM:
            self._fail(f"the server ended the connection without processing the request: GOAWAY, {code_name(code)}")
            self.unprocessed = True

    def _rst_stream(self, stream: int, payload: bytes) -> None:
        (code,) = numbers(payload, 1, "RST_STREAM")
        self._check_opened(stream)
        if stream == self._stream:
            self._sender.stop()
            if self.waiting:
                self._fail(f"the server ended the stream of the request: RST_STREAM, {code_name(code)}")
                self.unprocessed = code == ErrorCode.REFUSED_STREAM

    def _fail(self, text: str) -> None:
        """End the current request without an answer."""
        self._sender.stop()
        self.waiting = self._fresh = False
        self._head, self._body = NO_HEAD, b""
        self._set_usable()
        self._reset = StreamReset(text)


def _code_of(error: ResponseMalformed) -> ErrorCode:
    if isinstance(error, HTTP2Malformed):
        return error.code
    return ErrorCode.ENHANCE_YOUR_CALM if isinstance(error, ResponseTooLong) else ErrorCode.PROTOCOL_ERROR
