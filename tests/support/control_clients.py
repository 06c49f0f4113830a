"""Clients of the control API: httpx in a thread, and bytes over a connection for what no good client does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from fake_service import FakeService
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ClientCreator, Protocol
from twisted.internet.threads import deferToThread

from agent.service.api.control import ControlServer

TOKEN = "secret"


class Party:
    """A server, its service, and a client with the token."""

    def __init__(self, service: Any, host: str = "127.0.0.1") -> None:
        self.service = service
        self.server = ControlServer(reactor, service, host, token=TOKEN)
        self.server.listen()
        self.port = int(self.server.url.rpartition(":")[2])
        self.client = httpx.Client(
            base_url=self.server.url,
            headers={"Authorization": f"Bearer {TOKEN}"},
            trust_env=False,
            timeout=30,
            verify=False,
        )

    async def ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """The response to a request."""
        return await deferToThread(self.client.request, method, path, **arguments)

    async def raw(self) -> Reading:
        """A connection."""
        return await ClientCreator(reactor, Reading).connectTCP("127.0.0.1", self.port)

    async def close(self) -> None:
        self.client.close()
        await self.server.close()


class Reading(Protocol):
    """What comes: ``until`` waits for it."""

    def __init__(self) -> None:
        self.octets = b""
        self.closed: Deferred[bytes] = Deferred()
        self._wanted: tuple[bytes, int, Deferred[None]] | None = None

    def send(self, method: str, path: str, *headers: str, body: bytes = b"", token: str | None = TOKEN) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
        if token is not None:
            lines.append(f"Authorization: Bearer {token}")
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    async def until(self, octets: bytes, times: int = 1) -> bytes:
        """Everything so far, once these bytes came so many times."""
        if self.octets.count(octets) < times:
            self._wanted = octets, times, Deferred()
            await self._wanted[2]
        return self.octets

    def dataReceived(self, data: bytes) -> None:
        self.octets += data
        if self._wanted is not None and self.octets.count(self._wanted[0]) >= self._wanted[1]:
            (_, _, came), self._wanted = self._wanted, None
            came.callback(None)

    def connectionLost(self, reason: object = None) -> None:
        self.closed.callback(self.octets)


def with_server(
    run_in_reactor: Any, test: Callable[[Party], Awaitable[Any]], service: Any = None, host: str = "127.0.0.1"
) -> Any:
    """Run ``test`` with a server."""

    async def run() -> Any:
        party = Party(FakeService() if service is None else service, host)
        try:
            return await test(party)
        finally:
            await party.close()

    return run_in_reactor(run())
