"""A Mac's own HTTPS connection against real servers that do what servers do: close, refuse, stall, lie."""

from __future__ import annotations

import socket
import threading
from datetime import UTC, datetime, timedelta

import pytest
from conftest import RunInReactor
from cryptography.hazmat.primitives.asymmetric import rsa
from servers import (
    AUTHORITY,
    HOST,
    IDENTITY,
    Answer,
    Names,
    Talk,
    answer,
    ask,
    client,
    echo,
    one_answer,
    serving,
    silent,
    until,
    unused_port,
)

from agent.errors import MisuseError, PeerError
from agent.net.http import HTTPConnection
from agent.net.http1 import MAX_BODY_BYTES, Origin, Response, encode_request
from agent.net.stream import Timeouts
from agent.net.tls import TLSContexts
from agent.pki.authority import CLIENT_USAGE, SERVER_USAGE, Authority
from agent.pki.identity import Identity

OTHER_AUTHORITY = Authority.create("Another CA")
MIB = 1024 * 1024


def fails(run_in_reactor: RunInReactor, connection: HTTPConnection, origin: Origin, body: bytes = b"") -> PeerError:
    """Ask, and return the error; the connection is left as the error left it."""

    async def scenario() -> PeerError:
        with pytest.raises(PeerError) as caught:
            await ask(connection, origin, body)
        assert not connection.connected
        return caught.value

    error: PeerError = run_in_reactor(scenario())
    return error


# Keep-alive


def test_one_connection_carries_many_requests(run_in_reactor: RunInReactor) -> None:
    with serving() as server:
        connection = client(server.origin())

        async def scenario() -> list[bytes]:
            bodies = [(await ask(connection, server.origin(), b"%d" % number)).body for number in range(5)]
            connection.close()
            return bodies

        assert run_in_reactor(scenario()) == [b"0", b"1", b"2", b"3", b"4"]
        assert server.connections == 1


@pytest.mark.parametrize("end", [Talk.close, Talk.drop, Talk.reset], ids=["close_notify", "end of TCP", "reset"])
def test_a_kept_connection_that_the_server_closed_is_opened_again(run_in_reactor: RunInReactor, end: object) -> None:
    """The server closes just when the next request comes: nobody but the server sees the second try."""

    def closes_at_the_second_request(talk: Talk) -> None:
        talk.read_request()
        talk.send(answer(200, b"first"))
        talk.read_request()
        end(talk)  # type: ignore[operator]

    with serving(closes_at_the_second_request, echo) as server:
        connection = client(server.origin())

        async def scenario() -> bytes:
            await ask(connection, server.origin(), b"one")
            response = await ask(connection, server.origin(), b"two")
            connection.close()
            return response.body

        assert run_in_reactor(scenario()) == b"two"
        assert [(request.connection, request.body) for request in server.requests] == [
            (0, b"one"),
            (0, b"two"),
            (1, b"two"),
        ]


def test_a_request_is_sent_again_once_only(run_in_reactor: RunInReactor) -> None:
    def first(talk: Talk) -> None:
        talk.read_request()
        talk.send(answer(200))
        talk.read_request()
        talk.close()

    def later(talk: Talk) -> None:
        talk.read_request()
        talk.close()

    with serving(first, later) as server:
        connection = client(server.origin())

        async def scenario() -> None:
            await ask(connection, server.origin())
            with pytest.raises(PeerError) as caught:
                await ask(connection, server.origin())
            assert caught.value.kind == "broken"

        run_in_reactor(scenario())
        assert server.connections == 2


def test_a_first_request_is_not_sent_again(run_in_reactor: RunInReactor) -> None:
    def closes(talk: Talk) -> None:
        talk.read_request()
        talk.close()

    with serving(closes) as server:
        error = fails(run_in_reactor, client(server.origin()), server.origin())
        assert error.kind == "broken"
        assert server.connections == 1


def test_an_idle_connection_that_was_closed_is_noticed_before_it_is_used(run_in_reactor: RunInReactor) -> None:
    def closes_when_idle(talk: Talk) -> None:
        talk.read_request()
        talk.send(answer(200))
        talk.close()

    with serving(closes_when_idle, echo) as server:
        connection = client(server.origin())

        async def scenario() -> None:
            await ask(connection, server.origin(), b"one")
            await until(lambda: not connection.connected)
            assert (await ask(connection, server.origin(), b"two")).body == b"two"
            connection.close()

        run_in_reactor(scenario())
        assert [request.body for request in server.requests] == [b"one", b"two"]


