"""How many files a process may have open, which bounds how many Macs can be connected at once."""

from __future__ import annotations

from agent.errors import OperatorError
from agent.unix import resource

_OWN = 64  # the reactor, modules, the control link, listening sockets, files that are written, pipes to key processes
_PER_MAC = 1  # its connection to the server; it has no other one at the same time, but see _PASSING
_PASSING = 4  # for each Mac at work: a LOM link with both ends here, SCEP, a connection that is just closed
MOST_AT_ONCE = 240  # Macs at work at the same moment, for which there is room in any case


def needed(devices: int) -> tuple[int, int]:
    """How many open files one end of the connections of ``devices`` Macs cannot do without, and how many it may want."""
    least = _OWN + devices * _PER_MAC
    return least + min(devices, 16) * _PASSING, least + min(devices, MOST_AT_ONCE) * _PASSING


def allow_open_files(devices: int) -> None:
    """Raise this process's own limit to what one end of the connections of ``devices`` Macs may want.

    Where that is forbidden, to what is allowed. Raises OperatorError where the Macs cannot fit into that.
    """
    least, wanted = needed(devices)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= wanted:
        return
    if hard != unlimited and hard < least:
        fits = max((count for count in range(devices) if needed(count)[0] <= hard), default=0)
        raise OperatorError(
            f"{devices} Macs need about {least} open files in one process, but this system allows {hard}: {fits} Macs "
            "fit. Use fewer Macs (--devices), more worker processes where the server is not the embedded lab "
            "(--workers), or raise the hard limit (ulimit -Hn)."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == unlimited else min(wanted, hard), hard))
