"""The system's wall clock is set while a run goes on: nothing waits for it, and nothing takes an hour by it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from started_runs import RATE, started_run

from agent.net.timing import RunClock, make_monotonic
from agent.push.requests import Provider, PushPolicy, judge_request

JUMP = """
import os, settable_clock
settable_clock.ahead = lambda: {shift} if os.path.exists({file!r}) else 0.0
"""


@pytest.mark.parametrize("shift", [-3600, 3600])
def test_wall_clock_jump_changes_no_timer_and_no_latency(tmp_path: Path, shift: int) -> None:
    jump, trace = tmp_path / "jump", tmp_path / "trace.jsonl"
    patch = JUMP.format(shift=shift, file=str(jump))
    with started_run(tmp_path, 3, "--trace", str(trace), "--workers", "1", patch=patch) as run:
        run.wait_for("checkin: started")
        jump.touch()
        assert run.end() == 0, run.said
    document = run.results
    assert document["complete"]
    assert document["errors"] == []
    phase = document["phases"][1]  # on a busy machine a Mac may be in a session when it is due again
    assert (phase["done"], phase["planned"]) == (3 * RATE - phase["dropped"], 3 * RATE)
    assert document["operations"]["session"]["count"] == phase["done"] > 0
    assert document["operations"]["session"]["latency_ms"]["max"] < 600_000
    assert document["operations"]["session"]["rate_per_s"] > 0.1
    assert document["duration_s"] < 600
    times = [datetime.fromisoformat(json.loads(line)["time"]) for line in trace.read_text().splitlines()]
    assert max(times) - min(times) < timedelta(minutes=10)


class TwoClocks:
    """A reactor's seconds and the system's wall clock, each as the test sets it."""

    def __init__(self) -> None:
        self.ticks, self.wall = 5.0, 1_000_000.0

    def seconds(self) -> float:
        return self.ticks

    def callLater(self, *_arguments: object) -> None:  # pragma: no cover - nobody waits for it
        raise AssertionError


def test_dates_of_a_run_count_from_its_start() -> None:
    two = TwoClocks()
    clock = RunClock(two, lambda: two.wall)  # type: ignore[arg-type]
    assert (clock(), clock.ahead()) == (1_000_000.0, 0.0)
    two.ticks, two.wall = 15.0, 996_410.0
    assert (clock(), clock.ahead()) == (1_000_010.0, -3600.0)
    clock.synchronise(1_999_985.0)
    two.ticks = 16.0
    assert clock() == 2_000_001.0


def test_apns_expiration_is_compared_with_the_current_wall_clock() -> None:
    fields = [(":method", "POST"), (":path", "/3/device/" + "00" * 32), ("apns-expiration", "996500")]
    provider = Provider("com.apple.mgmt.External.test", certified=True)
    request = judge_request(fields, b'{"mdm":"magic"}', provider, PushPolicy(), 1_000_010.0, -3600.0)
    assert request.expires == 1_000_100.0


def test_reactor_uses_monotonic_time() -> None:
    import time

    class Reactor:
        seconds = staticmethod(time.time)

    assert make_monotonic(Reactor()).seconds is time.monotonic
