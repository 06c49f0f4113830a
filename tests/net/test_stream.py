"""A TLS stream by itself: its states and time limits, who it takes for whom, and how it ends."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from conftest import RunInReactor
from OpenSSL import SSL
from servers import (
    AUTHORITY,
    HOST,
    IDENTITY,
    JOIN_SECONDS,
    Talk,
    answer,
    echo,
    server_context,
    serving,
    silent,
    until,
    unused_port,
)
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from agent.errors import MisuseError, PeerError
from agent.net.stream import State, Timeouts, TLSStream, start_connect
from agent.net.tls import TLSContexts, make_context, server_name_of, use_identity
from agent.pki.authority import CLIENT_USAGE, LOM_USAGE
from agent.pki.identity import Identity
from agent.pki.verify import NoCertificate, PeerCheck, PeerRejected, controller_judge, server_judge

MAC = AUTHORITY.issue("mac.test", LOM_USAGE, names=["mac.test"])


class Owner:
    """Notes what a stream says. ``ended`` fires with the error, ``opened`` with nothing."""

    def __init__(self) -> None:
        self.opened: Deferred[None] = Deferred()
        self.ended: Deferred[PeerError] = Deferred()
        self.octets = b""
        self.calls: list[str] = []
        self.on_secured: Callable[[], object] = lambda: None
        self.on_received: Callable[[], object] = lambda: None

    def secured(self) -> None:
        self.calls.append("secured")
        self.on_secured()
        self.opened.callback(None)

    def received(self, octets: bytes) -> None:
        self.octets += octets
        self.calls.append("received")
        self.on_received()

    def lost(self, error: PeerError) -> None:
        self.calls.append("lost")
        self.ended.callback(error)


class StillReactor(Clock):
    """A reactor in which time passes when it is told to, and nothing ever happens to a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: set[object] = set()

    def addReader(self, reader: object) -> None:
        self.watched.add(reader)

    def addWriter(self, writer: object) -> None:
        self.watched.add(writer)

    def removeReader(self, reader: object) -> None:
        self.watched.discard(reader)

    def removeWriter(self, writer: object) -> None:
        self.watched.discard(writer)


def client_stream(
    port: int, owner: Owner, *, check: PeerCheck | None = None, identity: Identity | None = None
) -> TLSStream:
    from twisted.internet import reactor

    sock = start_connect(socket.AF_INET, (HOST, port))
    check = check or PeerCheck(server_judge(HOST))
    tls = TLSContexts().client(sock, [AUTHORITY.certificate], identity, check, HOST)
    stream = TLSStream(reactor, sock, tls, check, owner)
    stream.connect()
    return stream


@contextlib.contextmanager
def beside(work: Callable[[socket.socket], None]) -> Iterator[socket.socket]:
    """One end of a pair of sockets, non-blocking; a thread works at the other one."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work(theirs)
        except BaseException as error:  # noqa: BLE001  # raised again below
            errors.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join(JOIN_SECONDS)
        theirs.close()
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def accepting_stream(
    sock: socket.socket, owner: Owner, *, context: SSL.Context | None = None, optional: bool = False
) -> TLSStream:
    """The server's end as a LOM Device has it; with ``optional`` the peer may come without a certificate."""
    from twisted.internet import reactor

    check = PeerCheck(controller_judge)
    tls = SSL.Connection(context or make_context([AUTHORITY.certificate]), sock)
    use_identity(tls, IDENTITY)
    tls.set_verify(SSL.VERIFY_PEER | (0 if optional else SSL.VERIFY_FAIL_IF_NO_PEER_CERT), check)
    tls.set_accept_state()
    stream = TLSStream(reactor, sock, tls, check, owner)
    stream.accept()
    return stream


def peer(sock: socket.socket, identity: Identity | None = None, context: SSL.Context | None = None) -> SSL.Connection:
    """A client that owes nothing to the code under test, on a blocking socket; it trusts anyone."""
    connection = SSL.Connection(context or SSL.Context(SSL.TLS_CLIENT_METHOD), sock)
    if identity is not None:
        connection.use_certificate(identity.certificate)
        connection.use_privatekey(identity.key)
    connection.set_connect_state()
    return connection


