"""A Mac's own HTTPS connection against real servers that do what servers do: close, stall, cut short, answer early."""

from __future__ import annotations

import pytest
from conftest import RunInReactor
from servers import (
    HOST,
    Answer,
    Names,
    Talk,
    answer,
    ask,
    client,
    echo,
    fails,
    one_answer,
    serving,
    silent,
    until,
)

from agent.errors import MisuseError, PeerError
from agent.net.http.http1 import MAX_BODY_BYTES, Origin, Response
from agent.net.transport.stream import Timeouts

MIB = 1024 * 1024


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
def test_closed_keep_alive_connection_is_reopened(run_in_reactor: RunInReactor, end: object) -> None:
    """The server closes just as the next request arrives: only the server sees the second try."""

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


def test_request_is_resent_only_once(run_in_reactor: RunInReactor) -> None:
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


def test_first_request_of_a_connection_is_not_resent(run_in_reactor: RunInReactor) -> None:
    def closes(talk: Talk) -> None:
        talk.read_request()
        talk.close()

    with serving(closes) as server:
        error = fails(run_in_reactor, client(server.origin()), server.origin())
        assert error.kind == "broken"
        assert server.connections == 1


def test_closed_idle_connection_is_detected_before_use(run_in_reactor: RunInReactor) -> None:
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


def test_connection_close_header_closes_the_connection(run_in_reactor: RunInReactor) -> None:
    with serving(one_answer(answer(200, b"", "Connection: close"))) as server:
        connection = client(server.origin())

        async def scenario() -> None:
            for _ in range(2):
                await ask(connection, server.origin())
                assert not connection.connected

        run_in_reactor(scenario())
        assert server.connections == 2


def test_unsolicited_bytes_close_the_connection(run_in_reactor: RunInReactor) -> None:
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


def test_simultaneous_requests_raise_misuse_error(run_in_reactor: RunInReactor) -> None:
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
def test_truncated_response_is_broken(run_in_reactor: RunInReactor, part: bytes, end: object) -> None:
    def stops(talk: Talk) -> None:
        talk.read_request()
        talk.send(part)
        end(talk)  # type: ignore[operator]

    with serving(stops) as server:
        error = fails(run_in_reactor, client(server.origin()), server.origin())
        assert error.kind == "broken"
        assert "before the end" in str(error)


def test_truncated_response_is_not_requested_again(run_in_reactor: RunInReactor) -> None:
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
            with pytest.raises(PeerError, match="before the end"):
                await ask(connection, server.origin())

        run_in_reactor(scenario())
        assert server.connections == 1


def test_body_ended_by_close_notify_is_complete(run_in_reactor: RunInReactor) -> None:
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
def test_body_ended_without_close_notify_is_broken(run_in_reactor: RunInReactor, end: object) -> None:
    """RFC 9112, 9.8: without close_notify it is unknown whether the body is complete."""

    def cut_short(talk: Talk) -> None:
        talk.read_request()
        talk.send(b"HTTP/1.1 200 OK\r\n\r\n")
        talk.send(b"half of ")
        end(talk)  # type: ignore[operator]

    with serving(cut_short) as server:
        assert fails(run_in_reactor, client(server.origin()), server.origin()).kind == "broken"


def test_response_that_is_not_http_fails_at_once(run_in_reactor: RunInReactor) -> None:
    with serving(one_answer(b"+OK POP3 server ready\r\n")) as server:
        error = fails(run_in_reactor, client(server.origin()), server.origin())
        assert error.kind == "http"
        assert "POP3" in str(error)


def test_response_above_the_limit_fails_at_once(run_in_reactor: RunInReactor) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode()
    with serving(one_answer(head)) as server:
        assert fails(run_in_reactor, client(server.origin()), server.origin()).kind == "http_too_long"


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"], ids=["nothing", "a part"])
def test_response_has_a_time_limit(run_in_reactor: RunInReactor, part: bytes) -> None:
    with serving(one_answer(part)) as server:
        connection = client(server.origin(), timeouts=Timeouts(answer=0.05))
        error = fails(run_in_reactor, connection, server.origin())
        assert error.kind == "answer_timeout"
        assert "within 0.05 s" in str(error)


def test_connection_works_after_any_failure(run_in_reactor: RunInReactor) -> None:
    def resets(talk: Talk) -> None:
        talk.read_request()
        talk.reset()

    with serving(silent, one_answer(b"x"), one_answer(b""), resets, echo) as server:
        connection = client(server.origin(), timeouts=Timeouts(handshake=2.0, answer=2.0))

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
def test_closing_makes_no_callback_and_leaves_no_timer(run_in_reactor: RunInReactor, script: object, how: str) -> None:
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
def test_lookup_of_a_closed_connection_does_not_affect_the_next_request(
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


def test_failed_lookup_is_reported_once_per_request(run_in_reactor: RunInReactor) -> None:
    """A caller that asks again at once must not get the answer to what was asked before."""
    names = Names({}, hold=True)
    origin = Origin("mdm.test", 443)
    connection = client(origin, names=names)

    class Insistent(Answer):
        heard = 0

        def broke(self, _error: PeerError) -> None:
            self.heard += 1
            connection.request(b"", self)

    async def scenario() -> None:
        caller = Insistent()
        connection.request(b"", caller)
        connection.close()
        connection.request(b"", caller)
        names.release()
        assert caller.heard == 1
        names.release()
        assert caller.heard == 2
        connection.close()

    run_in_reactor(scenario())
