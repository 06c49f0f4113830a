"""The counts of pushes, added up over the processes of a run."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.push.counts import PushCounts, merge_push_counts

COUNTS = st.builds(
    PushCounts,
    accepted=st.integers(0, 9),
    refused=st.dictionaries(st.sampled_from(["BadDeviceToken", "Shutdown"]), st.integers(1, 9)),
    delivered=st.integers(0, 9),
).map(PushCounts.as_json)


@given(st.lists(COUNTS, max_size=4), st.lists(COUNTS, max_size=4))
def test_push_counts_add_up_in_any_grouping(some: list[dict[str, object]], more: list[dict[str, object]]) -> None:
    together = merge_push_counts([*some, *more])
    assert together == merge_push_counts([merge_push_counts(more), merge_push_counts(some)])
    assert together["accepted"] == sum(counts["accepted"] for counts in [*some, *more])  # type: ignore[misc]


def test_empty_counts_are_zero_and_waiting_pushes_are_added() -> None:
    assert merge_push_counts([]) == PushCounts().as_json()
    assert merge_push_counts([{"waiting": 2}, {"waiting": 3, "refused": {"Shutdown": 1}}]) == {
        **PushCounts().as_json(), "waiting": 5, "refused": {"Shutdown": 1},
    }  # fmt: skip
