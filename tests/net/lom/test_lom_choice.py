"""Which LOM network an operator's words name."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from lom_parties import NAME, controller, device, item
from twisted.internet import reactor

from agent.errors import OperatorError
from agent.lom.requests import RelayOutcome
from agent.measure.operations import Operations
from agent.measure.records import Exchange
from agent.net.lom.networks import NetworkChoice, make_network, parse_network

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("loopback", NetworkChoice("loopback")),
        ("memory", NetworkChoice("memory")),
        ("interface:eth0", NetworkChoice("interface", ("eth0",), 623)),
        ("interface:eth0.10,eth0.11", NetworkChoice("interface", ("eth0.10", "eth0.11"), 623)),
        ("interface:eth0,eth1:1623", NetworkChoice("interface", ("eth0", "eth1"), 1623)),
    ],
)
def test_lom_network_text_is_parsed(text: str, choice: NetworkChoice) -> None:
    assert parse_network(text) == choice


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected loopback, memory, or interface:NAME"),
        ("Loopback", "expected loopback, memory, or interface:NAME"),
        ("loopback:eth0", "found 'loopback:eth0'"),
        ("memory:", "found 'memory:'"),
        ("interfaces:eth0", "found 'interfaces:eth0'"),
        ("interface", "names no interface"),
        ("interface:", "names no interface"),
        ("interface:eth0,", "names no interface"),
        ("interface::623", "names no interface"),
        ("interface:eth0,eth1,eth0", "names an interface twice"),
        ("interface:eth0:", "expected a port from 1 to 65535 in the LOM network 'interface:eth0:', found ''"),
        ("interface:eth0:0", "expected a port from 1 to 65535 in the LOM network 'interface:eth0:0', found '0'"),
        ("interface:eth0:65536", "expected a port from 1 to 65535 in the LOM network"),
        ("interface:eth0:six", "found 'six'"),
        ("interface:eth0:623:eth1", "found '623:eth1'"),
    ],
)
def test_invalid_lom_network_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(OperatorError) as caught:
        parse_network(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(("text", "fact"), [("loopback", "tls"), ("memory", "network")])
def test_lom_network_is_created_by_its_name(text: str, fact: str, run_in_reactor: Run) -> None:
    party = device()

    async def run() -> list[Exchange]:
        records: list[Exchange] = []
        network = make_network(text, reactor, Operations(reactor, records.append))
        network.add(party, NAME)
        network.listen()
        assert await network.relay(controller(), [item()]) == [RelayOutcome("0001")]
        network.close()
        return records

    (record,) = run_in_reactor(run())
    assert fact in record.facts
    assert len(party.asked) == 1


def test_creating_an_interface_network_changes_no_interface(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    network = make_network("interface:eth0", reactor, Operations(reactor, lambda _: None))
    network.add(device(), NAME)
    network.close()
    assert list(tmp_path.iterdir()) == []
