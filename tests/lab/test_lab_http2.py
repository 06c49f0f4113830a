"""The lab speaks HTTP/2 and HTTP/1.1: it knows Macs and bounds bodies in both."""

from __future__ import annotations

import pytest
from conftest import RunInReactor
from stack import stack
from twisted.internet import reactor

from agent import plists
from agent.lab.mdm.core import Lab
from agent.lab.web.server import LabServer
from agent.net.http.connection import BOTH, HTTPConnection
from agent.net.http.fetch import exchange
from agent.net.http.http1 import split_url
from agent.net.http.request import request_to
from agent.net.http.server import MAX_BODY_BYTES
from agent.net.mac.sessions.connection import report_request
from agent.net.transport.resolver import Resolver
from agent.net.transport.tls import TLSContexts
from agent.pki.identity import Identity
from agent.pki.issuing.authorities import Authorities


def connection_to(server: LabServer, offered: tuple[bytes, ...], identity: Identity | None = None) -> HTTPConnection:
    origin, _target = split_url(server.url)
    anchors = (server.authorities.anchor,)
    resolver = Resolver(reactor, reactor.nameResolver)
    return HTTPConnection(reactor, resolver, TLSContexts(), origin, anchors, identity, alpn=offered)


@pytest.mark.parametrize(("offered", "version"), [(BOTH, "HTTP/2"), ((), "HTTP/1.1")])
def test_macs_and_bodies(run_in_reactor: RunInReactor, offered: tuple[bytes, ...], version: str) -> None:
    async def scenario() -> None:
        async with stack() as running:
            client = running.fleet[0]
            enrollment = client.device.enrollment
            assert enrollment is not None

            async def put(connection: HTTPConnection, body: bytes) -> int:
                _origin, request = report_request(enrollment, enrollment.server_url, body)
                return (await exchange(connection, request)).status

            of_mac = connection_to(running.server, offered, enrollment.identity)
            idle = plists.dump_xml({"Status": "Idle", "UDID": client.device.mac.udid})
            before = len(running.reports)
            assert [await put(of_mac, idle), await put(of_mac, idle)] == [200, 200]
            (one, other) = running.reports[before:]
            assert one == other  # of one connection
            assert await put(of_mac, b"x" * (MAX_BODY_BYTES + 1)) == 413
            assert await put(of_mac, idle) == 200
            anonymous = connection_to(running.server, offered)
            assert await put(anonymous, idle) == 401
            assert of_mac.http_version == anonymous.http_version == version
            of_mac.close()
            anonymous.close()

    run_in_reactor(scenario())


def test_defects_that_show_when_a_connection_breaks_are_of_http_1_1(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        server = LabServer(reactor, Lab(defects=frozenset({"survive-half-unenrolls"})), Authorities())
        server.listen()
        connection = connection_to(server, BOTH)
        origin, target = split_url(server.enrollment_url)
        assert (await exchange(connection, request_to("GET", origin, target, {}))).status == 200
        assert connection.http_version == "HTTP/1.1"
        connection.close()
        await server.close()

    run_in_reactor(scenario())
