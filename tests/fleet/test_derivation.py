"""Derivation from a seed: permutations are bijections, text forms are one-to-one, hashes depend on every input."""

from __future__ import annotations

import pickle
import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import MisuseError
from agent.fleet.derivation import (
    BLUETOOTH,
    MAC_BITS,
    PORTS_A_MAC,
    SERIAL_BITS,
    SERIAL_CHARACTERS,
    TOKEN_BITS,
    Derivation,
    Permutation,
    mac_text,
    packed_port,
    serial_text,
    uuid_text,
)
from agent.fleet.population import MAX_DEVICES

keys = st.binary(min_size=1, max_size=64)
widths = st.integers(1, 32).map(lambda half: 2 * half)
mac_values = st.integers(0, (1 << MAC_BITS) - 1)
serial_values = st.integers(0, (1 << SERIAL_BITS) - 1)
indexes = st.integers(0, MAX_DEVICES - 1)
ports = st.integers(0, PORTS_A_MAC - 1)


@given(keys, widths, st.data())
def test_permutation_stays_in_its_domain_and_is_invertible(key: bytes, bits: int, data: st.DataObject) -> None:
    permutation = Permutation(key, bits)
    value = data.draw(st.integers(0, (1 << bits) - 1))
    there = permutation.forward(value)
    assert 0 <= there < 1 << bits
    assert permutation.inverse(there) == value
    assert permutation.forward(permutation.inverse(value)) == value


@given(keys, st.sampled_from([2, 4, 6, 8, 10]))
def test_a_small_permutation_reaches_its_whole_domain(key: bytes, bits: int) -> None:
    permutation = Permutation(key, bits)
    assert sorted(map(permutation.forward, range(1 << bits))) == list(range(1 << bits))


@given(keys, widths, st.integers(1, 1 << 64))
def test_value_outside_the_domain_raises_misuse_error(key: bytes, bits: int, beyond: int) -> None:
    permutation = Permutation(key, bits)
    for value in (-beyond, (1 << bits) - 1 + beyond):
        with pytest.raises(MisuseError, match=f"{bits} bits"):
            permutation.forward(value)
        with pytest.raises(MisuseError, match=f"{bits} bits"):
            permutation.inverse(value)


@pytest.mark.parametrize(("key", "bits"), [(b"", 46), (bytes(65), 46), (b"k", 0), (b"k", 47), (b"k", 66), (b"k", -2)])
def test_invalid_permutation_parameters_raise_misuse_error(key: bytes, bits: int) -> None:
    with pytest.raises(MisuseError):
        Permutation(key, bits)


def test_neighbours_are_spread_over_the_whole_domain() -> None:
    """Consecutive values are spread evenly: each of 64 parts of the domain gets about 1/64 of them."""
    permutation = Permutation(b"spread", MAC_BITS)
    top, bottom = [0] * 64, [0] * 64
    for value in range(6400):
        there = permutation.forward(value)
        top[there >> MAC_BITS - 6] += 1
        bottom[there & 63] += 1
    assert 50 < min(top) <= max(top) < 160
    assert 50 < min(bottom) <= max(bottom) < 160


def test_keys_give_different_permutations() -> None:
    assert len({Permutation(bytes([key]), MAC_BITS).forward(7) for key in range(256)}) == 256


@given(indexes, ports)
def test_the_packing_is_injective_and_fits_the_permutation(index: int, port: int) -> None:
    packed = packed_port(index, port)
    assert divmod(packed, PORTS_A_MAC) == (index, port)
    assert 0 <= packed < 1 << MAC_BITS


@pytest.mark.parametrize(("index", "port"), [(-1, 0), (0, -1), (0, PORTS_A_MAC)])
def test_invalid_port_raises_misuse_error(index: int, port: int) -> None:
    with pytest.raises(MisuseError):
        packed_port(index, port)


@given(mac_values)
def test_mac_address_is_local_unicast_and_invertible(value: int) -> None:
    text = mac_text(value)
    assert re.fullmatch("[0-9a-f]{2}(:[0-9a-f]{2}){5}", text)
    number = int(text.replace(":", ""), 16)
    assert number >> 40 & 0b11 == 0b10
    assert number >> 42 << 40 | number & (1 << 40) - 1 == value


@given(serial_values)
def test_serial_number_is_invertible(value: int) -> None:
    text = serial_text(value)
    assert re.fullmatch("[0-9A-Z]{10}", text)
    back = 0
    for character in text:
        back = back << 5 | SERIAL_CHARACTERS.index(character)
    assert back == value


def test_the_characters_of_serial_numbers_are_distinct_and_32() -> None:
    assert len(SERIAL_CHARACTERS) == len(set(SERIAL_CHARACTERS)) == 32


@pytest.mark.parametrize(
    ("made", "value"),
    [(mac_text, -1), (mac_text, 1 << MAC_BITS), (serial_text, -1), (serial_text, 1 << SERIAL_BITS)],
)
def test_too_large_value_raises_misuse_error(made: type, value: int) -> None:
    with pytest.raises(MisuseError):
        made(value)


@given(st.binary(min_size=16, max_size=16), st.sampled_from([4, 5]))
def test_a_uuid_has_its_version_and_keeps_the_other_bits(raw: bytes, version: int) -> None:
    text = uuid_text(raw, version)
    assert text == text.upper()
    read = uuid.UUID(text)
    assert read == uuid.UUID(bytes=raw, version=version)
    assert (read.version, read.variant) == (version, uuid.RFC_4122)


@given(st.text(), indexes)
def test_the_same_seed_gives_the_same_numbers(seed: str, index: int) -> None:
    one, other = Derivation(seed), pickle.loads(pickle.dumps(Derivation(seed)))
    assert other.seed == seed
    assert one.digest(b"label", index) == other.digest(b"label", index)
    assert one.mac_address(index, BLUETOOTH) == other.mac_address(index, BLUETOOTH)
    assert one.serial_number(index, "C0") == other.serial_number(index, "C0")
    assert one.push_token(index) == other.push_token(index)


def test_digest_depends_on_seed_label_and_index() -> None:
    digests = {
        Derivation(seed).digest(label, index)
        for seed in ("", "a", "b", "\udcff")
        for label in (b"one", b"two")
        for index in (0, 1, 256)
    }
    assert len(digests) == 4 * 2 * 3
    assert {len(digest) for digest in digests} == {64}


def test_push_token_prefix_is_unique_per_index() -> None:
    derivation = Derivation("tokens")
    tokens = [derivation.push_token(index) for index in range(2000)]
    assert {len(token) for token in tokens} == {32}
    assert len({token[:8] for token in tokens}) == 2000
    assert TOKEN_BITS == 64


@given(st.text(max_size=5), st.integers(0, MAX_DEVICES - 1), st.integers(0, 31), st.integers(1, 255))
def test_only_a_valid_push_token_gives_an_index(seed: str, index: int, at: int, flip: int) -> None:
    derivation = Derivation(seed)
    token = derivation.push_token(index)
    assert derivation.token_index(token, range(MAX_DEVICES)) == index
    assert derivation.token_index(token, range(index)) is None
    forged = token[:at] + bytes([token[at] ^ flip]) + token[at + 1 :]
    assert derivation.token_index(forged, range(MAX_DEVICES)) is None
    assert derivation.token_index(token[:at], range(MAX_DEVICES)) is None
