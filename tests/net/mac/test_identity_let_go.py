"""A connection lets go of its identity after the handshake: the server knows the Mac all the same, and talk goes on."""

from __future__ import annotations

import pytest
from conftest import RunInReactor
from OpenSSL import SSL
from stack import stack

from agent.net.transport import openssl_direct


@pytest.mark.parametrize("scep", [False, True], ids=["P-256", "RSA"])
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "public"])
def test_the_connection_goes_on_without_it(
    run_in_reactor: RunInReactor, monkeypatch: pytest.MonkeyPatch, scep: bool, direct: bool
) -> None:
    monkeypatch.setattr(openssl_direct, "DIRECT", direct and openssl_direct.DIRECT)

    async def scenario() -> None:
        async with stack(scep=scep) as running:
            client = running.fleet[0]
            for _ in range(2):
                assert (await running.command(client, "ProfileList"))["Status"] == "Acknowledged"
                await running.until(lambda: client.open_session is None, "the session's end")
            assert len({connection for _udid, connection in running.reports}) == 1
            assert client.device.enrollment is not None
            connection = client._parts.connection._connection
            assert connection is not None
            assert connection._stream is not None
            tls = connection._stream.tls
            assert isinstance(tls, SSL.Connection)
            held = tls.get_certificate()
            assert held is not None
            own = held.to_cryptography() == client.device.enrollment.identity.certificate
            assert own != openssl_direct.DIRECT

    run_in_reactor(scenario())
