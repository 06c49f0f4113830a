"""All LOM networks accept the same certificates: a table of chains, verified in memory and by TLS.

``MemoryNetwork`` judges without a handshake; a real handshake with the contexts of the networks with sockets judges
the same certificates here, over memory BIOs. Some of the table goes over TCP on ``[::1]`` besides.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Coroutine, Iterator
from functools import cache
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from lom_matrix import ACCEPTED, CASES, NAME, REFUSED, Built, build
from lom_parties import (
    ADDRESS,
    CONTROLLER_CA,
    CONTROLLER_IDENTITY,
    DEVICE_CA,
    DEVICE_IDENTITY,
    Party,
    Sockets,
    item,
)
from lom_parties import NAME as GOOD_NAME
from OpenSSL import SSL
from twisted.internet import reactor

from agent.errors import PeerError
from agent.lom.endpoint import LOMConfiguration
from agent.lom.network import AddressBook, MemoryNetwork
from agent.net.transport.tls import TLSContexts, make_context, use_identity
from agent.pki.verify import PeerCheck, PeerRejected, controller_judge, device_judge

Run = Callable[[Coroutine[Any, Any, Any]], Any]
ROLES = {"Device": ExtendedKeyUsageOID.SERVER_AUTH, "Controller": ExtendedKeyUsageOID.CLIENT_AUTH}
_TURNS = 8  # steps of a handshake; TLS 1.3 needs three


@pytest.fixture(autouse=True)
def _names_of_any_length() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attribute's length")
        yield


@cache
def built(name: str, role: str) -> Built:
    return build(CASES[name], ROLES[role])


def expected(name: str, role: str) -> str:
    case = CASES[name]
    return case.of_controllers or case.verdict if role == "Controller" else case.verdict


def parties(name: str, role: str) -> tuple[Party, Party, str]:
    """Device, Controller, and the DeviceDNSName of the request; one of them presents the case."""
    case = built(name, role)
    if role == "Device":
        device = LOMConfiguration(device_identity=case.identity, controller_anchors=(CONTROLLER_CA.certificate,))
        controller = LOMConfiguration(controller_identity=CONTROLLER_IDENTITY, device_anchors=case.anchors)
        return Party(1, device, (ADDRESS,)), Party(0, controller), NAME
    device = LOMConfiguration(device_identity=DEVICE_IDENTITY, controller_anchors=case.anchors)
    controller = LOMConfiguration(controller_identity=case.identity, device_anchors=(DEVICE_CA.certificate,))
    return Party(1, device, (ADDRESS,)), Party(0, controller), GOOD_NAME


def in_memory(name: str, role: str) -> tuple[str, bool]:
    """The verdict of ``MemoryNetwork``, and whether the Device received the request."""
    device, controller, asked_for = parties(name, role)
    book = AddressBook()
    book.add(device)
    outcome = MemoryNetwork(book).relay(controller, item(ADDRESS, name=asked_for))
    return ACCEPTED if outcome.success else REFUSED, bool(device.asked)


def by_tls(name: str, role: str) -> str:
    """The verdict of a handshake as ``SocketNetwork`` and ``Relays`` make it."""
    device, controller, asked_for = parties(name, role)
    assert device.lom is not None
    assert controller.lom is not None
    assert device.lom.device_identity is not None
    of_device, of_controller = PeerCheck(device_judge(asked_for)), PeerCheck(controller_judge)
    try:
        server = SSL.Connection(make_context(device.lom.controller_anchors, device.lom.device_identity.chain), None)
        use_identity(server, device.lom.device_identity)
        client = TLSContexts().client(
            None,  # type: ignore[arg-type]  # memory BIOs instead of a socket
            controller.lom.device_anchors,
            controller.lom.controller_identity,
            of_device,
            asked_for,
        )
    except PeerError:  # the end cannot even load its own certificates
        return REFUSED
    server.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, of_controller)
    server.set_accept_state()
    ended = shake_hands(client, server)
    try:
        assert of_device.name
        assert of_controller.name
    except PeerRejected:
        return REFUSED
    return ACCEPTED if ended else REFUSED


def shake_hands(client: SSL.Connection, server: SSL.Connection) -> bool:
    """Whether both ends have completed the handshake, and neither rejected the other."""
    waiting = {client, server}
    for _ in range(_TURNS):
        for one, other in ((client, server), (server, client)):
            try:
                one.do_handshake()
                waiting.discard(one)
            except SSL.WantReadError:
                pass
            except SSL.Error:
                return False
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(65536))
    return not waiting


both_roles = pytest.mark.parametrize("role", ROLES)


@pytest.mark.slow
@both_roles
@pytest.mark.parametrize("name", CASES)
def test_memory_and_tls_agree_with_the_table(name: str, role: str) -> None:
    verdict, asked = in_memory(name, role)
    assert (verdict, by_tls(name, role)) == (expected(name, role), expected(name, role))
    assert asked == (verdict == ACCEPTED)


def test_table_has_accepted_and_refused_cases_of_each_kind() -> None:
    assert len(CASES) * len(ROLES) >= 156
    verdicts = {(name.partition(":")[0], expected(name, role)) for name in CASES for role in ROLES}
    assert len(verdicts) == 2 * len({name.partition(":")[0] for name in CASES})


def test_table_marks_where_openssl_and_the_rfc_differ() -> None:
    text = {name: case for name, case in CASES.items() if case.rfc}
    assert {case.rfc.partition(":")[0] for case in text.values()} <= {ACCEPTED, REFUSED}
    assert all(case.rfc.partition(":")[0] != case.verdict for case in text.values())


OVER_TCP = [
    "CN: good", "CN: NUL in it", "SAN: another", "CA: intermediate is no CA", "dates: intermediate expired",
    "EKU: intermediate the other", "EKU: intermediate own", "EKU: root the other", "KU: leaf unreadable",
    "pathlen: upper 0 above one", "name constraints: excluded", "unknown extension: intermediate critical",
    "chain: not shown", "strength: intermediate by SHA-1",
]  # fmt: skip


@both_roles
@pytest.mark.parametrize("name", OVER_TCP)
def test_loopback_agrees_with_the_table(run_in_reactor: Run, name: str, role: str) -> None:
    device, controller, asked_for = parties(name, role)

    async def run() -> bool:
        with Sockets(reactor, device) as sockets:
            (outcome,) = await sockets.relay(controller, item(ADDRESS, name=asked_for))
        return outcome.success

    assert run_in_reactor(run()) == (expected(name, role) == ACCEPTED)
    assert bool(device.asked) == (expected(name, role) == ACCEPTED)
