"""Declarative management on one channel of a Mac: when it updates its declarations, and when it reports its status."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from agent.device.ddm.synchronising import (
    DeclarationsMalformed,
    forget_failures,
    is_changed,
    recheck,
    refresh,
    synchronise,
)
from agent.device.mac import Device
from agent.errors import PeerError
from agent.mdm.refusals import ServerRefused, is_temporary
from agent.net.mac.fleet.environment import Environment
from agent.net.mac.power.timer import LOMPresence
from agent.net.mac.sessions.background import BackgroundTasks
from agent.profiles.enrollment import Enrollment

_RETRY_SECONDS = 15 * 60.0  # after which a report that the server did not accept is sent again; our choice


class UpkeptMac(Protocol):
    """What upkeep and declarative management need of their Mac."""

    @property
    def online(self) -> bool:
        """Whether it can connect to its server, as far as its network goes."""

    def upkeep_changed(self) -> None:
        """Call ``Upkeep.carry_on``: what is due has changed."""

    def set_upkeep_alarm(self, deadline: float | None) -> None:
        """Call ``Upkeep.due`` at this time on the clock, also if the Mac is idle by then; None: not at all."""


class DeclarativeManagement:
    """The declarations of ``device``, a Mac on one of its channels; ``background`` is that of the channel."""

    __slots__ = ("_background", "_device", "_environment", "_full", "_lom", "_mac", "_refreshing", "_retry_at")

    def __init__(
        self, device: Device, environment: Environment, background: BackgroundTasks, lom: LOMPresence, mac: UpkeptMac
    ) -> None:
        self._device = device
        self._environment = environment
        self._background = background
        self._lom = lom
        self._mac = mac
        self._refreshing = False  # a task for it runs or waits, unless the background tasks were abandoned
        self._full = False  # the same for a full report
        self._retry_at: float | None = None

    @property
    def deadlines(self) -> tuple[float | None, ...]:
        """When ``due`` is to be called, in seconds since the epoch."""
        return self._device.declared.full_report_at, self._retry_at

    def synchronise(self, tokens: bytes) -> None:
        """Update the declarations. ``tokens`` is Data of the command, or empty."""
        self._device.synchronising = tokens
        self._refreshing = True
        self._background.start(partial(self._refresh, tokens, full=False))

    def updated(self) -> None:
        """The Mac has another release of macOS: judge the declarations anew."""
        recheck(self._device)

    def back(self) -> None:
        """The Mac can connect to its server again: it does not wait with what failed meanwhile."""
        self._retry_at, self._full = None, False
        forget_failures(self._device)
        self.reconsider()

    def reconsider(self) -> None:
        """Something may have changed: continue with an update of the declarations, or report what changed."""
        device = self._device
        if not device.declared.in_use and device.synchronising is None:
            return
        may_report = device.running and self._mac.online and self._retry_at is None
        if may_report and (device.synchronising is not None or is_changed(device)):
            self._start(full=False)

    def due(self, now: float) -> None:
        """Do what is due by ``now``, on a Mac that is online."""
        declared = self._device.declared
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
        if declared.full_report_at is not None and now >= declared.full_report_at:
            declared.full_report_at = now + _RETRY_SECONDS  # unless it is sent
            self._start(full=True)
        self.reconsider()

    def _start(self, *, full: bool) -> None:
        """Report, unless a task does that already; instead of it, continue with an update of the declarations."""
        if (self._full if full else self._refreshing) and not self._background.quiet:
            return
        self._refreshing, self._full = True, full or self._full
        self._background.start(partial(self._refresh, self._device.synchronising, full=full))

    async def _refresh(self, tokens: bytes | None, *, full: bool) -> None:
        device, now, enrollment = self._device, self._environment.wall_clock, self._device.enrollment
        device.synchronising = tokens
        try:
            if enrollment is not None:
                steps = refresh(device, now, full=full) if tokens is None else synchronise(device, tokens, now)
                await self._background.drive(steps)
            device.synchronising = None
        except PeerError as error:
            again = tokens is not None and _is_temporary(error) and _is_same(enrollment, device.enrollment)
            device.synchronising = b"" if again else None  # these tokens may be old by then
            self._retry_at = now() + _RETRY_SECONDS
            raise
        finally:
            self._refreshing, self._full = False, self._full and not full
            self._lom.update()  # a declared profile may have a LOM payload
            self._environment.changed(device.mac.index)
            self._mac.upkeep_changed()


def _is_temporary(error: PeerError) -> bool:
    """Whether an update of the declarations may succeed later."""
    if isinstance(error, ServerRefused):
        return is_temporary(error.status)
    return not isinstance(error, DeclarationsMalformed)


def _is_same(before: Enrollment | None, now: Enrollment | None) -> bool:
    """Whether it is the same enrollment, possibly renewed."""
    return before is not None and now is not None and before.topic == now.topic
