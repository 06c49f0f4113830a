"""A TLS stream by itself: its states and time limits, its bytes, and how it ends."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable

import pytest
from conftest import RunInReactor
from OpenSSL import SSL
from servers import (
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
from stream_ends import Owner, StillReactor, client_stream
from twisted.internet.error import ConnectionLost
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from agent.errors import MisuseError, PeerError
from agent.net.transport.stream import State, Timeouts, TLSStream, start_connect
from agent.net.transport.tls import TLSContexts
from agent.pki.verify import PeerCheck, server_judge

# Time limits


@pytest.mark.parametrize(
    ("limits", "begin", "kind", "words"),
    [
        (Timeouts(connect=5.0, handshake=90.0), TLSStream.connect, "connect_timeout", "no TCP connection within 5 s"),
        (Timeouts(connect=90.0, handshake=5.0), TLSStream.accept, "tls_timeout", "no TLS handshake within 5 s"),
    ],
)
def test_stream_time_limits_apply(limits: Timeouts, begin: Callable[[TLSStream], None], kind: str, words: str) -> None:
    reactor, owner = StillReactor(), Owner()
    with socket.socket() as sock:
        check = PeerCheck(server_judge(HOST))
        tls = TLSContexts().client(sock, [], None, check, HOST)
        stream = TLSStream(reactor, sock, tls, check, owner, timeouts=limits)
        begin(stream)
        reactor.advance(4.9)
        assert owner.calls == []
        reactor.advance(7.1)  # the loop stood still: what the peer did meanwhile has not been seen yet
        assert owner.calls == []
        reactor.advance(6.9)
        assert owner.calls == []
        reactor.advance(0.15)
    ended = owner.ended.result
    assert isinstance(ended, PeerError)
    assert (ended.kind, str(ended)) == (kind, words)
    assert stream.state is State.CLOSED
    assert stream.fileno() == -1
    assert reactor.watched == set()
    assert reactor.getDelayedCalls() == []


@pytest.mark.parametrize("end", [TLSStream.close, TLSStream.abort])
def test_ended_stream_makes_no_further_calls(end: Callable[[TLSStream], None]) -> None:
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


def test_write_to_a_closed_stream_raises_misuse_error() -> None:
    reactor, owner = StillReactor(), Owner()
    with socket.socket() as sock:
        check = PeerCheck(server_judge(HOST))
        stream = TLSStream(reactor, sock, TLSContexts().client(sock, [], None, check, HOST), check, owner)
        with pytest.raises(MisuseError, match="CONNECTING"):
            stream.write(b"x")
        stream.close()
        with pytest.raises(MisuseError, match="CLOSED"):
            stream.write(b"x")


def test_failed_connect_attempt_leaves_no_socket() -> None:
    with pytest.raises(PeerError) as caught:
        start_connect(socket.AF_INET, ("255.255.255.255", 443))
    assert caught.value.kind == "connect"
    with pytest.raises(PeerError) as caught:
        start_connect(socket.AF_INET6, ("::1", 443, 0, 0), source=("2001:db8::1", 0, 0, 0))
    assert "Cannot assign requested address" in str(caught.value)


def test_refused_connect_is_reported(run_in_reactor: RunInReactor) -> None:
    owner = Owner()

    async def scenario() -> PeerError:
        client_stream(unused_port(), owner)
        return await owner.ended

    assert run_in_reactor(scenario()).kind == "connect"
    assert owner.calls == ["lost"]


# Bytes


def test_written_data_arrives_in_order_at_a_slow_reader(run_in_reactor: RunInReactor) -> None:
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
            from twisted.internet import reactor

            stream = client_stream(server.port, owner)
            await owner.opened
            for number, part in enumerate(parts):
                stream.write(part)
                await deferLater(reactor, 0)  # a part of it is sent, and the next one is written behind the rest
                if number == len(parts) * 3 // 4:
                    assert stream.unsent
                    go.set()
            await owner.ended
            assert not stream.unsent

        run_in_reactor(scenario())
        assert bytes(taken) == whole


def test_owner_can_close_the_stream_in_any_callback(run_in_reactor: RunInReactor) -> None:
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


@pytest.mark.parametrize(("end", "expected"), [(TLSStream.close, "close_notify"), (TLSStream.abort, "reset")])
def test_peer_sees_how_our_end_closed(
    run_in_reactor: RunInReactor, end: Callable[[TLSStream], None], expected: str
) -> None:
    """close is close_notify; abort is a TCP reset without a word."""
    heard: list[str] = []

    def listens(talk: Talk) -> None:
        talk.send(b"hello")  # so that the handshake is over for the server, too, when the end comes
        try:
            talk.sock.recv(1, socket.MSG_PEEK)
            talk.tls.recv(1)
        except SSL.ZeroReturnError:
            heard.append("close_notify")
        except SSL.SysCallError:
            heard.append("end of TCP")
        except ConnectionResetError:
            heard.append("reset")

    with serving(listens) as server:
        owner = Owner()

        async def scenario() -> None:
            stream = client_stream(server.port, owner)
            await until(lambda: owner.octets == b"hello")
            end(stream)
            await until(lambda: bool(heard))

        run_in_reactor(scenario())
    assert heard == [expected]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (Talk.close, "the peer closed the connection"),
        (Talk.drop, "the peer broke the connection"),
        (Talk.reset, "the peer broke the connection: Connection reset by peer"),
    ],
)
def test_owner_is_called_with_how_the_peer_closed(
    run_in_reactor: RunInReactor, end: Callable[[Talk], None], words: str
) -> None:
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


def test_received_data_is_read_before_a_write_failure_is_reported(
    run_in_reactor: RunInReactor,
) -> None:
    """A large body is being sent when the peer answers, closes and resets: the answer is read before the next write.

    After a failed write OpenSSL reads no more. (An answer and a reset that arrive within one write are lost.)
    """
    go = threading.Event()

    def says_and_goes(talk: Talk) -> None:
        talk.tls.recv(100)
        go.wait()
        talk.send(b"last words")
        talk.close()  # with bytes unread, so that TCP sends a reset

    with serving(says_and_goes) as server:
        owner = Owner()

        async def scenario() -> PeerError:
            stream = client_stream(server.port, owner)
            await owner.opened
            stream.write(b"x" * 16_000_000)
            await until(lambda: stream.unsent_bytes < 16_000_000)  # once the session tickets were read
            go.set()
            wait_for_reset(stream)
            stream.doWrite()
            return await owner.ended

        assert run_in_reactor(scenario()).kind == "broken"
        assert owner.octets == b"last words"


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
def test_error_of_one_connection_is_not_reported_to_another(run_in_reactor: RunInReactor, how: str) -> None:
    """OpenSSL keeps errors by thread: one that is left behind is taken for another connection's.

    Before OpenSSL 4 it even breaks a connection that is well.
    """
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
            gone.wait()
            end = select.poll()  # the reactor does not turn meanwhile: the stream hears of it when it writes
            end.register(stream.fileno(), select.POLLIN)
            assert end.poll(1000.0 * JOIN_SECONDS)
            if how == "close":
                stream.close()
            while stream.state is State.OPEN:
                stream.write(b"x")

        run_in_reactor(scenario())
        with pytest.raises(SSL.WantReadError):
            bystander.recv(1)
        bystander.bio_write(b"no TLS record at all")
        with pytest.raises(SSL.Error) as caught:
            bystander.recv(1)
        assert {library for library, _function, _reason in caught.value.args[0]} == {"SSL routines"}


def test_broken_streams_do_not_affect_others(run_in_reactor: RunInReactor) -> None:
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


def wait_for_reset(stream: TLSStream) -> None:
    """Block, reactor and all, until the peer's reset has arrived."""
    end = select.poll()
    end.register(stream.fileno(), 0)
    assert end.poll(1000.0 * JOIN_SECONDS)


