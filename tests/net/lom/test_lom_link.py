"""The LOM link over TCP and mutual TLS on ``[::1]``: our own two ends."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest
from lom_parties import (
    ADDRESS,
    ADDRESS_2,
    CONTROLLER_CA,
    CONTROLLER_NAME,
    DEVICE_CA,
    NAME,
    NOW,
    NOWHERE,
    QUICK,
    YESTERDAY,
    Sockets,
    controller,
    device,
    item,
)
from lom_peers import (
    PEER_SECONDS,
    still_serves,
)
from msgspec.structs import replace
from rsa_keys import rsa_key
from twisted.internet import reactor

from agent.errors import OperatorError
from agent.lom.link import LinkAnswer
from agent.lom.network import AddressBook
from agent.lom.requests import PowerRequest, RelayOutcome
from agent.measure.operations import Operations
from agent.net.lom.loopback import LoopbackNetwork
from agent.net.transport.tls import TLSContexts
from agent.pki.issuing.authority import LOM_USAGE

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def test_a_request_reaches_its_device_and_leaves_a_record(run_in_reactor: Run) -> None:
    party = device()

    async def run() -> Sockets:
        with Sockets(reactor, party, wall_clock=lambda: 1000.0) as sockets:
            assert await sockets.relay(controller(), item(request=PowerRequest.OFF)) == [RelayOutcome("0001")]
        return sockets

    (record,) = run_in_reactor(run()).records
    ((asked, name),) = party.asked
    assert (asked.uuid, asked.dns_name, asked.request, asked.version) == ("0001", NAME, PowerRequest.OFF, 1)
    assert name == CONTROLLER_NAME
    assert (record.operation, record.device, record.started, record.failure) == ("lom_link", 0, 1000.0, None)
    assert 0 < record.seconds < PEER_SECONDS
    times = [record.facts[f"{part}_ms"] for part in ("connect", "handshake", "answer")]
    assert all(0 < each < record.seconds * 1000 for each in times)
    assert sum(times) == pytest.approx(record.seconds * 1000, abs=0.01)
    assert {name: fact for name, fact in record.facts.items() if not name.endswith("_ms")} == {
        "controller": 0,
        "controller_name": CONTROLLER_NAME,
        "address": ADDRESS,
        "device_dns_name": NAME,
        "request": "PowerOFF",
        "request_uuid": "0001",
        "verdict": "done",
        "tls": "TLSv1.3",
        "cipher": "TLS_AES_256_GCM_SHA384",
        "peer": NAME,
    }


def test_each_tried_address_leaves_a_record(run_in_reactor: Run) -> None:
    wrong = device(DEVICE_CA.issue("other", LOM_USAGE), addresses=[ADDRESS])
    expired = device(DEVICE_CA.issue(NAME, LOM_USAGE, not_before=NOW - timedelta(days=2), not_after=YESTERDAY), index=2)
    expired.lom_addresses = [ADDRESS_2]
    right = device(index=3, addresses=["fe80::3"])

    async def run() -> Sockets:
        with Sockets(reactor, wrong, expired, right) as sockets:
            assert await sockets.relay(controller(), item(NOWHERE, ADDRESS, ADDRESS_2, "fe80::3")) == [
                RelayOutcome("0001")
            ]
        return sockets

    sockets = run_in_reactor(run())
    assert sockets.kinds == ["lom_unreachable", "tls_wrong_name", "tls_expired", None]
    assert [record.facts["address"] for record in sockets.records] == [NOWHERE, ADDRESS, ADDRESS_2, "fe80::3"]
    assert [record.facts["verdict"] for record in sockets.records] == ["not sent", "not sent", "not sent", "done"]
    assert [sorted(fact for fact in record.facts if fact.endswith("_ms")) for record in sockets.records] == [
        [], ["connect_ms"], ["connect_ms"], ["answer_ms", "connect_ms", "handshake_ms"],
    ]  # fmt: skip


def test_record_distinguishes_refused_from_unknown(run_in_reactor: Run) -> None:
    party = device()
    party.answer = lambda asked: LinkAnswer("0003" if asked.uuid == "0002" else asked.uuid, "the Mac is off")

    async def run() -> Sockets:
        with Sockets(reactor, party) as sockets:
            for uuid in ("0001", "0002"):
                await sockets.relay(controller(), item(uuid=uuid))
        return sockets

    refused, unknown = run_in_reactor(run()).records
    assert (refused.facts["verdict"], unknown.facts["verdict"]) == ("refused", "unknown")
    assert refused.facts["peer"] == unknown.facts["peer"] == NAME
    assert "answer_ms" in refused.facts
    assert "answer_ms" not in unknown.facts


def test_thousand_items_keep_their_order_and_most_fail_at_once(run_in_reactor: Run) -> None:
    party = device()
    items = [item(ADDRESS if number % 100 == 0 else NOWHERE, uuid=str(number)) for number in range(1000)]

    async def run() -> list[RelayOutcome]:
        with Sockets(reactor, party) as sockets:
            return await sockets.relay(controller(), *items)

    outcomes = run_in_reactor(run())
    assert [outcome.uuid for outcome in outcomes] == [wanted.uuid for wanted in items]
    assert [outcome.uuid for outcome in outcomes if outcome.success] == [str(number) for number in range(0, 1000, 100)]
    assert sorted(asked.uuid for asked, _ in party.asked) == sorted(str(number) for number in range(0, 1000, 100))


def test_empty_relay_finishes_at_once(run_in_reactor: Run) -> None:
    async def run() -> list[RelayOutcome]:
        with Sockets(reactor) as sockets:
            return await sockets.relay(controller())

    assert run_in_reactor(run()) == []


def test_closed_network_relays_nothing(run_in_reactor: Run) -> None:
    party = device()

    async def run() -> list[RelayOutcome]:
        with Sockets(reactor, party) as sockets:
            pass
        return await sockets.relay(controller(), item())

    (outcome,) = run_in_reactor(run())
    assert "the LOM network is closed" in outcome.error
    assert not party.asked


def test_lom_port_in_use_raises_operator_error() -> None:
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::1", 0))
        taken.listen()
        network = LoopbackNetwork(reactor, AddressBook(), TLSContexts(), Operations(reactor, lambda _: None))
        with pytest.raises(OperatorError, match=f"cannot listen on .*{taken.getsockname()[1]}"):
            network.listen(taken.getsockname()[1])


def test_controller_key_refused_by_tls_fails_its_items(run_in_reactor: Run) -> None:
    weak = rsa_key(1024)
    asker = controller(CONTROLLER_CA.issue(CONTROLLER_NAME, LOM_USAGE, key=weak))
    party = device()

    async def run() -> list[RelayOutcome]:
        with Sockets(reactor, party) as sockets:
            outcomes = await sockets.relay(asker, item())
            await still_serves(sockets, party)
        return outcomes

    (outcome,) = run_in_reactor(run())
    assert "cannot be used for TLS" in outcome.error
    assert "ee key too small" in outcome.error


def test_observer_can_close_the_network_at_the_first_failure(run_in_reactor: Run) -> None:
    party = device()

    async def run() -> list[RelayOutcome]:
        with Sockets(reactor, party, limits=replace(QUICK, relays_at_once=2)) as sockets:
            sockets.network.operations.observer = lambda _: sockets.network.close()
            return await sockets.relay(controller(), item(NOWHERE, ADDRESS, uuid="a"), item(uuid="b"), item(uuid="c"))

    outcomes = run_in_reactor(run())
    assert [outcome.uuid for outcome in outcomes] == ["a", "b", "c"]
    assert not any(outcome.success for outcome in outcomes)
    assert not party.asked


def test_answered_item_stays_answered_if_its_observer_closes_the_network(run_in_reactor: Run) -> None:
    party = device()

    async def run() -> list[RelayOutcome]:
        with Sockets(reactor, party, limits=replace(QUICK, relays_at_once=1)) as sockets:
            sockets.network.operations.observer = lambda _: sockets.network.close()
            return await sockets.relay(controller(), item(uuid="a"), item(uuid="b"))

    done, not_begun = run_in_reactor(run())
    assert done == RelayOutcome("a")
    assert "the LOM network was closed" in not_begun.error
    assert [asked.uuid for asked, _ in party.asked] == ["a"]
