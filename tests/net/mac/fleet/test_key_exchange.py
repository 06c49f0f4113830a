"""The key exchange that a Mac offers to a server follows from its release of macOS."""

from __future__ import annotations

import socket
from collections.abc import Callable
from threading import Thread

import pytest
from OpenSSL import SSL
from servers import AUTHORITY, HOST, IDENTITY, server_context
from stack import stack

from agent.net.http.http1 import Origin


def agreed(client_of: Callable[[socket.socket], SSL.Connection]) -> str | None:
    """The group by which a client and a server of this OpenSSL agree on the key."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client, server = client_of(ours), SSL.Connection(server_context(IDENTITY), theirs)
        client.set_connect_state()
        server.set_accept_state()
        other = Thread(target=server.do_handshake)
        other.start()
        client.do_handshake()
        other.join()
        return client.get_group_name()


@pytest.mark.parametrize(("release", "hybrid"), [("15.2", False), ("26.4", True), ("27", True)])
def test_macs_offer_post_quantum_key_exchange_from_macos_26_on(run_in_reactor, release: str, hybrid: bool) -> None:  # type: ignore[no-untyped-def]
    openssl = agreed(lambda sock: SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), sock))
    assert openssl in ("X25519MLKEM768", "x25519")  # before OpenSSL 3.5 there is no other

    async def scenario() -> None:
        async with stack(os=release) as parts:
            mac = parts.fleet.population[0]
            connection = parts.environment.connection(mac, Origin(HOST, 443), anchors=(AUTHORITY.certificate,))
            assert agreed(lambda sock: connection._secure(sock)[0]) == (openssl if hybrid else "x25519")

    run_in_reactor(scenario())
