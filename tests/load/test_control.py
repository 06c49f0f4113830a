"""The control link's messages: any cut of their bytes gives the same ones, and what is none is refused."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.load.control import (
    MAX_HELLO_BYTES,
    Begin,
    ControlError,
    Finish,
    FrameReader,
    Hello,
    Message,
    Note,
    PhaseOver,
    PushAnswer,
    PushRequest,
    Ready,
    Second,
    Settle,
    Settled,
    Snapshot,
    StartPhase,
    encode,
)
from agent.measure.live import PhaseState

counts = st.integers(0, 2**40)
states = st.builds(PhaseState, counts, counts, counts, counts, counts, counts, st.booleans())
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
rows = st.dictionaries(st.text(max_size=10), values, max_size=3)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, st.integers(0, 1000), st.text(max_size=50)),
    st.builds(Ready),
    st.builds(Settled),
    st.builds(Settle),
    st.builds(Second, counts, rows, st.dictionaries(st.integers(0, 1000), states, max_size=3)),
    st.builds(Snapshot, rows),
    st.builds(PhaseOver, st.integers(0, 1000), states),
    st.builds(PushAnswer, st.binary(max_size=100)),
    st.builds(Note, st.text(max_size=100)),
    st.builds(Begin, st.floats(allow_nan=False)),
    st.builds(StartPhase, st.integers(0, 1000)),
    st.builds(PushRequest, st.binary(max_size=100)),
    st.builds(Finish, st.text(max_size=100)),
)


def take_all(reader: FrameReader) -> list[Message]:
    taken = []
    while (message := reader.take()) is not None:
        taken.append(message)
    return taken


@given(st.lists(messages, max_size=5), st.lists(st.integers(1, 40), min_size=1))
def test_messages_come_out_as_they_went_in_however_their_bytes_are_cut(sent: list[Message], cuts: list[int]) -> None:
    octets = b"".join(map(encode, sent))
    reader = FrameReader(longest=1 << 20)
    received: list[Message] = []
    position = 0
    while position < len(octets):
        length = cuts[position % len(cuts)]
        reader.receive(octets[position : position + length])
        position += length
        received += take_all(reader)
    assert received == sent


@given(st.binary(max_size=200))
def test_bytes_of_a_stranger_are_messages_or_refused(octets: bytes) -> None:
    reader = FrameReader()
    reader.receive(octets)
    with contextlib.suppress(ControlError):  # and nothing else
        take_all(reader)


def test_a_long_frame_is_refused_before_its_bytes_are_there() -> None:
    reader = FrameReader()
    reader.receive(struct.pack(">I", MAX_HELLO_BYTES + 1))
    with pytest.raises(ControlError, match="at most 4096"):
        reader.take()


@given(states, states, states)
def test_phases_of_shards_add_up_in_any_order(one: PhaseState, two: PhaseState, three: PhaseState) -> None:
    assert one.plus(two).plus(three) == three.plus(one.plus(two))
    assert one.plus(PhaseState(over=True)) == one