def test_connection_close_is_obeyed(run_in_reactor: RunInReactor) -> None:
    with serving(one_answer(answer(200, b"", "Connection: close"))) as server:
        connection = client(server.origin())

        async def scenario() -> None:
            for _ in range(2):
                await ask(connection, server.origin())
                assert not connection.connected

        run_in_reactor(scenario())
        assert server.connections == 2


def test_bytes_that_nobody_asked_for_end_the_connection(run_in_reactor: RunInReactor) -> None:
    """They must not become the answer to the next request."""

    def says_too_much(talk: Talk) -> None:
        talk.read_request()
        talk.send(answer(200, b"right") + answer(200, b"wrong"))
        talk.wait_for_end()

    def says_it_later(talk: Talk) -> None:
        talk.read_request()
        talk.send(answer(200, b"right"))
        talk.send(answer(408, b"wrong"))
        talk.wait_for_end()

    with serving(says_too_much, says_it_later, echo) as server:
        connection = client(server.origin())

        async def scenario() -> list[bytes]:
            bodies = []
            for _ in range(3):
                bodies.append((await ask(connection, server.origin(), b"echo")).body)
                await until(lambda: not connection.connected or server.connections == 3)
            connection.close()
            return bodies

        assert run_in_reactor(scenario()) == [b"right", b"right", b"echo"]


def test_two_requests_at_once_are_our_misuse(run_in_reactor: RunInReactor) -> None:
    with serving() as server:
        connection = client(server.origin())

        async def scenario() -> None:
            first = ask(connection, server.origin(), b"one")
            with pytest.raises(MisuseError):
                connection.request(b"GET / HTTP/1.1\r\n\r\n", Answer())
            assert (await first).body == b"one"
            connection.close()

        run_in_reactor(scenario())


# Answers that do not come, or not whole


