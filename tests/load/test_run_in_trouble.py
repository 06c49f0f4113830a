"""The installed command as its operator meets it when something goes wrong: signals, a full disk, no server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from balance import check_balance
from command import COMMAND, SECONDS, lom_agent
from servers import unused_port

SCENARIO = """
[fleet]
devices = 8
segment_size = 4
[load]
workers = 2
tail = 2
[[phase]]
kind = "enroll"
[[phase]]
kind = "checkin"
by = "self"
rate = 20
duration = {seconds}
"""


def interrupted(
    folder: Path, seconds: float, act: Callable[[subprocess.Popen[bytes]], None], *arguments: str
) -> tuple[int, str]:
    """Run, ``act`` when the second phase has started; the exit status and all that was printed."""
    path = folder / "scenario.toml"
    path.write_text(SCENARIO.format(seconds=seconds))
    with subprocess.Popen(
        [COMMAND, "run", str(path), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        read = b""
        while b"checkin: started" not in read:
            line = process.stdout.readline()
            assert line, read.decode()
            read += line
        act(process)
        rest, _ = process.communicate(timeout=SECONDS)
    return process.returncode, (read + rest).decode()


def results(folder: Path) -> Any:
    """What the run left."""
    return json.loads((folder / "results.json").read_bytes())


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The worker processes."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"spawn_main" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return sorted(found)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for the workers in /proc")
def test_sessions_do_not_fail_because_the_workers_were_stopped(tmp_path: Path) -> None:
    def act(process: subprocess.Popen[bytes]) -> None:
        workers = workers_of(process)
        time.sleep(0.5)
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        time.sleep(3.0)  # longer than a session may take: this is the standstill
        for worker in workers:
            os.kill(worker, signal.SIGCONT)

    trace = tmp_path / "trace.jsonl"
    out = ("--out", str(tmp_path), "--trace", str(trace))
    _code, said = interrupted(tmp_path, 4, act, *out, "--set", "phase.checkin.timeout=2")
    document = results(tmp_path)
    assert document["complete"], said
    assert document["errors"] == [], said
    assert document["operations"]["session"]["latency_ms"]["max"] >= 2000.0, "no session met the standstill"
    check_balance(document, trace)


def test_unwritable_results_do_not_stop_the_run_or_its_summary(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def act(_process: subprocess.Popen[bytes]) -> None:
        out.rmdir()
        out.write_text("in the way")

    code, said = interrupted(tmp_path, 3, act, "--out", str(out), "--junit", str(tmp_path / "junit.xml"))
    assert code == 2, said
    assert "Traceback" not in said
    assert "checkin: finished" in said
    assert "control link" not in said
    assert "cannot be written" in said.splitlines()[-1]
    assert (tmp_path / "junit.xml").exists()


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
    assert lom_agent("report", str(tmp_path)).returncode == 0
