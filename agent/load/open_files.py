"""How many files a process may have open, which bounds how many Macs can be connected at once."""

from __future__ import annotations

import resource

from agent.errors import OperatorError

_BASE = 1024  # the reactor, libraries, and what is open for a moment only: check-ins, LOM links, SCEP


def allow_open_files(devices: int) -> None:
    """Raise this process's own limit to what one end of the connections of ``devices`` Macs needs.

    Raises OperatorError where that is forbidden.
    """
    needed = _BASE + devices
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        fits = max(0, hard - _BASE)
        raise OperatorError(
            f"{devices} Macs need about {needed} open files in one process, but this system allows {hard}: {fits} Macs "
            "fit. Use fewer Macs (--devices), more worker processes where the server is not the embedded lab "
            "(--workers), or raise the hard limit (ulimit -Hn)."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
