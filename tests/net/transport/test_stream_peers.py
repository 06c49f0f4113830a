"""Whom a TLS stream takes for whom: verification is never skipped."""

from __future__ import annotations

import select
import socket

import pytest
from conftest import RunInReactor
from OpenSSL import SSL
from servers import AUTHORITY, HOST, JOIN_SECONDS, Talk, serving
from stream_ends import Owner, accepting_stream, beside, client_stream, peer

from agent.errors import PeerError
from agent.net.transport.stream import TLSStream, start_connect
from agent.net.transport.tls import make_context, server_name_of
from agent.pki.issuing.authority import CLIENT_USAGE, LOM_USAGE, Authority
from agent.pki.verify import NoCertificate, PeerCheck, PeerRejected, server_judge

MAC = AUTHORITY.issue("mac.test", LOM_USAGE, names=["mac.test"])


def test_unused_check_has_no_peer_name() -> None:
    with pytest.raises(NoCertificate):
        _ = PeerCheck(lambda _certificate: "anyone").name


def test_stream_without_a_check_is_not_opened(run_in_reactor: RunInReactor) -> None:
    """The handshake succeeds, as OpenSSL was not asked to verify: the stream itself refuses."""
    from twisted.internet import reactor

    with serving() as server:
        owner = Owner()

        async def scenario() -> PeerError:
            sock = start_connect(socket.AF_INET, (HOST, server.port))
            tls = SSL.Connection(SSL.Context(SSL.TLS_METHOD), sock)
            tls.set_connect_state()
            TLSStream(reactor, sock, tls, PeerCheck(server_judge(HOST)), owner).connect()
            return await owner.ended

        assert isinstance(run_in_reactor(scenario()), NoCertificate)
        assert owner.calls == ["lost"]


def test_context_without_a_check_refuses_every_peer(run_in_reactor: RunInReactor) -> None:
    from twisted.internet import reactor

    with serving() as server:
        owner = Owner()

        async def scenario() -> PeerError:
            sock = start_connect(socket.AF_INET, (HOST, server.port))
            tls = SSL.Connection(make_context([AUTHORITY.certificate]), sock)
            tls.set_connect_state()
            TLSStream(reactor, sock, tls, PeerCheck(server_judge(HOST)), owner).connect()
            return await owner.ended

        error = run_in_reactor(scenario())
        assert (error.kind, "certificate verify failed" in str(error)) == ("tls", True)
        assert owner.calls == ["lost"]


def test_peer_without_a_certificate_is_refused_after_the_handshake(run_in_reactor: RunInReactor) -> None:
    def anonymous(sock: socket.socket) -> None:
        connection = peer(sock)
        connection.do_handshake()
        with pytest.raises(SSL.Error):
            connection.recv(1)

    owner = Owner()
    with beside(anonymous) as sock:

        async def scenario() -> PeerError:
            accepting_stream(sock, owner, optional=True)
            return await owner.ended

        assert isinstance(run_in_reactor(scenario()), NoCertificate)
    assert owner.calls == ["lost"]


@pytest.mark.parametrize("version", [SSL.TLS1_3_VERSION, SSL.TLS1_2_VERSION], ids=["TLS 1.3", "TLS 1.2"])
def test_returning_peer_is_verified_again(run_in_reactor: RunInReactor, version: int) -> None:
    """A resumed session shows no certificate, so none is resumed; the second time is a handshake as the first."""
    server, client = make_context([AUTHORITY.certificate]), SSL.Context(SSL.TLS_CLIENT_METHOD)
    client.set_max_proto_version(version)
    sessions: list[SSL.Session | None] = [None]

    def comes(sock: socket.socket) -> None:
        connection = peer(sock, MAC, client)
        if sessions[-1] is not None:
            connection.set_session(sessions[-1])
        connection.do_handshake()
        connection.send(b"hello")
        assert connection.recv(5) == b"hello"
        sessions.append(connection.get_session())
        connection.shutdown()

    for _ in range(2):
        owner = Owner()
        with beside(comes) as sock:

            async def scenario(owner: Owner = owner, sock: socket.socket = sock) -> str:
                stream = accepting_stream(sock, owner, context=server)
                owner.on_received = lambda: stream.write(owner.octets)
                await owner.ended
                return stream.peer_name

            assert run_in_reactor(scenario()) == "mac.test"
    assert sessions[-1] is not None


