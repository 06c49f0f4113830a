"""The control link's messages: any cut of their bytes gives the same ones, and what is none is refused."""

from __future__ import annotations

import contextlib
import math
import re
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.framing import FrameReader
from agent.load.control.messages import (
    MAX_HELLO_BYTES,
    Begin,
    ClockAnswer,
    ClockQuestion,
    ControlError,
    Finish,
    GatewayStalled,
    Hello,
    Message,
    PhaseFinished,
    PhaseStarted,
    Plan,
    Ready,
    RefusalAnswer,
    RefusalQuestion,
    Refused,
    Result,
    Second,
    Settle,
    Settled,
    Snapshot,
    StartPhase,
    Taken,
    TracePiece,
    Warn,
    encode,
    next_message,
)
from agent.measure.live import PhaseState
from agent.push.broker import Answer, Broken, PushOutcome
from agent.push.reasons import OwnCause
from agent.push.requests import MAX_PAYLOAD_BYTES, Provider
from agent.push.wire import RoutedAnswer, RoutedPush

counts = st.integers(0, 2**40)
states = st.builds(PhaseState, counts, counts, counts, counts, counts, counts, st.booleans())
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
rows = st.dictionaries(st.text(max_size=10), values, max_size=3)
latin_1 = st.text(st.characters(max_codepoint=255), max_size=30)
pushes = st.builds(
    RoutedPush,
    number=st.integers(0, 2**53 - 1),
    at=st.floats(0, 1e10),
    fields=st.lists(st.tuples(latin_1, latin_1), max_size=5),
    body=st.binary(max_size=100),
    provider=st.builds(Provider, st.text(max_size=20), st.booleans(), st.text(max_size=20)),
)
outcomes: st.SearchStrategy[PushOutcome] = st.builds(Broken) | st.builds(
    Answer,
    status=st.integers(200, 599),
    apns_id=st.just("") | st.uuids().map(str),
    body=st.binary(max_size=100),
)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, st.text(max_size=50), st.text(max_size=50), st.integers(-1, 1000), st.text(max_size=10)),
    st.builds(Plan, st.binary(max_size=100)),
    st.builds(Refused, st.text(max_size=100)),
    st.builds(ClockQuestion, st.floats(0, 1e10)),
    st.builds(ClockAnswer, st.floats(0, 1e10), st.floats(0, 1e10), st.floats(0, 1e10)),
    st.builds(PhaseStarted, st.integers(0, 1000), states),
    st.builds(TracePiece, st.binary(max_size=100)),
    st.builds(Result, st.binary(max_size=100)),
    st.builds(Taken),
    st.builds(Ready),
    st.builds(Settled),
    st.builds(Settle),
    st.builds(Second, counts, rows, st.dictionaries(st.integers(0, 1000), states, max_size=3)),
    st.builds(Snapshot, rows),
    st.builds(PhaseFinished, st.integers(0, 1000), states),
    st.builds(RoutedAnswer.of, st.integers(0, 2**53 - 1), outcomes),
    st.builds(Warn, st.text(max_size=100)),
    st.builds(RefusalQuestion, counts, counts, st.floats(0, 1e10)),
    st.builds(GatewayStalled, st.floats(0, 1e6)),
    st.builds(RefusalAnswer, counts, st.none() | st.sampled_from(OwnCause)),
    st.builds(Begin, st.floats(allow_nan=False), st.floats(allow_nan=False), st.integers(0, 1000)),
    st.builds(StartPhase, st.integers(0, 1000), st.floats(0, 1e10), st.floats(0, 1e10)),
    pushes,
    st.builds(Finish, st.text(max_size=100)),
)


def take_all(reader: FrameReader) -> list[Message]:
    taken = []
    while (message := next_message(reader)) is not None:
        taken.append(message)
    return taken


@given(st.lists(messages, max_size=5), st.lists(st.integers(1, 40), min_size=1))
def test_messages_are_read_from_any_pieces(sent: list[Message], cuts: list[int]) -> None:
    octets = b"".join(map(encode, sent))
    reader = FrameReader(1 << 20)
    received: list[Message] = []
    position = 0
    while position < len(octets):
        length = cuts[position % len(cuts)]
        reader.receive(octets[position : position + length])
        position += length
        received += take_all(reader)
    assert received == sent


@given(st.binary(max_size=200))
def test_untrusted_bytes_are_messages_or_control_errors(octets: bytes) -> None:
    reader = FrameReader(MAX_HELLO_BYTES)
    reader.receive(octets)
    with contextlib.suppress(ControlError):  # and nothing else
        take_all(reader)


@given(st.integers(0, 2**53 - 1), outcomes)
def test_push_outcome_survives_a_round_trip(number: int, outcome: PushOutcome) -> None:
    answer = RoutedAnswer.of(number, outcome)
    assert (answer.number, answer.outcome) == (number, outcome)


PUSH = {"type": "push", "number": 1, "at": 0.0, "fields": [], "body": b"",
        "provider": {"topic": "", "certified": True, "fault": ""}}  # fmt: skip
ANSWER = {"type": "push answer", "number": 1, "status": 200, "apns_id": "", "body": b""}


@pytest.mark.parametrize("message", [PUSH, ANSWER])
def test_valid_pushes_and_answers_are_accepted(message: dict[str, object]) -> None:
    (taken,) = framed(message)
    assert isinstance(taken, RoutedPush | RoutedAnswer)


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (PUSH | {"at": math.nan}, "Expected a finite time for a push, found nan."),
        (PUSH | {"at": math.inf}, "Expected a finite time for a push, found inf."),
        (PUSH | {"number": -1}, "$.number"),
        (PUSH | {"body": bytes(MAX_PAYLOAD_BYTES + 1)}, "$.body"),
        (PUSH | {"fields": [("a", "b")] * 251}, "$.fields"),
        (PUSH | {"fields": [("a", "b" * 8001)]}, "$.fields[0][1]"),
        (ANSWER | {"status": 99}, "Expected a final HTTP status as the answer to a push, found 99."),
        (ANSWER | {"status": 600}, "$.status"),
        (ANSWER | {"apns_id": "x\r\ny"}, "$.apns_id"),
        (ANSWER | {"apns_id": "a\n"}, "$.apns_id"),
        (ANSWER | {"apns_id": "a" * 37}, "$.apns_id"),
    ],
)
def test_a_push_or_an_answer_outside_its_bounds_is_refused(message: dict[str, object], found: str) -> None:
    with pytest.raises(ControlError, match=f"Malformed message on the control link: .*{re.escape(found)}"):
        framed(message)


def framed(message: dict[str, object]) -> list[Message]:
    """What the other end makes of a message."""
    octets = msgspec.msgpack.encode(message)
    reader = FrameReader(longest=1 << 20)
    reader.receive(struct.pack(">I", len(octets)) + octets)
    return take_all(reader)


def test_too_long_frame_is_refused_before_its_body() -> None:
    reader = FrameReader(MAX_HELLO_BYTES)
    reader.receive(struct.pack(">I", MAX_HELLO_BYTES + 1))
    with pytest.raises(ControlError, match="1 to 4096 bytes, found a length of 4097"):
        next_message(reader)


@given(states, states, states)
def test_phase_counts_of_shards_add_up_in_any_order(one: PhaseState, two: PhaseState, three: PhaseState) -> None:
    assert one.plus(two).plus(three) == three.plus(one.plus(two))
    assert one.plus(PhaseState(finished=True)) == one
