"""Where the results of a run go: a file of its own for each, and none that another run writes at the same time."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from command import lom_agent, lom_agent_here
from servers import unused_port
from started_runs import started_run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "arguments",
    [
        ("--junit", "{0}/one", "--trace", "{0}/one"),
        ("--junit", "{0}/one", "--trace", "{0}/link"),
        ("--out", "{0}", "--junit", "{0}/results.json"),
        ("--out", "{0}/there/..", "--trace", "{0}/report.html"),
    ],
    ids=["both", "by a link", "the results", "the report"],
)
def test_two_results_in_one_file_are_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "one")
    refused = lom_agent_here("run", *(each.format(tmp_path) for each in arguments))
    assert refused.returncode == 2
    assert b"Expected a file of its own for --" in refused.stderr
    assert b"Name another one" in refused.stderr


def test_junit_goes_into_a_device_or_a_pipe_and_leaves_it_there(tmp_path: Path) -> None:
    pipe, null = tmp_path / "pipe", tmp_path / "null"
    os.mkfifo(pipe)
    null.symlink_to("/dev/null")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    url = f"https://127.0.0.1:{unused_port()}/enroll"
    run = ("run", "--devices", "1", "--enroll", url, "--quiet", "--trace", str(null))
    try:
        done = lom_agent(*run, "--junit", str(pipe))
        assert done.returncode == 1, done.stderr
        assert b"</testsuites>" in os.read(reader, 65_536)
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    alone = lom_agent(*run, "--junit", str(pipe))  # nobody reads it: told, and not waited for
    assert alone.returncode == 2
    assert b"pipe cannot be written: No such device or address" in alone.stderr


def test_a_run_is_refused_where_another_one_writes(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    with started_run(tmp_path, 60.0, "--trace", str(trace)) as running:
        running.wait_for("checkin: started")
        for option, path, what in (("--out", tmp_path, "folder"), ("--trace", trace, "trace file")):
            refused = lom_agent("run", "--quiet", option, str(path))
            assert refused.returncode == 2
            said = f"Expected a {what} that no other run uses, found {path}, to which another run is writing."
            assert said.encode() in refused.stderr
        running.process.terminate()
        assert running.end() == 143
        assert running.results["seed"] == "lom-agent"
    again = lom_agent("run", "--quiet", "--out", str(tmp_path), "--enroll", f"https://127.0.0.1:{unused_port()}/enroll")
    assert again.returncode == 1  # let go of