@pytest.mark.parametrize(
    "part",
    [
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
@pytest.mark.parametrize("end", [Talk.close, Talk.drop], ids=["close_notify", "end of TCP"])
def test_an_answer_that_stops_in_its_middle_is_broken(run_in_reactor: RunInReactor, part: bytes, end: object) -> None:
    def stops(talk: Talk) -> None:
        talk.read_request()
        talk.send(part)
        end(talk)  # type: ignore[operator]

    with serving(stops) as server:
        error = fails(run_in_reactor, client(server.origin()), server.origin())
        assert error.kind == "broken"
        assert "in the middle" in str(error)


def test_an_answer_that_stops_in_its_middle_is_not_asked_for_again(run_in_reactor: RunInReactor) -> None:
    def stops_at_the_second(talk: Talk) -> None:
        talk.read_request()
        talk.send(answer(200))
        talk.read_request()
        talk.send(b"HTTP/1.1 200 OK\r\n")
        talk.close()

    with serving(stops_at_the_second) as server:
        connection = client(server.origin())

        async def scenario() -> None:
            await ask(connection, server.origin())
            with pytest.raises(PeerError, match="in the middle"):
                await ask(connection, server.origin())

        run_in_reactor(scenario())
        assert server.connections == 1


def test_a_body_that_the_connections_end_ends_is_whole_after_close_notify(run_in_reactor: RunInReactor) -> None:
    def closes(talk: Talk) -> None:
        talk.read_request()
        talk.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        talk.close()

    with serving(closes) as server:
        connection = client(server.origin())

        async def scenario() -> Response:
            return await ask(connection, server.origin())

        assert run_in_reactor(scenario()).body == b"all of it"
        assert not connection.connected


@pytest.mark.parametrize("end", [Talk.drop, Talk.reset], ids=["end of TCP", "reset"])
def test_a_body_that_anyone_may_have_cut_short_is_broken(run_in_reactor: RunInReactor, end: object) -> None:
    """RFC 9112, 9.8: without close_notify nobody knows whether the body is whole."""

    def cut_short(talk: Talk) -> None:
        talk.read_request()
        talk.send(b"HTTP/1.1 200 OK\r\n\r\n")
        talk.send(b"half of ")
        end(talk)  # type: ignore[operator]

    with serving(cut_short) as server:
        assert fails(run_in_reactor, client(server.origin()), server.origin()).kind == "broken"


def test_an_answer_that_is_no_http_is_told_at_once(run_in_reactor: RunInReactor) -> None:
    with serving(one_answer(b"+OK POP3 server ready\r\n")) as server:
        error = fails(run_in_reactor, client(server.origin()), server.origin())
        assert error.kind == "http"
        assert "POP3" in str(error)


def test_an_answer_past_the_limit_is_not_waited_for(run_in_reactor: RunInReactor) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode()
    with serving(one_answer(head)) as server:
        assert fails(run_in_reactor, client(server.origin()), server.origin()).kind == "http_too_long"


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"], ids=["nothing", "a part"])
def test_an_answer_has_a_time_limit(run_in_reactor: RunInReactor, part: bytes) -> None:
    with serving(one_answer(part)) as server:
        connection = client(server.origin(), timeouts=Timeouts(answer=0.05))
        error = fails(run_in_reactor, connection, server.origin())
        assert error.kind == "answer_timeout"
        assert "within 0.05 s" in str(error)


def test_the_connection_is_good_again_after_any_failure(run_in_reactor: RunInReactor) -> None:
    def resets(talk: Talk) -> None:
        talk.read_request()
        talk.reset()

    with serving(silent, one_answer(b"x"), one_answer(b""), resets, echo) as server:
        connection = client(server.origin(), timeouts=Timeouts(handshake=0.1, answer=0.2))

        async def scenario() -> list[str]:
            kinds = []
            for _ in range(4):
                with pytest.raises(PeerError) as caught:
                    await ask(connection, server.origin())
                kinds.append(caught.value.kind)
            assert (await ask(connection, server.origin(), b"good")).body == b"good"
            connection.close()
            return kinds

        assert run_in_reactor(scenario()) == ["tls_timeout", "http", "answer_timeout", "broken"]


# Closing


@pytest.mark.parametrize("script", [silent, one_answer(b"")], ids=["in the handshake", "before the answer"])
@pytest.mark.parametrize("how", ["close", "abort"])
def test_closing_calls_nobody_and_leaves_nothing(run_in_reactor: RunInReactor, script: object, how: str) -> None:
    with serving(script, echo) as server:  # type: ignore[arg-type]
        connection = client(server.origin())

        async def scenario() -> None:
            forgotten = ask(connection, server.origin(), b"forgotten")
            await until(lambda: server.connections == 1)
            getattr(connection, how)()
            assert not connection.connected
            assert (await ask(connection, server.origin(), b"next")).body == b"next"
            assert not forgotten.called
            connection.close()

        run_in_reactor(scenario())


@pytest.mark.parametrize("known", [[HOST], []], ids=["found", "not found"])
def test_a_lookup_of_a_closed_connection_does_not_disturb_the_next_request(
    run_in_reactor: RunInReactor, known: list[str]
) -> None:
    names = Names({"mdm.test": known}, hold=True)
    with serving() as server:
        origin = server.origin("mdm.test")
        connection = client(origin, names=names)

        async def scenario() -> None:
            forgotten = ask(connection, origin, b"forgotten")
            connection.close()
            second = ask(connection, origin, b"second")
            names.release()
            if known:
                assert (await second).body == b"second"
            else:
                with pytest.raises(PeerError):
                    await second
            assert not forgotten.called
            connection.close()

        run_in_reactor(scenario())
        assert [request.body for request in server.requests] == [b"second"] * len(known)
        assert server.connections == len(known)


# Who the server is


def test_the_server_may_be_named_by_name_or_by_address(run_in_reactor: RunInReactor) -> None:
    with serving() as server:
        for host in ("mdm.test", HOST):
            origin = server.origin(host)
            connection = client(origin, names=Names({"mdm.test": [HOST]}))

            async def scenario(connection: HTTPConnection = connection, origin: Origin = origin) -> None:
                assert (await ask(connection, origin, b"x")).body == b"x"
                connection.close()

            run_in_reactor(scenario())
        assert [request.headers["host"] for request in server.requests] == [
            f"mdm.test:{server.port}",
            f"{HOST}:{server.port}",
        ]


def server_identity(**options: object) -> Identity:
    return AUTHORITY.issue("server", SERVER_USAGE, **options)  # type: ignore[arg-type]


LONG_AGO = datetime.now(UTC) - timedelta(days=2)


@pytest.mark.parametrize(
    ("identity", "kind", "words"),
    [
        (OTHER_AUTHORITY.issue("server", SERVER_USAGE, names=[HOST]), "tls_untrusted", "Another CA"),
        (server_identity(names=["other.test", "192.0.2.1"]), "tls_wrong_name", "other.test, 192.0.2.1"),
        (server_identity(), "tls_wrong_name", "subjectAltName has none"),
        (AUTHORITY.issue(HOST, SERVER_USAGE), "tls_wrong_name", "subjectAltName has none"),
        (
            server_identity(names=[HOST], not_before=LONG_AGO, not_after=LONG_AGO + timedelta(days=1)),
            "tls_expired",
            "expired",
        ),
        (
            server_identity(names=[HOST], not_before=datetime.now(UTC) + timedelta(days=1)),
            "tls_not_yet_valid",
            "before",
        ),
        (AUTHORITY.issue("client", CLIENT_USAGE, names=[HOST]), "tls_wrong_usage", "not allowed"),
    ],
    ids=["untrusted", "other name", "no SAN", "CN without SAN", "expired", "not yet valid", "client certificate"],
)
def test_a_server_that_is_not_the_one_meant_gets_no_request(
    run_in_reactor: RunInReactor, identity: Identity, kind: str, words: str
) -> None:
    with serving(identity=identity) as server:
        error = fails(run_in_reactor, client(server.origin()), server.origin(), b"secret")
        assert error.kind == kind
        assert words in str(error)
        assert server.requests == []


def test_without_an_anchor_nobody_is_trusted(run_in_reactor: RunInReactor) -> None:
    with serving() as server:
        error = fails(run_in_reactor, client(server.origin(), anchors=()), server.origin())
        assert error.kind == "tls_untrusted"
        assert server.requests == []


def test_a_name_is_judged_as_a_name_and_an_address_as_an_address(run_in_reactor: RunInReactor) -> None:
    """A certificate for the address does not stand for a name that leads there."""
    with serving(identity=server_identity(names=[HOST])) as server:
        origin = server.origin("mdm.test")
        error = fails(run_in_reactor, client(origin, names=Names({"mdm.test": [HOST]})), origin)
        assert error.kind == "tls_wrong_name"


def test_a_name_without_an_address_is_told(run_in_reactor: RunInReactor) -> None:
    origin = Origin("nothing.test", 443)
    error = fails(run_in_reactor, client(origin, names=Names({})), origin)
    assert (error.kind, "nothing.test" in str(error)) == ("dns", True)


# Who the Mac is


def test_each_connection_presents_its_own_identity(run_in_reactor: RunInReactor) -> None:
    """Two Macs in turn over one set of contexts, over kept-alive and new connections; a third has no identity."""
    macs = [AUTHORITY.issue(f"mac-{number}", CLIENT_USAGE) for number in range(2)]
    macs.append(Identity(macs[0].certificate, macs[0].key, chain=(AUTHORITY.certificate,)))
    identities = [*macs, None]
    contexts = TLSContexts()
    with serving() as server:
        connections = [client(server.origin(), identity=identity, contexts=contexts) for identity in identities]

        async def scenario() -> None:
            for turn in range(3):
                for number, connection in enumerate(connections):
                    await ask(connection, server.origin(), b"%d" % number)
                    if turn == 1:
                        connection.close()
            for connection in connections:
                connection.close()

        run_in_reactor(scenario())
        assert len(server.requests) == 12
        for request in server.requests:
            identity = identities[int(request.body)]
            assert request.certificate == (None if identity is None else identity.certificate)


REFUSALS = [
    pytest.param(OTHER_AUTHORITY.issue("mac", CLIENT_USAGE), "unknown ca", id="of another CA"),
    pytest.param(None, "certificate required|handshake failure", id="none"),
    pytest.param(
        AUTHORITY.issue("mac", CLIENT_USAGE, not_before=LONG_AGO, not_after=LONG_AGO + timedelta(days=1)),
        "certificate expired",
        id="expired",
    ),
]


@pytest.mark.parametrize("tls_1_2", [False, True], ids=["TLS 1.3", "TLS 1.2"])
@pytest.mark.parametrize(("identity", "words"), REFUSALS)
@pytest.mark.parametrize("body_bytes", [0, 4 * MIB])
@pytest.mark.parametrize("stays", [False, True], ids=["closes", "stays"])
def test_a_server_that_refuses_our_certificate_says_so(
    run_in_reactor: RunInReactor, identity: Identity | None, words: str, tls_1_2: bool, body_bytes: int, stays: bool
) -> None:
    def script(talk: Talk) -> None:
        try:
            talk.read_request()
        finally:
            if stays:
                talk.wait_for_end()

    with serving(script, require_certificate=True, tls_1_2=tls_1_2) as server:
        connection = client(server.origin(), identity=identity)
        error = fails(run_in_reactor, connection, server.origin(), b"x" * body_bytes)
        assert server.requests == []
        if stays:
            assert error.kind == "tls"
            assert any(word in str(error) for word in words.split("|"))
        else:  # its reset may come during our write, and take the reason that it gave along
            assert "certificate" in str(error) or any(word in str(error) for word in words.split("|"))


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (Identity(IDENTITY.certificate, AUTHORITY.identity.key), "key values mismatch"),
        (AUTHORITY.issue("mac", CLIENT_USAGE, key=rsa.generate_private_key(65537, 1024)), "key too small"),
    ],
    ids=["another key", "short key"],
)
def test_an_identity_that_tls_cannot_use_is_a_clear_error(
    run_in_reactor: RunInReactor, identity: Identity, words: str
) -> None:
    with serving() as server:
        error = fails(run_in_reactor, client(server.origin(), identity=identity), server.origin())
        assert error.kind == "identity"
        assert words in str(error)
        assert server.requests == []


