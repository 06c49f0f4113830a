"""What this machine allows a run: cores, and open files for the connections of the Macs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from agent.errors import OperatorError
from agent.net.lom.networks import INTERFACE, parse_network
from agent.unix import resource

if TYPE_CHECKING:
    from agent.scenario.types import Scenario  # a service starts without scenarios

_OWN_FILES = 64  # the reactor, modules, the control link, listening sockets, output files, pipes to key processes
_ACTIVE_MACS = 64  # Macs that communicate at the same moment
_FILES_PER_ACTIVE_MAC = 3  # both ends of a LOM link, and a connection that is being closed or SCEP's
_SPARE_FILES = 1024  # beyond one for each Mac, if the system allows it: more Macs may be active


def needed(devices: int, each: int = 1) -> int:
    """The least number of open files for a process with ``devices`` Macs that keep ``each`` sockets open."""
    return _OWN_FILES + devices * each + min(devices, _ACTIVE_MACS) * _FILES_PER_ACTIVE_MAC


def fitting(limit: int, each: int = 1) -> int:
    """The largest number of Macs for which ``needed`` is not above ``limit``."""
    many = (limit - _OWN_FILES - _ACTIVE_MACS * _FILES_PER_ACTIVE_MAC) // each
    return many if many >= _ACTIVE_MACS else max(0, (limit - _OWN_FILES) // (each + _FILES_PER_ACTIVE_MAC))


def allow_open_files(devices: int, each: int = 1) -> None:
    """Raise this process's soft limit of open files to what one end of the connections of ``devices`` Macs may need.

    The hard limit bounds it. Raises OperatorError if the Macs do not fit into the hard limit.
    """
    least = needed(devices, each)
    wanted = _SPARE_FILES + devices * each
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
    """The number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def workers_of(scenario: Scenario, *, elsewhere: bool = False) -> int:
    """The number of workers of a scenario. Raises OperatorError if there is no such number.

    On one machine a LOM network on interfaces allows one; workers ``elsewhere`` have interfaces of their own.
    """
    wanted = scenario.load.workers
    if elsewhere:
        if not wanted:
            raise OperatorError(
                "Expected the number of workers on other machines, found none. Give --workers N, or set load.workers."
            )
        return wanted
    if parse_network(scenario.lom.network).kind == INTERFACE:
        if wanted > 1:
            raise OperatorError(
                f"Expected load.workers = 1 with lom.network = {scenario.lom.network!r}, found {wanted}: the addresses "
                "of an interface belong to one process. Set load.workers to 1, or leave it out."
            )
        return 1
    embedded = scenario.server.adapter == "lab" and scenario.server.lab is None
    return wanted or max(1, cores() - embedded)  # the embedded lab takes a core of its own
