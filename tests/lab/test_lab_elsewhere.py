"""The lab for Macs of other machines: the name in its certificate, its URLs and its profile."""

from __future__ import annotations

import ssl

import pytest
from conftest import RunInReactor
from cryptography import x509
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from agent.errors import OperatorError
from agent.lab.stored.keeping import lab_server
from agent.load.control.listening import address_of
from agent.pki.issuing.authorities import Authorities
from agent.pki.verify import alternative_names


def test_lab_for_other_machines_has_their_name_for_it(run_in_reactor: RunInReactor) -> None:
    async def scenario() -> None:
        names = ("lab.example", "127.0.0.1")
        server = lab_server(reactor, None, Authorities(), scep=True, host="127.0.0.1", names=names)
        server.listen()
        assert server.url.startswith("https://lab.example:")
        assert server.scep_url.startswith("http://lab.example:")
        port = int(server.url.rpartition(":")[2])
        pem = await deferToThread(ssl.get_server_certificate, ("127.0.0.1", port))
        assert alternative_names(x509.load_pem_x509_certificate(pem.encode())) == ["lab.example", "127.0.0.1"]
        profile = server.enrollment_profile()
        assert server.url.encode() in profile
        assert server.scep_url.encode() in profile
        await server.close()

    run_in_reactor(scenario())


@pytest.mark.parametrize(
    ("text", "address"), [("10.0.0.1", "10.0.0.1"), ("[::1]", "::1"), ("fe80::1%eth0", "fe80::1%eth0")]
)
def test_lab_listens_at_an_address(text: str, address: str) -> None:
    assert address_of(text, "--listen") == address


def test_lab_does_not_listen_at_a_name() -> None:
    with pytest.raises(OperatorError, match="Expected an IP address of this machine for --listen"):
        address_of("lab.example", "--listen")
