"""Connections that speak HTTP/2, with nginx and nghttpd as servers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import RunInReactor
from http2_programs import Program, nghttpd, nginx
from servers import AUTHORITY, ask, client, until

from agent.net.http.connection import BOTH, HTTPConnection
from agent.net.http.fetch import Connections
from agent.net.http.fetch import ask as fetch
from agent.net.http.resumption import Resumption, binding_of
from agent.net.transport.tls import TLSContexts
from agent.pki.issuing.authority import CLIENT_USAGE

MAC = AUTHORITY.issue("mac", CLIENT_USAGE)


def to(server: Program, **keywords: object) -> HTTPConnection:
    keywords = {"alpn": BOTH, "identity": MAC, **keywords}
    return client(server.origin, **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("http2", "offered", "version"), [(True, BOTH, "HTTP/2"), (True, (), "HTTP/1.1"), (False, BOTH, "HTTP/1.1")]
)
def test_nginx_chooses(
    run_in_reactor: RunInReactor, tmp_path: Path, http2: bool, offered: tuple[bytes, ...], version: str
) -> None:
    with nginx(tmp_path, http2=http2) as server:
        connection = to(server, alpn=offered)

        async def scenario() -> None:
            for _ in range(3):
                response = await ask(connection, server.origin, b"x" * 3000, "/mdm")
                assert response.status == 200
                assert response.body == f"{version}{'.0' if version == 'HTTP/2' else ''} CN=mac ".encode()
            assert connection.http_version == version
            connection.close()

        run_in_reactor(scenario())


def test_nginx_ends_connections_with_goaway(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    """At keepalive_requests before the last answer; at a reload on an idle connection. Sessions are resumed."""
    contexts = TLSContexts()
    opened: list[str] = []
    with nginx(tmp_path, "keepalive_requests 3;") as server:
        connection = to(
            server,
            contexts=contexts,
            connected=opened.append,
            resumption=Resumption(1.0, lambda: 0.0, lambda: datetime.now(UTC).timestamp()),
            binding=binding_of(server.origin, MAC, (), ()),
        )

        async def scenario() -> None:
            kept = []
            for _ in range(7):
                response = await ask(connection, server.origin, b"x", "/mdm")
                assert response.status == 200
                kept.append(connection.connected)
            assert kept == [True, True, False, True, True, False, True]
            server.reload()
            await until(lambda: not connection.connected)
            assert (await ask(connection, server.origin, b"x", "/mdm")).status == 200
            connection.close()

        run_in_reactor(scenario())
    assert opened == ["HTTP/2"] * 4
    assert contexts.handshakes_full + contexts.handshakes_resumed == 4
    assert contexts.handshakes_resumed >= 2  # the new worker after a reload may have other keys


def test_nginx_answers_before_it_has_read_the_body(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    with nginx(tmp_path) as server:
        connection = to(server)

        async def scenario() -> None:
            for _ in range(5):
                assert (await ask(connection, server.origin, b"x" * 2_000_000, "/mdm")).status == 413
                assert (await ask(connection, server.origin, b"x" * 900_000, "/mdm")).status == 200
            connection.close()

        run_in_reactor(scenario())


def test_a_redirect_and_a_large_body_of_nginx(run_in_reactor: RunInReactor, tmp_path: Path) -> None:
    with nginx(tmp_path) as server:
        connections = Connections(lambda _origin: to(server))

        async def scenario() -> None:
            url = f"https://127.0.0.1:{server.port}"
            response = await fetch(connections, "PUT", f"{url}/moved", {"Mdm-Signature": "c2ln"}, b"report")
            assert response.body == b"HTTP/2.0 CN=mac c2ln"
            response = await fetch(connections, "GET", f"{url}/large", {})
            assert len(response.body) == 3_000_000
            connections.close()

        run_in_reactor(scenario())


@pytest.mark.parametrize("options", [(), ("--padding=200",), ("--header-table-size=0",), ("--window-bits=14",)])
def test_nghttpd_echoes(run_in_reactor: RunInReactor, tmp_path: Path, options: tuple[str, ...]) -> None:
    """Its windows stay at 65,535 bytes, or below."""
    with nghttpd(tmp_path, *options) as server:
        connection = to(server)

        async def scenario() -> None:
            for size in (0, 1, 16_384, 300_000, 300):
                response = await ask(connection, server.origin, b"x" * size, "/mdm")
                assert (response.status, len(response.body)) == (200, size)
            assert connection.http_version == "HTTP/2"
            connection.close()

        run_in_reactor(scenario())
