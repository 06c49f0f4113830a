"""How APNs behaves, as plain data for every process of a run."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from msgspec.structs import asdict

from agent.errors import OperatorError
from agent.fleet.population import Population
from agent.load.conductor.gateway import APNsPlan
from agent.net.apns.behaviour import PushBehaviour, parse_delay
from agent.net.mac.fleet.push_endpoint import MacChances
from agent.pki.issuing.authority import Authority
from agent.push.delays import no_delay


def test_it_goes_to_another_process_and_back() -> None:
    behaviour = PushBehaviour(strict=True, delay="uniform:0.1,2", power_saving=60.0)
    assert pickle.loads(pickle.dumps(behaviour)) == behaviour
    assert PushBehaviour(**asdict(behaviour)) == behaviour


@pytest.mark.parametrize(
    "wrong",
    [
        {"delay": "soon"},
        {"delay": ""},
        {"power_saving": -1.0},
        {"power_saving": float("nan")},
        {"power_saving": float("inf")},
    ],
)
def test_nonsense_is_refused_when_it_is_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(OperatorError):
        PushBehaviour(**wrong)


def test_a_delay_is_read_from_its_text() -> None:
    assert parse_delay(None) is no_delay
    assert [parse_delay("constant:2")(0.5), parse_delay("uniform:1,3")(0.5)] == [2.0, 2.0]


def test_a_macs_chances_depend_on_no_other() -> None:
    population = Population("chances", 3)
    alone, among = MacChances(population, b"push time"), MacChances(population, b"push time")
    row = [alone(1) for _ in range(3)]
    mixed = [(index, among(index)) for index in (0, 1, 2, 1, 0, 1)]
    assert [chance for index, chance in mixed if index == 1] == row
    assert len({chance for _index, chance in mixed}) == 6
    assert MacChances(population, b"push delay")(1) != row[0]


def test_a_plan_does_not_show_its_key() -> None:
    authority = Authority.create("secret")
    text = repr(APNsPlan(identity=authority.identity, provider_anchors=(authority.certificate,)))
    assert "key" not in text.lower()
    assert "secret" not in text
