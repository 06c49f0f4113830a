"""An operation is started once and ended once, whatever ends it and however often."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from agent.errors import CutShort, MisuseError, PeerError
from agent.measure.metrics import Metrics
from agent.measure.operations import Moment, Operation, Operations
from agent.measure.records import OPERATIONS, Exchange
from agent.net.http.connection import AnswerTimeout
from agent.net.lom.controller import RelayAbandoned
from agent.net.mac.sessions.background import MacStopped

OURS = [CutShort("the run is over"), MacStopped("the Mac went down"), RelayAbandoned("closed"), CancelledError()]
THEIRS = [PeerError("no"), AnswerTimeout("late"), MisuseError("a defect"), RuntimeError("a defect")]
ends = st.sampled_from([None, *OURS, *THEIRS])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.sampled_from(OPERATIONS)),
        st.tuples(st.just("end"), st.integers(0, 20), ends),
        st.tuples(st.just("leave"), st.integers(0, 20), ends),
        st.tuples(st.just("pass"), st.floats(0.0, 100.0)),
        st.tuples(st.just("snapshot")),
    ),
    max_size=60,
)


def is_ours(error: BaseException | None) -> bool:
    return isinstance(error, CutShort | CancelledError)


@given(steps, st.booleans())
def test_as_many_begin_as_succeed_fail_and_are_cut_short(done: list[Any], whole: bool) -> None:
    clock, metrics = Clock(), Metrics()
    records: list[Exchange] = []

    def observer(exchange: Exchange) -> None:
        records.append(exchange)
        metrics(exchange)

    operations = Operations(clock, observer, started=metrics.started, wall_clock=clock.seconds)
    running: list[Operation] = []
    started: Counter[str] = Counter()
    outcomes: Counter[tuple[str, str]] = Counter()
    for step in done:
        match step:
            case ("begin", name):
                running.append(operations.begin(name, 0))
                started[name] += 1
            case ("end" | "leave" as how, place, error) if place < len(running):
                operation = running[place]
                if operation.open:
                    outcome = "good" if error is None else "cut short" if is_ours(error) else "failed"
                    outcomes[operation.name, outcome] += 1
                if how == "end":
                    operation.end(error)
                else:
                    operation.__exit__(None, error, None)
                assert not operation.open
            case ("pass", seconds):
                clock.advance(seconds)
            case ("snapshot",):
                merged = Metrics()
                merged.merge(metrics.snapshot())
                assert merged.snapshot() == metrics.snapshot()
    if whole:
        for operation in running:
            outcomes[operation.name, "cut short"] += operation.open
        operations.cut_short("the run was interrupted")
        assert len(operations) == 0
    for name in OPERATIONS:
        summary = metrics.summary(name)
        assert summary.started == started[name]
        assert summary.errors == outcomes[name, "failed"]
        assert summary.cut_short == outcomes[name, "cut short"]
        assert summary.count - summary.errors == outcomes[name, "good"]
        assert summary.cut_short == sum(cut.count for cut in metrics.cuts() if cut.operation == name)
        assert summary.started - summary.count - summary.cut_short == sum(
            operation.open and operation.name == name for operation in running
        )
    assert len(records) == sum(started.values()) - len(operations)
    assert not any(record.failure is not None and record.cut_short is not None for record in records)


def test_a_block_that_is_left_by_a_cancel_is_cut_short_for_the_reason_of_the_run() -> None:
    records: list[Exchange] = []
    operations = Operations(Clock(), records.append)
    operations.reason = "the run was interrupted"

    async def work() -> None:
        with operations.begin("delivery", 3):
            await Deferred()

    running = Deferred.fromCoroutine(work())
    running.addErrback(lambda failure: failure.trap(CancelledError))
    running.cancel()
    assert [(record.cut_short, record.failure) for record in records] == [("the run was interrupted", None)]


@pytest.mark.parametrize("error", [None, *OURS, *THEIRS])
def test_the_first_end_counts(error: BaseException | None) -> None:
    records: list[Exchange] = []
    clock = Clock()
    operations = Operations(clock, records.append)
    operation = operations.begin("session", 0, Moment(1000.0, clock.seconds()))
    clock.advance(2.0)
    operation.end(AnswerTimeout("late"), at=1.5)
    operation.end(error)
    operations.cut_short("over")
    [record] = records
    assert (record.started, record.seconds, record.cut_short) == (1000.0, 1.5, None)
    assert record.failure is not None
    assert record.failure.timed_out


def test_what_ran_out_of_time_has_a_latency_and_a_quick_refusal_has_none() -> None:
    clock, metrics = Clock(), Metrics()
    operations = Operations(clock, metrics, started=metrics.started)
    for error, seconds in ((None, 0.1), (PeerError("no"), 0.001), (AnswerTimeout("late"), 60.0)):
        operation = operations.begin("session", 0)
        clock.advance(seconds)
        operation.end(error)
    summary = metrics.summary("session")
    assert (summary.count, summary.errors, summary.timed_out) == (3, 2, 1)
    assert summary.latency_ms.p50 == pytest.approx(100.0, rel=1e-3)
    assert summary.latency_ms.p99 == pytest.approx(60_000.0, rel=1e-3)
