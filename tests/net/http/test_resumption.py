"""TLS sessions that are resumed: who offers which session to whom, and that the peer is known all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import RunInReactor
from cryptography import x509
from msgspec.structs import replace
from OpenSSL import SSL
from servers import AUTHORITY, HOST, IDENTITY, Names, Talk, TLSServer, answer, ask, echo, serving, until
from stack import Stack

from agent.fleet.chance import Chance
from agent.fleet.population import Population
from agent.mdm.access_rights import ALL_RIGHTS
from agent.net.http.connection import HTTPConnection
from agent.net.http.faulty import InjectedReset
from agent.net.http.http1 import Origin
from agent.net.http.resumption import ResumedCheck, Resumption, binding_of
from agent.net.mac.fleet.macs import Fleet
from agent.net.transport import openssl_direct
from agent.net.transport.plain import Unchecked
from agent.net.transport.resolver import Resolver
from agent.net.transport.tls import TLSContexts
from agent.pki.identity import Identity
from agent.pki.issuing.authority import CLIENT_USAGE, SERVER_USAGE, Authority
from agent.pki.verify import PeerCheck, PeerRejected, server_judge
from agent.profiles.enrollment import TOPIC_PREFIX, Enrollment

MAC = AUTHORITY.issue("mac", CLIENT_USAGE)
NOW = datetime.now(UTC).timestamp()


def closes(talk: Talk) -> None:
    """Answer one request, then close in good order, as a server does after its keep-alive time."""
    talk.send(answer(200, talk.read_request().body, "Connection: close"))
    talk.close()


def empties(talk: Talk) -> None:
    """The same without a body, as the answer to a report when nothing is queued."""
    talk.read_request()
    talk.send(answer(200, b"", "Connection: close"))
    talk.close()


@pytest.fixture(params=[False, True], ids=["TLS 1.3", "TLS 1.2"])
def server(request: pytest.FixtureRequest) -> Iterator[TLSServer]:
    """A server of one answer a connection that gives tickets to Macs with certificates."""
    with serving(closes, require_certificate=True, tls_1_2=request.param) as running:
        running.context.set_session_id(b"mdm")
        yield running


class Macs:
    """Connections to one server over the same contexts; ``stages`` are the stages that they reported."""

    def __init__(self, server: TLSServer) -> None:
        self.server = server
        self.contexts = TLSContexts()
        self.stages: list[str] = []

    def connection(
        self,
        resumption: Resumption | None,
        *,
        origin: Origin | None = None,
        identity: Identity = MAC,
        anchors: Sequence[x509.Certificate] = (AUTHORITY.certificate,),
        pins: Sequence[x509.Certificate] = (),
    ) -> HTTPConnection:
        from twisted.internet import reactor

        origin = origin or self.server.origin()
        return HTTPConnection(
            reactor,
            Resolver(reactor, Names({"mdm.test": [HOST]})),
            self.contexts,
            origin,
            anchors,
            identity,
            check_of=lambda host: PeerCheck(server_judge(host), pins),
            stage=lambda name, seconds: self.stages.append(name) if seconds >= 0.0 else None,
            resumption=resumption,
            binding=binding_of(origin, identity, anchors, pins),
        )

    async def ask(self, connection: HTTPConnection, times: int = 1) -> None:
        """So many requests; the server closes the connection after each."""
        for _ in range(times):
            response = await ask(connection, self.server.origin(), b"x")
            assert response.body == b"x"

    @property
    def handshakes(self) -> tuple[int, int]:
        """Full ones, and those that were resumed."""
        reported = self.stages.count("handshake"), self.stages.count("handshake_resumed")
        assert reported == (self.contexts.handshakes_full, self.contexts.handshakes_resumed)
        return reported


def always() -> Resumption:
    return Resumption(1.0, lambda: 0.0, lambda: NOW)


def test_every_later_connection_resumes_the_session(run_in_reactor: RunInReactor, server: TLSServer) -> None:
    macs = Macs(server)
    run_in_reactor(macs.ask(macs.connection(always()), 5))
    assert macs.handshakes == (1, 4)
    assert [request.certificate for request in server.requests] == [MAC.certificate] * 5
    assert macs.contexts.open_connections == 0


def test_without_resumption_every_handshake_is_full(run_in_reactor: RunInReactor, server: TLSServer) -> None:
    macs = Macs(server)
    run_in_reactor(macs.ask(macs.connection(None), 3))
    assert macs.handshakes == (3, 0)


def test_resumption_share_applies_to_connections_and_follows_from_the_seed(
    run_in_reactor: RunInReactor, server: TLSServer
) -> None:
    mac = Population("resume", 1)[0]
    numbers = Chance(mac.source, mac.index, b"resume")
    offers = [numbers() < 0.5 for _ in range(20)]
    macs = Macs(server)
    connection = macs.connection(Resumption(0.5, Chance(mac.source, mac.index, b"resume"), lambda: NOW))
    run_in_reactor(macs.ask(connection, 20))
    assert macs.handshakes[1] == sum(offers[1:])  # the first has nothing to offer


@pytest.mark.parametrize(("resume", "handshakes"), [(0.0, (4, 0)), (1.0, (1, 3))])
def test_mac_resumes_sessions_with_its_mdm_server(
    run_in_reactor: RunInReactor, server: TLSServer, resume: float, handshakes: tuple[int, int]
) -> None:
    """The server closes after each report."""
    running = Stack(1)
    environment = replace(
        running.environment, anchors=(AUTHORITY.certificate,), resume=resume, stage=lambda _name, _seconds: None
    )
    (mac,) = Fleet(Population("stack", 1), environment)
    server.scripts = (empties,)
    mac.device.enrollment = Enrollment(
        server_url=f"{server.url}/mdm",
        check_in_url=f"{server.url}/checkin",
        topic=f"{TOPIC_PREFIX}External.x",
        access_rights=ALL_RIGHTS,
        identity=MAC,
        anchors=(),
    )

    async def scenario() -> None:
        for turn in range(1, 5):
            mac.wake()
            await until(lambda: len(running.exchanges) == turn)  # noqa: B023
        mac.close()

    run_in_reactor(scenario())
    running.keys.close()
    assert [exchange.failure for exchange in running.exchanges] == [None] * 4
    assert (environment.contexts.handshakes_full, environment.contexts.handshakes_resumed) == handshakes
    assert environment.open_connections == 0


# Bound to the peer


OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("another identity", {"identity": AUTHORITY.issue("another mac", CLIENT_USAGE)}),
    ("other anchors", {"anchors": (AUTHORITY.certificate, Authority.create("One more CA").certificate)}),
    ("pins", {"pins": (AUTHORITY.certificate,)}),
]


@pytest.mark.parametrize(("options"), [options for _, options in OTHERS], ids=[name for name, _ in OTHERS])
def test_session_is_offered_only_with_the_same_identity_and_trust(
    run_in_reactor: RunInReactor, server: TLSServer, options: dict[str, Any]
) -> None:
    macs, resumption = Macs(server), always()

    async def scenario() -> None:
        await macs.ask(macs.connection(resumption))
        await macs.ask(macs.connection(resumption, **options))

    run_in_reactor(scenario())
    assert macs.handshakes == (2, 0)
    assert server.requests[1].certificate == options.get("identity", MAC).certificate


def test_a_session_is_not_offered_to_another_name_of_the_same_server(
    run_in_reactor: RunInReactor, server: TLSServer
) -> None:
    macs, resumption = Macs(server), always()

    async def scenario() -> None:
        await macs.ask(macs.connection(resumption))
        await macs.ask(macs.connection(resumption, origin=server.origin("mdm.test")))

    run_in_reactor(scenario())
    assert macs.handshakes == (2, 0)


def test_a_session_does_not_outlive_the_servers_certificate(run_in_reactor: RunInReactor) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=5)
    clock = [soon.timestamp() - 1.0]
    identity = AUTHORITY.issue("server", SERVER_USAGE, names=[HOST], not_after=soon)
    with serving(closes, identity=identity, require_certificate=True) as server:
        server.context.set_session_id(b"mdm")
        macs = Macs(server)
        connection = macs.connection(Resumption(1.0, lambda: 0.0, lambda: clock[0]))
        run_in_reactor(macs.ask(connection, 2))
        assert macs.handshakes == (1, 1)
        clock[0] = soon.timestamp() + 1.0
        run_in_reactor(macs.ask(connection))
        assert macs.handshakes == (2, 1)


def test_server_that_does_not_resume_is_fully_verified(run_in_reactor: RunInReactor) -> None:
    """The same port, another server: with a good certificate it is taken, with a bad one refused."""
    resumption = always()
    with serving(closes, require_certificate=True) as first:
        first.context.set_session_id(b"mdm")
        macs = Macs(first)
        run_in_reactor(macs.ask(macs.connection(resumption)))
        port = first.port
    with serving(closes, port=port, require_certificate=True) as second:
        second.context.set_session_id(b"mdm")
        macs.server = second
        run_in_reactor(macs.ask(macs.connection(resumption)))
        assert macs.handshakes == (2, 0)
    wrong = Authority.create("Another CA").issue("server", SERVER_USAGE, names=[HOST])
    with serving(closes, port=port, identity=wrong) as third:
        macs.server = third
        connection = macs.connection(resumption)

        async def scenario() -> None:
            with pytest.raises(PeerRejected):
                await ask(connection, third.origin(), b"secret")

        run_in_reactor(scenario())
        assert third.requests == []
    assert macs.contexts.open_connections == 0


def test_session_is_lost_when_the_mac_goes_down(run_in_reactor: RunInReactor, server: TLSServer) -> None:
    macs, resumption = Macs(server), always()

    async def scenario() -> None:
        connection = macs.connection(resumption)
        await macs.ask(connection)
        resumption.forget()
        await macs.ask(connection)

    run_in_reactor(scenario())
    assert macs.handshakes == (2, 0)


@pytest.mark.parametrize("end", ["close", "abort", "break_off"])
def test_a_session_is_kept_however_the_connection_ends(run_in_reactor: RunInReactor, end: str) -> None:
    """A fault rule resets a connection, a Mac hangs up: the ticket was received before that."""
    with serving(echo, require_certificate=True) as server:
        server.context.set_session_id(b"mdm")
        macs, resumption = Macs(server), always()

        async def scenario() -> None:
            for _ in range(2):
                connection = macs.connection(resumption)
                await macs.ask(connection)
                if end == "break_off":
                    connection.break_off(InjectedReset("a fault rule"), in_order=False)
                else:
                    getattr(connection, end)()

        run_in_reactor(scenario())
    assert macs.handshakes == (1, 1)


def test_resumed_peer_without_certificate_keeps_its_identity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tls = SSL.Connection(SSL.Context(SSL.TLS_METHOD))
    inner = PeerCheck(server_judge(HOST))
    offered = ResumedCheck(inner, tls, HOST, 0.0)
    with pytest.raises(PeerRejected):  # OpenSSL knows of no resumed session
        _ = offered.name
    monkeypatch.setattr("agent.net.http.resumption.was_resumed", lambda _tls: True)
    assert (offered.name, offered.resumed, offered.rejected) == (HOST, True, None)
    shown = ResumedCheck(Unchecked("shown"), tls, HOST, 0.0)
    assert shown(tls, None, 0, 0, 1)  # type: ignore[arg-type]
    assert (shown.name, shown.resumed) == ("shown", False)


# The private calls, and the public way beside them


@pytest.fixture(params=[True, False], ids=["direct", "public"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways, whatever this OpenSSL has."""
    if request.param and not openssl_direct.DIRECT:
        pytest.skip("this pyOpenSSL has not the names")
    monkeypatch.setattr(openssl_direct, "DIRECT", request.param)
    return bool(request.param)


