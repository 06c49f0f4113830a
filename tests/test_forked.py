"""A forked command is what the installed one is: output, exit status, environment, folder, and workers of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import installed, lom_agent

pytestmark = pytest.mark.slow

TELL = """
import os, sys
print(os.getpid(), os.getpgrp(), os.getcwd(), os.environ.get("LOM_AGENT_TEST"), file=sys.stderr, flush=True)
"""


@pytest.mark.parametrize("arguments", [["fleet", "show", "--devices", "3"], ["run", "--boot", "soon"], ["--version"]])
def test_it_prints_and_returns_the_same(arguments: list[str]) -> None:
    ours, theirs = lom_agent(*arguments), installed(*arguments)
    assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)


def test_it_and_its_workers_are_processes_of_one_group_with_the_environment_of_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOM_AGENT_TEST", "set")
    line = ("run", "--devices", "2", "--segment-size", "1", "--workers", "2", "--boot", "constant:0.1", "--quiet")
    done = lom_agent(*line, patch=TELL)
    assert done.returncode == 0, done.stderr
    reported = [line.split() for line in done.stderr.decode().splitlines()]
    processes = {process for process, *_ in reported}
    assert len(processes) == len(reported) == 3
    assert reported[0][0] == reported[0][1], "the command leads the group"
    assert [rest for _, *rest in reported] == [[reported[0][0], str(tmp_path), "set"]] * 3


def test_uncaught_exception_is_printed_and_fails_the_command() -> None:
    done = lom_agent("fleet", "show", patch="raise RuntimeError('unheard of')")
    assert done.returncode == 1
    assert b"RuntimeError: unheard of" in done.stderr
