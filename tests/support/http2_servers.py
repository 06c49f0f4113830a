"""Scripts for ``servers.serving`` that speak HTTP/2, with the `h2` library."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RequestReceived, StreamEnded
from servers import Gone, Request, Script, Talk, echo

EventT = TypeVar("EventT", bound=Event)
H2, HTTP_1_1 = b"h2", b"http/1.1"


class H2Talk:
    """The server's end of one connection. Every method raises Gone where the client is not there any more."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.events: list[Event] = []
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._waiting: list[Event] = []
        assert talk.tls.get_alpn_proto_negotiated() == H2
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        """Send what the library has to send."""
        self.talk.send(self.h2.data_to_send())

    def event(self) -> Event:
        """Wait for the next event."""
        while not self._waiting:
            self._waiting += self.h2.receive_data(self.talk.read())
            self.flush()
        event = self._waiting.pop(0)
        self.events.append(event)
        return event

    def until(self, kind: type[EventT]) -> EventT:
        """Wait for an event of this type."""
        while True:
            event = self.event()
            if isinstance(event, kind):
                return event

    def read_request(self) -> int:
        """Wait for a whole request, and note it in the server's ``requests``; its stream."""
        fields: dict[str, str] = {}
        body = b""
        while True:
            match self.event():
                case RequestReceived(headers=headers):
                    fields = {str(name): str(value) for name, value in headers or ()}
                case DataReceived(stream_id=int(stream), data=octets, flow_controlled_length=int(length)):
                    body += octets or b""
                    if length:
                        self.h2.acknowledge_received_data(length, stream)
                        self.flush()
                case StreamEnded(stream_id=int(stream)):
                    certificate = self.talk.tls.get_peer_certificate(as_cryptography=True)
                    method, target = fields[":method"], fields[":path"]
                    self.talk.note(Request(self.talk.number, method, target, fields, body, certificate))
                    self.body = body
                    return stream

    def answer(self, stream: int, body: bytes = b"", status: int = 200, *fields: tuple[str, str]) -> None:
        """Answer a request."""
        self.h2.send_headers(stream, [(":status", str(status)), *fields], end_stream=not body)
        for at in range(0, len(body), 16_384):
            self.h2.send_data(stream, body[at : at + 16_384], end_stream=at + 16_384 >= len(body))
        self.flush()

    def leave(self, last: int, code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """Send GOAWAY and wait for the client to close."""
        self.h2.close_connection(code, last_stream_id=last)
        self.flush()
        self.talk.wait_for_end()


def speaking(script: Callable[[H2Talk], None]) -> Script:
    """A script of HTTP/2."""
    return lambda talk: script(H2Talk(talk))


def echoes(talk: H2Talk) -> None:
    """Answer every request with its own body."""
    while True:
        talk.answer(talk.read_request(), talk.body)


def either(talk: Talk) -> None:
    """Echo in the version that was agreed on."""
    if talk.tls.get_alpn_proto_negotiated() == H2:
        echoes(H2Talk(talk))
    else:
        echo(talk)


def once(script: Callable[[H2Talk, int], None]) -> Script:
    """Run this with the stream of the first request, then read until the client is gone."""

    def run(talk: H2Talk) -> None:
        script(talk, talk.read_request())
        try:
            while True:
                talk.event()
        except Gone:
            pass

    return speaking(run)
