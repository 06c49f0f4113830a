"""The limit of open files: what a fleet needs, and runs with a low hard limit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from command import lom_agent
from hypothesis import given
from hypothesis import strategies as st

from agent.load.machine import fitting, needed


@given(st.integers(0, 100_000), st.integers(1, 2))
def test_as_many_macs_fit_as_need_no_more_than_the_limit(limit: int, each: int) -> None:
    fits = fitting(limit, each)
    assert fits == 0 or needed(fits, each) <= limit
    assert needed(fits + 1, each) > limit


def limited(limit: int, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command under a hard limit."""
    set_limit = f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
    return lom_agent("run", *arguments, patch=set_limit)


def test_a_small_fleet_runs_under_the_usual_hard_limit(tmp_path: Path) -> None:
    done = limited(1024, "--devices", "10", "--quiet", "--workers", "1", "--out", str(tmp_path))
    assert done.stderr == b""
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("devices", ["800", "5000"])
def test_a_fleet_that_cannot_fit_is_refused_before_it_begins(devices: str) -> None:
    done = limited(1024, "--devices", devices)
    assert done.returncode == 2
    assert b"this system allows 1024: 768 Macs fit" in done.stderr
