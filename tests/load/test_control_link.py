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
from msgspec.structs import replace
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from agent.errors import PeerError
from agent.load.control.admission import digest_of
from agent.load.control.link import ControlLink, ControlServer, connect
from agent.load.control.messages import Alive, Begin, ControlError, Finish, Message, Ready, Refused, Warn, encode
from agent.pki.issuing.authority import Authority


class Ear:
    """Keeps what it hears; ``refuse`` is what makes no sense to it."""

    def __init__(self, refuse: type[Any] | None = None) -> None:
        self.heard: list[tuple[int, Message]] = []
        self.lost: list[PeerError] = []
        self.admitted: list[tuple[int, str]] = []
        self._refuse = refuse

    def message_received(self, link: ControlLink, message: Message) -> None:
        if self._refuse is not None and isinstance(message, self._refuse):
            raise ControlError("that makes no sense")
        self.heard.append((link.shard, message))

    def link_lost(self, _link: ControlLink, error: PeerError) -> None:
        self.lost.append(error)

    def joined(self, link: ControlLink, host: str) -> None:
        self.admitted.append((link.shard, host))


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
        links = [connect(reactor, server.invite(number), ear) for number, ear in enumerate(ears)]
        for link in links:
            link.send(Ready())
        await until(lambda: len(conductor.heard) == 2)
        assert sorted(conductor.heard, key=lambda heard: heard[0]) == [(0, Ready()), (1, Ready())]
        assert sorted(conductor.admitted) == [(0, "127.0.0.1"), (1, "127.0.0.1")]
        server.send(1, Begin(1.5, 0.5))
        server.broadcast_last(Finish("enough"))
        await until(lambda: len(ears[1].heard) == 2 and ears[0].heard)
        assert [message for _, message in ears[0].heard] == [Finish("enough")]
        assert [message for _, message in ears[1].heard] == [Begin(1.5, 0.5), Finish("enough")]
        links[0].close()
        await until(lambda: conductor.lost)
        server.close()
        await until(lambda: ears[1].lost)
        assert not ears[0].lost

    run_in_reactor(scenario())


@pytest.mark.parametrize("secret", ["wrong", ""])
def test_connection_with_a_wrong_secret_is_closed(run_in_reactor: RunInReactor, secret: str) -> None:
    async def scenario() -> None:
        conductor, stranger = Ear(), Ear()
        server = ControlServer(reactor, 1, conductor)
        server.listen()
        connect(reactor, replace(server.invite(), secret=secret), stranger).send(Warn("let me in"))
        await until(lambda: stranger.lost)
        assert (conductor.heard, conductor.lost, stranger.heard) == ([], [], [])
        server.close()

    run_in_reactor(scenario())


def test_second_shard_of_a_number_is_refused_also_after_the_first_is_lost(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        conductor, first, second, third = Ear(), Ear(), Ear(), Ear()
        server = ControlServer(reactor, 1, conductor)
        server.listen()
        invitation = server.invite(0)
        link = connect(reactor, invitation, first)
        link.send(Ready())
        await until(lambda: conductor.heard)
        connect(reactor, invitation, second)
        await until(lambda: second.heard)
        assert not first.lost
        link.close()
        await until(lambda: conductor.lost)
        connect(reactor, invitation, third)
        await until(lambda: third.heard)
        for ear in (second, third):
            ((_, refused),) = ear.heard
            assert isinstance(refused, Refused)
            assert "would enroll twice" in refused.reason
        assert conductor.admitted == [(0, "127.0.0.1")]
        server.close()

    run_in_reactor(scenario())


def test_secret_made_elsewhere_is_accepted_once_it_is_announced(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        conductor, shard = Ear(), Ear()
        server = ControlServer(reactor, 2, conductor)
        server.listen()
        link = connect(reactor, replace(server.invite_without_secret(1), secret="made there"), shard)
        link.send(Alive())
        await until(lambda: server._unknown)  # its Hello has arrived
        assert conductor.admitted == []
        server.announce(1, digest_of("made there"))
        link.send(Ready())
        await until(lambda: conductor.heard)
        assert conductor.admitted == [(1, "127.0.0.1")]
        server.close()

    run_in_reactor(scenario())


def test_conductor_is_judged_by_the_name_that_the_worker_connects_to(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        conductor, right, wrong = Ear(), Ear(), Ear()
        server = ControlServer(reactor, 2, conductor, names=("conductor.example", "127.0.0.1"))
        server.listen()
        assert server.invite().host == "conductor.example"
        connect(reactor, server.invite(address="127.0.0.1"), right).send(Ready())
        await until(lambda: conductor.heard)
        connect(reactor, replace(server.invite(address="127.0.0.1"), host="other.example"), wrong)
        await until(lambda: wrong.lost)
        assert "expected a server certificate for other.example" in str(wrong.lost[0])
        assert len(conductor.admitted) == 1
        server.close()

    run_in_reactor(scenario())


def test_shard_sends_nothing_to_a_conductor_with_another_certificate(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        conductor, shard = Ear(), Ear()
        server = ControlServer(reactor, 1, conductor)
        server.listen()
        other = Authority.create("somebody else's CA").certificate

        connect(reactor, replace(server.invite(0), ca=other.public_bytes(Encoding.DER)), shard)
        await until(lambda: shard.lost)
        assert conductor.heard == []
        server.close()

    run_in_reactor(scenario())


def test_malformed_message_closes_its_link_only(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        conductor, one, two = Ear(refuse=Warn), Ear(), Ear()
        server = ControlServer(reactor, 2, conductor)
        server.listen()
        links = [connect(reactor, server.invite(number), ear) for number, ear in enumerate((one, two))]
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
                socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as tls,
            ):
                tls.sendall(octets)
                return tls.recv(1)

        assert await deferToThread(call) == b""
        assert conductor.heard == []
        server.close()

    run_in_reactor(scenario())


def test_frame_starts_with_its_length() -> None:
    assert encode(Ready())[:4] == struct.pack(">I", len(encode(Ready())) - 4)
