"""``lom-agent run`` as a process that a test acts on while it runs: what it prints, its workers, what it leaves."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

from forked import SECONDS, Forked

MACS, RATE = 4, 10
SCENARIO = f"""
[fleet]
devices = {MACS}
segment_size = 2
[load]
workers = 2
tail = 2
[[phase]]
kind = "enroll"
[[phase]]
kind = "checkin"
by = "self"
rate = {RATE}
duration = {{seconds}}
"""


class StartedRun:
    """One run. ``folder`` has its scenario, and with ``--out`` its results."""

    def __init__(self, process: Forked, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.said = ""

    def wait_for(self, text: str) -> None:
        """Read what the run prints until ``text`` is in it."""
        late = Timer(SECONDS, self.process.kill)
        late.start()
        try:
            while text not in self.said:
                line = self.process.stdout.readline().decode()
                assert line, f"the run ended before it said {text!r}: {self.said}"
                self.said += line
        finally:
            late.cancel()

    def end(self) -> int:
        """Wait for the end; the exit status."""
        rest, _ = self.process.communicate(timeout=SECONDS)
        self.said += rest.decode()
        assert "Traceback" not in self.said, self.said
        return self.process.wait(SECONDS)

    @property
    def results(self) -> Any:
        """What is in results.json."""
        return json.loads((self.folder / "results.json").read_bytes())

    @property
    def workers(self) -> list[int]:
        """The process ids of its workers, in their order."""
        return [pid for pid in processes_of(self.process.pid) if pid != self.process.pid]


@contextmanager
def started_run(
    folder: Path,
    seconds: float,
    *arguments: str,
    scenario: str = SCENARIO,
    patch: str = "",
) -> Iterator[StartedRun]:
    """Start a run whose second phase takes ``seconds``, with its results in ``folder``; nothing of it is left.

    ``patch`` is executed first in each of its processes.
    """
    path = folder / "scenario.toml"
    path.write_text(scenario.format(seconds=seconds))
    with Forked("run", str(path), "--out", str(folder), *arguments, mixed=True, patch=patch) as process:
        yield StartedRun(process, folder)


def processes_of(group: int) -> list[int]:
    """The processes of a process group that still run, in the order of their ids."""
    return [pid for pid, fields in _stats() if int(fields[2]) == group and fields[0] not in "ZX"]


def wait_until_gone(group: int) -> None:
    """Wait until no process of this process group runs."""
    until = time.monotonic() + SECONDS
    while left := processes_of(group):
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
