"""How many files a process may have open, which bounds how many Macs can be connected at once."""

from __future__ import annotations

from agent.errors import OperatorError
from agent.unix import resource

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
