"""HTTP/2 of the lab: requests for endpoints are answered at once; the others become requests of twisted.web."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from agent.lab.web.answers import response_fields
from agent.lab.web.requests import LabRequest
from agent.net.apns.bodies import WaitingBodies
from agent.net.http.http2_frames import ErrorCode, HTTP2Malformed
from agent.net.http.http2_server import HTTP2Server

if TYPE_CHECKING:
    from agent.lab.web.connection import LabConnection
    from agent.lab.web.resources import Endpoint

_STREAMS = 100
_HEADER_LIST_BYTES = 65_536
_LONGEST_BODY = 64 * 1024  # of a request that is kept in memory
Fields = list[tuple[bytes, bytes]]


class HTTP2Requests:
    """The requests of one connection, and the owner of its HTTP/2 core."""

    def __init__(self, connection: LabConnection) -> None:
        self.connection = connection
        self._core = HTTP2Server(self, _STREAMS, _HEADER_LIST_BYTES)
        self._core.start()
        self._bodies = WaitingBodies(self._core)
        self._direct: dict[int, tuple[Endpoint, LabRequest]] = {}
        self._others: dict[int, StreamOfTwisted] = {}
        self._last = 0
        self._reading = False

    def received(self, octets: bytes) -> None:
        """Bytes of the client. A client that violates HTTP/2 gets a GOAWAY with the error."""
        self._reading = True
        try:
            self._core.receive(octets)
        except HTTP2Malformed as error:
            self._core.close(error.code, self._last)
            self._flush()
            self.connection.close()
            return
        finally:
            self._reading = False
        self._flush()

    def timed_out(self) -> None:
        """Tell the client that the connection ends."""
        self._core.close(ErrorCode.PROTOCOL_ERROR if self._core.streams else ErrorCode.NO_ERROR, self._last)
        self._flush()

    def lost(self, reason: Any) -> None:
        """The connection has ended."""
        others, self._others = self._others, {}
        for each in others.values():
            each.request.connectionLost(reason)

    def _flush(self) -> None:
        octets = self._core.take()
        if octets:
            self.connection.write(octets)

    def _send(self, stream: int, fields: Fields, body: bytes) -> None:
        self._core.send_headers(stream, fields, end_stream=not body)
        if body and self._core.is_open(stream):
            self._bodies.send(stream, body)

    # For the streams of twisted.web.

    def respond(self, stream: int, fields: Fields, body: bytes) -> None:
        """Send a whole response."""
        self._others.pop(stream, None)
        self._send(stream, fields, body)
        if not self._reading:
            self._flush()

    def go_on(self, stream: int) -> None:
        """Tell the client that it may send the body."""
        self._core.send_headers(stream, [(b":status", b"100")], end_stream=False)

    def abort(self, stream: int) -> None:
        """End a stream without a response."""
        self._others.pop(stream, None)
        self._core.reset_stream(stream, ErrorCode.INTERNAL_ERROR)

    # From the core.

    def frame_came(self) -> bool:
        """Frames are not counted: what they cost is in proportion to their size, and requests are answered at once."""
        return True

    def requested(self, stream: int, fields: Fields) -> None:
        """A request begins."""
        self._last = stream
        pseudo = dict(fields[:4])
        path, _mark, query = pseudo[b":path"].partition(b"?")
        endpoint = self.connection.site.endpoints.get(path)
        method = pseudo[b":method"]
        if endpoint is None or not _is_short(method, fields):
            self._others[stream] = StreamOfTwisted(self, stream, fields)
            return
        request = LabRequest(method, query, fields, self.connection.transport)
        self._direct[stream] = endpoint, request

    def body_came(self, stream: int, octets: bytes) -> None:
        """Part of a body."""
        direct = self._direct.get(stream)
        if direct is None:
            if stream in self._others:
                self._others[stream].request.handleContentChunk(octets)
        elif direct[1].method != b"GET" and (direct[1].body or self.connection.site.keeps(direct[1])):
            direct[1].body += octets  # the core holds it to its Content-Length, which a GET may lack

    def request_ended(self, stream: int) -> None:
        """A request is complete."""
        direct = self._direct.pop(stream, None)
        if direct is None:
            if stream in self._others:
                self._others[stream].complete()
            return
        endpoint, request = direct
        answered = self.connection.site.answer(endpoint, request)
        self._send(stream, [(b":status", b"%d" % answered.status), *response_fields(answered)], answered.body)

    def stream_reset(self, stream: int) -> None:
        """The client reset a stream."""
        self._direct.pop(stream, None)
        self._bodies.drop(stream)
        other = self._others.pop(stream, None)
        if other is not None:
            lost = Failure(ConnectionLost("The client reset the stream"))  # type: ignore[no-untyped-call]
            other.request.connectionLost(lost)

    def window_opened(self, stream: int) -> None:
        """The client takes more."""
        self._bodies.window_updated(stream)

    def settings_came(self, *, wider: bool) -> None:
        """With wider windows the responses that wait go on."""
        if wider:
            self._bodies.windows_grew()

    def client_leaves(self) -> None:
        """GOAWAY of the client: it wants no further response."""
        self.connection.close()


class StreamOfTwisted:
    """What a request of twisted.web uses of its channel: one stream. The response is sent as a whole."""

    def __init__(self, requests: HTTP2Requests, stream: int, fields: Fields) -> None:
        self.site = self.factory = requests.connection.site
        self.transport = requests.connection.transport
        self._requests = requests
        self._stream = stream
        self._pseudo = dict(fields[:4])
        self._fields: Fields = []
        self._body: list[bytes] = []
        made: Any = self.site.requestFactory
        request = made(self, queued=False)
        self.request: Any = request
        length: int | None = 0 if self._pseudo[b":method"] in (b"GET", b"HEAD") else None
        for name, value in fields:
            if name == b"content-length":
                length = int(value)
            if name[:1] != b":":
                request.requestHeaders.addRawHeader(name, value)
        if b":authority" in self._pseudo:
            request.requestHeaders.setRawHeaders(b"host", [self._pseudo[b":authority"]])
        if (b"expect", b"100-continue") in fields:
            requests.go_on(stream)
        request.gotLength(length)
        request.parseCookies()

    def complete(self) -> None:
        """The request is complete."""
        self.request.requestReceived(self._pseudo[b":method"], self._pseudo[b":path"], b"HTTP/2")

    # What twisted.web calls.

    def writeHeaders(self, _version: bytes, code: bytes, _reason: bytes, headers: Any) -> None:
        """The header section of the response."""
        named = [(name.lower(), value) for name, values in headers.getAllRawHeaders() for value in values]
        self._fields = [(b":status", code), *named]

    def write(self, octets: bytes) -> None:
        """A part of its body."""
        self._body.append(octets)

    def requestDone(self, _request: Any) -> None:
        """Its end."""
        self._requests.respond(self._stream, self._fields, b"".join(self._body))

    def loseConnection(self) -> None:
        """End the stream."""
        self._requests.abort(self._stream)

    def getPeer(self) -> Any:
        """The client's address."""
        transport: Any = self.transport
        return transport.getPeer()

    def getHost(self) -> Any:
        """The lab's address."""
        transport: Any = self.transport
        return transport.getHost()

    def isSecure(self) -> bool:
        """HTTP/2 is spoken over TLS alone."""
        return True


def _is_short(method: bytes, fields: Fields) -> bool:
    """Whether a request has a short body, or none."""
    for name, value in fields:
        if name == b"content-length":
            return int(value) <= _LONGEST_BODY
    return method == b"GET"
