"""A connection on which faults are injected, against real servers: what arrives there, and what its caller gets."""

from __future__ import annotations

import socket

import pytest
from conftest import RunInReactor
from servers import AUTHORITY, Names, Talk, answer, ask, echo, serving, until
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from agent.errors import MisuseError, PeerError
from agent.net.http.faulty import ConnectionFault, FaultyConnection
from agent.net.http.http1 import Origin
from agent.net.transport.resolver import Resolver
from agent.net.transport.tls import TLSContexts


def faulty(origin: Origin, *on_connect: ConnectionFault | None) -> FaultyConnection:
    """A connection; ``on_connect`` are the faults of the connections that it opens, in order."""
    faults = list(on_connect)
    return FaultyConnection(
        reactor,
        Resolver(reactor, Names({})),
        TLSContexts(),
        origin,
        (AUTHORITY.certificate,),
        None,
        on_connect=lambda: faults.pop(0) if faults else None,
    )


@pytest.mark.parametrize("length", [0, 1, 1000, 300_000])
def test_a_slow_request_is_the_same_bytes(run_in_reactor: RunInReactor, length: int) -> None:
    with serving() as server:
        connection = faulty(server.origin())

        async def scenario() -> None:
            connection.inject(ConnectionFault(bytes_per_s=20.0 * (length + 100)))
            assert (await ask(connection, server.origin(), b"x" * length)).body == b"x" * length
            assert (await ask(connection, server.origin(), b"next")).body == b"next"
            connection.close()

        run_in_reactor(scenario())
        assert server.connections == 1


def test_an_answer_before_the_whole_slow_request_ends_the_connection(run_in_reactor: RunInReactor) -> None:
    def impatient(talk: Talk) -> None:
        talk.send(answer(400, b"no"))
        talk.wait_for_end()

    with serving(impatient, echo) as server:
        connection = faulty(server.origin())

        async def scenario() -> None:
            connection.inject(ConnectionFault(bytes_per_s=1.0))
            assert (await ask(connection, server.origin(), b"x" * 100)).status == 400
            assert not connection.connected
            assert (await ask(connection, server.origin(), b"next")).body == b"next"
            connection.close()

        run_in_reactor(scenario())


@pytest.mark.parametrize("at", ["before_request", "in_request", "after_request", "in_response"])
@pytest.mark.parametrize("kept", [False, True])
def test_reset_is_reported_once_and_the_request_is_not_sent_again(
    run_in_reactor: RunInReactor, at: str, kept: bool
) -> None:
    with serving() as server:
        connection = faulty(server.origin())

        async def scenario() -> None:
            if kept:
                await ask(connection, server.origin(), b"first")
            connection.inject(ConnectionFault(drop=at))  # type: ignore[arg-type]
            with pytest.raises(PeerError, match=rf"a fault rule reset the connection \({at}\)") as caught:
                await ask(connection, server.origin(), b"x" * 100)
            assert caught.value.kind == "fault"
            assert not connection.connected
            assert (await ask(connection, server.origin(), b"next")).body == b"next"
            connection.close()

        run_in_reactor(scenario())
        whole = [request.body for request in server.requests if request.body == b"x" * 100]
        assert len(whole) <= (at in ("after_request", "in_response"))
        assert len(whole) == 1 or at != "in_response"


def test_a_request_that_is_held_back_survives_the_end_of_its_connection(run_in_reactor: RunInReactor) -> None:
    """The server gives up the idle connection, with a 408 that nobody asked for, while the request waits."""

    def gives_up(talk: Talk) -> None:
        talk.send(answer(200, talk.read_request().body))
        talk.send(answer(408))
        talk.close()

    with serving(gives_up, echo) as server:
        connection = faulty(server.origin())

        async def scenario() -> None:
            await ask(connection, server.origin(), b"first")
            connection.inject(ConnectionFault(delay=0.05))
            waiting = ask(connection, server.origin(), b"late")
            await until(lambda: not connection.connected)
            assert (await waiting).body == b"late"
            connection.close()

        run_in_reactor(scenario())


def test_a_connection_that_is_held_back_is_closed_or_broken_off(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            origin = Origin("127.0.0.1", nobody.getsockname()[1])
            reported: list[object] = []
            connection = faulty(origin, ConnectionFault(delay=3600.0))
            ask(connection, origin).addBoth(reported.append)
            with pytest.raises(MisuseError):
                ask(connection, origin)
            connection.close()
            connection.inject(ConnectionFault(delay=3600.0))
            waiting: Deferred[object] = ask(connection, origin)
            connection.break_off(PeerError("enough"), in_order=True)
            with pytest.raises(PeerError, match="enough"):
                await waiting
            assert reported == []

    run_in_reactor(scenario())


def test_the_fault_of_a_connection_is_that_of_its_first_request(run_in_reactor: RunInReactor) -> None:
    with serving() as server:
        connection = faulty(server.origin(), ConnectionFault(drop="in_response"), ConnectionFault(delay=0.01))

        async def scenario() -> None:
            with pytest.raises(PeerError, match="in_response"):
                await ask(connection, server.origin(), b"one")
            for _ in range(2):
                assert (await ask(connection, server.origin(), b"two")).body == b"two"
            connection.close()

        run_in_reactor(scenario())
        assert server.connections == 2


def test_an_answer_before_the_point_of_a_reset_leaves_nothing_behind(run_in_reactor: RunInReactor) -> None:
    """The request is still being sent, and the connection looks again and again whether it is."""

    def impatient(talk: Talk) -> None:
        talk.send(answer(400, b"no"))
        talk.wait_for_end()

    with serving(impatient) as server:
        connection = faulty(server.origin())

        async def scenario() -> None:
            connection.inject(ConnectionFault(drop="after_request"))
            with pytest.raises(PeerError, match="after_request"):
                await ask(connection, server.origin(), b"x" * 16_000_000)

        run_in_reactor(scenario())
