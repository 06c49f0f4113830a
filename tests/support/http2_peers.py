"""Peers of the HTTP/2 client core: the `h2` library, and frames written by hand."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived, StreamEnded
from h2.settings import SettingCodes
from hpack import Encoder

from agent.net.http.http1 import Origin, Response
from agent.net.http.http2 import HTTP2Client
from agent.net.http.request import Request, request_to

ORIGIN = Origin("mdm.example.org", 443)
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS, PADDED, HAS_PRIORITY = 4, 8, 32
NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0, 1, 7, 8, 11
OPENING_BYTES = 24 + 9 + 18 + 13  # preface, SETTINGS, WINDOW_UPDATE
Frame = tuple[int, int, int, bytes]  # type, flags, stream, payload


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def u32(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


def setting(name: int, value: int) -> bytes:
    return struct.pack(">HI", name, value)


def frames(octets: bytes) -> list[Frame]:
    """What the client sent, without the preface. Fails on half a frame."""
    octets = octets.removeprefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    found = []
    while octets:
        head, flags, stream = struct.unpack_from(">IBI", octets)
        assert len(octets) >= 9 + (head >> 8), "half a frame"
        found.append((head & 255, flags, stream, octets[9 : 9 + (head >> 8)]))
        octets = octets[9 + (head >> 8) :]
    return found


def block(*fields: tuple[str, str]) -> bytes:
    """A field block of the `hpack` library, with a dynamic table of size 0."""
    encoder = Encoder()
    encoder.header_table_size = 0
    return bytes(encoder.encode(fields))


def headers(stream: int, *fields: tuple[str, str], flags: int = END_HEADERS) -> bytes:
    return frame(HEADERS, flags, stream, block(*fields))


def answer(stream: int, body: bytes = b"", *fields: tuple[str, str], status: str = "200") -> bytes:
    """HEADERS and DATA of a whole answer."""
    return headers(stream, (":status", status), *fields) + frame(DATA, END_STREAM, stream, body)


def put(body: bytes | None = b"body", **more: str) -> Request:
    return request_to("PUT", ORIGIN, "/mdm?id=1", {"User-Agent": "MDM-OSX/1.0", **more}, body)


def asked(body: bytes | None = b"body", *, greeted: bool = True) -> HTTP2Client:
    """A client that has sent one request; ``greeted``: and read the server's SETTINGS."""
    client = HTTP2Client()
    client.request(put(body))
    client.take()
    if greeted:
        assert client.receive(frame(SETTINGS, 0, 0)) is None
        assert frames(client.take()) == [(SETTINGS, ACK, 0, b"")]
    return client


def by_byte(client: HTTP2Client, octets: bytes) -> Response | None:
    """Feed the bytes one at a time: the first response."""
    responses = [client.receive(octets[at : at + 1]) for at in range(len(octets))]
    return next((each for each in responses if each is not None), None)


class LibraryServer:
    """The `h2` library as the server of one client, without a socket."""

    def __init__(self, client: HTTP2Client, settings: dict[SettingCodes | int, int] | None = None) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.h2.initiate_connection()
        if settings:
            self.h2.update_settings(settings)  # in force once the client has acknowledged them
        self.client = client
        self.fields: dict[int, list[tuple[str, str]]] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: list[int] = []
        self.events: list[Event] = []

    def turn(self, cuts: tuple[int, ...] = ()) -> Response | None:
        """Carry the bytes between the two, in both directions, until there are none; ``cuts`` of the server's bytes."""
        response = None
        while True:
            sent = self.client.take()
            for event in self.h2.receive_data(sent) if sent else []:
                self._happened(event)
            octets = self.h2.data_to_send()
            for part in parts(octets, cuts):
                response = self.client.receive(part) or response
            if not sent and not octets:
                return response

    def _happened(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case RequestReceived(stream_id=int(stream), headers=fields):
                self.fields[stream] = [(str(name), str(value)) for name, value in fields or ()]
                self.bodies[stream] = b""
            case DataReceived(stream_id=int(stream), data=octets, flow_controlled_length=int(length)):
                self.bodies[stream] += octets or b""
                if length:
                    self.h2.acknowledge_received_data(length, stream)
            case StreamEnded(stream_id=int(stream)):
                self.ended.append(stream)

    def answer(self, stream: int, fields: list[tuple[str, str]], body: bytes, *, pad: int | None = None) -> None:
        """Send the head and as much of the body as the client's windows allow at once, which must be all."""
        self.h2.send_headers(stream, fields, end_stream=not body)
        while body:
            size = min(len(body), 16_000, self.h2.local_flow_control_window(stream) - 256)
            assert size > 0, "the client's window is too small"
            self.h2.send_data(stream, body[:size], end_stream=size == len(body), pad_length=pad)
            body = body[size:]


def parts(octets: bytes, cuts: tuple[int, ...]) -> Iterator[bytes]:
    """The bytes between the cuts."""
    places = sorted({0, len(octets), *(cut for cut in cuts if cut < len(octets))})
    for start, end in pairwise(places):
        yield octets[start:end]
