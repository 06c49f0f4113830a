"""The lab speaks HTTP/2 and HTTP/1.1: it knows Macs and bounds bodies in both."""

from __future__ import annotations

import socket
import ssl

import h2.connection
import h2.events
import h2.settings
import pytest
from conftest import RunInReactor
from stack import stack
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from agent import plists
from agent.lab.mdm.core import Lab
from agent.lab.web.connection import LabSite
from agent.lab.web.requests import LabAnswer, LabRequest
from agent.lab.web.resources import Endpoint
from agent.lab.web.server import LabServer
from agent.mdm.automated import CONTENT_TYPE
from agent.net.http.connection import BOTH, HTTPConnection
from agent.net.http.fetch import exchange
from agent.net.http.http1 import split_url
from agent.net.http.request import request_to
from agent.net.http.server import MAX_BODY_BYTES
from agent.net.mac.sessions.connection import report_request
from agent.net.transport.resolver import Resolver
from agent.net.transport.tls import TLSContexts
from agent.pki.identity import Identity
from agent.pki.issuing.authorities import Authorities


def connection_to(server: LabServer, offered: tuple[bytes, ...], identity: Identity | None = None) -> HTTPConnection:
    origin, _target = split_url(server.url)
    anchors = (server.authorities.anchor,)
    resolver = Resolver(reactor, reactor.nameResolver)
    return HTTPConnection(reactor, resolver, TLSContexts(), origin, anchors, identity, alpn=offered)


@pytest.mark.parametrize(("offered", "version"), [(BOTH, "HTTP/2"), ((), "HTTP/1.1")])
def test_macs_and_bodies(run_in_reactor: RunInReactor, offered: tuple[bytes, ...], version: str) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client = running.fleet[0]
            enrollment = client.device.enrollment
            assert enrollment is not None

            async def put(connection: HTTPConnection, body: bytes) -> int:
                _origin, request = report_request(enrollment, enrollment.server_url, body)
                return (await exchange(connection, request)).status

            of_mac = connection_to(running.server, offered, enrollment.identity)
            idle = plists.dump_xml({"Status": "Idle", "UDID": client.device.mac.udid})
            before = len(running.reports)
            assert [await put(of_mac, idle), await put(of_mac, idle)] == [200, 200]
            (one, other) = running.reports[before:]
            assert one == other  # of one connection
            assert await put(of_mac, b"x" * (MAX_BODY_BYTES + 1)) == 413
            assert await put(of_mac, idle) == 200
            anonymous = connection_to(running.server, offered)
            assert await put(anonymous, idle) == 401
            assert of_mac.http_version == anonymous.http_version == version
            of_mac.close()
            anonymous.close()

    run_in_reactor(scenario())


def test_defects_that_show_when_a_connection_breaks_are_of_http_1_1(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        server = LabServer(reactor, Lab(defects=frozenset({"survive-half-unenrolls"})), Authorities())
        server.listen()
        connection = connection_to(server, BOTH)
        origin, target = split_url(server.enrollment_url)
        assert (await exchange(connection, request_to("GET", origin, target, {}))).status == 200
        assert connection.http_version == "HTTP/1.1"
        connection.close()
        await server.close()

    run_in_reactor(scenario())


class Browser:
    """An HTTP/2 client by the h2 library, without a certificate; it takes ``window`` bytes of a response at a time."""

    def __init__(self, server: LabServer, window: int) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        host, _, port = server.url.removeprefix("https://").partition(":")
        self.socket = context.wrap_socket(socket.create_connection((host, int(port)), timeout=60))
        self.h2 = h2.connection.H2Connection()
        self.h2.local_settings = h2.settings.Settings(
            initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        self.h2.initiate_connection()
        self.bodies: dict[int, bytes] = {}
        self.ended: dict[int, int] = {}  # the code by stream; 0 is the connection
        self.statuses: dict[int, str] = {}

    def ask(self, path: str, **more: str) -> int:
        """Send a request; its stream."""
        stream = self.h2.get_next_available_stream_id()
        fields = [(":method", "GET"), (":scheme", "https"), (":authority", "lab"), (":path", path), *more.items()]
        self.h2.send_headers(stream, fields, end_stream=True)
        self.flush()
        return stream

    def flush(self, octets: bytes = b"") -> None:
        """Send what there is."""
        self.socket.sendall(self.h2.data_to_send() + octets)

    def until_ended(self, count: int) -> None:
        """Read until so many streams, or the connection, have ended."""
        while len(self.ended) < count and 0 not in self.ended:
            for event in self.h2.receive_data(self.socket.recv(65_536)):
                if isinstance(event, h2.events.ResponseReceived):
                    self.statuses[event.stream_id] = dict(event.headers)[b":status"].decode()
                elif isinstance(event, h2.events.DataReceived):
                    self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self.ended[event.stream_id] = 0
                elif isinstance(event, h2.events.ConnectionTerminated):
                    self.ended[0] = event.error_code
            self.flush()


def browsed(server: LabServer) -> None:
    """Responses in small pieces and side by side, a request that is reset, and a frame that is not allowed."""
    browser = Browser(server, 1000)
    streams = [browser.ask("/enroll") for _ in range(8)]
    browser.until_ended(8)
    assert browser.statuses == dict.fromkeys(streams, "200")
    assert all(b"PayloadContent" in browser.bodies[stream] for stream in streams)
    assert len(set(browser.bodies.values())) == 8  # each has an identity of its own
    reset = browser.ask("/enroll")
    browser.h2.reset_stream(reset)
    last = browser.ask("/checkin")
    browser.until_ended(9)
    assert browser.statuses[last] == "405"
    others = [browser.ask("/api/v1/macs"), browser.ask("/psso/manifest"), browser.ask("/assets/x")]  # of twisted.web
    browser.until_ended(12)
    assert [browser.statuses[stream] for stream in others] == ["401", "200", "401"]
    browser.flush(b"\0\0\4\x08\0\0\0\0\0" + bytes(4))  # WINDOW_UPDATE of 0 bytes
    browser.until_ended(13)
    assert browser.ended[0] == 1
    browser.socket.close()


def asked_with_a_body(server: LabServer) -> None:
    """A GET whose body has no declared length, of a sender whose bodies are kept."""
    browser = Browser(server, 65_535)
    stream = browser.h2.get_next_available_stream_id()
    fields = [(":method", "GET"), (":scheme", "https"), (":authority", "lab"), (":path", "/enroll")]
    browser.h2.send_headers(stream, [*fields, ("content-type", CONTENT_TYPE)])
    for _ in range(3):
        browser.h2.send_data(stream, bytes(16_384))
    browser.h2.end_stream(stream)
    browser.flush()
    browser.until_ended(1)
    assert browser.statuses == {stream: "200"}
    browser.socket.close()


def test_body_of_a_get_is_discarded(run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = []

    def answer(site: LabSite, endpoint: Endpoint, request: LabRequest) -> LabAnswer:
        bodies.append(request.body)
        return answered(site, endpoint, request)

    async def scenario() -> None:
        async with stack() as running:
            monkeypatch.setattr(LabSite, "answer", answer)
            await deferToThread(asked_with_a_body, running.server)

    answered = LabSite.answer
    run_in_reactor(scenario())
    assert bodies == [b""]


def test_another_client_of_http2(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        async with stack() as running:
            await deferToThread(browsed, running.server)

    run_in_reactor(scenario())
