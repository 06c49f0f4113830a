"""What ``lom-agent run --quiet`` prints: warnings on standard error, and the summary."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import lom_agent

from agent.plists import dump_xml

UNKNOWN_VARIABLE = "%Nothing%"
BROKEN_STANDARD_ERROR = """
import os
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 2)
"""


@pytest.fixture
def run_with_a_warning(tmp_path: Path) -> tuple[str, ...]:
    """The arguments of a run of two workers that both warn of the same."""
    payload = {"PayloadType": "com.example", "PayloadUUID": "A", "PayloadIdentifier": "a", "Text": UNKNOWN_VARIABLE}
    profile = {**payload, "PayloadType": "Configuration", "PayloadUUID": "B", "PayloadContent": [payload]}
    path = tmp_path / "enroll.mobileconfig"
    path.write_bytes(dump_xml(profile))
    return "run", "--devices", "2", "--segment-size", "1", "--workers", "2", "--enroll", str(path)


def test_a_quiet_run_shows_its_warnings_once_on_standard_error(run_with_a_warning: tuple[str, ...]) -> None:
    done = lom_agent(*run_with_a_warning, "--quiet")
    assert done.returncode == 1
    (warning,) = done.stderr.decode().splitlines()
    assert warning.startswith("Warning: ")
    assert UNKNOWN_VARIABLE in warning
    assert UNKNOWN_VARIABLE.encode() not in done.stdout
    assert b"enroll: started" not in done.stdout, "no progress"
    assert b"profile" in done.stdout, "the summary"


def test_a_run_that_is_not_quiet_shows_them_among_its_progress(run_with_a_warning: tuple[str, ...]) -> None:
    done = lom_agent(*run_with_a_warning)
    assert done.stderr == b""
    warnings = [line for line in done.stdout.decode().splitlines() if line.startswith("Warning: ")]
    assert sum(UNKNOWN_VARIABLE in line for line in warnings) == 1
    assert b"enroll: started" in done.stdout


def test_closed_standard_error_ends_neither_run_nor_summary(run_with_a_warning: tuple[str, ...]) -> None:
    done = lom_agent(*run_with_a_warning, "--quiet", patch=BROKEN_STANDARD_ERROR)
    assert done.returncode == 1
    assert done.stderr == b""
    assert b"profile" in done.stdout


FULL_DISK = """

from agent.errors import OperatorError
def write(directory, document):
    if not document.complete:
        raise OperatorError("the disk is full")
    return original(directory, document)
import agent.cli.results.outcome
original = agent.cli.results.outcome.write_results
agent.cli.results.outcome.write_results = write
import agent.cli.run.running
agent.cli.run.running.FIRST_CHECKPOINT_SECONDS = 0.0
"""


def test_a_checkpoint_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    run = ("run", "--devices", "1", "--workers", "1", "--quiet", "--out", str(tmp_path / "out"))
    done = lom_agent(*run, patch=FULL_DISK)
    assert done.stderr == b"Warning: the disk is full\n"
    assert (tmp_path / "out" / "results.json").exists()
