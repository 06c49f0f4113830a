"""A load generator that stands still, as its operator sees it: real processes, a lab in a process of its own."""

from __future__ import annotations

import json
import signal
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import lom_agent
from forked import Forked

SCENARIO = """
limits = ["session.p99 < 5s", "session.errors == 0", "enroll.errors == 0"]
[fleet]
devices = 8
segment_size = 4
[server]
adapter = "none"
enroll = "{url}/enroll"
ca = ["{ca}"]
[load]
workers = 2
[[phase]]
kind = "enroll"
concurrency = 4
[[phase]]
name = "look"
kind = "checkin"
by = "self"
rate = 20
duration = 9
"""

# A call that blocks, in the second phase of one worker: its event loop stands still for 7 s, and takes next to no CPU.
STALL = """
import time
from agent.load.shard.shard import Shard

start = Shard._start

def stalled(self, number):
    start(self, number)
    if number == 1 and self._plan.shard == 1:
        self._reactor.callLater(0.5, time.sleep, 7)

Shard._start = stalled
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The URL and the CA of a lab in a process of its own."""
    folder = tmp_path / "lab"
    with Forked("lab", "--out", str(folder), mixed=True) as running:
        url = ""
        for line in map(bytes.decode, running.stdout):
            url = line.partition(":")[2].strip() if line.startswith("MDM server") else url
            if line.startswith("Ctrl-C"):
                break
        yield url, folder / "ca.pem"
        running.send_signal(signal.SIGINT)
        running.communicate()


def test_stopped_worker_is_reported_as_overloaded(tmp_path: Path, lab: tuple[str, Path]) -> None:
    path, out, junit = tmp_path / "scenario.toml", tmp_path / "out", tmp_path / "junit.xml"
    path.write_text(SCENARIO.format(url=lab[0], ca=lab[1]))
    done = lom_agent("run", str(path), "--quiet", "--out", str(out), "--junit", str(junit), patch=STALL)
    document: Any = json.loads((out / "results.json").read_bytes())

    assert document["complete"], done.stderr
    overloaded = {(each["phase"], each["worker"], each["kind"]) for each in document["generator"]["overloaded"]}
    assert {("look", 1, "process"), ("look", 1, "late")} <= overloaded
    stalled = document["generator"]["workers"][1]
    [span] = [each for each in stalled["phases"] if each["phase"] == "look"]
    assert span["lagging_s"] > 6.5
    assert span["lag_ms"]["p99"] > 5000
    assert span["busy_s"] < span["elapsed_s"] / 2
    assert 0 < span["late"] <= span["started"]

    judged = {limit["limit"]: limit for limit in document["limits"]}
    assert (judged["session.p99 < 5s"]["ok"], judged["session.p99 < 5s"]["reliable"]) == (False, False)
    assert judged["session.errors == 0"]["ok"]
    assert (done.returncode, document["outcome"]["exit_status"]) == (1, 1)
    [failure] = ET.fromstring(junit.read_bytes()).findall("testsuite/testcase/failure")
    assert failure.get("type") == "not judged"

    printed = " ".join(done.stdout.decode().split())
    assert "Phase look, worker 1: the event loop lagged by " in printed
    assert "could not be judged reliably: the load generator was overloaded." in printed
    assert "All good" not in printed
    assert "kept up" not in printed
