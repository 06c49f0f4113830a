"""Every way in which an item of a LOMDeviceRequest can fail has words of its own, and docs/lom-link.md has them.

Over real sockets. What a row of the document gives as its example is what comes out here, to the letter.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from lom_parties import (
    ADDRESS,
    CONTROLLER_CA,
    CONTROLLER_NAME,
    DEVICE_CA,
    DEVICE_IDENTITY,
    NAME,
    QUICK,
    STRANGE_CA,
    Party,
    Sockets,
    controller,
    device,
    item,
)
from lom_peers import PEER_SECONDS, SHORT, RawDevice, binary, good
from msgspec.structs import replace
from twisted.internet import reactor

from agent.device.mac import Device
from agent.fleet.population import Population
from agent.lom.link import LIMITS, LinkAnswer, LinkRequest
from agent.lom.requests import PowerRequest, RelayItem, RelayOutcome, parse_request_list
from agent.net.transport.stream import DEFAULT_TIMEOUTS, Timeouts
from agent.pki.identity import Identity
from agent.pki.issuing.authority import LOM_USAGE

Run = Callable[[Coroutine[Any, Any, Any]], Any]
DOCUMENT = (Path(__file__).parents[3] / "docs" / "lom-link.md").read_text()
NOT_DIALLED = "\N{EN DASH}"
ROWS = re.findall(rf"^\| (`\w+`|{NOT_DIALLED}) \| ([^|]+) \| `([^`]+)` \|$", DOCUMENT, re.MULTILINE)
EXAMPLES = {example: kind.strip("`") for kind, _when, example in ROWS}
TIMEOUTS = Timeouts(connect=SHORT, handshake=SHORT)
LIMITS_HERE = replace(QUICK, answer_seconds=SHORT)


def as_documented(text: str) -> str:
    """The text as it would be with the limits of the document; what belongs to one run is taken out."""
    for found, usual in (
        (f"no TCP connection within {SHORT:g} s", f"no TCP connection within {DEFAULT_TIMEOUTS.connect:g} s"),
        (f"no TLS handshake within {SHORT:g} s", f"no TLS handshake within {DEFAULT_TIMEOUTS.handshake:g} s"),
        (f"did not answer within {SHORT:g} s", f"did not answer within {LIMITS.answer_seconds:g} s"),
    ):
        text = text.replace(found, usual)
    return re.sub(r"\b(tlsv1|tlsv13|sslv3|ssl/tls|tls) alert", "tls alert", text)


def issued(common_name: str | None = NAME, **options: Any) -> Identity:
    authority = options.pop("authority", DEVICE_CA)
    return authority.issue(common_name, **{"usage": LOM_USAGE, "names": [NAME], **options})


def party_of(mac: Device) -> Party:
    """A Device whose answers are a real Mac's."""
    party = device()
    party.answer = lambda request: mac.receive_lom_request(request, CONTROLLER_NAME, 0.0)[0]
    return party


def mac_that_is_off(*before: LinkRequest) -> Party:
    mac = Device(Population("errors", 1)[0], boot_seconds=lambda: 1.0, jitter=lambda: 0.0)
    for request in (LinkRequest("off", NAME, PowerRequest.OFF), *before):
        mac.receive_lom_request(request, CONTROLLER_NAME, 0.0)
    return party_of(mac)


@dataclass(frozen=True)
class Case:
    """A Device, what is asked of it, and the kind of failure that its record has."""

    kind: str
    device: Callable[[], Party | None] = device
    controller: Callable[[], Party] = controller
    item: RelayItem = field(default_factory=item)


EXPIRED = {"not_before": datetime(2020, 1, 1, tzinfo=UTC), "not_after": datetime(2020, 12, 31, tzinfo=UTC)}
NOT_YET = {"not_before": datetime(2120, 1, 1, tzinfo=UTC), "not_after": datetime(2120, 12, 31, tzinfo=UTC)}

