"""Limits per peer: open links, requests per second."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.lom.gate import Gate, TooManyLinks, TooManyRequests
from agent.lom.link import LIMITS

FEW = replace(LIMITS, links_a_peer=2, requests_a_second=3)


def test_link_limit_applies_per_peer() -> None:
    gate = Gate(FEW)
    gate.open("a")
    gate.open("a")
    with pytest.raises(TooManyLinks, match="one peer may have 2 open at one Device"):
        gate.open("a")
    gate.open("b")
    gate.close("a")
    gate.open("a")


def test_request_rate_is_limited_per_controller() -> None:
    gate = Gate(FEW)
    for _ in range(3):
        gate.count_request("a", 10.0)
    with pytest.raises(TooManyRequests, match="one Controller may send 3 per second"):
        gate.count_request("a", 10.9)
    gate.count_request("b", 10.9)
    gate.count_request("a", 11.0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans())))
def test_links_are_counted_by_peer(steps: list[tuple[str, bool]]) -> None:
    gate, there = Gate(FEW), Counter[str]()
    for peer, opens in steps:
        if not opens:
            if there[peer]:
                gate.close(peer)
                there[peer] -= 1
        elif there[peer] < 2:
            gate.open(peer)
            there[peer] += 1
        else:
            with pytest.raises(TooManyLinks):
                gate.open(peer)


@given(st.lists(st.floats(0.0, 2.0), max_size=60))
def test_at_most_twice_the_rate_limit_in_any_second(gaps: list[float]) -> None:
    gate, now, taken = Gate(FEW), 0.0, []
    for gap in gaps:
        now += gap / 10
        try:
            gate.count_request("a", now)
        except TooManyRequests:
            continue
        taken.append(now)
    for at in taken:
        assert len([other for other in taken if at <= other < at + 1.0]) <= 2 * FEW.requests_a_second


def test_expired_controllers_are_forgotten_and_the_limit_still_applies() -> None:
    gate = Gate(FEW)
    for number in range(5000):
        gate.count_request(number, number / 100)
    for _ in range(2):
        gate.count_request(4999, 50.0)
    with pytest.raises(TooManyRequests):
        gate.count_request(4999, 50.0)