# Time limits


@pytest.mark.parametrize(
    ("limits", "begin", "kind", "words"),
    [
        (Timeouts(connect=5.0, handshake=90.0), TLSStream.connect, "connect_timeout", "no TCP connection within 5 s"),
        (Timeouts(connect=90.0, handshake=5.0), TLSStream.accept, "tls_timeout", "no TLS handshake within 5 s"),
    ],
)
def test_time_limits(limits: Timeouts, begin: Callable[[TLSStream], None], kind: str, words: str) -> None:
    reactor, owner = StillReactor(), Owner()
    with socket.socket() as sock:
        check = PeerCheck(server_judge(HOST))
        tls = TLSContexts().client(sock, [], None, check, HOST)
        stream = TLSStream(reactor, sock, tls, check, owner, timeouts=limits)
        begin(stream)
        reactor.advance(4.9)
        assert owner.calls == []
        reactor.advance(0.2)
    ended = owner.ended.result
    assert isinstance(ended, PeerError)
    assert (ended.kind, str(ended)) == (kind, words)
    assert stream.state is State.CLOSED
    assert stream.fileno() == -1
    assert reactor.watched == set()
    assert reactor.getDelayedCalls() == []


@pytest.mark.parametrize("end", [TLSStream.close, TLSStream.abort])
def test_a_stream_that_was_ended_says_nothing_more(end: Callable[[TLSStream], None]) -> None:
    reactor, owner = StillReactor(), Owner()
    with socket.socket() as sock:
        check = PeerCheck(server_judge(HOST))
        stream = TLSStream(reactor, sock, TLSContexts().client(sock, [], None, check, HOST), check, owner)
        stream.connect()
        end(stream)
        end(stream)
        reactor.advance(1000.0)
        stream.doRead()
        stream.doWrite()
    assert owner.calls == []
    assert reactor.watched == set()
    assert reactor.getDelayedCalls() == []


def test_writing_to_a_stream_that_is_not_open_is_our_misuse() -> None:
    reactor, owner = StillReactor(), Owner()
    with socket.socket() as sock:
        check = PeerCheck(server_judge(HOST))
        stream = TLSStream(reactor, sock, TLSContexts().client(sock, [], None, check, HOST), check, owner)
        with pytest.raises(MisuseError, match="CONNECTING"):
            stream.write(b"x")
        stream.close()
        with pytest.raises(MisuseError, match="CLOSED"):
            stream.write(b"x")


def test_a_connect_that_cannot_begin_is_an_error_and_leaves_no_socket() -> None:
    with pytest.raises(PeerError) as caught:
        start_connect(socket.AF_INET, ("255.255.255.255", 443))
    assert caught.value.kind == "connect"
    with pytest.raises(PeerError) as caught:
        start_connect(socket.AF_INET6, ("::1", 443, 0, 0), source=("2001:db8::1", 0, 0, 0))
    assert "Cannot assign requested address" in str(caught.value)


def test_a_refused_connect_is_told(run_in_reactor: RunInReactor) -> None:
    owner = Owner()

    async def scenario() -> PeerError:
        client_stream(unused_port(), owner)
        return await owner.ended

    assert run_in_reactor(scenario()).kind == "connect"
    assert owner.calls == ["lost"]


# Verification is never skipped


def test_a_check_that_was_never_called_knows_nobody() -> None:
    with pytest.raises(NoCertificate):
        _ = PeerCheck(lambda _certificate: "anyone").name


def test_a_stream_whose_check_was_never_called_is_not_opened(run_in_reactor: RunInReactor) -> None:
    """The handshake went well, for nobody asked OpenSSL to verify: the stream refuses by itself."""
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


def test_a_context_without_a_check_on_the_connection_trusts_nobody(run_in_reactor: RunInReactor) -> None:
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


def test_a_peer_without_a_certificate_is_refused_even_where_tls_lets_it_in(run_in_reactor: RunInReactor) -> None:
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
def test_a_peer_that_comes_back_is_verified_again(run_in_reactor: RunInReactor, version: int) -> None:
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