# Servers that are not there


def test_a_refused_connection_is_told_with_its_address(run_in_reactor: RunInReactor) -> None:
    origin = Origin(HOST, unused_port())
    error = fails(run_in_reactor, client(origin), origin)
    assert error.kind == "connect"
    assert "Connection refused" in str(error)
    assert f"{HOST}:{origin.port}" in str(error)


def test_the_handshake_has_a_time_limit(run_in_reactor: RunInReactor) -> None:
    with serving(silent) as server:
        connection = client(server.origin(), timeouts=Timeouts(handshake=0.05))
        error = fails(run_in_reactor, connection, server.origin())
        assert (error.kind, str(error)) == ("tls_timeout", "no TLS handshake within 0.05 s")


def test_a_server_that_speaks_no_tls_is_told(run_in_reactor: RunInReactor) -> None:
    def plain(talk: Talk) -> None:
        talk.sock.recv(4096)
        talk.sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        talk.wait_for_end()

    with serving(plain) as server:
        error = fails(run_in_reactor, client(server.origin()), server.origin())
        assert error.kind == "tls"
        assert "does not speak TLS" in str(error)


@pytest.mark.parametrize("end", [Talk.drop, Talk.reset], ids=["end of TCP", "reset"])
def test_a_server_that_hangs_up_in_the_handshake_is_told(run_in_reactor: RunInReactor, end: object) -> None:
    def hangs_up(talk: Talk) -> None:
        talk.sock.recv(16)
        end(talk)  # type: ignore[operator]

    with serving(hangs_up) as server:
        error = fails(run_in_reactor, client(server.origin()), server.origin())
        assert error.kind == "tls"
        assert "during the TLS handshake" in str(error)