def test_pyopenssl_has_every_name_that_is_used() -> None:
    assert openssl_direct.DIRECT


@pytest.mark.parametrize("turns", [3])
def test_both_implementations_resume_and_present_the_identity(
    run_in_reactor: RunInReactor, server: TLSServer, way: bool, turns: int
) -> None:
    macs = Macs(server)
    run_in_reactor(macs.ask(macs.connection(always()), turns))
    assert macs.handshakes == (1, turns - 1)
    assert [request.certificate for request in server.requests] == [MAC.certificate] * turns


@pytest.mark.usefixtures("way")
def test_both_implementations_report_an_unusable_identity() -> None:
    for _ in range(2):  # what is kept of the first time must not hide it
        tls = SSL.Connection(SSL.Context(SSL.TLS_METHOD))
        with pytest.raises(SSL.Error) as caught:
            openssl_direct.use_identity(tls, Identity(IDENTITY.certificate, AUTHORITY.identity.key))
        assert [entry[-1] for entry in caught.value.args[0]] == ["key values mismatch"]


def test_invalid_session_bytes_are_not_offered() -> None:
    assert not openssl_direct.offer_session(SSL.Connection(SSL.Context(SSL.TLS_METHOD)), b"\x30\x00")


# The reported stages of a connection, and the number of open connections