def test_peer_name_and_tls_parameters_are_reported(run_in_reactor: RunInReactor) -> None:
    with serving() as server:
        owner = Owner()

        async def scenario() -> tuple[str, str, str]:
            stream = client_stream(server.port, owner)
            await owner.opened
            stream.close()
            return stream.peer_name, stream.version, stream.cipher

        name, version, cipher = run_in_reactor(scenario())
        assert (name, version) == (HOST, "TLSv1.3")
        assert cipher.startswith("TLS_")


def test_tls_1_1_is_refused(run_in_reactor: RunInReactor) -> None:
    def old(sock: socket.socket) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_1_VERSION)
        context.set_max_proto_version(SSL.TLS1_1_VERSION)
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
        with pytest.raises(SSL.Error):
            peer(sock, MAC, context).do_handshake()

    owner = Owner()
    context = make_context([AUTHORITY.certificate])
    context.set_cipher_list(b"ALL:@SECLEVEL=0")  # else OpenSSL's own level would refuse it
    with beside(old) as sock:

        async def scenario() -> PeerError:
            accepting_stream(sock, owner, context=context)
            return await owner.ended

        assert run_in_reactor(scenario()).kind == "tls"
    assert owner.calls == ["lost"]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("mdm.example.org", b"mdm.example.org"),
        ("bücher.example", b"xn--bcher-kva.example"),
        ("192.0.2.1", b""),
        ("2001:db8::1", b""),
        ("a..b", b""),
        ("x" * 64, b""),
    ],
)
def test_server_name_of_the_client_hello_is_reported(host: str, name: bytes) -> None:
    assert server_name_of(host) == name


def test_client_certificate_with_wrong_usage_is_refused(run_in_reactor: RunInReactor) -> None:
    mac = AUTHORITY.issue("mac.test", CLIENT_USAGE)  # lacks the Key Usage of LOM

    def comes(sock: socket.socket) -> None:
        connection = peer(sock, mac)
        with pytest.raises(SSL.Error):  # noqa: PT012  # with TLS 1.3 it hears of it after its own handshake
            connection.do_handshake()
            connection.recv(1)

    owner = Owner()
    with beside(comes) as sock:

        async def scenario() -> PeerError:
            accepting_stream(sock, owner)
            return await owner.ended

        error = run_in_reactor(scenario())
    assert isinstance(error, PeerRejected)
    assert error.kind == "tls_wrong_usage"


@pytest.mark.parametrize("octets", [1, 1_000_000])
def test_pending_alert_is_read_before_writing(run_in_reactor: RunInReactor, octets: int) -> None:
    """With TLS 1.3 our handshake is over when the server judges our certificate.

    It says no, and closes: its reset must not hide its reason.
    """
    stranger = Authority.create("Another CA").issue("mac", CLIENT_USAGE)

    def refuses(talk: Talk) -> None:
        try:
            _ = talk.tls
        finally:
            talk.reset()

    with serving(refuses, require_certificate=True) as server:
        owner = Owner()

        async def scenario() -> PeerError:
            stream = client_stream(server.port, owner, identity=stranger)

            def late() -> None:
                wait_for_reset(stream)
                stream.write(b"x" * octets)

            owner.on_secured = late
            return await owner.ended

        error = run_in_reactor(scenario())
        assert error.kind == "tls_refused"
        assert "alert unknown ca" in str(error)


def wait_for_reset(stream: TLSStream) -> None:
    """Wait, without a turn of the reactor, until the peer's reset is there."""
    events = select.poll()
    events.register(stream.fileno(), 0)  # POLLHUP and POLLERR alone
    assert events.poll(1000.0 * JOIN_SECONDS), "no reset"
