"""HTTP/2 at the gateway frame by frame: frames of streams that are closed, and what a frame costs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import h2.connection
import h2.events
import h2.settings
import pytest
from apns_gateways import POPULATION, Peer, RunningGateway, in_thread, running_gateway
from conftest import RunInReactor
from counted_calls import calls_of
from h2.exceptions import StreamClosedError
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from agent.net.apns.behaviour import PushBehaviour
from agent.net.apns.connection import ALPN, GatewayLimits, ProviderConnection
from agent.net.apns.router import PushRouter
from agent.net.timing import RunClock
from agent.net.transport.stream import State
from agent.push.requests import NOBODY

# Streams that are closed


def frame(kind: int, stream: int, body: bytes = b"", flags: int = 0) -> bytes:
    """An HTTP/2 frame (RFC 9113, 4.1)."""
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def data(stream: int) -> bytes:
    """DATA."""
    return frame(0, stream, b"x")


def reset(stream: int) -> bytes:
    """RST_STREAM with CANCEL."""
    return frame(3, stream, b"\x00\x00\x00\x08")


def window(stream: int, increment: int = 1) -> bytes:
    """WINDOW_UPDATE."""
    return frame(8, stream, increment.to_bytes(4, "big"))


def in_one_segment(running: RunningGateway, frames: tuple[str, ...], provider: str | None) -> dict[int, str]:
    """Send requests and what else there is in one write: the statuses by stream. The connection has to go on."""
    peer = Peer(running, provider=provider)
    peer.start()
    peer.until(h2.events.RemoteSettingsChanged)
    octets, last = b"", 0
    for what in frames:
        if what == "request":
            last = peer.request()
            octets += peer.h2.data_to_send()
        elif what == "headers":
            last = peer.h2.get_next_available_stream_id()
            path = f"/3/device/{POPULATION[0].push_token.hex()}"
            head = [(":method", "POST"), (":scheme", "https"), (":authority", "test"), (":path", path)]
            peer.h2.send_headers(last, head)
            octets += peer.h2.data_to_send()
        else:
            octets += {"reset": reset, "data": data, "window": window}[what](last)
    peer.socket.sendall(octets)
    final = peer.request()
    peer.flush()
    while not peer.ended and final not in peer.statuses():
        peer.read()
    ended = [event for event in peer.events if isinstance(event, h2.events.ConnectionTerminated)]
    peer.socket.close()
    assert ended == []
    assert final in peer.statuses(), "the connection ended"
    return {stream: status for stream, status in peer.statuses().items() if stream != final}


@pytest.mark.parametrize(
    ("frames", "answered"),
    [
        (("headers", "reset", "request"), [3]),
        (("headers", "reset", "headers", "reset", "request"), [5]),
        (("request", "reset", "request"), [1, 3]),
        (("request", "reset", "headers", "reset", "request"), [1, 5]),
        (("request", "data", "request"), [1, 3]),
        (("request", "data", "data", "reset", "request"), [1, 3]),
        (("headers", "reset", "data", "request"), [3]),
        (("headers", "reset", "window", "data", "reset", "request"), [3]),
        (("request", "window", "request", "window"), [1, 3]),
    ],
)
@pytest.mark.parametrize("provider", ["provider", None])
def test_frames_of_closed_streams_keep_the_connection(
    run_in_reactor: RunInReactor, tmp_path: Path, frames: tuple[str, ...], answered: list[int], provider: str | None
) -> None:
    async def scenario() -> None:
        async with running_gateway(tmp_path) as running:
            found = await in_thread(in_one_segment, running, frames, provider)
            assert found == dict.fromkeys(answered, "403" if provider is None else "200")

    run_in_reactor(scenario())


# What a frame costs


class QuietStream:
    """Takes the place of a TLS connection, whose peer reads everything."""

    state = State.OPEN
    unsent = False
    unsent_bytes = 0

    def __init__(self) -> None:
        self.sent = b""

    def accept(self) -> None:
        """Nobody shakes hands."""

    def write(self, octets: bytes) -> None:
        """The gateway sends bytes."""
        self.sent += octets

    def close(self) -> None:
        """The end."""

    abort = close


class Handshaken:
    """The TLS properties of such a connection."""

    def get_alpn_proto_negotiated(self) -> bytes:
        """HTTP/2."""
        return ALPN


class Nobody:
    """The owner of a connection without a certificate."""

    def identify(self, _tls: object) -> Any:
        """No certificate."""
        return NOBODY

    def identified(self, _connection: object) -> None:
        """HTTP/2 has started."""

    ended = identified


class Conversation:
    """A connection without a certificate: its refusals wait for the peer's flow control."""

    def __init__(self, waiting: int, window: int = 0, **limits: int) -> None:
        clock = Clock()
        router = PushRouter(clock, POPULATION, lambda _: 0, lambda *_: None, RunClock(clock), PushBehaviour())  # type: ignore[arg-type]
        owner: Any = Nobody()
        self.stream: Any = QuietStream()
        self.connection = ProviderConnection(clock, router, GatewayLimits(**limits), owner)  # type: ignore[arg-type]
        self.connection.begin(self.stream, Handshaken())  # type: ignore[arg-type]
        self.connection.secured()
        self.peer = h2.connection.H2Connection()
        self.peer.local_settings = h2.settings.Settings(
            initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        self.peer.initiate_connection()
        self.tell()
        self.ask(waiting)

    def ask(self, count: int) -> None:
        """So many requests, each of which is refused with a body of 33 bytes."""
        path = "/3/device/" + "0" * 64
        head = [(":method", "POST"), (":scheme", "https"), (":authority", "test"), (":path", path)]
        for _ in range(count):
            self.peer.send_headers(self.peer.get_next_available_stream_id(), head, end_stream=True)
        self.tell()

    def tell(self, octets: bytes = b"") -> None:
        """The gateway reads what the peer sends, and the peer what it gets."""
        self.connection.received(self.peer.data_to_send() + octets)
        sent, self.stream.sent = self.stream.sent, b""
        self.events = self.peer.receive_data(sent)

    def steps(self, octets: bytes) -> int:
        """How many calls the gateway makes for these bytes."""
        return calls_of(lambda: self.connection.received(octets))

    def whole(self) -> int:
        """How many answers the peer has in whole, of what came last."""
        return sum(isinstance(event, h2.events.StreamEnded) for event in self.events)


FRAMES = {
    "WINDOW_UPDATE of the connection": window(0),
    "WINDOW_UPDATE of a stream": window(1),
    "WINDOW_UPDATE of a stream that is answered": window(1) * 40,
    "SETTINGS without a larger window": frame(4, 0, b"\x00\x05\x00\x00\x40\x00"),
    "SETTINGS with nothing": frame(4, 0),
    "PING": frame(6, 0, bytes(8)),
    "PRIORITY": frame(2, 1, b"\x00\x00\x00\x00\x10"),
    "RST_STREAM": reset(1),
}


@pytest.mark.parametrize("octets", FRAMES.values(), ids=FRAMES.keys())
def test_cost_of_a_frame_is_independent_of_waiting_answers(octets: bytes) -> None:
    few, many = Conversation(10), Conversation(100)
    assert many.steps(octets) == few.steps(octets)


def test_cost_of_a_window_update_is_proportional_to_the_data_sent() -> None:
    talk = Conversation(1000, window=1000)
    talk.ask(985)  # with these the connection's window of 65,535 bytes is at its end
    assert talk.whole() == 985
    steps = []
    for asked in (10, 190):
        talk.ask(asked)
        assert talk.whole() == 0
        talk.peer.increment_flow_control_window(1)
        steps.append(talk.steps(talk.peer.data_to_send()))
    assert steps[0] == steps[1]
    talk.tell()
    for let_through in (10, 190):
        talk.peer.increment_flow_control_window(33 * let_through)
        talk.tell()
        assert talk.whole() == let_through


@given(st.lists(st.tuples(st.sampled_from([0, 1, 3, 5]), st.integers(1, 40)), max_size=30), st.integers(0, 40))
def test_every_answer_is_complete_once_the_windows_are_open(updates: list[tuple[int, int]], at_first: int) -> None:
    talk = Conversation(3, window=at_first)
    whole = talk.whole()
    for stream, increment in updates:
        with contextlib.suppress(StreamClosedError):  # its answer is whole
            talk.peer.increment_flow_control_window(increment, stream or None)
        talk.tell()
        whole += talk.whole()
    talk.peer.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 4096})
    talk.tell()
    assert whole + talk.whole() == 3


