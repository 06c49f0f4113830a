"""What a process has used of the machine: CPU and memory, as far as the system tells."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from agent.unix import resource

_STATUS = Path("/proc/self/status")
_PEAK = b"VmHWM:"


def peak_kib(status: Path = _STATUS) -> int:
    """The most resident memory that this program had, in KiB; 0 where the system does not tell.

    On Linux ``ru_maxrss`` survives execve(2), so that it counts the process from which this program was started;
    ``VmHWM`` (proc_pid_status(5)) is of this program alone.
    """
    try:
        lines = status.read_bytes().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, *rest = line.split() or [b""]
        if name == _PEAK and len(rest) == 2 and rest[0].isdigit() and rest[1] == b"kB":
            return int(rest[0])
    if resource is None:
        return 0
    return resident_kib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, sys.platform)


def resident_kib(ru_maxrss: int, platform: str) -> int:
    """``ru_maxrss`` of getrusage in KiB, given ``sys.platform``.

    Source: getrusage(2): "in kilobytes" on Linux and the BSDs, "in bytes" on macOS.
    """
    return ru_maxrss // 1024 if platform == "darwin" else ru_maxrss


def cpu_seconds() -> float:
    """Seconds of CPU, user and system, of this process and of its children that have ended."""
    if resource is None:
        return sum(os.times()[:4])
    usages: list[Any] = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return float(sum(usage.ru_utime + usage.ru_stime for usage in usages))