def notices_by_reading(stream: TLSStream) -> None:
    stream.doRead()


def notices_by_writing(stream: TLSStream) -> None:
    stream.write(b"x")


def is_told_by_the_reactor(stream: TLSStream) -> None:
    """epoll reports an end without bytes to read, or together with them."""
    stream.connectionLost(Failure(ConnectionLost()))
    stream.connectionLost(Failure(ConnectionLost()))


NOTICED = (notices_by_reading, notices_by_writing, is_told_by_the_reactor)


def resets(talk: Talk) -> None:
    talk.reset()


def ends_and_resets(talk: Talk) -> None:
    talk.sock.shutdown(socket.SHUT_WR)
    talk.reset()


@pytest.mark.parametrize("noticed", NOTICED)
@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize(("end", "reason"), [(resets, ": Connection reset by peer"), (ends_and_resets, "")])
def test_broken_connection_has_one_error_text(
    run_in_reactor: RunInReactor,
    noticed: Callable[[TLSStream], None],
    answers: bool,
    end: Callable[[Talk], None],
    reason: str,
) -> None:
    """In TLS 1.3 a server refuses our certificate after our end of the handshake, not always with an alert."""
    go = threading.Event()

    def script(talk: Talk) -> None:
        _ = talk.tls
        if answers:
            talk.send(b"hello")
        go.wait()
        end(talk)

    with serving(script) as server:
        owner = Owner()

        async def scenario() -> PeerError:
            stream = client_stream(server.port, owner)
            await owner.opened
            await until(lambda: not answers or owner.octets == b"hello")
            go.set()
            wait_for_reset(stream)
            noticed(stream)
            return await owner.ended

        error = run_in_reactor(scenario())
    hint = "" if answers else "; it sent nothing before, as a server may that refuses our certificate"
    assert (error.kind, str(error)) == ("broken", f"the peer broke the connection{reason}{hint}")
    assert owner.calls.count("lost") == 1