def test_endless_settings_get_enhance_your_calm() -> None:
    talk = Conversation(0, settings=20)
    talk.tell(frame(4, 0) * 30)
    (goaway,) = [event for event in talk.events if isinstance(event, h2.events.ConnectionTerminated)]
    assert goaway.error_code == 11


NOTHING = {
    "PING": frame(6, 0, bytes(8)),
    "PRIORITY": frame(2, 1, b"\x00\x00\x00\x00\x10"),
    "WINDOW_UPDATE": window(0),
    "DATA that is empty": frame(0, 1),
    "of an unknown type": frame(200, 0),
}


@pytest.mark.parametrize("octets", NOTHING.values(), ids=NOTHING.keys())
def test_frames_without_a_request_get_enhance_your_calm(octets: bytes) -> None:
    talk = Conversation(0, window=100, frames=50)
    path = "/3/device/" + "0" * 64
    talk.peer.send_headers(1, [(":method", "POST"), (":scheme", "https"), (":authority", "test"), (":path", path)])
    talk.tell(octets * 20)
    talk.ask(1)
    assert talk.whole() == 1
    talk.tell(octets * 40)  # counted from the last complete request
    assert not [event for event in talk.events if isinstance(event, h2.events.ConnectionTerminated)]
    talk.tell(octets * 40)
    (goaway,) = [event for event in talk.events if isinstance(event, h2.events.ConnectionTerminated)]
    assert goaway.error_code == 11