# Names with several addresses


def test_the_next_address_is_tried_where_the_first_refuses(run_in_reactor: RunInReactor) -> None:
    """``localhost`` is ::1 first; the server listens on 127.0.0.1 only. The second request goes there at once."""
    with serving() as server:
        origin = server.origin("localhost")
        connection = client(origin)

        async def scenario() -> None:
            for _ in range(2):
                assert (await ask(connection, origin, b"x")).body == b"x"
                connection.close()

        run_in_reactor(scenario())
        assert server.connections == 2


def test_an_address_that_cannot_even_be_begun_is_passed_over(run_in_reactor: RunInReactor) -> None:
    with serving() as server:
        origin = server.origin("mdm.test")
        connection = client(origin, names=Names({"mdm.test": ["255.255.255.255", "fe80::1", HOST]}))

        async def scenario() -> None:
            assert (await ask(connection, origin, b"x")).body == b"x"
            connection.close()

        run_in_reactor(scenario())


def test_the_address_that_answered_is_tried_first_the_next_time(run_in_reactor: RunInReactor) -> None:
    with serving() as server, serving(host="127.0.0.2", port=server.port) as second:
        origin = server.origin("mdm.test")
        connection = client(origin, names=Names({"mdm.test": ["127.0.0.3", "127.0.0.2", HOST]}))

        async def scenario() -> None:
            for _ in range(2):
                await ask(connection, origin)
                connection.close()

        run_in_reactor(scenario())
        assert (server.connections, second.connections) == (0, 2)


