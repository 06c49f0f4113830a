"""The limit of open files: what a fleet needs, and runs with a low hard limit."""

from __future__ import annotations

import subprocess

import pytest
from command import lom_agent
from hypothesis import given
from hypothesis import strategies as st

from agent.load.machine.limits import fitting, needed


@given(st.integers(0, 100_000), st.integers(1, 2))
def test_fitting_macs_need_at_most_the_open_file_limit(limit: int, each: int) -> None:
    fits = fitting(limit, each)
    assert fits == 0 or needed(fits, each) <= limit
    assert needed(fits + 1, each) > limit


def limited(limit: int, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command under a hard limit."""
    set_limit = f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
    return lom_agent("run", *arguments, patch=set_limit)


def test_small_fleet_fits_in_a_common_hard_limit() -> None:
    done = limited(1024, "--devices", "3", "--quiet", "--workers", "1", "--boot", "constant:0.1")
    assert done.stderr == b""
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("devices", ["800", "5000"])
def test_fleet_above_the_open_file_limit_is_refused_before_it_starts(devices: str) -> None:
    done = limited(1024, "--devices", devices)
    assert done.returncode == 2
    assert b"this system allows 1024: 768 Macs fit" in done.stderr
