"""Bodies of the gateway's answers that wait for the provider's flow control (RFC 9113, 5.2).

The cost of a WINDOW_UPDATE does not depend on the number of waiting answers: for a stream only its body is visited, for
the connection only those that the new window lets through.
"""

from __future__ import annotations

from agent.net.http.http2_server import HTTP2Server


class WaitingBodies:
    """Sends bodies on ``connection`` as far as flow control allows; the caller takes the bytes from the connection."""

    def __init__(self, connection: HTTP2Server) -> None:
        self._h2 = connection
        self._bodies: dict[int, bytes] = {}  # the rest of each, by stream
        self._blocked: dict[int, None] = {}  # streams that wait for the connection's window, the oldest first

    def __len__(self) -> int:
        return len(self._bodies)

    def send(self, stream_id: int, body: bytes) -> None:
        """Send a non-empty body and end the stream with it."""
        self._bodies[stream_id] = body
        self._advance(stream_id)

    def drop(self, stream_id: int) -> None:
        """Forget the body of a closed stream."""
        self._bodies.pop(stream_id, None)
        self._blocked.pop(stream_id, None)

    def window_updated(self, stream_id: int) -> None:
        """A WINDOW_UPDATE for a stream, or for the connection (0)."""
        if stream_id:
            self._advance(stream_id)
            return
        while self._blocked and self._h2.outbound_flow_control_window > 0:
            blocked = next(iter(self._blocked))
            del self._blocked[blocked]
            self._advance(blocked)

    def windows_grew(self) -> None:
        """SETTINGS increased the window of every stream."""
        for stream_id in list(self._bodies):
            self._advance(stream_id)

    def _advance(self, stream_id: int) -> None:
        body = self._bodies.get(stream_id)
        if body is None:
            return
        while body:
            window = self._h2.local_flow_control_window(stream_id)
            size = min(len(body), window, self._h2.max_outbound_frame_size)
            if size <= 0:
                break
            self._h2.send_data(stream_id, body[:size], end_stream=size == len(body))
            body = body[size:]
        if not body:
            self.drop(stream_id)
            return
        self._bodies[stream_id] = body
        if self._h2.outbound_flow_control_window <= 0:
            self._blocked[stream_id] = None