def test_the_peers_name_and_what_was_agreed(run_in_reactor: RunInReactor) -> None:
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


def test_tls_1_1_is_not_spoken(run_in_reactor: RunInReactor) -> None:
    def old(sock: socket.socket) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_1_VERSION)
        context.set_max_proto_version(SSL.TLS1_1_VERSION)
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
        with pytest.raises(SSL.Error):
            peer(sock, MAC, context).do_handshake()

    owner = Owner()
    with beside(old) as sock:

        async def scenario() -> PeerError:
            accepting_stream(sock, owner)
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
def test_the_server_name_of_the_hello(host: str, name: bytes) -> None:
    assert server_name_of(host) == name


# Bytes


def test_everything_written_arrives_in_order_however_slowly_it_is_taken(run_in_reactor: RunInReactor) -> None:
    parts = [bytes([number % 256]) * (number * 7919 % 300_000) for number in range(1, 200)]
    whole = b"".join(parts)
    go, taken = threading.Event(), bytearray()

    def reads_late(talk: Talk) -> None:
        tls = talk.tls
        go.wait()
        while len(taken) < len(whole):
            taken.extend(tls.recv(5000))
        talk.close()

    with serving(reads_late) as server:
        owner = Owner()

        async def scenario() -> None:
            stream = client_stream(server.port, owner)
            await owner.opened
            for part in parts:
                stream.write(part)
            assert stream.unsent
            go.set()
            await owner.ended
            assert not stream.unsent

        run_in_reactor(scenario())
        assert bytes(taken) == whole


def test_a_stream_may_be_closed_by_its_owner_in_any_call(run_in_reactor: RunInReactor) -> None:
    def talks_first(talk: Talk) -> None:
        talk.send(b"x" * 100_000)
        talk.wait_for_end()

    with serving(talks_first) as server:

        async def scenario() -> list[list[str]]:
            calls = []
            for when in ("on_secured", "on_received"):
                owner = Owner()
                stream = client_stream(server.port, owner)
                setattr(owner, when, stream.close)
                await until(lambda stream=stream: stream.state is State.CLOSED)  # type: ignore[misc]
                calls.append(owner.calls)
            return calls

        assert run_in_reactor(scenario()) == [["secured"], ["secured", "received"]]


# Ends


@pytest.mark.parametrize(("end", "in_order"), [(TLSStream.close, True), (TLSStream.abort, False)])
def test_what_the_peer_hears_of_our_end(
    run_in_reactor: RunInReactor, end: Callable[[TLSStream], None], in_order: bool
) -> None:
    """close is close_notify; abort is a TCP reset without a word."""
    heard: list[bool] = []

    def listens(talk: Talk) -> None:
        tls = talk.tls
        try:
            talk.sock.recv(1, socket.MSG_PEEK)
            tls.recv(1)
        except SSL.ZeroReturnError:
            heard.append(True)
        except (ConnectionResetError, SSL.SysCallError):
            heard.append(False)

    with serving(listens) as server:
        owner = Owner()

        async def scenario() -> None:
            stream = client_stream(server.port, owner)
            await owner.opened
            end(stream)
            await until(lambda: bool(heard))

        run_in_reactor(scenario())
    assert heard == [in_order]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (Talk.close, "the peer closed the connection"),
        (Talk.drop, "the peer broke the connection"),
        (Talk.reset, "the peer broke the connection: Connection reset by peer"),
    ],
)
def test_what_we_hear_of_the_peers_end(run_in_reactor: RunInReactor, end: Callable[[Talk], None], words: str) -> None:
    go = threading.Event()

    def ends(talk: Talk) -> None:
        talk.send(b"before")
        go.wait()
        end(talk)

    with serving(ends) as server:
        owner = Owner()
        owner.on_received = go.set

        async def scenario() -> PeerError:
            client_stream(server.port, owner)
            return await owner.ended

        error = run_in_reactor(scenario())
        assert (error.kind, str(error)) == ("broken", words)
        assert owner.octets == b"before"


