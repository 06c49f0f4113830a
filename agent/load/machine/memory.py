"""The memory that the idle Macs of a worker may keep, so that their next session costs less CPU time."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

MACHINE_SHARE = 1 / 8  # of the machine's memory, for all workers; our choice
MIB = 1024 * 1024
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # Linux, cgroups(7), version 2: a number or "max"


def memory_of_worker(mebibytes: float | None, workers: int) -> int:
    """The bytes for one of ``workers``, from ``load.memory``; None is MACHINE_SHARE of the machine."""
    if mebibytes is None:
        return int(_machine_memory() * MACHINE_SHARE) // workers
    return int(mebibytes * MIB) // workers


def _machine_memory() -> int:
    """The bytes of memory that processes on this machine, or in this container, may use."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):
        memory = min(memory, int(_CGROUP_LIMIT.read_text()))
    return memory
