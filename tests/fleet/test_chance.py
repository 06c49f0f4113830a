"""Chance: a sequence of numbers for each Mac and purpose, the same in every run and on every machine."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.fleet.chance import Chance
from agent.fleet.derivation import Derivation

SOURCE = Derivation("a seed")
NUMBERS = [0.4191162651232382, 0.32328316299994886, 0.8562471050853512]  # of this seed, Mac 7, purpose "boot"
indices = st.integers(0, 2**32 - 1)
purposes = st.binary(max_size=16)


def row(chance: Chance, count: int = 8) -> list[float]:
    return list(islice(iter(chance, None), count))


@given(st.text(max_size=10), indices, purposes)
def test_same_seed_mac_and_purpose_give_the_same_sequence(seed: str, index: int, purpose: bytes) -> None:
    first = row(Chance(Derivation(seed), index, purpose))
    assert first == row(Chance(Derivation(seed), index, purpose))
    assert all(0.0 <= number < 1.0 for number in first)
    assert len(set(first)) == len(first)


def test_sequence_is_pinned() -> None:
    assert row(Chance(SOURCE, 7, b"boot"), 3) == NUMBERS


@given(indices, indices, purposes, purposes)
def test_another_mac_or_purpose_gives_another_sequence(index: int, other: int, purpose: bytes, another: bytes) -> None:
    this = row(Chance(SOURCE, index, purpose))
    if index != other:
        assert set(this).isdisjoint(row(Chance(SOURCE, other, purpose)))
    if purpose.rstrip(b"\0") != another.rstrip(b"\0"):  # BLAKE2 pads a short label with NULs
        assert set(this).isdisjoint(row(Chance(SOURCE, index, another)))


def test_another_seed_gives_another_sequence() -> None:
    assert set(row(Chance(SOURCE, 1, b"a"))).isdisjoint(row(Chance(Derivation("another"), 1, b"a")))


def test_sequences_of_one_source_are_independent() -> None:
    alone = row(Chance(SOURCE, 3, b"a"))
    first, second = Chance(SOURCE, 3, b"a"), Chance(SOURCE, 4, b"a")
    both = [(first(), second()) for _ in range(len(alone))]
    assert [number for number, _ in both] == alone


def test_the_numbers_are_spread_evenly() -> None:
    chance = Chance(SOURCE, 0, b"spread")
    numbers = [chance() for _ in range(4000)]
    assert sum(numbers) / len(numbers) == pytest.approx(0.5, abs=0.03)
    tenths = [sum(tenth / 10 <= number < (tenth + 1) / 10 for number in numbers) for tenth in range(10)]
    assert min(tenths) > 320
    assert max(tenths) < 480
