"""What a new connection is not charged for: each is counted in steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from conftest import RunInReactor
from cryptography import x509
from OpenSSL import crypto
from servers import AUTHORITY, HOST, Names, Talk, TLSServer, answer, ask, serving

from agent.net.http import connection as http_connection
from agent.net.http import resumption as http_resumption
from agent.net.http.connection import HTTPConnection
from agent.net.http.resumption import Resumption
from agent.net.transport.resolver import Resolver
from agent.net.transport.stream import State, TLSStream
from agent.net.transport.tls import TLSContexts
from agent.pki import verify
from agent.pki.issuing.authority import CLIENT_USAGE

MAC = AUTHORITY.issue("mac", CLIENT_USAGE)
REQUESTS = 3


def closes(talk: Talk) -> None:
    talk.send(answer(200, talk.read_request().body, "Connection: close"))
    talk.close()


def keeps(talk: Talk) -> None:
    for _ in range(REQUESTS):
        talk.send(answer(200, talk.read_request().body))
    talk.wait_for_end()


@pytest.fixture
def server() -> Iterator[TLSServer]:
    with serving(closes, require_certificate=True) as running:
        running.context.set_session_id(b"mdm")
        yield running


async def requests(server: TLSServer, resumption: Resumption | None = None) -> None:
    from twisted.internet import reactor

    connection = HTTPConnection(
        reactor,
        Resolver(reactor, Names({"mdm.test": [HOST]})),
        TLSContexts(),
        server.origin(),
        (AUTHORITY.certificate,),
        MAC,
        resumption=resumption,
    )
    for _ in range(REQUESTS):
        assert (await ask(connection, server.origin(), b"x")).body == b"x"
    connection.close()


@pytest.mark.parametrize(("serves", "replaced"), [(closes, 0), (keeps, 1)])
def test_identity_is_replaced_only_on_a_kept_connection(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch, serves: Callable[[Talk], None], replaced: int
) -> None:
    calls = []
    monkeypatch.setattr(http_connection, "let_go_of_identity", lambda *_: calls.append(1))
    with serving(serves, require_certificate=True) as server:
        run_in_reactor(requests(server))
    assert len(calls) == replaced


def test_client_does_not_read_before_it_has_asked(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch, server: TLSServer
) -> None:
    reads: list[State] = []
    do_read, receive = TLSStream.doRead, TLSStream._receive
    turn: list[State] = []

    def doRead(stream: TLSStream) -> None:
        turn.append(stream.state)
        do_read(stream)
        turn.pop()

    def counted(stream: TLSStream) -> bool:
        reads.append(turn[-1])
        return receive(stream)

    monkeypatch.setattr(TLSStream, "doRead", doRead)
    monkeypatch.setattr(TLSStream, "_receive", counted)
    run_in_reactor(requests(server))
    assert set(reads) == {State.OPEN}


def test_resumed_connections_take_over_when_the_certificate_expires(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch, server: TLSServer
) -> None:
    read: list[object] = []
    peer_certificate = http_resumption.peer_certificate
    monkeypatch.setattr(http_resumption, "peer_certificate", lambda tls: read.append(tls) or peer_certificate(tls))
    run_in_reactor(requests(server, Resumption(1.0, lambda: 0.0, lambda: 0.0)))
    assert len(read) == 1


def test_certificates_of_cas_are_not_converted(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch, server: TLSServer
) -> None:
    converted: list[x509.Certificate] = []
    from_openssl = verify.from_openssl

    def counted(certificate: crypto.X509) -> x509.Certificate:
        converted.append(from_openssl(certificate))
        return converted[-1]

    monkeypatch.setattr(verify, "from_openssl", counted)
    run_in_reactor(requests(server))
    assert len(converted) == REQUESTS
    assert AUTHORITY.certificate not in converted
