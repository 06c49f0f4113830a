"""What a process has used: its own, not that of the process that started it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command import COMMAND

from agent.processes import cpu_seconds, peak_kib, resident_kib

LARGE = """
import subprocess, sys
large = bytearray(b"x") * (260 * 1024 * 1024)
sys.exit(subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell ru_maxrss alone")
def test_a_large_parent_does_not_count_as_memory_of_the_run(tmp_path: Path) -> None:
    line = ["run", "--devices", "1", "--workers", "1", "--boot", "constant:0.1", "--quiet", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", LARGE, COMMAND, *line], check=False, timeout=120)
    assert done.returncode == 0
    document = json.loads((tmp_path / "results.json").read_bytes())
    assert 20 * 1024 < document["resources"]["max_rss_kib"] < 240 * 1024
    assert 20 * 1024 < document["generator"]["workers"][0]["max_rss_kib"] < 240 * 1024


def test_without_proc_the_peak_is_that_of_getrusage(tmp_path: Path) -> None:
    assert peak_kib(tmp_path / "missing") > 1024
    (tmp_path / "status").write_bytes(b"VmPeak:\t 9 kB\nVmHWM:\t  4711 kB\n")
    assert peak_kib(tmp_path / "status") == 4711


def test_resident_memory_is_bytes_on_macos_and_kib_elsewhere() -> None:
    assert resident_kib(3 * 1024 * 1024, "darwin") == 3 * 1024
    assert resident_kib(3 * 1024, "linux") == 3 * 1024


def test_cpu_grows_with_work() -> None:
    before = cpu_seconds()
    assert sum(number * number for number in range(300_000))
    assert cpu_seconds() > before
