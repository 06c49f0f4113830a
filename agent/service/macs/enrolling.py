"""The enrollments in progress of a service's Macs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from agent.errors import CutShort, PeerError
from agent.net.mac.client import MDMClient
from agent.net.timing import Clock, OutOfTime, Stalls, within
from agent.service.errors import Conflict
from agent.service.macs.groups import MacHandle

StartEnrollment = Callable[[MDMClient], Coroutine[Any, Any, None]]
"""Starts the enrollment of a Mac."""


class EnrollmentTimedOut(PeerError):
    """A Mac did not enroll in the time that the request allows."""

    kind = "enroll_timeout"
    timed_out = True


class Enrollments:
    """At most one for each Mac. Time limits do not count the ``stalls`` of the event loop."""

    def __init__(self, reactor: Clock, stalls: Stalls) -> None:
        self._reactor = reactor
        self._stalls = stalls
        self._running: dict[str, Deferred[None]] = {}

    def __contains__(self, udid: object) -> bool:
        """Whether the Mac with this UDID enrolls now."""
        return udid in self._running

    def cancel(self, udid: str) -> None:
        """End an enrollment in progress, if there is one."""
        running = self._running.get(udid)
        if running is not None:
            running.cancel()

    async def enroll(self, handle: MacHandle, start: StartEnrollment, seconds: float) -> None:
        """Enroll as ``start`` does. Raises PeerError and Conflict."""
        udid = handle.udid
        if udid in self._running:
            raise Conflict(f"Expected a Mac that does not enroll, found that {udid} enrolls now. Wait until it has.")
        await self._run(udid, start(handle.client), seconds)

    async def resume(self, handle: MacHandle, seconds: float) -> None:
        """Continue an enrollment that another process began. Raises PeerError and Conflict."""
        if handle.udid in self._running:
            raise Conflict(f"Expected a Mac that does not enroll, found that {handle.udid} enrolls now.")
        await self._run(handle.udid, handle.client.resume_enrollment(), seconds)

    async def _run(self, udid: str, work: Coroutine[Any, Any, None], seconds: float) -> None:
        self._running[udid] = running = Deferred.fromCoroutine(work)
        try:
            await within(running, seconds, self._reactor, self._stalls)
        except OutOfTime:
            raise EnrollmentTimedOut(f"the Mac did not enroll within {seconds:g} s") from None
        except CancelledError:
            raise CutShort("the Mac was reset or removed before it was enrolled") from None
        finally:
            del self._running[udid]
