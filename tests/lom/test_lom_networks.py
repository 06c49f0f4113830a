"""Which Macs accept each other on a LOM link: one table of Macs and certificates, the same on all three networks.

``memory`` judges without sockets, ``loopback`` is real TCP and mutual TLS on ``[::1]``, ``interface`` the same between
real link-local addresses, in a network namespace: segment 0 is on the wire ``lom0``, segment 1 on ``lom1``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from lom_parties import (
    ADDRESS,
    ADDRESS_2,
    CONTROLLER_CA,
    CONTROLLER_IDENTITY,
    CONTROLLER_NAME,
    DEVICE_CA,
    DEVICE_IDENTITY,
    NAME,
    NOW,
    NOWHERE,
    QUICK,
    STRANGE_CA,
    TOMORROW,
    YESTERDAY,
    Party,
    controller,
    device,
    item,
)
from msgspec.structs import replace
from namespaces import HERE
from twisted.internet import reactor

from agent.lom.endpoint import LOMConfiguration
from agent.lom.link import LinkAnswer, LinkRequest, RequestDelayed
from agent.lom.network import AddressBook, MemoryNetwork
from agent.lom.requests import PowerRequest, RelayItem, RelayOutcome
from agent.measure.operations import Operations
from agent.measure.records import Exchange
from agent.net.lom.interface import InterfaceNetwork
from agent.net.lom.loopback import LoopbackNetwork
from agent.net.lom.memory import MemoryLOMNetwork
from agent.net.lom.networks import LOMNetwork
from agent.net.transport.stream import Timeouts
from agent.net.transport.tls import TLSContexts
from agent.pki.identity import Identity
from agent.pki.issuing.authority import LOM_USAGE, Authority, make_key

Relay = Callable[[Party, list[Party], RelayItem], RelayOutcome]

ITEM = item()
FROM = "fe80::c0"  # the address of a Controller without a Device endpoint


class Verdict(Enum):
    """The outcome of a link, as far as it is the same on all networks."""

    SUCCEEDED = auto()
    NOT_SENT = auto()  # no peer, or the Controller rejected it; no request was sent
    REFUSED_BY_DEVICE = auto()  # the Device rejected the Controller's certificate


@dataclass(frozen=True)
class Case:
    """Macs, the outcome of the link between them, and the part of the error text that is the same on all networks.

    ``seen_from_afar`` are those that it has where the Controller's end cannot know as much of the Device.
    """

    verdict: Verdict
    words: str = ""
    controller: Callable[[], Party] = controller
    device: Callable[[], Party | None] = device
    item: RelayItem = ITEM
    seen_from_afar: str = ""


def _device_with(
    authority: Authority = DEVICE_CA, common_name: str | None = NAME, **options: object
) -> Callable[[], Party]:
    options = {"usage": LOM_USAGE, "names": [NAME], **options}
    return lambda: device(authority.issue(common_name, **options))


def _controller_with(authority: Authority = CONTROLLER_CA, **options: object) -> Callable[[], Party]:
    options = {"usage": LOM_USAGE, "names": [CONTROLLER_NAME], **options}
    return lambda: controller(authority.issue(CONTROLLER_NAME, **options))


def _bare(authority: Authority, common_names: list[str], *extensions: x509.ExtensionType) -> Identity:
    """An identity with these extensions only."""
    key = make_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in common_names]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(YESTERDAY)
        .not_valid_after(TOMORROW)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return Identity(builder.sign(authority.identity.key, hashes.SHA256()), key)


def _chained() -> Identity:
    """A Device identity issued by an intermediate CA, with that CA in its chain."""
    between = Authority.create("Intermediate")
    key = between.identity.key
    name = between.certificate.subject
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(DEVICE_CA.certificate.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(YESTERDAY)
        .not_valid_after(TOMORROW)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(DEVICE_CA.identity.key, hashes.SHA256())
    )
    issued = Authority(Identity(certificate, key)).issue(NAME, LOM_USAGE, names=[NAME])
    return Identity(issued.certificate, issued.key, (certificate,))


def _elsewhere() -> Party:
    party = device()
    party.segment = 1
    return party


def _both(party: Party) -> Party:
    party.lom = LOMConfiguration(
        DEVICE_IDENTITY, CONTROLLER_IDENTITY, (DEVICE_CA.certificate,), (CONTROLLER_CA.certificate,)
    )
    return party


_USAGES = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
_SUCCEEDED, _NOT_SENT, _REFUSED = Verdict.SUCCEEDED, Verdict.NOT_SENT, Verdict.REFUSED_BY_DEVICE
_EXPIRED = {"not_before": NOW - timedelta(days=2), "not_after": YESTERDAY}
_NOT_YET = {"not_before": TOMORROW}
_NO_MAC = "no Mac answers at this address in segment"
_NO_HOST = "no host answers at this address on"
_HUNG_UP = "closed the connection during the TLS handshake"

CASES = {
    "right": Case(_SUCCEEDED),
    "right, in other letters": Case(_SUCCEEDED, item=item(name=NAME.upper())),
    "right, without a SAN": Case(_SUCCEEDED, device=_device_with(names=[])),
    "right, among other names in the SAN": Case(_SUCCEEDED, device=_device_with(names=["a.test", NAME, "b.test"])),
    "right, by an intermediate CA": Case(_SUCCEEDED, device=lambda: device(_chained())),
    "right, at the second address": Case(_SUCCEEDED, item=item(NOWHERE, "junk", ADDRESS)),
    "the Device has another CommonName": Case(
        _NOT_SENT,
        f"expected a certificate with CommonName {NAME}, found other.lom.test",
        device=_device_with(common_name="other.lom.test", names=["other.lom.test"]),
    ),
    "the Device has the name in the SAN alone": Case(
        _NOT_SENT,
        f"expected a certificate with CommonName {NAME}, found other",
        device=_device_with(common_name="other"),
    ),
    "the Device has no CommonName": Case(
        _NOT_SENT, "expected a certificate with one CommonName, found 0", device=_device_with(common_name=None)
    ),
    "the Device has two CommonNames": Case(
        _NOT_SENT,
        "expected a certificate with one CommonName, found 2",
        device=lambda: device(_bare(DEVICE_CA, [NAME, "other"], LOM_USAGE.key_usage(), _USAGES)),
    ),
    "the Device's SAN differs from its CommonName": Case(
        _NOT_SENT, "in the subjectAltName, found other.lom.test", device=_device_with(names=["other.lom.test"])
    ),
    "the Device's CA is not trusted": Case(_NOT_SENT, "does not lead to a trusted CA", device=_device_with(STRANGE_CA)),
    "the Device's certificate is by the Controllers' CA": Case(
        _NOT_SENT, "does not lead to a trusted CA", device=_device_with(CONTROLLER_CA)
    ),
    "the Device's certificate is its own CA": Case(
        _NOT_SENT, "does not lead to a trusted CA", device=lambda: device(Authority.create(NAME).identity)
    ),
    "the Device's certificate expired": Case(_NOT_SENT, "expired at", device=_device_with(**_EXPIRED)),
    "the Device's certificate is not valid yet": Case(
        _NOT_SENT, "is not valid before", device=_device_with(**_NOT_YET)
    ),
    "the Device has no serverAuth": Case(
        _NOT_SENT,
        "the certificate CN=device.lom.test",
        device=_device_with(usage=replace(LOM_USAGE, server_auth=False)),
    ),
    "the Device has no Extended Key Usage": Case(
        _NOT_SENT,
        "lacks the Extended Key Usage serverAuth",
        device=_device_with(usage=replace(LOM_USAGE, server_auth=False, client_auth=False)),
    ),
    "the Device has no Key Usage": Case(
        _NOT_SENT,
        "lacks the Key Usage digitalSignature, keyEncipherment, dataEncipherment",
        device=lambda: device(_bare(DEVICE_CA, [NAME], _USAGES)),
    ),
    "the Device lacks one Key Usage": Case(
        _NOT_SENT,
        "lacks the Key Usage dataEncipherment",
        device=_device_with(usage=replace(LOM_USAGE, data_encipherment=False)),
    ),
    "the Controller's CA is not trusted": Case(_REFUSED, controller=_controller_with(STRANGE_CA)),
    "the Controller's certificate is by the Devices' CA": Case(_REFUSED, controller=_controller_with(DEVICE_CA)),
    "the Controller's certificate expired": Case(_REFUSED, controller=_controller_with(**_EXPIRED)),
    "the Controller's certificate is not valid yet": Case(_REFUSED, controller=_controller_with(**_NOT_YET)),
    "the Controller has no clientAuth": Case(
        _REFUSED, controller=_controller_with(usage=replace(LOM_USAGE, client_auth=False))
    ),
    "the Controller lacks one Key Usage": Case(
        _REFUSED, controller=_controller_with(usage=replace(LOM_USAGE, key_encipherment=False))
    ),
    "the Controller's SAN differs from its CommonName": Case(_REFUSED, controller=_controller_with(names=["other"])),
    "a refusal by the Device is final": Case(
        _REFUSED,
        controller=_controller_with(STRANGE_CA),
        item=item(ADDRESS, ADDRESS_2),
        device=lambda: device(addresses=(ADDRESS, ADDRESS_2)),
    ),
    "another segment": Case(_NOT_SENT, _NO_MAC, device=_elsewhere, seen_from_afar=_NO_HOST),
    "no Mac at the address": Case(_NOT_SENT, _NO_MAC, item=item(NOWHERE), seen_from_afar=_NO_HOST),
    "no network at all": Case(_NOT_SENT, _NO_MAC, device=lambda: None, seen_from_afar=_NO_HOST),
    "no link-local address": Case(_NOT_SENT, "expected a link-local address", item=item("2001:db8::1")),
    "the Mac has no LOM payload": Case(
        _NOT_SENT,
        "not set up as a LOM Device",
        device=lambda: Party(1, None, [ADDRESS]),
        seen_from_afar=_HUNG_UP,
    ),
    "the Mac is a Controller only": Case(
        _NOT_SENT, "not set up as a LOM Device", device=lambda: device(None), seen_from_afar=_HUNG_UP
    ),
    "the Controller lost its payload": Case(
        _NOT_SENT, "no longer set up as a LOM Controller", controller=lambda: controller(None)
    ),
}


@pytest.fixture(params=["memory", "loopback", "interface"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def relay(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, run_in_reactor: Callable[..., tuple[RelayOutcome, int]]
) -> Relay:
    place = request.getfixturevalue("ours").inside if kind == "interface" else nullcontext

    def make(records: list[Exchange]) -> LOMNetwork:
        operations = Operations(reactor, records.append)
        if kind == "memory":
            return MemoryLOMNetwork(reactor, AddressBook(), operations)
        if kind == "loopback":
            return LoopbackNetwork(reactor, AddressBook(), TLSContexts(), operations, limits=QUICK)
        names = (HERE, "lom1")
        soon = Timeouts(connect=0.5)  # enough for the kernel to notice that no host has the address
        return InterfaceNetwork(
            reactor,
            names,
            TLSContexts(),
            Operations(reactor, records.append),
            limits=QUICK,
            timeouts=soon,
            folder=tmp_path,
        )

    def relay(asker: Party, others: list[Party], wanted: RelayItem) -> RelayOutcome:
        asker.lom_addresses = asker.lom_addresses or [FROM]
        with place():
            outcome, records = run_in_reactor(_carry(make, asker, others, wanted))
        assert records == len(wanted.addresses) - wanted.addresses.count("junk") or not outcome.success
        return outcome

    return relay


async def _carry(
    make: Callable[[list[Exchange]], LOMNetwork], asker: Party, others: list[Party], wanted: RelayItem
) -> tuple[RelayOutcome, int]:
    """The outcome of an item, and the number of its records."""
    records: list[Exchange] = []
    network = make(records)
    for party in (asker, *others):
        network.add(party, NAME)
    network.listen()
    try:
        (outcome,) = await network.relay(asker, [wanted])
    finally:
        network.close()
    return outcome, len(records)


def verdict(outcome: RelayOutcome, asked: Party | None) -> Verdict:
    """The outcome, reduced to the values that all networks share."""
    if outcome.success:
        return Verdict.SUCCEEDED
    assert asked is None or not asked.asked, "a Device that was asked, and a failure that says something else"
    # A rejection by our own check, not OpenSSL's, is the alert "internal error": pyOpenSSL cannot select the alert.
    refused = "refused our certificate" in outcome.error or "alert internal error" in outcome.error
    return Verdict.REFUSED_BY_DEVICE if refused else Verdict.NOT_SENT


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_all_networks_give_the_same_outcome(case: Case, kind: str, relay: Relay) -> None:
    asker, asked = case.controller(), case.device()
    outcome = relay(asker, [asked] if asked is not None else [], case.item)
    assert outcome.uuid == case.item.uuid
    assert verdict(outcome, asked) is case.verdict
    words = (case.seen_from_afar if kind == "interface" else "") or case.words
    assert words in outcome.error
    if case.verdict is Verdict.SUCCEEDED:
        assert asked is not None
        ((request, name),) = asked.asked
        assert (request.uuid, request.request, name) == ("0001", PowerRequest.RESET, CONTROLLER_NAME)
    if case.verdict is Verdict.REFUSED_BY_DEVICE:
        assert ADDRESS_2 not in outcome.error, "a request that was sent must not be sent again"


def test_next_address_is_tried_if_the_first_has_another_device(relay: Relay) -> None:
    other = device(DEVICE_CA.issue("other", LOM_USAGE), addresses=[ADDRESS])
    right = device(index=2, addresses=[ADDRESS_2])
    assert relay(controller(), [other, right], item(ADDRESS, ADDRESS_2)).success
    assert [len(other.asked), len(right.asked)] == [0, 1]


def test_answer_of_the_device_is_the_outcome(relay: Relay) -> None:
    asked = device(addresses=(ADDRESS, ADDRESS_2))
    asked.answer = lambda request: LinkAnswer(request.uuid, "Reset refused: the Mac is off")
    outcome = relay(controller(), [asked], item(ADDRESS, ADDRESS_2))
    assert outcome == RelayOutcome("0001", "Reset refused: the Mac is off")
    assert len(asked.asked) == 1


def test_answer_to_another_request_is_a_failure(relay: Relay) -> None:
    asked = device()
    asked.answer = lambda _: LinkAnswer("0002")
    outcome = relay(controller(), [asked], item(ADDRESS, ADDRESS_2))
    assert "request '0001', found one to '0002'" in outcome.error
    assert ADDRESS_2 not in outcome.error


def test_mac_can_be_its_own_controller(relay: Relay) -> None:
    party = _both(device())
    assert relay(party, [], item()).success
    assert len(party.asked) == 1


def test_error_with_control_characters_is_a_valid_plist(relay: Relay) -> None:
    outcome = relay(controller(), [device(DEVICE_CA.issue("a\x01\x00b", LOM_USAGE))], item())
    assert not outcome.success
    assert outcome.error.isprintable()
    assert r"found 'a\x01\x00b': it has a character that is not printable" in outcome.error


def test_a_link_without_sockets_takes_no_time_for_a_delayed_answer() -> None:
    party = device()

    def late(request: LinkRequest) -> LinkAnswer:
        raise RequestDelayed(3600.0, lambda: LinkAnswer(request.uuid, "late"))

    party.answer = late
    book = AddressBook()
    book.add(party)
    assert MemoryNetwork(book).relay(controller(), item()).error == "late"