CASES = {
    "nobody there": Case("lom_unreachable", device=lambda: None),
    "no LOM payload": Case("lom_not_set_up", device=lambda: Party(1, None, [ADDRESS])),
    "a Controller only": Case("lom_not_set_up", device=lambda: device(None)),
    "the Controller lost its payload": Case("lom_not_set_up", controller=lambda: controller(None)),
    "untrusted": Case("tls_untrusted", device=lambda: device(issued(authority=STRANGE_CA))),
    "expired": Case("tls_expired", device=lambda: device(issued(**EXPIRED))),
    "not yet valid": Case("tls_not_yet_valid", device=lambda: device(issued(**NOT_YET))),
    "unknown name": Case("tls_wrong_name", device=lambda: device(issued("other.lom.test", names=[]))),
    "another SAN": Case("tls_wrong_name", device=lambda: device(issued(names=["other.lom.test"]))),
    "no CommonName": Case("tls_wrong_name", device=lambda: device(issued(None))),
    "no Extended Key Usage": Case(
        "tls_wrong_usage",
        device=lambda: device(issued(usage=replace(LOM_USAGE, server_auth=False, client_auth=False))),
    ),
    "no Key Usage": Case(
        "tls_wrong_usage", device=lambda: device(issued(usage=replace(LOM_USAGE, key_encipherment=False)))
    ),
    "the Controller is untrusted": Case(
        "tls_refused", controller=lambda: controller(STRANGE_CA.issue(CONTROLLER_NAME, LOM_USAGE))
    ),
    "the Controller expired": Case(
        "tls_refused", controller=lambda: controller(CONTROLLER_CA.issue(CONTROLLER_NAME, LOM_USAGE, **EXPIRED))
    ),
    "the Controller lacks clientAuth": Case(
        "tls_refused",
        controller=lambda: controller(CONTROLLER_CA.issue(CONTROLLER_NAME, replace(LOM_USAGE, client_auth=False))),
    ),
    "the Controller lacks a Key Usage": Case(
        "tls_refused",
        controller=lambda: controller(CONTROLLER_CA.issue(CONTROLLER_NAME, replace(LOM_USAGE, key_encipherment=False))),
    ),
    "the Mac is off": Case("lom_refused", device=mac_that_is_off),
    "another version": Case("lom_refused", device=mac_that_is_off, item=replace(item(), version=3)),
    "the UUID was used": Case(
        "lom_refused", device=lambda: mac_that_is_off(LinkRequest("0001", NAME, PowerRequest.OFF))
    ),
    "an answer to another request": Case("lom_frame_malformed", device=lambda: answering("0002")),
}


def answering(uuid: str) -> Party:
    party = device()
    party.answer = lambda _: LinkAnswer(uuid)
    return party


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_failures_have_the_documented_texts(run_in_reactor: Run, case: Case) -> None:
    async def run() -> tuple[RelayOutcome, Sockets]:
        there = case.device()
        with Sockets(reactor, *([] if there is None else [there])) as sockets:
            (outcome,) = await sockets.relay(case.controller(), case.item)
        return outcome, sockets

    outcome, sockets = run_in_reactor(run())
    assert sockets.kinds == [case.kind]
    assert EXAMPLES.get(as_documented(outcome.error)) == case.kind, outcome.error


# Devices of another make


@contextlib.contextmanager
def raw_device(
    folder: Path, script: Callable[[ssl.SSLSocket], None], context: ssl.SSLContext | None = None
) -> Iterator[int]:
    peer = RawDevice(folder, script, DEVICE_IDENTITY)
    peer.context = context or peer.context
    thread = threading.Thread(target=peer.serve, daemon=True)
    thread.start()
    try:
        yield peer.port
    finally:
        peer.close()
        thread.join(PEER_SECONDS)


def say(octets: bytes) -> Callable[[ssl.SSLSocket], None]:
    def script(tls: ssl.SSLSocket) -> None:
        tls.recv(65536)
        if octets:
            tls.sendall(octets)
        tls.recv(1)

    return script


