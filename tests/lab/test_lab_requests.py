"""The lab answers plain requests itself; twisted.web reads what is not plain, on the same connection."""

from __future__ import annotations

import re
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
import twisted.web.http
from conftest import RunInReactor
from lab_messages import in_thread, listening
from stack import stack

import agent.lab.web.connection

CAPS = b"GET /scep?operation=GetCACaps HTTP/1.1\r\nHost: lab\r\n"
POST = b"POST /scep?operation=PKIOperation HTTP/1.1\r\nHost: lab\r\n"
LAST = CAPS + b"Connection: close\r\n\r\n"


@pytest.fixture
def of_twisted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The methods and paths of the requests that twisted.web processes."""
    found: list[bytes] = []
    processed = twisted.web.http.Request.requestReceived

    def counting(request: Any, command: bytes, path: bytes, version: bytes) -> None:
        found.append(command + b" " + path.partition(b"?")[0])
        processed(request, command, path, version)

    monkeypatch.setattr(twisted.web.http.Request, "requestReceived", counting)
    return found


def answers_to(url: str, *parts: bytes) -> list[int]:
    """The statuses of the answers to bytes that are sent one part after another; the lab closes the connection."""
    address = urlsplit(url)
    assert address.hostname
    with socket.create_connection((address.hostname, address.port or 0), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            connection.sendall(part)
        received = b""
        while octets := connection.recv(65536):
            received += octets
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


@pytest.mark.parametrize(
    ("parts", "statuses", "read_by_twisted"),
    [
        ([CAPS + b"\r\n" + LAST], [200, 200], 0),  # pipelined
        ([bytes((octet,)) for octet in CAPS + b"\r\n" + LAST], [200, 200], 0),  # in pieces
        ([POST + b"Content-Length: 4\r\n\r\nab", b"cd" + LAST], [400, 200], 0),
        ([b"HEAD /scep HTTP/1.1\r\nHost: lab\r\n\r\n" + LAST], [405, 200], 0),
        ([CAPS + b"\r\n" + POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n" + LAST], [200, 400, 200], 2),
        ([POST + b"Content-Length: 70000\r\n\r\n", b"x" * 70000, LAST], [400, 200], 2),
        ([b"GET /scep/x HTTP/1.1\r\nHost: lab\r\n\r\n", LAST], [400, 200], 2),
        ([CAPS + b"X: " + b"x" * 15000 + b"\r\n\r\n", LAST], [200, 200], 0),
        ([b"nonsense\r\n\r\n"], [400], 0),  # refused before it is a request
        ([CAPS + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n"], [400], 0),
        ([CAPS + b"Content-Length: -1\r\n\r\n"], [400], 0),
    ],
)
def test_requests_of_http1(
    run_in_reactor: RunInReactor,
    of_twisted: list[bytes],
    parts: list[bytes],
    statuses: list[int],
    read_by_twisted: int,
) -> None:
    async def scenario() -> list[int]:
        async with listening(scep=True) as server:
            return await in_thread(lambda: answers_to(server.scep_url, *parts))

    assert run_in_reactor(scenario()) == statuses
    assert len(of_twisted) == read_by_twisted


def test_what_a_mac_sends_is_not_read_by_twisted(run_in_reactor: RunInReactor, of_twisted: list[bytes]) -> None:
    async def scenario() -> None:
        async with stack() as running:
            await running.command(running.fleet[0], "ProfileList")
            assert running.lab.macs

    run_in_reactor(scenario())
    assert of_twisted == []


def test_a_fault_of_an_answer_is_500_and_the_lab_goes_on(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(agent.lab.web.connection._log, "failure", logged.append)

    async def scenario() -> list[int]:
        async with listening(scep=True) as server:
            service: Any = server._scep
            operate = service.operate
            calls: list[Any] = []

            def once(*arguments: Any) -> Any:
                calls.append(arguments)
                return 1 / 0 if len(calls) == 1 else operate(*arguments)

            monkeypatch.setattr(service, "operate", once)
            return await in_thread(lambda: answers_to(server.scep_url, CAPS + b"\r\n" + LAST))

    assert run_in_reactor(scenario()) == [500, 200]
    assert len(logged) == 1
