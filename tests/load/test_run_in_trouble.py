"""The installed command as its operator meets it when something goes wrong: signals, a full disk, no server."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from balance import check_balance
from command import lom_agent, lom_agent_here
from servers import unused_port
from started_runs import started_run


def results(folder: Path) -> Any:
    """What the run left."""
    return json.loads((folder / "results.json").read_bytes())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for the workers in /proc")
def test_sessions_do_not_fail_because_the_workers_were_stopped(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    with started_run(tmp_path, 4, "--trace", str(trace), "--set", "phase.checkin.timeout=6") as run:
        run.wait_for("checkin: started")
        time.sleep(0.5)
        for worker in run.workers:
            os.kill(worker, signal.SIGSTOP)
        time.sleep(7.0)  # longer than a session may take: this is the standstill
        for worker in run.workers:
            os.kill(worker, signal.SIGCONT)
        run.end()
    document = run.results
    assert document["complete"], run.said
    assert document["errors"] == [], run.said
    assert document["operations"]["session"]["latency_ms"]["max"] >= 6000.0, "no session met the standstill"
    check_balance(document, trace)


def test_unwritable_results_do_not_stop_the_run_or_its_summary(tmp_path: Path) -> None:
    out = tmp_path / "out"
    junit = tmp_path / "junit.xml"
    with started_run(tmp_path, 3, "--out", str(out), "--junit", str(junit)) as run:
        run.wait_for("checkin: started")
        out.rename(tmp_path / "moved")
        out.write_text("in the way")
        assert run.end() == 2, run.said
    assert "checkin: finished" in run.said
    assert "control link" not in run.said
    assert "cannot be written" in run.said.splitlines()[-1]
    assert junit.exists()


def test_unreachable_server_gives_a_failed_run_with_results(tmp_path: Path) -> None:
    url = f"https://127.0.0.1:{unused_port()}/enroll"
    done = lom_agent("run", "--devices", "5", "--enroll", url, "--out", str(tmp_path), "--workers", "2")
    assert done.returncode == 1, done.stdout
    assert done.stderr == b""
    document = results(tmp_path)
    assert document["complete"]
    assert [(error["operation"], error["kind"], error["count"]) for error in document["errors"]] == [
        ("enroll", "connect", 5)
    ]
    assert lom_agent_here("report", str(tmp_path)).returncode == 0
