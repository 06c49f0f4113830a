"""HTTP/2 of the lab's web server: that of twisted.web, with the program's own HTTP/2 core in the place of h2.

The core takes less time than h2. twisted.web sees of it what it uses of an ``H2Connection``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError, StreamClosedError

from agent.net.http.http2_frames import ErrorCode, HTTP2Malformed
from agent.net.http.http2_server import HTTP2Server

# As in the SETTINGS of h2, which twisted.web has sent.
_STREAMS = 100
_HEADER_LIST_BYTES = 65_536


def use_own_core(protocol: Any) -> None:
    """Have a protocol of a site use it, if the client chooses HTTP/2."""
    received = protocol.dataReceived

    def first(octets: bytes) -> None:
        protocol.dataReceived = received
        received(b"")  # twisted.web chooses by ALPN, and sends its SETTINGS
        channel = protocol._channel
        if hasattr(channel, "conn"):
            channel.conn = _Connection()
        received(octets)

    protocol.dataReceived = first


class _Connection:
    """What twisted.web uses of an ``h2.connection.H2Connection``, and the owner of the core."""

    open_outbound_streams = 0

    def __init__(self) -> None:
        self._core = HTTP2Server(self, _STREAMS, _HEADER_LIST_BYTES)
        self._events: list[Event] = []
        self._last = 0

    # From twisted.web.

    @property
    def max_outbound_frame_size(self) -> int:
        """The longest DATA that may be sent."""
        return self._core.max_outbound_frame_size

    @property
    def open_inbound_streams(self) -> int:
        """The number of requests in progress."""
        return self._core.streams

    def receive_data(self, octets: bytes) -> list[Event]:
        """What these bytes mean. Raises ProtocolError, after which a GOAWAY is to be sent."""
        self._events = []
        try:
            self._core.receive(octets)
        except HTTP2Malformed as error:
            self._core.close(error.code, self._last)
            raise ProtocolError(str(error)) from error
        return self._events

    def data_to_send(self) -> bytes:
        """The bytes to be sent."""
        return self._core.take()

    def local_flow_control_window(self, stream_id: int) -> int:
        """How many bytes of a body can be sent now."""
        return self._core.local_flow_control_window(stream_id)

    def send_headers(self, stream_id: int, headers: Iterable[tuple[bytes, bytes]], end_stream: bool = False) -> None:
        """The header section of a response. Raises StreamClosedError."""
        if not self._core.is_open(stream_id):
            raise StreamClosedError(stream_id)
        self._core.send_headers(stream_id, [(name.lower(), value) for name, value in headers], end_stream=end_stream)

    def send_data(self, stream_id: int, octets: bytes) -> None:
        """A part of a body."""
        self._core.send_data(stream_id, octets, end_stream=False)

    def end_stream(self, stream_id: int) -> None:
        """The end of a response."""
        self._core.send_data(stream_id, b"", end_stream=True)

    def reset_stream(self, stream_id: int, error_code: int = 0) -> None:
        """End a stream."""
        self._core.reset_stream(stream_id, ErrorCode(error_code))

    def close_connection(self, error_code: int = 0) -> None:
        """Send GOAWAY."""
        self._core.close(ErrorCode(error_code), self._last)

    def acknowledge_received_data(self, _length: int, _stream_id: int) -> None:
        """The core renews the client's windows itself: requests are bounded by the site."""

    # From the core.

    def frame_came(self) -> bool:
        """There is no limit, as in twisted.web."""
        return True

    def requested(self, stream: int, fields: list[tuple[bytes, bytes]]) -> None:
        """A request begins."""
        self._last = stream
        self._events.append(RequestReceived(stream_id=stream, headers=fields))

    def body_came(self, stream: int, octets: bytes) -> None:
        """Part of a body."""
        self._events.append(DataReceived(stream_id=stream, data=octets, flow_controlled_length=len(octets)))

    def request_ended(self, stream: int) -> None:
        """A request is complete."""
        self._events.append(StreamEnded(stream_id=stream))

    def stream_reset(self, stream: int) -> None:
        """The client reset a stream."""
        self._events.append(StreamReset(stream_id=stream, error_code=ErrorCodes.CANCEL))

    def window_opened(self, stream: int) -> None:
        """The client takes more."""
        self._events.append(WindowUpdated(stream_id=stream, delta=0))

    def settings_came(self, *, wider: bool) -> None:
        """With wider windows the responses that wait go on."""
        if wider:
            self.window_opened(0)

    def client_leaves(self) -> None:
        """GOAWAY of the client."""
        self._events.append(ConnectionTerminated())
