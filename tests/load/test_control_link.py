"""The control link over real sockets: who is let in, who is not, and what becomes of a link that breaks its rules."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

import pytest
from conftest import RunInReactor
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from agent.errors import PeerError
from agent.load.control import Begin, ControlError, Finish, Hello, Message, Ready, Warn, encode
from agent.load.control_link import NAME, ControlLink, ControlServer, connect
from agent.pki.issuing.authority import Authority


class Ear:
    """Keeps what it hears; ``refuse`` is what makes no sense to it."""

    def __init__(self, refuse: type[Any] | None = None) -> None:
        self.heard: list[tuple[int, Message]] = []
        self.lost: list[PeerError] = []
        self._refuse = refuse

    def message_received(self, link: ControlLink, message: Message) -> None:
        if self._refuse is not None and isinstance(message, self._refuse):
            raise ControlError("that makes no sense")
        self.heard.append((link.shard, message))

    def link_lost(self, _link: ControlLink, error: PeerError) -> None:
        self.lost.append(error)


async def until(happened: Callable[[], object]) -> None:
    for _ in range(1000):
        if happened():
            return
        await deferLater(reactor, 0.01)
    raise AssertionError("it did not happen")


def test_shard_is_identified_by_its_secret(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        conductor, ears = Ear(), [Ear(), Ear()]
        server = ControlServer(reactor, 2, conductor)
        server.listen()
        links = [
            connect(reactor, server.address, server.ca, Hello(number, server.secrets[number]), ear)
            for number, ear in enumerate(ears)
        ]
        for link in links:
            link.send(Ready())
        await until(lambda: len(conductor.heard) == 2)
        assert sorted(conductor.heard, key=lambda heard: heard[0]) == [(0, Ready()), (1, Ready())]
        server.send(1, Begin(1.5))
        server.broadcast_last(Finish("enough"))
        await until(lambda: len(ears[1].heard) == 2 and ears[0].heard)
        assert [message for _, message in ears[0].heard] == [Finish("enough")]
        assert [message for _, message in ears[1].heard] == [Begin(1.5), Finish("enough")]
        links[0].close()
        await until(lambda: conductor.lost)
        server.close()
        await until(lambda: ears[1].lost)
        assert not ears[0].lost

    run_in_reactor(scenario())


@pytest.mark.parametrize("hello", [Hello(0, "wrong"), Hello(0, ""), Hello(7, "wrong"), Hello(-1, "wrong"), Ready()])
def test_connection_with_a_wrong_secret_is_closed(run_in_reactor: RunInReactor, hello: Any) -> None:
    async def scenario() -> None:
        conductor, stranger = Ear(), Ear()
        server = ControlServer(reactor, 1, conductor)
        server.listen()
        connect(reactor, server.address, server.ca, hello, stranger).send(Warn("let me in"))
        await until(lambda: stranger.lost)
        assert (conductor.heard, conductor.lost, stranger.heard) == ([], [], [])
        server.close()

    run_in_reactor(scenario())


def test_second_connection_with_one_secret_is_closed(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        conductor, first, second = Ear(), Ear(), Ear()
        server = ControlServer(reactor, 1, conductor)
        server.listen()
        hello = Hello(0, server.secrets[0])
        connect(reactor, server.address, server.ca, hello, first).send(Ready())
        await until(lambda: conductor.heard)
        connect(reactor, server.address, server.ca, hello, second)
        await until(lambda: second.lost)
        assert not first.lost
        server.close()

    run_in_reactor(scenario())


def test_shard_sends_nothing_to_a_conductor_with_another_certificate(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        conductor, shard = Ear(), Ear()
        server = ControlServer(reactor, 1, conductor)
        server.listen()
        other = Authority.create("somebody else's CA").certificate

        connect(reactor, server.address, other.public_bytes(Encoding.DER), Hello(0, server.secrets[0]), shard)
        await until(lambda: shard.lost)
        assert conductor.heard == []
        server.close()

    run_in_reactor(scenario())


def test_malformed_message_closes_its_link_only(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        conductor, one, two = Ear(refuse=Warn), Ear(), Ear()
        server = ControlServer(reactor, 2, conductor)
        server.listen()
        links = [
            connect(reactor, server.address, server.ca, Hello(number, server.secrets[number]), ear)
            for number, ear in enumerate((one, two))
        ]
        links[0].send(Warn("nonsense"))
        await until(lambda: one.lost)
        links[1].send(Ready())
        await until(lambda: conductor.heard)
        assert conductor.heard == [(1, Ready())]
        assert len(conductor.lost) == 1
        server.close()

    run_in_reactor(scenario())


@pytest.mark.parametrize(
    "octets", [struct.pack(">I", 1 << 31), struct.pack(">I", 4) + b"\xc1\xc1\xc1\xc1", b"GET / HTTP/1.1\r\n"]
)
def test_malformed_hello_closes_the_connection(run_in_reactor: RunInReactor, octets: bytes) -> None:
    async def scenario() -> None:
        conductor = Ear()
        server = ControlServer(reactor, 1, conductor)
        server.listen()

        def call() -> bytes:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with (
                socket.create_connection(server.address, timeout=10) as plain,
                context.wrap_socket(plain, server_hostname=NAME) as tls,
            ):
                tls.sendall(octets)
                return tls.recv(1)

        assert await deferToThread(call) == b""
        assert conductor.heard == []
        server.close()

    run_in_reactor(scenario())


def test_frame_starts_with_its_length() -> None:
    assert encode(Ready())[:4] == struct.pack(">I", len(encode(Ready())) - 4)
