"""Enrolls the Macs of the start with the profile of ``--enroll``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from agent.errors import LomAgentError
from agent.service.fleet import FleetService
from agent.service.macs.groups import MacHandle
from agent.service.types import Enroll

ENROLL_AT_ONCE = 8  # in each process; ours
ENROLL_SECONDS = 600.0  # for each of them; ours
_log = Logger()


def enroll_start(service: FleetService, stopped: Callable[[], bool], warn: Callable[[str], object]) -> None:
    """Begin to enroll every Mac that is not enrolled, until ``stopped``. ``warn`` is told of each that does not."""

    async def enroll(handle: MacHandle) -> None:
        if stopped() or handle.removed or handle.client.enrolled:
            return
        try:
            await service.actions.enroll(handle, Enroll(timeout=ENROLL_SECONDS))
        except LomAgentError as error:
            if not stopped():
                warn(f"{handle.udid} did not enroll: {error}")

    async def enroll_next(handles: Iterator[MacHandle]) -> None:
        for handle in handles:  # those of one iterator: each Mac once
            await enroll(handle)

    handles = iter([handle for handle in service.macs() if not handle.client.enrolled])
    for _ in range(ENROLL_AT_ONCE):
        Deferred.fromCoroutine(enroll_next(handles)).addErrback(_defect)


def _defect(failure: Failure) -> None:
    _log.failure("the Macs of the start could not be enrolled", failure)
