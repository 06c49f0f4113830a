"""Answers that are read together with the short frame that a server sends alone before them."""

from __future__ import annotations

import fcntl
import select
import struct
import sys
import termios
from collections.abc import Callable
from threading import Event

import pytest
from conftest import RunInReactor
from http2_peers import frame, u32
from http2_servers import H2, H2Talk, speaking
from servers import TLSServer, ask, client, serving, until

from agent.net.http import connection as connections
from agent.net.http.connection import BOTH, HTTPConnection
from agent.net.http.http2 import StreamReset
from agent.net.transport import joined
from agent.net.transport.tls import TLSContexts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system holds no bytes back")

WINDOW_UPDATE_RECORD = 5 + 13 + 1 + 16  # bytes of TLS 1.3


class Turns:
    """``sent``: the server has sent what comes before its answer; ``read``: the client has seen to it."""

    def __init__(self) -> None:
        self.sent, self.read = Event(), Event()


def answers_after_updates(turns: Turns) -> Callable[[H2Talk], None]:
    """Answer with the body after a WINDOW_UPDATE, which is alone until ``read``; "reset", "short": as they say."""

    def script(talk: H2Talk) -> None:
        while True:
            stream = talk.read_request()
            if talk.body == b"reset":
                talk.talk.send(frame(3, 0, stream, u32(2)))
                continue
            if talk.body == b"short":
                talk.talk.send(frame(1, 5, stream, b"\x88"))
                continue
            talk.talk.send(frame(8, 0, stream, u32(1000)))
            turns.sent.set()
            turns.read.wait(60)
            turns.read.clear()
            talk.answer(stream, talk.body)

    return script


def to(server: TLSServer, contexts: TLSContexts) -> HTTPConnection:
    return client(server.origin(), alpn=BOTH, contexts=contexts)


async def learns(connection: HTTPConnection, server: TLSServer, turns: Turns) -> None:
    """Send requests until answers are read with what comes before them."""
    for _ in range(5):
        turns.sent.clear()
        answered = ask(connection, server.origin(), b"body")
        await until(lambda: turns.sent.is_set() and not waiting_bytes(connection))
        turns.read.set()
        assert (await answered).body == b"body"
        if reads_together(connection):
            return
    pytest.fail("the answers are still read alone")


def reads_together(connection: HTTPConnection) -> bool:
    stream = connection._stream
    return stream is not None and stream.joining


def waiting_bytes(connection: HTTPConnection) -> int:
    assert connection._stream is not None
    return int(struct.unpack("i", fcntl.ioctl(connection._stream.fileno(), termios.FIONREAD, bytes(4)))[0])


def test_a_window_update_is_read_with_the_answer(run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch) -> None:
    turns, contexts, sizes = Turns(), TLSContexts(), list[int]()
    received = HTTPConnection.received

    def counted(connection: HTTPConnection, octets: bytes) -> None:
        sizes.append(len(octets))
        received(connection, octets)

    monkeypatch.setattr(joined, "LOOK_SECONDS", 3600.0)
    monkeypatch.setattr(connections, "LOOK_SECONDS", 3600.0)
    with serving(speaking(answers_after_updates(turns)), alpn=(H2,)) as server:
        connection = to(server, contexts)

        async def scenario() -> None:
            await learns(connection, server, turns)
            monkeypatch.setattr(HTTPConnection, "received", counted)
            answered = ask(connection, server.origin(), b"body of the last")
            await until(lambda: waiting_bytes(connection) == WINDOW_UPDATE_RECORD)
            assert connection._stream is not None
            poll = select.poll()
            poll.register(connection._stream.fileno(), select.POLLIN)
            assert poll.poll(0) == []
            turns.read.set()
            assert (await answered).body == b"body of the last"
            connection.close()

        run_in_reactor(scenario())
    assert len(sizes) == 1
    assert contexts.joined._timer is None


@pytest.mark.parametrize("body", [b"reset", b"short"])
def test_a_short_frame_that_is_all_is_not_left_unread(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    turns, contexts = Turns(), TLSContexts()
    monkeypatch.setattr(joined, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.01)
    with serving(speaking(answers_after_updates(turns)), alpn=(H2,)) as server:
        connection = to(server, contexts)

        async def scenario() -> None:
            await learns(connection, server, turns)
            if body == b"reset":
                with pytest.raises(StreamReset):
                    await ask(connection, server.origin(), body)
            else:
                assert (await ask(connection, server.origin(), body)).status == 200
            connection.close()

        run_in_reactor(scenario())
    assert contexts.joined._timer is None


def test_requests_whose_answer_may_be_short_are_read_as_they_come(run_in_reactor: RunInReactor) -> None:
    """One without a body: a server does not send WINDOW_UPDATE for it."""
    turns, contexts = Turns(), TLSContexts()
    with serving(speaking(answers_after_updates(turns)), alpn=(H2,)) as server:
        connection = to(server, contexts)

        async def scenario() -> None:
            await learns(connection, server, turns)
            turns.read.set()
            assert (await ask(connection, server.origin(), b"")).status == 200
            assert not reads_together(connection)
            await learns(connection, server, turns)
            connection.close()

        run_in_reactor(scenario())
