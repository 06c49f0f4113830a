"""Bodies over a Mac's own HTTPS connection: large ones, slow ones, ones that are answered early."""

from __future__ import annotations

import socket
import threading

from conftest import RunInReactor
from servers import (
    HOST,
    Answer,
    Talk,
    answer,
    ask,
    client,
    echo,
    serving,
)

from agent.net.http.request import request_to

MIB = 1024 * 1024


def test_large_body_passes_through_a_slow_peer(run_in_reactor: RunInReactor) -> None:
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


def test_large_response_is_read_in_chunks_of_any_size(run_in_reactor: RunInReactor) -> None:
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


def test_early_response_closes_the_connection(run_in_reactor: RunInReactor) -> None:
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


def test_requests_and_responses_work_byte_by_byte(run_in_reactor: RunInReactor) -> None:
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


def test_request_has_the_given_method_path_and_headers(run_in_reactor: RunInReactor) -> None:
    with serving() as server:
        connection = client(server.origin())
        caller = Answer()

        async def scenario() -> None:
            request = request_to("PUT", server.origin(), "/mdm?id=1", {"Content-Type": "text/plain"}, b"body")
            connection.request(request, caller)
            await caller.deferred
            connection.close()

        run_in_reactor(scenario())
        (request,) = server.requests
        assert (request.method, request.target, request.body) == ("PUT", "/mdm?id=1", b"body")
        assert request.headers == {"host": f"{HOST}:{server.port}", "content-type": "text/plain", "content-length": "4"}