def test_the_peers_last_words_are_heard_before_it_is_noticed_that_it_takes_no_more(
    run_in_reactor: RunInReactor,
) -> None:
    """A large body is on its way when the peer says something and closes: the reset must not come first.

    It may, where it comes during a write; that is rare.
    """
    times = 20

    def says_and_goes(talk: Talk) -> None:
        talk.tls.recv(100)
        talk.send(b"last words")
        talk.close()

    with serving(says_and_goes) as server:

        async def scenario() -> int:
            heard = 0
            for _ in range(times):
                owner = Owner()
                stream = client_stream(server.port, owner)
                await owner.opened
                stream.write(b"x" * 16_000_000)
                assert (await owner.ended).kind == "broken"
                heard += owner.octets == b"last words"
            return heard

        assert run_in_reactor(scenario()) > times / 2


def memory_pair() -> tuple[SSL.Connection, SSL.Connection]:
    """Both ends of an open TLS connection without a socket; nothing waits to be read."""
    ends = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD)), SSL.Connection(server_context(IDENTITY))
    ends[0].set_connect_state()
    ends[1].set_accept_state()
    for _ in range(4):
        for here, there in (ends, ends[::-1]):
            with contextlib.suppress(SSL.WantReadError):
                here.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                there.bio_write(here.bio_read(65536))
    with contextlib.suppress(SSL.WantReadError):
        ends[0].recv(1)  # the session tickets
    return ends


@pytest.mark.parametrize("how", ["write", "close"])
def test_the_error_of_one_connection_is_not_told_to_another(run_in_reactor: RunInReactor, how: str) -> None:
    """OpenSSL keeps errors by thread: one that is left behind would break a connection that is well."""
    go, gone = threading.Event(), threading.Event()

    def resets(talk: Talk) -> None:
        talk.send(b"hello")
        go.wait()
        talk.reset()
        gone.set()

    with serving(resets) as server:
        owner = Owner()
        bystander, _ = memory_pair()

        async def scenario() -> None:
            stream = client_stream(server.port, owner)
            await until(lambda: owner.octets == b"hello")
            go.set()
            gone.wait()  # the reactor does not turn meanwhile: the stream hears of it when it writes
            if how == "close":
                stream.close()
            else:
                stream.write(b"x")
                await owner.ended

        run_in_reactor(scenario())
        with pytest.raises(SSL.WantReadError):
            bystander.recv(1)


def test_many_streams_that_break_leave_the_others_alone(run_in_reactor: RunInReactor) -> None:
    def script(talk: Talk) -> None:
        if talk.number % 2:
            _ = talk.tls
            talk.reset()
        else:
            echo(talk)

    with serving(script) as server:

        async def scenario() -> None:
            good: list[tuple[TLSStream, Owner]] = []
            for number in range(20):
                owner = Owner()
                stream = client_stream(server.port, owner)
                await until(lambda number=number: server.connections > number)  # type: ignore[misc]
                if number % 2 == 0:
                    good.append((stream, owner))
                else:
                    await owner.ended
            for stream, owner in good:
                stream.write(b"PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\nok")
                await until(lambda owner=owner: owner.octets == answer(200, b"ok"))  # type: ignore[misc]
                stream.close()

        run_in_reactor(scenario())


def test_the_reactor_may_say_first_that_a_connection_died(run_in_reactor: RunInReactor) -> None:
    """Where nothing is left to be read, epoll reports the end and not a byte."""
    from twisted.internet.error import ConnectionLost
    from twisted.python.failure import Failure

    with serving(echo, silent) as server:

        async def scenario() -> list[PeerError]:
            errors = []
            for opened in (True, False):
                owner = Owner()
                stream = client_stream(server.port, owner)
                if opened:
                    await owner.opened
                stream.connectionLost(Failure(ConnectionLost()))
                stream.connectionLost(Failure(ConnectionLost()))
                errors.append(await owner.ended)
                assert owner.calls.count("lost") == 1
            return errors

        assert [error.kind for error in run_in_reactor(scenario())] == ["broken", "broken"]


def test_a_certificate_of_the_wrong_use_is_refused_by_the_accepting_end(run_in_reactor: RunInReactor) -> None:
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
