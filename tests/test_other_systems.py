"""Systems without the Unix modules: the command starts, and its error names what is not supported there."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import with_patch

MISSING = """
import sys
for name in ("resource", "fcntl", "termios", "pwd", "grp", "tty", "pty"):
    sys.modules[name] = None
import os, signal
for name in ("SIGHUP", "pthread_sigmask"):
    delattr(signal, name)
del os.sched_getaffinity
"""


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["fleet", "show", "--devices", "1"]])
def test_command_starts_without_unix_modules(tmp_path: Path, arguments: list[str]) -> None:
    done = with_patch(tmp_path, MISSING, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""


@pytest.mark.parametrize("command", [["run"], ["lab"], ["lom-device", "--seed", "s"]])
def test_command_that_needs_unix_reports_it(tmp_path: Path, command: list[str]) -> None:
    done = with_patch(tmp_path, MISSING, *command)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("lom-agent: Expected Linux or macOS")
