"""The encoding of a push and of its answer between processes; malformed messages are refused."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.push.broker import Answer, Broken, Outcome
from agent.push.counts import PushCounts, merge_push_counts
from agent.push.wire import (
    MAX_MESSAGE_BYTES,
    PushWireError,
    RoutedPush,
    decode_answer,
    decode_push,
    encode_answer,
    encode_push,
)

NUMBERS = st.integers(0, 2**53 - 1)
LATIN_1 = st.text(st.characters(max_codepoint=255), max_size=30)
PUSHES = st.builds(
    RoutedPush,
    number=NUMBERS,
    at=st.floats(0, 1e10),
    fields=st.lists(st.tuples(LATIN_1, LATIN_1), max_size=5),
    body=st.binary(max_size=100),
    topic=st.text(max_size=20),
    certified=st.booleans(),
    fault=st.text(max_size=20),
    spent=st.lists(st.integers(0, 9), max_size=3).map(tuple),
)
RULES = st.none() | st.integers(0, 9)
OUTCOMES: st.SearchStrategy[Outcome] = st.builds(Broken, RULES) | st.builds(
    Answer,
    status=st.integers(200, 599),
    apns_id=st.just("") | st.uuids().map(str),
    body=st.binary(max_size=100),
    rule=RULES,
)


@given(PUSHES)
def test_a_push_comes_as_it_went(push: RoutedPush) -> None:
    assert decode_push(encode_push(push)) == push


@given(NUMBERS, OUTCOMES)
def test_an_answer_comes_as_it_went(number: int, outcome: Outcome) -> None:
    answer = decode_answer(encode_answer(number, outcome))
    assert (answer.number, answer.outcome) == (number, outcome)


@given(st.binary(max_size=200) | PUSHES.map(encode_push) | st.builds(encode_answer, NUMBERS, OUTCOMES), st.data())
def test_any_bytes_are_a_message_or_refused(octets: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(octets)))
    for decode in (decode_push, decode_answer):
        for some in (octets, octets[:cut], octets[cut:]):
            with contextlib.suppress(PushWireError):
                decode(some)  # type: ignore[operator]


@pytest.mark.parametrize(
    "push",
    [
        RoutedPush(1, math.nan, [], b"", "", True, ""),
        RoutedPush(1, math.inf, [], b"", "", True, ""),
        RoutedPush(-1, 0.0, [], b"", "", True, ""),
        RoutedPush(1, 0.0, [], bytes(MAX_MESSAGE_BYTES), "", True, ""),
    ],
)
def test_a_push_that_cannot_be_is_refused(push: RoutedPush) -> None:
    with pytest.raises(PushWireError):
        decode_push(encode_push(push))


@pytest.mark.parametrize("outcome", [Answer(99, ""), Answer(600, ""), Answer(200, "x\r\ny"), Answer(200, "a" * 37)])
def test_an_answer_that_cannot_be_is_refused(outcome: Answer) -> None:
    with pytest.raises(PushWireError):
        decode_answer(encode_answer(1, outcome))


COUNTS = st.builds(
    PushCounts,
    accepted=st.integers(0, 9),
    refused=st.dictionaries(st.sampled_from(["BadDeviceToken", "Shutdown"]), st.integers(1, 9)),
    delivered=st.integers(0, 9),
).map(PushCounts.as_json)


@given(st.lists(COUNTS, max_size=4), st.lists(COUNTS, max_size=4))
def test_counts_add_up_in_any_grouping(some: list[dict[str, object]], more: list[dict[str, object]]) -> None:
    together = merge_push_counts([*some, *more])
    assert together == merge_push_counts([merge_push_counts(more), merge_push_counts(some)])
    assert together["accepted"] == sum(counts["accepted"] for counts in [*some, *more])  # type: ignore[misc]


def test_the_counts_of_nobody_are_nothing_and_what_waits_is_added() -> None:
    assert merge_push_counts([]) == PushCounts().as_json()
    assert merge_push_counts([{"waiting": 2}, {"waiting": 3, "refused": {"Shutdown": 1}}]) == {
        **PushCounts().as_json(), "waiting": 5, "refused": {"Shutdown": 1},
    }  # fmt: skip
