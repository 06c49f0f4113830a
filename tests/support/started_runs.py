"""``lom-agent run`` as a process that a test acts on while it runs: what it prints, its workers, what it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from command import COMMAND, SECONDS

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


class StartedRun:
    """One run. ``folder`` has its scenario, and with ``--out`` its results."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.said = ""

    def wait_for(self, text: str) -> None:
        """Read what the run prints until ``text`` is in it."""
        assert self.process.stdout is not None
        while text not in self.said:
            line = self.process.stdout.readline().decode()
            assert line, f"the run ended before it said {text!r}: {self.said}"
            self.said += line

    def end(self) -> int:
        """Wait for the end; the exit status."""
        rest, _ = self.process.communicate(timeout=SECONDS)
        self.said += rest.decode()
        assert "Traceback" not in self.said, self.said
        return self.process.returncode

    @property
    def results(self) -> Any:
        """What is in results.json."""
        return json.loads((self.folder / "results.json").read_bytes())

    @property
    def workers(self) -> list[int]:
        """The process ids of its workers, in their order."""
        return [pid for pid in children_of(self.process.pid) if b"spawn_main" in _read(pid, "cmdline")]


@contextmanager
def started_run(
    folder: Path,
    seconds: float,
    *arguments: str,
    scenario: str = SCENARIO,
    environment: Mapping[str, str] | None = None,
) -> Iterator[StartedRun]:
    """Start a run whose second phase takes ``seconds``, with its results in ``folder``; nothing of it is left."""
    path = folder / "scenario.toml"
    path.write_text(scenario.format(seconds=seconds))
    with subprocess.Popen(
        [COMMAND, "run", str(path), "--out", str(folder), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, env=environment,
    ) as process:  # fmt: skip
        try:
            yield StartedRun(process, folder)
        finally:
            for pid in session_of(process.pid):
                os.kill(pid, 9)


def children_of(parent: int) -> list[int]:
    """The processes whose parent this is, in the order of their ids."""
    return [pid for pid, fields in _stats() if int(fields[1]) == parent]


def session_of(leader: int) -> list[int]:
    """The processes of a session that still run."""
    return [pid for pid, fields in _stats() if int(fields[3]) == leader and fields[0] not in "ZX"]


def wait_until_gone(leader: int) -> None:
    """Wait until no process of this session runs."""
    until = time.monotonic() + SECONDS
    while left := session_of(leader):
        assert time.monotonic() < until, [(pid, _read(pid, "cmdline")) for pid in left]
        time.sleep(0.05)


def wait_for_file(path: Path) -> None:
    """Wait until a file is there."""
    until = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.05)


def _stats() -> Iterator[tuple[int, list[str]]]:
    """Of each process the fields of its ``stat`` from the state on."""
    for pid in sorted(int(entry.name) for entry in Path("/proc").glob("[0-9]*")):
        text = _read(pid, "stat").decode()
        if text:
            yield pid, text.rpartition(")")[2].split()


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
