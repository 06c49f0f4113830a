"""The bodies of requests in DATA frames, as far as the server's windows allow. Source: RFC 9113, 5.2 and 6.9."""

from __future__ import annotations

from agent.net.http.http2_frames import (
    DATA,
    END_STREAM,
    INITIAL_WINDOW,
    MAX_FRAME_BYTES,
    MAX_WINDOW,
    ErrorCode,
    HTTP2Malformed,
    frame,
)

_NOTHING = memoryview(b"")


class BodySender:
    """Sends one body at a time to ``out``; ``pending`` is the part of it that waits for the windows."""

    __slots__ = ("_initial", "_out", "_stream", "_stream_window", "_window", "pending")

    def __init__(self, out: list[bytes]) -> None:
        self._out = out
        self._window = self._stream_window = self._initial = INITIAL_WINDOW
        self._stream = 0
        self.pending = _NOTHING

    def fits(self, stream: int, size: int) -> bool:
        """Whether a whole body of this size can be sent in one frame now, on a new stream; it is then counted as sent.

        The stream's window is as after the body.
        """
        if size > MAX_FRAME_BYTES or size > self._window or size > self._initial:
            return False
        self._stream = stream
        self._window -= size
        self._stream_window = self._initial - size
        return True

    def begin(self, stream: int, body: bytes | None) -> None:
        """Send the body of the request on a new stream; the last frame ends the stream."""
        self._stream = stream
        self._stream_window = self._initial
        if body:
            self.pending = memoryview(body)
            self._send()

    def stop(self) -> None:
        """Send no more of it."""
        self.pending = _NOTHING

    def initial_window(self, size: int) -> None:
        """SETTINGS_INITIAL_WINDOW_SIZE: applies to the current stream, too (RFC 9113, 6.9.2). Raises HTTP2Malformed."""
        if size > MAX_WINDOW:
            raise HTTP2Malformed(f"a window of {size} bytes", ErrorCode.FLOW_CONTROL_ERROR)
        self._stream_window = _within(self._stream_window + size - self._initial)
        self._initial = size
        self._send()

    def window_update(self, stream: int, increment: int) -> None:
        """WINDOW_UPDATE of the connection or a stream. Raises HTTP2Malformed."""
        if not stream:
            self._window = _within(self._window + increment)
        elif stream == self._stream:
            self._stream_window = _within(self._stream_window + increment)
        if self.pending:
            self._send()

    def _send(self) -> None:
        """As many DATA frames as the windows allow."""
        while self.pending:
            size = min(len(self.pending), MAX_FRAME_BYTES, self._window, self._stream_window)
            if size <= 0:
                return
            part, self.pending = self.pending[:size], self.pending[size:]
            self._window -= size
            self._stream_window -= size
            self._out.append(frame(DATA, 0 if self.pending else END_STREAM, self._stream, bytes(part)))


def _within(window: int) -> int:
    if window > MAX_WINDOW:
        raise HTTP2Malformed(f"a window of {window} bytes", ErrorCode.FLOW_CONTROL_ERROR)
    return window
