"""How many files a process may have open, which bounds how many Macs can be connected at once."""

from __future__ import annotations

import resource

from agent.errors import OperatorError

_BASE = 256  # the reactor, libraries, LOM links in flight
_A_MAC = 2  # its connection, and the lab's end of it


def allow_open_files(devices: int) -> None:
    """Raise this process's own limit to what ``devices`` Macs need. Raises OperatorError where that is forbidden."""
    needed = _BASE + _A_MAC * devices
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        fits = max(0, (hard - _BASE) // _A_MAC)
        raise OperatorError(
            f"{devices} Macs need about {needed} open files, but the limit of this system is {hard}: at most {fits} "
            "Macs fit. Use fewer --devices, or raise the hard limit (ulimit -Hn)."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
