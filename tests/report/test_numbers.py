"""Numbers for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.report import numbers
from agent.report.numbers import MINUS, NOTHING, TIMES


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (None, NOTHING),
        (0.0, "0 ms"),
        (0.0004, "0.400 µs"),
        (0.412, "412 µs"),
        (0.9996, "1.00 ms"),
        (12.34, "12.3 ms"),
        (999.6, "1.00 s"),
        (1840.0, "1.84 s"),
        (119_000.0, "119 s"),
        (720_000.0, "12.0 min"),
        (7_200_000.0, "2.00 h"),
    ],
)
def test_latencies_have_a_unit_that_fits(ms: float | None, text: str) -> None:
    assert numbers.milliseconds(ms) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 0, "0 %"),
        (0, 10, "0 %"),
        (1, 3, "33.3 %"),
        (17, 20_000, "0.085 %"),
        (1, 10_000_000, "< 0.001 %"),
        (9_999, 10_000, "> 99.9 %"),
        (5, 5, "100 %"),
    ],
)
def test_share_is_never_rounded_to_0_or_100_percent(part: int, whole: int, text: str) -> None:
    assert numbers.share(part, whole) == text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (None, NOTHING),
        (1.0, "±0 %"),
        (1.25, "+25 %"),
        (0.958, f"{MINUS}4.2 %"),
        (12.04, f"{TIMES}12.0"),
        (9.9, "+890 %"),
    ],
)
def test_a_change_is_a_percentage_or_a_factor(ratio: float | None, text: str) -> None:
    assert numbers.change(ratio) == text


@pytest.mark.parametrize(("seconds", "text"), [(None, NOTHING), (7.4, "0:07"), (750, "12:30"), (3723, "1:02:03")])
def test_time_axis_labels_are_clock_times(seconds: float | None, text: str) -> None:
    assert numbers.clock(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 errors"), (1, "1 error"), (1234, "1,234 errors")])
def test_nouns_are_pluralised(count: int, text: str) -> None:
    assert numbers.counted(count, "error") == text


def test_memory_is_shown_in_mib() -> None:
    assert numbers.mebibytes(2048) == "2 MiB"
    assert numbers.mebibytes(None) == NOTHING


@given(st.floats(0, 1e15))
def test_every_latency_is_short(ms: float) -> None:
    assert len(numbers.milliseconds(ms)) <= 20
    assert numbers.seconds(ms / 1000).split()[1] == numbers.milliseconds(ms / 1000 * 1000).split()[1]