@pytest.mark.parametrize("noticed", [notices_by_reading, TLSStream.doWrite, is_told_by_the_reactor])
def test_reset_during_the_handshake_has_one_error_text(
    run_in_reactor: RunInReactor, noticed: Callable[[TLSStream], None]
) -> None:
    go = threading.Event()

    def script(talk: Talk) -> None:
        talk.sock.recv(1, socket.MSG_PEEK)
        go.wait()
        talk.reset()

    with serving(script) as server:
        owner = Owner()

        async def scenario() -> PeerError:
            stream = client_stream(server.port, owner)
            await until(lambda: stream.state is State.HANDSHAKING)
            go.set()
            wait_for_reset(stream)
            noticed(stream)
            return await owner.ended

        error = run_in_reactor(scenario())
    words = "the peer closed the connection during the TLS handshake: Connection reset by peer"
    assert (error.kind, str(error)) == ("tls", words)


def test_received_data_is_read_if_the_end_is_reported_first(run_in_reactor: RunInReactor) -> None:
    go, text = threading.Event(), b"last words" * 6000

    def says_and_goes(talk: Talk) -> None:
        _ = talk.tls
        go.wait()
        talk.send(text)
        talk.close()

    with serving(says_and_goes) as server:
        owner = Owner()

        async def scenario() -> PeerError:
            stream = client_stream(server.port, owner)
            await owner.opened
            go.set()
            end = select.poll()
            end.register(stream.fileno(), select.POLLRDHUP)
            assert end.poll(1000.0 * JOIN_SECONDS)
            is_told_by_the_reactor(stream)
            return await owner.ended

        error = run_in_reactor(scenario())
    assert owner.octets == text
    assert str(error) == "the peer closed the connection"


def test_connection_end_without_readable_data_is_reported(run_in_reactor: RunInReactor) -> None:
    with serving(echo, silent) as server:

        async def scenario() -> list[tuple[str, str]]:
            errors = []
            for opened in (True, False):
                owner = Owner()
                stream = client_stream(server.port, owner)
                if opened:
                    await owner.opened
                is_told_by_the_reactor(stream)
                error = await owner.ended
                errors.append((error.kind, str(error).partition(";")[0]))
                assert owner.calls.count("lost") == 1
            return errors

        assert run_in_reactor(scenario()) == [
            ("broken", "the peer broke the connection"),
            ("tls", "the peer closed the connection during the TLS handshake"),
        ]


def test_internal_error_is_not_reported_as_the_peers(run_in_reactor: RunInReactor) -> None:
    with serving(echo) as server:
        owner = Owner()

        async def scenario() -> PeerError:
            stream = client_stream(server.port, owner)
            await owner.opened
            stream.connectionLost(Failure(ZeroDivisionError("by zero")))
            return await owner.ended

        assert str(run_in_reactor(scenario())) == "closed after an error of this program: by zero"


@pytest.mark.parametrize("answers", [False, True])
def test_connection_broken_before_any_answer_mentions_the_certificate(
    run_in_reactor: RunInReactor, answers: bool
) -> None:
    """With TLS 1.3 a server refuses it after our end of the handshake, and not every server sends an alert then."""
    heard = threading.Event()

    def resets(talk: Talk) -> None:
        _ = talk.tls
        if answers:
            talk.send(b"hello")
            heard.wait()
        talk.reset()

    with serving(resets) as server:
        owner = Owner()
        owner.on_received = heard.set

        async def scenario() -> PeerError:
            client_stream(server.port, owner)
            return await owner.ended

        assert ("refuses our certificate" in str(run_in_reactor(scenario()))) is not answers