def stages_of(run_in_reactor: RunInReactor, script: Callable[[Talk], None], requests: int) -> tuple[list[str], int]:
    with serving(script) as server:
        macs = Macs(server)
        open_now = []

        async def scenario() -> None:
            connection = macs.connection(None)
            assert macs.contexts.open_connections == 0
            await macs.ask(connection, requests)
            open_now.append(macs.contexts.open_connections)
            connection.close()
            assert macs.contexts.open_connections == 0

        run_in_reactor(scenario())
    return macs.stages, open_now[0]


def test_stages_of_requests_over_one_connection(run_in_reactor: RunInReactor) -> None:
    stages, open_connections = stages_of(run_in_reactor, echo, 2)
    assert stages == ["connect", "handshake", "first_byte", "request", "first_byte", "request"]
    assert open_connections == 1


def test_stages_of_requests_over_separate_connections(run_in_reactor: RunInReactor) -> None:
    stages, open_connections = stages_of(run_in_reactor, closes, 2)
    assert stages == ["connect", "handshake", "first_byte", "request"] * 2
    assert open_connections == 0


def test_first_byte_stage_ends_before_the_request_stage(run_in_reactor: RunInReactor) -> None:
    def in_pieces(talk: Talk) -> None:
        octets = answer(200, talk.read_request().body)
        for octet in octets:
            talk.send(bytes([octet]))
        talk.wait_for_end()

    stages, _ = stages_of(run_in_reactor, in_pieces, 1)
    assert stages == ["connect", "handshake", "first_byte", "request"]


@pytest.mark.parametrize("end", [HTTPConnection.close, HTTPConnection.abort], ids=["close", "abort"])
def test_ended_connection_is_not_counted_as_open(
    run_in_reactor: RunInReactor, end: Callable[[HTTPConnection], None]
) -> None:
    with serving() as server:
        macs = Macs(server)

        async def scenario() -> None:
            connections = [macs.connection(None) for _ in range(3)]
            for connection in connections:
                await macs.ask(connection)
            assert macs.contexts.open_connections == 3
            for connection in connections:
                end(connection)
                end(connection)
            assert macs.contexts.open_connections == 0

        run_in_reactor(scenario())
