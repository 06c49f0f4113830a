"""Runs that workers join: the conductor, its workers, and what they leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forked import Forked
from started_runs import SCENARIO, StartedRun, started_run, wait_for_file


@contextmanager
def listening_run(
    folder: Path, seconds: float, *arguments: str, address: str = "127.0.0.1", patch: str = "", scenario: str = SCENARIO
) -> Iterator[StartedRun]:
    """A run that waits for two workers; its join file is in ``folder``."""
    file = folder / "join.json"
    options = ("--listen", f"{address}:0", "--join-file", str(file), "--trace", str(folder / "trace.jsonl"))
    with started_run(folder, seconds, *options, *arguments, scenario=scenario, patch=patch) as run:
        wait_for_file(file)
        yield run


def worker(folder: Path, *arguments: str, patch: str = "") -> Forked:
    """A worker with the join file of the run; ``patch`` is executed first in its process."""
    return Forked("worker", "--join-file", str(folder / "join.json"), *arguments, mixed=True, patch=patch)


def ended(process: Forked) -> tuple[int, str]:
    """The exit status of a worker, and what it said."""
    said, _ = process.communicate()
    return process.wait(), said.decode()


def enrolled(folder: Path) -> list[str]:
    """The Macs of the enrollments in the trace."""
    lines = [json.loads(line) for line in (folder / "trace.jsonl").read_text().splitlines()]
    return [line["device"] for line in lines if line["operation"] == "enroll"]


def lost(document: Any, number: int) -> Any:
    """What the results say of a lost worker."""
    return document["generator"]["workers"][number]["lost"]
