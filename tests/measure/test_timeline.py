"""The time line adds up what several processes say of each second."""

import json
from contextlib import suppress

import msgspec
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import LomAgentError, MisuseError, OperatorError
from agent.measure.latencies import LARGEST
from agent.measure.metrics import Metrics
from agent.measure.records import OPERATIONS, Exchange, Failure
from agent.measure.timeline import LONGEST_SECONDS, MACS, Second, SecondOfOperation, TimeLine

counts = st.integers(0, 1000)
ended = st.fixed_dictionaries(
    {"count": counts, "errors": counts, "latencies": st.dictionaries(st.integers(0, LARGEST), counts, max_size=5)}
)
rows = st.fixed_dictionaries(
    {},
    optional={
        "operations": st.dictionaries(st.sampled_from(OPERATIONS), ended, max_size=3),
        "macs": st.dictionaries(st.sampled_from(MACS), counts),
        "connections": counts,
        "pushes_waiting": counts,
        "lag_ms": st.floats(0, 1000),
        "cpu": st.floats(0, 2),
    },
)
WORKERS = 3
message = st.lists(
    st.tuples(st.integers(0, 5), rows, st.integers(0, WORKERS - 1)),
    max_size=12,
    unique_by=lambda each: (each[0], each[2]),
)


def line(*reported, fleet=(0,) * WORKERS):
    """The rows of workers: the second, the row, and the worker where it is not the first."""
    timeline = TimeLine(fleet)
    for t, row, *worker in reported:
        timeline.add(t, row, *worker)
    return timeline


def in_order(reports):
    """The rows, those of each worker in order."""
    return sorted(reports, key=lambda each: each[0])


def gauges_at(reports, worker, t, fleet):
    """The Macs and the connections of one worker in a second: of its last row until then."""
    rows = [row for second, row, reporter in in_order(reports) if reporter == worker and second <= t]
    row = rows[-1] if rows else {"macs": {"new": fleet[worker]}}
    return row.get("macs", {}), row.get("connections", 0)


def test_row_has_every_key_whichever_worker_reported():
    assert line((3, {})).rows() == [
        Second(
            t=3,
            operations={},
            macs={"new": 0, "idle": 0, "session": 0, "booting": 0, "off": 0, "left": 0},
            connections=0,
            pushes_waiting=0,
            lag_ms=None,
            cpu=None,
        )
    ]


def test_two_workers_and_a_third_make_one_row():
    one, other = Metrics(), Metrics()
    for _ in range(99):
        one(Exchange("session", 0, 0.0, 0.1))
    other(Exchange("session", 0, 0.0, 2.0))
    other(Exchange("session", 0, 0.0, 9.0, Failure("peer", "no")))
    other(Exchange("enroll", 0, 0.0, 9.0, Failure("peer", "no")))

    [row] = line(
        (0, {"operations": one.take_second(), "macs": {"idle": 5, "off": 1}, "connections": 7, "lag_ms": 3.0}),
        (0, {"operations": other.take_second(), "macs": {"idle": 2}, "connections": 1, "lag_ms": 1.5, "cpu": 0.25}, 1),
        (0, {"pushes_waiting": 4}, 2),
    ).rows()

    assert list(row.operations) == ["enroll", "session"]
    session = row.operations["session"]
    assert (session.count, session.errors) == (101, 1)
    assert session.p50_ms == pytest.approx(100.0, rel=0.03)
    assert session.p99_ms == pytest.approx(100.0, rel=0.03)
    assert row.operations["enroll"] == SecondOfOperation(1, 1, None, None)
    assert row.macs == {"new": 0, "idle": 7, "session": 0, "booting": 0, "off": 1, "left": 0}
    assert (row.connections, row.pushes_waiting, row.lag_ms, row.cpu) == (8, 4, 3.0, 0.25)


def test_seconds_are_in_order_and_those_without_a_report_are_missing():
    timeline = line((0, {}), (4, {}), (0, {"connections": 2}, 1), (2, {"connections": 1}, 1), (4, {}, 1))
    assert [(row.t, row.connections) for row in timeline.rows()] == [(0, 2), (2, 1), (4, 0)]


def test_a_worker_that_sent_no_row_for_a_second_counts_with_its_last_one():
    busy = {"macs": {"session": 4}, "connections": 4, "pushes_waiting": 1, "lag_ms": 70.0, "cpu": 0.5}
    idle = {"macs": {"idle": 3}, "connections": 2}
    timeline = line((0, busy), (1, idle, 1), (2, busy), (4, idle, 1), (5, idle, 1), fleet=(4, 3))
    rows = timeline.rows()
    assert [row.t for row in rows] == [0, 1, 2, 4, 5]
    assert [sum(row.macs.values()) for row in rows] == [7] * 5
    assert [row.macs["new"] for row in rows] == [3, 0, 0, 0, 0]
    assert [row.connections for row in rows] == [4, 6, 6, 6, 6]
    assert [row.pushes_waiting for row in rows] == [1] * 5
    assert [row.lag_ms for row in rows] == [70.0, None, 70.0, None, None], "a lag is of its own second"
    assert rows == timeline.rows()


