"""The LOM network without sockets: records, turns of the reactor, and what breaks off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lom_parties import (
    ADDRESS,
    CONTROLLER_CA,
    CONTROLLER_NAME,
    DEVICE_CA,
    DEVICE_IDENTITY,
    NAME,
    NOWHERE,
    STRANGE_CA,
    Party,
    controller,
    device,
    item,
)
from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from agent.lom.endpoint import LOMConfiguration
from agent.lom.link import LinkAnswer, LinkRequest
from agent.lom.network import AddressBook
from agent.lom.requests import PowerRequest, RelayItem, RelayOutcome
from agent.measure.operations import Operations
from agent.measure.records import Exchange
from agent.net.lom.memory import MemoryLOMNetwork
from agent.pki.issuing.authority import LOM_USAGE


class Turns(Clock):
    """A clock that moves by one with each turn of the reactor: what is due at once comes in the next."""

    def callLater(self, delay: float, *call: Any, **named: Any) -> DelayedCall:
        """Call after that many turns, at least one."""
        return super().callLater(max(delay, 1.0), *call, **named)


class Memory:
    """A network with ``parties`` on it, on a clock of its own, and every record that it leaves."""

    def __init__(self, *parties: Party) -> None:
        self.clock = Turns()
        self.records: list[Exchange] = []
        self.network = MemoryLOMNetwork(
            self.clock, AddressBook(), Operations(self.clock, self.records.append, wall_clock=lambda: 1000.0)
        )
        for party in parties:
            self.network.add(party, NAME)
        self.network.listen()

    def begin(self, asker: Party, *items: RelayItem) -> tuple[Deferred[list[RelayOutcome]], list[RelayOutcome]]:
        """The relay under way, and its outcomes as soon as they are there."""
        outcomes: list[RelayOutcome] = []
        done = self.network.relay(asker, items)
        done.addCallback(outcomes.extend)
        return done, outcomes

    def turn(self) -> None:
        """One turn of the reactor."""
        self.clock.advance(1.0)

    def relay(self, asker: Party, *items: RelayItem) -> list[RelayOutcome]:
        """The outcomes, after as many turns as it takes."""
        _, outcomes = self.begin(asker, *items)
        while self.clock.getDelayedCalls():
            self.turn()
        return outcomes

    @property
    def kinds(self) -> list[str | None]:
        """The kinds of failures, None for a success."""
        return [record.failure.kind if record.failure else None for record in self.records]


def test_a_request_reaches_its_device_and_leaves_a_record() -> None:
    party = device()
    memory = Memory(party)
    assert memory.relay(controller(), item(request=PowerRequest.OFF)) == [RelayOutcome("0001")]
    ((asked, name),) = party.asked
    assert (asked.uuid, asked.dns_name, asked.request, name) == ("0001", NAME, PowerRequest.OFF, CONTROLLER_NAME)
    (record,) = memory.records
    assert (record.operation, record.device, record.started, record.failure) == ("lom_link", 0, 1000.0, None)
    reported = {
        "address": ADDRESS,
        "device_dns_name": NAME,
        "request": "PowerOFF",
        "request_uuid": "0001",
        "peer": NAME,
    }
    assert record.facts.items() >= {**reported, "network": "memory", "verdict": "done"}.items()
    assert not record.facts.keys() & {"tls", "cipher"}


def test_each_tried_address_leaves_a_record() -> None:
    wrong = device(DEVICE_CA.issue("other", LOM_USAGE))
    right = device(index=2, addresses=["fe80::2"])
    memory = Memory(wrong, right)
    assert memory.relay(controller(), item(NOWHERE, "junk", ADDRESS, "fe80::2")) == [RelayOutcome("0001")]
    assert memory.kinds == ["lom_unreachable", "tls_wrong_name", None]
    assert [record.facts["address"] for record in memory.records] == [NOWHERE, ADDRESS, "fe80::2"]
    assert [record.facts.get("peer") for record in memory.records] == [None, None, NAME]


@pytest.mark.parametrize(
    ("asker", "asked", "kind"),
    [
        (controller(CONTROLLER_CA.issue(CONTROLLER_NAME, LOM_USAGE)), device(), None),
        (controller(STRANGE_CA.issue(CONTROLLER_NAME, LOM_USAGE)), device(), "tls_refused"),
        (controller(None), device(), "lom_not_set_up"),
        (controller(), device(STRANGE_CA.issue(NAME, LOM_USAGE)), "tls_untrusted"),
    ],
)
def test_a_failure_is_counted_under_its_kind(asker: Party, asked: Party, kind: str | None) -> None:
    memory = Memory(asked)
    (outcome,) = memory.relay(asker, item())
    assert memory.kinds == [kind]
    assert outcome.success is (kind is None)


def test_refusal_by_the_device_is_counted_as_lom_refused() -> None:
    party = device()
    party.answer = lambda request: LinkAnswer(request.uuid, "the Mac is off")
    memory = Memory(party)
    assert memory.relay(controller(), item()) == [RelayOutcome("0001", "the Mac is off")]
    assert memory.kinds == ["lom_refused"]


def test_a_thousand_items_keep_their_order() -> None:
    party = device()
    items = [item(ADDRESS if number % 100 == 0 else NOWHERE, uuid=str(number)) for number in range(1000)]
    outcomes = Memory(party).relay(controller(), *items)
    assert [outcome.uuid for outcome in outcomes] == [str(number) for number in range(1000)]
    assert [outcome.uuid for outcome in outcomes if outcome.success] == [str(number) for number in range(0, 1000, 100)]
    assert [asked.uuid for asked, _ in party.asked] == [str(number) for number in range(0, 1000, 100)]


def test_relay_starts_in_the_next_reactor_turn() -> None:
    party = device()
    memory = Memory(party)
    _, outcomes = memory.begin(controller(), item())
    assert (party.asked, outcomes) == ([], [])
    memory.turn()
    assert outcomes == [RelayOutcome("0001")]


def test_two_long_lists_progress_in_parallel() -> None:
    one, other = device(), device(index=2, addresses=["fe80::2"])
    memory = Memory(one, other)
    memory.begin(controller(), *(item() for _ in range(100)))
    memory.begin(controller(), *(item("fe80::2") for _ in range(100)))
    memory.turn()
    assert 0 < len(one.asked) < 100
    assert 0 < len(other.asked) < 100


def test_empty_relay_finishes_in_the_next_turn() -> None:
    memory = Memory()
    memory.network.relay(controller(), []).addCallback(memory.records.append)
    memory.turn()
    assert memory.records == [[]]


def test_stopped_controller_fails_unfinished_items() -> None:
    party = device()
    memory = Memory(party)
    done, outcomes = memory.begin(controller(), *(item(uuid=str(number)) for number in range(100)))
    memory.turn()
    asked = len(party.asked)
    done.cancel()
    assert 0 < asked < 100
    assert [outcome.success for outcome in outcomes] == [True] * asked + [False] * (100 - asked)
    assert "the Controller stopped before an answer came" in outcomes[-1].error
    assert memory.clock.getDelayedCalls() == []


def test_controller_reset_breaks_its_own_links() -> None:
    party = device()
    party.lom = LOMConfiguration(
        DEVICE_IDENTITY, controller().lom.controller_identity, (DEVICE_CA.certificate,), (CONTROLLER_CA.certificate,)
    )
    memory = Memory(party)
    done, outcomes = memory.begin(party, item(uuid="a"), item(uuid="b"))

    def reset(request: LinkRequest) -> LinkAnswer:
        done.cancel()
        return LinkAnswer(request.uuid)

    party.answer = reset
    memory.turn()
    assert [outcome.uuid for outcome in outcomes] == ["a", "b"]
    assert not any(outcome.success for outcome in outcomes)
    assert [asked.uuid for asked, _ in party.asked] == ["a"]
    assert [record.cut_short for record in memory.records] == ["the Controller stopped before an answer came"]
    assert memory.records[0].facts["verdict"] == "unknown"
    assert memory.clock.getDelayedCalls() == []


@pytest.mark.parametrize(("address", "first"), [(ADDRESS, True), (NOWHERE, False)])
def test_observer_can_close_the_network(address: str, first: bool) -> None:
    party = device()
    memory = Memory(party)
    memory.network.operations.observer = lambda _: memory.network.close()
    outcomes = memory.relay(controller(), item(address, uuid="a"), item(uuid="b"))
    assert [(outcome.uuid, outcome.success) for outcome in outcomes] == [("a", first), ("b", False)]
    assert "the LOM network was closed" in outcomes[1].error
    assert len(party.asked) == first


def test_closed_network_relays_nothing() -> None:
    party = device()
    memory = Memory(party)
    memory.network.close()
    (outcome,) = memory.relay(controller(), item())
    assert "the LOM network is closed" in outcome.error
    assert party.asked == []
    assert memory.kinds == ["lom_unreachable"]


def test_removed_mac_is_not_found_and_its_replacement_is() -> None:
    first, second = device(), device(index=2)
    memory = Memory(first)
    ask: Callable[[], bool] = lambda: memory.relay(controller(), item())[0].success  # noqa: E731
    assert ask()
    memory.network.remove(first)
    assert not ask()
    memory.network.add(second, NAME)
    memory.network.remove(first)
    assert ask()
    assert (len(first.asked), len(second.asked)) == (1, 1)
