"""The bodies of the gateway's answers that wait for the provider's flow control (RFC 9113, 5.2).

What a WINDOW_UPDATE costs does not depend on how many answers wait: one for a stream concerns that stream, one for the
connection as many as it lets through.
"""

from __future__ import annotations

from h2.connection import H2Connection


class WaitingBodies:
    """Sends each body by ``connection`` as far as the flow control lets it; the caller takes the bytes from there."""

    def __init__(self, connection: H2Connection) -> None:
        self._h2 = connection
        self._bodies: dict[int, bytes] = {}  # what is left of each, by stream
        self._blocked: dict[int, None] = {}  # streams that wait for the connection's window, the oldest first

    def __len__(self) -> int:
        return len(self._bodies)

    def send(self, stream_id: int, body: bytes) -> None:
        """Send a body that is not empty; its end is the stream's."""
        self._bodies[stream_id] = body
        self._advance(stream_id)

    def drop(self, stream_id: int) -> None:
        """The stream is closed."""
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
        """SETTINGS made the window of every stream larger."""
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
