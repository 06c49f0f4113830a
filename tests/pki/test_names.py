"""Names of peers on every LOM network: case-insensitive in ASCII only, and without unprintable characters."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from lom_parties import ADDRESS, CONTROLLER_CA, DEVICE_CA, Sockets, controller, device, item
from odd_certificates import edited, extension
from profile_parts import payload, profile
from twisted.internet import reactor

import agent
from agent.fleet.population import Population
from agent.lom.network import AddressBook, MemoryNetwork
from agent.lom.requests import RelayOutcome
from agent.net.transport.resolver import is_loopback_name
from agent.pki import der
from agent.pki.identity import Identity
from agent.pki.issuing.authority import LOM_USAGE, Authority
from agent.pki.names import ascii_lower, ascii_upper, fault_of_name, same_name
from agent.profiles.errors import ProfileError

Run = Callable[[Coroutine[Any, Any, Any]], Any]
KELVIN, LONG_S, SHARP_S, LIGATURE = "\u212a", "\u017f", "\u1e9e", "\ufb00"


@given(st.text())
def test_ascii_lower_and_upper_change_only_ascii_letters(text: str) -> None:
    assert ascii_lower(text) == "".join(one.lower() if one.isascii() else one for one in text)
    assert ascii_upper(text) == "".join(one.upper() if one.isascii() else one for one in text)
    assert same_name(text, ascii_upper(text))
    assert len(ascii_lower(text)) == len(ascii_upper(text)) == len(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [(KELVIN, "k"), (KELVIN, "K"), (LONG_S, "s"), (SHARP_S, "ß"), (SHARP_S, "ss"), (LIGATURE, "FF"), ("İ", "i")],
)
def test_unicode_case_folding_does_not_make_names_equal(one: str, other: str) -> None:
    assert not same_name(f"mac-{one}.lom.test", f"mac-{other}.lom.test")


UNSEEN = ["", " ", "mac ", " mac", "mac\0", "mac\0.lom.test", "\tmac", "m\x07ac", "mac\n", "mac\x7f", "m\x85ac"]
UNSEEN += ["mac\xa0", "ma\u200bc", "\u202ecam", "mac\u2028"]


@pytest.mark.parametrize("name", [*UNSEEN, None, b"mac", 7])
def test_name_with_non_printable_characters_is_invalid(name: object) -> None:
    assert fault_of_name(name)


@pytest.mark.parametrize("name", ["mac-1.lom.test", "My Mac", "Müller", "電腦", "*.lom.test", "m"])
def test_printable_name_is_valid(name: str) -> None:
    assert not fault_of_name(name)


# LOM peers that differ only by name

UTF8 = 0x0C


def named(authority: Authority, common_name: str, *dns_names: bytes) -> Identity:
    """An identity with any text as its CommonName and any octets as its dNSNames, beyond what a library writes."""
    good = authority.issue("placeholder", LOM_USAGE)
    attribute = der.sequence(der.oid("2.5.4.3"), der.encode(UTF8, common_name.encode()))
    names = der.sequence(*(der.encode(0x82, octets) for octets in dns_names))
    changes = {"subject": der.sequence(der.set_of(attribute))}
    if dns_names:
        changes["extension"] = extension("2.5.29.17", names)
    octets = edited(good.certificate, authority.identity.key, changes)
    return Identity(x509.load_der_x509_certificate(octets), good.key)


async def over_sockets(device_identity: Identity, controller_identity: Identity, name: str) -> RelayOutcome:
    with Sockets(reactor, device(device_identity)) as sockets:
        (outcome,) = await sockets.relay(controller(controller_identity), item(ADDRESS, name=name))
    return outcome


async def in_memory(device_identity: Identity, controller_identity: Identity, name: str) -> RelayOutcome:
    book = AddressBook()
    book.add(device(device_identity))
    return MemoryNetwork(book).relay(controller(controller_identity), item(ADDRESS, name=name))


networks = pytest.mark.parametrize("link", [over_sockets, in_memory], ids=["loopback", "memory"])
GOOD_DEVICE = DEVICE_CA.issue("mac-k.lom.test", LOM_USAGE)
GOOD_CONTROLLER = CONTROLLER_CA.issue("controller.lom.test", LOM_USAGE)


@networks
@pytest.mark.filterwarnings("ignore:Attribute's length")
@pytest.mark.parametrize(
    ("common_name", "dns_names", "expected"),
    [
        (f"mac-{KELVIN}.lom.test", [], "mac-k.lom.test"),
        ("mac-k.lom.test", [], f"mac-{KELVIN}.lom.test"),
        (f"mac-{SHARP_S}.lom.test", [], "mac-ß.lom.test"),
        ("mac-k.lom.test ", [], "mac-k.lom.test"),
        ("mac-k.lom.test ", [], "mac-k.lom.test "),
        ("mac-k.lom.test\0", [], "mac-k.lom.test\0"),
        ("mac-k.lom.test\0.evil.test", [], "mac-k.lom.test"),
        ("mac-k.lom.test\n", [], "mac-k.lom.test\n"),
        ("mac-k.lom.test", [b"mac-k.lom.test\0.evil.test"], "mac-k.lom.test"),
        ("mac-k.lom.test", [b"mac-k.lom.test", b"\0"], "mac-k.lom.test"),
        ("mac-k.lom.test", [b" mac-k.lom.test"], "mac-k.lom.test"),
        ("mac-k.lom.test", [b""], "mac-k.lom.test"),
    ],
)
def test_device_with_a_lookalike_name_gets_no_request(
    run_in_reactor: Run, link: Any, common_name: str, dns_names: list[bytes], expected: str
) -> None:
    identity = named(DEVICE_CA, common_name, *dns_names)
    assert run_in_reactor(link(identity, GOOD_CONTROLLER, expected)).error


@networks
@pytest.mark.filterwarnings("ignore:Attribute's length")
@pytest.mark.parametrize(
    ("common_name", "dns_names"),
    [
        ("", []),
        (" ", []),
        ("controller ", []),
        ("\tcontroller", []),
        ("controller\0", []),
        ("con\x1btroller", []),
        ("con\u202etroller", []),
        ("controller", [b"controller", b"controller\0"]),
        ("controller", [b"controller "]),
        (f"{KELVIN}.test", [b"k.test"]),
    ],
)
def test_controller_with_an_invalid_name_is_refused(
    run_in_reactor: Run, link: Any, common_name: str, dns_names: list[bytes]
) -> None:
    identity = named(CONTROLLER_CA, common_name, *dns_names)
    assert "refused" in run_in_reactor(link(GOOD_DEVICE, identity, "mac-k.lom.test")).error


@networks
@pytest.mark.parametrize("name", ["mac-k.lom.test", "MAC-K.lom.TEST"])
def test_ascii_case_is_ignored_in_names(run_in_reactor: Run, link: Any, name: str) -> None:
    identity = named(DEVICE_CA, "Mac-K.LOM.test", b"mac-k.LOM.TEST")
    assert run_in_reactor(link(identity, GOOD_CONTROLLER, name)) == RelayOutcome("0001")


# Other names


def test_payload_uuids_are_compared_without_unicode_folding() -> None:
    found = profile(payload("com.example.other", "FFEE"), payload("com.example.other", f"{LIGATURE}EE"))
    assert found.payload("ffee").uuid == "FFEE"
    assert found.payload(f"{LIGATURE}ee").uuid == f"{LIGATURE}EE"
    with pytest.raises(ProfileError):
        found.payload("\ufb00\u0119")


def test_host_names_of_macs_are_compared_without_unicode_folding() -> None:
    population = Population("names", 300)
    for mac in population:
        for letter, other in (("s", LONG_S), ("k", KELVIN), ("ss", "ß")):
            if letter in mac.host_name:
                assert population.index_of_name(mac.dns_name.replace(letter, other)) is None
        assert population.index_of_name(mac.dns_name) == mac.index


def test_localhost_is_compared_without_unicode_folding() -> None:
    assert is_loopback_name("LOCALHOST.")
    assert not is_loopback_name(f"localho{LONG_S}t")


# The rooms that know identities have no other way to compare

ROOMS = ("pki", "lom", "profiles", "fleet")
TEXT = {
    "pki/names.py": "the module itself",
    "pki/verify.py": "OpenSSL's names of errors",
    "pki/identity.py": "OpenSSL's words for a wrong password",
    "pki/scep/caps.py": "capabilities: decoded from ASCII",
    "pki/scep/client.py": "hexadecimal",
    "lom/power.py": "our own words",
    "profiles/making.py": "UUIDs of our own profiles",
    "measure/exchanges.py": "a person looks for text",
    "service/api/requests.py": "a person looks for text",
    "device/ddm/declared.py": "the order of names in a list",
    "device/ddm/predicate_values.py": "[c] of a predicate: text",
}


CHANGES_CASE = re.compile(r"\.\s*(?:lower|upper|casefold|swapcase|title)\b")  # other modules need no parsing


def test_no_code_compares_identities_by_unicode_case() -> None:
    folder = Path(agent.__file__).parent
    found = set()
    for path in folder.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if CHANGES_CASE.search(text) else ():
            if isinstance(node, ast.Attribute) and node.attr in ("lower", "upper", "casefold", "swapcase", "title"):
                name = path.relative_to(folder).as_posix()
                if node.attr == "casefold" or name.split("/")[0] in ROOMS:
                    found.add(name)
    assert found == set(TEXT)
