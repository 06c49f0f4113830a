"""What the operating system says of waiting for a CPU: how long this thread did, and what the whole machine had to.

Read from Linux's ``/proc``. Where a file or a system does not have a figure it is None, never 0: not measured is not
"did not wait".
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_MOST_BYTES = 4096  # of a file; the figures are in the first line


@dataclass(frozen=True, slots=True)
class CPUWaits:
    """Seconds since some moment that stays the same; only differences between two readings mean something.

    ``queued``: this thread was ready to run and waited in the run queue. ``stolen``: the hypervisor kept a CPU of this
    machine from running, summed over all CPUs. ``pressed``: some task of this machine waited for a CPU (PSI).
    """

    queued: float | None
    stolen: float | None
    pressed: float | None


def cpu_waits(proc: Path = _PROC) -> CPUWaits:
    """The figures now, for the thread that asks."""
    return CPUWaits(_queued(proc), _stolen(proc), _pressed(proc))


def _queued(proc: Path) -> float | None:
    """Source: Linux, Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat: the second number, in ns."""
    line = _first_line(proc / "thread-self" / "schedstat") or _first_line(proc / "self" / "schedstat")
    return _number(line.split(), 1, 1e-9)


def _stolen(proc: Path) -> float | None:
    """Source: proc_stat(5): the eighth number of the line "cpu", in clock ticks."""
    words = _first_line(proc / "stat").split()
    if words[:1] != ["cpu"]:
        return None
    return _number(words, 8, 1.0 / os.sysconf("SC_CLK_TCK"))


def _pressed(proc: Path) -> float | None:
    """Source: Linux, Documentation/accounting/psi.rst: "some … total=" in µs."""
    words = _first_line(proc / "pressure" / "cpu").split()
    totals = [word.removeprefix("total=") for word in words if word.startswith("total=")]
    return _number(totals, 0, 1e-6) if words[:1] == ["some"] else None


def _number(words: list[str], position: int, unit: float) -> float | None:
    try:
        return int(words[position]) * unit
    except (IndexError, ValueError):
        return None


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("ascii", "replace").partition("\n")[0]
    except OSError:
        return ""
