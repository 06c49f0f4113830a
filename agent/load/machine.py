"""What the operating system says of waiting for a CPU: how long this thread did, and what the whole machine had to.

Read from Linux's ``/proc``. Where a file or a system does not have a figure it is None, never 0: not measured is not
"did not wait".
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from agent.errors import OperatorError
from agent.net.lom.networks import INTERFACE, parse_network
from agent.scenario.types import Scenario
from agent.unix import resource

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


_OWN = 64  # the reactor, modules, the control link, listening sockets, files that are written, pipes to key processes
_AT_WORK = 64  # Macs at the same moment, each with …
_WHILE_AT_WORK = 3  # … both ends of a LOM link and a connection that is just closed, or SCEP's
_ROOM = 1024  # beyond one for each Mac, where the system allows it: rates may have more Macs at work than _AT_WORK


def needed(devices: int, each: int = 1) -> int:
    """How many open files the process of so many Macs cannot do without, with so many sockets that each Mac keeps."""
    return _OWN + devices * each + min(devices, _AT_WORK) * _WHILE_AT_WORK


def fitting(limit: int, each: int = 1) -> int:
    """How many Macs fit into a limit: the most whose need is not above it."""
    many = (limit - _OWN - _AT_WORK * _WHILE_AT_WORK) // each
    return many if many >= _AT_WORK else max(0, (limit - _OWN) // (each + _WHILE_AT_WORK))


def allow_open_files(devices: int, each: int = 1) -> None:
    """Raise this process's own limit to what one end of the connections of ``devices`` Macs may want.

    Where that is forbidden, to what is allowed. Raises OperatorError where the Macs cannot fit into that.
    """
    least = needed(devices, each)
    wanted = _ROOM + devices * each
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= wanted:
        return
    if hard != unlimited and hard < least:
        raise OperatorError(
            f"{devices} Macs need about {least} open files in one process, but this system allows {hard}: "
            f"{fitting(hard, each)} Macs fit. Use fewer Macs (--devices), more worker processes where the server is "
            "not the embedded lab (--workers), or raise the hard limit (ulimit -Hn)."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == unlimited else min(wanted, hard), hard))


def cores() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def workers_of(scenario: Scenario) -> int:
    """How many workers the scenario asks for. Raises OperatorError where its LOM network allows one only."""
    wanted = scenario.load.workers
    if parse_network(scenario.lom.network).kind == INTERFACE:
        if wanted > 1:
            raise OperatorError(
                f"load.workers should be 1 with lom.network = {scenario.lom.network!r}, but is {wanted}: one process "
                "has an interface's addresses"
            )
        return 1
    return wanted or cores()
