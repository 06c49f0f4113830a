"""Connections that speak HTTP/2, against a server with the `h2` library over real sockets."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from conftest import RunInReactor
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, PingAckReceived, StreamReset
from http2_servers import H2, HTTP_1_1, H2Talk, echoes, either, once, speaking
from servers import AUTHORITY, Answer, Gone, Names, Talk, TLSServer, ask, client, serving, until
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from agent.errors import PeerError
from agent.net.http.connection import BOTH, AnswerTimeout, HTTPConnection, alpn_of
from agent.net.http.faulty import ConnectionFault, FaultyConnection
from agent.net.http.http1 import MAX_BODY_BYTES, ResponseMalformed, ResponseTooLong
from agent.net.http.http2 import StreamReset as RequestReset
from agent.net.http.request import request_to
from agent.net.http.resumption import Resumption, binding_of
from agent.net.transport.errors import ConnectionBroken
from agent.net.transport.resolver import Resolver
from agent.net.transport.stream import Timeouts
from agent.net.transport.tls import TLSContexts
from agent.pki.issuing.authority import CLIENT_USAGE

MAC = AUTHORITY.issue("mac", CLIENT_USAGE)
ONLY_HTTP_2 = (H2,)


def http2(server: TLSServer, **keywords: object) -> HTTPConnection:
    return client(server.origin(), alpn=BOTH, **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spoken", "offered", "version"),
    [
        ((H2,), BOTH, "HTTP/2"),
        ((H2, HTTP_1_1), BOTH, "HTTP/2"),
        ((HTTP_1_1, H2), BOTH, "HTTP/1.1"),
        ((HTTP_1_1,), BOTH, "HTTP/1.1"),
        ((b"spdy/3",), BOTH, "HTTP/1.1"),
        (None, BOTH, "HTTP/1.1"),
        ((H2,), (), "HTTP/1.1"),
        ((H2, HTTP_1_1), (), "HTTP/1.1"),
        (None, (), "HTTP/1.1"),
    ],
)
@pytest.mark.parametrize("tls_1_2", [False, True], ids=["TLS 1.3", "TLS 1.2"])
def test_the_server_chooses_by_alpn(
    run_in_reactor: RunInReactor,
    spoken: tuple[bytes, ...] | None,
    offered: tuple[bytes, ...],
    version: str,
    tls_1_2: bool,
) -> None:
    opened: list[str] = []
    with serving(either, alpn=spoken, require_certificate=True, tls_1_2=tls_1_2) as server:
        connection = client(server.origin(), identity=MAC, alpn=offered, connected=opened.append)

        async def scenario() -> None:
            for body in (b"", b"first", b"second"):
                response = await ask(connection, server.origin(), body, "/mdm?id=1")
                assert (response.status, response.body, response.keep_alive) == (200, body, True)
            connection.close()

        run_in_reactor(scenario())
    assert opened == [connection.http_version] == [version]
    assert [(each.method, each.target, each.body) for each in server.requests] == [
        ("PUT", "/mdm?id=1", body) for body in (b"", b"first", b"second")
    ]
    assert {each.certificate for each in server.requests} == {MAC.certificate}


def test_the_setting_decides_what_is_offered() -> None:
    assert alpn_of("auto") == BOTH == (b"h2", b"http/1.1")
    assert alpn_of("1.1") == ()


def test_contexts_with_and_without_alpn_are_apart(run_in_reactor: RunInReactor) -> None:
    contexts = TLSContexts()
    with serving(either, alpn=BOTH) as server:

        async def scenario() -> None:
            for offered, version in ((BOTH, "HTTP/2"), ((), "HTTP/1.1"), (BOTH, "HTTP/2")):
                connection = client(server.origin(), alpn=offered, contexts=contexts)
                await ask(connection, server.origin(), b"x")
                assert connection.http_version == version
                connection.close()

        run_in_reactor(scenario())


def test_a_closed_connection_ends_with_goaway(run_in_reactor: RunInReactor) -> None:
    ended: list[ConnectionTerminated] = []

    def script(talk: H2Talk, stream: int) -> None:
        talk.answer(stream)
        ended.append(talk.until(ConnectionTerminated))

    with serving(once(script), alpn=ONLY_HTTP_2) as server:
        connection = http2(server)

        async def scenario() -> None:
            await ask(connection, server.origin())
            connection.close()
            await until(lambda: bool(ended))

        run_in_reactor(scenario())
    assert ended[0].error_code == ErrorCodes.NO_ERROR


def refuses(talk: H2Talk, stream: int) -> None:
    talk.h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
    talk.flush()


def leaves_before(talk: H2Talk, stream: int) -> None:
    talk.leave(stream - 2 if stream > 1 else 0)


def second(then: object) -> object:
    """Answer the first request; do ``then`` with the second one."""

    def script(talk: H2Talk, stream: int) -> None:
        talk.answer(stream, talk.body)
        then(talk, talk.read_request())  # type: ignore[operator]

    return once(script)


def closes(talk: H2Talk, _stream: int) -> None:
    talk.talk.close()
    raise Gone


def resets(talk: H2Talk, _stream: int) -> None:
    talk.talk.reset()
    raise Gone


@pytest.mark.parametrize("then", [refuses, leaves_before, closes, resets])
def test_what_was_not_processed_is_sent_again_on_a_new_connection(run_in_reactor: RunInReactor, then: object) -> None:
    with serving(second(then), speaking(echoes), alpn=ONLY_HTTP_2) as server:  # type: ignore[arg-type]
        connection = http2(server)

        async def scenario() -> None:
            for body in (b"first", b"second", b"third"):
                assert (await ask(connection, server.origin(), body)).body == body
            connection.close()

        run_in_reactor(scenario())
    assert [(each.connection, each.body) for each in server.requests] == [
        (0, b"first"),
        (0, b"second"),
        (1, b"second"),
        (1, b"third"),
    ]


@pytest.mark.parametrize("then", [refuses, leaves_before])
def test_a_request_is_sent_again_once(run_in_reactor: RunInReactor, then: object) -> None:
    with serving(once(then), alpn=ONLY_HTTP_2) as server:  # type: ignore[arg-type]
        connection = http2(server)

        async def scenario() -> None:
            with pytest.raises(RequestReset, match=r"REFUSED_STREAM|without processing"):
                await ask(connection, server.origin(), b"x")
            connection.close()

        run_in_reactor(scenario())
        assert len(server.requests) == 2


def test_a_failed_stream_leaves_the_connection_open(run_in_reactor: RunInReactor) -> None:
    def script(talk: H2Talk) -> None:
        talk.h2.reset_stream(talk.read_request(), ErrorCodes.INTERNAL_ERROR)
        talk.flush()
        echoes(talk)

    with serving(speaking(script), alpn=ONLY_HTTP_2) as server:
        connection = http2(server)

        async def scenario() -> None:
            with pytest.raises(RequestReset, match="INTERNAL_ERROR"):
                await ask(connection, server.origin(), b"x")
            assert (await ask(connection, server.origin(), b"next")).body == b"next"
            connection.close()

        run_in_reactor(scenario())
        assert server.connections == 1


def test_goaway_before_the_answer_ends_the_connection_after_it(run_in_reactor: RunInReactor) -> None:
    def last(talk: H2Talk) -> None:
        stream = talk.read_request()
        octets = bytes((0, 0, 8, 7, 0, 0, 0, 0, 0)) + stream.to_bytes(4, "big") + bytes(4)  # h2 would send nothing more
        talk.talk.send(octets)
        talk.answer(stream, b"last")
        talk.talk.wait_for_end()

    with serving(speaking(last), speaking(echoes), alpn=ONLY_HTTP_2) as server:
        connection = http2(server)

        async def scenario() -> None:
            response = await ask(connection, server.origin(), b"x")
            assert (response.body, response.keep_alive) == (b"last", False)
            assert not connection.connected
            assert (await ask(connection, server.origin(), b"next")).body == b"next"
            connection.close()

        run_in_reactor(scenario())


def test_goaway_and_ping_while_idle(run_in_reactor: RunInReactor) -> None:
    alive: list[PingAckReceived] = []

    def script(talk: H2Talk) -> None:
        talk.answer(talk.read_request())
        talk.h2.ping(b"12345678")
        talk.flush()
        alive.append(talk.until(PingAckReceived))
        talk.leave(1)

    with serving(speaking(script), alpn=ONLY_HTTP_2) as server:
        connection = http2(server)

        async def scenario() -> None:
            await ask(connection, server.origin())
            assert connection.connected
            await until(lambda: not connection.connected)

        run_in_reactor(scenario())
    assert alive[0].ping_data == b"12345678"


def test_sessions_are_resumed(run_in_reactor: RunInReactor) -> None:
    def script(talk: H2Talk) -> None:
        stream = talk.read_request()
        talk.answer(stream, talk.body)
        talk.leave(stream)

    contexts = TLSContexts()
    with serving(speaking(script), alpn=ONLY_HTTP_2, require_certificate=True) as server:
        server.context.set_session_id(b"mdm")
        origin = server.origin()
        connection = http2(
            server,
            identity=MAC,
            contexts=contexts,
            resumption=Resumption(1.0, lambda: 0.0, lambda: datetime.now(UTC).timestamp()),
            binding=binding_of(origin, MAC, (), ()),
        )

        async def scenario() -> None:
            for _ in range(3):
                assert (await ask(connection, origin, b"x")).body == b"x"
                await until(lambda: not connection.connected)

        run_in_reactor(scenario())
    assert (contexts.handshakes_full, contexts.handshakes_resumed) == (1, 2)
    assert connection.http_version == "HTTP/2"


def test_a_request_to_close_ends_the_connection_and_keeps_its_session(run_in_reactor: RunInReactor) -> None:
    contexts = TLSContexts()
    with serving(speaking(echoes), alpn=ONLY_HTTP_2, require_certificate=True) as server:
        server.context.set_session_id(b"mdm")
        origin = server.origin()
        resumption = Resumption(1.0, lambda: 0.0, lambda: datetime.now(UTC).timestamp())
        connection = http2(
            server,
            identity=MAC,
            contexts=contexts,
            resumption=resumption,
            binding=binding_of(origin, MAC, (), ()),
        )

        async def scenario() -> None:
            for _ in range(2):
                answer = Answer()
                connection.request(request_to("PUT", origin, "/", {"Connection": "close"}, b"x"), answer)
                assert (await answer.deferred).body == b"x"
                assert not connection.connected

        run_in_reactor(scenario())
    assert (contexts.handshakes_full, contexts.handshakes_resumed) == (1, 1)


def test_an_answer_that_does_not_come(run_in_reactor: RunInReactor) -> None:
    with serving(once(lambda _talk, _stream: None), speaking(echoes), alpn=ONLY_HTTP_2) as server:
        connection = http2(server, timeouts=Timeouts(answer=0.3))

        async def scenario() -> None:
            with pytest.raises(AnswerTimeout):
                await ask(connection, server.origin())
            assert not connection.connected

        run_in_reactor(scenario())


def test_large_bodies_in_both_directions(run_in_reactor: RunInReactor) -> None:
    def script(talk: H2Talk) -> None:
        stream = talk.read_request()
        assert talk.body == b"x" * 1_000_000
        talk.answer(stream, b"y" * MAX_BODY_BYTES)
        echoes(talk)

    with serving(speaking(script), alpn=ONLY_HTTP_2) as server:
        connection = http2(server)

        async def scenario() -> None:
            response = await ask(connection, server.origin(), b"x" * 1_000_000)
            assert response.body == b"y" * MAX_BODY_BYTES
            assert (await ask(connection, server.origin(), b"next")).body == b"next"
            connection.close()

        run_in_reactor(scenario())


def test_an_early_answer_leaves_the_connection_usable(run_in_reactor: RunInReactor) -> None:
    reset: list[StreamReset] = []

    def script(talk: H2Talk) -> None:
        talk.event()  # SETTINGS
        while not talk.h2.streams:
            talk.event()
        talk.answer(1, b"too large", 413)
        reset.append(talk.until(StreamReset))
        talk.h2.increment_flow_control_window(65_535)
        talk.flush()
        echoes(talk)

    with serving(speaking(script), alpn=ONLY_HTTP_2) as server:
        connection = http2(server)

        async def scenario() -> None:
            response = await ask(connection, server.origin(), b"x" * 1_000_000)
            assert (response.status, response.body) == (413, b"too large")
            assert (await ask(connection, server.origin(), b"next")).body == b"next"
            connection.close()

        run_in_reactor(scenario())
        assert server.connections == 1
    assert reset[0].error_code == ErrorCodes.CANCEL


@pytest.mark.parametrize(
    ("octets", "error", "code"),
    [
        (b"\0\0\6\4\0\0\0\0\0" + b"\0\2\0\0\0\1", ResponseMalformed, 1),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ResponseMalformed, 6),
        (b"\0\0\x08\6\0\0\0\0\0abcdefgh" * 150, ResponseMalformed, 11),
        (b"\0\0\3\1\4\0\0\0\1\x0f\x0d\0", ResponseMalformed, 1),
        (b"\0\0\x0b\1\4\0\0\0\1\x88\x0f\x0d\x078388609", ResponseTooLong, 11),
    ],
    ids=["push", "HTTP/1.1", "pings", "no status", "too long"],
)
def test_a_malformed_answer_fails_the_request_and_ends_the_connection(
    run_in_reactor: RunInReactor, octets: bytes, error: type[PeerError], code: int
) -> None:
    ended: list[ConnectionTerminated] = []

    def script(talk: H2Talk, stream: int) -> None:
        talk.talk.send(octets)
        ended.append(talk.until(ConnectionTerminated))

    with serving(once(script), alpn=ONLY_HTTP_2) as server:
        connection = http2(server)

        async def scenario() -> None:
            with pytest.raises(error):
                await ask(connection, server.origin())
            assert not connection.connected
            await until(lambda: bool(ended))

        run_in_reactor(scenario())
    assert ended[0].error_code == code


def test_a_server_that_speaks_http_1_1_after_agreeing_on_2(run_in_reactor: RunInReactor) -> None:
    def script(talk: Talk) -> None:
        talk.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        talk.wait_for_end()

    with serving(script, alpn=ONLY_HTTP_2) as server:
        connection = http2(server)

        async def scenario() -> None:
            with pytest.raises(ResponseMalformed, match=r"expected SETTINGS of HTTP/2 first, found b'HTTP/1.1 400"):
                await ask(connection, server.origin())

        run_in_reactor(scenario())


def test_a_connection_that_ends_within_an_answer(run_in_reactor: RunInReactor) -> None:
    def script(talk: H2Talk, stream: int) -> None:
        talk.h2.send_headers(stream, [(":status", "200")])
        talk.h2.send_data(stream, b"half")
        talk.flush()
        closes(talk, stream)

    with serving(once(script), alpn=ONLY_HTTP_2) as server:
        connection = http2(server)

        async def scenario() -> None:
            with pytest.raises(ConnectionBroken, match="before the end of the response"):
                await ask(connection, server.origin())

        run_in_reactor(scenario())


def test_an_answer_that_is_complete_counts_although_the_connection_ends(run_in_reactor: RunInReactor) -> None:
    def script(talk: H2Talk, stream: int) -> None:
        talk.answer(stream, b"command")
        closes(talk, stream)

    with serving(once(script), alpn=ONLY_HTTP_2) as server:
        connection = http2(server)

        async def scenario() -> None:
            assert (await ask(connection, server.origin())).body == b"command"
            await until(lambda: not connection.connected)

        run_in_reactor(scenario())


def test_a_request_from_the_callback_of_the_last_one(run_in_reactor: RunInReactor) -> None:
    """As a session does: the next report is sent while the answer is being handled."""
    with serving(speaking(echoes), alpn=ONLY_HTTP_2) as server:
        connection = http2(server)
        done: Deferred[int] = Deferred()

        class Next(Answer):
            def answered(self, response: object) -> None:
                if len(server.requests) == 5:
                    done.callback(5)
                else:
                    again()

        def again() -> None:
            connection.request(request_to("PUT", server.origin(), "/", {}, b"x"), Next())

        async def scenario() -> None:
            again()
            assert await done == 5
            connection.close()

        run_in_reactor(scenario())
        assert server.connections == 1


# Faults.


def faulty(server: TLSServer, *on_connect: ConnectionFault | None) -> FaultyConnection:
    faults = list(on_connect)
    return FaultyConnection(
        reactor,
        Resolver(reactor, Names({})),
        TLSContexts(),
        server.origin(),
        (AUTHORITY.certificate,),
        None,
        alpn=BOTH,
        on_connect=lambda: faults.pop(0) if faults else None,
    )


@pytest.mark.parametrize("length", [0, 1, 1000, 300_000])
def test_a_slow_request_arrives_whole(run_in_reactor: RunInReactor, length: int) -> None:
    with serving(speaking(echoes), alpn=ONLY_HTTP_2) as server:
        connection = faulty(server)

        async def scenario() -> None:
            connection.inject(ConnectionFault(bytes_per_s=20.0 * (length + 200)))
            assert (await ask(connection, server.origin(), b"x" * length)).body == b"x" * length
            assert (await ask(connection, server.origin(), b"next")).body == b"next"
            connection.close()

        run_in_reactor(scenario())
        assert server.connections == 1


@pytest.mark.parametrize("at", ["before_request", "in_request", "after_request", "in_response"])
@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
def test_a_reset_is_reported_once(run_in_reactor: RunInReactor, at: str, kept: bool) -> None:
    with serving(speaking(echoes), alpn=ONLY_HTTP_2) as server:
        connection = faulty(server)

        async def scenario() -> None:
            if kept:
                await ask(connection, server.origin(), b"first")
            connection.inject(ConnectionFault(drop=at))  # type: ignore[arg-type]
            with pytest.raises(PeerError, match=rf"a fault rule reset the connection \({at}\)"):
                await ask(connection, server.origin(), b"x" * 100)
            assert not connection.connected
            assert (await ask(connection, server.origin(), b"next")).body == b"next"
            connection.close()

        run_in_reactor(scenario())
    bodies = [each.body for each in server.requests]
    assert bodies.count(b"x" * 100) <= (at in ("after_request", "in_response"))
    assert at != "in_response" or b"x" * 100 in bodies


def test_a_delayed_request_on_a_kept_connection(run_in_reactor: RunInReactor) -> None:
    """What the server sends meanwhile (a PING, GOAWAY) is handled: the request opens a new connection."""

    def script(talk: H2Talk) -> None:
        talk.answer(talk.read_request())
        talk.h2.ping(b"12345678")
        talk.leave(1)

    with serving(speaking(script), speaking(echoes), alpn=ONLY_HTTP_2) as server:
        connection = faulty(server)

        async def scenario() -> None:
            await ask(connection, server.origin())
            connection.inject(ConnectionFault(delay=0.2))
            assert (await ask(connection, server.origin(), b"late")).body == b"late"
            connection.close()

        run_in_reactor(scenario())
        assert server.connections == 2


def test_another_certificate(run_in_reactor: RunInReactor) -> None:
    with serving(speaking(echoes), alpn=ONLY_HTTP_2) as server:
        connection = faulty(server, ConnectionFault(identity=MAC))

        async def scenario() -> None:
            await ask(connection, server.origin(), b"x")
            connection.close()

        run_in_reactor(scenario())
        assert [each.certificate for each in server.requests] == [MAC.certificate]
