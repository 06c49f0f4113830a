"""Where the results of a run go: a file of its own for each, and none that another run writes at the same time."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import xml.etree.ElementTree as ET
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
    alone = lom_agent(*run, "--junit", str(pipe))  # without a reader: an error, and no wait
    assert alone.returncode == 2
    assert b"pipe cannot be written: No such device or address" in alone.stderr


def test_a_run_is_refused_where_another_one_writes(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    with started_run(tmp_path, 60.0, "--trace", str(trace)) as running:
        running.wait_for("checkin: started")
        for option, path, what in (("--out", tmp_path, "folder"), ("--trace", trace, "trace file")):
            refused = lom_agent("run", "--quiet", option, str(path))
            assert refused.returncode == 2
            text = f"Expected a {what} that no other run uses, found {path}, to which another run is writing."
            assert text.encode() in refused.stderr
        running.process.send_signal(signal.SIGTERM)
        assert running.end() == 143
        assert running.results["seed"] == "lom-agent"
    again = lom_agent("run", "--quiet", "--out", str(tmp_path), "--enroll", f"https://127.0.0.1:{unused_port()}/enroll")
    assert again.returncode == 1  # let go of


@pytest.mark.parametrize(
    "scenario", ["none.toml", "invalid.toml", "--set", "--enroll"], ids=["missing", "invalid", "override", "option"]
)
def test_a_run_whose_input_is_wrong_leaves_no_verdict_of_an_earlier_one(tmp_path: Path, scenario: str) -> None:
    out, inputs = tmp_path / "out", tmp_path / "in"
    out.mkdir()
    inputs.mkdir()
    (inputs / "invalid.toml").write_text("[fleet]\ndevices = 0\n")
    files = [out / name for name in ("results.json", "report.html", "junit.xml")]
    for file in files:
        file.write_text("of an earlier run, which passed")
    wrong = {"--set": ("--set", "fleet.devices=none"), "--enroll": ("--enroll", str(inputs / "none.mobileconfig"))}
    arguments = wrong.get(scenario, (str(inputs / scenario),))
    refused = lom_agent_here("run", *arguments, "--out", str(out), "--junit", str(files[2]))
    assert refused.returncode == 2
    assert list(out.iterdir()) == []


def test_a_run_that_cannot_start_leaves_no_verdict_of_an_earlier_one(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("results.json", "report.html", "junit.xml")]
    for file in files:
        file.write_text("of an earlier run, which passed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        run = ("run", "--devices", "1", "--out", str(tmp_path), "--junit", str(files[2]), "--prometheus", address)
        refused = lom_agent(*run)
    assert refused.returncode == 2
    assert address.encode() in refused.stderr
    assert list(tmp_path.iterdir()) == []


FULL = """
import errno, os
replace = os.replace
def full(source, target, **options):
    if str(target).endswith("{0}"):
        raise OSError(errno.ENOSPC, "No space left on device", target)
    return replace(source, target, **options)
os.replace = full
"""


@pytest.mark.parametrize("name", ["report.html", "junit.xml"])
def test_the_results_say_that_another_file_could_not_be_written(tmp_path: Path, name: str) -> None:
    out, junit = tmp_path / "out", tmp_path / "junit.xml"
    run = ("run", "--devices", "2", "--segment-size", "2", "--quiet", "--out", str(out), "--junit", str(junit))
    done = lom_agent(*run, patch=FULL.format(name))
    assert done.returncode == 2
    outcome = json.loads((out / "results.json").read_bytes())["outcome"]
    assert outcome["exit_status"] == 2
    [reason] = outcome["reasons"]
    assert f"{name} cannot be written: No space left on device" in reason
    assert done.stdout.count(b"results.json") == 1
    if name != "junit.xml":
        [error] = ET.parse(junit).findall(".//error")
        assert error.get("message") == reason
