"""Whether the generator notices that it is itself what is slow."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from agent.load.machine.cpu_waits import CPUWaits, cpu_waits
from agent.load.machine.overload import LOOK_SECONDS, LoopMonitor, Span
from agent.measure.timeline import LAG_BOUND_MS


def test_event_loop_that_keeps_up_has_no_lag() -> None:
    clock = Clock()
    monitor = LoopMonitor(clock)
    monitor.begin()
    clock.pump([LOOK_SECONDS] * 100)
    assert monitor.lag.count == 100
    lag_ms, _share = monitor.second()
    assert lag_ms < 1.0
    monitor.stop()
    assert clock.getDelayedCalls() == []


def test_blocked_event_loop_shows_its_lag() -> None:
    clock = Clock()
    monitor = LoopMonitor(clock)
    monitor.begin()
    clock.pump([LOOK_SECONDS] * 10)
    clock.advance(0.5)
    lag_ms, _share = monitor.second()
    assert 470.0 < lag_ms <= 500.0
    assert monitor.lag.max_us / 1000.0 == round(lag_ms, 3)
    clock.pump([LOOK_SECONDS] * 10)
    assert monitor.second()[0] < 1.0  # each second has its own


def test_measurements_before_the_run_are_not_counted() -> None:
    clock = Clock()
    monitor = LoopMonitor(clock)
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    clock.advance(30.0)
    monitor.begin()
    clock.pump([LOOK_SECONDS] * 50)
    _lag, share = monitor.second()
    assert share < 0.05
    assert len(monitor.cpu_by_second) == 1
    assert monitor.cpu_by_second[0] < 0.05
    assert monitor.cpu_s >= 0.05


def test_lag_of_a_stall_is_weighted_by_its_time() -> None:
    clock = Clock()
    monitor = LoopMonitor(clock)
    monitor.begin()
    clock.pump([LOOK_SECONDS] * 1750)  # 35 s in which nothing is wrong
    clock.advance(7.0)
    summary = monitor.lag.summary()
    assert monitor.lag.count == 1750 + 349  # 6.98 s of lag, asked every 20 ms
    assert summary.p99 is not None
    assert summary.p99 > 6000.0
    assert summary.p50 is not None
    assert summary.p50 < 1.0


class Burned:
    """CPU and waits as a test sets them."""

    cpu = 0.0
    waits = CPUWaits(0.0, 0.0, None)


def watched() -> tuple[Clock, Burned, LoopMonitor]:
    clock, burned = Clock(), Burned()
    monitor = LoopMonitor(clock, lambda: burned.cpu, lambda: burned.waits)
    monitor.begin()
    return clock, burned, monitor


def test_stall_counts_in_its_phase() -> None:
    clock, _, monitor = watched()
    monitor.enter(0)
    clock.pump([LOOK_SECONDS] * 100)
    monitor.leave(0)
    monitor.enter(1)
    clock.rightNow += 7.0  # the loop stands still, and the end of the phase is what it sees first
    monitor.leave(1)
    monitor.enter(2)
    clock.pump([LOOK_SECONDS] * 100)
    monitor.stop()
    before, stalled, after = monitor.spans
    assert (before.max_ms, after.max_ms) == (before.p99_ms, after.p99_ms)
    assert before.lagging_s == after.lagging_s == 0.0
    assert stalled.phase == 1
    assert 6.9 < stalled.lagging_s <= 7.0
    assert stalled.elapsed_s == 7.0
    assert monitor.spans == [before, stalled, after]


def test_core_share_is_cpu_over_elapsed_time() -> None:
    clock, burned, monitor = watched()
    monitor.enter(3)
    for _ in range(200):  # 4 s at 30 %
        burned.cpu += 0.3 * LOOK_SECONDS
        clock.advance(LOOK_SECONDS)
    burned.cpu += 0.5  # half a second of CPU in a stall of 7 s
    clock.advance(7.0)
    for _ in range(40):  # and what piled up, in no time: many at once are no second each
        burned.cpu += 0.001
        monitor.second()
    burned.waits = CPUWaits(2.5, 1.0, None)
    monitor.stop()
    assert max(monitor.cpu_by_second) <= 0.31
    assert len(monitor.cpu_by_second) == 11
    [span] = monitor.spans
    assert (span.busy_s, span.queued_s, span.stolen_s, span.pressed_s) == (0.0, 2.5, 1.0, None)


def test_busy_seconds_are_counted_by_their_length() -> None:
    clock, burned, monitor = watched()
    monitor.enter(0)
    burned.cpu += 4.9
    clock.advance(5.0)
    clock.pump([LOOK_SECONDS] * 100)
    monitor.leave(0)
    [span] = monitor.spans
    assert 4.9 < span.busy_s < 5.1
    assert monitor.cpu_by_second[:5] == [monitor.cpu_by_second[0]] * 5


def strained(paused: float) -> tuple[Span, LoopMonitor]:
    """A phase with lags in 2 of 30 s and a busy core in 5 of them, and then a pause in which nothing is wrong."""
    clock, burned, monitor = watched()
    monitor.enter(0)
    for _ in range(20):
        clock.advance(0.1 + LOOK_SECONDS)
    for _ in range(250):
        burned.cpu += 0.95 * LOOK_SECONDS
        clock.advance(LOOK_SECONDS)
    clock.pump([LOOK_SECONDS] * 1150)
    monitor.pauses.pause(clock.seconds())
    clock.pump([LOOK_SECONDS] * round(paused / LOOK_SECONDS))
    monitor.pauses.resume(clock.seconds())
    clock.pump([LOOK_SECONDS] * 50)
    monitor.leave(0)
    monitor.stop()
    [span] = monitor.spans
    return span, monitor


def test_a_pause_does_not_dilute_an_overload() -> None:
    (short, at_once), (long, paused) = strained(0.0), strained(200.0)
    assert short.p99_ms > LAG_BOUND_MS
    assert (long.p50_ms, long.p99_ms, long.max_ms) == (short.p50_ms, short.p99_ms, short.max_ms)
    assert long.lagging_s == short.lagging_s > 1.0
    assert long.busy_s == pytest.approx(short.busy_s)
    assert long.elapsed_s - long.paused_s == pytest.approx(short.elapsed_s)
    assert paused.lag.summary().p99 == at_once.lag.summary().p99
    assert abs(len(paused.cpu_by_second) - len(at_once.cpu_by_second)) <= 1  # a second ends where the pause begins


def test_lag_and_a_busy_core_count_during_a_pause_too() -> None:
    clock, burned, monitor = watched()
    monitor.enter(0)
    clock.pump([LOOK_SECONDS] * 500)
    monitor.pauses.pause(clock.seconds())
    clock.advance(3.0)
    for _ in range(250):
        burned.cpu += LOOK_SECONDS
        clock.advance(LOOK_SECONDS)
    monitor.leave(0)
    [span] = monitor.spans
    assert span.lagging_s > 2.9
    assert span.p99_ms > 1000.0
    assert span.busy_s > 4.9
    assert sum(share > 0.9 for share in monitor.cpu_by_second) >= 4


def test_unavailable_measurements_are_none_not_zero(tmp_path: Path) -> None:
    assert cpu_waits(tmp_path) == CPUWaits(None, None, None)
    (tmp_path / "thread-self").mkdir()
    (tmp_path / "pressure").mkdir()
    (tmp_path / "thread-self" / "schedstat").write_text("1456148 2500000000 17\n")
    (tmp_path / "stat").write_text("cpu  10 0 20 30 40 0 0 300 0 0\ncpu0 1 2 3\n")
    (tmp_path / "pressure" / "cpu").write_text("some avg10=7.50 avg60=2.96 avg300=1.89 total=1500000\nfull total=1\n")
    assert cpu_waits(tmp_path) == CPUWaits(2.5, 300 / os.sysconf("SC_CLK_TCK"), 1.5)
    for name in ("thread-self/schedstat", "stat", "pressure/cpu"):
        (tmp_path / name).write_bytes(b"\xff some cpu total=x\n")
    assert cpu_waits(tmp_path) == CPUWaits(None, None, None)