def hang_up(tls: ssl.SSLSocket) -> None:
    tls.recv(65536)
    tls.unwrap()


async def relay_to(port: int) -> tuple[RelayOutcome, Sockets]:
    with Sockets(reactor, limits=LIMITS_HERE, timeouts=TIMEOUTS) as sockets:
        sockets.network.add(device(), NAME, port=port)
        (outcome,) = await sockets.relay(controller(), item())
    return outcome, sockets


@pytest.mark.parametrize(
    ("kind", "script"),
    [
        ("lom_answer_timeout", say(b"")),
        ("lom_link_broken", hang_up),
        ("lom_frame_too_long", say(b"\0\0\x10\x01")),
        ("lom_frame_malformed", say(b"\0\0\0\x08no plist")),
        ("lom_frame_malformed", say(binary({**good(), "DeviceRequestSuccess": 1}))),
        ("lom_refused", say(binary({**good(), "DeviceRequestSuccess": False}))),
    ],
    ids=["silence", "gone", "too long", "no plist", "wrong type", "no reason"],
)
def test_protocol_violations_have_the_documented_texts(
    run_in_reactor: Run, tmp_path: Path, kind: str, script: Callable[[ssl.SSLSocket], None]
) -> None:
    with raw_device(tmp_path, script) as port:
        outcome, sockets = run_in_reactor(relay_to(port))
    assert sockets.kinds == [kind]
    assert EXAMPLES.get(as_documented(outcome.error)) == kind, outcome.error


def test_device_without_a_certificate_has_the_documented_text(run_in_reactor: Run, tmp_path: Path) -> None:
    with raw_device(tmp_path, say(b""), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)) as port:
        outcome, sockets = run_in_reactor(relay_to(port))
    assert sockets.kinds == ["tls"]
    assert EXAMPLES.get(as_documented(outcome.error)) == "tls", outcome.error


def test_closed_port_has_the_documented_text(run_in_reactor: Run) -> None:
    with socket.socket(socket.AF_INET6) as closed:
        closed.bind(("::1", 0))
        outcome, sockets = run_in_reactor(relay_to(closed.getsockname()[1]))
    assert sockets.kinds == ["connect"]
    assert EXAMPLES.get(outcome.error) == "connect", outcome.error


