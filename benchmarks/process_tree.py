"""CPU time and memory of a run's processes by role, from the kernel's accounting (Linux's /proc)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

_NANOSECONDS = 1e9
ROLES = ("conductor", "workers", "keys")
"""The process that was started; its children, which have the Macs; their children, which make RSA keys."""


@dataclass
class Mark:
    """The CPU seconds of each process so far, and its role. Processes that have ended keep what they had."""

    seconds: dict[int, float] = field(default_factory=dict)
    role: dict[int, str] = field(default_factory=dict)

    def since(self, before: Mark) -> dict[str, float]:
        """The CPU seconds of each role between ``before`` and this mark."""
        used = dict.fromkeys(ROLES, 0.0)
        for pid, seconds in self.seconds.items():
            used[self.role[pid]] += seconds - before.seconds.get(pid, 0.0)
        return used


class ProcessTree:
    """The processes of a run that was started as process ``root``."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._last = Mark()

    def mark(self) -> Mark:
        """What each process has used so far."""
        mark = Mark(dict(self._last.seconds), dict(self._last.role))
        for depth, pids in enumerate(self._generations()):
            for pid in pids:
                used = _cpu_seconds(pid)
                if used is not None:
                    mark.seconds[pid] = used
                    mark.role[pid] = ROLES[min(depth, len(ROLES) - 1)]
        self._last = mark
        return mark

    def pss_kib(self) -> int:
        """The proportional set size of all workers, in KiB."""
        return sum(map(_pss_kib, self._generations()[1]))

    def _generations(self) -> list[list[int]]:
        """The process, its children, and their descendants."""
        parents: dict[int, list[int]] = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                parent = _parent(int(name))
                if parent is not None:
                    parents.setdefault(parent, []).append(int(name))
        generations, these = [], [self._root]
        while these:
            generations.append(these)
            these = [child for one in these for child in parents.get(one, ())]
        return generations + [[]] * (2 - len(generations))


def _fields(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return None


def _parent(pid: int) -> int | None:
    fields = _fields(pid)
    return None if fields is None else int(fields[1])


def _cpu_seconds(pid: int) -> float | None:
    """The time on a CPU of all threads that exist; exact, where the times of ``stat`` are in hundredths."""
    try:
        threads = [Path(f"/proc/{pid}/task/{thread}/schedstat") for thread in os.listdir(f"/proc/{pid}/task")]
        return sum(int(each.read_text().split()[0]) for each in threads) / _NANOSECONDS
    except OSError:
        return None


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