def test_where_every_address_refuses_all_are_named(run_in_reactor: RunInReactor) -> None:
    origin = Origin("localhost", unused_port())
    error = fails(run_in_reactor, client(origin), origin)
    assert error.kind == "connect"
    assert f"[::1]:{origin.port}, {HOST}:{origin.port}" in str(error)


def test_an_address_where_the_wrong_server_answers_is_the_end(run_in_reactor: RunInReactor) -> None:
    """Only a connection that nobody accepts leads on: an error of TLS must not be covered up by another address."""
    wrong = OTHER_AUTHORITY.issue("x", SERVER_USAGE, names=["mdm.test"])
    with serving() as right, serving(identity=wrong, host="127.0.0.2", port=right.port):
        origin = right.origin("mdm.test")
        connection = client(origin, names=Names({"mdm.test": ["127.0.0.2", HOST]}))
        assert fails(run_in_reactor, connection, origin).kind == "tls_untrusted"
        assert right.connections == 0


# Large bodies


def test_a_large_body_goes_to_a_slow_reader_and_back(run_in_reactor: RunInReactor) -> None:
    body = bytes(range(256)) * (4 * MIB // 256)

    def slow(talk: Talk) -> None:
        talk.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        request = talk.read_request()
        assert request.body == body
        talk.send(answer(200, request.body))
        talk.wait_for_end()

    with serving(slow) as server:
        connection = client(server.origin())

        async def scenario() -> None:
            assert (await ask(connection, server.origin(), body)).body == body
            connection.close()

        run_in_reactor(scenario())


def test_a_large_answer_comes_in_chunks_of_any_size(run_in_reactor: RunInReactor) -> None:
    body = b"0123456789abcdef" * (2 * MIB // 16)
    sizes = [1, 7, 4096, 100_000, 2 * MIB]

    def chunked(talk: Talk) -> None:
        talk.read_request()
        talk.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        start = 0
        for size in sizes:
            part, start = body[start : start + size], start + size
            talk.send(b"%x\r\n%b\r\n" % (len(part), part))
        talk.send(b"0\r\n\r\n")
        talk.wait_for_end()

    with serving(chunked) as server:
        connection = client(server.origin())

        async def scenario() -> None:
            assert (await ask(connection, server.origin())).body == body
            connection.close()

        run_in_reactor(scenario())


def test_an_answer_before_the_whole_request_is_taken_ends_the_connection(run_in_reactor: RunInReactor) -> None:
    """A server that refuses a large body early: its answer counts, and the rest of the body goes nowhere."""
    heard = threading.Event()

    def early(talk: Talk) -> None:
        talk.tls.recv(100)
        talk.send(answer(413, b"too long"))
        heard.wait()

    with serving(early, echo) as server:
        connection = client(server.origin())

        async def scenario() -> None:
            response = await ask(connection, server.origin(), b"x" * (16 * MIB))
            heard.set()
            assert (response.status, response.body) == (413, b"too long")
            assert not connection.connected
            assert (await ask(connection, server.origin(), b"next")).body == b"next"
            connection.close()

        run_in_reactor(scenario())


def test_requests_and_answers_one_byte_at_a_time(run_in_reactor: RunInReactor) -> None:
    octets = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"

    def slowly(talk: Talk) -> None:
        talk.read_request()
        for number in range(len(octets)):
            talk.send(octets[number : number + 1])
        talk.wait_for_end()

    with serving(slowly) as server:
        connection = client(server.origin())

        async def scenario() -> None:
            assert (await ask(connection, server.origin())).body == b"hello"
            connection.close()

        run_in_reactor(scenario())


def test_a_request_is_what_was_asked_for(run_in_reactor: RunInReactor) -> None:
    with serving() as server:
        connection = client(server.origin())
        caller = Answer()

        async def scenario() -> None:
            request = encode_request("PUT", server.origin(), "/mdm?id=1", {"Content-Type": "text/plain"}, b"body")
            connection.request(request, caller)
            await caller.deferred
            connection.close()

        run_in_reactor(scenario())
        (request,) = server.requests
        assert (request.method, request.target, request.body) == ("PUT", "/mdm?id=1", b"body")
        assert request.headers == {"host": f"{HOST}:{server.port}", "content-type": "text/plain", "content-length": "4"}