def test_connect_timeout_has_the_documented_text(run_in_reactor: Run) -> None:
    """A backlog that is full: the kernel drops what comes."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket(socket.AF_INET6))
        full.bind(("::1", 0))
        full.listen(0)
        for _ in range(3):
            filling = stack.enter_context(socket.socket(socket.AF_INET6))
            filling.setblocking(False)
            filling.connect_ex(full.getsockname())
        outcome, sockets = run_in_reactor(relay_to(full.getsockname()[1]))
    assert sockets.kinds == ["connect_timeout"]
    assert EXAMPLES.get(as_documented(outcome.error)) == "connect_timeout", outcome.error


def test_tls_timeout_has_the_documented_text(run_in_reactor: Run) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as silent:
        outcome, sockets = run_in_reactor(relay_to(silent.getsockname()[1]))
    assert sockets.kinds == ["tls_timeout"]
    assert EXAMPLES.get(as_documented(outcome.error)) == "tls_timeout", outcome.error


def test_other_service_has_the_documented_text(run_in_reactor: Run) -> None:
    def speak() -> None:
        plain, _ = other.accept()
        with plain, contextlib.suppress(OSError):
            plain.sendall(b"220 mail.lom.test ESMTP\r\n")
            plain.settimeout(PEER_SECONDS)
            while plain.recv(65536):
                pass

    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        thread = threading.Thread(target=speak, daemon=True)
        thread.start()
        outcome, sockets = run_in_reactor(relay_to(other.getsockname()[1]))
        thread.join(PEER_SECONDS)
    assert sockets.kinds == ["tls"]
    assert EXAMPLES.get(as_documented(outcome.error)) == "tls", outcome.error


def test_stopped_controller_and_rate_limit_have_the_documented_texts(run_in_reactor: Run) -> None:
    async def run() -> tuple[list[RelayOutcome], Sockets]:
        party = device()
        with Sockets(reactor, party, limits=replace(QUICK, relays_at_once=1, requests_a_second=0)) as sockets:
            flooded = await sockets.relay(controller(), item())
            relayed = sockets.network.relay(controller(), [item(), item(uuid="0002")])
            relayed.cancel()
            return [*flooded, *(await relayed)], sockets

    (flooded, broken, _not_begun), sockets = run_in_reactor(run())
    assert sockets.kinds == ["lom_refused", None]
    assert [record.cut_short is not None for record in sockets.records] == [False, True]
    assert EXAMPLES[flooded.error.replace("send 0 per", f"send {LIMITS.requests_a_second} per")] == "lom_refused"
    assert EXAMPLES[broken.error] == "cut_short"


# What is wrong with the item itself, so that nothing is dialled


@pytest.mark.parametrize(
    "wrong",
    [
        {"DeviceRequestType": "poweron"},
        {"DeviceRequestType": 1},
        {"DeviceDNSName": 1},
        {"DeviceDNSName": ""},
        {"DeviceRequestUUID": ""},
        {"LOMProtocolVersion": "1"},
        {"PrimaryIPv6AddressList": "fe80::1"},
        {"PrimaryIPv6AddressList": ["fe80::1", 1]},
        {"PrimaryIPv6AddressList": ["fe80::1"] * 17},
        {"PrimaryIPv6AddressList": [], "SecondaryIPv6AddressList": []},
        {"PrimaryIPv6AddressList": ["192.0.2.1"]},
        {"PrimaryIPv6AddressList": ["fe80::1%en0"]},
        {"PrimaryIPv6AddressList": ["2001:db8::1"]},
        {"PrimaryIPv6AddressList": ["lomdevice.com"]},
    ],
    ids=lambda wrong: " ".join(f"{key} {str(value)[:12]}" for key, value in wrong.items()),
)
def test_invalid_items_have_the_documented_texts(run_in_reactor: Run, wrong: dict[str, Any]) -> None:
    right = {
        "DeviceRequestType": "PowerON",
        "DeviceRequestUUID": "0001",
        "DeviceDNSName": NAME,
        "PrimaryIPv6AddressList": [ADDRESS],
        "SecondaryIPv6AddressList": [],
        "LOMProtocolVersion": 1,
    }
    (parsed,) = parse_request_list({"RequestList": [{**right, **wrong}]})
    if isinstance(parsed, RelayOutcome):
        outcome = parsed
    else:

        async def run() -> tuple[RelayOutcome, Sockets]:
            with Sockets(reactor) as sockets:
                (outcome,) = await sockets.relay(controller(), parsed)
            return outcome, sockets

        outcome, sockets = run_in_reactor(run())
        assert sockets.kinds == []  # nothing was dialled
    assert EXAMPLES.get(outcome.error) == NOT_DIALLED, outcome.error


def test_repeated_uuid_has_the_documented_text() -> None:
    one = {"DeviceRequestType": "PowerON", "DeviceRequestUUID": "0001", "DeviceDNSName": NAME}
    _first, second = parse_request_list({"RequestList": [{**one, "PrimaryIPv6AddressList": [ADDRESS]}, one]})
    assert isinstance(second, RelayOutcome)
    assert EXAMPLES.get(second.error) == NOT_DIALLED, second.error


def test_errors_of_several_addresses_are_joined_as_documented(run_in_reactor: Run) -> None:
    async def run() -> RelayOutcome:
        with Sockets(reactor) as sockets:
            (outcome,) = await sockets.relay(controller(), item("192.0.2.1", "fe80::1"))
        return outcome

    outcome = run_in_reactor(run())
    assert f"`{outcome.error}`" in DOCUMENT, outcome.error


def test_documented_examples_differ() -> None:
    assert len(EXAMPLES) == len(ROWS) > 40
