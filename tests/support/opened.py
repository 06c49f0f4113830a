"""A server's API as its operator's tools use it: opened in the test's reactor, against a scripted server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from servers import AUTHORITY, Names, Script, Talk, answer

from agent.fleet.population import Mac, Population
from agent.net.transport.resolver import Resolver
from agent.net.transport.stream import Timeouts
from agent.servers.configs import ServerConfig, Trust
from agent.servers.opening import open_server
from agent.servers.server import Server

MACS = Population("servers", 3)
MAC = MACS[1]
TRUSTED = Trust(AUTHORITY.certificate.public_bytes(Encoding.PEM).decode(), system=False)
SECRET = "sesame-0123456789"
COMMAND = {"RequestType": "ProfileList"}
UUID = "0A1B2C3D-0000-4000-8000-000000000001"


def mac_of(udid: str) -> Mac:
    """The Mac of a UDID."""
    return next(mac for mac in MACS if mac.udid == udid)


@contextmanager
def opened(config: ServerConfig, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """The server of a configuration, closed at the end."""
    from twisted.internet import reactor  # the one that tests/conftest.py runs

    resolver = Resolver(reactor, Names({}))  # type: ignore[arg-type]
    timeouts = Timeouts(answer=20.0)
    server = open_server(
        config,
        reactor,
        resolver,
        mac_of,
        timeouts=timeouts,
        environment=environment or {},  # type: ignore[arg-type]
    )
    try:
        yield server
    finally:
        server.close()


def answering(*answers: tuple[int, bytes]) -> Script:
    """Answer one request after another; the last answer is for all that follow."""

    def script(talk: Talk) -> None:
        number = 0
        while True:
            talk.read_request()
            talk.send(answer(*answers[min(number, len(answers) - 1)], "Content-Type: application/json"))
            number += 1

    return script


def enqueue(server: Server) -> Any:
    """Queue the command for MAC."""
    return server.enqueue(MAC.udid, UUID, COMMAND)


def push(server: Server) -> Any:
    """Push MAC."""
    return server.push(MAC.udid)
