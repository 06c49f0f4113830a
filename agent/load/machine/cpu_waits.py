"""How long this thread, and the whole machine, waited for a CPU, as the operating system counts it.

Read from Linux's ``/proc``. A figure that the system does not have is None, never 0: a wait that was not measured is
not a wait of 0 s.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

_PROC = Path("/proc")
_MOST_BYTES = 4096  # that are read of a file; the figures are in its first line


class CPUWaits(msgspec.Struct, frozen=True):
    """Seconds since a fixed moment: only the difference of two readings has a meaning."""

    queued: float | None
    """This thread was ready to run and waited in the run queue."""
    stolen: float | None
    """The hypervisor kept a CPU of this machine from running, summed over all CPUs."""
    pressed: float | None
    """At least one task of this machine waited for a CPU (PSI, "some")."""


def cpu_waits(proc: Path = _PROC) -> CPUWaits:
    """The figures now, for the calling thread."""
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