def test_lost_worker_is_missing_after_its_last_row():
    timeline = line(
        (0, {"macs": {"idle": 4}}), (1, {"macs": {"idle": 3}}, 1), (2, {"macs": {"idle": 3}}, 1), fleet=(4, 3)
    )
    assert [sum(row.macs.values()) for row in timeline.rows()] == [7, 7, 7]
    timeline.lose(0)
    assert [sum(row.macs.values()) for row in timeline.rows()] == [7, 3, 3]
    timeline.add(2, {"macs": {"off": 4}})
    assert [sum(row.macs.values()) for row in timeline.rows()] == [7, 7, 7], "what arrives late counts too"


@pytest.mark.parametrize("t", [2, 3])
def test_a_worker_cannot_send_a_second_again(t):
    timeline = line((3, {"connections": 1}))
    with pytest.raises(OperatorError, match=f"after second 3, found one of {t}"):
        timeline.add(t, {"connections": 1})
    assert timeline.rows() == line((3, {"connections": 1})).rows()


def test_what_comes_after_the_longest_time_line_is_left_out():
    assert [row.t for row in line((LONGEST_SECONDS - 1, {}), (LONGEST_SECONDS, {})).rows()] == [LONGEST_SECONDS - 1]


def test_a_second_before_the_start_is_misuse():
    with pytest.raises(MisuseError, match="-1"):
        TimeLine().add(-1, {})


@examples(25, explored=50)
@given(message, st.randoms())
def test_the_order_in_which_workers_report_does_not_matter(reports, random):
    mixed = in_order(random.sample(reports, len(reports)))
    by_worker = [row for worker in random.sample(range(WORKERS), WORKERS) for row in mixed if row[2] == worker]
    assert line(*mixed).rows() == line(*by_worker).rows()


@examples(25, explored=50)
@given(message, st.tuples(*[counts] * WORKERS))
def test_every_row_is_the_sum_of_the_last_reports_of_all_workers(reports, fleet):
    found = line(*in_order(reports), fleet=fleet).rows()

    assert msgspec.json.decode(json.dumps(msgspec.to_builtins(found), allow_nan=False), type=list[Second]) == found
    assert [row.t for row in found] == sorted({t for t, _, _ in reports})
    for row in found:
        gauges = [gauges_at(reports, worker, row.t, fleet) for worker in range(WORKERS)]
        assert row.connections == sum(connections for _, connections in gauges)
        assert row.macs == {state: sum(macs.get(state, 0) for macs, _ in gauges) for state in MACS}
    for name in OPERATIONS:
        sent = sum(row.get("operations", {}).get(name, {"count": 0})["count"] for _, row, _ in reports)
        assert sum(row.operations[name].count for row in found if name in row.operations) == sent


@examples(25, explored=50)
@given(message)
def test_rows_may_have_crossed_json(reports):
    reports = in_order(reports)
    crossed = [(t, json.loads(json.dumps(row)), worker) for t, row, worker in reports]
    assert line(*crossed).rows() == line(*reports).rows()


@pytest.mark.parametrize(
    "row",
    [
        None,
        [],
        {"connections": -1},
        {"connections": "3"},
        {"connections": 1.5},
        {"connections": 10**30},
        {"lag_ms": float("nan")},
        {"cpu": float("inf")},
        {"macs": {"asleep": 1}},
        {"macs": {"idle": None}},
        {"operations": {"reboot": {}}},
        {"operations": {"push": {"latencies": {LARGEST + 1: 1}}}},
        {"operations": {"push": {"latencies": {"x": 1}}}},
        {"operations": {"push": {"latencies": {1: -1}}}},
    ],
)
def test_what_is_no_row_is_refused_and_nothing_of_it_counts(row):
    timeline = line((0, {"connections": 1}))
    for t, worker in ((0, 1), (1, 0)):
        with pytest.raises(OperatorError, match="time line"):
            timeline.add(t, row, worker)
    assert timeline.rows() == line((0, {"connections": 1})).rows()


def test_more_than_can_be_is_refused_when_it_adds_up():
    timeline = line((0, {"connections": 2**40}))
    with pytest.raises(OperatorError, match="time line"):
        timeline.add(0, {"connections": 1}, 1)
    assert [row.connections for row in timeline.rows()] == [2**40]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(["operations", "macs", "connections", "lag_ms"]),
)
def test_any_plain_data_is_a_row_or_our_error(value, key):
    for row in (value, {key: value}, {"operations": {"push": value}}):
        with suppress(LomAgentError):
            TimeLine().add(0, row)
